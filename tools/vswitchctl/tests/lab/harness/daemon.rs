//! A running daemon, and what it says of itself.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::privilege::binaries;
use super::{Background, Host, arguments, children_of, gone, run, text, wait_for};

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
    pub(super) fn start(host: Host, file: &Path) -> Self {
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
