//! Round trips, connections, memory, and the cost of doing nothing.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::{Figure, MARGIN};
use crate::error::{Error, Result};
use crate::load::connect::{Accepted, Connections};
use crate::load::rr::RoundTrips;
use crate::meter;
use crate::race::peers::answer;
use crate::race::peers::lab::{Lab, Service, Way};
use crate::stop;

/// Enough for a steady p99.
const SAMPLES: usize = 20_000;

pub(super) fn round_trip(lab: &Lab, time: Duration) -> Result<Vec<(Figure, f64)>> {
    let path = lab.path(Way::Main)?;
    let (_server, to) = path.server(Service::Echo, &[])?;
    let (to, seconds, samples) = (to.to_string(), time.as_secs_f64().to_string(), SAMPLES.to_string());
    let args = ["round-trip", "--to", &to, "--seconds", &seconds, "--samples", &samples];
    let times: RoundTrips = path.client(&args, time.saturating_add(MARGIN))?;
    Ok(vec![(Figure::RoundTripP50, times.p50_us), (Figure::RoundTripP99, times.p99_us)])
}

/// Connections per second; where l4 ports are published, also whether the container was shown the client's address.
pub(super) fn connects(lab: &Lab, time: Duration) -> Result<Vec<(Figure, f64)>> {
    let path = lab.path(Way::Main)?;
    // pasta forgets the FIN of a connection into a container that carried nothing: there each carries a byte.
    let (greeted, greet): (&[&str], &[&str]) =
        if path.ends.published { (&["--greeted"], &["--greet"]) } else { (&[], &[]) };
    let (mut server, to) = path.server(Service::Accept, greeted)?;
    let (to, seconds) = (to.to_string(), time.as_secs_f64().to_string());
    let connect = [&["connect", "--to", &to, "--seconds", &seconds][..], greet].concat();
    let made: Connections = path.client(&connect, time.saturating_add(MARGIN))?;
    if made.failed > made.done / 100 {
        let detail =
            format!("{} of {} connections failed", made.failed, made.failed.saturating_add(made.done));
        return Err(Error::Answer { who: "the connect load", detail });
    }
    server.close_stdin();
    let Accepted { from } = answer("a load", &server.finish(MARGIN)?)?;
    let kept = path.ends.published.then(|| {
        let share =
            from.get(&IpAddr::V4(path.ends.from)).copied().unwrap_or(0) as f64 / made.done.max(1) as f64;
        (Figure::AddressKept, 100.0 * share.min(1.0))
    });
    let rate = (Figure::Connects, made.done as f64 / made.seconds);
    Ok([rate].into_iter().chain(kept).collect())
}

/// Of several switches the largest one's.
pub(super) fn memory(lab: &Lab) -> Result<Vec<(Figure, f64)>> {
    let sizes = lab.switches().iter().map(|pids| meter::resident(pids)).collect::<Result<Vec<u64>>>()?;
    let largest = sizes.into_iter().max();
    Ok(largest.map(|bytes| (Figure::Memory, bytes as f64 / f64::from(1 << 20))).into_iter().collect())
}

pub(super) fn idle(lab: &Lab, time: Duration) -> Result<Vec<(Figure, f64)>> {
    let pids = lab.switch_pids();
    if pids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![(Figure::Idle, idle_percent(&pids, time)?)])
}

/// Per cent of one core that these processes use while nobody sends anything.
///
/// # Errors
/// When they are gone or we are interrupted.
pub fn idle_percent(pids: &[u32], time: Duration) -> Result<f64> {
    let (start, before) = (Instant::now(), meter::process_cpu(pids)?);
    while start.elapsed() < time {
        stop::check()?;
        thread::sleep(time.saturating_sub(start.elapsed()).min(Duration::from_millis(100)));
    }
    let used = meter::process_cpu(pids)?.saturating_sub(before);
    Ok(100.0 * used.as_secs_f64() / start.elapsed().as_secs_f64())
}
