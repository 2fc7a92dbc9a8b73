//! What the control plane tells the sockets uplink while it runs: one immutable value, replaced whole.

use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ipnet::IpNet;

use super::Link;

/// Everything about the uplink that changes at run time.
///
/// # Threads
/// Immutable. A worker compares [`Settings::generation`] once a batch and takes in what changed
/// ([`super::Sockets::configure`]).
#[derive(Debug, Default)]
pub struct Settings {
    /// Counts the values: another number is another value.
    pub generation: u64,
    /// Published l4 ports.
    pub published: Box<[Published]>,
}

/// One published l4 port: a socket of the host, and where its clients go.
#[derive(Clone, Debug)]
pub struct Published {
    /// Names it for as long as it is published, whatever else changes about it. Never given twice.
    pub id: u64,
    /// [`switch::parse::PROTO_TCP`], and the socket listens; or [`switch::parse::PROTO_UDP`], and it is bound and says
    /// which address datagrams were sent to (`IP_PKTINFO`, `IPV6_RECVPKTINFO`).
    pub proto: u8,
    /// Its clients are this worker's. Otherwise they are another's, and it is only known that the address is published:
    /// containers may reach it, though it is the host's.
    pub ours: bool,
    /// It does not block.
    pub socket: Arc<OwnedFd>,
    /// Where its clients go.
    pub target: Target,
    /// Counts them: connections that were let in, and UDP flows.
    pub clients: Arc<AtomicU64>,
}

/// A container's l4 port that clients of the host reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The container's address plan.
    pub zone: u16,
    /// How the container is reached.
    pub link: Link,
    /// The container's l4 port.
    pub port: u16,
    /// Its addresses, at most one of a family.
    pub ends: Box<[End]>,
    /// Where the container does not send by us what it answers to these: to its own networks, for one. The gateway
    /// stands in for clients from there.
    pub hidden: Arc<[IpNet]>,
}

/// An address of a container, and the gateway's beside it, IPv4 as v4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The container's.
    pub address: Ipv6Addr,
    /// Stands in for clients whose own address the container could not answer.
    pub gateway: Ipv6Addr,
}

impl Target {
    /// The address that a client of this family talks to: of the same family, or the only one there is.
    pub(super) fn end(&self, v4: bool) -> Option<&End> {
        let same = |end: &&End| end.address.to_ipv4_mapped().is_some() == v4;
        self.ends.iter().find(same).or_else(|| self.ends.first())
    }
}
