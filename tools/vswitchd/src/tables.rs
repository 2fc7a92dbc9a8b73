//! What packets are decided by, of all rooms together, published with the snapshot.

use switch::policy::Here;
use switch::snapshot::{Snapshot, View};

use crate::translate::Translation;

/// The tables of every room. Each room is given its own and no others' ([`switch::policy::Here::with`]).
///
/// # Threads
/// Immutable once published; what changes under traffic is in tables of their own, which are reached through these.
#[derive(Clone, Default)]
pub struct Tables {
    /// Gateways and what routing goes by.
    pub router: router::tables::Tables,
    /// What is translated; `None`: there is no uplink with an address of ours.
    pub nat: Option<Translation>,
}

/// Where and when a packet is judged, with what routing is decided by.
pub const fn routed<'a>(here: &Here<'a, Tables>) -> Here<'a, router::tables::Tables> {
    here.with(&here.snapshot.tables.router)
}

/// A snapshot, with what routing is decided by.
pub fn routes(snapshot: &Snapshot<Tables>) -> View<'_, router::tables::Tables> {
    snapshot.view().with(&snapshot.tables.router)
}
