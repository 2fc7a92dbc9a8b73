//! Commands of containers: started, restarted with growing pauses, their output logged, ended as a group.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, kill_process_group};
use switch::sys::netns::identity_of;
use switch::sys::{fds, process};

use super::bounded;
use super::output::LineLog;
use crate::wire::{CommandState, Refusal, RefusalKind, Running, Target};

/// The hidden subcommand that enters the container.
pub(super) const SUBCOMMAND: &str = "enter";
/// Between SIGTERM and SIGKILL.
pub(super) const GRACE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Who ran this long was not failing at the start: the pauses begin anew.
const STEADY: Duration = Duration::from_secs(10);

/// Which event of which command to poll for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happened {
    Output,
    Ended,
}

/// All commands; `W` is who waits for the end of one.
#[derive(Debug)]
pub(super) struct Commands<W> {
    commands: HashMap<String, Supervised<W>>,
    /// What nobody was told yet.
    changes: Vec<(String, CommandState)>,
    /// Soft descriptor limit for them.
    nofile: u64,
}

#[derive(Debug)]
struct Supervised<W> {
    argv: Vec<String>,
    /// `None`: it was started by another daemon, and its engine has not said anew where it is to run.
    target: Option<Target>,
    phase: Phase,
    pause: Duration,
    waiting: Vec<W>,
}

#[derive(Debug)]
enum Phase {
    Running(Process),
    Paused { until: Instant },
    Ending { process: Process, kill_at: Option<Instant> },
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    /// `None`: it was started by another daemon, and how it ended will be told to somebody else.
    child: Option<Child>,
    /// Readable when it has ended.
    end: OwnedFd,
    /// `None` once all who could write to it have closed it: at its end a pipe is readable for ever.
    output: Option<OwnedFd>,
    log: LineLog,
    since: Instant,
    /// Identity of its network namespace, which no other gets while it lives.
    home: Option<(u64, u64)>,
}

impl<W> Commands<W> {
    pub(super) fn new(nofile: u64) -> Self {
        Self { commands: HashMap::new(), changes: Vec::new(), nofile }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Whether `container` runs exactly this command in exactly this namespace and is not about to end. If so, it will be
    /// started again by `target`, whose files may be others.
    pub(super) fn runs(&mut self, container: &str, argv: &[String], target: &Target) -> bool {
        let Some(command) = self.commands.get_mut(container) else { return false };
        let there = match &command.phase {
            Phase::Running(process) => process.home == identity_of(&target.net_ns).ok(),
            Phase::Paused { .. } => true,
            Phase::Ending { .. } => false,
        };
        let same = there && command.argv == argv;
        if same {
            command.target = Some(target.clone());
        }
        same
    }

    /// Starts a command; `container` has none.
    pub(super) fn start(
        &mut self,
        container: &str,
        argv: Vec<String>,
        target: Target,
    ) -> Result<(), Refusal> {
        let asked = || format!("command of container {container:?}");
        if argv.is_empty() {
            return Err(Refusal::new(RefusalKind::Failed, asked(), "it is empty"));
        }
        let process = spawn(&argv, &target, self.nofile)
            .map_err(|error| Refusal::new(RefusalKind::Failed, asked(), error))?;
        tracing::info!(
            container,
            program = argv.first(),
            pid = process.pid.as_raw_nonzero(),
            "command started"
        );
        let supervised = Supervised {
            argv,
            target: Some(target),
            phase: Phase::Running(process),
            pause: FIRST_PAUSE,
            waiting: Vec::new(),
        };
        self.commands.insert(container.to_owned(), supervised);
        self.changes.push((container.to_owned(), CommandState::Running));
        Ok(())
    }

    /// Goes on with a command that another daemon started; `descriptors` as [`Running`] says.
    pub(super) fn adopt(
        &mut self,
        container: &str,
        running: Running,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let Running { argv, pid, home } = running;
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        let mut descriptors = descriptors.into_iter();
        let end = descriptors.next().ok_or(io::ErrorKind::InvalidInput)?;
        let (log, since) = (LineLog::default(), Instant::now());
        let process = Process { pid, child: None, end, output: descriptors.next(), log, since, home };
        let phase = Phase::Running(process);
        let supervised = Supervised { argv, target: None, phase, pause: FIRST_PAUSE, waiting: Vec::new() };
        self.commands.insert(container.to_owned(), supervised);
        Ok(())
    }

    /// The command that runs in `container`, for who may go on with it; descriptors as [`Running`] says.
    pub(super) fn running(&self, container: &str) -> io::Result<Option<(Running, Vec<OwnedFd>)>> {
        let Some(Supervised { argv, phase: Phase::Running(process), .. }) = self.commands.get(container)
        else {
            return Ok(None);
        };
        let pid = process.pid.as_raw_nonzero().get();
        let mut descriptors = vec![process.end.try_clone()?];
        descriptors.extend(process.output.as_ref().map(OwnedFd::try_clone).transpose()?);
        Ok(Some((Running { argv: argv.clone(), pid, home: process.home }, descriptors)))
    }

    /// Whether one of them is about to end.
    pub(super) fn are_ending(&self) -> bool {
        self.commands.values().any(|command| matches!(command.phase, Phase::Ending { .. }))
    }

    /// What has changed since the last call.
    pub(super) fn changes(&mut self) -> Vec<(String, CommandState)> {
        std::mem::take(&mut self.changes)
    }

    /// All there are.
    pub(super) fn states(&self) -> impl Iterator<Item = (String, CommandState)> {
        self.commands.iter().map(|(name, command)| {
            let state = match command.phase {
                Phase::Running(_) | Phase::Ending { .. } => CommandState::Running,
                Phase::Paused { .. } => CommandState::Restarting,
            };
            (name.clone(), state)
        })
    }

    /// Begins to end the command; `waiter` comes back at once if there is none, else with its end.
    pub(super) fn end(&mut self, container: &str, waiter: W) -> Option<W> {
        let Some(mut command) = self.commands.remove(container) else { return Some(waiter) };
        command.phase = match command.phase {
            Phase::Paused { .. } => {
                self.changes.push((container.to_owned(), CommandState::Stopped));
                return Some(waiter);
            }
            Phase::Running(process) => {
                process.signal(Signal::TERM);
                Phase::Ending { process, kill_at: Some(Instant::now() + GRACE) }
            }
            ending @ Phase::Ending { .. } => ending,
        };
        command.waiting.push(waiter);
        self.commands.insert(container.to_owned(), command);
        None
    }

    /// Begins to end all of them.
    pub(super) fn end_all(&mut self, mut waiter: impl FnMut() -> W) {
        let names: Vec<_> = self.commands.keys().cloned().collect();
        for name in names {
            let _had_none = self.end(&name, waiter());
        }
    }

    /// No more patience with those that are ending.
    pub(super) fn kill_all(&mut self) {
        for command in self.commands.values_mut() {
            if let Phase::Ending { process, kill_at } = &mut command.phase {
                process.signal(Signal::KILL);
                *kill_at = None;
            }
        }
    }

    /// Descriptors to poll for reading.
    pub(super) fn sources(&self) -> impl Iterator<Item = (&str, Happened, BorrowedFd<'_>)> {
        self.commands.iter().flat_map(|(name, command)| {
            let process = command.process();
            let output = process.and_then(|p| p.output.as_ref()).map(|fd| (Happened::Output, fd.as_fd()));
            let end = process.map(|p| (Happened::Ended, p.end.as_fd()));
            output.into_iter().chain(end).map(|(what, fd)| (name.as_str(), what, fd))
        })
    }

    /// When [`Commands::on_time`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.commands.values().filter_map(Supervised::deadline).min()
    }

    /// Restarts and kills what is due. Those who waited for a command that could not be started again come back.
    pub(super) fn on_time(&mut self, now: Instant) {
        let nofile = self.nofile;
        for (name, command) in &mut self.commands {
            if command.deadline().is_none_or(|deadline| deadline > now) {
                continue;
            }
            match &mut command.phase {
                Phase::Running(_) => {}
                Phase::Ending { process, kill_at } => {
                    tracing::warn!(container = name, "command does not end: killed");
                    process.signal(Signal::KILL);
                    *kill_at = None;
                }
                Phase::Paused { .. } => match start_again(command, nofile) {
                    Ok(process) => {
                        command.phase = Phase::Running(process);
                        self.changes.push((name.clone(), CommandState::Running));
                    }
                    Err(error) => {
                        tracing::warn!(container = name, %error, "command cannot be started");
                        command.pause_now(now);
                    }
                },
            }
        }
    }

    pub(super) fn on_output(&mut self, container: &str) {
        if let Some(process) = self.commands.get_mut(container).and_then(Supervised::process_mut) {
            process.read_output(container);
        }
    }

    /// The command's process ended. Those who waited for that come back; else it is started again after a pause.
    pub(super) fn on_end(&mut self, container: &str) -> Vec<W> {
        let Some(mut command) = self.commands.remove(container) else { return Vec::new() };
        let ending = matches!(command.phase, Phase::Ending { .. });
        let Some(process) = command.process_mut() else { return Vec::new() };
        let ran = process.since.elapsed();
        process.read_output(container);
        process.log.finish(container);
        // Its number is not given away before `wait`, so the group that is hit is its own.
        process.signal(Signal::KILL);
        let status = process.reap();
        let state = if ending { CommandState::Stopped } else { CommandState::Restarting };
        self.changes.push((container.to_owned(), state));
        if ending {
            return command.waiting;
        }
        if ran >= STEADY {
            command.pause = FIRST_PAUSE;
        }
        tracing::warn!(container, status, pause = ?command.pause, "command ended, starting it again");
        command.pause_now(Instant::now());
        self.commands.insert(container.to_owned(), command);
        Vec::new()
    }
}

impl<W> Supervised<W> {
    fn process(&self) -> Option<&Process> {
        match &self.phase {
            Phase::Running(process) | Phase::Ending { process, .. } => Some(process),
            Phase::Paused { .. } => None,
        }
    }

    fn process_mut(&mut self) -> Option<&mut Process> {
        match &mut self.phase {
            Phase::Running(process) | Phase::Ending { process, .. } => Some(process),
            Phase::Paused { .. } => None,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Running(_) => None,
            Phase::Paused { until } => Some(*until),
            Phase::Ending { kill_at, .. } => *kill_at,
        }
    }

    fn pause_now(&mut self, now: Instant) {
        self.phase = Phase::Paused { until: now + self.pause };
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

impl Process {
    /// To the whole group: a command may be a shell with children.
    fn signal(&self, signal: Signal) {
        let signalled = match &self.child {
            Some(_) => kill_process_group(self.pid, signal),
            // Its number may be someone else's once it has ended; its descriptor will not.
            None => match process::signal_group(&self.end, signal) {
                // Before Linux 6.9. What the leader left behind when it ended stays then.
                Err(Errno::INVAL) if fds::is_readable(&self.end) == Ok(false) => {
                    kill_process_group(self.pid, signal)
                }
                answer => answer,
            },
        };
        match signalled {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => tracing::warn!(pid = self.pid.as_raw_nonzero(), %error, "signalling a command"),
        }
    }

    /// To be called when it has ended; how, in words.
    fn reap(&mut self) -> String {
        match &mut self.child {
            Some(child) => child.wait().map_or_else(|error| error.to_string(), |status| status.to_string()),
            None => "not known: an earlier daemon started it".to_owned(),
        }
    }

    /// What is there now, but not for ever: a flooding command has its share of the loop.
    fn read_output(&mut self, container: &str) {
        let mut buffer = [0; 16 * 1024];
        for _ in 0..4 {
            let Some(output) = &self.output else { return };
            match rustix::io::read(output, &mut buffer) {
                Ok(0) => self.output = None,
                Ok(n) => self.log.push(container, buffer.get(..n).unwrap_or_default()),
                Err(_) => return,
            }
        }
    }
}

fn start_again<W>(command: &Supervised<W>, nofile: u64) -> io::Result<Process> {
    match &command.target {
        Some(target) => spawn(&command.argv, target, nofile),
        None => Err(io::Error::other("its engine has not yet said where")),
    }
}

fn spawn(argv: &[String], target: &Target, nofile: u64) -> io::Result<Process> {
    let (output, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&output, true)?;
    let home = identity_of(&target.net_ns).ok();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(SUBCOMMAND)
        .arg(OsString::from(serde_json::to_string(target)?))
        .arg(nofile.to_string())
        .args(argv)
        .stdin(Stdio::null())
        .stdout(write.try_clone()?)
        .stderr(write)
        .env_remove("NOTIFY_SOCKET");
    let (child, end) = bounded::start(&mut command)?;
    let (pid, log, since) = (Pid::from_child(&child), LineLog::default(), Instant::now());
    Ok(Process { pid, child: Some(child), end, output: Some(output), log, since, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervised(phase: Phase) -> Supervised<()> {
        Supervised { argv: vec![], target: None, phase, pause: FIRST_PAUSE, waiting: vec![] }
    }

    #[test]
    fn output_that_was_closed_is_not_polled_any_more() {
        let (output, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (child, end) = bounded::start(Command::new("sleep").arg("1000")).unwrap();
        let (pid, log, since) = (Pid::from_child(&child), LineLog::default(), Instant::now());
        let child = Some(child);
        let process = Process { pid, child, end, output: Some(output), log, since, home: None };
        let mut commands = Commands::<()>::new(1024);
        commands.commands.insert("web".to_owned(), supervised(Phase::Running(process)));
        let polled =
            |commands: &Commands<()>| commands.sources().map(|(_, what, _)| what).collect::<Vec<_>>();
        rustix::io::write(&write, b"last words").unwrap();
        drop(write);
        assert_eq!(polled(&commands), [Happened::Output, Happened::Ended]);
        commands.on_output("web");
        assert_eq!(polled(&commands), [Happened::Ended]);
        commands.end("web", ());
        assert_eq!(commands.on_end("web"), [()]);
        assert_eq!(commands.changes(), [("web".to_owned(), CommandState::Stopped)]);
    }

    #[test]
    fn what_another_daemon_started_goes_on_and_is_ended() {
        let (output, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo here; sleep 1000 & wait"]).stdout(write);
        let (mut child, end) = bounded::start(&mut command).unwrap();
        drop(command);
        let running = Running { argv: vec!["sh".into()], pid: child.id() as i32, home: None };
        let mut heir = Commands::<()>::new(1024);
        heir.adopt("web", running.clone(), vec![end, output]).unwrap();
        let (again, descriptors) = heir.running("web").unwrap().unwrap();
        assert_eq!((again, descriptors.len()), (running, 2));
        assert_eq!(heir.end("web", ()), None);
        child.wait().unwrap();
        assert_eq!(heir.on_end("web"), [()]);
        // With its children: nobody holds the pipe any more.
        let mut said = Vec::new();
        let mut buffer = [0; 64];
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            match rustix::io::read(&descriptors[1], &mut buffer) {
                Ok(0) => {
                    assert!(said.is_empty() || said == b"here\n", "{said:?}");
                    return;
                }
                Ok(n) => said.extend_from_slice(&buffer[..n]),
                Err(_) => std::thread::yield_now(),
            }
        }
        panic!("a child lives on: {said:?}");
    }

    #[test]
    fn pauses_double_up_to_ten_seconds() {
        let mut command = supervised(Phase::Paused { until: Instant::now() });
        let now = Instant::now();
        let pauses: Vec<_> = (0..8)
            .map(|_| {
                command.pause_now(now);
                (command.deadline().unwrap() - now).as_millis()
            })
            .collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    }
}
