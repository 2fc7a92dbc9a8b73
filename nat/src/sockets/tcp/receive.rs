//! From the container to the socket: acknowledgments, data in order, FIN.

use std::ops::Range;

use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use switch::flow::{Packet, TcpMeta};
use switch::sys::socket::discard;

use super::{State, Syn, Tcp};
use crate::sockets::cx::{Bytes, Cx, Fate};
use crate::sockets::types::{Emit, Link};
use crate::sockets::wire::flag;

/// Duplicate acknowledgments that say that something was lost (RFC 5681 section 3.2).
const DUPLICATES: u8 = 3;

impl Tcp {
    /// A segment of the container. What it makes necessary is done in [`Tcp::serve`], once for a batch.
    pub fn packet<E: Emit>(&mut self, bytes: Bytes<'_>, packet: &Packet, cx: &mut Cx<'_, E>) -> Fate {
        let Some(tcp) = packet.meta.tcp else { return Fate::Keep };
        match self.state {
            State::Connecting => return self.while_connecting(bytes.of(cx.out), packet, &tcp, cx.link),
            State::SynSent => return self.answer(bytes, packet, &tcp, cx),
            State::SynAckSent | State::Established => {}
        }
        if tcp.flags & flag::RST != 0 {
            return self.reset_by_container(&tcp, cx);
        }
        if tcp.flags & flag::SYN != 0 {
            if self.state == State::SynAckSent && tcp.seq.wrapping_add(1) == self.rcv_nxt {
                self.segment(cx, flag::SYN | flag::ACK, self.snd_una);
            } else {
                // RFC 5961 section 4.2: whoever is really new answers this with a RST.
                self.segment(cx, flag::ACK, self.snd_nxt);
            }
            return Fate::Keep;
        }
        // RFC 9293 section 3.10.7.4: nothing without ACK; what acknowledges the future is answered and dropped.
        if tcp.flags & flag::ACK == 0 {
            return Fate::Keep;
        }
        let acked = tcp.ack.wrapping_sub(self.snd_una) as i32;
        if i64::from(acked) > i64::from(self.snd_max.wrapping_sub(self.snd_una)) {
            self.ack_due = true;
            return Fate::More;
        }
        if self.state == State::SynAckSent {
            if acked != 1 {
                return Fate::Keep;
            }
            self.establish(tcp.ack);
        }
        if acked >= 0 && self.acknowledged(&tcp, cx) == Fate::Gone {
            return Fate::Gone;
        }
        if self.take(bytes, packet, &tcp, cx) == Fate::Gone { Fate::Gone } else { Fate::More }
    }

    fn while_connecting(&mut self, frame: &[u8], packet: &Packet, tcp: &TcpMeta, link: &Link) -> Fate {
        // The container gave up.
        if tcp.flags & flag::RST != 0 && tcp.seq == self.rcv_nxt {
            self.abort();
            return Fate::Gone;
        }
        // It asks again, and the socket still tries; or it gave up without a word and begins anew, of which nothing
        // was said yet to anybody.
        if tcp.flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN {
            self.begin_with(tcp, Syn::read(frame, packet, link));
        }
        Fate::Keep
    }

    /// The container has our SYN: `ack` is what it waits for.
    pub(super) fn establish(&mut self, ack: u32) {
        self.state = State::Established;
        (self.snd_una, self.retry, self.tries) = (ack, None, 0);
    }

    /// An acknowledgment that is not of the future nor of the past.
    fn acknowledged<E: Emit>(&mut self, tcp: &TcpMeta, cx: &mut Cx<'_, E>) -> Fate {
        let window = u32::from(tcp.window) << self.scale;
        let acked = tcp.ack.wrapping_sub(self.snd_una);
        let same_window = std::mem::replace(&mut self.window, window) == window;
        if acked > 0 {
            return self.advance(tcp.ack, acked, cx);
        }
        if self.snd_una == self.snd_max {
            // Whatever was asked, this is the answer.
            (self.tries, self.retry) = (0, None);
        } else if tcp.payload == 0 && same_window && tcp.flags & flag::FIN == 0 {
            self.duplicates = self.duplicates.saturating_add(1);
            if self.duplicates == DUPLICATES && self.recover.is_none() {
                self.recover = Some(self.snd_max);
                self.go_back(cx);
                self.arm(cx.now);
            }
        }
        if self.window == 0 {
            // It lives, so the probes go on for as long as it likes (RFC 9293 section 3.8.6.1).
            self.tries = self.tries.min(super::TRIES / 2);
        }
        Fate::Keep
    }

    /// `acked` more sequence numbers are with the container: the socket need not keep them.
    fn advance<E: Emit>(&mut self, ack: u32, acked: u32, cx: &mut Cx<'_, E>) -> Fate {
        let fin = self.eof.is_some_and(|eof| ack == eof.wrapping_add(1));
        let mut data = acked.saturating_sub(u32::from(fin)) as usize;
        while data > 0 {
            match discard(&self.socket, data) {
                Ok(taken) if taken > 0 => data = data.saturating_sub(taken),
                Err(Errno::INTR) => {}
                // What was looked at is always there to be taken, but for a socket that broke.
                _ => return self.reset_container(cx),
            }
        }
        self.snd_una = ack;
        // It had more than we knew after going back.
        if (self.snd_nxt.wrapping_sub(ack) as i32) < 0 {
            self.snd_nxt = ack;
        }
        if self.recover.is_some_and(|recover| (ack.wrapping_sub(recover) as i32) >= 0) {
            self.recover = None;
        }
        (self.duplicates, self.tries, self.retry) = (0, 0, None);
        if self.snd_una != self.snd_max {
            self.arm(cx.now);
        }
        Fate::Keep
    }

    /// Gives the socket what is new and in order.
    fn take<E: Emit>(
        &mut self,
        bytes: Bytes<'_>,
        packet: &Packet,
        tcp: &TcpMeta,
        cx: &mut Cx<'_, E>,
    ) -> Fate {
        let fin = tcp.flags & flag::FIN != 0;
        let known = self.rcv_nxt.wrapping_sub(tcp.seq) as i32;
        let Ok(known) = u32::try_from(known) else {
            // Something before it is missing: say so at once (RFC 5681 section 3.2). Nothing is kept.
            cx.counters.out_of_order += 1;
            self.segment(cx, flag::ACK, self.snd_nxt);
            return Fate::Keep;
        };
        if known > tcp.payload || (known == tcp.payload && !fin && known > 0) {
            // Seen before, or a question whether we are there.
            self.ack_due = true;
            return Fate::Keep;
        }
        if tcp.payload == 0 && !fin {
            return Fate::Keep;
        }
        self.ack_due = true;
        if self.fin_taken {
            return Fate::Keep;
        }
        let start = usize::from(packet.meta.headers_len).saturating_add(known as usize);
        let range = start..packet.meta.l3_end as usize;
        if !range.is_empty() && !self.give(bytes, range, cx) {
            return self.reset_container(cx);
        }
        if fin && self.rcv_nxt == tcp.seq.wrapping_add(tcp.payload) {
            self.rcv_nxt = self.rcv_nxt.wrapping_add(1);
            self.fin_taken = true;
            // Where nothing is left it is closed at once, which says the same.
            if !self.is_over() {
                // It fails only where the peer has reset the connection, which reading will tell.
                let _ = shutdown(&self.socket, Shutdown::Write);
            }
        }
        Fate::Keep
    }

    /// Writes to the socket. False: it is broken.
    fn give<E: Emit>(&mut self, bytes: Bytes<'_>, range: Range<usize>, cx: &mut Cx<'_, E>) -> bool {
        let data = bytes.of(cx.out).get(range).unwrap_or_default();
        let wanted = data.len();
        let taken = match send(&self.socket, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(taken) => taken,
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => 0,
            Err(_) => return false,
        };
        cx.counters.bytes_out += taken as u64;
        self.rcv_nxt = self.rcv_nxt.wrapping_add(taken as u32);
        self.room = self.room.saturating_sub(taken as u32);
        self.measured = false;
        if taken < wanted {
            cx.counters.window_refused += 1;
            // The one time that a window shrinks (RFC 9293 section 3.8.6 allows it). The socket remembers that we
            // wait, and an event says when it takes more.
            (self.room, self.edge, self.measured) = (0, self.rcv_nxt, true);
            (self.refused, self.tight) = (true, true);
        }
        true
    }
}
