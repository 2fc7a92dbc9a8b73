//! Whether this kernel lets us: asked by doing it.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::sys::ring::{Done, Owner, Ring};
use crate::sys::slab::Slab;

/// Why io_uring cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {errno}{}", hint(.errno))]
pub struct Unusable {
    /// What was asked of the kernel.
    pub step: &'static str,
    /// What it answered.
    pub errno: Errno,
}

const fn hint(errno: &Errno) -> &'static str {
    match *errno {
        Errno::PERM | Errno::ACCESS => " (forbidden by seccomp or by the sysctl kernel.io_uring_disabled)",
        Errno::NOSYS => " (not in this kernel, or hidden by seccomp)",
        Errno::INVAL | Errno::OPNOTSUPP => " (Linux 6.7 is needed)",
        Errno::NOMEM => " (out of memory, or of what RLIMIT_MEMLOCK allows)",
        _ => "",
    }
}

impl Unusable {
    pub(super) const fn setup(errno: Errno) -> Self {
        Self { step: "io_uring_setup", errno }
    }
}

/// Sets up a ring as the engine does and reads and writes by it, on a pair of sockets that is thrown away. Kernel versions
/// say little: seccomp refuses with `EPERM` or `ENOSYS`, and an old kernel with `EINVAL`.
///
/// # Errors
/// Where and why it is refused.
///
/// # Syscalls
/// `io_uring_setup`, `io_uring_register`, `io_uring_enter`, `socketpair`, `write`, `read`.
pub fn probe() -> Result<(), Unusable> {
    let at = |step| move |errno| Unusable { step, errno };
    let mut ring = Ring::new(4, 8, 1).map_err(Unusable::setup)?;
    let mut slab = Slab::new(2, 4096).map_err(at("mmap"))?;
    ring.begin(&slab).map_err(at("io_uring_register"))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(at("socketpair"))?;

    const WORD: &[u8] = b"here";
    let full = |_| Unusable { step: "io_uring", errno: Errno::NOBUFS };
    if let Some(place) = slab.slot_mut(1).get_mut(..WORD.len()) {
        place.copy_from_slice(WORD);
    }
    ring.lend(&mut slab, 0, 0);
    let owner = Owner { port: 0, generation: 1 };
    ring.write(&mut slab, theirs.as_fd(), 1, (0, WORD.len()), 7).map_err(full)?;
    ring.read(ours.as_fd(), owner).map_err(full)?;
    ring.look().map_err(at("io_uring_enter"))?;

    let (mut wrote, mut read) = (Err(Errno::TIME), Err(Errno::TIME));
    while let Some(done) = ring.next(&mut slab) {
        match done {
            Done::Write { written, .. } => wrote = written,
            Done::Read { filled, more: true, .. } => read = filled,
            Done::Read { filled, .. } if read.is_err() => read = filled.and(Err(Errno::OPNOTSUPP)),
            _ => {}
        }
    }
    wrote.map_err(at("a write by io_uring"))?;
    let (slot, len) = read.map_err(at("a multishot read by io_uring"))?;
    match slab.slot(slot).get(..len) {
        Some(WORD) => Ok(()),
        _ => Err(at("a multishot read by io_uring")(Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_says_where_and_why() {
        match probe() {
            Ok(()) => {}
            Err(unusable) => println!("skipped: {unusable}"),
        }
        let text = Unusable::setup(Errno::PERM).to_string();
        assert!(text.starts_with("io_uring_setup: ") && text.contains("seccomp"), "{text}");
    }
}
