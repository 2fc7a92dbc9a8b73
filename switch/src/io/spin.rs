//! Whether to look again for a moment instead of going to sleep.
//!
//! Waking a thread costs more than a packet's whole way: about 5 us, and 20 to 50 where the idle core of a virtual
//! machine must be fetched back. Whoever waits for an answer pays that on every leg. So a worker that has nothing to do
//! looks again for `SPIN`, but only where that is likely to be worth it:
//!
//! - **Only while traffic is ping-pong**: what was heard came from whoever was sent to last, within `SOON`, or by the
//!   policy's descriptor after frames that it may have sent on that way. That earns one point, anything else costs two,
//!   and from `ENOUGH` points on there is a spin before a sleep. A stream one way earns no point, however fast it is and
//!   whichever way it leaves: it can wait in its queue, and the core is somebody else's. (While one that leaves by sockets
//!   or a tunnel did, connects by the uplink were 1.1, and 20,000 datagrams a second took a whole core.)
//! - **Bounded**: a spin that finds nothing halves the points, so that the end of a conversation costs four spins, 400
//!   us in all. One that somebody interrupted, who needs the core, finds nothing by that time, and counts as such.
//! - **Never when idle**: without answers there are no points. One ping a second answers once within `SOON` and once
//!   not: it loses more than it earns.
//! - **Off when cores are short**: with one core for each worker there is never any.
//!
//! Measured with two cores, where it could do harm, to the same worker without it: round trip p50 0.62 between containers,
//! 0.58 by the uplink; connects 1.4 by the uplink and 0.93 between containers; TCP streams the same. Giving the core away
//! between two looks (`sched_yield`) was tried, and loses all of that. So does it to stop for a while (20 ms) after a spin
//! that was interrupted: whoever needs the core takes it anyway, and without that rule connects were 1.1 to 1.3, p99 of
//! round trips half, between two daemons on one machine p50 a third; with 100 us instead of 50 connects through a tunnel or
//! to published l4 ports were 1.1 again, and nothing else changed.
//!
//! The clock is read twice for a sleep and once for each look of a spin, never for a packet.

use std::time::Duration;

use super::{Eye, IoStats};
use crate::tick::Tick;

/// Token of the mailbox's eventfd; ports are their index.
pub const MAILBOX: u64 = u64::MAX;
/// Token of the descriptor that the policy has an eye on.
pub const WATCHED: u64 = u64::MAX - 1;
/// Token of the one of an engine around this one: tokens of descriptors that are watched go downwards from there, by
/// [`super::Eye`].
pub const AROUND: u64 = WATCHED - Eye::Around as u64;

/// Nanoseconds of one spin.
pub const SPIN: u64 = 100_000;
/// An answer that comes later than this, in nanoseconds, a spin would not have caught; what sleeping itself added is in it.
const SOON: u64 = 2 * SPIN;
/// Points from which on a spin is tried.
const ENOUGH: u8 = 4;
/// Points that can be had: after so many answers the first one that is missing is forgiven.
const MOST: u8 = 32;

/// What a spin has come to at one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Look again.
    Again,
    /// Go to sleep.
    Sleep,
}

/// The points of one worker. Time is an argument: nanoseconds of a monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Spin {
    /// There are cores to spare.
    allowed: bool,
    points: u8,
    /// Whose answer is awaited, until it was heard: what leaves by another way than the engine's changes nothing here.
    awaited: Option<u64>,
    /// There were frames which the policy may have sent on; nothing came that way since.
    took: bool,
    /// The last batch had frames.
    frames: bool,
    /// When this spin began.
    began: u64,
}

impl Spin {
    /// For a thread that may run on so many cores.
    pub const fn new(cores: usize) -> Self {
        Self { allowed: cores > 1, points: 0, awaited: None, took: false, frames: false, began: 0 }
    }

    /// A batch was read, with frames or without.
    pub const fn took(&mut self, frames: bool) {
        self.frames = frames;
        self.took |= frames;
    }

    /// Something was sent to `token`: it may answer. Where no frame made it necessary the policy's descriptor did.
    pub const fn sent(&mut self, token: u64) {
        self.awaited = Some(token);
        self.took &= self.frames;
    }

    /// There is nothing to do since `now`. Whether to spin.
    pub const fn begin(&mut self, now: u64) -> Look {
        self.began = now;
        if self.allowed && self.points >= ENOUGH { Look::Again } else { Look::Sleep }
    }

    /// Nothing was there at a look of a spin.
    pub const fn missed(&mut self, now: u64) -> Look {
        if now.saturating_sub(self.began) < SPIN {
            return Look::Again;
        }
        self.points /= 2;
        Look::Sleep
    }

    /// After having had nothing to do, `token` was the first to be heard, at `now`.
    pub fn heard(&mut self, token: u64, now: u64, stats: &mut IoStats, slept: bool) {
        stats.wakeups += u64::from(slept);
        stats.spins += u64::from(!slept);
        let awaited = self.awaited.take_if(|awaited| *awaited == token).is_some()
            || (self.took && matches!(token, WATCHED | AROUND));
        let answers = awaited && now.saturating_sub(self.began) < SOON;
        self.points = if answers { (self.points + 1).min(MOST) } else { self.points.saturating_sub(2) };
    }
}

impl Spin {
    /// For one of so many workers, which share the cores there are.
    pub fn beside(workers: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new(cores / workers.max(1))
    }
}

impl Default for Spin {
    fn default() -> Self {
        Self::beside(1)
    }
}

/// How long until `deadline`; one coarse tick of the clock longer, or it would be waited for twice.
pub fn span(deadline: Tick) -> Duration {
    Duration::from_millis(deadline.millis().saturating_sub(Tick::now().millis()).min(3_600_000) + 4)
}

/// Nanoseconds of the monotonic clock, no system call.
pub fn nanos() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs().saturating_mul(1_000_000_000).saturating_add(now.tv_nsec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 1;
    const B: u64 = 2;
    const POLICY: u64 = WATCHED;

    /// One thing heard `wait` nanoseconds after there was nothing to do, and forwarded to `to`; looks come every
    /// microsecond. Says whether it was found by a spin.
    fn heard(spin: &mut Spin, clock: &mut u64, wait: u64, from: u64, to: u64) -> bool {
        let comes = *clock + wait;
        let mut look = spin.begin(*clock);
        while look == Look::Again && *clock + 1000 < comes {
            *clock += 1000;
            look = spin.missed(*clock);
        }
        let caught = look == Look::Again;
        *clock = comes;
        spin.heard(from, *clock, &mut IoStats::default(), !caught);
        spin.sent(to);
        caught
    }

    fn conversation(spin: &mut Spin, clock: &mut u64, exchanges: u32) -> u32 {
        (0..exchanges)
            .map(|_| {
                let there = heard(spin, clock, 20_000, A, B);
                u32::from(there) + u32::from(heard(spin, clock, 20_000, B, A))
            })
            .sum()
    }

    #[test]
    fn a_conversation_is_caught_after_a_few_answers() {
        let (mut spin, mut clock) = (Spin::new(2), 0);
        assert!(conversation(&mut spin, &mut clock, 50) >= 100 - 2 * u32::from(ENOUGH));
    }

    #[test]
    fn its_end_costs_few_spins_and_nothing_is_spun_when_idle() {
        let (mut spin, mut clock) = (Spin::new(2), 0);
        conversation(&mut spin, &mut clock, 50);
        let spins = (0..100)
            .filter(|_| {
                let tried = spin.begin(clock) == Look::Again;
                heard(&mut spin, &mut clock, 1_000_000_000, A, B);
                tried
            })
            .count();
        assert!(spins <= 4, "{spins}");
    }

    #[test]
    fn a_stream_one_way_is_never_spun_for() {
        let (mut spin, mut clock) = (Spin::new(2), 0);
        assert!((0..1000).all(|_| !heard(&mut spin, &mut clock, 5_000, A, B)));
    }

    #[test]
    fn nor_for_one_that_leaves_by_another_way() {
        let (mut spin, mut clock) = (Spin::new(2), 0);
        conversation(&mut spin, &mut clock, 50);
        spin.sent(A); // the last that A was told
        let mut caught = 0;
        for _ in 0..1000 {
            let again = spin.begin(clock) == Look::Again;
            clock += 5_000;
            spin.heard(A, clock, &mut IoStats::default(), !again);
            spin.took(true);
            caught += u32::from(again);
        }
        assert!(caught <= u32::from(MOST), "{caught}");
    }

    #[test]
    fn a_slow_ping_is_not_spun_for() {
        let (mut spin, mut clock) = (Spin::new(2), 0);
        for _ in 0..100 {
            assert!(!heard(&mut spin, &mut clock, 1_000_000_000, A, B));
            assert!(!heard(&mut spin, &mut clock, 20_000, B, A));
        }
    }

    #[test]
    fn a_conversation_by_the_policy_is_one() {
        let (mut spin, mut clock) = (Spin::new(2), 0);
        let caught = (0..100).filter(|_| {
            // A frame of the container's, which is acknowledged at once and sent on; the policy's descriptor says first
            // that it can be written to again.
            spin.took(true);
            spin.sent(A);
            spin.took(false);
            let again = spin.begin(clock) == Look::Again;
            spin.heard(POLICY, clock, &mut IoStats::default(), !again);
            let there = heard(&mut spin, &mut clock, 20_000, POLICY, A);
            there & heard(&mut spin, &mut clock, 20_000, A, A)
        });
        assert!(caught.count() >= 100 - usize::from(ENOUGH));
        let stream = (0..100).filter(|_| heard(&mut spin, &mut clock, 20_000, POLICY, A)).count();
        assert!(stream < usize::from(MOST), "a stream by the policy is nobody's answer: {stream}");
    }

    #[test]
    fn a_spin_that_is_interrupted_is_one_that_found_nothing() {
        let (mut spin, mut clock) = (Spin::new(2), 0);
        conversation(&mut spin, &mut clock, 50);
        // Somebody else has the core between two looks, for longer than a spin is.
        let spins = (0..10).take_while(|_| {
            let tried = spin.begin(clock) == Look::Again;
            clock += SPIN + 1;
            tried && spin.missed(clock) == Look::Sleep
        });
        assert_eq!(spins.count(), 4);
        assert!(conversation(&mut spin, &mut clock, 10) > 0);
    }

    #[test]
    fn one_core_never_spins() {
        let (mut spin, mut clock) = (Spin::new(1), 0);
        assert_eq!(conversation(&mut spin, &mut clock, 50), 0);
    }
}
