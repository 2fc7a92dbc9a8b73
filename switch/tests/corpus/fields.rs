//! What the parser reads, field by field.

use std::net::Ipv6Addr;

use switch::flow::{Arp, Body, Csum, FlowKey, Fragment, Gso, L3, NdKind, Packet, Quoted, TcpMeta, VlanTag};
use switch::mac::MacAddr;
use switch::vnet::VnetHdr;

use crate::cases::{self, arp_body, lla, nd_frame, nd_message, tcp4};
use crate::invariants::check;
use crate::packets::*;

fn parsed(frame: &[u8]) -> Packet {
    check(&VnetHdr::default(), frame).unwrap()
}

/// The case of that name, which must be good.
fn named(name: &str) -> Packet {
    let case = cases::all().into_iter().find(|case| case.name == name).unwrap();
    check(&case.vnet, &case.frame).unwrap()
}

fn key4(proto: u8, sport: u16, dport: u16) -> FlowKey {
    FlowKey { zone: 9, proto, src: A4.to_ipv6_mapped(), dst: B4.to_ipv6_mapped(), sport, dport }
}

fn key6(proto: u8, sport: u16, dport: u16) -> FlowKey {
    FlowKey { zone: 9, proto, src: A6, dst: B6, sport, dport }
}

#[test]
fn tcp_over_v4() {
    let packet = parsed(&ethernet(&[tcp4(), vec![0; 3]].concat()));
    let meta = packet.meta;
    assert_eq!(packet.key, key4(TCP, SPORT, DPORT));
    assert_eq!((meta.src, meta.dst), (MacAddr(MAC_A), MacAddr(MAC_B)));
    assert_eq!((meta.vlan, meta.inner_vlan, meta.vid), (None, None, 0));
    assert_eq!((meta.ethertype, meta.l3), (0x0800, L3::V4));
    assert_eq!((meta.l3_off, meta.l4_off, meta.headers_len), (14, 34, 66));
    assert_eq!((meta.l3_end, meta.frame_len), (71, 74));
    assert_eq!((meta.ttl, meta.tos, meta.df), (64, 0, true));
    assert_eq!((meta.fragment, meta.fragment_id), (Fragment::No, 0));
    assert_eq!((meta.gso, meta.csum, meta.body), (Gso::None, Csum::Full, Body::None));
    let tcp =
        TcpMeta { flags: ACK, seq: 0xffff_ff00, ack: 0x1234_5678, window: 502, payload: 5, scale: None };
    assert_eq!(meta.tcp, Some(tcp));
}

#[test]
fn udp_over_v6_with_traffic_class() {
    let mut ip = ipv6(UDP, &udp(b"hello"));
    (ip[0], ip[1]) = (0x6b, 0x8f);
    let packet = parsed(&ethernet(&ip));
    assert_eq!(packet.key, key6(UDP, SPORT, DPORT));
    assert_eq!((packet.meta.l3, packet.meta.tos, packet.meta.ttl, packet.meta.df), (L3::V6, 0xb8, 255, true));
    assert_eq!((packet.meta.l4_off, packet.meta.headers_len, packet.meta.l3_end), (54, 62, 67));
}

#[test]
fn tags_move_everything_but_the_key() {
    let packet = named("vlan-qinq");
    assert_eq!(packet.key, key4(TCP, SPORT, DPORT));
    assert_eq!(packet.meta.vlan, Some(VlanTag { tpid: 0x88a8, tci: 100 }));
    assert_eq!(packet.meta.inner_vlan, Some(VlanTag { tpid: 0x8100, tci: 10 }));
    assert_eq!((packet.meta.vid, packet.meta.l3_off, packet.meta.ethertype), (100, 22, 0x0800));
    let priority = named("vlan-0-priority").meta;
    assert_eq!((priority.vid, priority.vlan), (0, Some(VlanTag { tpid: 0x8100, tci: 0x6000 })));
}

#[test]
fn snap_hides_nothing() {
    for name in ["snap-ipv4", "snap-ipv4-802.1h"] {
        let packet = named(name);
        assert_eq!((packet.key, packet.meta.l3), (key4(TCP, SPORT, DPORT), L3::V4), "{name}");
        assert_eq!((packet.meta.l3_off, packet.meta.ethertype), (22, 0x0800), "{name}");
    }
    assert!(matches!(named("arp-snap").meta.body, Body::Arp(_)));
    for name in ["llc-stp", "snap-cisco", "snap-not-ethertype"] {
        assert_eq!((named(name).meta.l3, named(name).meta.ethertype), (L3::Other, 0), "{name}");
    }
    assert_eq!(named("llc-stp").meta.l3_end, 14 + 38);
}

#[test]
fn arp_is_read_whole() {
    let packet = parsed(&tagged(&[], 0x0806, &[arp_body(2), vec![0; 18]].concat()));
    let arp = Arp {
        operation: 2,
        sender_mac: MacAddr(MAC_A),
        sender_ip: A4,
        target_mac: MacAddr::ZERO,
        target_ip: B4,
    };
    assert_eq!(packet.meta.body, Body::Arp(arp));
    assert_eq!((packet.key, packet.meta.l3_end), (FlowKey { zone: 9, ..FlowKey::NONE }, 42));
}

#[test]
fn fragments_have_ports_only_at_the_start() {
    let first = named("v4-first");
    assert_eq!((first.meta.fragment, first.meta.fragment_id), (Fragment::First, 7));
    assert_eq!((first.key, first.meta.df), (key4(TCP, SPORT, DPORT), false));
    let later = named("v4-last-ragged");
    assert_eq!((later.meta.fragment, later.meta.fragment_id), (Fragment::Later, 7));
    assert_eq!((later.key, later.meta.tcp), (key4(TCP, 0, 0), None));
    let first = named("v6-first");
    assert_eq!((first.meta.fragment, first.meta.fragment_id), (Fragment::First, 99));
    assert_eq!((first.key, first.meta.l4_off), (key6(UDP, SPORT, DPORT), 62));
    let later = named("v6-later");
    assert_eq!((later.meta.fragment, later.key), (Fragment::Later, key6(UDP, 0, 0)));
    let atomic = named("v6-atomic");
    assert_eq!((atomic.meta.fragment, atomic.meta.fragment_id), (Fragment::No, 0));
    assert_eq!(atomic.key, key6(UDP, SPORT, DPORT));
}

#[test]
fn extension_headers_end_at_the_upper_layer() {
    for (name, l4_off) in [("v6-hbh", 62), ("v6-ah", 78), ("v6-16-headers", 182), ("v6-routing-0-done", 78)] {
        let packet = named(name);
        assert_eq!((packet.key, packet.meta.l4_off), (key6(UDP, SPORT, DPORT), l4_off), "{name}");
    }
    assert_eq!(named("v6-59-with-data").key, key6(59, 0, 0));
}

/// H17: every protocol has its own number in the key, and only those with l4 ports have any.
#[test]
fn all_protocols() {
    for proto in 0..=255 {
        let frame = ethernet(&ipv4(proto, &[0x50; 40]));
        let Ok(packet) = check(&VnetHdr::default(), &frame) else {
            // The bytes are no UDP length.
            assert_eq!(proto, UDP);
            continue;
        };
        let ports = match proto {
            TCP | 132 => (0x5050, 0x5050),
            ICMP => (0, 0x5050),
            _ => (0, 0),
        };
        assert_eq!(packet.key, key4(proto, ports.0, ports.1));
    }
}

#[test]
fn icmp_queries_have_identifiers() {
    assert_eq!(named("icmp-echo").key, key4(ICMP, 0x1234, 0x0800));
    assert_eq!(named("icmpv6-echo").key, key6(ICMPV6, 0x1234, 129 << 8));
}

#[test]
fn errors_quote_a_packet_as_far_as_it_is_there() {
    let quoted = |name: &str| match named(name).meta.body {
        Body::IcmpError(quoted) => quoted,
        body => panic!("{name}: {body:?}"),
    };
    assert_eq!(named("icmp-unreachable").key, key4(ICMP, 0, 0x0301));
    let whole = Quoted { key: key4(TCP, SPORT, DPORT), l3_off: 42, l4_off: 62, has_ports: true };
    assert_eq!(quoted("icmp-unreachable"), whole);
    assert_eq!(quoted("icmp-time-exceeded-28"), whole);
    let no_ports = Quoted { key: key4(TCP, 0, 0), has_ports: false, ..whole };
    assert_eq!(quoted("icmp-quotes-23"), no_ports);
    let unreadable =
        Quoted { key: FlowKey { zone: 9, ..FlowKey::NONE }, l3_off: 42, l4_off: 42, has_ports: false };
    for name in ["icmp-quotes-19", "icmp-quotes-nothing", "icmp-quotes-v6", "icmp-quotes-ihl-0"] {
        assert_eq!(quoted(name), unreadable, "{name}");
    }
    assert_eq!(quoted("icmp-quotes-ihl-15"), Quoted { l4_off: 70, ..no_ports });
    assert_eq!(quoted("icmp-quotes-later-fragment"), Quoted { key: key4(UDP, 0, 0), ..no_ports });
    assert_eq!(quoted("icmp-quotes-error").key, key4(ICMP, 0, 0x0301));
    let v6 = Quoted { key: key6(UDP, SPORT, DPORT), l3_off: 62, l4_off: 102, has_ports: true };
    assert_eq!(quoted("icmpv6-too-big"), v6);
    assert_eq!(quoted("icmpv6-quotes-43"), Quoted { key: key6(UDP, 0, 0), has_ports: false, ..v6 });
    assert_eq!(quoted("icmpv6-quotes-chain-cut").key, key6(60, 0, 0));
    assert_eq!(quoted("icmpv6-quotes-first-ragged"), Quoted { l4_off: 110, ..v6 });
    assert_eq!(named("icmpv6-unknown-error").meta.body, Body::None);
}

#[test]
fn neighbour_discovery_is_read_whole() {
    let nd = |frame: &[u8]| match parsed(frame).meta.body {
        Body::Nd(nd) => nd,
        body => panic!("{body:?}"),
    };
    let advertisement = nd(&nd_frame(A6, B6, &nd_message(136, [0x60, 0, 0, 0], &[A6], &lla(2))));
    assert_eq!((advertisement.kind, advertisement.flags), (NdKind::NeighborAdvertisement, 0x60));
    assert_eq!((advertisement.target, advertisement.target_mac), (A6, Some(MacAddr(MAC_A))));
    assert_eq!(advertisement.source_mac, None);
    // An option that the message does not define is not read, not even where it would be believed.
    let solicitation = nd(&nd_frame(A6, B6, &nd_message(135, [0xff; 4], &[B6], &[lla(2), lla(1)].concat())));
    assert_eq!((solicitation.kind, solicitation.flags), (NdKind::NeighborSolicitation, 0));
    assert_eq!((solicitation.source_mac, solicitation.target_mac), (Some(MacAddr(MAC_A)), None));
    let Body::Nd(advert) = named("nd-ra").meta.body else { panic!() };
    assert_eq!((advert.kind, advert.target), (NdKind::RouterAdvertisement, Ipv6Addr::UNSPECIFIED));
    assert_eq!(advert.source_mac, Some(MacAddr(MAC_A)));
    let Body::Nd(redirect) = named("nd-redirect").meta.body else { panic!() };
    assert_eq!((redirect.kind, redirect.target), (NdKind::Redirect, B6));
}

#[test]
fn offloads_are_read() {
    let of = |name: &str| (named(name).meta.gso, named(name).meta.csum);
    assert_eq!(of("gso-tcp4"), (Gso::Tcp { size: 1448 }, Csum::Partial));
    assert_eq!(of("gso-tcp6-cwr"), (Gso::Tcp { size: 1448 }, Csum::Partial));
    assert_eq!(of("gso-udp6"), (Gso::Udp { size: 33 }, Csum::Partial));
    assert_eq!(of("gso-size-covers-all"), (Gso::None, Csum::Partial));
    assert_eq!(of("csum-udp"), (Gso::None, Csum::Partial));
    assert_eq!(of("csum-verified"), (Gso::None, Csum::Verified));
    assert_eq!(of("csum-tunnel"), (Gso::None, Csum::Inner { start: 84, field: 100 }));
}
