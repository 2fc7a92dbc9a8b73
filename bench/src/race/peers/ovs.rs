//! Open vSwitch with its userspace (netdev) datapath and TAP ports, a private instance with a database of its own.

use std::path::Path;
use std::time::Duration;

use super::hosts::{self, CONTAINERS, Hosts, INNER_MTU, UNDERLAY, VNI};
use super::lab::{ADDRESSES, LINKS, Lab, Site};
use super::words;
use crate::error::{Error, Result};
use crate::ns::{Family, Netns};
use crate::process::{self, Process, Scratch, Stop};

const LIMIT: Duration = Duration::from_secs(10);
const SCHEMA: [&str; 2] =
    ["/usr/share/openvswitch/vswitch.ovsschema", "/usr/local/share/openvswitch/vswitch.ovsschema"];

/// A switch and its database.
struct Instance {
    switch: Process,
    database: Process,
    remote: String,
}

impl Instance {
    fn start(dir: &Scratch, workshop: &Netns, tso: bool) -> Result<Self> {
        let database = start_database(dir, workshop)?;
        let remote = format!("unix:{}", dir.file("db.sock"));
        vsctl(&remote, &["--no-wait", "init"])?;
        if tso {
            let enable = "other_config:userspace-tso-enable=true";
            vsctl(&remote, &["--no-wait", "set", "Open_vSwitch", ".", enable])?;
        }
        let switch = start_switch(dir, workshop, &remote)?;
        Ok(Self { switch, database, remote })
    }

    // Without --no-wait: it comes back when the switch has done it.
    fn bridge(&self, name: &str) -> Result<()> {
        vsctl(&self.remote, &["add-br", name, "--", "set", "bridge", name, "datapath_type=netdev"])
    }

    /// A port, with what its interface is.
    fn port(&self, bridge: &str, name: &str, what: &[&str]) -> Result<()> {
        vsctl(&self.remote, &[&["add-port", bridge, name, "--", "set", "interface", name], what].concat())
    }
}

fn vsctl(remote: &str, args: &[&str]) -> Result<()> {
    let db = format!("--db={remote}");
    process::run("ovs-vsctl", &[&[db.as_str(), "--timeout=10"], args].concat()).map(drop)
}

pub(super) fn start(family: &Family, dir: Scratch, tso: bool) -> Result<Lab> {
    let site = Site::create(family)?;
    let ovs = Instance::start(&dir, &site.workshop, tso)?;
    ovs.bridge("br0")?;
    for link in LINKS {
        ovs.port("br0", link, &["type=tap"])?;
    }
    site.hand_over(|netns| prepare(netns, tso))?;
    Ok(site.into_lab(dir, vec![ovs.switch, ovs.database], ADDRESSES))
}

/// A switch on each of two hosts. A tunnel of the userspace datapath leaves by a bridge that has the underlay's link as a
/// port, and the host's address on the port of its own name.
pub(super) fn overlaid(family: &Family, dir: Scratch) -> Result<Lab> {
    let dirs = [dir, hosts::second(family)?];
    let hosts = Hosts::create(family)?;
    let containers = [Netns::create(family.name("a"))?, Netns::create(family.name("b"))?];
    let [one, other] = UNDERLAY;
    let (mut switches, mut databases) = (Vec::new(), Vec::new());
    for ((dir, host), remote) in dirs.iter().zip(&hosts.both).zip([other, one]) {
        let ovs = Instance::start(dir, host, false)?;
        ovs.bridge("br-phy")?;
        ovs.port("br-phy", hosts::LINK, &["type=system"])?;
        ovs.bridge("br0")?;
        let (remote, key) = (format!("options:remote_ip={remote}"), format!("options:key={VNI}"));
        ovs.port("br0", "vxlan0", &["type=vxlan", &remote, &key])?;
        ovs.port("br0", "tap-a", &["type=tap"])?;
        switches.push(ovs.switch);
        databases.push(ovs.database);
    }
    hosts.address("br-phy")?;
    for ((host, container), address) in hosts.both.iter().zip(&containers).zip(CONTAINERS) {
        host.give_link("tap-a", container, "eth0")?;
        prepare(container, false)?;
        container.ip(&["link", "set", "eth0", "mtu", INNER_MTU])?;
        container.address("eth0", &format!("{address}/24"))?;
    }
    switches.append(&mut databases);
    Ok(hosts.into_lab(dirs, switches, containers))
}

/// Without TSO support it forwards frames whose checksum the kernel left to the device: TCP would not pass.
fn prepare(netns: &Netns, tso: bool) -> Result<()> {
    if tso { Ok(()) } else { netns.exec(&["ethtool", "-K", "eth0", "tx", "off"]) }
}

fn start_database(dir: &Scratch, workshop: &Netns) -> Result<Process> {
    let schema = SCHEMA.into_iter().find(|path| Path::new(path).exists()).ok_or_else(|| Error::Missing {
        what: "the schema of ovsdb-server".into(),
        hint: format!("is not at {}", SCHEMA.join(" or ")),
    })?;
    let file = dir.file("conf.db");
    process::run("ovsdb-tool", &["create", &file, schema])?;
    let control = dir.file("db.ctl");
    let argv = words(&[
        "ovsdb-server",
        &file,
        &format!("--remote=punix:{}", dir.file("db.sock")),
        &format!("--unixctl={control}"),
        &format!("--log-file={}", dir.file("db.log")),
        "-vconsole:off",
        "-vsyslog:off",
    ]);
    let stop = Stop::Say(words(&["ovs-appctl", "-T", "5", "-t", &control, "exit"]));
    let database = Process::start(dir, Some(workshop.name()), &argv, stop)?;
    let socket = dir.path().join("db.sock");
    process::until("the socket of ovsdb-server", LIMIT, || Ok(socket.exists()))?;
    Ok(database)
}

fn start_switch(dir: &Scratch, workshop: &Netns, remote: &str) -> Result<Process> {
    let control = dir.file("switch.ctl");
    let argv = words(&[
        "ovs-vswitchd",
        remote,
        "--disable-system",
        &format!("--unixctl={control}"),
        &format!("--log-file={}", dir.file("switch.log")),
        "-vconsole:off",
        "-vsyslog:off",
    ]);
    let stop = Stop::Say(words(&["ovs-appctl", "-T", "5", "-t", &control, "exit", "--cleanup"]));
    let switch = Process::start(dir, Some(workshop.name()), &argv, stop)?;
    let socket = Path::new(&control);
    process::until("the control socket of ovs-vswitchd", LIMIT, || Ok(socket.exists()))?;
    Ok(switch)
}
