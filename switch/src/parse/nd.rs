//! Neighbour discovery, with the validity rules of RFC 4861 sections 6.1, 7.1 and 8.1.

use std::net::Ipv6Addr;

use super::ip::{Net, is_mapped};
use super::{PROTO_ICMPV6, array};
use crate::checksum;
use crate::drop::DropReason;
use crate::flow::{Nd, NdKind};
use crate::mac::MacAddr;

const BAD: DropReason = DropReason::MalformedNd;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// The Solicited flag of an advertisement.
const SOLICITED: u8 = 0x40;

/// The message in `packet`, which ends where the IP packet does; its type is one of the five.
#[cold]
pub(super) fn parse(packet: &[u8], net: &Net) -> Result<Nd, DropReason> {
    // RFC 6980 section 5: never in fragments, not even in one that is whole.
    if net.ttl != 255 || net.fragment_header {
        return Err(BAD);
    }
    let message = packet.get(net.l4_off..).ok_or(BAD)?;
    let &[kind, code, _, _, flags, ..] = message.first_chunk::<8>().ok_or(BAD)?;
    let (kind, header_len) = kind_of(kind).ok_or(BAD)?;
    let options = message.get(header_len..).ok_or(BAD)?;
    if code != 0 || !verifies(message, net) {
        return Err(BAD);
    }
    let target = match kind {
        NdKind::RouterSolicitation | NdKind::RouterAdvertisement => Ipv6Addr::UNSPECIFIED,
        _ => address(message, 8)?,
    };
    if is_mapped(target) {
        return Err(DropReason::MappedAddress);
    }
    let flags = if kind == NdKind::NeighborAdvertisement { flags } else { 0 };
    let (source_mac, target_mac) = link_layer_options(options)?;
    let mut nd = Nd { kind, target, source_mac, target_mac, flags };
    if !is_valid(&nd, message, net)? {
        return Err(BAD);
    }
    // RFC 4861 section 4.6.1: an option that the message does not define is ignored, so nobody may read it.
    match kind {
        NdKind::NeighborAdvertisement | NdKind::Redirect => nd.source_mac = None,
        _ => nd.target_mac = None,
    }
    Ok(nd)
}

/// The message and the bytes before its options.
const fn kind_of(kind: u8) -> Option<(NdKind, usize)> {
    Some(match kind {
        133 => (NdKind::RouterSolicitation, 8),
        134 => (NdKind::RouterAdvertisement, 16),
        135 => (NdKind::NeighborSolicitation, 24),
        136 => (NdKind::NeighborAdvertisement, 24),
        137 => (NdKind::Redirect, 40),
        _ => return None,
    })
}

/// The rules that differ from message to message.
fn is_valid(nd: &Nd, message: &[u8], net: &Net) -> Result<bool, DropReason> {
    Ok(match nd.kind {
        // Section 6.1.1.
        NdKind::RouterSolicitation => !net.src.is_unspecified() || nd.source_mac.is_none(),
        // Section 6.1.2.
        NdKind::RouterAdvertisement => net.src.is_unicast_link_local(),
        // Section 7.1.1.
        NdKind::NeighborSolicitation => {
            let probe = net.src.is_unspecified();
            let probe_is_good = is_solicited_node(net.dst) && nd.source_mac.is_none();
            !nd.target.is_multicast() && (!probe || probe_is_good)
        }
        // Section 7.1.2.
        NdKind::NeighborAdvertisement => {
            let asked_by_all = net.dst.is_multicast() && nd.flags & SOLICITED != 0;
            !nd.target.is_multicast() && !asked_by_all
        }
        // Section 8.1.
        NdKind::Redirect => {
            let destination = address(message, 24)?;
            let target_is_good = nd.target.is_unicast_link_local() || nd.target == destination;
            net.src.is_unicast_link_local() && !destination.is_multicast() && target_is_good
        }
    })
}

/// ff02::1:ff00:0/104 (RFC 4291 section 2.7.1).
const fn is_solicited_node(address: Ipv6Addr) -> bool {
    matches!(address.octets(), [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, ..])
}

fn address(message: &[u8], at: usize) -> Result<Ipv6Addr, DropReason> {
    array::<16>(message, at).map(|octets| Ipv6Addr::from(*octets)).ok_or(BAD)
}

/// Whether the ICMPv6 checksum is right.
fn verifies(message: &[u8], net: &Net) -> bool {
    let Ok(len) = u32::try_from(message.len()) else { return false };
    let pseudo = checksum::pseudo(net.src, net.dst, PROTO_ICMPV6, len);
    checksum::add(pseudo, checksum::sum(message)) == 0xffff
}

/// Source and target link-layer address. Every option has a length that is not 0 and ends inside the message; one
/// that is there twice says two things, of which a filter would read one and a receiver the other.
fn link_layer_options(mut options: &[u8]) -> Result<(Option<MacAddr>, Option<MacAddr>), DropReason> {
    let (mut source, mut target) = (None, None);
    while let Some((&kind, rest)) = options.split_first() {
        let len = usize::from(*rest.first().ok_or(BAD)?) * 8;
        let option = options.get(..len).filter(|option| !option.is_empty()).ok_or(BAD)?;
        options = options.get(len..).ok_or(BAD)?;
        let slot = match kind {
            SOURCE_LINK_LAYER => &mut source,
            TARGET_LINK_LAYER => &mut target,
            _ => continue,
        };
        // RFC 2464 section 6: 8 bytes on Ethernet.
        let &[_, _, m0, m1, m2, m3, m4, m5] = <&[u8; 8]>::try_from(option).map_err(|_| BAD)?;
        if slot.replace(MacAddr([m0, m1, m2, m3, m4, m5])).is_some() {
            return Err(BAD);
        }
    }
    Ok((source, target))
}
