//! Registries -> the immutable snapshot that workers read.

use std::net::{IpAddr, Ipv6Addr};

use switch::port::{NetworkId, PortId};
use switch::snapshot::{Claims, Network, Owner, Port, Snapshot, Spoof};

use super::networks::{NetworkRecord, Networks};
use super::ports::{PortRecord, Ports};
use crate::config;

/// The snapshot of what is wanted and up.
pub fn snapshot(generation: u64, networks: &Networks, ports: &Ports) -> Snapshot {
    let mut by_port: Vec<Option<Port>> = (0..ports.slots()).map(|_| None).collect();
    for (id, record) in ports.wanted() {
        if let Some(slot) = by_port.get_mut(id.index()) {
            *slot = Some(port(record));
        }
    }
    let mut by_network: Vec<Option<Network>> = (0..networks.slots()).map(|_| None).collect();
    for (id, record) in networks.all() {
        if let Some(slot) = by_network.get_mut(id.index()) {
            *slot = Some(network(id, record, ports));
        }
    }
    Snapshot { generation, ports: by_port.into_boxed_slice(), networks: by_network.into_boxed_slice() }
}

fn port(record: &PortRecord) -> Port {
    Port { network: record.network, mac: record.mac, addresses: addresses(record).collect() }
}

fn addresses(record: &PortRecord) -> impl Iterator<Item = Ipv6Addr> {
    record.spec.addresses.iter().map(|(address, _)| match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => *v6,
    })
}

fn network(id: NetworkId, record: &NetworkRecord, ports: &Ports) -> Network {
    let members: Vec<(PortId, &PortRecord)> = ports.wanted().filter(|(_, port)| port.network == id).collect();
    let mut claims = Claims::default();
    // A port that waits owns its addresses all the same: nobody else shall take them meanwhile.
    for (port, record) in &members {
        claims.macs.insert(record.mac, Owner::Port(*port));
        claims.ips.extend(addresses(record).map(|address| (address, Owner::Port(*port))));
    }
    let config = &record.config;
    // Whoever gets the gateway's address is asked to forward what leaves the network: nobody takes it unasked.
    if let Some(gateway) = config.reserved_address() {
        claims.ips.entry(gateway.to_ipv6_mapped()).or_insert(Owner::Gateway);
    }
    Network {
        zone: id.0,
        mtu: u32::from(config.mtu),
        icc: config.icc,
        spoof: match config.spoof {
            config::Spoof::Claimed => Spoof::Claimed,
            config::Spoof::Strict => Spoof::Strict,
            config::Spoof::Off => Spoof::Off,
        },
        storm: config.storm,
        fdb: std::sync::Arc::clone(&record.fdb),
        members: members.iter().filter(|(_, port)| port.is_up()).map(|(id, _)| *id).collect(),
        claims,
    }
}
