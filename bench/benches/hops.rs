//! What each hop costs, in nanoseconds, without a system call: `cargo bench -p bench`.
//!
//! The hops after `rx` on one 64-byte frame, each alone, then all of them on memory devices, with 2 and with 65,536
//! entries in the FDB. `bench own --figures hops` says what part of a packet they are.
#![allow(missing_docs)]

#[path = "../src/hop.rs"]
mod hop;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hop::{BATCH, Hops, Way};

fn hops(criterion: &mut Criterion) {
    let mut hops = Hops::new(2);
    let mut group = criterion.benchmark_group("hop");
    for (name, hop) in Hops::EACH {
        group.bench_function(name, |b| b.iter(|| hop(&mut hops)));
    }
    group.finish();
}

fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("all hops on memory devices, 64 frames");
    for entries in [2, 65_536] {
        let mut way = Way::new(entries);
        group.throughput(Throughput::Elements(u64::from(BATCH)));
        group.bench_function(format!("{entries} FDB entries"), |b| b.iter(|| way.batch()));
    }
    group.finish();
}

criterion_group!(benches, hops, all);
criterion_main!(benches);
