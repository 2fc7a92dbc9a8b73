//! The control plane's registry of ports: one record per interface that is wanted, whether it is there or not.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use switch::mac::MacAddr;
use switch::port::{NetworkId, PortId};
use switch::stats::PortSample;
use switch::vlan::Tagging;
use vxlan::encap::gso_max_size;

use crate::config::{self, Container, HOST, Interface, OUTSIDE};
use crate::wire::{AttachInfo, AttachSpec};

/// Most ports of one daemon.
pub const MAX_PORTS: usize = 4096;
/// The keeper sees more than the engine, which has no privilege: it is asked so often even if nothing is seen here.
const LOOK_ANYWAY: Duration = Duration::from_secs(2);

/// One wanted interface.
#[derive(Debug)]
pub struct PortRecord {
    /// What the keeper is asked for.
    pub spec: AttachSpec,
    /// The network it is a port of.
    pub network: NetworkId,
    /// Addresses of the container that are not set: it asks for them by DHCP.
    pub reserved: Vec<(IpAddr, u8)>,
    /// The MAC given to the container.
    pub mac: MacAddr,
    /// The VLANs it carries.
    pub tagging: Tagging,
    /// Apart from others that are isolated.
    pub isolated: bool,
    /// Where it stands.
    pub state: State,
    /// What the keeper was asked for and has not answered yet.
    pub asked: Option<AttachSpec>,
    /// What its number's counters said when it was given to this interface.
    pub base: PortSample,
    /// Changes in place that the keeper was asked for and has not answered yet.
    pub adjusting: u32,
    /// Why it is not yet as it is wanted to be, though it is up: what the host said to the last change.
    pub refused: Option<String>,
    /// What its number's counters said when loads were compared last.
    pub weighed: PortSample,
    /// Which worker reads it, and which one is to.
    pub(super) reader: (usize, Option<usize>),
}

/// Where a port stands.
#[derive(Debug)]
pub enum State {
    /// Being attached for the first time, or being looked after because it died.
    Attaching,
    /// Frames flow.
    Up {
        /// What it turned out to be.
        info: AttachInfo,
        /// Its TAP, which the workers have too: for a daemon that takes over when the keeper has died.
        tap: Arc<OwnedFd>,
        /// The container set its link down.
        link_down: bool,
        /// The kernel refused super-frames for it while running.
        gso_refused: bool,
    },
    /// The namespace is not there; asked again when it appears.
    Waiting {
        /// In words.
        reason: String,
        /// Not before.
        retry: Instant,
        /// From then on whether or not the host shows that it may be there.
        regardless: Instant,
    },
    /// It was there, and somebody in the container deleted it. Made again by a reload.
    Down {
        /// In words.
        reason: String,
    },
    /// The host said no.
    Failed {
        /// In words.
        reason: String,
    },
    /// Not wanted any more; the id is free when workers and keeper have let go.
    Leaving {
        /// So many workers still hold it.
        workers: usize,
        /// The keeper still holds it.
        keeper: bool,
    },
}

impl PortRecord {
    /// A port that the keeper is asked for.
    pub fn attaching(spec: AttachSpec, network: NetworkId, mac: MacAddr) -> Self {
        Self {
            spec,
            network,
            reserved: Vec::new(),
            mac,
            tagging: Tagging::All,
            isolated: false,
            state: State::Attaching,
            asked: None,
            base: PortSample::default(),
            adjusting: 0,
            refused: None,
            weighed: PortSample::default(),
            reader: (0, None),
        }
    }

    /// The worker that reads it.
    pub const fn worker(&self) -> usize {
        self.reader.0
    }

    /// The worker that is to read it next.
    pub const fn moving(&self) -> Option<usize> {
        self.reader.1
    }

    /// It is read by this worker, from its attachment on.
    pub const fn read_by(&mut self, worker: usize) {
        self.reader = (worker, None);
    }

    /// Its worker is asked to leave it to another.
    pub const fn move_to(&mut self, worker: usize) {
        self.reader.1 = Some(worker);
    }

    /// Its worker has left it; to whom, if it was asked.
    pub const fn moved(&mut self) -> Option<usize> {
        let to = self.reader.1.take();
        if let Some(to) = to {
            self.reader.0 = to;
        }
        to
    }

    /// Its worker goes on.
    pub const fn stayed(&mut self) {
        self.reader.1 = None;
    }

    /// What the switch does with its frames, as `interface` says; whether it is in other VLANs than before.
    pub fn ruled(&mut self, interface: &Interface) -> bool {
        self.reserved = reserved(interface);
        self.isolated = interface.isolated;
        let tagging = match (self.container(), interface.vlan) {
            // By a packet socket the kernel gives us frames without the tag that they had.
            (OUTSIDE, Some(vlan)) => Tagging::Stripped(vlan),
            // The host's kernel is in one VLAN, or where there is none; so is what is outside.
            (HOST | OUTSIDE, vlan) => Tagging::Access(vlan.unwrap_or(0)),
            _ => tagging(interface),
        };
        let changed = tagging != self.tagging;
        self.tagging = tagging;
        changed
    }

    /// Its addresses with prefix lengths, set or not.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        self.spec.addresses.iter().chain(&self.reserved).copied()
    }

    /// The container's name.
    pub fn container(&self) -> &str {
        &self.spec.container
    }

    /// The interface's name in the container.
    pub fn ifname(&self) -> &str {
        &self.spec.ifname
    }

    /// Whether frames can be sent to it.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Whether it is being attached for the first time, or looked after because it died.
    pub fn is_attaching(&self) -> bool {
        matches!(self.state, State::Attaching)
    }

    /// Whether anything about it is not yet as it is wanted to be, and is being done.
    pub fn is_under_way(&self) -> bool {
        self.is_attaching() || !self.is_wanted() || self.adjusting > 0
    }

    /// Whether it is still wanted.
    pub fn is_wanted(&self) -> bool {
        !matches!(self.state, State::Leaving { .. })
    }

    /// Waits for its namespace: the next attempt is due after `pause`.
    pub fn wait(&mut self, reason: impl Into<String>, pause: Duration) {
        let now = Instant::now();
        let regardless = now + pause.max(LOOK_ANYWAY);
        self.state = State::Waiting { reason: reason.into(), retry: now + pause, regardless };
    }
}

/// All ports, by id.
pub struct Ports {
    slots: Vec<Option<PortRecord>>,
    /// Ids from there on are other hosts'.
    below: usize,
}

impl Default for Ports {
    fn default() -> Self {
        Self { slots: Vec::new(), below: MAX_PORTS }
    }
}

impl Ports {
    /// Takes the lowest free id for a record.
    ///
    /// # Errors
    /// The record, when all [`MAX_PORTS`] are in use, other hosts' too.
    pub fn insert(&mut self, record: PortRecord) -> Result<PortId, Box<PortRecord>> {
        let index = match self.slots.iter().position(Option::is_none) {
            Some(index) => index,
            None if self.slots.len() < self.below => {
                self.slots.push(None);
                self.slots.len() - 1
            }
            None => return Err(Box::new(record)),
        };
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some(record);
        }
        Ok(PortId(index as u16))
    }

    /// Ids from there on are not for interfaces.
    pub fn keep_below(&mut self, id: usize) {
        self.below = id;
    }

    /// The record of an id.
    pub fn get(&self, id: PortId) -> Option<&PortRecord> {
        self.slots.get(id.index())?.as_ref()
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, id: PortId) -> Option<&mut PortRecord> {
        self.slots.get_mut(id.index())?.as_mut()
    }

    /// Frees an id.
    pub fn remove(&mut self, id: PortId) {
        if let Some(slot) = self.slots.get_mut(id.index()) {
            *slot = None;
        }
    }

    /// The wanted port of a container's interface.
    pub fn find(&self, container: &str, ifname: &str) -> Option<PortId> {
        self.wanted()
            .find(|(_, port)| port.container() == container && port.ifname() == ifname)
            .map(|(id, _)| id)
    }

    /// All wanted ports, by id.
    pub fn wanted(&self) -> impl Iterator<Item = (PortId, &PortRecord)> {
        self.all().filter(|(_, port)| port.is_wanted())
    }

    /// The same, to be changed.
    pub fn wanted_mut(&mut self) -> impl Iterator<Item = (PortId, &mut PortRecord)> {
        let all = self.slots.iter_mut().enumerate();
        let all = all.filter_map(|(index, slot)| Some((PortId(index as u16), slot.as_mut()?)));
        all.filter(|(_, port)| port.is_wanted())
    }

    /// All records, leaving ones too.
    pub fn all(&self) -> impl Iterator<Item = (PortId, &PortRecord)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| Some((PortId(index as u16), slot.as_ref()?)))
    }

    /// Ids of wanted ports for which `test` holds.
    pub fn ids(&self, test: impl Fn(&PortRecord) -> bool) -> Vec<PortId> {
        self.wanted().filter(|(_, port)| test(port)).map(|(id, _)| id).collect()
    }

    /// How many ids are or were in use: the length of arrays indexed by them.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }
}

/// The VLANs of an interface.
fn tagging(interface: &Interface) -> Tagging {
    match (interface.vlan, interface.trunk.as_slice()) {
        (None, []) => Tagging::All,
        (Some(vlan), []) => Tagging::Access(vlan),
        (native, trunk) => Tagging::Trunk { vlans: Arc::new(trunk.iter().copied().collect()), native },
    }
}

/// The addresses of an interface that are not set.
fn reserved(interface: &Interface) -> Vec<(IpAddr, u8)> {
    let asked_for = interface.ip.filter(|_| interface.dhcp);
    asked_for.iter().map(|ip| (ip.addr().into(), ip.prefix_len())).collect()
}

/// What the keeper is asked for, for an interface of this network.
pub fn spec(container: &Container, interface: &Interface, network: &config::Network) -> AttachSpec {
    let set = |ip: &IpNet| !interface.dhcp || ip.addr().is_ipv6();
    AttachSpec {
        container: container.name.clone(),
        netns: container.netns.clone(),
        create: container.create,
        ifname: interface.name.clone(),
        mac: interface.mac.to_string(),
        mtu: u32::from(network.mtu),
        gso_max_size: network.vni.map(|_| gso_max_size(network.mtu)),
        addresses: interface.ips().filter(set).map(|ip| (ip.addr(), ip.prefix_len())).collect(),
        // By DHCP comes the route as well.
        default_via: interface.default_routes().filter(|via| !interface.dhcp || via.is_ipv6()).collect(),
        nic: false,
        vlan: None,
    }
}
