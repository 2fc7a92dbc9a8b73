//! The rows of `/v1/...`: what the control socket answers and `vswitchctl` prints. One resource, one table.
//!
//! Words are those of the tables' headers in lower case. Addresses are text in JSON and types here.

#[macro_use]
mod words;
mod cluster;
mod dns;
mod leases;
mod nat;
mod stats;
mod status;
mod trace;
mod vxlan;

pub use cluster::{
    ClusterDetail, ClusterHostRow, ClusterMemberRow, ClusterNetworkRow, RefusedRow, StoreState,
};
pub use dns::{DnsCounts, DnsStatus};
pub use leases::{AddressStats, DhcpStats, LeaseRow};
pub use nat::{
    ConnectionRow, Direction, NatRow, NatState, Transport, UplinkGateway, UplinkPort, UplinkStatus,
};
pub use stats::{Stats, StatsRow, WorkerRow};
pub use status::{IoStatus, LimitStatus, OffloadStatus, PortCounts, Status};
pub use trace::{
    Fate, Hop, TcpFlag, TraceAsk, TraceDescribed, TraceOut, TracePacket, TracePort, TraceRow, TraceStep,
    TraceTunnel,
};
pub use vxlan::{OverlayStatus, ToldBy, VtepRow};
pub use words::{
    CommandState, FdbType, GroupType, Gso, IoEngine, NeighborState, Origin, PortState, RouteType, Spoof,
    UnknownWord,
};

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use switch::mac::MacAddr;

/// A type that is text in JSON, through `Display` and `FromStr`.
pub mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    /// # Errors
    /// Those of the serialiser.
    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// # Errors
    /// Not a text, or not one that `T` accepts.
    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// The same for a type that may be absent (`null`).
pub mod optional_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    /// # Errors
    /// Those of the serialiser.
    pub fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    /// # Errors
    /// Neither `null` nor a text that `T` accepts.
    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<T>, D::Error> {
        Option::<String>::deserialize(d)?.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// Next hops: `null` for none, one as a text, several as an array.
pub mod via {
    use std::net::IpAddr;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        None(()),
        One(IpAddr),
        Several(Vec<IpAddr>),
    }

    /// # Errors
    /// Those of the serialiser.
    pub fn serialize<S: Serializer>(hops: &[IpAddr], serializer: S) -> Result<S::Ok, S::Error> {
        match hops {
            [] => serializer.serialize_none(),
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }

    /// # Errors
    /// None of the three.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<IpAddr>, D::Error> {
        Ok(match Written::deserialize(d)? {
            Written::None(()) => Vec::new(),
            Written::One(hop) => vec![hop],
            Written::Several(hops) => hops,
        })
    }
}

/// `/v1/fdb`: where a MAC address is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbRow {
    /// The switch port it is behind.
    pub port: u16,
    /// VLAN; 0 is untagged.
    pub vlan: u16,
    /// The address.
    #[serde(with = "text")]
    pub mac: MacAddr,
    /// Seconds since it was last a source; `null` for static entries.
    pub age: Option<u64>,
    /// The network.
    pub network: String,
    /// The container behind the port.
    pub container: String,
    /// The container's interface.
    pub iface: String,
    /// How the entry came to be.
    pub r#type: FdbType,
}

/// `/v1/routes`: where packets go that came in by a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    /// The network they come in by.
    pub network: String,
    /// The prefix of their destinations.
    pub destination: IpNet,
    /// The next hop, an array where there are several; `null`: the destination itself.
    #[serde(with = "via")]
    pub via: Vec<IpAddr>,
    /// Largest packet that the route takes, where that is less than its network does; bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// The network they go to; `null`: they are for us.
    pub to: Option<String>,
    /// What kind of route it is.
    pub r#type: RouteType,
}

/// `/v1/neighbors`: who answers for an address on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborRow {
    /// The network.
    pub network: String,
    /// The address.
    pub address: IpAddr,
    /// The MAC it is at.
    #[serde(with = "text")]
    pub mac: MacAddr,
    /// The switch port it answered by.
    pub port: u16,
    /// The container behind the port.
    pub container: String,
    /// The container's interface.
    pub iface: String,
    /// Seconds since it was confirmed.
    pub age: u64,
    /// What that means.
    pub state: NeighborState,
}

/// `/v1/groups`: who listens to which multicast group, on networks that snoop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRow {
    /// VLAN; 0 is untagged.
    pub vlan: u16,
    /// The group; of a router all routers, of a querier all hosts.
    pub group: IpAddr,
    /// The switch port behind which it is; `null`: the gateway.
    pub port: Option<u16>,
    /// Seconds since it was last heard.
    pub age: u64,
    /// The network.
    pub network: String,
    /// The container behind the port; empty for the gateway.
    pub container: String,
    /// The container's interface; empty for the gateway.
    pub iface: String,
    /// What is there.
    pub r#type: GroupType,
}

/// `/v1/ports`: one interface of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRow {
    /// The switch port; `null` while it is not attached.
    pub port: Option<u16>,
    /// The network.
    pub network: String,
    /// The container.
    pub container: String,
    /// The interface's name in the container.
    pub iface: String,
    /// Its MAC address.
    #[serde(with = "text")]
    pub mac: MacAddr,
    /// Its addresses with prefix lengths.
    pub addresses: Vec<IpNet>,
    /// The VLAN of its untagged frames; `null`: they are in none, or refused on a trunk.
    #[serde(default)]
    pub vlan: Option<u16>,
    /// The VLANs that it carries tagged; empty where `vlan` is `null`: all.
    #[serde(default)]
    pub trunk: Vec<u16>,
    /// Whether it is apart from others that are isolated.
    #[serde(default)]
    pub isolated: bool,
    /// State.
    pub state: PortState,
    /// Why it is not up; `null` when it is.
    pub reason: Option<String>,
    /// MTU, bytes.
    pub mtu: u32,
    /// The kind of device: `tap`.
    pub io: String,
    /// What becomes of frames larger than the MTU.
    pub gso: Gso,
    /// The worker that reads it; all write to it.
    #[serde(default)]
    pub worker: u32,
    /// Frames from the container.
    pub rx_frames: u64,
    /// Bytes from the container.
    pub rx_bytes: u64,
    /// Frames to the container.
    pub tx_frames: u64,
    /// Bytes to the container.
    pub tx_bytes: u64,
    /// Frames from it that were dropped.
    pub drops: u64,
}

/// `/v1/networks`: one bridge domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRow {
    /// Its name.
    pub name: String,
    /// IPv4 subnet; `null`: none.
    pub subnet: Option<IpNet>,
    /// IPv6 subnet; `null`: none.
    pub subnet6: Option<IpNet>,
    /// The VLAN its gateway is in; `null`: where frames have no tag.
    #[serde(default)]
    pub vlan: Option<u16>,
    /// Its name on the underlay; `null`: it is on this host only.
    #[serde(default)]
    pub vni: Option<u32>,
    /// Whether what bridges say to each other passes.
    #[serde(default)]
    pub transparent: bool,
    /// Whether frames for multicast groups go to those who listen.
    #[serde(default)]
    pub snooping: bool,
    /// MTU, bytes.
    pub mtu: u32,
    /// Whether its containers may talk to each other.
    pub icc: bool,
    /// What it does about others' source addresses.
    pub spoof: Spoof,
    /// Seconds after which a silent FDB entry is forgotten.
    pub ageing: u64,
    /// Most FDB entries.
    pub fdb_limit: u32,
    /// FDB entries now.
    pub fdb_used: u32,
    /// Broadcast and unknown frames per second and port; 0: no limit.
    pub storm: u64,
    /// Its ports, waiting ones too.
    pub ports: u32,
    /// Who made it.
    pub origin: Origin,
}

/// The FDB's counters of one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbStats {
    /// Entries now.
    pub current: u64,
    /// Most entries.
    pub max: u64,
    /// Entries now that were set, not learned.
    pub r#static: u64,
    /// Addresses learned.
    pub learned: u64,
    /// Addresses that turned up behind another port.
    pub moved: u64,
    /// Entries forgotten for their age.
    pub expired: u64,
    /// Entries forgotten to make room.
    pub evicted: u64,
    /// Addresses not learned for want of room.
    pub refused: u64,
}

/// `/v1/networks/NAME`: a network with what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDetail {
    /// The network's row.
    #[serde(flatten)]
    pub network: NetworkRow,
    /// Its ports.
    pub interfaces: Vec<PortRow>,
    /// Its FDB's counters.
    pub fdb: FdbStats,
    /// Its addresses; `null`: it has no subnet.
    pub addresses: Option<AddressStats>,
    /// What clients behind its interfaces hold.
    pub leases: Vec<LeaseRow>,
    /// What its DHCP service did; `null`: it has none.
    pub dhcp: Option<DhcpStats>,
}

/// `/v1/containers`: one namespace we serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRow {
    /// Its name.
    pub name: String,
    /// Where its namespace is, as in the configuration (`pid:4242`, `docker:web`, a name, a path).
    pub netns: String,
    /// State of the namespace.
    pub state: PortState,
    /// Why it is not up; `null` when it is.
    pub reason: Option<String>,
    /// Names of its interfaces.
    pub interfaces: Vec<String>,
    /// State of its command; `null`: it has none.
    pub command: Option<CommandState>,
    /// Who made it.
    pub origin: Origin,
}

/// `/v1/drops`: why frames were not delivered, every reason there is; with `?ports=true` for each port apart, those that
/// happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRow {
    /// The reason's name.
    pub reason: String,
    /// Frames.
    pub frames: u64,
    /// One line that says what the frame did.
    pub explanation: String,
    /// The port they came from; absent in the sum over all ports.
    #[serde(flatten)]
    pub port: Option<DropPort>,
}

/// The port of a [`DropRow`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropPort {
    /// The switch port.
    pub port: u16,
    /// The network.
    pub network: String,
    /// The container.
    pub container: String,
    /// The interface.
    pub iface: String,
}

/// The answer to a change that has no row to show.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// How many objects were made, changed or removed.
    pub changed: u64,
    /// What was done, a line each.
    pub details: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_words_of_the_table() {
        let row = FdbRow {
            port: 3,
            vlan: 0,
            mac: MacAddr([2, 0x42, 10, 1, 0, 10]),
            age: None,
            network: "blue".into(),
            container: "web".into(),
            iface: "eth0".into(),
            r#type: FdbType::Static,
        };
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(
            json,
            r#"{"port":3,"vlan":0,"mac":"02:42:0a:01:00:0a","age":null,"network":"blue","container":"web","iface":"eth0","type":"static"}"#
        );
        assert_eq!(serde_json::from_str::<FdbRow>(&json).unwrap(), row);
        assert!(serde_json::from_str::<FdbRow>(&json.replace("02:42", "02-42")).is_err());
    }

    #[test]
    fn a_route_has_one_next_hop_or_several_or_none() {
        let row = RouteRow {
            network: "blue".into(),
            destination: "10.8.0.0/16".parse().unwrap(),
            via: vec!["10.1.0.20".parse().unwrap()],
            mtu: None,
            to: Some("blue".into()),
            r#type: RouteType::Static,
        };
        let none = RouteRow { via: Vec::new(), ..row.clone() };
        let several = ["10.1.0.20", "10.1.0.21"].map(|hop| hop.parse().unwrap()).to_vec();
        let several = RouteRow { via: several, mtu: Some(1400), ..row.clone() };
        for (row, said) in [
            (row, r#""via":"10.1.0.20","to""#),
            (none, r#""via":null,"to""#),
            (several, r#""via":["10.1.0.20","10.1.0.21"],"mtu":1400,"to""#),
        ] {
            let json = serde_json::to_string(&row).unwrap();
            assert!(json.contains(said), "{json}");
            assert_eq!(serde_json::from_str::<RouteRow>(&json).unwrap(), row);
        }
    }

    #[test]
    fn a_drop_row_has_a_port_only_when_it_is_of_one() {
        let total = DropRow { reason: "storm".into(), frames: 1, explanation: "too many".into(), port: None };
        let json = serde_json::to_string(&total).unwrap();
        assert_eq!(json, r#"{"reason":"storm","frames":1,"explanation":"too many"}"#);
        assert_eq!(serde_json::from_str::<DropRow>(&json).unwrap(), total);
        let port = DropPort { port: 4, network: "blue".into(), container: "a".into(), iface: "eth0".into() };
        let apart = DropRow { port: Some(port), ..total };
        let json = serde_json::to_string(&apart).unwrap();
        assert!(json.ends_with(r#""port":4,"network":"blue","container":"a","iface":"eth0"}"#), "{json}");
        assert_eq!(serde_json::from_str::<DropRow>(&json).unwrap(), apart);
    }

    #[test]
    fn words_are_text_both_ways() {
        for word in Spoof::WORDS {
            assert_eq!(word.parse::<Spoof>().unwrap().to_string(), *word);
        }
        let error = "stict".parse::<Spoof>().unwrap_err();
        assert_eq!(error.to_string(), "expected one of: claimed, strict, off");
    }
}
