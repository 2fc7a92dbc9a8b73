//! This host's part in a cluster, as the control plane has it: what it says, what it is told, and whose addresses are.
//!
//! An interface of a network with a `vni` is attached once its addresses are granted: no two hosts hand out one address.
//! Where etcd does not answer it is attached all the same, and asked for again: what runs without it goes on. What DHCP lends
//! is another matter: nobody has it yet, so without a grant nobody gets it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use switch::port::PortId;
use tokio::sync::watch;

use super::Overlay;
use super::notes::Notes;
use crate::api::{Disconnect, NetworkCreate};
use crate::cluster::{
    self, Claim, Claimed, Cluster, Flannel, Member, NetworkRecord, Owner, Remote, Says, Settings, View,
};
use crate::config::{Config, Container, Interface, Network, Part};
use crate::dhcp::Grant;
use crate::engine::control::Control;
use crate::engine::ports::State;
use crate::engine::records::{Outcome, Then, Unsettled};
use crate::ipam::lease::LeaseState;

/// How long a start waits for the cluster, so that addresses that are left open are free ones; and where it is known from
/// before who is on other hosts, who wait as well.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(100));
/// When etcd is asked again for what it did not grant.
const AGAIN: Duration = Duration::from_secs(5);

/// The cluster that this host has joined.
pub struct Joined {
    pub settings: Settings,
    cluster: Arc<Cluster>,
    changes: watch::Receiver<Arc<View>>,
    /// What is known of it.
    pub view: Arc<View>,
    /// Who is behind other hosts, by the network's VNI.
    members: BTreeMap<u32, Vec<Arc<Remote>>>,
    claims: BTreeMap<(String, IpAddr), Standing>,
    asked: Instant,
    /// Networks of it that cannot be here, of which that was said.
    left_out: BTreeSet<String>,
    /// What is known of it, for the next engine.
    pub notes: Notes,
}

/// What came of asking for an address.
enum Standing {
    /// It is being asked for.
    Asked,
    Granted,
    /// Nobody answered.
    Unknown,
    /// It is another host's.
    Taken(Owner),
}

/// Whether an interface may have its addresses.
pub enum MayHave {
    Yes,
    /// That is being asked.
    Wait,
    /// In words.
    No(String),
}

impl Joined {
    /// Joins the cluster that a configuration names, saying what it says and knowing what `folder` has of it.
    pub fn new(settings: &Settings, config: &Config, folder: &Path) -> Option<Self> {
        let says = says(config)?;
        let (notes, memory) = Notes::load(folder);
        let cluster = Arc::new(Cluster::start(settings.clone(), says, &memory));
        let mut joined = Self {
            settings: settings.clone(),
            changes: cluster.view(),
            view: Arc::new(View::empty(cluster.name().to_owned())),
            cluster,
            members: BTreeMap::new(),
            claims: BTreeMap::new(),
            asked: Instant::now(),
            left_out: BTreeSet::new(),
            notes,
        };
        joined.look();
        Some(joined)
    }

    /// Takes in what is known now.
    fn look(&mut self) {
        self.view = Arc::clone(&self.changes.borrow_and_update());
        self.members.clear();
        for remote in self.view.members.iter() {
            self.members.entry(remote.member.vni).or_default().push(Arc::clone(remote));
        }
    }

    /// Waits for the first word of the cluster, but not for long.
    pub async fn first_word(&mut self) {
        let connected = |view: &Arc<View>| matches!(view.state, cluster::State::Connected { .. });
        let remembers = matches!(self.view.state, cluster::State::Remembered { .. });
        let patience = if remembers { PATIENCE.1 } else { PATIENCE.0 };
        // Without an answer all goes on without one.
        let _ = tokio::time::timeout(patience, self.changes.wait_for(connected)).await;
        self.look();
    }

    /// Addresses of ours that the store has as another host's are asked for again: our lease was over, and he was faster.
    /// What comes of that is the store's word, for what is known may be of a moment before.
    fn ask_about_lost(&mut self) {
        let Self { view, claims, cluster, .. } = self;
        if !matches!(view.state, cluster::State::Connected { .. }) {
            return;
        }
        let granted = claims.iter().filter(|(_, standing)| matches!(standing, Standing::Granted));
        let lost =
            granted.filter(|(key, _)| view.addresses.get(*key).is_some_and(|owner| owner.host != view.name));
        let lost: Vec<_> = lost.map(|(key, _)| key.clone()).collect();
        for key in &lost {
            claims.remove(key);
        }
        if !lost.is_empty() {
            cluster.release(lost);
        }
    }

    /// Waits until something else is known.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Addresses that other hosts hold.
    pub fn elsewhere(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        let others = self.view.addresses.iter().filter(|(_, owner)| owner.host != self.view.name);
        others.map(|((network, ip), _)| (network.as_str(), *ip))
    }

    /// The end of this engine: what is known is written down for the next one.
    pub fn note(&self) {
        self.notes.finish(&self.settings, &self.view);
    }

    /// Leaves it at once. Who takes over goes on with what is there, and does not call this.
    pub async fn leave(self) {
        if let Some(cluster) = Arc::into_inner(self.cluster) {
            cluster.leave().await;
        }
    }

    /// The MACs on other hosts of a network, each with its host.
    pub fn members(&self, vni: u32) -> impl Iterator<Item = (&Member, IpAddr)> {
        let of_it = self.members.get(&vni).into_iter().flatten();
        of_it.map(|remote| (&remote.member, remote.vtep))
    }
}

/// What a host of this configuration says; `None`: it has no overlay.
fn says(config: &Config) -> Option<Says> {
    let vxlan = config.vxlan.as_ref()?;
    let flannel = config.flannel().map(|part| flannel(&part, vxlan.port, config));
    let networks =
        if flannel.is_some() { Vec::new() } else { config.networks.iter().filter_map(record).collect() };
    let member = |(container, interface): (&Container, &Interface)| {
        Some(Member {
            vni: config.network(&interface.network)?.vni?,
            mac: interface.mac,
            ips: interface.ips().map(|ip| ip.addr()).collect(),
            names: std::iter::once(&container.name).chain(&interface.aliases).cloned().collect(),
        })
    };
    let members = config.interfaces().filter_map(member).collect();
    Some(Says { vtep: vxlan.local, networks, members, flannel })
}

/// What flannel's hosts are told.
fn flannel(part: &Part<'_>, port: u16, config: &Config) -> Flannel {
    let others = config.networks.iter().filter(|network| network.name != part.network.name);
    Flannel {
        network: part.network.name.clone(),
        vni: part.vni,
        port,
        subnet: part.subnet,
        mac: part.mac,
        beside: others.filter_map(|network| Some((network.name.clone(), network.subnet?))).collect(),
    }
}

fn record(network: &Network) -> Option<NetworkRecord> {
    Some(NetworkRecord {
        name: network.name.clone(),
        vni: network.vni?,
        subnet: network.subnet,
        subnet6: network.subnet6,
        gateway: network.gateway,
        gateway6: network.gateway6,
        gateway_mac: network.gateway_mac,
        mtu: network.mtu_named.then_some(network.mtu),
        internal: network.internal,
        icc: network.icc,
        nat: network.nat,
        nat6: network.nat6,
    })
}

/// A network of the cluster's, as it is made here.
fn create(record: &NetworkRecord) -> NetworkCreate {
    NetworkCreate {
        name: record.name.clone(),
        subnet: record.subnet.map(Into::into),
        subnet6: record.subnet6.map(Into::into),
        gateway: record.gateway,
        gateway6: record.gateway6,
        gateway_mac: record.gateway_mac,
        vni: Some(record.vni),
        mtu: record.mtu.map(u32::from),
        icc: Some(record.icc),
        nat: Some(record.nat),
        nat6: Some(record.nat6),
        internal: Some(record.internal),
        ..NetworkCreate::default()
    }
}

/// The addresses that an interface needs granted.
fn claims<'a>(
    config: &'a Config,
    container: &'a str,
    interface: &'a Interface,
) -> impl Iterator<Item = Claim> + 'a {
    let shared = config.network(&interface.network).is_some_and(|network| config.is_shared(network));
    interface.ips().filter(move |_| shared).map(move |ip| Claim {
        network: interface.network.clone(),
        ip: ip.addr(),
        container: container.to_owned(),
        interface: interface.name.clone(),
    })
}

impl Overlay {
    /// Whether an address of a network that hosts share is this host's to lend, where others hold those `elsewhere`.
    pub(in crate::engine) fn grant(
        &self,
        network: &Network,
        ip: IpAddr,
        elsewhere: &HashSet<IpAddr>,
    ) -> Grant {
        let Some(joined) = self.joined.as_ref() else { return Grant::Yes };
        if elsewhere.contains(&ip) {
            return Grant::No;
        }
        match joined.claims.get(&(network.name.clone(), ip)) {
            Some(Standing::Granted) => Grant::Yes,
            Some(Standing::Taken(_)) => Grant::No,
            Some(Standing::Asked | Standing::Unknown) | None => Grant::Ask,
        }
    }
}

impl Control {
    /// Joins, leaves, and says what is so now. Before anything is attached.
    pub(in crate::engine) fn reconcile_cluster(&mut self) {
        let wanted = self.desired.cluster.as_ref();
        if self.overlay.joined.as_ref().map(|joined| &joined.settings) != wanted {
            // Whoever is left is told by the lease.
            let folder = &self.begin.state;
            self.overlay.joined = wanted.and_then(|settings| Joined::new(settings, &self.desired, folder));
        }
        let Some(joined) = &mut self.overlay.joined else { return };
        if let Some(says) = says(&self.desired) {
            joined.cluster.say(says);
        }
        self.claim_leases();
    }

    /// Claims what is or is to be somebody's here, the interfaces' addresses and those that DHCP lends, and gives back the
    /// rest.
    pub(in crate::engine) fn claim_leases(&mut self) {
        if self.overlay.joined.is_none() {
            return;
        }
        let wanted = self.wanted_claims();
        let Some(joined) = &mut self.overlay.joined else { return };
        let gone: Vec<_> = joined.claims.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        for key in &gone {
            joined.claims.remove(key);
        }
        joined.cluster.release(gone);
        for (key, claim) in wanted {
            if joined.claims.contains_key(&key) {
                continue;
            }
            joined.claims.insert(key.clone(), Standing::Asked);
            let cluster = Arc::clone(&joined.cluster);
            self.jobs.spawn(async move { Outcome::Claimed(key, cluster.claim(claim).await) });
        }
    }

    fn wanted_claims(&self) -> BTreeMap<(String, IpAddr), Claim> {
        let interfaces = self
            .desired
            .interfaces()
            .flat_map(|(container, interface)| claims(&self.desired, &container.name, interface));
        let lending =
            self.desired.networks.iter().filter(|network| network.dhcp && self.desired.is_shared(network));
        let lent = lending.flat_map(|network| {
            self.leases.memory.leases(&network.name).map(|(address, entry, _)| Claim {
                network: network.name.clone(),
                ip: address.into(),
                container: entry.container.clone(),
                interface: entry.interface.clone(),
            })
        });
        // Who has an interface's address by the file goes before who was lent it.
        lent.chain(interfaces).map(|claim| ((claim.network.clone(), claim.ip), claim)).collect()
    }

    /// What came of asking for an address.
    pub(in crate::engine) fn claimed(&mut self, key: (String, IpAddr), claimed: Claimed) {
        let answered = !matches!(claimed, Claimed::Unreachable { .. });
        if self.leases.memory.lease_of(&key.0, key.1).is_some() {
            self.lease_claimed(&key, claimed);
        } else {
            self.interface_claimed(&key, claimed);
        }
        self.dhcp_claimed(&key, answered);
    }

    /// The same of an address that DHCP lends or is about to.
    fn lease_claimed(&mut self, key: &(String, IpAddr), claimed: Claimed) {
        let Some(joined) = &mut self.overlay.joined else { return };
        let (network, address) = (key.0.as_str(), key.1);
        let lease = self.leases.memory.lease_of(network, address);
        let bound = lease.is_some_and(|lease| lease.state == LeaseState::Bound);
        let standing = match claimed {
            Claimed::Granted => Standing::Granted,
            // The client has it already, from before the daemon was started again: it is asked for again.
            Claimed::Unreachable { .. } if bound => Standing::Unknown,
            Claimed::Unreachable { why } => {
                tracing::warn!(network, %address, %why, "not lent: no address is lent that the cluster did not grant");
                return self.unlend(key);
            }
            Claimed::Taken { by } => {
                tracing::info!(network, %address, %by, "not lent: the address is another's");
                self.leases.memory.add_elsewhere(network, address);
                return self.unlend(key);
            }
        };
        if let Some(place) = joined.claims.get_mut(key) {
            *place = standing;
        }
    }

    /// A lease ends that the cluster does not grant.
    fn unlend(&mut self, (network, address): &(String, IpAddr)) {
        if let IpAddr::V4(address) = address {
            self.leases.memory.end(network, *address);
            self.leases.changed(true);
            self.unpublished = true;
        }
        self.claim_leases();
    }

    /// The same of an interface's address.
    fn interface_claimed(&mut self, key: &(String, IpAddr), claimed: Claimed) {
        let Some(joined) = &mut self.overlay.joined else { return };
        let Some(standing) = joined.claims.get_mut(key) else {
            // It was given back while it was being asked for.
            if claimed == Claimed::Granted {
                joined.cluster.release(vec![key.clone()]);
            }
            return;
        };
        *standing = match claimed {
            Claimed::Granted => Standing::Granted,
            Claimed::Unreachable { why } => {
                tracing::warn!(network = key.0, address = %key.1, %why, "not leased yet");
                Standing::Unknown
            }
            Claimed::Taken { by } => {
                tracing::error!(network = key.0, address = %key.1, %by, "the address is another's");
                // Whoever left it open gets another one, by reading the file again.
                self.leases.memory.add_elsewhere(&key.0, key.1);
                Standing::Taken(by)
            }
        };
        if matches!(standing, Standing::Taken(_)) {
            self.reopen(key);
            self.read_file(None);
        }
        self.unreconciled = true;
    }

    /// An interface that was made at run time and left this address open chooses anew, as one of the file does.
    fn reopen(&mut self, (network, ip): &(String, IpAddr)) {
        let mut reopened = false;
        for kept in self.objects.kept.interfaces.iter_mut().filter(|it| it.open && it.network == *network) {
            let interface = &mut kept.interface;
            let before = (interface.ip, interface.ip6);
            interface.ip = interface.ip.filter(|v4| IpAddr::V4(*v4) != *ip);
            interface.ip6 = interface.ip6.filter(|v6| IpAddr::V6(*v6) != *ip);
            reopened |= before != (interface.ip, interface.ip6);
        }
        if reopened {
            self.keep();
        }
    }

    /// Whether an interface may have its addresses.
    pub(in crate::engine) fn may_have(&self, container: &str, interface: &Interface) -> MayHave {
        let Some(joined) = &self.overlay.joined else { return MayHave::Yes };
        let mut wait = false;
        for claim in claims(&self.desired, container, interface) {
            match joined.claims.get(&(claim.network, claim.ip)) {
                Some(Standing::Taken(by)) => return MayHave::No(format!("{} is held by {by}", claim.ip)),
                Some(Standing::Granted | Standing::Unknown) => {}
                Some(Standing::Asked) | None => wait = true,
            }
        }
        if wait { MayHave::Wait } else { MayHave::Yes }
    }

    /// Connects anew whoever left its address open and got one that another host was faster to claim.
    pub(in crate::engine) fn another_address(&mut self, mut call: Unsettled) -> Option<Unsettled> {
        let Then::Connected { network, port, again } = &mut call.then else { return Some(call) };
        if !self.overlay.held.contains(port) {
            return Some(call);
        }
        let Some(interface) = again.take() else { return Some(call) };
        let record = self.ports.get(*port)?;
        let gone =
            Disconnect { container: record.container().into(), interface: Some(record.ifname().into()) };
        if self.disconnect(network, &gone).is_ok() {
            let network = network.clone();
            self.connect(&network, *interface, call.reply);
            return None;
        }
        Some(call)
    }

    /// Ports that waited for their addresses are attached, or cannot be.
    pub(in crate::engine) fn attach_held(&mut self) {
        for port in std::mem::take(&mut self.overlay.held) {
            let Some(record) = self.ports.get(port).filter(|record| record.is_wanted()) else { continue };
            let (container, ifname) = (record.container().to_owned(), record.ifname().to_owned());
            let wanted = self.desired.container(&container);
            let interface = wanted.and_then(|it| it.interfaces.iter().find(|it| it.name == ifname));
            match interface.map(|interface| self.may_have(&container, interface)) {
                Some(MayHave::Wait) => self.hold(port, State::Attaching),
                Some(MayHave::No(reason)) => self.hold(port, State::Failed { reason }),
                // No container's: a leg of the host's, or what is outside. Their addresses are this host's own.
                Some(MayHave::Yes) | None => self.attach(port),
            }
        }
    }

    fn hold(&mut self, port: PortId, state: State) {
        self.overlay.held.insert(port);
        if let Some(place) = self.state_mut(port) {
            *place = state;
        }
    }

    /// Once a second: what was not granted for want of an answer is asked for again.
    pub(in crate::engine) fn claim_again(&mut self) {
        let Some(joined) = &mut self.overlay.joined else { return };
        if joined.asked.elapsed() < AGAIN {
            return;
        }
        joined.asked = Instant::now();
        let before = joined.claims.len();
        joined.claims.retain(|_, standing| !matches!(standing, Standing::Unknown));
        self.unreconciled |= joined.claims.len() != before;
    }

    /// The cluster has something else to say.
    pub(in crate::engine) fn cluster_changed(&mut self) {
        let Some(joined) = &mut self.overlay.joined else { return };
        joined.look();
        self.leases.memory.set_elsewhere(joined.elsewhere());
        joined.ask_about_lost();
        self.join_networks();
        (self.unreconciled, self.unpublished) = (true, true);
    }

    /// Networks of the cluster that are not here yet: all of them together, for there may be thousands.
    fn join_networks(&mut self) {
        let Some(joined) = &mut self.overlay.joined else { return };
        let missing = |record: &&NetworkRecord| self.desired.network(&record.name).is_none();
        let new: Vec<_> = joined.view.networks.iter().filter(missing).map(create).collect();
        let mut wanted = self.desired.clone();
        let (mut made, mut left_out) = (Vec::new(), BTreeSet::new());
        for create in new {
            match crate::engine::made::add_network(&mut wanted, &create) {
                Ok(()) => {
                    tracing::info!(
                        network = create.name,
                        vni = create.vni,
                        "a network of the cluster is here now"
                    );
                    made.push(create);
                }
                Err(error) => {
                    if !joined.left_out.contains(&create.name) {
                        tracing::warn!(network = create.name, %error, "a network of the cluster is not here");
                    }
                    left_out.insert(create.name);
                }
            }
        }
        joined.left_out = left_out;
        if !made.is_empty() {
            self.refit_underlay(&mut wanted);
            self.desired = wanted;
            self.objects.kept.networks.extend(made);
            self.keep();
        }
    }
}
