//! The overlay: VXLAN (RFC 7348) over ordinary UDP sockets. It uses `switch` and nothing else.
//!
//! A remote is an output like a port: frames of it are learned, aged, flooded and counted as those of any port. What is
//! here are the bytes on the way, as functions of buffers; nothing allocates, and nothing reads a clock:
//!
//! - [`wire`]: the header.
//! - [`encap`]: a frame, or a super-frame, as datagrams of the underlay, its payload not copied.
//! - [`decap`]: received datagrams as inner frames, checked.
//! - [`coalesce`]: inner TCP segments of one batch put together to super-frames.
//! - [`ecn`]: congestion marks, in and out.
//! - [`sockets`]: the UDP sockets; [`probe`]: what their kernel can do.
//! - [`settings`]: who the remotes are, as the control plane publishes it.
//! - [`overlay`]: all of it as devices of a worker, beside those of another engine.

pub mod coalesce;
pub mod decap;
pub mod ecn;
pub mod encap;
mod outbox;
pub mod overlay;
pub mod probe;
pub mod settings;
pub mod sockets;
pub mod wire;
