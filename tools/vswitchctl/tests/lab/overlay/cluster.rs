//! Hosts that find each other through etcd: whoever joins needs its own address and where etcd is.

use super::etcd::{Etcd, Lab, begin, cluster};
use super::hosts::Underlay;
use super::{hosts_like, vtep};
use crate::as_both;
use crate::harness::{As, Daemon, Host, Train, run, wait_for};

as_both!(who_joins_needs_two_addresses);

fn who_joins_needs_two_addresses(host: Host) {
    let Some(lab) = Lab::new(host, 3) else { return };
    let (two, three) = (lab.connect(1), lab.connect(2));
    // Each took a free one: host 1's container has 10.1.0.11, and the gateway 10.1.0.1.
    let mut all = ["10.1.0.11", "10.1.0.1", &two, &three];
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
    for (at, others) in [(0, [&two, &three]), (1, [&"10.1.0.11".to_owned(), &three])] {
        lab.knows(at, 2);
        for to in others {
            lab.daemons[at].ping("c", to);
        }
    }
    let row = vtep(&lab.daemons[0], "198.18.1.2");
    assert_eq!((&row["told"], &row["flood"], &row["macs"]), (&"cluster".into(), &true.into(), &1.into()));
    let said = lab.daemons[0].ctl(&["show", "cluster", "--members"]);
    assert!(said.contains("connected: http://198.18.1.254:2379") && said.contains(&two), "{said}");
    // Somebody on another host is found by name.
    let said = lab.daemons[1].exec("c", &["dig", "+short", "+time=2", "+tries=2", "@10.1.0.1", "c", "A"]);
    assert!(said.contains("10.1.0.11"), "{said}");
    lab.stop();
}

#[test]
fn a_host_that_dies_takes_its_own_along_and_no_other() {
    let Some(host) = Host::new(As::Root) else { return };
    let Some(mut lab) = Lab::new(host, 3) else { return };
    let (_, three) = (lab.connect(1), lab.connect(2));
    lab.knows(0, 2);
    let train = Train::start(&lab.daemons[0], "c", &three);
    // Both processes, without a word.
    let dead = lab.daemons.remove(1);
    let (keeper, engine) = (dead.pid(), dead.engine());
    for pid in [keeper, engine] {
        run("kill", &["-KILL", &pid.to_string()]);
    }
    wait_for("its MACs to be gone", || {
        let known = |at: usize| lab.daemons[at].rows("vxlan").iter().any(|row| row["vtep"] == "198.18.1.2");
        (!known(0) && !known(1)).then_some(())
    });
    let left = lab.daemons[0].rows("fdb");
    assert!(left.iter().all(|row| row["iface"] != "198.18.1.2"), "{left:?}");
    train.assert_lost_nothing();
    drop(dead);
    lab.stop();
}

#[test]
fn without_etcd_all_goes_on() {
    let Some(host) = Host::new(As::Root) else { return };
    let Some(mut lab) = Lab::new(host, 2) else { return };
    let two = lab.connect(1);
    lab.knows(0, 1);
    lab.knows(1, 1);
    let train = Train::start(&lab.daemons[0], "c", &two);
    let is_known = |daemon: &Daemon| {
        daemon.rows("fdb").iter().any(|row| row["iface"] == "198.18.1.2" && row["type"] == "static")
    };
    lab.etcd.kill();
    let gone = std::time::Instant::now();
    // Longer than any lease.
    wait_for("leases to be over", || {
        lab.daemons[1].ping("c", "10.1.0.11");
        assert!(is_known(&lab.daemons[0]) && lab.daemons[1].rows("vxlan").len() == 1);
        (gone.elapsed().as_secs() >= 5).then_some(())
    });
    lab.etcd.begin();
    lab.daemons[1].ping("c", "10.1.0.11");
    lab.knows(1, 1);
    // Emptied: nothing is withdrawn, and both say all of it again.
    lab.etcd.empty();
    lab.daemons[0].ping("c", &two);
    let emptied = std::time::Instant::now();
    wait_for("a hold-down to be over", || {
        assert!(is_known(&lab.daemons[0]) && lab.daemons[1].rows("vxlan").len() == 1);
        (emptied.elapsed().as_secs() >= 8).then_some(())
    });
    lab.daemons[0].ping("c", &two);
    train.assert_lost_nothing();
    lab.stop();
}

/// Two hosts that start at once with a network of the same name, each with containers that name no address.
#[test]
fn no_two_hosts_hand_out_one_address() {
    let Some(first) = Host::new(As::Root) else { return };
    let mut cable = Host::new(As::Root).unwrap();
    let mut underlay = Underlay::new(&mut cable, false);
    let Some(_etcd) = Etcd::start(&underlay, &cable) else { return };
    let mut hosts = hosts_like(first, 2);
    let places: Vec<_> = hosts.iter_mut().map(|host| underlay.place(host)).collect();
    let starting = hosts.into_iter().zip(places).zip(1..).map(|((host, place), number)| {
        std::thread::spawn(move || {
            let mut text = format!(
                "[vxlan]\nlocal = \"{}\"\n{}[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\nvni = 100\n",
                place.address,
                cluster(number)
            );
            for name in ["a", "b", "d"] {
                text += &format!(
                    "[[container]]\nname = \"{name}\"\nnetns = \"{}\"\ncreate = true\n[[container.interface]]\nnetwork = \"blue\"\n",
                    host.name(name)
                );
            }
            let text = host.configuration(&text);
            begin(host, &place, &text)
        })
    });
    let daemons: Vec<Daemon> =
        starting.collect::<Vec<_>>().into_iter().map(|it| it.join().unwrap()).collect();
    let addresses = wait_for("six addresses", || {
        let rows = daemons.iter().flat_map(|daemon| daemon.rows("ports"));
        let up: Vec<_> = rows.filter(|row| row["state"] == "up").collect();
        let mut all: Vec<_> = up.iter().map(|row| row["addresses"][0].as_str().unwrap().to_owned()).collect();
        all.sort_unstable();
        all.dedup();
        (all.len() == 6).then_some(all)
    });
    assert_eq!(addresses.len(), 6);
    for daemon in daemons {
        daemon.stop();
    }
}

#[test]
fn a_network_is_removed_from_all_hosts() {
    let Some(host) = Host::new(As::Root) else { return };
    let Some(mut lab) = Lab::new(host, 3) else { return };
    let has = |daemon: &Daemon, name: &str| daemon.rows("networks").iter().any(|row| row["name"] == name);
    let create = |daemon: &Daemon| {
        daemon.ctl(&["network", "create", "green", "--subnet", "10.2.0.0/24", "--vni", "200"]);
    };
    let everywhere = |lab: &Lab, there: bool| {
        wait_for(if there { "green on all hosts" } else { "green on no host" }, || {
            lab.daemons.iter().all(|daemon| has(daemon, "green") == there).then_some(())
        });
    };
    create(&lab.daemons[1]);
    everywhere(&lab, true);

    // As long as somebody is on it, wherever that is, it stays.
    let (first, last) = (&lab.daemons[0], &lab.daemons[2]);
    last.ctl(&["network", "connect", "green", "g", "--netns", &last.host.name("g"), "--create"]);
    let removed = || first.try_ctl(&["network", "rm", "green"]);
    wait_for("word of who is on it", || {
        first
            .rows("fdb")
            .iter()
            .any(|row| row["network"] == "green" && row["iface"] == "198.18.1.3")
            .then_some(())
    });
    let refused = removed();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("g of host h3 is on it"), "{said}");
    last.ctl(&["network", "disconnect", "green", "g"]);
    wait_for("nobody to be on it", || removed().status.success().then_some(()));
    everywhere(&lab, false);
    // Not even for one that was away; and what the file names is not touched.
    lab.daemons[1].restart();
    wait_for("the cluster", || has(&lab.daemons[1], "blue").then_some(()));
    everywhere(&lab, false);
    let refused = lab.daemons[0].try_ctl(&["network", "rm", "blue"]);
    assert!(!refused.status.success() && has(&lab.daemons[1], "blue"));

    // Made anew it is there again.
    create(&lab.daemons[2]);
    everywhere(&lab, true);
    lab.stop();
}
