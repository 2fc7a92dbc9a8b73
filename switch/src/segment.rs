//! Cuts super-frames into ordinary ones, for readers that know no segmentation offload: a TAP that refused a GSO write,
//! a tunnel, a NIC.
//!
//! Nothing is allocated: each segment's headers are written into a slot of the caller's, with full checksums, and its
//! payload is a range of the super-frame that is already there.

use std::ops::Range;

use crate::checksum::{add, sum};
use crate::flow::{Gso, L3, Meta};

const FIN_AND_PSH: u8 = 0x09;
const CWR: u8 = 0x80;
/// Bytes of an IPv6 header, which its payload length does not count.
const V6_LEN: usize = 40;

/// How many segments a super-frame has; 0 for an ordinary frame, which needs no cutting.
pub fn count(meta: &Meta) -> usize {
    match size(meta) {
        Some(size) => payload_len(meta).div_ceil(size),
        None => 0,
    }
}

/// Writes segment `index` of the super-frame `frame` to the start of `out` and returns its length in bytes.
///
/// `None` where there is no such segment, or `out` is shorter than headers and one segment of payload.
pub fn segment(frame: &[u8], meta: &Meta, index: usize, out: &mut [u8]) -> Option<usize> {
    let payload = headers(frame, meta, index, out)?;
    let start = usize::from(meta.headers_len);
    let payload = frame.get(payload)?;
    let end = start.checked_add(payload.len())?;
    out.get_mut(start..end)?.copy_from_slice(payload);
    Some(end)
}

/// Writes the headers of segment `index` (`meta.headers_len` bytes, full checksums) to the start of `out` and returns
/// where in `frame` its payload lies: together they are the segment, without a copy.
///
/// `None` where there is no such segment, or `out` is shorter than the headers.
pub fn headers(frame: &[u8], meta: &Meta, index: usize, out: &mut [u8]) -> Option<Range<usize>> {
    let headers_len = usize::from(meta.headers_len);
    let cut = Cut::new(meta, index)?;
    let out = out.get_mut(..headers_len)?;
    out.copy_from_slice(frame.get(..headers_len)?);
    let (l2_and_l3, l4) = out.split_at_mut_checked(usize::from(meta.l4_off))?;
    network(l2_and_l3.get_mut(usize::from(meta.l3_off)..)?, meta.l3, l4.len(), &cut)?;
    let payload = sum(frame.get(cut.payload.clone())?);
    let old_len = u16::try_from(meta.l3_end.checked_sub(u32::from(meta.l4_off))?).ok()?;
    let new_len = u16::try_from(l4.len().checked_add(cut.payload.len())?).ok()?;
    match meta.gso {
        Gso::Tcp { .. } => tcp(l4, &cut, add(!old_len, new_len), payload)?,
        Gso::Udp { .. } => udp(l4, new_len, add(!old_len, new_len), payload)?,
        Gso::None => return None,
    }
    Some(cut.payload)
}

/// One segment's place in the super-frame.
struct Cut {
    index: usize,
    last: bool,
    /// Bytes of payload before it.
    before: usize,
    payload: Range<usize>,
}

impl Cut {
    fn new(meta: &Meta, index: usize) -> Option<Self> {
        let total = payload_len(meta);
        let size = size(meta)?;
        let before = index.checked_mul(size).filter(|before| *before < total)?;
        let len = size.min(total - before);
        let start = usize::from(meta.headers_len).checked_add(before)?;
        Some(Self { index, last: before + len == total, before, payload: start..start.checked_add(len)? })
    }
}

/// Payload bytes of one segment, where it is a super-frame.
fn size(meta: &Meta) -> Option<usize> {
    match meta.gso {
        Gso::Tcp { size } | Gso::Udp { size } => Some(usize::from(size)).filter(|size| *size > 0),
        Gso::None => None,
    }
}

fn payload_len(meta: &Meta) -> usize {
    (meta.l3_end as usize).saturating_sub(usize::from(meta.headers_len))
}

/// The IP header, with `l4_len` bytes of L4 header behind it.
fn network(l3: &mut [u8], kind: L3, l4_len: usize, cut: &Cut) -> Option<()> {
    let total = l3.len().checked_add(l4_len)?.checked_add(cut.payload.len())?;
    if kind == L3::V6 {
        *field(l3, 4)? = u16::try_from(total.checked_sub(V6_LEN)?).ok()?.to_be_bytes();
        return Some(());
    }
    *field(l3, 2)? = u16::try_from(total).ok()?.to_be_bytes();
    // As Linux does: segments of one super-frame must not share an identification (RFC 6864 section 4).
    let id = field(l3, 4)?;
    *id = u16::from_be_bytes(*id).wrapping_add(cut.index as u16).to_be_bytes();
    *field(l3, 10)? = [0, 0];
    *field(l3, 10)? = (!sum(l3)).to_be_bytes();
    Some(())
}

/// The TCP header; `delta` turns the partial checksum into that of the segment's length, `payload` is the payload's
/// sum.
fn tcp(l4: &mut [u8], cut: &Cut, delta: u16, payload: u16) -> Option<()> {
    let seq = l4.get_mut(4..)?.first_chunk_mut::<4>()?;
    *seq = u32::from_be_bytes(*seq).wrapping_add(u32::try_from(cut.before).ok()?).to_be_bytes();
    let flags = l4.get_mut(13)?;
    if !cut.last {
        *flags &= !FIN_AND_PSH;
    }
    // RFC 3168 section 6.1.2: CWR answers once.
    if cut.index > 0 {
        *flags &= !CWR;
    }
    let check = field(l4, 16)?;
    *check = add(u16::from_be_bytes(*check), delta).to_be_bytes();
    *field(l4, 16)? = (!add(sum(l4), payload)).to_be_bytes();
    Some(())
}

/// The UDP header, likewise.
fn udp(l4: &mut [u8], len: u16, delta: u16, payload: u16) -> Option<()> {
    *field(l4, 4)? = len.to_be_bytes();
    let check = field(l4, 6)?;
    *check = add(u16::from_be_bytes(*check), delta).to_be_bytes();
    // RFC 768: a computed 0 is sent as 0xffff.
    let value = match !add(sum(l4), payload) {
        0 => 0xffff,
        value => value,
    };
    *field(l4, 6)? = value.to_be_bytes();
    Some(())
}

/// The two bytes at `at`.
fn field(bytes: &mut [u8], at: usize) -> Option<&mut [u8; 2]> {
    bytes.get_mut(at..)?.first_chunk_mut()
}
