//! `[vxlan]`: how networks with a `vni` reach the other hosts they are on.

use std::net::IpAddr;

use serde::Serialize;
use switch::mac::MacAddr;

use super::model::{Config, Network, as_optional_text, as_text};

/// Bytes that a frame of the overlay has more than its IP packet on an underlay of IPv4: its own Ethernet header, VXLAN,
/// UDP and IPv4 (RFC 7348 section 5); of IPv6 20 more.
const OVERHEAD: u16 = 14 + 8 + 8 + 20;

/// `[vxlan]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vxlan {
    /// Our address on the underlay: what remotes send to, and what we send from.
    pub local: IpAddr,
    /// The UDP l4 port that all listen on.
    pub port: u16,
    /// Other hosts that every network with a `vni` is on, of the family of `local`; each once, none of them `local`.
    pub peers: Vec<IpAddr>,
    /// A multicast group of the underlay that broadcast and unknown frames are sent to, instead of to each peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<IpAddr>,
    /// Whether one send may be many datagrams.
    pub udp_gso: UdpGso,
    /// What has reserved bits set is dropped (RFC 7348 section 5 says to ignore them).
    pub strict: bool,
    /// MAC addresses behind other hosts are learned from what they send.
    pub learning: bool,
    /// Source l4 ports that flows are spread over, 1 to 64.
    pub source_ports: u16,
    /// Bytes of an IP packet on the underlay; `None`: what the interface with `local` has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// `[[vxlan.static]]`, in the order of the file; in a network no MAC is there twice.
    #[serde(rename = "static", skip_serializing_if = "Vec::is_empty")]
    pub statics: Vec<StaticMac>,
}

/// `udp_gso`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UdpGso {
    /// Where a probe at start finds that the kernel does it well.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// `[[vxlan.static]]`: who is behind another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StaticMac {
    /// The network's.
    pub vni: u32,
    /// Unicast.
    #[serde(serialize_with = "as_text")]
    pub mac: MacAddr,
    /// The other host's address on the underlay, of the family of `local` and not `local`. It need not be one of `peers`:
    /// then nothing is flooded to it.
    pub vtep: IpAddr,
    /// The address that MAC has: asked for by ARP or ND it is told at once.
    #[serde(serialize_with = "as_optional_text", skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
}

impl Vxlan {
    /// All defaults, with this address of ours and nobody else.
    pub const fn new(local: IpAddr) -> Self {
        Self {
            local,
            port: 4789,
            peers: Vec::new(),
            group: None,
            udp_gso: UdpGso::Auto,
            strict: false,
            learning: true,
            source_ports: 8,
            mtu: None,
            statics: Vec::new(),
        }
    }

    /// The largest inner IP packet on an underlay of this MTU.
    pub const fn inner_mtu(&self, underlay: u16) -> u16 {
        underlay.saturating_sub(if self.local.is_ipv6() { OVERHEAD + 20 } else { OVERHEAD })
    }
}

impl Config {
    /// Whether the file says that somebody on another host has an address of a network.
    pub fn is_told(&self, network: &Network, address: IpAddr) -> bool {
        let statics = self.vxlan.iter().flat_map(|vxlan| &vxlan.statics);
        statics.filter(|told| Some(told.vni) == network.vni).any(|told| told.ip == Some(address))
    }

    /// Gives networks with a `vni` that do not name an MTU what an underlay of this one leaves them: at least what IPv6, or
    /// IPv4, must have.
    pub fn fit_underlay(&mut self, underlay: u16) {
        let Some(vxlan) = &self.vxlan else { return };
        let inner = vxlan.inner_mtu(vxlan.mtu.unwrap_or(underlay));
        for network in &mut self.networks {
            if network.vni.is_some() && !network.mtu_named {
                network.mtu = inner.max(if network.subnet6.is_some() { 1280 } else { 68 });
            }
        }
    }
}
