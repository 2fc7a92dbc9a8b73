//! The control API: HTTP and JSON on a Unix socket, one resource a table.
//!
//! ```text
//! client -> server (connections, limits) -> http (paths, JSON) -> Call -> the control plane's actor -> Reply
//! ```
//!
//! The HTTP side knows no state of the switch and the actor knows no HTTP: they share [`Request`] and [`Answer`].

pub mod http;
pub mod rows;
pub mod server;

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use switch::mac::MacAddr;
use tokio::sync::oneshot;

use crate::config::Publish;
use crate::wire::Target;
use rows::{
    ClusterDetail, ConnectionRow, ContainerRow, Done, DropRow, FdbRow, GroupRow, NatRow, NeighborRow,
    NetworkDetail, NetworkRow, PortRow, RouteRow, Spoof, Stats, Status, TraceAsk, TraceRow, Transport,
    VtepRow, optional_text, text,
};

/// One question to the control plane, and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes. A receiver that is gone is a client that gave up: no fault.
    pub reply: oneshot::Sender<Reply>,
}

/// The answer to a [`Call`].
pub type Reply = Result<Answer, ApiError>;

/// Everything that can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// All FDB entries; [`Answer::Fdb`].
    Fdb,
    /// All routes; [`Answer::Routes`].
    Routes,
    /// All neighbours; [`Answer::Neighbors`].
    Neighbors,
    /// Who listens to which multicast group; [`Answer::Groups`].
    Groups,
    /// The other hosts of the overlay; [`Answer::Vxlan`].
    Vxlan,
    /// What is known of the cluster; [`Answer::Cluster`].
    Cluster,
    /// Add a static entry; [`Answer::Done`].
    FdbAdd(FdbAdd),
    /// Remove an entry; [`Answer::Done`].
    FdbDel(FdbDel),
    /// Forget learned entries; [`Answer::Done`] with their number.
    FdbFlush(FdbFlush),
    /// All ports; [`Answer::Ports`].
    Ports,
    /// All networks; [`Answer::Networks`].
    Networks,
    /// One network with what is in it; [`Answer::Network`].
    Network {
        /// Its name.
        name: String,
    },
    /// Make a network; [`Answer::NetworkRow`].
    NetworkCreate(NetworkCreate),
    /// Remove a network; [`Answer::Done`].
    NetworkRemove {
        /// Its name.
        name: String,
    },
    /// Give a container an interface in a network; [`Answer::Port`].
    Connect {
        /// The network.
        network: String,
        /// The interface.
        interface: Connect,
    },
    /// Take interfaces of a container out of a network; [`Answer::Done`].
    Disconnect {
        /// The network.
        network: String,
        /// Which.
        interface: Disconnect,
    },
    /// All containers; [`Answer::Containers`].
    Containers,
    /// How a process enters a container; [`Answer::Target`].
    Target {
        /// The container.
        container: String,
    },
    /// Dropped frames; [`Answer::Drops`].
    Drops {
        /// For each port apart.
        ports: bool,
    },
    /// Published l4 ports; [`Answer::Nat`].
    Nat,
    /// What goes through the uplink; [`Answer::Connections`].
    Connections(ConnectionFilter),
    /// Publish l4 ports, all of them or none; [`Answer::Nat`] with their rows.
    Publish(Publishing),
    /// Take published l4 ports back; [`Answer::Done`].
    Unpublish(Publishing),
    /// Rates and totals; [`Answer::Stats`].
    Stats,
    /// The daemon itself; [`Answer::Status`].
    Status,
    /// The running configuration; [`Answer::Config`].
    Config,
    /// What would become of a packet; [`Answer::Trace`].
    Trace(TraceAsk),
    /// Read the configuration file again and apply the difference; [`Answer::Done`].
    Reload,
    /// Apply this configuration; [`Answer::Done`].
    Apply {
        /// What to call it in messages.
        name: String,
        /// TOML.
        text: String,
    },
}

/// What is answered: in JSON the bare row or rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// FDB entries.
    Fdb(Vec<FdbRow>),
    /// Routes.
    Routes(Vec<RouteRow>),
    /// Neighbours.
    Neighbors(Vec<NeighborRow>),
    /// Who listens to which multicast group.
    Groups(Vec<GroupRow>),
    /// The other hosts of the overlay.
    Vxlan(Vec<VtepRow>),
    /// The cluster; `None`: there is none.
    Cluster(Option<Box<ClusterDetail>>),
    /// Ports.
    Ports(Vec<PortRow>),
    /// The port that was made.
    Port(PortRow),
    /// Networks.
    Networks(Vec<NetworkRow>),
    /// The network that was made.
    NetworkRow(NetworkRow),
    /// A network with what is in it.
    Network(NetworkDetail),
    /// Containers.
    Containers(Vec<ContainerRow>),
    /// How to enter a container.
    Target(Target),
    /// Dropped frames.
    Drops(Vec<DropRow>),
    /// Published l4 ports.
    Nat(Vec<NatRow>),
    /// What goes through the uplink.
    Connections(Vec<ConnectionRow>),
    /// Rates and totals.
    Stats(Stats),
    /// The daemon.
    Status(Box<Status>),
    /// The running configuration.
    Config(serde_json::Value),
    /// What would become of a packet.
    Trace(Box<TraceRow>),
    /// Done.
    Done(Done),
}

/// A static FDB entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FdbAdd {
    /// The network.
    pub network: String,
    /// The address.
    #[serde(with = "text")]
    pub mac: MacAddr,
    /// The container it is in.
    pub container: String,
    /// The interface; default: the container's only one in that network.
    pub interface: Option<String>,
    /// VLAN, 1 to 4094; default untagged.
    #[serde(default, deserialize_with = "vlan_id")]
    pub vlan: Option<u16>,
}

/// Which FDB entry to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FdbDel {
    /// The network.
    pub network: String,
    /// The address.
    #[serde(with = "text")]
    pub mac: MacAddr,
    /// VLAN, 1 to 4094; default untagged.
    #[serde(default, deserialize_with = "vlan_id")]
    pub vlan: Option<u16>,
}

/// Which learned FDB entries to forget: those that match all that is given; nothing given: all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FdbFlush {
    /// Of this network.
    pub network: Option<String>,
    /// Behind ports of this container.
    pub container: Option<String>,
    /// Behind this interface of the container.
    pub interface: Option<String>,
    /// Of this VLAN, 1 to 4094.
    #[serde(default, deserialize_with = "vlan_id")]
    pub vlan: Option<u16>,
}

/// A network to be made. What is not given is as in the configuration's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkCreate {
    /// Its name.
    pub name: String,
    /// IPv4 subnet.
    pub subnet: Option<IpNet>,
    /// IPv6 subnet.
    pub subnet6: Option<IpNet>,
    /// The gateway's IPv4 address; default the first one of the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// The gateway's IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<Ipv6Addr>,
    /// The gateway's MAC address; default made from its address.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_text")]
    pub gateway_mac: Option<MacAddr>,
    /// The VLAN its gateway is in, 1 to 4094.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// What bridges say to each other (STP, LACP, LLDP) passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transparent: Option<bool>,
    /// Frames for multicast groups go to those who listen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snooping: Option<bool>,
    /// Its name on the underlay, 1 to 16777215: it is on other hosts too, by `[vxlan]` of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// MTU, bytes.
    pub mtu: Option<u32>,
    /// Whether its containers may talk to each other.
    pub icc: Option<bool>,
    /// What leaves by an uplink with an address has that address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<bool>,
    /// The same of IPv6; default as `nat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat6: Option<bool>,
    /// No uplink, no other network.
    pub internal: Option<bool>,
    /// Addresses by DHCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp: Option<bool>,
    /// Seconds after which a silent FDB entry is forgotten.
    pub ageing: Option<u64>,
    /// Most FDB entries.
    pub fdb_limit: Option<u32>,
    /// What to do about others' source addresses.
    pub spoof: Option<Spoof>,
    /// Broadcast and unknown frames per second and port; 0: no limit.
    pub storm: Option<u64>,
}

/// An interface to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// The container.
    pub container: String,
    /// Where its namespace is, as in the configuration; default: where it is known to be, else its name.
    pub netns: Option<String>,
    /// Make the namespace if it is not there.
    #[serde(default)]
    pub create: bool,
    /// The interface's name; default the next free `ethN`.
    pub interface: Option<String>,
    /// IPv4 address; default the next free one.
    pub ip: Option<Ipv4Addr>,
    /// IPv6 address; default the next free one.
    pub ip6: Option<Ipv6Addr>,
    /// MAC address; default made from the address.
    #[serde(default, with = "optional_text")]
    pub mac: Option<MacAddr>,
    /// Other names of the container in the network.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The VLAN of its untagged frames, 1 to 4094; without it and `trunk` it carries all VLANs, tagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The VLANs that it carries tagged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trunk: Vec<u16>,
    /// It may talk to the gateway and to interfaces that are not isolated, and to no other.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
}

/// L4 ports of the host for a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publishing {
    /// The container.
    pub container: String,
    /// Its interface; default: the first where it can be, or is.
    pub interface: Option<String>,
    /// Entries as in the configuration.
    pub publish: Vec<Publish>,
}

/// Which connections: those that match all that is given; nothing given: all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionFilter {
    /// Of this container.
    pub container: Option<String>,
    /// That speak this.
    pub protocol: Option<Transport>,
    /// With this l4 port on either side.
    pub port: Option<u16>,
}

/// Which interface to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disconnect {
    /// The container.
    pub container: String,
    /// The interface; default: the only one it has in that network.
    pub interface: Option<String>,
}

/// IEEE 802.1Q-2018 table 9-2: 0 is the null VLAN, 4095 reserved.
fn vlan_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    match Option::<u16>::deserialize(deserializer)? {
        Some(vlan) if !(1..=4094).contains(&vlan) => {
            Err(serde::de::Error::custom(format!("vlan {vlan} is not in 1 to 4094")))
        }
        vlan => Ok(vlan),
    }
}

/// What sort of no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiErrorKind {
    /// There is no such object: 404.
    NotFound,
    /// It is there already, or in use: 409.
    Conflict,
    /// What was asked makes no sense: 422.
    Invalid,
    /// The caller, the host or the configuration does not allow it: 403.
    Refused,
    /// Not now: 503.
    Unavailable,
    /// The daemon ends and has done nothing; who takes over from it can be asked at once: 503 with `Retry-After`.
    Ending,
}

/// Why something was not done. In JSON `{"error": "one line", "details": [..]}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What sort of no.
    pub kind: ApiErrorKind,
    /// One line.
    pub message: String,
    /// Single faults, a line each (of a configuration); else empty.
    pub details: Vec<String>,
}

impl ApiError {
    /// An error of one line.
    pub fn new(kind: ApiErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), details: Vec::new() }
    }

    /// What is asked of a daemon that has no time for it any more.
    pub fn ending() -> Self {
        Self::new(ApiErrorKind::Ending, "the daemon is ending")
    }

    /// A configuration with faults, a line each.
    pub fn faults(message: impl Into<String>, details: Vec<String>) -> Self {
        Self { kind: ApiErrorKind::Invalid, message: message.into(), details }
    }
}

/// The body of every answer that is a no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One line.
    pub error: String,
    /// Single faults, a line each; may be empty.
    #[serde(default)]
    pub details: Vec<String>,
}
