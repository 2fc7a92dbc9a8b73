//! TCP, translated: the socket's kernel and the container's kernel are the two ends, we move sequence numbers, acks
//! and windows between them. No data is kept: what the container has not acknowledged stays in the socket's receive
//! queue and is looked at again when it has to be sent again.

mod close;
mod open;
mod receive;
mod transmit;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle};
use switch::tick::Tick;

use super::cx::{Cx, Fate};
use super::types::Emit;
use super::wire::{self, flag};

pub(super) use close::refuse;
pub(super) use open::{Syn, accepted, connect};

/// First wait for an acknowledgment, milliseconds. The container is near: this is its kernel's own least (RFC 6298
/// would have 1 s, for paths).
const RTO: u64 = 200;
/// Longest wait between two tries, milliseconds.
const RTO_MAX: u64 = 30_000;
/// Tries without an answer before the connection is given up: about two minutes in all.
const TRIES: u8 = 10;
/// A connection that carried nothing for so long is asked whether it is still there (RFC 9293 section 3.8.4: no less
/// than two hours).
const IDLE: u64 = 2 * 3600 * 1000;
/// One that one side has closed is asked so often: the other may be long gone. It is what RFC 5382 REQ-5 lets such
/// connections live; those that answer go on.
const HALF_CLOSED: u64 = 240 * 1000;
/// Seconds of silence after which the far end is asked by its kernel, once we doubt that it is there.
const ASK: u64 = 60;
/// How long after a frame that the port did not take the next is tried, milliseconds.
const NOT_TAKEN: u64 = 10;
/// Our window scale: windows up to 8 MiB, twice the largest send buffer Linux makes by itself.
const SCALE: u8 = 7;

/// How far the handshake with the container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The container asked, the socket is connecting.
    Connecting,
    /// The socket is connected, the container has our SYN and ACK.
    SynAckSent,
    /// A client connected to a listening socket, the container has our SYN.
    SynSent,
    /// Data flows.
    Established,
}

/// One connection.
pub(in crate::sockets) struct Tcp {
    socket: OwnedFd,
    state: State,

    // To the container.
    /// The first sequence number it has not acknowledged; what the socket's queue starts with.
    snd_una: u32,
    /// The next we send.
    snd_nxt: u32,
    /// The highest we ever sent, plus one; beyond `snd_nxt` after going back.
    snd_max: u32,
    /// Window it gave, bytes, counted from `snd_una`.
    window: u32,
    /// Its window scale.
    scale: u8,
    /// Payload of one segment, bytes.
    mss: u16,
    /// Sequence number of our FIN, once the socket had no more.
    eof: Option<u32>,
    /// Acknowledgments that acknowledged nothing, in a row.
    duplicates: u8,
    /// After going back for duplicates: not again before this is acknowledged.
    recover: Option<u32>,

    // From the container.
    /// The next sequence number we take.
    rcv_nxt: u32,
    /// End of the window we gave, which is never taken back but when the socket refuses.
    edge: u32,
    /// Our window scale, 0 where it has none.
    our_scale: u8,
    /// Bytes the socket takes, at the least.
    room: u32,
    /// Size of the socket's send buffer, when last asked.
    buffer: u32,
    /// Its FIN was passed on.
    fin_taken: bool,

    // What is left to do.
    /// The socket may have something to read.
    readable: bool,
    /// The peer has sent its FIN, so nothing can follow what lies in the queue.
    hung_up: bool,
    /// An acknowledgment is owed.
    ack_due: bool,
    /// Nothing was written since `room` was asked for.
    measured: bool,
    /// The window is small, and an event will say when the socket takes more.
    tight: bool,
    /// The socket took less than we had offered: the container must send that again.
    refused: bool,
    /// There was no window for what the socket has.
    stalled: bool,
    /// The port did not take a frame: `retry` is the time to try again, and nothing was lost.
    blocked: bool,

    /// When to try again.
    retry: Option<Tick>,
    tries: u8,
}

impl Tcp {
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub fn is_established(&self) -> bool {
        self.state == State::Established
    }

    pub fn state_name(&self) -> &'static str {
        match (self.state, self.fin_taken, self.eof.is_some()) {
            (State::Connecting, ..) => "connecting",
            (State::SynAckSent, ..) => "syn_received",
            (State::SynSent, ..) => "syn_sent",
            (State::Established, false, false) => "established",
            (State::Established, true, false) => "half_closed_orig",
            (State::Established, false, true) => "half_closed_reply",
            (State::Established, true, true) => "closing",
        }
    }

    /// When it wants to be looked at, if nothing happens; `used` is when something last did.
    pub fn deadline(&self, used: Tick) -> Tick {
        let half_closed = self.fin_taken != self.eof.is_some();
        let idle = used.plus_millis(if half_closed { HALF_CLOSED } else { IDLE });
        match self.retry {
            // Asked already: its answer is waited for.
            Some(retry) if self.tries > 0 => retry,
            // Nothing can be asked now; a time that is over would be that of the next timer, and of the next.
            Some(retry) if self.blocked || self.state == State::Connecting => retry,
            Some(retry) => retry.min(idle),
            None => idle,
        }
    }

    /// Bytes sent and not acknowledged, as far as we have not gone back.
    const fn in_flight(&self) -> u32 {
        self.snd_nxt.wrapping_sub(self.snd_una)
    }

    /// Wait for an answer, the longer the more often it did not come.
    fn arm(&mut self, now: Tick) {
        let wait = (RTO << self.tries.min(TRIES)).min(RTO_MAX);
        self.retry = Some(now.plus_millis(wait));
    }

    /// Sends a segment without payload and says whether it was taken.
    fn segment<E: Emit>(&mut self, cx: &mut Cx<'_, E>, flags: u8, seq: u32) -> bool {
        let syn = flags & flag::SYN != 0;
        let ack = if flags & flag::ACK != 0 { self.rcv_nxt } else { 0 };
        let options = syn.then(|| self.options(cx));
        // RFC 7323 section 2.2: the window of a SYN is not scaled.
        let window = if flags & flag::RST != 0 { 0 } else { self.offer(cx, syn) };
        let header = wire::Tcp { seq, ack, flags, window, syn: options };
        let (wire, mss) = (cx.wire(), self.mss);
        let (port, mut fill) = (cx.link.port, |out: &mut [u8]| wire.tcp(out, &header, 0, mss).unwrap_or(0));
        let taken = cx.out.emit(port, &mut fill).is_ok();
        if taken {
            self.ack_due &= flags & flag::ACK == 0;
        } else {
            cx.counters.not_taken += 1;
        }
        taken
    }

    /// Nothing came from either side for long. The container is asked by us, the far end by the kernel: without an answer
    /// it ends the connection (tcp(7), `TCP_KEEPCNT` and `TCP_KEEPINTVL`), which the socket then says. Not from the start,
    /// for that is a system call for each connection.
    fn ask_far_end(&self) {
        // They fail only for what is no TCP socket.
        let _ = set_tcp_keepidle(&self.socket, Duration::from_secs(ASK));
        let _ = set_socket_keepalive(&self.socket, true);
    }

    /// What is left to do: data and acknowledgments to the container.
    pub fn serve<E: Emit>(&mut self, cx: &mut Cx<'_, E>) -> Fate {
        if self.state != State::Established {
            return Fate::Keep;
        }
        let fate = self.pull(cx);
        if fate == Fate::Gone {
            return fate;
        }
        if self.ack_due && !self.segment(cx, flag::ACK, self.snd_nxt) {
            self.retry_soon(cx.now);
        }
        if self.is_over() { Fate::Gone } else { fate }
    }
}
