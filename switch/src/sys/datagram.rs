//! Datagrams of a socket that has no peer: who sent one, and which of our addresses it was sent to. What is answered
//! must come from there (RFC 1122 section 4.1.3.5).

use std::mem::{offset_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use super::socket::{last_errno, set_int};

/// A datagram that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Bytes of it in the buffer.
    pub len: usize,
    /// Who sent it, in the socket's own family: IPv4 is v4-mapped on a socket of both.
    pub from: SocketAddr,
    /// The address it was sent to, likewise; `None` where the socket does not say ([`say_destination`]).
    pub to: Option<IpAddr>,
}

/// Room for one `in6_pktinfo`, which is longer than an `in_pktinfo`, with its header.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// From now on [`receive`] says where datagrams were sent to.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `setsockopt` `IP_PKTINFO`, or `IPV6_RECVPKTINFO`, which is both on a socket of both families (ipv6(7)).
pub fn say_destination(fd: impl AsFd, v4: bool) -> rustix::io::Result<()> {
    let (level, name) =
        if v4 { (libc::IPPROTO_IP, libc::IP_PKTINFO) } else { (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) };
    set_int(fd.as_fd(), level, name, 1)
}

/// Takes a datagram, without waiting. What is longer than `buffer` is cut.
///
/// # Errors
/// What the kernel said; `EAGAIN` when there is none.
///
/// # Syscalls
/// `recvmsg`.
pub fn receive(fd: impl AsFd, buffer: &mut [u8]) -> rustix::io::Result<Arrived> {
    // SAFETY: an address of zeros is one of no family, and a header of zeros says that nothing is there.
    let (mut name, mut header) = unsafe { (zeroed::<libc::sockaddr_storage>(), zeroed::<libc::msghdr>()) };
    let mut control = Control([0; 64]);
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    (header.msg_iov, header.msg_iovlen) = (&raw mut piece, 1);
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    // SAFETY: all that the header points to lives and is as long as it says.
    let len = unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let len = usize::try_from(len).map_err(|_| last_errno())?;
    Ok(Arrived { len, from: address(&name).ok_or(Errno::AFNOSUPPORT)?, to: destination(&header) })
}

/// Sends a datagram from the address `from`, without waiting; `None`: the kernel chooses. Both in the socket's own
/// family.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `sendmsg`.
pub fn send(fd: impl AsFd, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> rustix::io::Result<usize> {
    // SAFETY: as in `receive`.
    let (mut name, mut header) = unsafe { (zeroed::<libc::sockaddr_storage>(), zeroed::<libc::msghdr>()) };
    let mut control = Control([0; 64]);
    // The kernel does not write to it.
    let mut piece = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    header.msg_namelen = write_address(&mut name, to);
    header.msg_name = (&raw mut name).cast();
    (header.msg_iov, header.msg_iovlen) = (&raw mut piece, 1);
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len();
    header.msg_controllen = match from {
        Some(IpAddr::V4(v4)) => {
            // SAFETY: an `in_pktinfo` of zeros asks for nothing.
            let mut info: libc::in_pktinfo = unsafe { zeroed() };
            info.ipi_spec_dst.s_addr = u32::from_ne_bytes(v4.octets());
            put(&header, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        Some(IpAddr::V6(v6)) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: v6.octets() },
                ipi6_ifindex: 0, // the scope of `to` says which link, where that matters
            };
            put(&header, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
        None => 0,
    };
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: all that the header points to lives and is as long as it says.
    let sent = unsafe { libc::sendmsg(fd.as_fd().as_raw_fd(), &raw const header, flags) };
    usize::try_from(sent).map_err(|_| last_errno())
}

/// Writes one control message and says how long it is.
fn put<T>(header: &libc::msghdr, level: libc::c_int, kind: libc::c_int, info: T) -> usize {
    const { assert!(size_of::<T>() + 24 <= 64) };
    let len = size_of::<T>() as libc::c_uint;
    // SAFETY: the control buffer has room for a header and any `T` that gets here, asserted above, so the first header
    // and its data are within.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(header);
        if message.is_null() {
            return 0;
        }
        ((*message).cmsg_level, (*message).cmsg_type) = (level, kind);
        (*message).cmsg_len = libc::CMSG_LEN(len) as usize;
        libc::CMSG_DATA(message).cast::<T>().write_unaligned(info);
        libc::CMSG_SPACE(len) as usize
    }
}

/// The address that the control messages say.
fn destination(header: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the kernel wrote whole messages into the buffer and its length into the header; each is read only as far as
    // its type is long.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let data = libc::CMSG_DATA(message);
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    // The local address; of a datagram to a group or to all it is one that can answer.
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    return Some(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => message = libc::CMSG_NXTHDR(header, message),
            }
        }
    }
    None
}

pub(super) fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: an address of this family is a `sockaddr_in`, which is shorter than the storage.
            let v4 = unsafe { (&raw const *name).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: likewise a `sockaddr_in6`.
            let v6 = unsafe { (&raw const *name).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Writes the address and says how long it is.
pub(super) fn write_address(name: &mut libc::sockaddr_storage, address: SocketAddr) -> libc::socklen_t {
    match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is longer than any address, and aligned for all.
            unsafe { (&raw mut *name).cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { (&raw mut *name).cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

const _: () =
    assert!(offset_of!(libc::sockaddr_in, sin_family) == offset_of!(libc::sockaddr_storage, ss_family));

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn ask(server: &UdpSocket, client: &UdpSocket, to: SocketAddr) -> Arrived {
        client.send_to(b"question", to).unwrap();
        let mut buffer = [0; 100];
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            match receive(server, &mut buffer) {
                Ok(arrived) => {
                    assert_eq!(&buffer[..arrived.len], b"question");
                    return arrived;
                }
                Err(Errno::AGAIN) if std::time::Instant::now() < deadline => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn an_answer_leaves_from_where_was_asked() {
        let server = UdpSocket::bind("0.0.0.0:0").unwrap();
        say_destination(&server, true).unwrap();
        let port = server.local_addr().unwrap().port();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(receive(&server, &mut [0; 10]), Err(Errno::AGAIN));
        let asked = SocketAddr::from(([127, 9, 9, 9], port));
        let arrived = ask(&server, &client, asked);
        assert_eq!((arrived.from, arrived.to), (client.local_addr().unwrap(), Some(asked.ip())));
        assert_eq!(send(&server, b"answer", arrived.from, arrived.to), Ok(6));
        let mut buffer = [0; 10];
        assert_eq!(client.recv_from(&mut buffer).unwrap(), (6, asked));
        assert_eq!(send(&server, b"", arrived.from, None), Ok(0));
        assert_eq!(client.recv_from(&mut buffer).unwrap().1.ip(), client.local_addr().unwrap().ip());
    }

    #[test]
    fn a_socket_of_both_families_says_it_for_both() {
        let Ok(server) = UdpSocket::bind("[::]:0") else { return }; // no IPv6 here
        say_destination(&server, false).unwrap();
        let port = server.local_addr().unwrap().port();
        for (client, asked) in [("127.0.0.1:0", "127.8.8.8"), ("[::1]:0", "::1")] {
            let Ok(client) = UdpSocket::bind(client) else { continue };
            let asked = SocketAddr::new(asked.parse().unwrap(), port);
            let arrived = ask(&server, &client, asked);
            assert_eq!(arrived.to.unwrap().to_canonical(), asked.ip());
            assert_eq!(send(&server, b"answer", arrived.from, arrived.to), Ok(6));
            let mut buffer = [0; 10];
            assert_eq!(client.recv_from(&mut buffer).unwrap(), (6, asked));
        }
    }
}
