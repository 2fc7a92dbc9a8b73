//! Networks with gateways: who reaches whom, what a router says when it cannot go on, and what comes back.

use crate::harness::{Daemon, Host, wait_for};
use crate::traffic::{Stream, from};
use crate::{as_both, by_two_workers};

as_both!(
    a_gateway_answers,
    networks_that_may_reach_each_other,
    a_network_that_may_only_answer,
    networks_that_are_not_told_to_are_apart,
    a_network_with_a_smaller_mtu,
    a_router_says_why_not,
    a_route_by_a_container,
    a_route_by_two_containers,
    a_reload_connects_and_separates,
    streams_between_networks_survive_the_engine,
);
by_two_workers!(
    networks_that_may_reach_each_other,
    a_network_that_may_only_answer,
    a_router_says_why_not,
    a_route_by_a_container,
    a_route_by_two_containers,
);

/// Networks `blue` (10.1.0.0/24: `a`, `c`) and `red` (10.2.0.0/24: `b`), with more lines for each.
fn two(host: &Host, blue: &str, red: &str) -> String {
    let mut text = format!(
        "[uplink]\nkind = \"none\"\n[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\n{blue}\n\
         [[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\n{red}\n"
    );
    for (name, network, ip) in
        [("a", "blue", "10.1.0.10"), ("c", "blue", "10.1.0.11"), ("b", "red", "10.2.0.10")]
    {
        let netns = host.name(name);
        text += &format!(
            "[[container]]\nname = \"{name}\"\nnetns = \"{netns}\"\ncreate = true\n\
             [[container.interface]]\nnetwork = \"{network}\"\nip = \"{ip}\"\n"
        );
    }
    host.configuration(&text)
}

const TO_RED: &str = "routes_to = [\"red\"]";
const TO_BLUE: &str = "routes_to = [\"blue\"]";

/// What `ping` says, with these options, answered or not.
#[track_caller]
fn ping(daemon: &Daemon, from: &str, options: &[&str]) -> String {
    let mut words = vec!["ping", "-n", "-c", "1", "-W", "2"];
    words.extend(options);
    let output = daemon.try_exec(from, &words);
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn says(text: &str, what: &str) {
    assert!(text.contains(what), "no {what:?} in {text}");
}

fn a_gateway_answers(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    for options in [&["10.1.0.1"][..], &["-s", "1400", "10.1.0.1"], &["-s", "30", "-p", "ff", "10.1.0.1"]] {
        says(&ping(&daemon, "a", options), "1 received");
    }
    let routes = daemon.exec("a", &["ip", "-json", "route", "show", "default"]);
    says(&routes, "\"gateway\":\"10.1.0.1\"");
    let neighbors = daemon.rows("neighbors");
    let a = neighbors.iter().find(|row| row["container"] == "a").unwrap();
    assert_eq!((&a["address"], &a["state"]), (&"10.1.0.2".into(), &"reachable".into()));
    assert_eq!(a["mac"], daemon.port("a")["mac"]);
    // Nobody else may say that he is the gateway, and its MAC is never learned elsewhere.
    daemon.exec("b", &["ip", "link", "set", "eth0", "address", "02:42:0a:01:00:01"]);
    daemon.try_exec("b", &["ping", "-c", "1", "-W", "1", "10.1.0.2"]);
    assert!(daemon.dropped("spoofed_mac") > 0);
    says(&ping(&daemon, "a", &["10.1.0.1"]), "1 received");
    daemon.assert_conserved();
    daemon.stop();
}

fn networks_that_may_reach_each_other(host: Host) {
    let configuration = two(&host, TO_RED, TO_BLUE);
    let daemon = host.start(&configuration);
    let answer = ping(&daemon, "a", &["10.2.0.10"]);
    says(&answer, "ttl=63");
    says(&ping(&daemon, "b", &["10.1.0.11"]), "ttl=63");
    says(&ping(&daemon, "a", &["10.2.0.1"]), "ttl=64");
    for (sender, receiver, to) in [("a", "b", "10.2.0.10"), ("b", "a", "10.1.0.10")] {
        let before = from(&daemon, sender);
        let bytes = Stream::start(&daemon, sender, receiver, to, 32).finish();
        let after = from(&daemon, sender);
        let (frames, told) = (after.0 - before.0, after.1 - before.1);
        assert!(
            told > bytes && told / frames > 3000,
            "{told} bytes in {frames} frames: super-frames are routed whole"
        );
    }
    let route = |row: &serde_json::Value| row["network"] == "blue" && row["destination"] == "10.2.0.0/24";
    let routes = daemon.rows("routes");
    let red = routes.iter().find(|row| route(row)).unwrap();
    assert_eq!((&red["to"], &red["type"]), (&"red".into(), &"connected".into()));
    daemon.assert_conserved();
    daemon.stop();
}

/// Asks by UDP and says what came back.
const ASK: &str = "\
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect((sys.argv[1], 5012))
s.send(b'x' * 3000)
print(s.recv(65535).decode())
";
/// Answers one datagram from another socket's address: the one it came to.
const ANSWER: &str = "\
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('0.0.0.0', 5012))
s.settimeout(20)
data, peer = s.recvfrom(65535)
s.sendto(('from ' + peer[0] + ' ' + str(len(data)) + ' ' * 3000).encode(), peer)
";

fn a_network_that_may_only_answer(host: Host) {
    let configuration = two(&host, TO_RED, "");
    let daemon = host.start(&configuration);
    says(&ping(&daemon, "b", &["10.1.0.10"]), "Packet filtered");
    assert!(daemon.dropped("prohibited") > 0);
    says(&ping(&daemon, "a", &["10.2.0.10"]), "1 received");
    says(&ping(&daemon, "b", &["10.1.0.10"]), "Packet filtered");
    let bytes = Stream::start(&daemon, "a", "b", "10.2.0.10", 8).finish();
    assert!(bytes >= 8 << 20);
    // Datagrams in fragments, both ways.
    let python = "/usr/bin/python3";
    let answering = daemon.background("b", &[python, "-c", ANSWER]);
    wait_for("a socket", || {
        daemon.exec("b", &["cat", "/proc/net/udp"]).contains(":1394 ").then_some(()) // port 5012
    });
    says(&daemon.exec("a", &[python, "-c", ASK, "10.2.0.10"]), "from 10.1.0.10 3000");
    answering.finish();
    let answers = daemon.rows("routes").iter().filter(|row| row["type"] == "answer").count();
    assert_eq!(answers, 1);
    daemon.assert_conserved();
    daemon.stop();
}

fn networks_that_are_not_told_to_are_apart(host: Host) {
    let configuration = two(&host, "", "");
    let daemon = host.start(&configuration);
    says(&ping(&daemon, "a", &["10.2.0.10"]), "Destination Net Unreachable");
    says(&ping(&daemon, "a", &["10.2.0.1"]), "Destination Net Unreachable");
    // Nor by writing to the other's MAC, which is not on this network.
    let b = daemon.port("b")["mac"].as_str().unwrap().to_owned();
    daemon.exec("a", &["ip", "route", "add", "10.2.0.10/32", "dev", "eth0"]);
    daemon.exec("a", &["ip", "neighbor", "add", "10.2.0.10", "lladdr", &b, "dev", "eth0"]);
    let before = daemon.port("b")["tx_frames"].as_u64();
    says(&ping(&daemon, "a", &["10.2.0.10"]), "0 received");
    assert_eq!(daemon.port("b")["tx_frames"].as_u64(), before);
    daemon.stop();
}

fn a_network_with_a_smaller_mtu(host: Host) {
    let configuration = two(&host, TO_RED, &format!("mtu = 1280\n{TO_BLUE}"));
    let daemon = host.start(&configuration);
    says(&ping(&daemon, "a", &["-M", "do", "-s", "1400", "10.2.0.10"]), "mtu = 1280");
    assert!(daemon.dropped("too_big") > 0);
    says(&ping(&daemon, "c", &["-M", "dont", "-s", "1400", "10.2.0.10"]), "1 received");
    says(&ping(&daemon, "c", &["-M", "dont", "-s", "4000", "10.2.0.10"]), "1 received");
    // A stream never meets the narrow place: its MSS was clamped.
    let before = daemon.dropped("too_big");
    let from_c = Stream::start(&daemon, "c", "b", "10.2.0.10", 16).finish();
    let from_b = Stream::start(&daemon, "b", "c", "10.1.0.11", 16).finish();
    assert!(from_c >= 16 << 20 && from_b >= 16 << 20);
    assert_eq!(daemon.dropped("too_big"), before);
    daemon.assert_conserved();
    daemon.stop();
}

fn a_router_says_why_not(host: Host) {
    let configuration = two(&host, TO_RED, TO_BLUE);
    let daemon = host.start(&configuration);
    says(&ping(&daemon, "a", &["-t", "1", "10.2.0.10"]), "From 10.1.0.1 icmp_seq=1 Time to live exceeded");
    says(
        &ping(&daemon, "a", &["-W", "6", "10.2.0.99"]),
        "From 10.1.0.1 icmp_seq=1 Destination Host Unreachable",
    );
    says(&ping(&daemon, "a", &["10.9.9.9"]), "From 10.1.0.1 icmp_seq=1 Destination Net Unreachable");
    // A closed l4 port of the gateway itself.
    let refused = "import socket\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('10.1.0.1', 9)); s.settimeout(5)\n\
        s.send(b'x')\n\
        try: s.recv(1)\n\
        except ConnectionRefusedError: print('refused')\n";
    says(&daemon.exec("a", &["/usr/bin/python3", "-c", refused]), "refused");
    for reason in ["ttl_exceeded", "neighbor_unresolved", "no_route", "no_service"] {
        assert!(daemon.dropped(reason) > 0, "{reason}");
    }
    // To all hosts of the other network at once: not a word, and nobody there hears it.
    let before = daemon.dropped("martian");
    says(&ping(&daemon, "a", &["-b", "10.2.0.255"]), "0 received");
    assert!(daemon.dropped("martian") > before);
    daemon.assert_conserved();
    daemon.stop();
}

fn a_route_by_a_container(host: Host) {
    let route = "[[route]]\nnetwork = \"red\"\ndestination = \"10.8.0.0/16\"\nvia = \"10.2.0.10\"\n";
    let configuration = two(&host, TO_RED, "") + route;
    let daemon = host.start(&configuration);
    daemon.exec("b", &["ip", "address", "add", "10.8.3.4/32", "dev", "lo"]);
    says(&ping(&daemon, "a", &["10.8.3.4"]), "1 received");
    let routes = daemon.rows("routes");
    let by =
        routes.iter().find(|row| row["network"] == "blue" && row["destination"] == "10.8.0.0/16").unwrap();
    assert_eq!((&by["via"], &by["to"], &by["type"]), (&"10.2.0.10".into(), &"red".into(), &"static".into()));
    daemon.stop();
}

fn a_route_by_two_containers(host: Host) {
    let route =
        "[[route]]\nnetwork = \"red\"\ndestination = \"10.8.0.0/16\"\nvia = [\"10.2.0.10\", \"10.2.0.11\"]\n";
    let another = format!(
        "[[container]]\nname = \"r\"\nnetns = \"{}\"\ncreate = true\n\
         [[container.interface]]\nnetwork = \"red\"\nip = \"10.2.0.11\"\n",
        host.name("r")
    );
    let configuration = two(&host, TO_RED, "") + &another + route;
    let daemon = host.start(&configuration);
    for router in ["b", "r"] {
        daemon.exec(router, &["ip", "address", "add", "10.8.3.4/32", "dev", "lo"]);
    }
    let sent = |router: &str| daemon.port(router)["tx_bytes"].as_u64().unwrap();
    let before = [sent("b"), sent("r")];
    // Every ping is a flow of its own.
    (0..24).for_each(|_| says(&ping(&daemon, "a", &["10.8.3.4"]), "1 received"));
    for (router, before) in ["b", "r"].iter().zip(before) {
        assert!(sent(router) >= before + 2 * 98, "{router} has its share");
    }
    let rows = daemon.rows("routes");
    let by = rows.iter().find(|row| row["network"] == "blue" && row["destination"] == "10.8.0.0/16").unwrap();
    assert_eq!(by["via"], serde_json::json!(["10.2.0.10", "10.2.0.11"]));
    // One goes. What was its own waits for it once and then takes the other way.
    daemon.exec("r", &["ip", "link", "delete", "eth0"]);
    wait_for("the flows of the one that went", || {
        (0..12).all(|_| ping(&daemon, "a", &["10.8.3.4"]).contains("1 received")).then_some(())
    });
    daemon.assert_conserved();
    daemon.stop();
}

fn a_reload_connects_and_separates(host: Host) {
    let (apart, together) = (two(&host, "", ""), two(&host, TO_RED, ""));
    let daemon = host.start(&apart);
    says(&ping(&daemon, "a", &["10.2.0.10"]), "Net Unreachable");
    daemon.reload(&together);
    says(&ping(&daemon, "a", &["10.2.0.10"]), "1 received");
    daemon.reload(&apart);
    says(&ping(&daemon, "a", &["10.2.0.10"]), "Net Unreachable");
    daemon.stop();
}

fn streams_between_networks_survive_the_engine(host: Host) {
    let configuration = two(&host, TO_RED, TO_BLUE);
    let daemon = host.start(&configuration);
    let stream = Stream::start(&daemon, "a", "b", "10.2.0.10", 16);
    let received = || daemon.port("b")["tx_bytes"].as_u64().unwrap();
    wait_for("the stream to run", || (received() > 1 << 20).then_some(()));
    let old = daemon.engine();
    crate::harness::run("kill", &["-KILL", &old.to_string()]);
    daemon.wait_engine_after(old);
    wait_for("the stream to go on", || (received() > 1 << 20).then_some(()));
    assert!(stream.finish() >= 16 << 20);
    daemon.stop();
}
