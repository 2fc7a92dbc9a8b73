//! Many messages of a UDP socket in one call (sendmmsg(2), recvmmsg(2)), each perhaps many datagrams: what a tunnel sends
//! and receives.

use std::io::IoSlice;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use super::datagram::{address, write_address};
use super::socket::{last_errno, set_int};

/// Most messages of one call.
pub const MESSAGES: usize = 16;

/// Datagrams to be sent to one address.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Where to, in the socket's own family.
    pub to: SocketAddr,
    /// Their bytes, one part behind the other.
    pub parts: &'a [IoSlice<'a>],
    /// Where they are to be cut (`UDP_SEGMENT`); `None`: they are one.
    pub size: Option<u16>,
    /// TOS or traffic class: DSCP and ECN.
    pub tos: u8,
}

/// Datagrams that were received from one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Where in the buffer.
    pub start: usize,
    /// Bytes.
    pub len: usize,
    /// Bytes of each datagram but perhaps the last (`UDP_GRO`); `None`: they are one.
    pub size: Option<u16>,
    /// Who sent them, in the socket's own family; `None`: no address that we know.
    pub from: Option<SocketAddr>,
    /// TOS or traffic class, where the socket says so; else 0.
    pub tos: u8,
    /// Longer than the buffer had room for: cut off.
    pub truncated: bool,
}

/// Prepares a socket for a tunnel: what it sends is never fragmented, and what it receives has its TOS.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `setsockopt` `IP_MTU_DISCOVER` and `IP_RECVTOS`, or their twins of IPv6.
pub fn tunnel(fd: impl AsFd, v4: bool) -> rustix::io::Result<()> {
    let fd = fd.as_fd();
    if v4 {
        set_int(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
        set_int(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)
    } else {
        set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
        set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)
    }
}

/// Datagrams over IPv6 without a checksum are taken: RFC 6935 section 5 lets tunnels send such.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `setsockopt` `UDP_NO_CHECK6_RX`.
pub fn take_without_checksum(fd: impl AsFd) -> rustix::io::Result<()> {
    set_int(fd.as_fd(), libc::SOL_UDP, libc::UDP_NO_CHECK6_RX, 1)
}

/// Room for two control messages of an `int` and then some.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Sends the first messages of the list without waiting, at most [`MESSAGES`], and returns how many.
///
/// # Errors
/// What the kernel said to the first one; `EAGAIN` when the socket is full. What it says to a later one it says when that
/// is the first.
///
/// # Syscalls
/// `sendmmsg`.
pub fn send(fd: impl AsFd, messages: &[Outgoing<'_>]) -> rustix::io::Result<usize> {
    // SAFETY: addresses of zeros are of no family, and headers of zeros say that nothing is there.
    let (mut names, mut headers) =
        unsafe { zeroed::<([libc::sockaddr_storage; MESSAGES], [libc::mmsghdr; MESSAGES])>() };
    let mut controls = [Control([0; 64]); MESSAGES];
    let count = messages.len().min(MESSAGES);
    let places = names.iter_mut().zip(&mut controls).zip(&mut headers);
    for (message, ((name, control), header)) in messages.iter().zip(places) {
        let header = &mut header.msg_hdr;
        header.msg_namelen = write_address(name, message.to);
        header.msg_name = (&raw mut *name).cast();
        // An `IoSlice` is an `iovec` by its documentation, and the kernel does not write to what is sent.
        header.msg_iov = message.parts.as_ptr().cast_mut().cast();
        header.msg_iovlen = message.parts.len();
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = write_control(control, message);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the first `count` headers are filled in, and what they point to lives and is as long as they say.
    let sent =
        unsafe { libc::sendmmsg(fd.as_fd().as_raw_fd(), headers.as_mut_ptr(), count as libc::c_uint, flags) };
    usize::try_from(sent).map_err(|_| last_errno())
}

/// Writes the control messages of a message and says how long they are.
fn write_control(control: &mut Control, message: &Outgoing<'_>) -> usize {
    let tos = (message.tos != 0).then_some(match message.to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    });
    let tos = tos.map(|(level, kind)| (level, kind, libc::c_int::from(message.tos).to_ne_bytes(), 4));
    let size =
        message.size.map(u16::to_ne_bytes).map(|[a, b]| (libc::SOL_UDP, libc::UDP_SEGMENT, [a, b, 0, 0], 2));
    let mut used = 0;
    for (level, kind, data, len) in tos.into_iter().chain(size) {
        used += put(control.0.get_mut(used..).unwrap_or_default(), (level, kind), data, len);
    }
    used
}

/// Writes a control message (cmsg(3)) of `len` of the bytes of `data`, and says how long it is with its padding.
fn put(to: &mut [u8], (level, kind): (libc::c_int, libc::c_int), data: [u8; 4], len: usize) -> usize {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    const { assert!(HEADER == 16) };
    let Some(place) = to.first_chunk_mut::<{ HEADER + 8 }>() else { return 0 };
    place.fill(0);
    let fields = [&(HEADER + len).to_ne_bytes()[..], &level.to_ne_bytes(), &kind.to_ne_bytes(), &data];
    for (to, from) in place.iter_mut().zip(fields.into_iter().flatten()) {
        *to = *from;
    }
    place.len()
}

/// Receives without waiting: one message, of one datagram or several, into each `each` bytes of `buffer`, and writes to
/// `incoming` what they are. Returns how many: at most [`MESSAGES`], and as many as there is room for.
///
/// # Errors
/// What the kernel said; `EAGAIN` when there is none.
///
/// # Syscalls
/// `recvmmsg`.
pub fn receive(
    fd: impl AsFd,
    buffer: &mut [u8],
    each: usize,
    incoming: &mut [Incoming],
) -> rustix::io::Result<usize> {
    // SAFETY: addresses of zeros are of no family, and headers and parts of zeros say that nothing is there.
    let (mut names, mut headers, mut parts) = unsafe {
        zeroed::<([libc::sockaddr_storage; MESSAGES], [libc::mmsghdr; MESSAGES], [libc::iovec; MESSAGES])>()
    };
    let mut controls = [Control([0; 64]); MESSAGES];
    let room = incoming.len();
    let mut count = 0;
    let places = names.iter_mut().zip(&mut controls).zip(&mut parts).zip(&mut headers);
    for ((((name, control), part), header), piece) in
        places.zip(buffer.chunks_exact_mut(each.max(1))).take(room)
    {
        *part = libc::iovec { iov_base: piece.as_mut_ptr().cast(), iov_len: piece.len() };
        let header = &mut header.msg_hdr;
        header.msg_name = (&raw mut *name).cast();
        header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        (header.msg_iov, header.msg_iovlen) = (&raw mut *part, 1);
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = control.0.len();
        count += 1;
    }
    if count == 0 {
        return Err(Errno::INVAL);
    }
    let (fd, none) = (fd.as_fd().as_raw_fd(), std::ptr::null_mut());
    // SAFETY: the first `count` headers are filled in; what they point to lives, is ours alone and as long as they say.
    let got = unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), count, libc::MSG_DONTWAIT, none) };
    let got = usize::try_from(got).map_err(|_| last_errno())?;
    for (index, ((name, header), to)) in names.iter().zip(&headers).zip(incoming).enumerate().take(got) {
        let len = header.msg_len as usize;
        let (size, tos) = said(&header.msg_hdr);
        *to = Incoming {
            start: index * each,
            len,
            size: size.filter(|&size| size > 0 && usize::from(size) < len),
            from: address(name),
            tos,
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        };
    }
    Ok(got)
}

/// Size of the datagrams and TOS, as the control messages say.
fn said(header: &libc::msghdr) -> (Option<u16>, u8) {
    let (mut size, mut tos) = (None, 0);
    // SAFETY: the kernel wrote whole messages into the buffer and its length into the header; each is read only as far as
    // its type is long.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let data = libc::CMSG_DATA(message);
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    size = u16::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                }
                // One byte (ip(7)).
                (libc::IPPROTO_IP, libc::IP_TOS) => tos = data.read(),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    tos = data.cast::<libc::c_int>().read_unaligned() as u8;
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    (size, tos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::bulk::coalesce;
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    const NOTHING: Incoming = Incoming { start: 0, len: 0, size: None, from: None, tos: 0, truncated: false };

    fn receive_all(socket: &UdpSocket, bytes: usize) -> Vec<(Incoming, Vec<u8>)> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let (mut buffer, mut incoming) = (vec![0; 4 * 1000], [NOTHING; 8]);
        let (mut all, mut total) = (Vec::new(), 0);
        while total < bytes {
            match receive(socket, &mut buffer, 1000, &mut incoming) {
                Ok(count) => {
                    for it in &incoming[..count] {
                        all.push((*it, buffer[it.start..it.start + it.len].to_vec()));
                        total += it.len;
                    }
                }
                Err(error) => {
                    assert!(error == Errno::AGAIN && Instant::now() < deadline, "{error}");
                    std::thread::yield_now();
                }
            }
        }
        all
    }

    fn exchange(at: &str) {
        let Ok(server) = UdpSocket::bind(at) else { return }; // no IPv6 here
        let client = UdpSocket::bind(at).unwrap();
        let (to, v4) = (server.local_addr().unwrap(), at.starts_with("127"));
        for socket in [&server, &client] {
            tunnel(socket, v4).unwrap();
        }
        if !v4 {
            take_without_checksum(&server).unwrap();
        }
        coalesce(&server).unwrap();
        let many = [[1; 50], [2; 50], [3; 50]];
        let many: Vec<_> = many.iter().map(|part| IoSlice::new(part)).collect();
        let one = [IoSlice::new(b"one"), IoSlice::new(b" datagram")];
        let messages = [
            Outgoing { to, parts: &many, size: Some(60), tos: 2 },
            Outgoing { to, parts: &one, size: None, tos: 0 },
        ];
        assert_eq!(send(&client, &messages), Ok(2));
        let all = receive_all(&server, 150 + 12);
        let from = client.local_addr().ok();
        // The kernel need not put them together.
        let (last, first) = all.split_last().unwrap();
        assert!(
            first
                .iter()
                .all(|(it, _)| it.from == from && it.tos == 2 && it.size.is_none_or(|size| size == 60))
        );
        assert_eq!(
            first.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>(),
            [[1; 50], [2; 50], [3; 50]].concat()
        );
        assert_eq!((last.0.from, last.0.tos, last.1.as_slice()), (from, 0, &b"one datagram"[..]));
        assert_eq!(receive(&server, &mut [0; 100], 100, &mut [NOTHING]), Err(Errno::AGAIN));
        assert_eq!(receive(&server, &mut [0; 100], 200, &mut [NOTHING]), Err(Errno::INVAL));
        let long = [7; 2000];
        let long = [IoSlice::new(&long)];
        assert_eq!(send(&client, &[Outgoing { to, parts: &long, size: None, tos: 0 }]), Ok(1));
        assert!(receive_all(&server, 1000)[0].0.truncated);
    }

    #[test]
    fn many_go_and_come_by_ipv4() {
        exchange("127.0.0.1:0");
    }

    #[test]
    fn many_go_and_come_by_ipv6() {
        exchange("[::1]:0");
    }

    #[test]
    fn the_first_refusal_is_said() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        tunnel(&socket, true).unwrap();
        let to = socket.local_addr().unwrap();
        let (short, long) = ([1; 10], vec![1; 70_000]);
        let (short, long) = ([IoSlice::new(&short)], [IoSlice::new(&long)]);
        let [short, long] = [&short, &long].map(|parts| Outgoing { to, parts, size: None, tos: 0 });
        assert_eq!(send(&socket, &[short, long, short]), Ok(1));
        assert_eq!(send(&socket, &[long, short]), Err(Errno::MSGSIZE));
        assert_eq!(send(&socket, &[]), Ok(0));
    }
}
