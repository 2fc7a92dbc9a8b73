//! Devices of memory, some of which are other hosts: a frame for one of these becomes datagrams, by the overlay's own code,
//! as far as that can be done without sending them.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::io::Errno;
use switch::books::{Books, Ticket};
use switch::drop::DropReason;
use switch::flow::Meta;
use switch::frame::{Frame, Pool};
use switch::io::mem::MemIo;
use switch::io::{Batch, Eye, Io, IoStats, Sent, Wait};
use switch::port::PortId;
use switch::tick::Tick;
use vxlan::ecn::Ecn;
use vxlan::encap::Encap;
use vxlan::settings::Settings;

/// Bytes of a UDP header.
const UDP: usize = 8;

/// What a frame for another host became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagrams {
    /// How many.
    pub count: usize,
    /// Bytes of the longest, as an IP packet of the underlay.
    pub longest: usize,
    /// The TOS or traffic class that they have.
    pub tos: u8,
}

/// A frame for another host, and what became of it.
pub type Tunnelled = (PortId, Result<Datagrams, DropReason>);

/// See the module.
pub struct Devices {
    /// What came out and is not on its way into a tunnel, and what is.
    pub mem: MemIo,
    /// Frames for other hosts, in the order in which they came out.
    pub tunnelled: Vec<Tunnelled>,
    overlay: Arc<Settings>,
}

impl Devices {
    /// For ports `0..ports`, with these other hosts.
    pub fn new(ports: u16, overlay: Arc<Settings>) -> Self {
        Self { mem: MemIo::new(ports), tunnelled: Vec::new(), overlay }
    }

    /// What the overlay makes of a frame for `out`; `None`: that is no other host.
    fn tunnel(
        &self,
        pool: &Pool,
        out: PortId,
        frame: &Frame,
        meta: &Meta,
    ) -> Option<Result<Datagrams, DropReason>> {
        let remote = self.overlay.remote(out)?;
        if !self.overlay.is_open() {
            return Some(Err(DropReason::TxDown));
        }
        let ip = if remote.address.is_ipv4() { 20 } else { 40 };
        let datagrams =
            Encap::new(pool.bytes(frame), meta, remote.vni, remote.underlay).map(|encap| Datagrams {
                count: encap.datagrams(),
                longest: encap.longest().saturating_add(UDP + ip),
                tos: Ecn::outer(meta).bits(),
            });
        Some(datagrams.map_err(DropReason::from))
    }
}

impl Io for Devices {
    fn rx(&mut self, pool: &mut Pool, batch: &mut Batch, wait: Wait) -> io::Result<Tick> {
        self.mem.rx(pool, batch, wait)
    }

    fn tx(
        &mut self,
        pool: &mut Pool,
        out: PortId,
        frame: &Frame,
        meta: &Meta,
        ticket: Ticket,
        books: &mut Books,
    ) -> Result<Sent, DropReason> {
        if let Some(became) = self.tunnel(pool, out, frame, meta) {
            self.tunnelled.push((out, became));
            became?;
        }
        self.mem.tx(pool, out, frame, meta, ticket, books)
    }

    fn flush(&mut self, pool: &mut Pool, books: &mut Books) {
        self.mem.flush(pool, books);
    }

    fn watch(&mut self, eye: Eye, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.mem.watch(eye, fd)
    }

    fn take_stats(&mut self) -> IoStats {
        self.mem.take_stats()
    }
}
