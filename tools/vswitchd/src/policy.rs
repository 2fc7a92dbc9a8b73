//! The way of a packet, on one page.
//!
//! ```text
//!  1 rx      switch::io      a batch of frames, from TAPs
//!  2 parse   switch::parse   bytes -> FlowKey + Meta; the only place that reads untrusted lengths
//!  3 admit   switch::admit   reserved addresses, MTU, spoofing: what is not admitted teaches us nothing
//!  4 learn   switch::learn   source MAC -> port, written only when it changed
//!  5 decide  this page       key + meta + tables -> Verdict; pure
//!  6 track   switch::track   commits state: the flood budget
//!  7 apply   switch::apply   edits bytes
//!  8 tx      switch::tx      into the out port, or ports
//! ```
//!
//! [`switch::worker`] is the loop that calls them. What is decided here reads as a list, in the order in which it is
//! asked; routing, translation and tunnels join the list between its lines: is it for the router? dnat and conntrack,
//! fib, neighbour, snat, vtep.

use switch::decide::bridge;
use switch::flow::Packet;
use switch::snapshot::Network;
use switch::verdict::Verdict;

/// Fifth hop: what is to happen with `packet`. Changes nothing, sees no bytes.
pub fn decide(packet: &Packet, network: &Network) -> Verdict {
    bridge(&packet.meta, network)
}
