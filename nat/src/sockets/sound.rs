//! What a packet must be before a socket gets its payload. The checksums that a router leaves to the receiver are ours
//! to verify: what the socket sends has new ones.

use switch::checksum::{add, pseudo, sum};
use switch::flow::{Csum, Fragment, L3, Packet};
use switch::parse::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};

use super::echo;

/// Whether sockets speak this: TCP, UDP, echo requests, and what may become one of them.
pub(super) fn speaks(packet: &Packet) -> bool {
    let later = packet.meta.fragment == Fragment::Later;
    match (packet.meta.l3, packet.key.proto) {
        // No socket can send from or to port 0, whatever the kernel makes of it.
        (L3::V4 | L3::V6, PROTO_TCP | PROTO_UDP) => later || (packet.key.sport != 0 && packet.key.dport != 0),
        (L3::V4, PROTO_ICMP) | (L3::V6, PROTO_ICMPV6) => later || echo::is_request(&packet.key),
        _ => false,
    }
}

/// Whether the checksums of the packet are right, as far as they are there (RFC 1122 sections 3.2.1.2, 3.2.2, 4.1.3.4;
/// RFC 9293 section 3.1).
pub(super) fn verifies(frame: &[u8], packet: &Packet) -> bool {
    let (key, meta) = (&packet.key, &packet.meta);
    let (l3, l4) = (usize::from(meta.l3_off), usize::from(meta.l4_off));
    if meta.l3 == L3::V4 && sum(frame.get(l3..l4).unwrap_or_default()) != 0xffff {
        return false;
    }
    if meta.csum != Csum::Full || meta.fragment != Fragment::No {
        return true;
    }
    let Some(message) = frame.get(l4..meta.l3_end as usize) else { return false };
    let message = match (key.proto, message.get(4..8)) {
        (PROTO_UDP, Some(&[l0, l1, c0, c1])) => {
            if (c0, c1) == (0, 0) {
                // RFC 768: none was made; RFC 8200 section 8.1: IPv6 has none without.
                return meta.l3 == L3::V4;
            }
            let len = usize::from(u16::from_be_bytes([l0, l1]));
            message.get(..len).unwrap_or_default()
        }
        _ => message,
    };
    let base = match key.proto {
        PROTO_ICMP => 0,
        proto => pseudo(key.src, key.dst, proto, u32::try_from(message.len()).unwrap_or(u32::MAX)),
    };
    add(base, sum(message)) == 0xffff
}
