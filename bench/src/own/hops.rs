//! What each hop costs, and what part of a packet that is. The hops alone are called a million times each; what a packet
//! costs in all is the daemon's CPU time in a flood of 64-byte datagrams, when it hardly ever sleeps.

use std::time::{Duration, Instant};

use super::fleet::Fleet;
use super::{MARGIN, Row, row};
use crate::error::Result;
use crate::hop::{BATCH, Hops, Way};
use crate::load::udp::{Received, Sent};
use crate::meter;
use crate::race::peers::{answer, words};
use crate::race::stats;

/// Calls of one hop in one round.
const CALLS: u32 = 1_000_000;
/// Rounds of which the median is taken.
const ROUNDS: usize = 5;

/// Nanoseconds of one call.
fn time(calls: u32, mut call: impl FnMut()) -> f64 {
    let rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..calls).for_each(|_| call());
            start.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
        })
        .collect();
    stats::median(&rounds).unwrap_or(f64::NAN)
}

pub(super) fn measure(seconds: Duration) -> Result<Vec<Row>> {
    let mut hops = Hops::new(2);
    let each = Hops::EACH.map(|(name, hop)| (name, time(CALLS, || hop(&mut hops))));
    let mut way = Way::new(2);
    let memory = time(CALLS / BATCH, || way.batch()) / f64::from(BATCH);
    let packet = flood(seconds)?;
    let alone: f64 = each.iter().map(|(_, ns)| ns).sum();
    let rest = [
        ("7 apply, 8 tx, counters and the loop, on memory devices", memory - alone),
        ("1 rx and 8 tx by the kernel: what is left", packet - memory),
        ("a packet, in a flood", packet),
    ];
    let line = |(name, ns): (&str, f64)| {
        [
            row(format!("hop {name}"), ns, "ns"),
            row(format!("hop {name}, share of a packet"), 100.0 * ns / packet, "%"),
        ]
    };
    Ok(each.into_iter().chain(rest).flat_map(line).collect())
}

/// Nanoseconds of the daemon's CPU for each packet that arrived.
fn flood(time: Duration) -> Result<f64> {
    let fleet = Fleet::start(2, None, None)?;
    let mut sink = fleet.load(1, &words(&["udp-recv", "--tag", "7"]))?;
    let to = format!("{}:{}", Fleet::address(1), sink.wait_line("ready", MARGIN)?);
    let send = |rate: &str, seconds: &str| -> Result<Sent> {
        let words = words(&["udp-send", "--to", &to, "--tag", "7", "--rate", rate, "--seconds", seconds]);
        answer("a load", &fleet.load(0, &words)?.finish(time.saturating_add(MARGIN))?)
    };
    send("100", "0.2")?; // ARP
    let before = meter::process_cpu(&fleet.pids())?;
    send("0", &time.as_secs_f64().to_string())?;
    let used = meter::process_cpu(&fleet.pids())?.saturating_sub(before);
    sink.close_stdin();
    let Received { received } = answer("a load", &sink.finish(MARGIN)?)?;
    Ok(used.as_secs_f64() * 1e9 / (received as f64).max(1.0))
}
