//! Several workers over the same ports: nobody waits for another, and a port goes from one to the other with nothing lost.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;
#[macro_use]
#[path = "common/engine.rs"]
mod engine;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use common::{ethernet, mac};
use engine::{Engine, in_home, one_network, pair, take, tap, wire};
use switch::decide::bridge;
use switch::drop::DropReason;
use switch::flow::Packet;
use switch::frame::Frame;
use switch::io::epoll::EpollIo;
use switch::io::uring::UringIo;
use switch::io::{Io, Wait};
use switch::mac::MacAddr;
use switch::mailbox::{Command, Event, Mailbox};
use switch::policy::{Desk, Fate, Here, Policy};
use switch::port::PortId;
use switch::snapshot::Published;
use switch::verdict::{Task, Verdict};
use switch::vlan::Tagging;
use switch::worker::Worker;

const PATIENCE: Duration = Duration::from_secs(20);

on_each!(
    one_that_is_held_still_keeps_nobody,
    a_port_moves_with_nothing_lost_and_in_order,
    a_port_that_must_stay_is_read_on,
    who_only_writes_to_a_dead_tap_says_nothing,
);

/// Where a frame of this source is held, in the middle of its way.
const HELD: MacAddr = MacAddr([0x02, 0xee, 0, 0, 0, 1]);

/// A door that a worker stands in front of.
#[derive(Default)]
struct Door {
    /// Somebody stands there; it is open.
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Door {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |(_, open)| !*open).unwrap());
    }

    fn until_somebody_is_there(&self) {
        let state = self.state.lock().unwrap();
        let (state, _) = self.changed.wait_timeout_while(state, PATIENCE, |(there, _)| !*there).unwrap();
        assert!(state.0, "nobody came");
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

/// A bridge with a door in it.
struct Bridge {
    door: Arc<Door>,
    /// Ports may go to another worker.
    leaves: bool,
}

impl Policy for Bridge {
    type Tables = ();

    fn decide(&self, packet: &Packet, here: &Here<'_, ()>) -> Verdict {
        if packet.meta.src == HELD {
            self.door.pass();
        }
        bridge(&packet.meta, here.network)
    }

    fn serve<I: Io>(
        &mut self,
        _: Task,
        _: &Frame,
        _: &Packet,
        _: &Here<'_, ()>,
        _: &mut Desk<'_, I>,
    ) -> Result<Fate, DropReason> {
        Ok(Fate::Local)
    }

    fn may_leave(&mut self, _: PortId) -> bool {
        self.leaves
    }
}

/// Two workers over the same ports.
struct Lab<I: Io> {
    workers: Vec<Worker<I, Bridge>>,
    mailboxes: Vec<Arc<Mailbox>>,
    door: Arc<Door>,
    /// The containers' ends.
    ends: Vec<OwnedFd>,
}

impl<I: Engine> Lab<I> {
    fn bare(ports: u16, leaves: bool) -> Option<Self> {
        let mailboxes = Mailbox::for_workers(2, usize::from(ports)).unwrap();
        let mailboxes: Vec<_> = mailboxes.into_iter().map(Arc::new).collect();
        let snapshot: Published = Arc::new(ArcSwap::from_pointee(one_network(ports, 0, |_| Tagging::All)));
        let door = Arc::new(Door::default());
        let worker = |mailbox| {
            let (io, door) = (I::new(usize::from(ports), mailbox)?, Arc::clone(&door));
            Some(Worker::new(io, 128, usize::from(ports), Arc::clone(&snapshot), Bridge { door, leaves }))
        };
        let workers = mailboxes.iter().map(worker).collect::<Option<Vec<_>>>()?;
        Some(Self { workers, mailboxes, door, ends: Vec::new() })
    }

    /// Port `n` is read by worker `readers[n]`.
    fn new(readers: &[usize], leaves: bool) -> Option<Self> {
        let mut lab = Self::bare(readers.len() as u16, leaves)?;
        for (port, reader) in (0..).zip(readers) {
            let (ours, theirs) = pair();
            lab.attach(port, ours, *reader);
            lab.ends.push(theirs);
        }
        Some(lab)
    }

    fn attach(&self, port: u16, tap: OwnedFd, reader: usize) {
        let tap = Arc::new(tap);
        for (worker, mailbox) in self.mailboxes.iter().enumerate() {
            let (port, tap, reads) = (PortId(port), Arc::clone(&tap), worker == reader);
            mailbox.tell(Command::Attach { port, tap, gso: true, reads }).unwrap();
        }
    }

    fn send(&self, port: u16, frame: &[u8]) -> bool {
        rustix::io::write(&self.ends[usize::from(port)], &wire(frame)).is_ok()
    }

    /// What came to a container.
    fn take(&self, port: u16) -> Option<Vec<u8>> {
        take(&self.ends[usize::from(port)])
    }

    /// Steps the workers that are here until `found` finds something.
    #[track_caller]
    fn until<T>(&mut self, mut found: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "waited in vain");
            self.step();
        }
    }

    fn step(&mut self) {
        for worker in &mut self.workers {
            worker.step(Wait::Poll).unwrap();
            assert_eq!(worker.counters().worker.unaccounted(), 0, "a frame was lost without a name");
        }
    }

    fn event(&mut self) -> Event {
        self.until(|lab| lab.mailboxes[0].next_event())
    }
}

/// A frame of which each is different.
fn numbered(from: u16, to: u16, number: u32) -> Vec<u8> {
    ethernet(mac(to), mac(from), 0x88b5, &number.to_be_bytes())
}

/// What number it has, if it is one of these.
fn number(frame: &[u8]) -> Option<u32> {
    (frame.get(12..14)? == [0x88, 0xb5]).then(|| u32::from_be_bytes(frame[14..18].try_into().unwrap()))
}

mod run {
    use super::*;

    pub fn one_that_is_held_still_keeps_nobody<I: Engine + Send + 'static>() {
        let Some(mut lab) = Lab::<I>::new(&[0, 1, 1], true) else { return };
        let mut first = lab.workers.remove(0);
        let held = std::thread::spawn(move || {
            while !first.io.stopped() {
                first.step(Wait::Sleep).unwrap();
            }
            first.counters().worker.unaccounted()
        });
        lab.step(); // the second one has its ports
        assert!(lab.send(0, &ethernet(mac(1), HELD, 0x88b5, &7_u32.to_be_bytes())));
        lab.door.until_somebody_is_there();

        // Everybody else goes on: to each other, and to the port whose worker stands still.
        for (from, to) in [(1, 2), (2, 1), (1, 0), (2, 0)] {
            for n in 0..100 {
                assert!(lab.send(from, &numbered(from, to, n)));
                // It is flooded as long as nobody said hello.
                let came = lab.until(|lab| lab.take(to));
                assert_eq!(number(&came), Some(n), "{from} to {to}");
            }
            (0..3).for_each(|port| while lab.take(port).is_some() {});
        }
        let at = [1, 2].map(|port| lab.take(port));
        assert_eq!(at, [None, None], "what is held is held");

        lab.door.open();
        assert_eq!(lab.until(|lab| lab.take(1)).get(6..12).unwrap(), HELD.0);
        lab.mailboxes[0].tell(Command::Stop).unwrap();
        assert_eq!(held.join().unwrap(), 0);
    }

    pub fn a_port_moves_with_nothing_lost_and_in_order<I: Engine>() {
        let Some(mut lab) = Lab::<I>::new(&[0, 1], true) else { return };
        let (mut sent, mut came) = (0, 0);
        let mut traffic = |lab: &mut Lab<I>| {
            for _ in 0..20 {
                sent += u32::from(lab.send(0, &numbered(1, 2, sent)));
            }
            lab.step();
            while let Some(frame) = lab.take(1) {
                assert_eq!(number(&frame), Some(came), "the next one");
                came += 1;
            }
            came
        };
        for round in 0..20 {
            let (from, to) = (round % 2, (round + 1) % 2);
            (0..10).for_each(|_| _ = traffic(&mut lab));
            lab.mailboxes[from].tell(Command::Rest { port: PortId(0) }).unwrap();
            let deadline = Instant::now() + PATIENCE;
            let event = loop {
                traffic(&mut lab);
                if let Some(event) = lab.mailboxes[0].next_event() {
                    break event;
                }
                assert!(Instant::now() < deadline, "waited in vain");
            };
            assert_eq!(event, Event::Rests(PortId(0)));
            let before = traffic(&mut lab);
            assert_eq!(traffic(&mut lab), before, "nobody reads it");
            lab.mailboxes[to].tell(Command::Read { port: PortId(0) }).unwrap();
            let deadline = Instant::now() + PATIENCE;
            while traffic(&mut lab) < before + 100 {
                assert!(Instant::now() < deadline, "waited in vain");
            }
        }
        let both = [0, 1].map(|worker| lab.workers[worker].counters().worker.rx.get());
        assert!(both.iter().all(|frames| *frames > 1000), "{both:?}");
    }

    pub fn a_port_that_must_stay_is_read_on<I: Engine>() {
        let Some(mut lab) = Lab::<I>::new(&[0, 1], false) else { return };
        lab.mailboxes[0].tell(Command::Rest { port: PortId(0) }).unwrap();
        assert_eq!(lab.event(), Event::Stays(PortId(0)));
        for n in 0..100 {
            assert!(lab.send(0, &numbered(1, 2, n)));
            assert_eq!(lab.until(|lab| lab.take(1).as_deref().and_then(number)), n);
        }
        assert_eq!(lab.workers[1].counters().worker.rx.get(), 0);
    }

    pub fn who_only_writes_to_a_dead_tap_says_nothing<I: Engine>() {
        let Some(mut lab) = Lab::<I>::bare(2, true) else { return };
        let Some((home, one)) = tap() else { return };
        lab.attach(0, one, 0);
        let (ours, theirs) = pair();
        lab.attach(1, ours, 1);
        lab.ends = vec![theirs.try_clone().unwrap(), theirs];
        lab.step();
        in_home(&home, &["link", "del", "eth0"]);
        // The second worker finds out by writing, before or after the first one does.
        let down = |lab: &Lab<I>| lab.workers[1].counters().worker.drops[DropReason::TxDown as usize].get();
        let hello = ethernet(MacAddr::BROADCAST, mac(2), 0x88b5, b"hello");
        lab.until(|lab| {
            lab.send(1, &hello);
            (down(lab) > 3).then_some(())
        });
        assert_eq!(lab.event(), Event::Gone(PortId(0)));
        (0..8).for_each(|_| lab.step());
        assert_eq!(lab.mailboxes[1].next_event(), None, "it is gone once");
        // Each says that it has let go, whatever it knew.
        for mailbox in &lab.mailboxes {
            mailbox.tell(Command::Detach { port: PortId(0) }).unwrap();
        }
        assert_eq!([lab.event(), lab.event()], [Event::Detached(PortId(0)); 2]);
    }
}
