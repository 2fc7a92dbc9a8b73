//! A real `vswitchd` on real namespaces, as root and as an ordinary user, driven by the real `vswitchctl`.
//!
//! Everything has random names and is removed at the end, whatever happened. Nothing sleeps to wait: [`wait_for`] looks
//! until its deadline.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take that takes milliseconds on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// As whom the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As {
    Root,
    User,
}

/// Makes `#[test]`s of a function: once as root, once as an ordinary user.
#[macro_export]
macro_rules! as_both {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => { $(
        mod $name {
            #[test]
            fn as_root() {
                if let Some(host) = $crate::harness::Host::new($crate::harness::As::Root) { super::$name(host) }
            }
            #[test]
            fn as_user() {
                if let Some(host) = $crate::harness::Host::new($crate::harness::As::User) { super::$name(host) }
            }
        }
    )+ };
}

/// The I/O engine that `io = "auto"` does not choose where both work. What is most likely to fail by an engine is run with
/// it once more; `VSWITCH_LAB_IO=epoll` (or `uring`, `auto`) runs everything with that one, and nothing twice.
pub const OTHER_ENGINE: &str = "epoll";

/// Makes `#[test]`s of functions, as root and with [`OTHER_ENGINE`].
#[macro_export]
macro_rules! on_other_engine {
    ($($name:ident),+ $(,)?) => { mod on_other_engine { $(
        #[test]
        fn $name() {
            use $crate::harness::{As, Host};
            if let Some(host) = Host::new(As::Root).and_then(Host::on_other_engine) { super::$name(host) }
        }
    )+ } };
}

/// Makes `#[test]`s of functions, as root and with two workers, of which each reads every other port: what one worker does
/// by itself is done between two. `VSWITCH_LAB_WORKERS=2` runs everything so, and nothing twice.
#[macro_export]
macro_rules! by_two_workers {
    ($($name:ident),+ $(,)?) => { mod by_two_workers { $(
        #[test]
        fn $name() {
            use $crate::harness::{As, Host};
            if let Some(host) = Host::new(As::Root).and_then(Host::by_two_workers) { super::$name(host) }
        }
    )+ } };
}

/// Looks until `look` finds something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10)); // the pace of looking, not the wait
    }
}

/// Who runs the daemon, where its files are, and how things of this test are named.
pub struct Host {
    pub who: As,
    pub dir: PathBuf,
    pub tag: String,
    /// The control socket of the configurations of this test.
    pub control: PathBuf,
    /// `io` of the configurations of this test.
    pub io: Option<String>,
    /// `workers` of the configurations of this test.
    pub workers: Option<String>,
    user: Option<User>,
    _tun: Option<OpenTun>,
    namespaces: Vec<String>,
    /// Words before the daemon's own, each a program that ends by running what follows: `prlimit --nofile=40 --`.
    pub around: Vec<String>,
    /// The same, as whoever runs the tests, before the user is changed.
    pub before: Vec<String>,
}

impl Host {
    /// `None`: it cannot be had here, which is said, and which fails where `CI` is set.
    pub fn new(who: As) -> Option<Self> {
        let root = rustix::process::geteuid().is_root();
        if who == As::Root && !root {
            return skip("needs root");
        }
        if !Path::new("/dev/net/tun").exists() {
            return skip("there is no /dev/net/tun");
        }
        let tag = format!("{:08x}", random());
        let (user, tun) = match (who, root) {
            (As::User, true) => (Some(User::make(&tag)), Some(OpenTun::open())),
            (As::User, false) if File::options().read(true).write(true).open("/dev/net/tun").is_err() => {
                return skip("this user may not open /dev/net/tun");
            }
            _ => (None, None),
        };
        let dir = std::env::temp_dir().join(format!("vswt-{tag}"));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        if let Some(user) = &user {
            chown(&dir, Some(user.id), Some(user.id)).unwrap();
        }
        let control = dir.join("run/control.sock");
        Some(Self {
            who,
            dir,
            tag,
            control,
            io: std::env::var("VSWITCH_LAB_IO").ok(),
            workers: std::env::var("VSWITCH_LAB_WORKERS").ok(),
            user,
            _tun: tun,
            namespaces: Vec::new(),
            around: Vec::new(),
            before: Vec::new(),
        })
    }

    /// The same with [`OTHER_ENGINE`]; `None` where one is chosen for all.
    pub fn on_other_engine(mut self) -> Option<Self> {
        let chosen = self.io.replace(OTHER_ENGINE.to_owned());
        chosen.is_none().then_some(self)
    }

    /// The same with two workers; `None` where a number is chosen for all.
    pub fn by_two_workers(mut self) -> Option<Self> {
        let chosen = self.workers.replace("2".to_owned());
        chosen.is_none().then_some(self)
    }

    /// A name in `/run/netns` (root) that belongs to this test alone.
    pub fn name(&self, short: &str) -> String {
        format!("vswt-{}-{short}", self.tag)
    }

    /// A command run as the daemon's user.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = match &self.user {
            None => Command::new(program.as_ref()),
            Some(user) => {
                let mut command = Command::new("setpriv");
                let id = user.id.to_string();
                command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(program.as_ref());
                command
            }
        };
        // What is on the tester's path may be closed to the user.
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", &self.dir).env_remove("XDG_RUNTIME_DIR").env_remove("XDG_STATE_HOME");
        command.stdin(Stdio::null()).current_dir(&self.dir);
        command
    }

    /// The daemon, in the circumstances of `before` and `around`.
    pub fn daemon_command(&self) -> Command {
        let daemon = binaries().join("vswitchd");
        let (first, rest) = match self.around.split_first() {
            Some((first, rest)) => (Path::new(first), rest),
            None => (daemon.as_path(), &[][..]),
        };
        let mut inner = self.command(first);
        inner.args(rest);
        if !self.around.is_empty() {
            inner.arg(&daemon);
        }
        let Some((first, rest)) = self.before.split_first() else { return inner };
        let mut outer = Command::new(first);
        outer.args(rest).arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => outer.env(name, value),
                None => outer.env_remove(name),
            };
        }
        outer.stdin(Stdio::null()).current_dir(&self.dir);
        outer
    }

    /// A process in a network namespace of its own: as an ordinary user in a user namespace of its own, too.
    pub fn contained(&self) -> Contained {
        let mut command = self.command("unshare");
        command.arg(if self.who == As::Root { "-n" } else { "-Urn" });
        let child = command.args(["sleep", "1000"]).spawn().unwrap();
        let pid = child.id();
        let contained = Contained { child };
        wait_for("a process in a namespace", || (arguments(pid).first()? == "sleep").then_some(()));
        contained
    }

    /// A file for the daemon to read, owned by its user.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A namespace made by `ip netns add`, removed at the end. Root only.
    pub fn netns(&mut self, short: &str) -> String {
        let name = self.name(short);
        run("ip", &["netns", "add", &name]);
        self.namespaces.push(name.clone());
        name
    }

    /// `[daemon]` with paths of this test; containers and networks follow.
    pub fn configuration(&self, rest: &str) -> String {
        let dir = self.dir.display();
        let io = self.io.as_ref().map_or_else(String::new, |io| format!("io = \"{io}\"\n"));
        let workers = self.workers.as_ref().map_or_else(String::new, |count| format!("workers = {count}\n"));
        format!(
            "[daemon]\ncontrol = \"{dir}/run/control.sock\"\nstate = \"{dir}/state\"\n{io}{workers}{rest}"
        )
    }

    /// Network `blue` (10.1.0.0/24) with `create`d containers `a`, `b`, ...: addresses from 10.1.0.2 on.
    pub fn lab(&self, containers: &[&str], network: &str) -> String {
        let mut text = format!("[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\n{network}\n");
        for name in containers {
            let netns = self.name(name);
            let _ = write!(
                text,
                "[[container]]\nname = \"{name}\"\nnetns = \"{netns}\"\ncreate = true\n\
                 [[container.interface]]\nnetwork = \"blue\"\n"
            );
        }
        self.configuration(&text)
    }

    /// Starts the daemon and waits for its `ready` line.
    #[track_caller]
    pub fn start(self, configuration: &str) -> Daemon {
        let file = self.write("lab.toml", configuration);
        Daemon::start(self, &file)
    }

    /// Runs `vswitchd` to its end.
    pub fn vswitchd(&self, arguments: &[&str]) -> Output {
        self.command(binaries().join("vswitchd")).args(arguments).output().unwrap()
    }

    /// Runs `vswitchctl` on a socket.
    pub fn vswitchctl(&self, socket: &Path, arguments: &[&str]) -> Output {
        let mut command = self.command(binaries().join("vswitchctl"));
        command.arg("--socket").arg(socket).args(arguments).output().unwrap()
    }

    /// The id of the user that was made for this test.
    pub fn user_id(&self) -> Option<u32> {
        self.user.as_ref().map(|user| user.id)
    }

    /// Runs `vswitchctl` as the user calls it: it finds the socket by itself.
    pub fn vswitchctl_of_user(&self, arguments: &[&str]) -> Output {
        self.command(binaries().join("vswitchctl")).args(arguments).output().unwrap()
    }

    /// Names in `/run/netns` that a daemon of this test made.
    pub fn made(&self) -> Vec<String> {
        let prefix = format!("vswt-{}-", self.tag);
        let ours = |name: &String| name.starts_with(&prefix) && !self.namespaces.contains(name);
        names("/run/netns").into_iter().filter(ours).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for name in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A process that keeps a namespace alive; ended with this.
pub struct Contained {
    child: Child,
}

impl Contained {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A command run in its network namespace, by whoever runs the tests.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        let pid = self.pid().to_string();
        run("nsenter", &[&["-t", &pid, "-n", "--"], words].concat())
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running daemon.
pub struct Daemon {
    pub host: Host,
    child: Child,
    pub ready: String,
    log: Option<JoinHandle<String>>,
    logged: PathBuf,
}

impl Daemon {
    #[track_caller]
    fn start(host: Host, file: &Path) -> Self {
        let logged = host.dir.join("log");
        File::create(&logged).unwrap();
        let (child, ready, log) = launch(&host, file, &logged, &[]);
        let daemon = Self { host, child, ready, log: Some(log), logged };
        daemon.check_ready();
        daemon
    }

    #[track_caller]
    fn check_ready(&self) {
        assert!(self.ready.starts_with("ready: "), "said {:?}; log:\n{}", self.ready, self.log());
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.logged).unwrap_or_default()
    }

    /// The keeper: the process that was started.
    pub fn pid(&self) -> u32 {
        // As an ordinary user it was started through `setpriv`, which becomes it.
        self.child.id()
    }

    /// The engine's process id, as seen from here.
    pub fn engine(&self) -> u32 {
        wait_for("the engine process", || {
            let children = children_of(self.pid());
            children.into_iter().find(|pid| arguments(*pid).get(1).is_some_and(|word| word == "engine"))
        })
    }

    /// Waits until another engine than `old` answers.
    #[track_caller]
    pub fn wait_engine_after(&self, old: u32) {
        wait_for("another engine", || {
            let output = self.try_ctl(&["--json", "show", "status"]);
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            let pid = status["engine_pid"].as_u64()?;
            (pid != u64::from(old) && status["ports"]["waiting"] == 0).then_some(())
        });
    }

    /// All processes below the keeper.
    pub fn descendants(&self) -> Vec<u32> {
        let mut all = children_of(self.pid());
        let mut next = 0;
        while let Some(pid) = all.get(next) {
            all.extend(children_of(*pid));
            next += 1;
        }
        all
    }

    pub fn socket(&self) -> PathBuf {
        self.host.control.clone()
    }

    /// Runs `vswitchctl`.
    pub fn try_ctl(&self, arguments: &[&str]) -> Output {
        self.ctl_command(arguments).output().unwrap()
    }

    /// A `vswitchctl` to be run.
    pub fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command(binaries().join("vswitchctl"));
        command.arg("--socket").arg(self.socket()).args(arguments);
        command
    }

    /// Runs `vswitchctl`, which must succeed; its standard output.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.try_ctl(arguments);
        assert!(output.status.success(), "vswitchctl {arguments:?}: {}\nlog:\n{}", text(&output), self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// The rows of `vswitchctl --json show WHAT`.
    #[track_caller]
    pub fn rows(&self, what: &str) -> Vec<Value> {
        match serde_json::from_str(&self.ctl(&["--json", "show", what])).unwrap() {
            Value::Array(rows) => rows,
            other => vec![other],
        }
    }

    /// State of a container's port.
    pub fn state(&self, container: &str) -> String {
        let rows = self.rows("ports");
        let row = rows.iter().find(|row| row["container"] == container);
        row.map_or_else(String::new, |row| row["state"].as_str().unwrap().to_owned())
    }

    #[track_caller]
    pub fn wait_state(&self, container: &str, state: &str) {
        let mut last = String::new();
        wait_for(&format!("{container} to be {state}"), || {
            last = self.state(container);
            (last == state).then_some(())
        });
    }

    /// Frames dropped for a reason.
    pub fn dropped(&self, reason: &str) -> u64 {
        let rows = self.rows("drops");
        rows.iter().find(|row| row["reason"] == reason).map_or(0, |row| row["frames"].as_u64().unwrap())
    }

    /// A command in a container, by `vswitchctl exec`.
    pub fn exec_command(&self, container: &str, words: &[&str]) -> Command {
        let mut command = self.host.command(binaries().join("vswitchctl"));
        command.arg("--socket").arg(self.socket()).args(["exec", container, "--"]).args(words);
        command
    }

    pub fn try_exec(&self, container: &str, words: &[&str]) -> Output {
        self.exec_command(container, words).output().unwrap()
    }

    #[track_caller]
    pub fn exec(&self, container: &str, words: &[&str]) -> String {
        let output = self.try_exec(container, words);
        assert!(output.status.success(), "{container}: {words:?}: {}\nlog:\n{}", text(&output), self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// One ping, answered.
    #[track_caller]
    pub fn ping(&self, from: &str, to: &str) {
        self.exec(from, &["ping", "-n", "-c", "1", "-W", "5", to]);
    }

    /// Tells the daemon to end, waits, and looks whether anything is left.
    #[track_caller]
    pub fn stop(mut self) {
        self.end("-TERM");
    }

    /// The same with a signal of one's choice; the daemon can be started again.
    #[track_caller]
    pub fn end(&mut self, signal: &str) {
        let (engine, socket) = (self.engine(), self.socket());
        self.signal(signal);
        let status = wait_for("the daemon to end", || self.child.try_wait().unwrap());
        assert!(status.success(), "ended with {status}; log:\n{}", self.log());
        assert!(!socket.exists(), "the control socket is left");
        assert!(!Path::new(&format!("/proc/{engine}")).exists(), "the engine is left");
        let rest = self.log.take().unwrap().join().unwrap();
        assert_eq!(rest, "", "one `ready` line and nothing more");
        assert_eq!(self.host.made(), [] as [String; 0], "namespaces are left");
    }

    /// Ends it and starts it again with the same file.
    #[track_caller]
    pub fn restart(&mut self) {
        self.end("-TERM");
        self.begin();
    }

    /// Starts it again after [`Daemon::end`].
    #[track_caller]
    pub fn begin(&mut self) {
        let (child, ready, log) = launch(&self.host, &self.host.dir.join("lab.toml"), &self.logged, &[]);
        (self.child, self.ready, self.log) = (child, ready, Some(log));
        self.check_ready();
    }

    /// Another daemon with the same file takes over from this one, which ends well and says nothing more.
    #[track_caller]
    pub fn take_over(&mut self) {
        let (child, ready, log) =
            launch(&self.host, &self.host.dir.join("lab.toml"), &self.logged, &["--take-over"]);
        assert!(ready.starts_with("ready: "), "said {ready:?}; log:\n{}", self.log());
        let mut old = std::mem::replace(&mut self.child, child);
        let rest = self.log.replace(log);
        self.ready = ready;
        let status = wait_for("the old daemon to end", || old.try_wait().unwrap());
        assert!(status.success(), "the old one ended with {status}; log:\n{}", self.log());
        assert_eq!(rest.unwrap().join().unwrap(), "", "one `ready` line and nothing more");
    }

    /// Writes the daemon's file anew, and tells it.
    #[track_caller]
    pub fn reload(&self, configuration: &str) -> String {
        self.host.write("lab.toml", configuration);
        self.ctl(&["reload"])
    }

    /// The row of a container's port in `show ports`.
    #[track_caller]
    pub fn port(&self, container: &str) -> Value {
        let rows = self.rows("ports");
        rows.into_iter().find(|row| row["container"] == container).unwrap()
    }

    /// An interface as the container's kernel sees it: `ip -json address`.
    #[track_caller]
    pub fn link(&self, container: &str, iface: &str) -> Value {
        let links = self.links(container);
        links.into_iter().find(|link| link["ifname"] == iface).unwrap()
    }

    /// All of them.
    #[track_caller]
    pub fn links(&self, container: &str) -> Vec<Value> {
        serde_json::from_str(&self.exec(container, &["ip", "-json", "address"])).unwrap()
    }

    /// A command that runs in a container meanwhile.
    pub fn background(&self, container: &str, words: &[&str]) -> Background {
        let mut command = self.exec_command(container, words);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Background { child: Some(child), what: format!("{container}: {words:?}") }
    }

    /// Kills the keeper without a word; what it leaves behind is the caller's.
    pub fn kill_keeper(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends what an earlier [`Daemon::kill_keeper`] left, by its number, and gives the host back.
    pub fn kill_engine(self, engine: u32) -> Host {
        run("kill", &["-KILL", &engine.to_string()]);
        gone(engine);
        self.into_host()
    }

    fn into_host(mut self) -> Host {
        let left = Host {
            who: self.host.who,
            dir: PathBuf::new(),
            tag: String::new(),
            control: PathBuf::new(),
            io: None,
            workers: None,
            user: None,
            _tun: None,
            namespaces: Vec::new(),
            around: Vec::new(),
            before: Vec::new(),
        };
        std::mem::replace(&mut self.host, left)
    }

    /// Why a container's port is not up.
    #[track_caller]
    pub fn reason(&self, container: &str) -> String {
        self.port(container)["reason"].as_str().unwrap_or_default().to_owned()
    }

    /// What came in went somewhere: the conservation law, once nothing is under way.
    #[track_caller]
    pub fn assert_conserved(&self) {
        let mut last = Value::Null;
        let looked = (0..50).any(|_| {
            last = self.rows("stats")[0]["workers"][0].clone();
            let of = |name: &str| last[name].as_u64().unwrap();
            let came = of("rx") + of("generated") + of("released");
            came == of("forwarded") + of("flooded") + of("local") + of("held") + of("drops")
        });
        assert!(looked, "frames are lost without a reason: {last}");
    }

    pub fn signal(&self, signal: &str) {
        run("kill", &[signal, &self.pid().to_string()]);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
            let deadline = Instant::now() + Duration::from_secs(10);
            while let Ok(None) = self.child.try_wait() {
                if Instant::now() > deadline {
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        if std::thread::panicking() {
            eprintln!("log of the daemon:\n{}", self.log());
        }
    }
}

/// Starts the daemon: its process, its first line, and who collects the others.
fn launch(host: &Host, file: &Path, logged: &Path, options: &[&str]) -> (Child, String, JoinHandle<String>) {
    let mut command = host.daemon_command();
    command.arg("--config").arg(file).args(options).stdout(Stdio::piped());
    command.stderr(File::options().append(true).open(logged).unwrap());
    let mut child = command.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut ready = String::new();
    out.read_line(&mut ready).unwrap();
    let log = std::thread::spawn(move || {
        let mut rest = String::new();
        let _ = out.read_to_string(&mut rest);
        rest
    });
    (child, ready, log)
}

/// A command that runs in a container while something else happens; it does not outlive this.
pub struct Background {
    child: Option<Child>,
    what: String,
}

impl Background {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: &str) {
        run("kill", &[signal, &self.pid().to_string()]);
    }

    /// Its end, whatever it is.
    pub fn end(mut self) -> Output {
        let child = self.child.as_mut().unwrap();
        // Output is a few lines: it fits in the pipes.
        let deadline = Instant::now() + 3 * PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
                let output = self.child.take().unwrap().wait_with_output().unwrap();
                panic!("{} does not end: {}", self.what, text(&output));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.take().unwrap().wait_with_output().unwrap()
    }

    /// Its standard output; it must end well.
    #[track_caller]
    pub fn finish(self) -> String {
        let what = self.what.clone();
        let output = self.end();
        assert!(output.status.success(), "{what}: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A user of its own, removed at the end.
struct User {
    name: String,
    id: u32,
}

impl User {
    fn make(tag: &str) -> Self {
        let name = format!("vswt{tag}");
        let _one_at_a_time = lock("vswt-users.lock", rustix::fs::FlockOperation::LockExclusive);
        run(
            "useradd",
            &["--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", &name],
        );
        let output = Command::new("id").args(["-u", &name]).output().unwrap();
        let id = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        Self { name, id }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _one_at_a_time = lock("vswt-users.lock", rustix::fs::FlockOperation::LockExclusive);
        // Its processes are gone or going; the account is what is removed.
        let _ = Command::new("userdel").args(["--force", &self.name]).stderr(Stdio::null()).status();
    }
}

/// `/dev/net/tun` open to everybody, for as long as any test holds this; then as it was.
struct OpenTun {
    _lock: File,
}

const TUN: &str = "/dev/net/tun";
const TUN_MODE: &str = "vswt-tun.mode";

impl OpenTun {
    fn open() -> Self {
        let gate = lock("vswt-tun.gate", rustix::fs::FlockOperation::LockExclusive);
        let mode = fs::metadata(TUN).unwrap().mode() & 0o7777;
        let kept = std::env::temp_dir().join(TUN_MODE);
        if mode & 0o006 != 0o006 {
            fs::write(&kept, mode.to_string()).unwrap();
            fs::set_permissions(TUN, fs::Permissions::from_mode(0o666)).unwrap();
        }
        let shared = lock("vswt-tun.lock", rustix::fs::FlockOperation::LockShared);
        drop(gate);
        Self { _lock: shared }
    }
}

impl Drop for OpenTun {
    fn drop(&mut self) {
        let _gate = lock("vswt-tun.gate", rustix::fs::FlockOperation::LockExclusive);
        // Only the last holder gets it alone.
        if rustix::fs::flock(&self._lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
            let kept = std::env::temp_dir().join(TUN_MODE);
            if let Some(mode) = fs::read_to_string(&kept).ok().and_then(|mode| mode.parse().ok()) {
                let _ = fs::set_permissions(TUN, fs::Permissions::from_mode(mode));
                let _ = fs::remove_file(kept);
            }
        }
    }
}

fn lock(name: &str, operation: rustix::fs::FlockOperation) -> File {
    let path = std::env::temp_dir().join(name);
    let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
    rustix::fs::flock(&file, operation).unwrap();
    file
}

/// The folder of the two programs, where every user can run them.
pub fn binaries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let built = Path::new(env!("CARGO_BIN_EXE_vswitchctl")).parent().unwrap();
        let daemon = built.join("vswitchd");
        assert!(daemon.exists(), "{} is not built: cargo build --workspace --bins", daemon.display());
        let stamp: i64 = ["vswitchd", "vswitchctl"]
            .iter()
            .map(|name| fs::metadata(built.join(name)).unwrap())
            .map(|metadata| metadata.mtime().wrapping_mul(1_000_000_007).wrapping_add(metadata.mtime_nsec()))
            .fold(0, i64::wrapping_add);
        let folder = std::env::temp_dir().join(format!("vswt-bin-{:016x}", stamp));
        let _one_at_a_time = lock("vswt-bin.lock", rustix::fs::FlockOperation::LockExclusive);
        if !folder.exists() {
            remove_old_binaries();
            let new = folder.with_extension("new");
            let _ = fs::remove_dir_all(&new);
            fs::create_dir(&new).unwrap();
            for name in ["vswitchd", "vswitchctl"] {
                // Debug information makes them large: a link where that is possible.
                let (from, to) = (built.join(name), new.join(name));
                fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(|_| ())).unwrap();
                fs::set_permissions(new.join(name), fs::Permissions::from_mode(0o755)).unwrap();
            }
            fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(new, &folder).unwrap();
        }
        folder
    })
}

/// Removes those of earlier builds; no test runs for an hour.
fn remove_old_binaries() {
    let temporary = std::env::temp_dir();
    for name in names(&temporary).iter().filter(|name| name.starts_with("vswt-bin-")) {
        let folder = temporary.join(name);
        let age = fs::metadata(&folder).and_then(|metadata| metadata.modified()).map(|made| made.elapsed());
        if matches!(age, Ok(Ok(age)) if age > Duration::from_secs(3600)) {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// A program in Python that runs in a container; the words after it are its arguments.
pub const PYTHON: &str = "/usr/bin/python3";

/// Waits for the end of a process.
#[track_caller]
pub fn gone(pid: u32) {
    let path = format!("/proc/{pid}/stat");
    wait_for(&format!("process {pid} to end"), || match fs::read_to_string(&path) {
        Err(_) => Some(()),
        // Ended, and nobody has asked how.
        Ok(stat) => {
            let ended = stat.rsplit(')').next()?.trim_start().starts_with('Z');
            (ended && names(format!("/proc/{pid}/task")).len() < 2).then_some(())
        }
    });
}

/// Pings that go on until they are counted.
pub struct Train {
    child: Child,
}

impl Train {
    /// A hundred pings a second from one container to an address.
    #[track_caller]
    pub fn start(daemon: &Daemon, from: &str, to: &str) -> Self {
        daemon.ping(from, to); // addresses are resolved
        let mut command = daemon.exec_command(from, &["ping", "-n", "-q", "-i", "0.01", to]);
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        wait_for("ping to run", || (arguments(child.id()).first()? == "ping").then_some(()));
        Self { child }
    }

    /// Ends it: all but a ping that was on its way was answered.
    #[track_caller]
    pub fn assert_lost_nothing(mut self) {
        run("kill", &["-INT", &self.child.id().to_string()]);
        let mut said = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        self.child.wait().unwrap();
        let summary = said.lines().find(|line| line.contains("packets transmitted")).unwrap_or_default();
        let numbers: Vec<u64> = summary.split(' ').filter_map(|word| word.parse().ok()).take(2).collect();
        let [sent, received] = numbers[..] else { panic!("ping said {said:?}") };
        assert!(received > 0 && sent - received <= 1, "{summary}");
    }
}

impl Drop for Train {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn skip(why: &str) -> Option<Host> {
    skipped(why);
    None
}

/// A test, or a part of it, cannot have what it needs: said, and a failure where it must run.
#[track_caller]
pub fn skipped(why: &str) {
    eprintln!("skipped: {why}");
    assert!(std::env::var_os("CI").is_none(), "skipped where it must run: {why}");
}

/// Runs a command that must succeed.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Both outputs of a command, for messages.
pub fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}{err}", output.status)
}

pub fn random() -> u32 {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    u32::from_ne_bytes(bytes)
}

/// Names in a folder; none if it is not there.
pub fn names(folder: impl AsRef<Path>) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

pub fn children_of(pid: u32) -> Vec<u32> {
    let tasks = names(format!("/proc/{pid}/task"));
    let lists = tasks.iter().map(|task| fs::read_to_string(format!("/proc/{pid}/task/{task}/children")));
    lists
        .flatten()
        .flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The command line of a process.
pub fn arguments(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Seconds of CPU that a process used.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Bytes of memory that a process has.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Open descriptors of a process.
pub fn descriptors(pid: u32) -> usize {
    names(format!("/proc/{pid}/fd")).len()
}
