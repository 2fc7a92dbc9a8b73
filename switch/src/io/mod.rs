//! The device seam: how a worker reaches its devices, in batches.
//!
//! Three engines stand behind it: [`uring`] and [`epoll`] for TAPs, [`mem`] for tests and micro benches. Frames live in
//! the worker's [`Pool`] and are named by value. A write is done when `tx` returns, or it is queued: then the engine keeps
//! the frame by [`Pool::retain`] until it is over, and books its outcome ([`Books::settle`]). `rx` is where completions
//! are reaped, `flush` is where a ring submits. Any worker may write any TAP; each ingress belongs to one worker.

pub mod epoll;
mod fanout;
pub mod mem;
pub mod spin;
mod tap;
pub mod uring;

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::books::{Books, Ticket};
use crate::drop::DropReason;
use crate::flow::Meta;
use crate::frame::{Frame, Pool};
use crate::port::PortId;
use crate::tick::Tick;

/// Most frames of one batch.
pub const BATCH: usize = 64;

/// What `rx` filled: frames, and the names of those that were lost before they became frames.
#[derive(Default)]
pub struct Batch {
    /// In the order they were read; per port that is the order they arrived in.
    pub frames: Vec<Frame>,
    /// What could not be made a frame of.
    pub lost: Vec<Lost>,
    /// Ports that were let go: their numbers may be given to others from now on.
    pub gone: Vec<PortId>,
    /// Ports that are not read any more, as they were told to be: nothing of them is under way. Answered by [`Io::rested`].
    pub rested: Vec<PortId>,
    /// Which of the descriptors that the engine has an eye on are readable, by [`Eye`].
    pub watched: [bool; Eye::COUNT],
}

/// For whom an engine has an eye on a descriptor that is no port's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eye {
    /// For the policy.
    Policy,
    /// For an engine around this one.
    Around,
}

impl Eye {
    /// How many there are.
    pub const COUNT: usize = 2;
}

/// Frames that were lost before they were any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The port they came by.
    pub port: PortId,
    /// Why.
    pub reason: DropReason,
    /// How many.
    pub count: u64,
}

impl Batch {
    /// An empty batch with room for [`BATCH`] frames, so that filling it allocates nothing.
    pub fn new() -> Self {
        Self {
            frames: Vec::with_capacity(BATCH),
            lost: Vec::with_capacity(BATCH + DropReason::COUNT),
            gone: Vec::new(),
            rested: Vec::new(),
            watched: [false; Eye::COUNT],
        }
    }

    /// Books a frame that was lost. Where more were lost of more ports than there is room for, nobody's.
    pub fn lose(&mut self, port: PortId, reason: DropReason) {
        let port = if self.lost.len() < BATCH { port } else { PortId::NOBODY };
        let same = |lost: &&mut Lost| (lost.port, lost.reason) == (port, reason);
        let known = if port == PortId::NOBODY {
            self.lost.iter_mut().find(same)
        } else {
            self.lost.last_mut().filter(same)
        };
        match known {
            Some(lost) => lost.count += 1,
            None => self.lost.push(Lost { port, reason, count: 1 }),
        }
    }

    /// Whether another frame fits.
    pub fn has_room(&self) -> bool {
        self.frames.len() < BATCH && self.lost.len() < BATCH
    }
}

/// Whether `rx` may sleep when nothing is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Come back at once.
    Poll,
    /// Sleep until a frame or a command is there.
    Sleep,
    /// The same, but not beyond this moment.
    Until(Tick),
}

/// What an engine counts, for the worker to add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Sleeps that ended.
    pub wakeups: u64,
    /// Sleeps that were saved by looking again for a moment.
    pub spins: u64,
    /// Super-frames that a port refused and that were written as segments.
    pub segmented: u64,
}

/// How a frame was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is written.
    Now,
    /// It is queued; [`Books::settle`] is told what became of it, with its ticket, in the end.
    Queued,
}

/// One worker's devices.
pub trait Io {
    /// Fills an empty batch with what devices have, sleeping first if told so, and reads the clock once.
    ///
    /// # Errors
    /// Only when the engine itself is broken; the failure of one device is an event, never an error here.
    fn rx(&mut self, pool: &mut Pool, batch: &mut Batch, wait: Wait) -> io::Result<Tick>;

    /// Writes or queues a frame to `out`. From this call on the frame's bytes must not change.
    ///
    /// # Errors
    /// Why the port did not take it.
    fn tx(
        &mut self,
        pool: &mut Pool,
        out: PortId,
        frame: &Frame,
        meta: &Meta,
        ticket: Ticket,
        books: &mut Books,
    ) -> Result<Sent, DropReason>;

    /// The batch is done, or needs room: submits what was queued and books what became of it.
    fn flush(&mut self, pool: &mut Pool, books: &mut Books);

    /// Has an eye on one more descriptor, level-triggered, and tells by [`Batch::watched`].
    ///
    /// # Errors
    /// When the kernel has no descriptors left, or refuses.
    ///
    /// # Syscalls
    /// `epoll_ctl`, or `fcntl` `F_DUPFD_CLOEXEC` and a poll in the ring
    fn watch(&mut self, eye: Eye, fd: BorrowedFd<'_>) -> Result<(), Errno>;

    /// A port that was said to rest does, or must be read on: the policy has something that only this worker can go on
    /// with.
    fn rested(&mut self, _port: PortId, _may_leave: bool) {}

    /// Whether it was told to end and has nothing left.
    fn stopped(&self) -> bool {
        false
    }

    /// What the engine itself did since the last call.
    fn take_stats(&mut self) -> IoStats;
}
