//! Hosts with a TCP of their own, inside and outside, on lines that lose, double, hold up and mix what they carry; between
//! them the daemon's own way of a packet, with translation. Time is simulated, chance is a seed's.
//!
//! Two containers use the same l4 ports outwards; clients come in from outside to what is published, and from the network
//! beside it, over IPv4 and IPv6. What one end has sent the other has got, byte for byte. No two share an end point
//! outside meanwhile. When all is closed and time has passed nothing is left, and every l4 port is to be had again.
#![allow(missing_docs, clippy::panic, clippy::unwrap_used)]

mod common;
#[path = "../../../nat/tests/world/device.rs"]
mod device;
#[path = "../../../nat/tests/world/line.rs"]
mod line;
#[path = "../../../nat/tests/world/side.rs"]
#[allow(dead_code)]
mod side;
#[path = "../../../nat/tests/world/wire.rs"]
mod wire;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use nat::conntrack::EndPoint;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};
use switch::checksum::sum;
use switch::flow::{FlowKey, Packet};
use switch::io::Wait;
use switch::io::mem::MemIo;
use switch::parse::{PROTO_TCP, parse};
use switch::port::PortId;
use switch::snapshot::Snapshot;
use switch::tick::Tick;
use switch::vnet::VnetHdr;
use switch::worker::Worker;
use vswitchd::policy::House;
use vswitchd::tables::Tables;
use vswitchd::translate::Translation;

use common::outside::{Outside, TEXT};
use line::Line;
use side::Side;
use wire::Wire;

/// Hosts, which are ports: each with its addresses and its gateways.
const WORLD: usize = 0;
const A: usize = 1;
const C: usize = 3;
const HOSTS: [[&str; 4]; 4] = [
    ["198.18.0.1", "2001:db8:0:18::1", OURS[0], OURS[1]],
    ["10.1.0.2", "fd00:1::2", "10.1.0.1", "fd00:1::1"],
    ["10.1.0.3", "fd00:1::3", "10.1.0.1", "fd00:1::1"],
    ["10.2.0.2", "fd00:2::2", "10.2.0.1", "fd00:2::1"],
];
const OURS: [&str; 2] = ["198.18.0.10", "2001:db8:0:18::10"];
/// Published: the first of a range outside, and in `a`. What `world` serves.
const PUBLISHED: u16 = 8080;
const BEHIND: u16 = 80;
const SERVED: u16 = 443;
const BEGAN: u64 = 10_000_000;
/// A transfer takes no longer, in simulated milliseconds.
const PATIENCE: u64 = 3_600_000;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// One way of a link: a line, and how long each frame is on its way.
struct Link {
    line: Line,
    most: u64,
    /// By the moment of arrival, and number.
    under_way: BTreeMap<(u64, u64), Vec<u8>>,
    sent: u64,
}

impl Link {
    fn carry(&mut self, frame: Vec<u8>, now: u64) {
        let mut out = VecDeque::new();
        self.line.carry(frame, &mut out);
        for frame in out {
            // Whoever is faster than one before him arrives before him.
            let arrives = now + 1 + u64::from(self.line.dice()) * self.most / 100;
            self.sent += 1;
            self.under_way.insert((arrives, self.sent), frame);
        }
    }

    fn arrived(&mut self, now: u64) -> impl Iterator<Item = Vec<u8>> + use<> {
        let later = self.under_way.split_off(&(now + 1, 0));
        std::mem::replace(&mut self.under_way, later).into_values()
    }

    fn next(&self) -> u64 {
        self.under_way.first_key_value().map_or(u64::MAX, |((at, _), _)| *at)
    }
}

struct Host {
    iface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    /// From it, and to it.
    links: [Link; 2],
}

impl Host {
    fn new(which: usize, quality: &Quality) -> Self {
        let [v4, v6, gateway, gateway6] = HOSTS[which];
        let mac = HardwareAddress::Ethernet(EthernetAddress([2, 0, 0, 0, 0, which as u8 + 1]));
        let mut config = Config::new(mac);
        config.random_seed = quality.seed + which as u64;
        let mtu = if which == C { 1280 } else { 1500 };
        let mut wire = Wire { mtu, came: VecDeque::new(), leaves: VecDeque::new() };
        let mut iface = Interface::new(config, &mut wire, Instant::from_millis(BEGAN as i64));
        iface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(ip(v4).into(), 24)).unwrap();
            addresses.push(IpCidr::new(ip(v6).into(), 64)).unwrap();
        });
        iface.routes_mut().add_default_ipv4_route(gateway.parse().unwrap()).unwrap();
        iface.routes_mut().add_default_ipv6_route(gateway6.parse().unwrap()).unwrap();
        let link = |way: u64| Link {
            line: Line {
                lost: quality.lost,
                twice: quality.twice,
                late: 0,
                seed: (quality.seed * 16 + which as u64 * 2 + way + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            },
            most: quality.most,
            under_way: BTreeMap::new(),
            sent: 0,
        };
        Self { iface, wire, sockets: SocketSet::new(vec![]), links: [link(0), link(1)] }
    }

    fn socket(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 16_384]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }
}

/// How bad all lines are.
struct Quality {
    seed: u64,
    /// Percent of frames.
    lost: u32,
    twice: u32,
    /// Milliseconds that a frame is on its way, at most.
    most: u64,
}

/// Two ends, each a socket of a host, and what they have to say.
struct Stream {
    ends: [(usize, SocketHandle); 2],
    sides: [Side; 2],
}

struct World {
    worker: Worker<MemIo, House>,
    snapshot: Arc<ArcSwap<Snapshot<Tables>>>,
    hosts: Vec<Host>,
    now: u64,
    seen: HashSet<EndPoint>,
}

impl World {
    fn new(quality: &Quality) -> Self {
        let outside = Outside {
            published: vec![(PROTO_TCP, PUBLISHED, 64, PortId(A as u16), BEHIND)],
            ..Outside::default()
        };
        let snapshot = Arc::new(ArcSwap::from_pointee(outside.snapshot(TEXT)));
        let ports = HOSTS.len();
        let house = House::new(ports, None);
        let mut worker = Worker::new(MemIo::new(ports as u16), 512, ports, Arc::clone(&snapshot), house);
        worker.io.now = Tick::from_millis(BEGAN);
        let hosts = (0..ports).map(|which| Host::new(which, quality)).collect();
        Self { worker, snapshot, hosts, now: BEGAN, seen: HashSet::new() }
    }

    fn nat(&self) -> Translation {
        self.snapshot.load().tables.nat.clone().unwrap()
    }

    fn tick(&self) -> Tick {
        Tick::from_millis(self.now)
    }

    fn stream(&mut self, (from, own): (usize, u16), to: IpAddr, port: u16, at: (usize, u16)) -> Stream {
        let server = self.hosts[at.0].socket();
        self.hosts[at.0].sockets.get_mut::<tcp::Socket>(server).listen(at.1).unwrap();
        let host = &mut self.hosts[from];
        let client = host.socket();
        let socket = host.sockets.get_mut::<tcp::Socket>(client);
        socket.connect(host.iface.context(), (IpAddress::from(to), port), own).unwrap();
        let seed = (own + port) as u8;
        Stream {
            ends: [(from, client), (at.0, server)],
            sides: [Side::new(20_000, seed), Side::new(15_000, seed ^ 0xff)],
        }
    }

    /// Everybody has one turn, and time goes on to when there is more to do.
    fn turn(&mut self) {
        let now = Instant::from_millis(self.now as i64);
        self.worker.io.now = self.tick();
        for (port, host) in self.hosts.iter_mut().enumerate() {
            host.wire.came.extend(host.links[1].arrived(self.now));
            host.iface.poll(now, &mut host.wire, &mut host.sockets);
            for frame in host.wire.leaves.drain(..) {
                host.links[0].carry(frame, self.now);
            }
            for frame in host.links[0].arrived(self.now) {
                self.worker.io.inject(PortId(port as u16), &VnetHdr::default(), &frame);
            }
        }
        while self.worker.step(Wait::Poll).unwrap() > 0 {}
        assert_eq!(self.worker.counters().worker.unaccounted(), 0);
        let mut next = u64::MAX;
        for (port, host) in self.hosts.iter_mut().enumerate() {
            for (_, frame) in self.worker.io.take(PortId(port as u16)) {
                host.links[1].carry(frame, self.now);
            }
            let delay = host.iface.poll_delay(now, &host.sockets);
            let theirs = delay.map_or(u64::MAX, |delay| self.now + delay.total_millis());
            next = next.min(theirs).min(host.links[0].next()).min(host.links[1].next());
        }
        // The worker has timers of its own.
        self.now = next.clamp(self.now + 1, self.now + 50);
    }

    fn play(&mut self, stream: &mut Stream) {
        for ((host, handle), side) in stream.ends.into_iter().zip(&mut stream.sides) {
            side.play_container(self.hosts[host].sockets.get_mut::<tcp::Socket>(handle));
        }
    }

    /// Until all have said and heard everything.
    fn transfer(&mut self, streams: &mut [Stream]) {
        let deadline = self.now + PATIENCE;
        while !streams.iter().all(|stream| stream.sides.iter().all(Side::is_done)) {
            self.turn();
            streams.iter_mut().for_each(|stream| self.play(stream));
            self.check();
            assert!(self.now < deadline, "it does not end: {:?}", self.nat().conntrack.counts());
        }
    }

    /// No two share an end point outside, and none has what is published.
    fn check(&mut self) {
        let nat = self.nat();
        let mut outside = HashSet::new();
        for row in nat.conntrack.mappings(&nat.rules, self.tick()) {
            assert!(outside.insert((row.proto, row.external)), "two have {:?}", row.external);
            assert!(!(PUBLISHED..PUBLISHED + 64).contains(&row.external.port));
            self.seen.insert(row.external);
        }
    }

    /// So many seconds without a word.
    fn rest(&mut self, secs: u64) {
        self.now += secs * 1000;
        let nat = self.nat();
        nat.conntrack.age(&nat.rules, self.tick());
    }

    /// Whether somebody who asks for an l4 port by himself gets it.
    fn is_to_be_had(&self, external: EndPoint) -> bool {
        let nat = self.nat();
        let v4 = external.address.to_ipv4_mapped().is_some();
        let mapped = |at: &str| match ip(at) {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let src = mapped(if v4 { "10.1.0.77" } else { "fd00:1::77" });
        let dst = mapped(HOSTS[WORLD][usize::from(!v4)]);
        let snapshot = self.snapshot.load();
        let zone = snapshot.network(snapshot.port(PortId(A as u16)).unwrap().network).unwrap().zone;
        let key = FlowKey { zone, proto: PROTO_TCP, src, dst, sport: external.port, dport: SERVED };
        let packet = Packet { key, meta: anything().meta };
        let known = nat.conntrack.track_out(&nat.rules, &packet, PortId(A as u16), self.tick());
        known.is_ok_and(|known| known.external == external)
    }
}

/// A packet of which nothing counts.
fn anything() -> Packet {
    let mut frame =
        [&[2; 12][..], &[8, 0, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 1, 0, 77, 9, 9, 9, 9]].concat();
    let check = !sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    parse(&frame, &VnetHdr::default(), PortId(A as u16), 0).unwrap()
}

/// Out of both containers by the same l4 ports, in to what is published, and from the network beside it.
fn everybody_speaks(quality: &Quality) {
    let mut world = World::new(quality);
    let mut streams = Vec::new();
    // Each has a server of its own, or nobody would know whose answer it is.
    for n in (0..32).step_by(16) {
        for (family, ours) in (0..).zip(OURS) {
            let (own, port) = (ip(HOSTS[WORLD][usize::from(family)]), n + family);
            for (container, served) in [(A, SERVED + port), (C, SERVED + 64 + port)] {
                streams.push(world.stream((container, 40_000 + port), own, served, (WORLD, served)));
            }
            streams.push(world.stream((WORLD, 50_000), ip(ours), PUBLISHED + port, (A, BEHIND + port)));
        }
        streams.push(world.stream((C, 45_000), ip(OURS[0]), PUBLISHED + n + 8, (A, BEHIND + n + 8)));
    }
    world.transfer(&mut streams);
    for Stream { ends, sides: [client, server] } in &streams {
        assert!(client.got == server.send, "{ends:?}: {} of {}", client.got.len(), server.send.len());
        assert!(server.got == client.send, "{ends:?}: {} of {}", server.got.len(), client.send.len());
    }
    assert!(world.nat().conntrack.counts().other_port > 0, "both wanted the same");
    nothing_is_left(&mut world);
}

fn nothing_is_left(world: &mut World) {
    // What is closed rests for four minutes; what one end has not heard of lasts as long as if it were not.
    world.rest(7440);
    let counts = world.nat().conntrack.counts();
    assert_eq!((counts.connections, counts.mappings), (0, 0));
    assert!(!world.seen.is_empty());
    world.rest(121);
    for external in world.seen.clone() {
        assert!(world.is_to_be_had(external), "{external:?} is lost");
        world.nat().conntrack.forget(|_| true, world.tick());
    }
}

#[test]
fn on_good_lines() {
    everybody_speaks(&Quality { seed: 1, lost: 0, twice: 0, most: 1 });
}

#[test]
fn on_bad_lines() {
    for seed in 1..=40u32 {
        let (lost, twice, most) = (seed % 21, seed % 7, u64::from(seed * 13 % 90));
        everybody_speaks(&Quality { seed: seed.into(), lost, twice, most });
    }
}
