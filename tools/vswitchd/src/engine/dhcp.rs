//! The DHCP service: packets of containers in, answers out, leases into the tables.

use std::collections::{BTreeMap, HashMap};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use router::neighbor::REACHABLE;
use switch::port::PortId;
use switch::punt::Parcel;
use switch::tick::Tick;

use super::control::Control;
use crate::api::rows::{DhcpStats, LeaseRow};
use crate::config::{Gateway, GatewayBy, Network};
use crate::dhcp::{self, Change, Event, Scope};
use crate::ipam::lease::Behind;

/// Messages that a port may send in a burst.
const BURST: u32 = 20;
/// Messages a second that a port may send for long.
const RATE: u32 = 10;

/// What the service keeps beside leases.
#[derive(Default)]
pub struct Dhcp {
    paces: HashMap<PortId, Pace>,
    counts: BTreeMap<String, DhcpStats>,
}

/// A port's right to be heard.
struct Pace {
    left: u32,
    since: Instant,
}

impl Dhcp {
    /// Whether a port may be heard now.
    fn admits(&mut self, port: PortId, now: Instant) -> bool {
        let pace = self.paces.entry(port).or_insert(Pace { left: BURST, since: now });
        let passed = now.saturating_duration_since(pace.since).as_millis();
        let earned = u32::try_from(passed.saturating_mul(u128::from(RATE)) / 1000).unwrap_or(BURST);
        if earned > 0 {
            pace.left = pace.left.saturating_add(earned).min(BURST);
            pace.since = now;
        }
        let admits = pace.left > 0;
        pace.left = pace.left.saturating_sub(1);
        admits
    }

    /// A port's number is free.
    pub fn forget(&mut self, port: PortId) {
        self.paces.remove(&port);
    }

    /// What happened in a network.
    pub fn stats(&self, network: &str) -> DhcpStats {
        self.counts.get(network).copied().unwrap_or_default()
    }

    fn count(&mut self, network: &str) -> &mut DhcpStats {
        self.counts.entry(network.to_owned()).or_default()
    }
}

/// Seconds since the epoch: leases outlive the machine's uptime.
#[expect(clippy::disallowed_methods, reason = "no other clock goes on while the machine is off")]
pub fn epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Control {
    /// Answers a client's packet, in the slot that it came in.
    pub(super) fn serve_dhcp(&mut self, mut parcel: Box<Parcel>) {
        match self.dhcp_reply(&parcel) {
            Some(reply) => {
                parcel.mac = reply.mac;
                parcel.fill(|out| reply.write(out));
                self.punt.send(parcel);
            }
            None => self.punt.give_back(parcel),
        }
    }

    fn dhcp_reply(&mut self, parcel: &Parcel) -> Option<dhcp::Reply> {
        let record = self.ports.get(parcel.port).filter(|port| port.is_wanted())?;
        let network = self.networks.get(parcel.network).filter(|_| record.network == parcel.network)?;
        let config = self.desired.network(&network.config.name).filter(|network| network.dhcp)?;
        let count = self.dhcp.count(&config.name);
        count.heard += 1;
        if !self.dhcp.admits(parcel.port, Instant::now()) {
            self.dhcp.count(&config.name).limited += 1;
            return None;
        }
        let gateway = self.desired.gateway_of(config)?;
        let Gateway { address: gateway, by: GatewayBy::Us(_) } = gateway else { return None };
        let (container, ifname) = (record.container(), record.ifname());
        let container = self.desired.container(container)?;
        let interface = container.interfaces.iter().find(|interface| interface.name == ifname)?;
        let now = Tick::now();
        let elsewhere: std::collections::HashSet<_> = self.leases.memory.elsewhere(&config.name).collect();
        let taken = |address: std::net::Ipv4Addr| {
            let there = |n: &router::neighbor::Neighbor| {
                n.address == address.to_ipv6_mapped() && n.age < REACHABLE && n.mac != parcel.mac
            };
            self.desired.is_told(config, address.into())
                || elsewhere.contains(&address.into())
                || network.neighbors.iter(now).any(|neighbor| there(&neighbor))
        };
        let behind = Behind { network: &config.name, container: &container.name, interface: &interface.name };
        let scope =
            Scope { behind, network: config, interface, gateway, dns: true, taken: &taken, now: epoch() };
        let message = dhcp::payload(parcel.packet());
        let outcome = message.map(|message| dhcp::answer(message, &scope, &mut self.leases.memory));
        let count = self.dhcp.count(&config.name);
        let outcome = match outcome {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => {
                count.malformed += 1;
                tracing::debug!(port = parcel.port.0, %error, "DHCP");
                return None;
            }
            None => {
                count.malformed += 1;
                return None;
            }
        };
        match outcome.event {
            Event::Offered => count.offered += 1,
            Event::Acknowledged => count.acknowledged += 1,
            Event::Refused => count.refused += 1,
            Event::Released => count.released += 1,
            Event::Declined => count.declined += 1,
            Event::Informed => count.informed += 1,
            Event::Ignored => count.ignored += 1,
            Event::NoAddress(_) => count.no_address += 1,
        }
        self.leases.changed(outcome.change >= Change::Time);
        self.unpublished |= outcome.change == Change::Owner;
        outcome.reply
    }

    /// Ends leases that are over; writes down what changed.
    pub(super) fn age_leases(&mut self) {
        let ended = self.leases.memory.expire(epoch());
        self.leases.changed(ended);
        self.unpublished |= ended;
        self.leases.save();
    }

    /// The leases of a network.
    pub(super) fn lease_rows(&self, network: &Network) -> Vec<LeaseRow> {
        let now = epoch();
        let leases = self.leases.memory.leases(&network.name);
        let rows = leases.map(|(address, entry, lease)| LeaseRow {
            address: address.into(),
            mac: lease.mac,
            client: lease.client.to_string(),
            container: entry.container.clone(),
            iface: entry.interface.clone(),
            left: lease.until.saturating_sub(now),
            state: lease.state,
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_port_is_heard_at_its_pace() {
        let (mut dhcp, start) = (Dhcp::default(), Instant::now());
        let heard = |dhcp: &mut Dhcp, port: u16, after: u64| {
            let now = start + Duration::from_millis(after);
            (0..100).filter(|_| dhcp.admits(PortId(port), now)).count()
        };
        assert_eq!(heard(&mut dhcp, 1, 0), BURST as usize);
        assert_eq!(heard(&mut dhcp, 2, 0), BURST as usize, "another port is another matter");
        assert_eq!(heard(&mut dhcp, 1, 99), 0);
        assert_eq!(heard(&mut dhcp, 1, 1099), RATE as usize);
        assert_eq!(heard(&mut dhcp, 1, 1_000_000), BURST as usize);
        dhcp.forget(PortId(1));
        assert_eq!(heard(&mut dhcp, 1, 1_000_000), BURST as usize);
    }
}
