//! The offload fields of the virtio header, believed only where they agree with the frame.
//!
//! A container can write any of them through `AF_PACKET` with `PACKET_VNET_HDR`, and the kernel hands them on.

use super::ip::Net;
use super::l4::L4;
use super::{PROTO_TCP, PROTO_UDP};
use crate::drop::DropReason;
use crate::flow::{Csum, Gso, L3};
use crate::vnet::VnetHdr;

const BAD: DropReason = DropReason::BadOffload;
/// Offset of the checksum in a TCP header.
const TCP_FIELD: u16 = 16;
/// Offset of the checksum in a UDP header.
const UDP_FIELD: u16 = 6;
/// Offset of the checksum in a GRE header that has one (RFC 2784 section 2.1).
const GRE_FIELD: u16 = 4;
const PROTO_IPIP: u8 = 4;
const PROTO_IPV6: u8 = 41;
const PROTO_GRE: u8 = 47;
/// SYN and RST are never parts of a super-frame: it would be many of them.
const SYN_OR_RST: u8 = 0x06;
/// Linux sends no smaller TCP segments of its own, options counted in (`tcp_min_snd_mss`).
const TCP_SIZE_MIN: usize = 48;
/// Smaller ones come from GRO, which merges what one interrupt brought of a chat of small writes: one NAPI poll at
/// most. More is an attempt to make one frame into tens of thousands.
const TCP_SMALL_SEGMENTS_MAX: usize = 64;
/// `UDP_MAX_SEGMENTS` of Linux 6.9 and later (64 before).
const UDP_SEGMENTS_MAX: usize = 128;

/// What the header says of a frame of `frame_len` bytes.
#[inline(always)]
pub(super) fn validate(
    vnet: &VnetHdr,
    frame_len: usize,
    llc: bool,
    net: Net,
    l4: L4,
) -> Result<(Gso, Csum), DropReason> {
    if vnet.flags & !(VnetHdr::NEEDS_CSUM | VnetHdr::DATA_VALID) != 0 {
        return Err(BAD);
    }
    let csum = if vnet.needs_csum() {
        // The kernel completes a checksum before it fragments, and knows no offload behind LLC.
        if llc || net.fragment_header {
            return Err(BAD);
        }
        partial(vnet, net, l4).ok_or(BAD)?
    } else if vnet.flags & VnetHdr::DATA_VALID != 0 {
        Csum::Verified
    } else {
        Csum::Full
    };
    let gso = if vnet.is_gso() {
        // Bytes behind the packet would become payload of the last segment; a checksum that is not partial cannot be
        // that of every segment.
        if net.end != frame_len || csum != Csum::Partial {
            return Err(BAD);
        }
        super_frame(vnet, net, l4).ok_or(BAD)?
    } else {
        Gso::None
    };
    Ok((gso, csum))
}

/// Where the partial checksum is. Only TCP and UDP have one of their own here: SCTP's is a CRC (a TAP has no
/// `NETIF_F_SCTP_CRC`, so the kernel completes it) and ICMPv6 is always sent whole.
#[inline(always)]
fn partial(vnet: &VnetHdr, net: Net, l4: L4) -> Option<Csum> {
    let start = usize::from(vnet.csum_start.get());
    let offset = vnet.csum_offset.get();
    match net.proto {
        // A TCP or UDP packet inside UDP has its own field at the same offset, so the start decides.
        PROTO_TCP if start == net.l4_off => (offset == TCP_FIELD).then_some(Csum::Partial),
        // The kernel sums to the end of the packet, so a shorter UDP length has no meaning here.
        PROTO_UDP if start == net.l4_off => {
            (offset == UDP_FIELD && l4.end == net.end && l4.headers_end <= l4.end).then_some(Csum::Partial)
        }
        PROTO_UDP | PROTO_GRE | PROTO_IPIP | PROTO_IPV6 => inner(vnet, net.proto, l4.headers_end, net.end),
        _ => None,
    }
}

/// A container that tunnels leaves the checksum of the inner packet to us: since 6.17 a TAP has `hw_enc_features`.
/// (Seen on 6.18: TCP in VXLAN comes with `csum_start` 84.) The outer packet is an ordinary one.
#[cold]
fn inner(vnet: &VnetHdr, proto: u8, headers_end: usize, end: usize) -> Option<Csum> {
    let (start, offset) = (vnet.csum_start.get(), vnet.csum_offset.get());
    let known = matches!(offset, TCP_FIELD | UDP_FIELD) || (proto == PROTO_GRE && offset == GRE_FIELD);
    let field = start.checked_add(offset)?;
    let inside = usize::from(start) >= headers_end && usize::from(field) + 2 <= end;
    (known && inside).then_some(Csum::Inner { start, field })
}

/// What it is a super-frame of; nothing where the payload fits in one segment, as in the kernel.
#[inline(always)]
fn super_frame(vnet: &VnetHdr, net: Net, l4: L4) -> Option<Gso> {
    let size = vnet.gso_size.get();
    // 0xffff is the kernel's GSO_BY_FRAGS.
    if size == 0 || size == 0xffff {
        return None;
    }
    let payload = net.end.checked_sub(l4.headers_end)?;
    let count = payload.div_ceil(usize::from(size));
    let gso = match (vnet.gso_kind(), net.l3, net.proto) {
        (VnetHdr::GSO_TCPV4, L3::V4, PROTO_TCP) | (VnetHdr::GSO_TCPV6, L3::V6, PROTO_TCP) => {
            let many = usize::from(size) < TCP_SIZE_MIN && count > TCP_SMALL_SEGMENTS_MAX;
            if many || l4.tcp.is_none_or(|tcp| tcp.flags & SYN_OR_RST != 0) {
                return None;
            }
            Gso::Tcp { size }
        }
        // ECN is TCP's.
        (VnetHdr::GSO_UDP_L4, L3::V4 | L3::V6, PROTO_UDP) if vnet.gso_type == VnetHdr::GSO_UDP_L4 => {
            if count > UDP_SEGMENTS_MAX {
                return None;
            }
            Gso::Udp { size }
        }
        _ => return None,
    };
    Some(if count > 1 { gso } else { Gso::None })
}
