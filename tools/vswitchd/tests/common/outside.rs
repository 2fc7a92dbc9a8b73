//! The same with a network that plays the outside: what others send into it is translated.
//!
//! The configuration has a network `out` without masquerading: its gateway's addresses are ours outside, and the
//! container `world` in it is the way on to everywhere. Networks that say `nat = false` keep their own addresses there.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::net::Ipv6Addr;
use std::sync::Arc;

use ipnet::IpNet;
use nat::conntrack::{Conntrack, EndPoint, Filtering, Inside, Limits, Rule, Rules, Timeouts};
use nat::fragments::Fragments;
use router::fib::{Fib, Next, Route};
use router::tables::Gateway;
use switch::port::{NetworkId, PortId};
use switch::snapshot::Snapshot;
use vswitchd::tables::Tables;
use vswitchd::translate::{Masquerade, Translation};

use super::all_up;

/// `a` and `b` in `blue`, `c` in `red`, which is narrower, and `world`: ports 1, 2, 3 and 0.
pub const TEXT: &str = "
[uplink]
kind = \"none\"
[[network]]
name = \"out\"
subnet = \"198.18.0.0/24\"
gateway = \"198.18.0.10\"
subnet6 = \"2001:db8:0:18::/64\"
gateway6 = \"2001:db8:0:18::10\"
[[network]]
name = \"blue\"
subnet = \"10.1.0.0/24\"
subnet6 = \"fd00:1::/64\"
routes_to = [\"red\"]
[[network]]
name = \"red\"
subnet = \"10.2.0.0/24\"
subnet6 = \"fd00:2::/64\"
mtu = 1280
routes_to = [\"blue\"]
[[network]]
name = \"apart\"
subnet = \"10.3.0.0/24\"
subnet6 = \"fd00:3::/64\"
[[route]]
network = \"blue\"
destination = \"10.8.0.0/16\"
via = \"10.1.0.3\"
[[container]]
name = \"world\"
[[container.interface]]
network = \"out\"
ip = \"198.18.0.1\"
ip6 = \"2001:db8:0:18::1\"
[[container]]
name = \"a\"
[[container.interface]]
network = \"blue\"
ip = \"10.1.0.2\"
ip6 = \"fd00:1::2\"
[[container]]
name = \"b\"
[[container.interface]]
network = \"blue\"
ip = \"10.1.0.3\"
ip6 = \"fd00:1::3\"
[[container]]
name = \"c\"
[[container.interface]]
network = \"red\"
ip = \"10.2.0.2\"
ip6 = \"fd00:2::2\"
";

/// How translation behaves there.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    pub limits: Limits,
    pub filtering: Filtering,
    pub parity: bool,
    pub timeouts: Timeouts,
    /// `(protocol, first l4 port outside, how many, container's port, first l4 port there)`, at each of our addresses
    /// of which the container has the family.
    pub published: Vec<(u8, u16, u16, PortId, u16)>,
    /// More addresses of ours outside.
    pub more: Vec<Ipv6Addr>,
}

/// With what is the default.
pub fn outside(text: &str) -> Snapshot<Tables> {
    Outside::default().snapshot(text)
}

impl Outside {
    pub fn snapshot(&self, text: &str) -> Snapshot<Tables> {
        let mut snapshot = all_up(text);
        let out = network_of(&snapshot, "out", text);
        let way = snapshot.tables.router.gateway(out).unwrap().clone();
        let world = world(&snapshot, out);
        for (id, gateway) in snapshot.tables.router.gateways.iter_mut().enumerate() {
            let Some(gateway) = gateway else { continue };
            if id == out.index() {
                gateway.outside = true;
                gateway.addresses = gateway.addresses.iter().chain(&self.more).copied().collect();
            } else {
                gateway.fib = outward(&gateway.fib, out, &way, &world);
            }
        }
        let nat = self.translation(&snapshot, out, text);
        snapshot.tables.nat = Some(nat);
        snapshot
    }

    fn translation(&self, snapshot: &Snapshot<Tables>, out: NetworkId, text: &str) -> Translation {
        let owners = snapshot.ports.len();
        let gateway = snapshot.tables.router.gateway(out).unwrap();
        let external: Vec<Ipv6Addr> =
            gateway.addresses.iter().filter(|own| !own.is_unicast_link_local()).copied().collect();
        let published = external.iter().flat_map(|own| self.rules_at(*own, snapshot)).collect();
        let rules =
            Rules::new(external.clone(), published, (self.filtering, self.parity), self.timeouts, 0x5eed);
        let masquerade = (0..snapshot.networks.len()).map(|id| {
            let is = id != out.index() && masquerades(text, id);
            Masquerade { v4: is, v6: is }
        });
        Translation {
            uplink: out,
            masquerade: masquerade.collect(),
            rules: Arc::new(rules),
            conntrack: Arc::new(Conntrack::new(&self.limits, external.len(), owners).unwrap()),
            fragments: Arc::new(Fragments::new(1024, owners).unwrap()),
        }
    }

    fn rules_at(&self, external: Ipv6Addr, snapshot: &Snapshot<Tables>) -> Vec<Rule> {
        let v4 = external.to_ipv4_mapped().is_some();
        let rule = |&(proto, first, count, owner, port): &(u8, u16, u16, PortId, u16)| {
            let container = snapshot.port(owner).unwrap();
            let own = container
                .addresses
                .iter()
                .find(|own| own.to_ipv4_mapped().is_some() == v4 && !own.is_unicast_link_local());
            let zone = snapshot.network(container.network).unwrap().zone;
            let inside = Inside { zone, end: EndPoint { address: *own?, port } };
            Some(Rule { proto, external, first, count, inside, owner })
        };
        self.published.iter().filter_map(rule).collect()
    }
}

/// Networks of a configuration, in the order of the file, which is that of their numbers.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split("[[network]]").skip(1)
}

fn network_of(snapshot: &Snapshot<Tables>, name: &str, text: &str) -> NetworkId {
    let named = format!("name = \"{name}\"");
    let at = names(text).position(|network| network.contains(&named)).unwrap();
    assert!(snapshot.networks[at].is_some());
    NetworkId(u16::try_from(at).unwrap())
}

fn masquerades(text: &str, id: usize) -> bool {
    let network = names(text).nth(id).unwrap_or_default();
    !network.split("[[").next().unwrap_or_default().contains("nat = false")
}

/// Addresses of the first container outside: the next hop.
fn world(snapshot: &Snapshot<Tables>, out: NetworkId) -> Vec<Ipv6Addr> {
    let port = snapshot.ports.iter().flatten().find(|port| port.network == out).unwrap();
    port.addresses.iter().filter(|own| !own.is_unicast_link_local()).copied().collect()
}

/// A FIB with what is outside behind it: our networks that it has no way to stay unreachable.
fn outward(fib: &Fib, out: NetworkId, way: &Gateway, world: &[Ipv6Addr]) -> Fib {
    let next = |via| Route::Next(Next::new(out, via, true));
    let mut own = Fib::default();
    let mut rest = Fib::default();
    for (net, route) in fib.iter() {
        if route == Route::Unreachable { rest.add(net, route) } else { own.add(net, route) }
    }
    for address in way.addresses.iter().filter(|own| !own.is_unicast_link_local()) {
        let len = if address.to_ipv4_mapped().is_some() { way.prefix_len } else { way.prefix6_len };
        let own = address.to_canonical();
        rest.add(IpNet::new(own, len).unwrap().trunc(), next(None));
        rest.add(IpNet::from(own), Route::Local);
    }
    for via in world {
        let all = if via.to_ipv4_mapped().is_some() { "0.0.0.0/0" } else { "::/0" };
        rest.add(all.parse().unwrap(), next(Some(*via)));
    }
    own.with_rest(Arc::new(rest))
}
