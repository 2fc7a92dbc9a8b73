//! The part of a rootless daemon that stays in the user namespace it was started in.
//!
//! From inside our user namespace the namespaces of its sisters (rootless podman's) cannot even be opened, podman would
//! take itself for root, and `newuidmap` has no say. So before the keeper leaves it starts this process, which does
//! nothing by itself: for each job it starts a fresh single-threaded copy of the program, because `setns` into a user
//! namespace asks for one thread and there is no way back.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use switch::sys::netns;

use super::complain;
use super::link::{self, Placed};
use super::rootless::{self, Mapped};
use super::runtime::{self, Runtime};
use crate::channel::{Channel, ChannelError};
use crate::wire::{AttachSpec, Refusal, RefusalKind};

/// The hidden subcommand.
pub(super) const SUBCOMMAND: &str = "outside";
const JOB: &str = "job";
/// Longer than any bounded step of a job.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the keeper asks of the helper itself.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Map ids into the user namespace of a process.
    Map { pid: u32, uid: u32, gid: u32 },
    /// Start a job; its end of a channel comes with the message.
    Start,
}

/// What a job does, in the user namespace that owns the network namespace at `path` if it is about one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Job {
    /// Ask a container engine for a process id.
    Inspect { runtime: Runtime, name: String },
    /// Make an interface; its TAP comes with the answer.
    Place { path: PathBuf, spec: AttachSpec },
    /// Change an interface, whose TAP comes with the message.
    Adjust { path: PathBuf, old: AttachSpec, new: AttachSpec },
    /// Bring the loopback up.
    Loopback { path: PathBuf },
    /// Look which namespace it is.
    Identify { path: PathBuf },
}

/// Which namespace a job worked in.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Device and inode number.
    pub netns_id: (u64, u64),
    /// Never given twice.
    pub cookie: u64,
}

/// What a job found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Found {
    Pid(u32),
    Placed { id: Identity, ifindex: u32, offloads: u32 },
    Done { id: Identity },
}

/// The keeper's side.
///
/// # Threads
/// Shared; jobs run beside each other.
#[derive(Debug)]
pub(super) struct Outside(Mutex<Channel>);

impl Outside {
    /// Starts the helper. To be called before the user namespace is left, and before there are threads.
    pub(super) fn start() -> io::Result<(Self, Child)> {
        let (ours, theirs) = Channel::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg(SUBCOMMAND)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .env_remove("NOTIFY_SOCKET")
            .process_group(0)
            .spawn()?;
        Ok((Self(Mutex::new(ours)), child))
    }

    pub(super) fn map_ids(&self, pid: u32, uid: u32, gid: u32) -> Result<Mapped, Refusal> {
        let channel = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        channel
            .send(&Request::Map { pid, uid, gid }, &[])
            .and_then(|()| receive(&channel))
            .map(|(mapped, _)| mapped)
            .map_err(|error| lost("mapping user ids", &error))
    }

    /// Runs `job` in a process of its own.
    pub(super) fn run(&self, job: &Job, tap: Option<&OwnedFd>) -> Result<(Found, Option<OwnedFd>), Refusal> {
        let asked = "a helper process outside our user namespace";
        let (ours, theirs) = Channel::pair().map_err(|error| lost(asked, &error.into()))?;
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .send(&Request::Start, &[theirs.as_fd()])
            .map_err(|error| lost(asked, &error))?;
        drop(theirs); // or its end would never be seen
        let descriptors: Vec<_> = tap.iter().map(|tap| tap.as_fd()).collect();
        let (answer, mut descriptors) = ours
            .send(job, &descriptors)
            .and_then(|()| receive::<Result<Found, Refusal>>(&ours))
            .map_err(|error| lost(asked, &error))?;
        answer.map(|found| (found, descriptors.pop()))
    }
}

fn lost(asked: &str, error: &ChannelError) -> Refusal {
    Refusal::new(RefusalKind::Failed, asked, error)
}

/// Waits for one message, not for ever.
fn receive<T: DeserializeOwned>(channel: &Channel) -> Result<(T, Vec<OwnedFd>), ChannelError> {
    let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let mut set = [PollFd::new(channel, PollFlags::IN)];
    loop {
        match poll(&mut set, Some(&timeout)) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    channel.recv()?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof).into())
}

/// The helper's side: `vswitchd outside [job]`.
pub(super) fn main(kind: Option<&str>) -> ExitCode {
    let served = Channel::from_stdin().map_err(ChannelError::from).and_then(|channel| match kind {
        Some(JOB) => serve_job(&channel),
        _ => serve(&channel),
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format_args!("helper outside the user namespace: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Until the keeper is gone.
fn serve(channel: &Channel) -> Result<(), ChannelError> {
    while let Some((request, mut descriptors)) = channel.recv::<Request>()? {
        match request {
            Request::Map { pid, uid, gid } => channel.send(&rootless::map_ids(pid, uid, gid), &[])?,
            Request::Start => {
                // Who asked hears the end of the channel close, and may ask again.
                if let Some(Err(error)) = descriptors.pop().map(start_job) {
                    complain(&format_args!("starting a helper outside the user namespace: {error}"));
                }
            }
        }
    }
    Ok(())
}

fn start_job(end: OwnedFd) -> io::Result<()> {
    let mut child =
        Command::new("/proc/self/exe").args([SUBCOMMAND, JOB]).stdin(end).stdout(Stdio::null()).spawn()?;
    std::thread::Builder::new().name("reap".into()).spawn(move || child.wait())?;
    Ok(())
}

fn serve_job(channel: &Channel) -> Result<(), ChannelError> {
    let Some((job, mut descriptors)) = channel.recv::<Job>()? else { return Ok(()) };
    match perform(job, descriptors.pop()) {
        Ok((found, Some(tap))) => channel.send(&Ok::<_, Refusal>(found), &[tap.as_fd()]),
        Ok((found, None)) => channel.send(&Ok::<_, Refusal>(found), &[]),
        Err(refusal) => channel.send(&Err::<Found, _>(refusal), &[]),
    }
}

fn perform(job: Job, tap: Option<OwnedFd>) -> Result<(Found, Option<OwnedFd>), Refusal> {
    match job {
        Job::Inspect { runtime, name } => Ok((Found::Pid(runtime::pid_of(runtime, &name)?), None)),
        Job::Place { path, spec } => {
            let asked = format!("interface {:?} in {}", spec.ifname, path.display());
            let (home, id) = join(&path)?;
            let scratch = netns::create().map_err(|errno| Refusal::of_errno(&asked, errno))?;
            let Placed { fd, ifindex, offloads } = link::place(Some(scratch.as_fd()), home.as_fd(), &spec)
                .map_err(|error| error.refuse(asked))?;
            Ok((Found::Placed { id, ifindex, offloads }, Some(fd)))
        }
        Job::Adjust { path, old, new } => {
            let asked = format!("interface {:?} in {}", new.ifname, path.display());
            let (home, id) = join(&path)?;
            let tap =
                tap.ok_or_else(|| Refusal::new(RefusalKind::Failed, &asked, "no descriptor came along"))?;
            link::adjust(tap.as_fd(), home.as_fd(), &old, &new).map_err(|error| error.refuse(asked))?;
            Ok((Found::Done { id }, None))
        }
        Job::Loopback { path } => {
            let (home, id) = join(&path)?;
            let asked = format!("loopback in {}", path.display());
            link::loopback(home.as_fd()).map_err(|error| error.refuse(asked))?;
            Ok((Found::Done { id }, None))
        }
        Job::Identify { path } => join(&path).map(|(_, id)| (Found::Done { id }, None)),
    }
}

/// Opens the network namespace at `path` and becomes root of the user namespace that owns it.
fn join(path: &Path) -> Result<(OwnedFd, Identity), Refusal> {
    let asked = format!("network namespace {}", path.display());
    let home = netns::open(path).map_err(|error| Refusal::of_netns(&asked, error))?;
    let step = |errno| Refusal::of_errno(&asked, errno);
    let netns_id = netns::identity(&home).map_err(step)?;
    let owner = netns::owner(&home).map_err(step)?;
    let ours = netns::identity_of(Path::new("/proc/self/ns/user"));
    if ours.is_ok_and(|ours| netns::identity(&owner) == Ok(ours)) {
        return Err(Refusal::new(RefusalKind::Denied, &asked, "it belongs to root, not to this user")
            .help("run vswitchd as root, or let `create = true` make a namespace of your own"));
    }
    netns::enter_user(&owner).map_err(|errno| {
        Refusal::new(RefusalKind::Denied, &asked, format!("joining the user namespace that owns it: {errno}"))
            .help("only namespaces of the same user can be served without root")
    })?;
    let cookie = netns::cookie(home.as_fd()).map_err(step)?;
    Ok((home, Identity { netns_id, cookie }))
}
