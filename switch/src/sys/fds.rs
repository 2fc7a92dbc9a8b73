//! Descriptors: memory files, and what a program that we start does not get to see.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

/// A memory file with `bytes` in it that nobody can change any more.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `memfd_create`, `write`, `fcntl(F_ADD_SEALS)`.
pub fn memory_file(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    file.rewind()?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(file.into())
}

/// The text of a memory file (or any file that can be read from its beginning), at most `limit` bytes of it.
///
/// # Errors
/// [`io::ErrorKind::FileTooLarge`] beyond `limit`, [`io::ErrorKind::InvalidData`] if it is not UTF-8.
///
/// # Syscalls
/// `lseek`, `read`.
pub fn read_text(fd: OwnedFd, limit: u64) -> io::Result<String> {
    let mut file = File::from(fd);
    file.rewind()?;
    let mut text = String::new();
    file.take(limit.saturating_add(1)).read_to_string(&mut text)?;
    if text.len() as u64 > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

/// Whether an open TAP (or any other descriptor) is still good: `false` once its namespace is gone.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `poll`, without waiting.
pub fn is_alive(fd: impl AsFd) -> rustix::io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut set = [PollFd::new(&fd, PollFlags::empty())];
    poll(&mut set, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(set.iter().all(|fd| !fd.revents().intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL)))
}

/// Whether a descriptor can be read without waiting: a pidfd, whether its process has ended.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `poll`, without waiting.
pub fn is_readable(fd: impl AsFd) -> rustix::io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut set = [PollFd::new(&fd, PollFlags::IN)];
    Ok(poll(&mut set, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
}

/// Marks every descriptor from `first` up as close-on-exec: what the caller of this process left open is not handed on
/// to a program we run.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `close_range(CLOSE_RANGE_CLOEXEC)` (Linux 5.11); before that `fcntl` for each entry of `/proc/self/fd`.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed now, only a flag is set.
    let answer =
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if answer == 0 {
        return Ok(());
    }
    match Errno::from_io_error(&io::Error::last_os_error()) {
        Some(Errno::NOSYS | Errno::INVAL) => {}
        _ => return Err(io::Error::last_os_error()),
    }
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if number >= first && number <= i32::MAX as u32 {
            // SAFETY: only a flag of the descriptor is set; EBADF for the one of the listing itself is of no matter.
            unsafe { libc::fcntl(number as libc::c_int, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_file_is_bounded_and_sealed() {
        let fd = memory_file("test", b"hello").unwrap();
        let mut copy = File::from(fd.try_clone().unwrap());
        assert_eq!(copy.write(b"x").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(read_text(fd.try_clone().unwrap(), 5).unwrap(), "hello");
        assert_eq!(read_text(fd, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
