//! UDP of published l4 ports: one socket of the host for all clients, one flow for each. What the container answers
//! leaves from the address that was asked.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use rustix::net::getsockname;
use switch::flow::Packet;
use switch::sys::datagram;
use switch::sys::path::next_path_error;
use switch::tick::Tick;

use super::cx::{Bytes, Cx, Fate};
use super::flows::{Flow, Kind};
use super::settings::Target;
use super::types::{Emit, Outcome};
use super::wire::{UDP_LEN, datagram_max};
use super::{Sockets, inbox, udp};
use switch::parse::PROTO_UDP;

/// Datagrams that one socket brings before others have their turn.
const TURN: usize = 32;
/// Longest datagram, bytes.
pub(super) const LONGEST: usize = 65_536;

/// One client of one published l4 port, as it asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client {
    /// [`super::Published::id`].
    pub published: u64,
    pub from: SocketAddr,
    /// The host's address that it asked.
    pub to: Option<IpAddr>,
}

/// One flow.
pub(super) struct Served {
    socket: Arc<OwnedFd>,
    pub client: Client,
    answered: bool,
}

impl Served {
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Where was asked, and by whom.
    pub fn ends(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let port = getsockname(self.socket()).ok().and_then(|local| SocketAddr::try_from(local).ok());
        let local =
            self.client.to.zip(port).map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port.port()));
        (local, Some(SocketAddr::new(self.client.from.ip().to_canonical(), self.client.from.port())))
    }

    pub const fn is_answered(&self) -> bool {
        self.answered
    }

    pub fn state_name(&self) -> &'static str {
        if self.answered { "answered" } else { "unanswered" }
    }

    pub fn deadline(&self, used: Tick) -> Tick {
        udp::deadline(used, self.answered)
    }

    /// An answer of the container, or a super-frame of many.
    pub fn packet<E: Emit>(&mut self, bytes: Bytes<'_>, packet: &Packet, cx: &mut Cx<'_, E>) -> Outcome {
        self.answered = true;
        let Client { from, to, .. } = self.client;
        udp::pass(bytes, packet, cx, |bytes| match datagram::send(&self.socket, bytes, from, to) {
            Err(Errno::AGAIN | Errno::NOBUFS) => Err(Errno::AGAIN),
            // What was refused is an earlier one, perhaps for another client, who is found by `troubles`.
            Err(_) => datagram::send(&self.socket, bytes, from, to),
            sent => sent,
        })
    }

    /// A datagram of the client.
    fn deliver<E: Emit>(payload: &[u8], cx: &mut Cx<'_, E>) {
        let wire = cx.wire();
        let at = wire.l4_at() + UDP_LEN;
        let possible = payload.len() <= datagram_max(cx.key) - UDP_LEN;
        let (cutter, mut large) = (&mut *cx.cutter, None);
        let taken = cx.out.emit(cx.link.port, &mut |out| {
            let Some(place) = out.get_mut(at..at + payload.len()).filter(|_| possible) else { return 0 };
            place.copy_from_slice(payload);
            let len = wire.udp(out, payload.len()).unwrap_or(0);
            if wire.fits(len) {
                return len;
            }
            large = wire.cut(out, len, cutter);
            0
        });
        let taken = taken.is_ok() && possible && large.is_none_or(|len| inbox::cut(cx, len));
        cx.counters.bytes_in += payload.len() as u64;
        cx.counters.not_taken += u64::from(!taken);
    }
}

impl Sockets {
    /// Brings the datagrams of a published l4 port.
    pub(super) fn datagrams(&mut self, index: usize, now: Tick, out: &mut impl Emit) {
        let mut buffer = std::mem::take(&mut self.datagram);
        for _ in 0..TURN {
            let Some(Some(listener)) = self.listeners.get(index) else { break };
            let (published, socket) = (listener.id, &listener.socket);
            match datagram::receive(socket, &mut buffer) {
                Ok(arrived) => {
                    let payload = buffer.get(..arrived.len).unwrap_or_default();
                    let client = Client { published, from: arrived.from, to: arrived.to };
                    if let Some(id) = self.served(index, &client, now, out) {
                        self.with(id, now, out, |_, cx| {
                            Served::deliver(payload, cx);
                            Fate::Keep
                        });
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        self.datagram = buffer;
    }

    /// Tells containers what the path has said of their answers to clients of a published l4 port.
    pub(super) fn troubles(&mut self, index: usize, now: Tick, out: &mut impl Emit) {
        let mut quoted = [0; inbox::QUOTED];
        for _ in 0..TURN {
            let Some(Some(listener)) = self.listeners.get(index) else { return };
            match next_path_error(&listener.socket, &mut quoted) {
                Ok(error) => {
                    let of = |from| Client { published: listener.id, from, to: error.of };
                    let Some(id) = error.to.and_then(|to| self.clients.get(&of(to)).copied()) else {
                        continue;
                    };
                    let rest = quoted.get_mut(..error.quoted).unwrap_or_default();
                    self.with(id, now, out, |_, cx| {
                        inbox::tell(&error, rest, cx);
                        Fate::Keep
                    });
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// The flow of a client, opened if it is new and may be.
    fn served(&mut self, index: usize, client: &Client, now: Tick, out: &mut impl Emit) -> Option<u32> {
        let listener = self.listeners.get(index)?.as_ref()?;
        let Some(target) = &listener.target else {
            self.counters.refused += 1;
            return None;
        };
        if let Some(id) = self.clients.get(client).copied() {
            let (flow, _) = self.flows.get_mut(id)?;
            (flow.link, flow.used) = (target.link, now);
            return Some(id);
        }
        let (target, socket): (Target, _) = (target.clone(), Arc::clone(&listener.socket));
        let clients = Arc::clone(&listener.clients);
        self.make_room_for_client(target.link.port, now, out);
        let (id, _) = self.place_for_client(target.link.port)?;
        let key = self.key_of(PROTO_UDP, client.from, &target)?;
        let kind = Kind::Served(Served { socket, client: *client, answered: false });
        self.insert(Flow { key, link: target.link, used: now, inbound: true, kind, bytes: (0, 0) });
        self.clients.insert(*client, id);
        clients.fetch_add(1, Ordering::Relaxed);
        self.rearm(id);
        Some(id)
    }

    /// Ends the flows of an l4 port that is not published any more.
    pub(super) fn unserve(&mut self, published: u64) {
        let is_its = |flow: &Flow| matches!(&flow.kind, Kind::Served(s) if s.client.published == published);
        let ids: Vec<u32> = self.flows.iter().filter(|(_, flow)| is_its(flow)).map(|(id, _)| id).collect();
        for id in ids {
            self.remove(id);
        }
    }
}
