//! Labs on real namespaces with kernel stacks, as root and as an ordinary user that the test makes.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)] // helpers of tests are tests

mod harness;

mod addresses;
mod basics;
mod differential;
mod groups;
mod host_leg;
mod hostile;
mod hostile_outside;
mod ipv6;
mod names;
mod namespaces;
mod outside;
mod overlay;
#[path = "../../../vswitchd/tests/conformance/packet.rs"]
#[allow(dead_code)] // each user takes a part
mod packet;
mod publish;
mod reach;
mod routing;
mod scan;
mod tagged;
mod takeover;
mod trace;
mod traffic;
mod translated;
mod uplink;
mod vlan;
mod wire;
mod workers;
mod xdp;
