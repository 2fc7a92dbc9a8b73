//! Between routing and NAT: which packets are translated, into what, and on whose account.
//!
//! Two functions are asked by the page of hops ([`crate::policy`]): [`leave`] for what the FIB sends out by the uplink,
//! [`enter`] for what comes to one of our addresses there, from outside or from a container (hairpin, RFC 4787 section
//! 6: out and in again, both in one step). Both are pure; [`commit`] does what their verdict costs.

use std::sync::Arc;

use nat::conntrack::{Conntrack, EndPoint, Entering, In, Known, Rules, Way};
use nat::fragments::{Fragments, Rest};
use nat::rewrite::rewrite;
use router::explain::Step;
use router::fib::{Next, Route};
use router::{forward, route};
use switch::checksum::Delta;
use switch::drop::DropReason;
use switch::flow::{Body, FlowKey, Fragment, L3, Packet, Quoted};
use switch::frame::Frame;
use switch::io::Io;
use switch::parse::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP};
use switch::policy::{Desk, Here};
use switch::port::{NetworkId, PortId};
use switch::table::Handle;
use switch::tick::Tick;
use switch::verdict::{Action, Nat, Side, Task, Unreachable, Verdict};

use crate::tables::{Tables, routed};

/// What is translated, and by what.
///
/// # Threads
/// Immutable once published; connections and fragments are tables with rules of their own.
#[derive(Clone)]
pub struct Translation {
    /// The network that is outside.
    pub uplink: NetworkId,
    /// Which networks leave with an address of ours there, by [`NetworkId`].
    pub masquerade: Box<[Masquerade]>,
    /// Our addresses there, and what is published at them.
    pub rules: Arc<Rules>,
    /// Connections and mappings.
    pub conntrack: Arc<Conntrack>,
    /// Fragments of what is translated.
    pub fragments: Arc<Fragments>,
}

/// What of a network is masqueraded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masquerade {
    /// IPv4.
    pub v4: bool,
    /// IPv6 (NAT66).
    pub v6: bool,
}

impl Translation {
    fn masquerades(&self, network: NetworkId, l3: L3) -> bool {
        self.masquerade.get(network.index()).is_some_and(|it| if l3 == L3::V4 { it.v4 } else { it.v6 })
    }
}

/// Where and by what, for all that follows.
struct At<'a> {
    nat: &'a Translation,
    here: &'a Here<'a, Tables>,
    routing: Here<'a, router::tables::Tables>,
}

impl<'a> At<'a> {
    fn new(here: &'a Here<'a, Tables>) -> Option<Self> {
        let nat = here.snapshot.tables.nat.as_ref()?;
        Some(Self { nat, here, routing: routed(here) })
    }
}

/// The FIB sends the packet to `next`: on its way out it may get an address of ours.
#[inline]
pub fn leave(packet: &Packet, next: &Next, here: &Here<'_, Tables>, why: &mut impl FnMut(Step)) -> Verdict {
    match At::new(here).filter(|at| at.nat.uplink == next.network && here.id != next.network) {
        Some(at) => masqueraded(packet, next, &at, why),
        None => route::pass(packet, next, false, &routed(here), why),
    }
}

fn masqueraded(packet: &Packet, next: &Next, at: &At<'_>, why: &mut impl FnMut(Step)) -> Verdict {
    let At { nat, here, routing } = at;
    let key = &packet.key;
    let masquerades = nat.masquerades(here.id, packet.meta.l3);
    let plain = |why: &mut _| route::pass(packet, next, false, routing, why);
    if packet.meta.fragment == Fragment::Later {
        return match nat.fragments.find(packet, here.now) {
            Some(rest) => with(route::pass(packet, next, true, routing, why), rest_of(packet, &rest)),
            None if masquerades => Verdict::Local(Task::AwaitFirst),
            None => plain(why),
        };
    }
    if let Body::IcmpError(quoted) = &packet.meta.body {
        return match nat.conntrack.error_out(&nat.rules, &quoted.key, packet.meta.port, here.now) {
            Some(outside) => {
                let part = error(packet, quoted, Some(outside), None);
                with(route::pass(packet, next, true, routing, why), part)
            }
            None if masquerades => Verdict::Drop(DropReason::NatError),
            None => plain(why),
        };
    }
    let known = nat.conntrack.outbound(&nat.rules, key, here.now);
    if known.is_none() && !masquerades {
        return plain(why);
    }
    let Some(source) = source(packet, known, at) else { return Verdict::Drop(DropReason::NatPorts) };
    why(Step::LeavesAs(source.end.address, source.end.port, known.is_some()));
    let answers = known.is_some_and(|known| known.inbound);
    with(route::pass(packet, next, answers, routing, why), translated(packet, Some(&source), None))
}

/// The packet is for an address of ours: outside, that may stand for a container. `None`: it is for us.
pub fn enter(packet: &Packet, here: &Here<'_, Tables>, why: &mut impl FnMut(Step)) -> Option<Verdict> {
    let at = At::new(here)?;
    if !at.nat.rules.is_external(packet.key.dst) || asks_us(packet) {
        return None;
    }
    if here.id != at.nat.uplink {
        return hairpin(packet, &at, why);
    }
    let gateway = here.snapshot.tables.router.gateway(here.id)?;
    if let Err(reason) = route::comes_from(packet, gateway, &at.routing, why) {
        return Some(Verdict::Drop(reason));
    }
    let At { nat, .. } = &at;
    if packet.meta.fragment == Fragment::Later {
        return rest(packet, &at, why);
    }
    if let Body::IcmpError(quoted) = &packet.meta.body {
        // RFC 5508 section 4.2.1 REQ-4: of no mapping, it is dropped.
        let Some((inside, owner)) = nat.conntrack.error_in(&nat.rules, &quoted.key, here.now) else {
            return Some(Verdict::Drop(DropReason::NatError));
        };
        let part = error(packet, quoted, None, Some(inside.end));
        return Some(with(deliver(packet, inside.zone, inside.end, owner, &at, why), part));
    }
    match nat.conntrack.inbound(&nat.rules, &packet.key, packet.meta.tcp.as_ref(), here.now) {
        In::To(to) => Some(received(packet, None, &to, &at, why)),
        In::Refused(reason) => Some(Verdict::Drop(reason)),
        // RFC 5382 section 4.3 REQ-4: who was asked by nobody hears nothing. Of other protocols we say what a host says.
        In::Nobody if packet.key.proto == PROTO_TCP => Some(Verdict::Drop(DropReason::NatUnpublished)),
        In::Nobody => None,
    }
}

/// From a container to an end point outside that is a container's: it goes out and comes in (RFC 4787 section 6 REQ-9,
/// RFC 5382 section 7.2 REQ-8: the source that the other one sees is the one outside).
#[cold]
fn hairpin(packet: &Packet, at: &At<'_>, why: &mut impl FnMut(Step)) -> Option<Verdict> {
    let At { nat, here, .. } = at;
    if packet.meta.fragment == Fragment::Later {
        return rest(packet, at, why);
    }
    if let Body::IcmpError(quoted) = &packet.meta.body {
        return Some(hairpinned_error(packet, quoted, at, why));
    }
    if is_query(packet.key.proto) {
        return None; // an answer to us
    }
    let known = nat.conntrack.outbound(&nat.rules, &packet.key, here.now);
    let source = source(packet, known, at)?;
    let seen = FlowKey { src: source.end.address, sport: source.end.port, ..packet.key };
    let entering = match known {
        Some(_) => nat.conntrack.inbound(&nat.rules, &seen, packet.meta.tcp.as_ref(), here.now),
        // Which l4 port it will have is not known before it has one.
        None => {
            let dst = EndPoint { address: seen.dst, port: seen.dport };
            nat.conntrack.hairpin(&nat.rules, seen.proto, dst, seen.src, here.now)
        }
    };
    let to = match entering {
        In::To(to) => to,
        In::Refused(reason) => return Some(Verdict::Drop(reason)),
        In::Nobody => return None,
    };
    let answers = known.is_some_and(|known| known.inbound);
    if !answers && !here.snapshot.tables.router.may_open(packet.meta.port, packet) {
        why(Step::Egress);
        return Some(Verdict::Local(Task::Unreachable(Unreachable::Egress)));
    }
    why(Step::LeavesAs(source.end.address, source.end.port, known.is_some()));
    Some(received(packet, Some(&source), &to, at, why))
}

/// RFC 5508 section 5 REQ-7.
fn hairpinned_error(packet: &Packet, quoted: &Quoted, at: &At<'_>, why: &mut impl FnMut(Step)) -> Verdict {
    let At { nat, here, .. } = at;
    let found =
        nat.conntrack.error_out(&nat.rules, &quoted.key, packet.meta.port, here.now).and_then(|outside| {
            let seen = FlowKey { dst: outside.address, dport: outside.port, ..quoted.key };
            let (inside, owner) = nat.conntrack.error_in(&nat.rules, &seen, here.now)?;
            Some((outside, inside, owner))
        });
    let Some((outside, inside, owner)) = found else { return Verdict::Drop(DropReason::NatError) };
    let part = error(packet, quoted, Some(outside), Some(inside.end));
    with(deliver(packet, inside.zone, inside.end, owner, at, why), part)
}

/// An echo request to us: it is we who answer, whichever containers are behind us.
fn asks_us(packet: &Packet) -> bool {
    match packet.key.proto {
        PROTO_ICMP => packet.key.dport == 8 << 8,
        PROTO_ICMPV6 => packet.key.dport == 128 << 8,
        _ => false,
    }
}

/// A later fragment to one of our addresses. `None`: of a packet that is for us.
fn rest(packet: &Packet, at: &At<'_>, why: &mut impl FnMut(Step)) -> Option<Verdict> {
    let Some(rest) = at.nat.fragments.find(packet, at.here.now) else {
        return Some(Verdict::Local(Task::AwaitFirst));
    };
    let owner = rest.to?;
    let zone = at.here.snapshot.home(owner).map_or(0, |network| network.zone);
    let to = EndPoint { address: rest.dst, port: 0 };
    Some(with(deliver(packet, zone, to, owner, at, why), rest_of(packet, &rest)))
}

/// To a container, by a connection that is there or is made.
fn received(
    packet: &Packet,
    source: Option<&Source>,
    to: &Entering,
    at: &At<'_>,
    why: &mut impl FnMut(Step),
) -> Verdict {
    why(Step::EntersTo(to.inside.end.address, to.inside.end.port, to.connection.is_some()));
    let verdict = deliver(packet, to.inside.zone, to.inside.end, to.owner, at, why);
    with(verdict, translated(packet, source, Some(to)))
}

/// To the end point of a container, which is behind `owner`: into its network, as its gateway would.
fn deliver(
    packet: &Packet,
    zone: u16,
    to: EndPoint,
    owner: PortId,
    at: &At<'_>,
    why: &mut impl FnMut(Step),
) -> Verdict {
    let snapshot = at.routing.snapshot;
    // It may be in another network by now.
    let home = snapshot.port(owner).map(|port| port.network);
    let home = home.filter(|id| snapshot.network(*id).is_some_and(|network| network.zone == zone));
    let route = home.and_then(|id| snapshot.tables.gateway(id)?.fib.lookup(to.address));
    match route {
        Some(Route::Next(next)) if Some(next.network) == home => {
            route::onward(packet, &next, to.address, &at.routing, why)
        }
        _ => Verdict::Drop(DropReason::NatNoConnection),
    }
}

/// What a packet leaves as.
struct Source {
    end: EndPoint,
    address: Delta,
    l4: Delta,
    side: Side,
}

/// `None`: we have no address of that family outside.
fn source(packet: &Packet, known: Option<Known>, at: &At<'_>) -> Option<Source> {
    if let Some(known) = known {
        return Some(Source::from(known));
    }
    // Which l4 port it will be is settled with the connection; if it can it keeps its own.
    let key = &packet.key;
    let address = at.nat.rules.external_for(key.zone, key.src)?;
    let end = EndPoint { address, port: key.sport };
    Some(Source { end, address: Delta::address(key.src, address), l4: Delta::NONE, side: Side::New })
}

impl From<Known> for Source {
    fn from(known: Known) -> Self {
        let Known { external: end, address, l4, at, .. } = known;
        Self { end, address, l4, side: Side::Known(at.to_u64()) }
    }
}

/// What becomes of a packet that leaves as `source`, comes to a container, or both.
fn translated(packet: &Packet, source: Option<&Source>, to: Option<&Entering>) -> Nat {
    let key = &packet.key;
    let mut nat = Nat {
        proto: key.proto,
        src: key.src,
        dst: key.dst,
        sport: key.sport,
        dport: key.dport,
        address: Delta::NONE,
        l4: Delta::NONE,
        id: None,
        from: Side::No,
        to: Side::No,
    };
    if let Some(source) = source {
        (nat.src, nat.sport, nat.from) = (source.end.address, source.end.port, source.side);
        (nat.address, nat.l4) = (source.address, source.l4);
    }
    if let Some(to) = to {
        nat.dst = to.inside.end.address;
        // A query's identifier is its source's, whichever way it goes.
        let port = if is_query(key.proto) { &mut nat.sport } else { &mut nat.dport };
        *port = to.inside.end.port;
        nat.to = to.connection.map_or(Side::New, |at| Side::Known(at.to_u64()));
        (nat.address, nat.l4) = (nat.address.and(to.address), nat.l4.and(to.l4));
    }
    nat
}

/// What becomes of a later fragment: addresses alone.
fn rest_of(packet: &Packet, rest: &Rest) -> Nat {
    let key = &packet.key;
    let address = Delta::address(key.src, rest.src).and(Delta::address(key.dst, rest.dst));
    Nat { src: rest.src, dst: rest.dst, address, id: rest.id, ..translated(packet, None, None) }
}

/// What becomes of an ICMP error about a packet that came in (`outside` is what that had been sent to), that went out
/// (`inside` is who had sent it), or both. RFC 5508 sections 4.2.1 and 4.2.2: what comes from outside keeps its source.
fn error(packet: &Packet, quoted: &Quoted, outside: Option<EndPoint>, inside: Option<EndPoint>) -> Nat {
    let key = &packet.key;
    let src = outside.map_or(key.src, |end| end.address);
    let dst = inside.map_or(key.dst, |end| end.address);
    let query = is_query(quoted.key.proto);
    let (mut sport, mut dport) = (quoted.key.sport, quoted.key.dport);
    match outside {
        // An echo reply quoted by who got it: its identifier is the one that it had come with.
        Some(end) if query => sport = end.port,
        Some(end) => dport = end.port,
        None => {}
    }
    if let Some(end) = inside {
        sport = end.port;
    }
    let address = Delta::address(key.src, src).and(Delta::address(key.dst, dst));
    Nat { src, dst, sport, dport, address, ..translated(packet, None, None) }
}

/// The verdict, translated where it leads on.
fn with(mut verdict: Verdict, nat: Nat) -> Verdict {
    if let Verdict::Forward(Action { hop: Some(hop), .. }) = &mut verdict {
        hop.nat = Some(nat);
        // The connection knows what belongs to it.
        hop.opens = false;
    }
    verdict
}

/// Sixth hop: makes the connections that the verdict needs, or notes the packet in those that are there.
///
/// # Errors
/// Why it goes no further ([`refused`]).
pub fn commit(action: &mut Action, packet: &Packet, here: &Here<'_, Tables>) -> Result<(), DropReason> {
    let cut = action.hop.is_some_and(|hop| hop.cut.is_some());
    let Some((part, nat)) =
        action.hop.as_mut().and_then(|hop| hop.nat.as_mut()).zip(here.snapshot.tables.nat.as_ref())
    else {
        return Ok(());
    };
    let (key, now) = (&packet.key, here.now);
    let known = |side, way| match side {
        Side::Known(at) => nat.conntrack.track_known(Handle::from_u64(at), way, &packet.meta, now),
        Side::New | Side::No => Ok(false),
    };
    if part.from != Side::No && !known(part.from, Way::Out)? {
        let source = nat.conntrack.track_out(&nat.rules, packet, packet.meta.port, now);
        settle(part, key, &source?);
    }
    if part.to != Side::No && !known(part.to, Way::In)? {
        let seen = match part.from {
            Side::No => *key,
            _ => FlowKey { src: part.src, sport: part.sport, ..*key },
        };
        come_in(nat, &seen, packet, now)?;
    }
    if packet.meta.fragment == Fragment::First {
        let to = (part.to != Side::No).then_some(action.out);
        part.id = nat.fragments.expect(packet, part, to, now);
    } else if cut && packet.meta.fragment == Fragment::No {
        part.id = nat.fragments.identification(packet, part);
    }
    Ok(())
}

/// The first fragment of a packet to one of our addresses that we answer ourselves: so do its others come to us.
#[cold]
pub fn is_for_us(packet: &Packet, here: &Here<'_, Tables>) {
    if let Some(At { nat, .. }) = At::new(here).filter(|at| at.nat.rules.is_external(packet.key.dst)) {
        nat.fragments.expect(packet, &translated(packet, None, None), None, here.now);
    }
}

/// What another container does not admit has left this one all the same: who it was for may answer. Without that two
/// behind one address that speak to each other's end points outside would never meet (RFC 4787 section 6 REQ-9, RFC 5128
/// section 3.3).
#[cold]
pub fn went_out(packet: &Packet, here: &Here<'_, Tables>) {
    let Some(at) = At::new(here).filter(|at| here.id != at.nat.uplink) else { return };
    let Translation { rules, conntrack, .. } = at.nat;
    if !rules.is_external(packet.key.dst) || !here.snapshot.tables.router.may_open(packet.meta.port, packet) {
        return;
    }
    // Without a place it is dropped as well.
    let _ = match conntrack.outbound(rules, &packet.key, here.now) {
        Some(known) => conntrack.track_known(known.at, Way::Out, &packet.meta, here.now).map(drop),
        None => conntrack.track_out(rules, packet, packet.meta.port, here.now).map(drop),
    };
}

/// Seventh hop, of a packet that goes on in fragments: it is translated before it is cut, as its checksum is over all of
/// it.
///
/// # Errors
/// [`DropReason::BadChecksum`] (RFC 1812 section 5.2.2), and those of [`rewrite`].
pub fn whole<I: Io>(
    frame: &Frame,
    packet: &Packet,
    nat: &Nat,
    desk: &mut Desk<'_, I>,
) -> Result<(), DropReason> {
    if !forward::header_verifies(desk.bytes(frame), &packet.meta) {
        return Err(DropReason::BadChecksum);
    }
    rewrite(desk.bytes_mut(frame), &packet.meta, nat)
}

/// The first packet of a connection from outside.
#[cold]
fn come_in(nat: &Translation, seen: &FlowKey, packet: &Packet, now: Tick) -> Result<(), DropReason> {
    match nat.conntrack.inbound(&nat.rules, seen, packet.meta.tcp.as_ref(), now) {
        In::To(to) => nat.conntrack.track_in(&nat.rules, seen, &packet.meta, &to, now),
        In::Refused(reason) => Err(reason),
        In::Nobody => Err(DropReason::NatUnpublished),
    }
}

/// What the packet leaves as turned out with its connection.
#[cold]
fn settle(part: &mut Nat, key: &FlowKey, source: &Known) {
    (part.src, part.sport) = (source.external.address, source.external.port);
    part.address = Delta::address(key.src, part.src).and(Delta::address(key.dst, part.dst));
    part.l4 = Delta::word(key.sport, part.sport);
    if !is_query(key.proto) {
        part.l4 = part.l4.and(Delta::word(key.dport, part.dport));
    }
}

/// RFC 5508 section 6 REQ-8: who gets no place is told; of what belongs to nothing nothing is said.
pub fn refused(reason: DropReason) -> Verdict {
    match reason {
        DropReason::NatQuota | DropReason::NatPorts => Verdict::Local(Task::Refused(reason)),
        reason => Verdict::Drop(reason),
    }
}

const fn is_query(proto: u8) -> bool {
    matches!(proto, PROTO_ICMP | PROTO_ICMPV6)
}
