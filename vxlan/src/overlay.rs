//! The overlay as devices of a worker: ports of another engine as they are, and beside them ports that are remotes.
//!
//! A frame for a remote is queued, headers and all, and sent by [`Io::flush`]; what remotes send comes with the batch, and
//! each frame by the port of who sent it. Only datagrams of remotes that are known, and in their own network, are believed.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use foldhash::fast::RandomState;
use switch::books::{Books, Ticket};
use switch::drop::DropReason;
use switch::flow::Meta;
use switch::frame::{FillError, Frame, Pool};
use switch::io::{Batch, Io, IoStats, Sent, Wait};
use switch::port::PortId;
use switch::sys::mmsg::{self, Incoming, MESSAGES};
use switch::tick::Tick;

use crate::coalesce::Coalescer;
use crate::decap;
use crate::ecn::Ecn;
use crate::encap::{Encap, EncapError, Underlay, way};
use crate::outbox::{Letter, Outbox};
use crate::sockets::Sockets;
use crate::wire::{Repr, Reserved, Vni};

/// Bytes of one receive: the longest datagram, or as many as `UDP_GRO` puts together.
const EACH: usize = 1 << 16;
/// Inner frames of one batch; those beyond are lost.
const FRAMES: u16 = 2048;

/// A remote in a network: what a switch port needs to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Where its datagrams go. They come from the same address, by any l4 port.
    pub address: SocketAddr,
    /// The network.
    pub vni: Vni,
    /// What the way there takes.
    pub underlay: Underlay,
    /// The network's MTU.
    pub mtu: u16,
}

/// What was received and is not for a port, and what else nobody else counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverlayStats {
    /// Datagrams received.
    pub datagrams: u64,
    /// Of a sender that is no remote, or not of this network.
    pub unknown: u64,
    /// No VXLAN: too short, no I flag, reserved bits where they are not accepted.
    pub malformed: u64,
    /// With reserved bits, accepted.
    pub reserved: u64,
    /// Inner frames that were refused: tags, sources, congestion, what the parser says.
    pub refused: u64,
    /// Inner frames beyond what a batch holds.
    pub overflow: u64,
    /// Sockets that may not send many datagrams at a time any more.
    pub gso_off: u64,
}

/// An engine with remotes.
pub struct Overlay<I> {
    /// The engine of all other ports.
    pub io: I,
    sockets: Sockets,
    reserved: Reserved,
    /// By port.
    remotes: Box<[Option<Remote>]>,
    /// Who a datagram is from.
    known: HashMap<(IpAddr, Vni), PortId, RandomState>,
    outbox: Outbox,
    inbox: Inbox,
    /// What nobody else counts.
    pub stats: OverlayStats,
}

/// What was received and is not all handed over.
struct Inbox {
    buffer: Box<[u8]>,
    coalescer: Coalescer,
    /// Writes that were handed over.
    done: usize,
}

impl Inbox {
    fn is_empty(&self) -> bool {
        self.coalescer.outs().nth(self.done).is_none()
    }
}

impl<I: Io> Overlay<I> {
    /// Ports `0..ports` of `io`, and remotes that are reached by `sockets`.
    pub fn new(io: I, ports: u16, sockets: Sockets, reserved: Reserved) -> Self {
        Self {
            io,
            outbox: Outbox::new(sockets.senders.len()),
            sockets,
            reserved,
            remotes: vec![None; usize::from(ports)].into_boxed_slice(),
            known: HashMap::default(),
            inbox: Inbox {
                buffer: vec![0; MESSAGES * EACH].into_boxed_slice(),
                coalescer: Coalescer::new(FRAMES),
                done: 0,
            },
            stats: OverlayStats::default(),
        }
    }

    /// From now on the port is this remote, or none. False: there is no such port, or another one is it.
    pub fn set_remote(&mut self, port: PortId, remote: Option<Remote>) -> bool {
        let Some(place) = self.remotes.get_mut(port.index()) else { return false };
        let key = |remote: &Remote| (remote.address.ip(), remote.vni);
        if remote.is_some_and(|it| self.known.get(&key(&it)).is_some_and(|owner| *owner != port)) {
            return false;
        }
        if let Some(old) = std::mem::replace(place, remote) {
            self.known.remove(&key(&old));
        }
        if let Some(new) = remote {
            self.known.insert(key(&new), port);
        }
        true
    }

    /// Sends what is queued.
    fn send(&mut self, pool: &mut Pool, books: &mut Books) {
        self.stats.gso_off += self.outbox.send(&mut self.sockets.senders, pool, books);
    }

    /// Queues a frame to a remote.
    fn queue(
        &mut self,
        pool: &mut Pool,
        remote: &Remote,
        (out, ticket): (PortId, Ticket),
        frame: &Frame,
        meta: &Meta,
    ) -> Result<Sent, DropReason> {
        let bytes = pool.bytes(frame);
        let way = way(bytes, meta, self.sockets.senders.len());
        let mut encap = Encap::new(bytes, meta, remote.vni, remote.underlay).map_err(reason)?;
        if !self.outbox.has_room(way, encap.scratch()) {
            return Err(DropReason::TxFull);
        }
        let tos = Ecn::outer(meta).bits();
        let letter = Letter { frame: *frame, to: remote.address, out, ticket, tos };
        let before = self.outbox.waiting(way);
        loop {
            match encap.send(self.outbox.scratch()) {
                Ok(Some(send)) => self.outbox.push(way, letter, send),
                Ok(None) => break,
                Err(error) => {
                    // Nothing goes of a frame that does not go whole.
                    self.outbox.take_back(way, before);
                    return Err(reason(error));
                }
            }
        }
        self.outbox.end(way);
        pool.retain(frame);
        Ok(Sent::Queued)
    }

    /// Hands over what was received before; false: there is no room for more.
    fn deliver(&mut self, pool: &mut Pool, batch: &mut Batch) -> bool {
        let Inbox { buffer, coalescer, done } = &mut self.inbox;
        for out in coalescer.outs().skip(*done) {
            if !batch.has_room() {
                return false;
            }
            let port = PortId(out.stream as u16);
            match pool.fill::<()>(port, |to| coalescer.write(buffer, out, to).ok_or(())) {
                Ok(frame) => batch.frames.push(frame),
                Err(FillError::NoBuffer) => return false,
                Err(_) => batch.lost.push((port, DropReason::OversizedRead)),
            }
            *done += 1;
        }
        coalescer.clear();
        *done = 0;
        true
    }

    /// Takes what is there, once. False: nothing was.
    fn receive(&mut self) -> bool {
        const NOTHING: Incoming =
            Incoming { start: 0, len: 0, size: None, from: None, tos: 0, truncated: false };
        let mut incoming = [NOTHING; MESSAGES];
        let received = mmsg::receive(&self.sockets.receiver, &mut self.inbox.buffer, EACH, &mut incoming);
        // An error is about what was sent from there, which is nothing, or there is nothing to receive.
        let Ok(count) = received else { return false };
        for message in incoming.iter().take(count) {
            self.open(message);
        }
        count > 0
    }

    /// The inner frames of one message, to be put together.
    fn open(&mut self, message: &Incoming) {
        let Some(from) = message.from.map(|from| from.ip()) else { return };
        if message.len == 0 {
            self.stats.datagrams += 1;
            self.stats.malformed += 1;
        }
        let end = message.start + message.len;
        let size = message.size.map_or(message.len, usize::from).max(1);
        for start in (message.start..end).step_by(size) {
            self.stats.datagrams += 1;
            // The last one of a message that was cut off is not whole.
            if message.truncated && start + size >= end {
                self.stats.malformed += 1;
                break;
            }
            self.datagram(from, start..(start + size).min(end), Ecn::of(message.tos));
        }
    }

    fn datagram(&mut self, from: IpAddr, range: Range<usize>, outer: Ecn) {
        let Inbox { buffer, coalescer, .. } = &mut self.inbox;
        let start = range.start;
        let Some(datagram) = buffer.get_mut(range) else { return };
        let Ok(header) = Repr::parse(datagram, self.reserved) else {
            self.stats.malformed += 1;
            return;
        };
        // RFC 7348 section 7: nothing but the outer address says who it is from.
        let Some(&port) = self.known.get(&(from.to_canonical(), header.vni)) else {
            self.stats.unknown += 1;
            return;
        };
        self.stats.reserved += u64::from(header.reserved);
        let mtu = self.remotes.get(port.index()).copied().flatten().map_or(0, |remote| remote.mtu);
        match decap::inner(datagram, start, header, outer, mtu) {
            Ok(inner) if coalescer.add(buffer, u32::from(port.0), &inner) => {}
            Ok(_) => self.stats.overflow += 1,
            Err(_) => self.stats.refused += 1,
        }
    }
}

/// Why the port did not take it.
const fn reason(error: EncapError) -> DropReason {
    match error {
        EncapError::TooBig { .. } => DropReason::TooBig,
        EncapError::NoRoom => DropReason::TxFull,
        EncapError::Malformed => DropReason::TxError,
    }
}

impl<I: Io> Io for Overlay<I> {
    fn rx(&mut self, pool: &mut Pool, batch: &mut Batch, wait: Wait) -> io::Result<Tick> {
        // What is here already is not waited for.
        let wait = if self.inbox.is_empty() { wait } else { Wait::Poll };
        let now = self.io.rx(pool, batch, wait)?;
        while self.deliver(pool, batch) && self.receive() {}
        Ok(now)
    }

    fn tx(
        &mut self,
        pool: &mut Pool,
        out: PortId,
        frame: &Frame,
        meta: &Meta,
        ticket: Ticket,
        books: &mut Books,
    ) -> Result<Sent, DropReason> {
        let Some(remote) = self.remotes.get(out.index()).copied().flatten() else {
            return self.io.tx(pool, out, frame, meta, ticket, books);
        };
        match self.queue(pool, &remote, (out, ticket), frame, meta) {
            Err(DropReason::TxFull) => {
                self.send(pool, books);
                self.queue(pool, &remote, (out, ticket), frame, meta)
            }
            answer => answer,
        }
    }

    fn flush(&mut self, pool: &mut Pool, books: &mut Books) {
        self.io.flush(pool, books);
        self.send(pool, books);
    }

    fn rested(&mut self, port: PortId, may_leave: bool) {
        self.io.rested(port, may_leave);
    }

    fn stopped(&self) -> bool {
        self.io.stopped()
    }

    fn take_stats(&mut self) -> IoStats {
        self.io.take_stats()
    }
}
