//! The workers, as the control plane sees them, and which of them reads which port.
//!
//! Each port is read by one worker and written by all. A new port goes to whoever has fewest; at a reload, ports of those
//! who had most to do since the last one go to those who had least. A port that has connections by the sockets uplink
//! stays where it is: their sockets are that worker's.
//!
//! A port moves in steps, and is read by nobody in between, which its queue is for: it is taken out of what is published
//! for its worker, that worker stops to read it, and once nothing of it is left there the other one begins.

use std::sync::Arc;
use std::thread::JoinHandle;

use switch::drop::DropReason;
use switch::mailbox::{Command, Mailbox};
use switch::port::PortId;
use switch::stats::{Counter, Counters, PortSample};

use super::control::Control;
use super::ports::{PortRecord, Ports};
use crate::api::rows::WorkerRow;
use crate::config;

/// Most workers.
const MOST: usize = config::MAX_WORKERS as usize;
/// Bytes that cost as much as one frame does beside them: a super-frame of 64 KiB takes eight times as long as a small one.
const BYTES_OF_A_FRAME: u64 = 8 * 1024;
/// The part of all load by which the busiest worker may be ahead of the idlest: no port is moved for less.
const EVEN: u64 = 20;

/// One worker.
pub struct Worker {
    pub mailbox: Arc<Mailbox>,
    pub counters: Arc<Counters>,
    pub thread: JoinHandle<()>,
}

/// All workers; there is one at least.
pub struct Workers {
    all: Vec<Worker>,
    /// The mailbox of the first: what the control plane sends to containers goes by that one, and events come by any.
    first: Arc<Mailbox>,
}

impl Workers {
    /// These, of which `first` is the mailbox of the first.
    pub fn new(first: Arc<Mailbox>, all: Vec<Worker>) -> Self {
        Self { all, first }
    }

    /// The mailbox of the first one.
    pub fn first(&self) -> &Arc<Mailbox> {
        &self.first
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Tells each, which is worker `0..`. False: one does not listen.
    pub fn tell_all(&self, command: impl Fn(usize) -> Command) -> bool {
        let told = |(index, worker): (usize, &Worker)| worker.mailbox.tell(command(index)).is_ok();
        self.all.iter().enumerate().filter(|worker| !told(*worker)).count() == 0 // all are told, whatever one says
    }

    /// Tells one. False: it does not listen.
    pub fn tell(&self, worker: usize, command: Command) -> bool {
        self.all.get(worker).is_some_and(|worker| worker.mailbox.tell(command).is_ok())
    }

    /// Wakes all, so that they look at what was published.
    pub fn wake(&self) {
        self.all.iter().for_each(|worker| worker.mailbox.wake());
    }

    /// Ends them, and waits for that.
    pub fn stop(self) {
        for worker in self.all {
            if worker.mailbox.tell(Command::Stop).is_ok() {
                let _ = worker.thread.join();
            }
        }
    }

    /// What the counters of a port say now.
    pub fn sample(&self, port: PortId) -> PortSample {
        self.all.iter().map(|worker| worker.counters.sample(port)).sum()
    }

    /// Frames dropped, by reason.
    pub fn drops(&self) -> Vec<u64> {
        let of =
            |reason: usize, worker: &Worker| worker.counters.worker.drops.get(reason).map_or(0, Counter::get);
        (0..DropReason::ALL.len()).map(|reason| self.all.iter().map(|it| of(reason, it)).sum()).collect()
    }

    /// `show stats`.
    pub fn rows(&self) -> Vec<WorkerRow> {
        let row = |(index, worker): (usize, &Worker)| {
            let worker = &worker.counters.worker;
            WorkerRow {
                worker: index as u32,
                rx: worker.rx.get(),
                generated: worker.generated.get(),
                released: worker.released.get(),
                forwarded: worker.forwarded.get(),
                flooded: worker.flooded.get(),
                copies: worker.copies.get(),
                copies_lost: worker.copies_lost.get(),
                segmented: worker.segmented.get(),
                unlearned: worker.unlearned.get(),
                local: worker.local.get(),
                held: worker.held.get(),
                drops: worker.dropped(),
                batches: worker.batches.get(),
                wakeups: worker.wakeups.get(),
                spins: worker.spins.get(),
            }
        };
        self.all.iter().enumerate().map(row).collect()
    }
}

/// How many workers there are to be, on a machine of so many cores: half of them are the containers' own.
pub fn count(wanted: config::Workers, cores: usize) -> usize {
    match wanted {
        config::Workers::Auto => (cores / 2).clamp(1, MOST),
        config::Workers::Count(count) => usize::from(count).clamp(1, MOST),
    }
}

/// The worker that has fewest ports.
pub fn fewest(ports: &Ports, workers: usize) -> usize {
    let mut counts = vec![0_usize; workers.max(1)];
    for (_, port) in ports.wanted().filter(|(_, port)| port.is_up()) {
        if let Some(count) = counts.get_mut(port.worker()) {
            *count += 1;
        }
    }
    counts.iter().enumerate().min_by_key(|(_, count)| **count).map_or(0, |(index, _)| index)
}

/// What a port's frames cost who reads them, in frames.
fn load(sample: &PortSample) -> u64 {
    sample.rx_frames + sample.rx_bytes / BYTES_OF_A_FRAME
}

/// Which ports should move, and where to: of the busiest worker the port that evens out most goes to the idlest, as long
/// as that is worth something.
fn moves(mut loads: Vec<(PortId, usize, u64)>, workers: usize) -> Vec<(PortId, usize)> {
    let mut totals = vec![0_u64; workers];
    for (_, worker, load) in &loads {
        if let Some(total) = totals.get_mut(*worker) {
            *total += load;
        }
    }
    let even = totals.iter().sum::<u64>() / EVEN;
    let mut moves = Vec::new();
    // Each port moves once at most.
    while let (Some((from, most)), Some((to, least))) = (
        totals.iter().copied().enumerate().max_by_key(|(_, total)| *total),
        totals.iter().copied().enumerate().min_by_key(|(_, total)| *total),
    ) {
        let gap = most - least;
        // What is as much as the gap, or more, would only make the other one the busiest.
        let helps = |load: u64| load > 0 && load < gap;
        let candidates = loads.iter().enumerate().filter(|(_, (_, at, load))| *at == from && helps(*load));
        let best = candidates.min_by_key(|(_, (_, _, load))| load.abs_diff(gap / 2)).map(|(index, _)| index);
        let Some(index) = best.filter(|_| gap > even) else { break };
        let (port, _, load) = loads.swap_remove(index);
        if let Some(total) = totals.get_mut(from) {
            *total -= load;
        }
        if let Some(total) = totals.get_mut(to) {
            *total += load;
        }
        moves.push((port, to));
    }
    moves
}

impl Control {
    /// Has ports move to where less was to do since this was called last.
    pub(super) fn rebalance(&mut self) {
        if self.workers.count() < 2 {
            return;
        }
        let mut loads = Vec::new();
        let workers = &self.workers;
        for (id, port) in self.ports.wanted_mut() {
            let now = workers.sample(id);
            let before = std::mem::replace(&mut port.weighed, now);
            if port.is_up() && port.moving().is_none() {
                loads.push((id, port.worker(), load(&now.since(&before))));
            }
        }
        for (port, to) in moves(loads, self.workers.count()) {
            if let Some(record) = self.ports.get_mut(port) {
                record.move_to(to);
                self.moving.push(port);
            }
        }
        if !self.moving.is_empty() {
            self.configure_uplink(); // what is published for them is nobody's for a moment
            for port in std::mem::take(&mut self.moving) {
                let Some(from) = self.ports.get(port).map(PortRecord::worker) else { continue };
                self.workers.tell(from, Command::Rest { port });
            }
        }
    }

    /// A port is not read by its worker any more: the other one begins.
    pub(super) fn rests(&mut self, port: PortId) {
        let Some(record) = self.ports.get_mut(port) else { return };
        let Some(to) = record.moved() else { return };
        tracing::info!(
            container = record.container(),
            iface = record.ifname(),
            worker = to,
            "read by another worker"
        );
        self.workers.tell(to, Command::Read { port });
        self.configure_uplink();
    }

    /// A port goes on with its worker.
    pub(super) fn stays(&mut self, port: PortId) {
        if let Some(record) = self.ports.get_mut(port) {
            record.stayed();
            self.configure_uplink();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(loads: &[(u16, usize, u64)], workers: usize) -> Vec<(u16, usize)> {
        let loads = loads.iter().map(|&(port, worker, load)| (PortId(port), worker, load)).collect();
        moves(loads, workers).into_iter().map(|(port, to)| (port.0, to)).collect()
    }

    #[test]
    fn the_busiest_gives_to_the_idlest_what_evens_out_most() {
        assert_eq!(moved(&[(0, 0, 100), (1, 0, 100), (2, 1, 0)], 2), [(0, 1)]);
        assert_eq!(moved(&[(0, 0, 60), (1, 0, 30), (2, 0, 10), (3, 1, 0)], 2), [(0, 1)]);
        // One that is most of all is alone in the end, wherever that is.
        assert_eq!(moved(&[(0, 0, 1000), (1, 0, 100), (2, 0, 100), (3, 1, 0)], 2), [(0, 1)]);
        assert_eq!(moved(&[(0, 0, 1000), (1, 0, 100), (2, 0, 100), (3, 1, 250)], 2), [(1, 1), (2, 1)]);
    }

    #[test]
    fn what_is_even_or_idle_stays() {
        assert_eq!(moved(&[(0, 0, 100), (1, 1, 98)], 2), []);
        assert_eq!(moved(&[(0, 0, 0), (1, 0, 0), (2, 1, 0)], 2), []);
        assert_eq!(moved(&[(0, 0, 100)], 2), [], "it would only be busy elsewhere");
        assert_eq!(moved(&[], 4), []);
    }

    #[test]
    fn many_ports_spread_over_many_workers() {
        let loads: Vec<_> = (0..64).map(|port| (port, 0, 10)).collect();
        let mut totals = [640_u64, 0, 0, 0];
        for (_, to) in moved(&loads, 4) {
            totals[0] -= 10;
            totals[to] += 10;
        }
        assert!(totals.iter().all(|total| (150..=180).contains(total)), "{totals:?}");
    }

    #[test]
    fn half_of_the_cores_are_the_containers() {
        let auto = |cores| count(config::Workers::Auto, cores);
        assert_eq!([1, 2, 3, 4, 16, 1000].map(auto), [1, 1, 1, 2, 8, MOST]);
        assert_eq!(count(config::Workers::Count(3), 1), 3);
    }
}
