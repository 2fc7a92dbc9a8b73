//! How the socket of a flow sends datagrams: as a router would hand the container's packets on.

use std::os::fd::BorrowedFd;

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ip_tos, set_ip_ttl,
    set_ipv6_mtu_discover, set_ipv6_tclass, set_ipv6_unicast_hops,
};
use switch::flow::{L3, Meta};

/// What Linux sends with. A container that sends with it leaves with the host's own default, and costs nothing.
const HOPS: u8 = 64;

/// What the socket was told last.
pub(super) struct Sending {
    hops: u8,
    tos: u8,
    /// `None`: not told yet.
    df: Option<bool>,
}

impl Sending {
    pub const fn new() -> Self {
        Self { hops: HOPS, tos: 0, df: None }
    }

    /// Whether [`Sending::follow`] has anything to tell.
    pub fn differs(&self, meta: &Meta) -> bool {
        (self.hops, self.tos, self.df) != (meta.ttl, meta.tos, Some(meta.df))
    }

    /// Tells the socket what this packet has and the one before had not: TTL, less one for us, so that traceroute sees
    /// the hops behind us; DSCP and ECN; whether it may be fragmented.
    pub fn follow(&mut self, socket: BorrowedFd<'_>, meta: &Meta) {
        let v4 = meta.l3 == L3::V4;
        // Each fails only for what is no such socket.
        if self.hops != meta.ttl {
            self.hops = meta.ttl;
            let hops = meta.ttl.saturating_sub(1).max(1);
            let _ = match v4 {
                true => set_ip_ttl(socket, u32::from(hops)),
                false => set_ipv6_unicast_hops(socket, Some(hops)),
            };
        }
        if self.tos != meta.tos {
            self.tos = meta.tos;
            let _ = match v4 {
                true => set_ip_tos(socket, meta.tos),
                false => set_ipv6_tclass(socket, u32::from(meta.tos)),
            };
        }
        if self.df != Some(meta.df) {
            self.df = Some(meta.df);
            let _ = match (v4, meta.df) {
                (true, true) => set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO),
                (true, false) => set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT),
                (false, true) => set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DO),
                // It came in fragments, which only its source may make (RFC 8200 section 5): now that is us.
                (false, false) => set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::WANT),
            };
        }
    }
}
