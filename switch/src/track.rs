//! Sixth hop: the one place that commits state. For a switch that is the budget of floods.

use crate::drop::DropReason;
use crate::flow::Meta;
use crate::port::PortId;
use crate::segment;
use crate::snapshot::Network;
use crate::tick::Tick;
use crate::verdict::Verdict;

/// Flood budgets of the ports whose frames this worker reads: a token bucket each, no clock but the batch's.
pub struct Storm {
    buckets: Box<[Bucket]>,
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    /// Thousandths of a frame, so that a slow rate refills by the millisecond.
    tokens: u64,
    last: Tick,
}

/// Ports that a frame is flooded to for the price of one.
const SHARE: u64 = 16;
/// Thousandths of a frame that one frame costs.
const FRAME: u64 = 1000;

impl Storm {
    /// Budgets for ports `0..ports`.
    pub fn new(ports: usize) -> Self {
        Self { buckets: vec![Bucket::default(); ports].into_boxed_slice() }
    }

    /// Takes `frames` from the budget of `port`: `rate` frames a second, a quarter of that at once.
    fn take(&mut self, port: PortId, frames: u64, rate: u32, now: Tick) -> bool {
        let Some(bucket) = self.buckets.get_mut(port.index()) else { return false };
        let rate = u64::from(rate);
        let burst = (rate / 4).max(1) * FRAME;
        let refill = now.millis().saturating_sub(bucket.last.millis()).saturating_mul(rate);
        bucket.tokens = bucket.tokens.saturating_add(refill).min(burst);
        bucket.last = now;
        let price = frames.saturating_mul(FRAME).min(burst); // a super-frame larger than the burst takes all of it
        let rest = bucket.tokens.checked_sub(price);
        bucket.tokens = rest.unwrap_or(bucket.tokens);
        rest.is_some()
    }
}

/// Commits the verdict: what it may not cost, it becomes a drop.
pub fn track(verdict: Verdict, meta: &Meta, network: &Network, storm: &mut Storm, now: Tick) -> Verdict {
    // What is for a group is a broadcast, though only the host may hear it (`icc = false`).
    let floods = match verdict {
        Verdict::Flood => true,
        Verdict::Forward(_) => meta.dst.is_group(),
        _ => false,
    };
    if !floods || network.storm == 0 {
        return verdict;
    }
    // A super-frame is as many frames as it has segments, and one for many ports as many as those are shares of them:
    // what it costs everybody else is a write for each.
    let frames = segment::count(meta).max(1) as u64 * (network.members.len() as u64).div_ceil(SHARE);
    if storm.take(meta.port, frames, network.storm, now) { verdict } else { Verdict::Drop(DropReason::Storm) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_held_to_its_rate_and_a_pause_refills() {
        let mut storm = Storm::new(2);
        let passed = |storm: &mut Storm, port, at| {
            (0..5000).filter(|_| storm.take(PortId(port), 1, 1000, Tick::from_millis(at))).count()
        };
        assert_eq!(passed(&mut storm, 0, 10_000), 250, "a quarter of a second at once");
        assert_eq!(passed(&mut storm, 0, 10_100), 100);
        assert_eq!(passed(&mut storm, 1, 10_100), 250, "a budget of its own");
        assert_eq!(passed(&mut storm, 0, 99_000), 250, "a pause fills it, no further");
        assert_eq!(passed(&mut storm, 7, 99_000), 0, "no such port");
        assert!(storm.take(PortId(0), 45, 1000, Tick::from_millis(99_100)), "a super-frame of 45 segments");
        assert_eq!(passed(&mut storm, 0, 99_100), 55, "costs as much as 45 frames");
    }
}
