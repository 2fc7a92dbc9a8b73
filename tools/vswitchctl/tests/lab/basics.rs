//! The two commands of the README, and what is seen while they run.

use crate::as_both;
use crate::harness::Host;

as_both!(two_containers_ping_and_are_seen);

fn two_containers_ping_and_are_seen(host: Host) {
    let configuration = host.lab(&["a", "b"], "");
    let daemon = host.start(&configuration);
    assert!(daemon.ready.starts_with("ready: 2 ports up, 0 waiting, 1 networks, "), "{}", daemon.ready);
    daemon.ping("a", "b");
    daemon.ping("b", "10.1.0.2");
    let mut rows = daemon.rows("fdb");
    rows.sort_by_key(|row| row["port"].as_u64());
    let seen: Vec<_> = rows.iter().map(|row| (row["container"].as_str(), row["mac"].as_str())).collect();
    let expected = [(Some("a"), Some("02:42:0a:01:00:02")), (Some("b"), Some("02:42:0a:01:00:03"))];
    assert_eq!(seen, expected);
    assert_eq!(daemon.rows("status")[0]["capabilities"], "none");
    daemon.stop();
}
