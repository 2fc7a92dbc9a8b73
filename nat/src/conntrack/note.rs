//! Noting the packets of connections that are there.

use std::net::Ipv6Addr;

use switch::drop::DropReason;
use switch::flow::{Meta, TcpMeta};
use switch::sync::{AtomicU64, Ordering};
use switch::table::{Handle, Held};
use switch::tick::Tick;

use super::Conntrack;
use super::external::Class;
use super::tcp::{self, Side, State, Step, Way};
use super::words::{
    BACK, Connection, INBOUND, OUT, RECEIVED, REWRITE, SENT, STATE, WORDS, ends, other, permit,
};

/// How often to look again at what another thread has just changed. Who loses more often has said nothing new.
const ATTEMPTS: u32 = 4;

impl Conntrack {
    /// One packet of a connection that is there.
    #[inline]
    pub(super) fn note(
        &self,
        held: &Held<'_, 5, WORDS>,
        way: Way,
        meta: &Meta,
        now: Tick,
    ) -> Result<(), DropReason> {
        let value = held.value();
        let uses = match &meta.tcp {
            Some(tcp) => advance(value, tcp, way).ok_or(DropReason::NatReset)?,
            None => Uses::All,
        };
        let counter = if way == Way::Out { SENT } else { RECEIVED };
        value[counter].fetch_add(length(meta), Ordering::Relaxed);
        match uses {
            Uses::All | Uses::Itself if held.seen() == now.secs_up() => {}
            Uses::All => self.refresh(held.at(), now),
            Uses::Itself => self.refresh_itself(held.at(), now),
            Uses::Nothing => {}
        }
        Ok(())
    }

    /// At most once a second and connection: all that is in use by it.
    #[cold]
    fn refresh(&self, at: Handle, now: Tick) {
        let Some(record) = self.connections.get(at) else { return };
        let (proto, inside, remote) = ends(&record.key);
        self.connections.touch(&record, now.secs_up());
        match self.mapping_of(&record) {
            Some(at) => self.refresh_mapping(proto, inside.end.address, at, remote.address, now),
            None => self.refresh_other(&record, proto, remote.address, now),
        }
    }

    /// Of one that is over: itself alone, it keeps no mapping in use (RFC 7857 section 2.2).
    #[cold]
    fn refresh_itself(&self, at: Handle, now: Tick) {
        if let Some(record) = self.connections.get(at) {
            self.connections.touch(&record, now.secs_up());
        }
    }

    /// Whose is what comes from a host that speaks without l4 ports.
    fn refresh_other(&self, record: &Connection, proto: u8, remote: Ipv6Addr, now: Tick) {
        let index = (record.value[REWRITE] >> 8) as u8;
        if Class::of(proto).is_none()
            && let Some(other) = self.others.lookup(&other(proto, index, remote))
        {
            self.others.touch(&other, now.secs_up());
        }
    }

    /// A mapping, and who may come in by it, are in use by a connection.
    pub(super) fn refresh_mapping(
        &self,
        proto: u8,
        inside: Ipv6Addr,
        at: Handle,
        remote: Ipv6Addr,
        now: Tick,
    ) {
        let Some(class) = Class::of(proto) else { return };
        let mappings = self.mappings_of(class, inside);
        if let Some(mapping) = mappings.get(at) {
            mappings.touch(&mapping, now.secs_up());
        }
        if let Some(permit) = self.permits.lookup(&permit(class, at, remote)) {
            self.permits.touch(&permit, now.secs_up());
        }
    }
}

/// What a packet keeps in use.
enum Uses {
    /// The connection, its mapping, and who may come in by that.
    All,
    /// The connection: what is left of it begins to run out now (RFC 7857 section 2.2).
    Itself,
    /// A reset is no use (RFC 7857 section 7).
    Nothing,
}

/// What a segment makes of a connection; `None`: a reset that is not believed.
#[inline]
fn advance(value: &[AtomicU64; WORDS], tcp: &TcpMeta, way: Way) -> Option<Uses> {
    let [mine, theirs] = if way == Way::Out { [OUT, BACK] } else { [BACK, OUT] };
    let read = |at: usize| [value[at].load(Ordering::Relaxed), value[at + 1].load(Ordering::Relaxed)];
    let mut word = value[STATE].load(Ordering::Relaxed);
    for _ in 0..ATTEMPTS {
        let (state, before) = (State::from_word(word), read(mine));
        let step = tcp::step(state, Side::from_words(before), Side::from_words(read(theirs)), tcp, way)?;
        let next = step.state.to_word();
        // The other way may be tracked at the same moment, and have changed it.
        if next != word
            && let Err(other) =
                value[STATE].compare_exchange(word, next, Ordering::Relaxed, Ordering::Relaxed)
        {
            word = other;
            continue;
        }
        for (word, (before, after)) in (mine..).zip(before.into_iter().zip(step.sender.to_words())) {
            if before != after {
                value[word].store(after, Ordering::Relaxed);
            }
        }
        if step.reopens {
            open_again(value, &step, theirs);
        }
        return Some(match step.refreshes {
            true => Uses::All,
            false if next != word => Uses::Itself,
            false => Uses::Nothing,
        });
    }
    Some(Uses::All)
}

/// What was said before is over, and it may be the other side that opens it now.
#[cold]
fn open_again(value: &[AtomicU64; WORDS], step: &Step, theirs: usize) {
    (theirs..theirs + 2).for_each(|word| value[word].store(0, Ordering::Relaxed));
    if step.state.opened == Way::In.bit() {
        value[REWRITE].fetch_or(INBOUND, Ordering::Relaxed);
    } else {
        value[REWRITE].fetch_and(!INBOUND, Ordering::Relaxed);
    }
}

/// Bytes of an IP packet.
pub(super) const fn length(meta: &Meta) -> u64 {
    meta.l3_end.saturating_sub(meta.l3_off as u32) as u64
}
