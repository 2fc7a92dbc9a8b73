//! Becoming a process of a container: user namespace, private mounts, network namespace, program.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};
use switch::sys::{fds, netns};

use crate::wire::Target;

/// Why a container could not be entered.
#[derive(Debug, thiserror::Error)]
#[error("entering container {container:?}: {step} {}: {errno}{}", .path.display(), advice(*.errno))]
pub struct EnterError {
    container: String,
    step: &'static str,
    path: PathBuf,
    errno: Errno,
}

impl EnterError {
    /// What the kernel said.
    pub const fn errno(&self) -> Errno {
        self.errno
    }
}

fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS => " (be root, or the user who runs vswitchd)",
        Errno::INVAL => " (a user namespace is joined by a process with one thread)",
        _ => "",
    }
}

/// Moves this process, for good, into the container: joins its user namespace if that is another one, takes a private
/// copy of the mounts with the container's `hosts` and `resolv.conf` and a `/sys` that shows its devices, joins its
/// network namespace. Then [`exec`] a program.
///
/// A source or target of a mount that is not there is left out; so is `/sys` where it may not be mounted.
///
/// # Errors
/// [`EnterError`]; the process may then be half way and should end.
///
/// # Threads
/// The process must have one thread if a user namespace is joined.
///
/// # Privileges
/// Root, or to be the user who runs a rootless daemon.
///
/// # Syscalls
/// `openat`, `setns`, `unshare(CLONE_NEWNS)`, `mount`, `umount2`, `open_tree`, `move_mount`.
pub fn enter(target: &Target) -> Result<(), EnterError> {
    let fail = |step, path: &Path| {
        let (container, path) = (target.container.clone(), path.to_owned());
        move |errno| EnterError { container, step, path, errno }
    };
    // Opened first: paths below /proc may lead nowhere from inside.
    let network = open(&target.net_ns).map_err(fail("opening", &target.net_ns))?;
    if let Some(path) = &target.user_ns {
        let user = open(path).map_err(fail("opening", path))?;
        let ours = netns::identity_of(Path::new("/proc/self/ns/user")).ok();
        if netns::identity(&user).ok() != ours {
            netns::enter_user(&user).map_err(fail("joining", path))?;
        }
    }
    let root = Path::new("/");
    netns::unshare_mount().map_err(fail("unsharing mounts of", root))?;
    let propagation = MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM;
    mount_change("/", propagation).map_err(fail("making mounts private below", root))?;
    for (source, over) in &target.mounts {
        bind(source, over).map_err(fail("mounting", source))?;
    }
    netns::enter_network(network.as_fd()).map_err(fail("joining", &target.net_ns))?;
    show_own_sys();
    Ok(())
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
}

/// Binds `source` over `over`, read-only where the kernel allows that in a user namespace.
fn bind(source: &Path, over: &Path) -> Result<(), Errno> {
    match mount_bind(source, over) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    let _best_effort = mount_remount(over, MountFlags::BIND | MountFlags::RDONLY, "");
    Ok(())
}

/// Mounts the `/sys` of this network namespace (`/sys/class/net` shows its devices), and puts the control groups back
/// on it, which `ip netns exec` forgets. Best effort: in a user namespace the kernel may refuse.
fn show_own_sys() {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let groups = open_tree(CWD, "/sys/fs/cgroup", flags);
    // Over the old one and not instead of it: if it is refused, the old one is still there.
    if mount("sysfs", "/sys", "sysfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
        .is_err()
    {
        return;
    }
    if let Ok(groups) = groups
        && move_mount(&groups, "", CWD, "/sys/fs/cgroup", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).is_err()
    {
        let _best_effort = unmount("/sys", UnmountFlags::DETACH);
    }
}

/// Becomes the program `argv`; comes back only to say why not.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] without a program, else what the kernel said.
///
/// # Syscalls
/// `close_range`, `execve`.
pub fn exec(argv: &[OsString]) -> io::Error {
    let Some((program, arguments)) = argv.split_first() else {
        return io::Error::new(io::ErrorKind::InvalidInput, "no program given");
    };
    if let Err(error) = fds::close_on_exec_from(3) {
        return error;
    }
    Command::new(program).args(arguments).exec()
}

/// `vswitchd enter TARGET NOFILE PROGRAM ...`: a container's command as the keeper starts it.
pub(super) fn main(mut arguments: impl Iterator<Item = OsString>) -> io::Error {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let target = arguments.next().and_then(|text| serde_json::from_str::<Target>(text.to_str()?).ok());
    let limit = arguments.next().and_then(|text| text.to_str()?.parse::<u64>().ok());
    let (Some(target), Some(limit)) = (target, limit) else { return invalid("not started by vswitchd") };
    if let Err(error) = enter(&target) {
        return io::Error::other(error);
    }
    // The keeper raised its own limit; programs that use select() expect the usual one.
    super::limits::restore(limit);
    let argv: Vec<_> = arguments.collect();
    let program = argv.first().cloned().unwrap_or_default();
    let error = exec(&argv);
    io::Error::new(error.kind(), format!("{}: {error}", program.display()))
}
