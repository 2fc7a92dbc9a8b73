//! Frames for the tests, built by hand so that what is tested does not check itself.

use std::net::{Ipv4Addr, Ipv6Addr};

use switch::checksum::{add, pseudo, sum};
use switch::flow::Packet;
use switch::mac::MacAddr;
use switch::parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use switch::port::PortId;
use switch::vnet::VnetHdr;

use crate::Origin;

pub const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x10]);
pub const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);
pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 7);
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x10);
pub const OURS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1);
pub const FAR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 7);
pub const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

pub fn origin() -> Origin {
    Origin { mac: OUR_MAC, address: OURS.to_ipv6_mapped() }
}

pub fn origin6() -> Origin {
    Origin { address: OURS6, ..origin() }
}

pub fn ethernet(src: MacAddr, dst: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &ethertype.to_be_bytes(), payload].concat()
}

/// An IPv4 packet; `flags` is the word of flags and offset, `options` a multiple of 4.
pub fn v4(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, flags: u16, options: &[u8], l4: &[u8]) -> Vec<u8> {
    let head = 20 + options.len();
    let mut packet = vec![0x40 | (head / 4) as u8, 0x2b];
    packet.extend(u16::try_from(head + l4.len()).unwrap().to_be_bytes());
    packet.extend([0xbe, 0xef]);
    packet.extend(flags.to_be_bytes());
    packet.extend([9, proto, 0, 0]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(options);
    let check = !sum(&packet);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet.extend(l4);
    packet
}

pub fn v6(src: Ipv6Addr, dst: Ipv6Addr, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x62, 0xb0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next, hops]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(payload);
    packet
}

/// `l4` with its full checksum at `at`.
pub fn summed(src: Ipv6Addr, dst: Ipv6Addr, proto: u8, at: usize, mut l4: Vec<u8>) -> Vec<u8> {
    let header = if proto == 1 { 0 } else { pseudo(src, dst, proto, l4.len() as u32) };
    l4[at..at + 2].fill(0);
    let check = match !add(header, sum(&l4)) {
        0 if proto == 17 => 0xffff,
        check => check,
    };
    l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
    l4
}

pub fn udp(payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len() + 8).unwrap();
    [&[0x30, 0x39, 0, 53], &len.to_be_bytes()[..], &[0, 0], payload].concat()
}

/// From the host to somewhere far, whole, checksums full.
pub fn udp4(flags: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let l4 = summed(HOST.to_ipv6_mapped(), FAR.to_ipv6_mapped(), 17, 6, udp(payload));
    ethernet(HOST_MAC, OUR_MAC, ETHERTYPE_IPV4, &v4(HOST, FAR, 17, flags, options, &l4))
}

pub fn udp6(payload: &[u8]) -> Vec<u8> {
    let l4 = summed(HOST6, FAR6, 17, 6, udp(payload));
    ethernet(HOST_MAC, OUR_MAC, ETHERTYPE_IPV6, &v6(HOST6, FAR6, 17, 9, &l4))
}

pub fn tcp(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let offset = ((20 + options.len()) * 4) as u8;
    let mut l4 = vec![0x30, 0x39, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8, offset, flags, 0x10, 0, 0, 0, 0, 0];
    l4.extend(options);
    l4.extend(payload);
    l4
}

pub fn tcp4(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let l4 = summed(HOST.to_ipv6_mapped(), FAR.to_ipv6_mapped(), 6, 16, tcp(flags, options, payload));
    ethernet(HOST_MAC, OUR_MAC, ETHERTYPE_IPV4, &v4(HOST, FAR, 6, 0x4000, &[], &l4))
}

pub fn tcp6(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let l4 = summed(HOST6, FAR6, 6, 16, tcp(flags, options, payload));
    ethernet(HOST_MAC, OUR_MAC, ETHERTYPE_IPV6, &v6(HOST6, FAR6, 6, 9, &l4))
}

/// An ICMP message from the host.
pub fn icmp4(dst: Ipv4Addr, flags: u16, message: &[u8]) -> Vec<u8> {
    let l4 = summed(HOST.to_ipv6_mapped(), dst.to_ipv6_mapped(), 1, 2, message.to_vec());
    ethernet(HOST_MAC, OUR_MAC, ETHERTYPE_IPV4, &v4(HOST, dst, 1, flags, &[], &l4))
}

pub fn icmp6(src: Ipv6Addr, dst: Ipv6Addr, hops: u8, message: &[u8]) -> Vec<u8> {
    let l4 = summed(src, dst, 58, 2, message.to_vec());
    ethernet(HOST_MAC, OUR_MAC, ETHERTYPE_IPV6, &v6(src, dst, 58, hops, &l4))
}

pub fn echo(kind: u8, data: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0x12, 0x34, 0, 7], data].concat()
}

pub fn parse(frame: &[u8]) -> Packet {
    parse_with(frame, &VnetHdr::default())
}

pub fn parse_with(frame: &[u8], vnet: &VnetHdr) -> Packet {
    parse::parse(frame, vnet, PortId(3), 0).unwrap()
}

/// Asserts that every checksum in `frame` is right, and parses it.
pub fn verified(frame: &[u8]) -> Packet {
    let packet = parse(frame);
    let (meta, key) = (packet.meta, packet.key);
    assert!(crate::forward::header_verifies(frame, &meta), "header");
    let l4 = &frame[usize::from(meta.l4_off)..meta.l3_end as usize];
    let header = if key.proto == 1 { 0 } else { pseudo(key.src, key.dst, key.proto, l4.len() as u32) };
    assert_eq!(add(header, sum(l4)), 0xffff, "l4");
    packet
}
