//! What a gateway does itself, out of line: answers ARP and ND, asks for neighbours, and says why a packet cannot go
//! on. One of these lives in each worker.

use std::net::{IpAddr, Ipv6Addr};

use switch::drop::DropReason;
use switch::flow::{Body, NdKind, Packet};
use switch::frame::Frame;
use switch::io::Io;
use switch::mac::MacAddr;
use switch::parse::parse;
use switch::policy::{Desk, Fate, Here, To};
use switch::port::{NetworkId, PortId};
use switch::snapshot::Snapshot;
use switch::tick::Tick;
use switch::verdict::{Hop, Task, Unreachable, Verdict};
use switch::vnet::VnetHdr;

use crate::icmp::error::{self, Kind};
use crate::icmp::limit::Limit;
use crate::icmp::echo;
use crate::pending::{Due, Pending, Queued};
use crate::tables::{Gateway, Tables};
use crate::{arp, fragment, nd};

/// Ports whose ICMP errors are counted apart.
const PORTS: usize = 1 << 16;

/// A gateway's services in one worker.
pub struct Service {
    pending: Pending,
    limit: Limit,
}

/// Where a task is served.
struct Place<'a> {
    gateway: &'a Gateway,
    port: PortId,
    here: &'a Here<'a, Tables>,
}

impl Default for Service {
    fn default() -> Self {
        Self { pending: Pending::default(), limit: Limit::new(PORTS) }
    }
}

impl Service {
    /// When [`Service::due`] has something to do.
    pub fn deadline(&self) -> Option<Tick> {
        self.pending.deadline()
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
        let gateway = here.snapshot.tables.gateway(here.id).ok_or(DropReason::NoRoute)?;
        let place = Place { gateway, port: packet.meta.port, here };
        match task {
            Task::Neighbor => self.neighbor(packet, &place, desk),
            Task::Solicited => advertise(packet, &place, desk),
            Task::Echo => echo(frame, packet, &place, desk),
            Task::Expired => self.error(Kind::TimeExceeded, DropReason::TtlExceeded, frame, packet, &place, desk),
            Task::Unreachable(why) => {
                let (kind, reason) = unreachable(why);
                self.error(kind, reason, frame, packet, &place, desk)
            }
            Task::TooBig { mtu } => {
                self.error(Kind::TooBig { mtu }, DropReason::TooBig, frame, packet, &place, desk)
            }
            Task::Fragment { out, hop, mtu } => fragments(frame, packet, out, &hop, mtu, desk),
            Task::Hold { network, address } => self.hold(network, address, frame, here, desk),
        }
    }

    /// ARP and neighbour discovery: learn from it, answer it, let go who waited for it.
    fn neighbor<I: Io>(
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
            if solicited || self.pending.is_asked(here.id, address) {
                gateway.neighbors.confirm(address, mac, port, here.now);
            } else {
                gateway.neighbors.update(address, mac, port, here.now);
            }
            self.pending.take(here.id, address, |frame| desk.resume(frame));
        }
        answer(packet, place, desk);
        Ok(Fate::Local)
    }

    fn hold<I: Io>(
        &mut self,
        network: NetworkId,
        address: Ipv6Addr,
        frame: &Frame,
        here: &Here<'_, Tables>,
        desk: &mut Desk<'_, I>,
    ) -> Result<Fate, DropReason> {
        match self.pending.add(network, address, frame, here.now) {
            Queued::Full => return Err(DropReason::NeighborQueue),
            Queued::Ask => ask(network, address, None, here.snapshot, desk),
            Queued::Waits => {}
        }
        desk.hold(frame);
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

    /// What is due: asks again, or tells those who waited that nobody answers.
    pub fn due<I: Io>(&mut self, snapshot: &Snapshot<Tables>, now: Tick, desk: &mut Desk<'_, I>) {
        while let Some(due) = self.pending.due(now) {
            match due {
                Due::Ask(network, address) => ask(network, address, None, snapshot, desk),
                Due::GiveUp(network, address) => {
                    let mut waited = [None; 8];
                    let mut places = waited.iter_mut();
                    self.pending.take(network, address, |frame| {
                        if let Some(place) = places.next() {
                            *place = Some(frame);
                        }
                    });
                    for frame in waited.into_iter().flatten() {
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
        snapshot: &Snapshot<Tables>,
        now: Tick,
        desk: &mut Desk<'_, I>,
    ) {
        let Some(port) = snapshot.port(frame.port) else { return };
        let (id, gateway) = (port.network, snapshot.tables.gateway(port.network));
        let (Some(network), Some(gateway)) = (snapshot.network(id), gateway) else { return };
        let here = Here { snapshot, id, network, now };
        let Ok(packet) = parse(desk.bytes(frame), &desk.vnet(frame), frame.port, network.zone) else { return };
        let place = Place { gateway, port: frame.port, here: &here };
        let (kind, reason) = unreachable(Unreachable::Host);
        // The reason is the caller's to count.
        let _ = self.error(kind, reason, frame, &packet, &place, desk);
    }

    /// An ICMP error about `frame`, unless the rules or the rate forbid it; the packet is dropped in any case.
    fn error<I: Io>(
        &mut self,
        kind: Kind,
        reason: DropReason,
        frame: &Frame,
        packet: &Packet,
        place: &Place<'_>,
        desk: &mut Desk<'_, I>,
    ) -> Result<Fate, DropReason> {
        let gateway = place.gateway;
        let Some(source) = gateway.source(packet.key.src) else { return Err(reason) };
        if error::is_suppressed(packet, kind).is_none() && self.limit.take(place.port, place.here.now) {
            desk.make(To::Port(place.port), Some(frame), |buffer, about| {
                error::build(kind, about, packet, source, gateway.mac, buffer)
            });
        }
        Err(reason)
    }
}

fn unreachable(why: Unreachable) -> (Kind, DropReason) {
    let reason = match why {
        Unreachable::Network => DropReason::NoRoute,
        Unreachable::Host => DropReason::NeighborUnresolved,
        Unreachable::Port | Unreachable::Protocol => DropReason::NoService,
        Unreachable::Prohibited => DropReason::Prohibited,
    };
    (Kind::Unreachable(why), reason)
}
