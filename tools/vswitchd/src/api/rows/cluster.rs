//! The cluster, as `show cluster` has it.

use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use switch::mac::MacAddr;

use super::{UnknownWord, text};

words! {
    /// Whether the store of the cluster is there.
    StoreState {
        /// What is shown is what it has.
        Connected = "connected",
        /// It was there: what is shown is what it had.
        Lost = "lost",
        /// It was not reached so far.
        Never = "never",
        /// The same: what is shown is what it had before this engine began.
        Remembered = "remembered",
    }
}

/// `/v1/cluster`: what this host knows of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterDetail {
    /// What this host is called in it.
    pub name: String,
    /// Whether the store is there.
    pub state: StoreState,
    /// Which of its end points answers, or why none does.
    pub store: String,
    /// Seconds since that is so.
    pub since: Option<u64>,
    /// Seconds for which what the store does not have any more stays: it was emptied, or away for long.
    pub held: Option<u64>,
    /// All hosts.
    pub hosts: Vec<ClusterHostRow>,
    /// All networks.
    pub networks: Vec<ClusterNetworkRow>,
    /// Who is behind the others.
    pub members: Vec<ClusterMemberRow>,
    /// What is not believed.
    pub refused: Vec<RefusedRow>,
    /// Records that were not believed since the start.
    pub refused_total: u64,
}

/// A host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterHostRow {
    /// What it is called.
    pub host: String,
    /// Its address on the underlay.
    pub vtep: IpAddr,
    /// Seconds since we heard of it.
    pub age: u64,
    /// MAC addresses behind it.
    pub members: u32,
    /// It is this one.
    pub me: bool,
    /// The store does not have it any more.
    pub held: bool,
}

/// A network of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNetworkRow {
    /// What it is called.
    pub network: String,
    /// Its name on the underlay.
    pub vni: u32,
    /// Its addresses.
    pub subnet: Option<Ipv4Net>,
    /// The same of IPv6.
    pub subnet6: Option<Ipv6Net>,
    /// Hosts that somebody of it is behind, this one as well.
    pub hosts: u32,
    /// MAC addresses in it, those of this host as well.
    pub members: u32,
}

/// Somebody behind another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMemberRow {
    /// The network's name on the underlay.
    pub vni: u32,
    /// Its MAC address.
    #[serde(with = "text")]
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What it is called there.
    pub names: Vec<String>,
    /// The host that said so.
    pub host: String,
    /// Where that is.
    pub vtep: IpAddr,
    /// Seconds since we heard that it is there.
    pub age: u64,
}

/// A record of the store that is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRow {
    /// Its key.
    pub key: String,
    /// Why.
    pub why: String,
}
