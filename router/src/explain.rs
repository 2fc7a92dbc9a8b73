//! The steps of a decision, for whoever wants to know why: [`crate::route::route`] tells them as it takes them. A worker
//! does not listen, and then nothing of this is in its code.

use std::net::Ipv6Addr;

use switch::mac::MacAddr;
use switch::port::PortId;

use crate::fib::Entry;
use crate::martian::Martian;
use crate::multipath::Chosen;
use crate::neighbor::Known;
use crate::source::Belongs;

/// One step. In the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It asks for somebody on another host, or another host asks for somebody here: this MAC.
    Told(MacAddr),
    /// The network has no gateway of ours.
    NoGateway,
    /// It is in this VLAN, and the gateway is in another; or it has a second tag.
    Elsewhere(u16),
    /// ARP or neighbour discovery that concerns the gateway.
    Neighbor,
    /// Whether its destination MAC is the gateway's.
    GatewayMac(bool),
    /// To the gateway, and not IP in an Ethernet II frame.
    NotIp,
    /// For an address of the gateway itself.
    Ours(Ipv6Addr),
    /// The gateway has no address of the packet's family.
    NoFamily,
    /// An address that is never routed.
    Martian(Martian),
    /// Where its source address belongs.
    Source(Belongs),
    /// What the FIB has for its destination; `None`: nothing.
    Route(Option<Entry>),
    /// The next hop of a route that has several, how many those are, and why it is this one.
    Chosen(Ipv6Addr, usize, Chosen),
    /// What is in no prefix leaves by the uplink.
    Uplink,
    /// The way may not be opened: whether the packet belongs to what was opened from the other side.
    Answers(bool),
    /// Its source becomes this end point outside; `true`: by a connection that is there, `false`: by one that it makes.
    LeavesAs(Ipv6Addr, u16, bool),
    /// Its destination, one of our addresses outside, stands for this end point of a container; likewise.
    EntersTo(Ipv6Addr, u16, bool),
    /// A rule of the container's denies it.
    Egress,
    /// Back into the network it came from, whose containers may not talk to each other.
    Icc,
    /// TTL or hop limit, as it came.
    Hops(u8),
    /// What is known of the next hop.
    NextHop(Ipv6Addr, Option<Known>),
    /// The port behind which the next hop's MAC is, on the next network.
    Fdb(MacAddr, Option<PortId>),
    /// Bytes of the IP packet, and what the next network, or the route, takes.
    Length(u32, u32),
    /// The route takes no larger packets than this, the next network would.
    RouteMtu(u32),
}
