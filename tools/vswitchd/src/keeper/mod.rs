//! The keeper: the parent process. Small, without packet code, with all the privilege.
//!
//! It enters namespaces, makes TAPs, holds every descriptor, and runs the engine as a child that has no privilege at
//! all. The engine dies: it is started again with the same descriptors, and the containers never noticed.

mod bounded;
mod commands;
mod engine;
mod enter;
mod gate;
mod host;
mod inheritance;
mod lanes;
mod limits;
mod link;
mod listen;
mod namespaces;
mod nic;
mod output;
mod outside;
mod places;
mod post;
mod probe;
mod refusal;
mod rootless;
mod runtime;
mod sockets;
mod supervise;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::process::{Signal, geteuid};
use switch::sys::{caps, netns, shared, signals};

pub use enter::{EnterError, enter, exec};
pub use host::Host;

use crate::handover::Known;
use crate::wire::{Refusal, RefusalKind};
use inheritance::{Inheritance, Predecessor};
use listen::Listeners;
use places::StateFolder;
use sockets::{Claim, Sockets};
use supervise::{End, Keeper};

/// Longest configuration, bytes.
pub const MAX_CONFIG: u64 = 1024 * 1024;

/// What the keeper is told.
#[derive(Debug, Clone)]
pub struct KeeperOptions {
    /// The configuration file, read again on request.
    pub config: PathBuf,
    /// Its text, validated.
    pub config_text: String,
    /// The control socket.
    pub control: PathBuf,
    /// The state folder.
    pub state: PathBuf,
    /// Take over from a daemon that runs (`--take-over`).
    pub take_over: bool,
    /// Arguments with which this program runs as the engine, such as `engine --log-format json`.
    pub engine: Vec<OsString>,
}

/// Runs as one of the keeper's helpers if the command line says so (`enter`, `outside`): to be called first thing in
/// `main`, before there are threads and before the command line is parsed.
pub fn helper() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next()?.to_str()? {
        commands::SUBCOMMAND => {
            complain(&enter::main(arguments));
            // As shells and `env` do when the program cannot be run.
            Some(ExitCode::from(126))
        }
        outside::SUBCOMMAND => {
            let kind = arguments.next();
            Some(outside::main(kind.as_ref().and_then(|kind| kind.to_str())))
        }
        _ => None,
    }
}

/// Runs until the end of the daemon. The process must have one thread: without root it moves into a user namespace.
pub fn run(options: KeeperOptions) -> ExitCode {
    match Prepared::new(&options) {
        Ok(prepared) => prepared.run(options),
        Err(refusal) => {
            complain(&refusal);
            ExitCode::FAILURE
        }
    }
}

/// One line on stderr, whatever the log is set to.
fn complain(what: &dyn std::fmt::Display) {
    // Nobody to tell if that fails.
    let _written = writeln!(io::stderr(), "vswitchd: {what}");
}

/// Everything that is asked of the host before the engine is started.
struct Prepared {
    sockets: Sockets,
    state: StateFolder,
    rootless: bool,
    outside: Option<Child>,
    host: Arc<Host>,
    signals: OwnedFd,
    nofile: u64,
    /// The memory file of connections.
    memory: OwnedFd,
    /// From whom all that is taken over.
    predecessor: Option<(Predecessor, Vec<Known>, Listeners)>,
}

impl Prepared {
    /// Places first, while we are who we are outside: in a user namespace owners look different.
    fn new(options: &KeeperOptions) -> Result<Self, Refusal> {
        // The sockets first: whoever listens on them can be named.
        let sockets = match Sockets::claim(&options.control)? {
            Claim::Ours(sockets) => sockets,
            Claim::Occupied(occupant) => {
                return Self::inherit(options, inheritance::ask(&occupant, options.take_over)?);
            }
        };
        let prepared = StateFolder::open(&options.state).and_then(|state| {
            let nofile = limits::raise();
            let outside = become_administrator(None)?;
            let (helper, child) = outside.unzip();
            let rootless = !rootless::in_initial_user_namespace();
            let signals = subscribe()?;
            let host = Arc::new(Host::with(&options.state, helper, rootless)?);
            let memory = connections()?;
            Ok((state, rootless, child, host, signals, nofile, memory))
        });
        match prepared {
            Ok((state, rootless, outside, host, signals, nofile, memory)) => Ok(Self {
                sockets,
                state,
                rootless,
                outside,
                host,
                signals,
                nofile,
                memory,
                predecessor: None,
            }),
            Err(refusal) => {
                sockets.remove();
                Err(refusal)
            }
        }
    }

    /// The same with what another daemon made. If anything is refused, that one goes on with it.
    fn inherit(options: &KeeperOptions, mut inheritance: Inheritance) -> Result<Self, Refusal> {
        let state = StateFolder::inherit(&options.state, inheritance.state, inheritance.lock.take())?;
        let nofile = limits::raise();
        let (helper, outside) = become_administrator(Some(&inheritance.user_namespace))?.unzip();
        let rootless = !rootless::in_initial_user_namespace();
        let signals = subscribe()?;
        if rootless {
            inheritance.find_namespaces();
        }
        let memory = inheritance.memory.take().map_or_else(connections, Ok)?;
        let Inheritance { predecessor, control, handover, taps, namespaces, containers, listeners, .. } =
            inheritance;
        let sockets = Sockets::inherit(&options.control, control, handover)?;
        let host = Arc::new(Host::inherit(&options.state, helper, rootless, taps, namespaces)?);
        let predecessor = Some((predecessor, containers, listeners));
        Ok(Self { sockets, state, rootless, outside, host, signals, nofile, memory, predecessor })
    }

    fn run(self, options: KeeperOptions) -> ExitCode {
        let Self { sockets, state, rootless, outside, host, signals, nofile, memory, predecessor } = self;
        let generated = options.state.join(GENERATED);
        let taking_over = predecessor.is_some();
        let keeper = Keeper::new(options, &sockets, &state, rootless, &host, signals, nofile, memory)
            .map_err(|error| Refusal::new(RefusalKind::Failed, "becoming a daemon", error))
            .and_then(|mut keeper| match predecessor {
                Some((predecessor, containers, listeners)) => {
                    keeper.take_over(&predecessor, &containers, listeners)?;
                    sockets.announce();
                    Ok(keeper)
                }
                None => Ok(keeper),
            });
        let end = match keeper {
            Ok(keeper) => keeper.run(),
            Err(refusal) => {
                complain(&refusal);
                // What there is belongs to the daemon from which nothing was taken over.
                if taking_over { End::Failed } else { End::Over(ExitCode::FAILURE) }
            }
        };
        if let End::Over(_) = end {
            host.release_all();
            remove_generated(&generated);
            sockets.remove();
        }
        drop(state);
        drop(host); // and with it the channel, whose end ends the helper
        if let Some(mut child) = outside {
            let _reaped = child.kill().and_then(|()| child.wait());
        }
        match end {
            End::Over(code) => code,
            End::HandedOver => ExitCode::SUCCESS,
            End::Failed => ExitCode::FAILURE,
        }
    }
}

/// A memory file for connections, which engines fill.
fn connections() -> Result<OwnedFd, Refusal> {
    shared::memory("connections", 4096).map_err(|errno| Refusal::of_errno("a memory file", errno))
}

/// Moves a process without privilege into a user namespace where it has some: `existing`, or a new one. Whoever is left
/// outside comes back.
fn become_administrator(existing: Option<&OwnedFd>) -> Result<Option<(outside::Outside, Child)>, Refusal> {
    let ours = netns::identity_of(Path::new("/proc/self/ns/user")).ok();
    let another = existing.filter(|namespace| netns::identity(namespace).ok() != ours);
    if geteuid().is_root() && caps::may_administer().unwrap_or(false) {
        return match another {
            None => Ok(None),
            Some(_) => {
                Err(Refusal::new(RefusalKind::Denied, "take over", "it runs in a user namespace of its own")
                    .help("take over as the user who started it"))
            }
        };
    }
    let failed = |error: io::Error| Refusal::new(RefusalKind::Failed, "becoming a daemon", error);
    let (helper, child) = outside::Outside::start().map_err(failed)?;
    match another {
        Some(namespace) => rootless::join_user_namespace(namespace)?,
        None => rootless::enter_user_namespace(&helper)?,
    }
    Ok(Some((helper, child)))
}

fn subscribe() -> Result<OwnedFd, Refusal> {
    signals::subscribe(&[Signal::TERM, Signal::INT, Signal::HUP])
        .map_err(|error| Refusal::new(RefusalKind::Failed, "becoming a daemon", error))
}

/// Where the engine writes files for containers, below the state folder.
pub(crate) const GENERATED: &str = "containers";

/// Removes the files of one container, and the folder that was theirs: nothing else that may lie there.
///
/// # Errors
/// What the file system said; what is not there is no error.
pub(crate) fn remove_files(folder: &Path) -> io::Result<()> {
    let there = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    for name in ["hosts", "resolv.conf"] {
        there(std::fs::remove_file(folder.join(name)))?;
    }
    there(std::fs::remove_dir(folder))
}

/// The engine may have been killed for being slow; what it wrote goes all the same.
fn remove_generated(folder: &Path) {
    let remove = || -> io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            remove_files(&entry?.path())?;
        }
        std::fs::remove_dir(folder)
    };
    match remove() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "files for containers are left");
        }
        _ => {}
    }
}

/// A text file of at most [`MAX_CONFIG`] bytes.
fn read_config(path: &Path) -> io::Result<String> {
    // Never waits for a writer, whatever lies there by now.
    let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut text = String::new();
    file.take(MAX_CONFIG.saturating_add(1)).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_CONFIG {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {MAX_CONFIG} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bounded_regular_file_is_a_configuration() {
        assert_eq!(read_config(Path::new("/dev/zero")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let path = std::env::temp_dir().join(format!("vswitch-config-{}", std::process::id()));
        std::fs::write(&path, vec![b' '; MAX_CONFIG as usize + 1]).unwrap();
        assert_eq!(read_config(&path).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        std::fs::write(&path, "[daemon]").unwrap();
        assert_eq!(read_config(&path).unwrap(), "[daemon]");
        std::fs::remove_file(path).unwrap();
    }
}
