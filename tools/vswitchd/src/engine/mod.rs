//! The engine: workers and control plane, with no capability at all.
//!
//! It is started by the keeper, from which it gets every descriptor it uses. When it dies the keeper starts it again with
//! the same ones, so nothing here needs to survive but what is in the state folder.

mod answers;
mod changes;
mod control;
mod describe;
mod dhcp;
mod events;
mod heir;
mod hosts;
mod io;
mod keeper;
mod leases;
mod made;
mod memory;
mod multipath;
mod names;
mod nat;
mod networks;
mod objects;
mod outside;
mod overlay;
mod ports;
mod publish;
mod published;
mod reconcile;
mod records;
mod rehearse;
mod routing;
mod services;
mod settle;
mod store;
mod trace;
mod translate;
mod uplink;
mod workers;

pub use publish::all_up;
#[doc(hidden)]
pub use rehearse::rehearse;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::tables::Tables;
use arc_swap::ArcSwap;
use switch::io::{Eye, Io, Wait};
use switch::mailbox::Mailbox;
use switch::news::News;
use switch::punt::{Punt, SLOTS as PARCELS};
use switch::snapshot::Snapshot;
use switch::stats::Counters;
use switch::sys::caps;
use switch::tick::Tick;
use tokio::sync::{mpsc, oneshot};
use vxlan::settings::{OverlayCounters, Published};

use crate::api::rows::IoStatus;
use crate::api::server;
use crate::channel::{Channel, ChannelError};
use crate::config::{self, Config, ConfigErrors, Context, Paths};
use crate::handover::Known;
use crate::ipam::Memory;
use crate::listing::Window;
use crate::names::resolvers::{self, Resolvers};
use crate::names::server::Shared;
use crate::policy::House;
use crate::uplink::{Configured, Uplink};
use crate::wire::{Begin, Listen, ToEngine, ToKeeper};
use control::{Control, Parts};
use io::Engine;
use keeper::Keeper;
use leases::Leases;
use objects::Objects;
use reconcile::Adopted;
use uplink::UplinkControl;
use workers::{Worker, Workers};

/// Frame buffers of a worker: a full batch, what waits for neighbours, and what is being made. The batch is taken from
/// the same end always: 64 of them stay in a second-level cache where 256 do not.
const SLOTS: u16 = 128;
/// Calls of the API that wait for the control plane; more are told to come again.
const CALLS: usize = 256;

/// Why an engine could not begin.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The conversation with the keeper failed.
    #[error("keeper: {0}")]
    Channel(#[from] ChannelError),
    /// The keeper said something else than it should at that point.
    #[error("the keeper did not begin as agreed")]
    Protocol,
    /// Capabilities could not be dropped.
    #[error("capabilities: {0}")]
    Capabilities(#[from] caps::CapsError),
    /// The configuration is not valid (it was when the keeper read it, unless the file changed meanwhile).
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    /// There is no way to read and write devices.
    #[error(transparent)]
    Devices(#[from] io::IoError),
    /// The kernel refused something.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Runs the engine on the channel that the keeper left as standard input.
pub fn run() -> ExitCode {
    let channel = match Channel::from_stdin() {
        Ok(channel) => channel,
        Err(error) => {
            tracing::error!(%error, "the engine is started by vswitchd, not by hand");
            return ExitCode::from(2);
        }
    };
    match start(channel) {
        Ok(code) => code,
        Err((error, channel)) => {
            tracing::error!(%error, "the engine cannot begin");
            let fatal = ToKeeper::Fatal { reason: error.to_string() };
            // If the keeper cannot be told, it sees the exit code.
            let _ = channel.map(|channel| channel.send(&fatal, &[]));
            ExitCode::FAILURE
        }
    }
}

type Failed = (EngineError, Option<Channel>);

fn start(channel: Channel) -> Result<ExitCode, Failed> {
    let given = match receive(&channel) {
        Ok(given) => given,
        Err(error) => return Err((error, Some(channel))),
    };
    let alone = |error: std::io::Error| (EngineError::from(error), None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(alone)?;
    runtime.block_on(serve(channel, given)).map_err(|error| (error, None))
}

/// What the keeper gave.
struct Given {
    begin: Begin,
    /// The configuration file.
    text: Vec<u8>,
    file: Config,
    objects: Objects,
    leases: Leases,
    listener: UnixListener,
    /// Where the next daemon asks to take over.
    handover: OwnedFd,
    adopted: Vec<Adopted>,
    /// Containers of the daemon from which this one takes over.
    known: Vec<Known>,
    inherited: Vec<Listen>,
    /// The memory file of connections.
    memory: Option<Arc<OwnedFd>>,
}

/// Reads the keeper's first messages, with no capability left.
fn receive(channel: &Channel) -> Result<Given, EngineError> {
    caps::drop_all_capabilities()?;
    let (mut adopted, mut known, mut inherited) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let (message, mut fds) = channel.recv()?.ok_or(EngineError::Protocol)?;
        match message {
            ToEngine::Adopt { spec, info } => {
                adopted.push(Adopted { spec, info, tap: fds.pop().ok_or(EngineError::Protocol)? });
            }
            ToEngine::Listening(listen) => inherited.push(listen),
            ToEngine::Known(container) => known.push(container),
            ToEngine::Begin(begin) => {
                let text = fds.pop().ok_or(EngineError::Protocol)?;
                let listener = fds.pop().ok_or(EngineError::Protocol)?;
                let handover = fds.pop().ok_or(EngineError::Protocol)?;
                let memory = fds.pop().map(Arc::new);
                let text = text_of(text)?;
                let (file, objects, leases) = read_all(&begin, &text, &adopted)?;
                let listener = UnixListener::from(listener);
                return Ok(Given {
                    begin,
                    text,
                    file,
                    objects,
                    leases,
                    listener,
                    handover,
                    adopted,
                    known,
                    inherited,
                    memory,
                });
            }
            _ => return Err(EngineError::Protocol),
        }
    }
}

/// The file's configuration, and what is kept in the state folder.
fn read_all(
    begin: &Begin,
    text: &[u8],
    adopted: &[Adopted],
) -> Result<(Config, Objects, Leases), ConfigErrors> {
    let objects = Objects::load(&begin.state);
    let leases = Leases::load(&begin.state);
    let file = read_after(begin, text, Some(&leases.memory), adopted, &objects)?;
    Ok((file, objects, leases))
}

/// The file's configuration, with what is open in it decided as before.
fn read_after(
    begin: &Begin,
    text: &[u8],
    memory: Option<&Memory>,
    adopted: &[Adopted],
    objects: &Objects,
) -> Result<Config, ConfigErrors> {
    // Not this process's own: in a user namespace it looks like root's.
    let paths = Paths { control: begin.control.clone(), state: begin.state.clone() };
    let mut context = Context { paths, previous: None, memory };
    let alone = config::parse_with(&begin.config_name, text, &context)?;
    let before = memory::before(&alone, adopted, objects);
    context.previous = Some(&before);
    config::parse_with(&begin.config_name, text, &context)
}

/// The text of a memory file; one byte more than is allowed is enough to refuse it.
fn text_of(fd: OwnedFd) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::from(fd).take(config::MAX_BYTES as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// The packet's way, at work, and what it shares with the control plane.
struct Way {
    snapshot: Arc<ArcSwap<Snapshot<Tables>>>,
    workers: Workers,
    punt: Arc<Punt>,
    uplink: UplinkControl,
    overlay: overlay::Overlay,
    io: IoStatus,
}

impl Way {
    /// Starts workers without ports.
    fn begin(daemon: &config::Daemon) -> Result<Self, EngineError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let count = workers::count(daemon.workers, cores);
        let mailboxes = Mailbox::for_workers(count, ports::MAX_PORTS).map_err(std::io::Error::from)?;
        let mailboxes: Vec<_> = mailboxes.into_iter().map(Arc::new).collect();
        let punt = Arc::new(Punt::new(ports::MAX_PORTS).map_err(std::io::Error::from)?);
        let news = Arc::new(News::between(mailboxes.iter().cloned()));
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let mut way = Beginning {
            snapshot,
            punt,
            news,
            doors: Vec::new(),
            most: None,
            overlay: Published::default(),
            counters: Vec::new(),
            io: None,
        };
        let all = mailboxes.iter().enumerate().map(|(me, mailbox)| way.worker(daemon, me, mailbox));
        let all = all.collect::<Result<Vec<_>, _>>()?;
        let Beginning { snapshot, punt, doors, most, overlay, counters, io, .. } = way;
        let (first, io) = mailboxes.into_iter().next().zip(io).ok_or(EngineError::Protocol)?;
        let (workers, uplink) = (Workers::new(first, all), UplinkControl::new(doors, most));
        let overlay = overlay::Overlay::new(overlay, counters);
        Ok(Self { snapshot, workers, punt, uplink, overlay, io })
    }
}

/// What workers that begin have in common.
struct Beginning {
    snapshot: Arc<ArcSwap<Snapshot<Tables>>>,
    punt: Arc<Punt>,
    news: Arc<News>,
    /// Of each: where its uplink finds its settings, and what it shows.
    doors: Vec<(Configured, Arc<Window>)>,
    /// Connections that one of them may have.
    most: Option<u32>,
    /// What their overlay is to be, and what each counts.
    overlay: Published,
    counters: Vec<Arc<OverlayCounters>>,
    io: Option<IoStatus>,
}

impl Beginning {
    fn worker(
        &mut self,
        daemon: &config::Daemon,
        me: usize,
        mailbox: &Arc<Mailbox>,
    ) -> Result<Worker, EngineError> {
        let workers = self.news.workers();
        let (engine, io) = io::choose(daemon.io, ports::MAX_PORTS, workers, mailbox)?;
        let (settings, window) = (Configured::default(), Arc::new(Window::default()));
        let uplink = match daemon.uplink {
            // What is published with an address of the host's is a socket, whatever the way out is.
            config::Uplink::Sockets | config::Uplink::Tap | config::Uplink::Nic => {
                Some(Uplink::new(Arc::clone(&settings), Arc::clone(&window), workers, Tick::now())?)
            }
            config::Uplink::None => None,
        };
        (self.most, self.io) = (uplink.as_ref().map(Uplink::most), Some(io));
        self.doors.push((settings, window));
        let house = House::beside(ports::MAX_PORTS, uplink, Arc::clone(&self.news), me);
        let house = house.with_services(Arc::clone(&self.punt));
        let (counters, thread) = match engine {
            Engine::Uring(io) => self.start(*io, house, me)?,
            Engine::Epoll(io) => self.start(*io, house, me)?,
        };
        Ok(Worker { mailbox: Arc::clone(mailbox), counters, thread })
    }

    /// A worker's thread, with an engine that has an eye on what else may have something, and the other hosts beside its
    /// ports.
    fn start<I: Io + Send + 'static>(
        &mut self,
        mut io: I,
        house: House,
        me: usize,
    ) -> std::io::Result<(Arc<Counters>, JoinHandle<()>)> {
        if let Some(fd) = house.watched() {
            io.watch(Eye::Policy, fd)?;
        }
        let io = vxlan::overlay::Overlay::new(io, Arc::clone(&self.overlay), me)?;
        self.counters.push(Arc::clone(io.counters()));
        work(me, io, &self.snapshot, house)
    }
}

/// A worker on a thread of its own, until it is told to stop.
fn work<I: Io + Send + 'static>(
    me: usize,
    io: I,
    snapshot: &Arc<ArcSwap<Snapshot<Tables>>>,
    house: House,
) -> std::io::Result<(Arc<Counters>, JoinHandle<()>)> {
    let mut worker = switch::worker::Worker::new(io, SLOTS, ports::MAX_PORTS, Arc::clone(snapshot), house);
    let counters = Arc::clone(worker.counters());
    let thread = std::thread::Builder::new().name(format!("worker-{me}")).spawn(move || {
        while !worker.io.stopped() {
            if let Err(error) = worker.step(Wait::Sleep) {
                tracing::error!(%error, "the worker's I/O engine broke");
                std::process::abort(); // the keeper starts a new engine with the same descriptors
            }
        }
    })?;
    Ok((counters, thread))
}

async fn serve(channel: Channel, given: Given) -> Result<ExitCode, EngineError> {
    let Given {
        begin,
        text,
        mut file,
        mut objects,
        mut leases,
        listener,
        handover,
        adopted,
        known,
        inherited,
        memory,
    } = given;
    let way = Way::begin(&file.daemon)?;

    if begin.stand_by {
        // All that could fail has been done; another daemon's engine serves until we are told.
        channel.send(&ToKeeper::Standing, &[])?;
        let Some((ToEngine::Go, _)) = channel.recv()? else { return Err(EngineError::Protocol) };
        // It may have written until its end.
        (file, objects, leases) = read_all(&begin, &text, &adopted)?;
    }

    let joined = join(&file, &objects, &begin, &mut leases).await;
    if joined.is_some() {
        // Once more: what is open in it is not what other hosts hold.
        file = read_after(&begin, &text, Some(&leases.memory), &adopted, &objects)?;
    }

    listener.set_nonblocking(true)?;
    let kept = Arc::new(OwnedFd::from(listener.try_clone()?));
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let (calls, called) = mpsc::channel(CALLS);
    let (end, ended) = oneshot::channel::<()>();
    let uid = rustix::process::geteuid().as_raw();
    let served = tokio::spawn(server::serve(listener, calls, uid, async {
        let _ = ended.await; // a dropped sender ends it as well
    }));

    let names = Arc::new(Shared::new(Resolvers::new(resolvers::PATH)));
    let (dhcp, asked) = mpsc::channel(PARCELS);
    let sender = Arc::clone(way.workers.first());
    tokio::spawn(services::serve(Arc::clone(&way.punt), sender, Arc::clone(&names), dhcp));

    let keeper = Arc::new(Keeper::new(channel)?);
    let parts = Parts {
        begin,
        file,
        objects,
        leases,
        keeper,
        workers: way.workers,
        snapshot: way.snapshot,
        uplink: way.uplink,
        overlay: way.overlay,
        io: way.io,
        inherited,
        punt: way.punt,
        names,
        listener: kept,
        handover,
        memory,
    };
    let mut control = Control::new(parts);
    control.overlay.joined = joined;
    control.adopt(adopted, known);
    let (code, workers) = control.run(called, asked).await;

    let _ = end.send(());
    let _ = served.await;
    workers.stop();
    Ok(code)
}

/// The cluster, where the file names one, with its first word of who holds which address.
async fn join(
    file: &Config,
    objects: &Objects,
    begin: &Begin,
    leases: &mut Leases,
) -> Option<overlay::Joined> {
    let settings = file.cluster.as_ref()?;
    // With all that was made at run time: who is not said to be here is withdrawn, if only for a moment.
    let mut wanted = file.clone();
    made::connect_all(&mut wanted, &objects.kept, &leases.memory);
    let mut joined = overlay::Joined::new(settings, (&wanted, file), &begin.state)?;
    joined.first_word().await;
    leases.memory.set_elsewhere(joined.elsewhere());
    Some(joined)
}

/// The capabilities this process has, as `show status` says it: `none` is as it should be.
fn capabilities() -> String {
    match rustix::thread::capabilities(None) {
        Ok(sets) if sets.effective.is_empty() && sets.permitted.is_empty() && sets.inheritable.is_empty() => {
            "none".into()
        }
        Ok(sets) => format!("{:?}", sets.effective | sets.permitted),
        Err(error) => format!("unknown: {error}"),
    }
}
