//! The ends of connections: resets both ways, and the last acknowledgment.

use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::net::sockopt::{set_socket_linger, socket_error};
use switch::flow::{FlowKey, TcpMeta};

use super::{State, Tcp};
use crate::sockets::cx::{Cx, Fate};
use crate::sockets::types::{Emit, Link};
use crate::sockets::wire::{self, Wire, flag};

impl Tcp {
    /// Something happened at the socket.
    pub fn event<E: Emit>(&mut self, flags: EventFlags, cx: &mut Cx<'_, E>) -> Fate {
        if self.state == State::Connecting {
            return self.connected(flags, cx);
        }
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            self.readable = true;
        }
        self.hung_up |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        // Nothing is read any more that would tell.
        if flags.contains(EventFlags::ERR)
            && self.eof.is_some()
            && !matches!(socket_error(&self.socket), Ok(Ok(())))
        {
            return self.reset_container(cx);
        }
        if flags.contains(EventFlags::OUT) && self.tight {
            self.writable(cx);
        }
        Fate::More
    }

    /// Both sides have sent their FIN and know that the other has it.
    pub(super) fn is_over(&self) -> bool {
        self.fin_taken && self.eof.is_some_and(|eof| self.snd_una == eof.wrapping_add(1))
    }

    /// The connection broke on the side of the socket.
    pub(super) fn reset_container<E: Emit>(&mut self, cx: &mut Cx<'_, E>) -> Fate {
        self.segment(cx, flag::RST | flag::ACK, self.snd_nxt);
        Fate::Gone
    }

    /// The container breaks it. RFC 5961 section 3.2: only with exactly the expected sequence number; a near one is
    /// asked about.
    pub(super) fn reset_by_container<E: Emit>(&mut self, tcp: &TcpMeta, cx: &mut Cx<'_, E>) -> Fate {
        if tcp.seq == self.rcv_nxt {
            self.abort();
            return Fate::Gone;
        }
        let window = self.edge.wrapping_sub(self.rcv_nxt);
        if tcp.seq.wrapping_sub(self.rcv_nxt) < window {
            self.segment(cx, flag::ACK, self.snd_nxt);
        }
        Fate::Keep
    }

    /// Closing the socket will send a RST and not a FIN.
    pub fn abort(&self) {
        // It fails only for what is not a socket.
        let _ = set_socket_linger(&self.socket, Some(Duration::ZERO));
    }

    /// The port is being taken away or belongs to another now.
    pub fn forget<E: Emit>(&mut self, cx: &mut Cx<'_, E>) {
        self.abort();
        self.reset_container(cx);
    }
}

/// Answers a segment that belongs to no connection, or to one that cannot be (RFC 9293 section 3.10.7.1).
pub(in crate::sockets) fn refuse<E: Emit>(out: &mut E, key: &FlowKey, link: &Link, tcp: &TcpMeta) {
    if tcp.flags & flag::RST != 0 {
        return;
    }
    let syn_or_fin = u32::from(tcp.flags & flag::SYN != 0) + u32::from(tcp.flags & flag::FIN != 0);
    let header = if tcp.flags & flag::ACK != 0 {
        wire::Tcp { seq: tcp.ack, flags: flag::RST, ..wire::Tcp::default() }
    } else {
        let ack = tcp.seq.wrapping_add(tcp.payload).wrapping_add(syn_or_fin);
        wire::Tcp { ack, flags: flag::RST | flag::ACK, ..wire::Tcp::default() }
    };
    let wire = Wire { link, key };
    // A RST that is lost is asked for again.
    let _ = out.emit(link.port, &mut |bytes| wire.tcp(bytes, &header, 0, u16::MAX).unwrap_or(0));
}
