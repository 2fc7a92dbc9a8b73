//! Frames through all eight hops on memory devices: what came out where, and which counter rose.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::Ipv4Addr;

use common::{Lab, Options, arp, ethernet, ip, ipv4, mac, packet, tagged, udp};
use proptest::prelude::*;
use switch::drop::DropReason;
use switch::mac::MacAddr;
use switch::port::PortId;
use switch::snapshot::Spoof;
use switch::vnet::VnetHdr;

fn lab() -> Lab {
    Lab::new(&[3], Options::default())
}

#[test]
fn floods_what_it_does_not_know_and_forwards_what_it_learned() {
    let mut lab = lab();
    assert_eq!(lab.send(0, &packet(0, 1, b"hello")), [1, 2], "unknown: to all but the sender");
    assert_eq!(lab.send(1, &packet(1, 0, b"hello")), [0], "learned from the first");
    assert_eq!(lab.send(0, &packet(0, 1, b"hello")), [1]);
    let counters = &lab.worker.counters().worker;
    assert_eq!((counters.flooded.get(), counters.copies.get(), counters.forwarded.get()), (1, 2, 2));
}

#[test]
fn broadcast_and_multicast_go_to_all_others() {
    let mut lab = lab();
    for group in [MacAddr::BROADCAST, MacAddr([0x01, 0, 0x5e, 0, 0, 1]), MacAddr([0x33, 0x33, 0, 0, 0, 1])] {
        assert_eq!(lab.send(2, &ethernet(group, mac(3), 0x88b5, b"experimental")), [0, 1]);
    }
}

#[test]
fn networks_are_apart_even_with_the_same_addresses() {
    let mut lab = Lab::new(&[2, 2], Options { spoof: Spoof::Off, ..Options::default() });
    assert_eq!(lab.send(0, &packet(0, 1, b"first")), [1]);
    assert_eq!(lab.send(2, &packet(0, 1, b"same addresses, other network")), [3]);
    assert_eq!(lab.send(1, &packet(1, 0, b"back")), [0]);
    assert_eq!(lab.send(3, &packet(1, 0, b"back")), [2]);
}

#[test]
fn a_station_moves_and_ages() {
    let mut lab = Lab::new(&[3], Options { spoof: Spoof::Off, ..Options::default() });
    let roaming = MacAddr([2, 0, 0, 0, 0, 0x77]);
    let hello = |to: u16| ethernet(mac(to + 1), roaming, 0x88b5, b"hello");
    let to_it = ethernet(roaming, mac(1), 0x88b5, b"to it");
    lab.send(1, &hello(0));
    assert_eq!(lab.send(0, &to_it), [1]);
    lab.send(2, &hello(0));
    assert_eq!(lab.send(0, &to_it), [2], "follows the station");
    lab.advance(301);
    let now = lab.worker.io.now;
    assert!(lab.fdb(0).age(now, 300) >= 1);
    assert_eq!(lab.send(0, &to_it), [1, 2], "forgotten: flooded again");
}

#[test]
fn a_frame_to_its_own_port_goes_nowhere() {
    let mut lab = Lab::new(&[3], Options { spoof: Spoof::Off, ..Options::default() });
    lab.send(0, &packet(0, 1, b"learn"));
    lab.refuses(0, &packet(1, 0, b"to myself"), DropReason::SamePort);
}

#[test]
fn icc_false_stops_every_kind_of_frame() {
    let mut lab = Lab::new(&[2], Options { icc: false, ..Options::default() });
    lab.refuses(0, &packet(0, 1, b"ip"), DropReason::IccDenied);
    lab.refuses(0, &arp(mac(1), 1, (mac(1), ip(1)), (MacAddr::ZERO, ip(2))), DropReason::IccDenied);
    lab.refuses(0, &ethernet(mac(2), mac(1), 0x88b5, b"raw Ethernet"), DropReason::IccDenied);
}

#[test]
fn the_host_hears_arp_and_what_is_for_its_address() {
    let mut lab = Lab::new(&[3], Options { host: Some(2), ..Options::default() });
    let asks = |whom: u16| arp(mac(1), 1, (mac(1), ip(1)), (MacAddr::ZERO, ip(whom)));
    assert_eq!(lab.send(0, &asks(3)), [1, 2]);
    assert_eq!(lab.send(0, &packet(0, 2, b"for it, unknown")), [1, 2]);
    assert_eq!(lab.send(2, &packet(2, 0, b"from it")), [0]);
    assert_eq!(lab.send(0, &packet(0, 2, b"for it, known")), [2]);
    // Its kernel would take them: they are for its MAC.
    for elsewhere in [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::BROADCAST, ip(2)] {
        let routed = ethernet(mac(3), mac(1), 0x0800, &ipv4(ip(1), elsewhere, 17, &udp(1, 2, b"x")));
        lab.refuses(0, &routed, DropReason::NotForHost);
    }
    let mapped = [&[0x60, 0, 0, 0, 0, 0, 59, 64][..], &[0; 15], &[1], &[0; 10], &[0xff; 2], &ip(3).octets()];
    lab.refuses(0, &ethernet(mac(3), mac(1), 0x86dd, &mapped.concat()), DropReason::MappedAddress);
    lab.refuses(0, &ethernet(mac(3), mac(1), 0x88b5, b"experimental"), DropReason::NotForHost);
    // Nor what is for all of them.
    for group in [MacAddr::BROADCAST, MacAddr([0x01, 0, 0x5e, 0, 0, 1]), MacAddr([0x33, 0x33, 0, 0, 0, 1])] {
        assert_eq!(lab.send(0, &ethernet(group, mac(1), 0x88b5, b"experimental")), [1]);
    }
    assert_eq!(lab.send(2, &ethernet(MacAddr::BROADCAST, mac(3), 0x88b5, b"from it")), [0, 1]);
}

#[test]
fn the_host_is_no_container_to_icc() {
    let mut lab = Lab::new(&[3], Options { icc: false, host: Some(2), ..Options::default() });
    let asks = |from: u16, whom: u16| {
        arp(mac(from + 1), 1, (mac(from + 1), ip(from + 1)), (MacAddr::ZERO, ip(whom)))
    };
    assert_eq!(lab.send(0, &asks(0, 3)), [2], "asked for, and heard by nobody else");
    assert_eq!(lab.send(0, &packet(0, 2, b"for it")), [2]);
    assert_eq!(lab.send(2, &asks(2, 1)), [0, 1]);
    assert_eq!(lab.send(2, &packet(2, 0, b"from it")), [0]);
    lab.refuses(0, &packet(0, 1, b"ip"), DropReason::IccDenied);
    lab.refuses(0, &ethernet(mac(2), mac(1), 0x88b5, b"raw Ethernet"), DropReason::IccDenied);
    let mut lab = Lab::new(&[3], Options { icc: false, host: Some(2), storm: 100, ..Options::default() });
    for _ in 0..25 {
        assert_eq!(lab.send(0, &asks(0, 3)), [2]);
    }
    lab.refuses(0, &asks(0, 3), DropReason::Storm);
}

#[test]
fn h01_h02_a_mac_of_another_port_is_refused() {
    let mut lab = lab();
    lab.refuses(0, &ethernet(mac(3), mac(2), 0x88b5, b"I am port 1"), DropReason::SpoofedMac);
    let (gateway, address) = common::GATEWAY;
    lab.refuses(0, &ethernet(mac(3), gateway, 0x88b5, b"I am the gateway"), DropReason::SpoofedMac);
    lab.refuses(0, &arp(mac(1), 2, (mac(1), address), (mac(3), ip(3))), DropReason::SpoofedArp);
    assert_eq!(lab.fdb(0).lookup(0, mac(2)), None, "what is not admitted teaches nothing");
    assert_eq!(lab.fdb(0).lookup(0, gateway), None);
    let free = MacAddr([2, 0, 0, 0, 0, 0x55]);
    assert_eq!(lab.send(0, &ethernet(mac(3), free, 0x88b5, b"nobody's address")), [1, 2]);
}

#[test]
fn h03_h06_bad_sources_and_reserved_destinations() {
    let mut lab = lab();
    for source in [MacAddr::BROADCAST, MacAddr::ZERO, MacAddr([1, 0, 0x5e, 0, 0, 1])] {
        lab.refuses(0, &ethernet(mac(2), source, 0x88b5, b"source"), DropReason::BadSourceMac);
    }
    for last in 0..16 {
        let reserved = MacAddr([1, 0x80, 0xc2, 0, 0, last]);
        lab.refuses(0, &ethernet(reserved, mac(1), 0x88cc, b"LLDP or so"), DropReason::ReservedGroup);
        let wrapped = tagged(reserved, mac(1), &[(0x8100, 5)], 0x88cc, b"on a VLAN");
        lab.refuses(0, &wrapped, DropReason::ReservedGroup);
    }
    lab.refuses(0, &ethernet(mac(2), mac(1), 0x8808, &[0, 1, 0xff, 0xff]), DropReason::ReservedGroup);
}

#[test]
fn h04_twenty_thousand_sources_take_only_their_own_room() {
    let mut lab = Lab::new(&[3], Options { fdb: 1024, ..Options::default() });
    lab.send(1, &packet(1, 2, b"I am here"));
    lab.send(2, &packet(2, 1, b"and I"));
    for n in 0..20_000u32 {
        let [_, a, b, c] = n.to_be_bytes();
        lab.inject(0, &ethernet(mac(2), MacAddr([0x06, 0, 0, a, b, c]), 0x88b5, b"flood"));
        if n % 64 == 0 {
            lab.run();
            lab.worker.io.discard(PortId(1));
        }
    }
    lab.run();
    lab.worker.io.discard(PortId(1));
    assert!(lab.fdb(0).stats().current <= 1024);
    assert_eq!(lab.send(1, &packet(1, 2, b"still known")), [2]);
    assert_eq!(lab.send(2, &packet(2, 1, b"still known")), [1]);
}

#[test]
fn h05_unknown_destinations_are_held_to_the_storm_limit() {
    let mut lab = Lab::new(&[3], Options { storm: 1000, ..Options::default() });
    lab.send(1, &packet(1, 2, b"learn"));
    for n in 0..20_000u32 {
        let [_, a, b, c] = n.to_be_bytes();
        lab.inject(0, &ethernet(MacAddr([0x06, 1, 0, a, b, c]), mac(1), 0x88b5, b"who?"));
    }
    lab.run();
    assert_eq!(lab.dropped(DropReason::Storm), 20_000 - 250);
    lab.worker.io.discard(PortId(1));
    lab.worker.io.discard(PortId(2));
    assert_eq!(lab.send(0, &packet(0, 1, b"known destinations are not limited")), [1]);
}

#[test]
fn a_flood_to_many_is_paid_for_by_what_it_costs() {
    let mut lab = Lab::new(&[64], Options { storm: 1000, ..Options::default() });
    for _ in 0..100 {
        lab.inject(0, &ethernet(MacAddr::BROADCAST, mac(1), 0x88b5, b"to 63"));
    }
    lab.run();
    assert_eq!(lab.dropped(DropReason::Storm), 100 - 250 / 4, "one for every 16 ports");
}

#[test]
fn h07_lengths() {
    let mut lab = lab();
    for len in 0..14 {
        lab.refuses(0, &packet(0, 1, b"x")[..len], DropReason::TruncatedFrame);
    }
    assert_eq!(lab.send(0, &ethernet(mac(2), mac(1), 0x88b5, b"")), [1, 2], "14 bytes are a frame");
    assert_eq!(lab.send(0, &ethernet(mac(2), mac(1), 0x88b5, &[0; 1500])), [1, 2]);
    for payload in [1501, 9000, 65_535] {
        lab.refuses(0, &ethernet(mac(2), mac(1), 0x88b5, &vec![0; payload]), DropReason::ExceedsMtu);
    }
    let tags = [(0x8100, 7)];
    assert_eq!(
        lab.send(0, &tagged(mac(2), mac(1), &tags, 0x88b5, &[0; 1500])),
        [1, 2],
        "a tag is not payload"
    );
    lab.refuses(0, &ethernet(mac(2), mac(1), 0x88b5, &vec![0; 65_700]), DropReason::OversizedRead);
}

#[test]
fn h08_tags() {
    let mut lab = lab();
    assert_eq!(lab.send(0, &tagged(mac(2), mac(1), &[(0x8100, 0)], 0x88b5, b"priority")), [1, 2]);
    lab.send(1, &tagged(mac(3), mac(2), &[(0x8100, 10)], 0x88b5, b"learned on VLAN 10"));
    assert_eq!(lab.send(0, &ethernet(mac(2), mac(1), 0x88b5, b"untagged")), [1, 2], "not known untagged");
    assert_eq!(lab.send(0, &tagged(mac(2), mac(1), &[(0x8100, 10)], 0x88b5, b"VLAN 10")), [1]);
    lab.refuses(0, &tagged(mac(2), mac(1), &[(0x8100, 4095)], 0x88b5, b"reserved"), DropReason::BadVlan);
    let three = [(0x88a8, 1), (0x8100, 2), (0x8100, 3)];
    lab.refuses(0, &tagged(mac(2), mac(1), &three, 0x88b5, b"too deep"), DropReason::BadVlan);
    let cut = tagged(mac(2), mac(1), &[(0x8100, 1)], 0x88b5, b"");
    lab.refuses(0, &cut[..16], DropReason::TruncatedFrame);
}

#[test]
fn h08_h09_claims_wrapped_in_tags_or_snap_are_judged_like_bare_ones() {
    let mut lab = lab();
    let claim = arp(mac(1), 2, (mac(1), ip(2)), (mac(3), ip(3)));
    let body = &claim[14..];
    lab.refuses(0, &claim, DropReason::SpoofedArp);
    for tags in [&[(0x8100u16, 0u16)][..], &[(0x8100, 5)], &[(0x88a8, 5), (0x8100, 0)]] {
        lab.refuses(0, &tagged(mac(3), mac(1), tags, 0x0806, body), DropReason::SpoofedArp);
    }
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 0x08, 0x06][..], body].concat();
    lab.refuses(0, &ethernet(mac(3), mac(1), snap.len() as u16, &snap), DropReason::SpoofedArp);
    lab.refuses(0, &ethernet(mac(3), mac(1), 1400, b"length lies"), DropReason::BadLength);
}

#[test]
fn h11_arp_for_a_neighbour_is_refused_and_for_oneself_is_not() {
    let mut lab = lab();
    let gratuitous = |who: u16, of: u16| arp(mac(who), 1, (mac(who), ip(of)), (MacAddr::ZERO, ip(of)));
    lab.refuses(0, &gratuitous(1, 2), DropReason::SpoofedArp);
    assert_eq!(lab.send(0, &gratuitous(1, 1)), [1, 2]);
    let probe = arp(mac(1), 1, (mac(1), Ipv4Addr::UNSPECIFIED), (MacAddr::ZERO, ip(2)));
    assert_eq!(lab.send(0, &probe), [1, 2], "a probe claims nothing (RFC 5227)");
    let sha = arp(mac(1), 2, (mac(2), ip(1)), (mac(3), ip(3)));
    lab.refuses(0, &sha, DropReason::SpoofedArp);
}

#[test]
fn claimed_refuses_what_others_own_and_strict_what_is_not_ones_own() {
    let from = |src: Ipv4Addr| ethernet(mac(2), mac(1), 0x0800, &ipv4(src, ip(2), 17, &udp(1, 2, b"x")));
    let mut claimed = lab();
    claimed.refuses(0, &from(ip(3)), DropReason::SpoofedIp);
    assert_eq!(claimed.send(0, &from(Ipv4Addr::new(192, 0, 2, 9))), [1, 2], "a routed prefix behind it");
    let mut strict = Lab::new(&[3], Options { spoof: Spoof::Strict, ..Options::default() });
    strict.refuses(0, &from(Ipv4Addr::new(192, 0, 2, 9)), DropReason::SpoofedIp);
    assert_eq!(strict.send(0, &from(ip(1))), [1, 2]);
    assert_eq!(strict.send(0, &from(Ipv4Addr::new(169, 254, 7, 7))), [1, 2], "link-local");
    let other = MacAddr([2, 0, 0, 0, 0, 9]);
    strict.refuses(0, &ethernet(mac(2), other, 0x88b5, b"not mine"), DropReason::SpoofedMac);
}

#[test]
fn h32_offload_fields_that_contradict_the_frame_are_refused() {
    let mut lab = lab();
    let frame = packet(0, 1, &[7; 100]);
    let gso = VnetHdr { gso_type: VnetHdr::GSO_TCPV4, gso_size: 1.into(), flags: 1, ..VnetHdr::default() };
    let cases = [
        gso,
        VnetHdr { gso_type: 9, gso_size: 1000.into(), ..VnetHdr::default() },
        VnetHdr { flags: 1, csum_start: 9000.into(), csum_offset: 16.into(), ..VnetHdr::default() },
        VnetHdr { gso_type: VnetHdr::GSO_UDP_L4, gso_size: 0.into(), flags: 1, ..VnetHdr::default() },
    ];
    for header in cases {
        lab.worker.io.inject(PortId(0), &header, &frame);
        lab.run();
    }
    assert_eq!(lab.dropped(DropReason::BadOffload), cases.len() as u64);
    assert_eq!((lab.worker.io.discard(PortId(1)), lab.worker.io.discard(PortId(2))), (0, 0));
}

#[test]
fn a_port_that_takes_nothing_loses_only_its_own() {
    let mut lab = lab();
    lab.send(0, &packet(0, 1, b"learn"));
    lab.send(1, &packet(1, 0, b"learn"));
    lab.worker.io.refuse(PortId(1), Some(DropReason::TxFull));
    lab.refuses(0, &packet(0, 1, b"no room"), DropReason::TxFull);
    assert_eq!(lab.send(0, &ethernet(MacAddr::BROADCAST, mac(1), 0x88b5, b"to all")), [2]);
    assert_eq!(lab.worker.counters().worker.copies_lost.get(), 1);
    assert_eq!(lab.worker.counters().port(PortId(1)).unwrap().drops[DropReason::TxFull as usize].get(), 2);
}

#[test]
fn a_lone_port_has_nobody_to_flood_to() {
    let mut lab = Lab::new(&[1], Options::default());
    lab.refuses(0, &packet(0, 1, b"anybody?"), DropReason::NoOtherPort);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// The leak oracle: whatever is sent, nothing comes out in another network, and every frame has a fate.
    #[test]
    fn no_frame_leaves_its_network(
        frames in prop::collection::vec((0u16..6, prop::collection::vec(any::<u8>(), 0..120), any::<[u8; 10]>()), 1..80),
        known in any::<bool>(),
    ) {
        let mut lab = Lab::new(&[3, 3], Options { spoof: Spoof::Off, ..Options::default() });
        let mut sent = [0u64; 2];
        for (port, bytes, header) in frames {
            let network = usize::from(port / 3);
            // Half of them start like frames that pass the first checks.
            let mut frame = if known { packet(port, (port + 1) % 6, b"") } else { Vec::new() };
            frame.extend_from_slice(&bytes);
            frame.extend_from_slice(&[0xA0 + network as u8; 16]);
            let header = zerocopy::FromBytes::read_from_bytes(&header).unwrap_or_default();
            let header = if known { VnetHdr::default() } else { header };
            lab.worker.io.inject(PortId(port), &header, &frame);
            sent[network] += 1;
            lab.run();
            for out in 0..6u16 {
                for (_, got) in lab.worker.io.take(PortId(out)) {
                    prop_assert_eq!(usize::from(out / 3), network);
                    prop_assert!(got.ends_with(&[0xA0 + network as u8; 16]));
                }
            }
        }
        prop_assert_eq!(lab.worker.counters().worker.rx.get(), sent[0] + sent[1]);
    }
}
