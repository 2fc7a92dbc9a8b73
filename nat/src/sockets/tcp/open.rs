//! How connections begin: by a SYN of the container, which is answered when the socket is connected, or by a client
//! of a listening socket.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::SocketType;
use rustix::net::sockopt::socket_error;
use switch::flow::{FlowKey, Packet, TcpMeta};
use switch::sys::socket::set_peek_offset;

use super::{SCALE, State, Tcp};
use crate::sockets::cx::{self, Bytes, Cx, Fate, Watch};
use crate::sockets::types::{Emit, Fault, Link, Unreachable};
use crate::sockets::wire::{TCP_LEN, flag, ip_len, is_v4};

/// The smallest segment we make (`tcp_min_snd_mss` is 48, options counted in). A smaller MSS would make one frame into
/// tens of thousands of segments.
const MSS_MIN: u16 = 88;
/// What every new socket takes, bytes: it is not asked before it has more to take. (One that takes less after all says
/// so when it is written to.)
const FIRST_ROOM: u32 = 65_535;
/// And the send buffer that it has then.
const FIRST_BUFFER: u32 = 87_380;
/// RFC 7323 section 2.3.
const SCALE_MAX: u8 = 14;

/// The options of a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sockets) struct Syn {
    /// Payload of one segment towards the sender of the SYN, bytes.
    pub mss: u16,
    pub scale: Option<u8>,
}

impl Syn {
    /// Reads the options of the SYN in `frame`; `link` bounds the MSS.
    pub fn read(frame: &[u8], packet: &Packet, link: &Link) -> Self {
        let v4 = is_v4(&packet.key);
        // RFC 9293 section 3.7.1: what holds where nothing is said.
        let mut syn = Self { mss: if v4 { 536 } else { 1220 }, scale: None };
        let start = usize::from(packet.meta.l4_off).saturating_add(TCP_LEN);
        let mut options = frame.get(start..usize::from(packet.meta.headers_len)).unwrap_or_default();
        while let Some((&kind, rest)) = options.split_first() {
            match kind {
                0 => break,
                1 => {
                    options = rest;
                    continue;
                }
                _ => {}
            }
            let Some(option) = rest.first().and_then(|len| options.get(..usize::from(*len))) else { break };
            match *option {
                [2, 4, high, low] => syn.mss = u16::from_be_bytes([high, low]),
                [3, 3, scale] => syn.scale = Some(scale.min(SCALE_MAX)),
                // Less than kind and length: it would not end.
                [] | [_] => break,
                _ => {}
            }
            options = options.get(option.len()..).unwrap_or_default();
        }
        syn.mss = syn.mss.min(mss_of(&packet.key, link)).max(MSS_MIN);
        syn
    }
}

/// What fits a packet of the network.
fn mss_of(key: &FlowKey, link: &Link) -> u16 {
    link.mtu.saturating_sub((ip_len(key) + TCP_LEN) as u16).max(MSS_MIN)
}

/// Where a connection begins: nothing sent, nothing taken.
fn new(socket: OwnedFd, state: State, sequence: u32, mss: u16) -> Tcp {
    Tcp {
        socket,
        state,
        snd_una: sequence,
        snd_nxt: sequence,
        snd_max: sequence,
        window: 0,
        scale: 0,
        mss,
        eof: None,
        duplicates: 0,
        recover: None,
        rcv_nxt: 0,
        edge: 0,
        our_scale: SCALE,
        room: FIRST_ROOM,
        buffer: FIRST_BUFFER,
        fin_taken: false,
        readable: false,
        hung_up: false,
        ack_due: false,
        measured: false,
        tight: false,
        refused: false,
        stalled: false,
        blocked: false,
        retry: None,
        tries: 0,
    }
}

/// The container's SYN: a socket begins to connect. `sequence` is where ours starts.
///
/// # Errors
/// What the kernel said to the socket or to connecting at once.
pub(in crate::sockets) fn connect(
    to: SocketAddr,
    tcp: &TcpMeta,
    syn: Syn,
    sequence: u32,
    watch: Watch<'_>,
) -> rustix::io::Result<Tcp> {
    let socket = cx::connected(to, SocketType::STREAM, None, watch)?;
    let mut connection = new(socket, State::Connecting, sequence, syn.mss);
    connection.begin_with(tcp, syn);
    Ok(connection)
}

/// A client of a listening socket, watched: the container gets a SYN. `sequence` is where ours starts.
pub(in crate::sockets) fn accepted(socket: OwnedFd, key: &FlowKey, link: &Link, sequence: u32) -> Tcp {
    new(socket, State::SynSent, sequence, mss_of(key, link))
}

impl Tcp {
    /// What the container's SYN says.
    pub(super) fn begin_with(&mut self, tcp: &TcpMeta, syn: Syn) {
        self.rcv_nxt = tcp.seq.wrapping_add(1);
        (self.edge, self.window, self.mss) = (self.rcv_nxt, u32::from(tcp.window), syn.mss);
        (self.scale, self.our_scale) = match syn.scale {
            Some(scale) => (scale, SCALE),
            // RFC 7323 section 1.3: both or neither.
            None => (0, 0),
        };
    }

    /// The options of our SYN.
    pub(super) fn options<E: Emit>(&self, cx: &Cx<'_, E>) -> (u16, Option<u8>) {
        (mss_of(cx.key, cx.link), (self.our_scale > 0).then_some(SCALE))
    }

    /// Sends our first SYN to the container of a published l4 port.
    pub fn begin<E: Emit>(&mut self, cx: &mut Cx<'_, E>) -> Fate {
        self.segment(cx, flag::SYN, self.snd_una);
        self.syn_sent(cx);
        Fate::Keep
    }

    fn syn_sent<E: Emit>(&mut self, cx: &Cx<'_, E>) {
        self.snd_nxt = self.snd_una.wrapping_add(1);
        self.snd_max = self.snd_nxt;
        self.arm(cx.now);
    }

    fn prepare<E: Emit>(&self, cx: &Cx<'_, E>) {
        if cx.skip.is_empty() {
            // It worked on a socket like this at the start.
            let _ = set_peek_offset(&self.socket, 0);
        }
    }

    /// The socket is connected, or never will be.
    pub(super) fn connected<E: Emit>(&mut self, flags: EventFlags, cx: &mut Cx<'_, E>) -> Fate {
        let result = socket_error(&self.socket).and_then(|result| result);
        match result {
            Ok(()) if flags.intersects(EventFlags::ERR | EventFlags::HUP) => return Fate::Gone,
            Ok(()) if !flags.contains(EventFlags::OUT) => return Fate::Keep,
            Ok(()) => {}
            Err(errno) => return self.not_connected(errno, cx),
        }
        self.prepare(cx);
        self.state = State::SynAckSent;
        self.hung_up = flags.contains(EventFlags::RDHUP);
        self.readable = flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        self.segment(cx, flag::SYN | flag::ACK, self.snd_una);
        self.syn_sent(cx);
        Fate::Keep
    }

    /// RFC 9293 section 3.10.7.3: a RST for what was refused. An unreachable one is worth an ICMP error, and silence
    /// is answered with silence.
    fn not_connected<E: Emit>(&mut self, errno: Errno, cx: &mut Cx<'_, E>) -> Fate {
        match cx::unreachable(errno) {
            Some(Unreachable::Port) => cx.counters.refused += 1,
            Some(why) => {
                let syn = self.rcv_nxt.wrapping_sub(1);
                cx.failed(Fault::Unreachable(why), None, &syn.to_be_bytes());
                return Fate::Gone;
            }
            None if errno == Errno::TIMEDOUT => return Fate::Gone,
            None => {}
        }
        self.segment(cx, flag::RST | flag::ACK, 0);
        Fate::Gone
    }

    /// The container's answer to our SYN (RFC 9293 section 3.10.7.3).
    pub(super) fn answer<E: Emit>(
        &mut self,
        bytes: Bytes<'_>,
        packet: &Packet,
        tcp: &TcpMeta,
        cx: &mut Cx<'_, E>,
    ) -> Fate {
        if tcp.flags & flag::ACK == 0 {
            return Fate::Keep;
        }
        if tcp.ack != self.snd_nxt {
            // It means an earlier connection, which the container believes to be there still: that one has to go, and
            // our SYN is repeated.
            if tcp.flags & flag::RST == 0 {
                self.segment(cx, flag::RST, tcp.ack);
            }
            return Fate::Keep;
        }
        if tcp.flags & flag::RST != 0 {
            cx.counters.refused += 1;
            self.abort();
            return Fate::Gone;
        }
        if tcp.flags & flag::SYN == 0 {
            return Fate::Keep;
        }
        let syn = Syn::read(bytes.of(cx.out), packet, cx.link);
        (self.mss, self.scale) = (syn.mss, syn.scale.unwrap_or(0));
        if syn.scale.is_none() {
            self.our_scale = 0;
        }
        self.rcv_nxt = tcp.seq.wrapping_add(1);
        self.edge = self.rcv_nxt;
        self.window = u32::from(tcp.window);
        self.establish(tcp.ack);
        self.ack_due = true;
        Fate::More
    }
}
