//! IPv4 router: RFC 1812 and what belongs to it.

use switch::drop::DropReason;

use crate::common::outside::Outside;
use crate::lab::{
    A, B, BLUE, BLUE6, C, IP_A, IP_B, IP_C, IP6_A, Lab, OTHER, REMOTE, REMOTE6, TEXT, US, US6, WORLD, narrow,
    packets,
};
use crate::packet::{self, DF, ICMP, Ip, MORE, UDP};
use crate::row::Level::{Must, Practice, Should};
use crate::row::Outcome::{Chosen, Passes};
use crate::row::{Outcome, Row, assert_all};

#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    Row { id: "R1", level: Must, requirement: "Header is validated before anything; failure is discarded without a word", section: "RFC 1812 5.2.2", check: header },
    Row { id: "R2", level: Must, requirement: "TTL is counted down; used up: discard and time exceeded", section: "RFC 1812 5.3.1", check: ttl },
    Row { id: "R3", level: Must, requirement: "No ICMP error about errors, broadcasts, later fragments, invalid sources", section: "RFC 1812 4.3.2.7", check: no_error },
    Row { id: "R4", level: Should, requirement: "ICMP errors are rate limited, and the limit can be configured", section: "RFC 1812 4.3.2.8", check: error_rate },
    Row { id: "R5", level: Should, requirement: "ICMP error quotes what fits in 576 bytes, from the address it came in by", section: "RFC 1812 4.3.2.3-4", check: error_quote },
    Row { id: "R6", level: Must, requirement: "No route: network unreachable; nobody answers: host unreachable", section: "RFC 1812 4.3.3.1", check: unreachable },
    Row { id: "R7", level: Must, requirement: "Too big: DF says so with the next MTU; else fragments of 8 bytes, options copied", section: "RFC 1812 4.2.2.7, RFC 1191", check: too_big },
    Row { id: "R7a", level: Practice, requirement: "Fragments of answers are let in in any order, and those of strangers not", section: "RFC 791 3.2, RFC 1858 3", check: crate::plain::answers },
    Row { id: "R8", level: Must, requirement: "What came by a broadcast or multicast frame is not forwarded", section: "RFC 1812 5.3.4", check: link_broadcast },
    Row { id: "R9", level: Must, requirement: "255.255.255.255 is never forwarded", section: "RFC 1812 5.3.5.1", check: limited_broadcast },
    Row { id: "R10", level: Must, requirement: "Directed broadcast is not forwarded", section: "RFC 2644 2", check: directed_broadcast },
    Row { id: "R11", level: Should, requirement: "Martian addresses are not forwarded", section: "RFC 1812 5.3.7", check: martians },
    Row { id: "R12", level: Must, requirement: "169.254.0.0/16 is never forwarded", section: "RFC 3927 7", check: link_local },
    Row { id: "R13", level: Should, requirement: "A source that does not lead back to where it came from is dropped", section: "RFC 1812 5.3.8, BCP 38", check: source },
    Row { id: "R14", level: Must, requirement: "Redirects of networks are never sent", section: "RFC 1812 5.2.7.2", check: redirects },
    Row { id: "R15", level: Must, requirement: "Unknown options pass unchanged", section: "RFC 1812 4.2.2.6", check: options },
    Row { id: "R15b", level: Must, requirement: "Record route and timestamp options are filled in where there is room", section: "RFC 1812 5.3.13.4-5", check: recorded },
    Row { id: "R15a", level: Practice, requirement: "Source routes are dropped", section: "RFC 7126 4.3", check: source_routes },
    Row { id: "R15c", level: Must, requirement: "An echo request in fragments is put together and answered, within bounds", section: "RFC 1122 3.3.2, RFC 8200 4.5", check: put_together },
    Row { id: "R15d", level: Must, requirement: "Not whole in time: time exceeded (code 1), if the first fragment is there", section: "RFC 1122 3.3.2, RFC 8200 4.5", check: not_whole },
    Row { id: "R16", level: Must, requirement: "ARP: entries age, one request a second, a packet waits for the answer", section: "RFC 1122 2.3.2", check: arp },
    Row { id: "R17", level: Must, requirement: "Checksums updated are what they would be computed anew; UDP without stays so", section: "RFC 1624, RFC 768", check: checksums },
];

#[test]
fn section_1_5() {
    assert_all(ROWS);
}

fn to_c(payload: usize) -> Ip {
    Ip::udp((IP_A, 1000), (IP_C, 2000), &vec![7; payload])
}

fn header() -> Outcome {
    let mut lab = Lab::new();
    assert_eq!(lab.send(A, &to_c(40)).len(), 1, "as it is it goes on");
    let good = to_c(40).bytes();
    let edits: &[&[(usize, u8)]] = &[
        &[(0, 0x55)],          // version
        &[(0, 0x44)],          // IHL below 5
        &[(0, 0x4f), (3, 40)], // IHL beyond the total length
        &[(2, 0), (3, 19)],    // total length below the header's
        &[(2, 0x7f)],          // beyond the frame
    ];
    for edit in edits {
        let mut bytes = good.clone();
        edit.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        if bytes[0] & 15 >= 5 {
            packet::mend(&mut bytes);
        }
        assert_eq!(lab.raw(A, true, &bytes), [], "{edit:?}");
    }
    for len in 0..20 {
        assert_eq!(lab.raw(A, true, &good[..len]), [], "{len} bytes");
    }
    // A wrong checksum, of what would go on, expire, be too big, or have no route.
    for ip in [to_c(40), to_c(40).ttl(1), to_c(1400).field(DF), Ip::udp((IP_A, 1), ("10.3.0.7", 2), b"x")] {
        let mut bytes = ip.bytes();
        bytes[11] ^= 1;
        assert_eq!(lab.raw(A, true, &bytes), [], "{ip:?}");
    }
    Passes
}

fn ttl() -> Outcome {
    let mut lab = Lab::new();
    for ttl in [2, 3, 64, 255] {
        assert_eq!(lab.one(A, &to_c(8).ttl(ttl), C).ttl, ttl - 1);
    }
    for ttl in [0, 1] {
        let error = lab.one(A, &to_c(8).ttl(ttl), A);
        assert_eq!((error.kind(), error.quoted().dst), ((11, 0), packet::addr(IP_C)));
    }
    // To a group: not a word.
    let group = Ip { dst: packet::addr("239.1.1.1"), ..to_c(8).ttl(1) };
    assert_eq!(lab.send(A, &group), []);
    Passes
}

/// Nothing is said about it: `ip` has a TTL of 1 or no way.
#[track_caller]
fn silent(lab: &mut Lab, ip: &Ip) {
    let out = lab.send(A, ip);
    assert!(out.iter().all(|got| got.port != A), "{out:?}");
}

fn no_error() -> Outcome {
    let mut lab = Lab::new();
    assert_eq!(lab.send(A, &to_c(8).ttl(1)).len(), 1, "of this one something is said");
    let about = Ip::udp((IP_C, 2000), (IP_A, 1000), b"payload!").bytes();
    for kind in [[3, 1], [4, 0], [5, 1], [11, 0], [12, 0]] {
        silent(&mut lab, &Ip::error(IP_A, IP_C, kind, 0, &about).ttl(1));
        silent(&mut lab, &Ip::error(IP_A, "10.3.0.7", kind, 0, &about));
    }
    assert_eq!(lab.one(A, &Ip::echo(IP_A, IP_C, true, 1).ttl(1), A).kind(), (11, 0), "queries are no errors");
    let [first, rest] = to_c(64).ttl(1).cut(32);
    silent(&mut lab, &rest);
    assert_eq!(lab.one(A, &first, A).kind(), (11, 0));
    for dst in ["255.255.255.255", "10.2.0.255", "10.1.0.255", "224.0.0.5", "239.1.1.1"] {
        silent(&mut lab, &Ip { dst: packet::addr(dst), ..to_c(8).ttl(1) });
    }
    for src in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1"] {
        silent(&mut lab, &Ip { src: packet::addr(src), ..to_c(8).ttl(1) });
    }
    // By a frame to all.
    let frame = packet::ethernet([0xff; 6], lab.mac(A), true, &to_c(8).ttl(1).bytes());
    assert!(lab.sends(A, &frame).iter().all(|got| got.port != A));
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
    // As configured.
    let text = format!("{TEXT}[limits]\nicmp_errors_per_container = 20\nicmp_errors = 25\n");
    let mut lab = Lab::with(&Outside::default(), &text);
    assert_eq!(said(&mut lab), 5, "a fifth of a second's");
    let mut second = || (0..10).map(|_| (lab.wait(100), said(&mut lab)).1).sum::<usize>();
    assert_eq!((second(), second()), (25, 20), "what is left at once goes first");
    let none = format!("{TEXT}[limits]\nicmp_errors_per_container = 0\n");
    assert_eq!(said(&mut Lab::with(&Outside::default(), &none)), 0);
    Passes
}

fn error_quote() -> Outcome {
    let mut lab = Lab::new();
    let long = to_c(1000).ttl(1);
    let error = lab.one(A, &long, A);
    assert_eq!((error.src, error.dst), (packet::addr(BLUE), packet::addr(IP_A)));
    assert_eq!(error.bytes().len(), 576, "as much as fits");
    assert_eq!(error.l4[8..], long.bytes()[..548]);
    let short = to_c(100).ttl(1);
    assert_eq!(lab.one(A, &short, A).l4[8..], short.bytes(), "all of it");
    Passes
}

fn unreachable() -> Outcome {
    let mut lab = Lab::new();
    let error = lab.one(A, &Ip::udp((IP_A, 1), ("10.3.0.7", 2), b"x"), A);
    assert_eq!(error.kind(), (3, 0));
    let lost = Ip::udp((IP_A, 1), ("10.2.0.99", 2), b"x");
    assert_eq!(lab.send(A, &lost), [], "it waits");
    let said: Vec<_> = (0..4).flat_map(|_| packets(lab.wait(1000))).collect();
    let [error] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!((error.port, error.ip.kind(), error.ip.quoted().dst), (A, (3, 1), lost.dst));
    Passes
}

fn too_big() -> Outcome {
    let mut lab = Lab::new();
    let fits = usize::from(narrow()) - 28;
    assert_eq!(lab.one(A, &to_c(fits).field(DF), C).l4.len(), fits + 8);
    let error = lab.one(A, &to_c(fits + 1).field(DF), A);
    assert_eq!((error.kind(), error.word(6)), ((3, 4), narrow()));
    // Router alert is copied (RFC 2113), record route is not (RFC 791 section 3.1).
    let long = to_c(1400).options(&[148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0]);
    let pieces = lab.send(A, &long);
    assert_eq!(pieces.len(), 2);
    let [first, rest] = [&pieces[0].ip, &pieces[1].ip];
    assert!(pieces.iter().all(|piece| piece.port == C && piece.ip.id == long.id));
    assert_eq!((first.field, rest.field), (MORE, (first.l4.len() / 8) as u16));
    assert_eq!(first.l4.len() % 8, 0);
    assert_eq!([&first.l4[..], &rest.l4].concat(), long.l4);
    let recorded = [148, 4, 0, 0, 7, 7, 8, 10, 2, 0, 1, 0];
    assert_eq!((&first.options[..], &rest.options[..4]), (&recorded[..], &[148, 4, 0, 0][..]));
    assert!(!rest.options.contains(&7), "{:?}", rest.options);
    Passes
}

fn link_broadcast() -> Outcome {
    let mut lab = Lab::new();
    for dst in [[0xff; 6], [1, 0, 0x5e, 1, 1, 1]] {
        let frame = packet::ethernet(dst, lab.mac(A), true, &to_c(8).bytes());
        let out = lab.sends(A, &frame);
        assert!(out.iter().all(|got| got.port == B && got.ip.ttl == 64), "to its own network alone: {out:?}");
    }
    // No multicast is routed either, and by no default route.
    let group = Ip::udp((IP_A, 1), ("239.1.1.1", 2), b"x");
    lab.none(A, &group, DropReason::NoRoute);
    Passes
}

/// Nothing comes out that is for any of these, and it is called martian.
fn never(src: &[&str], dst: &[&str]) {
    let mut lab = Lab::new();
    for dst in dst {
        lab.none(A, &Ip::udp((IP_A, 1), (dst, 2), b"x"), DropReason::Martian);
    }
    for src in src {
        let reason = DropReason::Martian;
        lab.none(A, &Ip::udp((src, 1), (IP_C, 2), b"x"), reason);
    }
}

fn limited_broadcast() -> Outcome {
    never(&[], &["255.255.255.255"]);
    Passes
}

fn directed_broadcast() -> Outcome {
    never(&[], &["10.2.0.255", "10.2.0.0", "10.1.0.255"]);
    // From outside as well, where nobody has a way to a network of ours.
    let mut lab = Lab::new();
    for dst in ["10.1.0.255", "198.18.0.255"] {
        let out = lab.send(WORLD, &Ip::udp((REMOTE, 1), (dst, 2), b"x"));
        assert!(out.iter().all(|got| got.port == WORLD && got.ip.proto == ICMP), "{out:?}");
    }
    Passes
}

fn martians() -> Outcome {
    let src = ["0.1.2.3", "127.0.0.1", "127.9.9.9", "240.0.0.1"];
    never(&src, &["0.0.0.0", "0.1.2.3", "127.0.0.1", "240.0.0.1", "224.0.0.5"]);
    let mut lab = Lab::new();
    for src in ["224.0.0.1", "239.1.1.1", "255.255.255.255", "0.0.0.0"] {
        assert_eq!(lab.send(A, &Ip::udp((src, 1), (IP_C, 2), b"x")), [], "{src}");
        assert_eq!(lab.send(WORLD, &Ip::udp((src, 1), (US, 2), b"x")), [], "{src}");
    }
    Chosen("240.0.0.0/4 among them, which Linux forwards; no other reserved range: labs are made of those")
}

fn link_local() -> Outcome {
    never(&["169.254.3.4"], &["169.254.169.254", "169.254.3.4"]);
    Passes
}

fn source() -> Outcome {
    let mut lab = Lab::new();
    // Of another network, of nobody, of outside.
    for src in ["10.2.0.77", "10.3.0.7", REMOTE] {
        lab.none(A, &Ip::udp((src, 1), (IP_C, 2), b"x"), DropReason::ReversePath);
    }
    // Behind a router of its network: from that, and from nobody else.
    lab.none(A, &Ip::udp(("10.8.1.1", 1), (IP_C, 2), b"x"), DropReason::ReversePath);
    assert_eq!(lab.one(B, &Ip::udp(("10.8.1.1", 1), (IP_C, 2), b"x"), C).src, packet::addr("10.8.1.1"));
    // From outside in the name of somebody inside (RFC 2827 section 3).
    assert_eq!(lab.send(WORLD, &Ip::udp((IP_B, 1), (US, 2), b"x")), []);
    assert_eq!(lab.dropped(DropReason::ReversePath), 5);
    Passes
}

fn redirects() -> Outcome {
    let mut lab = Lab::new();
    // Back into its own network: by a route, and by a host that did not notice that they are neighbours.
    for dst in ["10.8.1.1", IP_B] {
        assert_eq!(lab.one(A, &Ip::udp((IP_A, 1), (dst, 2), b"x"), B).ttl, 63);
    }
    Passes
}

fn options() -> Outcome {
    let mut lab = Lab::new();
    for options in [[222, 8, 1, 2, 3, 4, 5, 6], [130, 4, 9, 9, 0, 0, 0, 0], [148, 4, 0, 0, 1, 1, 1, 0]] {
        assert_eq!(lab.one(A, &to_c(8).options(&options), C).options, options);
    }
    Passes
}

fn recorded() -> Outcome {
    let mut lab = Lab::new();
    let record = [7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // The address that we have where it goes.
    let out = lab.one(A, &to_c(8).options(&record), C);
    assert_eq!(out.options, [7, 11, 8, 10, 2, 0, 1, 0, 0, 0, 0, 0]);
    let full = [7, 7, 8, 9, 9, 9, 9, 0];
    assert_eq!(lab.one(A, &to_c(8).options(&full), C).options, full);
    // Also of what is translated, in fragments, and answered by us.
    let outside = Ip::udp((IP_A, 1000), (OTHER, 2000), b"x").options(&record);
    let Ip { options, .. } = lab.one(A, &outside, WORLD);
    assert_eq!(options[..7], [7, 11, 8, 198, 18, 0, 10]);
    let pieces = lab.send(A, &to_c(1400).options(&record));
    assert_eq!((pieces.len(), &pieces[0].ip.options[2..7]), (2, &[8, 10, 2, 0, 1][..]));
    let reply = lab.one(A, &Ip::echo(IP_A, BLUE, true, 1).options(&record), A);
    assert_eq!((reply.kind(), &reply.options[2..7]), ((0, 0), &[8, 10, 1, 0, 1][..]));
    let time = lab.one(A, &to_c(8).options(&[68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0]), C).options;
    assert_eq!(time[..8], [68, 12, 13, 1, 10, 2, 0, 1]);
    assert!(time[8] >= 0x80, "not counted from midnight: {time:?}");
    Chosen("the time is of a clock of our own, and marked as such; RFC 7126 would drop these packets")
}

fn source_routes() -> Outcome {
    let mut lab = Lab::new();
    for kind in [131, 137] {
        lab.none(A, &to_c(8).options(&[kind, 7, 4, 10, 2, 0, 2, 0]), DropReason::SourceRoute);
    }
    Passes
}

/// An echo request of so many bytes.
fn long_echo(src: &str, dst: &str, len: usize) -> Ip {
    let mut ip = Ip::echo(src, dst, true, 5);
    let (kind, code) = (ip.l4[0], ip.l4[1]);
    ip.l4.resize(len, 0x5a);
    Ip::new(src, dst, ip.proto, [&[kind, code, 0, 0][..], &ip.l4[4..]].concat()).id(77)
}

fn put_together() -> Outcome {
    let mut lab = Lab::new();
    for (port, src, dst) in [(A, IP_A, BLUE), (WORLD, REMOTE, US), (A, IP6_A, BLUE6), (WORLD, REMOTE6, US6)] {
        let request = long_echo(src, dst, 2000);
        for reversed in [false, true] {
            let mut pieces = request.clone().id(77 + u16::from(reversed)).cut(1200);
            if reversed {
                pieces.reverse();
            }
            let out: Vec<_> = pieces.iter().flat_map(|piece| lab.send(port, piece)).collect();
            assert_eq!(out.len(), 2, "{dst}: {out:?}");
            assert!(out.iter().all(|got| got.port == port && got.ip.src == packet::addr(dst)));
            assert!(out.iter().all(|got| got.frame.len() <= 1514));
            let reply = [&out[0].ip.l4[..], &out[1].ip.l4].concat();
            assert_eq!((reply[0], &reply[4..]), (request.reply_kind(), &request.l4[4..]));
        }
    }
    // What overlaps is refused, and all of its packet; nobody has more than two at once.
    let [first, rest] = long_echo(IP_A, BLUE, 2000).id(90).cut(1200);
    let mut twice = first.clone();
    twice.l4[100] ^= 1;
    let out: Vec<_> = [&first, &twice, &rest].iter().flat_map(|piece| lab.send(A, piece)).collect();
    assert_eq!((out.len(), lab.dropped(DropReason::GatewayFragment)), (0, 1));
    let open: Vec<_> = (100..110).map(|id| long_echo(IP_A, BLUE, 2000).id(id).cut(1200)).collect();
    open.iter().for_each(|[first, _]| assert_eq!(lab.send(A, first), []));
    let answered = open.iter().filter(|[_, rest]| !lab.send(A, rest).is_empty()).count();
    assert!((1..=2).contains(&answered), "{answered}");
    // Nor for longer than 15 seconds.
    let [first, rest] = long_echo(IP_A, BLUE, 2000).id(91).cut(1200);
    lab.send(A, &first);
    lab.wait(16_000);
    assert_eq!(lab.send(A, &rest), []);
    Chosen("pings; of names and addresses nothing that is asked is as long as that")
}

fn not_whole() -> Outcome {
    let mut lab = Lab::new();
    for (port, src, dst, kind) in [
        (A, IP_A, BLUE, (11, 1)),
        (WORLD, REMOTE, US, (11, 1)),
        (A, IP6_A, BLUE6, (3, 1)),
        (WORLD, REMOTE6, US6, (3, 1)),
    ] {
        let pieces = |id: u16| long_echo(src, dst, 2000).id(id).cut(1200);
        let [first, rest] = pieces(77);
        assert_eq!(lab.send(port, &first), []);
        assert_eq!(packets(lab.wait(14_000)), [], "there is still time");
        // What comes first counts, and a later one gives no more time. Without the first fragment nothing is said.
        let [_, other] = pieces(78);
        assert_eq!(lab.send(port, &other), []);
        assert_eq!(lab.send(port, &first), []);
        let said = packets(lab.wait(1000));
        let [error] = said.as_slice() else { panic!("{said:?}") };
        assert_eq!((error.port, error.ip.kind(), error.ip.src), (port, kind, packet::addr(dst)));
        let quoted = error.ip.l4[8..].to_vec();
        assert!(first.bytes().starts_with(&quoted) && quoted.len() >= 548, "{} bytes", quoted.len());
        assert_eq!(lab.send(port, &rest), [], "too late");
        assert_eq!(packets(lab.wait(20_000)), []);
        lab.speaks(port);
    }
    // Not without end: what makes room for another goes without a word.
    let mut said = 0;
    for id in 0..500 {
        lab.send(A, &long_echo(IP_A, BLUE, 2000).id(id).cut(1200)[0]);
        said += packets(lab.wait(100)).len();
    }
    said += packets(lab.wait(20_000)).len();
    assert!((1..=2).contains(&said), "{said}");
    Chosen("after 15 s (RFC 791 3.2); RFC 1122 recommends 60, for which there are few places")
}

/// Requests for an address, among frames.
fn requests(frames: &[(u16, Vec<u8>)], target: [u8; 4]) -> usize {
    let asks =
        |frame: &Vec<u8>| frame[12..14] == [8, 6] && frame[20..22] == [0, 1] && frame[38..42] == target;
    frames.iter().filter(|(_, frame)| asks(frame)).count()
}

fn arp() -> Outcome {
    let mut lab = Lab::new();
    let (lost, target) = (Ip::udp((IP_A, 1), ("10.2.0.99", 2), b"x"), [10, 2, 0, 99]);
    let asks = |lab: &mut Lab, port, ip: &Ip| {
        let frame = packet::ethernet(lab.gateway_mac(port), lab.mac(port), true, &ip.bytes());
        lab.frame(port, &switch::vnet::VnetHdr::default(), &frame)
    };
    assert_eq!(requests(&asks(&mut lab, A, &lost), target), 1);
    assert_eq!(requests(&asks(&mut lab, A, &lost), target), 0, "in the same second");
    assert_eq!(requests(&lab.wait(900), target), 0);
    assert_eq!(requests(&lab.wait(200), target), 1);
    // Who is there for the first time: what waits is sent.
    let body = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &lab.mac(C), &target, &lab.gateway_mac(C), &[10, 2, 0, 1]];
    let answer = [&lab.gateway_mac(C)[..], &lab.mac(C), &[8, 6], &body.concat()].concat();
    let out = packets(lab.frame(C, &switch::vnet::VnetHdr::default(), &answer));
    assert!(!out.is_empty() && out.iter().all(|got| got.port == C && got.ip.dst == lost.dst), "{out:?}");
    // Silent for long it is asked for before anything is sent to it.
    lab.wait(200_000);
    let out = asks(&mut lab, A, &lost);
    assert_eq!((requests(&out, target), packets(out).len()), (1, 0));
    Passes
}

fn checksums() -> Outcome {
    let mut lab = Lab::new();
    // Every checksum that comes out is added up anew ([`Ip::parse`]): forwarded, and translated both ways.
    let mut ones = 0;
    for n in 0..600u16 {
        let word = n.wrapping_mul(109).to_be_bytes();
        let out = lab.one(A, &Ip::udp((IP_A, 1000), (OTHER, 2000), &word), WORLD);
        assert_eq!((out.proto, out.src), (UDP, packet::addr(US)));
        lab.one(WORLD, &Ip::udp((OTHER, 2000), (US, 1000), &word), A);
        lab.one(A, &Ip::udp((IP_A, 1000), (IP_C, 2000), &word), C);
        ones += usize::from(out.word(6) == 0xffff);
    }
    // All checksums there are: one word of the payload is counted through the one that gives 0.
    let probe = lab.one(A, &Ip::udp((IP_A, 1000), (OTHER, 2000), &[0, 0]), WORLD);
    let zero = probe.word(6).to_be_bytes();
    let out = lab.one(A, &Ip::udp((IP_A, 1000), (OTHER, 2000), &zero), WORLD);
    assert_eq!(out.word(6), 0xffff, "0 is said as ones, and that is {ones} of 600");
    let mut none = Ip::udp((IP_A, 1000), (OTHER, 2000), b"payload!");
    none.l4[6..8].fill(0);
    assert_eq!(lab.one(A, &none, WORLD).word(6), 0, "none stays none");
    let echo = lab.one(A, &Ip::echo(IP_A, OTHER, true, 77), WORLD);
    assert_eq!(echo.proto, ICMP);
    Passes
}
