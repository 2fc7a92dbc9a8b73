//! Other hosts in words: who is behind which, who says so, and how a frame gets there.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use switch::drop::DropReason;
use switch::flow::Packet;
use switch::mac::MacAddr;
use switch::parse::parse;
use switch::port::{NetworkId, PortId};
use switch::snapshot::Owner;
use switch::verdict::{Action, Verdict};
use switch::vnet::VnetHdr;

use super::devices::Datagrams;
use super::line::line;
use super::tell::{Names, Teller, dropped, explanation, hex};
use crate::api::rows::{Fate, Hop, ToldBy, TracePacket, TracePort, TraceRow, TraceStep, TraceTunnel};

/// Hosts that are named; of more there is the number.
const NAMED: usize = 8;
/// What stands where the container's name would, of a port that is another host. No container can have it.
pub const VTEP: &str = "-vtep";
/// Bytes of the headers of UDP and VXLAN.
const TUNNEL: usize = 16;

/// Another host in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Its address.
    pub vtep: IpAddr,
    /// The network.
    pub vni: u32,
    /// Who said that it is on it.
    pub told: ToldBy,
    /// Largest inner IP packet that gets there.
    pub mtu: u32,
}

/// All other hosts, as a trace names them.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    /// Where this host is on the underlay; `None`: it has no overlay.
    pub local: Option<SocketAddr>,
    /// By their ports.
    pub by_port: BTreeMap<PortId, Host>,
    /// Who said where a MAC is. Any other behind a host was learned from there.
    pub macs: HashMap<(NetworkId, MacAddr), ToldBy>,
}

const fn says(told: ToldBy) -> &'static str {
    match told {
        ToldBy::Peer => "`peers` names it",
        ToldBy::Cluster => "the cluster says so",
        ToldBy::Static => "`[[vxlan.static]]` says so",
        ToldBy::Group => "it is the `group`",
    }
}

impl Hosts {
    /// Who says that a MAC is behind a host.
    pub(super) fn whose(&self, network: NetworkId, mac: MacAddr) -> String {
        match self.macs.get(&(network, mac)) {
            Some(told) => says(*told).to_owned(),
            None => "learned from there".to_owned(),
        }
    }

    /// The way of datagrams between us and a host.
    fn tunnel(&self, host: &Host, to_us: bool, datagrams: Datagrams) -> TraceTunnel {
        let local = self.local.map_or(host.vtep, |local| local.ip());
        let (source, destination) = if to_us { (host.vtep, local) } else { (local, host.vtep) };
        TraceTunnel {
            vni: host.vni,
            source,
            destination,
            port: self.local.map_or(0, |local| local.port()),
            told: Some(host.told),
            datagrams: datagrams.count as u64,
            length: datagrams.longest as u64,
            tos: datagrams.tos,
        }
    }

    /// The same for what went to a port; `None`: that is no other host.
    pub(super) fn to(&self, port: PortId, datagrams: Datagrams) -> Option<TraceTunnel> {
        Some(self.tunnel(self.by_port.get(&port)?, false, datagrams))
    }

    /// The same for a frame of so many bytes that came by a port.
    pub(super) fn from(&self, port: PortId, frame: usize) -> Option<TraceTunnel> {
        let host = self.by_port.get(&port)?;
        Some(self.tunnel(host, true, one(host.vtep, frame)))
    }
}

/// One datagram with a frame of so many bytes.
const fn one(vtep: IpAddr, frame: usize) -> Datagrams {
    let ip = if vtep.is_ipv4() { 20 } else { 40 };
    Datagrams { count: 1, longest: frame.saturating_add(TUNNEL + ip), tos: 0 }
}

/// The outer packets in words.
fn outer(tunnel: &TraceTunnel) -> String {
    let TraceTunnel { vni, source, port, datagrams, length, .. } = tunnel;
    let destination = SocketAddr::new(tunnel.destination, *port);
    let count = if *datagrams == 1 { "one packet".into() } else { format!("{datagrams} packets") };
    let most = if *datagrams == 1 { "" } else { "at most " };
    let ecn = match tunnel.tos & 3 {
        0 => "",
        3 => ", marked as having met congestion",
        _ => ", whose transport knows ECN",
    };
    format!("VXLAN of VNI {vni}, {source} > {destination}: {count} of {most}{length} bytes{ecn}")
}

impl Names {
    /// What a port that is another host is called.
    pub(super) fn host(&self, port: PortId) -> Option<String> {
        let host = self.hosts.by_port.get(&port)?;
        Some(format!("host {} (port {port})", host.vtep))
    }

    /// Hosts by their addresses.
    fn listed(&self, ports: &[PortId]) -> String {
        let vtep = |port: &PortId| self.hosts.by_port.get(port).map(|host| host.vtep.to_string());
        let named: Vec<String> = ports.iter().take(NAMED).filter_map(vtep).collect();
        match ports.len().saturating_sub(NAMED) {
            0 => named.join(", "),
            more => format!("{} and {more} more", named.join(", ")),
        }
    }
}

impl Teller<'_> {
    /// What came from another host.
    pub(super) fn rx(&self) -> Vec<String> {
        let hosts = &self.names.hosts;
        let (Some(host), Some(tunnel)) =
            (hosts.by_port.get(&self.run.port), hosts.from(self.run.port, self.frame.len()))
        else {
            return Vec::new();
        };
        let name = self.names.network(self.run.network);
        vec![outer(&tunnel), format!("{} is on {name}: {}", host.vtep, says(host.told))]
    }

    /// Where a MAC is, and who says so where that is another host.
    pub(super) fn behind(&self, mac: MacAddr, port: PortId) -> String {
        let text = format!("{mac} is behind {}", self.names.port(port));
        let network = self.snapshot.port(port).map(|port| port.network);
        match network.filter(|_| self.names.hosts.by_port.contains_key(&port)) {
            Some(network) => format!("{text}: {}", self.names.hosts.whose(network, mac)),
            None => text,
        }
    }

    /// Why a source MAC of another host moves nobody.
    pub(super) fn unlearned(&self, mac: MacAddr, at: Option<PortId>) -> Option<String> {
        let remote = self.snapshot.port(self.run.port)?.remote?;
        let owner = self.network()?.claims.macs.get(&mac);
        Some(match at {
            _ if !remote.learns => "teaches nothing (`learning = false`)".into(),
            _ if owner == Some(&Owner::Gateway) => {
                format!("{mac} is the gateway's, which is on every host: not learned")
            }
            Some(at) if !self.names.hosts.by_port.contains_key(&at) => {
                format!(
                    "{mac} stays at {}: whoever is heard here is not learned from another host",
                    self.names.port(at)
                )
            }
            _ => return None,
        })
    }

    /// To which other hosts a flood goes, where the network is on any.
    pub(super) fn others(&self) -> Option<String> {
        let network = self.network()?;
        let is_host = |port: &&PortId| self.snapshot.port(**port).is_some_and(|port| port.remote.is_some());
        let all: Vec<PortId> = network.members.iter().filter(is_host).copied().collect();
        if all.iter().all(|port| *port == self.run.port) {
            return None;
        }
        if all.contains(&self.run.port) {
            return Some("to no other host: who sent it has sent it there as well (split horizon)".into());
        }
        let went: Vec<PortId> = self.run.tunnelled.iter().map(|(port, _)| *port).collect();
        let floods = |port: &PortId| {
            self.snapshot.port(*port).and_then(|port| port.remote).is_some_and(|remote| remote.floods)
        };
        let silent = all.iter().filter(|port| !floods(port)).count();
        let but = match silent {
            0 => String::new(),
            _ => format!("; {silent} that `[[vxlan.static]]` names or the group has get none by themselves"),
        };
        Some(match went.is_empty() {
            true => format!("to no other host{but}"),
            false => format!("on other hosts to {}{but}", self.names.listed(&went)),
        })
    }

    /// What went into tunnels, and what did not fit.
    pub(super) fn tunnelled(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for (port, became) in self.run.tunnelled.iter().take(NAMED) {
            let Some(host) = self.names.hosts.by_port.get(port) else { continue };
            lines.push(match became {
                Ok(datagrams) => outer(&self.names.hosts.tunnel(host, false, *datagrams)),
                Err(reason) => format!("not to {}: {}", host.vtep, dropped(*reason)),
            });
        }
        match self.run.tunnelled.len().saturating_sub(NAMED) {
            0 => {}
            more => lines.push(format!("and to {more} more hosts")),
        }
        lines.extend(self.too_big());
        lines
    }

    /// What the way to the host takes that a frame was too long for.
    fn too_big(&self) -> Option<String> {
        let Some(Verdict::Forward(Action { out, hop: None })) = &self.run.verdict else { return None };
        let host = self.names.hosts.by_port.get(out)?;
        (self.run.drop == Some(DropReason::TooBig))
            .then(|| format!("the way to {} takes IP packets of {} bytes", host.vtep, host.mtu))
    }
}

/// A frame that another host sends in a datagram, of which nothing more came.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    /// Who sends it.
    pub vtep: IpAddr,
    /// The network that it names.
    pub vni: u32,
}

/// The row of a datagram that there is no frame in, and `reason`; `port`: who sent it, where that is known.
pub fn refused(arrived: &Arrived, port: PortId, reason: DropReason, frame: &[u8], names: &Names) -> TraceRow {
    let hosts = &names.hosts;
    let known = hosts.by_port.get(&port);
    let unknown = Host { vtep: arrived.vtep, vni: arrived.vni, told: ToldBy::Peer, mtu: 0 };
    let tunnel = hosts.tunnel(known.unwrap_or(&unknown), true, one(arrived.vtep, frame.len()));
    let tunnel = TraceTunnel { told: known.map(|host| host.told), ..tunnel };
    let mut lines = vec![outer(&tunnel), dropped(reason)];
    if reason == DropReason::VxlanUnknownVtep {
        let of_it = |(port, host): (&PortId, &Host)| {
            (host.vni == arrived.vni && host.told != ToldBy::Group).then_some(*port)
        };
        let ports: Vec<PortId> = hosts.by_port.iter().filter_map(of_it).collect();
        lines.push(match ports.is_empty() {
            true => format!("no host is known on VNI {}", arrived.vni),
            false => format!("known on VNI {}: {}", arrived.vni, names.listed(&ports)),
        });
    }
    let packet: Result<Packet, DropReason> = parse(frame, &VnetHdr::default(), PortId::NOBODY, 0);
    TraceRow {
        from: TracePort {
            port: known.map(|_| port.0),
            network: String::new(),
            container: VTEP.to_owned(),
            iface: arrived.vtep.to_string(),
            tunnel: Some(tunnel),
        },
        packet: TracePacket {
            text: line(frame, packet.as_ref().map_err(|reason| *reason)),
            length: frame.len() as u64,
            hex: hex(frame),
        },
        steps: vec![TraceStep { hop: Hop::Rx, lines }],
        verdict: Fate::Drop,
        reason: Some(reason.name().to_owned()),
        explanation: Some(explanation(reason)),
        out: Vec::new(),
    }
}
