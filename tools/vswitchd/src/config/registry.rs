//! Who has which name, address and MAC: the one place that says what collides, for the file and for run time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use switch::mac::MacAddr;

use super::model::{Config, Network, mac_from_address};
use super::problem::{Owner, Place, Problem};
use super::value::overlap;
use crate::ipam::Memory;
use crate::wire::NetnsRef;

/// Everything that is taken. Networks are named by their place in [`Config::networks`].
#[derive(Debug, Default)]
pub(super) struct Registry {
    addresses: HashMap<(usize, Ipv4Addr), Owner>,
    macs: HashMap<(usize, MacAddr), Owner>,
    namespaces: BTreeMap<String, Namespace>,
    /// Per network, the lowest address that may be free.
    cursors: HashMap<usize, Ipv4Addr>,
    /// Addresses to leave alone while there are others, with when they were given back: the later, the larger.
    resting: HashMap<(usize, Ipv4Addr), u64>,
}

#[derive(Debug, Default)]
struct Namespace {
    interfaces: HashMap<String, Owner>,
    networks: Vec<usize>,
    /// No `ethN` below this is free.
    next: u32,
}

impl Registry {
    /// What a valid configuration takes.
    pub fn of(config: &Config) -> Self {
        let mut registry = Self::default();
        let indices: HashMap<&str, usize> = config
            .networks
            .iter()
            .enumerate()
            .map(|(index, network)| (network.name.as_str(), index))
            .collect();
        for (container, interface) in config.interfaces() {
            let owner = Owner {
                container: container.name.clone(),
                interface: interface.name.clone(),
                place: Place(None),
            };
            let namespace = registry.namespaces.entry(container.netns.key()).or_default();
            namespace.interfaces.insert(interface.name.clone(), owner.clone());
            if let Some(index) = indices.get(interface.network.as_str()) {
                namespace.networks.push(*index);
                registry.macs.insert((*index, interface.mac), owner.clone());
                if let Some(ip) = interface.ip {
                    registry.addresses.insert((*index, ip.addr()), owner);
                }
            }
        }
        registry
    }

    /// Gives an interface's name in a namespace to its owner.
    pub fn claim_name(&mut self, netns: &NetnsRef, owner: Owner) -> Result<(), Problem> {
        let namespace = self.namespaces.entry(netns.key()).or_default();
        match namespace.interfaces.get(&owner.interface) {
            Some(first) => Err(Problem::InterfaceTaken {
                netns: netns.to_string(),
                name: owner.interface,
                owner: first.clone(),
            }),
            None => {
                namespace.interfaces.insert(owner.interface.clone(), owner);
                Ok(())
            }
        }
    }

    /// The lowest `ethN` that is free in a namespace.
    pub fn free_name(&mut self, netns: &NetnsRef) -> String {
        let namespace = self.namespaces.entry(netns.key()).or_default();
        loop {
            let name = format!("eth{}", namespace.next);
            if !namespace.interfaces.contains_key(&name) {
                return name;
            }
            namespace.next = namespace.next.saturating_add(1); // ends: 4000 names are taken at most
        }
    }

    /// Connects a namespace to a network, unless its routes would contradict each other.
    pub fn join(
        &mut self,
        netns: &NetnsRef,
        container: &str,
        index: usize,
        networks: &[Network],
    ) -> Result<(), Problem> {
        let namespace = self.namespaces.entry(netns.key()).or_default();
        if namespace.networks.contains(&index) {
            return Ok(()); // two ports of one network: a loop perhaps, but no contradiction
        }
        if let Some((this, this_subnet)) = with_subnet(networks, index) {
            let others = namespace.networks.iter().filter_map(|other| with_subnet(networks, *other));
            for (other, other_subnet) in others {
                if overlap(&this_subnet, &other_subnet) {
                    return Err(Problem::Overlap {
                        container: container.to_owned(),
                        this: this.name.clone(),
                        this_subnet,
                        other: other.name.clone(),
                        other_subnet,
                    });
                }
            }
        }
        namespace.networks.push(index);
        Ok(())
    }

    /// Gives an address that was asked for to its owner.
    pub fn claim_address(
        &mut self,
        index: usize,
        network: &Network,
        ip: Ipv4Addr,
        owner: Owner,
    ) -> Result<(), Problem> {
        check_host("ip", network, ip)?;
        if network.gateway.is_none() && network.reserved_address() == Some(ip) {
            return Err(Problem::Reserved { ip, network: network.name.clone() });
        }
        if let Some(mac) = network.gateway_mac.filter(|_| network.gateway == Some(ip)) {
            return Err(Problem::GatewayTwice { ip, network: network.name.clone(), mac });
        }
        match self.addresses.get(&(index, ip)) {
            Some(first) => {
                Err(Problem::AddressTaken { ip, network: network.name.clone(), owner: first.clone() })
            }
            None => {
                self.addresses.insert((index, ip), owner);
                Ok(())
            }
        }
    }

    /// Addresses of a network that are or were somebody's are left alone while there are others.
    pub fn rest(&mut self, index: usize, memory: &Memory, network: &str) {
        let ranks = memory.of(network).filter_map(|(ip, entry)| Some(((index, v4(ip)?), entry.rank())));
        self.resting.extend(ranks);
    }

    /// An address was in use until a moment ago.
    pub fn rest_last(&mut self, index: usize, ip: Ipv4Addr) {
        self.resting.insert((index, ip), u64::MAX);
    }

    /// Gives a free address to its owner: the lowest that nobody had, or else the one that was given back longest ago.
    pub fn next_address(
        &mut self,
        index: usize,
        network: &Network,
        subnet: Ipv4Net,
        owner: Owner,
    ) -> Result<Ipv4Addr, Problem> {
        let (first, last) = hosts(&subnet);
        let from = self.cursors.get(&index).copied().unwrap_or(first);
        let free = |ip: &Ipv4Addr| {
            !self.addresses.contains_key(&(index, *ip)) && network.reserved_address() != Some(*ip)
        };
        let rested = |ip: &Ipv4Addr| !self.resting.contains_key(&(index, *ip));
        let mut unused = (from.to_bits()..=last.to_bits()).map(Ipv4Addr::from_bits);
        let unused = unused.find(|ip| free(ip) && rested(ip));
        let longest = || {
            let rests = self.resting.iter().filter(|((at, ip), _)| *at == index && subnet.contains(ip));
            let rests = rests.map(|((_, ip), rank)| (*rank, *ip));
            rests.filter(|(_, ip)| (first..=last).contains(ip) && free(ip)).min().map(|(_, ip)| ip)
        };
        let found = unused.or_else(longest);
        let Some(ip) = found else {
            let is_ours = |gateway| !self.addresses.contains_key(&(index, gateway));
            let kept = u32::from(network.reserved_address().is_some_and(is_ours));
            let room = last.to_bits().saturating_sub(first.to_bits()).saturating_add(1).saturating_sub(kept);
            return Err(Problem::SubnetFull { network: network.name.clone(), subnet, room });
        };
        if unused.is_some() {
            self.cursors.insert(index, ip);
        } else {
            self.cursors.insert(index, last); // all that nobody had are given
        }
        self.addresses.insert((index, ip), owner);
        Ok(ip)
    }

    /// Gives a MAC address that was asked for to its owner, who has the address `ip`.
    pub fn claim_mac(
        &mut self,
        index: usize,
        network: &Network,
        mac: MacAddr,
        ip: Option<Ipv4Addr>,
        owner: Owner,
    ) -> Result<(), Problem> {
        if let Some(gateway) = gateway_with(network, mac, ip) {
            return Err(Problem::MacOfGateway { mac, network: network.name.clone(), gateway });
        }
        match self.macs.get(&(index, mac)) {
            Some(first) => {
                Err(Problem::MacTaken { mac, network: network.name.clone(), owner: first.clone() })
            }
            None => {
                self.macs.insert((index, mac), owner);
                Ok(())
            }
        }
    }

    /// Gives a MAC address made from the IP address, as Docker does, or else from the names; the same ones every time.
    pub fn default_mac(
        &mut self,
        index: usize,
        network: &Network,
        ip: Option<Ipv4Addr>,
        owner: Owner,
    ) -> MacAddr {
        let from_ip = ip.map(mac_from_address);
        let from_names = (0u32..).map(|attempt| mac_from_names(&owner.container, &owner.interface, attempt));
        let mut candidates = from_ip.into_iter().chain(from_names);
        let free = |mac: &MacAddr| {
            !self.macs.contains_key(&(index, *mac)) && gateway_with(network, *mac, ip).is_none()
        };
        let mac = candidates.find(free).unwrap_or_default();
        self.macs.insert((index, mac), owner);
        mac
    }
}

// The gateway that has this MAC address, unless its address is the asker's own `ip`.
fn gateway_with(network: &Network, mac: MacAddr, ip: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
    let gateway = network.reserved_address().filter(|_| network.reserved_mac() == Some(mac))?;
    (ip != Some(gateway)).then_some(gateway)
}

/// The addresses of a network that interfaces have or had.
#[derive(Debug)]
pub(super) struct Had<'m>(HashMap<(&'m str, &'m str), Vec<(u64, Ipv4Addr)>>);

impl<'m> Had<'m> {
    /// Those of a network.
    pub fn of(memory: &'m Memory, network: &str) -> Self {
        let mut had: HashMap<_, Vec<_>> = HashMap::new();
        for (ip, entry) in memory.of(network) {
            if let Some(ip) = v4(ip) {
                let of_owner = had.entry((entry.container.as_str(), entry.interface.as_str())).or_default();
                of_owner.push((entry.rank(), ip));
            }
        }
        had.values_mut().for_each(|addresses| addresses.sort_by_key(|(rank, _)| Reverse(*rank)));
        Self(had)
    }

    /// Those of an interface, the latest first.
    pub fn by<'s>(
        &'s self,
        container: &'s str,
        interface: &'s str,
    ) -> impl Iterator<Item = Ipv4Addr> + use<'s, 'm> {
        self.0.get(&(container, interface)).into_iter().flatten().map(|(_, ip)| *ip)
    }
}

fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}

fn with_subnet(networks: &[Network], index: usize) -> Option<(&Network, Ipv4Net)> {
    let network = networks.get(index)?;
    network.subnet.map(|subnet| (network, subnet))
}

/// The first and last address that hosts of a subnet can have: all but its ends, of a /31 both (RFC 3021).
pub(super) fn hosts(subnet: &Ipv4Net) -> (Ipv4Addr, Ipv4Addr) {
    let (first, last) = (subnet.network(), subnet.broadcast());
    if subnet.prefix_len() >= 31 {
        return (first, last);
    }
    let inner = (first.to_bits().saturating_add(1), last.to_bits().saturating_sub(1));
    (Ipv4Addr::from_bits(inner.0), Ipv4Addr::from_bits(inner.1))
}

/// Whether a host of the network can have this address; `key` is where it was written.
pub(super) fn check_host(key: &'static str, network: &Network, ip: Ipv4Addr) -> Result<Ipv4Net, Problem> {
    let Some(subnet) = network.subnet else {
        return Err(Problem::NoSubnet { key, network: network.name.clone() });
    };
    if !subnet.contains(&ip) {
        return Err(Problem::OutsideSubnet { key, ip, network: network.name.clone(), subnet });
    }
    let (first, last) = hosts(&subnet);
    if ip < first || ip > last {
        let role = if ip < first { "network" } else { "broadcast" };
        return Err(Problem::EdgeOfSubnet { key, ip, role, subnet, first, last });
    }
    Ok(subnet)
}

/// The address of the gateway, which `key` is nothing without.
pub(super) fn needs_gateway(key: &'static str, network: &Network) -> Result<Ipv4Addr, Problem> {
    let name = || network.name.clone();
    let Some(subnet) = network.subnet else {
        return Err(Problem::NoSubnet { key, network: name() });
    };
    network.reserved_address().ok_or_else(|| Problem::NoGateway { key, network: name(), subnet })
}

// Locally administered, unicast, and never one made from an address (those start 02:42). FNV-1a, 64 bit: short, and the
// same in every release; it keeps no table, so nobody gains by choosing names.
fn mac_from_names(container: &str, interface: &str, attempt: u32) -> MacAddr {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let bytes = container.bytes().chain([0]).chain(interface.bytes()).chain(attempt.to_be_bytes());
    let hash = bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    let [a, b, c, d, e, f, g, h] = hash.to_be_bytes();
    MacAddr([0x06, a ^ f, b ^ g, c ^ h, d, e])
}
