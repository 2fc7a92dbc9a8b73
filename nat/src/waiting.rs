//! Later fragments that came before their first one, kept until it comes (RFC 4787 section 11, REQ-14: in any order).
//!
//! Their bytes are copied: frame buffers are few, and a flood of fragments must not hold them. All fragments of a packet
//! come by one port and so to one worker, whose own this is.

use std::collections::VecDeque;

use switch::flow::Packet;
use switch::port::PortId;
use switch::tick::Tick;

use crate::fragments::key;

#[cfg(test)]
pub(crate) mod tests;

/// Bytes of all that wait: four packets of 64 KiB.
const BYTES: usize = 256 * 1024;
/// They are given out in pieces of this, so that whoever waits longest keeps no other's bytes.
const BLOCK: usize = 256;
const BLOCKS: usize = BYTES / BLOCK;
/// A port may have the fourth part of it.
const SHARE: usize = BLOCKS / 4;
/// Milliseconds that one waits. What is out of order comes with the next few packets.
const PATIENCE: u64 = 2000;

/// One that waits.
struct Fragment {
    key: [u64; 5],
    port: PortId,
    since: Tick,
    /// The first of its blocks.
    first: usize,
    len: usize,
    /// The first fragment of its packet came.
    ready: bool,
}

impl Fragment {
    const fn blocks(&self) -> usize {
        self.len.div_ceil(BLOCK)
    }
}

/// Fragments that wait for their first.
pub struct Waiting {
    bytes: Box<[u8]>,
    used: Box<[bool]>,
    /// Oldest first.
    fragments: VecDeque<Fragment>,
    ready: usize,
}

impl Default for Waiting {
    fn default() -> Self {
        Self {
            bytes: vec![0; BYTES].into_boxed_slice(),
            used: vec![false; BLOCKS].into_boxed_slice(),
            fragments: VecDeque::with_capacity(BLOCKS),
            ready: 0,
        }
    }
}

impl Waiting {
    /// Keeps a later fragment. False: there is no room for it, or none for another one of its port.
    pub fn keep(&mut self, packet: &Packet, frame: &[u8], now: Tick) -> bool {
        let one = Fragment {
            key: key(packet),
            port: packet.meta.port,
            since: now,
            first: 0,
            len: frame.len(),
            ready: false,
        };
        let mine = self.fragments.iter().filter(|other| other.port == one.port);
        if one.len == 0 || mine.map(Fragment::blocks).sum::<usize>() + one.blocks() > SHARE {
            return false;
        }
        let Some(first) = self.room(one.blocks()) else { return false };
        let one = Fragment { first, ..one };
        let Some(to) = self.bytes.get_mut(first * BLOCK..).and_then(|to| to.get_mut(..one.len)) else {
            return false;
        };
        to.copy_from_slice(frame);
        self.mark(&one, true);
        self.fragments.push_back(one);
        true
    }

    /// So many blocks in one piece.
    fn room(&self, blocks: usize) -> Option<usize> {
        let mut free = 0;
        for (at, used) in self.used.iter().enumerate() {
            free = if *used { 0 } else { free + 1 };
            if free == blocks {
                return Some(at + 1 - blocks);
            }
        }
        None
    }

    fn mark(&mut self, one: &Fragment, used: bool) {
        if let Some(blocks) = self.used.get_mut(one.first..one.first + one.blocks()) {
            blocks.fill(used);
        }
    }

    /// The first fragment of a packet came: the others may go on.
    pub fn first_came(&mut self, first: &Packet) {
        if self.fragments.is_empty() {
            return;
        }
        let key = key(first);
        for one in self.fragments.iter_mut().filter(|one| one.key == key && !one.ready) {
            one.ready = true;
            self.ready += 1;
        }
    }

    /// One that may go on: its port, and its frame.
    pub fn next_ready(&mut self) -> Option<(PortId, &[u8])> {
        if self.ready == 0 {
            return None;
        }
        // Nothing is written to its bytes as long as they are looked at.
        let one = self.remove(|one| one.ready)?;
        let start = one.first * BLOCK;
        Some((one.port, self.bytes.get(start..start + one.len)?))
    }

    /// The port of one that waited too long, which is forgotten.
    pub fn overdue(&mut self, now: Tick) -> Option<PortId> {
        let late = |one: &Fragment| now.millis().saturating_sub(one.since.millis()) >= PATIENCE;
        self.remove(late).map(|one| one.port)
    }

    /// Whether one of this port was there and is forgotten.
    pub fn forget(&mut self, port: PortId) -> bool {
        self.remove(|one| one.port == port).is_some()
    }

    fn remove(&mut self, which: impl Fn(&Fragment) -> bool) -> Option<Fragment> {
        let at = self.fragments.iter().position(which)?;
        let one = self.fragments.remove(at)?;
        if one.ready {
            self.ready -= 1;
        }
        self.mark(&one, false);
        Some(one)
    }

    /// When one of them will have waited too long.
    pub fn deadline(&self) -> Option<Tick> {
        let oldest = self.fragments.iter().find(|one| !one.ready)?;
        Some(Tick::from_millis(oldest.since.millis().saturating_add(PATIENCE)))
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.fragments.is_empty()
    }
}
