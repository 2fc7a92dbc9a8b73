//! Groups that have a meaning of their own, and how entries are named in the tables.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Family;
use crate::port::PortId;
use crate::table::Record;

pub(super) const ALL_HOSTS_V4: Ipv6Addr = Ipv4Addr::new(224, 0, 0, 1).to_ipv6_mapped();
pub(super) const ALL_ROUTERS_V4: Ipv6Addr = Ipv4Addr::new(224, 0, 0, 2).to_ipv6_mapped();
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub(super) const ALL_ROUTERS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Groups whose packets go to all, whoever reports them: 224.0.0.0/24, whose members are not bound to report (RFC 4541
/// section 2.1.2 (2)); of IPv6 what is of the link and never more (section 3), but for solicited-node groups, of which
/// every host with an address has one, and which it does report (RFC 3810 section 6).
pub(super) const fn is_of_all(group: Ipv6Addr) -> bool {
    match group.to_ipv4_mapped() {
        Some(v4) => matches!(v4.octets(), [224, 0, 0, _]),
        None => match group.octets() {
            [0xff, scope, ..] if scope & 0x0f <= 1 => true,
            [0xff, 2, ..] => !is_solicited_node(group),
            _ => false,
        },
    }
}

/// ff02::1:ff00:0/104 (RFC 4291 section 2.7.1).
pub(super) const fn is_solicited_node(address: Ipv6Addr) -> bool {
    matches!(address.octets(), [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, ..])
}

pub(super) const fn words(address: Ipv6Addr) -> [u64; 2] {
    let bits = address.to_bits();
    [(bits >> 64) as u64, bits as u64]
}

pub(super) const fn address(hi: u64, lo: u64) -> Ipv6Addr {
    Ipv6Addr::from_bits((hi as u128) << 64 | lo as u128)
}

pub(super) fn address_of(record: &Record<1, 3>) -> Ipv6Addr {
    let [hi, lo, _] = record.value;
    address(hi, lo)
}

/// `vid:12 port:16` below the group.
pub(super) const fn member(group: Ipv6Addr, vid: u16, port: PortId) -> [u64; 3] {
    let [hi, lo] = words(group);
    [hi, lo, (vid as u64) << 16 | port.0 as u64]
}

pub(super) const fn place(family: Family, vid: u16, port: PortId) -> u64 {
    family.bit() | (vid as u64) << 16 | port.0 as u64
}

pub(super) const fn querier(family: Family, vid: u16) -> u64 {
    family.bit() | vid as u64
}

pub(super) const fn vid_of(word: u64) -> u16 {
    (word & 0x0fff) as u16
}
