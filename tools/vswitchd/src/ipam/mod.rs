//! Who has which address and who had it: the memory by which an interface gets the same one again.
//!
//! Pure data: the configuration reads it ([`crate::config::Context`]), the engine keeps it in the state folder. An
//! address that nobody names is chosen in this order: the one the interface has now, the ones it had (the latest
//! first), the lowest that nobody ever had, the one that was given back longest ago. So an address rests for as long as
//! there is any other, and its former owner finds it again until then.
//!
//! Addresses that DHCP gives to clients behind an interface are in the same tables ([`lease`]).
//!
//! What is given back is forgotten, the longest ago first, where a network has more than [`RESTING_PER_NETWORK`] of
//! them or all networks together more than [`RESTING`].

pub mod lease;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use lease::Lease;

/// How many addresses that were given back are remembered, of one network.
pub const RESTING_PER_NETWORK: usize = 1024;
/// How many addresses that were given back are remembered, of all networks.
pub const RESTING: usize = 16_384;

/// The addresses of all networks, by name: of networks that are gone as well, they may come back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Memory {
    networks: BTreeMap<String, BTreeMap<IpAddr, Entry>>,
    /// Addresses that other hosts of a cluster hold: nobody here gets them who names none.
    #[serde(skip)]
    elsewhere: BTreeSet<(String, IpAddr)>,
    /// Addresses that they held until lately, by when: who is cut off comes back with his own.
    #[serde(skip)]
    left: BTreeMap<(String, IpAddr), u64>,
}

/// An address that is or was somebody's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The container.
    pub container: String,
    /// The interface's name in it.
    pub interface: String,
    /// What DHCP gave to a client behind the interface; `None`: it is the interface's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// When it was given back: the later, the larger. `None`: it is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<u64>,
}

impl Entry {
    /// How late it was given back; what is in use comes last.
    pub fn rank(&self) -> u64 {
        self.released.unwrap_or(u64::MAX)
    }
}

/// The addresses of a network that are in use.
type InUse<'c> = BTreeMap<IpAddr, (&'c str, &'c str)>;

impl Memory {
    /// Other hosts hold these addresses, and no others.
    pub fn set_elsewhere<'n>(&mut self, addresses: impl IntoIterator<Item = (&'n str, IpAddr)>) {
        let owned = |(network, address): (&str, IpAddr)| (network.to_owned(), address);
        let before = std::mem::replace(&mut self.elsewhere, addresses.into_iter().map(owned).collect());
        self.left.retain(|address, _| !self.elsewhere.contains(address));
        let next = self.left.values().max().map_or(0, |last| last.saturating_add(1));
        let gone = before.into_iter().filter(|address| !self.elsewhere.contains(address));
        self.left.extend(gone.map(|address| (address, next)));
        let mut all: Vec<u64> = self.left.values().copied().collect();
        if let Some(last) = last_forgotten(&mut all, RESTING) {
            self.left.retain(|_, rank| *rank > last);
        }
    }

    /// Another host holds this address, too.
    pub fn add_elsewhere(&mut self, network: &str, address: IpAddr) {
        self.elsewhere.insert((network.to_owned(), address));
    }

    /// Addresses of a network that other hosts hold.
    pub fn elsewhere(&self, network: &str) -> impl Iterator<Item = IpAddr> {
        self.elsewhere.iter().filter(move |(name, _)| name == network).map(|(_, address)| *address)
    }

    /// Addresses of a network that other hosts held until lately: they rest like those that were given back here.
    pub fn left(&self, network: &str) -> impl Iterator<Item = IpAddr> {
        self.left.keys().filter(move |(name, _)| name == network).map(|(_, address)| *address)
    }

    /// A configuration, but for addresses of interfaces that other hosts hold.
    pub fn without_elsewhere(&self, config: &Config) -> Config {
        let mut config = config.clone();
        let held = |network: &str, ip: IpAddr| self.elsewhere.contains(&(network.to_owned(), ip));
        for interface in config.containers.iter_mut().flat_map(|container| &mut container.interfaces) {
            interface.ip = interface.ip.filter(|ip| !held(&interface.network, ip.addr().into()));
            interface.ip6 = interface.ip6.filter(|ip| !held(&interface.network, ip.addr().into()));
        }
        config
    }

    /// Every address of a network that is remembered, lowest first.
    pub fn of(&self, network: &str) -> impl Iterator<Item = (IpAddr, &Entry)> {
        self.networks.get(network).into_iter().flatten().map(|(address, entry)| (*address, entry))
    }

    /// The addresses that an interface has or had, the latest first.
    pub fn had(&self, network: &str, container: &str, interface: &str) -> Vec<IpAddr> {
        let is_it = |entry: &Entry| {
            entry.lease.is_none() && entry.container == container && entry.interface == interface
        };
        let mut had: Vec<_> = self.of(network).filter(|(_, entry)| is_it(entry)).collect();
        had.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.rank()));
        had.into_iter().map(|(address, _)| address).collect()
    }

    /// How many IPv4 addresses of a network rest.
    pub fn resting(&self, network: &str) -> usize {
        self.of(network).filter(|(ip, entry)| ip.is_ipv4() && entry.released.is_some()).count()
    }

    /// Takes down who has what now: what nobody has any more is given back. Whether anything changed.
    pub fn settle(&mut self, config: &Config) -> bool {
        let mut in_use: BTreeMap<&str, InUse<'_>> = BTreeMap::new();
        for (container, interface) in config.interfaces() {
            for ip in interface.ips() {
                let of_network = in_use.entry(&interface.network).or_default();
                of_network.insert(ip.addr(), (&container.name, &interface.name));
            }
        }
        let mut next = self.next_release();
        let mut changed = false;
        for (name, known) in &mut self.networks {
            let of_network = in_use.remove(name.as_str()).unwrap_or_default();
            let stays = |address: IpAddr, entry: &Entry| lease::stays(config, name, address, entry);
            changed |= settle_network(known, of_network, stays, &mut next);
        }
        for (name, of_network) in in_use {
            let known = self.networks.entry(name.to_owned()).or_default();
            changed |= settle_network(known, of_network, |_, _| false, &mut next);
        }
        if changed {
            self.forget();
        }
        changed
    }

    fn next_release(&self) -> u64 {
        let released = self.networks.values().flat_map(BTreeMap::values).filter_map(|entry| entry.released);
        released.max().map_or(0, |last| last.saturating_add(1))
    }

    /// Holds the memory to its limits.
    fn forget(&mut self) {
        for known in self.networks.values_mut() {
            let mut released: Vec<u64> = known.values().filter_map(|entry| entry.released).collect();
            if let Some(last) = last_forgotten(&mut released, RESTING_PER_NETWORK) {
                known.retain(|_, entry| entry.rank() > last);
            }
        }
        let all = self.networks.values().flat_map(BTreeMap::values);
        let mut released: Vec<u64> = all.filter_map(|entry| entry.released).collect();
        if let Some(last) = last_forgotten(&mut released, RESTING) {
            for known in self.networks.values_mut() {
                known.retain(|_, entry| entry.rank() > last);
            }
        }
        self.networks.retain(|_, known| !known.is_empty());
    }
}

/// The latest of those that are too many.
fn last_forgotten(released: &mut [u64], limit: usize) -> Option<u64> {
    let last = released.len().checked_sub(limit)?.checked_sub(1)?;
    let (_, found, _) = released.select_nth_unstable(last);
    Some(*found)
}

fn settle_network(
    known: &mut BTreeMap<IpAddr, Entry>,
    in_use: InUse<'_>,
    stays: impl Fn(IpAddr, &Entry) -> bool,
    next: &mut u64,
) -> bool {
    let mut changed = false;
    for (address, entry) in known.iter_mut().filter(|(address, _)| !in_use.contains_key(*address)) {
        if entry.released.is_none() && !stays(*address, entry) {
            entry.released = Some(*next);
            *next = next.saturating_add(1);
            changed = true;
        }
    }
    for (address, (container, interface)) in in_use {
        let is_it = |entry: &Entry| {
            entry.released.is_none()
                && entry.lease.is_none()
                && entry.container == container
                && entry.interface == interface
        };
        if !known.get(&address).is_some_and(is_it) {
            let (container, interface) = (container.to_owned(), interface.to_owned());
            known.insert(address, Entry { container, interface, lease: None, released: None });
            changed = true;
        }
    }
    changed
}
