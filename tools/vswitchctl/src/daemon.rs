//! The daemon itself as tables: `show stats` and `show status`.

use vswitchd::api::rows::{DnsCounts, Stats, Status};

use crate::nat;
use crate::show::yes;
use crate::table::{Table, list, number, short, words};
use crate::vxlan;

/// `show stats`: rates are short, totals exact.
pub fn stats(stats: &Stats) -> String {
    let columns = [
        number("PORT"),
        words("NETWORK"),
        words("CONTAINER"),
        words("IFACE"),
        number("RX-FRAMES/s"),
        number("RX-BITS/s"),
        number("TX-FRAMES/s"),
        number("TX-BITS/s"),
        number("RX-FRAMES"),
        number("TX-FRAMES"),
        number("DROPS"),
    ];
    let cells = stats.ports.iter().map(|row| {
        [
            row.port.to_string(),
            row.network.clone(),
            row.container.clone(),
            row.iface.clone(),
            short(row.rx_pps),
            short(row.rx_bps),
            short(row.tx_pps),
            short(row.tx_bps),
            row.rx_frames.to_string(),
            row.tx_frames.to_string(),
            row.drops.to_string(),
        ]
    });
    format!("{}\n{}", Table::new(columns, cells), workers(stats))
}

fn workers(stats: &Stats) -> String {
    let columns = [
        number("WORKER"),
        number("RX"),
        number("GENERATED"),
        number("RELEASED"),
        number("FORWARDED"),
        number("FLOODED"),
        number("COPIES"),
        number("LOCAL"),
        number("HELD"),
        number("DROPS"),
        number("BATCHES"),
        number("WAKEUPS"),
        number("SPINS"),
    ];
    let cells = stats.workers.iter().map(|row| {
        [
            u64::from(row.worker),
            row.rx,
            row.generated,
            row.released,
            row.forwarded,
            row.flooded,
            row.copies,
            row.local,
            row.held,
            row.drops,
            row.batches,
            row.wakeups,
            row.spins,
        ]
        .map(|counter| counter.to_string())
    });
    Table::new(columns, cells).to_string()
}

/// What the name server did, on one line.
fn names(counts: &DnsCounts) -> String {
    format!(
        "{} asked by UDP, {} by TCP: {} answered, {} forwarded ({} failed), {} refused, {} without a resolver, \
         {} over quota, {} malformed",
        counts.udp,
        counts.tcp,
        counts.answered,
        counts.forwarded,
        counts.failed,
        counts.refused,
        counts.no_resolver,
        counts.over_quota,
        counts.malformed
    )
}

/// `show status`.
pub fn status(status: &Status) -> String {
    let ports = &status.ports;
    let limits = &status.limits;
    let dns = &status.dns;
    let mut lines = vec![
        ("version", status.version.clone()),
        ("pid", status.pid.to_string()),
        ("engine pid", status.engine_pid.to_string()),
        ("uptime", format!("{} s", status.uptime_s)),
        ("engine restarts", status.engine_restarts.to_string()),
        ("rootless", yes(status.rootless)),
        ("capabilities", status.capabilities.clone()),
        ("kernel", status.kernel.clone()),
        ("io", format!("{} ({})", status.io.engine, status.io.why)),
        ("offloads", status.offloads.taken.join(" ")),
        ("gso writes", yes(status.offloads.gso_writes)),
        ("workers", status.workers.to_string()),
        ("config", status.config.clone()),
        ("generation", status.generation.to_string()),
        (
            "ports",
            format!(
                "{} up, {} down, {} waiting, {} failed",
                ports.up, ports.down, ports.waiting, ports.failed
            ),
        ),
        ("uplink", nat::uplink(&status.uplink)),
        ("resolvers", if dns.resolvers.is_empty() { "none".into() } else { dns.resolvers.join(" ") }),
        ("names", names(&dns.counts)),
        (
            "limits",
            format!(
                "{} ports, {} networks, {} FDB entries, {} open files",
                limits.ports, limits.networks, limits.fdb, limits.open_files
            ),
        ),
    ];
    lines.extend(status.overlay.as_ref().map(|overlay| ("overlay", vxlan::overlay(overlay))));
    list(lines)
}
