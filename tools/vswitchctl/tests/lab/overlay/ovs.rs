//! The other end is Open vSwitch with its userspace datapath: a VTEP that is neither ours nor the kernel's.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::hosts::{Place, Underlay, Wanted, start};
use super::kernel::{datagrams, talk};
use crate::as_both;
use crate::harness::{As, Background, Host, run, skipped, wait_for};

as_both!(open_vswitch);

const SCHEMA: [&str; 2] =
    ["/usr/share/openvswitch/vswitch.ovsschema", "/usr/local/share/openvswitch/vswitch.ovsschema"];
/// Its link, in the namespace of its container.
const LINK: &str = "eth0";

/// A switch of its own with a database of its own, at a place on the cable. It makes TAPs and reads the cable by packet
/// sockets: it is root's, whoever runs our daemon.
struct Ovs {
    switch: Option<Child>,
    database: Option<Child>,
    socket: PathBuf,
}

impl Ovs {
    /// `None`: it is not installed, which is said.
    fn start(place: &Place, keeper: &Host) -> Option<Self> {
        let there = |name: &str| Command::new(name).arg("--version").stdout(Stdio::null()).status().is_ok();
        let schema = SCHEMA.into_iter().find(|path| Path::new(path).exists());
        let (Some(schema), true, true) = (schema, there("ovs-vswitchd"), there("ovsdb-tool")) else {
            skipped("there is no Open vSwitch (openvswitch-switch)");
            return None;
        };
        let file = |name: &str| keeper.dir.join(name).display().to_string();
        run("ovsdb-tool", &["create", &file("conf.db"), schema]);
        let inside = |words: &[&str]| {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &place.netns]).args(words);
            command.args(["-vconsole:off", "-vsyslog:off"]).stdin(Stdio::null()).stdout(Stdio::null());
            Some(command.spawn().unwrap())
        };
        let mut ovs = Self { switch: None, database: None, socket: keeper.dir.join("db.sock") };
        let remote = format!("unix:{}", file("db.sock"));
        ovs.database = inside(&[
            "ovsdb-server",
            &file("conf.db"),
            &format!("--remote=p{remote}"),
            &format!("--unixctl={}", file("db.ctl")),
            &format!("--log-file={}", file("db.log")),
        ]);
        wait_for("the socket of ovsdb-server", || ovs.socket.exists().then_some(()));
        ovs.set(&["--no-wait", "init"]);
        ovs.switch = inside(&[
            "ovs-vswitchd",
            &remote,
            "--disable-system",
            &format!("--unixctl={}", file("switch.ctl")),
            &format!("--log-file={}", file("switch.log")),
        ]);
        Some(ovs)
    }

    // Without `--no-wait` it comes back when the switch has done it.
    fn set(&self, words: &[&str]) {
        let db = format!("--db=unix:{}", self.socket.display());
        run("ovs-vsctl", &[&[db.as_str(), "--timeout=20"], words].concat());
    }

    fn bridge(&self, name: &str) {
        self.set(&["add-br", name, "--", "set", "bridge", name, "datapath_type=netdev"]);
    }

    /// A port, with what its interface is.
    fn port(&self, bridge: &str, name: &str, what: &[&str]) {
        self.set(&[&["add-port", bridge, name, "--", "set", "interface", name], what].concat());
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        for mut child in [self.switch.take(), self.database.take()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A tunnel to ours and a container at 10.1.0.50 and fd00:1::50 behind it. A tunnel of the userspace datapath leaves by a
/// bridge that has the underlay's link as a port, and the host's address on the port of the bridge's own name.
fn set_up(ovs: &Ovs, place: &Place, container: &str, ours: &str, options: &[&str]) {
    let ip = |netns: &str, words: &[&str]| run("ip", &[&["-n", netns][..], words].concat());
    ovs.bridge("br-phy");
    ovs.port("br-phy", "u0", &["type=system"]);
    let with_len = format!("{}/{}", place.address, if place.address.contains(':') { 64 } else { 24 });
    ip(&place.netns, &["address", "flush", "dev", "u0"]);
    let flags: &[&str] = if place.address.contains(':') { &["nodad"] } else { &[] };
    ip(&place.netns, &[&["address", "add", &with_len, "dev", "br-phy"][..], flags].concat());
    ip(&place.netns, &["link", "set", "br-phy", "up"]);
    ovs.bridge("br0");
    let tunnel = ["type=vxlan", "options:key=100", &format!("options:remote_ip={ours}")];
    ovs.port("br0", "vx0", &[&tunnel[..], options].concat());
    ovs.port("br0", "tap0", &["type=tap"]);
    ip(&place.netns, &["link", "set", "tap0", "netns", container, "name", LINK]);
    // Without TSO support it forwards frames whose checksum the kernel left to the device: TCP would not pass.
    run("ip", &["netns", "exec", container, "ethtool", "-K", LINK, "tx", "off"]);
    ip(container, &["link", "set", LINK, "mtu", "1430", "up"]);
    ip(container, &["address", "add", "10.1.0.50/24", "dev", LINK]);
    ip(container, &["-6", "address", "add", "fd00:1::50/64", "dev", LINK, "nodad"]);
}

fn open_vswitch(host: Host) {
    against(host, false, &[]);
}

#[test]
fn one_with_checksums() {
    if let Some(host) = Host::new(As::Root) {
        against(host, false, &["options:csum=true"]);
    }
}

#[test]
fn one_over_ipv6() {
    if let Some(host) = Host::new(As::Root) {
        against(host, true, &[]);
    }
}

fn against(mut host: Host, v6: bool, options: &[&str]) {
    let Some(mut cable) = Host::new(As::Root) else { return skipped("Open vSwitch needs root") };
    let mut underlay = Underlay::new(&mut cable, v6);
    let place = underlay.place(&mut host);
    let other = underlay.place(&mut cable);
    let container = cable.netns("behind");
    let Some(ovs) = Ovs::start(&other, &cable) else { return };
    // It reads the cable by packet sockets, which show what kernels leave to a NIC: what a wire would carry, then.
    let off = ["tx", "off", "gso", "off", "tso", "off", "tx-udp-segmentation", "off"];
    let leg = ["netns", "exec", &underlay.netns, "ethtool", "-K", "leg2"];
    run("ip", &[&leg[..], &off].concat());
    set_up(&ovs, &other, &container, &place.address, options);
    let peers = format!("peers = [\"{}\"]\n", other.address);
    let daemon = start(host, &place, 1, &Wanted { vxlan: &peers, ..Wanted::default() });
    talk(&daemon, &container);
    datagrams(&daemon, &container);
    // What is for all comes from there as well: it asks for a neighbour that is behind us, having forgotten all.
    run("ip", &["-n", &container, "neighbour", "flush", "all"]);
    Background::inside(&container, &["ping", "-n", "-c", "1", "-W", "5", "10.1.0.11"]).finish();
    for reason in ["vxlan_malformed", "vxlan_unknown_vtep", "exceeds_mtu", "bad_offload", "tx_error"] {
        assert_eq!(daemon.dropped(reason), 0, "{reason}");
    }
    daemon.assert_conserved();
    daemon.stop();
}
