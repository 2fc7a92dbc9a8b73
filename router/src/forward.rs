//! What a router changes in every packet that passes: TTL or hop limit, and both MACs.

use switch::checksum::{Delta, sum};
use switch::flow::{L3, Meta};
use switch::mac::MacAddr;

use crate::build::field;

/// Offset of TTL (and, behind it, the protocol) in an IPv4 header.
const V4_TTL: usize = 8;
/// Offset of the header checksum in an IPv4 header.
const V4_CHECKSUM: usize = 10;
/// Offset of the hop limit in an IPv6 header.
const V6_HOP_LIMIT: usize = 7;

/// Whether the IPv4 header checksum is right; an IPv6 header has none, it is always right.
///
/// The parser does not look: a bridge has no business with it. A router must (RFC 1812 section 5.2.2), and what fails
/// is dropped without a word (section 4.3.2.7).
pub fn header_verifies(frame: &[u8], meta: &Meta) -> bool {
    match meta.l3 {
        L3::V4 => {
            let header = frame.get(usize::from(meta.l3_off)..usize::from(meta.l4_off));
            header.is_some_and(|header| sum(header) == 0xffff)
        }
        L3::V6 => true,
        L3::Arp | L3::Other => false,
    }
}

/// Makes `frame` one hop older and addresses it to `dst_mac` from `src_mac`. Tags are the caller's.
///
/// Returns whether it was done: not where the packet is not IP, or its last hop was this one (the answer is
/// [`crate::icmp::error::Problem::TimeExceeded`]); the frame is then as it was.
#[must_use]
pub fn rewrite(frame: &mut [u8], meta: &Meta, src_mac: MacAddr, dst_mac: MacAddr) -> bool {
    let l3 = usize::from(meta.l3_off);
    let hop = frame.get_mut(l3..).and_then(|packet| match meta.l3 {
        L3::V4 => age_v4(packet),
        L3::V6 => age_v6(packet),
        L3::Arp | L3::Other => None,
    });
    if hop.is_none() {
        return false;
    }
    // `l3_off` is behind both MACs, so they are there.
    if let Some(macs) = frame.first_chunk_mut::<12>() {
        let [d0, d1, d2, d3, d4, d5] = dst_mac.0;
        let [s0, s1, s2, s3, s4, s5] = src_mac.0;
        *macs = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5];
    }
    true
}

/// RFC 1812 section 5.3.1.
fn age_v4(packet: &mut [u8]) -> Option<()> {
    let header = packet.first_chunk_mut::<20>()?;
    let [ttl, proto] = *field(header, V4_TTL)?;
    let older = ttl.checked_sub(1).filter(|left| *left > 0)?;
    let (old, new) = (u16::from_be_bytes([ttl, proto]), u16::from_be_bytes([older, proto]));
    *field(header, V4_TTL)? = new.to_be_bytes();
    // RFC 1624: a wrong checksum stays as wrong as it was, where a new one would make it right.
    let checksum = field(header, V4_CHECKSUM)?;
    *checksum = Delta::word(old, new).full(u16::from_be_bytes(*checksum)).to_be_bytes();
    Some(())
}

/// RFC 8200 section 3.
fn age_v6(packet: &mut [u8]) -> Option<()> {
    let hop_limit = packet.get_mut(V6_HOP_LIMIT)?;
    *hop_limit = hop_limit.checked_sub(1).filter(|left| *left > 0)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{FAR, HOST, HOST_MAC, OUR_MAC, ethernet, parse, udp4, udp6, v4, verified};

    const NEXT: MacAddr = MacAddr([2, 9, 9, 9, 9, 9]);

    proptest! {
        #[test]
        fn a_right_header_stays_right(ttl in 2u8.., proto: u8, id: u16) {
            let mut packet = v4(HOST, FAR, proto, 0x2000 | 7, &[], &[0; 64]);
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            packet[8] = ttl;
            packet[10..12].fill(0);
            let check = !sum(&packet[..20]);
            packet[10..12].copy_from_slice(&check.to_be_bytes());
            let mut frame = ethernet(HOST_MAC, OUR_MAC, 0x0800, &packet);
            let meta = parse(&frame).meta;
            prop_assert!(header_verifies(&frame, &meta));
            prop_assert!(rewrite(&mut frame, &meta, OUR_MAC, NEXT));
            prop_assert!(header_verifies(&frame, &meta));
            let after = parse(&frame).meta;
            prop_assert_eq!((after.ttl, after.src, after.dst), (ttl - 1, OUR_MAC, NEXT));
        }
    }

    #[test]
    fn a_wrong_header_stays_wrong() {
        let mut frame = udp4(0, &[], &[1]);
        frame[15] ^= 1;
        let meta = parse(&frame).meta;
        assert!(rewrite(&mut frame, &meta, OUR_MAC, NEXT));
        assert!(!header_verifies(&frame, &meta));
    }

    #[test]
    fn only_hops_and_macs_change() {
        for mut frame in [udp4(0, &[1, 1, 1, 0], b"payload"), udp6(b"payload")] {
            let before = frame.clone();
            let meta = parse(&frame).meta;
            assert!(rewrite(&mut frame, &meta, OUR_MAC, NEXT));
            assert_eq!(verified(&frame).meta.ttl, 8);
            let changed = (12..frame.len()).filter(|at| frame[*at] != before[*at]).count();
            assert!(changed <= 3, "{changed} bytes behind the MACs");
        }
    }

    #[test]
    fn the_last_hop_changes_nothing() {
        for (mut frame, at) in [(udp4(0, &[], &[1]), 22), (udp6(&[1]), 21)] {
            for hops in [0, 1] {
                frame[at] = hops;
                let (before, meta) = (frame.clone(), parse(&frame).meta);
                assert!(!rewrite(&mut frame, &meta, OUR_MAC, NEXT));
                assert_eq!(frame, before);
            }
        }
    }
}
