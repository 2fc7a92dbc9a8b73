//! The uplink as packets: `kind = "tap"` and `kind = "nic"`.
//!
//! For all that happens to it it is a network, [`UPLINK`], with one port: the interface of one container, [`OUTSIDE`], as
//! the host's legs are ([`super::host`]). Neither is in [`Config::networks`] or [`Config::containers`]: nobody connects to
//! it, it has no names, no addresses to give, and no network of the file may be called so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Serialize;
use switch::mac::MacAddr;

use super::Family;
use super::model::{
    Config, Container, Interface, Network, Spoof, as_optional_text, as_text, mac_from_address,
};
use crate::wire::NetnsRef;

/// The name of the network that is the uplink.
pub const UPLINK: &str = "uplink";

/// The name that stands for what is outside where a container's would. No container can have it.
pub const OUTSIDE: &str = "-outside";

/// `[uplink]` of an uplink that takes packets, with `[limits]` and `[timeouts]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outside {
    /// What its port is.
    pub device: Device,
    /// Our IPv4 addresses there, the gateway's first; with `subnet`.
    pub addresses: Vec<Ipv4Addr>,
    /// Where they are.
    #[serde(serialize_with = "as_optional_text")]
    pub subnet: Option<Ipv4Net>,
    /// The same of IPv6.
    pub addresses6: Vec<Ipv6Addr>,
    /// Where they are.
    #[serde(serialize_with = "as_optional_text")]
    pub subnet6: Option<Ipv6Net>,
    /// Next hop of the default route; `None`: there is nothing but the subnet.
    pub gateway: Option<Ipv4Addr>,
    /// The same of IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// Our MAC address there.
    #[serde(serialize_with = "as_text")]
    pub mac: MacAddr,
    /// Of a NIC the VLAN we are in; `None`: where frames have no tag.
    pub vlan: Option<u16>,
    /// Bytes of an IP packet; `None`: what the NIC has.
    pub mtu: Option<u16>,
    /// Who may come in by a mapping.
    pub filtering: Filtering,
    /// An odd UDP l4 port becomes an odd one, an even one an even one (RFC 4787 section 4.2.2).
    pub parity: bool,
    /// How much of everything.
    pub limits: Limits,
    /// How long without traffic.
    pub timeouts: Timeouts,
}

/// The port of an uplink that takes packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// A TAP, and what its interface is in the namespace it is in.
    Tap {
        /// That namespace.
        #[serde(serialize_with = "as_text")]
        netns: NetnsRef,
        /// The interface's name.
        name: String,
        /// Its addresses.
        #[serde(serialize_with = "as_optional_text")]
        host: Option<Ipv4Net>,
        /// The same of IPv6.
        #[serde(serialize_with = "as_optional_text")]
        host6: Option<Ipv6Net>,
    },
    /// A NIC of the namespace in which the daemon runs, by its name.
    Nic(String),
}

/// `filtering`: who may come in by a mapping (RFC 4787 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filtering {
    /// Anybody.
    Endpoint,
    /// Whoever has an address that was written to.
    Address,
    /// The l4 port of it that was written to.
    AddressPort,
}

/// `[limits]`. They take effect at the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Connections of all.
    pub connections: u32,
    /// Connections of one container's interface; 0: as many as leave room for others.
    pub connections_per_container: u32,
    /// L4 ports in use for each address and protocol.
    pub mappings: u32,
    /// L4 ports that one container's interface may use, for each protocol.
    pub mappings_per_container: u32,
    /// Packets whose fragments are being followed.
    pub fragments: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1 << 18,
            connections_per_container: 0,
            mappings: 60_000,
            mappings_per_container: 1 << 15,
            fragments: 1024,
        }
    }
}

/// `[timeouts]`, seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// UDP.
    pub udp: u32,
    /// TCP that both sides have opened and neither has closed.
    pub tcp_established: u32,
    /// Any other TCP.
    pub tcp_transitory: u32,
    /// ICMP queries.
    pub icmp: u32,
    /// What is none of these.
    pub others: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { udp: 300, tcp_established: 7440, tcp_transitory: 240, icmp: 60, others: 300 }
    }
}

impl Outside {
    /// Every address of ours there with its subnet, the first of each family being the gateway's.
    pub fn legs(&self) -> impl Iterator<Item = (IpAddr, IpNet)> + '_ {
        let v4 = self.addresses.iter().filter_map(|address| Some(((*address).into(), self.subnet?.into())));
        let v6 = self.addresses6.iter().filter_map(|address| Some(((*address).into(), self.subnet6?.into())));
        v4.chain(v6)
    }

    /// The first address of ours there, of a family.
    pub fn address_of(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.addresses.first().map(|v4| IpAddr::V4(*v4)),
            Family::V6 => self.addresses6.first().map(|v6| IpAddr::V6(*v6)),
        }
    }

    /// Whether `address` is one of ours there.
    pub fn has(&self, address: IpAddr) -> bool {
        self.legs().any(|(ours, _)| ours == address)
    }

    /// Next hops of the default routes.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.gateway.map(IpAddr::V4).into_iter().chain(self.gateway6.map(IpAddr::V6))
    }

    /// The network that it is. `mtu` is the NIC's, where the file says nothing of it.
    pub fn network(&self, mtu: Option<u16>) -> Network {
        Network {
            subnet: self.subnet,
            subnet6: self.subnet6,
            gateway: self.addresses.first().copied(),
            gateway6: self.addresses6.first().copied(),
            gateway_mac: Some(self.mac),
            mtu: self.mtu.or(mtu).unwrap_or(1500),
            vlan: self.vlan,
            // Whoever is out there has whatever address he has; the router looks that it is none of ours.
            spoof: Spoof::Off,
            ..Network::with_defaults(UPLINK)
        }
    }

    /// Its port, as the one interface of a container.
    pub fn container(&self) -> Container {
        let (netns, name, ip, ip6) = match &self.device {
            Device::Tap { netns, name, host, host6 } => (netns.clone(), name.clone(), *host, *host6),
            Device::Nic(device) => (NetnsRef::Host, device.clone(), None, None),
        };
        let address = ip.map(|ip| ip.addr().into()).or(ip6.map(|ip| ip.addr().into()));
        // Of a NIC it is ours: the one that frames to us have.
        let mac = match (&self.device, address) {
            (Device::Tap { .. }, Some(address)) => apart(mac_from_address(address), self.mac),
            (Device::Tap { .. }, None) => apart(self.mac, self.mac),
            (Device::Nic(_), _) => self.mac,
        };
        let interface = Interface { ip, ip6, vlan: self.vlan, ..Interface::plain(UPLINK, name, mac) };
        Container {
            name: OUTSIDE.to_owned(),
            netns,
            create: false,
            command: Vec::new(),
            egress: Vec::new(),
            interfaces: vec![interface],
        }
    }
}

/// `mac`, or one like it where that is `taken`.
fn apart(mac: MacAddr, taken: MacAddr) -> MacAddr {
    let MacAddr([first, a, b, c, d, e]) = mac;
    // Bits 2 to 7 are free of a locally administered address.
    if mac == taken { MacAddr([first ^ 0x04 | 0x02, a, b, c, d, e]) } else { mac }
}

impl Config {
    /// The interfaces that are no container's: the host's legs, and the uplink's port.
    pub fn ours(&self) -> impl Iterator<Item = Container> {
        self.host().into_iter().chain(self.outside.as_ref().map(Outside::container))
    }

    /// Whether what leaves this network by the uplink gets an address of the uplink.
    pub fn masquerades(&self, network: &Network, family: Family) -> bool {
        match family {
            Family::V4 => network.nat,
            Family::V6 => network.nat6,
        }
    }
}
