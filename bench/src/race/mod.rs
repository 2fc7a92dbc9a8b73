//! The race: every peer in turns, every figure, on one machine in one run.

pub mod bars;
mod figures;
pub mod peers;
mod report;
pub mod scenario;
pub mod stats;
mod table;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use self::figures::Measure;
pub use self::figures::idle_percent;
use self::peers::Peer;
use self::report::{Conditions, Report, Sample};
use self::scenario::Scenario;
pub use self::table::{aligned, number};
use crate::error::{Error, Result};
use crate::load::udp::PAYLOAD;
use crate::meter::Machine;
use crate::ns::{CONGESTION_CONTROL, CubicAllowed};
use crate::{meter, process, progress, stop};

/// Every interface's; nobody sets another one.
const MTU: u32 = 1500;

/// How long to look whether we are alone.
const LOOK: Duration = Duration::from_millis(500);
/// A machine that is busier than this without us distorts every figure.
const ALONE: f64 = 0.1;

/// Said in the report where it is true.
const DEBUG: &str = "a debug build: its figures mean nothing";

/// Options of `bench race`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What is raced over.
    #[arg(value_enum, default_value = "l2")]
    scenario: Scenario,
    /// Each round measures every peer once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Seconds per load.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Who takes part; default everyone who can in this scenario.
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// What is measured; default what this scenario is about.
    #[arg(long, value_enum, value_delimiter = ',')]
    figures: Vec<Measure>,
    /// One round of one second a load: does everything work?
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Also write the report as JSON: a file, or `-` for stdout instead of the tables.
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Exit with 1 if a bar of this scenario is missed or could not be judged.
    #[arg(long)]
    check: bool,
}

impl Args {
    fn rounds(&self) -> usize {
        if self.quick { 1 } else { usize::from(self.rounds) }
    }

    fn seconds(&self) -> u64 {
        if self.quick { 1 } else { self.seconds }
    }

    fn measures(&self) -> &[Measure] {
        if self.figures.is_empty() { self.scenario.measures() } else { &self.figures }
    }

    fn peers(&self) -> Vec<Peer> {
        // Each engine of ours on its own is for whoever asks.
        let all = self.scenario.peers().iter().filter(|peer| !peer.is_told_how());
        if self.peers.is_empty() { all.copied().collect() } else { self.peers.clone() }
    }
}

/// Races and prints the report.
///
/// # Errors
/// When the machine lacks what every peer needs, the report cannot be written, or we are interrupted. A peer that fails
/// is named in the report instead.
///
/// # Privileges
/// Root.
pub fn run(args: &Args) -> Result<()> {
    if let Some(stranger) = args.peers().iter().find(|peer| !args.scenario.peers().contains(peer)) {
        return Err(stranger.stranger(args.scenario));
    }
    for program in ["ip", "iperf3"] {
        if process::find_program(program).is_none() {
            return Err(Error::Missing {
                what: program.into(),
                hint: "is not installed, and every figure needs it".into(),
            });
        }
    }
    let _cubic = CubicAllowed::ensure()?;
    let mut report = Report {
        scenario: args.scenario,
        conditions: conditions(args)?,
        peers: Vec::new(),
        missing: Vec::new(),
        notes: if cfg!(debug_assertions) { vec![DEBUG.to_owned()] } else { Vec::new() },
        samples: Vec::new(),
    };
    for peer in args.peers() {
        match absent(peer, args.scenario) {
            Some(reason) => report.missing.push((peer, reason)),
            None => report.peers.push(peer),
        }
    }
    for round in 0..args.rounds() {
        // Another one goes first each time: nobody always runs on the machine that its neighbour has warmed up.
        let mut order = report.peers.clone();
        let first = round.checked_rem(order.len()).unwrap_or(0);
        order.rotate_left(first);
        for peer in order {
            turn(&mut report, args, peer, round)?;
        }
    }
    write(&report, args)?;
    let unmet = report.unmet();
    if args.check && unmet > 0 { Err(Error::BarsUnmet { count: unmet }) } else { Ok(()) }
}

/// Why a peer cannot take part, after building it where it is ours.
fn absent(peer: Peer, scenario: Scenario) -> Option<String> {
    if peer.is_ours()
        && let Err(error) = peers::vswitchd::build()
    {
        return Some(error.to_string());
    }
    peer.missing(scenario)
}

/// One peer in one round. Its failure ends its turn, not the race.
fn turn(report: &mut Report, args: &Args, peer: Peer, round: usize) -> Result<()> {
    let name = peer.name();
    let lab = match peer.start(args.scenario) {
        Ok(lab) => lab,
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        Err(error) if round == 0 => {
            progress(&format!("{name}: cannot start: {error}"));
            report.peers.retain(|other| *other != peer);
            report.missing.push((peer, error.to_string()));
            return Ok(());
        }
        Err(error) => {
            report.notes.push(format!("{name}, round {}: cannot start: {error}", round + 1));
            return Ok(());
        }
    };
    if let Some(note) = not_alone()? {
        report.notes.push(format!("{name}, round {}: {note}", round + 1));
    }
    for measure in args.measures() {
        stop::check()?;
        match measure.run(&lab, Duration::from_secs(args.seconds())) {
            Ok(values) => {
                for (figure, value) in values {
                    let (_, title, unit) = figure.words();
                    progress(&format!("round {} {name:<11} {title:<30} {value:>10.3} {unit}", round + 1));
                    report.samples.push(Sample { peer, figure, round, value });
                }
            }
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => {
                progress(&format!("round {} {name}: {error}", round + 1));
                report.notes.push(format!("{name}, round {}: {error}", round + 1));
            }
        }
    }
    Ok(())
}

/// A warning if somebody else uses the machine while our peer has nothing to do.
fn not_alone() -> Result<Option<String>> {
    let before = Machine::now()?;
    thread::sleep(LOOK);
    let busy = Machine::now()?.part_since(&before);
    Ok((busy > ALONE).then(|| format!("the machine was {:.0} % busy with something else", busy * 100.0)))
}

fn conditions(args: &Args) -> Result<Conditions> {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").map_err(Error::io("read /proc/cpuinfo"))?;
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    Ok(Conditions {
        kernel,
        cpus: meter::cpus(),
        cpu_model: model.trim_start_matches([' ', '\t', ':']).to_owned(),
        rounds: args.rounds(),
        seconds: args.seconds(),
        mtu: MTU,
        congestion_control: CONGESTION_CONTROL,
        udp64_payload: PAYLOAD,
    })
}

fn write(report: &Report, args: &Args) -> Result<()> {
    let json = format!("{:#}\n", report.json());
    let text = match &args.json {
        Some(path) if path.as_os_str() == "-" => json,
        Some(path) => {
            fs::write(path, json).map_err(Error::io(format!("write {}", path.display())))?;
            report.text()
        }
        None => report.text(),
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::io("print the report"))
}
