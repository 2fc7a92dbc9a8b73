//! TCP of a container, played by smoltcp, through the sockets uplink to real peers on the loopback.
#![allow(clippy::unwrap_used, clippy::panic)]

mod world;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nat::sockets::{Limits, Outcome, Unreachable};
use proptest::prelude::*;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use smoltcp::wire::{IpAddress, TcpControl};
use switch::drop::DropReason;
use switch::parse::parse;
use switch::vnet::VnetHdr;

use world::byhand::segment;
use world::side::Side;
use world::{Line, World};

fn listen(ip: IpAddr) -> (TcpListener, u16) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// The connection is there on both sides.
fn establish(world: &mut World, ip: IpAddr) -> (SocketHandle, TcpStream) {
    let (listener, port) = listen(ip);
    let name = if ip.is_ipv6() { world::LOCALHOST6.into() } else { ip };
    let handle = world.connect(IpAddress::from(name), port, 40_000);
    let mut peer = None;
    world.until(|world| {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true).unwrap();
            peer = Some(stream);
        }
        peer.is_some() && world.tcp(handle).state() == State::Established
    });
    (handle, peer.unwrap())
}

/// Both send, both close, both get everything.
fn exchange(world: &mut World, ip: IpAddr, out: usize, back: usize) {
    let (handle, mut peer) = establish(world, ip);
    let (mut container, mut remote) = (Side::new(out, 1), Side::new(back, 2));
    world.until(|world| {
        container.play_container(world.tcp(handle));
        remote.play_peer(&mut peer);
        container.is_done() && remote.is_done()
    });
    assert!(container.got == remote.send, "{} of {} bytes came back", container.got.len(), back);
    assert!(remote.got == container.send, "{} of {} bytes went out", remote.got.len(), out);
    world.until(|world| world.sockets.is_empty());
}

#[test]
fn streams_are_equal_both_ways() {
    for (ip, peek_offset) in [(V4, true), (V6, true), (V4, false)] {
        let limits = Limits { host: true, peek_offset, ..Limits::default() };
        let mut world = World::new(Line::default(), limits);
        exchange(&mut world, ip, 3_000_000, 3_000_000);
        let counters = *world.sockets.counters();
        assert_eq!((counters.bytes_out, counters.bytes_in), (3_000_000, 3_000_000), "{counters:?}");
        assert_eq!((counters.opened, counters.closed, counters.retransmits), (1, 1, 0), "{counters:?}");
        assert!(world.wire.out.super_frames > 20, "{}", world.wire.out.super_frames);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 8, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_bad_line_loses_nothing(
        lost in 0..8u32, twice in 0..5u32, late in 0..10u32, seed in 1..u64::MAX,
        out in 0..150_000usize, back in 0..150_000usize,
    ) {
        let line = Line { lost, twice, late, seed };
        let peek_offset = seed % 2 == 0;
        let mut world = World::new(line, Limits { host: true, peek_offset, ..Limits::default() });
        exchange(&mut world, V4, out, back);
    }
}

#[test]
fn a_refused_connection_is_reset() {
    let mut world = World::clean();
    let (listener, port) = listen(V4);
    drop(listener);
    let handle = world.connect(Ipv4Addr::LOCALHOST, port, 40_000);
    world.until(|world| world.tcp(handle).state() == State::Closed);
    assert_eq!(world.sockets.counters().refused, 1);
    assert!(world.outcomes.is_empty() && world.wire.out.failed.is_empty());
    assert!(world.sockets.is_empty());
}

#[test]
fn the_host_itself_is_not_reached() {
    let mut world = World::new(Line::default(), Limits::default());
    let (listener, port) = listen(V4);
    world.connect(Ipv4Addr::LOCALHOST, port, 40_000);
    world.until(|world| !world.outcomes.is_empty());
    assert_eq!(world.outcomes[0], Outcome::Unreachable(Unreachable::Prohibited));
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(world.sockets.is_empty());
}

#[test]
fn the_container_may_close_first_and_still_listen() {
    let mut world = World::clean();
    let (handle, mut peer) = establish(&mut world, V4);
    world.tcp(handle).close();
    let mut bytes = [0; 10];
    world.until(|_| matches!(peer.read(&mut bytes), Ok(0)));
    world.until(|world| world.tcp(handle).state() == State::FinWait2);
    peer.write_all(b"late words").unwrap();
    world.until(|world| world.tcp(handle).recv_queue() == 10);
    assert_eq!(world.sockets.len(), 1);
    drop(peer);
    world.until(|world| world.tcp(handle).state() == State::TimeWait && world.sockets.is_empty());
}

#[test]
fn the_peer_may_close_first_and_still_listen() {
    let mut world = World::clean();
    let (handle, mut peer) = establish(&mut world, V4);
    peer.shutdown(Shutdown::Write).unwrap();
    world.until(|world| world.tcp(handle).state() == State::CloseWait);
    assert_eq!(world.tcp(handle).send_slice(b"late words"), Ok(10));
    let mut got = Vec::<u8>::new();
    world.until(|world| {
        let mut bytes = [0; 10];
        if let Ok(n) = peer.read(&mut bytes) {
            got.extend(&bytes[..n]);
        }
        if got.len() == 10 {
            world.tcp(handle).close();
        }
        world.tcp(handle).state() == State::Closed
    });
    assert_eq!(got, b"late words");
    assert!(world.sockets.is_empty());
}

#[test]
fn a_reset_of_the_peer_reaches_the_container() {
    let mut world = World::clean();
    let (handle, peer) = establish(&mut world, V4);
    rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    drop(peer);
    world.until(|world| world.tcp(handle).state() == State::Closed);
    assert!(world.sockets.is_empty());
}

#[test]
fn a_reset_of_the_container_reaches_the_peer() {
    let mut world = World::clean();
    let (handle, mut peer) = establish(&mut world, V4);
    world.tcp(handle).abort();
    let mut bytes = [0; 10];
    let mut error = None;
    world.until(|_| {
        error = peer
            .read(&mut bytes)
            .err()
            .map(|error| error.kind())
            .filter(|kind| *kind != ErrorKind::WouldBlock);
        error.is_some()
    });
    assert_eq!(error, Some(ErrorKind::ConnectionReset));
    assert!(world.sockets.is_empty());
}

#[test]
fn a_container_that_does_not_read_stops_the_peer_and_goes_on_when_it_does() {
    let mut world = World::clean();
    let (handle, mut peer) = establish(&mut world, V4);
    let mut remote = Side::new(2_000_000, 3);
    let until = world.now + 20_000;
    world.until(|world| {
        remote.play_peer(&mut peer);
        world.now > until
    });
    assert_eq!(world.tcp(handle).recv_queue(), 200_000);
    assert_eq!(world.sockets.len(), 1);
    let mut container = Side::new(0, 0);
    world.until(|world| {
        container.play_container(world.tcp(handle));
        remote.play_peer(&mut peer);
        container.got.len() == 2_000_000
    });
    assert!(container.got == remote.send);
}

#[test]
fn a_peer_that_does_not_read_stops_the_container_and_goes_on_when_it_does() {
    let mut world = World::clean();
    let (handle, mut peer) = establish(&mut world, V4);
    // More than the loopback's buffers hold.
    let mut container = Side::new(20_000_000, 3);
    let until = world.now + 20_000;
    world.until(|world| {
        container.play_container(world.tcp(handle));
        world.now > until
    });
    assert!(container.at < 20_000_000, "somebody kept it all");
    let mut remote = Side::new(0, 0);
    world.until(|world| {
        container.play_container(world.tcp(handle));
        remote.play_peer(&mut peer);
        remote.got.len() == 20_000_000
    });
    assert!(remote.got == container.send);
}

#[test]
fn frames_that_a_port_does_not_take_are_made_again() {
    let mut world = World::clean();
    let (handle, mut peer) = establish(&mut world, V4);
    world.wire.out.full = 7;
    let (mut container, mut remote) = (Side::new(100_000, 4), Side::new(400_000, 5));
    world.until(|world| {
        container.play_container(world.tcp(handle));
        remote.play_peer(&mut peer);
        container.is_done() && remote.is_done()
    });
    assert!(container.got == remote.send && remote.got == container.send);
    assert_eq!(world.sockets.counters().not_taken, 7);
}

#[test]
fn one_port_has_its_share_and_forgetting_it_frees_all() {
    let limits = Limits { host: true, flows_per_port: 2, ..Limits::default() };
    let mut world = World::new(Line::default(), limits);
    let (_listener, port) = listen(V4);
    let handles: Vec<_> =
        (0..3).map(|local| world.connect(Ipv4Addr::LOCALHOST, port, 40_000 + local)).collect();
    world.until(|world| {
        let states: Vec<_> = handles.iter().map(|handle| world.tcp(*handle).state()).collect();
        let count = |state| states.iter().filter(|other| **other == state).count();
        count(State::Established) == 2 && count(State::Closed) == 1
    });
    assert_eq!(world.outcomes, [Outcome::Dropped(DropReason::UplinkQuota)]);
    assert_eq!(world.sockets.counters().over_quota, 1);
    let states: Vec<_> = world.sockets.connections(world.tick()).map(|line| line.state).collect();
    assert_eq!(states, ["established"; 2]);
    let now = world.tick();
    world.sockets.forget(world::PORT, now, &mut world.wire.out);
    assert!(world.sockets.is_empty());
    world.until(|world| handles.iter().all(|handle| world.tcp(*handle).state() == State::Closed));
}

#[test]
fn a_segment_of_no_connection_is_reset() {
    let mut world = World::clean();
    let (handle, _peer) = establish(&mut world, V4);
    let limits = Limits { host: true, ..Limits::default() };
    world.sockets = nat::sockets::Sockets::new(limits, world.tick()).unwrap();
    world.tcp(handle).send_slice(b"who are you?").unwrap();
    world.until(|world| world.tcp(handle).state() == State::Closed);
    assert!(world.sockets.is_empty());
}

/// A container that does as it likes: its segments are made by hand.
struct Rude {
    world: World,
    peer: TcpStream,
    port: u16,
    seq: u32,
    ack: u32,
}

impl Rude {
    /// Connected, with a window of 60,000 and no scale.
    fn new() -> Self {
        let (listener, port) = listen(V4);
        let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.accept().unwrap();
        let mut rude = Self { world: World::clean(), peer: other, port, seq: 1000, ack: 0 };
        assert!(rude.send(TcpControl::Syn, 1000, None, b"").is_empty());
        let mut answer = None;
        while answer.is_none() {
            let now = rude.world.tick();
            rude.world.sockets.ready(now, &mut rude.world.wire.out);
            answer = rude.heard().pop();
        }
        let (flags, seq, ack, _) = answer.unwrap();
        assert_eq!((flags, ack), (0x12, 1001));
        (rude.seq, rude.ack) = (1001, seq.wrapping_add(1));
        assert!(rude.send(TcpControl::None, 1001, Some(rude.ack), b"").is_empty());
        rude.peer = listener.accept().unwrap().0;
        rude.peer.set_nonblocking(true).unwrap();
        rude
    }

    /// Sends one segment and returns what comes back: flags, seq, ack, window.
    fn send(
        &mut self,
        control: TcpControl,
        seq: u32,
        ack: Option<u32>,
        payload: &[u8],
    ) -> Vec<(u8, u32, u32, u16)> {
        let frame = segment(40_000, (Ipv4Addr::LOCALHOST, self.port), control, seq, ack, payload);
        assert_eq!(self.world.give(frame), Outcome::Taken);
        let now = self.world.tick();
        self.world.sockets.flush(now, &mut self.world.wire.out);
        self.heard()
    }

    fn heard(&mut self) -> Vec<(u8, u32, u32, u16)> {
        let frames = self.world.wire.out.to_container.drain(..);
        frames
            .map(|frame| {
                let tcp = parse(&frame, &VnetHdr::default(), world::PORT, 0).unwrap().meta.tcp.unwrap();
                (tcp.flags, tcp.seq, tcp.ack, tcp.window)
            })
            .collect()
    }
}

#[test]
fn a_reset_is_believed_only_with_the_expected_sequence_number() {
    let mut rude = Rude::new();
    // Out of the window: nothing. In it: asked about. In the past: nothing.
    assert_eq!(rude.send(TcpControl::Rst, rude.seq.wrapping_add(1 << 30), None, b""), []);
    let asked = rude.send(TcpControl::Rst, rude.seq + 1, None, b"");
    assert_eq!(asked.iter().map(|it| (it.0, it.1, it.2)).collect::<Vec<_>>(), [(0x10, rude.ack, rude.seq)]);
    assert_eq!(rude.send(TcpControl::Rst, rude.seq - 1, None, b""), []);
    // A SYN in between is asked about, too, and an ack of the future.
    assert_eq!(rude.send(TcpControl::Syn, 77, None, b"")[0].0, 0x10);
    assert_eq!(rude.send(TcpControl::None, rude.seq, Some(rude.ack + 5), b"lies")[0].2, rude.seq);
    assert_eq!(rude.world.sockets.len(), 1);
    assert_eq!(rude.send(TcpControl::Rst, rude.seq, None, b""), []);
    assert!(rude.world.sockets.is_empty());
    assert_eq!(rude.peer.read(&mut [0; 9]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn what_the_socket_refuses_is_asked_for_again() {
    let mut rude = Rude::new();
    let segment = [7; 1400];
    // It ignores every window, until the socket is full.
    while rude.world.sockets.counters().window_refused == 0 {
        let answers = rude.send(TcpControl::None, rude.seq, Some(rude.ack), &segment);
        let (flags, _, ack, window) = *answers.last().unwrap();
        assert_eq!(flags, 0x10);
        if ack != rude.seq + 1400 {
            assert_eq!(window, 0);
        }
        rude.seq = ack;
    }
    let mut got = vec![0; 8 << 20];
    let mut read = 0;
    let mut asked = Vec::new();
    while asked.is_empty() {
        read += rude.peer.read(&mut got).unwrap_or(0);
        let now = rude.world.tick();
        rude.world.sockets.ready(now, &mut rude.world.wire.out);
        asked = rude.heard();
    }
    assert!(read > 0);
    // A window, and then duplicates that make a kernel send again at once.
    assert!(asked.len() >= 4, "{asked:?}");
    assert!(asked.iter().all(|it| *it == asked[0]) && asked[0].2 == rude.seq && asked[0].3 > 0, "{asked:?}");
    // What was acknowledged is what arrives, to the byte.
    let acknowledged = (rude.seq - 1001) as usize;
    let deadline = Instant::now() + Duration::from_secs(10);
    while read < acknowledged && Instant::now() < deadline {
        read += rude.peer.read(&mut got).unwrap_or(0);
    }
    assert_eq!((read, rude.peer.read(&mut got).ok()), (acknowledged, None));
}

#[test]
fn a_silent_container_is_asked_and_given_up_when_it_is_gone() {
    const LONG: u64 = 2 * 3600 * 1000 + 1000;
    let mut world = World::clean();
    let (_, mut peer) = establish(&mut world, V4);
    world.now += LONG;
    world.until(|world| world.sockets.connections(world.tick()).next().unwrap().idle < 1000);
    world.wire.out.line = Line { lost: 100, seed: 1, ..Line::default() };
    world.now += LONG;
    world.until(|world| world.sockets.is_empty());
    assert_eq!(peer.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(world.sockets.next_timer(), None);
}
