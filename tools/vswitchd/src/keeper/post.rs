//! One end of a conversation that never makes the keeper wait: what there is no room for is sent later.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::channel::{Channel, ChannelError, Outgoing};

#[derive(Debug)]
pub(super) struct Post {
    channel: Channel,
    /// What there was no room for yet.
    queue: VecDeque<Outgoing>,
}

/// What there is to hear.
#[derive(Debug)]
pub(super) enum Received<T> {
    Message(T, Vec<OwnedFd>),
    Garbage,
    Nothing,
    Closed,
}

impl Post {
    pub(super) fn new(channel: Channel) -> io::Result<Self> {
        channel.set_nonblocking(true)?;
        Ok(Self { channel, queue: VecDeque::new() })
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Sends now or, if there is no room, at a later [`Post::flush`].
    pub(super) fn send(
        &mut self,
        message: &impl Serialize,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), ChannelError> {
        self.queue.push_back(Outgoing::new(message, descriptors)?);
        self.flush()
    }

    /// On an error what was queued is lost. `EPIPE`: the other side has closed its end.
    pub(super) fn flush(&mut self) -> Result<(), ChannelError> {
        while let Some(outgoing) = self.queue.front() {
            match self.channel.send_prepared(outgoing) {
                Ok(()) => {
                    self.queue.pop_front();
                }
                Err(error) if error.would_block() => return Ok(()),
                Err(error) => {
                    self.queue.clear();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// What was not sent yet is not said any more.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }

    /// The next message, if there is one.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> Received<T> {
        match self.channel.recv() {
            Ok(Some((message, descriptors))) => Received::Message(message, descriptors),
            Ok(None) => Received::Closed,
            Err(error) if error.would_block() => Received::Nothing,
            Err(ChannelError::Io(error)) => {
                tracing::debug!(%error, "channel");
                Received::Closed
            }
            Err(error) => {
                tracing::error!(%error, "what was said is no message");
                Received::Garbage
            }
        }
    }
}

impl AsFd for Post {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
