//! Fragments of translated packets: what the first one became, by its l4 ports, the others become as well (RFC 4787
//! section 11, REQ-14). Nothing is put together.
//!
//! Who shares an address outside shares its identifications as well: of two containers whose packets have the same one, a
//! host outside would put pieces of both together (RFC 4787 section 11, RFC 6864 section 5.1). So a packet that leaves in
//! fragments gets one of ours. What leaves whole keeps its own.

#[cfg(test)]
mod tests;

use std::hash::BuildHasher;
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicU16, Ordering};

use foldhash::fast::RandomState;
use switch::flow::{L3, Packet};
use switch::port::PortId;
use switch::table::{New, Table, TableError};
use switch::tick::Tick;
use switch::verdict::Nat;

/// RFC 8200 section 4.5: who puts a packet together waits 60 s for the rest of it.
const REST: u32 = 60;
/// In the last word of a value: it stays with whom it came from.
const NOBODY: u64 = 1 << 16;
/// In the same word, above these bits: the identification, and whether there is one.
const ID_SHIFT: u32 = 32;
const HAS_ID: u64 = 1 << 17;
const TO: u64 = NOBODY | 0xffff;
/// Counters of identifications. Between two hosts one repeats after as many packets as all hosts of a counter got.
const COUNTERS: usize = 2048;

/// What the rest of a packet becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// The container that it comes to; `None`: it leaves.
    pub to: Option<PortId>,
    /// The identification that all of the packet has from there on; `None`: its own.
    pub id: Option<u16>,
}

/// Packets whose first fragment was translated.
///
/// # Threads
/// As [`Table`]: everything takes `&self`, nothing blocks.
pub struct Fragments {
    table: Table<5, 5>,
    /// By source, destination and protocol, which is what an identification is unique for (RFC 6864 section 4.2).
    ids: Box<[AtomicU16]>,
    hash: RandomState,
}

impl Fragments {
    /// Room for so many packets, which `owners` ports share fairly.
    ///
    /// # Errors
    /// Those of [`Table::new`].
    pub fn new(packets: usize, owners: usize) -> Result<Self, TableError> {
        let hash = RandomState::default();
        // Where they begin nobody outside knows, nor how far one is from another.
        let ids = (0..COUNTERS).map(|index| AtomicU16::new(hash.hash_one(index) as u16)).collect();
        Ok(Self { table: Table::new(packets, owners)?, ids, hash })
    }

    /// The first fragment became what `nat` says; `to` as in [`Rest`]. Gives the identification that it gets. Without room
    /// the rest of it is dropped by name.
    pub fn expect(&self, first: &Packet, nat: &Nat, to: Option<PortId>, now: Tick) -> Option<u16> {
        let ([s0, s1], [d0, d1]) = (words(nat.src), words(nat.dst));
        let last = |id: Option<u16>| {
            let id = id.map_or(0, |id| HAS_ID | u64::from(id) << ID_SHIFT);
            to.map_or(NOBODY, |port| u64::from(port.0)) | id
        };
        let (key, owner, seen) = (key(first), first.meta.port.0, now.secs_up());
        if let Some(old) = self.table.lookup(&key) {
            let [.., word] = old.value;
            if old.owner == owner && old.value == [s0, s1, d0, d1, last(id_of(word))] {
                self.table.touch(&old, seen);
                return id_of(word);
            }
            // The identification came round: of two packets at once only one can be had (RFC 6864 section 5.2).
            self.table.take(&old);
        }
        let id = self.identification(first, nat);
        let value = [s0, s1, d0, d1, last(id)];
        self.table.insert(&New { key, value, owner, pinned: false, seen });
        id
    }

    /// An identification of ours for a packet that leaves in fragments as `nat` says; `None`: it keeps its own, as IPv6,
    /// and what has its own address outside as well.
    pub fn identification(&self, packet: &Packet, nat: &Nat) -> Option<u16> {
        if packet.meta.l3 != L3::V4 || nat.src == packet.key.src {
            return None;
        }
        let hash = self.hash.hash_one((words(nat.src), words(nat.dst), nat.proto));
        let counter = self.ids.get(hash as usize % COUNTERS)?;
        Some(counter.fetch_add(1, Ordering::Relaxed))
    }

    /// What a later fragment becomes, if its first one was here.
    pub fn find(&self, later: &Packet, now: Tick) -> Option<Rest> {
        let record = self.table.lookup(&key(later))?;
        let [s0, s1, d0, d1, last] = record.value;
        (now.secs().saturating_sub(record.seen) < REST).then_some(Rest {
            src: address([s0, s1]),
            dst: address([d0, d1]),
            to: port_of(last),
            id: id_of(last),
        })
    }

    /// Forgets what is too old.
    pub fn age(&self, now: Tick) -> usize {
        self.table.retain(|record| now.secs().saturating_sub(record.seen) < REST)
    }

    /// Forgets what came from these ports, or goes there.
    pub fn forget(&self, gone: impl Fn(PortId) -> bool) -> usize {
        self.table.retain(|record| {
            let [.., last] = record.value;
            !gone(PortId(record.owner)) && !port_of(last).is_some_and(&gone)
        })
    }
}

fn port_of(last: u64) -> Option<PortId> {
    (last & TO != NOBODY).then_some(PortId(last as u16))
}

fn id_of(last: u64) -> Option<u16> {
    (last & HAS_ID != 0).then_some((last >> ID_SHIFT) as u16)
}

/// The key that all fragments of a packet have. The protocol is left out: behind extension headers the first says
/// another one than the rest (RFC 8200 section 4.5).
pub(crate) fn key(packet: &Packet) -> [u64; 5] {
    let ([s0, s1], [d0, d1]) = (words(packet.key.src), words(packet.key.dst));
    [u64::from(packet.key.zone) << 32 | u64::from(packet.meta.fragment_id), s0, s1, d0, d1]
}

const fn words(address: Ipv6Addr) -> [u64; 2] {
    let bits = address.to_bits();
    [(bits >> 64) as u64, bits as u64]
}

const fn address([high, low]: [u64; 2]) -> Ipv6Addr {
    Ipv6Addr::from_bits((high as u128) << 64 | low as u128)
}
