//! Namespaces: opening, naming, entering, leaving the old one.
//!
//! Namespaces belong to threads. Whoever enters another one does it in a thread or process that ends afterwards
//! ([`in_netns`]): a thread that failed to return would answer for the wrong namespace for ever.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, ioctl};
use rustix::net::{AddressFamily, SocketType};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::returns::Returns;

/// File system type of namespace files (`include/uapi/linux/magic.h`).
const NSFS_MAGIC: u64 = 0x6e73_6673;
/// `_IO(0xb7, 1)`: the user namespace that owns this one (`include/uapi/linux/nsfs.h`).
const NS_GET_USERNS: Opcode = 0xb701;
/// `_IO(0xb7, 3)`: the `CLONE_NEW*` value of this namespace's type.
const NS_GET_NSTYPE: Opcode = 0xb703;

/// Why a path is no network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NetnsError {
    /// The file is there but it is not (or not yet) a namespace: `ip netns add` makes an empty file and mounts after.
    #[error("not a namespace")]
    NotNamespace,
    /// It is a namespace of another type.
    #[error("a namespace, but not a network namespace")]
    NotNetwork,
    /// What the kernel said.
    #[error("{0}")]
    Kernel(#[from] Errno),
}

/// Opens the network namespace behind `path`: a name's mount in `/run/netns`, `/proc/PID/ns/net`, a runtime's sandbox
/// key. The descriptor keeps the namespace alive as long as it is open.
///
/// # Errors
/// [`NetnsError`].
///
/// # Privileges
/// Read permission; for `/proc/PID/ns/net` the right to trace that process.
///
/// # Syscalls
/// `openat` (never waits, even on a FIFO), `fstatfs`, `ioctl` `NS_GET_NSTYPE`.
pub fn open(path: &Path) -> Result<OwnedFd, NetnsError> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    if !is_nsfs(&fd)? {
        return Err(NetnsError::NotNamespace);
    }
    // SAFETY: NS_GET_NSTYPE takes no argument and returns an integer.
    let kind = unsafe { ioctl(&fd, Returns::<NS_GET_NSTYPE>) }?;
    if kind == libc::CLONE_NEWNET { Ok(fd) } else { Err(NetnsError::NotNetwork) }
}

/// The calling thread's network namespace.
///
/// # Errors
/// What the kernel said; `ENOENT` without `/proc`.
///
/// # Syscalls
/// `openat` of `/proc/thread-self/ns/net`.
pub fn current() -> rustix::io::Result<OwnedFd> {
    rustix::fs::open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Whether `fd` is a namespace file at all.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `fstatfs`.
pub fn is_nsfs(fd: impl AsFd) -> rustix::io::Result<bool> {
    Ok(rustix::fs::fstatfs(fd)?.f_type as u64 == NSFS_MAGIC)
}

/// Device and inode number: what makes a namespace that namespace, whatever path leads to it.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `fstat`.
pub fn identity(fd: impl AsFd) -> rustix::io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The cookie of the network namespace `fd`: a number that the kernel never gives twice, where an inode number is given
/// to the next namespace as soon as one died.
///
/// # Errors
/// What the kernel said.
///
/// # Privileges
/// Those of [`enter_network`].
///
/// # Syscalls
/// `setns` in a thread of its own, `socket`, `getsockopt` `SO_NETNS_COOKIE` (Linux 5.14).
pub fn cookie(fd: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    in_netns(fd, || {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
        let mut cookie = 0u64;
        let mut len = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes, the size of `cookie`, which outlives the call.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut len,
            )
        };
        if done == 0 { Ok(cookie) } else { Err(last_errno()) }
    })?
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

/// The user namespace that owns the namespace `fd`.
///
/// # Errors
/// `EPERM` when the owner is not the caller's user namespace or one below it.
///
/// # Syscalls
/// `ioctl` `NS_GET_USERNS`.
pub fn owner(fd: impl AsFd) -> rustix::io::Result<OwnedFd> {
    // SAFETY: NS_GET_USERNS takes no argument and returns a new descriptor, close-on-exec.
    let raw = unsafe { ioctl(fd, Returns::<NS_GET_USERNS>) }?;
    // SAFETY: the kernel made this descriptor for us a moment ago; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Moves the calling thread into a fresh network namespace with nothing but a loopback that is down.
///
/// # Errors
/// `EPERM` without the privilege, `ENOSPC` at `user.max_net_namespaces`.
///
/// # Privileges
/// `CAP_SYS_ADMIN` in the caller's user namespace.
///
/// # Syscalls
/// `unshare(CLONE_NEWNET)`.
pub fn unshare_network() -> rustix::io::Result<()> {
    // SAFETY: CLONE_FILES is not among the flags, so descriptors stay shared with the other threads.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
}

/// Moves the calling thread into a fresh mount namespace, a copy of the old one.
///
/// # Errors
/// `EPERM` without the privilege, `ENOSPC` at `user.max_mnt_namespaces`.
///
/// # Privileges
/// `CAP_SYS_ADMIN` in the caller's user namespace.
///
/// # Syscalls
/// `unshare(CLONE_NEWNS)`, which unshares the working directory too.
pub fn unshare_mount() -> rustix::io::Result<()> {
    // SAFETY: CLONE_FILES is not among the flags, so descriptors stay shared with the other threads.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
}

/// Moves the process into a fresh user namespace, where it has every capability, and a fresh mount namespace.
///
/// # Errors
/// `EINVAL` with more than one thread; `EPERM` where the host forbids it (sysctl, AppArmor, seccomp, chroot);
/// `ENOSPC` at `user.max_user_namespaces`.
///
/// # Privileges
/// None.
///
/// # Syscalls
/// `unshare(CLONE_NEWUSER | CLONE_NEWNS)`.
pub fn unshare_user_and_mount() -> rustix::io::Result<()> {
    // SAFETY: CLONE_FILES is not among the flags.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }
}

/// Moves the calling thread, for good, into the network namespace `fd`.
///
/// # Errors
/// `EPERM` without the privilege, `EINVAL` if `fd` is of another type.
///
/// # Privileges
/// `CAP_SYS_ADMIN` in the caller's user namespace and in the one that owns `fd`.
///
/// # Syscalls
/// `setns(CLONE_NEWNET)`.
pub fn enter_network(fd: impl AsFd) -> rustix::io::Result<()> {
    move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))
}

/// Moves the process, for good, into the user namespace `fd`, where it then has every capability.
///
/// # Errors
/// `EINVAL` with more than one thread or if it is there already, `EPERM` without the privilege.
///
/// # Privileges
/// To be the user who made it (from its parent namespace), or `CAP_SYS_ADMIN` in it.
///
/// # Syscalls
/// `setns(CLONE_NEWUSER)`.
pub fn enter_user(fd: impl AsFd) -> rustix::io::Result<()> {
    move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::User))
}

/// Runs `work` on a thread of its own inside the network namespace `fd`; the thread ends afterwards, so that nothing
/// stays behind in there. A panic of `work` goes on in the caller.
///
/// # Errors
/// No thread to be had, or [`enter_network`]'s.
///
/// # Privileges
/// As [`enter_network`].
///
/// # Syscalls
/// `clone`, `setns(CLONE_NEWNET)`, and `work`'s.
pub fn in_netns<T: Send>(fd: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> rustix::io::Result<T> {
    in_thread(move || enter_network(fd).map(|()| work()))
}

/// A fresh network namespace that lives as long as the descriptor (or something inside).
///
/// # Errors
/// No thread to be had, or [`unshare_network`]'s.
///
/// # Privileges
/// As [`unshare_network`].
///
/// # Syscalls
/// `clone`, `unshare(CLONE_NEWNET)`, `openat`.
pub fn create() -> rustix::io::Result<OwnedFd> {
    in_thread(|| unshare_network().and_then(|()| current()))
}

fn in_thread<T: Send>(work: impl FnOnce() -> rustix::io::Result<T> + Send) -> rustix::io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The identity of the namespace file `path` (`user`, `net`, ... of a process), without any check of its type.
///
/// # Errors
/// What the kernel said.
///
/// # Privileges
/// As [`open`].
///
/// # Syscalls
/// `openat`, `fstat`.
pub fn identity_of(path: &Path) -> std::io::Result<(u64, u64)> {
    Ok(identity(File::open(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_no_network_namespace() {
        assert_eq!(open(Path::new("/dev/null")).unwrap_err(), NetnsError::NotNamespace);
        assert_eq!(open(Path::new("/proc/self/ns/mnt")).unwrap_err(), NetnsError::NotNetwork);
        assert_eq!(open(Path::new("/nonexistent")).unwrap_err(), NetnsError::Kernel(Errno::NOENT));
    }

    #[test]
    fn a_cookie_names_a_namespace() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            assert!(std::env::var_os("CI").is_none(), "skipped where it must run");
            return;
        }
        let (own, other) = (current().unwrap(), create().unwrap());
        assert_eq!(cookie(own.as_fd()).unwrap(), cookie(current().unwrap().as_fd()).unwrap());
        assert_ne!(cookie(own.as_fd()).unwrap(), cookie(other.as_fd()).unwrap());
    }

    #[test]
    fn the_same_namespace_has_the_same_identity() {
        let opened = open(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(identity(&opened).unwrap(), identity(current().unwrap()).unwrap());
        assert_ne!(identity(&opened).unwrap(), identity_of(Path::new("/proc/self/ns/user")).unwrap());
    }
}
