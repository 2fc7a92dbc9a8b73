//! What a host knew of its cluster, for the time in which it is started again and etcd is away.
//!
//! Pure. The records are those of the store, in the same words, and are judged like those: a file is as much anybody's as a
//! store is.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::known::{Known, Stamp};
use super::records::{self, Key};
use super::{Settings, View};
use crate::config::Mode;

/// The version that is written, and the newest that is read.
pub const MEMORY_VERSION: u32 = 1;
/// How many bytes of records are kept: hosts first, and those who are behind them before their addresses.
const MAX_BYTES: usize = 12 << 20;
/// What was read in no reading: the first one says whether it still stands.
const UNREAD: Stamp = Stamp { lease: 0, created: 0, modified: 0 };

/// What was known of the other hosts of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    version: u32,
    /// Of which cluster: where its store is, and what keys begin with there.
    etcd: Vec<String>,
    prefix: String,
    /// What this host was called in it.
    name: String,
    /// By key.
    records: BTreeMap<String, String>,
}

impl Memory {
    /// What `view` has of others; nothing where they are flannel's, whose records are not these.
    pub fn of(settings: &Settings, view: &View) -> Self {
        if settings.mode == Mode::Flannel {
            return Self { version: MEMORY_VERSION, ..Self::default() };
        }
        let mut records = BTreeMap::new();
        let mut room = MAX_BYTES;
        let hosts = view.hosts.iter().filter(|host| !host.me);
        let hosts = hosts.map(|host| (Key::Host(host.name.clone()), records::host(host.vtep)));
        let networks = view.networks.iter();
        let networks = networks.map(|it| (Key::Network(it.name.clone()), records::network(it)));
        let members = view.members.iter().map(|remote| {
            let member = &remote.member;
            (Key::Member(member.vni, member.mac), records::member(&remote.host, member))
        });
        let addresses = view.addresses.iter().filter(|(_, owner)| owner.host != view.name);
        let addresses = addresses
            .map(|((network, ip), owner)| (Key::Address(network.clone(), *ip), records::owner(owner)));
        for (key, value) in hosts.chain(networks).chain(members).chain(addresses) {
            let (key, value) = (key.to_string(), String::from_utf8_lossy(&value).into_owned());
            // Every quotation mark is two bytes in the file.
            let takes = key.len() + value.len() + value.matches('"').count() + 16;
            let Some(rest) = room.checked_sub(takes) else { break };
            room = rest;
            records.insert(key, value);
        }
        let (etcd, prefix) = (settings.etcd.clone(), settings.prefix.clone());
        Self { version: MEMORY_VERSION, etcd, prefix, name: view.name.clone(), records }
    }

    /// Whether it is of this cluster, as this host is in it.
    fn is_of(&self, settings: &Settings, name: &str) -> bool {
        self.name == name
            && self.prefix == settings.prefix
            && self.etcd.iter().any(|endpoint| settings.etcd.contains(endpoint))
    }

    /// Takes up what is of this cluster and can be believed. How many records that are.
    pub(super) fn recall(&self, settings: &Settings, known: &mut Known, now: Instant) -> usize {
        if !self.is_of(settings, known.me()) {
            return 0;
        }
        let taken = self.records.iter().filter(|(key, value)| {
            // Nothing of ours: we say it again, and what was ours may be another's by now.
            let ours = records::parse(key.as_bytes(), value.as_bytes())
                .is_ok_and(|(_, record)| record.host() == Some(known.me()));
            !ours && known.put(key.as_bytes(), value.as_bytes(), UNREAD, now)
        });
        taken.count()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{HostRecord, Member, Remote};
    use super::*;

    fn settings() -> Settings {
        Settings::new(vec!["http://198.18.1.254:2379".into()])
    }

    fn file(records: &str) -> Memory {
        let text = format!(
            r#"{{"version":1,"etcd":["http://198.18.1.254:2379"],"prefix":"/vswitch","name":"h1","records":{{{records}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_a_file_says_is_judged_as_what_a_store_says() {
        let memory = file(
            r#""hosts/h2":"{\"vtep\":\"198.18.1.2\"}","hosts/h1":"{\"vtep\":\"198.18.1.9\"}",
               "hosts/h3":"{\"vtep\":\"224.0.0.1\"}","hosts/../h4":"{}","x":"","members/100/02:42:0a:01:00:05":"[]",
               "members/100/02:42:0a:01:00:06":"{\"host\":\"h1\"}","networks/blue":"{\"vni\":100}""#,
        );
        let mut known = Known::new("h1".into(), Mode::Native);
        assert_eq!(memory.recall(&settings(), &mut known, Instant::now()), 2);
        let keys: Vec<_> = known.entries().map(|(key, _)| key.to_string()).collect();
        assert_eq!(keys, ["hosts/h2", "networks/blue"]);
        assert!(serde_json::from_str::<Memory>(r#"{"version":1,"more":1}"#).is_err());
    }

    #[test]
    fn it_is_bounded_and_hosts_go_before_those_behind_them() {
        let since = Instant::now();
        let vtep = "198.18.1.2".parse().unwrap();
        let host = HostRecord { name: "h2".into(), vtep, since, me: false, held: false };
        let remote = |n: u32| {
            let [_, a, b, c] = n.to_be_bytes();
            let mac = switch::mac::MacAddr([2, 0, 0, a, b, c]);
            let names = (0..20).map(|at| format!("a-name-that-takes-some-room-{n}-{at}")).collect();
            Arc::new(Remote {
                host: "h2".into(),
                vtep,
                member: Member { vni: 1, mac, ips: vec![], names },
                since,
            })
        };
        let view = View {
            hosts: [host].into(),
            members: (0..40_000).map(remote).collect(),
            ..View::empty("h1".into())
        };
        let memory = Memory::of(&settings(), &view);
        assert!(memory.records.contains_key("hosts/h2"));
        assert!(memory.records.len() > 10_000 && memory.records.len() < 40_000, "{}", memory.records.len());
        // As it is written, which is what is looked at when it is read.
        let written = serde_json::to_vec_pretty(&memory).unwrap().len();
        assert!(written <= 16 << 20 && written > 11 << 20, "{written} bytes");
    }
}
