//! Nothing on a packet's way allocates, in the steady state and under attack.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Lab, Options, ethernet, mac, packet};
use switch::io::Wait;
use switch::mac::MacAddr;
use switch::port::PortId;

/// Sends `frames` and forgets what came out, as often as asked; the allocations of the last half.
fn allocations(lab: &mut Lab, rounds: u32, frames: impl Fn(u32) -> (u16, Vec<u8>)) -> u64 {
    // Frames are made before counting: what counts is what the switch does.
    let batches: Vec<Vec<(u16, Vec<u8>)>> =
        (0..rounds).map(|round| (0..32).map(|n| frames(round * 32 + n)).collect()).collect();
    let mut counted = 0;
    for (round, batch) in batches.iter().enumerate() {
        let info = allocation_counter::measure(|| {
            for (port, frame) in batch {
                lab.inject(*port, frame);
            }
            while lab.worker.step(Wait::Poll).unwrap() > 0 {}
            for port in 0..3 {
                lab.worker.io.discard(PortId(port));
            }
        });
        if round >= batches.len() / 2 {
            counted += info.count_total;
        }
    }
    counted
}

#[test]
fn forwarding_allocates_nothing() {
    let mut lab = Lab::new(&[3], Options::default());
    let allocated = allocations(&mut lab, 40, |n| {
        let (from, to) = ((n % 3) as u16, ((n + 1) % 3) as u16);
        (from, packet(from, to, b"steady"))
    });
    assert_eq!(allocated, 0);
    assert!(lab.worker.counters().worker.forwarded.get() > 1000);
}

#[test]
fn flooding_learning_evicting_and_dropping_allocate_nothing() {
    let mut lab = Lab::new(&[3], Options { fdb: 64, storm: 100, ..Options::default() });
    let allocated = allocations(&mut lab, 80, |n| {
        let [_, a, b, c] = n.to_be_bytes();
        let source = MacAddr([0x06, 0, 0, a, b, c]);
        match n % 4 {
            0 => (0, ethernet(MacAddr::BROADCAST, source, 0x88b5, b"new source")),
            1 => (0, ethernet(MacAddr([0x06, 9, 0, a, b, c]), source, 0x88b5, b"new destination")),
            2 => (1, ethernet(mac(1), mac(1), 0x88b5, b"spoofed")),
            _ => (2, vec![0xff; 9]),
        }
    });
    assert_eq!(allocated, 0);
    assert!(lab.worker.counters().worker.dropped() > 1000);
}
