//! One frame for each protocol and each hostile input, with what the parser must say of it. They are the seeds of the
//! committed corpus too.

use std::net::Ipv6Addr;

use switch::drop::DropReason::{self, *};
use switch::vnet::VnetHdr;

use crate::packets::*;

/// A named frame; `expected` is the reason to drop it, `None` where it is good.
pub struct Case {
    pub name: String,
    pub vnet: VnetHdr,
    pub frame: Vec<u8>,
    pub expected: Option<DropReason>,
}

/// All of them.
pub fn all() -> Vec<Case> {
    [link(), arp(), v4(), v6(), l4(), icmp_errors(), nd(), groups(), offload()]
        .into_iter()
        .flatten()
        .collect()
}

fn plain(name: &str, frame: Vec<u8>, expected: impl Into<Option<DropReason>>) -> Case {
    Case { name: name.to_owned(), vnet: VnetHdr::default(), frame, expected: expected.into() }
}

/// Messages about groups: what is wrong with one matters where somebody snoops, so none is dropped here.
fn groups() -> Vec<Case> {
    const GROUP: [u8; 4] = [239, 1, 1, 1];
    const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let igmp = |kind, time, rest: [u8; 4], body: &[u8]| ethernet(&ipv4(2, &icmp(kind, time, rest, body)));
    let record = [&[4, 0, 0, 0][..], &GROUP, &[3, 1, 0, 1], &GROUP, &[10, 1, 0, 9], &[0xff; 4]].concat();
    let to: Ipv6Addr = "ff02::16".parse().unwrap_or(LINK_LOCAL);
    let mld = |message: &[u8]| {
        let options = [&[58, 0, 5, 2, 0, 0, 1, 0][..], &icmpv6(LINK_LOCAL, to, message)].concat();
        let mut packet = ipv6_to(to, LINK_LOCAL, 0, &options);
        packet[7] = 1;
        tagged(&[], 0x86dd, &packet)
    };
    let group = to.octets();
    let record6 = [&[4, 0, 0, 0][..], &group, &[3, 1, 0, 1], &group, &group, &[0xff; 4]].concat();
    vec![
        plain("igmp-query-2", igmp(0x11, 100, [0; 4], &[]), None),
        plain("igmp-query-3", igmp(0x11, 100, GROUP, &[2, 125, 0, 0]), None),
        plain("igmp-report-2", igmp(0x16, 0, GROUP, &[]), None),
        plain("igmp-leave", igmp(0x17, 0, GROUP, &[]), None),
        plain("igmp-report-3", igmp(0x22, 0, [0, 0, 0, 2], &record), None),
        plain("igmp-report-3-more-than-there-are", igmp(0x22, 0, [0, 0, 0xff, 0xff], &record), None),
        plain(
            "mld-query-2",
            mld(&[&[130, 0, 0, 0, 1, 0, 0, 0][..], &[0; 16], &[2, 125, 0, 0]].concat()),
            None,
        ),
        plain("mld-report-1", mld(&[&[131, 0, 0, 0, 0, 0, 0, 0][..], &group].concat()), None),
        plain("mld-report-2", mld(&[&[143, 0, 0, 0, 0, 0, 0, 2][..], &record6].concat()), None),
        plain("pim-hello", ethernet(&ipv4(103, &[0x20, 0, 0xdf, 0xff])), None),
    ]
}

/// A good IPv4 TCP packet.
pub fn tcp4() -> Vec<u8> {
    let mut l4 = tcp(ACK, b"hello");
    let check = reference_l4(A4.to_ipv6_mapped(), B4.to_ipv6_mapped(), TCP, &l4);
    l4[16..18].copy_from_slice(&check.to_be_bytes());
    ipv4(TCP, &l4)
}

/// H07, H08, H09: lengths, tags, 802.3.
fn link() -> Vec<Case> {
    let ip = tcp4();
    let mut cases: Vec<_> = [0, 1, 13]
        .into_iter()
        .map(|len| plain(&format!("link-{len}-bytes"), ethernet(&ip)[..len].to_vec(), TruncatedFrame))
        .collect();
    cases.push(plain("link-14-bytes", tagged(&[], 0x0800, &[]), MalformedIpv4));
    cases.push(plain("link-15-bytes", tagged(&[], 0x0800, &[0x45]), MalformedIpv4));
    cases.push(plain("link-other", tagged(&[], 0x88b5, b"test"), None));
    cases.push(plain("link-other-empty", tagged(&[], 0x88b5, &[]), None));
    for tpid in [0x8100, 0x88a8, 0x9100] {
        cases.push(plain(&format!("vlan-{tpid:04x}"), tagged(&[(tpid, 10)], 0x0800, &ip), None));
    }
    let dot1q = |vid| (0x8100, vid);
    let tags = |tags: &[(u16, u16)]| tagged(tags, 0x0800, &ip);
    cases.push(plain("vlan-0-priority", tags(&[dot1q(0x6000)]), None));
    cases.push(plain("vlan-4094", tags(&[dot1q(4094)]), None));
    cases.push(plain("vlan-4095", tags(&[dot1q(4095)]), BadVlan));
    cases.push(plain("vlan-qinq", tags(&[(0x88a8, 100), dot1q(10)]), None));
    cases.push(plain("vlan-qinq-4095", tags(&[(0x88a8, 100), dot1q(4095)]), BadVlan));
    cases.push(plain("vlan-0-then-10", tags(&[dot1q(0), dot1q(10)]), BadVlan));
    cases.push(plain("vlan-10-then-0", tags(&[dot1q(10), dot1q(0)]), None));
    cases.push(plain("vlan-3", tags(&[dot1q(1); 3]), BadVlan));
    cases.push(plain("vlan-8", tags(&[dot1q(1); 8]), BadVlan));
    cases.push(plain("vlan-cut", tagged(&[], 0x8100, &[0]), TruncatedFrame));
    cases.push(plain("vlan-cut-inner", tagged(&[dot1q(1)], 0x8100, &[0, 1, 8]), TruncatedFrame));
    cases.push(plain("llc-stp", tagged(&[], 38, &[[0x42, 0x42, 3].to_vec(), vec![0; 40]].concat()), None));
    cases.push(plain("llc-length-too-long", tagged(&[], 100, &[0x42; 60]), BadLength));
    cases.push(plain("llc-length-1501", tagged(&[], 1501, &[0x42; 1501]), BadLength));
    cases.push(plain("llc-length-1535", tagged(&[], 1535, &[0x42; 1535]), BadLength));
    cases.push(plain("llc-length-2", tagged(&[], 2, &[0xaa; 60]), TruncatedFrame));
    cases.push(plain("snap-cut", tagged(&[], 7, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]), TruncatedFrame));
    cases.push(plain("snap-ipv4", snap([0, 0, 0], 0x0800, &ip), None));
    cases.push(plain("snap-ipv4-802.1h", snap([0, 0, 0xf8], 0x0800, &ip), None));
    cases.push(plain("snap-cisco", snap([0, 0, 0xc], 0x2000, &[1; 20]), None));
    cases.push(plain("snap-tag", snap([0, 0, 0], 0x8100, &[0, 10, 8, 0]), BadVlan));
    cases.push(plain("snap-not-ethertype", snap([0, 0, 0], 0x0500, &ip), None));
    // The IP packet is longer than the 802.3 length says, though its bytes are there.
    let mut lie = snap([0, 0, 0], 0x0800, &ip);
    lie[13] -= 4;
    cases.push(plain("snap-length-cuts-ip", lie, MalformedIpv4));
    cases.push(plain("link-64-KiB", ethernet(&[ip, vec![0; 65483]].concat()), None));
    cases
}

pub fn arp_body(operation: u16) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4];
    body.extend(operation.to_be_bytes());
    body.extend(MAC_A);
    body.extend(A4.octets());
    body.extend([0; 6]);
    body.extend(B4.octets());
    body
}

/// H11.
fn arp() -> Vec<Case> {
    let frame = |body: &[u8]| tagged(&[], 0x0806, body);
    let mut cases = vec![
        plain("arp-request", frame(&arp_body(1)), None),
        plain("arp-reply-padded", frame(&[arp_body(2), vec![0; 18]].concat()), None),
        plain("arp-snap", snap([0, 0, 0], 0x0806, &arp_body(2)), None),
        plain("arp-cut", frame(&arp_body(1)[..27]), MalformedArp),
        plain("arp-empty", frame(&[]), MalformedArp),
    ];
    for operation in [0, 3, 8, 25] {
        cases.push(plain(&format!("arp-operation-{operation}"), frame(&arp_body(operation)), MalformedArp));
    }
    for (index, value) in [(1, 6), (2, 0x86), (4, 5), (5, 16)] {
        let mut body = arp_body(1);
        body[index] = value;
        cases.push(plain(&format!("arp-byte-{index}"), frame(&body), MalformedArp));
    }
    cases
}

/// H14, H17, H19.
fn v4() -> Vec<Case> {
    let good = tcp4();
    let with = |index: usize, value: u8| {
        let mut ip = good.clone();
        ip[index] = value;
        tagged(&[], 0x0800, &ip)
    };
    let options = |options: &[u8]| ethernet(&V4 { options, ..V4::PLAIN }.build(UDP, &udp(b"x")));
    let piece = |fragment, proto, len| {
        ethernet(&V4 { fragment, ..V4::PLAIN }.build(proto, &[tcp(ACK, &[]), payload(64)].concat()[..len]))
    };
    let mut cases = vec![
        plain("v4-tcp", ethernet(&good), None),
        plain("v4-padded", ethernet(&[good.clone(), vec![0; 20]].concat()), None),
        plain("v4-version-6", with(0, 0x65), MalformedIpv4),
        plain("v4-version-0", with(0, 0x05), MalformedIpv4),
        plain("v4-ihl-15-beyond-end", with(0, 0x4f), MalformedIpv4),
        plain("v4-total-0", with(3, 0), MalformedIpv4),
        plain("v4-total-19", with(3, 19), MalformedIpv4),
        plain("v4-total-beyond-frame", with(2, 1), MalformedIpv4),
        plain("v4-total-cuts-tcp", with(3, 39), MalformedL4),
        plain("v4-bad-checksum", with(10, 0xee), None),
        plain("v4-proto-0", ethernet(&ipv4(0, b"any")), None),
        plain("v4-proto-255", ethernet(&ipv4(255, &[])), None),
        plain("v4-icmpv6-is-unknown", ethernet(&ipv4(ICMPV6, &[135, 0, 0, 0])), None),
        plain("v4-options-record-route-full", options(&[7, 7, 8, 1, 2, 3, 4, 0]), None),
        plain("v4-options-nop", options(&[1, 1, 1, 0]), None),
        plain("v4-options-length-0", options(&[7, 0, 0, 0]), MalformedIpv4),
        plain("v4-options-length-1", options(&[7, 1, 0, 0]), MalformedIpv4),
        plain("v4-options-over-end", options(&[7, 5, 4, 0]), MalformedIpv4),
        plain("v4-options-kind-at-end", options(&[1, 1, 1, 7]), MalformedIpv4),
        plain("v4-options-after-end", options(&[0, 7, 0, 0]), None),
        plain("v4-loose-source-route", options(&[131, 7, 4, 10, 0, 0, 1, 0]), SourceRoute),
        plain("v4-strict-source-route", options(&[1, 137, 7, 4, 10, 0, 0, 1]), SourceRoute),
        plain("v4-first", piece(0x2000, TCP, 64), None),
        plain("v4-first-without-tcp-header", piece(0x2000, TCP, 24), MalformedL4),
        plain("v4-first-udp-4-bytes", piece(0x2000, UDP, 4), MalformedIpv4),
        plain("v4-first-ragged", piece(0x2000, TCP, 61), MalformedIpv4),
        plain("v4-later", piece(0x2008, TCP, 64), None),
        plain("v4-last-ragged", piece(0x0008, TCP, 13), None),
        plain("v4-later-empty", piece(0x0008, TCP, 0), MalformedIpv4),
        plain("v4-later-rewrites-tcp", piece(0x2001, TCP, 64), MalformedL4),
        plain("v4-later-rewrites-tcp-flags", piece(0x0002, TCP, 64), MalformedL4),
        plain("v4-later-udp-at-8", piece(0x2001, UDP, 64), None),
        plain("v4-ping-of-death", piece(0x1fff, ICMP, 64), MalformedIpv4),
    ];
    for ihl in 0..5 {
        cases.push(plain(&format!("v4-ihl-{ihl}"), with(0, 0x40 | ihl), MalformedIpv4));
    }
    cases
}

/// An extension header of 8 bytes.
fn extension(next: u8) -> Vec<u8> {
    vec![next, 0, 1, 4, 0, 0, 0, 0]
}

fn fragment_header(next: u8, offset_and_more: u16) -> Vec<u8> {
    let [o0, o1] = offset_and_more.to_be_bytes();
    vec![next, 0, o0, o1, 0, 0, 0, 99]
}

/// H17, H19, H20.
fn v6() -> Vec<Case> {
    const HBH: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AH: u8 = 51;
    const NONE: u8 = 59;
    const DESTINATION: u8 = 60;
    let good = udp(b"hello");
    let chain = |first: u8, headers: &[Vec<u8>], last: &[u8]| {
        ethernet(&ipv6(first, &[headers.concat(), last.to_vec()].concat()))
    };
    let many = |count: usize| {
        let mut headers = vec![extension(DESTINATION); count];
        headers[count - 1] = extension(UDP);
        chain(DESTINATION, &headers, &good)
    };
    let with = |index: usize, value: u8| {
        let mut ip = ipv6(UDP, &good);
        ip[index] = value;
        tagged(&[], 0x86dd, &ip)
    };
    let ah = [vec![UDP, 4, 0, 0], vec![0; 20]].concat();
    let rh =
        |kind, left| vec![UDP, 2, kind, left, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let jumbo = vec![UDP, 0, 0xc2, 4, 0, 1, 0, 0];
    let mut jumbogram = chain(HBH, std::slice::from_ref(&jumbo), &good);
    jumbogram[18..20].fill(0);
    let dns = [udp(&payload(80)), vec![]].concat();
    vec![
        plain("v6-udp", ethernet(&ipv6(UDP, &good)), None),
        plain("v6-version-4", with(0, 0x40), MalformedIpv6),
        plain("v6-payload-too-long", with(4, 1), MalformedIpv6),
        plain("v6-payload-cuts-udp", with(5, 7), MalformedL4),
        plain("v6-payload-0-udp", with(5, 0), MalformedL4),
        plain("v6-cut", tagged(&[], 0x86dd, &ipv6(UDP, &good)[..39]), MalformedIpv6),
        plain("v6-empty", ethernet(&ipv6(NONE, &[])), None),
        plain("v6-59-with-data", ethernet(&ipv6(NONE, b"data")), None),
        plain("v6-proto-255", ethernet(&ipv6(255, b"data")), None),
        plain("v6-mapped-source", ethernet(&ipv6_to(B6, A4.to_ipv6_mapped(), UDP, &good)), MappedAddress),
        plain(
            "v6-mapped-destination",
            ethernet(&ipv6_to(B4.to_ipv6_mapped(), A6, UDP, &good)),
            MappedAddress,
        ),
        plain(
            "v6-nearly-mapped",
            ethernet(&ipv6_to(B6, Ipv6Addr::from_bits(0xfffe_0a01_0002), UDP, &good)),
            None,
        ),
        plain("v6-icmp-is-unknown", ethernet(&ipv6(ICMP, &[8, 0, 0, 0])), None),
        plain("v6-hbh", chain(HBH, &[extension(UDP)], &good), None),
        plain("v6-hbh-second", chain(DESTINATION, &[extension(HBH), extension(UDP)], &good), MalformedIpv6),
        plain("v6-hbh-twice", chain(HBH, &[extension(HBH), extension(UDP)], &good), MalformedIpv6),
        plain("v6-jumbo-option", chain(HBH, &[jumbo], &good), None),
        plain("v6-jumbogram", jumbogram, MalformedIpv6),
        plain("v6-zero-length-options", chain(DESTINATION, &[vec![UDP, 0, 1, 0, 1, 0, 1, 0]], &good), None),
        plain("v6-16-headers", many(16), None),
        plain("v6-17-headers", many(17), MalformedIpv6),
        plain("v6-100-headers", many(100), MalformedIpv6),
        plain("v6-extension-over-end", chain(DESTINATION, &[vec![UDP, 9, 0, 0]], &good), MalformedIpv6),
        plain("v6-extension-cut", chain(DESTINATION, &[], &[UDP]), MalformedIpv6),
        plain("v6-ah", chain(AH, &[ah], &good), None),
        plain("v6-routing-0", chain(ROUTING, &[rh(0, 1)], &good), SourceRoute),
        plain("v6-routing-0-done", chain(ROUTING, &[rh(0, 0)], &good), None),
        plain("v6-routing-4", chain(ROUTING, &[rh(4, 1)], &good), None),
        plain("v6-atomic", chain(FRAGMENT, &[fragment_header(UDP, 0)], &good), None),
        plain("v6-first", chain(FRAGMENT, &[fragment_header(UDP, 1)], &dns[..64]), None),
        plain("v6-first-ragged", chain(FRAGMENT, &[fragment_header(UDP, 1)], &dns[..63]), MalformedIpv6),
        plain(
            "v6-first-without-header",
            chain(FRAGMENT, &[fragment_header(TCP, 1)], &dns[..16]),
            MalformedL4,
        ),
        plain(
            "v6-first-without-chain",
            chain(FRAGMENT, &[fragment_header(DESTINATION, 1)], &[UDP, 1, 0, 0, 0, 0, 0, 0]),
            MalformedIpv6,
        ),
        plain("v6-later", chain(FRAGMENT, &[fragment_header(UDP, 64)], &dns[64..]), None),
        plain("v6-later-empty", chain(FRAGMENT, &[fragment_header(UDP, 64)], &[]), MalformedIpv6),
        plain("v6-later-rewrites-tcp", chain(FRAGMENT, &[fragment_header(TCP, 8)], &dns), MalformedL4),
        plain("v6-ping-of-death", chain(FRAGMENT, &[fragment_header(UDP, 0xfff8)], &dns), MalformedIpv6),
        plain(
            "v6-fragment-twice",
            chain(FRAGMENT, &[fragment_header(FRAGMENT, 0), fragment_header(UDP, 0)], &good),
            MalformedIpv6,
        ),
    ]
}

/// H24, H25, H26.
fn l4() -> Vec<Case> {
    let with = |proto: u8, mut l4: Vec<u8>, index: usize, value: u8| {
        l4[index] = value;
        ethernet(&ipv4(proto, &l4))
    };
    let no_ports = |mut l4: Vec<u8>| {
        l4[..4].fill(0);
        l4
    };
    let mut cases = vec![
        plain("tcp-port-0", ethernet(&ipv4(TCP, &no_ports(tcp(2, b"")))), None),
        plain("udp-port-0", ethernet(&ipv4(UDP, &no_ports(udp(b"x")))), None),
        plain("tcp-syn-data", ethernet(&ipv4(TCP, &tcp(2, b"early"))), None),
        plain("tcp-xmas", ethernet(&ipv4(TCP, &tcp(0xff, b""))), None),
        plain("tcp-null", ethernet(&ipv4(TCP, &tcp(0, b""))), None),
        plain("tcp-urgent-beyond", with(TCP, tcp(0x30, b"u"), 18, 0xff), None),
        plain("tcp-doff-15-beyond-end", with(TCP, tcp(ACK, b""), 12, 0xf0), MalformedL4),
        plain("tcp-19-bytes", ethernet(&ipv4(TCP, &tcp(ACK, b"")[..19])), MalformedL4),
        plain("tcp-empty", ethernet(&ipv4(TCP, &[])), MalformedL4),
        plain("udp-length-0", with(UDP, udp(b"x"), 5, 0), MalformedL4),
        plain("udp-length-7", with(UDP, udp(b"x"), 5, 7), MalformedL4),
        plain("udp-length-8-of-9", with(UDP, udp(b"x"), 5, 8), None),
        plain("udp-length-beyond-packet", with(UDP, udp(b"x"), 5, 10), MalformedL4),
        plain(
            "udp-length-in-padding",
            ethernet(&[ipv4(UDP, &udp(b"xyz")[..9]), vec![0; 9]].concat()),
            MalformedL4,
        ),
        plain("udp-7-bytes", ethernet(&ipv4(UDP, &udp(b"")[..7])), MalformedL4),
        plain("udp-checksum-0-over-v6", ethernet(&ipv6(UDP, &udp(b"x"))), None),
        plain("sctp", ethernet(&ipv4(132, &[0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0])), None),
        plain("sctp-11-bytes", ethernet(&ipv4(132, &[1; 11])), MalformedL4),
        plain("icmp-echo", ethernet(&ipv4(ICMP, &icmp(8, 0, [0x12, 0x34, 0, 1], b"ping"))), None),
        plain("icmp-7-bytes", ethernet(&ipv4(ICMP, &[8, 0, 0, 0, 0, 0, 0])), MalformedL4),
        plain(
            "icmpv6-echo",
            ethernet(&ipv6(ICMPV6, &icmpv6(A6, B6, &[129, 0, 0, 0, 0x12, 0x34, 0, 1, 1]))),
            None,
        ),
        plain("icmpv6-7-bytes", ethernet(&ipv6(ICMPV6, &[128, 0, 0, 0, 0, 0, 0])), MalformedL4),
    ];
    for doff in 0..5 {
        cases.push(plain(&format!("tcp-doff-{doff}"), with(TCP, tcp(ACK, b""), 12, doff << 4), MalformedL4));
    }
    cases
}

/// H18. A quotation that is cut off is no reason to drop the error.
fn icmp_errors() -> Vec<Case> {
    let v4 = |kind, quoted: &[u8]| ethernet(&ipv4(ICMP, &icmp(kind, 1, [0; 4], quoted)));
    let v6 = |kind: u8, quoted: &[u8]| {
        let message = [&[kind, 0, 0, 0, 0, 0, 5, 0], quoted].concat();
        ethernet(&ipv6(ICMPV6, &icmpv6(A6, B6, &message)))
    };
    let inner = tcp4();
    let inner6 = ipv6(UDP, &udp(b"hello"));
    let later = V4 { fragment: 8, ..V4::PLAIN }.build(UDP, b"middle of it");
    vec![
        plain("icmp-unreachable", v4(3, &inner), None),
        plain("icmp-time-exceeded-28", v4(11, &inner[..28]), None),
        plain("icmp-quotes-23", v4(3, &inner[..23]), None),
        plain("icmp-quotes-19", v4(3, &inner[..19]), None),
        plain("icmp-quotes-nothing", v4(12, &[]), None),
        plain("icmp-quotes-v6", v4(3, &inner6), None),
        plain("icmp-quotes-ihl-0", v4(5, &[&[0x40], &inner[1..]].concat()), None),
        plain("icmp-quotes-ihl-15", v4(4, &[&[0x4f], &inner[1..28]].concat()), None),
        plain("icmp-quotes-later-fragment", v4(3, &later), None),
        plain("icmp-quotes-error", v4(3, &ipv4(ICMP, &icmp(3, 1, [0; 4], &inner))), None),
        plain("icmpv6-too-big", v6(2, &inner6), None),
        plain("icmpv6-quotes-43", v6(1, &inner6[..43]), None),
        plain("icmpv6-quotes-39", v6(3, &inner6[..39]), None),
        plain("icmpv6-quotes-chain-cut", v6(4, &ipv6(60, &[17, 200, 0, 0])), None),
        plain(
            "icmpv6-quotes-first-ragged",
            v6(1, &ipv6(44, &[fragment_header(UDP, 1), udp(b"abc")].concat())),
            None,
        ),
        plain("icmpv6-unknown-error", v6(100, &inner6), None),
    ]
}

/// A neighbour discovery frame with hop limit 255.
pub fn nd_frame(src: Ipv6Addr, dst: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    ethernet(&ipv6_to(dst, src, ICMPV6, &icmpv6(src, dst, message)))
}

/// A message: type, the second word, addresses, options.
pub fn nd_message(kind: u8, word: [u8; 4], addresses: &[Ipv6Addr], options: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0], &word[..]].concat();
    addresses.iter().for_each(|address| message.extend(address.octets()));
    message.extend(options);
    message
}

/// A link-layer address option of A.
pub fn lla(kind: u8) -> Vec<u8> {
    [&[kind, 1], &MAC_A[..]].concat()
}

/// H21, RFC 4861 sections 6.1, 7.1, 8.1 and RFC 6980.
fn nd() -> Vec<Case> {
    const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
    const GLOBAL: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const ALL: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const SOLICITED: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0xb);
    let ns = |target, options: &[u8]| nd_message(135, [0; 4], &[target], options);
    let good = nd_frame(A6, SOLICITED, &ns(B6, &lla(1)));
    let with = |index: usize, value: u8| {
        let mut frame = good.clone();
        frame[index] = value;
        frame
    };
    let checked = |code: u8, message: Vec<u8>| {
        let mut message = message;
        message[1] = code;
        nd_frame(A6, SOLICITED, &message)
    };
    let na =
        |dst, flags: u8, target| nd_frame(A6, dst, &nd_message(136, [flags, 0, 0, 0], &[target], &lla(2)));
    let rs = |src, options: &[u8]| nd_frame(src, ALL, &nd_message(133, [0; 4], &[], options));
    let ra_body = [vec![0; 8], lla(1), vec![5, 1, 0, 0, 0, 0, 5, 220]].concat();
    let ra = |src| nd_frame(src, ALL, &nd_message(134, [64, 0, 7, 8], &[], &ra_body));
    let redirect =
        |src, target, to: Ipv6Addr| nd_frame(src, B6, &nd_message(137, [0; 4], &[target, to], &lla(2)));
    let message = icmpv6(A6, SOLICITED, &ns(B6, &lla(1)));
    let atomic = ipv6_to(SOLICITED, A6, 44, &[fragment_header(ICMPV6, 0), message.clone()].concat());
    let first = ipv6_to(SOLICITED, A6, 44, &[fragment_header(ICMPV6, 1), message].concat());
    vec![
        plain("nd-ns", good.clone(), None),
        plain("nd-ns-hop-limit-254", with(21, 254), MalformedNd),
        plain("nd-ns-bad-checksum", with(56, 0xee), MalformedNd),
        plain("nd-ns-code-1", checked(1, ns(B6, &[])), MalformedNd),
        plain("nd-ns-target-multicast", nd_frame(A6, SOLICITED, &ns(ALL, &[])), MalformedNd),
        plain("nd-ns-target-mapped", nd_frame(A6, SOLICITED, &ns(A4.to_ipv6_mapped(), &[])), MappedAddress),
        plain("nd-ns-short", nd_frame(A6, B6, &nd_message(135, [0; 4], &[], &[0; 15])), MalformedNd),
        plain("nd-ns-probe", nd_frame(ANY, SOLICITED, &ns(B6, &[14, 1, 1, 2, 3, 4, 5, 6])), None),
        plain("nd-ns-probe-with-address", nd_frame(ANY, SOLICITED, &ns(B6, &lla(1))), MalformedNd),
        plain("nd-ns-probe-to-all", nd_frame(ANY, ALL, &ns(B6, &[])), MalformedNd),
        plain("nd-ns-option-length-0", nd_frame(A6, B6, &ns(B6, &[1, 0, 0, 0, 0, 0, 0, 0])), MalformedNd),
        plain("nd-ns-option-past-end", nd_frame(A6, B6, &ns(B6, &[1, 2, 0, 0, 0, 0, 0, 0])), MalformedNd),
        plain("nd-ns-option-1-byte", nd_frame(A6, B6, &ns(B6, &[1])), MalformedNd),
        plain(
            "nd-ns-option-long-address",
            nd_frame(A6, B6, &ns(B6, &[&[1, 2], &[0; 14][..]].concat())),
            MalformedNd,
        ),
        plain("nd-ns-two-addresses", nd_frame(A6, B6, &ns(B6, &[lla(1), lla(1)].concat())), MalformedNd),
        plain("nd-ns-atomic-fragment", ethernet(&atomic), MalformedNd),
        plain("nd-ns-first-fragment", ethernet(&first), MalformedNd),
        plain("nd-na", na(B6, 0x60, A6), None),
        plain("nd-na-unsolicited-to-all", na(ALL, 0x20, A6), None),
        plain("nd-na-solicited-to-all", na(ALL, 0x60, A6), MalformedNd),
        plain("nd-na-target-multicast", na(B6, 0x60, ALL), MalformedNd),
        plain("nd-rs", rs(A6, &lla(1)), None),
        plain("nd-rs-unspecified", rs(ANY, &[]), None),
        plain("nd-rs-unspecified-with-address", rs(ANY, &lla(1)), MalformedNd),
        plain("nd-ra", ra(A6), None),
        plain("nd-ra-not-link-local", ra(GLOBAL), MalformedNd),
        plain("nd-ra-short", nd_frame(A6, ALL, &nd_message(134, [0; 4], &[], &[0; 7])), MalformedNd),
        plain("nd-redirect", redirect(A6, B6, GLOBAL), None),
        plain("nd-redirect-on-link", redirect(A6, GLOBAL, GLOBAL), None),
        plain("nd-redirect-not-link-local", redirect(GLOBAL, B6, GLOBAL), MalformedNd),
        plain("nd-redirect-multicast", redirect(A6, B6, ALL), MalformedNd),
        plain("nd-redirect-to-router-off-link", redirect(A6, GLOBAL, B6), MalformedNd),
        plain("nd-redirect-short", nd_frame(A6, B6, &nd_message(137, [0; 4], &[B6], &[])), MalformedNd),
    ]
}

fn mapped() -> (Ipv6Addr, Ipv6Addr) {
    (A4.to_ipv6_mapped(), B4.to_ipv6_mapped())
}

/// A container that tunnels: UDP outside, TCP with a partial checksum inside, as seen on Linux 6.18.
fn tunnelled() -> Offloaded {
    let (src, dst) = mapped();
    let inner = offloaded(src, dst, &tcp(ACK, b"inner"), TCP, 0);
    let vxlan = udp(&[vec![8, 0, 0, 0, 0, 0, 5, 0], inner.frame.clone()].concat());
    let start = inner.vnet.csum_start.get() + 50;
    Offloaded {
        vnet: VnetHdr { csum_start: start.into(), ..inner.vnet },
        frame: ethernet(&ipv4(UDP, &vxlan)),
    }
}

/// H32.
fn offload() -> Vec<Case> {
    let (src, dst) = mapped();
    let case = |name: &str, offloaded: &Offloaded, expected: Option<DropReason>, change: fn(&mut VnetHdr)| {
        let mut vnet = offloaded.vnet;
        change(&mut vnet);
        Case { name: name.to_owned(), vnet, frame: offloaded.frame.clone(), expected }
    };
    let gso4 = offloaded(src, dst, &tcp(ACK | 9, &payload(3000)), TCP, 1448);
    let gso6 = offloaded(A6, B6, &tcp(0x80 | ACK | 8, &payload(2896)), TCP, 1448);
    let uso4 = offloaded(src, dst, &udp(&payload(2500)), UDP, 1200);
    let uso6 = offloaded(A6, B6, &udp(&payload(100)), UDP, 33);
    let one = offloaded(src, dst, &tcp(ACK, b"one"), TCP, 0);
    let datagram = offloaded(src, dst, &udp(b"one"), UDP, 0);
    let mut short_udp = datagram.clone();
    short_udp.frame[39] -= 1;
    let mut padded = gso4.clone();
    padded.frame.push(0);
    let mut fragment = gso4.clone();
    fragment.frame[20] = 0x20;
    let mut syn = gso4.clone();
    syn.frame[47] |= 2;
    let full = Offloaded { vnet: VnetHdr::default(), frame: one.frame.clone() };
    let arp = Offloaded { vnet: one.vnet, frame: tagged(&[], 0x0806, &arp_body(1)) };
    let ping = ethernet(&ipv4(ICMP, &icmp(8, 0, [0; 4], &[0; 40])));
    let ping = Offloaded { vnet: one.vnet, frame: ping };
    let sctp = Offloaded { vnet: one.vnet, frame: ethernet(&ipv4(132, &[0; 40])) };
    let wrapped = Offloaded { vnet: one.vnet, frame: snap([0, 0, 0], 0x0800, &one.frame[14..]) };
    let tagged = Offloaded {
        vnet: VnetHdr { csum_start: 38.into(), ..gso4.vnet },
        frame: tagged(&[(0x8100, 10)], 0x0800, &gso4.frame[14..]),
    };
    let big = offloaded(src, dst, &tcp(ACK, &payload(65000)), TCP, 1448);
    let bytes = offloaded(src, dst, &udp(&payload(129)), UDP, 1);
    let tunnel = tunnelled();
    let bad = Some(BadOffload);
    vec![
        case("gso-tcp4", &gso4, None, |_| ()),
        case("gso-tcp6-cwr", &gso6, None, |v| v.gso_type |= VnetHdr::GSO_ECN),
        case("gso-tcp-vlan", &tagged, None, |_| ()),
        case("gso-udp4", &uso4, None, |_| ()),
        case("gso-udp6", &uso6, None, |_| ()),
        case("gso-hdr-len-is-a-lie", &gso4, None, |v| v.hdr_len = 0xffff.into()),
        case("gso-size-covers-all", &gso4, None, |v| v.gso_size = 3000.into()),
        case("gso-size-0", &gso4, bad, |v| v.gso_size = 0.into()),
        case("gso-size-by-frags", &gso4, bad, |v| v.gso_size = 0xffff.into()),
        case("gso-size-1", &gso4, bad, |v| v.gso_size = 1.into()),
        case("gso-size-8", &gso4, bad, |v| v.gso_size = 8.into()),
        case("gso-size-47-and-64-segments", &gso4, None, |v| v.gso_size = 47.into()),
        case("gso-64-KiB-size-1", &big, bad, |v| v.gso_size = 1.into()),
        case("gso-64-KiB-size-48", &big, None, |v| v.gso_size = 48.into()),
        case("gso-udp-129-segments", &bytes, bad, |_| ()),
        case("gso-type-ufo", &uso4, bad, |v| v.gso_type = 3),
        case("gso-type-2", &gso4, bad, |v| v.gso_type = 2),
        case("gso-type-ecn-only", &gso4, bad, |v| v.gso_type = VnetHdr::GSO_ECN),
        case("gso-type-tcp6-on-v4", &gso4, bad, |v| v.gso_type = VnetHdr::GSO_TCPV6),
        case("gso-type-tcp4-on-v6", &gso6, bad, |v| v.gso_type = VnetHdr::GSO_TCPV4),
        case("gso-type-udp-on-tcp", &gso4, bad, |v| v.gso_type = VnetHdr::GSO_UDP_L4),
        case("gso-type-tcp-on-udp", &uso4, bad, |v| v.gso_type = VnetHdr::GSO_TCPV4),
        case("gso-udp-ecn", &uso4, bad, |v| v.gso_type |= VnetHdr::GSO_ECN),
        case("gso-without-csum", &gso4, bad, |v| v.flags = 0),
        case("gso-data-valid", &gso4, bad, |v| v.flags = VnetHdr::DATA_VALID),
        case("gso-padded", &padded, bad, |_| ()),
        case("gso-fragment", &fragment, bad, |_| ()),
        case("gso-syn", &syn, bad, |_| ()),
        case("gso-tunnel", &tunnel, bad, |v| (v.gso_type, v.gso_size) = (VnetHdr::GSO_UDP_L4, 20.into())),
        case("csum-tcp", &one, None, |_| ()),
        case("csum-udp", &datagram, None, |_| ()),
        case("csum-verified", &full, None, |v| v.flags = VnetHdr::DATA_VALID),
        case("csum-unknown-flag", &full, bad, |v| v.flags = 4),
        case("csum-start-0", &one, bad, |v| v.csum_start = 0.into()),
        case("csum-start-beyond", &one, bad, |v| v.csum_start = 0xffff.into()),
        case("csum-offset-beyond", &one, bad, |v| v.csum_offset = 0xffff.into()),
        case("csum-offset-6-on-tcp", &one, bad, |v| v.csum_offset = 6.into()),
        case("csum-offset-16-on-udp", &datagram, bad, |v| v.csum_offset = 16.into()),
        case("csum-udp-shorter-than-packet", &short_udp, bad, |_| ()),
        case("csum-arp", &arp, bad, |_| ()),
        case("csum-icmp", &ping, bad, |v| v.csum_offset = 2.into()),
        case("csum-sctp", &sctp, bad, |v| v.csum_offset = 8.into()),
        case("csum-snap", &wrapped, bad, |v| v.csum_start = 42.into()),
        case("csum-tunnel", &tunnel, None, |_| ()),
        case("csum-tunnel-start-beyond", &tunnel, bad, |v| v.csum_start = 0xfff0.into()),
        case("csum-tunnel-field-beyond", &tunnel, bad, |v| v.csum_start = (119 - 2).into()),
        case("csum-tunnel-in-outer-header", &tunnel, bad, |v| v.csum_start = 30.into()),
        case("csum-tunnel-odd-offset", &tunnel, bad, |v| v.csum_offset = 12.into()),
    ]
}
