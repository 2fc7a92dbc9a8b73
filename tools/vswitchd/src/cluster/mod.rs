//! The memory of a cluster: what hosts tell each other through etcd.
//!
//! ```text
//! engine -> Says -> own -> etcd -> records -> known -> judge -> View -> engine
//!              claim, release ->
//! ```
//!
//! A host says who it is and who is behind it ([`Says`]); it is told the same of all others ([`View`]). Its records are
//! under a lease: a host that dies takes them along. Addresses are claimed before they are handed out ([`Cluster::claim`]),
//! so no two hosts ever hand out the same one.
//!
//! | key, after the prefix and `/v1` | who writes it | under the host's lease |
//! |---|---|---|
//! | `/hosts/NAME` | the host | yes |
//! | `/members/VNI/MAC` | the host that the MAC is on; the first one keeps it | yes |
//! | `/addresses/NETWORK/IP` | the host that claims it first | yes |
//! | `/networks/NAME` | the host that has it first; it stays, and says so where it was removed | no |
//!
//! Or flannel's layout is kept (module `flannel`): then a host says which subnet is behind it, and is told the same.
//!
//! What comes from the store is checked like what comes from containers: `records` judges each record by itself, `judge`
//! against the others and our own. What is refused is counted and named in the [`View`], and nothing is believed of it.
//!
//! etcd gone: the last [`View`] stays, over a new start as well ([`Memory`]). etcd emptied: nobody is withdrawn for three
//! times the lease, in which every host that lives has said all of it again.

mod claim;
mod flannel;
mod judge;
mod known;
mod memory;
mod own;
mod records;
mod session;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use switch::mac::MacAddr;
use tokio::sync::{mpsc, oneshot, watch};

pub use crate::config::Cluster as Settings;
pub use memory::{MEMORY_VERSION, Memory};

/// How many hosts a cluster has.
pub const MAX_HOSTS: usize = 1024;
/// How many networks.
pub const MAX_NETWORKS: usize = 4000;
/// How many MAC addresses behind all hosts.
pub const MAX_MEMBERS: usize = 65_536;
/// How many claimed addresses: one of each family for each member.
pub const MAX_ADDRESSES: usize = 2 * MAX_MEMBERS;
/// How many bytes of a value are looked at.
pub const MAX_VALUE: usize = 16 * 1024;
/// How many refused keys a [`View`] names.
pub const MAX_REFUSED: usize = 256;

/// What this host says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Says {
    /// Its address on the underlay.
    pub vtep: IpAddr,
    /// Its networks with a VNI.
    pub networks: Vec<NetworkRecord>,
    /// Those that are to be there whatever was removed before: named in the file, in use, or just made.
    pub insists: BTreeSet<String>,
    /// Those that somebody removed here, as they were.
    pub removes: Vec<NetworkRecord>,
    /// Who is behind it in them.
    pub members: Vec<Member>,
    /// Its part of flannel's network, where the cluster is flannel's. Networks and members are not said there.
    pub flannel: Option<Flannel>,
}

/// This host's part of flannel's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flannel {
    /// What the network is called here.
    pub network: String,
    /// Its VNI.
    pub vni: u32,
    /// The l4 port of UDP that we listen on.
    pub port: u16,
    /// What of flannel's network is here.
    pub subnet: Ipv4Net,
    /// The MAC that others address to us what we shall route.
    pub mac: MacAddr,
    /// Subnets of other networks that are here: no other host has addresses of these.
    pub beside: Vec<(String, Ipv4Net)>,
}

/// Somebody in a network.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    /// The network's.
    pub vni: u32,
    /// Unicast; in a network no two have it.
    pub mac: MacAddr,
    /// The addresses it has there, each in the network's subnets.
    pub ips: Vec<IpAddr>,
    /// What it is called there: the container's name, then its aliases.
    pub names: Vec<String>,
}

/// A network as all hosts have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// The name; it is part of the key.
    #[serde(skip)]
    pub name: String,
    /// The name on the underlay.
    pub vni: u32,
    /// Its addresses. Host bits are zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Ipv4Net>,
    /// The same of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet6: Option<Ipv6Net>,
    /// Where its gateway is, in `subnet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<std::net::Ipv4Addr>,
    /// The same in `subnet6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<std::net::Ipv6Addr>,
    /// The MAC of the gateway on every host, where it is not the one made from its address.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "records::optional_text")]
    pub gateway_mac: Option<MacAddr>,
    /// Bytes of an IP packet, where somebody named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// No way out of it.
    #[serde(default)]
    pub internal: bool,
    /// Its members may talk to each other.
    #[serde(default = "records::yes")]
    pub icc: bool,
    /// What leaves it by an uplink gets another address.
    #[serde(default = "records::yes")]
    pub nat: bool,
    /// The same for IPv6.
    #[serde(default = "records::yes")]
    pub nat6: bool,
    /// It was removed: hosts that merely heard of it have it no longer, and those that were away are told so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
}

/// What is known of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Whether it is up to date.
    pub state: State,
    /// What this host is called.
    pub name: String,
    /// All hosts, this one as well where the store has it.
    pub hosts: Arc<[HostRecord]>,
    /// Who is behind the other hosts: never one that is behind this host.
    pub members: Arc<[Arc<Remote>]>,
    /// All networks of which the store has a record; the first one to say it is believed.
    pub networks: Arc<[NetworkRecord]>,
    /// The names of those that were removed.
    pub removed: Arc<[String]>,
    /// Who holds which address of which network, this host's as well.
    pub addresses: Arc<BTreeMap<(String, IpAddr), Owner>>,
    /// What is routed to other hosts.
    pub subnets: Arc<[Subnet]>,
    /// All subnets are in it, those that nobody has as well.
    pub outer: Option<Ipv4Net>,
    /// What is not believed, and why: at most [`MAX_REFUSED`] of it.
    pub refused: Arc<[Refused]>,
    /// Records that the store does not have any more, and that stay until then: it was emptied, or was away for long.
    pub held_until: Option<Instant>,
    /// What happened so far.
    pub counters: Counters,
}

/// Whether etcd is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It has not been, so far.
    Never {
        /// The last attempt's failure.
        why: String,
    },
    /// The same, but an engine before this one had reached it: the view has what that knew of others.
    Remembered {
        /// The last attempt's failure.
        why: String,
    },
    /// All that it has is in the view.
    Connected {
        /// When it was reached.
        since: Instant,
        /// Which of the end points.
        endpoint: String,
    },
    /// It was there.
    Lost {
        /// When it was missed.
        since: Instant,
        /// The last attempt's failure.
        why: String,
    },
}

/// A host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRecord {
    /// What it is called.
    pub name: String,
    /// Its address on the underlay.
    pub vtep: IpAddr,
    /// When we heard of it first.
    pub since: Instant,
    /// It is this one.
    pub me: bool,
    /// The store does not have it any more: see [`View::held_until`].
    pub held: bool,
}

/// A subnet that is behind another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// The subnet.
    pub destination: Ipv4Net,
    /// The host's own address in it, one of a [`View::members`]'.
    pub via: std::net::Ipv4Addr,
}

/// Somebody behind another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The host's name.
    pub host: String,
    /// Its address on the underlay.
    pub vtep: IpAddr,
    /// Who.
    pub member: Member,
    /// When we heard that it is there.
    pub since: Instant,
}

/// Who holds an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The host.
    pub host: String,
    /// The container.
    pub container: String,
    /// The interface's name in it.
    pub interface: String,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` of container `{}` on host `{}`", self.interface, self.container, self.host)
    }
}

/// A record that is not believed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// Its key, as much of it as can be shown.
    pub key: String,
    /// Why.
    pub why: String,
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Connections to etcd that came to something.
    pub connected: u64,
    /// Those that were lost, and attempts that failed.
    pub failed: u64,
    /// Times that everything was read.
    pub reads: u64,
    /// Changes that the store told.
    pub events: u64,
    /// Records that were not believed.
    pub refused: u64,
    /// Records beyond what is kept.
    pub too_many: u64,
    /// Records of ours that were written.
    pub written: u64,
    /// Records of ours that are somebody else's in the store.
    pub conflicts: u64,
    /// Leases that were lost and had to be made again.
    pub leases_lost: u64,
    /// Times that the store was found emptied.
    pub emptied: u64,
}

/// What is asked for by [`Cluster::claim`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The network's name.
    pub network: String,
    /// The address in it.
    pub ip: IpAddr,
    /// For which container.
    pub container: String,
    /// For which interface of it.
    pub interface: String,
}

/// What came of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// It is ours, until it is released or our lease is lost for good.
    Granted,
    /// Somebody else has it.
    Taken {
        /// Who.
        by: Owner,
    },
    /// Nobody knows: etcd did not answer.
    Unreachable {
        /// Why not.
        why: String,
    },
}

/// What the task is asked to do.
#[derive(Debug)]
enum Order {
    Claim(Claim, oneshot::Sender<Claimed>),
    Release(Vec<(String, IpAddr)>),
    /// The end: what is ours is taken out of the store.
    Leave(oneshot::Sender<()>),
}

/// A host's part in a cluster: a task that keeps it until this is dropped.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    says: watch::Sender<Says>,
    view: watch::Receiver<Arc<View>>,
    // Whoever claims waits for the answer, and nobody releases more than was claimed: what waits here is bounded.
    orders: mpsc::UnboundedSender<Order>,
    task: tokio::task::JoinHandle<()>,
}

impl Cluster {
    /// Joins, in the runtime that this is called in. Nothing has to be there yet: see [`View::state`]. What `memory` has of
    /// this cluster is known at once.
    pub fn start(settings: Settings, says: Says, memory: &Memory) -> Self {
        let name = settings.name.clone().unwrap_or_else(host_name);
        let (orders, ordered) = mpsc::unbounded_channel();
        let (says, said) = watch::channel(says);
        let (shown, view) = watch::channel(Arc::new(View::empty(name.clone())));
        let task = session::begin(settings, memory, said, ordered, shown);
        let task = tokio::spawn(session::run(task));
        Self { name, says, view, orders, task }
    }

    /// What this host is called in the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says something else from now on.
    pub fn say(&self, says: Says) {
        self.says.send_if_modified(|said| {
            let other = *said != says;
            *said = says;
            other
        });
    }

    /// What is known, and when that changes: whole, and at most every 50 ms.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Takes an address for an interface of this host, unless another has it. What this host had before it was started
    /// again is still its own.
    pub async fn claim(&self, claim: Claim) -> Claimed {
        let gone = || Claimed::Unreachable { why: "the connection to etcd was lost meanwhile".into() };
        let (tell, told) = oneshot::channel();
        match self.orders.send(Order::Claim(claim, tell)) {
            Ok(()) => told.await.unwrap_or_else(|_| gone()),
            Err(_) => gone(),
        }
    }

    /// Gives addresses of a network back. Without etcd it is done when that is there again.
    pub fn release(&self, addresses: Vec<(String, IpAddr)>) {
        // Without the task there is no lease that lives, and with it all claims end.
        let _ = self.orders.send(Order::Release(addresses));
    }

    /// Takes all that is ours out of the store at once, as far as that can be done in a second. Who merely drops this,
    /// for a daemon that takes over, leaves it to the lease. In flannel's layout it is left to the lease as well.
    pub async fn leave(self) {
        let (tell, told) = oneshot::channel();
        if self.orders.send(Order::Leave(tell)).is_ok() {
            let _ = tokio::time::timeout(std::time::Duration::from_secs(1), told).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl View {
    /// What is known before anything was heard.
    pub fn empty(name: String) -> Self {
        Self {
            state: State::Never { why: "it was not tried yet".into() },
            name,
            hosts: Arc::default(),
            members: Arc::default(),
            networks: Arc::default(),
            removed: Arc::default(),
            addresses: Arc::default(),
            subnets: Arc::default(),
            outer: None,
            refused: Arc::default(),
            held_until: None,
            counters: Counters::default(),
        }
    }
}

/// The host's name, as far as it may be one here.
fn host_name() -> String {
    let uname = rustix::system::uname();
    let text = uname.nodename().to_string_lossy();
    let plain: String = text.chars().filter(|c| records::in_name(*c)).take(63).collect();
    let plain = plain.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if plain.is_empty() { "host".into() } else { plain.to_owned() }
}
