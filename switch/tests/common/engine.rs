//! The engines of descriptors, as tests are written for them all.
#![allow(dead_code, missing_docs, clippy::panic, clippy::unwrap_used)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use switch::fdb::Fdb;
use switch::io::epoll::EpollIo;
use switch::io::uring::{UringIo, probe};
use switch::io::{Eye, Io};
use switch::mac::MacAddr;
use switch::mailbox::Mailbox;
use switch::port::{NetworkId, PortId};
use switch::snapshot::{Claims, Network, Port, Snapshot, Spoof};
use switch::sys::{netns, tun};
use switch::vlan::Tagging;
use switch::vnet::VnetHdr;

/// An engine of descriptors.
pub trait Engine: Io + Sized {
    /// `None`: not here, which is said, and which fails where `CI` is set.
    fn new(ports: usize, mailbox: &Arc<Mailbox>) -> Option<Self>;
    /// Slots that the kernel has.
    fn lent(&self) -> usize;
    fn eye(&mut self, fd: &OwnedFd) {
        self.watch(Eye::Policy, fd.as_fd()).unwrap();
    }
}

impl Engine for EpollIo {
    fn new(ports: usize, mailbox: &Arc<Mailbox>) -> Option<Self> {
        Some(Self::new(ports, Arc::clone(mailbox)).unwrap())
    }
    fn lent(&self) -> usize {
        0
    }
}

impl Engine for UringIo {
    fn new(ports: usize, mailbox: &Arc<Mailbox>) -> Option<Self> {
        if let Err(why) = probe() {
            assert!(std::env::var("CI").is_err(), "no io_uring: {why}");
            println!("skipped: no io_uring: {why}");
            return None;
        }
        Some(Self::new(ports, Arc::clone(mailbox)).unwrap())
    }
    fn lent(&self) -> usize {
        self.lent()
    }
}

/// Makes a `#[test]` of a function for each engine.
macro_rules! on_each {
    ($($name:ident),+ $(,)?) => { $(
        mod $name {
            #[test]
            fn by_epoll() {
                super::run::$name::<super::EpollIo>();
            }
            #[test]
            fn by_uring() {
                super::run::$name::<super::UringIo>();
            }
        }
    )+ };
}

/// Ports `0..ports` on one network.
pub fn one_network(ports: u16, storm: u32, tagging: impl Fn(u16) -> Tagging) -> Snapshot {
    let port = |port| {
        Some(Port { tagging: tagging(port), ..Port::new(NetworkId(0), MacAddr::ZERO, Box::default()) })
    };
    let network = Network {
        zone: 0,
        mtu: 9000,
        vlan: 0,
        icc: true,
        transparent: false,
        spoof: Spoof::Off,
        storm,
        fdb: Arc::new(Fdb::new(1024).unwrap()),
        groups: None,
        members: (0..ports).map(PortId).collect(),
        claims: Claims::default(),
        told: Arc::default(),
    };
    Snapshot {
        generation: 1,
        ports: (0..ports).map(port).collect(),
        networks: Box::new([Some(network)]),
        tables: (),
    }
}

pub fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

/// What a container writes to send a frame.
pub fn wire(frame: &[u8]) -> Vec<u8> {
    [&[0; VnetHdr::LEN][..], frame].concat()
}

/// A namespace with a TAP `eth0` that is up.
pub fn tap() -> Option<(OwnedFd, OwnedFd)> {
    let made = netns::create().map_err(|errno| errno.to_string()).and_then(|home| {
        let tap = netns::in_netns(home.as_fd(), || tun::create("eth0"));
        let tap = tap.map_err(|errno| errno.to_string())?.map_err(|error| error.to_string())?.0;
        Ok((home, tap))
    });
    match made {
        Ok((home, tap)) => {
            in_home(&home, &["link", "set", "eth0", "up"]);
            Some((home, tap))
        }
        Err(why) => {
            assert!(std::env::var("CI").is_err(), "no TAP in a namespace of our own: {why}");
            println!("skipped: no TAP in a namespace of our own: {why}");
            None
        }
    }
}

pub fn in_home(home: &OwnedFd, words: &[&str]) {
    let status = netns::in_netns(home.as_fd(), || std::process::Command::new("ip").args(words).status());
    assert!(status.unwrap().unwrap().success(), "ip {words:?}");
}

/// What came to a container, without its virtio header.
pub fn take(end: &OwnedFd) -> Option<Vec<u8>> {
    let mut bytes = [0; 2048];
    match rustix::io::read(end, &mut bytes) {
        Ok(len) => Some(bytes[VnetHdr::LEN..len].to_vec()),
        Err(Errno::AGAIN) => None,
        Err(errno) => panic!("{errno}"),
    }
}
