//! What right files mean: defaults, names, addresses, routes; and that it can be shown as JSON.

use std::path::Path;

use serde_json::{Value, json};
use vswitchd::config::{
    Config, Gateway, GatewayBy, Io, NetnsRef, Network, Route, RoutesTo, Spoof, Workers, parse as parse_fresh,
};

use super::{paths, valid};

const BLUE: &str = "[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\n";

/// `[[container]]` sections with interfaces on `blue`, each line of TOML as given.
fn containers(list: &[(&str, &[&str])]) -> String {
    let mut text = BLUE.to_owned();
    for (name, interfaces) in list {
        text.push_str(&format!("[[container]]\nname = \"{name}\"\n"));
        for lines in *interfaces {
            text.push_str(&format!("[[container.interface]]\nnetwork = \"blue\"\n{lines}\n"));
        }
    }
    text
}

/// Every interface as `container/name address`.
fn addresses(text: &str) -> Vec<String> {
    let row = |ip: Option<ipnet::Ipv4Net>| ip.map_or_else(|| "-".to_owned(), |ip| ip.to_string());
    valid(text).interfaces().map(|(c, i)| format!("{}/{} {}", c.name, i.name, row(i.ip))).collect()
}

#[test]
fn an_empty_file_is_a_daemon_with_its_defaults() {
    let config = valid("");
    assert_eq!(config.daemon.control, paths().control);
    assert_eq!(config.daemon.state, paths().state);
    assert_eq!((config.daemon.workers, config.daemon.io), (Workers::Auto, Io::Auto));
    assert!(config.networks.is_empty() && config.containers.is_empty());
}

#[test]
fn a_network_of_one_line_has_every_default() {
    let config = valid("[[network]]\nname = \"blue\"\n");
    let network = config.network("blue").unwrap();
    assert_eq!((network.subnet, network.gateway, network.mtu), (None, None, 1500));
    assert_eq!((network.icc, network.ageing, network.fdb_limit), (true, 300, 8192));
    assert_eq!((network.spoof, network.storm), (Spoof::Claimed, 10_000));
    assert_eq!((network.gateway_mac, network.internal), (None, false));
    assert_eq!(network.routes_to, RoutesTo::Some(Vec::new()));
    assert_eq!((network.reserved_address(), network.reserved_macs().count()), (None, 0));
    assert_eq!(config.gateway_of(network), None);
}

#[test]
fn engines_are_chosen_by_name() {
    for (word, io) in [("auto", Io::Auto), ("uring", Io::Uring), ("epoll", Io::Epoll)] {
        assert_eq!(valid(&format!("[daemon]\nio = \"{word}\"\n")).daemon.io, io);
    }
}

#[test]
fn what_the_file_says_is_taken() {
    let config = valid(
        "[daemon]\ncontrol = \"/run/lab/c.sock\"\nstate = \"/var/lib/lab\"\nworkers = 1\nio = \"epoll\"\n\
         [uplink]\nkind = \"none\"\n\
         [[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\nmtu = 9000\nicc = false\nageing = 10\n\
         fdb_limit = 65_536\nspoof = \"strict\"\nstorm = 0\nnat = false\ninternal = true\n\
         [[container]]\nname = \"web\"\nnetns = \"docker:web\"\ncommand = [\"sleep\", \"9\"]\n\
         [[container.interface]]\nnetwork = \"blue\"\nname = \"lan\"\nip = \"10.1.0.9\"\nmac = \"00:16:3E:00:00:01\"\n",
    );
    assert_eq!(config.daemon.control, Path::new("/run/lab/c.sock"));
    assert_eq!(config.daemon.state, Path::new("/var/lib/lab"));
    assert_eq!((config.daemon.workers, config.daemon.io), (Workers::Count(1), Io::Epoll));
    let network = config.network("blue").unwrap();
    assert_eq!((network.mtu, network.icc, network.ageing), (9000, false, 10));
    assert_eq!((network.fdb_limit, network.spoof, network.storm), (65_536, Spoof::Strict, 0));
    let container = config.container("web").unwrap();
    assert_eq!((&container.netns, container.create), (&NetnsRef::Docker("web".into()), false));
    assert_eq!(container.command, ["sleep", "9"]);
    let lan = container.interfaces.first().unwrap();
    assert_eq!((lan.name.as_str(), lan.mac.to_string().as_str()), ("lan", "00:16:3e:00:00:01"));
    assert_eq!((lan.ip.unwrap().to_string().as_str(), lan.default_via), ("10.1.0.9/24", None));
}

#[test]
fn addresses_go_to_who_asked_and_then_in_the_order_of_the_file() {
    let text = containers(&[
        ("a", &[""]),
        ("b", &["ip = \"10.1.0.2\""]),
        ("c", &["", "ip = \"10.1.0.4\""]),
        ("d", &[""]),
    ]);
    assert_eq!(
        addresses(&text),
        [
            "a/eth0 10.1.0.3/24",
            "b/eth0 10.1.0.2/24",
            "c/eth0 10.1.0.5/24",
            "c/eth1 10.1.0.4/24",
            "d/eth0 10.1.0.6/24"
        ]
    );
}

#[test]
fn the_smallest_subnets() {
    let two = BLUE.replace("/24", "/31");
    let all = containers(&[("a", &[""]), ("b", &[""])]).replace(BLUE, &two);
    assert_eq!(addresses(&all), ["a/eth0 10.1.0.0/31", "b/eth0 10.1.0.1/31"]);
    let four = BLUE.replace("/24", "/30");
    let one = containers(&[("a", &[""])]).replace(BLUE, &four);
    assert_eq!(addresses(&one), ["a/eth0 10.1.0.2/30"]);
}

#[test]
fn names_left_out_are_the_lowest_free_ones() {
    let text = containers(&[("a", &["", "name = \"eth0\"", "", "name = \"eth2\"", ""])]);
    let names: Vec<_> = valid(&text).interfaces().map(|(_, i)| i.name.clone()).collect();
    assert_eq!(names, ["eth1", "eth0", "eth3", "eth2", "eth4"]);
    let shared = containers(&[("a", &[""]), ("b", &["", ""])])
        .replace("name = \"b\"\n", "name = \"b\"\nnetns = \"/run/netns/a\"\n");
    let names: Vec<_> = valid(&shared).interfaces().map(|(c, i)| format!("{}/{}", c.name, i.name)).collect();
    assert_eq!(names, ["a/eth0", "b/eth1", "b/eth2"]);
}

#[test]
fn a_mac_is_made_from_the_address_or_from_the_names() {
    let macs = |text: &str| valid(text).interfaces().map(|(_, i)| i.mac.to_string()).collect::<Vec<_>>();
    assert_eq!(macs(&containers(&[("a", &[""])])), ["02:42:0a:01:00:02"]);
    // Someone else asked for the one it would have had.
    let taken = macs(&containers(&[("a", &[""]), ("b", &["mac = \"02:42:0a:01:00:02\""])]));
    assert!(taken.first().unwrap().starts_with("06:"), "{taken:?}");
    // Layer 2 only: the same today and tomorrow, which makes these bytes part of the contract.
    let l2 = containers(&[("a", &["", ""]), ("b", &[""])]).replace("subnet = \"10.1.0.0/24\"\n", "");
    assert_eq!(macs(&l2), ["06:7c:35:45:25:34", "06:17:1e:de:fa:b7", "06:55:d5:69:02:29"]);
    assert!(addresses(&l2).iter().all(|row| row.ends_with(" -")));
}

#[test]
fn default_routes_go_by_the_container_that_is_the_gateway() {
    let text = "[[network]]\nname = \"l2\"\n\
        [[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\ngateway = \"10.1.0.254\"\n\
        [[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\ngateway = \"10.2.0.1\"\n\
        [[container]]\nname = \"r\"\n\
        [[container.interface]]\nnetwork = \"blue\"\nip = \"10.1.0.254\"\n\
        [[container.interface]]\nnetwork = \"red\"\nip = \"10.2.0.1\"\n\
        [[container]]\nname = \"a\"\n\
        [[container.interface]]\nnetwork = \"l2\"\n\
        [[container.interface]]\nnetwork = \"red\"\n\
        [[container.interface]]\nnetwork = \"blue\"\n";
    let config = valid(text);
    let routes: Vec<_> = config
        .interfaces()
        .map(|(c, i)| {
            format!("{} {} {}", c.name, i.name, i.default_via.map_or("-".into(), |via| via.to_string()))
        })
        .collect();
    assert_eq!(routes, ["r eth0 -", "r eth1 -", "a eth0 -", "a eth1 10.2.0.1", "a eth2 -"]);
    // With a gateway of its own, the subnet's first address is like any other.
    assert_eq!(config.interfaces().last().unwrap().1.ip.unwrap().to_string(), "10.1.0.1/24");
}

fn network<'c>(config: &'c Config, name: &str) -> &'c Network {
    config.network(name).unwrap()
}

#[test]
fn a_gateway_is_ours_unless_a_container_has_its_address() {
    let text = "[[network]]\nname = \"first\"\nsubnet = \"10.1.0.0/24\"\n\
        [[network]]\nname = \"named\"\nsubnet = \"10.2.0.0/24\"\ngateway = \"10.2.0.9\"\n\
        [[network]]\nname = \"mac\"\nsubnet = \"10.3.0.0/24\"\ngateway_mac = \"02:00:00:00:00:01\"\n\
        [[network]]\nname = \"theirs\"\nsubnet = \"10.4.0.0/24\"\ngateway = \"10.4.0.9\"\n\
        [[network]]\nname = \"two\"\nsubnet = \"10.5.0.0/31\"\n\
        [[network]]\nname = \"one of two\"\nsubnet = \"10.6.0.0/31\"\ngateway = \"10.6.0.1\"\n\
        [[container]]\nname = \"r\"\n[[container.interface]]\nnetwork = \"theirs\"\nip = \"10.4.0.9\"\n"
        .replace("one of two", "one");
    let config = valid(&text);
    let gateway = |name: &str| config.gateway_of(network(&config, name));
    let ours = |address: &str, mac: &str| {
        Some(Gateway { address: address.parse().unwrap(), by: GatewayBy::Us(mac.parse().unwrap()) })
    };
    assert_eq!(gateway("first"), ours("10.1.0.1", "02:42:0a:01:00:01"));
    assert_eq!(gateway("named"), ours("10.2.0.9", "02:42:0a:02:00:09"));
    assert_eq!(gateway("mac"), ours("10.3.0.1", "02:00:00:00:00:01"));
    let theirs = Gateway { address: "10.4.0.9".parse().unwrap(), by: GatewayBy::Container };
    assert_eq!(gateway("theirs"), Some(theirs));
    assert_eq!((gateway("two"), gateway("one")), (None, ours("10.6.0.1", "02:42:0a:06:00:01")));
    // The router has the MAC that ours would have.
    assert_eq!(config.interfaces().next().unwrap().1.mac.to_string(), "02:42:0a:04:00:09");
}

#[test]
fn a_network_has_ipv6_beside_ipv4_or_instead() {
    let text = "[[network]]\nname = \"both\"\nsubnet = \"10.1.0.0/24\"\nsubnet6 = \"fd00:1::/64\"\n\
        [[network]]\nname = \"six\"\nsubnet6 = \"fd00:2::/64\"\ngateway6 = \"fd00:2::ff\"\n\
        [[network]]\nname = \"two\"\nsubnet6 = \"fd00:3::/127\"\n\
        [[network]]\nname = \"theirs\"\nsubnet = \"10.4.0.0/24\"\nsubnet6 = \"fd00:4::/64\"\ngateway = \"10.4.0.9\"\n\
        [[route]]\nnetwork = \"six\"\ndestination = \"::/0\"\nvia = \"fd00:2::20\"\n\
        [[container]]\nname = \"a\"\n[[container.interface]]\nnetwork = \"two\"\n\
        [[container.interface]]\nnetwork = \"six\"\n[[container.interface]]\nnetwork = \"both\"\nip6 = \"fd00:1::3\"\n\
        [[container]]\nname = \"b\"\n[[container.interface]]\nnetwork = \"both\"\n\
        [[container.interface]]\nnetwork = \"theirs\"\nip = \"10.4.0.9\"\n";
    let config = valid(text);
    let shown = |address: Option<String>| address.unwrap_or_else(|| "-".into());
    let rows: Vec<_> = config
        .interfaces()
        .map(|(c, i)| {
            let ips = [i.ip.map(|ip| ip.to_string()), i.ip6.map(|ip| ip.to_string())].map(shown).join(" ");
            let via: Vec<_> = i.default_routes().map(|via| via.to_string()).collect();
            format!("{} {} {ips} {} via {}", c.name, i.name, i.mac, via.join(" "))
        })
        .collect();
    let expected = [
        // Both of a /127 are hosts; the default route of each family goes by the first interface that has one.
        "a eth0 - fd00:3::/127 02:42:00:00:00:00 via ",
        "a eth1 - fd00:2::1/64 02:42:00:00:00:01 via fd00:2::ff",
        "a eth2 10.1.0.2/24 fd00:1::3/64 02:42:0a:01:00:02 via 10.1.0.1",
        "b eth0 10.1.0.3/24 fd00:1::2/64 02:42:0a:01:00:03 via 10.1.0.1 fd00:1::1",
        "b eth1 10.4.0.9/24 fd00:4::2/64 02:42:0a:04:00:09 via ",
    ];
    assert_eq!(rows, expected);
    let gateway6 = |name: &str| config.gateway6_of(network(&config, name));
    let ours = |address: &str, mac: &str| {
        Some(Gateway { address: address.parse().unwrap(), by: GatewayBy::Us(mac.parse().unwrap()) })
    };
    // One gateway, one MAC; where the router for IPv4 is a container, ours for IPv6 has one of its own.
    assert_eq!(gateway6("both"), ours("fd00:1::1", "02:42:0a:01:00:01"));
    assert_eq!(gateway6("six"), ours("fd00:2::ff", "02:42:00:00:00:ff"));
    assert_eq!(gateway6("two"), None);
    assert_eq!(gateway6("theirs"), ours("fd00:4::1", "02:42:00:00:00:01"));
    let theirs = config.gateway_of(network(&config, "theirs")).unwrap();
    assert_eq!(theirs.by, GatewayBy::Container);
}

#[test]
fn default_routes_go_by_our_gateways_but_not_by_internal_networks() {
    let text = "[[network]]\nname = \"vault\"\nsubnet = \"10.3.0.0/24\"\ninternal = true\n\
        [[network]]\nname = \"two\"\nsubnet = \"10.4.0.0/31\"\n"
        .to_owned()
        + &containers(&[
            ("a", &["network = \"vault\"", "network = \"two\"", "", ""]),
            ("b", &["network = \"vault\""]),
        ])
        .replace("network = \"blue\"\nnetwork", "network");
    let rows: Vec<_> = valid(&text)
        .interfaces()
        .map(|(c, i)| {
            format!("{} {} {}", c.name, i.name, i.default_via.map_or("-".into(), |via| via.to_string()))
        })
        .collect();
    assert_eq!(rows, ["a eth0 -", "a eth1 -", "a eth2 10.1.0.1", "a eth3 -", "b eth0 -"]);
}

#[test]
fn networks_that_reach_each_other_are_one_zone() {
    let mut text = String::new();
    for (name, lines) in [
        ("a", "routes_to = [\"c\"]"),
        ("b", "routes_to = [\"e\"]"),
        ("c", ""),
        ("d", "routes_to = [\"c\", \"a\"]"),
        ("e", ""),
        ("f", "internal = true"),
    ] {
        let place = text.matches("name").count();
        text.push_str(&format!("[[network]]\nname = \"{name}\"\nsubnet = \"10.{place}.0.0/24\"\n{lines}\n"));
    }
    let names = |networks: &[&Network]| networks.iter().map(|n| n.name.as_str()).collect::<String>();
    let config = valid(&text);
    let zones: Vec<_> = config.zones().iter().map(|zone| names(zone)).collect();
    assert_eq!(zones, ["acd", "be", "f"]);
    let indices = config.zone_indices();
    assert_eq!(["a", "b", "c", "d", "e", "f"].map(|name| indices[name]), [0, 1, 0, 0, 1, 5]);
    let reached =
        |config: &Config, name| names(&config.destinations(network(config, name)).collect::<Vec<_>>());
    assert_eq!((reached(&config, "d"), reached(&config, "c")), ("ac".into(), String::new()));
    assert_eq!(network(&config, "d").routes_to, RoutesTo::Some(vec!["a".into(), "c".into()]));
    // "all" joins every network that is not internal and has a gateway.
    let all = text.replace("routes_to = [\"e\"]", "routes_to = \"all\"") + "[[network]]\nname = \"l2\"\n";
    let config = valid(&all);
    let zones: Vec<_> = config.zones().iter().map(|zone| names(zone)).collect();
    assert_eq!(zones, ["abcde", "f", "l2"]);
    assert_eq!(reached(&config, "b"), "acde");
    let shown = serde_json::to_value(&config).unwrap();
    assert_eq!(
        (&shown["networks"][1]["routes_to"], &shown["networks"][3]["routes_to"]),
        (&json!("all"), &json!(["a", "c"]))
    );
}

#[test]
fn routes_are_kept_as_written() {
    let text = BLUE.to_owned()
        + "[[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\n\
        [[route]]\nnetwork = \"blue\"\ndestination = \"10.2.0.0/24\"\nvia = \"10.1.0.20\"\n\
        [[route]]\nnetwork = \"red\"\ndestination = \"0.0.0.0/0\"\nvia = \"10.2.0.20\"\n\
        [[route]]\nnetwork = \"blue\"\ndestination = \"0.0.0.0/0\"\nvia = \"10.1.0.20\"\n";
    // Networks that are not connected know nothing of each other: not the subnet, not the other's route.
    let route = |network: &str, destination: &str, via: &str| Route {
        network: network.into(),
        destination: destination.parse().unwrap(),
        via: vec![via.parse().unwrap()],
        mtu: None,
    };
    let config = valid(&text);
    let routes = [
        route("blue", "10.2.0.0/24", "10.1.0.20"),
        route("red", "0.0.0.0/0", "10.2.0.20"),
        route("blue", "0.0.0.0/0", "10.1.0.20"),
    ];
    assert_eq!(config.routes, routes);
    let shown = serde_json::to_value(&config).unwrap();
    assert_eq!(
        shown["routes"][0],
        json!({ "network": "blue", "destination": "10.2.0.0/24", "via": "10.1.0.20" })
    );
}

#[test]
fn subnets_may_overlap_where_nobody_is_on_both() {
    let text = "[[network]]\nname = \"a\"\nsubnet = \"10.0.0.0/8\"\n[[network]]\nname = \"b\"\nsubnet = \"10.0.0.0/8\"\n\
        [[container]]\nname = \"x\"\n[[container.interface]]\nnetwork = \"a\"\n[[container.interface]]\nnetwork = \"a\"\n\
        [[container]]\nname = \"y\"\n[[container.interface]]\nnetwork = \"b\"\n";
    assert_eq!(addresses(text), ["x/eth0 10.0.0.2/8", "x/eth1 10.0.0.3/8", "y/eth0 10.0.0.2/8"]);
}

#[test]
fn other_ways_to_write_the_same() {
    let plain = valid(&containers(&[("a", &["ip = \"10.1.0.9\""])]));
    let dense = "\u{feff}network = [{ name = \"blue\", subnet = '10.1.0.0/24' }]\r\n\
        container = [{ name = \"a\", interface = [{ network = \"blue\", ip = \"10.1.0.9\" }] }]\r\n";
    assert_eq!(valid(dense), plain);
}

#[test]
fn every_lab_is_valid() {
    let labs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../labs");
    let mut count = 0;
    for entry in std::fs::read_dir(labs).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|it| it != "toml") {
            continue; // a lab of several hosts writes its files itself
        }
        let text = vswitchd::config::read(&path).unwrap();
        let config =
            parse_fresh(&path.display().to_string(), &text).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(config.containers.iter().all(|container| container.create), "{}", path.display());
        assert!(!config.containers.is_empty() && !config.networks.is_empty(), "{}", path.display());
        count += 1;
    }
    assert!(count >= 7, "{count} labs");
}

#[test]
fn shown_as_json_with_texts_as_users_write_them() {
    let text =
        containers(&[("a", &[""])]) + "[[network]]\nname = \"l2\"\nspoof = \"off\"\n[daemon]\nworkers = 1\n";
    let network = |name: &str, subnet: Value, spoof: &str| {
        json!({ "name": name, "subnet": subnet, "subnet6": null, "gateway": null, "gateway6": null, "gateway_mac": null, "host_address": null, "transparent": false, "snooping": false, "mtu": 1500,
                "nat": true, "nat6": true, "icc": true, "internal": false, "routes_to": [], "dhcp": false, "ageing": 300,
                "fdb_limit": 8192, "spoof": spoof, "storm": 10000 })
    };
    assert_eq!(
        serde_json::to_value(valid(&text)).unwrap(),
        json!({
            "daemon": { "control": "/test/control.sock", "state": "/test/state", "workers": 1, "io": "auto",
                        "uplink": "sockets", "host_loopback": false,
                        "icmp_errors": { "all": 1000, "per_container": 100 } },
            "networks": [network("blue", json!("10.1.0.0/24"), "claimed"), network("l2", Value::Null, "off")],
            "containers": [{
                "name": "a", "netns": "a", "create": false, "command": [], "egress": [],
                "interfaces": [{ "network": "blue", "name": "eth0", "ip": "10.1.0.2/24", "ip6": null, "dhcp": false,
                                 "mac": "02:42:0a:01:00:02", "isolated": false, "default_via": "10.1.0.1",
                                 "default_via6": null, "publish": [] }],
            }],
            "routes": [],
        })
    );
}

#[test]
fn vlans_of_interfaces_and_gateways() {
    let text = containers(&[
        ("a", &["vlan = 10"]),
        ("t", &["trunk = [20, 10, 4094]\nisolated = true"]),
        ("n", &["vlan = 1\ntrunk = [2]"]),
        ("all", &[""]),
    ]);
    let text = text
        .replace("name = \"blue\"\n", "name = \"blue\"\nvlan = 10\ntransparent = true\nsnooping = true\n");
    let config = valid(&text.replace("subnet = ", "host_address = \"10.1.0.9\"\nsubnet = "));
    let network = config.network("blue").unwrap();
    assert_eq!((network.vlan, network.transparent, network.snooping), (Some(10), true, true));
    let said: Vec<_> = config.interfaces().map(|(_, i)| (i.vlan, i.trunk.as_slice(), i.isolated)).collect();
    let expected: [(Option<u16>, &[u16], bool); 4] =
        [(Some(10), &[], false), (None, &[10, 20, 4094], true), (Some(1), &[2], false), (None, &[], false)];
    assert_eq!(said, expected);
    let leg = &config.host().unwrap().interfaces[0];
    assert_eq!((leg.vlan, leg.trunk.len()), (Some(10), 0), "the host is where the gateway is");
    let shown = serde_json::to_value(&config).unwrap();
    assert_eq!(shown["containers"][1]["interfaces"][0]["trunk"], json!([10, 20, 4094]));
    assert_eq!(shown["networks"][0]["vlan"], 10);
}

#[test]
fn a_host_address_is_a_leg_that_keeps_its_addresses() {
    let config = valid(
        "[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/29\"\nhost_address = \"10.1.0.2\"\n\
         [[network]]\nname = \"l2\"\n\
         [[container]]\nname = \"a\"\n[[container.interface]]\nnetwork = \"blue\"\n",
    );
    let a = config.container("a").unwrap();
    assert_eq!(a.interfaces[0].ip.unwrap().to_string(), "10.1.0.3/29", "the first that is nobody's");
    let host = config.host().unwrap();
    let [leg] = &host.interfaces[..] else { panic!("{host:?}") };
    let leg = (leg.network.as_str(), leg.name.as_str(), leg.ip.unwrap().to_string(), leg.mac.to_string());
    assert_eq!(leg, ("blue", "vsw-blue", "10.1.0.2/29".into(), "02:42:0a:01:00:02".into()));
    assert_eq!((host.netns, config.containers.len()), (NetnsRef::Host, 1), "and no container");
    assert_eq!(valid("").host(), None);
}

#[test]
fn published_ports_are_understood() {
    let text = "[uplink]\nkind = \"sockets\"\n[[network]]\nname = \"n\"\nsubnet = \"10.0.0.0/24\"\n\
        [[container]]\nname = \"c\"\n[[container.interface]]\nnetwork = \"n\"\n";
    let entries = [
        ("8080:80", "8080:80/tcp"),
        ("127.0.0.1:5353:53/udp", "127.0.0.1:5353:53/udp"),
        ("9000-9010:9100-9110", "9000-9010:9100-9110/tcp"),
        ("0:80", "0:80/tcp"),
        ("[::1]:8080:80/udp", "[::1]:8080:80/udp"),
        ("[::]:7000:1", "[::]:7000:1/tcp"),
        ("0.0.0.0:7000:1", "0.0.0.0:7000:1/tcp"),
        ("65535-65535:65535", "65535:65535/tcp"),
    ];
    let written: Vec<_> = entries.iter().map(|(written, _)| format!("\"{written}\"")).collect();
    let config = valid(&format!("{text}publish = [{}]\n", written.join(", ")));
    let published = &config.containers[0].interfaces[0].publish;
    let said: Vec<_> = published.iter().map(ToString::to_string).collect();
    assert_eq!(said, entries.map(|(_, said)| said));
    // What is said is understood again, and is the same.
    for publish in published {
        assert_eq!(&publish.to_string().parse::<vswitchd::config::Publish>().unwrap(), publish);
    }
}

#[test]
fn publishing_at_run_time_passes_the_same_checks() {
    let text = "[uplink]\nkind = \"sockets\"\n[[network]]\nname = \"l2\"\n[[network]]\nname = \"n\"\nsubnet = \"10.0.0.0/24\"\n\
        [[container]]\nname = \"c\"\n[[container.interface]]\nnetwork = \"l2\"\n[[container.interface]]\nnetwork = \"n\"\n\
        publish = [\"8080:80\"]\n[[container]]\nname = \"bare\"\n";
    let mut config = valid(text);
    let entry = |text: &str| text.parse().unwrap();
    assert_eq!(config.publish("c", None, &entry("9090:80")).unwrap(), "eth1", "the one that can");
    let refused = [
        ("c", None, "8080:81", "collides with \"8080:80/tcp\" of `eth1` of container `c`"),
        ("c", Some("eth0"), "1:1", "needs a subnet"),
        ("c", Some("eth7"), "1:1", "has no interface `eth7` to publish on"),
        ("bare", None, "1:1", "has no interface to publish on"),
        ("d", None, "1:1", "there is no container `d`"),
    ];
    for (container, interface, text, said) in refused {
        let problem = config.publish(container, interface, &entry(text)).unwrap_err().to_string();
        assert!(problem.contains(said), "{problem}");
    }
    let before = config.clone();
    assert_eq!(config.unpublish("c", None, &entry("9090:80/tcp")).unwrap(), "eth1");
    let problem = config.unpublish("c", None, &entry("9090:80")).unwrap_err().to_string();
    assert_eq!(problem, "container `c` has no `publish` = \"9090:80/tcp\"");
    let fields = &vswitchd::config::diff(&before, &config).interfaces_changed[0].fields;
    assert_eq!(fields.iter().map(ToString::to_string).collect::<Vec<_>>(), ["publish"]);
}

#[test]
fn egress_is_shown_as_it_is_written() {
    let rules = "\"deny 10.9.0.0/16\", \"allow 10.0.0.0/8 tcp/443\", \"allow udp/53\", \"allow fd00::/8 tcp/8000-8100\", \
                 \"allow 192.0.2.7 udp\", \"allow icmp\", \"allow  tcp\", \"deny all\"";
    let config = valid(&format!("[[container]]\nname = \"a\"\negress = [{rules}]\n"));
    let container = config.container("a").unwrap();
    let said: Vec<String> = container.egress.iter().map(ToString::to_string).collect();
    let expected = [
        "deny 10.9.0.0/16",
        "allow 10.0.0.0/8 tcp/443",
        "allow udp/53",
        "allow fd00::/8 tcp/8000-8100",
        "allow 192.0.2.7/32 udp",
        "allow icmp",
        "allow tcp",
        "deny all",
    ];
    assert_eq!(said, expected);
    assert_eq!(serde_json::to_value(&container.egress).unwrap(), json!(expected));
    // What is shown says the same when it is read.
    let again = expected.map(|rule| format!("\"{rule}\"")).join(", ");
    let again = valid(&format!("[[container]]\nname = \"a\"\negress = [{again}]\n"));
    assert_eq!(again, config);
}
