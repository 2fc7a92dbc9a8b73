//! Addresses of a network: how many, and whose.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use switch::mac::MacAddr;

use super::text;
use crate::ipam::lease::LeaseState;

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

/// An address that DHCP gave to a client behind an interface; part of `/v1/networks/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRow {
    /// The address.
    pub address: IpAddr,
    /// The client's MAC address.
    #[serde(with = "text")]
    pub mac: MacAddr,
    /// What the client calls itself, in hexadecimal.
    pub client: String,
    /// The container it is behind.
    pub container: String,
    /// The container's interface.
    pub iface: String,
    /// How long the lease holds, seconds.
    pub left: u64,
    /// How far it got.
    pub state: LeaseState,
}

/// What the DHCP service of a network heard and did, messages; part of `/v1/networks/NAME`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpStats {
    /// Messages of clients.
    pub heard: u64,
    /// Addresses offered.
    pub offered: u64,
    /// Addresses given, or given on.
    pub acknowledged: u64,
    /// Wishes refused.
    pub refused: u64,
    /// Addresses given back.
    pub released: u64,
    /// Addresses in which clients found somebody else.
    pub declined: u64,
    /// Clients with an address that were told about the network.
    pub informed: u64,
    /// Messages for another server, or of no consequence.
    pub ignored: u64,
    /// Wishes for which there was no address: the pool is empty, or the port holds as many as it may.
    pub no_address: u64,
    /// Wishes for an address that the cluster's memory did not grant, because it does not answer.
    #[serde(default)]
    pub unclaimed: u64,
    /// Messages that are none.
    pub malformed: u64,
    /// Messages beyond the port's rate.
    pub limited: u64,
}
