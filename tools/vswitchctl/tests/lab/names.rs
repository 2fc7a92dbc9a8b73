//! Names, as `dig` and the C library see them: those of containers, those that the host's resolvers know, and who is told
//! what. The resolver is a real one on a loopback address, named in a `resolv.conf` that only the daemon sees.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::harness::{Daemon, Host, random, run, skipped, wait_for};
use crate::{as_both, by_two_workers};

as_both!(containers_have_names, others_are_asked_of_the_host, who_asks_badly_harms_nobody);
by_two_workers!(containers_have_names,);

/// Two networks that do not reach each other, and an internal one; `silent` and `asks` have rules.
fn lab(host: &Host) -> String {
    let mut text = host.lab(&["a"], "");
    text.push_str("[uplink]\nkind = \"sockets\"\n");
    text.push_str("[[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\n");
    text.push_str("[[network]]\nname = \"inner\"\nsubnet = \"10.3.0.0/24\"\ninternal = true\n");
    for (name, network, rest) in [
        ("b", "blue", "aliases = [\"www\", \"db.example.com\"]\n"),
        ("x", "red", "aliases = [\"www\"]\n"),
        ("i", "inner", ""),
    ] {
        let netns = host.name(name);
        text.push_str(&format!(
            "[[container]]\nname = \"{name}\"\nnetns = \"{netns}\"\ncreate = true\n\
             [[container.interface]]\nnetwork = \"{network}\"\n{rest}"
        ));
    }
    for (name, rules) in [("silent", "\"deny all\""), ("asks", "\"allow udp/53\", \"deny all\"")] {
        let netns = host.name(name);
        text.push_str(&format!(
            "[[container]]\nname = \"{name}\"\nnetns = \"{netns}\"\ncreate = true\negress = [{rules}]\n\
             [[container.interface]]\nnetwork = \"blue\"\n"
        ));
    }
    text
}

/// `dig`'s answer, one line a record.
#[track_caller]
fn dig(daemon: &Daemon, container: &str, words: &[&str]) -> String {
    daemon.exec(container, &[&["dig", "+short"], words].concat()).trim().to_owned()
}

/// The status of `dig`'s answer, and how many records it has.
#[track_caller]
fn status(daemon: &Daemon, container: &str, words: &[&str]) -> (String, u32) {
    let said = daemon.exec(container, &[&["dig", "+tries=1"], words].concat());
    let after = |word: &str| {
        said.split_once(word).map(|(_, rest)| rest.split([',', ' ', ';']).next().unwrap().to_owned())
    };
    let answers = after("ANSWER: ").map_or(0, |count| count.trim().parse().unwrap());
    (after("status: ").unwrap_or_else(|| panic!("{said}")), answers)
}

fn containers_have_names(host: Host) {
    let configuration = lab(&host);
    let mut daemon = host.start(&configuration);
    let conf = daemon.exec("a", &["cat", "/etc/resolv.conf"]);
    assert!(conf.contains("nameserver 10.1.0.1\n"), "{conf}");
    for name in ["b", "B", "b.blue", "b.BLUE.", "www", "www.blue", "db.example.com"] {
        assert_eq!(dig(&daemon, "a", &[name]), "10.1.0.3", "{name}");
        assert_eq!(dig(&daemon, "a", &["+tcp", name]), "10.1.0.3", "{name} by TCP");
    }
    assert_eq!(dig(&daemon, "a", &["-x", "10.1.0.3"]), "b.blue.");
    assert_eq!(dig(&daemon, "a", &["-x", "10.1.0.1"]), "gateway.blue.");
    assert_eq!(dig(&daemon, "a", &["-x", "127.0.0.9"]), "localhost.");
    assert_eq!(dig(&daemon, "a", &["gateway.blue"]), "10.1.0.1");
    assert_eq!(dig(&daemon, "x", &["www"]), "10.2.0.2", "whose www it is depends on who asks");
    assert_eq!(dig(&daemon, "i", &["i"]), "10.3.0.2");
    let (ok, nothing) = (|count| ("NOERROR".to_owned(), count), ("NXDOMAIN".to_owned(), 0));
    assert_eq!(status(&daemon, "a", &["b", "AAAA"]), ok(0), "the name is there, the type is not");
    assert_eq!(status(&daemon, "a", &["b", "MX"]), ok(0));
    assert_eq!(status(&daemon, "a", &["b", "ANY"]), ok(1));
    assert_eq!(status(&daemon, "a", &["blue"]), ok(0));
    assert_eq!(status(&daemon, "a", &["localhost"]), ok(1));
    for name in ["nosuch", "x", "x.red"] {
        assert_eq!(status(&daemon, "a", &[name]), nothing, "{name}");
    }
    for address in ["10.1.0.77", "10.2.0.2"] {
        assert_eq!(status(&daemon, "a", &["-x", address]), nothing, "{address}");
    }
    assert_eq!(status(&daemon, "a", &["CH", "TXT", "version.bind"]).0, "REFUSED");
    assert_eq!(status(&daemon, "a", &["+opcode=notify", "b"]).0, "NOTIMP");
    assert_eq!(status(&daemon, "a", &["+edns=1", "+noednsnegotiation", "b"]).0, "BADVERS");
    // By the C library, which finds the server by itself.
    assert_eq!(daemon.exec("a", &["getent", "ahostsv4", "www.blue"]).split(' ').next(), Some("10.1.0.3"));
    assert!(daemon.exec("a", &["getent", "hosts", "b"]).starts_with("10.1.0.3"));
    // Another daemon that takes over answers like this one.
    daemon.take_over();
    assert_eq!(dig(&daemon, "a", &["www.blue"]), "10.1.0.3");
    // An interface that goes takes its names along.
    let gone = configuration.replace("aliases = [\"www\", \"db.example.com\"]\n", "");
    daemon.reload(&gone);
    assert_eq!(status(&daemon, "a", &["www"]), nothing);
    assert_eq!(dig(&daemon, "a", &["b"]), "10.1.0.3");
    daemon.assert_conserved();
    daemon.stop();
}

/// A resolver of the host.
struct Resolver {
    child: Child,
    address: String,
    log: PathBuf,
}

impl Resolver {
    /// It knows `outside.test`, which is `answer`, and `big.test`, whose text fits into no datagram.
    fn start(host: &Host, answer: &str) -> Self {
        let number = random();
        let address = format!("127.{}.{}.53", number & 0x7f | 0x80, number >> 8 & 0xff);
        let log = host.dir.join(format!("resolver-{answer}.log"));
        let mut command = Command::new("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root"]);
        command.args(["--no-resolv", "--no-hosts", "--bind-interfaces", "--log-queries", "--cache-size=0"]);
        command.arg(format!("--log-facility={}", log.display()));
        command.arg(format!("--listen-address={address}"));
        command.arg(format!("--address=/outside.test/{answer}"));
        command.arg("--ptr-record=10.113.0.203.in-addr.arpa,ten.outside.test");
        for number in 0..12 {
            command.arg(format!("--txt-record=big.test,{number:02}{}", "x".repeat(200)));
        }
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let resolver = Self { child, address, log };
        wait_for("a resolver", || {
            let at = format!("@{}", resolver.address);
            let output =
                Command::new("dig").args(["+short", "+time=1", "+tries=1", &at, "outside.test"]).output();
            (String::from_utf8_lossy(&output.unwrap().stdout).trim() == answer).then_some(())
        });
        resolver
    }

    fn was_asked(&self, name: &str) -> bool {
        std::fs::read_to_string(&self.log).unwrap().contains(name)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The daemon sees `text` as the host's `resolv.conf`, which this writes.
fn resolv_conf(host: &mut Host, text: &str) -> PathBuf {
    // With it /run/netns is a mount of its own, and what the daemon puts there is seen by others too.
    let _first = host.netns("first");
    let path = host.dir.join("resolv.conf");
    std::fs::write(&path, text).unwrap();
    let script = format!(
        "mount --make-private /; mount --make-private /etc/resolv.conf 2>/dev/null; \
         mount --bind {} /etc/resolv.conf && exec \"$@\"",
        path.display()
    );
    host.before = ["unshare", "-m", "--propagation", "unchanged", "sh", "-c", &script, "sh"]
        .map(str::to_owned)
        .to_vec();
    path
}

/// The tester is root: a resolver takes l4 port 53, and the daemon gets mounts of its own.
fn may_have_resolvers() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped("needs root for a resolver on l4 port 53");
    }
    root
}

fn others_are_asked_of_the_host(mut host: Host) {
    if !may_have_resolvers() {
        return;
    }
    let first = Resolver::start(&host, "192.0.2.80");
    let second = Resolver::start(&host, "192.0.2.81");
    // Nobody is at the first address.
    let path = resolv_conf(&mut host, &format!("nameserver 127.0.99.99\nnameserver {}\n", first.address));
    let configuration = lab(&host);
    let daemon = host.start(&configuration);
    assert_eq!(dig(&daemon, "a", &["outside.test"]), "192.0.2.80");
    assert_eq!(dig(&daemon, "x", &["+tcp", "outside.test"]), "192.0.2.80");
    assert_eq!(dig(&daemon, "a", &["-x", "203.0.113.10"]), "ten.outside.test.");
    assert_eq!(
        daemon.exec("a", &["getent", "ahostsv4", "outside.test"]).split(' ').next(),
        Some("192.0.2.80")
    );
    // What is too long for a datagram says so, and is asked for again by TCP.
    let cut = daemon.exec("a", &["dig", "+ignore", "big.test", "TXT"]);
    assert!(cut.contains(" tc ") || cut.contains(" tc;"), "{cut}");
    assert_eq!(dig(&daemon, "a", &["big.test", "TXT"]).lines().count(), 12);
    // An internal network has no way out, and names of ours lead to nobody else.
    assert_eq!(status(&daemon, "i", &["secret.outside.test"]), ("REFUSED".to_owned(), 0));
    assert_eq!(status(&daemon, "i", &["+tcp", "secret.outside.test"]), ("REFUSED".to_owned(), 0));
    // A question that is passed on is judged like a packet of the container's own.
    assert_eq!(status(&daemon, "silent", &["secret.outside.test"]), ("REFUSED".to_owned(), 0));
    assert_eq!(dig(&daemon, "silent", &["b"]), "10.1.0.3", "our own names lead nowhere outside");
    assert_eq!(dig(&daemon, "asks", &["outside.test"]), "192.0.2.80");
    assert_eq!(status(&daemon, "asks", &["+tcp", "secret.outside.test"]), ("REFUSED".to_owned(), 0));
    assert_eq!(status(&daemon, "a", &["x.red"]).0, "NXDOMAIN");
    assert_eq!(status(&daemon, "a", &["-x", "10.1.0.99"]).0, "NXDOMAIN");
    for name in ["secret", "x.red", "99.0.1.10"] {
        assert!(!first.was_asked(name), "{name} was asked of the host's resolver");
    }
    let shown = daemon.ctl(&["show", "status"]);
    assert!(shown.contains(&first.address), "{shown}");
    let dns = daemon.rows("status")[0]["dns"]["counts"].clone();
    assert!(dns["forwarded"].as_u64() >= Some(6), "{dns}");
    assert_eq!((dns["refused"].as_u64(), dns["failed"].as_u64()), (Some(4), Some(0)), "{dns}");

    std::fs::write(&path, format!("nameserver {}\n", second.address)).unwrap();
    wait_for("the other resolver", || (dig(&daemon, "a", &["outside.test"]) == "192.0.2.81").then_some(()));
    std::fs::write(&path, "# nobody\n").unwrap();
    wait_for("no resolver", || (status(&daemon, "a", &["outside.test"]).0 == "SERVFAIL").then_some(()));
    assert_eq!(dig(&daemon, "a", &["b"]), "10.1.0.3", "our own names need none");
    daemon.assert_conserved();
    daemon.stop();
}

/// Connections that say nothing, or half of something, until each was ended by the other side.
const IDLE: &str = "\
import socket, time
held, refused = [], 0
for number in range(24):
    s = socket.socket()
    s.settimeout(25)
    try:
        s.connect(('10.1.0.1', 53))
        if number % 3 == 1: s.send(b'\\0')
        if number % 3 == 2: s.send(b'\\0\\x40' + b'x' * 20)
        held.append(s)
    except OSError:
        refused += 1
print('held', flush=True)
for s in held:
    try:
        while s.recv(100): pass
    except ConnectionError:
        pass
print('ended', len(held), refused)
";

/// Questions as fast as they go, and garbage.
const FLOOD: &str = "\
import os, socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('10.1.0.1', 53))
s.setblocking(False)
question = b'\\x12\\x34\\x01\\0\\0\\1\\0\\0\\0\\0\\0\\0\\1b\\0\\0\\1\\0\\1'
end = time.monotonic() + 3
while time.monotonic() < end:
    for number in range(64):
        try:
            s.send(question if number % 4 else os.urandom(12 + number))
        except OSError:
            pass
";

/// Streams that are no questions: each is ended at once.
const NONSENSE: &str = "\
import os, socket, struct
for said in [b'\\0\\0', b'\\0\\1x', b'\\xff\\xff' + os.urandom(3000), b'\\0\\x0c' + b'\\xff' * 12]:
    s = socket.create_connection(('10.1.0.1', 53), timeout=5)
    s.sendall(said)
    try:
        while s.recv(100): pass
    except ConnectionError:
        pass
# Half a question, and then no more of it, not even an end.
for number in range(50):
    s = socket.create_connection(('10.1.0.1', 53), timeout=5)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    s.sendall(b'\\0\\x20\\x12\\x34\\1\\0')
    s.close()
print('all ended')
";

fn who_asks_badly_harms_nobody(host: Host) {
    let configuration = lab(&host);
    let daemon = host.start(&configuration);
    let python = |script| daemon.background("a", &["/usr/bin/python3", "-c", script]);
    assert_eq!(python(NONSENSE).finish().trim(), "all ended");
    let idle = python(IDLE);
    let flood = python(FLOOD);
    for number in 0..10 {
        let by = if number % 2 == 0 { "+notcp" } else { "+tcp" };
        assert_eq!(
            dig(&daemon, "b", &["+time=5", "+tries=2", by, "a.blue"]),
            "10.1.0.2",
            "neighbour, {number}"
        );
    }
    flood.finish();
    let said = idle.finish();
    assert!(said.contains("ended 8 16"), "8 connections at a time, each ended: {said}");
    assert_eq!(dig(&daemon, "a", &["+tcp", "b"]), "10.1.0.3", "and then it goes on");
    let dns = daemon.rows("status")[0]["dns"]["counts"].clone();
    assert!(dns["over_quota"].as_u64() >= Some(16) && dns["malformed"].as_u64() > Some(0), "{dns}");
    daemon.assert_conserved();
    let engine = daemon.engine();
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{engine}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    // Nothing spins when nobody asks any more.
    let before = ticks();
    run("sleep", &["1"]);
    assert!(ticks() - before < 50, "the engine works on nothing");
    daemon.stop();
}
