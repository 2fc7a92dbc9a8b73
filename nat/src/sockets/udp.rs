//! UDP: one connected socket per flow, so that the kernel sorts what comes back and tells what was refused.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_reuseport;
use rustix::net::{RecvFlags, SendFlags, SocketType, bind, connect, getsockname, recv, send};
use switch::drop::DropReason;
use switch::flow::{Gso, Packet};
use switch::sys::bulk::set_segment_size;
use switch::sys::path::{keep_path_errors, path_mtu};
use switch::tick::Tick;

use super::burst::Burst;
use super::cx::{self, Bytes, Cx, Fate, Watch};
use super::inbox::Inbox;
use super::sending::Sending;
use super::types::{Emit, Fault, Outcome};
use super::wire::{UDP_LEN, Wire, datagram_max, is_v4};

/// A flow that had no answer is kept for so long, milliseconds (RFC 4787 section 4.3: no less).
const ONE_WAY: u64 = 120_000;
/// And one with answers: what RFC 4787 section 4.3 recommends.
const BOTH_WAYS: u64 = 300_000;
/// And one to a name server, for which RFC 4787 section 4.3 a) allows less: a question and an answer, from another l4
/// port each time.
const NAMES: u64 = 30_000;
const NAME_SERVER: u16 = 53;
/// Datagrams that one flow brings before the others have their turn.
const TURN: usize = 32;

/// One flow.
pub(super) struct Udp {
    socket: OwnedFd,
    answered: bool,
    names: bool,
    sending: Sending,
    /// What the socket cuts longer sends in; 0: nothing.
    segment: u16,
    /// It takes bursts.
    bursts: bool,
    inbox: Inbox,
}

impl Udp {
    /// Leaves by the l4 port `mapped` of the host where there is one. Returns the flow and the l4 port it leaves by.
    ///
    /// # Errors
    /// What the kernel said to the socket or to connecting it.
    pub fn connect(to: SocketAddr, mapped: Option<u16>, watch: Watch<'_>) -> rustix::io::Result<(Self, u16)> {
        let socket = match mapped.map(|port| beside(to, port)) {
            Some(Ok(socket)) => socket,
            // Whoever took the l4 port meanwhile, a packet that leaves by another is better than none.
            _ => cx::socket(to, SocketType::DGRAM, None)?,
        };
        keep_path_errors(&socket, to.is_ipv4())?;
        connect(&socket, &to)?;
        // Sockets of this user's may join it from now on; before, it would have been one that joins others.
        set_socket_reuseport(&socket, true)?;
        let local = SocketAddr::try_from(getsockname(&socket)?)?;
        // What came before it was connected may be anybody's.
        while recv(&socket, &mut [0; 1], RecvFlags::DONTWAIT).is_ok() {}
        watch.add(&socket)?;
        let names = to.port() == NAME_SERVER;
        let udp = Self {
            socket,
            answered: false,
            names,
            sending: Sending::new(),
            segment: 0,
            bursts: true,
            inbox: Inbox::new(TURN),
        };
        Ok((udp, local.port()))
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub const fn is_answered(&self) -> bool {
        self.answered
    }

    pub fn state_name(&self) -> &'static str {
        if self.answered { "answered" } else { "unanswered" }
    }

    pub fn deadline(&self, used: Tick) -> Tick {
        if self.names { used.plus_millis(NAMES) } else { deadline(used, self.answered) }
    }

    /// A datagram of the container, or a super-frame of many; `more`: the packet before it in this batch was of the same
    /// flow.
    pub fn packet<E: Emit>(
        &mut self,
        bytes: Bytes<'_>,
        packet: &Packet,
        more: bool,
        cx: &mut Cx<'_, E>,
    ) -> Outcome {
        let Some((mut at, end)) = payload(bytes.of(cx.out), packet) else {
            return Outcome::Dropped(DropReason::MalformedL4);
        };
        let size = datagram_len(packet, end.saturating_sub(at));
        if self.sending.differs(&packet.meta) {
            self.send_burst(cx);
            self.sending.follow(self.socket.as_fd(), &packet.meta);
        }
        if more && self.bursts && packet.meta.gso == Gso::None && Burst::suits(end.saturating_sub(at)) {
            let datagram = bytes.of(cx.out).get(at..end).unwrap_or_default();
            if !cx.burst.put(datagram) {
                self.send_burst(cx);
                cx.burst.put(bytes.of(cx.out).get(at..end).unwrap_or_default());
            }
            return Outcome::Taken;
        }
        self.send_burst(cx);
        let mut again = true;
        loop {
            // An empty datagram is one, too.
            let to = end.min(at.saturating_add(size));
            let datagram = bytes.of(cx.out).get(at..to).unwrap_or_default();
            match self.send(datagram) {
                Ok(sent) => {
                    cx.counters.bytes_out += sent as u64;
                    at = to;
                    if at >= end {
                        return Outcome::Taken;
                    }
                }
                // What was refused is an earlier one, of which the container learns now; this one has its own chance.
                Err(_) if again && self.inbox.troubles(&self.socket, cx) => again = false,
                Err(errno) => return self.not_sent(errno, packet, cx),
            }
        }
    }

    /// One datagram.
    fn send(&mut self, datagram: &[u8]) -> rustix::io::Result<usize> {
        if self.segment != 0 && datagram.len() > usize::from(self.segment) {
            self.cut_in(0)?;
        }
        send(&self.socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
    }

    fn cut_in(&mut self, size: u16) -> rustix::io::Result<()> {
        if self.segment != size {
            set_segment_size(&self.socket, size)?;
            self.segment = size;
        }
        Ok(())
    }

    /// What was kept leaves now, in its order.
    pub fn send_burst<E: Emit>(&mut self, cx: &mut Cx<'_, E>) {
        let (count, size) = (cx.burst.len(), cx.burst.size());
        if count > 1 && self.bursts {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let sent = u16::try_from(size)
                .map_err(|_| Errno::MSGSIZE)
                .and_then(|size| self.cut_in(size))
                .and_then(|()| send(&self.socket, cx.burst.bytes(), flags));
            match sent {
                Ok(sent) => {
                    cx.counters.bytes_out += sent as u64;
                    return cx.burst.clear();
                }
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => {
                    cx.counters.unsent += count as u64;
                    return cx.burst.clear();
                }
                // The kernel, the device or the path does not take it so (udp(7)): one by one, from now on.
                Err(Errno::INVAL | Errno::IO | Errno::MSGSIZE | Errno::NOPROTOOPT | Errno::OPNOTSUPP) => {
                    self.bursts = false;
                }
                // An earlier one was refused, or they will be, each: it is said of each.
                Err(_) => {}
            }
        }
        for index in 0..count {
            let datagram = cx.burst.bytes().chunks(size).nth(index).unwrap_or_default();
            match self.send(datagram) {
                Ok(sent) => cx.counters.bytes_out += sent as u64,
                Err(errno) => self.late(errno, cx),
            }
        }
        cx.burst.clear();
    }

    /// A datagram of a burst was not taken; its packet is gone.
    fn late<E: Emit>(&mut self, errno: Errno, cx: &mut Cx<'_, E>) {
        cx.counters.unsent += 1;
        if self.inbox.troubles(&self.socket, cx) {
            return;
        }
        let mtu = || path_mtu(&self.socket, is_v4(cx.key)).ok().map(|mtu| Fault::TooBig { mtu });
        let fault = match errno {
            Errno::MSGSIZE => mtu(),
            errno => cx::unreachable(errno).map(Fault::Unreachable),
        };
        if let Some(fault) = fault {
            cx.failed(fault, None, &[0; 4]);
        }
    }

    fn not_sent<E: Emit>(&self, errno: Errno, packet: &Packet, cx: &mut Cx<'_, E>) -> Outcome {
        match errno {
            Errno::AGAIN | Errno::NOBUFS | Errno::INTR => Outcome::Dropped(DropReason::UplinkFull),
            Errno::MSGSIZE => too_big(&self.socket, packet, cx),
            errno => match cx::unreachable(errno) {
                Some(why) => {
                    cx.counters.unreachable += 1;
                    Outcome::Unreachable(why)
                }
                None => Outcome::Dropped(DropReason::UplinkError),
            },
        }
    }

    pub fn event(&mut self, flags: EventFlags) -> Fate {
        self.inbox.event(flags)
    }

    /// Brings what the socket has.
    pub fn serve<E: Emit>(&mut self, cx: &mut Cx<'_, E>) -> Fate {
        let place = (cx.wire().l4_at() + UDP_LEN, datagram_max(cx.key) - UDP_LEN);
        let write = |wire: &Wire<'_>, out: &mut [u8], len| wire.udp(out, len);
        let answered = &mut self.answered;
        self.inbox.serve(&self.socket, place, cx, write, |len, counters| {
            *answered = true;
            counters.bytes_in += len as u64;
        })
    }
}

/// A socket on an l4 port that another socket of ours has already.
fn beside(to: SocketAddr, port: u16) -> rustix::io::Result<OwnedFd> {
    let socket = cx::socket(to, SocketType::DGRAM, None)?;
    set_socket_reuseport(&socket, true)?;
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    bind(&socket, &SocketAddr::new(any, port))?;
    Ok(socket)
}

/// A packet that may not be fragmented is larger than the path takes (RFC 1191 section 4).
pub(super) fn too_big<E: Emit>(socket: &OwnedFd, packet: &Packet, cx: &mut Cx<'_, E>) -> Outcome {
    match path_mtu(socket, is_v4(cx.key)) {
        Ok(mtu) if mtu < packet.meta.l3_end.saturating_sub(u32::from(packet.meta.l3_off)) => {
            cx.counters.path_errors += 1;
            Outcome::TooBig { mtu }
        }
        _ => Outcome::Dropped(DropReason::ExceedsMtu),
    }
}

/// Where the payload is, to the end that the UDP header says, which may lie before that of the packet (RFC 9868).
fn payload(frame: &[u8], packet: &Packet) -> Option<(usize, usize)> {
    let start = usize::from(packet.meta.l4_off);
    let header = frame.get(start..packet.meta.l3_end as usize)?;
    let &[_, _, _, _, l0, l1, _, _] = header.first_chunk::<UDP_LEN>()?;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    (UDP_LEN..=header.len()).contains(&len).then_some((start + UDP_LEN, start + len))
}

/// When a flow that was used then is over.
pub(super) fn deadline(used: Tick, answered: bool) -> Tick {
    used.plus_millis(if answered { BOTH_WAYS } else { ONE_WAY })
}

/// Hands the datagrams of a packet, which may be a super-frame of many, to `send`.
pub(super) fn pass<E: Emit>(
    bytes: Bytes<'_>,
    packet: &Packet,
    cx: &mut Cx<'_, E>,
    send: impl Fn(&[u8]) -> rustix::io::Result<usize>,
) -> Outcome {
    let frame = bytes.of(cx.out);
    let Some((start, end)) = payload(frame, packet) else {
        return Outcome::Dropped(DropReason::MalformedL4);
    };
    let size = datagram_len(packet, end.saturating_sub(start));
    // An empty datagram is one, too.
    let first = frame.get(start..end.min(start.saturating_add(size))).unwrap_or_default();
    let rest = frame.get(start.saturating_add(first.len())..end).unwrap_or_default();
    for datagram in std::iter::once(first).chain(rest.chunks(size)) {
        match send(datagram) {
            Ok(sent) => cx.counters.bytes_out += sent as u64,
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => {
                return Outcome::Dropped(DropReason::UplinkFull);
            }
            Err(Errno::MSGSIZE) => return Outcome::Dropped(DropReason::ExceedsMtu),
            // What was refused is an earlier one; the container learns of it all the same.
            Err(errno) => {
                return match cx::unreachable(errno) {
                    Some(why) => {
                        cx.counters.unreachable += 1;
                        Outcome::Unreachable(why)
                    }
                    None => Outcome::Dropped(DropReason::UplinkError),
                };
            }
        }
    }
    Outcome::Taken
}

/// Bytes of each datagram of a packet, at least 1.
fn datagram_len(packet: &Packet, payload: usize) -> usize {
    match packet.meta.gso {
        Gso::Udp { size } => usize::from(size.max(1)),
        _ => payload.max(1),
    }
}
