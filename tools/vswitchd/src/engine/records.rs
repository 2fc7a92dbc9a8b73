//! What the control plane keeps of containers, of calls that wait, and of jobs that come back.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nat::conntrack::{ConnectionRow as Tracked, Rule};
use nat::sockets::Connection;
use switch::port::PortId;
use tokio::sync::oneshot;

use super::published::{Key, Listened};
use crate::api::rows::{CommandState, Done};
use crate::api::{Connect, Publishing, Reply};
use crate::channel::AsyncChannel;
use crate::cluster::Claimed;
use crate::wire::{AttachInfo, AttachSpec, NetnsRef, Refusal, Running};

/// What the control plane knows of a container.
#[derive(Debug)]
pub struct ContainerRecord {
    /// Where its namespace is and whether it is to be made. Another home is another container: the old one is released.
    pub home: (NetnsRef, bool),
    /// Its namespace, where no interface brings it about.
    pub bare: Bare,
    /// The command that the keeper was told to run; `None`: not known, an engine before this one told it.
    pub command: Option<Vec<String>>,
    /// The command is to be run again: its namespace died.
    pub rerun: bool,
    /// What the keeper says of it.
    pub running: Option<CommandState>,
    /// The command itself, with its descriptors: for a daemon that takes over when the keeper has died.
    pub process: Option<(Running, Vec<Arc<OwnedFd>>)>,
    /// Its namespace, where no interface keeps it alive; for the same.
    pub namespace: Option<Arc<OwnedFd>>,
}

/// The namespace of a container without interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bare {
    /// Not asked for.
    Unasked,
    /// Asked for.
    Asked,
    /// There.
    Ready,
    /// Not there.
    Absent {
        /// Why.
        reason: String,
        /// When it is looked for again.
        retry: Instant,
    },
    /// The host said no, and why.
    Failed(String),
}

/// A call that is answered when its ports have settled.
pub struct Unsettled {
    /// The port whose attachment it waits for; `None`: all of them, those that leave as well.
    pub port: Option<PortId>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
    /// The answer.
    pub then: Then,
}

/// What is answered once the ports have settled.
pub enum Then {
    /// What a reload changed, or what of it the host refused.
    Reloaded {
        /// What was changed.
        done: Done,
        /// The ports that had failed before: nothing new.
        failed: Vec<PortId>,
    },
    /// The row of the port that was made, or why it could not be.
    Connected {
        /// Its network's name.
        network: String,
        /// It.
        port: PortId,
        /// What was asked for, if it left the address open.
        again: Option<Box<Connect>>,
    },
    /// The same of a port that is made when one of its name has left.
    Follows {
        /// Its network's name.
        network: String,
        /// The container.
        container: String,
        /// The interface's name in it.
        interface: String,
    },
    /// The rows of what was published, or why it could not be.
    Published(Publishing),
}

/// What a job came back with.
pub enum Outcome {
    /// The answer to an attempt to attach.
    Attached {
        /// Which port.
        port: PortId,
        /// What came of it.
        result: Result<(AttachInfo, OwnedFd), Refusal>,
    },
    /// The keeper let go of a leaving port.
    Released(PortId),
    /// An interface was changed in place, or not.
    Adjusted {
        /// Which port.
        port: PortId,
        /// What it was before.
        before: Box<AttachSpec>,
        /// What came of it.
        result: Result<(), Refusal>,
    },
    /// The keeper let go of a container.
    Left(String),
    /// A command was started, or not.
    Ran {
        /// The container.
        container: String,
        /// What came of it.
        result: Result<(), Refusal>,
    },
    /// Whether the namespace of a port that died is still the one it was.
    Identified {
        /// Which port.
        port: PortId,
        /// Whether the namespace that is there now is the same.
        result: Result<bool, Refusal>,
    },
    /// A container without interfaces has its namespace, or not.
    Prepared(String, Result<Option<OwnedFd>, Refusal>),
    /// The configuration file was read again.
    FileRead {
        /// Its text.
        result: Result<Vec<u8>, Refusal>,
        /// Who asked; `None`: a signal.
        reply: Option<oneshot::Sender<Reply>>,
    },
    /// Who has come in by what is published.
    Clients {
        /// By each entry of packets' translation.
        clients: Vec<(Rule, u64)>,
        /// Where the answer goes.
        reply: oneshot::Sender<Reply>,
    },
    /// What the worker has of connections.
    Connections {
        /// As it sees them.
        rows: Vec<Connection>,
        /// As packets' translation sees them.
        tracked: Vec<Tracked>,
        /// Whose are wanted.
        container: Option<String>,
        /// Where the answer goes.
        reply: oneshot::Sender<Reply>,
    },
    /// Sockets for published l4 ports, or why there are none.
    Listening(Key, Listened),
    /// An address was asked of the cluster.
    Claimed((String, IpAddr), Claimed),
    /// What is known of the cluster was written down, or not.
    Noted(bool),
    /// Another daemon took over, or did not. What it hears of our end is the end of the channel.
    HandedOver(Option<AsyncChannel>),
    /// Connections that were over have been cleared away; it took so long.
    Aged(Duration),
    /// Nothing to do.
    Nothing,
}
