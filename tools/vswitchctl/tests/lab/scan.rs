//! Containers that look for everybody, and what is left for their neighbours.

use crate::harness::{Daemon, Host, PYTHON, wait_for};
use crate::{as_both, on_other_engine};

as_both!(who_scans_a_network_leaves_room_for_the_first_packets_of_others);
on_other_engine!(who_scans_a_network_leaves_room_for_the_first_packets_of_others);

/// Three datagrams to each address of 10.2.0.0/24, over and over.
const SCAN: &str = "\
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    for host in range(2, 255):
        for n in range(3):
            try: s.sendto(b'anybody?', (f'10.2.0.{host}', 9))
            except OSError: pass
    time.sleep(0.01)
";

/// How many neighbours, who have not said a word yet, are looked for meanwhile.
const QUIET: usize = 8;

/// `blue` with two that scan, and `b`; `red`, where nobody is; `green` with neighbours that are quiet.
fn lab(host: &Host) -> String {
    let mut text = String::from("[uplink]\nkind = \"none\"\n");
    for (name, number, rest) in [("blue", 1, "routes_to = \"all\""), ("red", 2, ""), ("green", 3, "")] {
        text += &format!("[[network]]\nname = \"{name}\"\nsubnet = \"10.{number}.0.0/24\"\n{rest}\n");
    }
    let quiet = (0..QUIET).map(|n| (format!("q{n}"), "green"));
    for (name, network) in ["a", "b", "c"].map(|name| (name.to_owned(), "blue")).into_iter().chain(quiet) {
        let netns = host.name(&name);
        text += &format!(
            "[[container]]\nname = \"{name}\"\nnetns = \"{netns}\"\ncreate = true\n\
             [[container.interface]]\nnetwork = \"{network}\"\n"
        );
    }
    host.configuration(&text)
}

fn knows(daemon: &Daemon, address: &str) -> bool {
    daemon.rows("neighbors").iter().any(|row| row["address"] == address)
}

fn who_scans_a_network_leaves_room_for_the_first_packets_of_others(host: Host) {
    let configuration = lab(&host);
    let daemon = host.start(&configuration);
    let engine = daemon.engine();
    daemon.ping("b", "10.1.0.1");
    let scanners = ["a", "c"].map(|name| daemon.background(name, &[PYTHON, "-c", SCAN]));
    wait_for("the queue to be full", || (daemon.dropped("neighbor_queue") > 1000).then_some(()));
    for n in 0..QUIET {
        let address = format!("10.3.0.{}", n + 2);
        assert!(!knows(&daemon, &address), "{address} is known already");
        daemon.ping("b", &address); // one packet, and it must get through
        assert!(knows(&daemon, &address));
    }
    // Those who wait longest are told that nobody is there, as ever.
    wait_for("addresses to be given up", || (daemon.dropped("neighbor_unresolved") > 0).then_some(()));
    drop(scanners);
    assert_eq!(daemon.engine(), engine, "the engine died");
    daemon.assert_conserved();
    daemon.stop();
}
