//! What translation costs: one daemon, one container, and the same loads in turns to a container of another network, by
//! the router alone, and to a host outside, by the router and conntrack. Two daemons side by side differ by more than what
//! is looked for here.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{MARGIN, Row, row};
use crate::error::{Error, Result};
use crate::load::connect::Connections;
use crate::load::stream::Streams;
use crate::meter;
use crate::ns::{CONGESTION_CONTROL, Family, Netns};
use crate::process::{Process, Scratch};
use crate::race::bars::Bound;
use crate::race::peers::outside::{OUTSIDE, World};
use crate::race::peers::vswitchd::{self, Config, Daemon, Uplink};
use crate::race::peers::{answer, words};
use crate::race::stats;

/// Turns of which the medians are taken; each begins with another one.
const ROUNDS: usize = 8;
/// What translation leaves of a routed figure.
const LEFT: Bound = Bound::AtLeast(0.97);
/// Containers: who asks, and who answers by the router alone.
const ASKS: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 2);
const ROUTED: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 2);

/// One daemon, and two ways from a container.
struct Field {
    daemon: Process,
    asks: Netns,
    /// Whom it asks, and where: routed, translated.
    ways: [(Netns, Ipv4Addr); 2],
    _host: Netns,
    dir: Scratch,
}

impl Field {
    fn start() -> Result<Self> {
        let family = Family::random()?;
        let dir = Scratch::create(family.prefix())?;
        let World { host, outside } = World::apart(&family)?;
        let [asks, routed] = ["a", "b"].map(|name| Netns::expected(family.name(name)));
        let storm = "storm = 0".to_owned();
        let config = Config::new(&dir, Uplink::Tap(&outside), "auto")
            .network("one", "10.99.1.0/24", &[storm.clone(), "routes_to = [\"two\"]".to_owned()])
            .network("two", "10.99.2.0/24", &[storm])
            .container(&asks, "one", ASKS, &[])
            .container(&routed, "two", ROUTED, &[]);
        let Daemon { process: daemon, .. } = vswitchd::daemon(&dir, Some(&host), &config, MARGIN)?;
        for netns in [&asks, &routed, &outside] {
            netns.sysctl("net/ipv4/tcp_congestion_control", CONGESTION_CONTROL)?;
        }
        Ok(Self { daemon, asks, ways: [(routed, ROUTED), (outside, OUTSIDE)], _host: host, dir })
    }

    /// A load's client, with its server at the other end of a way: what it says, and seconds of the daemon's CPU.
    fn load<T: serde::de::DeserializeOwned>(
        &self,
        (netns, address): &(Netns, Ipv4Addr),
        server: &str,
        client: &[&str],
    ) -> Result<(T, f64)> {
        let mut server = Process::load(&self.dir, netns.name(), &words(&[server]))?;
        let to = format!("{address}:{}", server.wait_line("ready", MARGIN)?);
        let args = words(&[client, &["--to", &to]].concat());
        let pids = meter::family(self.daemon.pid());
        let before = meter::process_cpu(&pids)?;
        let said = answer("a load", &Process::load(&self.dir, self.asks.name(), &args)?.finish(MARGIN)?)?;
        Ok((said, meter::process_cpu(&pids)?.saturating_sub(before).as_secs_f64()))
    }

    /// Gbit/s of one stream, and seconds of CPU for each Gbit.
    fn stream(&self, way: &(Netns, Ipv4Addr), direction: &str, time: Duration) -> Result<[f64; 2]> {
        let millis = time.as_millis().to_string();
        let client =
            ["stream", "--direction", direction, "--reader", "fast", "--runs", "1", "--millis", &millis];
        let (streams, cpu): (Streams, f64) = self.load(way, "stream-serve", &client)?;
        if let Some(detail) = streams.failure {
            return Err(Error::Answer { who: "a stream", detail });
        }
        let gbits = streams.mbits.first().copied().unwrap_or(f64::NAN) / 1e3;
        Ok([gbits, cpu / (gbits * time.as_secs_f64())])
    }

    fn connects(&self, way: &(Netns, Ipv4Addr), time: Duration) -> Result<[f64; 2]> {
        let seconds = time.as_secs_f64().to_string();
        let (said, cpu): (Connections, f64) =
            self.load(way, "accept", &["connect", "--seconds", &seconds])?;
        Ok([said.done as f64 / said.seconds, cpu / said.done as f64])
    }
}

/// # Errors
/// When the daemon does not start, a load fails, or we are interrupted.
pub(super) fn measure(time: Duration) -> Result<Vec<Row>> {
    let field = Field::start()?;
    let time = time.min(Duration::from_secs(2));
    let mut rows = Vec::new();
    rows.extend(turns("TCP up", "Gbit/s", &field, |way| field.stream(way, "up", time))?);
    rows.extend(turns("TCP down", "Gbit/s", &field, |way| field.stream(way, "down", time))?);
    rows.extend(turns("TCP connects", "1/s", &field, |way| field.connects(way, time))?);
    Ok(rows)
}

/// A figure by both ways, and the medians of what each round has of the routed one.
fn turns(
    name: &str,
    unit: &'static str,
    field: &Field,
    one: impl Fn(&(Netns, Ipv4Addr)) -> Result<[f64; 2]>,
) -> Result<Vec<Row>> {
    let [routed, translated] = &field.ways;
    let mut figures = [const { Vec::new() }; 4];
    for round in 0..ROUNDS {
        let [first, second] =
            if round % 2 == 0 { [routed, translated] } else { [translated, routed] }.map(&one);
        let (first, second) = (first?, second?);
        let ([plain, plain_cpu], [other, other_cpu]) =
            if round % 2 == 0 { (first, second) } else { (second, first) };
        let values = [plain, other, other / plain, other_cpu / plain_cpu];
        figures.iter_mut().zip(values).for_each(|(all, value)| all.push(value));
    }
    let [plain, other, ratio, cpu] = figures.map(|all| stats::median(&all).unwrap_or(f64::NAN));
    Ok(vec![
        row(format!("{name}, routed"), plain, unit),
        row(format!("{name}, translated"), other, unit),
        row(format!("{name}, translated to routed, by rounds"), ratio, "").must(LEFT),
        row(format!("{name}, the switch's CPU for each, to routed"), cpu, ""),
    ])
}
