//! Eighth hop: into the out port, or ports.

use crate::drop::DropReason;
use crate::flow::{Meta, Packet};
use crate::frame::{Frame, Pool};
use crate::io::Io;
use crate::port::PortId;
use crate::snapshot::Network;
use crate::stats::Counters;

/// To one port.
pub fn forward<I: Io>(
    io: &mut I,
    pool: &mut Pool,
    frame: &Frame,
    meta: &Meta,
    out: PortId,
    counters: &Counters,
) {
    match io.tx(pool, out, frame, meta) {
        Ok(()) => {
            counters.worker.forwarded.add(1);
            count_tx(counters, out, frame);
        }
        Err(reason) => counters.drop_frame(out, reason),
    }
}

/// To every member of the network but the one it came from. The frame counts once, its copies apart.
pub fn flood<I: Io>(
    io: &mut I,
    pool: &mut Pool,
    frame: &Frame,
    packet: &Packet,
    network: &Network,
    counters: &Counters,
) {
    let mut copies = 0;
    let mut lost = None;
    let meta = &packet.meta;
    let spared = network.claims.spared(packet);
    for &out in network.members.iter().filter(|&&out| out != meta.port && Some(out) != spared) {
        match io.tx(pool, out, frame, meta) {
            Ok(()) => {
                copies += 1;
                count_tx(counters, out, frame);
            }
            Err(reason) => {
                counters.worker.copies_lost.add(1);
                counters.drop_at(out, reason);
                lost = Some(reason);
            }
        }
    }
    if copies > 0 {
        counters.worker.flooded.add(1);
        counters.worker.copies.add(copies);
    } else {
        counters.drop_frame(meta.port, lost.unwrap_or(DropReason::NoOtherPort));
    }
}

pub(crate) fn count_tx(counters: &Counters, out: PortId, frame: &Frame) {
    if let Some(port) = counters.port(out) {
        port.tx_frames.add(1);
        port.tx_bytes.add(frame.len() as u64);
    }
}
