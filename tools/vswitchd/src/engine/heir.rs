//! Handing over to another daemon when the keeper has died: [`crate::handover`], the predecessor's side. Frames go on
//! being forwarded until the heir has everything.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use super::control::Control;
use super::ports::State;
use super::records::Outcome;
use crate::channel::{AsyncChannel, Channel, ChannelError, MAX_DESCRIPTORS};
use crate::handover::{self, FromHeir, FromPredecessor, Known};
use crate::wire::NetnsRef;

/// An heir must be through by then, or another gets its turn.
const PATIENCE: Duration = Duration::from_secs(30);

/// One message with descriptors that may be in use elsewhere, too.
type Part = (FromPredecessor, Vec<Arc<OwnedFd>>);

/// All that an heir is told.
struct Will {
    offered: Vec<Part>,
    commands: Vec<Part>,
}

/// Why nothing was handed over.
#[derive(Debug, thiserror::Error)]
enum HeirError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("it takes too long")]
    Time,
    #[error("it ended, or does not speak as agreed")]
    Protocol,
}

impl Control {
    /// Someone knocks, now that there is no keeper to answer.
    pub(super) fn on_heir(&mut self, listener: &AsyncFd<OwnedFd>) {
        let channel = match handover::accept(listener.get_ref()) {
            Ok(Some(channel)) => channel,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "someone who wants to take over");
                return;
            }
        };
        self.leases.save(); // the heir reads it
        match self.will(listener.get_ref()) {
            Ok(will) => {
                self.handing_over = true;
                self.jobs.spawn(async move {
                    let conversation = tokio::time::timeout(PATIENCE, hand_over(channel, will)).await;
                    Outcome::HandedOver(match conversation.unwrap_or(Err(HeirError::Time)) {
                        Ok(channel) => Some(channel),
                        Err(error) => {
                            tracing::warn!(%error, "nothing was handed over: this engine goes on");
                            None
                        }
                    })
                });
            }
            Err(error) => tracing::error!(%error, "nothing can be handed over"),
        }
    }

    fn will(&self, handover: &OwnedFd) -> io::Result<Will> {
        let state = switch::sys::netns::identity_of(&self.begin.state)?;
        let netns = switch::sys::netns::current().and_then(switch::sys::netns::identity)?;
        let estate = FromPredecessor::Estate { pid: std::process::id(), state, netns };
        let places = vec![
            Arc::clone(&self.listener),
            Arc::new(handover.try_clone()?),
            Arc::new(handover::own_user_namespace()?),
        ];
        let mut offered = vec![(estate, places)];
        offered.extend(self.memory.clone().map(|memory| (FromPredecessor::Connections, vec![memory])));
        for (_, port) in self.ports.wanted() {
            if let State::Up { info, tap, .. } = &port.state {
                let message = FromPredecessor::Tap { spec: port.spec.clone(), info: info.clone() };
                offered.push((message, vec![Arc::clone(tap)]));
            }
        }
        let mut made: BTreeMap<&str, (Vec<String>, Option<&Arc<OwnedFd>>)> = BTreeMap::new();
        let mut commands = Vec::new();
        for (container, known) in &self.containers {
            let (netns, create) = known.home.clone();
            if let (NetnsRef::Name(name), true) = (&known.home.0, create) {
                let (users, held) = made.entry(name).or_default();
                users.push(container.clone());
                *held = held.or(known.namespace.as_ref());
            }
            let known_as = Known { container: container.clone(), netns, create };
            offered.push((FromPredecessor::Container(known_as), Vec::new()));
            if let Some((running, descriptors)) = &known.process {
                let message =
                    FromPredecessor::Command { container: container.clone(), running: running.clone() };
                commands.push((message, descriptors.clone()));
            }
        }
        for (key, record, sockets) in self.published.listening() {
            for piece in sockets.chunks(MAX_DESCRIPTORS) {
                let sockets = piece.iter().map(|socket| Arc::clone(&socket.fd)).collect();
                offered.push((FromPredecessor::Listening(record.listen(key)), sockets));
            }
        }
        for (name, (users, held)) in made {
            let message = FromPredecessor::Namespace { name: name.to_owned(), users };
            offered.push((message, held.into_iter().cloned().collect()));
        }
        Ok(Will { offered, commands })
    }
}

/// Comes back once the heir has everything; this process must then end, which closes the channel.
async fn hand_over(channel: Channel, will: Will) -> Result<AsyncChannel, HeirError> {
    let channel = AsyncChannel::new(channel).map_err(ChannelError::from)?;
    let Some((FromHeir::Hello { version, .. }, _)) = channel.recv().await? else {
        return Err(HeirError::Protocol);
    };
    if version != handover::VERSION {
        channel.send(&handover::not_understood(version), &[]).await?;
        return Err(HeirError::Protocol);
    }
    tell(&channel, &will.offered).await?;
    channel.send(&FromPredecessor::Offered, &[]).await?;
    let Some((FromHeir::Standing, _)) = channel.recv().await? else { return Err(HeirError::Protocol) };
    tell(&channel, &will.commands).await?;
    channel.send(&FromPredecessor::Yours, &[]).await?;
    match channel.recv().await? {
        Some((FromHeir::Mine, _)) => Ok(channel),
        _ => Err(HeirError::Protocol),
    }
}

async fn tell(channel: &AsyncChannel, parts: &[Part]) -> Result<(), HeirError> {
    for (message, descriptors) in parts {
        let descriptors: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        channel.send(message, &descriptors).await?;
    }
    Ok(())
}
