//! The ports of a ring: who reads, who writes, who is leaving.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;

use crate::io::tap::Tap;
use crate::mailbox::{Command, Event, Mailbox};
use crate::port::PortId;
use crate::sys::fds;
use crate::sys::ring::Owner;
use crate::tick::Tick;

/// Ports that are looked at in one second.
const SWEEP: usize = 64;

/// A port that is served.
pub struct Served {
    pub tap: Tap,
    pub owner: Owner,
    /// Its frames are ours to read.
    reads: bool,
    /// The kernel has a read of it.
    reading: bool,
    /// Writes to it on their way.
    pub writing: u32,
    /// The batch in which it got frames last, and how many.
    got: (u32, u32),
}

/// A port that is leaving: its read is being cancelled, or writes are on their way.
struct Leaving {
    served: Served,
    /// What is reported when nothing is left; `None`: another has its number already.
    event: Option<Event>,
}

/// All ports.
pub struct Ports {
    mailbox: Arc<Mailbox>,
    taps: Box<[Option<Served>]>,
    leaving: Vec<Leaving>,
    /// Reads that have to be begun.
    idle: Vec<PortId>,
    /// Ports that were let go since the last batch, and what is to be reported of them.
    let_go: Vec<(PortId, Option<Event>)>,
    /// Ports that are not to be read any more, until nothing of them is on its way to a batch.
    resting: Vec<Owner>,
    /// How many are served.
    count: usize,
    generation: u32,
    batch: u32,
    /// When ports were swept last, and which is next.
    swept: (u32, usize),
}

impl Ports {
    pub fn new(ports: usize, mailbox: Arc<Mailbox>) -> Self {
        Self {
            mailbox,
            taps: (0..ports).map(|_| None).collect(),
            leaving: Vec::new(),
            idle: Vec::with_capacity(ports),
            let_go: Vec::new(),
            resting: Vec::new(),
            count: 0,
            generation: 0,
            batch: 0,
            swept: (0, 0),
        }
    }

    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub const fn next_batch(&mut self) {
        self.batch = self.batch.wrapping_add(1);
    }

    #[inline]
    pub fn get_mut(&mut self, port: PortId) -> Option<&mut Served> {
        self.taps.get_mut(port.index())?.as_mut()
    }

    /// Whether the kernel still has something of ours.
    pub fn are_busy(&self) -> bool {
        !self.leaving.is_empty() || self.taps.iter().flatten().any(|served| served.reading)
    }

    /// Whoever has this number and generation.
    #[inline]
    fn find(&mut self, owner: Owner) -> Option<&mut Served> {
        let Self { taps, leaving, .. } = self;
        match taps.get_mut(usize::from(owner.port)) {
            Some(Some(served)) if served.owner == owner => Some(served),
            _ => leaving.iter_mut().map(|it| &mut it.served).find(|served| served.owner == owner),
        }
    }

    fn is_current(&self, owner: Owner) -> bool {
        self.taps.get(usize::from(owner.port)).and_then(Option::as_ref).is_some_and(|it| it.owner == owner)
    }

    /// Whether reads have to be begun.
    pub const fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// Begins reads that have to be, at most so many: more would find no slot. Those who got least in the last batch are
    /// the first. `begin` says whether it could.
    pub fn begin_reads(&mut self, most: usize, mut begin: impl FnMut(BorrowedFd<'_>, Owner) -> bool) {
        let Self { idle, taps, batch, .. } = self;
        let got = |port: &PortId| match taps.get(port.index()) {
            Some(Some(Served { got: (when, frames), .. })) if batch.wrapping_sub(*when) <= 1 => *frames,
            _ => 0,
        };
        let most = most.min(idle.len());
        if most < idle.len() {
            idle.select_nth_unstable_by_key(most, got);
        }
        idle.get_mut(..most).unwrap_or_default().sort_unstable_by_key(got);
        let mut again = Vec::new(); // nothing but where the kernel is out of memory
        for port in idle.drain(..most) {
            if let Some(Some(served)) = taps.get_mut(port.index())
                && !served.reading
                && served.reads
            {
                served.reading = begin(served.tap.fd.as_fd(), served.owner);
                if !served.reading {
                    again.push(port);
                }
            }
        }
        idle.append(&mut again);
    }

    /// A completion of a read came; if it is the last one the read has to be begun again.
    #[inline]
    pub fn has_read(&mut self, owner: Owner, more: bool) {
        if more {
            return;
        }
        if let Some(served) = self.find(owner) {
            served.reading = false;
        }
        if self.is_current(owner) {
            self.idle.push(PortId(owner.port)); // looked at there: it may be another worker's by now
        } else {
            self.settle();
        }
    }

    /// A frame of it goes into the batch. False: it has left.
    #[inline]
    pub fn has_taken(&mut self, owner: Owner) -> bool {
        let batch = self.batch;
        match self.taps.get_mut(usize::from(owner.port)) {
            Some(Some(served)) if served.owner == owner => {
                served.got = (batch, if served.got.0 == batch { served.got.1 + 1 } else { 1 });
                true
            }
            _ => false,
        }
    }

    /// A write to it is over; whom it was written to, if that has not left.
    #[inline]
    pub fn has_written(&mut self, to: Owner) -> Option<&mut Served> {
        let current = self.is_current(to);
        let served = if current { self.get_mut(PortId(to.port)) } else { self.find(to) }?;
        served.writing = served.writing.saturating_sub(1);
        if current {
            return self.get_mut(PortId(to.port));
        }
        self.settle();
        None
    }

    /// Does what the mailbox says; `cancel` ends a read. Whether it said to end.
    pub fn obey(&mut self, mut cancel: impl FnMut(Owner) -> bool) -> bool {
        let mut stop = false;
        let mailbox = Arc::clone(&self.mailbox);
        while let Some(command) = mailbox.next_command() {
            match command {
                Command::Attach { port, tap, gso, reads } => self.attach(port, tap, gso, reads, &mut cancel),
                Command::Read { port } => self.read_again(port),
                Command::Rest { port } => self.rest(port, &mut cancel),
                Command::Detach { port } => {
                    if !self.forget(port, Some(Event::Detached(port)), &mut cancel) {
                        mailbox.report(Event::Detached(port));
                    }
                }
                Command::Stop => {
                    stop = true;
                    for served in self.taps.iter().flatten().filter(|served| served.reading) {
                        cancel(served.owner);
                    }
                }
            }
        }
        stop
    }

    fn attach(
        &mut self,
        port: PortId,
        fd: Arc<OwnedFd>,
        gso: bool,
        reads: bool,
        cancel: impl FnMut(Owner) -> bool,
    ) {
        if self.forget(port, None, cancel) {
            self.let_go.push((port, None)); // its number has an owner again: nothing may be forgotten later
        }
        self.generation = self.generation.wrapping_add(1);
        let owner = Owner { port: port.0, generation: self.generation };
        match self.taps.get_mut(port.index()) {
            Some(place) => {
                let tap = Tap::new(fd, gso);
                *place = Some(Served { tap, owner, reads: false, reading: false, writing: 0, got: (0, 0) });
                self.count += 1;
                if reads {
                    self.read_again(port);
                }
            }
            None => self.mailbox.report(Event::AttachFailed(port, Errno::RANGE)),
        }
    }

    /// The port's frames are ours from now on.
    pub fn read_again(&mut self, port: PortId) {
        if let Some(served) = self.get_mut(port)
            && !std::mem::replace(&mut served.reads, true)
            && !served.reading
        {
            self.idle.push(port);
        }
    }

    /// Another worker is to read the port, once nothing of it is left here.
    fn rest(&mut self, port: PortId, mut cancel: impl FnMut(Owner) -> bool) {
        let Some(served) = self.get_mut(port) else { return };
        let (owner, reading) = (served.owner, served.reading);
        if std::mem::replace(&mut served.reads, false) {
            if reading {
                cancel(owner);
            }
            self.idle.retain(|&idle| idle != port);
            self.resting.push(owner);
        }
    }

    /// Says in a batch which ports are not read any more; of those for which `arrived` holds something is under way still.
    #[inline]
    pub fn rested(&mut self, rested: &mut Vec<PortId>, arrived: impl Fn(Owner) -> bool) {
        if self.resting.is_empty() {
            return;
        }
        let Self { resting, taps, .. } = self;
        resting.retain(|owner| match taps.get(usize::from(owner.port)) {
            Some(Some(served)) if served.owner == *owner => {
                let waits = served.reading || arrived(*owner);
                if !waits {
                    rested.push(PortId(owner.port));
                }
                waits
            }
            _ => false, // it has left
        });
    }

    /// Lets a port go, if it is there: when its read is cancelled and its writes are over, `event` is reported.
    fn forget(&mut self, port: PortId, event: Option<Event>, mut cancel: impl FnMut(Owner) -> bool) -> bool {
        let Some(served) = self.taps.get_mut(port.index()).and_then(Option::take) else { return false };
        self.count -= 1;
        self.idle.retain(|&idle| idle != port);
        if served.reading {
            cancel(served.owner);
        }
        self.leaving.push(Leaving { served, event });
        self.settle();
        true
    }

    /// A TAP does not exist any more. Who reads it says so; who merely writes to it has nothing more to do with it.
    pub fn gone(&mut self, owner: Owner, cancel: impl FnMut(Owner) -> bool) {
        let port = PortId(owner.port);
        if self.is_current(owner) {
            let event = self.get_mut(port).filter(|served| served.reads).map(|_| Event::Gone(port));
            self.forget(port, event, cancel);
            if event.is_none() {
                self.let_go.push((port, None));
            }
        }
    }

    /// Lets go of those that are leaving and of which nothing is left.
    fn settle(&mut self) {
        let Self { leaving, let_go, .. } = self;
        leaving.retain(|Leaving { served, event }| {
            let stays = served.reading || served.writing > 0;
            if !stays && event.is_some() {
                let_go.push((PortId(served.owner.port), *event));
            }
            stays
        });
    }

    /// Reports who was let go, and says so in a batch.
    pub fn let_go(&mut self, gone: &mut Vec<PortId>) {
        for (port, event) in self.let_go.drain(..) {
            gone.push(port);
            if let Some(event) = event {
                self.mailbox.report(event);
            }
        }
    }

    /// Looks once a second whether TAPs are still there, some at a time; one that is not. A TAP that dies wakes its reader
    /// a moment before it answers that it is dead, and a read in that moment would wait for ever.
    #[inline]
    pub fn sweep(&mut self, now: Tick) -> Option<Owner> {
        if now.secs() == self.swept.0 || self.count == 0 { None } else { self.look(now) }
    }

    #[cold]
    fn look(&mut self, now: Tick) -> Option<Owner> {
        let (_, first) = self.swept;
        let (before, after) = self.taps.split_at(first.min(self.taps.len()));
        let (mut next, mut dead) = (0, None);
        for served in after.iter().chain(before).flatten().take(SWEEP) {
            next = usize::from(served.owner.port) + 1;
            if matches!(fds::is_alive(&served.tap.fd), Ok(false)) {
                dead = Some(served.owner);
                break;
            }
        }
        self.swept = (now.secs(), next);
        dead
    }
}
