//! The entries of a table, where they live and how one dies.
//!
//! An entry is a few words: head, stamp, key, value. The **head** holds everything that decides whose the entry is, in
//! one word, so that one compare-and-swap decides it: the number of the entry's *life*, its owner, whether it is
//! pinned, how many hold it, and its phase. Nothing but the head is ever trusted alone: whoever reads another word
//! reads the head after it, and throws both away if it is not the same life any more.
//!
//! ```text
//!          alloc            publish         settle            take             retire
//! FREE ------------> (filled) -----> PENDING -----> MEMBER --------> DYING ----------------> FREE, next life
//!   ^                                    |                               \--(held)--> RETIRED --/
//!   \------------------------------ COLLIDED (lost to another insert of the same key)
//! ```

use crossbeam_utils::CachePadded;

use super::{Handle, New, Record};
use crate::sync::{AtomicU64, LINE, Ordering, Words};

/// Not in use; the life in the head is the one to come.
pub(super) const FREE: u64 = 0;
/// Published in a slot, but it is not decided yet whether it stays. Lookups pass over it.
pub(super) const PENDING: u64 = 1;
/// In the table.
pub(super) const MEMBER: u64 = 2;
/// Lost against another entry of the same key; the inserter clears it away.
pub(super) const COLLIDED: u64 = 3;
/// Out of the table; the remover is clearing its slot.
pub(super) const DYING: u64 = 4;
/// Out of the table and of its slot; the last holder frees it.
const RETIRED: u64 = 5;

const PHASE: u64 = 0b111;
const HOLD: u64 = 1 << 3;
const HOLDS: u64 = 0xfff << 3;
const PINNED: u64 = 1 << 15;

/// The first word of an entry: `life:32 owner:16 pinned:1 holds:12 phase:3`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head(u64);

impl Head {
    const fn new(life: u32, owner: u16, pinned: bool, phase: u64) -> Self {
        Self((life as u64) << 32 | (owner as u64) << 16 | if pinned { PINNED } else { 0 } | phase)
    }

    pub(super) const fn life(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) const fn owner(self) -> u16 {
        (self.0 >> 16) as u16
    }

    pub(super) const fn pinned(self) -> bool {
        self.0 & PINNED != 0
    }

    pub(super) const fn held(self) -> bool {
        self.0 & HOLDS != 0
    }

    pub(super) const fn phase(self) -> u64 {
        self.0 & PHASE
    }

    pub(super) const fn with_phase(self, phase: u64) -> Self {
        Self(self.0 & !PHASE | phase)
    }

    /// The same holders, in other hands.
    pub(super) const fn with_owner(self, owner: u16, pinned: bool) -> Self {
        Self(Self::new(self.life(), owner, pinned, self.phase()).0 | self.0 & HOLDS)
    }

    /// Free, a life later.
    const fn reborn(self) -> Self {
        Self::new(self.life().wrapping_add(1), 0, false, FREE)
    }
}

/// The words of one entry.
pub(super) struct Entry<'a, const K: usize, const V: usize> {
    head: &'a AtomicU64,
    /// `life:32 seen:32`; in a free entry `life:32 next:32`, the next free entry's index plus one.
    stamp: &'a AtomicU64,
    key: &'a [AtomicU64; K],
    pub(super) value: &'a [AtomicU64; V],
}

const fn pack(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

impl<const K: usize, const V: usize> Entry<'_, K, V> {
    pub(super) fn head(&self) -> Head {
        Head(self.head.load(Ordering::Acquire))
    }

    /// Every load is an acquire and every store of a later life a release, so that a head read *after* these words is
    /// at least as new as they are.
    #[inline(always)]
    pub(super) fn key(&self) -> [u64; K] {
        self.key.each_ref().map(|word| word.load(Ordering::Acquire))
    }

    /// Changes the head, if it is still what it was.
    pub(super) fn swap(&self, from: Head, to: Head) -> bool {
        self.head.compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Turns this life's phase, if it is in phase `from`; gives the head as it was.
    pub(super) fn turn(&self, life: u32, from: u64, to: u64) -> Option<Head> {
        loop {
            let head = self.head();
            if head.life() != life || head.phase() != from {
                return None;
            }
            if self.swap(head, head.with_phase(to)) {
                return Some(head);
            }
        }
    }

    /// The entry as it is now, if it is still in this life and in the table; `key` was read from it before.
    #[inline(always)]
    pub(super) fn record(&self, at: Handle, key: [u64; K]) -> Option<Record<K, V>> {
        let value = self.value.each_ref().map(|word| word.load(Ordering::Acquire));
        let seen = self.seen();
        let head = self.head();
        (head.life() == at.life && head.phase() == MEMBER).then(|| Record {
            at,
            key,
            value,
            owner: head.owner(),
            pinned: head.pinned(),
            seen,
        })
    }

    pub(super) fn seen(&self) -> u32 {
        self.stamp.load(Ordering::Acquire) as u32
    }

    /// All writes of the stamp are read-modify-writes, even those of an entry's sole owner: the model checker orders
    /// a plain store and another thread's exchange either way, and would find late touches where there can be none.
    fn stamp(&self, life: u32, low: u32) {
        self.stamp.swap(pack(life, low), Ordering::AcqRel);
    }

    /// Moves the stamp on, unless the entry died or another did it.
    pub(super) fn touch(&self, life: u32, seen: u32, now: u32) {
        // A failed exchange is as good: the entry is gone, or was seen at about the same time by another worker.
        let _ = self.stamp.compare_exchange(
            pack(life, seen),
            pack(life, now),
            Ordering::Release,
            Ordering::Relaxed,
        );
    }

    /// Writes an entry that nobody else owns; the head last, so that whoever sees it sees the rest.
    pub(super) fn fill(&self, new: &New<K, V>) -> u32 {
        let life = self.head().life();
        for (word, &part) in self.key.iter().zip(&new.key) {
            word.store(part, Ordering::Release);
        }
        for (word, &part) in self.value.iter().zip(&new.value) {
            word.store(part, Ordering::Release);
        }
        self.stamp(life, new.seen);
        self.head.store(Head::new(life, new.owner, new.pinned, PENDING).0, Ordering::Release);
        life
    }

    /// Ends the life of an entry that nobody else owns. What still points at it points at nothing from here on.
    pub(super) fn end_life(&self) {
        self.head.store(self.head().reborn().0, Ordering::Release);
    }

    /// Counts one holder more; `None` if the entry is not in the table any more.
    pub(super) fn hold(&self, life: u32) -> Option<()> {
        loop {
            let head = self.head();
            if head.life() != life || head.phase() != MEMBER || head.0 & HOLDS == HOLDS {
                return None;
            }
            if self.swap(head, Head(head.0.wrapping_add(HOLD))) {
                return Some(());
            }
        }
    }
}

/// All entries of a table, and the list of free ones.
pub(super) struct Slab<const K: usize, const V: usize> {
    words: Words,
    capacity: u32,
    /// The list of entries that were used before: `changes:32 index+1:32`. The count of changes tells a list that
    /// came back to the same first entry from one that never changed.
    free: CachePadded<AtomicU64>,
    /// Entries below this index were used at least once. Freed entries are used again first, so that the resident
    /// part of the slab is as long as the table was ever full.
    fresh: CachePadded<AtomicU64>,
}

impl<const K: usize, const V: usize> Slab<K, V> {
    /// Words from one entry to the next: small ones never straddle a cache line.
    const STRIDE: usize = match 2 + K + V {
        small @ ..=LINE => small.next_power_of_two(),
        large => large.next_multiple_of(LINE),
    };

    pub(super) fn new(capacity: u32) -> Option<Self> {
        Some(Self::over(Words::zeroed(Self::words_for(capacity)?)?, capacity))
    }

    /// How many words so many entries take.
    pub(super) fn words_for(capacity: u32) -> Option<usize> {
        (capacity as usize).checked_mul(Self::STRIDE)
    }

    /// The same over words that are there, and zero.
    pub(super) fn over(words: Words, capacity: u32) -> Self {
        Self {
            words,
            capacity,
            free: CachePadded::new(AtomicU64::new(0)),
            fresh: CachePadded::new(AtomicU64::new(0)),
        }
    }

    /// What the entries of another slab say, of which nothing is left but its words: those that were in its table.
    #[cfg(not(loom))]
    pub(super) fn left_in(words: &Words, capacity: u32) -> impl Iterator<Item = Record<K, V>> + '_ {
        // They were used one after the other: behind a few that never were, none was, and looking there would cost memory.
        const NEVER: u32 = 64;
        let mut unused = 0;
        let met = move |index: &u32| {
            let head = Self::entry_of(words, *index).map_or(0, |entry| entry.head().0);
            unused = if head == 0 { unused + 1 } else { 0 };
            unused < NEVER
        };
        (0..capacity).take_while(met).filter_map(|index| Self::at(words, index))
    }

    pub(super) const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many entries were ever used.
    pub(super) fn fresh(&self) -> u32 {
        self.fresh.load(Ordering::Acquire) as u32
    }

    #[inline(always)]
    pub(super) fn entry(&self, index: u32) -> Option<Entry<'_, K, V>> {
        Self::entry_of(&self.words, index)
    }

    #[inline(always)]
    fn entry_of(words: &Words, index: u32) -> Option<Entry<'_, K, V>> {
        let words = words.run((index as usize).wrapping_mul(Self::STRIDE), Self::STRIDE);
        let (head, words) = words.split_first()?;
        let (stamp, words) = words.split_first()?;
        let (key, words) = words.split_first_chunk()?;
        let (value, _) = words.split_first_chunk()?;
        Some(Entry { head, stamp, key, value })
    }

    /// The entry at `index` as it is now, if it is in the table.
    #[inline(always)]
    pub(super) fn record(&self, index: u32) -> Option<Record<K, V>> {
        Self::at(&self.words, index)
    }

    #[inline(always)]
    fn at(words: &Words, index: u32) -> Option<Record<K, V>> {
        let entry = Self::entry_of(words, index)?;
        let head = entry.head();
        // Who comes by a link knows that the key was written before. Who comes by an index must ask: the head of a
        // free entry already tells the life to come, while the key is still that of the life before.
        if head.phase() != MEMBER {
            return None;
        }
        entry.record(Handle { index, life: head.life() }, entry.key())
    }

    /// An entry for the caller alone, or `None` when all are in use.
    pub(super) fn alloc(&self) -> Option<u32> {
        self.pop().or_else(|| {
            let more = |fresh| (fresh < u64::from(self.capacity)).then(|| fresh + 1);
            self.fresh.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).ok().map(|index| index as u32)
        })
    }

    fn pop(&self) -> Option<u32> {
        let mut list = self.free.load(Ordering::Acquire);
        loop {
            let index = (list as u32).checked_sub(1)?;
            // Read from an entry that another may have popped meanwhile: then the list has changed and so has its count.
            let next = self.entry(index)?.stamp.load(Ordering::Acquire) as u32;
            let changes = ((list >> 32) as u32).wrapping_add(1);
            let to = pack(changes, next);
            match self.free.compare_exchange(list, to, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(index),
                Err(now) => list = now,
            }
        }
    }

    /// Puts an entry whose life has ended on the free list.
    pub(super) fn push(&self, index: u32) {
        let Some(entry) = self.entry(index) else { return };
        let life = entry.head().life();
        let mut list = self.free.load(Ordering::Relaxed);
        loop {
            entry.stamp(life, list as u32);
            let to = pack(((list >> 32) as u32).wrapping_add(1), index.wrapping_add(1));
            match self.free.compare_exchange(list, to, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => list = now,
            }
        }
    }

    /// Frees a dying entry that is out of its slot, or leaves that to its last holder.
    pub(super) fn retire(&self, index: u32) {
        self.leave(index, |head| if head.held() { head.with_phase(RETIRED) } else { head.reborn() });
    }

    /// Counts one holder less, and frees the entry if it was the last of a retired one.
    pub(super) fn release(&self, index: u32) {
        self.leave(index, |head| {
            let left = Head(head.0.wrapping_sub(HOLD));
            if head.phase() == RETIRED && !left.held() { head.reborn() } else { left }
        });
    }

    fn leave(&self, index: u32, next: impl Fn(Head) -> Head) {
        let Some(entry) = self.entry(index) else { return };
        loop {
            let head = entry.head();
            let to = next(head);
            if entry.swap(head, to) {
                if to.phase() == FREE {
                    self.push(index);
                }
                return;
            }
        }
    }
}
