//! The daemon behind `vswitchd` as a library: configuration, desired state, policy, keeper, engine, control API.
//!
//! ```text
//! main -> keeper (parent: namespaces, TAPs, descriptors) <- wire over channel -> engine (child: workers, control plane)
//! ```
//!
//! [`policy`] is the page to read first.

pub mod api;
pub mod channel;
pub mod cluster;
pub mod config;
pub mod dhcp;
pub mod engine;
pub mod handover;
pub mod ipam;
pub mod keeper;
pub mod listing;
pub mod logging;
pub mod names;
pub mod policy;
pub mod tables;
pub mod trace;
pub mod translate;
pub mod uplink;
pub mod wire;
