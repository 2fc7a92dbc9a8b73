//! The two sockets of the daemon in the file system: the control socket, and beside it the one on which it is asked to
//! hand over ([`crate::handover`]).

use std::ffi::OsStr;
use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with, sockopt,
};

use super::places::{check_folder, make_folder, of_io};
use crate::channel::Channel;
use crate::wire::{Refusal, RefusalKind};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;
/// What is added to the control socket's name.
const HANDOVER: &str = ".keeper";

/// A listening socket and its file.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) listener: OwnedFd,
    path: PathBuf,
    identity: (u64, u64),
}

/// The listening sockets; [`Sockets::remove`] takes them away again.
#[derive(Debug)]
pub(super) struct Sockets {
    /// For users.
    pub(super) control: Listening,
    /// For the next daemon.
    pub(super) handover: Listening,
}

/// What is found at the place of the control socket.
#[derive(Debug)]
pub(super) enum Claim {
    /// Nobody was there: it is ours.
    Ours(Sockets),
    /// Somebody answers.
    Occupied(Occupant),
}

/// Who answers on the control socket.
#[derive(Debug)]
pub(super) struct Occupant {
    asked: String,
    /// Who listens, as the kernel says; it may have died and left the socket to its engine.
    pid: Option<i32>,
    handover: PathBuf,
}

impl Sockets {
    /// Binds and listens, mode 0600; the folder is made (0700) if it is missing. The sockets of a daemon that answers
    /// are left alone, those that nobody answers on are replaced.
    pub(super) fn claim(path: &Path) -> Result<Claim, Refusal> {
        let asked = format!("control socket {}", path.display());
        let failed = |error: &io::Error| of_io(&asked, error);
        let address = SocketAddrUnix::new(path).map_err(|errno| match errno {
            Errno::NAMETOOLONG => Refusal::new(RefusalKind::Failed, &asked, "the path is too long")
                .help("107 bytes is the limit of the kernel: set `control` to a shorter one"),
            errno => failed(&errno.into()),
        })?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        make_folder(folder).map_err(|error| failed(&error))?;
        check_folder(&asked, folder)?;
        // Held until we listen, so that of two daemons that start together one finds the other.
        let lock = open_folder(folder).map_err(|errno| failed(&errno.into()))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed(&errno.into()))?;

        let handover = handover_path(path);
        if let Some(pid) = remove_stale(&asked, path, &address, SocketType::STREAM)? {
            return Ok(Claim::Occupied(Occupant { asked, pid, handover }));
        }
        let near = near(&lock, &handover).map_err(|errno| failed(&errno.into()))?;
        if let Some(pid) = remove_stale(&asked, &handover, &near, SocketType::SEQPACKET)? {
            // The file of its control socket was removed under it.
            return Ok(Claim::Occupied(Occupant { asked, pid, handover }));
        }
        let listen_there = || -> io::Result<Self> {
            let handover = Listening::at(&handover, &near, SocketType::SEQPACKET)?;
            let control = Listening::at(path, &address, SocketType::STREAM);
            Ok(Self { control: control.inspect_err(|_| handover.remove())?, handover })
        };
        listen_there().map(Claim::Ours).map_err(|error| failed(&error))
    }

    /// The sockets of another daemon, which are being handed over: they stay as they are.
    pub(super) fn inherit(path: &Path, control: OwnedFd, handover: OwnedFd) -> Result<Self, Refusal> {
        let adopt = |path: PathBuf, listener: OwnedFd| -> io::Result<Listening> {
            let identity = identity(&fs::symlink_metadata(&path)?);
            Ok(Listening { listener, path, identity })
        };
        let both = || {
            let handover = adopt(handover_path(path), handover)?;
            Ok(Self { control: adopt(path.to_owned(), control)?, handover })
        };
        both().map_err(|error| of_io(&format!("control socket {}", path.display()), &error))
    }

    /// They are ours now: who asks the kernel hears of us.
    pub(super) fn announce(&self) {
        for listening in [&self.control, &self.handover] {
            // On a socket that listens this changes who the kernel says does.
            if let Err(error) = listen(&listening.listener, BACKLOG) {
                tracing::warn!(path = %listening.path.display(), %error, "socket");
            }
        }
    }

    /// Removes the socket files, if they are still ours.
    pub(super) fn remove(&self) {
        self.control.remove();
        self.handover.remove();
    }
}

impl Listening {
    fn at(path: &Path, address: &SocketAddrUnix, kind: SocketType) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, kind, flags, None)?;
        bind(&listener, address)?;
        // Nobody can connect before `listen`, so there is no moment with another mode.
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        let identity = identity(&fs::symlink_metadata(path)?);
        listen(&listener, BACKLOG)?;
        Ok(Self { listener, path: path.to_owned(), identity })
    }

    fn remove(&self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "socket");
        }
    }
}

impl Occupant {
    /// The refusal of someone who does not want to take over.
    pub(super) fn is_running(&self) -> Refusal {
        self.refuse("vswitchd is already running")
            .help("stop it, take over from it with --take-over, or set another `control` and `state`")
    }

    /// The same with the occupant's process id.
    pub(super) fn refuse(&self, answer: &str) -> Refusal {
        let who = self.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
        Refusal::new(RefusalKind::Exists, &self.asked, format!("{answer}{who}"))
    }

    /// A conversation with whoever hands over. `None`: there is nobody who could.
    pub(super) fn meet(&self) -> Result<Option<Channel>, Refusal> {
        let failed = |errno: Errno| of_io(&self.asked, &errno.into());
        let folder = self.handover.parent().unwrap_or(Path::new("."));
        let folder = open_folder(folder).map_err(failed)?;
        let address = near(&folder, &self.handover).map_err(failed)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
        match connect(&socket, &address) {
            Ok(()) => Ok(Some(Channel::from(socket))),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }
}

fn handover_path(control: &Path) -> PathBuf {
    let mut name = control.file_name().unwrap_or_default().to_owned();
    name.push(HANDOVER);
    control.with_file_name(name)
}

/// The address of `path` by its open folder, which is short however long the folder's own path is.
fn near(folder: &OwnedFd, path: &Path) -> Result<SocketAddrUnix, Errno> {
    let name = path.file_name().and_then(OsStr::to_str).ok_or(Errno::INVAL)?;
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

fn open_folder(folder: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Removes a socket on which nobody answers. `Some`: somebody does, with the process id if the kernel knows it.
fn remove_stale(
    asked: &str,
    path: &Path,
    address: &SocketAddrUnix,
    kind: SocketType,
) -> Result<Option<Option<i32>>, Refusal> {
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(of_io(asked, &error)),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => {
            let answer = format!("{} is there, and it is no socket", path.display());
            let refusal = Refusal::new(RefusalKind::Exists, asked, answer);
            return Err(refusal.help("remove it, or set another `control`"));
        }
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe =
        socket_with(AddressFamily::UNIX, kind, flags, None).map_err(|errno| of_io(asked, &errno.into()))?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {
            fs::remove_file(path).map_err(|error| of_io(asked, &error))?;
            Ok(None)
        }
        // EAGAIN: it listens, and its queue is full.
        Ok(()) | Err(Errno::AGAIN) => {
            Ok(Some(sockopt::socket_peercred(&probe).map(|peer| peer.pid.as_raw_nonzero().get()).ok()))
        }
        Err(errno) => Err(of_io(asked, &errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn claimed(path: &Path) -> Sockets {
        match Sockets::claim(path) {
            Ok(Claim::Ours(sockets)) => sockets,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sockets_in_use_are_left_alone_and_stale_ones_replaced() {
        let folder = super::super::places::tests::Folder::new("socket");
        let path = folder.0.join("run/control.sock");
        let first = claimed(&path);
        for file in [&path, &folder.0.join("run/control.sock.keeper")] {
            assert_eq!(fs::metadata(file).unwrap().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::metadata(folder.0.join("run")).unwrap().mode() & 0o777, 0o700);
        UnixStream::connect(&path).unwrap();

        let Ok(Claim::Occupied(occupant)) = Sockets::claim(&path) else { panic!("not occupied") };
        let refusal = occupant.is_running();
        assert_eq!(refusal.kind, RefusalKind::Exists);
        let expected = format!("already running, pid {}", std::process::id());
        assert!(refusal.to_string().contains(&expected), "{refusal}");
        assert!(occupant.meet().unwrap().is_some());
        drop(first.handover);
        assert!(occupant.meet().unwrap().is_none(), "nobody hands over");

        drop(first.control); // died without a word
        let second = claimed(&path);
        UnixStream::connect(&path).unwrap();
        second.remove();
        assert!(!path.exists() && !folder.0.join("run/control.sock.keeper").exists());
        fs::write(&path, "").unwrap();
        assert!(Sockets::claim(&path).unwrap_err().to_string().contains("no socket"));
        second.remove();
        assert!(path.exists(), "not ours any more");
    }

    #[test]
    fn what_is_inherited_goes_on_and_is_removed_by_the_heir() {
        let folder = super::super::places::tests::Folder::new("inherit");
        let path = folder.0.join("control.sock");
        let Sockets { control, handover } = claimed(&path);
        let heir = Sockets::inherit(&path, control.listener, handover.listener).unwrap();
        heir.announce();
        UnixStream::connect(&path).unwrap();
        heir.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_path_that_is_too_long_is_told() {
        let path = std::env::temp_dir().join("x".repeat(120));
        assert!(Sockets::claim(&path).unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn a_folder_open_to_others_is_no_place_for_it() {
        let folder = super::super::places::tests::Folder::new("open");
        fs::set_permissions(&folder.0, Permissions::from_mode(0o777)).unwrap();
        assert!(Sockets::claim(&folder.0.join("c")).unwrap_err().to_string().contains("others may write"));
    }
}
