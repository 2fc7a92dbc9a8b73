//! A daemon takes over from another one while containers of two hosts speak with each other.

use super::etcd::Lab;
use super::{Wanted, vtep};
use crate::as_both;
use crate::harness::{Host, gone, wait_for};
use crate::traffic::arrivals;

as_both!(streams_between_hosts_survive_an_upgrade, an_upgrade_stays_in_the_cluster);

fn streams_between_hosts_survive_an_upgrade(host: Host) {
    let mut lab = super::Lab::new(host, 2, false, &Wanted::default());
    let stream = lab.stream(0, 1, "10.1.0.12", 64);
    for at in 0..2 {
        let old = lab.daemons[at].engine();
        lab.daemons[at].take_over();
        gone(old);
        wait_for("the stream to go on", || {
            let row = lab.daemons[at].port("c");
            let now = row["rx_bytes"].as_u64().unwrap() + row["tx_bytes"].as_u64().unwrap();
            (now > 4 << 20).then_some(())
        });
    }
    assert!(stream.finish() >= 64 << 20);
    lab.daemons[0].ping("c", "10.1.0.12");
    assert_eq!(vtep(&lab.daemons[0], "198.18.1.2")["told"], "peer");
    lab.stop();
}

fn an_upgrade_stays_in_the_cluster(host: Host) {
    let Some((mut lab, others)) = Lab::whole(host, 3) else { return };
    let (two, three) = (others[0].clone(), others[1].clone());
    let stream = lab.stream(0, 1, &two, 32);
    let ping = lab.daemons[2].background("c", &["ping", "-n", "-D", "-i", "0.01", "10.1.0.11"]);
    lab.goes_on(0, 4 << 20);
    for at in 0..2 {
        let old = lab.daemons[at].engine();
        lab.daemons[at].take_over();
        gone(old);
        lab.knows(at, 2);
        lab.goes_on(at, 4 << 20);
        // For the others it was never away.
        assert!(lab.knows_of(2, at));
        assert_eq!(lab.state(at), "connected");
    }
    assert!(stream.finish() >= 32 << 20);
    // As long as it takes to see that it went on.
    lab.daemons[2].exec("c", &["ping", "-n", "-q", "-c", "20", "-i", "0.02", "10.1.0.11"]);
    let (times, lost, summary) = arrivals(ping);
    assert!(times.len() > 20, "{lost} lost; {summary}");
    // Addresses are who they were, and names.
    assert_eq!(lab.look_up(0, "on3"), three);
    assert_eq!(lab.look_up(2, "on2"), two);
    lab.daemons[1].ping("c", &three);
    lab.stop();
}
