//! The keeper's loop: signals, the engine, the work done for it, the containers' commands.

mod heir;
mod requests;
mod succession;

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use switch::sys::{fds, signals};

use super::commands::{Commands, GRACE, Happened};
use super::engine::{Deaths, Engine};
use super::gate::Gate;
use super::host::Host;
use super::lanes::Lanes;
use super::listen::Listeners;
use super::places::StateFolder;
use super::post::Received;
use super::sockets::Sockets;
use super::{KeeperOptions, MAX_CONFIG, complain};
use crate::handover::Known;
use crate::wire::{Begin, CommandState, NetnsRef, Op, ToEngine, ToKeeper};
use heir::Heir;
use requests::{Asker, Finished, Then};

/// Messages that are handled before the loop looks at everything else again.
const BATCH: usize = 64;

/// Where an event comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Signals,
    Lanes,
    Removals,
    Channel,
    EngineEnd,
    Command(String, Happened),
    Visitor,
    Heir,
}

/// How the keeper's work ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// What was made is to be removed.
    Over(ExitCode),
    /// It belongs to another daemon.
    HandedOver,
    /// It never was ours.
    Failed,
}

#[derive(Debug)]
enum Phase {
    Serving,
    /// Until everything has ended, or the engine's time is over.
    Ending {
        until: Instant,
        code: ExitCode,
    },
}

pub(super) struct Keeper {
    options: KeeperOptions,
    /// What the next engine begins with.
    config_text: String,
    listener: OwnedFd,
    /// Where the next daemon asks to take over.
    handover: OwnedFd,
    /// The state folder with its lock.
    lock: OwnedFd,
    /// What engines remember of connections.
    memory: OwnedFd,
    rootless: bool,
    signals: OwnedFd,
    lanes: Lanes<Finished>,
    /// Work in lanes that has not come back.
    under_way: usize,
    host: Arc<Host>,
    engine: Option<Engine>,
    starts: u32,
    deaths: Deaths,
    restart_at: Option<Instant>,
    commands: Commands<Then>,
    listeners: Listeners,
    /// Where each container is, as last said, and whether that was to be made.
    references: HashMap<String, (NetnsRef, bool)>,
    /// Containers that are being released.
    gate: Gate<(Asker, Op)>,
    ready: bool,
    /// The next engine is told to read the configuration again.
    reload: bool,
    /// A lane is looking after removed names.
    burying: bool,
    heir: Option<Heir>,
    handed_over: bool,
    phase: Phase,
}

impl Keeper {
    #[expect(clippy::too_many_arguments, reason = "what was asked of the host before, all of it")]
    pub(super) fn new(
        options: KeeperOptions,
        sockets: &Sockets,
        state: &StateFolder,
        rootless: bool,
        host: &Arc<Host>,
        signals: OwnedFd,
        nofile: u64,
        memory: OwnedFd,
    ) -> io::Result<Self> {
        Ok(Self {
            memory,
            config_text: options.config_text.clone(),
            options,
            listener: sockets.control.listener.try_clone()?,
            handover: sockets.handover.listener.try_clone()?,
            lock: state.lock().try_clone_to_owned()?,
            rootless,
            signals,
            lanes: Lanes::start(host)?,
            under_way: 0,
            host: Arc::clone(host),
            engine: None,
            starts: 0,
            deaths: Deaths::default(),
            restart_at: Some(Instant::now()),
            commands: Commands::new(nofile),
            listeners: Listeners::default(),
            references: HashMap::new(),
            gate: Gate::new(),
            ready: false,
            reload: false,
            burying: false,
            heir: None,
            handed_over: false,
            phase: Phase::Serving,
        })
    }

    pub(super) fn run(mut self) -> End {
        loop {
            self.on_time(Instant::now());
            for (container, state) in self.commands.changes() {
                self.tell_of_command(container, state);
            }
            self.go_on_handing_over();
            if self.handed_over {
                self.lanes.finish(GRACE);
                return End::HandedOver;
            }
            if let Phase::Ending { code, .. } = self.phase
                && self.engine.is_none()
                && self.commands.is_empty()
            {
                self.lanes.finish(GRACE);
                return End::Over(code);
            }
            match self.wait() {
                Ok(sources) => sources.into_iter().for_each(|source| self.on_event(&source)),
                Err(error) => {
                    tracing::error!(%error, "poll");
                    self.end(ExitCode::FAILURE);
                }
            }
        }
    }

    /// What has something to say.
    fn wait(&self) -> Result<Vec<Source>, Errno> {
        let mut sources: Vec<(Source, BorrowedFd<'_>, PollFlags)> = vec![
            (Source::Signals, self.signals.as_fd(), PollFlags::IN),
            (Source::Lanes, self.lanes.wake(), PollFlags::IN),
        ];
        if let Some(removals) = self.host.removals().filter(|_| !self.burying) {
            sources.push((Source::Removals, removals, PollFlags::IN));
        }
        if let Some(engine) = &self.engine {
            let writing = if engine.wants_to_write() { PollFlags::OUT } else { PollFlags::empty() };
            if engine.kill_at.is_none() {
                sources.push((Source::Channel, engine.channel(), PollFlags::IN | writing));
            }
            sources.push((Source::EngineEnd, engine.end(), PollFlags::IN));
        }
        match &self.heir {
            Some(heir) => {
                let writing = if heir.wants_to_write() { PollFlags::OUT } else { PollFlags::empty() };
                sources.push((Source::Heir, heir.fd(), PollFlags::IN | writing));
            }
            None if matches!(self.phase, Phase::Serving) => {
                sources.push((Source::Visitor, self.handover.as_fd(), PollFlags::IN));
            }
            None => {}
        }
        let commands = self.commands.sources();
        sources.extend(
            commands.map(|(name, what, fd)| (Source::Command(name.to_owned(), what), fd, PollFlags::IN)),
        );
        let mut set: Vec<_> =
            sources.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let timeout = self.next_deadline().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        match poll(&mut set, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
        let ready: Vec<bool> = set.iter().map(|fd| !fd.revents().is_empty()).collect();
        Ok(sources
            .into_iter()
            .zip(ready)
            .filter(|(_, ready)| *ready)
            .map(|((source, ..), _)| source)
            .collect())
    }

    fn next_deadline(&self) -> Option<Instant> {
        let ending = match self.phase {
            Phase::Ending { until, .. } if self.engine.is_some() => Some(until),
            _ => None,
        };
        let leaving = self.engine.as_ref().and_then(|engine| engine.kill_at);
        let heir = self.heir.as_ref().map(Heir::deadline);
        let others = [self.restart_at, self.commands.next_deadline()];
        [ending, leaving, heir].into_iter().chain(others).flatten().min()
    }

    fn on_time(&mut self, now: Instant) {
        self.commands.on_time(now);
        if let Some(engine) = &mut self.engine {
            engine.on_time(now);
        }
        if let Phase::Ending { until, code } = self.phase
            && until <= now
        {
            if let Some(engine) = &mut self.engine {
                tracing::warn!("the engine does not end: killed");
                engine.kill();
            }
            // Its end is an event; not asked for a second time.
            self.phase = Phase::Ending { until: now + Duration::from_secs(3600), code };
        }
        if self.heir.as_ref().is_some_and(|heir| heir.deadline() <= now) {
            self.disinherit("it takes too long");
        }
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart_at = None;
            self.start_engine(now);
        }
    }

    fn on_event(&mut self, source: &Source) {
        match source {
            Source::Signals => self.on_signals(),
            Source::Lanes => {
                let finished: Vec<_> = self.lanes.finished().collect();
                finished.into_iter().for_each(|finished| self.on_finished(finished));
            }
            Source::Removals => {
                self.burying = true;
                self.submit("", |host| {
                    host.bury();
                    Finished::Buried
                });
            }
            Source::Channel => self.on_channel(),
            Source::EngineEnd => self.on_engine_end(),
            Source::Command(container, Happened::Output) => self.commands.on_output(container),
            Source::Command(container, Happened::Ended) => {
                let waiting = self.commands.on_end(container);
                self.on_command_end(waiting);
            }
            Source::Visitor => self.on_visitor(),
            Source::Heir => self.on_heir(),
        }
    }

    fn on_signals(&mut self) {
        let signals = signals::pending(&self.signals).unwrap_or_default();
        for signal in signals {
            match (signal, &self.phase) {
                (Signal::HUP, Phase::Serving) => {
                    tracing::info!("SIGHUP: reload");
                    self.reload = self.engine.is_none();
                    self.tell(&ToEngine::Reload, Vec::new());
                }
                (Signal::HUP, Phase::Ending { .. }) => {}
                (_, Phase::Serving) => self.end(ExitCode::SUCCESS),
                (_, Phase::Ending { .. }) => {
                    // Asked twice: no more patience.
                    if let Some(engine) = &mut self.engine {
                        engine.kill();
                    }
                    self.commands.kill_all();
                }
            }
        }
    }

    /// Begins to end.
    fn end(&mut self, code: ExitCode) {
        if matches!(self.phase, Phase::Ending { .. }) {
            return;
        }
        notify(&[sd_notify::NotifyState::Stopping]);
        self.heir = None;
        self.phase = Phase::Ending { until: Instant::now() + GRACE, code };
        self.restart_at = None;
        self.tell(&ToEngine::Shutdown, Vec::new());
        self.commands.end_all(|| Then::Nothing);
    }

    fn tell(&mut self, message: &ToEngine, descriptors: Vec<OwnedFd>) {
        if let Some(engine) = &mut self.engine {
            engine.send(message, descriptors);
        }
    }

    /// What a command does now; one that runs comes along, for a daemon that takes over when this one has died.
    fn tell_of_command(&mut self, container: String, state: CommandState) {
        let running = self.commands.running(&container).unwrap_or_else(|error| {
            tracing::warn!(container, %error, "a command that could not go on without this process");
            None
        });
        let (running, descriptors) = running.unzip();
        self.tell(&ToEngine::Command { container, state, running }, descriptors.unwrap_or_default());
    }

    fn start_engine(&mut self, now: Instant) {
        match self.try_start_engine(None) {
            Ok(engine) => {
                tracing::info!(pid = engine.pid(), restarts = engine.generation, "engine started");
                self.engine = Some(engine);
                let states: Vec<_> = self.commands.states().collect();
                for (container, state) in states {
                    self.tell_of_command(container, state);
                }
                if std::mem::take(&mut self.reload) {
                    self.tell(&ToEngine::Reload, Vec::new());
                }
            }
            Err(error) => {
                tracing::error!(%error, "the engine cannot be started");
                self.restart_at = Some(now + self.deaths.count(now).max(Duration::from_secs(1)));
            }
        }
        self.starts = self.starts.saturating_add(1);
    }

    /// `taken_over`: the containers of the daemon from which we take over; the engine stands by then.
    fn try_start_engine(&self, taken_over: Option<&[Known]>) -> io::Result<Engine> {
        let config = fds::memory_file("configuration", self.config_text.as_bytes())?;
        let (listener, handover) = (self.listener.try_clone()?, self.handover.try_clone()?);
        let memory = self.memory.try_clone()?;
        let mut adoptable = self.host.adoptable()?;
        adoptable.retain(|(_, spec, _)| !self.gate.is_closed(&spec.container));
        let mut engine = Engine::start(&self.options.engine, self.starts)?;
        for (tap, spec, info) in adoptable {
            engine.send(&ToEngine::Adopt { spec, info }, vec![tap]);
        }
        for listen in self.listeners.held() {
            engine.send(&ToEngine::Listening(listen), Vec::new());
        }
        for known in taken_over.unwrap_or_default() {
            engine.send(&ToEngine::Known(known.clone()), Vec::new());
        }
        let begin = Begin {
            config_name: self.options.config.display().to_string(),
            control: self.options.control.clone(),
            state: self.options.state.clone(),
            keeper_pid: std::process::id(),
            rootless: self.rootless,
            restarts: self.starts,
            stand_by: taken_over.is_some(),
        };
        engine.send(&ToEngine::Begin(begin), vec![memory, handover, listener, config]);
        Ok(engine)
    }

    fn on_engine_end(&mut self) {
        self.on_channel(); // its last words
        let Some(engine) = self.engine.take() else { return };
        let why = engine.reap().map_or_else(|error| error.to_string(), |status| status.to_string());
        if matches!(self.phase, Phase::Ending { .. }) {
            tracing::debug!(status = why, "engine ended");
            return;
        }
        if self.wants_engine_ended() {
            tracing::info!(status = why, "engine ended, for another to take over");
            return;
        }
        let now = Instant::now();
        let pause = self.deaths.count(now);
        tracing::error!(status = why, ?pause, "the engine died, starting it again");
        self.restart_at = Some(now + pause);
    }

    fn on_channel(&mut self) {
        for _ in 0..BATCH {
            let Some(engine) = &mut self.engine else { return };
            engine.flush();
            match engine.receive() {
                Received::Message(message, descriptors) => self.on_message(message, descriptors),
                Received::Garbage => {}
                Received::Nothing => return,
                Received::Closed => return engine.expect_end(Instant::now() + GRACE),
            }
        }
    }

    fn on_message(&mut self, message: ToKeeper, mut descriptors: Vec<OwnedFd>) {
        match message {
            ToKeeper::Request { id, op } => {
                let Some(generation) = self.engine.as_ref().map(|engine| engine.generation) else { return };
                self.on_request(Asker { generation, id }, op);
            }
            ToKeeper::Ready { line } => self.on_ready(&line),
            ToKeeper::Standing => {} // waited for where it is asked for
            ToKeeper::Fatal { reason } => {
                complain(&reason);
                self.end(ExitCode::FAILURE);
            }
            ToKeeper::Keep => {
                let text = descriptors.pop().map(|fd| fds::read_text(fd, MAX_CONFIG));
                match text {
                    Some(Ok(text)) => self.config_text = text,
                    Some(Err(error)) => tracing::error!(%error, "the configuration to keep"),
                    None => tracing::error!("the configuration to keep did not come along"),
                }
            }
        }
    }

    fn on_ready(&mut self, line: &str) {
        if std::mem::replace(&mut self.ready, true) {
            return;
        }
        let mut stdout = io::stdout();
        if let Err(error) = writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
            tracing::debug!(%error, "nobody reads the ready line");
        }
        notify(&[sd_notify::NotifyState::Ready]);
    }
}

fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "telling the service manager");
    }
}
