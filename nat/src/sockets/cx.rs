//! What a flow has at hand while it handles one thing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, connect, socket_with};
use switch::flow::FlowKey;
use switch::tick::Tick;

use super::burst::Burst;
use super::types::{Counters, Emit, Fault, Link, Unreachable, Way};
use super::wire::{Wire, is_v4};

/// What is to happen to a flow after it handled something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing.
    Keep,
    /// It has more work now and should have another turn.
    More,
    /// It is over.
    Gone,
}

/// Where the bytes of the packet in hand are.
#[derive(Clone, Copy)]
pub(super) enum Bytes<'a> {
    /// In the frame that came.
    Frame,
    /// Here, put together from fragments.
    Whole(&'a [u8]),
}

impl Bytes<'_> {
    /// From the Ethernet header on.
    pub fn of<'b, E: Emit>(&'b self, out: &'b E) -> &'b [u8] {
        match self {
            Self::Frame => out.frame(),
            Self::Whole(bytes) => bytes,
        }
    }
}

/// What datagrams that are larger than the container's network takes are cut in.
pub(super) struct Cutter {
    /// One datagram from its L4 header on.
    pub bytes: Box<[u8]>,
    /// Identification of the last one.
    pub id: u32,
}

/// The surroundings of one flow.
pub(super) struct Cx<'a, E> {
    pub now: Tick,
    pub out: &'a mut E,
    pub key: &'a FlowKey,
    pub link: &'a Link,
    pub watch: Watch<'a>,
    pub counters: &'a mut Counters,
    /// Where peeks throw what was seen before; empty where the kernel skips it (`SO_PEEK_OFF`).
    pub skip: &'a mut [u8],
    pub cutter: &'a mut Cutter,
    /// What the flow whose packets these are has for its socket.
    pub burst: &'a mut Burst,
}

impl<'a, E: Emit> Cx<'a, E> {
    pub fn wire(&self) -> Wire<'a> {
        Wire { link: self.link, key: self.key }
    }

    /// Tells the container that a packet of the flow did not arrive. `rest` is what is known of the packet behind its
    /// l4 ports (TCP), its L4 header (UDP) or its IP header (ICMP).
    pub fn failed(&mut self, fault: Fault, from: Option<IpAddr>, rest: &[u8]) {
        let mut quoted = [0; QUOTED];
        let len = Wire::quotation(self.key, rest, &mut quoted).unwrap_or(0);
        match fault {
            Fault::Unreachable(_) => self.counters.unreachable += 1,
            Fault::TooBig { .. } | Fault::Expired | Fault::Incomplete => self.counters.path_errors += 1,
        }
        // Nobody but us is behind the loopback, and who is of the other family cannot speak to the container.
        let from = from.filter(|from| !from.is_loopback() && from.is_ipv4() == is_v4(self.key));
        self.out.failed((self.link.port, self.link.mac), fault, from, quoted.get(..len).unwrap_or_default());
    }
}

/// The most that is quoted of a packet: an ICMPv6 error has at most 1280 bytes (RFC 4443 section 2.4 (c)).
const QUOTED: usize = 1280 - 48;

/// How the socket of one flow is watched.
#[derive(Clone, Copy)]
pub(super) struct Watch<'a> {
    pub epoll: BorrowedFd<'a>,
    pub token: u64,
}

/// Edges only: what is not read yet is remembered by the flow.
const EVENTS: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

impl Watch<'_> {
    pub fn add(&self, socket: impl AsFd) -> rustix::io::Result<()> {
        epoll::add(self.epoll, socket, EventData::new_u64(self.token), EVENTS)
    }

    /// Asks for an edge again, also for what is true already. A socket that cannot be written to now remembers that
    /// somebody waits for it.
    pub fn again(&self, socket: impl AsFd) {
        // It fails only for a descriptor that is not there, and then nobody waits.
        let _ = epoll::modify(self.epoll, socket, EventData::new_u64(self.token), EVENTS);
    }
}

/// A non-blocking socket of the family of `address`.
pub(super) fn socket(
    address: SocketAddr,
    kind: SocketType,
    protocol: Option<Protocol>,
) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, protocol)
}

/// Where the packets of a flow go.
pub(super) fn destination(key: &FlowKey, way: Way) -> SocketAddr {
    let ip = match way {
        Way::Out | Way::Known => key.dst.to_canonical(),
        Way::Loopback if is_v4(key) => Ipv4Addr::LOCALHOST.into(),
        Way::Loopback => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, key.dport)
}

/// A socket connected to `address`, watched.
pub(super) fn connected(
    address: SocketAddr,
    kind: SocketType,
    protocol: Option<Protocol>,
    watch: Watch<'_>,
) -> rustix::io::Result<OwnedFd> {
    let fd = socket(address, kind, protocol)?;
    if kind == SocketType::STREAM {
        rustix::net::sockopt::set_tcp_nodelay(&fd, true)?;
    }
    match connect(&fd, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(errno) => return Err(errno),
    }
    watch.add(&fd)?;
    Ok(fd)
}

/// Whether the host has an address from which it would speak to this one.
///
/// # Syscalls
/// `socket`, `connect`, `close`; nothing is sent.
pub(super) fn has_source(address: SocketAddr) -> bool {
    socket(address, SocketType::DGRAM, None).is_ok_and(|probe| connect(&probe, &address).is_ok())
}

/// The IPv4 address that an IPv6 address stands for, where somebody on the way may make one of it: IPv4-compatible
/// (RFC 4291 section 2.5.5.1), NAT64 (RFC 6052 section 2.1) and 6to4 (RFC 3056 section 2).
pub(super) fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let [a, b, c, d, e, f, high, low] = address.segments();
    let (high, low) = match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0) | (0x64, 0xff9b, 0, 0, 0, 0) => (high, low),
        (0x2002, high, low, ..) => (high, low),
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

/// What an error of a socket says about its destination; `None`: nothing.
pub(super) fn unreachable(errno: Errno) -> Option<Unreachable> {
    Some(match errno {
        Errno::NETUNREACH | Errno::NETDOWN | Errno::AFNOSUPPORT => Unreachable::Network,
        Errno::HOSTUNREACH | Errno::HOSTDOWN => Unreachable::Host,
        Errno::CONNREFUSED => Unreachable::Port,
        Errno::ACCESS | Errno::PERM => Unreachable::Prohibited,
        _ => return None,
    })
}
