//! One timer per flow, without allocation: two rings of buckets, in which the slots of flows are linked.
//!
//! A timer is a promise to look at the flow, not to be late by more than a bucket: whoever is woken compares its own
//! deadline and sets the timer again. So a deadline that moves away, as nearly all do, costs nothing.

use switch::tick::Tick;

/// Buckets of a ring.
const BUCKETS: u64 = 256;
/// Milliseconds of a bucket of the near ring: 2 s in all.
const NEAR: u64 = 8;
/// Milliseconds of a bucket of the far ring: nearly 9 minutes in all. What is later is looked at then.
const FAR: u64 = NEAR * BUCKETS;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Link {
    next: u32,
    previous: u32,
    /// The bucket of both rings together; `NONE`: not set.
    bucket: u32,
    at: u64,
}

const FREE: Link = Link { next: NONE, previous: NONE, bucket: NONE, at: 0 };

/// The timers of `slots` flows.
pub(super) struct Wheel {
    heads: Box<[u32]>,
    links: Box<[Link]>,
    /// A bit for every bucket that is not empty.
    used: [u64; (2 * BUCKETS / 64) as usize],
    /// Everything before this moment was handed out, milliseconds, a multiple of `NEAR`.
    done: u64,
}

impl Wheel {
    pub(super) fn new(slots: usize, now: Tick) -> Self {
        Self {
            heads: vec![NONE; 2 * BUCKETS as usize].into_boxed_slice(),
            links: vec![FREE; slots].into_boxed_slice(),
            used: [0; _],
            done: now.millis() / NEAR * NEAR,
        }
    }

    /// The slot will be handed out by [`Wheel::pop`] at `at` or shortly after it. A timer that is set already is only
    /// ever moved nearer.
    pub(super) fn set(&mut self, slot: u32, at: Tick) {
        let at = at.millis().max(self.done);
        let Some(link) = self.links.get(slot as usize) else { return };
        if link.bucket != NONE {
            if link.at <= at {
                return;
            }
            self.clear(slot);
        }
        let bucket = if at <= self.done + (BUCKETS - 1) * NEAR {
            // Rounded up: nobody is woken before the time.
            at.div_ceil(NEAR) % BUCKETS
        } else {
            // Rounded down, into the near ring then; but never to a bucket that is due now.
            let ahead = (at / FAR).clamp(self.done / FAR + 1, self.done / FAR + BUCKETS - 1);
            BUCKETS + ahead % BUCKETS
        };
        self.link(slot, bucket as u32, at);
    }

    fn link(&mut self, slot: u32, bucket: u32, at: u64) {
        let Some(head) = self.heads.get_mut(bucket as usize) else { return };
        let next = std::mem::replace(head, slot);
        if let Some(link) = self.links.get_mut(next as usize) {
            link.previous = slot;
        }
        if let Some(link) = self.links.get_mut(slot as usize) {
            *link = Link { next, previous: NONE, bucket, at };
        }
        if let Some(word) = self.used.get_mut(bucket as usize / 64) {
            *word |= 1 << (bucket % 64);
        }
    }

    /// No timer for this slot any more.
    pub(super) fn clear(&mut self, slot: u32) {
        let Some(link) = self.links.get_mut(slot as usize) else { return };
        let Link { next, previous, bucket, .. } = std::mem::replace(link, FREE);
        if bucket == NONE {
            return;
        }
        if let Some(link) = self.links.get_mut(next as usize) {
            link.previous = previous;
        }
        if let Some(link) = self.links.get_mut(previous as usize) {
            link.next = next;
            return;
        }
        if let Some(head) = self.heads.get_mut(bucket as usize) {
            *head = next;
        }
        if next == NONE
            && let Some(word) = self.used.get_mut(bucket as usize / 64)
        {
            *word &= !(1 << (bucket % 64));
        }
    }

    /// A slot whose time has come; its timer is cleared.
    pub(super) fn pop(&mut self, now: Tick) -> Option<u32> {
        let at = self.next()?.millis();
        if at > now.millis() {
            // The rings may turn as far as nothing is left behind.
            self.done = self.done.max(now.millis() / NEAR * NEAR);
            return None;
        }
        self.done = self.done.max(at);
        let near = at / NEAR % BUCKETS;
        let far = BUCKETS + at / FAR % BUCKETS;
        let bucket = if self.is_used(near) { near } else { far };
        let slot = self.heads.get(bucket as usize).copied()?;
        self.clear(slot);
        Some(slot)
    }

    /// When [`Wheel::pop`] has something next.
    pub(super) fn next(&self) -> Option<Tick> {
        let near = self.first(0, self.done / NEAR).map(|ahead| self.done + ahead * NEAR);
        let far = self.first(BUCKETS, self.done / FAR).map(|ahead| (self.done / FAR + ahead) * FAR);
        let at = match (near, far) {
            (Some(near), Some(far)) => near.min(far),
            (near, far) => near.or(far)?,
        };
        Some(Tick::from_millis(at.max(self.done)))
    }

    fn is_used(&self, bucket: u64) -> bool {
        self.used.get(bucket as usize / 64).is_some_and(|word| word & (1 << (bucket % 64)) != 0)
    }

    /// How many buckets ahead of `from` the first used one of the ring at `base` is.
    fn first(&self, base: u64, from: u64) -> Option<u64> {
        let words = self.used.get(base as usize / 64..(base + BUCKETS) as usize / 64)?;
        if words.iter().all(|word| *word == 0) {
            return None;
        }
        (0..BUCKETS).find(|ahead| self.is_used(base + (from + ahead) % BUCKETS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nobody_is_forgotten_or_woken_early(deadlines in prop::collection::vec(0..900_000u64, 1..60), step in 1..5000u64) {
            let mut wheel = Wheel::new(deadlines.len(), Tick::from_millis(0));
            for (slot, at) in deadlines.iter().enumerate() {
                wheel.set(slot as u32, Tick::from_millis(*at));
            }
            let mut woken = vec![None; deadlines.len()];
            let mut now = 0;
            while woken.contains(&None) {
                let next = wheel.next().unwrap().millis();
                prop_assert!(next < 1_000_000, "{next}");
                now = next.max(now + step);
                while let Some(slot) = wheel.pop(Tick::from_millis(now)) {
                    if deadlines[slot as usize] <= now {
                        woken[slot as usize] = Some(now);
                    } else {
                        wheel.set(slot, Tick::from_millis(deadlines[slot as usize]));
                    }
                }
                for (slot, at) in deadlines.iter().enumerate() {
                    prop_assert!(woken[slot].is_some() || at + NEAR > now, "slot {slot} {at} {now}");
                }
            }
            prop_assert!(wheel.next().is_none());
        }
    }

    #[test]
    fn a_timer_moves_nearer_and_goes_away() {
        let mut wheel = Wheel::new(3, Tick::from_millis(1000));
        wheel.set(0, Tick::from_millis(9000));
        wheel.set(1, Tick::from_millis(9000));
        wheel.set(0, Tick::from_millis(1100));
        wheel.set(0, Tick::from_millis(5000));
        assert_eq!(wheel.pop(Tick::from_millis(1099)), None);
        assert_eq!(wheel.pop(Tick::from_millis(1104)), Some(0));
        wheel.clear(1);
        assert_eq!(wheel.next(), None);
    }
}
