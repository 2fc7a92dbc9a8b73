//! The forwarding database of one network: which MAC is behind which port (IEEE 802.1D-2004 sections 7.8 and 7.9).
//!
//! An instance of [`crate::table`]: the key is (VLAN, MAC), the owner of an entry is its port, static entries are
//! pinned ones. A move to another port is thus a change of owner, in one compare-and-swap with everything else that
//! says whose the entry is: no frame sees half a move, and a static entry is not moved by one who saw it before.
//!
//! A lookup that races a move or a removal may still give the port that was right a moment before. It is always a port
//! of the same network, since each network has an FDB of its own: the frame is late, not astray.

#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use crate::mac::MacAddr;
use crate::port::PortId;
use crate::sync::{AtomicU64, Ordering};
use crate::table::{New, Outcome, Record, Table, TableError};
use crate::tick::Tick;

/// Ports whose entries are counted apart; all there are.
const PORTS: usize = 1 << 16;

/// Ageing time if none is given, seconds (IEEE 802.1D-2004 table 7-5).
pub const AGEING_DEFAULT: u32 = 300;
/// Shortest ageing time, seconds.
pub const AGEING_MIN: u32 = 10;
/// Longest ageing time, seconds.
pub const AGEING_MAX: u32 = 1_000_000;

/// What a frame's source address taught us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Nothing: it is where we thought it was.
    Known,
    /// A new entry.
    New,
    /// It was behind another port before.
    Moved {
        /// That port.
        from: PortId,
    },
    /// A static entry says that it is behind another port, and is right (IEEE 802.1D-2004 section 7.8).
    Static {
        /// That port.
        at: PortId,
    },
    /// The FDB is full and this port may not push anybody out: frames to this address are flooded.
    Full,
    /// A group address or all zeros is nobody's address (IEEE 802.1D-2004 section 7.8).
    NotIndividual,
}

/// What became of a static entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// A new entry.
    New,
    /// It took the place of an entry, learned or static, that named this port.
    Replaced {
        /// The port in the old entry.
        was: PortId,
    },
}

/// A static entry could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FdbError {
    /// All entries are static.
    #[error("the forwarding database is full of static entries")]
    Full,
    /// Group addresses and all zeros cannot be behind one port.
    #[error("{0} is not the address of one station")]
    NotIndividual(MacAddr),
    /// The VLAN is not 0 (untagged) to 4094.
    #[error("VLAN {0} is not 0 to 4094")]
    Vlan(u16),
}

/// Which entries to flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// All that were learned.
    Learned,
    /// All that were learned in this VLAN.
    Vlan(u16),
    /// All that were learned on this port: its link is down (IEEE 802.1D-2004 section 7.9).
    Port(PortId),
    /// All of this port, static ones too: it is removed, and its number may be given to another. Workers that still
    /// have frames of this port can learn it again until they let it go: flush after that.
    PortGone(PortId),
}

/// An entry, as `show fdb` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// VLAN; 0 is untagged.
    pub vid: u16,
    /// The station's address.
    pub mac: MacAddr,
    /// The port it is behind.
    pub port: PortId,
    /// Seconds since it last sent something, rounded down.
    pub age: u32,
    /// Put there by an operator: neither moves nor ages.
    pub is_static: bool,
}

/// Counters, as OVS's `fdb/stats-show` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FdbStats {
    /// Entries now, static ones too.
    pub current: u64,
    /// Static entries now.
    pub statics: u64,
    /// Entries ever learned.
    pub learned: u64,
    /// Entries that were learned on another port later.
    pub moved: u64,
    /// Entries that were not seen for the ageing time.
    pub expired: u64,
    /// Entries that had to make room for another.
    pub evicted: u64,
    /// Addresses that were not learned because the FDB was full.
    pub refused: u64,
}

/// Counted where something changes, never where an address is merely seen again.
struct Counters {
    learned: AtomicU64,
    moved: AtomicU64,
    expired: AtomicU64,
    evicted: AtomicU64,
    refused: AtomicU64,
}

/// The forwarding database of one network.
///
/// # Threads
/// Workers look up and learn while the control plane ages, flushes and adds: everything takes `&self`, from any thread
/// at any time, and nothing blocks.
pub struct Fdb {
    table: Table<1, 0>,
    counters: Counters,
}

impl Fdb {
    /// An empty FDB for `capacity` entries; about 48 to 64 bytes each, touched when used.
    ///
    /// # Errors
    /// Those of [`Table::new`].
    pub fn new(capacity: usize) -> Result<Self, TableError> {
        let zero = || AtomicU64::new(0);
        let counters =
            Counters { learned: zero(), moved: zero(), expired: zero(), evicted: zero(), refused: zero() };
        Ok(Self { table: Table::new(capacity, PORTS)?, counters })
    }

    /// The port behind which `mac` is.
    #[inline]
    pub fn lookup(&self, vid: u16, mac: MacAddr) -> Option<PortId> {
        self.table.lookup(&key(vid, mac)).map(|record| PortId(record.owner))
    }

    /// Notes that a frame of `vid` came from `mac` by `port`. The caller has admitted the frame.
    #[inline]
    pub fn learn(&self, vid: u16, mac: MacAddr, port: PortId, now: Tick) -> Learned {
        let now = now.secs_up();
        if let Some(record) = self.table.lookup(&key(vid, mac))
            && record.owner == port.0
        {
            self.table.touch(&record, now);
            return Learned::Known;
        }
        self.learn_change(vid, mac, port, now)
    }

    #[cold]
    fn learn_change(&self, vid: u16, mac: MacAddr, port: PortId, now: u32) -> Learned {
        if !is_individual(mac) {
            return Learned::NotIndividual;
        }
        let key = key(vid, mac);
        // Comes round again only when another thread changed this very entry in between.
        loop {
            match self.table.lookup(&key) {
                Some(record) if record.owner == port.0 => return Learned::Known,
                Some(record) if record.pinned => return Learned::Static { at: PortId(record.owner) },
                Some(record) if self.table.assign(&record, port.0, false) => {
                    self.table.touch(&record, now);
                    add(&self.counters.moved, 1);
                    return Learned::Moved { from: PortId(record.owner) };
                }
                Some(_) => {}
                None => match self.insert(key, port, false, now) {
                    Outcome::New(_) => {
                        add(&self.counters.learned, 1);
                        return Learned::New;
                    }
                    Outcome::Existing(_) => {}
                    Outcome::Full | Outcome::BucketFull => {
                        add(&self.counters.refused, 1);
                        return Learned::Full;
                    }
                },
            }
        }
    }

    /// Puts `mac` behind `port` for good, in place of what was learned or said before. It replaces a learned entry if
    /// there is no room.
    ///
    /// # Errors
    /// See [`FdbError`].
    pub fn add_static(&self, vid: u16, mac: MacAddr, port: PortId, now: Tick) -> Result<Added, FdbError> {
        if !is_individual(mac) {
            return Err(FdbError::NotIndividual(mac));
        }
        if vid > 4094 {
            return Err(FdbError::Vlan(vid));
        }
        let key = key(vid, mac);
        loop {
            match self.table.lookup(&key) {
                Some(record) if self.table.assign(&record, port.0, true) => {
                    return Ok(Added::Replaced { was: PortId(record.owner) });
                }
                Some(_) => {}
                None => match self.insert(key, port, true, now.secs_up()) {
                    Outcome::New(_) => return Ok(Added::New),
                    Outcome::Existing(_) => {}
                    Outcome::Full | Outcome::BucketFull => return Err(FdbError::Full),
                },
            }
        }
    }

    /// Removes the static entry of `mac`; false if there is none. From then on it can be learned again.
    pub fn del_static(&self, vid: u16, mac: MacAddr) -> bool {
        while let Some(record) = self.table.lookup(&key(vid, mac)) {
            if !record.pinned {
                return false;
            }
            if self.table.take(&record) {
                return true;
            }
        }
        false
    }

    /// Removes the entry of `mac`, learned or static; false if there is none.
    pub fn remove(&self, vid: u16, mac: MacAddr) -> bool {
        while let Some(record) = self.table.lookup(&key(vid, mac)) {
            if self.table.take(&record) {
                return true;
            }
        }
        false
    }

    /// Removes the learned entries for which `which(vid, port)` holds, and says how many they were.
    pub fn flush_where(&self, which: impl Fn(u16, PortId) -> bool) -> usize {
        self.table.retain(|record| record.pinned || !which(vid_of(record), PortId(record.owner)))
    }

    /// Copies what is here into `other`, as far as it fits: a network's limit changed.
    pub fn copy_into(&self, other: &Self) {
        for record in self.table.iter() {
            let (port, pinned) = (PortId(record.owner), record.pinned);
            other.insert(record.key, port, pinned, record.seen);
        }
    }

    /// Removes these entries, and says how many they were.
    pub fn flush(&self, which: Flush) -> usize {
        self.table.retain(|record| match which {
            Flush::Learned => record.pinned,
            Flush::Vlan(vid) => record.pinned || vid_of(record) != vid,
            Flush::Port(port) => record.pinned || record.owner != port.0,
            Flush::PortGone(port) => record.owner != port.0,
        })
    }

    /// Removes the learned entries that were not seen for `ageing` seconds (brought into [`AGEING_MIN`] to
    /// [`AGEING_MAX`]), and says how many they were. None goes early; one that is called every second takes them at
    /// most two seconds late.
    pub fn age(&self, now: Tick, ageing: u32) -> usize {
        let ageing = ageing.clamp(AGEING_MIN, AGEING_MAX);
        let removed = self.table.retain(|record| record.pinned || age(record, now) < ageing);
        add(&self.counters.expired, removed as u64);
        removed
    }

    /// All entries, in no order.
    pub fn entries(&self, now: Tick) -> impl Iterator<Item = FdbEntry> + '_ {
        self.table.iter().map(move |record| FdbEntry {
            vid: vid_of(&record),
            mac: MacAddr::from_u64(record.key[0]),
            port: PortId(record.owner),
            age: age(&record, now),
            is_static: record.pinned,
        })
    }

    /// How many entries fit.
    pub fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// How many entries of `port` were learned and are there now.
    pub fn learned_on(&self, port: PortId) -> usize {
        self.table.owner_len(port.0)
    }

    /// The counters. Exact when nobody writes.
    pub fn stats(&self) -> FdbStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FdbStats {
            current: self.table.len() as u64,
            statics: self.table.pinned_len() as u64,
            learned: read(&self.counters.learned),
            moved: read(&self.counters.moved),
            expired: read(&self.counters.expired),
            evicted: read(&self.counters.evicted),
            refused: read(&self.counters.refused),
        }
    }

    fn insert(&self, key: [u64; 1], port: PortId, pinned: bool, seen: u32) -> Outcome<1, 0> {
        let inserted = self.table.insert(&New { key, value: [], owner: port.0, pinned, seen });
        add(&self.counters.evicted, u64::from(inserted.evicted.is_some()));
        inserted.outcome
    }
}

/// `vid:12` above `mac:48`.
fn key(vid: u16, mac: MacAddr) -> [u64; 1] {
    [u64::from(vid & 0x0fff) << 48 | mac.to_u64()]
}

fn vid_of(record: &Record<1, 0>) -> u16 {
    (record.key[0] >> 48) as u16
}

fn age(record: &Record<1, 0>, now: Tick) -> u32 {
    now.secs().saturating_sub(record.seen)
}

fn is_individual(mac: MacAddr) -> bool {
    !mac.is_group() && mac != MacAddr::ZERO
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
