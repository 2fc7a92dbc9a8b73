//! What a gateway does itself, out of line: answers ARP and ND, asks for neighbours, and says why a packet cannot go
//! on. One of these lives in each worker. What concerns neighbours is in `service/neighbors.rs`.

mod neighbors;
mod pieces;

use std::net::Ipv6Addr;
use std::sync::Arc;

use switch::checksum;
use switch::drop::DropReason;
use switch::flow::Packet;
use switch::frame::Frame;
use switch::io::Io;
use switch::mac::MacAddr;
use switch::news::News;
use switch::parse::parse;
use switch::policy::{Desk, Fate, Here, To};
use switch::port::PortId;
use switch::reassembly::Fragments;
use switch::snapshot::View;
use switch::tick::Tick;
use switch::verdict::{Hop, Stamp, Task, Unreachable};
use switch::vnet::VnetHdr;

use self::neighbors::tell;
use crate::advertise::{Advertiser, Says};
use crate::icmp::error::{self, Problem};
use crate::icmp::limit::{Limiter, Rates};
use crate::icmp::{NotSent, echo};
use crate::pending::Pending;
use crate::querier::{Querier, ask_again};
use crate::tables::{Gateway, Tables};
use crate::{forward, fragment, options};

/// Requests in fragments that may be incomplete at a time, and those of one port.
const PLACES: usize = 8;
const PLACES_OF_PORT: usize = 2;

/// A gateway's services in one worker.
pub struct Service {
    pending: Pending,
    /// Of the first worker: gateways speak once.
    speaker: Option<Speaker>,
    limit: Limiter,
    fragments: Fragments,
    others: Option<Others>,
}

/// What gateways say unasked.
#[derive(Default)]
struct Speaker {
    advertiser: Advertiser,
    querier: Querier,
}

/// The other workers.
struct Others {
    news: Arc<News>,
    /// Which one this is.
    me: usize,
}

/// Where a task is served.
struct Place<'a> {
    gateway: &'a Gateway,
    port: PortId,
    here: &'a Here<'a, Tables>,
}

impl Service {
    /// Services for ports `0..ports`.
    pub fn new(ports: usize) -> Self {
        Self {
            pending: Pending::default(),
            speaker: Some(Speaker::default()),
            limit: Limiter::new(ports, Rates::default(), 1),
            fragments: Fragments::new(PLACES, PLACES_OF_PORT),
            others: None,
        }
    }

    /// Services for ports `0..ports` in worker `me` of several. What all ports may have together is shared out.
    pub fn beside(ports: usize, news: Arc<News>, me: usize) -> Self {
        let workers = u32::try_from(news.workers()).unwrap_or(u32::MAX);
        Self {
            speaker: (me == 0).then(Speaker::default),
            limit: Limiter::new(ports, Rates::default(), workers),
            others: Some(Others { news, me }),
            ..Self::new(0)
        }
    }

    /// When [`Service::due`] has something to do.
    pub fn deadline(&self) -> Option<Tick> {
        let speaks = self.speaker.as_ref().map(|it| [it.advertiser.deadline(), it.querier.deadline()]);
        let waits = [self.pending.deadline(), self.fragments.deadline()];
        waits.into_iter().flatten().chain(speaks.into_iter().flatten().flatten()).min()
    }

    /// After each batch: the snapshot may be a new one.
    pub fn follow<I: Io>(&mut self, snapshot: View<'_, Tables>, now: Tick, desk: &mut Desk<'_, I>) {
        self.limit.follow(snapshot.tables.errors);
        if let Some(Speaker { advertiser, querier }) = &mut self.speaker {
            advertiser.follow(snapshot, now, desk);
            querier.follow(snapshot, now, desk);
        }
        if self.others.as_ref().is_some_and(|others| others.news.take(others.me)) {
            self.look_again(snapshot, now, desk);
        }
    }

    /// Serves a task.
    ///
    /// # Errors
    /// Why the packet was dropped.
    pub fn serve<I: Io>(
        &mut self,
        task: Task,
        frame: &Frame,
        packet: &Packet,
        here: &Here<'_, Tables>,
        desk: &mut Desk<'_, I>,
    ) -> Result<Fate, DropReason> {
        if let Task::Tell(mac) = task {
            tell(packet, mac, desk);
            return Ok(Fate::Local);
        }
        let gateway = here.snapshot.tables.gateway(here.id).ok_or(DropReason::NoRoute)?;
        let place = Place { gateway, port: packet.meta.port, here };
        match task {
            // Above: it needs no gateway.
            Task::Tell(_) => Ok(Fate::Local),
            Task::Neighbor => self.neighbor(packet, &place, desk),
            Task::Solicited => Ok(advertise(packet, &place, desk)),
            Task::Echo => echo(frame, packet, &place, desk),
            Task::Reassemble => self.reassemble(frame, packet, &place, desk),
            Task::Expired => {
                self.error(Problem::TimeExceeded, DropReason::TtlExceeded, frame, packet, &place, desk)
            }
            Task::Unreachable(why) => self.unreachable(why, frame, packet, here, desk),
            Task::Refused(reason) => self.error(Problem::Prohibited, reason, frame, packet, &place, desk),
            Task::TooBig { mtu } => {
                self.error(Problem::TooBig { mtu }, DropReason::TooBig, frame, packet, &place, desk)
            }
            // Whoever has a way to the control plane serves it.
            Task::Punt(_) => Err(DropReason::NoService),
            // Whoever translates keeps it.
            Task::AwaitFirst => Err(DropReason::NatFragment),
            // Whoever has one serves it; without one there is no route.
            Task::Uplink => self.unreachable(Unreachable::Network, frame, packet, here, desk),
            Task::Fragment { out, hop, mtu } => fragments(frame, packet, out, &hop, mtu, desk),
            Task::Hold { network, address } => self.hold(network, address, frame, here, desk),
        }
    }

    /// The destination of a packet cannot be reached.
    ///
    /// # Errors
    /// Always: why it was dropped.
    pub fn unreachable<I: Io>(
        &mut self,
        why: Unreachable,
        frame: &Frame,
        packet: &Packet,
        here: &Here<'_, Tables>,
        desk: &mut Desk<'_, I>,
    ) -> Result<Fate, DropReason> {
        let gateway = here.snapshot.tables.gateway(here.id).ok_or(DropReason::NoRoute)?;
        let place = Place { gateway, port: packet.meta.port, here };
        let reason = match why {
            Unreachable::Network => DropReason::NoRoute,
            Unreachable::Host => DropReason::NeighborUnresolved,
            Unreachable::Port | Unreachable::Protocol => DropReason::NoService,
            Unreachable::Prohibited => DropReason::Prohibited,
            Unreachable::Egress => DropReason::EgressDenied,
        };
        self.error(problem(why), reason, frame, packet, &place, desk)
    }

    /// Tells the sender of a packet, which is dropped for `reason`, that it is prohibited.
    pub fn refuse<I: Io>(
        &mut self,
        reason: DropReason,
        frame: &Frame,
        packet: &Packet,
        here: &Here<'_, Tables>,
        desk: &mut Desk<'_, I>,
    ) {
        if let Some(gateway) = here.snapshot.tables.gateway(here.id) {
            let place = Place { gateway, port: packet.meta.port, here };
            // The reason is the caller's to count.
            let _ = self.error(Problem::Prohibited, reason, frame, packet, &place, desk);
        }
    }

    /// An ICMP error about a packet that is gone, of which what an error quotes is left: from its IP header on. `from`
    /// is who said so, v4-mapped where it is IPv4; `None`: the gateway.
    #[expect(clippy::too_many_arguments, reason = "what is wrong, with which packet, and three surroundings")]
    pub fn report<I: Io>(
        &mut self,
        problem: Problem,
        from: Option<Ipv6Addr>,
        quoted: &[u8],
        place: (MacAddr, PortId),
        snapshot: View<'_, Tables>,
        now: Tick,
        desk: &mut Desk<'_, I>,
    ) {
        if let Some(about) = About::packet(quoted, place, snapshot) {
            self.say(&about, problem, from, now, desk);
        }
    }

    /// An ICMP error about it, as far as the rate allows.
    fn say<I: Io>(
        &mut self,
        about: &About<'_>,
        problem: Problem,
        from: Option<Ipv6Addr>,
        now: Tick,
        desk: &mut Desk<'_, I>,
    ) {
        let About { packet, frame, len, gateway, port } = about;
        let Some((mut origin, prefix)) = gateway.origin(packet.key.src) else { return };
        // RFC 5508 section 4.2.1: an error from elsewhere keeps its source, which is how traceroute sees the hops.
        origin.address = from.unwrap_or(origin.address);
        if self.limit.take(*port, now).is_ok() {
            desk.make(To::Port(*port), None, |buffer, _| {
                error::build(frame.get(..*len)?, packet, problem, &origin, prefix, buffer).ok()
            });
        }
    }

    /// What is due: advertises, asks again, or tells those who waited that nobody answers.
    pub fn due<I: Io>(&mut self, snapshot: View<'_, Tables>, now: Tick, desk: &mut Desk<'_, I>) {
        if let Some(Speaker { advertiser, querier }) = &mut self.speaker {
            advertiser.due(snapshot, now, desk);
            querier.due(snapshot, now, desk);
        }
        self.due_neighbors(snapshot, now, desk);
        self.due_pieces(snapshot, now, desk);
    }

    /// Somebody behind the port of `packet` left these groups.
    pub fn left<I: Io>(
        &mut self,
        groups: &[Ipv6Addr],
        packet: &Packet,
        here: &Here<'_, Tables>,
        desk: &mut Desk<'_, I>,
    ) {
        ask_again(groups, packet, here, desk);
    }

    /// The container behind a port is gone: its packets go nowhere, least of all to whoever gets the port's number.
    pub fn forget<I: Io>(&mut self, port: PortId, desk: &mut Desk<'_, I>) {
        while let Some(frame) = self.pending.take_of(port) {
            desk.give_up(&frame, DropReason::PortGone);
        }
        self.limit.reset(port);
        self.fragments.forget(port);
    }

    /// An ICMP error about `frame`, unless the rules or the rate forbid it; the packet is dropped in any case.
    fn error<I: Io>(
        &mut self,
        problem: Problem,
        reason: DropReason,
        frame: &Frame,
        packet: &Packet,
        place: &Place<'_>,
        desk: &mut Desk<'_, I>,
    ) -> Result<Fate, DropReason> {
        let Some((origin, prefix)) = place.gateway.origin(packet.key.src) else { return Err(reason) };
        if self.limit.take(place.port, place.here.now).is_ok() {
            desk.make(To::Port(place.port), Some(frame), |buffer, about| {
                error::build(about, packet, problem, &origin, prefix, buffer).ok()
            });
        }
        Err(reason)
    }
}

/// A packet that is gone, as it came, as far as something of it is left.
struct About<'a> {
    packet: Packet,
    frame: Vec<u8>,
    /// Bytes of the frame that are left.
    len: usize,
    gateway: &'a Gateway,
    port: PortId,
}

impl<'a> About<'a> {
    /// `quoted` is from its IP header on: the parser wants it as long as it says it is, the quotation does not.
    fn packet(quoted: &[u8], (src, port): (MacAddr, PortId), snapshot: View<'a, Tables>) -> Option<Self> {
        let gateway = snapshot.tables.gateway(snapshot.port(port)?.network)?;
        let v4 = quoted.first()? >> 4 == 4;
        let field = if v4 { quoted.get(2..4)? } else { quoted.get(4..6)? };
        let said = usize::from(u16::from_be_bytes([*field.first()?, *field.get(1)?]));
        let total = if v4 { said } else { said.saturating_add(40) };
        let ethertype: [u8; 2] = if v4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        let mut frame = [&gateway.mac.0[..], &src.0, &ethertype, quoted].concat();
        let len = frame.len();
        frame.resize(len.max(total.saturating_add(14)), 0);
        let mut packet = parse(&frame, &VnetHdr::default(), port, 0).ok()?;
        packet.meta.l3_end = packet.meta.l3_end.min(len as u32);
        Some(Self { packet, frame, len, gateway, port })
    }
}

/// A reply from a gateway's address.
fn echo<I: Io>(
    frame: &Frame,
    packet: &Packet,
    place: &Place<'_>,
    desk: &mut Desk<'_, I>,
) -> Result<Fate, DropReason> {
    let mut refused = None;
    desk.make(To::Port(place.port), Some(frame), |buffer, about| {
        let reply = buffer.get_mut(..about.len())?;
        reply.copy_from_slice(about);
        match echo::reply(reply, packet) {
            Ok(()) => {
                // RFC 1122 section 3.2.2.6: the reply has the options of the request, and us in them.
                if let Some(address) = packet.key.dst.to_ipv4_mapped() {
                    let millis = place.here.now.millis() as u32;
                    options::record(reply, &packet.meta, &Stamp { address, millis });
                }
                Some(about.len())
            }
            Err(why) => {
                refused = Some(why);
                None
            }
        }
    });
    match refused {
        None => Ok(Fate::Local),
        Some(NotSent::BadHeader | NotSent::BadChecksum) => Err(DropReason::BadChecksum),
        Some(_) => Err(DropReason::NoService),
    }
}

/// The fragments of a packet that allows it (RFC 1812 section 5.2.6).
fn fragments<I: Io>(
    frame: &Frame,
    packet: &Packet,
    out: PortId,
    hop: &Hop,
    mtu: u32,
    desk: &mut Desk<'_, I>,
) -> Result<Fate, DropReason> {
    let mut meta = packet.meta;
    // RFC 1812 section 5.2.2. Each fragment gets a checksum of its own, which would hide the damage.
    if !forward::header_verifies(desk.bytes(frame), &meta) {
        return Err(DropReason::BadChecksum);
    }
    checksum::complete(desk.bytes_mut(frame), &mut meta);
    if !forward::rewrite(desk.bytes_mut(frame), &meta, hop.src, hop.dst) {
        return Err(DropReason::TtlExceeded);
    }
    if let Some(stamp) = &hop.stamp {
        options::record(desk.bytes_mut(frame), &meta, stamp);
    }
    let count = fragment::count(desk.bytes(frame), &meta, mtu as usize);
    for index in 0..count {
        desk.make(To::Port(out), Some(frame), |buffer, about| {
            fragment::fragment(about, &meta, mtu as usize, index, buffer)
        });
    }
    if count == 0 { Err(DropReason::TooBig) } else { Ok(Fate::Local) }
}

/// The answer to a router solicitation (RFC 4861 section 6.2.6).
fn advertise<I: Io>(packet: &Packet, place: &Place<'_>, desk: &mut Desk<'_, I>) -> Fate {
    let Place { gateway, port, here } = *place;
    // Who has no address yet is told as all others would be.
    let to = (!packet.key.src.is_unspecified()).then_some((packet.key.src, packet.meta.src));
    if let Some(says) = Says::of(gateway, here.network.mtu) {
        desk.make(To::Port(port), None, |buffer, _| says.write(to, buffer));
    }
    Fate::Local
}

/// What an ICMP error says of why a destination cannot be reached.
pub const fn problem(why: Unreachable) -> Problem {
    match why {
        Unreachable::Network => Problem::NoRoute,
        Unreachable::Host => Problem::Unresolved,
        Unreachable::Port => Problem::Port,
        Unreachable::Protocol => Problem::Protocol,
        Unreachable::Prohibited | Unreachable::Egress => Problem::Prohibited,
    }
}
