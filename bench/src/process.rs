//! Child processes that cannot outlive us: own process group, a parent-death signal, a bounded wait, an orderly end.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::{Error, Result};
use crate::{ns, stop};

/// Tells the stderr files of several children of one program apart.
static NEXT: AtomicU32 = AtomicU32::new(0);
/// How long an orderly end may take before the process is killed.
const GRACE: Duration = Duration::from_secs(5);
/// The longest that a signal to us waits to be noticed.
const TICK: Duration = Duration::from_millis(50);
/// Setting up with `ip`, `ethtool` and the like takes milliseconds.
const TOOL_LIMIT: Duration = Duration::from_secs(20);

/// How a process is asked to end.
#[derive(Debug)]
pub enum Stop {
    /// SIGKILL: it has nothing to clean up.
    Kill,
    /// SIGTERM.
    Term,
    /// A command that tells it to end.
    Say(Vec<String>),
}

/// A running child; `Drop` ends it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    stop: Stop,
    stderr: PathBuf,
    text: Vec<u8>,
    seen: usize,
}

/// A folder for sockets, configurations and what children say; removed at the end.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes `/tmp/NAME`, readable by us only.
    ///
    /// # Errors
    /// When it exists or cannot be made.
    pub fn create(name: &str) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(name);
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(Error::io(format!("make {}", path.display())))?;
        Ok(Self { path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it, as text for command lines.
    pub fn file(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind is a folder in /tmp with our name on it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The command line that runs `argv` in a namespace (`None`: ours) and dies with us.
fn entering(netns: Option<&str>, argv: &[String]) -> Result<Command> {
    let own = std::env::current_exe().map_err(Error::io("find our own executable"))?;
    let mut command = Command::new(own);
    command.args(["enter", netns.unwrap_or("-"), "--"]).args(argv).process_group(0);
    Ok(command)
}

/// Our own executable as the first word of a command line.
///
/// # Errors
/// When it cannot be found.
pub fn own(args: &[&str]) -> Result<Vec<String>> {
    let own = std::env::current_exe().map_err(Error::io("find our own executable"))?;
    Ok(std::iter::once(own.display().to_string()).chain(args.iter().map(ToString::to_string)).collect())
}

/// What `bench enter` does: becomes `argv` in the namespace. Only comes back with an error.
///
/// # Errors
/// When the namespace cannot be entered or the program not started.
pub fn exec_in(netns: &str, argv: &[String]) -> Result<()> {
    // A parent that is killed outright runs no Drop: the kernel then asks the child to end.
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(Error::io("parent-death signal"))?;
    if netns != "-" {
        ns::enter(netns)?;
    }
    let (program, args) =
        argv.split_first().ok_or(Error::Answer { who: "enter", detail: "no command".into() })?;
    let error = Command::new(program).args(args).exec();
    Err(Error::Io { what: format!("start {program}"), source: error })
}

impl Process {
    /// Starts `argv` in a namespace with its stdin and stdout on pipes and stderr in a file of `scratch`.
    ///
    /// # Errors
    /// When the process cannot be started. A program that is missing shows as its early end.
    pub fn start(scratch: &Scratch, netns: Option<&str>, argv: &[String], stop: Stop) -> Result<Self> {
        stop::check()?;
        let name =
            argv.first().map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).unwrap_or_default();
        let stderr = scratch.path().join(format!("{name}-{}.stderr", NEXT.fetch_add(1, Ordering::Relaxed)));
        let file = File::create(&stderr).map_err(Error::io(format!("make {}", stderr.display())))?;
        let child = entering(netns, argv)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .map_err(Error::io(format!("start {name}")))?;
        Ok(Self { child, name, stop, stderr, text: Vec::new(), seen: 0 })
    }

    /// Starts one of our loads in a namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn load(scratch: &Scratch, netns: &str, args: &[String]) -> Result<Self> {
        let mut argv = own(&["load"])?;
        argv.extend_from_slice(args);
        Self::start(scratch, Some(netns), &argv, Stop::Kill)
    }

    /// Process id, which survives the exec.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// That it still runs.
    ///
    /// # Errors
    /// When it has ended, with what it said.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(status) => Err(self.failure(status)),
            Err(error) => Err(Error::Io { what: format!("ask for {}", self.name), source: error }),
        }
    }

    /// Waits for a line that begins with `start`, and gives the rest of that line.
    ///
    /// # Errors
    /// When the process ends first, the limit passes, or we are interrupted.
    pub fn wait_line(&mut self, start: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            while let Some(line) = self.next_line() {
                if let Some(rest) = line.strip_prefix(start) {
                    return Ok(rest.trim().to_owned());
                }
            }
            if self.pump(deadline)? {
                let status = self.wait_exit(GRACE);
                return Err(self.failure(status));
            }
            if Instant::now() >= deadline {
                return Err(Error::Deadline { what: format!("`{start}` from {}", self.name), limit });
            }
        }
    }

    fn next_line(&mut self) -> Option<String> {
        let rest = self.text.get(self.seen..)?;
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        let line = String::from_utf8_lossy(rest.get(..end)?).into_owned();
        self.seen = self.seen.saturating_add(end).saturating_add(1);
        Some(line)
    }

    /// Closes stdin: for our own loads, the word to finish.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for the end and gives what it printed after the lines that were waited for.
    ///
    /// # Errors
    /// When it fails, the limit passes, or we are interrupted.
    pub fn finish(mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        while !self.pump(deadline)? {
            if Instant::now() >= deadline {
                return Err(Error::Deadline { what: format!("the end of {}", self.name), limit });
            }
        }
        let status = self.wait_exit(deadline.saturating_duration_since(Instant::now()).max(TICK));
        match status {
            Some(status) if status.success() => {
                Ok(String::from_utf8_lossy(self.text.get(self.seen..).unwrap_or_default()).into_owned())
            }
            other => Err(self.failure(other)),
        }
    }

    /// Reads what is there within one tick; true at the end of its output.
    fn pump(&mut self, deadline: Instant) -> Result<bool> {
        stop::check()?;
        let Some(out) = self.child.stdout.as_mut() else { return Ok(true) };
        let left = deadline.saturating_duration_since(Instant::now()).min(TICK);
        if !readable(out, left)? {
            return Ok(false);
        }
        let mut chunk = [0u8; 16384];
        let got = out.read(&mut chunk).map_err(Error::io(format!("read from {}", self.name)))?;
        self.text.extend_from_slice(chunk.get(..got).unwrap_or_default());
        Ok(got == 0)
    }

    fn wait_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        let pid = Pid::from_child(&self.child);
        if let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            // Whatever poll says, try_wait has the truth.
            let _ = readable(&handle, limit);
        }
        self.child.try_wait().ok().flatten()
    }

    fn failure(&self, status: Option<ExitStatus>) -> Error {
        let said = fs::read(&self.stderr).unwrap_or_default();
        let status = status.map_or_else(|| "still running".to_owned(), |status| status.to_string());
        // iperf3 -J puts its error on stdout.
        let said = if said.is_empty() { &self.text } else { &said };
        Error::Command { command: self.name.clone(), status, stderr: tail(said) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = Pid::from_child(&self.child);
        match &self.stop {
            Stop::Kill => {}
            Stop::Term => {
                // Gone already is as good.
                let _ = rustix::process::kill_process(pid, Signal::TERM);
            }
            Stop::Say(argv) => {
                if let Some((program, args)) = argv.split_first() {
                    let args: Vec<&str> = args.iter().map(String::as_str).collect();
                    // If it does not listen, the kill below ends it.
                    let _ = run(program, &args);
                }
            }
        }
        if !matches!(self.stop, Stop::Kill) && self.wait_exit(GRACE).is_some() {
            return;
        }
        // Not ended in an orderly way, or not worth one: it is our child and unreaped, so the pid is still its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// True when `source` has something to read (or is at its end) within `limit`.
fn readable(source: &impl AsFd, limit: Duration) -> Result<bool> {
    let timeout = Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    let mut fds = [PollFd::new(source, PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(Error::Io { what: "poll".into(), source: error.into() }),
    }
}

/// Runs a setting-up tool to its end and gives its output. Not interrupted by our own signals: guards use it too.
///
/// # Errors
/// When it cannot be started, fails, or takes too long.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    let command = format!("{program} {}", args.join(" "));
    let mut child = Command::new(program)
        .args(args)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::io(format!("start {program}")))?;
    if let Ok(handle) = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
        && !readable(&handle, TOOL_LIMIT)?
    {
        let _ = child.kill();
        let _ = child.wait();
        return Err(Error::Deadline { what: format!("the end of `{command}`"), limit: TOOL_LIMIT });
    }
    let output = child.wait_with_output().map_err(Error::io(format!("wait for {program}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Command { command, status: output.status.to_string(), stderr: tail(&output.stderr) })
}

/// The last lines of what a program said, on one line.
fn tail(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.get(lines.len().saturating_sub(4)..).unwrap_or_default().join(" / ")
}

/// Asks until the answer is yes.
///
/// # Errors
/// When the limit passes or we are interrupted, and whatever the question gives.
pub fn until(what: &str, limit: Duration, mut question: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !question()? {
        stop::check()?;
        if Instant::now() >= deadline {
            return Err(Error::Deadline { what: what.to_owned(), limit });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Where a program is, looking in `PATH` and the folders of system administration.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_last_lines() {
        assert_eq!(tail(b"1\n2\n\n3\n4\n5\n"), "2 / 3 / 4 / 5");
        assert_eq!(tail(b""), "");
    }

    #[test]
    fn a_failing_tool_says_why() {
        let error = run("ls", &["/nowhere/at/all"]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
        assert!(find_program("ls").is_some());
        assert!(find_program("no-such-program-here").is_none());
    }
}
