//! Several workers: who reads what, and how that follows the load.

use crate::as_both;
use crate::harness::{Daemon, Host, wait_for};
use crate::traffic::{Stream, arrivals, train};
use crate::uplink::{Outside, python};

as_both!(ports_follow_the_load_at_a_reload, a_port_with_connections_stays);

/// The worker that reads a container's port.
fn worker(daemon: &Daemon, container: &str) -> u64 {
    daemon.port(container)["worker"].as_u64().unwrap()
}

/// Of four containers, two that one worker reads, and the two of the other.
fn pairs(daemon: &Daemon) -> ([&'static str; 2], [&'static str; 2]) {
    let by = |worker_number| {
        let all = ["a", "b", "c", "d"].into_iter().filter(|name| worker(daemon, name) == worker_number);
        all.collect::<Vec<_>>().try_into().unwrap_or_else(|ports| panic!("each reads two: {ports:?}"))
    };
    (by(0), by(1))
}

fn address(container: &str) -> &'static str {
    match container {
        "a" => "10.1.0.2",
        "b" => "10.1.0.3",
        "c" => "10.1.0.4",
        _ => "10.1.0.5",
    }
}

fn ports_follow_the_load_at_a_reload(mut host: Host) {
    host.workers = Some("2".into());
    let lab = |host: &Host, ageing: u32| host.lab(&["a", "b", "c", "d"], &format!("ageing = {ageing}"));
    let configuration = lab(&host, 300);
    let daemon = host.start(&configuration);
    assert_eq!(daemon.rows("status")[0]["workers"], 2);
    let (busy, quiet) = pairs(&daemon);
    // What two containers of one worker send is most of all.
    let streams = [0, 1].map(|n| Stream::start(&daemon, busy[n], quiet[n], address(quiet[n]), 64));
    let pings = [0, 1].map(|n| train(&daemon, busy[n], quiet[n]));
    wait_for("much", || {
        let bytes = |name: &&str| daemon.port(name)["rx_bytes"].as_u64().unwrap();
        busy.iter().all(|name| bytes(name) > 8 << 20).then_some(())
    });
    daemon.reload(&lab(&daemon.host, 301));
    wait_for("one of them to move", || (worker(&daemon, busy[0]) != worker(&daemon, busy[1])).then_some(()));
    streams.into_iter().for_each(|stream| assert!(stream.finish() >= 64 << 20));
    for ping in pings {
        let (times, lost, summary) = arrivals(ping);
        assert!(times.len() > 10 && lost == 0, "{lost} lost: {summary}");
    }
    // Both have read, and what is quiet now stays where it is.
    let stats = daemon.rows("stats")[0].clone();
    assert!(stats["workers"].as_array().unwrap().iter().all(|row| row["rx"].as_u64() > Some(100)), "{stats}");
    daemon.reload(&lab(&daemon.host, 302));
    let now = ["a", "b", "c", "d"].map(|name| worker(&daemon, name));
    daemon.reload(&lab(&daemon.host, 303));
    assert_eq!(["a", "b", "c", "d"].map(|name| worker(&daemon, name)), now);
    daemon.assert_conserved();
    daemon.stop();
}

/// Takes streams, many at a time, to their ends, and says how much each was.
const COUNT: &str = "\
import socket, sys, threading
def serve(s):
    count = 0
    while data := s.recv(1 << 18):
        count += len(data)
    s.sendall(str(count).encode())
    s.close()
with socket.create_server((sys.argv[1], 8080)) as listener:
    while True:
        threading.Thread(target=serve, args=listener.accept()[:1]).start()
";

/// Sends for a few seconds, not as fast as it could, and has it counted.
const SEND: &str = "\
import socket, sys, time
s = socket.create_connection((sys.argv[1], 8080), timeout=20)
sent, block = 0, b'x' * (1 << 16)
print('connected', flush=True)
while sent < 96 << 20:
    s.sendall(block)
    sent += len(block)
    time.sleep(0.002)
s.shutdown(socket.SHUT_WR)
count = s.makefile('rb').read()
assert int(count) == sent, (count, sent)
print('all of it')
";

fn a_port_with_connections_stays(mut host: Host) {
    host.workers = Some("2".into());
    let outside = Outside::new(&mut host);
    let lab = |host: &Host, ageing: u32| {
        host.lab(&["a", "b", "c", "d"], &format!("ageing = {ageing}")) + "[uplink]\nkind = \"sockets\"\n"
    };
    let configuration = lab(&host, 300);
    let daemon = host.start(&configuration);
    let _server = outside.serve(COUNT, "/proc/net/tcp");
    let (busy, _) = pairs(&daemon);
    let clients =
        busy.map(|name| daemon.background(name, &["/usr/bin/python3", "-u", "-c", SEND, &outside.far]));
    for round in 0..3 {
        wait_for("much", || {
            let bytes = |name: &&str| daemon.port(name)["rx_bytes"].as_u64().unwrap();
            busy.iter().all(|name| bytes(name) > (round + 1) << 22).then_some(())
        });
        daemon.reload(&lab(&daemon.host, 301 + round as u32));
        assert_eq!(worker(&daemon, busy[0]), worker(&daemon, busy[1]), "their sockets are there");
    }
    let connections = daemon.rows("connections");
    assert!(
        busy.iter().all(|name| connections.iter().any(|row| row["container"] == *name)),
        "{connections:?}"
    );
    for client in clients {
        assert!(client.finish().ends_with("all of it\n"));
    }
    // Others open some as before, whoever reads them.
    for name in ["a", "b", "c", "d"] {
        let said = python(&daemon, name, crate::uplink::TRY, &[&outside.far, "9"]);
        assert_eq!(said, "ECONNREFUSED\nECONNREFUSED\n", "{name}");
    }
    daemon.assert_conserved();
    daemon.stop();
}
