//! Kernel stacks talk through the switch: streams, datagrams, tags, floods, and what happens meanwhile.

use std::path::PathBuf;

use serde_json::Value;

use crate::basics::SEND;
use crate::harness::{Background, Daemon, Host, run, text, wait_for};
use crate::{as_both, by_two_workers, on_other_engine};

as_both!(
    tcp_passes_in_super_frames,
    tcp_without_offloads_passes,
    datagrams_pass,
    jumbo_frames_pass,
    everybody_of_64_pings_a_neighbour,
    groups_and_link_local_addresses_work,
    streams_survive_reloads,
    streams_survive_the_engine,
    tagged_frames_keep_their_tag,
    a_flood_harms_no_neighbour,
);

on_other_engine!(
    tcp_passes_in_super_frames,
    tcp_without_offloads_passes,
    datagrams_pass,
    jumbo_frames_pass,
    streams_survive_reloads,
    streams_survive_the_engine,
    a_flood_harms_no_neighbour,
);
by_two_workers!(
    tcp_passes_in_super_frames,
    streams_survive_reloads,
    streams_survive_the_engine,
    a_flood_harms_no_neighbour,
);

const PYTHON: &str = "/usr/bin/python3";

/// A stream that is checked byte by byte: what it says at its end is count and digest.
///
/// The sender sends until a file exists, but a least number of mebibytes.
pub const STREAM: &str = "\
import hashlib, os, socket, sys, time
role, address, stop, least = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
host, port = address.rsplit('/', 1)
family = socket.AF_INET6 if ':' in host else socket.AF_INET
place = socket.getaddrinfo(host, int(port), family, socket.SOCK_STREAM)[0][4]
digest, count = hashlib.sha256(), 0
if role == 'receive':
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen()
        listener.settimeout(30)
        s, _ = listener.accept()
    s.settimeout(30)
    while data := s.recv(1 << 18):
        digest.update(data)
        count += len(data)
else:
    deadline = time.monotonic() + 20
    while True:
        s = socket.socket(family, socket.SOCK_STREAM)
        s.settimeout(30)
        try:
            s.connect(place)
            break
        except ConnectionRefusedError:
            s.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    block = os.urandom((1 << 18) - 8)
    while count < least << 20 or not os.path.exists(stop):
        data = count.to_bytes(8, 'big') + block
        digest.update(data)
        s.sendall(data)
        count += len(data)
    s.shutdown(socket.SHUT_WR)
    assert s.recv(1) == b''
s.close()
print(count, digest.hexdigest())
";

/// A checked stream under way.
pub struct Stream {
    receiver: Background,
    sender: Background,
    stop: PathBuf,
}

impl Stream {
    /// `to` is the address of the receiver; the stream goes on until it is finished.
    pub fn start(daemon: &Daemon, sender: &str, receiver: &str, to: &str, least_mib: u32) -> Self {
        let stop = daemon.host.dir.join(format!("stop-{sender}-{receiver}"));
        let run = |container: &str, words: &[&str]| daemon.background(container, words);
        Self::between(|words| run(sender, words), |words| run(receiver, words), to, least_mib, stop)
    }

    /// The same between any two, each run by a function; `stop` is a file that the sender can see.
    pub fn between(
        sender: impl FnOnce(&[&str]) -> Background,
        receiver: impl FnOnce(&[&str]) -> Background,
        to: &str,
        least_mib: u32,
        stop: PathBuf,
    ) -> Self {
        let _ = std::fs::remove_file(&stop);
        let (address, least) = (format!("{to}/5010"), least_mib.to_string());
        let words = |role| [PYTHON, "-c", STREAM, role, &address, stop.to_str().unwrap(), &least];
        let receiving = receiver(&words("receive"));
        let sending = sender(&words("send"));
        Self { receiver: receiving, sender: sending, stop }
    }

    /// Ends it: all that was sent has come, as it was sent. Its bytes.
    #[track_caller]
    pub fn finish(self) -> u64 {
        std::fs::write(&self.stop, "").unwrap();
        let sent = self.sender.finish();
        assert_eq!(sent, self.receiver.finish());
        sent.split(' ').next().unwrap().parse().unwrap()
    }
}

/// Frames and bytes that came from a container.
pub fn from(daemon: &Daemon, container: &str) -> (u64, u64) {
    let row = daemon.port(container);
    (row["rx_frames"].as_u64().unwrap(), row["rx_bytes"].as_u64().unwrap())
}

/// One second of iperf3: its report.
#[track_caller]
fn iperf(daemon: &Daemon, client: &str, server: &str, options: &[&str]) -> Value {
    let listening = daemon.background(server, &["iperf3", "-s", "-1", "--forceflush"]);
    wait_for("iperf3 to listen", || {
        let sockets = daemon.exec(server, &["cat", "/proc/net/tcp", "/proc/net/tcp6"]);
        sockets.contains(":1451 ").then_some(()) // port 5201
    });
    let mut words = vec!["iperf3", "-J", "-t", "1", "-c", server];
    words.extend(options);
    let said = daemon.exec(client, &words);
    listening.finish();
    serde_json::from_str(&said).unwrap()
}

fn tcp_passes_in_super_frames(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    for (options, sender) in [(&[][..], "a"), (&["-R"][..], "b")] {
        let before = from(&daemon, sender);
        let report = iperf(&daemon, "a", "b", options);
        let received = report["end"]["sum_received"]["bytes"].as_u64().unwrap();
        assert!(received > 10_000_000, "{received} bytes");
        let after = from(&daemon, sender);
        let (frames, bytes) = (after.0 - before.0, after.1 - before.1);
        assert!(bytes > received && bytes / frames > 3000, "{bytes} bytes in {frames} frames from {sender}");
    }
    let stream = Stream::start(&daemon, "a", "b", "10.1.0.3", 32);
    assert!(stream.finish() >= 32 << 20);
    assert_eq!(daemon.dropped("bad_offload") + daemon.dropped("tx_error") + daemon.dropped("exceeds_mtu"), 0);
    assert_eq!(daemon.port("b")["gso"], "full", "the kernel took them all");
    daemon.stop();
}

fn tcp_without_offloads_passes(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    daemon.exec("a", &["ethtool", "-K", "eth0", "tso", "off", "gso", "off", "tx", "off"]);
    for (sender, receiver, to) in [("a", "b", "10.1.0.3"), ("b", "a", "10.1.0.2")] {
        let before = from(&daemon, sender);
        let bytes = Stream::start(&daemon, sender, receiver, to, 16).finish();
        assert!(bytes >= 16 << 20);
        let after = from(&daemon, sender);
        let mean = (after.1 - before.1) / (after.0 - before.0);
        assert_eq!(mean > 1600, sender == "b", "{mean} bytes a frame from {sender}");
    }
    iperf(&daemon, "a", "b", &[]);
    iperf(&daemon, "a", "b", &["-R"]);
    daemon.stop();
}

/// Datagrams that the kernel is asked to cut (UDP_SEGMENT): one super-frame each, with a number in every datagram.
const SEGMENTS: &str = "\
import socket, sys
role, host = sys.argv[1], sys.argv[2]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
if role == 'receive':
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    s.bind((host, 5011))
    s.settimeout(20)
    open(sys.argv[3], 'w').close()
    for number in range(40):
        data = s.recv(65535)
        assert data == number.to_bytes(2, 'big') * 700, (number, len(data), data[:4])
    print('all 40')
else:
    s.setsockopt(socket.SOL_UDP, 103, 1400)
    s.sendto(b''.join(number.to_bytes(2, 'big') * 700 for number in range(40)), (host, 5011))
";

fn datagrams_pass(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    let report = iperf(&daemon, "a", "b", &["-u", "-b", "20M", "-l", "1400"]);
    let sum = &report["end"]["sum"];
    assert!(sum["packets"].as_u64() > Some(1000), "{sum}");
    assert!(sum["lost_percent"].as_f64() < Some(5.0), "{sum}");

    let ready = daemon.host.dir.join("ready");
    let words = |role| [PYTHON, "-c", SEGMENTS, role, "10.1.0.3", ready.to_str().unwrap()];
    let receiving = daemon.background("b", &words("receive"));
    wait_for("the receiver", || ready.exists().then_some(()));
    let before = from(&daemon, "a");
    daemon.exec("a", &words("send"));
    assert_eq!(receiving.finish(), "all 40\n");
    let after = from(&daemon, "a");
    assert!(after.1 - before.1 > 56_000 && after.0 - before.0 < 20, "one super-frame: {before:?} {after:?}");
    // Fragments of a datagram that is larger than the MTU.
    daemon.exec("a", &["ping", "-n", "-c", "1", "-W", "5", "-s", "40000", "b"]);
    daemon.stop();
}

fn jumbo_frames_pass(host: Host) {
    let configuration = host.lab(&["a", "b"], "mtu = 9000");
    let daemon = host.start(&configuration);
    assert_eq!((&daemon.link("a", "eth0")["mtu"], &daemon.port("a")["mtu"]), (&9000.into(), &9000.into()));
    let ping =
        |size: &str| daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "5", "-M", "do", "-s", size, "b"]);
    let output = ping("8972");
    assert!(output.status.success(), "{}", text(&output));
    assert!(!ping("8973").status.success());
    assert!(Stream::start(&daemon, "a", "b", "10.1.0.3", 32).finish() >= 32 << 20);
    // Who makes its own MTU larger is heard no further than the network's.
    daemon.exec("a", &["ip", "link", "set", "eth0", "mtu", "9100"]);
    let large = ["ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", "9000", "b"];
    assert!(!daemon.try_exec("a", &large).status.success());
    assert_eq!(daemon.dropped("exceeds_mtu"), 1);
    daemon.stop();
}

fn everybody_of_64_pings_a_neighbour(host: Host) {
    let names: Vec<String> = (0..64).map(|number| format!("c{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let configuration = host.lab(&names, "");
    let daemon = host.start(&configuration);
    assert!(daemon.ready.starts_with("ready: 64 ports up, 0 waiting"), "{}", daemon.ready);
    for (from, to) in names.iter().zip(names.iter().cycle().skip(1)) {
        daemon.ping(from, to);
    }
    let rows = daemon.rows("fdb");
    let learned: std::collections::BTreeSet<_> = rows
        .iter()
        .filter(|row| row["type"] == "dynamic")
        .map(|row| row["container"].as_str().unwrap())
        .collect();
    assert_eq!(learned.len(), 64, "{rows:?}");
    assert_eq!(rows.len(), 64, "one address each");
    daemon.stop();
}

fn groups_and_link_local_addresses_work(host: Host) {
    let configuration = host.lab(&["a", "b", "c"], "");
    let daemon = host.start(&configuration);
    for name in ["b", "c"] {
        let listen = "echo 0 > /proc/sys/net/ipv4/icmp_echo_ignore_broadcasts";
        daemon.exec(name, &["sh", "-c", listen]);
    }
    let said = daemon.exec("a", &["ping", "-n", "-b", "-c", "2", "-i", "0.1", "-W", "5", "10.1.0.255"]);
    assert!(said.contains("from 10.1.0.3:") && said.contains("from 10.1.0.4:"), "{said}");

    // Usable once the kernel has seen that nobody else has it (RFC 4862 section 5.4).
    let link_local = |name: &str| {
        wait_for("a link-local address", || {
            let link = daemon.link(name, "eth0");
            let all = link["addr_info"].as_array().unwrap();
            let ours =
                all.iter().find(|address| address["scope"] == "link" && address["family"] == "inet6")?;
            ours["tentative"].is_null().then(|| ours["local"].as_str().unwrap().to_owned())
        })
    };
    let (_, b) = (link_local("a"), link_local("b"));
    daemon.exec("a", &["ping", "-6", "-n", "-c", "2", "-i", "0.1", "-W", "5", &format!("{b}%eth0")]);
    let said = daemon.exec("a", &["ping", "-6", "-n", "-c", "2", "-i", "0.1", "-W", "5", "ff02::1%eth0"]);
    assert!(said.contains(&format!("from {b}%eth0:")), "{said}");
    daemon.stop();
}

/// A ping every 10 ms, with times.
pub fn train(daemon: &Daemon, from: &str, to: &str) -> Background {
    let ping = daemon.background(from, &["ping", "-n", "-D", "-i", "0.01", "-W", "5", "-c", "100000", to]);
    wait_for("the first pings", || daemon.port(to)["tx_frames"].as_u64().filter(|frames| *frames > 10));
    ping
}

/// Ends a train: its times of arrival, how many did not arrive, and its last lines.
#[track_caller]
pub fn arrivals(ping: Background) -> (Vec<f64>, usize, String) {
    ping.signal("-INT");
    let output = ping.end();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let times = said.lines().filter(|line| line.contains(" bytes from "));
    let times =
        times.map(|line| line.trim_start_matches('[').split(']').next().unwrap().parse().unwrap()).collect();
    let summary = said.lines().rev().take(3).collect::<Vec<_>>().join("\n");
    // What is on its way when the train ends is counted as lost by ping, and is not: up to the last one all came.
    let number = |line: &str| line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse::<usize>().ok();
    let last = said.lines().filter(|line| line.contains(" bytes from ")).filter_map(number).max();
    let lost = last.unwrap_or(0).saturating_sub(Vec::len(&times));
    (times, lost, summary)
}

fn streams_survive_reloads(host: Host) {
    let lab = |host: &Host, round: u32| {
        let names: &[&str] = if round.is_multiple_of(2) { &["a", "b"] } else { &["a", "b", "c"] };
        host.lab(names, &format!("storm = {}\nageing = {}", 10_000 + round, 300 + round))
    };
    let configuration = lab(&host, 0);
    let daemon = host.start(&configuration);
    let streams =
        [Stream::start(&daemon, "a", "b", "10.1.0.3", 32), Stream::start(&daemon, "b", "a", "10.1.0.2", 32)];
    let ping = train(&daemon, "a", "b");
    let index = daemon.link("a", "eth0")["ifindex"].clone();
    for round in 1..=20 {
        let said = daemon.reload(&lab(&daemon.host, round));
        assert!(said.contains("network blue: ageing, storm changed"), "{said}");
        assert!(said.contains("container c "), "{said}");
    }
    let (times, lost, summary) = arrivals(ping);
    assert!(times.len() > 20 && lost == 0, "{lost} lost: {summary}");
    for stream in streams {
        assert!(stream.finish() >= 32 << 20);
    }
    assert_eq!(daemon.link("a", "eth0")["ifindex"], index);
    daemon.stop();
}

fn streams_survive_the_engine(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    daemon.ctl(&["fdb", "add", "blue", "02:00:00:00:00:77", "b"]);
    let identity = |daemon: &Daemon| {
        ["a", "b"].map(|name| {
            let link = daemon.link(name, "eth0");
            (link["ifindex"].clone(), link["address"].clone(), link["addr_info"][0]["local"].clone())
        })
    };
    let before = identity(&daemon);
    let stream = Stream::start(&daemon, "a", "b", "10.1.0.3", 32);
    let ping = train(&daemon, "b", "a");
    for restarts in 1..=2 {
        let engine = daemon.engine();
        run("kill", &["-KILL", &engine.to_string()]);
        daemon.wait_engine_after(engine);
        // The stream goes on: frames flow through the new engine.
        wait_for("the stream", || (from(&daemon, "a").1 > 1_000_000).then_some(()));
        assert_eq!(daemon.rows("status")[0]["engine_restarts"], restarts);
    }
    assert!(stream.finish() >= 32 << 20);
    // Only pings are left on the way: some more of them, so that a gap would show.
    let so_far = daemon.port("b")["tx_frames"].as_u64().unwrap();
    wait_for("more pings", || daemon.port("b")["tx_frames"].as_u64().filter(|frames| *frames > so_far + 20));
    let (times, _, summary) = arrivals(ping);
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    let longest = gaps.fold(0.0, f64::max);
    assert!(times.len() > 10 && longest < 1.0, "{longest} s without an answer; {summary}");
    assert_eq!(identity(&daemon), before);
    let fdb = daemon.rows("fdb");
    let fixed = fdb.iter().find(|row| row["mac"] == "02:00:00:00:00:77").unwrap();
    assert_eq!((&fixed["type"], &fixed["container"]), (&"static".into(), &"b".into()));
    daemon.stop();
}

/// Waits for frames of an EtherType for experiments and tells their tags; the kernel hands tags over beside the frame.
const TAGS: &str = "\
import socket, struct, sys
count, ready = int(sys.argv[1]), sys.argv[2]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.setsockopt(263, 8, 1)  # PACKET_AUXDATA
s.bind(('eth0', 3))
s.settimeout(20)
open(ready, 'w').close()
while count:
    data, aux, _, address = s.recvmsg(65535, 512)
    if address[2] == socket.PACKET_OUTGOING or b'tagged frame' not in data:
        continue
    count -= 1
    status, _, _, _, _, tci, tpid = struct.unpack('IIIHHHH', aux[0][2])
    tag = '%04x:%04x' % (tpid, tci) if status & 16 else 'none'
    print(tag, data[12:14].hex(), data[6:12].hex(':'), data[14:26].decode(errors='replace'))
";

fn tagged_frames_keep_their_tag(host: Host) {
    let configuration = host.lab(&["a", "b", "c"], "");
    let daemon = host.start(&configuration);
    let listen = |name: &str, count: &str| {
        let ready = daemon.host.dir.join(format!("ready-{name}"));
        let _ = std::fs::remove_file(&ready);
        let words = [PYTHON, "-c", TAGS, count, ready.to_str().unwrap()];
        let listening = daemon.background(name, &words);
        wait_for("a listener", || ready.exists().then_some(()));
        listening
    };
    let (a, b, c) = ("02:42:0a:01:00:02", "02:42:0a:01:00:03", "02:42:0a:01:00:04");
    let body: String = "tagged frame".bytes().map(|byte| format!("{byte:02x}")).collect();
    let send = |from: &str, to: &str, source: &str, tag: &str| {
        daemon.exec(from, &[PYTHON, "-c", SEND, to, source, tag, "88b5", &body]);
    };
    let at = |vlan: u64, mac: &str| {
        let rows = daemon.rows("fdb");
        let row = rows.iter().find(|row| row["vlan"] == vlan && row["mac"] == mac);
        row.map(|row| row["container"].as_str().unwrap().to_owned())
    };
    // Nobody spoke in VLAN 10 yet: everybody hears it. Priority 5 comes along.
    let (at_b, at_c) = (listen("b", "1"), listen("c", "1"));
    send("a", b, a, "8100a00a");
    let heard = format!("8100:a00a 88b5 {a} tagged frame\n");
    assert_eq!((at_b.finish(), at_c.finish()), (heard.clone(), heard));
    assert_eq!((at(10, a), at(10, b)), (Some("a".into()), None));
    // The answer goes to `a` alone, and then so does everything.
    let (at_a, at_c) = (listen("a", "1"), listen("c", "2"));
    send("b", a, b, "8100000a");
    assert_eq!(at_a.finish(), format!("8100:000a 88b5 {b} tagged frame\n"));
    let at_b = listen("b", "1");
    send("a", b, a, "8100000a");
    assert_eq!(at_b.finish(), format!("8100:000a 88b5 {a} tagged frame\n"));
    // Tables of VLANs are apart: in VLAN 20 nobody knows `b`. These are the first two that `c` hears.
    send("a", b, a, "81000014");
    send("b", "ff:ff:ff:ff:ff:ff", b, "8100001e");
    let heard = format!("8100:0014 88b5 {a} tagged frame\n8100:001e 88b5 {b} tagged frame\n");
    assert_eq!(at_c.finish(), heard);
    assert_eq!((at(20, a), at(20, b), at(30, b)), (Some("a".into()), None, Some("b".into())));
    let table = daemon.ctl(&["show", "fdb"]);
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(words.iter().any(|line| line[1] == "10" && line[2] == b && line[5] == "b"), "{table}");
    // A priority tag (VLAN 0) is the untagged VLAN; a forged source is forged behind a tag as well.
    send("c", b, c, "81002000");
    wait_for("c in VLAN 0", || at(0, c));
    let before = daemon.dropped("spoofed_mac");
    send("c", b, a, "8100000a");
    wait_for("the forgery", || (daemon.dropped("spoofed_mac") > before).then_some(()));
    assert_eq!(at(10, a), Some("a".into()));
    daemon.stop();
}

/// Frames to an address that nobody has, as fast as one process can, until a file exists.
const FLOOD: &str = "\
import os, socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
frame = bytes.fromhex('0200000000990242' + '0a010004' + '88b5').ljust(60, b'\\0')
while not os.path.exists(sys.argv[1]):
    for _ in range(1000):
        try:
            s.send(frame)
        except OSError:
            pass
";

fn a_flood_harms_no_neighbour(host: Host) {
    let configuration = host.lab(&["a", "b", "c"], "storm = 500");
    let daemon = host.start(&configuration);
    daemon.ping("a", "b");
    let stop = daemon.host.dir.join("stop");
    let flood = daemon.background("c", &[PYTHON, "-c", FLOOD, stop.to_str().unwrap()]);
    wait_for("the flood", || (daemon.dropped("storm") > 1000).then_some(()));
    let others = daemon.port("b")["tx_frames"].as_u64().unwrap();
    let ping = ["ping", "-n", "-q", "-i", "0.01", "-c", "100", "-W", "5", "b"];
    let said = daemon.exec("a", &ping);
    assert!(said.contains(" 0% packet loss"), "{said}");
    let stormed = daemon.dropped("storm");
    wait_for("more of it", || (daemon.dropped("storm") > stormed).then_some(()));
    std::fs::write(&stop, "").unwrap();
    flood.finish();
    let rows: Vec<Value> =
        serde_json::from_str(&daemon.ctl(&["--json", "show", "drops", "--ports"])).unwrap();
    let storms: Vec<_> = rows.iter().filter(|row| row["reason"] == "storm").collect();
    assert!(storms.len() == 1 && storms[0]["container"] == "c", "{rows:?}");
    // What came through is its budget: far less than what it sent.
    let through = daemon.port("b")["tx_frames"].as_u64().unwrap() - others;
    let sent = from(&daemon, "c").0;
    assert!(through < sent / 4, "{through} of {sent} frames came to a neighbour");
    daemon.stop();
}
