//! Addresses by DHCP in a network that several hosts have: each is lent once.

use serde_json::Value;

use super::etcd::{Etcd, begin, cluster};
use super::hosts::{Underlay, Wanted, configuration};
use super::hosts_like;
use crate::addresses::{RENEW_AND_RELEASE, script};
use crate::as_both;
use crate::harness::{As, Background, Daemon, Host, skipped, wait_for};

as_both!(no_two_hosts_lend_one_address);

/// A machine nested in `c`: another MAC behind the same port.
fn guest(daemon: &Daemon, name: &str, mac: &str) -> bool {
    let words = ["ip", "link", "add", "link", "eth0", "name", name, "address", mac, "type", "macvlan"];
    let made = daemon.try_exec("c", &words).status.success();
    if made {
        daemon.exec("c", &["ip", "link", "set", name, "up"]);
    }
    made
}

/// A client that goes on asking.
fn client(daemon: &Daemon, guest: &str, script: &str) -> Background {
    daemon
        .background("c", &["busybox", "udhcpc", "-i", guest, "-f", "-q", "-s", script, "-T", "1", "-A", "1"])
}

/// The address that it was told.
fn got(said: &str) -> String {
    let line = said.lines().find(|line| line.starts_with("got bound ")).unwrap_or_else(|| panic!("{said}"));
    line.split([' ', '/']).nth(3).unwrap().to_owned()
}

fn inspected(daemon: &Daemon) -> Value {
    serde_json::from_str(&daemon.ctl(&["network", "inspect", "blue", "--json"])).unwrap()
}

fn no_two_hosts_lend_one_address(host: Host) {
    let mut cable = Host::new(As::Root).unwrap();
    let mut underlay = Underlay::new(&mut cable, false);
    let Some(mut etcd) = Etcd::start(&underlay, &cable) else { return };
    let mut daemons = Vec::new();
    for (mut host, number) in hosts_like(host, 2).into_iter().zip(1..) {
        let place = underlay.place(&mut host);
        let cluster = cluster(number);
        let wanted = Wanted { network: "dhcp = true", rest: &cluster, ..Wanted::default() };
        let text = configuration(&host, &place, number as u8, &wanted);
        daemons.push(begin(host, &place, &text));
    }
    let scripts: Vec<_> = daemons.iter().map(|daemon| script(&daemon.host)).collect();
    let scripts: Vec<_> = scripts.iter().map(|script| script.to_str().unwrap()).collect();
    let [one, two] = &daemons[..] else { panic!("two daemons") };
    if !guest(one, "guest", "02:00:00:00:00:07") || !guest(two, "guest", "02:00:00:00:00:08") {
        skipped("this kernel has no macvlan");
        return daemons.into_iter().for_each(Daemon::stop);
    }
    // Both at once, and each host would lend its highest.
    let asking = [client(one, "guest", scripts[0]), client(two, "guest", scripts[1])];
    let mut lent = asking.map(|asking| got(&asking.finish()));
    let of_one = lent[0].clone();
    lent.sort_unstable();
    assert_eq!(lent, ["10.1.0.253", "10.1.0.254"]);
    let other = lent.iter().find(|address| **address != of_one).unwrap();
    one.exec("c", &["ping", "-c", "1", "-W", "5", "-I", "guest", other]);
    // Without etcd nobody new gets one, and who has one keeps it.
    etcd.kill();
    assert!(guest(two, "late", "02:00:00:00:00:09"));
    let late = client(two, "late", scripts[1]);
    wait_for("a wish that is not granted", || {
        (inspected(two)["dhcp"]["unclaimed"].as_u64() >= Some(1)).then_some(())
    });
    assert_eq!(one.exec("c", &["python3", "-c", RENEW_AND_RELEASE, &of_one]), format!("5 {of_one}\n"));
    wait_for("it to be given back", || {
        inspected(one)["leases"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    // With it the one who goes on asking gets one. Which, depends on what etcd heard first of what was given back.
    etcd.begin();
    let late = got(&late.finish());
    assert!([of_one.as_str(), "10.1.0.252"].contains(&late.as_str()), "{late}");
    assert_ne!(&late, other);
    for daemon in daemons {
        daemon.assert_conserved();
        daemon.stop();
    }
}
