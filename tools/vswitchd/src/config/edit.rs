//! Objects made at run time. They pass the checks of the file, with the same words.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::aliases::{Taken, alias};
use super::model::{Config, Container, Daemon, Interface, Network, RoutesTo, Uplink};
use super::plan::{in_network, interface};
use super::problem::{Advice, Owner, Place, Problem, What, clip, nearest};
use super::registry::{Ips, Registry, needs_gateway4};
use super::resolve::{default_routes, unknown_network, way_out};
use super::routing::AddressPlan;
use super::uplink::{beside, plain};
use super::value::{self, Number};
use super::vlan::{Vlans, vid};
use super::zones::{overlap_problem, overlaps, zones_of};
use super::{Family, MAX_CONTAINERS, MAX_INTERFACES, MAX_NETWORKS, Paths, flannel, overlay, value6};
use crate::ipam::Memory;
use crate::wire::NetnsRef;

/// A network as it is asked for: the keys of `[[network]]`, unchecked. What is `None` takes its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkOptions {
    /// IPv4 prefix.
    pub subnet: Option<String>,
    /// IPv6 prefix.
    pub subnet6: Option<String>,
    /// The gateway's VLAN.
    pub vlan: Option<i64>,
    /// What bridges say to each other passes.
    pub transparent: Option<bool>,
    /// Frames for multicast groups go to those who listen.
    pub snooping: Option<bool>,
    /// The network's name on the underlay.
    pub vni: Option<i64>,
    /// Bytes.
    pub mtu: Option<i64>,
    /// Containers may talk to each other.
    pub icc: Option<bool>,
    /// Masquerade what leaves by the uplink.
    pub nat: Option<bool>,
    /// The same of IPv6; as `nat` if `None`.
    pub nat6: Option<bool>,
    /// Addresses by DHCP.
    pub dhcp: Option<bool>,
    /// Seconds.
    pub ageing: Option<i64>,
    /// Entries.
    pub fdb_limit: Option<i64>,
    /// `claimed`, `strict` or `off`.
    pub spoof: Option<String>,
    /// Frames per second and port.
    pub storm: Option<i64>,
}

/// The container an interface is for: one there is, or one to add.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerSpec {
    /// Its name.
    pub name: String,
    /// Where its namespace is; its name if `None`. Of a container there is, it must be the same.
    pub netns: Option<String>,
    /// Whether to make the namespace. Of a container there is, it must be the same.
    pub create: Option<bool>,
}

/// An interface as it is asked for: the keys of `[[container.interface]]`, unchecked. What is `None` takes its default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InterfaceOptions {
    /// The device's name in the container.
    pub name: Option<String>,
    /// IPv4 address in the network's subnet.
    pub ip: Option<String>,
    /// IPv6 address in the network's subnet.
    pub ip6: Option<String>,
    /// MAC address.
    pub mac: Option<String>,
    /// Other names of the container in the network.
    pub aliases: Vec<String>,
    /// The VLAN of its untagged frames.
    pub vlan: Option<i64>,
    /// The VLANs that it carries tagged.
    pub trunk: Option<Vec<i64>>,
    /// Apart from others that are isolated.
    pub isolated: bool,
}

impl Network {
    /// A network made at run time; its gateway is ours, and it opens connections to no other network.
    ///
    /// # Errors
    /// Everything that is wrong with it, by itself: whether its name is free is [`Config::add_network`]'s.
    pub fn new_checked(name: &str, options: &NetworkOptions) -> Result<Self, Vec<Problem>> {
        let mut network = Self::with_defaults(name);
        let mut problems = Vec::new();
        take(&mut problems, &mut network.name, Some(value::name(What::Network, name)));
        let number = |given: Option<i64>| given.map(Number::from);
        let within = |bounds: &value::Bounds, given| number(given).map(|number| bounds.check(&number));
        let subnet = options.subnet.as_deref().map(|text| value::subnet(text).map(Some));
        take(&mut problems, &mut network.subnet, subnet);
        let subnet6 = options.subnet6.as_deref().map(|text| value6::subnet6(text).map(Some));
        take(&mut problems, &mut network.subnet6, subnet6);
        let vlan = number(options.vlan).map(|number| vid("vlan", &number).map(Some));
        take(&mut problems, &mut network.vlan, vlan);
        take(&mut problems, &mut network.transparent, options.transparent.map(Ok));
        take(&mut problems, &mut network.snooping, options.snooping.map(Ok));
        let vni = number(options.vni).map(|number| overlay::vni(&number).map(Some));
        take(&mut problems, &mut network.vni, vni);
        network.mtu_named = network.vni.is_some() && options.mtu.is_some();
        take(&mut problems, &mut network.mtu, number(options.mtu).map(|number| value::mtu(&number)));
        if network.subnet6.is_some() {
            problems.extend(value6::mtu6(network.mtu).err());
        }
        take(&mut problems, &mut network.icc, options.icc.map(Ok));
        network.nat = options.nat.unwrap_or(true);
        network.nat6 = options.nat6.unwrap_or(network.nat);
        take(&mut problems, &mut network.dhcp, options.dhcp.map(Ok));
        take(&mut problems, &mut network.ageing, within(&value::AGEING, options.ageing));
        take(&mut problems, &mut network.fdb_limit, within(&value::FDB_LIMIT, options.fdb_limit));
        take(&mut problems, &mut network.spoof, options.spoof.as_deref().map(value::spoof));
        take(&mut problems, &mut network.storm, within(&value::STORM, options.storm));
        if problems.is_empty() && network.dhcp {
            problems.extend(needs_gateway4("dhcp", &network).err());
        }
        if problems.is_empty() { Ok(network) } else { Err(problems) }
    }
}

fn take<T>(problems: &mut Vec<Problem>, field: &mut T, given: Option<Result<T, Problem>>) {
    match given {
        Some(Ok(value)) => *field = value,
        Some(Err(problem)) => problems.push(problem),
        None => {}
    }
}

impl Config {
    /// A daemon without networks and containers: what an empty file says.
    pub fn empty(paths: &Paths) -> Self {
        Self {
            daemon: Daemon::new(paths),
            outside: None,
            vxlan: None,
            cluster: None,
            networks: Vec::new(),
            containers: Vec::new(),
            routes: Vec::new(),
        }
    }

    /// Adds a network after the others.
    ///
    /// # Errors
    /// [`Problem::Duplicate`], [`Problem::TooMany`]; [`Problem::ZoneOverlap`] and [`Problem::RouteToSubnet`] where
    /// another network's `routes_to` takes it in; [`Problem::PlainOverlap`], [`Problem::Invalid`] where it cannot leave
    /// with its own addresses; [`Problem::VniTaken`], [`Problem::Invalid`] where it cannot be on other hosts.
    pub fn add_network(&mut self, mut network: Network) -> Result<(), Problem> {
        if self.network(&network.name).is_some() {
            let first = Place(None);
            return Err(Problem::Duplicate { what: What::Network, name: network.name, first });
        }
        if self.networks.len() >= MAX_NETWORKS {
            return Err(Problem::TooMany { what: What::Network, limit: MAX_NETWORKS });
        }
        overlay::join(self.vxlan.as_ref(), &mut network, &self.networks)?;
        flannel::join(self, &network)?;
        if let Some(outside) = &self.outside {
            beside(outside, &network, Place(None))?;
            if let Some(problem) = plain(&network, self.networks.iter()) {
                return Err(problem);
            }
        }
        if self.daemon.uplink == Uplink::Sockets && !(network.nat && network.nat6) {
            return Err(Problem::not_by_sockets(if network.nat { "nat6" } else { "nat" }));
        }
        self.networks.push(network);
        let fits = self.fits_its_zone();
        if fits.is_err() {
            self.networks.pop();
        }
        fits
    }

    /// Removes a network that nobody is connected to.
    ///
    /// # Errors
    /// [`Problem::UnknownNetwork`], [`Problem::NetworkInUse`], [`Problem::NetworkRouted`].
    pub fn remove_network(&mut self, name: &str) -> Result<Network, Problem> {
        let (index, found) = self.network_at(name)?;
        let on_it = |(_, interface): &(&Container, &Interface)| interface.network == name;
        let by: Vec<_> = self.interfaces().filter(on_it).map(|(c, i)| owner(&c.name, &i.name)).collect();
        if !by.is_empty() {
            return Err(Problem::NetworkInUse { network: name.to_owned(), by });
        }
        let names_it =
            |from: &&Network| matches!(&from.routes_to, RoutesTo::Some(names) if names.contains(&found.name));
        let by: Vec<_> = self.networks.iter().filter(names_it).map(|from| from.name.clone()).collect();
        let routes = self.routes.iter().filter(|route| route.network == name).count();
        if !by.is_empty() || routes > 0 {
            return Err(Problem::NetworkRouted { network: name.to_owned(), by, routes });
        }
        Ok(self.networks.remove(index))
    }

    // Whether the last network has a place in the address plan it is part of.
    fn fits_its_zone(&self) -> Result<(), Problem> {
        if self.networks.iter().all(|network| network.routes_to.is_none()) {
            return Ok(());
        }
        let zones = zones_of(&self.networks);
        if let Some(pair) = overlaps(&self.networks, &zones).first().copied() {
            return overlap_problem(&self.networks, pair).map_or(Ok(()), |(_, problem)| Err(problem));
        }
        let plan = AddressPlan::new(&self.networks, &zones);
        self.routes.iter().try_for_each(|route| plan.check(&route.network, route.destination))
    }

    /// As [`Config::connect_again`], with nothing to remember.
    ///
    /// # Errors
    /// As there.
    pub fn connect(
        &mut self,
        network: &str,
        container: &ContainerSpec,
        options: &InterfaceOptions,
    ) -> Result<Interface, Problem> {
        self.connect_again(network, container, options, &Memory::default())
    }

    /// Connects a container to a network by a new interface, which it returns; a container that is not there is added.
    /// Name, address and MAC are chosen where they are left open: the address as it was, if `memory` knows. Nothing
    /// changes on an error.
    ///
    /// # Errors
    /// The first [`Problem`]: an unknown network, a value that is wrong by itself, a name, address or MAC that is
    /// taken, a full subnet, subnets that overlap, a limit, a container described otherwise than it is.
    pub fn connect_again(
        &mut self,
        network: &str,
        container: &ContainerSpec,
        options: &InterfaceOptions,
        memory: &Memory,
    ) -> Result<Interface, Problem> {
        let (index, network) = self.network_at(network)?;
        if self.interfaces().count() >= MAX_INTERFACES {
            return Err(Problem::TooMany { what: What::Interface, limit: MAX_INTERFACES });
        }
        let there = self.containers.iter().position(|known| known.name == container.name);
        let mut wanted = match there.and_then(|place| self.containers.get(place)) {
            Some(known) => same_container(known, container)?.clone(),
            None => self.new_container(container)?,
        };
        let made = self.new_interface((index, network), &wanted, options, memory)?;
        wanted.interfaces.push(made.clone());
        default_routes(&mut wanted, |name, family| way_out(self.network(name)?, family));
        let made = wanted.interfaces.last().cloned().unwrap_or(made);
        match there.and_then(|place| self.containers.get_mut(place)) {
            Some(known) => *known = wanted,
            None => self.containers.push(wanted),
        }
        Ok(made)
    }

    /// Disconnects a container from a network and returns the interface that goes. The container stays, even without
    /// any interface; a default route by the one that goes moves to the next that can have it. `interface` is needed where the container has several on that network.
    ///
    /// # Errors
    /// [`Problem::UnknownNetwork`], [`Problem::UnknownContainer`], [`Problem::NotConnected`], [`Problem::Ambiguous`].
    pub fn disconnect(
        &mut self,
        network: &str,
        container: &str,
        interface: Option<&str>,
    ) -> Result<Interface, Problem> {
        self.network_at(network)?;
        let place = self.container_index(container)?;
        let interfaces = self.containers.get_mut(place).map(|known| &mut known.interfaces);
        let interfaces = interfaces.ok_or_else(|| not_connected(container, network, interface))?;
        let fits = |i: &Interface| i.network == network && interface.is_none_or(|name| i.name == name);
        let names: Vec<_> = interfaces.iter().filter(|i| fits(i)).map(|i| i.name.clone()).collect();
        if names.len() > 1 {
            let (container, network) = (container.to_owned(), network.to_owned());
            return Err(Problem::Ambiguous { container, network, names });
        }
        let index = interfaces.iter().position(fits);
        let index = index.ok_or_else(|| not_connected(container, network, interface))?;
        let gone = interfaces.remove(index);
        let Self { networks, containers, .. } = self;
        if let Some(known) = containers.get_mut(place) {
            let network = |name: &str| networks.iter().find(|network| network.name == name);
            default_routes(known, |name, family| way_out(network(name)?, family));
        }
        Ok(gone)
    }

    /// Removes a container that has no interface left.
    ///
    /// # Errors
    /// [`Problem::UnknownContainer`], [`Problem::ContainerInUse`].
    pub fn remove_container(&mut self, name: &str) -> Result<Container, Problem> {
        let place = self.container_index(name)?;
        let interfaces = self.containers.get(place).map(|known| known.interfaces.iter());
        let to: Vec<_> = interfaces.into_iter().flatten().map(|i| i.network.clone()).collect();
        if to.is_empty() {
            Ok(self.containers.remove(place))
        } else {
            Err(Problem::ContainerInUse { container: name.to_owned(), to })
        }
    }

    fn network_at(&self, name: &str) -> Result<(usize, &Network), Problem> {
        let found = self.networks.iter().enumerate().find(|(_, network)| network.name == name);
        found.ok_or_else(|| unknown_network(name, self.networks.iter().map(|network| network.name.as_str())))
    }

    pub(super) fn container_index(&self, name: &str) -> Result<usize, Problem> {
        let names = self.containers.iter().map(|container| container.name.as_str());
        names.clone().position(|known| known == name).ok_or_else(|| {
            let advice = match nearest(name, names.clone()) {
                Some(near) => Advice::DidYouMean(near.to_owned()),
                None => Advice::Known(names.map(clip).collect()),
            };
            Problem::UnknownContainer { name: clip(name), advice }
        })
    }

    fn new_container(&self, spec: &ContainerSpec) -> Result<Container, Problem> {
        if self.containers.len() >= MAX_CONTAINERS {
            return Err(Problem::TooMany { what: What::Container, limit: MAX_CONTAINERS });
        }
        let name = value::name(What::Container, &spec.name)?;
        let netns = match &spec.netns {
            Some(text) => text.parse()?,
            None => NetnsRef::Name(name.clone()),
        };
        let create = spec.create.unwrap_or(false);
        if create && !matches!(netns, NetnsRef::Name(_)) {
            return Err(Problem::CreateNeedsName { netns: netns.to_string() });
        }
        let (command, egress, interfaces) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Container { name, netns, create, command, egress, interfaces })
    }

    fn new_interface(
        &self,
        (index, network): (usize, &Network),
        container: &Container,
        options: &InterfaceOptions,
        memory: &Memory,
    ) -> Result<Interface, Problem> {
        let mut registry = Registry::of(self);
        if let Some(vxlan) = &self.vxlan {
            registry.claim_statics(index, network, vxlan);
        }
        let name = match &options.name {
            Some(text) => value::interface_name(text)?,
            None => registry.free_name(&container.netns),
        };
        let owner = owner(&container.name, &name);
        registry.claim_name(&container.netns, owner.clone())?;
        registry.join(&container.netns, &container.name, index, &self.networks)?;
        let mut ips = Ips::default();
        for (family, asked) in [
            (Family::V4, options.ip.as_deref().map(|text| value::address("ip", text).map(IpAddr::V4))),
            (Family::V6, options.ip6.as_deref().map(|text| value6::address6("ip6", text).map(IpAddr::V6))),
        ] {
            let ip = match (asked, network.subnet_of(family)) {
                (Some(ip), _) => {
                    let ip = ip?;
                    registry.claim_address(index, network, ip, owner.clone())?;
                    ip
                }
                (None, Some(subnet)) => registry.open_address((index, network), subnet, memory, &owner)?,
                (None, None) => continue,
            };
            *ips.get_mut(family) = in_network(ip, network);
        }
        let mac = match &options.mac {
            Some(text) => {
                let mac = value::mac("mac", text)?;
                registry.claim_mac(index, network, mac, &ips, owner)?;
                mac
            }
            None => registry.default_mac(index, network, &ips, owner),
        };
        let aliases = self.new_aliases(&network.name, container, &name, &options.aliases)?;
        let dhcp = network.dhcp && options.ip.is_none();
        let (Vlans { vlan, trunk }, isolated) = (Vlans::asked(options)?, options.isolated);
        Ok(Interface { dhcp, aliases, vlan, trunk, isolated, ..interface(network, name, &ips, mac) })
    }

    fn new_aliases(
        &self,
        network: &str,
        container: &Container,
        interface: &str,
        asked: &[String],
    ) -> Result<Vec<String>, Problem> {
        let on_it = || self.interfaces().filter(|(_, interface)| interface.network == network);
        let new = owner(&container.name, interface);
        let mut taken = Taken::default();
        for (container, interface) in on_it() {
            taken.own(&container.name, owner(&container.name, &interface.name));
        }
        taken.own(&container.name, new.clone());
        for (container, interface) in on_it() {
            let of = owner(&container.name, &interface.name);
            interface.aliases.iter().try_for_each(|name| taken.alias(network, name, of.clone()))?;
        }
        let give = |text: &String| {
            let name = alias(text)?;
            taken.alias(network, &name, new.clone()).map(|()| name)
        };
        asked.iter().map(give).collect()
    }
}

pub(super) fn owner(container: &str, interface: &str) -> Owner {
    Owner { container: container.to_owned(), interface: interface.to_owned(), place: Place(None) }
}

fn not_connected(container: &str, network: &str, interface: Option<&str>) -> Problem {
    Problem::NotConnected {
        container: container.to_owned(),
        network: network.to_owned(),
        name: interface.map(str::to_owned),
    }
}

// A container there is may be described again, but not otherwise.
fn same_container<'c>(known: &'c Container, spec: &ContainerSpec) -> Result<&'c Container, Problem> {
    let differs = |key, is: String, asked: String| {
        Err(Problem::ContainerDiffers { container: known.name.clone(), key, is, asked })
    };
    if let Some(text) = &spec.netns {
        let netns: NetnsRef = text.parse()?;
        if netns.key() != known.netns.key() {
            return differs("netns", known.netns.to_string(), netns.to_string());
        }
    }
    match spec.create {
        Some(create) if create != known.create => {
            differs("create", known.create.to_string(), create.to_string())
        }
        _ => Ok(known),
    }
}
