//! The control plane: one task that owns what is wanted and what is there, and brings the second to the first.
//!
//! Everything reaches it as a message: calls of the API, notices and answers of the keeper, events of workers, time.
//! It never waits for any of them while it works on another: what takes long runs as a job and comes back as an
//! [`Outcome`].

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::tables::Tables;
use arc_swap::ArcSwap;
use switch::fdb::Flush;
use switch::mailbox::silence;
use switch::port::{NetworkId, PortId};
use switch::punt::{Parcel, Punt};
use switch::snapshot::Snapshot;
use switch::tick::Tick;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::dhcp::Dhcp;
use super::keeper::{Keeper, Notice};
use super::leases::Leases;
use super::networks::Networks;
use super::objects::Objects;
use super::overlay::{Joined, Overlay};
use super::ports::{PortRecord, Ports, State};
use super::published::PublishedPorts;
use super::records::{Bare, ContainerRecord, Outcome, Then, Unsettled};
use super::uplink::UplinkControl;
use super::workers::Workers;
use super::{hosts::Hosts, publish};
use crate::api::rows::IoStatus;
use crate::api::{ApiError, Call};
use crate::channel::AsyncChannel;
use crate::config::Config;
use crate::names::server::Shared;
use crate::wire::{Begin, Listen, ToKeeper};

/// How often the host is asked whether a waited-for namespace appeared.
pub const WAITING_POLL: Duration = Duration::from_millis(200);
/// The pace of ageing.
const AGEING_POLL: Duration = Duration::from_secs(1);

/// The time between passes over all connections, and how many times as long as a pass itself it is at least: many
/// connections must not make each packet dearer. What is over is so without a pass.
const CONNECTIONS_PACE: Duration = Duration::from_secs(5);
const CONNECTIONS_REST: u32 = 400;
/// However long a pass takes: until then an l4 port of ours may wait for its next user.
const CONNECTIONS_LONGEST: Duration = Duration::from_secs(60);

/// The control plane.
pub struct Control {
    pub(super) begin: Begin,
    /// What is wanted: the file's objects and those made through the API.
    pub(super) desired: Config,
    /// The file's part of it, as last read.
    pub(super) file: Config,
    pub(super) objects: Objects,
    pub(super) leases: Leases,
    pub(super) dhcp: Dhcp,
    pub(super) punt: Arc<Punt>,
    pub(super) networks: Networks,
    pub(super) ports: Ports,
    pub(super) containers: BTreeMap<String, ContainerRecord>,
    pub(super) keeper: Arc<Keeper>,
    pub(super) workers: Workers,
    /// Ports that are about to be asked to move to another worker.
    pub(super) moving: Vec<PortId>,
    pub(super) snapshot: Arc<ArcSwap<Snapshot<Tables>>>,
    pub(super) uplink: UplinkControl,
    pub(super) overlay: Overlay,
    /// The memory file of connections.
    pub(super) memory: Option<Arc<OwnedFd>>,
    pub(super) io: IoStatus,
    pub(super) names: Arc<Shared>,
    pub(super) published: PublishedPorts,
    pub(super) generation: u64,
    pub(super) hosts: Hosts,
    pub(super) jobs: JoinSet<Outcome>,
    pub(super) unsettled: Vec<Unsettled>,
    /// Containers that the keeper was told to release and has not yet: nothing new is asked for them.
    pub(super) releasing: BTreeSet<String>,
    /// Objects that contradicted the file when this engine began.
    pub(super) left_out: Vec<String>,
    /// Ports that moved away from a network: its FDB forgets them once packets see it.
    pub(super) moved: Vec<(NetworkId, PortId)>,
    /// Ports that are in other VLANs of their network: the same, for what was learned.
    pub(super) relearned: Vec<(NetworkId, PortId)>,
    /// Ports that are free again: connections of theirs go before others get their numbers.
    pub(super) gone: Vec<PortId>,
    /// When connections that are over are next cleared away; `None`: that is under way.
    next_pass: Option<Instant>,
    /// What was published before: dropped here, not on a packet's way.
    retired: Option<Arc<Snapshot<Tables>>>,
    /// Something is wanted or gone: [`Control::reconcile`] has work.
    pub(super) unreconciled: bool,
    /// Something changed that packets must see.
    pub(super) unpublished: bool,
    pub(super) started: Instant,
    last_ageing: Instant,
    ready: bool,
    /// The listening control socket.
    pub(super) listener: Arc<OwnedFd>,
    /// Where the next daemon asks, until the keeper has died.
    handover: Option<OwnedFd>,
    /// One is asking.
    pub(super) handing_over: bool,
    /// Who took over.
    pub(super) heir: Option<AsyncChannel>,
    heir_took_over: bool,
}

/// What the control plane is given at its start.
pub struct Parts {
    /// What the keeper said.
    pub begin: Begin,
    /// The configuration file, valid.
    pub file: Config,
    /// What was made through the API before.
    pub objects: Objects,
    /// Who had which address before.
    pub leases: Leases,
    /// The keeper.
    pub keeper: Arc<Keeper>,
    /// The workers.
    pub workers: Workers,
    /// What they read.
    pub snapshot: Arc<ArcSwap<Snapshot<Tables>>>,
    /// What their uplinks read and show.
    pub uplink: UplinkControl,
    /// Their way to other hosts.
    pub overlay: Overlay,
    /// How devices are read and written.
    pub io: IoStatus,
    /// What an engine before this one had listen.
    pub inherited: Vec<Listen>,
    /// The listening control socket.
    pub listener: Arc<OwnedFd>,
    /// The listening socket on which the next daemon asks to take over.
    pub handover: OwnedFd,
    /// The way of packets to and from workers.
    pub punt: Arc<Punt>,
    /// What the name server knows.
    pub names: Arc<Shared>,
    /// The memory file of connections.
    pub memory: Option<Arc<OwnedFd>>,
}

impl Control {
    /// A control plane that wants what the file says and what was made through the API before.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            begin,
            file,
            objects,
            leases,
            keeper,
            workers,
            snapshot,
            uplink,
            overlay,
            io,
            inherited,
            punt,
            names,
            listener,
            handover,
            memory,
        } = parts;
        let hosts = Hosts::new(&begin.state);
        let mut control = Self {
            desired: file.clone(),
            file,
            objects,
            leases,
            dhcp: Dhcp::default(),
            punt,
            networks: Networks::with_memory(memory.clone()),
            memory,
            ports: Ports::default(),
            containers: BTreeMap::new(),
            keeper,
            workers,
            moving: Vec::new(),
            snapshot,
            uplink,
            overlay,
            io,
            published: PublishedPorts::new(inherited),
            names,
            generation: 0,
            hosts,
            jobs: JoinSet::new(),
            unsettled: Vec::new(),
            releasing: BTreeSet::new(),
            left_out: Vec::new(),
            moved: Vec::new(),
            relearned: Vec::new(),
            gone: Vec::new(),
            next_pass: Some(Instant::now() + CONNECTIONS_PACE),
            retired: None,
            unreconciled: false,
            unpublished: false,
            started: Instant::now(),
            last_ageing: Instant::now(),
            ready: false,
            listener,
            handover: Some(handover),
            handing_over: false,
            heir: None,
            heir_took_over: false,
            begin,
        };
        control.merge_objects();
        control
    }

    /// Works until told to end; the workers work on.
    pub async fn run(
        mut self,
        mut calls: mpsc::Receiver<Call>,
        asked: mpsc::Receiver<Box<Parcel>>,
    ) -> (ExitCode, Workers) {
        let code = self.work(&mut calls, asked).await;
        // Nothing of these was begun: who takes over can be asked the same.
        calls.close();
        while let Ok(call) = calls.try_recv() {
            let _gone = call.reply.send(Err(ApiError::ending()));
        }
        if let Some(joined) = &self.overlay.joined {
            joined.note();
        }
        // What is ours in the cluster is the heir's, if there is one.
        if let Some(joined) = self.overlay.joined.take().filter(|_| !self.heir_took_over) {
            joined.leave().await;
        }
        (code, self.workers)
    }

    async fn work(
        &mut self,
        calls: &mut mpsc::Receiver<Call>,
        mut asked: mpsc::Receiver<Box<Parcel>>,
    ) -> ExitCode {
        let mailbox = Arc::clone(self.workers.first());
        #[expect(
            deprecated,
            reason = "its heir is unsafe; this descriptor is borrowed from the mailbox for all of `run`"
        )]
        let Ok(events) = AsyncFd::new(mailbox.event_wake()) else { return ExitCode::FAILURE };
        let keeper = Arc::clone(&self.keeper);
        // From the keeper's end on the next daemon asks us.
        let mut heirs: Option<AsyncFd<OwnedFd>> = None;
        self.unreconciled = true;
        let mut next_look = Instant::now();
        loop {
            self.catch_up();
            self.settle().await;
            let pause = if self.is_waiting() { WAITING_POLL } else { AGEING_POLL };
            next_look = next_look.min(Instant::now() + pause);
            tokio::select! {
                Some(call) = calls.recv() => self.answer(call),
                Some(parcel) = asked.recv() => {
                    self.serve_dhcp(parcel);
                    while let Ok(parcel) = asked.try_recv() {
                        self.serve_dhcp(parcel);
                    }
                    mailbox.wake();
                }
                notice = keeper.listen(), if self.handover.is_some() => match notice {
                    Notice::Shutdown => return ExitCode::SUCCESS,
                    Notice::MakeWay => {
                        self.heir_took_over = true;
                        return ExitCode::SUCCESS;
                    }
                    Notice::Lost => heirs = self.orphaned(),
                    Notice::Reload => self.read_file(None),
                    Notice::Command { container, state, process } => {
                        if let Some(known) = self.containers.get_mut(&container) {
                            (known.running, known.process) = (Some(state), process);
                        }
                    }
                },
                Some(outcome) = self.jobs.join_next(), if !self.jobs.is_empty() => {
                    self.finish_all(outcome.unwrap_or(Outcome::Nothing));
                    if let Some(heir) = self.heir.take() {
                        tracing::info!("another vswitchd took over");
                        self.heir_took_over = true;
                        std::mem::forget(heir); // closed by the end of this process, and not before
                        return ExitCode::SUCCESS;
                    }
                }
                () = cluster_changed(&mut self.overlay.joined) => self.cluster_changed(),
                () = readable(&heirs), if heirs.is_some() && !self.handing_over => {
                    if let Some(listener) = &heirs {
                        self.on_heir(listener);
                    }
                }
                guard = events.readable() => {
                    if let Ok(mut guard) = guard {
                        silence(mailbox.event_wake());
                        guard.clear_ready();
                    }
                    self.worker_events();
                }
                // A moment, not a pause: other messages, however many, do not put it off.
                () = tokio::time::sleep_until(next_look.into()) => {
                    next_look = Instant::now() + AGEING_POLL;
                    self.tick();
                }
            }
        }
    }

    /// Without a keeper: who asks from now on is the next daemon.
    fn orphaned(&mut self) -> Option<AsyncFd<OwnedFd>> {
        tracing::error!(
            "the keeper ended: forwarding goes on, nothing new can be attached; the next vswitchd --config takes over"
        );
        self.handover.take().and_then(|fd| ask_of(fd).ok())
    }

    /// A job came back, and perhaps hundreds with it: one publication serves them all.
    fn finish_all(&mut self, first: Outcome) {
        self.finish(first);
        while let Some(outcome) = self.jobs.try_join_next() {
            self.finish(outcome.unwrap_or(Outcome::Nothing));
        }
    }

    pub(super) fn state_mut(&mut self, port: PortId) -> Option<&mut State> {
        self.ports.get_mut(port).map(|record| &mut record.state)
    }

    fn is_waiting(&self) -> bool {
        self.ports.wanted().any(|(_, port)| matches!(port.state, State::Waiting { .. }))
            || self.containers.values().any(|known| matches!(known.bare, Bare::Absent { .. }))
    }

    fn tick(&mut self) {
        self.retry_waiting();
        // Without a keeper there is nobody to ask.
        if self.handover.is_some() {
            self.retry_published();
        }
        if self.last_ageing.elapsed() >= AGEING_POLL {
            self.last_ageing = Instant::now();
            self.age_leases();
            self.look_after_overlay();
            let now = Tick::now();
            for (_, network) in self.networks.all() {
                network.fdb.age(now, network.config.ageing);
                network.neighbors.age(now);
                if let Some(groups) = &network.groups {
                    groups.age(now);
                }
            }
            if let Some(returns) = self.networks.returns() {
                returns.age(now);
            }
            if let Some(nat) = &self.snapshot.load().tables.nat {
                nat.fragments.age(now);
            }
            if self.next_pass.is_some_and(|at| Instant::now() >= at) {
                self.next_pass = None;
                self.age_connections();
            }
        }
    }

    pub(super) fn connections_aged(&mut self, took: Duration) {
        let rest = took.saturating_mul(CONNECTIONS_REST).clamp(CONNECTIONS_PACE, CONNECTIONS_LONGEST);
        self.next_pass = Some(Instant::now() + rest);
    }

    /// Something is wanted that was not, or the other way round.
    pub(super) fn bring_about(&mut self) {
        self.leases.settle(&self.desired);
        self.reconcile_cluster();
        self.reconcile();
        self.hosts.write(&self.desired);
    }

    /// Does once what a burst of messages asked for.
    fn catch_up(&mut self) {
        self.forget_connections();
        if std::mem::take(&mut self.unreconciled) {
            self.bring_about();
        }
        if std::mem::take(&mut self.unpublished) {
            self.reconcile_published();
            self.generation += 1;
            self.publish_overlay();
            let new = Arc::new(publish::snapshot(
                self.generation,
                &self.desired,
                (&self.networks, &self.ports, (self.overlay.tunnels(), self.overlay.joined.as_ref())),
                &self.leases.memory,
            ));
            self.resume_connections(&new);
            self.retired = Some(self.snapshot.swap(new));
            // A gateway may have something to say about it at once (RFC 4861 section 6.2.4).
            self.workers.wake();
            for (network, port) in self.moved.drain(..) {
                if let Some(record) = self.networks.get(network) {
                    record.fdb.flush(Flush::PortGone(port));
                    record.forget_groups(port);
                }
            }
            for (network, port) in self.relearned.drain(..) {
                if let Some(record) = self.networks.get(network) {
                    record.fdb.flush(Flush::Port(port));
                    record.neighbors.flush(port);
                    record.forget_groups(port);
                }
            }
            self.publish_names();
            // What is up and where containers are concerns the uplink too.
            self.configure_uplink();
            self.reconcile_connections();
        }
    }

    /// Answers calls whose ports have settled, and says `ready` when all have for the first time.
    async fn settle(&mut self) {
        let (ports, releasing) = (&self.ports, !self.releasing.is_empty());
        let opening = self.published.is_under_way();
        let published = &self.published;
        let under_way = |call: &Unsettled| match call.port {
            _ if matches!(call.then, Then::Published(_)) => published.is_under_way(),
            Some(port) => ports.get(port).is_some_and(PortRecord::is_attaching),
            None => releasing || opening || ports.all().any(|(_, port)| port.is_under_way()),
        };
        let (waiting, settled): (Vec<_>, Vec<_>) = self.unsettled.drain(..).partition(under_way);
        self.unsettled = waiting;
        for call in settled {
            let Some(call) = self.another_address(call) else { continue };
            let reply = match call.then {
                Then::Reloaded { done, failed } => self.reloaded(done, &failed),
                Then::Connected { network, port, .. } => self.connected(&network, port),
                Then::Follows { network, container, interface } => {
                    self.followed(&network, &container, &interface)
                }
                Then::Published(wanted) => self.published_as(&wanted),
            };
            // The caller may have given up.
            let _ = call.reply.send(reply);
        }
        if !self.ready
            && !opening
            && !self.ports.wanted().any(|(_, port)| matches!(port.state, State::Attaching))
        {
            self.ready = true;
            let line = self.ready_line();
            if let Err(error) = self.keeper.tell(&ToKeeper::Ready { line }).await {
                tracing::warn!(%error, "could not tell the keeper that all is ready");
            }
        }
    }

    fn ready_line(&self) -> String {
        let counts = self.port_counts();
        let mut line = format!("ready: {} ports up, {} waiting", counts.up + counts.down, counts.waiting);
        if counts.failed > 0 {
            line.push_str(&format!(", {} failed", counts.failed));
        }
        match self.published.failed() {
            0 => {}
            failed => line.push_str(&format!(", {failed} not published")),
        }
        format!(
            "{line}, {} networks, control socket {}",
            self.desired.networks.len(),
            self.begin.control.display()
        )
    }
}

/// Waits until the cluster has something else to say.
async fn cluster_changed(joined: &mut Option<Joined>) {
    match joined {
        Some(joined) => joined.changed().await,
        None => std::future::pending().await,
    }
}

fn ask_of(handover: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    #[expect(deprecated, reason = "its heir is unsafe; the descriptor is owned, and by nobody else")]
    AsyncFd::with_interest(handover, Interest::READABLE)
}

/// Waits until somebody knocks.
async fn readable(listener: &Option<AsyncFd<OwnedFd>>) {
    match listener {
        Some(listener) => {
            if let Ok(mut guard) = listener.readable().await {
                guard.clear_ready();
            }
        }
        None => std::future::pending().await,
    }
}
