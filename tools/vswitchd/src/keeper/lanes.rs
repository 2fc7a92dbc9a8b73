//! Threads for what takes its time: moving devices, asking container engines.
//!
//! Work for one container is done in the order it came, work for different containers side by side. Container engines
//! have lanes of their own, so that a hanging one delays nobody else.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::host::Host;

/// Lanes for work in namespaces: the kernel does most of it under one lock, so few are enough.
const QUICK: usize = 4;
/// Lanes for containers that have to be asked for.
const SLOW: usize = 2;

type Work<T> = Box<dyn FnOnce(&Host) -> T + Send>;

/// # Threads
/// Belongs to the keeper's loop.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    lanes: Vec<Sender<Work<T>>>,
    threads: Vec<JoinHandle<()>>,
    /// What has not begun is not done any more.
    stop: Arc<AtomicBool>,
    done: Receiver<T>,
    wake: Arc<OwnedFd>,
    /// Containers that must be asked for.
    slow: HashSet<String>,
    hasher: RandomState,
}

impl<T: Send + 'static> Lanes<T> {
    pub(super) fn start(host: &Arc<Host>) -> io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (report, done) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (mut lanes, mut threads) = (Vec::new(), Vec::new());
        for number in 0..QUICK + SLOW {
            let (sender, work) = channel::<Work<T>>();
            let (host, report) = (Arc::clone(host), report.clone());
            let (wake, stop) = (Arc::clone(&wake), Arc::clone(&stop));
            threads.push(std::thread::Builder::new().name(format!("lane-{number}")).spawn(move || {
                for work in work {
                    if stop.load(Ordering::Relaxed) || report.send(work(&host)).is_err() {
                        return;
                    }
                    // Full counter or not: the loop is awake then.
                    let _written = rustix::io::write(&*wake, &1u64.to_ne_bytes());
                }
            })?);
            lanes.push(sender);
        }
        Ok(Self { lanes, threads, stop, done, wake, slow: HashSet::new(), hasher: RandomState::new() })
    }

    /// `container` has to be asked for (or not any more).
    pub(super) fn set_slow(&mut self, container: &str, slow: bool) {
        if slow {
            self.slow.insert(container.to_owned());
        } else {
            self.slow.remove(container);
        }
    }

    pub(super) fn submit(&self, container: &str, work: impl FnOnce(&Host) -> T + Send + 'static) {
        let hash = self.hasher.hash_one(container) as usize;
        let lane = if self.slow.contains(container) { QUICK + hash % SLOW } else { hash % QUICK };
        let sent = self.lanes.get(lane).map(|lane| lane.send(Box::new(work)));
        if !matches!(sent, Some(Ok(()))) {
            tracing::error!(container, "a worker thread of the keeper has died");
        }
    }

    /// Ends; waits at most `time` for work that has begun.
    pub(super) fn finish(self, time: Duration) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.lanes);
        let deadline = Instant::now() + time;
        // A thread sends its last word before it ends; when all have, or the time is over, the channel says so.
        while let Ok(_late) = self.done.recv_timeout(deadline.saturating_duration_since(Instant::now())) {}
        for thread in self.threads.into_iter().filter(JoinHandle::is_finished) {
            if thread.join().is_err() {
                tracing::error!("a worker thread of the keeper panicked");
            }
        }
    }

    /// What to poll for.
    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// What was finished since the last call.
    pub(super) fn finished(&self) -> impl Iterator<Item = T> + '_ {
        let mut count = [0; 8];
        let _nothing_there = rustix::io::read(&*self.wake, &mut count);
        self.done.try_iter()
    }
}
