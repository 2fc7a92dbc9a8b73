//! Configurations as packets see them, when all that they name is up.
#![allow(missing_docs, clippy::panic, clippy::unwrap_used)]

pub mod outside;

use switch::snapshot::Snapshot;
use vswitchd::config::{Context, Paths, parse_with};
use vswitchd::engine;
use vswitchd::tables::Tables;

pub fn all_up(text: &str) -> Snapshot<Tables> {
    let paths = Paths { control: "/test/control.sock".into(), state: "/test/state".into() };
    let context = Context { paths, previous: None, memory: None };
    let config =
        parse_with("lab.toml", text.as_bytes(), &context).unwrap_or_else(|errors| panic!("{errors}"));
    engine::all_up(&config).unwrap()
}
