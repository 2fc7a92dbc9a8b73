//! Records, what is known of them, what is believed, and what is written: without a store.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use switch::mac::MacAddr;

use super::judge::{Lists, judge};
use super::known::{Known, Stamp};
use super::own::Own;
use super::records::{self, Key, MAX_EACH, Record, Refusal, parse};
use crate::config::Mode;

use super::{Claim, MAX_HOSTS, MAX_REFUSED, MAX_VALUE, Member, NetworkRecord, Owner, Says};

const MAC: &str = "02:42:0a:01:00:05";
const LEASE: i64 = 7;

fn stamp(modified: i64) -> Stamp {
    Stamp { lease: LEASE, created: modified, modified }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn blue() -> NetworkRecord {
    let (_, record) = parse(
        b"networks/blue",
        br#"{"vni":100,"subnet":"10.1.0.0/24","subnet6":"fd00:1::/64","gateway":"10.1.0.1","gateway_mac":"02:42:0a:01:00:01","mtu":1400}"#,
    )
    .unwrap();
    let Record::Network(network) = record else { panic!("{record:?}") };
    network
}

fn member(n: u8) -> Member {
    let mac = MacAddr([2, 0x42, 10, 1, 0, n]);
    Member { vni: 100, mac, ips: vec![IpAddr::from([10, 1, 0, n])], names: vec![format!("c{n}")] }
}

fn says(members: &[u8]) -> Says {
    Says {
        vtep: ip("198.18.1.1"),
        networks: vec![blue()],
        insists: BTreeSet::new(),
        removes: Vec::new(),
        members: members.iter().map(|n| member(*n)).collect(),
        flannel: None,
    }
}

fn text(record: &Record) -> Vec<u8> {
    records::value(record)
}

#[test]
fn each_wrong_record_is_refused_for_what_is_wrong() {
    use Refusal as R;
    let member = |rest: &str| format!(r#"{{"host":"h1"{rest}}}"#);
    let at = format!("members/100/{MAC}");
    let many = |what: &str, one: &str| {
        let all = vec![format!("\"{one}\""); MAX_EACH + 1].join(",");
        member(&format!(r#","{what}":[{all}]"#))
    };
    let network = |fields: &str| format!(r#"{{"vni":1{fields}}}"#);
    let cases: Vec<(&str, String, Refusal)> = vec![
        ("", "{}".into(), R::Key),
        ("hosts", "{}".into(), R::Key),
        ("hosts/", "{}".into(), R::Name),
        ("leases/x", "{}".into(), R::Key),
        ("hosts/a b", "{}".into(), R::Name),
        ("hosts/`id`", "{}".into(), R::Name),
        ("members/100", "{}".into(), R::Key),
        ("members/0/02:42:0a:01:00:05", "{}".into(), R::Vni),
        ("members/-1/02:42:0a:01:00:05", "{}".into(), R::Vni),
        ("members/0100/02:42:0a:01:00:05", "{}".into(), R::Spelling(at.clone())),
        ("members/100/02:42:0A:01:00:05", "{}".into(), R::Spelling(at.clone())),
        ("members/100/ff:ff:ff:ff:ff:ff", "{}".into(), R::Mac(MacAddr::BROADCAST)),
        ("members/100/00:00:00:00:00:00", "{}".into(), R::Mac(MacAddr::ZERO)),
        ("members/100/x", "{}".into(), R::Key),
        ("addresses/blue/10.1.0", "{}".into(), R::Key),
        ("addresses/blue/127.0.0.1", "{}".into(), R::Ip(ip("127.0.0.1"))),
        ("addresses/blue/::ffff:10.1.0.1", "{}".into(), R::Ip(ip("::ffff:10.1.0.1"))),
        ("addresses/blue/FD00::1", "{}".into(), R::Spelling("addresses/blue/fd00::1".into())),
        ("hosts/h1", " ".repeat(MAX_VALUE + 1), R::Size(MAX_VALUE + 1)),
        ("hosts/h1", r#"{"vtep":"fe80::1"}"#.into(), R::Vtep(ip("fe80::1"))),
        ("hosts/h1", r#"{"vtep":"ff02::1"}"#.into(), R::Vtep(ip("ff02::1"))),
        ("hosts/h1", r#"{"vtep":"::"}"#.into(), R::Vtep(ip("::"))),
        ("hosts/h1", r#"{"vtep":"0.1.2.3"}"#.into(), R::Vtep(ip("0.1.2.3"))),
        ("hosts/h1", r#"{"vtep":"240.0.0.1"}"#.into(), R::Vtep(ip("240.0.0.1"))),
        (&at, r#"{"host":"-"}"#.into(), R::Name),
        (&at, member(r#","names":["a;b"]"#), R::Name),
        (&at, member(r#","ips":["224.0.0.1"]"#), R::Ip(ip("224.0.0.1"))),
        (&at, many("ips", "10.1.0.5"), R::Many("addresses")),
        (&at, many("names", "x"), R::Many("names")),
        ("addresses/blue/10.1.0.5", r#"{"host":"h1","container":"$x","interface":"eth0"}"#.into(), R::Name),
        (
            "addresses/blue/10.1.0.5",
            r#"{"host":"h1","container":"x","interface":"a name too long"}"#.into(),
            R::Name,
        ),
        ("networks/blue", r#"{"vni":16777216}"#.into(), R::Vni),
        ("networks/blue", network(r#","subnet":"10.1.0.1/24""#), R::Subnet("10.1.0.1/24".parse().unwrap())),
        ("networks/blue", network(r#","subnet":"127.0.0.0/9""#), R::Subnet("127.0.0.0/9".parse().unwrap())),
        ("networks/blue", network(r#","subnet":"0.0.0.0/0""#), R::Subnet("0.0.0.0/0".parse().unwrap())),
        ("networks/blue", network(r#","subnet":"10.1.0.0/32""#), R::Subnet("10.1.0.0/32".parse().unwrap())),
        ("networks/blue", network(r#","subnet6":"fe80::/64""#), R::Subnet("fe80::/64".parse().unwrap())),
        ("networks/blue", network(r#","subnet6":"::/8""#), R::Subnet("::/8".parse().unwrap())),
        (
            "networks/blue",
            network(r#","subnet":"10.1.0.0/24","gateway":"10.2.0.1""#),
            R::Gateway(ip("10.2.0.1")),
        ),
        ("networks/blue", network(r#","gateway6":"fd00::1""#), R::Gateway(ip("fd00::1"))),
        ("networks/blue", network(r#","mtu":67"#), R::Mtu),
        ("networks/blue", network(r#","mtu":1279,"subnet6":"fd00:1::/64""#), R::Mtu),
        (
            "networks/blue",
            network(r#","gateway_mac":"01:00:00:00:00:00""#),
            R::Mac(MacAddr([1, 0, 0, 0, 0, 0])),
        ),
    ];
    for (key, value, refusal) in cases {
        assert_eq!(parse(key.as_bytes(), value.as_bytes()), Err(refusal), "{key} {value}");
    }
    for (key, value) in [
        ("hosts/h1", ""),
        ("hosts/h1", "[]"),
        ("hosts/h1", r#"{"vtep":"h2"}"#),
        ("hosts/h1", r#"{"vtep":"198.18.1.1"} x"#),
        ("networks/blue", r#"{"vni":-1}"#),
        ("networks/blue", r#"{"vni":1,"gateway_mac":"x"}"#),
        ("networks/blue", r#"{"vni":1,"mtu":1e9}"#),
        (&at, r#"{"ips":[]}"#),
    ] {
        let refused = parse(key.as_bytes(), value.as_bytes());
        assert!(matches!(refused, Err(R::Json(_))), "{key} {value}: {refused:?}");
    }
    let deep = "[".repeat(MAX_VALUE);
    assert!(matches!(parse(b"hosts/h1", deep.as_bytes()), Err(R::Json(_))));
    // What a later release says beside it is no error.
    assert!(parse(b"hosts/h1", br#"{"vtep":"198.18.1.1","zone":"a"}"#).is_ok());
}

fn names() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}"
}

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u16; 8]>().prop_map(IpAddr::from)]
}

fn records() -> impl Strategy<Value = (Key, Record)> {
    let mac = any::<[u8; 6]>().prop_map(MacAddr);
    let ips = proptest::collection::vec(addresses(), 0..4);
    prop_oneof![
        (names(), addresses())
            .prop_map(|(name, vtep)| (Key::Host(name.clone()), Record::Host { name, vtep })),
        (names(), names(), ips, proptest::collection::vec(names(), 0..4), mac, 0..1u32 << 25).prop_map(
            |(host, _, ips, names, mac, vni)| {
                (Key::Member(vni, mac), Record::Member { host, member: Member { vni, mac, ips, names } })
            }
        ),
        (names(), addresses(), names(), names(), "[a-z0-9]{1,16}").prop_map(
            |(network, ip, host, container, interface)| {
                (Key::Address(network, ip), Record::Address(Owner { host, container, interface }))
            }
        ),
        (names(), 0..1u32 << 25, any::<[u8; 4]>(), 0..=32u8, any::<bool>(), any::<Option<u16>>()).prop_map(
            |(name, vni, address, length, internal, mtu)| {
                let subnet = ipnet::Ipv4Net::new(address.into(), length).unwrap();
                let gateway = Some(subnet.network());
                let record = NetworkRecord {
                    name: name.clone(),
                    vni,
                    internal,
                    mtu,
                    gateway,
                    subnet: Some(subnet),
                    ..blue()
                };
                (Key::Network(name), Record::Network(record))
            }
        ),
    ]
}

proptest! {
    #[test]
    fn no_bytes_are_a_panic(key: Vec<u8>, value: Vec<u8>) {
        let _ = parse(&key, &value);
    }

    #[test]
    fn no_text_is_a_panic(kind in "(hosts|members|networks|addresses)", rest in ".{0,80}", value in ".{0,200}") {
        let _ = parse(format!("{kind}/{rest}").as_bytes(), value.as_bytes());
    }

    #[test]
    fn what_is_accepted_is_written_as_it_was((key, record) in records()) {
        if let Ok(read) = parse(key.to_string().as_bytes(), &text(&record)) {
            prop_assert_eq!(&read, &(key, record));
            prop_assert_eq!(parse(read.0.to_string().as_bytes(), &text(&read.1)), Ok(read));
        }
    }

    /// Whatever order the same changes are read and told in, the same is known in the end.
    #[test]
    fn a_change_that_is_told_twice_is_one(changes in proptest::collection::vec((0..4u8, any::<bool>()), 1..40), from in 0..40usize) {
        let now = Instant::now();
        let tell = |known: &mut Known, revision: usize| {
            let (n, there) = changes[revision];
            let modified = i64::try_from(revision).unwrap() + 1;
            let key = format!("hosts/h{n}");
            if there {
                known.put(key.as_bytes(), &records::host(IpAddr::from([198, 18, 1, revision as u8])), stamp(modified), now);
            } else {
                known.delete(key.as_bytes(), modified);
            }
        };
        let list = |known: &mut Known| {
            known.settle(now);
            known.entries().map(|(key, entry)| (key.clone(), entry.record.clone())).collect::<Vec<_>>()
        };
        let mut once = Known::new("me".into(), Mode::Native);
        (0..changes.len()).for_each(|revision| tell(&mut once, revision));
        // A reading that is ahead of the watch: it has all of it, and then the watch tells the later part again.
        let mut again = Known::new("me".into(), Mode::Native);
        again.begin_read();
        for (key, entry) in once.entries().filter(|(_, entry)| !entry.gone) {
            again.put(key.to_string().as_bytes(), &text(&entry.record), entry.stamp, now);
        }
        again.end_read();
        (from.min(changes.len())..changes.len()).for_each(|revision| tell(&mut again, revision));
        prop_assert_eq!(list(&mut once), list(&mut again));
    }
}

/// Keys and values as the store has them.
fn told(records: &[(&str, &str)]) -> Known {
    let mut known = Known::new("h1".into(), Mode::Native);
    for (n, (key, value)) in (1..).zip(records) {
        known.put(key.as_bytes(), value.as_bytes(), stamp(n), Instant::now());
    }
    known
}

fn judged(known: &Known, says: &Says) -> Lists {
    judge(known, says, &[])
}

#[test]
fn what_goes_and_comes_in_one_batch_has_not_gone() {
    let now = Instant::now();
    let mut known = told(&[("hosts/h2", r#"{"vtep":"198.18.1.2"}"#)]);
    let since = |known: &Known| known.entries().next().map(|(_, entry)| entry.since);
    let before = since(&known);
    assert!(known.delete(b"hosts/h2", 5));
    assert!(known.put(b"hosts/h2", br#"{"vtep":"198.18.1.2"}"#, stamp(6), now + Duration::from_secs(1)));
    assert!(!known.settle(now));
    assert_eq!(since(&known), before);
    // A deletion that is told late is none.
    assert!(!known.delete(b"hosts/h2", 5));
    assert!(known.delete(b"hosts/h2", 7));
    assert!(known.settle(now));
    assert_eq!(known.entries().count(), 0);
}

#[test]
fn what_is_gone_stays_while_it_is_held() {
    let now = Instant::now();
    let mut known =
        told(&[("hosts/h2", r#"{"vtep":"198.18.1.2"}"#), ("hosts/h3", r#"{"vtep":"198.18.1.3"}"#)]);
    known.hold_until(now + Duration::from_secs(9));
    known.hold_until(now + Duration::from_secs(3));
    known.begin_read();
    known.put(b"hosts/h2", br#"{"vtep":"198.18.1.2"}"#, stamp(1), now);
    known.end_read();
    assert!(!known.settle(now + Duration::from_secs(8)));
    let lists = judged(&known, &says(&[]));
    assert_eq!(lists.hosts.iter().map(|it| it.held).collect::<Vec<_>>(), [false, true]);
    assert!(known.settle(now + Duration::from_secs(9)));
    assert_eq!((known.entries().count(), known.hold()), (1, None));
}

#[test]
fn there_is_no_memory_without_end() {
    let mut known = Known::new("h1".into(), Mode::Native);
    for n in 0..MAX_HOSTS + 500 {
        let vtep = IpAddr::from([198, 18, (n / 250) as u8, (n % 250) as u8 + 1]);
        known.put(format!("hosts/n{n}").as_bytes(), &records::host(vtep), stamp(1), Instant::now());
    }
    assert_eq!(known.entries().count(), MAX_HOSTS);
    assert_eq!((known.counters.too_many, known.refused().count()), (500, MAX_REFUSED));
    for n in 0..1000 {
        known.put(format!("junk-{n}").as_bytes(), b"x", stamp(1), Instant::now());
    }
    assert_eq!((known.counters.refused, known.refused().count()), (1000, MAX_REFUSED));
    let long = vec![b'x'; 1 << 20];
    let mut known = Known::new("h1".into(), Mode::Native);
    known.put(&long, &long, stamp(1), Instant::now());
    assert!(known.refused().all(|(key, why)| key.len() < 200 && why.len() < 200));
    assert!(!known.has_room_again());
}

#[test]
fn a_record_is_judged_against_the_others() {
    let says = says(&[]);
    let h2 = ("hosts/h2", r#"{"vtep":"198.18.1.2"}"#);
    for (records, key, why) in [
        (&[("hosts/h2", r#"{"vtep":"198.18.1.1"}"#)][..], "hosts/h2", "its VTEP 198.18.1.1 is this host's"),
        (&[("hosts/h2", r#"{"vtep":"127.0.0.1"}"#)], "hosts/h2", "is a loopback address"),
        (&[("hosts/h2", r#"{"vtep":"fd00::1"}"#)], "hosts/h2", "is of another family"),
        (&[h2, ("hosts/h3", h2.1)], "hosts/h3", "that of host `h2`, which was there first"),
        (
            &[("hosts/h1", h2.1)],
            "hosts/h1",
            "it is what this host is called, which is at 198.18.1.1, not 198.18.1.2",
        ),
        (&[("networks/red", r#"{"vni":100}"#)], "networks/red", "its VNI 100 is that of our network `blue`"),
        (
            &[("networks/a", r#"{"vni":9}"#), ("networks/b", r#"{"vni":9}"#)],
            "networks/b",
            "that of network `a`",
        ),
        (
            &[("networks/red", r#"{"vni":9,"subnet6":"fd00:1::/48"}"#)],
            "networks/red",
            "overlaps fd00:1::/64 of our",
        ),
        (
            &[("networks/blue", r#"{"vni":9,"mtu":1300}"#)],
            "networks/blue",
            "`vni` is 9 there and 100 here; `subnet` is none there",
        ),
        (
            &[h2, ("members/100/02:42:0a:01:00:01", r#"{"host":"h2"}"#)],
            "members/100/02:42:0a:01:00:01",
            "its MAC is that of the gateway",
        ),
        (
            &[h2, ("members/100/02:42:0a:01:00:05", r#"{"host":"h2","ips":["10.2.0.5"]}"#)],
            "members/100/02:42:0a:01:00:05",
            "10.2.0.5 is in no subnet of `blue`",
        ),
        (
            &[("members/100/02:42:0a:01:00:05", r#"{"host":"h9"}"#)],
            "members/100/02:42:0a:01:00:05",
            "its host `h9` is not there",
        ),
        (
            &[
                h2,
                ("addresses/blue/10.1.0.5", r#"{"host":"h3","container":"web","interface":"eth0"}"#),
                ("members/100/02:42:0a:01:00:05", r#"{"host":"h2","ips":["10.1.0.5"]}"#),
            ],
            "members/100/02:42:0a:01:00:05",
            "10.1.0.5 of `blue` is held by `eth0` of container `web` on host `h3`",
        ),
    ] {
        let lists = judged(&told(records), &says);
        let found = lists.refused.iter().find(|it| it.key == key);
        assert!(found.is_some_and(|it| it.why.contains(why)), "{records:?}: {:?}", lists.refused);
        assert_eq!(lists.refused.len(), 1, "{:?}", lists.refused);
        assert!(lists.members.is_empty());
    }
    // These may be.
    for records in [
        &[h2, ("members/100/02:42:0a:01:00:01", r#"{"host":"h2","ips":["10.1.0.1"]}"#)][..],
        &[h2, ("members/7/02:42:0a:01:00:05", r#"{"host":"h2","ips":["10.99.0.5"]}"#)],
        &[("networks/red", r#"{"vni":9,"subnet":"10.1.0.0/16","internal":true}"#)],
        &[(
            "networks/blue",
            r#"{"vni":100,"subnet":"10.1.0.0/24","subnet6":"fd00:1::/64","gateway":"10.1.0.1","gateway_mac":"02:42:0a:01:00:01"}"#,
        )],
    ] {
        let lists = judged(&told(records), &says);
        assert!(lists.refused.is_empty(), "{:?}", lists.refused);
    }
}

#[test]
fn nobody_elses_word_moves_a_container_away_from_here() {
    let mut known = told(&[
        ("hosts/h2", r#"{"vtep":"198.18.1.2"}"#),
        ("members/100/02:42:0a:01:00:05", r#"{"host":"h2"}"#),
        ("members/100/02:42:0a:01:00:06", r#"{"host":"h2","ips":["10.1.0.7","10.1.0.5"]}"#),
        ("members/101/02:42:0a:01:00:05", r#"{"host":"h2"}"#),
    ]);
    let lists = judged(&known, &says(&[5]));
    let why: Vec<_> = lists.refused.iter().map(|it| it.why.as_str()).collect();
    let [mac, ip] = [
        "its MAC is that of a container of this host",
        "10.1.0.5 is the address of a container of this host",
    ];
    assert_eq!(why, [mac, ip]);
    assert_eq!(lists.members.len(), 1, "of another network");
    // It left this host: from then on it is there.
    known.settle(Instant::now());
    assert_eq!(judged(&known, &says(&[])).members.len(), 3);
}

#[test]
fn members_that_are_as_before_are_the_same_ones() {
    let mut known = told(&[
        ("hosts/h2", r#"{"vtep":"198.18.1.2"}"#),
        ("members/100/02:42:0a:01:00:05", r#"{"host":"h2","ips":["10.1.0.5"]}"#),
        ("members/100/02:42:0a:01:00:06", r#"{"host":"h2","ips":["10.1.0.6"]}"#),
    ]);
    let before = judge(&known, &says(&[]), &[]).members;
    known.put(b"members/100/02:42:0a:01:00:04", br#"{"host":"h2"}"#, stamp(9), Instant::now());
    known.put(b"members/100/02:42:0a:01:00:06", br#"{"host":"h2"}"#, stamp(9), Instant::now());
    let after = judge(&known, &says(&[]), &before).members;
    assert_eq!(after.len(), 3);
    assert!(Arc::ptr_eq(&before[0], &after[1]) && !Arc::ptr_eq(&before[1], &after[2]));
}

/// A store in memory: does the steps that are planned, and tells of them, until there are none.
fn settle(own: &mut Own, known: &mut Known, revision: &mut i64) -> Vec<String> {
    let mut done = Vec::new();
    loop {
        let steps = own.plan(known, LEASE, 3);
        assert!(steps.len() <= 3);
        if steps.is_empty() {
            return done;
        }
        for step in steps {
            let there = known.get(&step.key).map_or(0, |entry| entry.stamp.modified);
            assert_eq!(there, step.over, "{}", step.key);
            *revision += 1;
            own.done(&step, Some(*revision));
            assert!(
                own.plan(known, LEASE, 100).iter().all(|next| next.key != step.key),
                "twice: {}",
                step.key
            );
            let key = step.key.to_string();
            match &step.value {
                Some(value) => {
                    let lease = if step.leased { LEASE } else { 0 };
                    let stamp = Stamp { lease, created: *revision, modified: *revision };
                    known.put(key.as_bytes(), value, stamp, Instant::now());
                    done.push(format!("+{key}"));
                }
                None => {
                    known.delete(key.as_bytes(), *revision);
                    done.push(format!("-{key}"));
                }
            }
            known.settle(Instant::now());
            own.heard(&step.key, *revision);
        }
    }
}

#[test]
fn the_store_is_brought_to_what_is_said() {
    let (mut own, mut known, mut revision) =
        (Own::new("h1".into()), Known::new("h1".into(), Mode::Native), 100);
    own.want(&says(&[5, 6]), &known);
    let first = settle(&mut own, &mut known, &mut revision);
    assert_eq!(
        first,
        ["+hosts/h1", "+networks/blue", "+members/100/02:42:0a:01:00:05", "+members/100/02:42:0a:01:00:06"]
    );
    let mut changed = says(&[6, 7]);
    changed.members[0].names.push("db".into());
    own.want(&changed, &known);
    let second = settle(&mut own, &mut known, &mut revision);
    assert_eq!(
        second,
        [
            "-members/100/02:42:0a:01:00:05",
            "+members/100/02:42:0a:01:00:06",
            "+members/100/02:42:0a:01:00:07"
        ]
    );
    assert!(own.plan(&known, LEASE, 100).is_empty());

    // Another lease: all of it again, but for the network.
    own.begin();
    let again: Vec<String> = own.plan(&known, 8, 100).iter().map(|step| step.key.to_string()).collect();
    assert_eq!(again, ["hosts/h1"]);
}

#[test]
fn a_network_is_removed_and_made_anew() {
    let (mut own, mut revision) = (Own::new("h1".into()), 100);
    let mut known = told(&[("networks/blue", r#"{"vni":100,"subnet":"10.1.0.0/24"}"#)]);
    let without = Says { networks: Vec::new(), ..says(&[]) };
    let removes = Says { removes: vec![blue()], ..without.clone() };
    own.want(&removes, &known);
    assert_eq!(settle(&mut own, &mut known, &mut revision), ["+hosts/h1", "+networks/blue"]);
    let lists = judge(&known, &removes, &[]);
    assert!(lists.networks.is_empty() && lists.refused.is_empty());
    assert_eq!(*lists.removed, ["blue".to_owned()]);
    assert!(own.plan(&known, LEASE, 100).is_empty());

    // Who merely heard of it does not make it again, nor is its VNI taken.
    own.want(&says(&[]), &known);
    assert!(own.plan(&known, LEASE, 100).is_empty());
    assert!(judge(&known, &says(&[]), &[]).refused.is_empty());
    known.put(b"networks/green", br#"{"vni":100,"subnet":"10.2.0.0/24"}"#, stamp(140), Instant::now());
    let lists = judge(&known, &without, &[]);
    assert_eq!(lists.networks.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["green"]);
    known.delete(b"networks/green", 150);

    // Who has it in the file, or somebody on it, or just made it, does.
    let insists = Says { insists: BTreeSet::from(["blue".to_owned()]), ..says(&[]) };
    own.want(&insists, &known);
    assert_eq!(settle(&mut own, &mut known, &mut revision), ["+networks/blue"]);
    let lists = judge(&known, &insists, &[]);
    assert_eq!((&*lists.networks, lists.removed.len()), (&[blue()][..], 0));

    // What is not there need not be removed.
    let mut empty = Known::new("h1".into(), Mode::Native);
    let mut own = Own::new("h1".into());
    own.want(&removes, &empty);
    assert_eq!(settle(&mut own, &mut empty, &mut revision), ["+hosts/h1"]);
}

#[test]
fn what_another_has_is_left_alone_until_it_goes() {
    let mut known = told(&[
        ("hosts/h2", r#"{"vtep":"198.18.1.2"}"#),
        ("members/100/02:42:0a:01:00:05", r#"{"host":"h2","ips":["10.1.0.5"]}"#),
        ("networks/blue", r#"{"vni":100,"subnet":"10.9.0.0/24"}"#),
    ]);
    let (mut own, mut revision) = (Own::new("h1".into()), 100);
    own.want(&says(&[5]), &known);
    assert_eq!(settle(&mut own, &mut known, &mut revision), ["+hosts/h1"]);
    known.delete(b"members/100/02:42:0a:01:00:05", 200);
    known.settle(Instant::now());
    own.heard(&Key::Member(100, MAC.parse().unwrap()), 200);
    assert_eq!(settle(&mut own, &mut known, &mut revision), ["+members/100/02:42:0a:01:00:05"]);

    // Without our name nothing is written at all, and nothing of its owner's is touched.
    let mut known = told(&[
        ("hosts/h1", r#"{"vtep":"198.18.1.2"}"#),
        ("members/100/02:42:0a:01:00:09", r#"{"host":"h1","ips":["10.1.0.9"]}"#),
    ]);
    let mut own = Own::new("h1".into());
    own.want(&says(&[5]), &known);
    assert!(own.plan(&known, 8, 100).is_empty());
    known.delete(b"hosts/h1", 300);
    assert_eq!(own.plan(&known, 8, 100).len(), 1);
}

#[test]
fn claims_are_ours_until_they_are_released() {
    let (mut own, mut known, mut revision) =
        (Own::new("h1".into()), Known::new("h1".into(), Mode::Native), 100);
    let claim = Claim {
        network: "blue".into(),
        ip: ip("10.1.0.5"),
        container: "web".into(),
        interface: "eth0".into(),
    };
    let key = super::own::key(&claim);
    own.want(&says(&[]), &known);
    settle(&mut own, &mut known, &mut revision);
    own.ask(&claim);
    // It is in the store before the answer is here: it is no leftover.
    let owner = Record::Address(super::own::owner("h1", &claim));
    known.put(key.to_string().as_bytes(), &text(&owner), stamp(150), Instant::now());
    assert!(own.plan(&known, LEASE, 100).is_empty());
    own.heard(&key, 150);
    own.answered(claim.clone(), Some(150));
    revision = 200;
    own.want(&says(&[]), &known);
    assert!(own.holds(&claim) && own.plan(&known, LEASE, 100).is_empty());
    own.release(("blue".into(), claim.ip));
    own.want(&says(&[]), &known);
    assert_eq!(settle(&mut own, &mut known, &mut revision), [format!("-{key}")]);

    // Nobody waited for this one.
    revision = 300;
    known.put(key.to_string().as_bytes(), &text(&owner), stamp(250), Instant::now());
    own.ask(&claim);
    own.answered(claim.clone(), None);
    assert_eq!(settle(&mut own, &mut known, &mut revision), [format!("-{key}")]);
    // Of an earlier life, which its lease keeps for a while.
    let earlier = Stamp { lease: 3, created: 400, modified: 400 };
    known.put(key.to_string().as_bytes(), &text(&owner), earlier, Instant::now());
    assert!(own.plan(&known, LEASE, 100).is_empty());
}
