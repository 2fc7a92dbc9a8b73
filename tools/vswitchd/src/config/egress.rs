//! `egress`: one text a rule, `allow|deny [PREFIX] [PROTOCOL[/PORTS]]`.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use router::egress::{Rule, What};
use serde::{Serialize, Serializer};

use super::problem::{Problem, clip, nearest};
use super::report::{At, Reporter};

/// Rules of one container: each packet that opens something is held against them in turn.
const MAX_RULES: usize = 64;

/// One rule of a container's `egress`. In the file as in JSON its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Egress(pub Rule);

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Egress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The rules of a container; those that are wrong are reported and left out.
pub(super) fn rules(texts: &[At<&str>], reporter: &mut Reporter<'_>) -> Vec<Egress> {
    let mut rules: Vec<Egress> = Vec::new();
    for (index, At { value: text, span }) in texts.iter().enumerate() {
        if index == MAX_RULES {
            let why = format!("it is rule {} of this container, and there may be {MAX_RULES}", index + 1);
            reporter.add(span, || Problem::invalid("egress", text, why));
            break;
        }
        let Some(rule) = reporter.check(span, rule(text)) else { continue };
        if let Some(place) = rules.iter().position(|first| covers(&first.0, &rule)) {
            let first = rules.get(place).map_or_else(String::new, ToString::to_string);
            let why = format!("it is never reached: \"{first}\" before it matches all of it");
            reporter.add(span, || Problem::invalid("egress", text, why));
            continue;
        }
        rules.push(Egress(rule));
    }
    rules
}

// Whether whatever the other matches is matched by this one.
fn covers(this: &Rule, other: &Rule) -> bool {
    let to = match (this.to, other.to) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(this), Some(other)) => this.contains(&other),
    };
    let within = |(first, last), (from, to)| first <= from && to <= last;
    to && match (this.what, other.what) {
        (What::All, _) | (What::Icmp, What::Icmp) => true,
        (What::Tcp(first, last), What::Tcp(from, to)) | (What::Udp(first, last), What::Udp(from, to)) => {
            within((first, last), (from, to))
        }
        _ => false,
    }
}

fn rule(text: &str) -> Result<Rule, Problem> {
    let refuse = |why: String| Problem::invalid("egress", text, why);
    let words: Vec<&str> = text.split_whitespace().collect();
    let Some((action, rest)) = words.split_first() else {
        return Err(refuse("it is empty: \"allow 10.0.0.0/8 tcp/443\", \"deny all\"".into()));
    };
    let allow = match *action {
        "allow" => true,
        "deny" => false,
        other => return Err(refuse(unknown_action(other))),
    };
    let all = What::All;
    let (to, what) = match *rest {
        [] => return Err(refuse(format!("{action} what? all of it is \"{action} all\""))),
        ["all"] => (None, all),
        [one] if is_prefix(one) => (Some(prefix(one).map_err(refuse)?), all),
        [one] => (None, what(one).map_err(refuse)?),
        ["all", _] | [_, "all"] => {
            return Err(refuse(
                "`all` stands alone: leave it out where a prefix or a protocol is named".into(),
            ));
        }
        [one, two] if !is_prefix(one) && is_prefix(two) => {
            return Err(refuse(format!("the prefix comes first: \"{action} {} {}\"", clip(two), clip(one))));
        }
        [one, two] if is_prefix(one) => (Some(prefix(one).map_err(refuse)?), what(two).map_err(refuse)?),
        [one, _] => return Err(refuse(unknown_word(one))),
        _ => {
            let shape = "a rule is `allow` or `deny`, then a prefix, a protocol, or one after the other: \"allow \
                         10.0.0.0/8 tcp/443\"; it takes several rules to name several";
            return Err(refuse(shape.into()));
        }
    };
    Ok(Rule { allow, to, what })
}

fn unknown_action(word: &str) -> String {
    let ours = match word.to_ascii_lowercase().as_str() {
        "permit" | "accept" | "pass" | "allow" => Some("allow"),
        "drop" | "reject" | "block" | "refuse" | "deny" => Some("deny"),
        _ => nearest(word, ["allow", "deny"]),
    };
    match ours {
        Some(ours) => format!("it starts with \"{}\": did you mean \"{ours}\"?", clip(word)),
        None => format!("it starts with \"{}\", expected \"allow\" or \"deny\"", clip(word)),
    }
}

fn unknown_word(word: &str) -> String {
    let name = word.split('/').next().unwrap_or_default();
    match nearest(name, ["tcp", "udp", "icmp", "all"]) {
        Some(near) => format!("it has \"{}\": did you mean \"{near}\"?", clip(word)),
        None => format!(
            "\"{}\" is neither a prefix (\"10.0.0.0/8\", \"fd00::/8\") nor a protocol (\"tcp/443\", \"udp\", \"icmp\")",
            clip(word)
        ),
    }
}

// Whether it is meant to be an address or a prefix.
fn is_prefix(word: &str) -> bool {
    let address = word.split('/').next().unwrap_or_default();
    address.contains(':') || (address.contains('.') && address.starts_with(|c: char| c.is_ascii_digit()))
}

fn prefix(word: &str) -> Result<IpNet, String> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let Ok(prefix) = word.parse::<IpNet>() else {
        return Err(format!("\"{}\" is no prefix: \"10.0.0.0/8\", \"fd00::/8\" or one address", clip(word)));
    };
    if prefix != prefix.trunc() {
        return Err(format!("host bits are set in \"{prefix}\": did you mean \"{}\"?", prefix.trunc()));
    }
    Ok(prefix)
}

fn what(word: &str) -> Result<What, String> {
    let (name, ports) = match word.split_once('/') {
        Some((name, ports)) => (name, Some(ports)),
        None => (word, None),
    };
    let make = match name {
        "tcp" => What::Tcp,
        "udp" => What::Udp,
        "icmp" if ports.is_none() => return Ok(What::Icmp),
        "icmp" => return Err("ICMP has no l4 ports: \"icmp\"".into()),
        _ => return Err(unknown_word(word)),
    };
    let Some(ports) = ports else { return Ok(make(1, u16::MAX)) };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(make(first, last)),
        (Some(first), Some(last)) => {
            Err(format!("the range runs backwards: did you mean \"{name}/{last}-{first}\"?"))
        }
        _ => Err(format!(
            "\"{}\" is no l4 port: one from 1 to 65535, or a range like \"{name}/8000-8100\"",
            clip(ports)
        )),
    }
}

fn port(text: &str) -> Option<u16> {
    // `parse` takes a sign as well.
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
        .filter(|port| *port > 0)
}
