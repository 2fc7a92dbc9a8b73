//! H22, H28 to H30: to get at what is another's by its numbers, by loops, by published l4 ports; and what a scan finds.

use serde_json::Value;

use super::{A, B, FAR, Fate, GATEWAY, PUBLISH, Place, Row, Stage, US, packets};
use crate::harness::{Host, PYTHON};
use crate::packet::{ACK, FIN, Ip, RST, SYN};
use crate::publish::free;

crate::as_both!(
    nothing_forged_ends_a_connection,
    loops_come_to_an_end,
    published_ports_are_nobody_elses,
    nothing_unpublished_is_reachable,
);
crate::on_other_engine!(nothing_forged_ends_a_connection, published_ports_are_nobody_elses);
crate::by_two_workers!(
    nothing_forged_ends_a_connection,
    loops_come_to_an_end,
    published_ports_are_nobody_elses
);

/// L4 ports that a daemon may serve itself: names, addresses, VXLAN, metrics; none of them is ours outside.
const SERVICES: [u16; 6] = [53, 67, 68, 547, 4789, 9469];

/// The neighbour's connection to whoever is outside: its l4 port, and that outside.
fn connection(stage: &Stage) -> (u16, u16) {
    let rows = stage.daemon.rows("connections");
    let row = rows.iter().find(|row| {
        row["container"] == "b"
            && row["protocol"] == "tcp"
            && row["destination"] == "198.18.0.1:7"
            && row["state"] == "established"
    });
    let row = row.unwrap_or_else(|| panic!("{rows:?}"));
    let port = |name: &str| row[name].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    (port("source"), port("local"))
}

/// H28.
fn of_forgers(own: u16, outside: u16) -> Vec<Row> {
    const ALL: [u8; 7] = [RST, RST | ACK, SYN, SYN | ACK, ACK, FIN | ACK, 0];
    // None of them knows what was said last: of the numbers there are few are near.
    let numbers = |n: u32| [n.wrapping_mul(0x9e37_79b9), n.wrapping_mul(0x85eb_ca6b)];
    let stranger = Fate::Dropped(&["nat_filtered", "nat_no_connection"]);
    vec![
        packets("H28 from a stranger's address", Place::Outside, stranger, move |mark| {
            let of = |flags| Ip::tcp(("198.18.0.99", 7), (US, outside), flags, numbers(3), mark).bytes();
            ALL.map(of).to_vec()
        }),
        packets("H28 a reset from another l4 port", Place::Outside, stranger, move |mark| {
            [RST, RST | ACK]
                .map(|flags| Ip::tcp((FAR, 8), (US, outside), flags, numbers(5), mark).bytes())
                .to_vec()
        }),
        packets(
            "H28 resets in the name of the other side",
            Place::Outside,
            Fate::Dropped(&["nat_reset"]),
            move |mark| {
                let of = |n| Ip::tcp((FAR, 7), (US, outside), RST, numbers(n), mark).bytes();
                (1..=20).map(of).collect()
            },
        ),
        // The neighbour's kernel hears these and does not believe them (RFC 5961).
        packets(
            "H28 SYN, ACK and FIN in the name of the other side",
            Place::Outside,
            Fate::Bridged,
            move |mark| {
                let flags = [SYN, SYN | ACK, ACK, FIN | ACK];
                let of = |n: u32| {
                    flags.map(|flags| Ip::tcp((FAR, 7), (US, outside), flags, numbers(n), mark).bytes())
                };
                (1..=20).flat_map(of).collect()
            },
        ),
        packets("H28 in the neighbour's name", Place::Inside, Fate::Dropped(&["spoofed_ip"]), move |mark| {
            ALL.map(|flags| Ip::tcp((B, own), (FAR, 7), flags, numbers(9), mark).bytes()).to_vec()
        }),
        packets(
            "H28 in the name of the neighbour's address outside",
            Place::Inside,
            Fate::Dropped(&["spoofed_ip", "reverse_path"]),
            move |mark| {
                ALL.map(|flags| Ip::tcp((US, outside), (FAR, 7), flags, numbers(9), mark).bytes()).to_vec()
            },
        ),
        packets("H28 to the neighbour's end outside, from inside", Place::Inside, stranger, move |mark| {
            [RST, RST | ACK]
                .map(|flags| Ip::tcp((A, 7), (US, outside), flags, numbers(9), mark).bytes())
                .to_vec()
        }),
    ]
}

fn nothing_forged_ends_a_connection(host: Host) {
    let mut stage = Stage::new(host);
    let (own, outside) = connection(&stage);
    stage.play(&of_forgers(own, outside));
    stage.check();
    assert_eq!(connection(&stage), (own, outside), "it is the same connection");
    // A SYN in the name of who has just closed: the neighbour rests in TIME_WAIT, and goes on as it likes.
    let close = "import socket, sys\n\
                 s = socket.socket()\n\
                 s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
                 s.bind(('', 5555))\n\
                 s.connect(('198.18.0.1', 7))\n\
                 s.sendall(b'x')\n\
                 s.recv(1)\n\
                 s.close()\n";
    stage.daemon.exec("b", &[PYTHON, "-c", close]);
    let again = |mark: &[u8]| {
        let of = |n: u32| Ip::tcp((FAR, 7), (US, 5555), SYN, [n << 20, 0], mark).bytes();
        (1..=20).map(of).collect()
    };
    stage.play(&[packets("H28 a SYN on what rests", Place::Outside, Fate::Bridged, again)]);
    stage.check();
    stage.daemon.exec("b", &[PYTHON, "-c", &close.replace("5555", "5556")]);
    stage.unharmed();
}

/// Frames that go on by themselves once sent: none.
#[track_caller]
pub fn assert_quiet(stage: &Stage) {
    let all = || -> u64 {
        ["a", "-outside"].map(|name| stage.daemon.port(name)["rx_frames"].as_u64().unwrap()).iter().sum()
    };
    let before = all();
    // The neighbour goes on pinging: both ways a hundred a second pass by the uplink.
    let pings = stage.daemon.exec("a", &["ping", "-n", "-q", "-c", "10", "-i", "0.05", FAR]);
    assert!(pings.contains(" 0% packet loss"), "{pings}");
    let grown = all() - before;
    assert!(grown < 400, "{grown} frames in half a second");
}

/// H22, H30.
fn loops_come_to_an_end(host: Host) {
    let mut stage = Stage::new(host);
    // Whoever is outside sends back to us what we sent to it.
    for words in [
        &["sysctl", "-qw", "net.ipv4.ip_forward=1"][..],
        &["sysctl", "-qw", "net.ipv4.conf.all.send_redirects=0"],
        &["sysctl", "-qw", "net.ipv4.conf.vsw0.send_redirects=0"],
        &["ip", "route", "add", "192.0.2.0/24", "via", US],
    ] {
        stage.daemon.exec("far", words);
    }
    stage.play(&[
        packets("H22 to whom nobody is", Place::Inside, Fate::Passes, |mark| {
            (0..20).map(|n| Ip::udp((A, 1000 + n), ("192.0.2.5", 9), mark).ttl(255).bytes()).collect()
        }),
        packets(
            "H22 through us to somebody else",
            Place::Outside,
            Fate::Dropped(&["no_route", "neighbor_unresolved"]),
            |mark| {
                let to = |dst: &str| Ip::udp((FAR, 1000), (dst, 9), mark).ttl(255).bytes();
                ["192.0.2.5", "203.0.113.7", "198.18.0.77", "10.9.0.1"].map(to).to_vec()
            },
        ),
    ]);
    assert_quiet(&stage);
    stage.check();
    // To its own published end, and to and fro between two of them.
    stage.play(&[
        packets("H30 to oneself", Place::Inside, Fate::Ours, |mark| {
            (0..20).map(|_| Ip::udp((A, 53), (US, 9053), mark).bytes()).collect()
        }),
        packets("H30 to oneself, TCP", Place::Inside, Fate::Ours, |mark| {
            vec![Ip::tcp((A, 80), (US, 8080), SYN, [1, 0], mark).bytes()]
        }),
        packets("H30 from one published end to another", Place::Inside, Fate::Ours, |mark| {
            vec![
                Ip::tcp((A, 80), (US, 7000), SYN, [1, 0], mark).bytes(),
                Ip::tcp((A, 70), (US, 8080), SYN, [1, 0], mark).bytes(),
            ]
        }),
        packets("H30 an error about that", Place::Inside, Fate::Ours, |mark| {
            let about = Ip::udp((US, 9053), (A, 53), mark).bytes();
            vec![Ip::error(A, US, [3, 3], 0, &about).bytes()]
        }),
    ]);
    assert_quiet(&stage);
    stage.unharmed();
}

/// A datagram and a SYN for each of them.
fn of_services(mark: &[u8], end: impl Fn(u16) -> [(&'static str, u16); 2]) -> Vec<Vec<u8>> {
    let both = |port: u16| {
        let [from, to] = end(port);
        [Ip::udp(from, to, mark).bytes(), Ip::tcp(from, to, SYN, [1, 0], mark).bytes()]
    };
    SERVICES.into_iter().flat_map(both).collect()
}

/// H29.
fn published_ports_are_nobody_elses(host: Host) {
    let mut stage = Stage::new(host);
    let shadow = "\
import socket
services = [53, 67, 68, 547, 4789, 9469]
for kind, ports in ((socket.SOCK_STREAM, [8080, *range(7000, 7010)]), (socket.SOCK_DGRAM, [9053])):
    ports += services
    for port in ports:
        s = socket.socket(socket.AF_INET, kind)
        s.settimeout(5)
        s.bind(('', port))
        s.connect(('198.18.0.1', 7))
        s.send(b'shadow')
        assert s.recv(100) == b'shadow'
        s.close()
";
    stage.daemon.exec("b", &[PYTHON, "-c", shadow]);
    let published = |local: &str| {
        let port: u16 = local.rsplit(':').next().unwrap().parse().unwrap();
        matches!(port, 8080 | 7000..=7009 | 9053)
    };
    let rows = stage.daemon.rows("connections");
    let of_b: Vec<&Value> = rows.iter().filter(|row| row["container"] == "b").collect();
    assert!(of_b.len() >= 12);
    for row in of_b {
        assert!(!published(row["local"].as_str().unwrap()), "{row}");
    }
    // What serves containers serves nobody outside, and who uses its l4 ports there is who gets what comes to them.
    const STRANGER: &str = "198.18.0.99";
    const CLOSED: Fate =
        Fate::Dropped(&["nat_unpublished", "nat_filtered", "nat_no_connection", "no_service"]);
    stage.play(&[
        packets("H29 to l4 ports of services", Place::Outside, CLOSED, |mark| {
            of_services(mark, |port| [(STRANGER, 7), (US, port)])
        }),
        packets("H29 from l4 ports of services", Place::Inside, Fate::Passes, |mark| {
            of_services(mark, |port| [(A, port), (FAR, 9)])
        }),
        packets("H29 to l4 ports of services, once used", Place::Outside, CLOSED, |mark| {
            of_services(mark, |port| [(STRANGER, 7), (US, port)])
        }),
        packets("H29 from what is published, outside", Place::Outside, Fate::Passes, |mark| {
            vec![
                Ip::udp((FAR, 9053), (US, 9053), mark).bytes(),
                Ip::tcp((FAR, 8080), (US, 8080), SYN, [1, 0], mark).bytes(),
            ]
        }),
    ]);
    // Whoever comes to these is with `a`, and the same l4 ports on its own side are its own again.
    stage.play(&[
        packets("H29 to what is published", Place::Outside, Fate::Passes, |mark| {
            let mut all = vec![Ip::udp((FAR, 7), (US, 9053), mark).bytes()];
            all.extend(
                [8080, 7000, 7009].map(|port| Ip::tcp((FAR, 7), (US, port), SYN, [1, 0], mark).bytes()),
            );
            all
        }),
        packets("H29 from the l4 ports that are published", Place::Inside, Fate::Passes, |mark| {
            let mut all = vec![Ip::udp((A, 9053), (FAR, 9), mark).bytes()];
            all.extend([8080, 7000].map(|port| Ip::tcp((A, port), (FAR, 9), SYN, [1, 0], mark).bytes()));
            all
        }),
    ]);
    for row in stage.daemon.rows("connections") {
        let own =
            row["direction"] == "in" || row["source"] == "10.1.0.2:80" || row["source"] == "10.1.0.2:53";
        assert!(own || row["protocol"] == "icmp" || !published(row["local"].as_str().unwrap()), "{row}");
    }
    stage.unharmed();
}

/// Where the connections of a stranger lead to: protocol, and our end of it. All are `a`'s.
#[track_caller]
fn of_stranger(stage: &Stage) -> Vec<(String, String)> {
    let rows = stage.daemon.rows("connections");
    let remote = |row: &&Value| {
        let remote = if row["direction"] == "in" { &row["source"] } else { &row["destination"] };
        remote.as_str().unwrap().starts_with("198.18.0.99:")
    };
    let word = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let of = |row: &Value| {
        assert_eq!((&row["direction"], &row["container"]), (&"in".into(), &"a".into()), "{row}");
        (word(row, "protocol"), word(row, "local"))
    };
    rows.iter().filter(remote).map(of).collect()
}

/// Says which of some addresses a connection can be made to, and what that is.
const REACHES: &str = "\
import socket, sys
for to in sys.argv[2:]:
    try:
        s = socket.create_connection((to, int(sys.argv[1])), 1)
    except OSError:
        continue
    try:
        peer = s.getpeername()
    except OSError as error:
        peer = error
    print('reached', to, 'from', s.getsockname(), peer)
";

/// All l4 ports of our address, asked by a stranger while others speak, lead to what is published and nowhere else; and
/// what is published at the host's loopback is nowhere but there.
fn nothing_unpublished_is_reachable(host: Host) {
    let local = free(1);
    let publish = PUBLISH.replace(']', &format!(", \"127.0.0.1:{local}:80\"]"));
    let mut stage = Stage::with(host, &publish);
    stage.play(&[packets("who speaks meanwhile", Place::Inside, Fate::Passes, |mark| {
        let datagrams = (0..200).map(|n| Ip::udp((A, 20_000 + n), (FAR, 9), mark).bytes());
        datagrams
            .chain((0..50).map(|n| Ip::tcp((A, 30_000 + n), ("192.0.2.1", 9), SYN, [1, 0], mark).bytes()))
            .collect()
    })]);
    let mut reached = std::collections::BTreeSet::new();
    for proto in ["tcp", "udp"] {
        let taken =
            stage.flood(Place::Outside, &format!("scan {US} {proto} 0242c612000a 0242c6120001 198.18.0.99"));
        assert_eq!(taken, 65_535);
        reached.extend(of_stranger(&stage));
        stage.check();
    }
    let drops = stage.drops();
    assert!(drops["nat_unpublished"] > 30_000 && drops["nat_filtered"] > 100, "{drops:?}");
    let tcp = (7000..=7009).chain([8080]).map(|port| ("tcp".to_owned(), format!("{US}:{port}")));
    let all = tcp.chain([("udp".to_owned(), format!("{US}:9053"))]).collect();
    assert_eq!(reached, all);
    stage.play(&[
        packets(
            "what is published at 127.0.0.1",
            Place::Outside,
            Fate::Dropped(&["nat_unpublished"]),
            move |mark| vec![Ip::tcp((FAR, 1), (US, local), SYN, [1, 0], mark).bytes()],
        ),
        packets("127.0.0.1 itself, at our MAC", Place::Outside, Fate::Dropped(&["martian"]), move |mark| {
            vec![Ip::tcp((FAR, 1), ("127.0.0.1", local), SYN, [1, 0], mark).bytes()]
        }),
        packets("127.0.0.1 itself, from inside", Place::Inside, Fate::Dropped(&["martian"]), move |mark| {
            vec![Ip::tcp((A, 1), ("127.0.0.1", local), SYN, [1, 0], mark).bytes()]
        }),
    ]);
    let reached = stage.daemon.exec("b", &[PYTHON, "-c", REACHES, &local.to_string(), GATEWAY, US]);
    assert_eq!(reached, "", "{:#?}", stage.daemon.rows("connections"));
    stage.unharmed();
}
