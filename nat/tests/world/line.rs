//! A line that loses, doubles and holds up what it carries.

use std::collections::VecDeque;

/// What is wrong with the line, in percent of frames.
#[derive(Clone, Copy, Default)]
pub struct Line {
    pub lost: u32,
    pub twice: u32,
    pub late: u32,
    pub seed: u64,
}

impl Line {
    pub fn dice(&mut self) -> u32 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 33) as u32 % 100
    }

    /// Puts a frame into a queue, perhaps.
    pub fn carry(&mut self, frame: Vec<u8>, queue: &mut VecDeque<Vec<u8>>) {
        if self.seed == 0 {
            return queue.push_back(frame);
        }
        if self.dice() < self.lost {
            return;
        }
        if self.dice() < self.twice {
            queue.push_back(frame.clone());
        }
        let late = self.dice() < self.late && !queue.is_empty();
        let at = if late { queue.len() - 1 } else { queue.len() };
        queue.insert(at, frame);
    }
}
