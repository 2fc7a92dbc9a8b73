//! The names of switch ports and networks on a packet's way: small integers, indices into the snapshot.

use std::fmt;

/// A switch port. An index into `Snapshot::ports` and into every per-port counter.
///
/// An index is used again only after the FDB forgot it and every worker let it go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

impl PortId {
    /// No port: where frames come from that are made here.
    pub const NOBODY: Self = Self(u16::MAX);

    /// The port's place in arrays.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A network (bridge domain). An index into `Snapshot::networks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkId(pub u16);

impl NetworkId {
    /// The network's place in arrays.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
