//! `[uplink]` of a kind that takes packets: from keys to [`Outside`], and what networks may be beside it.

use std::net::IpAddr;
use std::ops::Range;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Family;
use super::family::PerFamily;
use super::load::{Setting, addresses, fill, setting};
use super::model::{Network, Uplink, mac_from_address};
use super::outside::{Device, Filtering, Limits, Outside, Timeouts, UPLINK};
use super::problem::{Place, Problem};
use super::registry::hosts;
use super::report::{At, Reporter};
use super::resolve::Facts;
use super::schema::Section;
use super::value::{self, overlap};
use super::value6;
use super::vlan::vid;
use super::zones::overlapping;
use crate::wire::NetnsRef;

/// Most addresses of ours of one family: for each there are tables of l4 ports.
const MAX_ADDRESSES: usize = 4;

/// Keys that not every kind has, and the kinds that have them.
const OF_KINDS: [(&str, &[&str]); 14] = [
    ("netns", &["tap"]),
    ("name", &["tap"]),
    ("host", &["tap"]),
    ("host6", &["tap"]),
    ("device", &["nic"]),
    ("vlan", &["nic"]),
    ("address", &["tap", "nic"]),
    ("address6", &["tap", "nic"]),
    ("gateway", &["tap", "nic"]),
    ("gateway6", &["tap", "nic"]),
    ("mac", &["tap", "nic"]),
    ("mtu", &["tap", "nic"]),
    ("filtering", &["tap", "nic"]),
    ("parity", &["tap", "nic"]),
];

/// An uplink that takes packets, as far as it can be judged by itself.
#[derive(Debug)]
pub(super) struct RawOutside {
    pub(super) outside: Outside,
    /// Where its addresses are written.
    spans: PerFamily<Option<Range<usize>>>,
    /// What it says of its addresses is not wrong.
    sound: bool,
}

pub(super) const fn word(kind: Uplink) -> &'static str {
    match kind {
        Uplink::None => "none",
        Uplink::Sockets => "sockets",
        Uplink::Tap => "tap",
        Uplink::Nic => "nic",
    }
}

/// The keys of `[uplink]` beside `kind` and `host_loopback`.
pub(super) fn load(section: &Section<'_>, kind: Uplink, reporter: &mut Reporter<'_>) -> Option<RawOutside> {
    for (key, kinds) in OF_KINDS {
        if let Some(span) = section.place(key).filter(|_| !kinds.contains(&word(kind))) {
            reporter.add(&span, || Problem::OtherKind { key, kinds, kind: word(kind) });
        }
    }
    if !kind.takes_packets() {
        return None;
    }
    let (v4, v6) =
        (ours::<Ipv4Net>(section, "address", reporter), ours::<Ipv6Net>(section, "address6", reporter));
    if !section.has("address") && !section.has("address6") {
        let example =
            "`address = \"198.18.0.10/24\"`, or `address6`: what leaves has it, and answers come to it";
        reporter.add(&section.span, || Problem::Missing { section: "[uplink]", key: "address", example });
    }
    let sound = v4.is_ok() && v6.is_ok();
    let (v4, v6) = (v4.ok().flatten(), v6.ok().flatten());
    let mac = setting(section, "mac", reporter, |text| value::mac("mac", text)).ok().flatten();
    let first = v4.as_ref().and_then(|at| at.value.first()).map(|net| IpAddr::V4(net.addr()));
    let first = first.or(v6.as_ref().and_then(|at| at.value.first()).map(|net| IpAddr::V6(net.addr())));
    let mut outside = Outside {
        device: device(section, kind, reporter),
        addresses: v4.iter().flat_map(|at| at.value.iter().map(Ipv4Net::addr)).collect(),
        subnet: v4.as_ref().and_then(|at| at.value.first()).map(Ipv4Net::trunc),
        addresses6: v6.iter().flat_map(|at| at.value.iter().map(Ipv6Net::addr)).collect(),
        subnet6: v6.as_ref().and_then(|at| at.value.first()).map(Ipv6Net::trunc),
        gateway: None,
        gateway6: None,
        mac: mac.map_or_else(|| first.map(mac_from_address).unwrap_or_default(), |at| at.value),
        mtu: (kind == Uplink::Tap).then_some(1500),
        vlan: None,
        filtering: Filtering::Address,
        parity: section.flag("parity").is_some_and(|at| at.value),
        limits: Limits::default(),
        timeouts: Timeouts::default(),
    };
    if let Some(mtu) = section.number("mtu").and_then(|at| reporter.check(&at.span, mtu(section, &at.value)))
    {
        outside.mtu = Some(mtu);
    }
    if let Some(at) = section.number("vlan") {
        outside.vlan = reporter.check(&at.span, vid("vlan", &at.value));
    }
    let choices = [
        ("endpoint", Filtering::Endpoint),
        ("address", Filtering::Address),
        ("address_port", Filtering::AddressPort),
    ];
    let filtering =
        setting(section, "filtering", reporter, |text| value::choice("filtering", text, &choices));
    fill(&mut outside.filtering, filtering);
    if sound {
        far_side(section, &mut outside, reporter);
        gateways(section, &mut outside, reporter);
    }
    let spans = PerFamily { v4: v4.map(|at| at.span), v6: v6.map(|at| at.span) };
    Some(RawOutside { outside, spans, sound })
}

fn mtu(section: &Section<'_>, number: &value::Number) -> Result<u16, Problem> {
    let mtu = value::mtu(number)?;
    if section.has("address6") {
        value6::mtu6(mtu)?;
    }
    Ok(mtu)
}

fn device(section: &Section<'_>, kind: Uplink, reporter: &mut Reporter<'_>) -> Device {
    if kind == Uplink::Nic {
        section.require("device", reporter);
        let name = setting(section, "device", reporter, |text| of_key("device", value::interface_name(text)));
        return Device::Nic(name.ok().flatten().map(|at| at.value).unwrap_or_default());
    }
    let (mut netns, mut name) = (NetnsRef::Host, "vsw0".to_owned());
    fill(&mut netns, setting(section, "netns", reporter, str::parse));
    fill(&mut name, setting(section, "name", reporter, value::interface_name));
    Device::Tap { netns, name, host: None, host6: None }
}

// The same message about the key that it was written for.
fn of_key<T>(key: &'static str, checked: Result<T, Problem>) -> Result<T, Problem> {
    checked.map_err(|problem| match problem {
        Problem::Invalid { found, why, .. } => Problem::Invalid { key, found, why },
        problem => problem,
    })
}

/// An address of a host with its prefix length, of one family.
trait Placed: Sized + PartialEq {
    fn parse(key: &'static str, text: &str) -> Result<Self, Problem>;
    fn subnet(&self) -> IpNet;
}

impl Placed for Ipv4Net {
    fn parse(key: &'static str, text: &str) -> Result<Self, Problem> {
        let Some((address, length)) = text.split_once('/') else {
            let address = of_key(key, value::address(key, text))?;
            return Err(Problem::invalid(key, text, format!("it lacks a prefix length: \"{address}/24\"")));
        };
        let address = value::address(key, address).map_err(|problem| about(key, text, problem))?;
        let net = length.parse().ok().and_then(|length| Self::new(address, length).ok());
        let net =
            net.ok_or_else(|| Problem::invalid(key, text, "a prefix length is 1 to 31: \"198.18.0.10/24\""))?;
        // What a subnet may not be is no place for an uplink either.
        of_key(key, value::subnet(&net.trunc().to_string())).map_err(|problem| about(key, text, problem))?;
        on_host(key, text, net.into()).map(|()| net)
    }

    fn subnet(&self) -> IpNet {
        self.trunc().into()
    }
}

impl Placed for Ipv6Net {
    fn parse(key: &'static str, text: &str) -> Result<Self, Problem> {
        let Some((address, length)) = text.split_once('/') else {
            let address = value6::address6(key, text)?;
            return Err(Problem::invalid(key, text, format!("it lacks a prefix length: \"{address}/64\"")));
        };
        let address = value6::address6(key, address).map_err(|problem| about(key, text, problem))?;
        let net = length.parse().ok().and_then(|length| Self::new(address, length).ok());
        let net = net
            .ok_or_else(|| Problem::invalid(key, text, "a prefix length is 32 to 127: \"fd00:9::10/64\""))?;
        value6::subnet6(&net.trunc().to_string()).map_err(|problem| about(key, text, problem))?;
        on_host(key, text, net.into()).map(|()| net)
    }

    fn subnet(&self) -> IpNet {
        self.trunc().into()
    }
}

// Why a part of it is wrong, of the whole as it was written.
fn about(key: &'static str, text: &str, problem: Problem) -> Problem {
    match problem {
        Problem::Invalid { why, .. } => Problem::invalid(key, text, why),
        problem => problem,
    }
}

fn on_host(key: &'static str, text: &str, net: IpNet) -> Result<(), Problem> {
    let (first, last) = hosts(&net.trunc());
    if (first..=last).contains(&net.addr()) {
        return Ok(());
    }
    let why = format!("it is an end of {} and nobody's own: hosts are {first} to {last}", net.trunc());
    Err(Problem::invalid(key, text, why))
}

// Our addresses of one family, all in one subnet.
fn ours<N: Placed>(section: &Section<'_>, key: &'static str, reporter: &mut Reporter<'_>) -> Setting<Vec<N>> {
    let Some(span) = section.place(key) else { return Ok(None) };
    let mut all: Vec<N> = Vec::new();
    let mut sound = true;
    for At { value: text, span } in section.some_texts(key) {
        let checked = N::parse(key, text).and_then(|net| another(key, text, net, &all));
        match reporter.check(&span, checked) {
            Some(net) => all.push(net),
            None => sound = false,
        }
    }
    if all.is_empty() && sound {
        let why = "it is empty: write one address at least, or leave it out".into();
        reporter.add(&span, || Problem::Invalid { key, found: "[]".into(), why });
        sound = false;
    }
    if sound { Ok(Some(At { value: all, span })) } else { Err(super::load::Reported) }
}

fn another<N: Placed>(key: &'static str, text: &str, net: N, before: &[N]) -> Result<N, Problem> {
    let why = match before.first() {
        _ if before.contains(&net) => "it is there already: leave one of them out".into(),
        Some(first) if first.subnet() != net.subnet() => {
            format!("the first one is in {}: all are in one subnet", first.subnet())
        }
        _ if before.len() >= MAX_ADDRESSES => format!("more than {MAX_ADDRESSES} addresses of one family"),
        _ => return Ok(net),
    };
    Err(Problem::invalid(key, text, why))
}

// The addresses of the TAP's own interface.
fn far_side(section: &Section<'_>, outside: &mut Outside, reporter: &mut Reporter<'_>) {
    let v4 = setting(section, "host", reporter, |text| {
        let net = Ipv4Net::parse("host", text)?;
        beyond("host", text, net.into(), Family::V4, outside).map(|()| net)
    });
    let v6 = setting(section, "host6", reporter, |text| {
        let net = Ipv6Net::parse("host6", text)?;
        beyond("host6", text, net.into(), Family::V6, outside).map(|()| net)
    });
    if let Device::Tap { host, host6, .. } = &mut outside.device {
        (*host, *host6) = (v4.ok().flatten().map(|at| at.value), v6.ok().flatten().map(|at| at.value));
    }
}

// Somebody else who is on the uplink's subnet.
fn beyond(
    key: &'static str,
    text: &str,
    net: IpNet,
    family: Family,
    outside: &Outside,
) -> Result<(), Problem> {
    let subnet = next_to(key, text, net.addr(), family, outside)?;
    if net.trunc() != subnet {
        let right = IpNet::new(net.addr(), subnet.prefix_len()).unwrap_or(subnet);
        return Err(Problem::invalid(key, text, format!("our subnet is {subnet}: \"{right}\"")));
    }
    Ok(())
}

fn next_to(
    key: &'static str,
    text: &str,
    address: IpAddr,
    family: Family,
    outside: &Outside,
) -> Result<IpNet, Problem> {
    let (subnet, ours) = match family {
        Family::V4 => (outside.subnet.map(IpNet::V4), "address"),
        Family::V6 => (outside.subnet6.map(IpNet::V6), "address6"),
    };
    let why = match subnet {
        None => format!("without `{ours}` we have none to speak to it from: add it"),
        Some(subnet) if !subnet.contains(&address) => format!("it is outside {subnet}, where `{ours}` is"),
        Some(_) if outside.has(address) => format!("it is ours, by `{ours}`: the other side has another"),
        Some(subnet) => return Ok(subnet),
    };
    Err(Problem::invalid(key, text, why))
}

// Next hops: as written, or else the other side of the TAP.
fn gateways(section: &Section<'_>, outside: &mut Outside, reporter: &mut Reporter<'_>) {
    let given = addresses(section, ["gateway", "gateway6"], reporter);
    for family in Family::BOTH {
        let Ok(Some(At { value, span })) = given.get(family) else { continue };
        let (key, text) = (family.gateway_key(), value.to_string());
        let checked = next_to(key, &text, *value, family, outside).and_then(|subnet| {
            let net = IpNet::new(*value, subnet.prefix_len()).unwrap_or(subnet);
            on_host(key, &text, net)
        });
        reporter.check(span, checked);
    }
    let (v4, v6) = (given.v4.unwrap_or_default(), given.v6.unwrap_or_default());
    let (host, host6) = match &outside.device {
        Device::Tap { host, host6, .. } => (*host, *host6),
        Device::Nic(_) => (None, None),
    };
    outside.gateway = match v4.map(|at| at.value) {
        Some(IpAddr::V4(v4)) => Some(v4),
        _ => host.map(|host| host.addr()),
    };
    outside.gateway6 = match v6.map(|at| at.value) {
        Some(IpAddr::V6(v6)) => Some(v6),
        _ => host6.map(|host| host.addr()),
    };
}

/// What the networks of the file may be beside it.
pub(super) fn resolve(
    raw: Option<RawOutside>,
    networks: &[Network],
    facts: &[Facts],
    reporter: &mut Reporter<'_>,
) -> Option<Outside> {
    let RawOutside { outside, spans, sound } = raw?;
    for (index, (network, own)) in networks.iter().zip(facts).enumerate() {
        if network.name == UPLINK {
            reporter.add(&own.named, || Problem::UplinkName);
        }
        let both = Family::BOTH.into_iter().filter(|_| sound && own.sound);
        for family in both.filter(|family| meets(&outside, network, *family)) {
            let place = spans.get(family).as_ref().map_or(Place(None), |span| reporter.source.place(span));
            if let Some(span) = own.subnets.get(family).as_ref() {
                reporter.check(span, beside_of(&outside, network, family, place));
            }
        }
        if let (Some(span), Some(problem)) = (&own.plain, plain(network, networks.iter().take(index))) {
            reporter.add(span, || problem);
        }
    }
    Some(outside)
}

/// Whether a network can be there beside it.
pub(super) fn beside(outside: &Outside, network: &Network, place: Place) -> Result<(), Problem> {
    if network.name == UPLINK {
        return Err(Problem::UplinkName);
    }
    Family::BOTH.into_iter().try_for_each(|family| beside_of(outside, network, family, place))
}

fn where_it_is(outside: &Outside, family: Family) -> Option<IpNet> {
    match family {
        Family::V4 => outside.subnet.map(IpNet::V4),
        Family::V6 => outside.subnet6.map(IpNet::V6),
    }
}

fn meets(outside: &Outside, network: &Network, family: Family) -> bool {
    let both = where_it_is(outside, family).zip(network.subnet_of(family));
    !network.internal && both.is_some_and(|(uplink, subnet)| overlap(&uplink, &subnet))
}

fn beside_of(outside: &Outside, network: &Network, family: Family, place: Place) -> Result<(), Problem> {
    match (where_it_is(outside, family), network.subnet_of(family)) {
        (Some(uplink), Some(subnet)) if meets(outside, network, family) => {
            Err(Problem::UplinkOverlap { network: network.name.clone(), subnet, uplink, place })
        }
        _ => Ok(()),
    }
}

// Networks that leave with their own addresses are told apart by these.
pub(super) fn plain<'n>(this: &Network, mut others: impl Iterator<Item = &'n Network>) -> Option<Problem> {
    let leaves = |network: &Network, family| {
        !network.internal && !(if family == Family::V4 { network.nat } else { network.nat6 })
    };
    others.find_map(|other| {
        let (family, this_subnet, other_subnet) = overlapping(this, other)?;
        let key = if family == Family::V4 { "nat" } else { "nat6" };
        (leaves(this, family) && leaves(other, family)).then(|| Problem::PlainOverlap {
            key,
            this: this.name.clone(),
            this_subnet,
            other: other.name.clone(),
            other_subnet,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_its_length_is_that_of_a_host() {
        for text in ["198.18.0.10/24", "198.18.0.0/31", "10.0.0.1/8"] {
            assert_eq!(Ipv4Net::parse("address", text).unwrap().to_string(), text);
        }
        for (text, part) in [
            ("198.18.0.10", "\"198.18.0.10/24\""),
            ("198.18.0.0/24", "198.18.0.1 to 198.18.0.254"),
            ("198.18.0.255/24", "198.18.0.1 to 198.18.0.254"),
            ("127.0.0.1/8", "loopback"),
            ("198.18.0.10/32", "/31"),
            ("198.18.0.10/33", "1 to 31"),
            ("fd00::1/64", "`address6 ="),
        ] {
            let said = Ipv4Net::parse("address", text).unwrap_err().to_string();
            assert!(said.contains(part) && said.contains(text), "{text}: {said}");
        }
        assert!(Ipv6Net::parse("address6", "fd00:9::10/64").is_ok());
        for text in ["fd00:9::10", "fd00:9::/64", "fe80::1/64", "::1/128", "198.18.0.1/24", "fd00:9::1/129"] {
            Ipv6Net::parse("address6", text).unwrap_err();
        }
    }

    #[test]
    fn specials_are_no_addresses() {
        Ipv4Net::parse("host", "0.0.0.0/24").unwrap_err();
        Ipv6Net::parse("host6", "::/64").unwrap_err();
    }
}
