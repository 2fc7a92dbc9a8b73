//! Registries -> what routing decides by: a gateway for each network that has one of ours, and its FIB; and those
//! tables as rows.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use router::egress::Rule;
use router::fib::{Fib, Next, Route};
use router::icmp::limit::Rates;
use router::neighbor::{GONE, REACHABLE};
use router::tables::{Advertises, Egress, Gateway, Services, Tables};
use switch::mac::MacAddr;
use switch::port::{NetworkId, PortId};
use switch::snapshot::{Claims, Owner, Routed};
use switch::tick::Tick;

use super::control::Control;
use super::multipath::{Ways, by, hops};
use super::networks::Networks;
use super::ports::Ports;
use crate::api::rows::{NeighborRow, NeighborState, RouteRow, RouteType};
use crate::config::{self, Config, Family, GatewayBy, IcmpErrors, Network, RoutesTo, Spoof, Uplink};

/// A gateway of ours.
#[derive(Clone)]
pub struct Ours {
    /// Its network.
    pub id: NetworkId,
    /// Its MAC there.
    pub mac: MacAddr,
    /// Its address and the subnet, of one family or of both.
    pub legs: Vec<(IpAddr, IpNet)>,
    /// Its network is the uplink.
    pub outside: bool,
    /// Interfaces of its network are being changed: they may not know yet that router advertisements are not for them.
    pub quiet: bool,
}

impl Ours {
    /// The gateway of a network, if it is ours in any family.
    pub fn of(id: NetworkId, config: &Config, network: &Network) -> Option<Self> {
        let v4 = config.gateway_of(network).and_then(|found| match found {
            config::Gateway { address, by: GatewayBy::Us(mac) } => {
                Some((mac, address.into(), network.subnet?.into()))
            }
            config::Gateway { by: GatewayBy::Container, .. } => None,
        });
        let v6 = config.gateway6_of(network).and_then(|found| match found {
            config::Gateway { address, by: GatewayBy::Us(mac) } => {
                Some((mac, address.into(), network.subnet6?.into()))
            }
            config::Gateway { by: GatewayBy::Container, .. } => None,
        });
        // One interface: where it has both families its MAC is the same for both.
        let (mac, ..) = v4.or(v6)?;
        let legs = v4.into_iter().chain(v6).map(|(_, address, subnet)| (address, subnet)).collect();
        Some(Self { id, mac, legs, outside: false, quiet: false })
    }

    /// Every address it has there, IPv4 v4-mapped, the one that it speaks from first in each family; with IPv6 a
    /// link-local one too, which router advertisements come from (RFC 4861 section 6.1.2).
    pub fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> + '_ {
        let local = self.prefix_len(Family::V6).map(|_| self.mac.link_local());
        self.legs.iter().map(|(address, _)| mapped(*address)).chain(local)
    }

    fn prefix_len(&self, family: Family) -> Option<u8> {
        let of = |(_, subnet): &&(IpAddr, IpNet)| Family::of(subnet.addr()) == family;
        self.legs.iter().find(of).map(|(_, subnet)| subnet.prefix_len())
    }
}

/// As in the keys of flows.
pub fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Ways from each network, to itself and to those that it may open connections to or answer, in order; and whether it may
/// open them.
pub struct Links(HashMap<NetworkId, BTreeMap<NetworkId, bool>>);

impl Links {
    /// As configured.
    pub fn new(config: &Config, networks: &Networks) -> Self {
        let ids: HashMap<&str, NetworkId> =
            networks.all().map(|(id, record)| (record.config.name.as_str(), id)).collect();
        let id = |network: &Network| ids.get(network.name.as_str()).copied();
        let mut ways: HashMap<NetworkId, BTreeMap<NetworkId, bool>> = HashMap::new();
        for from in &config.networks {
            let Some(this) = id(from) else { continue };
            ways.entry(this).or_default().insert(this, true);
            let others: Vec<NetworkId> = match &from.routes_to {
                RoutesTo::Some(names) => {
                    names.iter().filter_map(|to| ids.get(to.as_str()).copied()).collect()
                }
                RoutesTo::All => config.destinations(from).filter_map(id).collect(),
            };
            for to in others {
                ways.entry(this).or_default().insert(to, true);
                ways.entry(to).or_default().entry(this).or_insert(false);
            }
        }
        Self(ways)
    }

    fn of(&self, from: NetworkId) -> impl Iterator<Item = (NetworkId, bool)> {
        self.0.get(&from).into_iter().flatten().map(|(to, opens)| (*to, *opens))
    }

    /// Whether there is a way that may not be opened, but answered.
    fn has_one_way(&self) -> bool {
        self.0.values().flatten().any(|(_, opens)| !opens)
    }
}

/// Whether somebody must remember what may come back: where a way may not be opened but answered.
pub fn needs_returns(config: &Config) -> bool {
    config.networks.iter().any(|network| !network.routes_to.is_none())
        || config.containers.iter().any(|container| !container.egress.is_empty())
        || super::outside::is_seen(config)
}

/// The rules of each port whose container has some; empty where none has.
pub fn egress(config: &Config, ports: &Ports) -> Egress {
    let rules: HashMap<&str, Arc<[Rule]>> = config
        .containers
        .iter()
        .filter(|container| !container.egress.is_empty())
        .map(|container| (container.name.as_str(), container.egress.iter().map(|rule| rule.0).collect()))
        .collect();
    if rules.is_empty() {
        return Box::default();
    }
    let mut by_port = vec![None; ports.slots()];
    for (id, record) in ports.wanted() {
        if let Some(slot) = by_port.get_mut(id.index()) {
            *slot = rules.get(record.container()).cloned();
        }
    }
    by_port.into_boxed_slice()
}

/// The tables for these gateways.
pub fn tables(
    config: &Config,
    (networks, ports): (&Networks, &Ports),
    gateways: &[Ours],
    elsewhere: &Elsewhere,
) -> Tables {
    let links = Links::new(config, networks);
    let plan = Plan::new(config, networks, gateways, elsewhere);
    let mut by_network: Vec<Option<Gateway>> = (0..networks.slots()).map(|_| None).collect();
    for ours in gateways {
        let (Some(slot), Some(record)) = (by_network.get_mut(ours.id.index()), networks.get(ours.id)) else {
            continue;
        };
        *slot = Some(Gateway {
            mac: ours.mac,
            addresses: ours.addresses().collect(),
            prefix_len: ours.prefix_len(Family::V4).unwrap_or(0),
            prefix6_len: ours.prefix_len(Family::V6).unwrap_or(0),
            advertises: Advertises {
                default_route: !record.config.internal && !ours.outside,
                // Where only the addresses are admitted that we gave, nobody shall make himself one.
                autonomous: record.config.spoof != Spoof::Strict,
                quiet: ours.quiet,
            },
            uplink: leaves(config, &record.config),
            outside: ours.outside,
            loopback: config.daemon.host_loopback && leaves(config, &record.config),
            fib: plan.fib(ours, &record.config, &links),
            services: Services { dns: !ours.outside, dhcp: record.config.dhcp },
            neighbors: Arc::clone(&record.neighbors),
        });
    }
    let egress = egress(config, ports);
    let remembers = links.has_one_way() || !egress.is_empty() || super::outside::is_seen(config);
    let returns = remembers.then(|| networks.returns().cloned()).flatten();
    let IcmpErrors { all, per_container } = config.daemon.icmp_errors;
    let errors = Rates::new(per_container, all);
    Tables { gateways: by_network.into_boxed_slice(), returns, egress, hops: hops(config).collect(), errors }
}

/// Whether what is for no network of ours leaves from this one by sockets.
pub fn leaves(config: &Config, network: &Network) -> bool {
    config.daemon.uplink == Uplink::Sockets && !network.internal
}

/// What is behind other hosts of a cluster that routes.
#[derive(Default)]
pub struct Elsewhere {
    /// By which network.
    pub network: Option<NetworkId>,
    /// All of it together: nobody of it is outside.
    pub outer: Option<IpNet>,
    /// What is behind whom.
    pub routes: Vec<(IpNet, Ipv6Addr)>,
}

/// What leads to each network, so that a FIB is made of those that it has ways to and of no others.
struct Plan<'a> {
    gateways: HashMap<NetworkId, &'a Ours>,
    routes: HashMap<NetworkId, Vec<&'a config::Route>>,
    ways: Ways,
    /// The subnets of all, which no gateway looks for outside: one table that all of them ask last. What the file says of
    /// these addresses goes before, be it a default route by a container.
    subnets: Arc<Fib>,
    /// The same, and where all else is: outside.
    out: Arc<Fib>,
    /// Where packets go that came in by the uplink.
    inward: Fib,
    elsewhere: &'a Elsewhere,
}

impl<'a> Plan<'a> {
    fn new(
        config: &'a Config,
        networks: &'a Networks,
        gateways: &'a [Ours],
        elsewhere: &'a Elsewhere,
    ) -> Self {
        let mut by_name: HashMap<&str, Vec<&config::Route>> = HashMap::new();
        for route in &config.routes {
            by_name.entry(route.network.as_str()).or_default().push(route);
        }
        let mut subnets = Fib::default();
        for (_, subnet) in gateways.iter().flat_map(|ours| &ours.legs) {
            subnets.add(*subnet, Route::Unreachable);
        }
        // A host that has gone is looked for by no uplink.
        if let Some(outer) = elsewhere.outer {
            subnets.add(outer, Route::Unreachable);
        }
        let routes =
            gateways.iter().filter_map(|ours| Some((ours.id, by_name.remove(networks.name(ours.id))?)));
        let routes: HashMap<NetworkId, Vec<&config::Route>> = routes.collect();
        let out = Arc::new(super::outside::outward(config, &subnets, gateways));
        let subnets = Arc::new(subnets);
        let ways = Ways::new(config);
        let inward = super::outside::inward(config, networks, gateways, &routes, &ways);
        Self {
            routes,
            out,
            inward: inward.with_rest(Arc::clone(&subnets)),
            ways,
            gateways: gateways.iter().map(|ours| (ours.id, ours)).collect(),
            subnets,
            elsewhere,
        }
    }

    /// Where packets go that came in by the network of this gateway.
    fn fib(&self, from: &Ours, network: &Network, links: &Links) -> Fib {
        if from.outside {
            return self.inward.clone();
        }
        let rest = if network.internal { &self.subnets } else { &self.out };
        let mut fib = Fib::default().with_rest(Arc::clone(rest));
        for (id, opens) in links.of(from.id) {
            let Some(to) = self.gateways.get(&id) else { continue };
            connected(&mut fib, to, opens);
            for route in self.routes.get(&id).into_iter().flatten() {
                fib.add(route.destination, Route::Next(self.ways.next(id, route, opens)));
            }
            if self.elsewhere.network == Some(id) {
                for (destination, via) in &self.elsewhere.routes {
                    fib.add(*destination, Route::Next(Next::new(id, Some(*via), opens)));
                }
            }
        }
        fib
    }
}

/// The subnets that are right there, the gateway in them, and their ends, which are no hosts.
pub(super) fn connected(fib: &mut Fib, to: &Ours, opens: bool) {
    let host = |address: IpAddr| IpNet::from(address);
    for (address, subnet) in &to.legs {
        fib.add(*subnet, Route::Next(Next::new(to.id, None, opens)));
        fib.add(host(*address), Route::Local);
        match subnet {
            IpNet::V4(v4) if v4.prefix_len() <= 30 => {
                fib.add(host(subnet.network()), Route::Nobody);
                fib.add(host(subnet.broadcast()), Route::Nobody);
            }
            // RFC 4291 section 2.6.1: the subnet-router anycast address is that of every router there.
            IpNet::V6(v6) if v6.prefix_len() <= 126 => fib.add(host(subnet.network()), Route::Local),
            _ => {}
        }
    }
}

/// What is behind a container that routes is its to use as a source.
pub fn claim_routed(config: &Config, network: &str, claims: &mut Claims) {
    let mut behind: HashMap<PortId, Vec<Routed>> = HashMap::new();
    for route in config.routes.iter().filter(|route| route.network == network) {
        let address = mapped(route.destination.network());
        // Of a v4-mapped address.
        let before = if route.destination.addr().is_ipv4() { 96 } else { 0 };
        let len = route.destination.prefix_len().saturating_add(before);
        for via in &route.via {
            if let Some(Owner::Port(port)) = claims.ips.get(&mapped(*via)) {
                behind.entry(*port).or_default().push(Routed { address, len });
            }
        }
    }
    claims.routed = behind.into_iter().map(|(port, prefixes)| (port, prefixes.into_boxed_slice())).collect();
}

/// The address plan that each network belongs to: named by the first network of those that are connected.
pub fn zones(config: &Config, networks: &Networks) -> HashMap<NetworkId, u16> {
    let by_name: HashMap<&str, NetworkId> =
        networks.all().map(|(id, record)| (record.config.name.as_str(), id)).collect();
    let mut zones = HashMap::new();
    for zone in config.zones() {
        let ids: Vec<NetworkId> =
            zone.iter().filter_map(|network| by_name.get(network.name.as_str()).copied()).collect();
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
            let Some(gateway) = snapshot.tables.router.gateway(id) else { continue };
            for (destination, route) in gateway.fib.iter() {
                let (next, kind) = match route {
                    Route::Nobody => continue,
                    Route::Local => (None, RouteType::Local),
                    Route::Unreachable => (None, RouteType::Unreachable),
                    Route::Next(next) => (Some(next), kind(&next)),
                };
                let to = next.map(|next| next.network);
                rows.push(RouteRow {
                    network: network.config.name.clone(),
                    destination,
                    via: next.map(|next| by(&next, &snapshot.tables.router)).unwrap_or_default(),
                    mtu: next.and_then(|next| next.mtu),
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
