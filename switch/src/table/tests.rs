use std::collections::{HashMap, HashSet};
use std::sync::Barrier;
use std::thread;

use proptest::prelude::*;

use super::*;

type Small = Table<2, 1>;

/// A table with a seed that is the same in every run.
fn table<const K: usize, const V: usize>(capacity: usize) -> Table<K, V> {
    Table::with_buckets(capacity, 64, (capacity * 2).div_ceil(WIDTH), [7, 11]).unwrap()
}

fn new(key: u64, owner: u16, seen: u32) -> New<2, 1> {
    New { key: [key, !key], value: [key * 3], owner, pinned: false, seen }
}

fn outcome(table: &Small, new: &New<2, 1>) -> Outcome<2, 1> {
    let inserted = table.insert(new);
    assert_eq!(inserted.evicted, None);
    inserted.outcome
}

/// Everything that must hold when nobody writes.
fn check_at_rest<const K: usize, const V: usize>(table: &Table<K, V>) {
    let mut keys = HashSet::new();
    let mut owners = HashMap::new();
    let mut pinned = 0;
    for record in table.iter() {
        assert!(keys.insert(record.key), "{:?} is there twice", record.key);
        assert_eq!(table.lookup(&record.key), Some(record));
        assert_eq!(table.get(record.at), Some(record));
        if record.pinned { pinned += 1 } else { *owners.entry(record.owner).or_insert(0) += 1 }
    }
    assert_eq!(table.len(), keys.len());
    assert_eq!(table.pinned_len(), pinned);
    for owner in 0..table.owner_count as u16 {
        assert_eq!(table.owner_len(owner), owners.get(&owner).copied().unwrap_or(0), "owner {owner}");
    }
    let used = (0..=table.mask).flat_map(|bucket| table.slots.run(bucket * WIDTH, WIDTH));
    assert_eq!(used.filter(|slot| slot.load(Ordering::Relaxed) != 0).count(), keys.len(), "slots in use");
}

/// Empties the table and fills it to the brim: every entry came back.
fn check_nothing_leaked(table: &Small) {
    table.retain(|_| false);
    check_at_rest(table);
    assert_eq!(table.len(), 0);
    let mut left = table.capacity();
    for key in 1_000_000.. {
        if left == 0 {
            break;
        }
        match outcome(table, &new(key, 0, 0)) {
            Outcome::New(_) => left -= 1,
            other => assert_eq!(other, Outcome::BucketFull),
        }
        assert!(key < 2_000_000, "{left} entries never came back");
    }
    check_at_rest(table);
    assert_eq!(table.slab.alloc(), None);
}

#[derive(Clone, Debug)]
enum Step {
    Insert { key: u64, owner: u16, pinned: bool },
    Remove { key: u64 },
    Touch { key: u64, seen: u32 },
    Assign { key: u64, owner: u16, pinned: bool },
    Set { key: u64, value: u64 },
    Retain { owner: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    let (key, owner) = (0u64..40, 0u16..4);
    prop_oneof![
        4 => (key.clone(), owner.clone(), any::<bool>())
            .prop_map(|(key, owner, pinned)| Step::Insert { key, owner, pinned }),
        2 => key.clone().prop_map(|key| Step::Remove { key }),
        1 => (key.clone(), any::<u32>()).prop_map(|(key, seen)| Step::Touch { key, seen }),
        2 => (key.clone(), owner.clone(), any::<bool>())
            .prop_map(|(key, owner, pinned)| Step::Assign { key, owner, pinned }),
        1 => (key, any::<u64>()).prop_map(|(key, value)| Step::Set { key, value }),
        1 => owner.prop_map(|owner| Step::Retain { owner }),
    ]
}

/// What the model knows of an entry: value, owner, pinned, seen.
type Known = (u64, u16, bool, u32);

fn apply(table: &Small, model: &mut HashMap<u64, Known>, step: Step, now: u32) {
    let find = |key: u64| table.lookup(&[key, !key]);
    match step {
        Step::Insert { key, owner, pinned } => {
            match outcome(table, &New { pinned, ..new(key, owner, now) }) {
                Outcome::New(_) => {
                    assert_eq!(model.insert(key, (key * 3, owner, pinned, now)), None);
                }
                Outcome::Existing(record) => {
                    let known = (record.value[0], record.owner, record.pinned, record.seen);
                    assert_eq!(model.get(&key), Some(&known));
                }
                other => panic!("{other:?}"),
            }
        }
        Step::Remove { key } => {
            assert_eq!(
                table.remove(&[key, !key]).map(|record| record.value[0]),
                model.remove(&key).map(|k| k.0)
            );
        }
        Step::Touch { key, seen } => {
            if let (Some(record), Some(known)) = (find(key), model.get_mut(&key)) {
                table.touch(&record, seen);
                // Never backwards.
                known.3 = if (seen.wrapping_sub(known.3) as i32) > 0 { seen } else { known.3 };
            }
        }
        Step::Assign { key, owner, pinned } => {
            if let Some(record) = find(key) {
                assert!(table.assign(&record, owner, pinned));
                let unchanged = record.owner == owner && record.pinned == pinned;
                assert_eq!(
                    table.assign(&record, owner, pinned),
                    unchanged,
                    "what it says is not so any more"
                );
                let known = model.get_mut(&key).unwrap();
                (known.1, known.2) = (owner, pinned);
            }
        }
        Step::Set { key, value } => {
            if let Some(record) = find(key) {
                table.hold(record.at).unwrap().value()[0].store(value, Ordering::Release);
                model.get_mut(&key).unwrap().0 = value;
            }
        }
        Step::Retain { owner } => {
            let before = model.len();
            model.retain(|_, known| known.1 != owner || known.2);
            assert_eq!(table.retain(|record| record.owner != owner || record.pinned), before - model.len());
        }
    }
}

proptest! {
    #[test]
    fn is_a_map(steps in prop::collection::vec(step(), 1..300)) {
        let table = table(40);
        let mut model = HashMap::new();
        for (now, step) in steps.into_iter().enumerate() {
            apply(&table, &mut model, step, now as u32);
            prop_assert_eq!(table.len(), model.len());
        }
        let found: HashMap<_, _> = table
            .iter()
            .map(|record| (record.key[0], (record.value[0], record.owner, record.pinned, record.seen)))
            .collect();
        prop_assert_eq!(found, model);
        check_at_rest(&table);
        check_nothing_leaked(&table);
    }
}

#[test]
fn fills_to_the_brim_and_finds_all() {
    for capacity in [1, 100, 8192, 65_536, 1_048_576] {
        // A random seed: the placement must do for all of them.
        let table = Table::<1, 0>::new(capacity, 16).unwrap();
        let entry = |key| New { key: [key], value: [], owner: 1, pinned: false, seen: 0 };
        for key in 0..capacity as u64 {
            let inserted = table.insert(&entry(key));
            assert!(matches!(inserted.outcome, Outcome::New(_)), "{key} of {capacity}: {inserted:?}");
            assert_eq!(inserted.evicted, None);
        }
        assert_eq!((table.len(), table.owner_len(1)), (capacity, capacity));
        for key in 0..capacity as u64 {
            assert_eq!(table.lookup(&[key]).map(|record| record.key), Some([key]));
        }
        assert_eq!(table.lookup(&[capacity as u64]), None);
    }
}

#[test]
fn survives_churn_at_full_load() {
    // Removing and inserting at full load must not wear the buckets out.
    let table = table::<1, 0>(4096);
    for key in 0..400_000u64 {
        if key >= 4096 {
            assert!(table.remove(&[key - 4096]).is_some());
        }
        let entry = New { key: [key], value: [], owner: 1, pinned: false, seen: 0 };
        assert!(matches!(table.insert(&entry).outcome, Outcome::New(_)), "{key}");
    }
    check_at_rest(&table);
}

#[test]
fn an_empty_table_takes_no_memory() {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let before = resident();
    let table = Table::<1, 0>::new(8 << 20, 1 << 16).unwrap();
    assert_eq!(table.lookup(&[1]), None);
    // 384 MiB by the book; the margin is for other tests in this process.
    assert!(resident().saturating_sub(before) < 192 << 20);
}

#[test]
fn refuses_impossible_capacities() {
    for capacity in [0, MAX_CAPACITY + 1, usize::MAX] {
        assert_eq!(Small::new(capacity, 1).err(), Some(TableError::Capacity(capacity)));
    }
}

#[test]
fn full_buckets_are_a_named_outcome_and_cost_nothing() {
    let table = Small::with_buckets(64, 4, 2, [1, 2]).unwrap();
    for key in 0..16 {
        assert!(matches!(outcome(&table, &new(key, 0, 0)), Outcome::New(_)));
    }
    for key in 16..200 {
        assert_eq!(outcome(&table, &new(key, 0, 0)), Outcome::BucketFull);
    }
    assert_eq!(table.slab.fresh(), 16);
    check_at_rest(&table);
    assert!(table.remove(&[3, !3]).is_some());
    assert!(matches!(outcome(&table, &new(16, 0, 0)), Outcome::New(_)));
    check_at_rest(&table);
}

#[test]
fn a_handle_names_one_life() {
    let table = table(1);
    let Outcome::New(first) = outcome(&table, &new(1, 0, 5)) else { panic!() };
    let old = table.get(first).unwrap();
    assert_eq!(Handle::from_u64(first.to_u64()), first);
    assert!(table.take(&old));
    let Outcome::New(second) = outcome(&table, &new(2, 0, 5)) else { panic!() };
    assert_eq!(first.index, second.index);
    assert_ne!(first, second);
    // Whoever comes late with the old one changes nothing.
    assert_eq!(table.get(first), None);
    assert!(table.hold(first).is_none());
    assert!(!table.take(&old));
    assert!(!table.assign(&old, 3, true));
    table.touch(&old, 9);
    assert_eq!(
        table.get(second).map(|record| (record.owner, record.pinned, record.seen)),
        Some((0, false, 5))
    );
    assert!(table.get(Handle::from_u64(u64::MAX)).is_none());
    check_at_rest(&table);
}

#[test]
fn a_held_entry_is_not_used_again() {
    let table = table(2);
    let Outcome::New(at) = outcome(&table, &new(1, 0, 0)) else { panic!() };
    let (held, also) = (table.hold(at).unwrap(), table.hold(at).unwrap());
    assert!(table.remove(&[1, !1]).is_some());
    assert_eq!((table.len(), table.lookup(&[1, !1])), (0, None));
    assert!(table.hold(at).is_none());
    assert!(matches!(outcome(&table, &new(2, 0, 0)), Outcome::New(_)));
    // Nothing is left to claim; the only member can be evicted.
    assert_eq!(table.insert(&new(3, 0, 0)).evicted.map(|record| record.key[0]), Some(2));
    held.value()[0].store(77, Ordering::Release);
    assert_eq!(table.lookup(&[3, !3]).map(|record| record.value), Some([9]));
    drop(held);
    assert_eq!(table.slab.alloc(), None);
    drop(also);
    assert!(matches!(outcome(&table, &new(4, 0, 0)), Outcome::New(_)));
    check_at_rest(&table);
}

#[test]
fn a_held_entry_is_not_evicted() {
    let table = table(1);
    let Outcome::New(at) = outcome(&table, &new(1, 0, 0)) else { panic!() };
    let held = table.hold(at);
    assert_eq!(outcome(&table, &new(2, 0, 0)), Outcome::Full);
    drop(held);
    assert_eq!(table.insert(&new(2, 0, 0)).evicted.map(|record| record.key[0]), Some(1));
    check_at_rest(&table);
}

#[test]
fn the_greediest_loses_old_entries() {
    let table = table(1000);
    for key in 0..1000 {
        // Owner 1 has 400 entries, owner 2 has 600, each the older the smaller the key.
        let owner = if key % 5 < 2 { 1 } else { 2 };
        assert!(matches!(outcome(&table, &new(key, owner, key as u32)), Outcome::New(_)));
    }
    let mut ranks = 0;
    for key in 1000..1100 {
        let older =
            |record: &Record<2, 1>| table.iter().filter(|r| r.owner == 2 && r.seen < record.seen).count();
        let inserted = table.insert(&new(key, 3, key as u32));
        assert!(matches!(inserted.outcome, Outcome::New(_)));
        let victim = inserted.evicted.unwrap();
        assert_eq!(victim.owner, 2);
        ranks += older(&victim);
    }
    // About a tenth of the way (of 16 samples 9 or 10 are of owner 2); chance alone would give a half.
    assert!(ranks / 100 < 120, "on average {} were older", ranks / 100);
    assert_eq!((table.owner_len(1), table.owner_len(2), table.owner_len(3)), (400, 500, 100));
    check_at_rest(&table);
}

#[test]
fn who_has_more_takes_from_nobody_who_has_less() {
    let table = table(256);
    for key in 0..256 {
        assert!(matches!(outcome(&table, &new(key, (key % 64) as u16, 0)), Outcome::New(_)));
    }
    let mut refused = 0;
    for key in 256..2000 {
        let (before, mine) = (table.owner_len(1), table.lookup(&[1, !1]).is_some());
        let inserted = table.insert(&new(key, 1, 1));
        match inserted.outcome {
            Outcome::Full => refused += 1,
            Outcome::New(_) => assert!(inserted.evicted.is_some()),
            other => panic!("{other:?}"),
        }
        assert!(mine || before > 0);
        // Equals may take from equals, once; then everybody else has less.
        for owner in 0..64 {
            assert!(owner == 1 || table.owner_len(owner) >= 3);
        }
    }
    assert_eq!(table.len(), 256);
    assert_eq!(table.owner_len(1), 5);
    assert!(refused > 0);
    check_at_rest(&table);
}

#[test]
fn pinned_entries_stay_and_may_replace_any_other() {
    let table = table(64);
    for key in 0..63 {
        assert!(matches!(outcome(&table, &New { pinned: true, ..new(key, 1, 0) }), Outcome::New(_)));
    }
    assert!(matches!(outcome(&table, &new(63, 2, 0)), Outcome::New(_)));
    assert_eq!((table.owner_len(1), table.pinned_len()), (0, 63));
    // The one that is not pinned is hard to find among 64; a refusal is no failure.
    let evicted = (64..200).find_map(|key| table.insert(&New { pinned: true, ..new(key, 1, 0) }).evicted);
    assert_eq!(evicted.map(|record| record.key[0]), Some(63));
    for key in 200..300 {
        assert_eq!(outcome(&table, &new(key, 2, 0)), Outcome::Full);
    }
    for key in 0..63 {
        assert!(table.lookup(&[key, !key]).is_some());
    }
    check_at_rest(&table);
}

/// Runs `work` in as many threads at once.
fn race<T: Send>(threads: u64, work: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(threads as usize);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|id| {
                let (start, work) = (&start, &work);
                scope.spawn(move || {
                    start.wait();
                    work(id)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn of_racing_inserts_one_wins() {
    let table = table(4096);
    let wins = race(4, |id| {
        (0..4000).filter(|&key| matches!(outcome(&table, &new(key, id as u16, 0)), Outcome::New(_))).count()
    });
    assert_eq!(wins.iter().sum::<usize>(), 4000);
    check_at_rest(&table);
    assert_eq!(table.len(), 4000);
    check_nothing_leaked(&table);
}

#[test]
fn inserts_and_removals_balance() {
    // Few keys in a table with few buckets: collisions, reuse and helping all the time.
    let table = Small::with_buckets(24, 8, 4, [3, 5]).unwrap();
    let sums = race(4, |id| {
        let mut dice = id + 1;
        let (mut came, mut went) = (0u64, 0u64);
        for _ in 0..60_000 {
            dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let key = (dice >> 33) % 16;
            match (dice >> 60) % 4 {
                0 | 1 => {
                    if matches!(outcome(&table, &new(key, id as u16, 0)), Outcome::New(_)) {
                        came += 1;
                    }
                }
                2 => went += u64::from(table.remove(&[key, !key]).is_some()),
                _ => {
                    if let Some(record) = table.lookup(&[key, !key]) {
                        // Never the words of two entries.
                        assert_eq!((record.key, record.value), ([key, !key], [key * 3]));
                        table.assign(&record, (id + 4) as u16, record.at.life % 2 == 0);
                    }
                }
            }
        }
        (came, went)
    });
    let (came, went) = sums.iter().fold((0, 0), |(a, b), (came, went)| (a + came, b + went));
    assert_eq!(came - went, table.len() as u64);
    assert!(went > 1000);
    check_at_rest(&table);
    check_nothing_leaked(&table);
}

#[test]
fn evicting_from_several_threads_loses_nothing() {
    let table = table(128);
    let sums = race(4, |id| {
        let (mut came, mut evicted) = (0u64, 0u64);
        for n in 0..20_000 {
            let inserted = table.insert(&new(n * 4 + id, id as u16, n as u32));
            came += u64::from(matches!(inserted.outcome, Outcome::New(_)));
            evicted += u64::from(inserted.evicted.is_some());
        }
        (came, evicted)
    });
    let (came, evicted) = sums.iter().fold((0, 0), |(a, b), (came, evicted)| (a + came, b + evicted));
    assert_eq!(came - evicted, table.len() as u64);
    assert!(table.len() >= 100, "{}", table.len());
    check_at_rest(&table);
    check_nothing_leaked(&table);
}

#[test]
fn changes_of_held_values_are_not_lost_nor_misplaced() {
    let table = table(8);
    let at: Vec<_> = (0..4)
        .map(|key| match outcome(&table, &New { value: [0], ..new(key, 0, 0) }) {
            Outcome::New(at) => at,
            other => panic!("{other:?}"),
        })
        .collect();
    race(4, |id| {
        for n in 0..20_000 {
            let held = table.hold(at[n % 4]).unwrap();
            held.value()[0].fetch_add(1, Ordering::AcqRel);
            // Meanwhile entries come and go beside it, each of which must keep the value it was born with.
            let key = 100 + id;
            assert!(matches!(outcome(&table, &new(key, 0, 0)), Outcome::New(_)));
            assert_eq!(table.remove(&[key, !key]).map(|record| record.value), Some([key * 3]));
        }
    });
    assert_eq!(at.iter().map(|&at| table.get(at).unwrap().value[0]).sum::<u64>(), 80_000);
    check_at_rest(&table);
}
