//! One daemon takes over from another: an upgrade, and after the death of a keeper.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Daemon, Host, arguments, binaries, children_of, gone, text, wait_for};
use crate::traffic::{Stream, arrivals, from, train};
use crate::{as_both, by_two_workers, on_other_engine};

as_both!(
    an_upgrade_loses_no_stream,
    who_asks_meanwhile_is_answered,
    the_next_daemon_takes_over_from_a_dead_keeper,
    a_daemon_that_cannot_leaves_the_old_one_untouched,
    what_changed_in_the_file_is_applied_on_the_way,
);

on_other_engine!(an_upgrade_loses_no_stream,);
by_two_workers!(an_upgrade_loses_no_stream,);

/// What a container's kernel knows of its interface.
fn identity(daemon: &Daemon) -> [(Value, Value, Value); 2] {
    ["a", "b"].map(|name| {
        let link = daemon.link(name, "eth0");
        (link["ifindex"].clone(), link["address"].clone(), link["addr_info"][0]["local"].clone())
    })
}

/// A lab whose container `a` has a command that counts in a file.
fn counting(host: &Host) -> (String, PathBuf) {
    let count = host.dir.join("count");
    let script = format!("echo $$ >> {}; while :; do sleep 0.1; done", count.display());
    let lab = host.lab(&["a", "b"], "");
    let (before, after) = lab.split_once("[[container.interface]]").unwrap();
    let command = format!("command = [\"sh\", \"-c\", \"{script}\"]\n");
    (format!("{before}{command}[[container.interface]]{after}"), count)
}

/// Process ids of the command, oldest first.
fn starts(count: &PathBuf) -> Vec<u32> {
    let text = fs::read_to_string(count).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[track_caller]
fn assert_no_gap(daemon: &Daemon, ping: crate::harness::Background) {
    let so_far = daemon.port("b")["tx_frames"].as_u64().unwrap();
    wait_for("more pings", || daemon.port("b")["tx_frames"].as_u64().filter(|frames| *frames > so_far + 20));
    let (times, _, summary) = arrivals(ping);
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    assert!(times.len() > 10 && longest < 1.0, "{longest} s without an answer; {summary}");
}

fn an_upgrade_loses_no_stream(host: Host) {
    let (configuration, count) = counting(&host);
    let mut daemon = host.start(&configuration);
    wait_for("the command", || (starts(&count).len() == 1).then_some(()));
    let before = identity(&daemon);
    daemon.ctl(&["fdb", "add", "blue", "02:00:00:00:00:77", "b"]);
    let stream = Stream::start(&daemon, "a", "b", "10.1.0.3", 32);
    let ping = train(&daemon, "b", "a");
    for _ in 0..2 {
        wait_for("the stream", || (from(&daemon, "a").1 > 1_000_000).then_some(()));
        let old = (daemon.pid(), daemon.engine());
        daemon.take_over();
        assert!(daemon.ready.starts_with("ready: 2 ports up, 0 waiting, 1 networks, "), "{}", daemon.ready);
        assert_ne!((daemon.pid(), daemon.engine()), old);
        gone(old.1);
        assert_eq!(daemon.rows("status")[0]["pid"], daemon.pid());
        wait_for("the stream goes on", || (from(&daemon, "a").1 > 1_000_000).then_some(()));
    }
    assert!(stream.finish() >= 32 << 20);
    assert_no_gap(&daemon, ping);
    assert_eq!(identity(&daemon), before);
    assert!(daemon.rows("fdb").iter().any(|row| row["mac"] == "02:00:00:00:00:77"));

    // Its command ran on, and is looked after by the new one.
    let running = starts(&count);
    assert_eq!(running.len(), 1, "it was not started again");
    assert_eq!(daemon.rows("containers")[0]["command"], "running");
    crate::harness::run("kill", &["-KILL", &running[0].to_string()]);
    wait_for("a restart", || (starts(&count).len() == 2).then_some(()));
    daemon.ping("a", "10.1.0.3");
    let last = starts(&count)[1];
    daemon.stop();
    gone(last);
}

/// While one daemon follows another there is always one that answers.
fn who_asks_meanwhile_is_answered(host: Host) {
    let lab = host.lab(&["a", "b"], "");
    let mut daemon = host.start(&lab);
    let stop = daemon.host.dir.join("stop");
    let rounds = daemon.host.dir.join("rounds");
    let askers: Vec<_> = ["exec a true", "show ports", "fdb add blue 02:00:00:00:00:77 b"]
        .into_iter()
        .enumerate()
        .map(|(at, asked)| {
            let (ctl, socket) = (binaries().join("vswitchctl"), daemon.socket());
            let ask = format!("{} --socket {} {asked}", ctl.display(), socket.display());
            let (stop, rounds) = (stop.display(), rounds.display());
            let script = format!("while [ ! -e {stop} ]; do {ask} && echo >> {rounds}-{at} || exit 1; done");
            daemon.host.background("sh", &["-c", &script])
        })
        .collect();
    let count = || -> Vec<_> {
        (0..3).map(|at| fs::read(format!("{}-{at}", rounds.display())).map_or(0, |said| said.len())).collect()
    };
    for _ in 0..5 {
        let so_far = count();
        daemon.take_over();
        wait_for("all to be answered by the next", || {
            count().iter().zip(&so_far).all(|(now, then)| *now > then + 1).then_some(())
        });
    }
    fs::write(stop, "").unwrap();
    for asker in askers {
        asker.finish();
    }
    daemon.stop();
}

fn the_next_daemon_takes_over_from_a_dead_keeper(host: Host) {
    let (configuration, count) = counting(&host);
    let lonely = host.name("lonely");
    let configuration =
        format!("{configuration}[[container]]\nname = \"lonely\"\nnetns = \"{lonely}\"\ncreate = true\n");
    let mut daemon = host.start(&configuration);
    wait_for("the command", || (starts(&count).len() == 1).then_some(()));
    let before = identity(&daemon);
    let links = daemon.exec("lonely", &["ip", "-o", "link"]);
    let stream = Stream::start(&daemon, "a", "b", "10.1.0.3", 32);
    let ping = train(&daemon, "b", "a");
    let engine = daemon.engine();
    let others: Vec<_> = children_of(daemon.pid()).into_iter().filter(|pid| *pid != engine).collect();
    daemon.kill_keeper();
    let command = starts(&count)[0];
    others.into_iter().filter(|pid| *pid != command).for_each(gone);

    // No flag: nobody is there who could be asked whether this is wanted.
    daemon.begin();
    assert!(daemon.ready.starts_with("ready: 2 ports up, 0 waiting, 1 networks, "), "{}", daemon.ready);
    gone(engine);
    assert_eq!(daemon.rows("status")[0]["pid"], daemon.pid());
    wait_for("the stream goes on", || (from(&daemon, "a").1 > 1_000_000).then_some(()));
    assert!(stream.finish() >= 32 << 20);
    assert_no_gap(&daemon, ping);
    assert_eq!(identity(&daemon), before);
    assert_eq!(daemon.exec("lonely", &["ip", "-o", "link"]), links);

    // What it made is its own: it is changed, looked after, and removed at the end.
    assert_eq!(starts(&count), [command], "it ran on");
    crate::harness::run("kill", &["-KILL", &command.to_string()]);
    wait_for("a restart", || (starts(&count).len() == 2).then_some(()));
    daemon.reload(&configuration.replace("10.1.0.0/24\"\n", "10.1.0.0/24\"\nmtu = 1400\n"));
    wait_for("the MTU", || (daemon.link("a", "eth0")["mtu"] == 1400).then_some(()));
    daemon.ping("a", "10.1.0.3");
    daemon.stop();
}

fn a_daemon_that_cannot_leaves_the_old_one_untouched(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    let ping = train(&daemon, "b", "a");
    let engine = daemon.engine();
    let refused = |text_of_file: &str, arguments: &[&str], words: &[&str]| {
        let file = daemon.host.write("other.toml", text_of_file);
        let mut command = daemon.host.daemon_command();
        let output = command.arg("--config").arg(file).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        for word in words {
            assert!(text(&output).contains(word), "{word:?} in {}", text(&output));
        }
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    };
    let pid = daemon.pid().to_string();
    refused(&configuration, &[], &["already running, pid", &pid, "--take-over"]);
    refused(&configuration.replace("subnet", "subnett"), &["--take-over"], &["unknown key `subnett`"]);
    let elsewhere = configuration.replace("/state\"", "/elsewhere\"");
    fs::create_dir(daemon.host.dir.join("elsewhere")).unwrap();
    refused(&elsewhere, &["--take-over"], &["elsewhere", "the running daemon uses another one"]);
    // Nothing was disturbed.
    assert_eq!(daemon.engine(), engine);
    assert_eq!(daemon.rows("status")[0]["engine_restarts"], 0);
    assert_no_gap(&daemon, ping);
    daemon.stop();
}

fn what_changed_in_the_file_is_applied_on_the_way(host: Host) {
    let (configuration, count) = counting(&host);
    let lonely = host.name("lonely");
    let with_lonely =
        format!("{configuration}[[container]]\nname = \"lonely\"\nnetns = \"{lonely}\"\ncreate = true\n");
    let mut daemon = host.start(&with_lonely);
    wait_for("the command", || (starts(&count).len() == 1).then_some(()));
    let before = identity(&daemon);
    // Without `b`, the container without interfaces and the command, with `c`.
    let other = daemon.host.lab(&["a", "c"], "");
    daemon.host.write("lab.toml", &other);
    daemon.take_over();
    wait_for("the command ends", || {
        (!arguments(starts(&count)[0]).iter().any(|word| word == "-c")).then_some(())
    });
    let named = |name: &str| daemon.rows("containers").iter().any(|row| row["name"] == name);
    assert!(named("a") && named("c") && !named("b") && !named("lonely"));
    wait_for("what is not wanted is gone", || {
        let made = daemon.host.made();
        (!made.contains(&daemon.host.name("b")) && !made.contains(&lonely)).then_some(())
    });
    let link = daemon.link("a", "eth0");
    assert_eq!(link["ifindex"], before[0].0, "what did not change was not touched");
    daemon.wait_state("c", "up");
    daemon.stop();
}
