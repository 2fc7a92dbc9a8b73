//! The sockets uplink: connections of containers become ordinary sockets of this process, which needs no privilege.
//!
//! A worker owns one [`Sockets`]. It gives it the packets that leave ([`Sockets::packet`]), and after each batch of
//! them [`Sockets::flush`]; when its descriptor is readable [`Sockets::ready`], when [`Sockets::next_timer`] is due
//! [`Sockets::timers`]. Frames for containers come out through [`Emit`].

mod cx;
mod echo;
mod flows;
mod inbox;
mod publish;
mod settings;
mod tcp;
mod types;
mod udp;
mod wheel;
mod wire;

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::rand::{GetRandomFlags, getrandom};
use switch::drop::DropReason;
use switch::flow::{FlowKey, Fragment, L3, Packet};
use switch::parse::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};
use switch::port::PortId;
use switch::sys::socket::set_peek_offset;
use switch::tick::Tick;

use cx::{Cx, Fate, OwnAddresses, Watch};
use flows::{Flow, Flows, Kind};
use publish::{LISTENER, Listener};
use wheel::Wheel;
use wire::flag;

pub use settings::{End, Published, Settings, Target};
pub use types::{Connection, Counters, Emit, Limits, Link, Outcome, Unreachable};

/// Events taken at once.
const EVENTS: usize = 64;
/// The largest window a container can use where peeks cannot skip (before Linux 6.9), bytes.
const SKIP: usize = 256 * 1024;

/// The sockets of one worker.
pub struct Sockets {
    epoll: OwnedFd,
    flows: Flows,
    listeners: Vec<Option<Listener>>,
    wheel: Wheel,
    /// Flows with work left, each at most once.
    due: VecDeque<u32>,
    own: OwnAddresses,
    /// See [`Cx::skip`].
    skip: Vec<u8>,
    limits: Limits,
    counters: Counters,
}

impl Sockets {
    /// # Errors
    /// What the kernel said.
    ///
    /// # Syscalls
    /// `epoll_create1`; `socket`, `setsockopt`, `bind`, `close` to find out what this kernel can do.
    pub fn new(limits: Limits, now: Tick) -> io::Result<Self> {
        let probe = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        let skips = limits.peek_offset && set_peek_offset(&probe, 0).is_ok();
        let skip = if skips { Vec::new() } else { vec![0; SKIP] };
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            flows: Flows::new(&limits),
            listeners: Vec::new(),
            wheel: Wheel::new(limits.flows as usize, now),
            due: VecDeque::with_capacity(limits.flows as usize),
            own: OwnAddresses::new()?,
            skip,
            limits,
            counters: Counters::default(),
        })
    }

    /// The descriptor under which all sockets are: readable when one of them has something.
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// A packet of a container that leaves by the uplink, routed and allowed. `frame` starts at the Ethernet header,
    /// `packet` is what [`switch::parse`] made of it, `link` says who sent it.
    ///
    /// What it makes necessary is done by [`Sockets::flush`], so that a batch is acknowledged once.
    pub fn packet(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        link: &Link,
        now: Tick,
        out: &mut impl Emit,
    ) -> Outcome {
        let is_ip = matches!(packet.meta.l3, L3::V4 | L3::V6);
        let speaks = match packet.key.proto {
            PROTO_TCP | PROTO_UDP => true,
            PROTO_ICMP | PROTO_ICMPV6 => echo::is_request(&packet.key),
            _ => false,
        };
        if !is_ip || !speaks || packet.meta.fragment != Fragment::No {
            return Outcome::Dropped(DropReason::UplinkProtocol);
        }
        let id = match self.known(packet, link, now, out) {
            Some(id) => id,
            None => match self.open(frame, packet, link, now, out) {
                Ok(id) if packet.key.proto == PROTO_TCP => {
                    self.rearm(id);
                    return Outcome::Taken;
                }
                Ok(id) => id,
                Err(outcome) => return outcome,
            },
        };
        let mut outcome = Outcome::Taken;
        self.with(id, now, out, |kind, cx| match kind {
            Kind::Tcp(tcp) => tcp.packet(frame, packet, cx),
            Kind::Udp(udp) => {
                outcome = udp.packet(frame, packet, cx);
                Fate::Keep
            }
            Kind::Echo(echo) => {
                outcome = echo.packet(frame, packet, cx);
                Fate::Keep
            }
        });
        outcome
    }

    /// The flow of a packet, told what is known of its container now.
    fn known(&mut self, packet: &Packet, link: &Link, now: Tick, out: &mut impl Emit) -> Option<u32> {
        let id = self.flows.find(&packet.key)?;
        let (flow, _) = self.flows.get_mut(id)?;
        if flow.link.port != link.port {
            // The address moved to another port, and connections do not move with it.
            self.end(id, now, out);
            return None;
        }
        (flow.link, flow.used) = (*link, now);
        Some(id)
    }

    /// A new flow for a packet that belongs to none.
    fn open(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        link: &Link,
        now: Tick,
        out: &mut impl Emit,
    ) -> Result<u32, Outcome> {
        let key = &packet.key;
        if let Some(tcp) = packet.meta.tcp
            && tcp.flags & (flag::SYN | flag::ACK | flag::RST) != flag::SYN
        {
            tcp::refuse(out, key, link, &tcp);
            return Err(Outcome::Taken);
        }
        let opened = self.try_open(frame, packet, link, now);
        let Some(tcp) = packet.meta.tcp else { return opened };
        match opened {
            Err(Outcome::Dropped(_)) => tcp::refuse(out, key, link, &tcp),
            // On the same host the answer comes at once. TCP has its own way to say it (RFC 9293 section 3.10.7.1).
            Err(Outcome::Unreachable(Unreachable::Port)) => {
                tcp::refuse(out, key, link, &tcp);
                self.counters.refused += 1;
                return Err(Outcome::Taken);
            }
            _ => {}
        }
        opened
    }

    fn try_open(&mut self, frame: &[u8], packet: &Packet, link: &Link, now: Tick) -> Result<u32, Outcome> {
        let key = packet.key;
        if !self.has_room(link.port) {
            self.counters.over_quota += 1;
            return Err(Outcome::Dropped(DropReason::UplinkQuota));
        }
        let Some((id, token)) = self.flows.next() else {
            return Err(Outcome::Dropped(DropReason::UplinkQuota));
        };
        if !self.is_allowed(cx::destination(&key, key.dport)).map_err(|_| self.no_socket())? {
            self.counters.unreachable += 1;
            return Err(Outcome::Unreachable(Unreachable::Prohibited));
        }
        let watch = self.watch(token);
        let kind = match (key.proto, packet.meta.tcp) {
            (PROTO_TCP, Some(tcp)) => {
                let syn = tcp::Syn::read(frame, packet, link);
                sequence().and_then(|from| tcp::connect(&key, &tcp, syn, from, watch)).map(Kind::Tcp)
            }
            (PROTO_UDP, _) => udp::Udp::connect(&key, watch).map(Kind::Udp),
            _ => echo::Echo::connect(&key, watch).map(Kind::Echo),
        };
        let kind = kind.map_err(|errno| self.not_opened(&key, errno))?;
        self.insert(Flow { key, link: *link, used: now, kind });
        Ok(id)
    }

    /// What a socket that could not be made or connected means for the packet.
    fn not_opened(&mut self, key: &FlowKey, errno: Errno) -> Outcome {
        // A ping socket may not be made by everybody; nothing is wrong with the destination.
        if matches!(key.proto, PROTO_ICMP | PROTO_ICMPV6) && errno == Errno::ACCESS {
            return Outcome::Dropped(DropReason::UplinkProtocol);
        }
        // Where IPv6 is switched off the kernel finds no address to speak from, and says that instead.
        let no_source = errno == Errno::ADDRNOTAVAIL && !cx::has_source(cx::destination(key, key.dport));
        match cx::unreachable(if no_source { Errno::NETUNREACH } else { errno }) {
            Some(Unreachable::Port) => Outcome::Unreachable(Unreachable::Port),
            Some(why) => {
                self.counters.unreachable += 1;
                Outcome::Unreachable(why)
            }
            None => self.no_socket(),
        }
    }

    fn no_socket(&mut self) -> Outcome {
        self.counters.no_socket += 1;
        Outcome::Dropped(DropReason::UplinkError)
    }

    /// Nothing of the host is reached by its own addresses, and no socket is made for groups.
    fn is_allowed(&self, address: SocketAddr) -> io::Result<bool> {
        let ip = address.ip();
        let group = ip.is_multicast() || ip == std::net::Ipv4Addr::BROADCAST || ip.is_unspecified();
        Ok(!group && (self.limits.host || !self.own.contains(address)?))
    }

    fn has_room(&self, port: PortId) -> bool {
        self.flows.has_room(port)
    }

    fn watch(&self, token: u64) -> Watch<'_> {
        Watch { epoll: self.epoll.as_fd(), token }
    }

    fn insert(&mut self, flow: Flow) {
        self.counters.opened += 1;
        self.flows.insert(flow);
    }

    /// Acknowledgments and data that the packets since the last call made due: call it after every batch of them.
    /// Returns whether more is left; then call it again, when others have had their turn.
    pub fn flush(&mut self, now: Tick, out: &mut impl Emit) -> bool {
        for _ in 0..self.due.len() {
            let Some(id) = self.due.pop_front() else { break };
            self.flows.unqueue(id);
            self.with(id, now, out, |kind, cx| match kind {
                Kind::Tcp(tcp) => tcp.serve(cx),
                Kind::Udp(udp) => udp.serve(cx),
                Kind::Echo(echo) => echo.serve(cx),
            });
        }
        !self.due.is_empty()
    }

    /// Sockets have something: call it when [`Sockets::poll_fd`] is readable. Its work is bounded; returns whether more
    /// is left.
    pub fn ready(&mut self, now: Tick, out: &mut impl Emit) -> bool {
        let mut space = [const { MaybeUninit::uninit() }; EVENTS];
        let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
        // It fails only when interrupted, and then is called again.
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut space, Some(&nothing)) else { return true };
        let full = events.len() == EVENTS;
        for event in events {
            let (token, flags) = (event.data.u64(), event.flags);
            if token & LISTENER != 0 {
                self.accept(token, now, out);
            } else if let Some(id) = self.flows.of_token(token) {
                if let Some((flow, _)) = self.flows.get_mut(id) {
                    flow.used = now;
                }
                self.with(id, now, out, |kind, cx| match kind {
                    Kind::Tcp(tcp) => tcp.event(flags, cx),
                    Kind::Udp(udp) => udp.event(flags),
                    Kind::Echo(echo) => echo.event(flags),
                });
            }
        }
        self.flush(now, out) || full
    }

    /// What is due by time: call it when [`Sockets::next_timer`] is.
    pub fn timers(&mut self, now: Tick, out: &mut impl Emit) {
        while let Some(id) = self.wheel.pop(now) {
            if self.flows.get_mut(id).is_some_and(|(flow, _)| deadline(flow) > now) {
                self.rearm(id);
                continue;
            }
            self.with(id, now, out, |kind, cx| match kind {
                Kind::Tcp(tcp) => tcp.timer(cx),
                Kind::Udp(_) | Kind::Echo(_) => Fate::Gone,
            });
        }
    }

    /// When [`Sockets::timers`] has something to do; perhaps earlier, never later than 8 ms after.
    pub fn next_timer(&self) -> Option<Tick> {
        self.wheel.next()
    }

    /// Ends all flows of a port that went away. Clients of its l4 ports are refused until it is configured anew.
    pub fn forget(&mut self, port: PortId, now: Tick, out: &mut impl Emit) {
        self.refuse_clients(port);
        let ids: Vec<u32> =
            self.flows.iter().filter(|(_, flow)| flow.link.port == port).map(|(id, _)| id).collect();
        for id in ids {
            self.end(id, now, out);
        }
    }

    /// Ends a flow with a reset to both sides.
    fn end(&mut self, id: u32, now: Tick, out: &mut impl Emit) {
        self.with(id, now, out, |kind, cx| {
            if let Kind::Tcp(tcp) = kind {
                tcp.forget(cx);
            }
            Fate::Gone
        });
    }

    /// What happened since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All flows, for a listing. `getsockname` is asked for each.
    pub fn connections(&self, now: Tick) -> impl Iterator<Item = Connection> {
        self.flows.iter().map(move |(_, flow)| Connection {
            key: flow.key,
            port: flow.link.port,
            state: flow.kind.state(),
            local: rustix::net::getsockname(flow.kind.socket())
                .ok()
                .and_then(|local| SocketAddr::try_from(local).ok()),
            idle: now.millis().saturating_sub(flow.used.millis()),
        })
    }

    /// Lets a flow do something, and does what follows from it.
    fn with<E: Emit>(
        &mut self,
        id: u32,
        now: Tick,
        out: &mut E,
        act: impl FnOnce(&mut Kind, &mut Cx<'_, E>) -> Fate,
    ) {
        let Some((flow, token)) = self.flows.get_mut(id) else { return };
        let mut cx = Cx {
            now,
            out,
            key: &flow.key,
            link: &flow.link,
            watch: Watch { epoll: self.epoll.as_fd(), token },
            counters: &mut self.counters,
            skip: &mut self.skip,
        };
        match act(&mut flow.kind, &mut cx) {
            Fate::Gone => {
                self.wheel.clear(id);
                self.flows.remove(id);
                self.counters.closed += 1;
                return;
            }
            Fate::More if self.flows.queue(id) => self.due.push_back(id),
            Fate::More | Fate::Keep => {}
        }
        self.rearm(id);
    }

    fn rearm(&mut self, id: u32) {
        if let Some((flow, _)) = self.flows.get_mut(id) {
            let at = deadline(flow);
            self.wheel.set(id, at);
        }
    }
}

fn deadline(flow: &Flow) -> Tick {
    match &flow.kind {
        Kind::Tcp(tcp) => tcp.deadline(flow.used),
        Kind::Udp(udp) => udp.deadline(flow.used),
        Kind::Echo(echo) => echo.deadline(flow.used),
    }
}

/// Where the sequence numbers of a connection start: nobody can guess it (RFC 9293 section 3.4.1).
fn sequence() -> rustix::io::Result<u32> {
    let mut bytes = [0; 4];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u32::from_ne_bytes(bytes))
}
