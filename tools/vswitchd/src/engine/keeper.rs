//! The engine's side of the conversation with the keeper: numbered requests, answers in any order.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use switch::sys::fds::memory_file;
use tokio::sync::oneshot;

use crate::api::rows::CommandState;
use crate::channel::{AsyncChannel, Channel, ChannelError, Received};
use crate::wire::{Answer, Op, Refusal, RefusalKind, Running, ToEngine, ToKeeper};

/// An answer, its descriptors, and whether there were more of these than numbers for them.
type Reply = (Result<Answer, Refusal>, Vec<OwnedFd>, bool);

/// The keeper, as the engine sees it.
///
/// # Threads
/// Shared between tasks; requests wait in a concurrent map until their answer comes.
pub struct Keeper {
    channel: AsyncChannel,
    /// Requests are written in the order in which they were made, also when the socket is full: this lock is fair.
    order: tokio::sync::Mutex<()>,
    waiting: DashMap<u64, oneshot::Sender<Reply>>,
    next: AtomicU64,
}

/// What the keeper says unasked.
#[derive(Debug)]
pub enum Notice {
    /// Read the configuration again.
    Reload,
    /// End.
    Shutdown,
    /// The same, for another daemon that goes on with what is ours.
    MakeWay,
    /// State of a container's command.
    Command {
        /// The container.
        container: String,
        /// What it does.
        state: CommandState,
        /// If it runs: what, with its descriptors.
        process: Option<(Running, Vec<Arc<OwnedFd>>)>,
    },
    /// The keeper died: forward on, but nothing new can be attached.
    Lost,
}

impl Keeper {
    /// A client on this end of the pair.
    ///
    /// # Errors
    /// When the descriptor cannot be polled.
    pub fn new(channel: Channel) -> io::Result<Self> {
        Ok(Self {
            channel: AsyncChannel::new(channel)?,
            order: tokio::sync::Mutex::new(()),
            waiting: DashMap::new(),
            next: AtomicU64::new(1),
        })
    }

    /// Says something that has no answer.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub async fn tell(&self, message: &ToKeeper) -> Result<(), ChannelError> {
        let _turn = self.order.lock().await;
        self.channel.send(message, &[]).await
    }

    /// Hands over the text of the configuration that runs now: what the next engine begins with.
    ///
    /// # Errors
    /// When the keeper is gone, or there is no memory file to be had.
    pub async fn keep(&self, text: &[u8]) -> Result<(), ChannelError> {
        let file = memory_file("configuration", text)?;
        self.channel.send(&ToKeeper::Keep, &[file.as_fd()]).await
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the keeper refused, or that it is gone.
    pub async fn ask(&self, op: Op) -> Result<(Answer, Vec<OwnedFd>), Refusal> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting.insert(id, sender);
        let asked = op.clone();
        if let Err(error) = self.tell(&ToKeeper::Request { id, op }).await {
            self.waiting.remove(&id);
            return Err(gone(error.to_string()));
        }
        match receiver.await {
            Ok((Ok(_), _, true)) => {
                // What we cannot hold is not to stay there as if we did.
                if let Op::Attach(spec) = asked {
                    let op = Op::Detach { container: spec.container, ifname: spec.ifname };
                    let id = self.next.fetch_add(1, Ordering::Relaxed);
                    let _ = self.tell(&ToKeeper::Request { id, op }).await;
                }
                Err(no_numbers())
            }
            Ok((result, fds, _)) => result.map(|answer| (answer, fds)),
            Err(_) => Err(gone("it ended".into())),
        }
    }

    /// Delivers answers to those who wait for them until the keeper says something unasked.
    pub async fn listen(&self) -> Notice {
        loop {
            let (message, fds, lost) = match self.channel.recv_what_fits().await {
                Ok(Some(Received { message, descriptors, lost })) => (message, descriptors, lost),
                Err(ChannelError::Json(error)) => {
                    tracing::error!(%error, "unreadable message from the keeper");
                    continue;
                }
                Ok(None) | Err(_) => {
                    self.waiting.clear();
                    return Notice::Lost;
                }
            };
            match message {
                ToEngine::Reply { id, result } => {
                    if let Some((_, sender)) = self.waiting.remove(&id) {
                        // A task that gave up does not want the answer; its descriptors close here.
                        let _ = sender.send((result, fds, lost));
                    }
                }
                ToEngine::Command { container, state, running } => {
                    let process = running.map(|running| (running, fds.into_iter().map(Arc::new).collect()));
                    return Notice::Command { container, state, process };
                }
                ToEngine::Reload => return Notice::Reload,
                ToEngine::Shutdown => return Notice::Shutdown,
                ToEngine::MakeWay => return Notice::MakeWay,
                ToEngine::Adopt { .. }
                | ToEngine::Known(_)
                | ToEngine::Listening(_)
                | ToEngine::Begin(_)
                | ToEngine::Go => {
                    tracing::error!("the keeper began twice")
                }
            }
        }
    }
}

fn no_numbers() -> Refusal {
    Refusal {
        kind: RefusalKind::Failed,
        asked: "take a descriptor from the keeper".into(),
        answer: "Too many open files (EMFILE)".into(),
        help: Some("raise the limit of open files (ulimit -n) and start vswitchd again".into()),
    }
}

fn gone(answer: String) -> Refusal {
    Refusal {
        kind: RefusalKind::Failed,
        asked: "ask the keeper process".into(),
        answer,
        help: Some("start vswitchd again".into()),
    }
}
