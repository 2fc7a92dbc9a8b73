//! l4 ports, quotas, fairness, memory and threads of conntrack.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod tracked;

use std::collections::{HashMap, HashSet};

use nat::conntrack::{Filtering, Limits, Rule};
use switch::drop::DropReason;
use switch::parse::{PROTO_SCTP, PROTO_TCP, PROTO_UDP};
use switch::port::PortId;
use tracked::{ACK, Lab, SYN, end, inside, key, ours, remote, rules, v4};

const PROTO_GRE: u8 = 47;
const PROTO_ICMP: u8 = 1;

fn many() -> Limits {
    Limits { connections: 1 << 18, mappings: 64_000, mappings_per_port: 64_000, ..Limits::default() }
}

fn published(proto: u8, first: u16, count: u16, to: u32, port: u16, owner: u16) -> Rule {
    Rule { proto, external: ours(1), first, count, inside: inside(v4(to), port), owner: PortId(owner) }
}

#[test]
fn sixty_thousand_of_udp_and_of_tcp_are_distinct_and_answered() {
    let lab = Lab::new(&many(), rules(1, vec![], Filtering::Address));
    for proto in [PROTO_UDP, PROTO_TCP] {
        let mut seen = HashMap::new();
        for n in 0..60_000u32 {
            // 600 containers want the same hundred l4 ports.
            let from = end(v4(n / 100), 2000 + (n % 100) as u16);
            let known = lab.out_with(proto, from, end(remote(1), 53), (n / 2000) as u16, SYN).unwrap();
            assert!(known.external.port >= 1024);
            assert_eq!(seen.insert(known.external, from), None);
        }
        for (external, from) in &seen {
            assert_eq!(
                lab.come(proto, end(remote(1), 53), *external),
                Ok(Some(inside(from.address, from.port)))
            );
        }
    }
    let counts = lab.conntrack.counts();
    assert_eq!(
        (counts.mappings, counts.connections, counts.evicted, counts.no_port),
        (120_000, 120_000, 0, 0)
    );
    for n in 0..64 {
        lab.conntrack.forget(|port| port == PortId(n), lab.now);
    }
    let counts = lab.conntrack.counts();
    assert_eq!((counts.mappings, counts.connections), (0, 0));
}

#[test]
fn an_l4_port_is_kept_if_it_can_and_else_stays_in_its_range() {
    let lab = Lab::new(&many(), rules(1, vec![], Filtering::Address));
    for port in [22, 1023, 1024, 40_000, 65_535] {
        let first = lab.out(PROTO_UDP, end(v4(1), port), end(remote(1), 53), 1).unwrap();
        assert_eq!(first.external, end(ours(1), port), "kept");
        let second = lab.out(PROTO_UDP, end(v4(2), port), end(remote(1), 53), 2).unwrap();
        assert_ne!(second.external.port, port);
        assert_ne!(second.external.port, 0);
        assert_eq!(second.external.port < 1024, port < 1024, "{port} became {}", second.external.port);
        // TCP has its own.
        assert_eq!(lab.out(PROTO_TCP, end(v4(3), port), end(remote(1), 53), 3).unwrap().external.port, port);
    }
    assert_eq!(lab.conntrack.counts().other_port, 5);
}

#[test]
fn who_has_all_system_l4_ports_shuts_nobody_out() {
    let lab = Lab::new(&many(), rules(1, vec![], Filtering::Address));
    for port in 1..1024 {
        lab.out(PROTO_UDP, end(v4(1), port), end(remote(1), 53), 1).unwrap();
    }
    let other = lab.out(PROTO_UDP, end(v4(2), 500), end(remote(1), 53), 2).unwrap();
    assert!(other.external.port >= 1024);
}

#[test]
fn even_stays_even_and_odd_odd_where_that_is_asked() {
    let rules = nat::conntrack::Rules::new(
        vec![ours(1)],
        vec![],
        (Filtering::Address, true),
        nat::conntrack::Timeouts::default(),
        7,
    );
    let lab = Lab::new(&many(), rules);
    for n in 0..1000 {
        for port in [5004, 5005] {
            let known = lab.out(PROTO_UDP, end(v4(n), port), end(remote(1), 53), 1).unwrap();
            assert_eq!(known.external.port % 2, port % 2);
        }
    }
}

#[test]
fn what_is_published_is_nobody_elses() {
    // H29: nobody gets in the way of a service by asking for its l4 port first.
    let rule = published(PROTO_UDP, 7000, 100, 1, 80, 1);
    let lab = Lab::new(&many(), rules(1, vec![rule], Filtering::Address));
    for port in 7000..7100 {
        let known = lab.out(PROTO_UDP, end(v4(2), port), end(remote(1), 53), 2).unwrap();
        assert!(!(7000..7100).contains(&known.external.port));
    }
    // Nor by asking for so many that one of them must be it.
    for n in 0..50_000u32 {
        let from = end(v4(100 + n / 5000), 1024 + (n % 5000) as u16);
        let known = lab.out(PROTO_UDP, from, end(remote(1), 53), 3).unwrap();
        assert!(!(7000..7100).contains(&known.external.port));
    }
    // The range is one rule, and what the service sends by itself comes from where it is published.
    for step in [0, 1, 99] {
        assert_eq!(
            lab.come(PROTO_UDP, end(remote(9), 9), end(ours(1), 7000 + step)),
            Ok(Some(inside(v4(1), 80 + step)))
        );
        let known = lab.out(PROTO_UDP, end(v4(1), 80 + step), end(remote(5), 53), 1).unwrap();
        assert_eq!(known.external, end(ours(1), 7000 + step));
    }
    // The next one is somebody's or nobody's, but not the service's.
    let beside = lab.come(PROTO_UDP, end(remote(9), 9), end(ours(1), 7100));
    assert!(matches!(beside, Ok(None) | Err(DropReason::NatFiltered)), "{beside:?}");
}

#[test]
fn a_freed_l4_port_rests_for_two_minutes_but_not_from_whose_it_was() {
    let mut lab = Lab::new(&many(), rules(1, vec![], Filtering::Address));
    let ask =
        |lab: &Lab, who| lab.out(PROTO_UDP, end(v4(who), 5000), end(remote(1), 53), who as u16).unwrap();
    assert_eq!(ask(&lab, 1).external.port, 5000);
    lab.conntrack.forget(|port| port == PortId(1), lab.now);
    assert_ne!(ask(&lab, 2).external.port, 5000, "at once");
    assert_eq!(ask(&lab, 1).external.port, 5000, "its own");
    lab.conntrack.forget(|port| port == PortId(1), lab.now);
    lab.pass(119);
    assert_ne!(ask(&lab, 3).external.port, 5000, "after 119 s");
    lab.pass(1);
    assert_eq!(ask(&lab, 4).external.port, 5000, "after 120 s");
}

#[test]
fn a_port_has_its_quota_and_leaves_room_for_another() {
    let limits = Limits { mappings_per_port: 10, ..many() };
    let lab = Lab::new(&limits, rules(1, vec![], Filtering::Address));
    let ask = |lab: &Lab, owner: u16, port| {
        lab.out(PROTO_UDP, end(v4(u32::from(owner)), port), end(remote(1), 53), owner)
    };
    for port in 2000..2010 {
        ask(&lab, 1, port).unwrap();
    }
    assert_eq!(ask(&lab, 1, 2010), Err(DropReason::NatQuota));
    assert!(ask(&lab, 1, 2000).is_ok(), "what is there goes on");
    assert!(ask(&lab, 2, 2010).is_ok());
    assert_eq!(lab.conntrack.counts().over_quota, 1);

    let limits = Limits { mappings: 1000, ..many() };
    let lab = Lab::new(&limits, rules(1, vec![], Filtering::Address));
    for port in 2000..3000 {
        ask(&lab, 1, port).unwrap();
    }
    // All are the greedy one's, so it is one of his that goes.
    for port in 2000..2100 {
        ask(&lab, 2, port).unwrap();
    }
    let mine = lab.conntrack.mappings(&lab.rules, lab.now).filter(|row| row.owner == PortId(2)).count();
    assert_eq!(mine, 100);
    assert_eq!(lab.conntrack.counts().mappings, 1000);
    assert_eq!(lab.conntrack.counts().evicted, 100);
}

#[test]
fn connections_have_a_quota_of_their_own() {
    let limits = Limits { connections_per_port: 5, ..many() };
    let lab = Lab::new(&limits, rules(1, vec![], Filtering::Address));
    let ask = |owner, to| lab.out(PROTO_UDP, end(v4(1), 2000), end(remote(to), 53), owner);
    for to in 0..5 {
        ask(1, to).unwrap();
    }
    assert_eq!(ask(1, 5), Err(DropReason::NatQuota));
    assert!(ask(1, 4).is_ok());
}

#[test]
fn a_udp_end_point_opens_no_door_of_a_tcp_one() {
    let lab = Lab::new(&many(), rules(1, vec![], Filtering::Address));
    // Each is the first of its table.
    let udp = lab.out(PROTO_UDP, end(v4(1), 5000), end(remote(66), 53), 1).unwrap();
    let tcp = lab.out_with(PROTO_TCP, end(v4(2), 6000), end(remote(2), 443), 2, SYN).unwrap();
    let ping = lab.out(PROTO_ICMP, end(v4(3), 77), end(remote(3), 8 << 8), 3).unwrap();
    let from = |proto, who, external| lab.come_with(&key(proto, end(remote(who), 9), external), SYN);
    assert_eq!(from(PROTO_TCP, 66, tcp.external), Err(DropReason::NatFiltered));
    assert_eq!(from(PROTO_UDP, 2, udp.external), Err(DropReason::NatFiltered));
    assert!(matches!(from(PROTO_UDP, 66, udp.external), Ok(Some(_))));
    let reply = |who| switch::flow::FlowKey {
        sport: ping.external.port,
        ..key(PROTO_ICMP, end(remote(who), 0), end(ours(1), 0))
    };
    assert_eq!(lab.come_with(&reply(66), ACK), Err(DropReason::NatFiltered));
    assert_eq!(lab.come_with(&reply(3), ACK), Ok(Some(inside(v4(3), 77))));
}

#[test]
fn sctp_keeps_its_l4_port_or_is_refused() {
    let mut lab = Lab::new(&many(), rules(1, vec![], Filtering::Address));
    let ask =
        |lab: &Lab, who: u32, port| lab.out(PROTO_SCTP, end(v4(who), port), end(remote(1), 9899), who as u16);
    assert_eq!(ask(&lab, 1, 5000).unwrap().external.port, 5000);
    assert_eq!(ask(&lab, 2, 5000), Err(DropReason::NatPorts));
    assert_eq!(ask(&lab, 2, 5001).unwrap().external.port, 5001);
    lab.conntrack.forget(|port| port == PortId(1), lab.now);
    lab.pass(1);
    assert_eq!(
        ask(&lab, 2, 5000).unwrap().external.port,
        5000,
        "there is no other that it could have meanwhile"
    );
}

#[test]
fn what_has_no_l4_ports_goes_by_address() {
    let mut lab = Lab::new(&many(), rules(1, vec![], Filtering::Address));
    let ask = |lab: &Lab, who: u32, to| lab.out(PROTO_GRE, end(v4(who), 0), end(remote(to), 0), who as u16);
    let come = |lab: &Lab, from| lab.come(PROTO_GRE, end(remote(from), 0), end(ours(1), 0));
    assert_eq!(ask(&lab, 1, 1).unwrap().external, end(ours(1), 0));
    assert_eq!(ask(&lab, 2, 1), Err(DropReason::NatPorts), "the answers are the first one's");
    assert!(ask(&lab, 2, 2).is_ok());
    assert_eq!(come(&lab, 1), Ok(Some(inside(v4(1), 0))));
    assert_eq!(come(&lab, 2), Ok(Some(inside(v4(2), 0))));
    assert_eq!(come(&lab, 3), Ok(None));
    // Over is over, cleared away or not.
    lab.pass(299);
    assert_eq!(come(&lab, 1), Ok(Some(inside(v4(1), 0))));
    lab.pass(299);
    assert_eq!(come(&lab, 1), Ok(Some(inside(v4(1), 0))));
    assert_eq!(come(&lab, 2), Ok(None));
    assert!(ask(&lab, 1, 2).is_ok(), "it is free");
    lab.pass(300);
    assert_eq!(come(&lab, 1), Ok(None));
}

#[test]
fn icmp_that_is_no_query_leaves_nothing() {
    let lab = Lab::new(&many(), rules(1, vec![], Filtering::Endpoint));
    for kind in [0u16, 9, 10, 40, 253] {
        let refused = lab.out(PROTO_ICMP, end(v4(1), 0), end(remote(1), kind << 8), 1);
        assert_eq!(refused, Err(DropReason::NatNoConnection), "{kind}");
    }
    lab.out(PROTO_ICMP, end(v4(1), 0), end(remote(1), 8 << 8), 1).unwrap();
    // An identifier of 0 is not what has none.
    assert_eq!(lab.come(PROTO_ICMP, end(remote(1), 0), end(ours(1), 9 << 8)), Ok(None));
    assert_eq!(lab.come(PROTO_ICMP, end(remote(1), 0), end(ours(1), 0)), Ok(Some(inside(v4(1), 0))));
}

#[test]
fn a_container_has_one_of_two_addresses_for_all_it_does() {
    let lab = Lab::new(&many(), rules(2, vec![], Filtering::Address));
    let mut used = HashSet::new();
    for who in 0..64 {
        let address = lab.rules.external_for(0, v4(who)).unwrap();
        used.insert(address);
        for (proto, port, to) in
            [(PROTO_UDP, 5000, 1), (PROTO_TCP, 5001, 2), (PROTO_UDP, 5002, 3), (PROTO_ICMP, 9, 4)]
        {
            let dport = if proto == PROTO_ICMP { 8 << 8 } else { 53 };
            let known = lab.out(proto, end(v4(who), port), end(remote(to), dport), 1).unwrap();
            assert_eq!(known.external.address, address);
        }
    }
    assert_eq!(used.len(), 2);
}

#[test]
fn an_address_in_the_place_of_another_ends_what_used_that() {
    let rule = published(PROTO_UDP, 7000, 1, 1, 80, 1);
    let mut lab = Lab::new(&many(), rules(1, vec![rule], Filtering::Address));
    lab.out(PROTO_UDP, end(v4(1), 5000), end(remote(1), 53), 1).unwrap();
    lab.out(PROTO_GRE, end(v4(1), 0), end(remote(1), 0), 1).unwrap();
    lab.come(PROTO_UDP, end(remote(1), 9), end(ours(1), 7000)).unwrap();
    assert_eq!(lab.conntrack.reconcile(&lab.rules, |_, _, _| true, lab.now), 0);
    assert_eq!(lab.conntrack.counts().connections, 3);
    lab.rules = nat::conntrack::Rules::new(
        vec![ours(9)],
        vec![Rule { external: ours(9), ..rule }],
        (Filtering::Address, false),
        nat::conntrack::Timeouts::default(),
        7,
    );
    assert_eq!(lab.conntrack.reconcile(&lab.rules, |_, _, _| true, lab.now), 3);
    let counts = lab.conntrack.counts();
    assert_eq!((counts.connections, counts.mappings), (0, 0));
    assert_eq!(
        lab.out(PROTO_UDP, end(v4(1), 5000), end(remote(1), 53), 1).unwrap().external,
        end(ours(9), 5000)
    );
}

#[test]
fn threads_leave_no_l4_port_behind() {
    let limits = Limits { mappings: 500, connections: 4000, ..many() };
    let mut lab = Lab::new(&limits, rules(1, vec![], Filtering::Address));
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let lab = &lab;
            scope.spawn(move || {
                for round in 0..20_000u32 {
                    // All four use the same end points; there are more of them than places, so that many are evicted.
                    let n = (round * 7 + thread) % 900;
                    let (who, owner) = (n % 9, (n % 9) as u16);
                    let from = end(v4(who), 2000 + (n / 9) as u16);
                    if let Ok(known) = lab.out(PROTO_UDP, from, end(remote(round % 5), 53), owner)
                        && let Ok(Some(to)) = lab.come(PROTO_UDP, end(remote(round % 5), 53), known.external)
                    {
                        // Its mapping may have gone meanwhile, and the l4 port be another's.
                        assert_eq!(to.zone, 0);
                    }
                    match round % 1000 {
                        500 => drop(lab.conntrack.age(&lab.rules, lab.now)),
                        700 => drop(lab.conntrack.forget(|port| port == PortId(owner), lab.now)),
                        _ => {}
                    }
                }
            });
        }
    });
    // Nobody shares one.
    let all: Vec<_> = lab.conntrack.mappings(&lab.rules, lab.now).map(|row| row.external).collect();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    for owner in 0..9 {
        lab.conntrack.forget(|port| port == PortId(owner), lab.now);
    }
    let counts = lab.conntrack.counts();
    assert_eq!((counts.mappings, counts.connections), (0, 0));
    // Rested, each can be had by whoever asks for it.
    lab.pass(121);
    for port in 1..=u16::MAX {
        let known = lab.out(PROTO_UDP, end(v4(50), port), end(remote(1), 53), 20).unwrap();
        assert_eq!(known.external.port, port);
        if port % 400 == 0 {
            lab.conntrack.forget(|port| port == PortId(20), lab.now);
        }
    }
}

/// Pages of this process that are in memory, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn a_million_connections_fit_into_320_mib() {
    let limits = Limits { connections: 1_000_000, ..Limits::default() };
    let before = resident();
    let lab = Lab::new(&limits, rules(1, vec![], Filtering::Address));
    for n in 0..1_000_000u32 {
        let from = end(v4(n % 1000), 2000);
        lab.out(PROTO_UDP, from, end(remote(n / 1000), 53), (n % 1000 % 50) as u16).unwrap();
    }
    let counts = lab.conntrack.counts();
    let grown = (resident() - before) >> 20;
    println!("{} connections, {} mappings: {grown} MiB", counts.connections, counts.mappings);
    assert_eq!((counts.connections, counts.mappings, counts.evicted), (1_000_000, 1000, 0));
    assert!(grown <= 320, "{grown} MiB");
    for n in (0..1_000_000u32).step_by(997) {
        let from = end(v4(n % 1000), 2000);
        let packet = key(PROTO_UDP, from, end(remote(n / 1000), 53));
        let known = lab.conntrack.outbound(&lab.rules, &packet, lab.now).unwrap();
        assert_eq!(
            lab.come(PROTO_UDP, end(remote(n / 1000), 53), known.external),
            Ok(Some(inside(from.address, 2000)))
        );
    }
}

#[test]
fn nothing_allocates_once_it_is_made() {
    let limits = Limits { connections: 500, connections_per_port: 60, mappings: 20, mappings_per_port: 200 };
    let mut lab =
        Lab::new(&limits, rules(2, vec![published(PROTO_TCP, 80, 2, 1, 8080, 1)], Filtering::Address));
    let info = allocation_counter::measure(|| {
        for round in 0..20_000u32 {
            let (who, proto) =
                (round % 7, [PROTO_TCP, PROTO_UDP, PROTO_ICMP, PROTO_GRE, PROTO_SCTP][round as usize % 5]);
            let from = end(v4(who), (round % 613) as u16 + 2000);
            let dport = if proto == PROTO_ICMP { 8 << 8 } else { 53 };
            let sent = lab.out(proto, from, end(remote(round % 11), dport), who as u16);
            let to = sent.map_or(end(ours(1), 80), |known| known.external);
            let _ = lab.come(proto, end(remote(round % 13), 53), to);
            if round % 100 == 0 {
                lab.pass(7);
                lab.conntrack.age(&lab.rules, lab.now);
            }
            match round % 3000 {
                1000 => drop(lab.conntrack.forget(|port| port == PortId(3), lab.now)),
                2000 => drop(lab.conntrack.reconcile(&lab.rules, |owner, _, _| owner.0 != 2, lab.now)),
                _ => {}
            }
        }
    });
    assert_eq!(info.count_total, 0);
    let counts = lab.conntrack.counts();
    assert!(counts.evicted > 0 && counts.no_port > 0 && counts.opened > 1000, "{counts:?}");
}
