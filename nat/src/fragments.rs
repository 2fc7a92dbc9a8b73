//! Fragments of translated packets: what the first one became, by its l4 ports, the others become as well (RFC 4787
//! section 11, REQ-14). Nothing is put together.

#[cfg(test)]
mod tests;

use std::net::Ipv6Addr;

use switch::flow::Packet;
use switch::port::PortId;
use switch::table::{New, Outcome, Table, TableError};
use switch::tick::Tick;
use switch::verdict::Nat;

/// RFC 8200 section 4.5: who puts a packet together waits 60 s for the rest of it.
const REST: u32 = 60;
/// In the last word of a value: it stays with whom it came from.
const NOBODY: u64 = 1 << 16;

/// What the rest of a packet becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// The container that it comes to; `None`: it leaves.
    pub to: Option<PortId>,
}

/// Packets whose first fragment was translated.
///
/// # Threads
/// As [`Table`]: everything takes `&self`, nothing blocks.
pub struct Fragments {
    table: Table<5, 5>,
}

impl Fragments {
    /// Room for so many packets, which `owners` ports share fairly.
    ///
    /// # Errors
    /// Those of [`Table::new`].
    pub fn new(packets: usize, owners: usize) -> Result<Self, TableError> {
        Ok(Self { table: Table::new(packets, owners)? })
    }

    /// The first fragment became what `nat` says; `to` as in [`Rest`]. Without room the rest of it is dropped by name.
    pub fn expect(&self, first: &Packet, nat: &Nat, to: Option<PortId>, now: Tick) {
        let ([s0, s1], [d0, d1]) = (words(nat.src), words(nat.dst));
        let value = [s0, s1, d0, d1, to.map_or(NOBODY, |port| u64::from(port.0))];
        let key = key(first);
        let new = New { key, value, owner: first.meta.port.0, pinned: false, seen: now.secs_up() };
        let Outcome::Existing(old) = self.table.insert(&new).outcome else { return };
        if old.value == value && old.owner == new.owner {
            self.table.touch(&old, new.seen);
            return;
        }
        // The identification came round: of two packets at once only one can be had (RFC 6864 section 5.2).
        self.table.take(&old);
        self.table.insert(&new);
    }

    /// What a later fragment becomes, if its first one was here.
    pub fn find(&self, later: &Packet, now: Tick) -> Option<Rest> {
        let record = self.table.lookup(&key(later))?;
        let [s0, s1, d0, d1, to] = record.value;
        (now.secs().saturating_sub(record.seen) < REST).then_some(Rest {
            src: address([s0, s1]),
            dst: address([d0, d1]),
            to: (to != NOBODY).then_some(PortId(to as u16)),
        })
    }

    /// Forgets what is too old.
    pub fn age(&self, now: Tick) -> usize {
        self.table.retain(|record| now.secs().saturating_sub(record.seen) < REST)
    }

    /// Forgets what came from these ports, or goes there.
    pub fn forget(&self, gone: impl Fn(PortId) -> bool) -> usize {
        self.table.retain(|record| {
            let [.., to] = record.value;
            !gone(PortId(record.owner)) && (to == NOBODY || !gone(PortId(to as u16)))
        })
    }
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
