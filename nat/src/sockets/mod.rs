//! The sockets uplink: connections of containers become ordinary sockets of this process, which needs no privilege.
//!
//! A worker owns one [`Sockets`]. It gives it the packets that leave ([`Sockets::packet`]), and after each batch of
//! them [`Sockets::flush`]; when its descriptor is readable [`Sockets::ready`], when [`Sockets::next_timer`] is due
//! [`Sockets::timers`]. Frames for containers come out through [`Emit`].
//!
//! What a NAT behaves like (RFC 4787, 5382, 5508) is true of it as far as sockets allow:
//!
//! - UDP mapping is endpoint-independent, filtering by address and port; neither changes with load. L4 ports are not
//!   preserved and nobody can guess them: the host's kernel chooses.
//! - A datagram refreshes its mapping both ways, an ICMP error neither refreshes nor ends one. Errors come back from whoever
//!   sent them, about the packet as the container sent it.
//! - UDP and echo have the container's TTL, DSCP, ECN and Don't Fragment; TCP has those of the host's kernel.
//! - A segment is acknowledged when the socket has taken it, not when the far end has: it is then the host kernel's, which
//!   sends it even if this process dies, and an acknowledgment never meant more to an application.
//! - Nothing survives this process: the next segment of a connection is answered with a RST.
//! - No socket reaches the host itself, by whichever name: its own addresses (also as NAT64, 6to4 or IPv4-compatible ones),
//!   loopback, groups; link-local ones (169.254.169.254 among them) are not routed before they get here.

mod burst;
mod cx;
mod echo;
mod flows;
mod inbox;
mod list;
mod mapping;
mod opening;
mod own;
mod publish;
mod room;
mod sending;
mod sequence;
mod served;
mod settings;
mod sound;
mod tcp;
mod types;
mod udp;
mod wheel;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use foldhash::fast::RandomState;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventFlags};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::rand::{GetRandomFlags, getrandom};
use switch::drop::DropReason;
use switch::flow::{FlowKey, Fragment, Packet};
use switch::parse::{PROTO_TCP, parse};
use switch::port::PortId;
use switch::reassembly::{Added, Fragments, Late};
use switch::sys::socket::set_peek_offset;
use switch::tick::Tick;
use switch::vnet::VnetHdr;

use burst::Burst;
use cx::{Bytes, Cutter, Cx, Fate, Watch};
use flows::{Flow, Flows, Kind};
use mapping::Mappings;
use own::OwnAddresses;
use publish::{LISTENER, Listener};
use room::Room;
use sequence::Sequence;
use served::Client;
use wheel::Wheel;

pub use settings::{End, Published, Settings, Target};
pub use types::{Connection, Counters, Emit, Fault, Limits, Link, Outcome, Query, Unreachable, Way};

/// Packets in fragments that may be incomplete at a time, and those of one port.
const PLACES: usize = 16;
const PLACES_OF_PORT: usize = 4;
/// Events taken at once.
const EVENTS: usize = 64;
/// The largest window a container can use where peeks cannot skip (before Linux 6.9), bytes.
const SKIP: usize = 256 * 1024;
/// Bytes of the longest datagram from its L4 header on.
const DATAGRAM: usize = 65_535;

/// The sockets of one worker.
pub struct Sockets {
    epoll: OwnedFd,
    flows: Flows,
    listeners: Vec<Option<Listener>>,
    /// The flows of clients of published UDP ports.
    clients: HashMap<Client, u32, RandomState>,
    /// Where datagrams of those clients are read to; empty as long as there is no such port.
    datagram: Vec<u8>,
    /// A descriptor to spare: see [`Sockets::turn_away`].
    spare: Option<OwnedFd>,
    wheel: Wheel,
    /// Flows with work left, each at most once.
    due: VecDeque<u32>,
    own: OwnAddresses,
    sequence: Sequence,
    /// See [`Cx::skip`].
    skip: Vec<u8>,
    cutter: Cutter,
    burst: Burst,
    fragments: Fragments,
    mappings: Mappings,
    room: Room,
    /// Listening sockets are not looked at before.
    resting: Option<Tick>,
    limits: Limits,
    counters: Counters,
}

impl Sockets {
    /// # Errors
    /// What the kernel said.
    ///
    /// # Syscalls
    /// `epoll_create1`, `socket`, `getrandom`; `setsockopt` to find out what this kernel can do.
    pub fn new(limits: Limits, now: Tick) -> io::Result<Self> {
        let probe = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        let skips = limits.peek_offset && set_peek_offset(&probe, 0).is_ok();
        let skip = if skips { Vec::new() } else { vec![0; SKIP] };
        let mut id = [0; 4];
        getrandom(&mut id, GetRandomFlags::empty())?;
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            spare: Some(probe),
            flows: Flows::new(&limits),
            listeners: Vec::new(),
            clients: HashMap::default(),
            datagram: Vec::new(),
            wheel: Wheel::new(limits.flows as usize, now),
            due: VecDeque::with_capacity(limits.flows as usize),
            own: OwnAddresses::new()?,
            skip,
            cutter: Cutter { bytes: vec![0; DATAGRAM].into_boxed_slice(), id: u32::from_ne_bytes(id) },
            sequence: Sequence::new(),
            burst: Burst::new(),
            fragments: Fragments::new(PLACES, PLACES_OF_PORT),
            mappings: Mappings::new(limits.flows),
            room: Room::new(limits.flows_per_port, now),
            resting: None,
            limits,
            counters: Counters::default(),
        })
    }

    /// The descriptor under which all sockets are: readable when one of them has something.
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// A packet of a container that leaves by the uplink, routed and allowed: the frame that [`Emit::frame`] has.
    /// `packet` is what [`switch::parse`] made of it, `link` says who sent it.
    ///
    /// What it makes necessary is done by [`Sockets::flush`], so that a batch is acknowledged once.
    pub fn packet(
        &mut self,
        packet: &Packet,
        link: &Link,
        way: Way,
        now: Tick,
        out: &mut impl Emit,
    ) -> Outcome {
        if !sound::speaks(packet) {
            return Outcome::Dropped(DropReason::UplinkProtocol);
        }
        if !sound::verifies(out.frame(), packet) {
            return Outcome::Dropped(DropReason::BadChecksum);
        }
        if packet.meta.fragment == Fragment::No {
            return self.whole(Bytes::Frame, packet, link, way, now, out);
        }
        // What comes too late is of another packet.
        self.late(now, out);
        let added = self.fragments.add(out.frame(), packet, now);
        self.counters.fragments_lost = self.fragments.lost;
        match added {
            Added::Kept => Outcome::Taken,
            Added::Refused => Outcome::Dropped(DropReason::UplinkFragment),
            Added::Whole(place, len) => {
                self.counters.reassembled += 1;
                let bytes = self.fragments.take(place);
                let frame = bytes.get(..len).unwrap_or_default();
                let outcome = match parse(frame, &VnetHdr::default(), packet.meta.port, packet.key.zone) {
                    Ok(mut whole) if sound::speaks(&whole) && sound::verifies(frame, &whole) => {
                        whole.meta.df = false;
                        self.whole(Bytes::Whole(frame), &whole, link, way, now, out)
                    }
                    Ok(_) => Outcome::Dropped(DropReason::BadChecksum),
                    Err(reason) => Outcome::Dropped(reason),
                };
                self.fragments.give_back(place, bytes);
                outcome
            }
        }
    }

    /// Tells who sent it of what is not complete in time (RFC 1122 section 3.3.2, RFC 8200 section 4.5: if the first
    /// fragment is there).
    fn late(&mut self, now: Tick, out: &mut impl Emit) {
        while let Some(Late { port, mac, first }) = self.fragments.late(now) {
            if !first.is_empty() {
                out.failed((port, mac), Fault::Incomplete, None, first);
            }
        }
        self.counters.fragments_lost = self.fragments.lost;
    }

    /// A packet that is no fragment.
    fn whole(
        &mut self,
        bytes: Bytes<'_>,
        packet: &Packet,
        link: &Link,
        way: Way,
        now: Tick,
        out: &mut impl Emit,
    ) -> Outcome {
        let id = match self.known(packet, link, now, out) {
            Some(id) => id,
            None => match self.open(bytes, packet, link, way, now, out) {
                Ok(id) if packet.key.proto == PROTO_TCP => {
                    self.rearm(id);
                    return Outcome::Taken;
                }
                Ok(id) => id,
                Err(outcome) => return outcome,
            },
        };
        if let Some(other) = self.burst.other(id) {
            self.send_burst(other, now, out);
        }
        let more = self.burst.comes(id);
        let mut outcome = Outcome::Taken;
        self.with(id, now, out, |kind, cx| match kind {
            Kind::Tcp(tcp) => tcp.packet(bytes, packet, cx),
            Kind::Udp(udp) => {
                outcome = udp.packet(bytes, packet, more, cx);
                Fate::Keep
            }
            Kind::Served(served) => {
                outcome = served.packet(bytes, packet, cx);
                Fate::Keep
            }
            Kind::Echo(echo) => {
                outcome = echo.packet(bytes, packet, cx);
                Fate::Keep
            }
        });
        outcome
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
        if let Some(id) = self.burst.end() {
            self.send_burst(id, now, out);
        }
        for _ in 0..self.due.len() {
            let Some(id) = self.due.pop_front() else { break };
            self.flows.unqueue(id);
            self.with(id, now, out, |kind, cx| match kind {
                Kind::Tcp(tcp) => tcp.serve(cx),
                Kind::Udp(udp) => udp.serve(cx),
                Kind::Served(_) => Fate::Keep,
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
                self.arrived(token, flags, now, out);
            } else if let Some(id) = self.flows.of_token(token) {
                // RFC 5508 section 4.3: an ICMP error refreshes nothing.
                if flags.intersects(EventFlags::IN | EventFlags::OUT)
                    && let Some((flow, _)) = self.flows.get_mut(id)
                {
                    flow.used = now;
                }
                self.with(id, now, out, |kind, cx| match kind {
                    Kind::Tcp(tcp) => tcp.event(flags, cx),
                    Kind::Udp(udp) => udp.event(flags),
                    Kind::Served(_) => Fate::Keep,
                    Kind::Echo(echo) => echo.event(flags),
                });
            }
        }
        self.flush(now, out) || full
    }

    /// What is due by time: call it when [`Sockets::next_timer`] is.
    pub fn timers(&mut self, now: Tick, out: &mut impl Emit) {
        if self.resting.is_some_and(|until| until <= now) {
            self.listen_again();
        }
        self.late(now, out);
        while let Some(id) = self.wheel.pop(now) {
            if self.flows.get_mut(id).is_some_and(|(flow, _)| deadline(flow) > now) {
                self.rearm(id);
                continue;
            }
            self.with(id, now, out, |kind, cx| match kind {
                Kind::Tcp(tcp) => tcp.timer(cx),
                Kind::Udp(_) | Kind::Served(_) | Kind::Echo(_) => Fate::Gone,
            });
        }
    }

    /// When [`Sockets::timers`] has something to do; perhaps earlier, never later than 8 ms after.
    pub fn next_timer(&self) -> Option<Tick> {
        [self.wheel.next(), self.resting, self.fragments.deadline()].into_iter().flatten().min()
    }

    /// Ends all flows of a port that went away. Clients of its l4 ports are refused until it is configured anew.
    pub fn forget(&mut self, port: PortId, now: Tick, out: &mut impl Emit) {
        self.refuse_clients(port);
        self.fragments.forget(port);
        let ids: Vec<u32> =
            self.flows.iter().filter(|(_, flow)| flow.link.port == port).map(|(id, _)| id).collect();
        for id in ids {
            self.end(id, now, out);
        }
    }

    /// Ends those flows that containers opened and that `may` says they may not have any more. Returns how many.
    pub fn end_unless(
        &mut self,
        may: impl Fn(PortId, &FlowKey) -> bool,
        now: Tick,
        out: &mut impl Emit,
    ) -> usize {
        let denied = |flow: &Flow| !flow.inbound && !may(flow.link.port, &flow.key);
        let ids: Vec<u32> = self.flows.iter().filter(|(_, flow)| denied(flow)).map(|(id, _)| id).collect();
        for id in &ids {
            self.end(*id, now, out);
        }
        ids.len()
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

    /// Flows of a port, opened by it or by its clients.
    pub fn used(&self, port: PortId) -> u32 {
        self.flows.used(port)
    }

    /// Whether a packet belongs to a flow. One that is for a gateway may: that of a client whose address is not shown.
    pub fn has(&self, key: &FlowKey) -> bool {
        self.flows.find(key).is_some()
    }

    /// How many flows there may be.
    pub const fn most(&self) -> u32 {
        self.limits.flows
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        let before = (self.counters.bytes_out, self.counters.bytes_in);
        let mut cx = Cx {
            now,
            out,
            key: &flow.key,
            link: &flow.link,
            watch: Watch { epoll: self.epoll.as_fd(), token },
            counters: &mut self.counters,
            skip: &mut self.skip,
            cutter: &mut self.cutter,
            burst: &mut self.burst,
        };
        let fate = act(&mut flow.kind, &mut cx);
        flow.bytes.0 += self.counters.bytes_out - before.0;
        flow.bytes.1 += self.counters.bytes_in - before.1;
        match fate {
            Fate::Gone => return self.remove(id),
            Fate::More if self.flows.queue(id) => self.due.push_back(id),
            Fate::More | Fate::Keep => {}
        }
        self.rearm(id);
    }

    /// What was kept for the socket of a flow leaves.
    fn send_burst(&mut self, id: u32, now: Tick, out: &mut impl Emit) {
        if self.burst.len() == 0 {
            return;
        }
        self.with(id, now, out, |kind, cx| {
            if let Kind::Udp(udp) = kind {
                udp.send_burst(cx);
            }
            Fate::Keep
        });
    }

    fn remove(&mut self, id: u32) {
        self.wheel.clear(id);
        self.burst.forget(id);
        self.counters.closed += 1;
        match self.flows.remove(id) {
            Some(Flow { kind: Kind::Served(served), .. }) => {
                self.clients.remove(&served.client);
            }
            Some(Flow { kind: Kind::Udp(_), key, .. }) => self.mappings.remove(&key),
            _ => {}
        }
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
        Kind::Served(served) => served.deadline(flow.used),
        Kind::Echo(echo) => echo.deadline(flow.used),
    }
}
