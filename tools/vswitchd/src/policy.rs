//! The way of a packet, on one page.
//!
//! ```text
//!  1 rx      switch::io      a batch of frames, from TAPs
//!  2 parse   switch::parse   bytes -> FlowKey + Meta; the only place that reads untrusted lengths
//!  3 admit   switch::admit   VLAN, reserved addresses, MTU, spoofing: what is not admitted teaches us nothing
//!  4 learn   switch::learn   source MAC -> port, written only when it changed; who listens to which group
//!  5 decide  this page       key + meta + tables -> Verdict; pure
//!  6 track   switch::track   commits state: the flood budget, what may come back, connections
//!  7 apply   switch::apply   edits bytes: tags, then TTL, MACs, addresses and l4 ports by this page
//!  8 tx      switch::tx      into the out port, or ports, with or without the tag of its VLAN
//! ```
//!
//! [`switch::worker`] is the loop that calls them. What is decided here reads as a list, in the order in which it is
//! asked; translation stands in it (dnat and conntrack, snat: [`crate::translate`]). Another host is a port like any other
//! ([`vxlan::overlay`]): it is tx that makes datagrams of a frame. What leaves by the sockets uplink is given to
//! [`crate::uplink`]; what a gateway does itself (ARP, neighbour discovery, ICMP, packets that wait) is out of line, in
//! [`router::service`].

use std::net::Ipv6Addr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nat::rewrite::rewrite;
use nat::waiting::Waiting;
use router::explain::Step;
use router::route::{self, Way};
use router::service::Service;
use router::{forward, mss, options};
use switch::decide::bridge;
use switch::drop::DropReason;
use switch::flow::{Fragment, Meta, Packet};
use switch::frame::Frame;
use switch::io::{BATCH, Io};
use switch::mac::MacAddr;
use switch::news::News;
use switch::policy::{Desk, Fate, Here, Policy};
use switch::port::{NetworkId, PortId};
use switch::punt::Punt;
use switch::snapshot::Snapshot;
use switch::tick::Tick;
use switch::verdict::{Action, Hop, Task, Unreachable, Verdict};

use crate::tables::{Tables, routed, routes};
use crate::translate;
use crate::uplink::{Out, Uplink};

/// The house: all rooms together, in one worker.
pub struct House {
    router: Service,
    /// Fragments that came before the first of their packet.
    waiting: Waiting,
    uplink: Option<Uplink>,
    punt: Option<Arc<Punt>>,
    /// What the control plane has for containers is this worker's to send.
    sends: bool,
}

/// Fifth hop: what is to happen with `packet`, and `why`. Changes nothing, sees no bytes.
pub fn decide(packet: &Packet, here: &Here<'_, Tables>, why: &mut impl FnMut(Step)) -> Verdict {
    // For a gateway? Then by whom: source, fib.
    match route::route(packet, &routed(here), why) {
        // Where does its MAC live?
        Way::Bridge => bridge(&packet.meta, here.network),
        // On to the next hop. Does it leave with another address? Conntrack, snat.
        Way::To(next) => translate::leave(packet, &next, here, why),
        // For us, or for whom an address of ours stands? Dnat, conntrack.
        Way::Ours => {
            translate::enter(packet, here, why).unwrap_or_else(|| route::local(packet, &routed(here), why))
        }
        Way::Decided(verdict) => verdict,
    }
}

/// What may come back by a way that may not be opened. Whether it is the first fragment of a packet, whose others may go
/// on.
fn expect(verdict: &Verdict, packet: &Packet, here: &Here<'_, Tables>) -> bool {
    let Some(returns) = &here.snapshot.tables.router.returns else { return false };
    let (key, meta) = (&packet.key, &packet.meta);
    let (goes, opens) = match verdict {
        Verdict::Forward(Action { hop: Some(hop), .. }) => (true, hop.opens),
        Verdict::Local(Task::Hold { .. }) => (true, false),
        _ => (false, false),
    };
    // Without room the packet goes all the same; it is the answer that will be refused, by name.
    // A later fragment has no l4 ports that an answer could have.
    if opens && meta.fragment != Fragment::Later {
        returns.expect(key, meta.port, here.now);
    }
    goes && meta.fragment == Fragment::First
        && returns.expect_rest(key, meta.fragment_id, meta.port, here.now)
}

/// Who answers on a port for the gateway of `network`, if it is a port of that network.
fn gateway_mac(snapshot: &Snapshot<Tables>, port: PortId, network: NetworkId) -> Option<MacAddr> {
    let known = snapshot.port(port)?;
    (known.network == network)
        .then(|| snapshot.tables.router.gateway(network))
        .flatten()
        .map(|gateway| gateway.mac)
}

impl House {
    /// For ports `0..ports`, with a way out or without one.
    pub fn new(ports: usize, uplink: Option<Uplink>) -> Self {
        Self { router: Service::new(ports), waiting: Waiting::default(), uplink, punt: None, sends: true }
    }

    /// In worker `me` of several: what gateways and the control plane say of themselves is the first one's to send.
    pub fn beside(ports: usize, uplink: Option<Uplink>, news: Arc<News>, me: usize) -> Self {
        Self { router: Service::beside(ports, news, me), sends: me == 0, ..Self::new(0, uplink) }
    }

    /// With the control plane behind it for names and addresses.
    #[must_use]
    pub fn with_services(self, punt: Arc<Punt>) -> Self {
        Self { punt: Some(punt), ..self }
    }

    /// The descriptor that the I/O engine must have an eye on.
    pub fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.uplink.as_ref().map(Uplink::poll_fd)
    }
}

impl Policy for House {
    type Tables = Tables;

    fn decide(&self, packet: &Packet, here: &Here<'_, Tables>) -> Verdict {
        decide(packet, here, &mut |_| ())
    }

    fn track(&mut self, mut verdict: Verdict, packet: &Packet, here: &Here<'_, Tables>) -> Verdict {
        if let Verdict::Forward(action) = &mut verdict
            && action.hop.is_some_and(|hop| hop.nat.is_some())
        {
            if let Err(reason) = translate::commit(action, packet, here) {
                return translate::refused(reason);
            }
            if packet.meta.fragment == Fragment::First {
                self.waiting.first_came(packet);
            }
            return verdict;
        }
        if verdict == Verdict::Local(Task::Reassemble) && packet.meta.fragment == Fragment::First {
            translate::is_for_us(packet, here);
            self.waiting.first_came(packet);
        }
        if verdict == Verdict::Drop(DropReason::NatFiltered) {
            translate::went_out(packet, here);
        }
        if expect(&verdict, packet, here) {
            self.waiting.first_came(packet);
        }
        verdict
    }

    fn edit(hop: &Hop, meta: &Meta, frame: &mut [u8]) -> Result<(), DropReason> {
        // RFC 1812 section 5.2.2: a bridge has no business with it, a router must look.
        if !forward::header_verifies(frame, meta) {
            return Err(DropReason::BadChecksum);
        }
        if let Some(mtu) = hop.shrinks {
            mss::clamp(frame, meta, mtu);
        }
        if let Some(nat) = &hop.nat {
            rewrite(frame, meta, nat)?;
        }
        if let Some(stamp) = &hop.stamp {
            options::record(frame, meta, stamp);
        }
        if forward::rewrite(frame, meta, hop.src, hop.dst) { Ok(()) } else { Err(DropReason::TtlExceeded) }
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
        match (task, &mut self.uplink) {
            // A gateway stands in for clients that the container is not shown.
            (Task::Uplink | Task::Unreachable(Unreachable::Port), Some(uplink))
                if task == Task::Uplink || uplink.has(packet) =>
            {
                match uplink.packet(frame, packet, here, &mut self.router, desk)? {
                    Some(task) => self.router.serve(task, frame, packet, here, desk),
                    None => Ok(Fate::Local),
                }
            }
            (Task::AwaitFirst, _) if self.waiting.keep(packet, desk.bytes(frame), here.now) => Ok(Fate::Held),
            (Task::Fragment { hop: Hop { nat: Some(nat), .. }, .. }, _) => {
                translate::whole(frame, packet, &nat, desk)?;
                self.router.serve(task, frame, packet, here, desk)
            }
            (Task::Punt(service), _) => {
                let punt = self.punt.as_ref().ok_or(DropReason::NoService)?;
                punt.up(service, frame, packet, here.id, desk)
            }
            (task, _) => self.router.serve(task, frame, packet, here, desk),
        }
    }

    fn left<I: Io>(
        &mut self,
        groups: &[Ipv6Addr],
        packet: &Packet,
        here: &Here<'_, Tables>,
        desk: &mut Desk<'_, I>,
    ) {
        self.router.left(groups, packet, &routed(here), desk);
    }

    fn forget<I: Io>(
        &mut self,
        port: PortId,
        snapshot: &Snapshot<Tables>,
        now: Tick,
        desk: &mut Desk<'_, I>,
    ) {
        self.router.forget(port, desk);
        while self.waiting.forget(port) {
            desk.give_up_copy(port, DropReason::PortGone);
        }
        if let Some(punt) = &self.punt {
            punt.forget(port);
        }
        if let Some(uplink) = &mut self.uplink {
            uplink.sockets().forget(
                port,
                now,
                &mut Out { desk, router: &mut self.router, snapshot: routes(snapshot), now, frame: None },
            );
        }
    }

    fn may_leave(&mut self, port: PortId) -> bool {
        // Its connections' sockets are here.
        self.uplink.as_mut().is_none_or(|uplink| uplink.may_leave(port))
    }

    fn flush<I: Io>(
        &mut self,
        watched: bool,
        snapshot: &Snapshot<Tables>,
        now: Tick,
        desk: &mut Desk<'_, I>,
    ) -> bool {
        self.router.follow(routes(snapshot), now, desk);
        while let Some((port, bytes)) = self.waiting.next_ready() {
            if !desk.resume_copy(port, bytes) {
                desk.give_up_copy(port, DropReason::NatFragment);
            }
        }
        let mut more = false;
        if let Some(punt) = &self.punt {
            punt.ring();
            more = self.sends && punt.down(BATCH, desk, |port, network| gateway_mac(snapshot, port, network));
        }
        let Some(uplink) = &mut self.uplink else { return more };
        uplink.configure();
        let snapshot = routes(snapshot);
        let mut out = Out { desk, router: &mut self.router, snapshot, now, frame: None };
        uplink.judge(&mut out);
        more |= uplink.sockets().flush(now, &mut out);
        more |= watched && uplink.sockets().ready(now, &mut out);
        uplink.tell(now) | more
    }

    fn ask<I: Io>(&mut self, verdict: &Verdict, here: &Here<'_, Tables>, desk: &mut Desk<'_, I>) {
        self.router.ask(verdict, &routed(here), desk);
    }

    fn deadline(&self) -> Option<Tick> {
        let of_uplink = self.uplink.as_ref().and_then(Uplink::deadline);
        self.router.deadline().into_iter().chain(of_uplink).chain(self.waiting.deadline()).min()
    }

    fn due<I: Io>(&mut self, snapshot: &Snapshot<Tables>, now: Tick, desk: &mut Desk<'_, I>) {
        let snapshot = routes(snapshot);
        self.router.due(snapshot, now, desk);
        while let Some(port) = self.waiting.overdue(now) {
            desk.give_up_copy(port, DropReason::NatFragment);
        }
        if let Some(uplink) = &mut self.uplink {
            uplink
                .sockets()
                .timers(now, &mut Out { desk, router: &mut self.router, snapshot, now, frame: None });
        }
    }
}
