//! Neighbours of a gateway: which MAC answers for which address (RFC 826, RFC 4861 section 7.3).
//!
//! An instance of [`switch::table`], one for each network: the key is the address, the owner the port that answered,
//! so that a port which invents addresses pushes out its own. An entry is *incomplete* while an address is asked for: it
//! has no MAC, and whoever reads the answer knows by it that there was a question, whichever worker put it. An entry is *reachable* for [`REACHABLE`] seconds after
//! it was confirmed; then it is still used, and asked about once a second; after [`GONE`] it is not used any more.

use std::net::Ipv6Addr;
use std::sync::atomic::Ordering;

use switch::mac::MacAddr;
use switch::port::PortId;
use switch::table::{New, Outcome, Record, Table, TableError};
use switch::tick::Tick;

/// Ports whose entries are counted apart; all there are.
const PORTS: usize = 1 << 16;
/// Seconds in which a confirmed entry is not asked about (RFC 4861 section 10, REACHABLE_TIME).
pub const REACHABLE: u32 = 30;
/// Seconds after which an entry that nobody confirmed is not used.
pub const GONE: u32 = 90;
/// Seconds for which an address that is asked for is known to be, unless it is asked for again.
const ASKED: u32 = 4;
/// Seconds for which nobody is believed to be an address that was asked for in vain: a route with other next hops uses those.
const RETRY: u32 = 30;
/// Bits of the value that hold the MAC; above them, the second in which it was last asked about.
const MAC_BITS: u32 = 48;

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its MAC.
    pub mac: MacAddr,
    /// Nobody confirmed it for a while, and it was not asked in this second.
    pub ask: bool,
}

/// A line of `show neighbors`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// The address; IPv4 v4-mapped.
    pub address: Ipv6Addr,
    /// Its MAC.
    pub mac: MacAddr,
    /// The port that answered.
    pub port: PortId,
    /// Seconds since it was confirmed.
    pub age: u32,
}

/// The neighbours on one network.
///
/// # Threads
/// Everything takes `&self`, from any thread at any time; nothing blocks, and nothing but `new` allocates.
pub struct Neighbors {
    table: Table<2, 1>,
}

impl Neighbors {
    /// Room for `capacity` neighbours.
    ///
    /// # Errors
    /// Those of [`Table::new`].
    pub fn new(capacity: usize) -> Result<Self, TableError> {
        Ok(Self { table: Table::new(capacity, PORTS)? })
    }

    /// What is known of `address`; nothing if that is too old to be true.
    #[inline]
    pub fn lookup(&self, address: Ipv6Addr, now: Tick) -> Option<Known> {
        let record = self.table.lookup(&key(address))?;
        let age = now.secs().saturating_sub(record.seen);
        let [value] = record.value;
        (age < GONE && has_mac(&record)).then(|| Known {
            mac: mac(value),
            ask: age >= REACHABLE && (value >> MAC_BITS) as u16 != now.secs() as u16,
        })
    }

    /// Whether `address` was asked for and did not answer, or not yet; or has not been heard of for too long. Nobody knows
    /// better of who was never asked for.
    pub fn is_gone(&self, address: Ipv6Addr, now: Tick) -> bool {
        self.table.lookup(&key(address)).is_some_and(|record| match has_mac(&record) {
            true => now.secs().saturating_sub(record.seen) >= GONE,
            false => now.secs().saturating_sub(record.seen) < RETRY,
        })
    }

    /// Notes that `address` is being asked about.
    pub fn asked(&self, address: Ipv6Addr, now: Tick) {
        if let Some(record) = self.table.lookup(&key(address))
            && let Some(held) = self.table.hold(record.at)
        {
            let [word] = held.value();
            let second = u64::from(now.secs() as u16) << MAC_BITS;
            let old = word.load(Ordering::Relaxed);
            // Somebody else wrote: a newer MAC, or the same second. Either is fine.
            let _ = word.compare_exchange(old, old & mask() | second, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// `address` answered from `mac` by `port`, or asked us: it is there (RFC 826, RFC 4861 section 7.2.3).
    pub fn confirm(&self, address: Ipv6Addr, mac: MacAddr, port: PortId, now: Tick) {
        let value = word(mac);
        for _ in 0..4 {
            let new =
                New { key: key(address), value: [value], owner: port.0, pinned: false, seen: now.secs_up() };
            let Outcome::Existing(record) = self.table.insert(&new).outcome else { return };
            if record.owner != port.0 && !self.table.assign(&record, port.0, false) {
                continue;
            }
            let Some(held) = self.table.hold(record.at) else { continue };
            let [place] = held.value();
            place.store(value, Ordering::Relaxed);
            drop(held);
            self.table.touch(&record, now.secs_up());
            return;
        }
    }

    /// Notes that nobody is known to be `address` and that it is asked for, on behalf of `port` (INCOMPLETE, RFC 4861
    /// section 7.3.2). What is known of it, be it old, stays.
    pub fn incomplete(&self, address: Ipv6Addr, port: PortId, now: Tick) {
        let seen = now.secs_up();
        let new = New { key: key(address), value: [0], owner: port.0, pinned: false, seen };
        if let Outcome::Existing(record) = self.table.insert(&new).outcome
            && !has_mac(&record)
        {
            self.table.touch(&record, seen);
        }
    }

    /// The same, unless it is neither known yet nor asked for: what says it unasked teaches nothing new (Linux:
    /// `arp_accept` = 0).
    pub fn update(&self, address: Ipv6Addr, mac: MacAddr, port: PortId, now: Tick) -> bool {
        let known = self
            .table
            .lookup(&key(address))
            .is_some_and(|record| has_mac(&record) || now.secs().saturating_sub(record.seen) < ASKED);
        if known {
            self.confirm(address, mac, port, now);
        }
        known
    }

    /// `address` said by `port` that it is there, and not by which MAC: true of one that is known, and known to be behind
    /// that port. Its MAC stays as it is, and who is not known stays unknown.
    pub fn reconfirm(&self, address: Ipv6Addr, port: PortId, now: Tick) -> bool {
        let known = self.table.lookup(&key(address)).filter(|record| {
            record.owner == port.0 && has_mac(record) && now.secs().saturating_sub(record.seen) < GONE // what is gone is not used again
        });
        known.is_some_and(|record| {
            self.table.touch(&record, now.secs_up());
            true
        })
    }

    /// Copies what is here into `other`, as far as it fits.
    pub fn copy_into(&self, other: &Self) {
        for record in self.table.iter() {
            let Record { key, value, owner, pinned, seen, .. } = record;
            other.table.insert(&New { key, value, owner, pinned, seen });
        }
    }

    /// How many fit.
    pub fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// Forgets who answered by `port`.
    pub fn flush(&self, port: PortId) -> usize {
        self.table.retain(|record| record.owner != port.0)
    }

    /// Forgets who was not confirmed for a long time.
    pub fn age(&self, now: Tick) -> usize {
        let limit = |record: &Record<2, 1>| if has_mac(record) { GONE } else { RETRY };
        self.table.retain(|record| now.secs().saturating_sub(record.seen) < limit(record))
    }

    /// All of them.
    pub fn iter(&self, now: Tick) -> impl Iterator<Item = Neighbor> + '_ {
        self.table.iter().filter(has_mac).map(move |record| Neighbor {
            address: Ipv6Addr::from(
                (u128::from(record.key[0]) << 64 | u128::from(record.key[1])).to_be_bytes(),
            ),
            mac: mac(record.value[0]),
            port: PortId(record.owner),
            age: now.secs().saturating_sub(record.seen),
        })
    }
}

fn key(address: Ipv6Addr) -> [u64; 2] {
    let bits = u128::from_be_bytes(address.octets());
    [(bits >> 64) as u64, bits as u64]
}

fn has_mac(record: &Record<2, 1>) -> bool {
    record.value[0] & mask() != 0
}

const fn mask() -> u64 {
    (1 << MAC_BITS) - 1
}

fn word(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

fn mac(word: u64) -> MacAddr {
    let [_, _, mac @ ..] = word.to_be_bytes();
    MacAddr(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

    #[test]
    fn a_neighbour_is_reachable_then_asked_then_gone() {
        let table = Neighbors::new(16).unwrap();
        let at = |secs: u32| Tick::from_secs(1000 + secs);
        table.confirm(A, MacAddr([2, 0, 0, 0, 0, 1]), PortId(3), at(0));
        let known = Known { mac: MacAddr([2, 0, 0, 0, 0, 1]), ask: false };
        assert_eq!(table.lookup(A, at(29)), Some(known));
        assert_eq!(table.lookup(A, at(30)), Some(Known { ask: true, ..known }));
        table.asked(A, at(30));
        assert_eq!(table.lookup(A, at(30)), Some(known), "once a second");
        assert_eq!(table.lookup(A, at(31)), Some(Known { ask: true, ..known }));
        assert_eq!(table.lookup(A, at(90)), None);
        table.confirm(A, MacAddr([2, 0, 0, 0, 0, 2]), PortId(4), at(90));
        assert_eq!(table.lookup(A, at(91)).unwrap().mac, MacAddr([2, 0, 0, 0, 0, 2]), "moved");
        let line = Neighbor { address: A, mac: MacAddr([2, 0, 0, 0, 0, 2]), port: PortId(4), age: 1 };
        assert_eq!(table.iter(at(91)).collect::<Vec<_>>(), [line]);
        assert_eq!(table.flush(PortId(3)), 0);
        assert_eq!(table.age(at(180)), 1);
    }

    #[test]
    fn who_speaks_unasked_is_believed_only_when_known() {
        let table = Neighbors::new(16).unwrap();
        let now = Tick::from_secs(5);
        assert!(!table.update(A, MacAddr([2; 6]), PortId(1), now));
        assert_eq!(table.lookup(A, now), None);
        table.confirm(A, MacAddr([2; 6]), PortId(1), now);
        assert!(table.update(A, MacAddr([4; 6]), PortId(1), now));
        assert_eq!(table.lookup(A, now).unwrap().mac, MacAddr([4; 6]));
    }

    #[test]
    fn an_answer_is_believed_while_the_address_is_asked_for() {
        let table = Neighbors::new(16).unwrap();
        let (mac, at) = (MacAddr([2; 6]), |secs: u32| Tick::from_secs(1000 + secs));
        table.incomplete(A, PortId(1), at(0));
        assert_eq!((table.lookup(A, at(0)), table.iter(at(0)).count()), (None, 0), "nobody is known");
        assert!(!table.reconfirm(A, PortId(1), at(1)), "by which MAC?");
        assert!(!table.update(A, mac, PortId(2), at(ASKED)), "that was long ago");
        table.incomplete(A, PortId(1), at(ASKED));
        assert!(table.update(A, mac, PortId(2), at(ASKED + 1)));
        assert_eq!(table.lookup(A, at(ASKED + 1)), Some(Known { mac, ask: false }));
        table.incomplete(A, PortId(1), at(ASKED + 60));
        assert!(table.lookup(A, at(ASKED + 60)).is_some(), "what is known stays, and its age");
        assert_eq!(table.age(at(ASKED + 1 + GONE)), 1);
        table.incomplete(A, PortId(1), at(200));
        assert!(table.is_gone(A, at(200)) && !table.update(A, mac, PortId(2), at(200 + ASKED)));
        assert_eq!((table.age(at(200 + RETRY - 1)), table.age(at(200 + RETRY))), (0, 1));
        assert!(!table.is_gone(A, at(200 + RETRY)), "it may be asked for again");
    }

    #[test]
    fn what_names_no_mac_keeps_the_one_that_is_known() {
        let table = Neighbors::new(16).unwrap();
        let (mac, at) = (MacAddr([2; 6]), |secs: u32| Tick::from_secs(1000 + secs));
        assert!(!table.reconfirm(A, PortId(3), at(0)), "it makes none");
        assert_eq!(table.iter(at(0)).count(), 0);
        table.confirm(A, mac, PortId(3), at(0));
        assert!(!table.reconfirm(A, PortId(4), at(40)), "another port's word");
        assert_eq!(table.lookup(A, at(40)), Some(Known { mac, ask: true }));
        for secs in (60..600).step_by(60) {
            assert!(table.reconfirm(A, PortId(3), at(secs)));
            assert_eq!(table.lookup(A, at(secs + 29)), Some(Known { mac, ask: false }));
        }
        assert!(!table.reconfirm(A, PortId(3), at(540 + GONE + 1)), "what is gone is gone");
        assert_eq!(table.lookup(A, at(540 + GONE + 1)), None);
    }

    #[test]
    fn a_port_that_invents_neighbours_pushes_out_its_own() {
        let table = Neighbors::new(64).unwrap();
        let now = Tick::from_secs(5);
        let address = |n: u128| Ipv6Addr::from(0xfd00_u128 << 112 | n);
        for n in 0..8 {
            table.confirm(address(n), MacAddr([2; 6]), PortId(1), now);
        }
        for n in 100..10_000 {
            table.confirm(address(n), MacAddr([4; 6]), PortId(2), Tick::from_secs(6));
        }
        let kept = (0..8).filter(|&n| table.lookup(address(n), now).is_some()).count();
        assert_eq!(kept, 8);
    }
}
