//! What a packet costs between two containers of a thousand, and between two of two: the same load over both in turns.

use std::time::Duration;

use super::fleet::Fleet;
use super::{MARGIN, RATE, Row, row};
use crate::error::Result;
use crate::load::udp::{Received, Sent};
use crate::meter;
use crate::race::bars::Bound;
use crate::race::peers::{answer, words};
use crate::race::stats;

/// Containers of the large lab.
const THOUSAND: usize = 1000;
/// Turns of which the medians are taken.
const ROUNDS: usize = 5;

pub(super) fn measure(time: Duration) -> Result<Vec<Row>> {
    let fleets = [Fleet::start(2, None, None)?, Fleet::start(THOUSAND, None, None)?];
    fleets.iter().try_for_each(Fleet::hush)?;
    let mut micros = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for turn in 0..2 {
            let which = (round + turn) % 2;
            if let (Some(fleet), Some(micros)) = (fleets.get(which), micros.get_mut(which)) {
                micros.push(cost(fleet, time)?);
            }
        }
    }
    let [few, many] = micros.map(|rounds| stats::median(&rounds).unwrap_or(f64::NAN));
    Ok(vec![
        row("CPU per packet between 2 containers of 2", few, "us/packet"),
        row(format!("CPU per packet between 2 containers of {THOUSAND}"), many, "us/packet"),
        row("cost with many ports, to that with two", many / few, "").must(Bound::AtMost(1.05)),
    ])
}

/// Microseconds of the daemon's CPU for each datagram that arrived, at a steady rate.
fn cost(fleet: &Fleet, time: Duration) -> Result<f64> {
    let mut sink = fleet.load(1, &words(&["udp-recv", "--tag", "7"]))?;
    let to = format!("{}:{}", Fleet::address(1), sink.wait_line("ready", MARGIN)?);
    let send = |rate: &str, seconds: &str, tag: &str| -> Result<Sent> {
        let words = words(&["udp-send", "--to", &to, "--tag", tag, "--rate", rate, "--seconds", seconds]);
        answer("a load", &fleet.load(0, &words)?.finish(time.saturating_add(MARGIN))?)
    };
    send("100", "0.2", "8")?; // ARP
    let before = meter::process_cpu(&fleet.pids())?;
    send(&RATE.to_string(), &time.as_secs_f64().to_string(), "7")?;
    let used = meter::process_cpu(&fleet.pids())?.saturating_sub(before);
    sink.close_stdin();
    let Received { received } = answer("a load", &sink.finish(MARGIN)?)?;
    Ok(used.as_secs_f64() * 1e6 / (received as f64).max(1.0))
}
