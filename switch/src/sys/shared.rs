//! Words of a memory file, which outlive the process that writes them.

use std::ffi::c_void;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::AtomicU64;

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create,
};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A memory file of `bytes` that never shrinks, all zero.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `memfd_create`, `ftruncate`, `fcntl` `F_ADD_SEALS`.
pub fn memory(name: &str, bytes: u64) -> Result<OwnedFd, Errno> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, bytes)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK)?;
    Ok(fd)
}

/// Makes a memory file at least so many bytes long; what is new of it is zero.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `fstat`, `ftruncate`.
pub fn grow(fd: impl AsFd, bytes: u64) -> Result<(), Errno> {
    let there = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
    if there < bytes { ftruncate(fd, bytes) } else { Ok(()) }
}

/// Bytes of a memory file.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `fstat`.
pub fn size(fd: impl AsFd) -> Result<u64, Errno> {
    Ok(u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0))
}

/// Makes a part of a memory file zero again, which then takes no memory.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `fallocate` `PUNCH_HOLE`.
pub fn clear(fd: impl AsFd, from: u64, bytes: u64) -> Result<(), Errno> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if bytes == 0 { Ok(()) } else { fallocate(fd, flags, from, bytes) }
}

/// A memory file as words.
///
/// # Threads
/// The words are atomics; whoever has the file may write them at any time.
#[derive(Debug)]
pub struct Shared {
    start: NonNull<c_void>,
    words: usize,
}

impl Shared {
    /// The first `words` words of a file that is at least as long and sealed against shrinking (else whoever shortens it
    /// ends this process).
    ///
    /// # Errors
    /// [`Errno::INVAL`] where it is not so, or there are none; what the kernel said.
    ///
    /// # Syscalls
    /// `fcntl` `F_GET_SEALS`, `fstat`, `mmap`.
    pub fn map(fd: impl AsFd, words: usize) -> Result<Self, Errno> {
        let bytes =
            words.checked_mul(size_of::<AtomicU64>()).filter(|bytes| *bytes > 0).ok_or(Errno::INVAL)?;
        let sealed = rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK);
        let there = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
        if !sealed || there < bytes as u64 {
            return Err(Errno::INVAL);
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice, of a file that is as long and stays so.
        let start = unsafe { mmap(ptr::null_mut(), bytes, protection, MapFlags::SHARED, fd, 0)? };
        Ok(Self { start: NonNull::new(start).ok_or(Errno::NOMEM)?, words })
    }

    /// The words.
    #[inline(always)]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is `words` long, aligned to a page, readable and writable until `self` is dropped; any bits are
        // an `AtomicU64`, which others may change.
        unsafe { slice::from_raw_parts(self.start.as_ptr().cast(), self.words) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: it is the mapping that was made, and nothing borrows from it any more.
        let _ = unsafe { munmap(self.start.as_ptr(), self.words.saturating_mul(size_of::<AtomicU64>())) };
    }
}

// SAFETY: it is a pointer to atomics that nobody else unmaps.
unsafe impl Send for Shared {}
// SAFETY: all that is shared of it is atomics.
unsafe impl Sync for Shared {}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_one_writes_another_reads_after_it() {
        let fd = memory("test", 4096).unwrap();
        Shared::map(&fd, 512).unwrap().words()[511].store(7, Ordering::Relaxed);
        assert_eq!(Shared::map(&fd, 512).unwrap().words()[511].load(Ordering::Relaxed), 7);
        assert_eq!(Shared::map(&fd, 513).unwrap_err(), Errno::INVAL, "longer than the file");
        assert_eq!(Shared::map(&fd, 0).unwrap_err(), Errno::INVAL);
        assert_eq!(ftruncate(&fd, 8).unwrap_err(), Errno::PERM, "it may be mapped");
        let open = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&open, 4096).unwrap();
        assert_eq!(Shared::map(&open, 1).unwrap_err(), Errno::INVAL, "somebody could shorten it");
    }
}
