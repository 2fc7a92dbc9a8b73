//! Where containers are, how they come and go, and what the daemon may do to the host meanwhile.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::harness::{
    As, Contained, Daemon, Host, Train, arguments, children_of, cpu_seconds, descriptors, gone, names, run,
    skipped, text, wait_for,
};
use crate::{as_both, by_two_workers, on_other_engine};

as_both!(
    running_containers_are_served_by_every_form,
    a_running_container_is_attached_and_detached,
    a_missing_namespace_is_awaited,
    a_namespace_dies_and_returns,
    an_interface_deleted_inside_is_down_until_reload,
    container_engines_are_asked_for_the_process,
    sockets_stay_at_home_and_the_engine_has_no_powers,
    the_engine_forwards_on_without_its_keeper,
    commands_that_do_not_listen_do_not_hold_up_the_end,
);

on_other_engine!(
    a_namespace_dies_and_returns,
    an_interface_deleted_inside_is_down_until_reload,
    the_engine_forwards_on_without_its_keeper,
);
by_two_workers!(a_namespace_dies_and_returns, an_interface_deleted_inside_is_down_until_reload,);

/// A container at `netns` on network blue, to be added to a configuration.
fn container(name: &str, netns: &str) -> String {
    format!(
        "[[container]]\nname = \"{name}\"\nnetns = \"{netns}\"\n[[container.interface]]\nnetwork = \"blue\"\n"
    )
}

fn blue(host: &Host, containers: &[String]) -> String {
    host.configuration(&format!(
        "[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\n{}",
        containers.concat()
    ))
}

/// The address of container number `n` of a configuration.
fn address(n: usize) -> String {
    format!("10.1.0.{}", n + 2)
}

fn running_containers_are_served_by_every_form(mut host: Host) {
    let processes = [host.contained(), host.contained()];
    let (first, second) = (processes[0].pid(), processes[1].pid());
    let mut forms = vec![format!("pid:{first}"), format!("/proc/{second}/ns/net")];
    if host.who == As::Root {
        let (name, path) = (host.netns("name"), host.netns("path"));
        forms.extend([name, format!("/run/netns/{path}")]);
    }
    let containers: Vec<_> =
        forms.iter().enumerate().map(|(n, form)| container(&format!("c{n}"), form)).collect();
    let configuration = blue(&host, &containers);
    let daemon = host.start(&configuration);
    let expected = format!("ready: {} ports up, 0 waiting, 1 networks, ", forms.len());
    assert!(daemon.ready.starts_with(&expected), "{}", daemon.ready);
    for n in 0..forms.len() {
        let to = address((n + 1) % forms.len());
        daemon.ping(&format!("c{n}"), &to);
    }
    // It is the same namespace that everybody else sees.
    processes[0].run(&["ping", "-n", "-c", "1", "-W", "5", &address(1)]);
    daemon.stop();
    // A container that was there before is there afterwards, without our interface.
    assert!(!processes[0].run(&["ip", "-o", "link"]).contains("eth0"));
}

fn a_running_container_is_attached_and_detached(host: Host) {
    let process = host.contained();
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    let train = Train::start(&daemon, "a", "b");
    let netns = format!("pid:{}", process.pid());
    for _ in 0..3 {
        let said =
            daemon.ctl(&["network", "connect", "blue", "late", "--netns", &netns, "--ip", "10.1.0.77"]);
        assert_eq!(said.trim(), "eth0 02:42:0a:01:00:4d 10.1.0.77/24 up");
        assert_eq!(daemon.state("late"), "up");
        daemon.ping("a", "10.1.0.77");
        process.run(&["ping", "-n", "-c", "1", "-W", "5", "10.1.0.2"]);
        daemon.ctl(&["network", "disconnect", "blue", "late"]);
        wait_for("the interface to go", || {
            (!process.run(&["ip", "-o", "link"]).contains("eth0")).then_some(())
        });
        assert_eq!(daemon.state("late"), "", "no such port any more");
        let forgotten = || daemon.rows("fdb").iter().all(|row| row["container"] != "late");
        wait_for("the FDB to forget it", || forgotten().then_some(()));
    }
    // It ends with the interface in it: noticed at once, and not held alive by us.
    daemon.ctl(&["network", "connect", "blue", "late", "--netns", &netns]);
    assert_eq!(daemon.state("late"), "up");
    drop(process);
    daemon.wait_state("late", "waiting");
    assert!(daemon.rows("fdb").iter().all(|row| row["container"] != "late"));
    let output = daemon.try_exec("late", &["true"]);
    assert!(!output.status.success() && text(&output).contains("No such file"), "{}", text(&output));
    daemon.ctl(&["network", "disconnect", "blue", "late"]);
    train.assert_lost_nothing();
    daemon.stop();
}

/// A place where a namespace can come and go under one name.
struct Place {
    netns: String,
    link: PathBuf,
    process: Option<Contained>,
    name: Option<String>,
}

impl Place {
    fn new(host: &Host) -> Self {
        let link = host.dir.join("place");
        match host.who {
            As::Root => {
                let name = host.name("place");
                Self { netns: name.clone(), link, process: None, name: Some(name) }
            }
            As::User => Self { netns: link.display().to_string(), link, process: None, name: None },
        }
    }

    fn come(&mut self, host: &Host) {
        match &self.name {
            Some(name) => {
                run("ip", &["netns", "add", name]);
            }
            None => {
                let process = host.contained();
                symlink(format!("/proc/{}/ns/net", process.pid()), &self.link).unwrap();
                self.process = Some(process);
            }
        }
    }

    fn go(&mut self) {
        match &self.name {
            Some(name) => {
                run("ip", &["netns", "del", name]);
            }
            None => {
                fs::remove_file(&self.link).unwrap();
                self.process = None;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(name) = self.name.as_ref().filter(|name| Path::new("/run/netns").join(name).exists()) {
            run("ip", &["netns", "del", name]);
        }
    }
}

fn with_place(host: Host) -> (Daemon, Place) {
    let place = Place::new(&host);
    let configuration = host.lab(&["a", "b"], "") + &container("late", &place.netns);
    let daemon = host.start(&configuration);
    assert!(daemon.ready.starts_with("ready: 2 ports up, 1 waiting, 1 networks, "), "{}", daemon.ready);
    (daemon, place)
}

fn a_missing_namespace_is_awaited(host: Host) {
    let (daemon, mut place) = with_place(host);
    assert_eq!(daemon.state("late"), "waiting");
    let reason = daemon.reason("late");
    assert!(reason.contains(&place.netns) && reason.contains("No such file or directory"), "{reason}");
    daemon.ping("a", "b");
    place.come(&daemon.host);
    let since = Instant::now();
    daemon.wait_state("late", "up");
    assert!(since.elapsed() < Duration::from_secs(5), "attached after {:?}", since.elapsed());
    daemon.ping("a", &address(2));
    drop(place);
    daemon.stop();
}

fn a_namespace_dies_and_returns(host: Host) {
    const CYCLES: usize = 20;
    let (daemon, mut place) = with_place(host);
    let (keeper, engine) = (daemon.pid(), daemon.engine());
    let train = Train::start(&daemon, "a", "b");
    let mut open = Vec::new();
    for cycle in 0..CYCLES {
        place.come(&daemon.host);
        daemon.wait_state("late", "up");
        daemon.ping("a", &address(2));
        let learned = |row: &serde_json::Value| row["container"] == "late";
        assert!(daemon.rows("fdb").iter().any(learned));
        place.go();
        daemon.wait_state("late", "waiting");
        assert!(!daemon.rows("fdb").iter().any(learned), "the FDB remembers a dead port");
        if cycle == 0 {
            // The measure is a second of its time, so a second it takes.
            let before = cpu_seconds(engine);
            std::thread::sleep(Duration::from_secs(1));
            let used = cpu_seconds(engine) - before;
            assert!(used < 0.3, "the engine used {used} s of CPU in a second with a dead port");
        }
        if cycle == 1 {
            open = vec![descriptors(keeper), descriptors(engine)];
        }
    }
    train.assert_lost_nothing();
    let mut now = Vec::new();
    let same = (0..200).any(|_| {
        now = vec![descriptors(keeper), descriptors(engine)];
        std::thread::sleep(Duration::from_millis(10));
        now.iter().zip(&open).all(|(now, then)| now <= then)
    });
    assert!(same, "descriptors of keeper and engine: {open:?} after one cycle, {now:?} after {CYCLES}");
    assert_eq!(daemon.engine(), engine);
    daemon.stop();
}

fn an_interface_deleted_inside_is_down_until_reload(host: Host) {
    let configuration = host.lab(&["a", "b", "c"], "");
    let daemon = host.start(&configuration);
    let train = Train::start(&daemon, "a", "b");
    daemon.ping("a", "c");
    daemon.exec("c", &["ip", "link", "del", "eth0"]);
    daemon.wait_state("c", "down");
    assert_eq!(daemon.reason("c"), "deleted in the container; `vswitchctl reload` makes it again");
    assert!(daemon.rows("fdb").iter().all(|row| row["container"] != "c"));
    daemon.ctl(&["reload"]);
    assert_eq!(daemon.state("c"), "up");
    daemon.ping("c", "a");
    daemon.ping("a", "c");
    train.assert_lost_nothing();
    daemon.stop();
}

/// A program that answers `inspect` as `docker` and `podman` do: the process id of a container that is written in a
/// file, else that there is no such container.
fn stand_in(folder: &Path, program: &str, complaint: &str) {
    let path = folder.join(program);
    let (known, quoted) = (folder.display(), complaint);
    let script = format!(
        "#!/bin/sh\nfor name; do :; done\n[ \"$1\" = inspect ] || exit 2\n\
         if [ -r \"{known}/$name\" ]; then cat \"{known}/$name\"; exit 0; fi\n\
         echo; echo \"{quoted} $name\" >&2; exit 1\n"
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn container_engines_are_asked_for_the_process(mut host: Host) {
    let tools = host.dir.join("tools");
    fs::create_dir(&tools).unwrap();
    stand_in(&tools, "docker", "Error: No such object:");
    let (web, late) = (host.contained(), host.contained());
    fs::write(tools.join("web"), web.pid().to_string() + "\n").unwrap();
    host.around = vec!["/usr/bin/env".into(), format!("PATH={}:/usr/bin:/bin", tools.display())];
    let containers = [
        container("a", "docker:web"),
        container("b", "docker:late"),
        container("c", "podman:there-is-no-podman"),
    ];
    if Path::new("/usr/bin/podman").exists() || Path::new("/bin/podman").exists() {
        host.around[1] = format!("PATH={}", tools.display());
    }
    let configuration = blue(&host, &containers);
    let daemon = host.start(&configuration);
    assert!(daemon.ready.starts_with("ready: 1 ports up, 1 waiting, 1 failed, "), "{}", daemon.ready);
    let reason = daemon.reason("b");
    assert!(reason.contains("\"late\" of docker") && reason.contains("no such container"), "{reason}");
    let reason = daemon.reason("c");
    assert!(reason.contains("is podman installed and in PATH?"), "{reason}");
    fs::write(tools.join("late"), late.pid().to_string() + "\n").unwrap();
    daemon.wait_state("b", "up");
    web.run(&["ping", "-n", "-c", "1", "-W", "5", &address(1)]);
    // Podman comes to be installed; a reload is the wish to try again.
    stand_in(&tools, "podman", "Error: no such object:");
    let process = daemon.host.contained();
    fs::write(tools.join("there-is-no-podman"), process.pid().to_string() + "\n").unwrap();
    daemon.ctl(&["reload"]);
    assert_eq!(daemon.state("c"), "up");
    late.run(&["ping", "-n", "-c", "1", "-W", "5", &address(2)]);
    daemon.stop();
}

fn network_of(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/net")).unwrap()
}

fn sockets_stay_at_home_and_the_engine_has_no_powers(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    let home = network_of(std::process::id());
    let mut ours = vec![daemon.pid(), daemon.engine()];
    ours.extend(children_of(daemon.pid()));
    for pid in ours {
        assert_eq!(network_of(pid), home, "process {pid} left the network namespace it was started in");
        for thread in names(format!("/proc/{pid}/task")) {
            let network = fs::read_link(format!("/proc/{pid}/task/{thread}/ns/net"));
            assert!(network.is_err() || network.unwrap() == home, "thread {thread} of {pid} is elsewhere");
        }
    }
    for thread in names(format!("/proc/{}/task", daemon.engine())) {
        let status = fs::read_to_string(format!("/proc/{}/task/{thread}/status", daemon.engine())).unwrap();
        let of = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
            line.unwrap_or_else(|| panic!("no {key}")).to_owned()
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(of(set), "0000000000000000", "{set} of thread {thread}");
        }
        assert_eq!(of("NoNewPrivs"), "1", "of thread {thread}");
    }
    assert_eq!(daemon.rows("status")[0]["capabilities"], "none");
    daemon.ping("a", "b");
    daemon.stop();
}

fn the_engine_forwards_on_without_its_keeper(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let mut daemon = host.start(&configuration);
    let (train, back) = (Train::start(&daemon, "a", "10.1.0.3"), Train::start(&daemon, "b", "10.1.0.2"));
    let engine = daemon.engine();
    let others: Vec<_> = children_of(daemon.pid()).into_iter().filter(|pid| *pid != engine).collect();
    daemon.kill_keeper();
    others.into_iter().for_each(gone);
    let before = sent(&daemon);
    wait_for("frames to flow without a keeper", || (sent(&daemon) > before + 100).then_some(()));
    assert_eq!(daemon.rows("status")[0]["engine_pid"], engine);
    let used = cpu_seconds(engine);
    std::thread::sleep(Duration::from_secs(1)); // the measure is a second of its time
    assert!(cpu_seconds(engine) - used < 0.5, "the engine spins without its keeper");
    train.assert_lost_nothing();
    back.assert_lost_nothing();

    // Nothing new can be attached, and that is said.
    let output = daemon.try_ctl(&["network", "connect", "blue", "more", "--netns", "pid:1"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));

    let host = daemon.kill_engine(engine);
    let left = host.name("a");
    assert_eq!(Path::new("/run/netns").join(left).exists(), host.who == As::Root);
    // What was left is removed, and all begins anew.
    let daemon = host.start(&configuration);
    assert!(daemon.ready.starts_with("ready: 2 ports up, 0 waiting, 1 networks, "), "{}", daemon.ready);
    daemon.ping("a", "b");
    daemon.stop();
}

fn sent(daemon: &Daemon) -> u64 {
    daemon.rows("stats")[0]["workers"][0]["forwarded"].as_u64().unwrap()
}

fn commands_that_do_not_listen_do_not_hold_up_the_end(host: Host) {
    let stubborn =
        "\ncommand = [\"sh\", \"-c\", \"trap '' TERM INT HUP; while :; do sleep 1; done\"]\ncreate = true\n";
    let configuration = host.lab(&["a", "b"], "").replace("\ncreate = true\n", stubborn);
    let daemon = host.start(&configuration);
    let commands = wait_for("both commands", || {
        let children = children_of(daemon.pid());
        let shells: Vec<_> = children
            .into_iter()
            .filter(|pid| arguments(*pid).first().is_some_and(|word| word == "sh"))
            .collect();
        (shells.len() == 2).then_some(shells)
    });
    let since = Instant::now();
    daemon.stop();
    assert!(since.elapsed() < Duration::from_secs(10), "ended after {:?}", since.elapsed());
    commands.into_iter().for_each(gone);
}

#[test]
fn a_namespace_of_root_is_refused_to_an_ordinary_user() {
    let Some(mut host) = Host::new(As::User) else { return };
    if !rustix::process::geteuid().is_root() {
        return skipped("only root can make what is to be refused");
    }
    let name = host.netns("roots");
    let configuration = host.lab(&["a", "b"], "") + &container("c", &name) + &container("d", "pid:1");
    let daemon = host.start(&configuration);
    assert!(
        daemon.ready.starts_with("ready: 2 ports up, 0 waiting, 2 failed, 1 networks, "),
        "{}",
        daemon.ready
    );
    assert_eq!(daemon.state("c"), "failed");
    for (container, kernel) in [("c", "Operation not permitted"), ("d", "Permission denied")] {
        let reason = daemon.reason(container);
        for part in ["namespace", kernel, "run as root"] {
            assert!(reason.contains(part), "{container}: {part:?} is not in: {reason}");
        }
    }
    daemon.ping("a", "b");
    daemon.stop();
}

/// The daemon in a mount namespace where `/dev/net` is as `script` makes it.
fn with_device(script: &str) -> Option<Daemon> {
    let mut host = Host::new(As::User)?;
    if !rustix::process::geteuid().is_root() {
        skipped("only root can close what is open");
        return None;
    }
    let script = format!("mount -t tmpfs none /dev/net && {script} exec \"$@\"");
    host.before = ["unshare", "-m", "sh", "-c", &script, "sh"].map(String::from).to_vec();
    let configuration = host.lab(&["a", "b"], "");
    Some(host.start(&configuration))
}

#[test]
fn a_closed_tun_device_is_told() {
    let Some(daemon) = with_device("mknod -m 0600 /dev/net/tun c 10 200 &&") else { return };
    assert!(
        daemon.ready.starts_with("ready: 0 ports up, 0 waiting, 2 failed, 1 networks, "),
        "{}",
        daemon.ready
    );
    let reason = daemon.reason("a");
    for part in ["interface \"eth0\" of container \"a\"", "Permission denied", "chmod 0666 /dev/net/tun"] {
        assert!(reason.contains(part), "{part:?} is not in: {reason}");
    }
    daemon.stop();
}

#[test]
fn a_missing_tun_device_is_told() {
    let Some(daemon) = with_device("") else { return };
    assert!(
        daemon.ready.starts_with("ready: 0 ports up, 0 waiting, 2 failed, 1 networks, "),
        "{}",
        daemon.ready
    );
    let reason = daemon.reason("a");
    for part in ["interface \"eth0\" of container \"a\"", "No such file or directory", "modprobe tun"] {
        assert!(reason.contains(part), "{part:?} is not in: {reason}");
    }
    daemon.stop();
}

#[test]
fn forbidden_user_namespaces_are_told() {
    let Some(mut host) = Host::new(As::User) else { return };
    // In a user namespace in which no other may be made, and in which we are root without a capability.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && \
                  exec setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all -- \"$@\"";
    host.around = ["unshare", "-Ur", "sh", "-c", script, "sh"].map(String::from).to_vec();
    let configuration = host.lab(&["a", "b"], "");
    let file = host.write("lab.toml", &configuration);
    let output = host.daemon_command().arg("--config").arg(file).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(output.stdout, b"");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    for part in ["vswitchd: ", "a user namespace", "No space left on device", "user.max_user_namespaces"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!host.dir.join("run/control.sock").exists(), "the control socket is left");
}
