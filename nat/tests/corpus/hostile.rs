//! A hostile container before real [`Sockets`]: packets that nobody would send, segments of connections that go wrong in
//! every way, fragments, time, a port that takes nothing and one that goes. The sockets lead to the loopback and to three
//! l4 ports of the test there, and nowhere else.
//!
//! What must hold: what comes out is a sound frame for that container, no larger than its MTU, with whole or honest
//! partial checksums; flows stay within their limits, work has an end, and when the port is gone nothing is left: no flow,
//! no descriptor.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the lints know `#[test]`, not what it calls")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;

use nat::sockets::{Emit, Fault, Limits, Link, Sockets, Way};
use switch::checksum;
use switch::drop::DropReason;
use switch::flow::{Csum, Gso, Packet, TcpMeta};
use switch::mac::MacAddr;
use switch::parse::parse;
use switch::port::PortId;
use switch::tick::Tick;
use switch::vnet::VnetHdr;
use zerocopy::FromBytes;

use crate::maker::{self, Cast, Choices, Wrap};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2);
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 254]);
const PORT: PortId = PortId(3);
const LIMITS: Limits = Limits { flows: 32, flows_per_port: 16, host: true, peek_offset: true };
const MAGIC: &[u8] = b"<a stranger's bytes>";
const STEPS: usize = 100;
/// Turns that one step may take.
const TURNS: usize = 1000;

/// The other side: an echo of streams, an echo of datagrams, and a port where nobody is.
struct Peers {
    listener: TcpListener,
    udp: UdpSocket,
    /// Keeps a port from others, and listens on nothing.
    nobody: UdpSocket,
    streams: Vec<TcpStream>,
}

impl Peers {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_nonblocking(true).unwrap();
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
        nobody.connect("127.0.0.1:9").unwrap();
        Self { listener, udp, nobody, streams: Vec::new() }
    }

    fn ports(&self) -> [u16; 4] {
        let tcp = self.listener.local_addr().unwrap().port();
        let (udp, nobody) = (self.udp.local_addr().unwrap().port(), self.nobody.local_addr().unwrap().port());
        [tcp, udp, nobody, 0]
    }

    /// Everybody has one turn; `ends`: a stream ends, in one way or the other.
    fn turn(&mut self, ends: Option<u8>) {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).unwrap();
            self.streams.push(stream);
        }
        let mut bytes = [0; 4096];
        for stream in &mut self.streams {
            if let Ok(len) = stream.read(&mut bytes) {
                // What it does not take is lost: the peer is nobody's friend either.
                let _ = stream.write(&bytes[..len]);
            }
        }
        while let Ok((len, from)) = self.udp.recv_from(&mut bytes) {
            let _ = self.udp.send_to(&bytes[..len], from);
        }
        match ends {
            Some(0) => self.reset(),
            Some(_) => {
                let _ = self.streams.first().map(|stream| stream.shutdown(Shutdown::Write));
            }
            None => {}
        }
    }

    /// Ends the oldest stream with a RST, which leaves no l4 port waiting.
    fn reset(&mut self) {
        if !self.streams.is_empty() {
            let stream = OwnedFd::from(self.streams.remove(0));
            rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
        }
    }
}

/// What came out for the container.
struct Out {
    ports: [u16; 4],
    frame: Vec<u8>,
    slot: Vec<u8>,
    mtu: u16,
    full: bool,
    /// The newest segments.
    segments: Vec<(u16, u16, TcpMeta)>,
    sent: usize,
}

impl Emit for Out {
    fn frame(&self) -> &[u8] {
        &self.frame
    }

    fn emit(&mut self, port: PortId, fill: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), DropReason> {
        assert_eq!(port, PORT);
        if self.full {
            return Err(DropReason::TxFull);
        }
        let len = fill(&mut self.slot);
        if len == 0 {
            return Ok(());
        }
        let (vnet, frame) = self.slot[..len].split_at_mut(VnetHdr::LEN);
        let vnet = VnetHdr::read_from_bytes(vnet).unwrap();
        let packet = parse(frame, &vnet, PORT, 0).unwrap_or_else(|reason| panic!("{reason:?}: {frame:02x?}"));
        sound(frame, &packet, self.mtu);
        if let Some(tcp) = packet.meta.tcp {
            self.segments.push((packet.key.sport, packet.key.dport, tcp));
        }
        self.sent += 1;
        Ok(())
    }

    fn may_open(&self, packet: &Packet) -> bool {
        self.ports.contains(&packet.key.dport) || matches!(packet.key.proto, 1 | 58)
    }

    fn failed(&mut self, to: (PortId, MacAddr), _: Fault, _: Option<IpAddr>, quoted: &[u8]) {
        assert_eq!(to, (PORT, MAC));
        assert!(matches!(quoted.first().map(|first| first >> 4), Some(4 | 6)), "{quoted:02x?}");
    }
}

/// A frame for the container, as it may be.
fn sound(frame: &mut [u8], packet: &Packet, mtu: u16) {
    let mut meta = packet.meta;
    assert_eq!((meta.dst, meta.src), (MAC, GATEWAY_MAC));
    let size = match meta.gso {
        Gso::None => meta.frame_len - 14,
        Gso::Tcp { size } | Gso::Udp { size } => u32::from(meta.headers_len - 14) + u32::from(size),
    };
    assert!(size <= u32::from(mtu), "{size} bytes: {packet:?}");
    if meta.csum == Csum::Partial && meta.gso == Gso::None {
        assert!(checksum::complete(frame, &mut meta));
    }
    if meta.gso == Gso::None {
        let ip = &frame[14..meta.l3_end as usize];
        assert_ne!(maker::verifies(ip), Some(false), "{packet:?} {frame:02x?}");
    }
}

/// Plays `input`; how many frames came out.
pub fn check(input: &[u8]) -> usize {
    let before = descriptors();
    let mut peers = Peers::new();
    let mut now = Tick::from_secs(1000);
    let mut sockets = Sockets::new(LIMITS, now).unwrap();
    let mut choices = Choices::new(input);
    let link = Link { port: PORT, mac: MAC, gateway_mac: GATEWAY_MAC, mtu: choices.pick(&[1500, 1280, 576]) };
    let ports = peers.ports();
    let (frame, slot) = (Vec::new(), vec![0xa5; 66_000]);
    let mut out = Out { ports, frame, slot, mtu: link.mtu, full: false, segments: Vec::new(), sent: 0 };
    for _ in 0..STEPS {
        if choices.is_empty() {
            break;
        }
        match choices.below(16) {
            0..=5 => packet(&mut choices, &mut sockets, &link, now, &mut out),
            6..=10 => segment(&mut choices, &mut sockets, &link, now, &mut out),
            11 => peers.turn(Some(choices.byte() & 1)),
            12 => now = now.plus_millis(choices.pick(&[1, 200, 1000, 20_000, 130_000, 7_500_000])),
            13 => out.full = !out.full,
            14 => sockets.forget(PORT, now, &mut out),
            _ => _ = sockets.end_unless(|_, key| key.dport != ports[0], now, &mut out),
        }
        peers.turn(None);
        turns(&mut sockets, now, &mut out);
    }
    out.full = false;
    sockets.forget(PORT, now, &mut out);
    turns(&mut sockets, now, &mut out);
    assert_eq!((sockets.len(), sockets.counters().opened), (0, sockets.counters().closed));
    while !peers.streams.is_empty() {
        peers.reset();
    }
    drop((sockets, peers));
    assert_eq!(descriptors(), before, "a descriptor is lost");
    out.sent
}

fn turns(sockets: &mut Sockets, now: Tick, out: &mut Out) {
    let mut more = true;
    for _ in 0..TURNS {
        if !more {
            break;
        }
        more = sockets.flush(now, out);
        more |= sockets.ready(now, out);
        sockets.timers(now, out);
    }
    assert!(!more, "the work has no end");
    assert!(sockets.len() <= LIMITS.flows_per_port as usize, "{} flows", sockets.len());
    assert_eq!(sockets.counters().opened - sockets.counters().closed, sockets.len() as u64);
}

/// Any packet of the container.
fn packet(choices: &mut Choices<'_>, sockets: &mut Sockets, link: &Link, now: Tick, out: &mut Out) {
    let cast = Cast {
        macs: &[MAC.0],
        v4: &[Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(10, 9, 0, 254)],
        v6: &[Ipv6Addr::LOCALHOST, Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 254)],
        own: Some((OWN, OWN6)),
        l4: &out.ports,
        magic: MAGIC,
        longest: 4000,
    };
    let ip = maker::packet(choices, &cast, 0);
    let mut bytes = ip.bytes;
    if choices.byte() & 3 == 3 {
        maker::damage(choices, &mut bytes);
    }
    hand(if ip.v6 { 0x86dd } else { 0x0800 }, &bytes, choices.byte() & 1 == 0, sockets, link, now, out);
}

/// A segment that follows on what the container got, nearly.
fn segment(choices: &mut Choices<'_>, sockets: &mut Sockets, link: &Link, now: Tick, out: &mut Out) {
    let Some((sport, dport, got)) = out.segments.last().copied() else {
        // A connection begins.
        let words = [[choices.pick(&[1000, 1001, 1002]), out.ports[0]], [0, choices.word()], [0, 0]].concat();
        let tcp = [&maker::words(&words)[..], &[0x50, 2, 0xff, 0xff, 0, 0, 0, 0]].concat();
        return tcp_packet(tcp, sockets, link, now, out);
    };
    if choices.byte() & 7 == 7 {
        out.segments.pop();
    }
    let consumed = got.payload + u32::from(got.flags >> 1 & 1) + u32::from(got.flags & 1);
    let off = |choices: &mut Choices<'_>| choices.pick(&[0, 0, 0, 0, 0, 0, 1, u32::MAX, 1000, 0x8000_0000]);
    let seq = got.ack.wrapping_add(off(choices));
    let ack = got.seq.wrapping_add(consumed).wrapping_add(off(choices));
    let flags = choices.pick(&[0x10, 0x10, 0x18, 0x11, 0x14, 0x04, 0x12, 0x02, 0x31]);
    let mut tcp = maker::words(&[dport, sport]);
    tcp.extend(seq.to_be_bytes());
    tcp.extend(ack.to_be_bytes());
    tcp.extend([0x50, flags]);
    tcp.extend(maker::words(&[choices.pick(&[0xffff, 0, 1, 100]), 0, choices.pick(&[0, 0, 1, 0xffff])]));
    let len = choices.len(1400);
    tcp.extend(MAGIC.iter().cycle().take(len));
    tcp_packet(tcp, sockets, link, now, out);
}

fn tcp_packet(mut tcp: Vec<u8>, sockets: &mut Sockets, link: &Link, now: Tick, out: &mut Out) {
    let (src, dst) = (OWN.to_ipv6_mapped(), Ipv4Addr::LOCALHOST.to_ipv6_mapped());
    let check = maker::checksum((src, dst), 6, &tcp);
    maker::put(&mut tcp, 16, check);
    let mut ip =
        [&[0x45, 0][..], &maker::words(&[20 + tcp.len() as u16, 1, 0x4000]), &[64, 6, 0, 0]].concat();
    ip.extend(OWN.octets());
    ip.extend(Ipv4Addr::LOCALHOST.octets());
    let check = !maker::fold(maker::sum(&ip));
    maker::put(&mut ip, 10, check);
    hand(0x0800, &[ip, tcp].concat(), true, sockets, link, now, out);
}

fn hand(
    ethertype: u16,
    bytes: &[u8],
    opens: bool,
    sockets: &mut Sockets,
    link: &Link,
    now: Tick,
    out: &mut Out,
) {
    let Some(frame) = Wrap::NONE.frame(GATEWAY_MAC.0, MAC.0, ethertype, bytes) else { return };
    let Ok(packet) = parse(&frame, &VnetHdr::default(), PORT, 0) else { return };
    // To the loopback or, of what is known already, to where it leads: nothing leaves this host.
    let loopback = packet.key.dst.to_canonical().is_loopback();
    let way = match opens {
        true if loopback => Way::Out,
        true => Way::Loopback,
        false => Way::Known,
    };
    out.frame = frame;
    sockets.packet(&packet, link, way, now, out);
    out.frame.clear();
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
