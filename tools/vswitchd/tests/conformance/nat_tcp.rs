//! NAT of TCP: RFC 5382, and RFC 7857 where it says more.

use std::collections::BTreeSet;

use nat::conntrack::Filtering;
use switch::drop::DropReason;
use switch::port::PortId;

use crate::common::outside::Outside;
use crate::lab::{A, B, IP_A, IP_B, Lab, OTHER, REMOTE, US, WORLD};
use crate::packet::{ACK, FIN, Ip, RST, SYN, TCP, addr};
use crate::row::Level::{Must, Should};
use crate::row::Outcome::{Chosen, Passes};
use crate::row::{Outcome, Row, assert_all};

#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    Row { id: "T1", level: Must, requirement: "Mapping is endpoint-independent", section: "RFC 5382 4.1 REQ-1", check: mapping },
    Row { id: "T2", level: Must, requirement: "Every valid sequence passes, simultaneous open among them", section: "RFC 5382 4.2 REQ-2", check: sequences },
    Row { id: "T3", level: Should, requirement: "Filtering is endpoint-independent or address-dependent", section: "RFC 5382 4.3 REQ-3", check: filtering },
    Row { id: "T4", level: Must, requirement: "A SYN that nobody asked for is not answered for 6 s", section: "RFC 5382 4.3 REQ-4", check: unsolicited },
    Row { id: "T5", level: Must, requirement: "Established 2 h 4 min, half open and half closed 4 min", section: "RFC 5382 5 REQ-5", check: timeouts },
    Row { id: "T6", level: Should, requirement: "Application gateways are off", section: "RFC 5382 6 REQ-6", check: no_alg },
    Row { id: "T7", level: Must, requirement: "Two end points inside never share one outside", section: "RFC 5382 7.1 REQ-7", check: overloading },
    Row { id: "T8", level: Must, requirement: "Hairpin, from the end point outside", section: "RFC 5382 7.2 REQ-8", check: hairpin },
    Row { id: "T9", level: Must, requirement: "ICMP errors are translated and end nothing", section: "RFC 5382 7.3 REQ-9, REQ-10", check: icmp },
    Row { id: "W1", level: Must, requirement: "A reset is translated, and its connection stays for 4 min", section: "RFC 7857 2.2", check: reset },
    Row { id: "W1a", level: Should, requirement: "A reset that is out of the window changes nothing", section: "RFC 5961 3.2, RFC 7857 2.2", check: forged_reset },
];

#[test]
fn section_1_2() {
    assert_all(ROWS);
}

/// A connection of a container's to one outside.
pub struct Talk {
    pub port: u16,
    inside: (&'static str, u16),
    remote: (&'static str, u16),
    /// What it is outside.
    pub external: u16,
}

impl Talk {
    /// The SYN alone.
    pub fn opens(lab: &mut Lab, port: u16, inside: (&'static str, u16), remote: (&'static str, u16)) -> Self {
        let out = lab.one(port, &Ip::tcp(inside, remote, SYN, [1000, 0], &[]), WORLD);
        assert_eq!((out.src, out.dst, out.dport()), (addr(US), addr(remote.0), remote.1));
        Self { port, inside, remote, external: out.sport() }
    }

    /// The whole handshake.
    pub fn open(lab: &mut Lab, port: u16, inside: (&'static str, u16), remote: (&'static str, u16)) -> Self {
        let talk = Self::opens(lab, port, inside, remote);
        assert!(talk.hears(lab, SYN | ACK, [5000, 1001], &[]));
        assert!(talk.says(lab, ACK, [1001, 5001], &[]));
        talk
    }

    /// Whether what the container says gets out.
    pub fn says(&self, lab: &mut Lab, flags: u8, numbers: [u32; 2], data: &[u8]) -> bool {
        let out = lab.send(self.port, &Ip::tcp(self.inside, self.remote, flags, numbers, data));
        let own = out.iter().filter(|got| got.port == WORLD && got.ip.proto == TCP);
        own.clone().for_each(|got| assert_eq!(got.ip.sport(), self.external));
        own.count() == 1
    }

    /// Whether what is said to it gets in.
    pub fn hears(&self, lab: &mut Lab, flags: u8, numbers: [u32; 2], data: &[u8]) -> bool {
        let out = lab.send(WORLD, &Ip::tcp(self.remote, (US, self.external), flags, numbers, data));
        assert!(out.iter().all(|got| got.port == self.port && got.ip.dport() == self.inside.1), "{out:?}");
        out.len() == 1
    }

    /// Whether data goes both ways.
    pub fn lives(&self, lab: &mut Lab) -> bool {
        self.says(lab, ACK, [1001, 5001], b"ping") && self.hears(lab, ACK, [5001, 1001], b"pong")
    }
}

fn mapping() -> Outcome {
    let mut lab = Lab::new();
    for remote in [(REMOTE, 80), (REMOTE, 81), (OTHER, 80)] {
        assert_eq!(Talk::open(&mut lab, A, (IP_A, 5000), remote).external, 5000);
    }
    Passes
}

fn sequences() -> Outcome {
    let mut lab = Lab::new();
    // From the first SYN to the last ACK, either side first to close.
    for (sport, closes_first) in [(5000, true), (5001, false)] {
        let talk = Talk::open(&mut lab, A, (IP_A, sport), (REMOTE, 80));
        assert!(talk.lives(&mut lab));
        let out = |lab: &mut Lab| talk.says(lab, FIN | ACK, [1005, 5005], &[]);
        let back = |lab: &mut Lab| talk.hears(lab, FIN | ACK, [5005, 1005], &[]);
        if closes_first {
            assert!(out(&mut lab) && talk.hears(&mut lab, ACK, [5005, 1006], &[]));
            assert!(talk.hears(&mut lab, ACK, [5005, 1006], b"still"), "half closed it still hears");
            assert!(talk.hears(&mut lab, FIN | ACK, [5010, 1006], &[]));
            assert!(talk.says(&mut lab, ACK, [1006, 5011], &[]));
        } else {
            assert!(back(&mut lab) && talk.says(&mut lab, ACK, [1005, 5006], b"still"));
            assert!(talk.says(&mut lab, FIN | ACK, [1010, 5006], &[]));
            assert!(talk.hears(&mut lab, ACK, [5006, 1011], &[]));
        }
    }
    // RFC 9293 figure 8: both say SYN, and then both say SYN and ACK.
    let talk = Talk::opens(&mut lab, A, (IP_A, 6000), (REMOTE, 6000));
    assert!(talk.hears(&mut lab, SYN, [5000, 0], &[]));
    assert!(talk.says(&mut lab, SYN | ACK, [1000, 5001], &[]));
    assert!(talk.hears(&mut lab, SYN | ACK, [5000, 1001], &[]));
    assert!(talk.says(&mut lab, ACK, [1001, 5001], &[]) && talk.lives(&mut lab));
    Passes
}

fn filtering() -> Outcome {
    for (filtering, same_address, anybody) in [
        (Filtering::Address, true, false),
        (Filtering::Endpoint, true, true),
        (Filtering::AddressPort, false, false),
    ] {
        let mut lab = Lab::of(&Outside { filtering, ..Outside::default() });
        Talk::open(&mut lab, A, (IP_A, 5000), (REMOTE, 80));
        for (from, is) in [((OTHER, 80), anybody), ((REMOTE, 7), same_address)] {
            let out = lab.send(WORLD, &Ip::tcp(from, (US, 5000), SYN, [1, 0], &[]));
            assert_eq!(out.len(), usize::from(is), "{filtering:?} {from:?}: {out:?}");
        }
    }
    Chosen("address-dependent by default, the other two can be chosen; kernels filter by address and port")
}

fn unsolicited() -> Outcome {
    let mut lab = Lab::new();
    // To nobody's end point, and to one that has never spoken to this address.
    Talk::open(&mut lab, A, (IP_A, 5000), (OTHER, 80));
    for port in [4000, 5000] {
        assert_eq!(lab.send(WORLD, &Ip::tcp((REMOTE, 80), (US, port), SYN, [7, 0], &[])), [], "{port}");
        for _ in 0..10 {
            lab.pass(1);
            assert!(lab.step().is_empty());
        }
    }
    // Within 6 s of it the container opens the same one: it is as if nobody had spoken.
    assert_eq!(lab.send(WORLD, &Ip::tcp((REMOTE, 80), (US, 4001), SYN, [7, 0], &[])), []);
    lab.pass(3);
    let talk = Talk::open(&mut lab, A, (IP_A, 4001), (REMOTE, 80));
    assert!(talk.lives(&mut lab));
    Chosen("never answered: REQ-4 (a) asks for silence first, and an ICMP error tells scanners who is there")
}

fn timeouts() -> Outcome {
    let open = |after: u32| {
        let mut lab = Lab::new();
        let talk = Talk::open(&mut lab, A, (IP_A, 5000), (REMOTE, 80));
        lab.pass(after);
        talk.hears(&mut lab, ACK, [5001, 1001], b"late")
    };
    assert_eq!((open(7439), open(7442)), (true, false), "2 h 4 min");
    let half_open = |after: u32| {
        let mut lab = Lab::new();
        let talk = Talk::opens(&mut lab, A, (IP_A, 5000), (REMOTE, 80));
        lab.pass(after);
        talk.hears(&mut lab, SYN | ACK, [5000, 1001], &[])
    };
    assert!(half_open(239), "half open");
    let mut lab = Lab::new();
    let talk = Talk::open(&mut lab, A, (IP_A, 5000), (REMOTE, 80));
    assert!(talk.says(&mut lab, FIN | ACK, [1001, 5001], &[]));
    assert!(talk.hears(&mut lab, ACK, [5001, 1002], &[]));
    lab.pass(239);
    assert!(talk.hears(&mut lab, ACK, [5001, 1002], b"late"), "half closed");
    Passes
}

fn no_alg() -> Outcome {
    let mut lab = Lab::new();
    let talk = Talk::open(&mut lab, A, (IP_A, 5000), (REMOTE, 21));
    let data = b"PORT 10,1,0,2,19,136\r\n";
    let out = lab.one(A, &Ip::tcp((IP_A, 5000), (REMOTE, 21), ACK, [1001, 5001], data), WORLD);
    assert_eq!(out.l4[20..], data[..]);
    assert!(talk.hears(&mut lab, ACK, [5001, 1023], b"500\r\n"));
    let syn = Ip::tcp((REMOTE, 20), (US, 5000), SYN, [1, 0], &[]);
    assert_eq!(
        lab.send(WORLD, &syn).iter().filter(|got| got.ip.dport() == 5000).count(),
        1,
        "by the mapping"
    );
    assert_eq!(
        lab.send(WORLD, &Ip::tcp((REMOTE, 20), (US, 5001), SYN, [1, 0], &[])),
        [],
        "by no gateway of FTP"
    );
    Passes
}

fn overloading() -> Outcome {
    let mut lab = Lab::new();
    let mut ends = BTreeSet::new();
    for n in 0..200 {
        for (port, from) in [(A, IP_A), (B, IP_B)] {
            ends.insert(Talk::opens(&mut lab, port, (from, 5000 + n), (REMOTE, 80)).external);
        }
    }
    assert_eq!(ends.len(), 400);
    Passes
}

fn hairpin() -> Outcome {
    let published = vec![(TCP, 8000, 1, PortId(B), 80)];
    let mut lab = Lab::of(&Outside { published, ..Outside::default() });
    for (port, from) in [(A, IP_A), (B, IP_B)] {
        let syn = lab.one(port, &Ip::tcp((from, 5000), (US, 8000), SYN, [1000, 0], &[]), B);
        assert_eq!((syn.src, syn.dst, syn.dport()), (addr(US), addr(IP_B), 80));
        let outside = syn.sport();
        let answer = Ip::tcp((IP_B, 80), (US, outside), SYN | ACK, [5000, 1001], &[]);
        let answer = lab.one(B, &answer, port);
        assert_eq!((answer.src, answer.sport(), answer.dst), (addr(US), 8000, addr(from)));
        let data = lab.one(port, &Ip::tcp((from, 5000), (US, 8000), ACK, [1001, 5001], b"GET /"), B);
        assert_eq!((data.sport(), &data.l4[20..]), (outside, &b"GET /"[..]));
    }
    Passes
}

fn icmp() -> Outcome {
    let mut lab = Lab::new();
    let talk = Talk::open(&mut lab, A, (IP_A, 5000), (REMOTE, 80));
    let sent = lab.one(A, &Ip::tcp((IP_A, 5000), (REMOTE, 80), ACK, [1001, 5001], b"data"), WORLD);
    for kind in [[3, 0], [3, 1], [3, 2], [3, 3], [3, 4], [3, 13], [4, 0], [5, 1], [11, 0], [12, 0]] {
        // 28 bytes of it are what older routers quote.
        let error = Ip::error("203.0.113.200", US, kind, 1400, &sent.bytes()[..28]);
        let out = lab.send(WORLD, &error);
        if kind[0] != 5 {
            let told = &out[0];
            assert_eq!((told.port, told.ip.kind()), (A, (kind[0], kind[1])));
            assert_eq!((told.ip.quoted().src, told.ip.quoted().sport()), (addr(IP_A), 5000));
        }
        assert!(talk.lives(&mut lab), "after {kind:?}");
    }
    lab.pass(7000);
    assert!(talk.lives(&mut lab));
    Passes
}

fn reset() -> Outcome {
    let mut lab = Lab::new();
    let talk = Talk::open(&mut lab, A, (IP_A, 5000), (REMOTE, 80));
    assert!(talk.hears(&mut lab, RST | ACK, [5001, 1001], &[]), "the container hears it");
    lab.pass(200);
    assert!(talk.says(&mut lab, RST, [1001, 0], &[]), "what is on its way finds its connection");
    let other = Talk::opens(&mut lab, B, (IP_B, 5000), (REMOTE, 80));
    assert_ne!(other.external, 5000, "and its l4 port is nobody else's yet");
    // One from the container likewise.
    let talk = Talk::open(&mut lab, A, (IP_A, 6000), (REMOTE, 80));
    assert!(talk.says(&mut lab, RST, [1001, 0], &[]));
    lab.pass(200);
    assert!(talk.hears(&mut lab, ACK, [5001, 1001], b"late"));
    Chosen(
        "in the window it makes the connection transitory, 4 min, and its mapping stays; others end both at once",
    )
}

fn forged_reset() -> Outcome {
    let mut lab = Lab::new();
    let talk = Talk::open(&mut lab, A, (IP_A, 5000), (REMOTE, 80));
    assert!(talk.lives(&mut lab));
    for far in [0x1000_0000, 0x4000_0000, 0x8000_0000, 0xf000_0000u32] {
        assert!(!talk.hears(&mut lab, RST, [5001u32.wrapping_add(far), 0], &[]), "{far:x}");
    }
    assert!(lab.dropped(DropReason::NatReset) > 0, "{:?}", lab.drops());
    lab.pass(7000);
    assert!(talk.hears(&mut lab, ACK, [5005, 1005], b"late"), "it is as established as before");
    Passes
}
