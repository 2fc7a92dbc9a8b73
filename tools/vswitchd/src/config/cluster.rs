//! `[cluster]`: where hosts keep what they must agree on.

use std::collections::HashSet;
use std::ops::Range;
use std::path::PathBuf;

use hyper::Uri;
use serde::{Serialize, Serializer};

use super::MAX_ENDPOINTS;
use super::load::{fill, setting};
use super::problem::{Problem, What};
use super::report::{At, Reporter};
use super::schema::Section;
use super::value::{self, Bounds};

/// What makes a host gone: etcd's own leases are no shorter.
const TTL: Bounds = Bounds {
    key: "ttl",
    low: 2,
    high: 3600,
    why: "seconds until the others give up a host that died; the usual is 10",
};
/// The same of flannel's hosts, which keep their subnet for a day.
const TTL_FLANNEL: Bounds = Bounds {
    key: "ttl",
    low: 2,
    high: 7 * 86_400,
    why: "seconds until a subnet may be another host's; flannel's own is 86400, a day",
};
/// Bytes of `prefix`.
const LONGEST_PREFIX: usize = 128;

/// `mode`: whose layout the store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Ours: networks, addresses and names, of hosts that all run this.
    #[default]
    Native,
    /// flannel's: each host has a subnet of one network, and what is for the others is routed to them.
    Flannel,
}

impl Mode {
    /// What all keys begin with unless the file says otherwise.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Native => "/vswitch",
            Self::Flannel => "/coreos.com/network",
        }
    }

    /// Seconds that a host lives in the store without a word.
    const fn ttl(self) -> (u32, &'static Bounds) {
        match self {
            Self::Native => (10, &TTL),
            Self::Flannel => (86_400, &TTL_FLANNEL),
        }
    }
}

/// `[cluster]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// Whose layout the store has.
    pub mode: Mode,
    /// Where etcd is found, `http://` or `https://`, host and l4 port; each once, at least one.
    pub etcd: Vec<String>,
    /// What all keys begin with: starts with `/`, does not end with it.
    pub prefix: String,
    /// Whose certificates of etcd are believed, PEM. Without: none is.
    #[serde(serialize_with = "as_path", skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Our certificate, PEM; with `key`.
    #[serde(serialize_with = "as_path", skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// The private key of `cert`, PEM.
    #[serde(serialize_with = "as_path", skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Who we are to etcd; with `password_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The file with the password of `user` on its first line. It is read at each connection, and never shown.
    #[serde(serialize_with = "as_path", skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Seconds until a host that says nothing any more is gone.
    pub ttl: u32,
    /// What this host is called in the cluster; without: its host name. flannel's hosts have no names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Cluster {
    /// All defaults, with etcd at these places.
    pub fn new(etcd: Vec<String>) -> Self {
        Self::of(Mode::default(), etcd)
    }

    /// All defaults of a mode.
    pub fn of(mode: Mode, etcd: Vec<String>) -> Self {
        Self {
            mode,
            etcd,
            prefix: mode.prefix().into(),
            ca: None,
            cert: None,
            key: None,
            user: None,
            password_file: None,
            ttl: mode.ttl().0,
            name: None,
        }
    }
}

/// `[cluster]`, and where it says its mode.
#[derive(Debug)]
pub(super) struct RawCluster {
    pub cluster: Cluster,
    pub mode: Option<Range<usize>>,
}

fn as_path<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => serializer.collect_str(&path.display()),
        None => serializer.serialize_none(),
    }
}

/// `[cluster]`.
pub(super) fn load(section: &Section<'_>, has_vxlan: bool, reporter: &mut Reporter<'_>) -> RawCluster {
    section.require("etcd", reporter);
    let modes = [("native", Mode::Native), ("flannel", Mode::Flannel)];
    let mode = setting(section, "mode", reporter, |text| value::choice("mode", text, &modes));
    let (mode, place) = mode.ok().flatten().map(|at| (at.value, at.span)).unzip();
    let mode = mode.unwrap_or_default();
    let etcd = endpoints(section, reporter);
    if !has_vxlan && let Some(first) = etcd.first() {
        let why = "hosts of a cluster reach each other by [vxlan]: add that table to the file, with \
                   `local = \"198.18.1.1\"`, this host's address on the underlay";
        let place = section.place("etcd").unwrap_or(section.span.clone());
        reporter.add(&place, || Problem::invalid("etcd", first, why));
    }
    let mut cluster = Cluster::of(mode, etcd);
    fill(&mut cluster.prefix, setting(section, "prefix", reporter, prefix));
    for (key, field) in [
        ("ca", &mut cluster.ca),
        ("cert", &mut cluster.cert),
        ("key", &mut cluster.key),
        ("password_file", &mut cluster.password_file),
    ] {
        let path = setting(section, key, reporter, |text| value::absolute_path(key, text));
        *field = path.ok().flatten().map(|at| at.value);
    }
    cluster.user = setting(section, "user", reporter, user).ok().flatten().map(|at| at.value);
    for (one, other) in [("cert", "key"), ("user", "password_file")] {
        pair(section, one, other, reporter);
        pair(section, other, one, reporter);
    }
    for key in ["ca", "cert"] {
        needs_tls(section, key, &cluster.etcd, reporter);
    }
    let bounds = mode.ttl().1;
    let ttl = section.number("ttl").and_then(|at| reporter.check(&at.span, bounds.check(&at.value)));
    cluster.ttl = ttl.unwrap_or(cluster.ttl);
    let name = setting(section, "name", reporter, |text| match mode {
        Mode::Native => value::name(What::Host, text),
        Mode::Flannel => {
            let why = "hosts of flannel have no names: they are told apart by their subnet; leave it out";
            Err(Problem::invalid("name", text, why))
        }
    });
    cluster.name = name.ok().flatten().map(|at| at.value);
    RawCluster { cluster, mode: place }
}

// Those that are right.
fn endpoints(section: &Section<'_>, reporter: &mut Reporter<'_>) -> Vec<String> {
    if let Some(place) = section.place_of_array("etcd")
        && section.texts("etcd").is_some_and(|at| at.value.is_empty())
    {
        let why = "it is empty: name at least one, \"http://127.0.0.1:2379\"";
        let empty = Problem::Invalid { key: "etcd", found: "[]".into(), why: why.into() };
        reporter.add(&place, || empty);
    }
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for At { value: text, span } in section.texts_at("etcd") {
        let checked = endpoint(text).and_then(|url| {
            let twice = || Problem::invalid("etcd", text, "it is there already: leave one of them out");
            if seen.insert(url.clone()) { Ok(url) } else { Err(twice()) }
        });
        let Some(url) = reporter.check(&span, checked) else { continue };
        if found.len() == MAX_ENDPOINTS {
            reporter.add(&span, || Problem::TooMany { what: What::Endpoint, limit: MAX_ENDPOINTS });
            break;
        }
        found.push(url);
    }
    found
}

fn endpoint(text: &str) -> Result<String, Problem> {
    let refuse = |why: String| Err(Problem::invalid("etcd", text, why));
    let plain = text.strip_suffix('/').unwrap_or(text);
    let Ok(uri) = plain.parse::<Uri>() else {
        return refuse(
            "expected `http://` or `https://`, a host and its l4 port: \"http://127.0.0.1:2379\"".into(),
        );
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        let near = if plain.contains(':') { plain.to_owned() } else { format!("{plain}:2379") };
        return refuse(format!("it lacks `http://` or `https://`: \"http://{near}\""));
    };
    if !matches!(scheme, "http" | "https") {
        return refuse(format!("etcd is asked by `http://` or `https://`: \"http://{authority}\""));
    }
    if authority.as_str().contains('@') {
        // What stands before the `@` may be a password.
        let (_, host) = authority.as_str().rsplit_once('@').unwrap_or_default();
        let why = "who asks is said by `user` and `password_file`: leave it out here";
        return Err(Problem::invalid("etcd", &format!("{scheme}://...@{host}"), why));
    }
    if authority.host().is_empty() {
        return refuse("it names no host: \"http://127.0.0.1:2379\"".into());
    }
    if authority.port_u16().is_none_or(|port| port == 0) {
        return refuse(format!(
            "it lacks an l4 port, 1 to 65535 and usually 2379: \"{scheme}://{}:2379\"",
            authority.host()
        ));
    }
    let url = format!("{scheme}://{authority}");
    if uri.path() != "/" || uri.query().is_some() {
        return refuse(format!("an end point has no path (keys begin with `prefix`): \"{url}\""));
    }
    Ok(url)
}

fn prefix(text: &str) -> Result<String, Problem> {
    let why = if text.len() > LONGEST_PREFIX {
        "it is longer than 128 bytes"
    } else if !text.starts_with('/') || text.len() < 2 {
        "it begins with `/` and goes on: \"/vswitch\""
    } else if text.ends_with('/') || text.contains("//") {
        "each `/` stands before a word, none at the end: \"/vswitch\""
    } else if !text.chars().all(|c| c.is_ascii_graphic()) {
        "it is printable ASCII without blanks: \"/vswitch\""
    } else {
        return Ok(text.to_owned());
    };
    Err(Problem::invalid("prefix", text, why))
}

fn user(text: &str) -> Result<String, Problem> {
    let fits = (1..=255).contains(&text.len()) && !text.chars().any(char::is_control);
    let why = "a user of etcd has a name of 1 to 255 bytes, without control characters";
    if fits { Ok(text.to_owned()) } else { Err(Problem::invalid("user", text, why)) }
}

fn pair(section: &Section<'_>, one: &'static str, other: &'static str, reporter: &mut Reporter<'_>) {
    if let Some(at) = section.text(one).filter(|_| !section.has(other)) {
        reporter.add(&at.span, || {
            Problem::invalid(one, at.value, format!("it goes with `{other}`: add that, or leave this out"))
        });
    }
}

fn needs_tls(section: &Section<'_>, key: &'static str, etcd: &[String], reporter: &mut Reporter<'_>) {
    let plain = !etcd.is_empty() && etcd.iter().all(|url| url.starts_with("http://"));
    if let Some(at) = section.text(key).filter(|_| plain) {
        reporter.add(&at.span, || {
            Problem::invalid(
                key,
                at.value,
                "no end point in `etcd` is `https://`: make them so, or leave this out",
            )
        });
    }
}
