//! As an ordinary user: one made for the test, with a `/dev/net/tun` of the daemon's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use switch::sys::netns;
use switch::sys::tun::DEVICE;
use vswitchd::wire::{Answer, AttachSpec, NetnsRef, Op, RefusalKind};

use super::daemon::{Daemon, Folder, Who, ip, processes_of, run, unique, until};
use super::engine::spec;
use super::takeover::interfaces_of;

/// A user of the host, gone at the end.
struct User {
    name: String,
    who: Who,
}

impl User {
    fn new() -> Option<Self> {
        let why = match () {
            () if !rustix::process::geteuid().is_root() => "needs root, to make a user",
            () if !Path::new(DEVICE).exists() => "there is no /dev/net/tun",
            () if !works("useradd") || !works("setpriv") => "useradd and setpriv are missing",
            () => return Some(Self::make()),
        };
        assert!(std::env::var("CI").is_err(), "rootless tests in CI: {why}");
        println!("skipped: {why}");
        None
    }

    fn make() -> Self {
        let name = unique();
        run(Command::new("useradd").args(["--no-create-home", "--shell", "/bin/sh", &name]));
        let id = |flag: &str| run(Command::new("id").args([flag, &name])).trim().parse().unwrap();
        Self { who: Who { uid: id("-u"), gid: id("-g") }, name }
    }

    /// A folder for a daemon that sees a device of this mode.
    fn folder(&self, tun: u32) -> Folder {
        Folder::with_tun(&self.who, Some(tun))
    }
}

impl Drop for User {
    fn drop(&mut self) {
        run(Command::new("userdel").arg(&self.name));
    }
}

fn works(program: &str) -> bool {
    Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn host_netns() -> (u64, u64) {
    netns::identity_of(Path::new("/proc/self/ns/net")).unwrap()
}

pub fn makes_serves_and_forgets() {
    let Some(user) = User::new() else { return };
    let folder = user.folder(0o666);
    let daemon = Daemon::start(&folder);
    let status = daemon.status();
    assert!(status.begin.rootless);
    assert_eq!(status.begin.keeper_pid, daemon.pid());
    assert_eq!(status.netns, host_netns(), "sockets of the engine are the host's");
    assert!(status.process.contains("CapEff:\t0000000000000000\n"), "{}", status.process);

    let name = unique();
    let attached = daemon.op(Op::Attach(spec(&name, 10))).unwrap();
    assert!(
        matches!(&attached, Answer::Attached(info) if info.created && info.offloads != 0 && info.gso_writes)
    );
    assert!(!Path::new("/run/netns").join(&name).exists());
    // The same user enters from outside, is root in there, and speaks to the TAP.
    let target = daemon.locate(&name);
    assert!(target.net_ns.starts_with(format!("/proc/{}/fd", daemon.pid())), "{target:?}");
    assert!(folder.visit(&target, &["ip", "-o", "address"]).contains("10.1.0.10/16"));
    assert!(folder.visit(&target, &["ip", "-o", "link", "show", "eth0"]).contains("state UP"));
    assert_eq!(folder.visit(&target, &["id", "-u"]), "0\n");
    folder.visit(&target, &["sh", "-c", "ping -c1 -W1 10.1.0.77 >/dev/null || true"]);
    let arp = daemon.frame(&name, "eth0", 0x0806).expect("an ARP request");
    assert_eq!(arp[38..42], [10, 1, 0, 77]);

    // Ids of the host's range, where there is one.
    let map = fs::read_to_string(format!("/proc/{}/uid_map", daemon.pid())).unwrap();
    let ranged = fs::read_to_string("/etc/subuid").unwrap_or_default().contains(&format!("{}:", user.name));
    assert_eq!(map.lines().count(), if ranged && works("newuidmap") { 2 } else { 1 }, "{map}");

    // Its command, and a new engine, find it too.
    let argv = ["sh", "-c", "ip -o address show eth0; exec sleep 1000"].map(str::to_owned).to_vec();
    daemon.op(Op::Run { container: name.clone(), argv }).unwrap();
    until("the command's output", || folder.log().contains("inet 10.1.0.10/16"));
    let engine = status.pid;
    run(Command::new("kill").args(["-9", &engine.to_string()]));
    let second = daemon.status();
    assert_eq!((second.begin.restarts, second.adopted), (1, 1));
    assert!(second.taps[0].2);
    daemon.op(Op::Release { container: name.clone() }).unwrap();
    let gone = Op::Locate { container: name.clone(), netns: NetnsRef::Name(name.clone()) };
    assert_eq!(daemon.op(gone).unwrap_err().kind, RefusalKind::Absent);

    daemon.stop();
    assert!(!folder.control().exists());
    until("all processes gone", || processes_of(&folder.path).is_empty());
}

pub fn reaches_a_container_of_the_same_user() {
    let Some(user) = User::new() else { return };
    let folder = user.folder(0o666);
    let daemon = Daemon::start(&folder);
    // As a rootless podman container: a user namespace of its own beside ours.
    let mut container =
        Process(user.who.command("unshare").args(["-Urn", "cat"]).stdin(Stdio::piped()).spawn().unwrap());
    let pid = container.0.id();
    let net = PathBuf::from(format!("/proc/{pid}/ns/net"));
    until("unshare", || netns::identity_of(&net).is_ok_and(|id| id != host_netns()));
    until("its ids are mapped", || !fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap().is_empty());

    let by_pid = AttachSpec { netns: NetnsRef::Pid(pid), create: false, ..spec("web", 10) };
    let attached = daemon.op(Op::Attach(by_pid.clone())).unwrap();
    let identity = netns::identity_of(&net).unwrap();
    assert!(
        matches!(&attached, Answer::Attached(info) if info.netns_id == identity && !info.created),
        "{attached:?}"
    );
    let inside = |arguments: &[&str]| {
        run(Command::new("nsenter").arg(format!("--net={}", net.display())).arg("ip").args(arguments))
    };
    let link = inside(&["-o", "link", "show", "eth0"]);
    assert!(link.contains("state UP") && link.contains("02:42:0a:01:00:0a"), "{link}");
    assert!(inside(&["-o", "address"]).contains("10.1.0.10/16"));
    daemon.op(Op::Adjust(AttachSpec { mtu: 1400, ..by_pid.clone() })).unwrap();
    assert!(inside(&["-o", "link", "show", "eth0"]).contains("mtu 1400"));
    // And it can be entered, through its own user namespace.
    let locate = Op::Locate { container: "web".into(), netns: NetnsRef::Pid(pid) };
    let Ok(Answer::Target(target)) = daemon.op(locate) else { panic!("not located") };
    assert!(folder.visit(&target, &["ip", "-o", "address"]).contains("10.1.0.10/16"));

    // Nothing of ours keeps it alive.
    container.0.kill().unwrap();
    container.0.wait().unwrap();
    until("its TAP dies", || daemon.status().taps.iter().all(|(.., alive)| !alive));
    assert_eq!(daemon.op(Op::Attach(by_pid)).unwrap_err().kind, RefusalKind::Absent);
    daemon.stop();
    until("all processes gone", || processes_of(&folder.path).is_empty());
}

pub fn is_refused_what_belongs_to_root() {
    let Some(user) = User::new() else { return };
    let folder = user.folder(0o666);
    let daemon = Daemon::start(&folder);
    let name = unique();
    ip(&["netns", "add", &name]);
    let by_name = AttachSpec { create: false, ..spec(&name, 10) };
    let refusal = daemon.op(Op::Attach(by_name)).unwrap_err();
    ip(&["netns", "del", &name]);
    assert_eq!(refusal.kind, RefusalKind::Denied, "{refusal}");
    assert!(refusal.to_string().contains("run as root"), "{refusal}");
    let init = AttachSpec { netns: NetnsRef::Pid(1), create: false, ..spec("init", 11) };
    let refusal = daemon.op(Op::Attach(init)).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Denied, "{refusal}");
    daemon.stop();
}

pub fn says_why_not() {
    let Some(user) = User::new() else { return };
    let folder = user.folder(0o600);
    // The device is closed: the daemon runs, the interface is refused.
    let daemon = Daemon::start(&folder);
    let refusal = daemon.op(Op::Attach(spec(&unique(), 10))).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Denied, "{refusal}");
    for part in ["eth0", "/dev/net/tun", "Permission denied", "chmod 0666"] {
        assert!(refusal.to_string().contains(part), "{part} in {refusal}");
    }
    daemon.stop();

    // No user namespaces: switched off in one of the test's own, where this user has no privilege.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all \
                  --securebits=+noroot \"$0\" \"$@\"";
    let folder_path = folder.path.to_str().unwrap();
    let refused = user
        .who
        .command("unshare")
        .args(["-Ur", "sh", "-c", script])
        .arg(folder.path.join("program"))
        .args(["daemon", folder_path, "engine"])
        .output()
        .unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    for part in ["a user namespace, to run without root", "unshare: ", "user.max_user_namespaces"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(!folder.control().exists());

    // Someone else's state folder.
    std::os::unix::fs::chown(folder.path.join("state"), Some(0), Some(0)).unwrap();
    let mut daemon = Daemon::spawn(&folder, &["engine"]);
    assert_eq!(daemon.wait().code(), Some(1));
    let log = folder.log();
    assert!(log.contains("state: it belongs to user 0 (chown it to user "), "{log}");
}

pub fn another_daemon_takes_over() {
    let Some(user) = User::new() else { return };
    let folder = user.folder(0o666);
    let mut first = Daemon::start(&folder);
    let (name, bare) = (unique(), unique());
    first.op(Op::Attach(spec(&name, 10))).unwrap();
    first
        .op(Op::Netns { container: bare.clone(), netns: NetnsRef::Name(bare.clone()), create: true })
        .unwrap();
    let argv = ["sh", "-c", "echo begins; exec sleep 1000"].map(str::to_owned).to_vec();
    let run_it = Op::Run { container: name.clone(), argv };
    first.op(run_it.clone()).unwrap();
    until("the command runs", || folder.log().contains("command: begins "));
    // Its own link-local address is looked for on the link first (RFC 4862 section 5.4).
    until("the link is up and has its addresses", || {
        let now = interfaces_of(&folder, &first, &name);
        now.contains("state UP") && now.contains("inet6 fe80") && !now.contains("tentative")
    });
    let before = interfaces_of(&folder, &first, &name);
    let home = |daemon: &Daemon<'_>, name: &str| netns::identity_of(&daemon.locate(name).net_ns).unwrap();
    let homes = (home(&first, &name), home(&first, &bare));
    let user_namespace = |pid: u32| netns::identity_of(Path::new(&format!("/proc/{pid}/ns/user"))).unwrap();
    let theirs = user_namespace(first.pid());

    let second = Daemon::take_over(&folder);
    assert_eq!(second.ready, "ready 0 adopted 1\n");
    assert!(first.wait().success());
    assert_eq!(user_namespace(second.pid()), theirs, "the same user namespace, to which all belongs");
    assert_eq!((home(&second, &name), home(&second, &bare)), homes);
    assert_eq!(interfaces_of(&folder, &second, &name), before);
    assert_eq!(second.op(run_it), Ok(Answer::Done));
    assert_eq!(folder.log().matches("command: begins ").count(), 1, "it runs on");
    // And it can do what the first could.
    second.op(Op::Adjust(AttachSpec { mtu: 1400, ..spec(&name, 10) })).unwrap();
    assert!(interfaces_of(&folder, &second, &name).contains("mtu 1400"));
    second.op(Op::Attach(spec(&unique(), 11))).unwrap();
    second.stop();
    assert!(!folder.control().exists());
    until("all processes gone", || processes_of(&folder.path).is_empty());
}
