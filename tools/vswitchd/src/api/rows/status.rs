//! The daemon itself, as `show status` has it.

use serde::{Deserialize, Serialize};

use super::{DnsStatus, IoEngine, OverlayStatus, UplinkStatus};

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
    /// The way to other hosts, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<OverlayStatus>,
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
