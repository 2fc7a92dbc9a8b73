//! The way out as sockets of the daemon: what an ordinary user's containers reach, and what they do not.

use std::process::{Child, Command, Stdio};

use crate::harness::{Daemon, Host, random, run, wait_for};
use crate::{as_both, by_two_workers, on_other_engine};

as_both!(streams_and_datagrams_leave_by_sockets, what_cannot_be_reached_is_said);

on_other_engine!(streams_and_datagrams_leave_by_sockets,);
by_two_workers!(streams_and_datagrams_leave_by_sockets,);

/// A namespace that plays the outside, on a cable to the host's own.
pub struct Outside {
    pub netns: String,
    /// The host's end of the cable.
    pub cable: String,
    /// The host's address on the cable.
    pub near: String,
    /// The other end's.
    pub far: String,
}

impl Outside {
    pub fn new(host: &mut Host) -> Self {
        let number = random();
        let (third, fourth) = (number >> 24 & 0xff, number & 0xf8);
        let near = format!("198.19.{third}.{}/29", fourth + 1);
        Self::with(host, number, &near, &format!("198.19.{third}.{}/29", fourth + 2))
    }

    /// The same over IPv6.
    pub fn new6(host: &mut Host) -> Self {
        let number = random();
        let prefix = format!("fd5a:{:x}:{:x}", number >> 16, number & 0xffff);
        Self::with(host, number, &format!("{prefix}::1/64"), &format!("{prefix}::2/64"))
    }

    fn with(host: &mut Host, number: u32, near: &str, far: &str) -> Self {
        let netns = host.netns("out");
        let cable = format!("vswt{:x}", number & 0x00ff_ffff);
        // It goes with its other end, which goes with the namespace.
        run("ip", &["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &netns]);
        // Nobody else is on the cable: no need to ask whether an address is taken.
        let flags: &[&str] = if near.contains(':') { &["nodad"] } else { &[] };
        run("ip", &[&["address", "add", near, "dev", &cable][..], flags].concat());
        run("ip", &["link", "set", &cable, "up"]);
        run("ip", &[&["-n", &netns, "address", "add", far, "dev", "eth0"][..], flags].concat());
        run("ip", &["-n", &netns, "link", "set", "eth0", "up"]);
        let bare = |address: &str| address.split_once('/').unwrap().0.to_owned();
        Self { netns, cable, near: bare(near), far: bare(far) }
    }

    /// A server out there, listening when this returns.
    pub fn serve(&self, script: &str, table: &str) -> Server {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns, "/usr/bin/python3", "-c", script, &self.far]);
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        wait_for("a server outside", || {
            let sockets = run("ip", &["netns", "exec", &self.netns, "cat", table]);
            sockets.contains(":1F90 ").then_some(()) // l4 port 8080
        });
        Server(child)
    }
}

pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Takes a stream to its end, says who sent it and its digest, and sends as much back.
pub const TCP: &str = "\
import hashlib, socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
with socket.create_server((sys.argv[1], 8080), family=family) as listener:
    while True:
        s, peer = listener.accept()
        digest, count = hashlib.sha256(), 0
        while data := s.recv(1 << 18):
            digest.update(data)
            count += len(data)
        s.sendall(f'{peer[0]} {count} {digest.hexdigest()}\\n'.encode())
        s.sendall(b'y' * count)
        s.close()
";

pub const TCP_CLIENT: &str = "\
import hashlib, os, socket, sys
s = socket.create_connection((sys.argv[1], 8080), timeout=20)
digest, left = hashlib.sha256(), 48 << 20
block = os.urandom(1 << 18)
while left:
    s.sendall(block)
    digest.update(block)
    left -= len(block)
s.shutdown(socket.SHUT_WR)
answer = s.makefile('rb')
peer, count, said = answer.readline().decode().split()
back = 0
while data := answer.read(1 << 18):
    assert data.count(b'y') == len(data)
    back += len(data)
assert (int(count), back, said) == (48 << 20, 48 << 20, digest.hexdigest()), (count, back)
print('seen as', peer)
";

pub const UDP: &str = "\
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 8080))
while True:
    data, peer = s.recvfrom(65535)
    s.sendto(data[::-1], peer)
";

pub const UDP_CLIENT: &str = "\
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.connect((sys.argv[1], 8080))
for number in range(50):
    data = number.to_bytes(2, 'big') * 300
    s.send(data)
    assert s.recv(65535) == data[::-1]
print('50 came back')
";

/// Tries to connect, by TCP and by UDP, and says what happened.
pub const TRY: &str = "\
import errno, socket, sys
for kind in [socket.SOCK_STREAM, socket.SOCK_DGRAM]:
    s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, kind)
    s.settimeout(5)
    try:
        s.connect((sys.argv[1], int(sys.argv[2])))
        s.send(b'x')
        s.recv(1)
        print('answered')
    except TimeoutError:
        print('silence')
    except OSError as error:
        print(errno.errorcode[error.errno])
";

fn lab(host: &Host) -> String {
    let uplink = "[uplink]\nkind = \"sockets\"\n\
        [[network]]\nname = \"inner\"\nsubnet = \"10.2.0.0/24\"\ninternal = true\n";
    let inner = format!(
        "[[container]]\nname = \"i\"\nnetns = \"{}\"\ncreate = true\n[[container.interface]]\nnetwork = \"inner\"\n",
        host.name("i")
    );
    host.lab(&["a", "b"], "") + uplink + &inner
}

#[track_caller]
pub fn python(daemon: &Daemon, container: &str, script: &str, arguments: &[&str]) -> String {
    let mut words = vec!["/usr/bin/python3", "-c", script];
    words.extend(arguments);
    daemon.exec(container, &words)
}

fn streams_and_datagrams_leave_by_sockets(mut host: Host) {
    let outside = Outside::new(&mut host);
    let configuration = lab(&host);
    let daemon = host.start(&configuration);
    let _tcp = outside.serve(TCP, "/proc/net/tcp");
    let seen = python(&daemon, "a", TCP_CLIENT, &[&outside.far]);
    assert_eq!(seen.trim(), format!("seen as {}", outside.near));
    let _udp = outside.serve(UDP, "/proc/net/udp");
    assert_eq!(python(&daemon, "b", UDP_CLIENT, &[&outside.far]).trim(), "50 came back");
    // Eight at a time, from two containers.
    let clients: Vec<_> = ["a", "b"]
        .into_iter()
        .cycle()
        .take(8)
        .map(|name| daemon.background(name, &["/usr/bin/python3", "-c", UDP_CLIENT, &outside.far]))
        .collect();
    clients.into_iter().for_each(|client| assert_eq!(client.finish().trim(), "50 came back"));
    assert_eq!(daemon.dropped("uplink_error") + daemon.dropped("uplink_quota"), 0);
    daemon.assert_conserved();
    daemon.stop();
}

fn what_cannot_be_reached_is_said(mut host: Host) {
    let outside = Outside::new(&mut host);
    let configuration = lab(&host);
    let daemon = host.start(&configuration);
    let said = |container: &str, address: &str, port: &str| python(&daemon, container, TRY, &[address, port]);
    assert_eq!(said("a", &outside.far, "9"), "ECONNREFUSED\nECONNREFUSED\n", "nobody listens");
    // The host itself is not outside, whichever of its addresses is asked for; nor is another network.
    assert_eq!(said("a", &outside.near, "22"), "EHOSTUNREACH\nEHOSTUNREACH\n");
    assert_eq!(
        said("i", &outside.far, "9"),
        "ENETUNREACH\nENETUNREACH\n",
        "an internal network has no way out"
    );
    assert_eq!(said("a", "10.1.0.1", "9"), "ECONNREFUSED\nECONNREFUSED\n", "the gateway");
    daemon.assert_conserved();
    daemon.stop();
}
