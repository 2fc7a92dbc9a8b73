//! The engine's process: started, spoken to, started again.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::bounded;
use super::post::{Post, Received};
use crate::channel::{Channel, ChannelError};
use crate::wire::ToKeeper;

/// This many deaths within [`WINDOW`] are bad luck; more are a fault, and starting it again at once would only burn.
const LUCK: usize = 5;
const WINDOW: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A running engine.
#[derive(Debug)]
pub(super) struct Engine {
    child: Child,
    /// Readable when it has ended.
    end: OwnedFd,
    post: Post,
    /// It closed its end: it is ending, or of no use any more.
    pub(super) kill_at: Option<Instant>,
    /// Which one it is: answers to its predecessor's requests are not for it.
    pub(super) generation: u32,
}

impl Engine {
    /// Starts `vswitchd ARGUMENTS`, its end of the channel as standard input.
    pub(super) fn start(arguments: &[OsString], generation: u32) -> io::Result<Self> {
        let (ours, theirs) = Channel::pair()?;
        let post = Post::new(ours)?;
        let mut command = Command::new("/proc/self/exe");
        command
            .args(arguments)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .env_remove("NOTIFY_SOCKET");
        // In a group of its own: Ctrl-C is for the keeper, which tells the engine.
        let (child, end) = bounded::start(&mut command)?;
        Ok(Self { child, end, post, kill_at: None, generation })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn channel(&self) -> BorrowedFd<'_> {
        self.post.as_fd()
    }

    pub(super) fn end(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }

    pub(super) fn wants_to_write(&self) -> bool {
        self.post.wants_to_write()
    }

    /// Sends now or, if there is no room, later.
    pub(super) fn send(&mut self, message: &impl Serialize, descriptors: Vec<OwnedFd>) {
        let sent = self.post.send(message, descriptors);
        self.check(sent);
    }

    pub(super) fn flush(&mut self) {
        let flushed = self.post.flush();
        self.check(flushed);
    }

    fn check(&mut self, written: Result<(), ChannelError>) {
        match written {
            // It has closed its end, which is an event of its own.
            Err(ChannelError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Ok(()) => {}
            // What was too long was not said; the rest goes on.
            Err(error @ (ChannelError::TooLong | ChannelError::Descriptors | ChannelError::Json(_))) => {
                tracing::error!(%error, "message to the engine");
            }
            Err(error) => {
                // What it did not hear it would wait for; its successor asks again.
                tracing::error!(%error, "the engine cannot be told: killed");
                self.kill();
            }
        }
    }

    /// The next message, if there is one.
    pub(super) fn receive(&self) -> Received<ToKeeper> {
        self.post.receive()
    }

    /// Deaf and dumb: it has until then to end by itself.
    pub(super) fn expect_end(&mut self, by: Instant) {
        self.post.clear();
        self.kill_at.get_or_insert(by);
    }

    pub(super) fn on_time(&mut self, now: Instant) {
        if self.kill_at.is_some_and(|at| at <= now) {
            tracing::warn!(pid = self.pid(), "the engine closed its channel and does not end: killed");
            self.kill();
            self.kill_at = Some(now + LONGEST_PAUSE);
        }
    }

    pub(super) fn kill(&mut self) {
        if let Err(error) = self.child.kill() {
            tracing::warn!(%error, "killing the engine");
        }
    }

    /// To be called when it has ended.
    pub(super) fn reap(mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

/// How often the engine has died lately.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    recent: VecDeque<Instant>,
    pause: Duration,
}

impl Deaths {
    /// Counts one and tells how long to wait before the next start: not at all, unless they pile up.
    pub(super) fn count(&mut self, now: Instant) -> Duration {
        self.recent.retain(|&death| now.saturating_duration_since(death) < WINDOW);
        self.recent.push_back(now);
        self.pause = if self.recent.len() <= LUCK {
            Duration::ZERO
        } else {
            self.pause.saturating_mul(2).clamp(Duration::from_secs(1), LONGEST_PAUSE)
        };
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_piling_deaths_are_waited_for() {
        let mut deaths = Deaths::default();
        let start = Instant::now();
        let seconds =
            |deaths: &mut Deaths, at: f32| deaths.count(start + Duration::from_secs_f32(at)).as_secs();
        let first: Vec<_> = (0..7).map(|n| seconds(&mut deaths, n as f32 * 0.1)).collect();
        assert_eq!(first, [0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(seconds(&mut deaths, 30.0), 0);
        assert_eq!(seconds(&mut deaths, 60.0), 0);
    }
}
