//! What the API says of the overlay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use switch::stats::PortSample;

use super::{ETHERNET, Tunnel};
use crate::api::rows::{
    ClusterDetail, ClusterHostRow, ClusterMemberRow, ClusterNetworkRow, OverlayStatus, RefusedRow,
    StoreState, VtepRow,
};
use crate::cluster::{HostRecord, NetworkRecord, Refused, Remote, State, View};
use crate::engine::control::Control;
use crate::trace::VTEP;
use switch::port::PortId;
use vxlan::encap::Underlay;

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
                told: tunnel.by.into(),
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
            networks: self.cluster_networks(view),
            members: view.members.iter().map(member).collect(),
            refused: view.refused.iter().map(refused).collect(),
            refused_total: view.counters.refused,
        }))
    }

    fn cluster_networks(&self, view: &View) -> Vec<ClusterNetworkRow> {
        let mut there: BTreeMap<u32, (BTreeSet<&str>, u32)> = BTreeMap::new();
        for remote in view.members.iter() {
            let (hosts, members) = there.entry(remote.member.vni).or_default();
            hosts.insert(&remote.host);
            *members += 1;
        }
        let row = |record: &NetworkRecord| {
            let here = self.desired.interfaces().filter(|(_, it)| it.network == record.name).count() as u32;
            let (hosts, members) =
                there.get(&record.vni).map_or((0, 0), |(hosts, it)| (hosts.len() as u32, *it));
            ClusterNetworkRow {
                network: record.name.clone(),
                vni: record.vni,
                subnet: record.subnet,
                subnet6: record.subnet6,
                hosts: hosts + u32::from(here > 0),
                members: members + here,
            }
        };
        view.networks.iter().map(row).collect()
    }

    fn is_shared(&self, network: &str) -> bool {
        self.desired.network(network).is_some_and(|network| network.vni.is_some())
    }
}
