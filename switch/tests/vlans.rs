//! VLANs and isolation on memory devices: in which form a frame comes out where, and what it does not get to.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Lab, Options, ethernet, ip, ipv4, mac, packet, tagged, udp};
use proptest::prelude::*;
use switch::checksum;
use switch::drop::DropReason;
use switch::flow::{Gso, L3, Meta};
use switch::frame::Pool;
use switch::mac::MacAddr;
use switch::parse::parse;
use switch::port::PortId;
use switch::segment;
use switch::snapshot::Spoof;
use switch::tag;
use switch::vlan::{Form, Tagging};
use switch::vnet::VnetHdr;

const LLDP: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x0e]);

fn trunk(vlans: &[u16], native: Option<u16>) -> Tagging {
    Tagging::Trunk { vlans: Arc::new(vlans.iter().copied().collect()), native }
}

/// Ports: 0 and 1 in VLAN 10, 2 in 20, 3 a trunk of both, 4 of 20 with 10 untagged, 5 carries all.
fn lab() -> Lab {
    lab_with(Options { spoof: Spoof::Off, ..Options::default() })
}

fn lab_with(options: Options) -> Lab {
    let mut lab = Lab::new(&[6], options);
    let ports = [
        Tagging::Access(10),
        Tagging::Access(10),
        Tagging::Access(20),
        trunk(&[10, 20], None),
        trunk(&[20], Some(10)),
        Tagging::All,
    ];
    for (port, tagging) in (0..).zip(ports) {
        lab.change(port, |port| port.tagging = tagging.clone());
    }
    lab
}

fn frame(tags: &[(u16, u16)]) -> Vec<u8> {
    tagged(MacAddr::BROADCAST, mac(9), tags, 0x88b5, &[0x5a; 60])
}

/// What came out, and with which tags; everything else of the frame is as it was.
fn shapes(lab: &mut Lab, port: u16, sent: &[u8]) -> Vec<(u16, Vec<(u16, u16)>)> {
    let got = lab.sent(port, &VnetHdr::default(), sent);
    got.into_iter()
        .map(|(out, _, bytes)| {
            let mut tags = Vec::new();
            let mut rest = &bytes[12..];
            while matches!(rest[..2], [0x81, 0] | [0x88, 0xa8] | [0x91, 0]) {
                let word = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
                tags.push((word(0), word(2)));
                rest = &rest[4..];
            }
            assert_eq!(bytes[..12], sent[..12]);
            assert!(sent.ends_with(rest), "the payload changed");
            (out, tags)
        })
        .collect()
}

#[test]
fn a_broadcast_goes_to_its_vlan_in_each_ports_form() {
    let mut lab = lab();
    let tag = |vid: u16| vec![(0x8100, vid)];
    let none = Vec::new;
    let ten = |from: u16| {
        let all = [(0, none()), (1, none()), (3, tag(10)), (4, none()), (5, tag(10))];
        let mut all: Vec<_> = all.into_iter().filter(|(port, _)| *port != from).collect();
        all.sort();
        all
    };
    let twenty = |from: u16| {
        let all = [(2, none()), (3, tag(20)), (4, tag(20)), (5, tag(20))];
        all.into_iter().filter(|(port, _)| *port != from).collect::<Vec<_>>()
    };
    assert_eq!(shapes(&mut lab, 0, &frame(&[])), ten(0));
    assert_eq!(shapes(&mut lab, 2, &frame(&[])), twenty(2));
    assert_eq!(shapes(&mut lab, 3, &frame(&[(0x8100, 10)])), ten(3));
    assert_eq!(shapes(&mut lab, 3, &frame(&[(0x8100, 20)])), twenty(3));
    assert_eq!(shapes(&mut lab, 4, &frame(&[])), ten(4), "native");
    assert_eq!(shapes(&mut lab, 4, &frame(&[(0x8100, 20)])), twenty(4));
    assert_eq!(shapes(&mut lab, 5, &frame(&[(0x8100, 10)])), ten(5));
    let counters = &lab.worker.counters().worker;
    assert_eq!((counters.flooded.get(), counters.dropped()), (7, 0), "a frame of two forms is one frame");
}

#[test]
fn what_a_port_does_not_carry_is_refused_by_name() {
    let mut lab = lab();
    for (port, tags) in [
        (0, &[(0x8100, 10)][..]), // a port of the VLAN takes it untagged only
        (0, &[(0x8100, 20)]),
        (0, &[(0x8100, 1), (0x8100, 10)]),
        (2, &[(0x88a8, 20)]),
        (3, &[]),
        (3, &[(0x8100, 0)]),
        (3, &[(0x8100, 30)]),
        (3, &[(0x8100, 4094)]),
        (4, &[(0x8100, 10)]), // its native VLAN is untagged
        (4, &[(0x9100, 30), (0x8100, 20)]),
    ] {
        lab.refuses(port, &frame(tags), DropReason::VlanNotAllowed);
    }
    for tags in [&[(0x8100, 4095)][..], &[(0x8100, 0), (0x8100, 10)], &[(0x8100, 10); 3], &[(0x88a8, 10); 8]]
    {
        for port in [0, 3, 4, 5] {
            lab.refuses(port, &frame(tags), DropReason::BadVlan);
        }
    }
    assert_eq!(lab.fdb(0).lookup(10, mac(9)), None, "and teaches nothing");
    // VLAN 0 is where nobody but port 5 is.
    lab.refuses(5, &frame(&[]), DropReason::NoOtherPort);
    lab.refuses(5, &frame(&[(0x8100, 4094)]), DropReason::NoOtherPort);
}

#[test]
fn a_priority_becomes_that_of_the_vlans_tag() {
    let mut lab = lab();
    let shapes = |lab: &mut Lab, port, tci| shapes(lab, port, &frame(&[(0x8100, tci)]));
    let urgent = vec![(0x8100, 0xa00a)];
    let expected = [(1, vec![]), (3, urgent.clone()), (4, vec![]), (5, urgent)];
    let mut got = shapes(&mut lab, 0, 0xa000);
    got.sort();
    assert_eq!(got, expected);
    // Where no VLAN is, it stays what it is.
    let mut plain = Lab::new(&[2], Options { spoof: Spoof::Off, ..Options::default() });
    assert_eq!(shapes(&mut plain, 0, 0xa000), [(1, vec![(0x8100, 0xa000)])]);
}

#[test]
fn only_the_outer_tag_is_the_switchs() {
    let mut lab = lab();
    for tpid in [0x8100, 0x88a8, 0x9100] {
        let inner = (0x8100, 0x6007);
        let sent = frame(&[(tpid, 20), inner]);
        let both = vec![(tpid, 20), inner];
        let expected = [(2, vec![inner]), (3, both.clone()), (4, both)];
        let mut got = shapes(&mut lab, 5, &sent);
        got.sort();
        assert_eq!(got, expected, "{tpid:#x}");
    }
}

#[test]
fn the_same_address_in_two_vlans_is_two_stations() {
    let mut lab = lab();
    let station = MacAddr([2, 0, 0, 0, 0, 0x77]);
    let hello = ethernet(MacAddr::BROADCAST, station, 0x88b5, b"hello");
    lab.sent(0, &VnetHdr::default(), &hello);
    lab.sent(2, &VnetHdr::default(), &hello);
    let to = |tags: &[(u16, u16)]| tagged(station, mac(9), tags, 0x88b5, b"to it");
    assert_eq!(shapes(&mut lab, 3, &to(&[(0x8100, 10)])), [(0, vec![])]);
    assert_eq!(shapes(&mut lab, 3, &to(&[(0x8100, 20)])), [(2, vec![])]);
    // An entry of before the port was moved: its VLAN is not carried there any more.
    lab.change(0, |port| port.tagging = Tagging::Access(20));
    let before = lab.dropped(DropReason::VlanNotAllowed);
    assert_eq!(shapes(&mut lab, 3, &to(&[(0x8100, 10)])), []);
    assert_eq!(lab.dropped(DropReason::VlanNotAllowed) - before, 1);
}

#[test]
fn isolated_ports_hear_all_but_each_other() {
    let mut lab = Lab::new(&[4], Options::default());
    for port in [1, 2] {
        lab.change(port, |port| port.isolated = true);
    }
    let hello = |from: u16| ethernet(MacAddr::BROADCAST, mac(from + 1), 0x88b5, b"hello");
    assert_eq!(lab.send(1, &hello(1)), [0, 3]);
    assert_eq!(lab.send(2, &hello(2)), [0, 3]);
    assert_eq!(lab.send(0, &hello(0)), [1, 2, 3]);
    assert_eq!(lab.send(3, &hello(3)), [0, 1, 2]);
    lab.refuses(1, &packet(1, 2, b"unicast"), DropReason::Isolated);
    assert_eq!(lab.send(1, &packet(1, 0, b"to who is not")), [0]);
    assert_eq!(lab.send(0, &packet(0, 1, b"and back")), [1]);
    for port in [0, 3] {
        lab.change(port, |port| port.isolated = true);
    }
    lab.refuses(1, &hello(1), DropReason::Isolated);
}

#[test]
fn a_transparent_network_is_a_cable_to_bridges() {
    let mut opaque = lab();
    opaque.refuses(5, &ethernet(LLDP, mac(9), 0x88cc, b"LLDP"), DropReason::ReservedGroup);
    let mut lab = lab_with(Options { spoof: Spoof::Off, transparent: true, ..Options::default() });
    let lldp =
        |last: u8, ethertype| ethernet(MacAddr([0x01, 0x80, 0xc2, 0, 0, last]), mac(9), ethertype, b"x");
    for (last, ethertype) in [(0, 0x27), (2, 0x8809), (3, 0x888e), (0x0e, 0x88cc)] {
        // 0x27 is a length: STP is LLC.
        let frame = if ethertype == 0x27 {
            [&lldp(last, 0x27)[..14], &[0x42, 0x42, 3], &[0; 43]].concat()
        } else {
            lldp(last, ethertype)
        };
        // In a VLAN it stays there; between trunks and ports without VLANs it passes as by a cable.
        let ports =
            |got: Vec<(u16, Vec<(u16, u16)>)>| got.into_iter().map(|(port, _)| port).collect::<Vec<_>>();
        assert_eq!(ports(shapes(&mut lab, 0, &frame)), [1, 3, 4, 5]);
        assert_eq!(shapes(&mut lab, 3, &frame), [(5, vec![])]);
        assert_eq!(shapes(&mut lab, 5, &frame), [(3, vec![])]);
    }
    lab.refuses(5, &lldp(1, 0x8808), DropReason::ReservedGroup);
    lab.refuses(5, &lldp(1, 0x88b5), DropReason::ReservedGroup);
    lab.refuses(5, &ethernet(mac(1), mac(9), 0x8808, b"PAUSE"), DropReason::ReservedGroup);
    lab.change(5, |port| port.isolated = true);
    lab.change(3, |port| port.isolated = true);
    lab.refuses(5, &lldp(0x0e, 0x88cc), DropReason::Isolated);
}

/// A TCP or UDP packet with a partial checksum, super-frame or not, and its virtio header.
fn offloaded(len: usize, size: u16, tags: &[(u16, u16)]) -> (VnetHdr, Vec<u8>) {
    let mut tcp = vec![0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0];
    let pseudo = [&ip(1).octets()[..], &ip(2).octets(), &[0, 6], &((20 + len) as u16).to_be_bytes()].concat();
    tcp[16..18].copy_from_slice(&checksum::sum(&pseudo).to_be_bytes());
    tcp.extend((0..len).map(|n| n as u8));
    let l3 = 14 + 4 * tags.len() as u16;
    let gso = len > usize::from(size);
    let header = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: if gso { VnetHdr::GSO_TCPV4 } else { 0 },
        gso_size: if gso { size } else { 0 }.into(),
        hdr_len: if gso { l3 + 40 } else { 0 }.into(),
        csum_start: (l3 + 20).into(),
        csum_offset: 16.into(),
    };
    (header, tagged(mac(2), mac(1), tags, 0x0800, &ipv4(ip(1), ip(2), 6, &tcp)))
}

fn pool_with(header: &VnetHdr, frame: &[u8]) -> (Pool, switch::frame::Frame, Meta) {
    let mut pool = Pool::new(3);
    let filled = pool.fill::<()>(PortId(0), |buffer| {
        buffer[..VnetHdr::LEN].copy_from_slice(zerocopy::IntoBytes::as_bytes(header));
        buffer[VnetHdr::LEN..VnetHdr::LEN + frame.len()].copy_from_slice(frame);
        Ok(VnetHdr::LEN + frame.len())
    });
    let meta = parse(frame, header, PortId(0), 0).unwrap().meta;
    (pool, filled.unwrap(), meta)
}

/// What a receiver would see: the packet with whole checksums, or all segments of it.
fn received(header: &VnetHdr, frame: &[u8]) -> Vec<Vec<u8>> {
    let mut meta = parse(frame, header, PortId(0), 0).unwrap().meta;
    assert_eq!(meta.l3, L3::V4);
    if meta.gso == Gso::None {
        let mut whole = frame.to_vec();
        checksum::complete(&mut whole, &mut meta);
        return vec![whole];
    }
    let cut = |index| {
        let mut out = vec![0; 66_000];
        let len = segment::segment(frame, &meta, index, &mut out)?;
        out.truncate(len);
        Some(out)
    };
    (0..).map_while(cut).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// `pop(push(frame)) == frame`, meta and virtio header included; and in between it is what a parser finds.
    #[test]
    fn a_tag_put_on_and_taken_off_leaves_nothing(len in 0usize..65_000, size in 500u16..9000, vid in 1u16..=4094) {
        let (header, frame) = offloaded(len, size, &[]);
        let (mut pool, first, parsed) = pool_with(&header, &frame);
        let mut meta = Meta { vid, ..parsed };
        let pushed = tag::shape(Form::Tagged, &mut meta, &mut pool, &first);
        let again = parse(pool.bytes(&pushed), &pool.vnet(&pushed), PortId(0), 0).unwrap().meta;
        prop_assert_eq!(again, meta);
        prop_assert_eq!(meta.vlan.unwrap().tci, vid);
        if meta.gso != Gso::None {
            prop_assert_eq!(pool.vnet(&pushed).hdr_len.get(), meta.headers_len);
        }
        let untagged = |mut bytes: Vec<u8>| { bytes.drain(12..16); bytes };
        let tagged: Vec<_> = received(&pool.vnet(&pushed), pool.bytes(&pushed)).into_iter().map(untagged).collect();
        prop_assert!(tagged == received(&header, &frame), "receivers see the same payload");
        let popped = tag::shape(Form::Untagged, &mut meta, &mut pool, &pushed);
        prop_assert_eq!(popped, first);
        prop_assert_eq!(pool.bytes(&popped), &frame[..]);
        prop_assert_eq!(pool.vnet(&popped), header);
        prop_assert_eq!(meta, Meta { vid, ..parsed });
    }

    /// A copy in the other form is what changing the frame itself would have made of it.
    #[test]
    fn a_copy_is_what_the_frame_would_have_become(len in 0usize..65_000, size in 500u16..9000, on: bool, inner: bool) {
        let tags: &[(u16, u16)] = match (on, inner) {
            (true, true) => &[(0x88a8, 7), (0x8100, 0x3009)],
            (true, false) => &[(0x8100, 0x2007)],
            (false, _) => &[],
        };
        let (header, frame) = offloaded(len, size, tags);
        let (mut pool, first, mut meta) = pool_with(&header, &frame);
        meta.vid = 7;
        let (copy, other) = tag::copy(&meta, &mut pool, &first).unwrap();
        prop_assert_eq!(pool.bytes(&first), &frame[..], "the frame itself is as it was");
        let (bytes, vnet) = (pool.bytes(&copy).to_vec(), pool.vnet(&copy));
        pool.release(&copy);
        let form = if on { Form::Untagged } else { Form::Tagged };
        let shaped = tag::shape(form, &mut meta, &mut pool, &first);
        prop_assert!(pool.bytes(&shaped) == bytes);
        prop_assert_eq!((pool.vnet(&shaped), meta), (vnet, other));
        pool.release(&shaped);
        prop_assert_eq!(pool.available(), 3);
    }

    /// The leak oracle (H08): whatever tags a frame has, it comes out on ports of its VLAN and on no other.
    #[test]
    fn no_frame_leaves_its_vlan(
        frames in prop::collection::vec(
            (0u16..6, prop::collection::vec((prop::sample::select(vec![0x8100u16, 0x88a8, 0x9100]),
                prop::sample::select(vec![0u16, 1, 10, 20, 30, 4094, 4095, 0xe00a, 0x6014])), 0..9), any::<bool>()), 1..40),
    ) {
        let mut lab = lab();
        let carried: [&[u16]; 6] = [&[10], &[10], &[20], &[10, 20], &[10, 20], &[]];
        for (port, tags, known) in frames {
            let dst = if known { mac(1) } else { MacAddr::BROADCAST };
            let sent = tagged(dst, mac(9), &tags, 0x88b5, &[port as u8; 60]);
            let said = tags.first().map_or(0, |(_, tci)| tci & 0xfff);
            let vid = match (port, said) { (0 | 1 | 4, 0) => 10, (2, 0) => 20, (_, said) => said };
            let before = lab.worker.counters().worker.dropped();
            let got = lab.sent(port, &VnetHdr::default(), &sent);
            prop_assert!(!got.is_empty() || lab.worker.counters().worker.dropped() == before + 1);
            for (out, _, bytes) in got {
                prop_assert!(out == 5 || carried[usize::from(out)].contains(&vid), "VLAN {} on port {}", vid, out);
                prop_assert!(port == 5 || carried[usize::from(port)].contains(&vid));
                prop_assert!(tags.len() <= 2 && out != port);
                let untagged = bytes[12..14] != [0x81, 0] && bytes[12..14] != [0x88, 0xa8] && bytes[12..14] != [0x91, 0];
                let inner = usize::from(tags.len() == 2);
                prop_assert_eq!(untagged, matches!((out, vid), (0..=2, _) | (4, 10)) && inner == 0 || (vid == 0 && tags.is_empty()));
            }
        }
    }
}

#[test]
fn a_flood_without_a_slot_for_its_other_form_loses_those_copies_by_name() {
    // The pool of the lab has 64 slots, and a batch of 64 frames has them all.
    let mut lab = lab();
    for _ in 0..64 {
        lab.inject(0, &frame(&[]));
    }
    lab.run();
    let got: Vec<usize> = (0..6).map(|port| lab.worker.io.discard(PortId(port))).collect();
    let lost = lab.worker.counters().worker.copies_lost.get();
    assert_eq!(got[1], 64, "{got:?}");
    assert_eq!((got[4], got[0], got[2]), (64, 0, 0), "{got:?}");
    assert_eq!(got[3] + got[5] + lost as usize, 128, "{got:?}, {lost} lost");
    assert!(got[3] > 0 && lost > 0, "{got:?}, {lost} lost");
    assert_eq!(lab.worker.free_slots(), 64);
}

#[test]
fn udp_without_offload_passes_too() {
    let mut lab = lab();
    let sent = ethernet(mac(2), mac(1), 0x0800, &ipv4(ip(1), ip(2), 17, &udp(1, 2, &[7; 1472])));
    assert_eq!(sent.len(), 1514);
    let got = shapes(&mut lab, 0, &sent);
    assert!(got.contains(&(3, vec![(0x8100, 10)])), "a full frame and its tag: {got:?}");
}
