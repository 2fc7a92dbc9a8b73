//! TAPs by epoll and plain `read`/`write`: works wherever a TAP works.
//!
//! Edge-triggered: a port that was reported stays in the ready ring until a read says EAGAIN. Ports have turns of
//! `TURN` cost units. Between turns of those that were ready before, epoll is asked who is new, and the new ones go
//! first, one turn each: whoever sends little waits for one turn of one busy port, however many are busy, and not
//! for a queue of theirs.
//!
//! A batch starts small after a sleep and doubles while there is more: a lone packet is on its way after one read, a
//! burst gets full batches. It is bounded in bytes too: super-frames push each other out of the cache before they are
//! written. When it spins before it sleeps is said in `spin.rs`.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::time::Timespec;

use super::fanout::Fanout;
use super::spin::{AROUND, Look, MAILBOX, Spin, WATCHED, nanos, span};
use super::tap::{Scratch, Tap, Wrote};
use super::{BATCH, Batch, Eye, Io, IoStats, Sent, Wait};
use crate::books::{Books, Ticket};
use crate::drop::DropReason;
use crate::flow::{Gso, Meta};
use crate::frame::{FillError, Frame, Pool};
use crate::mailbox::{Command, Event, Mailbox, silence};
use crate::port::PortId;
use crate::tick::Tick;

/// Bytes after which a batch is closed: the next super-frame reuses the buffer that is still in the cache.
const BATCH_BYTES: usize = 32 * 1024;
/// What a port may cost before others have their turn. A read that finds nothing, or a frame of up to [`UNIT`] bytes,
/// costs one. An `epoll_wait` costs about a tenth of a frame, so that asking once a turn is less than 1 %.
const TURN: usize = 16;
/// Writes more than one that cost as much as one frame.
const WRITES: usize = 8;
/// Bytes of a frame that cost as much as its system calls.
const UNIT: usize = 64 * 1024;

struct Served {
    tap: Tap,
    /// Is in the ready ring.
    ready: bool,
    /// Its frames are ours to read.
    reads: bool,
}

/// An engine of TAPs on one epoll instance.
pub struct EpollIo {
    epoll: OwnedFd,
    mailbox: Arc<Mailbox>,
    taps: Box<[Option<Served>]>,
    ready: VecDeque<PortId>,
    /// Frames that the next batch may hold.
    limit: usize,
    /// What the port at the front has cost in its turn.
    spent: usize,
    /// Turns until epoll is asked who else is ready.
    turns: usize,
    scratch: Scratch,
    spin: Spin,
    fanout: Fanout,
    /// What epoll said last.
    heard: Vec<Heard>,
    stats: IoStats,
    /// Ports that were let go since the last batch.
    let_go: Vec<PortId>,
    /// Ports that are not read any more since the last batch.
    rested: Vec<PortId>,
    /// Descriptors that were readable, by [`Eye`].
    watched: [bool; Eye::COUNT],
    stopped: bool,
}

impl EpollIo {
    /// An engine for ports `0..ports`, told by `mailbox` which TAPs to serve.
    ///
    /// # Errors
    /// When the kernel has no descriptors left.
    ///
    /// # Syscalls
    /// `epoll_create1`, `epoll_ctl`; later `epoll_wait`, `read`, `write`
    pub fn new(ports: usize, mailbox: Arc<Mailbox>) -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            mailbox.command_wake(),
            epoll::EventData::new_u64(MAILBOX),
            epoll::EventFlags::IN,
        )?;
        Ok(Self {
            epoll,
            mailbox,
            taps: (0..ports).map(|_| None).collect(),
            ready: VecDeque::with_capacity(ports),
            limit: 1,
            spent: 0,
            turns: 0,
            scratch: Scratch::default(),
            spin: Spin::default(),
            fanout: Fanout::default(),
            heard: Vec::with_capacity(BATCH),
            stats: IoStats::default(),
            let_go: Vec::new(),
            rested: Vec::new(),
            watched: [false; Eye::COUNT],
            stopped: false,
        })
    }

    /// One of so many workers on this machine: it spins only where more cores than these are there.
    pub fn share_cores(&mut self, workers: usize) {
        self.spin = Spin::beside(workers);
    }

    fn served(&mut self, port: PortId) -> Option<&mut Served> {
        self.taps.get_mut(port.index())?.as_mut()
    }

    /// Asks epoll which ports became ready; sleeps if told so.
    fn poll(&mut self, wait: Wait) -> io::Result<()> {
        match wait {
            Wait::Poll => self.look(Some(Duration::ZERO))?,
            Wait::Sleep => self.wait(None)?,
            Wait::Until(deadline) => self.wait(Some(deadline))?,
        }
        self.hear();
        Ok(())
    }

    /// Nothing is to be done: waits for what comes, at first by looking again where that is worth it.
    fn wait(&mut self, deadline: Option<Tick>) -> io::Result<()> {
        let mut next = self.spin.begin(nanos());
        loop {
            let sleeps = next == Look::Sleep;
            self.look(if sleeps { deadline.map(span) } else { Some(Duration::ZERO) })?;
            let now = nanos();
            match self.heard.first() {
                Some(first) => {
                    self.spin.heard(first.token, now, &mut self.stats, sleeps);
                    return Ok(());
                }
                None if sleeps => return Ok(()),
                None => next = self.spin.missed(now),
            }
        }
    }

    /// What epoll has, after at most `timeout`.
    fn look(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut space = [const { MaybeUninit::uninit() }; BATCH];
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        self.heard.clear();
        match epoll::wait(&self.epoll, &mut space, timeout.as_ref()) {
            Ok((events, _)) => self.heard.extend(events.iter().map(Heard::new)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn hear(&mut self) {
        let before = self.ready.len();
        let mut commands = false;
        let heard = std::mem::take(&mut self.heard);
        for &Heard { token, gone } in &heard {
            match token {
                MAILBOX => commands = true,
                WATCHED => self.watched[Eye::Policy as usize] = true,
                AROUND => self.watched[Eye::Around as usize] = true,
                // A TAP reports this only when it does not exist any more, and a read at that very moment may still say
                // EAGAIN; edge-triggered, it would never be heard of again.
                token if gone => self.gone(PortId(token as u16)),
                token => self.mark_ready(PortId(token as u16)),
            }
        }
        self.heard = heard;
        // The new ones first, in their order; after them one of those that were here.
        let new = self.ready.len().saturating_sub(before);
        self.ready.rotate_right(new);
        self.turns = new + 1;
        if commands {
            silence(self.mailbox.command_wake());
            self.obey();
        }
    }

    fn mark_ready(&mut self, port: PortId) {
        if let Some(served) = self.served(port)
            && !served.ready
        {
            served.ready = true;
            self.ready.push_back(port);
        }
    }

    #[cold]
    fn obey(&mut self) {
        let mailbox = Arc::clone(&self.mailbox);
        while let Some(command) = mailbox.next_command() {
            match command {
                Command::Attach { port, tap, gso, reads } => self.attach(port, tap, gso, reads),
                Command::Read { port } => self.read_again(port),
                Command::Rest { port } => self.rest(port),
                Command::Detach { port } => {
                    self.forget(port);
                    mailbox.report(Event::Detached(port));
                }
                Command::Stop => self.stopped = true,
            }
        }
    }

    fn attach(&mut self, port: PortId, fd: Arc<OwnedFd>, gso: bool, reads: bool) {
        self.forget(port);
        let Some(place) = self.taps.get_mut(port.index()) else {
            return self.mailbox.report(Event::AttachFailed(port, Errno::RANGE));
        };
        *place = Some(Served { tap: Tap::new(fd, gso), ready: false, reads: false });
        if reads {
            self.read_again(port);
        }
    }

    /// The port's frames are ours from now on.
    fn read_again(&mut self, port: PortId) {
        let Self { epoll, taps, .. } = self;
        let Some(Some(served)) = taps.get_mut(port.index()) else { return };
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let added = epoll::add(epoll, &served.tap.fd, epoll::EventData::new_u64(u64::from(port.0)), flags);
        match added {
            Ok(()) => served.reads = true,
            Err(error) => {
                self.forget(port);
                self.mailbox.report(Event::AttachFailed(port, error));
            }
        }
    }

    /// Another worker is to read the port. What was read of it has gone its way: nothing stays here between batches.
    fn rest(&mut self, port: PortId) {
        if let Some(served) = self.served(port) {
            (served.reads, served.ready) = (false, false);
            self.unwatch(port);
            self.rested.push(port);
        }
    }

    /// The keeper holds another descriptor of the same TAP, so epoll would go on reporting it: it is taken out
    /// explicitly, or a dead TAP would wake us for ever.
    fn unwatch(&mut self, port: PortId) {
        if let Some(Some(served)) = self.taps.get(port.index()) {
            let _ = epoll::delete(&self.epoll, &served.tap.fd);
        }
        if self.ready.front() == Some(&port) {
            self.spent = 0;
        }
        self.ready.retain(|&ready| ready != port);
    }

    /// Lets a port go. Whether it was ours to read.
    fn forget(&mut self, port: PortId) -> bool {
        self.unwatch(port);
        let Some(served) = self.taps.get_mut(port.index()).and_then(Option::take) else { return false };
        self.let_go.push(port);
        served.reads
    }

    /// A TAP does not exist any more. Who reads it says so; who merely writes to it has nothing more to do with it.
    #[cold]
    fn gone(&mut self, port: PortId) {
        if self.forget(port) {
            self.mailbox.report(Event::Gone(port));
        }
    }

    /// Reads one frame of `port` into the batch. `false`: nothing more is there.
    fn read(&mut self, port: PortId, pool: &mut Pool, batch: &mut Batch) -> Read {
        let Some(served) = self.taps.get(port.index()).and_then(Option::as_ref) else { return Read::Empty };
        match pool.fill(port, |buffer| rustix::io::read(&served.tap.fd, buffer)) {
            Ok(frame) => {
                batch.frames.push(frame);
                Read::Frame(frame.len())
            }
            Err(FillError::Io(Errno::AGAIN)) => Read::Empty,
            Err(FillError::Io(Errno::INTR)) => Read::Frame(0),
            // The kernel had a super-frame for us of a kind that the virtio header cannot say; it is consumed.
            Err(FillError::Io(Errno::INVAL)) => lost(batch, port, DropReason::BadOffload),
            Err(FillError::Io(_)) => Read::Dead,
            Err(FillError::NoBuffer) => Read::Full,
            Err(FillError::Truncated) => lost(batch, port, DropReason::OversizedRead),
            Err(FillError::Short) => lost(batch, port, DropReason::TruncatedFrame),
        }
    }

    /// Reads the port at the front until it is empty or its turn is over, which may last for several batches. Returns
    /// `false` when the batch is full.
    fn take_turn(&mut self, port: PortId, pool: &mut Pool, batch: &mut Batch, bytes: &mut usize) -> bool {
        while self.spent < TURN {
            if batch.frames.len() >= self.limit.min(self.fanout.room())
                || !batch.has_room()
                || *bytes >= BATCH_BYTES
            {
                return false;
            }
            match self.read(port, pool, batch) {
                Read::Frame(len) => {
                    *bytes += len;
                    self.spent += 1 + len / UNIT + self.fanout.surplus() / WRITES;
                }
                Read::Full => return false,
                Read::Empty => {
                    self.ready.pop_front();
                    if let Some(served) = self.served(port) {
                        served.ready = false;
                    }
                    self.end_turn();
                    return true;
                }
                Read::Dead => {
                    self.gone(port);
                    self.end_turn();
                    return true;
                }
            }
        }
        self.ready.rotate_left(1);
        self.end_turn();
        true
    }

    fn end_turn(&mut self) {
        self.spent = 0;
        self.turns = self.turns.saturating_sub(1);
    }
}

/// One event of epoll.
#[derive(Clone, Copy)]
struct Heard {
    token: u64,
    gone: bool,
}

impl Heard {
    fn new(event: &epoll::Event) -> Self {
        let flags = event.flags;
        Self { token: event.data.u64(), gone: flags.contains(epoll::EventFlags::ERR) }
    }
}

enum Read {
    Frame(usize),
    Empty,
    Full,
    Dead,
}

fn lost(batch: &mut Batch, port: PortId, reason: DropReason) -> Read {
    batch.lose(port, reason);
    Read::Frame(0)
}

impl Io for EpollIo {
    fn rx(&mut self, pool: &mut Pool, batch: &mut Batch, wait: Wait) -> io::Result<Tick> {
        if self.ready.is_empty() {
            self.poll(wait)?;
            self.limit = 1;
        } else if self.turns == 0 {
            self.poll(Wait::Poll)?;
        }
        batch.watched = std::mem::take(&mut self.watched);
        batch.gone.append(&mut self.let_go);
        batch.rested.append(&mut self.rested);
        let mut bytes = 0;
        while self.turns > 0
            && let Some(&port) = self.ready.front()
        {
            if !self.take_turn(port, pool, batch, &mut bytes) {
                self.limit = (self.limit * 2).min(BATCH);
                break;
            }
        }
        self.fanout.batch(batch.frames.len());
        self.spin.took(!batch.frames.is_empty());
        Ok(Tick::now())
    }

    fn tx(
        &mut self,
        pool: &mut Pool,
        out: PortId,
        frame: &Frame,
        meta: &Meta,
        _: Ticket,
        _: &mut Books,
    ) -> Result<Sent, DropReason> {
        self.fanout.wrote(frame);
        let served = self.taps.get_mut(out.index()).and_then(Option::as_mut).ok_or(DropReason::TxDown)?;
        let (tap, gso) = (&mut served.tap, meta.gso != Gso::None);
        let mut wrote = Wrote::Refused;
        if !gso || tap.gso {
            let answer = rustix::io::write(&tap.fd, pool.wire(frame)).map(drop);
            wrote = tap.wrote(out, gso, answer, &self.mailbox);
        }
        if matches!(wrote, Wrote::Refused) {
            let answer = tap.write_segments(pool.bytes(frame), meta, &mut self.scratch);
            wrote = tap.wrote(out, false, answer, &self.mailbox);
            self.stats.segmented += u64::from(matches!(wrote, Wrote::Taken));
        }
        match wrote {
            Wrote::Taken => {
                self.spin.sent(u64::from(out.0));
                Ok(Sent::Now)
            }
            Wrote::Gone => {
                self.gone(out);
                Err(DropReason::TxDown)
            }
            Wrote::Lost(reason) => Err(reason),
            Wrote::Refused => Err(DropReason::TxError),
        }
    }

    fn flush(&mut self, _: &mut Pool, _: &mut Books) {}

    fn watch(&mut self, eye: Eye, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let token = WATCHED - eye as u64;
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
    }

    fn rested(&mut self, port: PortId, may_leave: bool) {
        if !may_leave {
            self.read_again(port);
        }
        self.mailbox.report(if may_leave { Event::Rests(port) } else { Event::Stays(port) });
    }

    fn stopped(&self) -> bool {
        self.stopped
    }

    fn take_stats(&mut self) -> IoStats {
        std::mem::take(&mut self.stats)
    }
}
