//! How the control plane talks to a worker: two bounded queues and two eventfds. Never on a packet's way.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::port::PortId;

/// What a worker is told.
#[derive(Debug)]
pub enum Command {
    /// Serve this TAP as `port`.
    Attach {
        /// The port.
        port: PortId,
        /// The TAP, non-blocking. It may be held elsewhere too: it is gone when nobody holds it any more.
        tap: Arc<OwnedFd>,
        /// Whether it takes super-frames.
        gso: bool,
        /// Whether its frames are this worker's to read; every worker may write to it.
        reads: bool,
    },
    /// Read the port's frames from now on; it is attached, and nobody else reads it.
    Read {
        /// The port.
        port: PortId,
    },
    /// Do not read the port's frames any more, another worker will; answered by [`Event::Rests`] or [`Event::Stays`].
    Rest {
        /// The port.
        port: PortId,
    },
    /// Let the port go; answered by [`Event::Detached`].
    Detach {
        /// The port.
        port: PortId,
    },
    /// End.
    Stop,
}

/// What a worker tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The port's TAP does not exist any more: deleted, or its namespace died.
    Gone(PortId),
    /// The port was let go as told: the worker has no reference to it. Every worker says so.
    Detached(PortId),
    /// The port is not read any more, and nothing of it is left to be done by who did.
    Rests(PortId),
    /// The port goes on being read by who does: he has connections of it.
    Stays(PortId),
    /// The port refused super-frames repeatedly; they are segmented here from now on.
    GsoRefused(PortId),
    /// A write found the port's link down: set down in the container.
    LinkDown(PortId),
    /// A write went through again.
    LinkUp(PortId),
    /// The port could not be served: what the kernel said.
    AttachFailed(PortId, Errno),
}

/// The queues between one worker and the control plane. What workers tell comes by one queue of all.
///
/// # Threads
/// Shared; every method may be called from anywhere and none waits.
pub struct Mailbox {
    commands: ArrayQueue<Command>,
    command_wake: OwnedFd,
    events: Arc<Events>,
}

struct Events {
    queue: ArrayQueue<Event>,
    wake: OwnedFd,
}

impl Mailbox {
    /// A mailbox of the only worker, with room for a few commands and events per port.
    ///
    /// # Errors
    /// When the kernel has no descriptors left.
    ///
    /// # Syscalls
    /// `eventfd2`
    pub fn new(ports: usize) -> Result<Self, Errno> {
        Ok(Self::for_workers(1, ports)?.remove(0))
    }

    /// Mailboxes of so many workers.
    ///
    /// # Errors
    /// When the kernel has no descriptors left.
    ///
    /// # Syscalls
    /// `eventfd2`
    pub fn for_workers(workers: usize, ports: usize) -> Result<Vec<Self>, Errno> {
        let wake = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let room = 4 * ports.max(64);
        let events = Arc::new(Events { queue: ArrayQueue::new(room * workers.max(1)), wake: wake()? });
        let mailbox = || {
            let (commands, events) = (ArrayQueue::new(room), Arc::clone(&events));
            Ok(Self { commands, command_wake: wake()?, events })
        };
        (0..workers.max(1)).map(|_| mailbox()).collect()
    }

    /// Tells the worker.
    ///
    /// # Errors
    /// The command itself, when the queue is full.
    pub fn tell(&self, command: Command) -> Result<(), Command> {
        self.commands.push(command)?;
        ring(&self.command_wake);
        Ok(())
    }

    /// Wakes a sleeping worker, so that it looks at what was published for it. Cheap, and not lost: a worker that is
    /// awake looks once more.
    pub fn wake(&self) {
        ring(&self.command_wake);
    }

    /// The next command, for the worker.
    pub fn next_command(&self) -> Option<Command> {
        self.commands.pop()
    }

    /// Reports to the control plane. Each port has room for all it can report between two looks of the control plane.
    pub fn report(&self, event: Event) {
        if self.events.queue.push(event).is_ok() {
            ring(&self.events.wake);
        }
    }

    /// The next event of any worker, for the control plane.
    pub fn next_event(&self) -> Option<Event> {
        self.events.queue.pop()
    }

    /// Readable when there may be a command.
    pub fn command_wake(&self) -> BorrowedFd<'_> {
        self.command_wake.as_fd()
    }

    /// Readable when there may be an event of any worker.
    pub fn event_wake(&self) -> BorrowedFd<'_> {
        self.events.wake.as_fd()
    }
}

pub(crate) fn ring(wake: &OwnedFd) {
    // EAGAIN would mean that the counter is at its maximum: it is readable all the same.
    let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
}

/// Makes an eventfd unreadable again.
pub fn silence(wake: impl AsFd) {
    let _ = rustix::io::read(wake, &mut [0u8; 8]);
}
