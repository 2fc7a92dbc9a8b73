//! UDP in whole IP packets, both ways, with whole checksums.

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr};

/// TTL and hop limit of what we send.
const HOPS: u8 = 64;
/// Bytes of the headers in front of a payload.
const V4_HEADERS: usize = 28;
const V6_HEADERS: usize = 48;

/// A datagram that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'p> {
    /// Who sent it.
    pub from: SocketAddr,
    /// To which address of ours.
    pub to: SocketAddr,
    /// Its payload.
    pub payload: &'p [u8],
}

/// The UDP datagram in an IP packet, if its checksums are right.
pub fn read(packet: &[u8]) -> Option<Datagram<'_>> {
    let caps = ChecksumCapabilities::default();
    let (from, to, l4): (IpAddr, IpAddr, &[u8]) = match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new_checked(packet).ok()?;
            let repr = Ipv4Repr::parse(&ip, &caps).ok()?;
            let l4 = packet.get(usize::from(ip.header_len())..usize::from(ip.total_len()))?;
            (repr.next_header == IpProtocol::Udp).then_some((
                repr.src_addr.into(),
                repr.dst_addr.into(),
                l4,
            ))?
        }
        6 => {
            let ip = Ipv6Packet::new_checked(packet).ok()?;
            let repr = Ipv6Repr::parse(&ip).ok()?;
            let l4 = packet.get(ip.header_len()..ip.total_len())?;
            (repr.next_header == IpProtocol::Udp).then_some((
                repr.src_addr.into(),
                repr.dst_addr.into(),
                l4,
            ))?
        }
        _ => return None,
    };
    let udp = UdpPacket::new_checked(l4).ok()?;
    let repr = UdpRepr::parse(&udp, &IpAddress::from(from), &IpAddress::from(to), &caps).ok()?;
    let payload = l4.get(8..usize::from(udp.len()))?;
    Some(Datagram {
        from: SocketAddr::new(from, repr.src_port),
        to: SocketAddr::new(to, repr.dst_port),
        payload,
    })
}

/// Bytes of payload that fit into an IP packet of `mtu` bytes to `address`.
pub fn room(mtu: usize, address: IpAddr) -> usize {
    mtu.saturating_sub(if address.is_ipv4() { V4_HEADERS } else { V6_HEADERS })
}

/// Writes an IP packet with a UDP datagram to the start of `out`; its length, `None` where it does not fit.
pub fn write(from: SocketAddr, to: SocketAddr, payload: &[u8], out: &mut [u8]) -> Option<usize> {
    let caps = ChecksumCapabilities::default();
    let udp = UdpRepr { src_port: from.port(), dst_port: to.port() };
    let l4 = payload.len().checked_add(8)?;
    let head = match (from.ip(), to.ip()) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let head = V4_HEADERS - 8;
            u16::try_from(l4.checked_add(head)?).ok()?;
            let repr = Ipv4Repr {
                src_addr,
                dst_addr,
                next_header: IpProtocol::Udp,
                payload_len: l4,
                hop_limit: HOPS,
            };
            repr.emit(&mut Ipv4Packet::new_unchecked(out.get_mut(..head)?), &caps);
            head
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            u16::try_from(l4).ok()?;
            let head = V6_HEADERS - 8;
            let repr = Ipv6Repr {
                src_addr,
                dst_addr,
                next_header: IpProtocol::Udp,
                payload_len: l4,
                hop_limit: HOPS,
            };
            repr.emit(&mut Ipv6Packet::new_unchecked(out.get_mut(..head)?));
            head
        }
        _ => return None,
    };
    let len = head.checked_add(l4)?;
    let place = out.get_mut(head..len)?;
    let (src, dst) = (IpAddress::from(from.ip()), IpAddress::from(to.ip()));
    udp.emit(
        &mut UdpPacket::new_unchecked(place),
        &src,
        &dst,
        payload.len(),
        |space| space.copy_from_slice(payload),
        &caps,
    );
    Some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let pairs = [("10.1.0.1:53", "10.1.0.2:40000"), ("[fd00::1]:53", "[fd00::2]:40000")];
        for (from, to) in pairs.map(|(from, to)| (from.parse().unwrap(), to.parse().unwrap())) {
            for payload in [&b""[..], b"x", b"names"] {
                let mut out = [0xee; 128];
                let len = write(from, to, payload, &mut out).unwrap();
                assert_eq!(read(&out[..len]), Some(Datagram { from, to, payload }));
                for at in 0..len {
                    let mut broken = out;
                    broken[at] ^= 0x40;
                    // A hop limit and a flow label are under no checksum in IPv6.
                    let unprotected = from.is_ipv6() && matches!(at, 0..4 | 7);
                    assert!(unprotected || read(&broken[..len]).is_none(), "{from}, byte {at}");
                    assert_eq!(read(&out[..at]), None, "cut off");
                }
            }
        }
        assert_eq!(write(pairs[0].0.parse().unwrap(), pairs[1].1.parse().unwrap(), b"", &mut [0; 99]), None);
    }
}
