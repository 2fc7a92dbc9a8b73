//! Later fragments that came before their first one, kept until it comes (RFC 4787 section 11, REQ-14: in any order).
//!
//! Their bytes are copied: frame buffers are few, and a flood of fragments must not hold them. All fragments of a packet
//! come by one port and so to one worker, whose own this is.

use std::collections::VecDeque;

use switch::flow::Packet;
use switch::port::PortId;
use switch::tick::Tick;

use crate::fragments::key;

/// Bytes of all that wait: four packets of 64 KiB.
const BYTES: usize = 256 * 1024;
/// Fragments of all that wait.
const FRAGMENTS: usize = 1024;
/// A port may have the fourth part of both.
const SHARE: usize = 4;
/// Milliseconds that one waits. What is out of order comes with the next few packets.
const PATIENCE: u64 = 2000;

/// One that waits.
struct Fragment {
    key: [u64; 5],
    port: PortId,
    since: Tick,
    start: usize,
    len: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waits,
    /// The first one came.
    Ready,
    /// It went on; its bytes are free when all older ones are.
    Gone,
}

/// Fragments that wait for their first.
pub struct Waiting {
    /// A ring.
    bytes: Box<[u8]>,
    /// Oldest first, as their bytes are.
    fragments: VecDeque<Fragment>,
    ready: usize,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            bytes: vec![0; BYTES].into_boxed_slice(),
            fragments: VecDeque::with_capacity(FRAGMENTS),
            ready: 0,
        }
    }
}

impl Waiting {
    /// Keeps a later fragment. False: there is no room for it, or none for another one of its port.
    pub fn keep(&mut self, packet: &Packet, frame: &[u8], now: Tick) -> bool {
        let port = packet.meta.port;
        let mine = self.fragments.iter().filter(|one| one.port == port && one.state != State::Gone);
        let (count, bytes) = mine.fold((0, frame.len()), |(count, sum), one| (count + 1, sum + one.len));
        if count >= FRAGMENTS / SHARE || bytes > BYTES / SHARE || self.fragments.len() >= FRAGMENTS {
            return false;
        }
        let Some(start) = self.room(frame.len()) else { return false };
        let Some(to) = self.bytes.get_mut(start..start + frame.len()) else { return false };
        to.copy_from_slice(frame);
        let (key, len) = (key(packet), frame.len());
        self.fragments.push_back(Fragment { key, port, since: now, start, len, state: State::Waits });
        true
    }

    /// Where so many bytes fit, in one piece.
    fn room(&self, len: usize) -> Option<usize> {
        let (Some(oldest), Some(newest)) = (self.fragments.front(), self.fragments.back()) else {
            return (len <= BYTES).then_some(0);
        };
        let end = newest.start + newest.len;
        if end > oldest.start || self.fragments.len() == 1 {
            // Behind the newest, or from the start again.
            if end + len <= BYTES {
                return Some(end);
            }
            return (len < oldest.start).then_some(0);
        }
        (end + len < oldest.start).then_some(end)
    }

    /// The first fragment of a packet came: the others may go on.
    pub fn first_came(&mut self, first: &Packet) {
        if self.fragments.is_empty() {
            return;
        }
        let key = key(first);
        for one in self.fragments.iter_mut().filter(|one| one.key == key && one.state == State::Waits) {
            one.state = State::Ready;
            self.ready += 1;
        }
    }

    /// One that may go on: its port, and its frame.
    pub fn next_ready(&mut self) -> Option<(PortId, &[u8])> {
        if self.ready == 0 {
            return None;
        }
        let at = self.fragments.iter().position(|one| one.state == State::Ready)?;
        let one = self.fragments.get_mut(at)?;
        one.state = State::Gone;
        self.ready -= 1;
        let (port, start, len) = (one.port, one.start, one.len);
        self.tidy();
        Some((port, self.bytes.get(start..start + len)?))
    }

    /// The port of one that waited too long, which is forgotten.
    pub fn overdue(&mut self, now: Tick) -> Option<PortId> {
        let late = |one: &Fragment| now.millis().saturating_sub(one.since.millis()) >= PATIENCE;
        self.give_up(late)
    }

    /// Whether one of this port was there and is forgotten.
    pub fn forget(&mut self, port: PortId) -> bool {
        self.give_up(|one| one.port == port).is_some()
    }

    fn give_up(&mut self, which: impl Fn(&Fragment) -> bool) -> Option<PortId> {
        let one = self.fragments.iter_mut().find(|one| one.state != State::Gone && which(one))?;
        if one.state == State::Ready {
            self.ready -= 1;
        }
        one.state = State::Gone;
        let port = one.port;
        self.tidy();
        Some(port)
    }

    fn tidy(&mut self) {
        while self.fragments.front().is_some_and(|one| one.state == State::Gone) {
            self.fragments.pop_front();
        }
    }

    /// When one of them will have waited too long.
    pub fn deadline(&self) -> Option<Tick> {
        let oldest = self.fragments.iter().find(|one| one.state == State::Waits)?;
        Some(Tick::from_millis(oldest.since.millis().saturating_add(PATIENCE)))
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.fragments.is_empty()
    }
}
