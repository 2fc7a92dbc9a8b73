//! What is believed of flannel's records: against each other, and against what this host has. Pure.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::Ipv4Net;
use switch::mac::MacAddr;

use super::super::judge::{Lists, Refusals, by_age, wrong_vtep};
use super::super::known::{Entry, Known};
use super::super::records::{Key, Record, overlap};
use super::super::{Flannel, HostRecord, Member, Remote, Says, Subnet};
use super::{Backend, Lease, Network, VXLAN};

/// Judges everything, for a host with this part of flannel's network. `before` is the view's list of members: those that
/// are as they were are the same ones.
pub(in super::super) fn judge(
    known: &Known,
    says: &Says,
    ours: &Flannel,
    before: &[Arc<Remote>],
    mut refusals: Refusals,
) -> Lists {
    let mut lists = Lists::default();
    let network = match network(known, ours) {
        Ok(network) => network,
        Err(why) => {
            refusals.add(&Key::Config, || why);
            lists.refused = refusals.list();
            return lists;
        }
    };
    let is_me =
        |subnet: Ipv4Net, lease: &Lease| IpAddr::V4(lease.public_ip) == says.vtep && subnet == ours.subnet;
    let own = known.entries().any(|(key, entry)| match (key, &entry.record) {
        (Key::Subnet(subnet), Record::Lease(lease)) => is_me(*subnet, lease),
        _ => false,
    });
    let (taken, macs) = (HashMap::new(), HashSet::new());
    let mut found = Found { says, ours, own, network, taken, macs, subnets: Vec::new() };
    let (mut hosts, mut members, mut subnets) = (Vec::new(), Vec::new(), Vec::new());
    for (key, entry) in by_age(known, |key| matches!(key, Key::Subnet(_))) {
        let (Key::Subnet(subnet), Record::Lease(lease)) = (key, &entry.record) else { continue };
        let me = is_me(*subnet, lease);
        let host = HostRecord {
            name: subnet.to_string(),
            vtep: lease.public_ip.into(),
            since: entry.since,
            me,
            held: entry.gone,
        };
        if me {
            hosts.push(host);
            continue;
        }
        match found.add(*subnet, lease, entry) {
            Ok(mac) => {
                members.push(remote(&host, ours.vni, mac, subnet.network(), before));
                subnets.push(Subnet { destination: *subnet, via: subnet.network() });
                hosts.push(host);
            }
            Err(why) => refusals.add(key, || why),
        }
    }
    hosts.sort_by_key(|host| !host.me);
    lists.hosts = hosts.into();
    lists.outer = Some(found.network.network);
    // Answers would go to whoever has our addresses, or to nobody.
    if own {
        lists.members = members.into();
        lists.subnets = subnets.into();
    }
    lists.refused = refusals.list();
    lists
}

/// Another host, as somebody behind itself: who is reached by its MAC there routes on.
fn remote(host: &HostRecord, vni: u32, mac: MacAddr, via: Ipv4Addr, before: &[Arc<Remote>]) -> Arc<Remote> {
    let member = Member { vni, mac, ips: vec![via.into()], names: Vec::new() };
    let same = |old: &&Arc<Remote>| old.host == host.name && old.vtep == host.vtep && old.member == member;
    let there = before.iter().find(same).cloned();
    there.unwrap_or_else(|| {
        Arc::new(Remote { host: host.name.clone(), vtep: host.vtep, member, since: host.since })
    })
}

/// Subnets that have addresses of this one.
pub(super) fn overlapping(known: &Known, subnet: Ipv4Net) -> impl Iterator<Item = (&Key, &Entry)> {
    known.entries().filter(move |(key, entry)| {
        !entry.gone && matches!(key, Key::Subnet(other) if overlap((*other).into(), subnet.into()))
    })
}

/// flannel's network; or why we cannot be on it.
pub(super) fn network(known: &Known, ours: &Flannel) -> Result<Network, String> {
    // What is held is still believed.
    let entry = known.entries().find(|(key, _)| **key == Key::Config);
    let Some(Record::Config(network)) = entry.map(|(_, entry)| &entry.record) else {
        return Err("there is none that can be believed: flannel's network is not known".into());
    };
    let Flannel { network: name, vni, port, subnet, .. } = ours;
    let why = if network.backend != VXLAN {
        format!("its backend is `{}`, and only `{VXLAN}` is spoken here", network.backend)
    } else if network.vni != *vni {
        format!("its VNI is {}, and `vni` of network `{name}` is {vni}", network.vni)
    } else if network.port != *port {
        format!("its l4 port is {}, and `port` of [vxlan] is {port}", network.port)
    } else if network.direct_routing {
        "with `DirectRouting` hosts on our link would send to us without VXLAN: not spoken here".into()
    } else if !network.network.contains(subnet) || network.network == *subnet {
        format!(
            "its network is {}, and `subnet` of network `{name}`, {subnet}, is no part of that",
            network.network
        )
    } else {
        return Ok(network.clone());
    };
    Err(why)
}

/// What has been believed so far.
struct Found<'a> {
    says: &'a Says,
    ours: &'a Flannel,
    /// Our subnet is ours.
    own: bool,
    network: Network,
    taken: HashMap<IpAddr, String>,
    macs: HashSet<MacAddr>,
    subnets: Vec<Ipv4Net>,
}

impl Found<'_> {
    /// Believes a record that may be; its VTEP's MAC.
    ///
    /// # Errors
    /// Why it is not believed.
    fn add(&mut self, subnet: Ipv4Net, lease: &Lease, entry: &Entry) -> Result<MacAddr, String> {
        self.wrong_subnet(subnet, lease)?;
        let vtep = IpAddr::V4(lease.public_ip);
        if vtep == self.says.vtep {
            let kind = if entry.stamp.lease == 0 { "reserved for" } else { "one that was of" };
            return Err(format!("it is {kind} this host, whose `subnet` is {}", self.ours.subnet));
        }
        if let Some(why) = wrong_vtep(vtep, false, self.says.vtep, self.taken.get(&vtep)) {
            return Err(why);
        }
        // What is for a host would go into the tunnel to it.
        if self.network.network.contains(&lease.public_ip) {
            return Err(format!("its VTEP {vtep} is inside flannel's own network {}", self.network.network));
        }
        let mac = self.vtep_mac(lease)?;
        self.taken.insert(vtep, subnet.to_string());
        self.macs.insert(mac);
        self.subnets.push(subnet);
        Ok(mac)
    }

    fn wrong_subnet(&self, subnet: Ipv4Net, lease: &Lease) -> Result<(), String> {
        let meets = |other: Ipv4Net| overlap(subnet.into(), other.into());
        let network = self.network.network;
        if !network.contains(&subnet) || network == subnet {
            return Err(format!("{subnet} is no part of flannel's network {network}"));
        }
        if meets(self.ours.subnet) {
            let (ours, host) = (self.ours.subnet, lease.public_ip);
            return Err(if self.own {
                format!("it overlaps {ours}, this host's")
            } else {
                format!(
                    "it has addresses of our subnet {ours} and is {host}'s: we are not in flannel's network"
                )
            });
        }
        if let Some((name, beside)) = self.ours.beside.iter().find(|(_, beside)| meets(*beside)) {
            return Err(format!("it overlaps {beside} of our network `{name}`"));
        }
        match self.subnets.iter().find(|other| meets(**other)) {
            Some(other) => Err(format!("it overlaps {other}, which was there first")),
            None => Ok(()),
        }
    }

    fn vtep_mac(&self, lease: &Lease) -> Result<MacAddr, String> {
        let (vni, mac) = match &lease.backend {
            Backend::Vxlan { vni, mac } => (vni, *mac),
            Backend::Other(other) => {
                return Err(format!("its backend is `{other}`, and only `{VXLAN}` is spoken here"));
            }
        };
        if let Some(vni) = vni.filter(|vni| *vni != self.ours.vni) {
            return Err(format!("its VNI is {vni}, and flannel's network is {}", self.ours.vni));
        }
        if mac == self.ours.mac {
            return Err(format!("its MAC {mac} is that of our gateway"));
        }
        if self.says.members.iter().any(|member| member.mac == mac) {
            return Err(format!("its MAC {mac} is that of a container here"));
        }
        if self.macs.contains(&mac) {
            return Err(format!("its MAC {mac} is that of another host, which was there first"));
        }
        Ok(mac)
    }
}
