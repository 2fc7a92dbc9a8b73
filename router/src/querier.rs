//! The gateway as querier: who listens to which group is asked by it, where its network snoops and nobody with a lower
//! address asks (RFC 3376 section 6.6.2, RFC 3810 section 7.6.2). It is no multicast router and takes no reports itself:
//! it is the switch that reads the answers.

use std::net::{Ipv4Addr, Ipv6Addr};

use switch::flow::Packet;
use switch::groups::{Family, Groups, QUERIER_PRESENT, QUERY_INTERVAL};
use switch::io::Io;
use switch::policy::{Desk, Here, To};
use switch::port::{NetworkId, PortId};
use switch::snapshot::{Network, View};
use switch::tick::Tick;

use crate::Origin;
use crate::query::query;
use crate::tables::{Gateway, Tables};

/// Queries that follow each other quickly at the start, and how quickly, seconds (RFC 3376 sections 8.6 and 8.7).
const STARTUP: u8 = 3;
const STARTUP_INTERVAL: u32 = QUERY_INTERVAL / 4;
/// Milliseconds after which new ports are asked, so that many at once are asked once.
const NEWCOMERS: u64 = 1000;

/// When one family of a network is asked next.
#[derive(Clone, Copy)]
struct Turn {
    /// The same address as before: else it starts again.
    origin: Origin,
    /// How many of the quick ones are left.
    quick: u8,
    next: Tick,
}

/// One network.
#[derive(Clone, Copy)]
struct Link {
    /// Stands for its ports.
    ports: u64,
    turns: [Option<Turn>; 2],
}

/// When queries are due.
#[derive(Default)]
pub(crate) struct Querier {
    /// By [`NetworkId`].
    links: Vec<Option<Link>>,
    /// The snapshot they are of.
    generation: Option<u64>,
    next: Option<Tick>,
}

impl Querier {
    /// When [`Querier::due`] has something to send.
    pub const fn deadline(&self) -> Option<Tick> {
        self.next
    }

    /// The snapshot may be another one than before.
    #[inline]
    pub fn follow<I: Io>(&mut self, snapshot: View<'_, Tables>, now: Tick, desk: &mut Desk<'_, I>) {
        if self.generation != Some(snapshot.generation) {
            self.take_over(snapshot, now, desk);
        }
    }

    #[cold]
    fn take_over<I: Io>(&mut self, snapshot: View<'_, Tables>, now: Tick, desk: &mut Desk<'_, I>) {
        self.generation = Some(snapshot.generation);
        let mut before = std::mem::take(&mut self.links);
        for (id, gateway) in (0..).map(NetworkId).zip(snapshot.tables.gateways.iter()) {
            let old = before.get_mut(id.index()).and_then(Option::take);
            let snooping = snapshot.network(id).filter(|network| network.groups.is_some());
            self.links.push(
                gateway.as_ref().zip(snooping).map(|(gateway, network)| link(old, gateway, network, now)),
            );
        }
        self.due(snapshot, now, desk);
        self.look_ahead();
    }

    fn look_ahead(&mut self) {
        self.next =
            self.links.iter().flatten().flat_map(|link| link.turns).flatten().map(|turn| turn.next).min();
    }

    /// Sends what is due.
    pub fn due<I: Io>(&mut self, snapshot: View<'_, Tables>, now: Tick, desk: &mut Desk<'_, I>) {
        for (id, link) in (0..).map(NetworkId).zip(&mut self.links) {
            let Some((network, link)) = snapshot.network(id).zip(link.as_mut()) else { continue };
            let Some(groups) = &network.groups else { continue };
            for turn in link.turns.iter_mut().flatten().filter(|turn| turn.next <= now) {
                turn.take(groups, network, now, desk);
            }
        }
        self.look_ahead();
    }
}

impl Turn {
    fn take<I: Io>(&mut self, groups: &Groups, network: &Network, now: Tick, desk: &mut Desk<'_, I>) {
        let own = self.origin.address;
        if let Some(other) = groups.querier(Family::of(own), network.vlan)
            && other.port != PortId::NOBODY
            && other.address < own
            && now.secs().saturating_sub(other.seen) < QUERIER_PRESENT
        {
            self.next = Tick::from_secs(other.seen.saturating_add(QUERIER_PRESENT));
            return;
        }
        let pause = if self.quick > 0 { STARTUP_INTERVAL } else { QUERY_INTERVAL };
        // As long as nobody is there nobody answers; the first one is asked when it comes.
        if !network.members.is_empty() {
            groups.heard(network.vlan, own, PortId::NOBODY, now);
            desk.make(To::Flood(network, None), None, |buffer, _| query(&self.origin, None, buffer));
            self.quick = self.quick.saturating_sub(1);
        }
        self.next = now.plus_millis(u64::from(pause).saturating_mul(1000));
    }
}

fn link(old: Option<Link>, gateway: &Gateway, network: &Network, now: Tick) -> Link {
    let ports = fingerprint(&network.members);
    let news = old.is_some_and(|old| old.ports != ports);
    let olds = old.map_or([None; 2], |old| old.turns);
    let mut turns = [origin(gateway, Family::V4), origin(gateway, Family::V6)]
        .map(|origin| origin.map(|origin| Turn { origin, quick: STARTUP - 1, next: now }));
    for (turn, old) in turns.iter_mut().zip(olds) {
        if let (Some(turn), Some(mut old)) = (turn.as_mut(), old)
            && turn.origin == old.origin
        {
            // What a new port said before it was heard shall not be missed until the next turn.
            if news {
                old.next = old.next.min(now.plus_millis(NEWCOMERS));
            }
            *turn = old;
        }
    }
    Link { ports, turns }
}

/// Who asks: of IPv4 the gateway's address, of IPv6 the link-local one of its MAC, whether it has others or not: hosts have
/// link-local addresses, and solicit each other, where nobody gave them any.
fn origin(gateway: &Gateway, family: Family) -> Option<Origin> {
    match family {
        Family::V4 => gateway
            .origin(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped())
            .map(|(origin, _)| origin)
            .filter(|origin| Family::of(origin.address) == Family::V4),
        Family::V6 => Some(Origin { mac: gateway.mac, address: gateway.mac.link_local() }),
    }
}

/// A number that is another one when the ports are others (FNV-1a; nobody gains by making two alike).
fn fingerprint(ports: &[PortId]) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    ports.iter().fold(BASIS, |hash, port| (hash ^ u64::from(port.0)).wrapping_mul(PRIME))
}

/// Whoever sent `packet` left these groups: the querier asks behind that port whether somebody else stays. Once: what was
/// lost on a TAP would be lost twice.
#[cold]
pub(crate) fn ask_again<I: Io>(
    groups: &[Ipv6Addr],
    packet: &Packet,
    here: &Here<'_, Tables>,
    desk: &mut Desk<'_, I>,
) {
    let meta = &packet.meta;
    let known = here.snapshot.tables.gateway(here.id).zip(here.network.groups.as_ref());
    let Some((gateway, tables)) = known.filter(|_| meta.vid == here.network.vlan) else { return };
    for group in groups {
        let family = Family::of(*group);
        let is_ours = tables.querier(family, meta.vid).is_some_and(|querier| querier.port == PortId::NOBODY);
        if let Some(origin) = origin(gateway, family).filter(|_| is_ours) {
            desk.make(To::Port(meta.port), None, |buffer, _| query(&origin, Some(*group), buffer));
        }
    }
}
