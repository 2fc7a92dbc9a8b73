//! Connections that nobody has answered, in the order in which they came, apart for each container: the first of these
//! make room, before anything that is in use has to.
//!
//! Whoever sends a SYN to a published l4 port costs a connection, for four minutes (RFC 5382 section 5 REQ-5), and can
//! say that he is anybody: so it is these of which there are as many as somebody wants. There may be [`Backlog::len`] of a
//! container. What had to go is no loss where it was meant: to what is published the next packet opens it again.

use switch::sync::{AtomicU64, Ordering, Words};
use switch::table::{Handle, TableError};

use super::Limits;

/// Between these, and in this proportion to all connections.
const LEAST: usize = if cfg!(loom) { 1 } else { 16 };
const MOST: usize = 4096;
const SHARE: usize = 64;
/// How many came, and how many of them have gone.
const CAME: usize = 0;
const GONE: usize = 1;
const HEAD: usize = 2;

// A handle leaves these bits free; a word of 0 is no handle.
const TAG: u64 = 1 << 24;

pub(super) struct Backlog {
    /// Of each owner the two numbers, and a ring of handles.
    words: Words,
    owners: usize,
    len: usize,
}

impl Backlog {
    pub(super) fn new(limits: &Limits, owners: usize) -> Result<Self, TableError> {
        let len = (limits.connections as usize / SHARE).clamp(LEAST, MOST);
        let (owners, stride) = (owners.max(1), len + HEAD);
        let words = Words::zeroed(owners.saturating_mul(stride)).ok_or(TableError::Memory(owners))?;
        Ok(Self { words, owners, len })
    }

    fn of(&self, owner: u16) -> Option<(&[AtomicU64; HEAD], &[AtomicU64])> {
        let stride = self.len + HEAD;
        let from = usize::from(owner).min(self.owners - 1) * stride;
        self.words.run(from, stride).split_first_chunk()
    }

    /// One that nobody has answered yet; it takes the place of the one given back.
    pub(super) fn push(&self, owner: u16, at: Handle) -> Option<Handle> {
        let (ends, ring) = self.of(owner)?;
        let place = ends[CAME].fetch_add(1, Ordering::Relaxed) % self.len as u64;
        handle(ring.get(place as usize)?.swap(at.to_u64() | TAG, Ordering::Relaxed))
    }

    /// The first of those that are left. They may have been answered, or be gone, since they came.
    pub(super) fn pop(&self, owner: u16) -> Option<Handle> {
        let (ends, ring) = self.of(owner)?;
        loop {
            let (gone, came) = (ends[GONE].load(Ordering::Relaxed), ends[CAME].load(Ordering::Relaxed));
            // Those before were given back by `push`.
            let first = gone.max(came.saturating_sub(self.len as u64));
            if first >= came {
                return None;
            }
            let next = first + 1;
            if ends[GONE].compare_exchange(gone, next, Ordering::Relaxed, Ordering::Relaxed).is_err() {
                continue;
            }
            // Nothing where another thread is about to write: what it writes is met a round later.
            let word = ring.get((first % self.len as u64) as usize)?.swap(0, Ordering::Relaxed);
            if let Some(at) = handle(word) {
                return Some(at);
            }
        }
    }
}

fn handle(word: u64) -> Option<Handle> {
    (word != 0).then(|| Handle::from_u64(word & !TAG))
}
