//! A large overlay as one of its hosts has it: how long it takes to start, what it takes to hold, and whether what is for
//! everybody goes to each once.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::{MARGIN, Row, STARTS, row};
use crate::error::Result;
use crate::load::raw::{self, RawSent};
use crate::load::vteps::Copies;
use crate::meter;
use crate::ns::{Family, Netns};
use crate::process::{Process, Scratch};
use crate::race::bars::Bound;
use crate::race::peers::hosts::{CONTAINERS, Hosts, LINK, UNDERLAY, VNI};
use crate::race::peers::vswitchd::{self, Config, Daemon, Uplink};
use crate::race::peers::{answer, words};
use crate::race::stats;

/// Other hosts, and MAC addresses that are told to be behind them.
const PEERS: u16 = 500;
const MACS: u32 = 10_000;
/// With room for the container's own.
const FDB_LIMIT: u32 = 16_384;
/// The first of the other hosts (RFC 2544: for benchmarks); all of them are one namespace.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
const ALL: &str = "198.19.0.0/16";
/// The first address that is behind them, in the containers' subnet.
const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 99, 16, 0);
/// Seconds of a start, and MiB of both processes.
const START: Bound = Bound::AtMost(5.0);
const MEMORY: Bound = Bound::AtMost(200.0);
/// Frames to addresses that were told: frames in a second, and seconds.
const RATE: &str = "2000";
const SECONDS: &str = "5.5";

/// A daemon with hundreds of other hosts, which are one namespace.
struct Large {
    process: Process,
    container: Netns,
    hosts: Hosts,
    dir: Scratch,
    /// From the start of the process to its `ready` line.
    ready_after: f64,
}

/// The other hosts, or MAC addresses behind them, one after the other.
fn counted(first: Ipv4Addr, index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first).saturating_add(index))
}

/// Who is behind which host.
fn told() -> Vec<String> {
    let entry = |index: u32| {
        let mac = raw::made_up(index).map(|byte| format!("{byte:02x}")).join(":");
        let (vtep, ip) = (counted(FIRST, index % u32::from(PEERS)), counted(BEHIND, index));
        let mut text = format!("[[vxlan.static]]\nvni = {VNI}\nmac = \"{mac}\"\n");
        // Writing into a String cannot fail.
        let _ = write!(text, "vtep = \"{vtep}\"\nip = \"{ip}\"");
        text
    };
    (0..MACS).map(entry).collect()
}

impl Large {
    fn start() -> Result<Self> {
        let family = Family::random()?;
        let dir = Scratch::create(family.prefix())?;
        let hosts = Hosts::create(&family)?;
        hosts.address(LINK)?;
        let ([host, others], [local, way]) = (&hosts.both, UNDERLAY);
        // By one next hop, for neighbours of all namespaces of a machine share one limit.
        host.ip(&["route", "add", ALL, "via", &way.to_string()])?;
        others.ip(&["route", "add", "local", ALL, "dev", "lo"])?;
        let container = Netns::expected(family.name("a"));
        let peers: Vec<_> = (0..PEERS).map(|index| counted(FIRST, index.into())).collect();
        let [address, _] = CONTAINERS;
        let lines = [format!("vni = {VNI}"), format!("fdb_limit = {FDB_LIMIT}")];
        let config = Config::new(&dir, Uplink::None, "auto")
            .vxlan(local, &peers, &told())
            .network("race", "10.99.0.0/16", &lines)
            .container(&container, "race", address, &[]);
        let Daemon { process, ready_after } = vswitchd::daemon(&dir, Some(host), &config, MARGIN)?;
        Ok(Self { process, container, hosts, dir, ready_after: ready_after.as_secs_f64() })
    }

    /// Frames of a kind from the container: how many, and what came of it to the other hosts.
    fn send(&self, kind: &str, entries: u32, rate: &str, seconds: &str) -> Result<(u64, Copies)> {
        let [_, others] = &self.hosts.both;
        let (first, count, vni) = (FIRST.to_string(), PEERS.to_string(), VNI.to_string());
        let receive = words(&["vteps", "--first", &first, "--count", &count, "--vni", &vni]);
        let mut receiver = Process::load(&self.dir, others.name(), &receive)?;
        receiver.wait_line("ready", MARGIN)?;
        let entries = entries.to_string();
        let send = ["raw-send", "--kind", kind, "--entries", &entries, "--rate", rate, "--seconds", seconds];
        let sender = Process::load(&self.dir, self.container.name(), &words(&send))?;
        let RawSent { sent } = answer("a load", &sender.finish(MARGIN)?)?;
        receiver.close_stdin();
        Ok((sent, answer("a load", &receiver.finish(MARGIN)?)?))
    }
}

/// # Errors
/// When the daemon does not start, a load fails, or we are interrupted.
pub(super) fn measure() -> Result<Vec<Row>> {
    let mut starts = Vec::with_capacity(STARTS);
    for _ in 1..STARTS {
        starts.push(Large::start()?.ready_after);
    }
    let large = Large::start()?;
    starts.push(large.ready_after);
    let started = stats::median(&starts).unwrap_or(f64::NAN);
    // A frame a second, for less than that.
    let (broadcasts, each) = large.send("broadcast", 1, "1", "0.5")?;
    let (sent, all) = large.send("unicast", MACS, RATE, SECONDS)?;
    let memory = meter::resident(&meter::family(large.process.pid()))? as f64 / f64::from(1 << 20);
    Ok(vec![
        row(format!("start to ready, {PEERS} other hosts, {MACS} MAC addresses told"), started, "s")
            .must(START),
        row("resident memory of keeper and engine", memory, "MiB").must(MEMORY),
        row("broadcasts sent", broadcasts as f64, "frames"),
        row("copies of it at the host with fewest", each.fewest as f64, "copies").must(Bound::AtLeast(1.0)),
        row("copies of it at the host with most", each.most as f64, "copies").must(Bound::AtMost(1.0)),
        row("frames sent to addresses that were told", sent as f64, "frames"),
        row("of these came to the host that was told", all.right as f64, "frames"),
        row("of these came to another one", all.wrong as f64, "frames").must(Bound::AtMost(0.0)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_goes_round_the_hosts() {
        let told = told();
        assert_eq!(told.len(), 10_000);
        let of_501st = "mac = \"06:be:00:00:01:f4\"\nvtep = \"198.19.0.1\"\nip = \"10.99.17.244\"";
        assert!(told[500].ends_with(of_501st), "{}", told[500]);
    }
}
