//! The kernel's own bridge, router and NAT, at their best: no rule on the way that is not needed.

use std::net::Ipv4Addr;
use std::path::Path;

use super::hosts::{self, CONTAINERS, Hosts, INNER_MTU, UNDERLAY, VNI};
use super::lab::{ADDRESSES, Lab, Service, Site};
use super::outside::{CONTAINER, GATEWAY, LINK, World};
use crate::error::{Error, Result};
use crate::ns::{Family, Netns};
use crate::process::{self, Scratch};
use crate::race::scenario::Scenario;

const NETFILTER: &str = "net/bridge/bridge-nf-call-iptables";
const FORWARD: &str = "net/ipv4/ip_forward";
/// Two networks: each container's address and its gateway's.
const ROUTED: [(Ipv4Addr, Ipv4Addr); 2] = [
    (Ipv4Addr::new(10, 99, 1, 2), Ipv4Addr::new(10, 99, 1, 1)),
    (Ipv4Addr::new(10, 99, 2, 2), Ipv4Addr::new(10, 99, 2, 1)),
];

/// Two containers on one bridge.
pub(super) fn bridged(family: &Family, dir: Scratch) -> Result<Lab> {
    let site = Site::create(family)?;
    bridge(&site.workshop, "br0")?;
    for ((port, netns), address) in [("port-a", &site.a), ("port-b", &site.b)].into_iter().zip(ADDRESSES) {
        plug(&site.workshop, "br0", port, netns, address)?;
    }
    Ok(site.into_lab(dir, Vec::new(), ADDRESSES))
}

/// Two bridges, each with a container and an address, and a kernel that forwards between them.
pub(super) fn routed(family: &Family, dir: Scratch) -> Result<Lab> {
    let site = Site::create(family)?;
    site.workshop.sysctl(FORWARD, "1")?;
    let containers = [("br-a", "port-a", &site.a), ("br-b", "port-b", &site.b)];
    for ((name, port, netns), (address, gateway)) in containers.into_iter().zip(ROUTED) {
        bridge(&site.workshop, name)?;
        site.workshop.address(name, &format!("{gateway}/24"))?;
        plug(&site.workshop, name, port, netns, address)?;
        default_route(netns, gateway)?;
    }
    Ok(site.into_lab(dir, Vec::new(), ROUTED.map(|(address, _)| address)))
}

/// A bridge whose traffic is masqueraded, and l4 ports of the host that lead to its container, as Docker does it.
pub(super) fn translated(family: &Family, dir: Scratch, scenario: Scenario) -> Result<Lab> {
    let world = World::create(family)?;
    let container = Netns::create(family.name("a"))?;
    let host = &world.host;
    bridge(host, "br0")?;
    host.address("br0", &format!("{GATEWAY}/24"))?;
    plug(host, "br0", "port-a", &container, CONTAINER)?;
    default_route(&container, GATEWAY)?;
    host.sysctl(FORWARD, "1")?;
    // What the host sends to its loopback address goes on to the container.
    host.sysctl("net/ipv4/conf/br0/route_localnet", "1")?;
    let file = dir.file("rules.nft");
    std::fs::write(&file, rules(scenario)).map_err(Error::io(format!("write {file}")))?;
    host.exec(&["nft", "-f", &file])?;
    Ok(world.into_lab(scenario, dir, Vec::new(), container, CONTAINER))
}

/// MAC addresses of the containers on two hosts: each is told of the other's.
const MACS: [&str; 2] = ["02:42:0a:63:00:02", "02:42:0a:63:00:03"];
/// What stands for everybody in the FDB of a VXLAN device.
const EVERYBODY: &str = "00:00:00:00:00:00";

/// A bridge on each of two hosts, with a VXLAN device that is told where the other one is and who is behind it.
pub(super) fn overlaid(family: &Family, dir: Scratch) -> Result<Lab> {
    let second = hosts::second(family)?;
    let hosts = Hosts::create(family)?;
    hosts.address(hosts::LINK)?;
    let containers = [Netns::create(family.name("a"))?, Netns::create(family.name("b"))?];
    let [one, other] = UNDERLAY;
    let [first_mac, other_mac] = MACS;
    let ends = [(one, other, first_mac, other_mac), (other, one, other_mac, first_mac)];
    for (((host, container), address), (local, remote, mac, behind)) in
        hosts.both.iter().zip(&containers).zip(CONTAINERS).zip(ends)
    {
        bridge(host, "br0")?;
        plug(host, "br0", "port-a", container, address)?;
        host.ip(&["link", "set", "port-a", "mtu", INNER_MTU])?;
        container.ip(&["link", "set", "eth0", "mtu", INNER_MTU, "address", mac])?;
        tunnel(host, local, remote, behind)?;
    }
    Ok(hosts.into_lab([dir, second], Vec::new(), containers))
}

/// A VXLAN device on the bridge, told of one other host and of one MAC address there.
fn tunnel(host: &Netns, local: Ipv4Addr, remote: Ipv4Addr, behind: &str) -> Result<()> {
    let (vni, local, remote) = (VNI.to_string(), local.to_string(), remote.to_string());
    let device = ["link", "add", "vxlan0", "type", "vxlan", "id", &vni, "local", &local, "dev", hosts::LINK];
    host.ip(&[&device[..], &["dstport", "4789", "nolearning"]].concat())?;
    host.ip(&["link", "set", "vxlan0", "master", "br0", "up"])?;
    for mac in [EVERYBODY, behind] {
        let entry = ["-n", host.name(), "fdb", "append", mac, "dev", "vxlan0", "dst", &remote];
        process::run("bridge", &entry)?;
    }
    Ok(())
}

fn rules(scenario: Scenario) -> String {
    let (first, last) = Service::PORTS;
    let dnat = if matches!(scenario, Scenario::Publish | Scenario::Dnat) {
        format!(
            "fib daddr type local meta l4proto {{ tcp, udp }} th dport {first}-{last} dnat to {CONTAINER}"
        )
    } else {
        String::new()
    };
    format!(
        "table ip race {{\n\
         chain in {{ type nat hook prerouting priority dstnat; {dnat}\n}}\n\
         chain own {{ type nat hook output priority -100; {dnat}\n}}\n\
         chain out {{ type nat hook postrouting priority srcnat;\n\
         oifname \"{LINK}\" ip saddr {CONTAINER} masquerade\n\
         oifname \"br0\" ip saddr 127.0.0.0/8 masquerade\n}}\n}}\n"
    )
}

fn bridge(workshop: &Netns, name: &str) -> Result<()> {
    workshop.ip(&["link", "add", name, "type", "bridge"])?;
    if Path::new("/proc/sys").join(NETFILTER).exists() {
        workshop.sysctl(NETFILTER, "0")?;
    }
    workshop.ip(&["link", "set", name, "up"])
}

/// Gives a container an `eth0` whose other end is a port of the bridge.
fn plug(workshop: &Netns, bridge: &str, port: &str, netns: &Netns, address: Ipv4Addr) -> Result<()> {
    workshop.ip(&["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", netns.name()])?;
    workshop.ip(&["link", "set", port, "master", bridge, "up"])?;
    netns.address("eth0", &format!("{address}/24"))
}

fn default_route(netns: &Netns, gateway: Ipv4Addr) -> Result<()> {
    netns.ip(&["route", "add", "default", "via", &gateway.to_string()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_published_is_translated_inwards() {
        let (egress, publish) = (rules(Scenario::Egress), rules(Scenario::Publish));
        assert!(egress.contains("masquerade") && !egress.contains("dnat to"), "{egress}");
        assert!(publish.contains("th dport 5201-5204 dnat to 10.99.0.2"), "{publish}");
    }
}
