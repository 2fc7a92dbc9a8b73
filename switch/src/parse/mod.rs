//! The one canonical parser: bytes to [`Packet`], for every feature of the switch.
//!
//! It is the only code that reads untrusted lengths, so what one feature refuses, no other can be made to see
//! differently: VLAN 0, LLC/SNAP, IPv4 options, extension headers and fragments are resolved here once
//! (CVE-2021-27853, -27854, -27861, -27862). What it cannot make sense of has a named [`DropReason`].
//!
//! It runs for every packet: no allocation, no recursion, every read is a checked `first_chunk`.

pub mod group;
mod ip;
mod l4;
mod nd;
mod offload;

use std::net::Ipv4Addr;

use crate::drop::DropReason;
use crate::flow::{Arp, Body, FlowKey, Fragment, L3, Meta, Packet, VlanTag};
use crate::mac::MacAddr;
use crate::port::PortId;
use crate::vnet::VnetHdr;

use ip::Net;
use l4::L4;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Protocol number of ICMP.
pub const PROTO_ICMP: u8 = 1;
/// Protocol number of IGMP.
pub const PROTO_IGMP: u8 = 2;
/// Protocol number of TCP.
pub const PROTO_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTO_UDP: u8 = 17;
/// Protocol number of ICMPv6.
pub const PROTO_ICMPV6: u8 = 58;
/// Protocol number of PIM.
pub const PROTO_PIM: u8 = 103;
/// Protocol number of SCTP.
pub const PROTO_SCTP: u8 = 132;

/// Bytes of an Ethernet header without tags.
const ETHERNET_LEN: usize = 14;
/// IEEE 802.3-2018 section 3.2.6: from here on the field is an EtherType, up to 1500 it is a length.
const ETHERTYPE_MIN: u16 = 0x0600;
const LENGTH_MAX: u16 = 1500;

/// Parses one frame.
///
/// `frame` starts at the Ethernet header, `vnet` is the virtio header that came before it; `port` and `zone` are only
/// carried into the result. Bytes behind the IP packet (Ethernet padding) are allowed and not looked at. The IPv4
/// header checksum and L4 checksums are not verified; that of neighbour discovery is, because RFC 4861 makes it a
/// condition of believing the message, and those of messages about groups are, for who snoops (RFC 4541).
///
/// # Errors
/// The reason to drop the frame: truncated, contradicting itself, or with offload fields that contradict it.
pub fn parse(frame: &[u8], vnet: &VnetHdr, port: PortId, zone: u16) -> Result<Packet, DropReason> {
    let input = Input { frame, vnet, port, zone };
    let link = Link::untagged(frame)?;
    match link.ethertype {
        ETHERTYPE_IPV4 => transport(input, link, ip::v4(frame, link.payload, link.end)?),
        ETHERTYPE_IPV6 => transport(input, link, ip::v6(frame, link.payload, link.end)?),
        _ => general(frame, vnet, port, zone),
    }
}

/// What [`parse`] was given.
#[derive(Clone, Copy)]
struct Input<'a> {
    frame: &'a [u8],
    vnet: &'a VnetHdr,
    port: PortId,
    zone: u16,
}

/// Whole TCP and UDP packets, untagged: nearly all there are. The steps are those of [`general`], all inlined, and
/// nothing between them has an address. (Values that pass through memory in one width and out in another stall the
/// processor for longer than all the parsing takes.)
#[inline(always)]
fn transport(input: Input<'_>, link: Link, net: Net) -> Result<Packet, DropReason> {
    let packet = input.frame.get(..net.end).ok_or(DropReason::MalformedL4)?;
    match (net.proto, net.fragment) {
        (PROTO_TCP, Fragment::No) => assemble(input, link, net, l4::tcp(packet, net.l4_off)?),
        (PROTO_UDP, Fragment::No) => assemble(input, link, net, l4::udp(packet, net.l4_off, false)?),
        _ => general(input.frame, input.vnet, input.port, input.zone),
    }
}

/// Every packet, from the start.
#[inline(never)]
fn general(frame: &[u8], vnet: &VnetHdr, port: PortId, zone: u16) -> Result<Packet, DropReason> {
    let input = Input { frame, vnet, port, zone };
    let mut link = Link::untagged(frame)?;
    if is_tag(link.ethertype) {
        link.tags(frame)?;
    }
    if link.ethertype < ETHERTYPE_MIN {
        link.llc(frame)?;
    }
    let net = match link.ethertype {
        ETHERTYPE_IPV4 => ip::v4(frame, link.payload, link.end)?,
        ETHERTYPE_IPV6 => ip::v6(frame, link.payload, link.end)?,
        ETHERTYPE_ARP => {
            let (net, l4) = arp(frame, &link)?;
            return assemble(input, link, net, l4);
        }
        _ => {
            let net = Net::none(L3::Other, link.payload, link.end);
            return assemble(input, link, net, L4::none(link.payload));
        }
    };
    let mut l4 = l4::parse(frame, &net, zone)?;
    if group::is_about_groups(&net, l4.dport) {
        l4.body = group::parse(frame, link.payload, &net);
    }
    assemble(input, link, net, l4)
}

#[inline(always)]
fn assemble(input: Input<'_>, link: Link, net: Net, l4: L4) -> Result<Packet, DropReason> {
    let (gso, csum) = offload::validate(input.vnet, input.frame.len(), link.llc, net, l4)?;
    // Only a chain of IPv6 extension headers of nearly 64 KiB does not fit.
    let short = |offset: usize| u16::try_from(offset).map_err(|_| DropReason::MalformedIpv6);
    let long = |offset: usize| u32::try_from(offset).map_err(|_| DropReason::OversizedRead);
    Ok(Packet {
        key: FlowKey {
            zone: input.zone,
            proto: net.proto,
            src: net.src,
            dst: net.dst,
            sport: l4.sport,
            dport: l4.dport,
        },
        meta: Meta {
            port: input.port,
            dst: link.dst,
            src: link.src,
            vid: link.vlan.map_or(0, VlanTag::vid),
            vlan: link.vlan,
            inner_vlan: link.inner_vlan,
            ethertype: link.ethertype,
            l3: net.l3,
            l3_off: short(link.payload)?,
            l4_off: short(net.l4_off)?,
            headers_len: short(l4.headers_end)?,
            frame_len: long(input.frame.len())?,
            l3_end: long(net.end)?,
            ttl: net.ttl,
            tos: net.tos,
            df: net.df,
            fragment: net.fragment,
            fragment_id: net.fragment_id,
            gso,
            csum,
            tcp: l4.tcp,
            body: l4.body,
        },
    })
}

/// `N` bytes at `at`, if they are all there.
#[inline]
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}

/// The frame up to its payload.
#[derive(Clone, Copy)]
struct Link {
    dst: MacAddr,
    src: MacAddr,
    vlan: Option<VlanTag>,
    inner_vlan: Option<VlanTag>,
    ethertype: u16,
    /// Offset of the payload.
    payload: usize,
    /// End of the payload: of the frame, or where an 802.3 length ends it.
    end: usize,
    /// Whether an 802.3 length and LLC stand before the payload.
    llc: bool,
}

impl Link {
    /// The Ethernet header, as if neither tag nor 802.3 length followed.
    #[inline(always)]
    fn untagged(frame: &[u8]) -> Result<Self, DropReason> {
        let header: &[u8; ETHERNET_LEN] = frame.first_chunk().ok_or(DropReason::TruncatedFrame)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        Ok(Self {
            dst: MacAddr([d0, d1, d2, d3, d4, d5]),
            src: MacAddr([s0, s1, s2, s3, s4, s5]),
            vlan: None,
            inner_vlan: None,
            ethertype: u16::from_be_bytes([t0, t1]),
            payload: ETHERNET_LEN,
            end: frame.len(),
            llc: false,
        })
    }

    /// Walks one or two tags.
    fn tags(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        let outer = self.tag(frame)?;
        self.vlan = Some(outer);
        if !is_tag(self.ethertype) {
            return Ok(());
        }
        // A priority tag says "untagged", so the tag behind it would be the one that counts, for a receiver but not
        // for a filter that reads the outer one (CVE-2021-27853). Nobody sends this for a good reason.
        if outer.vid() == 0 {
            return Err(DropReason::BadVlan);
        }
        self.inner_vlan = Some(self.tag(frame)?);
        if is_tag(self.ethertype) { Err(DropReason::BadVlan) } else { Ok(()) }
    }

    /// Steps over one tag, whose TPID is in `ethertype`.
    fn tag(&mut self, frame: &[u8]) -> Result<VlanTag, DropReason> {
        let &[c0, c1, t0, t1] = array(frame, self.payload).ok_or(DropReason::TruncatedFrame)?;
        let tag = VlanTag { tpid: self.ethertype, tci: u16::from_be_bytes([c0, c1]) };
        // IEEE 802.1Q-2018 table 9-2: 0xfff is reserved and never on the wire.
        if tag.vid() == 0x0fff {
            return Err(DropReason::BadVlan);
        }
        self.ethertype = u16::from_be_bytes([t0, t1]);
        self.payload = self.payload.saturating_add(4);
        Ok(tag)
    }

    /// 802.3 length, LLC, and SNAP where it wraps an EtherType.
    fn llc(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        let length = self.ethertype;
        let end = self.payload.saturating_add(usize::from(length));
        if length > LENGTH_MAX || end > frame.len() {
            return Err(DropReason::BadLength);
        }
        (self.ethertype, self.end, self.llc) = (0, end, true);
        let body = frame.get(self.payload..end).ok_or(DropReason::TruncatedFrame)?;
        let &[dsap, ssap, control] = body.first_chunk().ok_or(DropReason::TruncatedFrame)?;
        if [dsap, ssap, control] != [0xaa, 0xaa, 0x03] {
            return Ok(());
        }
        // IEEE 802-2014 section 9.2: OUI and protocol identifier. OUI 00-00-00 (RFC 1042) and 00-00-f8 (802.1H) carry
        // an EtherType, so what is inside is the same ARP or IP as without the wrapping (CVE-2021-27854, -27861).
        let &[_, _, _, o0, o1, o2, t0, t1] = body.first_chunk().ok_or(DropReason::TruncatedFrame)?;
        let ethertype = u16::from_be_bytes([t0, t1]);
        if !matches!([o0, o1, o2], [0, 0, 0] | [0, 0, 0xf8]) || ethertype < ETHERTYPE_MIN {
            return Ok(());
        }
        // A tag inside SNAP would be a third place to hide a VLAN in.
        if is_tag(ethertype) {
            return Err(DropReason::BadVlan);
        }
        self.ethertype = ethertype;
        self.payload = self.payload.saturating_add(8);
        Ok(())
    }
}

/// Whether the type names a VLAN tag: C-tag, S-tag, and the S-tag from before 802.1ad.
const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100)
}

/// ARP for Ethernet and IPv4 (RFC 826), requests and replies; nothing else has a business here.
fn arp(frame: &[u8], link: &Link) -> Result<(Net, L4), DropReason> {
    const LEN: usize = 28;
    const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let end = link.payload.saturating_add(LEN);
    if end > link.end {
        return Err(DropReason::MalformedArp);
    }
    let body: &[u8; LEN] = array(frame, link.payload).ok_or(DropReason::MalformedArp)?;
    let (fixed, rest) = body.split_first_chunk::<6>().ok_or(DropReason::MalformedArp)?;
    let (operation, rest) = rest.split_first_chunk::<2>().ok_or(DropReason::MalformedArp)?;
    let (sender, target) = rest.split_first_chunk::<10>().ok_or(DropReason::MalformedArp)?;
    let target: &[u8; 10] = target.first_chunk().ok_or(DropReason::MalformedArp)?;
    let operation = u16::from_be_bytes(*operation);
    if *fixed != ETHERNET_IPV4 || !matches!(operation, 1 | 2) {
        return Err(DropReason::MalformedArp);
    }
    let pair = |&[m0, m1, m2, m3, m4, m5, a, b, c, d]: &[u8; 10]| {
        (MacAddr([m0, m1, m2, m3, m4, m5]), Ipv4Addr::new(a, b, c, d))
    };
    let ((sender_mac, sender_ip), (target_mac, target_ip)) = (pair(sender), pair(target));
    let body = Body::Arp(Arp { operation, sender_mac, sender_ip, target_mac, target_ip });
    Ok((Net::none(L3::Arp, link.payload, end), L4 { body, ..L4::none(link.payload) }))
}

impl Net {
    /// What stands in the place of an IP header where there is none.
    fn none(l3: L3, at: usize, end: usize) -> Self {
        Self {
            l3,
            src: FlowKey::NONE.src,
            dst: FlowKey::NONE.dst,
            proto: FlowKey::NONE.proto,
            l4_off: at,
            end,
            ttl: 0,
            tos: 0,
            df: false,
            fragment: Fragment::No,
            fragment_id: 0,
            fragment_offset: 0,
            fragment_header: false,
        }
    }
}
