//! Addresses that nobody names: the same again, and not somebody else's while there are others.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use vswitchd::config::{Config, ConfigErrors, ContainerSpec, Context, InterfaceOptions, Paths, parse_with};
use vswitchd::ipam::{Memory, RESTING, RESTING_PER_NETWORK};

use super::valid;

/// A file with these containers in network `n`, each with its address where it names one.
fn lab(subnet: &str, containers: &[(u8, Option<u8>)]) -> String {
    let mut text = format!("[[network]]\nname = \"n\"\nsubnet = \"{subnet}\"\n");
    for (name, ip) in containers {
        text.push_str(&format!(
            "[[container]]\nname = \"c{name}\"\n[[container.interface]]\nnetwork = \"n\"\n"
        ));
        if let Some(ip) = ip {
            text.push_str(&format!("ip = \"10.0.0.{ip}\"\n"));
        }
    }
    text
}

/// A daemon that starts with what it remembers.
fn start(text: &str, memory: &Memory) -> Result<Config, ConfigErrors> {
    let paths = Paths { control: "/test/control.sock".into(), state: "/test/state".into() };
    parse_with("lab.toml", text.as_bytes(), &Context { paths, previous: None, memory: Some(memory) })
}

fn addresses(config: &Config) -> BTreeMap<String, Ipv4Addr> {
    config.interfaces().map(|(c, i)| (c.name.clone(), i.ip.unwrap().addr())).collect()
}

fn address(config: &Config, container: &str) -> String {
    addresses(config)[container].to_string()
}

#[test]
fn a_restart_changes_no_address_whatever_came_before_it_in_the_file() {
    let mut memory = Memory::default();
    memory.settle(&start(&lab("10.0.0.0/24", &[(1, None), (2, None), (3, None)]), &memory).unwrap());
    let shuffled = start(&lab("10.0.0.0/24", &[(3, None), (9, None), (1, None)]), &memory).unwrap();
    assert_eq!(
        [address(&shuffled, "c1"), address(&shuffled, "c3"), address(&shuffled, "c9")],
        ["10.0.0.2", "10.0.0.4", "10.0.0.5"],
        "what c2 had rests"
    );
    memory.settle(&shuffled);
    // Away for long, and back.
    let back = start(&lab("10.0.0.0/24", &[(2, None)]), &memory).unwrap();
    assert_eq!(address(&back, "c2"), "10.0.0.3");
}

#[test]
fn what_is_named_comes_before_what_is_remembered() {
    let mut memory = Memory::default();
    memory.settle(&start(&lab("10.0.0.0/24", &[(1, None)]), &memory).unwrap());
    let named = start(&lab("10.0.0.0/24", &[(1, None), (2, Some(2))]), &memory).unwrap();
    assert_eq!([address(&named, "c1"), address(&named, "c2")], ["10.0.0.3", "10.0.0.2"]);
    memory.settle(&named);
    assert_eq!(memory.had("n", "c1", "eth0"), ["10.0.0.3".parse::<IpAddr>().unwrap()]);
    // Another subnet: nothing that is remembered fits, and nothing breaks.
    let moved = start(&lab("10.0.0.64/28", &[(1, None)]), &memory).unwrap();
    assert_eq!(address(&moved, "c1"), "10.0.0.66");
}

#[test]
fn a_full_subnet_gives_what_was_given_back_longest_ago() {
    let mut memory = Memory::default();
    let subnet = "10.0.0.0/29"; // five for containers: .2 to .6
    for name in [1, 2, 3, 4, 5, 3, 1] {
        memory.settle(&start(&lab(subnet, &[(name, None)]), &memory).unwrap());
    }
    let had = |memory: &Memory, name: &str| memory.had("n", name, "eth0").len();
    let six = start(&lab(subnet, &[(6, None)]), &memory).unwrap();
    assert_eq!(address(&six, "c6"), "10.0.0.3", "c2 was the first to go and not to come back");
    memory.settle(&six);
    assert_eq!((had(&memory, "c2"), had(&memory, "c1")), (0, 1));
    let seven = start(&lab(subnet, &[(7, None), (6, None)]), &memory).unwrap();
    assert_eq!([address(&seven, "c6"), address(&seven, "c7")], ["10.0.0.3", "10.0.0.5"]);
}

#[test]
fn connecting_again_is_the_same_again() {
    let mut memory = Memory::default();
    let mut config = valid("[[network]]\nname = \"n\"\nsubnet = \"10.0.0.0/24\"\n");
    let spec = |name: &str| ContainerSpec { name: name.into(), ..ContainerSpec::default() };
    let mut connect = |name: &str| {
        let made = config.connect_again("n", &spec(name), &InterfaceOptions::default(), &memory).unwrap();
        memory.settle(&config);
        config.disconnect("n", name, None).unwrap();
        config.remove_container(name).unwrap();
        memory.settle(&config);
        made.ip.unwrap().addr().to_string()
    };
    let names = ["a", "b", "a", "c", "b"];
    assert_eq!(names.map(&mut connect), ["10.0.0.2", "10.0.0.3", "10.0.0.2", "10.0.0.4", "10.0.0.3"]);
}

/// Network `name` with this many containers.
fn crowd(name: &str, containers: usize) -> Config {
    let mut text = format!("[[network]]\nname = \"{name}\"\nsubnet = \"10.0.0.0/16\"\n");
    for index in 0..containers {
        text.push_str(&format!(
            "[[container]]\nname = \"c{index}\"\n[[container.interface]]\nnetwork = \"{name}\"\n"
        ));
    }
    valid(&text)
}

#[test]
fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
    let mut memory = Memory::default();
    let mut config = crowd("n", RESTING_PER_NETWORK + 10);
    memory.settle(&config);
    assert_eq!((memory.resting("n"), memory.of("n").count()), (0, RESTING_PER_NETWORK + 10));
    let first = config.disconnect("n", "c7", None).unwrap().ip.unwrap().addr();
    memory.settle(&config);
    memory.settle(&crowd("n", 0));
    assert_eq!(memory.resting("n"), RESTING_PER_NETWORK);
    assert!(memory.had("n", "c7", "eth0").is_empty(), "{first} was given back first");
    assert_eq!(memory.had("n", "c1033", "eth0").len(), 1);
    assert!(!memory.settle(&valid("")), "nothing changed");
}

#[test]
fn all_networks_together_are_bounded() {
    let mut memory = Memory::default();
    for network in 0..40 {
        memory.settle(&crowd(&format!("n{network}"), 500));
    }
    memory.settle(&valid(""));
    let all: usize = (0..40).map(|network| memory.resting(&format!("n{network}"))).sum();
    assert_eq!((all, memory.resting("n0"), memory.resting("n39")), (RESTING, 0, 500));
}

/// Containers, and the address that one names.
type Round = Vec<(u8, Option<u8>)>;

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let ports = proptest::collection::btree_map(0u8..16, proptest::option::weighted(0.2, 2u8..15), 0..9);
    let one_each = |ports: BTreeMap<u8, Option<u8>>| {
        let mut named = HashSet::new();
        ports.into_iter().map(|(name, ip)| (name, ip.filter(|ip| named.insert(*ip)))).collect::<Round>()
    };
    proptest::collection::vec(ports.prop_map(one_each).prop_shuffle(), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn never_two_owners_the_same_again_and_rest(rounds in rounds(), small in any::<bool>()) {
        let subnet = if small { "10.0.0.0/28" } else { "10.0.0.0/24" };
        let mut memory = Memory::default();
        for round in rounds {
            let text = lab(subnet, &round);
            let config = start(&text, &memory);
            prop_assert_eq!(config.is_ok(), start(&text, &Memory::default()).is_ok());
            let Ok(config) = config else { continue };
            let now = addresses(&config);
            let distinct: HashSet<&Ipv4Addr> = now.values().collect();
            prop_assert_eq!(distinct.len(), now.len());
            let named: HashSet<Ipv4Addr> =
                round.iter().filter_map(|(_, ip)| ip.map(|ip| Ipv4Addr::new(10, 0, 0, ip))).collect();
            for (name, ip) in round {
                let (name, given) = (format!("c{name}"), now[&format!("c{name}")]);
                let had: Vec<_> = memory.had("n", &name, "eth0");
                let free = |had: &&IpAddr| matches!(had, IpAddr::V4(v4) if !named.contains(v4));
                if let (None, Some(again)) = (ip, had.iter().find(free)) {
                    prop_assert_eq!(IpAddr::V4(given), *again);
                } else if ip.is_none() && memory.of("n").any(|(rests, _)| rests == IpAddr::V4(given)) {
                    // Somebody's from before: then there is none that was nobody's.
                    let room = if small { 13 } else { 253 };
                    let all: HashSet<IpAddr> =
                        memory.of("n").map(|(ip, _)| ip).chain(now.values().map(|ip| IpAddr::V4(*ip))).collect();
                    prop_assert_eq!(all.len(), room);
                }
            }
            memory.settle(&config);
            for (address, entry) in memory.of("n").filter(|(_, entry)| entry.released.is_none()) {
                prop_assert_eq!(IpAddr::V4(now[&entry.container]), address);
            }
            let text = serde_json::to_string(&memory).unwrap();
            prop_assert_eq!(serde_json::from_str::<Memory>(&text).unwrap(), memory.clone());
        }
    }
}

#[test]
fn what_another_host_held_is_given_to_others_last() {
    let mut memory = Memory::default();
    let held = |ip: u8| ("n", IpAddr::from([10, 0, 0, ip]));
    memory.set_elsewhere([held(2), held(3)]);
    let start = |memory: &Memory, subnet: &str| start(&lab(subnet, &[(1, None)]), memory);
    assert_eq!(address(&start(&memory, "10.0.0.0/29").unwrap(), "c1"), "10.0.0.4");
    // It was cut off, or gave them back: they rest while there are others.
    memory.set_elsewhere([held(3)]);
    assert_eq!(memory.left("n").collect::<Vec<_>>(), [IpAddr::from([10, 0, 0, 2])]);
    assert_eq!(address(&start(&memory, "10.0.0.0/29").unwrap(), "c1"), "10.0.0.4");
    assert_eq!(address(&start(&memory, "10.0.0.0/30").unwrap(), "c1"), "10.0.0.2");
    // It is back.
    memory.set_elsewhere([held(2), held(3)]);
    assert_eq!(memory.left("n").count(), 0);
    assert!(start(&memory, "10.0.0.0/30").is_err());
}

#[test]
fn what_rests_of_other_hosts_is_bounded() {
    let mut memory = Memory::default();
    for round in 0..20u8 {
        let all =
            (0..2000u16).map(|n| ("n", IpAddr::from([10, round, n.to_be_bytes()[0], n.to_be_bytes()[1]])));
        memory.set_elsewhere(all);
    }
    memory.set_elsewhere([]);
    assert!(memory.left("n").count() <= RESTING);
    // The latest are the ones that are kept.
    assert!(memory.left("n").any(|ip| ip == IpAddr::from([10, 19, 0, 0])));
}
