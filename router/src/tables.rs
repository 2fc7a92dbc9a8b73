//! What routing decides by: one gateway a network, published with the snapshot.

use std::net::Ipv6Addr;
use std::sync::Arc;

use switch::flow::Packet;
use switch::mac::MacAddr;
use switch::port::{NetworkId, PortId};

use crate::build::Origin;
use crate::egress::{self, Rule};
use crate::fib::{Fib, Next};
use crate::icmp::limit::Rates;
use crate::neighbor::Neighbors;
use crate::returns::Returns;

/// Gateways by network.
///
/// # Threads
/// Immutable once published; neighbours and returns are tables with rules of their own.
#[derive(Clone, Default)]
pub struct Tables {
    /// By [`NetworkId`]; `None`: the network has no gateway of ours.
    pub gateways: Box<[Option<Gateway>]>,
    /// What may come back the way that may not be opened; `None`: no network asks for it.
    pub returns: Option<Arc<Returns>>,
    /// What containers may open connections to, by [`PortId`]; a port without rules, or beyond the end: anything.
    pub egress: Egress,
    /// The next hops of routes that have several, route by route ([`crate::fib::Hops`]).
    pub hops: Box<[Ipv6Addr]>,
    /// How many ICMP errors are sent.
    pub errors: Rates,
}

/// Rules by [`PortId`].
pub type Egress = Box<[Option<Arc<[Rule]>>]>;

impl Tables {
    /// The rules of the container behind a port.
    pub fn egress(&self, port: PortId) -> Option<&[Rule]> {
        self.egress.get(port.index())?.as_deref()
    }

    /// Whether the container behind a port may open the connection that `packet` belongs to.
    pub fn may_open(&self, port: PortId, packet: &Packet) -> bool {
        self.egress(port).is_none_or(|rules| egress::allows(rules, packet))
    }

    /// The next hops of a route that has several; empty where it has one.
    #[inline]
    pub fn hops(&self, next: &Next) -> &[Ipv6Addr] {
        let first = next.hops.first as usize;
        self.hops.get(first..first.saturating_add(usize::from(next.hops.count))).unwrap_or_default()
    }

    /// The gateway of a network.
    pub fn gateway(&self, network: NetworkId) -> Option<&Gateway> {
        self.gateways.get(network.index())?.as_ref()
    }
}

/// The gateway of one network.
#[derive(Clone)]
pub struct Gateway {
    /// Its MAC.
    pub mac: MacAddr,
    /// Its addresses in that network, IPv4 v4-mapped: the one that packets are answered from comes first in each
    /// family.
    pub addresses: Box<[Ipv6Addr]>,
    /// Length of the IPv4 prefix of the network, bits; 0 if it has none.
    pub prefix_len: u8,
    /// Length of the IPv6 prefix, bits; 0 if it has none.
    pub prefix6_len: u8,
    /// What its router advertisements say; there are none where it has no link-local address.
    pub advertises: Advertises,
    /// Where packets that come in by this network go.
    pub fib: Fib,
    /// What is in no prefix of the FIB leaves by the uplink.
    pub uplink: bool,
    /// Its network is the outside: whoever is in no network of ours is behind it, and nobody there is told that we route.
    pub outside: bool,
    /// To the containers of its network its addresses stand for the loopback of the host, where the uplink leads
    /// there.
    pub loopback: bool,
    /// What it offers beside routing.
    pub services: Services,
    /// Who is on the network.
    pub neighbors: Arc<Neighbors>,
}

/// What hosts are told that nobody configured (RFC 4861 section 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertises {
    /// It is a default router: packets for others may be sent to it.
    pub default_route: bool,
    /// Hosts may make addresses of a prefix of 64 bits (RFC 4862).
    pub autonomous: bool,
    /// Nothing new is said for now: interfaces are being told not to listen.
    pub quiet: bool,
}

/// Services of a gateway that the control plane gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// Names.
    pub dns: bool,
    /// Addresses.
    pub dhcp: bool,
}

impl Gateway {
    /// Whether `address` is one of its own.
    pub fn has(&self, address: Ipv6Addr) -> bool {
        self.addresses.contains(&address)
    }

    /// The IPv6 prefix of the network.
    pub fn prefix6(&self) -> Option<Ipv6Addr> {
        let own = self
            .addresses
            .iter()
            .find(|own| own.to_ipv4_mapped().is_none() && !own.is_unicast_link_local())?;
        let host = u128::MAX.checked_shr(u32::from(self.prefix6_len)).unwrap_or(0);
        Some(Ipv6Addr::from_bits(own.to_bits() & !host))
    }

    /// Who speaks to `other`, and the length of the prefix that it speaks from.
    pub fn origin(&self, other: Ipv6Addr) -> Option<(Origin, u8)> {
        let address = self.source(other)?;
        let v4 = address.to_ipv4_mapped().is_some();
        let prefix = if v4 { self.prefix_len } else { self.prefix6_len };
        Some((Origin { mac: self.mac, address }, prefix))
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
