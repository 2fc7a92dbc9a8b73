//! Errors: what they say, what they quote, and about what nothing is said.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use switch::checksum::{add, pseudo};
use switch::flow::Body;
use switch::mac::MacAddr;
use switch::vnet::VnetHdr;

use super::*;
use crate::testing::{
    FAR, FAR6, HOST, HOST_MAC, HOST6, OUR_MAC, OURS, OURS6, echo, ethernet, icmp4, icmp6, origin, origin6,
    parse, parse_with, summed, tcp4, tcp6, udp, udp4, udp6, v4, v6, verified,
};

const PROBLEMS: [Problem; 8] = [
    Problem::NoRoute,
    Problem::Unresolved,
    Problem::Protocol,
    Problem::Port,
    Problem::Prohibited,
    Problem::TooBig { mtu: 1400 },
    Problem::TimeExceeded,
    Problem::Incomplete,
];

fn made(frame: &[u8], packet: &Packet, problem: Problem) -> Result<Vec<u8>, NotSent> {
    let (from, prefix_len) = if packet.meta.l3 == L3::V4 { (origin(), 24) } else { (origin6(), 64) };
    let mut out = vec![0xa5; 1400];
    let len = build(frame, packet, problem, &from, prefix_len, &mut out)?;
    let exact = build(frame, packet, problem, &from, prefix_len, &mut vec![0; len - 1]);
    assert_eq!(exact, Err(NotSent::NoRoom));
    out.truncate(len);
    Ok(out)
}

fn about(frame: &[u8], problem: Problem) -> Result<Vec<u8>, NotSent> {
    made(frame, &parse(frame), problem)
}

fn refused(frame: &[u8]) -> Option<NotSent> {
    about(frame, Problem::NoRoute).err()
}

#[test]
fn types_codes_and_the_word_behind() {
    let four = [(3, 0, 0), (3, 1, 0), (3, 2, 0), (3, 3, 0), (3, 13, 0), (3, 4, 1400), (11, 0, 0)];
    let six = [(1, 0, 0), (1, 3, 0), (4, 1, 6), (1, 4, 0), (1, 1, 0), (2, 0, 1400), (3, 0, 0)];
    for (problem, (four, six)) in PROBLEMS.into_iter().zip(four.into_iter().zip(six)) {
        for (frame, expected, l4) in [(udp4(0x4000, &[], b"data"), four, 34), (udp6(b"data"), six, 54)] {
            let error = about(&frame, problem).unwrap();
            let word = u32::from_be_bytes(error[l4 + 4..l4 + 8].try_into().unwrap());
            assert_eq!((error[l4], error[l4 + 1], word), expected, "{problem:?}");
            assert_eq!(error[l4 + 8..], frame[14..], "{problem:?}");
        }
    }
}

#[test]
fn goes_back_to_where_it_came_from() {
    for (frame, ours) in [(udp4(0, &[], b"data"), OURS.to_ipv6_mapped()), (udp6(b"data"), OURS6)] {
        let before = parse(&frame);
        let error = verified(&about(&frame, Problem::TimeExceeded).unwrap());
        assert_eq!((error.key.src, error.key.dst), (ours, before.key.src));
        assert_eq!((error.meta.src, error.meta.dst, error.meta.vlan), (OUR_MAC, HOST_MAC, None));
        assert_eq!((error.meta.ttl, error.meta.df), (64, true));
        let Body::IcmpError(quoted) = error.meta.body else { panic!("no error") };
        assert_eq!((quoted.key, quoted.has_ports), (before.key, true));
    }
    // 0x2b: precedence 1, TOS bits 0x08, ECN 3.
    assert_eq!(about(&udp4(0, &[], &[]), Problem::Port).unwrap()[15], 0xc8);
}

#[test]
fn quotes_as_much_as_fits() {
    for (payload, four, six) in [(10, 66, 106), (520, 576, 616), (1184, 576, 1280), (9000, 576, 1280)] {
        let data = vec![3; payload];
        assert_eq!(about(&udp4(0, &[], &data), Problem::Port).unwrap().len(), 14 + four);
        let error = about(&udp6(&data), Problem::Port).unwrap();
        assert_eq!(error.len(), 14 + six);
        verified(&error);
    }
    let mut padded = udp4(0, &[], &[1]);
    padded.resize(60, 0xee);
    assert_eq!(about(&padded, Problem::Port).unwrap().len(), 14 + 28 + 29, "padding is not quoted");
    let options = udp4(0, &[0x94, 4, 0, 0], &[1]);
    assert_eq!(about(&options, Problem::Port).unwrap()[42..], options[14..], "options are");
}

#[test]
fn the_pointer_names_the_protocol() {
    let chain =
        [&[60, 0, 1, 4, 0, 0, 0, 0][..], &[99, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], b"data"];
    let frame = ethernet(HOST_MAC, OUR_MAC, 0x86dd, &v6(HOST6, FAR6, 0, 9, &chain.concat()));
    assert_eq!(about(&frame, Problem::Protocol).unwrap()[58..62], 48u32.to_be_bytes());
}

#[test]
fn a_partial_checksum_is_quoted_whole() {
    let payload = vec![0x5a; 1000];
    for (full, l4, field, proto) in [
        (tcp4(0x10, &[], &payload), 34, 50, 6),
        (udp4(0, &[], &payload), 34, 40, 17),
        (udp6(&payload), 54, 60, 17),
        (tcp6(0x10, &[], &payload), 54, 70, 6),
    ] {
        let key = parse(&full).key;
        let mut frame = full.clone();
        let bare = pseudo(key.src, key.dst, proto, (full.len() - l4) as u32);
        frame[field..field + 2].copy_from_slice(&bare.to_be_bytes());
        let mut vnet = VnetHdr {
            flags: VnetHdr::NEEDS_CSUM,
            csum_start: (l4 as u16).into(),
            csum_offset: ((field - l4) as u16).into(),
            ..VnetHdr::default()
        };
        let error = made(&frame, &parse_with(&frame, &vnet), Problem::Port).unwrap();
        assert_eq!(error[l4 + 8..], full[14..14 + error.len() - l4 - 8]);
        if proto == 6 {
            vnet.gso_type = if l4 == 34 { VnetHdr::GSO_TCPV4 } else { VnetHdr::GSO_TCPV6 };
            vnet.gso_size = 100.into();
            let packet = parse_with(&frame, &vnet);
            assert_ne!(packet.meta.gso, Gso::None);
            let error = made(&frame, &packet, Problem::TooBig { mtu: 100 }).unwrap();
            assert_eq!(error[field - 14 + l4 + 8..][..2], bare.to_be_bytes(), "a super-frame's stays");
            verified(&error);
        }
    }
}

fn icmp4_of(kind: u8) -> Vec<u8> {
    let quoted = v4(OURS, HOST, 17, 0, &[], &udp(&[]));
    icmp4(FAR, 0, &[&[kind, 0, 0, 0, 0, 0, 0, 0], &quoted[..]].concat())
}

fn icmp6_of(kind: u8) -> Vec<u8> {
    let quoted = v6(OURS6, HOST6, 17, 9, &udp(&[]));
    icmp6(HOST6, FAR6, 9, &[&[kind, 0, 0, 0, 0, 0, 0, 0], &quoted[..]].concat())
}

#[test]
fn never_about_icmp_but_queries() {
    for kind in 0..=255 {
        let query = matches!(kind, 0 | 8..=10 | 13..=18 | 42 | 43);
        assert_eq!(refused(&icmp4_of(kind)).is_none(), query, "ICMP {kind}");
        // Neighbour discovery with a hop limit of 9 does not get past the parser.
        if !(133..=137).contains(&kind) {
            assert_eq!(refused(&icmp6_of(kind)).is_none(), kind >= 128, "ICMPv6 {kind}");
        }
    }
    let redirect = [&[137, 0, 0, 0, 0, 0, 0, 0], &OURS6.octets()[..], &OURS6.octets()].concat();
    let redirect = icmp6("fe80::9".parse().unwrap(), HOST6, 255, &redirect);
    assert_eq!(refused(&redirect), Some(NotSent::AboutIcmp));
    assert_eq!(about(&icmp6_of(1), Problem::TooBig { mtu: 1280 }), Err(NotSent::AboutIcmp));
}

#[test]
fn never_about_later_fragments() {
    let fragment =
        |proto, flags| ethernet(HOST_MAC, OUR_MAC, 0x0800, &v4(HOST, FAR, proto, flags, &[], &udp(&[0; 16])));
    assert_eq!(refused(&fragment(17, 0x2000)), None, "the first may be spoken of");
    assert_eq!(refused(&fragment(17, 0x2003)), Some(NotSent::Fragment));
    assert_eq!(refused(&fragment(17, 0x0003)), Some(NotSent::Fragment));
    let later = |next| {
        let payload = [&[next, 0, 0, 25, 0, 0, 0, 1][..], &[0; 24]].concat();
        ethernet(HOST_MAC, OUR_MAC, 0x86dd, &v6(HOST6, FAR6, 44, 9, &payload))
    };
    assert_eq!(refused(&later(58)), Some(NotSent::Fragment), "could be part of an error");
    assert_eq!(about(&later(17), Problem::TooBig { mtu: 1280 }).map(|error| error.len()), Ok(14 + 48 + 72));
}

fn from4(src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    let l4 = summed(src.to_ipv6_mapped(), dst.to_ipv6_mapped(), 17, 6, udp(b"data"));
    ethernet(HOST_MAC, OUR_MAC, 0x0800, &v4(src, dst, 17, 0, &[], &l4))
}

fn from6(src: &str, dst: &str) -> Vec<u8> {
    let (src, dst): (Ipv6Addr, Ipv6Addr) = (src.parse().unwrap(), dst.parse().unwrap());
    ethernet(HOST_MAC, OUR_MAC, 0x86dd, &v6(src, dst, 17, 9, &summed(src, dst, 17, 6, udp(b"data"))))
}

#[test]
fn never_to_what_is_not_one_host() {
    for src in [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [240, 0, 0, 1],
        [255; 4],
        [10, 1, 0, 255],
    ] {
        assert_eq!(refused(&from4(src.into(), FAR)), Some(NotSent::BadSource), "{src:?}");
    }
    assert_eq!(refused(&from4(OURS, FAR)), Some(NotSent::BadSource), "ourselves");
    assert_eq!(
        refused(&from4([10, 2, 0, 255].into(), FAR)),
        None,
        "a host of another subnet, for all we know"
    );
    for src in ["::", "::1", "ff02::1", "fd00:1::", "fd00:1::1"] {
        assert_eq!(refused(&from6(src, "fd00:9::7")), Some(NotSent::BadSource), "{src}");
    }
    assert_eq!(refused(&from6("fd00:2::", "fd00:9::7")), None);
}

#[test]
fn never_about_what_went_to_many() {
    for dst in [[224, 0, 0, 251], [239, 1, 1, 1], [255; 4], [10, 1, 0, 255], [0; 4]] {
        assert_eq!(refused(&from4(HOST, dst.into())), Some(NotSent::GroupDestination), "{dst:?}");
    }
    assert_eq!(refused(&from4(HOST, [10, 9, 0, 255].into())), None, "not our subnet's");
    let group6 = from6("fd00:1::10", "ff0e::5");
    let mut broadcast = udp4(0, &[], &[]);
    broadcast[..6].fill(0xff);
    assert_eq!(refused(&broadcast), Some(NotSent::GroupMac));
    let mut multicast = udp6(&[]);
    multicast[0] = 0x33;
    for frame in [&group6, &multicast] {
        // RFC 4443 section 2.4 (e.3): Packet Too Big is the exception, in IPv6 only.
        assert!(about(frame, Problem::TooBig { mtu: 1280 }).is_ok());
        assert!(refused(frame).is_some());
    }
    assert_eq!(about(&broadcast, Problem::TooBig { mtu: 600 }), Err(NotSent::GroupMac));
    multicast[6] |= 1;
    assert_eq!(about(&multicast, Problem::TooBig { mtu: 1280 }), Err(NotSent::GroupMac), "from a group");
}

#[test]
fn never_about_a_broken_header_or_with_the_wrong_address() {
    let mut frame = udp4(0, &[], &[]);
    frame[15] ^= 4;
    assert_eq!(refused(&frame), Some(NotSent::BadHeader));
    let frame = udp4(0, &[], &[]);
    let wrong = build(&frame, &parse(&frame), Problem::Port, &origin6(), 64, &mut [0; 200]);
    assert_eq!(wrong, Err(NotSent::Family));
    let arp = ethernet(HOST_MAC, MacAddr::BROADCAST, 0x0800, &frame[14..]);
    assert_eq!(refused(&arp), Some(NotSent::GroupMac));
}

#[test]
fn an_error_about_our_echo_reply_is_possible_but_not_about_our_error() {
    let request = icmp4(FAR, 0, &echo(8, b"data"));
    let first = about(&request, Problem::TimeExceeded).unwrap();
    assert_eq!(refused(&first), Some(NotSent::AboutIcmp));
}

proptest! {
    #[test]
    fn every_error_verifies(payload in prop::collection::vec(any::<u8>(), 0..2000), problem in 0usize..7, mtu: u32) {
        let problem = match PROBLEMS[problem] {
            Problem::TooBig { .. } => Problem::TooBig { mtu },
            problem => problem,
        };
        for frame in [udp4(0, &[], &payload), udp6(&payload), tcp4(2, &[2, 4, 5, 0xb4], &payload)] {
            let error = about(&frame, problem).unwrap();
            let packet = verified(&error);
            prop_assert_eq!(packet.meta.frame_len, packet.meta.l3_end);
            let bound = if packet.meta.l3 == L3::V4 { 576 } else { 1280 };
            prop_assert!(error.len() - 14 <= bound);
            let l4 = &error[usize::from(packet.meta.l4_off)..];
            if packet.meta.l3 == L3::V4 {
                prop_assert_eq!(add(0, sum(l4)), 0xffff);
            }
        }
    }
}
