//! What changed between two configurations, so that a reload touches nothing else.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use switch::mac::MacAddr;

use super::Publish;
use super::model::{Config, Container, Daemon, Interface, Network, Route};
use super::outside::{Limits, Outside};
use crate::wire::NetnsRef;

/// What turns one configuration into another. Removals are in the old one's order, the rest in the new one's.
///
/// To apply it: remove interfaces, then networks; change and add networks, then routes, containers and interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Settings of the process that changed: they wait for its next start.
    pub daemon: Vec<DaemonField>,
    /// Names of networks that go.
    pub networks_removed: Vec<String>,
    /// Names of networks that come.
    pub networks_added: Vec<String>,
    /// Networks that stay, with what is new about them.
    pub networks_changed: Vec<NetworkChange>,
    /// Names of containers that go.
    pub containers_removed: Vec<String>,
    /// Names of containers that come.
    pub containers_added: Vec<String>,
    /// Whether containers may reach the host's loopback now and could not before, or the other way round.
    pub host_loopback: bool,
    /// Whether other numbers of ICMP errors are sent.
    pub icmp_errors: bool,
    /// Whether there is other room for what is translated, at the next start.
    pub limits: bool,
    /// Whether anything else about an uplink that takes packets is new.
    pub outside: bool,
    /// Whether anything about how other hosts are reached is new.
    pub vxlan: bool,
    /// Whether anything about the cluster's store is new.
    pub cluster: bool,
    /// Whether static routes came or went.
    pub routes: bool,
    /// Containers that stay, with what is new about them beside their interfaces.
    pub containers_changed: Vec<ContainerChange>,
    /// Interfaces that go, with those of containers that go.
    pub interfaces_removed: Vec<InterfaceKey>,
    /// Interfaces that come, with those of containers that come.
    pub interfaces_added: Vec<InterfaceKey>,
    /// Interfaces that stay by name, with what is new about them.
    pub interfaces_changed: Vec<InterfaceChange>,
}

impl Diff {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An interface by its names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InterfaceKey {
    /// The container.
    pub container: String,
    /// The interface's name in it.
    pub name: String,
}

/// A network that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkChange {
    /// Its name.
    pub name: String,
    /// What changed, at least one thing.
    pub fields: Vec<NetworkField>,
}

/// A container that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerChange {
    /// Its name.
    pub name: String,
    /// What changed, at least one thing.
    pub fields: Vec<ContainerField>,
}

/// An interface that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceChange {
    /// Its names.
    pub key: InterfaceKey,
    /// What changed, at least one thing.
    pub fields: Vec<InterfaceField>,
}

macro_rules! fields {
    ($(#[$doc:meta])* $field:ident of $owner:ident { $($variant:ident = $name:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $field {
            $(#[doc = concat!("`", stringify!($name), "`.")] $variant,)+
        }

        impl fmt::Display for $field {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => stringify!($name),)+ })
            }
        }

        impl $field {
            fn changed(old: &$owner, new: &$owner) -> Vec<Self> {
                let mut fields = Vec::new();
                $(if old.$name != new.$name { fields.push(Self::$variant); })+
                fields
            }
        }
    };
}

fields! {
    /// A setting of `[daemon]`.
    DaemonField of Daemon { Control = control, State = state, Workers = workers, Io = io, Uplink = uplink }
}
fields! {
    /// A setting of a network.
    NetworkField of Network {
        Subnet = subnet,
        Subnet6 = subnet6,
        Gateway = gateway,
        Gateway6 = gateway6,
        GatewayMac = gateway_mac,
        HostAddress = host_address,
        Vlan = vlan,
        Transparent = transparent,
        Snooping = snooping,
        Vni = vni,
        Mtu = mtu,
        Icc = icc,
        Nat = nat,
        Nat6 = nat6,
        Internal = internal,
        RoutesTo = routes_to,
        Dhcp = dhcp,
        Ageing = ageing,
        FdbLimit = fdb_limit,
        Spoof = spoof,
        Storm = storm,
    }
}
fields! {
    /// A setting of a container.
    ContainerField of Container { Netns = netns, Create = create, Command = command, Egress = egress }
}
fields! {
    /// A setting of an interface.
    InterfaceField of PlacedInterface {
        Netns = netns,
        Network = network,
        Ip = ip,
        Dhcp = dhcp,
        Ip6 = ip6,
        Mac = mac,
        Vlan = vlan,
        Trunk = trunk,
        Isolated = isolated,
        Aliases = aliases,
        DefaultVia = default_via,
        Publish = publish,
        DefaultVia6 = default_via6,
    }
}

// An interface moves when its container's namespace does.
#[derive(Debug)]
struct PlacedInterface<'c> {
    netns: &'c NetnsRef,
    network: &'c str,
    ip: Option<Ipv4Net>,
    dhcp: bool,
    ip6: Option<Ipv6Net>,
    mac: MacAddr,
    vlan: Option<u16>,
    trunk: &'c [u16],
    isolated: bool,
    aliases: &'c [String],
    default_via: Option<Ipv4Addr>,
    publish: &'c [Publish],
    default_via6: Option<Ipv6Addr>,
}

impl<'c> PlacedInterface<'c> {
    fn new((container, interface): (&'c Container, &'c Interface)) -> Self {
        Self {
            netns: &container.netns,
            network: &interface.network,
            ip: interface.ip,
            dhcp: interface.dhcp,
            ip6: interface.ip6,
            mac: interface.mac,
            vlan: interface.vlan,
            trunk: &interface.trunk,
            isolated: interface.isolated,
            aliases: &interface.aliases,
            default_via: interface.default_via,
            publish: &interface.publish,
            default_via6: interface.default_via6,
        }
    }
}

/// Compares two configurations. Networks and containers are the same by name, interfaces by container and name; their
/// order does not matter.
pub fn diff(old: &Config, new: &Config) -> Diff {
    let networks = split(old.networks.iter(), new.networks.iter(), |n| n.name.as_str());
    let containers = split(old.containers.iter(), new.containers.iter(), |c| c.name.as_str());
    let interfaces = split(old.interfaces(), new.interfaces(), |(c, i)| (c.name.as_str(), i.name.as_str()));
    let key = |(container, name): &(&str, &str)| InterfaceKey {
        container: (*container).to_owned(),
        name: (*name).to_owned(),
    };
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let mut diff = Diff {
        daemon: DaemonField::changed(&old.daemon, &new.daemon),
        networks_removed: owned(&networks.removed),
        networks_added: owned(&networks.added),
        host_loopback: old.daemon.host_loopback != new.daemon.host_loopback,
        icmp_errors: old.daemon.icmp_errors != new.daemon.icmp_errors,
        limits: limits(old) != limits(new),
        outside: outside(old) != outside(new),
        vxlan: old.vxlan != new.vxlan,
        cluster: old.cluster != new.cluster,
        routes: routes(old) != routes(new),
        containers_removed: owned(&containers.removed),
        containers_added: owned(&containers.added),
        interfaces_removed: interfaces.removed.iter().map(key).collect(),
        interfaces_added: interfaces.added.iter().map(key).collect(),
        ..Diff::default()
    };
    for (name, old, new) in networks.kept {
        let (name, fields) = (name.to_owned(), NetworkField::changed(old, new));
        if !fields.is_empty() {
            diff.networks_changed.push(NetworkChange { name, fields });
        }
    }
    for (name, old, new) in containers.kept {
        let (name, fields) = (name.to_owned(), ContainerField::changed(old, new));
        if !fields.is_empty() {
            diff.containers_changed.push(ContainerChange { name, fields });
        }
    }
    for (names, old, new) in interfaces.kept {
        let fields = InterfaceField::changed(&PlacedInterface::new(old), &PlacedInterface::new(new));
        if !fields.is_empty() {
            diff.interfaces_changed.push(InterfaceChange { key: key(&names), fields });
        }
    }
    diff
}

// What it is beside its limits.
fn outside(config: &Config) -> Option<Outside> {
    config.outside.clone().map(|outside| Outside { limits: Limits::default(), ..outside })
}

// Of an uplink that takes packets now and did not before, or the other way round, its kind says so.
fn limits(config: &Config) -> Limits {
    config.outside.as_ref().map_or_else(Limits::default, |outside| outside.limits)
}

// Their order does not matter either.
fn routes(config: &Config) -> HashSet<&Route> {
    config.routes.iter().collect()
}

struct Split<K, T> {
    removed: Vec<K>,
    added: Vec<K>,
    kept: Vec<(K, T, T)>,
}

fn split<K: Copy + Eq + Hash, T: Copy>(
    old: impl Iterator<Item = T> + Clone,
    new: impl Iterator<Item = T> + Clone,
    key: impl Fn(T) -> K,
) -> Split<K, T> {
    let before: HashMap<K, T> = old.clone().map(|item| (key(item), item)).collect();
    let after: HashMap<K, T> = new.clone().map(|item| (key(item), item)).collect();
    let removed = old.map(&key).filter(|key| !after.contains_key(key)).collect();
    let mut split = Split { removed, added: Vec::new(), kept: Vec::new() };
    for item in new {
        match before.get(&key(item)) {
            Some(old) => split.kept.push((key(item), *old, item)),
            None => split.added.push(key(item)),
        }
    }
    split
}
