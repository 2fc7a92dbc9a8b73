//! Fourth hop: the source MAC belongs behind the port the frame came from.

use crate::fdb::Learned;
use crate::flow::Meta;
use crate::policy::Here;
use crate::snapshot::{Owner, Port, Remote};
use crate::stats::WorkerCounters;

/// Learns the source of an admitted frame of `port`. Writes only what changed (IEEE 802.1D-2004 section 7.8).
pub fn learn<T>(meta: &Meta, (port, here): (&Port, &Here<'_, T>), counters: &WorkerCounters) {
    if let Some(remote) = port.remote
        && !may_teach(remote, meta, here)
    {
        return;
    }
    if let Learned::Full = here.network.fdb.learn(meta.vid, meta.src, meta.port, here.now) {
        counters.unlearned.add(1);
    }
}

/// What another host says of where somebody is. The gateway is on every host, and whoever is heard here is here: what
/// comes back by the overlay, or is forged there, moves nobody.
fn may_teach<T>(remote: Remote, meta: &Meta, here: &Here<'_, T>) -> bool {
    let network = here.network;
    remote.learns
        && network.claims.macs.get(&meta.src) != Some(&Owner::Gateway)
        && network
            .fdb
            .lookup(meta.vid, meta.src)
            .and_then(|at| here.snapshot.port(at))
            .is_none_or(|at| at.remote.is_some())
}
