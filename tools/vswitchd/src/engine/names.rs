//! Registries -> who is called what.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use switch::port::{NetworkId, PortId};

use super::control::Control;
use super::overlay::Joined;
use super::routing;
use crate::api::rows::DnsStatus;
use crate::config::{Config, Container, GatewayBy, HOST, Interface, Network, Uplink};
use crate::names::table::{Member, Names, Zone};

/// The addresses at which a gateway of ours answers in a network.
pub fn gateways(config: &Config, network: &Network) -> Vec<IpAddr> {
    let v4 = config.gateway_of(network).filter(|v4| v4.by != GatewayBy::Container);
    let v6 = config.gateway6_of(network).filter(|v6| v6.by != GatewayBy::Container);
    let v4 = v4.map(|v4| IpAddr::V4(v4.address));
    v4.into_iter().chain(v6.map(|v6| IpAddr::V6(v6.address))).collect()
}

/// The addresses of an interface.
fn addresses(interface: &Interface) -> impl Iterator<Item = IpAddr> + '_ {
    interface.ips().map(|ip| ip.addr())
}

/// Where a container's names are found: the gateways of its networks, that of its default route first.
pub fn name_servers(config: &Config, container: &Container) -> Vec<IpAddr> {
    let mut interfaces: Vec<&Interface> = container.interfaces.iter().collect();
    interfaces.sort_by_key(|interface| interface.default_routes().next().is_none());
    let networks = interfaces.into_iter().filter_map(|interface| config.network(&interface.network));
    networks.flat_map(|network| gateways(config, network)).collect()
}

/// The names of a network.
fn zone(id: NetworkId, config: &Config, network: &Network, joined: Option<&Joined>) -> Zone {
    // Who is on another host has its name here as well.
    let remote = network.vni.and_then(|vni| Some((joined?, vni))).into_iter();
    let remote = remote.flat_map(|(joined, vni)| joined.members(vni));
    let remote = remote.filter_map(|(member, _)| {
        let (name, aliases) = member.names.split_first()?;
        Some(Member { name: name.clone(), aliases: aliases.to_vec(), addresses: member.ips.clone() })
    });
    let members = config.interfaces().filter(|(_, interface)| interface.network == network.name);
    Zone {
        id,
        name: network.name.clone(),
        subnets: network.subnets().collect(),
        gateways: gateways(config, network),
        mtu: network.mtu,
        forwards: config.daemon.uplink != Uplink::None && !network.internal,
        members: members
            .map(|(container, interface)| Member {
                name: container.name.clone(),
                aliases: interface.aliases.clone(),
                addresses: addresses(interface).collect(),
            })
            .chain(remote)
            .collect(),
    }
}

impl Control {
    /// Tells the name server what is wanted now. A container has its name before its namespace is there: its address is
    /// its own already.
    pub(super) fn publish_names(&self) {
        let (config, joined) = (&self.desired, self.overlay.joined.as_ref());
        let ids: HashMap<&str, NetworkId> =
            self.networks.all().map(|(id, record)| (record.config.name.as_str(), id)).collect();
        let zones = config
            .networks
            .iter()
            .filter_map(|network| Some(zone(*ids.get(network.name.as_str())?, config, network, joined)));
        let of: HashMap<&str, Vec<NetworkId>> = config
            .containers
            .iter()
            .map(|container| {
                let networks = container.interfaces.iter().map(|interface| interface.network.as_str());
                (container.name.as_str(), networks.filter_map(|name| ids.get(name).copied()).collect())
            })
            .collect();
        // A leg of the host's is told the names of its own network: the host is one of it, and no container's neighbour
        // in the others.
        let host: HashMap<PortId, NetworkId> = self
            .ports
            .wanted()
            .filter(|(_, port)| port.container() == HOST)
            .map(|(id, port)| (id, port.network))
            .collect();
        let ports = self.ports.wanted().filter_map(|(id, port)| {
            let networks = match host.get(&id) {
                Some(network) => vec![*network],
                None => of.get(port.container())?.clone(),
            };
            Some((id, networks))
        });
        let egress = routing::egress(config, &self.ports);
        let names = Names::new(zones.collect(), ports).with_host(host.keys().copied()).with_egress(egress);
        self.names.names.store(Arc::new(names));
    }

    pub(super) fn dns_status(&self) -> DnsStatus {
        let upstream = self.names.upstream();
        DnsStatus {
            resolvers: upstream.servers.iter().map(ToString::to_string).collect(),
            counts: self.names.counts.row(),
        }
    }
}
