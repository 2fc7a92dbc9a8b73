//! The keeper's loop: signals, the engine, the work done for it, the containers' commands.

mod requests;

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
use super::engine::{Deaths, Engine, Received};
use super::gate::Gate;
use super::host::Host;
use super::lanes::Lanes;
use super::listen::Listeners;
use super::places::ControlSocket;
use super::{KeeperOptions, MAX_CONFIG, complain};
use crate::wire::{Begin, NetnsRef, Op, ToEngine, ToKeeper};
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
    rootless: bool,
    signals: OwnedFd,
    lanes: Lanes<Finished>,
    host: Arc<Host>,
    engine: Option<Engine>,
    starts: u32,
    deaths: Deaths,
    restart_at: Option<Instant>,
    commands: Commands<Then>,
    listeners: Listeners,
    /// Where each container is, as last said.
    references: HashMap<String, NetnsRef>,
    /// Containers that are being released.
    gate: Gate<(Asker, Op)>,
    ready: bool,
    /// The next engine is told to read the configuration again.
    reload: bool,
    /// A lane is looking after removed names.
    burying: bool,
    phase: Phase,
}

impl Keeper {
    pub(super) fn new(
        options: KeeperOptions,
        control: &ControlSocket,
        rootless: bool,
        host: &Arc<Host>,
        signals: OwnedFd,
        nofile: u64,
    ) -> io::Result<Self> {
        Ok(Self {
            config_text: options.config_text.clone(),
            options,
            listener: control.listener.try_clone()?,
            rootless,
            signals,
            lanes: Lanes::start(host)?,
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
            phase: Phase::Serving,
        })
    }

    pub(super) fn run(mut self) -> ExitCode {
        loop {
            self.on_time(Instant::now());
            for (container, state) in self.commands.changes() {
                self.tell(&ToEngine::Command { container, state }, Vec::new());
            }
            if let Phase::Ending { code, .. } = self.phase
                && self.engine.is_none()
                && self.commands.is_empty()
            {
                self.lanes.finish(GRACE);
                return code;
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
        [ending, leaving, self.restart_at, self.commands.next_deadline()].into_iter().flatten().min()
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

    fn start_engine(&mut self, now: Instant) {
        match self.try_start_engine() {
            Ok(mut engine) => {
                for (container, state) in self.commands.states() {
                    engine.send(&ToEngine::Command { container, state }, Vec::new());
                }
                if std::mem::take(&mut self.reload) {
                    engine.send(&ToEngine::Reload, Vec::new());
                }
                tracing::info!(pid = engine.pid(), restarts = engine.generation, "engine started");
                self.engine = Some(engine);
            }
            Err(error) => {
                tracing::error!(%error, "the engine cannot be started");
                self.restart_at = Some(now + self.deaths.count(now).max(Duration::from_secs(1)));
            }
        }
        self.starts = self.starts.saturating_add(1);
    }

    fn try_start_engine(&self) -> io::Result<Engine> {
        let config = fds::memory_file("configuration", self.config_text.as_bytes())?;
        let listener = self.listener.try_clone()?;
        let mut adoptable = self.host.adoptable()?;
        adoptable.retain(|(_, spec, _)| !self.gate.is_closed(&spec.container));
        let mut engine = Engine::start(&self.options.engine, self.starts)?;
        for (tap, spec, info) in adoptable {
            engine.send(&ToEngine::Adopt { spec, info }, vec![tap]);
        }
        for listen in self.listeners.held() {
            engine.send(&ToEngine::Listening(listen), Vec::new());
        }
        let begin = Begin {
            config_name: self.options.config.display().to_string(),
            control: self.options.control.clone(),
            state: self.options.state.clone(),
            keeper_pid: std::process::id(),
            rootless: self.rootless,
            restarts: self.starts,
        };
        engine.send(&ToEngine::Begin(begin), vec![listener, config]);
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
