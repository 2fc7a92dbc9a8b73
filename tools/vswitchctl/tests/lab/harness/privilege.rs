//! What an ordinary user needs to run a daemon: an account, `/dev/net/tun`, and programs that it can read.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use super::{names, run};

/// A user of its own, removed at the end.
pub struct User {
    pub name: String,
    pub id: u32,
}

impl User {
    pub fn make(tag: &str) -> Self {
        let name = format!("vswt{tag}");
        let _one_at_a_time = lock("vswt-users.lock", rustix::fs::FlockOperation::LockExclusive);
        run(
            "useradd",
            &["--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", &name],
        );
        let output = Command::new("id").args(["-u", &name]).output().unwrap();
        let id = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        Self { name, id }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _one_at_a_time = lock("vswt-users.lock", rustix::fs::FlockOperation::LockExclusive);
        // Its processes are gone or going; the account is what is removed.
        let _ = Command::new("userdel").args(["--force", &self.name]).stderr(Stdio::null()).status();
    }
}

/// `/dev/net/tun` open to everybody, for as long as any test holds this; then as it was.
pub struct OpenTun {
    _lock: File,
}

const TUN: &str = "/dev/net/tun";
const TUN_MODE: &str = "vswt-tun.mode";

impl OpenTun {
    pub fn open() -> Self {
        let gate = lock("vswt-tun.gate", rustix::fs::FlockOperation::LockExclusive);
        let mode = fs::metadata(TUN).unwrap().mode() & 0o7777;
        let kept = std::env::temp_dir().join(TUN_MODE);
        if mode & 0o006 != 0o006 {
            fs::write(&kept, mode.to_string()).unwrap();
            fs::set_permissions(TUN, fs::Permissions::from_mode(0o666)).unwrap();
        }
        let shared = lock("vswt-tun.lock", rustix::fs::FlockOperation::LockShared);
        drop(gate);
        Self { _lock: shared }
    }
}

impl Drop for OpenTun {
    fn drop(&mut self) {
        let _gate = lock("vswt-tun.gate", rustix::fs::FlockOperation::LockExclusive);
        // Only the last holder gets it alone.
        if rustix::fs::flock(&self._lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
            let kept = std::env::temp_dir().join(TUN_MODE);
            if let Some(mode) = fs::read_to_string(&kept).ok().and_then(|mode| mode.parse().ok()) {
                let _ = fs::set_permissions(TUN, fs::Permissions::from_mode(mode));
                let _ = fs::remove_file(kept);
            }
        }
    }
}

fn lock(name: &str, operation: rustix::fs::FlockOperation) -> File {
    let path = std::env::temp_dir().join(name);
    let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
    rustix::fs::flock(&file, operation).unwrap();
    file
}

/// The folder of the two programs, where every user can run them.
pub fn binaries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let built = Path::new(env!("CARGO_BIN_EXE_vswitchctl")).parent().unwrap();
        let daemon = built.join("vswitchd");
        assert!(daemon.exists(), "{} is not built: cargo build --workspace --bins", daemon.display());
        let stamp: i64 = ["vswitchd", "vswitchctl"]
            .iter()
            .map(|name| fs::metadata(built.join(name)).unwrap())
            .map(|metadata| metadata.mtime().wrapping_mul(1_000_000_007).wrapping_add(metadata.mtime_nsec()))
            .fold(0, i64::wrapping_add);
        let folder = std::env::temp_dir().join(format!("vswt-bin-{:016x}", stamp));
        let _one_at_a_time = lock("vswt-bin.lock", rustix::fs::FlockOperation::LockExclusive);
        if !folder.exists() {
            remove_old_binaries();
            let new = folder.with_extension("new");
            let _ = fs::remove_dir_all(&new);
            fs::create_dir(&new).unwrap();
            for name in ["vswitchd", "vswitchctl"] {
                // Debug information makes them large: a link where that is possible.
                let (from, to) = (built.join(name), new.join(name));
                fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(|_| ())).unwrap();
                fs::set_permissions(new.join(name), fs::Permissions::from_mode(0o755)).unwrap();
            }
            fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(new, &folder).unwrap();
        }
        folder
    })
}

/// Removes those of earlier builds; no test runs for an hour.
fn remove_old_binaries() {
    let temporary = std::env::temp_dir();
    for name in names(&temporary).iter().filter(|name| name.starts_with("vswt-bin-")) {
        let folder = temporary.join(name);
        let age = fs::metadata(&folder).and_then(|metadata| metadata.modified()).map(|made| made.elapsed());
        if matches!(age, Ok(Ok(age)) if age > Duration::from_secs(3600)) {
            let _ = fs::remove_dir_all(folder);
        }
    }
}
