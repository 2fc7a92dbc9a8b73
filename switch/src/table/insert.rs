//! Inserting: claim an entry, publish it, settle who stays; and eviction when there is no entry to claim.

use super::slab::{COLLIDED, DYING, MEMBER, PENDING};
use super::{CROWDED, Handle, Inserted, Link, New, Outcome, Probe, Record, Table, WIDTH, age};
use crate::sync::{AtomicU64, Ordering, fence};

/// Entries looked at for one victim.
const SAMPLES: usize = if cfg!(loom) { 1 } else { 16 };
/// How often to look again when none of them may be evicted, or another thread changed the chosen one.
const ROUNDS: usize = if cfg!(loom) { 2 } else { 4 };

impl<const K: usize, const V: usize> Table<K, V> {
    /// Inserts unless the key is there already.
    ///
    /// In a full table someone must go: the greediest owner loses its own oldest entry. Of 16 entries chosen at random
    /// the victim is the one whose owner has the most entries, and of several such the oldest. It is never one of an
    /// owner who has fewer than the newcomer's, nor a pinned one; if four such samples hold none that may go, the
    /// insert is refused. A pinned newcomer may replace anybody's.
    ///
    /// Sampling, because an exact answer needs the owners in a heap and each one's entries in a list by age, and every
    /// touch by every worker would have to keep those in order. A sample costs the same whatever the size, needs
    /// nothing kept, and cannot be steered from outside: who fills a table is nearly all of the table, so nearly every
    /// sample is theirs. What is lost is small: the victim is not the very oldest of them but, on average, among the
    /// oldest sixteenth.
    pub fn insert(&self, new: &New<K, V>) -> Inserted<K, V> {
        let probe = self.probe(&new.key);
        let mut evicted = None;
        let mut claimed = None;
        let outcome = loop {
            if let Some(record) = self.find(probe, &new.key) {
                break Outcome::Existing(record);
            }
            // Before anything is claimed or evicted for an entry that could not be published.
            let Some(slot) = self.vacant(probe) else { break Outcome::BucketFull };
            let Some(index) = claimed.take().or_else(|| self.claim(new, &mut evicted)) else {
                break Outcome::Full;
            };
            if let Some(link) = self.publish(probe, slot, index, new)
                && self.conclude(probe, slot, link, new)
            {
                return Inserted { outcome: Outcome::New(link.at()), evicted };
            }
            claimed = Some(index);
        };
        if let Some(index) = claimed {
            self.give_back(index, new);
        }
        Inserted { outcome, evicted }
    }

    /// An empty slot for a newcomer.
    pub(super) fn vacant(&self, probe: Probe) -> Option<&AtomicU64> {
        let [first, second] = probe.buckets.map(|bucket| {
            let slots = self.slots.run(bucket, WIDTH);
            let empty = |slot: &&AtomicU64| slot.load(Ordering::Relaxed) == 0;
            let vacant = slots.iter().find(empty);
            (vacant, slots.len().wrapping_sub(slots.iter().filter(empty).count()))
        });
        let ((Some(slot), used), (other, other_used)) = (first, second) else { return second.0 };
        if used >= CROWDED && other_used < used { other.or(Some(slot)) } else { Some(slot) }
    }

    /// An entry for `new` alone, counted as its owner's.
    pub(super) fn claim(&self, new: &New<K, V>, evicted: &mut Option<Record<K, V>>) -> Option<u32> {
        let index = self.slab.alloc().or_else(|| {
            let victim = self.evict(new)?;
            *evicted = Some(victim);
            Some(victim.at.index)
        })?;
        self.counts.all.fetch_add(1, Ordering::Relaxed);
        self.count(new.owner, new.pinned);
        Some(index)
    }

    /// Fills a claimed entry and points the slot at it; `None` if the slot was taken meanwhile.
    pub(super) fn publish(
        &self,
        probe: Probe,
        slot: &AtomicU64,
        index: u32,
        new: &New<K, V>,
    ) -> Option<Link> {
        let life = self.slab.entry(index)?.fill(new);
        let link = Link::new(Handle { index, life }, probe.tag);
        slot.compare_exchange(0, link.0, Ordering::AcqRel, Ordering::Relaxed).is_ok().then_some(link)
    }

    /// Whether the published entry came into the table. If not, it is out of its slot again and still claimed.
    pub(super) fn conclude(&self, probe: Probe, slot: &AtomicU64, link: Link, new: &New<K, V>) -> bool {
        self.settle(probe, &new.key, slot, link);
        let Some(entry) = self.slab.entry(link.at().index) else { return false };
        let head = entry.head();
        if head.life() != link.at().life || head.phase() != COLLIDED {
            // A member, or one already removed again.
            return true;
        }
        slot.store(0, Ordering::Release);
        // Others still have the link in their hands: the next attempt is another life.
        entry.end_life();
        false
    }

    /// Undoes [`Table::claim`] for an entry that nobody can see.
    pub(super) fn give_back(&self, index: u32, new: &New<K, V>) {
        self.counts.all.fetch_sub(1, Ordering::Relaxed);
        self.discount(new.owner, new.pinned);
        if let Some(entry) = self.slab.entry(index) {
            entry.end_life();
            self.slab.push(index);
        }
    }

    /// Decides whether the pending entry that `link` in `mine` points at becomes a member.
    ///
    /// Anyone may do this for anyone. No two entries of a key become members: say the one in the earlier slot and the
    /// one in the later both did. Whoever decided for the later one passed the earlier slot while the earlier one was
    /// not yet published, so the later one was published before the earlier. Then whoever decided for the earlier one
    /// met the later one, and either made it collide or, finding it a member, gave up.
    fn settle(&self, probe: Probe, key: &[u64; K], mine: &AtomicU64, link: Link) {
        // Between my publishing and my looking, as between everybody else's: one of two sees the other.
        fence(Ordering::SeqCst);
        let mut earlier = true;
        for seat in self.seats(probe) {
            if std::ptr::eq(seat, mine) {
                earlier = false;
                continue;
            }
            let other = Link(seat.load(Ordering::Acquire));
            let Some(entry) = self.entry_of(other, key).filter(|_| other.tag() == probe.tag) else {
                continue;
            };
            if !earlier && entry.turn(other.at().life, PENDING, COLLIDED).is_some() {
                continue;
            }
            let head = entry.head();
            if head.life() != other.at().life {
                continue;
            }
            match head.phase() {
                MEMBER => {}
                // Only an earlier one is still pending here. At most 15 deep: each step is to an earlier slot.
                PENDING => self.settle(probe, key, seat, other),
                _ => continue,
            }
            self.resolve(link, COLLIDED);
            return;
        }
        self.resolve(link, MEMBER);
    }

    fn resolve(&self, link: Link, phase: u64) {
        if let Some(entry) = self.slab.entry(link.at().index) {
            entry.turn(link.at().life, PENDING, phase);
        }
    }

    /// Removes an entry to make room for `new`, and hands it over to the caller alone.
    #[cold]
    fn evict(&self, new: &New<K, V>) -> Option<Record<K, V>> {
        let floor = if new.pinned { 0 } else { self.owner_len(new.owner) };
        for _ in 0..ROUNDS {
            let victim = (0..SAMPLES)
                .filter_map(|_| self.slab.record(self.roll()))
                .filter(|record| !record.pinned)
                .map(|record| (self.owner_len(record.owner), age(new.seen, record.seen), record))
                .filter(|&(greed, ..)| greed >= floor)
                .max_by_key(|&(greed, age, _)| (greed, age));
            let Some((.., record)) = victim else { continue };
            if self.seize(&record) {
                return Some(record);
            }
        }
        None
    }

    /// Takes an entry that nobody holds out of the table, for the caller alone.
    fn seize(&self, record: &Record<K, V>) -> bool {
        let Some(entry) = self.slab.entry(record.at.index) else { return false };
        let head = entry.head();
        let same = head.life() == record.at.life && head.phase() == MEMBER && head.owner() == record.owner;
        if !same || head.pinned() || head.held() || !entry.swap(head, head.with_phase(DYING)) {
            return false;
        }
        self.bury(record);
        entry.end_life();
        true
    }

    /// The index of an entry, at random (splitmix64 over a counter).
    fn roll(&self) -> u32 {
        let mut word = self.counts.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word >> 32).wrapping_mul(u64::from(self.slab.capacity())) >> 32) as u32
    }
}
