//! A daemon with as many containers as wanted on one network.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::meter;
use crate::ns::{Family, Netns};
use crate::process::{Process, Scratch};
use crate::race::peers::vswitchd::{self, Config, Uplink};

/// Far beyond what the bar allows, so that a slow start is a figure and not a failure.
const LIMIT: Duration = Duration::from_secs(120);

/// The daemon and its containers. Dropping it ends the daemon, then removes namespaces it may have left.
pub struct Fleet {
    process: Process,
    containers: Vec<Netns>,
    dir: Scratch,
    /// From the start of the process to its `ready` line.
    pub ready_after: Duration,
}

impl Fleet {
    /// Starts a daemon that makes `count` containers.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start(count: usize, fdb_limit: Option<u32>, storm: Option<u32>) -> Result<Self> {
        let family = Family::random()?;
        let dir = Scratch::create(family.prefix())?;
        let containers: Vec<Netns> =
            (0..count).map(|index| Netns::expected(family.name(&index.to_string()))).collect();
        // The subnet's first address is kept for a gateway; here the first container has it.
        let mut lines = vec![format!("gateway = \"{}\"", Self::address(0))];
        lines.extend(storm.map(|storm| format!("storm = {storm}")));
        lines.extend(fdb_limit.map(|limit| format!("fdb_limit = {limit}")));
        let network = Config::new(&dir, Uplink::None, "auto").network("race", "10.99.0.0/16", &lines);
        let config = containers.iter().enumerate().fold(network, |config, (index, netns)| {
            config.container(netns, "race", Self::address(index), &[])
        });
        let daemon = vswitchd::daemon(&dir, None, &config, LIMIT)?;
        Ok(Self { process: daemon.process, containers, dir, ready_after: daemon.ready_after })
    }

    /// The address of a container by its index.
    pub fn address(index: usize) -> Ipv4Addr {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 99, 0, 1)).saturating_add(index))
    }

    /// Keeper and engine.
    pub fn pids(&self) -> Vec<u32> {
        meter::family(self.process.pid())
    }

    /// Nobody says anything unasked from now on: hundreds of IPv6 kernels that look for a router, each heard by all others,
    /// are traffic and not idleness.
    ///
    /// # Errors
    /// When a container's kernel refuses.
    pub fn hush(&self) -> Result<()> {
        self.containers.iter().try_for_each(|netns| netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1"))
    }

    /// Starts one of our loads in a container.
    ///
    /// # Errors
    /// When there is no such container, or the load cannot be started.
    pub fn load(&self, container: usize, args: &[String]) -> Result<Process> {
        let missing =
            || Error::Missing { what: format!("container {container}"), hint: "is not in the fleet".into() };
        let netns = self.containers.get(container).ok_or_else(missing)?;
        Process::load(&self.dir, netns.name(), args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_count_up() {
        assert_eq!(Fleet::address(0), Ipv4Addr::new(10, 99, 0, 1));
        assert_eq!(Fleet::address(255), Ipv4Addr::new(10, 99, 1, 0));
    }
}
