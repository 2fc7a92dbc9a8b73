//! What is done beside packets: clearing away, following a new configuration, showing what is there.

use std::net::Ipv6Addr;
use std::sync::atomic::Ordering;

use switch::port::PortId;
use switch::table::Handle;
use switch::tick::Tick;

use super::Conntrack;
use super::external::{Class, External};
use super::rules::{Rule, Rules};
use super::tcp::State;
use super::types::{ConnectionRow, Counts, MappingRow};
use super::words::{
    Connection, INBOUND, MAPPING, MARK, Mapping, RECEIVED, REWRITE, SENT, STATE, ends, inside_of, known,
    mark, named, whole,
};

impl Conntrack {
    /// Clears away what is over, and says how many connections that were. For a thread of the control plane, every few
    /// seconds; any thread may.
    pub fn age(&self, rules: &Rules, now: Tick) -> usize {
        let pass = u64::from(self.pass.fetch_add(1, Ordering::Relaxed).wrapping_add(1));
        let gone = self.connections.retain(|record| {
            let lives = self.lives(record, rules, now);
            if lives {
                self.mark(record, pass);
            }
            lives
        });
        for (class, mapping) in self.all_mappings() {
            // One that is as young may have a connection that was not met.
            let young = now.secs().saturating_sub(mapping.seen) < 2;
            if mapping.value[MARK] < pass && !young {
                self.unmap(class, &mapping, now);
            }
        }
        let longest = rules.timeouts().longest();
        self.permits.retain(|permit| {
            now.secs().saturating_sub(permit.seen) < longest && self.mapping_of_permit(&permit.key)
        });
        self.others.retain(|other| self.connections.get(Handle::from_u64(other.value[0])).is_some());
        gone
    }

    /// Whether its mapping is still there.
    fn mapping_of_permit(&self, &[word, high, low]: &[u64; 3]) -> bool {
        let (class, at) = named(word);
        class.is_some_and(|class| self.mappings_of(class, whole([high, low])).get(at).is_some())
    }

    fn mark(&self, record: &Connection, pass: u64) {
        let (proto, inside, _) = ends(&record.key);
        let (Some(at), Some(class)) = (self.mapping_of(record), Class::of(proto)) else { return };
        let mappings = self.mappings_of(class, inside.end.address);
        // Most were met by another connection before: to write that again would take the line from whoever translates.
        let unmet = mappings.get(at).is_some_and(|mapping| mapping.value[MARK] < pass);
        if unmet && let Some(held) = mappings.hold(at) {
            held.value()[MARK].fetch_max(pass, Ordering::Relaxed);
        }
    }

    fn all_mappings(&self) -> impl Iterator<Item = (Class, Mapping)> + '_ {
        let tables = Class::ALL.into_iter().zip(&self.mappings);
        tables.flat_map(|(class, both)| {
            both.iter().flat_map(move |table| table.iter().map(move |it| (class, it)))
        })
    }

    /// The containers behind these ports are gone, and all that is their own with them. Says how many connections that
    /// were.
    pub fn forget(&self, gone: impl Fn(PortId) -> bool, now: Tick) -> usize {
        for (class, mapping) in self.all_mappings().filter(|(_, mapping)| gone(PortId(mapping.owner))) {
            self.unmap(class, &mapping, now);
        }
        self.permits.retain(|permit| !gone(PortId(permit.owner)));
        self.others.retain(|other| !gone(PortId(other.owner)));
        self.connections.retain(|record| !gone(PortId(record.owner)))
    }

    /// After a change of configuration: ends what its rule, its address outside or its container is gone of, and
    /// nothing else. An address of ours is known by its position: one that stays must keep it. `keeps`: whether that
    /// address, in that zone, is still of that port. Says how many connections ended.
    pub fn reconcile(
        &self,
        rules: &Rules,
        keeps: impl Fn(PortId, u16, Ipv6Addr) -> bool,
        now: Tick,
    ) -> usize {
        for (class, mapping) in self.all_mappings() {
            let inside = inside_of(&mapping);
            let proto = (mapping.key[0] >> 32) as u8;
            let place = self.place(&mapping, rules);
            // What is published is nobody else's any more. Whose own end point is, keeps what he began before that.
            let stands = place.is_some_and(|place| {
                rules.find(proto, place).is_none()
                    && rules.external_for(inside.zone, inside.end.address) == Some(place.address)
            });
            if !stands || !keeps(PortId(mapping.owner), inside.zone, inside.end.address) {
                self.unmap(class, &mapping, now);
            }
        }
        self.connections.retain(|record| {
            let (_, inside, _) = ends(&record.key);
            self.stands(record, rules) && keeps(PortId(record.owner), inside.zone, inside.end.address)
        })
    }

    /// Whether a connection is still what the configuration says.
    fn stands(&self, record: &Connection, rules: &Rules) -> bool {
        let (proto, inside, _) = ends(&record.key);
        let Some(known) = known(record, rules) else { return false };
        let class = Class::of(proto);
        if let (Some(at), Some(class)) = (self.mapping_of(record), class) {
            return self.mappings_of(class, inside.end.address).get(at).is_some();
        }
        // In the place of its address there may be another one now, of which its deltas are not.
        if mark(known.external.address) != (record.value[MAPPING] >> 32) as u32 {
            return false;
        }
        match class {
            Some(_) => rules
                .find(proto, known.external)
                .is_some_and(|(rule, to)| to == inside && rule.owner.0 == record.owner),
            None => rules.external_for(inside.zone, inside.end.address) == Some(known.external.address),
        }
    }

    /// All connections that are not over.
    pub fn connections<'a>(
        &'a self,
        rules: &'a Rules,
        now: Tick,
    ) -> impl Iterator<Item = ConnectionRow> + 'a {
        self.connections.iter().filter(move |record| self.lives(record, rules, now)).filter_map(
            move |record| {
                let (proto, inside, remote) = ends(&record.key);
                let known = known(&record, rules)?;
                Some(ConnectionRow {
                    proto,
                    inside,
                    external: known.external,
                    remote,
                    owner: PortId(record.owner),
                    inbound: record.value[REWRITE] & INBOUND != 0,
                    state: if proto == switch::parse::PROTO_TCP {
                        State::from_word(record.value[STATE]).stage.name()
                    } else {
                        "open"
                    },
                    idle: now.secs().saturating_sub(record.seen),
                    bytes: (record.value[SENT], record.value[RECEIVED]),
                })
            },
        )
    }

    /// Each published entry, with how many connections there are that came in by it.
    pub fn clients(&self, rules: &Rules, now: Tick) -> Vec<(Rule, u64)> {
        let mut clients: Vec<_> = rules.published().iter().map(|rule| (*rule, 0)).collect();
        for row in self.connections(rules, now).filter(|row| row.inbound) {
            if let Some((_, count)) =
                rules.which(row.proto, row.external).and_then(|which| clients.get_mut(which))
            {
                *count += 1;
            }
        }
        clients
    }

    /// All mappings.
    pub fn mappings<'a>(&'a self, rules: &'a Rules, now: Tick) -> impl Iterator<Item = MappingRow> + 'a {
        self.all_mappings().filter_map(move |(_, record)| {
            Some(MappingRow {
                proto: (record.key[0] >> 32) as u8,
                inside: inside_of(&record),
                external: self.place(&record, rules)?,
                owner: PortId(record.owner),
                idle: now.secs().saturating_sub(record.seen),
            })
        })
    }

    /// How many l4 ports of our addresses are somebody's. Looks at all of them: for tests.
    pub fn l4_ports(&self) -> usize {
        self.external.iter().map(External::used).sum()
    }

    /// What happened since the start, and what there is.
    pub fn counts(&self) -> Counts {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            connections: self.connections.len() as u64,
            mappings: self.mappings.iter().flatten().map(|table| table.len() as u64).sum(),
            opened: load(&self.opened),
            evicted: load(&self.evicted),
            over_quota: load(&self.over_quota),
            no_port: load(&self.no_port),
            other_port: load(&self.other_port),
        }
    }
}
