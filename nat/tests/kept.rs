//! Connections outlive the process that made them.
#![allow(clippy::unwrap_used)]

use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;

use nat::conntrack::{Conntrack, EndPoint, Filtering, In, Limits, Rules, Timeouts};
use switch::flow::{FlowKey, Packet};
use switch::parse::parse;
use switch::port::PortId;
use switch::sys::shared;
use switch::tick::Tick;
use switch::vnet::VnetHdr;

const NOW: Tick = Tick::from_secs(100);

fn mapped(text: &str) -> Ipv6Addr {
    text.parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped()
}

fn rules() -> Rules {
    Rules::new(vec![mapped("198.18.0.10")], Vec::new(), (Filtering::Address, false), Timeouts::default(), 7)
}

/// A datagram of a container.
fn datagram(host: u8, port: u16, to: &str) -> Packet {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, host]);
    frame.extend(to.parse::<std::net::Ipv4Addr>().unwrap().octets());
    frame.extend([port.to_be_bytes(), 53u16.to_be_bytes(), 8u16.to_be_bytes(), [0, 0]].concat());
    parse(&frame, &VnetHdr::default(), PortId(u16::from(host)), 3).unwrap()
}

/// What answers it.
fn answer(packet: &Packet, external: EndPoint) -> FlowKey {
    let key = packet.key;
    FlowKey { zone: 9, src: key.dst, dst: external.address, sport: key.dport, dport: external.port, ..key }
}

/// A conntrack over the file, in which port `n` is `n + 1000`'s.
fn open(file: &OwnedFd, limits: &Limits) -> Conntrack {
    let conntrack = Conntrack::kept(limits, 1, 256, file.try_clone().unwrap()).unwrap();
    (0..256).for_each(|port| conntrack.name(PortId(port), u64::from(port) + 1000));
    conntrack
}

/// Who had port `n` has it.
fn same(who: u64) -> Option<(PortId, u16)> {
    Some((PortId(u16::try_from(who.checked_sub(1000)?).ok()?), 3))
}

#[test]
fn a_new_process_goes_on_with_what_the_old_one_had() {
    let file = shared::memory("connections", 4096).unwrap();
    let (rules, limits) = (rules(), Limits { connections: 2000, mappings: 1000, ..Limits::default() });
    let packets: Vec<_> = (1..=200).map(|n| datagram(n, 4000 + u16::from(n % 4), "192.0.2.1")).collect();
    let before = open(&file, &limits);
    assert_eq!(before.resume(same), 0);
    let known: Vec<_> = packets
        .iter()
        .map(|packet| before.track_out(&rules, packet, packet.meta.port, NOW).unwrap().external)
        .collect();
    drop(before);
    // Again and again, and with other limits: there is room in front, behind, and in front again.
    for connections in [2000, 3000, 500, 2000] {
        // Killed before it took over, one has changed nothing.
        drop(open(&file, &limits));
        let after = open(&file, &Limits { connections, ..limits });
        assert_eq!(after.resume(same), 200);
        for (packet, external) in packets.iter().zip(&known) {
            let found = after.outbound(&rules, &packet.key, NOW).unwrap();
            assert_eq!(found.external, *external);
            let In::To(to) = after.inbound(&rules, &answer(packet, *external), None, NOW) else {
                panic!("the answer to {external:?} does not come in");
            };
            assert_eq!((to.inside.end.address, to.owner), (packet.key.src, packet.meta.port));
            // Its permit came along, and another l4 port of the same address may come in.
            let other = FlowKey { sport: 99, ..answer(packet, *external) };
            assert!(matches!(after.inbound(&rules, &other, None, NOW), In::To(_)));
            let stranger = FlowKey { src: mapped("192.0.2.2"), ..answer(packet, *external) };
            assert!(matches!(after.inbound(&rules, &stranger, None, NOW), In::Refused(_)));
        }
        assert_eq!((after.counts().connections, after.counts().mappings), (200, 200));
    }
}

#[test]
fn ports_and_zones_may_have_other_numbers_and_who_is_gone_has_nothing() {
    let file = shared::memory("connections", 4096).unwrap();
    let (rules, limits) = (rules(), Limits { connections: 100, mappings: 100, ..Limits::default() });
    let before = open(&file, &limits);
    before.resume(same);
    let packets: Vec<_> = [1, 2].map(|n| datagram(n, 4000, "192.0.2.1")).into();
    let known: Vec<_> = packets
        .iter()
        .map(|packet| before.track_out(&rules, packet, packet.meta.port, NOW).unwrap().external)
        .collect();
    drop(before);
    let after = open(&file, &limits);
    assert_eq!(after.resume(|who| (who == 1001).then_some((PortId(7), 8))), 1);
    let moved = FlowKey { zone: 8, ..packets[0].key };
    assert_eq!(after.outbound(&rules, &moved, NOW).unwrap().external, known[0]);
    let In::To(to) = after.inbound(&rules, &answer(&packets[0], known[0]), None, NOW) else { panic!() };
    assert_eq!((to.owner, to.inside.zone), (PortId(7), 8));
    assert_eq!(after.inbound(&rules, &answer(&packets[1], known[1]), None, NOW), In::Nobody);
}

#[test]
fn an_l4_port_that_was_in_use_is_not_given_to_another() {
    let file = shared::memory("connections", 4096).unwrap();
    let (rules, limits) = (rules(), Limits { connections: 100, mappings: 100, ..Limits::default() });
    let before = open(&file, &limits);
    before.resume(same);
    let first = datagram(1, 4000, "192.0.2.1");
    let external = before.track_out(&rules, &first, PortId(1), NOW).unwrap().external;
    assert_eq!(external.port, 4000);
    drop(before);
    let after = open(&file, &limits);
    after.resume(same);
    let second = after.track_out(&rules, &datagram(2, 4000, "192.0.2.1"), PortId(2), NOW).unwrap().external;
    assert_ne!(second, external);
}

#[test]
fn a_file_of_nonsense_is_an_empty_one() {
    for word in [0u64, 1, 512, u64::MAX] {
        let file = shared::memory("connections", 1 << 20).unwrap();
        let memory = shared::Shared::map(&file, 131_072).unwrap();
        for (at, value) in memory.words().iter().zip([u64::from_be_bytes(*b"vswconn\x01"), word]) {
            at.store(value, std::sync::atomic::Ordering::Relaxed);
        }
        for at in memory.words().iter().skip(2) {
            at.store(word, std::sync::atomic::Ordering::Relaxed);
        }
        let limits = Limits { connections: 100, mappings: 100, ..Limits::default() };
        let conntrack = open(&file, &limits);
        conntrack.resume(same);
        assert_eq!(conntrack.counts().connections, 0, "{word:#x}");
        let packet = datagram(1, 4000, "192.0.2.1");
        assert!(conntrack.track_out(&rules(), &packet, PortId(1), NOW).is_ok());
    }
}
