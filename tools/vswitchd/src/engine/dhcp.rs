//! The DHCP service: packets of containers in, answers out, leases into the tables.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use router::neighbor::REACHABLE;
use switch::port::PortId;
use switch::punt::Parcel;
use switch::tick::Tick;

use super::control::Control;
use crate::api::rows::{DhcpStats, LeaseRow};
use crate::config::{Gateway, GatewayBy, Network};
use crate::dhcp::{self, Change, Event, Grant, Outcome, Scope};
use crate::ipam::lease::Behind;

/// Messages that a port may send in a burst.
const BURST: u32 = 20;
/// Messages a second that a port may send for long.
const RATE: u32 = 10;

/// Messages that wait for an address to be granted. Beyond that clients have to say it again.
const WAITING: usize = 32;
/// How often another address is tried for one message, where other hosts were faster.
const ATTEMPTS: u8 = 8;

/// What the service keeps beside leases.
#[derive(Default)]
pub struct Dhcp {
    paces: HashMap<PortId, Pace>,
    /// By the address that has to be granted.
    waiting: BTreeMap<(String, IpAddr), Waiting>,
    counts: BTreeMap<String, DhcpStats>,
}

/// A message that waits.
struct Waiting {
    parcel: Box<Parcel>,
    attempts: u8,
}

/// What a message comes to.
enum Said {
    Reply(dhcp::Reply),
    /// It is answered once this address is granted.
    Later(Ipv4Addr),
    Nothing,
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
    /// Hears a client's packet, as often as its port may be heard.
    pub(super) fn serve_dhcp(&mut self, parcel: Box<Parcel>) {
        let network = self.desired_of(&parcel).map(|network| network.name.clone());
        let admitted = network.filter(|network| {
            self.dhcp.count(network).heard += 1;
            let admits = self.dhcp.admits(parcel.port, Instant::now());
            self.dhcp.count(network).limited += u64::from(!admits);
            admits
        });
        match admitted {
            Some(network) => self.answer_dhcp(parcel, network, ATTEMPTS),
            None => self.punt.give_back(parcel),
        }
    }

    /// The network that a packet is of, where addresses are given there.
    fn desired_of(&self, parcel: &Parcel) -> Option<&Network> {
        let record = self.ports.get(parcel.port).filter(|port| port.is_wanted())?;
        let network = self.networks.get(parcel.network).filter(|_| record.network == parcel.network)?;
        self.desired.network(&network.config.name).filter(|network| network.dhcp)
    }

    /// Answers a packet in the slot that it came in; or keeps it until the address is granted.
    fn answer_dhcp(&mut self, mut parcel: Box<Parcel>, network: String, attempts: u8) {
        match self.dhcp_reply(&parcel) {
            Said::Reply(reply) => {
                parcel.mac = reply.mac;
                parcel.fill(|out| reply.write(out));
                self.punt.send(parcel);
            }
            Said::Later(address) if attempts > 0 => {
                let key = (network, address.into());
                let full = self.dhcp.waiting.len() >= WAITING || self.dhcp.waiting.contains_key(&key);
                self.claim_leases();
                // Who says it again is heard by then.
                if full {
                    return self.punt.give_back(parcel);
                }
                self.dhcp.waiting.insert(key, Waiting { parcel, attempts: attempts.saturating_sub(1) });
            }
            Said::Later(_) | Said::Nothing => self.punt.give_back(parcel),
        }
    }

    /// What came of asking for an address that was perhaps to be lent; `answered`: somebody knew.
    pub(super) fn dhcp_claimed(&mut self, key: &(String, IpAddr), answered: bool) {
        let Some(Waiting { parcel, attempts }) = self.dhcp.waiting.remove(key) else { return };
        if !answered {
            self.dhcp.count(&key.0).unclaimed += 1;
            return self.punt.give_back(parcel);
        }
        // Nobody else gets what one who is gone asked for.
        if !self.punt.is_current(parcel.port, parcel.epoch) || self.desired_of(&parcel).is_none() {
            return self.punt.give_back(parcel);
        }
        self.answer_dhcp(parcel, key.0.clone(), attempts);
        if self.punt.has_sent() {
            self.workers.first().wake();
        }
    }

    fn dhcp_reply(&mut self, parcel: &Parcel) -> Said {
        let Some(outcome) = self.dhcp_outcome(parcel) else { return Said::Nothing };
        match (outcome.reply, outcome.event) {
            (Some(reply), _) => Said::Reply(reply),
            (None, Event::Unclaimed(address)) => Said::Later(address),
            (None, _) => Said::Nothing,
        }
    }

    fn dhcp_outcome(&mut self, parcel: &Parcel) -> Option<Outcome> {
        let record = self.ports.get(parcel.port)?;
        let network = self.networks.get(parcel.network)?;
        let config = self.desired.network(&network.config.name)?;
        let gateway = self.desired.gateway_of(config)?;
        let Gateway { address: gateway, by: GatewayBy::Us(_) } = gateway else { return None };
        let (container, ifname) = (record.container(), record.ifname());
        let container = self.desired.container(container)?;
        let interface = container.interfaces.iter().find(|interface| interface.name == ifname)?;
        let tick = Tick::now();
        let elsewhere: HashSet<IpAddr> = self.leases.memory.elsewhere(&config.name).collect();
        let taken = |address: Ipv4Addr| {
            let there = |n: &router::neighbor::Neighbor| {
                n.address == address.to_ipv6_mapped() && n.age < REACHABLE && n.mac != parcel.mac
            };
            self.desired.is_told(config, address.into())
                || elsewhere.contains(&address.into())
                || network.neighbors.iter(tick).any(|neighbor| there(&neighbor))
        };
        let shared = self.desired.is_shared(config);
        let granted = |address: Ipv4Addr| match shared {
            true => self.overlay.grant(config, address.into(), &elsewhere),
            false => Grant::Yes,
        };
        let behind = Behind { network: &config.name, container: &container.name, interface: &interface.name };
        let (taken, granted, now) = (&taken, &granted, epoch());
        let scope = Scope { behind, network: config, interface, gateway, dns: true, taken, granted, now };
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
            // It is answered again.
            Event::Unclaimed(_) => {}
            Event::Ignored => count.ignored += 1,
            Event::NoAddress(_) => count.no_address += 1,
        }
        self.leases.changed(outcome.change >= Change::Time);
        self.unpublished |= outcome.change == Change::Owner;
        Some(outcome)
    }

    /// Ends leases that are over; writes down what changed.
    pub(super) fn age_leases(&mut self) {
        let ended = self.leases.memory.expire(epoch());
        self.leases.changed(ended);
        self.unpublished |= ended;
        self.leases.save();
        if self.desired.networks.iter().any(|network| network.dhcp && self.desired.is_shared(network)) {
            self.claim_leases(); // what was kept for a client that did not come is free
        }
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
