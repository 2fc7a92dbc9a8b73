//! Whose addresses are: each is asked of the cluster before it is an interface's, or lent.
//!
//! An interface of a network with a `vni` is attached once its addresses are granted: no two hosts hand out one address.
//! Where etcd does not answer it is attached all the same, and asked for again: what runs without it goes on. What DHCP lends
//! is another matter: nobody has it yet, so without a grant nobody gets it.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use switch::port::PortId;

use super::Overlay;
use crate::api::Disconnect;
use crate::cluster::{Claim, Claimed, Owner};
use crate::config::{Config, Interface, Network};
use crate::dhcp::Grant;
use crate::engine::control::Control;
use crate::engine::ports::State;
use crate::engine::records::{Outcome, Then, Unsettled};
use crate::ipam::lease::LeaseState;

/// When etcd is asked again for what it did not grant.
const AGAIN: Duration = Duration::from_secs(5);

/// What came of asking for an address.
pub(super) enum Standing {
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
}
