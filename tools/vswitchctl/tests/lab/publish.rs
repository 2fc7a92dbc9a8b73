//! Published l4 ports, with real clients: on the host, in a namespace on a cable to it, and in other containers.

use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{As, Daemon, Host, PATIENCE, PYTHON, gone, random, run, text, wait_for};
use crate::uplink::{Outside, UDP};
use crate::{as_both, by_two_workers};

as_both!(
    clients_reach_the_container_and_are_seen,
    clients_of_ipv6_are_seen_too,
    datagrams_are_answered_from_where_was_asked,
    l4_ports_come_and_go_with_their_container,
    what_the_host_refuses_is_said,
    what_was_refused_is_tried_again,
    publishing_at_run_time,
    listening_sockets_outlive_engine_and_keeper,
);
by_two_workers!(clients_reach_the_container_and_are_seen, l4_ports_come_and_go_with_their_container,);

/// Answers each connection with who it comes from, at l4 ports 80 to 82.
const WEB: &str = "\
import socket, threading
def serve(port):
    with socket.create_server(('', port)) as listener:
        while True:
            s, peer = listener.accept()
            s.sendall(f'{port} {peer[0]}\\n'.encode())
            s.close()
for port in (81, 82):
    threading.Thread(target=serve, args=(port,), daemon=True).start()
serve(80)
";

/// Answers each datagram with who it comes from, at l4 port 53.
const ECHO: &str = "\
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', 53))
while True:
    data, peer = s.recvfrom(65535)
    s.sendto(f'{data.decode()} {peer[0]}'.encode(), peer)
";

/// Both, over IPv6: TCP at l4 port 80, UDP at 53.
const BOTH6: &str = "\
import socket, threading
def echo():
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.bind(('', 53))
    while True:
        data, peer = s.recvfrom(65535)
        s.sendto(f'{data.decode()} {peer[0]}'.encode(), peer)
threading.Thread(target=echo, daemon=True).start()
with socket.create_server(('::', 80), family=socket.AF_INET6) as listener:
    while True:
        s, peer = listener.accept()
        s.sendall(f'80 {peer[0]}\\n'.encode())
        s.close()
";

/// Connects to each l4 port after the address and prints what it is told.
const ASK: &str = "\
import socket, sys
for port in sys.argv[2:]:
    try:
        print(socket.create_connection((sys.argv[1], int(port)), timeout=10).makefile().readline().strip())
    except OSError as error:
        print(type(error).__name__)
";

/// Asks from a connected socket, which takes no answer from another address.
const ASK_UDP: &str = "\
import socket, sys
for address in sys.argv[2:]:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(10)
    s.connect((address, int(sys.argv[1])))
    s.send(b'asked ' + address.encode())
    print(s.recv(1000).decode())
";

/// Sends to l4 port 8080 from one that it chooses.
const FROM: &str = "\
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.bind(('', int(sys.argv[2])))
s.connect((sys.argv[1], 8080))
s.send(b'echo')
print(s.recv(100).decode())
";

/// Asks with more than a packet holds.
const ASK_LONG: &str = "\
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.connect((sys.argv[2], int(sys.argv[1])))
s.send(b'long' * 2000)
print(s.recv(10000).startswith(b'long' * 2000 + b' 198.19.'))
";

/// L4 ports of the host that nobody has, in a row.
pub fn free(count: u16) -> u16 {
    wait_for("free l4 ports", || {
        let first = 20_000 + (random() % 10_000) as u16;
        let all = (first..first + count)
            .all(|port| TcpListener::bind(("::", port)).is_ok() && UdpSocket::bind(("::", port)).is_ok());
        all.then_some(first)
    })
}

/// A container `web` that runs `script`, with these entries, and `a` beside it.
fn lab(host: &Host, script: &str, publish: &[String]) -> String {
    let (web, a) = (host.name("web"), host.name("a"));
    let entries: Vec<_> = publish.iter().map(|entry| format!("\"{entry}\"")).collect();
    host.configuration(&format!(
        "[uplink]\nkind = \"sockets\"\n\
         [[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\n\
         [[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\n\
         [[container]]\nname = \"web\"\nnetns = \"{web}\"\ncreate = true\n\
         command = [\"{PYTHON}\", \"-c\", '''{script}''']\n\
         [[container.interface]]\nnetwork = \"blue\"\nip = \"10.1.0.10\"\npublish = [{}]\n\
         [[container]]\nname = \"a\"\nnetns = \"{a}\"\ncreate = true\n[[container.interface]]\nnetwork = \"red\"\n",
        entries.join(", ")
    ))
}

/// What a client on the host is told; `None`: it is refused.
fn told(address: &str, port: u16) -> Option<String> {
    let mut stream = TcpStream::connect((address, port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    Some(said.trim().to_owned())
}

/// Until the container's own server is up its kernel refuses.
#[track_caller]
fn wait_told(address: &str, port: u16) -> String {
    wait_for("the server in the container", || told(address, port).filter(|said| !said.is_empty()))
}

#[track_caller]
fn nat(daemon: &Daemon) -> Vec<Value> {
    daemon.rows("nat")
}

#[track_caller]
fn status(daemon: &Daemon, counter: &str) -> u64 {
    daemon.rows("status")[0]["uplink"]["counters"][counter].as_u64().unwrap()
}

impl Outside {
    fn python(&self, script: &str, arguments: &[&str]) -> String {
        run("ip", &[&["netns", "exec", &self.netns, PYTHON, "-c", script], arguments].concat())
    }
}

fn clients_reach_the_container_and_are_seen(mut host: Host) {
    let outside = Outside::new(&mut host);
    let port = free(4);
    let entries = [
        format!("{port}:80"),
        format!("{}-{}:81-82", port + 1, port + 2),
        format!("{}:{}:80", outside.near, port + 3),
        "0:80".to_owned(),
    ];
    let configuration = lab(&host, WEB, &entries);
    let daemon = host.start(&configuration);
    // On the host the loopback is what a client comes from, and no container can answer that.
    assert_eq!(wait_told("127.0.0.1", port), "80 10.1.0.1", "the gateway stands in");
    assert_eq!(wait_told("::1", port), "80 10.1.0.1", "and for another family");
    let masked = status(&daemon, "masked");
    assert!(masked >= 2);
    let asked = |address: &str, ports: &[u16]| {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let arguments: Vec<&str> = std::iter::once(address).chain(ports.iter().map(String::as_str)).collect();
        outside.python(ASK, &arguments)
    };
    let seen = |port: u16| format!("{port} {}\n", outside.far);
    let wanted = format!("{}{}{}{}", seen(80), seen(81), seen(82), seen(80));
    assert_eq!(
        asked(&outside.near, &[port, port + 1, port + 2, port + 3]),
        wanted,
        "the client's own address"
    );
    assert_eq!(status(&daemon, "masked"), masked, "which was shown");
    assert_eq!(told("127.0.0.1", port + 3), None, "published on another address");
    let rows = nat(&daemon);
    let chosen: u16 = rows[3]["ports"].as_str().unwrap().parse().unwrap();
    assert!(chosen > 1023, "{rows:?}");
    assert_eq!(asked(&outside.near, &[chosen]), seen(80));
    assert!(rows.iter().all(|row| row["state"] == "up" && row["origin"] == "file"), "{rows:?}");
    assert_eq!(rows[1]["ports"], format!("{}-{}", port + 1, port + 2), "one row a range");
    assert_eq!((&rows[1]["clients"], &rows[1]["target_ports"]), (&2.into(), &"81-82".into()));

    // Containers reach what is published by the host's own address, and nothing else of the host.
    let service = TcpListener::bind((outside.near.as_str(), 0)).unwrap();
    let other = service.local_addr().unwrap().port().to_string();
    let arguments = [PYTHON, "-c", ASK, &outside.near, &port.to_string(), &other];
    let said = daemon.exec("a", &arguments);
    assert_eq!(said, format!("80 {}\nOSError\n", outside.near));
    // Also those whose own it is.
    let said = daemon.exec("web", &[PYTHON, "-c", ASK, &outside.near, &port.to_string()]);
    assert_eq!(said, format!("80 {}\n", outside.near));
    daemon.assert_conserved();

    // A reload keeps what did not change: the number that was chosen, and connections.
    let mut kept = TcpStream::connect(("127.0.0.1", port)).unwrap();
    daemon.reload(&configuration.replace(&format!("\"{port}:80\", "), &format!("\"{port}:80\", \"0:81\", ")));
    let again = nat(&daemon);
    assert_eq!(again.len(), 5);
    assert_eq!(again[4]["ports"], chosen.to_string());
    let mut said = String::new();
    kept.read_to_string(&mut said).unwrap();
    assert_eq!(said, "80 10.1.0.1\n");
    let removed = daemon.reload(&configuration.replace(&format!("\"{port}:80\", "), ""));
    assert!(removed.contains("interface web eth0: publish changed"), "{removed}");
    assert_eq!(told("127.0.0.1", port), None);
    daemon.stop();
}

fn clients_of_ipv6_are_seen_too(mut host: Host) {
    let outside = Outside::new6(&mut host);
    let port = free(1);
    let configuration = lab(&host, BOTH6, &[format!("{port}:80"), format!("{port}:53/udp")])
        .replace("subnet = \"10.1.0.0/24\"", "subnet6 = \"fd00:77:1::/64\"")
        .replace("ip = \"10.1.0.10\"", "ip6 = \"fd00:77:1::10\"");
    let daemon = host.start(&configuration);
    assert_eq!(wait_told("::1", port), "80 fd00:77:1::1", "the gateway stands in for the loopback");
    assert_eq!(wait_told("127.0.0.1", port), "80 fd00:77:1::1", "and for another family");
    let said = outside.python(ASK, &[&outside.near, &port.to_string()]);
    assert_eq!(said, format!("80 {}\n", outside.far), "the client's own address");
    let ask = ASK_UDP.replace("AF_INET,", "AF_INET6,");
    let said = outside.python(&ask, &[&port.to_string(), &outside.near]);
    assert_eq!(said, format!("asked {} {}\n", outside.near, outside.far), "and by UDP");
    assert_eq!(nat(&daemon)[0]["target"], "fd00:77:1::10");
    daemon.assert_conserved();
    daemon.stop();
}

fn datagrams_are_answered_from_where_was_asked(mut host: Host) {
    let outside = Outside::new(&mut host);
    // A second address of the host on the same cable.
    let second =
        outside.near.rsplit_once('.').map(|(net, last)| format!("{net}.{}", last.parse::<u8>().unwrap() + 2));
    let second = second.unwrap();
    run("ip", &["address", "add", &format!("{second}/29"), "dev", &outside.cable]);
    let port = free(1);
    let configuration = lab(&host, ECHO, &[format!("{port}:53/udp")]);
    let daemon = host.start(&configuration);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    client.connect(("127.0.0.1", port)).unwrap();
    let mut buffer = [0; 1000];
    let said = wait_for("the server in the container", || {
        client.send(b"asked loopback").unwrap();
        client.recv(&mut buffer).ok().map(|len| String::from_utf8_lossy(&buffer[..len]).into_owned())
    });
    assert_eq!(said, "asked loopback 10.1.0.1");
    let said = outside.python(ASK_UDP, &[&port.to_string(), &outside.near, &second]);
    let far = &outside.far;
    assert_eq!(
        said,
        format!("asked {} {far}\nasked {second} {far}\n", outside.near),
        "from a connected socket"
    );
    let rows = connections(&daemon, &["--protocol", "udp", "--container", "web"]);
    let local = |row: &Value| row["local"].as_str().unwrap().to_owned();
    assert!(rows.iter().any(|row| local(row) == format!("{second}:{port}")), "{rows:?}");
    assert!(rows.iter().all(|row| row["direction"] == "in" && row["state"] == "answered"), "{rows:?}");
    let said = daemon.exec("a", &[PYTHON, "-c", ASK_UDP, &port.to_string(), &outside.near]);
    assert_eq!(said, format!("asked {0} {0}\n", outside.near), "from a container");
    // Who sends from the l4 ports that are published, here or by the container, takes nothing from them.
    let _echo = outside.serve(UDP, "/proc/net/udp");
    for (container, from) in [("a", port), ("a", 53), ("web", port)] {
        let said = daemon.exec(container, &[PYTHON, "-c", FROM, &outside.far, &from.to_string()]);
        assert_eq!(said, "ohce\n", "{container} from {from}");
    }
    let said = outside.python(ASK_UDP, &[&port.to_string(), &outside.near]);
    assert_eq!(said, format!("asked {} {far}\n", outside.near));
    // While the server was not up its kernel had something to say about that, which sockets cannot.
    let before = daemon.dropped("no_service");
    // Answers in fragments, also of a container that may not open anything.
    for configuration in
        [&configuration, &configuration.replace("command = ", "egress = [\"deny all\"]\ncommand = ")]
    {
        daemon.reload(configuration);
        let long = "long".repeat(1000);
        let said = wait_for("a long answer", || {
            client.send(long.as_bytes()).unwrap();
            let mut buffer = [0; 5000];
            client.recv(&mut buffer).ok().map(|len| String::from_utf8_lossy(&buffer[..len]).into_owned())
        });
        assert_eq!(said, format!("{long} 10.1.0.1"));
        assert_eq!(outside.python(ASK_LONG, &[&port.to_string(), &outside.near]), "True\n");
    }
    assert_eq!((daemon.dropped("egress_denied"), daemon.dropped("no_service")), (0, before));
    daemon.assert_conserved();
    daemon.stop();
}

#[track_caller]
fn connections(daemon: &Daemon, filter: &[&str]) -> Vec<Value> {
    let arguments = [&["--json", "show", "connections"], filter].concat();
    serde_json::from_str(&daemon.ctl(&arguments)).unwrap()
}

fn l4_ports_come_and_go_with_their_container(host: Host) {
    let port = free(1);
    let contained = host.contained();
    let pid = contained.pid();
    let configuration = lab(&host, WEB, &[format!("{port}:80"), "0:80".into()]);
    let (from, to) = (format!("netns = \"{}\"\ncreate = true\ncommand", host.name("web")), "command");
    let run = format!("command = [\"{PYTHON}\", \"-c\", '''{WEB}''']\n");
    let there = configuration
        .replace(&from, to)
        .replace(&run, "")
        .replace("name = \"web\"\n", &format!("name = \"web\"\nnetns = \"pid:{pid}\"\n"));
    let daemon = host.start(&there);
    daemon.wait_state("web", "up");
    wait_for("the l4 port", || (nat(&daemon)[0]["state"] == "up").then_some(()));
    let chosen = nat(&daemon)[1]["ports"].clone();
    // Nobody listens in the container: its kernel says so, and so do we.
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert!(client.read(&mut [0; 1]).is_err());
    drop(contained);
    wait_for("the l4 port to be free", || TcpListener::bind(("::", port)).ok());
    assert_eq!(told("127.0.0.1", port), None);
    let rows = nat(&daemon);
    assert_eq!(
        (&rows[0]["state"], &rows[0]["reason"]),
        (&"waiting".into(), &"the container is not there".into())
    );
    // It is back, elsewhere.
    let contained = daemon.host.contained();
    daemon.reload(&there.replace(&format!("pid:{pid}"), &format!("pid:{}", contained.pid())));
    wait_for("the l4 port", || (nat(&daemon)[0]["state"] == "up").then_some(()));
    assert_eq!(nat(&daemon)[1]["ports"], chosen, "the same as before");
    daemon.stop();
}

fn what_the_host_refuses_is_said(mut host: Host) {
    // In a namespace of its own, where l4 ports below 1024 are nobody's.
    let name = host.netns("apart");
    run("ip", &["-n", &name, "link", "set", "lo", "up"]);
    host.before = ["nsenter", &format!("--net=/run/netns/{name}"), "--"].map(str::to_owned).to_vec();
    let taken = Command::new("ip")
        .args(["netns", "exec", &name, PYTHON, "-c"])
        .arg("import socket, time\ns = socket.create_server(('', 8080))\ntime.sleep(1000)")
        .spawn()
        .unwrap();
    let taken = Ended(taken);
    wait_for("a server", || {
        run("ip", &["netns", "exec", &name, "cat", "/proc/net/tcp"]).contains(":1F90 ").then_some(())
    });
    let entries = ["8080:80", "80:80", "8081:80", "192.0.2.7:9000:80"].map(str::to_owned);
    let configuration = lab(&host, WEB, &entries);
    let user = host.who == As::User;
    let daemon = host.start(&configuration);
    let failed = if user { 3 } else { 2 };
    assert!(daemon.ready.contains(&format!(", {failed} not published, ")), "{}", daemon.ready);
    let rows = nat(&daemon);
    let reason = |row: usize| rows[row]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason(0).contains("listen on l4 port 8080: Address already in use"), "{}", reason(0));
    assert!(reason(3).contains("listen on 192.0.2.7:9000: Cannot assign requested address"), "{}", reason(3));
    if user {
        let said = reason(1);
        assert!(said.contains("listen on l4 port 80: Permission denied"), "{said}");
        assert!(said.contains("sysctl net.ipv4.ip_unprivileged_port_start=80"), "{said}");
    } else {
        assert_eq!(rows[1]["state"], "up");
    }
    assert_eq!((&rows[0]["state"], &rows[2]["state"]), (&"failed".into(), &"up".into()), "the rest runs");
    let output = daemon.try_ctl(&["publish", "web", "8082:80", "8080:81/udp", "8080:82"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let output = daemon.try_ctl(&["publish", "web", "8082:80", "192.0.2.8:8083:80"]);
    assert!(text(&output).contains("Cannot assign requested address"), "{}", text(&output));
    assert_eq!(nat(&daemon).len(), 4, "all or nothing");
    drop(taken);
    daemon.ctl(&["reload"]);
    assert_eq!(nat(&daemon)[0]["state"], "up", "tried again");
    daemon.stop();
}

fn what_was_refused_is_tried_again(host: Host) {
    let port = free(2);
    let taken = TcpListener::bind(("::", port)).unwrap();
    let configuration = lab(&host, WEB, &[format!("{port}:80"), format!("{}:80", port + 1)]);
    let daemon = host.start(&configuration);
    assert!(daemon.ready.contains(", 1 not published, "), "{}", daemon.ready);
    wait_told("127.0.0.1", port + 1);
    // It says why for as long as it is so, however often it is tried.
    let attempts = || daemon.log().matches("not published").count();
    let said = attempts();
    let deadline = Instant::now() + Duration::from_secs(4);
    wait_for("a few seconds of trying", || {
        let row = nat(&daemon)[0].clone();
        assert_eq!(row["state"], "failed", "{row}");
        assert!(row["reason"].as_str().unwrap().contains("Address already in use"), "{row}");
        (Instant::now() > deadline).then_some(())
    });
    assert_eq!(attempts(), said, "once in the log");
    drop(taken);
    wait_for("it to be published without being told", || (nat(&daemon)[0]["state"] == "up").then_some(()));
    assert_eq!(wait_told("127.0.0.1", port), "80 10.1.0.1");
    daemon.assert_conserved();
    daemon.stop();
}

struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn publishing_at_run_time(host: Host) {
    let port = free(3);
    let configuration = lab(&host, WEB, &[format!("{port}:80")]);
    let mut daemon = host.start(&configuration);
    wait_told("127.0.0.1", port);
    let said = daemon.ctl(&["publish", "web", &format!("{}-{}:80-81", port + 1, port + 2)]);
    assert!(said.contains(&format!("{}-{}", port + 1, port + 2)) && said.contains(" api "), "{said}");
    assert_eq!(wait_told("127.0.0.1", port + 2), "81 10.1.0.1");
    let output = daemon.try_ctl(&["publish", "web", &format!("{port}:81")]);
    assert!(
        text(&output).contains(&format!("collides with \"{port}:80/tcp\" of `eth0` of container `web`")),
        "{}",
        text(&output)
    );
    // A trace knows no clients, and says so of who may have some.
    for (from, gateway, has) in [("web", "10.1.0.1", true), ("a", "10.2.0.1", false)] {
        let said = daemon.ctl(&["trace", "--from", from, "--to", gateway, "--tcp", "9"]);
        assert_eq!(said.contains("unless it answers a client of a published l4 port"), has, "{said}");
    }
    // It stays: over a reload, and over a restart.
    daemon.ctl(&["reload"]);
    assert_eq!(wait_told("127.0.0.1", port + 1), "80 10.1.0.1");
    daemon.restart();
    assert_eq!(wait_told("127.0.0.1", port + 1), "80 10.1.0.1");
    let entry = format!("{}-{}:80-81", port + 1, port + 2);
    let said = daemon.ctl(&["unpublish", "web", &entry]);
    assert_eq!(said, format!("web: {entry}/tcp not published any more\n"));
    wait_for("the l4 port to be free", || TcpListener::bind(("::", port + 1)).ok());
    let said = daemon.ctl(&["unpublish", "web", &format!("{port}:80")]);
    assert!(said.contains("until the file is read again"), "{said}");
    wait_for("the l4 port to be free", || TcpListener::bind(("::", port)).ok());
    daemon.ctl(&["reload"]);
    assert_eq!(wait_told("127.0.0.1", port), "80 10.1.0.1");
    let output = daemon.try_ctl(&["unpublish", "web", &entry]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    daemon.restart();
    assert_eq!(nat(&daemon).len(), 1);
    daemon.stop();
}

fn listening_sockets_outlive_engine_and_keeper(host: Host) {
    let port = free(1);
    let configuration = lab(&host, WEB, &[format!("{port}:80"), "0:80".into()]);
    let mut daemon = host.start(&configuration);
    wait_told("127.0.0.1", port);
    let chosen = nat(&daemon)[1]["ports"].clone();
    let engine = daemon.engine();
    run("kill", &["-KILL", &engine.to_string()]);
    // Whoever connects meanwhile waits in the kernel's queue; nobody is ever refused.
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(TcpStream::connect(("127.0.0.1", port)).unwrap());
    }
    daemon.wait_engine_after(engine);
    assert_eq!(nat(&daemon)[1]["ports"], chosen);
    let mut told = 0;
    for mut client in clients {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut said = String::new();
        // Those that the dying engine had taken are reset.
        told += usize::from(client.read_to_string(&mut said).is_ok() && said == "80 10.1.0.1\n");
    }
    assert!(told > 0);
    // Silent clients do not keep others out.
    let silent: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    assert_eq!(wait_told("127.0.0.1", port), "80 10.1.0.1");
    drop(silent);

    // Another daemon goes on with them: an upgrade, and after the death of the keeper.
    daemon.take_over();
    assert_eq!(nat(&daemon)[1]["ports"], chosen);
    assert_eq!(wait_told("127.0.0.1", port), "80 10.1.0.1");
    let engine = daemon.engine();
    daemon.kill_keeper();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    daemon.begin();
    gone(engine);
    drop(client);
    assert_eq!(nat(&daemon)[1]["ports"], chosen);
    assert_eq!(wait_told("127.0.0.1", port), "80 10.1.0.1");
    daemon.ctl(&["unpublish", "web", &format!("{port}:80")]);
    wait_for("the l4 port to be free", || TcpListener::bind(("::", port)).ok());
    daemon.stop();
}
