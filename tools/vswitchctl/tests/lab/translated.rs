//! Packets translated on their way out and in: real kernels, servers and clients on both sides.

use serde_json::Value;

use crate::harness::{Background, Daemon, Host, PYTHON, run, text, wait_for};
use crate::{as_both, by_two_workers, on_other_engine};

as_both!(
    what_leaves_has_our_address,
    what_is_published_is_reached_from_everywhere,
    fragments_and_traces_come_back,
    files_are_fetched_by_passive_ftp,
    nothing_from_outside_cuts_a_connection,
    a_reload_ends_what_its_rule_is_gone_of_and_nothing_else,
    twenty_streams_outlive_the_engine,
);
on_other_engine!(what_is_published_is_reached_from_everywhere, twenty_streams_outlive_the_engine);
by_two_workers!(
    what_leaves_has_our_address,
    what_is_published_is_reached_from_everywhere,
    fragments_and_traces_come_back,
    nothing_from_outside_cuts_a_connection,
    twenty_streams_outlive_the_engine,
);

/// Answers at l4 port 80, by TCP and UDP of both families, with whom it sees.
const WHO: &str = "\
import socket, threading
def udp():
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.bind(('', 80))
    while True:
        data, peer = s.recvfrom(65535)
        s.sendto(f'{peer[0]} {peer[1]} {len(data)}'.encode(), peer)
def one(s, peer):
    s.sendall(f'{peer[0]} {peer[1]}\\n'.encode())
    s.close()
threading.Thread(target=udp, daemon=True).start()
with socket.create_server(('::', 80), family=socket.AF_INET6, backlog=128, dualstack_ipv6=True) as listener:
    print('ready', flush=True)
    while True:
        one(*listener.accept())
";

/// Asks `WHO` by TCP and by UDP: address, l4 port, and, if there is one, the own l4 port.
const ASK: &str = "\
import socket, sys
to, port, own = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0
family = socket.AF_INET6 if ':' in to else socket.AF_INET
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    s = socket.socket(family, kind)
    s.settimeout(10)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('', own))
    s.connect((to, port))
    if kind == socket.SOCK_DGRAM: s.send(b'x')
    print(s.recv(100).decode().split()[0:2])
";

/// `blue` with containers `a` and `b`, `red` with `c`, and the uplink in the namespace of `far`.
fn lab(host: &Host, publish: &str, more: &str) -> String {
    let [a, b, c, far] = ["a", "b", "c", "far"].map(|name| host.name(name));
    let container = |name: &str, netns: &str, network: &str, more: &str| {
        format!(
            "[[container]]\nname = \"{name}\"\nnetns = \"{netns}\"\ncreate = true\n\
             [[container.interface]]\nnetwork = \"{network}\"\n{more}\n"
        )
    };
    let networks = "[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\nsubnet6 = \"fd00:1::/64\"\n\
                    [[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\nsubnet6 = \"fd00:2::/64\"\n";
    let uplink = format!(
        "[uplink]\nkind = \"tap\"\nnetns = \"{far}\"\naddress = \"198.18.0.10/24\"\naddress6 = \"fd00:9::10/64\"\n\
         host = \"198.18.0.1/24\"\nhost6 = \"fd00:9::1/64\"\n{more}\n"
    );
    let far = format!("[[container]]\nname = \"far\"\nnetns = \"{far}\"\ncreate = true\n");
    let all = [
        networks,
        &container("a", &a, "blue", publish),
        &container("b", &b, "blue", ""),
        &container("c", &c, "red", ""),
        &far,
        &uplink,
    ];
    host.configuration(&all.concat())
}

fn start(host: Host, publish: &str) -> Daemon {
    let configuration = lab(&host, publish, "");
    let daemon = host.start(&configuration);
    daemon.wait_state("-outside", "up");
    for address in ["fd00:9::1", "fd00:1::2"] {
        let from = if address == "fd00:9::1" { "far" } else { "a" };
        // Until an address was looked for by nobody else (RFC 4862) it is not used.
        wait_for("an address", || {
            let shown = daemon.exec(from, &["ip", "-6", "address"]);
            (shown.contains(address) && !shown.contains("tentative")).then_some(())
        });
    }
    daemon
}

fn serve(daemon: &Daemon, container: &str) -> Background {
    let server = daemon.background(container, &[PYTHON, "-u", "-c", WHO]);
    wait_for("its socket", || {
        let listening = daemon.exec(container, &["ss", "-Hltn"]);
        listening.contains(":80 ").then_some(())
    });
    server
}

/// What a server at that address sees of a client: address and l4 port, by TCP and by UDP.
fn seen(daemon: &Daemon, from: &str, to: &str, port: u16, own: u16) -> [(String, u16); 2] {
    let (port, own) = (port.to_string(), own.to_string());
    let said = daemon.exec(from, &[PYTHON, "-c", ASK, to, &port, &own]);
    let parse = |line: &str| {
        let line = line.replace(['[', ']', '\'', ','], "");
        let (address, port) = line.split_once(' ').unwrap();
        (address.trim_start_matches("::ffff:").to_owned(), port.parse().unwrap())
    };
    let mut lines = said.lines().map(parse);
    [lines.next().unwrap(), lines.next().unwrap()]
}

fn connections(daemon: &Daemon) -> Vec<Value> {
    daemon.rows("connections")
}

fn what_leaves_has_our_address(host: Host) {
    let daemon = start(host, "");
    let server = serve(&daemon, "far");
    for (from, to, ours) in [
        ("a", "198.18.0.1", "198.18.0.10"),
        ("c", "198.18.0.1", "198.18.0.10"),
        ("a", "fd00:9::1", "fd00:9::10"),
        ("c", "fd00:9::1", "fd00:9::10"),
    ] {
        daemon.ping(from, to);
        for (address, _) in seen(&daemon, from, to, 80, 0) {
            assert_eq!(address, ours, "{from} to {to}");
        }
    }
    // The l4 port is kept where it is free, and never shared.
    let first = seen(&daemon, "a", "198.18.0.1", 80, 4000);
    let second = seen(&daemon, "b", "198.18.0.1", 80, 4000);
    let again = seen(&daemon, "a", "198.18.0.1", 80, 4000);
    for ((first, second), again) in first.iter().zip(&second).zip(&again) {
        assert_eq!(first.1, 4000);
        assert_ne!(second.1, 4000);
        assert_eq!(first, again, "the mapping is the same one");
    }
    let rows = connections(&daemon);
    let of = |container: &str, protocol: &str| {
        rows.iter().filter(|row| row["container"] == container && row["protocol"] == protocol).count()
    };
    assert!(of("a", "tcp") >= 2 && of("a", "udp") >= 2 && of("a", "icmp") == 1, "{rows:?}");
    assert!(
        rows.iter()
            .any(|row| row["container"] == "b" && row["local"] == format!("198.18.0.10:{}", second[0].1))
    );
    drop(server);
    daemon.assert_conserved();
    daemon.stop();
}

const PUBLISHED: &str = "publish = [\"8080:80\", \"8080:80/udp\", \"7000-7009:70-79\"]";

fn what_is_published_is_reached_from_everywhere(host: Host) {
    let daemon = start(host, PUBLISHED);
    let server = serve(&daemon, "a");
    // From outside with its own address; from containers, and from itself, with the one that they have outside (RFC 4787
    // section 6 REQ-9, RFC 5382 section 7.2 REQ-8).
    for (ours, far, inside) in
        [("198.18.0.10", "198.18.0.1", "198.18.0.10"), ("fd00:9::10", "fd00:9::1", "fd00:9::10")]
    {
        for (from, expected) in [("far", far), ("b", inside), ("c", inside), ("a", inside)] {
            for (address, _) in seen(&daemon, from, ours, 8080, 0) {
                assert_eq!(address, expected, "{from} to {ours}");
            }
        }
    }
    // A container's own l4 port that is published cannot be taken away by another's of the same number (H29).
    let shadow = seen(&daemon, "far", "198.18.0.10", 8080, 0);
    let other = daemon.background(
        "b",
        &[
            PYTHON,
            "-u",
            "-c",
            "\
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', 8080))
for n in range(200):
    s.sendto(b'x', ('198.18.0.1', 9))
    time.sleep(0.05)
",
        ],
    );
    wait_for("its connection", || {
        connections(&daemon)
            .iter()
            .any(|row| row["container"] == "b" && row["source"] == "10.1.0.3:8080")
            .then_some(())
    });
    let taken = |row: &Value| row["container"] == "b" && row["local"] == "198.18.0.10:8080";
    assert!(!connections(&daemon).iter().any(taken));
    assert_eq!(seen(&daemon, "far", "198.18.0.10", 8080, 0)[0].0, shadow[0].0);
    drop(other);
    // What is not published is not there, and whoever asks for it hears nothing (RFC 5382 section 4.3 REQ-4).
    let before = daemon.dropped("nat_unpublished");
    let refused = daemon.try_exec("far", &["nc", "-z", "-w", "1", "198.18.0.10", "81"]);
    assert!(!refused.status.success() && !text(&refused).contains("refused"), "{}", text(&refused));
    assert!(daemon.dropped("nat_unpublished") > before);
    let nat = daemon.rows("nat");
    let range = nat.iter().find(|row| row["ports"] == "7000-7009").unwrap_or_else(|| panic!("{nat:?}"));
    assert_eq!(range["state"], "up", "a range is one row: {nat:?}");
    drop(server);
    daemon.assert_conserved();
    daemon.stop();
}

fn fragments_and_traces_come_back(host: Host) {
    let daemon = start(host, PUBLISHED);
    for (to, size) in [("198.18.0.1", "5000"), ("fd00:9::1", "5000"), ("198.18.0.1", "60000")] {
        daemon.exec("a", &["ping", "-n", "-c", "2", "-W", "5", "-s", size, to]);
    }
    // To what is published as well, both ways in fragments.
    let server = serve(&daemon, "a");
    let long = "import socket\n\
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                s.settimeout(10)\n\
                s.connect(('198.18.0.10', 8080))\n\
                s.send(b'x' * 20000)\n\
                print(s.recv(100).decode())\n";
    let said = daemon.exec("far", &[PYTHON, "-c", long]);
    assert!(said.trim().ends_with(" 20000"), "{said}");
    let said = daemon.exec("b", &[PYTHON, "-c", long]);
    assert!(said.trim().ends_with(" 20000"), "hairpin: {said}");
    // Whoever is behind the far side is two hops away, and each of them says so.
    daemon.exec("far", &["ip", "address", "add", "192.0.2.7/32", "dev", "lo"]);
    for way in ["-U", "-I", "-T"] {
        let output =
            daemon.try_exec("a", &["traceroute", "-n", "-w", "2", "-q", "1", "-m", "4", way, "192.0.2.7"]);
        let said = text(&output);
        if said.contains("not permitted") {
            continue; // raw sockets are not for all users
        }
        assert!(said.contains(" 1  10.1.0.1 ") && said.contains(" 2  192.0.2.7 "), "{way}: {said}");
    }
    // A narrower link on the way: its error comes in, about the packet as the container knows it (RFC 5508 section 4.2.1).
    daemon.exec("far", &["ip", "route", "add", "blackhole", "192.0.2.9/32"]);
    daemon.exec("far", &["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    let output = daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "2", "192.0.2.9"]);
    assert!(!output.status.success());
    daemon.exec("far", &["ip", "route", "replace", "unreachable", "192.0.2.9/32"]);
    let told = wait_for("the error", || {
        let told = text(&daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "2", "192.0.2.9"]));
        told.contains("198.18.0.1").then_some(told)
    });
    assert!(told.to_lowercase().contains("unreachable"), "{told}");
    drop(server);
    daemon.assert_conserved();
    daemon.stop();
}

/// A server of one file, by the passive mode of FTP (RFC 959 section 4.1.2): the address that it says is its own.
const FTP: &str = "\
import socket
listener = socket.create_server(('', 21))
while True:
    s, _ = listener.accept()
    out = lambda text: s.sendall(text.encode() + b'\\r\\n')
    out('220 here')
    data = None
    for line in s.makefile():
        word = line.split()[0].upper() if line.split() else ''
        if word == 'USER': out('331 and')
        elif word == 'PASS': out('230 in')
        elif word == 'PWD': out('257 \"/\"')
        elif word in ('CWD', 'TYPE'): out('200 so')
        elif word == 'SIZE': out('213 100000')
        elif word == 'EPSV':
            data = socket.create_server(('', 0))
            out(f'229 (|||{data.getsockname()[1]}|)')
        elif word == 'PASV':
            data = socket.create_server(('', 0))
            port = data.getsockname()[1]
            out(f'227 (198,18,0,1,{port // 256},{port % 256})')
        elif word == 'RETR':
            out('150 comes')
            d, _ = data.accept()
            d.sendall(b'f' * 100000)
            d.close()
            out('226 done')
        elif word == 'QUIT':
            out('221 bye')
            break
        else: out('502 no')
    s.close()
";

fn files_are_fetched_by_passive_ftp(host: Host) {
    let daemon = start(host, "");
    let server = daemon.background("far", &[PYTHON, "-u", "-c", FTP]);
    wait_for("its socket", || daemon.exec("far", &["ss", "-Hltn"]).contains(":21 ").then_some(()));
    for how in ["--disable-epsv", "--silent"] {
        let fetched =
            daemon.exec("a", &["curl", "--silent", "--max-time", "10", how, "ftp://198.18.0.1/file"]);
        assert_eq!((fetched.len(), fetched.bytes().all(|byte| byte == b'f')), (100_000, true), "{how}");
    }
    drop(server);
    daemon.stop();
}

/// Sends what is not to be believed to the end points of two connections, from an address that is a stranger's or the
/// server's: resets and SYNs of random numbers, and ICMP errors of all kinds that quote them.
const FORGE: &str = "\
import random, socket, struct, sys
ours, port, server, sport = '198.18.0.10', int(sys.argv[1]), '198.18.0.1', 80
def total(data):
    data += b'\\0' * (len(data) % 2)
    s = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while s >> 16: s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
def ip(src, dst, proto, body):
    head = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(body), 0, 0, 64, proto, 0, socket.inet_aton(src), socket.inet_aton(dst))
    return head[:10] + struct.pack('!H', total(head)) + head[12:] + body
def tcp(src, dst, sport, dport, flags):
    body = struct.pack('!HHIIBBHHH', sport, dport, random.getrandbits(32), random.getrandbits(32), 0x50, flags, 1000, 0, 0)
    pseudo = socket.inet_aton(src) + socket.inet_aton(dst) + struct.pack('!BBH', 0, 6, len(body))
    return body[:16] + struct.pack('!H', total(pseudo + body)) + body[18:]
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('vsw0', 0))
frame = lambda packet: s.send(bytes.fromhex(sys.argv[2] + '0242c6120001' + '0800') + packet)
for n in range(2000):
    for flags in (4, 20, 2, 18, 17):
        frame(ip(server, ours, 6, tcp(server, ours, sport, port, flags)))
    frame(ip('198.18.0.99', ours, 6, tcp('198.18.0.99', ours, sport, port, 4)))
    quoted = ip(ours, server, 6, struct.pack('!HHI', port, sport, random.getrandbits(32)))
    for kind, code in ((3, 0), (3, 1), (3, 2), (3, 3), (3, 13), (11, 0), (12, 0), (4, 0)):
        body = struct.pack('!BBHI', kind, code, 0, 0) + quoted
        body = body[:2] + struct.pack('!H', total(body)) + body[4:]
        frame(ip('192.0.2.66', ours, 1, body))
print('sent')
";

/// Sends a line each way for as long as it is asked to, and says how many went.
const TALK: &str = "\
import socket, sys
s = socket.create_connection(('198.18.0.1', 80))
print(s.getsockname()[1], flush=True)
for line in sys.stdin:
    s.sendall(line.encode())
    print(s.recv(100).decode().strip(), flush=True)
";

const ECHO: &str = "\
import socket
listener = socket.create_server(('', 80))
s, _ = listener.accept()
while data := s.recv(100): s.sendall(data)
";

fn nothing_from_outside_cuts_a_connection(host: Host) {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;
    let daemon = start(host, "");
    if !daemon
        .try_exec("far", &[PYTHON, "-c", "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"])
        .status
        .success()
    {
        return crate::harness::skipped("raw sockets are not for this user");
    }
    let echo = daemon.background("far", &[PYTHON, "-u", "-c", ECHO]);
    wait_for("its socket", || daemon.exec("far", &["ss", "-Hltn"]).contains(":80 ").then_some(()));
    let mut talk = daemon.exec_command("a", &[PYTHON, "-u", "-c", TALK]);
    let mut talk = talk.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut to, mut from) = (talk.stdin.take().unwrap(), BufReader::new(talk.stdout.take().unwrap()));
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    let mut say = |what: &str| {
        let mut line = String::new();
        writeln!(to, "{what}").unwrap();
        from.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), what);
    };
    say("before");
    let row = connections(&daemon).into_iter().find(|row| row["protocol"] == "tcp").unwrap();
    let port = row["local"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    let before = daemon.dropped("nat_reset");
    let mac = "0242c612000a";
    assert!(daemon.exec("far", &[PYTHON, "-c", FORGE, &port, mac]).contains("sent"));
    assert!(
        daemon.dropped("nat_reset") >= before + 1000,
        "resets are looked at: {}",
        daemon.dropped("nat_reset")
    );
    say("after");
    let row = connections(&daemon).into_iter().find(|row| row["protocol"] == "tcp").unwrap();
    assert_eq!(row["state"], "established", "{row}");
    drop(to);
    talk.wait().unwrap();
    drop(echo);
    daemon.assert_conserved();
    daemon.stop();
}

fn a_reload_ends_what_its_rule_is_gone_of_and_nothing_else(host: Host) {
    let two = "publish = [\"8080:80\", \"8081:80\"]";
    let (first, second) = (lab(&host, two, ""), lab(&host, "publish = [\"8080:80\"]", ""));
    let other = lab(&host, "publish = [\"8080:80\"]", "filtering = \"endpoint\"");
    let daemon = host.start(&first);
    daemon.wait_state("-outside", "up");
    let hold = "import socket, sys, time\n\
                s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n\
                time.sleep(60)\n";
    let listen = "import socket, time\n\
                  l = socket.create_server(('', 80), backlog=16)\n\
                  c = [l.accept() for n in range(3)]\n\
                  time.sleep(60)\n";
    let servers: Vec<_> = ["a", "far"].map(|name| daemon.background(name, &[PYTHON, "-c", listen])).into();
    for name in ["a", "far"] {
        wait_for("its socket", || daemon.exec(name, &["ss", "-Hltn"]).contains(":80 ").then_some(()));
    }
    let clients: Vec<_> =
        [("far", "198.18.0.10", "8080"), ("far", "198.18.0.10", "8081"), ("b", "198.18.0.1", "80")]
            .map(|(from, to, port)| daemon.background(from, &[PYTHON, "-c", hold, to, port]))
            .into();
    let there = |daemon: &Daemon| {
        let rows = connections(daemon);
        let has =
            |of: &dyn Fn(&Value) -> bool| rows.iter().any(|row| row["state"] == "established" && of(row));
        [
            has(&|row| row["local"] == "198.18.0.10:8080"),
            has(&|row| row["local"] == "198.18.0.10:8081"),
            has(&|row| row["container"] == "b"),
        ]
    };
    wait_for("three connections", || (there(&daemon) == [true; 3]).then_some(()));
    daemon.reload(&first);
    assert_eq!(there(&daemon), [true; 3]);
    daemon.reload(&second);
    wait_for("the end of one", || (there(&daemon) == [true, false, true]).then_some(()));
    daemon.reload(&other);
    assert_eq!(there(&daemon), [true, false, true], "how others are let in is nothing to those who are in");
    drop((clients, servers));
    daemon.assert_conserved();
    daemon.stop();
}

fn twenty_streams_outlive_the_engine(host: Host) {
    let daemon = start(host, "");
    let server = daemon.background("far", &["iperf3", "-s", "-1"]);
    wait_for("its socket", || daemon.exec("far", &["ss", "-Hltn"]).contains(":5201 ").then_some(()));
    let words = ["iperf3", "-c", "198.18.0.1", "-t", "5", "-P", "20", "-J"];
    let mut client = daemon.exec_command("a", &words);
    // It says more than a pipe holds.
    let client = std::thread::spawn(move || client.output().unwrap());
    let established = |daemon: &Daemon| {
        let rows = connections(daemon);
        rows.iter().filter(|row| row["state"] == "established" && row["protocol"] == "tcp").count()
    };
    wait_for("twenty streams", || (established(&daemon) >= 21).then_some(()));
    let before: Vec<Value> = connections(&daemon).into_iter().map(|row| row["local"].clone()).collect();
    let engine = daemon.engine();
    run("kill", &["-KILL", &engine.to_string()]);
    daemon.wait_engine_after(engine);
    let said: Value = serde_json::from_slice(&client.join().unwrap().stdout).unwrap();
    let streams = said["end"]["streams"].as_array().unwrap_or_else(|| panic!("{said}"));
    assert_eq!(streams.len(), 20, "{}", said["error"]);
    assert!(said["error"].is_null(), "{}", said["error"]);
    let late = said["intervals"].as_array().unwrap().last().unwrap()["streams"].as_array().unwrap();
    let moving = late.iter().filter(|stream| stream["bytes"].as_u64().unwrap_or(0) > 0).count();
    assert_eq!(moving, 20, "all of them went on to the end");
    let after: Vec<Value> = connections(&daemon).into_iter().map(|row| row["local"].clone()).collect();
    assert!(before.iter().all(|local| after.contains(local)), "with the same l4 ports: {before:?} {after:?}");
    drop(server);
    daemon.stop();
}
