//! Fifth hop, the switch's part of it: where does the destination MAC live?

use crate::drop::DropReason;
use crate::flow::{L3, Meta};
use crate::snapshot::{Network, Owner};
use crate::verdict::{Action, Verdict};

/// Bridge lookup (IEEE 802.1D-2004 section 7.7). Pure: changes nothing, sees no bytes.
pub fn bridge(meta: &Meta, network: &Network) -> Verdict {
    if !network.icc && network.claims.host != Some(meta.port) {
        return apart(meta, network);
    }
    if meta.dst.is_group() {
        return Verdict::Flood;
    }
    match network.fdb.lookup(meta.vid, meta.dst) {
        Some(out) if out == meta.port => Verdict::Drop(DropReason::SamePort),
        Some(out) => Verdict::Forward(Action { out, hop: None }),
        None => Verdict::Flood,
    }
}

/// Between containers that may not talk to each other. Every other port of the network is one, or the host; judged here,
/// so that what is not IP is stopped as well.
fn apart(meta: &Meta, network: &Network) -> Verdict {
    let asks = meta.dst.is_group() && meta.l3 == L3::Arp;
    match network.claims.host {
        Some(out) if asks || network.claims.macs.get(&meta.dst) == Some(&Owner::Port(out)) => {
            Verdict::Forward(Action { out, hop: None })
        }
        _ => Verdict::Drop(DropReason::IccDenied),
    }
}
