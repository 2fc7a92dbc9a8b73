//! What can go wrong while measuring, in words that say what was asked and what came back.

use std::io;
use std::time::Duration;

/// Result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces, TAPs and bridges of the race need privileges.
    #[error(
        "`bench {command}` makes network namespaces, TAPs and bridges: run it as root (this is uid {uid})"
    )]
    NeedRoot {
        /// The subcommand that was asked for.
        command: &'static str,
        /// Effective user id.
        uid: u32,
    },
    /// SIGINT or SIGTERM; what was made is removed on the way out.
    #[error("interrupted; namespaces and processes are removed")]
    Interrupted,
    /// The kernel refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was asked of it.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// A program ended with a failure.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Exit code or signal.
        status: String,
        /// The end of what it said.
        stderr: String,
    },
    /// Something that should be there is not.
    #[error("{what} {hint}")]
    Missing {
        /// What.
        what: String,
        /// Where it was looked for, or how to get it.
        hint: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {limit:?}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// `--check` was asked for.
    #[error("{count} of the bars are missed or could not be judged: see the table")]
    BarsUnmet {
        /// How many.
        count: usize,
    },
    /// A program answered something that makes no sense to us.
    #[error("{who} answered what we cannot use: {detail}")]
    Answer {
        /// The program.
        who: &'static str,
        /// What is wrong with it.
        detail: String,
    },
}

impl Error {
    /// An [`Error::Io`] out of anything that converts to one, for `map_err`.
    pub fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |error| Self::Io { what, source: error.into() }
    }
}
