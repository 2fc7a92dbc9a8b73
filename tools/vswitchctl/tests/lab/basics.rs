//! What a user does with a lab: start, look, change, end.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::harness::{As, Background, Daemon, Host, run, text, wait_for};
use crate::{as_both, by_two_workers, on_other_engine};

as_both!(
    a_reload_says_what_the_host_refused,
    two_containers_ping_and_are_seen,
    tables_have_their_headers_and_words,
    no_frame_is_unaccounted_for,
    statistics_are_shown_again_and_again,
    mistakes_are_one_line_and_an_exit_code,
    a_bad_configuration_makes_nothing,
    a_second_daemon_is_refused,
    nothing_is_left_at_the_end,
    a_bad_reload_changes_nothing,
    a_reload_changes_what_changed,
    an_address_that_was_chosen_stays,
    an_interface_changes_in_place,
    what_is_decided_while_an_interface_is_made_holds,
    a_hangup_and_apply_are_reloads,
    networks_are_made_at_run_time,
    static_entries_stay,
    a_command_runs_in_a_container,
    commands_of_the_file_run,
    a_container_without_interfaces_has_loopback,
    containers_that_may_not_talk,
    a_container_on_two_networks,
    the_lab_of_three_networks,
);

on_other_engine!(
    two_containers_ping_and_are_seen,
    tables_have_their_headers_and_words,
    no_frame_is_unaccounted_for,
    nothing_is_left_at_the_end,
    an_interface_changes_in_place,
);
by_two_workers!(
    two_containers_ping_and_are_seen,
    no_frame_is_unaccounted_for,
    nothing_is_left_at_the_end,
    the_lab_of_three_networks,
);

fn two_containers_ping_and_are_seen(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    assert!(daemon.ready.starts_with("ready: 2 ports up, 0 waiting, 1 networks, "), "{}", daemon.ready);
    daemon.ping("a", "b");
    daemon.ping("b", "10.1.0.2");
    daemon.ping("b", "a.blue");
    let mut rows = daemon.rows("fdb");
    rows.sort_by_key(|row| row["port"].as_u64());
    let seen: Vec<_> = rows.iter().map(|row| (row["container"].as_str(), row["mac"].as_str())).collect();
    let expected = [(Some("a"), Some("02:42:0a:01:00:02")), (Some("b"), Some("02:42:0a:01:00:03"))];
    assert_eq!(seen, expected);
    assert_eq!(daemon.rows("status")[0]["capabilities"], "none");
    daemon.stop();
}

fn tables_have_their_headers_and_words(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    // Kernels speak IPv6 by themselves: the network is emptied until nobody spoke in between.
    wait_for("an empty FDB", || {
        daemon.ctl(&["fdb", "flush"]);
        (daemon.ctl(&["show", "fdb"]) == "PORT VLAN MAC AGE NETWORK CONTAINER IFACE TYPE\n").then_some(())
    });
    daemon.ping("a", "b");
    let table = daemon.ctl(&["show", "fdb"]);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["PORT", "VLAN", "MAC", "AGE", "NETWORK", "CONTAINER", "IFACE", "TYPE"]);
    assert_eq!(lines.len(), 3, "{table}");
    for (line, (port, mac, name)) in
        lines[1..].iter().zip([("0", "02:42:0a:01:00:02", "a"), ("1", "02:42:0a:01:00:03", "b")])
    {
        let age: u64 = line[3].parse().unwrap();
        assert!(age < 20, "{table}");
        assert_eq!((line[0], line[1], line[2]), (port, "0", mac), "{table}");
        assert_eq!(line[4..], ["blue", name, "eth0", "dynamic"], "{table}");
    }
    for (what, header) in [
        (
            "ports",
            "PORT NETWORK CONTAINER IFACE MAC ADDRESSES VLAN ISOLATED STATE MTU IO GSO RX-FRAMES RX-BYTES TX-FRAMES TX-BYTES DROPS REASON",
        ),
        ("networks", "NAME SUBNET VLAN MTU ICC SPOOF AGEING FDB STORM PORTS ORIGIN"),
        ("containers", "NAME NETNS STATE INTERFACES COMMAND ORIGIN REASON"),
        ("drops", "REASON FRAMES EXPLANATION"),
    ] {
        let table = daemon.ctl(&["show", what]);
        let words: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(words.join(" "), header);
        if what != "drops" {
            // JSON has the same words in lower case.
            let row = &daemon.rows(what)[0];
            for word in words {
                let word = word.to_lowercase().replace('-', "_");
                let known = row.get(&word).is_some() || (word == "fdb" && row.get("fdb_used").is_some());
                assert!(known, "{what}: no {word:?} in {row}");
            }
        }
    }
    looks_right(&daemon);
    daemon.stop();
}

fn looks_right(daemon: &Daemon) {
    let port = daemon.port("a");
    assert_eq!((&port["state"], &port["reason"], &port["mtu"]), (&"up".into(), &Value::Null, &1500.into()));
    assert_eq!(port["addresses"][0], "10.1.0.2/24");
    assert_eq!(port["gso"], "full", "this kernel takes super-frames of both kinds");
    assert!(port["rx_frames"].as_u64() > Some(0) && port["rx_bytes"].as_u64() > port["rx_frames"].as_u64());
    let network = &daemon.rows("networks")[0];
    assert_eq!((&network["name"], &network["subnet"]), (&"blue".into(), &"10.1.0.0/24".into()));
    assert_eq!((&network["fdb_used"], &network["ports"]), (&2.into(), &2.into()));
    let containers = daemon.rows("containers");
    assert_eq!((&containers[1]["name"], &containers[1]["state"]), (&"b".into(), &"up".into()));
    assert_eq!(containers[1]["netns"], daemon.host.name("b"));
    let status = &daemon.rows("status")[0];
    assert_eq!(status["pid"], daemon.pid());
    assert_eq!(status["engine_pid"], daemon.engine());
    assert_eq!(status["rootless"], daemon.host.who == As::User);
    assert_eq!(status["ports"]["up"], 2);
    let (engine, why) = (&status["io"]["engine"], status["io"]["why"].as_str().unwrap());
    match daemon.host.io.as_deref() {
        Some(io) if io != "auto" => assert_eq!((engine, why), (&io.into(), format!("io = {io}").as_str())),
        _ => assert!(why.starts_with("io = auto: "), "{why}"),
    }
    assert!(status["offloads"]["taken"].as_array().unwrap().contains(&"tso4".into()), "{status}");
    let words = daemon.ctl(&["show", "status"]);
    for word in ["pid", "engine pid", "kernel", "capabilities", "rootless"] {
        assert!(words.lines().any(|line| line.starts_with(word)), "{word} in {words}");
    }
    let config: Value = serde_json::from_str(&daemon.ctl(&["show", "config"])).unwrap();
    assert_eq!(config["networks"][0]["name"], "blue", "{config}");
    let all = daemon.ctl(&["show", "drops", "--all"]);
    assert!(all.lines().any(|line| line.starts_with("spoofed_mac ")), "reasons that never happened: {all}");
    assert!(!daemon.ctl(&["show", "drops"]).contains("spoofed_mac"));
}

/// `rx + generated + released == forwarded + flooded + local + held + drops`, while nothing is under way.
fn conserved(daemon: &Daemon) -> bool {
    let stats = &daemon.rows("stats")[0];
    stats["workers"].as_array().unwrap().iter().all(|worker| {
        let sum = |words: &[&str]| words.iter().map(|word| worker[word].as_u64().unwrap()).sum::<u64>();
        let went = sum(&["forwarded", "flooded", "local", "held", "drops"]);
        sum(&["rx"]) > 0 && sum(&["rx", "generated", "released"]) == went
    })
}

fn no_frame_is_unaccounted_for(host: Host) {
    let configuration = host.lab(&["a", "b", "c"], "");
    let daemon = host.start(&configuration);
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "a")] {
        daemon.ping(from, to);
    }
    // To nobody: flooded, and no answer.
    assert!(!daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", "10.1.0.77"]).status.success());
    // Counters are read one after the other: a frame may pass in between.
    wait_for("books that are balanced", || conserved(&daemon).then_some(()));
    let stats = &daemon.rows("stats")[0];
    let worker = &stats["workers"][0];
    assert!(worker["forwarded"].as_u64() > Some(0) && worker["flooded"].as_u64() > Some(0), "{worker}");
    assert!(worker["copies"].as_u64() >= worker["flooded"].as_u64(), "{worker}");
    let ports = stats["ports"].as_array().unwrap();
    assert_eq!(ports.len(), 3);
    let keys = ["port", "container", "rx_frames", "rx_bytes", "tx_frames", "tx_bytes", "rx_pps", "tx_bps"];
    assert!(keys.iter().all(|key| ports[0].get(key).is_some()), "{}", ports[0]);
    daemon.stop();
}

fn statistics_are_shown_again_and_again(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    let words = ["show", "stats", "--watch", "--interval", "0.1"];
    let mut watch = daemon.ctl_command(&words).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut frames = 0;
    for line in lines {
        frames += u32::from(line.contains("RX-FRAMES/s"));
        if frames == 3 {
            break;
        }
    }
    assert_eq!(frames, 3);
    // Whoever reads no more (`| head`) ends it, without a word.
    wait_for("the watch to end", || watch.try_wait().unwrap());
    daemon.stop();
}

#[track_caller]
fn one_line(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{}", text(output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches('\n').count(), 1, "one line: {said}");
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} in {said}");
    assert!(output.stdout.is_empty(), "{}", text(output));
}

fn mistakes_are_one_line_and_an_exit_code(host: Host) {
    let (none, stale) = (host.dir.join("none.sock"), host.dir.join("stale.sock"));
    drop(UnixListener::bind(&stale).unwrap());
    if let Some(id) = host.user_id() {
        std::os::unix::fs::chown(&stale, Some(id), Some(id)).unwrap();
    }
    for socket in [&none, &stale] {
        for words in [&["show", "fdb"][..], &["reload"], &["exec", "a", "--", "true"]] {
            let output = host.vswitchctl(socket, words);
            one_line(&output, 3, &[socket.to_str().unwrap(), "is it running?"]);
        }
    }
    let configuration = host.lab(&["a"], "");
    let daemon = host.start(&configuration);
    for (words, said) in [
        (&["exec", "nobody", "--", "true"][..], "nobody"),
        (&["network", "inspect", "pink"], "pink"),
        (&["network", "rm", "pink"], "pink"),
        (&["network", "rm", "blue"], "blue"),
        (&["network", "create", "blue"], "blue"),
        (&["network", "connect", "pink", "a"], "pink"),
        (&["network", "connect", "blue", "a", "--ip", "10.9.0.1"], "10.9.0.1"),
        (&["network", "disconnect", "blue", "nobody"], "nobody"),
        (&["fdb", "add", "blue", "02:00:00:00:00:01", "nobody"], "nobody"),
        (&["fdb", "add", "blue", "ff:ff:ff:ff:ff:ff", "a"], "ff:ff:ff:ff:ff:ff"),
        (&["fdb", "del", "blue", "02:00:00:00:00:01"], "02:00:00:00:00:01"),
        (&["fdb", "flush", "--network", "pink"], "pink"),
    ] {
        one_line(&daemon.try_ctl(words), 1, &[said]);
    }
    for words in
        [&["show"][..], &["show", "fbd"], &["apply"], &["fdb", "add", "blue"], &["network", "create"]]
    {
        one_line(&daemon.try_ctl(words), 2, &["--help"]);
    }
    one_line(&daemon.try_ctl(&["apply", "/nowhere.toml"]), 2, &["/nowhere.toml"]);
    daemon.stop();
}

fn a_bad_configuration_makes_nothing(host: Host) {
    let good = host.lab(&["a", "b"], "");
    let file = host.write("good.toml", &good);
    let output = host.vswitchd(&["--config", file.to_str().unwrap(), "--check"]);
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, format!("{}: ok: 2 containers on 1 networks\n", file.display()));

    let bad = good.replace("subnet = ", "subnett = ");
    let file = host.write("bad.toml", &bad);
    let line = 1 + bad.lines().position(|line| line.starts_with("subnett")).unwrap();
    let place = format!("{}:{line}:1: error: unknown key `subnett`", file.display());
    for words in [&["--config", file.to_str().unwrap(), "--check"][..], &["--config", file.to_str().unwrap()]]
    {
        let output = host.vswitchd(words);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&place) && said.contains("did you mean `subnet`?"), "{place} in {said}");
        assert!(output.stdout.is_empty(), "{}", text(&output));
    }
    let missing = host.vswitchd(&["--config", "/nowhere.toml"]);
    one_line(&missing, 1, &["/nowhere.toml"]);
    assert!(!host.dir.join("run").exists() && !host.dir.join("state").exists());
    assert_eq!(host.made(), [] as [String; 0]);
}

fn a_second_daemon_is_refused(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    let other = configuration.replace("/state\"", "/other\"");
    let file = daemon.host.write("other.toml", &other);
    for file in [&daemon.host.dir.join("lab.toml"), &file] {
        let second = daemon.host.vswitchd(&["--config", file.to_str().unwrap()]);
        one_line(&second, 1, &["already running", &format!("pid {}", daemon.pid())]);
    }
    // Nor may two share what is kept.
    let file = daemon.host.write("other.toml", &configuration.replace("/run/", "/elsewhere/"));
    let third = daemon.host.vswitchd(&["--config", file.to_str().unwrap()]);
    one_line(&third, 1, &["another vswitchd uses it"]);
    assert!(!daemon.host.dir.join("elsewhere/control.sock").exists());
    daemon.ping("a", "b");
    daemon.stop();
}

fn nothing_is_left_at_the_end(mut host: Host) {
    // As root also a namespace that was there before: it stays, without our interface.
    let mut configuration = host.lab(&["a", "b"], "");
    let there = (host.who == As::Root).then(|| host.netns("there"));
    if let Some(there) = &there {
        let _ = write!(
            configuration,
            "[[container]]\nname = \"there\"\nnetns = \"{there}\"\ncreate = true\n\
             [[container.interface]]\nnetwork = \"blue\"\n"
        );
    }
    configuration =
        configuration.replacen("create = true\n", "create = true\ncommand = [\"sleep\", \"1000\"]\n", 1);
    let mut daemon = host.start(&configuration);
    for signal in ["-TERM", "-INT"] {
        daemon.ping("a", "b");
        if let Some(there) = &there {
            daemon.ping("a", "there");
            assert!(run("ip", &["-n", there, "-brief", "link"]).contains("eth0"));
        }
        let descendants = wait_for("the command", || {
            let all = daemon.descendants();
            let sleeps =
                |pid: &u32| crate::harness::arguments(*pid).first().is_some_and(|word| word == "sleep");
            all.iter().any(sleeps).then_some(all)
        });
        daemon.end(signal);
        for pid in descendants {
            wait_for("a process to end", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
        }
        let state = daemon.host.dir.join("state");
        assert!(!state.join("containers").exists());
        assert_eq!(crate::harness::names(state.join("netns")), [] as [String; 0], "marks");
        if let Some(there) = &there {
            let links = run("ip", &["-n", there, "-brief", "link"]);
            assert!(links.starts_with("lo ") && links.lines().count() == 1, "{links}");
        }
        daemon.begin();
    }
    daemon.stop();
}

fn a_reload_says_what_the_host_refused(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    // Somebody's own interface has the name.
    let theirs = daemon.host.contained();
    theirs.run(&["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other"]);
    let more = format!(
        "[[container]]\nname = \"c\"\nnetns = \"pid:{}\"\n[[container.interface]]\nnetwork = \"blue\"\nname = \"eth0\"\n",
        theirs.pid()
    );
    daemon.host.write("lab.toml", &(configuration.clone() + &more));
    let output = daemon.try_ctl(&["reload"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    for word in ["applied, but the host refused a part of it", "c eth0"] {
        assert!(text(&output).contains(word), "{word:?} in {}", text(&output));
    }
    assert_eq!(
        (daemon.state("c").as_str(), daemon.state("b").as_str()),
        ("failed", "up"),
        "the rest is in force"
    );
    daemon.ctl(&["reload"]); // nothing new
    daemon.ping("a", "b");
    daemon.stop();
}

/// A ping every 10 ms, which loses nothing.
fn train(daemon: &Daemon, from: &str, to: &str) -> Background {
    let ping = daemon.background(from, &["ping", "-n", "-i", "0.01", "-W", "5", "-c", "100000", to]);
    wait_for("the first pings", || daemon.port(to)["tx_frames"].as_u64().filter(|frames| *frames > 10));
    ping
}

#[track_caller]
fn nothing_lost(ping: Background) {
    ping.signal("-INT");
    let said = ping.end();
    let all = String::from_utf8_lossy(&said.stdout);
    let after = |line: &str, word: &str| -> Option<u64> {
        line.split_once(word)?.1.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let answered: Vec<u64> = all.lines().filter_map(|line| after(line, "icmp_seq=")).collect();
    assert_eq!(answered, (1..).take(answered.len()).collect::<Vec<u64>>(), "{}", text(&said));
    // The last one may have been under way when it was told to end.
    let sent = all.lines().find_map(|line| line.split_once(" packets transmitted")?.0.parse::<u64>().ok());
    assert!(sent.is_some_and(|sent| sent <= answered.len() as u64 + 1), "{}", text(&said));
}

fn ifindex(daemon: &Daemon, container: &str) -> u64 {
    daemon.link(container, "eth0")["ifindex"].as_u64().unwrap()
}

fn addresses(daemon: &Daemon, container: &str) -> Vec<String> {
    let link = daemon.link(container, "eth0");
    let all = link["addr_info"].as_array().unwrap().iter();
    let v4 = all.filter(|address| address["family"] == "inet");
    v4.map(|address| address["local"].as_str().unwrap().to_owned()).collect()
}

fn a_bad_reload_changes_nothing(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    let ping = train(&daemon, "a", "b");
    let generation = daemon.rows("status")[0]["generation"].clone();
    let line = configuration.lines().position(|line| line.starts_with("subnet = ")).unwrap() + 1;
    let at = format!("lab.toml:{line}:");
    let unknown = format!("{at}1: error: unknown key `subnett`");
    for (bad, said) in [
        (configuration.replace("subnet = ", "subnett = "), unknown.as_str()),
        (configuration.replace("network = \"blue\"", "network = \"pink\""), "pink"),
        ("[[network]\n".to_owned(), "lab.toml:1:"),
        (configuration.replace("10.1.0.0/24", "10.1.0.0/40"), &at),
    ] {
        daemon.host.write("lab.toml", &bad);
        one_line(&daemon.try_ctl(&["reload"]), 1, &[said, "nothing was changed"]);
        let output = daemon.try_ctl(&["apply", daemon.host.dir.join("lab.toml").to_str().unwrap()]);
        one_line(&output, 1, &[said, "nothing was changed"]);
    }
    // The engine begins anew with the configuration that ran, not with the bad file.
    assert_eq!(daemon.rows("status")[0]["generation"], generation);
    nothing_lost(ping);
    let engine = daemon.engine();
    run("kill", &["-KILL", &engine.to_string()]);
    daemon.wait_engine_after(engine);
    daemon.ping("a", "b");
    daemon.stop();
}

fn a_reload_changes_what_changed(host: Host) {
    let configuration = host.lab(&["a", "b", "c"], "");
    let daemon = host.start(&configuration);
    daemon.ping("a", "c");
    let before = (ifindex(&daemon, "a"), addresses(&daemon, "a"), daemon.port("a")["port"].clone());
    let ping = train(&daemon, "a", "c");

    // `b` goes, `d` comes on a network of its own, with a peer.
    let red = "[[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\n";
    let mut next = host_lab(&daemon.host, &["a", "c"], "10.1.0.2", "10.1.0.4");
    next.push_str(red);
    for name in ["d", "e"] {
        next.push_str(&container(&daemon.host, name, "red", ""));
    }
    let said = daemon.reload(&next);
    for line in ["network red added", "container d added", "container b removed", "interface e eth0 added"] {
        assert!(said.lines().any(|said| said == line), "{line:?} in {said}");
    }
    daemon.ping("d", "e");
    assert!(!daemon.try_exec("d", &["ping", "-n", "-c", "1", "-W", "1", "10.1.0.2"]).status.success());
    one_line(&daemon.try_ctl(&["exec", "b", "--", "true"]), 1, &["b"]);
    wait_for("b's namespace to go", || (!daemon.host.made().contains(&daemon.host.name("b"))).then_some(()));
    assert!(daemon.rows("fdb").iter().all(|row| row["container"] != "b"));
    assert_eq!((ifindex(&daemon, "a"), addresses(&daemon, "a"), daemon.port("a")["port"].clone()), before);
    assert!(daemon.rows("fdb").iter().any(|row| row["container"] == "a" && row["network"] == "blue"));
    assert_eq!(daemon.reload(&next), "nothing changed\n");

    // And back.
    let said = daemon.reload(&configuration);
    assert!(said.contains("network red removed") && said.contains("container b added"), "{said}");
    assert_eq!(daemon.rows("networks").len(), 1);
    daemon.ping("a", "b");
    assert_eq!((ifindex(&daemon, "a"), addresses(&daemon, "a"), daemon.port("a")["port"].clone()), before);
    nothing_lost(ping);
    daemon.stop();
}

fn an_address_that_was_chosen_stays(host: Host) {
    let configuration = host.lab(&["a", "b", "c"], "");
    let mut daemon = host.start(&configuration);
    // `b` goes, `c` keeps its address; so it does when another engine reads the file for the first time.
    daemon.reload(&daemon.host.lab(&["a", "c"], ""));
    let before = (ifindex(&daemon, "c"), addresses(&daemon, "c"));
    assert_eq!(before.1, ["10.1.0.4"]);
    let engine = daemon.engine();
    run("kill", &["-KILL", &engine.to_string()]);
    daemon.wait_engine_after(engine);
    daemon.ping("a", "c");
    assert_eq!((ifindex(&daemon, "c"), addresses(&daemon, "c")), before);
    assert_eq!(daemon.reload(&daemon.host.lab(&["a", "c"], "")), "nothing changed\n");
    // What is connected at run time keeps its address when the file gets another container and all starts afresh.
    let netns = daemon.host.name("n");
    daemon.ctl(&["network", "connect", "blue", "n", "--netns", &netns, "--create"]);
    let given = addresses(&daemon, "n");
    daemon.reload(&daemon.host.lab(&["a", "c", "d", "e"], ""));
    daemon.restart();
    assert_eq!(addresses(&daemon, "n"), given);
    daemon.ping("e", "n");
    daemon.ping("d", "n");
    daemon.stop();
}

/// A lab on `blue` whose containers have fixed addresses.
fn host_lab(host: &Host, names: &[&str; 2], first: &str, second: &str) -> String {
    let mut text = host.lab(&[], "");
    for (name, ip) in names.iter().zip([first, second]) {
        text.push_str(&container(host, name, "blue", &format!("ip = \"{ip}\"\n")));
    }
    text
}

/// A container of its own namespace, with one interface.
fn container(host: &Host, name: &str, network: &str, interface: &str) -> String {
    let netns = host.name(name);
    format!(
        "[[container]]\nname = \"{name}\"\nnetns = \"{netns}\"\ncreate = true\n\
         [[container.interface]]\nnetwork = \"{network}\"\n{interface}"
    )
}

fn an_interface_changes_in_place(host: Host) {
    let red = "[[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\n";
    let lab = |host: &Host, mtu: &str, a: &str, network: &str| {
        let mut text = host.lab(&[], mtu);
        text.push_str(red);
        text.push_str(&container(host, "a", network, a));
        text.push_str(&container(host, "b", "blue", "ip = \"10.1.0.20\"\n"));
        text.push_str(&container(host, "r", "red", "ip = \"10.2.0.20\"\n"));
        text
    };
    let configuration = lab(&host, "", "ip = \"10.1.0.2\"\n", "blue");
    let daemon = host.start(&configuration);
    daemon.ping("a", "b");
    let index = ifindex(&daemon, "a");

    let said = daemon.reload(&lab(&daemon.host, "", "ip = \"10.1.0.9\"\n", "blue"));
    assert!(said.lines().any(|line| line == "interface a eth0: ip, mac changed"), "{said}");
    assert_eq!(addresses(&daemon, "a"), ["10.1.0.9"]);
    assert_eq!(daemon.link("a", "eth0")["address"], "02:42:0a:01:00:09");
    daemon.ping("b", "a");

    let mac = "ip = \"10.1.0.9\"\nmac = \"02:00:00:00:00:99\"\n";
    daemon.reload(&lab(&daemon.host, "", mac, "blue"));
    assert_eq!(daemon.link("a", "eth0")["address"], "02:00:00:00:00:99");
    daemon.exec("b", &["ip", "neigh", "flush", "all"]);
    daemon.ping("b", "a");
    let fdb = daemon.rows("fdb");
    assert!(fdb.iter().any(|row| row["mac"] == "02:00:00:00:00:99" && row["container"] == "a"), "{fdb:?}");

    daemon.reload(&lab(&daemon.host, "mtu = 9000", mac, "blue"));
    assert_eq!(
        (&daemon.link("a", "eth0")["mtu"], &daemon.link("b", "eth0")["mtu"]),
        (&9000.into(), &9000.into())
    );
    assert_eq!(daemon.port("a")["mtu"], 9000);
    daemon.exec("b", &["ping", "-n", "-c", "1", "-W", "5", "-M", "do", "-s", "8972", "a"]);

    // To another network: the same TAP, the same interface.
    daemon.reload(&lab(&daemon.host, "mtu = 9000", "ip = \"10.2.0.9\"\n", "red"));
    assert_eq!(addresses(&daemon, "a"), ["10.2.0.9"]);
    daemon.ping("r", "a.red");
    assert_eq!(
        (&daemon.port("a")["network"], &daemon.link("a", "eth0")["mtu"]),
        (&"red".into(), &1500.into())
    );
    assert!(!daemon.try_exec("b", &["ping", "-n", "-c", "1", "-W", "1", "10.2.0.9"]).status.success());
    let left = |row: &&Value| row["network"] == "blue" && row["container"] == "a";
    assert_eq!(daemon.rows("fdb").iter().find(left), None);
    assert_eq!(ifindex(&daemon, "a"), index, "the interface was kept all the time");
    daemon.stop();
}

fn what_is_decided_while_an_interface_is_made_holds(host: Host) {
    let configuration = host.lab(&["a"], "");
    let daemon = host.start(&configuration);
    let lab = |last: u8, mtu: u16| {
        let mut text = daemon.host.lab(&["a"], &format!("mtu = {mtu}"));
        text.push_str(&container(&daemon.host, "n", "blue", &format!("ip = \"10.1.0.{last}\"\n")));
        text
    };
    // The second decision comes while the first is being carried out: a hangup does not wait as `reload` does.
    for (round, last) in (0..10).zip(20..) {
        daemon.reload(&configuration);
        daemon.host.write("lab.toml", &lab(last, 1400));
        daemon.signal("-HUP");
        wait_for("the container", || {
            daemon.rows("containers").iter().any(|row| row["name"] == "n").then_some(())
        });
        daemon.reload(&lab(last + 100, 1300));
        assert_eq!(daemon.link("n", "eth0")["mtu"], 1300, "round {round}");
        assert_eq!(addresses(&daemon, "n"), [format!("10.1.0.{}", last + 100)], "round {round}");
    }
    daemon.ping("n", "a");
    daemon.stop();
}

fn a_hangup_and_apply_are_reloads(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    daemon.host.write("lab.toml", &daemon.host.lab(&["a", "b", "c"], ""));
    daemon.signal("-HUP");
    daemon.wait_state("c", "up");
    daemon.ping("c", "a");
    // A file of another name is the whole truth, until the next reload.
    let file = daemon.host.write("other.toml", &daemon.host.lab(&["a", "b", "c", "d"], ""));
    let said = daemon.ctl(&["apply", file.to_str().unwrap()]);
    assert!(said.lines().any(|line| line == "container d added"), "{said}");
    daemon.ping("d", "a");
    let engine = daemon.engine();
    run("kill", &["-KILL", &engine.to_string()]);
    daemon.wait_engine_after(engine);
    daemon.ping("d", "a");
    let said = daemon.ctl(&["reload"]);
    assert!(said.lines().any(|line| line == "container d removed"), "{said}");
    // A bad file by a hangup is told in the log.
    daemon.host.write("lab.toml", "nonsense");
    daemon.signal("-HUP");
    wait_for("a word about it", || daemon.log().contains("lab.toml:1:").then_some(()));
    daemon.ping("b", "c");
    daemon.stop();
}

/// Without `[daemon]`: places of the user's own, found by `vswitchctl` as well. Root's are not for tests.
#[test]
fn a_user_needs_no_daemon_section() {
    let Some(mut host) = Host::new(As::User) else { return };
    let Some(id) = host.user_id() else { return };
    let configuration = host.lab(&["a", "b"], "");
    let (_, configuration) = configuration.split_once("[[network]]").unwrap();
    let configuration = format!("[[network]]{configuration}");
    let folder = Path::new("/tmp").join(format!("vswitch-{id}"));
    host.control = folder.join("control.sock");
    let state = host.dir.join(".local/state/vswitch");
    let daemon = host.start(&configuration);
    assert!(daemon.ready.contains(folder.to_str().unwrap()), "{}", daemon.ready);
    assert!(state.join("containers").exists());
    let found = daemon.host.vswitchctl_of_user(&["network", "ls", "-q"]);
    assert_eq!(found.stdout, b"blue\n", "{}", text(&found));
    // Read a second time, by the engine in its user namespace, the file says the same.
    assert_eq!(daemon.reload(&configuration), "nothing changed\n");
    daemon.ping("a", "b");
    daemon.stop();
    let _ = std::fs::remove_dir_all(folder);
}

fn networks_are_made_at_run_time(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let mut daemon = host.start(&configuration);
    let netns = daemon.host.name("n");
    assert_eq!(
        daemon.ctl(&["network", "create", "green", "--subnet", "10.3.0.0/24", "--mtu", "1400"]),
        "green\n"
    );
    let said = daemon.ctl(&["network", "connect", "green", "a"]);
    assert_eq!(said, "eth1 02:42:0a:03:00:02 10.3.0.2/24 up\n");
    daemon.ctl(&["network", "connect", "green", "n", "--netns", &netns, "--create", "--ip", "10.3.0.77"]);
    daemon.ping("a", "n");
    daemon.ping("n", "a.green");
    let check = |daemon: &Daemon| {
        assert_eq!(daemon.ctl(&["network", "ls", "-q"]), "blue\ngreen\n");
        let green: Value =
            serde_json::from_str(&daemon.ctl(&["--json", "network", "inspect", "green"])).unwrap();
        assert_eq!(
            (&green["origin"], &green["mtu"], &green["ports"]),
            (&"api".into(), &1400.into(), &2.into())
        );
        let inside: Vec<_> = green["interfaces"].as_array().unwrap().iter().collect();
        let of = |name: &str| *inside.iter().find(|row| row["container"] == name).unwrap();
        assert_eq!((&of("a")["iface"], &of("a")["addresses"][0]), (&"eth1".into(), &"10.3.0.2/24".into()));
        assert_eq!(of("n")["addresses"][0], "10.3.0.77/24");
        daemon.ping("n", "10.3.0.2");
        daemon.ping("a", "b");
    };
    check(&daemon);
    assert!(daemon.ctl(&["network", "inspect", "green"]).contains("10.3.0.77/24"));
    assert_eq!(daemon.ctl(&["reload"]), "nothing changed\n");
    check(&daemon);
    // An engine that died, and a daemon that was away.
    let engine = daemon.engine();
    run("kill", &["-KILL", &engine.to_string()]);
    daemon.wait_engine_after(engine);
    check(&daemon);
    daemon.restart();
    check(&daemon);
    // In use: not removed.
    one_line(&daemon.try_ctl(&["network", "rm", "green"]), 1, &["green"]);
    daemon.ctl(&["network", "disconnect", "green", "n"]);
    daemon.ctl(&["network", "disconnect", "green", "a"]);
    wait_for("eth1 to go", || (daemon.links("a").len() == 2).then_some(()));
    wait_for("the namespace to go", || (!daemon.host.made().contains(&netns)).then_some(()));
    assert!(daemon.rows("containers").iter().all(|row| row["name"] != "n"));
    assert_eq!(daemon.ctl(&["network", "rm", "green"]), "green\n");
    daemon.restart();
    assert_eq!(daemon.ctl(&["network", "ls", "-q"]), "blue\n");
    daemon.stop();
}

/// Sends one Ethernet frame from `eth0`: destination, source and rest as hexadecimal text.
pub const SEND: &str = "\
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
s.send(bytes.fromhex(''.join(sys.argv[1:]).replace(':', '')).ljust(60, b'\\0'))
";

fn static_entries_stay(host: Host) {
    let configuration = host.lab(&["a", "b", "c"], "");
    let daemon = host.start(&configuration);
    let mac = "02:00:00:00:00:77";
    let at = |daemon: &Daemon| {
        let row = daemon.rows("fdb").into_iter().find(|row| row["mac"] == mac)?;
        Some((row["container"].as_str()?.to_owned(), row["type"].as_str()?.to_owned(), row["age"].is_null()))
    };
    let fixed = |name: &str| Some((name.to_owned(), "static".to_owned(), true));
    daemon.ctl(&["fdb", "add", "blue", mac, "a"]);
    assert_eq!(at(&daemon), fixed("a"));
    // Somebody else sends from that address: it does not move.
    let rest = "88b5aaaa"; // an EtherType for experiments
    let before = daemon.port("b")["rx_frames"].as_u64().unwrap();
    daemon.exec("b", &["/usr/bin/python3", "-c", SEND, "02:42:0a:01:00:02", mac, rest]);
    wait_for("b's frame", || daemon.port("b")["rx_frames"].as_u64().filter(|now| *now > before));
    assert_eq!(at(&daemon), fixed("a"));
    // Frames for it go there, and nowhere else.
    let others = |name: &str| daemon.port(name)["tx_bytes"].as_u64().unwrap();
    let (a, b) = (others("a"), others("b"));
    for _ in 0..20 {
        let long = "00".repeat(1400);
        daemon.exec("c", &["/usr/bin/python3", "-c", SEND, mac, "02:42:0a:01:00:04", rest, &long]);
    }
    wait_for("c's frames", || (others("a") > a + 28_000).then_some(()));
    assert!(others("b") < b + 10_000);

    daemon.ctl(&["fdb", "flush"]);
    assert_eq!(at(&daemon), fixed("a"), "what is flushed is what was learned");
    let engine = daemon.engine();
    run("kill", &["-KILL", &engine.to_string()]);
    daemon.wait_engine_after(engine);
    wait_for("the static entry", || (at(&daemon) == fixed("a")).then_some(()));
    daemon.ctl(&["fdb", "add", "blue", mac, "b"]);
    assert_eq!(at(&daemon), fixed("b"));
    daemon.ctl(&["fdb", "del", "blue", mac]);
    assert_eq!(at(&daemon), None);
    daemon.ping("a", "b");
    let forgotten = daemon.ctl(&["fdb", "flush", "--container", "b"]);
    assert_eq!(forgotten, "1 entry forgotten\n");
    daemon.stop();
}

fn a_command_runs_in_a_container(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    assert_eq!(daemon.try_exec("a", &["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(daemon.exec("a", &["echo", "-n", "--json", "--", "x"]), "--json -- x");
    let missing = daemon.try_exec("a", &["no-such-program"]);
    one_line(&missing, 127, &["no-such-program"]);
    one_line(&daemon.try_exec("a", &["/etc/passwd"]), 126, &["/etc/passwd"]);
    // Its own devices, its own names; the host's processes and files.
    let names = daemon.exec("a", &["ls", "/sys/class/net"]);
    assert_eq!(names.split_whitespace().collect::<Vec<_>>(), ["eth0", "lo"], "{names}");
    let hosts = daemon.exec("a", &["cat", "/etc/hosts"]);
    assert!(hosts.contains("10.1.0.3\tb b.blue"), "{hosts}");
    let here = daemon.host.dir.join("x");
    daemon.exec("a", &["touch", here.to_str().unwrap()]);
    assert!(here.exists());
    daemon.stop();
}

fn commands_of_the_file_run(host: Host) {
    let with = |host: &Host, command: &str| {
        let text = host.lab(&["a", "b"], "");
        text.replacen("create = true\n", &format!("create = true\n{command}\n"), 1)
    };
    let short = "command = [\"sh\", \"-c\", \"echo run $$; ip -brief address show eth0; echo oops >&2\"]";
    let configuration = with(&host, short);
    let daemon = host.start(&configuration);
    let runs = |daemon: &Daemon| {
        let log = daemon.log();
        let runs = log.split("run ").skip(1).map(|rest| rest.split_whitespace().next().unwrap().to_owned());
        runs.collect::<std::collections::BTreeSet<_>>()
    };
    wait_for("three runs", || (runs(&daemon).len() >= 3).then_some(()));
    let log = daemon.log();
    assert!(log.contains("10.1.0.2/24") && log.contains("oops"), "{log}");
    assert!(daemon.rows("containers")[1]["command"].is_null());

    let sleeps = |daemon: &Daemon, seconds: &str| {
        let words = ["sleep", seconds];
        let of = |pid: &u32| crate::harness::arguments(*pid).iter().take(2).eq(words.iter());
        daemon.descendants().into_iter().find(of)
    };
    daemon.reload(&with(&daemon.host, "command = [\"sleep\", \"1111\"]"));
    let first = wait_for("the new command", || sleeps(&daemon, "1111"));
    assert_eq!(daemon.rows("containers")[0]["command"], "running");
    daemon.reload(&with(&daemon.host, "command = [\"sleep\", \"2222\"]"));
    let second = wait_for("the next command", || sleeps(&daemon, "2222"));
    let gone = |pid: u32| (!Path::new(&format!("/proc/{pid}")).exists()).then_some(());
    wait_for("the old command to end", || gone(first));
    // It does not end with the engine.
    let engine = daemon.engine();
    run("kill", &["-KILL", &engine.to_string()]);
    daemon.wait_engine_after(engine);
    daemon.ping("b", "a");
    assert_eq!(sleeps(&daemon, "2222"), Some(second));
    // Killed, it is started again.
    run("kill", &["-KILL", &second.to_string()]);
    let third = wait_for("the command again", || sleeps(&daemon, "2222").filter(|pid| *pid != second));
    daemon.reload(&with(&daemon.host, ""));
    wait_for("the command to end", || gone(third));
    daemon.reload(&with(&daemon.host, "command = [\"sleep\", \"3333\"]"));
    let last = wait_for("a command once more", || sleeps(&daemon, "3333"));
    daemon.stop();
    wait_for("the command to end with the daemon", || gone(last));
}

fn a_container_without_interfaces_has_loopback(host: Host) {
    let mut configuration = host.lab(&["a"], "");
    let netns = host.name("l");
    let _ = write!(configuration, "[[container]]\nname = \"l\"\nnetns = \"{netns}\"\ncreate = true\n");
    let daemon = host.start(&configuration);
    // `ready` speaks of ports, and this container has none.
    let row = wait_for("the container to be up", || {
        let rows = daemon.rows("containers");
        rows.into_iter().find(|row| row["name"] == "l" && row["state"] == "up")
    });
    assert_eq!(row["interfaces"].as_array().unwrap().len(), 0);
    let links = daemon.links("l");
    assert_eq!(links.iter().map(|link| link["ifname"].as_str().unwrap()).collect::<Vec<_>>(), ["lo"]);
    daemon.ping("l", "127.0.0.1");
    daemon.ping("a", "127.0.0.1");
    daemon.stop();
}

fn containers_that_may_not_talk(host: Host) {
    let configuration = host.lab(&["a", "b"], "icc = false");
    let daemon = host.start(&configuration);
    assert!(!daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", "b"]).status.success());
    assert!(daemon.dropped("icc_denied") > 0);
    assert_eq!(daemon.port("b")["tx_frames"], 0);
    // Allowed, and forbidden again, while everything runs.
    daemon.reload(&daemon.host.lab(&["a", "b"], ""));
    daemon.ping("a", "b");
    daemon.reload(&configuration);
    assert!(!daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", "b"]).status.success());
    daemon.stop();
}

fn a_container_on_two_networks(host: Host) {
    let mut configuration = host.lab(&["a"], "");
    configuration.push_str("[[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\n");
    configuration.push_str(&container(&host, "b", "red", ""));
    configuration.push_str(&container(&host, "r", "blue", "name = \"front\"\n"));
    configuration.push_str("[[container.interface]]\nnetwork = \"red\"\n");
    let daemon = host.start(&configuration);
    daemon.ping("a", "r");
    daemon.ping("b", "r.red");
    daemon.ping("r", "a");
    daemon.ping("r", "b");
    let names: Vec<_> =
        daemon.links("r").iter().map(|link| link["ifname"].as_str().unwrap().to_owned()).collect();
    assert!(names.contains(&"front".to_owned()) && names.contains(&"eth0".to_owned()), "{names:?}");
    let fdb = daemon.rows("fdb");
    let of = |network: &str, name: &str| {
        fdb.iter().filter(|row| row["network"] == network && row["container"] == name).count()
    };
    assert_eq!((of("blue", "r"), of("red", "r"), of("blue", "a"), of("red", "b")), (1, 1, 1, 1), "{fdb:?}");
    assert_eq!((of("red", "a"), of("blue", "b")), (0, 0), "{fdb:?}");
    assert!(!daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", "10.2.0.2"]).status.success());
    daemon.stop();
}

fn the_lab_of_three_networks(host: Host) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../labs/three-networks.toml");
    let mut lab = host.configuration(&std::fs::read_to_string(file).unwrap());
    for name in ["router", "client", "web", "alone"] {
        let line = format!("name = \"{name}\"\ncreate = true\n");
        assert!(lab.contains(&line), "{line}");
        lab = lab.replace(&line, &format!("{line}netns = \"{}\"\n", host.name(name)));
    }
    let daemon = host.start(&lab);
    assert!(daemon.ready.starts_with("ready: 5 ports up, 0 waiting, 3 networks"), "{}", daemon.ready);
    // As its comment says. The router's command may still be on its way to forwarding.
    wait_for("a way through the router", || {
        let ping = daemon.try_exec("client", &["ping", "-n", "-c", "1", "-W", "1", "10.2.0.10"]);
        ping.status.success().then_some(())
    });
    assert!(!daemon.try_exec("client", &["ping", "-n", "-c", "1", "-W", "1", "10.3.0.10"]).status.success());
    let get = "import urllib.request; print(urllib.request.urlopen('http://10.2.0.10/', timeout=5).status)";
    wait_for("the web server", || {
        let answer = daemon.try_exec("client", &["/usr/bin/python3", "-c", get]);
        (answer.stdout == b"200\n").then_some(())
    });
    daemon.stop();
}
