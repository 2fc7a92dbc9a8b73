//! What a datagram socket is told of its path: ICMP errors with who sent them, and the path MTU.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use super::datagram::address;
use super::socket::{last_errno, set_int};

/// Room for the control data of one error: the kernel's `sock_extended_err` with an address, and an `in6_pktinfo`, twice
/// what they need.
const CONTROL: usize = 26;

/// An error that the kernel has kept for a socket (ip(7), `IP_RECVERR`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathError {
    /// Whether an ICMP or ICMPv6 message said it, and not this host's kernel.
    pub is_icmp: bool,
    /// Whether that was ICMP for IPv4, which a socket of both families may get.
    pub v4: bool,
    /// Type and code of that message.
    pub kind: (u8, u8),
    /// What it says beside that: the MTU where a packet was too big.
    pub info: u32,
    /// Who sent the message.
    pub from: Option<IpAddr>,
    /// Where the datagram was sent to, in the socket's own family.
    pub to: Option<SocketAddr>,
    /// The address it left from, likewise, where the socket says such things ([`super::datagram::say_destination`]).
    pub of: Option<IpAddr>,
    /// Bytes that were written to the buffer: what the message quotes behind the L4 header of UDP; of a ping from its
    /// ICMP header on.
    pub quoted: usize,
}

/// From now on the errors of a datagram socket are kept one by one for [`next_path_error`].
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `setsockopt` `IP_RECVERR` or `IPV6_RECVERR`.
pub fn keep_path_errors(fd: impl AsFd, v4: bool) -> rustix::io::Result<()> {
    let (level, name) =
        if v4 { (libc::IPPROTO_IP, libc::IP_RECVERR) } else { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) };
    set_int(fd.as_fd(), level, name, 1)
}

/// The largest packet that the path of a connected socket takes, as far as this host knows, bytes.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `getsockopt` `IP_MTU` or `IPV6_MTU`.
pub fn path_mtu(fd: impl AsFd, v4: bool) -> rustix::io::Result<u32> {
    let (level, name) =
        if v4 { (libc::IPPROTO_IP, libc::IP_MTU) } else { (libc::IPPROTO_IPV6, libc::IPV6_MTU) };
    let mut mtu: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both options write one `int`, and `len` says that there is room for one.
    let answer =
        unsafe { libc::getsockopt(fd.as_fd().as_raw_fd(), level, name, (&raw mut mtu).cast(), &raw mut len) };
    if answer == 0 { u32::try_from(mtu).map_err(|_| Errno::INVAL) } else { Err(last_errno()) }
}

/// Takes the oldest error that was kept, and with it the pending error of the socket. What it quotes is written to
/// `quoted`, as far as there is room.
///
/// # Errors
/// What the kernel said; `EAGAIN` when there is none.
///
/// # Syscalls
/// `recvmsg` with `MSG_ERRQUEUE`.
pub fn next_path_error(fd: impl AsFd, quoted: &mut [u8]) -> rustix::io::Result<PathError> {
    // Of u64, so that it is aligned as control data must be.
    let mut control = [0u64; CONTROL];
    let mut part = libc::iovec { iov_base: quoted.as_mut_ptr().cast(), iov_len: quoted.len() };
    // SAFETY: all zero is a message header without name, data and control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    // SAFETY: an address of zeros is one of no family.
    let mut name = unsafe { std::mem::zeroed::<libc::sockaddr_storage>() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the header names one part, the name and the control buffer with their true lengths, and all outlive the call.
    let len = unsafe {
        libc::recvmsg(fd.as_fd().as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
    };
    let len = usize::try_from(len).map_err(|_| last_errno())?;
    let mut error = PathError { to: address(&name), quoted: len.min(quoted.len()), ..PathError::default() };
    // SAFETY: the kernel has filled in the header that was given to it; `control` is still there.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !next.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a whole header within the control data.
        let header = unsafe { next.read_unaligned() };
        // SAFETY: CMSG_LEN(0) is the length of a header with its padding.
        let head = unsafe { libc::CMSG_LEN(0) } as usize;
        let len = header.cmsg_len.saturating_sub(head).min(size_of_val(&control));
        // SAFETY: the data of this message starts behind its header and is as long as it says, which the kernel wrote; it
        // lies in `control`, which nothing else refers to now.
        let data = unsafe { std::slice::from_raw_parts(libc::CMSG_DATA(next), len) };
        match (header.cmsg_level, header.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                read(data, &mut error);
            }
            // `in_pktinfo`: of an error only the destination in its header is filled in, which is who had sent.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                error.of =
                    data.get(8..).and_then(<[u8]>::first_chunk::<4>).map(|v4| Ipv4Addr::from(*v4).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                error.of = data.first_chunk::<16>().map(|v6| Ipv6Addr::from(*v6).into());
            }
            _ => {}
        }
        // SAFETY: as for CMSG_FIRSTHDR; `next` is a header of this message.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
    }
    Ok(error)
}

/// `struct sock_extended_err` and the address behind it (`SO_EE_OFFENDER`).
fn read(data: &[u8], error: &mut PathError) {
    const LEN: usize = 16;
    let Some((&[_, _, _, _, origin, kind, code, _, i0, i1, i2, i3, ..], address)) =
        data.split_first_chunk::<LEN>()
    else {
        return;
    };
    error.is_icmp = matches!(origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6);
    error.v4 = origin == libc::SO_EE_ORIGIN_ICMP;
    error.kind = (kind, code);
    error.info = u32::from_ne_bytes([i0, i1, i2, i3]);
    error.from = offender(address);
}

/// `sockaddr_in` or `sockaddr_in6`; `AF_UNSPEC` where the error is the kernel's own.
fn offender(address: &[u8]) -> Option<IpAddr> {
    let &[f0, f1] = address.first_chunk()?;
    let family = i32::from(u16::from_ne_bytes([f0, f1]));
    let v4 = address.get(4..)?.first_chunk::<4>()?;
    let v6 = address.get(8..).and_then(<[u8]>::first_chunk::<16>);
    match family {
        libc::AF_INET => Some(Ipv4Addr::from(*v4).into()),
        libc::AF_INET6 => v6.map(|v6| Ipv6Addr::from(*v6).to_canonical()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::datagram::say_destination;
    use super::*;
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    fn first_error(socket: &UdpSocket, quoted: &mut [u8]) -> PathError {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match next_path_error(socket, quoted) {
                Ok(error) => return error,
                Err(errno) => assert!(errno == Errno::AGAIN && Instant::now() < deadline, "{errno}"),
            }
        }
    }

    #[test]
    fn who_refused_a_datagram_and_which_one_is_kept() {
        for (address, v4, kind) in [("127.0.0.1:0", true, (3, 3)), ("[::1]:0", false, (1, 4))] {
            let nobody = UdpSocket::bind(address).unwrap().local_addr().unwrap();
            let socket = UdpSocket::bind(address).unwrap();
            keep_path_errors(&socket, v4).unwrap();
            socket.connect(nobody).unwrap();
            assert_eq!(next_path_error(&socket, &mut []), Err(Errno::AGAIN));
            socket.send(b"anybody?").unwrap();
            let mut quoted = [0; 64];
            let error = first_error(&socket, &mut quoted);
            assert_eq!((error.is_icmp, error.v4, error.kind), (true, v4, kind));
            assert_eq!((error.from, error.to), (Some(nobody.ip()), Some(nobody)));
            assert_eq!(&quoted[..error.quoted], b"anybody?");
            assert_eq!(socket.take_error().unwrap().map(|error| error.to_string()), None, "taken with it");
            assert!(path_mtu(&socket, v4).unwrap() >= 1280);
        }
    }

    #[test]
    fn a_socket_without_a_peer_is_told_of_each() {
        for (address, v4, nobody) in
            [("0.0.0.0:0", true, "127.4.4.4"), ("[::]:0", false, "::1"), ("[::]:0", true, "::ffff:127.4.4.4")]
        {
            let socket = UdpSocket::bind(address).unwrap();
            let both = address.starts_with('[');
            say_destination(&socket, !both).unwrap();
            keep_path_errors(&socket, v4).unwrap();
            let to = SocketAddr::new(nobody.parse().unwrap(), 9);
            socket.send_to(b"anybody?", to).unwrap();
            let error = first_error(&socket, &mut [0; 64]);
            assert_eq!((error.v4, error.to, error.quoted), (v4, Some(to), 8));
            assert_eq!(error.from, Some(to.ip().to_canonical()));
            assert!(error.of.is_some_and(|of| of.to_canonical().is_loopback()), "{error:?}");
        }
    }

    #[test]
    fn control_data_that_is_cut_off_says_nothing() {
        let whole: Vec<u8> = (0..44).collect();
        for len in 0..whole.len() {
            let mut error = PathError::default();
            read(&whole[..len], &mut error);
            assert_eq!(error.kind, if len < 16 { (0, 0) } else { (5, 6) });
        }
    }
}
