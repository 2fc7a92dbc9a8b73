//! Which networks reach which, and which share one address plan because of it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use switch::mac::MacAddr;

use super::Family;
use super::model::{Config, Network, RoutesTo, mac_from_address};
use super::problem::Problem;
use super::registry::hosts;
use super::value::overlap;

/// Where a network's containers send what leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway<A = Ipv4Addr> {
    /// Its address, in the network's subnet.
    pub address: A,
    /// Who answers there.
    pub by: GatewayBy,
}

/// Who a gateway is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayBy {
    /// This daemon, with this MAC address.
    Us(MacAddr),
    /// The container that has the address.
    Container,
}

impl Config {
    /// The gateway of a network: every network with room for one has one. It is ours unless `gateway` names the
    /// address of a container that is connected now.
    pub fn gateway_of(&self, network: &Network) -> Option<Gateway> {
        let address = network.reserved_address()?;
        Some(Gateway { address, by: self.gateway_by(network, address.into()) })
    }

    /// Its gateway for IPv6, by the same rules. Ours has the MAC address of the one for IPv4 where that is ours too.
    pub fn gateway6_of(&self, network: &Network) -> Option<Gateway<Ipv6Addr>> {
        let address = network.reserved_address6()?;
        let by = match (self.gateway_by(network, address.into()), self.gateway_of(network)) {
            (GatewayBy::Us(_), Some(Gateway { by: GatewayBy::Us(mac), .. })) => GatewayBy::Us(mac),
            (by, _) => by,
        };
        Some(Gateway { address, by })
    }

    pub(super) fn gateway_by(&self, network: &Network, address: IpAddr) -> GatewayBy {
        let family = Family::of(address);
        let has_it = || {
            self.interfaces().any(|(_, i)| {
                i.network == network.name && i.ip_of(family).is_some_and(|ip| ip.addr() == address)
            })
        };
        // The address that is kept without being named is nobody's.
        if network.named_gateway(family).is_some() && has_it() {
            GatewayBy::Container
        } else {
            GatewayBy::Us(network.gateway_mac.unwrap_or_else(|| mac_from_address(address)))
        }
    }

    /// How many IPv4 addresses a network has for containers; `None`: it has no subnet.
    pub fn room(&self, network: &Network) -> Option<u64> {
        let (IpAddr::V4(first), IpAddr::V4(last)) = hosts(&network.subnet?.into()) else { return None };
        let all = u64::from(last.to_bits().saturating_sub(first.to_bits())).saturating_add(1);
        let ours = self.gateway_of(network).is_some_and(|gateway| gateway.by != GatewayBy::Container);
        Some(all.saturating_sub(u64::from(ours)))
    }

    /// The networks that `from` may open connections to, in order; never itself.
    pub fn destinations<'c>(&'c self, from: &'c Network) -> impl Iterator<Item = &'c Network> {
        self.networks.iter().filter(|to| match &from.routes_to {
            RoutesTo::Some(names) => names.binary_search(&to.name).is_ok(),
            RoutesTo::All => from.is_routed() && to.is_routed() && to.name != from.name,
        })
    }

    /// The networks by zone: those that `routes_to` connects, whichever way and over however many steps, share one
    /// address plan. Each network is in one zone; zones and the networks in them are in order.
    pub fn zones(&self) -> Vec<Vec<&Network>> {
        let mut zones: Vec<Vec<&Network>> = Vec::new();
        let mut known: HashMap<usize, usize> = HashMap::new();
        for (network, first) in self.networks.iter().zip(zones_of(&self.networks)) {
            let index = *known.entry(first).or_insert(zones.len());
            match zones.get_mut(index) {
                Some(zone) => zone.push(network),
                None => zones.push(vec![network]),
            }
        }
        zones
    }

    /// By name, the place in [`Config::networks`] of the first network of each one's zone.
    pub fn zone_indices(&self) -> HashMap<&str, usize> {
        let names = self.networks.iter().map(|network| network.name.as_str());
        names.zip(zones_of(&self.networks)).collect()
    }
}

/// For each network the place of the first one of its zone.
pub(super) fn zones_of(networks: &[Network]) -> Vec<usize> {
    let index: HashMap<&str, usize> =
        networks.iter().enumerate().map(|(index, network)| (network.name.as_str(), index)).collect();
    let mut parents: Vec<usize> = (0..networks.len()).collect();
    let mut all = None;
    for (from, network) in networks.iter().enumerate() {
        match &network.routes_to {
            RoutesTo::Some(names) => {
                for to in names.iter().filter_map(|name| index.get(name.as_str())) {
                    unite(&mut parents, from, *to);
                }
            }
            RoutesTo::All if network.is_routed() => all = Some(from),
            RoutesTo::All => {}
        }
    }
    // One network that reaches all of them joins them all; more of them join nothing more.
    if let Some(from) = all {
        for (to, _) in networks.iter().enumerate().filter(|(_, network)| network.is_routed()) {
            unite(&mut parents, from, to);
        }
    }
    (0..networks.len()).map(|network| root(&mut parents, network)).collect()
}

// The lower of two places stays the root, so that the root is the first one.
fn unite(parents: &mut [usize], one: usize, other: usize) {
    let (one, other) = (root(parents, one), root(parents, other));
    if let Some(parent) = parents.get_mut(one.max(other)) {
        *parent = one.min(other);
    }
}

// With every step the path is halved: a long chain is walked once.
fn root(parents: &mut [usize], mut of: usize) -> usize {
    while let Some(parent) = parents.get(of).copied().filter(|parent| *parent != of) {
        let above = parents.get(parent).copied().unwrap_or(parent);
        if let Some(slot) = parents.get_mut(of) {
            *slot = above;
        }
        of = above;
    }
    of
}

/// Two networks of one zone whose subnets overlap, by their places: the one that comes later, then the other. A later
/// one is named once.
pub(super) fn overlaps(networks: &[Network], zones: &[usize]) -> Vec<(usize, usize)> {
    let mut subnets: Vec<(usize, IpNet, usize)> = networks
        .iter()
        .zip(zones)
        .enumerate()
        .flat_map(|(index, (network, zone))| network.subnets().map(move |subnet| (*zone, subnet, index)))
        .collect();
    // Prefixes nest or are apart, and in this order one follows those that it is in.
    subnets.sort();
    let mut found: HashMap<usize, usize> = HashMap::new();
    let mut outer: Option<(usize, IpNet, usize)> = None;
    for (zone, subnet, index) in subnets {
        match outer {
            Some((of, around, other)) if of == zone && around.contains(&subnet) => {
                found.entry(index.max(other)).or_insert(index.min(other));
            }
            _ => outer = Some((zone, subnet, index)),
        }
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_unstable();
    found
}

/// The first family in which the subnets of two networks overlap.
pub(super) fn overlapping(this: &Network, other: &Network) -> Option<(Family, IpNet, IpNet)> {
    Family::BOTH.into_iter().find_map(|family| {
        let (this, other) = (this.subnet_of(family)?, other.subnet_of(family)?);
        overlap(&this, &other).then_some((family, this, other))
    })
}

/// What is said of two networks that [`overlaps`] found, and of which family they are alike.
pub(super) fn overlap_problem(
    networks: &[Network],
    (this, other): (usize, usize),
) -> Option<(Family, Problem)> {
    let (this, other) = (networks.get(this)?, networks.get(other)?);
    let (family, this_subnet, other_subnet) = overlapping(this, other)?;
    let problem = Problem::ZoneOverlap {
        this: this.name.clone(),
        this_subnet,
        other: other.name.clone(),
        other_subnet,
    };
    Some((family, problem))
}
