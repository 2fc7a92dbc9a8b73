//! Layer 3 between networks: gateway addresses, FIB, neighbours (ARP, ND), what may come back, and ICMP errors.
//!
//! [`route`] is the decision, pure; [`service`] is what a gateway does itself, out of line; what it says is written
//! by [`arp`], [`nd`] and [`icmp`]. It uses `switch` and nothing else; it meets `nat` and `vxlan` only on the page
//! `tools/vswitchd/src/policy.rs`.

mod advertise;
pub mod arp;
mod build;
pub mod egress;
pub mod explain;
pub mod fib;
pub mod forward;
pub mod fragment;
pub mod icmp;
pub mod martian;
pub mod mss;
pub mod multipath;
pub mod nd;
pub mod neighbor;
pub mod options;
pub mod pending;
mod querier;
pub mod query;
pub mod returns;
pub mod route;
pub mod service;
pub mod source;
pub mod tables;
#[cfg(test)]
mod testing;
pub mod told;

pub use build::Origin;
