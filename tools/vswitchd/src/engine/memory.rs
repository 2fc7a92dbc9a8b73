//! What an engine knows from before it began: who has which address.
//!
//! Addresses that the file leaves open are chosen, and the choice depends on what was there at that time. An engine that
//! takes over from one that died must come to the same choice, or interfaces would change under running containers; and
//! a fresh start must keep off the addresses of objects made through the API.

use std::net::IpAddr;

use ipnet::Ipv4Net;

use super::objects::Objects;
use super::reconcile::Adopted;
use crate::config::{Config, Container, Interface, Network};

/// The configuration that a file is read after: `file` as it is by itself, with the interfaces that are there in place
/// of its own.
pub fn before(file: &Config, adopted: &[Adopted], objects: &Objects) -> Config {
    let mut containers: Vec<Container> = Vec::new();
    for (container, interface) in file.interfaces() {
        let is_it = |a: &&Adopted| (&a.spec.container, &a.spec.ifname) == (&container.name, &interface.name);
        let addresses = adopted.iter().find(is_it).map(|adopted| adopted.spec.addresses.as_slice());
        let ip = addresses.unwrap_or_default().iter().find_map(|(ip, prefix)| match ip {
            IpAddr::V4(v4) => Ipv4Net::new(*v4, *prefix).ok(),
            IpAddr::V6(_) => None,
        });
        let network = file.network(&interface.network);
        if let Some(ip) = ip.filter(|ip| network.is_some_and(|network| holds(network, ip))) {
            let interfaces = vec![Interface { ip: Some(ip), ..interface.clone() }];
            containers.push(Container { interfaces, ..container.clone() });
        }
    }
    for kept in &objects.kept.interfaces {
        let connect = &kept.interface;
        let network = file.network(&kept.network);
        let ip = connect.ip.and_then(|ip| Ipv4Net::new(ip, network?.subnet?.prefix_len()).ok());
        if let (Some(ip), Some(mac), Some(name)) = (ip, connect.mac, &connect.interface) {
            containers.push(Container {
                name: connect.container.clone(),
                netns: crate::config::NetnsRef::Name(connect.container.clone()),
                create: connect.create,
                command: Vec::new(),
                interfaces: vec![Interface {
                    network: kept.network.clone(),
                    name: name.clone(),
                    ip: Some(ip),
                    mac,
                    aliases: Vec::new(),
                    default_via: None,
                }],
            });
        }
    }
    Config { containers, ..file.clone() }
}

/// An address of before may be of a subnet of before.
fn holds(network: &Network, ip: &Ipv4Net) -> bool {
    network.subnet.is_some_and(|subnet| subnet.prefix_len() == ip.prefix_len() && subnet.contains(&ip.addr()))
}
