//! VLANs end to end: kernel stacks on access ports, and stations that tag by hand on trunks, since the kernel of a test
//! machine may have no VLAN devices.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use crate::addresses::{script, udhcpc};
use crate::basics::SEND;
use crate::harness::{Daemon, Host, PYTHON, wait_for};
use crate::uplink::{Outside, TCP, TCP_CLIENT, python};
use crate::{as_both, on_other_engine};

as_both!(
    access_ports_and_trunks_meet_in_their_vlan,
    super_frames_pass_with_and_without_a_tag,
    the_gateway_is_in_its_vlan,
    addresses_come_by_dhcp_in_the_gateways_vlan,
    a_reload_moves_a_port_to_another_vlan,
    isolated_ports_reach_all_but_each_other,
    a_transparent_network_passes_what_bridges_say,
    h08_no_frame_comes_out_in_another_vlan,
);

on_other_engine!(
    access_ports_and_trunks_meet_in_their_vlan,
    super_frames_pass_with_and_without_a_tag,
    h08_no_frame_comes_out_in_another_vlan,
);

const STATION: &str = include_str!("vlan.py");
/// The station's, which nobody was given.
const MAC: &str = "02:00:00:00:00:77";

/// Network blue, and what each of its containers says of VLANs.
fn lab(host: &Host, network: &str, containers: &[(&str, &str)]) -> String {
    let mut text = format!("[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\n{network}\n");
    for (name, vlans) in containers {
        let netns = host.name(name);
        text += &format!(
            "[[container]]\nname = \"{name}\"\nnetns = \"{netns}\"\ncreate = true\n\
             [[container.interface]]\nnetwork = \"blue\"\n{vlans}\n"
        );
    }
    host.configuration(&text)
}

/// 10.1.0.2 to .4 on access ports, .5 a trunk, .6 a trunk whose untagged frames are in VLAN 10, .7 all.
const ALL: [(&str, &str); 6] = [
    ("a", "vlan = 10"),
    ("b", "vlan = 10"),
    ("c", "vlan = 20"),
    ("t", "trunk = [10, 20]"),
    ("n", "vlan = 10\ntrunk = [20]"),
    ("all", ""),
];

/// A station that goes on until it is dropped, or its end is read.
struct Station(Child, BufReader<std::process::ChildStdout>);

impl Station {
    #[track_caller]
    fn start(daemon: &Daemon, container: &str, words: &[&str]) -> Self {
        let words = [&[PYTHON, "-c", STATION], words].concat();
        let mut command = daemon.exec_command(container, &words);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{container}");
        Self(child, said)
    }

    /// What it said until its end.
    fn heard(mut self) -> Vec<String> {
        let mut text = String::new();
        self.1.read_to_string(&mut text).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn station(daemon: &Daemon, container: &str, words: &[&str]) -> String {
    python(daemon, container, STATION, words).trim().to_owned()
}

/// An echo by hand, in a VLAN.
fn echo(daemon: &Daemon, container: &str, vid: &str, to: &str, size: &str) -> String {
    station(daemon, container, &["ping", vid, MAC, "10.1.0.77", to, size])
}

fn reaches(daemon: &Daemon, from: &str, to: &str) -> bool {
    daemon.try_exec(from, &["ping", "-n", "-c", "1", "-W", "1", to]).status.success()
}

fn fdb(daemon: &Daemon) -> Vec<(u64, String, String)> {
    let word = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
    let rows = daemon.rows("fdb");
    rows.iter().map(|row| (row["vlan"].as_u64().unwrap(), word(row, "mac"), word(row, "container"))).collect()
}

fn access_ports_and_trunks_meet_in_their_vlan(host: Host) {
    let configuration = lab(&host, "", &ALL);
    let daemon = host.start(&configuration);
    // Kernel to kernel: untagged at both ends, native or access.
    daemon.ping("a", "10.1.0.3");
    daemon.ping("a", "10.1.0.6");
    daemon.ping("n", "10.1.0.3");
    assert!(!reaches(&daemon, "a", "10.1.0.4"), "another VLAN");
    assert!(!reaches(&daemon, "c", "10.1.0.2"));
    assert!(!reaches(&daemon, "a", "10.1.0.7"), "in no VLAN at all");
    // A trunk to access ports and back, with a frame as large as the MTU and a tag.
    assert_eq!(echo(&daemon, "t", "10", "10.1.0.2", "1472"), "02:42:0a:01:00:02 1472");
    assert_eq!(echo(&daemon, "t", "20", "10.1.0.4", "56"), "02:42:0a:01:00:04 56");
    assert_eq!(echo(&daemon, "t", "10", "10.1.0.6", "56"), "02:42:0a:01:00:06 56");
    assert_eq!(echo(&daemon, "all", "20", "10.1.0.4", "56"), "02:42:0a:01:00:04 56");
    let known = fdb(&daemon);
    for (vlan, container) in [(10, "t"), (20, "all")] {
        let entry = (vlan, MAC.to_owned(), container.to_owned());
        assert!(known.contains(&entry), "no {entry:?} in {known:?}");
    }
    assert!(known.contains(&(10, "02:42:0a:01:00:02".into(), "a".into())), "{known:?}");
    // A static entry without `--vlan` is where the port's untagged frames are.
    daemon.ctl(&["fdb", "add", "blue", "02:00:00:00:00:79", "a"]);
    assert!(fdb(&daemon).contains(&(10, "02:00:00:00:00:79".into(), "a".into())));
    // What it does not carry.
    let before = daemon.dropped("vlan_not_allowed");
    assert_eq!(echo(&daemon, "t", "30", "10.1.0.2", "56"), "silence");
    assert_eq!(echo(&daemon, "t", "20", "10.1.0.2", "56"), "silence");
    assert_eq!(echo(&daemon, "t", "0", "10.1.0.2", "56"), "silence");
    assert_eq!(echo(&daemon, "a", "10", "10.1.0.3", "56"), "silence", "tagged on an access port");
    assert!(daemon.dropped("vlan_not_allowed") >= before + 3);
    // An access port to who is behind a trunk.
    let served = Station::start(&daemon, "t", &["serve", "10", "02:00:00:00:00:78", "10.1.0.78"]);
    daemon.exec("a", &["ping", "-n", "-c", "2", "-W", "5", "-s", "1472", "-M", "do", "10.1.0.78"]);
    assert!(!reaches(&daemon, "c", "10.1.0.78"));
    drop(served);
    let table = daemon.ctl(&["show", "ports"]);
    for (name, vlan) in [("a", "10"), ("t", "trunk:10,20"), ("n", "trunk:20/native:10"), ("all", "-")] {
        let line = table.lines().find(|line| line.split_whitespace().nth(2) == Some(name)).unwrap();
        assert_eq!(line.split_whitespace().nth(6), Some(vlan), "{table}");
    }
    daemon.assert_conserved();
    daemon.stop();
}

/// Sends 40 datagrams in one go, by the kernel's own segmentation.
const SEGMENTED: &str = "\
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT
s.sendto(b'super-frame '.ljust(1000, b'x') * 40, (sys.argv[1], 9))
";

/// Takes datagrams to l4 port 9, says how many of how many bytes.
const TAKE: &str = "\
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
s.bind(('', 9))
s.settimeout(10)
open(sys.argv[1], 'w').close()
got = [s.recv(65535) for _ in range(40)]
assert b''.join(got) == (b'super-frame ' * 3334)[:40000]
print({len(data) for data in got})
";

fn super_frames_pass_with_and_without_a_tag(host: Host) {
    let configuration = lab(&host, "", &ALL);
    let daemon = host.start(&configuration);
    // From an access port to a trunk: one frame still, and tagged.
    let needle = "super-frame ".bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let heard = Station::start(&daemon, "t", &["hear", &needle, &needle]);
    let station = "02:00:00:00:00:78";
    daemon.exec("a", &["ip", "neighbor", "replace", "10.1.0.78", "lladdr", station, "dev", "eth0"]);
    python(&daemon, "a", SEGMENTED, &["10.1.0.78"]);
    let length = 14 + 28 + 40_000;
    assert_eq!(heard.heard(), [format!("8100:000a 0800 {length} {}", "78".repeat(8))]);
    // From a trunk to an access port: taken apart by the receiver's kernel only.
    let ready = daemon.host.dir.join("ready-b");
    let taken = daemon.background("b", &[PYTHON, "-c", TAKE, ready.to_str().unwrap()]);
    wait_for("a receiver", || ready.exists().then_some(()));
    let before = daemon.port("b")["tx_frames"].as_u64().unwrap();
    self::station(&daemon, "t", &["super", "10", MAC, "02:42:0a:01:00:03", "10.1.0.77", "10.1.0.3"]);
    assert_eq!(taken.finish().trim(), "{1000}");
    assert!(daemon.port("b")["tx_frames"].as_u64().unwrap() - before < 10, "it came in pieces");
    for name in ["t", "b"] {
        assert_eq!(daemon.port(name)["gso"], "full", "{name}");
    }
    daemon.assert_conserved();
    daemon.stop();
}

fn the_gateway_is_in_its_vlan(mut host: Host) {
    let outside = Outside::new(&mut host);
    let configuration = lab(&host, "vlan = 10", &ALL) + "[uplink]\nkind = \"sockets\"\n";
    let daemon = host.start(&configuration);
    daemon.ping("a", "10.1.0.1");
    daemon.ping("n", "10.1.0.1");
    assert!(!reaches(&daemon, "c", "10.1.0.1"), "in VLAN 20");
    assert!(!reaches(&daemon, "all", "10.1.0.1"), "in no VLAN");
    assert_eq!(echo(&daemon, "t", "10", "10.1.0.1", "1472"), "02:42:0a:01:00:01 1472");
    assert_eq!(echo(&daemon, "all", "10", "10.1.0.1", "56"), "02:42:0a:01:00:01 56");
    assert_eq!(echo(&daemon, "t", "20", "10.1.0.1", "56"), "silence");
    assert_eq!(echo(&daemon, "all", "0", "10.1.0.1", "56"), "silence");
    let dig = daemon.exec("a", &["dig", "+short", "+tries=1", "+time=5", "@10.1.0.1", "b"]);
    assert_eq!(dig.trim(), "10.1.0.3");
    // Who is behind a trunk is found and spoken to in the VLAN.
    let known = daemon.rows("neighbors");
    assert!(known.iter().all(|row| row["container"] != "c"), "{known:?}");
    let _tcp = outside.serve(TCP, "/proc/net/tcp");
    for name in ["a", "n"] {
        let seen = python(&daemon, name, TCP_CLIENT, &[&outside.far]);
        assert_eq!(seen.trim(), format!("seen as {}", outside.near));
    }
    daemon.assert_conserved();
    daemon.stop();
}

fn addresses_come_by_dhcp_in_the_gateways_vlan(host: Host) {
    let script = script(&host);
    let script = script.to_str().unwrap();
    let configuration = lab(
        &host,
        "vlan = 10\ndhcp = true",
        &[("vm", "vlan = 10"), ("n", "vlan = 10\ntrunk = [20]"), ("x", "vlan = 20")],
    );
    let daemon = host.start(&configuration);
    for (name, address) in [("vm", "10.1.0.2"), ("n", "10.1.0.3")] {
        let got = udhcpc(&daemon, name, "eth0", script);
        assert!(got.starts_with(&format!("got bound eth0 {address}/24 ")), "{got}");
    }
    daemon.ping("vm", "10.1.0.3");
    daemon.ping("vm", "10.1.0.1");
    let words =
        ["busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-s", script, "-t", "1", "-T", "1", "-A", "1"];
    let output = daemon.try_exec("x", &words);
    assert!(!output.status.success(), "nobody answers in VLAN 20");
    daemon.assert_conserved();
    daemon.stop();
}

fn a_reload_moves_a_port_to_another_vlan(host: Host) {
    let before = lab(&host, "vlan = 10", &ALL);
    let mut moved = ALL;
    moved[0].1 = "vlan = 20";
    let after = lab(&host, "vlan = 10", &moved);
    let gateway_moved = lab(&host, "vlan = 20", &moved);
    let daemon = host.start(&before);
    daemon.ping("a", "10.1.0.3");
    daemon.ping("a", "10.1.0.1");
    daemon.ping("b", "10.1.0.1");
    let at = |vlan: u64| fdb(&daemon).contains(&(vlan, "02:42:0a:01:00:02".into(), "a".into()));
    assert!(at(10));
    let said = daemon.reload(&after);
    assert!(said.contains("vlan"), "{said}");
    assert!(!at(10), "what was learned there is forgotten");
    daemon.ping("a", "10.1.0.4");
    assert!(at(20) && !at(10));
    assert!(!reaches(&daemon, "a", "10.1.0.3") && !reaches(&daemon, "a", "10.1.0.1"));
    daemon.ping("b", "10.1.0.1");
    daemon.reload(&gateway_moved);
    assert!(!reaches(&daemon, "b", "10.1.0.1"));
    daemon.ping("a", "10.1.0.1");
    assert!(daemon.rows("neighbors").iter().all(|row| row["container"] != "b"));
    daemon.assert_conserved();
    daemon.stop();
}

fn isolated_ports_reach_all_but_each_other(host: Host) {
    let isolated = "isolated = true";
    let configuration = lab(&host, "", &[("a", isolated), ("b", isolated), ("c", ""), ("d", "")]);
    let daemon = host.start(&configuration);
    for (from, to) in [("a", "10.1.0.4"), ("c", "10.1.0.2"), ("b", "10.1.0.5"), ("c", "10.1.0.5")] {
        daemon.ping(from, to);
    }
    daemon.ping("a", "10.1.0.1");
    daemon.ping("b", "10.1.0.1");
    assert!(!reaches(&daemon, "a", "10.1.0.3"), "its question is not heard");
    let before = daemon.dropped("isolated");
    for (name, other, mac) in [("a", "10.1.0.3", "02:42:0a:01:00:03"), ("b", "10.1.0.2", "02:42:0a:01:00:02")]
    {
        daemon.exec(name, &["ip", "neighbor", "replace", other, "lladdr", mac, "dev", "eth0"]);
    }
    assert!(!reaches(&daemon, "a", "10.1.0.3"), "nor what it knows");
    assert!(daemon.dropped("isolated") > before);
    // The gateway is no way around it.
    for (name, other) in [("a", "10.1.0.3"), ("b", "10.1.0.2")] {
        daemon.exec(name, &["ip", "route", "add", other, "via", "10.1.0.1"]);
    }
    let before = daemon.dropped("isolated");
    assert!(!reaches(&daemon, "a", "10.1.0.3"));
    assert!(daemon.dropped("isolated") > before);
    daemon.exec("c", &["ip", "route", "add", "10.1.0.5", "via", "10.1.0.1"]);
    daemon.ping("c", "10.1.0.5");
    assert_eq!((&daemon.port("a")["isolated"], &daemon.port("c")["isolated"]), (&true.into(), &false.into()));
    daemon.assert_conserved();
    daemon.stop();
}

fn a_transparent_network_passes_what_bridges_say(host: Host) {
    let ports = [("a", ""), ("b", ""), ("t", "trunk = [10]"), ("x", "vlan = 10")];
    let (opaque, transparent) = (lab(&host, "", &ports), lab(&host, "transparent = true", &ports));
    let daemon = host.start(&opaque);
    let mark = "6c6c6470206d61726b"; // "lldp mark"
    let (group, mac) = ("01:80:c2:00:00:0e", "02:42:0a:01:00:02");
    let send = |to: &str, ethertype: &str, body: &str| {
        daemon.exec("a", &[PYTHON, "-c", SEND, to, mac, &format!("{ethertype}{body}")]);
    };
    let before = daemon.dropped("reserved_group");
    let heard = Station::start(&daemon, "b", &["hear", mark, &format!("{mark}ff")]);
    send(group, "88cc", mark);
    send("ff:ff:ff:ff:ff:ff", "88b5", &format!("{mark}ff"));
    assert_eq!(heard.heard().len(), 1, "the broadcast only");
    assert_eq!(daemon.dropped("reserved_group"), before + 1);
    daemon.reload(&transparent);
    let listeners = ["b", "t", "x"].map(|name| {
        let last = if name == "b" { format!("{mark}ff") } else { format!("{mark}01") };
        Station::start(&daemon, name, &["hear", mark, &last])
    });
    send(group, "88cc", &format!("{mark}00"));
    send("01:80:c2:00:00:01", "8808", &format!("{mark}02"));
    send("01:80:c2:00:00:00", "88cc", &format!("{mark}01"));
    send("ff:ff:ff:ff:ff:ff", "88b5", &format!("{mark}ff"));
    // The last one, from the trunk's own VLAN, so that the access port has something to end with.
    let tagged = format!("8100000a88cc{mark}01");
    daemon.exec("t", &[PYTHON, "-c", SEND, group, "02:42:0a:01:00:04", &tagged]);
    let [at_b, at_t, at_x] = listeners.map(|station| {
        let heard = station.heard();
        heard.iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    });
    assert_eq!(at_b[..3], ["none 88cc", "none 88cc", "none 88b5"], "{at_b:?}");
    assert_eq!(at_t, ["none 88cc", "none 88cc"], "a trunk is a cable to them");
    assert_eq!(at_x, ["none 88cc"], "its own VLAN's only");
    assert_eq!(daemon.dropped("reserved_group"), before + 2, "PAUSE is about one link");
    daemon.assert_conserved();
    daemon.stop();
}

/// Broadcasts from every kind of port, with all kinds of tags; each frame ends in who sent it and which one it is.
const TAGS: &str = "\
import itertools, socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
own, me = s.getsockname()[4], bytes.fromhex(sys.argv[1])
def send(tags, number):
    body = b'h08 needle' + bytes(50) + me + number.to_bytes(6, 'big')
    s.send(b'\\xff' * 6 + own + b''.join(bytes.fromhex(tag) for tag in tags) + b'\\x88\\xb5' + body)
vids, tpids = ['0000', '000a', '0014', '001e', '0ffe', '0fff', 'e00a'], ['8100', '88a8', '9100']
number = 0
for depth in range(0, 3):
    for tags in itertools.product([tpid + vid for tpid in tpids for vid in vids], repeat=depth):
        send(tags, number)
        number += 1
for depth in range(3, 9):
    for first in vids:
        send(['8100' + first] + ['81000014'] * (depth - 1), number)
        number += 1
";

/// The VLAN of a frame of [`TAGS`], by who sent it; `None`: it must come out nowhere.
fn vlan_of(from: &str, number: u64) -> Option<u16> {
    let vids = [0, 10, 20, 30, 0xffe, 0xfff, 10];
    let vid = |place: u64| vids[usize::try_from(place % 7).unwrap()];
    let tags = match number {
        0 => vec![],
        1..22 => vec![vid(number - 1)],
        22..463 => vec![vid((number - 22) / 21), vid((number - 22) % 21)],
        _ => return None, // more than two
    };
    if tags.contains(&0xfff) || (tags.len() == 2 && tags[0] == 0) {
        return None;
    }
    match (from, tags.first().copied().unwrap_or(0)) {
        ("0a01" | "0a03", 0) => Some(10),
        ("1401", 0) => Some(20),
        ("0a02", vid @ (10 | 20)) | ("0a03", vid @ 20) | ("0001", vid) => Some(vid),
        _ => None,
    }
}

fn h08_no_frame_comes_out_in_another_vlan(host: Host) {
    let configuration = lab(&host, "storm = 0", &ALL);
    let daemon = host.start(&configuration);
    let needle: String = "h08 needle".bytes().map(|byte| format!("{byte:02x}")).collect();
    let end = format!("{:012x}", 0xffff);
    // Whatever comes, in which VLAN does it end?
    let senders = [("a", "0a01"), ("c", "1401"), ("t", "0a02"), ("n", "0a03"), ("all", "0001")];
    let listeners: Vec<_> = ALL
        .iter()
        .map(|(name, _)| (*name, Station::start(&daemon, name, &["hear", &needle, &end])))
        .collect();
    for (name, mark) in senders {
        daemon.exec(name, &[PYTHON, "-c", TAGS, mark]);
    }
    // The last of each: to VLAN 10 from `t`, to VLAN 20 from `c`, and to those in none from nobody but `all` itself.
    let goodbye = |container: &str, mac: &str, tag: &str| {
        let body = format!("{tag}88b5{needle}{}{mark}{end}", "00".repeat(50), mark = "ffff");
        daemon.exec(container, &[PYTHON, "-c", SEND, "ff:ff:ff:ff:ff:ff", mac, &body]);
    };
    goodbye("b", "02:42:0a:01:00:03", "");
    goodbye("n", "02:42:0a:01:00:06", "81000014");
    goodbye("t", "02:42:0a:01:00:05", "8100000a");
    for (name, listener) in listeners {
        let heard = listener.heard();
        assert!(heard.last().is_some_and(|line| line.ends_with(&end)), "{name}: {heard:?}");
        for line in heard.iter().filter(|line| !line.ends_with(&end)) {
            let mark = line.rsplit(' ').next().unwrap();
            let (from, number) = mark.split_at_checked(4).unwrap();
            let vid = vlan_of(from, u64::from_str_radix(number, 16).unwrap());
            let carries: &[u16] = match name {
                "a" | "b" => &[10],
                "c" => &[20],
                "t" | "n" => &[10, 20],
                _ => &[0, 10, 20, 30, 0xffe],
            };
            assert!(vid.is_some_and(|vid| carries.contains(&vid)), "{name} heard {line}, of VLAN {vid:?}");
        }
    }
    for reason in ["bad_vlan", "vlan_not_allowed"] {
        assert!(daemon.dropped(reason) > 100, "{reason}");
    }
    daemon.ping("a", "10.1.0.3");
    daemon.assert_conserved();
    daemon.stop();
}
