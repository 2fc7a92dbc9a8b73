//! What `decide` says: plain data, so that it can be tabled in a test and printed by a trace.

use std::net::Ipv6Addr;

use crate::drop::DropReason;
use crate::mac::MacAddr;
use crate::port::{NetworkId, PortId};
use crate::punt::Service;

/// What is to happen with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To one port.
    Forward(Action),
    /// To every other port of its network.
    Flood,
    /// To us, out of line.
    Local(Task),
    /// To nobody.
    Drop(DropReason),
}

/// What is done to a packet that goes to one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// The port it leaves by.
    pub out: PortId,
    /// What a router changes; `None`: bridged, not a byte changes.
    pub hop: Option<Hop>,
}

/// A packet's way from one network to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The network it goes to.
    pub network: NetworkId,
    /// The gateway's MAC there.
    pub src: MacAddr,
    /// The next hop's MAC.
    pub dst: MacAddr,
    /// The next hop should be asked whether it is still there (RFC 1122 section 2.3.2.1, RFC 4861 section 7.3).
    pub ask: Option<Ipv6Addr>,
    /// Largest IP packet of that network, when it is smaller than that of the network the packet came from.
    pub shrinks: Option<u32>,
    /// The packet is larger than what that network takes and may be cut: it goes on in fragments of so many bytes of an
    /// IP packet, out of line, as [`Task::Fragment`].
    pub cut: Option<u32>,
    /// What comes back belongs to this and is let through.
    pub opens: bool,
}

/// What a gateway does itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// ARP or neighbour discovery that concerns a gateway.
    Neighbor,
    /// A router solicitation.
    Solicited,
    /// An echo request to a gateway.
    Echo,
    /// TTL or hop limit used up: ICMP time exceeded.
    Expired,
    /// ICMP destination unreachable.
    Unreachable(Unreachable),
    /// Larger than what the next network takes, and not to be fragmented: ICMP fragmentation needed, packet too big.
    TooBig {
        /// What it takes, bytes of an IP packet.
        mtu: u32,
    },
    /// The same, but it may be fragmented. Served for a [`Verdict::Forward`] whose hop says so, once that was tracked and
    /// may leave; never decided by itself.
    Fragment {
        /// The port the fragments leave by.
        out: PortId,
        /// Their way.
        hop: Hop,
        /// Bytes of an IP packet.
        mtu: u32,
    },
    /// For a service of the gateway that the control plane gives.
    Punt(Service),
    /// Leaves by the uplink.
    Uplink,
    /// Waits until the next hop's MAC is known.
    Hold {
        /// Where it is.
        network: NetworkId,
        /// Who it is.
        address: Ipv6Addr,
    },
}

/// Why a destination cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// No route.
    Network,
    /// Nobody answers for the address.
    Host,
    /// Nothing listens.
    Port,
    /// The protocol is not spoken here.
    Protocol,
    /// Not allowed.
    Prohibited,
    /// Not allowed by an `egress` rule of the container.
    Egress,
}
