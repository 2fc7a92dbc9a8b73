//! What the values mean together: names found, nothing given twice, every interface with its name, address and MAC.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use switch::mac::MacAddr;

use super::family::PerFamily;
use super::load::{Raw, RawContainer, RawNetwork};
use super::model::{Config, Container, Network};
use super::overlay::Places;
use super::plan::{Plan, Port};
use super::problem::{Advice, Problem, What, clip, nearest};
use super::report::{At, Reporter};
use super::{
    Context, Family, MAX_CONTAINERS, MAX_INTERFACES, MAX_NETWORKS, flannel, overlay, routing, uplink,
};
use crate::wire::NetnsRef;

/// Resolves the file. With errors in `reporter` the result means nothing.
pub(super) fn resolve(raw: Raw, context: &Context<'_>, reporter: &mut Reporter<'_>) -> Config {
    let Raw { daemon, outside, mut vxlan, cluster, networks, containers, routes } = raw;
    let vnis = overlay::named(&networks);
    let (mut networks, facts) = resolve_networks(networks, reporter);
    overlay::networks(vxlan.as_ref(), &mut networks, &facts, reporter);
    let statics =
        vxlan.as_mut().map(|raw| raw.statics(&networks, vnis.as_ref(), reporter)).unwrap_or_default();
    let outside = uplink::resolve(outside, &networks, &facts, reporter);
    let (mut containers, ports) = resolve_containers(containers, &facts, reporter);
    let ports = Plan::new((ports, &statics), &mut networks, &facts, &containers, reporter);
    let ports = ports.run(daemon.uplink, outside.as_ref(), context);
    for port in ports {
        if let (Some(container), Some(network)) =
            (containers.get_mut(port.container), networks.get(port.network))
        {
            container.interfaces.push(port.interface(network));
        }
    }
    let routes = routing::resolve(routes, &mut networks, &facts, reporter);
    let known: HashMap<&str, &Network> =
        networks.iter().map(|network| (network.name.as_str(), network)).collect();
    for container in &mut containers {
        default_routes(container, |name, family| way_out(known.get(name)?, family));
    }
    let vxlan = vxlan.map(|raw| raw.with(statics));
    if let Some(vxlan) = &vxlan {
        overlay::beside_legs(vxlan, &networks, &facts, reporter);
    }
    let mode = cluster.as_ref().and_then(|raw| raw.mode.clone());
    let cluster = cluster.map(|raw| raw.cluster);
    let config = Config { daemon, outside, vxlan, cluster, networks, containers, routes };
    if let Some(place) = mode.filter(|_| config.is_flannel() && vnis.is_some()) {
        flannel::network(&config, &facts, &place, reporter);
    }
    config
}

/// Where the default route of a container points that goes by this network, whoever answers there.
pub(super) fn way_out(network: &Network, family: Family) -> Option<IpAddr> {
    network.reserved_of(family).filter(|_| !network.internal)
}

/// Points the default route of each family of a container by the first of its interfaces whose network has a
/// [`way_out`] that is not the container's own address there. A route that stands stays.
pub(super) fn default_routes(container: &mut Container, gateway: impl Fn(&str, Family) -> Option<IpAddr>) {
    for family in Family::BOTH {
        let has = |via: IpAddr| Family::of(via) == family;
        if container.interfaces.iter().any(|interface| interface.default_routes().any(has)) {
            continue;
        }
        let by = container.interfaces.iter_mut().find_map(|interface| {
            let own = interface.ip_of(family)?.addr();
            let via = gateway(&interface.network, family).filter(|via| own != *via)?;
            Some((interface, via))
        });
        match by {
            Some((interface, IpAddr::V4(via))) => interface.default_via = Some(via),
            Some((interface, IpAddr::V6(via))) => interface.default_via6 = Some(via),
            None => {}
        }
    }
}

/// The error for a network nobody knows, with the one that was meant.
pub(super) fn unknown_network<'n>(name: &str, known: impl Iterator<Item = &'n str> + Clone) -> Problem {
    let advice = match nearest(name, known.clone()) {
        Some(near) => Advice::DidYouMean(near.to_owned()),
        None => Advice::Known(known.map(clip).collect()),
    };
    Problem::UnknownNetwork { name: clip(name), advice }
}

/// What the file says of a network beside the network itself.
#[derive(Debug)]
pub(super) struct Facts {
    /// As written, right or wrong.
    pub name: String,
    /// Where its subnets are written.
    pub subnets: PerFamily<Option<Range<usize>>>,
    pub gateways: PerFamily<Option<At<IpAddr>>>,
    pub gateway_mac: Option<At<MacAddr>>,
    pub host_address: Option<At<Ipv4Addr>>,
    /// Where it says that it has DHCP.
    pub dhcp: Option<Range<usize>>,
    pub routes_to: Option<At<Option<Vec<At<String>>>>>,
    /// Where its name is written.
    pub named: Range<usize>,
    /// Where it says that it is not masqueraded.
    pub plain: Option<Range<usize>>,
    pub overlay: Places,
    pub sound: bool,
}

fn resolve_networks(raw: Vec<RawNetwork>, reporter: &mut Reporter<'_>) -> (Vec<Network>, Vec<Facts>) {
    let mut networks = Vec::new();
    let mut facts = Vec::new();
    let mut seen: HashMap<String, Range<usize>> = HashMap::new();
    for raw in raw {
        let RawNetwork {
            name,
            network,
            subnets,
            gateways,
            gateway_mac,
            host_address,
            dhcp,
            routes_to,
            plain,
            overlay,
            sound,
            span,
        } = raw;
        if networks.len() == MAX_NETWORKS {
            reporter.add(&span, || Problem::TooMany { what: What::Network, limit: MAX_NETWORKS });
            break;
        }
        let Some(At { value: name, span }) = name else { continue };
        if duplicate(What::Network, &name, &span, &mut seen, reporter) {
            continue;
        }
        networks.push(network);
        facts.push(Facts {
            name,
            subnets,
            gateways,
            gateway_mac,
            host_address,
            dhcp,
            routes_to,
            named: span,
            plain,
            overlay,
            sound,
        });
    }
    (networks, facts)
}

fn duplicate(
    what: What,
    name: &str,
    span: &Range<usize>,
    seen: &mut HashMap<String, Range<usize>>,
    reporter: &mut Reporter<'_>,
) -> bool {
    if let Some(first) = seen.get(name) {
        let first = reporter.source.place(first);
        reporter.add(span, || Problem::Duplicate { what, name: clip(name), first });
        return true;
    }
    seen.insert(name.to_owned(), span.clone());
    false
}

fn resolve_containers(
    raw: Vec<RawContainer>,
    networks: &[Facts],
    reporter: &mut Reporter<'_>,
) -> (Vec<Container>, Vec<Port>) {
    let index: HashMap<&str, usize> =
        networks.iter().enumerate().map(|(index, facts)| (facts.name.as_str(), index)).collect();
    let mut containers = Vec::new();
    let mut ports = Vec::new();
    let mut seen = HashMap::new();
    for RawContainer { name, netns, create, command, egress, interfaces, span } in raw {
        if containers.len() == MAX_CONTAINERS {
            reporter.add(&span, || Problem::TooMany { what: What::Container, limit: MAX_CONTAINERS });
            break;
        }
        for raw in &interfaces {
            let Some(At { value: name, span }) = &raw.network else { continue };
            if !index.contains_key(name.as_str()) {
                reporter.add(span, || unknown_network(name, networks.iter().map(|f| f.name.as_str())));
            }
        }
        // What a broken container takes is anybody's guess: no collisions are sought in it.
        let Ok(Some(At { value: name, span })) = name else { continue };
        if duplicate(What::Container, &name, &span, &mut seen, reporter) {
            continue;
        }
        let Ok(netns) = netns else { continue };
        let netns = netns.map_or_else(|| NetnsRef::Name(name.clone()), |at| at.value);
        if let Some(At { value: true, span }) = &create
            && !matches!(netns, NetnsRef::Name(_))
        {
            reporter.add(span, || Problem::CreateNeedsName { netns: netns.to_string() });
        }
        for raw in interfaces {
            if ports.len() == MAX_INTERFACES {
                reporter.add(&raw.span, || Problem::TooMany { what: What::Interface, limit: MAX_INTERFACES });
                break;
            }
            let Some(At { value, span }) = raw.network.clone() else { continue };
            let Some(network) = index.get(value.as_str()).copied() else { continue };
            ports.push(Port::new(containers.len(), network, span, raw));
        }
        let create = create.is_some_and(|at| at.value);
        containers.push(Container { name, netns, create, command, egress, interfaces: Vec::new() });
    }
    (containers, ports)
}
