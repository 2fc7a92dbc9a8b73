//! The two places of the daemon in the file system: the control socket and the state folder.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with, sockopt,
};
use rustix::process::geteuid;

use crate::wire::{Refusal, RefusalKind};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// The state folder, locked for one daemon as long as this lives.
#[derive(Debug)]
pub(super) struct StateFolder {
    _lock: OwnedFd,
}

impl StateFolder {
    /// Makes the folder (0700) if it is missing. A symbolic link, someone else's folder, one that others may write to
    /// or one in use by another daemon is refused: what lies in it decides what we remove.
    pub(super) fn open(path: &Path) -> Result<Self, Refusal> {
        let asked = format!("state folder {}", path.display());
        let refuse = |answer: &str| Refusal::new(RefusalKind::Denied, &asked, answer);
        make_folder(path).map_err(|error| of_io(&asked, &error))?;
        let metadata = fs::symlink_metadata(path).map_err(|error| of_io(&asked, &error))?;
        if metadata.is_symlink() {
            return Err(refuse("it is a symbolic link").help("name the folder itself"));
        }
        if !metadata.is_dir() {
            return Err(refuse("it is not a folder"));
        }
        if metadata.uid() != geteuid().as_raw() {
            return Err(refuse(&format!("it belongs to user {}", metadata.uid()))
                .help(format!("chown it to user {}, or set another `state`", geteuid().as_raw())));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(refuse("others may write to it").help(format!("chmod 0700 {}", path.display())));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| of_io(&asked, &errno.into()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(Errno::WOULDBLOCK) => {
                Err(Refusal::new(RefusalKind::Exists, &asked, "another vswitchd uses it"))
            }
            Err(errno) => Err(of_io(&asked, &errno.into())),
        }
    }
}

/// The listening control socket; [`ControlSocket::remove`] takes it away again.
#[derive(Debug)]
pub(super) struct ControlSocket {
    pub(super) listener: OwnedFd,
    path: PathBuf,
    identity: (u64, u64),
}

impl ControlSocket {
    /// Binds and listens, mode 0600; the folder is made (0700) if it is missing. The socket of a daemon that answers is
    /// left alone, one that nobody answers on is replaced.
    pub(super) fn bind(path: &Path) -> Result<Self, Refusal> {
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
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = rustix::fs::open(folder, flags, Mode::empty()).map_err(|errno| failed(&errno.into()))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed(&errno.into()))?;
        remove_stale(&asked, path, &address)?;

        let listen_there = || -> io::Result<Self> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            bind(&listener, &address)?;
            // Nobody can connect before `listen`, so there is no moment with another mode.
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            let identity = identity(&fs::symlink_metadata(path)?);
            listen(&listener, BACKLOG)?;
            Ok(Self { listener, path: path.to_owned(), identity })
        };
        listen_there().map_err(|error| failed(&error))
    }

    /// Removes the socket file, if it is still ours.
    pub(super) fn remove(&self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "control socket");
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// # Errors
/// "Already running" if someone answers.
fn remove_stale(asked: &str, path: &Path, address: &SocketAddrUnix) -> Result<(), Refusal> {
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(of_io(asked, &error)),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => {
            let refusal =
                Refusal::new(RefusalKind::Exists, asked, "there is a file of that name, and it is no socket");
            return Err(refusal.help("remove it, or set another `control`"));
        }
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|errno| of_io(asked, &errno.into()))?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(|error| of_io(asked, &error)),
        // EAGAIN: it listens, and its queue is full.
        Ok(()) | Err(Errno::AGAIN) => {
            let pid = sockopt::socket_peercred(&probe).map(|peer| peer.pid.as_raw_nonzero().get());
            let who = pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
            Err(Refusal::new(RefusalKind::Exists, asked, format!("vswitchd is already running{who}"))
                .help("stop it, or set another `control` and `state`"))
        }
        Err(errno) => Err(of_io(asked, &errno.into())),
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(path)
        }
        Err(error) => Err(error),
    }
}

/// A folder in which others could replace our socket is no place for it; the sticky bit (`/tmp`) prevents that.
fn check_folder(asked: &str, folder: &Path) -> Result<(), Refusal> {
    let metadata = fs::metadata(folder).map_err(|error| of_io(asked, &error))?;
    let refuse = |answer: String| Err(Refusal::new(RefusalKind::Denied, asked, answer));
    let us = geteuid().as_raw();
    if metadata.uid() != us && metadata.uid() != 0 {
        return refuse(format!("its folder belongs to user {}", metadata.uid()));
    }
    if metadata.mode() & 0o022 != 0 && metadata.mode() & 0o1000 == 0 {
        return refuse("others may write to its folder".to_owned())
            .map_err(|refusal| refusal.help(format!("chmod 0700 {}", folder.display())));
    }
    Ok(())
}

fn of_io(asked: &str, error: &io::Error) -> Refusal {
    match Errno::from_io_error(error) {
        Some(errno) => Refusal::of_errno(asked, errno),
        None => Refusal::new(RefusalKind::Failed, asked, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("vswitch-places-{test}-{}", std::process::id()));
            fs::create_dir(&folder).unwrap();
            fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_socket_in_use_is_left_alone_and_a_stale_one_replaced() {
        let folder = Folder::new("socket");
        let path = folder.0.join("run/control.sock");
        let first = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(folder.0.join("run")).unwrap().mode() & 0o777, 0o700);
        UnixStream::connect(&path).unwrap();

        let refusal = ControlSocket::bind(&path).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Exists);
        let expected = format!("already running, pid {}", std::process::id());
        assert!(refusal.to_string().contains(&expected), "{refusal}");

        drop(first.listener); // died without a word
        let second = ControlSocket::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        second.remove();
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        assert!(ControlSocket::bind(&path).unwrap_err().to_string().contains("no socket"));
        second.remove();
        assert!(path.exists(), "not ours any more");
    }

    #[test]
    fn a_state_folder_belongs_to_one_daemon() {
        let folder = Folder::new("state");
        let path = folder.0.join("state");
        let first = StateFolder::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert!(StateFolder::open(&path).unwrap_err().to_string().contains("another vswitchd"));
        drop(first);
        StateFolder::open(&path).unwrap();
        let link = folder.0.join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(StateFolder::open(&link).unwrap_err().to_string().contains("symbolic link"));
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        assert!(StateFolder::open(&path).unwrap_err().to_string().contains("others may write"));
        assert!(ControlSocket::bind(&path.join("c")).unwrap_err().to_string().contains("others may write"));
    }

    #[test]
    fn a_path_that_is_too_long_is_told() {
        let path = std::env::temp_dir().join("x".repeat(120));
        assert!(ControlSocket::bind(&path).unwrap_err().to_string().contains("too long"));
    }
}
