//! H24 to H26: headers of TCP and UDP, from inside and from outside.

use super::{A, A6, FAR, FAR6, Fate, Place, Row, Stage, US, US6, packets};
use crate::harness::Host;
use crate::packet::{Ip, TCP};

crate::as_both!(segments_and_datagrams_that_lie_go_nowhere);
crate::on_other_engine!(segments_and_datagrams_that_lie_go_nowhere);
crate::by_two_workers!(segments_and_datagrams_that_lie_go_nowhere);

const MALFORMED: Fate = Fate::Dropped(&["malformed_l4"]);
/// By its sender, and to what is published.
const ENDS: [(Place, &str, &str); 2] = [(Place::Inside, A, FAR), (Place::Outside, FAR, US)];

fn port(by: Place, published: u16) -> u16 {
    if by == Place::Inside { 9 } else { published }
}

/// H24, H25.
fn of_udp() -> Vec<Row> {
    let mut rows = Vec::new();
    for (by, src, dst) in ENDS {
        let to = port(by, 9053);
        rows.push(packets("H24 from l4 port 0", by, Fate::Passes, move |mark| {
            vec![Ip::udp((src, 0), (dst, to), mark).bytes()]
        }));
        for len in [0, 1, 7] {
            rows.push(packets("H25 a length that is shorter than the header", by, MALFORMED, move |mark| {
                vec![with_length(Ip::udp((src, 1000), (dst, to), mark), len).bytes()]
            }));
        }
        rows.push(packets("H25 a length that is longer than the packet", by, MALFORMED, move |mark| {
            [27, 1000, 0xffff]
                .map(|len| with_length(Ip::udp((src, 1000), (dst, to), mark), len).bytes())
                .to_vec()
        }));
        rows.push(packets("H25 a header that is cut off", by, MALFORMED, move |_| {
            [0, 1, 7]
                .map(|len| Ip { l4: vec![0; len], ..Ip::udp((src, 1000), (dst, to), b"") }.bytes())
                .to_vec()
        }));
        rows.push(packets("H25 a wrong checksum is its receiver's to find", by, Fate::Passes, move |mark| {
            let mut datagram = Ip::udp((src, 1000), (dst, to), mark);
            datagram.l4[6] ^= 1;
            vec![datagram.bytes()]
        }));
    }
    // From outside to nobody's l4 port 0; out to somebody's.
    rows.push(packets("H24 to l4 port 0", Place::Outside, Fate::Ours, |mark| {
        vec![Ip::udp((FAR, 9), (US, 0), mark).bytes()]
    }));
    rows.push(packets("H24 to l4 port 0", Place::Outside, Fate::Dropped(&["nat_unpublished"]), |mark| {
        vec![Ip::tcp((FAR, 9), (US, 0), 2, [1, 0], mark).bytes()]
    }));
    rows.push(packets("H24 to l4 port 0", Place::Inside, Fate::Passes, |mark| {
        vec![
            Ip::udp((A, 1000), (FAR, 0), mark).bytes(),
            Ip::tcp((A, 1001), (FAR, 0), 2, [1, 0], mark).bytes(),
        ]
    }));
    rows.push(packets("H24 from and to l4 port 0", Place::Inside, Fate::Passes, |mark| {
        vec![Ip::udp((A, 0), (FAR, 0), mark).bytes(), Ip::tcp((A, 0), (FAR, 0), 2, [1, 0], mark).bytes()]
    }));
    rows
}

fn with_length(mut datagram: Ip, len: u16) -> Ip {
    datagram.l4[4..6].copy_from_slice(&len.to_be_bytes());
    datagram
}

/// A datagram without a checksum, which RFC 8200 section 8.1 forbids: whoever gets it drops it, and it is not made one with
/// a checksum on the way.
fn of_udp6() -> Vec<Row> {
    let of = |src: &'static str, dst: &'static str, to: u16| {
        move |mark: &[u8]| {
            let mut datagram = Ip::udp((src, 1000), (dst, to), mark);
            datagram.l4[6..8].fill(0);
            vec![datagram.bytes()]
        }
    };
    vec![
        packets("H25 no checksum over IPv6", Place::Inside, Fate::Passes, of(A6, FAR6, 9)),
        packets("H25 no checksum over IPv6", Place::Outside, Fate::Passes, of(FAR6, US6, 9053)),
    ]
}

/// H26.
fn of_tcp() -> Vec<Row> {
    let mut rows = Vec::new();
    for (by, src, dst) in ENDS {
        let to = port(by, 8080);
        rows.push(packets(
            "H26 a header of fewer bytes than it has, or of more than there are",
            by,
            MALFORMED,
            move |mark| {
                [0, 1, 2, 3, 4, 15]
                    .map(|words: u8| {
                        let mut segment = Ip::tcp((src, 1000), (dst, to), 2, [1, 0], mark);
                        segment.l4[12] = words << 4;
                        Ip::new(src, dst, TCP, segment.l4).bytes()
                    })
                    .to_vec()
            },
        ));
        rows.push(packets("H26 a header that is cut off", by, MALFORMED, move |_| {
            [0, 1, 13, 19]
                .map(|len| Ip { l4: vec![0; len], ..Ip::tcp((src, 1000), (dst, to), 2, [1, 0], b"") }.bytes())
                .to_vec()
        }));
        // What is under way is picked up, so that a connection outlives us; a reset is nothing to be picked up.
        let opens = |flags: &u8| flags & 4 == 0;
        rows.push(packets(
            "H26 all sets of flags that open nothing",
            by,
            Fate::Dropped(&["nat_no_connection"]),
            move |mark| {
                let flags = (0..64).filter(|flags| !opens(flags));
                flags
                    .map(|flags| {
                        Ip::tcp((src, 2000 + u16::from(flags)), (dst, to), flags, [7, 7], mark).bytes()
                    })
                    .collect()
            },
        ));
        rows.push(packets("H26 all sets of flags that open", by, Fate::Passes, move |mark| {
            let flags = (0..64).filter(opens);
            flags
                .map(|flags| Ip::tcp((src, 3000 + u16::from(flags)), (dst, to), flags, [7, 7], mark).bytes())
                .collect()
        }));
        rows.push(packets("H26 an urgent pointer anywhere", by, Fate::Passes, move |mark| {
            [0, 1, 17, 0xffff]
                .map(|urgent: u16| {
                    let mut segment = Ip::tcp((src, 4000 + (urgent & 31)), (dst, to), 0x22, [7, 0], mark);
                    segment.l4[18..20].copy_from_slice(&urgent.to_be_bytes());
                    Ip::new(src, dst, TCP, segment.l4).bytes()
                })
                .to_vec()
        }));
        rows.push(packets("H26 options of length 0, 1 and 41", by, Fate::Passes, move |mark| {
            [[2, 0, 0, 0], [2, 1, 0, 0], [3, 41, 0, 0], [254, 0xff, 1, 1], [1, 1, 1, 2]]
                .iter()
                .enumerate()
                .map(|(n, options)| {
                    let mut segment = Ip::tcp((src, 5000 + n as u16), (dst, to), 2, [7, 0], mark);
                    segment.l4[12] = 0x60;
                    segment.l4.splice(20..20, *options);
                    Ip::new(src, dst, TCP, segment.l4).bytes()
                })
                .collect()
        }));
    }
    rows.push(packets(
        "H26 all sets of flags to what is not published",
        Place::Outside,
        Fate::Dropped(&["nat_unpublished"]),
        |mark| (0..64).map(|flags| Ip::tcp((FAR, 2000), (US, 81), flags, [7, 7], mark).bytes()).collect(),
    ));
    rows
}

fn segments_and_datagrams_that_lie_go_nowhere(host: Host) {
    let mut stage = Stage::new(host);
    for table in [of_udp(), of_udp6(), of_tcp()] {
        stage.play(&table);
        stage.check();
    }
    stage.unharmed();
}
