//! IPv6 router: RFC 8200, 4443, 4861 and what belongs to them.

use std::net::{IpAddr, Ipv6Addr};

use switch::drop::DropReason;
use switch::vnet::VnetHdr;

use crate::lab::{A, B, BLUE6, C, IP6_A, IP6_C, Lab, narrow, packets};
use crate::packet::{self, ICMPV6, Ip, addr, solicitation};
use crate::row::Level::{Must, Practice, Should};
use crate::row::Outcome::{NotApplicable, Passes};
use crate::row::{Outcome, Row, assert_all};

#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    Row { id: "S1", level: Must, requirement: "Hop limit is counted down; used up: discard and time exceeded", section: "RFC 8200 3, RFC 4443 3.3", check: hops },
    Row { id: "S2", level: Must, requirement: "A router never fragments; too big is said with the MTU, which is 1280 or more", section: "RFC 8200 4.5, 5; RFC 4443 3.2", check: too_big },
    Row { id: "S3", level: Must, requirement: "An error is 1280 bytes at most and quotes what fits", section: "RFC 4443 2.4 (c)", check: quote },
    Row { id: "S4", level: Must, requirement: "No error about errors, redirects, groups, link broadcasts, sources that are nobody", section: "RFC 4443 2.4 (e)", check: no_error },
    Row { id: "S5", level: Must, requirement: "Errors are rate limited", section: "RFC 4443 2.4 (f)", check: error_rate },
    Row { id: "S6", level: Must, requirement: "Neighbour discovery that is not valid is ignored", section: "RFC 4861 6.1, 7.1, 8.1", check: validity },
    Row { id: "S7", level: Must, requirement: "Neighbour discovery in fragments is ignored", section: "RFC 6980 5", check: fragmented },
    Row { id: "S8", level: Must, requirement: "Three solicitations a second apart, a packet waits, then address unreachable", section: "RFC 4861 7.2.2", check: resolution },
    Row { id: "S9", level: Must, requirement: "A packet whose fragments overlap is discarded as a whole", section: "RFC 8200 4.5", check: overlap },
    Row { id: "S10", level: Must, requirement: "Link-local addresses and groups of link scope are never forwarded", section: "RFC 4291 2.5.6, 2.7", check: scopes },
    Row { id: "S11", level: Must, requirement: "Extension headers but hop-by-hop are not looked at on the way", section: "RFC 8200 4", check: extensions },
    Row { id: "S11a", level: Should, requirement: "A first fragment without all of its headers goes no further", section: "RFC 7112 5", check: short_chain },
    Row { id: "S12", level: Practice, requirement: "A scan neither fills the neighbour table nor floods; who is known stays", section: "RFC 6583 7", check: scan },
    Row { id: "S13", level: Must, requirement: "Router advertisements: link-local source, hop limit 255, three seconds apart", section: "RFC 4861 6.2", check: advertisements },
    Row { id: "S13a", level: Practice, requirement: "Router advertisements and redirects of containers reach nobody", section: "RFC 6105 3, RFC 7113 2", check: guard },
];

#[test]
fn section_1_6() {
    assert_all(ROWS);
}

fn to_c(payload: usize) -> Ip {
    Ip::udp((IP6_A, 1000), (IP6_C, 2000), &vec![7; payload])
}

fn hops() -> Outcome {
    let mut lab = Lab::new();
    for hops in [2, 64, 255] {
        assert_eq!(lab.one(A, &to_c(8).ttl(hops), C).ttl, hops - 1);
    }
    for hops in [0, 1] {
        let error = lab.one(A, &to_c(8).ttl(hops), A);
        assert_eq!((error.kind(), error.src, error.quoted().dst), ((3, 0), addr(BLUE6), addr(IP6_C)));
    }
    Passes
}

fn too_big() -> Outcome {
    let mut lab = Lab::new();
    let fits = usize::from(narrow()) - 48;
    assert_eq!(lab.one(A, &to_c(fits), C).l4.len(), fits + 8);
    let error = lab.one(A, &to_c(fits + 1), A);
    assert_eq!((error.kind(), error.word(4), error.word(6)), ((2, 0), 0, narrow()));
    // A fragment of the sender's is judged like any other packet, and not cut again.
    let [first, rest] = to_c(2600).cut(1400);
    assert_eq!(lab.one(A, &first, A).kind(), (2, 0));
    assert_eq!(lab.one(A, &Ip { l4: rest.l4[..1000].to_vec(), ..rest }, C).l4.len(), 1000);
    Passes
}

fn quote() -> Outcome {
    let mut lab = Lab::new();
    let long = to_c(1400).ttl(1);
    let error = lab.one(A, &long, A);
    assert_eq!(error.bytes().len(), 1280);
    assert_eq!(error.l4[8..], long.bytes()[..1232]);
    let short = to_c(100).ttl(1);
    assert_eq!(lab.one(A, &short, A).l4[8..], short.bytes());
    Passes
}

fn no_error() -> Outcome {
    let mut lab = Lab::new();
    let about = Ip::udp((IP6_C, 2000), (IP6_A, 1000), b"payload!").bytes();
    let mut silent = |ip: &Ip| {
        let out = lab.send(A, ip);
        assert!(out.iter().all(|got| got.port != A), "{out:?}");
    };
    for kind in [[1, 0], [2, 0], [3, 0], [4, 0]] {
        silent(&Ip::error(IP6_A, IP6_C, kind, 0, &about).ttl(1));
        silent(&Ip::error(IP6_A, "fd00:3::7", kind, 0, &about));
    }
    for dst in ["ff05::2", "ff0e::1", "ff02::1"] {
        silent(&Ip { dst: addr(dst), ..to_c(8).ttl(1) });
    }
    for src in ["::", "::1", "ff02::1", "ff05::1"] {
        silent(&Ip { src: addr(src), ..to_c(8).ttl(1) });
    }
    for dst in [[0xff; 6], [0x33, 0x33, 0, 0, 0, 1]] {
        let frame = packet::ethernet(dst, lab.mac(A), false, &to_c(8).ttl(1).bytes());
        assert!(lab.sends(A, &frame).iter().all(|got| got.port == B && got.ip.proto != ICMPV6));
    }
    assert_eq!(
        lab.one(A, &Ip::echo(IP6_A, IP6_C, true, 1).ttl(1), A).kind(),
        (3, 0),
        "queries are no errors"
    );
    Passes
}

fn error_rate() -> Outcome {
    let mut lab = Lab::new();
    let said = |lab: &mut Lab| (0..500).map(|_| lab.send(A, &to_c(8).ttl(1)).len()).sum::<usize>();
    let at_once = said(&mut lab);
    assert!((1..=50).contains(&at_once), "{at_once}");
    lab.wait(1000);
    let later = said(&mut lab);
    assert!((1..=100).contains(&later), "{later}");
    Passes
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// Advertisements of the gateway's among what comes out for `a`.
fn answers(lab: &mut Lab, ip: &Ip) -> usize {
    let group = match ip.dst {
        IpAddr::V6(dst) if dst.is_multicast() => {
            let [.., w, x, y, z] = dst.octets();
            [0x33, 0x33, w, x, y, z]
        }
        _ => lab.gateway_mac(A),
    };
    let frame = packet::ethernet(group, lab.mac(A), false, &ip.bytes());
    let out = lab.frame(A, &VnetHdr::default(), &frame);
    out.iter().filter(|(port, frame)| *port == A && is_nd(frame, 136)).count()
}

fn is_nd(frame: &[u8], kind: u8) -> bool {
    Ip::parse(frame).is_some_and(|ip| ip.proto == ICMPV6 && ip.l4[0] == kind)
}

fn validity() -> Outcome {
    let mut lab = Lab::new();
    let mac = Some(lab.mac(A));
    let good = solicitation(IP6_A, v6(BLUE6), mac);
    assert_eq!(answers(&mut lab, &good), 1, "a valid one is answered");
    let remade = |l4: Vec<u8>| Ip::new(IP6_A, &good.dst.to_string(), ICMPV6, l4).ttl(255);
    let edited = |at: usize, byte: u8| {
        let mut l4 = good.l4.clone();
        l4[at] = byte;
        remade(l4)
    };
    let mut damaged = good.clone();
    damaged.l4[2] ^= 1;
    let unspecified = |dst: &str, mac| {
        let probe = solicitation("::", v6(BLUE6), mac);
        Ip::new("::", dst, ICMPV6, probe.l4).ttl(255)
    };
    let bad = [
        ("hop limit 254", good.clone().ttl(254)),
        ("code 1", edited(1, 1)),
        ("checksum", damaged),
        ("too short", remade(good.l4[..20].to_vec())),
        ("an option of length 0", edited(25, 0)),
        ("an option past the end", edited(25, 9)),
        ("a target that is a group", solicitation(IP6_A, v6("ff02::1"), mac)),
        ("nobody, not to the group", unspecified(BLUE6, None)),
        ("nobody, with a MAC", unspecified(&good.dst.to_string(), mac)),
    ];
    for (what, ip) in bad {
        assert_eq!(answers(&mut lab, &ip), 0, "{what}");
    }
    assert_eq!(answers(&mut lab, &good), 1);
    Passes
}

fn fragmented() -> Outcome {
    let mut lab = Lab::new();
    let good = solicitation(IP6_A, v6(BLUE6), Some(lab.mac(A)));
    for piece in good.cut(24) {
        assert_eq!(answers(&mut lab, &piece), 0);
    }
    // In one fragment that is all of it (RFC 6946), too.
    let atomic = good.extension(44, &[0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(answers(&mut lab, &atomic), 0);
    Passes
}

fn resolution() -> Outcome {
    let mut lab = Lab::new();
    let lost = Ip::udp((IP6_A, 1), ("fd00:2::99", 2), b"x");
    let asked = |frames: &[(u16, Vec<u8>)]| {
        frames.iter().filter(|(port, frame)| *port == C && is_nd(frame, 135)).count()
    };
    let frame = packet::ethernet(lab.gateway_mac(A), lab.mac(A), false, &lost.bytes());
    let mut counts = vec![asked(&lab.frame(A, &VnetHdr::default(), &frame))];
    let mut said = Vec::new();
    for _ in 0..8 {
        let out = lab.wait(500);
        counts.push(asked(&out));
        said.extend(packets(out));
    }
    assert_eq!(counts, [1, 0, 1, 0, 1, 0, 0, 0, 0]);
    let [error] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!((error.port, error.ip.kind(), error.ip.quoted().dst), (A, (1, 3), lost.dst));
    // What waits is sent to whom turns out to be there.
    lab.frame(A, &VnetHdr::default(), &frame);
    let here = packet::asks(lab.mac(C), addr("fd00:2::99"), addr("fd00:2::1"));
    let out = packets(lab.frame(C, &VnetHdr::default(), &here));
    assert_eq!(out.iter().map(|got| (got.port, got.ip.dst)).collect::<Vec<_>>(), [(C, lost.dst)]);
    Passes
}

fn overlap() -> Outcome {
    // Who is in between does not put packets together (RFC 8200 section 4.5): each fragment goes on.
    let mut lab = Lab::new();
    let [first, rest] = to_c(64).cut(32);
    let again = Ip { l4: rest.l4.clone(), ..first.clone() };
    for piece in [&first, &again, &rest] {
        assert_eq!(lab.one(A, piece, C).l4, piece.l4);
    }
    NotApplicable("on this way nothing is put together: fragments go on, translated ones by their first")
}

fn scopes() -> Outcome {
    let mut lab = Lab::new();
    for dst in ["fe80::7", "ff01::1", "ff02::1", "ff11::1", "ff12::1", "::1", "::"] {
        let out = lab.send(A, &Ip { dst: addr(dst), ..to_c(8) });
        assert_eq!(out, [], "to {dst}");
    }
    let link_local = Ip { src: addr("fe80::7"), ..to_c(8) };
    assert_eq!(lab.send(A, &link_local), []);
    // Its own link-local address is as little routed.
    let [_, _, own @ ..] = lab.mac(A);
    let own = format!("fe80::42:{:x}{:02x}:{:x}{:02x}", own[0], own[1], own[2], own[3]);
    assert_eq!(lab.send(A, &Ip { src: addr(&own), ..to_c(8) }), []);
    assert_eq!(lab.send(A, &Ip { dst: addr("::ffff:10.2.0.2"), ..to_c(8) }), []);
    Passes
}

fn extensions() -> Outcome {
    let mut lab = Lab::new();
    // Destination options with one that says "discard me" to those who look and do not know it.
    let options = [0, 0, 0x5e, 4, 1, 2, 3, 4];
    for kind in [60, 0] {
        let out = lab.one(A, &to_c(8).extension(kind, &options), C);
        assert_eq!(out.extensions[0].1[1..], options[1..]);
    }
    // Segment routing and the like with no segments left.
    let out = lab.one(A, &to_c(8).extension(43, &[0, 0, 4, 0, 0, 0, 0, 0]), C);
    assert_eq!(out.extensions.len(), 1);
    // A protocol that nobody knows.
    let unknown = Ip { proto: 253, ..to_c(8) };
    assert_eq!(lab.one(A, &unknown, C).proto, 253);
    // RFC 5095: routing header 0 is gone.
    lab.none(A, &to_c(8).extension(43, &[0, 0, 0, 1, 0, 0, 0, 0]), DropReason::SourceRoute);
    Passes
}

fn short_chain() -> Outcome {
    let mut lab = Lab::new();
    let [first, _] = to_c(64).cut(32);
    assert_eq!(lab.one(A, &first, C).l4.len(), 32);
    let short = Ip { l4: first.l4[..4].to_vec(), ..first };
    assert_eq!(lab.send(A, &short), [], "not even all of the UDP header");
    Passes
}

fn scan() -> Outcome {
    let mut lab = Lab::new();
    let mut asked = 0;
    for n in 0..30_000u32 {
        let dst = Ipv6Addr::from(u128::from(v6("fd00:2::")) | 0x1_0000 | u128::from(n));
        let ip = Ip { dst: dst.into(), ..to_c(8) };
        let frame = packet::ethernet(lab.gateway_mac(A), lab.mac(A), false, &ip.bytes());
        let out = lab.frame(A, &VnetHdr::default(), &frame);
        asked += out.iter().filter(|(_, frame)| is_nd(frame, 135)).count();
    }
    assert!(asked < 3000, "{asked} questions for 30,000 packets in no time");
    assert_eq!(lab.one(A, &to_c(8), C).ttl, 63, "c is known as before");
    let mut other = Ip::udp(("fd00:1::3", 1), (IP6_C, 2), b"x");
    other.ttl = 9;
    assert_eq!(lab.one(B, &other, C).ttl, 8, "and others are not in its way");
    Passes
}

fn advertisements() -> Outcome {
    let mut lab = Lab::new();
    let mut times = Vec::new();
    for _ in 0..3600 {
        let out = lab.wait(500);
        let said = out.iter().filter(|(port, frame)| *port == C && is_nd(frame, 134)).count();
        times.extend(std::iter::repeat_n(lab.now(), said));
        for (_, frame) in out.iter().filter(|(_, frame)| is_nd(frame, 134)) {
            let ip = Ip::parse(frame).unwrap();
            let IpAddr::V6(src) = ip.src else { panic!("{ip:?}") };
            assert!(src.is_unicast_link_local() && ip.ttl == 255 && ip.dst == addr("ff02::1"));
        }
    }
    assert!(times.len() >= 3, "{} in half an hour", times.len());
    let apart = times.windows(2).map(|pair| pair[1].secs() - pair[0].secs()).min();
    assert!(apart >= Some(3), "{apart:?}");
    Passes
}

fn guard() -> Outcome {
    let mut lab = Lab::new();
    let own = solicitation(IP6_A, v6(BLUE6), None).src.to_string();
    for kind in [134, 137] {
        let body = [&[kind, 0, 0, 0, 64, 0, 7, 8][..], &[0; 32]].concat();
        let message = Ip::new(&own, "ff02::1", ICMPV6, body).ttl(255);
        let frame = packet::ethernet([0x33, 0x33, 0, 0, 0, 1], lab.mac(A), false, &message.bytes());
        let out = lab.frame(A, &VnetHdr::default(), &frame);
        assert!(out.is_empty(), "{kind}: {out:?}");
    }
    Passes
}
