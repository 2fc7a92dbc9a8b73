//! The other end is the kernel's VXLAN device, as whoever runs Docker overlay or flannel has it.

use super::hosts::{Place, Underlay, Wanted, start};
use crate::harness::{As, Background, Daemon, Host, PYTHON, run};
use crate::traffic::Stream;

/// How the kernel's device is set up.
struct Device<'a> {
    v6: bool,
    /// Beside id, local and l4 port.
    options: &'a [&'a str],
    /// It learns, and floods to us; else it is told.
    learns: bool,
}

/// A kernel's VTEP at a place, 10.1.0.50 and fd00:1::50 behind it.
fn device(place: &Place, ours: &str, device: &Device<'_>) {
    let netns = &place.netns;
    let ip = |words: &[&str]| run("ip", &[&["-n", netns][..], words].concat());
    let zeros: &[&str] = match (device.v6, device.options.contains(&"noudpcsum")) {
        (true, true) => &["udp6zerocsumtx", "udp6zerocsumrx"],
        _ => &[],
    };
    let learning = if device.learns { "learning" } else { "nolearning" };
    let add = [
        "link",
        "add",
        "vx0",
        "type",
        "vxlan",
        "id",
        "100",
        "local",
        &place.address,
        "dstport",
        "4789",
        learning,
    ];
    ip(&[&add[..], device.options, zeros].concat());
    let to_all = ["fdb", "append", "00:00:00:00:00:00", "dev", "vx0", "dst", ours];
    let to_ours = ["fdb", "append", "02:42:0a:01:00:0b", "dev", "vx0", "dst", ours];
    run("bridge", &[&["-n", netns][..], if device.learns { &to_all } else { &to_ours }].concat());
    ip(&["address", "add", "10.1.0.50/24", "dev", "vx0"]);
    ip(&["-6", "address", "add", "fd00:1::50/64", "dev", "vx0", "nodad"]);
    // Without a device below it does not know what the underlay takes, and sends what our network does not.
    let mtu = if device.v6 { "1430" } else { "1450" };
    ip(&["link", "set", "vx0", "mtu", mtu, "address", "02:00:00:00:00:50", "up"]);
    if !device.learns {
        ip(&["neigh", "add", "10.1.0.11", "lladdr", "02:42:0a:01:00:0b", "dev", "vx0"]);
        ip(&["-6", "neigh", "add", "fd00:1::11", "lladdr", "02:42:0a:01:00:0b", "dev", "vx0"]);
    }
}

/// Datagrams of every size to an echo and back, each checked: small ones, the largest that are whole (1430 over IPv6 is what
/// is left where the underlay is of IPv6), and those that the sender's kernel cuts.
const ECHO: &str = "\
import socket, sys, time
role, host = sys.argv[1], sys.argv[2]
family = socket.AF_INET6 if ':' in host else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
header = 48 if ':' in host else 28
if role == 'echo':
    s.bind((host, 5012))
    s.settimeout(30)
    while True:
        data, who = s.recvfrom(65535)
        s.sendto(data, who)
        if data == b'end':
            break
else:
    s.connect((host, 5012))
    s.settimeout(0.5)
    deadline = time.monotonic() + 20
    while True:
        try:
            s.send(b'begin')
            assert s.recv(10) == b'begin'
            break
        except (ConnectionRefusedError, TimeoutError):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    s.settimeout(5)
    for size in [1, 2, 17, 18, 64, 512, 1300, 1430 - header, 1450 - header, 1451 - header, 3000, 8000, 60000]:
        for fill in (b'a', b'b'):
            data = fill * size
            s.send(data)
            while (back := s.recv(65535)) == b'begin':
                pass
            assert back == data, (size, len(back))
    s.send(b'end')
    print('all')
";

/// Streams and pings both ways between our container and what a namespace has behind the other end.
pub fn talk(daemon: &Daemon, netns: &str) {
    let inside = |words: &[&str]| Background::inside(netns, words);
    let stop = daemon.host.dir.join("stop");
    for (here, there) in [("10.1.0.11", "10.1.0.50"), ("fd00:1::11", "fd00:1::50")] {
        daemon.ping("c", there);
        inside(&["ping", "-n", "-c", "2", "-i", "0.2", "-W", "5", "-s", "1300", here]).finish();
        let ours = |words: &[&str]| daemon.background("c", words);
        let out = Stream::between(ours, inside, there, 16, stop.clone());
        assert!(out.finish() >= 16 << 20);
        let ours = |words: &[&str]| daemon.background("c", words);
        let back = Stream::between(inside, ours, here, 16, stop.clone());
        assert!(back.finish() >= 16 << 20);
    }
}

/// Datagrams of every size both ways between the same.
pub fn datagrams(daemon: &Daemon, netns: &str) {
    let inside = |words: &[&str]| Background::inside(netns, words);
    for (here, there) in [("10.1.0.11", "10.1.0.50"), ("fd00:1::11", "fd00:1::50")] {
        let ours = |words: &[&str]| daemon.background("c", words);
        let echo = inside(&[PYTHON, "-c", ECHO, "echo", there]);
        assert_eq!(ours(&[PYTHON, "-c", ECHO, "ask", there]).finish(), "all\n");
        echo.finish();
        let echo = ours(&[PYTHON, "-c", ECHO, "echo", here]);
        assert_eq!(inside(&[PYTHON, "-c", ECHO, "ask", here]).finish(), "all\n");
        echo.finish();
    }
}

fn against(device_is: &Device<'_>) {
    let Some(mut host) = Host::new(As::Root) else { return };
    let mut cable = Host::new(As::Root).unwrap();
    let mut underlay = Underlay::new(&mut cable, device_is.v6);
    let place = underlay.place(&mut host);
    let other = underlay.place(&mut cable);
    device(&other, &place.address, device_is);
    let peers = format!("peers = [\"{}\"]\n", other.address);
    let daemon = start(host, &place, 1, &Wanted { vxlan: &peers, ..Wanted::default() });
    talk(&daemon, &other.netns);
    datagrams(&daemon, &other.netns);
    for reason in ["vxlan_malformed", "vxlan_unknown_vtep", "exceeds_mtu", "bad_offload", "tx_error"] {
        assert_eq!(daemon.dropped(reason), 0, "{reason}");
    }
    daemon.stop();
}

#[test]
fn one_that_learns() {
    against(&Device { v6: false, options: &["udpcsum"], learns: true });
}

#[test]
fn one_without_checksums() {
    against(&Device { v6: false, options: &["noudpcsum"], learns: true });
}

#[test]
fn one_that_is_told() {
    against(&Device { v6: false, options: &[], learns: false });
}

#[test]
fn one_over_ipv6() {
    against(&Device { v6: true, options: &[], learns: true });
}

#[test]
fn one_over_ipv6_without_checksums() {
    against(&Device { v6: true, options: &["noudpcsum"], learns: true });
}

/// The device hands over what it made for a NIC, unsegmented and with bare sums, where both are on one machine. Told not to,
/// it sends what a wire would carry.
#[test]
fn one_that_cuts_and_sums_by_itself() {
    let Some(mut host) = Host::new(As::Root) else { return };
    let mut cable = Host::new(As::Root).unwrap();
    let mut underlay = Underlay::new(&mut cable, false);
    let place = underlay.place(&mut host);
    let other = underlay.place(&mut cable);
    device(&other, &place.address, &Device { v6: false, options: &[], learns: true });
    for link in ["vx0", "u0"] {
        run(
            "ip",
            &["netns", "exec", &other.netns, "ethtool", "-K", link, "tx", "off", "gso", "off", "tso", "off"],
        );
    }
    let peers = format!("peers = [\"{}\"]\n", other.address);
    let daemon = start(host, &place, 1, &Wanted { vxlan: &peers, ..Wanted::default() });
    talk(&daemon, &other.netns);
    datagrams(&daemon, &other.netns);
    daemon.stop();
}
