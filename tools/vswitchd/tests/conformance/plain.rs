//! A network that is seen outside with its own addresses (`nat = false`), by the uplink as a configuration says it: what
//! answers it is let in, fragments as well, and nothing else.

use switch::drop::DropReason;
use switch::port::PortId;

use crate::common::all_up;
use crate::lab::{Got, IP_A, IP6_A, Lab, packets};
use crate::packet::{self, Ip, addr};
use crate::row::Outcome::{self, Passes};

const TEXT: &str = "
[uplink]
kind = \"tap\"
netns = \"far\"
address = \"198.18.0.10/24\"
address6 = \"fd00:9::10/64\"
host = \"198.18.0.1/24\"
host6 = \"fd00:9::1/64\"
[[network]]
name = \"blue\"
subnet = \"10.1.0.0/24\"
subnet6 = \"fd00:1::/64\"
nat = false
[[container]]
name = \"a\"
[[container.interface]]
network = \"blue\"
ip = \"10.1.0.2\"
ip6 = \"fd00:1::2\"
[[container]]
name = \"b\"
[[container.interface]]
network = \"blue\"
";

const A: u16 = 0;
/// The uplink.
const OUT: u16 = 2;
/// Who is behind it, the next hop first.
const NEAR: [&str; 2] = ["198.18.0.1", "fd00:9::1"];
const REMOTE: [&str; 2] = ["192.0.2.7", "2001:db8::7"];
const STRANGER: [&str; 2] = ["192.0.2.66", "2001:db8::66"];

/// `a` and the next hop outside are known to their gateways.
fn lab() -> Lab {
    let snapshot = all_up(TEXT);
    let uplink = snapshot.port(PortId(OUT)).map(|port| port.network);
    assert_eq!(uplink, snapshot.tables.nat.as_ref().map(|nat| nat.uplink), "the third port is the uplink");
    let mut lab = Lab::on(snapshot);
    lab.speaks(A);
    for (own, ours) in NEAR.into_iter().zip(["198.18.0.10", "fd00:9::10"]) {
        lab.frame(OUT, &Default::default(), &packet::asks([2, 0, 0, 0, 0, 9], addr(own), addr(ours)));
    }
    lab
}

/// What comes out of `pieces` of a packet, sent one after the other.
fn send(lab: &mut Lab, port: u16, pieces: &[Ip]) -> Vec<Got> {
    pieces.iter().flat_map(|piece| lab.send(port, piece)).collect()
}

/// Of a fragment header, offset and identification.
fn fragment(ip: &Ip) -> Option<&[u8]> {
    ip.extensions.first().map(|(_, header)| &header[2..])
}

/// All of `pieces` come out of `port`, once each, with the hop counted down and nothing else done to them.
#[track_caller]
fn all(lab: &mut Lab, from: u16, pieces: &[Ip], port: u16) {
    let mut out = send(lab, from, pieces);
    assert!(out.iter().all(|got| got.port == port), "{out:?}");
    for piece in pieces {
        let sent = piece.clone().ttl(63);
        let id = |ip: &Ip| if ip.is_v4() { ip.id } else { 0 };
        let same = |ip: &Ip| (id(ip), ip.field, fragment(ip)) == (id(&sent), sent.field, fragment(&sent));
        let at = out.iter().position(|got| same(&got.ip));
        let Ip { src, dst, ttl, l4, .. } = out.remove(at.unwrap_or_else(|| panic!("{sent:?} in {out:?}"))).ip;
        assert_eq!((src, dst, ttl, l4), (sent.src, sent.dst, sent.ttl, sent.l4));
    }
    assert_eq!(out, []);
}

pub fn answers() -> Outcome {
    for ((own, remote), stranger) in [IP_A, IP6_A].into_iter().zip(REMOTE).zip(STRANGER) {
        let mut lab = lab();
        let answer = |id: u16, from: &str, to: u16| {
            let payload: Vec<u8> = (0..2900u16).map(|n| (n.wrapping_mul(id) >> 3) as u8).collect();
            Ip::udp((from, 53), (own, to), &payload).id(id).cut_at(&[1280, 2560])
        };
        let prohibited = |lab: &Lab| lab.dropped(DropReason::Prohibited);
        // Nobody has asked. Its first fragment is refused; the others wait for one that is not, in vain.
        let out = send(&mut lab, OUT, &answer(1, remote, 5000));
        assert!(out.iter().all(|got| got.port == OUT), "{out:?}");
        assert_eq!((out.len(), prohibited(&lab)), (1, 1), "of the first alone anything is said: {out:?}");
        all(&mut lab, A, &Ip::udp((own, 5000), (remote, 53), &[7; 2900]).id(9).cut_at(&[1280, 2560]), OUT);
        all(&mut lab, OUT, &answer(2, remote, 5000), A);
        let mut backwards = answer(3, remote, 5000);
        backwards.reverse();
        all(&mut lab, OUT, &backwards, A);
        all(&mut lab, OUT, &[1, 0, 2].map(|at: usize| answer(4, remote, 5000)[at].clone()), A);
        // Somebody else, and another l4 port of the container; nor any rest by the identification of what came in.
        for mut pieces in [answer(5, stranger, 5000), answer(6, remote, 5001), answer(4, stranger, 5000)] {
            pieces.reverse();
            assert!(send(&mut lab, OUT, &pieces).iter().all(|got| got.port == OUT));
        }
        assert_eq!(prohibited(&lab), 4);
        let rest = &answer(7, remote, 5000)[1..];
        assert_eq!(send(&mut lab, OUT, rest), []);
        assert_eq!(packets(lab.wait(2500)), [], "not a word about what waited in vain");
        assert_eq!(lab.dropped(DropReason::NatFragment), 10, "{:?}", lab.drops());
    }
    Passes
}
