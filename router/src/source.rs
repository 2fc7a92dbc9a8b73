//! Whether a packet's source address leads back to where the packet came from: strict reverse path (RFC 2827,
//! RFC 3704 section 2.2; RFC 1812 section 5.3.8). What nobody could answer is sent to nobody.
//!
//! The bridge's own check ([`switch::admit`]) knows which addresses were given to whom in one network; only the FIB
//! knows which belong to other networks, and which are behind a container that routes. `spoof = "off"` turns off both.

use std::net::Ipv6Addr;

use switch::flow::Packet;
use switch::policy::Here;
use switch::port::NetworkId;
use switch::snapshot::{Owner, Spoof};

use crate::fib::{Next, Route};
use crate::tables::{Gateway, Tables};

/// Where a source address belongs, seen from the network that its packet came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belongs {
    /// It was given to the sender.
    Sender,
    /// It is in the prefix of that network.
    Network,
    /// It is behind the sender, by a static route.
    BehindSender {
        /// The sender's address in that route.
        via: Ipv6Addr,
    },
    /// It is behind another container, by a static route.
    BehindAnother {
        /// That container's address in the route.
        via: Ipv6Addr,
    },
    /// It is on another network, or behind a container there.
    Elsewhere(NetworkId),
    /// No route leads to it, or it is a gateway's, or all hosts of a subnet at once.
    Nobody,
    /// It is outside, where the packet came from.
    Outside,
    /// Nobody asks: `spoof = "off"`.
    Unasked,
}

impl Belongs {
    /// Whether the packet came from where its answer would go.
    pub const fn leads_back(self) -> bool {
        matches!(
            self,
            Self::Sender | Self::Network | Self::BehindSender { .. } | Self::Outside | Self::Unasked
        )
    }
}

/// Where the source address of a packet to `gateway` belongs.
#[inline]
pub fn belongs(packet: &Packet, gateway: &Gateway, here: &Here<'_, Tables>) -> Belongs {
    if gateway.outside {
        return from_outside(packet, gateway, here);
    }
    if here.network.spoof == Spoof::Off {
        return Belongs::Unasked;
    }
    let src = packet.key.src;
    // What nearly all packets say, without a look into the FIB.
    let given = here.snapshot.port(packet.meta.port).is_some_and(|port| port.addresses.contains(&src));
    if given { Belongs::Sender } else { by_route(packet, gateway, here) }
}

fn by_route(packet: &Packet, gateway: &Gateway, here: &Here<'_, Tables>) -> Belongs {
    match gateway.fib.lookup(packet.key.src) {
        Some(Route::Next(Next { network, .. })) if network != here.id => Belongs::Elsewhere(network),
        Some(Route::Next(Next { via: None, .. })) => Belongs::Network,
        Some(Route::Next(next @ Next { via: Some(via), .. })) => {
            let also = here.snapshot.tables.hops(&next);
            let mut hops = std::iter::once(via).chain(also.iter().copied());
            match hops.find(|hop| may_be(*hop, packet, here)) {
                Some(via) => Belongs::BehindSender { via },
                None => Belongs::BehindAnother { via },
            }
        }
        Some(Route::Local | Route::Nobody | Route::Unreachable) | None => Belongs::Nobody,
    }
}

/// Whether the sender may be this router. That may have moved to an address of its own choice: only what is another's is
/// refused.
fn may_be(hop: Ipv6Addr, packet: &Packet, here: &Here<'_, Tables>) -> bool {
    // Who is on another host is where that was told to be.
    if let Some(mac) = here.network.told.get(&hop) {
        let Packet { meta, .. } = packet;
        return *mac == meta.src && here.network.fdb.lookup(here.network.vlan, *mac) == Some(meta.port);
    }
    !matches!(here.network.claims.ips.get(&hop), Some(Owner::Port(port)) if *port != packet.meta.port)
}

/// Everybody is outside but those who are in a network of ours (RFC 2827 section 3: nobody sends in their name), all
/// hosts of a subnet, and ourselves.
fn from_outside(packet: &Packet, gateway: &Gateway, here: &Here<'_, Tables>) -> Belongs {
    match gateway.fib.lookup(packet.key.src) {
        Some(Route::Next(Next { network, .. })) if network != here.id => Belongs::Elsewhere(network),
        Some(Route::Next(_)) | None => Belongs::Outside,
        Some(Route::Local | Route::Nobody | Route::Unreachable) => Belongs::Nobody,
    }
}
