//! The rows of `/v1/...`: what the control socket answers and `vswitchctl` prints. One resource, one table.
//!
//! Words are those of the tables' headers in lower case. Addresses are text in JSON and types here.

mod leases;

pub use leases::{AddressStats, DhcpStats, LeaseRow};

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use switch::mac::MacAddr;

mod dns;

pub use dns::{DnsCounts, DnsStatus};

/// A closed set of lower-case words: the same in JSON, in tables and on the command line.
macro_rules! words {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $vdoc:literal])+ $variant:ident = $word:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[doc = $vdoc])+ #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Every word, in the order of declaration.
            pub const WORDS: &'static [&'static str] = &[$($word,)+];
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $(Self::$variant => $word,)+ })
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord(Self::WORDS)),
                }
            }
        }
    };
}

/// The text is none of the words that are possible here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one of: {}", .0.join(", "))]
pub struct UnknownWord(pub &'static [&'static str]);

words! {
    /// How an FDB entry came to be.
    FdbType {
        /// Learned from a source address; ages.
        Dynamic = "dynamic",
        /// Set by configuration or `fdb add`; stays.
        Static = "static",
    }
}

words! {
    /// What a route is.
    RouteType {
        /// A subnet that is right there.
        Connected = "connected",
        /// From the configuration.
        Static = "static",
        /// A gateway's own address.
        Local = "local",
        /// To a network that may only be answered (`routes_to` the other way round).
        Answer = "answer",
        /// To a network that is not reached from here, and not looked for outside either.
        Unreachable = "unreachable",
    }
}

words! {
    /// State of a neighbour (RFC 4861 section 7.3.2).
    NeighborState {
        /// Confirmed a short while ago.
        Reachable = "reachable",
        /// In use, and asked about.
        Stale = "stale",
        /// Not confirmed for so long that it is not used.
        Failed = "failed",
    }
}

words! {
    /// State of a port, or of a container's namespace.
    PortState {
        /// Attached, and its link is up.
        Up = "up",
        /// Attached, and its link was set down in the container.
        Down = "down",
        /// The namespace is not there yet; attached when it appears.
        Waiting = "waiting",
        /// The host said no; the reason stands beside it.
        Failed = "failed",
    }
}

words! {
    /// Who made an object: `reload` touches those of the file only.
    Origin {
        /// The configuration file.
        File = "file",
        /// The control socket.
        Api = "api",
    }
}

words! {
    /// What a network does about source addresses that belong to others.
    Spoof {
        /// Nobody uses a MAC or address owned by another port or a gateway.
        Claimed = "claimed",
        /// Only one's own MAC and addresses.
        Strict = "strict",
        /// Anything.
        Off = "off",
    }
}

words! {
    /// What becomes of frames larger than the MTU on a port.
    Gso {
        /// TCP and UDP super-frames pass in both directions.
        Full = "full",
        /// TCP super-frames pass in both directions; the kernel has no UDP segmentation offload.
        Tso = "tso",
        /// The kernel refuses to take them: they are segmented here.
        Software = "software",
        /// None arrive.
        Off = "off",
    }
}

words! {
    /// State of a container's `command`.
    CommandState {
        /// A process of it runs.
        Running = "running",
        /// It ended; the next start is due after a pause.
        Restarting = "restarting",
        /// It does not run: its namespace is not there, or it was ended.
        Stopped = "stopped",
    }
}

words! {
    /// The engine that reads and writes the devices.
    IoEngine {
        /// `epoll`, `read`, `writev`.
        Epoll = "epoll",
        /// `io_uring`.
        Uring = "uring",
    }
}

mod nat;

pub use nat::{ConnectionRow, Direction, NatRow, NatState, Transport, UplinkStatus};

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
    /// The next hop; `null`: the destination itself.
    pub via: Option<IpAddr>,
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

mod trace;
pub use trace::{
    Fate, Hop, TcpFlag, TraceAsk, TraceDescribed, TraceOut, TracePacket, TracePort, TraceRow, TraceStep,
};

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

/// `/v1/stats`: rates and totals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// When the counters were read: milliseconds on a clock that only goes forward while the engine lives.
    pub at_ms: u64,
    /// One row a port.
    pub ports: Vec<StatsRow>,
    /// One row a worker.
    pub workers: Vec<WorkerRow>,
}

/// Rates and totals of one port. `rx` is from the container, `tx` to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsRow {
    /// The switch port.
    pub port: u16,
    /// The network.
    pub network: String,
    /// The container.
    pub container: String,
    /// The interface.
    pub iface: String,
    /// Frames.
    pub rx_frames: u64,
    /// Bytes.
    pub rx_bytes: u64,
    /// Frames.
    pub tx_frames: u64,
    /// Bytes.
    pub tx_bytes: u64,
    /// Frames from it that were dropped.
    pub drops: u64,
    /// Frames per second.
    pub rx_pps: u64,
    /// Bits per second.
    pub rx_bps: u64,
    /// Frames per second.
    pub tx_pps: u64,
    /// Bits per second.
    pub tx_bps: u64,
}

/// Totals of one worker; `rx + generated + released == forwarded + flooded + local + held + drops`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// Its number.
    pub worker: u32,
    /// Frames read.
    pub rx: u64,
    /// Frames made here.
    pub generated: u64,
    /// Frames that had been held and went on.
    pub released: u64,
    /// Frames to one port.
    pub forwarded: u64,
    /// Frames to several.
    pub flooded: u64,
    /// Copies made for flooding; not part of the sum.
    pub copies: u64,
    /// Copies that a port did not take; not part of the sum.
    pub copies_lost: u64,
    /// Super-frames that a port refused and that were segmented here; not part of the sum.
    pub segmented: u64,
    /// Source addresses that were not learned for want of room.
    pub unlearned: u64,
    /// Frames for ourselves.
    pub local: u64,
    /// Frames held back for a neighbour.
    pub held: u64,
    /// Frames dropped.
    pub drops: u64,
    /// Batches.
    pub batches: u64,
    /// Times it slept and was woken.
    pub wakeups: u64,
    /// Times it looked again for a moment instead, and something came.
    pub spins: u64,
}

impl Stats {
    /// Fills in the rates from an earlier reading. Zero where there is none: no earlier row of that interface, counters
    /// that were reset, or no time between the two.
    pub fn rates_since(&mut self, earlier: &Self) {
        let millis = self.at_ms.saturating_sub(earlier.at_ms);
        let old: std::collections::HashMap<_, _> = earlier.ports.iter().map(|row| (row.key(), row)).collect();
        for row in &mut self.ports {
            let then = old.get(&row.key());
            let rate = |now: u64, then: Option<u64>, scale: u128| {
                let counted = then.map_or(0, |then| now.saturating_sub(then));
                let per_second = u128::from(counted)
                    .saturating_mul(scale)
                    .saturating_mul(1000)
                    .checked_div(u128::from(millis))
                    .unwrap_or(0);
                u64::try_from(per_second).unwrap_or(u64::MAX)
            };
            let rates = (
                rate(row.rx_frames, then.map(|old| old.rx_frames), 1),
                rate(row.rx_bytes, then.map(|old| old.rx_bytes), 8),
                rate(row.tx_frames, then.map(|old| old.tx_frames), 1),
                rate(row.tx_bytes, then.map(|old| old.tx_bytes), 8),
            );
            (row.rx_pps, row.rx_bps, row.tx_pps, row.tx_bps) = rates;
        }
    }
}

impl StatsRow {
    /// What names an interface when port numbers are used again.
    fn key(&self) -> (String, String, String) {
        (self.container.clone(), self.iface.clone(), self.network.clone())
    }
}

/// `/v1/status`: the daemon itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of vswitchd.
    pub version: String,
    /// Process id of the keeper: the one to signal.
    pub pid: u32,
    /// Process id of the engine.
    pub engine_pid: u32,
    /// Seconds since the engine began.
    pub uptime_s: u64,
    /// How often the keeper started the engine again.
    pub engine_restarts: u32,
    /// Not root: everything happens in a user namespace of its own.
    pub rootless: bool,
    /// The kernel's release.
    pub kernel: String,
    /// The engine's capabilities; `none` is as it should be.
    pub capabilities: String,
    /// How devices are read and written.
    pub io: IoStatus,
    /// Workers.
    pub workers: u32,
    /// Name of the configuration file.
    pub config: String,
    /// Generation of the running snapshot: how often the configuration changed.
    pub generation: u64,
    /// Ports by state.
    pub ports: PortCounts,
    /// The name server.
    #[serde(default)]
    pub dns: DnsStatus,
    /// What the probe of TAP offloads found.
    pub offloads: OffloadStatus,
    /// Limits in force.
    pub limits: LimitStatus,
    /// The way out.
    pub uplink: UplinkStatus,
}

/// The I/O engine and why it was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoStatus {
    /// Which.
    pub engine: IoEngine,
    /// Why that one.
    pub why: String,
}

/// Ports by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounts {
    /// Attached, link up.
    pub up: u32,
    /// Attached, link down.
    pub down: u32,
    /// Waiting for their namespace.
    pub waiting: u32,
    /// Refused by the host.
    pub failed: u32,
}

/// What the kernel takes from and gives to a TAP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffloadStatus {
    /// Names of the offloads: `csum`, `tso4`, `tso6`, `tso_ecn`, `uso4`, `uso6`.
    pub taken: Vec<String>,
    /// Whether the kernel takes a GSO frame written to a TAP.
    pub gso_writes: bool,
}

/// Limits in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitStatus {
    /// Most ports.
    pub ports: u64,
    /// Most networks.
    pub networks: u64,
    /// Most FDB entries of all networks.
    pub fdb: u64,
    /// Most open files of the engine.
    pub open_files: u64,
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
    use proptest::prelude::*;

    fn row(container: &str, rx: u64, tx: u64) -> StatsRow {
        StatsRow {
            port: 1,
            network: "blue".into(),
            container: container.into(),
            iface: "eth0".into(),
            rx_frames: rx,
            rx_bytes: rx.saturating_mul(100),
            tx_frames: tx,
            tx_bytes: tx.saturating_mul(100),
            drops: 0,
            rx_pps: 7,
            rx_bps: 7,
            tx_pps: 7,
            tx_bps: 7,
        }
    }

    #[test]
    fn rates_are_differences_over_time() {
        let earlier = Stats { at_ms: 1000, ports: vec![row("a", 10, 500)], workers: vec![] };
        let mut now =
            Stats { at_ms: 3000, ports: vec![row("a", 30, 400), row("new", 5, 5)], workers: vec![] };
        now.rates_since(&earlier);
        let of = |row: &StatsRow| (row.rx_pps, row.rx_bps, row.tx_pps, row.tx_bps);
        assert_eq!(of(&now.ports[0]), (10, 8000, 0, 0), "counters that went backwards have no rate");
        assert_eq!(of(&now.ports[1]), (0, 0, 0, 0), "a new interface has no rate yet");
        let again = now.clone();
        now.rates_since(&again);
        assert_eq!(of(&now.ports[0]), (0, 0, 0, 0), "no time passed");
    }

    proptest! {
        #[test]
        fn rates_never_overflow(at: u64, then: u64, rx: u64, tx: u64, old_rx: u64) {
            let mut now = Stats { at_ms: at, ports: vec![row("a", rx, tx)], workers: vec![] };
            now.rates_since(&Stats { at_ms: then, ports: vec![row("a", old_rx, 0)], workers: vec![] });
            prop_assert!(at > then || now.ports[0].rx_pps == 0);
        }
    }

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
