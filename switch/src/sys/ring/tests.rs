//! The ring on pairs of sockets.

use super::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::{AsFd, OwnedFd};

const STRIDE: usize = 4096;
const OWNER: Owner = Owner { port: 7, generation: 0xdead_beef };

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

/// A ring with a slab of 4 slots, or not here.
fn ring(lent: u16) -> Option<(Ring, Slab)> {
    let mut ring = match Ring::new(8, 16, 4) {
        Ok(ring) => ring,
        Err(errno) => {
            assert!(std::env::var("CI").is_err(), "no io_uring: {errno}");
            println!("skipped: no io_uring: {errno}");
            return None;
        }
    };
    let mut slab = Slab::new(8, STRIDE).unwrap();
    ring.begin(&slab).unwrap();
    for slot in 0..lent {
        assert!(ring.lend(&mut slab, slot, 10));
    }
    Some((ring, slab))
}

#[test]
fn what_a_completion_is_about_survives_the_way() {
    let all = [
        About::Read(OWNER),
        About::Write { slot: u16::MAX, token: u32::MAX },
        About::Poll { token: 3 },
        About::Cancel,
    ];
    for about in all {
        assert_eq!(About::unpack(about.pack()), about);
    }
}

#[test]
fn reads_fill_lent_slots_until_there_are_none() {
    let Some((mut ring, mut slab)) = ring(2) else { return };
    let (ours, theirs) = pair();
    ring.read(ours.as_fd(), OWNER).unwrap();
    ring.look().unwrap();
    assert_eq!(ring.next(&mut slab), None);
    for text in [b"one", b"two", b"six"] {
        rustix::io::write(&theirs, text).unwrap();
    }
    assert!(slab.slot(0).is_empty() && slab.slot(1).is_empty());
    ring.wait(None).unwrap();
    let read = |filled, more| Some(Done::Read { owner: OWNER, filled, more });
    assert_eq!(ring.next(&mut slab), read(Ok((0, 3)), true));
    assert_eq!(&slab.slot(0)[10..13], b"one");
    assert_eq!(ring.next(&mut slab), read(Ok((1, 3)), true));
    assert_eq!(ring.next(&mut slab), read(Err(Errno::NOBUFS), false));
    assert_eq!((ring.lent(), ring.pending), (0, 0));
    assert!(ring.lend(&mut slab, 5, 10));
    ring.read(ours.as_fd(), OWNER).unwrap();
    ring.look().unwrap();
    assert_eq!(ring.next(&mut slab), read(Ok((5, 3)), true));
    ring.cancel(OWNER).unwrap();
    ring.look().unwrap();
    let mut last = [ring.next(&mut slab), ring.next(&mut slab)];
    last.sort_by_key(|done| *done == Some(Done::Cancel));
    assert_eq!(last, [read(Err(Errno::CANCELED), false), Some(Done::Cancel)]);
}

#[test]
fn a_write_is_over_when_it_was_submitted() {
    let Some((mut ring, mut slab)) = ring(0) else { return };
    let (ours, theirs) = pair();
    slab.slot_mut(3)[..4].copy_from_slice(b"text");
    for token in 0..8 {
        ring.write(&mut slab, ours.as_fd(), 3, (1, 3), token).unwrap();
    }
    assert_eq!(ring.write(&mut slab, ours.as_fd(), 3, (1, 3), 9), Err(Full));
    assert!(slab.slot_mut(3).is_empty());
    ring.submit().unwrap();
    for token in 0..8 {
        assert_eq!(ring.next(&mut slab), Some(Done::Write { token, written: Ok(3) }));
        let mut got = [0; 9];
        assert_eq!(rustix::io::read(&theirs, &mut got), Ok(3));
        assert_eq!(&got[..3], b"ext");
    }
    assert_eq!(slab.slot_mut(3).len(), STRIDE);
    assert_eq!(ring.write(&mut slab, ours.as_fd(), 3, (STRIDE, 1), 0), Err(Full));
    assert_eq!(ring.write(&mut Slab::new(8, STRIDE).unwrap(), ours.as_fd(), 3, (0, 1), 0), Err(Full));
}

#[test]
fn what_would_have_to_wait_is_refused() {
    let Some((mut ring, mut slab)) = ring(0) else { return };
    let (ours, _theirs) = pair();
    while rustix::io::write(&ours, &[0; 1024]).is_ok() {}
    ring.write(&mut slab, ours.as_fd(), 0, (0, 1024), 1).unwrap();
    ring.submit().unwrap();
    assert!(ring.has_news());
    ring.look().unwrap();
    assert_eq!(ring.next(&mut slab), Some(Done::Write { token: 1, written: Err(Errno::AGAIN) }));
}

#[test]
fn news_are_seen_without_a_call_and_polls_come_once() {
    let Some((mut ring, mut slab)) = ring(0) else { return };
    let (ours, theirs) = pair();
    ring.poll(ours.as_fd(), 4).unwrap();
    ring.submit().unwrap();
    assert!(!ring.has_news());
    rustix::io::write(&theirs, b"x").unwrap();
    assert!(ring.has_news());
    ring.look().unwrap();
    assert_eq!(ring.next(&mut slab), Some(Done::Poll { token: 4 }));
    assert!(!ring.has_news());
    ring.wait(Some(Duration::from_millis(1))).unwrap();
    assert_eq!(ring.next(&mut slab), None);
}

#[test]
fn a_ring_that_ends_takes_nothing_with_it() {
    let Some((mut ring, slab)) = ring(4) else { return };
    let (ours, theirs) = pair();
    ring.read(ours.as_fd(), OWNER).unwrap();
    ring.look().unwrap();
    rustix::io::write(&theirs, b"late").unwrap();
    let memory = slab.memory();
    drop(ring);
    assert_eq!(Arc::strong_count(&memory), 2, "the ring let go of the memory");
}

#[test]
fn a_ring_of_another_thread_that_ends_here_leaves_its_memory_to_the_kernel() {
    let Some((ring, slab)) = std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            let (mut ring, slab) = ring(4)?;
            let (ours, theirs) = pair();
            ring.read(ours.as_fd(), OWNER).unwrap();
            ring.look().unwrap();
            Some((ring, slab, ours, theirs))
        });
        made.join().unwrap().map(|(ring, slab, ..)| (ring, slab))
    }) else {
        return;
    };
    let memory = slab.memory();
    drop((ring, slab));
    assert_eq!(Arc::strong_count(&memory), 2, "one of them is held for ever");
}
