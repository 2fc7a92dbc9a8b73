//! What a TAP uplink holds: new flows at a steady rate beside somebody's round trips, a million connections, all l4 ports
//! of an address.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{MARGIN, Row, row};
use crate::error::{Error, Result};
use crate::load::dial::{Answered, Dialled};
use crate::load::rr::RoundTrips;
use crate::load::udp::{Received, Sent};
use crate::meter;
use crate::ns::{Family, Netns};
use crate::process::{Process, Scratch};
use crate::race::bars::Bound;
use crate::race::peers::outside::{OUTSIDE, World};
use crate::race::peers::vswitchd::{self, Config, Daemon, Uplink};
use crate::race::peers::{answer, words};
use crate::race::stats;

/// Containers: who loads, and a neighbour.
const CONTAINERS: u8 = 2;
/// Addresses outside (RFC 2544: for benchmarks), as many as there are hosts in a /16, all of them one host's.
const MANY: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);
const ADDRESSES: u32 = 62_500;
/// New flows per second that are wanted, and a few more that are sent.
const NEW: f64 = 20_000.0;
const NEW_RATE: u64 = 20_500;
/// Seconds of them.
const NEW_SECONDS: u32 = 5;
/// Pause of the neighbour, microseconds: a hundred round trips a second, and a little less.
const PAUSE: &str = "10000";
/// Connections of the large table, and of the small one.
const MILLION: u32 = 1_000_000;
const THOUSAND: u32 = 1_000;
/// Memory of ours for a million, MiB.
const MEMORY: Bound = Bound::AtMost(320.0);
/// Cost with many connections, to that with few.
const FLAT: Bound = Bound::AtMost(1.1);
/// Packets per second while connections are made, and while their cost is measured.
const OPEN_RATE: u64 = 100_000;
const COST_RATE: u64 = 50_000;
/// Turns of which the medians are taken.
const ROUNDS: usize = 3;
/// l4 ports of each container, the same ones: one of them must get others outside.
const PORTS: u16 = 30_000;
const FIRST_PORT: u16 = 2_000;
/// Questions per second.
const DIAL_RATE: u64 = 10_000;

/// A daemon with an address outside, containers, and who is there.
struct Field {
    daemon: Process,
    containers: Vec<Netns>,
    world: World,
    dir: Scratch,
}

const fn address(container: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, container + 2)
}

impl Field {
    fn start(translated: bool, limits: &[(&str, u32)]) -> Result<Self> {
        let family = Family::random()?;
        let dir = Scratch::create(family.prefix())?;
        let world = World::apart(&family)?;
        let containers: Vec<Netns> =
            (0..CONTAINERS).map(|index| Netns::expected(family.name(&index.to_string()))).collect();
        let uplink = if translated { Uplink::Tap(&world.outside) } else { Uplink::None };
        let network = Config::new(&dir, uplink, "auto").limits(limits).network("race", "10.99.0.0/24", &[]);
        let config = (0..)
            .zip(&containers)
            .fold(network, |config, (index, netns)| config.container(netns, "race", address(index), &[]));
        let Daemon { process, .. } = vswitchd::daemon(&dir, Some(&world.host), &config, MARGIN)?;
        Ok(Self { daemon: process, containers, world, dir })
    }

    /// Everything of 198.19.0.0/16 is the outside's own.
    fn everywhere(&self) -> Result<()> {
        self.world.outside.ip(&["route", "add", "local", &format!("{MANY}/16"), "dev", "lo"])
    }

    fn pids(&self) -> Vec<u32> {
        meter::family(self.daemon.pid())
    }

    fn resident(&self) -> Result<f64> {
        Ok(meter::resident(&self.pids())? as f64 / f64::from(1 << 20))
    }

    /// Connections that the daemon says it holds.
    fn connections(&self) -> Result<f64> {
        let status = vswitchd::ask(&self.dir, "status")?;
        Ok(status["uplink"]["connections"].as_f64().unwrap_or(f64::NAN))
    }

    fn outside(&self, args: &[&str]) -> Result<Process> {
        let mut load = Process::load(&self.dir, self.world.outside.name(), &words(args))?;
        load.wait_line("ready", MARGIN).map(|_| load)
    }

    fn inside(&self, container: u8, args: &[&str]) -> Result<Process> {
        let missing = || Error::Missing { what: "a container".into(), hint: "is not in the field".into() };
        let netns = self.containers.get(usize::from(container)).ok_or_else(missing)?;
        Process::load(&self.dir, netns.name(), &words(args))
    }

    /// Datagrams over flows outside: each once, or for a time. How many arrived, and what they cost.
    fn fan(&self, flows: u32, rate: u64, time: Option<Duration>) -> Result<Fanned> {
        let mut sink = self.outside(&["udp-recv", "--tag", "7", "--port", "9000"])?;
        let to = format!("{}:9000", Ipv4Addr::from(u32::from(MANY).saturating_add(1)));
        let seconds = time.map_or(0.0, |time| time.as_secs_f64()).to_string();
        let (flows, rate, addresses) = (flows.to_string(), rate.to_string(), ADDRESSES.to_string());
        let mut args = vec!["fan", "--to", &to, "--tag", "7", "--flows", &flows, "--rate", &rate];
        args.extend(["--addresses", &addresses, "--seconds", &seconds]);
        let pids = self.pids();
        let before = meter::process_cpu(&pids)?;
        let sent: Sent = answer("a load", &self.inside(0, &args)?.finish(MARGIN.saturating_mul(3))?)?;
        let used = meter::process_cpu(&pids)?.saturating_sub(before);
        sink.close_stdin();
        let Received { received } = answer("a load", &sink.finish(MARGIN)?)?;
        Ok(Fanned { sent, received, micros: used.as_secs_f64() * 1e6 / (received as f64).max(1.0) })
    }
}

struct Fanned {
    sent: Sent,
    received: u64,
    /// CPU of the daemon for each that arrived, microseconds.
    micros: f64,
}

/// New flows from one container while another's datagrams come and go.
///
/// # Errors
/// When the daemon does not start, a load fails, or we are interrupted.
pub(super) fn flows() -> Result<Vec<Row>> {
    let count = NEW_SECONDS * u32::try_from(NEW_RATE).unwrap_or_default();
    let field = Field::start(true, &[("connections", 2 * MILLION), ("connections_per_container", MILLION)])?;
    field.everywhere()?;
    let _echo = field.outside(&["echo", "--port", "7"])?;
    let to = format!("{OUTSIDE}:7");
    let trips = |seconds: &str| {
        let args = ["round-trip", "--to", &to, "--seconds", seconds, "--samples", "100000"];
        field.inside(1, &[&args[..], &["--pause-us", PAUSE]].concat())
    };
    // ARP first, which is not what is measured.
    trips("0.2")?.finish(MARGIN)?;
    let mut quiet = trips("2")?;
    quiet.close_stdin();
    let quiet: RoundTrips = answer("a load", &quiet.finish(MARGIN)?)?;
    // They start before the flows and end after them.
    let neighbour = trips(&(NEW_SECONDS + 2).to_string())?;
    let fanned = field.fan(count, NEW_RATE, None)?;
    let trips: RoundTrips = answer("a load", &neighbour.finish(MARGIN)?)?;
    let again = field.fan(count, NEW_RATE, None)?;
    Ok(vec![
        row("new flows in a second", fanned.sent.sent as f64 / fanned.sent.seconds, "1/s")
            .must(Bound::AtLeast(NEW)),
        row("new flows in all", fanned.sent.sent as f64, "flows"),
        row(
            "of these that did not arrive",
            (fanned.sent.sent - fanned.received.min(fanned.sent.sent)) as f64,
            "flows",
        ),
        row("CPU per packet that opens a connection", fanned.micros, "us/packet"),
        row("CPU per packet of one that is open", again.micros, "us/packet"),
        row("neighbour's round trips meanwhile", trips.samples as f64, "round trips")
            .must(Bound::AtLeast(f64::from(NEW_SECONDS * 80))),
        row("of these lost", trips.lost as f64, "round trips").must(Bound::AtMost(0.0)),
        row("neighbour's round trip p99, quiet", quiet.p99_us, "us"),
        row("neighbour's round trip p99, meanwhile", trips.p99_us, "us"),
    ])
}

/// A million connections: memory, and what a packet costs beside a thousand.
///
/// # Errors
/// When the daemon does not start, a load fails, or we are interrupted.
pub(super) fn million(time: Duration) -> Result<Vec<Row>> {
    // What the tables take from the start is ours too: without the uplink there are none.
    let bare = Field::start(false, &[])?.resident()?;
    let limits = [("connections", MILLION + 100_000), ("connections_per_container", MILLION + 50_000)];
    let field = Field::start(true, &limits)?;
    field.everywhere()?;
    let before = field.resident()?;
    let median = |flows: u32| -> Result<f64> {
        let cost = |_| Ok(field.fan(flows, COST_RATE, Some(time.div_f64(2.0)))?.micros);
        let micros = (0..ROUNDS).map(cost).collect::<Result<Vec<f64>>>()?;
        Ok(stats::median(&micros).unwrap_or(f64::NAN))
    };
    field.fan(THOUSAND, OPEN_RATE, None)?;
    let few = median(THOUSAND)?;
    let opened = field.fan(MILLION, OPEN_RATE, None)?;
    // Twice, so that a datagram which the machine lost leaves no hole.
    let again = field.fan(MILLION, OPEN_RATE, None)?;
    let held = field.connections()?;
    let memory = field.resident()?;
    let (same, all) = (median(THOUSAND)?, median(MILLION)?);
    Ok(vec![
        row("connections held", held, "connections").must(Bound::AtLeast(f64::from(MILLION))),
        row("opened in a second", opened.sent.sent as f64 / opened.sent.seconds, "1/s"),
        row("CPU per packet that opens a connection", opened.micros, "us/packet"),
        row("CPU per packet of one that is open", again.micros, "us/packet"),
        row("resident memory, no uplink", bare, "MiB"),
        row("resident memory, uplink, nothing held", before, "MiB"),
        row("resident memory, all held", memory, "MiB"),
        row("memory of a million connections, to no uplink", memory - bare, "MiB").must(MEMORY),
        row(format!("CPU per packet, {THOUSAND} connections"), few, "us/packet"),
        row(format!("CPU per packet of {THOUSAND} beside a million"), same, "us/packet"),
        row("the same as a ratio", same / few, "").must(FLAT),
        row("CPU per packet, over all of a million in leaps", all, "us/packet"),
        row("the same as a ratio", all / few, "").must(FLAT),
    ])
}

/// As many mappings of one address as it has l4 ports, near enough.
///
/// # Errors
/// When the daemon does not start, a load fails, or we are interrupted.
pub(super) fn mappings() -> Result<Vec<Row>> {
    let field = Field::start(
        true,
        &[("mappings", 64_000), ("mappings_per_container", 64_000), ("connections", MILLION)],
    )?;
    let at = MANY.to_string().replace("198.19.0.0", "198.19.0.1");
    let mut server = field.outside(&["answer-raw", "--at", &at])?;
    // The containers' kernels would answer what they did not ask.
    for netns in &field.containers {
        netns.ip(&["route", "add", "blackhole", &format!("{MANY}/16")])?;
    }
    let (first, count, rate) = (FIRST_PORT.to_string(), PORTS.to_string(), DIAL_RATE.to_string());
    let mut dials = Vec::new();
    for container in 0..CONTAINERS {
        let own = address(container).to_string();
        let mut args = vec!["dial", "--own", &own, "--gateway", "02420a630001", "--to", &at];
        args.extend(["--first", &first, "--count", &count, "--rate", &rate]);
        dials.push(field.inside(container, &args)?);
    }
    let (mut udp, mut tcp) = (0, 0);
    for dial in dials {
        let one: Dialled = answer("a load", &dial.finish(MARGIN.saturating_mul(2))?)?;
        (udp, tcp) = (udp + one.udp, tcp + one.tcp);
    }
    server.close_stdin();
    let seen: Answered = answer("a load", &server.finish(MARGIN)?)?;
    let all = Bound::AtLeast(f64::from(PORTS) * f64::from(CONTAINERS));
    Ok(vec![
        row("UDP end points on one address", seen.udp as f64, "mappings").must(all),
        row("TCP end points on one address", seen.tcp as f64, "mappings").must(all),
        row("of these that two had", seen.shared as f64, "mappings").must(Bound::AtMost(0.0)),
        row("UDP end points that had their answer", udp as f64, "mappings").must(all),
        row("TCP end points that had their answer", tcp as f64, "mappings").must(all),
    ])
}
