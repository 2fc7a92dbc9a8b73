//! One lab for all requirements: the daemon's own way of a packet between containers and the outside.
//!
//! `a` and `b` are in `blue`, `c` in `red`, `world` outside; everything that the gateways have to know of them they know.

use std::net::Ipv4Addr;

use crate::common::outside::Outside;

pub const TEXT: &str = "
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
[[network]]
name = \"red\"
subnet = \"10.2.0.0/24\"
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
";

#[test]
fn smoke() {
    let snapshot = Outside::default().snapshot(TEXT);
    let gateway = snapshot.tables.router.gateways[1].as_ref().unwrap();
    for (to, way) in [("9.9.9.9", true), ("198.18.0.77", true), ("10.2.0.7", false)] {
        let to: Ipv4Addr = to.parse().unwrap();
        let route = gateway.fib.lookup(to.to_ipv6_mapped());
        assert_eq!(matches!(route, Some(router::fib::Route::Next(_))), way, "{to}: {route:?}");
    }
    assert_eq!(snapshot.tables.nat.as_ref().unwrap().rules.external().len(), 2);
}
