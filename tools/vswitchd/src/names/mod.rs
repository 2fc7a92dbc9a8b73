//! Names: the server on the gateways' addresses (RFC 1034, 1035).
//!
//! ```text
//! worker -> switch::punt -> server -> datagram | stream -> message::consider(bytes, table::Asker)
//!                             |                                   |
//!                             +-> forward -> resolvers           answer, by punt to the worker
//! ```
//!
//! Containers are told names of the networks that they are on. What is no name of ours is asked of the host's resolvers,
//! but not for networks that have no way out.

pub mod counts;
pub mod datagram;
mod forward;
pub mod message;
pub mod resolvers;
pub mod server;
mod stream;
pub mod table;
