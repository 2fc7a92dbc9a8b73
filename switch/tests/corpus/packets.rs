//! Frames built with `pnet_packet`, so that the parser is not tested against its own idea of a packet.

use std::net::{Ipv4Addr, Ipv6Addr};

use pnet_packet::icmp::{IcmpPacket, MutableIcmpPacket};
use pnet_packet::icmpv6::{Icmpv6Packet, MutableIcmpv6Packet};
use pnet_packet::ip::IpNextHeaderProtocol;
use pnet_packet::ipv4::{Ipv4Packet, MutableIpv4Packet};
use pnet_packet::ipv6::MutableIpv6Packet;
use pnet_packet::tcp::{MutableTcpPacket, TcpPacket};
use pnet_packet::udp::{MutableUdpPacket, UdpPacket};
use pnet_packet::{icmp, icmpv6, ipv4, tcp, udp};
use switch::vnet::VnetHdr;

pub const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
pub const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
pub const A4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);
pub const B4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 11);
pub const A6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa);
pub const B6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xb);
pub const SPORT: u16 = 40000;
pub const DPORT: u16 = 80;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const ACK: u8 = 0x10;

/// Ethernet with tags `(tpid, tci)`, from A to B.
pub fn tagged(tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [MAC_B, MAC_A].concat();
    for (tpid, tci) in tags {
        frame.extend(tpid.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Untagged Ethernet, with the EtherType of the IP version.
pub fn ethernet(ip: &[u8]) -> Vec<u8> {
    let ethertype = if ip.first().is_some_and(|first| first >> 4 == 6) { 0x86dd } else { 0x0800 };
    tagged(&[], ethertype, ip)
}

/// 802.3 with the length of `payload` and LLC/SNAP in front of it.
pub fn snap(oui: [u8; 3], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = vec![0xaa, 0xaa, 3];
    body.extend(oui);
    body.extend(ethertype.to_be_bytes());
    body.extend(payload);
    tagged(&[], body.len() as u16, &body)
}

/// What may differ in an IPv4 header.
#[derive(Clone, Copy)]
pub struct V4<'a> {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub options: &'a [u8],
    /// Flags and offset, as on the wire.
    pub fragment: u16,
    pub id: u16,
}

impl V4<'_> {
    pub const PLAIN: V4<'static> = V4 { src: A4, dst: B4, options: &[], fragment: 0x4000, id: 7 };

    pub fn build(self, proto: u8, payload: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let mut bytes = vec![0; header_len + payload.len()];
        let len = bytes.len();
        let mut ip = MutableIpv4Packet::new(&mut bytes).unwrap();
        ip.set_version(4);
        ip.set_header_length((header_len / 4) as u8);
        ip.set_total_length(len as u16);
        ip.set_identification(self.id);
        ip.set_flags((self.fragment >> 13) as u8);
        ip.set_fragment_offset(self.fragment & 0x1fff);
        ip.set_ttl(64);
        ip.set_next_level_protocol(IpNextHeaderProtocol::new(proto));
        ip.set_source(self.src);
        ip.set_destination(self.dst);
        bytes[20..header_len].copy_from_slice(self.options);
        bytes[header_len..].copy_from_slice(payload);
        let check = ipv4::checksum(&Ipv4Packet::new(&bytes).unwrap());
        MutableIpv4Packet::new(&mut bytes).unwrap().set_checksum(check);
        bytes
    }
}

pub fn ipv4(proto: u8, payload: &[u8]) -> Vec<u8> {
    V4::PLAIN.build(proto, payload)
}

/// IPv6 from A to `dst` with hop limit 255.
pub fn ipv6_to(dst: Ipv6Addr, src: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 40 + payload.len()];
    let mut ip = MutableIpv6Packet::new(&mut bytes).unwrap();
    ip.set_version(6);
    ip.set_payload_length(payload.len() as u16);
    ip.set_next_header(IpNextHeaderProtocol::new(next));
    ip.set_hop_limit(255);
    ip.set_source(src);
    ip.set_destination(dst);
    ip.set_payload(payload);
    bytes
}

pub fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    ipv6_to(B6, A6, next, payload)
}

/// TCP with 12 bytes of options (timestamps), no checksum yet.
pub fn tcp(flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 32 + payload.len()];
    let mut packet = MutableTcpPacket::new(&mut bytes).unwrap();
    packet.set_source(SPORT);
    packet.set_destination(DPORT);
    packet.set_sequence(0xffff_ff00);
    packet.set_acknowledgement(0x1234_5678);
    packet.set_data_offset(8);
    packet.set_flags(flags);
    packet.set_window(502);
    bytes[20..32].copy_from_slice(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    bytes[32..].copy_from_slice(payload);
    bytes
}

pub fn udp(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8 + payload.len()];
    let len = bytes.len();
    let mut packet = MutableUdpPacket::new(&mut bytes).unwrap();
    packet.set_source(SPORT);
    packet.set_destination(DPORT);
    packet.set_length(len as u16);
    packet.set_payload(payload);
    bytes
}

/// The full checksum of a TCP or UDP packet whose field is still anything, by `pnet_packet`.
pub fn reference_l4(src: Ipv6Addr, dst: Ipv6Addr, proto: u8, l4: &[u8]) -> u16 {
    let mut l4 = l4.to_vec();
    let field = if proto == TCP { 16 } else { 6 };
    l4[field..field + 2].fill(0);
    let value = match (proto, src.to_ipv4_mapped(), dst.to_ipv4_mapped()) {
        (TCP, Some(src), Some(dst)) => tcp::ipv4_checksum(&TcpPacket::new(&l4).unwrap(), &src, &dst),
        (TCP, ..) => tcp::ipv6_checksum(&TcpPacket::new(&l4).unwrap(), &src, &dst),
        (_, Some(src), Some(dst)) => udp::ipv4_checksum(&UdpPacket::new(&l4).unwrap(), &src, &dst),
        _ => udp::ipv6_checksum(&UdpPacket::new(&l4).unwrap(), &src, &dst),
    };
    // RFC 768, which `pnet_packet` leaves to its user.
    if proto == UDP && value == 0 { 0xffff } else { value }
}

/// The pseudo-header's sum, computed slowly.
pub fn reference_pseudo(src: Ipv6Addr, dst: Ipv6Addr, proto: u8, len: usize) -> u16 {
    let mut bytes = match (src.to_ipv4_mapped(), dst.to_ipv4_mapped()) {
        (Some(src), Some(dst)) => [src.octets(), dst.octets()].concat(),
        _ => [src.octets(), dst.octets()].concat(),
    };
    bytes.extend((len as u32).to_be_bytes());
    bytes.extend([0, proto]);
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// ICMP with its checksum.
pub fn icmp(kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&[kind, code, 0, 0], &rest[..], payload].concat();
    let check = icmp::checksum(&IcmpPacket::new(&bytes).unwrap());
    MutableIcmpPacket::new(&mut bytes).unwrap().set_checksum(check);
    bytes
}

/// ICMPv6 between `src` and `dst`, with its checksum.
pub fn icmpv6(src: Ipv6Addr, dst: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let mut bytes = message.to_vec();
    let check = icmpv6::checksum(&Icmpv6Packet::new(&bytes).unwrap(), &src, &dst);
    MutableIcmpv6Packet::new(&mut bytes).unwrap().set_checksum(check);
    bytes
}

/// A frame with the virtio header that came before it.
#[derive(Clone, Debug)]
pub struct Offloaded {
    pub vnet: VnetHdr,
    pub frame: Vec<u8>,
}

/// TCP or UDP between `src` and `dst` as a TAP hands it over: the checksum partial, `gso_size` set where it is not 0.
pub fn offloaded(src: Ipv6Addr, dst: Ipv6Addr, l4: &[u8], proto: u8, gso_size: u16) -> Offloaded {
    let mut l4 = l4.to_vec();
    let field: u16 = if proto == TCP { 16 } else { 6 };
    let pseudo = reference_pseudo(src, dst, proto, l4.len());
    l4[usize::from(field)..usize::from(field) + 2].copy_from_slice(&pseudo.to_be_bytes());
    let v4 = src.to_ipv4_mapped().zip(dst.to_ipv4_mapped());
    let ip = match v4 {
        Some((src, dst)) => V4 { src, dst, ..V4::PLAIN }.build(proto, &l4),
        None => ipv6_to(dst, src, proto, &l4),
    };
    let kind = match (gso_size, proto, v4) {
        (0, ..) => VnetHdr::GSO_NONE,
        (_, TCP, Some(_)) => VnetHdr::GSO_TCPV4,
        (_, TCP, None) => VnetHdr::GSO_TCPV6,
        _ => VnetHdr::GSO_UDP_L4,
    };
    let vnet = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: kind,
        hdr_len: 0.into(),
        gso_size: gso_size.into(),
        csum_start: ((14 + ip.len() - l4.len()) as u16).into(),
        csum_offset: field.into(),
    };
    Offloaded { vnet, frame: ethernet(&ip) }
}

/// Bytes that are all different for a while.
pub fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) >> 3) as u8).collect()
}
