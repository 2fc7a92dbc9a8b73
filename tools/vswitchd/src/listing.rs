//! How the control plane looks into the uplink of a worker: counters that the worker writes down, and questions that it
//! answers bit by bit, between batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use nat::sockets::{Connection, Counters, Query, Sockets};
use switch::tick::Tick;
use tokio::sync::oneshot;

/// Questions that wait; more are told to come again.
const QUESTIONS: usize = 16;
/// Places of the table that are looked at in one go.
const SLICE: u32 = 512;

/// What a worker's uplink shows.
///
/// # Threads
/// Shared between the worker, which writes, and the control plane.
pub struct Window {
    counters: [AtomicU64; Counters::NAMES.len()],
    connections: AtomicU64,
    questions: ArrayQueue<Question>,
}

/// Which connections there are.
pub struct Question {
    /// Which are meant.
    pub query: Query,
    /// Room for the answer: the worker makes none, and stops when it is full.
    pub rows: Vec<Connection>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Vec<Connection>>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            counters: [const { AtomicU64::new(0) }; _],
            connections: AtomicU64::new(0),
            questions: ArrayQueue::new(QUESTIONS),
        }
    }
}

impl Window {
    /// Asks. Whoever asks wakes the worker ([`switch::mailbox::Mailbox::wake`]).
    ///
    /// # Errors
    /// The question, when too many wait.
    pub fn ask(&self, question: Question) -> Result<(), Question> {
        self.questions.push(question)
    }

    /// Some recent values, with their names.
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let values = self.counters.iter().map(|counter| counter.load(Ordering::Relaxed));
        Counters::NAMES.into_iter().zip(values)
    }

    /// How many connections there were a moment ago.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// The worker's side of a [`Window`].
pub struct Clerk {
    window: Arc<Window>,
    /// What was written down last.
    written: Counters,
    /// The question in hand, and how far it is answered.
    current: Option<(Question, u32)>,
}

impl Clerk {
    /// Writes to this window.
    pub fn new(window: Arc<Window>) -> Self {
        Self { window, written: Counters::default(), current: None }
    }

    /// Once a batch: writes down what changed, and answers a bit. Returns whether there is more to answer.
    pub fn work(&mut self, sockets: &Sockets, now: Tick) -> bool {
        if *sockets.counters() != self.written {
            self.written = *sockets.counters();
            for (counter, value) in self.window.counters.iter().zip(self.written.values()) {
                counter.store(value, Ordering::Relaxed);
            }
            self.window.connections.store(sockets.len() as u64, Ordering::Relaxed);
        }
        if self.current.is_none() && !self.window.questions.is_empty() {
            self.current = self.window.questions.pop().map(|question| (question, 0));
        }
        let Some((mut question, from)) = self.current.take() else { return false };
        match sockets.list(&question.query, from..from.saturating_add(SLICE), now, &mut question.rows) {
            Some(next) => self.current = Some((question, next)),
            // Whoever asked may have given up.
            None => drop(question.reply.send(question.rows)),
        }
        self.current.is_some() || !self.window.questions.is_empty()
    }
}
