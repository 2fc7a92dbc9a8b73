//! What the store has said, as far as single records can be believed. Pure: time is an argument.
//!
//! What goes in one batch and comes back in it has not gone: records that are deleted only go when the batch is
//! settled. While a hold lasts they stay beyond that.

use std::collections::BTreeMap;
use std::time::Instant;

use super::records::{self, Key, Record, Refusal};
use super::{Counters, MAX_ADDRESSES, MAX_HOSTS, MAX_MEMBERS, MAX_NETWORKS, MAX_REFUSED, flannel};
use crate::config::{Mode, clip};

/// Where and when a record stands in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The lease that it goes with; 0: none.
    pub lease: i64,
    /// The revision that made the key.
    pub created: i64,
    /// The revision that wrote it last.
    pub modified: i64,
}

/// A record that is believed by itself.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub record: Record,
    pub stamp: Stamp,
    /// When it was heard of first.
    pub since: Instant,
    /// The store does not have it any more.
    pub gone: bool,
    /// The reading that found it last.
    read: u64,
}

/// How many records of one kind there are.
#[derive(Debug, Clone, Copy, Default)]
struct Room {
    used: usize,
    /// There were more than there was room for.
    over: bool,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Known {
    me: String,
    mode: Mode,
    entries: BTreeMap<Key, Entry>,
    rooms: [Room; LIMITS.len()],
    /// Records that are not believed, by key; the first [`MAX_REFUSED`].
    refused: BTreeMap<String, String>,
    reads: u64,
    hold: Option<Instant>,
    pub counters: Counters,
}

/// How many there may be of each kind.
const LIMITS: [usize; 6] = [MAX_HOSTS, MAX_NETWORKS, MAX_MEMBERS, MAX_ADDRESSES, 1, MAX_HOSTS];

const fn kind(key: &Key) -> (usize, &'static str) {
    match key {
        Key::Host(_) => (0, "hosts"),
        Key::Network(_) => (1, "networks"),
        Key::Member(..) => (2, "members"),
        Key::Address(..) => (3, "addresses"),
        Key::Config => (4, "networks of flannel"),
        Key::Subnet(_) => (5, "subnets"),
    }
}

impl Known {
    /// Nothing, as the host of this name knows it, of a store with this layout.
    pub fn new(me: String, mode: Mode) -> Self {
        Self {
            me,
            mode,
            entries: BTreeMap::new(),
            rooms: [Room::default(); LIMITS.len()],
            refused: BTreeMap::new(),
            reads: 0,
            hold: None,
            counters: Counters::default(),
        }
    }

    /// What this host is called.
    pub fn me(&self) -> &str {
        &self.me
    }

    /// Every record, the gone ones that are held as well.
    pub fn entries(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter()
    }

    /// What stands in the store at a key.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key).filter(|entry| !entry.gone)
    }

    /// What is not believed.
    pub fn refused(&self) -> impl Iterator<Item = (&String, &String)> {
        self.refused.iter()
    }

    /// Until when nothing goes.
    pub const fn hold(&self) -> Option<Instant> {
        self.hold
    }

    /// Nothing goes until then.
    pub fn hold_until(&mut self, until: Instant) {
        self.hold = Some(self.hold.map_or(until, |before| before.max(until)));
    }

    /// The key as messages show it, and as what is refused is found again.
    fn shown(key: &[u8]) -> String {
        clip(&String::from_utf8_lossy(key))
    }

    /// The store has this at a key. Whether that is something else than before.
    pub fn put(&mut self, key: &[u8], value: &[u8], stamp: Stamp, now: Instant) -> bool {
        let record = match self.mode {
            Mode::Native => records::parse(key, value),
            Mode::Flannel => flannel::parse(key, value),
        };
        match record {
            Ok((at, record)) => self.accept(at, record, stamp, now),
            Err(refusal) => {
                // What stood there does not any more, whatever stands there now.
                let gone = self.parse_key(key).is_ok_and(|at| self.lose(&at, stamp.modified));
                self.refuse(key, &refusal);
                gone
            }
        }
    }

    fn accept(&mut self, at: Key, record: Record, stamp: Stamp, now: Instant) -> bool {
        let read = self.reads;
        self.believe_again(&at.to_string());
        if let Some(entry) = self.entries.get_mut(&at) {
            // After a reading the watch tells again what has been read. A reading itself is always right, also where
            // it is another store's, which counts from the beginning.
            let told_again = entry.read == read && !entry.gone && stamp.modified < entry.stamp.modified;
            entry.read = read;
            if told_again {
                return false;
            }
            let same = entry.record == record && !entry.gone;
            entry.gone = false;
            entry.stamp = stamp;
            if entry.record != record {
                (entry.record, entry.since) = (record, now);
            }
            return !same;
        }
        let (place, what) = kind(&at);
        let (Some(room), Some(limit)) = (self.rooms.get_mut(place), LIMITS.get(place)) else { return false };
        if room.used >= *limit {
            room.over = true;
            self.counters.too_many = self.counters.too_many.saturating_add(1);
            self.name_refused(at.to_string(), format!("there are more than {limit} {what}"));
            return false;
        }
        room.used = room.used.saturating_add(1);
        self.entries.insert(at, Entry { record, stamp, since: now, gone: false, read });
        true
    }

    /// The store has nothing at a key any more, since this revision. Whether it had.
    pub fn delete(&mut self, key: &[u8], modified: i64) -> bool {
        self.believe_again(&Self::shown(key));
        self.parse_key(key).is_ok_and(|at| self.lose(&at, modified))
    }

    /// The key in this layout.
    pub fn parse_key(&self, key: &[u8]) -> Result<Key, Refusal> {
        match self.mode {
            Mode::Native => records::parse_key(key),
            Mode::Flannel => flannel::parse_key(key),
        }
    }

    fn lose(&mut self, at: &Key, modified: i64) -> bool {
        let entry = self.entries.get_mut(at).filter(|entry| !entry.gone && entry.stamp.modified < modified);
        entry.is_some_and(|entry| {
            entry.gone = true;
            entry.stamp.modified = modified;
            true
        })
    }

    fn refuse(&mut self, key: &[u8], refusal: &Refusal) {
        self.counters.refused = self.counters.refused.saturating_add(1);
        self.name_refused(Self::shown(key), refusal.to_string());
    }

    fn name_refused(&mut self, key: String, why: String) {
        if self.refused.len() < MAX_REFUSED || self.refused.contains_key(&key) {
            self.refused.insert(key, why);
        }
    }

    fn believe_again(&mut self, key: &str) {
        if !self.refused.is_empty() {
            self.refused.remove(key);
        }
    }

    /// All that the store has follows, by [`Known::put`].
    pub fn begin_read(&mut self) {
        self.reads = self.reads.wrapping_add(1);
        self.refused.clear();
        for room in &mut self.rooms {
            room.over = false;
        }
    }

    /// That was all: what was not among it is gone.
    pub fn end_read(&mut self) {
        let read = self.reads;
        for entry in self.entries.values_mut().filter(|entry| entry.read != read) {
            entry.gone = true;
        }
    }

    /// Whether records were left out for which there is room by now.
    pub fn has_room_again(&self) -> bool {
        self.rooms.iter().zip(LIMITS).any(|(room, limit)| room.over && room.used < limit)
    }

    /// The end of a batch: what is gone goes, unless it is held. Whether anything went.
    pub fn settle(&mut self, now: Instant) -> bool {
        if self.hold.is_some_and(|until| now < until) {
            return false;
        }
        let before = self.entries.len();
        self.hold = None;
        let rooms = &mut self.rooms;
        self.entries.retain(|key, entry| {
            if entry.gone
                && let Some(room) = rooms.get_mut(kind(key).0)
            {
                room.used = room.used.saturating_sub(1);
            }
            !entry.gone
        });
        before != self.entries.len()
    }
}
