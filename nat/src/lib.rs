//! Address translation: the sockets uplink, published l4 ports, and later conntrack with SNAT and DNAT on packets.
//!
//! So far there is [`sockets`]: connections of containers become ordinary sockets of this process, and clients of its
//! listening sockets connections to containers (`publish`). What will come is `conntrack`: one entry a connection, which is
//! the flow entry and carries both directions' rewrites and checksum deltas. It uses `switch` and nothing else; it meets
//! `router` and `vxlan` only on the page `tools/vswitchd/src/policy.rs`.

pub mod conntrack;
pub mod fragments;
pub mod rewrite;
pub mod sockets;
pub mod waiting;
