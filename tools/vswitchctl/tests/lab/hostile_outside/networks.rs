//! H22, H29 between two networks of ours: `red` may open connections to `blue`, where `a` is hostile, and `blue` to none.

use super::attempts::assert_quiet;
use super::{A, C, FAR, Fate, MAGIC, PUBLISH, Place, Row, Stage, US, lab, packets};
use crate::harness::{Host, PYTHON, wait_for};
use crate::packet::{ACK, Ip, RST, SYN, TCP, UDP, addr};

crate::as_both!(no_source_port_leads_into_another_network, networks_that_lead_to_each_other_end);
crate::on_other_engine!(no_source_port_leads_into_another_network);
crate::by_two_workers!(no_source_port_leads_into_another_network);

/// What `c` publishes, and as what.
const PUBLISHED: [(u8, u16, u16); 2] = [(TCP, 6080, 80), (UDP, 6053, 53)];

fn one_way(host: &Host) -> String {
    let text = lab(host, PUBLISH)
        .replace("\nroutes_to = [\"red\"]", "")
        .replace("subnet6 = \"fd00:2::/64\"\n", "subnet6 = \"fd00:2::/64\"\nroutes_to = [\"blue\"]\n");
    text.replace("\nnetwork = \"red\"\n", "\nnetwork = \"red\"\npublish = [\"6080:80\", \"6053:53/udp\"]\n")
}

/// `c` speaks to whoever is outside, by UDP from 4000 and by TCP from 4001, and to `a` from 4002.
const SPEAKS: &str = "\
import socket
def of(kind, port):
    s = socket.socket(socket.AF_INET, kind)
    s.settimeout(5)
    s.bind(('', port))
    return s
udp, tcp, near = of(socket.SOCK_DGRAM, 4000), of(socket.SOCK_STREAM, 4001), of(socket.SOCK_DGRAM, 4002)
udp.sendto(b'hello', ('198.18.0.1', 7))
assert udp.recv(100) == b'hello'
tcp.connect(('198.18.0.1', 7))
tcp.sendall(b'hello')
assert tcp.recv(100) == b'hello'
near.sendto(b'hello', ('10.1.0.2', 80))
";

/// The l4 ports outside of what `c` opened, UDP and TCP.
fn ends(stage: &Stage) -> [u16; 2] {
    let rows = stage.daemon.rows("connections");
    ["10.2.0.2:4000", "10.2.0.2:4001"].map(|source| {
        let row = rows.iter().find(|row| row["source"] == source && row["direction"] == "out");
        let local = row.and_then(|row| row["local"].as_str()).unwrap_or_else(|| panic!("{source}: {rows:?}"));
        local.rsplit(':').next().unwrap().parse().unwrap()
    })
}

/// From l4 ports that others have, or that answers come from.
const SPORTS: [u16; 10] = [7, 53, 67, 80, 443, 4000, 4001, 4789, 6053, 6080];

/// A datagram and segments from each of them to there.
fn from_all(src: &'static str, dst: &'static str, [udp, tcp]: [u16; 2], mark: &[u8]) -> Vec<Vec<u8>> {
    let of = |sport: u16| {
        let segment = |flags| Ip::tcp((src, sport), (dst, tcp), flags, [1, 1], mark).bytes();
        [Ip::udp((src, sport), (dst, udp), mark).bytes(), segment(SYN), segment(SYN | ACK), segment(RST)]
    };
    SPORTS.into_iter().flat_map(of).collect()
}

fn of_another_network(ends: [u16; 2]) -> Vec<Row> {
    const PROHIBITED: Fate = Fate::Dropped(&["prohibited"]);
    const FORGED: Fate = Fate::Dropped(&["spoofed_ip", "reverse_path"]);
    let closed = Fate::Dropped(&["nat_filtered", "nat_no_connection", "nat_unpublished", "nat_reset"]);
    vec![
        packets("H22 what it does not publish, at its own address", Place::Inside, PROHIBITED, |mark| {
            from_all(A, C, [4000, 4001], mark)
        }),
        packets("H22 what it publishes, at its own address", Place::Inside, PROHIBITED, |mark| {
            from_all(A, C, [53, 80], mark)
        }),
        packets("H22 its ends outside", Place::Inside, closed, move |mark| from_all(A, US, ends, mark)),
        packets("H22 what is nobody's end outside", Place::Inside, Fate::Ours, |mark| {
            from_all(A, US, [6054, 6081], mark)
        }),
        packets("H22 in the name of who is outside, and of us", Place::Inside, FORGED, move |mark| {
            [FAR, US].iter().flat_map(|src| from_all(src, C, [4000, 4001], mark)).collect()
        }),
        // What it opened is answered by whom it asked, and by nobody else.
        packets("H22 an answer to another network", Place::Inside, Fate::Bridged, |mark| {
            vec![Ip::udp((A, 80), (C, 4002), mark).bytes()]
        }),
        packets("H22 what is nearly one", Place::Inside, PROHIBITED, |mark| {
            let of = |(sport, dport)| Ip::udp((A, sport), (C, dport), mark).bytes();
            [(81, 4002), (80, 4000), (80, 4003), (4002, 80)].map(of).to_vec()
        }),
    ]
}

/// What of `frames`, sent by `a`, `c` hears.
#[track_caller]
fn heard_by_c(stage: &mut Stage, frames: &[Ip]) -> Vec<Ip> {
    let all: Vec<Vec<u8>> = frames.iter().map(|ip| super::framed(Place::Inside, &ip.bytes())).collect();
    stage.send(Place::Inside, "send", &all);
    let mut heard = Vec::new();
    wait_for("all of it to come to c", || {
        heard.extend(Stage::heard(&mut stage.others[1]).into_iter().map(|(_, frame)| frame));
        (heard.len() >= frames.len()).then_some(())
    });
    let bytes = |hex: &String| -> Vec<u8> {
        let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        // Behind the virtio header.
        pairs.skip(10).map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    };
    heard.iter().map(|hex| Ip::parse(&bytes(hex)).unwrap()).collect()
}

fn no_source_port_leads_into_another_network(host: Host) {
    let text = one_way(&host);
    let mut stage = Stage::of(host, &text);
    stage.daemon.exec("c", &[PYTHON, "-c", SPEAKS]);
    let ends = ends(&stage);
    stage.play(&of_another_network(ends));
    stage.check();

    // What is published is open to it as to anybody: by our address outside, and from there.
    let mark = [MAGIC, &[0xff, 0xff]].concat();
    let to = |sport: u16, (proto, outside, _): (u8, u16, u16)| match proto {
        UDP => Ip::udp((A, sport), (US, outside), &mark),
        _ => Ip::tcp((A, sport), (US, outside), SYN, [1, 0], &mark),
    };
    let sent: Vec<Ip> = PUBLISHED.into_iter().flat_map(|rule| SPORTS.map(|sport| to(sport, rule))).collect();
    let heard = heard_by_c(&mut stage, &sent);
    for ip in &heard {
        let (_, outside, inside) = PUBLISHED.into_iter().find(|(proto, ..)| *proto == ip.proto).unwrap();
        assert_eq!((ip.src, ip.dst, ip.dport()), (addr(US), addr(C), inside), "{ip:?}");
        // In nobody else's name: neither what c publishes, nor what it has outside.
        let others = [outside, if ip.proto == UDP { ends[0] } else { ends[1] }];
        assert!(!others.contains(&ip.sport()), "{ip:?}");
    }
    assert_eq!(self::ends(&stage), ends, "they are the same connections");
    stage.unharmed();
}

/// Each sends by its gateway what it gets for whom it does not know: its default route leads to us, and ours to it.
fn networks_that_lead_to_each_other_end(host: Host) {
    let route = |network: &str, to: &str, via: &str| {
        format!("[[route]]\nnetwork = \"{network}\"\ndestination = \"{to}\"\nvia = \"{via}\"\n")
    };
    let text = lab(&host, PUBLISH).replace("routes_to = [\"red\"]", "routes_to = \"all\"")
        + &route("blue", "10.8.0.0/16", A)
        + &route("red", "10.9.0.0/16", C);
    let mut stage = Stage::of(host, &text);
    for container in ["a", "c"] {
        for setting in ["ip_forward=1", "conf.all.send_redirects=0", "conf.eth0.send_redirects=0"] {
            stage.daemon.exec(container, &["sysctl", "-qw", &format!("net.ipv4.{setting}")]);
        }
    }
    stage.daemon.ping("a", C);
    let to = |src: &'static str, dst: &'static str| {
        move |mark: &[u8]| -> Vec<Vec<u8>> {
            (0..20).map(|n| Ip::udp((src, 1000 + n), (dst, 9), mark).ttl(255).bytes()).collect()
        }
    };
    let before = stage.drops();
    stage.play(&[
        packets("H22 to whom it sends on itself", Place::Inside, Fate::Ours, to(A, "10.8.0.5")),
        packets("H22 between whom it sends on", Place::Inside, Fate::Ours, to("10.8.0.4", "10.8.0.5")),
        packets(
            "H22 by another network, which sends it back",
            Place::Inside,
            Fate::Bridged,
            to(A, "10.9.0.5"),
        ),
        packets(
            "H22 the same in the name of others",
            Place::Inside,
            Fate::Bridged,
            to("10.8.0.4", "10.9.0.5"),
        ),
    ]);
    assert_quiet(&stage);
    // In one network it goes round until its TTL is used up; what another one sends back is not its own to send.
    wait_for("an end of all of them", || {
        let now = stage.drops();
        let risen = |name: &str| now.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
        (risen("ttl_exceeded") >= 20 && risen("reverse_path") >= 40).then_some(())
    });
    stage.unharmed();
}
