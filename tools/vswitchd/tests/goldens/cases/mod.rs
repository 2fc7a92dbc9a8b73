//! What the containers of each case send.

mod bridge;
mod nat;
mod routing;
mod routing6;
mod spoof;
mod wire;

pub use bridge::{
    ageing, fdb_limit, groups, icc_false, learning, same_addresses, snooping, static_entries, storm,
};
pub use nat::nat;
pub use routing::{egress, reverse_path, routing};
pub use routing6::routing6;
pub use spoof::{spoof_claimed, spoof_off, spoof_strict};
pub use wire::{llc_snap, malformed, mtu, reserved, vlan, vlans};

use switch::mac::MacAddr;

use super::frames::{EXPERIMENTAL, IPV4, UDP, ethernet, ipv4, udp};
use super::script::Script;

/// An address that belongs to no container.
const ROAMING: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x77]);

/// A UDP packet from one port to another, as its container would send it.
fn packet(script: &Script<'_>, from: &str, to: &str) -> Vec<u8> {
    packet_of(script, from, to, format!("{from} to {to}").as_bytes())
}

fn packet_of(script: &Script<'_>, from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let packet = ipv4(script.ip(from), script.ip(to), UDP, &udp(payload));
    ethernet(script.mac(to), script.mac(from), IPV4, &packet)
}

/// A frame whose payload nobody looks into.
fn plain(dst: MacAddr, src: MacAddr, payload: &str) -> Vec<u8> {
    ethernet(dst, src, EXPERIMENTAL, payload.as_bytes())
}
