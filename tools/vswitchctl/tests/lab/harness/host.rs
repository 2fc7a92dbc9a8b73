//! Who runs a daemon, where, and what it is given.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::privilege::{OpenTun, User, binaries};
use super::{As, Background, Daemon, OTHER_ENGINE, arguments, names, random, run, skipped, wait_for};

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
    pub(super) user: Option<User>,
    pub(super) _tun: Option<OpenTun>,
    pub(super) namespaces: Vec<String>,
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

    /// A command of the daemon's user, outside, that runs meanwhile.
    pub fn background(&self, program: &str, words: &[&str]) -> Background {
        let mut command = self.command(program);
        let child = command
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Background { child: Some(child), what: format!("{program} {words:?}") }
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

fn skip(why: &str) -> Option<Host> {
    skipped(why);
    None
}
