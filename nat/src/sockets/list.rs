//! The flows that there are, for whoever wants to see them.

use switch::tick::Tick;

use super::Sockets;
use super::flows::Flow;
use super::types::{Connection, Query};

impl Sockets {
    /// All flows, for a listing. `getsockname` and `getpeername` are asked for each.
    pub fn connections(&self, now: Tick) -> impl Iterator<Item = Connection> {
        self.flows.iter().map(move |(_, flow)| connection(flow, now))
    }

    /// Those flows in the places `range` that are asked for, as many as `rows` has room for without growing. Returns
    /// the place to go on from; `None`: that was all.
    ///
    /// # Syscalls
    /// `getsockname`, `getpeername` for each.
    pub fn list(
        &self,
        query: &Query,
        range: std::ops::Range<u32>,
        now: Tick,
        rows: &mut Vec<Connection>,
    ) -> Option<u32> {
        for id in range.clone() {
            if id >= self.limits.flows || rows.len() == rows.capacity() {
                return None;
            }
            if let Some(flow) = self.flows.get(id).filter(|flow| query.matches(&flow.key)) {
                rows.push(connection(flow, now));
            }
        }
        Some(range.end)
    }
}

fn connection(flow: &Flow, now: Tick) -> Connection {
    let (local, peer) = flow.kind.ends();
    Connection {
        key: flow.key,
        port: flow.link.port,
        inbound: flow.inbound,
        state: flow.kind.state(),
        local,
        peer,
        bytes: flow.bytes,
        idle: now.millis().saturating_sub(flow.used.millis()),
    }
}
