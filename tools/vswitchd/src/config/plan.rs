//! The interfaces of a file, all together: who gets which name, address and MAC, in an order that serves what was asked
//! for before what was left open.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use switch::mac::MacAddr;

use super::aliases::Taken;
use super::load::RawInterface;
use super::model::{Config, Container, Interface, Network, Uplink};
use super::outside::Outside;
use super::overlay::Static;
use super::problem::{Owner, Problem};
use super::publish::{HostPorts, Publish, publishable, speaks};
use super::registry::{Had, Ips, Registry, check_host, check_host_address, needs_gateway, needs_gateway4};
use super::report::{At, Reporter};
use super::resolve::Facts;
use super::vlan::Vlans;
use super::{Context, Family};
use crate::ipam::Memory;

/// One interface on its way.
#[derive(Debug)]
pub(super) struct Port {
    /// Its place among the containers.
    pub container: usize,
    /// Its place among the networks.
    pub network: usize,
    network_span: Range<usize>,
    raw: RawInterface,
    name: String,
    ips: Ips,
    mac: MacAddr,
    publish: Vec<Publish>,
}

impl Port {
    pub fn new(container: usize, network: usize, network_span: Range<usize>, raw: RawInterface) -> Self {
        let (name, ips, mac, publish) = (String::new(), Ips::default(), MacAddr::ZERO, Vec::new());
        Self { container, network, network_span, raw, name, ips, mac, publish }
    }

    /// The interface, all but its default routes.
    pub fn interface(self, network: &Network) -> Interface {
        let aliases = self.raw.aliases.into_iter().map(|at| at.value).collect();
        let dhcp = network.dhcp && *self.raw.ips.get(Family::V4) == Ok(None);
        let made = interface(network, self.name, &self.ips, self.mac);
        let Vlans { vlan, trunk } = self.raw.vlans;
        let isolated = self.raw.isolated;
        Interface { aliases, publish: self.publish, dhcp, vlan, trunk, isolated, ..made }
    }
}

/// The interfaces and what they have taken so far.
#[derive(Debug)]
pub(super) struct Plan<'p, 't> {
    registry: Registry,
    ports: Vec<Port>,
    statics: &'p [Static],
    networks: &'p mut [Network],
    facts: &'p [Facts],
    containers: &'p [Container],
    reporter: &'p mut Reporter<'t>,
}

impl<'p, 't> Plan<'p, 't> {
    pub fn new(
        (ports, statics): (Vec<Port>, &'p [Static]),
        networks: &'p mut [Network],
        facts: &'p [Facts],
        containers: &'p [Container],
        reporter: &'p mut Reporter<'t>,
    ) -> Self {
        Self { registry: Registry::default(), ports, statics, networks, facts, containers, reporter }
    }

    /// Gives every interface what it has a right to; collisions are reported.
    pub fn run(mut self, uplink: Uplink, outside: Option<&Outside>, context: &Context<'_>) -> Vec<Port> {
        self.asked_names();
        self.default_names();
        self.set_gateways();
        self.set_gateway_macs();
        self.set_host_addresses();
        self.claim_statics();
        self.check_dhcp();
        self.asked_addresses();
        if let Some(previous) = context.previous {
            self.kept_addresses(previous);
        }
        if let Some(memory) = context.memory {
            self.remembered_addresses(memory);
        }
        self.rest(context);
        self.next_addresses();
        self.asked_macs();
        self.default_macs();
        self.join_networks();
        self.names();
        self.published(uplink, outside);
        self.ports
    }

    fn owner(&self, port: &Port, span: &Range<usize>) -> Owner {
        let container = self.containers.get(port.container).map_or("", |container| &container.name);
        Owner {
            container: container.to_owned(),
            interface: port.name.clone(),
            place: self.reporter.source.place(span),
        }
    }

    // Runs a step over all ports, which it may change along with everything else.
    fn each(&mut self, mut step: impl FnMut(&mut Self, &mut Port)) {
        let mut ports = std::mem::take(&mut self.ports);
        for port in &mut ports {
            step(self, port);
        }
        self.ports = ports;
    }

    fn asked_names(&mut self) {
        self.each(|plan, port| {
            let Ok(Some(At { value, span })) = &port.raw.name else { return };
            port.name.clone_from(value);
            let owner = plan.owner(port, span);
            if let Some(container) = plan.containers.get(port.container) {
                plan.reporter.check(span, plan.registry.claim_name(&container.netns, owner));
            }
        });
    }

    fn default_names(&mut self) {
        self.each(|plan, port| {
            let Some(container) = plan.containers.get(port.container).filter(|_| port.name.is_empty()) else {
                return;
            };
            port.name = plan.registry.free_name(&container.netns);
            let owner = plan.owner(port, &port.raw.span);
            plan.reporter.check(&port.raw.span, plan.registry.claim_name(&container.netns, owner));
        });
    }

    fn set_gateways(&mut self) {
        for (network, facts) in self.networks.iter_mut().zip(self.facts) {
            for At { value, span } in Family::BOTH.into_iter().filter_map(|f| facts.gateways.get(f).as_ref())
            {
                let key = Family::of(*value).gateway_key();
                if !facts.sound || self.reporter.check(span, check_host(key, network, *value)).is_none() {
                    continue;
                }
                match *value {
                    IpAddr::V4(v4) => network.gateway = Some(v4),
                    IpAddr::V6(v6) => network.gateway6 = Some(v6),
                }
            }
        }
    }

    fn set_gateway_macs(&mut self) {
        for (network, facts) in self.networks.iter_mut().zip(self.facts) {
            let Some(At { value: mac, span }) = facts.gateway_mac.as_ref().filter(|_| facts.sound) else {
                continue;
            };
            if self.reporter.check(span, needs_gateway("gateway_mac", network)).is_some() {
                network.gateway_mac = Some(*mac);
            }
        }
    }

    // Before any container asks: the file's message is then about the container.
    fn set_host_addresses(&mut self) {
        for (index, (network, facts)) in self.networks.iter_mut().zip(self.facts).enumerate() {
            let Some(At { value: ip, span }) = facts.host_address.as_ref().filter(|_| facts.sound) else {
                continue;
            };
            let place = self.reporter.source.place(span);
            if self.reporter.check(span, check_host_address(network, *ip)).is_some() {
                network.host_address = Some(*ip);
                self.registry.claim_host(index, network, place);
            }
        }
    }

    // Who is on another host has its addresses before any container here asks, too.
    fn claim_statics(&mut self) {
        for entry in self.statics {
            let Some((network, facts)) = self.networks.get(entry.network).zip(self.facts.get(entry.network))
            else {
                continue;
            };
            let At { value: mac, span } = &entry.mac;
            let owner = entry.owner(self.reporter.source.place(span));
            let claimed =
                self.registry.claim_mac(entry.network, network, *mac, &Ips::default(), owner.clone());
            self.reporter.check(span, claimed);
            if let Some(At { value: ip, span }) = entry.ip.as_ref().filter(|_| facts.sound) {
                let claimed = self.registry.claim_remote(entry.network, network, *ip, owner);
                self.reporter.check(span, claimed);
            }
        }
    }

    fn check_dhcp(&mut self) {
        for (network, facts) in self.networks.iter().zip(self.facts) {
            if let Some(span) = facts.dhcp.as_ref().filter(|_| facts.sound) {
                self.reporter.check(span, needs_gateway4("dhcp", network));
            }
        }
    }

    // Whether addresses of the port's network can be judged, and which network that is.
    fn judged(&self, port: &Port) -> Option<&Network> {
        let sound = self.facts.get(port.network).is_some_and(|facts| facts.sound);
        self.networks.get(port.network).filter(|_| sound)
    }

    // The same for each family.
    fn each_family(&mut self, mut step: impl FnMut(&mut Self, &mut Port, Family)) {
        self.each(|plan, port| Family::BOTH.into_iter().for_each(|family| step(plan, port, family)));
    }

    fn asked_addresses(&mut self) {
        self.each_family(|plan, port, family| {
            let Ok(Some(At { value: ip, span })) = port.raw.ips.get(family) else { return };
            let owner = plan.owner(port, span);
            let Some(network) = plan.judged(port).cloned() else { return };
            let claimed = plan.registry.claim_address(port.network, &network, *ip, owner);
            if plan.reporter.check(span, claimed).is_some() {
                *port.ips.get_mut(family) = in_network(*ip, &network);
            }
        });
    }

    fn kept_addresses(&mut self, previous: &Config) {
        let before: HashMap<(&str, &str), &Interface> = previous
            .interfaces()
            .map(|(container, interface)| ((container.name.as_str(), interface.name.as_str()), interface))
            .collect();
        self.each(|plan, port| {
            let (name, container) = (port.name.clone(), plan.containers.get(port.container));
            let kept = container.and_then(|container| before.get(&(container.name.as_str(), name.as_str())));
            let network = plan.networks.get(port.network).map(|network| network.name.as_str());
            if let Some(kept) = kept.filter(|kept| Some(kept.network.as_str()) == network) {
                plan.keep(port, kept.ips().map(|ip| ip.addr()));
            }
        });
    }

    fn remembered_addresses(&mut self, memory: &Memory) {
        let names = self.networks.iter().map(|network| network.name.clone());
        let had: Vec<Had<'_>> = names.map(|network| Had::of(memory, &network)).collect();
        self.each(|plan, port| {
            let container = plan.containers.get(port.container).map_or("", |container| &container.name);
            let had = had.get(port.network).into_iter().flat_map(|had| had.by(container, &port.name));
            let had: Vec<IpAddr> = had.collect();
            plan.keep(port, had);
        });
    }

    // Gives an interface that names no address the first of these that is free, of each family.
    fn keep(&mut self, port: &mut Port, addresses: impl IntoIterator<Item = IpAddr>) {
        for ip in addresses {
            let family = Family::of(ip);
            if port.ips.get(family).is_some() || !matches!(port.raw.ips.get(family), Ok(None)) {
                continue;
            }
            let Some(network) = self.judged(port).cloned() else { return };
            let owner = self.owner(port, &port.raw.span);
            if network.reserved_of(family) != Some(ip)
                && self.registry.claim_address(port.network, &network, ip, owner.clone()).is_ok()
            {
                *port.ips.get_mut(family) = in_network(ip, &network);
            }
        }
    }

    fn rest(&mut self, context: &Context<'_>) {
        for (index, network) in self.networks.iter().enumerate() {
            if let Some(memory) = context.memory {
                self.registry.rest(index, memory, &network.name);
            }
        }
        let indices: HashMap<&str, usize> =
            self.networks.iter().enumerate().map(|(index, network)| (network.name.as_str(), index)).collect();
        for (_, interface) in context.previous.into_iter().flat_map(Config::interfaces) {
            if let Some(index) = indices.get(interface.network.as_str()) {
                interface.ips().for_each(|ip| self.registry.rest_last(*index, ip.addr()));
            }
        }
    }

    fn next_addresses(&mut self) {
        let mut full = HashSet::new(); // one message a network is enough
        self.each_family(|plan, port, family| {
            let open = port.ips.get(family).is_none() && matches!(port.raw.ips.get(family), Ok(None));
            if !open || full.contains(&(port.network, family)) {
                return;
            }
            let owner = plan.owner(port, &port.raw.span);
            let Some(network) = plan.judged(port).cloned() else { return };
            let Some(subnet) = network.subnet_of(family) else { return };
            let next = plan.registry.next_address(port.network, &network, subnet, owner);
            match plan.reporter.check(&port.raw.span, next) {
                Some(ip) => *port.ips.get_mut(family) = in_network(ip, &network),
                None => drop(full.insert((port.network, family))),
            }
        });
    }

    fn asked_macs(&mut self) {
        self.each(|plan, port| {
            let Ok(Some(At { value: mac, span })) = &port.raw.mac else { return };
            let owner = plan.owner(port, span);
            // Whoever has an address that is wrong may be the gateway.
            let known = Family::BOTH
                .into_iter()
                .all(|f| port.ips.get(f).is_some() || matches!(port.raw.ips.get(f), Ok(None)));
            if let Some(network) = plan.networks.get(port.network).filter(|_| known) {
                let claimed = plan.registry.claim_mac(port.network, network, *mac, &port.ips, owner);
                plan.reporter.check(span, claimed);
            }
            port.mac = *mac;
        });
    }

    fn default_macs(&mut self) {
        self.each(|plan, port| {
            if matches!(port.raw.mac, Ok(None)) {
                let owner = plan.owner(port, &port.raw.span);
                if let Some(network) = plan.networks.get(port.network) {
                    port.mac = plan.registry.default_mac(port.network, network, &port.ips, owner);
                }
            }
        });
    }

    // Containers' own names before any other.
    fn names(&mut self) {
        let mut taken: HashMap<usize, Taken> = HashMap::new();
        self.each(|plan, port| {
            let owner = plan.owner(port, &port.raw.span);
            taken.entry(port.network).or_default().own(&owner.container.clone(), owner);
        });
        self.each(|plan, port| {
            let network = plan.networks.get(port.network).map_or("", |network| &network.name).to_owned();
            for At { value, span } in &port.raw.aliases {
                let owner = plan.owner(port, span);
                let taken = taken.entry(port.network).or_default();
                plan.reporter.check(span, taken.alias(&network, value, owner));
            }
        });
    }

    fn join_networks(&mut self) {
        self.each(|plan, port| {
            if let Some(container) = plan.containers.get(port.container) {
                let joined =
                    plan.registry.join(&container.netns, &container.name, port.network, plan.networks);
                plan.reporter.check(&port.network_span, joined);
            }
        });
    }
}

impl Plan<'_, '_> {
    fn published(&mut self, uplink: Uplink, outside: Option<&Outside>) {
        let routed: HashSet<usize> =
            self.ports.iter().filter(|port| self.is_router(port)).map(|p| p.network).collect();
        let mut taken = HostPorts::new(outside);
        self.each(|plan, port| {
            for At { value, span } in std::mem::take(&mut port.raw.publish) {
                if taken.is_full() {
                    return; // one message is enough
                }
                if let Some(network) = plan.judged(port) {
                    let other = network.first_gateway().filter(|_| routed.contains(&port.network));
                    let checked = match other {
                        Some(gateway) => {
                            Err(Problem::PublishOtherGateway { network: network.name.clone(), gateway })
                        }
                        None => publishable(uplink, network)
                            .and_then(|()| speaks(&value, outside))
                            .and_then(|()| port.raw.vlans.reach(network)),
                    };
                    if plan.reporter.check(&span, checked).is_none() {
                        continue;
                    }
                }
                let owner = plan.owner(port, &span);
                if plan.reporter.check(&span, taken.claim(&value, &owner)).is_some() {
                    port.publish.push(value);
                }
            }
        });
    }

    // Whether the port's container is the gateway of its network.
    fn is_router(&self, port: &Port) -> bool {
        let gateway = self.networks.get(port.network).and_then(Network::first_gateway);
        gateway
            .is_some_and(|gateway| port.ips.get(Family::of(gateway)).is_some_and(|ip| ip.addr() == gateway))
    }
}

/// The address with its network's prefix length.
pub(super) fn in_network(ip: IpAddr, network: &Network) -> Option<IpNet> {
    network.subnet_of(Family::of(ip)).and_then(|subnet| IpNet::new(ip, subnet.prefix_len()).ok())
}

/// An interface without default routes.
pub(super) fn interface(network: &Network, name: String, ips: &Ips, mac: MacAddr) -> Interface {
    let ip = match ips.v4 {
        Some(IpNet::V4(v4)) => Some(v4),
        _ => None,
    };
    let ip6 = match ips.v6 {
        Some(IpNet::V6(v6)) => Some(v6),
        _ => None,
    };
    Interface { ip, ip6, ..Interface::plain(&network.name, name, mac) }
}
