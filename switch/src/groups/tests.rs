use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn group(n: u8) -> Ipv6Addr {
    Ipv4Addr::new(239, 0, 0, n).to_ipv6_mapped()
}

fn set(groups: &Groups, group: Ipv6Addr, change: Change, vid: u16, port: u16, at: u32) {
    let mut learned = Learned::NOTHING;
    groups.change(group, change, vid, PortId(port), Tick::from_secs(at), &mut learned);
}

#[derive(Clone, Debug)]
enum Step {
    Join(u8, u16, u16),
    Leave(u8, u16, u16),
    Flush(u16),
    Pass(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let who = (0u8..4, 0u16..3, 0u16..4);
    prop_oneof![
        4 => who.clone().prop_map(|(g, v, p)| Step::Join(g, v, p)),
        3 => who.prop_map(|(g, v, p)| Step::Leave(g, v, p)),
        1 => (0u16..4).prop_map(Step::Flush),
        3 => prop_oneof![0u32..4, 100u32..300].prop_map(Step::Pass),
    ]
}

proptest! {
    /// Against a map from (group, VLAN, port) to when it was last reported and when it ends.
    #[test]
    fn memberships_are_those_of_the_model(steps in prop::collection::vec(step(), 1..80)) {
        let groups = Groups::new(64).unwrap();
        let mut model: HashMap<(u8, u16, u16), (u32, Option<u32>)> = HashMap::new();
        let mut now = 1000;
        for step in steps {
            match step {
                Step::Join(g, v, p) => {
                    set(&groups, group(g), Change::Joined, v, p, now);
                    model.insert((g, v, p), (now, None));
                }
                Step::Leave(g, v, p) => {
                    set(&groups, group(g), Change::Left, v, p, now);
                    if let Some((_, end)) = model.get_mut(&(g, v, p)) {
                        end.get_or_insert(now + LAST_QUERY);
                    }
                }
                Step::Flush(p) => {
                    groups.flush(PortId(p));
                    model.retain(|(.., port), _| *port != p);
                }
                Step::Pass(seconds) => {
                    now += seconds;
                    groups.age(Tick::from_secs(now));
                    model.retain(|_, (seen, end)| now - *seen < MEMBERSHIP && end.is_none_or(|end| now < end));
                }
            }
            for g in 0..4 {
                for v in 0..3 {
                    for p in 0..4 {
                        let known = model.contains_key(&(g, v, p));
                        prop_assert_eq!(groups.listens(group(g), v, PortId(p)), known);
                    }
                }
            }
            prop_assert_eq!(groups.entries(Tick::from_secs(now)).count(), model.len());
        }
    }
}

#[test]
fn the_lowest_address_asks() {
    let groups = Groups::new(8).unwrap();
    let v4 = |n: u8| Ipv4Addr::new(10, 1, 0, n).to_ipv6_mapped();
    let at = Tick::from_secs;
    let asks = || groups.querier(Family::V4, 0).map(|asks| (asks.address, asks.port, asks.seen));
    groups.heard(0, v4(0), PortId(1), at(99));
    groups.flush(PortId(1));
    groups.heard(0, v4(9), PortId::NOBODY, at(100));
    groups.heard(0, v4(10), PortId(1), at(101));
    assert_eq!(asks(), Some((v4(9), PortId::NOBODY, 100)), "higher");
    groups.heard(0, v4(8), PortId(2), at(102));
    assert_eq!(asks(), Some((v4(8), PortId(2), 102)));
    groups.heard(0, v4(9), PortId::NOBODY, at(103));
    assert_eq!(asks(), Some((v4(8), PortId(2), 102)), "it is still there");
    groups.heard(0, v4(9), PortId::NOBODY, at(102 + QUERIER_PRESENT));
    assert_eq!(asks(), Some((v4(9), PortId::NOBODY, 102 + QUERIER_PRESENT)), "it is gone");
    groups.heard(0, v4(20), PortId::NOBODY, at(400));
    assert_eq!(asks(), Some((v4(20), PortId::NOBODY, 400)), "the gateway has another address");
    groups.heard(0, Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), PortId(3), at(401));
    assert_eq!(asks(), Some((v4(20), PortId::NOBODY, 400)));
    assert!(groups.querier(Family::V6, 0).is_none() && groups.querier(Family::V4, 1).is_none());
}

#[test]
fn a_copy_says_the_same() {
    let (groups, copy) = (Groups::new(8).unwrap(), Groups::new(16).unwrap());
    let now = Tick::from_secs(100);
    set(&groups, group(1), Change::Joined, 7, 3, 100);
    groups.heard(7, "fe80::1".parse().unwrap(), PortId(4), now);
    groups.copy_into(&copy);
    let all = |groups: &Groups| {
        let mut all: Vec<_> =
            groups.entries(now).map(|e| (e.kind, e.vid, e.group, e.port.0, e.age)).collect();
        all.sort();
        all
    };
    assert_eq!(all(&copy), all(&groups));
    assert_eq!(all(&copy).len(), 3);
    assert!(all(&copy).contains(&(EntryKind::Querier, 7, ALL_NODES, 4, 0)));
}
