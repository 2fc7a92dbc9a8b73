//! Gateways on memory devices, with time moved by hand: who is reachable for how long, and how much thousands of networks
//! keep.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use router::fib::Route;
use switch::checksum::{add, pseudo, sum};
use switch::io::Wait;
use switch::io::mem::MemIo;
use switch::mac::MacAddr;
use switch::port::{NetworkId, PortId};
use switch::snapshot::Snapshot;
use switch::tick::Tick;
use switch::vnet::VnetHdr;
use switch::worker::Worker;
use vswitchd::policy::House;
use vswitchd::tables::Tables;

const SIX: &str = "\
[uplink]
kind = \"none\"
[[network]]
name = \"blue\"
subnet6 = \"fd00:1::/64\"
routes_to = [\"red\"]
[[network]]
name = \"red\"
subnet6 = \"fd00:2::/64\"
spoof = \"off\"
[[container]]
name = \"a\"
[[container.interface]]
network = \"blue\"
ip6 = \"fd00:1::a\"
[[container]]
name = \"b\"
[[container.interface]]
network = \"red\"
ip6 = \"fd00:2::b\"
[[container]]
name = \"c\"
[[container.interface]]
network = \"red\"
ip6 = \"fd00:2::c\"
";

const A: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0xa);
const B: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0xb);
const C: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0xc);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1);

/// `a` is behind port 0, `b` behind port 1, `c` behind port 2.
struct Six {
    worker: Worker<MemIo, House>,
    snapshot: Arc<ArcSwap<Snapshot<Tables>>>,
}

impl Six {
    fn new() -> Self {
        let snapshot = Arc::new(ArcSwap::from_pointee(common::all_up(SIX)));
        let mut worker = Worker::new(MemIo::new(3), 128, 3, Arc::clone(&snapshot), House::new(3, None));
        worker.io.now = Tick::from_secs(1000);
        let mut six = Self { worker, snapshot };
        // b asks for its gateway, and says who it is.
        let option = [&[1, 1][..], &six.mac(1).0].concat();
        six.send(1, B, ROUTER, 58, &[&[135, 0, 0, 0, 0, 0, 0, 0][..], &ROUTER.octets(), &option].concat());
        six
    }

    fn mac(&self, port: u16) -> MacAddr {
        self.snapshot.load().port(PortId(port)).unwrap().mac
    }

    /// To the gateway of the port's network. What came out for `b`: the IPv6 packets.
    fn send(&mut self, port: u16, src: Ipv6Addr, dst: Ipv6Addr, next: u8, message: &[u8]) -> Vec<Vec<u8>> {
        let gateway = self.snapshot.load().tables.router.gateway(NetworkId(port.min(1))).unwrap().mac;
        let (mut message, at) = (message.to_vec(), if next == 58 { 2 } else { 6 });
        let len = message.len();
        let check = !add(pseudo(src, dst, next, len as u32), sum(&message));
        message[at..at + 2].copy_from_slice(&check.to_be_bytes());
        let head = [&[0x60, 0, 0, 0, 0, len as u8, next, 255][..], &src.octets(), &dst.octets()].concat();
        let frame = [&gateway.0[..], &self.mac(port).0, &[0x86, 0xdd], &head, &message].concat();
        self.worker.io.inject(PortId(port), &VnetHdr::default(), &frame);
        while self.worker.step(Wait::Poll).unwrap() > 0 {}
        assert_eq!(self.worker.counters().worker.unaccounted(), 0);
        for port in [0, 2] {
            self.worker.io.discard(PortId(port));
        }
        self.worker.io.take(PortId(1)).into_iter().map(|(_, frame)| frame[14..].to_vec()).collect()
    }

    /// A second passes, and `a` sends a datagram. Whether `b` got it, and whether it was asked for its MAC.
    fn second(&mut self) -> (bool, bool) {
        self.worker.io.now = self.worker.io.now.plus_millis(1000);
        let datagram = [0, 7, 0, 7, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let out = self.send(0, A, B, 17, &datagram);
        let asked = out.iter().any(|packet| (packet[6], packet[40]) == (58, 135));
        (out.iter().any(|packet| packet[6] == 17), asked)
    }

    /// An advertisement of `target` by a container as Linux answers who asks it by its MAC: without its MAC.
    fn says(&mut self, (port, src): (u16, Ipv6Addr), target: Ipv6Addr, flags: u8) {
        let message = [&[136, 0, 0, 0, flags, 0, 0, 0][..], &target.octets()].concat();
        self.send(port, src, ROUTER, 58, &message);
    }

    fn known(&self) -> Vec<Ipv6Addr> {
        let snapshot = self.snapshot.load();
        let gateway = snapshot.tables.router.gateway(NetworkId(1)).unwrap();
        gateway.neighbors.iter(self.worker.io.now).map(|neighbor| neighbor.address).collect()
    }
}

const SOLICITED: u8 = 0x60;

#[test]
fn who_answers_without_its_mac_stays_reachable() {
    let mut six = Six::new();
    let mut asked = 0;
    for second in 1..=600 {
        let (arrived, asks) = six.second();
        assert!(arrived, "lost in second {second}");
        if asks {
            asked += 1;
            six.says((1, B), B, SOLICITED);
        }
    }
    // RFC 4861 section 10: REACHABLE_TIME is 30 s.
    assert!((15..=20).contains(&asked), "asked {asked} times in ten minutes");
}

#[test]
fn what_confirms_nobody_confirms_nobody() {
    let mut six = Six::new();
    // Another's word, one that nobody asked for, and one about somebody else.
    let (mut arrived, mut asked) = (0, 0);
    for _ in 0..120 {
        let (got, asks) = six.second();
        (arrived, asked) = (arrived + u32::from(got), asked + u32::from(asks));
        six.says((2, C), B, SOLICITED);
        six.says((1, B), B, 0x20);
        six.says((1, B), C, SOLICITED);
    }
    assert!((85..=91).contains(&arrived), "{arrived} arrived: it is used for 90 s");
    assert!(asked > 55, "{asked}");
    assert!(!six.known().contains(&C), "{:?}", six.known());
}

/// `count` networks, of which the first two are connected.
fn many(count: u16) -> Snapshot<Tables> {
    let mut text = String::new();
    for n in 0..count {
        let (high, low) = (n >> 8, n & 0xff);
        let ways = if n == 0 { "routes_to = [\"n1\"]\n" } else { "" };
        let _ = write!(
            text,
            "[[network]]\nname = \"n{n}\"\nsubnet = \"10.{high}.{low}.0/24\"\nfdb_limit = 64\n{ways}"
        );
    }
    common::all_up(&text)
}

#[test]
fn what_networks_keep_grows_as_their_number() {
    const COUNT: u16 = 1000;
    let snapshot = many(COUNT);
    let gateways: Vec<_> = snapshot.tables.router.gateways.iter().flatten().collect();
    assert_eq!(gateways.len(), usize::from(COUNT));
    // The subnet, the gateway in it and its two ends; those of the two that are connected twice.
    let own: usize = gateways.iter().map(|gateway| gateway.fib.own()).sum();
    assert_eq!(own, usize::from(COUNT) * 4 + 8);
    let rest = gateways[0].fib.rest().unwrap();
    assert_eq!(rest.own(), usize::from(COUNT));
    assert!(gateways.iter().all(|gateway| Arc::ptr_eq(gateway.fib.rest().unwrap(), rest)), "one for all");
    // And all of them are what they were.
    let find = |from: usize, to: [u8; 4]| gateways[from].fib.lookup(Ipv4Addr::from(to).to_ipv6_mapped());
    assert_eq!(find(0, [10, 0, 2, 9]), Some(Route::Unreachable));
    assert_eq!(find(999, [10, 0, 0, 9]), Some(Route::Unreachable));
    assert_eq!(find(999, [192, 0, 2, 1]), None, "which leaves by the uplink");
    for (from, to) in [(0, [10, 0, 0, 9]), (0, [10, 0, 1, 9]), (1, [10, 0, 0, 9]), (999, [10, 3, 231, 9])] {
        assert!(matches!(find(from, to), Some(Route::Next(_))), "{from} to {to:?}");
    }
    assert_eq!(gateways[5].fib.iter().count(), usize::from(COUNT) - 1 + 4, "each says where it leads");
}

#[test]
fn what_the_file_says_of_addresses_goes_before_networks_that_are_apart() {
    let lab = |route: &str| {
        common::all_up(&format!(
            "[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\n\
             [[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\n\
             [[route]]\nnetwork = \"blue\"\ndestination = \"{route}\"\nvia = \"10.1.0.9\"\n"
        ))
    };
    for (route, low, high) in [
        ("10.9.0.0/16", true, true),
        ("0.0.0.0/0", false, false),
        ("10.0.0.0/8", false, false),
        ("10.2.0.128/25", true, false),
        // The rest of a network of ours is not looked for outside, whichever part of it the route has.
        ("10.2.0.0/25", false, true),
    ] {
        let snapshot = lab(route);
        let blue = &snapshot.tables.router.gateway(NetworkId(0)).unwrap().fib;
        let is_ours =
            |host| blue.lookup(Ipv4Addr::new(10, 2, 0, host).to_ipv6_mapped()) == Some(Route::Unreachable);
        assert_eq!((is_ours(7), is_ours(200)), (low, high), "{route}");
    }
}
