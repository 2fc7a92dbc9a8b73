//! What holds for every engine that reads and writes descriptors: on pairs of sockets, which need nothing, and on TAPs.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;
#[macro_use]
#[path = "common/engine.rs"]
mod engine;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use common::{Decide, ethernet, ip, ipv4, mac, packet};
use engine::{Engine, in_home, one_network, pair, take, tap, wire};
use switch::decide::bridge;
use switch::drop::DropReason;
use switch::io::epoll::EpollIo;
use switch::io::uring::UringIo;
use switch::io::{BATCH, Io, Wait};
use switch::mac::MacAddr;
use switch::mailbox::{Command, Event, Mailbox};
use switch::port::PortId;
use switch::sys::netns;
use switch::vlan::Tagging;
use switch::vnet::VnetHdr;
use switch::worker::Worker;
use zerocopy::IntoBytes;

const SLOTS: u16 = 128;
const PATIENCE: Duration = Duration::from_secs(20);

on_each!(
    frames_pass_in_order,
    a_burst_beyond_all_slots_passes,
    who_sends_little_waits_for_one_batch_of_a_flooder,
    several_flooders_get_their_parts,
    a_flood_goes_to_many_and_is_booked_once,
    a_flood_in_two_forms_is_booked_once,
    batches_of_frames_for_many_are_short,
    who_does_not_read_loses_his_own,
    a_number_that_is_given_again_hears_nothing_of_before,
    ports_come_and_go_under_traffic,
    who_takes_no_super_frames_is_offered_none_after_a_while,
    the_policys_descriptor_is_heard_as_long_as_it_has_something,
    it_ends_with_nothing_left,
    a_dead_tap_is_gone,
    a_tap_that_is_down_is_told,
    nothing_is_allocated,
);

struct Lab<I: Io> {
    worker: Worker<I, Decide>,
    mailbox: Arc<Mailbox>,
    /// The containers' ends.
    ends: Vec<OwnedFd>,
}

impl<I: Engine> Lab<I> {
    /// Ports on one network, which knows everybody's MAC.
    fn new(ports: u16) -> Option<Self> {
        let mut lab = Self::bare(ports, 0)?;
        for port in 0..ports {
            let end = lab.plug(port);
            lab.ends.push(end);
        }
        lab.settle();
        // Everybody says hello; what comes of that is thrown away.
        for port in 0..ports {
            lab.send(port, &ethernet(mac(port + 1), mac(port + 1), 0x88b5, b"hello"));
            lab.send(port, &ethernet(MacAddr::BROADCAST, mac(port + 1), 0x88b5, b"hello"));
            lab.settle();
        }
        (0..ports).for_each(|port| while lab.take(port).is_some() {});
        Some(lab)
    }

    /// Ports that nobody is behind.
    fn bare(ports: u16, storm: u32) -> Option<Self> {
        Self::with(ports, storm, |_| Tagging::All)
    }

    /// The same, with VLANs.
    fn with(ports: u16, storm: u32, tagging: impl Fn(u16) -> Tagging) -> Option<Self> {
        let mailbox = Arc::new(Mailbox::new(usize::from(ports)).unwrap());
        let io = I::new(usize::from(ports), &mailbox)?;
        let decide: Decide = |packet, network| bridge(&packet.meta, network);
        let snapshot = Arc::new(ArcSwap::from_pointee(one_network(ports, storm, tagging)));
        let worker = Worker::new(io, SLOTS, usize::from(ports), snapshot, decide);
        Some(Self { worker, mailbox, ends: Vec::new() })
    }

    fn attach(&self, port: u16, tap: OwnedFd, gso: bool) {
        self.mailbox
            .tell(Command::Attach { port: PortId(port), tap: Arc::new(tap), gso, reads: true })
            .unwrap();
    }

    /// Gives a port a pair of sockets; the container's end.
    fn plug(&self, port: u16) -> OwnedFd {
        let (ours, theirs) = pair();
        self.attach(port, ours, true);
        theirs
    }

    fn send(&self, port: u16, frame: &[u8]) -> bool {
        rustix::io::write(&self.ends[usize::from(port)], &wire(frame)).is_ok()
    }

    /// As much as fits into the way to the switch.
    fn fill(&self, port: u16, frame: &[u8]) -> usize {
        std::iter::repeat_with(|| self.send(port, frame)).take_while(|sent| *sent).count()
    }

    /// What came to a container, without its virtio header.
    fn take(&self, port: u16) -> Option<Vec<u8>> {
        take(&self.ends[usize::from(port)])
    }

    fn step(&mut self) -> usize {
        let frames = self.worker.step(Wait::Poll).unwrap();
        assert_eq!(self.worker.counters().worker.unaccounted(), 0, "a frame was lost without a name");
        frames
    }

    /// Until nothing is left to do, and then as much again: commands and ends take effect a step later.
    fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 4 {
            quiet = if self.step() > 0 { 0 } else { quiet + 1 };
        }
    }

    /// All slots are free or lent.
    #[track_caller]
    fn nothing_leaked(&self) {
        assert_eq!(self.worker.free_slots() + self.worker.io.lent(), usize::from(SLOTS));
    }

    /// Steps until `found` finds something.
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

    fn dropped(&self, reason: DropReason) -> u64 {
        self.worker.counters().worker.drops[reason as usize].get()
    }

    fn received(&self, port: u16) -> u64 {
        self.worker.counters().port(PortId(port)).unwrap().rx_frames.get()
    }
}

/// A TCP super-frame from one port to another.
fn super_frame(from: u16, to: u16, bytes: usize) -> Vec<u8> {
    let mut segment = vec![0; 20 + bytes];
    segment[12] = 5 << 4;
    segment[13] = 0x10;
    let frame = ethernet(mac(to + 1), mac(from + 1), 0x0800, &ipv4(ip(from + 1), ip(to + 1), 6, &segment));
    let header = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: VnetHdr::GSO_TCPV4,
        hdr_len: 54.into(),
        gso_size: 1000.into(),
        csum_start: 34.into(),
        csum_offset: 16.into(),
    };
    [header.as_bytes(), &frame].concat()
}

mod run {
    use super::*;

    pub fn frames_pass_in_order<I: Engine>() {
        let Some(mut lab) = Lab::<I>::new(2) else { return };
        let (mut sent, mut came) = (0u32, 0u32);
        while came < 2000 {
            while sent < 2000 && lab.send(0, &packet(0, 1, &sent.to_be_bytes())) {
                sent += 1;
            }
            lab.step();
            while let Some(frame) = lab.take(1) {
                assert_eq!(frame, packet(0, 1, &came.to_be_bytes()));
                came += 1;
            }
        }
        lab.nothing_leaked();
        let worker = &lab.worker.counters().worker;
        assert_eq!(worker.dropped(), 2, "the two who greeted themselves");
        assert_eq!(lab.worker.counters().port(PortId(1)).unwrap().tx_frames.get(), 2001);
    }

    pub fn a_burst_beyond_all_slots_passes<I: Engine>() {
        let Some(mut lab) = Lab::<I>::new(2) else { return };
        for _ in 0..5 {
            let sent = lab.fill(0, &packet(0, 1, b"burst"));
            assert!(sent > usize::from(SLOTS), "{sent}");
            let mut came = 0;
            lab.until(|lab| {
                came += std::iter::from_fn(|| lab.take(1)).count();
                (came == sent).then_some(())
            });
            lab.settle();
            lab.nothing_leaked();
        }
    }

    pub fn who_sends_little_waits_for_one_batch_of_a_flooder<I: Engine>() {
        let Some(mut lab) = Lab::<I>::new(3) else { return };
        let flood = packet(0, 2, b"flood");
        for _ in 0..50 {
            // The flooder never runs dry.
            for _ in 0..5 {
                lab.fill(0, &flood);
                lab.step();
                while lab.take(2).is_some() {}
            }
            lab.fill(0, &flood);
            assert!(lab.send(1, &packet(1, 2, b"little")));
            let (before, little) = (lab.received(0), lab.received(1));
            while lab.received(1) == little {
                lab.step();
                lab.fill(0, &flood);
                while lab.take(2).is_some() {}
            }
            let waited = lab.received(0) - before;
            assert!(waited <= 2 * BATCH as u64, "waited for {waited} frames");
        }
        lab.nothing_leaked();
    }

    pub fn several_flooders_get_their_parts<I: Engine>() {
        let Some(mut lab) = Lab::<I>::new(5) else { return };
        let before: Vec<_> = (0..4).map(|port| lab.received(port)).collect();
        for _ in 0..400 {
            for port in 0..4 {
                lab.fill(port, &packet(port, 4, b"flood"));
            }
            lab.step();
            while lab.take(4).is_some() {}
        }
        let got: Vec<_> = (0..4).map(|port| lab.received(port) - before[usize::from(port)]).collect();
        let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
        assert!(2 * least > *most, "{got:?}");
    }

    pub fn a_flood_goes_to_many_and_is_booked_once<I: Engine>() {
        // More copies of one frame than a ring has room for.
        let Some(mut lab) = Lab::<I>::new(300) else { return };
        let before = lab.worker.counters().worker.flooded.get();
        let copies = lab.worker.counters().worker.copies.get();
        for n in 0..3u8 {
            assert!(lab.send(7, &ethernet(MacAddr::BROADCAST, mac(8), 0x88b5, &[n])));
            lab.settle();
        }
        for port in (0..300).filter(|port| *port != 7) {
            for n in 0..3u8 {
                assert_eq!(lab.take(port).unwrap()[14], n);
            }
            assert!(lab.take(port).is_none());
        }
        let worker = &lab.worker.counters().worker;
        assert_eq!(worker.flooded.get() - before, 3);
        assert_eq!(worker.copies.get() - copies, 3 * 299);
        lab.nothing_leaked();
    }

    /// A VLAN that is tagged on some ports and not on others: each has its form, in order, and a frame is one frame.
    pub fn a_flood_in_two_forms_is_booked_once<I: Engine>() {
        let tagging = |port| match port {
            0 | 1 => Tagging::Access(10),
            2 => Tagging::Trunk { vlans: Arc::new([10].into_iter().collect()), native: None },
            _ => Tagging::All,
        };
        let Some(mut lab) = Lab::<I>::with(4, 0, tagging) else { return };
        lab.ends = (0..4).map(|port| lab.plug(port)).collect();
        lab.settle();
        let frame = |number: u8, tags: &[(u16, u16)]| {
            common::tagged(MacAddr::BROADCAST, mac(1), tags, 0x88b5, &[number; 1500])
        };
        let frames = 40;
        // Of what there is no slot for, and of what the receivers' sockets do not hold, copies are lost by name.
        let untagged = (0..frames).take_while(|number| lab.send(0, &frame(*number, &[]))).count() as u8;
        assert!(untagged > 5, "{untagged} sent");
        lab.settle();
        let mut copies = 0;
        for port in 1..4u16 {
            let tags: &[(u16, u16)] = if port == 1 { &[] } else { &[(0x8100, 10)] };
            let mut heard = 0..untagged;
            while let Some(got) = lab.take(port) {
                copies += 1;
                assert!(
                    heard.any(|number| frame(number, tags) == got),
                    "port {port}: not in its form, or not in order"
                );
            }
        }
        let counters = &lab.worker.counters().worker;
        assert_eq!((counters.flooded.get(), counters.copies.get()), (u64::from(untagged), copies));
        assert_eq!(copies + counters.copies_lost.get(), 3 * u64::from(untagged));
        assert_eq!(copies, 3 * u64::from(untagged), "there was room for all");
        lab.nothing_leaked();
        // And back, from a trunk to ports that know no tag.
        assert!(lab.send(2, &frame(7, &[(0x8100, 10)])));
        lab.settle();
        assert_eq!(lab.take(0), Some(frame(7, &[])));
        assert_eq!(lab.take(1), Some(frame(7, &[])));
        assert_eq!(lab.take(3), Some(frame(7, &[(0x8100, 10)])));
        lab.nothing_leaked();
    }

    pub fn batches_of_frames_for_many_are_short<I: Engine>() {
        let Some(mut lab) = Lab::<I>::new(129) else { return };
        for _ in 0..40 {
            assert!(lab.send(0, &ethernet(MacAddr::BROADCAST, mac(1), 0x88b5, b"to all")));
        }
        let before = lab.received(0);
        let mut batches = Vec::new();
        lab.until(|lab| {
            batches.push(lab.step());
            (lab.received(0) == before + 40).then_some(())
        });
        // 128 writes each.
        assert!(batches.iter().all(|frames| *frames <= 4), "{batches:?}");
        lab.settle();
        (0..129).for_each(|port| while lab.take(port).is_some() {});
        // Once they are forgotten a batch is as long as ever.
        for _ in 0..40 {
            lab.send(0, &packet(0, 1, b"to one"));
            lab.settle();
            lab.take(1);
        }
        for _ in 0..40 {
            assert!(lab.send(0, &packet(0, 1, b"to one")));
        }
        let longest = (0..40).map(|_| lab.step()).max().unwrap();
        assert!(longest > 4, "{longest}");
        lab.settle();
        lab.nothing_leaked();
    }

    pub fn who_does_not_read_loses_his_own<I: Engine>() {
        let Some(mut lab) = Lab::<I>::new(3) else { return };
        while lab.dropped(DropReason::TxFull) < 100 {
            lab.fill(0, &packet(0, 1, b"nobody reads this"));
            lab.step();
        }
        lab.settle();
        lab.nothing_leaked();
        // A flood that one takes and one does not is a flood; one that nobody takes is a drop.
        let (flooded, lost) = {
            let worker = &lab.worker.counters().worker;
            (worker.flooded.get(), worker.copies_lost.get())
        };
        lab.send(0, &ethernet(MacAddr::BROADCAST, mac(1), 0x88b5, b"all"));
        lab.settle();
        let worker = &lab.worker.counters().worker;
        assert_eq!((worker.flooded.get() - flooded, worker.copies_lost.get() - lost), (1, 1));
        assert_eq!(&lab.take(2).unwrap()[14..17], b"all");
        // Read again, it gets what was written, in order, and what comes.
        while lab.take(1).is_some() {}
        lab.send(0, &packet(0, 1, b"again"));
        lab.settle();
        assert_eq!(lab.take(1).unwrap(), packet(0, 1, b"again"));
    }

    pub fn a_number_that_is_given_again_hears_nothing_of_before<I: Engine>() {
        let Some(mut lab) = Lab::<I>::new(2) else { return };
        for round in 0..50u8 {
            let old = lab.fill(0, &packet(0, 1, &[round, 0]));
            lab.step();
            lab.mailbox.tell(Command::Detach { port: PortId(0) }).unwrap();
            let mut came = 0;
            lab.until(|lab| {
                while let Some(frame) = lab.take(1) {
                    assert_eq!(frame[42..], [round, 0]);
                    came += 1;
                }
                (lab.mailbox.next_event() == Some(Event::Detached(PortId(0)))).then_some(())
            });
            assert!(came <= old);
            lab.ends[0] = lab.plug(0);
            assert!(lab.send(0, &packet(0, 1, &[round, 1])));
            let first = lab.until(|lab| lab.take(1));
            assert_eq!(first[42..], [round, 1], "of the one before");
            lab.settle();
            lab.nothing_leaked();
        }
    }

    pub fn ports_come_and_go_under_traffic<I: Engine>() {
        let Some(mut lab) = Lab::<I>::new(3) else { return };
        for round in 0..200 {
            lab.fill(0, &packet(0, 1, b"to who goes"));
            lab.fill(1, &packet(1, 2, b"from who goes"));
            match round % 3 {
                // To be replaced without a word, in the middle of everything.
                0 => lab.ends[1] = lab.plug(1),
                1 => {
                    lab.mailbox.tell(Command::Detach { port: PortId(1) }).unwrap();
                    lab.ends[1] = lab.plug(1);
                }
                _ => {}
            }
            lab.step();
            (1..3).for_each(|port| while lab.take(port).is_some() {});
        }
        lab.settle();
        lab.nothing_leaked();
        let detached = std::iter::from_fn(|| lab.mailbox.next_event());
        assert_eq!(detached.filter(|event| *event == Event::Detached(PortId(1))).count(), 67);
    }

    pub fn who_takes_no_super_frames_is_offered_none_after_a_while<I: Engine>() {
        let Some(mut lab) = Lab::<I>::new(2) else { return };
        // Something that can be read and answers EINVAL to every write: a timer.
        let (clock, flags) = (rustix::time::TimerfdClockId::Monotonic, rustix::time::TimerfdFlags::NONBLOCK);
        lab.attach(1, rustix::time::timerfd_create(clock, flags).unwrap(), true);
        lab.settle();
        let frame = super_frame(0, 1, 3000);
        for n in 1..=20 {
            assert!(rustix::io::write(&lab.ends[0], &frame).is_ok());
            lab.settle();
            assert_eq!(lab.dropped(DropReason::TxError), n, "its segments are refused as well");
        }
        let events: Vec<_> = std::iter::from_fn(|| lab.mailbox.next_event()).collect();
        assert_eq!(events, [Event::GsoRefused(PortId(1))]);
        lab.nothing_leaked();
    }

    pub fn the_policys_descriptor_is_heard_as_long_as_it_has_something<I: Engine>() {
        let mailbox = Arc::new(Mailbox::new(1).unwrap());
        let Some(mut io) = I::new(1, &mailbox) else { return };
        let (ours, theirs) = pair();
        io.eye(&ours);
        let mut pool = switch::frame::Pool::new(SLOTS);
        let mut batch = switch::io::Batch::new();
        let mut watched = |io: &mut I| {
            io.rx(&mut pool, &mut batch, Wait::Poll).unwrap();
            assert!(!batch.watched[switch::io::Eye::Around as usize]);
            batch.watched[switch::io::Eye::Policy as usize]
        };
        assert!(!watched(&mut io));
        rustix::io::write(&theirs, b"x").unwrap();
        assert!(watched(&mut io) && watched(&mut io) && watched(&mut io), "it was not read yet");
        rustix::io::read(&ours, &mut [0; 1]).unwrap();
        // A ring had asked already.
        watched(&mut io);
        assert!(!watched(&mut io));
    }

    pub fn it_ends_with_nothing_left<I: Engine>() {
        let Some(mut lab) = Lab::<I>::new(2) else { return };
        lab.fill(0, &packet(0, 1, b"last words"));
        lab.step();
        lab.mailbox.tell(Command::Stop).unwrap();
        lab.until(|lab| lab.worker.io.stopped().then_some(()));
        let came = std::iter::from_fn(|| lab.take(1)).count() as u64;
        assert_eq!(came + 1, lab.worker.counters().port(PortId(1)).unwrap().tx_frames.get());
        lab.nothing_leaked();
    }

    pub fn a_dead_tap_is_gone<I: Engine>() {
        for _ in 0..5 {
            let Some(mut lab) = Lab::<I>::bare(2, 0) else { return };
            let Some((home, one)) = tap() else { return };
            let away = netns::create().unwrap();
            let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&away));
            in_home(&home, &["link", "set", "eth0", "netns", &path]);
            lab.attach(0, one, true);
            lab.settle();
            drop(away); // the namespace, and the TAP in it
            let event = lab.until(|lab| lab.mailbox.next_event());
            assert_eq!(event, Event::Gone(PortId(0)));
            lab.settle();
            assert_eq!(lab.mailbox.next_event(), None);
            lab.nothing_leaked();
        }
    }

    pub fn a_tap_that_is_down_is_told<I: Engine>() {
        let Some(mut lab) = Lab::<I>::bare(2, 0) else { return };
        let Some((home, one)) = tap() else { return };
        lab.attach(0, one, true);
        let end = lab.plug(1);
        lab.ends = vec![end.try_clone().unwrap(), end];
        let hello = ethernet(MacAddr::BROADCAST, mac(2), 0x88b5, b"hello");
        for (state, event) in [("down", Event::LinkDown(PortId(0))), ("up", Event::LinkUp(PortId(0)))] {
            in_home(&home, &["link", "set", "eth0", state]);
            for _ in 0..3 {
                lab.send(1, &hello);
                lab.settle();
            }
            assert_eq!((lab.mailbox.next_event(), lab.mailbox.next_event()), (Some(event), None));
        }
        assert_eq!(lab.dropped(DropReason::TxDown), 3);
        lab.nothing_leaked();
    }

    pub fn nothing_is_allocated<I: Engine>() {
        let Some(mut lab) = Lab::<I>::new(4) else { return };
        let (one, all) = (packet(0, 1, b"steady"), ethernet(MacAddr::BROADCAST, mac(3), 0x88b5, b"all"));
        for round in 0..40 {
            lab.fill(0, &one);
            lab.send(2, &all);
            let counted = allocation_counter::measure(|| {
                for _ in 0..20 {
                    lab.worker.step(Wait::Poll).unwrap();
                }
            });
            assert!(round < 20 || counted.count_total == 0, "{} in round {round}", counted.count_total);
            (0..4).for_each(|port| while lab.take(port).is_some() {});
        }
        assert!(lab.worker.counters().worker.forwarded.get() > 1000);
    }
}
