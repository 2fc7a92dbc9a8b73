//! The `SOCK_SEQPACKET` pair between keeper and engine: one JSON message a packet, descriptors beside it.
//!
//! The kernel keeps packets whole and ordered, so there is no framing of our own. Both ends treat the other as someone
//! who may be broken: lengths are bounded, surplus descriptors are closed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::wire::MAX_MESSAGE;

/// Most descriptors beside one message.
pub const MAX_DESCRIPTORS: usize = 128;

/// Why a message did not get through.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The kernel's answer; [`io::ErrorKind::WouldBlock`] on a non-blocking end with nothing to do.
    #[error("channel: {0}")]
    Io(#[from] io::Error),
    /// Longer than [`MAX_MESSAGE`].
    #[error("channel: a message of more than {MAX_MESSAGE} bytes")]
    TooLong,
    /// More than [`MAX_DESCRIPTORS`], or some were lost for want of descriptor numbers.
    #[error("channel: too many descriptors")]
    Descriptors,
    /// Not a message of this protocol.
    #[error("channel: {0}")]
    Json(#[from] serde_json::Error),
}

impl ChannelError {
    /// Nothing to read, or no room to write, right now.
    pub fn would_block(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl From<Errno> for ChannelError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// A message that came.
#[derive(Debug)]
pub struct Received<T> {
    /// What it says.
    pub message: T,
    /// What came beside it.
    pub descriptors: Vec<OwnedFd>,
    /// There were more, and no numbers for them.
    pub lost: bool,
}

/// A message ready to be written, once or later.
#[derive(Debug)]
pub struct Outgoing {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Outgoing {
    /// # Errors
    /// [`ChannelError::TooLong`], [`ChannelError::Descriptors`].
    pub fn new(message: &impl Serialize, descriptors: Vec<OwnedFd>) -> Result<Self, ChannelError> {
        Ok(Self { bytes: encode(message, descriptors.len())?, descriptors })
    }
}

fn encode(message: &impl Serialize, descriptors: usize) -> Result<Vec<u8>, ChannelError> {
    let bytes = serde_json::to_vec(message)?;
    match () {
        () if bytes.len() > MAX_MESSAGE => Err(ChannelError::TooLong),
        () if descriptors > MAX_DESCRIPTORS => Err(ChannelError::Descriptors),
        () => Ok(bytes),
    }
}

/// One end of the pair.
///
/// # Threads
/// May be shared; each message is written and read whole, in an order of the kernel's choice between threads.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Two ends, both blocking, both close-on-exec.
    ///
    /// # Errors
    /// What the kernel said.
    ///
    /// # Syscalls
    /// `socketpair`.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), Self(other)))
    }

    /// The end that the parent gave this process as its standard input; standard input itself becomes `/dev/null`.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if standard input is not such a socket.
    ///
    /// # Syscalls
    /// `getsockopt`, `fcntl`, `openat`, `dup2`.
    pub fn from_stdin() -> io::Result<Self> {
        let stdin = io::stdin();
        match rustix::net::sockopt::socket_type(&stdin) {
            Ok(SocketType::SEQPACKET) => {}
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not started by vswitchd")),
        }
        let end = rustix::io::fcntl_dupfd_cloexec(&stdin, 3)?;
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        Ok(Self(end))
    }

    /// Reads and writes fail with [`io::ErrorKind::WouldBlock`] instead of waiting.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, on)?)
    }

    /// Writes one message; the descriptors are duplicated into it.
    ///
    /// # Errors
    /// [`ChannelError`]; `EPIPE` when the other end is gone.
    ///
    /// # Syscalls
    /// `sendmsg`.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.write(&encode(message, descriptors.len())?, descriptors)
    }

    /// Writes one prepared message.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send_prepared(&self, message: &Outgoing) -> Result<(), ChannelError> {
        let descriptors: Vec<_> = message.descriptors.iter().map(AsFd::as_fd).collect();
        self.write(&message.bytes, &descriptors)
    }

    fn write(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(ChannelError::Descriptors);
        }
        loop {
            match sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(_) => return Ok(()), // a packet goes whole or not at all
            }
        }
    }

    /// Reads one message with its descriptors (close-on-exec); `None` when the other end is closed.
    ///
    /// # Errors
    /// [`ChannelError`]; the message it concerns is consumed, except on [`ChannelError::Io`].
    ///
    /// # Syscalls
    /// `recvmsg`.
    pub fn recv<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        match self.recv_what_fits()? {
            Some(Received { lost: true, .. }) => Err(ChannelError::Descriptors),
            received => Ok(received.map(|received| (received.message, received.descriptors))),
        }
    }

    /// The same, and a message is one though this process had no numbers left for all of its descriptors: whoever sent it
    /// waits for an answer.
    ///
    /// # Errors
    /// Those of [`Channel::recv`], but for that.
    ///
    /// # Syscalls
    /// `recvmsg`.
    pub fn recv_what_fits<T: DeserializeOwned>(&self) -> Result<Option<Received<T>>, ChannelError> {
        let mut bytes = vec![0u8; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let read = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None), // it went away without reading our last words
                Err(errno) => return Err(errno.into()),
                Ok(read) => break read,
            }
        };
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if read.flags.contains(ReturnFlags::TRUNC) {
            return Err(ChannelError::TooLong);
        }
        let lost = read.flags.contains(ReturnFlags::CTRUNC);
        match bytes.get(..read.bytes) {
            None | Some([]) => Ok(None), // we never write an empty packet
            Some(text) => Ok(Some(Received { message: serde_json::from_slice(text)?, descriptors, lost })),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

/// One end inside a tokio runtime.
///
/// # Threads
/// May be shared between tasks.
#[derive(Debug)]
pub struct AsyncChannel(AsyncFd<Channel>);

impl AsyncChannel {
    /// Makes the end non-blocking and hands it to the current runtime.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(channel: Channel) -> io::Result<Self> {
        channel.set_nonblocking(true)?;
        #[expect(
            deprecated,
            reason = "`register` is unsafe; what it asks for holds: a Channel owns one descriptor for life"
        )]
        let registered = AsyncFd::new(channel)?;
        Ok(Self(registered))
    }

    /// As [`Channel::send`]. Waits for room.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let bytes = encode(message, descriptors.len())?;
        self.when(Interest::WRITABLE, |channel| channel.write(&bytes, descriptors)).await
    }

    /// As [`Channel::recv`]. Waits for a message; nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn recv<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        self.when(Interest::READABLE, Channel::recv).await
    }

    /// As [`Channel::recv_what_fits`]. Waits for a message; nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn recv_what_fits<T: DeserializeOwned>(&self) -> Result<Option<Received<T>>, ChannelError> {
        self.when(Interest::READABLE, Channel::recv_what_fits).await
    }

    async fn when<T>(
        &self,
        interest: Interest,
        mut attempt: impl FnMut(&Channel) -> Result<T, ChannelError>,
    ) -> Result<T, ChannelError> {
        loop {
            let mut guard = self.0.ready(interest).await?;
            match attempt(self.0.get_ref()) {
                Err(error) if error.would_block() => guard.clear_ready(),
                answer => return answer,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Op, ToEngine, ToKeeper};
    use proptest::prelude::*;
    use std::fs::File;
    use std::io::Read;

    #[test]
    fn a_message_carries_its_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        let memory = switch::sys::fds::memory_file("test", b"text").unwrap();
        one.send(&ToEngine::Reload, &[memory.as_fd()]).unwrap();
        one.send_prepared(&Outgoing::new(&ToEngine::Shutdown, vec![]).unwrap()).unwrap();
        let (message, mut descriptors) = other.recv::<ToEngine>().unwrap().unwrap();
        assert_eq!(message, ToEngine::Reload);
        let mut text = String::new();
        File::from(descriptors.pop().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        assert_eq!(other.recv::<ToEngine>().unwrap().unwrap().0, ToEngine::Shutdown);
        drop(one);
        assert!(other.recv::<ToEngine>().unwrap().is_none());
    }

    #[test]
    fn limits_hold_on_both_sides() {
        let (one, other) = Channel::pair().unwrap();
        let long = ToKeeper::Fatal { reason: "x".repeat(MAX_MESSAGE) };
        assert!(matches!(one.send(&long, &[]), Err(ChannelError::TooLong)));
        rustix::net::send(&one, &vec![b' '; MAX_MESSAGE + 1], SendFlags::empty()).unwrap();
        assert!(matches!(other.recv::<ToKeeper>(), Err(ChannelError::TooLong)));
        let fds = [one.as_fd(); MAX_DESCRIPTORS + 1];
        assert!(matches!(one.send(&ToEngine::Reload, &fds), Err(ChannelError::Descriptors)));
        other.set_nonblocking(true).unwrap();
        assert!(other.recv::<ToKeeper>().unwrap_err().would_block());
    }

    #[test]
    fn an_async_end_waits_for_the_other() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let (one, other) = Channel::pair().unwrap();
            let (one, other) = (AsyncChannel::new(one).unwrap(), AsyncChannel::new(other).unwrap());
            let request = ToKeeper::Request { id: 7, op: Op::ReadConfig };
            let (sent, received) = tokio::join!(one.send(&request, &[]), other.recv::<ToKeeper>());
            sent.unwrap();
            assert_eq!(received.unwrap().unwrap().0, request);
        });
    }

    proptest! {
        #[test]
        fn any_packet_is_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
            let (one, other) = Channel::pair().unwrap();
            rustix::net::send(&one, &bytes, SendFlags::empty()).unwrap();
            let _ = other.recv::<ToKeeper>().map(|message| assert!(message.is_some()));
            one.send(&ToEngine::Reload, &[]).unwrap();
            prop_assert_eq!(other.recv::<ToEngine>().unwrap().unwrap().0, ToEngine::Reload);
        }
    }
}
