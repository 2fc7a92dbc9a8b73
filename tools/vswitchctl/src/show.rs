//! `show`: rows from the daemon as tables or JSON.

use serde::Serialize;
use vswitchd::api::rows::{
    ClusterDetail, ContainerRow, DropRow, FdbRow, GroupRow, LeaseRow, NeighborRow, NetworkDetail, NetworkRow,
    PortRow, RouteRow, Stats, VtepRow,
};

use crate::cli::{Filter, Show};
use crate::client::Client;
use crate::daemon::{stats, status};
use crate::failure::Failure;
use crate::members::{Members, ports_of};
use crate::nat;
use crate::output::json;
use crate::table::{Table, list, number, words};
use crate::vxlan;

/// The table that was asked for, as text.
///
/// # Errors
/// Not reachable, or the daemon said no.
pub fn show(client: &Client, as_json: bool, what: &Show) -> Result<String, Failure> {
    match what {
        Show::Fdb(filter) => {
            let mut rows: Vec<FdbRow> = client.get("/v1/fdb")?;
            rows.retain(|row| filter.wants(&row.network, &row.container));
            rows.sort_by_key(|row| (row.port, row.vlan, row.mac));
            either(as_json, &rows, |rows| fdb(rows))
        }
        Show::Routes(filter) => {
            let mut rows: Vec<RouteRow> = client.get("/v1/routes")?;
            let members = Members::of(client, filter)?;
            rows.retain(|row| members.network(&row.network));
            either(as_json, &rows, |rows| routes(rows))
        }
        Show::Neighbors(filter) => {
            let mut rows: Vec<NeighborRow> = client.get("/v1/neighbors")?;
            rows.retain(|row| filter.wants(&row.network, &row.container));
            either(as_json, &rows, |rows| neighbors(rows))
        }
        Show::Groups(filter) => {
            let mut rows: Vec<GroupRow> = client.get("/v1/groups")?;
            rows.retain(|row| filter.wants(&row.network, &row.container));
            either(as_json, &rows, |rows| groups(rows))
        }
        Show::Vxlan(filter) => {
            let mut rows: Vec<VtepRow> = client.get("/v1/vxlan")?;
            rows.retain(|row| filter.network.as_ref().is_none_or(|wanted| *wanted == row.network));
            either(as_json, &rows, |rows| vxlan::vteps(rows))
        }
        Show::Cluster { members } => {
            let detail: Option<ClusterDetail> = client.get("/v1/cluster")?;
            either(as_json, &detail, |detail| vxlan::cluster(detail.as_ref(), *members))
        }
        Show::Nat(filter) => nat::show_nat(client, as_json, filter),
        Show::Connections(filter) => nat::show_connections(client, as_json, filter),
        Show::Ports(filter) => either(as_json, &ports_of(client, filter)?, |rows| ports(rows)),
        Show::Networks(filter) => {
            let mut rows: Vec<NetworkRow> = client.get("/v1/networks")?;
            let members = Members::of(client, filter)?;
            rows.retain(|row| members.network(&row.name));
            either(as_json, &rows, |rows| networks(rows))
        }
        Show::Containers(filter) => {
            let mut rows: Vec<ContainerRow> = client.get("/v1/containers")?;
            let members = Members::of(client, filter)?;
            rows.retain(|row| members.container(&row.name));
            either(as_json, &rows, |rows| containers(rows))
        }
        Show::Drops { filter, ports, all } => {
            let ports = *ports || filter.is_given();
            let resource = if ports { "/v1/drops?ports=true" } else { "/v1/drops" };
            let mut rows: Vec<DropRow> = client.get(resource)?;
            rows.retain(|row| *all || row.frames > 0);
            rows.retain(|row| row.port.as_ref().is_none_or(|of| filter.wants(&of.network, &of.container)));
            either(as_json, &rows, |rows| if ports { port_drops(rows) } else { drops(rows) })
        }
        Show::Stats { filter, .. } => either(as_json, &sample(client, filter)?, stats),
        Show::Status => either(as_json, &client.get("/v1/status")?, status),
        Show::Config => json(&client.get::<serde_json::Value>("/v1/config")?),
    }
}

/// JSON, or the table.
///
/// # Errors
/// Those of the serialiser.
pub fn either<T: Serialize>(
    as_json: bool,
    rows: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<String, Failure> {
    if as_json { json(rows) } else { Ok(table(rows)) }
}

/// One reading of rates and totals.
///
/// # Errors
/// Not reachable, or the daemon said no.
pub fn sample(client: &Client, filter: &Filter) -> Result<Stats, Failure> {
    let mut stats: Stats = client.get("/v1/stats")?;
    stats.ports.retain(|row| filter.wants(&row.network, &row.container));
    Ok(stats)
}

pub fn or_dash<T: ToString>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".to_owned(), T::to_string)
}

pub fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// `show fdb`.
pub fn fdb(rows: &[FdbRow]) -> String {
    let columns = [
        number("PORT"),
        number("VLAN"),
        words("MAC"),
        number("AGE"),
        words("NETWORK"),
        words("CONTAINER"),
        words("IFACE"),
        words("TYPE"),
    ];
    let cells = rows.iter().map(|row| {
        [
            row.port.to_string(),
            row.vlan.to_string(),
            row.mac.to_string(),
            or_dash(row.age.as_ref()),
            row.network.clone(),
            row.container.clone(),
            row.iface.clone(),
            row.r#type.to_string(),
        ]
    });
    Table::new(columns, cells).to_string()
}

/// `show routes`; how large packets may be only where a route says that.
pub fn routes(rows: &[RouteRow]) -> String {
    let [network, destination, via, to, kind] =
        [words("NETWORK"), words("DESTINATION"), words("VIA"), words("TO"), words("TYPE")];
    let hops = |row: &RouteRow| row.via.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let cells = |row: &RouteRow| {
        [
            row.network.clone(),
            row.destination.to_string(),
            hops(row),
            or_dash(row.to.as_ref()),
            row.r#type.to_string(),
        ]
    };
    if rows.iter().all(|row| row.mtu.is_none()) {
        return Table::new([network, destination, via, to, kind], rows.iter().map(cells)).to_string();
    }
    let columns = [network, destination, via, to, number("MTU"), kind];
    let cells = rows.iter().map(|row| {
        let [network, destination, via, to, kind] = cells(row);
        [network, destination, via, to, or_dash(row.mtu.as_ref()), kind]
    });
    Table::new(columns, cells).to_string()
}

/// `show neighbors`.
pub fn neighbors(rows: &[NeighborRow]) -> String {
    let columns = [
        words("NETWORK"),
        words("ADDRESS"),
        words("MAC"),
        number("AGE"),
        words("STATE"),
        number("PORT"),
        words("CONTAINER"),
        words("IFACE"),
    ];
    let cells = rows.iter().map(|row| {
        [
            row.network.clone(),
            row.address.to_string(),
            row.mac.to_string(),
            row.age.to_string(),
            row.state.to_string(),
            row.port.to_string(),
            row.container.clone(),
            row.iface.clone(),
        ]
    });
    Table::new(columns, cells).to_string()
}

/// `show groups`.
pub fn groups(rows: &[GroupRow]) -> String {
    let columns = [
        number("VLAN"),
        words("GROUP"),
        number("PORT"),
        number("AGE"),
        words("NETWORK"),
        words("CONTAINER"),
        words("IFACE"),
        words("TYPE"),
    ];
    let named = |name: &String| if name.is_empty() { "-".to_owned() } else { name.clone() };
    let cells = rows.iter().map(|row| {
        [
            row.vlan.to_string(),
            row.group.to_string(),
            or_dash(row.port.as_ref()),
            row.age.to_string(),
            row.network.clone(),
            named(&row.container),
            named(&row.iface),
            row.r#type.to_string(),
        ]
    });
    Table::new(columns, cells).to_string()
}

/// `show ports`.
pub fn ports(rows: &[PortRow]) -> String {
    let columns = [
        number("PORT"),
        words("NETWORK"),
        words("CONTAINER"),
        words("IFACE"),
        words("MAC"),
        words("ADDRESSES"),
        words("VLAN"),
        words("ISOLATED"),
        words("STATE"),
        number("MTU"),
        words("IO"),
        words("GSO"),
        number("RX-FRAMES"),
        number("RX-BYTES"),
        number("TX-FRAMES"),
        number("TX-BYTES"),
        number("DROPS"),
        words("REASON"),
    ];
    let cells = rows.iter().map(|row| {
        [
            or_dash(row.port.as_ref()),
            row.network.clone(),
            row.container.clone(),
            row.iface.clone(),
            row.mac.to_string(),
            addresses(row),
            vlans(row),
            yes(row.isolated),
            row.state.to_string(),
            row.mtu.to_string(),
            row.io.clone(),
            row.gso.to_string(),
            row.rx_frames.to_string(),
            row.rx_bytes.to_string(),
            row.tx_frames.to_string(),
            row.tx_bytes.to_string(),
            row.drops.to_string(),
            or_dash(row.reason.as_ref()),
        ]
    });
    Table::new(columns, cells).to_string()
}

/// Addresses of a port, with commas.
pub fn addresses(row: &PortRow) -> String {
    let addresses: Vec<_> = row.addresses.iter().map(ToString::to_string).collect();
    addresses.join(",")
}

/// The VLANs of a port: `-` all, tagged; `10` untagged; `trunk:10,20-29` tagged; `trunk:20/native:10` both.
fn vlans(row: &PortRow) -> String {
    let mut spans: Vec<(u16, u16)> = Vec::new();
    for vid in &row.trunk {
        match spans.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*vid) => *last = *vid,
            _ => spans.push((*vid, *vid)),
        }
    }
    let span = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let trunk = spans.iter().map(span).collect::<Vec<_>>().join(",");
    match (row.vlan, trunk.as_str()) {
        (native, "") => or_dash(native.as_ref()),
        (None, trunk) => format!("trunk:{trunk}"),
        (Some(native), trunk) => format!("trunk:{trunk}/native:{native}"),
    }
}

/// `show networks` and `network ls`.
pub fn networks(rows: &[NetworkRow]) -> String {
    let columns = [
        words("NAME"),
        words("SUBNET"),
        number("VLAN"),
        number("MTU"),
        words("ICC"),
        words("SPOOF"),
        number("AGEING"),
        number("FDB"),
        number("STORM"),
        number("PORTS"),
        words("ORIGIN"),
    ];
    let cells = rows.iter().map(|row| {
        [
            row.name.clone(),
            subnets(row),
            or_dash(row.vlan.as_ref()),
            row.mtu.to_string(),
            yes(row.icc),
            row.spoof.to_string(),
            row.ageing.to_string(),
            format!("{}/{}", row.fdb_used, row.fdb_limit),
            row.storm.to_string(),
            row.ports.to_string(),
            row.origin.to_string(),
        ]
    });
    Table::new(columns, cells).to_string()
}

fn subnets(row: &NetworkRow) -> String {
    let subnets: Vec<_> =
        [row.subnet, row.subnet6].into_iter().flatten().map(|net| net.to_string()).collect();
    subnets.join(",")
}

/// `network inspect`.
pub fn network(detail: &NetworkDetail) -> String {
    let row = &detail.network;
    let head = list([
        ("name", row.name.clone()),
        ("subnet", subnets(row)),
        ("vlan", or_dash(row.vlan.as_ref())),
        ("mtu", row.mtu.to_string()),
        ("icc", yes(row.icc)),
        ("spoof", row.spoof.to_string()),
        ("transparent", yes(row.transparent)),
        ("snooping", yes(row.snooping)),
        ("ageing", row.ageing.to_string()),
        ("storm", row.storm.to_string()),
        ("origin", row.origin.to_string()),
    ]);
    let fdb = &detail.fdb;
    let counters = list([
        ("current/max FDB entries", format!("{}/{}", fdb.current, fdb.max)),
        ("static", fdb.r#static.to_string()),
        ("learned", fdb.learned.to_string()),
        ("moved", fdb.moved.to_string()),
        ("expired", fdb.expired.to_string()),
        ("evicted", fdb.evicted.to_string()),
        ("refused", fdb.refused.to_string()),
    ]);
    let addresses = detail.addresses.map_or_else(String::new, |of| {
        let rows = [
            ("addresses used/room", format!("{}/{}", of.used, of.room)),
            ("free", of.free.to_string()),
            ("of them resting", of.resting.to_string()),
        ];
        format!("\n{}", list(rows))
    });
    let leases =
        if detail.leases.is_empty() { String::new() } else { format!("\n{}", leases(&detail.leases)) };
    format!("{head}\n{}{leases}{addresses}\n{counters}", ports(&detail.interfaces))
}

fn leases(rows: &[LeaseRow]) -> String {
    let columns = [
        words("ADDRESS"),
        words("MAC"),
        words("CLIENT"),
        words("CONTAINER"),
        words("IFACE"),
        number("LEFT"),
        words("STATE"),
    ];
    let cells = rows.iter().map(|row| {
        [
            row.address.to_string(),
            row.mac.to_string(),
            row.client.clone(),
            row.container.clone(),
            row.iface.clone(),
            row.left.to_string(),
            row.state.to_string(),
        ]
    });
    Table::new(columns, cells).to_string()
}

/// `show containers`.
pub fn containers(rows: &[ContainerRow]) -> String {
    let columns = [
        words("NAME"),
        words("NETNS"),
        words("STATE"),
        words("INTERFACES"),
        words("COMMAND"),
        words("ORIGIN"),
        words("REASON"),
    ];
    let cells = rows.iter().map(|row| {
        [
            row.name.clone(),
            row.netns.clone(),
            row.state.to_string(),
            row.interfaces.join(","),
            or_dash(row.command.as_ref()),
            row.origin.to_string(),
            or_dash(row.reason.as_ref()),
        ]
    });
    Table::new(columns, cells).to_string()
}

/// `show drops`.
pub fn drops(rows: &[DropRow]) -> String {
    let cells = rows.iter().map(|row| [row.reason.clone(), row.frames.to_string(), row.explanation.clone()]);
    Table::new([words("REASON"), number("FRAMES"), words("EXPLANATION")], cells).to_string()
}

/// `show drops --ports`.
pub fn port_drops(rows: &[DropRow]) -> String {
    let columns = [
        number("PORT"),
        words("NETWORK"),
        words("CONTAINER"),
        words("IFACE"),
        words("REASON"),
        number("FRAMES"),
        words("EXPLANATION"),
    ];
    let cells = rows.iter().map(|row| {
        let port = row.port.as_ref();
        [
            or_dash(port.map(|port| port.port).as_ref()),
            port.map(|port| port.network.clone()).unwrap_or_default(),
            port.map(|port| port.container.clone()).unwrap_or_default(),
            port.map(|port| port.iface.clone()).unwrap_or_default(),
            row.reason.clone(),
            row.frames.to_string(),
            row.explanation.clone(),
        ]
    });
    Table::new(columns, cells).to_string()
}
