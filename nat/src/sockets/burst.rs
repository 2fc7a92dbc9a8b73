//! Datagrams of one flow that leave by one system call.
//!
//! Most of what a datagram costs on its way out is the way through the host's stack, which takes many of one size as if
//! they were one (`UDP_SEGMENT`, udp(7)). So of a flow that has several in a batch the first leaves at once, and the
//! others together, at the latest at the end of the batch: nobody waits for more to come.

use switch::sys::bulk::{MAX_BYTES, MAX_SEGMENTS};

/// Bytes of the longest datagram that is kept for a burst: copying it must cost less than a call, and what the path may
/// fragment is no part of a burst.
const LONGEST: usize = 1400;

/// What one flow has for its socket.
pub(super) struct Burst {
    /// Whose the last packet of this batch was.
    last: Option<u32>,
    /// Bytes of each datagram but perhaps the last.
    size: usize,
    count: usize,
    bytes: Vec<u8>,
}

impl Burst {
    pub fn new() -> Self {
        Self { last: None, size: 0, count: 0, bytes: Vec::with_capacity(MAX_BYTES) }
    }

    /// Whose burst this is, if it is another flow's than this one's.
    pub fn other(&self, flow: u32) -> Option<u32> {
        self.last.filter(|last| *last != flow)
    }

    /// A packet of `flow` comes; whether the one before it in this batch was of the same.
    pub fn comes(&mut self, flow: u32) -> bool {
        self.last.replace(flow) == Some(flow)
    }

    /// The batch is over: whose burst is left.
    pub fn end(&mut self) -> Option<u32> {
        self.last.take()
    }

    /// A flow is over: nothing of it leaves any more.
    pub fn forget(&mut self, flow: u32) {
        if self.last == Some(flow) {
            self.last = None;
            self.clear();
        }
    }

    /// Whether such a datagram can be part of any burst. (An empty one is lost between others.)
    pub const fn suits(len: usize) -> bool {
        len > 0 && len <= LONGEST
    }

    /// Keeps a datagram, if it fits to those that are there.
    pub fn put(&mut self, datagram: &[u8]) -> bool {
        if self.count == 0 {
            self.size = datagram.len();
        }
        // A shorter one can only be the last.
        let whole = self.bytes.len() == self.count * self.size;
        let fits = self.count < MAX_SEGMENTS && self.bytes.len() + datagram.len() <= MAX_BYTES;
        let put = whole && fits && datagram.len() <= self.size;
        if put {
            self.bytes.extend_from_slice(datagram);
            self.count += 1;
        }
        put
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Bytes of each but perhaps the last, at least 1.
    pub fn size(&self) -> usize {
        self.size.max(1)
    }

    /// All of them, one behind the other.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_size_and_a_shorter_one_at_the_end() {
        let mut burst = Burst::new();
        assert!(burst.put(&[0; 100]) && burst.put(&[1; 100]));
        assert!(!burst.put(&[2; 101]));
        assert!(burst.put(&[2; 50]));
        assert!(!burst.put(&[3; 50]), "the kernel would cut in the wrong place");
        assert_eq!((burst.len(), burst.size(), burst.bytes().len()), (3, 100, 250));
        burst.clear();
        assert!(burst.put(&[4; 7]));
        assert_eq!((burst.len(), burst.size(), burst.bytes()), (1, 7, &[4; 7][..]));
    }

    #[test]
    fn it_is_no_longer_than_a_call_takes() {
        let mut burst = Burst::new();
        assert_eq!((0..100).filter(|_| burst.put(&[0])).count(), MAX_SEGMENTS);
        burst.clear();
        assert_eq!((0..100).filter(|_| burst.put(&[0; LONGEST])).count(), MAX_BYTES / LONGEST);
    }

    #[test]
    fn the_first_of_a_batch_is_alone() {
        let mut burst = Burst::new();
        assert!(!burst.comes(1) && burst.comes(1));
        assert_eq!((burst.other(1), burst.other(2)), (None, Some(1)));
        assert!(!burst.comes(2));
        assert_eq!(burst.end(), Some(2));
        assert!(!burst.comes(2));
    }
}
