//! A real `vswitchd` on real namespaces, as root and as an ordinary user, driven by the real `vswitchctl`.
//!
//! Everything has random names and is removed at the end, whatever happened. Nothing sleeps to wait: [`wait_for`] looks
//! until its deadline.

mod daemon;
mod host;
mod privilege;
mod process;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

pub use daemon::Daemon;
pub use host::{Contained, Host};
pub use privilege::binaries;
pub use process::{Background, Train, arguments, children_of, cpu_seconds, descriptors, gone, resident};

/// How long anything may take that takes milliseconds on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// As whom the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As {
    Root,
    User,
}

/// Makes `#[test]`s of a function: once as root, once as an ordinary user.
#[macro_export]
macro_rules! as_both {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => { $(
        mod $name {
            #[test]
            fn as_root() {
                if let Some(host) = $crate::harness::Host::new($crate::harness::As::Root) { super::$name(host) }
            }
            #[test]
            fn as_user() {
                if let Some(host) = $crate::harness::Host::new($crate::harness::As::User) { super::$name(host) }
            }
        }
    )+ };
}

/// The I/O engine that `io = "auto"` does not choose where both work. What is most likely to fail by an engine is run with
/// it once more; `VSWITCH_LAB_IO=epoll` (or `uring`, `auto`) runs everything with that one, and nothing twice.
pub const OTHER_ENGINE: &str = "epoll";

/// Makes `#[test]`s of functions, as root and with [`OTHER_ENGINE`].
#[macro_export]
macro_rules! on_other_engine {
    ($($name:ident),+ $(,)?) => { mod on_other_engine { $(
        #[test]
        fn $name() {
            use $crate::harness::{As, Host};
            if let Some(host) = Host::new(As::Root).and_then(Host::on_other_engine) { super::$name(host) }
        }
    )+ } };
}

/// Makes `#[test]`s of functions, as root and with two workers, of which each reads every other port: what one worker does
/// by itself is done between two. `VSWITCH_LAB_WORKERS=2` runs everything so, and nothing twice.
#[macro_export]
macro_rules! by_two_workers {
    ($($name:ident),+ $(,)?) => { mod by_two_workers { $(
        #[test]
        fn $name() {
            use $crate::harness::{As, Host};
            if let Some(host) = Host::new(As::Root).and_then(Host::by_two_workers) { super::$name(host) }
        }
    )+ } };
}

/// Looks until `look` finds something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10)); // the pace of looking, not the wait
    }
}

/// A program in Python that runs in a container; the words after it are its arguments.
pub const PYTHON: &str = "/usr/bin/python3";

/// A test, or a part of it, cannot have what it needs: said, and a failure where it must run.
#[track_caller]
pub fn skipped(why: &str) {
    eprintln!("skipped: {why}");
    assert!(std::env::var_os("CI").is_none(), "skipped where it must run: {why}");
}

/// Runs a command that must succeed.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Both outputs of a command, for messages.
pub fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}{err}", output.status)
}

pub fn random() -> u32 {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    u32::from_ne_bytes(bytes)
}

/// Names in a folder; none if it is not there.
pub fn names(folder: impl AsRef<Path>) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
