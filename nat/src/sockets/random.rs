//! Numbers that nobody can guess.

use rustix::rand::{GetRandomFlags, getrandom};

/// How many are asked of the kernel at once: up to 256 bytes come whole (getrandom(2)).
const STOCK: usize = 64;

/// A stock of them, so that the kernel is not asked for each.
pub(super) struct Random {
    bytes: [u8; 4 * STOCK],
    left: usize,
}

impl Random {
    pub const fn new() -> Self {
        Self { bytes: [0; 4 * STOCK], left: 0 }
    }

    /// The next one; it is given once.
    ///
    /// # Errors
    /// What the kernel said.
    ///
    /// # Syscalls
    /// `getrandom`, once for [`STOCK`] of them.
    pub fn next(&mut self) -> rustix::io::Result<u32> {
        if self.left == 0 {
            self.left = getrandom(&mut self.bytes, GetRandomFlags::empty())? / 4;
        }
        self.left = self.left.saturating_sub(1);
        let number = self.bytes.as_chunks().0.get(self.left).ok_or(rustix::io::Errno::AGAIN)?;
        Ok(u32::from_ne_bytes(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_given_twice() {
        let mut random = Random::new();
        let numbers: std::collections::HashSet<u32> = (0..1000).map(|_| random.next().unwrap()).collect();
        assert!(numbers.len() > 995, "{}", numbers.len());
    }
}
