//! A host of a cluster, as a test plays it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::timeout;
use vswitchd::cluster::{
    Claim, Claimed, Cluster, Member, Memory, NetworkRecord, Says, Settings, State, View,
};

use super::etcd::PATIENCE;

/// Seconds that a host of a test lives without a word.
pub const TTL: u32 = 2;

pub struct Host {
    pub cluster: Cluster,
    pub view: watch::Receiver<Arc<View>>,
    pub says: Says,
}

pub fn settings(endpoint: &str, name: &str) -> Settings {
    let mut settings = Settings::new(vec![endpoint.to_owned()]);
    settings.ttl = TTL;
    settings.name = Some(name.to_owned());
    settings
}

/// `blue`, 10.1.0.0/16, VNI 100.
pub fn blue() -> NetworkRecord {
    network("blue", 100, "10.1.0.0/16", "10.1.0.1")
}

pub fn network(name: &str, vni: u32, subnet: &str, gateway: &str) -> NetworkRecord {
    NetworkRecord {
        name: name.into(),
        vni,
        subnet: Some(subnet.parse().unwrap()),
        subnet6: None,
        gateway: Some(gateway.parse().unwrap()),
        gateway6: None,
        gateway_mac: None,
        mtu: None,
        internal: false,
        icc: true,
        nat: true,
        nat6: true,
        removed: false,
    }
}

/// The `n`th container of a host: in `blue`, where it has an address of its own.
pub fn member(host: u8, n: u16) -> Member {
    let [high, low] = n.to_be_bytes();
    Member {
        vni: 100,
        mac: switch::mac::MacAddr([2, 0x42, 10, host, high, low]),
        ips: vec![IpAddr::from([10, 1, (host << 4) | high, low])],
        names: vec![format!("c{host}-{n}")],
    }
}

pub fn says(host: u8, members: u16) -> Says {
    Says {
        vtep: IpAddr::from([198, 18, 1, host]),
        networks: vec![blue()],
        insists: BTreeSet::new(),
        removes: Vec::new(),
        members: (1..=members).map(|n| member(host, n)).collect(),
        flannel: None,
    }
}

pub fn claim(ip: IpAddr, container: &str) -> Claim {
    Claim { network: "blue".into(), ip, container: container.into(), interface: "eth0".into() }
}

impl Host {
    /// `h1`, `h2`, ... with so many containers.
    pub fn start(endpoint: &str, host: u8, members: u16) -> Self {
        Self::with(settings(endpoint, &format!("h{host}")), says(host, members))
    }

    pub fn with(settings: Settings, says: Says) -> Self {
        Self::remembering(settings, says, &Memory::default())
    }

    /// One that is started again.
    pub fn remembering(settings: Settings, says: Says, memory: &Memory) -> Self {
        let cluster = Cluster::start(settings, says.clone(), memory);
        Self { view: cluster.view(), cluster, says }
    }

    /// Waits until the view is like that.
    #[track_caller]
    pub fn sees<'h>(
        &'h mut self,
        what: &'h str,
        is: impl FnMut(&Arc<View>) -> bool + 'h,
    ) -> impl Future<Output = Arc<View>> + 'h {
        let place = std::panic::Location::caller();
        async move {
            let found = timeout(PATIENCE, self.view.wait_for(is)).await.map(|view| view.unwrap().clone());
            found.unwrap_or_else(|_| panic!("{place}: waited for {what}: {:#?}", brief(&self.view.borrow())))
        }
    }

    pub async fn sees_members(&mut self, count: usize) -> Arc<View> {
        self.sees(&format!("{count} members"), |view| view.members.len() == count).await
    }

    pub async fn claim(&self, ip: IpAddr, container: &str) -> Claimed {
        self.cluster.claim(claim(ip, container)).await
    }
}

/// Without the long lists.
fn brief(view: &View) -> View {
    let mut view = view.clone();
    view.members = view.members.iter().take(3).cloned().collect();
    view
}

pub fn hosts(view: &View) -> Vec<&str> {
    view.hosts.iter().map(|host| host.name.as_str()).collect()
}

pub fn connected(view: &View) -> bool {
    matches!(view.state, State::Connected { .. })
}
