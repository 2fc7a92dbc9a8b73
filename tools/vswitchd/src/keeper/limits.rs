//! Descriptor limits: a few a port, and 256 ports are nothing special.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one; returns what it was.
pub(super) fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::debug!(%error, "descriptor limit");
    }
    limit.current.unwrap_or(u64::MAX)
}

/// Sets the soft limit, for a program that did not ask for ours.
pub(super) fn restore(soft: u64) {
    let limit = getrlimit(Resource::Nofile);
    let _best_effort = setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: limit.maximum });
}
