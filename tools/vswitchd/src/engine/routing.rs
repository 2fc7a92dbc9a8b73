//! Registries -> what routing decides by: a gateway for each network that has one of ours, and its FIB; and those
//! tables as rows.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use router::fib::{Fib, Next, Route};
use router::neighbor::{GONE, REACHABLE};
use router::tables::{Gateway, Tables};
use switch::mac::MacAddr;
use switch::port::NetworkId;
use switch::tick::Tick;

use super::control::Control;
use super::networks::{NetworkRecord, Networks};
use crate::api::rows::{NeighborRow, NeighborState, RouteRow, RouteType};

/// A gateway of ours.
#[derive(Clone, Copy)]
pub struct Ours {
    /// Its network.
    pub id: NetworkId,
    /// Its address there.
    pub address: Ipv4Addr,
    /// Its MAC there.
    pub mac: MacAddr,
    /// The subnet.
    pub subnet: Ipv4Net,
}

/// The tables for these gateways.
pub fn tables(networks: &Networks, gateways: &[Ours]) -> Tables {
    let mut by_network: Vec<Option<Gateway>> = (0..networks.slots()).map(|_| None).collect();
    for ours in gateways {
        let (Some(slot), Some(record)) = (by_network.get_mut(ours.id.index()), networks.get(ours.id)) else {
            continue;
        };
        *slot = Some(Gateway {
            mac: ours.mac,
            addresses: Box::new([ours.address.to_ipv6_mapped()]),
            prefix_len: ours.subnet.prefix_len(),
            prefix6_len: 0,
            fib: fib(ours, record, networks, gateways),
            neighbors: Arc::clone(&record.neighbors),
        });
    }
    Tables { gateways: by_network.into_boxed_slice(), returns: networks.returns().cloned() }
}

/// Where packets go that came in by the network of `from`.
fn fib(from: &Ours, record: &NetworkRecord, networks: &Networks, gateways: &[Ours]) -> Fib {
    let mut fib = Fib::default();
    for to in gateways {
        let Some(there) = networks.get(to.id) else { continue };
        let own = to.id == from.id;
        let opens = own || opens(record, there);
        if !opens && !self::opens(there, record) {
            continue;
        }
        connected(&mut fib, to, opens);
        let next = |via| Route::Next(Next { network: to.id, via: Some(via), opens });
        let _ = next(to.address.to_ipv6_mapped());
    }
    fib
}

/// A subnet that is right there, the gateway in it, and its two ends, which are no hosts.
fn connected(fib: &mut Fib, to: &Ours, opens: bool) {
    let host = |address: Ipv4Addr| IpNet::new_assert(IpAddr::V4(address), 32);
    fib.add(IpNet::V4(to.subnet), Route::Next(Next { network: to.id, via: None, opens }));
    fib.add(host(to.address), Route::Local);
    if to.subnet.prefix_len() <= 30 {
        fib.add(host(to.subnet.network()), Route::Nobody);
        fib.add(host(to.subnet.broadcast()), Route::Nobody);
    }
}

/// Whether connections may be opened from one network to another.
fn opens(from: &NetworkRecord, to: &NetworkRecord) -> bool {
    let _ = (from, to);
    true
}

/// The address plan that a network belongs to: that of the first network it is connected with, either way round.
pub fn zone(id: NetworkId, networks: &Networks) -> u16 {
    let mut known = vec![id];
    let mut next = 0;
    while let Some(from) = known.get(next).and_then(|id| networks.get(*id)) {
        next += 1;
        for (other, record) in networks.all() {
            if !known.contains(&other) && (opens(from, record) || opens(record, from)) {
                known.push(other);
            }
        }
    }
    known.into_iter().map(|id| id.0).min().unwrap_or(id.0)
}

const fn kind(next: &Next) -> RouteType {
    match next {
        Next { opens: false, .. } => RouteType::Answer,
        Next { via: None, .. } => RouteType::Connected,
        Next { via: Some(_), .. } => RouteType::Static,
    }
}

impl Control {
    pub(super) fn route_rows(&self) -> Vec<RouteRow> {
        let snapshot = self.snapshot.load();
        let mut rows = Vec::new();
        for (id, network) in self.networks.all() {
            let Some(gateway) = snapshot.tables.gateway(id) else { continue };
            for (destination, route) in gateway.fib.iter() {
                let (via, to, kind) = match route {
                    Route::Nobody => continue,
                    Route::Local => (None, None, RouteType::Local),
                    Route::Next(next) => (next.via, Some(next.network), kind(&next)),
                };
                rows.push(RouteRow {
                    network: network.config.name.clone(),
                    destination,
                    via: via.map(|via| via.to_canonical()),
                    to: to.map(|to| self.networks.name(to).to_owned()),
                    r#type: kind,
                });
            }
        }
        rows.sort_by(|a, b| (&a.network, a.destination).cmp(&(&b.network, b.destination)));
        rows
    }

    pub(super) fn neighbor_rows(&self) -> Vec<NeighborRow> {
        let now = Tick::now();
        let mut rows = Vec::new();
        for (_, network) in self.networks.all() {
            for neighbor in network.neighbors.iter(now) {
                let port = self.ports.get(neighbor.port);
                rows.push(NeighborRow {
                    network: network.config.name.clone(),
                    address: neighbor.address.to_canonical(),
                    mac: neighbor.mac,
                    port: neighbor.port.0,
                    container: port.map_or_else(String::new, |port| port.container().into()),
                    iface: port.map_or_else(String::new, |port| port.ifname().into()),
                    age: u64::from(neighbor.age),
                    state: match neighbor.age {
                        ..REACHABLE => NeighborState::Reachable,
                        ..GONE => NeighborState::Stale,
                        _ => NeighborState::Failed,
                    },
                });
            }
        }
        rows.sort_by(|a, b| (&a.network, a.address).cmp(&(&b.network, b.address)));
        rows
    }
}
