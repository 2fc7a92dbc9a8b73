//! Frames, byte by byte: nothing here is asked of the switch's own parser or checksums.

use std::net::{Ipv4Addr, Ipv6Addr};

use switch::mac::MacAddr;
use switch::vnet::VnetHdr;

pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const IPV6: u16 = 0x86dd;
/// IEEE 802 local experimental: a payload that nobody looks into.
pub const EXPERIMENTAL: u16 = 0x88b5;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

pub fn ethernet(dst: MacAddr, src: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    tagged(dst, src, &[], ethertype, payload)
}

/// With tags `(tpid, tci)`.
pub fn tagged(dst: MacAddr, src: MacAddr, tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [dst.0, src.0].concat();
    for (tpid, tci) in tags {
        frame.extend(tpid.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// 802.3: a length in the place of the EtherType.
pub fn llc(dst: MacAddr, src: MacAddr, body: &[u8]) -> Vec<u8> {
    ethernet(dst, src, body.len() as u16, body)
}

/// LLC and SNAP in front of a payload: OUI, then protocol.
pub fn snap(oui: [u8; 3], protocol: u16, payload: &[u8]) -> Vec<u8> {
    [&[0xaa, 0xaa, 3][..], &oui, &protocol.to_be_bytes(), payload].concat()
}

/// An ARP body; 1 asks, 2 answers.
pub fn arp(operation: u16, sender: (MacAddr, Ipv4Addr), target: (MacAddr, Ipv4Addr)) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4];
    body.extend(operation.to_be_bytes());
    for (mac, ip) in [sender, target] {
        body.extend(mac.0);
        body.extend(ip.octets());
    }
    body
}

pub fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with_options(src, dst, proto, &[], payload)
}

/// `options` is a multiple of four bytes long.
pub fn ipv4_with_options(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let mut header = vec![0x40 + (header_len / 4) as u8, 0];
    header.extend(((header_len + payload.len()) as u16).to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, proto, 0, 0]);
    header.extend(src.octets());
    header.extend(dst.octets());
    header.extend(options);
    let sum = internet_checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [header, payload.to_vec()].concat()
}

pub fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hop_limit]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(payload);
    packet
}

/// Without a checksum (RFC 768), which is legal over IPv4.
pub fn udp(payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x03, 0xe8, 0x07, 0xd0]; // 1000 to 2000
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// An acknowledging segment; its checksum is left to others.
pub fn tcp(payload: &[u8]) -> Vec<u8> {
    let header = [0x03, 0xe8, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0];
    [&header[..], payload].concat()
}

/// A super-frame of untagged TCP over IPv4, to be cut into segments of `size` bytes.
pub fn tcp_super_frame(size: u16) -> VnetHdr {
    VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: VnetHdr::GSO_TCPV4,
        hdr_len: 54.into(),
        gso_size: size.into(),
        csum_start: 34.into(),
        csum_offset: 16.into(),
    }
}

/// A super-frame of untagged UDP over IPv4, to be cut into datagrams of `size` bytes.
pub fn udp_super_frame(size: u16) -> VnetHdr {
    VnetHdr {
        gso_type: VnetHdr::GSO_UDP_L4,
        hdr_len: 42.into(),
        csum_offset: 6.into(),
        ..tcp_super_frame(size)
    }
}

/// An ICMPv6 message in its IPv6 packet, checksum filled in. `body` follows the checksum field.
pub fn icmpv6(src: Ipv6Addr, dst: Ipv6Addr, kind: u8, hop_limit: u8, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0][..], body].concat();
    let pseudo =
        [&src.octets()[..], &dst.octets(), &(message.len() as u32).to_be_bytes(), &[0, 0, 0, 58]].concat();
    let sum = internet_checksum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv6(src, dst, 58, hop_limit, &message)
}

/// A neighbour advertisement (RFC 4861 section 4.4): "`target` is at `mac`".
pub fn neighbor_advertisement(src: Ipv6Addr, target: Ipv6Addr, mac: MacAddr) -> Vec<u8> {
    let body = [&[0x20, 0, 0, 0][..], &target.octets(), &[2, 1], &mac.0].concat();
    icmpv6(src, ALL_NODES, 136, 255, &body)
}

/// The answer to one that asked.
pub fn neighbor_advertisement_to(target: Ipv6Addr, asker: Ipv6Addr, mac: MacAddr) -> Vec<u8> {
    let body = [&[0x60, 0, 0, 0][..], &target.octets(), &[2, 1], &mac.0].concat();
    icmpv6(target, asker, 136, 255, &body)
}

/// A neighbour solicitation (RFC 4861 section 4.3) of a host that says where it is.
pub fn neighbor_solicitation(src: Ipv6Addr, target: Ipv6Addr, mac: MacAddr) -> Vec<u8> {
    let body = [&[0; 4][..], &target.octets(), &[1, 1], &mac.0].concat();
    icmpv6(src, solicited_node(target), 135, 255, &body)
}

/// A probe for duplicates (RFC 4862 section 5.4.2): nobody asks for `target`.
pub fn probe(target: Ipv6Addr) -> Vec<u8> {
    let body = [&[0; 4][..], &target.octets()].concat();
    icmpv6(Ipv6Addr::UNSPECIFIED, solicited_node(target), 135, 255, &body)
}

/// A router solicitation (RFC 4861 section 4.1) without options, to all routers.
pub fn router_solicitation(src: Ipv6Addr) -> Vec<u8> {
    icmpv6(src, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2), 133, 255, &[0; 4])
}

/// Over IPv6 the checksum must be there (RFC 8200 section 8.1).
pub fn udp6(src: Ipv6Addr, dst: Ipv6Addr, [from, to]: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len() as u16).to_be_bytes();
    let mut datagram = [&from.to_be_bytes()[..], &to.to_be_bytes(), &len, &[0, 0], payload].concat();
    let pseudo = [&src.octets()[..], &dst.octets(), &[0, 0], &len, &[0, 0, 0, UDP]].concat();
    let sum = internet_checksum(&[&pseudo, &datagram]);
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// A router advertisement (RFC 4861 section 4.2) without options.
pub fn router_advertisement(src: Ipv6Addr) -> Vec<u8> {
    icmpv6(src, ALL_NODES, 134, 255, &[64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0])
}

pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// 33:33 and the low 32 bits of [`ALL_NODES`] (RFC 2464 section 7).
pub const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = target.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | high & 0xff, low)
}

/// RFC 1071, over the parts in a row; each but the last has an even length.
pub fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 =
        words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
