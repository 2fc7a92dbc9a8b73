//! What must hold of every parse, whatever the bytes: shared by the property tests, the corpus and the fuzz targets.

use switch::checksum;
use switch::drop::DropReason;
use switch::flow::{Body, Csum, Fragment, GroupKind, Gso, L3, NdKind, Packet};
use switch::parse::group::{is_multicast, records};
use switch::parse::parse;
use switch::port::PortId;
use switch::segment;
use switch::vnet::VnetHdr;

const PORT: PortId = PortId(3);
const ZONE: u16 = 9;

/// Parses and asserts everything that can be said without knowing the frame.
pub fn check(vnet: &VnetHdr, frame: &[u8]) -> Result<Packet, DropReason> {
    let packet = parse(frame, vnet, PORT, ZONE)?;
    offsets(&packet, frame);
    offloads(&packet);
    bodies(&packet, frame);
    padding_is_not_read(vnet, frame, &packet);
    completes(frame, &packet);
    if packet.meta.gso != Gso::None {
        segments(frame, &packet);
    }
    Ok(packet)
}

fn offsets(packet: &Packet, frame: &[u8]) {
    let meta = &packet.meta;
    assert_eq!((meta.port, packet.key.zone), (PORT, ZONE));
    assert_eq!(meta.frame_len as usize, frame.len());
    assert!(14 <= meta.l3_off);
    assert!(meta.l3_off <= meta.l4_off);
    assert!(meta.l4_off <= meta.headers_len);
    assert!(u32::from(meta.headers_len) <= meta.l3_end);
    assert!(meta.l3_end <= meta.frame_len);
    for tag in [meta.vlan, meta.inner_vlan].into_iter().flatten() {
        assert_ne!(tag.vid(), 0xfff);
    }
    if let Some(tcp) = meta.tcp {
        assert_eq!(packet.key.proto, 6);
        assert_eq!(tcp.payload, meta.l3_end - u32::from(meta.headers_len));
    }
    if meta.fragment == Fragment::Later {
        assert_eq!((packet.key.sport, packet.key.dport, meta.tcp), (0, 0, None));
    }
}

fn offloads(packet: &Packet) {
    let meta = &packet.meta;
    let l4 = matches!(packet.key.proto, 6 | 17) && matches!(meta.l3, L3::V4 | L3::V6);
    match meta.csum {
        Csum::Partial => assert!(l4 && meta.fragment == Fragment::No),
        Csum::Inner { start, field } => {
            assert!(start >= meta.headers_len && start < field && u32::from(field) + 2 <= meta.l3_end);
        }
        Csum::Full | Csum::Verified => {}
    }
    if meta.gso != Gso::None {
        assert_eq!((meta.csum, meta.frame_len), (Csum::Partial, meta.l3_end));
        assert!(segment::count(meta) > 1);
    } else {
        assert_eq!(segment::count(meta), 0);
    }
}

fn bodies(packet: &Packet, frame: &[u8]) {
    let meta = &packet.meta;
    match meta.body {
        Body::None => assert_ne!(meta.l3, L3::Arp),
        Body::Arp(arp) => assert!(meta.l3 == L3::Arp && matches!(arp.operation, 1 | 2)),
        Body::Nd(nd) => {
            assert_eq!((packet.key.proto, meta.ttl, meta.fragment), (58, 255, Fragment::No));
            assert!(nd.kind == NdKind::Redirect || !nd.target.is_multicast());
        }
        Body::Group(said) => {
            assert!(matches!(packet.key.proto, 2 | 58 | 103));
            let named = matches!(said.kind, GroupKind::Report | GroupKind::Leave);
            assert!(!named || is_multicast(said.group));
            if said.kind == GroupKind::Records {
                assert!(records(frame, packet).all(|(group, _)| is_multicast(group)));
            }
        }
        Body::IcmpError(quoted) => {
            assert!(meta.headers_len <= quoted.l3_off && quoted.l3_off <= quoted.l4_off);
            assert!(u32::from(quoted.l4_off) <= meta.l3_end);
            assert!(quoted.has_ports || (quoted.key.sport, quoted.key.dport) == (0, 0));
            assert!(!quoted.has_ports || u32::from(quoted.l4_off) + 4 <= meta.l3_end);
        }
    }
}

/// What lies behind the IP packet changes nothing but the frame's length.
fn padding_is_not_read(vnet: &VnetHdr, frame: &[u8], packet: &Packet) {
    if packet.meta.gso != Gso::None || packet.meta.l3 == L3::Other || vnet.is_gso() {
        return;
    }
    let mut padded = frame[..packet.meta.l3_end as usize].to_vec();
    padded.resize(frame.len() + 5, 0xa5);
    let mut expected = *packet;
    expected.meta.frame_len = padded.len() as u32;
    assert_eq!(parse(&padded, vnet, PORT, ZONE), Ok(expected));
}

/// Completing leaves the same packet, with nothing open.
fn completes(frame: &[u8], packet: &Packet) {
    let (mut frame, mut meta) = (frame.to_vec(), packet.meta);
    let done = checksum::complete(&mut frame, &mut meta);
    assert_eq!(done, meta.gso == Gso::None);
    if done && packet.meta.csum != Csum::Verified {
        assert_eq!(meta.csum, Csum::Full);
        assert_eq!(parse(&frame, &VnetHdr::default(), PORT, ZONE), Ok(Packet { meta, ..*packet }));
    }
}

/// Segments are ordinary frames of the same flow, and together they are the payload.
fn segments(frame: &[u8], packet: &Packet) {
    let meta = &packet.meta;
    let headers_len = usize::from(meta.headers_len);
    let mut payload = Vec::new();
    let mut out = vec![0; frame.len()];
    for index in 0..segment::count(meta) {
        let len = segment::segment(frame, meta, index, &mut out).expect("a segment");
        let cut = &out[..len];
        assert_eq!(cut, naive_segment(frame, packet, index), "segment {index}");
        let parsed = parse(cut, &VnetHdr::default(), PORT, ZONE).expect("a segment parses");
        assert_eq!(parsed.key, packet.key);
        assert_eq!((parsed.meta.gso, parsed.meta.csum), (Gso::None, Csum::Full));
        assert_eq!((parsed.meta.headers_len, parsed.meta.l3_end as usize), (meta.headers_len, len));
        payload.extend_from_slice(&cut[headers_len..]);
    }
    assert_eq!(payload, frame[headers_len..]);
    assert_eq!(segment::segment(frame, meta, segment::count(meta), &mut out), None);
    assert_eq!(segment::segment(frame, meta, usize::MAX, &mut out), None);
    assert_eq!(segment::segment(frame, meta, 0, &mut out[..headers_len]), None);
}

/// The same segment, written as one would on paper: sums modulo 65535, every field from the original.
fn naive_segment(frame: &[u8], packet: &Packet, index: usize) -> Vec<u8> {
    let meta = &packet.meta;
    let (l3, l4) = (usize::from(meta.l3_off), usize::from(meta.l4_off));
    let headers = usize::from(meta.headers_len);
    let (Gso::Tcp { size } | Gso::Udp { size }) = meta.gso else { panic!("not a super-frame") };
    let pieces: Vec<_> = frame[headers..].chunks(usize::from(size)).collect();
    let mut cut = frame[..headers].to_vec();
    cut.extend(pieces[index]);
    let l4_len = cut.len() - l4;
    let field = if matches!(meta.gso, Gso::Tcp { .. }) { l4 + 16 } else { l4 + 6 };
    let pseudo = word(frame, field) + 65535 * 2 - (frame.len() - l4) as u64 + l4_len as u64;
    if matches!(meta.gso, Gso::Tcp { .. }) {
        let before: usize = pieces[..index].iter().map(|piece| piece.len()).sum();
        let seq = u32::from_be_bytes(frame[l4 + 4..l4 + 8].try_into().unwrap());
        cut[l4 + 4..l4 + 8].copy_from_slice(&seq.wrapping_add(before as u32).to_be_bytes());
        let first_only = if index == 0 { 0xff } else { 0x7f };
        let last_only = if index + 1 == pieces.len() { 0xff } else { 0xf6 };
        cut[l4 + 13] &= first_only & last_only;
    } else {
        put(&mut cut, l4 + 4, l4_len as u64);
    }
    put(&mut cut, field, 0);
    let check = complement(pseudo + words(&cut[l4..]));
    put(&mut cut, field, if check == 0 && field == l4 + 6 { 0xffff } else { check });
    if meta.l3 == L3::V6 {
        let len = cut.len() - l3 - 40;
        put(&mut cut, l3 + 4, len as u64);
    } else {
        let len = cut.len() - l3;
        put(&mut cut, l3 + 2, len as u64);
        put(&mut cut, l3 + 4, word(frame, l3 + 4) + index as u64);
        put(&mut cut, l3 + 10, 0);
        let check = complement(words(&cut[l3..l4]));
        put(&mut cut, l3 + 10, check);
    }
    cut
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from(bytes[at]) * 256 + u64::from(bytes[at + 1])
}

fn words(bytes: &[u8]) -> u64 {
    bytes.iter().enumerate().map(|(i, byte)| u64::from(*byte) * if i % 2 == 0 { 256 } else { 1 }).sum()
}

fn complement(sum: u64) -> u64 {
    (65535 - sum % 65535) % 65535
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}
