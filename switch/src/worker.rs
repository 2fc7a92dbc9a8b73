//! A worker: takes frames through the eight hops, to completion, and shares nothing on the way.

use std::io;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use crate::admit::admit;
use crate::apply::apply;
use crate::drop::DropReason;
use crate::flow::Packet;
use crate::frame::{Frame, Pool};
use crate::io::{Batch, Io, Wait};
use crate::learn::learn;
use crate::parse::parse;
use crate::snapshot::{Network, Snapshot};
use crate::stats::Counters;
use crate::tick::Tick;
use crate::track::{Storm, track};
use crate::tx;
use crate::verdict::Verdict;

/// A worker over the devices of `I`, with decisions by `D`.
///
/// # Threads
/// Lives on one thread. What it shares: the snapshot (immutable, loaded once a batch), the FDBs in it (lock-free) and
/// its counters (only it writes them).
pub struct Worker<I, D> {
    /// Its devices.
    pub io: I,
    pool: Pool,
    batch: Batch,
    snapshot: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    counters: Arc<Counters>,
    storm: Storm,
    decide: D,
}

impl<I: Io, D: Fn(&Packet, &Network) -> Verdict> Worker<I, D> {
    /// A worker with a pool of `slots` frames, for ports `0..ports`.
    pub fn new(io: I, slots: u16, ports: usize, snapshot: Arc<ArcSwap<Snapshot>>, decide: D) -> Self {
        Self {
            io,
            pool: Pool::new(slots),
            batch: Batch::new(),
            snapshot: Cache::new(snapshot),
            counters: Arc::new(Counters::new(ports)),
            storm: Storm::new(ports),
            decide,
        }
    }

    /// Its counters, to be read by anybody.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// One batch through all hops. Returns how many frames it held.
    ///
    /// # Errors
    /// When the I/O engine itself is broken.
    pub fn step(&mut self, wait: Wait) -> io::Result<usize> {
        let Self { io, pool, batch, snapshot, counters, storm, decide } = self;
        let now = io.rx(pool, batch, wait)?; // 1. rx
        let mut hops = Hops { io, pool, counters, storm, decide, now, snapshot: snapshot.load() };
        let frames = batch.frames.len() + batch.lost.len();
        for (port, reason) in batch.lost.drain(..) {
            hops.counters.worker.rx.add(1);
            hops.counters.drop_frame(port, reason);
        }
        for frame in batch.frames.drain(..) {
            if let Err(reason) = hops.take(&frame) {
                hops.counters.drop_frame(frame.port, reason);
            }
            hops.pool.release(&frame);
        }
        hops.finish(frames);
        Ok(frames)
    }
}

/// What the hops of one batch use: one snapshot, one time.
struct Hops<'a, I, D> {
    io: &'a mut I,
    pool: &'a mut Pool,
    counters: &'a Counters,
    storm: &'a mut Storm,
    decide: &'a D,
    now: Tick,
    snapshot: &'a Snapshot,
}

impl<I: Io, D: Fn(&Packet, &Network) -> Verdict> Hops<'_, I, D> {
    /// Takes one frame through the hops after `rx`. A frame is delivered, or has a reason why not.
    fn take(&mut self, frame: &Frame) -> Result<(), DropReason> {
        self.counters.worker.rx.add(1);
        if let Some(port) = self.counters.port(frame.port) {
            port.rx_frames.add(1);
            port.rx_bytes.add(frame.len() as u64);
        }
        let port = self.snapshot.port(frame.port).ok_or(DropReason::PortGone)?;
        let network = self.snapshot.network(port.network).ok_or(DropReason::PortGone)?;

        let packet = parse(self.pool.bytes(frame), &self.pool.vnet(frame), frame.port, network.zone)?; // 2. parse
        admit(&packet, port, network)?; // 3. admit
        learn(&packet.meta, network, self.now, &self.counters.worker); // 4. learn
        let verdict = (self.decide)(&packet, network); // 5. decide
        match track(verdict, &packet.meta, network, self.storm, self.now) // 6. track
        {
            Verdict::Drop(reason) => return Err(reason),
            Verdict::Forward(action) => {
                // An entry may name a port that moved to another network since it was learned: no frame follows it.
                let there = self.snapshot.port(action.out).is_some_and(|out| out.network == port.network);
                if !there {
                    return Err(DropReason::StaleEntry);
                }
                apply(&packet.meta, self.pool, frame); // 7. apply
                tx::forward(self.io, self.pool, frame, &packet.meta, action.out, self.counters); // 8. tx
            }
            Verdict::Flood => {
                apply(&packet.meta, self.pool, frame); // 7. apply
                tx::flood(self.io, self.pool, frame, &packet.meta, network, self.counters); // 8. tx
            }
        }
        Ok(())
    }

    fn finish(&mut self, frames: usize) {
        self.io.flush(self.pool);
        if frames > 0 {
            self.counters.worker.batches.add(1);
        }
        let stats = self.io.take_stats();
        self.counters.worker.wakeups.add(stats.wakeups);
        self.counters.worker.segmented.add(stats.segmented);
    }
}
