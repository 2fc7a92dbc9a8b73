//! Finding the namespace of a container, and making it where that was asked for.
//!
//! As root a namespace that we make is a name in `/run/netns`, exactly as `ip netns add` makes it, plus an ownership
//! mark in the state folder so that it is removed even after a crash. In a user namespace nobody could see such a name:
//! there it is a descriptor of the keeper, reached as `/proc/PID/fd/N`.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, unmount};
use serde::{Deserialize, Serialize};
use switch::sys::netns::{self, NetnsError};

use super::outside::{Found, Job, Outside};
use super::runtime::{self, Runtime};
use crate::wire::{NetnsRef, Refusal, RefusalKind};

/// Where `ip netns` keeps names.
const NAMES: &str = "/run/netns";

/// A namespace that was found.
#[derive(Debug)]
pub(super) struct Home {
    /// Open only as long as it is worked on: the keeper must not keep a container alive.
    /// `None`: it belongs to another user namespace, only a job outside can open it.
    pub(super) fd: Option<OwnedFd>,
    /// A path that leads to it, for other processes too.
    pub(super) path: PathBuf,
    /// The user namespace a process joins first, where it is not the host's.
    pub(super) user_ns: Option<PathBuf>,
    /// Made by us.
    pub(super) created: bool,
}

#[derive(Debug)]
enum Held {
    /// A name in `/run/netns`.
    Name(Mark),
    /// A descriptor.
    Descriptor(OwnedFd),
}

/// A namespace that another daemon made and handed over.
#[derive(Debug)]
pub(super) struct Inherited {
    pub(super) name: String,
    /// Containers for which it was made.
    pub(super) users: Vec<String>,
    /// Where it is held by descriptor.
    pub(super) fd: Option<OwnedFd>,
}

#[derive(Debug)]
struct Created {
    held: Held,
    /// Containers that asked for it.
    users: BTreeSet<String>,
}

impl Held {
    fn is(&self, identity: Result<(u64, u64), Errno>) -> bool {
        match self {
            Self::Name(mark) => identity == Ok((mark.device, mark.inode)),
            Self::Descriptor(fd) => netns::identity(fd) == identity,
        }
    }
}

/// What a mark says: this namespace, in this boot, was made by us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    device: u64,
    inode: u64,
    boot: String,
}

/// # Threads
/// Shared; making and removing are serialised, finding is not.
#[derive(Debug)]
pub(super) struct Namespaces {
    /// Rootless: names are descriptors.
    by_descriptor: bool,
    /// The keeper's own, into which nothing is ever attached.
    own: (u64, u64),
    marks: PathBuf,
    boot: String,
    created: Mutex<HashMap<String, Created>>,
    /// Tells of names that go; nobody else can remove what is held by descriptor.
    removals: Option<OwnedFd>,
}

impl Namespaces {
    /// `state`: the state folder, for marks. Removes what a crashed daemon left.
    pub(super) fn new(state: &Path, by_descriptor: bool) -> io::Result<Self> {
        let namespaces = Self::without_any(state, by_descriptor)?;
        if !by_descriptor {
            namespaces.reclaim()?;
        }
        Ok(namespaces)
    }

    /// Goes on with namespaces that another daemon made; nothing is removed.
    pub(super) fn inherit(state: &Path, by_descriptor: bool, inherited: Vec<Inherited>) -> io::Result<Self> {
        let namespaces = Self::without_any(state, by_descriptor)?;
        {
            let mut created = namespaces.created();
            for Inherited { name, users, fd } in inherited {
                let held = match fd {
                    Some(fd) => Held::Descriptor(fd),
                    // Without a mark it was given up meanwhile.
                    None => match namespaces.read_mark(OsStr::new(&name)) {
                        Some(mark) => Held::Name(mark),
                        None => continue,
                    },
                };
                created.insert(name, Created { held, users: users.into_iter().collect() });
            }
            if !created.is_empty() {
                namespaces.watch()?;
            }
        }
        Ok(namespaces)
    }

    fn without_any(state: &Path, by_descriptor: bool) -> io::Result<Self> {
        let namespaces = Self {
            by_descriptor,
            own: netns::identity(netns::current()?)?,
            marks: state.join("netns"),
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned(),
            created: Mutex::default(),
            removals: if by_descriptor {
                None
            } else {
                Some(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?)
            },
        };
        if !by_descriptor {
            fs::create_dir_all(&namespaces.marks)?;
        }
        Ok(namespaces)
    }

    fn read_mark(&self, name: &OsStr) -> Option<Mark> {
        serde_json::from_slice(&fs::read(self.marks.join(name)).ok()?).ok()
    }

    /// All that were made, for a daemon that takes over.
    pub(super) fn heritage(&self) -> io::Result<Vec<Inherited>> {
        let created = self.created();
        let all = created.iter().map(|(name, made)| {
            let fd = match &made.held {
                Held::Name(_) => None,
                Held::Descriptor(fd) => Some(fd.try_clone()?),
            };
            Ok(Inherited { name: name.clone(), users: made.users.iter().cloned().collect(), fd })
        });
        all.collect()
    }

    /// A duplicate of the descriptor by which the namespace of `container` is held, where one is.
    pub(super) fn descriptor_of(&self, container: &str) -> Option<OwnedFd> {
        self.created().values().find(|made| made.users.contains(container)).and_then(|made| {
            match &made.held {
                Held::Name(_) => None,
                Held::Descriptor(fd) => fd.try_clone().ok(),
            }
        })
    }

    /// Removes namespaces that bear our mark; never one that does not.
    fn reclaim(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.marks)? {
            let entry = entry?;
            let name = entry.file_name();
            if let Some(mark) = self.read_mark(&name) {
                tracing::info!(name = %name.display(), "removing a namespace that an earlier run left");
                self.remove_name(&name, &mark);
            }
            fs::remove_file(entry.path())?;
        }
        Ok(())
    }

    /// Finds the namespace of `container`; makes it if it is not there and `create` is set.
    pub(super) fn find(
        &self,
        container: &str,
        reference: &NetnsRef,
        create: bool,
        outside: Option<&Outside>,
    ) -> Result<Home, Refusal> {
        match reference {
            NetnsRef::Host => own(),
            NetnsRef::Name(name) => self.find_name(container, name, create),
            NetnsRef::Path(path) => self.find_path(path, outside),
            NetnsRef::Pid(pid) => self.find_pid(*pid, outside),
            NetnsRef::Docker(name) => self.find_pid(inspect(Runtime::Docker, name, outside)?, outside),
            NetnsRef::Podman(name) => self.find_pid(inspect(Runtime::Podman, name, outside)?, outside),
        }
    }

    fn find_name(&self, container: &str, name: &str, create: bool) -> Result<Home, Refusal> {
        let asked = format!("network namespace {name:?}");
        if !is_plain_name(name) {
            return Err(Refusal::new(RefusalKind::Failed, asked, "a name has no `/` and is not `.` or `..`"));
        }
        let mut created = self.created();
        if let Some(known) = created.get_mut(name) {
            if create {
                known.users.insert(container.to_owned());
            }
            if let Held::Descriptor(fd) = &known.held {
                return held_home(fd).map_err(|error| Refusal::of_netns(asked, error));
            }
        }
        let path = Path::new(NAMES).join(name);
        let there = netns::open(&path);
        let make = match &there {
            // In a user namespace of ours a name of the host is of no use: it belongs to root.
            Ok(_) => create && self.by_descriptor,
            Err(NetnsError::NotNamespace | NetnsError::Kernel(Errno::NOENT)) => create,
            Err(_) => false,
        };
        match there {
            _ if make => {
                let made = self.make(name, &path).map_err(|errno| not_made(&asked, name, errno))?;
                // `users` of one that was deleted behind our back still want it.
                let users = created.remove(name).map(|gone| gone.users).unwrap_or_default();
                let known = created.entry(name.to_owned()).or_insert(Created { held: made, users });
                known.users.insert(container.to_owned());
                home_of(&known.held, path).map_err(|error| Refusal::of_netns(asked, error))
            }
            Ok(fd) => {
                self.refuse_own(&asked, &fd)?;
                let ours = created.get(name).is_some_and(|made| made.held.is(netns::identity(&fd)));
                Ok(Home { fd: Some(fd), path, user_ns: None, created: ours })
            }
            Err(error) => Err(Refusal::of_netns(asked, error)),
        }
    }

    /// Nothing is ever attached to the namespace in which the daemon itself runs.
    fn refuse_own(&self, asked: &str, fd: &OwnedFd) -> Result<(), Refusal> {
        if netns::identity(fd) != Ok(self.own) {
            return Ok(());
        }
        Err(Refusal::new(RefusalKind::Failed, asked, "it is the host's own, in which vswitchd runs")
            .help("a container that shares the host's network cannot be attached; docker: --network none"))
    }

    fn find_pid(&self, pid: u32, outside: Option<&Outside>) -> Result<Home, Refusal> {
        self.find_path(&PathBuf::from(format!("/proc/{pid}/ns/net")), outside)
    }

    fn find_path(&self, path: &Path, outside: Option<&Outside>) -> Result<Home, Refusal> {
        let asked = format!("network namespace {}", path.display());
        let foreign = |answer| match outside {
            // It may be one of this user's all the same: from outside it can be told.
            Some(_) => Ok(Home {
                fd: None,
                path: path.to_owned(),
                user_ns: user_namespace_beside(path),
                created: false,
            }),
            None => Err(answer),
        };
        match netns::open(path) {
            Ok(fd) => {
                self.refuse_own(&asked, &fd)?;
                match netns::owner(&fd) {
                    Err(Errno::PERM) => foreign(Refusal::of_errno(asked, Errno::PERM)),
                    _ => Ok(Home { fd: Some(fd), path: path.to_owned(), user_ns: None, created: false }),
                }
            }
            Err(NetnsError::Kernel(errno @ (Errno::ACCESS | Errno::PERM))) => foreign(
                Refusal::of_errno(asked, errno).help("run vswitchd as root, or as the user of that process"),
            ),
            Err(error) => Err(Refusal::of_netns(asked, error)),
        }
    }

    fn created(&self) -> MutexGuard<'_, HashMap<String, Created>> {
        self.created.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn make(&self, name: &str, path: &Path) -> Result<Held, Errno> {
        let fd = netns::create()?;
        if self.by_descriptor {
            return Ok(Held::Descriptor(fd));
        }
        let (device, inode) = netns::identity(&fd)?;
        let mark = Mark { device, inode, boot: self.boot.clone() };
        // The mark first: a crash between the two leaves a mark without a namespace, which is harmless.
        self.write_mark(name, &mark).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        publish(&fd, path).and_then(|()| self.watch()).inspect_err(|_| {
            let _best_effort = fs::remove_file(self.marks.join(name));
        })?;
        Ok(Held::Name(mark))
    }

    /// What to poll for, to call [`Namespaces::removed`] then.
    pub(super) fn removals(&self) -> Option<BorrowedFd<'_>> {
        self.removals.as_ref().map(AsFd::as_fd)
    }

    /// Identities of namespaces of ours whose names somebody else removed. They are ours no more.
    pub(super) fn removed(&self) -> Vec<(u64, u64)> {
        if let Some(removals) = &self.removals {
            // Which names went is found by looking.
            let mut events = [0; 4096];
            while rustix::io::read(removals, &mut events).is_ok_and(|n| n > 0) {}
        }
        let mut gone = Vec::new();
        self.created().retain(|name, made| {
            let Held::Name(mark) = &made.held else { return true };
            let there =
                netns::open(&Path::new(NAMES).join(name)).is_ok_and(|fd| made.held.is(netns::identity(fd)));
            if !there {
                gone.push((mark.device, mark.inode));
                let _gone_already = fs::remove_file(self.marks.join(name));
            }
            there
        });
        gone
    }

    /// The folder may have been made a moment ago; said again for the same folder it changes nothing.
    fn watch(&self) -> Result<(), Errno> {
        match &self.removals {
            Some(removals) => inotify::add_watch(removals, NAMES, WatchFlags::DELETE).map(|_| ()),
            None => Ok(()),
        }
    }

    fn write_mark(&self, name: &str, mark: &Mark) -> io::Result<()> {
        let text = serde_json::to_vec(mark)?;
        let mut file = fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(self.marks.join(name))?;
        file.write_all(&text)
    }

    /// Whether a namespace was made for `container`.
    pub(super) fn knows(&self, container: &str) -> bool {
        self.created().values().any(|made| made.users.contains(container))
    }

    /// Forgets `container`; the namespaces that were made for it alone go. Returns which.
    pub(super) fn release(&self, container: &str) -> Vec<(u64, u64)> {
        let mut created = self.created();
        let gone = created.extract_if(|_, made| made.users.remove(container) && made.users.is_empty());
        gone.filter_map(|(name, made)| self.remove(&name, &made.held)).collect()
    }

    /// Everything that was made goes. Returns what it was.
    pub(super) fn release_all(&self) -> Vec<(u64, u64)> {
        self.created().drain().filter_map(|(name, made)| self.remove(&name, &made.held)).collect()
    }

    fn remove(&self, name: &str, held: &Held) -> Option<(u64, u64)> {
        match held {
            Held::Descriptor(fd) => netns::identity(fd).ok(),
            Held::Name(mark) => {
                self.remove_name(OsStr::new(name), mark);
                if let Err(error) = fs::remove_file(self.marks.join(name)) {
                    tracing::warn!(name, %error, "ownership mark");
                }
                Some((mark.device, mark.inode))
            }
        }
    }

    /// Removes `/run/netns/NAME` if it is still the namespace of `mark`.
    fn remove_name(&self, name: &OsStr, mark: &Mark) {
        let path = Path::new(NAMES).join(name);
        if mark.boot != self.boot {
            return;
        }
        let removed = match netns::open(&path).map(netns::identity) {
            Ok(Ok(identity)) if identity == (mark.device, mark.inode) => {
                unmount(&path, UnmountFlags::DETACH).and_then(|()| rustix::fs::unlink(&path))
            }
            // The empty file of a daemon that died between making and mounting.
            Err(NetnsError::NotNamespace) => rustix::fs::unlink(&path),
            _ => return,
        };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "cannot remove a namespace that we made");
        }
    }
}

/// The one in which the daemon runs. Its threads leave it only to end.
fn own() -> Result<Home, Refusal> {
    let path = PathBuf::from("/proc/self/ns/net");
    match netns::open(&path) {
        Ok(fd) => Ok(Home { fd: Some(fd), path, user_ns: None, created: false }),
        Err(error) => Err(Refusal::of_netns("the host's network namespace", error)),
    }
}

/// A namespace that was made a moment ago; the name leads to it, or the keeper's descriptor.
fn home_of(held: &Held, path: PathBuf) -> Result<Home, NetnsError> {
    match held {
        Held::Name(_) => {
            netns::open(&path).map(|fd| Home { fd: Some(fd), path, user_ns: None, created: true })
        }
        Held::Descriptor(fd) => held_home(fd),
    }
}

/// How others reach a namespace that the keeper holds as `fd`.
fn held_home(fd: &OwnedFd) -> Result<Home, NetnsError> {
    let keeper = std::process::id();
    Ok(Home {
        fd: Some(rustix::io::fcntl_dupfd_cloexec(fd, 0)?),
        path: PathBuf::from(format!("/proc/{keeper}/fd/{}", fd.as_raw_fd())),
        user_ns: Some(PathBuf::from(format!("/proc/{keeper}/ns/user"))),
        created: true,
    })
}

fn not_made(asked: &str, name: &str, errno: Errno) -> Refusal {
    let refusal = Refusal::of_errno(format!("{asked} (create = true)"), errno);
    match errno {
        Errno::EXIST => refusal.help(format!(
            "{NAMES}/{name} is there but no namespace: remove it with `ip netns delete {name}`"
        )),
        _ => refusal,
    }
}

/// Whether `name` is one part of a path: what the engine says may not lead out of a folder.
pub(super) fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let only = (components.next(), components.next());
    matches!(only, (Some(Component::Normal(part)), None) if part == OsStr::new(name) && !name.contains('\0'))
}

/// `/proc/PID/ns/user` for `/proc/PID/ns/net`.
fn user_namespace_beside(path: &Path) -> Option<PathBuf> {
    (path.starts_with("/proc") && path.ends_with("ns/net")).then(|| path.with_file_name("user"))
}

fn inspect(runtime: Runtime, name: &str, outside: Option<&Outside>) -> Result<u32, Refusal> {
    let Some(outside) = outside else { return runtime::pid_of(runtime, name) };
    match outside.run(&Job::Inspect { runtime, name: name.to_owned() }, None)? {
        (Found::Pid(pid), _) => Ok(pid),
        _ => Err(Refusal::new(
            RefusalKind::Failed,
            format!("container {name:?} of {runtime}"),
            "no process id",
        )),
    }
}

/// Gives the namespace `fd` a name, as `ip netns add` does: `/run/netns` a shared mount of its own, so that the name
/// reaches every mount namespace and can be removed again everywhere; an empty file; the namespace mounted on it.
fn publish(fd: &OwnedFd, path: &Path) -> Result<(), Errno> {
    match rustix::fs::mkdir(NAMES, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) | Ok(()) => {}
        Err(errno) => return Err(errno),
    }
    let folder =
        rustix::fs::open(NAMES, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // iproute2 takes the same lock around the same steps.
    rustix::fs::flock(&folder, FlockOperation::LockExclusive)?;
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match mount_change(NAMES, shared) {
        Ok(()) => {}
        Err(Errno::INVAL) => {
            mount_bind_recursive(NAMES, NAMES)?;
            mount_change(NAMES, shared)?;
        }
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    drop(rustix::fs::open(path, flags, Mode::empty())?);
    let source = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    rustix::mount::mount_bind(source, path).inspect_err(|_| {
        let _best_effort = rustix::fs::unlink(path);
    })
}
