//! Addresses of a network: how many, and whose.

use serde::{Deserialize, Serialize};

/// How many IPv4 addresses a network has for containers; part of `/v1/networks/NAME`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressStats {
    /// Addresses there are for containers: those of the subnet, without its ends and a gateway of ours.
    pub room: u64,
    /// In use.
    pub used: u64,
    /// Not in use.
    pub free: u64,
    /// Of the free ones: given back, and not given to others while there are unused ones.
    pub resting: u64,
}
