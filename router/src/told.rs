//! Whoever asks for somebody on another host is answered here, where it was told who that is: the question need not go to
//! all hosts (RFC 7348 section 4.1 lets a VTEP know by other means than flooding).
//!
//! And the other way round: a gateway is on every host of its network, under one address and MAC. Who is asked by the
//! gateway of another host would answer the one here, so that one answers for its containers.

use std::net::Ipv6Addr;

use switch::flow::{Body, NdKind, Packet};
use switch::mac::MacAddr;
use switch::policy::Here;
use switch::snapshot::Owner;

/// `operation` of ARP that asks.
const REQUEST: u16 = 1;

/// The MAC that the packet asks for, where the answer is ours to give.
#[inline]
pub fn answer<T>(packet: &Packet, here: &Here<'_, T>) -> Option<MacAddr> {
    let target = match &packet.meta.body {
        Body::Arp(arp) if arp.operation == REQUEST && arp.sender_ip != arp.target_ip => {
            arp.target_ip.to_ipv6_mapped()
        }
        Body::Nd(nd) if nd.kind == NdKind::NeighborSolicitation => nd.target,
        _ => return None,
    };
    known(target, packet, here)
}

#[cold]
fn known<T>(target: Ipv6Addr, packet: &Packet, here: &Here<'_, T>) -> Option<MacAddr> {
    let (meta, network) = (&packet.meta, here.network);
    // The overlay has what has no tag on it, or that of the gateway; and whoever is asked by his own MAC is the one to
    // answer (RFC 1122 section 2.3.2.1 (2), RFC 4861 section 7.3: is he still there?).
    let by_gateway = || network.claims.macs.get(&meta.src) == Some(&Owner::Gateway);
    let elsewhere = meta.vid != network.vlan || meta.inner_vlan.is_some();
    if elsewhere {
        return None;
    }
    if here.snapshot.port(meta.port)?.remote.is_none() {
        return network.told.get(&target).copied().filter(|_| meta.dst.is_group());
    }
    match network.claims.ips.get(&target) {
        Some(Owner::Port(port)) if by_gateway() => Some(here.snapshot.port(*port)?.mac),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use switch::fdb::Fdb;
    use switch::parse::parse;
    use switch::port::{NetworkId, PortId};
    use switch::snapshot::{Claims, Network, Port, Remote, Snapshot, Spoof};
    use switch::tick::Tick;
    use switch::vnet::VnetHdr;

    use super::*;
    use crate::build::Origin;
    use crate::{arp, nd};

    const OURS: MacAddr = MacAddr([2, 0x42, 10, 1, 0, 1]);
    const HERE: MacAddr = MacAddr([2, 0x42, 10, 1, 0, 10]);
    const THERE: MacAddr = MacAddr([2, 0x42, 10, 1, 0, 20]);
    /// The container's port, and the other host's.
    const CONTAINER: PortId = PortId(0);
    const REMOTE: PortId = PortId(1);

    fn v4(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 1, 0, last)
    }

    fn v6(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, last)
    }

    fn network() -> Network {
        let mut claims = Claims::default();
        claims.macs.extend([(OURS, Owner::Gateway), (HERE, Owner::Port(CONTAINER))]);
        for address in [v4(10).to_ipv6_mapped(), v6(10)] {
            claims.ips.insert(address, Owner::Port(CONTAINER));
        }
        let told = [(v4(20).to_ipv6_mapped(), THERE), (v6(20), THERE)].into_iter().collect();
        Network {
            zone: 0,
            mtu: 1450,
            vlan: 0,
            icc: true,
            transparent: false,
            spoof: Spoof::Claimed,
            storm: 0,
            fdb: Arc::new(Fdb::new(16).unwrap()),
            groups: None,
            members: Box::new([CONTAINER, REMOTE]),
            claims,
            told: Arc::new(told),
        }
    }

    fn asked(frame: &[u8], port: PortId) -> Option<MacAddr> {
        let id = NetworkId(0);
        let remote = Some(Remote { learns: true, floods: true, mtu: None });
        let ports = [
            Some(Port::new(id, HERE, Box::default())),
            Some(Port { remote, ..Port::new(id, MacAddr::ZERO, Box::default()) }),
        ];
        let snapshot = Snapshot {
            ports: Box::new(ports),
            networks: Box::new([Some(network())]),
            ..Snapshot::<()>::default()
        };
        let packet = parse(frame, &VnetHdr::default(), port, 0).unwrap();
        let network = snapshot.network(id).unwrap();
        answer(&packet, &Here { snapshot: snapshot.view(), id, network, now: Tick::from_secs(1) })
    }

    fn arp(mac: MacAddr, from: u8, target: u8, to: Option<MacAddr>) -> Vec<u8> {
        let mut out = vec![0; 100];
        let origin = Origin { mac, address: v4(from).to_ipv6_mapped() };
        let len = arp::request(&origin, v4(target), to, &mut out).unwrap();
        out.truncate(len);
        out
    }

    fn solicitation(mac: MacAddr, from: u16, target: u16) -> Vec<u8> {
        let mut out = vec![0; 200];
        let len = nd::solicitation(&Origin { mac, address: v6(from) }, v6(target), None, &mut out).unwrap();
        out.truncate(len);
        out
    }

    #[test]
    fn a_container_is_told_who_is_elsewhere() {
        assert_eq!(asked(&arp(HERE, 10, 20, None), CONTAINER), Some(THERE));
        assert_eq!(asked(&solicitation(HERE, 10, 20), CONTAINER), Some(THERE));
        assert_eq!(asked(&arp(HERE, 10, 21, None), CONTAINER), None, "nobody told us");
        assert_eq!(asked(&arp(HERE, 10, 20, Some(THERE)), CONTAINER), None, "he is asked himself");
        assert_eq!(asked(&arp(HERE, 20, 20, None), CONTAINER), None, "an announcement asks nobody");
        assert_eq!(asked(&arp(THERE, 20, 20, None), REMOTE), None);
    }

    #[test]
    fn another_hosts_gateway_is_told_who_is_here() {
        assert_eq!(asked(&arp(OURS, 1, 10, None), REMOTE), Some(HERE));
        assert_eq!(asked(&arp(OURS, 1, 10, Some(HERE)), REMOTE), Some(HERE), "is he still there?");
        assert_eq!(asked(&solicitation(OURS, 1, 10), REMOTE), Some(HERE));
        assert_eq!(asked(&arp(OURS, 1, 20, None), REMOTE), None, "he is there himself");
        assert_eq!(asked(&arp(THERE, 20, 10, None), REMOTE), None, "containers answer containers");
    }
}
