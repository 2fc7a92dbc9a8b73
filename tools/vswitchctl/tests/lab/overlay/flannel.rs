//! Among hosts of flannel: kernels set up as flanneld sets them up, which know us by our record in etcd.

use serde_json::{Value, json};

use super::etcd::{ETCD, Etcd, begin};
use super::hosts::{Place, Underlay};
use super::vtep;
use crate::as_both;
use crate::harness::{As, Background, Daemon, Host, Train, run, wait_for};
use crate::traffic::Stream;

as_both!(a_host_among_those_of_flannel, a_host_of_flannel_that_goes_takes_its_route_along);

/// Where flanneld keeps everything.
const PREFIX: &str = "/coreos.com/network";
const NETWORK: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.128.0","Backend":{"Type":"vxlan"}}"#;
/// Where our own record is.
const OURS: &str = "/coreos.com/network/subnets/10.5.20.0-24";

/// A host that flanneld has set up, with a pod at `.7` of its subnet.
struct Other {
    place: Place,
    /// The third byte of its subnet.
    subnet: u8,
    pod: String,
}

impl Other {
    fn new(cable: &mut Host, underlay: &mut Underlay, subnet: u8) -> Self {
        let place = underlay.place(cable);
        let pod = cable.netns(&format!("pod{subnet}"));
        let other = Self { place, subnet, pod };
        let Place { netns, address } = &other.place;
        // pkg/backend/vxlan/device.go: no learning, the kernel's own l4 port; the address has no prefix.
        other.ip(&format!(
            "link add flannel.1 type vxlan id 1 local {address} dev u0 dstport 8472 nolearning"
        ));
        other.ip(&format!("link set flannel.1 address {} up", other.mac()));
        other.ip(&format!("address add 10.5.{subnet}.0/32 dev flannel.1"));
        other.ip(&format!("link add cni0 type veth peer name eth0 netns {}", other.pod));
        other.ip(&format!("address add 10.5.{subnet}.1/24 dev cni0"));
        other.ip("link set cni0 mtu 1450 up");
        run("ip", &["netns", "exec", netns, "sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        let inside = |words: &str| run("ip", &[&["-n", &other.pod][..], &split(words)].concat());
        inside(&format!("address add 10.5.{subnet}.7/24 dev eth0"));
        inside("link set eth0 mtu 1450 up");
        inside(&format!("route add default via 10.5.{subnet}.1"));
        other
    }

    fn ip(&self, words: &str) {
        run("ip", &[&["-n", &self.place.netns][..], &split(words)].concat());
    }

    fn mac(&self) -> String {
        format!("5e:00:00:00:05:{:02x}", self.subnet)
    }

    fn key(&self) -> String {
        format!("{PREFIX}/subnets/10.5.{}.0-24", self.subnet)
    }

    /// As flanneld writes it.
    fn record(&self) -> Value {
        let data = json!({"VNI": 1, "VtepMAC": self.mac()});
        json!({"PublicIP": self.place.address, "PublicIPv6": null, "BackendType": "vxlan", "BackendData": data})
    }

    /// pkg/backend/vxlan/vxlan_network.go: what another host's record comes to.
    fn learns(&self, subnet: u8, record: &Value) {
        let (there, mac) =
            (record["PublicIP"].as_str().unwrap(), record["BackendData"]["VtepMAC"].as_str().unwrap());
        let via = format!("10.5.{subnet}.0");
        self.ip(&format!("neigh replace {via} lladdr {mac} dev flannel.1 nud permanent"));
        let fdb = format!("fdb replace {mac} dev flannel.1 dst {there} self permanent");
        run("bridge", &[&["-n", &self.place.netns][..], &split(&fdb)].concat());
        self.ip(&format!("route replace {via}/24 via {via} dev flannel.1 onlink"));
    }

    fn address(&self) -> String {
        format!("10.5.{}.7", self.subnet)
    }

    fn pings(&self, netns: &str, to: &str) {
        Background::inside(netns, &["ping", "-n", "-c", "1", "-W", "5", to]).finish();
    }
}

fn split(words: &str) -> Vec<&str> {
    words.split(' ').collect()
}

/// One host of ours with container `c`, 10.5.20.10, and two of flannel's, 10.5.130.0/24 and 10.5.131.0/24.
struct Lab {
    etcd: Etcd,
    daemon: Daemon,
    others: [Other; 2],
    _cable: Host,
}

/// Without etcd there is none.
fn lab(mut host: Host) -> Option<Lab> {
    let mut cable = Host::new(As::Root).unwrap();
    let mut underlay = Underlay::new(&mut cable, false);
    let etcd = Etcd::start(&underlay, &cable)?;
    let place = underlay.place(&mut host);
    let others = [130, 131].map(|subnet| Other::new(&mut cable, &mut underlay, subnet));
    etcd.set(&format!("{PREFIX}/config"), NETWORK);
    others.iter().for_each(|other| etcd.set(&other.key(), &other.record().to_string()));
    let text = host.configuration(&format!(
        "[vxlan]\nlocal = \"{}\"\n[cluster]\nmode = \"flannel\"\netcd = [\"http://{ETCD}:2379\"]\nttl = 2\n\
         [[network]]\nname = \"pods\"\nsubnet = \"10.5.20.0/24\"\nvni = 1\n\
         [[container]]\nname = \"c\"\nnetns = \"{}\"\ncreate = true\n\
         [[container.interface]]\nnetwork = \"pods\"\nip = \"10.5.20.10\"\n",
        place.address,
        host.name("c")
    ));
    let daemon = begin(host, &place, &text);
    let ours = wait_for("our record", || etcd.get(OURS));
    let ours: Value = serde_json::from_str(&ours).unwrap();
    let data = json!({"VNI": 1, "VtepMAC": "02:42:0a:05:14:01"});
    let wanted =
        json!({"PublicIP": place.address, "PublicIPv6": null, "BackendType": "vxlan", "BackendData": data});
    assert_eq!(ours, wanted);
    for (other, next) in [(&others[0], &others[1]), (&others[1], &others[0])] {
        other.learns(20, &ours);
        other.learns(next.subnet, &next.record());
    }
    let lab = Lab { etcd, daemon, others, _cable: cable };
    lab.knows(2);
    Some(lab)
}

impl Lab {
    /// Waits until so many other hosts are known.
    fn knows(&self, count: usize) {
        wait_for("the other hosts", || (self.daemon.rows("vxlan").len() == count).then_some(()));
    }

    fn routes(&self) -> Vec<String> {
        let rows = self.daemon.rows("routes");
        let behind = rows.iter().filter_map(|row| Some((row["destination"].as_str()?, row["via"].as_str()?)));
        behind.map(|(destination, via)| format!("{destination} via {via}")).collect()
    }

    fn stop(self) {
        self.daemon.assert_conserved();
        self.daemon.stop();
    }
}

fn a_host_among_those_of_flannel(host: Host) {
    let Some(lab) = lab(host) else { return };
    let Lab { daemon, others, .. } = &lab;
    assert_eq!(daemon.link("c", "eth0")["mtu"], 1450);
    assert_eq!(lab.routes(), ["10.5.130.0/24 via 10.5.130.0", "10.5.131.0/24 via 10.5.131.0"]);
    for other in others {
        daemon.ping("c", &other.address());
        other.pings(&other.pod, "10.5.20.10");
        // Our gateway; and from the host itself, which speaks as the first address of its subnet.
        other.pings(&other.pod, "10.5.20.1");
        other.pings(&other.place.netns, "10.5.20.10");
        daemon.exec("c", &["ping", "-n", "-c", "2", "-i", "0.2", "-W", "5", "-s", "8000", &other.address()]);
        let row = vtep(daemon, &other.place.address);
        assert_eq!(
            (&row["told"], &row["flood"], &row["macs"], &row["vni"]),
            (&"cluster".into(), &false.into(), &1.into(), &1.into())
        );
    }
    let (pod, stop) = (&others[0], daemon.host.dir.join("stop"));
    let (here, there) = (
        |words: &[&str]| daemon.background("c", words),
        |words: &[&str]| Background::inside(&pod.pod, words),
    );
    let out = Stream::between(here, there, &pod.address(), 16, stop.clone());
    assert!(out.finish() >= 16 << 20);
    let back = Stream::between(there, here, "10.5.20.10", 16, stop);
    assert!(back.finish() >= 16 << 20);
    let said = daemon.ctl(&["show", "cluster", "--members"]);
    for word in ["10.5.20.0/24", "10.5.130.0/24", "5e:00:00:00:05:83", "198.18.1.3"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let said = daemon.ctl(&["trace", "--from", "c", "--to", "10.5.130.7"]);
    assert!(said.contains("route 10.5.130.0/24") && said.contains("5e:00:00:00:05:82"), "{said}");
    for reason in
        ["reverse_path", "bad_offload", "vxlan_malformed", "vxlan_unknown_vtep", "martian", "spoofed_ip"]
    {
        assert_eq!(daemon.dropped(reason), 0, "{reason}");
    }
    lab.stop();
}

fn a_host_of_flannel_that_goes_takes_its_route_along(host: Host) {
    let Some(lab) = lab(host) else { return };
    let Lab { daemon, others: [goes, stays], etcd, .. } = &lab;
    let train = Train::start(daemon, "c", &stays.address());
    daemon.ping("c", &goes.address());
    etcd.delete(&goes.key());
    lab.knows(1);
    assert_eq!(lab.routes(), ["10.5.131.0/24 via 10.5.131.0"]);
    // Nobody else is asked for it: it is flannel's, and has no host.
    let said = daemon.try_exec("c", &["ping", "-n", "-c", "1", "-W", "5", &goes.address()]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("Net Unreachable") || said.contains("Network is unreachable"), "{said}");
    // It comes back with another MAC and place.
    etcd.set(&goes.key(), &goes.record().to_string());
    lab.knows(2);
    daemon.ping("c", &goes.address());
    train.assert_lost_nothing();
    lab.stop();
}

/// The engine dies, the daemon is started again: it is the same host of flannel. Without etcd all goes on; emptied, nobody
/// is withdrawn before all had time to come back.
#[test]
fn flannel_goes_on_whatever_is_started_again() {
    let Some(host) = Host::new(As::Root) else { return };
    let Some(mut lab) = lab(host) else { return };
    let pod = lab.others[0].address();
    let old = lab.daemon.engine();
    run("kill", &["-KILL", &old.to_string()]);
    lab.daemon.wait_engine_after(old);
    lab.knows(2);
    lab.daemon.ping("c", &pod);
    lab.daemon.restart();
    lab.knows(2);
    lab.daemon.ping("c", &pod);
    lab.others[0].pings(&lab.others[0].pod, "10.5.20.10");

    lab.etcd.kill();
    let gone = std::time::Instant::now();
    wait_for("our lease to be over", || {
        lab.daemon.ping("c", &pod);
        (gone.elapsed().as_secs() >= 4).then_some(())
    });
    lab.etcd.empty();
    lab.etcd.set(&format!("{PREFIX}/config"), NETWORK);
    let ours = wait_for("our record", || lab.etcd.get(OURS));
    assert!(ours.contains("02:42:0a:05:14:01"), "{ours}");
    // One of the two says it again.
    lab.etcd.set(&lab.others[0].key(), &lab.others[0].record().to_string());
    lab.daemon.ping("c", &lab.others[1].address());
    lab.knows(1);
    lab.daemon.ping("c", &pod);
    lab.stop();
}

/// What anybody may write there is not believed, and our subnet is not taken while another host has it.
#[test]
fn flannels_store_is_not_believed_blindly() {
    let Some(host) = Host::new(As::Root) else { return };
    let Some(lab) = lab(host) else { return };
    let Lab { daemon, others, etcd, .. } = &lab;
    let train = Train::start(daemon, "c", &others[0].address());
    let record = |place: &str, mac: &str| {
        let data = json!({"VNI": 1, "VtepMAC": mac});
        json!({"PublicIP": place, "BackendType": "vxlan", "BackendData": data}).to_string()
    };
    let free = "5e:00:00:00:05:99";
    let cases = [
        (
            "10.5.140.0-24",
            record("198.18.1.1", free),
            "it is reserved for this host, whose `subnet` is 10.5.20.0/24",
        ),
        ("10.5.141.0-24", record("127.0.0.1", free), "is a loopback address"),
        ("10.5.142.0-24", record("239.1.1.1", free), "is no address that a host can have on the underlay"),
        ("10.5.143.0-24", record("198.18.1.3", free), "which was there first"),
        ("10.5.144.0-24", record("10.5.20.10", free), "is inside flannel's own network"),
        ("10.5.145.0-24", record("198.18.1.9", "02:42:0a:05:14:01"), "is that of our gateway"),
        ("10.5.146.0-24", record("198.18.1.9", "02:42:0a:05:14:0a"), "is that of a container here"),
        (
            "10.5.147.0-24",
            record("198.18.1.9", "01:00:5e:00:00:01"),
            "is not a MAC that an interface can have",
        ),
        ("10.5.148.0-24", record("198.18.1.9", &others[0].mac()), "is that of another host"),
        ("10.5.20.0-25", record("198.18.1.9", free), "it overlaps 10.5.20.0/24, this host's"),
        ("10.5.0.0-17", record("198.18.1.9", free), "it overlaps 10.5.20.0/24, this host's"),
        ("10.5.130.128-25", record("198.18.1.9", free), "it overlaps 10.5.130.0/24"),
        ("10.6.1.0-24", record("198.18.1.9", free), "is no part of flannel's network 10.5.0.0/16"),
        ("0.0.0.0-0", record("198.18.1.9", free), "is no network of hosts"),
        (
            "10.5.149.0-24",
            json!({"PublicIP": "198.18.1.9", "BackendType": "host-gw"}).to_string(),
            "its backend is `host-gw`",
        ),
    ];
    for (key, value, _) in &cases {
        etcd.set(&format!("{PREFIX}/subnets/{key}"), value);
    }
    let detail = || -> Value { serde_json::from_str(&daemon.ctl(&["--json", "show", "cluster"])).unwrap() };
    let refused = wait_for("all refusals", || {
        let refused = detail()["refused"].as_array()?.clone();
        (refused.len() == cases.len()).then_some(refused)
    });
    for (key, _, why) in &cases {
        let at = format!("subnets/{key}");
        let row = refused.iter().find(|row| row["key"] == at.as_str());
        assert!(row.is_some_and(|row| row["why"].as_str().unwrap().contains(why)), "{key}: {row:?}");
    }
    assert_eq!((daemon.rows("vxlan").len(), lab.routes().len()), (2, 2));
    // A source of flannel's that a container here takes for itself goes nowhere.
    let before = daemon.dropped("reverse_path");
    daemon.try_exec("c", &["ip", "address", "add", "10.5.131.99/32", "dev", "eth0"]);
    let spoofed = ["ping", "-n", "-c", "1", "-W", "1", "-I", "10.5.131.99", "10.5.130.7"];
    daemon.try_exec("c", &spoofed);
    assert!(daemon.dropped("reverse_path") > before);
    train.assert_lost_nothing();
    lab.stop();
}
