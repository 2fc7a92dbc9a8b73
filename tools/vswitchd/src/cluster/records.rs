//! Records as they stand in the store: from key and value to a record, or why not, and back.
//!
//! Pure. Each record is judged by itself; against the others it is by `judge`.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use switch::mac::MacAddr;

use super::{MAX_VALUE, Member, NetworkRecord, Owner, flannel};
use crate::config::clip;

/// How many addresses and names a member has.
pub(super) const MAX_EACH: usize = 64;
/// The largest VNI: 24 bits (RFC 7348 section 5).
const MAX_VNI: u32 = (1 << 24) - 1;

/// The key of a record, below the prefix and the version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Host(String),
    Network(String),
    Member(u32, MacAddr),
    Address(String, IpAddr),
    /// flannel's network.
    Config,
    /// Whose a subnet of that is.
    Subnet(Ipv4Net),
}

/// The kinds of records, in the order in which they are read: each needs those before it to be judged.
pub(super) const KINDS: [&str; 4] = ["hosts/", "networks/", "addresses/", "members/"];

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => write!(f, "hosts/{name}"),
            Self::Network(name) => write!(f, "networks/{name}"),
            Self::Member(vni, mac) => write!(f, "members/{vni}/{mac}"),
            Self::Address(network, ip) => write!(f, "addresses/{network}/{ip}"),
            Self::Config => f.write_str("config"),
            Self::Subnet(subnet) => write!(f, "subnets/{}-{}", subnet.addr(), subnet.prefix_len()),
        }
    }
}

/// What stands at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Host { name: String, vtep: IpAddr },
    Network(NetworkRecord),
    Member { host: String, member: Member },
    Address(Owner),
    Config(flannel::Network),
    Lease(flannel::Lease),
}

impl Record {
    /// The host whose it is; networks are nobody's.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Host { name: host, .. } | Self::Member { host, .. } | Self::Address(Owner { host, .. }) => {
                Some(host)
            }
            Self::Network(_) | Self::Config(_) | Self::Lease(_) => None,
        }
    }
}

/// Why a record is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("no record is at such a key")]
    Key,
    #[error("the key is not written as we write it: `{0}`")]
    Spelling(String),
    #[error("its value has {0} bytes, more than {MAX_VALUE}")]
    Size(usize),
    #[error("its value is no such record: {0}")]
    Json(String),
    #[error("a name is 1 to 63 letters, digits, `_`, `.` and `-`, and starts with a letter or digit")]
    Name,
    #[error("a VNI is 1 to {MAX_VNI}")]
    Vni,
    #[error("{0} is no address that a host can have on the underlay")]
    Vtep(IpAddr),
    #[error("{0} is not a MAC that an interface can have")]
    Mac(MacAddr),
    #[error("{0} is no address that a host can have in a network")]
    Ip(IpAddr),
    #[error("more than {MAX_EACH} {0}")]
    Many(&'static str),
    #[error("{0} has host bits, or is no network of hosts")]
    Subnet(IpNet),
    #[error("its gateway {0} is not in its subnet")]
    Gateway(IpAddr),
    #[error("it is of a host with IPv6 as well: only IPv4 of flannel is spoken here")]
    DualStack,
    #[error("an MTU is 68 to 65521, with `subnet6` at least 1280")]
    Mtu,
}

#[derive(Serialize, Deserialize)]
struct HostValue {
    vtep: IpAddr,
}

#[derive(Serialize, Deserialize)]
struct MemberValue {
    host: String,
    #[serde(default)]
    ips: Vec<IpAddr>,
    #[serde(default)]
    names: Vec<String>,
}

/// Judges what stands at a key, without the prefix and the version.
pub(super) fn parse(key: &[u8], value: &[u8]) -> Result<(Key, Record), Refusal> {
    let at = parse_key(key)?;
    let record = parse_value(&at, value)?;
    Ok((at, record))
}

/// Judges what stands at a key that is one.
pub(super) fn parse_value(at: &Key, value: &[u8]) -> Result<Record, Refusal> {
    if value.len() > MAX_VALUE {
        return Err(Refusal::Size(value.len()));
    }
    let record = match at {
        Key::Host(name) => {
            let HostValue { vtep } = json(value)?;
            check_vtep(vtep)?;
            Record::Host { name: name.clone(), vtep }
        }
        Key::Network(name) => {
            let network = NetworkRecord { name: name.clone(), ..json(value)? };
            check_network(&network)?;
            Record::Network(network)
        }
        Key::Member(vni, mac) => {
            let MemberValue { host, ips, names } = json(value)?;
            let member = Member { vni: *vni, mac: *mac, ips, names };
            check_member(&host, &member)?;
            Record::Member { host, member }
        }
        Key::Address(..) => {
            let owner: Owner = json(value)?;
            check_name(&owner.host)?;
            check_name(&owner.container)?;
            check_interface(&owner.interface)?;
            Record::Address(owner)
        }
        Key::Config | Key::Subnet(_) => return Err(Refusal::Key),
    };
    Ok(record)
}

/// The key, if it is spelled as we spell it: otherwise one thing could stand at two keys.
pub(super) fn parse_key(key: &[u8]) -> Result<Key, Refusal> {
    let text = std::str::from_utf8(key).map_err(|_| Refusal::Key)?;
    let (kind, rest) = text.split_once('/').ok_or(Refusal::Key)?;
    let two = || rest.split_once('/').ok_or(Refusal::Key);
    let at = match kind {
        "hosts" => Key::Host(name(rest)?),
        "networks" => Key::Network(name(rest)?),
        "members" => {
            let (vni, mac) = two()?;
            let vni = vni.parse().ok().filter(|vni| (1..=MAX_VNI).contains(vni)).ok_or(Refusal::Vni)?;
            let mac = mac.parse().map_err(|_| Refusal::Key)?;
            check_mac(mac)?;
            Key::Member(vni, mac)
        }
        "addresses" => {
            let (network, ip) = two()?;
            let ip = ip.parse().map_err(|_| Refusal::Key)?;
            check_ip(ip)?;
            Key::Address(name(network)?, ip)
        }
        _ => return Err(Refusal::Key),
    };
    let ours = at.to_string();
    if ours == text { Ok(at) } else { Err(Refusal::Spelling(ours)) }
}

pub(super) fn json<'v, T: Deserialize<'v>>(value: &'v [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(value).map_err(|error| Refusal::Json(clip(&error.to_string())))
}

/// What may be in a name.
pub(super) fn in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

// As the configuration has it: names become host names, and parts of keys.
fn check_name(text: &str) -> Result<(), Refusal> {
    let fits = (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(in_name);
    if fits { Ok(()) } else { Err(Refusal::Name) }
}

fn name(text: &str) -> Result<String, Refusal> {
    check_name(text).map(|()| text.to_owned())
}

// It is only shown: no more than a kernel's name is.
fn check_interface(text: &str) -> Result<(), Refusal> {
    let fits = (1..=15).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic());
    if fits { Ok(()) } else { Err(Refusal::Name) }
}

pub(super) fn check_vtep(vtep: IpAddr) -> Result<(), Refusal> {
    let wrong = match vtep {
        // RFC 1122 section 3.2.1.3.
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first == 0 || first >= 240 || v4.is_multicast()
        }
        // RFC 4291 section 2.5; RFC 4007 section 6: link-local ones say nothing without an interface.
        IpAddr::V6(v6) => {
            v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.to_ipv4_mapped().is_some()
        }
    };
    if wrong { Err(Refusal::Vtep(vtep)) } else { Ok(()) }
}

pub(super) fn check_mac(mac: MacAddr) -> Result<(), Refusal> {
    if mac.is_group() || mac == MacAddr::ZERO { Err(Refusal::Mac(mac)) } else { Ok(()) }
}

fn check_ip(ip: IpAddr) -> Result<(), Refusal> {
    if ip.is_loopback() { Err(Refusal::Ip(ip)) } else { check_vtep(ip).map_err(|_| Refusal::Ip(ip)) }
}

fn check_member(host: &str, member: &Member) -> Result<(), Refusal> {
    check_name(host)?;
    if member.ips.len() > MAX_EACH {
        return Err(Refusal::Many("addresses"));
    }
    if member.names.len() > MAX_EACH {
        return Err(Refusal::Many("names"));
    }
    member.ips.iter().try_for_each(|ip| check_ip(*ip))?;
    member.names.iter().try_for_each(|name| check_name(name))
}

fn check_network(network: &NetworkRecord) -> Result<(), Refusal> {
    if !(1..=MAX_VNI).contains(&network.vni) {
        return Err(Refusal::Vni);
    }
    check_subnet(network.subnet.map(IpNet::V4))?;
    check_subnet(network.subnet6.map(IpNet::V6))?;
    let within = |gateway: Option<IpAddr>, subnet: Option<IpNet>| match gateway {
        Some(gateway) if !subnet.is_some_and(|subnet| subnet.contains(&gateway)) => {
            Err(Refusal::Gateway(gateway))
        }
        _ => Ok(()),
    };
    within(network.gateway.map(IpAddr::V4), network.subnet.map(IpNet::V4))?;
    within(network.gateway6.map(IpAddr::V6), network.subnet6.map(IpNet::V6))?;
    network.gateway_mac.map_or(Ok(()), check_mac)?;
    let least = if network.subnet6.is_some() { 1280 } else { 68 };
    match network.mtu {
        Some(mtu) if !(least..=65_521).contains(&mtu) => Err(Refusal::Mtu),
        _ => Ok(()),
    }
}

// As the configuration has it.
pub(super) fn check_subnet(subnet: Option<IpNet>) -> Result<(), Refusal> {
    let Some(subnet) = subnet else { return Ok(()) };
    let long = match subnet {
        IpNet::V4(v4) => v4.prefix_len() == 32 || v4.prefix_len() < 4,
        IpNet::V6(v6) => v6.prefix_len() == 128 || v6.prefix_len() < 32,
    };
    let special = SPECIAL4.iter().any(|it| overlap(IpNet::V4(*it), subnet))
        || SPECIAL6.iter().any(|it| overlap(IpNet::V6(*it), subnet));
    if long || special || subnet != subnet.trunc() { Err(Refusal::Subnet(subnet)) } else { Ok(()) }
}

const SPECIAL4: [Ipv4Net; 3] = [v4([0, 0, 0, 0], 8), v4([127, 0, 0, 0], 8), v4([224, 0, 0, 0], 3)];
const SPECIAL6: [Ipv6Net; 3] = [v6(0, 8), v6(0xfe80, 10), v6(0xff00, 8)];

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(std::net::Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(first: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(std::net::Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length)
}

/// Whether two prefixes have an address in common.
pub(super) fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// The value of a record.
pub(super) fn value(record: &Record) -> Vec<u8> {
    match record {
        Record::Host { vtep, .. } => host(*vtep),
        Record::Network(it) => network(it),
        Record::Member { host, member: it } => member(host, it),
        Record::Address(it) => owner(it),
        Record::Lease(lease) => flannel::value(lease),
        // It is not ours to write.
        Record::Config(_) => Vec::new(),
    }
}

/// The value of our own record.
pub(super) fn host(vtep: IpAddr) -> Vec<u8> {
    text(&HostValue { vtep })
}

/// The value of a network's record.
pub(super) fn network(network: &NetworkRecord) -> Vec<u8> {
    text(network)
}

/// The value of a member's record.
pub(super) fn member(host: &str, member: &Member) -> Vec<u8> {
    let Member { ips, names, .. } = member.clone();
    text(&MemberValue { host: host.to_owned(), ips, names })
}

/// The value of an address's record.
pub(super) fn owner(owner: &Owner) -> Vec<u8> {
    text(owner)
}

pub(super) fn text<T: Serialize>(value: &T) -> Vec<u8> {
    // Texts, numbers and addresses have always a JSON form; an empty value would be refused by everyone.
    serde_json::to_vec(value).unwrap_or_default()
}

pub(super) const fn yes() -> bool {
    true
}

/// A MAC as text, or nothing.
pub(super) mod optional_text {
    use super::{Deserialize, Deserializer, MacAddr, Serializer};

    pub fn serialize<S: Serializer>(mac: &Option<MacAddr>, serializer: S) -> Result<S::Ok, S::Error> {
        match mac {
            Some(mac) => serializer.collect_str(mac),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MacAddr>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }
}
