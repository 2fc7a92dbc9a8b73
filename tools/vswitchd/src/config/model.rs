//! The configuration as plain, validated data: every default filled in, every name resolved, every address given.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Serialize, Serializer};
use switch::mac::MacAddr;

use super::cluster::Cluster;
use super::outside::Outside;
use super::vxlan::Vxlan;
use super::{Egress, Family, Paths, Publish};
use crate::wire::NetnsRef;

/// What the daemon is to be. Two files that mean the same give equal values.
///
/// Networks and containers keep the order of the file; what is added at run time comes after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config {
    /// `[daemon]`.
    pub daemon: Daemon,
    /// `[uplink]`, where it takes packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outside: Option<Outside>,
    /// `[vxlan]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vxlan: Option<Vxlan>,
    /// `[cluster]`; then there is `[vxlan]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// `[[network]]`, names unique.
    pub networks: Vec<Network>,
    /// `[[container]]`, names unique.
    pub containers: Vec<Container>,
    /// `[[route]]`, in the order of the file; in a zone no destination is there twice.
    pub routes: Vec<Route>,
}

/// Settings of the process itself. They take effect at the next start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Daemon {
    /// The control socket, an absolute path of at most 107 bytes.
    #[serde(serialize_with = "path_as_text")]
    pub control: PathBuf,
    /// The folder for what survives a restart, an absolute path.
    #[serde(serialize_with = "path_as_text")]
    pub state: PathBuf,
    /// How many worker threads.
    pub workers: Workers,
    /// How devices are read and written.
    pub io: Io,
    /// `[uplink] kind`: the way out.
    pub uplink: Uplink,
    /// `[uplink] host_loopback`: to containers their gateway's address stands for the host's loopback. Unlike the
    /// others it takes effect at once.
    pub host_loopback: bool,
    /// ICMP errors that are sent. They take effect at once, too.
    pub icmp_errors: IcmpErrors,
}

/// `[limits] icmp_errors`: how many ICMP errors gateways send, a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IcmpErrors {
    /// All together; 0: none.
    pub all: u32,
    /// For what comes from one container's interface; 0: none.
    pub per_container: u32,
}

impl Default for IcmpErrors {
    /// Linux: `icmp_msgs_per_sec`; and three at once for traceroute, where its `icmp_ratelimit` is one a second.
    fn default() -> Self {
        Self { all: 1000, per_container: 100 }
    }
}

impl Daemon {
    /// All defaults, with these paths.
    pub fn new(paths: &Paths) -> Self {
        Self {
            control: paths.control.clone(),
            state: paths.state.clone(),
            workers: Workers::Auto,
            io: Io::Auto,
            uplink: Uplink::Sockets,
            host_loopback: false,
            icmp_errors: IcmpErrors::default(),
        }
    }
}

/// `workers`: text `"auto"` or a number, in the file as in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// As many as the machine's cores call for.
    Auto,
    /// Exactly so many, at least 1.
    Count(u16),
}

impl Serialize for Workers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Count(count) => serializer.serialize_u16(*count),
        }
    }
}

/// `io`: the engine that reads and writes devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Io {
    /// The best that the kernel allows, found by a probe at start.
    Auto,
    /// io_uring; the daemon does not start where the kernel refuses it.
    Uring,
    /// epoll, read and write.
    Epoll,
}

/// `uplink.kind`: how packets leave that are for no network of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Uplink {
    /// Not at all.
    None,
    /// As ordinary sockets of the daemon.
    Sockets,
    /// As packets, by a TAP in the host's or another namespace.
    Tap,
    /// As packets, by a NIC.
    Nic,
}

impl Uplink {
    /// Whether packets leave as they are, with another address perhaps.
    pub const fn takes_packets(self) -> bool {
        matches!(self, Self::Tap | Self::Nic)
    }
}

/// `spoof`: which source addresses a port may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spoof {
    /// Anything but a MAC or address that belongs to another port or a gateway.
    Claimed,
    /// Only the port's own.
    Strict,
    /// Anything.
    Off,
}

/// A network: one bridge domain and its subnets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Network {
    /// 1 to 63 letters, digits, `_`, `.` and `-`.
    pub name: String,
    /// Where IPv4 addresses come from; without it and `subnet6`: layer 2 only. Host bits are zero.
    #[serde(serialize_with = "as_optional_text")]
    pub subnet: Option<Ipv4Net>,
    /// The same for IPv6; then `mtu` is at least 1280.
    #[serde(serialize_with = "as_optional_text")]
    pub subnet6: Option<Ipv6Net>,
    /// The gateway's address, when the file names one; see [`Network::reserved_address`] for the one it has otherwise,
    /// and [`Config::gateway_of`] for who answers there.
    pub gateway: Option<Ipv4Addr>,
    /// The same for IPv6: [`Network::reserved_address6`], [`Config::gateway6_of`].
    pub gateway6: Option<Ipv6Addr>,
    /// The MAC address of our gateway, when the file names one; see [`Network::reserved_macs`]. Unicast.
    #[serde(serialize_with = "as_optional_text")]
    pub gateway_mac: Option<MacAddr>,
    /// The host's own address in it, where it has one: see [`Network::host_leg`].
    pub host_address: Option<Ipv4Addr>,
    /// The VLAN its gateway and the host's leg are in; without: where frames have no tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// What bridges say to each other (STP, LACP, 802.1X, LLDP) passes.
    pub transparent: bool,
    /// Frames for multicast groups go to those who listen.
    pub snooping: bool,
    /// The network's name on the underlay, of 24 bits and not 0; no other network has it. Without: it is on this host only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// Bytes of an IP packet, 68 to 65521.
    pub mtu: u16,
    /// Whoever made the network named its MTU.
    #[serde(skip)]
    pub mtu_named: bool,
    /// Whether containers of this network may talk to each other.
    pub icc: bool,
    /// What leaves by an uplink that takes packets gets an address of the uplink.
    pub nat: bool,
    /// The same for IPv6.
    pub nat6: bool,
    /// No way out of it: no uplink, no other network, no default route.
    pub internal: bool,
    /// The networks it may open connections to.
    pub routes_to: RoutesTo,
    /// Interfaces that name no address get theirs by DHCP, and so does whoever else asks.
    pub dhcp: bool,
    /// Seconds until an unused FDB entry is forgotten.
    pub ageing: u32,
    /// How many FDB entries.
    pub fdb_limit: u32,
    /// Which source addresses a port may use.
    pub spoof: Spoof,
    /// Broadcast, multicast and unknown frames per second and port; 0: no limit.
    pub storm: u32,
}

impl Network {
    /// A network of this name with every default and no subnet. The name is not checked.
    pub(super) fn with_defaults(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            subnet: None,
            subnet6: None,
            gateway: None,
            gateway6: None,
            gateway_mac: None,
            host_address: None,
            vlan: None,
            transparent: false,
            snooping: false,
            vni: None,
            mtu: 1500,
            mtu_named: false,
            icc: true,
            nat: true,
            nat6: true,
            internal: false,
            routes_to: RoutesTo::default(),
            dhcp: false,
            ageing: 300,
            fdb_limit: 8192,
            spoof: Spoof::Claimed,
            storm: 10_000,
        }
    }

    /// The first and last address that hosts of its subnet can have.
    pub fn hosts(&self) -> Option<(Ipv4Addr, Ipv4Addr)> {
        match super::registry::hosts(&self.subnet?.into()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => Some((first, last)),
            _ => None,
        }
    }

    /// The address that is never given to a container by itself: the gateway, or the subnet's first address, which is
    /// kept for one. A subnet of two addresses (/31, RFC 3021) has none to spare.
    pub fn reserved_address(&self) -> Option<Ipv4Addr> {
        if self.gateway.is_some() {
            return self.gateway;
        }
        let subnet = self.subnet.filter(|subnet| subnet.prefix_len() <= 30)?;
        Some(Ipv4Addr::from_bits(subnet.network().to_bits().saturating_add(1)))
    }

    /// The same for IPv6, of which /127 (RFC 6164) is the one without an address to spare.
    pub fn reserved_address6(&self) -> Option<Ipv6Addr> {
        if self.gateway6.is_some() {
            return self.gateway6;
        }
        let subnet = self.subnet6.filter(|subnet| subnet.prefix_len() <= 126)?;
        Some(Ipv6Addr::from_bits(subnet.network().to_bits().saturating_add(1)))
    }

    /// The MAC addresses that no container takes but the one that is the gateway, each with that address: `gateway_mac`,
    /// or the ones made from the gateway's addresses as a container's is. None where there is no gateway.
    pub fn reserved_macs(&self) -> impl Iterator<Item = (MacAddr, IpAddr)> + '_ {
        let addresses = Family::BOTH.into_iter().filter_map(|family| self.reserved_of(family));
        addresses.map(|address| (self.gateway_mac.unwrap_or_else(|| mac_from_address(address)), address))
    }

    /// Whether other networks may be reached from it, and it from them: it has a gateway and is not internal.
    pub fn is_routed(&self) -> bool {
        !self.internal && self.has_gateway()
    }

    /// Whether it has a gateway, of whichever family, ours or a container.
    pub fn has_gateway(&self) -> bool {
        self.reserved_address().is_some() || self.reserved_address6().is_some()
    }
}

/// `routes_to`: the networks that a network may open connections to. In the file as in JSON an array of names or the
/// text `"all"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoutesTo {
    /// Every other network with a gateway that is not internal, be it made later.
    All,
    /// These, sorted and each once; none: no other network. Always some of [`Config::networks`], not internal.
    Some(Vec<String>),
}

impl RoutesTo {
    /// Whether it names no network at all.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Some(names) if names.is_empty())
    }
}

impl Default for RoutesTo {
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

impl Serialize for RoutesTo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Some(names) => names.serialize(serializer),
        }
    }
}

/// As a user writes it: one as a text, several as an array.
fn one_or_several<S: Serializer>(addresses: &[IpAddr], serializer: S) -> Result<S::Ok, S::Error> {
    match addresses {
        [one] => one.serialize(serializer),
        several => several.serialize(serializer),
    }
}

/// A route by routers that are in one of the networks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Route {
    /// The network the router is in; always one of [`Config::networks`], with a gateway and not internal.
    pub network: String,
    /// What is behind it. Host bits are zero; no subnet of the same zone.
    #[serde(serialize_with = "as_text")]
    pub destination: IpNet,
    /// The routers' addresses in the network's subnet of the same family, not the gateway's; one or more, none twice.
    #[serde(serialize_with = "one_or_several")]
    pub via: Vec<IpAddr>,
    /// Largest packet that gets there, bytes; `None`: as in the network, and never more than that takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// A container: a namespace we serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Container {
    /// 1 to 63 letters, digits, `_`, `.` and `-`.
    pub name: String,
    /// Where its namespace is found.
    #[serde(serialize_with = "as_text")]
    pub netns: NetnsRef,
    /// Make the namespace if it is not there, and remove it at the end.
    pub create: bool,
    /// Program and arguments to keep running in it; empty: none.
    pub command: Vec<String>,
    /// What it may open connections to, first match; where none matches it may.
    pub egress: Vec<Egress>,
    /// Its interfaces, names unique; none: it has loopback only.
    pub interfaces: Vec<Interface>,
}

/// An interface: one TAP in a container, one port of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// The network it is a port of; always one of [`Config::networks`].
    pub network: String,
    /// The device's name in the container.
    pub name: String,
    /// Address and prefix length; `None` where the network has no subnet.
    #[serde(serialize_with = "as_optional_text")]
    pub ip: Option<Ipv4Net>,
    /// The same of IPv6.
    #[serde(serialize_with = "as_optional_text")]
    pub ip6: Option<Ipv6Net>,
    /// The address is not set: whoever is behind the interface asks for it by DHCP, with the interface's MAC.
    pub dhcp: bool,
    /// Unicast, and the only one of its kind in the network.
    #[serde(serialize_with = "as_text")]
    pub mac: MacAddr,
    /// What it is called in the network beside its container's name; each once there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The VLAN of its untagged frames. Without it and `trunk` it carries all VLANs, tagged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The VLANs that it carries tagged, in order and each once, not `vlan`; empty with `vlan`: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trunk: Vec<u16>,
    /// It may talk to the gateway and to interfaces that are not isolated, and to no other of its network.
    pub isolated: bool,
    /// Where the container's default route points, on at most one of its interfaces.
    pub default_via: Option<Ipv4Addr>,
    /// The same for IPv6; the interface need not be the same one.
    pub default_via6: Option<Ipv6Addr>,
    /// L4 ports of the host that lead here, in the order of the file.
    pub publish: Vec<Publish>,
}

impl Interface {
    /// One of a network, with nothing but a name and a MAC.
    pub fn plain(network: &str, name: String, mac: MacAddr) -> Self {
        Self {
            network: network.to_owned(),
            name,
            ip: None,
            ip6: None,
            dhcp: false,
            mac,
            aliases: Vec::new(),
            vlan: None,
            trunk: Vec::new(),
            isolated: false,
            default_via: None,
            default_via6: None,
            publish: Vec::new(),
        }
    }
}

impl Config {
    /// The network of this name.
    pub fn network(&self, name: &str) -> Option<&Network> {
        self.networks.iter().find(|network| network.name == name)
    }

    /// The container of this name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// Every interface with its container, in order.
    pub fn interfaces(&self) -> impl Iterator<Item = (&Container, &Interface)> + Clone {
        self.containers.iter().flat_map(|c| c.interfaces.iter().map(move |i| (c, i)))
    }
}

/// The MAC address for an IP address, as Docker makes it; of IPv6 from the last 32 bits.
pub(super) fn mac_from_address(address: IpAddr) -> MacAddr {
    let [a, b, c, d] = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => (v6.to_bits() as u32).to_be_bytes(),
    };
    MacAddr([0x02, 0x42, a, b, c, d])
}

pub(super) fn as_text<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

pub(super) fn as_optional_text<T: fmt::Display, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

// A default path comes from the environment and may be any bytes; JSON may not.
fn path_as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}
