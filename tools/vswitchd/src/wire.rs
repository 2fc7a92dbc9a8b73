//! What keeper and engine say to each other: JSON messages on one `SOCK_SEQPACKET` pair, descriptors beside them
//! (`SCM_RIGHTS`). Texts of unknown length (the configuration) travel as a memory file, never in a message.
//!
//! The keeper asks nothing; it answers, and tells what happened. The engine numbers its requests; answers may come in
//! any order.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::api::rows::CommandState;
use crate::config::Publish;
pub use crate::handover::Known;

/// Longest message, bytes; a longer one is a fault of ours and is refused by both sides.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Where the namespace of a container is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetnsRef {
    /// The one in which the daemon itself runs. The file cannot say so: only the host's own legs are there.
    Host,
    /// A name in `/run/netns`.
    Name(String),
    /// A path of an nsfs file, such as `/proc/4242/ns/net` or a runtime's sandbox key.
    Path(PathBuf),
    /// A process in it.
    Pid(u32),
    /// The name or id of a running Docker container.
    Docker(String),
    /// The name or id of a running podman container.
    Podman(String),
}

/// One interface to be made in a container's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachSpec {
    /// The container's name.
    pub container: String,
    /// Where its namespace is.
    pub netns: NetnsRef,
    /// Make the namespace if it is not there.
    pub create: bool,
    /// The interface's name in the namespace.
    pub ifname: String,
    /// Its MAC address, `xx:xx:xx:xx:xx:xx`.
    pub mac: String,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Bytes of the longest super-frame that it may send; `None`: whatever the kernel has.
    #[serde(default)]
    pub gso_max_size: Option<u32>,
    /// Its addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Its default routes, of each family at most one.
    pub default_via: Vec<IpAddr>,
    /// It is there already, a NIC: frames to `mac` are taken from it and sent by it, and nothing of it is changed.
    #[serde(default)]
    pub nic: bool,
    /// Of a NIC the VLAN whose frames these are; `None`: those without a tag.
    #[serde(default)]
    pub vlan: Option<u16>,
}

/// L4 ports of the host to listen on for a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// The container.
    pub container: String,
    /// Its interface.
    pub interface: String,
    /// What is published.
    pub publish: Publish,
    /// Where the l4 port is to be chosen: the one it had before; 0: none yet.
    pub prefer: u16,
}

/// What an attached interface turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachInfo {
    /// Device and inode number of the namespace: its identity while it lives.
    pub netns_id: (u64, u64),
    /// Its cookie, which the kernel never gives twice, as it does inode numbers.
    pub netns_cookie: u64,
    /// Interface index in the namespace.
    pub ifindex: u32,
    /// Offloads that the kernel took (`TUN_F_*` mask); 0: none, frames are never larger than the MTU.
    pub offloads: u32,
    /// Whether the kernel takes a GSO frame written to a TAP (tried once at start).
    pub gso_writes: bool,
    /// The namespace was made by us.
    pub created: bool,
    /// The MTU of a NIC.
    #[serde(default)]
    pub mtu: Option<u16>,
}

/// Why the kernel or the host said no, in words a user can act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{asked}: {answer}{}", .help.as_deref().map(|help| format!(" ({help})")).unwrap_or_default())]
pub struct Refusal {
    /// What sort of no it is.
    pub kind: RefusalKind,
    /// What was asked.
    pub asked: String,
    /// What the kernel (or the container engine) said.
    pub answer: String,
    /// What would help.
    pub help: Option<String>,
}

/// What sort of no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefusalKind {
    /// The namespace is not there yet: the port waits for it.
    Absent,
    /// Something with that name is already there.
    Exists,
    /// Not permitted.
    Denied,
    /// Anything else.
    Failed,
}

/// What the engine asks of the keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Make an interface; the answer carries its TAP descriptor.
    Attach(AttachSpec),
    /// Apply MAC, MTU, addresses and default route of `spec` to the interface that is there; answer [`Answer::Done`].
    Adjust(AttachSpec),
    /// Forget an interface: close its descriptor, which removes it.
    Detach {
        /// The container.
        container: String,
        /// The interface.
        ifname: String,
    },
    /// See to it that the namespace is there, loopback up (a container without interfaces).
    Netns {
        /// The container.
        container: String,
        /// Where.
        netns: NetnsRef,
        /// Make it if it is not there.
        create: bool,
    },
    /// Forget a container: end its command, remove the namespace if it was made by us.
    Release {
        /// The container.
        container: String,
    },
    /// Run a command in the container, restart it when it ends (with growing pauses), log its output.
    Run {
        /// The container.
        container: String,
        /// The command and its arguments.
        argv: Vec<String>,
    },
    /// End the container's command.
    Halt {
        /// The container.
        container: String,
    },
    /// How a process enters the container; answer [`Answer::Target`].
    Locate {
        /// The container.
        container: String,
        /// Where its namespace is.
        netns: NetnsRef,
    },
    /// Which namespace is there now; answer [`Answer::Identity`].
    Identify {
        /// The container.
        container: String,
        /// Where its namespace is.
        netns: NetnsRef,
    },
    /// Listen on l4 ports of the host, if they are not listened on already; the answer carries the sockets from the
    /// `skip`th on, as many as a message takes.
    Listen {
        /// Where.
        listen: Listen,
        /// Sockets that the engine has already.
        skip: u16,
    },
    /// Listen there no more.
    Unlisten(Listen),
    /// Read the configuration file again; the answer carries its text.
    ReadConfig,
}

impl Op {
    /// The container it is about.
    pub fn container(&self) -> Option<&str> {
        match self {
            Self::Attach(spec) | Self::Adjust(spec) => Some(&spec.container),
            Self::Detach { container, .. }
            | Self::Netns { container, .. }
            | Self::Release { container }
            | Self::Run { container, .. }
            | Self::Halt { container }
            | Self::Locate { container, .. }
            | Self::Identify { container, .. } => Some(container),
            // Not a thing of its namespace, which may be gone.
            Self::Listen { .. } | Self::Unlisten(_) | Self::ReadConfig => None,
        }
    }
}

/// What the keeper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Done.
    Done,
    /// Attached; the TAP's descriptor comes with the message.
    Attached(AttachInfo),
    /// How to enter.
    Target(Target),
    /// The namespace's cookie.
    Identity(u64),
    /// The configuration's text comes with the message as a memory file.
    Config,
    /// The first l4 port; the sockets come with the message.
    Listening(u16),
}

/// How a process enters a container: what `vswitchctl exec` needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The user namespace to join first, where it is not the caller's.
    pub user_ns: Option<PathBuf>,
    /// The network namespace to join.
    pub net_ns: PathBuf,
    /// The container's name.
    pub container: String,
    /// Files to bind over others in a private mount namespace: `(source, target)`.
    pub mounts: Vec<(PathBuf, PathBuf)>,
}

/// From keeper to engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToEngine {
    /// An interface that was attached before this engine was started; its TAP descriptor comes with the message.
    Adopt {
        /// As it was asked for.
        spec: AttachSpec,
        /// As it turned out.
        info: AttachInfo,
    },
    /// A container of the daemon from which this one took over; it may not be wanted any more.
    Known(Known),
    /// Sockets that an engine before this one had listen. It asks for those that it wants ([`Op::Listen`]), and closes
    /// the others.
    Listening(Listen),
    /// First message after all of the above: begin. Descriptors: the memory file of connections, the listening socket on which the next daemon asks (for
    /// when the keeper has died), the listening control socket, the configuration.
    Begin(Begin),
    /// After [`ToKeeper::Standing`]: everything is ours, go.
    Go,
    /// The answer to request `id`.
    Reply {
        /// The request's number.
        id: u64,
        /// The answer.
        result: Result<Answer, Refusal>,
    },
    /// A container's command has changed its state; also after [`ToEngine::Begin`], for each that there is.
    Command {
        /// The container.
        container: String,
        /// What it does now.
        state: CommandState,
        /// If it runs: what exactly. Descriptors: as [`Running`] says; the engine keeps them for a daemon that takes
        /// over when the keeper has died.
        running: Option<Running>,
    },
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGTERM or SIGINT: end; the engine answers by ending.
    Shutdown,
    /// End: another daemon goes on with what is ours, which is to be left as it is.
    MakeWay,
}

/// What an engine needs to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// Name of the configuration file, for messages.
    pub config_name: String,
    /// The control socket's path.
    pub control: PathBuf,
    /// The state folder.
    pub state: PathBuf,
    /// Process id of the keeper, as seen from outside.
    pub keeper_pid: u32,
    /// Not root: everything happens in a user namespace of ours.
    pub rootless: bool,
    /// How often the engine was started before.
    pub restarts: u32,
    /// The keeper takes over from another daemon: get ready, say [`ToKeeper::Standing`], and touch nothing before
    /// [`ToEngine::Go`].
    pub stand_by: bool,
}

/// A command that runs in a container. Descriptors beside the message: its process (a pidfd), then the end of the pipe
/// that it writes to, unless that is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The command and its arguments.
    pub argv: Vec<String>,
    /// Its process id, as the keeper counts.
    pub pid: i32,
    /// Identity of its network namespace, if it could be told.
    pub home: Option<(u64, u64)>,
}

/// From engine to keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToKeeper {
    /// A request.
    Request {
        /// Its number.
        id: u64,
        /// What is asked.
        op: Op,
    },
    /// All present ports are up: print the line, tell systemd.
    Ready {
        /// The `ready` line.
        line: String,
    },
    /// The configuration that runs now, as a memory file beside the message: what the next engine begins with. (One
    /// that was read again and refused is not kept.)
    Keep,
    /// The configuration is good and everything is there: [`Begin::stand_by`].
    Standing,
    /// The engine cannot begin, and starting it again would not help.
    Fatal {
        /// Why.
        reason: String,
    },
}
