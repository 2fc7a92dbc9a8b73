//! What a hostile or unlucky sequence of packets must not do to conntrack: each of these once did.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod tracked;

use nat::conntrack::*;
use std::net::{Ipv4Addr, Ipv6Addr};
use switch::drop::DropReason;
use switch::flow::*;
use switch::parse::PROTO_TCP;
use switch::port::PortId;
use switch::tick::Tick;

const SYN: u8 = 2;
const FIN: u8 = 1;
const RST: u8 = 4;
const ACK: u8 = 16;

fn v4(a: u8, b: u8, c: u8, d: u8) -> Ipv6Addr {
    Ipv4Addr::new(a, b, c, d).to_ipv6_mapped()
}
fn at(secs: u32) -> Tick {
    Tick::from_secs(secs)
}
fn meta(tcp: Option<TcpMeta>) -> Meta {
    Meta { tcp, ..tracked::meta(PROTO_TCP, 1, 0) }
}
fn tcp(flags: u8, seq: u32, ack: u32, window: u16, payload: u32) -> TcpMeta {
    TcpMeta { flags, seq, ack, window, payload, scale: (flags & SYN != 0).then_some(7) }
}
const ONE: [u8; 4] = [203, 0, 113, 1];
fn ext() -> Ipv6Addr {
    v4(ONE[0], ONE[1], ONE[2], ONE[3])
}
fn rules_of(external: Vec<Ipv6Addr>, published: Vec<Rule>, filtering: Filtering) -> Rules {
    Rules::new(external, published, (filtering, false), Timeouts::default(), 7)
}
fn rules() -> Rules {
    rules_of(vec![ext()], vec![], Filtering::Address)
}
fn key(proto: u8, src: Ipv6Addr, sport: u16, dst: Ipv6Addr, dport: u16) -> FlowKey {
    FlowKey { zone: 0, proto, src, dst, sport, dport }
}
fn limits() -> Limits {
    Limits { connections: 4096, ..Limits::default() }
}
fn inside() -> Ipv6Addr {
    v4(10, 1, 0, 2)
}
fn far() -> Ipv6Addr {
    v4(198, 51, 100, 9)
}

struct Pair {
    c: Conntrack,
    r: Rules,
}
impl Pair {
    fn new(r: Rules) -> Self {
        Self { c: Conntrack::new(&limits(), 4, 64).unwrap(), r }
    }
    fn out(&self, k: FlowKey, t: Option<TcpMeta>, now: Tick) -> Result<Known, DropReason> {
        if let Some(known) = self.c.outbound(&self.r, &k, now)
            && self.c.track_known(known.at, Way::Out, &meta(t), now)?
        {
            return Ok(known);
        }
        self.c.track_out(&self.r, &Packet { key: k, meta: meta(t) }, PortId(1), now)
    }
    fn back(&self, k: FlowKey, t: Option<TcpMeta>, now: Tick) -> Result<Inside, Option<DropReason>> {
        match self.c.inbound(&self.r, &k, t.as_ref(), now) {
            In::To(to) => {
                self.c.track_in(&self.r, &k, &meta(t), &to, now).map_err(Some)?;
                Ok(to.inside)
            }
            In::Refused(reason) => Err(Some(reason)),
            In::Nobody => Err(None),
        }
    }
    fn state(&self, now: Tick) -> Vec<&'static str> {
        self.c.connections(&self.r, now).map(|row| row.state).collect()
    }
    /// 10.1.0.2:4000 <-> 198.51.100.9:80; Out has sent 1001, In 5001.
    fn established(&self, now: Tick) {
        let (o, i) = (self.o(), self.i());
        self.out(o, Some(tcp(SYN, 1000, 0, 64240, 0)), now).unwrap();
        self.back(i, Some(tcp(SYN | ACK, 5000, 1001, 65160, 0)), now).unwrap();
        self.out(o, Some(tcp(ACK, 1001, 5001, 502, 0)), now).unwrap();
        assert_eq!(self.state(now), ["established"]);
    }
    fn o(&self) -> FlowKey {
        key(6, inside(), 4000, far(), 80)
    }
    fn i(&self) -> FlowKey {
        key(6, far(), 80, ext(), 4000)
    }
}

#[test]
fn a_forged_fin_does_not_shorten_an_established_connection() {
    let p = Pair::new(rules());
    p.established(at(10));
    let _ = p.back(p.i(), Some(tcp(FIN | ACK, 0x7777_7777, 0x1234_5678, 500, 0)), at(11));
    assert_eq!(p.state(at(11)), ["established"]);
}

#[test]
fn a_spoofed_ack_does_not_establish_what_is_published() {
    let rule = Rule {
        proto: 6,
        external: ext(),
        first: 80,
        count: 1,
        inside: Inside { zone: 0, end: EndPoint { address: inside(), port: 80 } },
        owner: PortId(1),
    };
    let p = Pair::new(rules_of(vec![ext()], vec![rule], Filtering::Address));
    let (i, o) = (key(6, far(), 999, ext(), 80), key(6, inside(), 80, far(), 999));
    p.back(i, Some(tcp(SYN, 5000, 0, 1000, 0)), at(1)).unwrap();
    p.out(o, Some(tcp(SYN | ACK, 0x9000_0000, 5001, 1000, 0)), at(1)).unwrap();
    let _ = p.back(i, Some(tcp(ACK, 5001, 42, 1000, 0)), at(1));
    assert_eq!(p.state(at(1)), ["syn-received"]);
}

#[test]
fn a_refused_connection_is_not_established_by_a_stray_segment() {
    let p = Pair::new(rules());
    p.out(p.o(), Some(tcp(SYN, 1000, 0, 64240, 0)), at(1)).unwrap();
    p.back(p.i(), Some(tcp(RST | ACK, 0, 1001, 0, 0)), at(1)).unwrap();
    assert_eq!(p.state(at(1)), ["reset"]);
    let _ = p.back(p.i(), Some(tcp(ACK, 0x3333_3333, 0x4444_4444, 10, 0)), at(2));
    assert_ne!(p.state(at(2)), ["established"]);
}

#[test]
fn a_reset_of_an_idle_connection_is_kept_for_four_minutes() {
    let p = Pair::new(rules());
    p.established(at(10));
    p.back(p.i(), Some(tcp(RST | ACK, 5001, 1001, 0, 0)), at(1000)).unwrap();
    assert_eq!(p.state(at(1001)), ["reset"], "RFC 7857 section 2.2");
    assert_eq!(p.state(at(1000 + 239)), ["reset"]);
    assert!(p.state(at(1000 + 241)).is_empty());
}

#[test]
fn a_picked_up_connection_goes_on_to_be_understood() {
    let p = Pair::new(rules());
    let (o, i) = (p.o(), p.i());
    // Mid-stream: scaled windows of 501 * 128 bytes.
    p.out(o, Some(tcp(ACK, 1000, 5000, 501, 0)), at(1)).unwrap();
    p.back(i, Some(tcp(ACK, 5000, 1000, 501, 0)), at(1)).unwrap();
    let (mut seq, size) = (1000u32, 1448u32);
    for _ in 0..20 {
        for _ in 0..10 {
            p.out(o, Some(tcp(ACK, seq, 5000, 501, size)), at(1)).unwrap();
            seq += size;
        }
        p.back(i, Some(tcp(ACK, 5000, seq, 501, 0)), at(1)).unwrap();
    }
    // It closes with data unread, and says so as its kernel does: at the number that comes next.
    assert_eq!(p.out(o, Some(tcp(RST | ACK, seq, 5000, 0, 0)), at(1)).map(|_| ()), Ok(()));
}

#[test]
fn a_forged_ack_while_a_connection_is_made_does_not_spoil_its_resets() {
    let p = Pair::new(rules());
    let (o, i) = (p.o(), p.i());
    p.out(o, Some(tcp(SYN, 1000, 0, 64240, 0)), at(1)).unwrap();
    let _ = p.back(i, Some(tcp(ACK, 0x6000_0000, 0x5000_0000, 10, 0)), at(1));
    p.back(i, Some(tcp(SYN | ACK, 5000, 1001, 65160, 0)), at(1)).unwrap();
    p.out(o, Some(tcp(ACK, 1001, 5001, 502, 0)), at(1)).unwrap();
    p.out(o, Some(tcp(ACK, 1001, 5001, 502, 100)), at(1)).unwrap();
    p.back(i, Some(tcp(ACK, 5001, 1101, 502, 0)), at(1)).unwrap();
    assert_eq!(
        p.back(i, Some(tcp(RST, 0x3000_0000, 0, 0, 0)), at(1)).err(),
        Some(Some(DropReason::NatReset)),
        "a forged one from outside"
    );
    assert_eq!(p.out(o, Some(tcp(RST, 1101, 0, 0, 0)), at(1)).map(|_| ()), Ok(()), "the real one");
}

#[test]
fn a_syn_with_another_number_starts_from_there() {
    let p = Pair::new(rules());
    let (o, i) = (p.o(), p.i());
    // The first attempt was never answered; the next begins lower.
    p.out(o, Some(tcp(SYN, 0x5000_0000, 0, 64240, 0)), at(1)).unwrap();
    p.out(o, Some(tcp(SYN, 0x1000_0000, 0, 64240, 0)), at(100)).unwrap();
    p.back(i, Some(tcp(SYN | ACK, 5000, 0x1000_0001, 65160, 0)), at(100)).unwrap();
    p.out(o, Some(tcp(ACK, 0x1000_0001, 5001, 502, 0)), at(100)).unwrap();
    assert!(p.out(o, Some(tcp(RST, 0x3000_0000, 0, 0, 0)), at(100)).is_err(), "far from anything said");
}

#[test]
fn an_l4_port_below_1024_is_to_be_had_when_somebody_took_them_all() {
    let p = Pair::new(rules());
    for port in 1..=1023 {
        p.out(key(17, inside(), port, far(), 53), None, at(1)).unwrap();
    }
    let other = key(17, v4(10, 1, 0, 3), 123, far(), 123);
    let got = p.c.track_out(&p.r, &Packet { key: other, meta: meta(None) }, PortId(2), at(1));
    assert!(got.is_ok(), "{got:?}");
}

#[test]
fn two_greedy_containers_leave_room_for_a_third() {
    // Made for four addresses, of which one is in use; and for one.
    for addresses in [4, 1] {
        let c = Conntrack::new(&Limits { connections: 200_000, ..Limits::default() }, addresses, 64).unwrap();
        let r = rules();
        let open = |owner: u16, n: u32| {
            let src = v4(10, 1, 0, owner as u8);
            let sport = 1024 + (n % 32_768) + if owner == 3 { 31_000 } else { 0 };
            let k = key(17, src, sport as u16, far(), 53);
            c.track_out(&r, &Packet { key: k, meta: meta(None) }, PortId(owner), at(1))
        };
        for owner in [2, 3] {
            // What they are refused is theirs.
            (0..32_768).for_each(|n| _ = open(owner, n));
        }
        let got = open(4, 5000);
        assert!(got.is_ok(), "{addresses} addresses: {got:?}");
    }
}

#[test]
fn with_parity_one_container_does_not_take_all_even_ones() {
    let c = Conntrack::new(&Limits { connections: 200_000, ..Limits::default() }, 1, 64).unwrap();
    let r = Rules::new(vec![ext()], vec![], (Filtering::Address, true), Timeouts::default(), 7);
    for n in 0..32_768u32 {
        let k = key(17, v4(10, 1, (n >> 14) as u8, 2), 1024 + 2 * (n % 32_000) as u16, far(), 53);
        let _ = c.track_out(&r, &Packet { key: k, meta: meta(None) }, PortId(1), at(1));
    }
    let k = key(17, v4(10, 1, 0, 3), 5000, far(), 53);
    let got = c.track_out(&r, &Packet { key: k, meta: meta(None) }, PortId(2), at(1));
    assert!(got.is_ok(), "{got:?}");
}

#[test]
fn a_change_of_our_address_ends_its_connections() {
    let p = Pair::new(rules());
    let k = key(17, inside(), 4000, far(), 53);
    p.out(k, None, at(1)).unwrap();
    let new = rules_of(vec![v4(203, 0, 113, 77)], vec![], Filtering::Address);
    assert_eq!(p.c.reconcile(&new, |_, _, _| true, at(2)), 1);
    assert!(p.c.outbound(&new, &k, at(2)).is_none(), "its deltas are those of the old address");
}

#[test]
fn what_comes_in_by_a_mapping_keeps_it() {
    let p = Pair::new(rules_of(vec![ext()], vec![], Filtering::Endpoint));
    p.out(key(17, inside(), 4000, far(), 53), None, at(0)).unwrap();
    let other = key(17, v4(198, 51, 100, 77), 9, ext(), 4000);
    p.back(other, None, at(299)).unwrap();
    assert!(p.back(other, None, at(301)).is_ok(), "its connection is two seconds old");
}

#[test]
fn two_passes_at_once_end_nothing() {
    let p = Pair::new(rules());
    let keys: Vec<_> = (0..2000).map(|n| key(6, inside(), 2000 + n, far(), 80)).collect();
    for k in &keys {
        p.out(*k, Some(tcp(SYN, 1, 0, 100, 0)), at(1)).unwrap();
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..50).for_each(|_| _ = p.c.age(&p.r, at(20))));
        }
    });
    assert_eq!(p.state(at(20)).len(), keys.len());
}

#[test]
fn two_openings_of_one_connection_are_one() {
    let p = Pair::new(rules());
    let packet = Packet { key: key(17, inside(), 4000, far(), 53), meta: meta(None) };
    // As two workers do that both found nothing.
    let first = p.c.track_out(&p.r, &packet, PortId(1), at(1)).unwrap();
    let second = p.c.track_out(&p.r, &packet, PortId(1), at(1)).unwrap();
    assert_eq!((first.at, p.c.counts().opened), (second.at, 1));
}

#[test]
fn a_protocol_by_address_is_found_as_long_as_it_is_used() {
    let c = Conntrack::new(&Limits { connections: 4096, ..Limits::default() }, 1, 64).unwrap();
    let r = rules();
    let host = |n: u32| Ipv6Addr::from((0xffff_u128 << 32) | u128::from(0xc633_0000 + n));
    let send = |n: u32, now| {
        let k = key(47, inside(), 0, host(n), 0);
        if let Some(known) = c.outbound(&r, &k, now) {
            c.track_known(known.at, Way::Out, &meta(None), now).unwrap();
        } else {
            c.track_out(&r, &Packet { key: k, meta: meta(None) }, PortId(1), now).unwrap();
        }
    };
    // A tunnel in use all the time, while the same container tries many other hosts: 256 places for 4096 connections.
    let mut broken = 0;
    for n in 0..600 {
        send(0, at(1 + n / 10));
        send(1 + n, at(1 + n / 10));
        let back = key(47, host(0), 0, ext(), 0);
        broken += usize::from(!matches!(c.inbound(&r, &back, None, at(1 + n / 10)), In::To(_)));
    }
    assert_eq!(broken, 0, "answers refused of a connection that is in use");
}

#[test]
fn one_connection_is_not_reached_by_two_published_end_points() {
    let rule = |first| Rule {
        proto: 17,
        external: ext(),
        first,
        count: 1,
        inside: Inside { zone: 0, end: EndPoint { address: inside(), port: 53 } },
        owner: PortId(1),
    };
    let p = Pair::new(rules_of(vec![ext()], vec![rule(53), rule(5353)], Filtering::Address));
    p.back(key(17, far(), 999, ext(), 53), None, at(1)).unwrap();
    assert!(p.back(key(17, far(), 999, ext(), 5353), None, at(1)).is_err(), "answered from l4 port 53");
}

// ---- controls: the same without what is held to be the cause; all of these must pass ----
#[test]
fn with_its_handshake_seen_the_reset_is_believed() {
    let p = Pair::new(rules());
    p.established(at(1));
    let (o, i) = (p.o(), p.i());
    let (mut seq, size) = (1001u32, 1448u32);
    for _ in 0..20 {
        for _ in 0..10 {
            p.out(o, Some(tcp(ACK, seq, 5001, 501, size)), at(1)).unwrap();
            seq += size;
        }
        p.back(i, Some(tcp(ACK, 5001, seq, 509, 0)), at(1)).unwrap();
    }
    assert_eq!(p.out(o, Some(tcp(RST | ACK, seq, 5001, 0, 0)), at(1)).map(|_| ()), Ok(()));
}
#[test]
fn without_the_forged_ack() {
    let p = Pair::new(rules());
    p.established(at(1));
    let (o, i) = (p.o(), p.i());
    p.out(o, Some(tcp(ACK, 1001, 5001, 502, 100)), at(1)).unwrap();
    p.back(i, Some(tcp(ACK, 5001, 1101, 502, 0)), at(1)).unwrap();
    assert_eq!(
        p.back(i, Some(tcp(RST, 0x3000_0000, 0, 0, 0)), at(1)).err(),
        Some(Some(DropReason::NatReset))
    );
    assert_eq!(p.out(o, Some(tcp(RST, 1101, 0, 0, 0)), at(1)).map(|_| ()), Ok(()));
}
#[test]
fn one_pass_after_the_other() {
    let p = Pair::new(rules());
    for n in 0..2000 {
        p.out(key(6, inside(), 2000 + n, far(), 80), Some(tcp(SYN, 1, 0, 100, 0)), at(1)).unwrap();
    }
    (0..200).for_each(|_| _ = p.c.age(&p.r, at(20)));
    assert_eq!(p.state(at(20)).len(), 2000);
}
#[test]
fn a_reset_of_a_busy_connection_is_kept() {
    let p = Pair::new(rules());
    p.established(at(10));
    p.back(p.i(), Some(tcp(RST | ACK, 5001, 1001, 0, 0)), at(11)).unwrap();
    assert_eq!(p.state(at(200)), ["reset"]);
}
#[test]
fn by_address_a_single_tunnel() {
    let p = Pair::new(rules());
    for n in 0..60 {
        p.out(key(47, inside(), 0, far(), 0), None, at(1 + n * 10)).unwrap();
        assert!(p.back(key(47, far(), 0, ext(), 0), None, at(1 + n * 10)).is_ok());
    }
}
// ---- variants ----
#[test]
fn a_client_that_tries_again_with_a_lower_number_cannot_be_reset_from_afar() {
    let rule = Rule {
        proto: 6,
        external: ext(),
        first: 80,
        count: 1,
        inside: Inside { zone: 0, end: EndPoint { address: inside(), port: 80 } },
        owner: PortId(1),
    };
    let p = Pair::new(rules_of(vec![ext()], vec![rule], Filtering::Address));
    let (i, o) = (key(6, far(), 999, ext(), 80), key(6, inside(), 80, far(), 999));
    p.back(i, Some(tcp(SYN, 0x5000_0000, 0, 1000, 0)), at(1)).unwrap();
    p.back(i, Some(tcp(SYN, 0x1000_0000, 0, 1000, 0)), at(100)).unwrap();
    p.out(o, Some(tcp(SYN | ACK, 77, 0x1000_0001, 1000, 0)), at(100)).unwrap();
    p.back(i, Some(tcp(ACK, 0x1000_0001, 78, 1000, 0)), at(100)).unwrap();
    assert!(p.back(i, Some(tcp(RST, 0x3000_0000, 0, 0, 0)), at(100)).is_err());
}
#[test]
fn what_was_idle_too_long_and_goes_on_is_understood() {
    let p = Pair::new(rules());
    p.established(at(10));
    let (o, i) = (p.o(), p.i());
    let mut seq = 1001u32;
    for _ in 0..4 {
        for _ in 0..10 {
            p.out(o, Some(tcp(ACK, seq, 5001, 502, 1448)), at(9000)).unwrap();
            seq += 1448;
        }
        p.back(i, Some(tcp(ACK, 5001, seq, 509, 0)), at(9000)).unwrap();
    }
    assert_eq!(p.out(o, Some(tcp(RST | ACK, seq, 5001, 0, 0)), at(9000)).map(|_| ()), Ok(()));
}
#[test]
fn the_same_by_address() {
    let p = Pair::new(rules());
    p.out(key(17, inside(), 4000, far(), 53), None, at(0)).unwrap();
    let other = key(17, far(), 9, ext(), 4000);
    p.back(other, None, at(299)).unwrap();
    assert!(p.back(other, None, at(301)).is_ok(), "its connection is two seconds old");
}
