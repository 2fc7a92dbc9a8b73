//! The bytes of a VLAN tag: taken off, put on, or changed, and everything that moves with them.

use zerocopy::IntoBytes;

use crate::flow::{Body, Csum, Meta, VlanTag};
use crate::frame::{Frame, Pool};
use crate::vlan::Form;
use crate::vnet::VnetHdr;

/// TPID of the tags that we put on (IEEE 802.1Q-2018 table 9-1: C-tag).
const TPID: u16 = 0x8100;
/// Bytes of a tag.
pub const LEN: u16 = 4;
/// Where it is: behind the MAC addresses.
const PLACE: usize = 12;

/// Gives the frame the form, in place, and says which it is now. Nothing of it was written anywhere yet.
#[inline]
pub fn shape(form: Form, meta: &mut Meta, pool: &mut Pool, frame: &Frame) -> Frame {
    // Of a frame in no VLAN a priority tag stays what it is.
    if meta.vid == 0 || Form::of(meta) == form {
        return *frame;
    }
    match form {
        Form::Untagged => pop(meta, pool, frame),
        Form::Tagged => push(meta, pool, frame),
    }
}

/// Makes a priority tag that of the frame's VLAN, so that a frame in a VLAN has two forms and no third one. What was
/// classified as another VLAN than its tag says carries a priority, or nothing.
#[inline]
pub fn settle(meta: &mut Meta, pool: &mut Pool, frame: &Frame) {
    if let Some(tag) = meta.vlan
        && tag.vid() != meta.vid
    {
        let tag = VlanTag { tpid: TPID, tci: (tag.tci & 0xf000) | meta.vid };
        if let Some(place) = place(pool.bytes_mut(frame)) {
            *place = bytes(tag);
            meta.vlan = Some(tag);
        }
    }
}

/// Takes the outer tag off.
#[cold]
pub fn pop(meta: &mut Meta, pool: &mut Pool, frame: &Frame) -> Frame {
    let (Some(_), Some(macs)) = (meta.vlan, pool.bytes(frame).first_chunk::<PLACE>().copied()) else {
        return *frame;
    };
    let header = moved(&pool.vnet(frame), |offset| offset.saturating_sub(LEN));
    let short = frame.cut(LEN);
    if let Some(place) = pool.bytes_mut(&short).first_chunk_mut::<PLACE>() {
        *place = macs;
    }
    pool.set_vnet(&short, &header);
    without(meta);
    short
}

/// Puts the tag of its VLAN in front, with the lowest priority (IEEE 802.1Q-2018 clause 6.9.4).
#[cold]
fn push(meta: &mut Meta, pool: &mut Pool, frame: &Frame) -> Frame {
    let (Some(long), Some(macs)) = (frame.grown(LEN), pool.bytes(frame).first_chunk::<PLACE>().copied())
    else {
        return *frame;
    };
    let header = moved(&pool.vnet(frame), |offset| offset.saturating_add(LEN));
    let tag = VlanTag { tpid: TPID, tci: meta.vid };
    let new = pool.bytes_mut(&long);
    if let Some(start) = new.first_chunk_mut::<PLACE>() {
        *start = macs;
    }
    if let Some(place) = place(new) {
        *place = bytes(tag);
    }
    pool.set_vnet(&long, &header);
    with(meta, tag);
    long
}

/// A copy of the frame in another slot, in the form that it has not; `None`: no slot is free. Its holder lets it go by
/// [`Pool::release`].
#[cold]
pub fn copy(meta: &Meta, pool: &mut Pool, frame: &Frame) -> Option<(Frame, Meta)> {
    let mut other = *meta;
    let header = pool.vnet(frame);
    let (header, tag) = match Form::of(meta) {
        Form::Tagged => {
            without(&mut other);
            (moved(&header, |offset| offset.saturating_sub(LEN)), None)
        }
        Form::Untagged => {
            let tag = VlanTag { tpid: TPID, tci: meta.vid };
            with(&mut other, tag);
            (moved(&header, |offset| offset.saturating_add(LEN)), Some(bytes(tag)))
        }
    };
    let skipped = if tag.is_some() { PLACE } else { PLACE + usize::from(LEN) };
    let copy = pool.fill_about(frame.port, Some(frame), |buffer, about| {
        let parts = [
            header.as_bytes(),
            about.get(..PLACE).ok_or(())?,
            tag.as_ref().map_or(&[], |tag| &tag[..]),
            about.get(skipped..).ok_or(())?,
        ];
        let mut end: usize = 0;
        for part in parts {
            let next = end.saturating_add(part.len());
            buffer.get_mut(end..next).ok_or(())?.copy_from_slice(part);
            end = next;
        }
        Ok::<usize, ()>(end)
    });
    Some((copy.ok()?, other))
}

fn place(frame: &mut [u8]) -> Option<&mut [u8; LEN as usize]> {
    frame.get_mut(PLACE..)?.first_chunk_mut()
}

const fn bytes(tag: VlanTag) -> [u8; LEN as usize] {
    let ([t0, t1], [c0, c1]) = (tag.tpid.to_be_bytes(), tag.tci.to_be_bytes());
    [t0, t1, c0, c1]
}

/// The virtio header of a frame whose headers begin elsewhere.
fn moved(header: &VnetHdr, by: impl Fn(u16) -> u16) -> VnetHdr {
    let mut header = *header;
    if header.needs_csum() {
        header.csum_start.set(by(header.csum_start.get()));
    }
    if header.hdr_len.get() != 0 {
        header.hdr_len.set(by(header.hdr_len.get()));
    }
    header
}

fn without(meta: &mut Meta) {
    meta.vlan = meta.inner_vlan.take();
    shift(meta, |offset| offset.saturating_sub(LEN), |length| length.saturating_sub(u32::from(LEN)));
}

fn with(meta: &mut Meta, tag: VlanTag) {
    meta.inner_vlan = meta.vlan.replace(tag);
    shift(meta, |offset| offset.saturating_add(LEN), |length| length.saturating_add(u32::from(LEN)));
}

/// Everything that is counted from the start of the frame.
fn shift(meta: &mut Meta, short: impl Fn(u16) -> u16, long: impl Fn(u32) -> u32) {
    for offset in [&mut meta.l3_off, &mut meta.l4_off, &mut meta.headers_len] {
        *offset = short(*offset);
    }
    for length in [&mut meta.frame_len, &mut meta.l3_end] {
        *length = long(*length);
    }
    if let Csum::Inner { start, field } = &mut meta.csum {
        (*start, *field) = (short(*start), short(*field));
    }
    if let Body::IcmpError(quoted) = &mut meta.body {
        (quoted.l3_off, quoted.l4_off) = (short(quoted.l3_off), short(quoted.l4_off));
    }
}
