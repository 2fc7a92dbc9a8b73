//! The configuration as packets see it: one immutable value, published whole, loaded once a batch.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;

use crate::fdb::Fdb;
use crate::flow::{L3, Packet};
use crate::groups::Groups;
use crate::mac::MacAddr;
use crate::port::{NetworkId, PortId};
use crate::vlan::Tagging;

/// Ports and networks, by index.
///
/// # Threads
/// Immutable. Workers hold it behind `arc-swap` for the length of a batch; the control plane replaces it. What changes
/// under traffic (the FDB) is reached through it and has its own rules.
#[derive(Clone, Default)]
pub struct Snapshot<T = ()> {
    /// Counts publications.
    pub generation: u64,
    /// By [`PortId`].
    pub ports: Box<[Option<Port>]>,
    /// By [`NetworkId`].
    pub networks: Box<[Option<Network>]>,
    /// What the rooms above decide by.
    pub tables: T,
}

/// Where the current snapshot is found.
pub type Published<T = ()> = Arc<ArcSwap<Snapshot<T>>>;

impl<T> Snapshot<T> {
    /// The port, if it is configured.
    pub fn port(&self, port: PortId) -> Option<&Port> {
        self.ports.get(port.index())?.as_ref()
    }

    /// The same, by reference.
    pub fn view(&self) -> View<'_, T> {
        View {
            generation: self.generation,
            ports: &self.ports,
            networks: &self.networks,
            tables: &self.tables,
        }
    }

    /// The network, if it is configured.
    pub fn network(&self, network: NetworkId) -> Option<&Network> {
        self.networks.get(network.index())?.as_ref()
    }
}

/// A snapshot by reference, with the tables of one room: each gets those that it decides by and no others'. Without
/// any, a frame on its way out gets its form by it.
pub struct View<'a, T = ()> {
    /// As in [`Snapshot`].
    pub generation: u64,
    /// As in [`Snapshot`].
    pub ports: &'a [Option<Port>],
    /// As in [`Snapshot`].
    pub networks: &'a [Option<Network>],
    /// What the room decides by.
    pub tables: &'a T,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<'a, T> View<'a, T> {
    /// The port, if it is configured.
    pub fn port(self, port: PortId) -> Option<&'a Port> {
        self.ports.get(port.index())?.as_ref()
    }

    /// The network, if it is configured.
    pub fn network(self, network: NetworkId) -> Option<&'a Network> {
        self.networks.get(network.index())?.as_ref()
    }

    /// The network that the port belongs to.
    pub fn home(self, port: PortId) -> Option<&'a Network> {
        self.network(self.port(port)?.network)
    }

    /// The same with other tables.
    pub const fn with<U>(self, tables: &'a U) -> View<'a, U> {
        View { generation: self.generation, ports: self.ports, networks: self.networks, tables }
    }

    /// The same without tables.
    pub const fn bare(self) -> View<'a> {
        self.with(&())
    }
}

/// A switch port.
#[derive(Clone)]
pub struct Port {
    /// The network it belongs to.
    pub network: NetworkId,
    /// The MAC address given to its container.
    pub mac: MacAddr,
    /// The addresses given to its container, IPv4 v4-mapped, and the link-local one that its MAC makes.
    pub addresses: Box<[Ipv6Addr]>,
    /// The VLANs it carries.
    pub tagging: Tagging,
    /// It may talk to the gateway and to ports that are not isolated, and to no other.
    pub isolated: bool,
    /// It stands for another host that the network is on, with whoever is behind it.
    pub remote: Option<Remote>,
}

/// A port that is another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its MAC addresses are learned from what comes from there.
    pub learns: bool,
    /// What is for everybody goes there.
    pub floods: bool,
    /// Largest IP packet that gets there, where that is less than the network's: a link on the way is narrower.
    pub mtu: Option<u32>,
}

impl Port {
    /// A port that carries all VLANs and is not isolated.
    pub const fn new(network: NetworkId, mac: MacAddr, addresses: Box<[Ipv6Addr]>) -> Self {
        Self { network, mac, addresses, tagging: Tagging::All, isolated: false, remote: None }
    }
}

/// A network: one bridge domain.
#[derive(Clone)]
pub struct Network {
    /// The address plan it belongs to.
    pub zone: u16,
    /// Largest IP packet, bytes; super-frames are judged by their segments.
    pub mtu: u32,
    /// The VLAN in which its gateway is, 0: where frames have no tag.
    pub vlan: u16,
    /// Containers of this network may talk to each other.
    pub icc: bool,
    /// Frames that bridges say to each other (IEEE 802.1Q-2018 table 8-1) pass as by a cable.
    pub transparent: bool,
    /// Who may use which address.
    pub spoof: Spoof,
    /// Broadcast, multicast and unknown frames per second and port; 0: no limit.
    pub storm: u32,
    /// Learned and static MAC addresses.
    pub fdb: Arc<Fdb>,
    /// Who listens to which multicast group; `None`: nobody looks (`snooping = false`), and all goes to all.
    pub groups: Option<Arc<Groups>>,
    /// Ports that a flood goes to: those that are up.
    pub members: Box<[PortId]>,
    /// Who owns which address.
    pub claims: Claims,
    /// Who has which address on other hosts, as far as that was told: IPv4 v4-mapped. Whoever asks for one is answered
    /// here.
    pub told: Arc<Told>,
}

/// MAC addresses by the IP addresses that have them.
pub type Told = HashMap<Ipv6Addr, MacAddr, RandomState>;

/// Who may use which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoof {
    /// Everything goes.
    Off,
    /// Nobody uses an address that belongs to another port or a gateway.
    Claimed,
    /// Only one's own addresses, link-local ones and probes.
    Strict,
}

/// The owner of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The container behind this port.
    Port(PortId),
    /// The switch itself.
    Gateway,
}

/// A prefix behind a container that routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Its first address; IPv4 is v4-mapped.
    pub address: Ipv6Addr,
    /// Bits that count, of 128.
    pub len: u8,
}

impl Routed {
    /// Whether `address` is in it.
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        let host = u128::MAX.checked_shr(u32::from(self.len)).unwrap_or(0);
        (self.address.to_bits() ^ address.to_bits()) & !host == 0
    }
}

/// Which address belongs to whom.
#[derive(Clone, Default)]
pub struct Claims {
    /// MAC addresses.
    pub macs: HashMap<MacAddr, Owner, RandomState>,
    /// IP addresses, IPv4 v4-mapped.
    pub ips: HashMap<Ipv6Addr, Owner, RandomState>,
    /// What is behind containers that route (`[[route]]`): theirs to use as a source, under `strict` as well.
    pub routed: HashMap<PortId, Box<[Routed]>, RandomState>,
    /// The port behind which the host itself is. Its kernel takes packets for any of its addresses, and forwards others:
    /// so it gets ARP and what is for its address in this network, and nothing else.
    pub host: Option<PortId>,
}

impl Claims {
    /// Whether a frame for one port may go there.
    pub fn may_reach(&self, out: PortId, packet: &Packet) -> bool {
        self.host != Some(out)
            || packet.meta.l3 == L3::Arp
            || (packet.meta.l3 == L3::V4 && self.ips.get(&packet.key.dst) == Some(&Owner::Port(out)))
    }

    /// The port that a frame for all ports does not go to.
    pub fn spared(&self, packet: &Packet) -> Option<PortId> {
        self.host.filter(|host| !self.may_reach(*host, packet))
    }
}
