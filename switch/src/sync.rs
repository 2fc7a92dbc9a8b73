//! The atomics of everything that workers share: std's, or loom's under `--cfg loom`, which tries every interleaving.
//!
//! Only [`crate::table`] and what is made of it is modelled, in this crate and in others; the rest uses std as it is.

#[cfg(loom)]
pub use loom::sync::atomic::fence;
#[cfg(loom)]
pub use modelled::AtomicU64;
pub use std::sync::atomic::Ordering;
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU64, fence};

/// loom's atomic, and beside it a pulse that every access beats first.
///
/// Of all accesses to an atomic, loom 0.7 remembers the last one. If a thread loads a word before it writes it, loom
/// forgets that another thread had loaded the word earlier, and does not try that load after the write: models of
/// readers against writers ended after one interleaving. A beat is a read-modify-write, which depends on every other,
/// so none is forgotten; it is relaxed, and orders nothing that the word does not.
#[cfg(loom)]
mod modelled {
    use super::Ordering;
    use loom::sync::atomic as loom;

    /// See the module.
    #[derive(Debug)]
    pub struct AtomicU64 {
        pulse: loom::AtomicUsize,
        word: loom::AtomicU64,
    }

    #[allow(missing_docs)]
    impl AtomicU64 {
        pub fn new(word: u64) -> Self {
            Self { pulse: loom::AtomicUsize::new(0), word: loom::AtomicU64::new(word) }
        }

        fn beat(&self) -> &loom::AtomicU64 {
            self.pulse.fetch_add(0, Ordering::Relaxed);
            &self.word
        }

        pub fn load(&self, order: Ordering) -> u64 {
            self.beat().load(order)
        }

        pub fn store(&self, word: u64, order: Ordering) {
            self.beat().store(word, order);
        }

        pub fn swap(&self, word: u64, order: Ordering) -> u64 {
            self.beat().swap(word, order)
        }

        pub fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
            self.beat().fetch_or(bits, order)
        }

        pub fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
            self.beat().fetch_and(bits, order)
        }

        pub fn fetch_max(&self, word: u64, order: Ordering) -> u64 {
            self.beat().fetch_max(word, order)
        }

        pub fn compare_exchange(
            &self,
            from: u64,
            to: u64,
            done: Ordering,
            not: Ordering,
        ) -> Result<u64, u64> {
            self.beat().compare_exchange(from, to, done, not)
        }

        pub fn fetch_add(&self, more: u64, order: Ordering) -> u64 {
            self.beat().fetch_add(more, order)
        }

        pub fn fetch_sub(&self, less: u64, order: Ordering) -> u64 {
            self.beat().fetch_sub(less, order)
        }

        pub fn fetch_update(
            &self,
            done: Ordering,
            not: Ordering,
            next: impl FnMut(u64) -> Option<u64>,
        ) -> Result<u64, u64> {
            self.beat().fetch_update(done, not, next)
        }
    }
}

/// Words in a cache line.
pub(crate) const LINE: usize = 8;

/// A run of words that all start as zero, at the start of a cache line, and take no memory until they are written.
pub struct Words {
    raw: Raw,
    skip: usize,
}

/// Whose memory it is.
enum Raw {
    Own(Box<[AtomicU64]>),
    /// A part of a memory file that outlives this process.
    #[cfg(not(loom))]
    Shared(std::sync::Arc<crate::sys::shared::Shared>, std::ops::Range<usize>),
}

impl Words {
    /// `len` words, or `None` where there is no memory for them.
    ///
    /// The allocator is asked for ordinary alignment and the first few words are skipped: asked for 64 bytes it would
    /// clear the memory by hand, and the pages of an empty table would all be resident.
    #[cfg(not(loom))]
    pub fn zeroed(len: usize) -> Option<Self> {
        use zerocopy::FromZeros;
        let raw = <[AtomicU64]>::new_box_zeroed_with_elems(len.checked_add(LINE - 1)?).ok()?;
        let skip = raw.as_ptr().align_offset(LINE * size_of::<u64>()).min(LINE - 1);
        Some(Self { raw: Raw::Own(raw), skip })
    }

    /// These words of a memory file, which are zero; `None` if they are not all there. Line them up.
    #[cfg(not(loom))]
    pub(crate) fn shared(
        memory: &std::sync::Arc<crate::sys::shared::Shared>,
        range: std::ops::Range<usize>,
    ) -> Option<Self> {
        memory.words().get(range.clone())?;
        Some(Self { raw: Raw::Shared(std::sync::Arc::clone(memory), range), skip: 0 })
    }

    #[inline(always)]
    fn all(&self) -> &[AtomicU64] {
        match &self.raw {
            Raw::Own(words) => words,
            #[cfg(not(loom))]
            Raw::Shared(memory, range) => memory.words().get(range.clone()).unwrap_or_default(),
        }
    }

    /// `len` words; loom's are larger than a word and lie anywhere.
    #[cfg(loom)]
    pub fn zeroed(len: usize) -> Option<Self> {
        Some(Self { raw: Raw::Own((0..len).map(|_| AtomicU64::new(0)).collect()), skip: 0 })
    }

    /// The words `at..at + len`; none if they are not all there.
    #[inline(always)]
    pub fn run(&self, at: usize, len: usize) -> &[AtomicU64] {
        let from = at.saturating_add(self.skip);
        self.all().get(from..from.saturating_add(len)).unwrap_or_default()
    }

    /// The `N` words from `at`, if they are all there.
    #[inline(always)]
    pub fn array<const N: usize>(&self, at: usize) -> Option<&[AtomicU64; N]> {
        self.all().get(at.saturating_add(self.skip)..)?.first_chunk()
    }

    /// The word at `at`.
    #[inline(always)]
    pub fn get(&self, at: usize) -> Option<&AtomicU64> {
        self.all().get(at.saturating_add(self.skip))
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn words_are_zero_aligned_and_bounded() {
        for len in [1, 7, 8, 4096, 100_000] {
            let words = Words::zeroed(len).unwrap();
            assert_eq!(words.run(0, len).as_ptr().align_offset(64), 0);
            assert!(words.run(0, len).iter().all(|word| word.load(Ordering::Relaxed) == 0));
            assert!(words.run(len + LINE, 1).is_empty());
            assert!(words.run(usize::MAX, 2).is_empty());
            assert!(words.get(len + LINE).is_none());
        }
        assert!(Words::zeroed(usize::MAX).is_none());
    }
}
