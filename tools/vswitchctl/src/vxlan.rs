//! The overlay: `show vxlan`, and its line of `show status`.

use vswitchd::api::rows::{OverlayStatus, VtepRow};

use crate::show::yes;
use crate::table::{Table, number, words};

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
