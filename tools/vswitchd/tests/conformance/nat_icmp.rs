//! NAT of ICMP: RFC 5508; what RFC 7857 and RFC 6888 add.

use std::collections::BTreeSet;

use nat::conntrack::{Filtering, Limits};
use switch::drop::DropReason;
use switch::port::PortId;

use crate::common::outside::Outside;
use crate::lab::{A, B, IP_A, IP_B, IP6_A, Lab, OTHER, REMOTE, REMOTE6, US, US6, WORLD};
use crate::nat_tcp::Talk;
use crate::nat_udp::leaves;
use crate::packet::{self, ACK, DF, Ip, RST, TCP, UDP, addr};
use crate::row::Level::{Must, Should};
use crate::row::Outcome::{Chosen, Differs, Passes};
use crate::row::{Outcome, Row, assert_all};

#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    Row { id: "I1", level: Must, requirement: "Ping works; two with one identifier do not meet", section: "RFC 5508 3.1 REQ-1", check: queries },
    Row { id: "I2", level: Must, requirement: "The mapping of a query lives 60 s", section: "RFC 5508 3.2 REQ-2", check: lifetime },
    Row { id: "I3", level: Should, requirement: "An error with a wrong checksum is dropped without a word", section: "RFC 5508 4.1 REQ-3", check: bad_checksum },
    Row { id: "I4", level: Must, requirement: "Error from outside: the packet inside is restored, its source stays; of no mapping: dropped", section: "RFC 5508 4.2.1 REQ-4", check: from_outside },
    Row { id: "I5", level: Must, requirement: "Error from inside: likewise, and its source is translated", section: "RFC 5508 4.2.2 REQ-5", check: from_inside },
    Row { id: "I6", level: Must, requirement: "An error neither refreshes nor ends what it is about", section: "RFC 5508 4.3 REQ-6", check: no_refresh },
    Row { id: "I7", level: Must, requirement: "Errors about what was hairpinned", section: "RFC 5508 5 REQ-7", check: hairpin },
    Row { id: "I8", level: Should, requirement: "Who gets no place is told: prohibited", section: "RFC 5508 6 REQ-8", check: refused },
    Row { id: "I9", level: Must, requirement: "Options in the quoted packet are walked past; its checksum need not be right", section: "RFC 5508 4.1 REQ-3b, c", check: quoted_options },
    Row { id: "W2", level: Should, requirement: "Answers to what nobody asked for do not refresh", section: "RFC 7857 7", check: no_answer_refreshes },
    Row { id: "W3", level: Should, requirement: "An l4 port that is not kept cannot be guessed", section: "RFC 7857 9, RFC 6056", check: unpredictable },
    Row { id: "W3a", level: Should, requirement: "Two packets in fragments from one address have not the same identification", section: "RFC 7857 10, RFC 6864 5.1", check: identifications },
    Row { id: "C1", level: Must, requirement: "One container cannot take the l4 ports of all", section: "RFC 6888 3 REQ-4", check: quota },
    Row { id: "C2", level: Should, requirement: "A freed l4 port is not another's for 120 s", section: "RFC 6888 3 REQ-8", check: quarantine },
];

#[test]
fn section_1_3() {
    assert_all(ROWS);
}

/// An echo request: the identifier it leaves with.
fn pings(lab: &mut Lab, port: u16, from: &str, id: u16, to: &str) -> u16 {
    let out = lab.one(port, &Ip::echo(from, to, true, id), WORLD);
    assert_eq!(out.src, addr(if from.contains(':') { US6 } else { US }));
    out.ident()
}

/// The reply to it: who gets it.
fn replies(lab: &mut Lab, from: &str, id: u16) -> Option<(u16, u16)> {
    let out = lab.send(WORLD, &Ip::echo(from, if from.contains(':') { US6 } else { US }, false, id));
    out.first().map(|got| (got.port, got.ip.ident()))
}

fn queries() -> Outcome {
    let mut lab = Lab::new();
    let own = pings(&mut lab, A, IP_A, 7, REMOTE);
    let other = pings(&mut lab, B, IP_B, 7, REMOTE);
    assert_ne!(own, other);
    assert_eq!(replies(&mut lab, REMOTE, own), Some((A, 7)));
    assert_eq!(replies(&mut lab, REMOTE, other), Some((B, 7)));
    let own = pings(&mut lab, A, IP6_A, 7, REMOTE6);
    assert_eq!(replies(&mut lab, REMOTE6, own), Some((A, 7)));
    Passes
}

fn lifetime() -> Outcome {
    for (after, lives) in [(59, true), (62, false)] {
        let mut lab = Lab::new();
        let id = pings(&mut lab, A, IP_A, 7, REMOTE);
        lab.pass(after);
        assert_eq!(replies(&mut lab, REMOTE, id).is_some(), lives, "after {after} s");
    }
    Passes
}

/// A datagram of `a`'s, as it is outside.
fn sent(lab: &mut Lab) -> Ip {
    lab.one(A, &Ip::udp((IP_A, 5000), (REMOTE, 53), b"payload!"), WORLD)
}

const ROUTER: &str = "203.0.113.200";

fn bad_checksum() -> Outcome {
    let mut lab = Lab::new();
    let about = sent(&mut lab).bytes();
    let mut error = Ip::error(ROUTER, US, [3, 1], 0, &about);
    assert_eq!(lab.send(WORLD, &error).len(), 1);
    error.l4[3] ^= 1;
    assert_eq!(lab.send(WORLD, &error), []);
    Passes
}

fn from_outside() -> Outcome {
    let mut lab = Lab::new();
    let about = sent(&mut lab);
    for kind in [[3, 0], [3, 3], [3, 4], [11, 0], [12, 0]] {
        let told = lab.one(WORLD, &Ip::error(ROUTER, US, kind, 1400, &about.bytes()), A);
        assert_eq!((told.kind(), told.src, told.dst), ((kind[0], kind[1]), addr(ROUTER), addr(IP_A)));
        let quoted = told.quoted();
        assert_eq!((quoted.src, quoted.sport()), (addr(IP_A), 5000));
        assert_eq!((quoted.dst, quoted.dport()), (addr(REMOTE), 53));
        // It is what the container had sent, checksums and all.
        assert_eq!(Ip::new(IP_A, REMOTE, UDP, quoted.l4.clone()).l4, quoted.l4);
    }
    let id = pings(&mut lab, A, IP_A, 7, REMOTE);
    let ping = Ip::echo(US, REMOTE, true, id);
    let told = lab.one(WORLD, &Ip::error(ROUTER, US, [11, 0], 0, &ping.bytes()), A);
    assert_eq!((told.quoted().src, told.quoted().ident()), (addr(IP_A), 7));
    let nobody = Ip::udp((US, 6000), (REMOTE, 53), b"payload!").bytes();
    lab.none(WORLD, &Ip::error(ROUTER, US, [3, 1], 0, &nobody), DropReason::NatError);
    Passes
}

fn from_inside() -> Outcome {
    let mut lab = Lab::new();
    sent(&mut lab);
    let answer = lab.one(WORLD, &Ip::udp((REMOTE, 53), (US, 5000), b"answer"), A);
    let told = lab.one(A, &Ip::error(IP_A, REMOTE, [3, 3], 0, &answer.bytes()), WORLD);
    assert_eq!((told.kind(), told.src, told.dst), ((3, 3), addr(US), addr(REMOTE)));
    let quoted = told.quoted();
    assert_eq!((quoted.src, quoted.sport()), (addr(REMOTE), 53));
    assert_eq!((quoted.dst, quoted.dport()), (addr(US), 5000));
    assert_eq!(Ip::new(REMOTE, US, UDP, quoted.l4.clone()).l4, quoted.l4);
    // About what never came.
    let invented = Ip::udp((OTHER, 53), (IP_A, 6000), b"answer").bytes();
    lab.none(A, &Ip::error(IP_A, OTHER, [3, 3], 0, &invented), DropReason::NatError);
    Passes
}

fn no_refresh() -> Outcome {
    let mut lab = Lab::new();
    let about = sent(&mut lab);
    lab.pass(290);
    lab.one(WORLD, &Ip::error(ROUTER, US, [3, 1], 0, &about.bytes()), A);
    lab.pass(12);
    let late = lab.send(WORLD, &Ip::udp((REMOTE, 53), (US, 5000), b"late"));
    assert!(late.iter().all(|got| got.port == WORLD), "300 s after its last packet: {late:?}");
    Passes
}

fn hairpin() -> Outcome {
    let published = vec![(UDP, 8000, 1, PortId(B), 80)];
    let mut lab = Lab::of(&Outside { published, ..Outside::default() });
    let got = lab.one(A, &Ip::udp((IP_A, 5000), (US, 8000), b"payload!"), B);
    // b says that nothing listens: a hears that of what it had sent, from the end point that it had sent to.
    let told = lab.one(B, &Ip::error(IP_B, US, [3, 3], 0, &got.bytes()), A);
    assert_eq!((told.kind(), told.src, told.dst), ((3, 3), addr(US), addr(IP_A)));
    let quoted = told.quoted();
    assert_eq!((quoted.src, quoted.sport(), quoted.dst, quoted.dport()), (addr(IP_A), 5000, addr(US), 8000));
    Passes
}

/// A container may have ten mappings.
fn ten() -> Lab {
    let limits = Limits { mappings_per_port: 10, ..Limits::default() };
    Lab::of(&Outside { limits, ..Outside::default() })
}

fn refused() -> Outcome {
    let mut lab = ten();
    (0..10).for_each(|n| drop(leaves(&mut lab, A, (IP_A, 5000 + n), (REMOTE, 1))));
    let told = lab.one(A, &Ip::udp((IP_A, 6000), (REMOTE, 1), b"x"), A);
    assert_eq!((told.kind(), told.quoted().sport()), ((3, 13), 6000));
    assert_eq!(lab.dropped(DropReason::NatQuota), 1);
    Passes
}

fn quoted_options() -> Outcome {
    let mut lab = Lab::new();
    let with = Ip::udp((IP_A, 5000), (REMOTE, 53), b"payload!").options(&[148, 4, 0, 0]);
    let mut about = lab.one(A, &with, WORLD);
    assert_eq!(about.options, [148, 4, 0, 0]);
    about.l4[6] ^= 0x55;
    let told = lab.one(WORLD, &Ip::error(ROUTER, US, [3, 1], 0, &about.bytes()), A);
    assert_eq!((told.quoted().src, told.quoted().sport()), (addr(IP_A), 5000));
    // And cut behind 8 bytes of it.
    let told = lab.one(WORLD, &Ip::error(ROUTER, US, [3, 1], 0, &about.bytes()[..32]), A);
    assert_eq!((told.quoted().options.len(), told.quoted().sport()), (4, 5000));
    Passes
}

fn no_answer_refreshes() -> Outcome {
    // Somebody's datagram comes by the mapping; that nothing listens is what the container says to it, again and again.
    let mut lab = Lab::of(&Outside { filtering: Filtering::Endpoint, ..Outside::default() });
    sent(&mut lab);
    let stray = lab.one(WORLD, &Ip::udp((OTHER, 9), (US, 5000), b"stray"), A);
    for _ in 0..2 {
        lab.pass(145);
        lab.one(A, &Ip::error(IP_A, OTHER, [3, 3], 0, &stray.bytes()), WORLD);
    }
    lab.pass(12);
    let late = lab.send(WORLD, &Ip::udp((REMOTE, 53), (US, 5000), b"late"));
    assert!(late.iter().all(|got| got.port == WORLD), "300 s after its last packet: {late:?}");
    Passes
}

fn unpredictable() -> Outcome {
    // Whether two labs give the same l4 port in the place of one that is taken, or the next one.
    let other = || {
        let mut lab = Lab::new();
        leaves(&mut lab, A, (IP_A, 5000), (REMOTE, 1));
        leaves(&mut lab, B, (IP_B, 5000), (REMOTE, 1)).1
    };
    let chosen: BTreeSet<u16> = (0..8).map(|_| other()).collect();
    assert!(chosen.len() >= 7 && !chosen.contains(&5001), "{chosen:?}");
    Chosen("the container's own where it is free, else by a keyed hash")
}

fn identifications() -> Outcome {
    let mut lab = Lab::new();
    let mut seen = BTreeSet::new();
    for round in 0..20 {
        for (port, own) in [(A, IP_A), (B, IP_B)] {
            let mut pieces = Ip::udp((own, 5000), (REMOTE, 1), &[7; 100]).id(round).cut(40);
            if round % 2 == 1 {
                pieces.reverse();
            }
            let out: Vec<_> = pieces.iter().flat_map(|piece| lab.send(port, piece)).collect();
            assert_eq!(out.len(), 2);
            assert_eq!(out[0].ip.id, out[1].ip.id, "both are of one packet");
            seen.insert(out[0].ip.id);
        }
    }
    assert_eq!(seen.len(), 40, "no two packets have the same one");
    // RFC 6864 section 4.1: of what is not in fragments, and may not be, it says nothing.
    let out = lab.one(A, &Ip::udp((IP_A, 5000), (REMOTE, 1), b"x").field(DF).id(77), WORLD);
    assert_eq!(out.id, 77);
    // What somebody outside cut is his.
    let back = Ip::udp((REMOTE, 1), (US, 5000), &[9; 100]).id(78).cut(8);
    let out: Vec<_> = back.iter().flat_map(|piece| lab.send(WORLD, piece)).collect();
    assert!(out.len() == 2 && out.iter().all(|got| got.ip.id == 78), "{out:?}");
    Differs(
        "counted anew for what leaves in fragments; what leaves whole keeps its own, though others may cut it",
    )
}

fn quota() -> Outcome {
    let mut lab = ten();
    for n in 0..200 {
        lab.send(A, &Ip::udp((IP_A, 5000 + n), (REMOTE, 1), b"x"));
        lab.send(A, &Ip::tcp((IP_A, 5000 + n), (REMOTE, 1), packet::SYN, [1, 0], &[]));
        lab.send(A, &Ip::echo(IP_A, REMOTE, true, n));
    }
    let nat = lab.tables();
    let nat = nat.tables.nat.as_ref().unwrap();
    for proto in [UDP, TCP, packet::ICMP] {
        let rows = nat.conntrack.mappings(&nat.rules, lab.now());
        assert_eq!(rows.filter(|row| row.proto == proto && row.owner == PortId(A)).count(), 10);
    }
    assert_eq!(leaves(&mut lab, B, (IP_B, 7000), (REMOTE, 1)), (US.to_owned(), 7000));
    assert!(Talk::open(&mut lab, B, (IP_B, 7000), (REMOTE, 80)).lives(&mut lab));
    Passes
}

fn quarantine() -> Outcome {
    let mut lab = Lab::new();
    leaves(&mut lab, A, (IP_A, 5000), (REMOTE, 1));
    lab.pass(302);
    let nat = lab.tables();
    let nat = nat.tables.nat.as_ref().unwrap();
    nat.conntrack.age(&nat.rules, lab.now());
    assert_eq!(nat.conntrack.mappings(&nat.rules, lab.now()).count(), 0, "it is over");
    assert_ne!(leaves(&mut lab, B, (IP_B, 5000), (REMOTE, 1)).1, 5000);
    assert_eq!(leaves(&mut lab, A, (IP_A, 5000), (REMOTE, 1)).1, 5000, "its own is had again");
    let mut lab = Lab::new();
    let talk = Talk::open(&mut lab, A, (IP_A, 5000), (REMOTE, 80));
    assert!(talk.hears(&mut lab, RST | ACK, [5001, 1001], &[]));
    lab.pass(242);
    let nat = lab.tables();
    let nat = nat.tables.nat.as_ref().unwrap();
    nat.conntrack.age(&nat.rules, lab.now());
    assert!(!talk.hears(&mut lab, ACK, [5001, 1001], b"late"));
    assert_ne!(Talk::open(&mut lab, B, (IP_B, 5000), (REMOTE, 80)).external, 5000);
    Passes
}
