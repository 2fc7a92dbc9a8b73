//! IPv4 options that a router writes into: record route and timestamp (RFC 791 section 3.1). All others pass as they are.

use switch::checksum::{Delta, sum};
use switch::flow::{L3, Meta};
use switch::verdict::Stamp;

use crate::build::field;

/// Bytes of an IPv4 header without options.
const V4_LEN: u16 = 20;
/// Offset of the header checksum.
const V4_CHECKSUM: usize = 10;
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const RECORD_ROUTE: u8 = 7;
const TIMESTAMP: u8 = 68;
/// Of a time that is not counted from midnight UT.
const NOT_STANDARD: u32 = 1 << 31;

/// Whether the packet has options of IPv4.
#[inline]
pub fn are_there(meta: &Meta) -> bool {
    meta.l3 == L3::V4 && meta.l4_off.saturating_sub(meta.l3_off) > V4_LEN
}

/// Writes us into the options that ask for it and have room (RFC 1812 sections 5.3.13.4 and 5.3.13.5). What is wrong in
/// them stays as it is: whoever the packet is for may know better.
#[cold]
pub fn record(frame: &mut [u8], meta: &Meta, stamp: &Stamp) {
    if !are_there(meta) {
        return;
    }
    let header = frame.get_mut(usize::from(meta.l3_off)..usize::from(meta.l4_off));
    let Some(header) = header else { return };
    let before = sum(header);
    if let Some(options) = header.get_mut(usize::from(V4_LEN)..) {
        each(options, stamp);
    }
    // RFC 1624: options may begin at any byte, so the words are summed up as they lie.
    let change = Delta::word(before, sum(header));
    if let Some(checksum) = field(header, V4_CHECKSUM) {
        *checksum = change.full(u16::from_be_bytes(*checksum)).to_be_bytes();
    }
}

fn each(mut options: &mut [u8], stamp: &Stamp) {
    while let Some(&kind) = options.first() {
        let len = match kind {
            END => return,
            NO_OPERATION => 1,
            _ => usize::from(options.get(1).copied().unwrap_or(0)).max(2),
        };
        let Some((option, behind)) = options.split_at_mut_checked(len) else { return };
        // Without room nothing is written.
        let _ = match kind {
            RECORD_ROUTE => route(option, stamp),
            TIMESTAMP => time(option, stamp),
            _ => None,
        };
        options = behind;
    }
}

/// Kind, length, pointer (from 1), addresses.
fn route(option: &mut [u8], stamp: &Stamp) -> Option<()> {
    let pointer = usize::from(*option.get(2)?);
    put(option, pointer.checked_sub(4)?.checked_add(3)?, stamp.address.octets())?;
    advance(option, 4)
}

/// Kind, length, pointer (from 1), who had no room and what is wanted, addresses and times.
fn time(option: &mut [u8], stamp: &Stamp) -> Option<()> {
    let pointer = usize::from(*option.get(2)?);
    let at = pointer.checked_sub(5)?.checked_add(4)?;
    let (address, time) = (stamp.address.octets(), (stamp.millis | NOT_STANDARD).to_be_bytes());
    let wanted = *option.get(3)? & 0x0f;
    match wanted {
        0 if at < option.len() => put(option, at, time).and_then(|()| advance(option, 4)),
        1 if at < option.len() => {
            let [a, b, c, d] = address;
            let [e, f, g, h] = time;
            put(option, at, [a, b, c, d, e, f, g, h]).and_then(|()| advance(option, 8))
        }
        0 | 1 => {
            let place = option.get_mut(3)?;
            *place = place.checked_add(0x10)?;
            Some(())
        }
        // Those that it names, in that order.
        3 if option.get(at..)?.first_chunk() == Some(&address) => {
            put(option, at.checked_add(4)?, time).and_then(|()| advance(option, 8))
        }
        _ => None,
    }
}

fn put<const N: usize>(option: &mut [u8], at: usize, bytes: [u8; N]) -> Option<()> {
    *option.get_mut(at..)?.first_chunk_mut()? = bytes;
    Some(())
}

fn advance(option: &mut [u8], by: u8) -> Option<()> {
    let pointer = option.get_mut(2)?;
    *pointer = pointer.checked_add(by)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{parse, udp4, verified};

    const STAMP: Stamp = Stamp { address: Ipv4Addr::new(10, 2, 0, 1), millis: 0x0102_0304 };

    fn recorded(options: &[u8]) -> Vec<u8> {
        let mut frame = udp4(0, options, b"payload");
        let meta = parse(&frame).meta;
        record(&mut frame, &meta, &STAMP);
        assert_eq!(verified(&frame).meta.l4_off, meta.l4_off);
        frame[34..34 + options.len()].to_vec()
    }

    #[test]
    fn a_route_is_recorded_where_there_is_room() {
        let twice = recorded(&recorded(&[7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(twice, [7, 11, 12, 10, 2, 0, 1, 10, 2, 0, 1, 0]);
        assert_eq!(recorded(&twice), twice, "it is full");
        // Behind others, at an odd place.
        let options = [1, 148, 4, 0, 0, 7, 7, 4, 9, 9, 9, 9];
        assert_eq!(recorded(&options), [1, 148, 4, 0, 0, 7, 7, 8, 10, 2, 0, 1]);
        for options in [
            [7, 7, 3, 1, 1, 1, 1, 0],
            [7, 7, 5, 1, 1, 1, 1, 0],
            [7, 7, 255, 1, 1, 1, 1, 0],
            [7, 3, 4, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(recorded(&options), options, "no room, or no sense");
        }
    }

    #[test]
    fn the_time_is_marked_as_one_of_our_own() {
        assert_eq!(recorded(&[68, 8, 5, 0, 0, 0, 0, 0]), [68, 8, 9, 0, 0x81, 2, 3, 4]);
        assert_eq!(
            recorded(&[68, 8, 9, 0, 0x81, 2, 3, 4]),
            [68, 8, 9, 0x10, 0x81, 2, 3, 4],
            "one had no room"
        );
        assert_eq!(
            recorded(&[68, 8, 9, 0xf0, 0x81, 2, 3, 4]),
            [68, 8, 9, 0xf0, 0x81, 2, 3, 4],
            "no more than 15"
        );
        let both = [68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(recorded(&both), [68, 12, 13, 1, 10, 2, 0, 1, 0x81, 2, 3, 4]);
        let ours = [68, 12, 5, 3, 10, 2, 0, 1, 0, 0, 0, 0];
        assert_eq!(recorded(&ours), [68, 12, 13, 3, 10, 2, 0, 1, 0x81, 2, 3, 4]);
        let others = [68, 12, 5, 3, 10, 2, 0, 9, 0, 0, 0, 0];
        assert_eq!(recorded(&others), others);
    }

    proptest! {
        #[test]
        fn whatever_they_say_the_header_stays_sound(mut options in prop::collection::vec(any::<u8>(), 4..40)) {
            options.truncate(options.len() / 4 * 4);
            let mut frame = udp4(0, &[1; 40][..options.len()], b"payload");
            let meta = parse(&frame).meta;
            // What the parser would not let through is not trusted either.
            frame[34..34 + options.len()].copy_from_slice(&options);
            frame[24..26].fill(0);
            let check = !sum(&frame[14..34 + options.len()]);
            frame[24..26].copy_from_slice(&check.to_be_bytes());
            let before = frame.clone();
            record(&mut frame, &meta, &STAMP);
            prop_assert_eq!(sum(&frame[14..34 + options.len()]), 0xffff);
            prop_assert_eq!(&frame[..24], &before[..24]);
            prop_assert_eq!(&frame[26..34], &before[26..34]);
            prop_assert_eq!(&frame[34 + options.len()..], &before[34 + options.len()..]);
        }
    }
}
