//! What is believed of all that is known: records against each other, and against what this host says itself. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use switch::mac::MacAddr;

use super::known::{Entry, Known};
use super::records::{Key, Record, overlap};
use super::{HostRecord, MAX_REFUSED, Member, NetworkRecord, Owner, Refused, Remote, Says, Subnet, flannel};

/// The lists of a view.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub hosts: Arc<[HostRecord]>,
    pub members: Arc<[Arc<Remote>]>,
    pub networks: Arc<[NetworkRecord]>,
    pub removed: Arc<[String]>,
    pub addresses: Arc<BTreeMap<(String, IpAddr), Owner>>,
    pub subnets: Arc<[Subnet]>,
    pub outer: Option<Ipv4Net>,
    pub refused: Arc<[Refused]>,
}

/// What is not believed.
pub(super) struct Refusals(Vec<Refused>);

impl Refusals {
    /// All of it.
    pub fn list(self) -> Arc<[Refused]> {
        self.0.into()
    }

    pub fn add(&mut self, key: &Key, why: impl FnOnce() -> String) {
        if self.0.len() < MAX_REFUSED {
            self.0.push(Refused { key: key.to_string(), why: why() });
        }
    }
}

/// Judges everything. `before` is the view's list of members: those that are as they were are the same ones.
pub(super) fn judge(known: &Known, says: &Says, before: &[Arc<Remote>]) -> Lists {
    let refused = known.refused().map(|(key, why)| Refused { key: key.clone(), why: why.clone() });
    let mut refusals = Refusals(refused.collect());
    if let Some(ours) = &says.flannel {
        return flannel::judge(known, says, ours, before, refusals);
    }
    let hosts = hosts(known, says, &mut refusals);
    let networks = networks(known, says, &mut refusals);
    // Of a network that we have ourselves, our own record counts.
    let mut judges: Vec<&NetworkRecord> = networks.iter().collect();
    judges.extend(&says.networks);
    let addresses = addresses(known, &judges, &mut refusals);
    let members = members(known, says, (&hosts, &judges, &addresses), before, &mut refusals);
    Lists {
        hosts: hosts.into(),
        members: members.into(),
        networks: networks.into(),
        removed: removed(known),
        addresses: Arc::new(addresses),
        refused: refusals.list(),
        ..Lists::default()
    }
}

/// Those of a kind, the oldest first: whoever was there first is believed.
pub(super) fn by_age(known: &Known, kind: impl Fn(&Key) -> bool) -> Vec<(&Key, &Entry)> {
    let mut found: Vec<_> = known.entries().filter(|(key, _)| kind(key)).collect();
    found.sort_by_key(|(_, entry)| entry.stamp.created);
    found
}

fn hosts(known: &Known, says: &Says, refusals: &mut Refusals) -> Vec<HostRecord> {
    let mut hosts = Vec::new();
    let mut taken: HashMap<IpAddr, String> = HashMap::new();
    for (key, entry) in by_age(known, |key| matches!(key, Key::Host(_))) {
        let Record::Host { name, vtep } = &entry.record else { continue };
        let me = name == known.me();
        if let Some(why) = wrong_vtep(*vtep, me, says.vtep, taken.get(vtep)) {
            refusals.add(key, || why);
            continue;
        }
        taken.insert(*vtep, name.clone());
        let (name, vtep) = (name.clone(), *vtep);
        hosts.push(HostRecord { name, vtep, since: entry.since, me, held: entry.gone });
    }
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    hosts
}

pub(super) fn wrong_vtep(vtep: IpAddr, me: bool, ours: IpAddr, taken: Option<&String>) -> Option<String> {
    if me {
        return (vtep != ours)
            .then(|| format!("it is what this host is called, which is at {ours}, not {vtep}"));
    }
    if vtep == ours {
        Some(format!("its VTEP {vtep} is this host's"))
    } else if vtep.is_ipv4() != ours.is_ipv4() {
        Some(format!("its VTEP {vtep} is of another family than this host's, {ours}"))
    } else if vtep.is_loopback() && !ours.is_loopback() {
        Some(format!("its VTEP {vtep} is a loopback address, and so this host itself"))
    } else {
        taken.map(|other| format!("its VTEP {vtep} is that of host `{other}`, which was there first"))
    }
}

fn networks(known: &Known, says: &Says, refusals: &mut Refusals) -> Vec<NetworkRecord> {
    let mut networks: Vec<NetworkRecord> = Vec::new();
    let mut taken: HashMap<u32, String> = HashMap::new();
    for (key, entry) in by_age(known, |key| matches!(key, Key::Network(_))) {
        let Record::Network(network) = &entry.record else { continue };
        if network.removed {
            continue;
        }
        if let Some(why) = wrong_network(network, says, taken.get(&network.vni)) {
            refusals.add(key, || why);
            continue;
        }
        taken.insert(network.vni, network.name.clone());
        networks.push(network.clone());
    }
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    networks
}

fn removed(known: &Known) -> Arc<[String]> {
    let networks = known.entries().filter_map(|(_, entry)| match &entry.record {
        Record::Network(network) => Some(network),
        _ => None,
    });
    networks.filter(|network| network.removed).map(|network| network.name.clone()).collect()
}

fn wrong_network(network: &NetworkRecord, says: &Says, taken: Option<&String>) -> Option<String> {
    if let Some(other) = taken {
        return Some(format!("its VNI {} is that of network `{other}`, which was there first", network.vni));
    }
    if let Some(ours) = says.networks.iter().find(|ours| ours.name == network.name) {
        return differs(network, ours);
    }
    for ours in &says.networks {
        if ours.vni == network.vni {
            return Some(format!("its VNI {} is that of our network `{}`", network.vni, ours.name));
        }
        // Networks that nothing can leave may have the addresses of others.
        if network.internal || ours.internal {
            continue;
        }
        if let Some((theirs, mine)) = meets(network, ours) {
            return Some(format!("its subnet {theirs} overlaps {mine} of our network `{}`", ours.name));
        }
    }
    None
}

fn subnets(network: &NetworkRecord) -> impl Iterator<Item = IpNet> {
    network.subnet.map(IpNet::V4).into_iter().chain(network.subnet6.map(IpNet::V6))
}

fn meets(one: &NetworkRecord, other: &NetworkRecord) -> Option<(IpNet, IpNet)> {
    let pairs = subnets(one).flat_map(|a| subnets(other).map(move |b| (a, b)));
    pairs.into_iter().find(|(a, b)| overlap(*a, *b))
}

/// How the store's record of a network is another network than ours of the same name.
fn differs(theirs: &NetworkRecord, ours: &NetworkRecord) -> Option<String> {
    fn shown<T: std::fmt::Display>(value: Option<T>) -> String {
        value.map_or_else(|| "none".into(), |value| value.to_string())
    }
    let fields = [
        ("vni", theirs.vni.to_string(), ours.vni.to_string()),
        ("subnet", shown(theirs.subnet), shown(ours.subnet)),
        ("subnet6", shown(theirs.subnet6), shown(ours.subnet6)),
        ("gateway", shown(theirs.gateway), shown(ours.gateway)),
        ("gateway6", shown(theirs.gateway6), shown(ours.gateway6)),
        ("gateway_mac", shown(theirs.gateway_mac), shown(ours.gateway_mac)),
        ("mtu", shown(theirs.mtu), shown(ours.mtu)),
    ];
    // An MTU that one of them does not name is whatever the underlay leaves there.
    let counts = |key: &str| key != "mtu" || (theirs.mtu.is_some() && ours.mtu.is_some());
    let mut words: Vec<String> = fields
        .into_iter()
        .filter(|(key, theirs, ours)| theirs != ours && counts(key))
        .map(|(key, theirs, ours)| format!("`{key}` is {theirs} there and {ours} here"))
        .collect();
    words.truncate(3);
    (!words.is_empty()).then(|| words.join("; "))
}

fn addresses(
    known: &Known,
    networks: &[&NetworkRecord],
    refusals: &mut Refusals,
) -> BTreeMap<(String, IpAddr), Owner> {
    let by_name: HashMap<&str, &NetworkRecord> = networks.iter().map(|it| (it.name.as_str(), *it)).collect();
    let mut addresses = BTreeMap::new();
    for (key, entry) in known.entries() {
        let (Key::Address(network, ip), Record::Address(owner)) = (key, &entry.record) else { continue };
        if let Some(record) = by_name.get(network.as_str())
            && !subnets(record).any(|subnet| subnet.contains(ip))
        {
            refusals.add(key, || format!("{ip} is in no subnet of `{network}`"));
            continue;
        }
        addresses.insert((network.clone(), *ip), owner.clone());
    }
    addresses
}

/// What members are judged by: hosts, networks, and who holds which address.
type Judges<'j> = (&'j [HostRecord], &'j [&'j NetworkRecord], &'j BTreeMap<(String, IpAddr), Owner>);

/// Who is behind this host: nobody else's word moves them away from here.
struct Ours {
    macs: HashSet<(u32, MacAddr)>,
    ips: HashSet<(u32, IpAddr)>,
}

impl Ours {
    fn of(says: &Says) -> Self {
        let macs = says.members.iter().map(|it| (it.vni, it.mac)).collect();
        let ips = says.members.iter().flat_map(|it| it.ips.iter().map(|ip| (it.vni, *ip))).collect();
        Self { macs, ips }
    }

    fn meets(&self, member: &Member) -> Option<String> {
        if self.macs.contains(&(member.vni, member.mac)) {
            return Some("its MAC is that of a container of this host".into());
        }
        let ip = member.ips.iter().find(|ip| self.ips.contains(&(member.vni, **ip)))?;
        Some(format!("{ip} is the address of a container of this host"))
    }
}

fn members(
    known: &Known,
    says: &Says,
    (hosts, networks, addresses): Judges<'_>,
    before: &[Arc<Remote>],
    refusals: &mut Refusals,
) -> Vec<Arc<Remote>> {
    let ours = Ours::of(says);
    let hosts: HashMap<&str, &HostRecord> = hosts.iter().map(|it| (it.name.as_str(), it)).collect();
    let networks: HashMap<u32, &NetworkRecord> = networks.iter().map(|it| (it.vni, *it)).collect();
    let mut before = before.iter().peekable();
    let mut members = Vec::new();
    for (key, entry) in known.entries() {
        let Record::Member { host, member } = &entry.record else { continue };
        if host == known.me() {
            continue;
        }
        if let Some(why) = ours.meets(member) {
            refusals.add(key, || why);
            continue;
        }
        let Some(record) = hosts.get(host.as_str()) else {
            refusals.add(key, || format!("its host `{host}` is not there, or not believed"));
            continue;
        };
        if let Some(why) =
            networks.get(&member.vni).and_then(|net| wrong_member(host, member, net, addresses))
        {
            refusals.add(key, || why);
            continue;
        }
        // Both are in the order of the keys.
        let at = (member.vni, member.mac);
        while before.next_if(|old| (old.member.vni, old.member.mac) < at).is_some() {}
        let same = |old: &&Arc<Remote>| old.host == *host && old.vtep == record.vtep && old.member == *member;
        members.push(before.peek().copied().filter(same).cloned().unwrap_or_else(|| {
            let (host, member) = (host.clone(), member.clone());
            Arc::new(Remote { host, vtep: record.vtep, member, since: entry.since })
        }));
    }
    members
}

fn wrong_member(
    host: &str,
    member: &Member,
    network: &NetworkRecord,
    addresses: &BTreeMap<(String, IpAddr), Owner>,
) -> Option<String> {
    let (v4, v6) = (network.gateway.map(IpAddr::V4), network.gateway6.map(IpAddr::V6));
    let is_gateway = |ip: &IpAddr| Some(*ip) == v4 || Some(*ip) == v6;
    // A container may be the gateway; then it has the address as well.
    if network.gateway_mac == Some(member.mac) && !member.ips.iter().any(is_gateway) {
        return Some(format!("its MAC is that of the gateway of `{}`", network.name));
    }
    for ip in &member.ips {
        if !subnets(network).any(|subnet| subnet.contains(ip)) {
            return Some(format!("{ip} is in no subnet of `{}`", network.name));
        }
        let owner = addresses.get(&(network.name.clone(), *ip));
        if let Some(owner) = owner.filter(|owner| owner.host != host) {
            return Some(format!("{ip} of `{}` is held by {owner}", network.name));
        }
    }
    None
}
