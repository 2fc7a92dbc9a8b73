//! Making room where a container has all that it may have: what is over goes, and what nobody has answered.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use switch::parse::PROTO_TCP;
use switch::port::PortId;
use switch::table::Handle;
use switch::tick::Tick;

use super::external::Class;
use super::open::Wanted;
use super::rules::Rules;
use super::tcp::{Stage, State};
use super::words::{Connection, RECEIVED, SENT, STATE, proto_of};
use super::{Conntrack, longest};

/// Places of a table that are looked at for one packet, and how often in a second that may be: who asks for more than he
/// may have, asks all the time.
const PLACES: u32 = 1024;
const TURNS: u32 = 256;
/// Answered ones that are passed over for one that is not.
const PASSED: usize = 256;

/// Where a table was looked through last.
#[derive(Default)]
struct Sweep {
    turn: AtomicU32,
    /// `second:32 turns:32`.
    spent: AtomicU64,
}

impl Sweep {
    /// Which part of it comes next; `None`: that was enough for this second.
    fn next(&self, now: Tick) -> Option<u32> {
        let second = u64::from(now.secs()) << 32;
        let more = |spent: u64| match spent & !0xffff_ffff == second {
            true => ((spent as u32) < TURNS).then(|| spent + 1),
            false => Some(second | 1),
        };
        self.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(self.turn.fetch_add(1, Ordering::Relaxed))
    }
}

/// One for each table that has quotas.
#[derive(Default)]
pub(super) struct Sweeps {
    connections: Sweep,
    mappings: [[Sweep; 2]; Class::ALL.len()],
}

impl Conntrack {
    /// Whether a container may have one connection more. In a full table, as at its limit, it loses one that nobody has
    /// answered before anybody loses another.
    pub(super) fn room(&self, rules: &Rules, owner: PortId, now: Tick) -> bool {
        let most = self.limits.connections_per_port as usize;
        let at_limit = || most != 0 && self.connections.owner_len(owner.0) >= most;
        let full = self.connections.len() >= self.connections.capacity();
        if (full || at_limit()) && !self.end_unanswered(owner) && at_limit() {
            self.sweep(rules, now);
        }
        !at_limit()
    }

    /// Ends the first connection of a container that nobody has answered. False: it has none.
    fn end_unanswered(&self, owner: PortId) -> bool {
        (0..PASSED).map_while(|_| self.backlog.pop(owner.0)).any(|at| self.end_if_unanswered(at))
    }

    /// False: it is gone, or in use.
    pub(super) fn end_if_unanswered(&self, at: Handle) -> bool {
        let ended = self
            .connections
            .get(at)
            .is_some_and(|record| is_unanswered(&record) && self.connections.take(&record));
        self.evicted.fetch_add(u64::from(ended), Ordering::Relaxed);
        ended
    }

    /// Clears away some of what is over.
    fn sweep(&self, rules: &Rules, now: Tick) {
        if let Some(part) = self.sweeps.connections.next(now) {
            let over = |record: &Connection| !self.lives(record, rules, now);
            self.connections
                .part(part, PLACES)
                .filter(over)
                .for_each(|record| _ = self.connections.take(&record));
        }
    }

    /// Whether a container may have one mapping more.
    pub(super) fn room_for_mapping(&self, wanted: &Wanted<'_>) -> bool {
        let Wanted { rules, class, proto, inside, owner, now } = *wanted;
        let mappings = self.mappings_of(class, inside.end.address);
        let at_limit = || mappings.owner_len(owner.0) >= self.limits.mappings_per_port as usize;
        if !at_limit() {
            return true;
        }
        if let Some(part) = super::of_class(&self.sweeps.mappings, class, inside.end.address).next(now) {
            let oldest = longest(proto, rules);
            mappings
                .part(part, PLACES)
                .filter(|record| now.secs().saturating_sub(record.seen) >= oldest)
                .for_each(|record| self.unmap(class, &record, now));
        }
        !at_limit()
    }
}

/// Whether it takes no more than one to make it: anybody outside can, who need not be where he says he is.
fn is_unanswered(record: &Connection) -> bool {
    let one_way = record.value[SENT] == 0 || record.value[RECEIVED] == 0;
    let opening = || State::stage_of(record.value[STATE]) != Stage::Established;
    one_way || proto_of(&record.key) == PROTO_TCP && opening()
}
