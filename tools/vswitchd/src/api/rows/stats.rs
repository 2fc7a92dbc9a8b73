//! Rates and totals, as `show stats` has them.

use serde::{Deserialize, Serialize};

/// `/v1/stats`: rates and totals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// When the counters were read: milliseconds on a clock that only goes forward while the engine lives.
    pub at_ms: u64,
    /// One row a port.
    pub ports: Vec<StatsRow>,
    /// One row a worker.
    pub workers: Vec<WorkerRow>,
}

/// Rates and totals of one port. `rx` is from the container, `tx` to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsRow {
    /// The switch port.
    pub port: u16,
    /// The network.
    pub network: String,
    /// The container.
    pub container: String,
    /// The interface.
    pub iface: String,
    /// Frames.
    pub rx_frames: u64,
    /// Bytes.
    pub rx_bytes: u64,
    /// Frames.
    pub tx_frames: u64,
    /// Bytes.
    pub tx_bytes: u64,
    /// Frames from it that were dropped.
    pub drops: u64,
    /// Frames per second.
    pub rx_pps: u64,
    /// Bits per second.
    pub rx_bps: u64,
    /// Frames per second.
    pub tx_pps: u64,
    /// Bits per second.
    pub tx_bps: u64,
}

/// Totals of one worker; `rx + generated + released == forwarded + flooded + local + held + drops`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// Its number.
    pub worker: u32,
    /// Frames read.
    pub rx: u64,
    /// Frames made here.
    pub generated: u64,
    /// Frames that had been held and went on.
    pub released: u64,
    /// Frames to one port.
    pub forwarded: u64,
    /// Frames to several.
    pub flooded: u64,
    /// Copies made for flooding; not part of the sum.
    pub copies: u64,
    /// Copies that a port did not take; not part of the sum.
    pub copies_lost: u64,
    /// Super-frames that a port refused and that were segmented here; not part of the sum.
    pub segmented: u64,
    /// Source addresses that were not learned for want of room.
    pub unlearned: u64,
    /// Frames for ourselves.
    pub local: u64,
    /// Frames held back for a neighbour.
    pub held: u64,
    /// Frames dropped.
    pub drops: u64,
    /// Batches.
    pub batches: u64,
    /// Times it slept and was woken.
    pub wakeups: u64,
    /// Times it looked again for a moment instead, and something came.
    pub spins: u64,
}

impl Stats {
    /// Fills in the rates from an earlier reading. Zero where there is none: no earlier row of that interface, counters
    /// that were reset, or no time between the two.
    pub fn rates_since(&mut self, earlier: &Self) {
        let millis = self.at_ms.saturating_sub(earlier.at_ms);
        let old: std::collections::HashMap<_, _> = earlier.ports.iter().map(|row| (row.key(), row)).collect();
        for row in &mut self.ports {
            let then = old.get(&row.key());
            let rate = |now: u64, then: Option<u64>, scale: u128| {
                let counted = then.map_or(0, |then| now.saturating_sub(then));
                let per_second = u128::from(counted)
                    .saturating_mul(scale)
                    .saturating_mul(1000)
                    .checked_div(u128::from(millis))
                    .unwrap_or(0);
                u64::try_from(per_second).unwrap_or(u64::MAX)
            };
            let rates = (
                rate(row.rx_frames, then.map(|old| old.rx_frames), 1),
                rate(row.rx_bytes, then.map(|old| old.rx_bytes), 8),
                rate(row.tx_frames, then.map(|old| old.tx_frames), 1),
                rate(row.tx_bytes, then.map(|old| old.tx_bytes), 8),
            );
            (row.rx_pps, row.rx_bps, row.tx_pps, row.tx_bps) = rates;
        }
    }
}

impl StatsRow {
    /// What names an interface when port numbers are used again.
    fn key(&self) -> (String, String, String) {
        (self.container.clone(), self.iface.clone(), self.network.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(container: &str, rx: u64, tx: u64) -> StatsRow {
        StatsRow {
            port: 1,
            network: "blue".into(),
            container: container.into(),
            iface: "eth0".into(),
            rx_frames: rx,
            rx_bytes: rx.saturating_mul(100),
            tx_frames: tx,
            tx_bytes: tx.saturating_mul(100),
            drops: 0,
            rx_pps: 7,
            rx_bps: 7,
            tx_pps: 7,
            tx_bps: 7,
        }
    }

    #[test]
    fn rates_are_differences_over_time() {
        let earlier = Stats { at_ms: 1000, ports: vec![row("a", 10, 500)], workers: vec![] };
        let mut now =
            Stats { at_ms: 3000, ports: vec![row("a", 30, 400), row("new", 5, 5)], workers: vec![] };
        now.rates_since(&earlier);
        let of = |row: &StatsRow| (row.rx_pps, row.rx_bps, row.tx_pps, row.tx_bps);
        assert_eq!(of(&now.ports[0]), (10, 8000, 0, 0), "counters that went backwards have no rate");
        assert_eq!(of(&now.ports[1]), (0, 0, 0, 0), "a new interface has no rate yet");
        let again = now.clone();
        now.rates_since(&again);
        assert_eq!(of(&now.ports[0]), (0, 0, 0, 0), "no time passed");
    }

    proptest! {
        #[test]
        fn rates_never_overflow(at: u64, then: u64, rx: u64, tx: u64, old_rx: u64) {
            let mut now = Stats { at_ms: at, ports: vec![row("a", rx, tx)], workers: vec![] };
            now.rates_since(&Stats { at_ms: then, ports: vec![row("a", old_rx, 0)], workers: vec![] });
            prop_assert!(at > then || now.ports[0].rx_pps == 0);
        }
    }
}
