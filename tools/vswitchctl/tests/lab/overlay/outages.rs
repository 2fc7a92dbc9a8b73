//! etcd away, or out of reach for one, while frames go on: who loses what by it.

use std::time::{Duration, Instant};

use super::etcd::{ETCD, Lab};
use crate::as_both;
use crate::harness::{As, Background, Daemon, Host, PYTHON, Train, run, wait_for};
use crate::traffic::arrivals;

as_both!(an_engine_that_begins_without_etcd_knows_the_other_hosts);

/// Longer than leases of these labs, which are of two seconds.
const LONGER_THAN_A_LEASE: Duration = Duration::from_secs(5);

/// Something must be so for as long.
#[track_caller]
fn for_long(time: Duration, mut holds: impl FnMut()) {
    let began = Instant::now();
    wait_for("time to pass", || {
        holds();
        (began.elapsed() >= time).then_some(())
    });
}

/// Waits until a host has written down who is elsewhere.
#[track_caller]
fn wait_written(daemon: &Daemon, addresses: &[String]) {
    let file = daemon.host.dir.join("state/cluster.json");
    wait_for("the other hosts in the state folder", || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let all = addresses.iter().all(|it| text.contains(&format!("addresses/blue/{it}\"")));
        (all && text.contains("members/100/")).then_some(())
    });
}

fn an_engine_that_begins_without_etcd_knows_the_other_hosts(host: Host) {
    let Some((mut lab, others)) = Lab::whole(host, 3) else { return };
    let [two, three] = &others[..] else { panic!("{others:?}") };
    wait_written(&lab.daemons[0], &others);
    let ping = lab.daemons[2].background("c", &["ping", "-n", "-D", "-i", "0.01", "10.1.0.11"]);
    lab.etcd.kill();
    let stream = lab.stream(0, 1, two, 16);
    lab.goes_on(0, 4 << 20);
    // Its engine, without a word: the next one has nobody to ask.
    let old = lab.daemons[0].engine();
    run("kill", &["-KILL", &old.to_string()]);
    lab.daemons[0].wait_engine_after(old);
    let row = lab.daemons[0].rows("cluster").remove(0);
    assert_eq!(row["state"], "remembered", "{row}");
    assert_eq!((row["hosts"].as_array().unwrap().len(), row["members"].as_array().unwrap().len()), (2, 2));
    lab.knows(0, 2);
    lab.goes_on(0, 4 << 20);
    assert!(stream.finish() >= 16 << 20);
    assert_eq!(lab.look_up(0, "on3"), *three);
    for to in &others {
        lab.daemons[0].ping("c", to);
    }
    // As long as it takes to see that it went on.
    lab.daemons[2].exec("c", &["ping", "-n", "-q", "-c", "20", "-i", "0.02", "10.1.0.11"]);
    let (times, lost, summary) = arrivals(ping);
    assert!(times.len() > 20, "{lost} lost; {summary}");

    // The whole daemon: its containers are made anew, at the same addresses.
    lab.daemons[0].restart();
    assert_eq!(lab.state(0), "remembered");
    for to in &others {
        lab.daemons[0].ping("c", to);
    }
    lab.daemons[1].ping("c", "10.1.0.11");

    // And when it is back all say the same again, and nobody was ever withdrawn.
    lab.etcd.begin();
    let pings = Train::start(&lab.daemons[0], "c", three);
    for at in 0..3 {
        wait_for("the store", || {
            assert_eq!(lab.daemons[at].rows("vxlan").len(), 2);
            (lab.state(at) == "connected").then_some(())
        });
    }
    for_long(LONGER_THAN_A_LEASE, || lab.knows(0, 2));
    (0..3).for_each(|at| lab.wait_connected(at));
    pings.assert_lost_nothing();
    lab.stop();
}

/// Numbered datagrams of 1,000 bytes at a bounded rate until a file exists: how many were sent, and which of them came.
const NUMBERED: &str = "\
import os, socket, sys, time
role, host, stop = sys.argv[1], sys.argv[2], sys.argv[3]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
if role == 'receive':
    s.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
    s.bind((host, 5013))
    s.settimeout(60)
    open(sys.argv[4], 'w').close()
    came = set()
    while (number := int.from_bytes(s.recv(2000)[:8], 'big')) != 0:
        came.add(number)
    print(len(came))
else:
    sent = 0
    while not os.path.exists(stop) and sent < 200000:
        sent += 1
        s.sendto(sent.to_bytes(8, 'big') + bytes(992), (host, 5013))
        time.sleep(0.0004) # a bounded rate, and no burst behind a pause
    time.sleep(0.5)
    for _ in range(20):
        s.sendto(bytes(8), (host, 5013))
        time.sleep(0.01)
    print(sent)
";

/// How many datagrams are sent from one known container to another, and how many of them are lost, while something happens.
fn lost_while(lab: &Lab, to: &str, what: impl FnOnce()) -> (u64, u64) {
    let [sender, receiver] = [&lab.daemons[1], &lab.daemons[2]];
    let (stop, ready) = (sender.host.dir.join("stop-udp"), receiver.host.dir.join("ready-udp"));
    for file in [&stop, &ready] {
        let _ = std::fs::remove_file(file);
    }
    sender.ping("c", to); // addresses are resolved
    let words = |role, file| [PYTHON, "-c", NUMBERED, role, to, file];
    let (stop, ready) = (stop.to_str().unwrap().to_owned(), ready.to_str().unwrap().to_owned());
    let receiving = receiver.background("c", &[&words("receive", "-")[..], &[&ready]].concat());
    wait_for("a receiver", || std::path::Path::new(&ready).exists().then_some(()));
    let sending: Background = sender.background("c", &words("send", &stop));
    what();
    std::fs::write(&stop, "").unwrap();
    let number = |it: Background| it.finish().trim().parse::<u64>().unwrap();
    let (sent, came) = (number(sending), number(receiving));
    (sent, sent - came)
}

#[test]
fn a_stream_loses_no_more_than_without_while_etcd_restarts_and_forgets() {
    let Some(host) = Host::new(As::Root) else { return };
    let Some((mut lab, others)) = Lab::whole(host, 3) else { return };
    let three = others[1].clone();
    let etcd = std::cell::RefCell::new(std::mem::replace(&mut lab.etcd, super::etcd::Etcd::none()));
    let (sent, without) = lost_while(&lab, &three, || for_long(2 * LONGER_THAN_A_LEASE, || ()));
    assert!(sent > 1000, "{sent}");
    let churn = || {
        // The first host has a container that comes and goes: there is something to say all the time.
        let daemon = &lab.daemons[0];
        let netns = daemon.host.name("x");
        daemon.ctl(&["network", "connect", "blue", "x", "--netns", &netns, "--create"]);
        daemon.ctl(&["network", "disconnect", "blue", "x"]);
    };
    let (sent, with) = lost_while(&lab, &three, || {
        let mut etcd = etcd.borrow_mut();
        for _ in 0..2 {
            churn();
            etcd.compact();
            etcd.kill();
            for_long(LONGER_THAN_A_LEASE, || ());
            etcd.begin();
            churn();
            etcd.compact();
            (0..3).for_each(|at| lab.wait_connected(at));
        }
    });
    eprintln!("lost without: {without}, with: {with} of {sent}");
    assert!(sent > 1000, "{sent}");
    // What a busy machine loses by chance.
    assert!(with <= without + sent / 1000, "{with} of {sent} were lost, {without} without");
    for at in 0..3 {
        lab.knows(at, 2);
    }
    lab.stop();
}

/// Packets of a host to and from somewhere are dropped, until this ends.
struct Cut {
    netns: String,
}

impl Cut {
    /// `what` is what nft matches, of both directions.
    fn new(netns: &str, what: &[&str]) -> Self {
        let rules: Vec<_> = what
            .iter()
            .map(|it| format!("add rule inet cut out {it} drop\nadd rule inet cut in {it} drop\n"))
            .collect();
        let hook = |name: &str, hook: &str| {
            format!("add chain inet cut {name} {{ type filter hook {hook} priority 0; }}\n")
        };
        let text =
            format!("add table inet cut\n{}{}{}", hook("in", "input"), hook("out", "output"), rules.concat());
        let file = std::env::temp_dir().join(format!("{netns}.nft"));
        std::fs::write(&file, text).unwrap();
        run("ip", &["netns", "exec", netns, "nft", "-f", file.to_str().unwrap()]);
        let _ = std::fs::remove_file(&file);
        Self { netns: netns.to_owned() }
    }

    fn heal(self) {
        run("ip", &["netns", "exec", &self.netns, "nft", "delete", "table", "inet", "cut"]);
    }
}

#[test]
fn one_that_is_cut_off_from_etcd_is_withdrawn_and_comes_back() {
    let Some(host) = Host::new(As::Root) else { return };
    let Some((lab, others)) = Lab::whole(host, 3) else { return };
    let [two, three] = &others[..] else { panic!("{others:?}") };
    let pings = Train::start(&lab.daemons[0], "c", two);
    let cut = Cut::new(&lab.places[2].netns, &[&format!("ip daddr {ETCD}"), &format!("ip saddr {ETCD}")]);
    wait_for("it to be withdrawn", || (!lab.knows_of(0, 2) && !lab.knows_of(1, 2)).then_some(()));
    // It knows what it knew, and says so.
    wait_for("its loss", || (lab.state(2) == "lost").then_some(()));
    lab.knows(2, 2);
    assert_eq!(lab.look_up(0, "on3"), "");
    assert_eq!(lab.look_up(2, "on2"), *two);
    // Whom nobody believes any more nobody hears.
    let said = lab.daemons[2].try_exec("c", &["ping", "-n", "-c", "1", "-W", "1", "10.1.0.11"]);
    assert!(!said.status.success());
    // A container of either side meanwhile: nobody could say that they are to have different addresses.
    let new = |at: usize| {
        let daemon = &lab.daemons[at];
        daemon.ctl(&["network", "connect", "blue", "d", "--netns", &daemon.host.name("d"), "--create"]);
        let address = daemon.port("d")["addresses"][0].as_str().unwrap().to_owned();
        address.split('/').next().unwrap().to_owned()
    };
    let there = new(2);
    let here = new(0);
    assert_ne!(here, *two, "{here} is held by a host that is there");
    cut.heal();
    lab.wait_connected(2);
    for at in 0..3 {
        lab.knows(at, 2);
    }
    // All are told of each other, by name as well, and no two have one address.
    let mut addresses = Vec::new();
    wait_for("different addresses", || {
        addresses = (0..3)
            .flat_map(|at| lab.daemons[at].rows("ports"))
            .filter(|row| row["state"] == "up")
            .map(|row| row["addresses"][0].as_str().unwrap().to_owned())
            .collect();
        let mut all = addresses.clone();
        all.sort_unstable();
        all.dedup();
        (all.len() == 5).then_some(())
    });
    eprintln!("{here} here, {there} there, {three} before; then {addresses:?}");
    let of_three = lab.daemons[2].port("c")["addresses"][0].as_str().unwrap().to_owned();
    let of_three = of_three.split('/').next().unwrap();
    wait_for("its name", || (lab.look_up(0, "on3") == of_three).then_some(()));
    lab.daemons[0].ping("c", of_three);
    lab.daemons[2].ping("c", "10.1.0.11");
    // Nobody goes again once he is back.
    for_long(LONGER_THAN_A_LEASE, || assert!(lab.knows_of(0, 2) && lab.knows_of(1, 2) && lab.knows_of(0, 1)));
    pings.assert_lost_nothing();
    lab.stop();
}

#[test]
fn hosts_that_reach_etcd_but_not_each_other_find_each_other_again() {
    let Some(host) = Host::new(As::Root) else { return };
    let Some((lab, others)) = Lab::whole(host, 3) else { return };
    let [two, three] = &others[..] else { panic!("{others:?}") };
    let pings = Train::start(&lab.daemons[0], "c", two);
    lab.daemons[0].ping("c", three);
    let cut = Cut::new(&lab.places[2].netns, &["udp dport 4789"]);
    let unheard = ["ping", "-n", "-c", "1", "-W", "1", three];
    for_long(LONGER_THAN_A_LEASE, || {
        // Whoever says that he is there is believed.
        assert!(lab.knows_of(0, 2) && lab.knows_of(2, 0) && lab.state(2) == "connected");
        assert!(!lab.daemons[0].try_exec("c", &unheard).status.success());
    });
    let age = |at: usize| lab.daemons[at].rows("vxlan").iter().map(|row| row["age"].as_u64().unwrap()).min();
    let before = [age(0), age(2)];
    cut.heal();
    wait_for("the other side", || lab.daemons[0].try_exec("c", &unheard).status.success().then_some(()));
    lab.daemons[2].ping("c", "10.1.0.11");
    assert!(age(0) >= before[0] && age(2) >= before[1], "nobody was withdrawn");
    pings.assert_lost_nothing();
    lab.stop();
}
