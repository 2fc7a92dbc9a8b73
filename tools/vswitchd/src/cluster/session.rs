//! The task of a host in a cluster: one connection after the other, for as long as it takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{WatchResponse, WatchStream};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout};

use super::claim::{Claimant, Outcome};
use super::judge::judge;
use super::known::Known;
use super::memory::Memory;
use super::own::{self, Own};
use super::records::{KINDS, Key};
use super::store::{self, CHUNK, Head, Store, StoreError};
use super::{Claim, Claimed, Order, Says, Settings, State, View, flannel};
use crate::config::Mode;

/// How long changes are gathered before they are told.
const BATCH: Duration = Duration::from_millis(50);
/// Claims that are being made at a time.
const CLAIMS: usize = 64;
/// Transactions after which the store is listened to again.
const WRITES: usize = 16;
/// Messages of the watch that are taken at a time.
const MESSAGES: u32 = 64;
/// How long flanneld needs, whose lease is a day: where that is lost it ends, and is started again.
const HOLD: Duration = Duration::from_secs(600);
/// The first wait after a failure, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Keys of one kind that are looked at: far more than can be kept, for most of them may be no records.
const MAX_KEYS: usize = 2_000_000;

/// A claim, what came of it, and who waits for that.
type Answer = (Claim, Outcome, oneshot::Sender<Claimed>);

/// How a session ends that has not failed.
enum End {
    /// Everything has to be read again.
    Again,
    Leave(oneshot::Sender<()>),
}

pub(super) struct Task {
    settings: Settings,
    says: watch::Receiver<Says>,
    orders: mpsc::UnboundedReceiver<Order>,
    shown: watch::Sender<Arc<View>>,
    known: Known,
    own: Own,
    state: State,
    /// Our lease, if it may still live.
    lease: Option<i64>,
    /// Where the store was.
    head: Option<Head>,
    /// How long the last view took.
    judged: Duration,
}

/// The task, which tells at once what is remembered.
pub(super) fn begin(
    settings: Settings,
    memory: &Memory,
    says: watch::Receiver<Says>,
    orders: mpsc::UnboundedReceiver<Order>,
    shown: watch::Sender<Arc<View>>,
) -> Task {
    let View { name, state, .. } = View::clone(&shown.borrow());
    let mut known = Known::new(name.clone(), settings.mode);
    let remembered = memory.recall(&settings, &mut known, Instant::now());
    let mut task = Task {
        known,
        own: Own::new(name),
        state,
        settings,
        says,
        orders,
        shown,
        lease: None,
        head: None,
        judged: Duration::ZERO,
    };
    if remembered > 0 {
        tracing::info!(
            records = remembered,
            "what was known of the cluster is known until its store answers"
        );
        task.state = State::Remembered { why: "it was not tried yet".into() };
        task.publish();
    }
    task
}

/// Keeps the host in the cluster, until it is told to leave or nobody is there any more.
pub(super) async fn run(mut task: Task) {
    let endpoints = task.settings.etcd.clone();
    let mut wait = BACKOFF.0;
    for endpoint in endpoints.iter().cycle() {
        let connected = task.known.counters.connected;
        let done = match task.session(endpoint).await {
            Ok(done) => done,
            Err(error) => {
                if task.known.counters.connected != connected {
                    wait = BACKOFF.0;
                }
                task.lost(endpoint, &error);
                let longest = BACKOFF.1.min(task.ttl() / 3);
                let pause = jittered(wait);
                wait = wait.saturating_mul(2).min(longest);
                task.pause(pause, &error).await
            }
        };
        if let Some(done) = done {
            let _ = done.send(()); // whoever asked may not wait any more
            return;
        }
    }
}

/// Half to all of it: hosts that lost etcd together do not come back together.
fn jittered(wait: Duration) -> Duration {
    let mut byte = [0u8];
    let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
    let [part] = byte;
    wait / 2 + wait / 2 * u32::from(part) / 256
}

impl Task {
    /// One connection. `Some`: the task is to end.
    async fn session(&mut self, endpoint: &str) -> Result<Option<oneshot::Sender<()>>, StoreError> {
        let store = Store::connect(&self.settings, endpoint).await?;
        let (mut lease, mut kept) = store.lease(self.lease, self.settings.ttl).await?;
        if self.lease.is_some() && !kept {
            self.known.counters.leases_lost = self.known.counters.leases_lost.saturating_add(1);
        }
        let id = lease.id;
        self.lease = Some(id);
        loop {
            let end = tokio::select! {
                failed = lease.keep() => Err(failed),
                end = self.follow(&store, endpoint, id, kept) => end,
            };
            match end {
                Ok(End::Again) => kept = true,
                // flanneld leaves its subnet to the lease: nobody else gets it while a host is started again.
                Ok(End::Leave(done)) if self.settings.mode == Mode::Flannel => return Ok(Some(done)),
                Ok(End::Leave(done)) => {
                    if let Err(error) = store.revoke(id).await {
                        tracing::warn!(%error, "what is ours in the cluster goes with the lease only");
                    }
                    return Ok(Some(done));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads everything, then follows what changes and writes what is ours.
    async fn follow(
        &mut self,
        store: &Store,
        endpoint: &str,
        lease: i64,
        kept: bool,
    ) -> Result<End, StoreError> {
        // The watch first: whatever changes while it is read is told by it, and nothing can be compacted away between.
        let head = store.head().await?;
        let Some(mut stream) = store.watch(head.revision.saturating_add(1)).await? else {
            return Ok(End::Again);
        };
        self.read(store, head, kept).await?;
        self.connected(endpoint);
        let mut claims = FuturesUnordered::new();
        let mut due = Some(Instant::now());
        let mut early = Vec::new();
        let mut reread = None;
        loop {
            let wake = earliest([due, self.known.hold(), reread]);
            tokio::select! {
                message = stream.message() => {
                    let heard = self.hear(store, message?, &mut stream).await?;
                    let Some(heard) = heard else { return Ok(End::Again) };
                    if heard {
                        due = due.or_else(|| Some(self.next_batch()));
                    }
                }
                changed = self.says.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await; // whoever held this is gone, and this task with it
                    }
                    due = due.or_else(|| Some(self.next_batch()));
                }
                order = self.orders.recv(), if claims.len() + early.len() < CLAIMS => match order {
                    Some(Order::Claim(claim, tell)) if self.own.named(&self.known, lease) == Some(true) => {
                        claims.push(self.claim(store, lease, claim, tell));
                    }
                    Some(Order::Claim(claim, tell)) => {
                        early.push((claim, tell));
                        due = due.or_else(|| Some(Instant::now()));
                    }
                    Some(Order::Release(addresses)) => {
                        addresses.into_iter().for_each(|address| self.own.release(address));
                        due = due.or_else(|| Some(self.next_batch()));
                    }
                    Some(Order::Leave(done)) => return Ok(End::Leave(done)),
                    None => std::future::pending::<()>().await,
                },
                Some(answered) = claims.next() => self.answered(answered),
                () = sleep_until(wake.into()) => {
                    self.publish();
                    due = self.write(store, lease).await?.then(Instant::now);
                    match self.own.named(&self.known, lease) {
                        // Without our name all that we claim would be another host's.
                        Some(true) => claims.extend(
                            early.drain(..).map(|(claim, tell)| self.claim(store, lease, claim, tell)),
                        ),
                        Some(false) => self.refuse(early.drain(..)),
                        None => {}
                    }
                    if self.is_to_be_read_again(&mut reread) {
                        return Ok(End::Again);
                    }
                }
            }
        }
    }

    /// When what happens now is told: the longer that takes, the later.
    fn next_batch(&self) -> Instant {
        Instant::now() + BATCH.max(self.judged.saturating_mul(10))
    }

    /// Makes a claim, and says what came of it.
    fn claim(
        &mut self,
        store: &Store,
        lease: i64,
        claim: Claim,
        tell: oneshot::Sender<Claimed>,
    ) -> impl Future<Output = Answer> + use<> {
        self.own.ask(&claim);
        let path = store.path(&own::key(&claim));
        let claimant = Claimant { kv: store.kv(), lease, me: self.known.me().to_owned(), path };
        async move {
            let outcome = claimant.claim(&claim).await;
            (claim, outcome, tell)
        }
    }

    /// Whether it is time to read everything once more: what there was no room for may have some by now.
    fn is_to_be_read_again(&mut self, at: &mut Option<Instant>) -> bool {
        if at.is_some_and(|at| at <= Instant::now()) {
            return true;
        }
        if self.known.has_room_again() {
            *at = at.or_else(|| Some(Instant::now() + self.hold()));
        }
        false
    }

    fn refuse(&self, claims: impl Iterator<Item = (Claim, oneshot::Sender<Claimed>)>) {
        for (_, tell) in claims {
            let why = format!("another host is called `{}`", self.known.me());
            let _ = tell.send(Claimed::Unreachable { why });
        }
    }

    fn ttl(&self) -> Duration {
        Duration::from_secs(self.settings.ttl.into())
    }

    /// How long hosts that live need to say again what was lost.
    fn hold(&self) -> Duration {
        match self.settings.mode {
            Mode::Native => self.ttl(),
            Mode::Flannel => self.ttl().min(HOLD),
        }
    }

    fn answered(&mut self, (claim, (claimed, revision), tell): Answer) {
        // What was granted to somebody who does not wait any more is left over, and goes.
        let waits = tell.send(claimed).is_ok();
        self.own.answered(claim, revision.filter(|_| waits));
    }

    /// All that the store has.
    async fn read(&mut self, store: &Store, head: Head, kept: bool) -> Result<(), StoreError> {
        let me = self.own.first().clone();
        let others =
            |known: &Known| known.entries().filter(|(key, it)| is_other(key, &me) && !it.gone).count();
        let had = others(&self.known);
        let had_me = self.known.get(&me).is_some();
        self.known.begin_read();
        let now = Instant::now();
        let kinds: &[&str] = match self.settings.mode {
            Mode::Native => &KINDS,
            Mode::Flannel => &flannel::KINDS,
        };
        for kind in kinds {
            let known = &mut self.known;
            let unread = store
                .read(kind, MAX_KEYS, |kv| {
                    if let Some(key) = store.below(kv.key()) {
                        known.put(key, kv.value(), store::stamp(kv), now);
                    }
                })
                .await?;
            known.counters.too_many = known.counters.too_many.saturating_add(unread);
        }
        self.known.end_read();
        self.known.counters.reads = self.known.counters.reads.saturating_add(1);
        self.own.begin();
        let before = self.head.replace(head);
        let other_store = before.is_some_and(|it| it.cluster != head.cluster || it.revision > head.revision);
        let lost_me = kept && had_me && self.known.get(&me).is_none();
        let lost_all = !kept && had > 0 && others(&self.known) == 0;
        if other_store || lost_me || lost_all {
            self.emptied();
        } else if !kept && had > 0 {
            // Our own lease ended: so did others', who are on their way back as we are.
            self.known.hold_until(now + self.hold());
        }
        Ok(())
    }

    fn emptied(&mut self) {
        let hold = self.hold().saturating_mul(3);
        tracing::warn!(?hold, "the cluster's store was emptied: nothing is withdrawn for now");
        self.known.counters.emptied = self.known.counters.emptied.saturating_add(1);
        self.known.hold_until(Instant::now() + hold);
    }

    /// What the watch tells. Whether anything is another way by that; `None`: it cannot be followed any more.
    async fn hear(
        &mut self,
        store: &Store,
        first: Option<WatchResponse>,
        stream: &mut WatchStream,
    ) -> Result<Option<bool>, StoreError> {
        let mut next = first;
        let mut changed = false;
        // What is there already belongs to the same batch, but the rest of us has its turn as well.
        for turn in 1.. {
            let Some(message) = next else { return Err(StoreError::Watch("etcd closed it".into())) };
            if message.compact_revision() > 0 {
                return Ok(None);
            }
            if message.canceled() {
                return Err(StoreError::Watch(message.cancel_reason().to_owned()));
            }
            changed |= self.take(store, &message);
            if turn == MESSAGES {
                break;
            }
            next = match timeout(Duration::ZERO, stream.message()).await {
                Ok(message) => message?,
                Err(_) => break,
            };
        }
        Ok(Some(changed))
    }

    fn take(&mut self, store: &Store, message: &WatchResponse) -> bool {
        let now = Instant::now();
        for kv in message.events().iter().filter_map(|event| event.kv()) {
            let Some(key) = store.below(kv.key()) else { continue };
            self.known.counters.events = self.known.counters.events.saturating_add(1);
            // A key that was deleted has no version (the type of an event is a number that may be any).
            if kv.version() > 0 {
                self.known.put(key, kv.value(), store::stamp(kv), now);
            } else {
                self.known.delete(key, kv.mod_revision());
            }
            let Ok(key) = self.known.parse_key(key) else { continue };
            self.own.heard(&key, kv.mod_revision());
            // We never delete our own name: whoever did has deleted all of it.
            if kv.version() == 0 && key == *self.own.first() {
                self.emptied();
            }
        }
        if let (Some(header), Some(head)) = (message.header(), &mut self.head) {
            head.revision = head.revision.max(header.revision());
        }
        !message.events().is_empty()
    }

    /// Brings the store to what we say. Whether there is more to do.
    async fn write(&mut self, store: &Store, lease: i64) -> Result<bool, StoreError> {
        let says = self.says.borrow().clone();
        self.own.want(&says, &self.known);
        for _ in 0..WRITES {
            let steps = self.own.plan(&self.known, lease, CHUNK);
            if steps.is_empty() {
                return Ok(false);
            }
            let together = store.write(&steps, lease).await?;
            for step in &steps {
                let revision = match together {
                    Some(revision) => Some(revision),
                    None if steps.len() == 1 => None,
                    None => store.write(std::slice::from_ref(step), lease).await?,
                };
                let counters = &mut self.known.counters;
                let counter =
                    if revision.is_some() { &mut counters.written } else { &mut counters.conflicts };
                *counter = counter.saturating_add(1);
                self.own.done(step, revision);
            }
        }
        Ok(true)
    }

    fn connected(&mut self, endpoint: &str) {
        tracing::info!(endpoint, "the cluster's store is there");
        self.known.counters.connected = self.known.counters.connected.saturating_add(1);
        self.state = State::Connected { since: Instant::now(), endpoint: endpoint.to_owned() };
    }

    fn lost(&mut self, endpoint: &str, error: &StoreError) {
        self.known.counters.failed = self.known.counters.failed.saturating_add(1);
        let why = format!("{endpoint}: {error}");
        self.state = match &self.state {
            State::Never { .. } => State::Never { why },
            State::Remembered { .. } => State::Remembered { why },
            State::Connected { .. } => {
                tracing::warn!(%why, "the cluster's store is gone: what is known stays");
                State::Lost { since: Instant::now(), why }
            }
            State::Lost { since, .. } => State::Lost { since: *since, why },
        };
        self.show(|_| {});
    }

    /// Waits, and answers meanwhile what can be. `Some`: the task is to end.
    async fn pause(&mut self, wait: Duration, error: &StoreError) -> Option<oneshot::Sender<()>> {
        let end = tokio::time::Instant::now() + wait;
        loop {
            tokio::select! {
                () = sleep_until(end) => return None,
                order = self.orders.recv() => match order {
                    Some(Order::Claim(claim, tell)) => {
                        let why = error.to_string();
                        let held = self.own.holds(&claim);
                        let _ = tell.send(if held { Claimed::Granted } else { Claimed::Unreachable { why } });
                    }
                    Some(Order::Release(addresses)) => {
                        addresses.into_iter().for_each(|address| self.own.release(address));
                    }
                    Some(Order::Leave(done)) => return Some(done),
                    None => std::future::pending().await,
                },
            }
        }
    }

    /// Tells what is known now.
    fn publish(&mut self) {
        let began = Instant::now();
        self.known.settle(began);
        let before = self.shown.borrow().clone();
        let lists = judge(&self.known, &self.says.borrow_and_update(), &before.members);
        self.show(|view| {
            view.hosts = lists.hosts;
            view.members = lists.members;
            view.networks = lists.networks;
            view.removed = lists.removed;
            view.addresses = lists.addresses;
            view.subnets = lists.subnets;
            view.outer = lists.outer;
            view.refused = lists.refused;
        });
        self.judged = began.elapsed();
    }

    fn show(&self, change: impl FnOnce(&mut View)) {
        let mut view = View::clone(&self.shown.borrow());
        change(&mut view);
        view.state = self.state.clone();
        view.held_until = self.known.hold();
        view.counters = self.known.counters;
        self.shown.send_if_modified(|shown| {
            let other = **shown != view;
            if other {
                *shown = Arc::new(view);
            }
            other
        });
    }
}

fn is_other(key: &Key, me: &Key) -> bool {
    matches!(key, Key::Host(_) | Key::Subnet(_)) && key != me
}

/// The earliest of these; without any far from now.
fn earliest(times: [Option<Instant>; 3]) -> Instant {
    const NEVER: Duration = Duration::from_secs(3600);
    times.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + NEVER)
}
