//! The headers in front of what the router says itself: Ethernet, IPv4 or IPv6. None has a tag: on its way out a frame
//! gets the form that its port wants, in the gateway's VLAN.
//!
//! smoltcp's setters index into their buffer, so each gets a slice that was cut to its header's length before.

use std::net::Ipv6Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{EthernetAddress, EthernetFrame, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr};
use switch::mac::MacAddr;
use switch::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};

const ETHERNET_LEN: usize = 14;
const V4_LEN: usize = 20;
const V6_LEN: usize = 40;

/// TTL and hop limit of what we send and others may forward (RFC 1700: 64).
pub(crate) const HOPS: u8 = 64;

/// Who speaks: one of our interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The gateway's MAC in that network.
    pub mac: MacAddr,
    /// The gateway's address in that network; IPv4 is v4-mapped, as in a [`switch::flow::FlowKey`].
    pub address: Ipv6Addr,
}

/// The link header of a frame that we make.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub src: MacAddr,
    pub dst: MacAddr,
}

/// The IP header of a packet that we make; addresses v4-mapped for IPv4.
#[derive(Clone, Copy)]
pub(crate) struct Ip {
    pub src: Ipv6Addr,
    pub dst: Ipv6Addr,
    pub proto: u8,
    pub tos: u8,
    pub hops: u8,
}

/// The same address in smoltcp's type.
pub(crate) const fn hardware(mac: MacAddr) -> EthernetAddress {
    EthernetAddress(mac.0)
}

/// The two bytes at `at`.
pub(crate) fn field(bytes: &mut [u8], at: usize) -> Option<&mut [u8; 2]> {
    bytes.get_mut(at..)?.first_chunk_mut()
}

/// Writes a link header and returns the length of the frame and its payload: `payload` bytes, all 0.
///
/// `None` where `out` is too short.
pub(crate) fn ethernet<'a>(
    out: &'a mut [u8],
    link: &Link,
    ethertype: u16,
    payload: usize,
) -> Option<(usize, &'a mut [u8])> {
    let len = ETHERNET_LEN.checked_add(payload)?;
    let frame = out.get_mut(..len)?;
    frame.fill(0);
    let (head, payload) = frame.split_at_mut_checked(ETHERNET_LEN)?;
    let mut header = EthernetFrame::new_unchecked(head);
    header.set_dst_addr(hardware(link.dst));
    header.set_src_addr(hardware(link.src));
    header.set_ethertype(ethertype.into());
    Some((len, payload))
}

/// Writes link and IP headers and returns the length of the frame and the L4 packet: `payload` bytes, all 0.
///
/// `None` where `out` is too short, the packet too long, or the addresses are of two families.
pub(crate) fn packet<'a>(
    out: &'a mut [u8],
    link: &Link,
    ip: &Ip,
    payload: usize,
) -> Option<(usize, &'a mut [u8])> {
    match (ip.src.to_ipv4_mapped(), ip.dst.to_ipv4_mapped()) {
        (Some(src_addr), Some(dst_addr)) => {
            let total = u16::try_from(payload.checked_add(V4_LEN)?).ok()?;
            let (len, rest) = ethernet(out, link, ETHERTYPE_IPV4, usize::from(total))?;
            let (head, rest) = rest.split_at_mut_checked(V4_LEN)?;
            let repr = Ipv4Repr {
                src_addr,
                dst_addr,
                next_header: ip.proto.into(),
                payload_len: payload,
                hop_limit: ip.hops,
            };
            // DF set and identification 0: an atomic datagram (RFC 6864 section 4).
            let mut header = Ipv4Packet::new_unchecked(head);
            repr.emit(&mut header, &ChecksumCapabilities::ignored());
            header.set_dscp(ip.tos >> 2);
            header.set_ecn(ip.tos & 3);
            header.fill_checksum();
            Some((len, rest))
        }
        (None, None) => {
            u16::try_from(payload).ok()?;
            let (len, rest) = ethernet(out, link, ETHERTYPE_IPV6, payload.checked_add(V6_LEN)?)?;
            let (head, rest) = rest.split_at_mut_checked(V6_LEN)?;
            let repr = Ipv6Repr {
                src_addr: ip.src,
                dst_addr: ip.dst,
                next_header: ip.proto.into(),
                payload_len: payload,
                hop_limit: ip.hops,
            };
            let mut header = Ipv6Packet::new_unchecked(head);
            repr.emit(&mut header);
            header.set_traffic_class(ip.tos);
            Some((len, rest))
        }
        _ => None,
    }
}
