//! What RFCs ask of a router and of a NAT, requirement by requirement, on memory devices.
//!
//! Each row of a section has a check that asserts what the daemon does with frames; a row whose requirement is not met to
//! the letter says why. `table` prints all of them.
#![allow(missing_docs, clippy::panic, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod cut;
mod ipv4;
mod ipv6;
mod lab;
mod nat_icmp;
mod nat_tcp;
mod nat_udp;
mod packet;
mod plain;
mod row;
