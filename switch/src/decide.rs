//! Fifth hop, the switch's part of it: where does the destination MAC live?

use crate::drop::DropReason;
use crate::flow::Meta;
use crate::snapshot::Network;
use crate::verdict::{Action, Verdict};

/// Bridge lookup (IEEE 802.1D-2004 section 7.7). Pure: changes nothing, sees no bytes.
pub fn bridge(meta: &Meta, network: &Network) -> Verdict {
    if !network.icc {
        // Every other port of the network is a container; judged here, so that what is not IP is stopped as well.
        return Verdict::Drop(DropReason::IccDenied);
    }
    if meta.dst.is_group() {
        return Verdict::Flood;
    }
    match network.fdb.lookup(meta.vid(), meta.dst) {
        Some(out) if out == meta.port => Verdict::Drop(DropReason::SamePort),
        Some(out) => Verdict::Forward(Action { out, hop: None }),
        None => Verdict::Flood,
    }
}
