//! What a querier says: IGMPv3 (RFC 3376 section 4.1) and MLDv2 (RFC 3810 section 5.1) queries.
//!
//! Of these versions only: hosts of older ones read the first 8 (24) bytes, which are a query of theirs (RFC 3376 section
//! 7.2.1, RFC 3810 section 8.2.1), where a query of version 2 would have the newer hosts fall back and lose their source
//! lists.

use std::net::{Ipv4Addr, Ipv6Addr};

use switch::checksum;
use switch::groups::{LAST_QUERY, QUERY_INTERVAL, RESPONSE_INTERVAL};
use switch::mac::MacAddr;
use switch::parse::{ETHERTYPE_IPV4, PROTO_ICMPV6, PROTO_IGMP};

use crate::Origin;
use crate::build::{self, Ip, Link};
use crate::nd::{ALL_NODES, multicast_mac};

/// All hosts.
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// Queries that a host may miss (RFC 3376 section 8.1); the flag S is 0.
const ROBUSTNESS: u8 = 2;
/// Internet control (RFC 3376 section 4).
const TOS: u8 = 0xc0;
const V4_HEADER: usize = 24;
const IGMP_LEN: usize = 12;
const HOP_BY_HOP_LEN: usize = 8;
const MLD_LEN: usize = 28;

/// The MAC of an IPv4 group (RFC 1112 section 6.4).
const fn multicast_mac_v4(group: Ipv4Addr) -> MacAddr {
    let [_, a, b, c] = group.octets();
    MacAddr([0x01, 0x00, 0x5e, a & 0x7f, b, c])
}

/// Writes a query of `origin` to `out`: who listens to what, or who to `group`; returns its length in bytes. The family
/// is that of `origin`.
///
/// `None` where `group` is of the other family, or `out` is too short.
pub fn query(origin: &Origin, group: Option<Ipv6Addr>, out: &mut [u8]) -> Option<usize> {
    match origin.address.to_ipv4_mapped() {
        Some(address) => {
            let group = match group {
                Some(group) => Some(group.to_ipv4_mapped()?),
                None => None,
            };
            igmp(origin.mac, address, group, out)
        }
        None if group.is_some_and(|group| group.to_ipv4_mapped().is_some()) => None,
        None => mld(origin, group, out),
    }
}

/// In how many seconds a query is to be answered.
const fn response(specific: bool) -> u32 {
    // RFC 3376 section 8.8: to one about a group in half of what the group has left.
    if specific { LAST_QUERY / 2 } else { RESPONSE_INTERVAL }
}

fn igmp(mac: MacAddr, src: Ipv4Addr, group: Option<Ipv4Addr>, out: &mut [u8]) -> Option<usize> {
    let dst = group.unwrap_or(ALL_HOSTS);
    let link = Link { src: mac, dst: multicast_mac_v4(dst) };
    let (len, packet) = build::ethernet(out, &link, ETHERTYPE_IPV4, V4_HEADER + IGMP_LEN)?;
    let (header, message) = packet.split_first_chunk_mut::<V4_HEADER>()?;
    let [s0, s1, s2, s3] = src.octets();
    let [d0, d1, d2, d3] = dst.octets();
    let total = (V4_HEADER + IGMP_LEN) as u8;
    // TTL 1, and the Router Alert option (RFC 2113).
    let (df, proto) = (0x40, PROTO_IGMP);
    *header =
        [0x46, TOS, 0, total, 0, 0, df, 0, 1, proto, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3, 0x94, 4, 0, 0];
    let check = !checksum::sum(header);
    *build::field(header, 10)? = check.to_be_bytes();
    let [g0, g1, g2, g3] = group.unwrap_or(Ipv4Addr::UNSPECIFIED).octets();
    let tenths = (response(group.is_some()) * 10) as u8;
    *message.first_chunk_mut::<IGMP_LEN>()? =
        [0x11, tenths, 0, 0, g0, g1, g2, g3, ROBUSTNESS, QUERY_INTERVAL as u8, 0, 0];
    let check = !checksum::sum(message);
    *build::field(message, 2)? = check.to_be_bytes();
    Some(len)
}

fn mld(origin: &Origin, group: Option<Ipv6Addr>, out: &mut [u8]) -> Option<usize> {
    let dst = group.unwrap_or(ALL_NODES);
    let link = Link { src: origin.mac, dst: multicast_mac(dst) };
    // Hop-by-hop, since a router must look at it (RFC 2711).
    let ip = Ip { src: origin.address, dst, proto: 0, tos: TOS, hops: 1 };
    let (len, packet) = build::packet(out, &link, &ip, HOP_BY_HOP_LEN + MLD_LEN)?;
    let (options, message) = packet.split_first_chunk_mut::<HOP_BY_HOP_LEN>()?;
    *options = [PROTO_ICMPV6, 0, 5, 2, 0, 0, 1, 0];
    let (head, rest) = message.split_first_chunk_mut::<8>()?;
    let [m0, m1] = ((response(group.is_some()) * 1000) as u16).to_be_bytes();
    *head = [130, 0, 0, 0, m0, m1, 0, 0];
    let (about, tail) = rest.split_first_chunk_mut::<16>()?;
    *about = group.unwrap_or(Ipv6Addr::UNSPECIFIED).octets();
    *tail.first_chunk_mut::<4>()? = [ROBUSTNESS, QUERY_INTERVAL as u8, 0, 0];
    let pseudo = checksum::pseudo(origin.address, dst, PROTO_ICMPV6, MLD_LEN as u32);
    let check = !checksum::add(pseudo, checksum::sum(message));
    *build::field(message, 2)? = check.to_be_bytes();
    Some(len)
}

#[cfg(test)]
mod tests {
    use switch::flow::{Body, Group, GroupKind};

    use super::*;
    use crate::testing::{OUR_MAC, OURS, origin, parse};

    #[test]
    fn a_query_is_what_the_parser_takes_for_one() {
        let v6 = Origin { address: OUR_MAC.link_local(), ..origin() };
        let group4 = Ipv4Addr::new(239, 129, 2, 3);
        let group6: Ipv6Addr = "ff05::1:3".parse().unwrap();
        let mut out = [0xff; 128];
        for (origin, group, dst, mac) in [
            (origin(), None, ALL_HOSTS.to_ipv6_mapped(), [1, 0, 0x5e, 0, 0, 1]),
            (origin(), Some(group4.to_ipv6_mapped()), group4.to_ipv6_mapped(), [1, 0, 0x5e, 1, 2, 3]),
            (v6, None, ALL_NODES, [0x33, 0x33, 0, 0, 0, 1]),
            (v6, Some(group6), group6, [0x33, 0x33, 0, 1, 0, 3]),
        ] {
            let len = query(&origin, group, &mut out).unwrap();
            let packet = parse(&out[..len]);
            let group = group.unwrap_or(Ipv6Addr::UNSPECIFIED);
            assert_eq!(packet.meta.body, Body::Group(Group { kind: GroupKind::Query, group }));
            assert_eq!((packet.key.src, packet.key.dst), (origin.address, dst));
            assert_eq!((packet.meta.dst, packet.meta.src, packet.meta.ttl), (MacAddr(mac), OUR_MAC, 1));
            assert_eq!(query(&origin, None, &mut out[..40]), None, "no room");
        }
        assert_eq!(query(&origin(), Some(group6), &mut out), None);
        assert_eq!(query(&v6, Some(group4.to_ipv6_mapped()), &mut out), None);
        assert_eq!(OURS.to_ipv6_mapped(), origin().address);
    }
}
