//! H19: fragments that are never a packet, both ways, and what is left for those of others.

use super::{
    A, A6, B, FAR, FAR6, Fate, GATEWAY, GATEWAY6, PUBLISH, Place, Row, Stage, US, US6, lab, packets, row,
};
use crate::harness::{Host, wait_for};
use crate::packet::{Ip, MORE, SYN};
use crate::wire::{BROADCAST, ethernet, mac};

crate::as_both!(fragments_cost_no_other_his, services_take_no_fragments);
crate::on_other_engine!(fragments_cost_no_other_his);
crate::by_two_workers!(fragments_cost_no_other_his);

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

/// A question for a name, and a request for an address; with the mark behind them.
fn question(port: u16, mark: &[u8]) -> Vec<u8> {
    let question = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x01b\x04blue\0", &[0, 1, 0, 1]].concat();
    let mut discover = [&[1, 1, 6, 0, 9, 9, 9, 9][..], &[0; 20], &mac(2), &[0; 202]].concat();
    discover.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    [if port == 53 { question } else { discover }, mark.to_vec()].concat()
}

/// In two, in both orders.
fn in_two(ip: &Ip, at: usize, id: u16) -> Vec<Vec<u8>> {
    let ([first, rest], [again, before]) = (ip.clone().id(id).cut(at), ip.clone().id(id + 1).cut(at));
    [first, rest, before, again].iter().map(Ip::bytes).collect()
}

/// H19: what is asked of the gateway fits in a packet (names, addresses), and outside nobody is asked. What is put together
/// all the same is refused as a whole.
fn of_services() -> Vec<Row> {
    let inside = [(A, GATEWAY), (A, US), (A6, GATEWAY6), (A6, US6)].map(|ends| (Place::Inside, ends));
    let outside =
        [(FAR, US), (FAR6, US6), (FAR, GATEWAY), (FAR6, GATEWAY6)].map(|ends| (Place::Outside, ends));
    let mut rows = Vec::new();
    for (by, (src, dst)) in inside.into_iter().chain(outside) {
        for (sport, dport) in [(1000, 53), (68, 67), (546, 547)] {
            rows.push(packets("H19 what a service is asked, in fragments", by, Fate::Ours, move |mark| {
                in_two(&Ip::udp((src, sport), (dst, dport), &question(dport, mark)), 16, 200 + dport)
            }));
        }
        rows.push(packets("H19 a SYN to the name server, in fragments", by, Fate::Ours, move |mark| {
            in_two(&Ip::tcp((src, 1000), (dst, 53), SYN, [1, 0], mark), 24, 300)
        }));
    }
    // By broadcast: for whoever is on the network, as is everything that is not asked of us.
    rows.push(row("H19 who asks for an address in fragments", Place::Inside, Fate::Bridged, |mark| {
        let discover = Ip::udp(("0.0.0.0", 68), ("255.255.255.255", 67), &question(67, mark));
        in_two(&discover, 64, 400).iter().map(|it| ethernet(BROADCAST, mac(2), 0x0800, it)).collect()
    }));
    rows
}

fn services_take_no_fragments(host: Host) {
    let text =
        lab(&host, PUBLISH).replace("subnet = \"10.1.0.0/16\"", "subnet = \"10.1.0.0/16\"\ndhcp = true");
    // Where addresses are served, interfaces that name none are left to a client.
    let mut addresses = [A, B].into_iter();
    let named = |part: &str| match addresses.next() {
        Some(own) => format!("{part}network = \"blue\"\nip = \"{own}\"\n"),
        None => part.to_owned(),
    };
    let text: String = text.split("network = \"blue\"\n").map(named).collect();
    let mut stage = Stage::of(host, &text);
    let asked = |stage: &Stage| stage.daemon.rows("status")[0]["dns"]["counts"]["udp"].as_u64().unwrap();
    assert_eq!(asked(&stage), 0);
    stage.play(&of_services());
    assert_eq!(asked(&stage), 0, "nobody was asked anything");
    assert!(stage.daemon.dropped("no_service") >= 20, "{:?}", stage.drops());
    // Whole they are served.
    stage.play(&[packets("a question for a name, whole", Place::Inside, Fate::Ours, |mark| {
        vec![Ip::udp((A, 1000), (GATEWAY, 53), &question(53, mark)).bytes()]
    })]);
    wait_for("a question", || (asked(&stage) == 1).then_some(()));
    stage.unharmed();
}
