//! The hops of one 64-byte frame between two ports, each to be called alone, and all of them on memory devices. For the
//! micro benches and for `bench own`.

use std::hint::black_box;
use std::sync::Arc;

use arc_swap::ArcSwap;
use switch::admit::admit;
use switch::decide::bridge;
use switch::fdb::Fdb;
use switch::flow::Packet;
use switch::io::Wait;
use switch::io::mem::MemIo;
use switch::learn::learn;
use switch::mac::MacAddr;
use switch::parse::parse;
use switch::policy::Here;
use switch::port::{NetworkId, PortId};
use switch::snapshot::{Claims, Network, Owner, Port, Snapshot, Spoof, View};
use switch::stats::Counters;
use switch::tick::Tick;
use switch::track::{Storm, track};
use switch::verdict::Verdict;
use switch::vnet::VnetHdr;
use switch::worker::Worker;

const NOW: Tick = Tick::from_secs(1000);
/// Frames of a batch.
pub const BATCH: u32 = 64;

/// A minimal UDP packet from port `from` to port `to`: 18 bytes of payload, 60 without FCS.
fn frame(from: u8, to: u8) -> Vec<u8> {
    let mut frame = vec![2, 0x42, 10, 0, 0, to, 2, 0x42, 10, 0, 0, from, 8, 0];
    frame.extend([0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, from, 10, 0, 0, to]);
    frame.extend([0x10, 0, 0x20, 0, 0, 26, 0, 0]);
    frame.resize(60, 0);
    frame
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0x42, 10, 0, 0, n])
}

fn port(n: u8) -> Port {
    let ip = std::net::Ipv4Addr::new(10, 0, 0, n).to_ipv6_mapped();
    Port::new(NetworkId(0), mac(n), Box::new([ip]))
}

fn network(entries: u32) -> Network {
    let fdb = Fdb::new(65_536 + 64).unwrap_or_else(|error| unreachable!("{error}"));
    for n in 2..entries {
        let [_, a, b, c] = n.to_be_bytes();
        fdb.learn(0, MacAddr([6, 0, 0, a, b, c]), PortId(1), NOW);
    }
    fdb.learn(0, mac(1), PortId(0), NOW);
    fdb.learn(0, mac(2), PortId(1), NOW);
    let mut claims = Claims::default();
    for n in 1..=2 {
        claims.macs.insert(mac(n), Owner::Port(PortId(u16::from(n) - 1)));
    }
    Network {
        zone: 0,
        mtu: 1500,
        vlan: 0,
        icc: true,
        transparent: false,
        spoof: Spoof::Claimed,
        storm: 10_000,
        fdb: Arc::new(fdb),
        groups: None,
        members: Box::new([PortId(0), PortId(1)]),
        claims,
        told: Arc::default(),
    }
}

/// One hop.
pub type Hop = fn(&mut Hops);

/// A frame in the middle of its way, and what it meets there.
pub struct Hops {
    bytes: Vec<u8>,
    packet: Packet,
    port: Port,
    network: Network,
    counters: Counters,
    storm: Storm,
    verdict: Verdict,
}

impl Hops {
    /// With so many entries in the FDB.
    pub fn new(entries: u32) -> Self {
        let (bytes, network) = (frame(1, 2), network(entries));
        let packet = parse(&bytes, &VnetHdr::default(), PortId(0), 0)
            .unwrap_or_else(|reason| unreachable!("{reason:?}"));
        let verdict = bridge(&packet.meta, &network);
        let (counters, storm) = (Counters::new(2), Storm::new(2));
        Self { bytes, packet, port: port(1), network, counters, storm, verdict }
    }

    /// The hops that can be called alone, in their order.
    pub const EACH: [(&'static str, Hop); 5] = [
        ("2 parse", Self::parse),
        ("3 admit", Self::admit),
        ("4 learn", Self::learn),
        ("5 decide", Self::decide),
        ("6 track", Self::track),
    ];

    fn parse(&mut self) {
        let _ = black_box(parse(black_box(&self.bytes), &VnetHdr::default(), PortId(0), 0));
    }

    fn admit(&mut self) {
        let _ = black_box(admit(black_box(&mut self.packet), &self.port, &self.network));
    }

    fn learn(&mut self) {
        let snapshot = View { generation: 0, ports: &[], networks: &[], tables: &() };
        let here = Here { snapshot, id: NetworkId(0), network: &self.network, now: NOW };
        learn(black_box(&self.packet.meta), (&self.port, &here), &self.counters.worker);
    }

    fn decide(&mut self) {
        black_box(bridge(black_box(&self.packet.meta), &self.network));
    }

    fn track(&mut self) {
        let verdict = black_box(self.verdict);
        black_box(track(verdict, &self.packet.meta, &self.network, &mut self.storm, NOW));
    }
}

type Decide = fn(&Packet, &Network) -> Verdict;

/// A worker on memory devices.
pub struct Way {
    bytes: Vec<u8>,
    worker: Worker<MemIo, Decide>,
}

impl Way {
    /// With so many entries in the FDB.
    pub fn new(entries: u32) -> Self {
        let snapshot = Snapshot {
            generation: 1,
            ports: Box::new([Some(port(1)), Some(port(2))]),
            networks: Box::new([Some(network(entries))]),
            tables: (),
        };
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let decide: Decide = |packet, network| bridge(&packet.meta, network);
        let mut worker = Worker::new(MemIo::new(2), 64, 2, snapshot, decide);
        worker.io.now = NOW;
        Self { bytes: frame(1, 2), worker }
    }

    /// [`BATCH`] frames, from one port to the other.
    pub fn batch(&mut self) {
        for _ in 0..BATCH {
            self.worker.io.inject(PortId(0), &VnetHdr::default(), &self.bytes);
        }
        let _ = black_box(self.worker.step(Wait::Poll));
        self.worker.io.discard(PortId(1));
    }
}
