//! A worker that takes one frame through the hops and changes nothing but copies.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::tables::{Tables, routed};
use arc_swap::ArcSwap;
use router::explain::Step;
use router::forward::header_verifies;
use router::neighbor::Neighbors;
use router::service::Service;
use switch::admit::admit;
use switch::drop::DropReason;
use switch::fdb::Fdb;
use switch::flow::{Meta, Packet};
use switch::frame::Frame;
use switch::groups::Groups;
use switch::io::{Io, Wait};
use switch::parse::parse;
use switch::policy::{Desk, Fate, Here, Policy};
use switch::port::{NetworkId, PortId};
use switch::punt::Punt;
use switch::snapshot::Snapshot;
use switch::stats::Counter;
use switch::table::TableError;
use switch::tick::Tick;
use switch::verdict::{Hop, Task, Unreachable, Verdict};
use switch::vnet::VnetHdr;
use switch::worker::Worker;
use vxlan::settings::Settings;

use super::devices::{Devices, Tunnelled};
use crate::policy::{self, House};

/// Frame buffers: the frame, one that waits, and one that is being made.
const SLOTS: u16 = 8;

/// What would become of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The port it came by.
    pub port: PortId,
    /// Its network.
    pub network: NetworkId,
    /// What the parser said.
    pub packet: Result<Packet, DropReason>,
    /// Whether it was admitted, where it could be parsed.
    pub admitted: Option<Result<(), DropReason>>,
    /// Where its source MAC was before, and where it is after it was learned.
    pub learned: Option<(Option<PortId>, Option<PortId>)>,
    /// The steps of the decision; none where it came to none.
    pub steps: Vec<Step>,
    /// The decision.
    pub verdict: Option<Verdict>,
    /// Why it was dropped, if it was.
    pub drop: Option<DropReason>,
    /// It waits.
    pub held: bool,
    /// What came out, by which port. All that was made here where the verdict is neither to forward nor to flood.
    pub out: Vec<(PortId, VnetHdr, Vec<u8>)>,
    /// What was for other hosts, and what it became, in the order in which it came out.
    pub tunnelled: Vec<Tunnelled>,
}

/// Takes `frame` through the hops as if `port`'s container, or the other host that it is, had sent it, with the other hosts
/// of `overlay`; `None`: there is no such port.
///
/// # Errors
/// No memory for a copy of the network's tables.
pub fn run(
    snapshot: &Snapshot<Tables>,
    overlay: &Arc<Settings>,
    port: PortId,
    vnet: &VnetHdr,
    frame: &[u8],
    now: Tick,
) -> Result<Option<Run>, TableError> {
    let Some(network) = snapshot.port(port).map(|port| port.network) else { return Ok(None) };
    let next = next_network(snapshot, port, vnet, frame, now);
    let copy = Arc::new(ArcSwap::from_pointee(copy(snapshot, network, next)?));
    let seen = Rc::new(RefCell::new(Seen::default()));
    let ports = snapshot.ports.len();
    let dry = Dry { router: Service::new(ports), seen: Rc::clone(&seen) };
    let io = Devices::new(u16::try_from(ports).unwrap_or(u16::MAX), Arc::clone(overlay));
    let mut worker = Worker::new(io, SLOTS, ports, Arc::clone(&copy), dry);
    worker.io.mem.now = now;
    worker.io.mem.inject(port, vnet, frame);
    // Memory devices do not break, and there is one frame: it, and what waited for it to come.
    while worker.step(Wait::Poll).is_ok_and(|frames| frames > 0) {}
    let out = (0..ports).flat_map(|out| {
        let out = PortId(u16::try_from(out).unwrap_or(u16::MAX));
        worker.io.mem.take(out).into_iter().map(move |(vnet, bytes)| (out, vnet, bytes)).collect::<Vec<_>>()
    });
    let out = out.collect();
    let tunnelled = std::mem::take(&mut worker.io.tunnelled);
    let counters = &worker.counters().worker;
    let drop = DropReason::ALL.iter().copied().find(|reason| counted(counters.drops.get(*reason as usize)));
    let seen = seen.take();
    let packet = match (drop, snapshot.network(network)) {
        // What the buffer of a device does not hold never gets to the parser.
        (Some(reason @ DropReason::OversizedRead), _) => Err(reason),
        (_, Some(network)) => parse(frame, vnet, port, network.zone),
        (_, None) => Err(DropReason::PortGone),
    };
    let mut run = Run {
        port,
        network,
        packet,
        admitted: None,
        learned: None,
        steps: seen.steps,
        verdict: seen.verdict,
        drop,
        held: counters.held.get() > 0,
        out,
        tunnelled,
    };
    if let (Ok(packet), Some(from), Some(before)) =
        (&mut run.packet, snapshot.port(port), snapshot.network(network))
    {
        run.admitted = Some(admit(packet, from, before));
        let (vid, src) = (packet.meta.vid, packet.meta.src);
        let lookup = |fdb: &Fdb| fdb.lookup(vid, src);
        let after = copy.load().network(network).map(|network| lookup(&network.fdb));
        run.learned =
            after.filter(|_| run.admitted == Some(Ok(()))).map(|after| (lookup(&before.fdb), after));
    }
    Ok(Some(run))
}

fn counted(counter: Option<&Counter>) -> bool {
    counter.is_some_and(|counter| counter.get() > 0)
}

/// The network that the frame is routed to. What its source address teaches does not change that.
fn next_network(
    snapshot: &Snapshot<Tables>,
    port: PortId,
    vnet: &VnetHdr,
    frame: &[u8],
    now: Tick,
) -> Option<NetworkId> {
    let from = snapshot.port(port)?;
    let id = from.network;
    let network = snapshot.network(id)?;
    let mut packet = parse(frame, vnet, port, network.zone).ok()?;
    admit(&mut packet, from, network).ok()?;
    match policy::decide(&packet, &Here { snapshot: snapshot.view(), id, network, now }, &mut |_| ()) {
        Verdict::Forward(action) => action.hop.map(|hop| hop.network),
        _ => None,
    }
}

/// The same snapshot with tables of its own where a frame that comes in by `network` may write: its FDB, who its
/// gateway knows, and whom the gateway of the network that it goes on to asks.
fn copy(
    snapshot: &Snapshot<Tables>,
    network: NetworkId,
    next: Option<NetworkId>,
) -> Result<Snapshot<Tables>, TableError> {
    let mut copy = snapshot.clone();
    if let Some(Some(network)) = copy.networks.get_mut(network.index()) {
        let fdb = Fdb::new(network.fdb.capacity())?;
        network.fdb.copy_into(&fdb);
        network.fdb = Arc::new(fdb);
        if let Some(before) = &network.groups {
            let groups = Groups::new(before.capacity())?;
            before.copy_into(&groups);
            network.groups = Some(Arc::new(groups));
        }
    }
    for network in std::iter::once(network).chain(next.filter(|next| *next != network)) {
        let Some(Some(gateway)) = copy.tables.router.gateways.get_mut(network.index()) else { continue };
        let neighbors = Neighbors::new(gateway.neighbors.capacity())?;
        gateway.neighbors.copy_into(&neighbors);
        gateway.neighbors = Arc::new(neighbors);
    }
    Ok(copy)
}

/// What the policy saw.
#[derive(Default)]
struct Seen {
    steps: Vec<Step>,
    verdict: Option<Verdict>,
}

/// The policy of the house, but that it remembers why, expects nothing back and has no way out.
struct Dry {
    router: Service,
    seen: Rc<RefCell<Seen>>,
}

impl Policy for Dry {
    type Tables = Tables;

    fn decide(&self, packet: &Packet, here: &Here<'_, Tables>) -> Verdict {
        let mut seen = self.seen.borrow_mut();
        let Seen { steps, verdict } = &mut *seen;
        let decided = policy::decide(packet, here, &mut |step| steps.push(step));
        *verdict = Some(decided);
        decided
    }

    fn edit(hop: &Hop, meta: &Meta, frame: &mut [u8]) -> Result<(), DropReason> {
        House::edit(hop, meta, frame)
    }

    fn ask<I: Io>(&mut self, verdict: &Verdict, here: &Here<'_, Tables>, desk: &mut Desk<'_, I>) {
        self.router.ask(verdict, &routed(here), desk);
    }

    fn serve<I: Io>(
        &mut self,
        task: Task,
        frame: &Frame,
        packet: &Packet,
        here: &Here<'_, Tables>,
        desk: &mut Desk<'_, I>,
    ) -> Result<Fate, DropReason> {
        let here = &routed(here);
        match task {
            // The uplink judges it where the way out begins. What answers a client of a published l4 port is let out there:
            // its flows are the worker's, and are not looked at.
            Task::Uplink if !here.snapshot.tables.may_open(packet.meta.port, packet) => {
                let denied = Task::Unreachable(Unreachable::Egress);
                let mut seen = self.seen.borrow_mut();
                seen.steps.push(Step::Egress);
                seen.verdict = Some(Verdict::Local(denied));
                drop(seen);
                self.router.serve(denied, frame, packet, here, desk)
            }
            // Sockets of the host are beyond what can be tried without being done.
            Task::Uplink if header_verifies(desk.bytes(frame), &packet.meta) => Ok(Fate::Local),
            Task::Uplink => Err(DropReason::BadChecksum),
            // What waits for its first fragment is the worker's, and has room as far as can be said.
            Task::AwaitFirst => Ok(Fate::Held),
            // Into a queue that nobody reads.
            Task::Punt(service) => match Punt::new(here.snapshot.ports.len()) {
                Ok(punt) => punt.up(service, frame, packet, here.id, desk),
                Err(_) => Ok(Fate::Local),
            },
            task => self.router.serve(task, frame, packet, here, desk),
        }
    }
}
