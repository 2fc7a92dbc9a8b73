//! Router advertisements that nobody asked for, on memory devices with time moved by hand: when they come, and what is
//! said when something changes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use arc_swap::ArcSwap;
use switch::io::Wait;
use switch::io::mem::MemIo;
use switch::mailbox::Mailbox;
use switch::news::News;
use switch::port::PortId;
use switch::snapshot::Snapshot;
use switch::tick::Tick;
use switch::worker::Worker;
use vswitchd::policy::House;
use vswitchd::tables::Tables;

const LAB: &str = "\
[[network]]
name = \"blue\"
subnet = \"10.1.0.0/24\"
subnet6 = \"fd00:1::/64\"
[[container]]
name = \"a\"
[[container.interface]]
network = \"blue\"
[[container]]
name = \"b\"
[[container.interface]]
network = \"blue\"
";

struct Lab {
    worker: Worker<MemIo, House>,
    snapshot: Arc<ArcSwap<Snapshot<Tables>>>,
}

fn snapshot(text: &str, generation: u64) -> Snapshot<Tables> {
    Snapshot { generation, ..common::all_up(text) }
}

impl Lab {
    fn new(text: &str) -> Self {
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot(text, 1)));
        let worker = Worker::new(MemIo::new(2), 128, 2, Arc::clone(&snapshot), House::new(2, None));
        Self { worker, snapshot }
    }

    fn reload(&mut self, text: &str) {
        let generation = self.snapshot.load().generation + 1;
        self.snapshot.store(Arc::new(snapshot(text, generation)));
    }

    /// The advertisements of a second, the same for both ports: lifetime and the number of prefixes.
    fn heard(&mut self, second: u32) -> Vec<(u16, usize)> {
        self.worker.io.now = Tick::from_secs(second);
        self.worker.step(Wait::Poll).unwrap();
        let [to_a, to_b] = [0, 1].map(|port| self.worker.io.take(PortId(port)));
        assert_eq!(to_a, to_b);
        let lifetime = |frame: &[u8]| {
            assert_eq!((&frame[..6], frame[20], frame[54]), (&[0x33, 0x33, 0, 0, 0, 1][..], 58, 134));
            // Options are multiples of 8 bytes, and that of a prefix starts with 3, 4.
            let prefixes = frame[70..].chunks(8).filter(|option| option.starts_with(&[3, 4])).count();
            (u16::from_be_bytes([frame[60], frame[61]]), prefixes)
        };
        to_a.iter().map(|(_, frame)| lifetime(frame)).collect()
    }
}

#[test]
fn they_come_quickly_at_first_and_then_now_and_then() {
    let mut lab = Lab::new(LAB);
    let mut times = Vec::new();
    for second in 1000..10_000 {
        let heard = lab.heard(second);
        assert!(heard.is_empty() || heard == [(1800, 1)], "{heard:?}");
        times.extend(heard.iter().map(|_| second));
    }
    let pauses: Vec<u32> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!((times[0], &pauses[..3]), (1000, &[16, 16, 16][..]));
    let later = &pauses[3..];
    assert!(later.iter().all(|pause| (200..=600).contains(pause)), "{later:?}");
    assert!(later.iter().any(|pause| *pause != later[0]), "in step: {later:?}");
    assert_eq!(lab.worker.counters().worker.unaccounted(), 0);
}

#[test]
fn of_several_workers_one_says_it() {
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot(LAB, 1)));
    let news = Arc::new(News::between(Mailbox::for_workers(2, 2).unwrap().into_iter().map(Arc::new)));
    let made = [0, 1].map(|me| {
        let house = House::beside(2, None, Arc::clone(&news), me);
        let mut worker = Worker::new(MemIo::new(2), 128, 2, Arc::clone(&snapshot), house);
        for second in 1000..3000 {
            worker.io.now = Tick::from_secs(second);
            worker.step(Wait::Poll).unwrap();
        }
        worker.counters().worker.generated.get()
    });
    assert!(made[0] > 5 && made[1] == 0, "{made:?}");
}

#[test]
fn what_changes_is_said_at_once_and_what_ends_for_the_last_time() {
    let mut lab = Lab::new(LAB);
    assert_eq!(lab.heard(1000), [(1800, 1)]);
    lab.reload(LAB);
    assert_eq!(lab.heard(1001), [], "nothing is new");
    lab.reload(&LAB.replace("subnet6", "internal = true\nsubnet6"));
    assert_eq!(lab.heard(1002), [(0, 1)], "no default router any more");
    lab.reload(LAB);
    assert_eq!(lab.heard(1003), [(1800, 1)]);
    lab.reload(&LAB.replace("subnet6", "gateway_mac = \"02:00:00:00:00:01\"\nsubnet6"));
    assert_eq!(lab.heard(1004), [(0, 0), (1800, 1)], "the old address is no router, a new one is");
    lab.reload(&LAB.replace("subnet6 = \"fd00:1::/64\"\n", ""));
    assert_eq!(lab.heard(1005), [(0, 0)]);
    assert!((1006..3000).all(|second| lab.heard(second).is_empty()));
}

#[test]
fn nothing_new_is_said_while_interfaces_are_changed() {
    let without = LAB.replace("subnet6 = \"fd00:1::/64\"\n", "");
    let mut lab = Lab::new(&without);
    assert_eq!(lab.heard(1000), []);
    let mut changing = snapshot(LAB, 2);
    for gateway in changing.tables.router.gateways.iter_mut().flatten() {
        gateway.advertises.quiet = true;
    }
    lab.snapshot.store(Arc::new(changing));
    assert_eq!(lab.heard(1001), []);
    lab.reload(LAB);
    assert_eq!(lab.heard(1002), [(1800, 1)]);
}
