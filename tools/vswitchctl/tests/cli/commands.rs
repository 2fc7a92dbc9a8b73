//! What `vswitchctl` asks of the daemon, its exit codes and its errors.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::fake::{Daemon, Folder, command, run_at, texts, with_stdin};
use vswitchd::api::rows::Spoof;
use vswitchd::api::{
    ApiError, ApiErrorKind, Connect, Disconnect, FdbAdd, FdbDel, FdbFlush, NetworkCreate, Publishing, Request,
};

/// It failed with this code, said nothing on stdout and one line on stderr; gives the line.
fn failed(output: &Output, code: i32) -> String {
    let (out, err) = texts(output);
    assert_eq!((output.status.code(), out.as_str()), (Some(code), ""), "{err}");
    assert_eq!(err.matches('\n').count(), 1, "{err}");
    err.strip_prefix("vswitchctl: ").unwrap().trim_end().to_owned()
}

#[test]
fn changes_ask_for_what_they_say() {
    let daemon = Daemon::start();
    let mac = "02:42:0a:01:00:0a".parse().unwrap();
    let blue = || "blue".to_owned();
    let web = || "web".to_owned();
    for (line, out, asked) in [
        (
            "fdb add blue 02:42:0a:01:00:0a web eth1 --vlan 10",
            "",
            Request::FdbAdd(FdbAdd {
                network: blue(),
                mac,
                container: web(),
                interface: Some("eth1".into()),
                vlan: Some(10),
            }),
        ),
        (
            "unpublish web 8080:80 [::1]:0:53/udp --interface eth1",
            "",
            Request::Unpublish(Publishing {
                container: web(),
                interface: Some("eth1".into()),
                publish: vec!["8080:80/tcp".parse().unwrap(), "[::1]:0:53/udp".parse().unwrap()],
            }),
        ),
        ("fdb del blue 02:42:0a:01:00:0a", "", Request::FdbDel(FdbDel { network: blue(), mac, vlan: None })),
        (
            "fdb flush --network blue",
            "3 entries forgotten\n",
            Request::FdbFlush(FdbFlush { network: Some(blue()), ..FdbFlush::default() }),
        ),
        (
            "network create green --subnet 10.3.0.0/24 --mtu 9000 --icc false --nat6 false --internal --dhcp --spoof strict --storm 0",
            "green\n",
            Request::NetworkCreate(NetworkCreate {
                name: "green".into(),
                subnet: Some("10.3.0.0/24".parse().unwrap()),
                mtu: Some(9000),
                icc: Some(false),
                nat6: Some(false),
                internal: Some(true),
                dhcp: Some(true),
                spoof: Some(Spoof::Strict),
                storm: Some(0),
                ..NetworkCreate::default()
            }),
        ),
        (
            "network create green --vni 100",
            "green\n",
            Request::NetworkCreate(NetworkCreate {
                name: "green".into(),
                vni: Some(100),
                ..NetworkCreate::default()
            }),
        ),
        ("network rm blue", "blue\n", Request::NetworkRemove { name: blue() }),
        (
            "network connect blue db --netns pid:42 --ip 10.1.0.5",
            "eth0 02:42:0a:01:00:0a 10.1.0.10/24,fd00:1::a/64 waiting (/run/netns/db: No such file or directory)\n",
            Request::Connect {
                network: blue(),
                interface: Connect {
                    container: "db".into(),
                    netns: Some("pid:42".into()),
                    ip: Some([10, 1, 0, 5].into()),
                    ..Connect::default()
                },
            },
        ),
        (
            "network connect blue db --vlan 10 --trunk 20,21 --isolated",
            "eth0 02:42:0a:01:00:0a 10.1.0.10/24,fd00:1::a/64 waiting (/run/netns/db: No such file or directory)\n",
            Request::Connect {
                network: blue(),
                interface: Connect {
                    container: "db".into(),
                    vlan: Some(10),
                    trunk: vec![20, 21],
                    isolated: true,
                    ..Connect::default()
                },
            },
        ),
        (
            "network disconnect blue web",
            "",
            Request::Disconnect {
                network: blue(),
                interface: Disconnect { container: web(), interface: None },
            },
        ),
        ("reload", "nothing changed\n", Request::Reload),
    ] {
        assert_eq!(daemon.good(line), out, "{line}");
        assert_eq!(daemon.asked(), asked, "{line}");
    }
    let names = run_at(&daemon.socket(), "network inspect a/../b?c");
    assert_eq!(failed(&names, 1), "no network a/../b?c");
    assert_eq!(daemon.asked(), Request::Network { name: "a/../b?c".into() });
}

#[test]
fn apply_sends_the_text_and_its_name() {
    let daemon = Daemon::start();
    let folder = Folder::new();
    let file = folder.0.join("x.toml");
    std::fs::write(&file, "# good\n").unwrap();
    let name = file.to_str().unwrap().to_owned();
    assert_eq!(daemon.good(&format!("apply {name}")), "container web added\ncontainer db removed\n");
    assert_eq!(daemon.asked(), Request::Apply { name: name.clone(), text: "# good\n".into() });

    let piped = with_stdin(&daemon.socket(), "apply -", b"# also good\n");
    assert_eq!(piped.status.code(), Some(0));
    assert_eq!(daemon.asked(), Request::Apply { name: "-".into(), text: "# also good\n".into() });

    std::fs::write(&file, "bad = 1\n").unwrap();
    let line = failed(&daemon.run(&format!("apply {name}")), 1);
    assert_eq!(line, "refused: x.toml:1:1: unknown key `bad`; x.toml:2:1: more");

    let wrong_text = with_stdin(&daemon.socket(), "apply -", b"a\n\xff\n");
    assert_eq!(failed(&wrong_text, 1), "-:2: the text is not UTF-8 (byte 2)");
    let missing = daemon.run("apply /nowhere/x.toml");
    assert_eq!(failed(&missing, 2), "cannot read /nowhere/x.toml: No such file or directory");
    let folder_itself = daemon.run(&format!("apply {}", folder.0.display()));
    assert!(failed(&folder_itself, 2).ends_with("Is a directory"));
    let huge = File::create(folder.0.join("huge.toml")).unwrap();
    huge.set_len(100 << 20).unwrap();
    let huge = daemon.run(&format!("apply {}", folder.0.join("huge.toml").display()));
    assert!(failed(&huge, 2).ends_with("is longer than 1048576 bytes"));
}

#[test]
fn a_no_of_the_daemon_is_exit_1() {
    fn no(_: &Request) -> vswitchd::api::Reply {
        Err(ApiError::new(ApiErrorKind::Conflict, "line one\nand \u{1b}[31mtwo"))
    }
    let daemon = Daemon::start_with(no);
    for line in ["show fdb", "fdb flush", "network rm a b", "reload", "exec web true", "show stats --watch"] {
        assert_eq!(failed(&daemon.run(line), 1), "line one\\nand \\u{1b}[31mtwo", "{line}");
    }
}

#[test]
fn usage_is_exit_2() {
    let nowhere = Folder::new();
    for (line, words) in [
        ("", "requires a subcommand"),
        ("capture web", "'capture' is not supported yet"),
        ("fdb del blue nonsense", "a MAC address is six pairs"),
        ("exec web", "<CMD>..."),
    ] {
        let said = failed(&run_at(&nowhere.0.join("none"), line), 2);
        assert!(said.contains(words), "{line}: {said}");
    }
    let help = run_at(&nowhere.0.join("none"), "--help");
    assert_eq!(help.status.code(), Some(0));
    assert!(texts(&help).0.contains("Usage: vswitchctl"));
}

#[test]
fn a_daemon_that_is_not_there_is_exit_3() {
    let folder = Folder::new();
    let path = folder.0.join("control.sock");
    let missing = failed(&run_at(&path, "show fdb"), 3);
    assert_eq!(
        missing,
        format!("cannot reach vswitchd at {}: No such file or directory; is it running?", path.display())
    );
    drop(UnixListener::bind(&path).unwrap());
    let stale = failed(&run_at(&path, "exec a true"), 3);
    assert_eq!(
        stale,
        format!("cannot reach vswitchd at {}: Connection refused; is it running?", path.display())
    );
    let long = failed(&run_at(&folder.0.join("x".repeat(200)), "show fdb"), 3);
    assert!(long.contains("File name too long"), "{long}");
}

#[test]
fn something_else_on_the_socket_is_exit_3() {
    for (said, words) in [
        // It ended, and nobody took over.
        (b"".as_slice(), "is it running?"),
        (b"SSH-2.0-OpenSSH\r\n", "broke: "),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "does not answer as vswitchd does"),
        (b"HTTP/1.1 200", "is it running?"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n[", "broke: "),
    ] {
        let folder = Folder::new();
        let path = folder.0.join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                peer.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            peer.write_all(said).unwrap();
        });
        let line = failed(&run_at(&path, "show fdb"), 3);
        assert!(line.contains(words), "{line}");
        server.join().unwrap();
    }
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let daemon = Daemon::start();
    for line in ["show fdb", "show fdb --json", "show stats --watch --interval 0.1", "--help"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = command(&daemon.socket());
        command.args(line.split_whitespace()).stdout(writer).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        assert_eq!((output.status.code(), texts(&output).1.as_str()), (Some(0), ""), "{line}");
    }
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = command(&daemon.socket());
    let output = command.args(["show", "fdb"]).stdout(full).output().unwrap();
    assert_eq!(failed(&output, 1), "cannot write: No space left on device");
}

#[test]
fn watching_shows_rates_again_and_again() {
    let daemon = Daemon::start();
    for (line, first, later) in [
        ("show stats --watch --interval 0.1", " 77 ", " 1.00k "),
        ("--json show stats --watch --interval 0.1", "\"rx_pps\":77", "\"rx_pps\":1000"),
    ] {
        let mut command = command(&daemon.socket());
        let mut child = command.args(line.split_whitespace()).stdout(Stdio::piped()).spawn().unwrap();
        let mut seen = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        // The first rates are the daemon's own, the later ones differences between two readings.
        assert!(seen.any(|text| text.contains(first)), "{line}");
        assert!(seen.by_ref().any(|text| text.contains(later)), "{line}");
        assert!(seen.by_ref().any(|text| text.contains(later)), "{line}");
        drop(seen);
        // Nobody reads any more: it ends by itself.
        assert_eq!(child.wait().unwrap().code(), Some(0), "{line}");
    }
}

#[test]
fn exec_becomes_the_command() {
    let daemon = Daemon::start();
    let gone = daemon.run("exec gone true");
    assert!(failed(&gone, 1).contains("/nowhere/net"));
    assert_eq!(daemon.asked(), Request::Target { container: "gone".into() });
    if !rustix::process::geteuid().is_root() {
        // Even one's own network namespace is joined with CAP_SYS_ADMIN only (setns(2)).
        return;
    }
    let mut command = command(&daemon.socket());
    command.args(["exec", "web", "--", "sh", "-c", "echo $0 $1; exit 7", "--json", "-x"]);
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), texts(&output)), (Some(7), ("--json -x\n".into(), String::new())));
    let missing = daemon.run("exec web no-such-program");
    assert_eq!(failed(&missing, 127), "cannot run no-such-program: No such file or directory");
    let no_program = daemon.run("exec web /proc/self/status");
    assert_eq!(failed(&no_program, 126), "cannot run /proc/self/status: Permission denied");
}

#[test]
fn exec_enters_the_network_namespace() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let daemon = Daemon::start();
    let mut child = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap();
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let (ours, pid) = (namespace("self"), child.id().to_string());
    let end = Instant::now() + Duration::from_secs(30);
    while namespace(&pid) == ours {
        assert!(Instant::now() < end, "no namespace of its own");
        std::thread::yield_now();
    }
    let inside = daemon.good(&format!("exec pid{pid} -- readlink /proc/self/ns/net"));
    let theirs = namespace(&pid);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(inside.trim_end(), theirs.to_str().unwrap());
}
