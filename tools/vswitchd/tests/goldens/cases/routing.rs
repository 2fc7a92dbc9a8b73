//! What gateways do.

use std::net::Ipv4Addr;

use switch::mac::MacAddr;

use super::super::frames::{ARP, IPV4, UDP, arp, ethernet, internet_checksum, ipv4, udp};
use super::super::script::Script;

const BLUE: (MacAddr, Ipv4Addr) = (MacAddr([2, 0x42, 10, 1, 0, 1]), Ipv4Addr::new(10, 1, 0, 1));
const RED: (MacAddr, Ipv4Addr) = (MacAddr([2, 0x42, 10, 2, 0, 1]), Ipv4Addr::new(10, 2, 0, 1));
const ICMP: u8 = 1;

/// An IP packet written to a gateway's MAC.
fn by(gateway: MacAddr, s: &Script<'_>, from: &str, packet: &[u8]) -> Vec<u8> {
    ethernet(gateway, s.mac(from), IPV4, packet)
}

fn datagram(s: &Script<'_>, from: &str, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    ipv4(s.ip(from), to, UDP, &udp(payload))
}

/// The same packet with a byte of its header changed and the checksum right again.
fn with(mut packet: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    packet[at] = byte;
    packet[10..12].copy_from_slice(&[0, 0]);
    let sum = internet_checksum(&[&packet[..20]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn echo_request() -> Vec<u8> {
    let mut message = [&[8, 0, 0, 0, 0, 7, 0, 1][..], b"are you there?"].concat();
    let sum = internet_checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

pub fn routing(s: &mut Script<'_>) {
    s.send("a", "who has the gateway: we, and nobody else hears the question", who_has(s, "a", BLUE));
    s.send("a", "ping of the gateway", by(BLUE.0, s, "a", &ipv4(s.ip("a"), BLUE.1, ICMP, &echo_request())));
    s.send("a", "nothing listens there", by(BLUE.0, s, "a", &datagram(s, "a", BLUE.1, b"anybody?")));
    s.send(
        "a",
        "to red: held until x answers",
        by(BLUE.0, s, "a", &datagram(s, "a", s.ip("x"), b"hello, x")),
    );
    s.wait(5);
    let is_at = arp(2, (s.mac("x"), s.ip("x")), RED);
    s.send("x", "its answer, and what waited for it", ethernet(RED.0, s.mac("x"), ARP, &is_at));
    s.wait(5);
    s.send("a", "x is known now", by(BLUE.0, s, "a", &datagram(s, "a", s.ip("x"), b"hello again")));
    let mut answer = udp(b"hello, a");
    answer[..4].copy_from_slice(&[0x07, 0xd0, 0x03, 0xe8]); // 2000 to 1000
    let answer = ipv4(s.ip("x"), s.ip("a"), UDP, &answer);
    s.send("x", "an answer is let in", by(RED.0, s, "x", &answer));
    s.send("x", "what nobody asked for is not", by(RED.0, s, "x", &datagram(s, "x", s.ip("a"), b"hello")));
    why_not(s);
    unresolved(s);
}

/// Sources that lead back to the sender, and others. Comments say which of `claimed`, `strict`, `off` lets them pass.
pub fn reverse_path(s: &mut Script<'_>) {
    let sink = (MacAddr([2, 0x42, 10, 9, 0, 1]), Ipv4Addr::new(10, 9, 0, 1));
    s.send("z", "z says where it is", who_has(s, "z", sink));
    for n in 1..=3 {
        let (a, r) = (format!("a/eth{n}"), format!("r/eth{n}"));
        let gateway = MacAddr([2, 0x42, 10, n, 0, 1]);
        let to_z = |s: &Script<'_>, src: [u8; 4], payload: &str| {
            ipv4(src.into(), s.ip("z"), UDP, &udp(payload.as_bytes()))
        };
        for (from, src, about) in [
            (&a, [10, n, 0, 10], "its own address: all"),
            (&a, [10, n, 0, 77], "nobody's address of its subnet: claimed, off"),
            (&a, [10, n, 0, 20], "another's address: off"),
            (&a, [10, n * 10 + 8, 3, 4], "from behind r, by a: off"),
            (&r, [10, n * 10 + 8, 3, 4], "from behind r, by r: all"),
            (&a, [10, 9, 0, 66], "of another network's subnet: off"),
            (&a, [192, 0, 2, 1], "from where no route leads: off"),
            (&a, [10, n, 0, 255], "from all hosts of its subnet: off"),
        ] {
            s.send(from, about, by(gateway, s, from, &to_z(s, src, about)));
        }
    }
}

/// First match of the rules; what x sends is no business of a's rules, and neither is what a says to its neighbour.
pub fn egress(s: &mut Script<'_>) {
    s.send("x", "x says where it is", who_has(s, "x", RED));
    for from in ["a", "b"] {
        s.send(from, "says where it is", who_has(s, from, BLUE));
    }
    let ping = |s: &Script<'_>, from: &str| ipv4(s.ip(from), s.ip("x"), ICMP, &echo_request());
    s.send("a", "UDP to 2000 is allowed", by(BLUE.0, s, "a", &datagram(s, "a", s.ip("x"), b"allowed")));
    s.send("a", "a ping is not", by(BLUE.0, s, "a", &ping(s, "a")));
    s.send("b", "b has no rules", by(BLUE.0, s, "b", &ping(s, "b")));
    s.send("x", "x may open", by(RED.0, s, "x", &datagram(s, "x", s.ip("a"), b"hello")));
    s.send(
        "a",
        "to its neighbour",
        ethernet(s.mac("b"), s.mac("a"), IPV4, &ipv4(s.ip("a"), s.ip("b"), ICMP, &echo_request())),
    );
}

fn why_not(s: &mut Script<'_>) {
    s.wait(5);
    let to_x = |s: &Script<'_>, payload: &[u8]| datagram(s, "a", s.ip("x"), payload);
    s.send("a", "its last hop", by(BLUE.0, s, "a", &with(to_x(s, b"old"), 8, 1)));
    s.send("a", "green is not connected", by(BLUE.0, s, "a", &datagram(s, "a", s.ip("g"), b"hello")));
    let loopback = with(with(to_x(s, b"from loopback"), 12, 127), 13, 0);
    s.send("a", "from a loopback address", by(BLUE.0, s, "a", &loopback));
    let everybody = datagram(s, "a", Ipv4Addr::new(10, 2, 0, 255), b"all of red");
    s.send("a", "to everybody in red", by(BLUE.0, s, "a", &everybody));
    s.send("a", "too big, and not to be fragmented", by(BLUE.0, s, "a", &to_x(s, &[0x55; 1000])));
    s.send("a", "too big: in fragments", by(BLUE.0, s, "a", &with(to_x(s, &[0x55; 1000]), 6, 0)));
    let mut damaged = to_x(s, b"damaged");
    damaged[1] ^= 4;
    s.send("a", "a wrong header checksum", by(BLUE.0, s, "a", &damaged));
}

fn unresolved(s: &mut Script<'_>) {
    let nobody = Ipv4Addr::new(10, 2, 0, 99);
    for n in 1..=4 {
        let about = format!("packet {n} to nobody: three wait");
        s.send("b", &about, by(BLUE.0, s, "b", &datagram(s, "b", nobody, format!("packet {n}").as_bytes())));
    }
    for n in 2..=4 {
        s.wait(1_000);
        let about = format!("{n} s: asked again, or given up");
        s.send("x", &about, who_has(s, "x", RED));
    }
}

fn who_has(s: &Script<'_>, from: &str, gateway: (MacAddr, Ipv4Addr)) -> Vec<u8> {
    let body = arp(1, (s.mac(from), s.ip(from)), (MacAddr::ZERO, gateway.1));
    ethernet(MacAddr::BROADCAST, s.mac(from), ARP, &body)
}
