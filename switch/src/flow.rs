//! What a packet is, once parsed: the key of its flow and everything else a decision may read.
//!
//! `crate::parse` fills these and is the only code that reads untrusted lengths. Later hops read these fields and
//! never the bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::mac::MacAddr;
use crate::port::PortId;

/// The key of a flow. IPv4 is kept v4-mapped (`::ffff:a.b.c.d`), so there is one path for both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The address plan: overlapping subnets live in different zones.
    pub zone: u16,
    /// IP protocol of the upper layer; 0 where there is none (not IP).
    pub proto: u8,
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// Source l4 port; ICMP echo and the other ICMP queries: the identifier; fragments after the first: 0.
    pub sport: u16,
    /// Destination l4 port; ICMP: type and code.
    pub dport: u16,
}

impl FlowKey {
    /// The key of a frame that is not IP.
    pub const NONE: Self = Self {
        zone: 0,
        proto: 0,
        src: Ipv6Addr::UNSPECIFIED,
        dst: Ipv6Addr::UNSPECIFIED,
        sport: 0,
        dport: 0,
    };

    /// The addresses as users write them: v4-mapped is IPv4.
    pub fn addresses(&self) -> (IpAddr, IpAddr) {
        (self.src.to_canonical(), self.dst.to_canonical())
    }
}

/// A parsed packet: the key of its flow and the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The key of the flow.
    pub key: FlowKey,
    /// Everything else.
    pub meta: Meta,
}

/// What is true of one packet beside its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The port it came in by.
    pub port: PortId,
    /// Destination MAC.
    pub dst: MacAddr,
    /// Source MAC.
    pub src: MacAddr,
    /// The VLAN it belongs to, 0: none. As its outer tag says, until [`crate::admit`] asks the port.
    pub vid: u16,
    /// Outer VLAN tag. VID 0 is a priority tag and means untagged (IEEE 802.1Q-2018 section 9.6).
    pub vlan: Option<VlanTag>,
    /// Inner tag of QinQ (802.1ad).
    pub inner_vlan: Option<VlanTag>,
    /// EtherType behind tags and LLC/SNAP; 0 for LLC that is not SNAP.
    pub ethertype: u16,
    /// What the payload is.
    pub l3: L3,
    /// Offset of the L3 header from the start of the frame, bytes.
    pub l3_off: u16,
    /// Offset of the L4 header, bytes; equal to `l3_off` where there is none.
    pub l4_off: u16,
    /// Length of all headers up to and with L4, bytes; what `hdr_len` of a GSO write must be.
    pub headers_len: u16,
    /// Length of the frame, bytes, without the virtio header.
    pub frame_len: u32,
    /// End of the IP packet in the frame, bytes: what the IP header says, without Ethernet padding.
    pub l3_end: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class: DSCP and ECN.
    pub tos: u8,
    /// Don't Fragment (always true for IPv6).
    pub df: bool,
    /// Whether it is a fragment, and which.
    pub fragment: Fragment,
    /// Identification shared by the fragments of one packet; 0 where it is not a fragment.
    pub fragment_id: u32,
    /// Whether it is a super-frame, and of what.
    pub gso: Gso,
    /// State of the L4 checksum.
    pub csum: Csum,
    /// TCP fields, where the header is present.
    pub tcp: Option<TcpMeta>,
    /// The typed body of the messages that routers and filters must understand.
    pub body: Body,
}

/// One 802.1Q or 802.1ad tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag {
    /// 0x8100 (C-tag), 0x88a8 (S-tag) or 0x9100 (S-tag before 802.1ad).
    pub tpid: u16,
    /// Priority (3 bits), DEI, VID (12 bits).
    pub tci: u16,
}

impl VlanTag {
    /// The VLAN identifier.
    pub const fn vid(self) -> u16 {
        self.tci & 0x0fff
    }
}

/// What the payload of the frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L3 {
    /// ARP for Ethernet and IPv4.
    Arp,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Anything else, forwarded by MAC alone.
    Other,
}

/// Whether a packet is a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Whole.
    No,
    /// Offset 0 with more to come: has the L4 header.
    First,
    /// A later one: has no l4 ports.
    Later,
}

/// What a super-frame consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    /// One ordinary packet.
    None,
    /// TCP segments of `size` payload bytes, the last may be shorter.
    Tcp {
        /// Payload bytes per segment.
        size: u16,
    },
    /// UDP datagrams of `size` payload bytes, the last may be shorter.
    Udp {
        /// Payload bytes per datagram.
        size: u16,
    },
}

/// State of the L4 checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Csum {
    /// The field holds the whole checksum, not verified by us.
    Full,
    /// The same, verified by the sender's kernel.
    Verified,
    /// The field holds the folded, uncomplemented pseudo-header sum; it lies where the L4 protocol has it.
    Partial,
    /// The packet's own L4 checksum is full (or it has none), but a packet carried inside it has a partial one: what
    /// a container that tunnels (VXLAN, Geneve, GRE) hands over since Linux 6.17. A rewrite of the outer headers
    /// leaves it alone.
    Inner {
        /// Offset in the frame at which the inner checksum starts, bytes.
        start: u16,
        /// Offset in the frame of the inner checksum field, bytes.
        field: u16,
    },
}

/// The TCP header's fields that connection tracking reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpMeta {
    /// CWR ECE URG ACK PSH RST SYN FIN, from high to low bit.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Window, unscaled.
    pub window: u16,
    /// Payload bytes.
    pub payload: u32,
    /// Of a SYN the window scale that it offers (RFC 7323 section 2.2), bits.
    pub scale: Option<u8>,
}

/// The typed body of messages that claim or carry addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// None of the following.
    None,
    /// ARP (RFC 826).
    Arp(Arp),
    /// Neighbour discovery (RFC 4861).
    Nd(Nd),
    /// The packet quoted in an ICMP or ICMPv6 error, as far as it is there.
    IcmpError(Quoted),
    /// Who listens to which group: IGMP (RFC 2236, RFC 3376), MLD (RFC 2710, RFC 3810), and where routers are (PIM).
    Group(Group),
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 1 request, 2 reply.
    pub operation: u16,
    /// Sender hardware address.
    pub sender_mac: MacAddr,
    /// Sender protocol address; 0.0.0.0 in a probe (RFC 5227).
    pub sender_ip: Ipv4Addr,
    /// Target hardware address.
    pub target_mac: MacAddr,
    /// Target protocol address.
    pub target_ip: Ipv4Addr,
}

/// A neighbour discovery message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nd {
    /// Which of the five.
    pub kind: NdKind,
    /// Target address of NS, NA and redirect; unspecified otherwise.
    pub target: Ipv6Addr,
    /// Source link-layer address option (NS, RS, RA).
    pub source_mac: Option<MacAddr>,
    /// Target link-layer address option (NA, redirect).
    pub target_mac: Option<MacAddr>,
    /// NA: Router 0x80, Solicited 0x40, Override 0x20; otherwise 0.
    pub flags: u8,
}

impl Nd {
    /// Whether it is an advertisement that answers a solicitation (RFC 4861 section 4.4).
    pub const fn is_solicited(&self) -> bool {
        self.flags & 0x40 != 0
    }
}

/// The five messages of RFC 4861.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum NdKind {
    RouterSolicitation,
    RouterAdvertisement,
    NeighborSolicitation,
    NeighborAdvertisement,
    Redirect,
}

/// A message about multicast groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Which.
    pub kind: GroupKind,
    /// The group it is about, IPv4 v4-mapped; unspecified where it names none, or has records that do.
    pub group: Ipv6Addr,
}

/// Which message about groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// Who listens to what? Of any version, about one group or all.
    Query,
    /// The sender listens to the group (IGMPv1, IGMPv2, MLDv1).
    Report,
    /// It does not any more (IGMPv2 leave, MLDv1 done).
    Leave,
    /// Records of several groups (IGMPv3, MLDv2): see [`crate::parse::group::records`].
    Records,
    /// A multicast router is there (PIM hello, RFC 7761 section 4.9.2).
    Hello,
    /// One that a switch that snoops must not believe (RFC 4541 section 2.1.1 (4)).
    Bad,
}

impl GroupKind {
    /// Whether it says what its sender listens to.
    pub const fn is_report(self) -> bool {
        matches!(self, Self::Report | Self::Leave | Self::Records)
    }
}

/// The packet quoted by an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Its key; l4 ports 0 where the quotation is too short, addresses unspecified where not even its IP header is
    /// whole.
    pub key: FlowKey,
    /// Offset of its IP header in the frame, bytes.
    pub l3_off: u16,
    /// Offset of its L4 header in the frame, bytes; at most the end of the packet.
    pub l4_off: u16,
    /// Whether its l4 ports are in the quotation.
    pub has_ports: bool,
}
