//! What an engine knows from before it began: who has which address.
//!
//! Addresses that the file leaves open are chosen, and the choice depends on what was there at that time. An engine that
//! takes over from one that died must come to the same choice, or interfaces would change under running containers; and
//! a fresh start must keep off the addresses of objects made through the API.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::objects::Objects;
use super::reconcile::Adopted;
use crate::config::{Config, Container, Family, Interface, Network};

/// The configuration that a file is read after: `file` as it is by itself, with the interfaces that are there in place
/// of its own.
pub fn before(file: &Config, adopted: &[Adopted], objects: &Objects) -> Config {
    let mut containers: Vec<Container> = Vec::new();
    for (container, interface) in file.interfaces() {
        let is_it = |a: &&Adopted| (&a.spec.container, &a.spec.ifname) == (&container.name, &interface.name);
        let (Some(adopted), Some(network)) = (adopted.iter().find(is_it), file.network(&interface.network))
        else {
            continue;
        };
        let (ip, ip6) =
            adopted.spec.addresses.iter().fold(
                (None, None),
                |(ip, ip6), (address, prefix)| match IpNet::new(*address, *prefix)
                    .ok()
                    .filter(|ip| holds(network, ip))
                {
                    Some(IpNet::V4(v4)) => (ip.or(Some(v4)), ip6),
                    Some(IpNet::V6(v6)) => (ip, ip6.or(Some(v6))),
                    None => (ip, ip6),
                },
            );
        if ip.is_some() || ip6.is_some() {
            let interfaces = vec![Interface { ip, ip6, ..interface.clone() }];
            containers.push(Container { interfaces, ..container.clone() });
        }
    }
    for kept in &objects.kept.interfaces {
        let connect = &kept.interface;
        let Some(network) = file.network(&kept.network) else { continue };
        let ip = connect.ip.and_then(|ip| Ipv4Net::new(ip, network.subnet?.prefix_len()).ok());
        let ip6 = connect.ip6.and_then(|ip| Ipv6Net::new(ip, network.subnet6?.prefix_len()).ok());
        let (Some(mac), Some(name), true) = (connect.mac, &connect.interface, ip.is_some() || ip6.is_some())
        else {
            continue;
        };
        containers.push(Container {
            name: connect.container.clone(),
            netns: crate::config::NetnsRef::Name(connect.container.clone()),
            create: connect.create,
            command: Vec::new(),
            egress: Vec::new(),
            interfaces: vec![Interface { ip, ip6, ..Interface::plain(&kept.network, name.clone(), mac) }],
        });
    }
    Config { containers, ..file.clone() }
}

/// An address of before may be of a subnet of before.
fn holds(network: &Network, ip: &IpNet) -> bool {
    let subnet = network.subnet_of(Family::of(ip.addr()));
    subnet.is_some_and(|subnet| subnet.prefix_len() == ip.prefix_len() && subnet.contains(&ip.addr()))
}
