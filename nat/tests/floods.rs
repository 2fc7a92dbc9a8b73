//! What somebody outside, or a container beside, can ask for as often as he wants, costs nobody what is in use; and what
//! is over takes nobody's place.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod tracked;

use nat::conntrack::{EndPoint, Filtering, Inside, Limits, Rule};
use switch::drop::DropReason;
use switch::parse::{PROTO_TCP, PROTO_UDP};
use switch::port::PortId;
use tracked::{ACK, Lab, SYN, end, inside, key, ours, remote, rules, v4};

const FLOOD: u32 = 100_000;
/// The container with the service, and its l4 port.
const SERVER: (u16, u16) = (1, 80);

fn service(proto: u8) -> Rule {
    let inside = inside(v4(u32::from(SERVER.0)), SERVER.1);
    Rule { proto, external: ours(1), first: 8080, count: 1, inside, owner: PortId(SERVER.0) }
}

fn flooded(limits: &Limits) -> Lab {
    let published = vec![service(PROTO_TCP), service(PROTO_UDP)];
    Lab::new(limits, rules(1, published, Filtering::Address))
}

fn small() -> Limits {
    Limits { connections: 1000, mappings: 1000, ..Limits::default() }
}

/// Whom nobody knows, and who need not be there.
fn stranger(n: u32) -> EndPoint {
    end(v4(0x4000_0000 + n), 1024 + (n % 60_000) as u16)
}

fn knock(lab: &Lab, proto: u8, from: EndPoint, flags: u8) -> Result<Option<Inside>, DropReason> {
    lab.come_with(&key(proto, from, end(ours(1), 8080)), flags)
}

fn answer(lab: &Lab, proto: u8, to: EndPoint) {
    let from = end(v4(u32::from(SERVER.0)), SERVER.1);
    lab.out_with(proto, from, to, SERVER.0, SYN | ACK).unwrap();
}

/// A client that has its connection.
fn enter(lab: &Lab, from: EndPoint) {
    knock(lab, PROTO_TCP, from, SYN).unwrap();
    answer(lab, PROTO_TCP, from);
    knock(lab, PROTO_TCP, from, ACK).unwrap();
}

/// A container has opened one, and is answered.
fn leave(lab: &Lab, owner: u16, port: u16, to: u32) {
    let known =
        lab.out_with(PROTO_TCP, end(v4(u32::from(owner)), port), end(remote(to), 443), owner, SYN).unwrap();
    lab.come_with(&key(PROTO_TCP, end(remote(to), 443), known.external), SYN | ACK).unwrap();
    lab.out_with(PROTO_TCP, end(v4(u32::from(owner)), port), end(remote(to), 443), owner, ACK).unwrap();
}

fn established(lab: &Lab, owner: u16) -> usize {
    let rows = lab.conntrack.connections(&lab.rules, lab.now);
    rows.filter(|row| row.owner == PortId(owner) && row.state == "established").count()
}

fn idle(lab: &mut Lab) {
    (0..100).for_each(|n| enter(lab, stranger(FLOOD + n)));
    (0..100).for_each(|n| leave(lab, SERVER.0, 3000 + n, 1));
    lab.pass(3600);
    assert_eq!(established(lab, SERVER.0), 200);
}

#[test]
fn connections_that_are_idle_survive_a_flood_of_syns() {
    let mut lab = flooded(&small());
    idle(&mut lab);
    for n in 0..FLOOD {
        knock(&lab, PROTO_TCP, stranger(n), SYN).unwrap();
        if n % 2 == 0 {
            // Before, or long after, it had to go.
            answer(&lab, PROTO_TCP, stranger(n.saturating_sub(n % 100)));
        }
        match n % 1000 {
            0 => leave(&lab, 2, 3000 + (n / 1000) as u16, 2),
            500 => enter(&lab, stranger(2 * FLOOD + n)),
            _ => {}
        }
    }
    assert_eq!(established(&lab, SERVER.0), 300, "with the clients who came meanwhile");
    assert_eq!(established(&lab, 2), 100, "somebody else's");
    let unanswered = lab.conntrack.connections(&lab.rules, lab.now).count() - 400;
    assert!(unanswered <= 16, "{unanswered}");
}

#[test]
fn who_has_to_go_does_not_notice_when_he_was_meant() {
    let lab = flooded(&small());
    knock(&lab, PROTO_TCP, stranger(0), SYN).unwrap();
    (1..1000).for_each(|n| _ = knock(&lab, PROTO_TCP, stranger(n), SYN).unwrap());
    let known =
        |lab: &Lab| lab.conntrack.connections(&lab.rules, lab.now).any(|row| row.remote == stranger(0));
    assert!(!known(&lab));
    // From where it is published, as if nothing had been.
    let reply = lab.out_with(PROTO_TCP, end(v4(1), 80), stranger(0), 1, SYN | ACK).unwrap();
    assert_eq!(reply.external, end(ours(1), 8080));
    assert_eq!(knock(&lab, PROTO_TCP, stranger(0), ACK), Ok(Some(service(PROTO_TCP).inside)));
    assert!(known(&lab));
}

#[test]
fn a_flood_of_datagrams_is_one() {
    let mut lab = flooded(&small());
    idle(&mut lab);
    knock(&lab, PROTO_UDP, stranger(FLOOD), 0).unwrap();
    answer(&lab, PROTO_UDP, stranger(FLOOD));
    (0..FLOOD).for_each(|n| _ = knock(&lab, PROTO_UDP, stranger(n), 0).unwrap());
    assert_eq!(established(&lab, SERVER.0), 200);
    let mut rows = lab.conntrack.connections(&lab.rules, lab.now);
    assert!(rows.any(|row| row.remote == stranger(FLOOD)), "it was answered");
}

#[test]
fn at_its_limit_a_container_has_what_is_in_use_and_opens_more() {
    let limits = Limits { connections: 10_000, connections_per_port: 210, ..small() };
    let mut lab = flooded(&limits);
    idle(&mut lab);
    (0..1000).for_each(|n| _ = knock(&lab, PROTO_TCP, stranger(n), SYN).unwrap());
    leave(&lab, SERVER.0, 4000, 1);
    enter(&lab, stranger(5000));
    assert_eq!(established(&lab, SERVER.0), 202);
    assert!(lab.conntrack.connections(&lab.rules, lab.now).count() <= 210);
    // Of what is in use it has no more than it may.
    (0..8).for_each(|n| enter(&lab, stranger(6000 + n)));
    assert_eq!(knock(&lab, PROTO_TCP, stranger(7000), SYN), Err(DropReason::NatQuota));
}

#[test]
fn a_full_table_loses_what_is_unanswered_first() {
    // Two hundred and a flood; the rest is another container's, and answered.
    let mut lab = flooded(&small());
    idle(&mut lab);
    (0..1000).for_each(|n| _ = knock(&lab, PROTO_TCP, stranger(n), SYN).unwrap());
    (0..784).for_each(|n| leave(&lab, 2, 3000 + n, 2));
    assert_eq!(lab.conntrack.counts().connections, 1000);
    let evicted = lab.conntrack.counts().evicted;
    (0..10_000).for_each(|n| _ = knock(&lab, PROTO_TCP, stranger(n), SYN).unwrap());
    assert_eq!(lab.conntrack.counts().evicted - evicted, 10_000, "one for one");
    assert_eq!((established(&lab, SERVER.0), established(&lab, 2)), (200, 784));
}

#[test]
fn what_is_over_counts_for_no_quota() {
    let limits = Limits { connections: 10_000, connections_per_port: 50, mappings_per_port: 20, ..small() };
    let mut lab = flooded(&limits);
    let ask = |lab: &Lab, port, to| lab.out(PROTO_UDP, end(v4(2), port), end(remote(to), 53), 2);
    // Nobody clears anything away in this test.
    (0..50).for_each(|n| _ = ask(&lab, 3000, n).unwrap());
    assert_eq!(ask(&lab, 3000, 50), Err(DropReason::NatQuota));
    lab.pass(299);
    assert_eq!(ask(&lab, 3000, 50), Err(DropReason::NatQuota));
    lab.pass(1);
    (0..50).for_each(|n| _ = ask(&lab, 3000, 100 + n).unwrap());
    assert_eq!(ask(&lab, 3000, 50), Err(DropReason::NatQuota));

    lab.pass(300);
    (0..20).for_each(|n| _ = ask(&lab, 4000 + n, 1).unwrap());
    assert_eq!(ask(&lab, 5000, 1), Err(DropReason::NatQuota));
    lab.pass(300);
    (0..20).for_each(|n| _ = ask(&lab, 5000 + n, 1).unwrap());
    assert_eq!(ask(&lab, 6000, 1), Err(DropReason::NatQuota));
}

#[test]
fn what_is_over_is_found_in_a_large_table_within_a_second() {
    let limits = Limits { connections: 200_000, connections_per_port: 100_000, ..small() };
    let mut lab = flooded(&limits);
    let ask = |lab: &Lab, owner: u16, to: u32| {
        lab.out(PROTO_UDP, end(v4(u32::from(owner)), 3000), end(stranger(to).address, 53), owner)
    };
    (0..100_000).for_each(|n| _ = ask(&lab, 2, n).unwrap());
    lab.pass(300);
    // Another's are in use, and among those of the first by chance.
    (0..90_000).for_each(|n| _ = ask(&lab, 3, n).unwrap());
    let refused = (0..200).filter(|n| ask(&lab, 2, 100_000 + n).is_err()).count();
    assert!(refused < 2, "{refused}");
    assert_eq!(
        lab.conntrack.connections(&lab.rules, lab.now).filter(|row| row.owner == PortId(3)).count(),
        90_000
    );
}

#[test]
fn clients_are_counted_by_what_they_came_in_by() {
    let range = Rule { first: 9000, count: 10, ..service(PROTO_UDP) };
    let rules = rules(1, vec![service(PROTO_TCP), service(PROTO_UDP), range], Filtering::Address);
    let lab = Lab::new(&small(), rules);
    (0..3).for_each(|n| enter(&lab, stranger(n)));
    for n in 0..7 {
        lab.come(PROTO_UDP, stranger(n), end(ours(1), 9000 + n as u16)).unwrap();
    }
    leave(&lab, SERVER.0, 80, 9);
    let mut clients = lab.conntrack.clients(&lab.rules, lab.now);
    clients.sort_by_key(|(rule, _)| (rule.proto, rule.first));
    assert_eq!(clients, [(service(PROTO_TCP), 3), (service(PROTO_UDP), 0), (range, 7)]);
}

#[test]
fn what_was_there_before_its_end_point_was_published_goes_on() {
    let mut lab = Lab::new(&small(), rules(1, vec![], Filtering::Address));
    let (own, peer) = (end(v4(1), 80), end(remote(1), 53));
    let old = lab.out(PROTO_UDP, own, peer, 1).unwrap();
    let ended = |lab: &mut Lab, published| {
        lab.rules = rules(1, published, Filtering::Address);
        lab.conntrack.reconcile(&lab.rules, |_, _, _| true, lab.now)
    };
    assert_eq!(ended(&mut lab, vec![service(PROTO_UDP)]), 0);
    assert_eq!(lab.out(PROTO_UDP, own, peer, 1), Ok(old), "as it was");
    assert_eq!(lab.come(PROTO_UDP, peer, old.external), Ok(Some(service(PROTO_UDP).inside)));
    // What begins now is where it is published.
    let new = lab.out(PROTO_UDP, own, end(remote(2), 53), 1).unwrap();
    assert_eq!(new.external, end(ours(1), 8080));
    assert!(lab.come(PROTO_UDP, stranger(1), end(ours(1), 8080)).is_ok_and(|to| to.is_some()));
    // Not published any more: what came of that ends, and nothing else.
    assert_eq!(ended(&mut lab, vec![]), 2);
    assert_eq!(lab.out(PROTO_UDP, own, peer, 1), Ok(old));
    assert_eq!(lab.out(PROTO_UDP, own, end(remote(2), 53), 1).unwrap().external, old.external);
    // Somebody else's service there ends it.
    let clash =
        Rule { first: old.external.port, inside: inside(v4(3), 80), owner: PortId(3), ..service(PROTO_UDP) };
    assert_eq!(ended(&mut lab, vec![clash]), 2);
}

#[test]
fn one_that_was_published_while_in_use_is_free_when_it_is_idle() {
    let mut lab = Lab::new(&small(), rules(1, vec![], Filtering::Address));
    let old = lab.out(PROTO_UDP, end(v4(1), 80), end(remote(1), 53), 1).unwrap();
    lab.rules = rules(1, vec![service(PROTO_UDP)], Filtering::Address);
    lab.conntrack.reconcile(&lab.rules, |_, _, _| true, lab.now);
    lab.pass(200);
    // In use, but not by the old connection.
    lab.out(PROTO_UDP, end(v4(1), 80), end(remote(2), 53), 1).unwrap();
    lab.pass(100);
    lab.conntrack.age(&lab.rules, lab.now);
    assert_eq!(lab.conntrack.counts().mappings, 0);
    lab.pass(121);
    let other = lab.out(PROTO_UDP, end(v4(5), old.external.port), end(remote(1), 53), 5).unwrap();
    assert_eq!(other.external, old.external);
}
