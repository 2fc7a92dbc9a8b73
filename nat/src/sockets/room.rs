//! Who has to go where all places for flows are taken: a few of those who have most go for one who has less, and
//! strangers' datagrams that nobody answered go for others of theirs, as conntrack's `early_drop` does it.

use switch::port::PortId;
use switch::tick::Tick;

use super::Sockets;
use super::flows::{Flow, Kind};
use super::types::Emit;

/// The most that go at once: who looks for them goes through all, and many have the use of it.
const AT_ONCE: u32 = 64;
/// After looking and finding none it is not looked again for so long, milliseconds.
const PAUSE: u64 = 1000;

/// What is remembered between two such occasions.
pub(super) struct Room {
    /// What each that might go is worth, when it was used last, and its slot.
    candidates: Vec<(u8, Tick, u32)>,
    at_once: u32,
    /// It is not looked again before.
    after: Tick,
}

impl Room {
    /// For so many flows of one port.
    pub fn new(flows_per_port: u32, now: Tick) -> Self {
        Self {
            candidates: Vec::with_capacity(flows_per_port as usize),
            at_once: AT_ONCE.min(flows_per_port / 8).max(1),
            after: now,
        }
    }
}

impl Sockets {
    /// All places are taken, and this port has fewer than another: some of that one's go.
    pub(super) fn make_room(&mut self, port: PortId, now: Tick, out: &mut impl Emit) {
        if !self.flows.is_full() {
            return;
        }
        let (greediest, most) = self.flows.greediest();
        if most > self.flows.used(port).saturating_add(self.room.at_once) {
            self.evict(now, out, |flow| flow.link.port == greediest);
        }
    }

    /// The same for a client of a published l4 port. Anybody can write any address on a datagram, so those of clients
    /// that the container has not answered keep no others out.
    pub(super) fn make_room_for_client(&mut self, port: PortId, now: Tick, out: &mut impl Emit) {
        self.make_room(port, now, out);
        if !self.flows.has_room_for_client(port) && now >= self.room.after {
            let stranger = |flow: &Flow| flow.inbound && flow.link.port == port && flow.kind.is_unanswered();
            if !self.evict(now, out, stranger) {
                self.room.after = now.plus_millis(PAUSE);
            }
        }
    }

    /// Ends some of those that may go, what is worth least first and of these the oldest. Whether there were any.
    fn evict(&mut self, now: Tick, out: &mut impl Emit, may: impl Fn(&Flow) -> bool) -> bool {
        let mut candidates = std::mem::take(&mut self.room.candidates);
        let fit = self.flows.iter().filter(|(_, flow)| may(flow));
        candidates.extend(fit.map(|(id, flow)| (flow.kind.worth(), flow.used, id)));
        let count = candidates.len().min(self.room.at_once as usize);
        if count < candidates.len() {
            candidates.select_nth_unstable(count);
        }
        for &(_, _, id) in candidates.iter().take(count) {
            self.counters.evicted += 1;
            self.end(id, now, out);
        }
        candidates.clear();
        self.room.candidates = candidates;
        count > 0
    }
}

impl Kind {
    /// A UDP flow that only one side has spoken in.
    fn is_unanswered(&self) -> bool {
        match self {
            Self::Udp(udp) => !udp.is_answered(),
            Self::Served(served) => !served.is_answered(),
            Self::Tcp(_) | Self::Echo(_) => false,
        }
    }

    /// How much is lost with it.
    fn worth(&self) -> u8 {
        match self {
            Self::Udp(_) | Self::Served(_) if self.is_unanswered() => 0,
            Self::Echo(_) => 1,
            Self::Tcp(tcp) if !tcp.is_established() => 1,
            Self::Udp(_) | Self::Served(_) => 2,
            Self::Tcp(_) => 3,
        }
    }
}
