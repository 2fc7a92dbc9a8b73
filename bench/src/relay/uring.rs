//! The same by io_uring: multishot reads into lent slots, writes out of them in the same ring, and the worker's own rule
//! of when to look again before sleeping.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use switch::io::IoStats;
use switch::io::spin::{Look, Spin, nanos};
use switch::sys::ring::{Done, Owner, Ring};
use switch::sys::slab::Slab;

use crate::error::{Error, Result};

/// Slots, all of them lent until they are filled.
const SLOTS: u16 = 64;
/// Bytes of one: the longest frame, and so many lines of the cache that neighbours do not fall into the same set.
const STRIDE: usize = 1029 * 64;
/// Where what is read begins, so that the payload of TCP begins with a cache line.
const FROM: usize = 96;

fn failed(what: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Io { what: what.into(), source: errno.into() }
}

pub(super) fn relay(taps: &[OwnedFd; 2]) -> Result<()> {
    let mut relay = Relay::new(taps)?;
    let mut spin = Spin::default();
    loop {
        relay.arm()?;
        relay.ring.submit().or_else(passing).map_err(failed("submit to io_uring"))?;
        let mut look = spin.begin(nanos());
        loop {
            let sleeps = look == Look::Sleep;
            match (sleeps, relay.ring.has_news()) {
                (true, _) => relay.ring.wait(None).or_else(passing),
                (false, true) => relay.ring.look().or_else(passing),
                (false, false) => Ok(()),
            }
            .map_err(failed("wait for io_uring"))?;
            if relay.reap(&mut spin, sleeps)? || sleeps {
                break;
            }
            look = spin.missed(nanos());
        }
    }
}

fn passing(errno: Errno) -> std::result::Result<(), Errno> {
    if matches!(errno, Errno::INTR | Errno::AGAIN | Errno::BUSY) { Ok(()) } else { Err(errno) }
}

struct Relay<'a> {
    taps: &'a [OwnedFd; 2],
    ring: Ring,
    slab: Slab,
    /// Whether the kernel reads.
    reading: [bool; 2],
}

impl<'a> Relay<'a> {
    fn new(taps: &'a [OwnedFd; 2]) -> Result<Self> {
        let slab = Slab::new(SLOTS, STRIDE).map_err(failed("memory"))?;
        let mut ring = Ring::new(256, 1024, SLOTS).map_err(failed("io_uring"))?;
        ring.begin(&slab).map_err(failed("io_uring"))?;
        let mut relay = Self { taps, ring, slab, reading: [false; 2] };
        for slot in 0..SLOTS {
            relay.ring.lend(&mut relay.slab, slot, FROM);
        }
        Ok(relay)
    }

    /// Begins the reads that have ended.
    fn arm(&mut self) -> Result<()> {
        for ((port, tap), reading) in (0..).zip(self.taps).zip(&mut self.reading) {
            if !*reading {
                let owner = Owner { port, generation: 0 };
                self.ring.read(tap.as_fd(), owner).map_err(|_| failed("queue a read")(Errno::NOBUFS))?;
                *reading = true;
            }
        }
        Ok(())
    }

    /// Writes what was read, lends what was written. Whether a TAP was heard.
    fn reap(&mut self, spin: &mut Spin, slept: bool) -> Result<bool> {
        let mut heard = false;
        while let Some(done) = self.ring.next(&mut self.slab) {
            match done {
                Done::Read { owner, filled, more } => {
                    if let (false, Some(reading)) = (more, self.reading.get_mut(usize::from(owner.port))) {
                        *reading = false;
                    }
                    if !std::mem::replace(&mut heard, true) {
                        spin.heard(u64::from(owner.port), nanos(), &mut IoStats::default(), slept);
                    }
                    match filled {
                        Ok((slot, len)) => self.write(1 - owner.port.min(1), slot, len, spin),
                        Err(Errno::NOBUFS) => {}
                        Err(errno) => return Err(failed("read a TAP")(errno)),
                    }
                }
                Done::Write { token, .. } => {
                    // Refused (EIO while the other end is not up yet): the frame is lost, as on a cable without a
                    // neighbour.
                    self.ring.lend(&mut self.slab, token as u16, FROM);
                }
                Done::Poll { .. } | Done::Cancel => {}
            }
        }
        self.ring.submit().or_else(passing).map_err(failed("submit to io_uring"))?;
        Ok(heard)
    }

    fn write(&mut self, to: u16, slot: u16, len: usize, spin: &mut Spin) {
        let Some(tap) = self.taps.get(usize::from(to)) else { return };
        spin.sent(u64::from(to));
        if self.ring.write(&mut self.slab, tap.as_fd(), slot, (FROM, len), u32::from(slot)).is_err() {
            self.ring.lend(&mut self.slab, slot, FROM);
        }
    }
}
