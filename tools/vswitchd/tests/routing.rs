//! The daemon's own way of a packet, on memory devices, between two networks, one of which may only answer: what a
//! golden does not show.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use switch::checksum::sum;
use switch::drop::DropReason;
use switch::io::Wait;
use switch::io::mem::MemIo;
use switch::port::PortId;
use switch::tick::Tick;
use switch::vnet::VnetHdr;
use switch::worker::Worker;
use vswitchd::config::{Context, Paths, parse_with};
use vswitchd::engine;
use vswitchd::policy::House;

const LAB: &[u8] = b"
[[network]]
name = \"blue\"
subnet = \"10.1.0.0/24\"
routes_to = [\"red\"]
[[network]]
name = \"red\"
subnet = \"10.2.0.0/24\"
[[container]]
name = \"a\"
[[container.interface]]
network = \"blue\"
[[container]]
name = \"b\"
[[container.interface]]
network = \"red\"
";

const A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);

fn mac(address: Ipv4Addr) -> Vec<u8> {
    [&[2, 0x42][..], &address.octets()].concat()
}

/// The gateway of the network of `address`.
fn gateway(address: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, 1)
}

fn datagram(from: Ipv4Addr, to: Ipv4Addr, ports: [u16; 2]) -> Vec<u8> {
    let mut ip = [&[0x45, 0, 0, 36, 0, 0, 0x40, 0, 64, 17, 0, 0][..], &from.octets(), &to.octets()].concat();
    let check = !sum(&ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    let udp = [&ports[0].to_be_bytes()[..], &ports[1].to_be_bytes(), &[0, 16, 0, 0], &[0x55; 8]].concat();
    [mac(gateway(from)), mac(from), vec![8, 0], ip, udp].concat()
}

fn answer(from: Ipv4Addr) -> Vec<u8> {
    let to = gateway(from);
    let body = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &mac(from), &from.octets(), &mac(to), &to.octets()].concat();
    [mac(to), mac(from), vec![8, 6], body].concat()
}

/// `a` is behind port 0, `b` behind port 1.
fn lab() -> Worker<MemIo, House> {
    let paths = Paths { control: "/test/control.sock".into(), state: "/test/state".into() };
    let config = parse_with("lab.toml", LAB, &Context { paths, previous: None, memory: None }).unwrap();
    let snapshot = Arc::new(ArcSwap::from_pointee(engine::all_up(&config).unwrap()));
    let mut worker = Worker::new(MemIo::new(2), 128, 2, snapshot, House::new(2, None));
    worker.io.now = Tick::from_secs(1000);
    worker
}

#[test]
fn a_packet_that_waits_does_not_outlive_its_port() {
    let mut worker = lab();
    let inject = |worker: &mut Worker<MemIo, House>, port, frame: &[u8]| {
        worker.io.inject(PortId(port), &VnetHdr::default(), frame);
        while worker.step(Wait::Poll).unwrap() > 0 {}
    };
    inject(&mut worker, 0, &datagram(A, B, [1, 2]));
    assert_eq!(worker.counters().worker.held.get(), 1);
    worker.io.let_go(PortId(0));
    inject(&mut worker, 1, &answer(B));
    let to_b = worker.io.take(PortId(1));
    assert!(to_b.iter().all(|(_, frame)| frame[12..14] == [8, 6]), "ARP is all that b hears: {to_b:?}");
    assert!(!to_b.is_empty());
    let counters = worker.counters();
    assert_eq!(counters.worker.drops[DropReason::PortGone as usize].get(), 1);
    assert_eq!(counters.worker.unaccounted(), 0);
}

#[test]
fn routing_and_answering_allocate_nothing() {
    let mut worker = lab();
    let mut run = |frames: &[(u16, Vec<u8>)]| {
        allocation_counter::measure(|| {
            for (port, frame) in frames {
                worker.io.inject(PortId(*port), &VnetHdr::default(), frame);
            }
            while worker.step(Wait::Poll).unwrap() > 0 {}
            (0..2).for_each(|port| _ = worker.io.discard(PortId(port)));
        })
        .count_total
    };
    // Who is where; two packets have to wait for that.
    run(&[(0, datagram(A, B, [1, 2])), (1, answer(B))]);
    run(&[(1, datagram(B, A, [2, 1])), (0, answer(A))]);
    let batch: Vec<(u16, Vec<u8>)> = (0..32u16)
        .map(|n| match n % 3 {
            0 => (0, datagram(A, B, [1000 + n, 2])),
            1 => (1, datagram(B, A, [2, 1000 + n - 1])),
            _ => (1, datagram(B, A, [7, n])), // prohibited: an ICMP error, or silence
        })
        .collect();
    (0..8).for_each(|_| _ = run(&batch)); // memory devices grow their queues once
    let allocated: u64 = (0..40).map(|_| run(&batch)).sum();
    assert_eq!(allocated, 0);
    let counters = worker.counters();
    assert!(counters.worker.forwarded.get() > 800, "routed both ways");
    assert_eq!(counters.worker.unaccounted(), 0);
}
