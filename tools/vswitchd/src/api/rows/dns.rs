//! The name server, as `show status` has it.

use serde::{Deserialize, Serialize};

/// The name server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsStatus {
    /// The host's resolvers that others than our own names are asked of, `address:port`, in order.
    pub resolvers: Vec<String>,
    /// What it did.
    pub counts: DnsCounts,
}

/// Questions, since the engine began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsCounts {
    /// By UDP.
    pub udp: u64,
    /// By TCP.
    pub tcp: u64,
    /// Answered from names of ours.
    pub answered: u64,
    /// Asked of the host's resolvers.
    pub forwarded: u64,
    /// Of these, answered by none.
    pub failed: u64,
    /// Not answered: the host names no resolver.
    pub no_resolver: u64,
    /// Refused: nothing that may be asked here, or by a network that has no way out.
    pub refused: u64,
    /// Not answered: the container, or all, have too many questions or connections under way.
    pub over_quota: u64,
    /// What was no question.
    pub malformed: u64,
}
