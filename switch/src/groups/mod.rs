//! Who listens to which multicast group, in one network: IGMP and MLD snooping (RFC 4541).
//!
//! Three instances of [`crate::table`], whose entries belong to the port that they are about, so that each port has a
//! fair share and no more:
//! - **members**: (group, VLAN, port), from reports. One that leaves has [`LAST_QUERY`] seconds, in which others behind
//!   the same port may say that they stay.
//! - **routers**: (family, VLAN, port), from queries and PIM hellos. They get every group, and all reports.
//! - **queriers**: (family, VLAN), the one with the lowest address of those that ask (RFC 3376 section 6.6.2). As long as
//!   nobody asks nobody answers, so memberships are only held to where there is one, and where everybody had the time to
//!   answer it. Elsewhere all goes to all.
//!
//! What is forgotten for its age is forgotten by [`Groups::age`], once a second, so a lookup reads no clock.

mod keys;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use std::net::{Ipv4Addr, Ipv6Addr};

use keys::{
    ALL_HOSTS_V4, ALL_NODES, ALL_ROUTERS_V4, ALL_ROUTERS_V6, address, address_of, is_of_all,
    is_solicited_node, member, place, querier, vid_of, words,
};

use crate::flow::{Body, GroupKind, L3, Packet};
use crate::mac::MacAddr;
use crate::parse::PROTO_IGMP;
use crate::parse::group::{Change, is_multicast, records};
use crate::port::PortId;
use crate::sync::Ordering;
use crate::table::{New, Outcome, Record, Table, TableError};
use crate::tick::Tick;

/// Ports whose entries are counted apart; all there are.
const PORTS: usize = 1 << 16;
/// Router ports of a network.
const ROUTERS: usize = 1024;
/// Queriers: one a family and VLAN, so this is never full.
const QUERIERS: usize = 2 << 12;

/// Seconds between general queries (RFC 3376 section 8.2).
pub const QUERY_INTERVAL: u32 = 125;
/// Seconds in which everybody answers one (section 8.3).
pub const RESPONSE_INTERVAL: u32 = 10;
/// Seconds after which a membership that nobody reported is over (section 8.4): twice the interval and one answer.
pub const MEMBERSHIP: u32 = 2 * QUERY_INTERVAL + RESPONSE_INTERVAL;
/// Seconds after which a querier or router that was not heard is gone (section 8.5).
pub const QUERIER_PRESENT: u32 = 2 * QUERY_INTERVAL + RESPONSE_INTERVAL / 2;
/// Seconds after a leave in which somebody else may say that he listens (section 8.9: two queries, a second each).
pub const LAST_QUERY: u32 = 2;

/// Groups of one report that are asked about when it leaves them; the rest runs out by itself.
const ASKED: usize = 8;
/// Set in the state of a querier whom everybody had the time to answer.
const ANSWERED: u64 = 1;

/// IPv4 or IPv6: IGMP and MLD have queriers, and routers, of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IGMP.
    V4,
    /// MLD.
    V6,
}

impl Family {
    /// That of an address.
    pub const fn of(address: Ipv6Addr) -> Self {
        if address.to_ipv4_mapped().is_some() { Self::V4 } else { Self::V6 }
    }

    const fn bit(self) -> u64 {
        match self {
            Self::V4 => 0,
            Self::V6 => 1 << 32,
        }
    }
}

/// To whom a frame for all, or for a group, goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To all.
    All(Why),
    /// To whoever listens to the group, and to multicast routers.
    Members,
    /// To multicast routers only.
    Routers,
}

/// Why a frame goes to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is not for a group of IP.
    NotIp,
    /// All nodes, and protocols of the link itself, for which nobody needs to report (RFC 4541 sections 2.1.2 (2) and 3).
    Link,
    /// It asks all (section 2.1.1 (2)), or is of a kind that is not known (section 2.1.1 (3)).
    Asks,
    /// Nobody asks who listens to what.
    NoQuerier,
    /// Nobody reported this solicited-node group: there are stacks that report none, and have addresses all the same.
    Unreported,
}

/// What a message taught.
#[derive(Clone, Copy, Debug)]
pub struct Learned {
    /// Memberships for which there was no room.
    pub refused: u64,
    left: [Ipv6Addr; ASKED],
    left_len: usize,
}

impl Learned {
    const NOTHING: Self = Self { refused: 0, left: [Ipv6Addr::UNSPECIFIED; ASKED], left_len: 0 };

    /// Groups that were left: whether somebody else behind the same port listens is to be asked.
    pub fn left(&self) -> &[Ipv6Addr] {
        self.left.get(..self.left_len).unwrap_or_default()
    }

    fn leaves(&mut self, group: Ipv6Addr) {
        if let Some(place) = self.left.get_mut(self.left_len) {
            *place = group;
            self.left_len += 1;
        }
    }
}

/// The querier of a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asks {
    /// Its address.
    pub address: Ipv6Addr,
    /// Where it is; [`PortId::NOBODY`]: our gateway.
    pub port: PortId,
    /// The second in which it was last heard.
    pub seen: u32,
}

/// An entry, as `show groups` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupEntry {
    /// VLAN; 0 is untagged.
    pub vid: u16,
    /// The group, IPv4 v4-mapped; of a router all routers, of a querier all hosts.
    pub group: Ipv6Addr,
    /// Behind which port; of a querier [`PortId::NOBODY`] where that is the gateway.
    pub port: PortId,
    /// Seconds since it was last heard.
    pub age: u32,
    /// What is there.
    pub kind: EntryKind,
}

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// Somebody who listens.
    Member,
    /// A multicast router.
    Router,
    /// The router that asks.
    Querier,
}

/// Groups, routers and queriers of one network. See the [module](self).
///
/// # Threads
/// Workers learn and look up while the control plane ages and flushes: everything takes `&self`, from any thread at any
/// time, and nothing blocks.
pub struct Groups {
    members: Table<3, 1>,
    routers: Table<1, 0>,
    queriers: Table<1, 3>,
}

impl Groups {
    /// Nobody listens; `capacity` memberships fit, about 100 bytes each, touched when used.
    ///
    /// # Errors
    /// Those of [`Table::new`].
    pub fn new(capacity: usize) -> Result<Self, TableError> {
        Ok(Self {
            members: Table::new(capacity, PORTS)?,
            routers: Table::new(ROUTERS, PORTS)?,
            queriers: Table::new(QUERIERS, 1)?,
        })
    }

    /// Memberships that fit.
    pub fn capacity(&self) -> usize {
        self.members.capacity()
    }

    /// Learns from a message about groups. The caller has admitted its frame, whose bytes are `frame`.
    #[cold]
    pub fn learn(&self, frame: &[u8], packet: &Packet, now: Tick) -> Learned {
        let (meta, mut learned) = (&packet.meta, Learned::NOTHING);
        let Body::Group(said) = meta.body else { return learned };
        // What has a tag behind that of the VLAN is in a network of its own, of which we know nothing.
        if !meta.dst.is_group() || meta.inner_vlan.is_some() {
            return learned;
        }
        let (vid, port) = (meta.vid, meta.port);
        match said.kind {
            GroupKind::Report => self.change(said.group, Change::Joined, vid, port, now, &mut learned),
            GroupKind::Leave => self.change(said.group, Change::Left, vid, port, now, &mut learned),
            GroupKind::Records => {
                for (group, change) in records(frame, packet) {
                    self.change(group, change, vid, port, now, &mut learned);
                }
            }
            GroupKind::Query => {
                self.heard(vid, packet.key.src, port, now);
            }
            GroupKind::Hello => self.router(Family::of(packet.key.src), vid, port, now),
            GroupKind::Bad => {}
        }
        learned
    }

    fn change(
        &self,
        group: Ipv6Addr,
        change: Change,
        vid: u16,
        port: PortId,
        now: Tick,
        learned: &mut Learned,
    ) {
        // These go to all, whoever listens.
        if is_of_all(group) {
            return;
        }
        let key = member(group, vid, port);
        match change {
            Change::Joined => learned.refused += u64::from(!self.join(key, port, now)),
            Change::Left => {
                if let Some(record) = self.members.lookup(&key) {
                    learned.leaves(group);
                    if record.value == [0] {
                        self.until(&record, u64::from(now.secs_up().saturating_add(LAST_QUERY)));
                    }
                }
            }
        }
    }

    /// Whether it is in the table.
    fn join(&self, key: [u64; 3], port: PortId, now: Tick) -> bool {
        let seen = now.secs_up();
        let record = match self.members.lookup(&key) {
            Some(record) => record,
            None => {
                let new = New { key, value: [0], owner: port.0, pinned: false, seen };
                match self.members.insert(&new).outcome {
                    Outcome::New(_) => return true,
                    Outcome::Existing(record) => record,
                    Outcome::Full | Outcome::BucketFull => return false,
                }
            }
        };
        self.members.touch(&record, seen);
        if record.value != [0] {
            self.until(&record, 0);
        }
        true
    }

    /// A membership ends at that second, or with its age (0).
    fn until(&self, record: &Record<3, 1>, end: u64) {
        if let Some(held) = self.members.hold(record.at) {
            let [value] = held.value();
            value.store(end, Ordering::Relaxed);
        }
    }

    /// A multicast router is behind `port`.
    fn router(&self, family: Family, vid: u16, port: PortId, now: Tick) {
        let (key, seen) = ([place(family, vid, port)], now.secs_up());
        match self.routers.lookup(&key) {
            Some(record) => self.routers.touch(&record, seen),
            // Without room it does without: whoever took it has no more of it than others.
            None => _ = self.routers.insert(&New { key, value: [], owner: port.0, pinned: false, seen }),
        }
    }

    /// A query came from `address` by `port`, or from our gateway ([`PortId::NOBODY`]).
    pub fn heard(&self, vid: u16, address: Ipv6Addr, port: PortId, now: Tick) {
        // RFC 4541 section 2.1.1 (1) b: a query from 0.0.0.0 is of a switch without an address, which routes nothing and
        // takes part in no election.
        if address.to_ipv4_mapped() == Some(Ipv4Addr::UNSPECIFIED) {
            return;
        }
        let family = Family::of(address);
        if port != PortId::NOBODY {
            self.router(family, vid, port, now);
        }
        let (key, seen) = ([querier(family, vid)], now.secs_up());
        let Some(record) = self.queriers.lookup(&key) else {
            let [hi, lo] = words(address);
            let value = [hi, lo, u64::from(seen) << 1];
            self.queriers.insert(&New { key, value, owner: port.0, pinned: false, seen });
            return;
        };
        let gone = now.secs().saturating_sub(record.seen) >= QUERIER_PRESENT;
        let ours_again = record.owner == port.0 && port == PortId::NOBODY;
        if address > address_of(&record) && !gone && !ours_again {
            return;
        }
        self.queriers.touch(&record, seen);
        if address != address_of(&record)
            && let Some(held) = self.queriers.hold(record.at)
        {
            // Of IPv4, and of fe80::/64, one word differs: nobody sees half an address.
            let [high, low, _] = held.value();
            let [hi, lo] = words(address);
            high.store(hi, Ordering::Relaxed);
            low.store(lo, Ordering::Relaxed);
        }
        if record.owner != port.0 {
            self.queriers.assign(&record, port.0, false);
        }
    }

    /// Who asks in a VLAN.
    pub fn querier(&self, family: Family, vid: u16) -> Option<Asks> {
        let record = self.queriers.lookup(&[querier(family, vid)])?;
        Some(Asks { address: address_of(&record), port: PortId(record.owner), seen: record.seen })
    }

    fn is_answered(&self, family: Family, vid: u16) -> bool {
        self.queriers.lookup(&[querier(family, vid)]).is_some_and(|record| record.value[2] & ANSWERED != 0)
    }

    /// Whether no multicast router is known at all, who would want to hear of reports.
    pub fn is_without_routers(&self) -> bool {
        self.routers.is_empty()
    }

    /// To whom a frame goes that would go to all of `ports`.
    pub fn reach(&self, packet: &Packet, ports: &[PortId]) -> Reach {
        let (meta, dst) = (&packet.meta, packet.key.dst);
        let ip = matches!(meta.l3, L3::V4 | L3::V6) && meta.inner_vlan.is_none();
        if !ip || !meta.dst.is_group() || meta.dst == MacAddr::BROADCAST {
            return Reach::All(Why::NotIp);
        }
        match &meta.body {
            // RFC 4541 section 2.1.1 (1): no host shall hear another's, and keep its own to itself.
            Body::Group(said) if said.kind.is_report() => return Reach::Routers,
            Body::Group(_) => return Reach::All(Why::Asks),
            _ if packet.key.proto == PROTO_IGMP => return Reach::All(Why::Asks),
            _ => {}
        }
        if !is_multicast(dst) {
            return Reach::All(Why::NotIp);
        }
        if is_of_all(dst) {
            return Reach::All(Why::Link);
        }
        if !self.is_answered(Family::of(dst), meta.vid) {
            return Reach::All(Why::NoQuerier);
        }
        if is_solicited_node(dst) && !ports.iter().any(|port| self.listens(dst, meta.vid, *port)) {
            return Reach::All(Why::Unreported);
        }
        Reach::Members
    }

    /// Whether `out` is one of those whom a frame reaches.
    #[inline]
    pub fn reaches(&self, reach: Reach, packet: &Packet, out: PortId) -> bool {
        let (dst, vid) = (packet.key.dst, packet.meta.vid);
        match reach {
            Reach::All(_) => true,
            Reach::Members => self.listens(dst, vid, out) || self.routes(dst, vid, out),
            Reach::Routers => self.routes(dst, vid, out),
        }
    }

    fn listens(&self, group: Ipv6Addr, vid: u16, port: PortId) -> bool {
        self.members.lookup(&member(group, vid, port)).is_some()
    }

    fn routes(&self, group: Ipv6Addr, vid: u16, port: PortId) -> bool {
        let key = [place(Family::of(group), vid, port)];
        !self.routers.is_empty() && self.routers.lookup(&key).is_some()
    }

    /// Forgets what is over, and believes queriers whom everybody had the time to answer. To be called every second.
    pub fn age(&self, now: Tick) {
        let now = now.secs();
        let age = |seen: u32| now.saturating_sub(seen);
        self.members.retain(|record| {
            let [end] = record.value;
            (end == 0 || u64::from(now) < end) && age(record.seen) < MEMBERSHIP
        });
        self.routers.retain(|record| age(record.seen) < QUERIER_PRESENT);
        self.queriers.retain(|record| age(record.seen) < QUERIER_PRESENT);
        for record in self.queriers.iter() {
            let [.., state] = record.value;
            let since = u32::try_from(state >> 1).unwrap_or(u32::MAX);
            // One second more: answers are on their way.
            if state & ANSWERED == 0
                && age(since) > RESPONSE_INTERVAL
                && let Some(held) = self.queriers.hold(record.at)
            {
                let [.., state] = held.value();
                state.fetch_or(ANSWERED, Ordering::Relaxed);
            }
        }
    }

    /// Forgets what is behind a port.
    pub fn flush(&self, port: PortId) {
        self.members.retain(|record| record.owner != port.0);
        self.routers.retain(|record| record.owner != port.0);
        self.queriers.retain(|record| record.owner != port.0);
    }

    /// Copies what is here into `other`, as far as it fits.
    pub fn copy_into(&self, other: &Self) {
        fn copy<const K: usize, const V: usize>(from: &Table<K, V>, to: &Table<K, V>) {
            for Record { key, value, owner, pinned, seen, .. } in from.iter() {
                to.insert(&New { key, value, owner, pinned, seen });
            }
        }
        copy(&self.members, &other.members);
        copy(&self.routers, &other.routers);
        copy(&self.queriers, &other.queriers);
    }

    /// All entries, in no order.
    pub fn entries(&self, now: Tick) -> impl Iterator<Item = GroupEntry> + '_ {
        let age = move |seen: u32| now.secs().saturating_sub(seen);
        let members = self.members.iter().map(move |record| GroupEntry {
            vid: vid_of(record.key[2] >> 16),
            group: address(record.key[0], record.key[1]),
            port: PortId(record.owner),
            age: age(record.seen),
            kind: EntryKind::Member,
        });
        let of_all = |word: u64, v4, v6| if word & Family::V6.bit() == 0 { v4 } else { v6 };
        let routers = self.routers.iter().map(move |record| GroupEntry {
            vid: vid_of(record.key[0] >> 16),
            group: of_all(record.key[0], ALL_ROUTERS_V4, ALL_ROUTERS_V6),
            port: PortId(record.owner),
            age: age(record.seen),
            kind: EntryKind::Router,
        });
        let queriers = self.queriers.iter().map(move |record| GroupEntry {
            vid: vid_of(record.key[0]),
            group: of_all(record.key[0], ALL_HOSTS_V4, ALL_NODES),
            port: PortId(record.owner),
            age: age(record.seen),
            kind: EntryKind::Querier,
        });
        members.chain(routers).chain(queriers)
    }
}
