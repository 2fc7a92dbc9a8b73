//! What an uplink that takes packets translates by: registries -> [`Translation`], and the upkeep of its tables.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nat::conntrack::{self, Conntrack, EndPoint, Inside, Rule, Rules};
use nat::fragments::Fragments;
use switch::port::{NetworkId, PortId};
use switch::snapshot::{Network, Owner, Snapshot};
use switch::table::TableError;
use switch::tick::Tick;

use super::control::Control;
use super::networks::Networks;
use super::ports::{MAX_PORTS, Ports};
use super::published::number;
use super::records::Outcome;
use super::routing::mapped;
use crate::config::{self, Config, Family, Filtering, Interface, Outside, Publish, UPLINK};
use crate::tables::Tables;
use crate::translate::{Masquerade, Translation};

/// Addresses of ours of both families, at most: those of a file that is read later have their place, too.
const ADDRESSES: usize = 8;
/// Where l4 ports begin that are chosen by us (RFC 6335 section 6).
const DYNAMIC: u16 = 49_152;
/// Which of several addresses a container has outside must be the same after a restart; it is no secret.
const SEED: u64 = 0;

/// What packets change. It outlives reloads.
#[derive(Clone)]
pub struct Translator {
    conntrack: Arc<Conntrack>,
    fragments: Arc<Fragments>,
    /// Our addresses. One that stays has the same place in every configuration, for connections know theirs by it.
    places: Arc<Mutex<Vec<Ipv6Addr>>>,
}

impl Translator {
    /// Room for what `limits` say; in a memory file where there is one, to outlive this process.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(outside: &Outside, memory: Option<&OwnedFd>) -> Result<Self, TableError> {
        let limits = &outside.limits;
        // As many of each family as it has addresses of it; of a pool each takes its part.
        let of = |family| outside.legs().filter(|(address, _)| Family::of(*address) == family).count();
        let addresses = u32::try_from(of(Family::V4).max(of(Family::V6)).max(1)).unwrap_or(1);
        let tables = conntrack::Limits {
            connections: limits.connections,
            connections_per_port: limits.connections_per_container,
            mappings: limits.mappings.saturating_mul(addresses),
            mappings_per_port: limits.mappings_per_container,
        };
        let kept = memory.and_then(|memory| {
            let kept = memory.try_clone().map_err(|error| error.to_string()).and_then(|memory| {
                Conntrack::kept(&tables, ADDRESSES, MAX_PORTS, memory).map_err(|error| error.to_string())
            });
            kept.inspect_err(|error| tracing::warn!(error, "connections end with this engine")).ok()
        });
        let conntrack = match kept {
            Some(kept) => Arc::new(kept),
            None => Arc::new(Conntrack::new(&tables, ADDRESSES, MAX_PORTS)?),
        };
        let fragments = Arc::new(Fragments::new(limits.fragments as usize, MAX_PORTS)?);
        Ok(Self { conntrack, fragments, places: Arc::default() })
    }

    /// Our addresses, each in its place; `::` where none is any more.
    fn places(&self, outside: &Outside) -> Vec<Ipv6Addr> {
        let wanted: Vec<_> = outside.legs().map(|(address, _)| mapped(address)).collect();
        let Ok(mut places) = self.places.lock() else { return wanted };
        for place in places.iter_mut().filter(|place| !wanted.contains(place)) {
            *place = Ipv6Addr::UNSPECIFIED;
        }
        for address in wanted {
            if !places.contains(&address) {
                match places.iter_mut().find(|place| place.is_unspecified()) {
                    Some(place) => *place = address,
                    None => places.push(address),
                }
            }
        }
        places.clone()
    }

    /// With what is configured. `networks` are those of the snapshot, by id.
    pub fn translation(
        &self,
        (config, outside): (&Config, &Outside),
        registry: &Networks,
        networks: &[Option<Network>],
        ports: &Ports,
    ) -> Option<Translation> {
        let uplink = registry.find(UPLINK)?;
        let mut masquerade = vec![Masquerade::default(); networks.len()];
        for (id, record) in registry.all().filter(|(id, _)| *id != uplink) {
            if let Some(slot) = masquerade.get_mut(id.index()) {
                let of = |family| config.masquerades(&record.config, family);
                *slot = Masquerade { v4: of(Family::V4), v6: of(Family::V6) };
            }
        }
        let zone = |id: NetworkId| networks.get(id.index())?.as_ref().map(|network| network.zone);
        let published = published(config, outside, |container, interface| {
            let port = ports.find(container, interface)?;
            Some((port, zone(ports.get(port)?.network)?))
        });
        Some(Translation {
            uplink,
            masquerade: masquerade.into_boxed_slice(),
            rules: Arc::new(rules(outside, self.places(outside), published)),
            conntrack: Arc::clone(&self.conntrack),
            fragments: Arc::clone(&self.fragments),
        })
    }
}

fn rules(outside: &Outside, external: Vec<Ipv6Addr>, published: Vec<Rule>) -> Rules {
    let filtering = match outside.filtering {
        Filtering::Endpoint => conntrack::Filtering::Endpoint,
        Filtering::Address => conntrack::Filtering::Address,
        Filtering::AddressPort => conntrack::Filtering::AddressPort,
    };
    let config::Timeouts { udp, tcp_established, tcp_transitory, icmp, others } = outside.timeouts;
    let timeouts = conntrack::Timeouts { udp, tcp_established, tcp_transitory, icmp, others };
    Rules::new(external, published, (filtering, outside.parity), timeouts, SEED)
}

/// One rule for each entry that packets are rewritten for, and each family that both ends have. `place` knows the port of
/// a container's interface and its zone.
fn published(
    config: &Config,
    outside: &Outside,
    place: impl Fn(&str, &str) -> Option<(PortId, u16)>,
) -> Vec<Rule> {
    let entries = chosen(config, outside).into_iter();
    let rules = entries.filter_map(|(container, interface, publish, first)| {
        let (owner, zone) = place(container, &interface.name)?;
        let rule = move |external: IpAddr, own: IpAddr| Rule {
            proto: number(publish.protocol),
            external: mapped(external),
            first,
            count: publish.count,
            inside: Inside { zone, end: EndPoint { address: mapped(own), port: publish.port } },
            owner,
        };
        Some(ends(interface, publish, outside).map(move |(external, own)| rule(external, own)))
    });
    rules.flatten().collect()
}

/// The addresses of an entry outside, each with the interface's own of that family.
pub fn ends(
    interface: &Interface,
    publish: &Publish,
    outside: &Outside,
) -> impl Iterator<Item = (IpAddr, IpAddr)> {
    let named = publish.address;
    let own: Vec<IpAddr> = interface.ips().map(|ip| ip.addr()).collect();
    let external = |family| named.map_or_else(|| outside.address_of(family), Some);
    let pairs: Vec<_> = own
        .into_iter()
        .filter_map(|own| Some((external(Family::of(own))?, own)))
        .filter(|(external, own)| Family::of(*external) == Family::of(*own))
        .collect();
    pairs.into_iter()
}

/// The entries that packets are rewritten for, with their first l4 port outside: where that is left open, one that no
/// other entry has. The same configuration gives the same ones.
pub fn chosen<'c>(config: &'c Config, outside: &Outside) -> Vec<(&'c str, &'c Interface, &'c Publish, u16)> {
    let all = config.interfaces().flat_map(|(container, interface)| {
        let entries = interface.publish.iter().filter(|publish| publish.by_packets(outside));
        entries.map(move |publish| (container.name.as_str(), interface, publish))
    });
    let all: Vec<_> = all.collect();
    let taken = |publish: &Publish, first: u16| {
        let protocol = publish.protocol;
        (0..publish.count).map(move |step| (protocol, first.saturating_add(step)))
    };
    let named = all.iter().filter(|(.., publish)| publish.host != 0);
    let mut used: HashSet<_> = named.flat_map(|(.., publish)| taken(publish, publish.host)).collect();
    let mut entries = Vec::with_capacity(all.len());
    for (container, interface, publish) in all {
        let first = match publish.host {
            0 => (DYNAMIC..u16::MAX).find(|port| used.insert((publish.protocol, *port))),
            named => Some(named),
        };
        entries.extend(first.map(|first| (container, interface, publish, first)));
    }
    entries
}

/// Whether an address that a connection is of is still behind that port: given to it, or behind it, or nobody's, by which
/// hosts go that made themselves one.
fn keeps(snapshot: &Snapshot<Tables>, port: PortId, zone: u16, address: Ipv6Addr) -> bool {
    snapshot.view().home(port).is_some_and(|network| {
        network.zone == zone
            && match network.claims.ips.get(&address) {
                Some(owner) => *owner == Owner::Port(port),
                None => true,
            }
    })
}

/// What a port is called that outlives this process.
fn name(container: &str, interface: &str) -> u64 {
    let bytes = container.bytes().chain([0]).chain(interface.bytes());
    // FNV-1a (RFC 9923 section 4).
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Control {
    /// Before a snapshot is published: says who has which port, and goes on with the connections of an engine before this
    /// one.
    pub(super) fn resume_connections(&mut self, snapshot: &Snapshot<Tables>) {
        let Some(nat) = &snapshot.tables.nat else { return };
        let mut ports = HashMap::new();
        for (port, record) in self.ports.wanted() {
            let name = name(record.container(), record.ifname());
            nat.conntrack.name(port, name);
            if let Some(network) = snapshot.view().home(port) {
                ports.insert(name, (port, network.zone));
            }
        }
        let resumed = nat.conntrack.resume(|name| ports.get(&name).copied());
        if resumed > 0 {
            tracing::info!(resumed, "connections of the engine before this one go on");
        }
    }

    /// Ends what is not allowed any more by what was published now. On another thread: it goes through all connections.
    pub(super) fn reconcile_connections(&mut self) {
        let snapshot = self.snapshot.load_full();
        if snapshot.tables.nat.is_none() {
            return;
        }
        self.jobs.spawn_blocking(move || {
            if let Some(nat) = &snapshot.tables.nat {
                let keeps = |port, zone, address| keeps(&snapshot, port, zone, address);
                let ended = nat.conntrack.reconcile(&nat.rules, keeps, Tick::now());
                tracing::debug!(ended, "connections follow the configuration");
            }
            Outcome::Nothing
        });
    }

    /// Clears away what is over ([`Outcome::Aged`]).
    pub(super) fn age_connections(&mut self) {
        let snapshot = self.snapshot.load_full();
        self.jobs.spawn_blocking(move || {
            let began = Instant::now();
            if let Some(nat) = &snapshot.tables.nat {
                nat.conntrack.age(&nat.rules, Tick::now());
            }
            Outcome::Aged(began.elapsed())
        });
    }

    /// Nothing of the containers that were behind these ports is left, before their numbers are others'.
    pub(super) fn forget_connections(&mut self) {
        let gone: HashSet<PortId> = self.gone.drain(..).collect();
        let snapshot = self.snapshot.load();
        if let Some(nat) = snapshot.tables.nat.as_ref().filter(|_| !gone.is_empty()) {
            nat.conntrack.forget(|port| gone.contains(&port), Tick::now());
            nat.fragments.forget(|port| gone.contains(&port));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Context, Paths, parse_with};

    fn parse(text: &str) -> Config {
        let paths = Paths { control: "/test/control.sock".into(), state: "/test/state".into() };
        let context = Context { paths, previous: None, memory: None };
        parse_with("lab.toml", text.as_bytes(), &context).unwrap_or_else(|errors| panic!("{errors}"))
    }

    const LAB: &str = r#"
        [uplink]
        kind = "tap"
        address = ["198.18.0.10/24", "198.18.0.11/24"]
        address6 = "fd00:9::10/64"
        [[network]]
        name = "blue"
        subnet = "10.1.0.0/24"
        subnet6 = "fd00:1::/64"
        [[network]]
        name = "red"
        subnet = "10.2.0.0/24"
        [[container]]
        name = "a"
        [[container.interface]]
        network = "blue"
        publish = ["8080-8089:80-89", "0:22", "127.0.0.1:9000:90", "198.18.0.11:8080:8/udp", "49152:1", "5000:5000/sctp"]
        [[container]]
        name = "b"
        [[container.interface]]
        network = "red"
        publish = ["0:22"]
    "#;

    #[test]
    fn a_range_is_one_rule_for_each_family_and_a_free_l4_port_is_nobodys() {
        let config = parse(LAB);
        let outside = config.outside.as_ref().unwrap();
        let rules = published(&config, outside, |container, _| {
            Some((PortId(if container == "a" { 0 } else { 1 }), 7))
        });
        let said: Vec<String> = rules
            .iter()
            .map(|rule| {
                let Rule { proto, external, first, count, inside, owner } = rule;
                let (external, own) = (external.to_canonical(), inside.end.address.to_canonical());
                format!("{proto} {external} {first}+{count} {own} {} {owner}", inside.end.port)
            })
            .collect();
        assert_eq!(
            said,
            [
                "6 198.18.0.10 8080+10 10.1.0.2 80 0",
                "6 fd00:9::10 8080+10 fd00:1::2 80 0",
                "6 198.18.0.10 49153+1 10.1.0.2 22 0",
                "6 fd00:9::10 49153+1 fd00:1::2 22 0",
                "17 198.18.0.11 8080+1 10.1.0.2 8 0",
                "6 198.18.0.10 49152+1 10.1.0.2 1 0",
                "6 fd00:9::10 49152+1 fd00:1::2 1 0",
                "132 198.18.0.10 5000+1 10.1.0.2 5000 0",
                "132 fd00:9::10 5000+1 fd00:1::2 5000 0",
                "6 198.18.0.10 49154+1 10.2.0.2 22 1",
            ]
        );
    }
}
