//! The overlay as devices of a worker: ports of another engine as they are, and beside them ports that are remotes.
//!
//! A frame for a remote is queued, headers and all, and sent by [`Io::flush`]; what remotes send comes with the batch, and
//! each frame by the port of who sent it. Only datagrams of remotes that are known, and in their own network, are believed.
//!
//! The inner engine sleeps for both: it has an eye ([`Eye::Around`]) on what is readable
//! when a datagram is there.

use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use arc_swap::Cache;
use rustix::event::epoll;
use rustix::io::Errno;
use switch::books::{Books, Ticket};
use switch::drop::DropReason;
use switch::flow::Meta;
use switch::frame::{FillError, Frame, Pool};
use switch::io::{Batch, Eye, Io, IoStats, Sent, Wait};
use switch::port::PortId;
use switch::sys::mmsg::{self, Incoming, MESSAGES};
use switch::tick::Tick;

use crate::coalesce::Coalescer;
use crate::decap;
use crate::ecn::Ecn;
use crate::encap::{Encap, way};
use crate::outbox::{Letter, Outbox};
use crate::settings::{OverlayCounters, Published, Remote, Settings};
use crate::sockets::Sockets;

/// Bytes of one receive: the longest datagram, or as many as `UDP_GRO` puts together.
const EACH: usize = 1 << 16;
/// Inner frames of one batch; those beyond are lost.
const FRAMES: u16 = 2048;
/// Bytes that one receive asks for, by the mean length of the latest messages, and one batch takes of remotes. Long ones are
/// received and written one by one: what is received before the last one was written pushes it out of the cache. Short ones
/// come as many as one call takes.
const BYTES: usize = 64 << 10;

/// An engine with remotes.
///
/// # Threads
/// As the engine: one thread's. What it shares are its settings, which it looks at once a batch, and its counters.
pub struct Overlay<I> {
    /// The engine of all other ports.
    pub io: I,
    published: Cache<Published, Arc<Settings>>,
    /// What was published last.
    settings: Arc<Settings>,
    /// Which worker this is.
    me: usize,
    /// Holds the receiving socket, while there is one.
    eye: OwnedFd,
    sockets: Option<Arc<Sockets>>,
    outbox: Outbox,
    inbox: Inbox,
    /// Datagrams may be there.
    readable: bool,
    /// The last batch had no room for all that remotes sent.
    owed: bool,
    /// The last batch had nothing but what remotes sent: this one asks the other ports first.
    alone: bool,
    counters: Arc<OverlayCounters>,
}

/// What was received and is not all handed over.
struct Inbox {
    buffer: Box<[u8]>,
    coalescer: Coalescer,
    /// Writes that were handed over.
    done: usize,
    /// Mean length of the latest messages, bytes.
    mean: usize,
}

impl Inbox {
    fn is_empty(&self) -> bool {
        self.coalescer.outs().nth(self.done).is_none()
    }

    /// Nearly all datagrams of a stream: the next segment behind that of the one before it.
    fn extend(&mut self, range: &Range<usize>) -> bool {
        self.coalescer.extend(&self.buffer, range.clone())
    }
}

impl<I: Io> Overlay<I> {
    /// Worker `me`'s, around `io`, which gets an eye on the sockets.
    ///
    /// # Errors
    /// When the kernel has no descriptors left.
    ///
    /// # Syscalls
    /// `epoll_create1`; later `epoll_ctl`, `sendmmsg`, `recvmmsg`
    pub fn new(mut io: I, published: Published, me: usize) -> Result<Self, Errno> {
        let eye = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        io.watch(Eye::Around, eye.as_fd())?;
        Ok(Self {
            io,
            published: Cache::new(published),
            settings: Arc::default(),
            me,
            eye,
            sockets: None,
            outbox: Outbox::new(),
            inbox: Inbox {
                buffer: vec![0; MESSAGES * EACH].into_boxed_slice(),
                coalescer: Coalescer::new(FRAMES),
                done: 0,
                mean: 0,
            },
            readable: false,
            owed: false,
            alone: false,
            counters: Arc::default(),
        })
    }

    /// Its counters, to be read by anybody.
    pub fn counters(&self) -> &Arc<OverlayCounters> {
        &self.counters
    }

    /// Takes in what was published since.
    #[inline]
    fn follow(&mut self) {
        let settings = self.published.load();
        if !Arc::ptr_eq(settings, &self.settings) {
            let settings = Arc::clone(settings);
            self.configure(settings);
        }
    }

    #[cold]
    fn configure(&mut self, settings: Arc<Settings>) {
        let sockets = settings.sockets(self.me);
        if self.sockets.as_ref().map(Arc::as_ptr) != sockets.map(Arc::as_ptr) {
            if let Some(old) = self.sockets.take() {
                // They may be open elsewhere, and would go on being heard of.
                self.unwatch(&old);
            }
            if let Some(new) = sockets {
                let data = epoll::EventData::new_u64(0);
                let watched = new
                    .receivers
                    .iter()
                    .try_for_each(|new| epoll::add(&self.eye, new, data, epoll::EventFlags::IN));
                if watched.is_err() {
                    self.unwatch(new);
                    return; // no memory is left for it: the next batch tries again
                }
                self.sockets = Some(Arc::clone(new));
            }
            self.outbox.ways(self.sockets.as_ref().map_or(0, |sockets| sockets.senders.len()));
            self.readable = self.sockets.is_some();
        }
        self.settings = settings;
    }

    fn unwatch(&self, sockets: &Sockets) {
        for receiver in &sockets.receivers {
            let _ = epoll::delete(&self.eye, receiver); // it fails only for what is not watched
        }
    }

    /// Sends what is queued.
    fn send(&mut self, pool: &mut Pool, books: &mut Books) {
        if let Some(sockets) = &self.sockets {
            self.outbox.send(&sockets.senders, pool, books, &self.counters);
        }
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
        let ways = self.sockets.as_ref().ok_or(DropReason::TxDown)?.senders.len();
        let bytes = pool.bytes(frame);
        let way = way(bytes, meta, ways);
        let mut encap = Encap::new(bytes, meta, remote.vni, remote.underlay)?;
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
                    return Err(error.into());
                }
            }
        }
        self.outbox.end(way);
        pool.retain(frame);
        Ok(Sent::Queued)
    }

    /// What is there, as far as the batch has room and what is in it stays in the cache.
    fn take(&mut self, pool: &mut Pool, batch: &mut Batch) {
        let mut taken = 0;
        while self.deliver(pool, batch) && self.readable && taken < BYTES {
            taken += self.receive(batch);
        }
        self.owed = self.readable || !self.inbox.is_empty();
    }

    /// Hands over what was received before; false: there is no room for more.
    fn deliver(&mut self, pool: &mut Pool, batch: &mut Batch) -> bool {
        let Inbox { buffer, coalescer, done, .. } = &mut self.inbox;
        for out in coalescer.outs().skip(*done) {
            if !batch.has_room() {
                return false;
            }
            let port = PortId(out.stream as u16);
            match pool.fill::<()>(port, |to| coalescer.write(buffer, out, to).ok_or(())) {
                Ok(frame) => batch.frames.push(frame),
                Err(FillError::NoBuffer) => return false,
                Err(_) => batch.lose(port, DropReason::OversizedRead),
            }
            *done += 1;
        }
        if *done > 0 {
            coalescer.clear();
            *done = 0;
        }
        batch.has_room()
    }

    /// Takes what the sockets have, once, and says how many bytes that is.
    fn receive(&mut self, batch: &mut Batch) -> usize {
        const NOTHING: Incoming =
            Incoming { start: 0, len: 0, size: None, from: None, tos: 0, truncated: false };
        self.readable = false;
        let Some(sockets) = self.sockets.take() else { return 0 };
        let most = (BYTES / self.inbox.mean.max(1)).clamp(1, MESSAGES) * EACH;
        let (mut used, mut bytes) = (0, 0);
        for receiver in &sockets.receivers {
            let mut incoming = [NOTHING; MESSAGES];
            let rest = self.inbox.buffer.get_mut(used * EACH..).unwrap_or_default();
            let (room, _) = rest.split_at_mut(most.min(rest.len()));
            let asked = room.len() / EACH;
            // An error is about what was sent from there, which is nothing, or there is nothing to receive.
            let count = mmsg::receive(receiver, room, EACH, &mut incoming).unwrap_or(0);
            // Fewer than it asked for is all there was; of what comes meanwhile the eye tells.
            self.readable |= count == asked;
            for message in incoming.iter().take(count) {
                bytes += message.len;
                self.inbox.mean = (7 * self.inbox.mean + message.len) / 8;
                self.open(&Incoming { start: message.start + used * EACH, ..*message }, batch);
            }
            used += count;
        }
        self.sockets = Some(sockets);
        bytes
    }

    /// The inner frames of one message, to be put together.
    fn open(&mut self, message: &Incoming, batch: &mut Batch) {
        let Some(from) = message.from.map(|from| from.ip()) else { return };
        let (end, outer) = (message.start + message.len, Ecn::of(message.tos));
        self.inbox.coalescer.next_message();
        for range in decap::datagrams(message.start..end, message.size) {
            self.counters.datagrams.add(1);
            if !message.truncated && !outer.marks() && self.inbox.extend(&range) {
                continue;
            }
            // The last one of a message that was cut off is not whole.
            let taken = if message.truncated && range.end == end {
                Err((PortId::NOBODY, DropReason::OversizedRead))
            } else {
                self.datagram(from, range, outer)
            };
            if let Err((port, reason)) = taken {
                batch.lose(port, reason);
            }
        }
    }

    /// One datagram; or whose it is, and why there is no frame in it.
    fn datagram(
        &mut self,
        from: IpAddr,
        range: Range<usize>,
        outer: Ecn,
    ) -> Result<(), (PortId, DropReason)> {
        let Inbox { buffer, coalescer, .. } = &mut self.inbox;
        let start = range.start;
        let datagram = buffer.get_mut(range).ok_or((PortId::NOBODY, DropReason::VxlanMalformed))?;
        let (port, inner) = decap::open(&self.settings, from, datagram, start, outer)?;
        self.counters.reserved.add(u64::from(inner.header.reserved));
        if coalescer.add(buffer, u32::from(port.0), &inner) {
            Ok(())
        } else {
            Err((port, DropReason::VxlanFull))
        }
    }
}

impl<I: Io> Io for Overlay<I> {
    fn rx(&mut self, pool: &mut Pool, batch: &mut Batch, wait: Wait) -> io::Result<Tick> {
        self.follow();
        // Neither ports nor remotes that always have something keep the others waiting: each have every other batch.
        if self.owed && !self.alone {
            self.take(pool, batch);
            self.alone = !batch.frames.is_empty();
            if self.alone {
                return Ok(Tick::now());
            }
        }
        self.alone = false;
        // What is here already is not waited for.
        let wait = if self.readable || !self.inbox.is_empty() { Wait::Poll } else { wait };
        let now = self.io.rx(pool, batch, wait)?;
        self.readable |= batch.watched[Eye::Around as usize] && self.sockets.is_some();
        if self.readable || !self.inbox.is_empty() {
            self.take(pool, batch);
        }
        Ok(now)
    }

    #[inline]
    fn tx(
        &mut self,
        pool: &mut Pool,
        out: PortId,
        frame: &Frame,
        meta: &Meta,
        ticket: Ticket,
        books: &mut Books,
    ) -> Result<Sent, DropReason> {
        let Some(remote) = self.settings.remote(out).copied() else {
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

    fn watch(&mut self, eye: Eye, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.io.watch(eye, fd)
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use switch::io::mem::MemIo;

    use super::*;
    use crate::encap::Underlay;
    use crate::wire::{Reserved, Vni, VxlanHdr};
    use zerocopy::IntoBytes;

    /// No kernel of today puts so many datagrams into one message (128 in one send, `UDP_MAX_SEGMENTS`); what another one
    /// hands over is bounded all the same.
    #[test]
    fn more_than_a_batch_holds_is_dropped_by_name() {
        let (there, remote) = (SocketAddr::from(([127, 0, 0, 2], 4789)), PortId(1));
        let vni = Vni::new(7).unwrap();
        let underlay = Underlay::new(1500, false).unwrap();
        let remotes = [(remote, Remote { address: there, vni, underlay, mtu: 1450 })];
        let settings = Settings::new(Box::default(), Reserved::Accept, [(vni, 1450)], remotes).unwrap();
        let published = Published::default();
        published.store(Arc::new(settings));
        let mut overlay = Overlay::new(MemIo::new(2), published, 0).unwrap();
        overlay.follow();

        // The smallest there are.
        let frame = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
        let datagram = [VxlanHdr::new(vni).as_bytes(), &frame].concat();
        let count = EACH / datagram.len();
        let len = count * datagram.len();
        overlay.inbox.buffer[..len].copy_from_slice(&datagram.repeat(count));
        let size = Some(datagram.len() as u16);
        let message = Incoming { start: 0, len, size, from: Some(there), tos: 0, truncated: false };
        let mut batch = Batch::new();
        overlay.open(&message, &mut batch);
        let lost: Vec<_> = batch.lost.iter().map(|it| (it.port, it.reason, it.count)).collect();
        assert_eq!(lost, [(remote, DropReason::VxlanFull, (count - usize::from(FRAMES)) as u64)]);
        assert_eq!(overlay.inbox.coalescer.outs().count(), usize::from(FRAMES));
        // The next batch has room again.
        overlay.inbox.coalescer.clear();
        let message = Incoming { len: datagram.len(), ..message };
        batch.lost.clear();
        overlay.open(&message, &mut batch);
        assert!(batch.lost.is_empty());
    }
}
