//! Routes with several next hops: `via = [...]` -> one list of all of them, and where in it each route's are.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use router::fib::{Hops, Next};
use router::tables::Tables;
use switch::port::NetworkId;

use super::routing::mapped;
use crate::config::{self, Config};

/// The next hops of all routes that have several, in the order of the file.
pub fn hops(config: &Config) -> impl Iterator<Item = Ipv6Addr> + '_ {
    let several = config.routes.iter().filter(|route| route.via.len() > 1);
    several.flat_map(|route| route.via.iter().copied().map(mapped))
}

/// Where each route's next hops are among [`hops`].
pub struct Ways(HashMap<(String, IpNet), Hops>);

impl Ways {
    /// Of these routes.
    pub fn new(config: &Config) -> Self {
        let mut first = 0;
        let several = config.routes.iter().filter(|route| route.via.len() > 1);
        let place = |route: &config::Route| {
            let count = u16::try_from(route.via.len()).unwrap_or(u16::MAX);
            let hops = Hops { first, count };
            first = first.saturating_add(u32::from(count));
            ((route.network.clone(), route.destination), hops)
        };
        Self(several.map(place).collect())
    }

    /// The route, in its network.
    pub fn next(&self, network: NetworkId, route: &config::Route, opens: bool) -> Next {
        let hops = self.0.get(&(route.network.clone(), route.destination)).copied().unwrap_or_default();
        let via = route.via.first().copied().map(mapped);
        Next { hops, mtu: route.mtu, ..Next::new(network, via, opens) }
    }
}

/// The routers of a route, the first one first.
pub fn by(next: &Next, tables: &Tables) -> Vec<IpAddr> {
    match tables.hops(next) {
        [] => next.via.into_iter().map(|via| via.to_canonical()).collect(),
        hops => hops.iter().map(Ipv6Addr::to_canonical).collect(),
    }
}
