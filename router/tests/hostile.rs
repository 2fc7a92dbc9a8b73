//! Any bytes, and a `Meta` that is theirs or was once: nothing panics, and nothing is written that does not parse.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use router::icmp::limit::{Limiter, Rate, Rates};
use router::icmp::{echo, error};
use router::{Origin, arp, forward, fragment, martian, mss, nd};
use switch::flow::{Body, Packet};
use switch::mac::MacAddr;
use switch::parse::parse;
use switch::port::PortId;
use switch::tick::Tick;
use switch::vnet::VnetHdr;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

const PROBLEMS: [error::Problem; 8] = [
    error::Problem::NoRoute,
    error::Problem::Unresolved,
    error::Problem::Protocol,
    error::Problem::Port,
    error::Problem::Prohibited,
    error::Problem::TooBig { mtu: 1300 },
    error::Problem::TimeExceeded,
    error::Problem::Incomplete,
];

/// Frames to start from: ARP; IPv4 with options and UDP, TCP SYN, ICMP echo; IPv6 with a chain, and a solicitation.
fn templates() -> Vec<Vec<u8>> {
    let ethernet = |ethertype: [u8; 2], payload: &[u8]| {
        [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9], &ethertype[..], payload].concat()
    };
    let v4 = |head: u8, proto: u8, rest: &[u8]| {
        let len = (20 + rest.len()) as u16;
        let mut packet =
            [&[head, 0], &len.to_be_bytes()[..], &[0, 1, 0, 0, 5, proto, 0, 0, 10, 1, 0, 9, 10, 1, 0, 1]]
                .concat();
        packet.extend(rest);
        ethernet([8, 0], &packet)
    };
    let v6 = |next: u8, rest: &[u8]| {
        let len = rest.len() as u16;
        let addresses =
            [Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)];
        let addresses = addresses.map(|address| address.octets()).concat();
        let packet = [&[0x60, 0, 0, 0], &len.to_be_bytes()[..], &[next, 255], &addresses, rest].concat();
        ethernet([0x86, 0xdd], &packet)
    };
    let udp = [&[0, 9, 0, 9, 0, 104, 0, 0], &[7; 96][..]].concat();
    let syn = [0, 9, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0x70, 2, 0, 0, 0, 0, 0, 0, 2, 4, 5, 0xb4, 1, 1, 1, 0];
    let arp = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 1, 0, 9, 0, 0, 0, 0, 0, 0, 10, 1, 0, 1];
    let options = [&[0x94, 4, 0, 0, 7, 3, 4, 0][..], &udp].concat();
    vec![
        ethernet([8, 6], &arp),
        v4(0x47, 17, &options),
        v4(0x45, 6, &syn),
        v4(0x45, 1, &[8, 0, 0xf7, 0xfd, 0, 1, 0, 1]),
        v6(17, &udp),
        v6(6, &syn),
        v6(
            0,
            &[&[60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 5][..], &udp]
                .concat(),
        ),
        v6(58, &[128, 0, 0, 0, 0, 1, 0, 1]),
    ]
}

fn origins() -> [Origin; 3] {
    let v4 = Ipv4Addr::new(10, 1, 0, 1).to_ipv6_mapped();
    let addresses =
        [v4, Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)];
    addresses.map(|address| Origin { mac: MAC, address })
}

/// Asserts that what was written is a frame of that length, by the parser's judgement.
fn is_sound(out: &[u8], len: usize) {
    let parsed = parse(&out[..len], &VnetHdr::default(), PortId(0), 0);
    assert!(parsed.is_ok(), "{parsed:?}");
}

/// Everything, on a frame that may not be the one `packet` was read from.
fn everything(
    frame: &[u8],
    packet: &Packet,
    mtu: usize,
    prefix_len: u8,
    out: &mut [u8],
    edited: &mut Vec<u8>,
) {
    let meta = &packet.meta;
    for origin in origins() {
        for problem in PROBLEMS {
            if let Ok(len) = error::build(frame, packet, problem, &origin, prefix_len, out) {
                is_sound(out, len);
            }
        }
    }
    if let Body::Arp(question) = meta.body
        && let Some(len) = arp::reply(&question, MAC, out)
    {
        is_sound(out, len);
    }
    if let Some(len) = nd::advertisement(packet, MAC, nd::Speaks::Router, out) {
        is_sound(out, len);
    }
    for index in 0..fragment::count(frame, meta, mtu).min(70) {
        fragment::fragment(frame, meta, mtu, index, out);
    }
    let _ = martian::check(packet);
    let _ = forward::header_verifies(frame, meta);
    edited.clear();
    edited.extend_from_slice(frame);
    mss::clamp(edited, meta, mtu as u32);
    let _ = forward::rewrite(edited, meta, MAC, MAC);
    let _ = echo::reply(edited, packet);
    assert_eq!(edited.len(), frame.len());
}

/// Makes an IPv4 header checksum right again, so that what comes after it is reached.
fn mend(frame: &mut [u8]) {
    if let Ok(packet) = parse(frame, &VnetHdr::default(), PortId(0), 0)
        && packet.meta.l3 == switch::flow::L3::V4
    {
        let header = &mut frame[usize::from(packet.meta.l3_off)..usize::from(packet.meta.l4_off)];
        header[10..12].fill(0);
        let check = !switch::checksum::sum(header);
        header[10..12].copy_from_slice(&check.to_be_bytes());
    }
}

#[test]
fn the_templates_get_everywhere() {
    let mut made = [0; 4];
    for mut frame in templates() {
        mend(&mut frame);
        let packet = parse(&frame, &VnetHdr::default(), PortId(0), 0).unwrap();
        let mut out = [0; 2000];
        for origin in origins() {
            let error = error::build(&frame, &packet, error::Problem::NoRoute, &origin, 24, &mut out);
            made[0] += usize::from(error.is_ok());
        }
        made[1] += fragment::count(&frame, &packet.meta, 68);
        made[2] += usize::from(mss::clamp(&mut frame, &packet.meta, 1000));
        made[3] += usize::from(echo::reply(&mut frame, &packet).is_ok());
    }
    // Three of IPv4 by one origin, four of IPv6 by two; three pieces and two whole packets; two SYNs; one echo (the
    // other has a wrong checksum).
    assert_eq!(made, [3 + 4 * 2, 5, 2, 1]);
}

#[test]
fn nothing_allocates() {
    let (mut out, mut edited) = ([0; 2000], Vec::with_capacity(2000));
    let mut limiter = Limiter::new(4, Rates { port: RATE, all: RATE }, 1);
    for mut frame in templates() {
        mend(&mut frame);
        let packet = parse(&frame, &VnetHdr::default(), PortId(0), 0).unwrap();
        let info = allocation_counter::measure(|| {
            everything(&frame, &packet, 68, 24, &mut out, &mut edited);
            for origin in origins() {
                let _ = arp::announce(&origin, &mut out);
                let _ = nd::announce(&origin, &mut out);
                let _ = nd::router_advertisement(&origin, &ADVERTISED, None, &mut out);
            }
            let _ = limiter.take(PortId(1), Tick::from_millis(5));
        });
        assert_eq!(info.count_total, 0);
    }
}

const RATE: Rate = Rate { per_second: 10, burst: 2 };

const ADVERTISED: nd::Advertised<'_> = nd::Advertised {
    lifetime: 1800,
    managed: false,
    other: false,
    mtu: Some(1500),
    prefixes: &[nd::Prefix {
        address: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0),
        len: 64,
        on_link: true,
        autonomous: true,
        valid: 86_400,
        preferred: 14_400,
    }],
    dns: &[Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)],
    dns_lifetime: 3600,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn nothing_panics(
        template in 0usize..8,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        flags in 0u8..3,
        gso_type in prop::sample::select(vec![0u8, 0, 0, 1, 4, 5]),
        sizes in any::<[u16; 3]>(),
        mtu in prop_oneof![0usize..200, Just(1500)],
        prefix_len: u8,
        room in prop_oneof![0usize..200, Just(2000)],
        cut in any::<prop::sample::Index>(),
    ) {
        let mut frame = templates().swap_remove(template);
        for (at, byte) in edits {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        mend(&mut frame);
        let [gso_size, csum_start, csum_offset] = sizes;
        let vnet = VnetHdr {
            flags,
            gso_type,
            gso_size: gso_size.into(),
            csum_start: if csum_start % 2 == 0 { 34 } else { csum_start % 200 }.into(),
            csum_offset: if csum_offset % 2 == 0 { 16 } else { 6 }.into(),
            ..VnetHdr::default()
        };
        if let Ok(packet) = parse(&frame, &vnet, PortId(0), 0) {
            let (mut out, mut edited) = (vec![0xa5; room], Vec::new());
            everything(&frame, &packet, mtu, prefix_len, &mut out, &mut edited);
            // A frame that is no longer what was parsed: cut off, and other bytes altogether.
            let cut = cut.index(frame.len());
            everything(&frame[..cut], &packet, mtu, prefix_len, &mut out, &mut edited);
            everything(&vec![0xff; frame.len()], &packet, mtu, prefix_len, &mut out, &mut edited);
        }
    }
}
