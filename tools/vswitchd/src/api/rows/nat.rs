//! `/v1/nat`: l4 ports of the host that lead to containers; `/v1/connections`: what goes through the uplink; and how the
//! uplink is.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Origin, PortState, UnknownWord};

words! {
    /// State of a published entry.
    NatState {
        /// Clients are served.
        Up = "up",
        /// Nothing listens: the container is not there. Clients are refused.
        Waiting = "waiting",
        /// The host said no; the reason stands beside it.
        Failed = "failed",
    }
}

words! {
    /// Who opened a connection.
    Direction {
        /// The container.
        Out = "out",
        /// A client of a published l4 port.
        In = "in",
    }
}

words! {
    /// What connections speak.
    Transport {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
        /// ICMP echo.
        Icmp = "icmp",
        /// ICMPv6 echo.
        Icmp6 = "icmp6",
        /// SCTP.
        Sctp = "sctp",
        /// Any other.
        Other = "other",
    }
}

/// One entry of `publish`: an l4 port, or a range of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatRow {
    /// The host's address; `null`: all it has.
    pub address: Option<IpAddr>,
    /// L4 ports of the host: `8080`, `9000-9010`; `0`: not chosen yet.
    pub ports: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The container.
    pub container: String,
    /// Its interface.
    pub iface: String,
    /// Its address, that of IPv4 where it has both; `null`: it has none.
    pub target: Option<IpAddr>,
    /// Its l4 ports.
    pub target_ports: String,
    /// State.
    pub state: NatState,
    /// Clients, which is connections, or for UDP flows: of a listening socket those so far, where packets are rewritten
    /// those that are there.
    pub clients: u64,
    /// The entry, as `unpublish` takes it.
    pub publish: String,
    /// Who made it.
    pub origin: Origin,
    /// Why it is not up; `null` when it is.
    pub reason: Option<String>,
}

/// One connection, or what passes for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// What it speaks.
    pub protocol: Transport,
    /// Who opened it.
    pub direction: Direction,
    /// The container.
    pub container: String,
    /// Its interface.
    pub iface: String,
    /// Who opened it, as the container sees it; the l4 port of an echo is its identifier.
    pub source: SocketAddr,
    /// Whom, likewise.
    pub destination: SocketAddr,
    /// State.
    pub state: String,
    /// Seconds since something was seen of it.
    pub idle: u64,
    /// Payload from the container, bytes.
    pub bytes_out: u64,
    /// Payload to the container, bytes, what was sent again included.
    pub bytes_in: u64,
    /// Our end of its socket, or what the container's end is outside.
    pub local: Option<SocketAddr>,
    /// The other end: a client's real address, whoever stands in for it.
    pub peer: Option<SocketAddr>,
}

/// The next hop of a default route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkGateway {
    /// Its address.
    pub address: IpAddr,
    /// Whether it answers: its MAC address is known.
    pub known: bool,
}

/// The port of an uplink that takes packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkPort {
    /// The interface: of a TAP the one at its other end, or the NIC.
    pub iface: String,
    /// Its state.
    pub state: PortState,
    /// Why it is not up.
    pub reason: Option<String>,
}

/// The way out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// `sockets`, `tap`, `nic` or `none`.
    pub kind: String,
    /// Our addresses outside, where packets leave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Next hops of the default routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<UplinkGateway>,
    /// Its port, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<UplinkPort>,
    /// Connections now.
    pub connections: u64,
    /// Most connections.
    pub max_connections: u64,
    /// Why containers' pings get no answer from outside; `null` when they do.
    pub ping: Option<String>,
    /// What happened since the start, by name.
    pub counters: BTreeMap<String, u64>,
}
