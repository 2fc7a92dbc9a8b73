//! Open vSwitch with its userspace (netdev) datapath and TAP ports, a private instance with a database of its own.

use std::path::Path;
use std::time::Duration;

use super::lab::{ADDRESSES, LINKS, Lab, Site};
use super::words;
use crate::error::{Error, Result};
use crate::ns::{Family, Netns};
use crate::process::{self, Process, Scratch, Stop};

const LIMIT: Duration = Duration::from_secs(10);
const SCHEMA: [&str; 2] =
    ["/usr/share/openvswitch/vswitch.ovsschema", "/usr/local/share/openvswitch/vswitch.ovsschema"];

pub(super) fn start(family: &Family, dir: Scratch, tso: bool) -> Result<Lab> {
    let site = Site::create(family)?;
    let database = start_database(&dir, &site.workshop)?;
    let remote = format!("unix:{}", dir.file("db.sock"));
    let vsctl = |args: &[&str]| {
        let db = format!("--db={remote}");
        process::run("ovs-vsctl", &[&[db.as_str(), "--timeout=10"], args].concat())
    };
    vsctl(&["--no-wait", "init"])?;
    if tso {
        vsctl(&["--no-wait", "set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true"])?;
    }
    let switch = start_switch(&dir, &site.workshop, &remote)?;
    // Without --no-wait: each of these comes back when the switch has done it.
    vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"])?;
    for link in LINKS {
        vsctl(&["add-port", "br0", link, "--", "set", "interface", link, "type=tap"])?;
    }
    site.hand_over(|netns| prepare(netns, tso))?;
    Ok(site.into_lab(dir, vec![switch, database], ADDRESSES))
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
