//! Counters. One worker writes them, anybody reads; the reader sums over workers.
//!
//! The law every pipeline test asserts (copies are counted apart):
//!
//! ```text
//! rx + generated + released == forwarded + flooded + local + held + sum(drops)
//! ```

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::drop::DropReason;
use crate::port::PortId;

/// A counter with one writer.
///
/// # Threads
/// Only the owning worker adds; an add is a load and a store, no locked instruction. Readers see some recent value.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owner may call this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Some recent value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One value for each [`DropReason`], in the order of [`DropReason::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByReason<T>([T; DropReason::COUNT]);

impl<T: Default> Default for ByReason<T> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| T::default()))
    }
}

impl<T> Deref for ByReason<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for ByReason<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

/// What one worker did with frames.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Frames read from devices.
    pub rx: Counter,
    /// Frames made by the switch itself.
    pub generated: Counter,
    /// Frames that had been held and went on.
    pub released: Counter,
    /// Frames written to one port.
    pub forwarded: Counter,
    /// Frames written to several ports, each counted once.
    pub flooded: Counter,
    /// Copies written by floods.
    pub copies: Counter,
    /// Copies of floods that a port did not take (the frame itself counts as flooded if any port took it).
    pub copies_lost: Counter,
    /// Frames for the switch itself.
    pub local: Counter,
    /// Frames waiting for a neighbour.
    pub held: Counter,
    /// Batches that held at least one frame.
    pub batches: Counter,
    /// Times the worker slept and was woken.
    pub wakeups: Counter,
    /// Times it looked again for a moment instead, and something came.
    pub spins: Counter,
    /// Super-frames that a port refused and that were segmented here.
    pub segmented: Counter,
    /// FDB entries that could not be learned: the table was full of other ports' entries.
    pub unlearned: Counter,
    /// Frames dropped, by reason.
    pub drops: ByReason<Counter>,
}

impl WorkerCounters {
    /// Frames dropped, all reasons.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(Counter::get).sum()
    }

    /// What went in and has not come out; 0 between batches, or frames were lost without a name. (A ring that could not
    /// write at once has some on their way; no TAP makes it wait.)
    pub fn unaccounted(&self) -> i128 {
        let wide = |counter: &Counter| i128::from(counter.get());
        wide(&self.rx) + wide(&self.generated) + wide(&self.released)
            - wide(&self.forwarded)
            - wide(&self.flooded)
            - wide(&self.local)
            - wide(&self.held)
            - i128::from(self.dropped())
    }
}

/// What went through one port, as one worker saw it. `rx` is from the container, `tx` towards it.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Frames from the container.
    pub rx_frames: Counter,
    /// Their bytes, Ethernet header on; a super-frame counts once.
    pub rx_bytes: Counter,
    /// Frames towards the container.
    pub tx_frames: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
    /// Frames dropped: on the way in by this port's frames, on the way out by this port not taking them.
    pub drops: ByReason<Counter>,
}

/// What the counters of a port said at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortSample {
    /// As in [`PortCounters`].
    pub rx_frames: u64,
    /// As in [`PortCounters`].
    pub rx_bytes: u64,
    /// As in [`PortCounters`].
    pub tx_frames: u64,
    /// As in [`PortCounters`].
    pub tx_bytes: u64,
    /// As in [`PortCounters`].
    pub drops: ByReason<u64>,
}

impl PortSample {
    /// What was counted since `earlier`: a port number that is used again starts from there.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut drops = self.drops;
        for (now, then) in drops.iter_mut().zip(earlier.drops.iter()) {
            *now = now.saturating_sub(*then);
        }
        Self {
            rx_frames: self.rx_frames.saturating_sub(earlier.rx_frames),
            rx_bytes: self.rx_bytes.saturating_sub(earlier.rx_bytes),
            tx_frames: self.tx_frames.saturating_sub(earlier.tx_frames),
            tx_bytes: self.tx_bytes.saturating_sub(earlier.tx_bytes),
            drops,
        }
    }
}

impl std::iter::Sum for PortSample {
    fn sum<I: Iterator<Item = Self>>(samples: I) -> Self {
        samples.fold(Self::default(), |mut sum, one| {
            sum.rx_frames += one.rx_frames;
            sum.rx_bytes += one.rx_bytes;
            sum.tx_frames += one.tx_frames;
            sum.tx_bytes += one.tx_bytes;
            sum.drops.iter_mut().zip(one.drops.iter()).for_each(|(sum, one)| *sum += one);
            sum
        })
    }
}

/// All counters of one worker.
#[derive(Debug)]
pub struct Counters {
    /// The worker's own.
    pub worker: CachePadded<WorkerCounters>,
    ports: Box<[PortCounters]>,
}

impl Counters {
    /// Counters for ports `0..ports`.
    pub fn new(ports: usize) -> Self {
        let ports = (0..ports).map(|_| PortCounters::default()).collect();
        Self { worker: CachePadded::default(), ports }
    }

    /// The counters of a port; `None` beyond the limit given at the start.
    pub fn port(&self, port: PortId) -> Option<&PortCounters> {
        self.ports.get(port.index())
    }

    /// What the counters of a port say now; zeros beyond the limit given at the start.
    pub fn sample(&self, port: PortId) -> PortSample {
        self.port(port).map_or_else(PortSample::default, |port| PortSample {
            rx_frames: port.rx_frames.get(),
            rx_bytes: port.rx_bytes.get(),
            tx_frames: port.tx_frames.get(),
            tx_bytes: port.tx_bytes.get(),
            drops: ByReason(std::array::from_fn(|reason| port.drops.get(reason).map_or(0, Counter::get))),
        })
    }

    /// Counts a dropped frame, for the worker and for `port`.
    pub fn drop_frame(&self, port: PortId, reason: DropReason) {
        self.drop_frames(port, reason, 1);
    }

    /// Counts so many of them.
    pub fn drop_frames(&self, port: PortId, reason: DropReason, count: u64) {
        if let Some(counter) = self.worker.drops.get(reason as usize) {
            counter.add(count);
        }
        if let Some(counter) = self.port(port).and_then(|port| port.drops.get(reason as usize)) {
            counter.add(count);
        }
    }

    /// Counts what `port` lost, without counting a frame (a copy of a flood).
    pub fn drop_at(&self, port: PortId, reason: DropReason) {
        if let Some(counter) = self.port(port).and_then(|port| port.drops.get(reason as usize)) {
            counter.add(1);
        }
    }
}
