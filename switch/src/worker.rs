//! A worker: takes frames through the eight hops, to completion, and shares nothing on the way.

use std::io;
use std::sync::Arc;

use arc_swap::Cache;

use crate::admit::{admit, l3_len};
use crate::apply::apply;
use crate::books::Books;
use crate::drop::DropReason;
use crate::flow::{Body, Packet};
use crate::frame::{Frame, Pool};
use crate::groups::Groups;
use crate::io::{BATCH, Batch, Eye, Io, Lost, Wait};
use crate::learn::learn;
use crate::parse::parse;
use crate::policy::{Desk, Fate, Here, Policy};
use crate::port::PortId;
use crate::snapshot::{Network, Owner, Published, Snapshot};
use crate::stats::Counters;
use crate::tick::Tick;
use crate::track::{Storm, track};
use crate::tx;
use crate::verdict::{Action, Task, Verdict};

/// A worker over the devices of `I`, with the decisions and services of `P`.
///
/// # Threads
/// Lives on one thread. What it shares: the snapshot (immutable, loaded once a batch), the FDBs in it (lock-free) and
/// its counters (only it writes them).
pub struct Worker<I, P: Policy> {
    /// Its devices.
    pub io: I,
    pool: Pool,
    batch: Batch,
    /// Frames that were held and go on.
    released: Vec<Frame>,
    snapshot: Cache<Published<P::Tables>, Arc<Snapshot<P::Tables>>>,
    books: Books,
    storm: Storm,
    policy: P,
    /// The policy has more to do.
    more: bool,
}

impl<I: Io, P: Policy> Worker<I, P> {
    /// A worker with a pool of `slots` frames, for ports `0..ports`.
    pub fn new(io: I, slots: u16, ports: usize, snapshot: Published<P::Tables>, policy: P) -> Self {
        Self {
            io,
            pool: Pool::new(slots),
            batch: Batch::new(),
            released: Vec::with_capacity(BATCH),
            snapshot: Cache::new(snapshot),
            books: Books::new(ports),
            storm: Storm::new(ports),
            policy,
            more: false,
        }
    }

    /// Its counters, to be read by anybody.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.books.counters
    }

    /// Slots of the pool that nobody has.
    pub fn free_slots(&self) -> usize {
        self.pool.available()
    }

    /// One batch through all hops, sleeping first if told so and if nothing is there, at most until the policy has
    /// something to do. Returns how many frames it held.
    ///
    /// # Errors
    /// When the I/O engine itself is broken.
    pub fn step(&mut self, wait: Wait) -> io::Result<usize> {
        let wait = match (wait, self.policy.deadline()) {
            (Wait::Sleep, _) if self.more => Wait::Poll,
            (Wait::Sleep, Some(deadline)) => Wait::Until(deadline),
            (wait, _) => wait,
        };
        let Self { io, pool, batch, released, snapshot, books, storm, policy, more } = self;
        let now = io.rx(pool, batch, wait)?; // 1. rx
        let mut hops = Hops { io, pool, books, storm, policy, released, now, snapshot: snapshot.load() };
        let frames = batch.frames.len() + batch.lost.len();
        for port in batch.gone.drain(..) {
            let snapshot = hops.snapshot;
            let (policy, mut desk) = hops.desk();
            policy.forget(port, snapshot, now, &mut desk);
        }
        for port in batch.rested.drain(..) {
            let may_leave = hops.policy.may_leave(port);
            hops.io.rested(port, may_leave);
        }
        for Lost { port, reason, count } in batch.lost.drain(..) {
            hops.books.counters.worker.rx.add(count);
            hops.books.counters.drop_frames(port, reason, count);
        }
        for frame in batch.frames.drain(..) {
            hops.books.counters.worker.rx.add(1);
            if let Some(port) = hops.books.counters.port(frame.port) {
                port.rx_frames.add(1);
                port.rx_bytes.add(frame.len() as u64);
            }
            hops.finish_frame(frame);
        }
        *more = hops.finish(frames, batch.watched[Eye::Policy as usize]);
        Ok(frames)
    }
}

/// What the hops of one batch use: one snapshot, one time.
struct Hops<'a, I, P: Policy> {
    io: &'a mut I,
    pool: &'a mut Pool,
    books: &'a mut Books,
    storm: &'a mut Storm,
    policy: &'a mut P,
    released: &'a mut Vec<Frame>,
    now: Tick,
    snapshot: &'a Snapshot<P::Tables>,
}

impl<I: Io, P: Policy> Hops<'_, I, P> {
    fn finish_frame(&mut self, frame: Frame) {
        if let Err(reason) = self.take(&frame) {
            self.books.counters.drop_frame(frame.port, reason);
        }
        self.pool.release(&frame);
    }

    /// Takes one frame through the hops after `rx`. A frame is delivered, or has a reason why not.
    fn take(&mut self, frame: &Frame) -> Result<(), DropReason> {
        let port = self.snapshot.port(frame.port).ok_or(DropReason::PortGone)?;
        let network = self.snapshot.network(port.network).ok_or(DropReason::PortGone)?;
        let here = Here { snapshot: self.snapshot.view(), id: port.network, network, now: self.now };

        let mut packet = parse(self.pool.bytes(frame), &self.pool.vnet(frame), frame.port, network.zone)?; // 2. parse
        admit(&mut packet, port, network)?; // 3. admit
        learn(&packet.meta, (port, &here), &self.books.counters.worker); // 4. learn
        if let (Body::Group(_), Some(groups)) = (&packet.meta.body, &network.groups) {
            self.learn_groups(groups, frame, &packet, &here);
        }
        let verdict = self.policy.decide(&packet, &here); // 5. decide
        let verdict = self.policy.track(verdict, &packet, &here);
        let verdict = track(verdict, &packet.meta, network, self.storm, self.now); // 6. track
        match verdict {
            Verdict::Drop(reason) => return Err(reason),
            Verdict::Forward(action) => {
                self.forward(&action, frame, &mut packet, &here)?;
                if action.hop.is_some_and(|hop| hop.ask.is_some()) {
                    let (policy, mut desk) = self.desk();
                    policy.ask(&verdict, &here, &mut desk);
                }
            }
            Verdict::Flood if self.is_heard_here(&packet, network) => self.books.counters.worker.local.add(1),
            Verdict::Flood => {
                let frame = apply(None, &mut packet.meta, self.pool, frame, P::edit)?; // 7. apply
                tx::flood(
                    self.io,
                    self.pool,
                    &frame,
                    &packet,
                    (network, self.snapshot.view().bare()),
                    self.books,
                ); // 8. tx
            }
            Verdict::Local(task) => self.serve(task, frame, &packet, &here)?,
        }
        Ok(())
    }

    /// The fourth hop for what a message says of groups.
    #[cold]
    fn learn_groups(&mut self, groups: &Groups, frame: &Frame, packet: &Packet, here: &Here<'_, P::Tables>) {
        // The gateway is on every host, and each asks by itself: the one of another host is no router that is behind it.
        let remote = self.snapshot.port(packet.meta.port).is_some_and(|from| from.remote.is_some());
        if remote && here.network.claims.macs.get(&packet.meta.src) == Some(&Owner::Gateway) {
            return;
        }
        let learned = groups.learn(self.pool.bytes(frame), packet, self.now);
        self.books.counters.worker.unlearned.add(learned.refused);
        if !learned.left().is_empty() {
            let (policy, mut desk) = self.desk();
            policy.left(learned.left(), packet, here, &mut desk);
        }
    }

    /// A report of groups that neither a multicast router nor another host wants to hear of was for the switch alone.
    fn is_heard_here(&self, packet: &Packet, network: &Network) -> bool {
        let remote = |port: &PortId| self.snapshot.port(*port).is_some_and(|it| it.remote.is_some());
        matches!(&packet.meta.body, Body::Group(said) if said.kind.is_report())
            && packet.meta.dst.is_group()
            && packet.meta.inner_vlan.is_none()
            && network.groups.as_ref().is_some_and(|groups| groups.is_without_routers())
            && !network.members.iter().any(remote)
    }

    /// To one port, if what is known of it still holds.
    fn forward(
        &mut self,
        action: &Action,
        frame: &Frame,
        packet: &mut Packet,
        here: &Here<'_, P::Tables>,
    ) -> Result<(), DropReason> {
        // An entry may name a port that moved to another network since it was learned: no frame follows it.
        let there = action.hop.map_or(here.id, |hop| hop.network);
        let known = self.snapshot.port(action.out).filter(|out| out.network == there);
        let (out, to) = known.zip(self.snapshot.network(there)).ok_or(DropReason::StaleEntry)?;
        if !to.claims.may_reach(action.out, packet) {
            return Err(DropReason::NotForHost);
        }
        let from = self.snapshot.port(packet.meta.port);
        if out.remote.is_some() && action.hop.is_none() && from.is_some_and(|from| from.remote.is_some()) {
            return Err(DropReason::SplitHorizon);
        }
        // What is routed was cut, or its sender told, by who decided that.
        if let Some(mtu) = out.remote.and_then(|there| there.mtu)
            && action.hop.is_none()
            && l3_len(&packet.meta) > mtu
        {
            return self.serve(Task::TooBig { mtu }, frame, packet, here);
        }
        // The gateway is no way around it: what it routes back into the network they are both on is stopped as well.
        if out.isolated && there == here.id && from.is_some_and(|from| from.isolated) {
            return Err(DropReason::Isolated);
        }
        let (hop, meta) = (action.hop.as_ref(), &mut packet.meta);
        if let Some(task) = fragments(action) {
            // Of what is done to a frame its tag goes here; the rest is done to each fragment.
            let frame = apply(hop, meta, self.pool, frame, |_, _, _| Ok(()))?;
            return self.serve(task, &frame, packet, here);
        }
        let frame = apply(hop, meta, self.pool, frame, P::edit)?; // 7. apply
        if hop.is_some() {
            meta.vid = to.vlan;
        }
        // Booked there, one way or the other.
        let _ = tx::forward(self.io, self.pool, &frame, meta, (action.out, out), self.books); // 8. tx
        Ok(())
    }

    fn serve(
        &mut self,
        task: Task,
        frame: &Frame,
        packet: &Packet,
        here: &Here<'_, P::Tables>,
    ) -> Result<(), DropReason> {
        let (policy, mut desk) = self.desk();
        match policy.serve(task, frame, packet, here, &mut desk)? {
            Fate::Local => self.books.counters.worker.local.add(1),
            Fate::Held => self.books.counters.worker.held.add(1),
        }
        Ok(())
    }

    fn desk(&mut self) -> (&mut P, Desk<'_, I>) {
        let view = self.snapshot.view().bare();
        let desk = Desk { io: self.io, pool: self.pool, books: self.books, released: self.released, view };
        (self.policy, desk)
    }

    /// The end of a batch. Whether the policy has more to do.
    fn finish(&mut self, frames: usize, watched: bool) -> bool {
        if self.policy.deadline().is_some_and(|deadline| deadline <= self.now) {
            let (snapshot, now) = (self.snapshot, self.now);
            let (policy, mut desk) = self.desk();
            policy.due(snapshot, now, &mut desk);
        }
        let (snapshot, now) = (self.snapshot, self.now);
        let (policy, mut desk) = self.desk();
        let more = policy.flush(watched, snapshot, now, &mut desk);
        // Oldest first, as they came. What is released by these has its turn in the next batch: no frame goes round and round
        // while others wait.
        let count = self.released.len();
        for next in 0..count {
            let Some(frame) = self.released.get(next).copied() else { break };
            self.books.counters.worker.released.add(1);
            self.finish_frame(frame);
        }
        self.released.drain(..count);
        let more = more || !self.released.is_empty();
        self.io.flush(self.pool, self.books);
        if frames > 0 {
            self.books.counters.worker.batches.add(1);
        }
        let stats = self.io.take_stats();
        self.books.counters.worker.wakeups.add(stats.wakeups);
        self.books.counters.worker.spins.add(stats.spins);
        self.books.counters.worker.segmented.add(stats.segmented);
        more
    }
}

/// A packet that goes on in fragments is many frames: they are made and sent by the policy.
fn fragments(action: &Action) -> Option<Task> {
    let hop = action.hop?;
    Some(Task::Fragment { out: action.out, hop, mtu: hop.cut? })
}
