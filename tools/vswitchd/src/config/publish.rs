//! `publish`: l4 ports of the host that lead to a container.
//!
//! ```text
//! [ADDRESS:]HOST[-LAST]:CONTAINER[-LAST][/tcp|/udp|/sctp]
//! ```
//!
//! Where the uplink takes packets an entry without address, or with one of the uplink's own, is rewritten there; any other
//! is a socket of the host that listens.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::model::{Config, Interface, Network, Uplink};
use super::outside::Outside;
use super::problem::{Owner, Problem, What};
use super::registry::needs_gateway;
use super::vlan::Vlans;
use super::zones::GatewayBy;
use super::{Family, MAX_PUBLISHED};
use crate::api::rows::text;

/// What a published l4 port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, by packets only.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// One entry of `publish`: one l4 port, or as many in a row on both sides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Publish {
    /// The host's address; `None`: all it has, of both families.
    pub address: Option<IpAddr>,
    /// The first l4 port of the host; 0: a free one, which the kernel chooses.
    pub host: u16,
    /// The first l4 port of the container.
    pub port: u16,
    /// How many; both ends are within 1 to 65535.
    pub count: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}

impl Publish {
    /// Whether packets are rewritten for it, and no socket listens.
    pub fn by_packets(&self, outside: &Outside) -> bool {
        self.address.is_none_or(|address| outside.has(address))
    }

    /// The same with each address of ours that it is on: without one of its own the first of each family.
    fn at(&self, outside: &Outside) -> impl Iterator<Item = Self> {
        let first = |family| outside.address_of(family);
        let all = match self.address {
            Some(address) => [Some(address), None],
            None => Family::BOTH.map(first),
        };
        all.into_iter().flatten().map(|address| Self { address: Some(address), ..self.clone() })
    }

    /// Whether both could not listen at once.
    fn collides(&self, other: &Self) -> bool {
        let last = |publish: &Self| publish.host.saturating_add(publish.count.saturating_sub(1));
        let apart = self.host > last(other) || other.host > last(self);
        let addresses = match (self.address, other.address) {
            (Some(one), Some(other)) => {
                one == other
                    || (one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified()))
            }
            _ => true,
        };
        self.protocol == other.protocol && self.host != 0 && other.host != 0 && !apart && addresses
    }
}

/// `8080`, or `9000-9010`.
pub(crate) struct Range(pub u16, pub u16);

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(first, count) = *self;
        match count {
            0 | 1 => write!(f, "{first}"),
            _ => write!(f, "{first}-{}", first.saturating_add(count.saturating_sub(1))),
        }
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V4(v4)) => write!(f, "{v4}:")?,
            Some(IpAddr::V6(v6)) => write!(f, "[{v6}]:")?,
            None => {}
        }
        write!(f, "{}:{}/{}", Range(self.host, self.count), Range(self.port, self.count), self.protocol)
    }
}

impl FromStr for Publish {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        parse(text).map_err(|why| Problem::invalid("publish", text, why))
    }
}

impl Serialize for Publish {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Publish {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
    }
}

fn parse(text: &str) -> Result<Publish, String> {
    let (rest, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((rest, "tcp")) => (rest, Protocol::Tcp),
        Some((rest, "udp")) => (rest, Protocol::Udp),
        Some((rest, "sctp")) => (rest, Protocol::Sctp),
        Some(_) => return Err("after `/` stands tcp, udp or sctp: \"5353:53/udp\"".into()),
    };
    let (address, rest) = split_address(rest)?;
    let Some((host, port)) = rest.split_once(':') else {
        return Err(match rest.parse::<u16>() {
            Ok(port) if port > 0 => {
                format!(
                    "the host's l4 port stands before it: \"{port}:{port}\", or \"0:{port}\" for a free one"
                )
            }
            _ => "it is `HOST:CONTAINER` or `ADDRESS:HOST:CONTAINER`: \"8080:80\"".into(),
        });
    };
    if host == "0" {
        let (port, count) = range("container", port)?;
        if count > 1 {
            return Err("0 chooses one l4 port of the host, not a range".into());
        }
        return Ok(Publish { address, host: 0, port, count, protocol });
    }
    let ((host, count), (port, targets)) = (range("host", host)?, range("container", port)?);
    if count != targets {
        let (one, other) = (l4_ports(count), l4_ports(targets));
        return Err(format!("{one} of the host and {other} of the container: both must be as many"));
    }
    Ok(Publish { address, host, port, count, protocol })
}

fn l4_ports(count: u16) -> String {
    if count == 1 { "one l4 port".into() } else { format!("{count} l4 ports") }
}

fn split_address(text: &str) -> Result<(Option<IpAddr>, &str), String> {
    let wrong =
        |address: &str| format!("\"{}\" is no address: \"127.0.0.1:8080:80\"", super::problem::clip(address));
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, rest) =
            bracketed.split_once("]:").ok_or("`]:` ends an IPv6 address: \"[::1]:8080:80\"")?;
        let v6 = address.parse().map_err(|_| wrong(address))?;
        return usable(IpAddr::V6(v6)).map(|address| (Some(address), rest));
    }
    match text.matches(':').count() {
        0 | 1 => Ok((None, text)),
        2 => {
            let (address, rest) = text.split_once(':').unwrap_or_default();
            let v4 = address.parse().map_err(|_| wrong(address))?;
            usable(IpAddr::V4(v4)).map(|address| (Some(address), rest))
        }
        _ => Err("an IPv6 address stands in brackets: \"[::1]:8080:80\"".into()),
    }
}

// What a socket can be bound to and be reached by.
fn usable(address: IpAddr) -> Result<IpAddr, String> {
    let link = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if address.is_multicast() || address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST) {
        return Err("a group's address is nobody's to listen on".into());
    }
    if link {
        return Err("a link-local address is ambiguous: leave the address out, or take another".into());
    }
    if address.to_canonical() != address {
        return Err(format!("write it as IPv4: \"{}:8080:80\"", address.to_canonical()));
    }
    Ok(address)
}

// The first of a range, and how many.
fn range(whose: &str, text: &str) -> Result<(u16, u16), String> {
    let number = |text: &str| match text.parse::<u16>() {
        Ok(0) => Err(format!("0 is no l4 port of the {whose}: they are 1 to 65535")),
        Ok(number) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
        _ => Err(format!(
            "\"{}\" is no l4 port of the {whose}: they are 1 to 65535",
            super::problem::clip(text)
        )),
    };
    let Some((first, last)) = text.split_once('-') else { return Ok((number(text)?, 1)) };
    let (first, last) = (number(first)?, number(last)?);
    match last.checked_sub(first) {
        Some(more) => Ok((first, more.saturating_add(1))),
        None => Err(format!("the range {first}-{last} runs backwards")),
    }
}

/// Whether anything can be published in a network.
pub(super) fn publishable(uplink: Uplink, network: &Network) -> Result<(), Problem> {
    if uplink == Uplink::None {
        return Err(Problem::PublishNoUplink);
    }
    if network.internal {
        return Err(Problem::PublishInternal { network: network.name.clone() });
    }
    needs_gateway("publish", network)
}

/// Whether what the entry speaks can be spoken there.
pub(super) fn speaks(publish: &Publish, outside: Option<&Outside>) -> Result<(), Problem> {
    let packets = outside.is_some_and(|outside| publish.by_packets(outside));
    let refuse = |why: &'static str| Err(Problem::invalid("publish", &publish.to_string(), why));
    match publish.protocol {
        Protocol::Sctp if packets => Ok(()),
        Protocol::Sctp if outside.is_some() => {
            refuse("an l4 port of the host is a socket, which speaks tcp or udp: leave the address out")
        }
        Protocol::Sctp => refuse(
            "sctp needs an uplink that takes packets, `kind` = \"tap\" or \"nic\": sockets speak tcp and udp",
        ),
        Protocol::Tcp | Protocol::Udp => Ok(()),
    }
}

/// Which l4 ports of the host are given away.
#[derive(Debug, Default)]
pub(super) struct HostPorts {
    outside: Option<Outside>,
    taken: Vec<(Publish, Owner)>,
    sum: usize,
}

impl HostPorts {
    /// None yet. What is published on an `outside` that takes packets is not in the way of sockets.
    pub fn new(outside: Option<&Outside>) -> Self {
        Self { outside: outside.cloned(), ..Self::default() }
    }

    fn collide(&self, one: &Publish, other: &Publish) -> bool {
        let Some(outside) = &self.outside else { return one.collides(other) };
        match (one.by_packets(outside), other.by_packets(outside)) {
            // An entry without address is on the first of ours.
            (true, true) => one.at(outside).any(|one| other.at(outside).any(|other| one.collides(&other))),
            (false, false) => one.collides(other),
            _ => false,
        }
    }

    /// Gives them to their owner.
    pub fn claim(&mut self, publish: &Publish, owner: &Owner) -> Result<(), Problem> {
        let same = |taken: &Publish, who: &Owner| {
            // Twice the same wish for a free one is a slip, too.
            taken == publish && (&who.container, &who.interface) == (&owner.container, &owner.interface)
        };
        let first = self.taken.iter().find(|(taken, who)| self.collide(taken, publish) || same(taken, who));
        if let Some((taken, first)) = first {
            let (publish, taken) = (publish.to_string(), taken.to_string());
            return Err(Problem::PublishTaken { publish, taken, owner: first.clone() });
        }
        self.sum = self.sum.saturating_add(usize::from(publish.count));
        if self.sum > MAX_PUBLISHED {
            return Err(Problem::TooMany { what: What::Published, limit: MAX_PUBLISHED });
        }
        self.taken.push((publish.clone(), owner.clone()));
        Ok(())
    }

    /// Whether no more is taken in, so that more need not be asked for.
    pub fn is_full(&self) -> bool {
        self.sum > MAX_PUBLISHED
    }

    fn of(config: &Config) -> Self {
        let mut ports = Self::new(config.outside.as_ref());
        for (container, interface) in config.interfaces() {
            let owner = super::edit::owner(&container.name, &interface.name);
            for publish in &interface.publish {
                // They fit: the configuration is valid.
                let _ = ports.claim(publish, &owner);
            }
        }
        ports
    }
}

impl Config {
    /// Publishes l4 ports of a container and returns the name of the interface they are published on: `interface`, or
    /// the first that can.
    ///
    /// # Errors
    /// The first [`Problem`]: an unknown container, a network where nothing can be published, l4 ports that are taken.
    pub fn publish(
        &mut self,
        container: &str,
        interface: Option<&str>,
        publish: &Publish,
    ) -> Result<String, Problem> {
        let place = self.container_index(container)?;
        let known = self.containers.get(place).map(|known| known.interfaces.as_slice()).unwrap_or_default();
        let fits = |known: &&Interface| interface.is_none_or(|name| name == known.name);
        speaks(publish, self.outside.as_ref())?;
        let checked =
            known.iter().filter(fits).map(|known| self.can_publish(known).map(|()| known.name.clone()));
        let mut first = None;
        let mut name = None;
        for checked in checked {
            match checked {
                Ok(fit) => {
                    name = Some(fit);
                    break;
                }
                Err(problem) => first = first.or(Some(problem)),
            }
        }
        let Some(name) = name else {
            let nothing = Problem::NoInterface {
                container: container.to_owned(),
                interface: interface.map(str::to_owned),
            };
            return Err(first.unwrap_or(nothing));
        };
        HostPorts::of(self).claim(publish, &super::edit::owner(container, &name))?;
        if let Some(interface) = self.interface_mut(container, &name) {
            interface.publish.push(publish.clone());
        }
        Ok(name)
    }

    fn can_publish(&self, interface: &Interface) -> Result<(), Problem> {
        let Some(network) = self.network(&interface.network) else { return Ok(()) };
        publishable(self.daemon.uplink, network)?;
        Vlans { vlan: interface.vlan, trunk: interface.trunk.clone() }.reach(network)?;
        match network
            .first_gateway()
            .filter(|gateway| self.gateway_by(network, *gateway) == GatewayBy::Container)
        {
            Some(gateway) => Err(Problem::PublishOtherGateway { network: network.name.clone(), gateway }),
            None => Ok(()),
        }
    }

    /// Takes back what [`Config::publish`] or the file has published, and returns the interface's name.
    ///
    /// # Errors
    /// [`Problem::UnknownContainer`], [`Problem::NotPublished`].
    pub fn unpublish(
        &mut self,
        container: &str,
        interface: Option<&str>,
        publish: &Publish,
    ) -> Result<String, Problem> {
        let place = self.container_index(container)?;
        let known =
            self.containers.get_mut(place).map(|known| known.interfaces.as_mut_slice()).unwrap_or_default();
        for known in known.iter_mut().filter(|known| interface.is_none_or(|name| name == known.name)) {
            if let Some(index) = known.publish.iter().position(|there| there == publish) {
                known.publish.remove(index);
                return Ok(known.name.clone());
            }
        }
        Err(Problem::NotPublished { container: container.to_owned(), publish: publish.to_string() })
    }

    fn interface_mut(&mut self, container: &str, name: &str) -> Option<&mut Interface> {
        let known = self.containers.iter_mut().find(|known| known.name == container)?;
        known.interfaces.iter_mut().find(|interface| interface.name == name)
    }
}
