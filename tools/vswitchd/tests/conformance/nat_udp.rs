//! NAT of UDP: RFC 4787.

use std::collections::BTreeSet;

use nat::conntrack::Filtering;
use switch::drop::DropReason;
use switch::port::PortId;

use crate::common::outside::Outside;
use crate::lab::{A, B, IP_A, IP_B, Lab, OTHER, REMOTE, TEXT, US, WORLD};
use crate::packet::{DF, Ip, UDP, addr};
use crate::row::Level::{Must, Should};
use crate::row::Outcome::{Chosen, Passes};
use crate::row::{Outcome, Row, assert_all};

#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    Row { id: "U1", level: Must, requirement: "Mapping is endpoint-independent", section: "RFC 4787 4.1 REQ-1", check: mapping },
    Row { id: "U2", level: Should, requirement: "All sessions of an address have one address outside", section: "RFC 4787 4.1 REQ-2", check: paired },
    Row { id: "U3", level: Must, requirement: "Two end points inside never share one outside", section: "RFC 4787 4.2.1 REQ-3", check: overloading },
    Row { id: "U4", level: Should, requirement: "l4 ports below 1024 stay below, others stay above", section: "RFC 4787 4.2.1 REQ-3a", check: ranges },
    Row { id: "U5", level: Should, requirement: "Parity of l4 ports is kept", section: "RFC 4787 4.2.2 REQ-4", check: parity },
    Row { id: "U6", level: Must, requirement: "A mapping lives 120 s, and 300 s by default", section: "RFC 4787 4.3 REQ-5", check: lifetime },
    Row { id: "U7", level: Must, requirement: "What goes out refreshes a mapping", section: "RFC 4787 4.3 REQ-6", check: refresh },
    Row { id: "U8", level: Must, requirement: "An outside with the addresses of an inside is translated all the same", section: "RFC 4787 4.4 REQ-7", check: same_addresses },
    Row { id: "U9", level: Should, requirement: "Filtering is endpoint-independent or address-dependent", section: "RFC 4787 5 REQ-8", check: filtering },
    Row { id: "U10", level: Must, requirement: "Hairpin: to the end point outside of another, from one's own", section: "RFC 4787 6 REQ-9", check: hairpin },
    Row { id: "U11", level: Should, requirement: "Application gateways are off", section: "RFC 4787 7 REQ-10", check: no_alg },
    Row { id: "U12", level: Must, requirement: "Behaviour does not change with load, conflicts or time", section: "RFC 4787 8 REQ-11", check: deterministic },
    Row { id: "U13", level: Must, requirement: "No ICMP message ends a mapping", section: "RFC 4787 9 REQ-12", check: icmp },
    Row { id: "U14", level: Must, requirement: "Too big: the container is told, or the packet is cut, in order", section: "RFC 4787 10 REQ-13", check: too_big },
    Row { id: "U15", level: Must, requirement: "Fragments in any order are translated", section: "RFC 4787 11 REQ-14", check: fragments },
    Row { id: "U16", level: Must, requirement: "A flood of fragments stops neither packets nor fragments in order", section: "RFC 4787 11 REQ-14a", check: fragment_flood },
];

#[test]
fn section_1_1() {
    assert_all(ROWS);
}

/// A datagram of a container to one outside: what it leaves as.
pub fn leaves(lab: &mut Lab, port: u16, from: (&str, u16), to: (&str, u16)) -> (String, u16) {
    let out = lab.one(port, &Ip::udp(from, to, b"payload!"), WORLD);
    assert_eq!((out.proto, out.dst, out.dport()), (UDP, addr(to.0), to.1));
    (out.src.to_string(), out.sport())
}

/// A datagram from outside to an end point of ours: who gets it.
fn enters(lab: &mut Lab, from: (&str, u16), port: u16) -> Vec<(u16, u16)> {
    let out = lab.send(WORLD, &Ip::udp(from, (US, port), b"payload!"));
    out.iter().filter(|got| got.ip.proto == UDP).map(|got| (got.port, got.ip.dport())).collect()
}

fn mapping() -> Outcome {
    let mut lab = Lab::new();
    let first = leaves(&mut lab, A, (IP_A, 5000), (REMOTE, 1));
    for to in [(REMOTE, 2), (OTHER, 1), (OTHER, 9)] {
        assert_eq!(leaves(&mut lab, A, (IP_A, 5000), to), first);
    }
    assert_eq!(first, (US.to_owned(), 5000), "its own l4 port, as it is free");
    Passes
}

fn paired() -> Outcome {
    let more: Vec<_> = ["198.18.0.11", "198.18.0.12", "198.18.0.13"]
        .iter()
        .map(|text| text.parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped())
        .collect();
    let mut lab = Lab::of(&Outside { more, ..Outside::default() });
    let mut used = BTreeSet::new();
    for (port, from) in [(A, IP_A), (B, IP_B)] {
        let of = |lab: &mut Lab, n: u16| leaves(lab, port, (from, 5000 + n), (REMOTE, 1)).0;
        let own: BTreeSet<_> = (0..50).map(|n| of(&mut lab, n)).collect();
        assert_eq!(own.len(), 1, "{own:?}");
        used.extend(own);
    }
    assert!(!used.is_empty());
    Passes
}

fn overloading() -> Outcome {
    let mut lab = Lab::new();
    let mut seen = BTreeSet::new();
    for n in 0..200 {
        for (port, from, to) in [(A, IP_A, REMOTE), (B, IP_B, REMOTE), (B, IP_B, OTHER)] {
            let end = leaves(&mut lab, port, (from, 5000 + n), (to, 1));
            seen.insert((port, n, end));
        }
    }
    let ends: BTreeSet<_> = seen.iter().map(|(.., end)| end).collect();
    assert_eq!((seen.len(), ends.len()), (400, 400), "one for each of 400 end points inside");
    Passes
}

fn ranges() -> Outcome {
    let mut lab = Lab::new();
    for sport in [1, 500, 1023, 1024, 5000, 65_535] {
        for (port, from) in [(A, IP_A), (B, IP_B)] {
            let (_, outside) = leaves(&mut lab, port, (from, sport), (REMOTE, 1));
            assert_eq!(outside < 1024, sport < 1024, "{sport} is {outside}");
            assert_ne!(outside, 0);
        }
    }
    Passes
}

fn parity() -> Outcome {
    let mut lab = Lab::of(&Outside { parity: true, ..Outside::default() });
    for sport in 6000..6100 {
        for (port, from) in [(A, IP_A), (B, IP_B)] {
            let (_, outside) = leaves(&mut lab, port, (from, sport), (REMOTE, 1));
            assert_eq!(outside % 2, sport % 2);
        }
    }
    Chosen("where it is asked for; RFC 7857 section 8 takes the requirement back, so it is off by default")
}

fn lifetime() -> Outcome {
    let mut lab = Lab::new();
    leaves(&mut lab, A, (IP_A, 5000), (REMOTE, 1));
    lab.pass(299);
    assert_eq!(enters(&mut lab, (REMOTE, 1), 5000), [(A, 5000)]);
    let mut lab = Lab::new();
    leaves(&mut lab, A, (IP_A, 5000), (REMOTE, 1));
    lab.pass(301);
    assert_eq!(enters(&mut lab, (REMOTE, 1), 5000), [], "and not for ever");
    Passes
}

fn refresh() -> Outcome {
    let mut lab = Lab::new();
    for _ in 0..5 {
        assert_eq!(leaves(&mut lab, A, (IP_A, 5000), (REMOTE, 1)).1, 5000);
        lab.pass(250);
    }
    assert_eq!(enters(&mut lab, (REMOTE, 1), 5000), [(A, 5000)], "after {} s", lab.age());
    Passes
}

fn same_addresses() -> Outcome {
    // `red`, which is apart, has the addresses of the network outside.
    let text = TEXT
        .replace(
            "name = \"red\"\nsubnet = \"10.2.0.0/24\"\nsubnet6 = \"fd00:2::/64\"",
            "name = \"red\"\nsubnet = \"198.18.0.0/24\"",
        )
        .replace("routes_to = [\"blue\"]\n", "")
        .replace("routes_to = [\"red\"]\n", "")
        .replace("ip = \"10.2.0.2\"\nip6 = \"fd00:2::2\"", "ip = \"198.18.0.7\"");
    let mut lab = Lab::with(&Outside::default(), &text);
    let c = crate::lab::C;
    let (address, port) = leaves(&mut lab, c, ("198.18.0.7", 5000), (REMOTE, 1));
    assert_eq!(address, US);
    assert_eq!(enters(&mut lab, (REMOTE, 1), port), [(c, 5000)]);
    assert_eq!(
        leaves(&mut lab, A, (IP_A, 5000), ("198.18.0.1", 1)).0,
        US,
        "for others the outside is outside"
    );
    Passes
}

fn filtering() -> Outcome {
    for (filtering, same_address, anybody) in [
        (Filtering::Address, true, false),
        (Filtering::Endpoint, true, true),
        (Filtering::AddressPort, false, false),
    ] {
        let mut lab = Lab::of(&Outside { filtering, ..Outside::default() });
        leaves(&mut lab, A, (IP_A, 5000), (REMOTE, 1));
        let to_a = |is: bool| if is { vec![(A, 5000)] } else { Vec::new() };
        assert_eq!(enters(&mut lab, (OTHER, 1), 5000), to_a(anybody), "{filtering:?}");
        assert_eq!(enters(&mut lab, (REMOTE, 7), 5000), to_a(same_address), "{filtering:?}");
        assert_eq!(enters(&mut lab, (REMOTE, 1), 5000), [(A, 5000)], "{filtering:?}");
    }
    Chosen("address-dependent by default, the other two can be chosen; kernels filter by address and port")
}

fn hairpin() -> Outcome {
    // What is published is open to all, and so is a mapping by that filtering.
    let published = vec![(UDP, 8000, 1, PortId(B), 80)];
    let mut lab = Lab::of(&Outside { published, filtering: Filtering::Endpoint, ..Outside::default() });
    leaves(&mut lab, B, (IP_B, 6000), (REMOTE, 1));
    for (to, inside) in [(8000, 80), (6000, 6000)] {
        let out = lab.one(A, &Ip::udp((IP_A, 5000), (US, to), b"payload!"), B);
        assert_eq!((out.src, out.sport()), (addr(US), 5000), "it comes from outside");
        assert_eq!((out.dst, out.dport()), (addr(IP_B), inside));
        let back = lab.one(B, &Ip::udp((IP_B, inside), (US, 5000), b"answer"), A);
        assert_eq!((back.src, back.sport(), back.dport()), (addr(US), to, 5000));
    }
    // Behind one address, by its filtering: each has to have spoken to the other's end point outside (RFC 5128 section 3.3).
    let mut peers = Lab::new();
    assert_eq!(leaves(&mut peers, A, (IP_A, 5000), (REMOTE, 1)).1, 5000);
    assert_eq!(leaves(&mut peers, B, (IP_B, 6000), (REMOTE, 1)).1, 6000);
    let [to_b, to_a] = [((IP_A, 5000), (US, 6000)), ((IP_B, 6000), (US, 5000))];
    assert_eq!(peers.send(A, &Ip::udp(to_b.0, to_b.1, b"hello")), []);
    assert_eq!(peers.one(B, &Ip::udp(to_a.0, to_a.1, b"hello"), A).sport(), 6000);
    assert_eq!(peers.one(A, &Ip::udp(to_b.0, to_b.1, b"hello"), B).sport(), 5000);
    // Nobody else comes in by that, and whom a container has not spoken to not by hairpin either.
    assert_eq!(enters(&mut peers, (OTHER, 1), 6000), []);
    assert_eq!(
        peers
            .send(A, &Ip::udp((IP_A, 5000), (US, 6001), b"hello"))
            .iter()
            .filter(|got| got.port == B)
            .count(),
        0
    );
    // To oneself.
    let out = lab.one(B, &Ip::udp((IP_B, 7000), (US, 8000), b"payload!"), B);
    assert_eq!((out.src, out.sport(), out.dport()), (addr(US), 7000, 80));
    Passes
}

fn no_alg() -> Outcome {
    let mut lab = Lab::new();
    // Addresses and l4 ports in a payload are the container's own business.
    for (dport, payload) in [
        (5060, &b"REGISTER sip:10.1.0.2:5000 SIP/2.0\r\nVia: SIP/2.0/UDP 10.1.0.2:5000\r\n"[..]),
        (69, b"\0\x01file\0octet\0"),
        (53, b"10.1.0.2 10.1.0.2"),
    ] {
        let out = lab.one(A, &Ip::udp((IP_A, 5000), (REMOTE, dport), payload), WORLD);
        assert_eq!(out.l4[8..], *payload);
    }
    Passes
}

fn deterministic() -> Outcome {
    let mut lab = Lab::new();
    // With a conflict and under load: the mapping is endpoint-independent, the filter as before.
    leaves(&mut lab, A, (IP_A, 5000), (REMOTE, 1));
    let own = leaves(&mut lab, B, (IP_B, 5000), (REMOTE, 1));
    assert_ne!(own.1, 5000);
    for n in 0..2000 {
        leaves(&mut lab, A, (IP_A, 10_000 + n), (OTHER, 1));
        if n % 100 == 0 {
            assert_eq!(leaves(&mut lab, B, (IP_B, 5000), (OTHER, 1 + n)), own);
            assert_eq!(enters(&mut lab, (REMOTE, 7), own.1), [(B, 5000)]);
            assert_eq!(enters(&mut lab, ("203.0.113.200", 7), own.1), []);
        }
    }
    lab.pass(250);
    assert_eq!(leaves(&mut lab, B, (IP_B, 5000), (OTHER, 9000)), own);
    Passes
}

fn icmp() -> Outcome {
    let mut lab = Lab::new();
    let sent = lab.one(A, &Ip::udp((IP_A, 5000), (REMOTE, 1), b"payload!"), WORLD);
    for kind in [[3, 0], [3, 1], [3, 2], [3, 3], [3, 4], [3, 13], [4, 0], [11, 0], [11, 1], [12, 0]] {
        // Of whoever is on the way: RFC 4787 REQ-12a.
        let error = Ip::error("203.0.113.200", US, kind, 1400, &sent.bytes());
        let told = lab.one(WORLD, &error, A);
        assert_eq!((told.kind(), told.src), ((kind[0], kind[1]), addr("203.0.113.200")));
        assert_eq!((told.quoted().src, told.quoted().sport()), (addr(IP_A), 5000));
        assert_eq!(enters(&mut lab, (REMOTE, 1), 5000), [(A, 5000)], "after {kind:?}");
    }
    Passes
}

fn too_big() -> Outcome {
    // Blue's packets are larger than what is taken outside.
    let text = TEXT.replace("name = \"out\"", "name = \"out\"\nmtu = 1280");
    let mut lab = Lab::with(&Outside::default(), &text);
    let long = Ip::udp((IP_A, 5000), (REMOTE, 1), &[7; 1400]);
    let error = lab.one(A, &long.clone().field(DF), A);
    assert_eq!((error.kind(), error.word(6)), ((3, 4), 1280));
    assert_eq!((error.quoted().src, error.quoted().sport()), (addr(IP_A), 5000));
    let pieces = lab.send(A, &long);
    assert_eq!(pieces.len(), 2);
    assert!(pieces.iter().all(|got| got.port == WORLD && got.ip.src == addr(US)));
    assert_eq!((pieces[0].ip.field & 0x1fff, pieces[1].ip.field & 0x2000), (0, 0), "in order");
    let whole = [&pieces[0].ip.l4[..], &pieces[1].ip.l4].concat();
    let again = Ip { l4: whole.clone(), src: addr(US), ..long.clone() };
    assert_eq!(again.l4[8..], long.l4[8..]);
    assert_eq!(Ip::new(US, REMOTE, UDP, whole.clone()).l4, whole, "with the checksum of all of it");
    Passes
}

/// What comes out of a packet's fragments, in this order, at `to`.
fn pieces(lab: &mut Lab, port: u16, order: &[Ip], to: u16) -> usize {
    let out: Vec<_> = order.iter().flat_map(|piece| lab.send(port, piece)).collect();
    assert!(out.iter().all(|got| got.port == to), "{out:?}");
    out.len()
}

fn fragments() -> Outcome {
    let mut lab = Lab::new();
    let mut id = 1;
    for order in [[0, 1], [1, 0]] {
        id += 1;
        let cut = Ip::udp((IP_A, 5000), (REMOTE, 1), &[7; 100]).id(id).cut(40);
        let sent = order.map(|at| cut[at].clone());
        let out: Vec<_> = sent.iter().flat_map(|piece| lab.send(A, piece)).collect();
        assert_eq!(out.len(), 2, "{order:?}");
        assert!(out.iter().all(|got| got.port == WORLD && got.ip.src == addr(US)));
        let back = Ip::udp((REMOTE, 1), (US, 5000), &[9; 100]).id(id).cut(8);
        let out: Vec<_> = order.iter().flat_map(|at| lab.send(WORLD, &back[*at])).collect();
        assert_eq!(out.len(), 2, "{order:?}");
        assert!(out.iter().all(|got| got.port == A && got.ip.dst == addr(IP_A)));
    }
    Chosen("down to 8 bytes; others drop small ones")
}

fn fragment_flood() -> Outcome {
    let mut lab = Lab::new();
    leaves(&mut lab, A, (IP_A, 5000), (REMOTE, 1));
    // Later fragments of packets whose first ones never come, from outside and from b.
    for id in 0..5000 {
        let [_, rest] = Ip::udp((OTHER, 1), (US, 5000), &[7; 64]).id(id).cut(32);
        assert_eq!(lab.send(WORLD, &rest), []);
        let [_, rest] = Ip::udp((IP_B, 1), (REMOTE, 5000), &[7; 64]).id(id).cut(32);
        assert_eq!(lab.send(B, &rest), []);
    }
    for id in 6000..6100 {
        let cut = Ip::udp((REMOTE, 1), (US, 5000), &[9; 64]).id(id).cut(32);
        assert_eq!(pieces(&mut lab, WORLD, &cut, A), 2);
        let cut = Ip::udp((IP_A, 5000), (REMOTE, 1), &[9; 64]).id(id).cut(32);
        assert_eq!(pieces(&mut lab, A, &cut, WORLD), 2);
        assert_eq!(enters(&mut lab, (REMOTE, 1), 5000), [(A, 5000)]);
    }
    assert!(lab.dropped(DropReason::NatFragment) > 0);
    Passes
}
