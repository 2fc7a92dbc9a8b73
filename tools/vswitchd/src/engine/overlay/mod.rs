//! The overlay as the control plane sees it: the sockets, who the other hosts are, and what is told of them.
//!
//! What is wanted comes from the configuration: each other host in each network that it is on is a port
//! ([`tunnels`]). Workers are told by two snapshots: the switch's has the ports, the overlay's says where their datagrams
//! go ([`vxlan::settings`]).

mod claims;
mod cluster;
mod notes;
mod show;
mod trace;
mod tunnels;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use switch::fdb::FdbError;
use switch::mac::MacAddr;
use switch::port::{NetworkId, PortId};
use switch::snapshot::{Port, Remote, Told};
use switch::stats::PortSample;
use switch::sys::{interface, path};
use switch::tick::Tick;
use switch::vlan::Tagging;
use vxlan::encap::Underlay;
use vxlan::probe::{self, Segments};
use vxlan::settings::{self, OverlayCounters, Published, Settings};
use vxlan::sockets::Sockets;
use vxlan::wire::{Reserved, Vni};

pub use cluster::Joined;
pub use tunnels::{By, Tunnel, Tunnels};

use super::control::Control;
use super::networks::Networks;
use super::routing::{Elsewhere, mapped};
use crate::config::{Config, UdpGso, Vxlan};

/// Bytes of an IP packet that an underlay takes of which nothing else is known.
const USUAL: u32 = 1500;
/// How often the kernel is asked whether a path that was too narrow still is.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Bytes of an Ethernet header without tags.
const ETHERNET: u16 = 14;

/// The overlay of all workers.
pub struct Overlay {
    published: Published,
    counters: Vec<Arc<OverlayCounters>>,
    sockets: Option<Open>,
    /// Why there are no sockets, if there are none and should be.
    failed: Option<String>,
    tunnels: Tunnels,
    /// The cluster, where there is one.
    pub joined: Option<Joined>,
    /// Ports that wait for their addresses to be granted, or cannot have them.
    pub held: BTreeSet<PortId>,
    /// What was told of MAC addresses, and has been put into the FDBs.
    placed: BTreeMap<(NetworkId, MacAddr), (u16, PortId)>,
    /// How many of them there was no room for, when that was said.
    unplaced: usize,
    /// MTU of the interface that has our address.
    underlay: Option<u32>,
    /// Frames that a path did not take, when it was last looked.
    too_big: u64,
    looked: Instant,
}

/// Sockets, and what they were opened for.
struct Open {
    for_whom: Key,
    sockets: Box<[Arc<Sockets>]>,
    /// Whether one send may be many datagrams, and why.
    gso: (bool, String),
}

/// What sockets are opened for.
#[derive(Clone, PartialEq, Eq)]
struct Key {
    local: SocketAddr,
    group: Option<SocketAddr>,
    ways: u16,
    gso: UdpGso,
}

impl Key {
    fn of(vxlan: &Vxlan) -> Self {
        Self {
            local: SocketAddr::new(vxlan.local, vxlan.port),
            group: vxlan.group.map(|group| SocketAddr::new(group, vxlan.port)),
            ways: vxlan.source_ports,
            gso: vxlan.udp_gso,
        }
    }

    /// Opens them in the daemon's network namespace, which this process is in.
    fn open(&self, workers: usize) -> Result<Open, vxlan::sockets::SocketError> {
        let gso = segments(self.gso);
        let mut all = Vec::with_capacity(workers);
        for worker in 0..workers {
            let mut sockets = Sockets::open(self.local, self.ways, gso.0)?;
            if let Some(group) = self.group {
                sockets.to_groups(self.local.ip())?;
                if worker == 0 {
                    sockets.join(group, self.local.ip())?;
                }
            }
            all.push(Arc::new(sockets));
        }
        Ok(Open { for_whom: self.clone(), sockets: all.into_boxed_slice(), gso })
    }
}

/// Whether one send may be many datagrams, and why.
fn segments(wanted: UdpGso) -> (bool, String) {
    let (yes, why) = match (wanted, probe::segments()) {
        (UdpGso::On, _) => return (true, "udp_gso = on".into()),
        (UdpGso::Off, _) => return (false, "udp_gso = off".into()),
        (UdpGso::Auto, Segments::Work) => (true, "this host does it well, tried at start".to_owned()),
        (UdpGso::Auto, Segments::Untried(why)) => {
            (true, format!("this host knows it; it could not be tried: {why}"))
        }
        (UdpGso::Auto, Segments::Fail(why)) => {
            tracing::warn!(%why, "one send is one datagram: UDP_SEGMENT cannot be used here");
            (false, why)
        }
    };
    (yes, format!("udp_gso = auto: {why}"))
}

impl Overlay {
    /// Of these workers, by what they look at and count.
    pub fn new(published: Published, counters: Vec<Arc<OverlayCounters>>) -> Self {
        Self {
            published,
            counters,
            sockets: None,
            failed: None,
            tunnels: Tunnels::default(),
            joined: None,
            held: BTreeSet::new(),
            placed: BTreeMap::new(),
            unplaced: 0,
            underlay: None,
            too_big: 0,
            looked: Instant::now(),
        }
    }

    /// Who is which port.
    pub const fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// MAC addresses that were told of, by the port that they are behind.
    fn placed_on(&self) -> BTreeMap<PortId, usize> {
        let mut counts = BTreeMap::new();
        for (_, port) in self.placed.values() {
            *counts.entry(*port).or_default() += 1;
        }
        counts
    }

    fn count(&self, of: impl Fn(&OverlayCounters) -> u64) -> u64 {
        self.counters.iter().map(|counters| of(counters)).sum()
    }
}

/// Every other host in every network, as the configuration says.
fn wanted(
    vxlan: &Vxlan,
    config: &Config,
    networks: &Networks,
    joined: Option<&Joined>,
) -> BTreeMap<(NetworkId, IpAddr), (By, bool)> {
    let mut wanted = BTreeMap::new();
    for network in &config.networks {
        let (Some(vni), Some(id)) = (network.vni, networks.find(&network.name)) else { continue };
        // Hosts of flannel take nothing but what is for them.
        let floods = vxlan.group.is_none() && !config.is_flannel();
        for (_, vtep) in joined.into_iter().flat_map(|joined| joined.members(vni)) {
            wanted.insert((id, vtep), (By::Cluster, floods));
        }
        for told in vxlan.statics.iter().filter(|told| told.vni == vni) {
            wanted.entry((id, told.vtep)).or_insert((By::Static, false));
        }
        for peer in &vxlan.peers {
            wanted.insert((id, *peer), (By::Peer, floods));
        }
        if let Some(group) = vxlan.group {
            wanted.insert((id, group), (By::Group, true));
        }
    }
    wanted
}

impl Control {
    /// Brings sockets, ports and what is told of MACs to what is wanted.
    pub(super) fn reconcile_overlay(&mut self) {
        let Some(vxlan) = self.desired.vxlan.clone() else {
            self.overlay.sockets = None;
            self.overlay.failed = None;
            return self.drop_tunnels(|_| false);
        };
        self.open_sockets(&vxlan);
        let wanted = wanted(&vxlan, &self.desired, &self.networks, self.overlay.joined.as_ref());
        self.drop_tunnels(|tunnel| {
            wanted.get(&(tunnel.network, tunnel.vtep)) == Some(&(tunnel.by, tunnel.floods))
        });
        for ((network, vtep), (by, floods)) in wanted {
            if self.overlay.tunnels.find(network, vtep).is_none() {
                self.add_tunnel(network, vtep, by, floods);
            }
        }
        self.ports.keep_below(self.overlay.tunnels.lowest());
        self.place_macs(&vxlan);
    }

    fn open_sockets(&mut self, vxlan: &Vxlan) {
        let key = Key::of(vxlan);
        if self.overlay.sockets.as_ref().is_some_and(|open| open.for_whom == key) {
            return;
        }
        self.overlay.sockets = None; // before the new ones: they may want the same l4 ports
        match key.open(self.workers.count()) {
            Ok(open) => {
                tracing::info!(local = %key.local, gso = open.gso.1, "the overlay's sockets are open");
                self.overlay.sockets = Some(open);
                self.overlay.failed = None;
            }
            Err(error) => {
                let reason = format!("{}: {error}", key.local);
                if self.overlay.failed.as_ref() != Some(&reason) {
                    tracing::error!(%reason, "no overlay: its sockets cannot be opened; tried again every second");
                }
                self.overlay.failed = Some(reason);
            }
        }
        self.unpublished = true;
    }

    fn drop_tunnels(&mut self, keep: impl Fn(&Tunnel) -> bool) {
        let gone = self.overlay.tunnels.retain(keep);
        self.unpublished |= !gone.is_empty();
        for (port, tunnel) in gone {
            self.overlay.placed.retain(|_, (_, at)| *at != port);
            self.moved.push((tunnel.network, port));
        }
    }

    fn add_tunnel(&mut self, network: NetworkId, vtep: IpAddr, by: By, floods: bool) {
        let (since, base) = (Instant::now(), PortSample::default());
        let tunnel = Tunnel { network, vtep, by, floods, since, base, path_mtu: None };
        match self.overlay.tunnels.add(tunnel, &self.ports) {
            Some(port) => {
                let base = self.workers.sample(port);
                if let Some(tunnel) = self.overlay.tunnels.get_mut(port) {
                    tunnel.base = base;
                }
                self.unpublished = true;
            }
            None => {
                tracing::error!(%vtep, network = self.networks.name(network), "no port is left for another host")
            }
        }
    }

    /// Puts into the FDBs who is behind which host, and takes out who is not any more.
    fn place_macs(&mut self, vxlan: &Vxlan) {
        let mut wanted = BTreeMap::new();
        for (id, record) in self.networks.all() {
            let Some(vni) = record.config.vni else { continue };
            let members = self.overlay.joined.iter().flat_map(|joined| joined.members(vni));
            let members = members.map(|(member, vtep)| (member.mac, vtep));
            // The file's word is the last.
            let statics = vxlan.statics.iter().filter(|told| told.vni == vni);
            for (mac, vtep) in members.chain(statics.map(|told| (told.mac, told.vtep))) {
                if let Some(port) = self.overlay.tunnels.find(id, vtep) {
                    wanted.insert((id, mac), (record.config.vlan.unwrap_or(0), port));
                }
            }
        }
        for (at @ (id, mac), (vlan, _)) in &self.overlay.placed {
            let stays = wanted.get(at).is_some_and(|(wanted, _)| wanted == vlan);
            if !stays && let Some(record) = self.networks.get(*id) {
                record.fdb.del_static(*vlan, *mac);
            }
        }
        // What there was no room for is tried again the next time.
        let mut first = None;
        let all = wanted.len();
        wanted.retain(|at, place| {
            let stays = self.overlay.placed.get(at) == Some(place);
            stays || self.place_mac(*at, *place).map_err(|error| first.get_or_insert((*at, error))).is_ok()
        });
        let unplaced = all - wanted.len();
        // There may be thousands.
        if let Some(((id, mac), error)) = first
            && unplaced != self.overlay.unplaced
        {
            let network = self.networks.name(id);
            tracing::error!(count = unplaced, %mac, network, %error, "not known where they are; the first is this one");
        }
        (self.overlay.unplaced, self.overlay.placed) = (unplaced, wanted);
    }

    fn place_mac(
        &self,
        (id, mac): (NetworkId, MacAddr),
        (vlan, port): (u16, PortId),
    ) -> Result<(), FdbError> {
        let record = self.networks.get(id).ok_or(FdbError::Full)?;
        record.fdb.add_static(vlan, mac, port, Tick::now()).map(drop)
    }

    /// Workers are told who the remotes are. Before the switch's snapshot names their ports.
    pub(super) fn publish_overlay(&mut self) {
        let Some(vxlan) = &self.desired.vxlan else {
            self.overlay.published.store(Arc::default());
            return;
        };
        let sockets = self.overlay.sockets.as_ref().map(|open| open.sockets.clone()).unwrap_or_default();
        let reserved = if vxlan.strict { Reserved::Strict } else { Reserved::Accept };
        let vni = |network| self.networks.get(network).and_then(|it| Vni::new(it.config.vni?));
        let networks = self.networks.all().filter_map(|(id, record)| Some((vni(id)?, record.config.mtu)));
        let remotes = self.overlay.tunnels.all().filter_map(|(port, tunnel)| {
            let mtu = self.overlay.underlay_mtu(vxlan, tunnel);
            let remote = settings::Remote {
                address: SocketAddr::new(tunnel.vtep, vxlan.port),
                vni: vni(tunnel.network)?,
                underlay: Underlay::new(mtu, tunnel.vtep.is_ipv6())?,
                mtu: self.networks.get(tunnel.network)?.config.mtu,
            };
            Some((port, remote))
        });
        match Settings::new(sockets, reserved, networks, remotes) {
            Ok(settings) => self.overlay.published.store(Arc::new(settings)),
            Err(error) => tracing::error!(%error, "the overlay stays as it was"),
        }
    }

    /// Once a second: the host's interfaces and paths may have changed.
    pub(super) fn look_after_overlay(&mut self) {
        let Some(vxlan) = self.desired.vxlan.clone() else { return };
        if self.overlay.sockets.is_none() {
            self.open_sockets(&vxlan);
        }
        self.claim_again();
        self.note_cluster();
        self.fit_underlay(&vxlan);
        let too_big = self.overlay.count(|counters| counters.too_big.get());
        let lowered = self.overlay.tunnels.all().any(|(_, tunnel)| tunnel.path_mtu.is_some());
        if too_big != self.overlay.too_big || (lowered && self.overlay.looked.elapsed() >= LOOK_AGAIN) {
            (self.overlay.too_big, self.overlay.looked) = (too_big, Instant::now());
            self.look_at_paths(&vxlan);
        }
    }

    /// The networks' MTUs are what the underlay leaves them, which may have changed.
    fn fit_underlay(&mut self, vxlan: &Vxlan) {
        let before = self.overlay.underlay;
        if self.overlay.look_at_underlay(vxlan) != before {
            let mut desired = self.desired.clone();
            self.refit_underlay(&mut desired);
            self.desired = desired;
            (self.unreconciled, self.unpublished) = (true, true);
        }
    }

    /// The same of what is about to be wanted.
    pub(super) fn refit_underlay(&mut self, wanted: &mut Config) {
        let Some(vxlan) = &wanted.vxlan else { return };
        let mtu = self.overlay.look_at_underlay(vxlan).unwrap_or(USUAL);
        wanted.fit_underlay(u16::try_from(mtu).unwrap_or(u16::MAX));
    }

    /// Asks the kernel what the paths take: whoever on the way was too narrow has said so to it.
    fn look_at_paths(&mut self, vxlan: &Vxlan) {
        let interface = self.overlay.interface_mtu(vxlan);
        for (_, tunnel) in self.overlay.tunnels.all_mut() {
            let known = path_mtu(vxlan.local, SocketAddr::new(tunnel.vtep, vxlan.port));
            let known = known.filter(|mtu| *mtu < interface);
            if known != tunnel.path_mtu {
                tracing::info!(vtep = %tunnel.vtep, mtu = known.unwrap_or(interface), "the way to another host takes packets of this size");
                tunnel.path_mtu = known;
                self.unpublished = true;
            }
        }
    }
}

impl Overlay {
    /// Asks what the interface with our address takes. Without an answer it is what it was.
    fn look_at_underlay(&mut self, vxlan: &Vxlan) -> Option<u32> {
        self.underlay = interface::mtu_of(vxlan.local).ok().flatten().or(self.underlay);
        self.underlay
    }

    /// Bytes of an IP packet that the interface with our address takes.
    fn interface_mtu(&self, vxlan: &Vxlan) -> u32 {
        vxlan.mtu.map(u32::from).or(self.underlay).unwrap_or(USUAL)
    }

    /// The same of the way to another host.
    fn underlay_mtu(&self, vxlan: &Vxlan, tunnel: &Tunnel) -> u32 {
        let interface = self.interface_mtu(vxlan);
        tunnel.path_mtu.map_or(interface, |path| path.min(interface))
    }
}

/// What the kernel knows of the path to a host.
fn path_mtu(local: IpAddr, to: SocketAddr) -> Option<u32> {
    let socket = UdpSocket::bind((local, 0)).ok()?;
    socket.connect(to).ok()?;
    path::path_mtu(&socket, to.is_ipv4()).ok()
}

/// The ports of the overlay, for the switch's snapshot.
pub fn ports<'a>(
    config: &'a Config,
    networks: &'a Networks,
    tunnels: &'a Tunnels,
) -> impl Iterator<Item = (PortId, Port)> + 'a {
    let vxlan = config.vxlan.as_ref();
    tunnels.all().filter_map(move |(id, tunnel)| {
        let (vxlan, network) = (vxlan?, &networks.get(tunnel.network)?.config);
        let takes = |path| Some(u32::from(Underlay::new(path, tunnel.vtep.is_ipv6())?.inner_mtu(ETHERNET)));
        let remote = Remote {
            learns: vxlan.learning,
            floods: tunnel.floods,
            mtu: tunnel.path_mtu.and_then(takes).filter(|mtu| *mtu < u32::from(network.mtu)),
        };
        let port = Port::new(tunnel.network, MacAddr::ZERO, Box::default());
        // What has a tag stays here: what goes out is of the gateway's VLAN.
        let tagging = Tagging::Access(network.vlan.unwrap_or(0));
        Some((id, Port { remote: Some(remote), tagging, ..port }))
    })
}

/// Who has which address on other hosts of a network.
pub fn told(config: &Config, joined: Option<&Joined>, vni: u32) -> Told {
    let members = joined.into_iter().flat_map(|joined| joined.members(vni));
    let members = members.flat_map(|(member, _)| member.ips.iter().map(|ip| (mapped(*ip), member.mac)));
    let statics = config.vxlan.iter().flat_map(|vxlan| &vxlan.statics).filter(|told| told.vni == vni);
    members.chain(statics.filter_map(|told| Some((mapped(told.ip?), told.mac)))).collect()
}

/// What is behind other hosts, where the cluster says that of subnets.
pub fn elsewhere(config: &Config, networks: &Networks, joined: Option<&Joined>) -> Elsewhere {
    let (Some(part), Some(joined)) = (config.flannel(), joined) else { return Elsewhere::default() };
    let view = &joined.view;
    Elsewhere {
        network: networks.find(&part.network.name),
        outer: view.outer.map(Into::into),
        routes: view.subnets.iter().map(|it| (it.destination.into(), it.via.to_ipv6_mapped())).collect(),
    }
}
