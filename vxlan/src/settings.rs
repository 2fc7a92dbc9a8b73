//! What the overlay of all workers is to be: one immutable value that the control plane publishes.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use switch::port::PortId;
use switch::stats::Counter;

use crate::encap::Underlay;
use crate::sockets::Sockets;
use crate::wire::{Reserved, Vni};

/// A remote in a network: what a switch port needs to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Where its datagrams go. They come from the same address, by any l4 port; a multicast group sends none.
    pub address: SocketAddr,
    /// The network.
    pub vni: Vni,
    /// What the way there takes.
    pub underlay: Underlay,
    /// The network's MTU.
    pub mtu: u16,
}

/// Where the current settings are found.
pub type Published = Arc<ArcSwap<Settings>>;

/// What the overlay is to be; by default there is none.
///
/// # Threads
/// Immutable; workers look once a batch. Whoever publishes wakes them.
#[derive(Debug, Default)]
pub struct Settings {
    /// Of each worker.
    sockets: Box<[Arc<Sockets>]>,
    /// What becomes of headers with reserved bits.
    pub(crate) reserved: Reserved,
    /// By port.
    remotes: Box<[Option<Remote>]>,
    /// Who a datagram is from.
    known: HashMap<(IpAddr, Vni), PortId, RandomState>,
    /// Networks there are, with their MTUs.
    networks: HashMap<Vni, u16, RandomState>,
}

/// A remote could not be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is two remotes of network {vni}")]
pub struct Twice {
    /// Its address.
    pub address: IpAddr,
    /// The network.
    pub vni: Vni,
}

impl Settings {
    /// With these sockets, of each worker, and remotes.
    ///
    /// # Errors
    /// [`Twice`].
    pub fn new(
        sockets: Box<[Arc<Sockets>]>,
        reserved: Reserved,
        networks: impl IntoIterator<Item = (Vni, u16)>,
        remotes: impl IntoIterator<Item = (PortId, Remote)>,
    ) -> Result<Self, Twice> {
        let networks = networks.into_iter().collect();
        let (mut by_port, mut known) = (Vec::new(), HashMap::default());
        for (port, remote) in remotes {
            let (address, vni) = (remote.address.ip().to_canonical(), remote.vni);
            // What goes to a group comes from its members, each by its own address.
            if !address.is_multicast() && known.insert((address, vni), port).is_some() {
                return Err(Twice { address, vni });
            }
            if by_port.len() <= port.index() {
                by_port.resize(port.index() + 1, None);
            }
            if let Some(place) = by_port.get_mut(port.index()) {
                *place = Some(remote);
            }
        }
        Ok(Self { sockets, reserved, remotes: by_port.into_boxed_slice(), known, networks })
    }

    /// The sockets of a worker.
    pub(crate) fn sockets(&self, worker: usize) -> Option<&Arc<Sockets>> {
        self.sockets.get(worker)
    }

    /// There are sockets: what is for remotes can be sent.
    pub fn is_open(&self) -> bool {
        !self.sockets.is_empty()
    }

    /// The remote that a port is.
    #[inline]
    pub fn remote(&self, port: PortId) -> Option<&Remote> {
        self.remotes.get(port.index())?.as_ref()
    }

    /// The port that a datagram from `from` for the network `vni` came by; `None`: that host is not known to be there.
    pub(crate) fn port(&self, from: IpAddr, vni: Vni) -> Option<PortId> {
        self.known.get(&(from.to_canonical(), vni)).copied()
    }

    /// The MTU of a network; `None`: there is no such network.
    pub(crate) fn mtu(&self, vni: Vni) -> Option<u16> {
        self.networks.get(&vni).copied()
    }
}

/// What a worker's overlay counts and no port does.
///
/// # Threads
/// Written by one worker, read by anybody.
#[derive(Debug, Default)]
pub struct OverlayCounters {
    /// Datagrams received.
    pub datagrams: Counter,
    /// Of these, with reserved bits that were accepted.
    pub reserved: Counter,
    /// Frames that the underlay's path did not take after all.
    pub too_big: Counter,
    /// Sockets that may not send many datagrams at a time any more, the kernel having refused.
    pub gso_off: Counter,
}
