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
    /// The port was let go as told: the worker has no reference to it.
    Detached(PortId),
    /// The port refused super-frames repeatedly; they are segmented here from now on.
    GsoRefused(PortId),
    /// A write found the port's link down: set down in the container.
    LinkDown(PortId),
    /// A write went through again.
    LinkUp(PortId),
    /// The port could not be served: what the kernel said.
    AttachFailed(PortId, Errno),
}

/// The queues between one worker and the control plane.
///
/// # Threads
/// Shared; every method may be called from anywhere and none waits.
pub struct Mailbox {
    commands: ArrayQueue<Command>,
    events: ArrayQueue<Event>,
    command_wake: OwnedFd,
    event_wake: OwnedFd,
}

impl Mailbox {
    /// A mailbox with room for a few commands and events per port.
    ///
    /// # Errors
    /// When the kernel has no descriptors left.
    ///
    /// # Syscalls
    /// `eventfd2`
    pub fn new(ports: usize) -> Result<Self, Errno> {
        let wake = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        Ok(Self {
            commands: ArrayQueue::new(4 * ports.max(64)),
            events: ArrayQueue::new(4 * ports.max(64)),
            command_wake: wake()?,
            event_wake: wake()?,
        })
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
        if self.events.push(event).is_ok() {
            ring(&self.event_wake);
        }
    }

    /// The next event, for the control plane.
    pub fn next_event(&self) -> Option<Event> {
        self.events.pop()
    }

    /// Readable when there may be a command.
    pub fn command_wake(&self) -> BorrowedFd<'_> {
        self.command_wake.as_fd()
    }

    /// Readable when there may be an event.
    pub fn event_wake(&self) -> BorrowedFd<'_> {
        self.event_wake.as_fd()
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
