//! Word between workers: that something was found for which another of them may be waiting.
//!
//! A packet that waits for a neighbour is held by the worker that read it; the neighbour's answer is read by whichever
//! worker has the neighbour's port. What was found is in a table that all of them read. What is here is the nudge to look
//! there again, and the promise that it is never missed: who waits says so and then looks once more, who finds writes and
//! then asks who waits. Neither waits for the other.

use std::sync::Arc;

use crate::mailbox::Mailbox;
use crate::sync::{AtomicU64, Ordering, fence};

/// The nudges of all workers.
///
/// # Threads
/// Shared; each worker calls it with its own number. Nothing blocks.
pub struct News {
    places: Box<[(Flags, Arc<Mailbox>)]>,
}

impl News {
    /// Between the workers that have these mailboxes.
    pub fn between(mailboxes: impl IntoIterator<Item = Arc<Mailbox>>) -> Self {
        Self { places: mailboxes.into_iter().map(|mailbox| (Flags::default(), mailbox)).collect() }
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.places.len()
    }

    /// Worker `me` waits from now on. It must look once more whether what it waits for is there.
    pub fn wait(&self, me: usize) {
        if let Some((flags, _)) = self.places.get(me) {
            flags.wait();
        }
    }

    /// Worker `me` waits for nothing any more.
    pub fn rest(&self, me: usize) {
        if let Some((flags, _)) = self.places.get(me) {
            flags.rest();
        }
    }

    /// Worker `me` has put something where all can see it: those who wait are woken to look.
    ///
    /// # Syscalls
    /// `write` to an eventfd for each that waits.
    pub fn found(&self, me: usize) {
        for (index, (flags, mailbox)) in self.places.iter().enumerate() {
            if index != me && flags.found() {
                mailbox.wake();
            }
        }
    }

    /// Whether something was found since worker `me` asked last.
    #[inline]
    pub fn take(&self, me: usize) -> bool {
        self.places.get(me).is_some_and(|(flags, _)| flags.take())
    }
}

/// What concerns one worker.
struct Flags {
    waits: AtomicU64,
    news: AtomicU64,
}

impl Default for Flags {
    fn default() -> Self {
        Self { waits: AtomicU64::new(0), news: AtomicU64::new(0) }
    }
}

impl Flags {
    fn wait(&self) {
        self.waits.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst); // before it looks once more; see `found`
    }

    fn rest(&self) {
        self.waits.store(0, Ordering::Relaxed);
    }

    /// Whether the worker must be woken.
    fn found(&self) -> bool {
        fence(Ordering::SeqCst); // what was found was written: either it is seen by who looks, or `waits` is seen here
        let waits = self.waits.load(Ordering::Relaxed) != 0;
        if waits {
            self.news.store(1, Ordering::Release);
        }
        waits
    }

    #[inline]
    fn take(&self) -> bool {
        self.news.load(Ordering::Relaxed) != 0 && self.news.swap(0, Ordering::AcqRel) != 0
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// Whatever the order, who waits either sees it when it looks once more, or is told to look again.
    #[test]
    fn nothing_that_is_found_is_missed() {
        loom::model(|| {
            let flags = Arc::new(Flags::default());
            let table = Arc::new(AtomicU64::new(0));
            let finder = {
                let (flags, table) = (flags.clone(), table.clone());
                thread::spawn(move || {
                    table.store(1, Ordering::Relaxed);
                    flags.found()
                })
            };
            flags.wait();
            let seen = table.load(Ordering::Relaxed) == 1;
            let told = finder.join().unwrap();
            assert!(seen || told);
            assert_eq!(flags.take(), told);
            if told {
                assert_eq!(table.load(Ordering::Relaxed), 1);
            }
        });
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn those_who_wait_are_told_once_and_nobody_else() {
        let mailboxes: Vec<_> = (0..3).map(|_| Arc::new(Mailbox::new(1).unwrap())).collect();
        let news = News::between(mailboxes);
        news.found(0);
        assert!(!news.take(1), "it did not wait");
        news.wait(1);
        news.found(1);
        assert!(!news.take(1), "who found it knows");
        news.found(0);
        assert!(news.take(1) && !news.take(1) && !news.take(2));
        news.rest(1);
        news.found(2);
        assert!(!news.take(1));
    }
}
