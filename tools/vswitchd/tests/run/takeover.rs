//! One daemon takes over from another, as root.

use std::fs;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send,
    socket_with,
};
use rustix::process::Signal;
use vswitchd::wire::{Answer, NetnsRef, Op};

use super::daemon::{Daemon, Folder, ip, processes_of, unique, until};
use super::engine::spec;
use super::root::{folder, inside, kill, named};

/// Its own containers: with an interface, with a command, with neither.
pub fn another_daemon_takes_over() {
    let Some(folder) = folder() else { return };
    let mut first = Daemon::start(&folder);
    let (name, bare) = (unique(), unique());
    first.op(Op::Attach(spec(&name, 10))).unwrap();
    let netns = Op::Netns { container: bare.clone(), netns: NetnsRef::Name(bare.clone()), create: true };
    first.op(netns).unwrap();
    let argv = ["sh", "-c", "echo begins; trap 'echo still here' USR1; while :; do sleep 0.05; done"];
    let argv = argv.map(str::to_owned).to_vec();
    let run = Op::Run { container: name.clone(), argv };
    first.op(run.clone()).unwrap();
    until("the command runs", || folder.log().contains("command: begins "));
    // The kernel says so a moment after its cable was plugged in.
    until("the link is up", || ip(&["-n", &name, "-o", "link", "show", "eth0"]).contains("state UP"));
    let (links, command) = (ip(&["-n", &name, "address"]), leader(&name));

    let second = Daemon::take_over(&folder);
    assert_eq!(second.ready, "ready 0 adopted 1\n");
    assert!(first.wait().success());
    assert_eq!(ip(&["-n", &name, "address"]), links);
    let status = second.status();
    let mut known = status.known.clone();
    known.sort();
    let mut both = vec![name.clone(), bare.clone()];
    both.sort();
    assert_eq!((status.begin.restarts, known), (0, both));
    assert!(status.taps[0].2);
    assert_eq!(status.commands, [(name.clone(), vswitchd::wire::CommandState::Running)]);

    // The command goes on: the same process, heard by the new daemon, restarted by it when it ends.
    assert_eq!(second.op(run), Ok(Answer::Done));
    assert_eq!(leader(&name), command);
    kill(command, Signal::USR1);
    until("it is heard", || folder.log().contains("command: still here "));
    kill(command, Signal::KILL);
    until("it is started again", || folder.log().matches("command: begins ").count() == 2);

    // A second one asks the second one; and what both made is removed by the last.
    let third = Daemon::take_over(&folder);
    drop(second);
    let refused = folder.program(&["daemon", folder.path.to_str().unwrap(), "engine"]).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains(&format!("already running, pid {}", third.pid())), "{said}");
    assert!(named(&name) && named(&bare));
    third.stop();
    assert!(!named(&name) && !named(&bare) && !folder.control().exists());
    assert_eq!(fs::read_dir(folder.path.join("run")).unwrap().count(), 0);
    until("all processes gone", || processes_of(&folder.path).is_empty());
}

/// The shell of a command, whose children come and go.
fn leader(name: &str) -> u32 {
    inside(name).into_iter().min().unwrap()
}

pub fn an_heir_that_fails() {
    let Some(folder) = folder() else { return };
    let first = Daemon::start(&folder);
    let name = unique();
    first.op(Op::Attach(spec(&name, 10))).unwrap();
    let engine = first.status().pid;
    fs::write(folder.path.join("config.toml"), "fail").unwrap();
    let mut second = Daemon::spawn_heir(&folder);
    assert_eq!(second.wait().code(), Some(1));
    assert!(folder.log().contains("vswitchd: take over: bad configuration\n"), "{}", folder.log());
    assert!(first.op(Op::Attach(spec(&unique(), 11))).is_ok(), "it goes on");
    let status = first.status();
    assert_eq!((status.pid, status.begin.restarts), (engine, 0), "and was not disturbed");
    assert!(ip(&["-n", &name, "-o", "link", "show", "eth0"]).contains("state UP"));
    drop(second);
    first.stop();
    assert!(!named(&name));
}

pub fn an_heir_that_dies() {
    let Some(folder) = folder() else { return };
    let first = Daemon::start(&folder);
    let name = unique();
    first.op(Op::Attach(spec(&name, 10))).unwrap();
    let engine = first.status().pid;
    fs::write(folder.path.join("config.toml"), "wait").unwrap();
    let mut second = Daemon::spawn_heir(&folder);
    until("it was told what there is", || processes_of(&folder.path).len() == 4);
    // What is asked meanwhile waits, and is done when nothing comes of it.
    let other = unique();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| first.op(Op::Attach(spec(&other, 11))));
        second.signal(Signal::KILL);
        second.wait();
        assert!(asked.join().unwrap().is_ok());
    });
    assert_eq!(first.status().pid, engine);
    assert!(folder.log().contains("nothing was handed over"), "{}", folder.log());
    drop(second);
    first.stop();
    assert!(!named(&name) && !named(&other));
    until("all processes gone", || processes_of(&folder.path).is_empty());
}

pub fn an_heir_of_another_state_folder() {
    let Some(folder) = folder() else { return };
    let first = Daemon::start(&folder);
    let moved = folder.path.join("state.before");
    fs::rename(folder.path.join("state"), &moved).unwrap();
    fs::create_dir(folder.path.join("state")).unwrap();
    let mut second = Daemon::spawn_heir(&folder);
    assert_eq!(second.wait().code(), Some(1));
    assert!(folder.log().contains("the running daemon uses another one"), "{}", folder.log());
    fs::remove_dir(folder.path.join("state")).unwrap();
    fs::rename(moved, folder.path.join("state")).unwrap();
    assert_eq!(first.status().begin.restarts, 0);
    drop(second);
    first.stop();
}

pub fn other_versions_and_nonsense() {
    let Some(folder) = folder() else { return };
    let first = Daemon::start(&folder);
    let socket = folder.path.join("run/control.sock.keeper");
    let say = |text: &str| {
        let flags = SocketFlags::CLOEXEC;
        let visitor = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        connect(&visitor, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
        send(&visitor, text.as_bytes(), SendFlags::NOSIGNAL).unwrap();
        let mut answer = vec![0; 4096];
        match recv(&visitor, &mut answer, RecvFlags::empty()) {
            Ok((n, _)) => String::from_utf8(answer[..n].to_vec()).unwrap(),
            Err(Errno::CONNRESET) => String::new(),
            Err(errno) => panic!("{errno}"),
        }
    };
    let answer = say(r#"{"hello":{"version":4000000000,"asked":true}}"#);
    assert!(answer.contains("not by 4000000000"), "{answer}");
    for nonsense in ["x", "\"mine\"", "\"standing\"", "{\"hello\":{}}"] {
        assert_eq!(say(nonsense), "", "{nonsense}");
    }
    // Others may not even come near.
    let nobody = super::daemon::Who { uid: 65534, gid: 65534 };
    let script =
        "import socket,sys; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(sys.argv[1])";
    let refused = nobody.command("python3").args(["-c", script]).arg(&socket).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"), "{refused:?}");

    // A daemon that answers and knows nothing of all this.
    fs::remove_file(&socket).unwrap();
    let mut second = Daemon::spawn_heir(&folder);
    assert_eq!(second.wait().code(), Some(1));
    assert!(folder.log().contains("does not know how to hand over"), "{}", folder.log());
    assert_eq!(first.status().begin.restarts, 0);
    drop(second);
    first.stop();
}

/// Used by the rootless tests too.
pub fn interfaces_of(folder: &Folder, daemon: &Daemon<'_>, name: &str) -> String {
    folder.visit(&daemon.locate(name), &["ip", "address"])
}
