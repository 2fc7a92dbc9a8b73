//! Single values: what is right for each key, wherever it comes from.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use switch::mac::MacAddr;

use super::MAX_WORKERS;
use super::model::{Io, Spoof, Uplink, Workers};
use super::problem::{Problem, What, clip, nearest};

/// A number as it was written, which may be larger than any integer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Number {
    pub text: String,
    pub value: Option<i64>,
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self { text: value.to_string(), value: Some(value) }
    }
}

/// What a number may be, and why.
#[derive(Debug)]
pub(super) struct Bounds {
    pub key: &'static str,
    pub low: u32,
    pub high: u32,
    pub why: &'static str,
}

/// Bytes of an IP packet.
pub(super) const MTU: Bounds = Bounds {
    key: "mtu",
    low: 68,
    high: 65_521, // tun.c: 65535 less the Ethernet header
    why: "IPv4 needs 68 bytes (RFC 791), and the kernel's TAP takes 65521 at most",
};
/// Seconds.
pub(super) const AGEING: Bounds =
    Bounds { key: "ageing", low: 10, high: 1_000_000, why: "seconds; the usual is 300" };
/// Entries.
pub(super) const FDB_LIMIT: Bounds =
    Bounds { key: "fdb_limit", low: 16, high: 1 << 20, why: "entries, all of them held in memory" };
/// Frames per second.
pub(super) const STORM: Bounds =
    Bounds { key: "storm", low: 0, high: 1_000_000_000, why: "frames per second and port; 0 is no limit" };

impl Bounds {
    /// The number, if it is within.
    pub fn check(&self, number: &Number) -> Result<u32, Problem> {
        let value = number.value.and_then(|value| u32::try_from(value).ok());
        value.filter(|value| (self.low..=self.high).contains(value)).ok_or_else(|| Problem::Invalid {
            key: self.key,
            found: number.text.clone(),
            why: format!("it must be {} to {}: {}", self.low, self.high, self.why).into(),
        })
    }
}

/// [`MTU`] as its own type.
pub(super) fn mtu(number: &Number) -> Result<u16, Problem> {
    MTU.check(number).map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX))
}

/// The name of a network or a container.
pub(super) fn name(what: What, text: &str) -> Result<String, Problem> {
    const LONGEST: usize = 63; // a DNS label (RFC 1035 section 2.3.4): names become host names
    let fits = (1..=LONGEST).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if fits {
        return Ok(text.to_owned());
    }
    let why = format!(
        "the name of a {what} is 1 to 63 letters, digits, `_`, `.` and `-`, and starts with a letter or digit"
    );
    Err(Problem::invalid("name", text, why))
}

/// The name of a device in a container: what the kernel's `dev_valid_name` takes, less what it would change or mistake.
pub(super) fn interface_name(text: &str) -> Result<String, Problem> {
    const LONGEST: usize = 15; // IFNAMSIZ less the NUL
    let why = if text.is_empty() || text.len() > LONGEST {
        "the kernel takes names of 1 to 15 bytes"
    } else if text == "." || text == ".." || text.contains(['/', ':', '%']) {
        "the kernel takes no `/`, `:` or `%` in a name, and not `.` or `..`"
    } else if !text.chars().all(|c| c.is_ascii_graphic()) {
        "a name is printable ASCII without blanks"
    } else if text == "lo" {
        "`lo` is the loopback interface, which every namespace has already"
    } else if text == "all" || text == "default" {
        "the kernel keeps `all` and `default` for settings of every interface"
    } else {
        return Ok(text.to_owned());
    };
    Err(Problem::invalid("name", text, why))
}

/// An IPv4 prefix that hosts can be in.
pub(super) fn subnet(text: &str) -> Result<Ipv4Net, Problem> {
    let subnet = prefix("subnet", text, 24)?;
    let refuse = |why: String| Err(Problem::invalid("subnet", text, why));
    for (text, use_of) in
        [("0.0.0.0/8", "this host"), ("127.0.0.0/8", "loopback"), ("224.0.0.0/3", "multicast and reserved")]
    {
        // RFC 1122 section 3.2.1.3: none of these is a host on a network.
        if text.parse::<Ipv4Net>().is_ok_and(|special| overlap(&special.into(), &subnet.into())) {
            return refuse(format!("it meets {text}, which is for {use_of}: try \"10.1.0.0/24\""));
        }
    }
    if subnet.prefix_len() == 32 {
        return refuse("one address is no network: the longest prefix is /31 (RFC 3021)".into());
    }
    Ok(subnet)
}

/// What a route can lead to: any host or hosts, down to one, up to all.
pub(super) fn destination(text: &str) -> Result<Ipv4Net, Problem> {
    let destination = prefix("destination", text, 32)?;
    for (special, use_of) in [("127.0.0.0/8", "loopback"), ("224.0.0.0/3", "multicast and reserved")] {
        if special.parse::<Ipv4Net>().is_ok_and(|special| special.contains(&destination)) {
            let why = format!("it is in {special}, which is for {use_of}: no route leads there");
            return Err(Problem::invalid("destination", text, why));
        }
    }
    Ok(destination)
}

// An IPv4 prefix without host bits; `usual` is the length that an address alone probably stands for.
fn prefix(key: &'static str, text: &str, usual: u8) -> Result<Ipv4Net, Problem> {
    let refuse = |why: String| Err(Problem::invalid(key, text, why));
    let Ok(prefix) = text.parse::<Ipv4Net>() else {
        return if text.parse::<Ipv6Net>().is_ok() || text.parse::<Ipv6Addr>().is_ok() {
            refuse(format!("`{key}` is an IPv4 prefix; the IPv6 one is `subnet6 = \"{text}\"`"))
        } else if text.parse::<Ipv4Addr>().is_ok() {
            refuse(format!("it lacks a prefix length: \"{text}/{usual}\""))
        } else if let Some(prefix) = with_netmask(text) {
            refuse(format!("a prefix length takes the place of a netmask: \"{prefix}\""))
        } else {
            refuse("an IPv4 prefix is four numbers up to 255 and a length up to 32: \"10.1.0.0/24\"".into())
        };
    };
    if prefix != prefix.trunc() {
        return refuse(format!("host bits are set: did you mean \"{}\"?", prefix.trunc()));
    }
    Ok(prefix)
}

/// Whether two prefixes share an address. Prefixes nest or are apart.
pub(super) fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

// "10.1.0.0/255.255.255.0"
fn with_netmask(text: &str) -> Option<Ipv4Net> {
    let (address, mask) = text.split_once('/')?;
    Ipv4Net::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok().map(|prefix| prefix.trunc())
}

/// An IPv4 address by itself; `key` is `ip`, `gateway` or `via`.
pub(super) fn address(key: &'static str, text: &str) -> Result<Ipv4Addr, Problem> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if text.parse::<Ipv6Addr>().is_ok() || text.parse::<Ipv6Net>().is_ok() {
        return Err(Problem::invalid(key, text, format!("it is IPv6: that is `{key}6 = \"{text}\"`")));
    }
    let why = match text.parse::<Ipv4Net>() {
        Ok(prefix) => format!("the prefix length is the network's: \"{}\"", prefix.addr()),
        Err(_) => "an IPv4 address is four numbers up to 255: \"10.1.0.10\"".to_owned(),
    };
    Err(Problem::invalid(key, text, why))
}

/// A MAC address that one interface can have; `key` is `mac` or `gateway_mac`.
pub(super) fn mac(key: &'static str, text: &str) -> Result<MacAddr, Problem> {
    let refuse = |why: String| Err(Problem::invalid(key, text, why));
    let mac = match text.parse::<MacAddr>() {
        Ok(mac) => mac,
        Err(error) => {
            return match text.replace('-', ":").parse::<MacAddr>() {
                Ok(mac) => refuse(format!("colons stand between the pairs: \"{mac}\"")),
                Err(_) => refuse(error.to_string()),
            };
        }
    };
    if mac == MacAddr::ZERO {
        refuse("all zero is nobody's address".into())
    } else if mac.is_group() {
        refuse("it is a group address: the first pair must be even".into())
    } else {
        Ok(mac)
    }
}

/// `spoof`.
pub(super) fn spoof(text: &str) -> Result<Spoof, Problem> {
    choice("spoof", text, &[("claimed", Spoof::Claimed), ("strict", Spoof::Strict), ("off", Spoof::Off)])
}

/// `io`.
pub(super) fn io(text: &str) -> Result<Io, Problem> {
    choice("io", text, &[("auto", Io::Auto), ("uring", Io::Uring), ("epoll", Io::Epoll)])
}

/// `workers` as text.
pub(super) fn workers(text: &str) -> Result<Workers, Problem> {
    match text {
        "auto" => Ok(Workers::Auto),
        _ => Err(Problem::invalid(
            "workers",
            text,
            format!("it is \"auto\" or a number from 1 to {MAX_WORKERS}"),
        )),
    }
}

/// `workers` as a number.
pub(super) fn worker_count(number: &Number) -> Result<Workers, Problem> {
    match number.value {
        Some(count) if (1..=i64::from(MAX_WORKERS)).contains(&count) => Ok(Workers::Count(count as u16)),
        _ => Err(Problem::Invalid {
            key: "workers",
            found: number.text.clone(),
            why: format!("it is \"auto\" or a number from 1 to {MAX_WORKERS}").into(),
        }),
    }
}

/// `uplink.kind`.
pub(super) fn uplink(text: &str) -> Result<Uplink, Problem> {
    let kinds =
        [("sockets", Uplink::Sockets), ("tap", Uplink::Tap), ("nic", Uplink::Nic), ("none", Uplink::None)];
    choice("kind", text, &kinds)
}

pub(super) fn choice<T: Copy>(
    key: &'static str,
    text: &str,
    choices: &[(&'static str, T)],
) -> Result<T, Problem> {
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
    let why = match nearest(text, words.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("it is \"{}\"", words.join("\" or \"")),
    };
    Err(Problem::invalid(key, text, why))
}

/// The path of a Unix socket.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, Problem> {
    const LONGEST: usize = 107; // sun_path less the NUL (unix(7))
    if text.len() > LONGEST {
        let why = format!("it has {} bytes, and the kernel takes socket paths of {LONGEST}", text.len());
        return Err(Problem::invalid("control", text, why));
    }
    if text.ends_with('/') {
        return Err(Problem::invalid("control", text, "it names a folder, expected a socket's path"));
    }
    absolute_path("control", text)
}

/// The path of the state folder.
pub(super) fn folder_path(text: &str) -> Result<PathBuf, Problem> {
    const LONGEST: usize = 4000; // PATH_MAX less room for what goes into it
    if text.len() > LONGEST {
        let why = format!("it has {} bytes, more than {LONGEST}", text.len());
        return Err(Problem::invalid("state", text, why));
    }
    absolute_path("state", text)
}

/// A path that means the same wherever the daemon is started.
pub(super) fn absolute_path(key: &'static str, text: &str) -> Result<PathBuf, Problem> {
    let path = Path::new(text);
    let why = if text.contains('\0') {
        "a path has no NUL byte"
    } else if !text.starts_with('/') {
        "a relative path depends on where the daemon is started: write it from `/`"
    } else if text.split('/').any(|part| part == "..") {
        "a path with `..` can lead anywhere: write it without"
    } else if path.components().count() < 2 {
        "`/` itself cannot be it"
    } else {
        return Ok(path.to_owned());
    };
    Err(Problem::invalid(key, text, why))
}

/// Program and arguments.
pub(super) fn command(words: Vec<String>) -> Result<Vec<String>, Problem> {
    let why = match words.first() {
        None => "it is empty: leave it out, or name a program",
        Some(program) if program.is_empty() => "the first text is the program, and it is empty",
        Some(_) if words.iter().any(|word| word.contains('\0')) => "an argument has no NUL byte",
        Some(_) => return Ok(words),
    };
    let found = format!("[{}]", Listed(&words));
    Err(Problem::Invalid { key: "command", found: clip(&found), why: why.into() })
}

struct Listed<'w>(&'w [String]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.0.iter().take(8).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}\"{word}\"")?;
        }
        Ok(())
    }
}
