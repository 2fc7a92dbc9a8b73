//! Registries -> what routing decides by: a gateway for each network that has one of ours, and its FIB; and those
//! tables as rows.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use router::fib::{Fib, Next, Route};
use router::neighbor::{GONE, REACHABLE};
use router::tables::{Gateway, Services, Tables};
use switch::mac::MacAddr;
use switch::port::NetworkId;
use switch::tick::Tick;

use super::control::Control;
use super::networks::Networks;
use crate::api::rows::{NeighborRow, NeighborState, RouteRow, RouteType};
use crate::config::{self, Config, GatewayBy, Network, Uplink};

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

impl Ours {
    /// The gateway of a network, if it is ours.
    pub fn of(id: NetworkId, config: &Config, network: &Network) -> Option<Self> {
        let Some(config::Gateway { address, by: GatewayBy::Us(mac) }) = config.gateway_of(network) else {
            return None;
        };
        Some(Self { id, address, mac, subnet: network.subnet? })
    }
}

/// Which networks may open connections to which.
pub struct Links(HashSet<(NetworkId, NetworkId)>);

impl Links {
    /// As configured; every network reaches itself.
    pub fn new(config: &Config, networks: &Networks) -> Self {
        let id = |network: &Network| networks.find(&network.name);
        let ways =
            |from| config.destinations(from).chain([from]).filter_map(move |to| Some((id(from)?, id(to)?)));
        Self(config.networks.iter().flat_map(ways).collect())
    }

    fn opens(&self, from: NetworkId, to: NetworkId) -> bool {
        self.0.contains(&(from, to))
    }

    /// Whether there is a way that may not be opened, but answered.
    fn has_one_way(&self) -> bool {
        self.0.iter().any(|&(from, to)| !self.opens(to, from))
    }
}

/// The tables for these gateways.
pub fn tables(config: &Config, networks: &Networks, gateways: &[Ours]) -> Tables {
    let links = Links::new(config, networks);
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
            uplink: leaves(config, &record.config),
            fib: fib(ours, config, networks, gateways, &links),
            services: Services { dns: true, dhcp: false },
            neighbors: Arc::clone(&record.neighbors),
        });
    }
    let returns = links.has_one_way().then(|| networks.returns().cloned()).flatten();
    Tables { gateways: by_network.into_boxed_slice(), returns }
}

/// Whether what is for no network of ours leaves from this one.
pub fn leaves(config: &Config, network: &Network) -> bool {
    config.daemon.uplink == Uplink::Sockets && !network.internal
}

/// Where packets go that came in by the network of `from`.
fn fib(from: &Ours, config: &Config, networks: &Networks, gateways: &[Ours], links: &Links) -> Fib {
    let mut fib = Fib::default();
    for to in gateways {
        let opens = links.opens(from.id, to.id);
        if !opens && !links.opens(to.id, from.id) {
            continue;
        }
        connected(&mut fib, to, opens);
        let name = networks.name(to.id);
        for route in config.routes.iter().filter(|route| route.network == name) {
            let next = Next { network: to.id, via: Some(route.via.to_ipv6_mapped()), opens };
            fib.add(IpNet::V4(route.destination), Route::Next(next));
        }
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

/// The address plan that each network belongs to: named by the first network of those that are connected.
pub fn zones(config: &Config, networks: &Networks) -> HashMap<NetworkId, u16> {
    let mut zones = HashMap::new();
    for zone in config.zones() {
        let ids: Vec<NetworkId> = zone.iter().filter_map(|network| networks.find(&network.name)).collect();
        let name = ids.iter().min().map_or(0, |id| id.0);
        zones.extend(ids.into_iter().map(|id| (id, name)));
    }
    zones
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
                        0..REACHABLE => NeighborState::Reachable,
                        REACHABLE..GONE => NeighborState::Stale,
                        GONE.. => NeighborState::Failed,
                    },
                });
            }
        }
        rows.sort_by(|a, b| (&a.network, a.address).cmp(&(&b.network, b.address)));
        rows
    }
}
