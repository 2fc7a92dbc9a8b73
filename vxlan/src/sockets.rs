//! The UDP sockets of the overlay: one that receives, at the l4 port that all remotes send to, and several that send, so
//! that flows have several source ports (RFC 7348 section 5), and with them several ways and queues.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use rustix::io::Errno;
use rustix::net::sockopt;
use switch::sys::{bulk, mmsg};

/// Bytes that may wait in a socket, each way. What the kernel has by default is less than four super-frames.
const QUEUE: usize = 7 << 20;
/// RFC 7348 section 5: "the dynamic/private port range".
const DYNAMIC: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// Whether one send may be many datagrams (`UDP_SEGMENT`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UdpGso {
    /// Where the kernel has it, and is none of those that spoil what they cut.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never: each datagram is a message of its own.
    Off,
}

impl UdpGso {
    /// Whether it is used on a kernel of this release (uname(2)).
    ///
    /// Linux 7.0.0 to 7.1.4 writes wrong headers where the last segment is as long as the others.
    pub fn allowed(self, release: &str) -> bool {
        match self {
            Self::On => true,
            Self::Off => false,
            Self::Auto => version(release).is_none_or(|version| !((7, 0, 0)..=(7, 1, 4)).contains(&version)),
        }
    }
}

/// The three numbers that a release begins with; missing ones are 0.
fn version(release: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = release.split(|it: char| !it.is_ascii_digit()).map(str::parse);
    let first = numbers.next()?.ok()?;
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    Some((first, next(), next()))
}

/// A step on the way to the sockets, and what the kernel said.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {error}")]
pub struct SocketError {
    /// The step.
    pub step: &'static str,
    /// The answer.
    pub error: std::io::Error,
}

fn at<E: Into<std::io::Error>>(step: &'static str) -> impl FnOnce(E) -> SocketError {
    move |error| SocketError { step, error: error.into() }
}

/// One that sends.
#[derive(Debug)]
pub struct Sender {
    /// The socket.
    pub socket: UdpSocket,
    /// Whether one send may be many datagrams. Off for good once the kernel refused.
    pub gso: bool,
}

/// All of them.
#[derive(Debug)]
pub struct Sockets {
    /// The one that receives.
    pub receiver: UdpSocket,
    /// Those that send.
    pub senders: Box<[Sender]>,
}

impl Sockets {
    /// Opens them in the calling thread's network namespace: what comes to `local` is received, and `ways` sockets send
    /// from its address.
    ///
    /// # Errors
    /// The step that failed: the l4 port may be in use, by a VXLAN device of the host.
    pub fn open(local: SocketAddr, ways: u16, gso: UdpGso) -> Result<Self, SocketError> {
        let receiver = UdpSocket::bind(local).map_err(at("bind"))?;
        prepare(&receiver, local.ip())?;
        // Without it datagrams come one by one (before Linux 5.0).
        let _ = bulk::coalesce(&receiver);
        if local.is_ipv6() {
            mmsg::take_without_checksum(&receiver).map_err(at("UDP_NO_CHECK6_RX"))?;
        }
        let gso = gso.allowed(&rustix::system::uname().release().to_string_lossy());
        let mut ports = DYNAMIC;
        let sender = |_| {
            let socket = bind_one(local.ip(), &mut ports).map_err(at("bind a sender"))?;
            prepare(&socket, local.ip())?;
            // Asks whether the kernel knows it; what is cut is said with each message.
            let gso = gso && bulk::set_segment_size(&socket, 0).is_ok();
            Ok(Sender { socket, gso })
        };
        let senders = (0..ways.max(1)).map(sender).collect::<Result<_, _>>()?;
        Ok(Self { receiver, senders })
    }
}

fn prepare(socket: &UdpSocket, local: IpAddr) -> Result<(), SocketError> {
    mmsg::tunnel(socket, local.is_ipv4()).map_err(at("options"))?;
    // By force where we may; else as much as the host allows.
    if sockopt::set_socket_recv_buffer_size_force(socket, QUEUE).is_err() {
        sockopt::set_socket_recv_buffer_size(socket, QUEUE).map_err(at("SO_RCVBUF"))?;
    }
    sockopt::set_socket_send_buffer_size(socket, QUEUE).map_err(at("SO_SNDBUF"))
}

/// A socket at the next port of the range that is free.
fn bind_one(local: IpAddr, ports: &mut impl Iterator<Item = u16>) -> std::io::Result<UdpSocket> {
    for port in ports {
        match UdpSocket::bind((local, port)) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::ADDRINUSE) => {}
            answer => return answer,
        }
    }
    Err(Errno::ADDRINUSE.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_spoil_what_they_cut_are_known() {
        for (release, allowed) in [
            ("6.18.44-fc-v669", true),
            ("6.12.0", true),
            ("7.0.0-rc1", false),
            ("7.1.4+deb14-amd64", false),
            ("7.1.5", true),
            ("7.2.0", true),
            ("10.0.1", true),
            ("", true),
        ] {
            assert_eq!(UdpGso::Auto.allowed(release), allowed, "{release}");
            assert!(UdpGso::On.allowed(release) && !UdpGso::Off.allowed(release));
        }
    }

    #[test]
    fn senders_have_ports_of_their_own() {
        let sockets = Sockets::open(SocketAddr::from(([127, 0, 0, 1], 0)), 8, UdpGso::Auto).unwrap();
        let mut ports: Vec<_> =
            sockets.senders.iter().map(|it| it.socket.local_addr().unwrap().port()).collect();
        assert!(ports.iter().all(|port| DYNAMIC.contains(port)));
        ports.dedup();
        assert_eq!(ports.len(), 8);
        let taken = sockets.receiver.local_addr().unwrap();
        let error = Sockets::open(taken, 1, UdpGso::Auto).unwrap_err();
        assert!(error.to_string().starts_with("bind: "), "{error}");
    }
}
