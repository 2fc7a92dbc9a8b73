//! What messages name things by: kinds, places, owners, advice; and how much of a file's text they show.

use std::fmt;
use std::net::IpAddr;

use super::host::HOST;

/// The kinds of objects that have names and limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// `[[network]]`.
    Network,
    /// `[[container]]`.
    Container,
    /// `[[container.interface]]`.
    Interface,
    /// `[[route]]`.
    Route,
    /// An l4 port of the host in `publish`.
    Published,
    /// An entry of `peers`.
    Peer,
    /// `[[vxlan.static]]`.
    Static,
    /// An entry of `etcd`.
    Endpoint,
    /// A host of a cluster.
    Host,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "network",
            Self::Container => "container",
            Self::Interface => "interface",
            Self::Route => "route",
            Self::Published => "published l4 port",
            Self::Peer => "peer",
            Self::Static => "static MAC",
            Self::Endpoint => "end point",
            Self::Host => "host",
        })
    }
}

/// A line of the file, or nothing for what was made at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(pub Option<usize>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, " (line {line})"))
    }
}

/// The interface that something belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The container.
    pub container: String,
    /// The interface's name in it.
    pub interface: String,
    /// Where it is written.
    pub place: Place,
}

/// What stands where a container's name would, for an interface on another host. No container can have it.
const REMOTE: &str = "[[vxlan.static]]";

impl Owner {
    /// Somebody on the host with this address on the underlay.
    pub(super) fn remote(vtep: IpAddr, place: Place) -> Self {
        Self { container: REMOTE.to_owned(), interface: vtep.to_string(), place }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.container == REMOTE {
            return write!(f, "{REMOTE} of {}{}", self.interface, self.place);
        }
        if self.container == HOST {
            return write!(f, "the host (`host_address`){}", self.place);
        }
        write!(f, "`{}` of container `{}`{}", self.interface, self.container, self.place)
    }
}

/// What was probably meant by a word nobody knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advice {
    /// Another word is near.
    DidYouMean(String),
    /// Another key says it.
    Key {
        /// The key.
        name: &'static str,
        /// Its table, where that is another one.
        section: Option<&'static str>,
        /// Whether this release has it.
        built: bool,
    },
    /// The word is right, the table is not.
    BelongsIn(&'static str),
    /// The words there are.
    Known(Vec<String>),
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DidYouMean(word) => write!(f, "; did you mean `{word}`?"),
            Self::Key { name, section, built } => {
                let place = section.map_or_else(String::new, |section| format!(" in {section}"));
                let later = if *built { "" } else { " it is not supported yet" };
                write!(f, "; did you mean `{name}`{place}?{later}")
            }
            Self::BelongsIn(section) => write!(f, "; it belongs in {section}"),
            Self::Known(words) if words.is_empty() => write!(f, "; there is none at all"),
            Self::Known(words) => write!(f, "; known: {}", list(words)),
        }
    }
}

/// How many names a message lists.
const LISTED: usize = 12;

/// The first names of a list, and how many more there are.
pub(super) fn list<T: fmt::Display>(items: &[T]) -> String {
    let mut text = String::new();
    for (index, item) in items.iter().take(LISTED).enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        text.push_str(&format!("{comma}{item}"));
    }
    match items.len().saturating_sub(LISTED) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// What was meant by a key, and the keys there are.
pub(super) fn known_keys(advice: Option<&Advice>, known: &[&str]) -> String {
    match advice {
        Some(advice) => format!("{advice} (known: {})", known.join(", ")),
        None => format!("; known: {}", known.join(", ")),
    }
}

/// What refers to a network: `routes_to` of others, and routes.
pub(super) fn references(by: &[String], routes: usize) -> String {
    let mut parts = Vec::new();
    if !by.is_empty() {
        parts.push(format!("`routes_to` of {}", list(by)));
    }
    if routes > 0 {
        parts.push(format!("{routes} [[route]]"));
    }
    parts.join(" and ")
}

/// `"tap"`, or `"tap" or "nic"`.
pub(super) fn kinds_of(kinds: &[&str]) -> String {
    let quoted: Vec<String> = kinds.iter().map(|kind| format!("\"{kind}\"")).collect();
    quoted.join(" or ")
}

/// The interface that was named, if one was.
pub(super) fn by_name(name: &Option<String>) -> String {
    name.as_ref().map_or_else(String::new, |name| format!(" by an interface `{name}`"))
}

/// The text of a file as a message may show it: on one line, not for long, and nothing a terminal obeys.
pub(crate) fn clip(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String = text.chars().take(SHOWN).flat_map(visible).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

// Control characters and those that reorder text (Unicode Annex 9) are written as escapes.
fn visible(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let (escape, plain) = if escaped { (Some(c.escape_default()), None) } else { (None, Some(c)) };
    escape.into_iter().flatten().chain(plain)
}

/// The nearest of `words`, if it is near enough to have been meant.
pub(super) fn nearest<'w>(word: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    const LONGEST: usize = 64; // longer words are no slip of the finger, and the distance costs their product
    if word.len() > LONGEST {
        return None;
    }
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let (word, allowed) = (plain(word), (word.len() / 3).max(1));
    words
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&word, &plain(known)), known))
        // Of a word of one letter nothing would be left.
        .filter(|(distance, known)| *distance <= allowed && *distance < known.len().min(word.len()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}
