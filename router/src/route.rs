//! The router's part of the fifth hop: is it for us, and where does it go? Pure.
//!
//! `why` is told every step and what came of it. A worker passes a function that does nothing and is compiled away; a
//! trace passes one that remembers, so that what it prints is what was decided.

use std::net::{Ipv4Addr, Ipv6Addr};

use switch::drop::DropReason;
use switch::flow::{Arp, Body, FlowKey, Fragment, Gso, L3, Meta, Nd, NdKind, Packet};
use switch::mac::MacAddr;
use switch::parse::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};
use switch::policy::Here;
use switch::port::PortId;
use switch::punt::Service;
use switch::snapshot::Network;
use switch::tick::Tick;
use switch::verdict::{Action, Hop, Stamp, Task, Unreachable, Verdict};

use crate::explain::Step;
use crate::fib::{Next, Route};
use crate::neighbor::Known;
use crate::tables::{Gateway, Tables};
use crate::{martian, multipath, options, source, told};

/// `ff02::1`, all nodes.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// l4 port of names.
const DNS: u16 = 53;
/// l4 port of addresses.
const DHCP: u16 = 67;
/// Bytes of an Ethernet header without tags.
const ETHERNET_LEN: u16 = 14;

/// Where a packet goes, as far as routing says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is not for a gateway, but for the bridge.
    Bridge,
    /// Nothing is left to ask.
    Decided(Verdict),
    /// To an address of ours: it is for us ([`local`]), unless that address stands for somebody else.
    Ours,
    /// The FIB leads on, if it may go there ([`pass`]).
    To(Next),
}

/// What the gateway of the packet's network makes of it.
#[inline]
pub fn route(packet: &Packet, here: &Here<'_, Tables>, why: &mut impl FnMut(Step)) -> Way {
    if let Some(mac) = told::answer(packet, here) {
        why(Step::Told(mac));
        return Way::Decided(Verdict::Local(Task::Tell(mac)));
    }
    let Some(gateway) = here.snapshot.tables.gateway(here.id) else {
        why(Step::NoGateway);
        return Way::Bridge;
    };
    let meta = &packet.meta;
    // A gateway is in one VLAN of its network. What has a tag behind that of the VLAN is in another one there.
    if meta.vid != here.network.vlan || meta.inner_vlan.is_some() {
        why(Step::Elsewhere(meta.vid));
        return Way::Bridge;
    }
    if let Some(verdict) = neighbor(packet, gateway) {
        why(Step::Neighbor);
        return Way::Decided(verdict);
    }
    if meta.dst == MacAddr::BROADCAST && is_ethernet_2(meta) && asks_for_address(packet, gateway) {
        return Way::Decided(Verdict::Local(Task::Punt(Service::Dhcp)));
    }
    why(Step::GatewayMac(meta.dst == gateway.mac));
    if meta.dst != gateway.mac {
        return Way::Bridge;
    }
    // RFC 894: IP is in Ethernet II frames. What is wrapped in LLC and SNAP nobody asked us to route.
    if !is_ethernet_2(meta) {
        why(Step::NotIp);
        return Way::Decided(Verdict::Drop(DropReason::NoService));
    }
    internet(packet, gateway, here, why)
}

fn is_ethernet_2(meta: &Meta) -> bool {
    let tag = if meta.vlan.is_some() { switch::tag::LEN } else { 0 };
    matches!(meta.l3, L3::V4 | L3::V6) && meta.l3_off == ETHERNET_LEN.saturating_add(tag)
}

/// RFC 2131 section 4.1: by broadcast to all, or by a client that knows its subnet to all of it. Nobody else on the
/// network hears it: its addresses are ours to give.
fn asks_for_address(packet: &Packet, gateway: &Gateway) -> bool {
    let (key, meta) = (&packet.key, &packet.meta);
    let to_all = |dst: Ipv4Addr| {
        let host = u32::MAX.checked_shr(u32::from(gateway.prefix_len)).unwrap_or(0);
        dst.is_broadcast()
            || gateway
                .addresses
                .iter()
                .filter_map(Ipv6Addr::to_ipv4_mapped)
                .any(|own| own.to_bits() | host == dst.to_bits())
    };
    gateway.services.dhcp
        && (key.proto, key.dport) == (PROTO_UDP, DHCP)
        && meta.fragment == Fragment::No
        && key.dst.to_ipv4_mapped().is_some_and(to_all)
}

/// ARP and neighbour discovery that concern the gateway, whoever the frame is for.
fn neighbor(packet: &Packet, gateway: &Gateway) -> Option<Verdict> {
    let meta = &packet.meta;
    let ours = match &meta.body {
        Body::Arp(arp) => asks(arp, gateway) || meta.dst == gateway.mac,
        Body::Nd(nd) => concerns(nd, gateway) || meta.dst == gateway.mac,
        _ => false,
    };
    match &meta.body {
        Body::Nd(nd) if nd.kind == NdKind::RouterSolicitation => {
            gateway.source(ALL_NODES).map(|_| Verdict::Local(Task::Solicited))
        }
        _ => ours.then_some(Verdict::Local(Task::Neighbor)),
    }
}

fn asks(arp: &Arp, gateway: &Gateway) -> bool {
    gateway.has(arp.target_ip.to_ipv6_mapped())
}

fn concerns(nd: &Nd, gateway: &Gateway) -> bool {
    nd.kind == NdKind::NeighborSolicitation && gateway.has(nd.target)
}

/// An IP packet whose Ethernet destination is the gateway.
fn internet(packet: &Packet, gateway: &Gateway, here: &Here<'_, Tables>, why: &mut impl FnMut(Step)) -> Way {
    let (key, meta) = (&packet.key, &packet.meta);
    if gateway.has(key.dst) {
        why(Step::Ours(key.dst));
        return Way::Ours;
    }
    // Without an address of the family it is no gateway for it, whatever the FIB or the uplink would do.
    if (if meta.l3 == L3::V4 { gateway.prefix_len } else { gateway.prefix6_len }) == 0 {
        why(Step::NoFamily);
        return Way::Decided(Verdict::Drop(DropReason::NoService));
    }
    if let Err(reason) = comes_from(packet, gateway, here, why) {
        return Way::Decided(Verdict::Drop(reason));
    }
    let entry = if is_group(key.dst) { None } else { gateway.fib.entry(key.dst) };
    why(Step::Route(entry));
    match entry.map(|entry| entry.route) {
        Some(Route::Local) => Way::Ours,
        Some(Route::Nobody) => Way::Decided(Verdict::Drop(DropReason::Martian)),
        Some(Route::Next(next)) => Way::To(multipath::choose(packet, next, here, why)),
        None if gateway.uplink && !is_group(key.dst) => Way::Decided(uplink(packet, why)),
        // RFC 1812 section 5.3.1: a packet that cannot be forwarded is not counted down.
        Some(Route::Unreachable) | None => {
            Way::Decided(Verdict::Local(Task::Unreachable(Unreachable::Network)))
        }
    }
}

/// No multicast is routed (RFC 1812 section 5.2.1.3: a router need not), least of all to one host by a default route.
#[inline]
const fn is_group(address: Ipv6Addr) -> bool {
    match address.to_ipv4_mapped() {
        Some(v4) => v4.is_multicast(),
        None => address.is_multicast(),
    }
}

/// Whether the packet's addresses are such as are routed, and its source leads back to where it came from.
///
/// # Errors
/// As what it is dropped; without a word: the answer would go to whom the address belongs.
pub fn comes_from(
    packet: &Packet,
    gateway: &Gateway,
    here: &Here<'_, Tables>,
    why: &mut impl FnMut(Step),
) -> Result<(), DropReason> {
    if let Err(martian) = martian::check(packet) {
        why(Step::Martian(martian));
        return Err(DropReason::Martian);
    }
    let source = source::belongs(packet, gateway, here);
    why(Step::Source(source));
    if source.leads_back() { Ok(()) } else { Err(DropReason::ReversePath) }
}

/// On to `next`, if the packet may go there. `answers`: it is known to answer what was opened from there.
#[inline]
pub fn pass(
    packet: &Packet,
    next: &Next,
    answers: bool,
    here: &Here<'_, Tables>,
    why: &mut impl FnMut(Step),
) -> Verdict {
    let meta = &packet.meta;
    if !next.opens && !answers {
        // Of who opened it: what comes from outside is of another address plan.
        let zone = here.snapshot.network(next.network).map_or(packet.key.zone, |network| network.zone);
        let answers = is_expected(packet, zone, here);
        why(Step::Answers(answers));
        if !answers {
            return not_expected(packet, Unreachable::Prohibited, here);
        }
    }
    // Within its network nobody asks; what it answers was let in.
    if next.network != here.id
        && !answers
        && !here.snapshot.tables.may_open(meta.port, packet)
        && !is_expected(packet, packet.key.zone, here)
    {
        why(Step::Egress);
        return not_expected(packet, Unreachable::Egress, here);
    }
    if next.network == here.id && !here.network.icc {
        // A router must not be the way around it (its containers are on one network, whatever MAC they write to).
        why(Step::Icc);
        return Verdict::Drop(DropReason::IccDenied);
    }
    onward(packet, next, packet.key.dst, here, why)
}

/// On to `next`, where the packet is for `dst` from there on: by its own address, or by what that stands for.
#[inline]
pub fn onward(
    packet: &Packet,
    next: &Next,
    dst: Ipv6Addr,
    here: &Here<'_, Tables>,
    why: &mut impl FnMut(Step),
) -> Verdict {
    // RFC 1812 section 5.3.1, RFC 8200 section 3.
    why(Step::Hops(packet.meta.ttl));
    if packet.meta.ttl <= 1 {
        return Verdict::Local(Task::Expired);
    }
    forward(packet, next, dst, here, why)
}

/// To nowhere that we know.
fn uplink(packet: &Packet, why: &mut impl FnMut(Step)) -> Verdict {
    why(Step::Uplink);
    why(Step::Hops(packet.meta.ttl));
    Verdict::Local(if packet.meta.ttl <= 1 { Task::Expired } else { Task::Uplink })
}

/// Whether the packet belongs to what was opened from the other side, which is in that zone.
fn is_expected(packet: &Packet, zone: u16, here: &Here<'_, Tables>) -> bool {
    let Some(returns) = &here.snapshot.tables.returns else { return false };
    match &packet.meta.body {
        Body::IcmpError(quoted) => returns.is_expected_error(&FlowKey { zone, ..quoted.key }, here.now),
        // It has no l4 ports: what its first fragment was, it is. Both came by the same way, whoever opened it.
        _ if packet.meta.fragment == Fragment::Later => {
            returns.is_expected_rest(&packet.key, packet.meta.fragment_id, here.now)
        }
        _ => returns.is_expected(&FlowKey { zone, ..packet.key }, here.now),
    }
}

/// What becomes of a packet that may not open the way, and answers nothing that we know of.
#[cold]
fn not_expected(packet: &Packet, why: Unreachable, here: &Here<'_, Tables>) -> Verdict {
    let remembers = here.snapshot.tables.returns.is_some();
    // RFC 791 section 3.2: fragments come in any order. Its first one says whose it is.
    if packet.meta.fragment == Fragment::Later && remembers {
        return Verdict::Local(Task::AwaitFirst);
    }
    Verdict::Local(Task::Unreachable(why))
}

/// To the next hop, if its MAC and its port are known.
fn forward(
    packet: &Packet,
    next: &Next,
    dst: Ipv6Addr,
    here: &Here<'_, Tables>,
    why: &mut impl FnMut(Step),
) -> Verdict {
    let meta = &packet.meta;
    let address = next.via.unwrap_or(dst);
    let hold = Verdict::Local(Task::Hold { network: next.network, address });
    let there = here.snapshot.tables.gateway(next.network);
    let (Some(there), Some(network)) = (there, here.snapshot.network(next.network)) else {
        return Verdict::Local(Task::Unreachable(Unreachable::Network));
    };
    let Some((known, out)) = place(there, network, address, here.now, why) else { return hold };
    let mtu = narrowest(network, next, why);
    let mtu = to_another_host(out, here).map_or(mtu, |path| path.min(mtu));
    let fits = length(meta) <= mtu;
    why(Step::Length(length(meta), mtu));
    // RFC 8200 section 5: only the source fragments IPv6. A super-frame comes from a sender that knows what it does.
    if !fits && (meta.df || meta.l3 == L3::V6 || meta.gso != Gso::None) {
        return Verdict::Local(Task::TooBig { mtu });
    }
    let hop = Hop {
        network: next.network,
        src: there.mac,
        dst: known.mac,
        ask: known.ask.then_some(address),
        shrinks: (mtu < here.network.mtu).then_some(mtu),
        cut: (!fits).then_some(mtu),
        opens: next.opens && here.snapshot.tables.returns.is_some() && next.network != here.id,
        nat: None,
        stamp: if options::are_there(meta) { stamp(there, dst, here.now) } else { None },
    };
    Verdict::Forward(Action { out, hop: Some(hop) })
}

/// RFC 791 section 3.1: as whom we are known where it goes.
#[cold]
fn stamp(there: &Gateway, dst: Ipv6Addr, now: Tick) -> Option<Stamp> {
    let address = there.source(dst)?.to_ipv4_mapped()?;
    Some(Stamp { address, millis: now.millis() as u32 })
}

/// What the next network takes, or a link behind it that the route knows of (RFC 1191 section 3).
fn narrowest(network: &Network, next: &Next, why: &mut impl FnMut(Step)) -> u32 {
    match next.mtu.map(u32::from) {
        Some(mtu) if mtu < network.mtu => {
            why(Step::RouteMtu(mtu));
            mtu
        }
        _ => network.mtu,
    }
}

/// What the way to another host takes, where that is known to be less than its network's MTU.
fn to_another_host(out: PortId, here: &Here<'_, Tables>) -> Option<u32> {
    here.snapshot.port(out)?.remote?.mtu
}

/// Where a neighbour is: its MAC, and the port that this is behind. A packet can go on to it with both and not with one.
pub(crate) fn place(
    gateway: &Gateway,
    network: &Network,
    address: Ipv6Addr,
    now: Tick,
    why: &mut impl FnMut(Step),
) -> Option<(Known, PortId)> {
    // Of who is on another host there is a word that goes before what is heard.
    let told = network.told.get(&address).map(|mac| Known { mac: *mac, ask: false });
    let known = told.or_else(|| gateway.neighbors.lookup(address, now));
    why(Step::NextHop(address, known));
    let known = known?;
    // Aged out of the FDB although it answers: asking again teaches the bridge as well.
    let out = network.fdb.lookup(network.vlan, known.mac);
    why(Step::Fdb(known.mac, out));
    Some((known, out?))
}

/// Bytes of the IP packet, or of one segment of a super-frame.
fn length(meta: &Meta) -> u32 {
    match meta.gso {
        Gso::None => meta.l3_end.saturating_sub(u32::from(meta.l3_off)),
        Gso::Tcp { size } | Gso::Udp { size } => {
            u32::from(meta.headers_len.saturating_sub(meta.l3_off)) + u32::from(size)
        }
    }
}

/// To an address of a gateway: a host requirement now (RFC 1122 sections 3.2.2.1 and 3.2.2.6).
pub fn local(packet: &Packet, here: &Here<'_, Tables>, why: &mut impl FnMut(Step)) -> Verdict {
    let Some(gateway) = here.snapshot.tables.gateway(here.id) else {
        return Verdict::Drop(DropReason::NoService);
    };
    match host(packet, gateway) {
        Verdict::Local(Task::Unreachable(Unreachable::Port))
            if gateway.loopback && gateway.has(packet.key.dst) =>
        {
            why(Step::Uplink);
            Verdict::Local(Task::Uplink)
        }
        verdict => verdict,
    }
}

fn host(packet: &Packet, gateway: &Gateway) -> Verdict {
    let (key, meta) = (&packet.key, &packet.meta);
    match (key.proto, meta.l3) {
        (PROTO_ICMP, L3::V4) | (PROTO_ICMPV6, L3::V6) => {
            // Type and code, which a later fragment has not.
            let request = key.dport == if meta.l3 == L3::V4 { 8 } else { 128 } << 8;
            match meta.fragment {
                Fragment::No if request => Verdict::Local(Task::Echo),
                Fragment::First if request => Verdict::Local(Task::Reassemble),
                Fragment::Later => Verdict::Local(Task::Reassemble),
                Fragment::No | Fragment::First => Verdict::Drop(DropReason::NoService),
            }
        }
        (PROTO_TCP | PROTO_UDP, _) => match service(packet, gateway) {
            None => Verdict::Local(Task::Unreachable(Unreachable::Port)),
            // What is asked fits in a packet; whatever is in fragments is none.
            Some(_) if meta.fragment != Fragment::No => Verdict::Drop(DropReason::NoService),
            Some(service) => Verdict::Local(Task::Punt(service)),
        },
        _ => Verdict::Local(Task::Unreachable(Unreachable::Protocol)),
    }
}

/// The service that a packet to a gateway's address is for.
fn service(packet: &Packet, gateway: &Gateway) -> Option<Service> {
    let key = &packet.key;
    // Whoever asks is answered: it must be somebody.
    if key.src.is_unspecified() || key.src.is_multicast() || key.sport == 0 {
        return None;
    }
    match (key.proto, key.dport) {
        (PROTO_TCP | PROTO_UDP, DNS) if gateway.services.dns => Some(Service::Dns),
        (PROTO_UDP, DHCP) if gateway.services.dhcp => Some(Service::Dhcp),
        _ => None,
    }
}
