//! The MSS option of a SYN, made to fit the MTU of the way ahead (RFC 4459 section 3.2): the cure for paths that
//! swallow "fragmentation needed".

use switch::checksum::{self, Delta};
use switch::flow::{L3, Meta};
use switch::parse::PROTO_TCP;

use crate::build::field;

const SYN: u8 = 0x02;
/// Bytes of a TCP header without options.
const TCP_LEN: usize = 20;
/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: usize = 16;

/// Kinds and length of RFC 9293 section 3.1.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const MSS_LEN: usize = 4;

/// Lowers the MSS of a SYN or SYN/ACK to what fits `mtu` (bytes of an IP packet). Never raises it, and adds none.
///
/// Returns whether the frame was changed. Options that run over their end are left alone from there on, as the receiver
/// leaves them.
pub fn clamp(frame: &mut [u8], meta: &Meta, mtu: u32) -> bool {
    if meta.tcp.is_none_or(|tcp| tcp.flags & SYN == 0) {
        return false;
    }
    // RFC 6691 section 2: the fixed headers only; who sends options accounts for them.
    let headers = match meta.l3 {
        L3::V4 => 20 + 20,
        L3::V6 => 40 + 20,
        L3::Arp | L3::Other => return false,
    };
    let limit = u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX);
    let segment = frame.get_mut(usize::from(meta.l4_off)..usize::from(meta.headers_len));
    if limit == 0 {
        return false;
    }
    segment.is_some_and(|header| clamp_options(header, meta, limit))
}

/// All MSS options of one TCP header: of two, some receivers believe the first and some the last.
fn clamp_options(header: &mut [u8], meta: &Meta, limit: u16) -> bool {
    let mut at = TCP_LEN;
    let mut changed = false;
    while let Some(&kind) = header.get(at) {
        let len = match kind {
            END => break,
            NO_OPERATION => 1,
            _ => header.get(at.saturating_add(1)).map_or(0, |len| usize::from(*len)),
        };
        let inside = at.saturating_add(len) <= header.len();
        if len == 0 || (kind != NO_OPERATION && len < 2) || !inside {
            break;
        }
        if kind == MSS && len == MSS_LEN {
            changed |= lower(header, meta, at.saturating_add(2), limit).is_some();
        }
        at = at.saturating_add(len);
    }
    changed
}

/// Lowers the value at `at` to `limit`; nothing where it is not above.
fn lower(header: &mut [u8], meta: &Meta, at: usize, limit: u16) -> Option<()> {
    let value = field(header, at)?;
    let old = u16::from_be_bytes(*value);
    if old <= limit {
        return None;
    }
    *value = limit.to_be_bytes();
    // At an odd offset the high byte is the low one of its word, and the low byte the high one of the next.
    let delta = match at % 2 {
        0 => Delta::word(old, limit),
        _ => Delta::word(old.swap_bytes(), limit.swap_bytes()),
    };
    // A partial field does not have the header in it (the table in `switch::checksum`): `rewrite` leaves it.
    let check = field(header, TCP_CHECKSUM)?;
    let sum = checksum::rewrite(u16::from_be_bytes(*check), meta.csum, PROTO_TCP, Delta::NONE, delta);
    *check = sum.to_be_bytes();
    Some(())
}
