//! What stands in etcd is anybody's (research H46): daemons refuse what cannot be, say so, and forward on.

use super::etcd::Lab;
use crate::harness::{As, Daemon, Host, Train, resident, run, wait_for};

/// What is refused of a host's cluster, as `show cluster` has it.
fn refused(daemon: &Daemon) -> Vec<(String, String)> {
    let row = daemon.rows("cluster").remove(0);
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    row["refused"].as_array().unwrap().iter().map(|it| (text(&it["key"]), text(&it["why"]))).collect()
}

#[test]
fn records_that_cannot_be_are_named_and_nothing_comes_of_them() {
    let Some(host) = Host::new(As::Root) else { return };
    let Some((lab, others)) = Lab::whole(host, 2) else { return };
    let two = others[0].clone();
    let pings = Train::start(&lab.daemons[0], "c", &two);
    let networks = lab.daemons[0].rows("networks").len();
    let subnet = |vni: u32, subnet: &str| format!(r#"{{"vni":{vni},"subnet":"{subnet}"}}"#);
    let vtep = |address: &str| format!(r#"{{"vtep":"{address}"}}"#);
    let member = |host: &str, ip: &str| format!(r#"{{"host":"{host}","ips":["{ip}"],"names":["evil"]}}"#);
    let cases = [
        ("hosts/ours", vtep("198.18.1.1"), "is this host's"),
        ("hosts/loopback", vtep("127.0.0.1"), "a loopback address"),
        ("hosts/group", vtep("239.1.1.1"), "is no address that a host can have"),
        ("hosts/all", vtep("255.255.255.255"), "is no address that a host can have"),
        ("hosts/theirs", vtep("198.18.1.2"), "is that of host `h2`"),
        ("hosts/$(touch owned)", vtep("198.18.1.9"), "a name is"),
        ("networks/over", subnet(101, "10.1.0.0/16"), "overlaps 10.1.0.0/24 of our network `blue`"),
        ("networks/same", subnet(100, "10.77.0.0/16"), "its VNI 100 is that of network `blue`"),
        (
            "members/100/02:42:0a:01:00:77",
            member("loopback", "10.1.0.77"),
            "its host `loopback` is not there",
        ),
        ("members/100/02:42:0a:01:00:78", member("h9", "10.1.0.78"), "its host `h9` is not there"),
        // In the name of one that is there, of whom nothing else is known.
        (
            "members/100/02:42:0a:01:00:80",
            member("ghost", "10.1.0.11"),
            "10.1.0.11 is the address of a container of this host",
        ),
        ("members/100/01:00:5e:00:00:01", member("h2", "10.1.0.79"), "is not a MAC"),
        (
            "addresses/blue/10.2.0.1",
            r#"{"host":"h2","container":"c","interface":"eth0"}"#.into(),
            "is in no subnet",
        ),
        ("nonsense", "x".into(), "no record is at such a key"),
    ];
    lab.etcd.put([("hosts/ghost", vtep("198.18.1.8").as_str())]);
    lab.etcd.put(cases.iter().map(|(key, value, _)| (*key, value.as_str())));
    let daemon = &lab.daemons[0];
    let said = wait_for("all refusals", || Some(refused(daemon)).filter(|all| all.len() >= cases.len()));
    for (key, _, why) in &cases {
        let it = said.iter().find(|(at, _)| at == key);
        assert!(it.is_some_and(|(_, it)| it.contains(why)), "{key}: {it:?}");
    }
    let shown = daemon.ctl(&["show", "cluster"]);
    assert!(shown.contains("networks/over") && shown.contains("is this host's"), "{shown}");
    // A network that contradicts nothing is one of the cluster's; a host that does not exist is one that nobody hears.
    assert_eq!(daemon.rows("networks").len(), networks);
    lab.knows(0, 1);
    lab.knows(1, 1);
    assert_eq!(lab.look_up(0, "evil"), "");
    assert!(!daemon.host.dir.join("owned").exists());
    lab.daemons[1].ping("c", "10.1.0.11");

    // Somebody who begins with it comes to the same.
    let old = daemon.engine();
    run("kill", &["-KILL", &old.to_string()]);
    daemon.wait_engine_after(old);
    // What is at no place of a record it does not even read.
    wait_for("all refusals again", || (refused(daemon).len() >= cases.len() - 1).then_some(()));
    lab.knows(0, 1);
    drop(pings);
    daemon.ping("c", &two);
    lab.stop();
}

/// Keys of which none is a record, records of networks that nobody here has, and members without number of one that is.
#[test]
fn a_hundred_thousand_keys_hurt_nobody() {
    let Some(host) = Host::new(As::Root) else { return };
    let Some((lab, others)) = Lab::whole(host, 2) else { return };
    let two = others[0].clone();
    let before: Vec<_> = lab.daemons.iter().map(|daemon| resident(daemon.engine())).collect();
    let pings = Train::start(&lab.daemons[0], "c", &two);
    let junk = |n: u32| match n % 5 {
        0 => (format!("members/100/junk-{n}"), "x".to_owned()),
        1 => (format!("members/{n}/02:00:00:00:00:01"), r#"{"host":"nobody"}"#.to_owned()),
        2 => (format!("hosts/-{n}"), r#"{"vtep":"198.18.7.7"}"#.to_owned()),
        3 => (
            format!("addresses/nowhere/10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255),
            r#"{"host":"x","container":"c","interface":"eth0"}"#.to_owned(),
        ),
        _ => (format!("a/{n}"), "x".repeat(100)),
    };
    let all: Vec<_> = (0..100_000).map(junk).collect();
    lab.etcd.put(all.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    // Who is really there is behind all of it.
    let host = r#"{"vtep":"198.18.1.200"}"#;
    lab.etcd.put([("hosts/ghost", host)]);
    for (daemon, before) in lab.daemons.iter().zip(before) {
        let row = wait_for("the last of it", || {
            let row = daemon.rows("cluster").remove(0);
            row["hosts"].as_array().unwrap().iter().any(|it| it["host"] == "ghost").then_some(row)
        });
        assert!(row["refused_total"].as_u64() >= Some(60_000), "{}", row["refused_total"]);
        assert!(row["refused"].as_array().unwrap().len() <= 256);
        let grown = resident(daemon.engine()).saturating_sub(before);
        eprintln!("grown by {} KiB", grown >> 10);
        assert!(grown < 64 << 20, "{grown} bytes");
    }
    let log = std::fs::metadata(lab.daemons[0].host.dir.join("log")).unwrap().len();
    assert!(log < 1 << 20, "{log} bytes were logged");
    lab.knows(0, 1);
    // What changes is told all the same.
    let daemon = &lab.daemons[1];
    daemon.ctl(&[
        "network",
        "connect",
        "blue",
        "d",
        "--netns",
        &daemon.host.name("d"),
        "--create",
        "--alias",
        "new",
    ]);
    wait_for("a new name", || (!lab.look_up(0, "new").is_empty()).then_some(()));
    pings.assert_lost_nothing();
    lab.stop();
}

/// Records that are sound, each by itself, and far more than there is room for: of a host that does not exist.
#[test]
fn more_members_than_there_is_room_for() {
    let Some(host) = Host::new(As::Root) else { return };
    let Some((lab, others)) = Lab::whole(host, 2) else { return };
    let two = others[0].clone();
    let pings = Train::start(&lab.daemons[0], "c", &two);
    let before = resident(lab.daemons[0].engine());
    let member = |n: u32| {
        let [_, a, b, c] = n.to_be_bytes();
        (format!("members/100/02:99:00:{a:02x}:{b:02x}:{c:02x}"), r#"{"host":"ghost"}"#)
    };
    let all: Vec<_> = (0..40_000).map(member).collect();
    lab.etcd.put([("hosts/ghost", r#"{"vtep":"198.18.1.200"}"#)]);
    lab.etcd.put(all.iter().map(|(key, value)| (key.as_str(), *value)));
    let daemon = &lab.daemons[0];
    wait_for("all of it", || {
        let row = daemon.rows("cluster").remove(0);
        (row["members"].as_array().unwrap().len() == 40_001).then_some(())
    });
    lab.knows(0, 2);
    let grown = resident(daemon.engine()).saturating_sub(before);
    let log = std::fs::metadata(daemon.host.dir.join("log")).unwrap().len();
    eprintln!("grown by {} KiB, {log} bytes logged", grown >> 10);
    assert!(grown < 128 << 20, "{grown} bytes");
    assert!(log < 1 << 20, "{log} bytes were logged");
    // Who is here, and who is really there, are found as before.
    daemon.ping("c", &two);
    lab.daemons[1].ping("c", "10.1.0.11");
    pings.assert_lost_nothing();
    lab.stop();
}
