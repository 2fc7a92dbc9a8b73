//! What is made at run time, through the API or by the cluster, as configuration.

use super::objects::{Connected, Kept};
use crate::api::{ApiError, ApiErrorKind, Connect, NetworkCreate, Publishing};
use crate::config::{Config, ContainerSpec, InterfaceOptions, Network, NetworkOptions, Problem, ProblemKind};
use crate::ipam::Memory;

/// Adds a network that was made through the API, or that is the cluster's.
pub(super) fn add_network(config: &mut Config, create: &NetworkCreate) -> Result<(), ApiError> {
    let network = network_of(create)?;
    config.add_network(network).map_err(|problem| refused(&problem))
}

/// Adds what was made through the API to a configuration. Returns what contradicted it and was left out, a line each.
pub(super) fn connect_all(config: &mut Config, kept: &Kept, memory: &Memory) -> Vec<String> {
    let mut conflicts = Vec::new();
    for create in &kept.networks {
        conflicts.extend(
            add_network(config, create).err().map(|error| format!("network {}: {error}", create.name)),
        );
    }
    for Connected { network, interface, .. } in &kept.interfaces {
        let (container, options) = connection(interface);
        let made = config.connect_again(network, &container, &options, memory);
        conflicts.extend(made.err().map(|error| format!("container {}: {error}", container.name)));
    }
    for Publishing { container, interface, publish } in &kept.published {
        for publish in publish {
            let made = config.publish(container, interface.as_deref(), publish);
            conflicts.extend(made.err().map(|error| format!("container {container}: {error}")));
        }
    }
    conflicts
}

fn network_of(create: &NetworkCreate) -> Result<Network, ApiError> {
    let options = NetworkOptions {
        subnet: create.subnet.map(|subnet| subnet.to_string()),
        subnet6: create.subnet6.map(|subnet| subnet.to_string()),
        vlan: create.vlan.map(i64::from),
        transparent: create.transparent,
        snooping: create.snooping,
        vni: create.vni.map(i64::from),
        mtu: create.mtu.map(i64::from),
        icc: create.icc,
        nat: create.nat,
        nat6: create.nat6,
        dhcp: create.dhcp,
        ageing: create.ageing.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX)),
        fdb_limit: create.fdb_limit.map(i64::from),
        spoof: create.spoof.map(|spoof| spoof.to_string()),
        storm: create.storm.map(|frames| i64::try_from(frames).unwrap_or(i64::MAX)),
    };
    let mut network = Network::new_checked(&create.name, &options).map_err(|problems| {
        let details: Vec<String> = problems.iter().map(ToString::to_string).collect();
        ApiError::new(ApiErrorKind::Invalid, details.join("; "))
    })?;
    network.internal = create.internal.unwrap_or(false);
    // As the cluster has it, and has looked at it.
    network.gateway = create.gateway.filter(|v4| network.subnet.is_some_and(|subnet| subnet.contains(v4)));
    network.gateway6 = create.gateway6.filter(|v6| network.subnet6.is_some_and(|subnet| subnet.contains(v6)));
    network.gateway_mac = create.gateway_mac;
    Ok(network)
}

/// What a request for an interface says, as options.
pub(super) fn connection(interface: &Connect) -> (ContainerSpec, InterfaceOptions) {
    let container = ContainerSpec {
        name: interface.container.clone(),
        netns: interface.netns.clone(),
        create: interface.create.then_some(true),
    };
    let options = InterfaceOptions {
        name: interface.interface.clone(),
        ip: interface.ip.map(|ip| ip.to_string()),
        ip6: interface.ip6.map(|ip| ip.to_string()),
        mac: interface.mac.map(|mac| mac.to_string()),
        aliases: interface.aliases.clone(),
        vlan: interface.vlan.map(i64::from),
        trunk: (!interface.trunk.is_empty())
            .then(|| interface.trunk.iter().copied().map(i64::from).collect()),
        isolated: interface.isolated,
    };
    (container, options)
}

/// What is wrong, as an answer of the API.
pub(super) fn refused(problem: &Problem) -> ApiError {
    let kind = match problem.kind() {
        ProblemKind::NotFound => ApiErrorKind::NotFound,
        ProblemKind::Conflict => ApiErrorKind::Conflict,
        ProblemKind::Invalid | ProblemKind::NotSupported => ApiErrorKind::Invalid,
    };
    ApiError::new(kind, problem.to_string())
}
