//! What each hop costs, in nanoseconds, without a system call: `cargo bench -p bench`.
//!
//! The hops after `rx` on one 64-byte frame, each alone, then all of them on memory devices, with 2 and with 65,536
//! entries in the FDB.
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use arc_swap::ArcSwap;
use criterion::{Criterion, criterion_group, criterion_main};
use switch::admit::admit;
use switch::decide::bridge;
use switch::fdb::Fdb;
use switch::flow::Packet;
use switch::io::Wait;
use switch::io::mem::MemIo;
use switch::learn::learn;
use switch::mac::MacAddr;
use switch::parse::parse;
use switch::port::{NetworkId, PortId};
use switch::snapshot::{Claims, Network, Owner, Port, Snapshot, Spoof};
use switch::stats::Counters;
use switch::tick::Tick;
use switch::track::{Storm, track};
use switch::vnet::VnetHdr;
use switch::worker::Worker;

const NOW: Tick = Tick::from_secs(1000);

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
        members: Box::new([PortId(0), PortId(1)]),
        claims,
    }
}

fn parsed() -> Packet {
    parse(&frame(1, 2), &VnetHdr::default(), PortId(0), 0).unwrap_or_else(|reason| unreachable!("{reason:?}"))
}

fn hops(criterion: &mut Criterion) {
    let (bytes, packet, port, network) = (frame(1, 2), parsed(), port(1), network(2));
    let counters = Counters::new(2);
    let mut storm = Storm::new(2);
    let mut group = criterion.benchmark_group("hop");
    group.bench_function("2 parse", |b| {
        b.iter(|| parse(black_box(&bytes), &VnetHdr::default(), PortId(0), 0));
    });
    group.bench_function("3 admit", |b| b.iter(|| admit(black_box(&mut packet.clone()), &port, &network)));
    group.bench_function("4 learn", |b| {
        b.iter(|| learn(black_box(&packet.meta), &network, NOW, &counters.worker));
    });
    group.bench_function("5 decide", |b| b.iter(|| bridge(black_box(&packet.meta), &network)));
    let verdict = bridge(&packet.meta, &network);
    group.bench_function("6 track", |b| {
        b.iter(|| track(black_box(verdict), &packet.meta, &network, &mut storm, NOW));
    });
    group.finish();
}

fn all(criterion: &mut Criterion) {
    let bytes = frame(1, 2);
    let mut group = criterion.benchmark_group("all hops on memory devices, 64 frames");
    for entries in [2, 65_536] {
        let snapshot = Snapshot {
            generation: 1,
            ports: Box::new([Some(port(1)), Some(port(2))]),
            networks: Box::new([Some(network(entries))]),
            tables: (),
        };
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let decide = |packet: &Packet, network: &Network| bridge(&packet.meta, network);
        let mut worker = Worker::new(MemIo::new(2), 64, 2, snapshot, decide);
        worker.io.now = NOW;
        group.throughput(criterion::Throughput::Elements(64));
        group.bench_function(format!("{entries} FDB entries"), |b| {
            b.iter(|| {
                for _ in 0..64 {
                    worker.io.inject(PortId(0), &VnetHdr::default(), &bytes);
                }
                let frames = worker.step(Wait::Poll);
                worker.io.discard(PortId(1));
                frames
            });
        });
    }
    group.finish();
}

criterion_group!(benches, hops, all);
criterion_main!(benches);
