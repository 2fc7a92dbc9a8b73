//! Leases: addresses that DHCP gives to clients behind an interface, such as machines nested in a container. The
//! interface itself is none of them: it has its address whether it asks or not.
//!
//! A client is known by what it calls itself, on its port: the same name on another port is another client. A port holds
//! at most [`LEASES_PER_PORT`] addresses, and never more than it leaves for others; offers and what it declined count.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use switch::mac::MacAddr;

use super::{Entry, Memory};
use crate::api::rows::text;
use crate::config::{Config, Network};

/// How many addresses clients behind one port may hold.
pub const LEASES_PER_PORT: usize = 16;

/// What a client holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// What the client calls itself.
    #[serde(with = "text")]
    pub client: ClientId,
    /// Its MAC address.
    #[serde(with = "text")]
    pub mac: MacAddr,
    /// Until when, seconds since the epoch.
    pub until: u64,
    /// How far it got.
    pub state: LeaseState,
}

/// Where a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseState {
    /// Kept for the client, which has not asked for it yet.
    Offered,
    /// The client's.
    Bound,
    /// The client found somebody else there: nobody's for a while.
    Declined,
}

impl fmt::Display for LeaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Offered => "offered",
            Self::Bound => "bound",
            Self::Declined => "declined",
        })
    }
}

/// A client's name for itself: option 61, or its hardware type and address (RFC 2131 section 4.2). 2 to 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientId(Box<[u8]>);

/// The bytes are no client identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a client identifier is 2 to 255 bytes, in hexadecimal")]
pub struct BadClientId;

impl ClientId {
    /// From option 61.
    ///
    /// # Errors
    /// When its length is not right.
    pub fn new(bytes: &[u8]) -> Result<Self, BadClientId> {
        if (2..=255).contains(&bytes.len()) { Ok(Self(bytes.into())) } else { Err(BadClientId) }
    }

    /// Of a client that has no other name: what most clients would put into option 61.
    pub fn of_mac(MacAddr(mac): MacAddr) -> Self {
        let ethernet = [1];
        Self([&ethernet[..], &mac].concat().into())
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ClientId {
    type Err = BadClientId;

    fn from_str(hex: &str) -> Result<Self, BadClientId> {
        let digits: Option<Vec<u8>> =
            hex.chars().map(|digit| digit.to_digit(16).and_then(|value| u8::try_from(value).ok())).collect();
        let digits = digits.ok_or(BadClientId)?;
        let (pairs, rest) = digits.as_chunks::<2>();
        let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
        if rest.is_empty() { Self::new(&bytes) } else { Err(BadClientId) }
    }
}

/// The interface that clients are behind.
#[derive(Debug, Clone, Copy)]
pub struct Behind<'a> {
    /// The network.
    pub network: &'a str,
    /// The container.
    pub container: &'a str,
    /// The interface's name in it.
    pub interface: &'a str,
}

impl Behind<'_> {
    fn has(&self, entry: &Entry) -> bool {
        entry.container == self.container && entry.interface == self.interface
    }
}

/// Why there is no address for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoLease {
    /// None is left.
    #[error("the pool is empty")]
    Full,
    /// The port holds as many as it may.
    #[error("the port holds as many addresses as it may")]
    Quota,
}

/// The addresses that a network can give.
#[derive(Debug, Clone, Copy)]
pub struct Pool {
    first: Ipv4Addr,
    last: Ipv4Addr,
    gateway: Ipv4Addr,
    /// The host's own.
    host: Option<Ipv4Addr>,
}

impl Pool {
    /// Those of a network: `None` where it has no subnet or no address for a gateway.
    pub fn of(network: &Network) -> Option<Self> {
        let (first, last) = network.hosts()?;
        Some(Self { first, last, gateway: network.reserved_address()?, host: network.host_address })
    }

    /// Whether hosts can have this address.
    pub fn has(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address) && address != self.gateway && self.host != Some(address)
    }

    fn size(&self) -> usize {
        self.last.to_bits().saturating_sub(self.first.to_bits()) as usize
    }

    fn downwards(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let pool = *self;
        let all = (self.first.to_bits()..=self.last.to_bits()).rev().map(Ipv4Addr::from_bits);
        all.filter(move |address| pool.has(*address))
    }
}

/// Whether a lease is not touched by what the configuration became.
pub(super) fn stays(config: &Config, network: &str, address: IpAddr, entry: &Entry) -> bool {
    let IpAddr::V4(address) = address else { return false };
    let has_interface = || {
        config.container(&entry.container).is_some_and(|container| {
            container.interfaces.iter().any(|i| i.name == entry.interface && i.network == network)
        })
    };
    let pool = config.network(network).filter(|network| network.dhcp).and_then(Pool::of);
    entry.lease.is_some() && pool.is_some_and(|pool| pool.has(address)) && has_interface()
}

impl Memory {
    /// The leases of a network that hold, offers too.
    pub fn leases(&self, network: &str) -> impl Iterator<Item = (Ipv4Addr, &Entry, &Lease)> {
        self.of(network).filter(|(_, entry)| entry.released.is_none()).filter_map(|(address, entry)| {
            let IpAddr::V4(address) = address else { return None };
            Some((address, entry, entry.lease.as_ref()?))
        })
    }

    /// The lease of an address that holds.
    pub fn lease_of(&self, network: &str, address: IpAddr) -> Option<&Lease> {
        let entry = self.networks.get(network)?.get(&address)?;
        entry.lease.as_ref().filter(|_| entry.released.is_none())
    }

    /// What a client holds.
    pub fn lease(&self, behind: &Behind<'_>, client: &ClientId) -> Option<(Ipv4Addr, &Lease)> {
        let mut leases = self.leases(behind.network);
        let is_its = |entry: &Entry, lease: &Lease| {
            behind.has(entry) && lease.client == *client && lease.state != LeaseState::Declined
        };
        leases.find(|(_, entry, lease)| is_its(entry, lease)).map(|(address, _, lease)| (address, lease))
    }

    /// An address for a client that holds none: the one it had, the one it asks for, the highest that nobody had, the one
    /// that was given back longest ago. From the top, because interfaces get theirs from below. `taken` says of an
    /// address that somebody uses it who was not given it.
    ///
    /// # Errors
    /// [`NoLease`].
    pub fn choose(
        &self,
        behind: &Behind<'_>,
        client: &ClientId,
        asked: Option<Ipv4Addr>,
        pool: &Pool,
        taken: &dyn Fn(Ipv4Addr) -> bool,
    ) -> Result<Ipv4Addr, NoLease> {
        let in_use = self.of(behind.network).filter(|(_, entry)| entry.released.is_none()).count();
        let left = pool.size().saturating_sub(in_use);
        let held = self.leases(behind.network).filter(|(_, entry, _)| behind.has(entry)).count();
        if left == 0 {
            return Err(NoLease::Full);
        }
        if held >= LEASES_PER_PORT.min(left) {
            return Err(NoLease::Quota);
        }
        let known = |address: &Ipv4Addr| self.entry(behind.network, *address);
        let usable = |address: &Ipv4Addr| pool.has(*address) && !taken(*address);
        let rests = || {
            let rests = self.of(behind.network).filter(|(_, entry)| entry.released.is_some());
            rests.filter_map(|(address, entry)| match address {
                IpAddr::V4(address) => Some((entry.rank(), address, entry)),
                IpAddr::V6(_) => None,
            })
        };
        let its = |entry: &Entry| {
            behind.has(entry) && entry.lease.as_ref().is_some_and(|lease| lease.client == *client)
        };
        let had = rests().filter(|(_, address, entry)| its(entry) && usable(address)).max_by_key(|had| had.0);
        had.map(|(_, address, _)| address)
            .or_else(|| asked.filter(|asked| usable(asked) && known(asked).is_none()))
            .or_else(|| pool.downwards().find(|address| known(address).is_none() && !taken(*address)))
            .or_else(|| {
                let free = rests().filter(|(_, address, _)| usable(address));
                free.min_by_key(|rests| rests.0).map(|(_, address, _)| address)
            })
            .ok_or(NoLease::Full)
    }

    fn entry(&self, network: &str, address: Ipv4Addr) -> Option<&Entry> {
        self.networks.get(network)?.get(&IpAddr::V4(address))
    }

    /// Gives an address that is free, or the client's already.
    pub fn lend(&mut self, behind: &Behind<'_>, address: Ipv4Addr, lease: Lease) {
        let of_network = self.networks.entry(behind.network.to_owned()).or_default();
        let (container, interface) = (behind.container.to_owned(), behind.interface.to_owned());
        let entry = Entry { container, interface, lease: Some(lease), released: None };
        of_network.insert(IpAddr::V4(address), entry);
    }

    /// A lease ends. Who had it is remembered, of one port the last [`LEASES_PER_PORT`]; of an offer that nobody took
    /// nothing is.
    pub fn end(&mut self, network: &str, address: Ipv4Addr) {
        let next = self.next_release();
        let Some(of_network) = self.networks.get_mut(network) else { return };
        let Some(entry) = of_network.get_mut(&IpAddr::V4(address)) else { return };
        let Some(lease) = &entry.lease else { return };
        if lease.state != LeaseState::Bound {
            of_network.remove(&IpAddr::V4(address));
            return;
        }
        entry.released = Some(next);
        let (container, interface) = (entry.container.clone(), entry.interface.clone());
        let ended = |entry: &Entry| {
            let of_port = entry.container == container && entry.interface == interface;
            (of_port && entry.lease.is_some()).then_some(entry.released).flatten()
        };
        let all: Vec<(u64, IpAddr)> =
            of_network.iter().filter_map(|(address, entry)| Some((ended(entry)?, *address))).collect();
        if all.len() > LEASES_PER_PORT
            && let Some((_, oldest)) = all.iter().min()
        {
            of_network.remove(oldest);
        }
        self.forget();
    }

    /// Ends what is over. Whether an address that was a client's is free by that.
    pub fn expire(&mut self, now: u64) -> bool {
        let mut over: Vec<(String, Ipv4Addr, LeaseState)> = Vec::new();
        for network in self.networks.keys() {
            let leases = self.leases(network).filter(|(_, _, lease)| lease.until <= now);
            over.extend(leases.map(|(address, _, lease)| (network.clone(), address, lease.state)));
        }
        for (network, address, _) in &over {
            self.end(network, *address);
        }
        over.iter().any(|(_, _, state)| *state == LeaseState::Bound)
    }
}
