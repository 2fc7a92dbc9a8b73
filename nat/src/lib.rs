//! Address translation: the sockets uplink, and later conntrack, SNAT and DNAT on packets.
//!
//! So far there is [`sockets`]: connections of containers become ordinary sockets of this process, UDP with
//! endpoint-independent mappings (RFC 4787), and clients of published l4 ports come in by them. What will come:
//! `conntrack` (one entry a connection; it is the flow entry and carries both directions' rewrites and checksum
//! deltas), for what is translated packet by packet. It uses `switch` and nothing else; it meets `router` and `vxlan`
//! only on the page `tools/vswitchd/src/policy.rs`.

pub mod sockets;
