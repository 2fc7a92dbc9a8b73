//! Address translation: conntrack, SNAT, DNAT (`publish`), and the sockets uplink.
//!
//! So far there is [`sockets`]: connections of containers become ordinary sockets of this process. What will come:
//! `conntrack` (one entry a connection; it is the flow entry and carries both directions' rewrites and checksum
//! deltas), `mapping` (endpoint-independent mappings, RFC 4787) and `publish`. It uses `switch` and nothing else; it
//! meets `router` and `vxlan` only on the page `tools/vswitchd/src/policy.rs`.

pub mod sockets;
