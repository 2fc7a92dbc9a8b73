//! The overlay: `show vxlan`, and its line of `show status`.

use vswitchd::api::rows::{ClusterDetail, ClusterMemberRow, ClusterNetworkRow, OverlayStatus, VtepRow};

use crate::show::{or_dash, yes};
use crate::table::{Table, list, number, words};

/// `show vxlan`.
pub fn vteps(rows: &[VtepRow]) -> String {
    let columns = [
        words("NETWORK"),
        number("VNI"),
        words("VTEP"),
        number("PORT"),
        words("TOLD"),
        words("FLOOD"),
        number("MACS"),
        number("MTU"),
        number("AGE"),
        number("RX_FRAMES"),
        number("TX_FRAMES"),
        number("DROPS"),
    ];
    let cells = rows.iter().map(|row| {
        [
            row.network.clone(),
            row.vni.to_string(),
            row.vtep.to_string(),
            row.port.to_string(),
            row.told.to_string(),
            yes(row.flood),
            row.macs.to_string(),
            row.mtu.to_string(),
            row.age.to_string(),
            row.rx_frames.to_string(),
            row.tx_frames.to_string(),
            row.drops.to_string(),
        ]
    });
    Table::new(columns, cells).to_string()
}

/// The overlay, on one line.
pub fn overlay(status: &OverlayStatus) -> String {
    let OverlayStatus { local, port, failed, mtu, udp_gso, udp_gso_why, datagrams, reserved, too_big } =
        status;
    if let Some(reason) = failed {
        return format!("none: {reason}");
    }
    format!(
        "vxlan at {local} port {port}, MTU {mtu}, many datagrams at once: {} ({udp_gso_why}); {datagrams} datagrams received \
         ({reserved} with reserved bits), {too_big} frames were too big for a path",
        yes(*udp_gso)
    )
}

/// `show cluster`; with `members` everybody, who may be many thousands, and else how many there are.
pub fn cluster(cluster: Option<&ClusterDetail>, members: bool) -> String {
    let Some(cluster) = cluster else { return "no [cluster] in the configuration\n".into() };
    let mut text = list([
        ("this host", cluster.name.clone()),
        ("store", format!("{}: {}", cluster.state, cluster.store)),
        ("since", cluster.since.map_or_else(|| "-".into(), |seconds| format!("{seconds} s"))),
        ("held", cluster.held.map_or_else(|| "-".into(), |seconds| format!("{seconds} s more"))),
        ("refused", cluster.refused_total.to_string()),
    ]);
    let columns = [words("HOST"), words("VTEP"), number("MEMBERS"), number("AGE"), words("STATE")];
    let cells = cluster.hosts.iter().map(|row| {
        let state = match (row.me, row.held) {
            (true, _) => "this",
            (_, true) => "held",
            _ => "there",
        };
        [row.host.clone(), row.vtep.to_string(), row.members.to_string(), row.age.to_string(), state.into()]
    });
    text += &format!("\n{}", Table::new(columns, cells));
    if !cluster.networks.is_empty() {
        text += &format!("\n{}", networks(&cluster.networks));
    }
    if members {
        text += &format!("\n{}", everybody(&cluster.members));
    }
    if !cluster.refused.is_empty() {
        let cells = cluster.refused.iter().map(|row| [row.key.clone(), row.why.clone()]);
        text += &format!("\n{}", Table::new([words("REFUSED"), words("WHY")], cells));
    }
    text
}

fn networks(rows: &[ClusterNetworkRow]) -> Table<6> {
    let columns = [
        words("NETWORK"),
        number("VNI"),
        words("SUBNET"),
        words("SUBNET6"),
        number("HOSTS"),
        number("MEMBERS"),
    ];
    let cells = rows.iter().map(|row| {
        [
            row.network.clone(),
            row.vni.to_string(),
            or_dash(row.subnet.as_ref()),
            or_dash(row.subnet6.as_ref()),
            row.hosts.to_string(),
            row.members.to_string(),
        ]
    });
    Table::new(columns, cells)
}

fn everybody(rows: &[ClusterMemberRow]) -> Table<7> {
    let columns = [
        number("VNI"),
        words("MAC"),
        words("ADDRESSES"),
        words("NAMES"),
        words("HOST"),
        words("VTEP"),
        number("AGE"),
    ];
    let all = |addresses: &[std::net::IpAddr]| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    };
    let cells = rows.iter().map(|row| {
        [
            row.vni.to_string(),
            row.mac.to_string(),
            all(&row.addresses),
            row.names.join(","),
            row.host.clone(),
            row.vtep.to_string(),
            row.age.to_string(),
        ]
    });
    Table::new(columns, cells)
}
