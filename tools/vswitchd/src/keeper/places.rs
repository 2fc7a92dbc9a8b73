//! The state folder of the daemon, and what is asked of folders.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::process::geteuid;
use switch::sys::netns;

use crate::wire::{Refusal, RefusalKind};

/// Says that a folder is a state folder of ours.
const MARK: &str = ".vswitchd";

/// The state folder, locked for one daemon as long as this lives.
#[derive(Debug)]
pub(super) struct StateFolder {
    lock: OwnedFd,
}

impl StateFolder {
    /// Makes the folder (0700) if it is missing. A symbolic link, someone else's folder, one that others may write to,
    /// one with things in it that are not ours or one in use by another daemon is refused: what lies in it decides what we
    /// remove.
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
            Ok(()) => {
                mark(path, &asked)?;
                Ok(Self { lock })
            }
            Err(Errno::WOULDBLOCK) => {
                Err(Refusal::new(RefusalKind::Exists, &asked, "another vswitchd uses it"))
            }
            Err(errno) => Err(of_io(&asked, &errno.into())),
        }
    }

    /// The folder of a daemon that hands over, with its lock if it lives. It must be the one at `path`.
    pub(super) fn inherit(path: &Path, theirs: (u64, u64), lock: Option<OwnedFd>) -> Result<Self, Refusal> {
        let asked = format!("state folder {}", path.display());
        let ours = netns::identity_of(path).map_err(|error| of_io(&asked, &error))?;
        if ours != theirs {
            return Err(Refusal::new(RefusalKind::Failed, asked, "the running daemon uses another one")
                .help("set `state` to the one that it was started with"));
        }
        match lock {
            // The lock belongs to the open file, and stays when its first holder ends.
            Some(lock) => Ok(Self { lock }),
            None => Self::open(path),
        }
    }

    /// What is handed over.
    pub(super) fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

/// Marks an empty folder as ours; any other must have the mark.
fn mark(path: &Path, asked: &str) -> Result<(), Refusal> {
    let mark = path.join(MARK);
    if fs::symlink_metadata(&mark).is_ok() {
        return Ok(());
    }
    let first = fs::read_dir(path).map_err(|error| of_io(asked, &error))?.next();
    if let Some(Ok(entry)) = first {
        let answer =
            format!("it has things in it that are not a vswitchd's: {}", entry.file_name().display());
        let help =
            format!("set `state` to a folder of its own; if it is one of ours, touch {}", mark.display());
        return Err(Refusal::new(RefusalKind::Denied, asked, answer).help(help));
    }
    fs::write(mark, "What lies here is written and removed by vswitchd.\n")
        .map_err(|error| of_io(asked, &error))
}

pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(path)
        }
        Err(error) => Err(error),
    }
}

/// A folder in which others could replace our socket is no place for it; the sticky bit (`/tmp`) prevents that.
pub(super) fn check_folder(asked: &str, folder: &Path) -> Result<(), Refusal> {
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

pub(super) fn of_io(asked: &str, error: &io::Error) -> Refusal {
    match Errno::from_io_error(error) {
        Some(errno) => Refusal::of_errno(asked, errno),
        None => Refusal::new(RefusalKind::Failed, asked, error),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    pub(in super::super) struct Folder(pub(in super::super) PathBuf);

    impl Folder {
        pub(in super::super) fn new(test: &str) -> Self {
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
    fn a_state_folder_belongs_to_one_daemon() {
        let folder = Folder::new("state");
        let path = folder.0.join("state");
        let first = StateFolder::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert!(StateFolder::open(&path).unwrap_err().to_string().contains("another vswitchd"));
        drop(first);
        StateFolder::open(&path).unwrap();
        // Nothing in it is touched that somebody else put there.
        let foreign = folder.0.join("foreign");
        fs::create_dir_all(foreign.join("containers/theirs")).unwrap();
        let refusal = StateFolder::open(&foreign).unwrap_err().to_string();
        assert!(refusal.contains("containers") && refusal.contains("touch"), "{refusal}");
        assert!(foreign.join("containers/theirs").exists() && !foreign.join(MARK).exists());
        fs::write(foreign.join(MARK), "").unwrap();
        StateFolder::open(&foreign).unwrap();
        let link = folder.0.join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(StateFolder::open(&link).unwrap_err().to_string().contains("symbolic link"));
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        assert!(StateFolder::open(&path).unwrap_err().to_string().contains("others may write"));
    }
}
