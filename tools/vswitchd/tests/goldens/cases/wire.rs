//! What frames look like: tags, LLC, lengths, and everything that is wrong with one.

use std::net::{Ipv4Addr, Ipv6Addr};

use switch::mac::MacAddr;
use switch::vnet::VnetHdr;

use super::super::frames::{
    ARP, EXPERIMENTAL, IPV4, IPV6, TCP, UDP, arp, ethernet, icmpv6, ipv4, ipv4_with_options, ipv6, llc,
    neighbor_advertisement, snap, tagged, tcp, tcp_super_frame, udp, udp_super_frame,
};
use super::super::script::Script;
use super::{packet, packet_of, plain};

const C_TAG: u16 = 0x8100;
const S_TAG: u16 = 0x88a8;
const OLD_S_TAG: u16 = 0x9100;
const LLDP: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x0e]);
const PAUSE: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 1]);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const GATEWAY_MAC: MacAddr = MacAddr([0x02, 0x42, 10, 1, 0, 1]);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa);

/// IEEE 802.1D-2004 section 7.12.6, and PAUSE.
pub fn reserved(s: &mut Script<'_>) {
    s.send("b", "b is known", packet(s, "b", "a"));
    for last in 0..=0x10 {
        let group = MacAddr([0x01, 0x80, 0xc2, 0, 0, last]);
        let about =
            if last < 0x10 { "reserved: not relayed" } else { "the first that is not reserved: flooded" };
        s.send("a", &format!("{group}, {about}"), plain(group, s.mac("a"), "link-local"));
    }
    let lldp = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x0e]);
    s.send("a", "LLDP", ethernet(lldp, s.mac("a"), 0x88cc, &[0x02, 0x07, 0x04]));
    s.send("a", "on a VLAN", tagged(lldp, s.mac("a"), &[(C_TAG, 5)], 0x88cc, &[0x02, 0x07, 0x04]));
    let stp = llc(MacAddr([0x01, 0x80, 0xc2, 0, 0, 0]), s.mac("a"), &[0x42, 0x42, 0x03, 0, 0, 0, 0]);
    s.send("a", "spanning tree", stp);
    s.send("a", "PAUSE to b's own address", ethernet(s.mac("b"), s.mac("a"), 0x8808, &[0, 1, 0xff, 0xff]));
    let wrapped = tagged(s.mac("b"), s.mac("a"), &[(C_TAG, 5)], 0x8808, &[0, 1, 0xff, 0xff]);
    s.send("a", "PAUSE on a VLAN", wrapped);
    s.send("b", "a was not learned from any of these but the flooded one", packet(s, "b", "a"));
}

/// What ports and the gateway make of tags where they have VLANs of their own.
pub fn vlans(s: &mut Script<'_>) {
    let mac = |s: &Script<'_>, name: &str| s.mac(name);
    let on = |s: &Script<'_>, from: &str, to: MacAddr, tags: &[(u16, u16)]| {
        tagged(to, s.mac(from), tags, EXPERIMENTAL, b"on a VLAN")
    };
    let all = MacAddr::BROADCAST;
    s.send("a", "from an access port: to its VLAN, tagged on trunks", on(s, "a", all, &[]));
    s.send("c", "from one of another VLAN", on(s, "c", all, &[]));
    s.send("t", "from a trunk: untagged to access ports", on(s, "t", mac(s, "a"), &[(C_TAG, 10)]));
    s.send(
        "a",
        "and back with a tag, though it comes with a priority",
        on(s, "a", mac(s, "t"), &[(C_TAG, 0xe000)]),
    );
    s.send("n", "its untagged frames are in VLAN 10", on(s, "n", mac(s, "a"), &[]));
    s.send("a", "and come back untagged", on(s, "a", mac(s, "n"), &[]));
    s.send("n", "VLAN 20 is tagged there", on(s, "n", mac(s, "c"), &[(C_TAG, 20)]));
    s.send("c", "and comes back tagged", on(s, "c", mac(s, "n"), &[]));
    s.send(
        "all",
        "QinQ: the outer tag goes, the inner one stays",
        on(s, "all", mac(s, "c"), &[(S_TAG, 20), (C_TAG, 7)]),
    );
    s.send("c", "an access port takes no tag: refused", on(s, "c", all, &[(C_TAG, 20)]));
    s.send("t", "a trunk takes no frame without one: refused", on(s, "t", all, &[]));
    s.send("t", "nor what it does not carry: refused", on(s, "t", all, &[(C_TAG, 30)]));
    s.send("n", "its native VLAN is not tagged: refused", on(s, "n", all, &[(C_TAG, 10)]));
    s.send("b", "isolated: heard by all but the other one", on(s, "b", all, &[]));
    s.send("i", "isolated, to one that is: refused", on(s, "i", mac(s, "b"), &[]));
    s.send("a", "to an isolated one", on(s, "a", mac(s, "b"), &[]));
    s.send("a", "LLDP in VLAN 10", ethernet(LLDP, s.mac("a"), 0x88cc, b"a"));
    s.send(
        "t",
        "LLDP from a trunk, to those without a VLAN of their own",
        ethernet(LLDP, s.mac("t"), 0x88cc, b"t"),
    );
    s.send("a", "PAUSE: refused", ethernet(PAUSE, s.mac("a"), 0x8808, &[0, 1, 0, 9]));
    let asks = |s: &Script<'_>, who: &str| arp(1, (s.mac(who), s.ip(who)), (MacAddr::ZERO, GATEWAY));
    for (who, tags) in [("a", &[][..]), ("n", &[]), ("t", &[(C_TAG, 10)]), ("all", &[(C_TAG, 10)])] {
        s.send(
            who,
            "asks for the gateway, which answers in its VLAN",
            tagged(all, s.mac(who), tags, ARP, &asks(s, who)),
        );
    }
    s.send("c", "asks for it in another VLAN: no answer", tagged(all, s.mac("c"), &[], ARP, &asks(s, "c")));
    s.send(
        "all",
        "asks for it without a tag: no answer",
        tagged(all, s.mac("all"), &[], ARP, &asks(s, "all")),
    );
    let ping = |s: &Script<'_>, who: &str, tags: &[(u16, u16)]| {
        let packet = ipv4(s.ip(who), GATEWAY, 1, &[8, 0, 0xf7, 0xf7, 0, 4, 0, 4]);
        tagged(GATEWAY_MAC, s.mac(who), tags, IPV4, &packet)
    };
    s.send("t", "pings it", ping(s, "t", &[(C_TAG, 0x600a)]));
    s.send("a", "pings it with a priority", ping(s, "a", &[(C_TAG, 0x6000)]));
    s.send("t", "two tags are not for it", ping(s, "t", &[(C_TAG, 10), (C_TAG, 10)]));
    let routed = |s: &Script<'_>, from: &str, to: &str| {
        let packet = ipv4(s.ip(from), s.ip(to), UDP, &udp(b"by the gateway"));
        ethernet(GATEWAY_MAC, s.mac(from), IPV4, &packet)
    };
    s.send("a", "back into its network, by the gateway, untagged", routed(s, "a", "n"));
    let answer = arp(2, (s.mac("b"), s.ip("b")), (GATEWAY_MAC, GATEWAY));
    s.send("b", "an answer that nobody asked for", ethernet(GATEWAY_MAC, s.mac("b"), ARP, &answer));
    s.send("a", "to t, by the gateway: untagged becomes tagged", routed(s, "a", "t"));
    s.send("b", "b asks as well", tagged(all, s.mac("b"), &[], ARP, &asks(s, "b")));
    s.send("i", "isolated, by the gateway: refused", routed(s, "i", "b"));
}

/// Tags go through as they are; each VLAN is learned apart.
pub fn vlan(s: &mut Script<'_>) {
    let on = |s: &Script<'_>, from: &str, to: &str, tags: &[(u16, u16)]| {
        let packet = ipv4(s.ip(from), s.ip(to), UDP, &udp(b"tagged"));
        tagged(s.mac(to), s.mac(from), tags, IPV4, &packet)
    };
    s.send("b", "b speaks on VLAN 10", on(s, "b", "a", &[(C_TAG, 10)]));
    s.send("a", "untagged it is not known: flooded", packet(s, "a", "b"));
    s.send("a", "on VLAN 20 neither: flooded", on(s, "a", "b", &[(C_TAG, 20)]));
    s.send("a", "on VLAN 10: forwarded", on(s, "a", "b", &[(C_TAG, 10)]));
    s.send("a", "on VLAN 10 with priority 7: forwarded", on(s, "a", "b", &[(C_TAG, 0xe00a)]));
    s.send("a", "the VLAN counts, not the kind of tag: forwarded", on(s, "a", "b", &[(S_TAG, 10)]));
    s.send("c", "c speaks on VLAN 4094, where nobody is known", on(s, "c", "b", &[(C_TAG, 4094)]));
    s.send("b", "forwarded to c", on(s, "b", "c", &[(C_TAG, 4094)]));
    s.send("b", "a priority tag is untagged: a is known", on(s, "b", "a", &[(C_TAG, 0xa000)]));
    s.send("a", "and b is from it", packet(s, "a", "b"));
    s.send("b", "QinQ: the outer VLAN counts", on(s, "b", "a", &[(S_TAG, 100), (C_TAG, 10)]));
    s.send("a", "QinQ back: forwarded", on(s, "a", "b", &[(S_TAG, 100), (C_TAG, 20)]));
    s.send(
        "a",
        "the S-tag from before 802.1ad: forwarded",
        on(s, "a", "b", &[(OLD_S_TAG, 100), (C_TAG, 20)]),
    );
    s.send("a", "a priority tag inside", on(s, "a", "b", &[(S_TAG, 100), (C_TAG, 0)]));
    s.send("a", "VLAN 4095 is reserved: refused", on(s, "a", "b", &[(C_TAG, 4095)]));
    s.send("a", "inside too", on(s, "a", "b", &[(S_TAG, 100), (C_TAG, 4095)]));
    s.send("a", "a tag behind a priority tag: refused", on(s, "a", "b", &[(C_TAG, 0), (C_TAG, 10)]));
    s.send("a", "three tags: refused", on(s, "a", "b", &[(S_TAG, 100), (C_TAG, 10), (C_TAG, 10)]));
    s.send("a", "a tag and nothing behind it", on(s, "a", "b", &[(C_TAG, 10)])[..16].to_vec());
}

pub fn llc_snap(s: &mut Script<'_>) {
    let (a, b) = (s.mac("a"), s.mac("b"));
    s.send("b", "b is known", packet(s, "b", "a"));
    s.send("a", "LLC, NetBIOS", llc(b, a, &[0xf0, 0xf0, 0x03, 1, 2, 3]));
    s.send("a", "LLC, raw IPX", llc(b, a, &[0xff, 0xff, 0, 0x22, 0, 0]));
    s.send("a", "SNAP of a vendor", llc(b, a, &snap([0, 0, 0x0c], 0x2000, b"CDP")));
    let ip = ipv4(s.ip("a"), s.ip("b"), UDP, &udp(b"in SNAP"));
    s.send("a", "IPv4 in SNAP", llc(b, a, &snap([0, 0, 0], IPV4, &ip)));
    s.send("a", "IPv4 in SNAP of 802.1H", llc(b, a, &snap([0, 0, 0xf8], IPV4, &ip)));
    let asks = arp(1, (a, s.ip("a")), (MacAddr::ZERO, s.ip("b")));
    s.send("a", "ARP in SNAP", llc(MacAddr::BROADCAST, a, &snap([0, 0, 0], ARP, &asks)));
    let body = snap([0, 0, 0], IPV4, &ip);
    s.send("a", "the same on VLAN 5: not known there", tagged(b, a, &[(C_TAG, 5)], body.len() as u16, &body));
    let padded = [llc(b, a, &[0xf0, 0xf0, 0x03]), vec![0; 43]].concat();
    s.send("a", "padded to 60 bytes", padded);
    s.send("a", "longer than the frame: refused", ethernet(b, a, 100, &[0xf0, 0xf0, 0x03]));
    s.send("a", "1501 is neither length nor type: refused", ethernet(b, a, 1501, &[0; 1500]));
    s.send("a", "1535 neither", ethernet(b, a, 1535, &[0; 1500]));
    s.send("a", "IPv4 that is longer than the LLC length: refused", {
        let mut frame = llc(b, a, &body);
        frame[13] -= 4;
        frame
    });
    s.send("a", "a tag inside SNAP: refused", llc(b, a, &snap([0, 0, 0], C_TAG, &[0, 10, 8, 0])));
    s.send("a", "two bytes are no LLC header: refused", llc(b, a, &[0xf0, 0xf0]));
    s.send("a", "SNAP that ends in its OUI: refused", llc(b, a, &[0xaa, 0xaa, 3, 0, 0]));
}

/// `small` has 1500, `large` 9000; super-frames are judged by their segments.
pub fn mtu(s: &mut Script<'_>) {
    let filled = |s: &Script<'_>, from: &str, to: &str, len: usize| {
        ethernet(s.mac(to), s.mac(from), EXPERIMENTAL, &vec![0x55; len])
    };
    for (a, b, mtu) in [("a", "b", 1500), ("x", "y", 9000)] {
        s.send(b, "known", packet(s, b, a));
        s.send(a, "as long as may be", filled(s, a, b, mtu));
        s.send(a, "a byte longer: refused", filled(s, a, b, mtu + 1));
        s.send(a, "as long as may be, UDP", packet_of(s, a, b, &vec![1; mtu - 28]));
        s.send(a, "a byte longer: refused", packet_of(s, a, b, &vec![1; mtu - 27]));
    }
    let long = |s: &Script<'_>, tags: &[(u16, u16)], len: usize| {
        tagged(MacAddr::BROADCAST, s.mac("a"), tags, EXPERIMENTAL, &vec![0x55; len])
    };
    s.send("a", "a tag is not payload", long(s, &[(C_TAG, 5)], 1500));
    s.send("a", "nor are two", long(s, &[(S_TAG, 6), (C_TAG, 5)], 1500));
    s.send("a", "behind two tags a byte too long: refused", long(s, &[(S_TAG, 6), (C_TAG, 5)], 1501));
    let segments = |s: &Script<'_>, payload: usize| {
        let packet = ipv4(s.ip("a"), s.ip("b"), TCP, &tcp(&vec![2; payload]));
        ethernet(s.mac("b"), s.mac("a"), IPV4, &packet)
    };
    s.send_offloaded("a", "TCP, 3 segments that fit", &tcp_super_frame(1460), segments(s, 4000));
    s.send_offloaded(
        "a",
        "TCP, segments a byte too long: refused",
        &tcp_super_frame(1461),
        segments(s, 4000),
    );
    s.send_offloaded("a", "TCP, one segment after all", &tcp_super_frame(1460), segments(s, 1460));
    s.send_offloaded("a", "TCP, one segment, too long: refused", &tcp_super_frame(1461), segments(s, 1461));
    let datagrams = packet_of(s, "a", "b", &[3; 4000]);
    s.send_offloaded("a", "UDP, 3 datagrams that fit", &udp_super_frame(1472), datagrams.clone());
    s.send_offloaded("a", "UDP, a byte too long: refused", &udp_super_frame(1473), datagrams);
}

/// Everything a frame can have wrong with it. In between nobody is disturbed.
pub fn malformed(s: &mut Script<'_>) {
    s.send("b", "b is known", packet(s, "b", "a"));
    s.send("a", "a is known", packet(s, "a", "b"));
    link(s);
    offload(s);
    network(s);
    transport(s);
    s.send("a", "after all that: forwarded", packet(s, "a", "b"));
    s.send("b", "and back", packet(s, "b", "a"));
}

fn link(s: &mut Script<'_>) {
    let (a, b) = (s.mac("a"), s.mac("b"));
    s.send("a", "truncated_frame: nothing at all", Vec::new());
    s.send("a", "truncated_frame: 13 bytes", packet(s, "a", "b")[..13].to_vec());
    s.send("a", "oversized_read: more than a buffer", ethernet(b, a, EXPERIMENTAL, &vec![0; 65_700]));
    s.send("a", "exceeds_mtu", ethernet(b, a, EXPERIMENTAL, &[0; 1501]));
    s.send("a", "bad_length: 802.3", ethernet(b, a, 46, b"short"));
    s.send("a", "bad_vlan: 4095", tagged(b, a, &[(C_TAG, 0xffff)], EXPERIMENTAL, b"reserved"));
    s.send("a", "bad_source_mac: zero", plain(b, MacAddr::ZERO, "from nobody"));
    s.send("a", "bad_source_mac: broadcast", plain(b, MacAddr::BROADCAST, "from all"));
    s.send("a", "reserved_group", plain(MacAddr([0x01, 0x80, 0xc2, 0, 0, 2]), a, "slow protocols"));
}

fn offload(s: &mut Script<'_>) {
    let super_frame = |s: &Script<'_>, flags: u8| {
        let mut segment = tcp(&[4; 3000]);
        segment[13] |= flags;
        ethernet(s.mac("b"), s.mac("a"), IPV4, &ipv4(s.ip("a"), s.ip("b"), TCP, &segment))
    };
    let right = tcp_super_frame(1460);
    for (about, vnet) in [
        ("unknown flag", VnetHdr { flags: 0x81, ..right }),
        ("unknown kind", VnetHdr { gso_type: 9, ..right }),
        ("kind of the other family", VnetHdr { gso_type: VnetHdr::GSO_TCPV6, ..right }),
        ("segments of 0 bytes", VnetHdr { gso_size: 0.into(), ..right }),
        ("3000 segments of 1 byte", VnetHdr { gso_size: 1.into(), ..right }),
        ("super-frame with a full checksum", VnetHdr { flags: 0, ..right }),
        ("checksum outside the frame", VnetHdr { csum_start: 9000.into(), ..right }),
        ("checksum over the IP header", VnetHdr { csum_start: 14.into(), ..right }),
        ("checksum field of UDP", VnetHdr { csum_offset: 6.into(), ..right }),
    ] {
        s.send_offloaded("a", &format!("bad_offload: {about}"), &vnet, super_frame(s, 0));
    }
    s.send_offloaded("a", "bad_offload: many SYNs in one", &right, super_frame(s, 2));
    let padded = [super_frame(s, 0), vec![0; 4]].concat();
    s.send_offloaded("a", "bad_offload: bytes behind the packet", &right, padded);
    s.send_offloaded(
        "a",
        "hdr_len is not believed: forwarded",
        &VnetHdr { hdr_len: 9.into(), ..right },
        super_frame(s, 0),
    );
}

/// The packet with the byte at `at` changed.
fn with(mut packet: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    packet[at] = byte;
    packet
}

fn network(s: &mut Script<'_>) {
    let (a, b) = (s.mac("a"), s.mac("b"));
    let (src, dst) = (s.ip("a"), s.ip("b"));
    let asks = arp(1, (a, src), (MacAddr::ZERO, dst));
    for (about, body) in [
        ("cut off", asks[..27].to_vec()),
        ("of another link", with(asks.clone(), 1, 6)),
        ("for IPv6", with(asks.clone(), 2, 0x86)),
        ("with addresses of 8 bytes", with(asks.clone(), 4, 8)),
        ("RARP's operation", with(asks, 7, 3)),
    ] {
        s.send("a", &format!("malformed_arp: {about}"), ethernet(b, a, ARP, &body));
    }
    let four = ipv4(src, dst, UDP, &udp(b"four"));
    for (about, packet) in [
        ("cut off", four[..19].to_vec()),
        ("version 6", with(four.clone(), 0, 0x65)),
        ("header of 16 bytes", with(four.clone(), 0, 0x44)),
        ("header longer than the packet", with(four.clone(), 0, 0x4f)),
        ("longer than the frame", with(four.clone(), 2, 1)),
        ("shorter than its header", with(four.clone(), 3, 19)),
        ("a first fragment of no multiple of 8", with(four.clone(), 6, 0x20)),
        ("a fragment beyond 65535", with(with(four, 6, 0x1f), 7, 0xff)),
        ("an option of length 0", ipv4_with_options(src, dst, UDP, &[7, 0, 4, 0], &udp(b"four"))),
        ("an option over the end", ipv4_with_options(src, dst, UDP, &[7, 5, 4, 0], &udp(b"four"))),
    ] {
        s.send("a", &format!("malformed_ipv4: {about}"), ethernet(b, a, IPV4, &packet));
    }
    for (about, kind) in [("loose", 131), ("strict", 137)] {
        let options = [kind, 7, 4, 10, 1, 0, 9, 0];
        let packet = ipv4_with_options(src, dst, UDP, &options, &udp(b"this way"));
        s.send("a", &format!("source_route: {about}"), ethernet(b, a, IPV4, &packet));
    }
    network_six(s);
}

fn network_six(s: &mut Script<'_>) {
    let (a, b) = (s.mac("a"), s.mac("b"));
    let six = |next: u8, payload: &[u8]| ipv6(LINK_LOCAL, LINK_LOCAL, next, 64, payload);
    let datagram = udp(b"six");
    let behind = |header: &[u8]| [header, &datagram].concat();
    let whole = six(UDP, &datagram);
    for (about, packet) in [
        ("cut off", whole[..39].to_vec()),
        ("version 4", with(whole.clone(), 0, 0x40)),
        ("longer than the frame", with(whole, 4, 1)),
        ("extension header cut off", six(60, &[UDP, 0, 0, 0])),
        ("extension header over the end", six(60, &behind(&[UDP, 9, 0, 0, 0, 0, 0, 0]))),
        (
            "hop-by-hop not at the start",
            six(60, &behind(&[0, 0, 0, 0, 0, 0, 0, 0, UDP, 0, 0, 0, 0, 0, 0, 0])),
        ),
        ("two fragment headers", six(44, &behind(&[44, 0, 0, 0, 0, 0, 0, 1, UDP, 0, 0, 0, 0, 0, 0, 1]))),
        ("seventeen headers", six(60, &behind(&[60, 0, 0, 0, 0, 0, 0, 0].repeat(17)))),
        ("a first fragment of no multiple of 8", six(44, &behind(&[UDP, 0, 0, 1, 0, 0, 0, 1]))),
    ] {
        s.send("a", &format!("malformed_ipv6: {about}"), ethernet(b, a, IPV6, &packet));
    }
    let routed =
        six(43, &behind(&[UDP, 2, 0, 1, 0, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]));
    s.send("a", "source_route: IPv6 routing header type 0", ethernet(b, a, IPV6, &routed));
}

fn transport(s: &mut Script<'_>) {
    let (a, b) = (s.mac("a"), s.mac("b"));
    let (src, dst) = (s.ip("a"), s.ip("b"));
    let segment = tcp(b"payload");
    let datagram = udp(b"payload");
    let mut say = |about: &str, proto: u8, payload: &[u8]| {
        let packet = ipv4(src, dst, proto, payload);
        s.send("a", &format!("malformed_l4: {about}"), ethernet(b, a, IPV4, &packet));
    };
    say("TCP cut off", TCP, &segment[..19]);
    say("TCP header of 16 bytes", TCP, &with(segment.clone(), 12, 0x40));
    say("TCP header longer than the packet", TCP, &with(segment, 12, 0xf0));
    say("UDP cut off", UDP, &datagram[..7]);
    say("UDP length of 7", UDP, &with(datagram.clone(), 5, 7));
    say("UDP longer than the packet", UDP, &with(datagram, 4, 1));
    say("ICMP cut off", 1, &[8, 0, 0, 0]);
    say("SCTP cut off", 132, &[0; 11]);
    let tiny = with(with(ipv4(src, dst, TCP, &[0; 16]), 6, 0), 7, 1);
    s.send("a", "malformed_l4: a fragment that rewrites TCP flags", ethernet(b, a, IPV4, &tiny));
    let right = neighbor_advertisement(LINK_LOCAL, LINK_LOCAL, a);
    for (about, packet) in [
        ("came through a router", with(right.clone(), 7, 254)),
        ("wrong checksum", with(right.clone(), 43, !right[43])),
        ("a group as target", neighbor_advertisement(LINK_LOCAL, Ipv6Addr::from([0xff; 16]), a)),
        (
            "an option of length 0",
            icmpv6(LINK_LOCAL, LINK_LOCAL, 135, 255, &[&[0; 20][..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat()),
        ),
        ("cut off", icmpv6(LINK_LOCAL, LINK_LOCAL, 135, 255, &[0; 12])),
        ("in a fragment", {
            let message = &right[40..];
            let header = [58, 0, 0, 0, 0, 0, 0, 1];
            ipv6(LINK_LOCAL, super::super::frames::ALL_NODES, 44, 255, &[&header[..], message].concat())
        }),
    ] {
        s.send("a", &format!("malformed_nd: {about}"), ethernet(b, a, IPV6, &packet));
    }
    let other = ipv4(Ipv4Addr::new(10, 1, 0, 77), dst, 253, b"an unknown protocol");
    s.send("a", "not malformed, only unknown: forwarded", ethernet(b, a, IPV4, &other));
}
