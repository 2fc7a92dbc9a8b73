//! The overlay, as `show vxlan` and `show status` have it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::UnknownWord;

/// `/v1/vxlan`: the other hosts of networks with a `vni`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VtepRow {
    /// The network.
    pub network: String,
    /// Its name on the underlay.
    pub vni: u32,
    /// The other host, or the multicast group that stands for all.
    pub vtep: IpAddr,
    /// The port that it is here.
    pub port: u16,
    /// Who said that it is on the network.
    pub told: ToldBy,
    /// What is for everybody is sent to it.
    pub flood: bool,
    /// MAC addresses behind it that are known.
    pub macs: u32,
    /// Bytes of an inner IP packet that get there.
    pub mtu: u32,
    /// Seconds since it is known.
    pub age: u64,
    /// Frames from there.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames to it; a super-frame counts once.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames from there or to it that were dropped.
    pub drops: u64,
}

words! {
    /// Who said that another host is on a network.
    ToldBy {
        /// `peers`.
        Peer = "peer",
        /// Another host of `[cluster]`.
        Cluster = "cluster",
        /// `[[vxlan.static]]`.
        Static = "static",
        /// `group`.
        Group = "group",
    }
}

/// The overlay in `/v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayStatus {
    /// Our address on the underlay.
    pub local: IpAddr,
    /// The UDP l4 port.
    pub port: u16,
    /// Why there is no overlay, where there should be.
    pub failed: Option<String>,
    /// Bytes of an IP packet that the underlay takes here.
    pub mtu: u32,
    /// Whether one send is many datagrams.
    pub udp_gso: bool,
    /// Why that is so.
    pub udp_gso_why: String,
    /// Datagrams received.
    pub datagrams: u64,
    /// Of these, with reserved bits that were accepted.
    pub reserved: u64,
    /// Frames that a path on the underlay did not take after all.
    pub too_big: u64,
}
