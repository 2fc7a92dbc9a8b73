//! H19: fragments that are never a packet, both ways, and what is left for those of others.

use super::{A, FAR, Fate, Place, Row, Stage, US, packets};
use crate::harness::Host;
use crate::packet::{Ip, MORE};

crate::as_both!(fragments_cost_no_other_his);

fn of_fragments() -> Vec<Row> {
    const LOST: Fate = Fate::Dropped(&["nat_fragment"]);
    let mut rows = Vec::new();
    for (by, src, dst, to) in [(Place::Inside, A, FAR, 9), (Place::Outside, FAR, US, 9053)] {
        let whole = move |mark: &[u8]| Ip::udp((src, 1000), (dst, to), &mark.repeat(20));
        let piece = move |id: u16, l4: &[u8], field: u16| {
            Ip { l4: l4.to_vec(), ..whole(&[0]) }.id(id).field(field).bytes()
        };
        rows.push(packets(
            "H19 fewer than eight bytes in the first",
            by,
            Fate::Dropped(&["malformed_l4", "malformed_ipv4"]),
            move |_| [0, 1, 7].map(|len: u16| piece(100 + len, &[0; 8][..usize::from(len)], MORE)).to_vec(),
        ));
        rows.push(packets(
            "H19 TCP whose second reaches into its header",
            by,
            Fate::Dropped(&["malformed_l4"]),
            move |mark| {
                let segment = Ip::tcp((src, 1000), (dst, 8080), 2, [1, 0], mark);
                let of =
                    |l4: &[u8], field| Ip { l4: l4.to_vec(), ..segment.clone() }.id(110).field(field).bytes();
                vec![of(&segment.l4[..8], MORE), of(&segment.l4[8..], 1)]
            },
        ));
        rows.push(packets(
            "H19 its end is behind 65,535",
            by,
            Fate::Dropped(&["malformed_ipv4"]),
            move |mark| vec![piece(120, mark, 0x1fff), piece(121, &mark.repeat(8)[..64], 0x1fff | MORE)],
        ));
        rows.push(packets("H19 one whose first never comes", by, LOST, move |mark| {
            vec![piece(130, mark, 4), piece(130, mark, 40)]
        }));
        // What becomes of a packet whose parts are all here is its receiver's to say.
        rows.push(packets("H19 overlaps, and parts that are there twice", by, Fate::Passes, move |mark| {
            let l4 = whole(mark).l4;
            vec![
                piece(140, &l4[..64], MORE),
                piece(140, &l4[56..120], 7 | MORE),
                piece(140, &l4[..64], MORE),
                piece(140, &l4[120..], 15),
            ]
        }));
        rows.push(packets("H19 the last comes first", by, Fate::Passes, move |mark| {
            let l4 = whole(mark).l4;
            vec![piece(150, &l4[128..], 16), piece(150, &l4[64..128], 8 | MORE), piece(150, &l4[..64], MORE)]
        }));
        rows.push(packets("H19 a gap", by, Fate::Passes, move |mark| {
            let l4 = whole(mark).l4;
            vec![piece(160, &l4[..64], MORE), piece(160, &l4[128..], 16)]
        }));
    }
    rows
}

fn fragments_cost_no_other_his(host: Host) {
    let mut stage = Stage::new(host);
    stage.play(&of_fragments());
    // What is not whole fills its receiver, too: to nobody, and to who is hostile itself.
    let ways = [
        (Place::Inside, "192.0.2.1", "02420a010001 02420a010002", A),
        (Place::Outside, US, "0242c612000a 0242c6120001", FAR),
    ];
    for (by, to, macs, own) in ways {
        stage.flood(by, &format!("chain {to} 8000 {macs} {own}"));
        stage.check();
        // Of a container the firsts fill a table, of who is outside the later ones wait for theirs.
        let many = if by == Place::Inside { "first" } else { "later" };
        for which in ["first", "later"] {
            let count = if which == many { 50_000 } else { 10_000 };
            stage.flood(by, &format!("open_packets {to} {count} {which} {macs} {own}"));
            stage.check();
            // The neighbour's long pings go out and come back in fragments meanwhile.
            stage
                .daemon
                .exec("b", &["ping", "-n", "-q", "-c", "5", "-i", "0.05", "-W", "5", "-s", "20000", FAR]);
        }
    }
    assert!(stage.daemon.dropped("nat_fragment") > 1000, "{:?}", stage.drops());
    stage.unharmed();
}
