//! A translated packet is as if it had been sent that way: its checksums are right if they were right before.

use proptest::prelude::*;
use switch::flow::{FlowKey, Packet};
use switch::parse::{PROTO_SCTP, parse};
use switch::port::PortId;
use switch::verdict::Side;
use switch::vnet::VnetHdr;

use super::*;

const ETHERNET: usize = 14;

/// A packet to be written.
#[derive(Clone, Debug)]
struct Sent {
    proto: u8,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    sport: u16,
    dport: u16,
    payload: Vec<u8>,
    /// IPv4: words of options.
    options: usize,
}

impl Sent {
    fn v4(&self) -> bool {
        self.src.to_ipv4_mapped().is_some()
    }

    /// The L4 packet; `partial`: with the checksum that an offload left open.
    fn l4(&self, partial: bool) -> Vec<u8> {
        let ports = [self.sport.to_be_bytes(), self.dport.to_be_bytes()].concat();
        let mut bytes = match self.proto {
            PROTO_TCP => [&ports[..], &[0, 0, 0, 9, 0, 0, 0, 7, 0x50, 0x10, 1, 0, 0, 0, 0, 0]].concat(),
            PROTO_UDP => {
                let length = (8 + self.payload.len()) as u16;
                [&ports[..], &length.to_be_bytes(), &[0, 0]].concat()
            }
            PROTO_ICMP => [&[8, 0, 0, 0][..], &self.sport.to_be_bytes(), &[0, 3]].concat(),
            PROTO_ICMPV6 => [&[128, 0, 0, 0][..], &self.sport.to_be_bytes(), &[0, 3]].concat(),
            _ => [&ports[..], &[1, 2, 3, 4, 5, 6, 7, 8]].concat(),
        };
        bytes.extend(&self.payload);
        let at = match self.proto {
            PROTO_TCP => 16,
            PROTO_UDP => 6,
            PROTO_ICMP | PROTO_ICMPV6 => 2,
            _ => return bytes,
        };
        let pseudo = match self.proto {
            PROTO_ICMP => 0,
            proto => checksum::pseudo(self.src, self.dst, proto, bytes.len() as u32),
        };
        let whole = !checksum::add(pseudo, sum(&bytes));
        let whole = if self.proto == PROTO_UDP && whole == 0 { 0xffff } else { whole };
        let value = if partial { pseudo } else { whole };
        bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
        bytes
    }

    /// The IP packet with this behind its header; `fragment`: the field of IPv4.
    fn ip(&self, l4: &[u8], fragment: u16) -> Vec<u8> {
        if let (Some(src), Some(dst)) = (self.src.to_ipv4_mapped(), self.dst.to_ipv4_mapped()) {
            let length = (20 + 4 * self.options + l4.len()) as u16;
            let mut bytes = vec![0x45 + self.options as u8, 0];
            bytes.extend(length.to_be_bytes());
            bytes.extend([0x12, 0x34]);
            bytes.extend(fragment.to_be_bytes());
            bytes.extend([64, self.proto, 0, 0]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
            bytes.extend(vec![1; 4 * self.options]);
            let checksum = !sum(&bytes);
            bytes[V4_CHECKSUM..V4_CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
            bytes.extend(l4);
            return bytes;
        }
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend((l4.len() as u16).to_be_bytes());
        bytes.extend([self.proto, 64]);
        bytes.extend(self.src.octets());
        bytes.extend(self.dst.octets());
        bytes.extend(l4);
        bytes
    }

    fn frame(&self, partial: bool) -> Vec<u8> {
        self.framed(&self.ip(&self.l4(partial), 0))
    }

    fn framed(&self, ip: &[u8]) -> Vec<u8> {
        let ethertype: u16 = if self.v4() { 0x0800 } else { 0x86dd };
        [&[2; 6][..], &[6; 6], &ethertype.to_be_bytes(), ip].concat()
    }
}

fn parsed(frame: &[u8], vnet: &VnetHdr) -> Packet {
    parse(frame, vnet, PortId(1), 0).unwrap()
}

/// What an offload says of a frame whose checksum it left open.
fn open(sent: &Sent) -> VnetHdr {
    let start = ETHERNET + if sent.v4() { 20 + 4 * sent.options } else { 40 };
    VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        csum_start: (start as u16).into(),
        csum_offset: if sent.proto == PROTO_TCP { 16.into() } else { 6.into() },
        ..VnetHdr::default()
    }
}

/// The change from one packet to the other, as conntrack gives it.
fn change(from: &Sent, to: &Sent) -> Nat {
    let query = from.proto == PROTO_ICMP || from.proto == PROTO_ICMPV6;
    let l4 = Delta::word(from.sport, to.sport);
    Nat {
        proto: from.proto,
        src: to.src,
        dst: to.dst,
        sport: to.sport,
        dport: to.dport,
        address: Delta::address(from.src, to.src).and(Delta::address(from.dst, to.dst)),
        l4: if query { l4 } else { l4.and(Delta::word(from.dport, to.dport)) },
        id: None,
        from: Side::New,
        to: Side::No,
    }
}

fn v4() -> impl Strategy<Value = Ipv6Addr> {
    any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).to_ipv6_mapped())
}

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits | 1 << 125))
}

/// The same packet with the addresses and l4 ports of one, and of another.
fn pair() -> impl Strategy<Value = (Sent, Sent)> {
    pair_of(0..3)
}

/// Of TCP, UDP, ICMP only some.
fn pair_of(which: std::ops::Range<usize>) -> impl Strategy<Value = (Sent, Sent)> {
    let addresses = prop_oneof![
        proptest::array::uniform4(v4()).prop_map(|all| (true, all)),
        proptest::array::uniform4(v6()).prop_map(|all| (false, all)),
    ];
    let ports = any::<[u16; 4]>();
    let payload = proptest::collection::vec(any::<u8>(), 0..60);
    (addresses, ports, payload, which, 0usize..3).prop_map(
        |((v4, [a, b, c, d]), [e, f, g, h], payload, which, options)| {
            let proto = [PROTO_TCP, PROTO_UDP, if v4 { PROTO_ICMP } else { PROTO_ICMPV6 }][which];
            let one = Sent { proto, src: a, dst: b, sport: e, dport: f, payload, options };
            let other = Sent { src: c, dst: d, sport: g, dport: h, ..one.clone() };
            (one, other)
        },
    )
}

proptest! {
    #[test]
    fn a_rewritten_packet_is_as_if_it_had_been_sent_so((from, to) in pair()) {
        let mut frame = from.frame(false);
        let packet = parsed(&frame, &VnetHdr::default());
        rewrite(&mut frame, &packet.meta, &change(&from, &to)).unwrap();
        let expected = to.frame(false);
        // Both forms of zero are right in TCP and ICMP; otherwise every byte is the same.
        let l4 = usize::from(packet.meta.l4_off);
        let at = l4 + match from.proto { PROTO_TCP => 16, PROTO_UDP => 6, _ => 2 };
        let value = |frame: &[u8]| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let (got, want) = (value(&frame), value(&expected));
        prop_assert!(got == want || (from.proto != PROTO_UDP && [got, want].iter().all(|it| matches!(it, 0 | 0xffff))));
        frame[at..at + 2].copy_from_slice(&want.to_be_bytes());
        let header = ETHERNET + V4_CHECKSUM;
        if from.v4() {
            prop_assert_eq!(sum(&frame[ETHERNET..l4]), 0xffff, "header checksum");
            frame[header..header + 2].copy_from_slice(&expected[header..header + 2]);
        }
        prop_assert_eq!(frame, expected);
    }

    #[test]
    fn completing_before_and_after_is_the_same((from, to) in pair_of(0..2)) {
        let nat = change(&from, &to);
        let mut first = from.frame(true);
        let mut meta = parsed(&first, &open(&from)).meta;
        prop_assert_eq!(meta.csum, Csum::Partial);
        let mut last = first.clone();
        let mut same = meta;
        // Completed, and rewritten.
        prop_assert!(checksum::complete(&mut first, &mut meta));
        rewrite(&mut first, &meta, &nat).unwrap();
        // Rewritten, and completed.
        rewrite(&mut last, &same, &nat).unwrap();
        prop_assert_eq!(same.csum, Csum::Partial);
        prop_assert!(checksum::complete(&mut last, &mut same));
        let at = usize::from(meta.l4_off) + if from.proto == PROTO_TCP { 16 } else { 6 };
        for frame in [&mut first, &mut last] {
            if from.proto == PROTO_TCP && frame[at..at + 2] == [0xff, 0xff] {
                frame[at..at + 2].copy_from_slice(&[0, 0]);
            }
        }
        prop_assert_eq!(first, last);
    }

    #[test]
    fn no_checksum_stays_none((from, to) in pair_of(1..2)) {
        let mut frame = from.frame(false);
        let meta = parsed(&frame, &VnetHdr::default()).meta;
        let at = usize::from(meta.l4_off) + 6;
        frame[at..at + 2].fill(0);
        rewrite(&mut frame, &meta, &change(&from, &to)).unwrap();
        prop_assert_eq!(&frame[at..at + 2], &[0, 0]);
    }

    #[test]
    fn a_checksum_that_comes_out_as_none_is_sent_in_its_other_form((from, to) in pair_of(1..2)) {
        // The last two bytes make it come out so.
        let mut to = to;
        to.payload.truncate(to.payload.len() / 2 * 2);
        to.payload.extend([0, 0]);
        let field = |frame: &[u8], l4: usize| u16::from_be_bytes([frame[l4 + 6], frame[l4 + 7]]);
        let l4 = ETHERNET + if to.v4() { 20 + 4 * to.options } else { 40 };
        let rest = field(&to.frame(false), l4);
        let end = to.payload.len();
        to.payload[end - 2..].copy_from_slice(&rest.to_be_bytes());
        let from = Sent { payload: to.payload.clone(), ..from };
        let mut frame = from.frame(false);
        let meta = parsed(&frame, &VnetHdr::default()).meta;
        rewrite(&mut frame, &meta, &change(&from, &to)).unwrap();
        prop_assert_eq!(field(&frame, l4), 0xffff);
    }

    #[test]
    fn of_a_fragment_the_identification_changes_where_it_must((from, to) in pair().prop_filter("IPv4", |(it, _)| it.v4()), id: u16, field in prop::sample::select(&[0x2000 | 7, 100][..])) {
        let mut frame = from.framed(&from.ip(&[7; 64], field));
        let meta = parsed(&frame, &VnetHdr::default()).meta;
        rewrite(&mut frame, &meta, &Nat { id: Some(id), ..change(&from, &to) }).unwrap();
        prop_assert_eq!(sum(&frame[ETHERNET..usize::from(meta.l4_off)]), 0xffff);
        prop_assert_eq!(&frame[ETHERNET + 4..ETHERNET + 6], &id.to_be_bytes());
    }

    #[test]
    fn of_a_later_fragment_the_addresses_change_and_nothing_else((from, to) in pair().prop_filter("IPv4", |(it, _)| it.v4()), bytes in proptest::collection::vec(any::<u8>(), 1..60)) {
        let bytes = &bytes[..];
        let mut frame = from.framed(&from.ip(bytes, 100));
        let meta = parsed(&frame, &VnetHdr::default()).meta;
        prop_assert_eq!(meta.fragment, Fragment::Later);
        rewrite(&mut frame, &meta, &change(&from, &to)).unwrap();
        let l4 = usize::from(meta.l4_off);
        prop_assert_eq!(&frame[l4..], bytes);
        prop_assert_eq!(sum(&frame[ETHERNET..l4]), 0xffff);
        prop_assert_eq!(&frame[ETHERNET + 12..ETHERNET + 20], &to.framed(&to.ip(bytes, 100))[ETHERNET + 12..ETHERNET + 20]);
    }

    #[test]
    fn sctp_keeps_its_l4_ports_and_its_checksum((from, to) in pair()) {
        let (from, to) = (Sent { proto: PROTO_SCTP, ..from }, Sent { proto: PROTO_SCTP, ..to });
        let mut frame = from.frame(false);
        let before = frame.clone();
        let meta = parsed(&frame, &VnetHdr::default()).meta;
        rewrite(&mut frame, &meta, &change(&from, &to)).unwrap();
        let l4 = usize::from(meta.l4_off);
        prop_assert_eq!(&frame[l4..], &before[l4..]);
    }

    /// The packet that is quoted was `quoted.0` where the error is made, and `quoted.1` where it goes.
    #[test]
    fn an_error_quotes_what_its_receiver_had_sent(
        quoted in pair(),
        own in prop_oneof![Just(None), (v4(), v6()).prop_map(Some)],
        outward: bool,
        cut in 0usize..80,
    ) {
        let (at_maker, at_sender) = quoted;
        // An identifier is the source's alone.
        let query = !matches!(at_maker.proto, PROTO_TCP | PROTO_UDP);
        let outward = outward && !query;
        // Into a network the source of the quoted packet was another, out of it the destination.
        let at_sender = if outward {
            Sent { src: at_maker.src, sport: at_maker.sport, ..at_sender }
        } else {
            Sent { dst: at_maker.dst, dport: at_maker.dport, ..at_sender }
        };
        let l4 = at_maker.l4(false);
        let cut = (8 + cut).min(l4.len());
        // Of half a checksum nothing can be made.
        let cut = if at_maker.proto == PROTO_TCP && cut == 17 { 18 } else { cut };
        let message = |quoted: &Sent| {
            let l4 = quoted.l4(false);
            [&[if quoted.v4() { 3 } else { 1 }, 3, 0, 0, 0, 0, 0, 0][..], &quoted.ip(&l4, 0)[..quoted.ip(&l4, 0).len() - (l4.len() - cut)]].concat()
        };
        // Made by a router on the way, or by whom the packet was for.
        let maker = match own {
            Some((v4, v6)) if !outward => if at_maker.v4() { v4 } else { v6 },
            _ => at_maker.dst,
        };
        let proto = if at_maker.v4() { PROTO_ICMP } else { PROTO_ICMPV6 };
        let error = |src, dst, quoted: &Sent| {
            let outer = Sent { proto, src, dst, sport: 0, dport: 0, payload: vec![], options: 0 };
            let mut bytes = message(quoted);
            let pseudo = if proto == PROTO_ICMP { 0 } else { checksum::pseudo(src, dst, proto, bytes.len() as u32) };
            let checksum = !checksum::add(pseudo, sum(&bytes));
            bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
            outer.framed(&outer.ip(&bytes, 0))
        };
        let mut frame = error(maker, at_maker.src, &at_maker);
        let seen_from = if outward { at_sender.dst } else { maker };
        let meta = parsed(&frame, &VnetHdr::default()).meta;
        prop_assert!(matches!(meta.body, Body::IcmpError(_)));
        let address = Delta::address(maker, seen_from).and(Delta::address(at_maker.src, at_sender.src));
        let nat = Nat {
            proto,
            src: seen_from,
            dst: at_sender.src,
            sport: at_sender.sport,
            dport: at_sender.dport,
            address,
            l4: Delta::NONE,
            id: None,
            from: Side::No,
            to: Side::No,
        };
        let mut damaged = frame.clone();
        *damaged.last_mut().unwrap() ^= 1;
        prop_assert_eq!(rewrite(&mut damaged, &meta, &nat), Err(DropReason::BadChecksum));
        rewrite(&mut frame, &meta, &nat).unwrap();
        prop_assert_eq!(total(&frame, &meta), Some(0xffff), "the checksum of the message");
        if at_maker.v4() {
            let inner = usize::from(meta.l4_off) + 8;
            prop_assert_eq!(sum(&frame[ETHERNET..ETHERNET + 20]), 0xffff);
            prop_assert_eq!(sum(&frame[inner..inner + 20 + 4 * at_maker.options]), 0xffff, "that of the quoted header");
        }
        // Both forms of zero.
        let zeros = |frame: &[u8]| {
            let Body::IcmpError(quoted) = parsed(frame, &VnetHdr::default()).meta.body else { panic!("an error") };
            let (l3, l4) = (usize::from(quoted.l3_off), usize::from(quoted.l4_off));
            let mut frame = frame.to_vec();
            let sums = [Some(ETHERNET + 24 - 14), at_maker.v4().then_some(l3 - ETHERNET + V4_CHECKSUM), None];
            let l4_sum = l4 + match at_maker.proto { PROTO_TCP => 16, PROTO_UDP => 6, _ => 2 };
            for at in sums.into_iter().flatten().map(|at| at + ETHERNET).chain([l4_sum, l3 - 6]) {
                if frame.get(at..at + 2) == Some(&[0xff, 0xff]) && at_maker.proto != PROTO_UDP {
                    frame[at..at + 2].fill(0);
                }
            }
            // The message's own follows from the rest.
            frame[l3 - 6..l3 - 4].fill(0);
            frame
        };
        prop_assert_eq!(zeros(&frame), zeros(&error(seen_from, at_sender.src, &at_sender)));
    }

    #[test]
    fn nothing_that_parses_panics(
        (from, to) in pair(),
        error: bool,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in any::<prop::sample::Index>(),
        proto: u8,
    ) {
        let mut frame = from.frame(false);
        if error {
            let kind = if from.v4() { 3 } else { 1 };
            let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &frame[ETHERNET..]].concat();
            let outer = Sent { proto: if from.v4() { PROTO_ICMP } else { PROTO_ICMPV6 }, ..from.clone() };
            frame = outer.framed(&outer.ip(&message, 0));
        }
        for (at, byte) in changes {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        frame.truncate(length.index(frame.len() * 4).max(1));
        let Ok(packet) = parse(&frame, &VnetHdr::default(), PortId(1), 0) else { return Ok(()) };
        for proto in [packet.key.proto, from.proto, proto] {
            let nat = Nat { proto, ..change(&from, &to) };
            let _ = rewrite(&mut frame.clone(), &packet.meta, &nat);
            let key = FlowKey { proto, ..packet.key };
            let quoted = Quoted { key, l3_off: packet.meta.l3_off, l4_off: packet.meta.l4_off, has_ports: true };
            let _ = quotation(&mut frame.clone(), &packet.meta, &quoted, nat.dst, &nat);
        }
    }
}
