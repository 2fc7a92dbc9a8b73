//! What routing decides by: one gateway a network, published with the snapshot.

use std::net::Ipv6Addr;
use std::sync::Arc;

use switch::mac::MacAddr;
use switch::port::NetworkId;

use crate::fib::Fib;
use crate::neighbor::Neighbors;
use crate::returns::Returns;

/// Gateways by network.
///
/// # Threads
/// Immutable once published; neighbours and returns are tables with rules of their own.
#[derive(Default)]
pub struct Tables {
    /// By [`NetworkId`]; `None`: the network has no gateway of ours.
    pub gateways: Box<[Option<Gateway>]>,
    /// What may come back the way that may not be opened; `None`: no network asks for it.
    pub returns: Option<Arc<Returns>>,
}

impl Tables {
    /// The gateway of a network.
    pub fn gateway(&self, network: NetworkId) -> Option<&Gateway> {
        self.gateways.get(network.index())?.as_ref()
    }
}

/// The gateway of one network.
pub struct Gateway {
    /// Its MAC.
    pub mac: MacAddr,
    /// Its addresses in that network, IPv4 v4-mapped: the one that packets are answered from comes first in each
    /// family.
    pub addresses: Box<[Ipv6Addr]>,
    /// Where packets that come in by this network go.
    pub fib: Fib,
    /// Who is on the network.
    pub neighbors: Arc<Neighbors>,
}

impl Gateway {
    /// Whether `address` is one of its own.
    pub fn has(&self, address: Ipv6Addr) -> bool {
        self.addresses.contains(&address)
    }

    /// The address that it speaks to `other` from: of the same family, and link-local to link-local ones.
    pub fn source(&self, other: Ipv6Addr) -> Option<Ipv6Addr> {
        let v4 = other.to_ipv4_mapped().is_some();
        let same = |own: &&Ipv6Addr| own.to_ipv4_mapped().is_some() == v4;
        let local = other.is_unicast_link_local() || other.is_multicast();
        let mut own = self.addresses.iter().filter(same);
        own.clone().find(|own| own.is_unicast_link_local() == local).or_else(|| own.next()).copied()
    }
}
