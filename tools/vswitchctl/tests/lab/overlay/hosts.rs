//! Hosts of an overlay: each a namespace with a daemon of its own, on one cable with the others.

use crate::harness::{Background, Daemon, Host, PYTHON, run, wait_for};

/// The cable: a bridge in a namespace of its own, to which every host has a leg.
pub struct Underlay {
    /// The namespace of the bridge.
    pub netns: String,
    /// Addresses are of IPv6.
    v6: bool,
    hosts: u8,
}

/// A place on the cable.
pub struct Place {
    /// Its namespace, in which the leg is `u0`.
    pub netns: String,
    /// Its address.
    pub address: String,
}

impl Underlay {
    pub fn new(keeper: &mut Host, v6: bool) -> Self {
        let netns = keeper.netns("cable");
        run("ip", &["-n", &netns, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"]);
        run("ip", &["-n", &netns, "link", "set", "br0", "up"]);
        Self { netns, v6, hosts: 0 }
    }

    /// One more place; its namespace goes with `host`.
    pub fn place(&mut self, host: &mut Host) -> Place {
        self.hosts += 1;
        let number = self.hosts;
        let netns = host.netns(&format!("host{number}"));
        let leg = format!("leg{number}");
        run(
            "ip",
            &["-n", &netns, "link", "add", "u0", "type", "veth", "peer", "name", &leg, "netns", &self.netns],
        );
        run("ip", &["-n", &self.netns, "link", "set", &leg, "master", "br0", "up"]);
        let address = self.address(number);
        let with_len = format!("{address}/{}", if self.v6 { 64 } else { 24 });
        let flags: &[&str] = if self.v6 { &["nodad"] } else { &[] };
        run("ip", &[&["-n", &netns, "address", "add", &with_len, "dev", "u0"][..], flags].concat());
        for link in ["lo", "u0"] {
            run("ip", &["-n", &netns, "link", "set", link, "up"]);
        }
        Place { netns, address }
    }

    /// The address of the host that is, or will be, of this number.
    pub fn address(&self, number: u8) -> String {
        if self.v6 { format!("fd5a::{number}") } else { format!("198.18.1.{number}") }
    }
}

/// What a host of the overlay runs: network `blue` with container `c`, 10.1.0.1N, beside what else is said.
#[derive(Default)]
pub struct Wanted<'a> {
    /// In `[vxlan]`, beside `local`.
    pub vxlan: &'a str,
    /// In `[[network]]`, beside name, subnets and `vni = 100`.
    pub network: &'a str,
    /// Behind all.
    pub rest: &'a str,
}

/// The configuration of the host of this number.
pub fn configuration(host: &Host, place: &Place, number: u8, wanted: &Wanted<'_>) -> String {
    let Wanted { vxlan, network, rest } = wanted;
    let netns = host.name("c");
    host.configuration(&format!(
        "[vxlan]\nlocal = \"{}\"\n{vxlan}\n\
         [[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\nsubnet6 = \"fd00:1::/64\"\nvni = 100\n{network}\n\
         [[container]]\nname = \"c\"\nnetns = \"{netns}\"\ncreate = true\n\
         [[container.interface]]\nnetwork = \"blue\"\nip = \"10.1.0.1{number}\"\nip6 = \"fd00:1::1{number}\"\n{rest}\n",
        place.address
    ))
}

/// A daemon at a place.
pub fn start(mut host: Host, place: &Place, number: u8, wanted: &Wanted<'_>) -> Daemon {
    host.before = vec!["nsenter".into(), format!("--net=/run/netns/{}", place.netns)];
    let text = configuration(&host, place, number, wanted);
    host.start(&text)
}

/// Counts what comes to a container of the EtherType that [`crate::basics::SEND`] and the tests here use (88b5, for
/// experiments), and nothing of what kernels say by themselves.
pub struct Listener(Background);

const LISTEN: &str = "\
import signal, socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
s.bind(('eth0', 0x88b5))
count = 0
def end(*_):
    s.setblocking(False)
    global count
    try:
        while s.recv(2048):
            count += 1
    except BlockingIOError:
        pass
    print(count)
    sys.exit()
signal.signal(signal.SIGINT, end)
while s.recv(2048):
    count += 1
";

impl Listener {
    #[track_caller]
    pub fn start(daemon: &Daemon, container: &str) -> Self {
        let listening = daemon.background(container, &[PYTHON, "-c", LISTEN]);
        wait_for("a listener", || {
            daemon.exec(container, &["cat", "/proc/net/packet"]).contains("88b5").then_some(())
        });
        Self(listening)
    }

    /// What came until now.
    #[track_caller]
    pub fn count(self) -> u64 {
        self.0.signal("-INT");
        self.0.finish().trim().parse().unwrap()
    }
}
