//! The UDP sockets of the overlay: one that receives, at the l4 port that all remotes send to, and several that send, so
//! that flows have several source ports (RFC 7348 section 5), and with them several ways and queues.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use switch::sys::{bulk, mmsg};

/// Bytes that may wait in a socket, each way. What the kernel has by default is less than four super-frames.
const QUEUE: usize = 7 << 20;
/// RFC 7348 section 5: "the dynamic/private port range".
const DYNAMIC: std::ops::RangeInclusive<u16> = 49_152..=65_535;

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
    /// Whether one send may be many datagrams.
    gso: AtomicBool,
}

impl Sender {
    /// Whether one send may be many datagrams.
    pub fn segments(&self) -> bool {
        self.gso.load(Ordering::Relaxed)
    }

    /// The kernel refused: off for good.
    pub(crate) fn give_up_segments(&self) {
        self.gso.store(false, Ordering::Relaxed);
    }
}

/// All of them, of one worker.
#[derive(Debug)]
pub struct Sockets {
    /// Those that receive: at our address, and at a group's.
    pub receivers: Vec<UdpSocket>,
    /// Those that send.
    pub senders: Box<[Sender]>,
}

impl Sockets {
    /// Opens them in the calling thread's network namespace: what comes to `local` is received, by one of all workers that
    /// do, and `ways` sockets send from its address.
    ///
    /// # Errors
    /// The step that failed: the l4 port may be in use, by a VXLAN device of the host.
    ///
    /// # Syscalls
    /// `socket`, `setsockopt`, `bind`
    pub fn open(local: SocketAddr, ways: u16, gso: bool) -> Result<Self, SocketError> {
        let receiver = receiver(local, local.ip())?;
        let mut ports = DYNAMIC;
        let sender = |_| {
            let socket = bind_one(local.ip(), &mut ports).map_err(at("bind a sender"))?;
            prepare(&socket, local.ip())?;
            Ok(Sender { socket, gso: AtomicBool::new(gso) })
        };
        let senders = (0..ways.max(1)).map(sender).collect::<Result<_, _>>()?;
        Ok(Self { receivers: vec![receiver], senders })
    }

    /// Receives what is sent to a multicast group of the underlay, too, by the interface that has the address `local`, and
    /// sends to groups by that. One worker does: each would get a copy of its own.
    ///
    /// # Errors
    /// The step that failed.
    ///
    /// # Syscalls
    /// `socket`, `setsockopt`, `bind`
    pub fn join(&mut self, group: SocketAddr, local: IpAddr) -> Result<(), SocketError> {
        let socket = receiver(group, local)?;
        match (group.ip(), local) {
            (IpAddr::V4(group), IpAddr::V4(local)) => socket.join_multicast_v4(&group, &local),
            // By the route to the group: an address of IPv6 does not say which interface it is on.
            (IpAddr::V6(group), IpAddr::V6(_)) => socket.join_multicast_v6(&group, 0),
            _ => Err(Errno::AFNOSUPPORT.into()),
        }
        .map_err(at("join the group"))?;
        self.receivers.push(socket);
        Ok(())
    }

    /// From now on what is sent to groups leaves by the interface that has the address `local`, and does not come back.
    ///
    /// # Errors
    /// The step that failed.
    pub fn to_groups(&self, local: IpAddr) -> Result<(), SocketError> {
        for sender in &self.senders {
            match local {
                IpAddr::V4(local) => {
                    sockopt::set_ip_multicast_if(&sender.socket, &local).map_err(at("IP_MULTICAST_IF"))?;
                    sender.socket.set_multicast_loop_v4(false).map_err(at("IP_MULTICAST_LOOP"))?;
                }
                IpAddr::V6(_) => {
                    sender.socket.set_multicast_loop_v6(false).map_err(at("IPV6_MULTICAST_LOOP"))?;
                }
            }
        }
        Ok(())
    }
}

/// A socket that receives at `at_address`, of the family of `local`.
fn receiver(address: SocketAddr, local: IpAddr) -> Result<UdpSocket, SocketError> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, None).map_err(at("socket"))?;
    // Of several workers each has one, and the kernel gives a flow to always the same; and whoever takes over has its own
    // before we have let go of ours.
    sockopt::set_socket_reuseport(&socket, true).map_err(at("SO_REUSEPORT"))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true).map_err(at("IPV6_V6ONLY"))?;
        mmsg::take_without_checksum(&socket).map_err(at("UDP_NO_CHECK6_RX"))?;
    }
    bind(&socket, &address).map_err(at("bind"))?;
    let socket = UdpSocket::from(socket);
    prepare(&socket, local)?;
    // Without it datagrams come one by one (before Linux 5.0).
    let _ = bulk::coalesce(&socket);
    Ok(socket)
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
    fn senders_have_ports_of_their_own() {
        let sockets = Sockets::open(SocketAddr::from(([127, 0, 0, 1], 0)), 8, true).unwrap();
        let mut ports: Vec<_> =
            sockets.senders.iter().map(|it| it.socket.local_addr().unwrap().port()).collect();
        assert!(ports.iter().all(|port| DYNAMIC.contains(port)));
        ports.dedup();
        assert_eq!(ports.len(), 8);
        let taken = sockets.senders[0].socket.local_addr().unwrap();
        let error = Sockets::open(taken, 1, true).unwrap_err();
        assert!(error.to_string().starts_with("bind: "), "{error}");
        // Workers have one each.
        Sockets::open(sockets.receivers[0].local_addr().unwrap(), 1, true).unwrap();
    }
}
