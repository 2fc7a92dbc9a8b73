//! Published l4 ports and connections: `show nat`, `show connections`, `publish`, `unpublish`.

use std::net::IpAddr;

use clap::Args;
use vswitchd::api::rows::{ConnectionRow, Done, NatRow, Transport, UplinkGateway, UplinkPort, UplinkStatus};
use vswitchd::api::{ConnectionFilter, Publishing};
use vswitchd::config::Publish;

use crate::act::lines;
use crate::client::{Client, segment};
use crate::failure::Failure;
use crate::show::{either, or_dash};
use crate::table::{Table, number, short, words};

/// Which rows of `show nat` and `show connections`.
#[derive(Debug, Args)]
pub struct Filter {
    /// Of this container only
    #[arg(long)]
    pub container: Option<String>,
    /// That speak this only: tcp, udp, icmp, icmp6, sctp or other
    #[arg(long)]
    pub protocol: Option<Transport>,
    /// With this l4 port on either side only
    #[arg(long)]
    pub port: Option<u16>,
}

/// What is to be published, or not any more.
#[derive(Debug, Args)]
pub struct Entries {
    /// The container
    pub container: String,
    /// `[ADDRESS:]HOST[-LAST]:CONTAINER[-LAST][/tcp|/udp|/sctp]`; `HOST` 0 is a free one
    #[arg(required = true, value_name = "ENTRY")]
    pub publish: Vec<Publish>,
    /// The interface [default: the first where it can be]
    #[arg(long)]
    pub interface: Option<String>,
}

impl From<Entries> for Publishing {
    fn from(entries: Entries) -> Self {
        Self { container: entries.container, interface: entries.interface, publish: entries.publish }
    }
}

/// `publish`: prints what was given.
///
/// # Errors
/// Not reachable, or the daemon said no.
pub fn publish(client: &Client, as_json: bool, entries: Entries) -> Result<String, Failure> {
    let rows: Vec<NatRow> = client.post("/v1/publish", &Publishing::from(entries))?;
    either(as_json, &rows, |rows| nat(rows))
}

/// `unpublish`.
///
/// # Errors
/// Not reachable, or the daemon said no.
pub fn unpublish(client: &Client, as_json: bool, entries: Entries) -> Result<String, Failure> {
    let done: Done = client.delete("/v1/publish", &Publishing::from(entries))?;
    either(as_json, &done, lines)
}

/// `show nat`.
///
/// # Errors
/// Not reachable, or the daemon said no.
pub fn show_nat(client: &Client, as_json: bool, filter: &Filter) -> Result<String, Failure> {
    let mut rows: Vec<NatRow> = client.get("/v1/nat")?;
    rows.retain(|row| {
        filter.container.as_ref().is_none_or(|container| *container == row.container)
            && filter.protocol.is_none_or(|protocol| protocol.to_string() == row.protocol)
            && filter.port.is_none_or(|port| holds(&row.ports, port) || holds(&row.target_ports, port))
    });
    either(as_json, &rows, |rows| nat(rows))
}

/// Whether `8080` or `9000-9010` holds an l4 port.
fn holds(ports: &str, port: u16) -> bool {
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |text: &str| text.parse::<u16>().ok();
    number(first).zip(number(last)).is_some_and(|(first, last)| (first..=last).contains(&port))
}

/// `show connections`.
///
/// # Errors
/// Not reachable, or the daemon said no.
pub fn show_connections(client: &Client, as_json: bool, filter: &Filter) -> Result<String, Failure> {
    let filter = ConnectionFilter {
        container: filter.container.clone(),
        protocol: filter.protocol,
        port: filter.port,
    };
    let mut query = Vec::new();
    query.extend(filter.container.map(|container| format!("container={}", segment(&container))));
    query.extend(filter.protocol.map(|protocol| format!("protocol={protocol}")));
    query.extend(filter.port.map(|port| format!("port={port}")));
    let mark = if query.is_empty() { "" } else { "?" };
    let rows: Vec<ConnectionRow> = client.get(&format!("/v1/connections{mark}{}", query.join("&")))?;
    either(as_json, &rows, |rows| connections(rows))
}

/// The table of published l4 ports.
pub fn nat(rows: &[NatRow]) -> String {
    let columns = [
        words("PROTO"),
        words("ADDRESS"),
        words("PORTS"),
        words("CONTAINER"),
        words("IFACE"),
        words("TARGET"),
        words("STATE"),
        number("CLIENTS"),
        words("ORIGIN"),
        words("REASON"),
    ];
    let cells = rows.iter().map(|row| {
        [
            row.protocol.clone(),
            row.address.map_or_else(|| "*".to_owned(), |address| address.to_string()),
            row.ports.clone(),
            row.container.clone(),
            row.iface.clone(),
            target(row),
            row.state.to_string(),
            row.clients.to_string(),
            row.origin.to_string(),
            or_dash(row.reason.as_ref()),
        ]
    });
    Table::new(columns, cells).to_string()
}

fn target(row: &NatRow) -> String {
    match row.target {
        Some(IpAddr::V6(v6)) => format!("[{v6}]:{}", row.target_ports),
        Some(IpAddr::V4(v4)) => format!("{v4}:{}", row.target_ports),
        None => format!("-:{}", row.target_ports),
    }
}

/// The table of connections.
pub fn connections(rows: &[ConnectionRow]) -> String {
    let columns = [
        words("PROTO"),
        words("DIR"),
        words("CONTAINER"),
        words("SOURCE"),
        words("DESTINATION"),
        words("LOCAL"),
        words("PEER"),
        words("STATE"),
        number("IDLE"),
        number("BYTES-OUT"),
        number("BYTES-IN"),
    ];
    let cells = rows.iter().map(|row| {
        [
            row.protocol.to_string(),
            row.direction.to_string(),
            row.container.clone(),
            row.source.to_string(),
            row.destination.to_string(),
            or_dash(row.local.as_ref()),
            or_dash(row.peer.as_ref()),
            row.state.clone(),
            row.idle.to_string(),
            short(row.bytes_out),
            short(row.bytes_in),
        ]
    });
    Table::new(columns, cells).to_string()
}

/// The way out in `show status`.
pub fn uplink(status: &UplinkStatus) -> String {
    let counters = status.counters.iter().filter(|(_, count)| **count > 0);
    let counters: Vec<_> = counters.map(|(name, count)| format!("{name} {count}")).collect();
    let mut text = status.kind.clone();
    for address in &status.addresses {
        text.push_str(&format!(" {address}"));
    }
    for UplinkGateway { address, known } in &status.gateways {
        text.push_str(&format!(" via {address}{}", if *known { "" } else { " (silent)" }));
    }
    if let Some(UplinkPort { iface, state, reason }) = &status.port {
        text.push_str(&format!("; {iface} {state}"));
        text.extend(reason.iter().map(|reason| format!(": {reason}")));
    }
    if status.max_connections > 0 {
        text.push_str(&format!("; {} of {} connections", status.connections, status.max_connections));
    }
    for part in status.ping.iter().chain(Some(&counters.join(", ")).filter(|_| !counters.is_empty())) {
        text.push_str("; ");
        text.push_str(part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use vswitchd::api::rows::PortState;

    #[test]
    fn an_uplink_that_takes_packets_says_where() {
        let gateway = |address: &str, known| UplinkGateway { address: address.parse().unwrap(), known };
        let status = UplinkStatus {
            kind: "tap".into(),
            addresses: vec!["198.18.0.10".parse().unwrap(), "fd00:9::10".parse().unwrap()],
            gateways: vec![gateway("198.18.0.1", true), gateway("fd00:9::1", false)],
            port: Some(UplinkPort {
                iface: "vsw0".into(),
                state: PortState::Down,
                reason: Some("pulled".into()),
            }),
            max_connections: 9,
            ..UplinkStatus::default()
        };
        assert_eq!(
            uplink(&status),
            "tap 198.18.0.10 fd00:9::10 via 198.18.0.1 via fd00:9::1 (silent); vsw0 down: pulled; 0 of 9 connections"
        );
    }

    #[test]
    fn a_range_holds_its_l4_ports() {
        assert!(holds("8080", 8080) && !holds("8080", 80));
        assert!(holds("9000-9010", 9010) && !holds("9000-9010", 9011) && !holds("x", 0));
    }
}
