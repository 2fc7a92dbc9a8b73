//! Address translation: connections of containers as sockets of this process, or packet by packet.
//!
//! ```text
//! conntrack   which end point of a container is which outside, which connections use it: tables without locks, which can
//!             outlive the process in a memory file
//! rewrite     the bytes of a translated packet, of an ICMP error those that it quotes as well
//! fragments   what the first fragment became, the others of its packet become too
//! waiting     those that came before their first one
//! sockets     the other way out: connections become ordinary sockets, and clients of listening sockets connections to
//!             containers (`publish`)
//! ```
//!
//! One entry of [`conntrack`] is one connection and the flow entry: found from both sides, it has what both directions
//! become, and the deltas of their checksums. Nothing here reads a clock: time is an argument.
//!
//! It uses `switch` and nothing else; it meets `router` only by way of the page `tools/vswitchd/src/policy.rs`, whose lines
//! about translation are `tools/vswitchd/src/translate.rs`, and will meet `vxlan` there.

pub mod conntrack;
pub mod fragments;
pub mod rewrite;
pub mod sockets;
pub mod waiting;
