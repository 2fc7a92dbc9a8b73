//! What `decide` says: plain data, so that it can be tabled in a test and printed by a trace.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::checksum::Delta;
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
    /// Its addresses and l4 ports become others on the way.
    pub nat: Option<Nat>,
    /// It has IPv4 options, in which this may be asked for.
    pub stamp: Option<Stamp>,
}

/// What a router may write into IPv4 options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The gateway's address where the packet goes.
    pub address: Ipv4Addr,
    /// A clock of our own, milliseconds.
    pub millis: u32,
}

/// What a packet's addresses and l4 ports become, and on whose account.
///
/// Of an ICMP error the addresses are its own, and the l4 ports those of the packet that it quotes, whose addresses
/// follow: the error goes to who sent that packet, and where its source becomes another, so does what was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat {
    /// IP protocol.
    pub proto: u8,
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// Source l4 port; of an ICMP query the identifier.
    pub sport: u16,
    /// Destination l4 port; of an ICMP query nothing.
    pub dport: u16,
    /// What the change of addresses adds to sums.
    pub address: Delta,
    /// What the change of l4 ports adds to them.
    pub l4: Delta,
    /// The identification that an IPv4 packet in fragments has from there on; `None`: its own.
    pub id: Option<u16>,
    /// Its source becomes another: it leaves a container.
    pub from: Side,
    /// Its destination becomes another: it comes to a container.
    pub to: Side,
}

/// One side of a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Not translated, or nothing is kept of it: an ICMP error, a later fragment.
    No,
    /// By this connection ([`crate::table::Handle::to_u64`]).
    Known(u64),
    /// By a connection that is yet to be made.
    New,
}

/// What a gateway does itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// ARP or neighbour discovery that concerns a gateway.
    Neighbor,
    /// A router solicitation.
    Solicited,
    /// Asks by ARP or neighbour discovery for somebody on another host, or is asked by one: this is the answer.
    Tell(MacAddr),
    /// An echo request to a gateway.
    Echo,
    /// A fragment of what may be one: put together first.
    Reassemble,
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
    /// Policy: ICMP communication administratively prohibited; dropped for this reason.
    Refused(DropReason),
    /// A later fragment, which waits for the first of its packet: by that it is known whose it is.
    AwaitFirst,
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
