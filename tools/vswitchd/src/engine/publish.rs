//! Registries -> the immutable snapshot that workers read.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::Arc;

use crate::tables::Tables;
use switch::port::{NetworkId, PortId};
use switch::snapshot::{Claims, Network, Owner, Port, Snapshot, Spoof};
use switch::table::TableError;

use super::networks::{NetworkRecord, Networks};
use super::outside::is_outside;
use super::overlay::{self, Joined, Tunnels};
use super::ports::{MAX_PORTS, PortRecord, Ports, spec};
use super::routing::{self, Ours};
use crate::config::{self, Config, HOST, UPLINK};
use crate::ipam::Memory;
use crate::ipam::lease::LeaseState;

/// The snapshot of a configuration as if every interface of it were up: what a worker on memory devices runs with.
/// Networks (the uplink's last) and ports (those of [`Config::interfaces`], then the host's and the uplink's) are numbered
/// in the configuration's order; at most [`config::MAX_INTERFACES`] fit by its own limits.
///
/// # Errors
/// When there is no memory for a network's FDB.
pub fn all_up(config: &Config) -> Result<Snapshot<Tables>, TableError> {
    let mut networks = Networks::default();
    for network in &config.networks {
        networks.put(network)?;
    }
    if let Some(outside) = &config.outside {
        networks.put(&outside.network(None))?;
        networks.need_translator(outside)?;
    }
    if routing::needs_returns(config) {
        networks.need_returns()?;
    }
    let mut ports = Ports::default();
    let ours: Vec<_> = config.ours().collect();
    let legs = ours.iter().flat_map(|ours| ours.interfaces.iter().map(move |leg| (ours, leg)));
    for (container, interface) in config.interfaces().chain(legs) {
        let Some(network) = networks.find(&interface.network) else { continue };
        let Some(of) = networks.get(network) else { continue };
        let spec = spec(container, interface, &of.config);
        let mut record = PortRecord::attaching(spec, network, interface.mac);
        record.ruled(interface);
        if ports.insert(record).is_err() {
            break; // a configuration has no more interfaces than there are ports
        }
    }
    Ok(build(0, config, (&networks, &ports, (&Tunnels::default(), None)), &Memory::default(), |_| true))
}

/// Networks, ports of interfaces, and ports that are other hosts, with what the cluster says of them.
type There<'a> = (&'a Networks, &'a Ports, (&'a Tunnels, Option<&'a Joined>));

/// The snapshot of what is wanted and up.
pub fn snapshot(generation: u64, config: &Config, there: There<'_>, memory: &Memory) -> Snapshot<Tables> {
    build(generation, config, there, memory, PortRecord::is_up)
}

fn build(
    generation: u64,
    config: &Config,
    (networks, ports, (tunnels, joined)): There<'_>,
    memory: &Memory,
    is_up: fn(&PortRecord) -> bool,
) -> Snapshot<Tables> {
    let slots = if tunnels.lowest() < MAX_PORTS { MAX_PORTS } else { ports.slots() };
    let mut by_port: Vec<Option<Port>> = (0..slots).map(|_| None).collect();
    for (id, port) in overlay::ports(config, networks, tunnels) {
        if let Some(slot) = by_port.get_mut(id.index()) {
            *slot = Some(port);
        }
    }
    for (id, record) in ports.wanted() {
        if let Some(slot) = by_port.get_mut(id.index()) {
            *slot = Some(port(record));
        }
    }
    let mut by_network: Vec<Option<Network>> = (0..networks.slots()).map(|_| None).collect();
    let mut gateways = Vec::new();
    let zones = routing::zones(config, networks);
    for (id, record) in networks.all() {
        if let Some(slot) = by_network.get_mut(id.index()) {
            let mut network = network(id, record, (ports, tunnels), is_up);
            if let Some(vni) = record.config.vni {
                network.told = Arc::new(overlay::told(config, joined, vni));
            }
            network.zone = zones.get(&id).copied().unwrap_or(id.0);
            claim_leases(&mut network.claims, &record.config.name, ports, memory);
            routing::claim_routed(config, &record.config.name, &mut network.claims);
            let mut ours = Ours::of(id, config, &record.config);
            if let Some(ours) = &mut ours {
                ours.quiet = ports.wanted().any(|(_, port)| port.network == id && port.adjusting > 0);
                if let Some(outside) = config.outside.as_ref().filter(|_| record.config.name == UPLINK) {
                    is_outside(ours, outside);
                }
                // Whoever gets the gateway's address is asked to forward what leaves the network: it is ours alone.
                network.claims.ips.extend(ours.addresses().map(|address| (address, Owner::Gateway)));
                network.claims.macs.insert(ours.mac, Owner::Gateway);
                if network.groups.is_some() {
                    // Its queries come from there, whether it has other addresses of IPv6 or not.
                    network.claims.ips.insert(ours.mac.link_local(), Owner::Gateway);
                }
            }
            gateways.extend(ours);
            *slot = Some(network);
        }
    }
    let nat = config.outside.as_ref().zip(networks.translator()).and_then(|(outside, translator)| {
        translator.translation((config, outside), networks, &by_network, ports)
    });
    let elsewhere = overlay::elsewhere(config, networks, joined);
    let tables = Tables { router: routing::tables(config, (networks, ports), &gateways, &elsewhere), nat };
    Snapshot {
        generation,
        ports: by_port.into_boxed_slice(),
        networks: by_network.into_boxed_slice(),
        tables,
    }
}

/// What DHCP gave to clients behind a port is that port's, and nobody else's.
fn claim_leases(claims: &mut Claims, network: &str, ports: &Ports, memory: &Memory) {
    let mut leases =
        memory.leases(network).filter(|(_, _, lease)| lease.state == LeaseState::Bound).peekable();
    if leases.peek().is_none() {
        return;
    }
    let ids: HashMap<_, _> =
        ports.wanted().map(|(id, port)| ((port.container(), port.ifname()), id)).collect();
    for (address, entry, _) in leases {
        if let Some(port) = ids.get(&(entry.container.as_str(), entry.interface.as_str())) {
            claims.ips.entry(address.to_ipv6_mapped()).or_insert(Owner::Port(*port));
        }
    }
}

fn port(record: &PortRecord) -> Port {
    Port {
        tagging: record.tagging.clone(),
        isolated: record.isolated,
        ..Port::new(record.network, record.mac, addresses(record).collect())
    }
}

/// What it was given, and the link-local address that kernels make of its MAC.
fn addresses(record: &PortRecord) -> impl Iterator<Item = Ipv6Addr> {
    let given = record.addresses().map(|(address, _)| routing::mapped(address));
    given.chain([record.mac.link_local()])
}

fn network(
    id: NetworkId,
    record: &NetworkRecord,
    (ports, tunnels): (&Ports, &Tunnels),
    is_up: fn(&PortRecord) -> bool,
) -> Network {
    let members: Vec<(PortId, &PortRecord)> = ports.wanted().filter(|(_, port)| port.network == id).collect();
    let mut claims = Claims::default();
    // A port that waits owns its addresses all the same: nobody else shall take them meanwhile.
    for (port, record) in &members {
        claims.macs.insert(record.mac, Owner::Port(*port));
        claims.ips.extend(addresses(record).map(|address| (address, Owner::Port(*port))));
    }
    claims.host = members.iter().find(|(_, record)| record.container() == HOST).map(|(port, _)| *port);
    let config = &record.config;
    let up = members.iter().filter(|(_, port)| is_up(port)).map(|(id, _)| *id);
    let others = tunnels.all().filter(|(_, tunnel)| tunnel.network == id).map(|(port, _)| port);
    Network {
        zone: id.0,
        mtu: u32::from(config.mtu),
        vlan: config.vlan.unwrap_or(0),
        transparent: config.transparent,
        icc: config.icc,
        spoof: match config.spoof {
            config::Spoof::Claimed => Spoof::Claimed,
            config::Spoof::Strict => Spoof::Strict,
            config::Spoof::Off => Spoof::Off,
        },
        storm: config.storm,
        fdb: Arc::clone(&record.fdb),
        groups: record.groups.clone(),
        members: up.chain(others).collect(),
        claims,
        told: Arc::default(),
    }
}
