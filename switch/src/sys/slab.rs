//! Memory in slots that may be lent to the kernel: while it writes into one nobody has a reference to it.
//!
//! Every slot has a state, and the references that a [`Slab`] gives depend on it:
//!
//! | state | who | `slot` | `slot_mut` |
//! |---|---|---|---|
//! | ours | nobody else | yes | yes |
//! | read by the kernel, n times | a write is on its way | yes | no |
//! | lent | the kernel may write at any moment | no | no |
//!
//! Only [`super::ring`] changes states, by what the kernel says.

use std::ptr::NonNull;
use std::sync::Arc;

use rustix::io::Errno;

use super::socket::last_errno;

/// The kernel may write into the slot.
const LENT: u16 = u16::MAX;

/// Anonymous pages, of which only addresses are known here. They are given back when nobody has them any more.
#[derive(Debug)]
pub(super) struct Memory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: it is an address and a length. References into it are given by `Slab` alone, by the rules of `&` and `&mut`.
unsafe impl Send for Memory {}
// SAFETY: as above; nothing can be done with a shared one but asking for its address.
unsafe impl Sync for Memory {}

impl Memory {
    /// Zeroed pages, touched when they are first used.
    ///
    /// # Errors
    /// `ENOMEM`, or that of an impossible length.
    ///
    /// # Syscalls
    /// `mmap`.
    pub(super) fn new(len: usize) -> Result<Self, Errno> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new pages where the kernel likes; nothing that exists is replaced.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(last_errno());
        }
        Ok(Self { base: NonNull::new(base.cast()).ok_or(Errno::NOMEM)?, len })
    }

    /// Where it begins: with a page.
    pub(super) const fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: these pages were mapped by `new`, and who borrowed from them borrowed from their last owner.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Slots of equal size.
#[derive(Debug)]
pub struct Slab {
    memory: Arc<Memory>,
    stride: usize,
    states: Box<[u16]>,
}

impl Slab {
    /// So many zeroed slots of `stride` bytes, the first one at the beginning of a page.
    ///
    /// # Errors
    /// What the kernel said.
    ///
    /// # Syscalls
    /// `mmap`
    pub fn new(slots: u16, stride: usize) -> Result<Self, Errno> {
        let len = usize::from(slots.max(1)).checked_mul(stride).ok_or(Errno::NOMEM)?;
        let states = vec![0; usize::from(slots)].into_boxed_slice();
        Ok(Self { memory: Arc::new(Memory::new(len)?), stride, states })
    }

    /// The address of a slot that exists.
    fn address(&self, slot: u16) -> *mut u8 {
        debug_assert!(usize::from(slot) < self.states.len());
        // SAFETY: callers have found the slot in `states`, and the memory has room for all of these.
        unsafe { self.memory.base().as_ptr().add(usize::from(slot) * self.stride) }
    }

    /// The bytes of a slot; none while the kernel may write into it.
    #[inline]
    pub fn slot(&self, slot: u16) -> &[u8] {
        match self.states.get(usize::from(slot)) {
            Some(&state) if state != LENT => {
                // SAFETY: the slot is within the memory and initialised by `mmap`. The kernel at most reads it, and
                // every `&mut` into it borrows `self` mutably. States change only by `&mut self`.
                unsafe { std::slice::from_raw_parts(self.address(slot), self.stride) }
            }
            _ => &[],
        }
    }

    /// The bytes of a slot, to be changed; none while the kernel reads or may write it.
    #[inline]
    pub fn slot_mut(&mut self, slot: u16) -> &mut [u8] {
        match self.states.get(usize::from(slot)) {
            Some(0) => {
                // SAFETY: the slot is within the memory and initialised; the kernel has nothing to do with it, and every
                // other reference would borrow `self`.
                unsafe { std::slice::from_raw_parts_mut(self.address(slot), self.stride) }
            }
            _ => &mut [],
        }
    }

    /// The bytes of a slot to be changed, beside those of another one.
    pub fn pair(&mut self, change: u16, beside: u16) -> (&mut [u8], &[u8]) {
        let state = |slot: u16| self.states.get(usize::from(slot)).copied();
        match (state(change), state(beside)) {
            (Some(0), Some(state)) if change != beside && state != LENT => {
                // SAFETY: as in `slot_mut` and `slot`; they are two slots, which do not overlap.
                unsafe {
                    (
                        std::slice::from_raw_parts_mut(self.address(change), self.stride),
                        std::slice::from_raw_parts(self.address(beside), self.stride),
                    )
                }
            }
            _ => (&mut [], &[]),
        }
    }

    /// Whether it is the memory that somebody else holds.
    #[inline]
    pub(super) fn is(&self, memory: &Arc<Memory>) -> bool {
        Arc::ptr_eq(&self.memory, memory)
    }

    /// One more holder of the memory.
    pub(super) fn memory(&self) -> Arc<Memory> {
        Arc::clone(&self.memory)
    }

    /// From now on the kernel may write into the slot: its address and length, for the ring alone. `None`: it is not
    /// ours to lend.
    pub(super) fn lend(&mut self, slot: u16) -> Option<(*mut u8, usize)> {
        let state = self.states.get_mut(usize::from(slot)).filter(|state| **state == 0)?;
        *state = LENT;
        Some((self.address(slot), self.stride))
    }

    /// The kernel has filled the slot and is done with it. False: it did not have it.
    #[inline]
    pub(super) fn take_back(&mut self, slot: u16) -> bool {
        let state = self.states.get_mut(usize::from(slot)).filter(|state| **state == LENT);
        state.map(|state| *state = 0).is_some()
    }

    /// From now on the kernel may read these bytes of the slot: their address, for the ring alone.
    #[inline]
    pub(super) fn show(&mut self, slot: u16, start: usize, len: usize) -> Option<*const u8> {
        if start.checked_add(len)? > self.stride {
            return None;
        }
        let state = self.states.get_mut(usize::from(slot)).filter(|state| **state < LENT - 1)?;
        *state += 1;
        // SAFETY: within the slot, checked above.
        Some(unsafe { self.address(slot).add(start) })
    }

    /// One read of the slot by the kernel is over.
    #[inline]
    pub(super) fn shown(&mut self, slot: u16) {
        if let Some(state) =
            self.states.get_mut(usize::from(slot)).filter(|state| !matches!(**state, 0 | LENT))
        {
            *state -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_has_is_not_to_be_had() {
        let mut slab = Slab::new(2, 4096).unwrap();
        slab.slot_mut(1)[0] = 7;
        assert_eq!(slab.slot(1)[0], 7);
        assert!(slab.show(1, 0, 4096).is_some() && slab.show(1, 1, 4096).is_none());
        assert!(slab.slot_mut(1).is_empty() && slab.slot(1).len() == 4096 && slab.lend(1).is_none());
        slab.shown(1);
        assert!(slab.lend(1).is_some() && slab.lend(1).is_none() && slab.show(1, 0, 1).is_none());
        assert!(slab.slot(1).is_empty() && slab.slot_mut(1).is_empty());
        slab.shown(1);
        assert!(slab.slot(1).is_empty(), "a read that never was changes nothing");
        assert!(slab.take_back(1) && !slab.take_back(1) && !slab.take_back(9));
        assert_eq!(slab.slot(1)[0], 7);
        assert!(slab.slot(2).is_empty() && slab.slot_mut(2).is_empty());
    }

    #[test]
    fn two_slots_at_a_time_are_two() {
        let mut slab = Slab::new(2, 64).unwrap();
        slab.slot_mut(0).fill(3);
        let (to, from) = slab.pair(1, 0);
        to.copy_from_slice(from);
        assert_eq!(slab.slot(1), [3; 64]);
        assert!(slab.pair(1, 1).0.is_empty() && slab.pair(0, 2).0.is_empty());
        slab.lend(0);
        assert!(slab.pair(1, 0).0.is_empty() && slab.pair(0, 1).1.is_empty());
    }
}
