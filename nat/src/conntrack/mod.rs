//! Conntrack: which end point of a container is which of our addresses and l4 ports outside, and which connections use
//! that (RFC 4787, 5382, 5508, 6888, 7857).
//!
//! - A **mapping** is endpoint-independent: an end point of a container is one and the same end point outside,
//!   whomever it speaks to (RFC 4787 section 4.1 REQ-1). A published end point has its place by configuration, and no
//!   mapping; one that it had when it was published stays for the connections that use it.
//! - A **connection** is the flow entry, one for both directions. Its key is what the container sees; its value is what
//!   its packets become, the deltas of their checksums, the state. From outside it is found by the mapping or rule.
//! - A **permit** says that an end point has spoken to an address: who may come in (section 5 REQ-8).
//!
//! What is over by its timeout is not there, whether it was cleared away or not: nothing here depends on when
//! [`Conntrack::age`] runs, but how soon an l4 port can be used again. A mapping whose last connection is over stays usable
//! until then, or for as long as the longest timeout of its protocol.

mod backlog;
mod external;
#[cfg(not(loom))]
mod kept;
#[cfg(all(test, loom))]
mod loom_tests;
mod note;
mod open;
mod room;
mod rules;
mod tcp;
mod types;
mod upkeep;
mod words;

use std::net::Ipv6Addr;
use std::sync::atomic::AtomicU32;
// Of what is modelled there is none here: these only count.
use std::sync::atomic::AtomicU64;

use switch::checksum::Delta;
use switch::drop::DropReason;
use switch::flow::{FlowKey, Meta, Packet, TcpMeta};
use switch::parse::{PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP};
use switch::port::PortId;
use switch::table::{Handle, MAX_CAPACITY, Table, TableError};
use switch::tick::Tick;

use backlog::Backlog;
use external::{Class, External, Use};
#[cfg(not(loom))]
use kept::Kept;
use room::Sweeps;
use tcp::State;
use words::{
    Connection, MAPPING, NONE, STATE, WORDS, deltas, ends, inside_of, is_over, is_query, known, other,
    permit, proto_of, remote, source, target, target_outside, word, words,
};

pub use tcp::Way;

#[cfg(not(loom))]
pub use kept::KeptError;
pub use rules::{MAX_EXTERNAL, Rule, Rules};
pub use types::{
    ConnectionRow, Counts, EndPoint, Entering, Filtering, In, Inside, Known, Limits, MappingRow, Timeouts,
};

/// Connections, mappings, and who may come in.
///
/// # Threads
/// Everything takes `&self` and may be called from any thread; nothing blocks, and nothing but [`Conntrack::new`]
/// allocates. Packets of one connection may be tracked by two threads at once, one for each way.
pub struct Conntrack {
    connections: Table<5, WORDS>,
    /// By class, and by family.
    mappings: [[Table<3, 2>; 2]; Class::ALL.len()],
    permits: Table<3, 0>,
    /// Protocols without l4 ports: whose is what comes from there.
    others: Table<3, 1>,
    external: Box<[External]>,
    /// Who may have to go.
    backlog: Backlog,
    sweeps: Sweeps,
    limits: Limits,
    /// Where it outlives the process; `None`: it does not.
    #[cfg_attr(loom, allow(dead_code))]
    kept: Option<Kept>,
    seed: u64,
    pass: AtomicU32,
    opened: AtomicU64,
    evicted: AtomicU64,
    over_quota: AtomicU64,
    no_port: AtomicU64,
    other_port: AtomicU64,
}

/// No file of a model outlives it.
#[cfg(loom)]
type Kept = std::convert::Infallible;

/// How many entries each table has.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Layout {
    connections: usize,
    mappings: usize,
    others: usize,
    /// Ports.
    owners: usize,
}

impl Layout {
    fn of(limits: &Limits, owners: usize) -> Self {
        const OTHERS: usize = if cfg!(loom) { 1 } else { 256 };
        let connections = (limits.connections as usize).clamp(1, MAX_CAPACITY);
        let mappings = (limits.mappings as usize).clamp(1, MAX_CAPACITY);
        Self { connections, mappings, others: (connections / 16).max(OTHERS), owners: owners.max(1) }
    }
}

/// What lives in memory that may outlive the process.
struct Tables {
    connections: Table<5, WORDS>,
    mappings: [[Table<3, 2>; 2]; Class::ALL.len()],
    permits: Table<3, 0>,
    others: Table<3, 1>,
}

impl Conntrack {
    /// Room for what `limits` say, at up to `external` addresses ([`MAX_EXTERNAL`]), for containers behind ports below
    /// `owners`.
    ///
    /// # Errors
    /// Those of [`Table::new`].
    pub fn new(limits: &Limits, external: usize, owners: usize) -> Result<Self, TableError> {
        let external = external.clamp(1, MAX_EXTERNAL);
        let layout = Layout::of(limits, owners);
        let mappings = || Table::new(layout.mappings, owners);
        let both = || Ok::<_, TableError>([mappings()?, mappings()?]);
        let tables = Tables {
            connections: Table::new(layout.connections, owners)?,
            mappings: [both()?, both()?, both()?, both()?],
            permits: Table::new(layout.connections, owners)?,
            others: Table::new(layout.others, owners)?,
        };
        Self::over(tables, limits, (external, owners), None)
    }

    fn over(
        tables: Tables,
        limits: &Limits,
        (external, owners): (usize, usize),
        kept: Option<Kept>,
    ) -> Result<Self, TableError> {
        let external: Result<Vec<_>, _> = (0..external).map(|_| External::new()).collect();
        let Tables { connections, mappings, permits, others } = tables;
        Ok(Self {
            connections,
            mappings,
            permits,
            others,
            external: external?.into_boxed_slice(),
            backlog: Backlog::new(limits, owners)?,
            sweeps: Sweeps::default(),
            limits: *limits,
            kept,
            seed: random(),
            pass: AtomicU32::new(1),
            opened: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            over_quota: AtomicU64::new(0),
            no_port: AtomicU64::new(0),
            other_port: AtomicU64::new(0),
        })
    }

    /// What a packet of a container leaves as, if its connection is there. Changes nothing.
    #[inline]
    pub fn outbound(&self, rules: &Rules, key: &FlowKey, now: Tick) -> Option<Known> {
        let record = self.connections.lookup(&words(key.zone, key.proto, source(key), target(key)))?;
        if !self.lives(&record, rules, now) {
            return None;
        }
        known(&record, rules)
    }

    /// Whose a packet is that came to an address of ours, and whether it gets it. Changes nothing.
    #[inline]
    pub fn inbound(&self, rules: &Rules, key: &FlowKey, tcp: Option<&TcpMeta>, now: Tick) -> In {
        if !has_identifier(key) {
            return In::Nobody;
        }
        let (ours, remote) = (target_outside(key), remote(key));
        let Some(found) = self.whose(rules, key.proto, ours, remote.address, now) else { return In::Nobody };
        let Found { inside, owner, mapping } = found;
        let entering =
            |connection, address, l4| In::To(Entering { inside, owner, connection, mapping, address, l4 });
        let record = self.connections.lookup(&words(inside.zone, key.proto, inside.end, remote));
        if let Some(record) = record.filter(|record| self.lives(record, rules, now)) {
            if known(&record, rules).is_some_and(|known| known.external == ours) {
                let [address, l4] = deltas(&record).map(Delta::reversed);
                return entering(Some(record.at), address, l4);
            }
            // It came to another published end point of ours: its answers would come from there.
            if !is_over(&record) {
                return In::Refused(DropReason::NatPorts);
            }
        }
        if tcp.is_some_and(|tcp| !tcp::opens(tcp)) {
            return In::Refused(DropReason::NatNoConnection);
        }
        if !self.admits(rules, key.proto, mapping, remote.address, now) {
            return In::Refused(DropReason::NatFiltered);
        }
        entering(None, Delta::address(ours.address, inside.end.address), word(key.proto, ours, inside.end))
    }

    /// The same question about another container, of whose end point outside only the address is known yet: it opens a
    /// connection in any case.
    pub fn hairpin(&self, rules: &Rules, proto: u8, ours: EndPoint, other: Ipv6Addr, now: Tick) -> In {
        let Some(found) = self.whose(rules, proto, ours, other, now) else { return In::Nobody };
        let Found { inside, owner, mapping } = found;
        if rules.filtering() == Filtering::AddressPort && mapping.is_some()
            || !self.admits(rules, proto, mapping, other, now)
        {
            return In::Refused(DropReason::NatFiltered);
        }
        let address = Delta::address(ours.address, inside.end.address);
        In::To(Entering {
            inside,
            owner,
            connection: None,
            mapping,
            address,
            l4: word(proto, ours, inside.end),
        })
    }

    /// Notes a packet in the connection `at`. False: that is not there any more.
    ///
    /// # Errors
    /// [`DropReason::NatReset`] for a reset that is not believed.
    #[inline]
    pub fn track_known(&self, at: Handle, way: Way, meta: &Meta, now: Tick) -> Result<bool, DropReason> {
        let Some(held) = self.connections.hold(at) else { return Ok(false) };
        self.note(&held, way, meta, now)?;
        Ok(true)
    }

    /// Notes the first packet of a connection that a container opens.
    ///
    /// # Errors
    /// Why it does not leave.
    pub fn track_out(
        &self,
        rules: &Rules,
        packet: &Packet,
        owner: PortId,
        now: Tick,
    ) -> Result<Known, DropReason> {
        self.open_out(rules, packet, owner, now)
    }

    /// Notes what comes to a container by a connection that is opened now. `key` is as it came: to an address of ours.
    ///
    /// # Errors
    /// Why it does not come in.
    pub fn track_in(
        &self,
        rules: &Rules,
        key: &FlowKey,
        meta: &Meta,
        to: &Entering,
        now: Tick,
    ) -> Result<(), DropReason> {
        match to.connection.and_then(|at| self.connections.hold(at)) {
            Some(held) => self.note(&held, Way::In, meta, now),
            None => self.open_in(rules, key, meta, to, now),
        }
    }

    /// What the container behind `by` was sent to, that says in an ICMP error that it does not want the packet `quoted`:
    /// the end point outside of the connection that this belongs to. Changes nothing (RFC 5508 section 4.3 REQ-6). About a
    /// connection of others it says nothing: who guesses its numbers would end it from inside.
    pub fn error_out(&self, rules: &Rules, quoted: &FlowKey, by: PortId, now: Tick) -> Option<EndPoint> {
        let (inside, remote) = match is_query(quoted.proto) {
            true => (
                EndPoint { address: quoted.dst, port: quoted.sport },
                EndPoint { address: quoted.src, port: 0 },
            ),
            false => (target(quoted), source(quoted)),
        };
        let record = self.connections.lookup(&words(quoted.zone, quoted.proto, inside, remote))?;
        let record = Some(record).filter(|it| it.owner == by.0 && self.lives(it, rules, now))?;
        known(&record, rules).map(|known| known.external)
    }

    /// Who had sent the packet `quoted` by an ICMP error that came to us.
    pub fn error_in(&self, rules: &Rules, quoted: &FlowKey, now: Tick) -> Option<(Inside, PortId)> {
        let (ours, remote) = (source(quoted), target(quoted));
        let Found { inside, owner, .. } = self.whose(rules, quoted.proto, ours, remote.address, now)?;
        let record = self.connections.lookup(&words(inside.zone, quoted.proto, inside.end, remote))?;
        self.lives(&record, rules, now).then_some((inside, owner))
    }

    /// Whose an end point of ours is.
    #[inline]
    fn whose(&self, rules: &Rules, proto: u8, ours: EndPoint, remote: Ipv6Addr, now: Tick) -> Option<Found> {
        let index = rules.index(ours.address)?;
        let Some(class) = Class::of(proto) else { return self.by_address(rules, proto, index, remote, now) };
        if let Use::Mapped(at) = self.external.get(usize::from(index))?.of(class, ours.port)
            && let Some(record) = at.and_then(|at| self.mappings_of(class, ours.address).get(at))
            && now.secs().saturating_sub(record.seen) < longest(proto, rules)
        {
            return Some(Found {
                inside: inside_of(&record),
                owner: PortId(record.owner),
                mapping: Some(record.at),
            });
        }
        let (rule, inside) = rules.find(proto, ours)?;
        Some(Found { inside, owner: rule.owner, mapping: None })
    }

    fn by_address(&self, rules: &Rules, proto: u8, index: u8, remote: Ipv6Addr, now: Tick) -> Option<Found> {
        let record = self.others.lookup(&other(proto, index, remote))?;
        let connection = self.connections.get(Handle::from_u64(record.value[0]))?;
        if !self.lives(&connection, rules, now) {
            return None;
        }
        let (_, inside, _) = ends(&connection.key);
        Some(Found { inside, owner: PortId(connection.owner), mapping: None })
    }

    /// RFC 4787 section 5 REQ-8.
    fn admits(&self, rules: &Rules, proto: u8, by: Option<Handle>, remote: Ipv6Addr, now: Tick) -> bool {
        let (Some(mapping), Some(class)) = (by, Class::of(proto)) else { return true };
        match rules.filtering() {
            Filtering::Endpoint => true,
            Filtering::AddressPort => false,
            Filtering::Address => self
                .permits
                .lookup(&permit(class, mapping, remote))
                .is_some_and(|permit| now.secs().saturating_sub(permit.seen) < rules.timeouts().longest()),
        }
    }

    fn mappings_of(&self, class: Class, address: Ipv6Addr) -> &Table<3, 2> {
        of_class(&self.mappings, class, address)
    }

    /// Whether a connection is not over, by time or with its mapping.
    #[inline]
    fn lives(&self, record: &Connection, rules: &Rules, now: Tick) -> bool {
        let proto = proto_of(&record.key);
        now.secs().saturating_sub(record.seen) < limit(proto, record.value[STATE], rules)
            && self.mapping_of(record).is_none_or(|at| {
                Class::of(proto).is_some_and(|class| {
                    let (_, inside, _) = ends(&record.key);
                    self.mappings_of(class, inside.end.address).get(at).is_some()
                })
            })
    }

    fn mapping_of(&self, record: &Connection) -> Option<Handle> {
        let word = record.value[MAPPING];
        (word & NONE == 0).then(|| Handle::from_u64(word))
    }
}

/// By class, and by family.
const fn of_class<T>(
    [tcp, udp, icmp, sctp]: &[[T; 2]; Class::ALL.len()],
    class: Class,
    address: Ipv6Addr,
) -> &T {
    let [v4, v6] = match class {
        Class::Tcp => tcp,
        Class::Udp => udp,
        Class::Icmp => icmp,
        Class::Sctp => sctp,
    };
    if address.to_ipv4_mapped().is_some() { v4 } else { v6 }
}

/// Nobody can guess it.
#[cfg(not(loom))]
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0u8)
}

/// A model must do the same each time.
#[cfg(loom)]
const fn random() -> u64 {
    7
}

/// Whose an end point of ours is.
struct Found {
    inside: Inside,
    owner: PortId,
    mapping: Option<Handle>,
}

/// Of ICMP only queries and their answers have one (RFC 792, RFC 950, RFC 4443 section 4). The rest is for us, if for
/// anybody (RFC 5508 section 7 REQ-10).
const fn has_identifier(key: &FlowKey) -> bool {
    match key.proto {
        PROTO_ICMP => matches!(key.dport >> 8, 0 | 8 | 13..=18),
        PROTO_ICMPV6 => matches!(key.dport >> 8, 128 | 129),
        _ => true,
    }
}

/// Seconds that a connection in this state lasts without a packet.
const fn limit(proto: u8, state: u64, rules: &Rules) -> u32 {
    let timeouts = rules.timeouts();
    match proto {
        PROTO_TCP if matches!(State::stage_of(state), tcp::Stage::Established) => timeouts.tcp_established,
        PROTO_TCP => timeouts.tcp_transitory,
        PROTO_SCTP => timeouts.tcp_established,
        PROTO_UDP => timeouts.udp,
        PROTO_ICMP | PROTO_ICMPV6 => timeouts.icmp,
        _ => timeouts.others,
    }
}

/// The longest of them.
const fn longest(proto: u8, rules: &Rules) -> u32 {
    let timeouts = rules.timeouts();
    match proto {
        PROTO_TCP if timeouts.tcp_transitory > timeouts.tcp_established => timeouts.tcp_transitory,
        PROTO_TCP | PROTO_SCTP => timeouts.tcp_established,
        PROTO_UDP => timeouts.udp,
        _ => timeouts.icmp,
    }
}
