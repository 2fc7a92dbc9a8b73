//! Seventh hop: edits the bytes, in a fixed order, with no heap and no closures.

use crate::drop::DropReason;
use crate::flow::{Csum, Gso, Meta};
use crate::frame::{Frame, Pool};
use crate::verdict::Hop;
use crate::vnet::VnetHdr;

/// Prepares a frame for being written to a TAP, and says which it is now; `meta` stays true of it.
///
/// A bridged frame stays as it is from Ethernet to the last byte. A routed one loses its priority tag and is `edit`ed
/// by the policy: its TTL, the MACs of its next hop. Of the virtio header `hdr_len` is set to the parsed length of the
/// headers: the kernel makes that much linear and puts the payload into page fragments, and what the sender's side
/// wrote there is not to be trusted.
///
/// # Errors
/// What `edit` says.
pub fn apply(
    hop: Option<&Hop>,
    meta: &mut Meta,
    pool: &mut Pool,
    frame: &Frame,
    edit: impl FnOnce(&Hop, &Meta, &mut [u8]) -> Result<(), DropReason>,
) -> Result<Frame, DropReason> {
    let frame = match hop {
        Some(hop) => {
            let frame = untag(meta, pool, frame);
            edit(hop, meta, pool.bytes_mut(&frame))?;
            frame
        }
        None => *frame,
    };
    if meta.gso != Gso::None {
        let mut header = pool.vnet(&frame);
        header.hdr_len.set(meta.headers_len);
        pool.set_vnet(&frame, &header);
    }
    Ok(frame)
}

/// Takes the tags off: what a gateway without a VLAN is sent carries at most a priority.
fn untag(meta: &mut Meta, pool: &mut Pool, frame: &Frame) -> Frame {
    let cut: u16 = 4 * (u16::from(meta.vlan.is_some()) + u16::from(meta.inner_vlan.is_some()));
    if cut == 0 {
        return *frame;
    }
    let mut header = pool.vnet(frame);
    if let Some(macs) = pool.bytes(frame).first_chunk::<12>().copied() {
        let short = frame.cut(cut);
        if let Some(place) = pool.bytes_mut(&short).first_chunk_mut::<12>() {
            *place = macs;
        }
        if header.flags & VnetHdr::NEEDS_CSUM != 0 {
            header.csum_start.set(header.csum_start.get().saturating_sub(cut));
        }
        pool.set_vnet(&short, &header);
        meta.vlan = None;
        meta.inner_vlan = None;
        meta.l3_off = meta.l3_off.saturating_sub(cut);
        meta.l4_off = meta.l4_off.saturating_sub(cut);
        meta.headers_len = meta.headers_len.saturating_sub(cut);
        meta.frame_len = meta.frame_len.saturating_sub(u32::from(cut));
        meta.l3_end = meta.l3_end.saturating_sub(u32::from(cut));
        if let Csum::Inner { start, field } = &mut meta.csum {
            *start = start.saturating_sub(cut);
            *field = field.saturating_sub(cut);
        }
        return short;
    }
    *frame
}
