//! What `decide` says: plain data, so that it can be tabled in a test and printed by a trace.

use crate::drop::DropReason;
use crate::port::PortId;

/// What is to happen with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To one port.
    Forward(Action),
    /// To every other port of its network.
    Flood,
    /// To nobody.
    Drop(DropReason),
}

/// What is done to a packet that goes to one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// The port it leaves by.
    pub out: PortId,
}
