//! Taking over from another daemon: [`crate::handover`], the heir's side from its engine on.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Keeper;
use crate::handover::{FromHeir, FromPredecessor, Known};
use crate::keeper::engine::Engine;
use crate::keeper::inheritance::Predecessor;
use crate::keeper::listen::Listeners;
use crate::keeper::post::Received;
use crate::wire::{Refusal, RefusalKind, ToEngine, ToKeeper};

/// For an engine to read its configuration and make its tables.
const ENGINE: Duration = Duration::from_secs(20);
/// For a predecessor to be gone once everything is ours.
const PREDECESSOR: Duration = Duration::from_secs(2);

impl Keeper {
    /// Takes over. The TAPs are in the host already; on an error nothing has happened, and the caller ends without
    /// removing anything.
    pub(in crate::keeper) fn take_over(
        &mut self,
        predecessor: &Predecessor,
        containers: &[Known],
        listeners: Listeners,
    ) -> Result<(), Refusal> {
        let asked = "take over";
        self.listeners = listeners;
        for known in containers {
            self.refer(&known.container, &known.netns, known.create);
        }
        let mut engine = self
            .try_start_engine(Some(containers))
            .map_err(|error| Refusal::new(RefusalKind::Failed, asked, format!("the engine: {error}")))?;
        let taken = stand(&mut engine, predecessor).and_then(|()| self.receive_all(predecessor));
        if let Err(refusal) = taken {
            engine.kill();
            if let Err(error) = engine.reap() {
                tracing::debug!(%error, "the engine that was not needed");
            }
            return Err(refusal);
        }
        tracing::info!(from = predecessor.pid, engine = engine.pid(), "took over");
        self.starts = self.starts.saturating_add(1);
        self.restart_at = None;
        engine.send(&ToEngine::Go, Vec::new());
        self.engine = Some(engine);
        let states: Vec<_> = self.commands.states().collect();
        for (container, state) in states {
            self.tell_of_command(container, state);
        }
        Ok(())
    }

    /// From "I stand" to "it is mine".
    fn receive_all(&mut self, predecessor: &Predecessor) -> Result<(), Refusal> {
        predecessor.say(&FromHeir::Standing)?;
        loop {
            match predecessor.hear()? {
                (FromPredecessor::Command { container, running }, descriptors) => {
                    if let Err(error) = self.commands.adopt(&container, running, descriptors) {
                        tracing::error!(container, %error, "its command cannot be taken over");
                    }
                }
                (FromPredecessor::Yours, _) => break,
                _ => return Err(Refusal::new(RefusalKind::Failed, "take over", "not as agreed")),
            }
        }
        predecessor.say(&FromHeir::Mine)?;
        // From here on there is no way back. The end of the conversation says that nobody else serves the sockets.
        match predecessor.has_something_to_say(PREDECESSOR) {
            Ok(true) => {}
            _ => tracing::warn!(pid = predecessor.pid, "the vswitchd from which we took over does not end"),
        }
        Ok(())
    }
}

/// Waits until the engine stands by.
fn stand(engine: &mut Engine, predecessor: &Predecessor) -> Result<(), Refusal> {
    let failed = |answer: String| Refusal::new(RefusalKind::Failed, "take over", answer);
    let deadline = Instant::now() + ENGINE;
    loop {
        engine.flush();
        match engine.receive() {
            Received::Message(ToKeeper::Standing, _) => return Ok(()),
            Received::Message(ToKeeper::Fatal { reason }, _) => return Err(failed(reason)),
            Received::Message(other, _) => {
                tracing::debug!(?other, "the engine, too early");
                continue;
            }
            Received::Closed => return Err(failed("the new engine ended".into())),
            Received::Garbage | Received::Nothing => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(failed("the new engine is not ready".into()));
        }
        let writing = if engine.wants_to_write() { PollFlags::OUT } else { PollFlags::empty() };
        let mut set = [
            PollFd::from_borrowed_fd(engine.channel(), PollFlags::IN | writing),
            PollFd::from_borrowed_fd(predecessor.as_fd(), PollFlags::IN),
        ];
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut set, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Refusal::of_errno("take over", errno)),
        }
        let [_, theirs] = set;
        if !theirs.revents().is_empty() {
            // It has nothing to say now: it ended, or refuses.
            return Err(predecessor
                .hear()
                .map_or_else(|refusal| refusal, |_| failed("not as agreed".into())));
        }
    }
}
