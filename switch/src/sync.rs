//! The atomics of everything that workers share: std's, or loom's under `--cfg loom`, which tries every interleaving.
//!
//! Only [`crate::table`] and what is made of it is modelled; the rest of the crate uses std as it is.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, fence};
pub(crate) use std::sync::atomic::Ordering;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, fence};

/// Words in a cache line.
pub(crate) const LINE: usize = 8;

/// A run of words that all start as zero, at the start of a cache line, and take no memory until they are written.
pub(crate) struct Words {
    raw: Box<[AtomicU64]>,
    skip: usize,
}

impl Words {
    /// `len` words, or `None` where there is no memory for them.
    ///
    /// The allocator is asked for ordinary alignment and the first few words are skipped: asked for 64 bytes it would
    /// clear the memory by hand, and the pages of an empty table would all be resident.
    #[cfg(not(loom))]
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        use zerocopy::FromZeros;
        let raw = <[AtomicU64]>::new_box_zeroed_with_elems(len.checked_add(LINE - 1)?).ok()?;
        let skip = raw.as_ptr().align_offset(LINE * size_of::<u64>()).min(LINE - 1);
        Some(Self { raw, skip })
    }

    /// `len` words; loom's are larger than a word and lie anywhere.
    #[cfg(loom)]
    pub(crate) fn zeroed(len: usize) -> Option<Self> {
        Some(Self { raw: (0..len).map(|_| AtomicU64::new(0)).collect(), skip: 0 })
    }

    /// The words `at..at + len`; none if they are not all there.
    #[inline(always)]
    pub(crate) fn run(&self, at: usize, len: usize) -> &[AtomicU64] {
        let from = at.saturating_add(self.skip);
        self.raw.get(from..from.saturating_add(len)).unwrap_or_default()
    }

    /// The word at `at`.
    #[inline(always)]
    pub(crate) fn get(&self, at: usize) -> Option<&AtomicU64> {
        self.raw.get(at.saturating_add(self.skip))
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
