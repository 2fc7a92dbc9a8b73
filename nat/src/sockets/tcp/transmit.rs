//! From the socket to the container: peeks, windows, and sending again.

use std::io::IoSliceMut;

use rustix::io::Errno;
use rustix::net::sockopt::socket_send_buffer_size;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, recv, recvmsg};
use switch::sys::socket::{set_peek_offset, unacknowledged};
use switch::tick::Tick;

use super::{NOT_TAKEN, State, TRIES, Tcp};
use crate::sockets::cx::{Cx, Fate};
use crate::sockets::types::Emit;
use crate::sockets::wire::{self, TCP_LEN, flag, payload_max};

/// Frames that one connection sends before the others have their turn.
const TURN: usize = 4;

impl Tcp {
    /// Sends what the socket has, as far as the container's window allows.
    pub(super) fn pull<E: Emit>(&mut self, cx: &mut Cx<'_, E>) -> Fate {
        for _ in 0..TURN {
            if !self.readable || self.eof.is_some_and(|eof| self.has_sent(eof)) {
                return Fate::Keep;
            }
            let space = self.reach(cx).saturating_sub(self.in_flight());
            // RFC 9293 section 3.8.6.2.1: no segment is made small while there are acknowledgments to wait for.
            if space == 0 || (space < u32::from(self.mss) && self.in_flight() > 0) {
                self.stalled = true;
                self.arm_if_idle(cx.now);
                return Fate::Keep;
            }
            self.stalled = false;
            if self.eof == Some(self.snd_nxt) {
                return self.send_fin(cx);
            }
            match self.step(cx, space) {
                Some(fate) => return fate,
                None => self.arm_if_idle(cx.now),
            }
        }
        if self.readable { Fate::More } else { Fate::Keep }
    }

    /// How far behind what is acknowledged we may send.
    fn reach<E: Emit>(&self, cx: &Cx<'_, E>) -> u32 {
        let skip = if cx.skip.is_empty() { u32::MAX } else { cx.skip.len() as u32 };
        self.window.min(skip)
    }

    /// Whether `seq` lies before the next to be sent.
    const fn has_sent(&self, seq: u32) -> bool {
        (self.snd_nxt.wrapping_sub(seq) as i32) > 0
    }

    /// One peek and one frame. `None`: there may be more.
    fn step<E: Emit>(&mut self, cx: &mut Cx<'_, E>, space: u32) -> Option<Fate> {
        let mss = usize::from(self.mss);
        let mut want = payload_max(cx.key, TCP_LEN).min(space as usize);
        if want > mss {
            want -= want % mss;
        }
        let window = self.offer(cx, false);
        let header = wire::Tcp {
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags: flag::ACK | flag::PSH,
            window,
            syn: None,
        };
        let wire = cx.wire();
        let at = wire.l4_at() + TCP_LEN;
        let seen = self.in_flight() as usize;
        let mut peeked = None;
        let (this, skip) = (&*self, &mut *cx.skip);
        let taken = cx.out.emit(cx.link.port, &mut |out| {
            let space = out.get_mut(at..).unwrap_or_default();
            let want = want.min(space.len());
            let result = this.peek(space.get_mut(..want).unwrap_or_default(), seen, skip);
            peeked = Some(result);
            match result {
                Ok(len) if len > 0 => wire.tcp(out, &header, len, this.mss).unwrap_or(0),
                _ => 0,
            }
        });
        match (peeked, taken) {
            (Some(Ok(0)), _) => {
                self.eof = Some(self.snd_nxt);
                None
            }
            (Some(Ok(len)), Ok(())) => {
                cx.counters.bytes_in += len as u64;
                self.sent(len as u32);
                self.ack_due = false;
                self.readable = len == want || self.hung_up || self.eof.is_some();
                None
            }
            (Some(Err(Errno::AGAIN | Errno::INTR)), _) => {
                self.readable = false;
                Some(Fate::Keep)
            }
            (Some(Err(_)), _) => Some(self.reset_container(cx)),
            (None, _) | (Some(Ok(_)), Err(_)) => {
                cx.counters.not_taken += 1;
                self.look_from(cx, self.in_flight());
                self.retry_soon(cx.now);
                Some(Fate::Keep)
            }
        }
    }

    /// Looks at what the socket has behind the `seen` bytes that are on their way already.
    fn peek(&self, to: &mut [u8], seen: usize, skip: &mut [u8]) -> rustix::io::Result<usize> {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        if skip.is_empty() || seen == 0 {
            return recv(&self.socket, to, flags).map(|(_, len)| len);
        }
        // A kernel that cannot skip copies it all, and we throw away what we know.
        let skip = skip.get_mut(..seen).ok_or(Errno::AGAIN)?;
        let mut parts = [IoSliceMut::new(skip), IoSliceMut::new(to)];
        let len = recvmsg(&self.socket, &mut parts, &mut RecvAncillaryBuffer::default(), flags)?.bytes;
        match len.saturating_sub(seen) {
            0 if !self.hung_up => Err(Errno::AGAIN),
            len => Ok(len),
        }
    }

    /// The next peek starts `seen` bytes behind what the container acknowledged.
    fn look_from<E: Emit>(&mut self, cx: &Cx<'_, E>, seen: u32) {
        if cx.skip.is_empty() {
            // It worked on a socket like this at the start.
            let _ = set_peek_offset(&self.socket, seen);
        }
        self.readable = true;
    }

    fn sent(&mut self, len: u32) {
        self.snd_nxt = self.snd_nxt.wrapping_add(len);
        if (self.snd_nxt.wrapping_sub(self.snd_max) as i32) > 0 {
            self.snd_max = self.snd_nxt;
        }
    }

    fn send_fin<E: Emit>(&mut self, cx: &mut Cx<'_, E>) -> Fate {
        if self.segment(cx, flag::FIN | flag::ACK, self.snd_nxt) {
            self.sent(1);
            self.arm_if_idle(cx.now);
        } else {
            self.retry_soon(cx.now);
        }
        Fate::Keep
    }

    /// Starts again with what is not acknowledged.
    pub(super) fn go_back<E: Emit>(&mut self, cx: &mut Cx<'_, E>) {
        self.snd_nxt = self.snd_una;
        self.duplicates = 0;
        cx.counters.retransmits += 1;
        self.look_from(cx, 0);
    }

    fn arm_if_idle(&mut self, now: Tick) {
        if self.retry.is_none() {
            self.arm(now);
        }
    }

    pub(super) fn retry_soon(&mut self, now: Tick) {
        let soon = now.plus_millis(NOT_TAKEN);
        self.retry = Some(self.retry.map_or(soon, |retry| retry.min(soon)));
        self.blocked = true;
    }

    /// Its time has come: an answer is missing, or the connection was idle for long.
    pub fn timer<E: Emit>(&mut self, cx: &mut Cx<'_, E>) -> Fate {
        if self.state == State::Connecting {
            // The socket's kernel has its own patience.
            self.retry = Some(cx.now.plus_millis(super::RTO_MAX));
            return Fate::Keep;
        }
        if std::mem::take(&mut self.blocked) {
            self.retry = None;
            if self.snd_una != self.snd_max {
                self.arm(cx.now);
            }
            return self.serve(cx);
        }
        if self.tries == 0 && self.state == State::Established && self.snd_una == self.snd_max {
            self.ask_far_end();
        }
        self.tries = self.tries.saturating_add(1);
        // A client waits: half of the tries are enough for a SYN.
        let tries = if self.state == State::SynSent { TRIES / 2 } else { TRIES };
        if self.tries > tries {
            self.abort();
            return self.reset_container(cx);
        }
        self.arm(cx.now);
        match self.state {
            State::SynAckSent => self.segment(cx, flag::SYN | flag::ACK, self.snd_una),
            State::SynSent => self.segment(cx, flag::SYN, self.snd_una),
            _ => return self.missing(cx),
        };
        Fate::Keep
    }

    /// No answer to data, to a window of zero, or nothing at all for long.
    fn missing<E: Emit>(&mut self, cx: &mut Cx<'_, E>) -> Fate {
        if self.snd_una != self.snd_max {
            self.go_back(cx);
            self.recover = None;
        }
        if self.window == 0 || self.snd_una == self.snd_max {
            // An old sequence number must be answered with an ack and the window as it is (RFC 9293 section 3.10.7.4).
            self.segment(cx, flag::ACK, self.snd_una.wrapping_sub(1));
        }
        self.serve(cx)
    }

    /// The window to say, scaled unless it is for a SYN.
    pub(super) fn offer<E: Emit>(&mut self, cx: &Cx<'_, E>, syn: bool) -> u16 {
        if !self.measured && self.room <= self.buffer / 2 {
            self.measure(cx);
        }
        let promised = u32::try_from(self.edge.wrapping_sub(self.rcv_nxt) as i32).unwrap_or(0);
        // RFC 9293 section 3.8.6.2.2: no small window is offered.
        let small = self.room < u32::from(self.mss).min(self.buffer / 4);
        let window = if small { promised } else { promised.max(self.room) };
        let shift = if syn { 0 } else { self.our_scale };
        let field = (window >> shift).min(u32::from(u16::MAX));
        let offered = field << shift;
        if offered > promised {
            self.edge = self.rcv_nxt.wrapping_add(offered);
        }
        field as u16
    }

    /// Asks the socket how much it takes, and for an event where that is little.
    fn measure<E: Emit>(&mut self, cx: &Cx<'_, E>) {
        self.measured = true;
        let Ok(buffer) = socket_send_buffer_size(&self.socket) else { return };
        let queued = unacknowledged(&self.socket).unwrap_or(0);
        // A quarter goes for the kernel's own book-keeping of what is queued.
        self.room = u32::try_from((buffer / 4 * 3).saturating_sub(queued)).unwrap_or(0);
        self.buffer = u32::try_from(buffer).unwrap_or(u32::MAX);
        if self.room < self.buffer / 4 && !self.tight {
            self.tight = true;
            cx.watch.again(&self.socket);
        }
    }

    /// The socket takes more than when it was last asked, a third of its buffer at least.
    pub(super) fn writable<E: Emit>(&mut self, cx: &mut Cx<'_, E>) {
        // It stays set while asking, so that this does not ask for another event.
        self.measure(cx);
        self.tight = false;
        self.room = self.room.max(self.buffer / 4);
        self.ack_due = true;
        if std::mem::take(&mut self.refused) {
            // The first says the window; those after it are duplicates, and make the container send again at once what
            // the socket refused (RFC 5681 section 3.2).
            for _ in 0..4 {
                self.segment(cx, flag::ACK, self.snd_nxt);
            }
        }
    }
}
