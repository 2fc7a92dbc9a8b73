//! Who has which name, address and MAC: the one place that says what collides, for the file and for run time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpAddrRange, IpNet, Ipv4AddrRange, Ipv6AddrRange};
use switch::mac::MacAddr;

use super::Family;
use super::family::PerFamily;
use super::host::HOST;
use super::model::{Config, Interface, Network, mac_from_address};
use super::problem::{Owner, Place, Problem};
use super::vxlan::Vxlan;
use super::zones::overlapping;
use crate::ipam::{Entry, Memory};
use crate::wire::NetnsRef;

/// Everything that is taken. Networks are named by their place in [`Config::networks`].
#[derive(Debug, Default)]
pub(super) struct Registry {
    addresses: HashMap<(usize, IpAddr), Owner>,
    macs: HashMap<(usize, MacAddr), Owner>,
    namespaces: BTreeMap<String, Namespace>,
    /// Per network and family, the lowest address that may be free.
    cursors: HashMap<(usize, Family), IpAddr>,
    /// Addresses to leave alone while there are others, with when they were given back: the later, the larger.
    resting: HashMap<(usize, IpAddr), u64>,
    /// Addresses that other hosts hold.
    elsewhere: HashSet<(usize, IpAddr)>,
}

#[derive(Debug, Default)]
struct Namespace {
    interfaces: HashMap<String, Owner>,
    networks: Vec<usize>,
    /// No `ethN` below this is free.
    next: u32,
}

impl Registry {
    /// What a valid configuration takes on this host.
    pub fn of(config: &Config) -> Self {
        let mut registry = Self::default();
        let indices: HashMap<&str, usize> = config
            .networks
            .iter()
            .enumerate()
            .map(|(index, network)| (network.name.as_str(), index))
            .collect();
        for (index, network) in config.networks.iter().enumerate() {
            registry.claim_host(index, network, Place(None));
        }
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
                for ip in interface.ips() {
                    registry.addresses.insert((*index, ip.addr()), owner.clone());
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
        let this = networks.get(index);
        for (this, other) in namespace.networks.iter().filter_map(|other| this.zip(networks.get(*other))) {
            if let Some((_, this_subnet, other_subnet)) = overlapping(this, other) {
                return Err(Problem::Overlap {
                    container: container.to_owned(),
                    this: this.name.clone(),
                    this_subnet,
                    other: other.name.clone(),
                    other_subnet,
                });
            }
        }
        namespace.networks.push(index);
        Ok(())
    }

    /// Gives the host what its leg in a network needs, if it has one there.
    pub fn claim_host(&mut self, index: usize, network: &Network, place: Place) {
        let Some(Interface { name: interface, ip: Some(ip), mac, .. }) = network.host_leg() else { return };
        let owner = Owner { container: HOST.to_owned(), interface, place };
        self.macs.insert((index, mac), owner.clone());
        self.addresses.insert((index, ip.addr().into()), owner);
    }

    /// Gives an address to who is on another host.
    pub fn claim_remote(
        &mut self,
        index: usize,
        network: &Network,
        ip: IpAddr,
        owner: Owner,
    ) -> Result<(), Problem> {
        check_host("ip", network, ip)?;
        let why = if network.reserved_of(Family::of(ip)) == Some(ip) {
            format!(
                "it is that of the gateway of network `{}`, which every host has itself: leave it out",
                network.name
            )
        } else if let Some(first) = self.addresses.get(&(index, ip)) {
            format!("it is taken in network `{}` by {first}", network.name)
        } else {
            self.addresses.insert((index, ip), owner);
            return Ok(());
        };
        Err(Problem::invalid("ip", &ip.to_string(), why))
    }

    /// Gives to those who are on other hosts what a valid configuration says that they have in a network.
    pub fn claim_statics(&mut self, index: usize, network: &Network, vxlan: &Vxlan) {
        for entry in vxlan.statics.iter().filter(|entry| network.vni == Some(entry.vni)) {
            let owner = Owner::remote(entry.vtep, Place(None));
            if let Some(ip) = entry.ip {
                self.addresses.insert((index, ip), owner.clone());
            }
            self.macs.insert((index, entry.mac), owner);
        }
    }

    /// Gives an address that was asked for to its owner.
    pub fn claim_address(
        &mut self,
        index: usize,
        network: &Network,
        ip: IpAddr,
        owner: Owner,
    ) -> Result<(), Problem> {
        let family = Family::of(ip);
        check_host(family.ip_key(), network, ip)?;
        let named = network.named_gateway(family);
        if named.is_none() && network.reserved_of(family) == Some(ip) {
            return Err(Problem::Reserved { ip, network: network.name.clone() });
        }
        if network.dhcp && family == Family::V4 && named == Some(ip) {
            return Err(Problem::GatewayServes { ip, network: network.name.clone() });
        }
        if let Some(mac) = network.gateway_mac.filter(|_| named == Some(ip)) {
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
        self.elsewhere.extend(memory.elsewhere(network).map(|ip| (index, ip)));
        // After those that were given back here.
        self.resting.extend(memory.left(network).map(|ip| ((index, ip), u64::MAX)));
        self.resting.extend(memory.of(network).map(|(ip, entry)| ((index, ip), entry.rank())));
    }

    /// An address was in use until a moment ago.
    pub fn rest_last(&mut self, index: usize, ip: IpAddr) {
        self.resting.insert((index, ip), u64::MAX);
    }

    /// Gives a free address to its owner: the lowest that nobody had, or else the one that was given back longest ago.
    pub fn next_address(
        &mut self,
        index: usize,
        network: &Network,
        subnet: IpNet,
        owner: Owner,
    ) -> Result<IpAddr, Problem> {
        let family = Family::of(subnet.addr());
        let reserved = network.reserved_of(family);
        let (first, last) = hosts(&subnet);
        let from = self.cursors.get(&(index, family)).copied().unwrap_or(first);
        let free = |ip: &IpAddr| {
            let here = self.addresses.contains_key(&(index, *ip)) || reserved == Some(*ip);
            !here && !self.elsewhere.contains(&(index, *ip))
        };
        let rested = |ip: &IpAddr| !self.resting.contains_key(&(index, *ip));
        let unused = range(from, last).find(|ip| free(ip) && rested(ip));
        let longest = || {
            let rests = self.resting.iter().filter(|((at, ip), _)| *at == index && subnet.contains(ip));
            let rests = rests.map(|((_, ip), rank)| (*rank, *ip));
            rests.filter(|(_, ip)| (first..=last).contains(ip) && free(ip)).min().map(|(_, ip)| ip)
        };
        let found = unused.or_else(longest);
        let Some(ip) = found else {
            let is_ours = |gateway| !self.addresses.contains_key(&(index, gateway));
            let kept = u128::from(reserved.is_some_and(is_ours));
            let room = bits(last).saturating_sub(bits(first)).saturating_add(1).saturating_sub(kept);
            return Err(Problem::SubnetFull { network: network.name.clone(), subnet, room });
        };
        // Where all that nobody had are given, none is left to look for.
        self.cursors.insert((index, family), if unused.is_some() { ip } else { last });
        self.addresses.insert((index, ip), owner);
        Ok(ip)
    }

    /// Gives an address to an owner who names none: one that it has or had, or else the next.
    pub fn open_address(
        &mut self,
        (index, network): (usize, &Network),
        subnet: IpNet,
        memory: &Memory,
        owner: &Owner,
    ) -> Result<IpAddr, Problem> {
        let reserved = network.reserved_of(Family::of(subnet.addr()));
        let had = Had::of(memory, &network.name);
        let mut had = had.by(&owner.container, &owner.interface);
        let mut claim = |ip: &IpAddr| {
            let fits = subnet.contains(ip) && reserved != Some(*ip);
            fits && self.claim_address(index, network, *ip, owner.clone()).is_ok()
        };
        if let Some(ip) = had.find(|ip| claim(ip)) {
            return Ok(ip);
        }
        self.rest(index, memory, &network.name);
        self.next_address(index, network, subnet, owner.clone())
    }

    /// Gives a MAC address that was asked for to its owner, who has the addresses `ips`.
    pub fn claim_mac(
        &mut self,
        index: usize,
        network: &Network,
        mac: MacAddr,
        ips: &Ips,
        owner: Owner,
    ) -> Result<(), Problem> {
        if let Some(gateway) = gateway_with(network, mac, ips) {
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
    pub fn default_mac(&mut self, index: usize, network: &Network, ips: &Ips, owner: Owner) -> MacAddr {
        let from_ip = ips.v4.or(ips.v6).map(|ip| mac_from_address(ip.addr()));
        let from_names = (0u32..).map(|attempt| mac_from_names(&owner.container, &owner.interface, attempt));
        let mut candidates = from_ip.into_iter().chain(from_names);
        let free = |mac: &MacAddr| {
            !self.macs.contains_key(&(index, *mac)) && gateway_with(network, *mac, ips).is_none()
        };
        let mac = candidates.find(free).unwrap_or_default();
        self.macs.insert((index, mac), owner);
        mac
    }
}

/// The addresses of one interface.
pub(super) type Ips = PerFamily<Option<IpNet>>;

// The gateway that has this MAC address, unless its address is one of the asker's own.
fn gateway_with(network: &Network, mac: MacAddr, ips: &Ips) -> Option<IpAddr> {
    let own = |address: IpAddr| ips.get(Family::of(address)).is_some_and(|ip| ip.addr() == address);
    let found = network.reserved_macs().find(|(reserved, address)| *reserved == mac && !own(*address));
    found.map(|(_, address)| address)
}

/// The addresses of a network that interfaces have or had.
#[derive(Debug)]
pub(super) struct Had<'m>(HashMap<(&'m str, &'m str), Vec<(u64, IpAddr)>>);

impl<'m> Had<'m> {
    /// Those of a network.
    pub fn of(memory: &'m Memory, network: &str) -> Self {
        let mut had: HashMap<_, Vec<_>> = HashMap::new();
        let elsewhere: HashSet<IpAddr> = memory.elsewhere(network).collect();
        let here = |(ip, entry): &(IpAddr, &Entry)| entry.lease.is_none() && !elsewhere.contains(ip);
        for (ip, entry) in memory.of(network).filter(here) {
            let of_owner = had.entry((entry.container.as_str(), entry.interface.as_str())).or_default();
            of_owner.push((entry.rank(), ip));
        }
        had.values_mut().for_each(|addresses| addresses.sort_by_key(|(rank, _)| Reverse(*rank)));
        Self(had)
    }

    /// Those of an interface, the latest first.
    pub fn by<'s>(
        &'s self,
        container: &'s str,
        interface: &'s str,
    ) -> impl Iterator<Item = IpAddr> + use<'s, 'm> {
        self.0.get(&(container, interface)).into_iter().flatten().map(|(_, ip)| *ip)
    }
}

/// The first and last address that hosts of a subnet can have: all but its ends, of a /31 both (RFC 3021). The last
/// one of IPv6 is like the others; the first one is that of every router (RFC 4291 section 2.6.1), but for /127
/// (RFC 6164).
pub(super) fn hosts(subnet: &IpNet) -> (IpAddr, IpAddr) {
    let (first, last) = (subnet.network(), subnet.broadcast());
    let inner = |address: IpAddr, by: i8| match address {
        IpAddr::V4(v4) => IpAddr::V4(v4.to_bits().saturating_add_signed(by.into()).into()),
        IpAddr::V6(v6) => IpAddr::V6(v6.to_bits().saturating_add_signed(by.into()).into()),
    };
    match subnet {
        IpNet::V4(v4) if v4.prefix_len() < 31 => (inner(first, 1), inner(last, -1)),
        IpNet::V6(v6) if v6.prefix_len() < 127 => (inner(first, 1), last),
        _ => (first, last),
    }
}

fn range(first: IpAddr, last: IpAddr) -> impl Iterator<Item = IpAddr> {
    let range = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Some(Ipv4AddrRange::new(first, last).into()),
        (IpAddr::V6(first), IpAddr::V6(last)) => Some(Ipv6AddrRange::new(first, last).into()),
        _ => None,
    };
    range.into_iter().flat_map(|range: IpAddrRange| range)
}

const fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits() as u128,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Whether a host of the network can have this address; `key` is where it was written.
pub(super) fn check_host(key: &'static str, network: &Network, ip: IpAddr) -> Result<(), Problem> {
    let family = Family::of(ip);
    let Some(subnet) = network.subnet_of(family) else {
        return Err(Problem::NoSubnet { key, family, network: network.name.clone() });
    };
    if !subnet.contains(&ip) {
        return Err(Problem::OutsideSubnet { key, ip, network: network.name.clone(), subnet });
    }
    let (first, last) = hosts(&subnet);
    if ip < first || ip > last {
        let role = match family {
            Family::V4 if ip < first => "network",
            Family::V4 => "broadcast",
            Family::V6 => "subnet-router anycast",
        };
        return Err(Problem::EdgeOfSubnet { key, ip, role, subnet, first, last });
    }
    Ok(())
}

/// Whether the host can have this address in the network.
pub(super) fn check_host_address(network: &Network, ip: Ipv4Addr) -> Result<(), Problem> {
    check_host("host_address", network, ip.into())?;
    if network.reserved_address() == Some(ip) {
        return Err(Problem::HostIsGateway { ip, network: network.name.clone() });
    }
    Ok(())
}

/// Whether the network has a gateway, which `key` is nothing without.
pub(super) fn needs_gateway(key: &'static str, network: &Network) -> Result<(), Problem> {
    if network.has_gateway() {
        return Ok(());
    }
    let network_name = network.name.clone();
    Err(match network.subnets().next() {
        None => Problem::NoSubnet { key, family: Family::V4, network: network_name },
        Some(subnet) => Problem::NoGateway { key, network: network_name, subnet },
    })
}

/// The IPv4 gateway, which `key` is nothing without.
pub(super) fn needs_gateway4(key: &'static str, network: &Network) -> Result<(), Problem> {
    let name = || network.name.clone();
    match network.subnet {
        None => Err(Problem::NoSubnet { key, family: Family::V4, network: name() }),
        Some(subnet) if network.reserved_address().is_none() => {
            Err(Problem::NoGateway { key, network: name(), subnet: subnet.into() })
        }
        Some(_) => Ok(()),
    }
}

/// FNV-1a, 64 bit: short, and the same in every release; it keeps no table, so nobody gains by choosing names.
pub(super) fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

// Locally administered, unicast, and never one made from an address (those start 02:42).
fn mac_from_names(container: &str, interface: &str, attempt: u32) -> MacAddr {
    let bytes = container.bytes().chain([0]).chain(interface.bytes()).chain(attempt.to_be_bytes());
    let [a, b, c, d, e, f, g, h] = hash(bytes).to_be_bytes();
    MacAddr([0x06, a ^ f, b ^ g, c ^ h, d, e])
}
