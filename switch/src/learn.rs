//! Fourth hop: the source MAC belongs behind the port the frame came from.

use crate::fdb::Learned;
use crate::flow::Meta;
use crate::snapshot::Network;
use crate::stats::WorkerCounters;
use crate::tick::Tick;

/// Learns the source of an admitted frame. Writes only what changed (IEEE 802.1D-2004 section 7.8).
pub fn learn(meta: &Meta, network: &Network, now: Tick, counters: &WorkerCounters) {
    if let Learned::Full = network.fdb.learn(meta.vid, meta.src, meta.port, now) {
        counters.unlearned.add(1);
    }
}
