//! The MSS option of a SYN, made to fit the MTU of the way ahead (RFC 4459 section 3.2): the cure for paths that
//! swallow "fragmentation needed".

use switch::checksum::{self, Delta};
use switch::flow::{L3, Meta};
use switch::parse::PROTO_TCP;

use crate::build::field;

const SYN: u8 = 0x02;
/// Bytes of a TCP header without options.
const TCP_LEN: usize = 20;
/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: usize = 16;

/// Kinds and length of RFC 9293 section 3.1.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const MSS_LEN: usize = 4;

/// Lowers the MSS of a SYN or SYN/ACK to what fits `mtu` (bytes of an IP packet). Never raises it, and adds none.
///
/// Returns whether the frame was changed. Options that run over their end are left alone from there on, as the receiver
/// leaves them.
pub fn clamp(frame: &mut [u8], meta: &Meta, mtu: u32) -> bool {
    if meta.tcp.is_none_or(|tcp| tcp.flags & SYN == 0) {
        return false;
    }
    // RFC 6691 section 2: the fixed headers only; who sends options accounts for them.
    let headers = match meta.l3 {
        L3::V4 => 20 + 20,
        L3::V6 => 40 + 20,
        L3::Arp | L3::Other => return false,
    };
    let limit = u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX);
    let segment = frame.get_mut(usize::from(meta.l4_off)..usize::from(meta.headers_len));
    if limit == 0 {
        return false;
    }
    segment.is_some_and(|header| clamp_options(header, meta, limit))
}

/// All MSS options of one TCP header: of two, some receivers believe the first and some the last.
fn clamp_options(header: &mut [u8], meta: &Meta, limit: u16) -> bool {
    let mut at = TCP_LEN;
    let mut changed = false;
    while let Some(&kind) = header.get(at) {
        let len = match kind {
            END => break,
            NO_OPERATION => 1,
            _ => header.get(at.saturating_add(1)).map_or(0, |len| usize::from(*len)),
        };
        let inside = at.saturating_add(len) <= header.len();
        if len == 0 || (kind != NO_OPERATION && len < 2) || !inside {
            break;
        }
        if kind == MSS && len == MSS_LEN {
            changed |= lower(header, meta, at.saturating_add(2), limit).is_some();
        }
        at = at.saturating_add(len);
    }
    changed
}

/// Lowers the value at `at` to `limit`; nothing where it is not above.
fn lower(header: &mut [u8], meta: &Meta, at: usize, limit: u16) -> Option<()> {
    let value = field(header, at)?;
    let old = u16::from_be_bytes(*value);
    if old <= limit {
        return None;
    }
    *value = limit.to_be_bytes();
    // At an odd offset the high byte is the low one of its word, and the low byte the high one of the next.
    let delta = match at % 2 {
        0 => Delta::word(old, limit),
        _ => Delta::word(old.swap_bytes(), limit.swap_bytes()),
    };
    // A partial field does not have the header in it (the table in `switch::checksum`): `rewrite` leaves it.
    let check = field(header, TCP_CHECKSUM)?;
    let sum = checksum::rewrite(u16::from_be_bytes(*check), meta.csum, PROTO_TCP, Delta::NONE, delta);
    *check = sum.to_be_bytes();
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use switch::checksum::pseudo;
    use switch::flow::{Csum, Packet};
    use switch::vnet::VnetHdr;

    use super::*;
    use crate::testing::{parse, parse_with, tcp4, tcp6, verified};

    const SYN_ACK: u8 = 0x12;
    const ACK: u8 = 0x10;

    fn mss(value: u16) -> Vec<u8> {
        [&[2, 4][..], &value.to_be_bytes()].concat()
    }

    fn clamped(mut frame: Vec<u8>, mtu: u32) -> Option<Vec<u8>> {
        let meta = parse(&frame).meta;
        let before = frame.clone();
        let changed = clamp(&mut frame, &meta, mtu);
        assert_eq!(changed, frame != before);
        changed.then_some(frame)
    }

    #[test]
    fn fits_the_headers_of_its_family() {
        let four = clamped(tcp4(SYN, &mss(1460), &[]), 1400).unwrap();
        let six = clamped(tcp6(SYN_ACK, &mss(1440), &[]), 1400).unwrap();
        assert_eq!(four[56..58], 1360u16.to_be_bytes());
        assert_eq!(six[76..78], 1340u16.to_be_bytes());
        verified(&four);
        verified(&six);
    }

    #[test]
    fn never_raises_adds_or_touches_data() {
        assert_eq!(clamped(tcp4(SYN, &mss(1360), &[]), 1400), None);
        assert_eq!(clamped(tcp4(SYN, &mss(536), &[]), 1400), None);
        assert_eq!(clamped(tcp4(SYN, &[], &mss(1460)), 1400), None);
        assert_eq!(clamped(tcp4(ACK, &mss(1460), &[]), 1400), None);
        assert_eq!(clamped(tcp4(SYN, &mss(1460), &[]), 40), None);
        assert_eq!(clamped(tcp4(SYN, &mss(65535), &[]), u32::MAX), None);
    }

    #[test]
    fn malformed_options_are_left_alone() {
        let five = mss(1460);
        for options in [
            [&[0][..], &five, &[0, 0, 0]].concat(),
            [&[8, 0][..], &five, &[0, 0]].concat(),
            [&[8, 1][..], &five, &[0, 0]].concat(),
            [&[8, 9][..], &five, &[0, 0]].concat(),
            vec![2, 3, 5, 1],
            vec![2, 5, 5, 1],
            vec![1, 1, 2, 4],
            vec![1, 1, 1, 2],
        ] {
            assert_eq!(clamped(tcp4(SYN, &options, &[]), 1000), None, "{options:?}");
        }
    }

    #[test]
    fn every_one_of_several_is_lowered() {
        let frame = clamped(tcp4(SYN, &[mss(1460), mss(9000)].concat(), &[]), 1000).unwrap();
        assert_eq!((&frame[56..58], &frame[60..62]), (&960u16.to_be_bytes()[..], &960u16.to_be_bytes()[..]));
        verified(&frame);
    }

    proptest! {
        #[test]
        fn the_checksum_stays_right(value: u16, mtu in 68u32..9000, pad in 0usize..5, data: Vec<u8>) {
            let mut options = vec![1; pad];
            options.extend(mss(value));
            options.resize(options.len().next_multiple_of(4), 0);
            for frame in [tcp4(SYN, &options, &data), tcp6(SYN, &options, &data)] {
                if let Some(after) = clamped(frame.clone(), mtu) {
                    verified(&after);
                    prop_assert_eq!(after.len(), frame.len());
                }
            }
        }

        #[test]
        fn completing_before_or_after_is_the_same(value in 1000u16.., pad in 0usize..4) {
            let mut options = vec![1; pad];
            options.extend(mss(value));
            options.resize(options.len().next_multiple_of(4), 0);
            let mut frame = tcp4(SYN, &options, b"fast open");
            let Packet { key, mut meta } = parse(&frame);
            let len = frame.len() - 34;
            let partial = pseudo(key.src, key.dst, 6, len as u32);
            frame[50..52].copy_from_slice(&partial.to_be_bytes());
            let vnet = VnetHdr { flags: VnetHdr::NEEDS_CSUM, csum_start: 34.into(), csum_offset: 16.into(), ..VnetHdr::default() };
            meta.csum = parse_with(&frame, &vnet).meta.csum;
            prop_assert_eq!(meta.csum, Csum::Partial);
            prop_assert!(clamp(&mut frame, &meta, 1000));
            prop_assert_eq!(&frame[50..52], &partial.to_be_bytes());
            prop_assert!(checksum::complete(&mut frame, &mut meta));
            verified(&frame);
        }
    }
}
