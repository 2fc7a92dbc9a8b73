//! Objects made at run time, and what a reload changes.

use vswitchd::config::{
    Config, ConfigErrors, ContainerField, ContainerSpec, Context, DaemonField, GatewayBy, InterfaceField,
    InterfaceKey, InterfaceOptions, MAX_INTERFACES, Network, NetworkField, NetworkOptions, Problem,
    ProblemKind, diff, parse_with,
};

use super::{paths, valid};

const LAB: &str = "[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\n\
    [[network]]\nname = \"red\"\nsubnet = \"10.1.0.0/16\"\n[[network]]\nname = \"l2\"\n\
    [[container]]\nname = \"a\"\n[[container.interface]]\nnetwork = \"blue\"\n\
    [[container]]\nname = \"b\"\nnetns = \"pid:7\"\n[[container.interface]]\nnetwork = \"blue\"\nip = \"10.1.0.9\"\n";

fn container(name: &str) -> ContainerSpec {
    ContainerSpec { name: name.into(), ..ContainerSpec::default() }
}

fn options(name: Option<&str>, ip: Option<&str>, mac: Option<&str>) -> InterfaceOptions {
    let (name, ip, mac) = (name.map(Into::into), ip.map(Into::into), mac.map(Into::into));
    InterfaceOptions { name, ip, mac, ..InterfaceOptions::default() }
}

fn reload(text: &str, previous: &Config) -> Result<Config, ConfigErrors> {
    parse_with(
        "lab.toml",
        text.as_bytes(),
        &Context { paths: paths(), previous: Some(previous), memory: None },
    )
}

#[test]
fn a_network_made_at_run_time_is_one_of_the_file() {
    let asked = NetworkOptions {
        subnet: Some("10.9.0.0/16".into()),
        mtu: Some(9000),
        spoof: Some("off".into()),
        ..NetworkOptions::default()
    };
    let made = Network::new_checked("green", &asked).unwrap();
    let text = "[[network]]\nname = \"green\"\nsubnet = \"10.9.0.0/16\"\nmtu = 9000\nspoof = \"off\"\n";
    assert_eq!(Some(&made), valid(text).network("green"));
    let mut config = valid(LAB);
    config.add_network(made.clone()).unwrap();
    assert_eq!(config.networks.last(), Some(&made));
    let again = config.add_network(made).unwrap_err();
    assert_eq!(
        (again.to_string().as_str(), again.kind()),
        ("network `green` is there already", ProblemKind::Conflict)
    );
    let problems = Network::new_checked(
        "my net",
        &NetworkOptions {
            mtu: Some(1),
            ageing: Some(-1),
            subnet: Some("10.0.0.1/8".into()),
            ..NetworkOptions::default()
        },
    )
    .unwrap_err();
    assert_eq!(problems.len(), 4);
    assert!(problems.iter().all(|problem| problem.kind() == ProblemKind::Invalid));
    let unknown =
        serde_json::from_str::<NetworkOptions>("{\"gateway\": \"10.1.0.1\"}").unwrap_err().to_string();
    assert!(unknown.starts_with("unknown field `gateway`"), "{unknown}");
}

#[test]
fn connecting_is_what_the_file_would_have_said() {
    let mut config = valid(LAB);
    let made = config.connect("blue", &container("c"), &InterfaceOptions::default()).unwrap();
    assert_eq!((made.name.as_str(), made.ip.unwrap().to_string().as_str()), ("eth0", "10.1.0.3/24"));
    let text = format!("{LAB}[[container]]\nname = \"c\"\n[[container.interface]]\nnetwork = \"blue\"\n");
    assert_eq!(config, valid(&text));
    let second = config.connect("l2", &container("c"), &InterfaceOptions::default()).unwrap();
    assert_eq!((second.name.as_str(), second.ip), ("eth1", None));
    let asked = options(Some("lan"), Some("10.1.0.77"), Some("02:00:00:00:00:77"));
    let third = config.connect("blue", &container("a"), &asked).unwrap();
    assert_eq!(third.mac.to_string(), "02:00:00:00:00:77");
    assert_eq!(config.container("a").unwrap().interfaces.last(), Some(&third));
    let spec = ContainerSpec { netns: Some("podman:d".into()), ..container("d") };
    config.connect("red", &spec, &InterfaceOptions::default()).unwrap();
    assert_eq!(config.container("d").unwrap().netns.to_string(), "podman:d");
}

#[test]
fn a_connection_that_cannot_be_changes_nothing() {
    let before = valid(LAB);
    let with = |spec: ContainerSpec| (spec, InterfaceOptions::default());
    let on = |name, options| (container(name), options);
    for (network, (spec, options), kind, said) in [
        (
            "blu",
            on("a", options(None, None, None)),
            ProblemKind::NotFound,
            "there is no network `blu`; did you mean `blue`?",
        ),
        (
            "red",
            on("a", options(None, None, None)),
            ProblemKind::Conflict,
            "container `a` is connected to `red` (10.1.0.0/16) and to `blue` (10.1.0.0/24), whose subnets overlap: its routes would contradict each other",
        ),
        (
            "blue",
            on("a", options(Some("eth0"), None, None)),
            ProblemKind::Conflict,
            "namespace \"a\" already has an interface `eth0`: `eth0` of container `a`; give this one another `name`",
        ),
        (
            "blue",
            on("c", options(None, Some("10.1.0.9"), None)),
            ProblemKind::Conflict,
            "`ip` = \"10.1.0.9\" is taken in network `blue` by `eth0` of container `b`",
        ),
        (
            "blue",
            on("c", options(None, Some("10.9.0.9"), None)),
            ProblemKind::Invalid,
            "`ip` = \"10.9.0.9\" is outside 10.1.0.0/24, the subnet of network `blue`",
        ),
        (
            "blue",
            on("c", options(None, None, Some("02:42:0a:01:00:09"))),
            ProblemKind::Conflict,
            "`mac` = \"02:42:0a:01:00:09\" is taken in network `blue` by `eth0` of container `b`",
        ),
        (
            "blue",
            on("c/d", options(None, None, None)),
            ProblemKind::Invalid,
            "`name` = \"c/d\": the name of a container is 1 to 63 letters, digits, `_`, `.` and `-`, and starts with a letter or digit",
        ),
        (
            "l2",
            on("c", options(None, Some("10.1.0.9"), None)),
            ProblemKind::Invalid,
            "`ip` needs a subnet, and network `l2` has none: add `subnet = \"10.1.0.0/24\"` to it",
        ),
        (
            "blue",
            with(ContainerSpec { netns: Some("pid:8".into()), ..container("b") }),
            ProblemKind::Conflict,
            "container `b` has `netns` = pid:7, not pid:8",
        ),
        (
            "blue",
            with(ContainerSpec { create: Some(true), ..container("a") }),
            ProblemKind::Conflict,
            "container `a` has `create` = false, not true",
        ),
        (
            "blue",
            with(ContainerSpec { create: Some(true), netns: Some("pid:8".into()), ..container("c") }),
            ProblemKind::Invalid,
            "`create` = true makes a namespace by name, but `netns` is \"pid:8\": leave one of them out",
        ),
    ] {
        let mut config = before.clone();
        let problem = config.connect(network, &spec, &options).unwrap_err();
        assert_eq!((problem.to_string().as_str(), problem.kind()), (said, kind));
        assert_eq!(config, before);
    }
}

#[test]
fn a_subnet_and_a_daemon_can_be_full() {
    let mut config =
        valid("[[network]]\nname = \"n\"\nsubnet = \"10.0.0.0/30\"\n[[network]]\nname = \"l2\"\n");
    config.connect("n", &container("a"), &InterfaceOptions::default()).unwrap();
    let full = config.connect("n", &container("b"), &InterfaceOptions::default()).unwrap_err();
    assert!(matches!(full, Problem::SubnetFull { room: 1, .. }), "{full}");
    let text = "[[container]]\nname = \"c\"\n".to_owned()
        + &"[[container.interface]]\nnetwork = \"l2\"\n".repeat(MAX_INTERFACES);
    let mut config = valid(&format!("[[network]]\nname = \"l2\"\n{text}"));
    let many = config.connect("l2", &container("c"), &InterfaceOptions::default()).unwrap_err();
    assert!(matches!(many, Problem::TooMany { .. }), "{many}");
}

#[test]
fn disconnecting_says_what_is_in_the_way() {
    let mut config = valid(LAB);
    config.connect("blue", &container("a"), &InterfaceOptions::default()).unwrap();
    let said = |problem: Problem| problem.to_string();
    let two = "container `a` is connected to network `blue` by eth0, eth1: say which";
    assert_eq!(said(config.disconnect("blue", "a", None).unwrap_err()), two);
    let none = "container `a` is not connected to network `red`";
    assert_eq!(said(config.disconnect("red", "a", None).unwrap_err()), none);
    let other = "container `a` is not connected to network `blue` by an interface `eth7`";
    assert_eq!(said(config.disconnect("blue", "a", Some("eth7")).unwrap_err()), other);
    let nobody = "there is no container `z`; known: a, b";
    assert_eq!(said(config.disconnect("blue", "z", None).unwrap_err()), nobody);
    let used = "network `blue` is in use by `eth0` of container `a`, `eth1` of container `a`, `eth0` of container `b`: \
                disconnect first";
    assert_eq!(said(config.remove_network("blue").unwrap_err()), used);
    let still = "container `a` is still connected to blue, blue: disconnect first";
    assert_eq!(said(config.remove_container("a").unwrap_err()), still);
    for (container, name) in [("a", Some("eth0")), ("a", None), ("b", None)] {
        assert_eq!(config.disconnect("blue", container, name).unwrap().network, "blue");
    }
    assert_eq!(config.remove_network("blue").unwrap().name, "blue");
    assert_eq!(config.remove_container("a").unwrap().name, "a");
    assert_eq!((config.networks.len(), config.containers.len()), (2, 1));
}

#[test]
fn a_reload_keeps_addresses_and_keeps_off_those_in_use() {
    let section =
        |name: &str| format!("[[container]]\nname = \"{name}\"\n[[container.interface]]\nnetwork = \"n\"\n");
    let head = "[[network]]\nname = \"n\"\nsubnet = \"10.0.0.0/29\"\n";
    let mut running = valid(&[head, &section("a"), &section("b"), &section("c")].concat());
    running.connect("n", &container("guest"), &InterfaceOptions::default()).unwrap();
    // `a` is gone, `new` comes first: nobody moves, and `new` is not given what `a` or the guest had.
    let now = reload(&[head, &section("new"), &section("b"), &section("c")].concat(), &running).unwrap();
    let rows: Vec<_> =
        now.interfaces().map(|(c, i)| format!("{} {}", c.name, i.ip.unwrap().addr())).collect();
    assert_eq!(rows, ["new 10.0.0.6", "b 10.0.0.3", "c 10.0.0.4"]);
    // Only when nothing else is left.
    let more = reload(&[head, &section("b"), &section("c"), &section("d"), &section("e")].concat(), &running)
        .unwrap();
    let rows: Vec<_> =
        more.interfaces().map(|(c, i)| format!("{} {}", c.name, i.ip.unwrap().addr())).collect();
    assert_eq!(rows, ["b 10.0.0.3", "c 10.0.0.4", "d 10.0.0.6", "e 10.0.0.2"]);
    // Another subnet is another matter.
    let moved = reload(&[&head.replace("10.0", "10.7"), section("c").as_str()].concat(), &running).unwrap();
    assert_eq!(moved.interfaces().next().unwrap().1.ip.unwrap().to_string(), "10.7.0.2/29");
}

#[test]
fn ipv6_addresses_are_kept_like_those_of_ipv4() {
    let section =
        |name: &str| format!("[[container]]\nname = \"{name}\"\n[[container.interface]]\nnetwork = \"n\"\n");
    let head = "[[network]]\nname = \"n\"\nsubnet6 = \"fd00::/64\"\n";
    let mut running = valid(&[head, &section("a"), &section("b")].concat());
    let asked = InterfaceOptions { ip6: Some("fd00::4".into()), ..InterfaceOptions::default() };
    let guest = running.connect("n", &container("guest"), &asked).unwrap();
    assert_eq!((guest.ip, guest.ip6.unwrap().to_string().as_str()), (None, "fd00::4/64"));
    assert_eq!(guest.default_via6, Some("fd00::1".parse().unwrap()));
    let taken = running.connect("n", &container("late"), &asked).unwrap_err();
    assert_eq!(
        taken.to_string(),
        "`ip6` = \"fd00::4\" is taken in network `n` by `eth0` of container `guest`"
    );
    let rows = |config: &Config| -> Vec<String> {
        config.interfaces().map(|(c, i)| format!("{} {}", c.name, i.ip6.unwrap().addr())).collect()
    };
    let now = reload(&[head, &section("new"), &section("b")].concat(), &running).unwrap();
    assert_eq!(rows(&now), ["new fd00::5", "b fd00::3"]);
    // A subnet that is added to a running network: what there was stays, the MAC too.
    let both = head.replace("subnet6", "subnet = \"10.0.0.0/24\"\nsubnet6");
    let old = valid(&[&both.replace("subnet6 = \"fd00::/64\"\n", ""), section("a").as_str()].concat());
    let new = reload(&[both.as_str(), &section("a")].concat(), &old).unwrap();
    let diff = diff(&old, &new);
    assert_eq!(diff.networks_changed.first().unwrap().fields, [NetworkField::Subnet6]);
    let fields = &diff.interfaces_changed.first().unwrap().fields;
    assert_eq!(*fields, [InterfaceField::Ip6, InterfaceField::DefaultVia6]);
    let made = Network::new_checked(
        "m",
        &NetworkOptions { subnet6: Some("fd00::1/64".into()), mtu: Some(1000), ..NetworkOptions::default() },
    );
    let said: Vec<_> = made.unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(said, ["`subnet6` = \"fd00::1/64\": host bits are set: did you mean \"fd00::/64\"?"]);
}

#[test]
fn the_gateway_changes_hands_with_the_container_that_has_its_address() {
    let mut config = valid("[[network]]\nname = \"n\"\nsubnet = \"10.0.0.0/24\"\ngateway = \"10.0.0.9\"\n");
    let by = |config: &Config| config.gateway_of(config.network("n").unwrap()).unwrap().by;
    let ours = GatewayBy::Us("02:42:0a:00:00:09".parse().unwrap());
    assert_eq!(by(&config), ours);
    let taken = options(None, None, Some("02:42:0a:00:00:09"));
    let said = config.connect("n", &container("a"), &taken).unwrap_err();
    assert_eq!(
        (said.to_string().as_str(), said.kind()),
        (
            "`mac` = \"02:42:0a:00:00:09\" is that of the gateway 10.0.0.9 of network `n`: take another, or give the \
         network another `gateway_mac`",
            ProblemKind::Conflict,
        )
    );
    let router = config.connect("n", &container("r"), &options(None, Some("10.0.0.9"), None)).unwrap();
    assert_eq!((router.default_via, router.mac.to_string().as_str()), (None, "02:42:0a:00:00:09"));
    assert_eq!(by(&config), GatewayBy::Container);
    let other = config.connect("n", &container("a"), &InterfaceOptions::default()).unwrap();
    assert_eq!(other.default_via, Some("10.0.0.9".parse().unwrap()));
    config.disconnect("n", "r", None).unwrap();
    assert_eq!(by(&config), ours);
}

#[test]
fn a_default_route_moves_on_when_its_interface_goes() {
    let mut config = valid(LAB);
    let made = Network::new_checked(
        "green",
        &NetworkOptions { subnet: Some("10.9.0.0/24".into()), ..NetworkOptions::default() },
    );
    config.add_network(made.unwrap()).unwrap();
    let second = config.connect("green", &container("a"), &InterfaceOptions::default()).unwrap();
    assert_eq!(second.default_via, None);
    let gone = config.disconnect("blue", "a", None).unwrap();
    assert_eq!(gone.default_via, Some("10.1.0.1".parse().unwrap()));
    let stays = config.container("a").unwrap().interfaces.first().unwrap();
    assert_eq!((stays.name.as_str(), stays.default_via), ("eth1", Some("10.9.0.1".parse().unwrap())));
}

#[test]
fn a_network_made_at_run_time_has_to_fit_where_all_takes_it_in() {
    let mut config = valid(
        "[[network]]\nname = \"n\"\nsubnet = \"10.0.0.0/24\"\nroutes_to = \"all\"\n\
         [[network]]\nname = \"m\"\nsubnet = \"10.2.0.0/24\"\nroutes_to = [\"n\"]\n\
         [[route]]\nnetwork = \"n\"\ndestination = \"10.8.0.0/24\"\nvia = \"10.0.0.9\"\n",
    );
    let before = config.clone();
    let made = |subnet: &str| {
        let options = NetworkOptions { subnet: Some(subnet.into()), ..NetworkOptions::default() };
        Network::new_checked("made", &options).unwrap()
    };
    let overlap = config.add_network(made("10.0.0.0/16")).unwrap_err();
    assert_eq!(
        (overlap.to_string().as_str(), overlap.kind()),
        (
            "subnet 10.0.0.0/16 of network `made` overlaps 10.0.0.0/24 of network `n`, and `routes_to` connects them: \
         networks that are connected share one address plan",
            ProblemKind::Conflict,
        )
    );
    let routed = config.add_network(made("10.8.0.0/24")).unwrap_err();
    assert_eq!(
        routed.to_string(),
        "`destination` = \"10.8.0.0/24\" is the subnet of network `made`: it needs no route"
    );
    assert_eq!(config, before);
    config.add_network(made("10.1.0.0/24")).unwrap();
    assert_eq!(config.zones().len(), 1);
    let used = config.remove_network("n").unwrap_err();
    assert_eq!(
        (used.to_string().as_str(), used.kind()),
        (
            "network `n` is in use by `routes_to` of m and 1 [[route]]: remove them first",
            ProblemKind::Conflict
        )
    );
    config.remove_network("made").unwrap();
    // An internal one is nobody's neighbour.
    let internal = Network { internal: true, ..made("10.0.0.0/16") };
    config.add_network(internal).unwrap();
    assert_eq!(config.zones().len(), 2);
}

#[test]
fn a_difference_names_routes_and_where_they_lead() {
    let head = "[[network]]\nname = \"n\"\nsubnet = \"10.0.0.0/24\"\n[[network]]\nname = \"m\"\nsubnet = \"10.1.0.0/24\"\n";
    let route = |last: u8| {
        format!("[[route]]\nnetwork = \"m\"\ndestination = \"10.{last}.0.0/16\"\nvia = \"10.1.0.9\"\n")
    };
    let old = valid(&[head, &route(8), &route(9)].concat());
    let same = valid(&[head, &route(9), &route(8)].concat());
    assert!(diff(&old, &same).is_empty());
    let less = diff(&old, &valid(&[head, &route(8)].concat()));
    assert!(less.routes && less.networks_changed.is_empty());
    let extended = format!("{head}gateway_mac = \"02:00:00:00:00:01\"\nroutes_to = \"all\"\n");
    let change = diff(&valid(head), &valid(&extended));
    assert_eq!(
        change.networks_changed.first().unwrap().fields,
        [NetworkField::GatewayMac, NetworkField::RoutesTo]
    );
    let internal = diff(&valid(head), &valid(&format!("{head}internal = true\n")));
    assert_eq!(internal.networks_changed.first().unwrap().fields, [NetworkField::Internal]);
}

#[test]
fn a_difference_names_what_changed_and_nothing_else() {
    let old = valid(LAB);
    assert!(diff(&old, &old).is_empty());
    let new = valid(
        "[daemon]\nio = \"epoll\"\n\
         [[network]]\nname = \"green\"\n\
         [[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/23\"\nmtu = 9000\n[[network]]\nname = \"l2\"\n\
         [[container]]\nname = \"c\"\n[[container.interface]]\nnetwork = \"l2\"\n\
         [[container]]\nname = \"b\"\nnetns = \"pid:8\"\ncommand = [\"true\"]\n\
         [[container.interface]]\nnetwork = \"l2\"\nname = \"lan\"\n\
         [[container.interface]]\nnetwork = \"blue\"\nip = \"10.1.0.9\"\nmac = \"02:00:00:00:00:01\"\nname = \"eth0\"\n",
    );
    let diff = diff(&old, &new);
    let key = |container: &str, name: &str| InterfaceKey { container: container.into(), name: name.into() };
    assert_eq!(diff.daemon, [DaemonField::Io]);
    assert_eq!((diff.networks_removed, diff.networks_added), (vec!["red".into()], vec!["green".into()]));
    let change = diff.networks_changed.first().unwrap();
    assert_eq!((change.name.as_str(), diff.networks_changed.len()), ("blue", 1));
    assert_eq!(change.fields, [NetworkField::Subnet, NetworkField::Mtu]);
    assert_eq!((diff.containers_removed, diff.containers_added), (vec!["a".into()], vec!["c".into()]));
    let change = diff.containers_changed.first().unwrap();
    assert_eq!((change.name.as_str(), diff.containers_changed.len()), ("b", 1));
    assert_eq!(change.fields, [ContainerField::Netns, ContainerField::Command]);
    assert_eq!(diff.interfaces_removed, [key("a", "eth0")]);
    assert_eq!(diff.interfaces_added, [key("c", "eth0"), key("b", "lan")]);
    let change = diff.interfaces_changed.first().unwrap();
    assert_eq!((&change.key, diff.interfaces_changed.len()), (&key("b", "eth0"), 1));
    assert_eq!(change.fields, [InterfaceField::Netns, InterfaceField::Ip, InterfaceField::Mac]);
    assert_eq!(InterfaceField::DefaultVia.to_string(), "default_via");
}

#[test]
fn other_names_are_given_with_a_connection() {
    let mut config = valid(LAB);
    let named = |aliases: &[&str]| InterfaceOptions {
        aliases: aliases.iter().map(|name| (*name).to_owned()).collect(),
        ..InterfaceOptions::default()
    };
    let made = config.connect("blue", &container("c"), &named(&["www", "db.example"])).unwrap();
    assert_eq!(made.aliases, ["www", "db.example"]);
    for (name, said) in [
        ("WWW", "is a name of"),
        ("a", "is a name of"),
        ("d", "is a name of"),
        ("no spaces", "a name is labels"),
    ] {
        let problem = config.connect("blue", &container("d"), &named(&["ok", name])).unwrap_err().to_string();
        assert!(problem.contains(said), "{name}: {problem}");
    }
    assert!(config.container("d").is_none(), "nothing is half done");
    assert!(config.connect("red", &container("d"), &named(&["www"])).is_ok(), "another network");
}

const TAP: &str = "[uplink]\nkind = \"tap\"\naddress = \"198.18.0.10/24\"\nhost = \"198.18.0.1/24\"\n";

#[test]
fn a_network_made_at_run_time_may_leave_with_its_own_addresses_where_the_file_may() {
    let made = |nat, nat6| {
        let subnet = Some("10.1.0.0/24".into());
        let asked = NetworkOptions { subnet, nat, nat6, ..NetworkOptions::default() };
        Network::new_checked("green", &asked).unwrap()
    };
    let both = |network: &Network| (network.nat, network.nat6);
    assert_eq!(both(&made(None, None)), (true, true));
    assert_eq!(both(&made(Some(false), None)), (false, false), "nat6 is as nat");
    assert_eq!(both(&made(None, Some(false))), (true, false));
    valid(TAP).add_network(made(Some(false), None)).unwrap();
    // By sockets nothing leaves so; of two that are seen outside the addresses differ.
    for (nat, key) in [(Some(false), "`nat`"), (None, "`nat6`")] {
        let said = valid("").add_network(made(nat, Some(false))).unwrap_err().to_string();
        assert!(said.contains(key) && said.contains("sockets"), "{said}");
    }
    let plain = "[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/16\"\nnat = false\n";
    let mut config = valid(&format!("{TAP}{plain}"));
    let said = config.add_network(made(Some(false), None)).unwrap_err();
    assert!(matches!(said, Problem::PlainOverlap { .. }), "{said}");
    config.add_network(made(None, None)).unwrap();
}

#[test]
fn limits_wait_for_the_next_start_and_icmp_errors_do_not() {
    let with = |limits: &str| valid(&format!("{TAP}[limits]\n{limits}\n"));
    let old = with("connections = 1000");
    let more = diff(&old, &with("connections = 2000"));
    assert!(more.limits && !more.outside && !more.icmp_errors);
    let errors = diff(&old, &with("connections = 1000\nicmp_errors = 10"));
    assert!(errors.icmp_errors && !errors.limits && !errors.outside);
    let other = format!("{TAP}filtering = \"endpoint\"\n[limits]\nconnections = 1000\n");
    let other = diff(&old, &valid(&other));
    assert!(other.outside && !other.limits);
}
