//! Who is called what, as each container may know it: published whole, like the snapshot, and read by the name server.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::rr::{Name, RecordType};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use router::egress;
use router::tables::Egress;
use switch::flow::FlowKey;
use switch::port::{NetworkId, PortId};

/// What a gateway is called in its network, unless a container has that name.
pub const GATEWAY: &str = "gateway";

/// One network's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// The network's id.
    pub id: NetworkId,
    /// Its name, as configured.
    pub name: String,
    /// Its subnets: who asks for the name of an address in them is answered here, and nowhere else.
    pub subnets: Vec<IpNet>,
    /// Our gateway's addresses.
    pub gateways: Vec<IpAddr>,
    /// Bytes of its longest IP packet.
    pub mtu: u16,
    /// What is asked by it and no name of ours is forwarded to the host's resolvers.
    pub forwards: bool,
    /// Each container's name or alias, and an address of it.
    pub members: Vec<Member>,
}

/// One interface's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The container's name; what its addresses are called.
    pub name: String,
    /// Other names.
    pub aliases: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// All names.
#[derive(Debug, Default)]
pub struct Names {
    zones: Vec<Indexed>,
    by_id: HashMap<NetworkId, usize>,
    /// The zones of the container behind a port.
    ports: HashMap<PortId, Vec<usize>>,
    /// Ports behind which the host itself is.
    host: HashSet<PortId>,
    /// `NAME.NETWORK` of every network: they are ours, whoever asks.
    qualified: HashSet<String>,
    /// What the container behind a port may send outside.
    egress: Egress,
}

#[derive(Debug)]
struct Indexed {
    zone: Zone,
    /// The network's name in lower case.
    name: String,
    addresses: HashMap<String, Vec<IpAddr>>,
    names: HashMap<IpAddr, String>,
}

/// What is to be said of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// These are its addresses of the type that was asked for, or of both.
    Addresses(Vec<IpAddr>),
    /// The address has this name.
    Pointer(Name),
    /// The name is there and has nothing of that type (RFC 2308 section 2.2).
    Empty,
    /// There is no such name (RFC 2308 section 2.1).
    Nothing,
    /// It is no name of ours.
    NotOurs,
}

impl Names {
    /// The names of `zones`; `ports` says which networks the container behind a port is on.
    pub fn new(zones: Vec<Zone>, ports: impl IntoIterator<Item = (PortId, Vec<NetworkId>)>) -> Self {
        let by_id: HashMap<NetworkId, usize> =
            zones.iter().enumerate().map(|(index, zone)| (zone.id, index)).collect();
        let on = |ids: Vec<NetworkId>| ids.iter().filter_map(|id| by_id.get(id).copied()).collect();
        let ports = ports.into_iter().map(|(port, ids)| (port, on(ids))).collect();
        let zones: Vec<Indexed> = zones.into_iter().map(Indexed::new).collect();
        let of = |zone: &Indexed| -> Vec<String> {
            zone.addresses.keys().map(|name| format!("{name}.{}", zone.name)).collect()
        };
        let qualified = zones.iter().flat_map(of).collect();
        Self { zones, by_id, ports, host: HashSet::new(), qualified, egress: Egress::default() }
    }

    /// The same, with the host behind some of the ports. It is told the names of the networks it is said to be on, and has
    /// resolvers of its own for all else: they are not asked for it, or they might ask here again.
    #[must_use]
    pub fn with_host(self, ports: impl IntoIterator<Item = PortId>) -> Self {
        Self { host: ports.into_iter().collect(), ..self }
    }

    /// The same, with what containers may send outside.
    #[must_use]
    pub fn with_egress(self, egress: Egress) -> Self {
        Self { egress, ..self }
    }

    /// Whether the container behind `port` may have `resolver` asked by `proto`: a question that we pass on for it is
    /// judged like a packet of its own, or names would be a way around its rules.
    pub fn may_ask(&self, port: PortId, proto: u8, resolver: SocketAddr) -> bool {
        let Some(rules) = self.egress.get(port.index()).and_then(Option::as_deref) else { return true };
        let dst = match resolver.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let src = Ipv6Addr::UNSPECIFIED;
        egress::allows_key(rules, &FlowKey { zone: 0, proto, src, dst, sport: 0, dport: resolver.port() })
    }

    /// Who asks, by `port` on `network`; `None` where nobody is known there.
    pub fn asker(&self, port: PortId, network: NetworkId) -> Option<Asker<'_>> {
        let asked = self.zones.get(*self.by_id.get(&network)?)?;
        let on = self.ports.get(&port)?;
        let forwards = asked.zone.forwards && !self.host.contains(&port);
        Some(Asker { names: self, asked, on, forwards })
    }
}

impl Indexed {
    fn new(zone: Zone) -> Self {
        let mut addresses: HashMap<String, Vec<IpAddr>> = HashMap::new();
        let mut names = HashMap::new();
        for member in &zone.members {
            for name in member.aliases.iter().chain([&member.name]) {
                addresses.entry(name.to_ascii_lowercase()).or_default().extend(&member.addresses);
            }
            names.extend(member.addresses.iter().map(|address| (*address, member.name.clone())));
        }
        if !zone.gateways.is_empty() && !addresses.contains_key(GATEWAY) {
            names.extend(zone.gateways.iter().map(|address| (*address, GATEWAY.to_owned())));
        }
        Self { name: zone.name.to_ascii_lowercase(), zone, addresses, names }
    }

    /// The addresses of `NAME.NETWORK`, where this is the network.
    fn qualified(&self, name: &str) -> Option<&[IpAddr]> {
        let name = self.below(name)?;
        match self.addresses.get(name) {
            Some(addresses) => Some(addresses),
            None if name == GATEWAY && !self.zone.gateways.is_empty() => Some(&self.zone.gateways),
            None => None,
        }
    }

    /// `NAME` of `NAME.NETWORK`, where this is the network.
    fn below<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_suffix(&self.name)?.strip_suffix('.')
    }
}

/// A container that asks, by one of its networks.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    names: &'a Names,
    asked: &'a Indexed,
    on: &'a [usize],
    forwards: bool,
}

impl<'a> Asker<'a> {
    /// The network it asks by.
    pub fn zone(&self) -> &'a Zone {
        &self.asked.zone
    }

    /// Whether the host's resolvers are asked for it.
    pub const fn forwards(&self) -> bool {
        self.forwards
    }

    /// Its networks, the one it asks by first.
    fn zones(&self) -> impl Iterator<Item = &'a Indexed> + Clone {
        let names = self.names;
        let asked = self.asked;
        let others = self.on.iter().filter_map(|index| names.zones.get(*index));
        std::iter::once(asked).chain(others.filter(move |zone| zone.zone.id != asked.zone.id))
    }

    /// What is to be said to it of `name`.
    pub fn look_up(&self, name: &Name, kind: RecordType) -> Found {
        let labels: Vec<&[u8]> = name.iter().collect();
        if name.is_localhost() {
            // RFC 6761 section 6.3: never asked of others.
            return of_kind(&[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()], kind);
        }
        if let Some(found) = self.reverse(&labels, kind) {
            return found;
        }
        let Some(text) = plain(&labels) else { return Found::NotOurs };
        let mut addresses: Vec<IpAddr> = Vec::new();
        let mut known = false;
        for zone in self.zones() {
            let both = zone.addresses.get(&text).map(Vec::as_slice).into_iter().chain(zone.qualified(&text));
            for found in both {
                known = true;
                addresses
                    .extend(found.iter().filter(|address| !addresses.contains(address)).collect::<Vec<_>>());
            }
        }
        if known {
            return of_kind(&addresses, kind);
        }
        self.unknown(&text, kind)
    }

    /// A name that none of its networks knows.
    fn unknown(&self, text: &str, kind: RecordType) -> Found {
        // Of a network that it is not on: there is no such name for it, and nobody else has one to tell.
        if self.names.qualified.contains(text) {
            return Found::Nothing;
        }
        // There are names below it, so it is there itself (RFC 8020 section 2).
        if self.zones().any(|zone| zone.name == text) {
            return Found::Empty;
        }
        // One label is a host of ours or nobody's; it would tell others whom somebody looks for here. Of a top-level
        // domain other things than addresses are asked.
        if !text.contains('.') && matches!(kind, RecordType::A | RecordType::AAAA | RecordType::HTTPS) {
            return Found::Nothing;
        }
        // A network may be called like a public domain: what is below it is asked of others where that may be.
        if !self.forwards && self.zones().any(|zone| zone.below(text).is_some()) {
            return Found::Nothing;
        }
        Found::NotOurs
    }

    /// The name of an address, where the address is of a network of ours or a loopback one.
    fn reverse(&self, labels: &[&[u8]], kind: RecordType) -> Option<Found> {
        let (prefix, whole) = reverse_prefix(labels)?;
        let inside = |zone: &Indexed| zone.zone.subnets.iter().any(|subnet| subnet.contains(&prefix));
        let loopback = [
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 8)),
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
        ];
        let pointer = |name: Option<Name>| match name {
            Some(name) if matches!(kind, RecordType::PTR | RecordType::ANY) => Found::Pointer(name),
            Some(_) => Found::Empty,
            None => Found::Nothing,
        };
        let address = prefix.addr();
        let full = prefix.prefix_len() == prefix.max_prefix_len();
        if loopback.iter().any(|net| net.contains(&prefix)) {
            return Some(pointer(
                (full && whole && address.is_loopback()).then(|| name_of(&["localhost"])).flatten(),
            ));
        }
        let zone = self.zones().find(|zone| inside(zone));
        match zone {
            // RFC 6303 section 3: the addresses are ours, so nobody else knows better.
            None => self.names.zones.iter().any(inside).then_some(Found::Nothing),
            Some(_) if !whole => Some(Found::Nothing),
            Some(_) if !full => Some(Found::Empty),
            Some(_) => {
                let called = self.zones().find_map(|zone| Some((zone.names.get(&address)?, &zone.zone.name)));
                Some(pointer(called.and_then(|(name, network)| name_of(&[name, network]))))
            }
        }
    }
}

/// Those of `addresses` that a question of type `kind` is about.
fn of_kind(addresses: &[IpAddr], kind: RecordType) -> Found {
    let fits = |address: &&IpAddr| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    };
    let fitting: Vec<IpAddr> = addresses.iter().filter(fits).copied().collect();
    if fitting.is_empty() { Found::Empty } else { Found::Addresses(fitting) }
}

/// Labels as the text of a name of ours: in lower case, with dots. `None`: no name of ours has such bytes.
fn plain(labels: &[&[u8]]) -> Option<String> {
    let of_ours = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if labels.is_empty() || !labels.iter().all(|label| label.iter().all(of_ours)) {
        return None;
    }
    let text = labels.join(&b'.').to_ascii_lowercase();
    String::from_utf8(text).ok()
}

/// The name of these texts one after the other, each of one or more labels; `None` where they make none.
fn name_of(texts: &[&str]) -> Option<Name> {
    let labels = texts.iter().flat_map(|text| text.split('.')).map(str::as_bytes);
    let mut name = Name::from_labels(labels).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The prefix that a name below `in-addr.arpa` (RFC 1035 section 3.5) or `ip6.arpa` (RFC 3596 section 2.5) stands for,
/// as far as its labels are numbers; and whether all of them are.
fn reverse_prefix(labels: &[&[u8]]) -> Option<(IpNet, bool)> {
    let (arpa, rest) = labels.split_last()?;
    let (family, rest) = rest.split_last()?;
    if !arpa.eq_ignore_ascii_case(b"arpa") {
        return None;
    }
    if family.eq_ignore_ascii_case(b"in-addr") {
        let mut octets = [0; 4];
        let mut count = 0;
        for (octet, label) in octets.iter_mut().zip(rest.iter().rev()) {
            let text =
                std::str::from_utf8(label).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
            let Some(number) = text.and_then(|text| text.parse().ok()) else { break };
            *octet = number;
            count += 1;
        }
        let net = Ipv4Net::new(octets.into(), count * 8).ok()?;
        return Some((net.into(), rest.len() == usize::from(count)));
    }
    if family.eq_ignore_ascii_case(b"ip6") {
        let mut bits: u128 = 0;
        let mut count: u8 = 0;
        for label in rest.iter().rev().take(32) {
            let digit = match label {
                [digit] => char::from(*digit).to_digit(16),
                _ => None,
            };
            let Some(digit) = digit else { break };
            bits = bits << 4 | u128::from(digit);
            count += 1;
        }
        let bits = bits.checked_shl(128 - u32::from(count) * 4).unwrap_or(0);
        let net = Ipv6Net::new(Ipv6Addr::from_bits(bits), count * 4).ok()?;
        return Some((net.into(), rest.len() == usize::from(count)));
    }
    None
}
