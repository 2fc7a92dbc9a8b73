//! Seventh hop: edits the bytes, in a fixed order, with no heap and no closures.

use crate::drop::DropReason;
use crate::flow::{Gso, Meta};
use crate::frame::{Frame, Pool};
use crate::tag;
use crate::verdict::Hop;

/// Prepares a frame for being written to a TAP, and says which it is now; `meta` stays true of it.
///
/// A bridged frame stays as it is from Ethernet to the last byte, but that in a port's untagged VLAN a priority tag
/// becomes that VLAN's; in which form it leaves is [`crate::tx`]'s to say, port by port. A routed one loses its tag and
/// is `edit`ed by the policy: its TTL, the MACs of its next hop. Of the virtio header `hdr_len` is set to the parsed length of the
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
            // What is for a gateway has no inner tag.
            let frame = tag::pop(meta, pool, frame);
            edit(hop, meta, pool.bytes_mut(&frame))?;
            frame
        }
        None => {
            tag::settle(meta, pool, frame);
            *frame
        }
    };
    if meta.gso != Gso::None {
        let mut header = pool.vnet(&frame);
        header.hdr_len.set(meta.headers_len);
        pool.set_vnet(&frame, &header);
    }
    Ok(frame)
}
