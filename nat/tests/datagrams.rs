//! UDP and fragments of a container, frame by frame, through the sockets uplink to real peers on the loopback.
#![allow(clippy::unwrap_used, clippy::panic)]

mod world;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use nat::sockets::{Fault, Limits, Outcome, Unreachable, Way};
use proptest::prelude::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use switch::checksum::{add, pseudo, sum};
use switch::drop::DropReason;
use switch::flow::Fragment;
use switch::parse::{PROTO_UDP, parse};
use switch::vnet::VnetHdr;

use world::{Line, World};

const V4: [IpAddr; 2] = [IpAddr::V4(world::ADDRESS), IpAddr::V4(Ipv4Addr::LOCALHOST)];
const V6: [IpAddr; 2] = [IpAddr::V6(world::ADDRESS6), IpAddr::V6(Ipv6Addr::LOCALHOST)];

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// A UDP datagram from its UDP header on.
fn datagram([src, dst]: [IpAddr; 2], sport: u16, dport: u16, payload: &[u8], checksum: bool) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    let mut udp =
        [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload].concat();
    if checksum {
        let base = pseudo(mapped(src), mapped(dst), PROTO_UDP, udp.len() as u32);
        let check = match !add(base, sum(&udp)) {
            0 => 0xffff,
            check => check,
        };
        udp[6..8].copy_from_slice(&check.to_be_bytes());
    }
    udp
}

/// A frame of the container with a part of an IP payload: `offset` in bytes, `more` follows.
fn frame([src, dst]: [IpAddr; 2], piece: &[u8], offset: usize, more: bool, id: u16, ttl: u8) -> Vec<u8> {
    let whole = offset == 0 && !more;
    let ip = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = ((20 + piece.len()) as u16).to_be_bytes();
            let field = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
            let mut ip = [&[0x45, 0][..], &total, &id.to_be_bytes(), &field.to_be_bytes()].concat();
            ip.extend([&[ttl, PROTO_UDP, 0, 0][..], &src.octets(), &dst.octets()].concat());
            let check = !sum(&ip);
            ip[10..12].copy_from_slice(&check.to_be_bytes());
            [&[8, 0][..], &ip].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let head = if whole { 0 } else { 8 };
            let len = ((piece.len() + head) as u16).to_be_bytes();
            let next = if whole { PROTO_UDP } else { 44 };
            let mut ip =
                [&[0x86, 0xdd, 0x60, 0, 0, 0][..], &len, &[next, ttl], &src.octets(), &dst.octets()].concat();
            if !whole {
                let field = (offset as u16 | u16::from(more)).to_be_bytes();
                ip.extend([&[PROTO_UDP, 0][..], &field, &u32::from(id).to_be_bytes()].concat());
            }
            ip
        }
        _ => panic!("two families"),
    };
    [&world::GATEWAY_MAC.0[..], &world::MAC.0, &ip, piece].concat()
}

/// The fragments of a datagram, each of `size` bytes.
fn fragments(ends: [IpAddr; 2], datagram: &[u8], size: usize, id: u16) -> Vec<Vec<u8>> {
    let count = datagram.len().div_ceil(size);
    let pieces = datagram.chunks(size).enumerate();
    pieces.map(|(n, piece)| frame(ends, piece, n * size, n + 1 < count, id, 64)).collect()
}

fn peer(ip: IpAddr) -> (UdpSocket, u16) {
    let peer = UdpSocket::bind((ip, 0)).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let port = peer.local_addr().unwrap().port();
    (peer, port)
}

fn received(peer: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 70_000];
    let (len, from) = peer.recv_from(&mut bytes).unwrap();
    bytes.truncate(len);
    (bytes, from)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(0x9e37_79b9).to_le_bytes()[2]).collect()
}

/// Lets the sockets work until `done`.
fn until(world: &mut World, mut done: impl FnMut(&mut World) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done(world) {
        assert!(Instant::now() < deadline, "{:?}", world.sockets.counters());
        let now = world.tick();
        world.sockets.ready(now, &mut world.wire.out);
    }
}

#[test]
fn one_l4_port_leads_to_everybody_and_only_who_was_asked_answers() {
    for ends in [V4, V6] {
        let mut world = World::clean();
        let (one, first) = peer(ends[1]);
        let (other, second) = peer(ends[1]);
        let (stranger, _) = peer(ends[1]);
        for (to, at) in [(first, &one), (second, &other)] {
            let bytes = frame(ends, &datagram(ends, 5000, to, b"who am I?", true), 0, false, 0, 64);
            assert_eq!(world.give(bytes), Outcome::Taken);
            assert_eq!(received(at).0, b"who am I?");
        }
        let seen = |port: u16, world: &World| {
            let mut lines = world.sockets.connections(world.tick());
            lines.find(|line| line.key.dport == port).unwrap().local.unwrap()
        };
        // RFC 4787 section 4.1: the same mapping for all destinations.
        let outside = seen(first, &world);
        assert_eq!(outside.port(), seen(second, &world).port());
        assert_ne!(outside.port(), 5000, "the host's l4 ports are not for a container to choose");
        // Another l4 port of the container has another one.
        let third = frame(ends, &datagram(ends, 5001, first, b"and I?", true), 0, false, 0, 64);
        assert_eq!(world.give(third), Outcome::Taken);
        assert_ne!(received(&one).1.port(), outside.port());
        // RFC 4787 section 5: filtered by address and port.
        stranger.send_to(b"let me in", outside).unwrap();
        other.send_to(b"welcome", outside).unwrap();
        until(&mut world, |world| !world.wire.out.to_container.is_empty());
        let answers: Vec<_> = world.wire.out.to_container.drain(..).collect();
        assert_eq!(answers.len(), 1);
        assert!(answers[0].ends_with(b"welcome"));
        // The mapping goes with its last flow.
        let now = world.tick();
        world.sockets.forget(world::PORT, now, &mut world.wire.out);
        assert!(world.sockets.is_empty());
        let again = frame(ends, &datagram(ends, 5000, first, b"again", true), 0, false, 0, 64);
        assert_eq!(world.give(again), Outcome::Taken);
        assert_eq!(received(&one).0, b"again");
    }
}

#[test]
fn what_comes_in_fragments_is_put_together_in_any_order() {
    for ends in [V4, V6] {
        let longest = if ends == V4 { 65_507 } else { 65_519 };
        for (len, size, backwards) in
            [(3000, 1480, false), (3000, 8, true), (longest, 1448, true), (9, 8, false)]
        {
            let mut world = World::clean();
            let (peer, port) = peer(ends[1]);
            let payload = pattern(len);
            let mut pieces = fragments(ends, &datagram(ends, 5000, port, &payload, true), size, 77);
            if backwards {
                pieces.reverse();
            }
            let twice = pieces[0].clone();
            pieces.insert(0, twice); // a duplicate says nothing new
            for piece in pieces {
                assert_eq!(world.give(piece), Outcome::Taken, "{len} {size}");
            }
            let got = received(&peer).0;
            assert!(got == payload, "{} of {len}", got.len());
            assert_eq!(
                (world.sockets.counters().reassembled, world.sockets.counters().fragments_lost),
                (1, 0)
            );
        }
    }
}

#[test]
fn what_is_too_long_for_the_network_comes_in_fragments() {
    for ends in [V4, V6] {
        let mut world = World::clean();
        let (peer, port) = peer(ends[1]);
        let question = frame(ends, &datagram(ends, 5000, port, b"tell me all", true), 0, false, 0, 64);
        assert_eq!(world.give(question), Outcome::Taken);
        let (_, from) = received(&peer);
        for len in [0, 1452, 1472, 1473, 9000, 65_507] {
            let payload = pattern(len);
            peer.send_to(&payload, from).unwrap();
            until(&mut world, |world| !world.wire.out.to_container.is_empty());
            let (mut got, mut whole) = (Vec::new(), false);
            for bytes in world.wire.out.to_container.drain(..) {
                assert!(bytes.len() <= 1514, "{}", bytes.len());
                let packet = parse(&bytes, &VnetHdr::default(), world::PORT, 0).unwrap();
                whole = packet.meta.fragment == Fragment::No;
                let start = if whole { packet.meta.headers_len } else { packet.meta.l4_off };
                let start = usize::from(start) + if packet.meta.fragment == Fragment::First { 8 } else { 0 };
                got.extend_from_slice(&bytes[start..]);
            }
            assert_eq!(whole, len <= if ends == V4 { 1472 } else { 1452 }, "{len}");
            assert!(got == payload, "{} of {len}", got.len());
        }
    }
}

#[test]
fn fragments_that_overlap_or_never_end_cost_their_own_port_only() {
    let mut world = World::clean();
    let (peer, port) = peer(V4[1]);
    let whole = datagram(V4, 5000, port, &pattern(100), true);
    // One that says something else about the same bytes: all of it is gone (RFC 5722).
    assert_eq!(world.give(frame(V4, &whole[..64], 0, true, 1, 64)), Outcome::Taken);
    let refused = Outcome::Dropped(DropReason::UplinkFragment);
    assert_eq!(world.give(frame(V4, &[0xff; 64], 32, true, 1, 64)), refused);
    assert_eq!(
        world.give(frame(V4, &whole[64..], 64, false, 1, 64)),
        Outcome::Taken,
        "and this one waits in vain"
    );
    // An end, and something behind it; two ends.
    assert_eq!(world.give(frame(V4, &whole[64..], 64, false, 2, 64)), Outcome::Taken);
    assert_eq!(world.give(frame(V4, &[0; 64], 640, true, 2, 64)), refused);
    assert_eq!(world.give(frame(V4, &whole[64..], 64, false, 3, 64)), Outcome::Taken);
    assert_eq!(world.give(frame(V4, &whole[64..96], 64, false, 3, 64)), refused);
    assert_eq!(world.sockets.counters().fragments_lost, 3);
    // 50,000 that never end: bounded, and whoever is honest in between is served.
    for id in 100..50_100u32 {
        assert_eq!(world.give(frame(V4, &whole[..64], 0, true, id as u16, 64)), Outcome::Taken);
        if id % 10_000 == 0 {
            for piece in fragments(V4, &whole, 64, 7) {
                assert_eq!(world.give(piece), Outcome::Taken);
            }
            assert_eq!(received(&peer).0, pattern(100));
        }
    }
    assert_eq!(world.sockets.counters().reassembled, 5);
    // Late is never.
    let pieces = fragments(V4, &whole, 64, 9);
    assert!(world.wire.out.failed.is_empty(), "of what made room for others nothing is said");
    world.now += 15_000;
    world.turn();
    world.wire.out.failed.clear();
    assert_eq!(world.give(pieces[0].clone()), Outcome::Taken);
    world.now += 15_000;
    assert_eq!(world.give(pieces[1].clone()), Outcome::Taken);
    assert_eq!(world.sockets.counters().reassembled, 5);
    // Who sent it is told, of the first fragment alone (RFC 1122 section 3.3.2).
    let late = [(Fault::Incomplete, None, pieces[0][14..].to_vec())];
    assert_eq!(world.wire.out.failed, late);
    world.now += 15_000;
    world.turn();
    assert_eq!(world.wire.out.failed, late);
}

#[test]
fn a_datagram_without_a_checksum_goes_and_one_with_a_wrong_one_does_not() {
    let mut world = World::clean();
    let (four, port) = peer(V4[1]);
    let bare = datagram(V4, 5000, port, b"no checksum", false);
    assert_eq!(world.give(frame(V4, &bare, 0, false, 0, 64)), Outcome::Taken);
    assert_eq!(received(&four).0, b"no checksum");
    let mut wrong = datagram(V4, 5000, port, b"wrong", true);
    wrong[6] ^= 1;
    assert_eq!(world.give(frame(V4, &wrong, 0, false, 0, 64)), Outcome::Dropped(DropReason::BadChecksum));
    for piece in fragments(V4, &wrong, 8, 1).into_iter().rev().skip(1).rev() {
        assert_eq!(world.give(piece), Outcome::Taken);
    }
    let last = fragments(V4, &wrong, 8, 1).pop().unwrap();
    assert_eq!(world.give(last), Outcome::Dropped(DropReason::BadChecksum), "known when it is whole");
    // RFC 8200 section 8.1.
    let (_six, port) = peer(V6[1]);
    let bare = datagram(V6, 5000, port, b"no checksum", false);
    assert_eq!(world.give(frame(V6, &bare, 0, false, 0, 64)), Outcome::Dropped(DropReason::BadChecksum));
    for (sport, dport) in [(0, port), (5000, 0)] {
        let nobody = frame(V4, &datagram(V4, sport, dport, b"0", true), 0, false, 0, 64);
        assert_eq!(world.give(nobody), Outcome::Dropped(DropReason::UplinkProtocol));
    }
}

#[test]
fn what_the_path_says_is_quoted_and_ends_nothing() {
    for ends in [V4, V6] {
        let mut world = World::clean();
        let (gone, port) = peer(ends[1]);
        drop(gone);
        let sent = datagram(ends, 5000, port, b"anybody there?", true);
        for turn in 1..=3 {
            assert_eq!(world.give(frame(ends, &sent, 0, false, 0, 64)), Outcome::Taken);
            until(&mut world, |world| world.wire.out.failed.len() == turn);
        }
        let (fault, from, quoted) = world.wire.out.failed[0].clone();
        // The loopback is nobody's address outside.
        assert_eq!((fault, from), (Fault::Unreachable(Unreachable::Port), None));
        let l4 = if ends == V4 { 20 } else { 40 };
        assert_eq!(quoted[l4..l4 + 6], sent[..6]);
        assert!(quoted.ends_with(b"anybody there?"));
        // RFC 4787 section 9: no ICMP message ends a mapping.
        assert_eq!(world.sockets.len(), 1);
    }
}

#[test]
fn without_descriptors_new_flows_are_refused_and_old_ones_live() {
    let mut world = World::clean();
    let (old, port) = peer(V4[1]);
    let say = |world: &mut World, sport, to| {
        world.give(frame(V4, &datagram(V4, sport, to, b"x", true), 0, false, 0, 64))
    };
    assert_eq!(say(&mut world, 5000, port), Outcome::Taken);
    received(&old);
    let before = getrlimit(Resource::Nofile);
    // As many as there are: the next one would be this.
    let next = std::fs::File::open("/dev/null").unwrap();
    let next = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&next)).unwrap();
    setrlimit(Resource::Nofile, Rlimit { current: Some(next), ..before }).unwrap();
    for sport in 6000..6050 {
        assert_eq!(say(&mut world, sport, port), Outcome::Dropped(DropReason::UplinkError));
    }
    assert_eq!(say(&mut world, 5000, port), Outcome::Taken);
    received(&old);
    // No spin: nothing is left to do.
    let now = world.tick();
    assert!(!world.sockets.flush(now, &mut world.wire.out) && !world.sockets.ready(now, &mut world.wire.out));
    assert_eq!((world.sockets.len(), world.sockets.counters().no_socket), (1, 50));
    setrlimit(Resource::Nofile, before).unwrap();
    assert_eq!(say(&mut world, 6000, port), Outcome::Taken);
}

#[test]
fn the_loopback_is_reached_only_where_it_is_meant() {
    let mut world = World::new(Line::default(), Limits::default());
    let (host, udp) = peer(V4[1]);
    // As its own address it is not, whoever stands in for it.
    let embedded = [
        IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0x7f00, 1)),
        IpAddr::V6(Ipv6Addr::new(0x2002, 0x7f00, 1, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0x7f00, 1)),
    ];
    let prohibited = Outcome::Unreachable(Unreachable::Prohibited);
    for ends in embedded.map(|to| [V6[0], to]).into_iter().chain([V4, V6]) {
        let bytes = frame(ends, &datagram(ends, 5000, udp, b"x", true), 0, false, 0, 64);
        assert_eq!(world.give(bytes), prohibited, "{ends:?}");
    }
    // By the gateway's address it is.
    let ends = [V4[0], IpAddr::V4(world::GATEWAY)];
    let bytes = frame(ends, &datagram(ends, 5000, udp, b"hello host", true), 0, false, 0, 64);
    world.way = Way::Loopback;
    assert_eq!(world.give(bytes), Outcome::Taken);
    let (said, from) = received(&host);
    assert_eq!(said, b"hello host");
    host.send_to(b"hello container", from).unwrap();
    until(&mut world, |world| !world.wire.out.to_container.is_empty());
    let answer = world.wire.out.to_container.pop_front().unwrap();
    let packet = parse(&answer, &VnetHdr::default(), world::PORT, 0).unwrap();
    assert_eq!(packet.key.src, world::GATEWAY.to_ipv6_mapped());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever fragments come in whatever order: a packet that comes out is the one that went in.
    #[test]
    fn fragments_make_what_was_cut_or_nothing(
        len in 1..4000usize, units in 1..100usize, order in any::<u64>(), lost in 0..30usize, v4: bool,
    ) {
        let ends = if v4 { V4 } else { V6 };
        let mut world = World::clean();
        let (peer, port) = peer(ends[1]);
        peer.set_nonblocking(true).unwrap();
        let payload = pattern(len);
        let mut pieces = fragments(ends, &datagram(ends, 5000, port, &payload, true), units * 8, 3);
        let whole = pieces.len();
        let mut seed = order | 1;
        for index in (1..pieces.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            pieces.swap(index, (seed >> 33) as usize % (index + 1));
        }
        if lost < pieces.len() && whole > 1 {
            pieces.remove(lost);
        }
        for piece in &pieces {
            prop_assert_eq!(world.give(piece.clone()), Outcome::Taken);
        }
        let mut bytes = vec![0; 5000];
        match peer.recv(&mut bytes) {
            Ok(got) => prop_assert!(pieces.len() == whole && bytes[..got] == payload),
            Err(_) => prop_assert!(pieces.len() < whole),
        }
    }
}

#[test]
fn for_who_is_known_nothing_is_opened() {
    let mut world = World::clean();
    world.way = Way::Known;
    let (host, port) = peer(V4[1]);
    host.set_nonblocking(true).unwrap();
    let bytes = frame(V4, &datagram(V4, 5000, port, b"x", true), 0, false, 0, 64);
    assert_eq!(world.give(bytes), Outcome::Unreachable(Unreachable::Port));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let handle = world.connect(Ipv4Addr::LOCALHOST, port, 40_000);
    world.until(|world| world.tcp(handle).state() == smoltcp::socket::tcp::State::Closed);
    assert!(world.sockets.is_empty() && listener.accept().is_err() && host.recv(&mut [0; 9]).is_err());
}

#[test]
fn a_connection_to_the_loopback_has_the_address_that_was_asked_for() {
    let mut world = World::new(Line::default(), Limits::default());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    world.way = Way::Loopback;
    let handle = world.connect(world::GATEWAY, port, 40_000);
    world.until(|world| world.tcp(handle).can_send());
    let (mut peer, _) = listener.accept().unwrap();
    world.tcp(handle).send_slice(b"GET").unwrap();
    peer.write_all(b"200").unwrap();
    world.until(|world| world.tcp(handle).recv_queue() == 3);
    let mut got = [0; 3];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"GET");
}
