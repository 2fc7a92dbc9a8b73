//! Figures that only this project's daemon has: its start, many ports, a full FDB, a noisy neighbour, a hostile one.

mod cluster;
mod connections;
mod fleet;
mod hops;
mod hostile;
mod thousand;
mod translated;
mod translation;
mod vteps;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use self::fleet::Fleet;
use crate::error::{Error, Result};
use crate::load::raw::RawSent;
use crate::load::rr::RoundTrips;
use crate::load::udp::{Received, Sent};
use crate::race::bars::{Bound, verdict};
use crate::race::peers::vswitchd;
use crate::race::peers::{answer, words};
use crate::race::{aligned, idle_percent, stats};
use crate::{meter, progress};

/// Large numbers of containers: seconds of their start and MiB that they may take.
const MANY: [(usize, f64, f64); 2] = [(256, 5.0, 150.0), (1000, 15.0, 400.0)];
/// Starts of which the median is taken.
const STARTS: usize = 3;
/// MAC addresses of the full FDB.
const ENTRIES: u32 = 65_536;
/// With room for the containers' own.
const FDB_LIMIT: u32 = 70_000;
/// Raw frames per second: learning and looking up.
const RATE: u64 = 20_000;
/// How long nothing happens for the idle figure.
const IDLE: Duration = Duration::from_secs(10);
/// How many seconds what went before may take to end.
const SETTLE: usize = 60;
/// A load may take this much longer than asked.
const MARGIN: Duration = Duration::from_secs(20);

/// Options of `bench own`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What is measured; default everything.
    #[arg(long, value_enum, value_delimiter = ',')]
    figures: Vec<Measure>,
    /// Seconds per load.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Also write the figures as JSON: a file, or `-` for stdout instead of the table.
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Exit with 1 if a bar is missed.
    #[arg(long)]
    check: bool,
}

/// The words of `--figures`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// Start to `ready`, with 2, 256 and 1,000 containers.
    Start,
    /// Resident memory and idle CPU with 256 and 1,000 ports.
    Ports,
    /// Cost per packet between two containers of 1,000, to that between two of two.
    Thousand,
    /// Cost of each hop, and its share of a packet.
    Hops,
    /// 65,536 FDB entries: floods, and cost per packet.
    Fdb,
    /// A neighbour's round trip while a port floods.
    Noise,
    /// 10,000 idle TCP connections through the sockets uplink.
    Connections,
    /// What translation leaves of routed streams and connects, by one daemon in turns.
    Translation,
    /// 20,000 new flows a second through a TAP uplink, and what a neighbour loses by it.
    Flows,
    /// A million connections through a TAP uplink: memory, and cost per packet.
    Million,
    /// 60,000 UDP and 60,000 TCP mappings on one address.
    Mappings,
    /// 500 other hosts of an overlay and 10,000 MAC addresses behind them: start, memory, copies of a broadcast.
    Vteps,
    /// Two hosts that find each other by etcd: frames that are lost while that is restarted and compacted.
    Cluster,
    /// A million mutated frames in a minute, on each I/O engine, and what the neighbours lose by it.
    Hostile,
}

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
struct Row {
    figure: String,
    value: f64,
    unit: &'static str,
    /// What it must be, in words; where it must be anything.
    bar: Option<String>,
    met: Option<bool>,
}

fn row(figure: impl Into<String>, value: f64, unit: &'static str) -> Row {
    Row { figure: figure.into(), value, unit, bar: None, met: None }
}

impl Row {
    /// The same, with a bar.
    fn must(self, bound: Bound) -> Self {
        Self { met: Some(bound.allows(self.value)), bar: Some(bound.words()), ..self }
    }
}

/// Measures and prints.
///
/// # Errors
/// When the daemon does not build or start, a load fails, or we are interrupted.
///
/// # Privileges
/// Root.
pub fn run(args: &Args) -> Result<()> {
    vswitchd::build()?;
    let wanted = if args.figures.is_empty() { Measure::value_variants() } else { &args.figures };
    let time = Duration::from_secs(args.seconds);
    let mut rows = Vec::new();
    for measure in wanted {
        let more = match measure {
            Measure::Start => start()?,
            Measure::Ports => ports()?,
            Measure::Thousand => thousand::measure(time)?,
            Measure::Hops => hops::measure(time)?,
            Measure::Fdb => fdb(time)?,
            Measure::Noise => noise(time)?,
            Measure::Connections => connections::measure(time)?,
            Measure::Translation => translation::measure(time)?,
            Measure::Flows => translated::flows()?,
            Measure::Million => translated::million(time)?,
            Measure::Mappings => translated::mappings()?,
            Measure::Vteps => vteps::measure()?,
            Measure::Cluster => cluster::measure()?,
            Measure::Hostile => hostile::measure()?,
        };
        more.iter().for_each(|row| progress(&format!("{:<60} {:>10.3} {}", row.figure, row.value, row.unit)));
        rows.extend(more);
    }
    write(&rows, args)?;
    let count = rows.iter().filter(|row| row.met == Some(false)).count();
    if args.check && count > 0 { Err(Error::BarsUnmet { count }) } else { Ok(()) }
}

fn start() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (count, bar, _) in [(2, 0.3, 0.0)].into_iter().chain(MANY) {
        let mut seconds = Vec::with_capacity(STARTS);
        for _ in 0..STARTS {
            seconds.push(Fleet::start(count, None, None)?.ready_after.as_secs_f64());
        }
        let median = stats::median(&seconds).unwrap_or(f64::NAN);
        rows.push(row(format!("start to ready, {count} containers"), median, "s").must(Bound::AtMost(bar)));
    }
    Ok(rows)
}

fn ports() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (count, _, most) in MANY {
        let fleet = Fleet::start(count, None, None)?;
        let pids = fleet.pids();
        let chatter = idle_percent(&pids, IDLE)?;
        fleet.hush()?;
        // What a thousand kernels said to each other before is on its way for a while.
        for _ in 0..SETTLE {
            if idle_percent(&pids, Duration::from_secs(1))? < 1.0 {
                break;
            }
        }
        let idle = idle_percent(&pids, IDLE)?;
        let memory = meter::resident(&pids)? as f64 / f64::from(1 << 20);
        rows.extend([
            row(format!("resident memory, {count} ports"), memory, "MiB").must(Bound::AtMost(most)),
            row(format!("CPU, {count} ports, IPv6 kernels soliciting"), chatter, "% of a core"),
            row(format!("idle CPU, {count} ports, nobody sends"), idle, "% of a core")
                .must(Bound::AtMost(1.0)),
        ]);
    }
    Ok(rows)
}

/// Container 0 has the addresses, container 1 sends to them, container 2 must see none of it.
fn fdb(time: Duration) -> Result<Vec<Row>> {
    let fleet = Fleet::start(3, Some(FDB_LIMIT), Some(0))?;
    let few = fdb_step(&fleet, 1, time)?;
    let full = fdb_step(&fleet, ENTRIES, time)?;
    Ok(vec![
        row("CPU per packet, 1 learned entry", few.micros, "us/packet"),
        row(format!("CPU per packet, {ENTRIES} learned entries"), full.micros, "us/packet"),
        row("the same as a ratio", full.micros / few.micros, "").must(Bound::AtMost(1.1)),
        row(format!("frames sent to {ENTRIES} known MACs"), full.sent as f64, "frames"),
        row("of these arrived where they belong", full.arrived as f64, "frames"),
        row("of these flooded to a third port", full.flooded as f64, "frames").must(Bound::AtMost(0.0)),
    ])
}

struct FdbStep {
    micros: f64,
    sent: u64,
    arrived: u64,
    flooded: u64,
}

fn fdb_step(fleet: &Fleet, entries: u32, time: Duration) -> Result<FdbStep> {
    let (entries, rate) = (entries.to_string(), RATE.to_string());
    // Twice, so that a frame which the machine lost leaves no hole.
    for _ in 0..2 {
        let learn = words(&["raw-send", "--kind", "learn", "--entries", &entries, "--rate", &rate]);
        let _: RawSent = answer("a load", &fleet.load(0, &learn)?.finish(time.saturating_add(MARGIN))?)?;
    }
    let mut owner = fleet.load(0, &words(&["raw-recv"]))?;
    let mut third = fleet.load(2, &words(&["raw-recv"]))?;
    for receiver in [&mut owner, &mut third] {
        receiver.wait_line("ready", MARGIN)?;
    }
    let seconds = time.as_secs_f64().to_string();
    let send = words(&[
        "raw-send",
        "--kind",
        "unicast",
        "--entries",
        &entries,
        "--rate",
        &rate,
        "--seconds",
        &seconds,
    ]);
    let pids = fleet.pids();
    let before = meter::process_cpu(&pids)?;
    let RawSent { sent } = answer("a load", &fleet.load(1, &send)?.finish(time.saturating_add(MARGIN))?)?;
    let used = meter::process_cpu(&pids)?.saturating_sub(before);
    owner.close_stdin();
    third.close_stdin();
    let Received { received: arrived } = answer("a load", &owner.finish(MARGIN)?)?;
    let Received { received: flooded } = answer("a load", &third.finish(MARGIN)?)?;
    Ok(FdbStep { micros: used.as_secs_f64() * 1e6 / (sent as f64).max(1.0), sent, arrived, flooded })
}

/// Containers 0 and 1 ping each other, container 2 floods, container 3 is who it floods.
fn noise(time: Duration) -> Result<Vec<Row>> {
    let fleet = Fleet::start(4, None, None)?;
    let seconds = time.as_secs_f64();
    let quiet = ping(&fleet, seconds)?;
    // The flood starts before the pings and ends after them.
    let longer = (seconds * 4.0).to_string();
    let flood = words(&["raw-send", "--kind", "broadcast", "--rate", "0", "--seconds", &longer]);
    let broadcast = {
        let _flood = fleet.load(2, &flood)?;
        ping(&fleet, seconds)?
    };
    let mut sink = fleet.load(3, &words(&["udp-recv", "--tag", "7"]))?;
    let to = format!("{}:{}", Fleet::address(3), sink.wait_line("ready", MARGIN)?);
    // ARP first: a flood whose neighbour is not known yet is no flood.
    let first = words(&["udp-send", "--to", &to, "--tag", "7", "--rate", "100", "--seconds", "0.2"]);
    let _: Sent = answer("a load", &fleet.load(2, &first)?.finish(MARGIN)?)?;
    let flood = words(&["udp-send", "--to", &to, "--tag", "7", "--rate", "0", "--seconds", &longer]);
    let unicast = {
        let _flood = fleet.load(2, &flood)?;
        ping(&fleet, seconds)?
    };
    let mut rows = Vec::new();
    for (name, times) in
        [("quiet", quiet), ("while a port broadcasts", broadcast), ("while a port floods UDP", unicast)]
    {
        let sent = (times.lost as f64 + times.samples as f64).max(1.0);
        rows.push(row(format!("neighbour's round trip p99, {name}"), times.p99_us, "us"));
        rows.push(row(format!("neighbour's loss, {name}"), 100.0 * times.lost as f64 / sent, "%"));
    }
    rows.push(
        row("p99 while a port broadcasts, to quiet", broadcast.p99_us / quiet.p99_us, "")
            .must(Bound::AtMost(2.0)),
    );
    rows.push(
        row("p99 while a port floods UDP, to quiet", unicast.p99_us / quiet.p99_us, "")
            .must(Bound::AtMost(2.0)),
    );
    Ok(rows)
}

/// A thousand round trips a second at most: ping, not a flood of its own.
fn ping(fleet: &Fleet, seconds: f64) -> Result<RoundTrips> {
    let mut echo = fleet.load(1, &words(&["echo"]))?;
    let to = format!("{}:{}", Fleet::address(1), echo.wait_line("ready", MARGIN)?);
    let seconds = seconds.to_string();
    let args = words(&[
        "round-trip",
        "--to",
        &to,
        "--seconds",
        &seconds,
        "--samples",
        "100000",
        "--pause-us",
        "1000",
    ]);
    answer("a load", &fleet.load(0, &args)?.finish(MARGIN.saturating_mul(4))?)
}

fn write(rows: &[Row], args: &Args) -> Result<()> {
    let mut cells = vec![["figure", "unit", "bar", "verdict", "value"].map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|row| {
        let verdict = row.met.map_or("", |met| verdict(Some(met))).to_owned();
        let bar = row.bar.clone().unwrap_or_default();
        vec![row.figure.clone(), row.unit.to_owned(), bar, verdict, format!("{:.3}", row.value)]
    }));
    let json = format!("{:#}\n", serde_json::json!({"scenario": "own", "figures": rows}));
    let text = match &args.json {
        Some(path) if path.as_os_str() == "-" => json,
        Some(path) => {
            fs::write(path, json).map_err(Error::io(format!("write {}", path.display())))?;
            aligned(&cells, 4)
        }
        None => aligned(&cells, 4),
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::io("print the figures"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_judged_where_there_is_one() {
        assert_eq!(row("a", 1.0, "s").met, None);
        assert_eq!(row("a", 1.0, "s").must(Bound::AtMost(1.0)).met, Some(true));
        let missed = row("a", 0.5, "s").must(Bound::AtLeast(1.0));
        assert_eq!((missed.met, missed.bar.as_deref()), (Some(false), Some(">= 1.00")));
        // Nothing measured is nothing met.
        assert_eq!(row("a", f64::NAN, "s").must(Bound::AtMost(1.0)).met, Some(false));
    }
}
