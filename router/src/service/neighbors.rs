//! Packets that wait for a neighbour, and what ARP and neighbour discovery say of one: heard here, asked for here, and
//! where it was another worker that heard it, looked for again.

use std::net::Ipv6Addr;

use switch::drop::DropReason;
use switch::flow::{Body, NdKind, Packet};
use switch::frame::Frame;
use switch::io::Io;
use switch::mac::MacAddr;
use switch::parse::parse;
use switch::policy::{Desk, Fate, Here, To};
use switch::port::{NetworkId, PortId};
use switch::snapshot::View;
use switch::tick::Tick;
use switch::verdict::{Hop, Unreachable, Verdict};

use super::{Place, Service};
use crate::nd::Speaks;
use crate::pending::{Due, Queued};
use crate::route::place;
use crate::tables::Tables;
use crate::{arp, nd};

impl Service {
    /// ARP and neighbour discovery: learn from it, answer it, let go who waited for it.
    pub(super) fn neighbor<I: Io>(
        &mut self,
        packet: &Packet,
        place: &Place<'_>,
        desk: &mut Desk<'_, I>,
    ) -> Result<Fate, DropReason> {
        let Place { gateway, port, here } = *place;
        let told = match &packet.meta.body {
            // RFC 826: who asks us will be spoken to; who answers was asked, or is known.
            Body::Arp(arp) if !arp.sender_ip.is_unspecified() => {
                let solicited = arp.operation == 1 && gateway.has(arp.target_ip.to_ipv6_mapped());
                Some((arp.sender_ip.to_ipv6_mapped(), arp.sender_mac, solicited))
            }
            Body::Nd(nd) => match nd.kind {
                // RFC 4861 section 7.2.3; a duplicate address probe (from `::`) says nothing of its sender.
                NdKind::NeighborSolicitation if !packet.key.src.is_unspecified() => {
                    nd.source_mac.map(|mac| (packet.key.src, mac, true))
                }
                NdKind::NeighborAdvertisement => nd.target_mac.map(|mac| (nd.target, mac, false)),
                _ => None,
            },
            _ => None,
        };
        if let Some((address, mac, solicited)) = told
            && !gateway.has(address)
            && !mac.is_group()
            && mac != MacAddr::ZERO
        {
            if solicited {
                gateway.neighbors.confirm(address, mac, port, here.now);
            }
            if solicited || gateway.neighbors.update(address, mac, port, here.now) {
                self.found(here.id, address, desk);
            }
        }
        if let Some(address) = confirmed(packet)
            && gateway.neighbors.reconfirm(address, port, here.now)
        {
            self.found(here.id, address, desk);
        }
        answer(packet, place, desk);
        Ok(Fate::Local)
    }

    /// A packet waits until the MAC of its next hop is known.
    pub(super) fn hold<I: Io>(
        &mut self,
        network: NetworkId,
        address: Ipv6Addr,
        frame: &Frame,
        here: &Here<'_, Tables>,
        desk: &mut Desk<'_, I>,
    ) -> Result<Fate, DropReason> {
        if let Some(other) = self.pending.make_room(frame.port) {
            desk.give_up(&other, DropReason::NeighborQueue);
        }
        match self.pending.add(network, address, frame, here.now) {
            Queued::Full => return Err(DropReason::NeighborQueue),
            Queued::Ask => {
                if let Some(gateway) = here.snapshot.tables.gateway(network) {
                    gateway.neighbors.incomplete(address, frame.port, here.now);
                }
                ask(network, address, None, here.snapshot, desk);
            }
            Queued::Waits => {}
        }
        desk.hold(frame);
        if let Some(others) = &self.others {
            others.news.wait(others.me);
            self.look_again(here.snapshot, here.now, desk); // it may have been found a moment ago
        }
        Ok(Fate::Held)
    }

    /// Asks the next hop of a forwarded packet, by its own MAC, whether it is still there.
    pub fn ask<I: Io>(&mut self, verdict: &Verdict, here: &Here<'_, Tables>, desk: &mut Desk<'_, I>) {
        let Verdict::Forward(action) = verdict else { return };
        let Some(Hop { network, dst, ask: Some(address), .. }) = action.hop else { return };
        if let Some(gateway) = here.snapshot.tables.gateway(network) {
            gateway.neighbors.asked(address, here.now);
            ask(network, address, Some((dst, action.out)), here.snapshot, desk);
        }
    }

    /// Another worker found neighbours: who waited for them goes on. Found is what can be forwarded to, MAC and port: with
    /// less the packet would only be held again.
    #[cold]
    pub(super) fn look_again<I: Io>(
        &mut self,
        snapshot: View<'_, Tables>,
        now: Tick,
        desk: &mut Desk<'_, I>,
    ) {
        let known = |network: NetworkId, address: Ipv6Addr| {
            let (gateway, network) = (snapshot.tables.gateway(network), snapshot.network(network));
            gateway.zip(network).is_some_and(|(gateway, network)| {
                place(gateway, network, address, now, &mut |_| ()).is_some()
            })
        };
        while let Some((network, address)) = self.pending.first(known) {
            self.pending.take(network, address).for_each(|frame| desk.resume(frame));
        }
        if let Some(others) = &self.others
            && self.pending.is_empty()
        {
            others.news.rest(others.me);
        }
    }

    /// A neighbour is known now: who waited for it goes on, here and in other workers.
    fn found<I: Io>(&mut self, network: NetworkId, address: Ipv6Addr, desk: &mut Desk<'_, I>) {
        self.pending.take(network, address).for_each(|frame| desk.resume(frame));
        if let Some(others) = &self.others {
            others.news.found(others.me);
        }
    }

    /// Asks again, or tells those who waited that nobody answers.
    pub(super) fn due_neighbors<I: Io>(
        &mut self,
        snapshot: View<'_, Tables>,
        now: Tick,
        desk: &mut Desk<'_, I>,
    ) {
        while let Some(due) = self.pending.due(now) {
            match due {
                Due::Ask(network, address) => {
                    if let (Some(gateway), Some(port)) =
                        (snapshot.tables.gateway(network), self.pending.asks(network, address))
                    {
                        gateway.neighbors.incomplete(address, port, now);
                    }
                    ask(network, address, None, snapshot, desk);
                }
                Due::GiveUp(network, address) => {
                    for frame in self.pending.take(network, address) {
                        self.unanswered(&frame, snapshot, now, desk);
                        desk.give_up(&frame, DropReason::NeighborUnresolved);
                    }
                }
            }
        }
    }

    /// RFC 1812 section 5.2.7.1, RFC 4861 section 7.2.2: host, or address, unreachable.
    fn unanswered<I: Io>(
        &mut self,
        frame: &Frame,
        snapshot: View<'_, Tables>,
        now: Tick,
        desk: &mut Desk<'_, I>,
    ) {
        let Some(port) = snapshot.port(frame.port) else { return };
        let Some(network) = snapshot.network(port.network) else { return };
        let here = Here { snapshot, id: port.network, network, now };
        let Ok(packet) = parse(desk.bytes(frame), &desk.vnet(frame), frame.port, network.zone) else {
            return;
        };
        // The reason is the caller's to count.
        let _ = self.unreachable(Unreachable::Host, frame, &packet, &here, desk);
    }
}

/// RFC 4861 section 7.2.5: who was asked by his MAC need not say it again (Linux does not), and is reachable by it.
fn confirmed(packet: &Packet) -> Option<Ipv6Addr> {
    match &packet.meta.body {
        Body::Nd(nd)
            if nd.kind == NdKind::NeighborAdvertisement && nd.is_solicited() && nd.target_mac.is_none() =>
        {
            Some(nd.target)
        }
        _ => None,
    }
}

/// The answer to ARP and neighbour solicitations for addresses of ours.
fn answer<I: Io>(packet: &Packet, place: &Place<'_>, desk: &mut Desk<'_, I>) {
    let Place { gateway, port, .. } = *place;
    match &packet.meta.body {
        Body::Arp(request) if gateway.has(request.target_ip.to_ipv6_mapped()) => {
            desk.make(To::Port(port), None, |buffer, _| arp::reply(request, gateway.mac, buffer));
        }
        Body::Nd(solicited)
            if solicited.kind == NdKind::NeighborSolicitation && gateway.has(solicited.target) =>
        {
            desk.make(To::Port(port), None, |buffer, _| {
                nd::advertisement(packet, gateway.mac, Speaks::Router, buffer)
            });
        }
        _ => {}
    }
}

/// The answer to ARP and neighbour solicitations for somebody who is told of.
pub(super) fn tell<I: Io>(packet: &Packet, mac: MacAddr, desk: &mut Desk<'_, I>) {
    let to = To::Port(packet.meta.port);
    match &packet.meta.body {
        Body::Arp(request) => desk.make(to, None, |buffer, _| arp::reply(request, mac, buffer)),
        _ => desk.make(to, None, |buffer, _| nd::advertisement(packet, mac, Speaks::Host, buffer)),
    }
}

/// Asks who `address` is: by its MAC and port where they are known, or all of the network.
fn ask<I: Io>(
    network: NetworkId,
    address: Ipv6Addr,
    known: Option<(MacAddr, PortId)>,
    snapshot: View<'_, Tables>,
    desk: &mut Desk<'_, I>,
) {
    let (Some(gateway), Some(members)) = (snapshot.tables.gateway(network), snapshot.network(network)) else {
        return;
    };
    let Some((origin, _)) = gateway.origin(address) else { return };
    let (mac, to) = match known {
        Some((mac, port)) => (Some(mac), To::Port(port)),
        None => (None, To::Flood(members, None)),
    };
    desk.make(to, None, |buffer, _| match address.to_ipv4_mapped() {
        Some(v4) => arp::request(&origin, v4, mac, buffer),
        None => nd::solicitation(&origin, address, mac, buffer),
    });
}
