//! What a datagram socket has for its container: the one way in of UDP and echo, and of what their path says.

use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use switch::sys::path::{PathError, next_path_error};

use super::cx::{Cx, Fate};
use super::types::{Counters, Emit, Fault, Unreachable};
use super::wire::{Wire, is_v4};

/// The most that is read of what an ICMP error quotes.
pub(super) const QUOTED: usize = 1232;

/// Whether the socket may have something. Edges only: what is not read yet is remembered here.
pub(super) struct Inbox {
    readable: bool,
    /// The kernel keeps errors for the socket.
    troubled: bool,
    /// Messages that it brings before others have their turn.
    turn: usize,
}

impl Inbox {
    pub const fn new(turn: usize) -> Self {
        Self { readable: false, troubled: false, turn }
    }

    pub fn event(&mut self, flags: EventFlags) -> Fate {
        self.readable |= flags.intersects(EventFlags::IN | EventFlags::HUP);
        self.troubled |= flags.contains(EventFlags::ERR);
        self.fate()
    }

    const fn fate(&self) -> Fate {
        if self.readable || self.troubled { Fate::More } else { Fate::Keep }
    }

    /// Brings the messages of one turn, each of at most `max` bytes read to offset `at` of a frame, which `write` puts
    /// the headers in front of. `took` is told the length of each.
    pub fn serve<E: Emit>(
        &mut self,
        socket: &OwnedFd,
        (at, max): (usize, usize),
        cx: &mut Cx<'_, E>,
        write: impl Fn(&Wire<'_>, &mut [u8], usize) -> Option<usize>,
        mut took: impl FnMut(usize, &mut Counters),
    ) -> Fate {
        if self.troubled {
            self.troubles(socket, cx);
        }
        for _ in 0..self.turn {
            if !self.readable {
                break;
            }
            let wire = cx.wire();
            let (mut read, mut large) = (None, None);
            let cutter = &mut *cx.cutter;
            let taken = cx.out.emit(cx.link.port, &mut |out| {
                let end = out.len().min(at + max);
                let result = recv(socket, out.get_mut(at..end).unwrap_or_default(), RecvFlags::DONTWAIT);
                let result = result.map(|(_, len)| len);
                read = Some(result);
                let len = result.ok().and_then(|len| write(&wire, out, len)).unwrap_or(0);
                if wire.fits(len) {
                    return len;
                }
                large = wire.cut(out, len, cutter);
                0
            });
            match read {
                Some(Ok(len)) => {
                    took(len, cx.counters);
                    let taken = taken.is_ok() && large.is_none_or(|len| cut(cx, len));
                    cx.counters.not_taken += u64::from(!taken);
                }
                Some(Err(Errno::AGAIN)) => self.readable = false,
                Some(Err(Errno::INTR)) => {}
                // Whatever it is, it was kept as well.
                Some(Err(_)) => {
                    self.troubles(socket, cx);
                }
                // No slot: what lies there is lost like anything else that finds no place.
                None => {
                    cx.counters.not_taken += 1;
                    self.readable = recv(socket, &mut [0; 1], RecvFlags::DONTWAIT).is_ok();
                }
            }
        }
        self.fate()
    }

    /// Passes on what the path has said of earlier datagrams; whether it had said something.
    pub fn troubles<E: Emit>(&mut self, socket: &OwnedFd, cx: &mut Cx<'_, E>) -> bool {
        let mut quoted = [0; QUOTED];
        let mut said = false;
        for _ in 0..self.turn {
            match next_path_error(socket, &mut quoted) {
                Ok(error) => {
                    let rest = quoted.get_mut(..error.quoted).unwrap_or_default();
                    said |= error.is_icmp;
                    tell(&error, rest, cx);
                }
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.troubled = false;
                    return said;
                }
            }
        }
        self.troubled = true;
        said
    }
}

/// Emits what was put into the cutter, `len` bytes; whether all of it was taken.
pub(super) fn cut<E: Emit>(cx: &mut Cx<'_, E>, len: usize) -> bool {
    let wire = cx.wire();
    let cutter = &mut *cx.cutter;
    cutter.id = cutter.id.wrapping_add(1);
    let datagram = cutter.bytes.get(..len).unwrap_or_default();
    let mut at = 0;
    while at < datagram.len() {
        let mut next = datagram.len();
        let taken = cx.out.emit(cx.link.port, &mut |out| {
            let piece = wire.fragment(out, datagram, at, cutter.id);
            next = piece.map_or(datagram.len(), |(_, end)| end);
            piece.map_or(0, |(len, _)| len)
        });
        if taken.is_err() {
            // The rest is worth nothing without it.
            return false;
        }
        at = next;
    }
    true
}

/// Tells the container what the path has said of a datagram of this flow, of which `rest` is known.
pub(super) fn tell<E: Emit>(error: &PathError, rest: &mut [u8], cx: &mut Cx<'_, E>) {
    let Some(fault) = fault(error) else { return };
    // Where we stand in for a client of the other family, the MTU of its path is nothing to the container.
    if error.v4 == is_v4(cx.key) || matches!(fault, Fault::Unreachable(_)) {
        cx.wire().restore(rest);
        cx.failed(fault, error.from, rest);
    }
}

/// What an error says about its datagram; `None`: nothing that a container must know.
fn fault(error: &PathError) -> Option<Fault> {
    if !error.is_icmp {
        return None;
    }
    Some(match (error.v4, error.kind) {
        // RFC 792; RFC 1812 section 5.2.7.1 for the codes above 5.
        (true, (3, 2)) => Fault::Unreachable(Unreachable::Protocol),
        (true, (3, 3)) => Fault::Unreachable(Unreachable::Port),
        (true, (3, 4)) => Fault::TooBig { mtu: error.info },
        (true, (3, 9 | 10 | 13)) => Fault::Unreachable(Unreachable::Prohibited),
        (true, (3, 0 | 6 | 11)) => Fault::Unreachable(Unreachable::Network),
        (true, (3, _)) => Fault::Unreachable(Unreachable::Host),
        (true, (11, 0)) => Fault::Expired,
        // RFC 4443 section 3.
        (false, (1, 0)) => Fault::Unreachable(Unreachable::Network),
        (false, (1, 1 | 5 | 6)) => Fault::Unreachable(Unreachable::Prohibited),
        (false, (1, 4)) => Fault::Unreachable(Unreachable::Port),
        (false, (1, _)) => Fault::Unreachable(Unreachable::Host),
        (false, (2, _)) => Fault::TooBig { mtu: error.info },
        (false, (3, 0)) => Fault::Expired,
        (false, (4, 1)) => Fault::Unreachable(Unreachable::Protocol),
        _ => return None,
    })
}
