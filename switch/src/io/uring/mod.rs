//! TAPs by io_uring: multishot reads into slots that are lent to the kernel, writes queued in the same ring.
//!
//! A batch costs two system calls, however many frames it has: one that asks for what was read, one that submits what is
//! to be written. Both kinds are done by this thread, in the call; nothing happens behind its back.
//!
//! **Fairness.** The lent slots (`LENT`) belong to all ports. Who floods takes all of them in one go, which is one batch;
//! then it and whoever finds none is told `ENOBUFS`, and reads have to be begun again. That is done in the order of who
//! got least, no more at a time than there are slots, and a read that begins takes a frame at once, before any that goes
//! on. So a port that sends little waits for one batch of a flooder, however much that one sends, and of several flooders
//! each gets its part. What many ports get is written many times, and batches of it are the shorter (`fanout.rs`).
//!
//! **Order.** Frames of a port are read in order, kept in order and written in the order in which they were queued: a write
//! is done when it is submitted or it is refused, and never done later. Only the segments of a super-frame that turned out to
//! be refused come after frames of the same batch; that happens to the first few of a port that takes none.
//!
//! **Leaving.** A port is let go when its read was cancelled and its writes are over. A number can be given again at once:
//! completions carry a generation. Ports are in `ports.rs`.

mod ports;
mod probe;
mod writes;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use self::ports::{Ports, Served};
use self::writes::{Writes, Writing};
use super::fanout::Fanout;
use super::spin::{Look, MAILBOX, Spin, WATCHED, nanos, span};
use super::tap::{Scratch, Wrote};
use super::{BATCH, Batch, Eye, Io, IoStats, Sent, Wait};
use crate::books::{Books, Settled, Ticket};
use crate::drop::DropReason;
use crate::flow::{Gso, Meta};
use crate::frame::{FillError, Frame, Pool};
use crate::mailbox::{Event, Mailbox, silence};
use crate::parse::parse;
use crate::port::PortId;
use crate::sys::ring::{Done, Full, Owner, Ring};
use crate::tick::Tick;

pub use probe::{Unusable, probe};

/// Requests that may be queued: more of them are submitted in the middle of a batch.
const QUEUE: u32 = 256;
/// Completions that may wait; beyond that the kernel keeps them at a cost.
const DONE: u32 = 1024;
/// Slots that the kernel may fill, of all that the pool has.
const LENT: u16 = 64;
/// Bytes that lent slots may come to, by the mean length of the latest frames; one slot is always lent. Super-frames are read
/// and written one by one: what is read before the last one was written pushes it out of the cache, and with 4 at a time
/// a TCP stream loses a sixth, with 16 a quarter. Small frames have all slots.
const LENT_BYTES: usize = 64 * 1024;
/// Bytes of queued frames that are submitted before the batch goes on: a super-frame at once (1.11 of a TCP stream down the
/// uplink, to two at a time), small ones never.
const SUBMIT_BYTES: usize = 32 * 1024;
/// Slots that it never gets: for frames that are made here.
const KEPT: usize = 32;
/// The longest sleep, while there are ports: see [`Ports::sweep`].
const NAP: Duration = Duration::from_secs(1);
const _: () = assert!(LENT as usize <= BATCH, "what was read fits into one batch");

/// What a poll in the ring is about: the mailbox, or what is watched, by [`Eye`] from 1 on.
const ABOUT_MAILBOX: u32 = 0;
const ABOUT_WATCHED: u32 = 1;

/// What was read and is not in a batch yet.
struct Arrived {
    owner: Owner,
    /// A slot and how many bytes it has, or why there is none.
    what: Result<(u16, usize), DropReason>,
}

/// An engine of TAPs on one ring.
pub struct UringIo {
    ring: Ring,
    mailbox: Arc<Mailbox>,
    /// What is watched, by [`Eye`].
    eyes: [Option<OwnedFd>; Eye::COUNT],
    ports: Ports,
    writes: Writes,
    arrived: VecDeque<Arrived>,
    /// Mean length of the latest frames.
    mean: usize,
    /// Bytes of frames that are queued.
    queued: usize,
    /// Writes that are over and not booked yet.
    settled: Vec<Settled>,
    scratch: Scratch,
    spin: Spin,
    fanout: Fanout,
    /// Who was the first to be heard since it was asked.
    heard: Option<u64>,
    stats: IoStats,
    /// Whether the mailbox and what is watched are polled.
    polled: [bool; 1 + Eye::COUNT],
    /// There may be commands.
    commands: bool,
    /// Descriptors that were readable, by [`Eye`].
    watched: [bool; Eye::COUNT],
    stopping: bool,
    /// The ring does not work any more.
    broken: Option<Errno>,
}

impl UringIo {
    /// An engine for ports `0..ports`, told by `mailbox` which TAPs to serve. The thread that calls `rx` first owns it from
    /// then on.
    ///
    /// # Errors
    /// [`Unusable`]: where and why this kernel refuses.
    ///
    /// # Syscalls
    /// `io_uring_setup`, `io_uring_register`, `mmap`; later `io_uring_enter`, and `poll` once a second.
    pub fn new(ports: usize, mailbox: Arc<Mailbox>) -> Result<Self, Unusable> {
        let ring = Ring::new(QUEUE, DONE, LENT.next_power_of_two()).map_err(Unusable::setup)?;
        Ok(Self {
            ring,
            ports: Ports::new(ports, Arc::clone(&mailbox)),
            mailbox,
            eyes: [const { None }; Eye::COUNT],
            writes: Writes::new(QUEUE as u16),
            arrived: VecDeque::with_capacity(2 * BATCH),
            mean: 0,
            queued: 0,
            settled: Vec::with_capacity(2 * QUEUE as usize),
            scratch: Scratch::default(),
            spin: Spin::default(),
            fanout: Fanout::default(),
            heard: None,
            stats: IoStats::default(),
            polled: [false; 1 + Eye::COUNT],
            commands: false,
            watched: [false; Eye::COUNT],
            stopping: false,
            broken: None,
        })
    }

    /// One of so many workers on this machine: it spins only where more cores than these are there.
    pub fn share_cores(&mut self, workers: usize) {
        self.spin = Spin::beside(workers);
    }

    /// Slots that the kernel has.
    pub fn lent(&self) -> usize {
        usize::from(self.ring.lent())
    }

    /// Lends what may be lent, and begins again what has ended: reads in the order of who got least, polls.
    fn arm(&mut self, pool: &mut Pool) {
        let most = (LENT_BYTES / self.mean.max(1)).clamp(1, usize::from(LENT)).min(self.fanout.room());
        while usize::from(self.ring.lent()) < most && pool.available() > KEPT && pool.lend(&mut self.ring) {}
        if !self.stopping {
            let Self { ring, ports, broken, .. } = self;
            ports.begin_reads(usize::from(ring.lent()), |fd, owner| {
                queue(ring, broken, |ring| ring.read(fd, owner))
            });
        }
        let Self { ring, broken, mailbox, eyes, polled, .. } = self;
        let eyes = eyes.iter().map(|eye| eye.as_ref().map(AsFd::as_fd));
        let polls = std::iter::once(Some(mailbox.command_wake())).chain(eyes);
        for ((polled, fd), about) in polled.iter_mut().zip(polls).zip(ABOUT_MAILBOX..) {
            if let Some(fd) = fd
                && !*polled
            {
                *polled = queue(ring, broken, |ring| ring.poll(fd, about));
            }
        }
    }

    /// Asks the ring what is done; sleeps if told so.
    fn ask(&mut self, pool: &mut Pool, wait: Wait) {
        match wait {
            Wait::Poll => {
                // The kernel leaves word in memory of what it has: without that, asking would be for nothing.
                if self.ring.queued() > 0 || self.ring.has_news() {
                    self.enter(Ring::look);
                }
                self.reap(pool);
            }
            Wait::Sleep => self.sleep(pool, None),
            Wait::Until(deadline) => self.sleep(pool, Some(deadline)),
        }
    }

    /// Nothing is to be done: waits for what comes, at first by looking again where that is worth it. Looking takes no
    /// system call: the kernel leaves word in memory.
    fn sleep(&mut self, pool: &mut Pool, deadline: Option<Tick>) {
        let mut next = self.spin.begin(nanos());
        if next == Look::Again && self.ring.queued() > 0 {
            self.enter(Ring::submit);
        }
        self.heard = None;
        loop {
            let sleeps = next == Look::Sleep;
            if sleeps {
                let limit = deadline.map(span);
                let limit =
                    if self.ports.is_empty() { limit } else { Some(limit.map_or(NAP, |it| it.min(NAP))) };
                self.enter(|ring| ring.wait(limit));
            } else if self.ring.has_news() {
                self.enter(Ring::look);
            } else {
                std::hint::spin_loop();
            }
            self.reap(pool);
            let now = nanos();
            match self.heard {
                Some(token) => return self.spin.heard(token, now, &mut self.stats, sleeps),
                None if sleeps || self.broken.is_some() => return,
                None => next = self.spin.missed(now),
            }
        }
    }

    /// One call into the kernel.
    #[inline]
    fn enter(&mut self, call: impl FnOnce(&mut Ring) -> Result<(), Errno>) {
        keep(call(&mut self.ring), &mut self.broken);
    }

    /// Takes in all that is done.
    fn reap(&mut self, pool: &mut Pool) {
        while let Some(done) = pool.done(&mut self.ring) {
            match done {
                Done::Write { token, written } => self.wrote(pool, token, written.map(drop)),
                Done::Read { owner, filled, more } => self.read(owner, filled, more),
                Done::Poll { token: ABOUT_MAILBOX } => {
                    self.heard.get_or_insert(MAILBOX);
                    (self.polled[0], self.commands) = (false, true);
                }
                Done::Poll { token } => {
                    let eye = token.saturating_sub(ABOUT_WATCHED);
                    self.heard.get_or_insert(WATCHED - u64::from(eye));
                    if let Some(watched) = self.watched.get_mut(eye as usize) {
                        *watched = true;
                    }
                    if let Some(polled) = self.polled.get_mut(token as usize) {
                        *polled = false;
                    }
                }
                Done::Cancel => {}
            }
        }
    }

    fn read(&mut self, owner: Owner, filled: Result<(u16, usize), Errno>, more: bool) {
        self.heard.get_or_insert(u64::from(owner.port));
        let what = match filled {
            Ok(filled) => Some(Ok(filled)),
            // No slot was free, or it was told to end: nothing is lost.
            Err(Errno::NOBUFS | Errno::CANCELED | Errno::INTR | Errno::AGAIN | Errno::NOMEM) => None,
            // The kernel had a super-frame for us of a kind that the virtio header cannot say; it is consumed.
            Err(Errno::INVAL) => Some(Err(DropReason::BadOffload)),
            Err(_) => {
                self.ports.has_read(owner, more);
                return self.forget_gone(owner);
            }
        };
        if let Some(what) = what {
            self.arrived.push_back(Arrived { owner, what });
        }
        self.ports.has_read(owner, more);
    }

    /// What became of a queued write.
    #[inline]
    fn wrote(&mut self, pool: &mut Pool, token: u32, answer: Result<(), Errno>) {
        let Some(Writing { frame, to, ticket, gso }) = self.writes.take(token) else { return };
        let out = PortId(to.port);
        let outcome = match self.ports.has_written(to) {
            Some(Served { tap, .. }) => match tap.wrote(out, gso, answer, &self.mailbox) {
                Wrote::Taken => Ok(()),
                Wrote::Lost(reason) => Err(reason),
                Wrote::Gone => {
                    self.forget_gone(to);
                    Err(DropReason::TxDown)
                }
                Wrote::Refused => self.segments(pool, &frame, out),
            },
            None => answer.map_err(|_| DropReason::TxDown), // it has left meanwhile
        };
        self.settled.push(Settled { ticket, out, len: frame.len(), outcome });
        pool.release(&frame);
    }

    #[cold]
    fn forget_gone(&mut self, owner: Owner) {
        let Self { ring, ports, broken, .. } = self;
        ports.gone(owner, |owner| queue(ring, broken, |ring| ring.cancel(owner)));
    }

    /// A super-frame was refused: it goes as segments. What is needed to make them is parsed once more.
    #[cold]
    fn segments(&mut self, pool: &Pool, frame: &Frame, out: PortId) -> Result<(), DropReason> {
        let served = self.ports.get_mut(out).ok_or(DropReason::TxDown)?;
        let packet = parse(pool.bytes(frame), &pool.vnet(frame), frame.port, 0)?;
        let answer = served.tap.write_segments(pool.bytes(frame), &packet.meta, &mut self.scratch);
        let owner = served.owner;
        match served.tap.wrote(out, false, answer, &self.mailbox) {
            Wrote::Taken => {
                self.stats.segmented += 1;
                Ok(())
            }
            Wrote::Gone => {
                self.forget_gone(owner);
                Err(DropReason::TxDown)
            }
            Wrote::Lost(reason) => Err(reason),
            Wrote::Refused => Err(DropReason::TxError),
        }
    }

    #[cold]
    fn obey(&mut self) {
        silence(self.mailbox.command_wake());
        let Self { ring, ports, broken, .. } = self;
        self.stopping |= ports.obey(|owner| queue(ring, broken, |ring| ring.cancel(owner)));
    }

    /// Submits what is queued, in the middle of a batch or at its end, and books what is over.
    fn submit(&mut self, pool: &mut Pool, books: &mut Books) {
        self.queued = 0;
        if self.ring.queued() > 0 {
            self.enter(Ring::submit);
            self.reap(pool);
            self.await_failures(pool);
        }
        for settled in self.settled.drain(..) {
            books.settle(settled);
        }
    }

    /// A write that went well is over when it was submitted. One that failed says so among what the kernel has put off,
    /// some of which it does when it is asked.
    #[inline]
    fn await_failures(&mut self, pool: &mut Pool) {
        let mut left = self.writes.len();
        while left > 0 {
            self.enter(Ring::look);
            self.reap(pool);
            if self.writes.len() == left {
                break; // it waits for something else; no TAP does that
            }
            left = self.writes.len();
        }
    }

    /// Puts what arrived into the batch.
    fn unpack(&mut self, pool: &mut Pool, batch: &mut Batch) {
        while batch.has_room()
            && let Some(Arrived { owner, what }) = self.arrived.pop_front()
        {
            let port = PortId(owner.port);
            let known = self.ports.has_taken(owner);
            let lost = match what {
                Err(reason) => reason,
                Ok((slot, _)) if !known => {
                    pool.give_back(slot);
                    DropReason::PortGone
                }
                Ok((slot, bytes)) => match pool.lent::<()>(port, slot, bytes) {
                    Ok(frame) => {
                        batch.frames.push(frame);
                        self.mean = (7 * self.mean + frame.len()) / 8;
                        continue;
                    }
                    Err(FillError::Truncated) => DropReason::OversizedRead,
                    Err(_) => DropReason::TruncatedFrame,
                },
            };
            batch.lose(port, lost);
        }
    }
}

/// Queues a request, after submitting what is in its way.
fn queue(
    ring: &mut Ring,
    broken: &mut Option<Errno>,
    mut push: impl FnMut(&mut Ring) -> Result<(), Full>,
) -> bool {
    push(ring).is_ok() || {
        keep(ring.submit(), broken);
        push(ring).is_ok()
    }
}

/// Interrupted, or short of memory for the moment, or too many completions wait: what is queued stays so. Anything else
/// ends the engine.
fn keep(answer: Result<(), Errno>, broken: &mut Option<Errno>) {
    match answer {
        Ok(()) | Err(Errno::INTR | Errno::AGAIN | Errno::BUSY) => {}
        Err(errno) => *broken = Some(errno),
    }
}

impl Io for UringIo {
    fn rx(&mut self, pool: &mut Pool, batch: &mut Batch, wait: Wait) -> io::Result<Tick> {
        if !self.ring.has_begun() {
            pool.begin(&mut self.ring)?;
        }
        self.ports.next_batch();
        self.arm(pool);
        if self.arrived.is_empty() {
            // Who waits for its read to begin may have something.
            let waiting = self.ports.has_idle() && self.ring.lent() > 0 && !self.stopping;
            self.ask(pool, if waiting { Wait::Poll } else { wait });
        }
        if let Some(errno) = self.broken {
            return Err(errno.into());
        }
        if std::mem::take(&mut self.commands) {
            self.obey();
        }
        batch.watched = std::mem::take(&mut self.watched);
        self.ports.let_go(&mut batch.gone);
        let Self { ports, arrived, .. } = self;
        ports.rested(&mut batch.rested, |owner| arrived.iter().any(|it| it.owner == owner));
        self.unpack(pool, batch);
        self.fanout.batch(batch.frames.len());
        self.spin.took(!batch.frames.is_empty());
        let now = Tick::now();
        if let Some(owner) = self.ports.sweep(now) {
            self.forget_gone(owner);
        }
        Ok(now)
    }

    fn tx(
        &mut self,
        pool: &mut Pool,
        out: PortId,
        frame: &Frame,
        meta: &Meta,
        ticket: Ticket,
        books: &mut Books,
    ) -> Result<Sent, DropReason> {
        self.fanout.wrote(frame);
        let gso = meta.gso != Gso::None;
        let served = self.ports.get_mut(out).ok_or(DropReason::TxDown)?;
        if gso && !served.tap.gso {
            if served.writing > 0 {
                self.submit(pool, books); // what came before goes before
            }
            return self.segments(pool, frame, out).map(|()| Sent::Now);
        }
        if self.writes.is_full() {
            self.submit(pool, books);
        }
        let served = self.ports.get_mut(out).ok_or(DropReason::TxDown)?;
        let writing = Writing { frame: *frame, to: served.owner, ticket, gso };
        let token = self.writes.put(writing).ok_or(DropReason::TxFull)?;
        let Self { ring, broken, .. } = self;
        if !queue(ring, broken, |ring| pool.write(ring, served.tap.fd.as_fd(), frame, token)) {
            self.writes.take(token);
            return Err(DropReason::TxFull);
        }
        served.writing += 1;
        pool.retain(frame);
        self.spin.sent(u64::from(out.0));
        self.queued += frame.len();
        if self.queued >= SUBMIT_BYTES {
            self.submit(pool, books);
        }
        Ok(Sent::Queued)
    }

    fn flush(&mut self, pool: &mut Pool, books: &mut Books) {
        self.submit(pool, books);
    }

    fn watch(&mut self, eye: Eye, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
        if let Some(place) = self.eyes.get_mut(eye as usize) {
            *place = Some(fd);
        }
        Ok(())
    }

    fn rested(&mut self, port: PortId, may_leave: bool) {
        if !may_leave {
            self.ports.read_again(port);
        }
        self.mailbox.report(if may_leave { Event::Rests(port) } else { Event::Stays(port) });
    }

    fn stopped(&self) -> bool {
        self.stopping && self.arrived.is_empty() && self.writes.len() == 0 && !self.ports.are_busy()
    }

    fn take_stats(&mut self) -> IoStats {
        std::mem::take(&mut self.stats)
    }
}
