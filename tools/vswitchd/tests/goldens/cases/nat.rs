//! Packets that leave with the uplink's address, and what comes back to it.
//!
//! No two frames are of one moment: a connection that is opened by a batch is not there for the rest of it.

use std::net::{Ipv4Addr, Ipv6Addr};

use switch::mac::MacAddr;

use super::super::frames::{
    ARP, IPV4, IPV6, TCP, UDP, arp, ethernet, internet_checksum, ipv4, ipv6, neighbor_solicitation, udp6,
};
use super::super::script::Script;

const BLUE: MacAddr = MacAddr([2, 0x42, 10, 1, 0, 1]);
const BLUE_IP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const BLUE_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1);
/// Ours outside.
const US: MacAddr = MacAddr([2, 0x42, 198, 18, 0, 10]);
const US_IP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 10);
const US_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0x10);
/// Behind the router outside: one whom containers speak to, and one whom they do not.
const REMOTE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);
const REMOTE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9);
const OUTSIDE: &str = "-outside";

const ICMP: u8 = 1;
const GRE: u8 = 47;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// An address and an l4 port.
type End = (Ipv4Addr, u16);

/// A packet that its sender gives to its router.
fn say(s: &mut Script<'_>, from: &str, about: &str, packet: &[u8]) {
    s.wait(10);
    let gateway = if from == OUTSIDE { US } else { BLUE };
    let ethertype = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
    let frame = ethernet(gateway, s.mac(from), ethertype, packet);
    s.send(from, about, frame);
}

/// With a pseudo header (RFC 768, RFC 9293 section 3.1).
fn sum(from: Ipv4Addr, to: Ipv4Addr, proto: u8, bytes: &[u8]) -> u16 {
    let len = (bytes.len() as u16).to_be_bytes();
    internet_checksum(&[&from.octets(), &to.octets(), &[0, proto], &len, bytes])
}

fn datagram(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len() as u16).to_be_bytes();
    let mut bytes = [&from.1.to_be_bytes()[..], &to.1.to_be_bytes(), &len, &[0, 0], payload].concat();
    let sum = sum(from.0, to.0, UDP, &bytes);
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn udp(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    ipv4(from.0, to.0, UDP, &datagram(from, to, payload))
}

fn tcp(from: End, to: End, flags: u8, [seq, ack]: [u32; 2], payload: &[u8]) -> Vec<u8> {
    let mut bytes = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    bytes.extend(seq.to_be_bytes());
    bytes.extend(ack.to_be_bytes());
    bytes.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    bytes.extend(payload);
    let sum = sum(from.0, to.0, TCP, &bytes);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    ipv4(from.0, to.0, TCP, &bytes)
}

fn icmp(from: Ipv4Addr, to: Ipv4Addr, [kind, code]: [u8; 2], body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0][..], body].concat();
    let sum = internet_checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4(from, to, ICMP, &message)
}

/// An error: a rest of header that says nothing, and the packet that it is about.
fn error(from: Ipv4Addr, to: Ipv4Addr, what: [u8; 2], about: &[u8]) -> Vec<u8> {
    icmp(from, to, what, &[&[0; 4], about].concat())
}

/// The fragments of a packet without options, `size` bytes of payload in each but the last.
fn fragments(packet: &[u8], id: u16, size: usize) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(20);
    let count = payload.len().div_ceil(size);
    let cut = payload.chunks(size).enumerate().map(|(index, part)| {
        let more = if index + 1 < count { 0x2000 } else { 0 };
        let mut header = header.to_vec();
        header[2..4].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
        header[4..6].copy_from_slice(&id.to_be_bytes());
        header[6..8].copy_from_slice(&(more | (index * size / 8) as u16).to_be_bytes());
        header[10..12].copy_from_slice(&[0, 0]);
        let sum = internet_checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [header, part.to_vec()].concat()
    });
    cut.collect()
}

pub fn nat(s: &mut Script<'_>) {
    everybody_says_where_it_is(s);
    out_and_back(s);
    in_and_hairpin(s);
    reset(s);
    errors(s);
    shares(s);
    of_ipv6(s);
    in_fragments(s);
}

fn everybody_says_where_it_is(s: &mut Script<'_>) {
    for (from, gateway, gateway6) in
        [("a", BLUE_IP, BLUE_IP6), ("b", BLUE_IP, BLUE_IP6), (OUTSIDE, US_IP, US_IP6)]
    {
        let body = arp(1, (s.mac(from), s.ip(from)), (MacAddr::ZERO, gateway));
        s.wait(10);
        s.send(from, "who has the gateway", ethernet(MacAddr::BROADCAST, s.mac(from), ARP, &body));
        let [.., b, c, d] = gateway6.octets();
        let asks = neighbor_solicitation(s.ip6(from), gateway6, s.mac(from));
        let to = MacAddr([0x33, 0x33, 0xff, b, c, d]);
        s.wait(10);
        s.send(from, "and of IPv6", ethernet(to, s.mac(from), IPV6, &asks));
    }
}

fn out_and_back(s: &mut Script<'_>) {
    let (a, us) = ((s.ip("a"), 5000), (US_IP, 5000));
    say(s, "a", "it leaves with our address, and keeps its l4 port", &udp(a, (REMOTE, 53), b"a question"));
    say(s, OUTSIDE, "its answer", &udp((REMOTE, 53), us, b"an answer"));
    say(s, OUTSIDE, "from another l4 port of that host", &udp((REMOTE, 54), us, b"another answer"));
    say(s, OUTSIDE, "from a host that it did not speak to", &udp((STRANGER, 53), us, b"let me in"));
    let query = [&[0, 7, 0, 1][..], b"are you there?"].concat();
    say(s, "a", "a ping, with its identifier", &icmp(a.0, REMOTE, [8, 0], &query));
    say(s, OUTSIDE, "its answer", &icmp(REMOTE, US_IP, [0, 0], &query));
}

fn in_and_hairpin(s: &mut Script<'_>) {
    let (a, b) = ((s.ip("a"), 80), (s.ip("b"), 6000));
    let (client, published) = ((STRANGER, 40_000), (US_IP, 8080));
    say(s, OUTSIDE, "to no l4 port of ours", &tcp(client, (US_IP, 81), SYN, [1, 0], b""));
    say(s, OUTSIDE, "to a published one", &tcp(client, published, SYN, [1000, 0], b""));
    say(s, "a", "its answer leaves as that one's", &tcp(a, client, SYN | ACK, [7000, 1001], b""));
    say(s, OUTSIDE, "which is acknowledged", &tcp(client, published, ACK, [1001, 7001], b""));
    say(s, OUTSIDE, "to a published one of UDP", &udp((STRANGER, 40_001), (US_IP, 8053), b"a name"));
    say(s, "a", "its answer", &udp((a.0, 53), (STRANGER, 40_001), b"an address"));
    say(s, "b", "its neighbour by our address: as from us", &tcp(b, published, SYN, [1, 0], b""));
    say(s, "a", "so the answer comes by us", &tcp(a, (US_IP, 6000), SYN | ACK, [1, 2], b""));
}

fn reset(s: &mut Script<'_>) {
    let (a, us, server) = ((s.ip("a"), 5001), (US_IP, 5001), (REMOTE, 443));
    say(s, "a", "a connection", &tcp(a, server, SYN, [1000, 0], b""));
    say(s, OUTSIDE, "is accepted", &tcp(server, us, SYN | ACK, [9000, 1001], b""));
    say(s, "a", "and established", &tcp(a, server, ACK, [1001, 9001], b""));
    say(s, OUTSIDE, "a greeting", &tcp(server, us, PSH | ACK, [9001, 1001], b"hello"));
    say(s, OUTSIDE, "a reset by somebody who guesses", &tcp(server, us, RST, [900_000, 0], b""));
    say(s, "a", "it goes on", &tcp(a, server, PSH | ACK, [1001, 9006], b"hello, too"));
    say(s, OUTSIDE, "a reset by who knows", &tcp(server, us, RST, [9006, 0], b""));
    say(s, "a", "a reset opens nothing", &tcp((a.0, 5002), server, RST, [1, 0], b""));
    say(s, OUTSIDE, "nor does one from outside", &tcp(client(), (US_IP, 8080), RST | FIN, [1, 0], b""));
}

/// Of a connection that there is not.
fn client() -> End {
    (STRANGER, 40_002)
}

fn errors(s: &mut Script<'_>) {
    let (a, router) = ((s.ip("a"), 5000), s.ip(OUTSIDE));
    let sent = udp((US_IP, 5000), (REMOTE, 53), b"a question");
    say(s, OUTSIDE, "what a sent was too far: a is told", &error(router, US_IP, [11, 0], &sent));
    let another = udp((US_IP, 5999), (REMOTE, 53), b"a question");
    say(s, OUTSIDE, "about what nobody sent", &error(router, US_IP, [11, 0], &another));
    let got = udp((STRANGER, 40_001), (a.0, 53), b"a name");
    say(s, "a", "about what it got: by our address", &error(a.0, STRANGER, [3, 3], &got));
    let never = udp((STRANGER, 40_009), (a.0, 53), b"a name");
    say(s, "a", "about what it never got", &error(a.0, STRANGER, [3, 3], &never));
}

fn shares(s: &mut Script<'_>) {
    let (a, b) = (s.ip("a"), s.ip("b"));
    for n in 1..=5 {
        let about = format!("end point {n} of four that it may have");
        say(s, "b", &about, &udp((b, 7000 + n), (REMOTE, 53), b"a question"));
    }
    say(s, "a", "without l4 ports: by address", &ipv4(a, REMOTE, GRE, &[0, 0, 8, 0]));
    say(s, OUTSIDE, "its answer", &ipv4(REMOTE, US_IP, GRE, &[0, 0, 8, 0]));
    say(s, "b", "and so for one container alone", &ipv4(b, REMOTE, GRE, &[0, 0, 8, 0]));
}

fn of_ipv6(s: &mut Script<'_>) {
    let a = s.ip6("a");
    let out = ipv6(a, REMOTE6, UDP, 64, &udp6(a, REMOTE6, [5000, 53], b"a question"));
    say(s, "a", "the same with IPv6", &out);
    let back = ipv6(REMOTE6, US_IP6, UDP, 64, &udp6(REMOTE6, US_IP6, [53, 5000], b"an answer"));
    say(s, OUTSIDE, "its answer", &back);
}

fn in_fragments(s: &mut Script<'_>) {
    let (a, us, far) = ((s.ip("a"), 5000), (US_IP, 5000), (REMOTE, 53));
    for (index, part) in fragments(&udp(a, far, &[0x55; 100]), 1, 64).iter().enumerate() {
        say(s, "a", &format!("in order: fragment {index}"), part);
    }
    let others = fragments(&udp((s.ip("b"), 7000), far, &[0x44; 100]), 9, 64);
    for (index, part) in fragments(&udp(a, far, &[0x55; 100]), 9, 64).iter().enumerate() {
        say(s, "a", &format!("at the same time as another with its identification: fragment {index}"), part);
        say(
            s,
            "b",
            &format!("at the same time as another with its identification: fragment {index}"),
            &others[index],
        );
    }
    let parts = fragments(&udp(far, us, &[0x66; 100]), 2, 64);
    for (index, part) in parts.iter().enumerate().rev() {
        say(s, OUTSIDE, &format!("the last one first: fragment {index}"), part);
    }
    let echo = |id| fragments(&icmp(a.0, BLUE_IP, [8, 0], &[0x11; 100]), id, 64);
    for (index, part) in echo(11).iter().enumerate() {
        say(s, "a", &format!("a ping of the gateway: fragment {index}"), part);
    }
    let [first, other] = [echo(12), fragments(&icmp(a.0, BLUE_IP, [8, 0], &[0x22; 100]), 12, 64)];
    say(s, "a", "another one", &first[0]);
    say(s, "a", "what contradicts it", &other[0]);
    let parts = fragments(&udp(a, far, &[0x77; 100]), 3, 64);
    say(s, "a", "its first never comes", &parts[1]);
    s.wait(3_000);
    say(s, "a", "3 s later that is given up", &udp(a, far, b"a question"));
}
