//! H11 to H13, H21: what concerns neighbours and groups.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{A, A6, B6, FAR, FAR_MAC, FAR6, Fate, GATEWAY6, Place, Row, Stage, US, US_MAC, US6, row};
use crate::harness::{Host, wait_for};
use crate::packet::{Ip, solicitation};
use crate::wire::{BROADCAST, Mac, arp, ethernet, ip, mac};

crate::as_both!(
    false_neighbours_are_not_believed,
    a_lie_about_the_next_hop_lasts_until_that_speaks,
    who_looks_for_everybody_finds_nobodys_place,
);

const SPOOFED: Fate = Fate::Dropped(&["spoofed_arp"]);
const MALFORMED: Fate = Fate::Dropped(&["malformed_arp"]);
const BAD_ND: Fate = Fate::Dropped(&["malformed_nd"]);

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// An ARP packet with the mark behind it.
fn marked(to: Mac, from: Mac, body: Vec<u8>, mark: &[u8]) -> Vec<u8> {
    ethernet(to, from, 0x0806, &[&body, mark].concat())
}

fn of_arp() -> Vec<Row> {
    let a = (mac(2), ip(2));
    let far = (FAR_MAC, v4(FAR));
    type Change = fn(&mut Vec<u8>);
    // Who may say so says it, and something in it is wrong.
    let wrong = |change: Change| {
        move |by| {
            move |mark: &[u8]| {
                let (own, to, at) = match by {
                    Place::Inside => (a, (mac(1), ip(1)), mac(1)),
                    _ => (far, (US_MAC, v4(US)), US_MAC),
                };
                let mut body = arp(1, own, to);
                change(&mut body);
                vec![marked(at, own.0, body.clone(), mark), marked(BROADCAST, own.0, body, mark)]
            }
        }
    };
    let mut rows = vec![
        row("H11 an announcement of the gateway's address", Place::Inside, SPOOFED, move |mark| {
            let body = arp(1, (mac(2), ip(1)), ([0; 6], ip(1)));
            let answer = arp(2, (mac(2), ip(1)), (mac(2), ip(1)));
            vec![marked(BROADCAST, mac(2), body, mark), marked(BROADCAST, mac(2), answer, mark)]
        }),
        row("H11 an answer for a neighbour's address", Place::Inside, SPOOFED, move |mark| {
            let to_gateway = arp(2, (mac(2), ip(3)), (mac(1), ip(1)));
            let to_all = arp(2, (mac(2), ip(3)), (mac(2), ip(3)));
            vec![marked(mac(1), mac(2), to_gateway, mark), marked(BROADCAST, mac(2), to_all, mark)]
        }),
        row("H11 an announcement of our address outside", Place::Outside, Fate::Ours, move |mark| {
            let body = arp(1, (FAR_MAC, v4(US)), ([0; 6], v4(US)));
            let answer = arp(2, (FAR_MAC, v4(US)), (US_MAC, v4(US)));
            vec![marked(BROADCAST, FAR_MAC, body, mark), marked(US_MAC, FAR_MAC, answer, mark)]
        }),
    ];
    let kinds: [(&str, Change); 9] = [
        ("H11 operation 0", |body| body[7] = 0),
        ("H11 operation 3, of RARP", |body| body[7] = 3),
        ("H11 operation 8, of InARP", |body| body[7] = 8),
        ("H11 operation 25", |body| body[7] = 25),
        ("H11 another kind of hardware", |body| body[1] = 6),
        ("H11 a hardware address of 8 bytes", |body| body[4] = 8),
        ("H11 a protocol address of 16 bytes", |body| body[5] = 16),
        ("H11 addresses of no length", |body| body[4..6].fill(0)),
        ("H11 another protocol", |body| body[2..4].copy_from_slice(&[0x86, 0xdd])),
    ];
    for (what, change) in kinds {
        for by in [Place::Inside, Place::Outside] {
            rows.push(row(what, by, MALFORMED, wrong(change)(by)));
        }
    }
    for (by, own, at) in [(Place::Inside, a, mac(1)), (Place::Outside, far, US_MAC)] {
        // Where nothing is filled up to 60 bytes.
        rows.push(row("H11 cut off anywhere", by, MALFORMED, move |_| {
            let body = arp(1, own, ([0; 6], v4("10.1.0.1")));
            let cut = |len: usize| [&at[..], &own.0, &[8, 6], &body[..len]].concat();
            [0, 1, 6, 7, 8, 14, 18, 24, 27].map(cut).to_vec()
        }));
    }
    rows
}

fn of_nd() -> Vec<Row> {
    let target: Ipv6Addr = B6.parse().unwrap();
    let asks = |from: &str, target: Ipv6Addr, mac: Mac| solicitation(from, target, Some(mac));
    let framed = |packet: &Ip, from: Mac| {
        let std::net::IpAddr::V6(to) = packet.dst else { panic!("{packet:?}") };
        let [.., w, x, y, z] = to.octets();
        ethernet([0x33, 0x33, w, x, y, z], from, 0x86dd, &packet.bytes())
    };
    // What RFC 4861 section 7.1.1 tells to discard, from both sides.
    let mut rows = Vec::new();
    for (by, from, own, ours) in [(Place::Inside, A6, mac(2), GATEWAY6), (Place::Outside, FAR6, FAR_MAC, US6)]
    {
        let ours: Ipv6Addr = ours.parse().unwrap();
        rows.push(row("H21 a hop limit of 254", by, BAD_ND, move |_| {
            vec![framed(&asks(from, ours, own).ttl(254), own)]
        }));
        let option = move |bytes: &'static [u8]| {
            move |_: &[u8]| {
                let sound = asks(from, ours, own);
                let message = [&sound.l4[..24], bytes].concat();
                let dst = sound.dst.to_string();
                vec![framed(&Ip::new(from, &dst, 58, message).ttl(255), own)]
            }
        };
        rows.push(row("H21 an option of no length", by, BAD_ND, option(&[1, 0, 2, 2, 2, 2, 2, 2])));
        rows.push(row(
            "H21 an option that ends behind the packet",
            by,
            BAD_ND,
            option(&[1, 2, 2, 2, 2, 2, 2, 2]),
        ));
        rows.push(row("H21 an option that is cut off", by, BAD_ND, option(&[1, 1, 2])));
        rows.push(row("H21 a group is asked for", by, BAD_ND, move |_| {
            vec![framed(&asks(from, "ff02::1".parse().unwrap(), own), own)]
        }));
        rows.push(row("H21 a wrong checksum", by, BAD_ND, move |_| {
            let mut packet = asks(from, ours, own);
            packet.l4[2] ^= 1;
            vec![framed(&packet, own)]
        }));
        rows.push(row("H19 neighbour discovery in a fragment", by, BAD_ND, move |_| {
            let packet = asks(from, ours, own).extension(44, &[0, 0, 0, 0, 0, 0, 0, 7]);
            vec![framed(&packet, own)]
        }));
    }
    rows.push(row(
        "H21 an advertisement of a neighbour's address",
        Place::Inside,
        Fate::Dropped(&["spoofed_nd"]),
        move |_| {
            let message = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &target.octets(), &[2, 1], &mac(2)].concat();
            vec![framed(&Ip::new(A6, "ff02::1", 58, message).ttl(255), mac(2))]
        },
    ));
    rows.push(row("H21 an advertisement of our address", Place::Outside, Fate::Ours, move |_| {
        let us: Ipv6Addr = US6.parse().unwrap();
        let message = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &us.octets(), &[2, 1], &FAR_MAC].concat();
        vec![framed(&Ip::new(FAR6, "ff02::1", 58, message).ttl(255), FAR_MAC)]
    }));
    rows.extend(of_routers());
    rows
}

/// A container, or whoever is outside, says that it is a router, or that there is a better one.
fn of_routers() -> Vec<Row> {
    let local = "fe80::42:aff:fe01:2";
    let advertises = move |mark: &[u8]| {
        let option = [&[3, 4, 64, 0xc0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0][..], &[0xfd; 16]].concat();
        let marked = [&[252, 3, 0, 0][..], &mark[..18], &[0, 0]].concat();
        let message = [&[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &option, &marked].concat();
        let packet = Ip::new(local, "ff02::1", 58, message).ttl(255);
        vec![ethernet([0x33, 0x33, 0, 0, 0, 1], mac(2), 0x86dd, &packet.bytes())]
    };
    let redirects = move |mark: &[u8]| {
        let target: Ipv6Addr = local.parse().unwrap();
        let about: Ipv6Addr = FAR6.parse().unwrap();
        let marked = [&[252, 3, 0, 0][..], &mark[..18], &[0, 0]].concat();
        let message = [&[137, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &about.octets(), &marked].concat();
        let packet = Ip::new(local, B6, 58, message).ttl(255);
        vec![ethernet(mac(3), mac(2), 0x86dd, &packet.bytes())]
    };
    vec![
        row("H21 a container advertises itself as a router", Place::Inside, Fate::Bridged, advertises),
        row("H21 a container redirects its neighbour", Place::Inside, Fate::Bridged, redirects),
    ]
}

fn false_neighbours_are_not_believed(host: Host) {
    let mut stage = Stage::new(host);
    let before = stage.daemon.rows("neighbors");
    stage.play(&of_arp());
    stage.check();
    stage.play(&of_nd());
    // Without `strict` a container may be a router of the lab, and nobody takes it for one.
    let routes = stage.daemon.exec("b", &["ip", "-6", "route", "show", "table", "all"]);
    assert!(!routes.contains("via fe80::42:aff:fe01:2") && !routes.contains("fdfd:"), "{routes}");
    // Nobody became somebody else.
    let place =
        |row: &serde_json::Value| (row["network"].clone(), row["address"].clone(), row["mac"].clone());
    let now: Vec<_> = stage.daemon.rows("neighbors").iter().map(place).collect();
    for row in &before {
        assert!(row["mac"].is_null() || now.contains(&place(row)), "{row} is not among {now:?}");
    }
    stage.unharmed();
}

/// H11: the wire outside is not ours, and ARP has no proof. Whoever is there may lie about the next hop; that is heard again
/// when it asks for us, and nobody inside learned of it.
fn a_lie_about_the_next_hop_lasts_until_that_speaks(host: Host) {
    let configuration = super::lab(&host, "");
    let daemon = host.start(&configuration);
    daemon.wait_state("-outside", "up");
    daemon.ping("a", FAR);
    let needle = crate::wire::hex(super::MAGIC);
    let mut outside = super::Told::start(&daemon, "far", super::WIRE, &["vsw0", &needle]);
    let liar = [2, 0, 0, 0, 0, 0x66];
    let lie = marked(US_MAC, liar, arp(2, (liar, v4(FAR)), (US_MAC, v4(US))), b"");
    assert_eq!(outside.ask(&format!("send 1\n{}", crate::wire::hex(&lie))), "1");
    let mac = || {
        let rows = daemon.rows("neighbors");
        let row = rows.iter().find(|row| row["network"] == "uplink" && row["address"] == FAR);
        row.and_then(|row| row["mac"].as_str().map(str::to_owned))
    };
    wait_for("the lie", || (mac()? == "02:00:00:00:00:66").then_some(()));
    daemon.exec("far", &["ip", "neigh", "flush", "dev", "vsw0"]);
    daemon.ping("far", US);
    assert_eq!(mac().as_deref(), Some("02:42:c6:12:00:01"));
    daemon.ping("a", FAR);
    let inside = daemon.rows("neighbors");
    assert!(inside.iter().all(|row| row["network"] == "uplink" || row["address"] != FAR), "{inside:?}");
    daemon.assert_conserved();
    daemon.stop();
}

/// H12, H13.
fn who_looks_for_everybody_finds_nobodys_place(host: Host) {
    let configuration = super::lab(&host, "").replace("routes_to", "snooping = true\nroutes_to");
    let mut stage = Stage::of(host, &configuration);
    let (gateway, own) = ("02420a010001", "02420a010002");
    for (to, src) in [("10.2.0.0", A), ("198.18.0.0", A), ("fd00:2::", A6), ("fd00:9::", A6)] {
        stage.flood(Place::Inside, &format!("hosts {to} 256 20000 {gateway} {own} {src}"));
        stage.check();
    }
    assert!(stage.daemon.dropped("neighbor_queue") > 1000, "{:?}", stage.drops());
    for src in [A, A6] {
        stage.flood(
            Place::Inside,
            &format!("asks {} 10000 {gateway} {own} {src}", if src == A { "10.1.0.0" } else { "fd00:1::" }),
        );
        stage.flood(
            Place::Inside,
            &format!("groups 10000 {gateway} {own} {}", if src == A { A } else { "fe80::42:aff:fe01:2" }),
        );
        stage.check();
    }
    let groups = stage.daemon.rows("groups").len();
    assert!((1000..8192 + 16).contains(&groups), "{groups} groups are known");
    // Outside everybody is looked for as well, and only we are found.
    let (us, far) = ("0242c612000a", "0242c6120001");
    for (to, src) in [("198.18.0.0", FAR), ("fd00:9::", FAR6)] {
        stage.flood(Place::Outside, &format!("asks {to} 20000 {us} {far} {src}"));
        stage.flood(
            Place::Outside,
            &format!("groups 10000 {us} {far} {}", if src == FAR { FAR } else { "fe80::1" }),
        );
        stage.check();
    }
    let known = stage.daemon.rows("neighbors").len();
    assert!(known <= 3 * 1024, "{known} neighbours are kept");
    stage.unharmed();
}
