//! Seventh hop: edits the bytes, in a fixed order, with no heap and no closures.

use crate::flow::{Gso, Meta};
use crate::frame::{Frame, Pool};

/// Prepares a frame for being written to a TAP. Ethernet to the last byte stays as it is; of the virtio header,
/// `hdr_len` is set to the parsed length of the headers: the kernel makes that much linear and puts the payload into
/// page fragments, and what the sender's side wrote there is not to be trusted.
pub fn apply(meta: &Meta, pool: &mut Pool, frame: &Frame) {
    if meta.gso == Gso::None {
        return;
    }
    let mut header = pool.vnet(frame);
    header.hdr_len.set(meta.headers_len);
    pool.set_vnet(frame, &header);
}
