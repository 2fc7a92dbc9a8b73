//! What leads from network to network: `routes_to` and `[[route]]`, against the networks they name.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;

use super::load::RawRoute;
use super::model::{Network, Route, RoutesTo};
use super::problem::{Problem, What, clip};
use super::registry::{check_host, needs_gateway};
use super::report::{At, Reporter};
use super::resolve::{Facts, unknown_network};
use super::schema::ALL;
use super::value::{self, Number};
use super::zones::{overlap_problem, overlaps, zones_of};
use super::{Family, MAX_HOPS, MAX_ROUTES, value6};

/// Resolves `routes_to` of the networks, whose gateways are known, and then the routes.
pub(super) fn resolve(
    routes: Vec<RawRoute>,
    networks: &mut [Network],
    facts: &[Facts],
    reporter: &mut Reporter<'_>,
) -> Vec<Route> {
    let index: HashMap<&str, usize> =
        facts.iter().enumerate().map(|(index, facts)| (facts.name.as_str(), index)).collect();
    let wanted: Vec<Option<RoutesTo>> =
        (0..networks.len()).map(|from| routes_to(from, networks, facts, &index, reporter)).collect();
    for (network, wanted) in networks.iter_mut().zip(wanted) {
        network.routes_to = wanted.unwrap_or_default();
    }
    let zones = zones_of(networks);
    for pair in overlaps(networks, &zones) {
        let Some((family, problem)) = overlap_problem(networks, pair) else { continue };
        // A wrong subnet is no subnet here: what overlaps is written somewhere.
        if let Some(span) = facts.get(pair.0).and_then(|facts| facts.subnets.get(family).as_ref()) {
            reporter.add(span, || problem);
        }
    }
    static_routes(routes, &zones, &Named { networks, facts, index: &index }, reporter)
}

// What a network's `routes_to` means; `None` where it has none or one that is wrong as a whole.
fn routes_to(
    from: usize,
    networks: &[Network],
    facts: &[Facts],
    index: &HashMap<&str, usize>,
    reporter: &mut Reporter<'_>,
) -> Option<RoutesTo> {
    let (network, own) = (networks.get(from)?, facts.get(from)?);
    let At { value, span } = own.routes_to.as_ref()?;
    let names = match value {
        Some(names) if names.is_empty() => return None,
        names => names,
    };
    if network.internal {
        let network = network.name.clone();
        reporter.add(span, || Problem::InternalRoutes { key: "routes_to", network });
        return None;
    }
    if own.sound {
        reporter.check(span, needs_gateway("routes_to", network))?;
    }
    let Some(names) = names else { return Some(RoutesTo::All) };
    let mut known = HashSet::new();
    for At { value: name, span } in names {
        if !known.insert(name.as_str()) {
            reporter.add(span, || Problem::RoutesToTwice { to: clip(name) });
            continue;
        }
        let Some(to) = index.get(name.as_str()) else {
            reporter.add(span, || {
                if name == ALL {
                    return Problem::AllInside;
                }
                unknown_network(name, facts.iter().map(|facts| facts.name.as_str()))
            });
            continue;
        };
        if let (Some(to), Some(there)) = (networks.get(*to), facts.get(*to)) {
            reporter.check(span, reachable(network, to, own.sound && there.sound));
        }
    }
    let mut names: Vec<String> =
        known.into_iter().filter(|name| index.contains_key(name)).map(str::to_owned).collect();
    names.sort_unstable();
    Some(RoutesTo::Some(names))
}

// Whether one network can open connections to another; `sound`: what both say of their subnets is not wrong.
fn reachable(from: &Network, to: &Network, sound: bool) -> Result<(), Problem> {
    let names = || (clip(&from.name), clip(&to.name));
    if from.name == to.name {
        return Err(Problem::RoutesToItself { network: clip(&to.name) });
    }
    if to.internal {
        let (from, to) = names();
        return Err(Problem::RoutesToInternal { from, to });
    }
    if !sound {
        return Ok(());
    }
    if !to.has_gateway() {
        let lacks = if to.subnets().next().is_none() { "subnet" } else { "gateway" };
        let (from, to) = names();
        return Err(Problem::RoutesToUnrouted { from, to, lacks });
    }
    let both = |family: &Family| from.reserved_of(*family).is_some() && to.reserved_of(*family).is_some();
    if from.has_gateway() && !Family::BOTH.iter().any(both) {
        let (from, to) = names();
        return Err(Problem::RoutesToNoFamily { from, to });
    }
    Ok(())
}

/// Who has which subnet, zone by zone.
#[derive(Debug)]
pub(super) struct AddressPlan<'n> {
    networks: &'n [Network],
    zones: HashMap<&'n str, usize>,
    subnets: HashMap<(usize, IpNet), usize>,
}

impl<'n> AddressPlan<'n> {
    /// `zones` is [`zones_of`] of `networks`.
    pub fn new(networks: &'n [Network], zones: &[usize]) -> Self {
        let all = || networks.iter().zip(zones).enumerate();
        Self {
            networks,
            zones: all().map(|(_, (network, zone))| (network.name.as_str(), *zone)).collect(),
            subnets: all()
                .flat_map(|(index, (network, zone))| network.subnets().map(move |net| ((*zone, net), index)))
                .collect(),
        }
    }

    /// Whether a route by this network leads to where no network is.
    pub fn check(&self, network: &str, destination: IpNet) -> Result<(), Problem> {
        let zone = self.zones.get(network).copied();
        let there = zone.and_then(|zone| self.subnets.get(&(zone, destination)));
        match there.and_then(|index| self.networks.get(*index)) {
            Some(network) => Err(Problem::RouteToSubnet { destination, network: network.name.clone() }),
            None => Ok(()),
        }
    }
}

// The networks and what is written of them.
struct Named<'n> {
    networks: &'n [Network],
    facts: &'n [Facts],
    index: &'n HashMap<&'n str, usize>,
}

impl<'n> Named<'n> {
    // The network of a route, if it can have routes; what is wrong with it has been reported otherwise.
    fn of_route(&self, name: &At<String>, reporter: &mut Reporter<'_>) -> Option<(usize, &'n Network)> {
        let At { value: name, span } = name;
        let Some(index) = self.index.get(name.as_str()).copied() else {
            let names = self.facts.iter().map(|facts| facts.name.as_str());
            reporter.add(span, || unknown_network(name, names));
            return None;
        };
        let network = self.networks.get(index)?;
        if network.internal {
            reporter.add(span, || Problem::InternalRoutes { key: "network", network: clip(name) });
            return None;
        }
        let sound = self.facts.get(index).is_some_and(|facts| facts.sound);
        sound.then_some((index, network))
    }
}

fn static_routes(
    raw: Vec<RawRoute>,
    zones: &[usize],
    named: &Named<'_>,
    reporter: &mut Reporter<'_>,
) -> Vec<Route> {
    let plan = AddressPlan::new(named.networks, zones);
    let mut routes: Vec<Route> = Vec::new();
    let mut seen: HashMap<(usize, IpNet), (usize, Range<usize>)> = HashMap::new();
    for RawRoute { network, destination, via, mtu, span } in raw {
        if routes.len() == MAX_ROUTES {
            reporter.add(&span, || Problem::TooMany { what: What::Route, limit: MAX_ROUTES });
            break;
        }
        let Some((index, network)) = network.and_then(|name| named.of_route(&name, reporter)) else {
            continue;
        };
        let family = match &destination {
            Ok(Some(At { value, .. })) => Some(*value),
            _ => None,
        };
        let via = next_hops(network, via, family, reporter);
        let mtu = mtu.and_then(|mtu| reporter.check(&mtu.span, check_mtu(network, &mtu.value, family)));
        let Ok(Some(At { value: destination, span })) = destination else { continue };
        // A wrong `via` is no reason to keep quiet about the destination.
        if reporter.check(&span, plan.check(&network.name, destination)).is_none() {
            continue;
        }
        let zone = zones.get(index).copied().unwrap_or(index);
        if let Some((first, place)) = seen.get(&(zone, destination)) {
            let first_place = reporter.source.place(place);
            if let Some(first) = routes.get(*first) {
                let (via, network) = (first.via.clone(), first.network.clone());
                reporter.add(&span, || Problem::RouteTwice { destination, via, network, first: first_place });
            }
            continue;
        }
        if let Some(via) = via {
            seen.insert((zone, destination), (routes.len(), span));
            routes.push(Route { network: network.name.clone(), destination, via, mtu });
        }
    }
    routes
}

// All of them, if all are right.
fn next_hops(
    network: &Network,
    (written, mut right): (Vec<At<IpAddr>>, bool),
    destination: Option<IpNet>,
    reporter: &mut Reporter<'_>,
) -> Option<Vec<IpAddr>> {
    let mut hops: Vec<IpAddr> = Vec::new();
    for via in written {
        let room = if hops.len() < MAX_HOPS {
            Ok(())
        } else {
            let why = format!("a route has at most {MAX_HOPS} next hops");
            Err(Problem::invalid("via", &via.value.to_string(), why))
        };
        let once = if hops.contains(&via.value) {
            Err(Problem::invalid("via", &via.value.to_string(), "it is there twice: name each router once"))
        } else {
            Ok(())
        };
        let checked = room.and(once).and_then(|()| check_via(network, &via, destination));
        match reporter.check(&via.span, checked) {
            Some(()) => hops.push(via.value),
            None => right = false,
        }
    }
    right.then_some(hops)
}

fn check_mtu(network: &Network, mtu: &Number, destination: Option<IpNet>) -> Result<u16, Problem> {
    let bytes = value::mtu(mtu)?;
    let refuse = |why: String| Err(Problem::Invalid { key: "mtu", found: mtu.text.clone(), why: why.into() });
    if bytes > network.mtu {
        let Network { name, mtu, .. } = network;
        return refuse(format!("network `{name}` takes {mtu} bytes at most: say less, or leave it out"));
    }
    if bytes < value6::MTU_MIN && destination.is_some_and(|to| Family::of(to.addr()) == Family::V6) {
        return refuse("every link with IPv6 takes 1280 bytes (RFC 8200 section 5): say that or more".into());
    }
    Ok(bytes)
}

fn check_via(network: &Network, via: &At<IpAddr>, destination: Option<IpNet>) -> Result<(), Problem> {
    let via = via.value;
    if let Some(destination) = destination.filter(|to| Family::of(to.addr()) != Family::of(via)) {
        return Err(Problem::RouteFamilies { via, destination });
    }
    check_host("via", network, via)?;
    let (name, subnet) = (network.name.clone(), network.subnet_of(Family::of(via)));
    match (network.reserved_of(Family::of(via)), subnet) {
        (Some(gateway), _) if gateway == via => Err(Problem::RouteByGateway { via, network: name }),
        (None, Some(subnet)) => Err(Problem::NoGateway { key: "via", network: name, subnet }),
        _ => Ok(()),
    }
}
