//! What the workers' uplink is told: registries -> one immutable value, and a nudge.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use nat::conntrack::Counts;
use nat::sockets::{End, Link, Published, Settings, Target};
use router::tables::Gateway;
use rustix::net::{AddressFamily, SocketType, ipproto, socket};
use switch::port::{NetworkId, PortId};
use switch::snapshot::Snapshot;
use switch::tick::Tick;

use super::answers::port_state;
use super::control::Control;
use super::ports::PortRecord;
use super::published::{Key, number};
use super::routing::mapped;
use crate::api::rows::{UplinkGateway, UplinkPort, UplinkStatus};
use crate::config::{Device, OUTSIDE, UPLINK};
use crate::listing::Window;
use crate::tables::Tables;
use crate::uplink::Configured;

/// The control plane's side of the uplink.
pub struct UplinkControl {
    /// Of each worker: where it finds its settings, and what it shows.
    doors: Vec<(Configured, Arc<Window>)>,
    /// Most connections of each worker; `None`: none has an uplink.
    most: Option<u32>,
    generation: u64,
}

impl UplinkControl {
    /// Publishes to the workers that have these doors, and looks through them. `most`: how many connections each of them
    /// may have, if they have an uplink.
    pub fn new(doors: Vec<(Configured, Arc<Window>)>, most: Option<u32>) -> Self {
        Self { doors, most, generation: 0 }
    }

    /// The windows of all workers.
    pub fn windows(&self) -> impl Iterator<Item = &Arc<Window>> {
        self.doors.iter().map(|(_, window)| window)
    }

    /// What all of them counted.
    fn counters(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (name, count) in self.windows().flat_map(|window| window.counters()) {
            *sums.entry(name.to_owned()).or_default() += count;
        }
        sums
    }

    /// Whether workers have an uplink.
    pub const fn runs(&self) -> bool {
        self.most.is_some()
    }

    /// Room for all connections of one worker there may be.
    pub fn room(&self) -> usize {
        self.most.unwrap_or(0) as usize
    }
}

/// Why there may be no ping sockets now, if there may not: whoever runs the host may change it at any time.
///
/// # Syscalls
/// `socket`.
fn no_ping() -> Option<String> {
    let errno = socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP)).err()?;
    Some(format!(
        "pings are not answered from outside: ping socket: {errno} (sysctl net.ipv4.ping_group_range does not hold the group \
         of the daemon)"
    ))
}

/// What the container does not send by us, by network and by whether its default routes lead to us.
type Hidden = HashMap<(NetworkId, bool, bool), Arc<[IpNet]>>;

impl Control {
    /// Publishes what the uplink is to be now and wakes the workers, which take it in with their next batch. What was
    /// there before is theirs to drop: a socket in it must not be kept open by us.
    pub(super) fn configure_uplink(&mut self) {
        if !self.uplink.runs() {
            return;
        }
        let snapshot = self.snapshot.load();
        let mut hidden = Hidden::default();
        let mut published = Vec::new();
        for (key, record, sockets) in self.published.listening() {
            let Some(target) = self.target_of(key, &snapshot, &mut hidden) else { continue };
            // Nobody's while it moves from one worker to another: clients wait in the listening socket's queue.
            let reader = self.ports.get(target.link.port).filter(|port| port.moving().is_none());
            let reader = reader.map(PortRecord::worker);
            let ports = (0..key.2.count).map(|step| target.port.saturating_add(step));
            published.extend(sockets.iter().zip(ports).map(|(socket, port)| {
                let published = Published {
                    id: socket.id,
                    proto: number(key.2.protocol),
                    ours: false,
                    socket: Arc::clone(&socket.fd),
                    target: Target { port, ..target.clone() },
                    clients: Arc::clone(&record.clients),
                };
                (reader, published)
            }));
        }
        self.uplink.generation += 1;
        let generation = self.uplink.generation;
        for (worker, (settings, _)) in self.uplink.doors.iter().enumerate() {
            let of = |(reader, published): &(Option<usize>, Published)| Published {
                ours: *reader == Some(worker),
                ..published.clone()
            };
            settings.store(Arc::new(Settings { generation, published: published.iter().map(of).collect() }));
        }
        self.workers.wake();
    }

    pub(super) fn uplink_status(&self) -> UplinkStatus {
        let runs = self.uplink.runs();
        let mut status = UplinkStatus {
            kind: self.uplink_kind().into(),
            connections: self.uplink.windows().map(|window| window.connections()).sum(),
            max_connections: u64::from(self.uplink.most.unwrap_or(0)) * self.uplink.doors.len() as u64,
            ping: if runs { no_ping() } else { None },
            counters: self.uplink.counters(),
            ..UplinkStatus::default()
        };
        self.outside_status(&mut status);
        status
    }

    /// What an uplink that takes packets has beside sockets.
    fn outside_status(&self, status: &mut UplinkStatus) {
        let Some(outside) = &self.desired.outside else { return };
        let now = Tick::now();
        let neighbors = self.networks.named(UPLINK).map(|record| &record.neighbors);
        let known =
            |address: IpAddr| neighbors.is_some_and(|known| known.lookup(mapped(address), now).is_some());
        status.addresses = outside.legs().map(|(address, _)| address).collect();
        status.gateways =
            outside.gateways().map(|address| UplinkGateway { address, known: known(address) }).collect();
        status.port = self.ports.wanted().find(|(_, port)| port.container() == OUTSIDE).map(|(_, port)| {
            let (state, reason) = port_state(port);
            UplinkPort { iface: port.ifname().into(), state, reason }
        });
        status.ping = None; // packets need no ping sockets
        if let Some(nat) = &self.snapshot.load().tables.nat {
            let Counts { connections, mappings, opened, evicted, over_quota, no_port, other_port } =
                nat.conntrack.counts();
            status.connections = status.connections.saturating_add(connections);
            status.max_connections =
                status.max_connections.saturating_add(u64::from(outside.limits.connections));
            let named = [
                ("nat_mappings", mappings),
                ("nat_opened", opened),
                ("nat_evicted", evicted),
                ("nat_over_quota", over_quota),
                ("nat_no_port", no_port),
                ("nat_other_port", other_port),
            ];
            status.counters.extend(named.map(|(name, count)| (name.to_owned(), count)));
        }
    }

    fn uplink_kind(&self) -> &'static str {
        match self.desired.outside.as_ref().map(|outside| &outside.device) {
            Some(Device::Tap { .. }) => "tap",
            Some(Device::Nic(_)) => "nic",
            None if self.uplink.runs() => "sockets",
            None => "none",
        }
    }

    /// Where clients of an entry go, at its first l4 port.
    fn target_of(&self, key: &Key, snapshot: &Snapshot<Tables>, hidden: &mut Hidden) -> Option<Target> {
        let id = self.ports.find(&key.0, &key.1)?;
        let port = self.ports.get(id)?;
        let (network, gateway) =
            (snapshot.network(port.network)?, snapshot.tables.router.gateway(port.network)?);
        let ends = ends(port, gateway);
        let packets = self.desired.outside.is_some() && !self.networks.get(port.network)?.config.internal;
        if ends.is_empty() || !(gateway.uplink || packets) {
            return None;
        }
        // What a container answers to others than its gateway leaves as packets: sockets hear what is for the gateway.
        let by_us = |v4| gateway.uplink && answers_by_us(port, &ends, v4);
        let (v4, v6) = (by_us(true), by_us(false));
        let hidden = hidden.entry((port.network, v4, v6)).or_insert_with(|| hidden_from(gateway, v4, v6));
        Some(Target {
            zone: network.zone,
            link: link(id, port, gateway),
            port: key.2.port,
            ends,
            hidden: Arc::clone(hidden),
        })
    }
}

fn link(id: PortId, port: &PortRecord, gateway: &Gateway) -> Link {
    Link {
        port: id,
        mac: port.mac,
        gateway_mac: gateway.mac,
        mtu: u16::try_from(port.spec.mtu).unwrap_or(u16::MAX),
    }
}

/// The container's addresses there, with the gateway's of the same family.
fn ends(port: &PortRecord, gateway: &Gateway) -> Box<[End]> {
    let end = |address: &IpAddr| {
        let address = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => *v6,
        };
        let v4 = |address: Ipv6Addr| address.to_ipv4_mapped().is_some();
        let gateway = gateway.source(address).filter(|gateway| v4(*gateway) == v4(address))?;
        Some(End { address, gateway })
    };
    port.spec.addresses.iter().filter_map(|(address, _)| end(address)).collect()
}

/// Whether what the container answers to somebody far away comes to us: its default route leads here.
fn answers_by_us(port: &PortRecord, ends: &[End], v4: bool) -> bool {
    let gateway = |via: IpAddr| ends.iter().any(|end| end.gateway.to_canonical() == via);
    port.spec.default_via.iter().any(|via| via.is_ipv4() == v4 && gateway(*via))
}

/// What leads elsewhere than out: our networks and routes behind them.
fn hidden_from(gateway: &Gateway, v4: bool, v6: bool) -> Arc<[IpNet]> {
    let all = |ip: IpAddr| IpNet::new_assert(ip, 0);
    let mut nets: Vec<IpNet> = gateway.fib.iter().map(|(net, _)| net).collect();
    if !v4 {
        nets.push(all(Ipv4Addr::UNSPECIFIED.into()));
    }
    if !v6 {
        nets.push(all(Ipv6Addr::UNSPECIFIED.into()));
    }
    nets.into()
}
