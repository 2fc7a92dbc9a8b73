//! Between the packet's way and the sockets uplink: who the container is, where frames go, what an error becomes.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use nat::sockets::{Emit, Limits, Link, Outcome, Settings, Sockets};
use router::forward::header_verifies;
use router::service::Service;
use router::tables::Tables;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use switch::drop::DropReason;
use switch::flow::Packet;
use switch::frame::Frame;
use switch::io::Io;
use switch::policy::{Desk, Here};
use switch::port::PortId;
use switch::snapshot::Snapshot;
use switch::tick::Tick;
use switch::verdict::Unreachable;

/// Descriptors that are not the uplink's: TAPs and their twins, the control socket and its clients.
const OTHERS: u64 = 4096;
/// Bytes of the longest frame.
const FRAME: usize = 66 * 1024;

/// Where the uplink's current settings are found.
pub type Configured = Arc<ArcSwap<Settings>>;

/// The sockets uplink of one worker.
pub struct Uplink {
    sockets: Sockets,
    settings: Cache<Configured, Arc<Settings>>,
    /// The generation of what was taken in last.
    configured: u64,
    /// The packet in hand: what it causes is made in the same pool that it lies in.
    packet: Vec<u8>,
}

/// Where frames of the uplink go.
pub struct Out<'a, 'd, I> {
    /// The worker's desk.
    pub desk: &'a mut Desk<'d, I>,
    /// Who writes ICMP errors.
    pub router: &'a mut Service,
    /// The configuration.
    pub snapshot: &'a Snapshot<Tables>,
    /// The time of the batch.
    pub now: Tick,
}

impl<I: Io> Emit for Out<'_, '_, I> {
    fn emit(&mut self, port: PortId, fill: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), DropReason> {
        self.desk.emit(port, fill)
    }

    fn unreachable(&mut self, link: &Link, why: Unreachable, quoted: &[u8]) {
        let place = (link.mac, link.port);
        self.router.unreachable_quoted(why, quoted, place, self.snapshot, self.now, self.desk);
    }
}

impl Uplink {
    /// An uplink with as many flows as the limit of descriptors allows, which is raised as far as it may be.
    ///
    /// # Errors
    /// What the kernel said.
    ///
    /// # Syscalls
    /// `prlimit64`; those of [`Sockets::new`]
    pub fn new(settings: Configured, now: Tick) -> std::io::Result<Self> {
        let limit = getrlimit(Resource::Nofile);
        let most = limit.maximum.unwrap_or(1 << 20).min(1 << 20);
        // Where it may not be raised the lower one counts.
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum });
        let descriptors = if raised.is_ok() { most } else { limit.current.unwrap_or(1024) };
        let all = Limits::default();
        let flows = u32::try_from(descriptors.saturating_sub(OTHERS)).unwrap_or(u32::MAX);
        let flows = all.flows.min(flows.max(256));
        let limits = Limits { flows, flows_per_port: all.flows_per_port.min(flows / 2), ..all };
        Ok(Self {
            sockets: Sockets::new(limits, now)?,
            settings: Cache::new(settings),
            configured: 0,
            packet: Vec::with_capacity(FRAME),
        })
    }

    /// Takes in what the control plane has published since: once a batch. Whoever publishes wakes the worker
    /// ([`switch::mailbox::Mailbox::wake`]).
    pub fn configure(&mut self) {
        let settings = self.settings.load();
        if settings.generation != self.configured {
            self.configured = settings.generation;
            self.sockets.configure(settings);
        }
    }

    /// The sockets.
    pub const fn sockets(&mut self) -> &mut Sockets {
        &mut self.sockets
    }

    /// Readable when a socket has something.
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.sockets.poll_fd()
    }

    /// When the sockets have something to do by themselves.
    pub fn deadline(&self) -> Option<Tick> {
        self.sockets.next_timer()
    }

    /// A packet leaves by the uplink. Says why it leads nowhere, if it does.
    ///
    /// # Errors
    /// Why it was dropped.
    pub fn packet<I: Io>(
        &mut self,
        frame: &Frame,
        packet: &Packet,
        here: &Here<'_, Tables>,
        router: &mut Service,
        desk: &mut Desk<'_, I>,
    ) -> Result<Option<Unreachable>, DropReason> {
        // RFC 1812 section 5.2.2: what leaves by a socket gets another header, which would hide the damage.
        if !header_verifies(desk.bytes(frame), &packet.meta) {
            return Err(DropReason::BadChecksum);
        }
        let gateway = here.snapshot.tables.gateway(here.id).ok_or(DropReason::NoRoute)?;
        let link = Link {
            port: packet.meta.port,
            mac: packet.meta.src,
            gateway_mac: gateway.mac,
            vlan: None,
            mtu: u16::try_from(here.network.mtu).unwrap_or(u16::MAX),
        };
        self.packet.clear();
        self.packet.extend_from_slice(desk.bytes(frame));
        let mut out = Out { desk, router, snapshot: here.snapshot, now: here.now };
        match self.sockets.packet(&self.packet, packet, &link, here.now, &mut out) {
            Outcome::Taken => Ok(None),
            Outcome::Unreachable(why) => Ok(Some(why)),
            Outcome::Dropped(reason) => Err(reason),
        }
    }
}
