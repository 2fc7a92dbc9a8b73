//! What the rest of a packet becomes, and for how long.

use switch::checksum::Delta;
use switch::flow::Fragment;
use switch::verdict::Side;

use super::*;
use crate::waiting::tests::fragment;

fn nat(last: u128) -> Nat {
    Nat {
        proto: 17,
        src: Ipv6Addr::from_bits(last),
        dst: Ipv6Addr::from_bits(last + 1),
        sport: 1,
        dport: 2,
        address: Delta::NONE,
        l4: Delta::NONE,
        id: None,
        from: Side::New,
        to: Side::No,
    }
}

fn rest(last: u128, to: Option<PortId>) -> Option<Rest> {
    Some(Rest { src: Ipv6Addr::from_bits(last), dst: Ipv6Addr::from_bits(last + 1), to, id: None })
}

/// But for its identification.
fn found(fragments: &Fragments, later: &Packet, now: Tick) -> Option<Rest> {
    fragments.find(later, now).map(|rest| Rest { id: None, ..rest })
}

#[test]
fn the_rest_becomes_what_the_first_became_for_a_minute() {
    let fragments = Fragments::new(16, 8).unwrap();
    let (first, later) = (fragment(7, 1, Fragment::First), fragment(7, 1, Fragment::Later));
    let at = Tick::from_secs;
    assert_eq!(found(&fragments, &later, at(100)), None);
    fragments.expect(&first, &nat(10), None, at(100));
    assert_eq!(found(&fragments, &later, at(159)), rest(10, None));
    assert_eq!(found(&fragments, &later, at(160)), None);
    // Of another packet, from another one.
    assert_eq!(found(&fragments, &fragment(8, 1, Fragment::Later), at(100)), None);
    assert_eq!(found(&fragments, &fragment(7, 2, Fragment::Later), at(100)), None);
    assert_eq!(fragments.age(at(159)), 0);
    assert_eq!(fragments.age(at(160)), 1);
}

#[test]
fn the_same_identification_again_is_another_packet() {
    let fragments = Fragments::new(16, 8).unwrap();
    let (first, later) = (fragment(7, 1, Fragment::First), fragment(7, 1, Fragment::Later));
    let at = Tick::from_secs;
    fragments.expect(&first, &nat(10), None, at(100));
    fragments.expect(&first, &nat(10), None, at(150));
    assert_eq!(found(&fragments, &later, at(209)), rest(10, None), "the minute is the second one's");
    fragments.expect(&first, &nat(20), Some(PortId(3)), at(151));
    assert_eq!(found(&fragments, &later, at(152)), rest(20, Some(PortId(3))));
}

#[test]
fn who_goes_takes_what_came_from_there_and_what_goes_there() {
    let fragments = Fragments::new(16, 8).unwrap();
    let at = Tick::from_secs(100);
    fragments.expect(&fragment(1, 1, Fragment::First), &nat(10), None, at);
    fragments.expect(&fragment(2, 2, Fragment::First), &nat(10), Some(PortId(1)), at);
    fragments.expect(&fragment(3, 2, Fragment::First), &nat(10), None, at);
    assert_eq!(fragments.forget(|port| port == PortId(1)), 2);
    assert_eq!(found(&fragments, &fragment(3, 2, Fragment::Later), at), rest(10, None));
}

#[test]
fn a_flood_of_first_fragments_costs_whose_it_is() {
    let fragments = Fragments::new(64, 8).unwrap();
    let at = Tick::from_secs(100);
    fragments.expect(&fragment(1, 1, Fragment::First), &nat(10), None, at);
    for id in 0..1000 {
        fragments.expect(&fragment(id, 2, Fragment::First), &nat(10), None, at);
    }
    assert_eq!(found(&fragments, &fragment(1, 1, Fragment::Later), at), rest(10, None));
}

#[test]
fn who_shares_an_address_shares_no_identification() {
    let fragments = Fragments::new(64, 8).unwrap();
    let at = Tick::from_secs(100);
    let (one, other) = (
        fragment(7, 1, Fragment::First),
        Packet {
            key: switch::flow::FlowKey {
                src: "::ffff:10.1.0.99".parse().unwrap(),
                ..fragment(7, 2, Fragment::First).key
            },
            ..fragment(7, 2, Fragment::First)
        },
    );
    let ids: Vec<_> = [&one, &other].map(|first| fragments.expect(first, &nat(10), None, at).unwrap()).into();
    assert_ne!(ids[0], ids[1]);
    // The rest of each has its own, and so has the same first fragment again.
    let rest = Packet { meta: fragment(7, 1, Fragment::Later).meta, ..one };
    assert_eq!(fragments.find(&rest, at).unwrap().id, Some(ids[0]));
    assert_eq!(fragments.expect(&one, &nat(10), None, at), Some(ids[0]));
    // They do not repeat soon, between the same two.
    let more: std::collections::HashSet<_> =
        (0..60_000).map(|_| fragments.identification(&one, &nat(10)).unwrap()).collect();
    assert_eq!(more.len(), 60_000);
    // What keeps its address keeps its identification.
    let plain = Nat { src: one.key.src, ..nat(10) };
    assert_eq!(fragments.identification(&one, &plain), None);
}
