//! ICMP and ICMPv6 as a router speaks them: errors, echo, and how much of both.

pub mod echo;
pub mod error;
pub mod limit;

use std::net::{Ipv4Addr, Ipv6Addr};

use switch::flow::{L3, Packet};

/// Why nothing is sent. Each is a silent drop, with its reason counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The packet is not IP, or the address to speak from is of the other family.
    #[error("not IP, or of another family than the address to speak from")]
    Family,
    /// Its IPv4 header checksum is wrong.
    #[error("wrong IPv4 header checksum")]
    BadHeader,
    /// It is an ICMP error, a redirect, or an ICMP message that we do not know.
    #[error("about an ICMP error, a redirect or an unknown ICMP message")]
    AboutIcmp,
    /// It is a fragment of which we may not, or cannot, speak.
    #[error("about a fragment")]
    Fragment,
    /// Its frame was a broadcast or multicast, or came from a group address.
    #[error("to or from a group MAC address")]
    GroupMac,
    /// It was sent to a broadcast or multicast address.
    #[error("to a broadcast or multicast address")]
    GroupDestination,
    /// Its source is not one host, or is our own address.
    #[error("source address is not one host's")]
    BadSource,
    /// Its ICMP checksum is wrong.
    #[error("wrong ICMP checksum")]
    BadChecksum,
    /// It is no echo request.
    #[error("no echo request")]
    NotEcho,
    /// The output buffer is too short, or the frame is not the one that was parsed.
    #[error("no room for the message")]
    NoRoom,
}

/// Whether the source of `packet` is a single host, as far as anyone who has `ours` in a subnet of `prefix_len` bits
/// can say.
fn is_one_host(packet: &Packet, ours: Ipv6Addr, prefix_len: u8) -> bool {
    let src = packet.key.src;
    if src == ours {
        return false;
    }
    match (packet.meta.l3, src.to_ipv4_mapped()) {
        // RFC 1122 section 3.2.2: zero, loopback, broadcast, multicast, class E.
        (L3::V4, Some(src)) => {
            let [first, ..] = src.octets();
            !matches!(first, 0 | 127 | 224..) && !is_directed_broadcast(src, ours, prefix_len)
        }
        // RFC 4443 section 2.4 (e.6). A v4-mapped source belongs to no packet (RFC 6890 table 20).
        (L3::V6, None) => {
            let group = src.is_unspecified() || src.is_loopback() || src.is_multicast();
            !group && !is_router_anycast(src, ours, prefix_len)
        }
        _ => false,
    }
}

/// Whether `address` is the broadcast address of the subnet of `ours`; of 31 and 32 bits there is none (RFC 3021).
fn is_directed_broadcast(address: Ipv4Addr, ours: Ipv6Addr, prefix_len: u8) -> bool {
    let Some(ours) = ours.to_ipv4_mapped().filter(|_| (1..=30).contains(&prefix_len)) else { return false };
    let host = u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
    address.to_bits() == ours.to_bits() | host
}

/// Whether `address` is the subnet-router anycast address of the subnet of `ours` (RFC 4291 section 2.6.1); of 127
/// and 128 bits there is none (RFC 6164).
fn is_router_anycast(address: Ipv6Addr, ours: Ipv6Addr, prefix_len: u8) -> bool {
    let host = u128::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
    (1..=126).contains(&prefix_len) && address.to_bits() == ours.to_bits() & !host
}
