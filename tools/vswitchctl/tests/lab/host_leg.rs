//! `host_address`: the host's own leg in a network. The host of these tests is a namespace of their own.

use serde_json::Value;

use crate::harness::{As, Daemon, Host, PYTHON, gone, run, text, wait_for};

/// A host to play with, in which the daemon runs.
fn home(host: &mut Host) -> String {
    let home = host.netns("home");
    run("ip", &["-n", &home, "link", "set", "lo", "up"]);
    host.before = vec!["nsenter".into(), format!("--net=/run/netns/{home}"), "--".into()];
    home
}

/// A command on that host.
fn on(home: &str, words: &[&str]) -> std::process::Output {
    let net = format!("--net=/run/netns/{home}");
    std::process::Command::new("nsenter").arg(net).arg("--").args(words).output().unwrap()
}

/// The leg as the host's kernel sees it; null if it is not there.
fn leg(home: &str) -> Value {
    let output = on(home, &["ip", "-json", "address", "show", "dev", "vsw-blue"]);
    serde_json::from_slice::<Value>(&output.stdout).map_or(Value::Null, |links| links[0].clone())
}

#[track_caller]
fn pings(home: &str, to: &str) {
    let output = on(home, &["ping", "-n", "-c", "1", "-W", "5", to]);
    assert!(output.status.success(), "{}", text(&output));
}

fn legs(daemon: &Daemon) -> Vec<Value> {
    daemon.rows("ports").into_iter().filter(|row| row["container"] == "-").collect()
}

#[test]
fn the_host_is_one_of_the_network() {
    let Some(mut host) = Host::new(As::Root) else { return };
    let home = home(&mut host);
    let configuration = host.lab(&["a", "b"], "host_address = \"10.1.0.254\"");
    let mut daemon = host.start(&configuration);
    assert!(daemon.ready.starts_with("ready: 3 ports up, 0 waiting, 1 networks, "), "{}", daemon.ready);
    let link = leg(&home);
    assert_eq!((&link["address"], &link["operstate"]), (&"02:42:0a:01:00:fe".into(), &"UP".into()));
    let addresses = link["addr_info"].as_array().unwrap();
    assert_eq!(addresses.len(), 1, "no IPv6: {link}");
    assert_eq!((&addresses[0]["local"], &addresses[0]["prefixlen"]), (&"10.1.0.254".into(), &24.into()));

    // Both ways, and by the address of a service.
    pings(&home, "10.1.0.2");
    daemon.ping("a", "10.1.0.254");
    let server = daemon.background("a", &[PYTHON, "-m", "http.server", "8000", "--bind", "10.1.0.2"]);
    wait_for("an answer to curl", || {
        let output = on(&home, &["curl", "-s", "-m", "5", "http://10.1.0.2:8000/"]);
        String::from_utf8_lossy(&output.stdout).contains("Directory listing").then_some(())
    });
    drop(server);
    let rows = legs(&daemon);
    assert_eq!((rows.len(), &rows[0]["iface"]), (1, &"vsw-blue".into()));
    let fdb = daemon.rows("fdb");
    assert!(fdb.iter().any(|row| row["mac"] == "02:42:0a:01:00:fe" && row["container"] == "-"), "{fdb:?}");
    assert_eq!(daemon.rows("containers").len(), 2, "the host is none");

    // It outlives engine and keeper.
    let engine = daemon.engine();
    run("kill", &["-KILL", &engine.to_string()]);
    daemon.wait_engine_after(engine);
    pings(&home, "10.1.0.3");
    daemon.take_over();
    pings(&home, "10.1.0.3");
    assert_eq!(leg(&home)["ifindex"], link["ifindex"]);

    // It is changed, removed and made by reloads.
    daemon.reload(&configuration.replace("10.1.0.254", "10.1.0.253"));
    wait_for("the other address", || {
        let link = leg(&home);
        (link["addr_info"][0]["local"] == "10.1.0.253" && link["addr_info"][1].is_null()).then_some(())
    });
    pings(&home, "10.1.0.2");
    daemon.ping("b", "10.1.0.253");
    let without = daemon.host.lab(&["a", "b"], "");
    daemon.reload(&without);
    wait_for("its end", || leg(&home).is_null().then_some(()));
    assert!(legs(&daemon).is_empty());
    daemon.reload(&configuration);
    wait_for("it is there again", || (!leg(&home).is_null()).then_some(()));
    daemon.ping("a", "10.1.0.254");

    // And it goes when all who held it are dead.
    let engine = daemon.engine();
    daemon.kill_keeper();
    pings(&home, "10.1.0.2");
    run("kill", &["-KILL", &engine.to_string()]);
    gone(engine);
    wait_for("its end", || leg(&home).is_null().then_some(()));
    daemon.begin();
    pings(&home, "10.1.0.2");
    daemon.stop();
    assert!(leg(&home).is_null());
}

#[test]
fn the_host_is_told_the_names_of_its_networks() {
    let Some(mut host) = Host::new(As::Root) else { return };
    let home = home(&mut host);
    let red = "[[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\nhost_address = \"10.2.0.254\"\n[[container]]\nname = \"x\"";
    let x = format!(
        "{red}\nnetns = \"{}\"\ncreate = true\n[[container.interface]]\nnetwork = \"red\"\n",
        host.name("x")
    );
    let configuration = host.lab(&["a", "b"], "host_address = \"10.1.0.254\"") + &x;
    let daemon = host.start(&configuration);
    let dig = |server: &str, words: &[&str]| {
        let server = format!("@{server}");
        let output = on(&home, &[&["dig", "+tries=1", "+time=5", &server], words].concat());
        let said = String::from_utf8_lossy(&output.stdout);
        let status = said.split_once("status: ").and_then(|(_, rest)| rest.split(',').next());
        let status = status.unwrap_or_else(|| panic!("{said}")).to_owned();
        // A record's line ends with what it says.
        let record = said.lines().find(|line| !line.starts_with(';') && line.contains("\tIN\t"));
        (status, record.and_then(|line| line.split('\t').next_back()).unwrap_or_default().to_owned())
    };
    let is = |status: &str, record: &str| (status.to_owned(), record.to_owned());
    for by in ["+notcp", "+tcp"] {
        assert_eq!(dig("10.1.0.1", &[by, "b"]), is("NOERROR", "10.1.0.3"));
        assert_eq!(dig("10.1.0.1", &[by, "b.blue"]), is("NOERROR", "10.1.0.3"));
        assert_eq!(dig("10.1.0.1", &[by, "-x", "10.1.0.2"]), is("NOERROR", "a.blue."));
        assert_eq!(dig("10.2.0.1", &[by, "x"]), is("NOERROR", "10.2.0.2"));
        // Those of the network that is asked, and for the rest the host has resolvers of its own.
        assert_eq!(dig("10.1.0.1", &[by, "x"]), is("NXDOMAIN", ""));
        assert_eq!(dig("10.1.0.1", &[by, "outside.test"]), is("REFUSED", ""));
        assert_eq!(dig("10.1.0.1", &[by, "-x", "192.0.2.7"]), is("REFUSED", ""));
    }
    let counts = daemon.rows("status")[0]["dns"]["counts"].clone();
    assert_eq!((&counts["forwarded"], &counts["refused"]), (&0.into(), &4.into()), "{counts}");
    daemon.assert_conserved();
    daemon.stop();
}

#[test]
fn nothing_else_of_the_host_is_reached_by_it() {
    let Some(mut host) = Host::new(As::Root) else { return };
    let home = home(&mut host);
    run("ip", &["-n", &home, "address", "add", "192.0.2.1/32", "dev", "lo"]);
    assert!(on(&home, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).status.success());
    let configuration = host.lab(&["a", "b"], "host_address = \"10.1.0.254\"");
    let daemon = host.start(&configuration);
    daemon.ping("a", "10.1.0.254");
    // The host's kernel would answer for any address of its own, and forward to others.
    for (before, to) in ["192.0.2.1", "198.51.100.1"].iter().enumerate() {
        daemon.exec("a", &["ip", "route", "replace", to, "via", "10.1.0.254"]);
        let output = daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", to]);
        assert!(!output.status.success(), "{to}: {}", text(&output));
        assert!(daemon.dropped("not_for_host") > before as u64, "{to}");
    }
    // Nor does the host hear what is not for it.
    let heard = || legs(&daemon)[0]["tx_frames"].as_u64().unwrap();
    let before = heard();
    daemon.exec("a", &["ping", "-n", "-b", "-c", "3", "-i", "0.2", "-W", "1", "-q", "10.1.0.3"]);
    let after = heard();
    assert!(after - before <= 2, "ARP, and nothing more: {before} {after}");
    // Its address is its own.
    daemon.exec("b", &["ip", "address", "add", "10.1.0.254/24", "dev", "eth0"]);
    let spoofed = daemon.dropped("spoofed_ip") + daemon.dropped("spoofed_arp");
    let output = daemon.try_exec("b", &["ping", "-n", "-c", "1", "-W", "1", "-I", "10.1.0.254", "10.1.0.2"]);
    assert!(!output.status.success(), "{}", text(&output));
    assert!(daemon.dropped("spoofed_ip") + daemon.dropped("spoofed_arp") > spoofed);
    daemon.assert_conserved();
    daemon.stop();
}

#[test]
fn the_host_is_no_container_to_icc() {
    let Some(mut host) = Host::new(As::Root) else { return };
    let home = home(&mut host);
    let configuration = host.lab(&["a", "b"], "host_address = \"10.1.0.254\"\nicc = false");
    let daemon = host.start(&configuration);
    pings(&home, "10.1.0.2");
    daemon.ping("b", "10.1.0.254");
    let output = daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", "10.1.0.3"]);
    assert!(!output.status.success(), "{}", text(&output));
    daemon.stop();
}

#[test]
fn who_may_not_is_told_and_the_rest_runs() {
    let Some(host) = Host::new(As::User) else { return };
    let configuration = host.lab(&["a", "b"], "host_address = \"10.1.0.254\"");
    let daemon = host.start(&configuration);
    assert!(daemon.ready.starts_with("ready: 2 ports up, 0 waiting, 1 failed, "), "{}", daemon.ready);
    daemon.ping("a", "10.1.0.3");
    let reason = legs(&daemon)[0]["reason"].as_str().unwrap().to_owned();
    for part in ["vsw-blue", "host_address", "not permitted", "CAP_NET_ADMIN", "as root"] {
        assert!(reason.contains(part), "{part:?} in {reason}");
    }
    daemon.stop();
}
