//! Neighbour discovery as a gateway speaks it (RFC 4861), with the DNS option of RFC 8106.

use std::net::Ipv6Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Duration;
use smoltcp::wire::{
    Icmpv6Packet, Icmpv6Repr, NdiscNeighborFlags, NdiscOption, NdiscOptionRepr, NdiscPrefixInfoFlags,
    NdiscPrefixInformation, NdiscRepr, NdiscRouterFlags,
};
use switch::flow::{Body, NdKind, Packet, VlanTag};
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

/// Writes the advertisement that answers the neighbour solicitation `solicitation`, that its target is at `mac`, to
/// `out`; returns its length in bytes.
///
/// A solicitation for duplicate address detection is answered to all nodes (RFC 4861 section 7.2.4). `None` where it
/// is no neighbour solicitation, asks from a group MAC (the answer would go to everybody), or `out` is too short.
pub fn advertisement(
    solicitation: &Packet,
    mac: MacAddr,
    vlan: Option<VlanTag>,
    out: &mut [u8],
) -> Option<usize> {
    let Body::Nd(nd) = solicitation.meta.body else { return None };
    if nd.kind != NdKind::NeighborSolicitation {
        return None;
    }
    let origin = Origin { mac, address: nd.target, vlan };
    let src = solicitation.key.src;
    if src.is_unspecified() {
        return announce(&origin, out);
    }
    let to = nd.source_mac.unwrap_or(solicitation.meta.src);
    if to.is_group() {
        return None;
    }
    advertise(&origin, (src, to), NdiscNeighborFlags::SOLICITED, out)
}

/// Writes an unsolicited advertisement of our own address to `out`, to all nodes (RFC 4861 section 7.2.6); returns its
/// length in bytes. `None` where `out` is too short.
pub fn announce(origin: &Origin, out: &mut [u8]) -> Option<usize> {
    let to = (ALL_NODES, multicast_mac(ALL_NODES));
    advertise(origin, to, NdiscNeighborFlags::empty(), out)
}

fn advertise(
    origin: &Origin,
    to: (Ipv6Addr, MacAddr),
    solicited: NdiscNeighborFlags,
    out: &mut [u8],
) -> Option<usize> {
    let repr = NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE | solicited,
        target_addr: origin.address,
        lladdr: Some(hardware(origin.mac).into()),
    };
    write(origin, to, repr, out)
}

/// Writes a solicitation for the MAC of `target` to `out`: to its solicited-node group, or to the MAC `to` that is
/// known and shall be confirmed (RFC 4861 section 7.3.3); returns its length in bytes. `None` where `out` is too short
/// or `origin.address` is not IPv6.
pub fn solicitation(
    origin: &Origin,
    target: Ipv6Addr,
    to: Option<MacAddr>,
    out: &mut [u8],
) -> Option<usize> {
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
    (ip, Link { src: origin.mac, dst: mac, vlan: origin.vlan })
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
