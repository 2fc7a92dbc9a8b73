//! Taking over from another daemon: [`crate::handover`], the heir's side up to what it is offered.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use switch::sys::{netns, tun};

use super::listen::Listeners;
use super::namespaces::Inherited;
use super::sockets::Occupant;
use crate::channel::{Channel, ChannelError};
use crate::handover::{self, FromHeir, FromPredecessor, Known};
use crate::wire::{AttachInfo, AttachSpec, NetnsRef, Refusal, RefusalKind};

/// Longer than what may be under way in the predecessor (a question to a container engine).
const PATIENCE: Duration = Duration::from_secs(15);

/// What a predecessor offers. Nothing of it is ours before [`Predecessor::say_mine`].
#[derive(Debug)]
pub(super) struct Inheritance {
    pub(super) predecessor: Predecessor,
    pub(super) control: OwnedFd,
    pub(super) handover: OwnedFd,
    pub(super) user_namespace: OwnedFd,
    /// Device and inode number of the state folder.
    pub(super) state: (u64, u64),
    /// The state folder with its lock; `None`: it died with the keeper.
    pub(super) lock: Option<OwnedFd>,
    pub(super) taps: Vec<(OwnedFd, AttachSpec, AttachInfo)>,
    pub(super) namespaces: Vec<Inherited>,
    pub(super) containers: Vec<Known>,
    pub(super) listeners: Listeners,
    /// The memory file of connections; an older daemon has none.
    pub(super) memory: Option<OwnedFd>,
}

/// The other side.
#[derive(Debug)]
pub(super) struct Predecessor {
    channel: Channel,
    /// Its process id, once it was told.
    pub(super) pid: u32,
}

/// Asks whoever answers on the control socket for everything.
///
/// # Errors
/// [`Refusal`]: a keeper lives and `wanted` is not set, or it cannot or will not hand over.
pub(super) fn ask(occupant: &Occupant, wanted: bool) -> Result<Inheritance, Refusal> {
    let channel = match occupant.meet()? {
        Some(channel) if handover::is_of_our_user(&channel) => channel,
        Some(_) => {
            return Err(occupant.refuse("another user's vswitchd is running").help("take over as that user"));
        }
        None if wanted => {
            return Err(occupant
                .refuse("the running vswitchd does not know how to hand over")
                .help("it may be an older release: stop it first"));
        }
        None => return Err(occupant.is_running()),
    };
    let mut predecessor = Predecessor { channel, pid: 0 };
    predecessor.say(&FromHeir::Hello { version: handover::VERSION, asked: wanted })?;
    let (first, descriptors) = predecessor.hear().map_err(|refusal| match refusal.kind {
        RefusalKind::Exists => occupant.is_running(),
        _ => refusal,
    })?;
    let FromPredecessor::Estate { pid, state, netns } = first else { return Err(nonsense()) };
    predecessor.pid = pid;
    let here = netns::current().and_then(netns::identity);
    if here != Ok(netns) {
        return Err(Refusal::new(RefusalKind::Failed, "take over", "it runs in another network namespace")
            .help("sockets to the outside live there: start this one in the same"));
    }
    let mut descriptors = descriptors.into_iter();
    let (Some(control), Some(handover), Some(user_namespace)) =
        (descriptors.next(), descriptors.next(), descriptors.next())
    else {
        return Err(nonsense());
    };
    let mut inheritance = Inheritance {
        predecessor,
        control,
        handover,
        user_namespace,
        state,
        lock: descriptors.next(),
        taps: Vec::new(),
        namespaces: Vec::new(),
        containers: Vec::new(),
        listeners: Listeners::default(),
        memory: None,
    };
    inheritance.listen()?;
    Ok(inheritance)
}

impl Inheritance {
    fn listen(&mut self) -> Result<(), Refusal> {
        loop {
            let (message, mut descriptors) = self.predecessor.hear()?;
            match message {
                FromPredecessor::Tap { spec, info } => {
                    self.taps.push((descriptors.pop().ok_or_else(nonsense)?, spec, info));
                }
                FromPredecessor::Connections => self.memory = descriptors.pop(),
                FromPredecessor::Namespace { name, users } => {
                    self.namespaces.push(Inherited { name, users, fd: descriptors.pop() });
                }
                FromPredecessor::Listening(listen) => self.listeners.inherit(&listen, descriptors),
                FromPredecessor::Container(known) => self.containers.push(known),
                FromPredecessor::Offered => return Ok(()),
                _ => return Err(nonsense()),
            }
        }
    }

    /// Namespaces that only the dead keeper held are kept alive by the TAPs in them.
    ///
    /// To be called in the user namespace to which they belong.
    pub(super) fn find_namespaces(&mut self) {
        for namespace in self.namespaces.iter_mut().filter(|namespace| namespace.fd.is_none()) {
            let name = NetnsRef::Name(namespace.name.clone());
            let tap = self.taps.iter().find(|(_, spec, info)| spec.netns == name && info.created);
            namespace.fd = tap.and_then(|(tap, ..)| tun::home(tap).ok());
        }
    }
}

impl Predecessor {
    /// # Errors
    /// It does not listen any more.
    pub(super) fn say(&self, message: &impl Serialize) -> Result<(), Refusal> {
        self.channel.send(message, &[]).map_err(|error| lost(&error))
    }

    /// What it says next; a refusal of its own is the error.
    pub(super) fn hear(&self) -> Result<(FromPredecessor, Vec<OwnedFd>), Refusal> {
        if !self.has_something_to_say(PATIENCE)? {
            return Err(Refusal::new(
                RefusalKind::Failed,
                "take over",
                "the running vswitchd does not answer",
            ));
        }
        match self.channel.recv().map_err(|error| lost(&error))? {
            Some((FromPredecessor::Refused(refusal), _)) => Err(refusal),
            Some(said) => Ok(said),
            None => Err(Refusal::new(RefusalKind::Failed, "take over", "the running vswitchd ended")),
        }
    }

    /// Waits; its end is something too.
    pub(super) fn has_something_to_say(&self, time: Duration) -> Result<bool, Refusal> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            match poll(&mut [PollFd::new(&self.channel, PollFlags::IN)], Some(&timeout)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Refusal::of_errno("take over", errno)),
            }
        }
    }
}

impl AsFd for Predecessor {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

fn lost(error: &ChannelError) -> Refusal {
    Refusal::new(RefusalKind::Failed, "take over", error)
}

fn nonsense() -> Refusal {
    Refusal::new(RefusalKind::Failed, "take over", "the running vswitchd does not hand over as agreed")
        .help("stop it first: what it made is removed then")
}
