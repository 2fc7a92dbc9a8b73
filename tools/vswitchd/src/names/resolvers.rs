//! The host's resolvers: `/etc/resolv.conf` (resolv.conf(5)), as it is now.
//!
//! It is looked at when somebody asks, at most once a second, by its path: a file that was replaced, or a link that was
//! turned to another, is another file. The rest of the time it costs nothing.

use std::fs::{self, File};
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Where the host names its resolvers.
pub const PATH: &str = "/etc/resolv.conf";
/// Resolvers that are asked at most, as the C library does.
const MOST: usize = 3;
/// Bytes that are read at most.
const MAX_BYTES: u64 = 64 * 1024;
/// How often it is looked at.
const PACE: Duration = Duration::from_secs(1);
/// How long a resolver has for its answer, unless `options timeout:` says otherwise: half of what clients wait, so that
/// the next one has a chance.
const TIMEOUT: Duration = Duration::from_secs(2);
const DNS: u16 = 53;

/// What the file says.
#[derive(Debug)]
pub struct Upstream {
    /// Whom to ask, in order.
    pub servers: Vec<SocketAddr>,
    /// How long each has for its answer.
    pub timeout: Duration,
    /// How often all of them are asked.
    pub attempts: u32,
    /// The one that answered last: it is asked first.
    preferred: AtomicUsize,
}

impl Default for Upstream {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: TIMEOUT, attempts: 2, preferred: AtomicUsize::new(0) }
    }
}

impl PartialEq for Upstream {
    fn eq(&self, other: &Self) -> bool {
        (&self.servers, self.timeout, self.attempts) == (&other.servers, other.timeout, other.attempts)
    }
}

impl Upstream {
    /// What the text of a `resolv.conf` says. What is not understood is left out, as everywhere.
    pub fn parse(text: &str) -> Self {
        let mut upstream = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") if upstream.servers.len() < MOST => {
                    upstream.servers.extend(words.next().and_then(server));
                }
                Some("options") => words.for_each(|word| upstream.option(word)),
                _ => {}
            }
        }
        upstream
    }

    fn option(&mut self, word: &str) {
        let Some((name, value)) = word.split_once(':') else { return };
        let Ok(value) = value.parse::<u32>() else { return };
        match name {
            "timeout" => self.timeout = Duration::from_secs(u64::from(value.clamp(1, 5))),
            "attempts" => self.attempts = value.clamp(1, 5),
            _ => {}
        }
    }

    /// Whom to ask, one after the other: who answered last, then the others in their order.
    pub fn turns(&self) -> impl Iterator<Item = (usize, SocketAddr)> + '_ {
        let first = self.preferred.load(Ordering::Relaxed);
        let numbered = || self.servers.iter().copied().enumerate();
        numbered().filter(move |(n, _)| *n == first).chain(numbered().filter(move |(n, _)| *n != first))
    }

    /// This one answered.
    pub fn prefer(&self, number: usize) {
        self.preferred.store(number, Ordering::Relaxed);
    }
}

/// An address, with the interface it is on where it is link-local.
fn server(text: &str) -> Option<SocketAddr> {
    let Some((address, scope)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, DNS));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let index = scope.parse().ok().or_else(|| {
        let plain = !scope.contains('/') && scope != "..";
        let text =
            fs::read_to_string(Path::new("/sys/class/net").join(plain.then_some(scope)?).join("ifindex"));
        text.ok()?.trim().parse().ok()
    })?;
    Some(SocketAddrV6::new(address, DNS, 0, index).into())
}

/// By which a file is known to be another than before.
type Stamp = (u64, u64, u64, i64, i64);

/// The file, watched.
#[derive(Debug)]
pub struct Resolvers {
    path: PathBuf,
    looked: Option<Instant>,
    stamp: Option<Stamp>,
    current: Arc<Upstream>,
}

impl Resolvers {
    /// Those of the file at `path`, which is not looked at yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), looked: None, stamp: None, current: Arc::default() }
    }

    /// The resolvers as of now, or a second ago at most.
    ///
    /// # Syscalls
    /// `statx`; `openat` and `read` where the file changed
    pub fn current(&mut self, now: Instant) -> Arc<Upstream> {
        if self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= PACE) {
            self.looked = Some(now);
            self.look();
        }
        Arc::clone(&self.current)
    }

    fn look(&mut self) {
        let stamp = fs::metadata(&self.path)
            .ok()
            .map(|file| (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()));
        if stamp == self.stamp && stamp.is_some() {
            return;
        }
        self.stamp = stamp;
        let new = Upstream::parse(&read(&self.path).unwrap_or_default());
        if new != *self.current {
            tracing::info!(path = %self.path.display(), servers = ?new.servers, "the host's resolvers");
            self.current = Arc::new(new);
        }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_understood() {
        let text = "# made by hand\nsearch example.com\nnameserver 192.0.2.1\nnameserver\nnameserver nonsense\n\
                    nameserver\tfd00::53\nnameserver fe80::1%7\nnameserver 192.0.2.4\n\
                    options ndots:1 timeout:1 attempts:9 rotate timeout:x\n; the end";
        let upstream = Upstream::parse(text);
        let servers: Vec<String> = upstream.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[fd00::53]:53", "[fe80::1%7]:53"], "three, as the C library");
        assert_eq!((upstream.timeout, upstream.attempts), (Duration::from_secs(1), 5));
        assert_eq!(Upstream::parse(""), Upstream::default());
    }

    #[test]
    fn who_answered_last_is_asked_first() {
        let upstream = Upstream::parse("nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n");
        let order = || upstream.turns().map(|(number, _)| number).collect::<Vec<_>>();
        assert_eq!(order(), [0, 1, 2]);
        upstream.prefer(2);
        assert_eq!(order(), [2, 0, 1]);
    }

    #[test]
    fn a_file_that_is_replaced_is_read_again() {
        let folder = std::env::temp_dir().join(format!("vswitch-resolvers-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("resolv.conf");
        let mut resolvers = Resolvers::new(&path);
        let start = Instant::now();
        let mut servers = |seconds: u64| {
            resolvers
                .current(start + Duration::from_secs(seconds))
                .servers
                .iter()
                .map(|s| s.ip().to_string())
                .collect::<Vec<_>>()
        };
        assert!(servers(0).is_empty(), "no file");
        fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert!(servers(0).is_empty(), "not yet looked at again");
        assert_eq!(servers(1), ["192.0.2.1"]);
        fs::write(folder.join("new"), "nameserver 192.0.2.2\n").unwrap();
        fs::rename(folder.join("new"), &path).unwrap();
        assert_eq!(servers(2), ["192.0.2.2"]);
        fs::write(folder.join("other"), "nameserver 192.0.2.33\n").unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("other", &path).unwrap();
        assert_eq!(servers(3), ["192.0.2.33"]);
        fs::remove_dir_all(folder).unwrap();
        assert!(servers(4).is_empty());
    }
}
