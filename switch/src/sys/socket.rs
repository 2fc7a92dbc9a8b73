//! What a TCP socket can do that `rustix` has no name for: look past what was looked at already, throw away, and say
//! how much is on its way.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, ioctl};

/// The next `recv` with `MSG_PEEK` starts `offset` bytes behind what is not consumed yet; each peek moves it forward,
/// each consuming read back.
///
/// # Errors
/// What the kernel said: `EOPNOTSUPP` for TCP before Linux 6.9.
///
/// # Syscalls
/// `setsockopt` `SO_PEEK_OFF`.
pub fn set_peek_offset(fd: impl AsFd, offset: u32) -> rustix::io::Result<()> {
    let offset = libc::c_int::try_from(offset).map_err(|_| Errno::INVAL)?;
    set_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset)
}

/// Sets an option of a socket that is one `int`.
pub(super) fn set_int(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> rustix::io::Result<()> {
    // SAFETY: an option reads no more than the length that is given, which is that of `value`.
    let answer = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if answer == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Consumes up to `len` bytes of a TCP socket without copying them anywhere, and without waiting. Returns how many.
///
/// # Errors
/// What the kernel said; `EAGAIN` when there are none.
///
/// # Syscalls
/// `recvfrom` with `MSG_TRUNC` (tcp(7)).
pub fn discard(fd: impl AsFd, len: usize) -> rustix::io::Result<usize> {
    // SAFETY: with MSG_TRUNC a TCP socket writes nothing to the buffer, so a null one may be given with any length.
    let answer = unsafe {
        libc::recv(fd.as_fd().as_raw_fd(), std::ptr::null_mut(), len, libc::MSG_TRUNC | libc::MSG_DONTWAIT)
    };
    usize::try_from(answer).map_err(|_| last_errno())
}

/// Bytes that were written to a TCP socket and that its peer has not acknowledged.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `ioctl` `SIOCOUTQ`.
pub fn unacknowledged(fd: impl AsFd) -> rustix::io::Result<usize> {
    // SAFETY: SIOCOUTQ, which has the number of TIOCOUTQ, writes one `int`.
    let answer = unsafe { ioctl(fd, Getter::<{ libc::TIOCOUTQ as Opcode }, libc::c_int>::new()) }?;
    usize::try_from(answer).map_err(|_| Errno::INVAL)
}

pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn peeks_go_on_and_discards_throw_away() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut b, _) = listener.accept().unwrap();
        a.write_all(b"0123456789").unwrap();
        let mut bytes = [0; 4];
        b.peek(&mut bytes).unwrap();
        if set_peek_offset(&b, 4).is_ok() {
            b.peek(&mut bytes).unwrap();
            assert_eq!(&bytes, b"4567");
            assert_eq!(discard(&b, 4), Ok(4));
            assert_eq!(b.peek(&mut bytes).unwrap(), 2);
            assert_eq!(&bytes[..2], b"89");
            set_peek_offset(&b, 0).unwrap();
        } else {
            assert_eq!(discard(&b, 4), Ok(4));
        }
        b.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"4567");
        assert_eq!(discard(&b, 100), Ok(2));
        assert_eq!(discard(&b, 100), Err(Errno::AGAIN));
        assert_eq!(unacknowledged(&b), Ok(0));
    }
}
