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

/// How many ICMP errors gateways send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// For what comes in by one port.
    pub port: Rate,
    /// For all ports together, in all workers.
    pub all: Rate,
}

impl Rates {
    /// So many a second; at once half as many, of all a fifth. 0: none.
    pub fn new(port: u32, all: u32) -> Self {
        let rate = |per_second: u32, part: u32| Rate { per_second, burst: per_second.div_ceil(part) };
        Self { port: rate(port, 2), all: rate(all, 5) }
    }

    /// What one of `workers` may send: they have what is of all together.
    fn share(self, workers: u32) -> Self {
        let share = |all: u32| all.div_ceil(workers.max(1));
        let all = Rate { per_second: share(self.all.per_second), burst: share(self.all.burst) };
        Self { all, ..self }
    }
}

impl Default for Rates {
    /// Linux: `icmp_ratelimit`, one destination a second (traceroute asks for three at once), and `icmp_msgs_per_sec`,
    /// `icmp_msgs_burst`.
    fn default() -> Self {
        Self::new(100, 1000)
    }
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
    workers: u32,
    rates: Rates,
    port_rate: Rate,
    total_rate: Rate,
}

impl Limiter {
    /// Full buckets for the ports 0 to `ports - 1`, in one of `workers`. Allocates here and never again.
    pub fn new(ports: usize, rates: Rates, workers: u32) -> Self {
        let Rates { port, all } = rates.share(workers);
        Self {
            ports: vec![Bucket::full(port); ports].into_boxed_slice(),
            total: Bucket::full(all),
            workers,
            rates,
            port_rate: port,
            total_rate: all,
        }
    }

    /// Other rates from now on. Buckets keep what is in them, as far as it fits.
    pub fn follow(&mut self, rates: Rates) {
        if rates != self.rates {
            let Rates { port, all } = rates.share(self.workers);
            (self.rates, self.port_rate, self.total_rate) = (rates, port, all);
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
    fn rates_can_change_and_none_is_none() {
        let mut limiter = Limiter::new(2, Rates::default(), 1);
        assert_eq!(sent(&mut limiter, GREEDY, 0..1), 1);
        limiter.follow(Rates::new(10, 1000));
        let all: usize = (0..100).filter(|_| limiter.take(GREEDY, Tick::from_millis(1)).is_ok()).count();
        assert_eq!(all, 5, "half a second's at once");
        assert_eq!(sent(&mut limiter, GREEDY, 1..1002), 10);
        limiter.follow(Rates::new(0, 1000));
        assert_eq!(sent(&mut limiter, GREEDY, 2000..9000), 0);
        limiter.follow(Rates::new(1000, 1000));
        assert!(sent(&mut limiter, GREEDY, 9000..10_000) > 900);
        // Several workers have together what one would have.
        let mut shares: Vec<_> = (0..4).map(|_| Limiter::new(1, Rates::new(100, 40), 4)).collect();
        let all: usize = shares.iter_mut().map(|limiter| sent(limiter, GREEDY, 10_000..11_000)).sum();
        assert!((40..=52).contains(&all), "{all}");
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let (port, total) = (Rate { per_second: 10, burst: 5 }, Rate { per_second: 1000, burst: 1000 });
        let mut limiter = Limiter::new(2, Rates { port, all: total }, 1);
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
        let mut limiter = Limiter::new(
            2,
            Rates { port: Rate { per_second: 0, burst: 4 }, all: Rate { per_second: 0, burst: 5 } },
            1,
        );
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
            let mut limiter = Limiter::new(1, Rates { port: rate, all: Rate { per_second: u32::MAX, burst: u32::MAX } }, 1);
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
            let mut limiter = Limiter::new(1, Rates { port: Rate { per_second: u32::MAX, burst: 3 }, all: Rate { per_second: 0, burst: 7 } }, 1);
            let sent = ticks.iter().filter(|at| limiter.take(GREEDY, Tick::from_millis(**at)).is_ok()).count();
            prop_assert!(sent <= 7);
        }
    }
}
