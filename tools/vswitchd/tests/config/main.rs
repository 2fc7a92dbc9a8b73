//! The configuration as its users see it: what is said about wrong files, what right ones mean, what may change.

#![allow(clippy::panic, clippy::unwrap_used, reason = "the lints know `#[test]`, not what it calls")]

mod cluster;
mod edits;
mod errors;
mod laws;
mod meaning;
mod memory;
#[path = "../corpus/overlaid.rs"]
mod overlaid;
mod overlay;

use vswitchd::config::{Config, ConfigErrors, Context, Paths, parse_with};

/// Paths that no machine has, so that a test means the same everywhere.
fn paths() -> Paths {
    Paths { control: "/test/control.sock".into(), state: "/test/state".into() }
}

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    parse_with("lab.toml", text.as_bytes(), &Context { paths: paths(), previous: None, memory: None })
}

fn valid(text: &str) -> Config {
    parse(text).unwrap_or_else(|errors| panic!("{errors}\n---\n{text}"))
}

fn first_lines(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.errors().iter().map(|error| error.first_line()).collect(),
    }
}
