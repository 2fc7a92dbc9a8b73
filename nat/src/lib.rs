//! Address translation: conntrack, SNAT, DNAT (`publish`), and the sockets uplink.
//!
//! Nothing lives here yet. What will: `conntrack` (one entry a connection; it is the flow entry and carries both
//! directions' rewrites and checksum deltas), `mapping` (endpoint-independent mappings, RFC 4787), `publish`, and
//! `uplink` (TCP of containers translated, not terminated, into sockets of this process). It uses `switch` and
//! nothing else; it meets `router` and `vxlan` only on the page `tools/vswitchd/src/policy.rs`.
