//! What a routed packet costs, and one that is translated, in nanoseconds, without a system call:
//! `cargo bench -p bench --bench routed`.
//!
//! Two containers on two networks, or one and the outside, the daemon's own policy and configuration. The hops that differ from those of a
//! bridged frame, each alone, then all of them on memory devices. That none of it allocates is asserted on the way.
#![allow(missing_docs)]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use switch::checksum::sum;
use switch::flow::Packet;
use switch::io::Wait;
use switch::io::mem::MemIo;
use switch::parse::parse;
use switch::policy::{Here, Policy};
use switch::port::PortId;
use switch::snapshot::Snapshot;
use switch::tick::Tick;
use switch::verdict::{Hop, Verdict};
use switch::vnet::VnetHdr;
use switch::worker::Worker;
use vswitchd::config::{Context, Paths, parse_with};
use vswitchd::engine;
use vswitchd::policy::{House, decide};
use vswitchd::tables::Tables;

const NOW: Tick = Tick::from_secs(1000);
const FRAMES: u64 = 64;
/// So many that their connections are in no cache that is near.
const FLOWS: u16 = 32_768;

const A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
/// Outside, and our own address there.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const OURS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 10);

fn lab(routes: &str) -> Vec<u8> {
    format!(
        "[uplink]\nkind = \"none\"\n\
         [[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\n{routes}\n\
         [[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\n\
         [[container]]\nname = \"a\"\n[[container.interface]]\nnetwork = \"blue\"\n\
         [[container]]\nname = \"b\"\n[[container.interface]]\nnetwork = \"red\"\n"
    )
    .into_bytes()
}

/// `a` and an uplink, whose port is 1.
const OUTSIDE: &[u8] = b"[uplink]\nkind = \"tap\"\naddress = \"198.18.0.10/24\"\nhost = \"198.18.0.1/24\"\n\
    [[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\n\
    [[container]]\nname = \"a\"\n[[container.interface]]\nnetwork = \"blue\"\n";

fn mac(address: Ipv4Addr) -> Vec<u8> {
    [&[2, 0x42][..], &address.octets()].concat()
}

fn gateway(address: Ipv4Addr) -> Ipv4Addr {
    if address == FAR {
        return OURS;
    }
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, 1)
}

/// 18 bytes of UDP payload, 60 without FCS.
fn datagram(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    datagram_from(0x1000, from, to)
}

fn datagram_from(l4: u16, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let [high, low] = l4.to_be_bytes();
    let mut ip = [&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0][..], &from.octets(), &to.octets()].concat();
    let check = (!sum(&ip)).to_be_bytes();
    ip.splice(10..12, check);
    let udp = [&[high, low, 0x20, 0, 0, 26, 0, 0][..], &[0x55; 18]].concat();
    [mac(gateway(from)), mac(from), vec![8, 0], ip, udp].concat()
}

/// What `from` says when its gateway asks for its MAC.
fn answer(from: Ipv4Addr) -> Vec<u8> {
    let to = gateway(from);
    let body = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &mac(from), &from.octets(), &mac(to), &to.octets()].concat();
    [mac(to), mac(from), vec![8, 6], body].concat()
}

type Shared = Arc<ArcSwap<Snapshot<Tables>>>;

/// `a` is behind port 0, `other` behind port 1, and both gateways know it.
fn worker(config: &[u8], other: Ipv4Addr) -> (Worker<MemIo, House>, Shared) {
    let paths = Paths { control: "/test/control.sock".into(), state: "/test/state".into() };
    let config = parse_with("lab.toml", config, &Context { paths, previous: None, memory: None })
        .unwrap_or_else(|error| unreachable!("{error:?}"));
    let snapshot = engine::all_up(&config).unwrap_or_else(|error| unreachable!("{error}"));
    let snapshot: Shared = Arc::new(ArcSwap::from_pointee(snapshot));
    let mut worker = Worker::new(MemIo::new(2), 128, 2, Arc::clone(&snapshot), House::new(2, None));
    worker.io.now = NOW;
    for (port, frame) in [(0, datagram(A, other)), (1, answer(other)), (0, answer(A))] {
        worker.io.inject(PortId(port), &VnetHdr::default(), &frame);
        step(&mut worker);
    }
    (worker, snapshot)
}

fn step(worker: &mut Worker<MemIo, House>) {
    while worker.step(Wait::Poll).is_ok_and(|frames| frames > 0) {}
    for port in 0..2 {
        worker.io.discard(PortId(port));
    }
}

fn parsed(bytes: &[u8]) -> Packet {
    parse(bytes, &VnetHdr::default(), PortId(0), 0).unwrap_or_else(|reason| unreachable!("{reason:?}"))
}

fn routed(verdict: &Verdict) -> Hop {
    match verdict {
        Verdict::Forward(action) => action.hop.unwrap_or_else(|| unreachable!("bridged: {verdict:?}")),
        other => unreachable!("not routed: {other:?}"),
    }
}

fn hops(criterion: &mut Criterion) {
    each(criterion, "hop, routed", &lab("routes_to = [\"red\"]"), B);
    each(criterion, "hop, translated", OUTSIDE, FAR);
}

fn each(criterion: &mut Criterion, name: &str, config: &[u8], to: Ipv4Addr) {
    let (_worker, snapshot) = worker(config, to);
    let snapshot = snapshot.load_full();
    let bytes = datagram(A, to);
    let packet = parsed(&bytes);
    let id = snapshot.port(PortId(0)).map(|port| port.network).unwrap_or_else(|| unreachable!("no port"));
    let network = snapshot.network(id).unwrap_or_else(|| unreachable!("no network"));
    let here = Here { snapshot: snapshot.view(), id, network, now: NOW };
    let verdict = decide(&packet, &here, &mut |_| ());
    let hop = routed(&verdict);
    let mut house = House::new(2, None);
    let mut group = criterion.benchmark_group(name);
    group.bench_function("5 decide: gateway, fib, neighbour, connection", |b| {
        b.iter(|| decide(black_box(&packet), &here, &mut |_| ()));
    });
    group.bench_function("6 track: what may come back, or the connection", |b| {
        b.iter(|| house.track(black_box(verdict), &packet, &here));
    });
    let mut frame = bytes.clone();
    group.bench_function("7 apply: checksum, TTL, MACs, addresses and l4 ports", |b| {
        b.iter(|| {
            // As it came: a packet is one hop older each time.
            frame.copy_from_slice(&bytes);
            House::edit(black_box(&hop), &packet.meta, &mut frame)
        });
    });
    group.finish();
}

fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("all hops on memory devices, 64 frames");
    group.throughput(Throughput::Elements(FRAMES));
    let cases = [
        ("one way", lab("routes_to = [\"red\"]"), B, 1),
        ("both ways", lab("routes_to = \"all\""), B, 1),
        ("both ways, 32,768 flows in turn", lab("routes_to = \"all\""), B, FLOWS),
        ("translated", OUTSIDE.to_vec(), FAR, 1),
        ("translated, 32,768 flows in turn", OUTSIDE.to_vec(), FAR, FLOWS),
    ];
    for (name, config, to, flows) in cases {
        let (mut worker, _) = worker(&config, to);
        let frames: Vec<_> = (0..flows).map(|flow| datagram_from(0x1000 + flow, A, to)).collect();
        let mut next = frames.iter().cycle();
        let mut batch = || {
            for bytes in next.by_ref().take(FRAMES as usize) {
                worker.io.inject(PortId(0), &VnetHdr::default(), bytes);
            }
            step(&mut worker);
        };
        // Memory devices grow their queues once, and each flow has its connection.
        (0..8 + u64::from(flows) / FRAMES).for_each(|_| batch());
        let allocated = allocation_counter::measure(&mut batch).count_total;
        assert_eq!(allocated, 0, "a routed packet allocates");
        group.bench_function(name, |b| b.iter(&mut batch));
        let forwarded = worker.counters().worker.forwarded.get();
        assert!(forwarded >= 9 * FRAMES, "only {forwarded} frames were forwarded");
    }
    group.finish();
}

criterion_group!(benches, hops, all);
criterion_main!(benches);
