//! Addresses for whoever asks (RFC 2131): one message in, perhaps one out. Pure: tables and time are arguments.
//!
//! The interface of a port has its address in the configuration: it is given to its MAC address, always. Any other MAC
//! behind the port is a client of the pool, the addresses that nobody has ([`crate::ipam::lease`]). There is no other
//! server on a network of ours: a client that asks for what is not its own is told so at once, and one that renews a
//! lease nobody remembers gets it if it is free.
//!
//! In a cluster an address is lent once it is granted ([`Grant`]): until then it is kept for the client, which gets no answer,
//! and the message is answered again when the grant is there. What a client has it may keep, whether anybody can be asked
//! or not, unless another host has it by now.
//!
//! Relays are refused, option 82 is neither read nor sent back (RFC 3046 section 2.2 leaves that to servers that know
//! it), and BOOTP without a message type is not served.

mod reply;
mod request;

use std::net::Ipv4Addr;

use dhcproto::v4::MessageType;
use ipnet::Ipv4Net;

use crate::config::{Interface, Network};
use crate::ipam::Memory;
use crate::ipam::lease::{Behind, Lease, LeaseState, NoLease, Pool};

pub use reply::{CLIENT, Facts, Reply, SERVER, payload};
pub use request::{Malformed, Request};

/// How long a lease holds, seconds; a client may ask for less.
pub const LEASE: u32 = 3600;
/// The shortest lease.
pub const SHORTEST_LEASE: u32 = 60;
/// How long an offer is kept for the client, seconds.
pub const OFFER: u64 = 30;
/// How long an address rests that a client declined, seconds.
pub const DECLINED: u64 = 600;

/// Where a client is.
pub struct Scope<'a> {
    /// The interface it is behind.
    pub behind: Behind<'a>,
    /// The network.
    pub network: &'a Network,
    /// The interface itself.
    pub interface: &'a Interface,
    /// Our gateway's address.
    pub gateway: Ipv4Addr,
    /// Names are answered there.
    pub dns: bool,
    /// Whether somebody uses an address who was not given it.
    pub taken: &'a dyn Fn(Ipv4Addr) -> bool,
    /// Whether an address is this host's to lend.
    pub granted: &'a dyn Fn(Ipv4Addr) -> Grant,
    /// Seconds since the epoch.
    pub now: u64,
}

/// Whether an address is this host's to lend: on one host it always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// It is.
    Yes,
    /// It must be claimed first.
    Ask,
    /// It is another host's.
    No,
}

/// What is to be done with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What is answered.
    pub reply: Option<Reply>,
    /// What happened.
    pub event: Event,
    /// What changed in the tables.
    pub change: Change,
}

/// What a message came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An address was offered.
    Offered,
    /// It was given, or given on.
    Acknowledged,
    /// A wish was refused.
    Refused,
    /// A client gave its address back.
    Released,
    /// A client found its address in use.
    Declined,
    /// A client that has an address was told about the network.
    Informed,
    /// Not for us, or of no consequence.
    Ignored,
    /// An address is kept for the client, and has to be claimed before it is told: it is to be asked for, and the message
    /// to be answered again then.
    Unclaimed(Ipv4Addr),
    /// There is no address for the client.
    NoAddress(NoLease),
}

/// What changed in the tables: the more, the larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Nothing that must survive.
    Nothing,
    /// How long a lease holds.
    Time,
    /// Whose an address is.
    Owner,
}

/// Answers the payload of a datagram.
///
/// # Errors
/// What is wrong with the message; nothing changed.
pub fn answer(message: &[u8], scope: &Scope<'_>, memory: &mut Memory) -> Result<Outcome, Malformed> {
    let request = Request::parse(message)?;
    let Some(pool) = Pool::of(scope.network) else { return Ok(Outcome::ignored()) };
    let mut server = Server { request: &request, scope, memory, pool };
    let lost = server.give_up();
    let foreign = request.server.is_some_and(|server| server != scope.gateway);
    let outcome = match request.kind {
        MessageType::Discover => server.discover(),
        MessageType::Request if foreign => server.forgo(),
        MessageType::Request => server.request(),
        MessageType::Decline if !foreign => server.decline(),
        MessageType::Release if !foreign => server.release(),
        MessageType::Inform => server.inform(),
        _ => Outcome::ignored(),
    };
    Ok(Outcome { change: outcome.change.max(lost), ..outcome })
}

impl Outcome {
    const fn of(event: Event) -> Self {
        Self { reply: None, event, change: Change::Nothing }
    }

    const fn ignored() -> Self {
        Self::of(Event::Ignored)
    }
}

/// One message on its way.
struct Server<'a> {
    request: &'a Request,
    scope: &'a Scope<'a>,
    memory: &'a mut Memory,
    pool: Pool,
}

impl Server<'_> {
    /// The interface's own address, if it is the interface that asks.
    fn own(&self) -> Option<Ipv4Addr> {
        let Interface { mac, ip, .. } = self.scope.interface;
        ip.filter(|_| *mac == self.request.mac).map(|ip| ip.addr())
    }

    fn held(&self) -> Option<(Ipv4Addr, LeaseState)> {
        let lease = self.memory.lease(&self.scope.behind, &self.request.client);
        lease.map(|(address, lease)| (address, lease.state))
    }

    /// What the client holds and another host has by now is its no more. What changed by that.
    fn give_up(&mut self) -> Change {
        match self.held() {
            Some((held, state)) if (self.scope.granted)(held) == Grant::No => {
                self.memory.end(self.scope.behind.network, held);
                if state == LeaseState::Bound { Change::Owner } else { Change::Nothing }
            }
            _ => Change::Nothing,
        }
    }

    /// Keeps an address that the client does not have yet; `Some`: it is not this host's to lend so far.
    fn keep(&mut self, address: Ipv4Addr) -> Option<Outcome> {
        self.lend(address, LeaseState::Offered, OFFER);
        let granted = (self.scope.granted)(address) == Grant::Yes;
        (!granted).then_some(Outcome::of(Event::Unclaimed(address)))
    }

    fn choose(&self, asked: Option<Ipv4Addr>) -> Result<Ipv4Addr, NoLease> {
        let Self { request, scope, memory, pool } = self;
        memory.choose(&scope.behind, &request.client, asked, pool, scope.taken)
    }

    fn lend(&mut self, address: Ipv4Addr, state: LeaseState, seconds: u64) {
        let (client, mac) = (self.request.client.clone(), self.request.mac);
        let until = self.scope.now.saturating_add(seconds);
        self.memory.lend(&self.scope.behind, address, Lease { client, mac, until, state });
    }

    fn seconds(&self) -> u32 {
        self.request.lease_time.unwrap_or(LEASE).clamp(SHORTEST_LEASE, LEASE)
    }

    /// RFC 2131 section 4.3.1.
    fn discover(&mut self) -> Outcome {
        let address = match (self.own(), self.held()) {
            (Some(own), _) => own,
            (None, Some((held, LeaseState::Bound))) => held,
            (None, held) => {
                let chosen = match held {
                    Some((offered, _)) => Ok(offered),
                    None => self.choose(self.request.asked),
                };
                match chosen {
                    Ok(address) => match self.keep(address) {
                        Some(unclaimed) => return unclaimed,
                        None => address,
                    },
                    Err(reason) => return Outcome::of(Event::NoAddress(reason)),
                }
            }
        };
        Outcome { reply: self.grant(MessageType::Offer, address), ..Outcome::of(Event::Offered) }
    }

    /// RFC 2131 section 4.3.2, whatever state the client is in: it names the address that was offered (SELECTING), the
    /// one it had (INIT-REBOOT), or has it (RENEWING, REBINDING).
    fn request(&mut self) -> Outcome {
        let Request { ciaddr, asked, .. } = *self.request;
        let wanted = if ciaddr.is_unspecified() { asked } else { Some(ciaddr) };
        let Some(wanted) = wanted else { return Outcome::ignored() };
        if let Some(own) = self.own() {
            return if wanted == own { self.acknowledge(own, Change::Nothing) } else { self.refuse() };
        }
        match self.held() {
            Some((held, LeaseState::Bound)) if held == wanted => {
                self.lend(wanted, LeaseState::Bound, u64::from(self.seconds()));
                self.acknowledge(wanted, Change::Time)
            }
            Some((held, _)) if held == wanted => self.give(wanted),
            Some(_) => self.refuse(),
            // Nobody remembers: the offer is over, or this daemon does not know what one before it gave.
            None => match self.choose(Some(wanted)) {
                Ok(address) if address == wanted => self.give(wanted),
                Ok(_) => self.refuse(),
                Err(reason) => Outcome { event: Event::NoAddress(reason), ..self.refuse() },
            },
        }
    }

    /// An address becomes the client's, if it is this host's to lend.
    fn give(&mut self, address: Ipv4Addr) -> Outcome {
        if let Some(unclaimed) = self.keep(address) {
            return unclaimed;
        }
        self.lend(address, LeaseState::Bound, u64::from(self.seconds()));
        self.acknowledge(address, Change::Owner)
    }

    /// The client took another server's offer: ours is free again.
    fn forgo(&mut self) -> Outcome {
        if let Some((address, LeaseState::Offered)) = self.held() {
            self.memory.end(self.scope.behind.network, address);
        }
        Outcome::ignored()
    }

    /// RFC 2131 section 4.3.3. The interface's own address stays its own: nobody else is let in with it.
    fn decline(&mut self) -> Outcome {
        let Some((held, state)) = self.held().filter(|(held, _)| self.request.asked == Some(*held)) else {
            let own = self.own().is_some();
            return Outcome::of(if own { Event::Declined } else { Event::Ignored });
        };
        self.lend(held, LeaseState::Declined, DECLINED);
        let was_its = state == LeaseState::Bound;
        let change = if was_its { Change::Owner } else { Change::Nothing };
        Outcome { reply: None, event: Event::Declined, change }
    }

    /// RFC 2131 section 4.3.4.
    fn release(&mut self) -> Outcome {
        match self.held() {
            Some((held, LeaseState::Bound)) if held == self.request.ciaddr => {
                self.memory.end(self.scope.behind.network, held);
                Outcome { reply: None, event: Event::Released, change: Change::Owner }
            }
            _ if self.own() == Some(self.request.ciaddr) => Outcome::of(Event::Released),
            _ => Outcome::ignored(),
        }
    }

    /// RFC 2131 section 4.3.5: it has its address by other means, and is told the rest.
    fn inform(&self) -> Outcome {
        let address = self.request.ciaddr;
        if !self.pool.has(address) {
            return Outcome::ignored();
        }
        let reply =
            self.facts(address).and_then(|facts| Reply::grant(MessageType::Ack, self.request, &facts, None));
        Outcome { reply, ..Outcome::of(Event::Informed) }
    }

    fn acknowledge(&self, address: Ipv4Addr, change: Change) -> Outcome {
        Outcome { reply: self.grant(MessageType::Ack, address), event: Event::Acknowledged, change }
    }

    fn refuse(&self) -> Outcome {
        Outcome { reply: Reply::refuse(self.request, self.scope.gateway), ..Outcome::of(Event::Refused) }
    }

    fn grant(&self, kind: MessageType, address: Ipv4Addr) -> Option<Reply> {
        let facts = self.facts(address)?;
        Reply::grant(kind, self.request, &facts, Some((address, self.seconds())))
    }

    fn facts(&self, address: Ipv4Addr) -> Option<Facts> {
        let Scope { network, interface, gateway, .. } = *self.scope;
        let own = self.request.mac == interface.mac;
        // One default route a container has; a client behind it has no other interface that we know of.
        let routed = if own { interface.default_via.is_some() } else { !network.internal };
        Some(Facts {
            subnet: Ipv4Net::new(address, network.subnet?.prefix_len()).ok()?,
            server: gateway,
            router: routed.then_some(gateway),
            dns: self.scope.dns.then_some(gateway),
            domain: self.scope.dns.then(|| network.name.clone()),
            hostname: own
                .then_some(self.scope.behind.container)
                .filter(|name| is_label(name))
                .map(Into::into),
            mtu: network.mtu,
        })
    }
}

/// RFC 1123 section 2.1: what a host may be called. Containers may be called otherwise.
fn is_label(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    plain && !name.is_empty() && name.len() <= 63 && !name.starts_with('-') && !name.ends_with('-')
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
