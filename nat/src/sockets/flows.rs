//! The table of flows: a slab and an index of it, both as large as they will ever be.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use foldhash::fast::RandomState;
use rustix::io::Errno;
use rustix::net::{SocketAddrAny, getpeername, getsockname};
use switch::flow::FlowKey;
use switch::port::PortId;

use super::echo::Echo;
use super::served::Served;
use super::tcp::Tcp;
use super::types::{Limits, Link};
use super::udp::Udp;
use switch::tick::Tick;

/// One flow.
pub(super) struct Flow {
    pub key: FlowKey,
    pub link: Link,
    /// When a packet of it was last seen, from either side.
    pub used: Tick,
    /// A client of a published l4 port opened it.
    pub inbound: bool,
    /// Payload from the container and to it, what is sent again included.
    pub bytes: (u64, u64),
    pub kind: Kind,
}

/// What it is a flow of. A large variant is no waste: most flows are TCP.
#[allow(clippy::large_enum_variant)]
pub(super) enum Kind {
    Tcp(Tcp),
    Udp(Udp),
    Served(Served),
    Echo(Echo),
}

impl Kind {
    /// Our end of the socket and the other.
    pub fn ends(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        if let Self::Served(served) = self {
            return served.ends();
        }
        let address = |answer: rustix::io::Result<SocketAddrAny>| SocketAddr::try_from(answer.ok()?).ok();
        (
            address(getsockname(self.socket())),
            address(getpeername(self.socket()).and_then(|peer| peer.ok_or(Errno::NOTCONN))),
        )
    }

    fn socket(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(tcp) => tcp.socket(),
            Self::Udp(udp) => udp.socket(),
            Self::Served(served) => served.socket(),
            Self::Echo(echo) => echo.socket(),
        }
    }

    pub fn state(&self) -> &'static str {
        match self {
            Self::Tcp(tcp) => tcp.state_name(),
            Self::Udp(udp) => udp.state_name(),
            Self::Served(served) => served.state_name(),
            Self::Echo(_) => "echo",
        }
    }
}

#[derive(Default)]
struct Slot {
    flow: Option<Flow>,
    /// Counts the flows that were here, so that a late event of one does not reach the next.
    generation: u32,
    /// It stands in the queue of those that have work left.
    pub queued: bool,
}

// They are all there from the start, so their size is the price of the limit.
const _: () = assert!(size_of::<Slot>() <= 256);

/// All flows of one worker.
pub(super) struct Flows {
    slots: Box<[Slot]>,
    free: Vec<u32>,
    index: HashMap<FlowKey, u32, RandomState>,
    per_port: Vec<u32>,
    limit_per_port: u32,
}

impl Flows {
    pub fn new(limits: &Limits) -> Self {
        Self {
            slots: (0..limits.flows).map(|_| Slot::default()).collect(),
            free: (0..limits.flows).rev().collect(),
            index: HashMap::with_capacity_and_hasher(limits.flows as usize, RandomState::default()),
            per_port: Vec::new(),
            limit_per_port: limits.flows_per_port,
        }
    }

    pub fn find(&self, key: &FlowKey) -> Option<u32> {
        self.index.get(key).copied()
    }

    /// Whether one more of this port is allowed.
    pub fn has_room(&self, port: PortId) -> bool {
        !self.free.is_empty() && self.used(port) < self.limit_per_port
    }

    /// Whether one more may be opened from outside: however many clients there are, a quarter of the port's share is
    /// left for what its container opens.
    pub fn has_room_for_client(&self, port: PortId) -> bool {
        let share = self.limit_per_port - self.limit_per_port / 4;
        !self.free.is_empty() && self.used(port) < share
    }

    /// Whether there is no place left for anybody.
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// The port with the most flows, and how many it has.
    pub fn greediest(&self) -> (PortId, u32) {
        let ports = (0..).zip(&self.per_port).map(|(port, used)| (PortId(port), *used));
        ports.max_by_key(|(_, used)| *used).unwrap_or((PortId(0), 0))
    }

    /// How many a port has.
    pub fn used(&self, port: PortId) -> u32 {
        self.per_port.get(port.index()).copied().unwrap_or(0)
    }

    /// The slot that the next [`Flows::insert`] takes, and the token its socket must be watched under.
    pub fn next(&self) -> Option<(u32, u64)> {
        let id = *self.free.last()?;
        let generation = self.slots.get(id as usize)?.generation;
        Some((id, u64::from(generation) << 32 | u64::from(id)))
    }

    /// Puts the flow into the slot that [`Flows::next`] named.
    pub fn insert(&mut self, flow: Flow) {
        let Some(id) = self.free.pop() else { return };
        let port = flow.link.port.index();
        if port >= self.per_port.len() {
            self.per_port.resize(port + 1, 0);
        }
        if let Some(used) = self.per_port.get_mut(port) {
            *used += 1;
        }
        self.index.insert(flow.key, id);
        if let Some(slot) = self.slots.get_mut(id as usize) {
            slot.flow = Some(flow);
        }
    }

    pub fn remove(&mut self, id: u32) -> Option<Flow> {
        let slot = self.slots.get_mut(id as usize)?;
        let flow = slot.flow.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.index.remove(&flow.key);
        if let Some(used) = self.per_port.get_mut(flow.link.port.index()) {
            *used = used.saturating_sub(1);
        }
        self.free.push(id);
        Some(flow)
    }

    pub fn get(&self, id: u32) -> Option<&Flow> {
        self.slots.get(id as usize)?.flow.as_ref()
    }

    pub fn get_mut(&mut self, id: u32) -> Option<(&mut Flow, u64)> {
        let slot = self.slots.get_mut(id as usize)?;
        let token = u64::from(slot.generation) << 32 | u64::from(id);
        Some((slot.flow.as_mut()?, token))
    }

    /// The slot a socket's event is for, if the flow is still the one that watched it.
    pub fn of_token(&self, token: u64) -> Option<u32> {
        let id = token as u32;
        let slot = self.slots.get(id as usize)?;
        (slot.flow.is_some() && u64::from(slot.generation) == token >> 32).then_some(id)
    }

    /// Marks the slot as queued; whether it was not yet.
    pub fn queue(&mut self, id: u32) -> bool {
        self.slots.get_mut(id as usize).is_some_and(|slot| !std::mem::replace(&mut slot.queued, true))
    }

    pub fn unqueue(&mut self, id: u32) {
        if let Some(slot) = self.slots.get_mut(id as usize) {
            slot.queued = false;
        }
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Flow)> {
        (0..).zip(&self.slots).filter_map(|(id, slot)| Some((id, slot.flow.as_ref()?)))
    }
}
