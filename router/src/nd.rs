//! Neighbour discovery as a gateway speaks it (RFC 4861), with the DNS option of RFC 8106.

use std::net::Ipv6Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Duration;
use smoltcp::wire::{
    Icmpv6Packet, Icmpv6Repr, NdiscNeighborFlags, NdiscOption, NdiscOptionRepr, NdiscPrefixInfoFlags,
    NdiscPrefixInformation, NdiscRepr, NdiscRouterFlags,
};
use switch::flow::{Body, NdKind, Packet};
use switch::mac::MacAddr;
use switch::parse::PROTO_ICMPV6;

use crate::build::{self, Ip, Link, Origin, hardware};

/// RFC 4861 sections 6.1 and 7.1: nothing that a router has forwarded is believed.
const HOPS: u8 = 255;
/// RFC 8106 section 5.1.
const RDNSS: u8 = 25;
/// Bytes of the RDNSS option before its addresses.
const RDNSS_LEN: usize = 8;
/// Bytes of a router advertisement before its options.
const ADVERTISEMENT_LEN: usize = 16;

/// All nodes of the link (RFC 4291 section 2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// All routers of the link, to which hosts send solicitations (RFC 4291 section 2.7.1).
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// The group that everybody with the address `of` listens to (RFC 4291 section 2.7.1).
pub const fn solicited_node(of: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = of.octets();
    let (high, low) = (0xff00 | a as u16, u16::from_be_bytes([b, c]));
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, high, low)
}

/// The MAC of a multicast address (RFC 2464 section 7).
pub const fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// Who an advertisement is for: RFC 4861 section 4.4, the R flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// A router.
    Router,
    /// A host.
    Host,
}

impl Speaks {
    const fn flags(self) -> NdiscNeighborFlags {
        match self {
            Self::Router => NdiscNeighborFlags::ROUTER,
            Self::Host => NdiscNeighborFlags::empty(),
        }
    }
}

/// Writes the advertisement that answers the neighbour solicitation `solicitation`, that its target is at `mac`, to
/// `out`; returns its length in bytes.
///
/// A solicitation for duplicate address detection is answered to all nodes (RFC 4861 section 7.2.4). `None` where it
/// is no neighbour solicitation, asks from a group MAC (the answer would go to everybody), or `out` is too short.
pub fn advertisement(solicitation: &Packet, mac: MacAddr, speaks: Speaks, out: &mut [u8]) -> Option<usize> {
    let Body::Nd(nd) = solicitation.meta.body else { return None };
    if nd.kind != NdKind::NeighborSolicitation {
        return None;
    }
    let origin = Origin { mac, address: nd.target };
    let src = solicitation.key.src;
    if src.is_unspecified() {
        return advertise(&origin, everybody(), speaks.flags(), out);
    }
    let to = nd.source_mac.unwrap_or(solicitation.meta.src);
    if to.is_group() {
        return None;
    }
    advertise(&origin, (src, to), speaks.flags() | NdiscNeighborFlags::SOLICITED, out)
}

/// Writes an unsolicited advertisement of our own address to `out`, to all nodes (RFC 4861 section 7.2.6); returns its
/// length in bytes. `None` where `out` is too short.
pub fn announce(origin: &Origin, out: &mut [u8]) -> Option<usize> {
    advertise(origin, everybody(), Speaks::Router.flags(), out)
}

fn everybody() -> (Ipv6Addr, MacAddr) {
    (ALL_NODES, multicast_mac(ALL_NODES))
}

fn advertise(
    origin: &Origin,
    to: (Ipv6Addr, MacAddr),
    flags: NdiscNeighborFlags,
    out: &mut [u8],
) -> Option<usize> {
    let repr = NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE | flags,
        target_addr: origin.address,
        lladdr: Some(hardware(origin.mac).into()),
    };
    write(origin, to, repr, out)
}

/// Writes a solicitation for the MAC of `target` to `out`: to its solicited-node group, or to the MAC `to` that is
/// known and shall be confirmed (RFC 4861 section 7.3.3); returns its length in bytes. `None` where `out` is too short
/// or `origin.address` is not IPv6.
pub fn solicitation(origin: &Origin, target: Ipv6Addr, to: Option<MacAddr>, out: &mut [u8]) -> Option<usize> {
    let group = solicited_node(target);
    let to = to.map_or((group, multicast_mac(group)), |mac| (target, mac));
    let lladdr = Some(hardware(origin.mac).into());
    write(origin, to, NdiscRepr::NeighborSolicit { target_addr: target, lladdr }, out)
}

/// A prefix of a router advertisement (RFC 4861 section 4.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The prefix; bits behind `len` should be 0.
    pub address: Ipv6Addr,
    /// Its length, bits.
    pub len: u8,
    /// L: its addresses are on this link.
    pub on_link: bool,
    /// A: hosts may make addresses of it (RFC 4862).
    pub autonomous: bool,
    /// How long it is on the link, seconds.
    pub valid: u32,
    /// How long addresses made of it are preferred, seconds.
    pub preferred: u32,
}

/// What a router advertisement says. The link-layer address is always said, and that of the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertised<'a> {
    /// How long we are a default router, seconds; 0: we are none.
    pub lifetime: u16,
    /// M: addresses come by DHCPv6.
    pub managed: bool,
    /// O: other things come by DHCPv6.
    pub other: bool,
    /// MTU of the link, bytes.
    pub mtu: Option<u32>,
    /// The prefixes of the link.
    pub prefixes: &'a [Prefix],
    /// Recursive DNS servers (RFC 8106), at most 127.
    pub dns: &'a [Ipv6Addr],
    /// How long these may be used, seconds.
    pub dns_lifetime: u32,
}

/// Writes a router advertisement to `out`: to all nodes, or to the address and MAC `to` of one that solicited it
/// (RFC 4861 section 6.2.6); returns its length in bytes.
///
/// `None` where `origin.address` is not link-local (hosts would not believe it, section 6.1.2), `to` is a group MAC,
/// there are too many DNS servers, or `out` is too short.
pub fn router_advertisement(
    origin: &Origin,
    advertised: &Advertised<'_>,
    to: Option<(Ipv6Addr, MacAddr)>,
    out: &mut [u8],
) -> Option<usize> {
    if !origin.address.is_unicast_link_local() || to.is_some_and(|(_, mac)| mac.is_group()) {
        return None;
    }
    let to = to.unwrap_or((ALL_NODES, multicast_mac(ALL_NODES)));
    let options = [
        Some(NdiscOptionRepr::SourceLinkLayerAddr(hardware(origin.mac).into())),
        advertised.mtu.map(NdiscOptionRepr::Mtu),
    ];
    let prefixes = advertised.prefixes.iter().map(prefix_option);
    let options = options.into_iter().flatten().chain(prefixes);
    let dns_len = match advertised.dns.len() {
        0 => 0,
        servers => servers.checked_mul(16)?.checked_add(RDNSS_LEN)?,
    };
    let options_len = options.clone().fold(dns_len, |len, option| len.saturating_add(option.buffer_len()));
    let (ip, link) = headers(origin, to);
    let (len, message) = build::packet(out, &link, &ip, options_len.checked_add(ADVERTISEMENT_LEN)?)?;
    advertisement_header(advertised).emit(&mut Icmpv6Packet::new_unchecked(&mut *message));
    let mut rest = message.get_mut(ADVERTISEMENT_LEN..)?;
    for option in options {
        let (place, behind) = rest.split_at_mut_checked(option.buffer_len())?;
        option.emit(&mut NdiscOption::new_unchecked(place));
        rest = behind;
    }
    dns_option(advertised, rest)?;
    Icmpv6Packet::new_unchecked(message).fill_checksum(&ip.src, &ip.dst);
    Some(len)
}

/// The fixed part. Its options are written one by one: there may be many prefixes.
fn advertisement_header(advertised: &Advertised<'_>) -> NdiscRepr<'static> {
    let mut flags = NdiscRouterFlags::empty();
    flags.set(NdiscRouterFlags::MANAGED, advertised.managed);
    flags.set(NdiscRouterFlags::OTHER, advertised.other);
    NdiscRepr::RouterAdvert {
        hop_limit: build::HOPS,
        flags,
        router_lifetime: Duration::from_secs(u64::from(advertised.lifetime)),
        reachable_time: Duration::ZERO,
        retrans_time: Duration::ZERO,
        lladdr: None,
        mtu: None,
        prefix_info: None,
    }
}

fn prefix_option(prefix: &Prefix) -> NdiscOptionRepr<'static> {
    let mut flags = NdiscPrefixInfoFlags::empty();
    flags.set(NdiscPrefixInfoFlags::ON_LINK, prefix.on_link);
    flags.set(NdiscPrefixInfoFlags::ADDRCONF, prefix.autonomous);
    NdiscOptionRepr::PrefixInformation(NdiscPrefixInformation {
        prefix_len: prefix.len,
        flags,
        valid_lifetime: Duration::from_secs(u64::from(prefix.valid)),
        preferred_lifetime: Duration::from_secs(u64::from(prefix.preferred)),
        prefix: prefix.address,
    })
}

/// The RDNSS option, which smoltcp does not know, in all of `place`; nothing where there are no servers.
fn dns_option(advertised: &Advertised<'_>, place: &mut [u8]) -> Option<()> {
    if advertised.dns.is_empty() {
        return Some(());
    }
    let units = u8::try_from(place.len() / 8).ok()?;
    let (head, addresses) = place.split_first_chunk_mut::<RDNSS_LEN>()?;
    let [l0, l1, l2, l3] = advertised.dns_lifetime.to_be_bytes();
    *head = [RDNSS, units, 0, 0, l0, l1, l2, l3];
    for (slot, server) in addresses.chunks_exact_mut(16).zip(advertised.dns) {
        slot.copy_from_slice(&server.octets());
    }
    Some(())
}

fn headers(origin: &Origin, (dst, mac): (Ipv6Addr, MacAddr)) -> (Ip, Link) {
    let ip = Ip { src: origin.address, dst, proto: PROTO_ICMPV6, tos: 0, hops: HOPS };
    (ip, Link { src: origin.mac, dst: mac })
}

fn write(origin: &Origin, to: (Ipv6Addr, MacAddr), repr: NdiscRepr<'_>, out: &mut [u8]) -> Option<usize> {
    // Two v4-mapped addresses would make an IPv4 header.
    if origin.address.to_ipv4_mapped().is_some() {
        return None;
    }
    let (ip, link) = headers(origin, to);
    let (len, message) = build::packet(out, &link, &ip, repr.buffer_len())?;
    let mut packet = Icmpv6Packet::new_unchecked(message);
    Icmpv6Repr::Ndisc(repr).emit(&ip.src, &ip.dst, &mut packet, &ChecksumCapabilities::default());
    Some(len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use switch::flow::Nd;

    use super::*;
    use crate::testing::{
        HOST_MAC, HOST6, LINK_LOCAL, OUR_MAC, OURS6, icmp6, origin, origin6, parse, verified,
    };

    /// What `write` writes, as the parser reads it: checksum, hop limit and options are the parser's conditions.
    fn written(write: impl Fn(&mut [u8]) -> Option<usize>) -> (Vec<u8>, Packet, Nd) {
        let mut out = [0xa5; 3000];
        let len = write(&mut out).unwrap();
        assert_eq!(write(&mut [0xa5; 3000][..len - 1]), None, "one byte too few");
        let packet = verified(&out[..len]);
        assert_eq!(packet.meta.l3_end, packet.meta.frame_len);
        let Body::Nd(nd) = packet.meta.body else { panic!("no ND: {packet:?}") };
        (out[..len].to_vec(), packet, nd)
    }

    fn ask(src: Ipv6Addr, dst: Ipv6Addr, option: &[u8]) -> Packet {
        let message = [&[135, 0, 0, 0, 0, 0, 0, 0], &OURS6.octets()[..], option].concat();
        parse(&icmp6(src, dst, 255, &message))
    }

    const SOURCE: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 0x77];

    #[test]
    fn who_asks_is_told() {
        let group = solicited_node(OURS6);
        for (option, to) in [(&SOURCE[..], MacAddr([2, 0, 0, 0, 0, 0x77])), (&[], HOST_MAC)] {
            let question = ask(HOST6, group, option);
            let (_, packet, nd) = written(|out| advertisement(&question, OUR_MAC, Speaks::Router, out));
            assert_eq!((packet.meta.src, packet.meta.dst), (OUR_MAC, to));
            assert_eq!((packet.key.src, packet.key.dst), (OURS6, HOST6));
            assert_eq!((nd.kind, nd.target, nd.flags), (NdKind::NeighborAdvertisement, OURS6, 0xe0));
            assert_eq!(nd.target_mac, Some(OUR_MAC));
        }
    }

    #[test]
    fn a_probe_for_duplicates_is_answered_to_all() {
        let question = ask(Ipv6Addr::UNSPECIFIED, solicited_node(OURS6), &[]);
        let (_, packet, nd) = written(|out| advertisement(&question, OUR_MAC, Speaks::Router, out));
        assert_eq!((packet.key.dst, packet.meta.dst), (ALL_NODES, MacAddr([0x33, 0x33, 0, 0, 0, 1])));
        assert_eq!((nd.flags, nd.target_mac), (0xa0, Some(OUR_MAC)));
        let (_, again, nd_again) = written(|out| announce(&origin6(), out));
        assert_eq!((again.key.dst, nd_again), (ALL_NODES, nd));
    }

    #[test]
    fn an_answer_never_goes_to_a_group() {
        let question = ask(HOST6, solicited_node(OURS6), &[1, 1, 0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(advertisement(&question, OUR_MAC, Speaks::Router, &mut [0; 200]), None);
        let echo = parse(&icmp6(HOST6, OURS6, 9, &crate::testing::echo(128, &[])));
        assert_eq!(advertisement(&echo, OUR_MAC, Speaks::Router, &mut [0; 200]), None);
    }

    #[test]
    fn solicitations_go_to_the_group_or_the_known_mac() {
        let target: Ipv6Addr = "fd00:1::aabb:ccdd".parse().unwrap();
        let (_, packet, nd) = written(|out| solicitation(&origin6(), target, None, out));
        assert_eq!(packet.key.dst, "ff02::1:ffbb:ccdd".parse::<Ipv6Addr>().unwrap());
        assert_eq!(packet.meta.dst, MacAddr([0x33, 0x33, 0xff, 0xbb, 0xcc, 0xdd]));
        assert_eq!(
            (nd.kind, nd.target, nd.source_mac),
            (NdKind::NeighborSolicitation, target, Some(OUR_MAC))
        );
        let (_, packet, _) = written(|out| solicitation(&origin6(), target, Some(HOST_MAC), out));
        assert_eq!((packet.key.dst, packet.meta.dst), (target, HOST_MAC));
        assert_eq!(solicitation(&origin(), target, None, &mut [0; 200]), None);
    }

    fn link_local() -> Origin {
        Origin { address: LINK_LOCAL, ..origin6() }
    }

    const PREFIX: Prefix = Prefix {
        address: Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0),
        len: 64,
        on_link: true,
        autonomous: true,
        valid: 86_400,
        preferred: 14_400,
    };

    const ADVERTISED: Advertised<'_> = Advertised {
        lifetime: 1800,
        managed: false,
        other: true,
        mtu: Some(1400),
        prefixes: &[PREFIX],
        dns: &[OURS6],
        dns_lifetime: 3600,
    };

    #[test]
    fn a_router_advertisement_byte_for_byte() {
        let (frame, packet, nd) = written(|out| router_advertisement(&link_local(), &ADVERTISED, None, out));
        assert_eq!((packet.key.src, packet.key.dst), (LINK_LOCAL, ALL_NODES));
        assert_eq!(packet.meta.ttl, 255);
        assert_eq!((nd.kind, nd.source_mac), (NdKind::RouterAdvertisement, Some(OUR_MAC)));
        let expected = [
            &[64, 0x40, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[1, 1, 2, 0, 0, 0, 0, 1],
            &[5, 1, 0, 0, 0, 0, 5, 120],
            &[3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0],
            &PREFIX.address.octets(),
            &[25, 3, 0, 0, 0, 0, 14, 16],
            &OURS6.octets(),
        ]
        .concat();
        assert_eq!(frame[14 + 40 + 4..], expected);
    }

    #[test]
    fn who_solicits_may_be_told_alone() {
        let to = Some((HOST6, HOST_MAC));
        let (_, packet, _) = written(|out| router_advertisement(&link_local(), &ADVERTISED, to, out));
        assert_eq!((packet.key.dst, packet.meta.dst), (HOST6, HOST_MAC));
        let group = Some((HOST6, MacAddr::BROADCAST));
        assert_eq!(router_advertisement(&link_local(), &ADVERTISED, group, &mut [0; 500]), None);
        assert_eq!(router_advertisement(&origin6(), &ADVERTISED, None, &mut [0; 500]), None);
    }

    proptest! {
        #[test]
        fn any_number_of_options(prefixes in 0usize..20, dns in 0usize..130, mtu: Option<u32>) {
            let prefixes = vec![PREFIX; prefixes];
            let servers = vec![OURS6; dns];
            let advertised = Advertised { mtu, prefixes: &prefixes, dns: &servers, ..ADVERTISED };
            let mut out = [0xa5; 4000];
            let len = router_advertisement(&link_local(), &advertised, None, &mut out);
            prop_assert_eq!(len.is_some(), dns < 128);
            if let Some(len) = len {
                verified(&out[..len]);
            }
        }
    }
}
