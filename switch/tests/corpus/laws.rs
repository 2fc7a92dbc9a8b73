//! Laws: the parser on any bytes, checksums against `pnet_packet`, segments against what a receiver would compute.

use std::net::{Ipv4Addr, Ipv6Addr};

use pnet_packet::ipv4::{self, Ipv4Packet};
use proptest::collection::vec;
use proptest::prelude::*;
use switch::checksum::{self, Delta, add, complete, rewrite};
use switch::flow::{Csum, Gso};
use switch::segment;
use switch::vnet::VnetHdr;
use zerocopy::{FromBytes, IntoBytes};

use crate::cases;
use crate::invariants::check;
use crate::packets::*;

/// One change to a frame with its virtio header.
#[derive(Clone, Copy, Debug)]
struct Mutation {
    kind: u8,
    /// Most of what decides lies in front.
    near: bool,
    at: usize,
    value: u16,
}

impl Mutation {
    fn apply(self, bytes: &mut Vec<u8>) {
        let len = if self.near { bytes.len().min(100) } else { bytes.len() };
        let Some(at) = self.at.checked_rem(len) else { return };
        let [high, low] = self.value.to_be_bytes();
        match self.kind {
            0 => bytes[at] = low,
            1 => bytes[at] ^= 1 << (low & 7),
            2 => bytes[at] = bytes[at].wrapping_add(1).wrapping_sub(low & 2),
            3 => bytes[at..].iter_mut().zip([high, low]).for_each(|(to, from)| *to = from),
            4 => bytes.truncate(at),
            5 => bytes.insert(at, low),
            _ => drop(bytes.remove(at)),
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let value = prop_oneof![Just(0), Just(0xffff), 0u16..64, any::<u16>()];
    (0u8..7, prop::bool::weighted(0.8), any::<usize>(), value).prop_map(|(kind, near, at, value)| Mutation {
        kind,
        near,
        at,
        value,
    })
}

fn check_bytes(bytes: &[u8]) {
    if let Ok((vnet, frame)) = VnetHdr::read_from_prefix(bytes) {
        // What matters is that nothing in there panics.
        let _ = check(&vnet, frame);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_parse_or_have_a_reason(bytes in vec(any::<u8>(), 0..400)) {
        check_bytes(&bytes);
    }

    /// Random bytes seldom get past the EtherType.
    #[test]
    fn any_bytes_behind_an_ethertype(
        ethertype in prop::sample::select(vec![0x0800u16, 0x86dd, 0x0806, 0x8100, 40]),
        version in prop::sample::select(vec![0x45u8, 0x46, 0x4f, 0x60]),
        mut bytes in vec(any::<u8>(), 60..400),
        proto in prop::sample::select(vec![0u8, 1, 6, 17, 43, 44, 51, 58, 60]),
    ) {
        let len = bytes.len() as u16;
        bytes[0] = version;
        if version >> 4 == 4 {
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            (bytes[6], bytes[9]) = (bytes[6] & 0x40, proto);
        } else {
            bytes[4..6].copy_from_slice(&(len - 40).to_be_bytes());
            bytes[6] = proto;
        }
        check_bytes(&[VnetHdr::default().as_bytes(), &tagged(&[], ethertype, &bytes)].concat());
    }
}

/// The frames of all cases, each mutated in many ways.
#[test]
fn mutated_cases_parse_or_have_a_reason() {
    let seeds: Vec<Vec<u8>> = cases::all()
        .into_iter()
        .filter(|case| case.frame.len() < 4096)
        .map(|case| [case.vnet.as_bytes(), &case.frame].concat())
        .collect();
    let strategy = (0..seeds.len(), vec(mutation(), 1..6));
    let config = ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner
        .run(&strategy, |(seed, mutations)| {
            let mut bytes = seeds[seed].clone();
            mutations.into_iter().for_each(|mutation| mutation.apply(&mut bytes));
            check_bytes(&bytes);
            Ok(())
        })
        .unwrap();
}

/// Addresses of one family.
fn addresses() -> impl Strategy<Value = [Ipv6Addr; 4]> {
    let v4 = any::<[u32; 4]>().prop_map(|all| all.map(|bits| Ipv4Addr::from(bits).to_ipv6_mapped()));
    // A v4-mapped address in an IPv6 header would be another family to the reference.
    let v6 = any::<[u128; 4]>().prop_map(|all| all.map(|bits| Ipv6Addr::from(bits | 1 << 127)));
    prop_oneof![v4, v6]
}

/// A TCP or UDP packet whose last word may be chosen so that the checksum's sum comes out as one of the two zeros.
fn l4(proto: u8, payload: &[u8], src: Ipv6Addr, dst: Ipv6Addr, zero: bool) -> Vec<u8> {
    let mut l4 = if proto == TCP { tcp(ACK, payload) } else { udp(payload) };
    if zero && payload.len() >= 2 && payload.len().is_multiple_of(2) {
        let last = l4.len() - 2;
        l4[last..].fill(0);
        let check = reference_l4(src, dst, proto, &l4);
        l4[last..].copy_from_slice(&check.to_be_bytes());
    }
    l4
}

/// Rewrites addresses and ports in the frame, and its L4 checksum by [`rewrite`].
fn nat(frame: &mut [u8], l4_off: usize, proto: u8, csum: Csum, to: (Ipv6Addr, Ipv6Addr), ports: (u16, u16)) {
    let packet = check(&VnetHdr::default(), frame).unwrap();
    let key = packet.key;
    let (at, len) = if key.src.to_ipv4_mapped().is_some() { (26, 4) } else { (22, 16) };
    frame[at..at + len].copy_from_slice(&to.0.octets()[16 - len..]);
    frame[at + len..at + 2 * len].copy_from_slice(&to.1.octets()[16 - len..]);
    frame[l4_off..l4_off + 2].copy_from_slice(&ports.0.to_be_bytes());
    frame[l4_off + 2..l4_off + 4].copy_from_slice(&ports.1.to_be_bytes());
    let address = Delta::address(key.src, to.0).and(Delta::address(key.dst, to.1));
    let l4 = Delta::word(key.sport, ports.0).and(Delta::word(key.dport, ports.1));
    let field = l4_off + if proto == TCP { 16 } else { 6 };
    let old = u16::from_be_bytes([frame[field], frame[field + 1]]);
    frame[field..field + 2].copy_from_slice(&rewrite(old, csum, proto, address, l4).to_be_bytes());
}

fn proto() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![TCP, UDP])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn sums_are_those_of_the_reference(bytes in vec(any::<u8>(), 2..300), odd: bool) {
        let bytes = &bytes[..bytes.len() - usize::from(odd)];
        // `checksum` leaves out the word with the given number.
        let reference = pnet_packet::util::checksum(bytes, usize::MAX);
        prop_assert_eq!(!checksum::sum(bytes), reference);
    }

    #[test]
    fn pseudo_headers_are_those_of_the_reference([src, dst, ..] in addresses(), proto in proto(), len: u16) {
        let sum = checksum::pseudo(src, dst, proto, u32::from(len));
        let reference = reference_pseudo(src, dst, proto, usize::from(len));
        prop_assert_eq!(sum % 0xffff, reference % 0xffff);
    }

    /// RFC 1624: an update equals computing anew, in the corners too; of the two zeros it gives the one that a sum over
    /// a header gives.
    #[test]
    fn updates_equal_recomputation(
        mut header in vec(prop_oneof![Just(0u16), Just(0xffff), any::<u16>()], 10),
        at in 1usize..10,
        new in prop_oneof![Just(0u16), Just(0xffff), any::<u16>()],
    ) {
        header[0] |= 0x4500;
        let bytes = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
        let full = !checksum::sum(&bytes(&header));
        let partial = checksum::sum(&bytes(&header));
        let delta = Delta::word(header[at], new);
        header[at] = new;
        prop_assert_eq!(delta.full(full), !checksum::sum(&bytes(&header)));
        prop_assert_eq!(delta.partial(partial), checksum::sum(&bytes(&header)));
    }

    /// complete(rewrite(partial)) == rewrite(complete(partial)) == all anew.
    #[test]
    fn completing_and_rewriting_commute(
        [src, dst, new_src, new_dst] in addresses(),
        ports: (u16, u16),
        proto in proto(),
        bytes in vec(any::<u8>(), 0..80),
        zero_before: bool,
        zero_after: bool,
    ) {
        let payload = if zero_after {
            // The sum becomes zero after the rewrite, not before.
            let mut after = l4(proto, &bytes, new_src, new_dst, false);
            after[..2].copy_from_slice(&ports.0.to_be_bytes());
            after[2..4].copy_from_slice(&ports.1.to_be_bytes());
            let header = after.len() - bytes.len();
            if bytes.len() >= 2 && bytes.len().is_multiple_of(2) {
                let last = after.len() - 2;
                after[last..].fill(0);
                let check = reference_l4(new_src, new_dst, proto, &after);
                after[last..].copy_from_slice(&check.to_be_bytes());
            }
            after[header..].to_vec()
        } else {
            bytes
        };
        let segment = l4(proto, &payload, src, dst, zero_before && !zero_after);
        let Offloaded { vnet, frame } = offloaded(src, dst, &segment, proto, 0);
        let packet = check(&vnet, &frame).unwrap();
        prop_assert_eq!(packet.meta.csum, Csum::Partial);
        let l4_off = usize::from(packet.meta.l4_off);
        let field = l4_off + if proto == TCP { 16 } else { 6 };

        let (mut late, mut meta) = (frame.clone(), packet.meta);
        nat(&mut late, l4_off, proto, Csum::Partial, (new_src, new_dst), ports);
        prop_assert!(complete(&mut late, &mut meta));
        prop_assert_eq!(meta.csum, Csum::Full);

        let (mut early, mut meta) = (frame, packet.meta);
        prop_assert!(complete(&mut early, &mut meta));
        prop_assert_eq!(early[field..field + 2].to_vec(),
            reference_l4(src, dst, proto, &early[l4_off..]).to_be_bytes().to_vec());
        nat(&mut early, l4_off, proto, Csum::Full, (new_src, new_dst), ports);
        prop_assert_eq!(&early, &late);
        prop_assert_eq!(late[field..field + 2].to_vec(),
            reference_l4(new_src, new_dst, proto, &late[l4_off..]).to_be_bytes().to_vec());
    }

    /// A datagram without a checksum has none after a rewrite either; a partial 0 is a sum like any other.
    #[test]
    fn no_checksum_stays_none([src, dst, ..] in addresses(), old: u16, new: u16) {
        let (address, port) = (Delta::address(src, dst), Delta::word(old, new));
        prop_assert_eq!(rewrite(0, Csum::Full, UDP, address, port), 0);
        prop_assert_eq!(rewrite(0, Csum::Verified, UDP, address, port), 0);
        prop_assert_eq!(rewrite(0, Csum::Partial, UDP, address, port), address.partial(0));
        prop_assert_ne!(rewrite(0xffff, Csum::Full, UDP, address, port), 0);
        prop_assert_eq!(rewrite(old, Csum::Partial, TCP, Delta::NONE, port), old);
    }

    /// Every segment verifies at the receiver, and flags are where they belong. (That their payloads are the payload,
    /// and what a naive segmenter says, `check` asserts.)
    #[test]
    fn segments_verify(
        [src, dst, ..] in addresses(),
        proto in proto(),
        flags in 0u8..=0xff,
        len in 2usize..9000,
        size in 48u16..2000,
    ) {
        let flags = flags & !0x06;
        let size = if proto == UDP { size.max((len / 128 + 1) as u16) } else { size };
        let l4 = if proto == TCP { tcp(flags, &payload(len)) } else { udp(&payload(len)) };
        let Offloaded { vnet, frame } = offloaded(src, dst, &l4, proto, size);
        let packet = check(&vnet, &frame).unwrap();
        let count = segment::count(&packet.meta);
        prop_assert_eq!(count, if len > usize::from(size) { len.div_ceil(usize::from(size)) } else { 0 });
        let mut out = vec![0; 70_000];
        for index in 0..count {
            let end = segment::segment(&frame, &packet.meta, index, &mut out).unwrap();
            let l4_off = usize::from(packet.meta.l4_off);
            let field = l4_off + if proto == TCP { 16 } else { 6 };
            let found = u16::from_be_bytes([out[field], out[field + 1]]);
            prop_assert_eq!(found, reference_l4(src, dst, proto, &out[l4_off..end]));
            if let Some(ip) = Ipv4Packet::new(&out[14..end]).filter(|ip| ip.get_version() == 4) {
                prop_assert_eq!(ip.get_checksum(), ipv4::checksum(&ip));
                prop_assert_eq!(ip.get_identification(), 7 + index as u16);
            }
            if proto == TCP {
                let not_last = if index + 1 < count { 0x09 } else { 0 };
                let not_first = if index > 0 { 0x80 } else { 0 };
                prop_assert_eq!(out[l4_off + 13], flags & !not_last & !not_first);
            }
        }
    }
}

/// The packet inside a tunnel gets its own checksum, and the outer one is not touched.
#[test]
fn inner_checksums_complete() {
    let case = cases::all().into_iter().find(|case| case.name == "csum-tunnel").unwrap();
    let packet = check(&case.vnet, &case.frame).unwrap();
    let (mut frame, mut meta) = (case.frame.clone(), packet.meta);
    assert!(complete(&mut frame, &mut meta));
    let expected = reference_l4(A4.to_ipv6_mapped(), B4.to_ipv6_mapped(), TCP, &frame[84..]);
    assert_eq!(u16::from_be_bytes([frame[100], frame[101]]), expected);
    assert_eq!((&frame[..100], &frame[102..]), (&case.frame[..100], &case.frame[102..]));
    // A rewrite of the outer addresses treats the outer checksum as what it is: full, here absent.
    let address = Delta::address(A4.to_ipv6_mapped(), B4.to_ipv6_mapped());
    assert_eq!(rewrite(0, packet.meta.csum, UDP, address, Delta::NONE), 0);
}

/// A super-frame has no whole checksum; nothing pretends that it has.
#[test]
fn super_frames_do_not_complete() {
    let case = cases::all().into_iter().find(|case| case.name == "gso-tcp4").unwrap();
    let packet = check(&case.vnet, &case.frame).unwrap();
    let (mut frame, mut meta) = (case.frame.clone(), packet.meta);
    assert!(!complete(&mut frame, &mut meta));
    assert_eq!((frame, meta), (case.frame, packet.meta));
    assert_ne!(packet.meta.gso, Gso::None);
}

/// The example of RFC 1624 section 4.
#[test]
fn rfc_1624_example() {
    assert_eq!(Delta::word(0x5555, 0x3285).full(0xdd2f), 0);
    assert_eq!(add(0xffff, 1), 1);
}
