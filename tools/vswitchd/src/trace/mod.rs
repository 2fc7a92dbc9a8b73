//! What would become of a packet, and why. Nothing changes: the worker's own code takes one frame through all hops on
//! devices of memory, over a copy of all that a hop may write to, with a listener at the decision.
//!
//! ```text
//! craft    flags -> bytes, as the container would send them
//! dry      bytes -> what happened, by a worker whose policy remembers and has no uplink
//! devices  what is for other hosts becomes datagrams that nobody sends
//! tell     what happened -> lines for people
//! group    to whom a frame for a group goes
//! told     who is on which other host, and who says so
//! line     bytes -> one line, as tcpdump has it
//! ```

pub mod craft;
mod devices;
mod dry;
mod group;
mod line;
mod tell;
mod told;

pub use devices::{Datagrams, Tunnelled};
pub use dry::{Run, run};
pub use line::line;
pub use tell::{Names, tell};
pub use told::{Arrived, Host, Hosts, VTEP, refused};

/// Longest frame, bytes: what a TAP gives at most.
pub const MAX_FRAME: usize = 64 * 1024;
