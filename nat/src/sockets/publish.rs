//! Published l4 ports: listening sockets whose clients become connections to a container, with the client's address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{SocketFlags, acceptfrom_with};
use switch::flow::FlowKey;
use switch::parse::PROTO_TCP;
use switch::port::PortId;
use switch::tick::Tick;

use super::flows::{Flow, Kind};
use super::settings::{Published, Settings, Target};
use super::types::Emit;
use super::{Sockets, tcp};

/// Set in the tokens of listening sockets.
pub(super) const LISTENER: u64 = 1 << 31;
/// Clients taken at once before other sockets have their turn.
const TURN: usize = 16;

pub(super) struct Listener {
    id: u64,
    socket: Arc<OwnedFd>,
    /// `None`: the container went away, clients are refused until the control plane says what follows.
    target: Option<Target>,
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
            match wanted.remove(&listener.id) {
                Some(published) => listener.target = Some(published.target.clone()),
                None => self.unlisten(index),
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
        let token = EventData::new_u64(LISTENER | index as u64);
        epoll::add(&self.epoll, &published.socket, token, EventFlags::IN)?;
        let listener = Some(Listener {
            id: published.id,
            socket: Arc::clone(&published.socket),
            target: Some(published.target.clone()),
        });
        match self.listeners.get_mut(index) {
            Some(place) => *place = listener,
            None => self.listeners.push(listener),
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
                    if let (Some(client), Some(target)) = (client, listener.target.clone()) {
                        self.begin(socket, client, &target, now, out);
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
    fn begin(
        &mut self,
        socket: OwnedFd,
        client: SocketAddr,
        target: &Target,
        now: Tick,
        out: &mut impl Emit,
    ) {
        let Some(key) = self.key_of(client, target) else {
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
        self.insert(Flow { key, link: target.link, used: now, kind: Kind::Tcp(tcp) });
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
        let v4 = ip.to_ipv4_mapped().is_some();
        let end = target.end(v4)?;
        let key = |dst, dport| FlowKey {
            zone: target.zone,
            proto: PROTO_TCP,
            src: end.address,
            dst,
            sport: target.port,
            dport,
        };
        let same_family = end.address.to_ipv4_mapped().is_some() == v4;
        if same_family && can_answer(target, ip) && self.flows.find(&key(ip, client.port())).is_none() {
            return Some(key(ip, client.port()));
        }
        self.counters.masked += 1;
        // Any l4 port will do where the client's own is taken.
        (0..64).map(|step| client.port().wrapping_add(step).max(1024)).find_map(|port| {
            let key = key(end.gateway, port);
            self.flows.find(&key).is_none().then_some(key)
        })
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
