//! Every interleaving (up to a number of preemptions) of the races that a table lives through. The tables are tiny: two
//! buckets of two slots, so that all keys meet in all slots.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p switch --release --lib loom
//! ```

use std::collections::{BTreeMap, HashSet};

use loom::sync::Arc;
use loom::thread;

use super::*;

type Tiny = Table<1, 1>;

/// Tries every interleaving of `race`, and demands that each of the outcomes came about, else nothing was tried.
fn model(preemptions: usize, outcomes: &[u32], race: impl Fn() -> u32 + Sync + Send + 'static) {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(BTreeMap::new()));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    let note = seen.clone();
    builder.check(move || {
        let outcome = race();
        *note.lock().unwrap().entry(outcome).or_insert(0) += 1;
    });
    let seen = seen.lock().unwrap();
    println!("outcome: interleavings {seen:?}");
    assert!(seen.keys().eq(outcomes), "{seen:?}");
}

fn tiny(capacity: usize) -> Arc<Tiny> {
    Arc::new(Table::with_buckets(capacity, 2, 2, [7, 11]).unwrap())
}

fn insert(table: &Tiny, key: u64, owner: u16) -> Inserted<1, 1> {
    table.insert(&New { key: [key], value: [key * 10], owner, pinned: false, seen: 0 })
}

fn is_new(inserted: Inserted<1, 1>) -> bool {
    matches!(inserted.outcome, Outcome::New(_))
}

/// Everything that must hold when nobody writes.
fn check_at_rest(table: &Tiny, len: usize) {
    let mut keys = HashSet::new();
    for record in table.iter() {
        assert!(keys.insert(record.key), "{:?} is there twice", record.key);
        assert_eq!(table.lookup(&record.key), Some(record));
        assert_eq!(record.value, [record.key[0] * 10]);
    }
    assert_eq!(keys.len(), len);
    assert_eq!(table.len(), len);
    assert_eq!(table.owner_len(0) + table.owner_len(1) + table.pinned_len(), len);
    let used = (0..=table.mask).flat_map(|bucket| table.slots.run(bucket * WIDTH, WIDTH));
    assert_eq!(used.filter(|slot| slot.load(Ordering::Relaxed) != 0).count(), len);
    // Every entry that is not a member is free again.
    let free = std::iter::from_fn(|| table.slab.alloc()).count();
    assert_eq!(free + len, table.capacity());
}

#[test]
fn two_inserts_of_a_key() {
    model(2, &[0, 1], || {
        let table = tiny(3);
        let other = table.clone();
        let thread = thread::spawn(move || is_new(insert(&other, 1, 0)));
        let mine = is_new(insert(&table, 1, 1));
        assert!(mine ^ thread.join().unwrap());
        check_at_rest(&table, 1);
        u32::from(mine)
    });
}

#[test]
fn two_inserts_of_a_key_into_different_slots() {
    model(2, &[0, 1], || {
        let table = tiny(3);
        // Another key in the slot that both would choose. It goes away in the middle of it, so the one who was there
        // first may be in a later slot than the one who comes after, and each must see the other.
        let buckets = table.probe(&[1]).buckets;
        let another = (2..).find(|&key| table.probe(&[key]).buckets == buckets).unwrap();
        assert!(is_new(insert(&table, another, 0)));
        let other = table.clone();
        let thread = thread::spawn(move || is_new(insert(&other, 1, 0)));
        assert!(table.remove(&[another]).is_some());
        let mine = is_new(insert(&table, 1, 1));
        assert!(mine ^ thread.join().unwrap());
        check_at_rest(&table, 1);
        u32::from(mine)
    });
}

/// One inserter sleeps after it has published its entry in the given seat; two more insert the same key meanwhile.
fn beside_a_sleeper(seat: usize, outcomes: &[u32]) {
    model(1, outcomes, move || {
        let table = tiny(3);
        let new = New { key: [1], value: [10], owner: 0, pinned: false, seen: 0 };
        let probe = table.probe(&new.key);
        let slot = table.seats(probe).nth(seat).unwrap();
        let index = table.claim(&new, &mut None).unwrap();
        let link = table.publish(probe, slot, index, &new).unwrap();
        let other = table.clone();
        let thread = thread::spawn(move || is_new(insert(&other, 1, 1)));
        let mine = is_new(insert(&table, 1, 1));
        let theirs = thread.join().unwrap();
        // They did not wait for it.
        assert!(table.lookup(&[1]).is_some());
        let sleeper = table.conclude(probe, slot, link, &new);
        if !sleeper {
            table.give_back(index, &new);
        }
        assert_eq!(u32::from(mine) + u32::from(theirs) + u32::from(sleeper), 1);
        check_at_rest(&table, 1);
        u32::from(mine) << 1 | u32::from(theirs)
    });
}

#[test]
fn inserts_help_an_earlier_one_that_sleeps() {
    beside_a_sleeper(0, &[0]);
}

#[test]
fn inserts_get_past_a_later_one_that_sleeps() {
    beside_a_sleeper(2 * WIDTH - 1, &[1, 2]);
}

#[test]
fn insert_and_remove() {
    model(3, &[0, 1], || {
        let table = tiny(2);
        let other = table.clone();
        let thread = thread::spawn(move || other.remove(&[1]).is_some());
        assert!(is_new(insert(&table, 1, 0)));
        let removed = thread.join().unwrap();
        check_at_rest(&table, usize::from(!removed));
        u32::from(removed)
    });
}

#[test]
fn insert_over_a_removal() {
    model(3, &[0, 1], || {
        let table = tiny(2);
        assert!(is_new(insert(&table, 1, 0)));
        let other = table.clone();
        let thread = thread::spawn(move || other.remove(&[1]).is_some());
        let came = is_new(insert(&table, 1, 1));
        assert!(thread.join().unwrap());
        check_at_rest(&table, usize::from(came));
        u32::from(came)
    });
}

#[test]
fn two_removals() {
    model(3, &[0, 1], || {
        let table = tiny(2);
        assert!(is_new(insert(&table, 1, 0)));
        let other = table.clone();
        let thread = thread::spawn(move || other.remove(&[1]).is_some());
        let mine = table.remove(&[1]).is_some();
        assert!(mine ^ thread.join().unwrap());
        check_at_rest(&table, 0);
        u32::from(mine)
    });
}

#[test]
fn lookup_while_its_entry_is_used_again() {
    model(3, &[0, 1, 2, 3], || {
        let table = tiny(1);
        // A key that no tag tells from the first: only the life of the entry does.
        let tag = table.probe(&[1]).tag;
        let twin = (2..).find(|&key| table.probe(&[key]).tag == tag).unwrap();
        assert!(is_new(insert(&table, 1, 0)));
        let other = table.clone();
        let thread = thread::spawn(move || {
            assert!(other.remove(&[1]).is_some());
            assert!(is_new(insert(&other, twin, 1)));
        });
        let found = [1, twin].map(|key| {
            let found = table.lookup(&[key]);
            if let Some(record) = found {
                assert_eq!((record.value, record.owner), ([key * 10], u16::from(key == twin)));
            }
            u32::from(found.is_some())
        });
        thread.join().unwrap();
        check_at_rest(&table, 1);
        found[0] | found[1] << 1
    });
}

#[test]
fn a_key_that_stays_is_always_found() {
    model(3, &[0, 1], || {
        let table = tiny(2);
        assert!(is_new(insert(&table, 1, 0)));
        let other = table.clone();
        let thread = thread::spawn(move || {
            assert!(is_new(insert(&other, 2, 0)));
            assert!(other.remove(&[2]).is_some());
        });
        let passing = table.lookup(&[2]).is_some();
        assert_eq!(table.lookup(&[1]).map(|record| record.value), Some([10]));
        thread.join().unwrap();
        check_at_rest(&table, 1);
        u32::from(passing)
    });
}

#[test]
fn two_evictions() {
    model(1, &[1, 2], || {
        let table = tiny(1);
        assert!(is_new(insert(&table, 1, 0)));
        let other = table.clone();
        let thread = thread::spawn(move || insert(&other, 2, 1));
        let inserted = [insert(&table, 3, 1), thread.join().unwrap()];
        for victim in inserted.iter().filter_map(|inserted| inserted.evicted) {
            assert_eq!(victim.value, [victim.key[0] * 10], "words of two entries");
        }
        let came = inserted.iter().filter(|i| matches!(i.outcome, Outcome::New(_))).count();
        let went = inserted.iter().filter(|i| i.evicted.is_some()).count();
        assert_eq!(1 + came - went, 1);
        check_at_rest(&table, 1);
        came as u32
    });
}

#[test]
fn eviction_and_pinning() {
    model(3, &[0, 1], || {
        let table = tiny(1);
        assert!(is_new(insert(&table, 1, 0)));
        let record = table.lookup(&[1]).unwrap();
        let other = table.clone();
        let thread = thread::spawn(move || other.assign(&record, 1, true));
        let inserted = insert(&table, 2, 1);
        let pinned = thread.join().unwrap();
        // Who was told that it is pinned finds it.
        assert_eq!(pinned, table.lookup(&[1]).is_some());
        assert_eq!(pinned, inserted.outcome == Outcome::Full);
        check_at_rest(&table, 1);
        u32::from(pinned)
    });
}

#[test]
fn a_move_and_a_removal() {
    model(3, &[0, 1], || {
        let table = tiny(1);
        assert!(is_new(insert(&table, 1, 0)));
        let record = table.lookup(&[1]).unwrap();
        let other = table.clone();
        let thread = thread::spawn(move || other.assign(&record, 1, false));
        let taken = table.take(&record);
        assert!(taken ^ thread.join().unwrap());
        check_at_rest(&table, usize::from(!taken));
        u32::from(taken)
    });
}

#[test]
fn a_late_touch_of_an_entry_that_is_used_again() {
    model(3, &[0, 7], || {
        let table = tiny(1);
        assert!(is_new(insert(&table, 1, 0)));
        let record = table.lookup(&[1]).unwrap();
        let other = table.clone();
        let thread = thread::spawn(move || other.touch(&record, 7));
        let before = table.remove(&[1]).unwrap().seen;
        assert!(is_new(insert(&table, 2, 0)));
        thread.join().unwrap();
        assert_eq!(table.get(record.at), None);
        assert_eq!(table.lookup(&[2]).map(|record| record.seen), Some(0));
        check_at_rest(&table, 1);
        before
    });
}

#[test]
fn a_late_change_of_a_held_value() {
    model(3, &[0, 1], || {
        let table = tiny(2);
        let Outcome::New(at) = insert(&table, 1, 0).outcome else { panic!() };
        let other = table.clone();
        let thread = thread::spawn(move || {
            let held = other.hold(at);
            if let Some(held) = &held {
                // Succeeds on the entry it is meant for, whatever another entry holds.
                let _ = held.value()[0].compare_exchange(10, 10, Ordering::AcqRel, Ordering::Acquire);
                held.value()[0].store(10, Ordering::Release);
            }
            held.is_some()
        });
        assert!(table.remove(&[1]).is_some());
        assert!(is_new(insert(&table, 2, 0)));
        let held = thread.join().unwrap();
        // Among others: value [20] and every entry free again.
        check_at_rest(&table, 1);
        u32::from(held)
    });
}

#[test]
fn two_frees_and_an_alloc() {
    model(2, &[0, 1], || {
        let table = tiny(2);
        assert!(is_new(insert(&table, 1, 0)));
        assert!(is_new(insert(&table, 2, 0)));
        let other = table.clone();
        let thread = thread::spawn(move || {
            assert!(other.remove(&[1]).is_some());
            is_new(insert(&other, 3, 0))
        });
        assert!(table.remove(&[2]).is_some());
        assert!(is_new(insert(&table, 4, 0)));
        assert!(thread.join().unwrap());
        let place = table.lookup(&[3]).unwrap().at.index;
        check_at_rest(&table, 2);
        place
    });
}

#[test]
fn a_free_list_that_comes_back_to_the_same_entry() {
    model(3, &[0, 1], || {
        let slab = Arc::new(Slab::<1, 0>::new(2).unwrap());
        let [first, second] = [(); 2].map(|()| slab.alloc().unwrap());
        slab.push(first);
        slab.push(second);
        let other = slab.clone();
        let thread = thread::spawn(move || other.alloc());
        // Takes the top and what is below it, and puts back the top, with nothing below it now.
        let (top, below) = (slab.alloc(), slab.alloc());
        if let Some(top) = top {
            slab.push(top);
        }
        let theirs = thread.join().unwrap();
        let mut taken: Vec<_> = below.into_iter().chain(theirs).collect();
        taken.extend(std::iter::from_fn(|| slab.alloc()));
        taken.sort_unstable();
        assert_eq!(taken, [first, second], "handed out twice, or lost");
        u32::from(theirs == top)
    });
}
