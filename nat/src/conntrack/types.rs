//! What conntrack and its caller say to each other.

use std::net::Ipv6Addr;

use switch::checksum::Delta;
use switch::drop::DropReason;
use switch::port::PortId;
use switch::table::Handle;

/// An address and an l4 port; of an ICMP query the identifier, of what has neither 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndPoint {
    /// IPv4 is v4-mapped.
    pub address: Ipv6Addr,
    /// The l4 port.
    pub port: u16,
}

/// An end point of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inside {
    /// The address plan that the address is of.
    pub zone: u16,
    /// Address and l4 port.
    pub end: EndPoint,
}

/// Who may come in by a mapping (RFC 4787 section 5). What is published is open to all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filtering {
    /// Everybody.
    Endpoint,
    /// Whoever's address the container has sent to from there. RFC 4787 REQ-8 for security.
    #[default]
    Address,
    /// Whoever's address and l4 port it has sent to.
    AddressPort,
}

/// How much there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections: u32,
    /// Connections of one port; 0: no more than is fair when all are in use.
    pub connections_per_port: u32,
    /// Mappings of one protocol and family: fewer than their addresses have l4 ports, or those run out before somebody
    /// makes room (one address has 64,512, less what is published).
    pub mappings: u32,
    /// The same of one port (RFC 6888 section 3 REQ-4).
    pub mappings_per_port: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 262_144, connections_per_port: 0, mappings: 60_000, mappings_per_port: 32_768 }
    }
}

/// Seconds without a packet after which a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// RFC 4787 section 4.3 REQ-5: at least 120, better 300.
    pub udp: u32,
    /// RFC 5382 section 5 REQ-5: at least 2 h 4 min.
    pub tcp_established: u32,
    /// The same: at least 4 min, for what is half open, half closed, or was reset (RFC 7857 section 2.2).
    pub tcp_transitory: u32,
    /// RFC 5508 section 3.2 REQ-2: at least 60.
    pub icmp: u32,
    /// What has no l4 ports that we know.
    pub others: u32,
}

impl Timeouts {
    /// The longest of them.
    pub(super) fn longest(&self) -> u32 {
        let Self { udp, tcp_established, tcp_transitory, icmp, others } = *self;
        [udp, tcp_established, tcp_transitory, icmp, others].into_iter().fold(0, u32::max)
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { udp: 300, tcp_established: 7440, tcp_transitory: 240, icmp: 60, others: 300 }
    }
}

/// What a packet of a container leaves as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// By which connection.
    pub at: Handle,
    /// Its source outside.
    pub external: EndPoint,
    /// What the change of its source address adds to sums.
    pub address: Delta,
    /// The same of its source l4 port.
    pub l4: Delta,
    /// It was opened from outside.
    pub inbound: bool,
}

/// Whose a packet is that came to an address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum In {
    /// Nobody's: neither in use nor published.
    Nobody,
    /// A container's, which does not get it.
    Refused(DropReason),
    /// A container's.
    To(Entering),
}

/// Where a packet from outside goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entering {
    /// Its destination.
    pub inside: Inside,
    /// The port of the container.
    pub owner: PortId,
    /// By which connection; `None`: it opens one.
    pub connection: Option<Handle>,
    /// By which mapping; `None`: it is published.
    pub(super) mapping: Option<Handle>,
    /// What the change of its destination address adds to sums.
    pub address: Delta,
    /// The same of its destination l4 port.
    pub l4: Delta,
}

/// A line of `show connections`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionRow {
    /// IP protocol.
    pub proto: u8,
    /// The container's end.
    pub inside: Inside,
    /// What it is outside.
    pub external: EndPoint,
    /// The other end.
    pub remote: EndPoint,
    /// The container's port.
    pub owner: PortId,
    /// It was opened from outside.
    pub inbound: bool,
    /// In words.
    pub state: &'static str,
    /// Seconds since its last packet.
    pub idle: u32,
    /// Bytes of IP packets from the container, and to it.
    pub bytes: (u64, u64),
}

/// A line of the list of mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingRow {
    /// IP protocol.
    pub proto: u8,
    /// The container's end point.
    pub inside: Inside,
    /// What it is outside.
    pub external: EndPoint,
    /// The container's port.
    pub owner: PortId,
    /// Seconds since it was last used.
    pub idle: u32,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that are there, as far as nobody has cleared away what is over.
    pub connections: u64,
    /// Mappings, likewise.
    pub mappings: u64,
    /// Connections that were opened.
    pub opened: u64,
    /// Connections and mappings that had to go so that others could be opened.
    pub evicted: u64,
    /// What was not opened because the container's share is in use.
    pub over_quota: u64,
    /// What was not opened because no l4 port was free.
    pub no_port: u64,
    /// Mappings whose l4 port is another one outside than the container's.
    pub other_port: u64,
}
