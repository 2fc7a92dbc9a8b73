//! The engine of a userspace virtual switch: alone, it is a working learning switch.
//!
//! A packet takes eight hops, each one function in one file:
//!
//! ```text
//! rx -> parse -> admit -> learn -> decide -> track -> apply -> tx
//! ```
//!
//! Read [`worker`] first: it is the loop that calls them.

pub mod admit;
pub mod apply;
pub mod books;
pub mod checksum;
pub mod decide;
pub mod drop;
pub mod fdb;
pub mod flow;
pub mod frame;
pub mod groups;
pub mod io;
pub mod learn;
pub mod mac;
pub mod mailbox;
pub mod news;
pub mod parse;
pub mod policy;
pub mod port;
pub mod punt;
pub mod reassembly;
pub mod segment;
pub mod snapshot;
pub mod stats;
pub mod sync;
pub mod sys;
pub mod table;
pub mod tag;
pub mod tick;
pub mod track;
pub mod tx;
pub mod verdict;
pub mod vlan;
pub mod vnet;
pub mod worker;
