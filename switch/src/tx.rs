//! Eighth hop: into the out port, or ports. What is only queued is booked when its outcome is known ([`Books`]).

use crate::books::{Books, Copies, Ticket};
use crate::drop::DropReason;
use crate::flow::{Meta, Packet};
use crate::frame::{Frame, Pool};
use crate::io::{Io, Sent};
use crate::port::PortId;
use crate::snapshot::Network;

/// To one port.
///
/// # Errors
/// Why the port did not take it; it has been counted.
pub fn forward<I: Io>(
    io: &mut I,
    pool: &mut Pool,
    frame: &Frame,
    meta: &Meta,
    out: PortId,
    books: &mut Books,
) -> Result<(), DropReason> {
    match io.tx(pool, out, frame, meta, Ticket::ALONE, books) {
        Ok(Sent::Now) => books.forwarded(out, frame.len()),
        Ok(Sent::Queued) => {}
        Err(reason) => {
            books.counters.drop_frame(out, reason);
            return Err(reason);
        }
    }
    Ok(())
}

/// To every member of the network but the one it came from. The frame counts once, its copies apart.
pub fn flood<I: Io>(
    io: &mut I,
    pool: &mut Pool,
    frame: &Frame,
    packet: &Packet,
    network: &Network,
    books: &mut Books,
) {
    let meta = &packet.meta;
    let ticket = books.open().or_else(|| {
        io.flush(pool, books); // what is queued is over after that, and so are floods of this batch
        books.open()
    });
    let Some(ticket) = ticket else { return books.counters.drop_frame(meta.port, DropReason::TxFull) };
    let mut copies = Copies::default();
    let spared = network.claims.spared(packet);
    for &out in network.members.iter().filter(|&&out| out != meta.port && Some(out) != spared) {
        match io.tx(pool, out, frame, meta, ticket, books) {
            Ok(Sent::Now) => {
                copies.sent += 1;
                books.taken(out, frame.len());
            }
            Ok(Sent::Queued) => copies.queued += 1,
            Err(reason) => {
                copies.lost = Some(reason);
                books.copy_lost(out, reason);
            }
        }
    }
    books.close(ticket, meta.port, copies);
}
