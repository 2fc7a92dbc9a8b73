//! UDP: one connected socket per flow, so that the kernel sorts what comes back and tells what was refused.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType, recv, send};
use switch::drop::DropReason;
use switch::flow::{FlowKey, Gso, Packet};
use switch::tick::Tick;

use super::cx::{self, Cx, Fate, Watch};
use super::types::{Emit, Outcome, Unreachable};
use super::wire::{UDP_LEN, payload_max};

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
    readable: bool,
}

impl Udp {
    /// # Errors
    /// What the kernel said to the socket or to connecting it.
    pub fn connect(key: &FlowKey, watch: Watch<'_>) -> rustix::io::Result<Self> {
        let socket = cx::connected(key, SocketType::DGRAM, None, key.dport, watch)?;
        Ok(Self { socket, answered: false, readable: false })
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub fn state_name(&self) -> &'static str {
        if self.answered { "answered" } else { "unanswered" }
    }

    pub fn deadline(&self, used: Tick) -> Tick {
        used.plus_millis(if self.answered { BOTH_WAYS } else { ONE_WAY })
    }

    /// A datagram of the container, or a super-frame of many.
    pub fn packet<E: Emit>(&mut self, frame: &[u8], packet: &Packet, cx: &mut Cx<'_, E>) -> Outcome {
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
            match send(&self.socket, datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
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

    pub fn event(&mut self, flags: EventFlags) -> Fate {
        self.readable |= flags.intersects(EventFlags::IN | EventFlags::ERR | EventFlags::HUP);
        if self.readable { Fate::More } else { Fate::Keep }
    }

    /// Brings what the socket has.
    pub fn serve<E: Emit>(&mut self, cx: &mut Cx<'_, E>) -> Fate {
        for _ in 0..TURN {
            if !self.readable {
                return Fate::Keep;
            }
            self.step(cx);
        }
        if self.readable { Fate::More } else { Fate::Keep }
    }

    fn step<E: Emit>(&mut self, cx: &mut Cx<'_, E>) {
        let wire = cx.wire();
        let (at, max) = (wire.l4_at() + UDP_LEN, payload_max(cx.key, UDP_LEN));
        let socket = &self.socket;
        let mut read = None;
        let taken = cx.out.emit(cx.link.port, &mut |out| {
            let end = out.len().min(at + max);
            let result = recv(socket, out.get_mut(at..end).unwrap_or_default(), RecvFlags::DONTWAIT);
            let result = result.map(|(_, len)| len);
            read = Some(result);
            result.ok().and_then(|len| wire.udp(out, len)).unwrap_or(0)
        });
        match read {
            Some(Ok(len)) => {
                self.answered = true;
                cx.counters.bytes_in += len as u64;
                cx.counters.not_taken += u64::from(taken.is_err());
            }
            Some(Err(Errno::AGAIN)) => self.readable = false,
            Some(Err(Errno::INTR)) => {}
            Some(Err(errno)) => cx.unreachable(cx::unreachable(errno).unwrap_or(Unreachable::Host), 0),
            // No slot: what lies there is lost like anything else that finds no place.
            None => {
                cx.counters.not_taken += 1;
                let mut nowhere = [0; 1];
                self.readable = recv(socket, &mut nowhere, RecvFlags::DONTWAIT).is_ok();
            }
        }
    }
}

/// The payload, to the end that the UDP header says, which may lie before that of the packet (RFC 9868).
fn payload<'a>(frame: &'a [u8], packet: &Packet) -> Option<&'a [u8]> {
    let header = frame.get(usize::from(packet.meta.l4_off)..packet.meta.l3_end as usize)?;
    let &[_, _, _, _, l0, l1, _, _] = header.first_chunk::<UDP_LEN>()?;
    header.get(UDP_LEN..usize::from(u16::from_be_bytes([l0, l1])))
}
