//! Frames whose parts are known before they are parsed: VLAN tags, LLC/SNAP, ARP, neighbour discovery, the packet in an
//! ICMP error. The parser must find what was put in, whatever it was wrapped in, and make nothing of it after damage that
//! it would not make of any bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use switch::drop::DropReason;
use switch::flow::{Body, FlowKey, Fragment, L3, Packet};
use switch::parse::parse;
use switch::port::PortId;
use switch::vnet::VnetHdr;

use crate::invariants;
use crate::maker::{self, Cast, Choices, Ip, Wrap};

const CAST: Cast<'static> = Cast {
    macs: &[[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [0xff; 6], [0x33, 0x33, 0, 0, 0, 1]],
    v4: &[Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 1, 0, 3), Ipv4Addr::BROADCAST, Ipv4Addr::UNSPECIFIED],
    v6: &[
        Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 3),
        Ipv6Addr::LOCALHOST,
    ],
    own: None,
    l4: maker::PORTS,
    magic: b"<a payload>",
    longest: 1200,
};

/// Makes a frame of `input` and looks at what the parser makes of it. Whether it is one to forward.
pub fn check(input: &[u8]) -> bool {
    let mut choices = Choices::new(input);
    let (dst, src) = (choices.pick(CAST.macs), choices.pick(CAST.macs));
    let wrap = Wrap::choose(&mut choices);
    let (ethertype, payload, ip) = match choices.below(8) {
        0 => (0x0806, maker::arp(&mut choices, &CAST), None),
        1 => (choices.pick(&[0x88b5, 0x0600, 0x86de, 0xffff]), choices.take(100).to_vec(), None),
        _ => {
            let ip = maker::packet(&mut choices, &CAST, 0);
            (if ip.v6 { 0x86dd } else { 0x0800 }, ip.bytes.clone(), Some(ip))
        }
    };
    let Some(mut frame) = wrap.frame(dst, src, ethertype, &payload) else { return false };
    let (vnet, port) = (VnetHdr::default(), PortId(3));
    let parsed = invariants::check(&vnet, &frame);
    if !wrap.is_clear() {
        assert_eq!(parsed, Err(DropReason::BadVlan), "{wrap:?}");
        return false;
    }
    let bare =
        Wrap::NONE.frame(dst, src, ethertype, &payload).and_then(|bare| parse(&bare, &vnet, port, 9).ok());
    match (&parsed, &bare) {
        (Ok(parsed), Some(bare)) => same_but_for_wrapping(parsed, bare, &wrap),
        (parsed, bare) => {
            assert_eq!(parsed.is_ok(), bare.is_some(), "{wrap:?} makes a difference: {parsed:?} {bare:?}")
        }
    }
    match (&parsed, &ip) {
        (Ok(parsed), Some(ip)) => finds(parsed, ip),
        // Every packet that was made is sound, but for a message that its own addresses forbid.
        (Err(reason), Some(ip)) => {
            assert!(*reason == DropReason::MalformedNd && ip.proto == 58, "{reason:?} of {ip:?}")
        }
        (Ok(parsed), None) if ethertype == 0x0806 => assert_eq!(parsed.meta.l3, L3::Arp),
        (Ok(parsed), None) => assert_eq!((parsed.meta.l3, parsed.meta.ethertype), (L3::Other, ethertype)),
        (Err(reason), None) => panic!("{reason:?} of {frame:02x?}"),
    }
    maker::damage(&mut choices, &mut frame);
    invariants::check(&vnet, &frame).is_ok()
}

/// What a filter reads of a bare frame it reads of a wrapped one (CVE-2021-27853, -27854, -27861, -27862).
fn same_but_for_wrapping(parsed: &Packet, bare: &Packet, wrap: &Wrap) {
    let (mut meta, more) = (parsed.meta, parsed.meta.l3_off - bare.meta.l3_off);
    let tags: Vec<_> = [meta.vlan, meta.inner_vlan].iter().flatten().map(|tag| (tag.tpid, tag.tci)).collect();
    assert_eq!(tags, wrap.tags);
    assert_eq!(usize::from(more), wrap.tags.len() * 4 + if wrap.snap.is_some() { 8 } else { 0 });
    assert_eq!(meta.vid, meta.vlan.map_or(0, |tag| tag.vid()));
    (meta.vlan, meta.inner_vlan, meta.vid) = (None, None, 0);
    meta.frame_len = bare.meta.frame_len;
    meta.l3_off -= more;
    meta.l4_off -= more;
    meta.headers_len -= more;
    meta.l3_end -= u32::from(more);
    // What is not IP ends where the frame does.
    if meta.l3 == L3::Other {
        meta.l3_end = bare.meta.l3_end;
    }
    if let Body::IcmpError(quoted) = &mut meta.body {
        quoted.l3_off -= more;
        quoted.l4_off -= more;
    }
    assert_eq!(Packet { meta, ..*parsed }, *bare);
}

fn finds(parsed: &Packet, ip: &Ip) {
    let (key, meta) = (&parsed.key, &parsed.meta);
    assert_eq!((key.proto, key.src, key.dst), (ip.proto, ip.src, ip.dst));
    assert_eq!((key.sport, key.dport), ip.ports, "{ip:?}");
    assert_eq!(usize::from(meta.l4_off - meta.l3_off), ip.l4);
    assert_eq!(usize::from(meta.headers_len - meta.l3_off), ip.payload.max(ip.l4));
    let fragment = match ip.fragment {
        None => Fragment::No,
        Some(true) => Fragment::First,
        Some(false) => Fragment::Later,
    };
    assert_eq!(meta.fragment, fragment);
    let Some((about, cut)) = &ip.quoted else { return };
    let Body::IcmpError(quoted) = meta.body else { panic!("no quotation in {parsed:?}") };
    let has_ports = *cut >= about.l4 + if matches!(about.proto, 6 | 17) { 4 } else { 8 }
        && about.fragment != Some(false)
        && matches!(about.proto, 1 | 6 | 17 | 58);
    assert_eq!(quoted.has_ports, has_ports, "{about:?} cut at {cut}");
    let (sport, dport) = if has_ports { about.ports } else { (0, 0) };
    let zone = key.zone;
    let expected = FlowKey { zone, proto: about.proto, src: about.src, dst: about.dst, sport, dport };
    assert_eq!(quoted.key, expected);
    assert_eq!(quoted.l4_off - quoted.l3_off, about.l4 as u16);
}
