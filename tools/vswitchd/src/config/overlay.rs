//! `[vxlan]`, `[[vxlan.static]]` and `vni`: from keys to [`Vxlan`], and what networks may be on other hosts.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;

use ipnet::IpNet;
use switch::mac::MacAddr;

use super::load::{RawNetwork, fill, setting};
use super::model::Network;
use super::problem::{Owner, Place, Problem, What};
use super::report::{At, Reporter};
use super::resolve::Facts;
use super::schema::{STATIC, Section};
use super::value::{self, Bounds, Number};
use super::vxlan::{StaticMac, UdpGso, Vxlan};
use super::words::list;
use super::{MAX_PEERS, MAX_STATICS, Mode, flannel, value6};

/// The name of a network on the underlay.
const VNI: Bounds = Bounds {
    key: "vni",
    low: 1,
    high: (1 << 24) - 1,
    why: "it has 24 bits (RFC 7348 section 5), and 0 is no network's",
};

/// `[vxlan]`, as far as it can be judged by itself.
#[derive(Debug)]
pub(super) struct RawVxlan {
    /// Without its statics.
    vxlan: Vxlan,
    /// `local` is there and right.
    sound: bool,
    statics: Vec<RawStatic>,
}

/// `[[vxlan.static]]` whose keys are all right by themselves.
#[derive(Debug)]
struct RawStatic {
    vni: At<u32>,
    mac: At<MacAddr>,
    vtep: IpAddr,
    ip: Option<At<IpAddr>>,
}

/// `[[vxlan.static]]` of a network in the file.
#[derive(Debug)]
pub(super) struct Static {
    /// The network's place among the others.
    pub network: usize,
    pub mac: At<MacAddr>,
    pub ip: Option<At<IpAddr>>,
    vni: u32,
    vtep: IpAddr,
}

/// Where a network says what its overlay is.
#[derive(Debug)]
pub(super) struct Places {
    pub vni: Option<Range<usize>>,
    mtu: Option<Range<usize>>,
}

impl Places {
    pub fn of(section: &Section<'_>) -> Self {
        Self { vni: section.place("vni"), mtu: section.place("mtu") }
    }
}

/// `vni` of a network, or of a static entry.
pub(super) fn vni(number: &Number) -> Result<u32, Problem> {
    VNI.check(number)
}

/// `[vxlan]` and its statics.
pub(super) fn load(section: &Section<'_>, mode: Mode, reporter: &mut Reporter<'_>) -> RawVxlan {
    section.require("local", reporter);
    let local = setting(section, "local", reporter, |text| of_host("local", text)).ok().flatten();
    let local = local.map(|at| at.value);
    let mut vxlan = Vxlan::new(local.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
    numbers(section, &mut vxlan, reporter);
    vxlan.peers = peers(section, local, reporter);
    let group = setting(section, "group", reporter, |text| group(text, local));
    vxlan.group = group.ok().flatten().map(|at| at.value);
    let choices = [("auto", UdpGso::Auto), ("on", UdpGso::On), ("off", UdpGso::Off)];
    let gso = setting(section, "udp_gso", reporter, |text| value::choice("udp_gso", text, &choices));
    fill(&mut vxlan.udp_gso, gso);
    for (key, field) in [("strict", &mut vxlan.strict), ("learning", &mut vxlan.learning)] {
        *field = section.flag(key).map_or(*field, |at| at.value);
    }
    if mode == Mode::Flannel {
        flannel::vxlan(section, &mut vxlan, reporter);
    }
    let mut statics = section.sections("static", &STATIC, reporter);
    if let Some(beyond) = statics.get(MAX_STATICS) {
        reporter.add(&beyond.span, || Problem::TooMany { what: What::Static, limit: MAX_STATICS });
        statics.truncate(MAX_STATICS);
    }
    let statics = statics.iter().filter_map(|section| of_static(section, local, reporter)).collect();
    RawVxlan { vxlan, sound: local.is_some(), statics }
}

fn numbers(section: &Section<'_>, vxlan: &mut Vxlan, reporter: &mut Reporter<'_>) {
    let bounds = |key, low, high, why| Bounds { key, low, high, why };
    // What every link of a family takes; the inner packet gets what is left.
    let mtu = if vxlan.local.is_ipv6() {
        bounds("mtu", value6::MTU_MIN.into(), 65_535, "bytes of an IP packet on the underlay, which is IPv6")
    } else {
        bounds("mtu", 576, 65_535, "bytes of an IP packet on the underlay")
    };
    let mut number = |bounds: Bounds| {
        let at = section.number(bounds.key)?;
        let number = reporter.check(&at.span, bounds.check(&at.value))?;
        u16::try_from(number).ok()
    };
    vxlan.mtu = number(mtu);
    let port = number(bounds("port", 1, 65_535, "the l4 port of UDP that all hosts listen on, usually 4789"));
    vxlan.port = port.unwrap_or(vxlan.port);
    let source_ports = number(bounds("source_ports", 1, 64, "a socket each; the usual is 8"));
    vxlan.source_ports = source_ports.unwrap_or(vxlan.source_ports);
}

// All of them that are right.
fn peers(section: &Section<'_>, local: Option<IpAddr>, reporter: &mut Reporter<'_>) -> Vec<IpAddr> {
    let mut peers = Vec::new();
    let mut seen = HashSet::new();
    for At { value: text, span } in section.texts_at("peers") {
        let checked = remote("peers", text, local).and_then(|peer| {
            let twice = || Problem::invalid("peers", text, "it is there already: leave one of them out");
            if seen.insert(peer) { Ok(peer) } else { Err(twice()) }
        });
        let Some(peer) = reporter.check(&span, checked) else { continue };
        if peers.len() == MAX_PEERS {
            reporter.add(&span, || Problem::TooMany { what: What::Peer, limit: MAX_PEERS });
            break;
        }
        peers.push(peer);
    }
    peers
}

fn of_static(section: &Section<'_>, local: Option<IpAddr>, reporter: &mut Reporter<'_>) -> Option<RawStatic> {
    for key in ["vni", "mac", "vtep"] {
        section.require(key, reporter);
    }
    let vni = section.number("vni").and_then(|at| {
        let value = reporter.check(&at.span, vni(&at.value))?;
        Some(At { value, span: at.span })
    });
    let mac = setting(section, "mac", reporter, |text| value::mac("mac", text));
    let vtep = setting(section, "vtep", reporter, |text| remote("vtep", text, local));
    let ip = setting(section, "ip", reporter, |text| value6::either("ip", text));
    // Of an entry that is wrong by itself it is anybody's guess what it takes.
    Some(RawStatic { vni: vni?, mac: mac.ok()??, vtep: vtep.ok()??.value, ip: ip.ok()? })
}

// An address that one host has on the underlay.
fn of_host(key: &'static str, text: &str) -> Result<IpAddr, Problem> {
    let address = address(key, text)?;
    let first = match address {
        IpAddr::V4(v4) => v4.octets().first().copied(),
        IpAddr::V6(_) => None,
    };
    let why = match address {
        // RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.2.
        _ if first == Some(0) || address.is_unspecified() => {
            "it is no address of a host: name the one it has on the underlay"
        }
        _ if address.is_multicast() && key == "peers" => "it is a multicast address: that is `group`",
        _ if address.is_multicast() => "it is a multicast address, which no host has for itself",
        _ if first >= Some(240) => {
            "it is broadcast or reserved: name the one that the host has on the underlay"
        }
        // RFC 4007 section 6: it says nothing without an interface.
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            "it is link-local: name one that is the host's on every link"
        }
        _ => return Ok(address),
    };
    Err(Problem::invalid(key, text, why))
}

fn address(key: &'static str, text: &str) -> Result<IpAddr, Problem> {
    let why = match text.parse() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            let v4 = v6.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED);
            format!("it is IPv4 in another spelling: \"{v4}\"")
        }
        Ok(address) => return Ok(address),
        Err(_) => match (text.parse::<IpNet>(), text.parse::<SocketAddr>()) {
            (Ok(net), _) => {
                format!("an address of the underlay has no prefix length here: \"{}\"", net.addr())
            }
            (_, Ok(socket)) => format!("the l4 port is `port` of [vxlan]: \"{}\"", socket.ip()),
            _ => "expected an address, IPv4 or IPv6, and no name: \"198.18.1.2\"".to_owned(),
        },
    };
    Err(Problem::invalid(key, text, why))
}

// An address of another host; `local` is ours, where that is right.
fn remote(key: &'static str, text: &str, local: Option<IpAddr>) -> Result<IpAddr, Problem> {
    let address = of_host(key, text)?;
    let Some(local) = local else { return Ok(address) };
    same_family(key, text, address, local)?;
    let why = if address == local && key == "vtep" {
        "it is `local`, this host itself: name the host that has this MAC, or leave the entry out"
    } else if address == local {
        "it is `local`, this host itself: leave it out"
    } else if address.is_loopback() && !local.is_loopback() {
        "it is a loopback address, and so this host itself: name the other host's on the underlay"
    } else {
        return Ok(address);
    };
    Err(Problem::invalid(key, text, why))
}

fn group(text: &str, local: Option<IpAddr>) -> Result<IpAddr, Problem> {
    let address = address("group", text)?;
    if let Some(local) = local {
        same_family("group", text, address, local)?;
    }
    if address.is_multicast() {
        return Ok(address);
    }
    let example = if address.is_ipv6() { "ff05::100" } else { "239.1.1.1" };
    Err(Problem::invalid(
        "group",
        text,
        format!("it is no multicast address: hosts are `peers`, a group is \"{example}\""),
    ))
}

fn same_family(key: &'static str, text: &str, address: IpAddr, local: IpAddr) -> Result<(), Problem> {
    if address.is_ipv4() == local.is_ipv4() {
        return Ok(());
    }
    let word = |address: IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let why = format!(
        "it is {}, and `local` = \"{local}\" is {}: one of them is wrong",
        word(address),
        word(local)
    );
    Err(Problem::invalid(key, text, why))
}

/// Every `vni` that the file names; `None` where one of them is wrong, or its network is.
pub(super) fn named(networks: &[RawNetwork]) -> Option<HashSet<u32>> {
    let with = networks.iter().filter(|raw| raw.overlay.vni.is_some());
    with.map(|raw| raw.network.vni).collect()
}

/// The networks of the file with a `vni`, against each other and the underlay, which those that name no MTU get theirs
/// from.
pub(super) fn networks(
    raw: Option<&RawVxlan>,
    networks: &mut [Network],
    facts: &[Facts],
    reporter: &mut Reporter<'_>,
) {
    let mut seen: HashMap<u32, (String, Place)> = HashMap::new();
    for (network, facts) in networks.iter_mut().zip(facts) {
        let (Some(vni), Some(span)) = (network.vni, &facts.overlay.vni) else { continue };
        if let Some((first, place)) = seen.get(&vni) {
            reporter.add(span, || Problem::VniTaken { vni, network: first.clone(), place: *place });
            continue;
        }
        seen.insert(vni, (network.name.clone(), reporter.source.place(span)));
        let Some(raw) = raw else {
            reporter.add(span, || needs_vxlan(vni));
            continue;
        };
        // Of which family the underlay is, and so what it leaves, only a right `local` tells.
        if raw.sound && reporter.check(span, room(&raw.vxlan, network)).is_some() {
            let span = facts.overlay.mtu.as_ref().unwrap_or(span);
            reporter.check(span, fit(&raw.vxlan, network));
        }
    }
}

/// A network made at run time, with a `vni` or without.
pub(super) fn join(vxlan: Option<&Vxlan>, network: &mut Network, others: &[Network]) -> Result<(), Problem> {
    let Some(vni) = network.vni else { return Ok(()) };
    if let Some(first) = others.iter().find(|other| other.vni == Some(vni)) {
        return Err(Problem::VniTaken { vni, network: first.name.clone(), place: Place(None) });
    }
    let vxlan = vxlan.ok_or_else(|| needs_vxlan(vni))?;
    room(vxlan, network)?;
    fit(vxlan, network)
}

fn needs_vxlan(vni: u32) -> Problem {
    let why = "no other host is reached without [vxlan]: add that table to the file, with `local = \"198.18.1.1\"`, this \
               host's address on the underlay";
    Problem::Invalid { key: "vni", found: vni.to_string(), why: why.into() }
}

// Whether what the underlay takes, where the file says it, is enough.
fn room(vxlan: &Vxlan, network: &Network) -> Result<(), Problem> {
    let (Some(underlay), Some(vni)) = (vxlan.mtu.filter(|_| network.subnet6.is_some()), network.vni) else {
        return Ok(());
    };
    let inner = vxlan.inner_mtu(underlay);
    if inner >= value6::MTU_MIN {
        return Ok(());
    }
    let needed = value6::MTU_MIN.saturating_add(underlay.saturating_sub(inner));
    let why = format!(
        "`mtu` = {underlay} in [vxlan] leaves {inner} bytes, and a network with `subnet6` needs 1280 (RFC 8200 section 5): \
         an underlay must take {needed}"
    );
    Err(Problem::Invalid { key: "vni", found: vni.to_string(), why: why.into() })
}

// The MTU that a network names must fit; one that names none gets what fits.
fn fit(vxlan: &Vxlan, network: &mut Network) -> Result<(), Problem> {
    let Some(underlay) = vxlan.mtu.or((!network.mtu_named).then_some(USUAL)) else { return Ok(()) };
    let inner = vxlan.inner_mtu(underlay);
    if !network.mtu_named {
        network.mtu = inner;
    }
    if network.mtu <= inner {
        return Ok(());
    }
    let why = format!(
        "it does not fit: `mtu` = {underlay} in [vxlan] leaves {inner} bytes; say {inner} or less, or leave it out"
    );
    Err(Problem::Invalid { key: "mtu", found: network.mtu.to_string(), why: why.into() })
}

/// MTU of an underlay that nobody has asked yet.
const USUAL: u16 = 1500;

impl RawVxlan {
    /// Its statics, each with its network. `named` is [`named`] of the file.
    pub fn statics(
        &mut self,
        networks: &[Network],
        named: Option<&HashSet<u32>>,
        reporter: &mut Reporter<'_>,
    ) -> Vec<Static> {
        let vnis = networks.iter().enumerate().filter_map(|(index, network)| Some((network.vni?, index)));
        // Of two networks with one `vni` the first one has it.
        let index: HashMap<u32, usize> = vnis.rev().collect();
        let mut statics = Vec::new();
        for RawStatic { vni: At { value: vni, span }, mac, vtep, ip } in std::mem::take(&mut self.statics) {
            match index.get(&vni).copied() {
                Some(network) => statics.push(Static { network, mac, ip, vni, vtep }),
                None if named.is_some_and(|named| !named.contains(&vni)) => {
                    reporter.add(&span, || no_such_vni(vni, networks));
                }
                None => {} // what is wrong with its network has been reported
            }
        }
        statics
    }

    /// The whole of it.
    pub fn with(self, statics: Vec<Static>) -> Vxlan {
        let statics = statics.into_iter().map(|Static { mac, ip, vni, vtep, .. }| StaticMac {
            vni,
            mac: mac.value,
            vtep,
            ip: ip.map(|at| at.value),
        });
        Vxlan { statics: statics.collect(), ..self.vxlan }
    }
}

impl Static {
    /// Who has its addresses.
    pub fn owner(&self, place: Place) -> Owner {
        Owner::remote(self.vtep, place)
    }
}

/// Whether the host would send what is for another host into a tunnel, by a leg of its own there: for ever.
pub(super) fn beside_legs(vxlan: &Vxlan, networks: &[Network], facts: &[Facts], reporter: &mut Reporter<'_>) {
    let remotes: BTreeSet<IpAddr> =
        vxlan.peers.iter().copied().chain(vxlan.statics.iter().map(|entry| entry.vtep)).collect();
    for (network, facts) in networks.iter().zip(facts).filter(|(network, _)| network.vni.is_some()) {
        let (Some(At { span, .. }), Some(ip)) = (&facts.host_address, network.host_address) else { continue };
        let Some(subnet) = network.subnet.map(IpNet::V4) else { continue };
        if let Some(remote) = remotes.range(subnet.network()..=subnet.broadcast()).next() {
            let why = format!(
                "the host would send what is for {remote} of [vxlan] into this network, and so into the tunnel again: \
                 leave it out, or take a subnet without that address"
            );
            reporter.add(span, || Problem::invalid("host_address", &ip.to_string(), why));
        }
    }
}

fn no_such_vni(vni: u32, networks: &[Network]) -> Problem {
    let known: Vec<u32> = networks.iter().filter_map(|network| network.vni).collect();
    let why = if known.is_empty() {
        format!("no network has a `vni`: add `vni = {vni}` to the one that this MAC is in")
    } else {
        format!("no network of the file has it; known: {}", list(&known))
    };
    Problem::Invalid { key: "vni", found: vni.to_string(), why: why.into() }
}
