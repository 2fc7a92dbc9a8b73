//! As root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use switch::sys::caps;
use vswitchd::wire::{Answer, AttachSpec, NetnsRef, Op, RefusalKind};

use super::daemon::{Daemon, Folder, Who, ip, processes_of, unique, until};
use super::engine::{Ask, Reply, spec};

/// A folder for a daemon of root; `None`, said loudly, where there is no root.
pub fn folder() -> Option<Folder> {
    if !caps::may_administer().unwrap() {
        assert!(std::env::var("CI").is_err(), "these tests need root in CI");
        println!("skipped: needs CAP_NET_ADMIN and CAP_SYS_ADMIN");
        return None;
    }
    Some(Folder::new(&Who::ROOT))
}

pub fn named(name: &str) -> bool {
    Path::new("/run/netns").join(name).exists()
}

pub fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

pub fn starts_and_ends_without_a_trace() {
    let Some(folder) = folder() else { return };
    for signal in [Signal::TERM, Signal::INT] {
        let start = Instant::now();
        let daemon = Daemon::start(&folder);
        println!("ready after {:?}", start.elapsed());
        assert_eq!(daemon.ready, "ready 0 adopted 0\n");
        assert_eq!(fs::metadata(folder.control()).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(folder.path.join("run")).unwrap().mode() & 0o777, 0o700);
        let name = unique();
        daemon.op(Op::Attach(spec(&name, 10))).unwrap();
        assert!(named(&name));
        let mut daemon = daemon;
        daemon.signal(signal);
        assert!(daemon.wait().success());
        assert!(!named(&name));
        assert!(!folder.control().exists());
        assert_eq!(fs::read_dir(folder.path.join("state/netns")).unwrap().count(), 0);
        until("all processes gone", || processes_of(&folder.path).is_empty());
    }
}

pub fn the_service_manager_is_told() {
    let Some(folder) = folder() else { return };
    let path = folder.path.join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let hear = || {
        let mut bytes = [0; 100];
        let n = manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..n].to_vec()).unwrap()
    };
    let daemon = Daemon::start_with(&folder, &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    assert_eq!(hear(), "READY=1\n");
    let environment = fs::read(format!("/proc/{}/environ", daemon.status().pid)).unwrap();
    assert!(
        !String::from_utf8_lossy(&environment).contains("NOTIFY_SOCKET"),
        "the engine does not speak to it"
    );
    daemon.stop();
    assert_eq!(hear(), "STOPPING=1\n");
}

pub fn the_engine_has_no_privilege() {
    let Some(folder) = folder() else { return };
    let daemon = Daemon::start(&folder);
    let status = daemon.status();
    for line in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(status.process.contains(&format!("{line}:\t0000000000000000\n")), "{}", status.process);
    }
    assert!(status.process.contains("NoNewPrivs:\t1\n"));
    assert_eq!(status.begin.keeper_pid, daemon.pid());
    assert!(!status.begin.rootless);
    daemon.stop();
}

pub fn a_dead_engine_is_replaced_and_nobody_notices() {
    let Some(folder) = folder() else { return };
    let daemon = Daemon::start(&folder);
    let (name, other) = (unique(), unique());
    daemon.op(Op::Attach(spec(&name, 10))).unwrap();
    daemon
        .op(Op::Attach(AttachSpec {
            ifname: "eth1".into(),
            addresses: vec![],
            default_via: Vec::new(),
            ..spec(&name, 11)
        }))
        .unwrap();
    ip(&["netns", "add", &other]);
    daemon.op(Op::Attach(AttachSpec { create: false, ..spec(&other, 12) })).unwrap();
    let before = ip(&["-n", &name, "address"]);
    let first = daemon.status();
    // One dies while nobody looks.
    kill(first.pid, Signal::STOP);
    ip(&["netns", "del", &other]);
    kill(first.pid, Signal::KILL);
    let second = daemon.status(); // the listening socket never went away: the connection waits in it
    assert_eq!(second.begin.restarts, 1);
    assert_ne!(second.pid, first.pid);
    // The dead one is not handed over, unless the kernel has not finished with it yet.
    let living: Vec<_> = second.taps.iter().filter(|(container, ..)| *container == name).collect();
    assert!(living.len() == 2 && living.iter().all(|(.., alive)| *alive), "{:?}", second.taps);
    assert_eq!(ip(&["-n", &name, "address"]), before);
    // And it works: what was asked of the first is answered to the second.
    assert!(matches!(daemon.op(Op::Attach(spec(&name, 10))), Ok(Answer::Attached(info)) if info.created));
    assert!(folder.log().contains("signal: 9 (SIGKILL)"), "{}", folder.log());
    daemon.stop();
    assert!(!named(&name));
}

pub fn an_engine_that_keeps_dying() {
    let Some(folder) = folder() else { return };
    let mut daemon = Daemon::spawn(&folder, &["engine", "die"]);
    until("the keeper waits before the next start", || folder.log().contains("pause=1s"));
    let log = folder.log();
    assert!(log.contains("exit status: 7"), "{log}");
    assert_eq!(log.matches("the engine died").count(), 6, "{log}");
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
}

pub fn a_reload_is_not_lost_between_engines() {
    let Some(folder) = folder() else { return };
    let daemon = Daemon::start(&folder);
    for _ in 0..6 {
        kill(daemon.status().pid, Signal::KILL);
    }
    until("the keeper waits before the next start", || folder.log().contains("pause=1s"));
    daemon.signal(Signal::HUP);
    until("reload", || daemon.status().reloads == 1);
    daemon.stop();
}

pub fn an_engine_that_is_deaf_is_replaced() {
    let Some(folder) = folder() else { return };
    let mut daemon = Daemon::spawn(&folder, &["engine", "deaf"]);
    until("a second one", || {
        fs::read_to_string(folder.path.join("log")).is_ok_and(|log| log.contains("restarts=1"))
    });
    assert!(folder.log().contains("closed its channel and does not end"), "{}", folder.log());
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
}

pub fn an_engine_that_does_not_end_is_killed() {
    let Some(folder) = folder() else { return };
    let mut daemon = Daemon::spawn(&folder, &["engine", "stubborn"]);
    until("it is there", || {
        fs::read_to_string(folder.path.join("log")).is_ok_and(|log| log.contains("engine started"))
    });
    let start = Instant::now();
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    assert!(folder.log().contains("the engine does not end"), "{}", folder.log());
    println!("ended after {:?}", start.elapsed());
    assert!(!folder.control().exists());
    until("all processes gone", || processes_of(&folder.path).is_empty());
}

pub fn a_fatal_word_ends_the_daemon() {
    let Some(folder) = folder() else { return };
    let mut daemon = Daemon::start(&folder);
    let name = unique();
    daemon.op(Op::Attach(spec(&name, 10))).unwrap();
    daemon.ask(&Ask::Fatal("the sky is falling".into()));
    assert_eq!(daemon.wait().code(), Some(1));
    assert!(folder.log().contains("vswitchd: the sky is falling\n"), "{}", folder.log());
    assert!(!named(&name) && !folder.control().exists());
}

pub fn the_configuration_is_read_again() {
    let Some(folder) = folder() else { return };
    let daemon = Daemon::start(&folder);
    assert_eq!(daemon.status().config, "first");
    daemon.signal(Signal::HUP);
    until("reload", || daemon.status().reloads == 1);
    fs::write(folder.path.join("config.toml"), "second").unwrap();
    assert!(matches!(daemon.ask(&Ask::Op(Op::ReadConfig)), Reply::Config(text) if text == "second"));
    // Read, but not accepted: the next engine begins with the old one.
    kill(daemon.status().pid, Signal::KILL);
    assert_eq!(daemon.status().config, "first");
    daemon.ask(&Ask::Keep("second".into()));
    kill(daemon.status().pid, Signal::KILL);
    assert_eq!(daemon.status().config, "second");
    fs::remove_file(folder.path.join("config.toml")).unwrap();
    let refusal = daemon.op(Op::ReadConfig).unwrap_err();
    assert!(refusal.to_string().contains("config.toml"), "{refusal}");
    daemon.stop();
}

pub fn a_second_daemon_is_refused() {
    let Some(folder) = folder() else { return };
    let daemon = Daemon::start(&folder);
    let second = folder.program(&["daemon", folder.path.to_str().unwrap(), "engine"]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(&format!("already running, pid {}", daemon.pid())), "{said}");
    assert_eq!(daemon.status().begin.restarts, 0, "the first one is not disturbed");
    daemon.stop();
}

pub fn what_a_killed_daemon_left() {
    let Some(folder) = folder() else { return };
    let mut daemon = Daemon::start(&folder);
    let name = unique();
    daemon.op(Op::Attach(spec(&name, 10))).unwrap();
    let engine = daemon.status().pid;
    daemon.signal(Signal::KILL);
    daemon.wait();
    // The engine forwards on without its keeper; this one ends by itself when it hears that.
    until("the engine ends", || !Path::new(&format!("/proc/{engine}")).exists());
    assert!(named(&name) && folder.control().exists());
    let daemon = Daemon::start(&folder);
    assert!(!named(&name));
    daemon.stop();
}

pub fn commands_run_inside() {
    let Some(folder) = folder() else { return };
    let daemon = Daemon::start(&folder);
    let name = unique();
    let container = name.clone();
    let run_command = |script: &str| {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        daemon.op(Op::Run { container: container.clone(), argv })
    };
    assert_eq!(run_command("true").unwrap_err().kind, RefusalKind::Absent);
    daemon.op(Op::Attach(spec(&name, 10))).unwrap();
    let generated = folder.path.join("state/containers").join(&name);
    fs::create_dir_all(&generated).unwrap();
    fs::write(generated.join("hosts"), "10.1.0.10 myself\n").unwrap();
    let marker = folder.path.join("marker");
    let script = format!(
        "cat /etc/hosts; ls /sys/class/net; ls -d /sys/fs/cgroup/*; echo $$ > {}; echo done; sleep 1000 & wait",
        marker.display()
    );
    run_command(&script).unwrap();
    until("its output", || folder.log().contains("command: done "));
    let log = folder.log();
    let said = |text: &str| log.contains(&format!("command: {text} container=\"{name}\""));
    assert!(said("10.1.0.10 myself") && said("eth0") && said("lo"), "{log}");
    assert_eq!(said("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup/memory").exists(), "{log}");
    assert!(!fs::read_to_string("/etc/hosts").unwrap().contains("myself"), "the host's own is untouched");

    // The same again is not a second one; killed, it is started again.
    let pid = || fs::read_to_string(&marker).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let first = pid().unwrap();
    run_command(&script).unwrap();
    assert_eq!(pid(), Some(first));
    kill(first, Signal::KILL);
    until("a restart", || {
        pid().is_some_and(|pid| pid != first && Path::new(&format!("/proc/{pid}")).exists())
    });
    // Ended with all its children.
    let second = pid().unwrap();
    daemon.op(Op::Halt { container: name.clone() }).unwrap();
    assert!(!Path::new(&format!("/proc/{second}")).exists());
    // Its children were killed with it; the kernel may still be clearing them away.
    until("nobody is left in the namespace", || ip(&["netns", "pids", &name]).is_empty());

    // One that does not listen to SIGTERM, ended with the daemon.
    run_command(&format!("trap '' TERM; echo $$ > {}; while :; do sleep 1; done", marker.display())).unwrap();
    until("it runs", || pid().is_some_and(|pid| pid != second));
    let third = pid().unwrap();
    daemon.stop();
    assert!(!Path::new(&format!("/proc/{third}")).exists());
}

/// Process ids in a named namespace.
pub fn inside(name: &str) -> Vec<u32> {
    let pids = ip(&["netns", "pids", name]);
    pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

pub fn of_overlapping_requests_the_last_one_counts() {
    let Some(folder) = folder() else { return };
    let daemon = Daemon::start(&folder);
    let name = unique();
    let marker = |what: &str| folder.path.join(format!("ran-{what}"));
    // None of them ends before it is killed, so the next request comes while it is ending.
    let run = |what: &str| {
        let script = format!("trap '' TERM; : > {}; while :; do sleep 1; done", marker(what).display());
        Op::Run { container: name.clone(), argv: vec!["sh".into(), "-c".into(), script] }
    };
    let superseded = |answer: &Result<Answer, _>| {
        let refusal: &vswitchd::wire::Refusal = answer.as_ref().unwrap_err();
        assert!(refusal.to_string().contains("superseded"), "{refusal}");
    };
    // Their children are killed with them, and die when the kernel comes to it.
    let empty = || until("nothing runs inside", || inside(&name).is_empty());
    let done = Ok(Answer::Done);
    daemon.op(Op::Attach(spec(&name, 10))).unwrap();
    daemon.op(run("first")).unwrap();
    until("the first runs", || marker("first").exists());

    let answers = daemon.together(vec![run("second"), run("third")]);
    superseded(&answers[0]);
    assert_eq!(answers[1], done);
    until("the third runs", || marker("third").exists());

    let halt = Op::Halt { container: name.clone() };
    let answers = daemon.together(vec![run("fourth"), halt]);
    superseded(&answers[0]);
    assert_eq!(answers[1], done);
    empty();

    daemon.op(run("fifth")).unwrap();
    until("the fifth runs", || marker("fifth").exists());
    let release = Op::Release { container: name.clone() };
    let answers = daemon.together(vec![run("sixth"), release, Op::Attach(spec(&name, 10))]);
    superseded(&answers[0]);
    assert_eq!(answers[1], done);
    assert!(matches!(&answers[2], Ok(Answer::Attached(info)) if info.created), "{answers:?}");
    assert!(ip(&["-n", &name, "-o", "link", "show", "eth0"]).contains("state UP"), "made after the release");
    empty();
    for never in ["second", "fourth", "sixth"] {
        assert!(!marker(never).exists(), "{never}");
    }
    let states: Vec<_> = daemon.status().commands.into_iter().map(|(_, state)| state).collect();
    use vswitchd::wire::CommandState::{Running, Stopped};
    assert_eq!(states, [Running, Stopped, Running, Stopped, Running, Stopped]);
    daemon.stop();
}

pub fn a_command_follows_its_namespace() {
    let Some(folder) = folder() else { return };
    let daemon = Daemon::start(&folder);
    let name = unique();
    ip(&["netns", "add", &name]);
    daemon.op(Op::Attach(AttachSpec { create: false, ..spec(&name, 10) })).unwrap();
    let argv = ["sh", "-c", "exec sleep 1000"].map(str::to_owned).to_vec();
    let run = || daemon.op(Op::Run { container: name.clone(), argv: argv.clone() }).unwrap();
    run();
    until("it runs inside", || inside(&name).len() == 1);
    let first = inside(&name)[0];
    run();
    assert_eq!(inside(&name), [first], "the same");
    // It lives on in what has no name any more, like any process there.
    ip(&["netns", "del", &name]);
    ip(&["netns", "add", &name]);
    assert!(daemon.status().taps.iter().all(|(.., alive)| *alive));
    assert_eq!(inside(&name), [0; 0]);
    run();
    until("it runs in the new one", || inside(&name).len() == 1);
    assert!(!Path::new(&format!("/proc/{first}")).exists());
    until("the old one is gone with it", || daemon.status().taps.iter().all(|(.., alive)| !alive));
    // The next engine hears what there is, and what becomes of it.
    kill(daemon.status().pid, Signal::KILL);
    assert_eq!(daemon.status().begin.restarts, 1);
    let second = inside(&name)[0];
    kill(second, Signal::KILL);
    until("it is started again", || inside(&name).iter().any(|pid| *pid != second));
    use vswitchd::wire::CommandState::{Restarting, Running};
    let told = || daemon.status().commands.into_iter().map(|(_, state)| state).collect::<Vec<_>>();
    until("all is told", || told() == [Running, Restarting, Running]);
    daemon.stop();
    ip(&["netns", "del", &name]);
}

pub fn another_process_can_enter() {
    let Some(folder) = folder() else { return };
    let daemon = Daemon::start(&folder);
    let name = unique();
    daemon.op(Op::Attach(spec(&name, 10))).unwrap();
    let target = daemon.locate(&name);
    assert_eq!(target.net_ns, Path::new("/run/netns").join(&name));
    assert!(folder.visit(&target, &["ip", "-o", "address"]).contains("10.1.0.10/16"));
    assert!(folder.visit(&target, &["ls", "/sys/class/net"]).contains("eth0"));
    // An ordinary user may not.
    let nobody = Who { uid: 65534, gid: 65534 };
    let target = serde_json::to_string(&target).unwrap();
    let refused =
        nobody.command(folder.path.join("program")).args(["visit", &target, "true"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(125));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("not permitted") && said.contains("be root"), "{said}");
    daemon.stop();
}

pub fn a_removed_name_is_noticed() {
    let Some(folder) = folder() else { return };
    let daemon = Daemon::start(&folder);
    let name = unique();
    daemon.op(Op::Attach(spec(&name, 10))).unwrap();
    ip(&["netns", "del", &name]);
    until("the engine's TAP says so", || daemon.status().taps.iter().all(|(.., alive)| !alive));
    daemon.op(Op::Detach { container: name.clone(), ifname: "eth0".into() }).unwrap();
    daemon.op(Op::Attach(spec(&name, 10))).unwrap();
    assert!(ip(&["-n", &name, "-o", "link", "show", "eth0"]).contains("state UP"));
    daemon.op(Op::Release { container: name.clone() }).unwrap();
    assert!(!named(&name));
    let absent = Op::Locate { container: name.clone(), netns: NetnsRef::Name(name) };
    assert_eq!(daemon.op(absent).unwrap_err().kind, RefusalKind::Absent);
    daemon.stop();
}

pub fn a_great_many_containers() {
    let Some(folder) = folder() else { return };
    let daemon = Daemon::start(&folder);
    let prefix = format!("{}-", unique());
    let Reply::Milliseconds(took) = daemon.ask(&Ask::Many { prefix: prefix.clone(), count: 256 }) else {
        panic!("no time")
    };
    println!("256 containers in {took} ms");
    assert!(daemon.status().taps.iter().all(|(.., alive)| *alive));
    for number in [0, 100, 255] {
        let link = ip(&["-n", &format!("{prefix}{number}"), "-o", "link", "show", "eth0"]);
        assert!(link.contains("state UP"), "{link}");
    }
    // All of them survive the engine.
    kill(daemon.status().pid, Signal::KILL);
    assert_eq!(daemon.status().adopted, 256);
    let start = Instant::now();
    daemon.stop();
    println!("ended in {:?}", start.elapsed());
    let left = Command::new("ip").args(["netns", "list"]).stdout(Stdio::piped()).output().unwrap();
    assert!(!String::from_utf8_lossy(&left.stdout).contains(&prefix));
}
