//! How many ICMP messages we make: a token bucket for each port that causes them, and one for all together
//! (RFC 4443 section 2.4 (f), RFC 1812 section 4.3.2.8).
//!
//! The bucket of a port keeps one container from using up what all may have; the total bounds what all of them can
//! make one victim receive.

use switch::port::PortId;
use switch::tick::Tick;

/// One message costs 1000, and a millisecond gives `per_second`: no remainder is ever lost.
const MESSAGE: u64 = 1000;

/// What a bucket gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Messages per second; 0 for none after the burst.
    pub per_second: u32,
    /// Messages at once, after a silence.
    pub burst: u32,
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Limited {
    /// That of the port, or the port is beyond those that the limiter was made for.
    #[error("the port causes more ICMP messages than its share")]
    Port,
    /// That of all ports.
    #[error("all ports together cause more ICMP messages than the limit")]
    Total,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: u64,
    filled: Tick,
}

impl Bucket {
    const fn full(rate: Rate) -> Self {
        Self { level: rate.burst as u64 * MESSAGE, filled: Tick::from_millis(0) }
    }

    /// Fills up to `now`. Time that runs backwards gives nothing.
    fn fill(&mut self, rate: Rate, now: Tick) -> u64 {
        let elapsed = now.millis().saturating_sub(self.filled.millis());
        let given = elapsed.saturating_mul(u64::from(rate.per_second));
        self.level = self.level.saturating_add(given).min(u64::from(rate.burst).saturating_mul(MESSAGE));
        self.filled = self.filled.max(now);
        self.level
    }
}

/// The buckets of one worker.
///
/// # Threads
/// Belongs to one thread. Several workers have one each, and share the rates out before.
#[derive(Debug)]
pub struct Limiter {
    ports: Box<[Bucket]>,
    total: Bucket,
    port_rate: Rate,
    total_rate: Rate,
}

impl Limiter {
    /// Full buckets for the ports 0 to `ports - 1`. Allocates here and never again.
    pub fn new(ports: usize, port_rate: Rate, total_rate: Rate) -> Self {
        Self {
            ports: vec![Bucket::full(port_rate); ports].into_boxed_slice(),
            total: Bucket::full(total_rate),
            port_rate,
            total_rate,
        }
    }

    /// Takes one message from the bucket of `port` and from the total; from neither where one is empty.
    ///
    /// # Errors
    /// Which of the limits was reached.
    pub fn take(&mut self, port: PortId, now: Tick) -> Result<(), Limited> {
        let bucket = self.ports.get_mut(usize::from(port.0)).ok_or(Limited::Port)?;
        let port_left = bucket.fill(self.port_rate, now).checked_sub(MESSAGE).ok_or(Limited::Port)?;
        let total_left = self.total.fill(self.total_rate, now).checked_sub(MESSAGE).ok_or(Limited::Total)?;
        (bucket.level, self.total.level) = (port_left, total_left);
        Ok(())
    }

    /// Fills the bucket of a port that has a new holder.
    pub fn reset(&mut self, port: PortId) {
        if let Some(bucket) = self.ports.get_mut(usize::from(port.0)) {
            *bucket = Bucket { level: Bucket::full(self.port_rate).level, filled: bucket.filled };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GREEDY: PortId = PortId(0);
    const MODEST: PortId = PortId(1);

    fn sent(limiter: &mut Limiter, port: PortId, millis: std::ops::Range<u64>) -> usize {
        millis.filter(|at| limiter.take(port, Tick::from_millis(*at)).is_ok()).count()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let (port, total) = (Rate { per_second: 10, burst: 5 }, Rate { per_second: 1000, burst: 1000 });
        let mut limiter = Limiter::new(2, port, total);
        assert_eq!(sent(&mut limiter, GREEDY, 0..100), 5);
        assert_eq!(sent(&mut limiter, GREEDY, 100..10_100), 100);
        assert_eq!(limiter.take(GREEDY, Tick::from_millis(10_099)), Err(Limited::Port));
        assert_eq!(limiter.take(MODEST, Tick::from_millis(10_099)), Ok(()));
        assert_eq!(limiter.take(PortId(2), Tick::from_millis(20_000)), Err(Limited::Port));
        limiter.reset(GREEDY);
        assert_eq!(sent(&mut limiter, GREEDY, 10_099..10_100), 1);
    }

    #[test]
    fn the_total_holds_and_is_charged_only_for_what_is_sent() {
        let mut limiter = Limiter::new(2, Rate { per_second: 0, burst: 4 }, Rate { per_second: 0, burst: 5 });
        assert_eq!(sent(&mut limiter, GREEDY, 0..100), 4);
        assert_eq!(sent(&mut limiter, MODEST, 0..100), 1);
        assert_eq!(limiter.take(MODEST, Tick::default()), Err(Limited::Total));
        assert_eq!(limiter.take(GREEDY, Tick::default()), Err(Limited::Port));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(
            per_second in 0u32..5000,
            burst in 0u32..50,
            steps in prop::collection::vec(0u64..50, 1..400),
        ) {
            let rate = Rate { per_second, burst };
            let mut limiter = Limiter::new(1, rate, Rate { per_second: u32::MAX, burst: u32::MAX });
            let (mut now, mut sent) = (1_000_000, 0);
            for step in &steps {
                now += step;
                sent += u64::from(limiter.take(GREEDY, Tick::from_millis(now)).is_ok());
            }
            let elapsed: u64 = steps.iter().sum();
            prop_assert!(sent <= u64::from(burst) + elapsed * u64::from(per_second) / 1000);
        }

        #[test]
        fn no_time_overflows_or_runs_backwards_into_more(ticks: Vec<u64>) {
            let mut limiter = Limiter::new(1, Rate { per_second: u32::MAX, burst: 3 }, Rate { per_second: 0, burst: 7 });
            let sent = ticks.iter().filter(|at| limiter.take(GREEDY, Tick::from_millis(**at)).is_ok()).count();
            prop_assert!(sent <= 7);
        }
    }
}
