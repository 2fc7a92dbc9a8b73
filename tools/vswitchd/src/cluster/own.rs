//! What of ours is to be in the store, and the steps that bring it there. Pure.
//!
//! A key that another host has is left alone until that changes: whoever was first keeps it. Nothing is written before
//! our own name is ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::known::{Entry, Known};
use super::records::{self, Key, MAX_EACH, Record};
use super::{Claim, NetworkRecord, Owner, Says, flannel};

/// One write, and what must be so for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub key: Key,
    /// What is written; `None`: the key goes.
    pub value: Option<Vec<u8>>,
    /// It goes with our lease.
    pub leased: bool,
    /// The revision that wrote last what stands there; 0: nothing does.
    pub over: i64,
}

/// Our side of the store.
#[derive(Debug)]
pub(super) struct Own {
    me: String,
    /// Where we stand ourselves: without that nothing else is said.
    first: Key,
    wanted: BTreeMap<Key, Record>,
    /// Networks that are there again if they were removed.
    insists: BTreeSet<String>,
    held: BTreeMap<(String, IpAddr), Claim>,
    /// Claims that are being made, and the latest revision that the watch told of each meanwhile.
    asked: BTreeMap<Key, i64>,
    /// Steps whose outcome the watch has not told yet: the revisions they came to.
    sent: BTreeMap<Key, i64>,
    /// Steps that failed: somebody else's is there.
    blocked: BTreeSet<Key>,
}

impl Own {
    pub fn new(me: String) -> Self {
        Self {
            first: Key::Host(me.clone()),
            me,
            wanted: BTreeMap::new(),
            insists: BTreeSet::new(),
            held: BTreeMap::new(),
            asked: BTreeMap::new(),
            sent: BTreeMap::new(),
            blocked: BTreeSet::new(),
        }
    }

    /// Where we stand ourselves.
    pub const fn first(&self) -> &Key {
        &self.first
    }

    /// This is what is wanted from now on, beside what is known.
    pub fn want(&mut self, says: &Says, known: &Known) {
        if let Some(ours) = &says.flannel {
            self.first = flannel::own_key(ours);
            self.wanted = flannel::wanted(says, ours, known);
            return;
        }
        let mut wanted = BTreeMap::new();
        wanted.insert(Key::Host(self.me.clone()), Record::Host { name: self.me.clone(), vtep: says.vtep });
        for network in &says.networks {
            wanted.insert(Key::Network(network.name.clone()), Record::Network(network.clone()));
        }
        for network in &says.removes {
            let removed = NetworkRecord { removed: true, ..network.clone() };
            wanted.insert(Key::Network(network.name.clone()), Record::Network(removed));
        }
        self.insists.clone_from(&says.insists);
        for member in &says.members {
            let mut member = member.clone();
            member.ips.truncate(MAX_EACH);
            member.names.truncate(MAX_EACH);
            let host = self.me.clone();
            wanted.insert(Key::Member(member.vni, member.mac), Record::Member { host, member });
        }
        for claim in self.held.values() {
            wanted.insert(key(claim), self.owned(claim));
        }
        self.wanted = wanted;
    }

    fn owned(&self, claim: &Claim) -> Record {
        Record::Address(owner(&self.me, claim))
    }

    /// Everything has been read: what was sent is in it, and what was in the way may be gone.
    pub fn begin(&mut self) {
        self.sent.clear();
        self.blocked.clear();
        self.asked.clear();
    }

    /// The watch told of a key.
    pub fn heard(&mut self, key: &Key, revision: i64) {
        self.blocked.remove(key);
        if let Some(heard) = self.asked.get_mut(key) {
            *heard = revision;
        }
        if self.sent.get(key).is_some_and(|sent| *sent <= revision) {
            self.sent.remove(key);
        }
    }

    /// Whether an address is ours already, for the same interface.
    pub fn holds(&self, claim: &Claim) -> bool {
        self.held.get(&(claim.network.clone(), claim.ip)) == Some(claim)
    }

    /// A claim is being made.
    pub fn ask(&mut self, claim: &Claim) {
        self.asked.insert(key(claim), 0);
    }

    /// A claim has been answered; `granted` by this revision.
    pub fn answered(&mut self, claim: Claim, granted: Option<i64>) {
        let heard = self.asked.remove(&key(&claim)).unwrap_or(0);
        let Some(revision) = granted else { return };
        // The watch may be faster than the answer.
        if heard < revision {
            self.sent.insert(key(&claim), revision);
        }
        self.wanted.insert(key(&claim), self.owned(&claim));
        self.held.insert((claim.network.clone(), claim.ip), claim);
    }

    /// An address is not ours any more.
    pub fn release(&mut self, address: (String, IpAddr)) {
        let key = Key::Address(address.0.clone(), address.1);
        self.held.remove(&address);
        self.wanted.remove(&key);
        self.blocked.remove(&key);
    }

    /// A step came to this revision, or failed.
    pub fn done(&mut self, step: &Step, revision: Option<i64>) {
        match revision {
            Some(revision) => self.sent.insert(step.key.clone(), revision).is_some(),
            None => self.blocked.insert(step.key.clone()),
        };
    }

    /// The next steps, at most so many, for a host with this lease.
    pub fn plan(&self, known: &Known, lease: i64, most: usize) -> Vec<Step> {
        if known.get(&self.first).is_none_or(|entry| entry.stamp.lease != lease) {
            // Without our name the rest is nobody's. The answer is waited for.
            return self
                .wanted
                .get_key_value(&self.first)
                .and_then(|(k, r)| self.step(k, r, known, lease))
                .into_iter()
                .collect();
        }
        let writes = self.wanted.iter().filter_map(|(key, record)| self.step(key, record, known, lease));
        let deletes = known.entries().filter_map(|(key, entry)| self.leftover(key, entry, lease));
        deletes.chain(writes).take(most).collect()
    }

    /// Whether our name is ours: `None`: that is not known yet.
    pub fn named(&self, known: &Known, lease: i64) -> Option<bool> {
        let wanted = self.wanted.get(&self.first)?;
        match known.get(&self.first) {
            Some(entry) if entry.stamp.lease == lease => Some(true),
            Some(entry) if !self.is_ours(entry, wanted, lease) => Some(false),
            _ => self.blocked.contains(&self.first).then_some(false),
        }
    }

    fn waits(&self, key: &Key) -> bool {
        self.blocked.contains(key) || self.sent.contains_key(key) || self.asked.contains_key(key)
    }

    fn step(&self, key: &Key, record: &Record, known: &Known, lease: i64) -> Option<Step> {
        if self.waits(key) {
            return None;
        }
        let there = known.get(key);
        let leased = match key {
            Key::Network(_) => false,
            // A reservation stays one.
            Key::Subnet(_) => there.is_none_or(|entry| entry.stamp.lease != 0),
            _ => true,
        };
        let over = match there {
            // What is not there need not be removed.
            None if matches!(record, Record::Network(network) if network.removed) => return None,
            None => 0,
            Some(entry) if matches!(key, Key::Network(_)) => {
                self.replaces(&entry.record, record).then_some(entry.stamp.modified)?
            }
            Some(entry) if entry.record == *record && (entry.stamp.lease == lease || !leased) => return None,
            Some(entry) if self.is_ours(entry, record, lease) => entry.stamp.modified,
            Some(_) => return None,
        };
        Some(Step { key: key.clone(), value: Some(records::value(record)), leased, over })
    }

    /// Whether our word on a network goes before the one that is there. The first one wins, and how ours is another is told
    /// by the view; but one that is there can be removed, and one that was removed be made anew.
    fn replaces(&self, there: &Record, ours: &Record) -> bool {
        match (there, ours) {
            (Record::Network(there), Record::Network(ours)) => {
                there.removed != ours.removed && (ours.removed || self.insists.contains(&ours.name))
            }
            _ => false,
        }
    }

    fn is_ours(&self, entry: &Entry, record: &Record, lease: i64) -> bool {
        match (&entry.record, record) {
            // Another host may have the same name, but not at the same place.
            (Record::Host { .. }, _) => entry.stamp.lease == lease || entry.record == *record,
            // A host of flannel has its place for a name.
            (Record::Lease(there), Record::Lease(ours)) => there.public_ip == ours.public_ip,
            (other, _) => other.host() == Some(&self.me),
        }
    }

    /// What is in our name and not wanted any more.
    fn leftover(&self, key: &Key, entry: &Entry, lease: i64) -> Option<Step> {
        let ours = match key {
            Key::Member(..) => true,
            // What was claimed before we were started again may still be asked for; until then its lease keeps it.
            Key::Address(..) => entry.stamp.lease == lease,
            // A subnet that this host had before is given back, as flanneld does; but no reservation.
            Key::Subnet(_) => entry.stamp.lease != 0,
            _ => false,
        };
        let named = match (&entry.record, self.wanted.get(&self.first)) {
            (Record::Lease(there), Some(Record::Lease(wanted))) => there.public_ip == wanted.public_ip,
            (record, _) => record.host() == Some(&self.me),
        };
        let leftover = ours && named && !entry.gone && !self.wanted.contains_key(key) && !self.waits(key);
        leftover.then(|| Step { key: key.clone(), value: None, leased: false, over: entry.stamp.modified })
    }
}

/// Where a claim stands.
pub(super) fn key(claim: &Claim) -> Key {
    Key::Address(claim.network.clone(), claim.ip)
}

/// Who holds what a host claims.
pub(super) fn owner(me: &str, claim: &Claim) -> Owner {
    let Claim { container, interface, .. } = claim.clone();
    Owner { host: me.to_owned(), container, interface }
}
