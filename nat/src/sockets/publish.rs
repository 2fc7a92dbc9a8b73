//! Published l4 ports: listening sockets whose clients become connections to a container, with the client's address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{ipv6_v6only, set_socket_linger, set_tcp_nodelay};
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketFlags, SocketType, acceptfrom_with, getsockname, socket,
};
use switch::flow::FlowKey;
use switch::parse::{PROTO_TCP, PROTO_UDP};
use switch::port::PortId;
use switch::sys::path::keep_path_errors;
use switch::sys::socket::set_peek_offset;
use switch::tick::Tick;

use super::flows::{Flow, Kind};
use super::settings::{Published, Settings, Target};
use super::types::Emit;
use super::{Sockets, served, tcp};

/// Set in the tokens of listening sockets.
pub(super) const LISTENER: u64 = 1 << 31;
/// Milliseconds that listening sockets rest when there is no descriptor to refuse a client with.
const REST: u64 = 100;
/// Clients taken at once before other sockets have their turn.
const TURN: usize = 16;

pub(super) struct Listener {
    pub id: u64,
    proto: u8,
    /// Where it listens.
    local: SocketAddr,
    /// A wildcard of IPv6 that is one of IPv6 alone.
    v6_only: bool,
    /// Its clients are ours.
    ours: bool,
    pub socket: Arc<OwnedFd>,
    pub clients: Arc<AtomicU64>,
    /// Clients that are taken without asking whether there are more: what the last turns found, doubled.
    turn: usize,
    /// `None`: the container went away, clients are refused until the control plane says what follows.
    pub target: Option<Target>,
}

impl Sockets {
    /// Takes in what changed: new sockets are watched, those that are not published any more are let go, clients of
    /// the others go where they go now. Connections that are there stay.
    ///
    /// # Syscalls
    /// `epoll_ctl` for each socket that comes or goes.
    pub fn configure(&mut self, settings: &Settings) {
        let mut wanted: HashMap<u64, &Published, RandomState> =
            settings.published.iter().map(|published| (published.id, published)).collect();
        for index in 0..self.listeners.len() {
            let Some(Some(listener)) = self.listeners.get_mut(index) else { continue };
            let (id, ours) = (listener.id, listener.ours);
            match wanted.get(&id).filter(|published| published.ours == ours) {
                Some(published) => {
                    listener.target = Some(published.target.clone());
                    wanted.remove(&id);
                }
                None => {
                    self.unlisten(index);
                    self.unserve(id);
                }
            }
        }
        for published in settings.published.iter().filter(|published| wanted.contains_key(&published.id)) {
            if self.listen(published).is_err() {
                self.counters.no_socket += 1;
            }
        }
    }

    /// # Errors
    /// What the kernel said to watching it.
    fn listen(&mut self, published: &Published) -> rustix::io::Result<()> {
        let free = self.listeners.iter().position(Option::is_none);
        let index = free.unwrap_or(self.listeners.len());
        let local = SocketAddr::try_from(getsockname(&published.socket)?)?;
        let v6_only = local.is_ipv6() && ipv6_v6only(&published.socket)?;
        if published.ours {
            self.receive_clients(published, index, local, v6_only)?;
        }
        let listener = Some(Listener {
            id: published.id,
            proto: published.proto,
            local,
            v6_only,
            ours: published.ours,
            clients: Arc::clone(&published.clients),
            socket: Arc::clone(&published.socket),
            turn: 1,
            target: Some(published.target.clone()),
        });
        match self.listeners.get_mut(index) {
            Some(place) => *place = listener,
            None => self.listeners.push(listener),
        }
        Ok(())
    }

    /// # Errors
    /// What the kernel said to watching it.
    fn receive_clients(
        &mut self,
        published: &Published,
        index: usize,
        local: SocketAddr,
        v6_only: bool,
    ) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, &published.socket, listener_token(index), EventFlags::IN)?;
        if published.proto == PROTO_TCP {
            // Sockets of its clients have what it has (tcp(7), socket(7)), and nobody has to tell each.
            set_tcp_nodelay(&published.socket, true)?;
            if self.skip.is_empty() {
                set_peek_offset(&published.socket, 0)?;
            }
        }
        if published.proto == PROTO_UDP && self.datagram.is_empty() {
            // Here, so that no packet's way has to.
            self.datagram.resize(served::LONGEST, 0);
            self.clients.reserve(self.limits.flows as usize);
        }
        if published.proto == PROTO_UDP {
            keep_path_errors(&published.socket, local.is_ipv4())?;
            if local.is_ipv6() && !v6_only {
                keep_path_errors(&published.socket, true)?;
            }
        }
        Ok(())
    }

    /// Others hold the same socket, so epoll would go on reporting it: it is taken out explicitly.
    fn unlisten(&mut self, index: usize) {
        if let Some(listener) = self.listeners.get_mut(index).and_then(Option::take) {
            // It fails only for what is not watched.
            let _ = epoll::delete(&self.epoll, &listener.socket);
        }
    }

    /// Something is there at a published l4 port.
    pub(super) fn arrived(&mut self, token: u64, flags: EventFlags, now: Tick, out: &mut impl Emit) {
        let index = (token & !LISTENER) as usize;
        match self.listeners.get(index) {
            Some(Some(listener)) if listener.proto == PROTO_TCP => self.accept(index, now, out),
            Some(Some(_)) => {
                if flags.contains(EventFlags::ERR) {
                    self.troubles(index, now, out);
                }
                self.datagrams(index, now, out);
            }
            _ => {}
        }
    }

    /// Takes clients: one, or as many as come at once, which is found out as it goes. What is left is reported again;
    /// what is left when there is no room for more is refused.
    fn accept(&mut self, index: usize, now: Tick, out: &mut impl Emit) {
        let turn = self.listeners.get(index).and_then(Option::as_ref).map_or(0, |listener| listener.turn);
        let mut next = (2 * turn).min(TURN);
        for _ in 0..turn {
            let Some(Some(listener)) = self.listeners.get(index) else { return };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match acceptfrom_with(&listener.socket, flags) {
                Ok((socket, client)) => self.take_client(index, socket, client, now, out),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => {
                    next = 1;
                    break;
                }
                Err(_) => {
                    self.counters.no_socket += 1;
                    self.turn_away(index, now);
                    break;
                }
            }
        }
        if let Some(Some(listener)) = self.listeners.get_mut(index) {
            listener.turn = next;
        }
    }

    fn take_client(
        &mut self,
        index: usize,
        socket: OwnedFd,
        client: Option<SocketAddrAny>,
        now: Tick,
        out: &mut impl Emit,
    ) {
        let Some(Some(listener)) = self.listeners.get(index) else { return refuse(&socket) };
        let (clients, target) = (Arc::clone(&listener.clients), listener.target.clone());
        let client = client.and_then(|client| SocketAddr::try_from(client).ok());
        let (Some(client), Some(target)) = (client, target) else { return refuse(&socket) };
        match self.begin(socket, client, &target, now, out) {
            Ok(()) => _ = clients.fetch_add(1, Ordering::Relaxed),
            Err(socket) => refuse(&socket),
        }
    }

    /// There is no descriptor for a client. One that waited would wake us for ever, so it is taken by the one we spare
    /// and refused. Where another thread was faster to take that, listening sockets rest for a while.
    fn turn_away(&mut self, index: usize, now: Tick) {
        self.spare = None;
        let Some(Some(listener)) = self.listeners.get(index) else { return };
        match acceptfrom_with(&listener.socket, SocketFlags::CLOEXEC) {
            Ok((socket, _)) => refuse(&socket),
            // It went by itself.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(_) => {
                // It fails only for what is not watched.
                let _ =
                    epoll::modify(&self.epoll, &listener.socket, listener_token(index), EventFlags::empty());
                self.resting = Some(now.plus_millis(REST));
            }
        }
        self.spare = socket(AddressFamily::INET, SocketType::STREAM, None).ok();
    }

    /// The rest is over.
    pub(super) fn listen_again(&mut self) {
        self.resting = None;
        for (index, listener) in self.listeners.iter().enumerate() {
            if let Some(listener) = listener {
                // As above.
                let _ = epoll::modify(&self.epoll, &listener.socket, listener_token(index), EventFlags::IN);
            }
        }
    }

    /// One client.
    ///
    /// # Errors
    /// Its socket, where that leads nowhere.
    fn begin(
        &mut self,
        socket: OwnedFd,
        client: SocketAddr,
        target: &Target,
        now: Tick,
        out: &mut impl Emit,
    ) -> Result<(), OwnedFd> {
        self.make_room_for_client(target.link.port, now, out);
        let Some((id, token)) = self.place_for_client(target.link.port) else { return Err(socket) };
        let Some(key) = self.key_of(PROTO_TCP, client, target) else { return Err(socket) };
        if self.watch(token).add(&socket).is_err() {
            self.counters.no_socket += 1;
            return Err(socket);
        }
        let sequence = self.sequence.first(&key, now);
        let kind = Kind::Tcp(tcp::accepted(socket, &key, &target.link, sequence));
        self.insert(Flow { key, link: target.link, used: now, inbound: true, bytes: (0, 0), kind });
        self.with(id, now, out, |kind, cx| match kind {
            Kind::Tcp(tcp) => tcp.begin(cx),
            _ => super::Fate::Keep,
        });
        Ok(())
    }

    /// The connection as the container sees it: with the client's own address, or, where the container could not
    /// answer that, or has a connection with it already, with the gateway's.
    pub(super) fn key_of(&mut self, proto: u8, client: SocketAddr, target: &Target) -> Option<FlowKey> {
        let ip = match client.ip().to_canonical() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let v4 = ip.to_ipv4_mapped().is_some();
        let end = target.end(v4)?;
        let key = |dst, dport| FlowKey {
            zone: target.zone,
            proto,
            src: end.address,
            dst,
            sport: target.port,
            dport,
        };
        let same_family = end.address.to_ipv4_mapped().is_some() == v4;
        if same_family
            && can_answer(target, ip)
            && client.port() != 0
            && self.flows.find(&key(ip, client.port())).is_none()
        {
            return Some(key(ip, client.port()));
        }
        self.counters.masked += 1;
        // Any l4 port will do where the client's own is taken.
        let mut keys = (0..64).map(|step| key(end.gateway, client.port().wrapping_add(step).max(1024)));
        let free = keys.find(|key| self.flows.find(key).is_none());
        self.counters.over_quota += u64::from(free.is_none());
        free
    }

    /// The slot and token for a flow that a client opens, if there may be one more.
    pub(super) fn place_for_client(&mut self, port: PortId) -> Option<(u32, u64)> {
        let place = self.flows.next().filter(|_| self.flows.has_room_for_client(port));
        self.counters.over_quota += u64::from(place.is_none());
        place
    }

    /// Whether one of ours listens there: an address of the host that containers may reach after all.
    pub(super) fn is_published(&self, proto: u8, address: SocketAddr) -> bool {
        let listens = |listener: &Listener| match (listener.local.ip(), address.ip()) {
            (IpAddr::V6(v6), asked) if v6.is_unspecified() => asked.is_ipv6() || !listener.v6_only,
            (IpAddr::V4(v4), IpAddr::V4(_)) if v4.is_unspecified() => true,
            (local, asked) => local == asked,
        };
        let mut there = self.listeners.iter().flatten();
        // What listens on the loopback is for the host alone.
        !address.ip().is_loopback()
            && there.any(|l| l.proto == proto && l.local.port() == address.port() && listens(l))
    }

    /// Clients for a container on this port are refused until their listening socket is retargeted.
    pub(super) fn refuse_clients(&mut self, port: PortId) {
        for listener in self.listeners.iter_mut().flatten() {
            if listener.target.as_ref().is_some_and(|target| target.link.port == port) {
                listener.target = None;
            }
        }
    }
}

fn listener_token(index: usize) -> EventData {
    EventData::new_u64(LISTENER | index as u64)
}

/// A client is told that nobody is there: closing its socket is a RST.
fn refuse(socket: &OwnedFd) {
    // It fails only for what is not a socket.
    let _ = set_socket_linger(socket, Some(Duration::ZERO));
}

/// Whether what the container answers to this client comes back to us.
fn can_answer(target: &Target, ip: Ipv6Addr) -> bool {
    let (canonical, own) = (ip.to_canonical(), target.ends.iter().any(|end| end.address == ip));
    let local = canonical.is_loopback()
        || match canonical {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
    !own && !local && !target.hidden.iter().any(|net| net.contains(&canonical))
}
