//! What the sockets uplink and its caller say to each other.

use std::net::{IpAddr, SocketAddr};

use switch::drop::DropReason;
use switch::flow::{FlowKey, Packet};
use switch::mac::MacAddr;
use switch::port::PortId;
pub use switch::verdict::Unreachable;

/// The packet in hand, and where frames that we make go. A worker implements it over its pool and devices.
pub trait Emit {
    /// The frame that [`super::Sockets::packet`] was called for, from its Ethernet header on. It is looked at again and
    /// again, and lies beside the slots that frames are made in.
    fn frame(&self) -> &[u8];

    /// Takes a slot of the frame pool, lets `fill` write virtio header ([`switch::vnet::VnetHdr`]) and Ethernet frame
    /// to it and return their length together (0: nothing to send after all), and writes it to `port`.
    ///
    /// # Errors
    /// No slot, in which case `fill` was not called; or why the port did not take it.
    fn emit(&mut self, port: PortId, fill: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), DropReason>;

    /// Whether the container may open a flow with this packet, which is whole: put together, if it came in fragments.
    fn may_open(&self, packet: &Packet) -> bool;

    /// A packet of the container `to` that was taken did not arrive: send it an ICMP error, within the limits of rate for
    /// those. `quoted` is the packet as far as the error quotes it, from its IP header on; `from` is who said so, if it
    /// was not this host.
    fn failed(&mut self, to: (PortId, MacAddr), fault: Fault, from: Option<IpAddr>, quoted: &[u8]);
}

/// Why a packet that was taken did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The destination cannot be reached.
    Unreachable(Unreachable),
    /// It was larger than a link of its path takes.
    TooBig {
        /// What that link takes, bytes of an IP packet.
        mtu: u32,
    },
    /// Its TTL or hop limit was used up on its way.
    Expired,
    /// It came in fragments, and not all of them in time.
    Incomplete,
}

/// Where a packet is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To its destination, which is not this host.
    Out,
    /// To the loopback of this host, whatever its destination says.
    Loopback,
    /// It answers somebody who is known, or is for nobody: a flow is not opened for it.
    Known,
}

/// How a container is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its port.
    pub port: PortId,
    /// Its MAC.
    pub mac: MacAddr,
    /// The MAC of its gateway, which our frames come from.
    pub gateway_mac: MacAddr,
    /// Largest IP packet of its network, bytes.
    pub mtu: u16,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was given to a socket, or answered.
    Taken,
    /// It leads nowhere: the container is owed an ICMP error.
    Unreachable(Unreachable),
    /// It may not be fragmented and is larger than its path takes: the same.
    TooBig {
        /// What the path takes, bytes of an IP packet.
        mtu: u32,
    },
    /// Not delivered.
    Dropped(DropReason),
}

/// How much there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows in all. Each has a socket: keep it below the limit of descriptors.
    pub flows: u32,
    /// Flows of one port.
    pub flows_per_port: u32,
    /// Whether containers may reach addresses of the host itself, its loopback among them.
    pub host: bool,
    /// Whether the kernel may be asked to skip what was peeked at (`SO_PEEK_OFF`), where it can; otherwise it is copied
    /// again and thrown away, as before Linux 6.9.
    pub peek_offset: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { flows: 16_384, flows_per_port: 4096, host: false, peek_offset: true }
    }
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Flows that were opened.
    pub opened: u64,
    /// Flows that ended, in whichever way.
    pub closed: u64,
    /// Flows that were not opened for want of a place.
    pub over_quota: u64,
    /// Flows that had to go so that others could be opened: the oldest of those who have most.
    pub evicted: u64,
    /// Flows that were not opened because the kernel gave no socket or no l4 port.
    pub no_socket: u64,
    /// Clients of published l4 ports whose address the container could not be shown.
    pub masked: u64,
    /// Connections that the other side refused.
    pub refused: u64,
    /// Destinations that could not be reached.
    pub unreachable: u64,
    /// ICMP errors of the path that were passed on to containers: too big, time exceeded.
    pub path_errors: u64,
    /// Packets that were put together from fragments.
    pub reassembled: u64,
    /// Packets of which fragments came that were given up: too late, overlapping, or for want of a place.
    pub fragments_lost: u64,
    /// Bytes of payload from containers to sockets.
    pub bytes_out: u64,
    /// Bytes of payload from sockets to containers, those sent again included.
    pub bytes_in: u64,
    /// Times that TCP went back to what the container had acknowledged.
    pub retransmits: u64,
    /// Frames that a port or the pool did not take.
    pub not_taken: u64,
    /// Datagrams of a burst that the socket did not take.
    pub unsent: u64,
    /// Segments that came too early, after one that was lost.
    pub out_of_order: u64,
    /// Times that a socket took less than the window we had offered.
    pub window_refused: u64,
}

impl Counters {
    /// What they are called, in the order of [`Counters::values`].
    pub const NAMES: [&str; 18] = [
        "opened",
        "closed",
        "over_quota",
        "evicted",
        "no_socket",
        "masked",
        "refused",
        "unreachable",
        "path_errors",
        "reassembled",
        "fragments_lost",
        "bytes_out",
        "bytes_in",
        "retransmits",
        "not_taken",
        "unsent",
        "out_of_order",
        "window_refused",
    ];

    /// All of them.
    pub const fn values(&self) -> [u64; Self::NAMES.len()] {
        let Self { opened, closed, over_quota, evicted, no_socket, masked, refused, unreachable, .. } = *self;
        let Self { path_errors, reassembled, fragments_lost, .. } = *self;
        let Self {
            bytes_out, bytes_in, retransmits, not_taken, unsent, out_of_order, window_refused, ..
        } = *self;
        [
            opened,
            closed,
            over_quota,
            evicted,
            no_socket,
            masked,
            refused,
            unreachable,
            path_errors,
            reassembled,
            fragments_lost,
            bytes_out,
            bytes_in,
            retransmits,
            not_taken,
            unsent,
            out_of_order,
            window_refused,
        ]
    }
}

// One that is added has a name, too.
const _: () = assert!(size_of::<Counters>() == Counters::NAMES.len() * size_of::<u64>());

/// Which connections are asked for: those that match all that is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Of this protocol, as in IP packets.
    pub proto: Option<u8>,
    /// With this l4 port on either side.
    pub l4_port: Option<u16>,
}

impl Query {
    pub(super) fn matches(&self, key: &FlowKey) -> bool {
        self.proto.is_none_or(|proto| proto == key.proto)
            && self.l4_port.is_none_or(|l4| l4 == key.sport || l4 == key.dport)
    }
}

/// A line of `show connections`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// As in the container's packets.
    pub key: FlowKey,
    /// The container's port.
    pub port: PortId,
    /// A client of a published l4 port opened it.
    pub inbound: bool,
    /// State of the connection.
    pub state: &'static str,
    /// Our end of the socket, where the kernel says.
    pub local: Option<SocketAddr>,
    /// The other end, likewise.
    pub peer: Option<SocketAddr>,
    /// Payload from the container and to it.
    pub bytes: (u64, u64),
    /// Milliseconds since it was last used.
    pub idle: u64,
}
