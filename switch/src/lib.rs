//! The engine of a userspace virtual switch: alone, it is a working learning switch.
//!
//! A packet takes eight hops, each one function in one file:
//!
//! ```text
//! rx -> parse -> admit -> learn -> decide -> track -> apply -> tx
//! ```
//!
//! Read `worker` first: it is the loop that calls them.

pub mod checksum;
pub mod drop;
pub mod flow;
pub mod mac;
pub mod parse;
pub mod port;
pub mod segment;
pub mod sys;
pub mod vnet;
