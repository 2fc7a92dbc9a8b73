//! What the API says of the overlay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use switch::stats::PortSample;

use super::{By, ETHERNET, Tunnel};
use crate::api::rows::{
    ClusterDetail, ClusterHostRow, ClusterMemberRow, OverlayStatus, RefusedRow, StoreState, ToldBy, VtepRow,
};
use crate::cluster::{HostRecord, Refused, Remote, State};
use crate::engine::control::Control;
use switch::port::PortId;
use vxlan::encap::Underlay;

/// What stands where the container's name would, of a port that is another host. No container can have it.
pub const VTEP: &str = "-vtep";

impl Control {
    /// Whose a port is: container and interface, or another host.
    pub(in crate::engine) fn port_names(&self, port: PortId) -> (String, String) {
        match (self.ports.get(port), self.overlay.tunnels.get(port)) {
            (Some(record), _) => (record.container().to_owned(), record.ifname().to_owned()),
            (None, Some(tunnel)) => (VTEP.to_owned(), tunnel.vtep.to_string()),
            (None, None) => (String::new(), String::new()),
        }
    }

    pub(in crate::engine) fn tunnel_sample(&self, port: PortId, tunnel: &Tunnel) -> PortSample {
        self.workers.sample(port).since(&tunnel.base)
    }

    pub(in crate::engine) fn vtep_rows(&self) -> Vec<VtepRow> {
        let Some(vxlan) = &self.desired.vxlan else { return Vec::new() };
        let placed = self.overlay.placed_on();
        let row = |(port, tunnel): (PortId, &Tunnel)| {
            let record = self.networks.get(tunnel.network)?;
            let takes = Underlay::new(self.overlay.underlay_mtu(vxlan, tunnel), tunnel.vtep.is_ipv6());
            let counters = self.tunnel_sample(port, tunnel);
            Some(VtepRow {
                network: record.config.name.clone(),
                vni: record.config.vni?,
                vtep: tunnel.vtep,
                port: port.0,
                told: match tunnel.by {
                    By::Static => ToldBy::Static,
                    By::Peer => ToldBy::Peer,
                    By::Cluster => ToldBy::Cluster,
                    By::Group => ToldBy::Group,
                },
                flood: tunnel.floods,
                macs: u32::try_from(record.fdb.learned_on(port) + placed.get(&port).unwrap_or(&0))
                    .unwrap_or(u32::MAX),
                mtu: takes.map_or(0, |it| u32::from(it.inner_mtu(ETHERNET).min(record.config.mtu))),
                age: tunnel.since.elapsed().as_secs(),
                rx_frames: counters.rx_frames,
                rx_bytes: counters.rx_bytes,
                tx_frames: counters.tx_frames,
                tx_bytes: counters.tx_bytes,
                drops: counters.drops.iter().sum(),
            })
        };
        let mut rows: Vec<_> = self.overlay.tunnels.all().filter_map(row).collect();
        rows.sort_by_key(|row| (row.vni, row.vtep));
        rows
    }

    pub(in crate::engine) fn overlay_status(&self) -> Option<OverlayStatus> {
        let vxlan = self.desired.vxlan.as_ref()?;
        let overlay = &self.overlay;
        let gso = overlay.sockets.as_ref().map(|open| open.gso.clone()).unwrap_or_default();
        // The kernel may have refused it since.
        let refused = overlay.count(|it| it.gso_off.get());
        Some(OverlayStatus {
            local: vxlan.local,
            port: vxlan.port,
            failed: overlay.failed.clone(),
            mtu: overlay.interface_mtu(vxlan),
            udp_gso: gso.0,
            udp_gso_why: match refused {
                0 => gso.1,
                sockets => format!("{}; the kernel refused it since on {sockets} sockets", gso.1),
            },
            datagrams: overlay.count(|it| it.datagrams.get()),
            reserved: overlay.count(|it| it.reserved.get()),
            too_big: overlay.count(|it| it.too_big.get()),
        })
    }
}

impl Control {
    /// `show cluster`; `None`: there is none.
    pub(in crate::engine) fn cluster_detail(&self) -> Option<Box<ClusterDetail>> {
        let view = &self.overlay.joined.as_ref()?.view;
        let (state, store, since) = match &view.state {
            State::Connected { since, endpoint } => (StoreState::Connected, endpoint, Some(since)),
            State::Lost { since, why } => (StoreState::Lost, why, Some(since)),
            State::Never { why } => (StoreState::Never, why, None),
            State::Remembered { why } => (StoreState::Remembered, why, None),
        };
        let mut behind: BTreeMap<&str, u32> = BTreeMap::new();
        for remote in view.members.iter() {
            *behind.entry(&remote.host).or_default() += 1;
        }
        let host = |host: &HostRecord| ClusterHostRow {
            host: host.name.clone(),
            vtep: host.vtep,
            age: host.since.elapsed().as_secs(),
            members: if host.me {
                self.desired.interfaces().filter(|(_, it)| self.is_shared(&it.network)).count() as u32
            } else {
                behind.get(host.name.as_str()).copied().unwrap_or(0)
            },
            me: host.me,
            held: host.held,
        };
        let member = |remote: &Arc<Remote>| ClusterMemberRow {
            vni: remote.member.vni,
            mac: remote.member.mac,
            addresses: remote.member.ips.clone(),
            names: remote.member.names.clone(),
            host: remote.host.clone(),
            vtep: remote.vtep,
            age: remote.since.elapsed().as_secs(),
        };
        let refused = |it: &Refused| RefusedRow { key: it.key.clone(), why: it.why.clone() };
        Some(Box::new(ClusterDetail {
            name: view.name.clone(),
            state,
            store: store.clone(),
            since: since.map(|since| since.elapsed().as_secs()),
            held: view.held_until.map(|until| until.saturating_duration_since(Instant::now()).as_secs()),
            hosts: view.hosts.iter().map(host).collect(),
            members: view.members.iter().map(member).collect(),
            refused: view.refused.iter().map(refused).collect(),
            refused_total: view.counters.refused,
        }))
    }

    fn is_shared(&self, network: &str) -> bool {
        self.desired.network(network).is_some_and(|network| network.vni.is_some())
    }
}
