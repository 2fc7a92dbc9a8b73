//! The uplink that takes packets, as a network of its own: its gateway, and what leads out by it and in.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use router::fib::{Fib, Next, Route};
use switch::port::NetworkId;

use super::multipath::Ways;
use super::networks::Networks;
use super::routing::{Ours, connected, mapped};
use crate::config::{self, Config, Family, Network};

/// Whether a network is seen outside with its own addresses: what answers it is let in.
pub fn is_seen(config: &Config) -> bool {
    let plain = |network: &Network| Family::BOTH.into_iter().any(|family| shows(config, network, family));
    config.outside.is_some() && config.networks.iter().any(plain)
}

/// Whether a network is, of a family.
fn shows(config: &Config, network: &Network, family: Family) -> bool {
    !network.internal && network.subnet_of(family).is_some() && !config.masquerades(network, family)
}

/// Makes the gateway of the uplink's network what it is there: it has every address of ours, and tells nobody that it is
/// a router, nor anything else unasked.
pub fn is_outside(ours: &mut Ours, outside: &config::Outside) {
    ours.legs = outside.legs().map(|(address, net)| (address, net.trunc())).collect();
    (ours.outside, ours.quiet) = (true, true);
}

/// Where packets of our networks go that are for none of them; `subnets` are those of all.
pub fn outward(config: &Config, subnets: &Fib, gateways: &[Ours]) -> Fib {
    let mut fib = subnets.clone();
    let (Some(outside), Some(uplink)) = (&config.outside, gateways.iter().find(|ours| ours.outside)) else {
        return fib;
    };
    connected(&mut fib, uplink, true);
    for via in outside.gateways() {
        let all = IpNet::new_assert(if via.is_ipv4() { [0; 4].into() } else { IpAddr::from([0; 16]) }, 0);
        fib.add(all, Route::Next(Next::new(uplink.id, Some(mapped(via)), true)));
    }
    fib
}

/// Where packets go that came in by the uplink: to our addresses there, and as answers to networks that are seen. All
/// other networks are asked for after it, and unreachable.
pub fn inward(
    config: &Config,
    networks: &Networks,
    gateways: &[Ours],
    routes: &HashMap<NetworkId, Vec<&config::Route>>,
    ways: &Ways,
) -> Fib {
    let mut fib = Fib::default();
    let Some(uplink) = gateways.iter().find(|ours| ours.outside) else { return fib };
    connected(&mut fib, uplink, true);
    for ours in gateways.iter().filter(|ours| !ours.outside) {
        let Some(record) = networks.get(ours.id) else { continue };
        let seen = |address: IpAddr| shows(config, &record.config, Family::of(address));
        for (address, subnet) in ours.legs.iter().filter(|(address, _)| seen(*address)) {
            fib.add(*subnet, Route::Next(Next::new(ours.id, None, false)));
            // The gateway serves its own network.
            fib.add(IpNet::from(*address), Route::Unreachable);
        }
        // A way out of its own leads nowhere for those outside.
        let behind = routes.get(&ours.id).into_iter().flatten();
        for route in
            behind.filter(|route| seen(route.destination.addr()) && route.destination.prefix_len() > 0)
        {
            fib.add(route.destination, Route::Next(ways.next(ours.id, route, false)));
        }
    }
    fib
}
