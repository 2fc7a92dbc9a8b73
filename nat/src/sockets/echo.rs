//! ICMP echo by ping sockets. The kernel chooses the identifier that is on the way; the container sees its own.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketType, ipproto, send};
use switch::drop::DropReason;
use switch::flow::{FlowKey, Packet};
use switch::sys::path::keep_path_errors;
use switch::tick::Tick;

use super::cx::{self, Bytes, Cx, Fate, Watch};
use super::inbox::Inbox;
use super::sending::Sending;
use super::types::{Emit, Outcome};
use super::udp::too_big;
use super::wire::{ECHO_LEN, Wire, datagram_max, is_v4};

/// RFC 5508 section 3.2: no less than a minute.
const IDLE: u64 = 60_000;
/// Replies that one flow brings before the others have their turn.
const TURN: usize = 16;

/// The echo requests of one identifier to one destination.
pub(super) struct Echo {
    socket: OwnedFd,
    sending: Sending,
    inbox: Inbox,
}

/// Whether the packet is an echo request, which is all that ping sockets send.
pub(super) fn is_request(key: &FlowKey) -> bool {
    key.dport == if is_v4(key) { 0x0800 } else { 0x8000 }
}

impl Echo {
    /// # Errors
    /// What the kernel said.
    ///
    /// # Privileges
    /// The group of the process within `net.ipv4.ping_group_range`.
    pub fn connect(to: SocketAddr, watch: Watch<'_>) -> rustix::io::Result<Self> {
        let protocol = if to.is_ipv4() { ipproto::ICMP } else { ipproto::ICMPV6 };
        let to = SocketAddr::new(to.ip(), 0);
        let socket = cx::connected(to, SocketType::DGRAM, Some(protocol), watch)?;
        keep_path_errors(&socket, to.is_ipv4())?;
        Ok(Self { socket, sending: Sending::new(), inbox: Inbox::new(TURN) })
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub fn deadline(&self, used: Tick) -> Tick {
        used.plus_millis(IDLE)
    }

    /// A request: the whole ICMP message goes to the socket, which gives it identifier and checksum.
    pub fn packet<E: Emit>(&mut self, bytes: Bytes<'_>, packet: &Packet, cx: &mut Cx<'_, E>) -> Outcome {
        let range = usize::from(packet.meta.l4_off)..packet.meta.l3_end as usize;
        self.sending.follow(self.socket.as_fd(), &packet.meta);
        let mut again = true;
        loop {
            let message = bytes.of(cx.out).get(range.clone()).unwrap_or_default();
            match send(&self.socket, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    cx.counters.bytes_out += sent.saturating_sub(ECHO_LEN) as u64;
                    return Outcome::Taken;
                }
                // That was an earlier one.
                Err(_) if again && self.inbox.troubles(&self.socket, cx) => again = false,
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => {
                    return Outcome::Dropped(DropReason::UplinkFull);
                }
                Err(Errno::MSGSIZE) => return too_big(&self.socket, packet, cx),
                Err(errno) => {
                    return match cx::unreachable(errno) {
                        Some(why) => Outcome::Unreachable(why),
                        None => Outcome::Dropped(DropReason::UplinkError),
                    };
                }
            }
        }
    }

    pub fn event(&mut self, flags: EventFlags) -> Fate {
        self.inbox.event(flags)
    }

    /// Brings the replies that the socket has.
    pub fn serve<E: Emit>(&mut self, cx: &mut Cx<'_, E>) -> Fate {
        let place = (cx.wire().l4_at(), datagram_max(cx.key));
        let write = |wire: &Wire<'_>, out: &mut [u8], len| (len >= ECHO_LEN).then(|| wire.echo(out, len))?;
        self.inbox.serve(&self.socket, place, cx, write, |len, counters| {
            counters.bytes_in += len.saturating_sub(ECHO_LEN) as u64;
        })
    }
}
