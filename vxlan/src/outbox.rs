//! What waits to be sent: by socket, in order, with the headers that were written for it.

use std::io::IoSlice;
use std::net::SocketAddr;

use rustix::io::Errno;
use switch::books::{Books, Settled, Ticket};
use switch::drop::DropReason;
use switch::frame::{Frame, Pool};
use switch::port::PortId;
use switch::sys::bulk::{MAX_BYTES, MAX_SEGMENTS};
use switch::sys::mmsg::{self, MESSAGES, Outgoing};

use crate::encap::Send;
use crate::settings::OverlayCounters;
use crate::sockets::Sender;

/// Bytes of headers that wait, of all sockets.
const SCRATCH: usize = 256 << 10;
/// Sends of one socket that wait.
const QUEUE: usize = 256;
/// Sends that one frame may come to: 64 KiB in segments of 48 bytes, 64 at a time, are 22.
const SENDS: usize = 64;
/// Parts of the messages of one call; one send has two for each datagram.
const PARTS: usize = 4 * MAX_SEGMENTS;

/// A frame on its way, and what it is booked as.
#[derive(Clone, Copy, Debug)]
pub struct Letter {
    /// The frame, kept until it was sent.
    pub frame: Frame,
    /// Where to.
    pub to: SocketAddr,
    /// The port that is this remote.
    pub out: PortId,
    /// For the books.
    pub ticket: Ticket,
    /// TOS or traffic class of the outer packets.
    pub tos: u8,
}

/// One send of a frame.
#[derive(Clone, Copy, Debug)]
struct Queued {
    letter: Letter,
    send: Send,
    /// Where its headers are.
    at: usize,
    /// The last one of its frame.
    last: bool,
}

impl Queued {
    /// Whether both may go as datagrams of one message: each is one, as long as the other, to the same remote.
    fn goes_with(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.letter.to, it.letter.tos, it.send.segment_size(), it.send.count());
        self.send.count() == 1 && of(self) == of(other)
    }
}

/// What waits for one socket.
struct Way {
    queue: Vec<Queued>,
    /// What became of an earlier send of the frame whose last one was not reached yet.
    failed: Option<DropReason>,
}

/// All that waits.
pub struct Outbox {
    scratch: Box<[u8]>,
    used: usize,
    ways: Vec<Way>,
}

impl Outbox {
    /// For no sockets yet.
    pub fn new() -> Self {
        Self { scratch: vec![0; SCRATCH].into_boxed_slice(), used: 0, ways: Vec::new() }
    }

    /// From now on for so many sockets. Nothing may wait.
    pub fn ways(&mut self, ways: usize) {
        self.ways.resize_with(ways, || Way { queue: Vec::with_capacity(QUEUE), failed: None });
    }

    /// Whether a frame with so many bytes of headers can be queued.
    pub fn has_room(&self, way: usize, bytes: usize) -> bool {
        let room = self.ways.get(way).is_some_and(|way| way.queue.len() + SENDS <= QUEUE);
        room && bytes <= SCRATCH - self.used
    }

    /// Where the headers of the next send go.
    pub fn scratch(&mut self) -> &mut [u8] {
        self.scratch.get_mut(self.used..).unwrap_or_default()
    }

    /// Queues a send whose headers were written.
    pub fn push(&mut self, way: usize, letter: Letter, send: Send) {
        if let Some(way) = self.ways.get_mut(way) {
            way.queue.push(Queued { letter, send, at: self.used, last: false });
        }
        self.used += send.scratch();
    }

    /// Sends that wait for a socket.
    pub fn waiting(&self, way: usize) -> usize {
        self.ways.get(way).map_or(0, |way| way.queue.len())
    }

    /// Forgets those that were queued since so many waited.
    pub fn take_back(&mut self, way: usize, waiting: usize) {
        if let Some(way) = self.ways.get_mut(way) {
            way.queue.truncate(waiting);
        }
    }

    /// The frame has no more sends.
    pub fn end(&mut self, way: usize) {
        if let Some(last) = self.ways.get_mut(way).and_then(|way| way.queue.last_mut()) {
            last.last = true;
        }
    }

    /// Sends all, and books what became of it.
    pub fn send(
        &mut self,
        senders: &[Sender],
        pool: &mut Pool,
        books: &mut Books,
        counters: &OverlayCounters,
    ) {
        if self.used == 0 {
            return; // no frame goes without a header
        }
        for (way, sender) in self.ways.iter_mut().zip(senders) {
            if !way.queue.is_empty() {
                way.send(sender, &self.scratch, pool, (books, counters));
            }
        }
        self.used = 0;
    }
}

impl Way {
    fn send(
        &mut self,
        sender: &Sender,
        scratch: &[u8],
        pool: &mut Pool,
        (books, counters): (&mut Books, &OverlayCounters),
    ) {
        let mut done = 0;
        while let Some(left) = self.queue.get(done..).filter(|left| !left.is_empty()) {
            let (count, outcome) = first_of(sender, left, scratch, pool, counters);
            counters.too_big.add(u64::from(outcome == Err(DropReason::TooBig)));
            // A socket that is full is full for the rest.
            let count = if outcome == Err(DropReason::TxFull) { left.len() } else { count };
            for index in done..done + count {
                self.settle(index, outcome, pool, books);
            }
            done += count;
        }
        self.queue.clear();
    }

    fn settle(&mut self, index: usize, outcome: Result<(), DropReason>, pool: &mut Pool, books: &mut Books) {
        let Some(Queued { letter, last, .. }) = self.queue.get(index).copied() else { return };
        self.failed = outcome.err().or(self.failed);
        if last {
            let outcome = self.failed.take().map_or(Ok(()), Err);
            let (ticket, out, len) = (letter.ticket, letter.out, letter.frame.len());
            books.settle(Settled { ticket, out, len, outcome });
            pool.release(&letter.frame);
        }
    }
}

/// Sends the first ones. How many of them that was, and what became of them.
fn first_of(
    sender: &Sender,
    left: &[Queued],
    scratch: &[u8],
    pool: &Pool,
    counters: &OverlayCounters,
) -> (usize, Result<(), DropReason>) {
    if sender.segments() {
        match together(sender, left, scratch, pool) {
            // No segmentation on this way (a transform, an old kernel without checksum offload); or segments that are
            // longer than the path takes, of which kernels say the same. In pieces it is seen which.
            (_, Err(Errno::IO | Errno::INVAL)) => {}
            (count, answer) => return (count, answer.map_err(reason)),
        }
    }
    let answer = left.first().map_or(Ok(()), |queued| one_by_one(sender, queued, scratch, pool));
    if sender.segments() && answer != Err(Errno::MSGSIZE) {
        sender.give_up_segments();
        counters.gso_off.add(1);
    }
    (1, answer.map_err(reason))
}

/// What a refused send means for the frame.
fn reason(errno: Errno) -> DropReason {
    match errno {
        Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => DropReason::TxFull,
        // The path's MTU is smaller than was known.
        Errno::MSGSIZE => DropReason::TooBig,
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN => DropReason::TxDown,
        _ => DropReason::TxError,
    }
}

/// How many of the first sends go in one message, and how long its datagrams are where they are several.
fn run(left: &[Queued]) -> (usize, Option<u16>) {
    let Some(first) = left.first() else { return (0, None) };
    let size = first.send.segment_size();
    let most = MAX_SEGMENTS.min(MAX_BYTES / size.max(1)).max(1);
    let run = left.iter().take(most).take_while(|it| first.goes_with(it)).count().max(1);
    (run, u16::try_from(size).ok().filter(|_| run > 1 || first.send.count() > 1))
}

/// The two parts of each datagram of a send.
fn parts<'a>(
    queued: &Queued,
    scratch: &'a [u8],
    pool: &'a Pool,
) -> impl Iterator<Item = [IoSlice<'a>; 2]> + use<'a> {
    let headers = scratch.get(queued.at..).unwrap_or_default();
    let frame = pool.bytes(&queued.letter.frame);
    queued.send.pieces().map(move |piece| {
        let headers = headers.get(piece.headers).unwrap_or_default();
        [headers, frame.get(piece.payload).unwrap_or_default()].map(IoSlice::new)
    })
}

/// Sends the first ones in as few messages as there can be, by one call. How many of them the answer is about.
fn together(sender: &Sender, left: &[Queued], scratch: &[u8], pool: &Pool) -> (usize, Result<(), Errno>) {
    let mut all = [IoSlice::new(&[]); PARTS];
    // Of each message: its parts end here, its sends there, its datagrams have this size.
    let mut ends = [(0, 0, None); MESSAGES];
    let (mut used, mut next, mut count) = (0, 0, 0);
    for end in &mut ends {
        let rest = left.get(next..).unwrap_or_default();
        let (run, size) = run(rest);
        let sends = rest.get(..run).unwrap_or_default();
        let wanted: usize = sends.iter().map(|it| 2 * it.send.count()).sum();
        if run == 0 || used + wanted > PARTS {
            break;
        }
        let pairs = sends.iter().flat_map(|it| parts(it, scratch, pool));
        for (place, part) in all.iter_mut().skip(used).zip(pairs.flatten()) {
            *place = part;
        }
        (used, next, count) = (used + wanted, next + run, count + 1);
        *end = (used, next, size);
    }
    let message = |index: usize| {
        let before = index.checked_sub(1).and_then(|it| ends.get(it)).copied().unwrap_or((0, 0, None));
        let this = ends.get(index).copied().unwrap_or((0, 0, None));
        let letter = left.get(before.1).or(left.first()).map(|it| it.letter);
        Outgoing {
            to: letter.map_or(SocketAddr::from(([0; 4], 0)), |it| it.to),
            parts: all.get(before.0..this.0).unwrap_or_default(),
            size: this.2,
            tos: letter.map_or(0, |it| it.tos),
        }
    };
    let messages: [Outgoing<'_>; MESSAGES] = std::array::from_fn(message);
    let answer = mmsg::send(&sender.socket, messages.get(..count).unwrap_or_default());
    let about = answer.unwrap_or(1).max(1);
    (ends.get(about - 1).map_or(1, |end| end.1).max(1), answer.map(drop))
}

/// Sends the datagrams of one send each as a message.
fn one_by_one(sender: &Sender, queued: &Queued, scratch: &[u8], pool: &Pool) -> Result<(), Errno> {
    let Letter { to, tos, .. } = queued.letter;
    let mut pieces = parts(queued, scratch, pool);
    loop {
        let mut pairs = [[IoSlice::new(&[]); 2]; MESSAGES];
        let count = pairs.iter_mut().zip(&mut pieces).map(|(place, pair)| *place = pair).count();
        if count == 0 {
            return Ok(());
        }
        let messages: [Outgoing<'_>; MESSAGES] = std::array::from_fn(|index| {
            let parts = pairs.get(index).map_or(&[][..], |pair| &pair[..]);
            Outgoing { to, parts, size: None, tos }
        });
        let mut left = messages.get(..count).unwrap_or_default();
        while !left.is_empty() {
            let sent = mmsg::send(&sender.socket, left)?;
            left = left.get(sent.max(1)..).unwrap_or_default();
        }
    }
}
