//! One daemon takes over from another: what they say to each other, on a socket beside the control socket.
//!
//! ```text
//! heir                       predecessor
//! Hello          ->                          asks; the predecessor changes nothing from here on
//!                <-          Estate, Tap*, Namespace*, Listening*, Offered
//! (starts its engine, which reads the configuration and stands by)
//! Standing       ->                          the predecessor's engine ends
//!                <-          Command*, Yours
//! Mine           ->                          the predecessor ends, and removes nothing
//! ```
//!
//! Until `Mine` the predecessor can go on as if nothing had happened, and does when the conversation ends. The
//! predecessor is the keeper; where the keeper died, its engine, which holds the same socket and duplicates of all that
//! traffic needs.
//!
//! One JSON message a packet, descriptors beside it, as in [`crate::wire`]. [`VERSION`] is raised only by a change that
//! the other side would misunderstand; what is new and may be missing is `#[serde(default)]`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{SocketFlags, accept_with, sockopt};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::channel::Channel;
use crate::wire::{AttachInfo, AttachSpec, Listen, NetnsRef, Refusal, Running};

/// Version of this conversation.
pub const VERSION: u32 = 1;

/// What the heir says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FromHeir {
    /// First of all. This message stays as it is for ever.
    Hello {
        /// Its [`VERSION`].
        version: u32,
        /// The user asked for it (`--take-over`). Who did not gets only what a dead keeper left.
        asked: bool,
    },
    /// Its engine stands by.
    Standing,
    /// It has everything.
    Mine,
}

/// What the predecessor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FromPredecessor {
    /// No. This message stays as it is for ever.
    Refused(Refusal),
    /// The first part. Descriptors: listening control socket, listening hand-over socket, user namespace, and, from a
    /// keeper, the state folder with its lock.
    Estate {
        /// Process id of the keeper, or of the engine that it left.
        pid: u32,
        /// Device and inode number of the state folder.
        state: (u64, u64),
        /// The same of its network namespace.
        netns: (u64, u64),
    },
    /// The memory file of connections.
    Connections,
    /// An interface, with its TAP.
    Tap {
        /// As it was asked for.
        spec: AttachSpec,
        /// As it turned out.
        info: AttachInfo,
    },
    /// A namespace that was made by name, with its descriptor where it is held by one.
    Namespace {
        /// Its name.
        name: String,
        /// Containers for which it was made.
        users: Vec<String>,
    },
    /// A container, whether or not it has interfaces.
    Container(Known),
    /// Published l4 ports of the host, with their sockets in order; what does not fit one message follows in the next.
    Listening(Listen),
    /// That was all that is not in motion.
    Offered,
    /// A command that runs, with the descriptors of [`Running`].
    Command {
        /// The container in which it runs.
        container: String,
        /// What runs.
        running: Running,
    },
    /// Nothing happens here any more: take it.
    Yours,
}

/// A container that a daemon knows of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its name.
    pub container: String,
    /// Where its namespace is.
    pub netns: NetnsRef,
    /// Whether that is to be made.
    pub create: bool,
}

/// The next who wants to talk; `None`: nobody, or nobody who may.
///
/// # Errors
/// What the kernel said, other than that nobody is there.
///
/// # Syscalls
/// `accept4`, `getsockopt` `SO_PEERCRED`.
pub fn accept(listener: impl AsFd) -> io::Result<Option<Channel>> {
    let visitor = match accept_with(listener, SocketFlags::CLOEXEC) {
        Ok(visitor) => visitor,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {
            return Ok(None);
        }
        Err(errno) => return Err(errno.into()),
    };
    let channel = Channel::from(visitor);
    Ok(is_of_our_user(&channel).then_some(channel))
}

/// Whether the other end is run by the user who runs this: the folder says so already, and here it is made sure.
pub fn is_of_our_user(channel: &Channel) -> bool {
    sockopt::socket_peercred(channel).is_ok_and(|peer| peer.uid == geteuid())
}

/// The answer to a [`FromHeir::Hello`] of another version.
pub fn not_understood(theirs: u32) -> FromPredecessor {
    FromPredecessor::Refused(
        Refusal::new(
            crate::wire::RefusalKind::Failed,
            "take over",
            format!("the running daemon hands over by version {VERSION} of the protocol, not by {theirs}"),
        )
        .help("stop it first: what it made is removed then"),
    )
}

/// The user namespace of this process, to be joined by the heir.
///
/// # Errors
/// What the kernel said.
pub fn own_user_namespace() -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/proc/self/ns/user")?.into())
}
