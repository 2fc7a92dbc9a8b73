//! A million mutated frames in a minute: a container sends them through its TAP with virtio headers that say anything,
//! while its neighbours ping each other and open connections. They must lose nothing, and nobody may hear what is not
//! for him.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use super::{IDLE, MARGIN, Row, row};
use crate::error::{Error, Result};
use crate::load::connect::Connections;
use crate::ns::{Family, Netns};
use crate::process::{Process, Scratch, Stop};
use crate::race::bars::Bound;
use crate::race::idle_percent;
use crate::race::peers::vswitchd::{self, Config, Daemon, Uplink};
use crate::race::peers::{answer, words};
use crate::{meter, progress};

/// The sender and the listeners, which the labs have too.
const PROGRAM: &str = include_str!("../../../tools/vswitchctl/tests/lab/wire.py");
/// What they are made of: the frames that the parser is tested with.
const BASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../switch/tests/corpus/parse");
const PYTHON: &str = "python3";
/// In every mutated frame.
const NEEDLE: &str = "3c767377697463682d686f7374696c65";
const FRAMES: u64 = 1_000_000;
/// Frames per second: a million in a minute, and a little more.
const RATE: u64 = 17_000;
const SECONDS: u64 = FRAMES / RATE + 1;
/// Pings per second.
const PINGS: u64 = 50;
/// Memory that the daemon may grow by, MiB: its pool has been used in full once, and tables are full.
const GROWTH: Bound = Bound::AtMost(32.0);
/// The engines on which it is done.
const ENGINES: [&str; 2] = ["uring", "epoll"];

/// Network one: the hostile container, two neighbours, one who listens. Network two: one who must hear nothing.
struct Lab {
    daemon: Process,
    containers: Vec<Netns>,
    dir: Scratch,
}

const HOSTILE: usize = 0;
const PINGER: usize = 1;
const PINGED: usize = 2;
const THIRD: usize = 3;
const ELSEWHERE: usize = 4;

fn address(container: usize) -> Ipv4Addr {
    let network = if container == ELSEWHERE { 2 } else { 1 };
    let last = u8::try_from(container).unwrap_or(u8::MAX).saturating_add(2);
    Ipv4Addr::new(10, 99, network, last)
}

/// The MAC that is made from an address, in hexadecimal.
fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("0242{a:02x}{b:02x}{c:02x}{d:02x}")
}

impl Lab {
    fn start(io: &str) -> Result<Self> {
        let family = Family::random()?;
        let dir = Scratch::create(family.prefix())?;
        let containers: Vec<Netns> =
            (HOSTILE..=ELSEWHERE).map(|index| Netns::expected(family.name(&index.to_string()))).collect();
        let networks = Config::new(&dir, Uplink::None, io).network("one", "10.99.1.0/24", &[]).network(
            "two",
            "10.99.2.0/24",
            &[],
        );
        let config = containers.iter().enumerate().fold(networks, |config, (index, netns)| {
            config.container(netns, if index == ELSEWHERE { "two" } else { "one" }, address(index), &[])
        });
        let Daemon { process, .. } = vswitchd::daemon(&dir, None, &config, MARGIN)?;
        Ok(Self { daemon: process, containers, dir })
    }

    fn name(&self, container: usize) -> Result<&str> {
        let missing =
            || Error::Missing { what: format!("container {container}"), hint: "is not there".into() };
        Ok(self.containers.get(container).ok_or_else(missing)?.name())
    }

    fn run(&self, container: usize, argv: &[&str]) -> Result<Process> {
        Process::start(&self.dir, Some(self.name(container)?), &words(argv), Stop::Kill)
    }

    fn load(&self, container: usize, args: &[&str]) -> Result<Process> {
        Process::load(&self.dir, self.name(container)?, &words(args))
    }

    /// Who counts the frames that come to a container, and those of them that are for one of the MACs.
    fn watch(&self, container: usize, others: &[String]) -> Result<Process> {
        let mut argv = vec![PYTHON, "-c", PROGRAM, "watch", "eth0", NEEDLE];
        argv.extend(others.iter().map(String::as_str));
        let mut watch = self.run(container, &argv)?;
        watch.wait_line("ready", MARGIN)?;
        Ok(watch)
    }

    fn hostile(&self, seed: u32) -> Result<Process> {
        let file = self.dir.file("bases");
        fs::write(&file, bases()?).map_err(Error::io(format!("write {file}")))?;
        let (frames, rate, seed) = (FRAMES.to_string(), RATE.to_string(), seed.to_string());
        let own = address(HOSTILE);
        let gateway = Ipv4Addr::new(10, 99, 1, 1);
        let mut others: Vec<String> = [PINGER, PINGED, THIRD]
            .map(|other| (mac(address(other)), address(other)))
            .into_iter()
            .chain([gateway, address(ELSEWHERE)].map(|to| (mac(gateway), to)))
            .map(|(mac, address)| format!("{mac}/{address}"))
            .collect();
        others.extend(["ffffffffffff/10.99.1.255".to_owned(), "060606060606/10.99.1.77".to_owned()]);
        // Its input is a file.
        let read = format!("exec \"$@\" < {file}");
        let mut argv = vec!["sh", "-c", &read, "sh", PYTHON, "-c", PROGRAM, "hostile", "eth0"];
        let (own_mac, own) = (mac(own), own.to_string());
        argv.extend([frames.as_str(), &rate, &seed, NEEDLE, &own_mac, &own]);
        argv.extend(others.iter().map(String::as_str));
        self.run(HOSTILE, &argv)
    }

    /// Connections one after the other, for a second.
    fn connects(&self) -> Result<Connections> {
        let mut server = self.load(PINGED, &["accept"])?;
        let to = format!("{}:{}", address(PINGED), server.wait_line("ready", MARGIN)?);
        answer("a load", &self.load(PINGER, &["connect", "--to", &to, "--seconds", "1"])?.finish(MARGIN)?)
    }

    /// What the daemon says about itself: frames of the hostile port, frames that are not accounted for.
    fn stats(&self) -> Result<(u64, i64)> {
        let (ports, stats) = (vswitchd::ask(&self.dir, "ports")?, vswitchd::ask(&self.dir, "stats")?);
        let name = self.name(HOSTILE)?;
        let rows = ports.as_array().map(Vec::as_slice).unwrap_or_default();
        let read = rows.iter().find(|row| row["container"] == name).and_then(|row| row["rx_frames"].as_u64());
        let workers = stats["workers"].as_array().or_else(|| stats[0]["workers"].as_array());
        let unusable = || Error::Answer { who: "vswitchd", detail: format!("{stats}") };
        let mut open = 0;
        for worker in workers.ok_or_else(unusable)? {
            let sum = |names: &[&str]| names.iter().filter_map(|name| worker[*name].as_i64()).sum::<i64>();
            open += sum(&["rx", "generated", "released"]);
            open -= sum(&["forwarded", "flooded", "local", "held", "drops"]);
        }
        Ok((read.ok_or_else(unusable)?, open))
    }
}

/// Frames with their virtio headers, a line each.
fn bases() -> Result<String> {
    let listed = || Error::io(format!("read {BASES}"));
    let mut files: Vec<_> =
        fs::read_dir(BASES).map_err(listed())?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.iter().map(|file| line(file)).collect()
}

fn line(file: &Path) -> Result<String> {
    let bytes = fs::read(file).map_err(Error::io(format!("read {}", file.display())))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).chain(["\n".to_owned()]).collect())
}

/// The numbers of a line.
fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// # Errors
/// When the daemon does not start, a load fails, or we are interrupted.
pub(super) fn measure() -> Result<Vec<Row>> {
    let mut seed = [0; 4];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .map_err(Error::io("random bytes for a seed"))?;
    let mut rows = Vec::new();
    for io in ENGINES {
        rows.extend(on(io, u32::from_ne_bytes(seed))?);
    }
    Ok(rows)
}

fn on(io: &str, seed: u32) -> Result<Vec<Row>> {
    let lab = Lab::start(io)?;
    progress(&format!("{io}: {FRAMES} mutated frames, seed {seed}"));
    let pids = meter::family(lab.daemon.pid());
    let third = lab.watch(THIRD, &[mac(address(PINGER)), mac(address(PINGED))])?;
    let elsewhere = lab.watch(ELSEWHERE, &[])?;
    let before = meter::resident(&pids)? as f64;
    let (count, to) = (PINGS.saturating_mul(SECONDS).to_string(), address(PINGED).to_string());
    let pause = format!("{}", 1.0 / PINGS as f64);
    let start = std::time::Instant::now();
    let hostile = lab.hostile(seed)?;
    let pings = lab.run(PINGER, &["ping", "-n", "-q", "-i", &pause, "-c", &count, &to])?;
    let connects = lab.connects()?;
    let limit = Duration::from_secs(SECONDS).saturating_mul(4);
    let taken = numbers(&hostile.finish(limit)?).first().copied().unwrap_or(0);
    let seconds = start.elapsed().as_secs_f64();
    let said = pings.finish(limit)?;
    let summary = said.lines().find(|line| line.contains("packets transmitted")).unwrap_or_default();
    let pings = numbers(summary);
    let [sent, received] = [0, 1].map(|at| pings.get(at).copied().unwrap_or(0));
    let [third, elsewhere] = [third, elsewhere].map(|mut watch| {
        watch.close_stdin();
        watch.finish(MARGIN).map(|text| numbers(&text))
    });
    let (third, elsewhere) = (third?, elsewhere?);
    let number = |of: &[u64], at: usize| of.get(at).map_or(f64::NAN, |number| *number as f64);
    let grown = (meter::resident(&pids)? as f64 - before) / f64::from(1 << 20);
    let idle = idle_percent(&pids, IDLE)?;
    let (read, open) = lab.stats()?;
    let same = meter::family(lab.daemon.pid()).iter().filter(|pid| pids.contains(pid)).count();
    let named = |row: Row| Row { figure: format!("{io}: {}", row.figure), ..row };
    let zero = Bound::AtMost(0.0);
    Ok([
        row("mutated frames that the kernel took", taken as f64, "frames")
            .must(Bound::AtLeast(FRAMES as f64)),
        row("of these read by the daemon", read as f64, "frames"),
        row("in a second", taken as f64 / seconds, "1/s"),
        row("neighbour's pings", sent as f64, "pings").must(Bound::AtLeast(1.0)),
        row("of these lost", sent.saturating_sub(received) as f64, "pings").must(zero),
        row("neighbour's connections meanwhile", connects.done as f64, "connections")
            .must(Bound::AtLeast(1.0)),
        row("of these that failed", connects.failed as f64, "connections").must(zero),
        row("mutated frames at a third port", number(&third, 0), "frames"),
        row("of these for another's MAC", number(&third, 1), "frames").must(zero),
        row("mutated frames in another network", number(&elsewhere, 0), "frames").must(zero),
        row("frames without a fate", open.unsigned_abs() as f64, "frames").must(zero),
        row("memory grown by", grown, "MiB").must(GROWTH),
        row("CPU when it is over", idle, "% of a core").must(Bound::AtMost(1.0)),
        row("processes that died", pids.len().saturating_sub(same) as f64, "processes").must(zero),
    ]
    .map(named)
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_frames_to_mutate() {
        let text = bases().unwrap();
        assert!(text.lines().count() > 80);
        assert!(text.lines().all(|line| line.len() >= 48 && line.len() % 2 == 0));
    }

    #[test]
    fn who_has_which_address() {
        assert_eq!(address(PINGER), Ipv4Addr::new(10, 99, 1, 3));
        assert_eq!(mac(address(ELSEWHERE)), "02420a630206");
        assert_eq!(numbers("50 packets transmitted, 49 received"), [50, 49]);
    }
}
