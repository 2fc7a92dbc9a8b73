//! Time on a packet's way: an argument, read once a batch by the caller, moved by hand in tests.

/// A moment of the monotonic clock: milliseconds since an origin that is the same for the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tick(u64);

impl Tick {
    /// Now, from the kernel's coarse clock: a few milliseconds of granularity, no system call.
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        Self(now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000)
    }

    /// The moment `millis` milliseconds after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The moment `secs` seconds after the origin.
    pub const fn from_secs(secs: u32) -> Self {
        Self(secs as u64 * 1000)
    }

    /// Milliseconds since the origin.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the origin, rounded down; good for 136 years.
    pub const fn secs(self) -> u32 {
        (self.0 / 1000) as u32
    }

    /// Whole seconds since the origin, rounded up. A stamp rounded up and a now rounded down never make anything
    /// look older than it is.
    pub const fn secs_up(self) -> u32 {
        self.0.div_ceil(1000) as u32
    }

    /// This moment and `millis` milliseconds more.
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_never_overstated() {
        for (from, to, age) in [(0, 999, 0), (1, 1000, 0), (1, 2000, 1), (1000, 2000, 1), (999, 1000, 0)] {
            let (from, to) = (Tick::from_millis(from), Tick::from_millis(to));
            assert_eq!(to.secs().saturating_sub(from.secs_up()), age, "{from:?} {to:?}");
        }
        assert_eq!(Tick::from_secs(7).plus_millis(1).millis(), 7001);
    }
}
