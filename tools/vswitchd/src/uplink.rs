//! Between the packet's way and the sockets uplink: who the container is, where frames go, what an error becomes.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use nat::sockets::{Emit, Fault, Limits, Link, Outcome, Settings, Sockets, Way};
use router::egress;
use router::icmp::error::Problem;
use router::service::{self, Service};
use router::tables::Tables;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use switch::drop::DropReason;
use switch::flow::{FlowKey, Fragment, Packet};
use switch::frame::Frame;
use switch::io::Io;
use switch::mac::MacAddr;
use switch::parse::PROTO_TCP;
use switch::policy::{Desk, Here};
use switch::port::PortId;
use switch::snapshot::View;
use switch::tick::Tick;
use switch::verdict::Task;

use crate::listing::{Clerk, Window};

/// Descriptors that are not the uplink's flows: TAPs and their twins, published l4 ports, the control socket and its
/// clients.
const OTHERS: u64 = 4096 + crate::config::MAX_PUBLISHED as u64;

/// Where the uplink's current settings are found.
pub type Configured = Arc<ArcSwap<Settings>>;

/// The sockets uplink of one worker.
pub struct Uplink {
    sockets: Sockets,
    /// The generation of the snapshot that its flows were judged by.
    judged: u64,
    settings: Cache<Configured, Arc<Settings>>,
    /// The generation of what was taken in last.
    configured: u64,
    clerk: Clerk,
}

/// Where frames of the uplink go.
pub struct Out<'a, 'd, I> {
    /// The worker's desk.
    pub desk: &'a mut Desk<'d, I>,
    /// Who writes ICMP errors.
    pub router: &'a mut Service,
    /// The configuration.
    pub snapshot: View<'a, Tables>,
    /// The time of the batch.
    pub now: Tick,
    /// The packet in hand, if there is one.
    pub frame: Option<&'a Frame>,
}

impl<I: Io> Emit for Out<'_, '_, I> {
    fn frame(&self) -> &[u8] {
        self.frame.map(|frame| self.desk.bytes(frame)).unwrap_or_default()
    }

    fn emit(&mut self, port: PortId, fill: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), DropReason> {
        self.desk.emit(port, fill)
    }

    fn may_open(&self, packet: &Packet) -> bool {
        self.snapshot.tables.may_open(packet.meta.port, packet)
    }

    fn failed(&mut self, (port, mac): (PortId, MacAddr), fault: Fault, from: Option<IpAddr>, quoted: &[u8]) {
        let problem = match fault {
            Fault::Unreachable(why) => service::problem(why),
            Fault::TooBig { mtu } => Problem::TooBig { mtu },
            Fault::Expired => Problem::TimeExceeded,
            Fault::Incomplete => Problem::Incomplete,
        };
        let from: Option<Ipv6Addr> = from.map(|from| match from {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        });
        self.router.report(problem, from, quoted, (mac, port), self.snapshot, self.now, self.desk);
    }
}

impl Uplink {
    /// An uplink of one of so many workers, with its part of the flows that the limit of descriptors allows, which is
    /// raised as far as it may be.
    ///
    /// # Errors
    /// What the kernel said.
    ///
    /// # Syscalls
    /// `prlimit64`; those of [`Sockets::new`]
    pub fn new(
        settings: Configured,
        window: Arc<Window>,
        workers: usize,
        now: Tick,
    ) -> std::io::Result<Self> {
        let limit = getrlimit(Resource::Nofile);
        let most = limit.maximum.unwrap_or(1 << 20).min(1 << 20);
        // Where it may not be raised the lower one counts.
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum });
        let descriptors = if raised.is_ok() { most } else { limit.current.unwrap_or(1024) };
        let all = Limits::default();
        let flows = u32::try_from(descriptors.saturating_sub(OTHERS)).unwrap_or(u32::MAX);
        let share = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        let flows = (all.flows.min(flows.max(256)) / share).max(1);
        let limits = Limits { flows, flows_per_port: all.flows_per_port.min(flows / 2), ..all };
        Ok(Self {
            sockets: Sockets::new(limits, now)?,
            settings: Cache::new(settings),
            configured: 0,
            judged: 0,
            clerk: Clerk::new(window),
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

    /// Whether nothing of a port is here. What is published for it is not by then: whoever asks has taken that away
    /// before.
    pub fn may_leave(&mut self, port: PortId) -> bool {
        self.configure();
        self.sockets.used(port) == 0
    }

    /// Says what there is to whoever asks: once a batch. Returns whether there is more to say.
    pub fn tell(&mut self, now: Tick) -> bool {
        self.clerk.work(&self.sockets, now)
    }

    /// The most flows there may be, by this process's limit of descriptors.
    pub fn most(&self) -> u32 {
        self.sockets.most()
    }

    /// Whether the packet belongs to a flow, or may: of a fragment that is known when its packet is whole.
    pub fn has(&self, packet: &Packet) -> bool {
        packet.meta.fragment != Fragment::No || self.sockets.has(&packet.key)
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

    /// Ends what containers have opened and may not have any more under this configuration, once for each.
    pub fn judge<I: Io>(&mut self, out: &mut Out<'_, '_, I>) {
        if self.judged == out.snapshot.generation {
            return;
        }
        self.judged = out.snapshot.generation;
        let (snapshot, now) = (out.snapshot, out.now);
        let may = |port: PortId, key: &FlowKey| {
            let tables = &snapshot.tables;
            let gateway = snapshot.port(port).and_then(|port| tables.gateway(port.network));
            let way = gateway.is_some_and(|it| if it.has(key.dst) { it.loopback } else { it.uplink });
            way && tables.egress(port).is_none_or(|rules| egress::allows_key(rules, key))
        };
        self.sockets.end_unless(may, now, out);
    }

    /// A packet leaves by the uplink. Says what the router must answer, if it leads nowhere.
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
    ) -> Result<Option<Task>, DropReason> {
        let tables = &here.snapshot.tables;
        let gateway = tables.gateway(here.id).ok_or(DropReason::NoRoute)?;
        // A client of a published l4 port may stand behind the gateway's address, too.
        let way = match (gateway.has(packet.key.dst), gateway.loopback) {
            (false, _) => Way::Out,
            (true, true) => Way::Loopback,
            (true, false) => Way::Known,
        };
        let link = Link {
            port: packet.meta.port,
            mac: packet.meta.src,
            gateway_mac: gateway.mac,
            mtu: u16::try_from(here.network.mtu).unwrap_or(u16::MAX),
        };
        let mut out = Out { desk, router, snapshot: here.snapshot, now: here.now, frame: Some(frame) };
        match self.sockets.packet(packet, &link, way, here.now, &mut out) {
            Outcome::Taken => Ok(None),
            Outcome::Unreachable(why) => Ok(Some(Task::Unreachable(why))),
            Outcome::TooBig { mtu } => Ok(Some(Task::TooBig { mtu })),
            // RFC 5508 section 6: who asks for more than there is is told. TCP was, by a RST.
            Outcome::Dropped(reason @ (DropReason::UplinkQuota | DropReason::UplinkError)) => {
                if packet.key.proto != PROTO_TCP {
                    router.refuse(reason, frame, packet, here, desk);
                }
                Err(reason)
            }
            Outcome::Dropped(reason) => Err(reason),
        }
    }
}
