//! Three namespaces: a container, the host on which a peer works, and the world outside behind a veth pair.

use std::net::Ipv4Addr;

use super::lab::{Ends, Lab, Way};
use crate::error::Result;
use crate::ns::{CONGESTION_CONTROL, Family, Netns};
use crate::process::{Process, Scratch};
use crate::race::scenario::Scenario;

/// The host's address (RFC 2544: for benchmarks).
pub const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The server's, or client's, outside.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The container's, unless a peer insists on another.
pub const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// Its gateway.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The host's link to the outside.
pub const LINK: &str = "eth0";

/// Host and outside. The container is the peer's.
pub struct World {
    /// Where the peer's processes run.
    pub host: Netns,
    /// Where nobody knows of containers.
    pub outside: Netns,
}

impl World {
    /// # Errors
    /// When `ip` refuses.
    pub fn create(family: &Family) -> Result<Self> {
        let (host, outside) = (Netns::create(family.name("h"))?, Netns::create(family.name("o"))?);
        // Before a peer listens: what it accepts later goes by what held then.
        host.sysctl("net/ipv4/tcp_congestion_control", CONGESTION_CONTROL)?;
        host.ip(&["link", "add", LINK, "type", "veth", "peer", "name", LINK, "netns", outside.name()])?;
        host.address(LINK, &format!("{HOST}/24"))?;
        outside.address(LINK, &format!("{OUTSIDE}/24"))?;
        // What asks for the default route finds one: pasta takes its interface from it.
        host.ip(&["route", "add", "default", "via", &OUTSIDE.to_string()])?;
        Ok(Self { host, outside })
    }

    /// Host and outside that nothing joins: whoever comes brings the link, which the outside has as [`LINK`].
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn apart(family: &Family) -> Result<Self> {
        let (host, outside) = (Netns::create(family.name("h"))?, Netns::create(family.name("o"))?);
        Ok(Self { host, outside })
    }

    /// The lab of a container whose address is `address`. The container is removed before the host.
    pub fn into_lab(
        self,
        scenario: Scenario,
        dir: Scratch,
        processes: Vec<Process>,
        container: Netns,
        address: Ipv4Addr,
    ) -> Lab {
        let [inside, host, outside] =
            [&container, &self.host, &self.outside].map(|netns| netns.name().to_owned());
        let published =
            |client: String, to, from| Ends { client, server: inside.clone(), to, from, published: true };
        let ways = if scenario == Scenario::Dnat {
            vec![(Way::Main, published(outside, HOST, OUTSIDE))]
        } else if scenario == Scenario::Publish {
            vec![
                (Way::Main, published(outside, HOST, OUTSIDE)),
                (Way::Host, published(host.clone(), HOST, HOST)),
                (Way::Loopback, published(host, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST)),
            ]
        } else {
            vec![(
                Way::Main,
                Ends { client: inside, server: outside, to: OUTSIDE, from: address, published: false },
            )]
        };
        Lab::new(dir, processes, vec![container, self.host, self.outside], ways)
    }
}
