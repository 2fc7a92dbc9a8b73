//! The one table of everything that changes under traffic: bounded, lock-free, fair among its owners.
//!
//! The FDB is an instance; so are neighbours, mappings and connections. Memory is asked for once and touched when it
//! is used. Reads, inserts, updates and removals never wait for another thread and never allocate; a thread that
//! sleeps in the middle of one keeps at most the one entry that it works on from being used again.
//!
//! # How it is made
//! - **Entries** live in a slab and never move. An entry is used again and again; each use is a
//!   *life* with a number, and a [`Handle`] names an entry in one life, so a late writer never hits a successor.
//! - **Slots** point at entries: buckets of eight words, one cache line each. A key has two buckets, by a seeded hash
//!   (containers choose the keys). It goes to the first unless that is three quarters full, then to the emptier one. There are
//!   at least twice as many slots as entries; that both buckets are full is practically unheard of, but has a name.
//! - **Insert** fills an entry, publishes it in a slot as *pending*, and then looks at all sixteen slots again. Of two
//!   racing inserts of one key at least one sees the other (both have a full fence between write and look). The one
//!   in the earlier slot stays: a later one helps it to become a member and withdraws, so nobody waits for anybody.
//!   Only members are found. This is the assisting insert of Purcell and Harris, "Non-blocking hashtables with open
//!   addressing" (DISC 2005).
//! - **Remove** is one compare-and-swap of the entry's first word, which says whose it is, whether it is pinned and
//!   whether it is a member: an entry that was just pinned or moved is not removed by one who saw it before that.
//! - **Full**: the victim is chosen by sampling ([`Table::insert`]).
//!
//! # Modelled
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p switch --release --lib loom
//! ```
//! with a target directory of its own, else everything is built again each time.

mod insert;
mod slab;

#[cfg(test)]
#[cfg(loom)]
mod loom_tests;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use std::hash::Hasher;
#[cfg(not(loom))]
use std::sync::Arc;

use crossbeam_utils::CachePadded;
use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;

use crate::sync::{AtomicU64, LINE, Ordering, Words};
#[cfg(not(loom))]
use crate::sys::shared::Shared;
use slab::{DYING, Entry, MEMBER, Slab};

/// Slots in a bucket. The models use small ones, to have fewer interleavings.
const WIDTH: usize = if cfg!(loom) { 2 } else { LINE };
/// A first bucket with this many slots in use sends a newcomer to the emptier of the two. Below it most lookups end in
/// the first bucket; plain two-choice would end half of them in the second.
const CROWDED: usize = WIDTH * 3 / 4;

/// The most entries a table can have: what the index in a slot can say.
pub const MAX_CAPACITY: usize = 1 << 24;

/// A table could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The capacity is zero or more than [`MAX_CAPACITY`].
    #[error("a table of {0} entries: must be 1 to {MAX_CAPACITY}")]
    Capacity(usize),
    /// The allocator refused.
    #[error("no memory for a table of {0} entries")]
    Memory(usize),
}

/// Names an entry in one of its lives. One that is gone is never mistaken for the one that took its place (unless the
/// place was taken exactly a multiple of 2^32 times between).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    index: u32,
    life: u32,
}

impl Handle {
    /// The handle as a word, to be kept in the value of an entry of another table.
    pub const fn to_u64(self) -> u64 {
        (self.life as u64) << 32 | self.index as u64
    }

    /// The inverse of [`Handle::to_u64`]. Any word is safe: what names nothing finds nothing.
    pub const fn from_u64(word: u64) -> Self {
        Self { index: word as u32, life: (word >> 32) as u32 }
    }
}

/// An entry as it was at one moment. Words of the value are read one by one: what must be seen together belongs into
/// one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<const K: usize, const V: usize> {
    /// Which entry, in which life.
    pub at: Handle,
    /// The key.
    pub key: [u64; K],
    /// The value.
    pub value: [u64; V],
    /// Whose it is: a switch port.
    pub owner: u16,
    /// Pinned entries are never evicted and not counted against their owner.
    pub pinned: bool,
    /// When it was last touched, in the caller's unit.
    pub seen: u32,
}

/// What to insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct New<const K: usize, const V: usize> {
    /// The key.
    pub key: [u64; K],
    /// The value.
    pub value: [u64; V],
    /// Whose it is.
    pub owner: u16,
    /// Never to be evicted, nor counted against the owner.
    pub pinned: bool,
    /// Now, in the caller's unit; also the moment by which ages are compared when one must be evicted.
    pub seen: u32,
}

/// What became of an insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted<const K: usize, const V: usize> {
    /// Whether it is in the table.
    pub outcome: Outcome<K, V>,
    /// The entry that was removed to make room. It can be set even if the outcome is not [`Outcome::New`]: another
    /// thread inserted the key meanwhile.
    pub evicted: Option<Record<K, V>>,
}

/// Whether a new entry is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<const K: usize, const V: usize> {
    /// It is.
    New(Handle),
    /// The key was there already, and was left as it is.
    Existing(Record<K, V>),
    /// The table is full, and no entry was found that may be evicted for this owner.
    Full,
    /// Both buckets of the key are full.
    BucketFull,
}

/// What a slot says: `life:32 index:24 tag:8`. A tag is never 0, so neither is the link of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Link(u64);

impl Link {
    const fn new(at: Handle, tag: u8) -> Self {
        Self((at.life as u64) << 32 | (at.index as u64) << 8 | tag as u64)
    }

    const fn tag(self) -> u8 {
        self.0 as u8
    }

    const fn at(self) -> Handle {
        Handle { index: (self.0 >> 8) as u32 & 0x00ff_ffff, life: (self.0 >> 32) as u32 }
    }
}

/// Where a key may be: its two buckets (the first slot of each) and its tag.
#[derive(Clone, Copy)]
struct Probe {
    buckets: [usize; 2],
    tag: u8,
}

/// How many entries there are, and of whom.
struct Counts {
    all: AtomicU64,
    pinned: AtomicU64,
    /// Dealt out by [`Table::insert`] when it samples.
    dice: AtomicU64,
}

/// A bounded lock-free table from `K` words to `V` words. See the [module](self).
///
/// # Threads
/// Everything takes `&self` and may be called from any thread at any time. Nothing blocks, and nothing but
/// [`Table::new`] allocates.
pub struct Table<const K: usize, const V: usize> {
    slots: Words,
    /// Number of buckets (a power of two) less one.
    mask: usize,
    slab: Slab<K, V>,
    owners: Words,
    owner_count: usize,
    shared_seed: SharedSeed,
    seed: u64,
    counts: CachePadded<Counts>,
}

impl<const K: usize, const V: usize> Table<K, V> {
    /// An empty table for `capacity` entries, which counts the entries of `owners` owners apart. Owners from
    /// `owners - 1` up share one count.
    ///
    /// # Errors
    /// [`TableError::Capacity`] for none or more than [`MAX_CAPACITY`]; [`TableError::Memory`].
    pub fn new(capacity: usize, owners: usize) -> Result<Self, TableError> {
        let buckets = capacity.saturating_mul(2).div_ceil(WIDTH);
        Self::with_buckets(capacity, owners, buckets, [random(), random()])
    }

    /// The same with its entries in a memory file that outlives this process: those words of it, which must be zero.
    /// [`Table::words`] says how many it takes. What is left of them is read by [`Table::left_in`].
    ///
    /// # Errors
    /// Those of [`Table::new`]; [`TableError::Memory`] also where the words are not there.
    #[cfg(not(loom))]
    pub fn on(memory: &Arc<Shared>, from: usize, capacity: usize, owners: usize) -> Result<Self, TableError> {
        let refused = TableError::Memory(capacity);
        let words = Self::words(capacity).and_then(|words| from.checked_add(words)).ok_or(refused)?;
        let words = Words::shared(memory, from..words).ok_or(refused)?;
        let buckets = capacity.saturating_mul(2).div_ceil(WIDTH);
        Self::over(capacity, owners, buckets, [random(), random()], Some(words))
    }

    /// How many words its entries take.
    #[cfg(not(loom))]
    pub fn words(capacity: usize) -> Option<usize> {
        Slab::<K, V>::words_for(u32::try_from(capacity).ok()?)
    }

    /// The entries of a table of so many entries that was made by [`Table::on`] in a process that is no more: those that
    /// were in it at its end. Words of a value may be of different moments.
    #[cfg(not(loom))]
    pub fn left_in(memory: &Arc<Shared>, from: usize, capacity: usize) -> Vec<Record<K, V>> {
        let end = Self::words(capacity).and_then(|words| from.checked_add(words));
        let words = end.and_then(|end| Words::shared(memory, from..end));
        let capacity = u32::try_from(capacity).unwrap_or(0);
        words.map(|words| Slab::left_in(&words, capacity).collect()).unwrap_or_default()
    }

    /// The same with a given number of buckets and a given seed.
    fn with_buckets(
        capacity: usize,
        owners: usize,
        buckets: usize,
        seed: [u64; 2],
    ) -> Result<Self, TableError> {
        Self::over(capacity, owners, buckets, seed, None)
    }

    fn over(
        capacity: usize,
        owners: usize,
        buckets: usize,
        seed: [u64; 2],
        entries: Option<Words>,
    ) -> Result<Self, TableError> {
        if !(1..=MAX_CAPACITY).contains(&capacity) {
            return Err(TableError::Capacity(capacity));
        }
        let memory = TableError::Memory(capacity);
        let slab = match entries {
            Some(words) => Slab::over(words, capacity as u32),
            None => Slab::new(capacity as u32).ok_or(memory)?,
        };
        let buckets = buckets.max(2).next_power_of_two();
        let owner_count = owners.max(1);
        let counts =
            Counts { all: AtomicU64::new(0), pinned: AtomicU64::new(0), dice: AtomicU64::new(seed[0]) };
        Ok(Self {
            slots: Words::zeroed(buckets.saturating_mul(WIDTH)).ok_or(memory)?,
            mask: buckets - 1,
            slab,
            owners: Words::zeroed(owner_count).ok_or(memory)?,
            owner_count,
            shared_seed: SharedSeed::from_u64(seed[0]),
            seed: seed[1],
            counts: CachePadded::new(counts),
        })
    }

    /// How many entries fit.
    pub const fn capacity(&self) -> usize {
        self.slab.capacity() as usize
    }

    /// How many entries there are. Exact when nobody writes.
    pub fn len(&self) -> usize {
        self.counts.all.load(Ordering::Relaxed) as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries are pinned. Exact when nobody writes.
    pub fn pinned_len(&self) -> usize {
        self.counts.pinned.load(Ordering::Relaxed) as usize
    }

    /// How many entries of `owner` are not pinned. Exact when nobody writes; never less than the truth.
    pub fn owner_len(&self, owner: u16) -> usize {
        self.count_of(owner, false).map_or(0, |count| count.load(Ordering::Relaxed)) as usize
    }

    /// The entry of `key`.
    #[inline]
    pub fn lookup(&self, key: &[u64; K]) -> Option<Record<K, V>> {
        self.find(self.probe(key), key)
    }

    /// The entry that `at` names, if it is still there.
    #[inline]
    pub fn get(&self, at: Handle) -> Option<Record<K, V>> {
        self.slab.record(at.index).filter(|record| record.at == at)
    }

    /// Notes that the entry was in use at `now`: a store only if that is later than what the record says.
    #[inline]
    pub fn touch(&self, record: &Record<K, V>, now: u32) {
        if record.seen != now {
            self.touch_later(record, now);
        }
    }

    #[cold]
    fn touch_later(&self, record: &Record<K, V>, now: u32) {
        // Workers read the clock at slightly different moments: the later one stays.
        if age(now, record.seen) > 0
            && let Some(entry) = self.slab.entry(record.at.index)
        {
            entry.touch(record.at.life, record.seen, now);
        }
    }

    /// Gives the entry to `owner` and pins or unpins it, in one step. False if it is gone, or if owner or pin are not
    /// what the record says: then look again.
    pub fn assign(&self, record: &Record<K, V>, owner: u16, pinned: bool) -> bool {
        // Counted first with the new owner and last with the old, so that no count is ever less than the truth.
        self.count(owner, pinned);
        let changed = self.change(record, |head| head.with_owner(owner, pinned));
        if changed {
            self.discount(record.owner, record.pinned);
        } else {
            self.discount(owner, pinned);
        }
        changed
    }

    /// Holds the entry, so that its value can be changed. `None` if it is gone. See [`Held`].
    pub fn hold(&self, at: Handle) -> Option<Held<'_, K, V>> {
        let entry = self.slab.entry(at.index)?;
        entry.hold(at.life)?;
        Some(Held { table: self, at, entry })
    }

    /// Removes the entry of `key` and gives it back as it last was.
    pub fn remove(&self, key: &[u64; K]) -> Option<Record<K, V>> {
        loop {
            let record = self.lookup(key)?;
            if self.take(&record) {
                return Some(record);
            }
        }
    }

    /// Removes this entry and no other. False if it is gone, or if owner or pin are not what the record says.
    pub fn take(&self, record: &Record<K, V>) -> bool {
        let taken = self.change(record, |head| head.with_phase(DYING));
        if taken {
            self.bury(record);
            self.slab.retire(record.at.index);
        }
        taken
    }

    /// Removes every entry for which `keep` says no, and says how many those were. An entry whose owner or pin changes
    /// between question and removal stays.
    pub fn retain(&self, mut keep: impl FnMut(&Record<K, V>) -> bool) -> usize {
        self.iter().filter(|record| !keep(record) && self.take(record)).count()
    }

    /// All entries, each as it is when the iterator comes to it. An entry that is there all the time is met once;
    /// those that come or go meanwhile may be met or not.
    pub fn iter(&self) -> impl Iterator<Item = Record<K, V>> + '_ {
        (0..self.slab.fresh()).filter_map(|index| self.slab.record(index))
    }

    /// The entries of a part of the table, of so many places: the next part is that of the next number, and behind the
    /// last one comes the first. All of them meet every entry that is there meanwhile.
    pub fn part(&self, number: u32, places: u32) -> impl Iterator<Item = Record<K, V>> + '_ {
        let (fresh, places) = (self.slab.fresh(), places.max(1));
        let from = (number % fresh.div_ceil(places).max(1)).saturating_mul(places);
        (from..from.saturating_add(places).min(fresh)).filter_map(|index| self.slab.record(index))
    }

    /// Changes the head of the record's entry while it is in the table as the record says.
    fn change(&self, record: &Record<K, V>, next: impl Fn(slab::Head) -> slab::Head) -> bool {
        let Some(entry) = self.slab.entry(record.at.index) else { return false };
        loop {
            let head = entry.head();
            let same = head.life() == record.at.life && head.phase() == MEMBER;
            if !same || head.owner() != record.owner || head.pinned() != record.pinned {
                return false;
            }
            if entry.swap(head, next(head)) {
                return true;
            }
        }
    }

    /// Clears the slot of an entry that the caller has just taken out of the table.
    fn bury(&self, record: &Record<K, V>) {
        let probe = self.probe(&record.key);
        let link = Link::new(record.at, probe.tag).0;
        for slot in self.seats(probe) {
            if slot.load(Ordering::Acquire) == link {
                // Nobody else clears the slot of a member, and nobody fills one that is not empty.
                slot.store(0, Ordering::Release);
                break;
            }
        }
        self.counts.all.fetch_sub(1, Ordering::Relaxed);
        self.discount(record.owner, record.pinned);
    }

    #[inline]
    fn probe(&self, key: &[u64; K]) -> Probe {
        let mut hasher = FoldHasher::with_seed(self.seed, &self.shared_seed);
        for &word in key {
            hasher.write_u64(word);
        }
        let hash = hasher.finish();
        // A mask has 22 bits at most, so the three parts share no bit.
        let first = hash as usize & self.mask;
        let second = (hash >> 24) as usize & self.mask;
        let second = if second == first { first ^ 1 } else { second };
        Probe {
            buckets: [first.wrapping_mul(WIDTH), second.wrapping_mul(WIDTH)],
            tag: (hash >> 56) as u8 | 0x80,
        }
    }

    #[inline]
    fn find(&self, probe: Probe, key: &[u64; K]) -> Option<Record<K, V>> {
        for bucket in probe.buckets {
            let Some(slots) = self.slots.array::<WIDTH>(bucket) else { continue };
            for slot in slots {
                let link = Link(slot.load(Ordering::Acquire));
                if link.tag() == probe.tag
                    && let Some(entry) = self.entry_of(link, key)
                    && let Some(record) = entry.record(link.at(), *key)
                {
                    return Some(record);
                }
            }
        }
        None
    }

    /// The entry behind a link, if it has this key.
    #[inline]
    fn entry_of(&self, link: Link, key: &[u64; K]) -> Option<Entry<'_, K, V>> {
        self.slab.entry(link.at().index).filter(|entry| entry.key() == *key)
    }

    /// The slots where a key may be, in the order that decides races.
    fn seats(&self, probe: Probe) -> impl Iterator<Item = &AtomicU64> {
        probe.buckets.into_iter().flat_map(|bucket| self.slots.run(bucket, WIDTH))
    }

    fn count_of(&self, owner: u16, pinned: bool) -> Option<&AtomicU64> {
        if pinned {
            return Some(&self.counts.pinned);
        }
        self.owners.get(usize::from(owner).min(self.owner_count - 1))
    }

    fn count(&self, owner: u16, pinned: bool) {
        if let Some(count) = self.count_of(owner, pinned) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn discount(&self, owner: u16, pinned: bool) {
        if let Some(count) = self.count_of(owner, pinned) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// An entry that is not used again while this exists, so that its value can be changed in place: whatever is written
/// goes to this entry or, if it was removed meanwhile, to nobody. It does not keep the entry in the table, nor others
/// from writing: changes of one word that depend on it are compare-and-swap loops.
///
/// Costs two atomic read-modify-writes; one entry takes 4095 holders at a time, more find it gone.
pub struct Held<'a, const K: usize, const V: usize> {
    table: &'a Table<K, V>,
    at: Handle,
    entry: Entry<'a, K, V>,
}

impl<const K: usize, const V: usize> Held<'_, K, V> {
    /// Which entry it is, in which life.
    pub const fn at(&self) -> Handle {
        self.at
    }

    /// The words of the value.
    pub fn value(&self) -> &[AtomicU64; V] {
        self.entry.value
    }

    /// When it was last touched, in the caller's unit.
    pub fn seen(&self) -> u32 {
        self.entry.seen()
    }
}

impl<const K: usize, const V: usize> Drop for Held<'_, K, V> {
    fn drop(&mut self) {
        self.table.slab.release(self.at.index);
    }
}

/// How much later `now` is than `seen`; 0 if it is not.
fn age(now: u32, seen: u32) -> u32 {
    (now.wrapping_sub(seen) as i32).max(0) as u32
}

/// A word nobody can guess: std keys its hashers by the kernel's random numbers.
#[cfg(not(loom))]
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// A model must do the same each time.
#[cfg(loom)]
const fn random() -> u64 {
    7
}
