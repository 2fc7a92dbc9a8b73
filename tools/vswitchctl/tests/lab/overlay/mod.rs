//! One network on several hosts: daemons of ours, and other ends that are something else.

mod cluster;
mod etcd;
mod flannel;
mod groups;
mod hosts;
mod junk;
mod kernel;
mod labs;
mod leases;
mod outages;
mod ovs;
mod strangers;
mod trace;
mod upgrade;

use serde_json::Value;

use crate::basics::SEND;
use crate::harness::{As, Daemon, Host, PYTHON, run, wait_for};
use crate::traffic::Stream;
use crate::{as_both, by_two_workers, on_other_engine};
use hosts::{Listener, Underlay, Wanted, configuration, start};

as_both!(
    containers_of_two_hosts_are_on_one_network,
    the_same_on_an_underlay_of_ipv6,
    everybody_has_one_copy_of_what_is_for_all,
    a_group_of_the_underlay_has_one_copy_for_each,
    streams_survive_the_engine_of_either_host,
    a_gateway_is_on_every_host,
    a_narrow_path_is_told_of,
);
on_other_engine!(containers_of_two_hosts_are_on_one_network, streams_survive_the_engine_of_either_host);
by_two_workers!(containers_of_two_hosts_are_on_one_network, streams_survive_the_engine_of_either_host);

/// So many hosts of the same kind as the first.
fn hosts_like(first: Host, count: usize) -> Vec<Host> {
    let (who, io, workers) = (first.who, first.io.clone(), first.workers.clone());
    let more = (1..count).map(|_| {
        let mut host = Host::new(who).unwrap();
        (host.io, host.workers) = (io.clone(), workers.clone());
        host
    });
    let more: Vec<_> = more.collect();
    std::iter::once(first).chain(more).collect()
}

/// A lab of so many hosts, each of which knows all others.
struct Lab {
    daemons: Vec<Daemon>,
    underlay: Underlay,
    // It holds the cable, which goes last.
    _cable: Host,
}

impl Lab {
    fn new(first: Host, count: u8, v6: bool, wanted: &Wanted<'_>) -> Self {
        let mut cable = Host::new(As::Root).unwrap();
        let mut underlay = Underlay::new(&mut cable, v6);
        let mut hosts = hosts_like(first, usize::from(count));
        let places: Vec<_> = hosts.iter_mut().map(|host| underlay.place(host)).collect();
        let mut daemons = Vec::new();
        for ((host, place), number) in hosts.into_iter().zip(&places).zip(1..) {
            let peers: Vec<_> =
                places.iter().map(|it| &it.address).filter(|it| **it != place.address).collect();
            let vxlan = format!("peers = {peers:?}\n{}", wanted.vxlan);
            daemons.push(start(host, place, number, &Wanted { vxlan: &vxlan, ..*wanted }));
        }
        Self { daemons, underlay, _cable: cable }
    }

    /// A checked stream from one host's container to another's.
    fn stream(&self, from: usize, to: usize, address: &str, mib: u32) -> Stream {
        stream(&self.daemons, from, to, address, mib)
    }

    fn stop(self) {
        stop(self.daemons);
    }
}

/// A checked stream from one host's container to another's.
fn stream(daemons: &[Daemon], from: usize, to: usize, address: &str, mib: u32) -> Stream {
    let (sender, receiver) = (&daemons[from], &daemons[to]);
    let stop = sender.host.dir.join(format!("stop-{to}"));
    Stream::between(
        |words| sender.background("c", words),
        |words| receiver.background("c", words),
        address,
        mib,
        stop,
    )
}

/// Ends all hosts, of which none has lost a frame without a name.
fn stop(daemons: Vec<Daemon>) {
    for daemon in daemons {
        daemon.assert_conserved();
        daemon.stop();
    }
}

/// The row of `show vxlan` of another host.
fn vtep(daemon: &Daemon, address: &str) -> Value {
    daemon.rows("vxlan").into_iter().find(|row| row["vtep"] == address).unwrap()
}

fn containers_of_two_hosts_are_on_one_network(host: Host) {
    two_hosts(host, false);
}

fn the_same_on_an_underlay_of_ipv6(host: Host) {
    two_hosts(host, true);
}

fn two_hosts(host: Host, v6: bool) {
    let lab = Lab::new(host, 2, v6, &Wanted::default());
    let [one, two] = &lab.daemons[..] else { panic!("two daemons") };
    let mtu = if v6 { 1430 } else { 1450 };
    assert_eq!(one.link("c", "eth0")["mtu"], mtu, "what the underlay leaves");
    for to in ["10.1.0.12", "fd00:1::12"] {
        one.ping("c", to);
        assert!(lab.stream(0, 1, to, 32).finish() >= 32 << 20);
    }
    assert!(lab.stream(1, 0, "10.1.0.11", 32).finish() >= 32 << 20);
    // As large as packets are, and larger: the container's kernel cuts those.
    let largest = (mtu - 28).to_string();
    for size in ["0", &largest, "8000"] {
        one.exec("c", &["ping", "-n", "-c", "2", "-i", "0.2", "-W", "5", "-s", size, "10.1.0.12"]);
    }
    let there = lab.underlay.address(2);
    let row = vtep(one, &there);
    assert_eq!(
        (&row["vni"], &row["told"], &row["flood"], &row["mtu"]),
        (&100.into(), &"peer".into(), &true.into(), &mtu.into())
    );
    // Frames of a stream go and come in super-frames.
    let (frames, bytes) = (row["rx_frames"].as_u64().unwrap(), row["rx_bytes"].as_u64().unwrap());
    assert!(bytes / frames > 2000, "{bytes} bytes in {frames} frames");
    let at = one.rows("fdb").into_iter().find(|row| row["mac"] == "02:42:0a:01:00:0c").unwrap();
    assert_eq!((&at["container"], &at["iface"]), (&"-vtep".into(), &there.as_str().into()));
    for reason in
        ["bad_offload", "tx_error", "too_big", "exceeds_mtu", "vxlan_malformed", "vxlan_unknown_vtep"]
    {
        assert_eq!((one.dropped(reason), two.dropped(reason)), (0, 0), "{reason}");
    }
    assert!(one.log().contains("udp_gso = auto: this host does it well"), "{}", one.log());
    lab.stop();
}

fn everybody_has_one_copy_of_what_is_for_all(host: Host) {
    one_copy_each(Lab::new(host, 3, false, &Wanted::default())).stop();
}

/// The underlay copies: each host sends once, to a group.
fn a_group_of_the_underlay_has_one_copy_for_each(host: Host) {
    let group = "group = \"239.1.1.1\"";
    let lab = one_copy_each(Lab::new(host, 3, false, &Wanted { vxlan: group, ..Wanted::default() }));
    let [row, peer] = ["239.1.1.1", "198.18.1.2"].map(|it| vtep(&lab.daemons[0], it));
    assert_eq!((&row["told"], &row["flood"], &peer["flood"]), (&"group".into(), &true.into(), &false.into()));
    assert!(row["tx_frames"].as_u64() >= Some(50), "{row}");
    assert!(lab.stream(0, 1, "10.1.0.12", 16).finish() >= 16 << 20);
    lab.stop();
}

/// 50 broadcasts of the first host's container come once to each other one, and go to nobody from there.
fn one_copy_each(lab: Lab) -> Lab {
    let listeners = [1, 2].map(|at: usize| Listener::start(&lab.daemons[at], "c"));
    // Whether they are known already or not, there is one copy for each.
    let (to_all, from, rest) = ("ff:ff:ff:ff:ff:ff", "02:42:0a:01:00:0b", "88b5aaaa");
    for _ in 0..50 {
        lab.daemons[0].exec("c", &[PYTHON, "-c", SEND, to_all, from, rest]);
    }
    for at in [1, 2] {
        let ours = lab.underlay.address(1);
        wait_for("the copies", || {
            (vtep(&lab.daemons[at], &ours)["rx_frames"].as_u64() >= Some(50)).then_some(())
        });
    }
    assert_eq!(listeners.map(Listener::count), [50, 50]);
    // What came from one host went to no other.
    let row = vtep(&lab.daemons[1], &lab.underlay.address(3));
    assert!(row["tx_frames"].as_u64() < Some(50), "{row}");
    lab
}

fn streams_survive_the_engine_of_either_host(host: Host) {
    let lab = Lab::new(host, 2, false, &Wanted::default());
    let stream = lab.stream(0, 1, "10.1.0.12", 64);
    for daemon in &lab.daemons {
        let before =
            daemon.port("c")["rx_bytes"].as_u64().unwrap() + daemon.port("c")["tx_bytes"].as_u64().unwrap();
        wait_for("the stream to flow", || {
            let row = daemon.port("c");
            let now = row["rx_bytes"].as_u64().unwrap() + row["tx_bytes"].as_u64().unwrap();
            (now > before + (8 << 20)).then_some(())
        });
        let old = daemon.engine();
        run("kill", &["-KILL", &old.to_string()]);
        daemon.wait_engine_after(old);
    }
    assert!(stream.finish() >= 64 << 20);
    lab.stop();
}

/// Two networks on both hosts: whoever is in the other network and on the other host is reached by the gateway here.
fn a_gateway_is_on_every_host(host: Host) {
    let red = "routes_to = \"all\"\n[[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\nvni = 200\nroutes_to = \"all\"\n";
    let lab = Lab::new(host, 2, false, &Wanted { network: red, ..Wanted::default() });
    let [one, two] = &lab.daemons[..] else { panic!("two daemons") };
    // One more container in red on the second host, by the API.
    let netns = two.host.name("r");
    two.ctl(&["network", "connect", "red", "r", "--netns", &netns, "--create", "--ip", "10.2.0.22"]);
    for to in ["10.1.0.1", "10.1.0.12"] {
        one.ping("c", to);
    }
    one.ping("c", "10.2.0.22");
    two.ping("r", "10.1.0.11");
    // Each host has its own gateway, and learned no other.
    for daemon in [one, two] {
        assert!(
            daemon.rows("fdb").iter().all(|row| row["mac"] != "02:42:0a:01:00:01"),
            "{:?}",
            daemon.rows("fdb")
        );
        assert_eq!(
            daemon.dropped("spoofed_mac") + daemon.dropped("spoofed_ip") + daemon.dropped("spoofed_arp"),
            0
        );
    }
    lab.stop();
}

#[test]
fn who_is_told_of_is_not_asked_for() {
    let Some(host) = Host::new(As::Root) else { return };
    let statics = "[[vxlan.static]]\nvni = 100\nmac = \"02:42:0a:01:00:0c\"\nip = \"10.1.0.12\"\nvtep = \"198.18.1.2\"\n";
    let mut cable = Host::new(As::Root).unwrap();
    let mut underlay = Underlay::new(&mut cable, false);
    let mut hosts = hosts_like(host, 2);
    let places: Vec<_> = hosts.iter_mut().map(|host| underlay.place(host)).collect();
    let second = hosts.pop().unwrap();
    let other = "[[vxlan.static]]\nvni = 100\nmac = \"02:42:0a:01:00:0b\"\nip = \"10.1.0.11\"\nvtep = \"198.18.1.1\"\n";
    let two = start(second, &places[1], 2, &Wanted { vxlan: other, ..Wanted::default() });
    let one = start(hosts.pop().unwrap(), &places[0], 1, &Wanted { vxlan: statics, ..Wanted::default() });
    one.ping("c", "10.1.0.12");
    let row = vtep(&one, "198.18.1.2");
    assert_eq!((&row["told"], &row["flood"]), (&"static".into(), &false.into()));
    // Whoever is a peer of nobody gets nothing that is for all: the answer was given here.
    let at = one.rows("fdb").into_iter().find(|row| row["mac"] == "02:42:0a:01:00:0c").unwrap();
    assert_eq!(at["type"], "static");
    // Taken out of the file: not known any more, and nothing is left of it.
    let text = configuration(&one.host, &places[0], 1, &Wanted::default());
    one.reload(&text);
    wait_for("no host any more", || one.rows("vxlan").is_empty().then_some(()));
    assert!(one.rows("fdb").iter().all(|row| row["mac"] != "02:42:0a:01:00:0c"));
    one.stop();
    two.stop();
}

/// A link on the way is narrower than the interface: whoever sends is told so, nothing is cut, and what is on its way then
/// comes all the same.
fn a_narrow_path_is_told_of(host: Host) {
    let lab = Lab::new(host, 2, false, &Wanted::default());
    let [one, two] = &lab.daemons[..] else { panic!("two daemons") };
    one.ping("c", "10.1.0.12");
    let stream = lab.stream(0, 1, "10.1.0.12", 48);
    for (daemon, there) in [(one, "198.18.1.2"), (two, "198.18.1.1")] {
        let netns = daemon.host.before[1].strip_prefix("--net=/run/netns/").unwrap().to_owned();
        run("ip", &["-n", &netns, "route", "add", there, "dev", "u0", "mtu", "1300"]);
    }
    // What is too long now is how it is found out.
    let long = ["ping", "-n", "-M", "do", "-c", "1", "-W", "1", "-s", "1400", "10.1.0.12"];
    wait_for("the path to be known", || {
        one.try_exec("c", &long);
        (vtep(one, "198.18.1.2")["mtu"] == 1250).then_some(())
    });
    // Whoever sends more is told: his kernel knows it from then on, and says so itself.
    wait_for("the sender to be told", || {
        let said =
            one.try_exec("c", &["ping", "-n", "-M", "do", "-c", "1", "-W", "1", "-s", "1300", "10.1.0.12"]);
        let said =
            String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
        (said.contains("mtu = 1250") || said.contains("mtu=1250")).then_some(())
    });
    one.exec("c", &["ping", "-n", "-M", "do", "-c", "1", "-W", "5", "-s", "1222", "10.1.0.12"]);
    assert!(stream.finish() >= 48 << 20);
    assert!(one.rows("status")[0]["overlay"]["udp_gso"] == true);
    let why = one.rows("status")[0]["overlay"]["udp_gso_why"].as_str().unwrap().to_owned();
    assert!(!why.contains("refused"), "a long frame is no reason to send one by one: {why}");
    lab.stop();
}
