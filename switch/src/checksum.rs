//! Internet checksums (RFC 1071): sums, incremental updates (RFC 1624), and completing what an offload left open.
//!
//! A *full* field holds the complement of the sum over pseudo-header, header and payload. A *partial* one
//! (`NEEDS_CSUM`) holds the uncomplemented sum of the pseudo-header alone; the rest is added by whoever needs it:
//!
//! | change | full | partial |
//! |---|---|---|
//! | IP address | `HC' = ~(~HC + ~m + m')` | `f' = f + ~m + m'` |
//! | l4 port, or anything else in the L4 packet | the same as above | nothing |
//! | UDP field 0 | stays 0: no checksum | 0 is a sum like any other |
//! | UDP result 0 | 0xffff | as it is |

use std::net::Ipv6Addr;

use crate::flow::{Csum, Gso, Meta};
use crate::parse::PROTO_UDP;
use crate::sys::wide;

/// Offset of the checksum in a TCP header, bytes.
const TCP_FIELD: usize = 16;
/// Offset of the checksum in a UDP header, bytes.
const UDP_FIELD: usize = 6;

/// Ones'-complement sum of two words, with the end-around carry.
#[inline]
pub const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum.wrapping_add(carry as u16)
}

/// The folded, uncomplemented sum of `bytes` as big-endian words; an odd last byte counts as followed by 0.
pub fn sum(bytes: &[u8]) -> u16 {
    // The sum is the same in either byte order but for a swap at the end (RFC 1071 section 2 B), and eight bytes at a
    // time are four words at a time.
    let (words, tail) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(tail) {
        *to = *from;
    }
    let total = wide::total(words).wrapping_add(wide::total(&[last]));
    u16::from_be(fold(total))
}

/// Adds the four words of `total` to one.
const fn fold(total: u64) -> u16 {
    let low = add(total as u16, (total >> 16) as u16);
    let high = add((total >> 32) as u16, (total >> 48) as u16);
    add(low, high)
}

/// The sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1); `length` in bytes, of L4 header and
/// payload.
///
/// IPv4 addresses are given v4-mapped: the prefix is 0xffff, which is 0 in ones' complement.
pub fn pseudo(src: Ipv6Addr, dst: Ipv6Addr, proto: u8, length: u32) -> u16 {
    let addresses = add(sum(&src.octets()), sum(&dst.octets()));
    let length = add(length as u16, (length >> 16) as u16);
    add(addresses, add(u16::from(proto), length))
}

/// What a change of some words adds to a sum: `~m + m'` over all of them. Computed once for a flow, applied to each of
/// its packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const NONE: Self = Self(0);

    /// One word becomes another, at an even offset of the packet.
    pub const fn word(old: u16, new: u16) -> Self {
        Self(add(!old, new))
    }

    /// One address becomes another of the same family.
    pub fn address(old: Ipv6Addr, new: Ipv6Addr) -> Self {
        Self(add(!sum(&old.octets()), sum(&new.octets())))
    }

    /// The change back.
    #[must_use]
    pub const fn reversed(self) -> Self {
        // No change is written as 0, not as its other form.
        Self(if self.0 == 0 { 0 } else { !self.0 })
    }

    /// As a word, to be kept in a table.
    pub const fn to_u16(self) -> u16 {
        self.0
    }

    /// The inverse of [`Delta::to_u16`].
    pub const fn from_u16(word: u16) -> Self {
        Self(word)
    }

    /// Both changes.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(add(self.0, other.0))
    }

    /// The full checksum `field` after the change (RFC 1624 equation 3). Not for UDP: see [`rewrite`].
    pub const fn full(self, field: u16) -> u16 {
        !add(!field, self.0)
    }

    /// The partial checksum `field` after the change.
    pub const fn partial(self, field: u16) -> u16 {
        add(field, self.0)
    }
}

/// The L4 checksum `field` after a rewrite: `address` is what changed in the pseudo-header ([`Delta::NONE`] for ICMP,
/// which has none in IPv4), `l4` what changed in the L4 packet itself.
///
/// Never lowers `csum`: a partial field stays partial.
pub const fn rewrite(field: u16, csum: Csum, proto: u8, address: Delta, l4: Delta) -> u16 {
    match csum {
        Csum::Partial => address.partial(field),
        Csum::Full | Csum::Verified | Csum::Inner { .. } if proto == PROTO_UDP => {
            // RFC 768: 0 means that there is none, and a computed 0 is sent as its other form.
            if field == 0 { 0 } else { nonzero(address.and(l4).full(field)) }
        }
        Csum::Full | Csum::Verified | Csum::Inner { .. } => address.and(l4).full(field),
    }
}

const fn nonzero(field: u16) -> u16 {
    if field == 0 { 0xffff } else { field }
}

/// Makes a partial checksum of an ordinary frame whole, for readers that know no offload: a tunnel, a socket, a NIC.
///
/// `meta` must be that of `frame`, as parsed or with offsets kept up to date. A super-frame has no whole checksum: it
/// is left alone, [`crate::segment`] gives each of its parts one. Returns whether the frame has no open checksum now.
pub fn complete(frame: &mut [u8], meta: &mut Meta) -> bool {
    let l4_off = usize::from(meta.l4_off);
    let (start, field) = match meta.csum {
        Csum::Full | Csum::Verified => return true,
        _ if meta.gso != Gso::None => return false,
        Csum::Partial if meta.tcp.is_some() => (l4_off, l4_off.saturating_add(TCP_FIELD)),
        Csum::Partial => (l4_off, l4_off.saturating_add(UDP_FIELD)),
        Csum::Inner { start, field } => (usize::from(start), usize::from(field)),
    };
    let Some(data) = frame.get(start..meta.l3_end as usize) else { return false };
    let value = !sum(data);
    // UDP must not be sent 0; in TCP both forms of zero verify, and an inner packet may be either.
    let value = if meta.tcp.is_some() { value } else { nonzero(value) };
    let Some(to) = frame.get_mut(field..).and_then(<[u8]>::first_chunk_mut) else { return false };
    *to = value.to_be_bytes();
    meta.csum = Csum::Full;
    true
}
