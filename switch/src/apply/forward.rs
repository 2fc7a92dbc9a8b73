//! What a router changes in every packet: the MACs and one hop less to live.

use crate::checksum::Delta;
use crate::flow::{L3, Meta};
use crate::mac::MacAddr;

/// Offset of TTL and protocol in an IPv4 header, bytes; the checksum follows.
const V4_TTL: usize = 8;
/// Offset of the hop limit in an IPv6 header, bytes.
const V6_HOP_LIMIT: usize = 7;

/// Decrements TTL or hop limit (RFC 1812 section 5.3.1, RFC 8200 section 3) and sets the MACs of `frame`, whose
/// Ethernet header carries no tag. The caller has seen that the TTL is above 1.
pub fn rewrite(frame: &mut [u8], meta: &mut Meta, src: MacAddr, dst: MacAddr) {
    let macs = dst.0.into_iter().chain(src.0);
    frame.iter_mut().zip(macs).for_each(|(to, from)| *to = from);
    (meta.src, meta.dst) = (src, dst);
    let Some(l3) = frame.get_mut(usize::from(meta.l3_off)..) else { return };
    match meta.l3 {
        L3::V4 => {
            let Some([ttl, proto, high, low]) = l3.get_mut(V4_TTL..).and_then(<[u8]>::first_chunk_mut) else {
                return;
            };
            let less = ttl.saturating_sub(1);
            let delta = Delta::word(u16::from_be_bytes([*ttl, *proto]), u16::from_be_bytes([less, *proto]));
            let sum = delta.full(u16::from_be_bytes([*high, *low]));
            [*high, *low] = sum.to_be_bytes();
            *ttl = less;
        }
        L3::V6 => {
            if let Some(limit) = l3.get_mut(V6_HOP_LIMIT) {
                *limit = limit.saturating_sub(1);
            }
        }
        L3::Arp | L3::Other => return,
    }
    meta.ttl = meta.ttl.saturating_sub(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::sum;
    use crate::parse::parse;
    use crate::port::PortId;
    use crate::vnet::VnetHdr;

    #[test]
    fn one_hop_less_and_the_header_checksum_stays_right() {
        for ttl in 2..=255u8 {
            let mut frame = vec![0u8; 14 + 28];
            frame[12..14].copy_from_slice(&[8, 0]);
            frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
            frame[14..34]
                .copy_from_slice(&[0x45, 0, 0, 28, ttl, 7, 0, 0, ttl, 17, 0, 0, 10, 1, 0, 2, 10, 2, 0, 3]);
            let check = !sum(&frame[14..34]);
            frame[24..26].copy_from_slice(&check.to_be_bytes());
            frame[34..42].copy_from_slice(&[0, 7, 0, 7, 0, 8, 0, 0]);
            let mut packet = parse(&frame, &VnetHdr::default(), PortId(0), 0).unwrap();
            rewrite(&mut frame, &mut packet.meta, MacAddr([2; 6]), MacAddr([4; 6]));
            assert_eq!(frame[22], ttl - 1);
            assert_eq!(sum(&frame[14..34]), 0xffff, "ttl {ttl}");
            assert_eq!(frame[..12], [4, 4, 4, 4, 4, 4, 2, 2, 2, 2, 2, 2]);
            assert_eq!(packet.meta.ttl, ttl - 1);
        }
    }
}
