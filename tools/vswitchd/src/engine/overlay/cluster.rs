//! This host's part in a cluster, as the control plane has it: what it says and what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::claims::Standing;
use super::notes::Notes;
use crate::api::NetworkCreate;
use crate::cluster::{self, Cluster, Flannel, Member, NetworkRecord, Remote, Says, Settings, View};
use crate::config::{Config, Container, Interface, Network, Part};
use crate::engine::control::Control;

/// How long a start waits for the cluster, so that addresses that are left open are free ones; and where it is known from
/// before who is on other hosts, who wait as well.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(100));
/// The cluster that this host has joined.
pub struct Joined {
    pub settings: Settings,
    pub(super) cluster: Arc<Cluster>,
    changes: watch::Receiver<Arc<View>>,
    /// What is known of it.
    pub view: Arc<View>,
    /// Who is behind other hosts, by the network's VNI.
    members: BTreeMap<u32, Vec<Arc<Remote>>>,
    pub(super) claims: BTreeMap<(String, IpAddr), Standing>,
    pub(super) asked: Instant,
    /// Networks of it that cannot be here, of which that was said.
    left_out: BTreeSet<String>,
    /// Networks that were made here by a command, until the cluster has them.
    made: BTreeSet<String>,
    /// Networks that were removed here by a command, until the cluster has that.
    removing: BTreeMap<String, NetworkRecord>,
    /// What is known of it, for the next engine.
    pub notes: Notes,
}

impl Joined {
    /// Joins the cluster that a configuration names, saying what it says and knowing what `folder` has of it.
    pub fn new(settings: &Settings, (config, file): (&Config, &Config), folder: &Path) -> Option<Self> {
        let says = says(config, file, None)?;
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
            made: BTreeSet::new(),
            removing: BTreeMap::new(),
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

/// What a host of this configuration says, of which `file` was read; `None`: it has no overlay.
fn says(config: &Config, file: &Config, joined: Option<&Joined>) -> Option<Says> {
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
    let used = config.interfaces().map(|(_, interface)| &interface.network);
    let made = joined.into_iter().flat_map(|joined| &joined.made);
    let insists = used.chain(made).chain(file.networks.iter().map(|network| &network.name));
    let removes = joined.map_or_else(Vec::new, |joined| joined.removing.values().cloned().collect());
    Some(Says { vtep: vxlan.local, networks, insists: insists.cloned().collect(), removes, members, flannel })
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
        removed: false,
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

impl Control {
    /// Joins, leaves, and says what is so now. Before anything is attached.
    pub(in crate::engine) fn reconcile_cluster(&mut self) {
        let wanted = self.desired.cluster.as_ref();
        if self.overlay.joined.as_ref().map(|joined| &joined.settings) != wanted {
            // Whoever is left is told by the lease.
            let folder = &self.begin.state;
            self.overlay.joined =
                wanted.and_then(|settings| Joined::new(settings, (&self.desired, &self.file), folder));
        }
        let Some(joined) = &mut self.overlay.joined else { return };
        if let Some(says) = says(&self.desired, &self.file, Some(&*joined)) {
            joined.cluster.say(says);
        }
        self.claim_leases();
    }

    /// The cluster has something else to say.
    pub(in crate::engine) fn cluster_changed(&mut self) {
        let Some(joined) = &mut self.overlay.joined else { return };
        joined.look();
        self.leases.memory.set_elsewhere(joined.elsewhere());
        joined.ask_about_lost();
        self.drop_removed();
        self.join_networks();
        (self.unreconciled, self.unpublished) = (true, true);
    }

    /// A network was made here by a command.
    pub(in crate::engine) fn cluster_has_made(&mut self, name: &str) {
        if let Some(joined) = &mut self.overlay.joined {
            joined.removing.remove(name);
            joined.made.insert(name.to_owned());
        }
    }

    /// A network is to be removed here by a command, and so from the cluster. Whether it is the cluster's.
    ///
    /// # Errors
    /// In words, why it has to stay.
    pub(in crate::engine) fn remove_from_cluster(&mut self, name: &str) -> Result<(), String> {
        let Some(joined) = &mut self.overlay.joined else { return Ok(()) };
        let Some(record) = joined.view.networks.iter().find(|network| network.name == name) else {
            joined.made.remove(name);
            return Ok(());
        };
        if !matches!(joined.view.state, cluster::State::Connected { .. }) {
            return Err(format!("network {name} is the cluster's, and etcd does not answer"));
        }
        if let Some(remote) = joined.members.get(&record.vni).and_then(|members| members.first()) {
            let who = remote.member.names.first().map_or("an interface", String::as_str);
            return Err(format!("network {name} is in use: {who} of host {} is on it", remote.host));
        }
        joined.removing.insert(name.to_owned(), record.clone());
        joined.made.remove(name);
        Ok(())
    }

    /// The removal did not come about.
    pub(in crate::engine) fn stays_in_cluster(&mut self, name: &str) {
        if let Some(joined) = &mut self.overlay.joined {
            joined.removing.remove(name);
        }
    }

    /// Networks that were removed from the cluster go, where the file does not name them and nobody is on them.
    fn drop_removed(&mut self) {
        let Some(joined) = &mut self.overlay.joined else { return };
        let view = Arc::clone(&joined.view);
        joined.made.retain(|made| !view.networks.iter().any(|network| network.name == *made));
        joined.removing.retain(|name, _| !view.removed.contains(name));
        if !matches!(view.state, cluster::State::Connected { .. }) {
            return; // what is merely remembered may have changed
        }
        let made = joined.made.clone();
        for name in view.removed.iter().filter(|name| !made.contains(*name)) {
            let merely_heard_of = self.file.network(name).is_none()
                && self.objects.kept.networks.iter().any(|network| network.name == *name);
            // In use it is said again, and others have it again.
            if merely_heard_of && self.desired.remove_network(name).is_ok() {
                tracing::info!(network = name, "a network of the cluster was removed");
                self.forget_network(name);
            }
        }
    }

    /// Networks of the cluster that are not here yet: all of them together, for there may be thousands.
    fn join_networks(&mut self) {
        let Some(joined) = &mut self.overlay.joined else { return };
        let missing = |record: &&NetworkRecord| {
            self.desired.network(&record.name).is_none() && !joined.removing.contains_key(&record.name)
        };
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
