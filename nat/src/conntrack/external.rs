//! The l4 ports of our addresses: each is free, somebody's, or was somebody's a moment ago. That no two containers
//! share one (RFC 4787 section 4.2.1 REQ-3, RFC 5382 section 7.1 REQ-7) is so because a word is claimed by one
//! compare-and-swap.

use switch::parse::{PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP};
use switch::sync::{AtomicU64, Ordering, Words, fence};
use switch::table::{Handle, TableError};
use switch::tick::Tick;

/// l4 ports of an address and protocol. The models have few of them, to have fewer interleavings.
const PORTS: u32 = if cfg!(loom) { 3 } else { 1 << 16 };
/// The first l4 port that is not a system one (RFC 6335 section 6).
const USER: u16 = if cfg!(loom) { 1 } else { 1024 };
/// How many are looked at for one that was nobody's for a while, before one that was is as good: a claim must not take
/// longer the more have been given up.
const PATIENCE: usize = 1024;
/// Seconds that a freed one is kept from others (RFC 6888 section 3 REQ-8).
const QUARANTINE: u32 = 120;

// Of a handle's low half the upper 8 bits are never used ([`switch::table::MAX_CAPACITY`]).
const TAG: u64 = 0xff << 24;
const MAPPED: u64 = 1 << 24;
const RESERVED: u64 = 2 << 24;
const FREED: u64 = 3 << 24;

/// What has l4 ports, or identifiers, of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Tcp,
    Udp,
    Icmp,
    /// Keeps its l4 ports: its checksum is over them, and over all the rest.
    Sctp,
}

impl Class {
    pub(super) const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Icmp, Self::Sctp];

    /// `None`: of this protocol we know nothing but addresses.
    pub(super) const fn of(proto: u8) -> Option<Self> {
        match proto {
            PROTO_TCP => Some(Self::Tcp),
            PROTO_UDP => Some(Self::Udp),
            PROTO_ICMP | PROTO_ICMPV6 => Some(Self::Icmp),
            PROTO_SCTP => Some(Self::Sctp),
            _ => None,
        }
    }
}

/// What an l4 port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Free,
    /// A mapping's, or about to be.
    Mapped(Option<Handle>),
}

/// How an l4 port is chosen.
pub(super) struct Wish {
    /// The container's.
    pub port: u16,
    /// Nobody can guess it (RFC 6056 section 3.3.3): a keyed hash of whose it is.
    pub hash: u64,
    /// Even stays even, odd stays odd.
    pub parity: bool,
    /// No other will do.
    pub only: bool,
}

/// All l4 ports of a range, from somewhere in it on.
fn scattered((first, count): (u16, u32), hash: u64) -> impl Iterator<Item = u16> {
    let start = (hash % u64::from(count)) as u32;
    (0..count).map(move |at| first.wrapping_add(((start + at) % count) as u16))
}

/// The l4 ports of one address.
pub(super) struct External {
    classes: [Words; Class::ALL.len()],
}

impl External {
    pub(super) fn new() -> Result<Self, TableError> {
        let words = || Words::zeroed(PORTS as usize).ok_or(TableError::Memory(PORTS as usize));
        Ok(Self { classes: [words()?, words()?, words()?, words()?] })
    }

    fn word(&self, class: Class, port: u16) -> Option<&AtomicU64> {
        self.classes.get(class as usize)?.get(usize::from(port))
    }

    /// How many are not free.
    pub(super) fn used(&self) -> usize {
        let taken = |word: &&AtomicU64| matches!(word.load(Ordering::Relaxed) & TAG, MAPPED | RESERVED);
        self.classes.iter().flat_map(|words| words.run(0, PORTS as usize)).filter(taken).count()
    }

    /// Who has it.
    #[inline]
    pub(super) fn of(&self, class: Class, port: u16) -> Use {
        let word = self.word(class, port).map_or(0, |word| word.load(Ordering::Acquire));
        match word & TAG {
            MAPPED => Use::Mapped(Some(Handle::from_u64(word & !TAG))),
            RESERVED => Use::Mapped(None),
            _ => Use::Free,
        }
    }

    /// Claims one for a mapping that is about to be made: the wished one if it can be had, else one of the same range if
    /// there is one (RFC 4787 section 4.2.2 REQ-3 (a)), which is not `taken`, and was nobody else's for a while if there is one.
    pub(super) fn claim(
        &self,
        class: Class,
        wish: &Wish,
        now: Tick,
        taken: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let free = |port: u16, patient: bool| {
            self.may_have(class, port, wish.hash, patient, now).is_some_and(|old| {
                // Asked last: it costs most.
                !taken(port) && self.reserve(class, port, old)
            })
        };
        // An identifier of 0 is one like any other.
        if (wish.port != 0 || class == Class::Icmp) && free(wish.port, !wish.only) {
            return Some(wish.port);
        }
        if wish.only {
            return None;
        }
        let user = (USER, PORTS - u32::from(USER));
        let range = match class {
            Class::Icmp => (0, PORTS),
            _ if wish.port < USER => (1, u32::from(USER) - 1),
            _ => user,
        };
        let find = |range, parity: bool| {
            let fits = move |port: &u16| !parity || port % 2 == wish.port % 2;
            let candidates = || scattered(range, wish.hash).filter(fits);
            candidates()
                .take(PATIENCE)
                .find(|port| free(*port, true))
                .or_else(|| candidates().find(|port| free(*port, false)))
        };
        // Range and parity are only recommended: who has taken all 1023 system ones shall not shut others out.
        find(range, wish.parity).or_else(|| find(user, false))
    }

    /// Its word if it can be had. `patient`: not one that was another's within the last two minutes.
    fn may_have(&self, class: Class, port: u16, hash: u64, patient: bool, now: Tick) -> Option<u64> {
        let old = self.word(class, port)?.load(Ordering::Relaxed);
        let rests = old & TAG == FREED
            && old & 0xff_ffff != hash & 0xff_ffff
            && now.secs().saturating_sub((old >> 32) as u32) < QUARANTINE;
        let had = matches!(old & TAG, MAPPED | RESERVED) || (patient && rests);
        (!had).then_some(old)
    }

    fn reserve(&self, class: Class, port: u16, old: u64) -> bool {
        self.word(class, port).is_some_and(|word| {
            word.compare_exchange(old, RESERVED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// A claimed one is that of a mapping. If that is gone by then, whoever removed it found nothing to free: the
    /// caller must look whether it is there, afterwards.
    pub(super) fn settle(&self, class: Class, port: u16, at: Handle) {
        if let Some(word) = self.word(class, port) {
            word.store(at.to_u64() | MAPPED, Ordering::Release);
            // Between this and the caller's look, as between removal and freeing: one of two sees the other.
            fence(Ordering::SeqCst);
        }
    }

    /// A claimed one is not needed.
    pub(super) fn give_back(&self, class: Class, port: u16) {
        if let Some(word) = self.word(class, port) {
            word.store(0, Ordering::Release);
        }
    }

    /// The mapping that had it is gone. Nothing, if it is another's by now.
    pub(super) fn free(&self, class: Class, port: u16, at: Handle, hash: u64, now: u32) {
        if let Some(word) = self.word(class, port) {
            let rests = u64::from(now) << 32 | FREED | hash & 0xff_ffff;
            fence(Ordering::SeqCst);
            // Whoever it belongs to by now keeps it.
            let _ = word.compare_exchange(at.to_u64() | MAPPED, rests, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}
