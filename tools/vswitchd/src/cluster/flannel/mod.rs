//! flannel's layout of the store, as flanneld's etcd manager and its `vxlan` backend have it.
//!
//! | key, after the prefix | what | who writes it |
//! |---|---|---|
//! | `/config` | the network, and how hosts reach each other | whoever runs the cluster |
//! | `/subnets/A.B.C.D-LEN` | whose subnet that is | the host, under a lease of its own; without one it is a reservation |
//!
//! A host is known by `PublicIP`, its address on the underlay: a subnet of that is its own again after a restart. Only IPv4
//! is here: what a dual-stack host says is refused by name.

mod judge;
mod own;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use switch::mac::MacAddr;

pub(super) use judge::judge;
pub(super) use own::{own_key, wanted};

use super::MAX_VALUE;
use super::records::{self, Key, Record, Refusal};
use crate::config::{FLANNEL_PORT, clip};

/// What is read, in order.
pub(super) const KINDS: [&str; 2] = ["config", "subnets/"];

/// flannel's own backend, and the only one that is spoken here.
const VXLAN: &str = "vxlan";
/// What flannel takes where its configuration names no backend.
const DEFAULT_BACKEND: &str = "udp";
/// What flannel takes where it names no VNI.
const DEFAULT_VNI: u32 = 1;

/// `/config`, as far as it matters here. How large subnets are, and which are given to whom, is each host's own affair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Network {
    /// All subnets are in it.
    pub network: Ipv4Net,
    pub backend: String,
    pub vni: u32,
    pub port: u16,
    /// Hosts on one link send to each other without a tunnel.
    pub direct_routing: bool,
}

/// `/subnets/A.B.C.D-LEN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    /// The host's address on the underlay.
    pub public_ip: Ipv4Addr,
    pub backend: Backend,
}

/// How a host is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Backend {
    Vxlan {
        /// Older ones do not say it.
        vni: Option<u32>,
        /// What frames are addressed to that it shall route.
        mac: MacAddr,
    },
    /// By something else.
    Other(String),
}

// As Go's JSON has it: names in any case would do there, but these are what flannel writes.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkValue {
    network: Ipv4Net,
    #[serde(default)]
    backend: Option<BackendValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BackendValue {
    r#type: String,
    #[serde(default, rename = "VNI")]
    vni: Option<u32>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    direct_routing: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LeaseValue {
    #[serde(rename = "PublicIP")]
    public_ip: Ipv4Addr,
    /// Always written, as flanneld does.
    #[serde(default, rename = "PublicIPv6", skip_deserializing)]
    public_ipv6: Option<()>,
    #[serde(default)]
    backend_type: String,
    #[serde(default)]
    backend_data: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct VxlanData {
    #[serde(default, rename = "VNI")]
    vni: Option<u32>,
    #[serde(rename = "VtepMAC")]
    vtep_mac: String,
}

/// Judges what stands at a key, without the prefix.
pub(super) fn parse(key: &[u8], value: &[u8]) -> Result<(Key, Record), Refusal> {
    let at = parse_key(key)?;
    if value.len() > MAX_VALUE {
        return Err(Refusal::Size(value.len()));
    }
    let record = match &at {
        Key::Config => Record::Config(network(records::json(value)?)?),
        _ => Record::Lease(lease(records::json(value)?)?),
    };
    Ok((at, record))
}

/// The key, if it is spelled as flanneld spells it: otherwise one subnet could stand at two keys.
pub(super) fn parse_key(key: &[u8]) -> Result<Key, Refusal> {
    let text = std::str::from_utf8(key).map_err(|_| Refusal::Key)?;
    if text == "config" {
        return Ok(Key::Config);
    }
    let rest = text.strip_prefix("subnets/").ok_or(Refusal::Key)?;
    // Behind an `&` is the IPv6 half of a dual-stack host.
    if rest.contains('&') {
        return Err(Refusal::DualStack);
    }
    let (address, length) = rest.split_once('-').ok_or(Refusal::Key)?;
    let address = address.parse().map_err(|_| Refusal::Key)?;
    let subnet = length.parse().ok().and_then(|length| Ipv4Net::new(address, length).ok());
    let subnet = subnet.ok_or(Refusal::Key)?;
    let at = Key::Subnet(subnet);
    let ours = at.to_string();
    if ours != text {
        return Err(Refusal::Spelling(ours));
    }
    // Without a host address of its own a subnet has no gateway, and its first address is another's.
    if subnet.prefix_len() > 30 {
        return Err(Refusal::Subnet(subnet.into()));
    }
    records::check_subnet(Some(subnet.into()))?;
    Ok(at)
}

fn network(value: NetworkValue) -> Result<Network, Refusal> {
    // flannel takes host bits away, too.
    let network = value.network.trunc();
    records::check_subnet(Some(network.into()))?;
    let (backend, vni, port, direct_routing) = match value.backend {
        Some(it) => (it.r#type, it.vni, it.port, it.direct_routing),
        None => (DEFAULT_BACKEND.to_owned(), None, None, false),
    };
    let vni = vni.unwrap_or(DEFAULT_VNI);
    let port = port.filter(|port| *port > 0).unwrap_or(FLANNEL_PORT);
    Ok(Network { network, backend: clip(&backend), vni, port, direct_routing })
}

fn lease(value: LeaseValue) -> Result<Lease, Refusal> {
    records::check_vtep(IpAddr::V4(value.public_ip))?;
    let backend = if value.backend_type == VXLAN {
        let data = value.backend_data.unwrap_or_default();
        let data: VxlanData =
            serde_json::from_value(data).map_err(|error| Refusal::Json(clip(&error.to_string())))?;
        let mac = data.vtep_mac.parse().map_err(|_| Refusal::Json(clip(&data.vtep_mac)))?;
        records::check_mac(mac)?;
        Backend::Vxlan { vni: data.vni, mac }
    } else {
        Backend::Other(clip(&value.backend_type))
    };
    Ok(Lease { public_ip: value.public_ip, backend })
}

/// The value of our own record.
pub(super) fn value(lease: &Lease) -> Vec<u8> {
    let (backend_type, data) = match &lease.backend {
        Backend::Vxlan { vni, mac } => (VXLAN, Some(VxlanData { vni: *vni, vtep_mac: mac.to_string() })),
        Backend::Other(other) => (other.as_str(), None),
    };
    records::text(&LeaseValue {
        public_ip: lease.public_ip,
        public_ipv6: None,
        backend_type: backend_type.to_owned(),
        backend_data: data.and_then(|data| serde_json::to_value(data).ok()),
    })
}
