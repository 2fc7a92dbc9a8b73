//! `[cluster] mode = "flannel"`: what the rest of the file must be like, so that flannel's hosts can reach us.
//!
//! flannel has one network; each host has a subnet of it and routes what is for others to them. Ours is the one network
//! with a `vni`, and its `subnet` is what this host has of flannel's.

use std::net::Ipv4Addr;
use std::ops::Range;

use ipnet::Ipv4Net;
use switch::mac::MacAddr;

use super::Mode;
use super::model::{Config, Network};
use super::problem::Problem;
use super::report::{At, Reporter};
use super::resolve::Facts;
use super::schema::Section;
use super::vxlan::Vxlan;
use super::zones::{Gateway, GatewayBy};

/// What Linux takes where flannel names no l4 port.
pub const PORT: u16 = 8472;
/// A host's subnet has flannel's own address, ours and a container's; its keys have lengths of five bits.
const LONGEST: u8 = 30;

/// This host's part of flannel's network.
#[derive(Debug, Clone, Copy)]
pub struct Part<'c> {
    /// The network.
    pub network: &'c Network,
    /// Its VNI.
    pub vni: u32,
    /// This host's subnet of it.
    pub subnet: Ipv4Net,
    /// The gateway's MAC, which the others send to.
    pub mac: MacAddr,
}

impl Config {
    /// Whether the cluster is flannel's.
    pub fn is_flannel(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.mode == Mode::Flannel)
    }

    /// Whether other hosts have addresses of this network as well, so that each is asked for: a subnet of flannel's is one
    /// host's.
    pub fn is_shared(&self, network: &Network) -> bool {
        network.vni.is_some() && !self.is_flannel()
    }

    /// This host's part of flannel's network, where the cluster is flannel's.
    pub fn flannel(&self) -> Option<Part<'_>> {
        let network = self.networks.iter().find(|network| self.is_flannel() && network.vni.is_some())?;
        match self.gateway_of(network)? {
            Gateway { by: GatewayBy::Us(mac), .. } => {
                Some(Part { network, vni: network.vni?, subnet: network.subnet?, mac })
            }
            Gateway { by: GatewayBy::Container, .. } => None,
        }
    }
}

/// `[vxlan]` beside it: whose hosts these are is flannel's to say, and nothing is learned from what they send.
pub(super) fn vxlan(section: &Section<'_>, vxlan: &mut Vxlan, reporter: &mut Reporter<'_>) {
    if let Some(at) = section.text("local").filter(|_| vxlan.local.is_ipv6()) {
        let why = "flannel's hosts reach each other by IPv4: name this host's address of that family";
        reporter.add(&at.span, || Problem::invalid("local", at.value, why));
    }
    let why = "which hosts there are is flannel's to say (`mode` of [cluster]): leave it out";
    for At { value, span } in section.texts_at("peers").iter().take(1) {
        reporter.add(span, || Problem::invalid("peers", value, why));
    }
    if let Some(at) = section.text("group") {
        reporter.add(&at.span, || Problem::invalid("group", at.value, why));
    }
    if let Some(at) = section.flag("learning").filter(|at| at.value) {
        let why = "with flannel (`mode` of [cluster]) all that is known of other hosts is told: leave it out";
        reporter.add(&at.span, || Problem::Invalid {
            key: "learning",
            found: "true".into(),
            why: why.into(),
        });
    }
    vxlan.learning = false;
    if !section.has("port") {
        vxlan.port = PORT;
    }
}

/// The one network that is flannel's. `mode` is where the file says that there is one.
pub(super) fn network(config: &Config, facts: &[Facts], mode: &Range<usize>, reporter: &mut Reporter<'_>) {
    let networks = config.networks.iter().zip(facts);
    let mut shared =
        networks.filter_map(|(network, facts)| Some((network, facts, facts.overlay.vni.clone()?)));
    let Some((network, facts, place)) = shared.next() else {
        let why = "flannel's network is the one with a `vni`: add `vni = 1`, or what `Backend` of its configuration says, to \
                   a [[network]] whose `subnet` lies inside flannel's `Network`";
        reporter.add(mode, || Problem::invalid("mode", "flannel", why));
        return;
    };
    for (other, _, place) in shared {
        reporter.add(&place, || second(other, network));
    }
    if facts.sound
        && let Err(problem) = fits(network)
    {
        reporter.add(&place, || problem);
    }
    let by_container = |found: Gateway<Ipv4Addr>| found.by == GatewayBy::Container;
    if let Some(at) =
        facts.gateways.v4.as_ref().filter(|_| config.gateway_of(network).is_some_and(by_container))
    {
        let why = "flannel's hosts route what is for this network to its gateway, which must be the daemon: give the \
                   container another address";
        reporter.add(&at.span, || Problem::invalid("gateway", &at.value.to_string(), why));
    }
}

/// A network made at run time is no other one of flannel's.
pub(super) fn join(config: &Config, network: &Network) -> Result<(), Problem> {
    match config.networks.iter().find(|other| config.is_flannel() && other.vni.is_some()) {
        Some(first) if network.vni.is_some() => Err(second(network, first)),
        _ => Ok(()),
    }
}

fn second(network: &Network, first: &Network) -> Problem {
    let why = format!(
        "flannel has one network (`mode` of [cluster]), which is `{}` here: leave it out, or take it there",
        first.name
    );
    wrong(network, why)
}

fn fits(network: &Network) -> Result<(), Problem> {
    let why = match network.subnet {
        None => {
            "flannel's hosts reach a host by its IPv4 subnet: add `subnet`, a part of flannel's `Network` that no other \
                 host has"
        }
        Some(subnet) if subnet.prefix_len() > LONGEST => {
            "flannel's subnets are /30 or larger: take a larger `subnet`"
        }
        Some(_) if network.internal => {
            "who is on other hosts of flannel is behind the gateway, and `internal` networks have no way there: leave \
             `internal` out"
        }
        Some(_) => return Ok(()),
    };
    Err(wrong(network, why.into()))
}

fn wrong(network: &Network, why: String) -> Problem {
    let found = network.vni.map_or_else(String::new, |vni| vni.to_string());
    Problem::Invalid { key: "vni", found, why: why.into() }
}
