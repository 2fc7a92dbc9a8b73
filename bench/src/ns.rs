//! Network namespaces with random names, removed with their guard, and the sysctls a fair race needs.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{Error, Result};
use crate::process;

const NETNS_DIR: &str = "/run/netns";
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
/// What every TCP of the race uses: some kernels default to bbr, whose pacing halves and scatters every figure.
pub const CONGESTION_CONTROL: &str = "cubic";

/// A random family of names, `vsb-XXXXXX-…`: two races on one machine never meet.
#[derive(Debug, Clone)]
pub struct Family {
    prefix: String,
}

impl Family {
    /// Draws a name.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn random() -> Result<Self> {
        let mut bytes = [0u8; 6];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(Error::io("random bytes for a name"))?;
        let letter = |byte: &u8| char::from(b'a'.saturating_add(byte % 26));
        Ok(Self { prefix: format!("vsb-{}", bytes.iter().map(letter).collect::<String>()) })
    }

    /// The full name of one member, such as `vsb-qwerty-a`.
    pub fn name(&self, member: &str) -> String {
        format!("{}-{member}", self.prefix)
    }

    /// The name all members begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// A namespace in `/run/netns`; `Drop` removes it if it is there.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes the namespace, with loopback up.
    ///
    /// # Errors
    /// When `ip` refuses.
    ///
    /// # Privileges
    /// `CAP_SYS_ADMIN`.
    pub fn create(name: String) -> Result<Self> {
        process::run("ip", &["netns", "add", &name])?;
        let netns = Self { name };
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// A namespace somebody else makes (`create = true`) and removes; the guard removes it should they fail to.
    pub fn expected(name: String) -> Self {
        Self { name }
    }

    /// The name in `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Runs `ip -n NAME …`.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn ip(&self, args: &[&str]) -> Result<()> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend_from_slice(args);
        process::run("ip", &all).map(drop)
    }

    /// Runs a tool in this namespace to its end.
    ///
    /// # Errors
    /// When it fails.
    pub fn exec(&self, argv: &[&str]) -> Result<()> {
        let mut all = vec!["enter", self.name.as_str(), "--"];
        all.extend_from_slice(argv);
        let argv = process::own(&all)?;
        let args: Vec<&str> = argv.iter().skip(1).map(String::as_str).collect();
        process::run(argv.first().map_or("", String::as_str), &args).map(drop)
    }

    /// Runs `work` in this namespace, on a throwaway thread.
    ///
    /// # Errors
    /// When the namespace cannot be entered, and whatever `work` gives.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let body = || {
                enter(&self.name)?;
                work()
            };
            scope.spawn(body).join().unwrap_or_else(|_| {
                Err(Error::Answer { who: "a thread in a namespace", detail: "it panicked".into() })
            })
        })
    }

    /// Gives the interface an address (`10.0.0.1/24`) and brings it up.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn address(&self, link: &str, address: &str) -> Result<()> {
        self.ip(&["addr", "add", address, "dev", link])?;
        self.ip(&["link", "set", link, "up"])
    }

    /// Moves one of this namespace's links into another one, under a new name.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn give_link(&self, link: &str, to: &Self, name: &str) -> Result<()> {
        self.ip(&["link", "set", "dev", link, "netns", to.name(), "name", name])
    }

    /// Writes a sysctl of this namespace, named by its path below `/proc/sys`.
    ///
    /// # Errors
    /// When the kernel refuses the value.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys").join(path);
        self.within(|| fs::write(&file, value).map_err(Error::io(format!("{value} into {}", file.display()))))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if path_of(&self.name).exists() {
            // A failure here has no one left to hear it, and the name says whose it was.
            let _ = process::run("ip", &["netns", "del", &self.name]);
        }
    }
}

fn path_of(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Moves the calling thread into a namespace, for good.
///
/// # Errors
/// When it is not there, or the kernel refuses.
///
/// # Privileges
/// `CAP_SYS_ADMIN`.
pub fn enter(name: &str) -> Result<()> {
    let path = path_of(name);
    let file = File::open(&path).map_err(Error::io(format!("open {}", path.display())))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(Error::io(format!("enter namespace {name}")))
}

/// Allows cubic in namespaces while it lives, and puts the host's list back.
#[derive(Debug)]
pub struct CubicAllowed {
    before: Option<String>,
}

impl CubicAllowed {
    /// Adds cubic to `tcp_allowed_congestion_control` where it is missing.
    ///
    /// # Errors
    /// When the sysctl cannot be read or written, for example because the kernel has no cubic.
    pub fn ensure() -> Result<Self> {
        let before = fs::read_to_string(ALLOWED).map_err(Error::io(format!("read {ALLOWED}")))?;
        if before.split_whitespace().any(|name| name == CONGESTION_CONTROL) {
            return Ok(Self { before: None });
        }
        let more = format!("{} {CONGESTION_CONTROL}", before.trim());
        fs::write(ALLOWED, more).map_err(Error::io(format!("add {CONGESTION_CONTROL} to {ALLOWED}")))?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for CubicAllowed {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // The host's list is as wide as we left it, which harms nothing.
            let _ = fs::write(ALLOWED, before.trim());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_differ() {
        let (one, two) = (Family::random().unwrap(), Family::random().unwrap());
        assert_ne!(one.prefix(), two.prefix());
        assert_eq!(one.name("a").len(), "vsb-XXXXXX-a".len());
        assert!(one.name("a").starts_with(one.prefix()));
    }
}
