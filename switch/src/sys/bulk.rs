//! Many datagrams of a UDP socket in one call: `UDP_SEGMENT` on the way out, `UDP_GRO` on the way in (udp(7)).

use std::os::fd::{AsFd, AsRawFd};

use super::socket::{last_errno, set_int};

/// Datagrams that one send may be cut into (`UDP_MAX_SEGMENTS` before Linux 6.9).
pub const MAX_SEGMENTS: usize = 64;
/// Bytes that one send may have: those of a datagram over IPv4.
pub const MAX_BYTES: usize = 65_507;

/// From now on what is sent by one call is cut into datagrams of `size` bytes, the last one perhaps shorter; 0: one call
/// is one datagram.
///
/// # Errors
/// What the kernel said: `ENOPROTOOPT` before Linux 4.18.
///
/// # Syscalls
/// `setsockopt` `UDP_SEGMENT`.
pub fn set_segment_size(fd: impl AsFd, size: u16) -> rustix::io::Result<()> {
    set_int(fd.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, libc::c_int::from(size))
}

/// From now on one [`receive`] may return several datagrams of one sender.
///
/// # Errors
/// What the kernel said: `ENOPROTOOPT` before Linux 5.0.
///
/// # Syscalls
/// `setsockopt` `UDP_GRO`.
pub fn coalesce(fd: impl AsFd) -> rustix::io::Result<()> {
    set_int(fd.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// What [`receive`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes, of all datagrams together.
    pub len: usize,
    /// Bytes of each datagram but perhaps the last; `None`: it is one.
    pub size: Option<u16>,
}

/// Room for the one control message that is asked for, and then some.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Takes one datagram, or several of the same size, without waiting. What does not fit is lost.
///
/// # Errors
/// What the kernel said; `EAGAIN` when there is nothing; of a connected socket what became of an earlier send.
///
/// # Syscalls
/// `recvmsg`.
pub fn receive(fd: impl AsFd, buffer: &mut [u8]) -> rustix::io::Result<Received> {
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a `msghdr` of zeros is one without name, parts and control messages.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control.0).cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: `message` names one buffer and one control buffer that live and are ours until the call is over, with
    // their true lengths.
    let answer = unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = usize::try_from(answer).map_err(|_| last_errno())?;
    // SAFETY: `message` is as the kernel left it: its control buffer holds whole messages, `msg_controllen` bytes.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    let size = first
        .filter(|header| header.cmsg_level == libc::SOL_UDP && header.cmsg_type == libc::UDP_GRO)
        // SAFETY: the kernel writes an `int` behind a header of that type; it may stand unaligned.
        .map(|header| unsafe { libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned() })
        .and_then(|size| u16::try_from(size).ok())
        .filter(|&size| size > 0 && usize::from(size) < len);
    Ok(Received { len, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use std::net::UdpSocket;

    fn pair() -> (UdpSocket, UdpSocket) {
        let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        a.connect(b.local_addr().unwrap()).unwrap();
        b.connect(a.local_addr().unwrap()).unwrap();
        (a, b)
    }

    #[test]
    fn one_send_is_many_datagrams() {
        let (a, b) = pair();
        set_segment_size(&a, 100).unwrap();
        assert_eq!(a.send(&[7; 250]).unwrap(), 250);
        let mut buffer = [0; 500];
        let lengths: Vec<_> = (0..3).map(|_| b.recv(&mut buffer).unwrap()).collect();
        assert_eq!(lengths, [100, 100, 50]);
        set_segment_size(&a, 0).unwrap();
        a.send(&[7; 250]).unwrap();
        assert_eq!(b.recv(&mut buffer).unwrap(), 250);
    }

    #[test]
    fn one_receive_is_many_datagrams() {
        let (a, b) = pair();
        coalesce(&b).unwrap();
        set_segment_size(&a, 100).unwrap();
        a.send(&[7; 250]).unwrap();
        a.send(&[8; 30]).unwrap();
        a.send(&[]).unwrap();
        let mut buffer = [0; 500];
        let mut got = Vec::new();
        loop {
            match receive(&b, &mut buffer) {
                Ok(received) => got.push(received),
                Err(Errno::AGAIN) => break,
                Err(errno) => panic!("{errno}"),
            }
        }
        // The kernel need not put them together.
        let total: usize = got.iter().map(|received| received.len).sum();
        assert_eq!(total, 250 + 30);
        assert!(got.iter().all(|received| received.size.is_none_or(|size| size == 100)), "{got:?}");
        assert_eq!(got.last(), Some(&Received { len: 0, size: None }));
    }

    #[test]
    fn what_was_refused_is_an_error() {
        let (a, b) = pair();
        drop(b);
        a.send(&[1]).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        loop {
            match receive(&a, &mut [0; 10]) {
                Err(Errno::AGAIN) if std::time::Instant::now() < until => std::thread::yield_now(),
                answer => break assert_eq!(answer, Err(Errno::CONNREFUSED)),
            }
        }
    }
}
