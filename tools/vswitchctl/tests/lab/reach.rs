//! What containers reach by the sockets uplink and what they do not: `egress`, the host's loopback, the path behind the
//! host, much at once, and what is left when the engine dies.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::as_both;
use crate::harness::{Daemon, Host, PYTHON, Train, descriptors, resident, run, text, wait_for};
use crate::uplink::{Outside, python};
use crate::wire::{checksum, ethernet, ip, ipv4, mac, send};

as_both!(
    egress_is_held_to_and_changes_at_run_time,
    the_loopback_of_the_host_by_the_gateway,
    the_path_behind_the_host_is_seen,
    echoes_with_one_identifier_find_their_own_way_back,
    much_at_once_arrives_whole,
    seventy_thousand_flows_of_one_leave_the_others_theirs,
    strange_packets_reach_nobody,
    connections_end_when_the_engine_does,
    ten_thousand_idle_connections_are_cheap,
);

const UPLINK: &str = "[uplink]\nkind = \"sockets\"\n";

/// Serves on several l4 ports at once: echoes what comes, by TCP and by UDP; `quiet` on 8090: takes connections only.
const ECHO: &str = "\
import resource, selectors, socket, sys
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
chosen = selectors.DefaultSelector()
for port in [8081, 8090, 8080]:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((sys.argv[1], port))
    chosen.register(udp, selectors.EVENT_READ, 'udp')
    tcp = socket.create_server((sys.argv[1], port), backlog=4000)
    tcp.setblocking(False)
    chosen.register(tcp, selectors.EVENT_READ, 'listen')
while True:
    for key, _ in chosen.select():
        s = key.fileobj
        try:
            if key.data == 'udp':
                data, peer = s.recvfrom(70000)
                s.sendto(data[::-1], peer)
            elif key.data == 'listen':
                s, _ = s.accept()
                chosen.register(s, selectors.EVENT_READ, 'tcp')
            else:
                data = s.recv(65536)
                s.sendall(data)
                if not data:
                    chosen.unregister(s)
                    s.close()
        except OSError:
            if key.data == 'tcp':
                chosen.unregister(s)
                s.close()
";

/// Tries TCP and UDP; says what happened to each.
const TRY: &str = "\
import errno, socket, sys
for kind in [socket.SOCK_STREAM, socket.SOCK_DGRAM]:
    s = socket.socket(socket.AF_INET, kind)
    s.settimeout(float(sys.argv[3]) if len(sys.argv) > 3 else 10)
    try:
        s.connect((sys.argv[1], int(sys.argv[2])))
        s.send(b'x')
        print('answered' if s.recv(1) == b'x' else 'closed')
    except TimeoutError:
        print('silence')
    except OSError as error:
        print(errno.errorcode[error.errno])
";

/// Says `connected`, and then sends a word ten times a second until that fails; says how. Who waits asks by keepalives
/// whether there is still somebody.
const STREAM: &str = "\
import errno, socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
print('connected', flush=True)
try:
    for _ in range(600):
        s.sendall(b'word')
        if not s.recv(100):
            break
        time.sleep(0.1)
    print('closed')
except OSError as error:
    print(errno.errorcode[error.errno])
";

/// A stream that runs in a container.
struct Running {
    child: Child,
    out: std::io::BufReader<std::process::ChildStdout>,
}

impl Running {
    #[track_caller]
    fn start(daemon: &Daemon, container: &str, to: &str, port: &str) -> Self {
        use std::io::BufRead;
        let mut command = daemon.exec_command(container, &[PYTHON, "-c", STREAM, to, port]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "connected\n", "{container} to {to}:{port}");
        Self { child, out }
    }

    fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// How it ended.
    fn end(mut self) -> String {
        use std::io::Read;
        wait_for("a stream to end", || self.child.try_wait().unwrap());
        let mut said = String::new();
        self.out.read_to_string(&mut said).unwrap();
        said.trim().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `[[container]]` with these lines, on this network.
fn container(host: &Host, name: &str, lines: &str, network: &str) -> String {
    let netns = host.name(name);
    format!(
        "[[container]]\nname = \"{name}\"\nnetns = \"{netns}\"\ncreate = true\n{lines}\n\
         [[container.interface]]\nnetwork = \"{network}\"\n"
    )
}

fn egress_is_held_to_and_changes_at_run_time(mut host: Host) {
    let outside = Outside::new(&mut host);
    let _server = outside.serve(ECHO, "/proc/net/tcp");
    let configuration = |host: &Host, rules: &str| {
        let networks = "[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\nroutes_to = [\"red\"]\n\
                        [[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\nroutes_to = [\"blue\"]\n";
        let all = [
            UPLINK.to_owned() + networks,
            container(host, "a", &format!("egress = [{rules}]"), "blue"),
            container(host, "b", "", "red"),
        ];
        host.configuration(&all.concat())
    };
    let first = configuration(&host, &format!("\"allow {} tcp/8080-8081\", \"deny all\"", outside.far));
    let second = configuration(&host, "\"deny tcp/8081\"");
    let daemon = host.start(&first);
    let said = |container: &str, to: &str, port: &str| python(&daemon, container, TRY, &[to, port]);
    assert_eq!(said("a", &outside.far, "8080"), "answered\nEHOSTUNREACH\n", "TCP, and UDP not");
    assert_eq!(said("b", &outside.far, "8080"), "answered\nanswered\n", "b has no rules");
    let mut lives = Running::start(&daemon, "a", &outside.far, "8080");
    let ends = Running::start(&daemon, "a", &outside.far, "8081");
    // To another network as well, but what b opens is answered.
    assert_eq!(said("a", "10.2.0.2", "9"), "EHOSTUNREACH\nEHOSTUNREACH\n");
    assert!(!daemon.try_exec("a", &["ping", "-c", "1", "-W", "1", "10.2.0.2"]).status.success());
    daemon.ping("b", "10.1.0.2");
    assert_eq!(said("b", "10.1.0.2", "9"), "ECONNREFUSED\nECONNREFUSED\n", "a answers that nobody listens");
    assert!(daemon.dropped("egress_denied") >= 4, "{}", daemon.dropped("egress_denied"));
    // Now the other way round: what is allowed goes on, what is denied ends on both sides.
    assert!(daemon.reload(&second).contains("egress"));
    assert_eq!(ends.end(), "ECONNRESET");
    assert!(lives.runs());
    assert_eq!(said("a", &outside.far, "8081"), "EHOSTUNREACH\nanswered\n");
    daemon.ping("a", "10.2.0.2");
    assert!(lives.runs());
    drop(lives);
    daemon.assert_conserved();
    daemon.stop();
}

fn the_loopback_of_the_host_by_the_gateway(mut host: Host) {
    let outside = Outside::new(&mut host);
    let mut server = Command::new(PYTHON);
    server.args(["-c", &ECHO.replace("[8081, 8090, 8080]", "[int(sys.argv[2])]"), "127.0.0.1"]);
    // Free now; taken by nobody else in a moment, or the test is run again.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut server = server.arg(&free).stdin(Stdio::null()).spawn().unwrap();
    wait_for("a server on the loopback", || std::net::TcpStream::connect(format!("127.0.0.1:{free}")).ok());
    let configuration = |host: &Host, loopback: bool| {
        let inner = "[[network]]\nname = \"inner\"\nsubnet = \"10.2.0.0/24\"\ninternal = true\n";
        let uplink = format!("{UPLINK}host_loopback = {loopback}\n{inner}");
        host.lab(&["a"], "") + &uplink + &container(host, "i", "", "inner")
    };
    let (open, closed) = (configuration(&host, true), configuration(&host, false));
    let daemon = host.start(&open);
    let said = |container: &str, to: &str| python(&daemon, container, TRY, &[to, &free, "2"]);
    assert_eq!(said("a", "10.1.0.1"), "answered\nanswered\n");
    daemon.ping("a", "10.1.0.1");
    let stream = Running::start(&daemon, "a", "10.1.0.1", &free);
    // By no other name, and not from where no way leads out.
    assert_eq!(said("a", &outside.near), "EHOSTUNREACH\nEHOSTUNREACH\n");
    assert_eq!(said("i", "10.2.0.1"), "ECONNREFUSED\nECONNREFUSED\n");
    assert!(daemon.reload(&closed).contains("host_loopback"));
    assert_eq!(stream.end(), "ECONNRESET");
    assert_eq!(said("a", "10.1.0.1"), "ECONNREFUSED\nECONNREFUSED\n");
    // What is on no wire of ours: the host's metadata service, its loopback by its own name.
    let martians = daemon.dropped("martian");
    assert_eq!(said("a", "169.254.169.254"), "silence\nsilence\n");
    assert!(daemon.dropped("martian") > martians);
    let _ = server.kill();
    let _ = server.wait();
    daemon.assert_conserved();
    daemon.stop();
}

/// A host of its own for the daemon (`near`), a router, and somebody behind it (`far`), over a link of 1300 bytes.
struct Path {
    near: String,
    far: String,
}

impl Path {
    fn new(host: &mut Host) -> Self {
        let (near, router, far) = (host.netns("near"), host.netns("router"), host.netns("far"));
        for (left, right, net) in [(&near, &router, "198.19.1"), (&router, &far, "198.19.2")] {
            let (one, other) = {
                let tail: String = net.chars().skip(7).collect();
                (format!("l{tail}"), format!("r{tail}"))
            };
            run(
                "ip",
                &["-n", left, "link", "add", &one, "type", "veth", "peer", "name", &other, "netns", right],
            );
            for (netns, device, address) in [(left, &one, "1"), (right, &other, "2")] {
                run("ip", &["-n", netns, "address", "add", &format!("{net}.{address}/24"), "dev", device]);
                run("ip", &["-n", netns, "link", "set", device, "up"]);
                run("ip", &["-n", netns, "link", "set", "lo", "up"]);
            }
        }
        run("ip", &["-n", &near, "route", "add", "default", "via", "198.19.1.2"]);
        run("ip", &["-n", &far, "route", "add", "default", "via", "198.19.2.1"]);
        run("ip", &["-n", &router, "link", "set", "l2", "mtu", "1300"]);
        run("ip", &["-n", &far, "link", "set", "r2", "mtu", "1300"]);
        let set = |netns: &str, name: &str, value: &str| {
            run(
                "ip",
                &["netns", "exec", netns, "sh", "-c", &format!("echo {value} > /proc/sys/net/ipv4/{name}")],
            );
        };
        set(&router, "ip_forward", "1");
        set(&near, "ping_group_range", "'0 2147483647'");
        // No more than a few errors a second is Linux's own limit.
        for netns in [&near, &router, &far] {
            set(netns, "icmp_ratelimit", "0");
        }
        Self { near, far }
    }
}

/// Says the path MTU that the kernel learned, and whether a datagram that fits it comes back.
const PATH_MTU: &str = "\
import errno, socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
s.settimeout(10)
s.connect((sys.argv[1], 8080))
for _ in range(100):
    try:
        s.send(b'm' * 1400)
    except OSError as error:
        assert error.errno == errno.EMSGSIZE, error
        break
    time.sleep(0.05)
print(s.getsockopt(socket.IPPROTO_IP, 14))  # IP_MTU
time.sleep(0.3)
s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # of those that were sent before it was known
s.send(b'm' * 1200)
print(len(s.recv(2000)))
s.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_PMTUDISC_DONT: fragments, both ways
s.send(bytes(range(256)) * 200)
print(s.recv(70000) == (bytes(range(256)) * 200)[::-1])
";

fn the_path_behind_the_host_is_seen(mut host: Host) {
    let path = Path::new(&mut host);
    host.before = vec!["nsenter".into(), format!("--net=/run/netns/{}", path.near), "--".into()];
    let configuration = host.lab(&["a"], "") + UPLINK;
    let (cable, near, far) = ("l1".into(), "198.19.1.1".into(), "198.19.2.2".into());
    let outside = Outside { netns: path.far.clone(), cable, near, far };
    let _server = outside.serve(ECHO, "/proc/net/tcp");
    let daemon = host.start(&configuration);
    assert_eq!(
        daemon.exec("a", &["ping", "-n", "-c", "1", "-W", "5", "198.19.2.2"]).matches("ttl=").count(),
        1
    );
    // Three hops: the gateway, the router, the other end. By UDP and by ICMP echo.
    for method in [&[][..], &["-I"]] {
        let mut words = vec!["traceroute", "-n", "-q", "2", "-w", "3", "-m", "6"];
        words.extend(method);
        words.push("198.19.2.2");
        let said = daemon.exec("a", &words);
        let hops: Vec<&str> =
            said.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(hops, ["10.1.0.1", "198.19.1.2", "198.19.2.2"], "{said}");
    }
    let words = "printf netcat | nc -u -w 1 198.19.2.2 8080";
    assert_eq!(daemon.exec("a", &["sh", "-c", words]), "tacten");
    assert_eq!(python(&daemon, "a", PATH_MTU, &["198.19.2.2"]), "1300\n1200\nTrue\n");
    // A network nobody has: the router says so, and it is passed on as it is.
    let said = daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "3", "198.19.3.1"]);
    assert!(
        text(&said).contains("From 198.19.1.2") && text(&said).contains("Unreachable"),
        "{}",
        text(&said)
    );
    assert_eq!(daemon.dropped("uplink_error"), 0);
    // Who runs the host forbids ping sockets: it is said, and pings are drops with a name.
    assert!(!daemon.ctl(&["show", "status"]).contains("ping_group_range"));
    run("ip", &["netns", "exec", &path.near, "sh", "-c", "echo 1 0 > /proc/sys/net/ipv4/ping_group_range"]);
    assert!(daemon.ctl(&["show", "status"]).contains("ping_group_range"));
    let said = daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", "198.19.2.1"]);
    assert!(text(&said).contains("100% packet loss"), "{}", text(&said));
    assert_eq!(daemon.dropped("uplink_protocol"), 1);
    daemon.assert_conserved();
    daemon.stop();
}

/// Two containers with the same identifier, and a third one that answers for the other end and tells tales about them.
fn echoes_with_one_identifier_find_their_own_way_back(mut host: Host) {
    let path = Path::new(&mut host);
    host.before = vec!["nsenter".into(), format!("--net=/run/netns/{}", path.near), "--".into()];
    let configuration = host.lab(&["a", "b", "c"], "") + UPLINK;
    let daemon = host.start(&configuration);
    let far = std::net::Ipv4Addr::new(198, 19, 2, 2);
    let message = |kind: [u8; 2], rest: &[u8]| {
        let mut message = [&kind[..], &[0, 0], rest].concat();
        let sum = checksum(&[&message]);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    };
    let by_gateway = |packet: &[u8]| ethernet([2, 0x42, 10, 1, 0, 1], mac(4), 0x0800, packet);
    let mut lies = Vec::new();
    for sequence in 1..=40u16 {
        let echo = [0x1234u16.to_be_bytes(), sequence.to_be_bytes()].concat();
        // "From the other end" to both, and what says of their echoes that nobody was there, for whoever believes it.
        for victim in [2, 3] {
            lies.push(by_gateway(&ipv4(1, far, ip(victim), &message([0, 0], &echo))));
            let asked = ipv4(1, ip(victim), far, &message([8, 0], &echo));
            let error = [&[0; 4][..], &asked].concat();
            lies.push(by_gateway(&ipv4(1, ip(4), far, &message([3, 1], &error))));
        }
    }
    let pings = ["a", "b"].map(|name| {
        daemon.background(
            name,
            &["ping", "-n", "-c", "40", "-i", "0.05", "-W", "5", "-e", "4660", "198.19.2.2"],
        )
    });
    let before = [daemon.dropped("reverse_path"), daemon.dropped("uplink_protocol")];
    send(&daemon, "c", &lies);
    for ping in pings {
        let said = ping.finish();
        assert!(said.contains("40 packets transmitted, 40 received, 0% packet loss"), "{said}");
        assert!(!said.contains("DUP") && !said.contains("Unreachable"), "{said}");
    }
    let after = [daemon.dropped("reverse_path"), daemon.dropped("uplink_protocol")];
    assert_eq!([after[0] - before[0], after[1] - before[1]], [80, 80]);
    daemon.assert_conserved();
    daemon.stop();
}

/// HTTP out there: `GET /N` gives N bytes, `PUT` gives the digest of what came.
const HTTP: &str = "\
import hashlib, http.server, socketserver, sys
block = bytes(range(256)) * 1024
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *words): pass
    def do_GET(self):
        left = int(self.path[1:].split('?')[0])
        self.send_response(200)
        self.send_header('Content-Length', str(left))
        self.end_headers()
        while left:
            self.wfile.write(block[:left])
            left -= min(left, len(block))
    def do_PUT(self):
        left, digest = int(self.headers['Content-Length']), hashlib.md5()
        while left:
            data = self.rfile.read(min(left, 1 << 18))
            digest.update(data)
            left -= len(data)
        said = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(said)))
        self.end_headers()
        self.wfile.write(said)
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads, request_queue_size = True, 500
Server((sys.argv[1], 8080), Handler).serve_forever()
";

fn much_at_once_arrives_whole(mut host: Host) {
    const GIB: u64 = 1 << 30;
    let outside = Outside::new(&mut host);
    let _server = outside.serve(HTTP, "/proc/net/tcp");
    let configuration = host.lab(&["a", "b"], "") + UPLINK;
    let daemon = host.start(&configuration);
    let url = format!("http://{}:8080", outside.far);
    let slow = {
        // Somebody who reads slowly all the while, and for a minute.
        let words = ["curl", "-sS", "--limit-rate", "100k", "-w", "%{size_download}", "-o", "/dev/null"];
        daemon.background("b", &[&words[..], &[&format!("{url}/6000000")]].concat())
    };
    // A gibibyte each way, with its digest.
    let pattern = "bytes(range(256)) * 1024";
    let expected = python(
        &daemon,
        "a",
        &format!(
            "import hashlib\nd = hashlib.md5()\nfor _ in range({}): d.update({pattern})\nprint(d.hexdigest())",
            GIB >> 18
        ),
        &[],
    );
    let shell = |words: &str| daemon.background("a", &["sh", "-c", words]).finish();
    let down = shell(&format!("curl -sS {url}/{GIB} | md5sum"));
    assert_eq!(down.split(' ').next(), Some(expected.trim()));
    // A file with a hole for all of it.
    let file = daemon.host.dir.join("gib").display().to_string();
    let zeros = shell(&format!("truncate -s {GIB} {file} && md5sum < {file}"));
    let up = shell(&format!("curl -sS -H 'Expect:' -T {file} {url}/"));
    assert_eq!(Some(up.trim()), zeros.split(' ').next());
    // Two hundred at once.
    let many = shell(&format!(
        "curl -sS --no-progress-meter -Z --parallel-immediate --parallel-max 200 -o /dev/null -w '%{{size_download}}\\n' '{url}/100000?[1-200]' | sort | uniq -c"
    ));
    assert_eq!(many.trim(), "200 100000");
    assert_eq!(slow.finish(), "6000000");
    assert_eq!(daemon.dropped("uplink_quota") + daemon.dropped("uplink_error"), 0);
    daemon.assert_conserved();
    daemon.stop();
}

/// Seventy thousand datagrams, each of another flow; says how many the kernel was told are prohibited.
const FLOOD: &str = "\
import socket, sys, time
sockets = []
for n in range(7):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setblocking(False)
    sockets.append(s)
for n in range(70000):
    try:
        sockets[n % 7].sendto(b'?', (sys.argv[1], 1 + n // 7))
    except OSError:
        pass
    if n % 20 == 0:
        time.sleep(0.001)  # the queue of the interface holds a thousand
print('done')
";

fn seventy_thousand_flows_of_one_leave_the_others_theirs(mut host: Host) {
    let outside = Outside::new(&mut host);
    let _server = outside.serve(ECHO, "/proc/net/tcp");
    let configuration = host.lab(&["a", "b", "c"], "") + UPLINK;
    let daemon = host.start(&configuration);
    let train = Train::start(&daemon, "b", "10.1.0.4");
    let mut stream = Running::start(&daemon, "b", &outside.far, "8080");
    let engine = daemon.engine();
    assert_eq!(python(&daemon, "a", FLOOD, &[&outside.far]), "done\n");
    // A flow is a socket: they are as many as one container may have, and no more.
    let held = descriptors(engine);
    assert!((1000..5000).contains(&held), "{held} descriptors");
    assert!(daemon.dropped("uplink_quota") > 50_000, "{}", daemon.dropped("uplink_quota"));
    assert_eq!(python(&daemon, "c", TRY, &[&outside.far, "8080"]), "answered\nanswered\n");
    assert_eq!(python(&daemon, "a", TRY, &[&outside.far, "8080", "3"]), "ECONNREFUSED\nEHOSTUNREACH\n");
    assert!(stream.runs());
    train.assert_lost_nothing();
    assert_eq!(daemon.engine(), engine);
    daemon.assert_conserved();
    daemon.stop();
}

fn strange_packets_reach_nobody(mut host: Host) {
    let outside = Outside::new(&mut host);
    let _server = outside.serve(ECHO, "/proc/net/tcp");
    let configuration = host.lab(&["a", "b", "c"], "") + UPLINK;
    let daemon = host.start(&configuration);
    let train = Train::start(&daemon, "b", "10.1.0.4");
    let far: std::net::Ipv4Addr = outside.far.parse().unwrap();
    let own = ip(2);
    let wrong_sum = |mut packet: Vec<u8>| {
        packet[10] ^= 1;
        packet
    };
    let udp = |sport: u16, dport: u16| {
        let mut bytes = [sport.to_be_bytes(), dport.to_be_bytes(), [0, 12], [0, 0]].concat();
        bytes.extend(b"mean");
        bytes
    };
    let echo = |kind: u8| {
        let mut message = vec![kind, 0, 0, 0, 0x12, 0x34, 0, 1];
        let sum = checksum(&[&message]);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    };
    let mut overlap = ipv4(17, own, far, &[7; 64]);
    overlap[6..8].copy_from_slice(&0x2001u16.to_be_bytes());
    let first = [&udp(5000, 8080)[..8], &[7; 24]].concat();
    let mut first = ipv4(17, own, far, &first);
    first[6..8].copy_from_slice(&0x2000u16.to_be_bytes());
    for packet in [&mut first, &mut overlap] {
        packet[10..12].fill(0);
        let sum = checksum(&[&packet[..20]]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    for (what, reason, packets) in [
        ("from port 0", "uplink_protocol", vec![ipv4(17, own, far, &udp(0, 8080))]),
        ("to port 0", "uplink_protocol", vec![ipv4(17, own, far, &udp(5000, 0))]),
        ("an echo reply nobody asked for", "uplink_protocol", vec![ipv4(1, own, far, &echo(0))]),
        ("a protocol without sockets", "uplink_protocol", vec![ipv4(132, own, far, &[0; 32])]),
        ("from the loopback", "martian", vec![ipv4(17, [127, 0, 0, 1].into(), far, &udp(5000, 8080))]),
        ("from a group", "martian", vec![ipv4(17, [224, 0, 0, 9].into(), far, &udp(5000, 8080))]),
        ("to the loopback", "martian", vec![ipv4(17, own, [127, 0, 0, 1].into(), &udp(5000, 8080))]),
        ("to this host", "martian", vec![ipv4(17, own, [0, 0, 0, 0].into(), &udp(5000, 8080))]),
        ("with a wrong header", "bad_checksum", vec![wrong_sum(ipv4(17, own, far, &udp(5000, 8080)))]),
        ("in fragments that overlap", "uplink_fragment", vec![first, overlap]),
        ("to a group", "no_route", vec![ipv4(17, own, [239, 1, 2, 3].into(), &udp(5000, 8080))]),
    ] {
        let before = daemon.dropped(reason);
        let frames: Vec<_> =
            packets.iter().map(|packet| ethernet([2, 0x42, 10, 1, 0, 1], mac(2), 0x0800, packet)).collect();
        send(&daemon, "a", &frames);
        wait_for(&format!("{reason} for a packet {what}"), || {
            (daemon.dropped(reason) > before).then_some(())
        });
    }
    assert_eq!(python(&daemon, "c", TRY, &[&outside.far, "8080"]), "answered\nanswered\n");
    train.assert_lost_nothing();
    daemon.assert_conserved();
    daemon.stop();
}

fn connections_end_when_the_engine_does(mut host: Host) {
    let outside = Outside::new(&mut host);
    let _server = outside.serve(ECHO, "/proc/net/tcp");
    let configuration = host.lab(&["a"], "") + UPLINK;
    let daemon = host.start(&configuration);
    let stream = Running::start(&daemon, "a", &outside.far, "8080");
    let engine = daemon.engine();
    run("kill", &["-KILL", &engine.to_string()]);
    let since = Instant::now();
    // Its next packet is answered by the new engine, which knows nothing of it.
    assert_eq!(stream.end(), "ECONNRESET");
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    daemon.wait_engine_after(engine);
    assert_eq!(python(&daemon, "a", TRY, &[&outside.far, "8080"]), "answered\nanswered\n");
    daemon.stop();
}

/// Opens so many connections, says so, and keeps them until its input ends.
const IDLE: &str = "\
import resource, socket, sys
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
kept = [socket.create_connection((sys.argv[1], 8090), timeout=30) for _ in range(int(sys.argv[2]))]
print('open', flush=True)
sys.stdin.read()
";

fn ten_thousand_idle_connections_are_cheap(mut host: Host) {
    use std::io::BufRead;
    const EACH: u64 = 2500;
    let outside = Outside::new(&mut host);
    let _server = outside.serve(ECHO, "/proc/net/tcp");
    let configuration = host.lab(&["a", "b", "c", "d", "e"], "") + UPLINK;
    let daemon = host.start(&configuration);
    assert_eq!(python(&daemon, "e", TRY, &[&outside.far, "8080"]), "answered\nanswered\n");
    let engine = daemon.engine();
    let before = resident(engine);
    let mut clients: Vec<Child> = ["a", "b", "c", "d"]
        .map(|name| {
            let mut command =
                daemon.exec_command(name, &[PYTHON, "-c", IDLE, &outside.far, &EACH.to_string()]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        })
        .into();
    for client in &mut clients {
        let mut line = String::new();
        std::io::BufReader::new(client.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "open\n");
    }
    assert!(descriptors(engine) >= 4 * EACH as usize);
    // The sockets themselves are the kernel's memory.
    let grown = resident(engine).saturating_sub(before);
    assert!(grown <= 20 << 20, "{} KiB for {} connections", grown >> 10, 4 * EACH);
    assert_eq!(python(&daemon, "e", TRY, &[&outside.far, "8080"]), "answered\nanswered\n");
    for mut client in clients {
        drop(client.stdin.take());
        client.wait().unwrap();
    }
    wait_for("the connections to end", || (descriptors(engine) < 1000).then_some(()));
    daemon.assert_conserved();
    daemon.stop();
}
