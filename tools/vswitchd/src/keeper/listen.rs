//! Sockets that listen for clients of published l4 ports. They are the keeper's, so that low ones can be had where the
//! daemon is root, and so that no engine's death loses one: who connects meanwhile waits in the kernel's queue.
//!
//! They are made in the network namespace that the daemon was started in, which it never leaves.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt};
use switch::sys::datagram;

use crate::channel::MAX_DESCRIPTORS;
use crate::config::{Protocol, Publish};
use crate::wire::{Listen, Refusal, RefusalKind};

/// Clients that wait to be accepted; `net.core.somaxconn` bounds it too.
const BACKLOG: i32 = 4096;
const UNPRIVILEGED: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Listeners(BTreeMap<(String, String, Publish), Held>);

#[derive(Debug, Default)]
struct Held {
    /// The first l4 port.
    first: u16,
    sockets: Vec<OwnedFd>,
}

impl Listeners {
    /// Opens what is asked for, unless it is open: all of it or nothing. Returns the first l4 port, and duplicates of
    /// the sockets from the `skip`th on, as many as a message takes.
    pub(super) fn listen(&mut self, asked: &Listen, skip: u16) -> Result<(u16, Vec<OwnedFd>), Refusal> {
        let held = match self.0.entry(key(asked)) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(open(asked)?),
        };
        let part = held.sockets.iter().skip(usize::from(skip)).take(MAX_DESCRIPTORS);
        let copies = part.map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>();
        let copies = copies.map_err(|error| {
            Refusal::of_errno(words(asked), Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })?;
        Ok((held.first, copies))
    }

    /// Closes what was opened. What is not open is no error.
    pub(super) fn close(&mut self, asked: &Listen) {
        self.0.remove(&key(asked));
    }

    /// All of it for another keeper, in pieces that fit a message.
    ///
    /// # Errors
    /// Out of descriptors.
    pub(super) fn heritage(&self) -> io::Result<Vec<(Listen, Vec<OwnedFd>)>> {
        let held = self.held().zip(self.0.values());
        let pieces = held.flat_map(|(listen, held)| {
            held.sockets.chunks(MAX_DESCRIPTORS).map(move |piece| (listen.clone(), piece))
        });
        pieces
            .map(|(listen, piece)| {
                Ok((listen, piece.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?))
            })
            .collect()
    }

    /// Takes over a piece of what another keeper held.
    pub(super) fn inherit(&mut self, listen: &Listen, sockets: Vec<OwnedFd>) {
        let held = self.0.entry(key(listen)).or_default();
        held.first = listen.prefer;
        held.sockets.extend(sockets);
    }

    /// What is open, for an engine that begins.
    pub(super) fn held(&self) -> impl Iterator<Item = Listen> {
        self.0.iter().map(|((container, interface, publish), held)| Listen {
            container: container.clone(),
            interface: interface.clone(),
            publish: publish.clone(),
            prefer: held.first,
        })
    }
}

fn key(asked: &Listen) -> (String, String, Publish) {
    (asked.container.clone(), asked.interface.clone(), asked.publish.clone())
}

fn words(asked: &Listen) -> String {
    format!("publish {} of container {:?}", asked.publish, asked.container)
}

fn open(asked: &Listen) -> Result<Held, Refusal> {
    let Publish { host, count, .. } = asked.publish;
    if host == 0 {
        // The one it had before, if that is still free.
        let sockets = match asked.prefer {
            0 => Err(Errno::ADDRINUSE),
            prefer => open_one(&asked.publish, prefer),
        };
        let socket = sockets.or_else(|_| open_one(&asked.publish, 0));
        let socket = socket.map_err(|errno| refuse(asked, 0, errno))?;
        let first = port_of(&socket).map_err(|errno| refuse(asked, 0, errno))?;
        return Ok(Held { first, sockets: vec![socket] });
    }
    let ports = (0..count).map(|step| host.saturating_add(step));
    let sockets =
        ports.map(|port| open_one(&asked.publish, port).map_err(|errno| refuse(asked, port, errno)));
    Ok(Held { first: host, sockets: sockets.collect::<Result<_, _>>()? })
}

fn port_of(socket: &OwnedFd) -> Result<u16, Errno> {
    SocketAddr::try_from(getsockname(socket)?).map(|address| address.port())
}

/// # Syscalls
/// `socket`, `setsockopt`, `bind`, `listen`.
///
/// # Privileges
/// Below `net.ipv4.ip_unprivileged_port_start`: `CAP_NET_BIND_SERVICE` in the user namespace that owns the network
/// namespace.
fn open_one(publish: &Publish, port: u16) -> Result<OwnedFd, Errno> {
    let protocol = publish.protocol;
    match publish.address {
        Some(address) => bound(SocketAddr::new(address, port), protocol, true),
        // One socket for both families; where there is no IPv6, one for the other.
        None => match bound(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), protocol, false) {
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {
                bound(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), protocol, false)
            }
            bound => bound,
        },
    }
}

fn bound(address: SocketAddr, protocol: Protocol, v6_only: bool) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
        // The configuration has none of these where sockets are to listen.
        Protocol::Sctp => return Err(Errno::PROTONOSUPPORT),
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, v6_only)?;
    }
    if protocol == Protocol::Tcp {
        // Connections of before that are in TIME_WAIT are in nobody's way. (With UDP it would share the l4 port.)
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    match protocol {
        Protocol::Tcp => listen(&socket, BACKLOG)?,
        Protocol::Udp => datagram::say_destination(&socket, address.is_ipv4())?,
        Protocol::Sctp => {}
    }
    Ok(socket)
}

/// What was asked, what the kernel said, what would help.
fn refuse(asked: &Listen, port: u16, errno: Errno) -> Refusal {
    let place = match asked.publish.address {
        Some(IpAddr::V6(v6)) => format!("[{v6}]:{port}"),
        Some(IpAddr::V4(v4)) => format!("{v4}:{port}"),
        None => format!("l4 port {port}"),
    };
    let what = format!("{}: listen on {place}", words(asked));
    match errno {
        Errno::ACCESS | Errno::PERM => {
            let first = std::fs::read_to_string(UNPRIVILEGED).unwrap_or_default();
            let first = first.trim().parse::<u16>().unwrap_or(1024);
            Refusal::of_errno(what, errno).help(format!(
                "l4 ports below {first} are kept for root here: run as root, publish one from {first} on, or as root: \
                 sysctl net.ipv4.ip_unprivileged_port_start={port}"
            ))
        }
        Errno::ADDRINUSE => Refusal::new(RefusalKind::Exists, what, errno).help(format!(
            "`ss -lnp 'sport = :{port}'` says who listens there; end it, or publish another one"
        )),
        Errno::ADDRNOTAVAIL => Refusal::of_errno(what, errno).help("the host has no such address"),
        Errno::AFNOSUPPORT => Refusal::of_errno(what, errno).help("the host has no IPv6"),
        errno => Refusal::of_errno(what, errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    fn asked(publish: &str) -> Listen {
        let publish = publish.parse().unwrap();
        Listen { container: "web".into(), interface: "eth0".into(), publish, prefer: 0 }
    }

    #[test]
    fn what_is_open_is_handed_out_again_and_closed_once() {
        let mut listeners = Listeners::default();
        let asked = asked("127.0.0.1:0:80");
        let (port, sockets) = listeners.listen(&asked, 0).unwrap();
        assert_eq!((listeners.listen(&asked, 0).unwrap().0, sockets.len()), (port, 1));
        assert!(listeners.listen(&asked, 1).unwrap().1.is_empty());
        assert_eq!(listeners.held().map(|held| held.prefer).collect::<Vec<_>>(), [port]);
        drop(sockets); // an engine that died
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        listeners.close(&asked);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
        let again = Listen { prefer: port, ..asked };
        assert_eq!(listeners.listen(&again, 0).unwrap().0, port, "the same as before");
    }

    #[test]
    fn another_keeper_goes_on_with_the_same_sockets() {
        let mut listeners = Listeners::default();
        let (port, _) = listeners.listen(&asked("127.0.0.1:0:80"), 0).unwrap();
        let mut heir = Listeners::default();
        for (listen, sockets) in listeners.heritage().unwrap() {
            heir.inherit(&listen, sockets);
        }
        drop(listeners);
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(heir.listen(&asked("127.0.0.1:0:80"), 0).unwrap().0, port);
    }

    #[test]
    fn a_range_is_opened_whole_or_not_at_all() {
        let mut listeners = Listeners::default();
        // Four in a row that are free, as far as one can tell.
        let first = (0..50)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port())
            .find(|first| {
                (*first..first.saturating_add(4)).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
            });
        let Some(first) = first else { return };
        let taken = TcpListener::bind(("127.0.0.1", first + 2)).unwrap();
        let range = asked(&format!("127.0.0.1:{first}-{}:1-4", first + 3));
        let refusal = listeners.listen(&range, 0).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Exists);
        let said = refusal.to_string();
        assert!(
            said.contains(&format!("listen on 127.0.0.1:{}: Address already in use", first + 2)),
            "{said}"
        );
        drop(taken);
        assert_eq!(listeners.listen(&range, 0).unwrap().1.len(), 4);
        assert_eq!(listeners.listen(&range, 3).unwrap().1.len(), 1);
    }

    #[test]
    fn datagrams_have_l4_ports_of_their_own_and_wildcards_both_families() {
        let mut listeners = Listeners::default();
        let (port, _) = listeners.listen(&asked("0:53/udp"), 0).unwrap();
        assert_eq!(UdpSocket::bind(("127.0.0.1", port)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let (port, _) = listeners.listen(&asked("0:80/tcp"), 0).unwrap();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        if TcpListener::bind("[::1]:0").is_ok() {
            TcpStream::connect(("::1", port)).unwrap();
        }
        let refusal = listeners.listen(&asked("192.0.2.7:0:80"), 0).unwrap_err().to_string();
        assert!(
            refusal.contains("Cannot assign requested address") && refusal.contains("no such address"),
            "{refusal}"
        );
    }
}
