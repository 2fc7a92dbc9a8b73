//! TCP of a container that does as a script says, segment by segment, through the sockets uplink to real peers on the
//! loopback.
#![allow(clippy::unwrap_used, clippy::panic)]

mod world;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nat::sockets::{Fault, Outcome, Unreachable};
use proptest::prelude::*;
use switch::checksum::{add, pseudo, sum};
use switch::drop::DropReason;
use switch::flow::Gso;
use switch::parse::{PROTO_TCP, parse};
use switch::vnet::VnetHdr;

use world::World;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
const URG: u8 = 32;

/// A segment of the container.
#[derive(Clone, Copy)]
struct Segment<'a> {
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    urgent: u16,
    options: &'a [u8],
    payload: &'a [u8],
}

/// A segment for the container.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Heard {
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    payload: Vec<u8>,
}

struct Script {
    world: World,
    listener: TcpListener,
    port: u16,
    /// The next sequence number of the container, and the next it waits for.
    seq: u32,
    ack: u32,
    window: u16,
}

impl Script {
    fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { world: World::clean(), listener, port, seq: 1000, ack: 0, window: 60_000 }
    }

    /// With the options of the SYN, connected.
    fn connected(seq: u32, options: &[u8]) -> (Self, TcpStream) {
        let mut script = Self::new();
        script.seq = seq;
        assert_eq!(script.say(SYN, options, b""), []);
        let answer = script.next();
        assert_eq!((answer.flags, answer.ack), (SYN | ACK, seq.wrapping_add(1)));
        (script.seq, script.ack) = (seq.wrapping_add(1), answer.seq.wrapping_add(1));
        assert_eq!(script.say(ACK, &[], b""), []);
        let peer = script.accept();
        (script, peer)
    }

    fn accept(&mut self) -> TcpStream {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.listener.accept() {
                Ok((peer, _)) => {
                    peer.set_nonblocking(true).unwrap();
                    return peer;
                }
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }

    fn plain(&self) -> Segment<'static> {
        let Self { seq, ack, window, .. } = *self;
        Segment { flags: ACK, seq, ack, window, urgent: 0, options: &[], payload: b"" }
    }

    /// In order, with what comes back at once.
    fn say(&mut self, flags: u8, options: &[u8], payload: &[u8]) -> Vec<Heard> {
        let segment = Segment { flags, options, payload, ..self.plain() };
        self.send(&segment)
    }

    fn send(&mut self, segment: &Segment<'_>) -> Vec<Heard> {
        let frame = self.frame(segment);
        assert_eq!(self.world.give(frame), Outcome::Taken);
        let now = self.world.tick();
        self.world.sockets.flush(now, &mut self.world.wire.out);
        self.heard()
    }

    fn frame(&self, segment: &Segment<'_>) -> Vec<u8> {
        let Segment { flags, seq, ack, window, urgent, options, payload } = *segment;
        assert_eq!(options.len() % 4, 0);
        let offset = ((20 + options.len()) / 4) as u8;
        let mut tcp = [&40_000u16.to_be_bytes()[..], &self.port.to_be_bytes()].concat();
        tcp.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
        tcp.extend([offset << 4, flags]);
        tcp.extend([window.to_be_bytes(), [0, 0], urgent.to_be_bytes()].concat());
        tcp.extend(options);
        tcp.extend(payload);
        let (src, dst) = (world::ADDRESS, Ipv4Addr::LOCALHOST);
        let base = pseudo(src.to_ipv6_mapped(), dst.to_ipv6_mapped(), PROTO_TCP, tcp.len() as u32);
        let check = !add(base, sum(&tcp));
        tcp[16..18].copy_from_slice(&check.to_be_bytes());
        let total = (20 + tcp.len()) as u16;
        let mut ip = [&[0x45, 0][..], &total.to_be_bytes(), &[0, 0, 0x40, 0, 64, PROTO_TCP, 0, 0]].concat();
        ip.extend([src.octets(), dst.octets()].concat());
        let check = !sum(&ip);
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        [&world::GATEWAY_MAC.0[..], &world::MAC.0, &[8, 0], &ip, &tcp].concat()
    }

    fn heard(&mut self) -> Vec<Heard> {
        let frames = self.world.wire.out.to_container.drain(..);
        frames
            .map(|frame| {
                let packet = parse(&frame, &VnetHdr::default(), world::PORT, 0).unwrap();
                assert_eq!(packet.meta.gso, Gso::None);
                let tcp = packet.meta.tcp.unwrap();
                let payload = frame[usize::from(packet.meta.headers_len)..].to_vec();
                Heard { flags: tcp.flags, seq: tcp.seq, ack: tcp.ack, window: tcp.window, payload }
            })
            .collect()
    }

    /// What sockets and time bring, until there is something; time goes on by `step` milliseconds a turn.
    fn listen(&mut self, step: u64) -> Vec<Heard> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.world.now += step;
            let now = self.world.tick();
            self.world.sockets.ready(now, &mut self.world.wire.out);
            self.world.sockets.timers(now, &mut self.world.wire.out);
            let heard = self.heard();
            if !heard.is_empty() {
                return heard;
            }
            assert!(Instant::now() < deadline, "nothing comes");
        }
    }

    fn next(&mut self) -> Heard {
        let heard = self.listen(0);
        assert_eq!(heard.len(), 1, "{heard:?}");
        heard.into_iter().next().unwrap()
    }

    /// Nothing comes within so many milliseconds of simulated time.
    fn is_quiet(&mut self, millis: u64) {
        let end = self.world.now + millis;
        while self.world.now < end {
            self.world.now += 7;
            let now = self.world.tick();
            self.world.sockets.ready(now, &mut self.world.wire.out);
            self.world.sockets.timers(now, &mut self.world.wire.out);
            let heard = self.heard();
            assert!(heard.is_empty(), "{heard:?}");
        }
    }
}

/// What the peer reads until `len` bytes are there.
fn read(peer: &mut TcpStream, len: usize) -> Vec<u8> {
    let (mut got, mut bytes) = (Vec::new(), [0; 4096]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while got.len() < len {
        assert!(Instant::now() < deadline, "{} of {len} bytes", got.len());
        match peer.read(&mut bytes) {
            Ok(0) => break,
            Ok(n) => got.extend_from_slice(&bytes[..n]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    got
}

/// How the peer's end is: the error that reading gives, once there is one that is not "later".
fn error_of(peer: &mut TcpStream) -> ErrorKind {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match peer.read(&mut [0; 100]) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => return error.kind(),
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(0x9e37_79b9).to_le_bytes()[2]).collect()
}

#[test]
fn data_in_a_syn_is_left_for_later() {
    let mut script = Script::new();
    assert_eq!(script.say(SYN, &[], b"too early"), []);
    let answer = script.next();
    // RFC 9293 allows it; RFC 7413 section 3 has the sender send it again.
    assert_eq!((answer.flags, answer.ack), (SYN | ACK, 1001));
    (script.seq, script.ack) = (1001, answer.seq.wrapping_add(1));
    let heard = script.say(ACK | PSH, &[], b"too early");
    assert_eq!(heard.last().unwrap().ack, 1010);
    let mut peer = script.accept();
    assert_eq!(read(&mut peer, 9), b"too early");
}

#[test]
fn a_syn_again_is_answered_again_and_a_lost_answer_is_repeated() {
    let mut script = Script::new();
    assert_eq!(script.say(SYN, &[], b""), []);
    assert_eq!(script.say(SYN, &[], b""), [], "the socket still connects");
    let answer = script.next();
    assert_eq!(script.say(SYN, &[], b""), std::slice::from_ref(&answer));
    // Nobody says anything: it comes again by itself, ever more slowly, and the connection is given up in the end.
    let mut waits = Vec::new();
    loop {
        let before = script.world.now;
        let heard = script.listen(8);
        waits.push(script.world.now - before);
        if heard[0].flags & RST != 0 {
            break;
        }
        assert_eq!(heard, std::slice::from_ref(&answer));
    }
    assert!(waits.len() > 5 && waits.windows(2).all(|pair| pair[0] <= pair[1] + 16), "{waits:?}");
    assert!(script.world.sockets.is_empty());
}

#[test]
fn a_container_that_begins_anew_while_the_socket_connects_is_answered_as_it_is_now() {
    let mut script = Script::new();
    assert_eq!(script.say(SYN, &[2, 4, 5, 0xb4], b""), []);
    script.seq = 777_000;
    assert_eq!(script.say(SYN, &[2, 4, 5, 0xb4], b""), []);
    let answer = script.next();
    assert_eq!((answer.flags, answer.ack), (SYN | ACK, 777_001));
}

#[test]
fn a_reset_is_taken_in_every_state_where_it_fits() {
    // While the socket connects.
    let mut script = Script::new();
    script.say(SYN, &[], b"");
    let plain = script.plain();
    assert_eq!(script.send(&Segment { flags: RST, seq: 5, ..plain }), []);
    assert_eq!(script.world.sockets.len(), 1);
    assert_eq!(script.send(&Segment { flags: RST, seq: 1001, ..plain }), []);
    assert!(script.world.sockets.is_empty());
    // Before the handshake is over.
    let mut script = Script::new();
    script.say(SYN, &[], b"");
    script.next();
    let mut peer = script.accept();
    assert_eq!(script.send(&Segment { flags: RST, seq: 9, ..plain }), []);
    assert_eq!(script.world.sockets.len(), 1);
    script.send(&Segment { flags: RST, seq: 1001, ..plain });
    assert!(script.world.sockets.is_empty());
    assert_eq!(error_of(&mut peer), ErrorKind::ConnectionReset);
    // Half closed, by the container and by the peer, and on both sides but for the last acknowledgment.
    for (ours, theirs) in [(true, false), (false, true), (true, true)] {
        let (mut script, mut peer) = Script::connected(1000, &[]);
        if ours {
            script.say(FIN | ACK, &[], b"");
            script.seq = script.seq.wrapping_add(1);
        }
        if theirs {
            peer.shutdown(Shutdown::Write).unwrap();
            let fin = script.listen(0);
            assert_eq!(fin.last().unwrap().flags & FIN, FIN);
        }
        let plain = script.plain();
        script.send(&Segment { flags: RST, seq: script.seq.wrapping_sub(1), ..plain });
        assert_eq!(script.world.sockets.len(), 1, "not the one that was expected");
        script.send(&Segment { flags: RST, ..plain });
        assert!(script.world.sockets.is_empty());
        if !ours {
            assert_eq!(error_of(&mut peer), ErrorKind::ConnectionReset);
        }
    }
}

#[test]
fn keepalives_are_answered_and_are_no_data() {
    let (mut script, mut peer) = Script::connected(1000, &[]);
    script.say(ACK, &[], b"before");
    script.seq += 6;
    let plain = script.plain();
    for garbage in [&b""[..], b"?"] {
        let heard = script.send(&Segment { seq: script.seq - 1, payload: garbage, ..plain });
        assert_eq!(heard.len(), 1);
        assert_eq!((heard[0].flags, heard[0].ack), (ACK, script.seq));
    }
    script.say(ACK, &[], b"after");
    assert_eq!(read(&mut peer, 11), b"beforeafter");
}

#[test]
fn urgent_data_stays_in_its_stream_wherever_the_pointer_points() {
    let (mut script, mut peer) = Script::connected(1000, &[]);
    let mut sent = Vec::new();
    for urgent in [0, 1, 2, 5, 6, 1000, u16::MAX] {
        let plain = script.plain();
        let heard = script.send(&Segment { flags: ACK | URG, urgent, payload: b"hello", ..plain });
        sent.extend(b"hello");
        script.seq += 5;
        assert_eq!(heard.last().unwrap().ack, script.seq);
    }
    // And without a byte to be urgent about.
    let plain = script.plain();
    script.send(&Segment { flags: ACK | URG, urgent: 77, ..plain });
    assert_eq!(read(&mut peer, sent.len()), sent);
    assert_eq!(script.world.sockets.counters().bytes_out, sent.len() as u64);
}

#[test]
fn sequence_numbers_pass_their_end() {
    let (mut script, mut peer) = Script::connected(u32::MAX - 3000, &[]);
    let data = pattern(9000);
    for piece in data.chunks(700) {
        let heard = script.say(ACK, &[], piece);
        script.seq = script.seq.wrapping_add(piece.len() as u32);
        assert_eq!(heard.last().unwrap().ack, script.seq);
        // Once more: nothing new in it.
        let plain = script.plain();
        let old = Segment { seq: script.seq.wrapping_sub(piece.len() as u32), payload: piece, ..plain };
        assert_eq!(script.send(&old).last().unwrap().ack, script.seq);
    }
    assert_eq!(read(&mut peer, 9000), data);
    script.say(FIN | ACK, &[], b"");
    assert_eq!(read(&mut peer, 1), b"", "the end");
}

#[test]
fn our_sequence_numbers_pass_their_end() {
    // They start anywhere: one of a few hundred connections starts near enough to the end.
    let (mut script, mut peer) = loop {
        let (script, peer) = Script::connected(1000, &[]);
        if script.ack > u32::MAX - (16 << 20) {
            break (script, peer);
        }
    };
    let data = pattern(64 << 10);
    let (mut got, mut written, mut heard) = (0, 0, Vec::new());
    let deadline = Instant::now() + Duration::from_secs(20);
    let start = script.ack;
    while script.ack >= start || script.ack < 100_000 {
        assert!(Instant::now() < deadline, "{got} bytes");
        if let Ok(n) = peer.write(&data[written % data.len()..]) {
            written += n;
        }
        let now = script.world.tick();
        script.world.sockets.ready(now, &mut script.world.wire.out);
        heard.extend(script.heard());
        for segment in heard.drain(..).filter(|segment| !segment.payload.is_empty()) {
            assert_eq!(segment.seq, script.ack);
            for byte in &segment.payload {
                assert_eq!(*byte, data[got % data.len()]);
                got += 1;
            }
            script.ack = script.ack.wrapping_add(segment.payload.len() as u32);
        }
        heard.extend(script.say(ACK, &[], b""));
    }
    assert!(got > 100_000);
    assert_eq!(script.world.sockets.counters().retransmits, 0);
}

#[test]
fn segments_are_as_long_as_the_syn_allows() {
    // No option: 536 (RFC 9293 section 3.7.1). Tiny, none at all, larger than the network: bounded on both sides.
    for (options, longest) in [
        (&[][..], 536),
        (&[2, 4, 0, 1], 88),
        (&[2, 4, 0, 0], 88),
        (&[2, 4, 1, 0], 256),
        (&[2, 4, 0xff, 0xff], 1460),
        (&[2, 3, 5, 0xb4], 536),
        (&[2, 0, 1, 1], 536),
        (&[1, 1, 1, 2], 536),
        // MSS, SACK permitted, timestamps, window scale: as Linux has them.
        (&[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7], 1460),
    ] {
        let (mut script, mut peer) = Script::connected(1000, options);
        let data = pattern(5000);
        peer.write_all(&data).unwrap();
        let mut got = Vec::new();
        while got.len() < data.len() {
            for segment in script.listen(1) {
                assert!(segment.payload.len() <= longest, "{} > {longest}", segment.payload.len());
                assert_eq!(segment.seq, script.ack);
                script.ack = script.ack.wrapping_add(segment.payload.len() as u32);
                got.extend(segment.payload);
            }
            let more = script.say(ACK, &[], b"");
            for segment in more {
                script.ack = script.ack.wrapping_add(segment.payload.len() as u32);
                got.extend(segment.payload);
            }
        }
        assert_eq!(got, data);
    }
}

#[test]
fn without_a_window_scale_both_sides_do_without() {
    let (mut script, _peer) = Script::connected(1000, &[2, 4, 5, 0xb4]);
    let heard = script.say(ACK, &[], b"x");
    // Unscaled it is all the room that can be said.
    assert!(heard[0].window > 30_000, "{heard:?}");
    let (mut script, _peer) = Script::connected(1000, &[2, 4, 5, 0xb4, 1, 3, 3, 14]);
    let heard = script.say(ACK, &[], b"x");
    assert!(heard[0].window < 65_000, "scaled: {heard:?}");
}

#[test]
fn a_window_that_is_tiny_shrinks_and_closes_holds_nothing_up_for_ever() {
    let (mut script, mut peer) = Script::connected(1000, &[2, 4, 5, 0xb4]);
    script.window = 0;
    script.say(ACK, &[], b"");
    let data = pattern(30_000);
    peer.write_all(&data).unwrap();
    // A closed window is asked about, with an old sequence number and no data.
    let asked = script.listen(8);
    assert!(asked[0].payload.is_empty() && asked[0].seq == script.ack.wrapping_sub(1), "{asked:?}");
    let mut got: Vec<u8> = Vec::new();
    let windows = [1, 10, 100, 3, 0, 50, 1460, 1, 2000, 0, 4000, 700];
    let deadline = Instant::now() + Duration::from_secs(20);
    for window in windows.into_iter().cycle() {
        if got.len() >= data.len() {
            break;
        }
        assert!(Instant::now() < deadline, "{} of {} bytes", got.len(), data.len());
        script.window = window;
        let mut heard = script.say(ACK, &[], b"");
        if heard.iter().all(|segment| segment.payload.is_empty()) && window > 0 {
            heard = script.listen(20);
        }
        let edge = script.ack.wrapping_add(u32::from(window));
        for segment in heard.into_iter().filter(|segment| !segment.payload.is_empty()) {
            let end = segment.seq.wrapping_add(segment.payload.len() as u32);
            assert!(edge.wrapping_sub(end) as i32 >= 0, "beyond the window: {end} {edge}");
            if segment.seq.wrapping_sub(script.ack) as i32 > 0 {
                continue; // what was not read before it is gone, and comes again
            }
            let new = end.wrapping_sub(script.ack) as i32;
            // Half of what comes is read at a time, as of a window that shrinks behind it.
            let take = (new.max(0) as usize).div_ceil(2).min(segment.payload.len());
            let skip = script.ack.wrapping_sub(segment.seq) as usize;
            got.extend(segment.payload.iter().skip(skip).take(take));
            script.ack = script.ack.wrapping_add(take as u32);
        }
    }
    assert_eq!(got.len(), data.len());
    assert!(got == data);
}

#[test]
fn both_may_close_at_once() {
    let (mut script, mut peer) = Script::connected(1000, &[]);
    peer.shutdown(Shutdown::Write).unwrap();
    let fin = script.listen(0).pop().unwrap();
    assert_eq!((fin.flags & FIN, fin.seq), (FIN, script.ack));
    // Its own FIN is on its way and acknowledges nothing yet.
    let heard = script.say(FIN | ACK, &[], b"");
    script.seq += 1;
    assert_eq!(heard.last().map(|it| (it.flags, it.ack)), Some((ACK, script.seq)));
    assert_eq!(script.world.sockets.len(), 1);
    script.ack = script.ack.wrapping_add(1);
    assert_eq!(script.say(ACK, &[], b""), []);
    assert!(script.world.sockets.is_empty());
    assert_eq!(read(&mut peer, 1), b"");
}

#[test]
fn a_server_that_closes_in_the_middle_resets_the_container() {
    let (mut script, peer) = Script::connected(1000, &[]);
    script.say(ACK, &[], b"half of a request");
    script.seq += 17;
    // What it has not read is lost, and TCP says so (RFC 9293 section 3.6.1).
    drop(peer);
    let mut reset = false;
    for _ in 0..3 {
        let heard = script.say(ACK, &[], b"and the rest");
        script.seq += 12;
        reset |= heard.iter().any(|segment| segment.flags & RST != 0);
        if script.world.sockets.is_empty() {
            break;
        }
        reset |= script.listen(1).iter().any(|segment| segment.flags & RST != 0);
    }
    assert!(reset && script.world.sockets.is_empty());
}

#[test]
fn what_is_wrong_with_a_segment_is_counted_and_goes_nowhere() {
    let (mut script, mut peer) = Script::connected(1000, &[]);
    let plain = script.plain();
    let good = script.frame(&Segment { payload: b"payload", ..plain });
    for at in [16, 24, 36, 50, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        if parse(&bad, &VnetHdr::default(), world::PORT, 0).is_err() {
            continue;
        }
        assert_eq!(script.world.give(bad), Outcome::Dropped(DropReason::BadChecksum), "{at}");
    }
    let mut to_nobody = Script::new();
    to_nobody.port = 0;
    let frame = to_nobody.frame(&Segment { flags: SYN, ..plain });
    assert_eq!(to_nobody.world.give(frame), Outcome::Dropped(DropReason::UplinkProtocol), "port 0");
    assert_eq!(script.send(&Segment { payload: b"payload", ..plain }).len(), 1);
    assert_eq!(read(&mut peer, 7), b"payload");
    assert_eq!(script.world.sockets.len(), 1);
}

#[test]
fn nobody_there_is_said_as_the_host_says_it() {
    let mut script = Script::new();
    script.port = {
        // Nobody listens there now.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        free.local_addr().unwrap().port()
    };
    let mut heard = script.say(SYN, &[], b"");
    if heard.is_empty() {
        heard = script.listen(0);
    }
    assert_eq!((heard[0].flags, heard[0].ack), (RST | ACK, 1001));
    let failed: Vec<Fault> = script.world.wire.out.failed.iter().map(|failed| failed.0).collect();
    assert!(!failed.contains(&Fault::Unreachable(Unreachable::Port)), "TCP says it by itself");
    assert!(script.world.sockets.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    /// Segments of any flags with any numbers, none of them what is expected next: the stream does not notice.
    #[test]
    fn noise_does_not_reach_the_stream(noise in prop::collection::vec((0..64u8, any::<u32>(), any::<u32>(), any::<u16>(), 0..40usize), 1..40)) {
        let (mut script, mut peer) = Script::connected(1000, &[]);
        let data = pattern(noise.len() * 10);
        let mut back = Vec::new();
        for (piece, (flags, seq, ack, urgent, len)) in data.chunks(10).zip(&noise) {
            script.say(ACK, &[], piece);
            script.seq += 10;
            let payload = vec![0xee; *len];
            // In the past, or beyond any window; never exactly what is expected.
            let away = seq % (1 << 30) + 1;
            let seq = if seq % 2 == 0 { script.seq.wrapping_sub(away + 40) } else { script.seq.wrapping_add(away + (1 << 24)) };
            let segment = Segment { flags: *flags, seq, ack: *ack, window: 100, urgent: *urgent, options: &[], payload: &payload };
            let heard = script.send(&segment);
            prop_assert!(heard.iter().all(|it| it.flags & RST == 0), "{:?}", heard);
            prop_assert_eq!(script.world.sockets.len(), 1);
        }
        prop_assert_eq!(read(&mut peer, data.len()), data);
        peer.write_all(b"still here").unwrap();
        let say = script.plain();
        script.send(&say);
        while back.len() < 10 {
            for segment in script.listen(5) {
                let skip = script.ack.wrapping_sub(segment.seq) as usize;
                if !segment.payload.is_empty() && skip <= segment.payload.len() {
                    back.extend_from_slice(&segment.payload[skip..]);
                    script.ack = script.ack.wrapping_add((segment.payload.len() - skip) as u32);
                }
            }
        }
        prop_assert_eq!(back, b"still here");
    }
}

#[test]
fn a_quiet_connection_is_left_alone() {
    let (mut script, _peer) = Script::connected(1000, &[]);
    script.is_quiet(60_000);
    assert_eq!(script.world.sockets.len(), 1);
}
