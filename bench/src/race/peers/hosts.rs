//! Two hosts that a veth pair joins, a container on each: what an overlay is for.

use std::net::Ipv4Addr;

use super::lab::{Lab, between};
use crate::error::Result;
use crate::ns::{Family, Netns};
use crate::process::{Process, Scratch};

/// The hosts' addresses on the underlay (RFC 2544: for benchmarks).
pub const UNDERLAY: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 1, 1), Ipv4Addr::new(198, 18, 1, 2)];
/// Their containers'; the first address of the subnet is a gateway's.
pub const CONTAINERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 0, 2), Ipv4Addr::new(10, 99, 0, 3)];
/// The name of the containers' network on the underlay.
pub const VNI: u32 = 100;
/// Each host's link to the other one, whose MTU is 1500.
pub const LINK: &str = "eth0";
/// What that leaves the containers (RFC 7348 section 5): the outer IPv4, UDP and VXLAN headers and the inner Ethernet
/// header are 50 bytes.
pub const INNER_MTU: &str = "1450";

/// The hosts. Where processes of a peer run, and containers are plugged in.
pub struct Hosts {
    /// In the order of [`UNDERLAY`].
    pub both: [Netns; 2],
}

impl Hosts {
    /// Both with their link up, and no address yet: who has it is the peer's choice.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn create(family: &Family) -> Result<Self> {
        let [one, other] = [Netns::create(family.name("h1"))?, Netns::create(family.name("h2"))?];
        one.ip(&["link", "add", LINK, "type", "veth", "peer", "name", LINK, "netns", other.name()])?;
        let both = [one, other];
        for host in &both {
            host.ip(&["link", "set", LINK, "up"])?;
        }
        Ok(Self { both })
    }

    /// Each has its address on `link`.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn address(&self, link: &str) -> Result<()> {
        let hosts = self.both.iter().zip(UNDERLAY);
        hosts.into_iter().try_for_each(|(host, address)| host.address(link, &format!("{address}/24")))
    }

    /// The lab of a container on each, removed before the hosts. The first two processes, if there are any, are the
    /// switches.
    pub fn into_lab(self, dirs: [Scratch; 2], processes: Vec<Process>, containers: [Netns; 2]) -> Lab {
        let [a, b] = containers;
        let ways = between(&a, &b, CONTAINERS);
        let [one, other] = self.both;
        let [dir, second] = dirs;
        Lab::new(dir, processes, vec![a, b, one, other], ways).with_second(second)
    }

    /// The lab of the hosts themselves, without any tunnel.
    fn bare(self, dir: Scratch) -> Lab {
        let [one, other] = self.both;
        let ways = between(&one, &other, UNDERLAY);
        Lab::new(dir, Vec::new(), vec![one, other], ways)
    }
}

/// A folder for what belongs to the second host.
///
/// # Errors
/// When it cannot be made.
pub fn second(family: &Family) -> Result<Scratch> {
    Scratch::create(&family.name("h2"))
}

/// The underlay and nothing on it: the limit.
pub(super) fn underlay(family: &Family, dir: Scratch) -> Result<Lab> {
    let hosts = Hosts::create(family)?;
    hosts.address(LINK)?;
    Ok(hosts.bare(dir))
}
