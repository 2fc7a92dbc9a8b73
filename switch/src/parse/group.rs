//! Messages about multicast groups: IGMP (RFC 2236, RFC 3376), MLD (RFC 2710, RFC 3810), and the hello of PIM, with the
//! rules by which a switch that snoops may believe them (RFC 4541).
//!
//! What fails them is no reason to drop a frame where nobody snoops: it is [`GroupKind::Bad`], and [`crate::admit`] asks
//! the network.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::ip::Net;
use super::{PROTO_ICMPV6, PROTO_IGMP, PROTO_PIM, array};
use crate::checksum;
use crate::flow::{Body, Fragment, Group, GroupKind, L3, Packet};

/// Bytes before the records of an IGMPv3 or MLDv2 report.
const REPORT_LEN: usize = 8;
/// Bytes of an IPv6 header.
const V6_LEN: usize = 40;

/// Whether a packet is about groups; `dport` is type and code of an ICMP message.
pub(super) const fn is_about_groups(net: &Net, dport: u16) -> bool {
    match net.l3 {
        L3::V4 => matches!(net.proto, PROTO_IGMP | PROTO_PIM),
        L3::V6 => match net.proto {
            PROTO_ICMPV6 => matches!(dport >> 8, 130 | 131 | 132 | 143),
            proto => proto == PROTO_PIM,
        },
        L3::Arp | L3::Other => false,
    }
}

/// The message of a packet about groups, whose IP header is at `l3`. [`Body::None`] where it is one that we do not know:
/// such a one goes to all (RFC 4541 section 2.1.1 (3)).
#[cold]
pub(super) fn parse(frame: &[u8], l3: usize, net: &Net) -> Body {
    let message = frame.get(net.l4_off..net.end).unwrap_or_default();
    let header = frame.get(l3..net.l4_off).unwrap_or_default();
    let bad = Group { kind: GroupKind::Bad, group: Ipv6Addr::UNSPECIFIED };
    if net.fragment != Fragment::No {
        return Body::Group(bad);
    }
    let said = match (net.l3, net.proto) {
        (L3::V4, PROTO_IGMP) => igmp(message),
        (L3::V6, PROTO_ICMPV6) => mld(message),
        _ => pim(message, net),
    };
    let Some(group) = said else { return Body::None };
    let sound = match net.l3 {
        L3::V4 => checksum::sum(header) == 0xffff,
        _ => net.proto == PROTO_PIM || is_of_the_link(header, group.kind, net),
    };
    Body::Group(if sound && verifies(message, net) { group } else { bad })
}

/// RFC 2236 section 2, RFC 3376 section 4. `None`: of a type that we do not know.
fn igmp(message: &[u8]) -> Option<Group> {
    let kind = match *message.first()? {
        // RFC 3376 section 7.1: 8 bytes are version 1 or 2, 12 and more version 3; the rest is ignored.
        0x11 => match message.len() {
            8 | 12.. => GroupKind::Query,
            _ => GroupKind::Bad,
        },
        0x12 | 0x16 => GroupKind::Report,
        0x17 => GroupKind::Leave,
        0x22 => return Some(report(message, Family::V4)),
        _ => return None,
    };
    let group = array(message, 4).map(|octets: &[u8; 4]| Ipv4Addr::from(*octets).to_ipv6_mapped());
    Some(one(kind, group))
}

/// RFC 2710 section 3, RFC 3810 section 5.
fn mld(message: &[u8]) -> Option<Group> {
    let kind = match *message.first()? {
        // RFC 3810 section 8.1: 24 bytes are version 1, 28 and more version 2.
        130 => match message.len() {
            24 | 28.. => GroupKind::Query,
            _ => GroupKind::Bad,
        },
        131 => GroupKind::Report,
        132 => GroupKind::Leave,
        143 => return Some(report(message, Family::V6)),
        _ => return None,
    };
    let group = array(message, 8).map(|octets: &[u8; 16]| Ipv6Addr::from(*octets));
    Some(one(kind, group))
}

/// A message that names one group. A query may name none.
fn one(kind: GroupKind, group: Option<Ipv6Addr>) -> Group {
    const NONE_V4: Ipv6Addr = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
    match group {
        Some(NONE_V4 | Ipv6Addr::UNSPECIFIED) if kind == GroupKind::Query => {
            Group { kind, group: Ipv6Addr::UNSPECIFIED }
        }
        Some(group) if is_multicast(group) => Group { kind, group },
        _ => Group { kind: GroupKind::Bad, group: Ipv6Addr::UNSPECIFIED },
    }
}

/// RFC 7761 section 4.9: of version 2, type 0.
fn pim(message: &[u8], net: &Net) -> Option<Group> {
    let hello = message.first() == Some(&0x20) && message.len() >= 4 && !is_unspecified(net.src);
    hello.then_some(Group { kind: GroupKind::Hello, group: Ipv6Addr::UNSPECIFIED })
}

/// RFC 3810 sections 6.2 and 7.4, RFC 2710 section 3: hop limit 1, a Router Alert, and from a link-local address; reports
/// come from `::` while there is none (RFC 3590 section 4).
fn is_of_the_link(header: &[u8], kind: GroupKind, net: &Net) -> bool {
    let source = net.src.is_unicast_link_local() || (net.src.is_unspecified() && kind.is_report());
    net.ttl == 1 && source && has_router_alert(header).unwrap_or(false)
}

/// Whether a hop-by-hop header directly behind the IPv6 header has the option of RFC 2711.
fn has_router_alert(header: &[u8]) -> Option<bool> {
    const HOP_BY_HOP: u8 = 0;
    const PAD1: u8 = 0;
    const ROUTER_ALERT: u8 = 5;
    let (fixed, rest) = header.split_at_checked(V6_LEN)?;
    if *fixed.get(6)? != HOP_BY_HOP {
        return Some(false);
    }
    let len = usize::from(*rest.get(1)?) * 8 + 8;
    let mut options = rest.get(2..len)?;
    while let Some((&kind, behind)) = options.split_first() {
        if kind == PAD1 {
            options = behind;
            continue;
        }
        if kind == ROUTER_ALERT {
            return Some(true);
        }
        let (&len, behind) = behind.split_first()?;
        options = behind.get(usize::from(len)..)?;
    }
    Some(false)
}

/// Whether its checksum is right; that of IPv6 covers a pseudo-header.
fn verifies(message: &[u8], net: &Net) -> bool {
    let Ok(len) = u32::try_from(message.len()) else { return false };
    let pseudo = if net.l3 == L3::V6 { checksum::pseudo(net.src, net.dst, net.proto, len) } else { 0 };
    checksum::add(pseudo, checksum::sum(message)) == 0xffff
}

/// Whether `address` is a group, of either family.
pub const fn is_multicast(address: Ipv6Addr) -> bool {
    match address.to_ipv4_mapped() {
        Some(v4) => v4.is_multicast(),
        None => address.is_multicast(),
    }
}

const fn is_unspecified(address: Ipv6Addr) -> bool {
    match address.to_ipv4_mapped() {
        Some(v4) => v4.is_unspecified(),
        None => address.is_unspecified(),
    }
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// Bytes of an address.
    const fn width(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}

/// What a record says of the port it came by. Source lists are not kept: who listens to a group from some sources gets
/// it from all, as from Linux and OVS where lists are mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Somebody there listens to the group.
    Joined,
    /// Whoever said this does not any more.
    Left,
}

/// A report with records: good only if each of them ends inside it.
fn report(message: &[u8], family: Family) -> Group {
    let mut all = Raw::of(message, family);
    while all.next().is_some() {}
    let kind = if all.left == 0 { GroupKind::Records } else { GroupKind::Bad };
    Group { kind, group: Ipv6Addr::UNSPECIFIED }
}

/// The records of a report that `packet` was parsed from, which was [`GroupKind::Records`]. Those that change nothing are
/// left out.
pub fn records<'a>(frame: &'a [u8], packet: &Packet) -> impl Iterator<Item = (Ipv6Addr, Change)> + use<'a> {
    let meta = &packet.meta;
    let end = usize::try_from(meta.l3_end).unwrap_or(usize::MAX);
    let message = frame.get(usize::from(meta.l4_off)..end).unwrap_or_default();
    let family = if meta.l3 == L3::V4 { Family::V4 } else { Family::V6 };
    Raw::of(message, family).filter_map(|record| {
        // RFC 3376 section 4.2.12, RFC 3810 section 5.2.12. Others are ignored, and so is BLOCK_OLD_SOURCES: who has none
        // left stops to answer queries.
        let change = match (record.kind, record.sources) {
            (1 | 3, 0) => Change::Left,
            (1 | 3 | 5, 1..) | (2 | 4, _) => Change::Joined,
            _ => return None,
        };
        is_multicast(record.group).then_some((record.group, change))
    })
}

struct Record {
    kind: u8,
    sources: u16,
    group: Ipv6Addr,
}

/// Records as they are. Ends early, with some left, where one does not end inside the message.
struct Raw<'a> {
    rest: &'a [u8],
    /// How many should follow.
    left: u16,
    family: Family,
}

impl<'a> Raw<'a> {
    fn of(message: &'a [u8], family: Family) -> Self {
        // Too short for a header: one record that is not there.
        match message.split_first_chunk::<REPORT_LEN>() {
            Some((&[.., n0, n1], rest)) => Self { rest, left: u16::from_be_bytes([n0, n1]), family },
            None => Self { rest: &[], left: 1, family },
        }
    }
}

impl Iterator for Raw<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let left = self.left.checked_sub(1)?;
        let (&[kind, aux, n0, n1], behind) = self.rest.split_first_chunk::<4>()?;
        let sources = u16::from_be_bytes([n0, n1]);
        let width = self.family.width();
        let group = match self.family {
            Family::V4 => Ipv4Addr::from(*behind.first_chunk::<4>()?).to_ipv6_mapped(),
            Family::V6 => Ipv6Addr::from(*behind.first_chunk::<16>()?),
        };
        // Auxiliary data is in words of 4 bytes.
        let len = width * (usize::from(sources) + 1) + usize::from(aux) * 4;
        self.rest = behind.get(len..)?;
        self.left = left;
        Some(Record { kind, sources, group })
    }
}
