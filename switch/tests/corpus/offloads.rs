//! Virtio headers that say anything, before frames that are what they are: what of them may be believed is known from how
//! the frame was made, and the segments are those of a segmenter that knows nothing but RFC 791, 8200, 768, 9293 and the
//! choices: it computes every checksum from the bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use switch::checksum;
use switch::flow::{Csum, Gso};
use switch::segment;
use switch::vnet::VnetHdr;

use crate::invariants;
use crate::maker::{self, Cast, Choices, Ip, Wrap};

const CAST: Cast<'static> = Cast {
    macs: &[[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
    v4: &[Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 1, 0, 3)],
    v6: &[Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 3)],
    own: None,
    l4: maker::PORTS,
    magic: b"<another payload>",
    longest: 65_000,
};

/// Whether it was a super-frame that may go on.
pub fn check(input: &[u8]) -> bool {
    let mut choices = Choices::new(input);
    let vnet_bits = choices.byte();
    // Half of the inputs lie in few ways.
    let wild = vnet_bits & 4 != 0;
    let mut wrap = if wild { Wrap::choose(&mut choices) } else { Wrap::NONE };
    let mut vnet = VnetHdr {
        flags: if wild { choices.pick(&[1, 1, 0, 2, 3, 4, 0xff]) } else { 1 },
        gso_type: 0,
        hdr_len: choices.pick(&[0, 54, 66, 0xffff]).into(),
        gso_size: choices.pick(&[1000, 1448, 0, 1, 8, 47, 48, 536, 9000, 0xfffe, 0xffff]).into(),
        csum_start: 0.into(),
        csum_offset: 0.into(),
    };
    if vnet_bits & 1 != 0 {
        vnet.gso_size = choices.word().into();
    }
    let mut ip = maker::packet(&mut choices, &CAST, 0);
    let l4 = 14 + wrap.tags.len() * 4 + if wrap.snap.is_some() { 8 } else { 0 } + ip.l4;
    let field = match ip.proto {
        6 => 16,
        17 => 6,
        _ => 2,
    };
    let start = if wild { choices.pick(&[l4, l4, l4, l4, 0, 14, l4 + 1, l4 + 8, 0xffff]) } else { l4 };
    vnet.csum_start = (start as u16).into();
    let offset = if wild { choices.pick(&[field, field, field, field, 0, 6, 16, 0xffff]) } else { field };
    vnet.csum_offset = offset.into();
    vnet.gso_type = match (ip.proto, ip.v6, choices.below(8)) {
        (_, _, 6) => choices.pick(&[1, 4, 5, 3, 0x80, 0x81, 0xff]),
        (_, _, 7) => 0,
        (6, false, bits) => VnetHdr::GSO_TCPV4 | if bits == 5 { VnetHdr::GSO_ECN } else { 0 },
        (6, true, bits) => VnetHdr::GSO_TCPV6 | if bits == 5 { VnetHdr::GSO_ECN } else { 0 },
        (17, ..) => VnetHdr::GSO_UDP_L4,
        _ => 0,
    };
    if vnet_bits & 2 == 0 {
        wrap.padding = 0;
    }
    // What the kernel leaves in the field of a partial checksum.
    if vnet.needs_csum() && ip.fragment.is_none() && matches!(ip.proto, 6 | 17) {
        let pseudo = maker::fold(maker::pseudo((ip.src, ip.dst), ip.proto, ip.bytes.len() - ip.l4));
        let at = ip.l4 + usize::from(field);
        maker::put(&mut ip.bytes, at, pseudo);
    }
    let ethertype = if ip.v6 { 0x86dd } else { 0x0800 };
    let Some(mut frame) = wrap.frame([2; 6], [4; 6], ethertype, &ip.bytes) else { return false };
    let honest = honest(&vnet, &wrap, &ip, (start, l4), field);
    match invariants::check(&vnet, &frame) {
        Err(reason) => assert!(!honest, "{reason:?} of an honest {vnet:?} {ip:?}"),
        Ok(packet) => {
            let believed = packet.meta.gso != Gso::None;
            assert!(honest || !believed, "a lie is believed: {vnet:?} {:?} {ip:?}", packet.meta);
            if believed {
                let expected = naive(&ip, &frame[..l4 - ip.l4], usize::from(vnet.gso_size.get()));
                let mut out = vec![0; frame.len()];
                for (index, expected) in expected.iter().enumerate() {
                    let len = segment::segment(&frame, &packet.meta, index, &mut out).unwrap();
                    assert_eq!(&out[..len], expected, "segment {index} of {vnet:?} {ip:?}");
                }
                assert_eq!(segment::count(&packet.meta), expected.len());
                return true;
            }
            if packet.meta.csum == Csum::Partial {
                let mut meta = packet.meta;
                assert!(checksum::complete(&mut frame, &mut meta));
                let end = meta.l3_end as usize;
                let plain = ip.l4 == if ip.v6 { 40 } else { usize::from(ip.bytes[0] & 15) * 4 };
                let right = maker::verifies(&frame[l4 - ip.l4..end]);
                assert!(!plain || right != Some(false), "completed wrongly: {vnet:?} {ip:?}");
            }
        }
    }
    false
}

/// Whether all that the header says is so, and is a super-frame within the limits that the kernel has.
fn honest(vnet: &VnetHdr, wrap: &Wrap, ip: &Ip, (start, l4): (usize, usize), field: u16) -> bool {
    let size = usize::from(vnet.gso_size.get());
    let payload = ip.bytes.len() - ip.payload;
    let atomic = ip.v6 && ip.bytes[40..ip.l4].len() >= 8 && chain_has_fragment(ip);
    let bounded = match ip.proto {
        6 => {
            let flags = ip.bytes[ip.l4 + 13];
            (size >= 48 || payload.div_ceil(size.max(1)) <= 64) && flags & 6 == 0
        }
        17 => payload.div_ceil(size.max(1)) <= 128,
        _ => false,
    };
    let kind = match (ip.proto, ip.v6) {
        (6, false) => [VnetHdr::GSO_TCPV4, VnetHdr::GSO_TCPV4 | VnetHdr::GSO_ECN],
        (6, true) => [VnetHdr::GSO_TCPV6, VnetHdr::GSO_TCPV6 | VnetHdr::GSO_ECN],
        _ => [VnetHdr::GSO_UDP_L4; 2],
    };
    wrap.is_clear()
        && wrap.snap.is_none()
        && wrap.padding == 0
        && ip.fragment.is_none()
        && !atomic
        && vnet.needs_csum()
        && vnet.flags & !3 == 0
        && (start, vnet.csum_offset.get()) == (l4, field)
        && kind.contains(&vnet.gso_type)
        && !matches!(size, 0 | 0xffff)
        && bounded
}

fn chain_has_fragment(ip: &Ip) -> bool {
    let (mut next, mut at) = (ip.bytes[6], 40);
    while at < ip.l4 {
        if next == 44 {
            return true;
        }
        (next, at) = (ip.bytes[at], at + usize::from(ip.bytes[at + 1]) * 8 + 8);
    }
    false
}

/// The segments, each as a sender without offloads would have sent it.
fn naive(ip: &Ip, link: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (head, payload) = ip.bytes.split_at(ip.payload);
    let pieces: Vec<&[u8]> = payload.chunks(size).collect();
    let mut segments = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let mut bytes = [head, piece].concat();
        let (l4, check) = (ip.l4, ip.l4 + if ip.proto == 6 { 16 } else { 6 });
        if ip.proto == 6 {
            let at = u32::from_be_bytes([bytes[l4 + 4], bytes[l4 + 5], bytes[l4 + 6], bytes[l4 + 7]]);
            let at = at.wrapping_add((index * size) as u32);
            bytes[l4 + 4..l4 + 8].copy_from_slice(&at.to_be_bytes());
            // FIN and PSH end the stream's piece, CWR begins it.
            if index + 1 < pieces.len() {
                bytes[l4 + 13] &= !0x09;
            }
            if index > 0 {
                bytes[l4 + 13] &= !0x80;
            }
        } else {
            maker::put(&mut bytes, l4 + 4, (8 + piece.len()) as u16);
        }
        if ip.v6 {
            let len = (bytes.len() - 40) as u16;
            maker::put(&mut bytes, 4, len);
        } else {
            let (len, id) = (bytes.len() as u16, u16::from_be_bytes([bytes[4], bytes[5]]));
            maker::put(&mut bytes, 2, len);
            maker::put(&mut bytes, 4, id.wrapping_add(index as u16));
            maker::put(&mut bytes, 10, 0);
            let sum = !maker::fold(maker::sum(&bytes[..l4]));
            maker::put(&mut bytes, 10, sum);
        }
        maker::put(&mut bytes, check, 0);
        let sum = maker::checksum((ip.src, ip.dst), ip.proto, &bytes[l4..]);
        maker::put(&mut bytes, check, if sum == 0 && ip.proto == 17 { 0xffff } else { sum });
        segments.push([link, &bytes].concat());
    }
    segments
}
