//! Streams that stand still: many short TCP streams through the way out, up and down, to fast and slow readers, none of
//! which may carry less than half of what the others do.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::load::stream::{Direction, Reader, Streams};
use crate::ns::CubicAllowed;
use crate::progress;
use crate::race::bars::verdict;
use crate::race::peers::Peer;
use crate::race::peers::lab::{Lab, Service, Way};
use crate::race::peers::vswitchd;
use crate::race::scenario::Scenario;
use crate::race::{aligned, number, stats};

/// Below this part of the median a stream stood still.
const STALLED: f64 = 0.5;
/// What opening and closing a stream may take beyond its time.
const MARGIN: Duration = Duration::from_secs(1);

/// Options of `bench stall`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Streams of each kind.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
    /// Milliseconds of each.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(50..=60_000))]
    millis: u32,
    /// Through whom; others than the daemon show what the machine itself does.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "vswitchd")]
    peers: Vec<Peer>,
    /// Also write the figures as JSON: a file, or `-` for stdout instead of the table.
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Exit with 1 if a stream of the daemon stood still.
    #[arg(long)]
    check: bool,
}

/// What became of the streams of one kind.
#[derive(Debug, Clone, Serialize)]
struct Outcome {
    peer: &'static str,
    direction: &'static str,
    reader: &'static str,
    runs: usize,
    median_mbits: f64,
    least_mbits: f64,
    /// Least to median.
    least_ratio: f64,
    /// How many were below half the median.
    stalled: usize,
    /// Why the first one failed that did.
    failure: Option<String>,
}

impl Outcome {
    fn new(peer: Peer, direction: Direction, reader: Reader, streams: Streams) -> Self {
        let Streams { mbits, failure } = streams;
        let median = stats::median(&mbits).unwrap_or(0.0);
        let least = mbits.iter().copied().fold(f64::INFINITY, f64::min);
        let least = if least.is_finite() { least } else { 0.0 };
        Self {
            peer: peer.name(),
            direction: direction.name(),
            reader: reader.name(),
            runs: mbits.len(),
            median_mbits: median,
            least_mbits: least,
            least_ratio: if median > 0.0 { least / median } else { 0.0 },
            // All of them standing still is no median to compare with.
            stalled: mbits.iter().filter(|mbits| **mbits <= 0.0 || **mbits < STALLED * median).count(),
            failure,
        }
    }
}

/// Measures and prints.
///
/// # Errors
/// When a peer does not start, a load fails, or we are interrupted; with `--check` also when a stream stood still.
///
/// # Privileges
/// Root.
pub fn run(args: &Args) -> Result<()> {
    if args.peers.iter().any(|peer| peer.is_ours()) {
        vswitchd::build()?;
    }
    let _cubic = CubicAllowed::ensure()?;
    let mut outcomes = Vec::new();
    for peer in &args.peers {
        let lab = peer.start(Scenario::Egress)?;
        for direction in Direction::value_variants() {
            for reader in Reader::value_variants() {
                let streams = streams(&lab, args, *direction, *reader)?;
                let outcome = Outcome::new(*peer, *direction, *reader, streams);
                let Outcome { peer, direction, reader, stalled, runs, .. } = &outcome;
                progress(&format!(
                    "{peer} {direction}, {reader} reader: {stalled} of {runs} below half the median"
                ));
                outcomes.push(outcome);
            }
        }
    }
    write(&outcomes, args)?;
    let stalled = outcomes.iter().filter(|one| one.peer == Peer::Vswitchd.name() && one.stalled > 0).count();
    if args.check && stalled > 0 { Err(Error::BarsUnmet { count: stalled }) } else { Ok(()) }
}

fn streams(lab: &Lab, args: &Args, direction: Direction, reader: Reader) -> Result<Streams> {
    let path = lab.path(Way::Main)?;
    let (_server, to) = path.server(Service::Stream, &[])?;
    let (to, runs, millis) = (to.to_string(), args.runs.to_string(), args.millis.to_string());
    let limit = Duration::from_millis(args.millis.into()).saturating_add(MARGIN).saturating_mul(args.runs);
    path.client(
        &[
            "stream",
            "--to",
            &to,
            "--direction",
            direction.name(),
            "--reader",
            reader.name(),
            "--runs",
            &runs,
            "--millis",
            &millis,
        ],
        limit.saturating_add(Duration::from_secs(30)),
    )
}

fn write(outcomes: &[Outcome], args: &Args) -> Result<()> {
    let head = [
        "peer",
        "direction",
        "reader",
        "bar",
        "verdict",
        "runs",
        "median Mbit/s",
        "least Mbit/s",
        "least to median",
        "below half",
    ];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    cells.extend(outcomes.iter().map(|one| {
        let verdict = verdict(Some(one.stalled == 0));
        let text =
            [one.peer, one.direction, one.reader, "none below half the median", verdict].map(str::to_owned);
        let numbers = [
            one.runs.to_string(),
            number(one.median_mbits),
            number(one.least_mbits),
            format!("{:.2}", one.least_ratio),
            one.stalled.to_string(),
        ];
        text.into_iter().chain(numbers).collect()
    }));
    let mut table = aligned(&cells, 5);
    for one in outcomes {
        if let Some(failure) = &one.failure {
            table.push_str(&format!("- {} {}, {} reader: {failure}\n", one.peer, one.direction, one.reader));
        }
    }
    let json = format!(
        "{:#}\n",
        serde_json::json!({"scenario": "stall", "millis": args.millis, "streams": outcomes})
    );
    let text = match &args.json {
        Some(path) if path.as_os_str() == "-" => json,
        Some(path) => {
            fs::write(path, json).map_err(Error::io(format!("write {}", path.display())))?;
            table
        }
        None => table,
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::io("print the figures"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(mbits: &[f64]) -> Outcome {
        let streams = Streams { mbits: mbits.to_vec(), failure: None };
        Outcome::new(Peer::Vswitchd, Direction::Up, Reader::Fast, streams)
    }

    #[test]
    fn below_half_the_median_is_a_stall() {
        let steady = outcome(&[100.0, 90.0, 110.0, 50.0]);
        assert_eq!((steady.stalled, steady.median_mbits, steady.least_mbits), (0, 95.0, 50.0));
        assert_eq!(outcome(&[100.0, 100.0, 49.0]).stalled, 1);
    }

    #[test]
    fn nothing_at_all_is_a_stall() {
        assert_eq!(outcome(&[0.0, 0.0]).stalled, 2);
        assert_eq!(outcome(&[]).least_ratio, 0.0);
    }
}
