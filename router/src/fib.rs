//! The forwarding information base of one network: where a packet that came in there goes next.
//!
//! IPv4 is kept v4-mapped, so that there is one trie for both families. What is the same for all networks is kept once
//! ([`Fib::with_rest`]): a lab of thousands has a few routes each, not thousands each.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv6Net};
use prefix_trie::PrefixMap;
use switch::port::NetworkId;

/// Bits in front of a v4-mapped address.
const MAPPED: u8 = 96;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To a gateway: to us.
    Local,
    /// To nobody: all hosts of a subnet at once (RFC 2644 section 2).
    Nobody,
    /// To a network of ours that this one has no way to. It is not looked for elsewhere: whoever has these addresses
    /// outside is somebody else.
    Unreachable,
    /// To another host.
    Next(Next),
}

/// The next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The network it is on.
    pub network: NetworkId,
    /// Who it is; `None`: the destination itself (RFC 1812 section 5.2.4.3, "directly connected").
    pub via: Option<Ipv6Addr>,
    /// Connections may be opened this way; otherwise only what belongs to one from there.
    pub opens: bool,
    /// Several routers that it can be, of which `via` is the first.
    pub hops: Hops,
    /// Largest IP packet that goes on behind it, where that is smaller than on its network, bytes.
    pub mtu: Option<u16>,
}

impl Next {
    /// By one router or to the destination itself, as large as its network takes.
    pub const fn new(network: NetworkId, via: Option<Ipv6Addr>, opens: bool) -> Self {
        Self { network, via, opens, hops: Hops { first: 0, count: 0 }, mtu: None }
    }
}

/// Several next hops of one route: a part of [`crate::tables::Tables::hops`]. None where there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hops {
    /// Where the first is.
    pub first: u32,
    /// How many there are.
    pub count: u16,
}

/// A route with its prefix, as the trie has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    prefix: Ipv6Net,
    /// Where it leads.
    pub route: Route,
}

impl Entry {
    /// The prefix as users write it: IPv4 as IPv4.
    pub fn destination(&self) -> IpNet {
        canonical(self.prefix)
    }
}

/// Routes by destination.
///
/// # Threads
/// Immutable once published.
#[derive(Clone, Default)]
pub struct Fib {
    routes: PrefixMap<Ipv6Net, Route>,
    /// The same, longest prefix first, as long as there are few: going through them costs less than a trie's branches,
    /// each of which is a guess and a cache line (measured: a fourteenth of all that a routed packet costs).
    few: Vec<Few>,
    /// What is asked where nothing of this leads to a destination.
    rest: Option<Arc<Fib>>,
}

/// Routes that are gone through one by one.
const FEW: usize = 24;

#[derive(Clone, Copy)]
struct Few {
    mask: u128,
    network: u128,
    entry: Entry,
}

impl Few {
    fn new(prefix: Ipv6Net, route: Route) -> Self {
        let mask = prefix.netmask().to_bits();
        Self { mask, network: prefix.addr().to_bits() & mask, entry: Entry { prefix, route } }
    }
}

impl Fib {
    /// The same, and where it leads nowhere `rest` is asked. Whatever is in this goes before, be it a default route.
    #[must_use]
    pub fn with_rest(self, rest: Arc<Self>) -> Self {
        Self { rest: Some(rest), ..self }
    }

    /// What is asked after it.
    pub fn rest(&self) -> Option<&Arc<Self>> {
        self.rest.as_ref()
    }

    /// How many routes it keeps itself.
    pub fn own(&self) -> usize {
        self.routes.len()
    }

    /// Adds a route, or replaces the one of the same prefix unless that one says more: ours, or one that may be opened.
    pub fn add(&mut self, destination: IpNet, route: Route) {
        let prefix = mapped(destination);
        let keeps = match (self.routes.get(&prefix), route) {
            (Some(Route::Local | Route::Nobody), _) | (Some(_), Route::Unreachable) => true,
            (Some(Route::Next(old)), Route::Next(new)) => old.opens && !new.opens,
            _ => false,
        };
        if keeps {
            return;
        }
        self.routes.insert(prefix, route);
        self.few.clear();
        if self.routes.len() <= FEW {
            self.few.extend(self.routes.iter().map(|(prefix, route)| Few::new(prefix, *route)));
            self.few.sort_by_key(|few| std::cmp::Reverse(few.entry.prefix.prefix_len()));
        }
    }

    /// The route with the longest prefix (RFC 1812 section 5.2.4.3).
    #[inline]
    pub fn lookup(&self, destination: Ipv6Addr) -> Option<Route> {
        self.entry(destination).map(|entry| entry.route)
    }

    /// The same with its prefix.
    #[inline]
    pub fn entry(&self, destination: Ipv6Addr) -> Option<Entry> {
        self.own_entry(destination).or_else(|| self.of_rest(destination))
    }

    /// Out of line: what is routed between networks is found before.
    #[inline(never)]
    fn of_rest(&self, destination: Ipv6Addr) -> Option<Entry> {
        self.rest.as_ref()?.own_entry(destination)
    }

    #[inline]
    fn own_entry(&self, destination: Ipv6Addr) -> Option<Entry> {
        if !self.few.is_empty() {
            let bits = destination.to_bits();
            return self.few.iter().find(|few| bits & few.mask == few.network).map(|few| few.entry);
        }
        let host = Ipv6Net::new_assert(destination, 128);
        self.routes.get_lpm(&host).map(|(prefix, route)| Entry { prefix, route: *route })
    }

    /// All routes, by prefix, and then those of the rest that count here; IPv4 as IPv4.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, Route)> + '_ {
        let rest = self.rest.iter().flat_map(|rest| rest.routes.iter());
        let counts = |(prefix, _): &(Ipv6Net, &Route)| self.routes.get_lpm(prefix).is_none();
        let all = self.routes.iter().chain(rest.filter(counts));
        all.map(|(prefix, route)| (canonical(prefix), *route))
    }
}

/// The prefix as the trie has it.
fn mapped(net: IpNet) -> Ipv6Net {
    match net {
        IpNet::V4(v4) => {
            Ipv6Net::new_assert(v4.network().to_ipv6_mapped(), v4.prefix_len().saturating_add(MAPPED))
        }
        IpNet::V6(v6) => v6.trunc(),
    }
}

/// The prefix as users write it.
fn canonical(net: Ipv6Net) -> IpNet {
    match (net.addr().to_canonical(), net.prefix_len().checked_sub(MAPPED)) {
        (IpAddr::V4(v4), Some(length)) => IpNet::new_assert(IpAddr::V4(v4), length.min(32)),
        _ => IpNet::V6(net),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn next(network: u16) -> Route {
        Route::Next(Next::new(NetworkId(network), None, true))
    }

    #[test]
    fn the_longest_prefix_wins_and_families_do_not_mix() {
        let mut fib = Fib::default();
        for (prefix, network) in
            [("0.0.0.0/0", 1), ("10.0.0.0/8", 2), ("10.1.0.0/16", 3), ("::/0", 4), ("fd00::/64", 5)]
        {
            fib.add(prefix.parse().unwrap(), next(network));
        }
        fib.add("10.1.0.1/32".parse().unwrap(), Route::Local);
        let find = |text: &str| match text.parse().unwrap() {
            IpAddr::V4(v4) => fib.lookup(v4.to_ipv6_mapped()),
            IpAddr::V6(v6) => fib.lookup(v6),
        };
        assert_eq!(find("9.9.9.9"), Some(next(1)));
        assert_eq!(find("10.9.0.1"), Some(next(2)));
        assert_eq!(find("10.1.0.2"), Some(next(3)));
        assert_eq!(find("10.1.0.1"), Some(Route::Local));
        assert_eq!(find("fd00::7"), Some(next(5)));
        assert_eq!(find("2001:db8::1"), Some(next(4)));
        let mut listed: Vec<_> = fib.iter().map(|(net, _)| net.to_string()).collect();
        listed.sort();
        assert_eq!(listed, ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.0.1/32", "::/0", "fd00::/64"]);
    }

    #[test]
    fn a_route_that_may_be_opened_is_not_lost_to_one_that_may_not() {
        let mut fib = Fib::default();
        let net = "10.1.0.0/16".parse().unwrap();
        fib.add(net, next(1));
        fib.add(net, Route::Next(Next::new(NetworkId(1), None, false)));
        assert_eq!(fib.lookup(Ipv4Addr::new(10, 1, 2, 3).to_ipv6_mapped()), Some(next(1)));
    }

    #[test]
    fn nothing_is_unreachable_where_there_is_a_way() {
        let mut fib = Fib::default();
        let net = "10.1.0.0/16".parse().unwrap();
        fib.add(net, Route::Unreachable);
        fib.add(net, next(1));
        fib.add(net, Route::Unreachable);
        assert_eq!(fib.lookup(Ipv4Addr::new(10, 1, 2, 3).to_ipv6_mapped()), Some(next(1)));
    }

    #[test]
    fn the_rest_is_asked_last() {
        let mut rest = Fib::default();
        for net in ["10.2.0.0/24", "10.3.0.0/24", "10.4.0.0/16", "fd00:2::/64"] {
            rest.add(net.parse().unwrap(), Route::Unreachable);
        }
        let rest = Arc::new(rest);
        let mut fib = Fib::default().with_rest(Arc::clone(&rest));
        let find = |fib: &Fib, text: &str| match text.parse().unwrap() {
            IpAddr::V4(v4) => fib.lookup(v4.to_ipv6_mapped()),
            IpAddr::V6(v6) => fib.lookup(v6),
        };
        assert_eq!(find(&fib, "10.2.0.7"), Some(Route::Unreachable), "of nothing, too");
        for net in ["10.1.0.0/24", "10.2.0.128/25", "10.3.0.0/24"] {
            fib.add(net.parse().unwrap(), next(1));
        }
        for (to, route) in [
            ("10.2.0.7", Some(Route::Unreachable)),
            ("10.2.0.200", Some(next(1))),
            ("10.3.0.1", Some(next(1))),
            ("10.4.9.9", Some(Route::Unreachable)),
            ("fd00:2::9", Some(Route::Unreachable)),
            ("9.9.9.9", None),
            ("fd00:3::1", None),
        ] {
            assert_eq!(find(&fib, to), route, "{to}");
        }
        let listed = |fib: &Fib| {
            let mut listed: Vec<_> = fib.iter().map(|(net, _)| net.to_string()).collect();
            listed.sort();
            listed
        };
        let all =
            ["10.1.0.0/24", "10.2.0.0/24", "10.2.0.128/25", "10.3.0.0/24", "10.4.0.0/16", "fd00:2::/64"];
        assert_eq!(listed(&fib), all);
        // A default route of its own leaves nothing of that family to ask for.
        fib.add("0.0.0.0/0".parse().unwrap(), next(2));
        assert_eq!(
            (find(&fib, "10.4.9.9"), find(&fib, "fd00:2::9")),
            (Some(next(2)), Some(Route::Unreachable))
        );
        assert_eq!(listed(&fib), ["0.0.0.0/0", "10.1.0.0/24", "10.2.0.128/25", "10.3.0.0/24", "fd00:2::/64"]);
        assert_eq!((fib.own(), fib.rest().unwrap().own()), (4, 4));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_list(
            routes in prop::collection::vec((any::<u32>(), 0u8..=32), 0..40),
            asked in prop::collection::vec(any::<u32>(), 20),
        ) {
            let mut fib = Fib::default();
            let nets: Vec<(IpNet, u16)> = routes.iter().enumerate().map(|(index, (bits, length))| {
                // Few distinct networks, so that prefixes nest.
                let net = IpNet::new((*bits & 0x0300_ffff).to_be_bytes().into(), *length).unwrap().trunc();
                (net, index as u16)
            }).collect();
            nets.iter().for_each(|(net, index)| fib.add(*net, next(*index)));
            for bits in asked {
                let ip = Ipv4Addr::from(bits & 0x0300_ffff);
                let best = nets.iter().enumerate()
                    .filter(|(_, (net, _))| net.contains(&IpAddr::V4(ip)))
                    .max_by_key(|(order, (net, _))| (net.prefix_len(), *order));
                prop_assert_eq!(fib.lookup(ip.to_ipv6_mapped()), best.map(|(_, (_, index))| next(*index)));
            }
        }
    }
}
