//! H14 to H18, H20: IP headers, protocols, and ICMP errors, from inside and from outside.

use super::{A, A6, B, B6, C, FAR, FAR6, Fate, GATEWAY, Place, Row, Stage, US, US6, packets};
use crate::harness::Host;
use crate::packet::{ICMP, ICMPV6, Ip, UDP};

crate::as_both!(
    headers_that_lie_go_nowhere,
    chains_that_lie_go_nowhere,
    errors_about_others_are_not_believed
);
crate::on_other_engine!(headers_that_lie_go_nowhere);
crate::by_two_workers!(errors_about_others_are_not_believed);

const MALFORMED: Fate = Fate::Dropped(&["malformed_ipv4"]);
const MARTIAN: Fate = Fate::Dropped(&["martian"]);

/// A datagram that is fine, from whoever is on that side.
fn sound(by: Place, mark: &[u8]) -> Ip {
    match by {
        Place::Inside => Ip::udp((A, 1000), (FAR, 9), mark),
        // To what is published, so that nothing but what is wrong keeps it out.
        _ => Ip::udp((FAR, 1000), (US, 9053), mark),
    }
}

fn sound6(by: Place, mark: &[u8]) -> Ip {
    match by {
        Place::Inside => Ip::udp((A6, 1000), (FAR6, 9), mark),
        _ => Ip::udp((FAR6, 1000), (US6, 9053), mark),
    }
}

const BOTH: [Place; 2] = [Place::Inside, Place::Outside];

/// H14.
fn of_headers() -> Vec<Row> {
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Fate, Change); 14] = [
        ("H14 version 0", MALFORMED, |it| it[0] = 0x05),
        ("H14 version 6 in an IPv4 frame", Fate::Dropped(&["malformed_ipv6"]), |it| it[0] = 0x65),
        ("H14 version 15", MALFORMED, |it| it[0] = 0xf5),
        ("H14 a header of 0 bytes", MALFORMED, |it| it[0] = 0x40),
        ("H14 a header of 16 bytes", MALFORMED, |it| it[0] = 0x44),
        ("H14 a header that is longer than the packet", MALFORMED, |it| {
            it[0] = 0x4f;
            it[3] = 40;
        }),
        ("H14 a total length that is shorter than the header", MALFORMED, |it| {
            it[2..4].copy_from_slice(&[0, 19])
        }),
        ("H14 a total length that is longer than the frame", MALFORMED, |it| {
            it[2..4].copy_from_slice(&[1, 0xf4])
        }),
        ("H14 a total length of 65,535", MALFORMED, |it| it[2..4].fill(0xff)),
        ("H14 a total length of 0", MALFORMED, |it| it[2..4].fill(0)),
        ("H14 an option of no length", MALFORMED, |it| options(it, &[7, 0, 0, 0])),
        ("H14 an option of length 1", MALFORMED, |it| options(it, &[7, 1, 0, 0])),
        ("H14 an option that ends behind the header", MALFORMED, |it| options(it, &[7, 40, 4, 0])),
        ("H14 the length of an option is cut off", MALFORMED, |it| options(it, &[1, 1, 1, 7])),
    ];
    let mut rows = Vec::new();
    for (what, fate, change) in changes {
        for by in BOTH {
            rows.push(packets(what, by, fate, move |mark| vec![mended(&sound(by, mark), change)]));
        }
    }
    for by in BOTH {
        let route = Fate::Dropped(&["source_route"]);
        rows.push(packets("H14 source routes, loose and strict", by, route, move |mark| {
            let of = |kind: u8| sound(by, mark).options(&[kind, 7, 4, 198, 18, 0, 1, 0]).bytes();
            vec![of(0x83), of(0x89)]
        }));
        rows.push(packets("H14 a route is recorded, and there is no room", by, Fate::Passes, move |mark| {
            vec![sound(by, mark).options(&[7, 7, 8, 1, 2, 3, 4, 0]).bytes()]
        }));
        rows.push(packets(
            "H14 a wrong header checksum",
            by,
            Fate::Dropped(&["bad_checksum"]),
            move |mark| {
                let mut bytes = sound(by, mark).bytes();
                bytes[10] ^= 0x40;
                vec![bytes]
            },
        ));
    }
    rows
}

fn options(bytes: &mut Vec<u8>, options: &[u8]) {
    bytes[0] += 1;
    bytes[3] += 4;
    bytes.splice(20..20, options.iter().copied());
}

/// The header checksum is right where the header says where it ends.
fn mended(ip: &Ip, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = ip.bytes();
    change(&mut bytes);
    let header = usize::from(bytes[0] & 15) * 4;
    if (20..=bytes.len()).contains(&header) {
        crate::packet::mend(&mut bytes);
    }
    bytes
}

/// H15, H16.
fn of_addresses() -> Vec<Row> {
    let mut rows = Vec::new();
    for by in BOTH {
        rows.push(packets("H15 TTL 0 and 1", by, Fate::Dropped(&["ttl_exceeded"]), move |mark| {
            vec![sound(by, mark).ttl(0).bytes(), sound(by, mark).ttl(1).bytes()]
        }));
        rows.push(packets("H15 hop limit 0 and 1", by, Fate::Dropped(&["ttl_exceeded"]), move |mark| {
            vec![sound6(by, mark).ttl(0).bytes(), sound6(by, mark).ttl(1).bytes()]
        }));
        rows.push(packets("H15 TTL 2", by, Fate::Passes, move |mark| vec![sound(by, mark).ttl(2).bytes()]));
        let (to, port) = if by == Place::Inside { (FAR, 9) } else { (US, 9053) };
        let (to6, own) = if by == Place::Inside { (FAR6, GATEWAY) } else { (US6, US) };
        for src in
            ["0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.5", "239.1.1.1", "255.255.255.255", "240.0.0.1"]
        {
            let fate = Fate::Dropped(&["martian", "reverse_path", "spoofed_ip"]);
            rows.push(packets("H16 a source that is nobody's", by, fate, move |mark| {
                vec![Ip::udp((src, 1000), (to, port), mark).bytes()]
            }));
        }
        for src in ["::1", "ff02::1", "ff05::1"] {
            rows.push(packets(
                "H16 a source that is nobody's",
                by,
                Fate::Dropped(&["martian", "reverse_path"]),
                move |mark| vec![Ip::udp((src, 1000), (to6, port), mark).bytes()],
            ));
        }
        let fate = Fate::Dropped(&["spoofed_ip", "reverse_path"]);
        rows.push(packets("H16 our own address as the source", by, fate, move |mark| {
            vec![Ip::udp((own, 1000), (to, port), mark).bytes()]
        }));
        rows.push(packets("H16 an address of another network as the source", by, fate, move |mark| {
            let mut all = vec![Ip::udp((C, 1000), (to, port), mark).bytes()];
            all.extend((by == Place::Outside).then(|| Ip::udp((A, 1000), (to, port), mark).bytes()));
            all.extend((by == Place::Inside).then(|| Ip::udp((US, 1000), (to, port), mark).bytes()));
            all
        }));
        let src = if by == Place::Inside { A } else { FAR };
        for dst in [
            "127.0.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "255.255.255.255",
            "224.0.0.5",
            "240.0.0.1",
        ] {
            rows.push(packets("H16 a destination that is nobody's", by, MARTIAN, move |mark| {
                vec![Ip::udp((src, 1000), (dst, 9), mark).bytes()]
            }));
        }
    }
    let inside = Fate::Dropped(&["no_route"]);
    rows.push(packets("H16 a container, by its own address, at our MAC", Place::Outside, inside, |mark| {
        let to = |dst: &str| Ip::udp((FAR, 1000), (dst, 53), mark).bytes();
        let syn = |dst: &str| Ip::tcp((FAR, 1000), (dst, 80), 2, [1, 0], mark).bytes();
        [to(A), to(B), to(C), to(A6_4), syn(A), syn(C)].to_vec()
    }));
    rows.push(packets(
        "H16 a container, by its own IPv6 address, at our MAC",
        Place::Outside,
        inside,
        |mark| [A6, B6, "fd00:2::2"].map(|dst| Ip::udp((FAR6, 1000), (dst, 53), mark).bytes()).to_vec(),
    ));
    rows
}

/// The gateway of `blue`, which is ours and not outside.
const A6_4: &str = "10.1.0.1";

/// H17.
fn of_protocols() -> Vec<Row> {
    let named = |proto: u8| !matches!(proto, ICMP | 6 | UDP | ICMPV6 | 132);
    let all = |mark: &[u8], of: &dyn Fn(u8, &[u8]) -> Ip, which: &dyn Fn(u8) -> bool| {
        (0..=255).filter(|proto| which(*proto)).map(|proto| of(proto, mark).bytes()).collect::<Vec<_>>()
    };
    // In front of it is room for the checksums of UDP-Lite and DCCP, which are over addresses.
    let body = |mark: &[u8]| [&[0; 8], mark].concat();
    let out = move |proto: u8, mark: &[u8]| Ip::new(A, FAR, proto, body(mark));
    let back = move |proto: u8, mark: &[u8]| Ip::new(FAR, US, proto, body(mark));
    // From somebody to whom no container has said anything.
    let strange = |proto: u8, mark: &[u8]| Ip::new("198.18.0.99", US, proto, mark.to_vec());
    let short = |proto: u8, mark: &[u8]| {
        let mut packet = Ip::new(A, FAR, 47, mark.to_vec());
        packet.proto = proto;
        packet
    };
    vec![
        packets("H17 all protocols that have no l4 ports", Place::Inside, Fate::Passes, move |mark| {
            all(mark, &out, &named)
        }),
        packets("H17 their answers", Place::Outside, Fate::Passes, move |mark| all(mark, &back, &named)),
        packets("H17 the same by nobody's asking", Place::Outside, Fate::Ours, move |mark| {
            all(mark, &strange, &named)
        }),
        packets(
            "H17 TCP, UDP and ICMP that are not",
            Place::Inside,
            Fate::Dropped(&["malformed_l4", "nat_no_connection", "bad_checksum"]),
            move |mark| all(mark, &short, &|proto| matches!(proto, ICMP | 6)),
        ),
    ]
}

fn headers_that_lie_go_nowhere(host: Host) {
    let mut stage = Stage::new(host);
    for table in [of_headers(), of_addresses(), of_protocols()] {
        stage.play(&table);
        stage.check();
    }
    stage.unharmed();
}

/// H20.
fn of_chains() -> Vec<Row> {
    const BAD: Fate = Fate::Dropped(&["malformed_ipv6"]);
    let mut rows = Vec::new();
    let destination: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
    for by in BOTH {
        let mut add = |what, fate, of: fn(Ip) -> Vec<u8>| {
            rows.push(packets(what, by, fate, move |mark| vec![of(sound6(by, mark))]));
        };
        add("H20 hop-by-hop options behind others", BAD, |it| {
            it.extension(60, &[0, 0, 1, 4, 0, 0, 0, 0]).extension(0, &[0, 0, 1, 4, 0, 0, 0, 0]).bytes()
        });
        add("H20 hop-by-hop options twice", BAD, |it| {
            it.extension(0, &[0, 0, 1, 4, 0, 0, 0, 0]).extension(0, &[0, 0, 1, 4, 0, 0, 0, 0]).bytes()
        });
        add("H20 a routing header of type 0", Fate::Dropped(&["source_route"]), |it| {
            let mut header = vec![0, 2, 0, 1, 0, 0, 0, 0];
            header.extend([0xfd; 16]);
            it.extension(43, &header).bytes()
        });
        add("H20 a fragment header twice", BAD, |it| {
            it.extension(44, &[0, 0, 0, 0, 0, 0, 0, 1]).extension(44, &[0, 0, 0, 0, 0, 0, 0, 2]).bytes()
        });
        add("H20 a payload length that is longer than the frame", BAD, |it| {
            let mut bytes = it.bytes();
            bytes[4..6].copy_from_slice(&[4, 0]);
            bytes
        });
        add("H20 a jumbogram", BAD, |it| {
            let mut bytes = it.extension(0, &[0, 0, 0xc2, 4, 0, 1, 0, 0]).bytes();
            bytes[4..6].fill(0);
            bytes
        });
        add("H20 an extension header that is cut off", BAD, |it| {
            let mut bytes = it.extension(60, &[0, 200, 1, 4, 0, 0, 0, 0]).bytes();
            bytes.truncate(54);
            bytes[4..6].copy_from_slice(&[0, 14]);
            bytes
        });
        add("H20 version 4 in an IPv6 frame", BAD, |it| {
            let mut bytes = it.bytes();
            bytes[0] = 0x61;
            bytes[6] = 60;
            bytes[40] = 17;
            bytes[41] = 0xff;
            bytes
        });
        add("H20 a fragment that is whole", Fate::Passes, |it| {
            it.extension(44, &[0, 0, 0, 0, 0, 0, 0, 9]).bytes()
        });
        rows.push(packets("H20 a hundred headers", by, BAD, move |mark| {
            let chain = (0..100).fold(sound6(by, mark), |it, _| it.extension(60, destination));
            vec![chain.bytes()]
        }));
        rows.push(packets(
            "H20 no next header, and data",
            by,
            if by == Place::Inside { Fate::Passes } else { Fate::Ours },
            move |mark| {
                let (src, dst) = if by == Place::Inside { (A6, FAR6) } else { ("fd00:9::99", US6) };
                vec![Ip::new(src, dst, 59, mark.to_vec()).bytes()]
            },
        ));
    }
    rows
}

fn chains_that_lie_go_nowhere(host: Host) {
    let mut stage = Stage::new(host);
    stage.play(&of_chains());
    stage.unharmed();
}

/// H18, H31. Connections that are there: `a` to `FAR` by UDP and echo, and those of the neighbour.
fn of_errors(neighbors: u16, outside: u16) -> Vec<Row> {
    const NO: Fate = Fate::Dropped(&["nat_error"]);
    let mine = move |mark: &[u8]| Ip::udp((US, 1000), (FAR, 9), mark).bytes();
    let mut rows = vec![
        packets("what is quoted later", Place::Inside, Fate::Passes, |mark| {
            vec![Ip::udp((A, 1000), (FAR, 9), mark).bytes()]
        }),
        packets("H18 an error about a connection that is there", Place::Outside, Fate::Passes, move |mark| {
            [[3, 1], [3, 4], [11, 0], [12, 0]]
                .map(|kind| Ip::error(FAR, US, kind, 0, &mine(mark)).bytes())
                .to_vec()
        }),
        packets("H18 an error about an error", Place::Outside, NO, move |mark| {
            let inner = Ip::error(US, FAR, [3, 1], 0, &mine(mark)).bytes();
            let twice = Ip::error(US, FAR, [3, 1], 0, &inner).bytes();
            [inner, twice].map(|about| Ip::error(FAR, US, [3, 1], 0, &about).bytes()).to_vec()
        }),
        packets("H18 an error about a group, and about everybody", Place::Outside, NO, move |mark| {
            ["224.0.0.9", "255.255.255.255", "198.18.255.255"]
                .map(|dst| {
                    Ip::error(FAR, US, [3, 1], 0, &Ip::udp((US, 1000), (dst, 9), mark).bytes()).bytes()
                })
                .to_vec()
        }),
        packets("H18 an error about what was sent by somebody else", Place::Outside, NO, move |mark| {
            ["198.18.0.77", A, "203.0.113.5"]
                .map(|src| {
                    Ip::error(FAR, US, [3, 1], 0, &Ip::udp((src, 1000), (FAR, 9), mark).bytes()).bytes()
                })
                .to_vec()
        }),
        packets("H18 an error about a connection that is not", Place::Outside, NO, move |mark| {
            vec![Ip::error(FAR, US, [3, 1], 0, &Ip::udp((US, 1), (FAR, 9), mark).bytes()).bytes()]
        }),
        packets(
            "H18 an error about a cut packet",
            Place::Outside,
            Fate::Dropped(&["nat_error", "malformed_l4"]),
            move |mark| {
                let about = mine(mark);
                [0, 1, 19, 20, 23].map(|len| Ip::error(FAR, US, [3, 1], 0, &about[..len]).bytes()).to_vec()
            },
        ),
        packets(
            "H18 an error with a wrong checksum",
            Place::Outside,
            Fate::Dropped(&["bad_checksum"]),
            move |mark| {
                let mut error = Ip::error(FAR, US, [3, 1], 0, &mine(mark));
                error.l4[2] ^= 0x10;
                vec![error.bytes()]
            },
        ),
    ];
    // What `a` says about what it never got: about its neighbour's, of which it knows everything.
    rows.push(packets(
        "H31 an error about a neighbour's connection",
        Place::Inside,
        Fate::Dropped(&["nat_error", "spoofed_ip"]),
        move |mark| {
            let quotes = [
                Ip::tcp((FAR, 7), (B, neighbors), 16, [1, 1], mark),
                Ip::tcp((FAR, 7), (US, outside), 16, [1, 1], mark),
                Ip::tcp((US, outside), (FAR, 7), 16, [1, 1], mark),
                Ip::tcp((FAR, 7), (A, neighbors), 16, [1, 1], mark),
            ];
            quotes.map(|about| Ip::error(A, FAR, [3, 3], 0, &about.bytes()).bytes()).to_vec()
        },
    ));
    rows.push(packets(
        "H31 an error to us about a neighbour's connection",
        Place::Inside,
        Fate::Dropped(&["nat_error", "no_service"]),
        move |mark| {
            let about = Ip::tcp((US, outside), (FAR, 7), 16, [1, 1], mark).bytes();
            [US, GATEWAY].map(|to| Ip::error(A, to, [3, 1], 0, &about).bytes()).to_vec()
        },
    ));
    rows
}

fn errors_about_others_are_not_believed(host: Host) {
    let mut stage = Stage::new(host);
    let row = stage.daemon.rows("connections").into_iter().find(|row| {
        row["container"] == "b" && row["protocol"] == "tcp" && row["destination"] == "198.18.0.1:7"
    });
    let row = row.unwrap();
    let port = |name: &str| row[name].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    stage.play(&of_errors(port("source"), port("local")));
    stage.check();
    same_identifiers(&mut stage);
    // H23: nobody is answered on another's behalf, and not more often than the limit.
    let before = stage.daemon.port("-outside")["tx_frames"].as_u64().unwrap();
    let rows = || {
        [
            ("10.1.0.100", Place::Inside, "02420a010001 02420a010002"),
            ("198.18.3.0", Place::Outside, "0242c612000a 0242c6120001"),
        ]
    };
    for (src, by, macs) in rows() {
        let to = if by == Place::Inside { "192.0.2.1" } else { US };
        let frames = stage.flood(by, &format!("amplify {to} 5000 {macs} {src}"));
        assert!(frames >= 5000);
    }
    let sent = stage.daemon.port("-outside")["tx_frames"].as_u64().unwrap() - before;
    assert!(sent < 3000, "{sent} frames were answered");
    stage.unharmed();
}

/// H31: `a` and `b` ping with one and the same identifier, and each gets its own answers.
fn same_identifiers(stage: &mut Stage) {
    const PING: &str = "\
import os, select, socket, struct, sys
def total(data):
    s = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while s >> 16: s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
s.settimeout(5)
for n in range(50):
    body = struct.pack('!BBHHH', 8, 0, 0, 4711, n) + sys.argv[1].encode() * 8
    s.sendto(body[:2] + struct.pack('!H', total(body)) + body[4:], ('198.18.0.1', 0))
    while True:
        got = s.recv(2000)[20:]
        if got[0] == 0 and got[4:8] == struct.pack('!HH', 4711, n): break
    assert got[8:] == sys.argv[1].encode() * 8, got
print('all')
";
    let pings = ["a", "b"]
        .map(|name| stage.daemon.background(name, &[crate::harness::PYTHON, "-c", PING, &name.repeat(8)]));
    for ping in pings {
        assert_eq!(ping.finish().trim(), "all");
    }
}
