//! Networks of several hosts: what `[vxlan]`, its statics and `vni` come to, and what run time may do beside them.

use std::net::IpAddr;

use serde_json::json;
use vswitchd::config::{
    Config, ContainerSpec, Context, InterfaceOptions, MAX_PEERS, MAX_STATICS, Network, NetworkField,
    NetworkOptions, Problem, ProblemKind, StaticMac, UdpGso, Vxlan, diff, parse_with,
};
use vswitchd::engine::rehearse;

use super::{first_lines, parse, paths, valid};

const TUNNEL: &str = "[vxlan]\nlocal = \"198.18.1.1\"\n";
const BLUE: &str = "[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\nvni = 100\n";
const STATIC: &str =
    "[[vxlan.static]]\nvni = 100\nmac = \"02:42:0a:01:00:02\"\nvtep = \"198.18.1.2\"\nip = \"10.1.0.2\"\n";

fn mtu(config: &Config, name: &str) -> (u16, bool) {
    let network = config.network(name).unwrap();
    (network.mtu, network.mtu_named)
}

fn web() -> ContainerSpec {
    ContainerSpec { name: "web".into(), ..ContainerSpec::default() }
}

#[test]
fn a_tunnel_of_one_line_has_every_default() {
    let config = valid(TUNNEL);
    let local: IpAddr = [198, 18, 1, 1].into();
    assert_eq!(config.vxlan, Some(Vxlan::new(local)));
    let vxlan = config.vxlan.unwrap();
    assert_eq!((vxlan.port, vxlan.source_ports, vxlan.udp_gso), (4789, 8, UdpGso::Auto));
    assert_eq!((vxlan.strict, vxlan.learning, vxlan.mtu, vxlan.group), (false, true, None, None));
    assert_eq!(valid("").vxlan, None);
}

#[test]
fn what_the_file_says_of_a_tunnel_is_taken() {
    let text = "[vxlan]\nlocal = \"fd00:9::1\"\nport = 8472\npeers = [\"fd00:9::3\", \"fd00:9::2\"]\ngroup = \"ff05::100\"\n\
        udp_gso = \"off\"\nstrict = true\nlearning = false\nsource_ports = 64\nmtu = 9000\n\
        [[vxlan.static]]\nvni = 0xffffff\nmac = \"02:42:0A:01:00:14\"\nvtep = \"fd00:9::4\"\nip = \"fd00:1::20\"\n\
        [[network]]\nname = \"blue\"\nsubnet6 = \"fd00:1::/64\"\nvni = 16_777_215\ntransparent = true\nvlan = 7\n";
    let config = valid(text);
    let statics = vec![StaticMac {
        vni: 0xff_ffff,
        mac: "02:42:0a:01:00:14".parse().unwrap(),
        vtep: "fd00:9::4".parse().unwrap(),
        ip: Some("fd00:1::20".parse().unwrap()),
    }];
    let wanted = Vxlan {
        port: 8472,
        peers: vec!["fd00:9::3".parse().unwrap(), "fd00:9::2".parse().unwrap()],
        group: Some("ff05::100".parse().unwrap()),
        udp_gso: UdpGso::Off,
        strict: true,
        learning: false,
        source_ports: 64,
        mtu: Some(9000),
        statics,
        ..Vxlan::new("fd00:9::1".parse().unwrap())
    };
    assert_eq!(config.vxlan, Some(wanted));
    assert_eq!(config.network("blue").unwrap().vni, Some(0xff_ffff));
    let shown = serde_json::to_value(&config).unwrap();
    assert_eq!(shown["vxlan"]["static"][0]["mac"], "02:42:0a:01:00:14");
    assert_eq!((&shown["vxlan"]["udp_gso"], &shown["vxlan"]["local"]), (&"off".into(), &"fd00:9::1".into()));
    assert_eq!(shown["networks"][0]["vni"], 0xff_ffff);
}

#[test]
fn on_loopback_all_is_loopback() {
    let config = valid("[vxlan]\nlocal = \"127.0.0.1\"\npeers = [\"127.0.0.2\", \"127.0.0.3\"]\n");
    assert_eq!(config.vxlan.unwrap().peers.len(), 2);
}

#[test]
fn a_network_of_several_hosts_takes_what_the_underlay_leaves() {
    let six = TUNNEL.replace("198.18.1.1", "fd00:9::1");
    for (text, wanted) in [
        (format!("{TUNNEL}{BLUE}"), (1450, false)),
        (format!("{six}{BLUE}"), (1430, false)),
        (format!("{TUNNEL}mtu = 9000\n{BLUE}"), (8950, false)),
        (format!("{TUNNEL}mtu = 9000\n{BLUE}mtu = 1500\n"), (1500, true)),
        (format!("{TUNNEL}mtu = 9000\n{BLUE}mtu = 8950\n"), (8950, true)),
        // What the underlay takes is found out later.
        (format!("{TUNNEL}{BLUE}mtu = 8000\n"), (8000, true)),
        (format!("{TUNNEL}mtu = 576\n{BLUE}"), (526, false)),
        (format!("{TUNNEL}mtu = 1330\n{BLUE}subnet6 = \"fd00:1::/64\"\n"), (1280, false)),
        // Without `vni` nothing changes, and what is named is no more than a number.
        (BLUE.replace("vni = 100\n", ""), (1500, false)),
        (BLUE.replace("vni = 100", "mtu = 1500"), (1500, false)),
    ] {
        assert_eq!(mtu(&valid(&text), "blue"), wanted, "{text}");
    }
}

#[test]
fn an_underlay_that_is_known_fits_those_that_name_no_mtu() {
    let red = BLUE.replace("blue", "red").replace("100", "200");
    let green = "[[network]]\nname = \"green\"\n";
    let mut config = valid(&format!("{TUNNEL}{BLUE}{red}mtu = 1400\n{green}"));
    config.fit_underlay(9000);
    let all = ["blue", "red", "green"].map(|name| mtu(&config, name).0);
    assert_eq!(all, [8950, 1400, 1500]);
    config.fit_underlay(60);
    assert_eq!(mtu(&config, "blue").0, 68, "what IPv4 must have");
    let mut named = valid(&format!("{TUNNEL}mtu = 1500\n{BLUE}"));
    named.fit_underlay(9000);
    assert_eq!(mtu(&named, "blue").0, 1450, "the file knows better");
}

#[test]
fn a_container_here_is_given_nothing_that_one_elsewhere_has() {
    let text = format!(
        "{TUNNEL}{BLUE}[[container]]\nname = \"web\"\n[[container.interface]]\nnetwork = \"blue\"\n\
         [[container]]\nname = \"db\"\n[[container.interface]]\nnetwork = \"blue\"\nip = \"10.1.0.9\"\n{STATIC}\
         [[vxlan.static]]\nvni = 100\nmac = \"02:42:0a:01:00:09\"\nvtep = \"198.18.1.3\"\n"
    );
    let config = valid(&text);
    let has = |name: &str| {
        let interface = config.container(name).unwrap().interfaces.first().unwrap();
        (interface.ip.unwrap().to_string(), interface.mac.to_string())
    };
    assert_eq!(has("web"), ("10.1.0.3/24".into(), "02:42:0a:01:00:03".into()));
    // The MAC made from its address is taken elsewhere.
    assert_eq!(has("db").0, "10.1.0.9/24");
    assert!(has("db").1.starts_with("06:"), "{:?}", has("db"));
    // Whoever had the address has to move when it is said to be elsewhere.
    let before = valid(&format!(
        "{TUNNEL}{BLUE}[[container]]\nname = \"web\"\n[[container.interface]]\nnetwork = \"blue\"\n"
    ));
    assert_eq!(before.container("web").unwrap().interfaces.first().unwrap().ip, "10.1.0.2/24".parse().ok());
    let context = Context { paths: paths(), previous: Some(&before), memory: None };
    assert_eq!(parse_with("lab.toml", text.as_bytes(), &context).as_ref(), Ok(&config));
}

#[test]
fn two_networks_have_each_their_own_statics() {
    let red = BLUE.replace("blue", "red").replace("100", "200");
    let there = STATIC.replace("100", "200");
    let config = valid(&format!("{TUNNEL}{BLUE}{red}{STATIC}{there}"));
    let vnis: Vec<u32> = config.vxlan.unwrap().statics.iter().map(|entry| entry.vni).collect();
    assert_eq!(vnis, [100, 200]);
}

#[test]
fn there_are_limits_of_peers_and_statics() {
    let peers = |count: usize| {
        let all: Vec<_> = (0..count).map(|n| format!("\"198.19.{}.{}\"", n / 256, n % 256)).collect();
        format!("{TUNNEL}peers = [{}]\n", all.join(", "))
    };
    assert_eq!(valid(&peers(MAX_PEERS)).vxlan.unwrap().peers.len(), MAX_PEERS);
    let lines = first_lines(&peers(MAX_PEERS + 5));
    let said = "error: more than 1024 peers: one daemon serves at most 1024";
    assert!(lines.len() == 1 && lines.concat().ends_with(said), "{lines:?}");
    // As short as they can be written: a file has a megabyte.
    let statics = |count: usize| {
        let mac = |n: usize| format!("02:00:00:00:{:02x}:{:02x}", n / 256, n % 256);
        let one = |n: usize| format!("{{vni=1,mac=\"{}\",vtep=\"1.1.1.1\"}},", mac(n));
        let all: String = (0..count).map(one).collect();
        format!("[vxlan]\nlocal = \"1.1.1.2\"\nstatic = [{all}]\n[[network]]\nname = \"n\"\nvni = 1\n")
    };
    assert_eq!(parse(&statics(MAX_STATICS)).unwrap().vxlan.unwrap().statics.len(), MAX_STATICS);
    let lines = first_lines(&statics(MAX_STATICS + 5));
    let said = "error: more than 16384 static MACs: one daemon serves at most 16384";
    assert!(lines.len() == 1 && lines.concat().ends_with(said), "{lines:?}");
}

fn asked(vni: i64, mtu: Option<i64>) -> NetworkOptions {
    NetworkOptions { subnet: Some("10.9.0.0/24".into()), vni: Some(vni), mtu, ..NetworkOptions::default() }
}

fn made(vni: i64, mtu: Option<i64>) -> Network {
    Network::new_checked("green", &asked(vni, mtu)).unwrap()
}

#[test]
fn a_network_made_at_run_time_is_on_other_hosts_where_the_file_reaches_them() {
    let file = format!("{TUNNEL}mtu = 1500\n{BLUE}");
    for (mtu, line) in [(None, ""), (Some(1400), "mtu = 1400\n")] {
        let mut config = valid(&file);
        config.add_network(made(200, mtu)).unwrap();
        let text =
            format!("{file}[[network]]\nname = \"green\"\nsubnet = \"10.9.0.0/24\"\nvni = 200\n{line}");
        assert_eq!(config, valid(&text));
    }
    for (text, network, kind, said) in [
        ("", made(200, None), ProblemKind::Invalid, "`vni` = 200: no other host is reached without [vxlan]"),
        (
            &file,
            made(100, None),
            ProblemKind::Conflict,
            "`vni` = 100 is that of network `blue`: frames of both would be in one, take another",
        ),
        (&file, made(200, Some(1451)), ProblemKind::Invalid, "`mtu` = 1451: it does not fit"),
    ] {
        let mut config = valid(text);
        let before = config.clone();
        let problem = config.add_network(network).unwrap_err();
        assert_eq!(problem.kind(), kind);
        assert!(problem.to_string().starts_with(said), "{problem}");
        assert_eq!(config, before);
    }
    for vni in [0, -1, 1 << 24, i64::MAX] {
        let problems = Network::new_checked("green", &asked(vni, None)).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(matches!(problems.first(), Some(Problem::Invalid { key: "vni", .. })), "{problems:?}");
    }
}

#[test]
fn a_connection_at_run_time_takes_nothing_that_is_elsewhere() {
    let mut config =
        valid(&format!("{TUNNEL}{BLUE}{STATIC}[[network]]\nname = \"red\"\nsubnet = \"10.1.0.0/24\"\n"));
    let ask = |ip: Option<&str>, mac: Option<&str>| InterfaceOptions {
        ip: ip.map(Into::into),
        mac: mac.map(Into::into),
        ..InterfaceOptions::default()
    };
    let before = config.clone();
    for (options, said) in [
        (
            ask(Some("10.1.0.2"), None),
            "`ip` = \"10.1.0.2\" is taken in network `blue` by [[vxlan.static]] of 198.18.1.2",
        ),
        (
            ask(None, Some("02:42:0a:01:00:02")),
            "`mac` = \"02:42:0a:01:00:02\" is taken in network `blue` by [[vxlan.static]] of 198.18.1.2",
        ),
    ] {
        let problem = config.connect("blue", &web(), &options).unwrap_err();
        assert_eq!((problem.to_string().as_str(), problem.kind()), (said, ProblemKind::Conflict));
        assert_eq!(config, before);
    }
    let made = config.connect("blue", &web(), &ask(None, None)).unwrap();
    assert_eq!(
        (made.ip.unwrap().to_string(), made.mac.to_string()),
        ("10.1.0.3/24".into(), "02:42:0a:01:00:03".into())
    );
    let db = ContainerSpec { name: "db".into(), ..ContainerSpec::default() };
    let same = config.connect("red", &db, &ask(Some("10.1.0.2"), Some("02:42:0a:01:00:02")));
    assert!(same.is_ok(), "that is another network");
}

#[test]
fn a_difference_names_what_is_new_of_an_overlay() {
    let old = valid(&format!("{TUNNEL}{BLUE}"));
    assert!(diff(&old, &old).is_empty());
    for text in [
        format!("{TUNNEL}peers = [\"198.18.1.2\"]\n{BLUE}"),
        format!("{TUNNEL}{BLUE}{STATIC}"),
        format!("{TUNNEL}port = 8472\n{BLUE}"),
    ] {
        let change = diff(&old, &valid(&text));
        assert!(change.vxlan && change.networks_changed.is_empty(), "{change:?}");
    }
    let fields = |new: &Config| diff(&old, new).networks_changed.first().unwrap().fields.clone();
    let other = valid(&format!("{TUNNEL}{}", BLUE.replace("100", "101")));
    assert_eq!(fields(&other), [NetworkField::Vni]);
    let here = valid(&BLUE.replace("vni = 100\n", ""));
    assert_eq!(fields(&here), [NetworkField::Vni, NetworkField::Mtu]);
    assert!(diff(&old, &here).vxlan);
}

#[test]
fn what_was_made_at_run_time_is_left_out_where_the_file_takes_its_ground() {
    let folder = std::env::temp_dir().join(format!("vswitch-overlay-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let kept = json!({
        "version": 1,
        "networks": [{ "name": "green", "subnet": "10.9.0.0/24", "vni": 200 }],
        "interfaces": [{ "network": "blue", "interface": { "container": "web", "ip": "10.1.0.2" } }],
        "fdb": [],
        "published": [],
    });
    std::fs::write(folder.join("objects.json"), kept.to_string()).unwrap();
    let said = |text: &str| rehearse(&folder, text.as_bytes()).unwrap();
    let fine = said(&format!("{TUNNEL}{BLUE}"));
    assert_eq!(fine.left_out, Vec::<String>::new());
    assert_eq!(mtu(&fine.config, "green"), (1450, false));
    let here = said(&BLUE.replace("vni = 100\n", ""));
    assert!(
        matches!(&here.left_out[..], [one] if one.starts_with("network green: `vni` = 200: no other host"))
    );
    assert!(here.config.network("green").is_none() && here.config.container("web").is_some());
    let taken =
        said(&format!("{TUNNEL}{}{STATIC}", BLUE.replace("100", "200")).replace("vni = 100", "vni = 200"));
    let [network, container] = &taken.left_out[..] else { panic!("{:?}", taken.left_out) };
    assert!(network.starts_with("network green: `vni` = 200 is that of network `blue`"), "{network}");
    assert!(container.starts_with("container web: `ip` = \"10.1.0.2\" is taken"), "{container}");
    std::fs::remove_dir_all(&folder).unwrap();
}
