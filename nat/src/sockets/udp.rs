//! UDP: one connected socket per flow, so that the kernel sorts what comes back and tells what was refused.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketType, send};
use switch::drop::DropReason;
use switch::flow::{FlowKey, Gso, Packet};
use switch::tick::Tick;

use super::cx::{self, Cx, Fate, Watch};
use super::inbox::Inbox;
use super::types::{Counters, Emit, Outcome};
use super::wire::{UDP_LEN, Wire, payload_max};

/// A flow that had no answer is kept for so long, milliseconds.
const ONE_WAY: u64 = 30_000;
/// And one with answers (RFC 4787 section 4.3: no less than two minutes; more where it may be).
const BOTH_WAYS: u64 = 180_000;
/// Datagrams that one flow brings before the others have their turn.
const TURN: usize = 32;

/// One flow.
pub(super) struct Udp {
    socket: OwnedFd,
    answered: bool,
    inbox: Inbox,
}

impl Udp {
    /// # Errors
    /// What the kernel said to the socket or to connecting it.
    pub fn connect(key: &FlowKey, watch: Watch<'_>) -> rustix::io::Result<Self> {
        let socket = cx::connected(key, SocketType::DGRAM, None, key.dport, watch)?;
        Ok(Self { socket, answered: false, inbox: Inbox::new(TURN) })
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub fn state_name(&self) -> &'static str {
        if self.answered { "answered" } else { "unanswered" }
    }

    pub fn deadline(&self, used: Tick) -> Tick {
        deadline(used, self.answered)
    }

    /// A datagram of the container, or a super-frame of many.
    pub fn packet<E: Emit>(&mut self, frame: &[u8], packet: &Packet, cx: &mut Cx<'_, E>) -> Outcome {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        pass(frame, packet, cx.counters, |bytes| send(&self.socket, bytes, flags))
    }

    pub fn event(&mut self, flags: EventFlags) -> Fate {
        self.inbox.event(flags)
    }

    /// Brings what the socket has.
    pub fn serve<E: Emit>(&mut self, cx: &mut Cx<'_, E>) -> Fate {
        let place = (cx.wire().l4_at() + UDP_LEN, payload_max(cx.key, UDP_LEN));
        let write = |wire: &Wire<'_>, out: &mut [u8], len| wire.udp(out, len);
        let answered = &mut self.answered;
        self.inbox.serve(&self.socket, place, cx, write, |len, counters| {
            *answered = true;
            counters.bytes_in += len as u64;
        })
    }
}

/// When a flow that was used then is over.
pub(super) fn deadline(used: Tick, answered: bool) -> Tick {
    used.plus_millis(if answered { BOTH_WAYS } else { ONE_WAY })
}

/// Hands the datagrams of a packet, which may be a super-frame of many, to `send`.
pub(super) fn pass(
    frame: &[u8],
    packet: &Packet,
    counters: &mut Counters,
    send: impl Fn(&[u8]) -> rustix::io::Result<usize>,
) -> Outcome {
    let Some(payload) = payload(frame, packet) else {
        return Outcome::Dropped(DropReason::MalformedL4);
    };
    let size = match packet.meta.gso {
        Gso::Udp { size } => usize::from(size.max(1)),
        _ => payload.len().max(1),
    };
    // An empty datagram is one, too.
    let first = payload.get(..size.min(payload.len())).unwrap_or_default();
    let rest = payload.get(first.len()..).unwrap_or_default();
    for datagram in std::iter::once(first).chain(rest.chunks(size)) {
        match send(datagram) {
            Ok(sent) => counters.bytes_out += sent as u64,
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => {
                return Outcome::Dropped(DropReason::UplinkFull);
            }
            Err(Errno::MSGSIZE) => return Outcome::Dropped(DropReason::ExceedsMtu),
            // What was refused is an earlier one; the container learns of it all the same.
            Err(errno) => {
                return match cx::unreachable(errno) {
                    Some(why) => {
                        counters.unreachable += 1;
                        Outcome::Unreachable(why)
                    }
                    None => Outcome::Dropped(DropReason::UplinkError),
                };
            }
        }
    }
    Outcome::Taken
}

/// The payload, to the end that the UDP header says, which may lie before that of the packet (RFC 9868).
fn payload<'a>(frame: &'a [u8], packet: &Packet) -> Option<&'a [u8]> {
    let header = frame.get(usize::from(packet.meta.l4_off)..packet.meta.l3_end as usize)?;
    let &[_, _, _, _, l0, l1, _, _] = header.first_chunk::<UDP_LEN>()?;
    header.get(UDP_LEN..usize::from(u16::from_be_bytes([l0, l1])))
}
