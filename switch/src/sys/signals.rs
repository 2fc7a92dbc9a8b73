//! Signals as bytes in a pipe, so that one poll loop sees them beside everything else.
//!
//! Handlers and not a blocked mask with `signalfd`: handlers end at `exec`, a blocked mask would be inherited by every
//! program that is started.

use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::Signal;

static PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn handler(signal: libc::c_int) {
    let Ok(byte) = u8::try_from(signal) else { return };
    // SAFETY: errno is thread-local; it is restored because the interrupted code may be about to read it. `write` is
    // async-signal-safe, the pipe is never closed, and a full pipe only loses a repetition.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(PIPE.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
        *libc::__errno_location() = errno;
    }
}

/// From now on `signals` do nothing but put a byte each into the returned pipe (non-blocking, close-on-exec); read them
/// with [`pending`].
///
/// # Errors
/// A second subscription in one process; what the kernel said.
///
/// # Syscalls
/// `pipe2`, `rt_sigaction`.
pub fn subscribe(signals: &[Signal]) -> io::Result<OwnedFd> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    PIPE.compare_exchange(-1, write.as_raw_fd(), Ordering::Relaxed, Ordering::Relaxed)
        .map_err(|_| io::Error::new(io::ErrorKind::AlreadyExists, "signals are subscribed to already"))?;
    // The handler writes to it as long as the process lives.
    let _: RawFd = write.into_raw_fd();
    for signal in signals {
        // SAFETY: a zeroed `sigaction` is a valid one (empty mask, no flags); the handler only does what is allowed in
        // one, and the pointer to it has the type that goes without SA_SIGINFO.
        let answer = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal.as_raw(), &raw const action, std::ptr::null_mut())
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(read)
}

/// The signals that came since the last call, in order.
///
/// # Errors
/// What the kernel said, other than "nothing there".
///
/// # Syscalls
/// `read`.
pub fn pending(pipe: impl AsFd) -> rustix::io::Result<Vec<Signal>> {
    let mut bytes = [0u8; 64];
    match rustix::io::read(pipe, &mut bytes) {
        Ok(n) => Ok(bytes.iter().take(n).filter_map(|&b| Signal::from_named_raw(i32::from(b))).collect()),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Vec::new()),
        Err(errno) => Err(errno),
    }
}
