//! IPv6 beside IPv4 and without it: addresses, gateways, what kernels make of router advertisements, the way out.

use serde_json::Value;

use crate::harness::{Daemon, Host, PYTHON, wait_for};
use crate::traffic::{Stream, from};
use crate::uplink::{Outside, TCP, TCP_CLIENT, TRY, UDP, UDP_CLIENT, python};
use crate::{as_both, by_two_workers};

as_both!(
    both_families_side_by_side,
    networks_without_ipv4,
    what_advertisements_say,
    duplicates_are_found,
    a_path_with_a_smaller_mtu,
    a_reload_brings_ipv6_and_takes_it_away,
    addresses_survive_the_engine,
    objects_of_the_api_have_both_families,
    the_way_out_speaks_ipv6,
    a_host_without_ipv6_says_so_at_once,
);
by_two_workers!(both_families_side_by_side, the_way_out_speaks_ipv6,);

/// Networks `blue` (fd00:1::/64: `a`, `c`) and `red` (fd00:2::/64: `b`), with more lines for each.
fn two(host: &Host, blue: &str, red: &str) -> String {
    let mut text = format!(
        "[uplink]\nkind = \"none\"\n[[network]]\nname = \"blue\"\nsubnet6 = \"fd00:1::/64\"\n{blue}\n\
         [[network]]\nname = \"red\"\nsubnet6 = \"fd00:2::/64\"\n{red}\n"
    );
    for (name, network) in [("a", "blue"), ("c", "blue"), ("b", "red")] {
        let netns = host.name(name);
        text += &format!(
            "[[container]]\nname = \"{name}\"\nnetns = \"{netns}\"\ncreate = true\n\
             [[container.interface]]\nnetwork = \"{network}\"\n"
        );
    }
    host.configuration(&text)
}

const TO_RED: &str = "routes_to = [\"red\"]";
const TO_BLUE: &str = "routes_to = [\"blue\"]";
const BLUE4: &str = "subnet = \"10.1.0.0/24\"\nroutes_to = [\"red\"]";
const RED4: &str = "subnet = \"10.2.0.0/24\"\nroutes_to = [\"blue\"]";

/// What `ping` says, with these options, answered or not.
#[track_caller]
fn ping(daemon: &Daemon, from: &str, options: &[&str]) -> String {
    let mut words = vec!["ping", "-n", "-c", "1", "-W", "5"];
    words.extend(options);
    let output = daemon.try_exec(from, &words);
    format!("{}{}", String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[track_caller]
fn says(text: &str, what: &str) {
    assert!(text.contains(what), "no {what:?} in {text}");
}

/// The addresses of `eth0` that are not link-local, with their flags, as `ip` prints them.
#[track_caller]
fn addresses6(daemon: &Daemon, container: &str) -> Vec<String> {
    let link = daemon.link(container, "eth0");
    let all = link["addr_info"].as_array().unwrap().clone();
    let global = |info: &&Value| info["family"] == "inet6" && info["scope"] == "global";
    let text = |info: &Value| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]);
    all.iter()
        .filter(global)
        .map(|info| {
            let flag = ["dadfailed", "tentative", "dynamic"].into_iter().find(|flag| info[*flag] == true);
            [text(info), flag.unwrap_or_default().into()].join(" ").trim().to_owned()
        })
        .collect()
}

/// The IPv6 default routes of a container.
#[track_caller]
fn defaults6(daemon: &Daemon, container: &str) -> Vec<String> {
    let routes = daemon.exec(container, &["ip", "-6", "route", "show", "default"]);
    routes.lines().map(|line| line.trim().to_owned()).collect()
}

/// Waits until a container's link-local address is no longer tentative, which takes the kernel a second.
#[track_caller]
fn settled(daemon: &Daemon, container: &str) {
    wait_for("a link-local address", || {
        let addresses = daemon.exec(container, &["ip", "-6", "address", "show", "dev", "eth0"]);
        (addresses.contains("fe80") && !addresses.contains("tentative")).then_some(())
    });
}

/// The link-local address of the gateway of `blue`, as a destination.
const BLUE_LOCAL: &str = "fe80::42:aff:fe01:1%eth0";

fn both_families_side_by_side(host: Host) {
    let configuration = two(&host, BLUE4, RED4);
    let daemon = host.start(&configuration);
    assert_eq!(addresses6(&daemon, "a"), ["fd00:1::2/64"]);
    let defaults = defaults6(&daemon, "a");
    assert!(defaults.len() == 1 && defaults[0].starts_with("default via fd00:1::1 dev eth0"), "{defaults:?}");
    assert!(!defaults[0].contains("expires"), "{defaults:?}");
    settled(&daemon, "a");
    for to in ["10.1.0.1", "fd00:1::1", BLUE_LOCAL, "10.2.0.2", "fd00:2::2", "fd00:1::3"] {
        says(&ping(&daemon, "a", &[to]), "1 received");
    }
    says(&ping(&daemon, "a", &["fd00:2::2"]), "ttl=63");
    says(&ping(&daemon, "b", &["-s", "1400", "fd00:1::2"]), "ttl=63");
    // Names have both.
    says(&ping(&daemon, "a", &["-6", "c"]), "1 received");
    says(&ping(&daemon, "a", &["-4", "c"]), "1 received");
    for by in ["+notcp", "+tcp"] {
        let said = daemon.exec("a", &["dig", "+short", by, "@fd00:1::1", "c.blue", "AAAA"]);
        assert_eq!(said, "fd00:1::3\n", "asked over IPv6, {by}");
    }
    assert_eq!(daemon.exec("a", &["dig", "+short", "@fd00:1::1", "-x", "fd00:1::3"]), "c.blue.\n");
    for (sender, receiver, to) in [("a", "b", "fd00:2::2"), ("b", "a", "fd00:1::2")] {
        let before = from(&daemon, sender);
        let bytes = Stream::start(&daemon, sender, receiver, to, 32).finish();
        let after = from(&daemon, sender);
        let (frames, told) = (after.0 - before.0, after.1 - before.1);
        assert!(told > bytes && told / frames > 3000, "{told} bytes in {frames} frames: routed whole");
    }
    let rows = daemon.rows("routes");
    let has = |network: &str, destination: &str, kind: &str| {
        rows.iter().any(|row| {
            (&row["network"], &row["destination"], &row["type"])
                == (&network.into(), &destination.into(), &kind.into())
        })
    };
    assert!(has("blue", "fd00:2::/64", "connected") && has("blue", "10.2.0.0/24", "connected"));
    assert!(has("red", "fd00:2::1/128", "local"));
    let neighbors = daemon.rows("neighbors");
    let of_b: Vec<_> = neighbors.iter().filter(|row| row["container"] == "b").collect();
    assert!(of_b.iter().any(|row| row["address"] == "fd00:2::2" && row["state"] == "reachable"), "{of_b:?}");
    assert!(of_b.iter().any(|row| row["address"] == "10.2.0.2"), "{of_b:?}");
    assert_eq!(daemon.port("a")["addresses"], serde_json::json!(["10.1.0.2/24", "fd00:1::2/64"]));
    assert_eq!(daemon.rows("networks")[0]["subnet6"], "fd00:1::/64");
    daemon.assert_conserved();
    daemon.stop();
}

fn networks_without_ipv4(host: Host) {
    let route = "[[route]]\nnetwork = \"red\"\ndestination = \"fd00:8::/48\"\nvia = \"fd00:2::2\"\n";
    let configuration = two(&host, TO_RED, "") + route;
    let daemon = host.start(&configuration);
    assert!(daemon.link("a", "eth0")["addr_info"].as_array().unwrap().iter().all(|i| i["family"] == "inet6"));
    says(&ping(&daemon, "b", &["fd00:1::2"]), "Administratively prohibited");
    says(&ping(&daemon, "a", &["fd00:2::2"]), "1 received");
    says(&ping(&daemon, "b", &["fd00:1::2"]), "Administratively prohibited");
    assert!(Stream::start(&daemon, "a", "b", "fd00:2::2", 8).finish() >= 8 << 20);
    says(&ping(&daemon, "a", &["-t", "1", "fd00:2::2"]), "Time exceeded: Hop limit");
    says(&ping(&daemon, "a", &["fd00:2::99"]), "Destination unreachable: Address unreachable");
    says(&ping(&daemon, "a", &["2001:db8::1"]), "Destination unreachable: No route");
    daemon.exec("b", &["ip", "address", "add", "fd00:8::1/128", "dev", "lo"]);
    says(&ping(&daemon, "a", &["fd00:8::1"]), "1 received");
    for reason in ["prohibited", "ttl_exceeded", "neighbor_unresolved", "no_route"] {
        assert!(daemon.dropped(reason) > 0, "{reason}");
    }
    daemon.assert_conserved();
    daemon.stop();
}

/// Solicits a router and says what the advertisement says.
const SOLICIT: &str = "\
import socket, struct, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
index = socket.if_nametoindex('eth0')
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
s.settimeout(1)
for attempt in range(15):
    try:
        s.sendto(struct.pack('!BBHI', 133, 0, 0, 0), ('ff02::2', 0, 0, index))
        while True:
            data, peer = s.recvfrom(2000)
            if data[0] == 134:
                break
    except OSError:
        continue
    break
print('from', peer[0].split('%')[0], 'lifetime', struct.unpack('!H', data[6:8])[0])
at = 16
while at < len(data):
    kind, length = data[at], data[at + 1] * 8
    if kind == 3:
        print('prefix', socket.inet_ntop(socket.AF_INET6, data[at + 16:at + 32]), data[at + 2], hex(data[at + 3]))
    if kind == 5:
        print('mtu', struct.unpack('!I', data[at + 4:at + 8])[0])
    at += length
";

fn what_advertisements_say(host: Host) {
    let configuration = two(&host, "mtu = 1400", "internal = true\nspoof = \"strict\"");
    let daemon = host.start(&configuration);
    ["a", "b", "c"].into_iter().for_each(|name| settled(&daemon, name));
    let local = daemon.exec("a", &[PYTHON, "-c", SOLICIT]);
    says(&local, "from fe80::42:ff:fe00:1 lifetime 1800\n");
    says(&local, "mtu 1400\n");
    says(&local, "prefix fd00:1:: 64 0xc0\n");
    // Nothing leaves red, and nobody may give himself an address there.
    let strict = daemon.exec("b", &[PYTHON, "-c", SOLICIT]);
    says(&strict, "lifetime 0\n");
    says(&strict, "prefix fd00:2:: 64 0x80\n");
    // The kernel was told not to listen, so there is one route and it stays.
    assert_eq!((addresses6(&daemon, "a").len(), defaults6(&daemon, "a").len()), (1, 1));
    assert_eq!(defaults6(&daemon, "b"), [""; 0]);
    // One that listens gets a route by the link-local address and makes itself an address, and both work.
    daemon.exec("c", &["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_ra"]);
    daemon.exec("c", &["ip", "-6", "address", "flush", "dev", "eth0", "scope", "global"]);
    daemon.exec("c", &[PYTHON, "-c", SOLICIT]);
    let own = wait_for("an address of its own making", || {
        addresses6(&daemon, "c").into_iter().find(|address| address.ends_with("dynamic"))
    });
    says(&own, "fd00:1::42:");
    let defaults = defaults6(&daemon, "c").join("\n");
    says(&defaults, "via fe80::42:ff:fe00:1 dev eth0 proto ra");
    says(&ping(&daemon, "c", &["fd00:1::1"]), "1 received");
    daemon.stop();
}

fn duplicates_are_found(host: Host) {
    let configuration = two(&host, "", "");
    let daemon = host.start(&configuration);
    for taken in ["fd00:1::3/64", "fd00:1::1/64"] {
        daemon.exec("a", &["ip", "-6", "address", "add", taken, "dev", "eth0"]);
        wait_for("the duplicate to be found", || {
            addresses6(&daemon, "a").contains(&format!("{taken} dadfailed")).then_some(())
        });
    }
    // Whoever does not ask is refused.
    daemon.exec("a", &["ip", "-6", "address", "del", "fd00:1::3/64", "dev", "eth0"]);
    daemon.exec("a", &["ip", "-6", "address", "add", "fd00:1::3/64", "dev", "eth0", "nodad"]);
    says(&ping(&daemon, "a", &["-I", "fd00:1::3", "-W", "1", "fd00:1::1"]), "0 received");
    assert!(daemon.dropped("spoofed_ip") + daemon.dropped("spoofed_nd") > 0);
    // One that nobody has is free.
    daemon.exec("a", &["ip", "-6", "address", "add", "fd00:1::77/64", "dev", "eth0"]);
    wait_for("an address that is free", || {
        addresses6(&daemon, "a").contains(&"fd00:1::77/64".to_owned()).then_some(())
    });
    // A link that goes down and up again keeps what it was given, as it does of IPv4.
    daemon.exec("c", &["ip", "link", "set", "eth0", "down"]);
    daemon.exec("c", &["ip", "link", "set", "eth0", "up"]);
    wait_for("the address again", || (addresses6(&daemon, "c") == ["fd00:1::3/64"]).then_some(()));
    daemon.assert_conserved();
    daemon.stop();
}

fn a_path_with_a_smaller_mtu(host: Host) {
    let configuration = two(&host, TO_RED, &format!("mtu = 1280\n{TO_BLUE}"));
    let daemon = host.start(&configuration);
    let first = ping(&daemon, "a", &["-M", "do", "-s", "1400", "fd00:2::2"]);
    says(&first, "mtu=1280");
    assert!(daemon.dropped("too_big") > 0);
    says(&daemon.exec("a", &["ip", "-6", "route", "get", "fd00:2::2"]), "mtu 1280");
    // The source has learned, and fragments.
    says(&ping(&daemon, "a", &["-s", "1400", "fd00:2::2"]), "1 received");
    // A stream never meets the narrow place: its MSS was clamped.
    let before = daemon.dropped("too_big");
    assert!(Stream::start(&daemon, "c", "b", "fd00:2::2", 16).finish() >= 16 << 20);
    assert!(Stream::start(&daemon, "b", "c", "fd00:1::3", 16).finish() >= 16 << 20);
    assert_eq!(daemon.dropped("too_big"), before);
    daemon.assert_conserved();
    daemon.stop();
}

fn a_reload_brings_ipv6_and_takes_it_away(host: Host) {
    let with = two(&host, BLUE4, RED4);
    let without = with.replace("subnet6 = \"fd00:1::/64\"\n", "").replace("subnet6 = \"fd00:2::/64\"\n", "");
    let daemon = host.start(&without);
    assert!(addresses6(&daemon, "a").is_empty() && defaults6(&daemon, "a").is_empty());
    let stream = Stream::start(&daemon, "a", "b", "10.2.0.2", 16);
    let said = daemon.reload(&with);
    says(&said, "network blue: subnet6 changed");
    assert_eq!(addresses6(&daemon, "a"), ["fd00:1::2/64"]);
    says(&ping(&daemon, "a", &["fd00:2::2"]), "1 received");
    daemon.reload(&without);
    assert!(addresses6(&daemon, "a").is_empty() && defaults6(&daemon, "a").is_empty());
    says(&ping(&daemon, "a", &["10.2.0.2"]), "1 received");
    assert!(stream.finish() >= 16 << 20, "the stream never noticed");
    daemon.stop();
}

fn addresses_survive_the_engine(host: Host) {
    let configuration = two(&host, TO_RED, TO_BLUE);
    let daemon = host.start(&configuration);
    // `a` goes, and the others keep what they were given when they were three.
    let less = |text: &str| {
        let (first, rest) = text.split_once("[[container]]\nname = \"a\"").unwrap();
        let (_, rest) = rest.split_once("[[container]]").unwrap();
        format!("{first}[[container]]{rest}")
    };
    daemon.reload(&less(&configuration));
    assert_eq!(addresses6(&daemon, "c"), ["fd00:1::3/64"]);
    let look = || (daemon.exec("c", &["ip", "-6", "address"]), daemon.exec("c", &["ip", "-6", "route"]));
    // The link-local address is tentative for a second.
    let before = wait_for("all addresses", || Some(look()).filter(|(seen, _)| !seen.contains("tentative")));
    let stream = Stream::start(&daemon, "c", "b", "fd00:2::2", 16);
    let received = || daemon.port("b")["tx_bytes"].as_u64().unwrap();
    wait_for("the stream to run", || (received() > 1 << 20).then_some(()));
    let old = daemon.engine();
    crate::harness::run("kill", &["-KILL", &old.to_string()]);
    daemon.wait_engine_after(old);
    wait_for("the stream to go on", || (received() > 1 << 20).then_some(()));
    assert!(stream.finish() >= 16 << 20);
    assert_eq!(look(), before);
    assert_eq!(daemon.port("c")["addresses"], serde_json::json!(["fd00:1::3/64"]));
    daemon.stop();
}

fn objects_of_the_api_have_both_families(host: Host) {
    let configuration = two(&host, "", "");
    let mut daemon = host.start(&configuration);
    daemon.ctl(&["network", "create", "both", "--subnet", "10.9.0.0/24", "--subnet6", "fd00:9::/64"]);
    daemon.ctl(&["network", "connect", "both", "a", "--ip6", "fd00:9::77"]);
    let refused = daemon.try_ctl(&["network", "create", "six", "--subnet6", "fd00:9::1/64"]);
    says(&String::from_utf8(refused.stderr).unwrap(), "host bits are set: did you mean \"fd00:9::/64\"?");
    let look = |daemon: &Daemon| {
        let row = daemon.rows("ports").into_iter().find(|row| row["iface"] == "eth1").unwrap();
        assert_eq!(row["addresses"], serde_json::json!(["10.9.0.2/24", "fd00:9::77/64"]));
        says(&ping(daemon, "a", &["fd00:9::1"]), "1 received");
        let networks = daemon.rows("networks");
        let both = networks.iter().find(|row| row["name"] == "both").unwrap();
        assert_eq!((&both["subnet6"], &both["origin"]), (&"fd00:9::/64".into(), &"api".into()));
    };
    look(&daemon);
    daemon.restart();
    look(&daemon);
    daemon.ctl(&["network", "disconnect", "both", "a"]);
    daemon.ctl(&["network", "rm", "both"]);
    daemon.stop();
}

fn the_way_out_speaks_ipv6(mut host: Host) {
    let outside = Outside::new6(&mut host);
    let configuration = two(&host, "", "internal = true").replace("\"none\"", "\"sockets\"");
    let daemon = host.start(&configuration);
    let _tcp = outside.serve(TCP, "/proc/net/tcp6");
    let seen = python(&daemon, "a", TCP_CLIENT, &[&outside.far]);
    assert_eq!(seen.trim(), format!("seen as {}", outside.near));
    let _udp = outside.serve(UDP, "/proc/net/udp6");
    assert_eq!(python(&daemon, "c", UDP_CLIENT, &[&outside.far]).trim(), "50 came back");
    let said = |container: &str, address: &str, port: &str| python(&daemon, container, TRY, &[address, port]);
    assert_eq!(said("a", &outside.far, "9"), "ECONNREFUSED\nECONNREFUSED\n", "nobody listens");
    // The host itself is not outside, whichever of its addresses is asked for.
    for own in [outside.near.as_str(), "fd00:1::1"] {
        let answer = said("a", own, "22");
        assert!(
            ["EACCES\nEACCES\n", "ECONNREFUSED\nECONNREFUSED\n"].contains(&answer.as_str()),
            "{own}: {answer}"
        );
    }
    assert_eq!(
        said("b", &outside.far, "9"),
        "ENETUNREACH\nENETUNREACH\n",
        "an internal network has no way out"
    );
    // Where the host allows ping sockets.
    let answered = ping(&daemon, "a", &[&outside.far]).contains("1 received");
    assert!(answered || daemon.dropped("uplink_protocol") > 0);
    daemon.assert_conserved();
    daemon.stop();
}

/// Connects by name, as everybody does: to the first address that answers.
const EITHER: &str = "\
import socket, sys, time
began = time.monotonic()
with socket.create_server(('127.0.0.1', 0)) as listener:
    port = listener.getsockname()[1]
    tries = [(socket.AF_INET6, '2001:db8::1'), (socket.AF_INET, '127.0.0.1')]
    for family, address in tries:
        s = socket.socket(family, socket.SOCK_STREAM)
        s.settimeout(10)
        try:
            s.connect((address, port))
            break
        except OSError as error:
            print(error.strerror)
print('connected' if time.monotonic() - began < 5 else 'late')
";

/// To a UDP socket "no route" is a hint, which it hears only if it asked for hints.
const DATAGRAM: &str = "\
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
IPV6_RECVERR = 25
s.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
s.settimeout(10)
s.connect((sys.argv[1], 9))
s.send(b'x')
try:
    s.recv(1)
except OSError as error:
    print(error.strerror)
";

fn a_host_without_ipv6_says_so_at_once(mut host: Host) {
    // The daemon's own namespace has no route of any kind.
    let netns = host.netns("bare");
    host.before = vec!["nsenter".into(), format!("--net=/run/netns/{netns}"), "--".into()];
    let configuration = two(&host, BLUE4, RED4).replace("\"none\"", "\"sockets\"");
    let daemon = host.start(&configuration);
    assert_eq!(python(&daemon, "a", DATAGRAM, &["2001:db8::1"]), "Network is unreachable\n");
    says(&python(&daemon, "a", EITHER, &[]), "Network is unreachable\nconnected\n");
    assert!(daemon.dropped("no_route") > 0);
    daemon.assert_conserved();
    daemon.stop();
}
