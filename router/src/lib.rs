//! Layer 3 between networks: gateway addresses, FIB, neighbours (ARP, ND) and ICMP errors.
//!
//! Nothing lives here yet. What will: `fib` (longest prefix match in the immutable snapshot), `neighbor` (an instance
//! of `switch`'s table, one word an adjacency, so that learning a MAC invalidates no route) and `icmp` (errors with
//! the suppression rules of RFC 1812 section 4.3.2.7 and RFC 4443 section 2.4, rate limited). It uses `switch` and
//! nothing else; it meets `nat` and `vxlan` only on the page `tools/vswitchd/src/policy.rs`.

pub mod arp;
mod build;
pub mod forward;
pub mod fragment;
pub mod icmp;
pub mod martian;
pub mod mss;
pub mod nd;
#[cfg(test)]
mod testing;

pub use build::Origin;
