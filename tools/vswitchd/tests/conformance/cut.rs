//! What is translated, too long for where it goes, and may be cut: it leaves in fragments of one identification of ours,
//! which put together again are the translated packet.

use std::collections::BTreeSet;

use switch::port::PortId;
use switch::vnet::VnetHdr;

use crate::common::outside::Outside;
use crate::lab::{A, B, C, Got, IP_A, IP_B, IP_C, Lab, REMOTE, TEXT, US, WORLD, packets};
use crate::packet::{self, ACK, Ip, MORE, TCP, UDP, addr};

/// What the network outside takes, bytes of an IP packet.
const MTU: usize = 1280;

/// UDP 8000 of ours is 80 of `c`, which is in a narrow network.
fn published() -> Outside {
    Outside { published: vec![(UDP, 8000, 1, PortId(C), 80)], ..Outside::default() }
}

/// Blue is wide as well, and the outside narrow.
fn lab() -> Lab {
    let text = TEXT
        .replace("name = \"out\"", "name = \"out\"\nmtu = 1280")
        .replace("name = \"blue\"", "name = \"blue\"\nmtu = 9000");
    Lab::with(&published(), &text)
}

/// The packet that these are the fragments of, as RFC 791 section 3.2 puts it together.
#[track_caller]
fn whole(pieces: &[Got], to: u16) -> Ip {
    let first = &pieces.first().unwrap_or_else(|| panic!("nothing came out")).ip;
    let mut l4 = Vec::new();
    for (at, Got { port, ip, frame }) in pieces.iter().enumerate() {
        assert_eq!(
            (*port, ip.id, ip.src, ip.dst),
            (to, first.id, first.src, first.dst),
            "all are of one packet"
        );
        assert_eq!((ip.proto, ip.ttl), (first.proto, first.ttl));
        assert!(frame.len() <= MTU + 14, "{} bytes", frame.len());
        let more = if at + 1 < pieces.len() { MORE } else { 0 };
        assert_eq!(ip.field, more | (l4.len() / 8) as u16, "in order, and nothing twice");
        l4.extend(&ip.l4);
    }
    assert!(pieces.len() > 1, "it was not cut: {first:?}");
    let whole = Ip { l4, field: 0, ..first.clone() };
    // With the checksum of all of it.
    Ip::parse(&packet::ethernet([0; 6], [0; 6], true, &whole.bytes())).unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

#[test]
fn of_what_we_cut_all_has_one_identification_of_ours() {
    let mut lab = lab();
    let mut seen = BTreeSet::new();
    for len in [1253, 1400, 4000, 8900] {
        for (port, own) in [(A, IP_A), (B, IP_B)] {
            let sent = Ip::udp((own, 5000), (REMOTE, 53), &pattern(len)).id(77);
            let out = lab.send(port, &sent);
            let got = whole(&out, WORLD);
            assert_eq!((got.src, got.dst, got.dport(), got.ttl), (addr(US), addr(REMOTE), 53, 63));
            assert_eq!(got.sport() == 5000, port == A, "b's is another one");
            assert_eq!(got.l4[8..], pattern(len));
            assert!(seen.insert(got.id), "two containers, two packets: {} again", got.id);
        }
    }
    // What fits is not cut, and keeps its own.
    assert_eq!(lab.one(A, &Ip::udp((IP_A, 5000), (REMOTE, 53), &pattern(1252)).id(77), WORLD).id, 77);
}

#[test]
fn so_it_is_with_every_protocol_and_an_open_checksum() {
    let mut lab = lab();
    let segment = Ip::tcp((IP_A, 5000), (REMOTE, 80), packet::SYN, [1, 0], &[]);
    lab.one(A, &segment, WORLD);
    let long = Ip::tcp((IP_A, 5000), (REMOTE, 80), ACK, [2, 1], &pattern(3000)).id(9);
    let got = whole(&lab.send(A, &long), WORLD);
    assert_eq!((got.proto, got.src, got.l4.len()), (TCP, addr(US), long.l4.len()));
    let mut ping = Ip::echo(IP_A, REMOTE, true, 5);
    ping.l4.extend(pattern(3000));
    let ping = Ip::new(IP_A, REMOTE, packet::ICMP, ping.l4);
    let got = whole(&lab.send(A, &ping), WORLD);
    assert_eq!((got.kind(), got.l4[8..] == ping.l4[8..]), ((8, 0), true));
    // As a kernel hands it over: the checksum is left to us.
    let open = Ip::udp((IP_A, 5000), (REMOTE, 53), &pattern(3000)).open();
    let vnet = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        csum_start: 34.into(),
        csum_offset: 6.into(),
        ..VnetHdr::default()
    };
    let frame = packet::ethernet(lab.gateway_mac(A), lab.mac(A), true, &open.bytes());
    assert_eq!(whole(&packets(lab.frame(A, &vnet, &frame)), WORLD).l4[8..], pattern(3000));
}

#[test]
fn a_fragment_that_is_cut_again_is_of_its_packet() {
    let mut lab = lab();
    let sent = Ip::udp((IP_A, 5000), (REMOTE, 53), &pattern(5000)).id(77);
    let pieces = sent.cut_at(&[2400, 4000]);
    let out: Vec<_> = pieces.iter().flat_map(|piece| lab.send(A, piece)).collect();
    let got = whole(&out, WORLD);
    assert_eq!((got.src, &got.l4[8..]), (addr(US), &pattern(5000)[..]));
    assert!(out.len() >= 5, "{} pieces", out.len());
}

#[test]
fn what_is_hairpinned_is_ours_as_well_and_what_comes_from_outside_is_its_senders() {
    let mut lab = lab();
    let inside = Ip::udp((IP_A, 5000), (US, 8000), &pattern(4000)).id(77);
    let got = whole(&lab.send(A, &inside), C);
    assert_eq!((got.src, got.sport(), got.dport()), (addr(US), 5000, 80));
    assert_eq!(got.l4[8..], pattern(4000));
    assert_ne!(lab.send(A, &inside)[0].ip.id, got.id, "another packet, another one");
    let mut lab = Lab::of(&published());
    for id in [77, 78] {
        let outside = Ip::udp((REMOTE, 53), (US, 8000), &pattern(1400)).id(id);
        let got = whole(&lab.send(WORLD, &outside), C);
        assert_eq!((got.id, got.src, got.dst, got.dport()), (id, addr(REMOTE), addr(IP_C), 80));
        assert_eq!(got.l4[8..], pattern(1400));
    }
}
