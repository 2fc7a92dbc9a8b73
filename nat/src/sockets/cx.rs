//! What a flow has at hand while it handles one thing.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, bind, connect, socket_with};
use switch::flow::FlowKey;
use switch::tick::Tick;

use super::types::{Counters, Emit, Link, Unreachable};
use super::wire::Wire;

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
}

impl<'a, E: Emit> Cx<'a, E> {
    pub fn wire(&self) -> Wire<'a> {
        Wire { link: self.link, key: self.key }
    }

    /// Tells the container that the packet that opened the flow led nowhere.
    pub fn unreachable(&mut self, why: Unreachable, seq: u32) {
        let mut quoted = [0; 64];
        let len = Wire::quotation(self.key, seq, &mut quoted).unwrap_or(0);
        self.counters.unreachable += 1;
        self.out.unreachable(self.link, why, quoted.get(..len).unwrap_or_default());
    }
}

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
pub(super) fn destination(key: &FlowKey, port: u16) -> SocketAddr {
    SocketAddr::new(key.dst.to_canonical(), port)
}

/// A socket connected to where the flow goes, watched.
pub(super) fn connected(
    key: &FlowKey,
    kind: SocketType,
    protocol: Option<Protocol>,
    port: u16,
    watch: Watch<'_>,
) -> rustix::io::Result<OwnedFd> {
    let address = destination(key, port);
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

/// Whether an address belongs to this host, so that a socket connected to it would reach the host's own services.
pub(super) struct OwnAddresses {
    /// Every address can be bound to here (`net.ipv4.ip_nonlocal_bind`, `net.ipv6.ip_nonlocal_bind`), so binding proves
    /// nothing; for IPv4 and for IPv6.
    nonlocal: [bool; 2],
}

impl OwnAddresses {
    pub fn new() -> io::Result<Self> {
        // RFC 5737, RFC 3849: addresses that nobody has.
        let nobody = SocketAddr::from(([192, 0, 2, 1], 0));
        let nobody6 = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 0));
        Ok(Self { nonlocal: [binds(nobody)?, binds(nobody6)?] })
    }

    /// # Syscalls
    /// `socket`, `bind`, `close`.
    pub fn contains(&self, address: SocketAddr) -> io::Result<bool> {
        let ip = address.ip();
        if ip.is_loopback() || ip.is_unspecified() {
            return Ok(true);
        }
        let [v4, v6] = self.nonlocal;
        if if address.is_ipv4() { v4 } else { v6 } {
            let probe = socket(address, SocketType::DGRAM, None)?;
            // Without a route there is nothing to protect; connecting for real will say so.
            let Ok(()) = connect(&probe, &address) else { return Ok(false) };
            let local = SocketAddr::try_from(rustix::net::getsockname(&probe)?)?;
            return Ok(local.ip() == ip);
        }
        binds(SocketAddr::new(ip, 0))
    }
}

/// Whether the host has an address from which it would speak to this one.
///
/// # Syscalls
/// `socket`, `connect`, `close`; nothing is sent.
pub(super) fn has_source(address: SocketAddr) -> bool {
    socket(address, SocketType::DGRAM, None).is_ok_and(|probe| connect(&probe, &address).is_ok())
}

fn binds(address: SocketAddr) -> io::Result<bool> {
    let probe = match socket(address, SocketType::DGRAM, None) {
        // A kernel without IPv6 has no address of it either; connecting for real will say so.
        Err(Errno::AFNOSUPPORT) => return Ok(false),
        probe => probe?,
    };
    match bind(&probe, &address) {
        Ok(()) => Ok(true),
        Err(Errno::ADDRNOTAVAIL | Errno::INVAL) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
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
