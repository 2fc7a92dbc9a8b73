//! What RFCs ask of a router and of a NAT, requirement by requirement, on memory devices.
#![allow(missing_docs, clippy::panic, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod lab;
