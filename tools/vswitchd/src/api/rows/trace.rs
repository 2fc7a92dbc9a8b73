//! `/v1/trace`: what would become of a packet.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use switch::mac::MacAddr;

use super::{ToldBy, UnknownWord, optional_text};

words! {
    /// A hop of a packet's way, in their order.
    Hop {
        /// A device gives a frame.
        Rx = "rx",
        /// Bytes become a packet.
        Parse = "parse",
        /// What a port may send at all.
        Admit = "admit",
        /// The source MAC belongs behind the port.
        Learn = "learn",
        /// Where it goes.
        Decide = "decide",
        /// What that costs.
        Track = "track",
        /// What is changed in it.
        Apply = "apply",
        /// Into the out port, or ports.
        Tx = "tx",
    }
}

words! {
    /// What becomes of a packet.
    Fate {
        /// To one port.
        Forward = "forward",
        /// To several.
        Flood = "flood",
        /// For a gateway, which did something about it.
        Local = "local",
        /// By the uplink.
        Uplink = "uplink",
        /// It waits for an answer for the next hop's address.
        Held = "held",
        /// To nobody.
        Drop = "drop",
    }
}

/// The answer to `POST /v1/trace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRow {
    /// The interface that the packet came by.
    pub from: TracePort,
    /// The packet.
    pub packet: TracePacket,
    /// What each hop did, and why.
    pub steps: Vec<TraceStep>,
    /// What became of it.
    pub verdict: Fate,
    /// Why it was dropped: a name of `/v1/drops`; `null`: it was not.
    pub reason: Option<String>,
    /// One line that says what the packet did; `null`: it was not dropped.
    pub explanation: Option<String>,
    /// What came out: the packet as it would leave, or what was said about it.
    pub out: Vec<TraceOut>,
}

/// An interface of a container, or another host: its container is `-vtep` and its interface the host's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracePort {
    /// The switch port; `null`: a host that is not known to be on the network has none.
    pub port: Option<u16>,
    /// The network.
    pub network: String,
    /// The container.
    pub container: String,
    /// The interface.
    pub iface: String,
    /// How the packet gets there or comes from there, where that is another host.
    #[serde(default)]
    pub tunnel: Option<TraceTunnel>,
}

/// The outer packets of a frame between two hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceTunnel {
    /// The network that the VXLAN header names.
    pub vni: u32,
    /// Outer source address.
    pub source: IpAddr,
    /// Outer destination address.
    pub destination: IpAddr,
    /// UDP l4 port that they go to.
    pub port: u16,
    /// Who says that the other host is on the network; `null`: nobody.
    pub told: Option<ToldBy>,
    /// How many outer packets.
    pub datagrams: u64,
    /// Bytes of the longest of them.
    pub length: u64,
    /// Their TOS or traffic class.
    pub tos: u8,
}

/// A packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracePacket {
    /// In one line, much as tcpdump has it.
    pub text: String,
    /// Bytes of the frame.
    pub length: u64,
    /// The frame, from the Ethernet header on, in hexadecimal digits.
    pub hex: String,
}

/// What one hop did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStep {
    /// The hop.
    pub hop: Hop,
    /// What it found, a line each.
    pub lines: Vec<String>,
}

/// A packet that came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceOut {
    /// The packet.
    pub packet: TracePacket,
    /// It was made here: an answer, a question, an error, a fragment.
    pub made: bool,
    /// Where it came out.
    pub ports: Vec<TracePort>,
}

words! {
    /// A flag of TCP.
    TcpFlag {
        /// No more data.
        Fin = "fin",
        /// Opens a connection.
        Syn = "syn",
        /// Ends it at once.
        Rst = "rst",
        /// To be given to the reader at once.
        Psh = "psh",
        /// The acknowledgement counts.
        Ack = "ack",
        /// The urgent pointer counts.
        Urg = "urg",
        /// ECN echo.
        Ece = "ece",
        /// Congestion window reduced.
        Cwr = "cwr",
    }
}

/// The body of `POST /v1/trace`: a packet, whole or described, as if a container had sent it, or another host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceAsk {
    /// The container.
    pub from: Option<String>,
    /// Its interface; default: its only one.
    pub interface: Option<String>,
    /// Another host instead, by its address on the underlay. It need not be known.
    #[serde(default)]
    pub vtep: Option<IpAddr>,
    /// The network that its datagram names; default: the only one there is.
    #[serde(default)]
    pub vni: Option<u32>,
    /// A frame from the Ethernet header on, in hexadecimal digits.
    pub hex: Option<String>,
    /// Its description instead.
    pub packet: Option<TraceDescribed>,
}

/// A packet in words. What is not said is as the container's kernel would have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceDescribed {
    /// Its destination.
    pub to: IpAddr,
    /// TCP to this l4 port.
    pub tcp: Option<u16>,
    /// UDP to this l4 port.
    pub udp: Option<u16>,
    /// An echo request, which is also what is sent if nothing is said.
    #[serde(default)]
    pub icmp: bool,
    /// An ARP request for `to`.
    #[serde(default)]
    pub arp: bool,
    /// Source address.
    pub src_ip: Option<IpAddr>,
    /// Source MAC.
    #[serde(default, with = "optional_text")]
    pub src_mac: Option<MacAddr>,
    /// Destination MAC.
    #[serde(default, with = "optional_text")]
    pub dst_mac: Option<MacAddr>,
    /// Source l4 port, or the identifier of an echo request.
    pub sport: Option<u16>,
    /// TTL or hop limit.
    pub ttl: Option<u8>,
    /// Don't Fragment.
    pub df: Option<bool>,
    /// Bytes of the IP packet.
    pub length: Option<u16>,
    /// VLAN.
    pub vlan: Option<u16>,
    /// TCP flags; none: syn.
    #[serde(default)]
    pub flags: Vec<TcpFlag>,
}

impl Default for TraceDescribed {
    fn default() -> Self {
        Self {
            to: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            tcp: None,
            udp: None,
            icmp: false,
            arp: false,
            src_ip: None,
            src_mac: None,
            dst_mac: None,
            sport: None,
            ttl: None,
            df: None,
            length: None,
            vlan: None,
            flags: Vec::new(),
        }
    }
}
