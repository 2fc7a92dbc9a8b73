//! What holds of networks that are on several hosts.

use std::collections::HashSet;

use vswitchd::config::{Config, Family};

/// `taken` are the names, MACs and addresses that are here. A `vni` is one network's, there is a way to the other hosts, and who is there has nothing of ours.
pub fn overlaid(config: &Config, taken: &mut HashSet<String>) {
    let Some(vxlan) = &config.vxlan else {
        return assert!(config.networks.iter().all(|network| network.vni.is_none() && !network.mtu_named));
    };
    for network in config.networks.iter().filter(|network| network.vni.is_some()) {
        assert!(
            taken.insert(format!("vni {:?}", network.vni)) && (1..1 << 24).contains(&network.vni.unwrap())
        );
        assert!(network.mtu >= if network.subnet6.is_some() { 1280 } else { 68 });
        assert!(vxlan.mtu.is_none_or(|underlay| network.mtu <= vxlan.inner_mtu(underlay)));
        assert!(network.mtu_named || network.mtu == vxlan.inner_mtu(vxlan.mtu.unwrap_or(1500)));
    }
    let there = vxlan.peers.iter().chain(vxlan.statics.iter().map(|entry| &entry.vtep));
    for remote in there.chain([&vxlan.local]).chain(&vxlan.group) {
        assert_eq!(remote.is_ipv4(), vxlan.local.is_ipv4());
        assert!(!remote.is_unspecified() && remote.is_multicast() == (vxlan.group == Some(*remote)));
    }
    for (place, peer) in vxlan.peers.iter().enumerate() {
        assert!(*peer != vxlan.local && !vxlan.peers[..place].contains(peer));
    }
    for entry in &vxlan.statics {
        let network = config.networks.iter().find(|network| network.vni == Some(entry.vni)).unwrap();
        assert!(entry.vtep != vxlan.local && !entry.mac.is_group());
        assert!(taken.insert(format!("mac {} {}", network.name, entry.mac)));
        assert!(network.reserved_macs().all(|(mac, _)| mac != entry.mac));
        if let Some(ip) = entry.ip {
            assert!(taken.insert(format!("ip {} {ip}", network.name)));
            let family = Family::of(ip);
            assert!(
                network.subnet_of(family).unwrap().contains(&ip) && network.reserved_of(family) != Some(ip)
            );
        }
    }
}
