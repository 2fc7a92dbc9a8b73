//! From tables to values, each right by itself; what they mean together is `resolve`'s.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use ipnet::IpNet;
use switch::mac::MacAddr;
use toml::de::DeTable;

use super::aliases::alias;
use super::cluster::{self, Mode, RawCluster};
use super::family::PerFamily;
use super::limits;
use super::model::{Daemon, Network, Uplink};
use super::overlay::{self, Places, RawVxlan};
use super::problem::{Problem, What};
use super::report::{At, Reporter};
use super::schema::{
    CLUSTER, CONTAINER, DAEMON, INTERFACE, LIMITS, NETWORK, ROOT, ROUTE, Section, TIMEOUTS, UPLINK, VXLAN,
};
use super::uplink::{self, RawOutside};
use super::value::Number;
use super::vlan::{Vlans, vid};
use super::{Egress, Paths, Publish, egress, value, value6};
use crate::wire::NetnsRef;

/// The key is there and wrong, and that has been reported: what depends on it is not worth a second message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reported;

/// What a key says, if it says something.
pub(super) type Setting<T> = Result<Option<At<T>>, Reported>;

/// The whole file.
#[derive(Debug)]
pub(super) struct Raw {
    pub daemon: Daemon,
    pub outside: Option<RawOutside>,
    pub vxlan: Option<RawVxlan>,
    pub cluster: Option<RawCluster>,
    pub networks: Vec<RawNetwork>,
    pub containers: Vec<RawContainer>,
    pub routes: Vec<RawRoute>,
}

/// `[[network]]`.
#[derive(Debug)]
pub(super) struct RawNetwork {
    /// As written, right or wrong, so that interfaces can refer to it.
    pub name: Option<At<String>>,
    /// All but the gateways, the host's address and where it routes to.
    pub network: Network,
    /// Where its subnets are written.
    pub subnets: PerFamily<Option<Range<usize>>>,
    pub gateways: PerFamily<Option<At<IpAddr>>>,
    pub gateway_mac: Option<At<MacAddr>>,
    pub host_address: Option<At<Ipv4Addr>>,
    /// Where it says that it has DHCP.
    pub dhcp: Option<Range<usize>>,
    /// The names, or `None` within: all.
    pub routes_to: Option<At<Option<Vec<At<String>>>>>,
    /// Where it says that it is not masqueraded.
    pub plain: Option<Range<usize>>,
    pub overlay: Places,
    /// Whether addresses in it can be judged: its subnets and gateways are not wrong.
    pub sound: bool,
    pub span: Range<usize>,
}

/// `[[container]]`.
#[derive(Debug)]
pub(super) struct RawContainer {
    pub name: Setting<String>,
    pub netns: Setting<NetnsRef>,
    pub create: Option<At<bool>>,
    pub command: Vec<String>,
    pub egress: Vec<Egress>,
    pub interfaces: Vec<RawInterface>,
    pub span: Range<usize>,
}

/// `[[container.interface]]`.
#[derive(Debug)]
pub(super) struct RawInterface {
    pub network: Option<At<String>>,
    pub name: Setting<String>,
    pub ips: PerFamily<Setting<IpAddr>>,
    pub mac: Setting<MacAddr>,
    /// Those that are right.
    pub aliases: Vec<At<String>>,
    /// Without those that are wrong by themselves.
    pub publish: Vec<At<Publish>>,
    pub vlans: Vlans,
    pub isolated: bool,
    pub span: Range<usize>,
}

/// `[[route]]`.
#[derive(Debug)]
pub(super) struct RawRoute {
    pub network: Option<At<String>>,
    pub destination: Setting<IpNet>,
    /// Those that are right, and whether all are.
    pub via: (Vec<At<IpAddr>>, bool),
    pub mtu: Option<At<Number>>,
    pub span: Range<usize>,
}

/// Reads every key of the file.
pub(super) fn load(table: &DeTable<'_>, paths: &Paths, reporter: &mut Reporter<'_>) -> Raw {
    let root = Section::open(&ROOT, table, 0..0, reporter);
    let mut settings = Daemon::new(paths);
    let given = root.sections("daemon", &DAEMON, reporter);
    match given.first() {
        Some(section) => daemon(section, &mut settings, reporter),
        None => default_socket(&settings, reporter),
    }
    let mut outside = None;
    for section in root.sections("uplink", &UPLINK, reporter) {
        let kind = setting(&section, "kind", reporter, value::uplink);
        let known = kind.is_ok();
        fill(&mut settings.uplink, kind);
        host_loopback(&section, &mut settings, reporter);
        // Which keys belong there is anybody's guess where the kind is wrong.
        if known {
            outside = uplink::load(&section, settings.uplink, reporter);
        }
    }
    let uplink = settings.uplink;
    for section in root.sections("limits", &LIMITS, reporter) {
        limits::limits(&section, &mut settings, outside.as_mut(), reporter);
    }
    for section in root.sections("timeouts", &TIMEOUTS, reporter) {
        limits::timeouts(&section, uplink, outside.as_mut(), reporter);
    }
    let vxlan = root.sections("vxlan", &VXLAN, reporter);
    let clusters = root.sections("cluster", &CLUSTER, reporter);
    let networks = root.sections("network", &NETWORK, reporter);
    let containers = root.sections("container", &CONTAINER, reporter);
    let routes = root.sections("route", &ROUTE, reporter);
    let cluster = clusters.first().map(|section| cluster::load(section, !vxlan.is_empty(), reporter));
    let mode = cluster.as_ref().map_or(Mode::Native, |raw| raw.cluster.mode);
    Raw {
        daemon: settings,
        outside,
        vxlan: vxlan.first().map(|section| overlay::load(section, mode, reporter)),
        cluster,
        networks: networks.iter().map(|section| network(section, uplink, reporter)).collect(),
        containers: containers.iter().map(|section| container(section, reporter)).collect(),
        routes: routes.iter().map(|section| route(section, reporter)).collect(),
    }
}

fn host_loopback(section: &Section<'_>, settings: &mut Daemon, reporter: &mut Reporter<'_>) {
    let Some(At { value, span }) = section.flag("host_loopback") else { return };
    if value && settings.uplink != Uplink::Sockets {
        let why = "it needs `kind = \"sockets\"`: by no other uplink containers reach the host's loopback";
        reporter.add(&span, || Problem::Invalid {
            key: "host_loopback",
            found: "true".into(),
            why: why.into(),
        });
    }
    settings.host_loopback = value;
}

// A text, checked by itself.
pub(super) fn setting<T>(
    section: &Section<'_>,
    key: &'static str,
    reporter: &mut Reporter<'_>,
    check: impl FnOnce(&str) -> Result<T, Problem>,
) -> Setting<T> {
    match section.text(key) {
        None if section.has(key) => Err(Reported),
        None => Ok(None),
        Some(At { value, span }) => match reporter.check(&span, check(value)) {
            Some(value) => Ok(Some(At { value, span })),
            None => Err(Reported),
        },
    }
}

// An address of each family, by their keys.
pub(super) fn addresses(
    section: &Section<'_>,
    [key, key6]: [&'static str; 2],
    reporter: &mut Reporter<'_>,
) -> PerFamily<Setting<IpAddr>> {
    PerFamily {
        v4: setting(section, key, reporter, |text| value::address(key, text).map(IpAddr::V4)),
        v6: setting(section, key6, reporter, |text| value6::address6(key6, text).map(IpAddr::V6)),
    }
}

// Into a field that has its default already.
pub(super) fn fill<T>(field: &mut T, setting: Setting<T>) {
    if let Ok(Some(at)) = setting {
        *field = at.value;
    }
}

fn daemon(section: &Section<'_>, daemon: &mut Daemon, reporter: &mut Reporter<'_>) {
    let control = setting(section, "control", reporter, value::socket_path);
    if control == Ok(None) {
        default_socket(daemon, reporter);
    }
    fill(&mut daemon.control, control);
    let state = setting(section, "state", reporter, value::folder_path);
    if let Ok(Some(At { value: state, span })) = &state
        && daemon.control == *state
    {
        let why = "it is the control socket's path too: a folder and a socket cannot be one";
        reporter.add(span, || Problem::invalid("state", &state.display().to_string(), why));
    }
    fill(&mut daemon.state, state);
    fill(&mut daemon.io, setting(section, "io", reporter, value::io));
    match section.number("workers") {
        Some(at) => {
            if let Some(workers) = reporter.check(&at.span, value::worker_count(&at.value)) {
                daemon.workers = workers;
            }
        }
        None => fill(&mut daemon.workers, setting(section, "workers", reporter, value::workers)),
    }
}

// A long $XDG_RUNTIME_DIR can make the default path too long for the kernel.
fn default_socket(daemon: &Daemon, reporter: &mut Reporter<'_>) {
    if let Some(path) = daemon.control.to_str() {
        reporter.check(&(0..0), value::socket_path(path));
    }
}

fn network(section: &Section<'_>, uplink: Uplink, reporter: &mut Reporter<'_>) -> RawNetwork {
    section.require("name", reporter);
    let name = section.text("name").map(|at| at.map(str::to_owned));
    setting(section, "name", reporter, |text| value::name(What::Network, text)).ok();
    let mut network = Network::with_defaults(name.as_ref().map_or("", |at| &at.value));
    let subnet = setting(section, "subnet", reporter, value::subnet);
    let subnet6 = setting(section, "subnet6", reporter, value6::subnet6);
    let gateways = addresses(section, ["gateway", "gateway6"], reporter);
    let gateway_mac = setting(section, "gateway_mac", reporter, |text| value::mac("gateway_mac", text));
    let host_address =
        setting(section, "host_address", reporter, |text| value::address("host_address", text));
    let sound = subnet.is_ok() && subnet6.is_ok() && gateways.v4.is_ok() && gateways.v6.is_ok();
    let (subnet, subnet6) = (subnet.unwrap_or_default(), subnet6.unwrap_or_default());
    network.subnet = subnet.as_ref().map(|at| at.value);
    network.subnet6 = subnet6.as_ref().map(|at| at.value);
    numbers(section, &mut network, reporter);
    if let Some(icc) = section.flag("icc") {
        network.icc = icc.value;
    }
    fill(&mut network.spoof, setting(section, "spoof", reporter, value::spoof));
    if let Some(internal) = section.flag("internal") {
        network.internal = internal.value;
    }
    let vlan = section.number("vlan");
    network.vlan = vlan.and_then(|at| reporter.check(&at.span, vid("vlan", &at.value)));
    network.transparent = section.flag("transparent").is_some_and(|at| at.value);
    network.snooping = section.flag("snooping").is_some_and(|at| at.value);
    let dhcp = section.flag("dhcp").filter(|at| at.value).map(|at| at.span);
    network.dhcp = dhcp.is_some();
    let plain = nat(section, &mut network, uplink, reporter);
    RawNetwork {
        name,
        network,
        subnets: PerFamily { v4: subnet.map(|at| at.span), v6: subnet6.map(|at| at.span) },
        gateways: PerFamily { v4: gateways.v4.unwrap_or_default(), v6: gateways.v6.unwrap_or_default() },
        gateway_mac: gateway_mac.unwrap_or_default(),
        host_address: host_address.unwrap_or_default(),
        dhcp,
        routes_to: section.texts_or_all("routes_to"),
        plain,
        overlay: Places::of(section),
        sound,
        span: section.span.clone(),
    }
}

fn numbers(section: &Section<'_>, network: &mut Network, reporter: &mut Reporter<'_>) {
    let vni = section.number("vni");
    network.vni = vni.and_then(|at| reporter.check(&at.span, overlay::vni(&at.value)));
    if let Some(at) = section.number("mtu")
        && let Some(mtu) = reporter.check(&at.span, value::mtu(&at.value))
    {
        network.mtu = mtu;
        network.mtu_named = network.vni.is_some();
        if network.subnet6.is_some() {
            reporter.check(&at.span, value6::mtu6(mtu));
        }
    }
    let fields = [
        ("ageing", value::AGEING, &mut network.ageing),
        ("fdb_limit", value::FDB_LIMIT, &mut network.fdb_limit),
        ("storm", value::STORM, &mut network.storm),
    ];
    for (key, bounds, field) in fields {
        if let Some(at) = section.number(key)
            && let Some(number) = reporter.check(&at.span, bounds.check(&at.value))
        {
            *field = number;
        }
    }
}

// What leaves as a socket of the host has the host's address; saying so is right, the contrary is for other uplinks.
fn nat(
    section: &Section<'_>,
    network: &mut Network,
    uplink: Uplink,
    reporter: &mut Reporter<'_>,
) -> Option<Range<usize>> {
    let (nat, nat6) = (section.flag("nat"), section.flag("nat6"));
    network.nat = nat.as_ref().is_none_or(|at| at.value);
    network.nat6 = nat6.as_ref().map_or(network.nat, |at| at.value);
    let mut plain = None;
    for (key, at) in [("nat", nat), ("nat6", nat6)] {
        let Some(At { value: false, span }) = at else { continue };
        if uplink == Uplink::Sockets {
            reporter.add(&span, || Problem::not_by_sockets(key));
        }
        plain = plain.or(Some(span));
    }
    plain
}

fn route(section: &Section<'_>, reporter: &mut Reporter<'_>) -> RawRoute {
    for key in ["network", "destination", "via"] {
        section.require(key, reporter);
    }
    RawRoute {
        network: section.text("network").map(|at| at.map(str::to_owned)),
        destination: setting(section, "destination", reporter, value6::destination),
        via: via(section, reporter),
        mtu: section.number("mtu"),
        span: section.span.clone(),
    }
}

fn via(section: &Section<'_>, reporter: &mut Reporter<'_>) -> (Vec<At<IpAddr>>, bool) {
    let written = section.some_texts("via");
    let count = written.len();
    if let (true, Some(place)) = (count == 0, section.place_of_array("via")) {
        let why = "a route needs a router: name one, or leave the whole route out";
        reporter.add(&place, || Problem::Invalid { key: "via", found: "[]".into(), why: why.into() });
    }
    let right = |at: At<&str>| {
        let value = reporter.check(&at.span, value6::either("via", at.value))?;
        Some(At { value, span: at.span })
    };
    let hops: Vec<_> = written.into_iter().filter_map(right).collect();
    let all = hops.len() == count && count > 0;
    (hops, all)
}

fn container(section: &Section<'_>, reporter: &mut Reporter<'_>) -> RawContainer {
    section.require("name", reporter);
    let command = section
        .texts("command")
        .and_then(|at| reporter.check(&at.span, value::command(at.value)))
        .unwrap_or_default();
    let interfaces = section.sections("interface", &INTERFACE, reporter);
    RawContainer {
        name: setting(section, "name", reporter, |text| value::name(What::Container, text)),
        netns: setting(section, "netns", reporter, str::parse),
        create: section.flag("create"),
        command,
        egress: egress::rules(&section.texts_at("egress"), reporter),
        interfaces: interfaces.iter().map(|section| interface(section, reporter)).collect(),
        span: section.span.clone(),
    }
}

fn interface(section: &Section<'_>, reporter: &mut Reporter<'_>) -> RawInterface {
    section.require("network", reporter);
    RawInterface {
        network: section.text("network").map(|at| at.map(str::to_owned)),
        name: setting(section, "name", reporter, value::interface_name),
        ips: addresses(section, ["ip", "ip6"], reporter),
        mac: setting(section, "mac", reporter, |text| value::mac("mac", text)),
        aliases: names(section, reporter),
        publish: publish(section, reporter),
        vlans: Vlans::of(section, reporter),
        isolated: section.flag("isolated").is_some_and(|at| at.value),
        span: section.span.clone(),
    }
}

fn names(section: &Section<'_>, reporter: &mut Reporter<'_>) -> Vec<At<String>> {
    let entries = section.texts_at("aliases").into_iter();
    let checked =
        entries.map(|At { value, span }| reporter.check(&span, alias(value)).map(|value| At { value, span }));
    checked.flatten().collect()
}

fn publish(section: &Section<'_>, reporter: &mut Reporter<'_>) -> Vec<At<Publish>> {
    let entries = section.texts_at("publish").into_iter();
    let checked = entries
        .map(|At { value, span }| reporter.check(&span, value.parse()).map(|value| At { value, span }));
    checked.flatten().collect()
}
