//! Router advertisements (RFC 4861 section 6.2): what they say, and when they are sent without being asked for.
//!
//! They are for hosts that nobody configured, behind a container that bridges: the keeper gives its interfaces their
//! addresses and routes itself and has them ignore advertisements.

use std::net::Ipv6Addr;

use switch::io::Io;
use switch::mac::MacAddr;
use switch::policy::{Desk, To};
use switch::port::NetworkId;
use switch::snapshot::View;
use switch::tick::Tick;

use crate::Origin;
use crate::nd::{self, ALL_NODES, Advertised, Prefix};
use crate::tables::{Gateway, Tables};

/// Seconds for which we are a default router: three times the longest pause (RFC 4861 section 6.2.1).
const LIFETIME: u16 = 1800;
/// Seconds that a prefix is on the link, and addresses of it are preferred (a day and four hours, as radvd has it).
const VALID: u32 = 86_400;
const PREFERRED: u32 = 14_400;
/// Seconds between advertisements, at least and at most (RFC 4861 section 6.2.1).
const PAUSE: (u64, u64) = (200, 600);
/// How many follow each other quickly after something is new, and how quickly, seconds (RFC 4861 section 10).
const INITIAL: u8 = 3;
const INITIAL_PAUSE: u64 = 16;

/// What the advertisements of a gateway say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Says {
    origin: Origin,
    lifetime: u16,
    mtu: Option<u32>,
    prefix: Option<Prefix>,
    dns: Option<Ipv6Addr>,
}

impl Says {
    /// `mtu` is that of its network. `None`: it has no IPv6, or says nothing for now.
    pub fn of(gateway: &Gateway, mtu: u32) -> Option<Self> {
        if gateway.advertises.quiet || gateway.outside {
            return None;
        }
        let (origin, _) = gateway.origin(ALL_NODES)?;
        let prefix = gateway.prefix6().map(|address| Prefix {
            address,
            len: gateway.prefix6_len,
            on_link: true,
            // RFC 4862 section 5.5.3 (d): with identifiers of 64 bits no other length makes an address.
            autonomous: gateway.prefix6_len == 64 && gateway.advertises.autonomous,
            valid: VALID,
            preferred: PREFERRED,
        });
        let lifetime = if gateway.advertises.default_route { LIFETIME } else { 0 };
        let global = |own: &&Ipv6Addr| own.to_ipv4_mapped().is_none() && !own.is_unicast_link_local();
        let dns = gateway.services.dns.then(|| gateway.addresses.iter().find(global).copied()).flatten();
        Some(Self { origin, lifetime, mtu: Some(mtu), prefix, dns })
    }

    /// The last one: we are no router there any more (RFC 4861 section 6.2.5).
    fn ceases(self) -> Self {
        Self { lifetime: 0, mtu: None, prefix: None, dns: None, ..self }
    }

    /// Writes it, to all nodes or to the one that solicited it; returns its length in bytes.
    pub fn write(&self, to: Option<(Ipv6Addr, MacAddr)>, out: &mut [u8]) -> Option<usize> {
        let advertised = Advertised {
            lifetime: self.lifetime,
            managed: false,
            other: false,
            mtu: self.mtu,
            prefixes: self.prefix.as_slice(),
            dns: self.dns.as_slice(),
            // RFC 8106 section 5.1: three times the longest pause, as for routers.
            dns_lifetime: u32::from(LIFETIME),
        };
        nd::router_advertisement(&self.origin, &advertised, to, out)
    }
}

/// One network's advertisements.
#[derive(Clone, Copy)]
struct Link {
    says: Says,
    /// How many of the quick ones are left.
    quick: u8,
    next: Tick,
}

/// When advertisements are due.
#[derive(Default)]
pub(crate) struct Advertiser {
    /// By [`NetworkId`].
    links: Vec<Option<Link>>,
    /// The snapshot they are of.
    generation: Option<u64>,
    next: Option<Tick>,
}

impl Advertiser {
    /// When [`Advertiser::due`] has something to send.
    pub const fn deadline(&self) -> Option<Tick> {
        self.next
    }

    /// The snapshot may be another one than before: what is new is said at once, what is over for the last time.
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
        for (network, gateway) in (0..).map(NetworkId).zip(snapshot.tables.gateways.iter()) {
            let says = gateway.as_ref().zip(snapshot.network(network));
            let says = says.and_then(|(gateway, network)| Says::of(gateway, network.mtu));
            let old = before.get_mut(network.index()).and_then(Option::take);
            if gateway.as_ref().is_some_and(|gateway| gateway.advertises.quiet) {
                self.links.push(old);
                continue;
            }
            if let Some(old) = old.filter(|old| says.is_none_or(|says| says.origin != old.says.origin)) {
                send(&old.says.ceases(), network, snapshot, desk);
            }
            let kept = old.filter(|old| Some(old.says) == says);
            self.links.push(kept.or_else(|| Some(Link { says: says?, quick: INITIAL, next: now })));
        }
        self.next = self.links.iter().flatten().map(|link| link.next).min();
        self.due(snapshot, now, desk);
    }

    /// Sends what is due.
    pub fn due<I: Io>(&mut self, snapshot: View<'_, Tables>, now: Tick, desk: &mut Desk<'_, I>) {
        if self.next.is_none_or(|next| next > now) {
            return;
        }
        for (network, link) in (0..).map(NetworkId).zip(&mut self.links) {
            let Some(link) = link.as_mut().filter(|link| link.next <= now) else { continue };
            send(&link.says, network, snapshot, desk);
            let pause = match link.quick.checked_sub(1) {
                Some(left) => {
                    link.quick = left;
                    INITIAL_PAUSE
                }
                None => pause(network, now),
            };
            link.next = now.plus_millis(pause.saturating_mul(1000));
        }
        self.next = self.links.iter().flatten().map(|link| link.next).min();
    }
}

/// Routers shall not fall into step (RFC 4861 section 6.2.4); nobody gains by guessing when the next one comes.
fn pause(network: NetworkId, now: Tick) -> u64 {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = (now.millis() ^ u64::from(network.0) << 48).wrapping_mul(MIX) >> 32;
    let (least, most) = PAUSE;
    least.saturating_add(mixed % most.saturating_sub(least).saturating_add(1))
}

fn send<I: Io>(says: &Says, network: NetworkId, snapshot: View<'_, Tables>, desk: &mut Desk<'_, I>) {
    if let Some(members) = snapshot.network(network).filter(|network| !network.members.is_empty()) {
        desk.make(To::Flood(members, None), None, |buffer, _| says.write(None, buffer));
    }
}
