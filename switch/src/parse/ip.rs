//! IPv4 and IPv6 headers, options, extension headers and fragments.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::array;
use crate::drop::DropReason;
use crate::flow::{Fragment, L3};

/// Next header and protocol numbers that are walked.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Bytes of an IPv6 header.
const V6_LEN: usize = 40;
/// Extension headers of one packet. Real ones have one or two; the bound is what a hostile one may cost.
const MAX_HEADERS: usize = 16;
/// The largest packet a chain of fragments may grow to.
const MAX_PACKET: usize = 65535;

/// The network layer of one packet.
#[derive(Clone, Copy)]
pub(super) struct Net {
    pub l3: L3,
    pub src: Ipv6Addr,
    pub dst: Ipv6Addr,
    pub proto: u8,
    /// Offset of what follows the IP header and its options or extension headers.
    pub l4_off: usize,
    /// Offset of the end of the packet.
    pub end: usize,
    pub ttl: u8,
    pub tos: u8,
    pub df: bool,
    pub fragment: Fragment,
    pub fragment_id: u32,
    /// Bytes of the original packet's payload before this fragment's.
    pub fragment_offset: usize,
    /// Whether it is a fragment or carries a fragment header (an atomic fragment, RFC 6946).
    pub fragment_header: bool,
}

/// The header at `at` of a packet that may reach to `limit`.
#[inline(always)]
pub(super) fn v4(frame: &[u8], at: usize, limit: usize) -> Result<Net, DropReason> {
    const BAD: DropReason = DropReason::MalformedIpv4;
    let header: &[u8; 20] = array(frame, at).ok_or(BAD)?;
    let [first, tos, l0, l1, i0, i1, f0, f1, ttl, proto, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    let header_len = usize::from(first & 0x0f) * 4;
    // A total length of 0 is never a super-frame (BIG TCP): the kernel keeps those away from a TAP, whose
    // `gso_max_size` ends at 65536.
    let total = usize::from(u16::from_be_bytes([l0, l1]));
    let end = at.saturating_add(total);
    // RFC 1812 section 5.2.2.
    if first >> 4 != 4 || header_len < 20 || total < header_len || end > limit {
        return Err(BAD);
    }
    let l4_off = at.saturating_add(header_len);
    if header_len > 20 {
        let options = frame.get(at.saturating_add(20)..l4_off).ok_or(BAD)?;
        v4_options(options)?;
    }
    let flags = u16::from_be_bytes([f0, f1]);
    let fragmented = flags & 0x3fff != 0;
    let piece = Piece {
        offset: usize::from(flags & 0x1fff) * 8,
        more: flags & 0x2000 != 0,
        id: u32::from(u16::from_be_bytes([i0, i1])),
    };
    let fragment = if fragmented {
        piece.kind(total.saturating_sub(header_len), header_len).ok_or(BAD)?
    } else {
        Fragment::No
    };
    Ok(Net {
        l3: L3::V4,
        src: Ipv4Addr::new(s0, s1, s2, s3).to_ipv6_mapped(),
        dst: Ipv4Addr::new(d0, d1, d2, d3).to_ipv6_mapped(),
        proto,
        l4_off,
        end,
        ttl,
        tos,
        df: flags & 0x4000 != 0,
        fragment,
        fragment_id: if fragmented { piece.id } else { 0 },
        fragment_offset: piece.offset,
        fragment_header: fragmented,
    })
}

/// RFC 791 section 3.1: options that do not run over their end, and none that choose the way.
#[cold]
fn v4_options(mut options: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    while let Some((&kind, rest)) = options.split_first() {
        if kind == END {
            break;
        }
        if kind == NO_OPERATION {
            options = rest;
            continue;
        }
        let len = usize::from(rest.first().copied().unwrap_or(0));
        if len < 2 {
            return Err(DropReason::MalformedIpv4);
        }
        options = options.get(len..).ok_or(DropReason::MalformedIpv4)?;
        if matches!(kind, LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE) {
            return Err(DropReason::SourceRoute);
        }
    }
    Ok(())
}

/// The header at `at` of a packet that may reach to `limit`, with its extension headers.
#[inline(always)]
pub(super) fn v6(frame: &[u8], at: usize, limit: usize) -> Result<Net, DropReason> {
    const BAD: DropReason = DropReason::MalformedIpv6;
    let header: &[u8; V6_LEN] = array(frame, at).ok_or(BAD)?;
    let (&[first, second, _, _, l0, l1, next, hop_limit], addresses) =
        header.split_first_chunk::<8>().ok_or(BAD)?;
    let (src, dst) = addresses.split_first_chunk::<16>().ok_or(BAD)?;
    let start = at.saturating_add(V6_LEN);
    // A payload length of 0 is an empty packet, not a jumbogram (RFC 2675): with a hop-by-hop header announced there
    // is no room for it, and the walk below says so. Super-frames of a TAP end at 65535 and have a length.
    let end = start.saturating_add(usize::from(u16::from_be_bytes([l0, l1])));
    if first >> 4 != 6 || end > limit {
        return Err(BAD);
    }
    let (src, dst) = (Ipv6Addr::from(*src), Ipv6Addr::from(*dst.first_chunk().ok_or(BAD)?));
    if is_mapped(src) || is_mapped(dst) {
        return Err(DropReason::MappedAddress);
    }
    let chain = walk(frame.get(..end).ok_or(BAD)?, start, next)?;
    let (mut fragment, mut fragment_id, mut fragment_offset) = (Fragment::No, 0, 0);
    if let Some((piece, data)) = chain.piece
        && (piece.offset != 0 || piece.more)
    {
        // RFC 8200 section 4.5: the reassembled packet has no fragment header.
        let before = data.saturating_sub(start).saturating_sub(8);
        fragment = piece.kind(end.saturating_sub(data), before).ok_or(BAD)?;
        (fragment_id, fragment_offset) = (piece.id, piece.offset);
    }
    Ok(Net {
        l3: L3::V6,
        src,
        dst,
        proto: chain.proto,
        l4_off: chain.l4_off,
        end,
        ttl: hop_limit,
        tos: first << 4 | second >> 4,
        df: true,
        fragment,
        fragment_id,
        fragment_offset,
        fragment_header: chain.piece.is_some(),
    })
}

/// Whether an address of IPv6 would be that of IPv4 in every table (RFC 6890 table 20).
#[inline(always)]
pub(super) const fn is_mapped(address: Ipv6Addr) -> bool {
    address.to_bits() >> 32 == 0xffff
}

/// What a fragment says of itself.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    /// Offset in the original packet, bytes.
    pub offset: usize,
    /// Whether more follow.
    pub more: bool,
    /// Identification.
    pub id: u32,
}

impl Piece {
    /// Which fragment it is, if one of `len` bytes of data makes sense; `before` is what the reassembled packet has in
    /// front of the data, bytes, as far as it counts for its length.
    #[cold]
    fn kind(self, len: usize, before: usize) -> Option<Fragment> {
        // RFC 791 section 3.2, RFC 8200 section 4.5: units of 8 but for the last; never beyond 65535.
        let ragged = self.more && !len.is_multiple_of(8);
        let total = before.checked_add(self.offset)?.checked_add(len)?;
        if len == 0 || ragged || total > MAX_PACKET {
            return None;
        }
        Some(if self.offset == 0 { Fragment::First } else { Fragment::Later })
    }
}

/// Where a chain of extension headers ends.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    pub proto: u8,
    pub l4_off: usize,
    /// What the fragment header says, and where the fragment's data starts.
    pub piece: Option<(Piece, usize)>,
}

/// Walks the chain that starts at `at` with the header `next`, in `packet`, which ends where the IP packet does.
///
/// The options within are not looked at: RFC 8200 section 4 leaves them to the destination. Stops behind the fragment
/// header of a later fragment, where the original packet's middle begins.
#[inline(always)]
pub(super) fn walk(packet: &[u8], at: usize, next: u8) -> Result<Chain, DropReason> {
    if is_extension(next) {
        walk_chain(packet, at, next)
    } else {
        Ok(Chain { proto: next, l4_off: at, piece: None })
    }
}

const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

#[inline(never)]
fn walk_chain(packet: &[u8], mut at: usize, mut next: u8) -> Result<Chain, DropReason> {
    const BAD: DropReason = DropReason::MalformedIpv6;
    let mut piece = None;
    for index in 0..=MAX_HEADERS {
        if !is_extension(next) {
            return Ok(Chain { proto: next, l4_off: at, piece });
        }
        let &[following, len, b2, b3, i0, i1, i2, i3] = array(packet, at).ok_or(BAD)?;
        let size = match next {
            _ if index == MAX_HEADERS => return Err(BAD),
            // RFC 8200 section 4.1: only directly behind the IPv6 header.
            HOP_BY_HOP if index > 0 => return Err(BAD),
            // RFC 5095: deprecated; segments left hide the real destination.
            ROUTING if b2 == 0 && b3 > 0 => return Err(DropReason::SourceRoute),
            FRAGMENT if piece.is_some() => return Err(BAD),
            FRAGMENT => 8,
            // RFC 4302 section 2.2: in units of 4 bytes, minus 2.
            AUTHENTICATION => usize::from(len) * 4 + 8,
            _ => usize::from(len) * 8 + 8,
        };
        at = at.saturating_add(size);
        if at > packet.len() {
            return Err(BAD);
        }
        if next == FRAGMENT {
            let field = u16::from_be_bytes([b2, b3]);
            let offset = usize::from(field & 0xfff8);
            let id = u32::from_be_bytes([i0, i1, i2, i3]);
            piece = Some((Piece { offset, more: field & 1 != 0, id }, at));
            if offset != 0 {
                return Ok(Chain { proto: following, l4_off: at, piece });
            }
        }
        next = following;
    }
    Err(BAD)
}
