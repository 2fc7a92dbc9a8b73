//! What a datagram socket has for its container: the one way in of UDP and echo.

use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::cx::{self, Cx, Fate};
use super::types::{Counters, Emit, Unreachable};
use super::wire::Wire;

/// Whether the socket may have something. Edges only: what is not read yet is remembered here.
pub(super) struct Inbox {
    readable: bool,
    /// Messages that it brings before others have their turn.
    turn: usize,
}

impl Inbox {
    pub const fn new(turn: usize) -> Self {
        Self { readable: false, turn }
    }

    pub fn event(&mut self, flags: EventFlags) -> Fate {
        self.readable |= flags.intersects(EventFlags::IN | EventFlags::ERR | EventFlags::HUP);
        self.fate()
    }

    const fn fate(&self) -> Fate {
        if self.readable { Fate::More } else { Fate::Keep }
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
        for _ in 0..self.turn {
            if !self.readable {
                break;
            }
            let wire = cx.wire();
            let mut read = None;
            let taken = cx.out.emit(cx.link.port, &mut |out| {
                let end = out.len().min(at + max);
                let result = recv(socket, out.get_mut(at..end).unwrap_or_default(), RecvFlags::DONTWAIT);
                let result = result.map(|(_, len)| len);
                read = Some(result);
                result.ok().and_then(|len| write(&wire, out, len)).unwrap_or(0)
            });
            match read {
                Some(Ok(len)) => {
                    took(len, cx.counters);
                    cx.counters.not_taken += u64::from(taken.is_err());
                }
                Some(Err(Errno::AGAIN)) => self.readable = false,
                Some(Err(Errno::INTR)) => {}
                Some(Err(errno)) => cx.unreachable(cx::unreachable(errno).unwrap_or(Unreachable::Host), 0),
                // No slot: what lies there is lost like anything else that finds no place.
                None => {
                    cx.counters.not_taken += 1;
                    self.readable = recv(socket, &mut [0; 1], RecvFlags::DONTWAIT).is_ok();
                }
            }
        }
        self.fate()
    }
}
