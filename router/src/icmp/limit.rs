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
