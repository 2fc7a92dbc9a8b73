//! Writes on their way: what their completions need to know.

use crate::books::Ticket;
use crate::frame::Frame;
use crate::sys::ring::Owner;

/// A queued write.
#[derive(Clone, Copy)]
pub struct Writing {
    /// Held until it is over.
    pub frame: Frame,
    pub to: Owner,
    pub ticket: Ticket,
    /// A super-frame.
    pub gso: bool,
}

/// All of them; their index is their token.
pub struct Writes {
    table: Box<[Option<Writing>]>,
    free: Vec<u16>,
}

impl Writes {
    pub fn new(most: u16) -> Self {
        Self { table: vec![None; usize::from(most)].into_boxed_slice(), free: (0..most).rev().collect() }
    }

    pub const fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    pub const fn len(&self) -> usize {
        self.table.len() - self.free.len()
    }

    pub fn put(&mut self, writing: Writing) -> Option<u32> {
        let token = self.free.pop()?;
        *self.table.get_mut(usize::from(token))? = Some(writing);
        Some(u32::from(token))
    }

    pub fn take(&mut self, token: u32) -> Option<Writing> {
        let writing = self.table.get_mut(token as usize)?.take()?;
        self.free.push(token as u16);
        Some(writing)
    }
}
