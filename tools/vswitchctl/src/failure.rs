//! Everything that can go wrong, its one line and its exit code.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use vswitchd::api::ErrorBody;

use crate::output::escape;

/// Single faults shown in the one line; the rest is counted.
const DETAILS: usize = 20;

/// Why the command was not done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line.
    #[error("{0}")]
    Usage(String),
    /// A file named on the command line.
    #[error("cannot read {}: {}", .path.display(), reason(.source))]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A configuration that the daemon would not take.
    #[error("{} is longer than {most} bytes", .path.display())]
    FileTooLong {
        /// Which.
        path: PathBuf,
        /// How long it may be.
        most: u64,
    },
    /// No runtime: out of descriptors.
    #[error("cannot start: {}", reason(.0))]
    Start(io::Error),
    /// The socket.
    #[error("cannot reach vswitchd at {}: {}; {}", .path.display(), reason(.source), hint(.source))]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The process behind the default socket is not to be trusted.
    #[error("{} belongs to user id {uid}, neither root nor you; name it with --socket if it is right", .path.display())]
    Stranger {
        /// Where.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// The daemon takes too long.
    #[error("vswitchd at {} does not answer", .0.display())]
    Silent(PathBuf),
    /// The connection ended before the answer did.
    #[error("the connection to vswitchd at {} broke: {why}", .path.display())]
    Broken {
        /// Where.
        path: PathBuf,
        /// The other side ended before it answered.
        unheard: bool,
        /// What happened.
        why: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It answered, but not as ours does.
    #[error("what listens at {} does not answer as vswitchd does: {why}", .path.display())]
    Foreign {
        /// Where.
        path: PathBuf,
        /// What is wrong with the answer.
        why: serde_json::Error,
    },
    /// The daemon said no.
    #[error("{}", no(.0))]
    Refused(ErrorBody),
    /// A filter asks for what is not there.
    #[error("no {what} `{name}`: `vswitchctl show {what}s` lists those there are")]
    Unknown {
        /// A network, or a container.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The daemon said no, and not why.
    #[error("vswitchd answered {0}")]
    Status(hyper::StatusCode),
    /// Standard output.
    #[error("cannot write: {}", reason(.0))]
    Output(io::Error),
    /// Into the container.
    #[error(transparent)]
    Enter(vswitchd::keeper::EnterError),
    /// The command in the container.
    #[error("cannot run {program}: {}", reason(.source))]
    Exec {
        /// Which.
        program: String,
        /// Why not.
        source: io::Error,
    },
}

impl Failure {
    /// The exit code: 1 the daemon said no, 2 usage, 3 not reachable; for `exec` 126 and 127 as shells have them.
    pub fn code(&self) -> u8 {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Refused(_) | Self::Unknown { .. } | Self::Status(_) | Self::Output(_) | Self::Enter(_) => 1,
            Self::Usage(_) | Self::File { .. } | Self::FileTooLong { .. } => 2,
            Self::Start(_)
            | Self::Connect { .. }
            | Self::Stranger { .. }
            | Self::Silent(_)
            | Self::Broken { .. }
            | Self::Foreign { .. } => 3,
            Self::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Exec { .. } => 126,
        }
    }

    /// Says it on stderr, in one line; a reader that went away (`| head`) is not worth a word.
    pub fn report(&self) -> ExitCode {
        let code = self.code();
        if code != 0 {
            let line = format!("vswitchctl: {}\n", escape(&self.to_string()));
            // Nobody left to tell.
            let _ = io::stderr().write_all(line.as_bytes());
        }
        ExitCode::from(code)
    }

    /// The failure to connect to `path`.
    pub fn connect(path: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        // unix(7): a full backlog makes connect wait, up to SO_SNDTIMEO.
        if source.kind() == io::ErrorKind::WouldBlock {
            return Self::Silent(path.to_owned());
        }
        Self::Connect { path: path.to_owned(), source }
    }
}

/// The kernel's words without the number that std puts behind them.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error ").map_or(text.clone(), |(words, _)| words.to_owned())
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "does it run as another user?",
        _ => "is it running?",
    }
}

fn no(body: &ErrorBody) -> String {
    let mut line = body.error.clone();
    for (number, detail) in body.details.iter().take(DETAILS).enumerate() {
        line.push_str(if number == 0 { ": " } else { "; " });
        line.push_str(detail);
    }
    let more = body.details.len().saturating_sub(DETAILS);
    if more > 0 {
        line.push_str(&format!("; and {more} more"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_faults_are_one_line() {
        let body = |count| ErrorBody {
            error: "lab.toml refused".into(),
            details: (1..=count).map(|n| format!("lab.toml:{n}:1: x")).collect(),
        };
        assert_eq!(no(&body(0)), "lab.toml refused");
        assert_eq!(no(&body(2)), "lab.toml refused: lab.toml:1:1: x; lab.toml:2:1: x");
        assert!(no(&body(25)).ends_with("lab.toml:20:1: x; and 5 more"));
    }
}
