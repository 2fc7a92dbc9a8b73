//! Clients of published l4 ports: their streams on a bad line, what a container may answer, and what is left of it when
//! there is no room.
#![allow(clippy::unwrap_used, clippy::panic)]

mod world;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nat::sockets::{Limits, Link, Outcome};
use proptest::prelude::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smoltcp::socket::tcp::State;
use smoltcp::wire::TcpControl;
use switch::drop::DropReason;
use switch::parse::{PROTO_TCP, parse};
use switch::port::PortId;
use switch::vnet::VnetHdr;

use world::byhand::segment;
use world::published::{configure, listening, server, target};
use world::side::Side;
use world::{Line, World};

const SYN: u8 = 2;
const RST: u8 = 4;

fn publish(world: &mut World) -> (Arc<OwnedFd>, u16) {
    let (socket, port) = listening();
    configure(world, &[(1, PROTO_TCP, &socket, target(80))]);
    (socket, port)
}

fn client(port: u16) -> TcpStream {
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    client.set_nonblocking(true).unwrap();
    client
}

/// Until the client is told that its connection was reset.
fn until_reset(world: &mut World, client: &mut TcpStream) {
    let mut error = None;
    world.until(|_| {
        error = client.read(&mut [0; 1]).err().map(|error| error.kind());
        error != Some(ErrorKind::WouldBlock)
    });
    assert_eq!(error, Some(ErrorKind::ConnectionReset));
    assert!(world.sockets.is_empty());
}

/// What the container hears next, after at least so many milliseconds: flags, sequence number, its peer's l4 port.
fn hears(world: &mut World, millis: u64) -> (u8, u32, u16) {
    world.now += millis;
    loop {
        let now = world.tick();
        world.sockets.ready(now, &mut world.wire.out);
        world.sockets.timers(now, &mut world.wire.out);
        if let Some(frame) = world.wire.out.to_container.pop_front() {
            let packet = parse(&frame, &VnetHdr::default(), world::PORT, 0).unwrap();
            let tcp = packet.meta.tcp.unwrap();
            return (tcp.flags, tcp.seq, packet.key.sport);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 8, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_bad_line_loses_nothing_of_a_client(
        lost in 0..8u32, twice in 0..5u32, late in 0..10u32, seed in 1..u64::MAX,
        out in 0..150_000usize, back in 0..150_000usize,
    ) {
        let mut world = World::new(Line { lost, twice, late, seed }, Limits { host: true, ..Limits::default() });
        let (_socket, port) = publish(&mut world);
        let handle = server(&mut world);
        let mut peer = client(port);
        world.until(|world| world.tcp(handle).state() == State::Established);
        let (mut container, mut remote) = (Side::new(out, 1), Side::new(back, 2));
        world.until(|world| {
            container.play_container(world.tcp(handle));
            remote.play_peer(&mut peer);
            container.is_done() && remote.is_done()
        });
        prop_assert!(container.got == remote.send && remote.got == container.send);
        world.until(|world| world.sockets.is_empty());
    }
}

#[test]
fn a_client_of_a_published_port_reaches_the_container() {
    let mut world = World::clean();
    let (_socket, port) = publish(&mut world);
    let handle = server(&mut world);
    let mut client = client(port);
    client.write_all(b"GET").unwrap();
    world.until(|world| world.tcp(handle).recv_queue() == 3);
    // The loopback cannot be answered, so the gateway stands in.
    assert_eq!(world.tcp(handle).remote_endpoint().unwrap().addr, world::GATEWAY.into());
    assert_eq!(world.sockets.counters().masked, 1);
    world.tcp(handle).send_slice(b"200").unwrap();
    world.tcp(handle).close();
    let mut got = Vec::new();
    world.until(|_| client.read_to_end(&mut got).is_ok());
    assert_eq!(got, b"200");
    drop(client);
    world.until(|world| world.sockets.is_empty());
}

#[test]
fn a_container_that_does_not_listen_resets_the_client() {
    let mut world = World::clean();
    let (_socket, port) = publish(&mut world);
    let mut client = client(port);
    until_reset(&mut world, &mut client);
}

#[test]
fn an_old_connection_of_the_containers_is_reset_and_the_client_gets_through() {
    let mut world = World::clean();
    let (_socket, port) = publish(&mut world);
    let mut peer = client(port);
    let (flags, first, theirs) = hears(&mut world, 0);
    assert_eq!(flags, SYN);
    let to = (world::GATEWAY, theirs);
    // RFC 9293 section 3.10.7.3: an acknowledgment of something else is answered with a RST, which has its number; a RST
    // with one is for nobody.
    for (control, answered) in [(TcpControl::None, true), (TcpControl::Syn, true), (TcpControl::Rst, false)] {
        let wrong = first.wrapping_sub(77_777);
        assert_eq!(world.give(segment(80, to, control, 5000, Some(wrong), b"")), Outcome::Taken);
        if answered {
            assert_eq!(hears(&mut world, 0), (RST, wrong, theirs));
        }
        assert!(world.wire.out.to_container.is_empty());
    }
    assert_eq!(hears(&mut world, 300), (SYN, first, theirs), "asked again");
    world.give(segment(80, to, TcpControl::Syn, 9000, Some(first.wrapping_add(1)), b""));
    assert_eq!(hears(&mut world, 0).1, first.wrapping_add(1));
    assert_eq!(peer.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
    world.give(segment(80, to, TcpControl::Fin, 9001, Some(first.wrapping_add(1)), b""));
    world.until(|_| peer.read(&mut [0; 1]).is_ok_and(|len| len == 0));
}

#[test]
fn a_refusal_of_the_container_reaches_the_client() {
    let mut world = World::clean();
    let (_socket, port) = publish(&mut world);
    let mut peer = client(port);
    let (_, first, theirs) = hears(&mut world, 0);
    world.give(segment(80, (world::GATEWAY, theirs), TcpControl::Rst, 0, Some(first.wrapping_add(1)), b""));
    until_reset(&mut world, &mut peer);
}

/// `tr:tm->when` of `/proc/net/tcp` for the socket with this l4 port at its other end; `02` is a keepalive.
fn timer(remote: u16) -> String {
    let sockets = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let mut lines = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line =
        lines.find(|words| words.get(2).is_some_and(|to| to.ends_with(&format!(":{remote:04X}")))).unwrap();
    line[5].split(':').next().unwrap().to_owned()
}

#[test]
fn who_says_nothing_for_long_is_asked_at_both_ends() {
    for half_closed in [false, true] {
        let mut world = World::clean();
        let (_socket, port) = publish(&mut world);
        let handle = server(&mut world);
        let peer = client(port);
        let local = peer.local_addr().unwrap().port();
        world.until(|world| world.tcp(handle).state() == State::Established);
        if half_closed {
            world.tcp(handle).close();
            world.until(|world| world.tcp(handle).state() == State::FinWait2);
        }
        // The client's kernel takes its time to acknowledge; then what the socket has to say is heard.
        world.until(|_| timer(local) == "00");
        let settled = world.now + 100;
        world.until(|world| world.now > settled);
        // RFC 5382 REQ-5: two hours, four minutes where one side has closed.
        let idle = world.sockets.connections(world.tick()).next().unwrap().idle;
        world.now += if half_closed { 239_700 } else { 2 * 3600 * 1000 - 300 } - idle;
        let before = world.now;
        world.until(|world| world.now > before + 100);
        assert_eq!(timer(local), "00");
        world.until(|world| world.now > before + 2000);
        assert_eq!(timer(local), "02", "the kernel asks the client, half closed: {half_closed}");
        assert_eq!(world.sockets.len(), 1, "the container answers: it goes on");
        world.wire.out.line = Line { lost: 100, seed: 1, ..Line::default() };
        world.now += 2 * 3600 * 1000 + 1000;
        world.until(|world| world.sockets.is_empty());
    }
}

#[test]
fn without_descriptors_clients_and_syns_are_refused_and_nothing_spins() {
    let mut world = World::clean();
    let (_socket, port) = publish(&mut world);
    let handle = server(&mut world);
    let old = client(port);
    world.until(|world| world.tcp(handle).state() == State::Established);
    // They wait in the queue of the listening socket.
    let late: Vec<TcpStream> = (0..5).map(|_| client(port)).collect();
    let before = getrlimit(Resource::Nofile);
    let next = std::fs::File::open("/dev/null").unwrap();
    let next = u64::try_from(next.as_raw_fd()).unwrap();
    setrlimit(Resource::Nofile, Rlimit { current: Some(next), ..before }).unwrap();
    // Their descriptors stay in use.
    let mut refused = [false; 5];
    world.until(|_| {
        for (mut client, refused) in late.iter().zip(&mut refused) {
            *refused |=
                client.read(&mut [0; 1]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
        }
        refused == [true; 5]
    });
    let far = (Ipv4Addr::LOCALHOST, port);
    assert_eq!(
        world.give(segment(4000, far, TcpControl::Syn, 1, None, b"")),
        Outcome::Dropped(DropReason::UplinkError)
    );
    let now = world.tick();
    assert!(!world.sockets.flush(now, &mut world.wire.out) && !world.sockets.ready(now, &mut world.wire.out));
    assert_eq!(world.sockets.len(), 1);
    setrlimit(Resource::Nofile, before).unwrap();
    // The old one lives, and a new one is taken.
    world.tcp(handle).send_slice(b"still here").unwrap();
    let mut got = [0; 20];
    world.until(|_| (&old).read(&mut got).is_ok_and(|len| len == 10));
    let handle = server(&mut world);
    let _new = client(port);
    world.until(|world| world.tcp(handle).state() == State::Established);
}

#[test]
fn a_flood_of_syns_takes_its_own_share_and_no_more() {
    let limits = Limits { host: true, flows_per_port: 64, ..Limits::default() };
    let mut world = World::new(Line::default(), limits);
    let (socket, port) = listening();
    for number in 0..100_000u32 {
        let (local, seq) = ((number % 60_000) as u16 + 1000, number);
        let outcome =
            world.give(segment(local, (Ipv4Addr::LOCALHOST, port), TcpControl::Syn, seq, None, b""));
        assert!(matches!(outcome, Outcome::Taken | Outcome::Dropped(DropReason::UplinkQuota)), "{outcome:?}");
        // Each that is refused is told so.
        let refused = outcome != Outcome::Taken;
        assert!(!refused || world.wire.out.to_container.pop_back().is_some());
        world.wire.out.to_container.clear();
    }
    assert_eq!(world.sockets.len(), 64);
    drop(socket);
}

/// A datagram of another container, to l4 port 9 of the loopback.
fn datagram_of(world: &mut World, port: PortId, number: u16) -> Outcome {
    let mut frame = segment(number, (Ipv4Addr::LOCALHOST, 9), TcpControl::None, 0, None, b"");
    // UDP without a checksum (RFC 768), of 8 bytes.
    frame.truncate(42);
    frame[16..18].copy_from_slice(&28u16.to_be_bytes());
    (frame[23], frame[29]) = (17, port.0 as u8 + 10);
    frame[24..26].fill(0);
    let check = !switch::checksum::sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    frame[38..42].copy_from_slice(&[0, 8, 0, 0]);
    let packet = parse(&frame, &VnetHdr::default(), port, 0).unwrap();
    world.wire.out.frame = frame;
    let (link, now) = (Link { port, ..world::LINK }, world.tick());
    world.sockets.packet(&packet, &link, world.way, now, &mut world.wire.out)
}

#[test]
fn where_all_places_are_taken_those_who_have_most_make_room() {
    let limits = Limits { host: true, flows: 64, flows_per_port: 32, ..Limits::default() };
    let mut world = World::new(Line::default(), limits);
    for number in 1..=32 {
        for greedy in [1, 2] {
            assert_eq!(datagram_of(&mut world, PortId(greedy), number), Outcome::Taken);
        }
        world.now += 1;
    }
    assert_eq!(world.sockets.len(), 64);
    for number in 1..=32 {
        let outcome = datagram_of(&mut world, PortId(4), number);
        let counts =
            |port| world.sockets.connections(world.tick()).filter(|line| line.port == PortId(port)).count();
        let [first, second, new] = [1, 2, 4].map(counts);
        match outcome {
            Outcome::Taken => assert_eq!(new, usize::from(number)),
            // Nobody has much more any more: it is as it should be.
            outcome => {
                assert_eq!(outcome, Outcome::Dropped(DropReason::UplinkQuota));
                assert!(new >= 16 && first.abs_diff(second) <= 4 && first >= 16, "{first} {second} {new}");
                let oldest = world.sockets.connections(world.tick()).map(|line| line.idle).max().unwrap();
                assert!(oldest < 32, "the oldest went");
                return;
            }
        }
    }
    panic!("it took all it wanted");
}
