//! What gateways do for IPv6.

use std::net::{Ipv4Addr, Ipv6Addr};

use switch::mac::MacAddr;

use super::super::frames::{
    ALL_NODES_MAC, IPV4, IPV6, UDP, ethernet, icmpv6, ipv4, ipv6, neighbor_advertisement,
    neighbor_advertisement_to, neighbor_solicitation, probe, router_solicitation, udp, udp6,
};
use super::super::script::Script;

/// The gateway of blue: its MAC is made from its IPv4 address, that of red from its IPv6 address.
const BLUE: (MacAddr, Ipv6Addr) =
    (MacAddr([2, 0x42, 10, 1, 0, 1]), Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1));
const RED: (MacAddr, Ipv6Addr) = (MacAddr([2, 0x42, 0, 0, 0, 1]), Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1));
/// Modified EUI-64 of the MAC of blue's gateway.
const BLUE_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x0042, 0x0aff, 0xfe01, 1);
const ICMPV6: u8 = 58;
/// Identifier 7, number 1.
const ECHO: &[u8] = b"\0\x07\0\x01are you there?";

fn local(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last)
}

/// An IP packet written to a gateway's MAC.
fn by(gateway: MacAddr, s: &Script<'_>, from: &str, packet: &[u8]) -> Vec<u8> {
    ethernet(gateway, s.mac(from), IPV6, packet)
}

fn ping(s: &Script<'_>, from: &str, to: Ipv6Addr, hop_limit: u8) -> Vec<u8> {
    icmpv6(s.ip6(from), to, 128, hop_limit, ECHO)
}

fn datagram(s: &Script<'_>, from: &str, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    ipv6(s.ip6(from), to, UDP, 64, &udp6(s.ip6(from), to, [1000, 2000], payload))
}

/// To the MAC of the group that it is for: 33:33 and its low 32 bits.
fn to_group(s: &Script<'_>, from: &str, packet: &[u8]) -> Vec<u8> {
    let low = packet[36..40].try_into().unwrap();
    let [a, b, c, d]: [u8; 4] = low;
    ethernet(MacAddr([0x33, 0x33, a, b, c, d]), s.mac(from), IPV6, packet)
}

pub fn routing6(s: &mut Script<'_>) {
    s.send(
        "a",
        "a router? all are told once, and a alone",
        to_group(s, "a", &router_solicitation(local(0xa))),
    );
    discovery(s);
    packets(s);
    why_not(s);
    unresolved(s);
    inner(s);
    s.wait(14_000);
    s.send("b", "16 s later all are told again", to_group(s, "b", &router_solicitation(local(0xb))));
}

fn discovery(s: &mut Script<'_>) {
    s.wait(5);
    let a = s.mac("a");
    let who = |s: &Script<'_>, target| to_group(s, "a", &neighbor_solicitation(s.ip6("a"), target, a));
    s.send("a", "who has the gateway: we, and nobody else hears the question", who(s, BLUE.1));
    s.send("a", "and its link-local address", who(s, BLUE_LOCAL));
    s.send("a", "who has b: b", who(s, s.ip6("b")));
    s.send(
        "a",
        "is the gateway's address free? All are told that it is not",
        to_group(s, "a", &probe(BLUE.1)),
    );
    s.send("a", "is b's? Only b can tell", to_group(s, "a", &probe(s.ip6("b"))));
    let claim = |target| ethernet(ALL_NODES_MAC, a, IPV6, &neighbor_advertisement(s.ip6("a"), target, a));
    let (claims, local) = ([BLUE.1, BLUE_LOCAL], claim(s.mac("b").link_local()));
    for (target, frame) in claims.map(|target| (target, claim(target))) {
        s.send("a", &format!("a says it is {target}: refused"), frame);
    }
    s.send("a", "a says it is b's link-local address: refused", local);
}

fn packets(s: &mut Script<'_>) {
    s.send("a", "ping of the gateway", by(BLUE.0, s, "a", &ping(s, "a", BLUE.1, 64)));
    let to_local = icmpv6(s.mac("a").link_local(), BLUE_LOCAL, 128, 64, ECHO);
    s.send("a", "ping of its link-local address", by(BLUE.0, s, "a", &to_local));
    s.send("a", "nothing listens there", by(BLUE.0, s, "a", &datagram(s, "a", BLUE.1, b"anybody?")));
    let anycast = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0);
    s.send("a", "the address of any router of red is ours", by(BLUE.0, s, "a", &ping(s, "a", anycast, 64)));
    s.send(
        "a",
        "to red: held until x answers",
        by(BLUE.0, s, "a", &datagram(s, "a", s.ip6("x"), b"hello, x")),
    );
    s.wait(5);
    let is_at = neighbor_advertisement_to(s.ip6("x"), RED.1, s.mac("x"));
    s.send("x", "its answer, and what waited for it", by(RED.0, s, "x", &is_at));
    s.wait(5);
    s.send("a", "x is known now", by(BLUE.0, s, "a", &datagram(s, "a", s.ip6("x"), b"hello again")));
    let answer = udp6(s.ip6("x"), s.ip6("a"), [2000, 1000], b"hello, a");
    let answer = ipv6(s.ip6("x"), s.ip6("a"), UDP, 64, &answer);
    s.send("x", "an answer is let in", by(RED.0, s, "x", &answer));
    s.send("x", "what nobody asked for is not", by(RED.0, s, "x", &datagram(s, "x", s.ip6("a"), b"hello")));
}

fn why_not(s: &mut Script<'_>) {
    s.wait(5);
    s.send("a", "its last hop", by(BLUE.0, s, "a", &ping(s, "a", s.ip6("x"), 1)));
    s.send("a", "inner is not connected", by(BLUE.0, s, "a", &datagram(s, "a", s.ip6("i"), b"hello")));
    let fits = datagram(s, "a", s.ip6("x"), &[0x55; 1280 - 48]);
    s.send("a", "1280 bytes fit", by(BLUE.0, s, "a", &fits));
    let big = datagram(s, "a", s.ip6("x"), &[0x55; 1280 - 47]);
    s.send("a", "one more is too big", by(BLUE.0, s, "a", &big));
    s.send("a", "from its link-local address", {
        let src = s.mac("a").link_local();
        by(BLUE.0, s, "a", &ipv6(src, s.ip6("x"), UDP, 64, &udp6(src, s.ip6("x"), [1000, 2000], b"?")))
    });
    s.send(
        "a",
        "an unknown protocol for the gateway",
        by(BLUE.0, s, "a", &ipv6(s.ip6("a"), BLUE.1, 253, 64, b"?")),
    );
    let v4 = ipv4(Ipv4Addr::new(10, 2, 0, 9), Ipv4Addr::new(192, 0, 2, 1), UDP, &udp(b"IPv4"));
    s.send("x", "IPv4 where the gateway has none", ethernet(RED.0, s.mac("x"), IPV4, &v4));
    mapped(s);
}

/// In every table these would be addresses of IPv4.
fn mapped(s: &mut Script<'_>) {
    let of = |last: u8| Ipv4Addr::new(10, 1, 0, last).to_ipv6_mapped();
    let from_b = ipv6(of(3), s.ip6("x"), UDP, 64, &udp6(of(3), s.ip6("x"), [1000, 2000], b"I am b"));
    s.send("a", "from b's IPv4 address, as IPv6", by(BLUE.0, s, "a", &from_b));
    let to_b = ipv6(s.ip6("a"), of(3), UDP, 64, &udp6(s.ip6("a"), of(3), [1000, 2000], b"to b"));
    s.send("a", "to b's", by(BLUE.0, s, "a", &to_b));
    let is_at = neighbor_advertisement_to(s.ip6("a"), BLUE.1, s.mac("a"));
    let mut wrong = is_at[40..].to_vec();
    wrong[8..24].copy_from_slice(&of(3).octets());
    let claim = icmpv6(s.ip6("a"), BLUE.1, 136, 255, &wrong[4..]);
    s.send("a", "a says it has b's IPv4 address, as IPv6", by(BLUE.0, s, "a", &claim));
    // An error about a packet of IPv4 that is none: what it quotes belongs to no flow.
    let quoted = ipv6(of(2), of(3), ICMPV6, 64, ECHO);
    let error = icmpv6(s.ip6("x"), s.ip6("a"), 1, 64, &[&[0; 4][..], &quoted].concat());
    s.send("x", "an error that quotes such a packet", by(RED.0, s, "x", &error));
}

fn unresolved(s: &mut Script<'_>) {
    let nobody = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x99);
    s.send("b", "to nobody: it waits", by(BLUE.0, s, "b", &datagram(s, "b", nobody, b"hello")));
    for n in 2..=4 {
        s.wait(1_000);
        let who = to_group(s, "x", &neighbor_solicitation(s.ip6("x"), RED.1, s.mac("x")));
        s.send("x", &format!("{n} s: asked again, or given up"), who);
    }
}

fn inner(s: &mut Script<'_>) {
    s.send("i", "a router? One by which nothing leaves", to_group(s, "i", &router_solicitation(local(0x1))));
    s.send("i", "probe for its own address", to_group(s, "i", &probe(s.ip6("i"))));
    s.send(
        "i",
        "probe for j's: strict refuses what would take it from j",
        to_group(s, "i", &probe(s.ip6("j"))),
    );
}
