//! Starting the daemon, talking to its engine.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use vswitchd::keeper::{self, KeeperOptions};
use vswitchd::wire::{Answer, Op, Refusal, Target};

use super::engine::{Ask, Reply, Status};

/// `daemon FOLDER ENGINE-ARGUMENTS...`: everything it needs is in the folder.
pub fn main(folder: &str, engine: &[&str]) -> ExitCode {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    // A word of the folder's: the daemon takes over.
    let (folder, take_over) = match folder.strip_suffix("+") {
        Some(folder) => (PathBuf::from(folder), true),
        None => (PathBuf::from(folder), false),
    };
    let config = folder.join("config.toml");
    let options = KeeperOptions {
        config_text: fs::read_to_string(&config).unwrap(),
        config,
        control: folder.join("run/control.sock"),
        state: folder.join("state"),
        take_over,
        engine: engine.iter().map(Into::into).collect(),
    };
    keeper::run(options)
}

/// `visit TARGET PROGRAM...`: what `vswitchctl exec` does.
pub fn visit(target: &str, program: &[&str]) -> ExitCode {
    let target: Target = serde_json::from_str(target).unwrap();
    if let Err(error) = keeper::enter(&target) {
        eprintln!("{error}");
        return ExitCode::from(125);
    }
    eprintln!("{}", keeper::exec(&program.iter().map(Into::into).collect::<Vec<_>>()));
    ExitCode::from(126)
}

/// A name that nobody else on the machine uses.
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("vsr{:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

pub fn ip(arguments: &[&str]) -> String {
    run(Command::new("ip").args(arguments))
}

/// Someone who runs daemons: root, or a user.
#[derive(Clone, Debug)]
pub struct Who {
    pub uid: u32,
    pub gid: u32,
}

impl Who {
    pub const ROOT: Self = Self { uid: 0, gid: 0 };

    /// A program run by them.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        if self.uid == 0 {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={}", self.uid))
            .arg(format!("--regid={}", self.gid))
            .args(["--clear-groups", "--"])
            .arg(program)
            .env_remove("XDG_RUNTIME_DIR");
        command
    }
}

/// A folder with a copy of this program and all that a daemon writes; removed at the end.
pub struct Folder {
    pub path: PathBuf,
    pub who: Who,
    /// Mode of the `/dev/net/tun` that the daemon sees; `None`: the host's.
    pub tun: Option<u32>,
}

/// A `/dev/net/tun` of the daemon's own in a private mount namespace: `MODE FOLDER PROGRAM ...`. Nothing of the host
/// changes, so tests of other users may run beside it.
const OWN_TUN: &str = "set -e; mkdir -p $2/dev; mount -t tmpfs none $2/dev; mknod $2/dev/tun c 10 200; \
                       chmod $1 $2/dev/tun; mount --bind $2/dev/tun /dev/net/tun; shift 2; exec \"$@\"";

impl Folder {
    pub fn new(who: &Who) -> Self {
        Self::with_tun(who, None)
    }

    pub fn with_tun(who: &Who, tun: Option<u32>) -> Self {
        let path = std::env::temp_dir().join(unique());
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        fs::copy(std::env::current_exe().unwrap(), path.join("program")).unwrap();
        fs::write(path.join("config.toml"), "first").unwrap();
        std::os::unix::fs::chown(&path, Some(who.uid), Some(who.gid)).unwrap();
        Self { path, who: who.clone(), tun }
    }

    pub fn control(&self) -> PathBuf {
        self.path.join("run/control.sock")
    }

    pub fn program(&self, arguments: &[&str]) -> Command {
        let mut command = self.who.command(self.path.join("program"));
        command.args(arguments).current_dir("/");
        command
    }

    /// The daemon.
    fn daemon(&self, engine: &[&str], takes_over: bool) -> Command {
        let path = self.path.to_str().unwrap();
        let named = format!("{path}{}", if takes_over { "+" } else { "" });
        let Some(mode) = self.tun else {
            let mut command = self.program(&["daemon", &named]);
            command.args(engine);
            return command;
        };
        let (program, uid, gid) = (self.path.join("program"), self.who.uid, self.who.gid);
        let mut command = Command::new("unshare");
        // Slave: namespaces that get a name on the host still appear.
        command
            .args([
                "--mount",
                "--propagation",
                "slave",
                "sh",
                "-c",
                OWN_TUN,
                "sh",
                &format!("{mode:o}"),
                path,
            ])
            .args(["setpriv", &format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups", "--"])
            .arg(program)
            .args(["daemon", &named])
            .args(engine)
            .env_remove("XDG_RUNTIME_DIR")
            .current_dir("/");
        command
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path.join("log")).unwrap()
    }

    /// Enters a container as `vswitchctl exec` does.
    pub fn visit(&self, target: &Target, program: &[&str]) -> String {
        let target = serde_json::to_string(target).unwrap();
        run(self.program(&["visit", &target]).args(program))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}", self.log());
        }
        fs::remove_dir_all(&self.path).unwrap();
    }
}

/// A running daemon. Killed, with its engine, if a test fails.
pub struct Daemon<'a> {
    pub folder: &'a Folder,
    pub child: Child,
    /// Its first line.
    pub ready: String,
}

impl<'a> Daemon<'a> {
    /// Starts and waits for the `ready` line.
    pub fn start(folder: &'a Folder) -> Self {
        Self::start_with(folder, &[])
    }

    /// The same with variables in its environment.
    pub fn start_with(folder: &'a Folder, environment: &[(&str, &str)]) -> Self {
        Self::spawn_with(folder, false, &["engine"], environment).wait_ready()
    }

    /// Takes over from the daemon of the same folder.
    pub fn take_over(folder: &'a Folder) -> Self {
        Self::spawn_heir(folder).wait_ready()
    }

    pub fn spawn_heir(folder: &'a Folder) -> Self {
        Self::spawn_with(folder, true, &["engine"], &[])
    }

    fn wait_ready(self) -> Self {
        let mut daemon = self;
        let folder = daemon.folder;
        let mut stdout = BufReader::new(daemon.child.stdout.take().unwrap());
        stdout.read_line(&mut daemon.ready).unwrap();
        assert!(daemon.ready.starts_with("ready"), "{:?}, log: {}", daemon.ready, folder.log());
        daemon
    }

    pub fn spawn(folder: &'a Folder, engine: &[&str]) -> Self {
        Self::spawn_with(folder, false, engine, &[])
    }

    fn spawn_with(
        folder: &'a Folder,
        takes_over: bool,
        engine: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let log = File::options().create(true).append(true).open(folder.path.join("log")).unwrap();
        let child = folder
            .daemon(engine, takes_over)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        Self { folder, child, ready: String::new() }
    }

    pub fn ask(&self, ask: &Ask) -> Reply {
        let mut stream = UnixStream::connect(self.folder.control()).unwrap();
        writeln!(stream, "{}", serde_json::to_string(ask).unwrap()).unwrap();
        let mut line = String::new();
        stream.read_to_string(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{ask:?}: {error} in {line:?}"))
    }

    pub fn op(&self, op: Op) -> Result<Answer, Refusal> {
        match self.ask(&Ask::Op(op)) {
            Reply::Answer(result) => result,
            other => panic!("{other:?}"),
        }
    }

    pub fn together(&self, ops: Vec<Op>) -> Vec<Result<Answer, Refusal>> {
        match self.ask(&Ask::Together(ops)) {
            Reply::Answers(answers) => answers,
            other => panic!("{other:?}"),
        }
    }

    pub fn status(&self) -> Status {
        match self.ask(&Ask::Status) {
            Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub fn locate(&self, container: &str) -> Target {
        let netns = vswitchd::wire::NetnsRef::Name(container.to_owned());
        match self.op(Op::Locate { container: container.to_owned(), netns }).unwrap() {
            Answer::Target(target) => target,
            other => panic!("{other:?}"),
        }
    }

    pub fn frame(&self, container: &str, ifname: &str, ethertype: u16) -> Option<Vec<u8>> {
        let (container, ifname) = (container.to_owned(), ifname.to_owned());
        match self.ask(&Ask::Frame { container, ifname, ethertype }) {
            Reply::Frame(frame) => frame,
            other => panic!("{other:?}"),
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The keeper's process id; `setpriv` becomes the program it runs.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until("the daemon ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// SIGTERM; it must end with success.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}, log: {}", self.folder.log());
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.signal(Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(10);
            while self.child.try_wait().unwrap().is_none() {
                if Instant::now() > deadline {
                    self.child.kill().unwrap();
                }
                std::thread::yield_now();
            }
        }
    }
}

/// Process ids of processes that run the program in `folder`.
pub fn processes_of(folder: &Path) -> Vec<u32> {
    let program = folder.join("program");
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)).collect()
}
