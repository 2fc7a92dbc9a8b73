//! What the API asks, answered from what is there. Nothing here changes anything.

use std::time::Instant;

use switch::drop::DropReason;
use switch::groups::EntryKind;
use switch::port::PortId;
use switch::tick::Tick;

use super::control::Control;
use super::networks::NetworkRecord;
use super::ports::{MAX_PORTS, PortRecord, State};
use super::records::Bare;
use crate::api::rows::{
    CommandState, ContainerRow, DropPort, DropRow, FdbRow, FdbStats, FdbType, GroupRow, GroupType, Gso,
    LimitStatus, NetworkDetail, NetworkRow, OffloadStatus, Origin, PortCounts, PortRow, PortState, Spoof,
    Stats, StatsRow, Status,
};
use crate::config;
use switch::sys::tun::offload;

impl Control {
    pub(super) fn fdb_rows(&self) -> Vec<FdbRow> {
        let now = Tick::now();
        let mut rows = Vec::new();
        for (_, network) in self.networks.all() {
            for entry in network.fdb.entries(now) {
                let (container, iface) = self.port_names(entry.port);
                rows.push(FdbRow {
                    port: entry.port.0,
                    vlan: entry.vid,
                    mac: entry.mac,
                    age: (!entry.is_static).then_some(u64::from(entry.age)),
                    network: network.config.name.clone(),
                    container,
                    iface,
                    r#type: if entry.is_static { FdbType::Static } else { FdbType::Dynamic },
                });
            }
        }
        rows.sort_by(|a, b| (&a.network, a.port, a.vlan, a.mac).cmp(&(&b.network, b.port, b.vlan, b.mac)));
        rows
    }

    pub(super) fn group_rows(&self) -> Vec<GroupRow> {
        let now = Tick::now();
        let mut rows = Vec::new();
        for (_, network) in self.networks.all() {
            for entry in network.groups.iter().flat_map(|groups| groups.entries(now)) {
                let (container, iface) = self.port_names(entry.port);
                rows.push(GroupRow {
                    vlan: entry.vid,
                    group: entry.group.to_canonical(),
                    port: (entry.port != PortId::NOBODY).then_some(entry.port.0),
                    age: u64::from(entry.age),
                    network: network.config.name.clone(),
                    container,
                    iface,
                    r#type: match entry.kind {
                        EntryKind::Member => GroupType::Member,
                        EntryKind::Router => GroupType::Router,
                        EntryKind::Querier => GroupType::Querier,
                    },
                });
            }
        }
        rows.sort_by(|a, b| {
            (&a.network, a.vlan, a.group, a.port).cmp(&(&b.network, b.vlan, b.group, b.port))
        });
        rows
    }

    pub(super) fn port_rows(&self) -> Vec<PortRow> {
        self.ports.wanted().map(|(id, port)| self.port_row(id, port)).collect()
    }

    pub(super) fn port_row(&self, id: PortId, port: &PortRecord) -> PortRow {
        let (state, reason) = port_state(port);
        let counters = self.workers.sample(id).since(&port.base);
        PortRow {
            port: Some(id.0),
            network: self.networks.name(port.network).into(),
            container: port.container().into(),
            iface: port.ifname().into(),
            mac: port.mac,
            addresses: port
                .addresses()
                .filter_map(|(address, prefix)| ipnet::IpNet::new(address, prefix).ok())
                .collect(),
            vlan: port.tagging.untagged(),
            trunk: port.tagging.tagged().collect(),
            isolated: port.isolated,
            state,
            reason,
            mtu: port.spec.mtu,
            io: if port.spec.nic { "nic" } else { "tap" }.into(),
            gso: gso(port),
            worker: u32::try_from(port.worker()).unwrap_or(u32::MAX),
            rx_frames: counters.rx_frames,
            rx_bytes: counters.rx_bytes,
            tx_frames: counters.tx_frames,
            tx_bytes: counters.tx_bytes,
            drops: counters.drops.iter().sum(),
        }
    }

    pub(super) fn network_rows(&self) -> Vec<NetworkRow> {
        self.desired
            .networks
            .iter()
            .filter_map(|network| self.networks.named(&network.name))
            .map(|record| self.network_row(record))
            .collect()
    }

    pub(super) fn network_row(&self, record: &NetworkRecord) -> NetworkRow {
        let network = &record.config;
        let ports =
            self.ports.wanted().filter(|(_, port)| self.networks.name(port.network) == network.name).count();
        NetworkRow {
            name: network.name.clone(),
            subnet: network.subnet.map(Into::into),
            subnet6: network.subnet6.map(Into::into),
            vlan: network.vlan,
            vni: network.vni,
            transparent: network.transparent,
            snooping: network.snooping,
            mtu: u32::from(network.mtu),
            icc: network.icc,
            spoof: match network.spoof {
                config::Spoof::Claimed => Spoof::Claimed,
                config::Spoof::Strict => Spoof::Strict,
                config::Spoof::Off => Spoof::Off,
            },
            ageing: u64::from(network.ageing),
            fdb_limit: network.fdb_limit,
            fdb_used: record.fdb.stats().current as u32,
            storm: u64::from(network.storm),
            ports: ports as u32,
            origin: if self.file.network(&network.name).is_some() { Origin::File } else { Origin::Api },
        }
    }

    pub(super) fn network_detail(&self, record: &NetworkRecord) -> NetworkDetail {
        let stats = record.fdb.stats();
        NetworkDetail {
            network: self.network_row(record),
            interfaces: self
                .port_rows()
                .into_iter()
                .filter(|row| row.network == record.config.name)
                .collect(),
            fdb: FdbStats {
                current: stats.current,
                max: u64::from(record.config.fdb_limit),
                r#static: stats.statics,
                learned: stats.learned,
                moved: stats.moved,
                expired: stats.expired,
                evicted: stats.evicted,
                refused: stats.refused,
            },
            addresses: self.address_stats(&record.config),
            leases: self.lease_rows(&record.config),
            dhcp: record.config.dhcp.then(|| self.dhcp.stats(&record.config.name)),
        }
    }

    pub(super) fn container_rows(&self) -> Vec<ContainerRow> {
        self.desired.containers.iter().map(|container| self.container_row(container)).collect()
    }

    fn container_row(&self, container: &config::Container) -> ContainerRow {
        let ports = || self.ports.wanted().filter(|(_, port)| port.container() == container.name);
        let known = self.containers.get(&container.name);
        // A container is as well as its worst interface.
        let worst = ports().map(|(_, port)| port_state(port)).max_by_key(|(state, _)| match state {
            PortState::Up => 0,
            PortState::Down => 1,
            PortState::Waiting => 2,
            PortState::Failed => 3,
        });
        let (state, reason) = worst.unwrap_or_else(|| match known.map(|known| &known.bare) {
            Some(Bare::Ready) => (PortState::Up, None),
            Some(Bare::Failed(reason)) => (PortState::Failed, Some(reason.clone())),
            Some(Bare::Absent { reason, .. }) => (PortState::Waiting, Some(reason.clone())),
            _ => (PortState::Waiting, Some("being made".into())),
        });
        let command = known.and_then(|known| known.running).unwrap_or(CommandState::Stopped);
        ContainerRow {
            name: container.name.clone(),
            netns: container.netns.to_string(),
            state,
            reason,
            interfaces: container.interfaces.iter().map(|interface| interface.name.clone()).collect(),
            command: (!container.command.is_empty()).then_some(command),
            origin: if self.file.container(&container.name).is_some() { Origin::File } else { Origin::Api },
        }
    }

    pub(super) fn drop_rows(&self, by_port: bool) -> Vec<DropRow> {
        let each = |frames: &[u64], port: Option<DropPort>| -> Vec<DropRow> {
            let pairs = DropReason::ALL.iter().zip(frames);
            let row = |(reason, frames): (&DropReason, &u64)| DropRow {
                reason: reason.name().into(),
                frames: *frames,
                explanation: reason.explanation().trim().into(),
                port: port.clone(),
            };
            // All reasons of thousands of ports would be a book.
            pairs.filter(|(_, frames)| !by_port || **frames > 0).map(row).collect()
        };
        if !by_port {
            return each(&self.workers.drops(), None);
        }
        let containers = self
            .ports
            .wanted()
            .map(|(id, port)| (id, port.network, self.workers.sample(id).since(&port.base)));
        let hosts = self.overlay.tunnels().all();
        let hosts = hosts.map(|(id, tunnel)| (id, tunnel.network, self.tunnel_sample(id, tunnel)));
        let all = containers.chain(hosts).flat_map(|(id, network, sample)| {
            let (container, iface) = self.port_names(id);
            let network = self.networks.name(network).into();
            each(&sample.drops, Some(DropPort { port: id.0, network, container, iface }))
        });
        all.collect()
    }

    pub(super) fn stats(&self) -> Stats {
        let ports = self.port_rows().into_iter().filter_map(|row| {
            Some(StatsRow {
                port: row.port?,
                network: row.network,
                container: row.container,
                iface: row.iface,
                rx_frames: row.rx_frames,
                rx_bytes: row.rx_bytes,
                tx_frames: row.tx_frames,
                tx_bytes: row.tx_bytes,
                drops: row.drops,
                rx_pps: 0,
                rx_bps: 0,
                tx_pps: 0,
                tx_bps: 0,
            })
        });
        let at_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Stats { at_ms, ports: ports.collect(), workers: self.workers.rows() }
    }

    pub(super) fn port_counts(&self) -> PortCounts {
        let mut counts = PortCounts::default();
        for (_, port) in self.ports.wanted() {
            match port_state(port).0 {
                PortState::Up => counts.up += 1,
                PortState::Down => counts.down += 1,
                PortState::Waiting => counts.waiting += 1,
                PortState::Failed => counts.failed += 1,
            }
        }
        counts
    }

    pub(super) fn status(&self) -> Status {
        let probed = self.ports.wanted().find_map(|(_, port)| match &port.state {
            State::Up { info, .. } => Some((info.offloads, info.gso_writes)),
            _ => None,
        });
        let (offloads, gso_writes) = probed.unwrap_or_default();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: self.begin.keeper_pid,
            engine_pid: std::process::id(),
            uptime_s: Instant::now().duration_since(self.started).as_secs(),
            engine_restarts: self.begin.restarts,
            rootless: self.begin.rootless,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            capabilities: super::capabilities(),
            io: self.io.clone(),
            workers: u32::try_from(self.workers.count()).unwrap_or(u32::MAX),
            config: self.begin.config_name.clone(),
            generation: self.generation,
            ports: self.port_counts(),
            dns: self.dns_status(),
            offloads: OffloadStatus { taken: offload_names(offloads), gso_writes },
            limits: LimitStatus {
                ports: MAX_PORTS as u64,
                networks: config::MAX_NETWORKS as u64,
                fdb: self.desired.networks.iter().map(|network| u64::from(network.fdb_limit)).sum(),
                open_files: rustix::process::getrlimit(rustix::process::Resource::Nofile)
                    .current
                    .unwrap_or(u64::MAX),
            },
            uplink: self.uplink_status(),
            overlay: self.overlay_status(),
        }
    }
}

/// A port's state in the words of the API, and why it is not up.
pub(super) fn port_state(port: &PortRecord) -> (PortState, Option<String>) {
    match &port.state {
        State::Up { link_down: false, .. } => (PortState::Up, port.refused.clone()),
        State::Up { link_down: true, .. } => (PortState::Down, Some("set down in the container".into())),
        State::Attaching => (PortState::Waiting, Some("being attached".into())),
        State::Waiting { reason, .. } => (PortState::Waiting, Some(reason.clone())),
        State::Down { reason } => (PortState::Down, Some(reason.clone())),
        State::Failed { reason } => (PortState::Failed, Some(reason.clone())),
        State::Leaving { .. } => (PortState::Down, Some("being removed".into())),
    }
}

fn gso(port: &PortRecord) -> Gso {
    match &port.state {
        State::Up { gso_refused: true, .. } => Gso::Software,
        State::Up { info, .. } if !info.gso_writes => Gso::Software,
        State::Up { info, .. } if info.offloads & offload::USO4 != 0 => Gso::Full,
        State::Up { info, .. } if info.offloads & offload::TSO4 != 0 => Gso::Tso,
        _ => Gso::Off,
    }
}

/// The names of a `TUN_F_*` mask.
fn offload_names(mask: u32) -> Vec<String> {
    let names = [
        (offload::CSUM, "csum"),
        (offload::TSO4, "tso4"),
        (offload::TSO6, "tso6"),
        (offload::TSO_ECN, "tso_ecn"),
        (offload::USO4, "uso4"),
        (offload::USO6, "uso6"),
    ];
    names.into_iter().filter(|(bit, _)| mask & bit != 0).map(|(_, name)| name.into()).collect()
}
