//! What became of written frames, booked when it is known: at once, or when a ring says so.

use std::sync::Arc;

use crate::drop::DropReason;
use crate::port::PortId;
use crate::stats::Counters;

/// Floods that may be waiting for their copies at a time; those of a batch, and some that a policy makes.
const FLOODS: u16 = 128;

/// What a written frame is booked as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u16);

impl Ticket {
    /// A frame of its own.
    pub const ALONE: Self = Self(u16::MAX);
}

/// A queued write is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// As it was given with the frame.
    pub ticket: Ticket,
    /// Where to.
    pub out: PortId,
    /// Bytes of the frame.
    pub len: usize,
    /// Whether the port took it.
    pub outcome: Result<(), DropReason>,
}

/// The copies of one frame.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Copies {
    /// Taken.
    pub sent: u64,
    /// Queued, and nothing known yet. Less than none: more are over than were counted so far.
    pub queued: i32,
    /// Why one was not taken.
    pub lost: Option<DropReason>,
    /// By whom it came, once all are counted.
    from: Option<PortId>,
}

/// The counters of a worker, and what is not known yet.
pub struct Books {
    /// The counters.
    pub counters: Arc<Counters>,
    floods: Box<[Copies]>,
    free: Vec<u16>,
}

impl Books {
    /// Books for ports `0..ports`.
    pub fn new(ports: usize) -> Self {
        Self {
            counters: Arc::new(Counters::new(ports)),
            floods: vec![Copies::default(); usize::from(FLOODS)].into_boxed_slice(),
            free: (0..FLOODS).rev().collect(),
        }
    }

    /// A frame was written to one port.
    pub(crate) fn forwarded(&self, out: PortId, len: usize) {
        self.counters.worker.forwarded.add(1);
        self.taken(out, len);
    }

    /// A port took a frame.
    pub(crate) fn taken(&self, out: PortId, len: usize) {
        if let Some(port) = self.counters.port(out) {
            port.tx_frames.add(1);
            port.tx_bytes.add(len as u64);
        }
    }

    /// A port did not take a copy.
    pub(crate) fn copy_lost(&self, out: PortId, reason: DropReason) {
        self.counters.worker.copies_lost.add(1);
        self.counters.drop_at(out, reason);
    }

    /// A ticket for the copies of a frame, to be closed by [`Books::close`]; `None`: too many are waiting.
    pub(crate) fn open(&mut self) -> Option<Ticket> {
        self.free.pop().map(Ticket)
    }

    /// All copies of a frame from `from` are under way or done.
    pub(crate) fn close(&mut self, ticket: Ticket, from: PortId, copies: Copies) {
        let Some(flood) = self.floods.get_mut(usize::from(ticket.0)) else { return };
        flood.sent += copies.sent;
        flood.queued += copies.queued;
        flood.lost = copies.lost.or(flood.lost);
        flood.from = Some(from);
        self.conclude(ticket);
    }

    /// A queued write is over. Engines call this.
    pub fn settle(&mut self, Settled { ticket, out, len, outcome }: Settled) {
        let Some(flood) = self.floods.get_mut(usize::from(ticket.0)) else {
            match outcome {
                Ok(()) => self.forwarded(out, len),
                Err(reason) => self.counters.drop_frame(out, reason),
            }
            return;
        };
        flood.queued -= 1;
        match outcome {
            Ok(()) => {
                flood.sent += 1;
                self.taken(out, len);
            }
            Err(reason) => {
                flood.lost = Some(reason);
                self.copy_lost(out, reason);
            }
        }
        self.conclude(ticket);
    }

    /// Books a frame whose copies have all been counted and are over.
    fn conclude(&mut self, ticket: Ticket) {
        let Some(flood) = self.floods.get_mut(usize::from(ticket.0)) else { return };
        let Some(from) = flood.from.filter(|_| flood.queued == 0) else { return };
        let Copies { sent, lost, .. } = std::mem::take(flood);
        self.free.push(ticket.0);
        if sent > 0 {
            self.counters.worker.flooded.add(1);
            self.counters.worker.copies.add(sent);
        } else {
            self.counters.drop_frame(from, lost.unwrap_or(DropReason::NoOtherPort));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: PortId = PortId(0);
    const OUT: PortId = PortId(1);

    fn settle(books: &mut Books, ticket: Ticket, outcome: Result<(), DropReason>) {
        books.settle(Settled { ticket, out: OUT, len: 60, outcome });
    }

    #[test]
    fn a_flood_is_one_frame_whenever_its_copies_end() {
        let mut books = Books::new(2);
        let ticket = books.open().unwrap();
        settle(&mut books, ticket, Ok(())); // before all were counted
        assert_eq!(books.counters.worker.flooded.get(), 0);
        books.close(ticket, FROM, Copies { queued: 3, ..Copies::default() });
        settle(&mut books, ticket, Err(DropReason::TxFull));
        assert_eq!(books.counters.worker.flooded.get(), 0);
        settle(&mut books, ticket, Ok(()));
        let worker = &books.counters.worker;
        assert_eq!((worker.flooded.get(), worker.copies.get(), worker.copies_lost.get()), (1, 2, 1));
        assert_eq!((worker.dropped(), books.free.len()), (0, usize::from(FLOODS)));
        assert_eq!(books.counters.port(OUT).unwrap().tx_frames.get(), 2);
    }

    #[test]
    fn a_flood_that_nobody_took_is_dropped_once() {
        let mut books = Books::new(2);
        let ticket = books.open().unwrap();
        books.close(ticket, FROM, Copies { queued: 2, ..Copies::default() });
        settle(&mut books, ticket, Err(DropReason::TxDown));
        settle(&mut books, ticket, Err(DropReason::TxDown));
        assert_eq!(books.counters.worker.dropped(), 1);
        assert_eq!(books.counters.port(OUT).unwrap().drops[DropReason::TxDown as usize].get(), 2);
        assert_eq!(books.counters.port(FROM).unwrap().drops[DropReason::TxDown as usize].get(), 1);
        let nobody = books.open().unwrap();
        books.close(nobody, FROM, Copies::default());
        assert_eq!(books.counters.worker.drops[DropReason::NoOtherPort as usize].get(), 1);
    }

    #[test]
    fn a_frame_of_its_own_is_forwarded_or_dropped() {
        let mut books = Books::new(2);
        settle(&mut books, Ticket::ALONE, Ok(()));
        settle(&mut books, Ticket::ALONE, Err(DropReason::TxError));
        assert_eq!((books.counters.worker.forwarded.get(), books.counters.worker.dropped()), (1, 1));
    }

    #[test]
    fn tickets_come_to_an_end() {
        let mut books = Books::new(2);
        let tickets: Vec<_> = std::iter::from_fn(|| books.open()).collect();
        assert_eq!(tickets.len(), usize::from(FLOODS));
        books.close(tickets[5], FROM, Copies::default());
        assert_eq!(books.open(), Some(tickets[5]));
    }
}
