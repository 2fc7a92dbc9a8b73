//! The configuration: TOML in, a validated [`Config`] or precise errors out. Nothing here asks the kernel but [`read`].
//!
//! ```text
//! bytes -> syntax -> schema -> load -> resolve -> Config
//! ```
//!
//! `schema` knows every key of the contract, `load` checks each value by itself, `resolve`, `plan`, `routing` and `overlay`
//! check them against each other and hand out names and addresses. Objects made at run time (`edit`) pass the same checks, and [`diff`] tells a reload
//! what changed.

mod aliases;
mod cluster;
mod diff;
mod edit;
mod egress;
mod family;
mod flannel;
mod host;
mod limits;
mod load;
mod model;
mod netns;
mod outside;
mod overlay;
mod paths;
mod plan;
mod problem;
mod publish;
mod read;
mod registry;
mod report;
mod resolve;
mod routing;
mod schema;
mod syntax;
mod uplink;
mod value;
mod value6;
mod vlan;
mod vxlan;
mod words;
mod zones;

pub use cluster::{Cluster, Mode};
pub use diff::{
    ContainerChange, ContainerField, DaemonField, Diff, InterfaceChange, InterfaceField, InterfaceKey,
    NetworkChange, NetworkField, diff,
};
pub use edit::{ContainerSpec, InterfaceOptions, NetworkOptions};
pub use egress::Egress;
pub use family::Family;
pub use flannel::{PORT as FLANNEL_PORT, Part};
pub use host::{HOST, LEG};
pub use model::{
    Config, Container, Daemon, IcmpErrors, Interface, Io, Network, Route, RoutesTo, Spoof, Uplink, Workers,
};
pub use outside::{Device, Filtering, Limits, OUTSIDE, Outside, Timeouts, UPLINK};
pub use paths::Paths;
pub use problem::{Advice, Owner, Place, Problem, ProblemKind, What};
pub(crate) use publish::Range;
pub use publish::{Protocol, Publish};
pub use read::{MAX_BYTES, ReadError, read};
pub use report::{ConfigError, ConfigErrors, MAX_ERRORS};
pub use vxlan::{StaticMac, UdpGso, Vxlan};
pub(crate) use words::clip;
pub use zones::{Gateway, GatewayBy};

pub use crate::wire::NetnsRef;

use crate::ipam::Memory;
use report::Reporter;

/// How many networks one daemon serves.
pub const MAX_NETWORKS: usize = 4000;
/// How many containers one daemon serves.
pub const MAX_CONTAINERS: usize = 4000;
/// How many interfaces one daemon serves, of all containers together.
pub const MAX_INTERFACES: usize = 4000;

/// How many l4 ports of the host one daemon publishes.
pub const MAX_PUBLISHED: usize = 4096;
/// Most workers of one daemon.
pub const MAX_WORKERS: u16 = 64;

/// How many hosts an overlay floods to.
pub const MAX_PEERS: usize = 1024;
/// How many end points of etcd one daemon knows.
pub const MAX_ENDPOINTS: usize = 16;
/// How many `[[vxlan.static]]` one daemon serves.
pub const MAX_STATICS: usize = 16_384;

/// How many static routes one daemon serves.
pub const MAX_ROUTES: usize = 4000;
/// How many next hops a route has.
pub const MAX_HOPS: usize = 16;

/// What a file is read with, beside its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context<'c> {
    /// The defaults of `control` and `state`.
    pub paths: Paths,
    /// What runs now, with the objects made at run time: an interface that does not name its address keeps the one it
    /// has, and new ones keep off those in use.
    pub previous: Option<&'c Config>,
    /// Who had which address before that. It decides which free address an interface gets that names none, never
    /// whether a file is valid.
    pub memory: Option<&'c Memory>,
}

/// Parses a file for a fresh start, with this process's default paths. See [`parse_with`].
///
/// # Errors
/// As [`parse_with`].
pub fn parse(name: &str, text: &[u8]) -> Result<Config, ConfigErrors> {
    parse_with(name, text, &Context { paths: Paths::of_process(), previous: None, memory: None })
}

/// Parses and validates the text of a file; `name` is what messages call it.
///
/// Pure: the same text, name and context give the same result. An empty text is a daemon without networks.
///
/// # Errors
/// Everything that is wrong, in the order of the file and at most [`MAX_ERRORS`]; of a text that is not UTF-8 or too
/// large, only that.
pub fn parse_with(name: &str, text: &[u8], context: &Context<'_>) -> Result<Config, ConfigErrors> {
    if text.len() > MAX_BYTES {
        return Err(report::single(name, "", 0..0, Problem::TooLarge));
    }
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            let at = error.valid_up_to();
            let byte = text.get(at).copied().unwrap_or_default();
            let shown = String::from_utf8_lossy(text);
            return Err(report::single(name, &shown, at..at, Problem::Utf8 { byte }));
        }
    };
    let mut reporter = Reporter::new(name, text);
    let config = syntax::parse(text, &mut reporter).map(|table| {
        let raw = load::load(&table, &context.paths, &mut reporter);
        resolve::resolve(raw, context, &mut reporter)
    });
    reporter.finish()?;
    // Without a table there was an error, and `finish` has returned it.
    Ok(config.unwrap_or_else(|| Config::empty(&context.paths)))
}
