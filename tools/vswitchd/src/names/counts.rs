//! What the name server did, for `show stats`.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::api::rows::DnsCounts;

/// Counters.
#[derive(Debug, Default)]
pub struct Counts {
    /// Questions by UDP.
    pub udp: Count,
    /// Questions by TCP.
    pub tcp: Count,
    /// Answered from names of ours.
    pub answered: Count,
    /// Asked of the host's resolvers.
    pub forwarded: Count,
    /// Asked of them, and none answered.
    pub failed: Count,
    /// The host has no resolvers.
    pub no_resolver: Count,
    /// Nothing that may be asked here.
    pub refused: Count,
    /// The container has too many questions, or connections, under way; or all have.
    pub over_quota: Count,
    /// Makes no sense.
    pub malformed: Count,
}

/// One of them.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counts {
    /// All of them, as of now.
    pub fn row(&self) -> DnsCounts {
        DnsCounts {
            udp: self.udp.get(),
            tcp: self.tcp.get(),
            answered: self.answered.get(),
            forwarded: self.forwarded.get(),
            failed: self.failed.get(),
            no_resolver: self.no_resolver.get(),
            refused: self.refused.get(),
            over_quota: self.over_quota.get(),
            malformed: self.malformed.get(),
        }
    }
}
