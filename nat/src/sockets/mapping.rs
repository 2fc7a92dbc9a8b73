//! Endpoint-independent mapping of UDP (RFC 4787 section 4.1): whatever a container sends to from one of its l4 ports
//! leaves by one l4 port of the host.
//!
//! Filtering is by address and port: each flow has a connected socket of its own, and what comes from elsewhere finds
//! no socket. The host's port is the kernel's choice and never the container's own number: which l4 ports of the host
//! are in use is not for containers to choose.

use std::collections::HashMap;
use std::net::Ipv6Addr;

use foldhash::fast::RandomState;
use switch::flow::FlowKey;

/// Where flows come from.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Inside {
    zone: u16,
    address: Ipv6Addr,
    port: u16,
}

/// Where they leave by, and how many they are.
struct Outside {
    port: u16,
    flows: u32,
}

/// All mappings of one worker; there are never more than flows.
pub(super) struct Mappings(HashMap<Inside, Outside, RandomState>);

impl Mappings {
    /// For so many flows.
    pub fn new(flows: u32) -> Self {
        Self(HashMap::with_capacity_and_hasher(flows as usize, RandomState::default()))
    }

    /// The l4 port of the host that a new flow must leave by.
    pub fn find(&self, key: &FlowKey) -> Option<u16> {
        self.0.get(&inside(key)).map(|outside| outside.port)
    }

    /// A flow was opened that leaves by `port`.
    pub fn add(&mut self, key: &FlowKey, port: u16) {
        let outside = self.0.entry(inside(key)).or_insert(Outside { port, flows: 0 });
        outside.flows = outside.flows.saturating_add(1);
    }

    /// A flow that was added ended.
    pub fn remove(&mut self, key: &FlowKey) {
        let inside = inside(key);
        if let Some(outside) = self.0.get_mut(&inside) {
            outside.flows = outside.flows.saturating_sub(1);
            if outside.flows == 0 {
                self.0.remove(&inside);
            }
        }
    }
}

fn inside(key: &FlowKey) -> Inside {
    Inside { zone: key.zone, address: key.src, port: key.sport }
}
