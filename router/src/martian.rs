//! Addresses that are never forwarded, from nobody and to nobody (RFC 1812 section 5.3.7, RFC 6890).
//!
//! The documentation and benchmark ranges (192.0.2.0/24, 198.18.0.0/15, 2001:db8::/32 and others) are not among them:
//! labs are made of these.

use std::net::{Ipv4Addr, Ipv6Addr};

use switch::flow::{L3, Packet};

/// Why a packet is not forwarded, whatever the FIB says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Martian {
    /// The packet is not IP.
    #[error("not IP")]
    NotIp,
    /// A v4-mapped address in an IPv6 packet: to every table it would be the IPv4 address.
    #[error("v4-mapped address in an IPv6 packet")]
    Mapped,
    /// Source is multicast or broadcast.
    #[error("multicast or broadcast source")]
    GroupSource,
    /// Source or destination is unspecified or in 0.0.0.0/8.
    #[error("unspecified address, or one of 0.0.0.0/8")]
    ThisNetwork,
    /// Source or destination is in 127.0.0.0/8, or ::1.
    #[error("loopback address")]
    Loopback,
    /// Source or destination is in 169.254.0.0/16 or fe80::/10.
    #[error("link-local address")]
    LinkLocal,
    /// Source or destination is in 240.0.0.0/4, or destination is multicast of a reserved scope.
    #[error("reserved address")]
    Reserved,
    /// Destination is 255.255.255.255.
    #[error("limited broadcast")]
    LimitedBroadcast,
    /// Destination is multicast that stays on its link.
    #[error("multicast of link scope")]
    LinkMulticast,
}

/// Whether the addresses of `packet` may be forwarded. What is for the router itself (a DHCP broadcast, a solicitation
/// from a link-local address) must be taken out before.
///
/// # Errors
/// The reason why not.
pub fn check(packet: &Packet) -> Result<(), Martian> {
    let (src, dst) = (packet.key.src, packet.key.dst);
    let verdict = match (packet.meta.l3, src.to_ipv4_mapped(), dst.to_ipv4_mapped()) {
        (L3::V4, Some(src), Some(dst)) => source_v4(src).or_else(|| destination_v4(dst)),
        (L3::V6, None, None) => source_v6(src).or_else(|| destination_v6(dst)),
        // RFC 6890 table 20.
        (L3::V6, _, _) => Some(Martian::Mapped),
        _ => Some(Martian::NotIp),
    };
    verdict.map_or(Ok(()), Err)
}

fn source_v4(address: Ipv4Addr) -> Option<Martian> {
    if address.is_multicast() || address.is_broadcast() {
        // RFC 1812 section 4.2.2.11.
        return Some(Martian::GroupSource);
    }
    either_v4(address)
}

fn destination_v4(address: Ipv4Addr) -> Option<Martian> {
    if address.is_broadcast() {
        // RFC 1812 section 5.3.5.1.
        return Some(Martian::LimitedBroadcast);
    }
    if matches!(address.octets(), [224, 0, 0, _]) {
        // RFC 5771 section 4.
        return Some(Martian::LinkMulticast);
    }
    either_v4(address)
}

fn either_v4(address: Ipv4Addr) -> Option<Martian> {
    Some(match address.octets() {
        // RFC 1812 section 5.3.7.
        [0, ..] => Martian::ThisNetwork,
        [127, ..] => Martian::Loopback,
        // RFC 3927 section 7.
        [169, 254, ..] => Martian::LinkLocal,
        // RFC 6890 table 15.
        [240..=255, ..] => Martian::Reserved,
        _ => return None,
    })
}

fn source_v6(address: Ipv6Addr) -> Option<Martian> {
    // RFC 4291 section 2.7.
    if address.is_multicast() { Some(Martian::GroupSource) } else { either_v6(address) }
}

fn destination_v6(address: Ipv6Addr) -> Option<Martian> {
    match address.octets() {
        // RFC 4291 section 2.7: scopes 1 and 2 stay where they are; 0 is reserved, and dropped.
        [0xff, flags_and_scope, ..] => match flags_and_scope & 0x0f {
            0 => Some(Martian::Reserved),
            1 | 2 => Some(Martian::LinkMulticast),
            _ => None,
        },
        _ => either_v6(address),
    }
}

fn either_v6(address: Ipv6Addr) -> Option<Martian> {
    if address.is_unspecified() {
        // RFC 4291 section 2.5.2.
        Some(Martian::ThisNetwork)
    } else if address.is_loopback() {
        // RFC 4291 section 2.5.3.
        Some(Martian::Loopback)
    } else if address.is_unicast_link_local() {
        // RFC 4291 section 2.5.6.
        Some(Martian::LinkLocal)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::testing::{parse, udp4, udp6};

    fn of(src: &str, dst: &str) -> Result<(), Martian> {
        let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
        let mut packet = parse(&if src.is_ipv4() { udp4(0, &[], &[]) } else { udp6(&[]) });
        let mapped = |address| match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        (packet.key.src, packet.key.dst) = (mapped(src), mapped(dst));
        check(&packet)
    }

    #[test]
    fn ipv4() {
        const FINE: &str = "10.1.0.10";
        for (address, source, destination) in [
            ("10.9.0.7", None, None),
            ("192.0.2.1", None, None),
            ("198.18.0.1", None, None),
            ("0.0.0.0", Some(Martian::ThisNetwork), Some(Martian::ThisNetwork)),
            ("0.1.2.3", Some(Martian::ThisNetwork), Some(Martian::ThisNetwork)),
            ("127.0.0.1", Some(Martian::Loopback), Some(Martian::Loopback)),
            ("127.255.0.1", Some(Martian::Loopback), Some(Martian::Loopback)),
            ("169.254.169.254", Some(Martian::LinkLocal), Some(Martian::LinkLocal)),
            ("224.0.0.251", Some(Martian::GroupSource), Some(Martian::LinkMulticast)),
            ("239.1.1.1", Some(Martian::GroupSource), None),
            ("240.0.0.1", Some(Martian::Reserved), Some(Martian::Reserved)),
            ("255.255.255.254", Some(Martian::Reserved), Some(Martian::Reserved)),
            ("255.255.255.255", Some(Martian::GroupSource), Some(Martian::LimitedBroadcast)),
        ] {
            assert_eq!(of(address, FINE).err(), source, "from {address}");
            assert_eq!(of(FINE, address).err(), destination, "to {address}");
        }
    }

    #[test]
    fn ipv6() {
        const FINE: &str = "fd00:1::10";
        for (address, source, destination) in [
            ("2001:db8::1", None, None),
            ("fec0::1", None, None),
            ("::", Some(Martian::ThisNetwork), Some(Martian::ThisNetwork)),
            ("::1", Some(Martian::Loopback), Some(Martian::Loopback)),
            ("fe80::1", Some(Martian::LinkLocal), Some(Martian::LinkLocal)),
            ("febf::1", Some(Martian::LinkLocal), Some(Martian::LinkLocal)),
            ("ff00::1", Some(Martian::GroupSource), Some(Martian::Reserved)),
            ("ff01::1", Some(Martian::GroupSource), Some(Martian::LinkMulticast)),
            ("ff12::1", Some(Martian::GroupSource), Some(Martian::LinkMulticast)),
            ("ff05::2", Some(Martian::GroupSource), None),
            ("::ffff:10.1.0.10", Some(Martian::Mapped), Some(Martian::Mapped)),
        ] {
            assert_eq!(of(address, FINE).err(), source, "from {address}");
            assert_eq!(of(FINE, address).err(), destination, "to {address}");
        }
    }

    #[test]
    fn two_mapped_addresses_do_not_make_it_ipv4() {
        let mut packet = parse(&udp6(&[]));
        packet.key.src = Ipv4Addr::new(10, 1, 0, 10).to_ipv6_mapped();
        packet.key.dst = Ipv4Addr::new(10, 9, 0, 7).to_ipv6_mapped();
        assert_eq!(check(&packet), Err(Martian::Mapped));
    }
}
