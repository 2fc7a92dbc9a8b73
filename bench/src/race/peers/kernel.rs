//! The kernel's own bridge, at its best: no netfilter on its way.

use std::path::Path;

use super::{Lab, Side, Site};
use crate::error::Result;
use crate::ns::Family;
use crate::process::Scratch;

const NETFILTER: &str = "net/bridge/bridge-nf-call-iptables";

pub(super) fn start(family: &Family, dir: Scratch) -> Result<Lab> {
    let site = Site::create(family)?;
    site.workshop.ip(&["link", "add", "br0", "type", "bridge"])?;
    if Path::new("/proc/sys").join(NETFILTER).exists() {
        site.workshop.sysctl(NETFILTER, "0")?;
    }
    for (port, netns, side) in [("port-a", &site.a, Side::A), ("port-b", &site.b, Side::B)] {
        let peer = ["peer", "name", "eth0", "netns", netns.name()];
        site.workshop.ip(&[&["link", "add", port, "type", "veth"], peer.as_slice()].concat())?;
        site.workshop.ip(&["link", "set", port, "master", "br0", "up"])?;
        netns.address("eth0", &side.with_prefix())?;
    }
    site.workshop.ip(&["link", "set", "br0", "up"])?;
    Ok(site.into_lab(dir, Vec::new()))
}
