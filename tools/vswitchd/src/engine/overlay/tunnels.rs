//! Which port is which other host in which network.
//!
//! Numbers are given from the top downwards, for those of interfaces go upwards, and none again before every worker has
//! let it go.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use switch::port::{NetworkId, PortId};
use switch::stats::PortSample;

use crate::engine::ports::{MAX_PORTS, Ports};

/// How long a number rests: far longer than any batch takes.
const REST: Duration = Duration::from_secs(5);

/// Who said that another host is on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// `[[vxlan.static]]`: somebody is behind it.
    Static,
    /// `peers`.
    Peer,
    /// The cluster.
    Cluster,
    /// `group`: it is no host, but all who listen.
    Group,
}

/// Another host in a network.
#[derive(Debug)]
pub struct Tunnel {
    /// The network.
    pub network: NetworkId,
    /// The host.
    pub vtep: IpAddr,
    /// Who said so.
    pub by: By,
    /// What is for everybody goes there.
    pub floods: bool,
    /// Since when it is known.
    pub since: Instant,
    /// What the counters of its number said when it got it.
    pub base: PortSample,
    /// Bytes of an IP packet that the way there is known to take, where that is less than the interface's.
    pub path_mtu: Option<u32>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Tunnels {
    by_port: BTreeMap<PortId, Tunnel>,
    by_host: BTreeMap<(NetworkId, IpAddr), PortId>,
    resting: Vec<(PortId, Instant)>,
}

impl Tunnels {
    /// All, by port.
    pub fn all(&self) -> impl Iterator<Item = (PortId, &Tunnel)> {
        self.by_port.iter().map(|(port, tunnel)| (*port, tunnel))
    }

    /// The same, to be changed.
    pub fn all_mut(&mut self) -> impl Iterator<Item = (PortId, &mut Tunnel)> {
        self.by_port.iter_mut().map(|(port, tunnel)| (*port, tunnel))
    }

    /// The host that a port is.
    pub fn get(&self, port: PortId) -> Option<&Tunnel> {
        self.by_port.get(&port)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, port: PortId) -> Option<&mut Tunnel> {
        self.by_port.get_mut(&port)
    }

    /// The port of a host in a network.
    pub fn find(&self, network: NetworkId, vtep: IpAddr) -> Option<PortId> {
        self.by_host.get(&(network, vtep)).copied()
    }

    /// The lowest number in use: interfaces have those below it.
    pub fn lowest(&self) -> usize {
        let used = self.by_port.keys().chain(self.resting.iter().map(|(port, _)| port));
        used.map(|port| port.index()).min().unwrap_or(MAX_PORTS)
    }

    /// Gives a host a number; `None`: none is left.
    pub fn add(&mut self, tunnel: Tunnel, ports: &Ports) -> Option<PortId> {
        self.resting.retain(|(_, since)| since.elapsed() < REST);
        let taken = |port: &PortId| {
            self.by_port.contains_key(port) || self.resting.iter().any(|(resting, _)| resting == port)
        };
        let free =
            (ports.slots()..MAX_PORTS).rev().map(|index| PortId(index as u16)).find(|port| !taken(port))?;
        self.by_host.insert((tunnel.network, tunnel.vtep), free);
        self.by_port.insert(free, tunnel);
        Some(free)
    }

    /// Takes those out for which `keep` does not hold.
    pub fn retain(&mut self, keep: impl Fn(&Tunnel) -> bool) -> Vec<(PortId, Tunnel)> {
        let gone: Vec<PortId> =
            self.all().filter(|(_, tunnel)| !keep(tunnel)).map(|(port, _)| port).collect();
        let gone: Vec<_> =
            gone.into_iter().filter_map(|port| Some((port, self.by_port.remove(&port)?))).collect();
        for (port, tunnel) in &gone {
            self.by_host.remove(&(tunnel.network, tunnel.vtep));
            self.resting.push((*port, Instant::now()));
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn tunnel(host: u8) -> Tunnel {
        Tunnel {
            network: NetworkId(0),
            vtep: Ipv4Addr::new(198, 18, 1, host).into(),
            by: By::Peer,
            floods: true,
            since: Instant::now(),
            base: PortSample::default(),
            path_mtu: None,
        }
    }

    #[test]
    fn numbers_come_from_the_top_and_rest() {
        let (mut tunnels, ports) = (Tunnels::default(), Ports::default());
        let top = MAX_PORTS as u16 - 1;
        assert_eq!(tunnels.lowest(), MAX_PORTS);
        assert_eq!(tunnels.add(tunnel(1), &ports), Some(PortId(top)));
        assert_eq!(tunnels.add(tunnel(2), &ports), Some(PortId(top - 1)));
        assert_eq!(tunnels.find(NetworkId(0), tunnel(1).vtep), Some(PortId(top)));
        let gone = tunnels.retain(|it| it.vtep != tunnel(1).vtep);
        assert_eq!(gone.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [PortId(top)]);
        assert_eq!(tunnels.find(NetworkId(0), tunnel(1).vtep), None);
        assert_eq!(tunnels.add(tunnel(3), &ports), Some(PortId(top - 2)), "the first one rests");
        assert_eq!(tunnels.lowest(), MAX_PORTS - 3);
    }
}
