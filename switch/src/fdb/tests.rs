use std::collections::HashMap;
use std::thread;

use proptest::prelude::*;

use super::*;

fn mac(n: u64) -> MacAddr {
    MacAddr::from_u64(0x0242_0000_0000 + n)
}

fn at(secs: u32) -> Tick {
    Tick::from_secs(secs)
}

const P1: PortId = PortId(1);
const P2: PortId = PortId(2);
const P3: PortId = PortId(3);

fn fdb(capacity: usize) -> Fdb {
    Fdb::new(capacity).unwrap()
}

#[test]
fn learning() {
    let fdb = fdb(16);
    assert_eq!(fdb.lookup(0, mac(5)), None);
    assert_eq!(fdb.learn(0, mac(5), P3, at(0)), Learned::New);
    assert_eq!(fdb.learn(0, mac(6), P1, at(1)), Learned::New);
    assert_eq!(fdb.lookup(0, mac(5)), Some(P3));
    assert_eq!(fdb.lookup(0, mac(6)), Some(P1));
    assert_eq!(fdb.learn(0, mac(5), P3, at(2)), Learned::Known);
    let mut entries: Vec<_> = fdb.entries(at(4)).collect();
    entries.sort_by_key(|entry| entry.mac);
    let entry = |n, port, age| FdbEntry { vid: 0, mac: mac(n), port, age, is_static: false };
    assert_eq!(entries, [entry(5, P3, 2), entry(6, P1, 3)]);
    let stats = fdb.stats();
    assert_eq!((stats.current, stats.learned, stats.moved), (2, 2, 0));
}

#[test]
fn the_same_mac_in_two_vlans_is_two_entries() {
    let fdb = fdb(16);
    assert_eq!(fdb.learn(10, mac(5), P1, at(0)), Learned::New);
    assert_eq!(fdb.learn(20, mac(5), P2, at(0)), Learned::New);
    assert_eq!((fdb.lookup(10, mac(5)), fdb.lookup(20, mac(5))), (Some(P1), Some(P2)));
    assert_eq!(fdb.lookup(0, mac(5)), None);
    assert_eq!(fdb.flush(Flush::Vlan(10)), 1);
    assert_eq!((fdb.lookup(10, mac(5)), fdb.lookup(20, mac(5))), (None, Some(P2)));
}

#[test]
fn nobodys_addresses_are_not_learned() {
    let fdb = fdb(16);
    let multicast = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    for mac in [MacAddr::BROADCAST, MacAddr::ZERO, multicast] {
        assert_eq!(fdb.learn(0, mac, P1, at(0)), Learned::NotIndividual);
        assert_eq!(fdb.add_static(0, mac, P1, at(0)), Err(FdbError::NotIndividual(mac)));
    }
    assert_eq!(fdb.add_static(4095, mac(1), P1, at(0)), Err(FdbError::Vlan(4095)));
    assert_eq!(fdb.stats(), FdbStats::default());
}

#[test]
fn mac_move() {
    let fdb = fdb(16);
    assert_eq!(fdb.learn(0, mac(5), P1, at(0)), Learned::New);
    assert_eq!(fdb.learn(0, mac(5), P2, at(1)), Learned::Moved { from: P1 });
    assert_eq!(fdb.lookup(0, mac(5)), Some(P2));
    assert_eq!(fdb.learn(0, mac(5), P1, at(2)), Learned::Moved { from: P2 });
    assert_eq!((fdb.learned_on(P1), fdb.learned_on(P2)), (1, 0));
    assert_eq!((fdb.stats().current, fdb.stats().learned, fdb.stats().moved), (1, 1, 2));
    assert_eq!(fdb.entries(at(2)).map(|entry| entry.age).collect::<Vec<_>>(), [0]);
}

#[test]
fn ageing() {
    let fdb = fdb(16);
    fdb.learn(0, mac(5), P1, Tick::from_millis(900));
    fdb.learn(0, mac(6), P1, at(4));
    // Present before its time, gone after it.
    assert_eq!(fdb.age(Tick::from_millis(10_899), 10), 0);
    assert_eq!(fdb.age(at(11), 10), 1);
    assert_eq!((fdb.lookup(0, mac(5)), fdb.lookup(0, mac(6))), (None, Some(P1)));
    // A frame makes it young again.
    assert_eq!(fdb.learn(0, mac(6), P1, at(13)), Learned::Known);
    assert_eq!(fdb.age(at(22), 10), 0);
    assert_eq!(fdb.age(at(23), 10), 1);
    assert_eq!((fdb.stats().current, fdb.stats().expired), (0, 2));
}

#[test]
fn ageing_time_has_bounds() {
    let fdb = fdb(16);
    fdb.learn(0, mac(5), P1, at(0));
    assert_eq!(fdb.age(at(9), 0), 0);
    assert_eq!(fdb.age(at(999_999), u32::MAX), 0);
    assert_eq!(fdb.age(at(1_000_000), u32::MAX), 1);
}

#[test]
fn a_clock_that_is_behind_ages_nothing() {
    let fdb = fdb(16);
    fdb.learn(0, mac(5), P1, at(1000));
    fdb.learn(0, mac(5), P1, at(990));
    assert_eq!(fdb.age(at(990), 10), 0);
    assert_eq!(fdb.entries(at(990)).map(|entry| entry.age).collect::<Vec<_>>(), [0]);
    assert_eq!(fdb.age(at(1009), 10), 0);
}

#[test]
fn overflow() {
    let fdb = fdb(10);
    for n in 0..10 {
        assert_eq!(fdb.learn(0, mac(n), P1, at(n as u32)), Learned::New);
    }
    assert_eq!(fdb.learn(0, mac(10), P1, at(10)), Learned::New);
    let stats = fdb.stats();
    assert_eq!((stats.current, stats.learned, stats.evicted, stats.refused), (10, 11, 1, 0));
    assert_eq!(fdb.lookup(0, mac(10)), Some(P1));
}

#[test]
fn overflow_fairness() {
    let fdb = fdb(8192);
    // Twenty ports with ten stations each, learned first: by age they would be the first to go.
    for n in 0..200 {
        assert_eq!(fdb.learn(0, mac(n), PortId(10 + (n % 20) as u16), at(0)), Learned::New);
    }
    for n in 0..100_000 {
        assert_eq!(fdb.learn(0, mac(1_000_000 + n), P1, at(1 + (n / 20_000) as u32)), Learned::New);
    }
    for n in 0..200 {
        assert_eq!(fdb.lookup(0, mac(n)), Some(PortId(10 + (n % 20) as u16)));
    }
    let stats = fdb.stats();
    assert_eq!((stats.current, stats.evicted, stats.refused), (8192, 100_200 - 8192, 0));
    // A station that comes now finds room, at the attacker's cost.
    for n in 200..400 {
        assert_eq!(fdb.learn(0, mac(n), PortId(10 + (n % 20) as u16), at(9)), Learned::New);
    }
    for n in 0..400 {
        assert_eq!(fdb.lookup(0, mac(n)), Some(PortId(10 + (n % 20) as u16)));
    }
    assert_eq!((fdb.learned_on(P1), fdb.stats().current), (8192 - 400, 8192));
}

#[test]
fn static_add_del_flush() {
    let fdb = fdb(16);
    assert_eq!(fdb.learn(0, mac(1), P1, at(0)), Learned::New);
    assert_eq!(fdb.add_static(0, mac(5), P3, at(0)), Ok(Added::New));
    assert_eq!(fdb.add_static(0, mac(6), P3, at(0)), Ok(Added::New));
    // Over a learned one, and over another static one.
    assert_eq!(fdb.add_static(0, mac(1), P2, at(0)), Ok(Added::Replaced { was: P1 }));
    assert_eq!(fdb.add_static(0, mac(6), P1, at(0)), Ok(Added::Replaced { was: P3 }));
    assert_eq!((fdb.lookup(0, mac(1)), fdb.lookup(0, mac(6))), (Some(P2), Some(P1)));
    assert_eq!((fdb.stats().current, fdb.stats().statics), (3, 3));
    assert_eq!(fdb.learn(0, mac(7), P1, at(0)), Learned::New);
    assert_eq!(fdb.learn(0, mac(8), P2, at(0)), Learned::New);
    // Only a static entry can be deleted, and once.
    assert!(!fdb.del_static(0, mac(7)));
    assert!(fdb.del_static(0, mac(5)));
    assert!(!fdb.del_static(0, mac(5)));
    assert_eq!(fdb.flush(Flush::Port(P1)), 1);
    assert_eq!(fdb.flush(Flush::Learned), 1);
    assert_eq!((fdb.stats().current, fdb.stats().statics), (2, 2));
    assert_eq!(fdb.flush(Flush::PortGone(P1)), 1);
    assert_eq!(fdb.entries(at(0)).map(|entry| (entry.mac, entry.port)).collect::<Vec<_>>(), [(mac(1), P2)]);
}

#[test]
fn static_does_not_move() {
    let fdb = fdb(16);
    assert_eq!(fdb.add_static(0, mac(5), P1, at(0)), Ok(Added::New));
    assert_eq!(fdb.learn(0, mac(5), P2, at(0)), Learned::Static { at: P1 });
    assert_eq!(fdb.learn(0, mac(5), P1, at(0)), Learned::Known);
    assert_eq!(fdb.lookup(0, mac(5)), Some(P1));
    // Deleted, it is learned like any other.
    assert!(fdb.del_static(0, mac(5)));
    assert_eq!(fdb.learn(0, mac(5), P2, at(0)), Learned::New);
    assert_eq!(fdb.learn(0, mac(5), P1, at(0)), Learned::Moved { from: P2 });
}

#[test]
fn static_outlives_learned() {
    let fdb = fdb(16);
    fdb.learn(0, mac(1), P1, at(0));
    fdb.add_static(0, mac(2), P1, at(0)).unwrap();
    assert_eq!(fdb.age(at(300), AGEING_DEFAULT), 1);
    assert_eq!(fdb.age(at(2_000_000), AGEING_DEFAULT), 0);
    assert_eq!((fdb.lookup(0, mac(1)), fdb.lookup(0, mac(2))), (None, Some(P1)));
}

#[test]
fn static_is_not_evicted_and_finds_room() {
    let fdb = fdb(64);
    for n in 0..32 {
        fdb.add_static(0, mac(n), P1, at(0)).unwrap();
    }
    for n in 0..10_000 {
        fdb.learn(0, mac(1000 + n), P2, at(1));
    }
    for n in 32..40 {
        fdb.add_static(0, mac(n), P1, at(1)).unwrap();
    }
    for n in 0..40 {
        assert_eq!(fdb.lookup(0, mac(n)), Some(P1));
    }
    let full = self::fdb(1);
    full.add_static(0, mac(1), P1, at(0)).unwrap();
    assert_eq!(full.add_static(0, mac(2), P1, at(0)), Err(FdbError::Full));
    assert_eq!(full.learn(0, mac(3), P1, at(0)), Learned::Full);
    assert_eq!(full.stats().refused, 1);
}

#[test]
fn sixty_five_thousand_stations() {
    let fdb = fdb(65_536);
    for n in 0..65_536 {
        assert_eq!(fdb.learn(0, mac(n), P1, at(0)), Learned::New);
    }
    for n in 0..65_536 {
        assert_eq!(fdb.lookup(0, mac(n)), Some(P1));
    }
    assert_eq!(fdb.entries(at(0)).count(), 65_536);
    assert_eq!((fdb.stats().evicted, fdb.stats().refused), (0, 0));
    assert_eq!(fdb.flush(Flush::Port(P1)), 65_536);
    assert_eq!(fdb.stats().current, 0);
}

#[derive(Clone, Debug)]
enum Step {
    Learn { vid: u16, n: u64, port: u16 },
    Add { vid: u16, n: u64, port: u16 },
    Del { vid: u16, n: u64 },
    Wait { millis: u64 },
    Age { ageing: u32 },
    Flush(Flush),
}

fn step() -> impl Strategy<Value = Step> {
    let (vid, n, port) = (0u16..3, 0u64..8, 0u16..4);
    prop_oneof![
        8 => (vid.clone(), n.clone(), port.clone()).prop_map(|(vid, n, port)| Step::Learn { vid, n, port }),
        2 => (vid.clone(), n.clone(), port.clone()).prop_map(|(vid, n, port)| Step::Add { vid, n, port }),
        2 => (vid.clone(), n).prop_map(|(vid, n)| Step::Del { vid, n }),
        4 => (0u64..8_000).prop_map(|millis| Step::Wait { millis }),
        2 => (10u32..30).prop_map(|ageing| Step::Age { ageing }),
        1 => prop_oneof![
            Just(Flush::Learned),
            vid.prop_map(Flush::Vlan),
            port.clone().prop_map(|port| Flush::Port(PortId(port))),
            port.prop_map(|port| Flush::PortGone(PortId(port))),
        ]
        .prop_map(Step::Flush),
    ]
}

/// The FDB as one would write it with a map: port, static, last seen.
#[derive(Default)]
struct Model {
    entries: HashMap<(u16, u64), (u16, bool, Tick)>,
}

impl Model {
    fn learn(&mut self, vid: u16, n: u64, port: u16, now: Tick) -> Learned {
        match self.entries.get_mut(&(vid, n)) {
            None => {
                self.entries.insert((vid, n), (port, false, now));
                Learned::New
            }
            Some((at, _, seen)) if *at == port => {
                *seen = now;
                Learned::Known
            }
            Some((at, true, _)) => Learned::Static { at: PortId(*at) },
            Some(entry) => {
                let from = PortId(entry.0);
                *entry = (port, false, now);
                Learned::Moved { from }
            }
        }
    }

    fn add(&mut self, vid: u16, n: u64, port: u16, now: Tick) -> Added {
        let seen = self.entries.get(&(vid, n)).map_or(now, |entry| entry.2);
        match self.entries.insert((vid, n), (port, true, seen)) {
            None => Added::New,
            Some((was, ..)) => Added::Replaced { was: PortId(was) },
        }
    }

    fn del(&mut self, vid: u16, n: u64) -> bool {
        let is_static = self.entries.get(&(vid, n)).is_some_and(|entry| entry.1);
        is_static && self.entries.remove(&(vid, n)).is_some()
    }

    fn remove(&mut self, goes: impl Fn(u16, u16, bool, Tick) -> bool) -> usize {
        let before = self.entries.len();
        self.entries.retain(|&(vid, _), &mut (port, is_static, seen)| !goes(vid, port, is_static, seen));
        before - self.entries.len()
    }

    fn flush(&mut self, which: Flush) -> usize {
        self.remove(|vid, port, is_static, _| match which {
            Flush::Learned => !is_static,
            Flush::Vlan(other) => !is_static && vid == other,
            Flush::Port(other) => !is_static && PortId(port) == other,
            Flush::PortGone(other) => PortId(port) == other,
        })
    }
}

proptest! {
    #[test]
    fn is_a_map_with_time(steps in prop::collection::vec(step(), 1..200)) {
        let fdb = fdb(64);
        let mut model = Model::default();
        let mut now = at(1000);
        for step in steps {
            match step {
                Step::Learn { vid, n, port } => {
                    prop_assert_eq!(fdb.learn(vid, mac(n), PortId(port), now), model.learn(vid, n, port, now));
                }
                Step::Add { vid, n, port } => {
                    prop_assert_eq!(fdb.add_static(vid, mac(n), PortId(port), now), Ok(model.add(vid, n, port, now)));
                }
                Step::Del { vid, n } => prop_assert_eq!(fdb.del_static(vid, mac(n)), model.del(vid, n)),
                Step::Wait { millis } => now = now.plus_millis(millis),
                Step::Age { ageing } => {
                    let old = |_, _, is_static: bool, seen: Tick| {
                        !is_static && now.secs().saturating_sub(seen.secs_up()) >= ageing
                    };
                    prop_assert_eq!(fdb.age(now, ageing), model.remove(old));
                }
                Step::Flush(which) => prop_assert_eq!(fdb.flush(which), model.flush(which)),
            }
            for vid in 0..3 {
                for n in 0..8 {
                    let port = model.entries.get(&(vid, n)).map(|entry| PortId(entry.0));
                    prop_assert_eq!(fdb.lookup(vid, mac(n)), port);
                }
            }
        }
        let statics = model.entries.values().filter(|entry| entry.1).count();
        prop_assert_eq!(fdb.stats().current, model.entries.len() as u64);
        prop_assert_eq!(fdb.stats().statics, statics as u64);
    }
}

#[test]
fn workers_learn_while_the_control_plane_ages_and_flushes() {
    let fdb = fdb(4096);
    for n in 0..100 {
        fdb.add_static(1, mac(n), P3, at(0)).unwrap();
    }
    thread::scope(|scope| {
        for port in [P1, P2] {
            let fdb = &fdb;
            scope.spawn(move || {
                for round in 0..40u32 {
                    for n in 0..1000 {
                        // Both ports claim the same stations in VLAN 0, and one of their own each in VLAN 2.
                        fdb.learn(0, mac(n), port, at(round));
                        fdb.learn(2, mac(n << 16 | u64::from(port.0)), port, at(round));
                        assert_eq!(fdb.learn(1, mac(n % 100), port, at(round)), Learned::Static { at: P3 });
                        let own = fdb.lookup(2, mac(n << 16 | u64::from(port.0)));
                        assert!(own.is_none_or(|own| own == port), "another's entry");
                    }
                }
            });
        }
        for round in 0..200u32 {
            fdb.age(at(round), 10);
            fdb.flush(Flush::Port(if round % 2 == 0 { P1 } else { P2 }));
            assert!(fdb.entries(at(round)).filter(|entry| entry.is_static).count() == 100);
        }
    });
    let entries: Vec<_> = fdb.entries(at(40)).collect();
    let mut keys: Vec<_> = entries.iter().map(|entry| (entry.vid, entry.mac)).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), entries.len(), "an entry is there twice");
    for entry in &entries {
        assert_eq!(fdb.lookup(entry.vid, entry.mac), Some(entry.port));
    }
    for port in [P1, P2] {
        let learned = entries.iter().filter(|entry| entry.port == port).count();
        assert_eq!(fdb.learned_on(port), learned);
    }
    assert_eq!((fdb.stats().current, fdb.stats().statics), (entries.len() as u64, 100));
    assert_eq!(fdb.stats().refused + fdb.stats().evicted, 0);
}
