//! Multicast groups with kernels that join and leave them: who gets what with `snooping`, and that nobody loses what is
//! not for a group of his choice.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::harness::{Daemon, Host, PYTHON, wait_for};
use crate::wire::{Listener, checksum, ethernet, hex, ip, ipv4, mac, send};
use crate::{as_both, by_two_workers, on_other_engine};

as_both!(who_joins_gets_it_and_nobody_else, who_asks_is_a_router_unless_strict,);

on_other_engine!(who_joins_gets_it_and_nobody_else,);

by_two_workers!(who_joins_gets_it_and_nobody_else,);

pub const PROGRAM: &str = include_str!("groups.py");
pub const NEEDLE: &[u8] = b"<multi-magic>!";
pub const GROUP: &str = "239.1.1.1";
pub const GROUP6: &str = "ff05::1:3";

/// A process that listens to groups until it is dropped.
pub struct Member(Child);

impl Member {
    #[track_caller]
    pub fn join(daemon: &Daemon, container: &str, groups: &[&str]) -> Self {
        let words = [&[PYTHON, "-c", PROGRAM, "join"], groups].concat();
        let mut command = daemon.exec_command(container, &words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "joined\n", "{container}");
        Self(child)
    }

    /// It leaves its groups.
    pub fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Containers behind which somebody is, by `show groups`.
pub fn known(daemon: &Daemon, group: &str, what: &str) -> Vec<String> {
    let rows = daemon.rows("groups").into_iter().filter(|row| row["group"] == group && row["type"] == what);
    rows.map(|row| row["container"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn wait_known(daemon: &Daemon, group: &str, what: &str, containers: &[&str]) {
    wait_for(&format!("{containers:?} as {what} of {group}"), || {
        (known(daemon, group, what) == containers).then_some(())
    });
}

/// The gateway asked, and everybody had the time to answer.
#[track_caller]
fn wait_answered(daemon: &Daemon, group: &str) {
    let line = ["trace", "--from", "a", "--to", group, "--udp", "5000"];
    wait_for("answers", || daemon.ctl(&line).contains("to those who listen").then_some(()));
}

/// How many of ten datagrams from `a` to a group each of `containers` got.
#[track_caller]
fn heard(daemon: &Daemon, group: &str, containers: &[&str]) -> Vec<usize> {
    let listeners: Vec<_> = containers.iter().map(|name| Listener::start(daemon, name, NEEDLE)).collect();
    let came = || daemon.port("a")["rx_frames"].as_u64().unwrap();
    let before = came();
    daemon.exec("a", &[PYTHON, "-c", PROGRAM, "send", "10", &hex(NEEDLE), group]);
    wait_for("ten datagrams", || (came() >= before + 10).then_some(()));
    daemon.assert_conserved();
    listeners.into_iter().map(|listener| listener.heard().len()).collect()
}

fn who_joins_gets_it_and_nobody_else(host: Host) {
    let network = "subnet6 = \"fd00:1::/64\"\nsnooping = true";
    let configuration = host.lab(&["a", "b", "c", "d"], network);
    let daemon = host.start(&configuration);
    let others = ["b", "c", "d"];
    // c speaks as kernels did twenty years ago, and b as they do now.
    let old = "echo 2 > /proc/sys/net/ipv4/conf/eth0/force_igmp_version && \
               echo 1 > /proc/sys/net/ipv6/conf/eth0/force_mld_version";
    daemon.exec("c", &["sh", "-c", old]);
    let b = Member::join(&daemon, "b", &[GROUP, GROUP6]);
    let _c = Member::join(&daemon, "c", &[GROUP, GROUP6]);
    for group in [GROUP, GROUP6] {
        wait_known(&daemon, group, "member", &["b", "c"]);
        wait_answered(&daemon, group);
    }
    assert_eq!(known(&daemon, "224.0.0.1", "querier"), [""], "the gateway asks");
    assert_eq!(known(&daemon, "ff02::1", "querier"), [""]);
    let before = daemon.port("d")["tx_frames"].as_u64();
    for group in [GROUP, GROUP6] {
        assert_eq!(heard(&daemon, group, &others), [10, 10, 0], "{group}");
        wait_known(&daemon, group, "member", &["b", "c"]);
    }
    assert_eq!(heard(&daemon, "239.1.1.2", &others), [0, 0, 0]);
    assert!(daemon.dropped("no_listener") >= 10);
    let after = daemon.port("d")["tx_frames"].as_u64();
    assert!(after.zip(before).is_some_and(|(after, before)| after - before < 10), "{before:?} {after:?}");
    for link in ["224.0.0.251", "ff02::fb"] {
        assert_eq!(heard(&daemon, link, &others), [10, 10, 10], "{link}");
    }
    b.end();
    for group in [GROUP, GROUP6] {
        wait_known(&daemon, group, "member", &["c"]);
        assert_eq!(heard(&daemon, group, &others), [0, 10, 0], "{group}");
    }
    addresses_are_still_found(&daemon);
    daemon.stop();
}

/// Neighbour discovery goes to groups, of which every address has one.
fn addresses_are_still_found(daemon: &Daemon) {
    let links = daemon.link("d", "eth0");
    let local = |info: &Value| (info["scope"] == "link").then(|| info["local"].as_str().unwrap().to_owned());
    let local = links["addr_info"].as_array().unwrap().iter().find_map(local).unwrap();
    let ping = |to: &str| daemon.exec("a", &["ping", "-6", "-c", "1", "-W", "5", to]);
    ping(&format!("{local}%eth0"));
    ping("fd00:1::5");
    ping("fd00:1::1");
    // An address that nobody has is d's, and one that somebody has is not.
    for (address, flag) in [("fd00:1::77", "tentative"), ("fd00:1::2", "dadfailed")] {
        daemon.exec("d", &["ip", "-6", "address", "add", &format!("{address}/64"), "dev", "eth0"]);
        wait_for(&format!("{address} to be judged"), || {
            let shown = daemon.exec("d", &["ip", "-6", "address", "show", "to", address, "dev", "eth0"]);
            let done = if flag == "dadfailed" { shown.contains(flag) } else { !shown.contains(flag) };
            done.then_some(())
        });
    }
    ping("fd00:1::77");
}

/// A query of a container, from an address of its own or not.
fn query(from: u8, source: Ipv4Addr) -> Vec<u8> {
    let mut message = vec![0x11, 100, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0];
    let sum = checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let all = Ipv4Addr::new(224, 0, 0, 1);
    ethernet([1, 0, 0x5e, 0, 0, 1], mac(from), 0x0800, &ipv4(2, source, all, &message))
}

fn who_asks_is_a_router_unless_strict(host: Host) {
    let containers = ["a", "b", "c"];
    let lab =
        |host: &Host, spoof: &str| host.lab(&containers, &format!("snooping = true\nspoof = \"{spoof}\""));
    let (claimed, strict) = (lab(&host, "claimed"), lab(&host, "strict"));
    let daemon = host.start(&claimed);
    let _b = Member::join(&daemon, "b", &[GROUP]);
    wait_known(&daemon, GROUP, "member", &["b"]);
    wait_answered(&daemon, GROUP);
    assert_eq!(heard(&daemon, GROUP, &["b", "c"]), [10, 0]);
    send(&daemon, "c", &[query(4, ip(4))]);
    wait_known(&daemon, "224.0.0.2", "router", &["c"]);
    assert_eq!(known(&daemon, "224.0.0.1", "querier"), [""], "the gateway's address is lower");
    assert_eq!(heard(&daemon, GROUP, &["b", "c"]), [10, 10], "a multicast router gets every group");
    // Nobody asks with the gateway's address.
    send(&daemon, "c", &[query(4, ip(1))]);
    wait_for("the query to be refused", || (daemon.dropped("spoofed_ip") > 0).then_some(()));
    daemon.reload(&strict);
    let asks = || daemon.dropped("spoofed_query");
    let before = asks();
    send(&daemon, "c", &[query(4, ip(4))]);
    wait_for("the query to be refused", || (asks() > before).then_some(()));
    wait_known(&daemon, GROUP, "member", &["b"]);
    daemon.stop();
}
