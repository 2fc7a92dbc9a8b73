//! What can be wrong with a configuration, in the file or at run time: one list, one wording.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use switch::mac::MacAddr;

use super::Family;
pub use super::words::{Advice, Owner, Place, What};
use super::words::{by_name, kinds_of, known_keys, list, references};
pub(super) use super::words::{clip, nearest};

/// How the asker should take a [`Problem`]; the control API makes a status code of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// It can never be: bad text, a wrong type, a number out of range.
    Invalid,
    /// The contract has it, this release does not.
    NotSupported,
    /// It names something that is not there.
    NotFound,
    /// Something else is in the way: a name, an address, a limit.
    Conflict,
}

/// One thing that is wrong, as one line that says what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The text is longer than [`super::MAX_BYTES`].
    #[error("the file is larger than {} bytes: not a configuration", super::MAX_BYTES)]
    TooLarge,
    /// Not UTF-8, as TOML 1.0 asks.
    #[error("byte 0x{byte:02x} is not UTF-8: save the file as UTF-8")]
    Utf8 {
        /// The first byte that does not fit.
        byte: u8,
    },
    /// Not TOML.
    #[error("{0}")]
    Syntax(String),
    /// A key the contract does not have there.
    #[error("unknown key `{key}` in {section}{}", known_keys(advice.as_ref(), known))]
    UnknownKey {
        /// The table, as the file writes it.
        section: &'static str,
        /// The key.
        key: String,
        /// What was probably meant.
        advice: Option<Advice>,
        /// The keys of that table.
        known: Vec<&'static str>,
    },
    /// Text where a number should be, and the like.
    #[error("`{key}` {} {found}, expected {expected}: {example}", if *.inside { "holds" } else { "is" })]
    WrongType {
        /// The key.
        key: &'static str,
        /// Whether it is an element of the key's array that is wrong.
        inside: bool,
        /// What it is, with its article.
        found: &'static str,
        /// What it should be, with its article.
        expected: &'static str,
        /// What to write.
        example: Cow<'static, str>,
    },
    /// A key that must be there.
    #[error("{section} has no `{key}`: add {example}")]
    Missing {
        /// The table.
        section: &'static str,
        /// The key.
        key: &'static str,
        /// What to write.
        example: &'static str,
    },
    /// Known, but not built yet.
    #[error("{what} is not supported yet{advice}")]
    NotSupported {
        /// What was asked for, as the file writes it.
        what: String,
        /// What to do instead; empty or starting with its own punctuation.
        advice: Cow<'static, str>,
    },
    /// A value of the right type that cannot be.
    #[error("`{key}` = {found}: {why}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// The value, as the file writes it.
        found: String,
        /// Why not, and what would do.
        why: Cow<'static, str>,
    },
    /// A key of another kind of uplink.
    #[error(
        "`{key}` is for `kind` = {}, and this uplink is \"{kind}\": leave it out, or change `kind`",
        kinds_of(kinds)
    )]
    OtherKind {
        /// The key.
        key: &'static str,
        /// The kinds that have it.
        kinds: &'static [&'static str],
        /// The kind that there is.
        kind: &'static str,
    },
    /// A network that is called as the uplink is.
    #[error("`name` = \"uplink\" is what the uplink's own network is called: take another")]
    UplinkName,
    /// A network that has addresses of where the uplink is.
    #[error(
        "subnet {subnet} of network `{network}` overlaps {uplink}, where the uplink is{place}: containers would have the \
         addresses of hosts outside, or ours (RFC 4787 REQ-7); take another subnet, or `internal` = true"
    )]
    UplinkOverlap {
        /// The network.
        network: String,
        /// Its subnet.
        subnet: IpNet,
        /// The uplink's.
        uplink: IpNet,
        /// Where that is written.
        place: Place,
    },
    /// Two networks with the same addresses, both of which are seen outside.
    #[error(
        "subnet {this_subnet} of network `{this}` overlaps {other_subnet} of network `{other}`, and both leave with their \
         own addresses (`{key}` = false): masquerade one of them"
    )]
    PlainOverlap {
        /// `nat` or `nat6`.
        key: &'static str,
        /// The network that comes later.
        this: String,
        /// Its subnet.
        this_subnet: IpNet,
        /// The other network.
        other: String,
        /// Its subnet.
        other_subnet: IpNet,
    },
    /// Two networks of one name on the underlay.
    #[error(
        "`vni` = {vni} is that of network `{network}`{place}: frames of both would be in one, take another"
    )]
    VniTaken {
        /// The number.
        vni: u32,
        /// Who has it.
        network: String,
        /// Where that is written.
        place: Place,
    },
    /// A second object of one name.
    #[error("{what} `{name}` is there already{first}")]
    Duplicate {
        /// Network, container.
        what: What,
        /// The name both have.
        name: String,
        /// Where the first is.
        first: Place,
    },
    /// A network that is not there.
    #[error("there is no network `{name}`{advice}")]
    UnknownNetwork {
        /// The name.
        name: String,
        /// What was probably meant.
        advice: Advice,
    },
    /// A container that is not there.
    #[error("there is no container `{name}`{advice}")]
    UnknownContainer {
        /// The name.
        name: String,
        /// What was probably meant.
        advice: Advice,
    },
    /// `create = true` where there is nothing to make.
    #[error("`create` = true makes a namespace by name, but `netns` is \"{netns}\": leave one of them out")]
    CreateNeedsName {
        /// The container's `netns`.
        netns: String,
    },
    /// Two interfaces of one name in one namespace.
    #[error("namespace \"{netns}\" already has an interface `{name}`: {owner}; give this one another `name`")]
    InterfaceTaken {
        /// The namespace.
        netns: String,
        /// The interface's name.
        name: String,
        /// Who has it.
        owner: Owner,
    },
    /// An address where no network has any.
    #[error("`{key}` needs a subnet{}, and network `{network}` has none: add `{}` to it", of_ipv6(*family), family.subnet_example())]
    NoSubnet {
        /// The key that needs one.
        key: &'static str,
        /// Of which family.
        family: Family,
        /// The network.
        network: String,
    },
    /// An address of somewhere else.
    #[error("`{key}` = \"{ip}\" is outside {subnet}, the subnet of network `{network}`")]
    OutsideSubnet {
        /// `ip`, `gateway` or `via`.
        key: &'static str,
        /// The address.
        ip: IpAddr,
        /// The network.
        network: String,
        /// Its subnet.
        subnet: IpNet,
    },
    /// The first or last address of a subnet (RFC 922 section 7, RFC 4632 section 3.1).
    #[error(
        "`{key}` = \"{ip}\" is the {role} address of {subnet} and nobody's own: hosts are {first} to {last}"
    )]
    EdgeOfSubnet {
        /// `ip`, `gateway` or `via`.
        key: &'static str,
        /// The address.
        ip: IpAddr,
        /// Network or broadcast.
        role: &'static str,
        /// The subnet.
        subnet: IpNet,
        /// Its first host.
        first: IpAddr,
        /// Its last host.
        last: IpAddr,
    },
    /// The address kept for a gateway.
    #[error(
        "`{}` = \"{ip}\" is kept for the gateway of network `{network}`: take another, \
         or add `{} = \"{ip}\"` to the network if this container is its router",
        Family::of(*ip).ip_key(), Family::of(*ip).gateway_key()
    )]
    Reserved {
        /// The address.
        ip: IpAddr,
        /// The network.
        network: String,
    },
    /// The host is not the gateway.
    #[error(
        "`host_address` = \"{ip}\" is the gateway of network `{network}`, which answers there: take another, \
         or give the network another `gateway`"
    )]
    HostIsGateway {
        /// The address.
        ip: Ipv4Addr,
        /// The network.
        network: String,
    },
    /// Two interfaces of one address.
    #[error("`{}` = \"{ip}\" is taken in network `{network}` by {owner}", Family::of(*ip).ip_key())]
    AddressTaken {
        /// The address.
        ip: IpAddr,
        /// The network.
        network: String,
        /// Who has it.
        owner: Owner,
    },
    /// Two containers of one name.
    #[error(
        "`aliases` has \"{name}\", which is a name of {owner} in network `{network}` already: take another"
    )]
    AliasTaken {
        /// The name.
        name: String,
        /// The network.
        network: String,
        /// Who has it.
        owner: Owner,
    },
    /// Two interfaces of one MAC address.
    #[error("`mac` = \"{mac}\" is taken in network `{network}` by {owner}")]
    MacTaken {
        /// The MAC address.
        mac: MacAddr,
        /// The network.
        network: String,
        /// Who has it.
        owner: Owner,
    },
    /// A container that would answer for our gateway.
    #[error(
        "`mac` = \"{mac}\" is that of the gateway {gateway} of network `{network}`: take another, \
         or give the network another `gateway_mac`"
    )]
    MacOfGateway {
        /// The MAC address.
        mac: MacAddr,
        /// The network.
        network: String,
        /// The gateway's address.
        gateway: IpAddr,
    },
    /// A gateway that is ours and a container.
    #[error(
        "`{}` = \"{ip}\" makes this container the gateway of network `{network}`, and `gateway_mac` = \"{mac}\" is for one \
         that is not: leave one of them out",
        Family::of(*ip).ip_key()
    )]
    GatewayTwice {
        /// The gateway's address.
        ip: IpAddr,
        /// The network.
        network: String,
        /// Its `gateway_mac`.
        mac: MacAddr,
    },
    /// A gateway that is not ours, where ours is needed.
    #[error(
        "`ip` = \"{ip}\" makes this container the gateway of network `{network}`, whose `dhcp` is served by a gateway of the \
         switch: leave one of them out"
    )]
    GatewayServes {
        /// The gateway's address.
        ip: IpAddr,
        /// The network.
        network: String,
    },
    /// Something that only a gateway can do.
    #[error(
        "`{key}` needs a gateway, and {subnet}, the subnet of network `{network}`, has no address to spare for one: \
         take a shorter prefix length"
    )]
    NoGateway {
        /// `gateway_mac`, `dhcp`, `routes_to` or `via`.
        key: &'static str,
        /// The network.
        network: String,
        /// Its subnet.
        subnet: IpNet,
    },
    /// A network that routes to itself.
    #[error("`routes_to` names \"{network}\", which is the network itself: leave it out, `icc` is for that")]
    RoutesToItself {
        /// The network.
        network: String,
    },
    /// A network named twice.
    #[error("`routes_to` names \"{to}\" twice: leave one of them out")]
    RoutesToTwice {
        /// The network named.
        to: String,
    },
    /// Every network, as an element.
    #[error(
        "`routes_to` holds \"all\", and no network has that name: every network is `routes_to = \"all\"`"
    )]
    AllInside,
    /// A way into a network that has none.
    #[error("network `{from}` has `routes_to` \"{to}\", which is `internal`: leave one of them out")]
    RoutesToInternal {
        /// The network with the `routes_to`.
        from: String,
        /// The network named.
        to: String,
    },
    /// A way into a network where nobody has an address, or nobody a way to answer.
    #[error("network `{from}` has `routes_to` \"{to}\", which has no {lacks}: give it one, or leave it out")]
    RoutesToUnrouted {
        /// The network with the `routes_to`.
        from: String,
        /// The network named.
        to: String,
        /// Subnet or gateway.
        lacks: &'static str,
    },
    /// A way between networks that have no addresses of one family.
    #[error(
        "network `{from}` has `routes_to` \"{to}\", and one has IPv4 where the other has IPv6: give one of them both, or \
         leave it out"
    )]
    RoutesToNoFamily {
        /// The network with the `routes_to`.
        from: String,
        /// The network named.
        to: String,
    },
    /// A way out of a network that has none.
    #[error("`{key}` leads out of network `{network}`, which is `internal`: leave one of them out")]
    InternalRoutes {
        /// `routes_to` or `network`.
        key: &'static str,
        /// The network.
        network: String,
    },
    /// Two networks with the same addresses, where packets are to find one of them.
    #[error(
        "subnet {this_subnet} of network `{this}` overlaps {other_subnet} of network `{other}`, and `routes_to` connects \
         them: networks that are connected share one address plan"
    )]
    ZoneOverlap {
        /// The network that comes later.
        this: String,
        /// Its subnet.
        this_subnet: IpNet,
        /// The other network.
        other: String,
        /// Its subnet.
        other_subnet: IpNet,
    },
    /// A route whose next hop is of another family.
    #[error(
        "`via` = \"{via}\" and `destination` = \"{destination}\" are of two families: one of them is wrong"
    )]
    RouteFamilies {
        /// The router.
        via: IpAddr,
        /// The destination.
        destination: IpNet,
    },
    /// A route by our own address.
    #[error("`via` = \"{via}\" is the gateway of network `{network}` itself: name the router behind it")]
    RouteByGateway {
        /// The address.
        via: IpAddr,
        /// The network.
        network: String,
    },
    /// A route to where we are already.
    #[error("`destination` = \"{destination}\" is the subnet of network `{network}`: it needs no route")]
    RouteToSubnet {
        /// The destination.
        destination: IpNet,
        /// The network that is there.
        network: String,
    },
    /// Two routes to one destination.
    #[error("there is a route to {destination} already, via {} in network `{network}`{first}", list(via))]
    RouteTwice {
        /// The destination.
        destination: IpNet,
        /// The first one's routers.
        via: Vec<IpAddr>,
        /// The first one's network.
        network: String,
        /// Where the first is.
        first: Place,
    },
    /// L4 ports of the host that lead somewhere already.
    #[error(
        "`publish` = \"{publish}\" collides with \"{taken}\" of {owner}: take other l4 ports of the host"
    )]
    PublishTaken {
        /// What is to be published.
        publish: String,
        /// What is published.
        taken: String,
        /// Where.
        owner: Owner,
    },
    /// Nothing leads in.
    #[error(
        "`publish` needs a way in, and `kind` = \"none\" in [uplink] is none: take \"sockets\", or leave it out"
    )]
    PublishNoUplink,
    /// Nothing leads into that network.
    #[error("`publish` leads into network `{network}`, which is `internal`: leave one of them out")]
    PublishInternal {
        /// The network.
        network: String,
    },
    /// A network whose answers would leave by somebody else.
    #[error(
        "`publish` needs a gateway of ours, and that of network `{network}` is the container with {gateway}: \
         publish on another network, or leave `{}` out", Family::of(*gateway).gateway_key()
    )]
    PublishOtherGateway {
        /// The network.
        network: String,
        /// Its gateway.
        gateway: IpAddr,
    },
    /// An l4 port is published on an interface that is not in its gateway's VLAN.
    #[error(
        "`publish` needs the gateway, and that of network `{network}` is {}, which this interface does not carry: publish \
         on another one, or change its `vlan` or the network's", .vlan.map_or("where frames have no tag".into(), |vlan| format!("in VLAN {vlan}"))
    )]
    PublishOtherVlan {
        /// The network.
        network: String,
        /// Its gateway's VLAN.
        vlan: Option<u16>,
    },
    /// A container without a place to publish on.
    #[error("container `{container}` has no interface{} to publish on", .interface.as_ref().map_or_else(String::new, |name| format!(" `{name}`")))]
    NoInterface {
        /// The container.
        container: String,
        /// The interface that was named, if one was.
        interface: Option<String>,
    },
    /// Nothing to take back.
    #[error("container `{container}` has no `publish` = \"{publish}\"")]
    NotPublished {
        /// The container.
        container: String,
        /// What was to go.
        publish: String,
    },
    /// No address is left.
    #[error(
        "subnet {subnet} of network `{network}` is full: it has room for {room}; take a shorter prefix length"
    )]
    SubnetFull {
        /// The network.
        network: String,
        /// Its subnet.
        subnet: IpNet,
        /// How many containers fit.
        room: u128,
    },
    /// A namespace with two routes for the same destinations.
    #[error(
        "container `{container}` is connected to `{this}` ({this_subnet}) and to `{other}` ({other_subnet}), \
         whose subnets overlap: its routes would contradict each other"
    )]
    Overlap {
        /// The container.
        container: String,
        /// The network it is to be connected to.
        this: String,
        /// Its subnet.
        this_subnet: IpNet,
        /// The network it is connected to already.
        other: String,
        /// Its subnet.
        other_subnet: IpNet,
    },
    /// More objects than the daemon serves.
    #[error("more than {limit} {what}s: one daemon serves at most {limit}")]
    TooMany {
        /// Of what.
        what: What,
        /// How many there may be.
        limit: usize,
    },
    /// A network with interfaces cannot go.
    #[error("network `{network}` is in use by {}: disconnect first", list(by))]
    NetworkInUse {
        /// The network.
        network: String,
        /// Who is connected, in order.
        by: Vec<Owner>,
    },
    /// A network that others refer to cannot go.
    #[error("network `{network}` is in use by {}: remove them first", references(by, *routes))]
    NetworkRouted {
        /// The network.
        network: String,
        /// Networks whose `routes_to` names it, in order.
        by: Vec<String>,
        /// How many routes lead through it.
        routes: usize,
    },
    /// A container with interfaces cannot go.
    #[error("container `{container}` is still connected to {}: disconnect first", list(to))]
    ContainerInUse {
        /// The container.
        container: String,
        /// Its networks, in order.
        to: Vec<String>,
    },
    /// A known container described differently.
    #[error("container `{container}` has `{key}` = {is}, not {asked}")]
    ContainerDiffers {
        /// The container.
        container: String,
        /// `netns` or `create`.
        key: &'static str,
        /// What it is.
        is: String,
        /// What was asked.
        asked: String,
    },
    /// Nothing to disconnect.
    #[error("container `{container}` is not connected to network `{network}`{}", by_name(.name))]
    NotConnected {
        /// The container.
        container: String,
        /// The network.
        network: String,
        /// The interface that was named, if one was.
        name: Option<String>,
    },
    /// Several interfaces would fit.
    #[error("container `{container}` is connected to network `{network}` by {}: say which", list(names))]
    Ambiguous {
        /// The container.
        container: String,
        /// The network.
        network: String,
        /// The interfaces.
        names: Vec<String>,
    },
}

impl Problem {
    /// How the asker should take it.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::NotSupported { .. } => ProblemKind::NotSupported,
            Self::UnknownNetwork { .. }
            | Self::UnknownContainer { .. }
            | Self::NotConnected { .. }
            | Self::NoInterface { .. }
            | Self::NotPublished { .. } => ProblemKind::NotFound,
            Self::Duplicate { .. }
            | Self::InterfaceTaken { .. }
            | Self::AddressTaken { .. }
            | Self::MacTaken { .. }
            | Self::AliasTaken { .. }
            | Self::MacOfGateway { .. }
            | Self::GatewayTwice { .. }
            | Self::GatewayServes { .. }
            | Self::UplinkName
            | Self::UplinkOverlap { .. }
            | Self::PlainOverlap { .. }
            | Self::ZoneOverlap { .. }
            | Self::RouteToSubnet { .. }
            | Self::RouteTwice { .. }
            | Self::PublishTaken { .. }
            | Self::VniTaken { .. }
            | Self::NetworkRouted { .. }
            | Self::SubnetFull { .. }
            | Self::Overlap { .. }
            | Self::TooMany { .. }
            | Self::NetworkInUse { .. }
            | Self::ContainerInUse { .. }
            | Self::ContainerDiffers { .. }
            | Self::Ambiguous { .. } => ProblemKind::Conflict,
            _ => ProblemKind::Invalid,
        }
    }

    pub(super) fn invalid(key: &'static str, found: &str, why: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid { key, found: format!("\"{}\"", clip(found)), why: why.into() }
    }

    // What leaves as a socket of the host has the host's address.
    pub(super) fn not_by_sockets(key: &'static str) -> Self {
        let why = "what leaves by sockets has the host's address: remove it, set `internal` = true, or take `kind` = \
                   \"tap\" or \"nic\" in [uplink]";
        Self::Invalid { key, found: "false".into(), why: why.into() }
    }

    pub(super) fn not_supported(what: impl Into<String>, advice: impl Into<Cow<'static, str>>) -> Self {
        Self::NotSupported { what: what.into(), advice: advice.into() }
    }
}

// Of IPv4 nothing is said, it is what most networks have.
const fn of_ipv6(family: Family) -> &'static str {
    match family {
        Family::V4 => "",
        Family::V6 => " of IPv6",
    }
}
