//! Published l4 ports: listening sockets whose clients become connections to a container, with the client's address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{SocketFlags, acceptfrom_with};
use switch::flow::FlowKey;
use switch::parse::PROTO_TCP;
use switch::port::PortId;
use switch::tick::Tick;

use super::flows::{Flow, Kind};
use super::types::{Emit, Link};
use super::{Sockets, tcp};

/// Set in the tokens of listening sockets.
pub(super) const LISTENER: u64 = 1 << 31;
/// Clients taken at once before other sockets have their turn.
const TURN: usize = 16;

/// Where the clients of a listening socket go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The container's address plan.
    pub zone: u16,
    /// The container's address, IPv4 as v4-mapped.
    pub address: Ipv6Addr,
    /// The container's l4 port.
    pub port: u16,
    /// How the container is reached.
    pub link: Link,
    /// The gateway of the container in the family of `address`: stands in for clients whose own address the container
    /// could not answer.
    pub gateway: Ipv6Addr,
}

pub(super) struct Listener {
    socket: OwnedFd,
    /// `None`: the container went away, clients are refused.
    target: Option<Target>,
}

/// A listening socket of a [`Sockets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(u32);

impl Sockets {
    /// From now on the clients of `socket`, which listens and does not block, are connections to `target`.
    ///
    /// # Errors
    /// What the kernel said to watching it.
    ///
    /// # Syscalls
    /// `epoll_ctl`.
    pub fn listen(&mut self, socket: OwnedFd, target: Target) -> rustix::io::Result<ListenerId> {
        let free = self.listeners.iter().position(Option::is_none);
        let id = free.unwrap_or(self.listeners.len());
        let token = LISTENER | id as u64;
        epoll::add(&self.epoll, &socket, EventData::new_u64(token), EventFlags::IN)?;
        let listener = Some(Listener { socket, target: Some(target) });
        match self.listeners.get_mut(id) {
            Some(place) => *place = listener,
            None => self.listeners.push(listener),
        }
        Ok(ListenerId(id as u32))
    }

    /// New clients of it go to `target`: the container came back, or has another MAC.
    pub fn retarget(&mut self, id: ListenerId, target: Target) {
        if let Some(Some(listener)) = self.listeners.get_mut(id.0 as usize) {
            listener.target = Some(target);
        }
    }

    /// Takes no more clients; gives back the socket. Connections that are there stay.
    pub fn unlisten(&mut self, id: ListenerId) -> Option<OwnedFd> {
        let listener = self.listeners.get_mut(id.0 as usize)?.take()?;
        // It fails only for what is not watched.
        let _ = epoll::delete(&self.epoll, &listener.socket);
        Some(listener.socket)
    }

    /// Takes clients. What is left when there is no room for more is refused.
    pub(super) fn accept(&mut self, token: u64, now: Tick, out: &mut impl Emit) {
        let index = (token & !LISTENER) as usize;
        for _ in 0..TURN {
            let Some(Some(listener)) = self.listeners.get(index) else { return };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match acceptfrom_with(&listener.socket, flags) {
                Ok((socket, client)) => {
                    let client = client.and_then(|client| SocketAddr::try_from(client).ok());
                    // Until it belongs to a connection that works, closing it is a refusal.
                    let _ = set_socket_linger(&socket, Some(Duration::ZERO));
                    if let (Some(client), Some(target)) = (client, listener.target) {
                        self.begin(socket, client, target, now, out);
                    }
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.counters.no_socket += 1;
                    return;
                }
            }
        }
    }

    /// One client. Its socket is closed where that leads nowhere.
    fn begin(&mut self, socket: OwnedFd, client: SocketAddr, target: Target, now: Tick, out: &mut impl Emit) {
        let Some(key) = self.key_of(client, &target) else {
            self.counters.over_quota += 1;
            return;
        };
        if !self.has_room(target.link.port) {
            self.counters.over_quota += 1;
            return;
        }
        let (Some((id, token)), Ok(sequence)) = (self.flows.next(), super::sequence()) else { return };
        let Ok(tcp) = tcp::accepted(socket, &key, &target.link, sequence, self.watch(token)) else {
            self.counters.no_socket += 1;
            return;
        };
        self.insert(Flow { key, link: target.link, used: now, inbound: true, kind: Kind::Tcp(tcp) });
        self.with(id, now, out, |kind, cx| match kind {
            Kind::Tcp(tcp) => tcp.begin(cx),
            _ => super::Fate::Keep,
        });
    }

    /// The connection as the container sees it: with the client's own address, or, where the container could not
    /// answer that, or has a connection with it already, with the gateway's.
    fn key_of(&mut self, client: SocketAddr, target: &Target) -> Option<FlowKey> {
        let ip = match client.ip().to_canonical() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let key = |dst, dport| FlowKey {
            zone: target.zone,
            proto: PROTO_TCP,
            src: target.address,
            dst,
            sport: target.port,
            dport,
        };
        let same_family = ip.to_ipv4_mapped().is_some() == target.address.to_ipv4_mapped().is_some();
        let answerable = same_family && !ip.to_canonical().is_loopback() && ip != target.address;
        if answerable && self.flows.find(&key(ip, client.port())).is_none() {
            return Some(key(ip, client.port()));
        }
        self.counters.masked += 1;
        // Any l4 port will do where the client's own is taken.
        (0..64).map(|step| client.port().wrapping_add(step).max(1024)).find_map(|port| {
            let key = key(target.gateway, port);
            self.flows.find(&key).is_none().then_some(key)
        })
    }

    /// Clients for a container on this port are refused until their listening socket is retargeted.
    pub(super) fn refuse_clients(&mut self, port: PortId) {
        for listener in self.listeners.iter_mut().flatten() {
            listener.target = listener.target.filter(|target| target.link.port != port);
        }
    }
}
