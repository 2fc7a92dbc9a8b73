//! How many writes a frame comes to. One that is flooded in a network of 128 ports is 127 of them, and a full batch of such
//! frames would keep everybody else waiting for 10 ms. So batches hold the fewer frames the more each of them costs.

use super::BATCH;
use crate::frame::Frame;
use crate::port::PortId;

/// Writes that a batch may come to: a tenth of a millisecond. Asking who else has something costs a hundredth of that.
const WRITES: usize = 64;

/// What the latest batches came to.
#[derive(Debug, Default)]
pub struct Fanout {
    /// Frames of the batch in hand, and writes of them.
    frames: usize,
    writes: usize,
    /// Writes of one frame.
    mean: usize,
}

impl Fanout {
    /// A frame is written, perhaps one of many times.
    #[inline]
    pub fn wrote(&mut self, frame: &Frame) {
        // What is made here came by no port, and is nobody's fault.
        self.writes += usize::from(frame.port != PortId::NOBODY);
    }

    /// The batch before this one is over, and this one has so many frames.
    #[inline]
    pub fn batch(&mut self, frames: usize) {
        if let Some(mean) = self.writes.checked_div(self.frames) {
            // Up at once, down by and by: the next of them is among others.
            self.mean = if mean > self.mean { mean } else { (3 * self.mean + mean) / 4 };
        }
        (self.frames, self.writes) = (frames, 0);
    }

    /// The most frames that the next batch should have.
    #[inline]
    pub fn room(&self) -> usize {
        (WRITES / self.mean.max(1)).clamp(1, BATCH)
    }

    /// What a frame costs more than one that goes to one port, in writes.
    #[inline]
    pub const fn surplus(&self) -> usize {
        self.mean.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Pool;

    #[test]
    fn batches_are_the_shorter_the_more_each_frame_costs() {
        let mut pool = Pool::new(1);
        let frame = pool.fill::<()>(PortId(0), |_| Ok(100)).unwrap();
        let mut fanout = Fanout::default();
        let mut batch = |frames: usize, writes: usize| {
            fanout.batch(frames);
            (0..writes).for_each(|_| fanout.wrote(&frame));
            fanout.batch(0);
            fanout.room()
        };
        assert_eq!(batch(64, 64), BATCH);
        assert_eq!(batch(16, 16 * 15), 4);
        assert_eq!(batch(16, 16 * 127), 1);
        assert_eq!(batch(2, 2 * 4000), 1);
        assert_eq!(batch(0, 1000), 1, "what comes from elsewhere says nothing");
        let batches = (0..100).position(|_| batch(1, 1) == BATCH).unwrap();
        assert!((3..60).contains(&batches), "it is forgotten after {batches}");
    }
}
