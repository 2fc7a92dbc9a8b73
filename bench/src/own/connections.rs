//! Ten thousand idle TCP connections through the sockets uplink: what they cost us, and what the next one feels.

use std::time::Duration;

use super::{Row, row};
use crate::error::{Error, Result};
use crate::load::connect::Connections;
use crate::load::hold::Held;
use crate::meter;
use crate::ns::{CONGESTION_CONTROL, CubicAllowed, Family, Netns};
use crate::process::{Process, Scratch};
use crate::race::bars::Bound;
use crate::race::peers::outside::{OUTSIDE, World};
use crate::race::peers::vswitchd::{self, Config, Daemon, Uplink};
use crate::race::peers::{answer, words};

/// Connections in all.
const COUNT: u32 = 10_000;
/// Containers that hold them: a container may have some thousands of flows.
const CONTAINERS: u8 = 3;
/// Memory of ours for all of them, MiB.
const MEMORY: Bound = Bound::AtMost(20.0);
/// Connects per second, to those while nothing was held: less than chance makes of them is harm.
const UNHARMED: Bound = Bound::AtLeast(0.8);
/// Starting, and opening thousands of connections on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A daemon on a host, containers, and a server outside.
struct Field {
    daemon: Process,
    containers: Vec<Netns>,
    world: World,
    dir: Scratch,
}

impl Field {
    fn start(uplink: Uplink) -> Result<Self> {
        let family = Family::random()?;
        let dir = Scratch::create(family.prefix())?;
        let world = World::create(&family)?;
        let containers: Vec<Netns> =
            (0..CONTAINERS).map(|index| Netns::expected(family.name(&index.to_string()))).collect();
        let network = Config::new(&dir, uplink, "auto").network("race", "10.99.0.0/24", &[]);
        let config = (2u8..).zip(&containers).fold(network, |config, (last, netns)| {
            config.container(netns, "race", std::net::Ipv4Addr::new(10, 99, 0, last), &[])
        });
        let Daemon { process, .. } = vswitchd::daemon(&dir, Some(&world.host), &config, LIMIT)?;
        for netns in containers.iter().chain([&world.host, &world.outside]) {
            netns.sysctl("net/ipv4/tcp_congestion_control", CONGESTION_CONTROL)?;
        }
        Ok(Self { daemon: process, containers, world, dir })
    }

    fn resident(&self) -> Result<f64> {
        Ok(meter::resident(&meter::family(self.daemon.pid()))? as f64)
    }

    /// Starts a server outside; gives it and where it is.
    fn server(&self, load: &str) -> Result<(Process, String)> {
        let mut server = Process::load(&self.dir, self.world.outside.name(), &words(&[load]))?;
        let port = server.wait_line("ready", LIMIT)?;
        Ok((server, format!("{OUTSIDE}:{port}")))
    }

    fn client(&self, container: &Netns, args: &[&str]) -> Result<Process> {
        Process::load(&self.dir, container.name(), &words(args))
    }

    /// Connections one after the other, opened and closed.
    fn connects(&self, time: Duration) -> Result<Opened> {
        let (_server, to) = self.server("accept")?;
        let missing = || Error::Missing { what: "a container".into(), hint: "is not in the field".into() };
        let container = self.containers.first().ok_or_else(missing)?;
        let seconds = time.as_secs_f64().to_string();
        let pids = meter::family(self.daemon.pid());
        let before = meter::process_cpu(&pids)?;
        let client = self.client(container, &["connect", "--to", &to, "--seconds", &seconds])?;
        let made: Connections = answer("a load", &client.finish(time.saturating_add(LIMIT))?)?;
        let cpu = meter::process_cpu(&pids)?.saturating_sub(before);
        Ok(Opened {
            per_second: made.done as f64 / made.seconds,
            micros: cpu.as_secs_f64() * 1e6 / made.done.max(1) as f64,
            failed: made.failed,
        })
    }
}

/// What opening and closing connections came to.
struct Opened {
    per_second: f64,
    /// CPU of the daemon for each, microseconds.
    micros: f64,
    failed: u64,
}

/// # Errors
/// When the daemon does not start, a load fails, or we are interrupted.
pub(super) fn measure(time: Duration) -> Result<Vec<Row>> {
    let _cubic = CubicAllowed::ensure()?;
    // What the table of flows takes from the start is ours too: without the uplink there is none.
    let bare = Field::start(Uplink::None)?.resident()?;
    let field = Field::start(Uplink::Sockets)?;
    let fresh = field.connects(time)?;
    let before = field.resident()?;
    let (_server, to) = field.server("hold-serve")?;
    let share = COUNT.div_ceil(u32::from(CONTAINERS)).to_string();
    let mut holders = Vec::new();
    for container in &field.containers {
        holders.push(field.client(container, &["hold", "--to", &to, "--count", &share])?);
    }
    for holder in &mut holders {
        holder.wait_line("ready", LIMIT)?;
    }
    let held = field.resident()?;
    let next = field.connects(time)?;
    let mut sum = Held { opened: 0, failed: 0, alive: 0 };
    for mut holder in holders {
        holder.close_stdin();
        let one: Held = answer("a load", &holder.finish(LIMIT)?)?;
        sum.opened = sum.opened.saturating_add(one.opened);
        sum.failed = sum.failed.saturating_add(one.failed);
        sum.alive = sum.alive.saturating_add(one.alive);
    }
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    Ok(vec![
        row("idle TCP connections held", sum.opened as f64, "connections"),
        row("connections refused or lost while opening", sum.failed as f64, "connections")
            .must(Bound::AtMost(0.0)),
        row("of those held alive at the end", sum.alive as f64, "connections")
            .must(Bound::AtLeast(f64::from(COUNT))),
        row("resident memory, no uplink", mib(bare), "MiB"),
        row("resident memory, uplink, nothing held", mib(before), "MiB"),
        row("resident memory, all held", mib(held), "MiB"),
        row(
            "memory of all held, to nothing held",
            (held - before) / (sum.opened as f64).max(1.0),
            "bytes each",
        ),
        row("memory of all held, to no uplink", mib(held - bare), "MiB").must(MEMORY),
        row("connects, nothing held", fresh.per_second, "1/s"),
        row("connects, all held", next.per_second, "1/s"),
        row("the same as a ratio", next.per_second / fresh.per_second, "").must(UNHARMED),
        row("CPU per connect, nothing held", fresh.micros, "us"),
        row("CPU per connect, all held", next.micros, "us"),
        row("connects that failed, all held", next.failed as f64, "connections").must(Bound::AtMost(0.0)),
    ])
}
