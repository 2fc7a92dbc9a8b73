//! Opening connections, and the mappings that they need.

use std::sync::atomic::Ordering;

use switch::checksum::Delta;
use switch::drop::DropReason;
use switch::flow::{FlowKey, Meta, Packet, TcpMeta};
use switch::parse::{PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP};
use switch::port::PortId;
use switch::table::{Handle, New, Outcome};
use switch::tick::Tick;

use super::external::{Class, Wish};
use super::note::length;
use super::rules::{Rules, mix};
use super::tcp::{self, Side, Way};
use super::types::{EndPoint, Entering, Filtering, Inside, Known};
use super::words::{
    BACK, INBOUND, MAPPING, Mapping, NONE, OUT, PLACE, RECEIVED, REWRITE, SENT, STATE, WORDS, ends, halves,
    inside_of, known, mapping_key, mark, other, permit, remote, source, target, target_outside, word, words,
};
use super::{Conntrack, longest};

/// What is to be opened.
struct Opening<'a> {
    rules: &'a Rules,
    proto: u8,
    inside: Inside,
    remote: EndPoint,
    external: EndPoint,
    mapping: Option<Handle>,
    owner: PortId,
    meta: &'a Meta,
    way: Way,
    now: Tick,
}

/// Whose end point is to have one outside.
pub(super) struct Wanted<'a> {
    pub rules: &'a Rules,
    pub class: Class,
    pub proto: u8,
    pub inside: Inside,
    pub owner: PortId,
    pub now: Tick,
}

impl Conntrack {
    #[cold]
    pub(super) fn open_out(
        &self,
        rules: &Rules,
        packet: &Packet,
        owner: PortId,
        now: Tick,
    ) -> Result<Known, DropReason> {
        let (key, meta) = (&packet.key, &packet.meta);
        if meta.tcp.is_some_and(|tcp| !tcp::opens(&tcp)) || !asks(key) {
            return Err(DropReason::NatNoConnection);
        }
        let (inside, remote) = (Inside { zone: key.zone, end: source(key) }, target(key));
        let (external, mapping) = match Class::of(key.proto) {
            Some(class) => match rules.find_inside(key.proto, &inside) {
                Some(external) => (external, None),
                None => {
                    let wanted = Wanted { rules, class, proto: key.proto, inside, owner, now };
                    let (at, external) = self.map(&wanted)?;
                    (external, Some(at))
                }
            },
            None => {
                let address = rules.external_for(inside.zone, inside.end.address);
                (EndPoint { address: address.ok_or(DropReason::NatPorts)?, port: 0 }, None)
            }
        };
        let opening = Opening {
            rules,
            proto: key.proto,
            inside,
            remote,
            external,
            mapping,
            owner,
            meta,
            way: Way::Out,
            now,
        };
        let known = self.open(&opening)?;
        if let (Some(at), Some(class), Filtering::Address) =
            (mapping, Class::of(key.proto), rules.filtering())
        {
            self.allow(class, at, &opening);
        }
        if Class::of(key.proto).is_none() {
            self.claim_remote(&opening, known.at)?;
        }
        Ok(known)
    }

    #[cold]
    pub(super) fn open_in(
        &self,
        rules: &Rules,
        key: &FlowKey,
        meta: &Meta,
        to: &Entering,
        now: Tick,
    ) -> Result<(), DropReason> {
        let external = target_outside(key);
        let opening = Opening {
            rules,
            proto: key.proto,
            inside: to.inside,
            remote: remote(key),
            external,
            mapping: to.mapping,
            owner: to.owner,
            meta,
            way: Way::In,
            now,
        };
        self.open(&opening)?;
        if let Some(at) = to.mapping {
            self.refresh_mapping(key.proto, to.inside.end.address, at, opening.remote.address, now);
        }
        Ok(())
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Known, DropReason> {
        let Opening { rules, proto, inside, remote, owner, meta, now, .. } = *opening;
        let key = words(inside.zone, proto, inside.end, remote);
        if let Some(old) = self.connections.lookup(&key) {
            let same = |known: &Known| known.external == opening.external && self.lives(&old, rules, now);
            if let Some(known) = known(&old, rules).filter(same) {
                // Another worker was earlier.
                self.track_known(old.at, opening.way, meta, now)?;
                return Ok(known);
            }
            self.connections.take(&old);
        }
        if !self.room(rules, owner, now) {
            self.over_quota.fetch_add(1, Ordering::Relaxed);
            return Err(DropReason::NatQuota);
        }
        let value = opening.value().ok_or(DropReason::NatPorts)?;
        let new = New { key, value, owner: owner.0, pinned: false, seen: now.secs_up() };
        let inserted = self.connections.insert(&new);
        self.evicted.fetch_add(u64::from(inserted.evicted.is_some()), Ordering::Relaxed);
        let record = match inserted.outcome {
            Outcome::New(at) => {
                self.opened.fetch_add(1, Ordering::Relaxed);
                self.note_unanswered(opening, at);
                self.connections.get(at).ok_or(DropReason::NatQuota)?
            }
            // Or a moment earlier.
            Outcome::Existing(record) => {
                self.track_known(record.at, opening.way, meta, now)?;
                record
            }
            Outcome::Full | Outcome::BucketFull => {
                self.over_quota.fetch_add(1, Ordering::Relaxed);
                return Err(DropReason::NatQuota);
            }
        };
        known(&record, rules).ok_or(DropReason::NatPorts)
    }

    /// Of what anybody outside can open, or makes a container open who does not find it here any more, a container has
    /// as much as its backlog holds.
    fn note_unanswered(&self, opening: &Opening<'_>, at: Handle) {
        let published = opening.mapping.is_none() && Class::of(opening.proto).is_some();
        if (opening.way == Way::In || published)
            && let Some(first) = self.backlog.push(opening.owner.0, at)
        {
            self.end_if_unanswered(first);
        }
    }

    /// The end point outside of a container's, which is there or is made.
    pub(super) fn map(&self, wanted: &Wanted<'_>) -> Result<(Handle, EndPoint), DropReason> {
        let Wanted { rules, class, proto, inside, owner, now } = *wanted;
        let mappings = self.mappings_of(class, inside.end.address);
        if let Some(record) = mappings.lookup(&mapping_key(proto, &inside)) {
            let over = now.secs().saturating_sub(record.seen) >= longest(proto, rules);
            match self.place(&record, rules).filter(|_| !over && record.owner == owner.0) {
                Some(external) => {
                    mappings.touch(&record, now.secs_up());
                    return Ok((record.at, external));
                }
                None => self.unmap(class, &record, now),
            }
        }
        if !self.room_for_mapping(wanted) {
            self.over_quota.fetch_add(1, Ordering::Relaxed);
            return Err(DropReason::NatQuota);
        }
        let external = self.choose(wanted).ok_or_else(|| {
            self.no_port.fetch_add(1, Ordering::Relaxed);
            DropReason::NatPorts
        })?;
        self.make(wanted, external)
    }

    /// A mapping to an end point that is claimed for it.
    fn make(&self, wanted: &Wanted<'_>, external: EndPoint) -> Result<(Handle, EndPoint), DropReason> {
        let Wanted { rules, class, proto, inside, owner, now } = *wanted;
        let mappings = self.mappings_of(class, inside.end.address);
        let key = mapping_key(proto, &inside);
        let index = rules.index(external.address).ok_or(DropReason::NatPorts)?;
        let place =
            u64::from(external.port) << 48 | u64::from(mark(external.address)) << 16 | u64::from(index) << 8;
        let new = New { key, value: [place, 0], owner: owner.0, pinned: false, seen: now.secs_up() };
        let inserted = mappings.insert(&new);
        if let Some(victim) = inserted.evicted {
            self.evicted.fetch_add(1, Ordering::Relaxed);
            self.release(class, &victim, now);
        }
        let ports = self.external.get(usize::from(index));
        match inserted.outcome {
            Outcome::New(at) => {
                if let Some(ports) = ports {
                    ports.settle(class, external.port, at);
                    if mappings.get(at).is_none() {
                        // Evicted, or its container forgotten, before its l4 port was known to be its.
                        ports.free(class, external.port, at, self.hash(&inside), now.secs_up());
                        return Err(DropReason::NatQuota);
                    }
                }
                self.other_port.fetch_add(u64::from(external.port != inside.end.port), Ordering::Relaxed);
                Ok((at, external))
            }
            outcome => {
                ports.inspect(|ports| ports.give_back(class, external.port));
                match outcome {
                    Outcome::Existing(record) => {
                        Ok((record.at, self.place(&record, rules).ok_or(DropReason::NatPorts)?))
                    }
                    _ => {
                        self.over_quota.fetch_add(1, Ordering::Relaxed);
                        Err(DropReason::NatQuota)
                    }
                }
            }
        }
    }

    /// Where a container's end point is to be outside, claimed for it.
    fn choose(&self, wanted: &Wanted<'_>) -> Option<EndPoint> {
        let Wanted { rules, class, proto, inside, now, .. } = *wanted;
        let address = rules.external_for(inside.zone, inside.end.address)?;
        let ports = self.external.get(usize::from(rules.index(address)?))?;
        let wish = Wish {
            port: inside.end.port,
            hash: self.hash(&inside),
            parity: rules.parity() && class == Class::Udp,
            only: proto == PROTO_SCTP,
        };
        // Whatever is published is nobody else's, however he asks for it.
        let taken = |port| rules.find(proto, EndPoint { address, port }).is_some();
        let port = ports.claim(class, &wish, now, taken)?;
        Some(EndPoint { address, port })
    }

    fn hash(&self, inside: &Inside) -> u64 {
        let [high, low] = halves(inside.end.address);
        mix(
            self.seed ^ high,
            u128::from(low) << 64 | u128::from(inside.zone) << 16 | u128::from(inside.end.port),
        )
    }

    /// Where a mapping is outside. `None`: its address is not ours any more.
    pub(super) fn place(&self, record: &Mapping, rules: &Rules) -> Option<EndPoint> {
        let word = record.value[PLACE];
        let address = rules.address((word >> 8) as u8).filter(|it| mark(*it) == (word >> 16) as u32)?;
        Some(EndPoint { address, port: (word >> 48) as u16 })
    }

    /// Removes a mapping; its connections are over with it.
    pub(super) fn unmap(&self, class: Class, record: &Mapping, now: Tick) {
        let inside = inside_of(record);
        if self.mappings_of(class, inside.end.address).take(record) {
            self.release(class, record, now);
        }
    }

    /// The l4 port of a mapping that is gone is free.
    fn release(&self, class: Class, record: &Mapping, now: Tick) {
        let word = record.value[PLACE];
        if let Some(ports) = self.external.get(usize::from((word >> 8) as u8)) {
            let hash = self.hash(&inside_of(record));
            ports.free(class, (word >> 48) as u16, record.at, hash, now.secs_up());
        }
    }

    /// Who is spoken to may come in.
    fn allow(&self, class: Class, mapping: Handle, opening: &Opening<'_>) {
        let key = permit(class, mapping, opening.remote.address);
        let seen = opening.now.secs_up();
        let new = New { key, value: [], owner: opening.owner.0, pinned: false, seen };
        // Without room the answers come in all the same: they belong to the connection.
        if let Outcome::Existing(record) = self.permits.insert(&new).outcome {
            self.permits.touch(&record, seen);
        }
    }

    /// Of a protocol without l4 ports one container at a time speaks with a host.
    fn claim_remote(&self, opening: &Opening<'_>, at: Handle) -> Result<(), DropReason> {
        let Opening { rules, proto, inside, remote, external, owner, now, .. } = *opening;
        let index = rules.index(external.address).ok_or(DropReason::NatPorts)?;
        let key = other(proto, index, remote.address);
        let new = New { key, value: [at.to_u64()], owner: owner.0, pinned: false, seen: now.secs_up() };
        for _ in 0..2 {
            let inserted = self.others.insert(&new);
            if let Some(victim) = inserted.evicted {
                // Nothing would come back by it.
                self.evicted.fetch_add(1, Ordering::Relaxed);
                self.end(Handle::from_u64(victim.value[0]));
            }
            let old = match inserted.outcome {
                Outcome::New(_) => return Ok(()),
                Outcome::Existing(old) => old,
                Outcome::Full | Outcome::BucketFull => break,
            };
            let has = self.connections.get(Handle::from_u64(old.value[0]));
            let has = has.filter(|record| self.lives(record, rules, now) && record.at != at);
            if has.is_some_and(|record| ends(&record.key).1 != inside) {
                break;
            }
            self.others.take(&old);
        }
        self.end(at);
        self.no_port.fetch_add(1, Ordering::Relaxed);
        Err(DropReason::NatPorts)
    }

    fn end(&self, at: Handle) {
        if let Some(record) = self.connections.get(at) {
            self.connections.take(&record);
        }
    }
}

impl Opening<'_> {
    /// `None`: the address is not ours.
    fn value(&self) -> Option<[u64; WORDS]> {
        let Self { rules, proto, inside, external, mapping, meta, way, .. } = *self;
        let address = Delta::address(inside.end.address, external.address);
        let l4 = word(proto, inside.end, external);
        let mut value = [0; WORDS];
        value[REWRITE] = u64::from(external.port) << 48
            | u64::from(l4.to_u16()) << 32
            | u64::from(address.to_u16()) << 16
            | u64::from(rules.index(external.address)?) << 8
            | if way == Way::In { INBOUND } else { 0 };
        value[MAPPING] = match mapping {
            Some(at) => at.to_u64(),
            None => u64::from(mark(external.address)) << 32 | NONE,
        };
        let (mine, counter) = if way == Way::Out { (OUT, SENT) } else { (BACK, RECEIVED) };
        let (state, sender) = begin(meta.tcp.as_ref(), way);
        value[STATE] = state;
        value[mine..mine + 2].copy_from_slice(&sender.to_words());
        value[counter] = length(meta);
        Some(value)
    }
}

/// RFC 5508 section 7 REQ-10: of ICMP what is a query has an identifier to be told apart by, and opens a connection. Of
/// the rest nothing comes back to who sent it.
const fn asks(key: &FlowKey) -> bool {
    match key.proto {
        PROTO_ICMP => matches!(key.dport >> 8, 8 | 13 | 15 | 17),
        PROTO_ICMPV6 => key.dport >> 8 == 128,
        _ => true,
    }
}

fn begin(tcp: Option<&TcpMeta>, way: Way) -> (u64, Side) {
    tcp.map_or((0, Side::default()), |tcp| {
        let step = tcp::begin(tcp, way);
        (step.state.to_word(), step.sender)
    })
}
