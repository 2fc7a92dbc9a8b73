//! A container played by smoltcp on a bad line, in simulated time, before a real [`Sockets`] with real sockets on the
//! loopback.
// Each test uses a part.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod byhand;
pub mod device;
pub mod line;
pub mod published;
pub mod side;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant as Real};

use nat::sockets::{Emit, Fault, Limits, Link, Outcome, Sockets, Way};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};
use switch::checksum::{Delta, add, complete, pseudo, sum};
use switch::drop::DropReason;
use switch::flow::Packet;
use switch::mac::MacAddr;
use switch::parse::parse;
use switch::port::PortId;
use switch::segment;
use switch::tick::Tick;
use switch::vnet::VnetHdr;
use zerocopy::FromBytes;

use device::Rx;

pub use line::Line;

pub const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 254]);
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 254);
pub const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2);
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 254);
/// smoltcp speaks to `::1` only as `::1`, so on the line the loopback has this name.
pub const LOCALHOST6: Ipv6Addr = Ipv6Addr::new(0xfd09, 1, 0, 0, 0, 0, 0, 1);
pub const PORT: PortId = PortId(3);
pub const LINK: Link = Link { port: PORT, mac: MAC, gateway_mac: GATEWAY_MAC, mtu: 1500 };

/// The frames for the container, and what was said of them.
pub struct Out {
    pub line: Line,
    pub to_container: VecDeque<Vec<u8>>,
    pub failed: Vec<(Fault, Option<IpAddr>, Vec<u8>)>,
    /// The packet in hand.
    pub frame: Vec<u8>,
    pub super_frames: usize,
    /// L4 ports that the container may not reach.
    pub denied: Vec<u16>,
    /// Refuse so many frames from now on.
    pub full: usize,
    slot: Vec<u8>,
}

impl Emit for Out {
    fn emit(&mut self, port: PortId, fill: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), DropReason> {
        assert_eq!(port, PORT);
        let len = fill(&mut self.slot);
        if len == 0 {
            return Ok(());
        }
        if self.full > 0 {
            self.full -= 1;
            return Err(DropReason::TxFull);
        }
        let (vnet, frame) = self.slot[..len].split_at(VnetHdr::LEN);
        let vnet = VnetHdr::read_from_bytes(vnet).unwrap();
        let mut frame = frame.to_vec();
        let mut packet = parse(&frame, &vnet, PORT, 0).expect("a frame of ours");
        let segments = segment::count(&packet.meta);
        if segments == 0 {
            assert!(complete(&mut frame, &mut packet.meta));
            rename(&mut frame, 22, Ipv6Addr::LOCALHOST, LOCALHOST6);
            self.line.carry(frame, &mut self.to_container);
            return Ok(());
        }
        self.super_frames += 1;
        for index in 0..segments {
            let mut bytes = vec![0; 2000];
            let len = segment::segment(&frame, &packet.meta, index, &mut bytes).unwrap();
            bytes.truncate(len);
            assert!(len <= 1514);
            rename(&mut bytes, 22, Ipv6Addr::LOCALHOST, LOCALHOST6);
            self.line.carry(bytes, &mut self.to_container);
        }
        Ok(())
    }

    fn frame(&self) -> &[u8] {
        &self.frame
    }

    fn may_open(&self, packet: &Packet) -> bool {
        !self.denied.contains(&packet.key.dport)
    }

    fn failed(&mut self, to: (PortId, MacAddr), fault: Fault, from: Option<IpAddr>, quoted: &[u8]) {
        assert_eq!(to, (PORT, MAC));
        self.failed.push((fault, from, quoted.to_vec()));
    }
}

/// smoltcp's device: the two queues.
pub struct Wire {
    pub out: Out,
    pub from_container: VecDeque<Vec<u8>>,
    line: Line,
}

pub struct Tx<'a>(&'a mut VecDeque<Vec<u8>>, &'a mut Line);

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let (frame, result) = device::filled(len, f);
        self.1.carry(frame, self.0);
        result
    }
}

impl phy::Device for Wire {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        let frame = self.out.to_container.pop_front()?;
        Some((Rx(frame), Tx(&mut self.from_container, &mut self.line)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.from_container, &mut self.line))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        device::capabilities(1500)
    }
}

pub struct World {
    pub sockets: Sockets,
    pub wire: Wire,
    pub iface: Interface,
    pub set: SocketSet<'static>,
    pub now: u64,
    pub outcomes: Vec<Outcome>,
    /// Where packets of the container go.
    pub way: Way,
    /// When the world has taken too long, in real time.
    deadline: Real,
}

impl World {
    pub fn new(line: Line, limits: Limits) -> Self {
        let now = 1_000_000;
        let out = Out {
            line,
            to_container: VecDeque::new(),
            failed: Vec::new(),
            frame: Vec::new(),
            super_frames: 0,
            denied: Vec::new(),
            full: 0,
            slot: vec![0xa5; 66_000],
        };
        let mut other = line;
        other.seed = line.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut wire = Wire { out, from_container: VecDeque::new(), line: other };
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(MAC.0)));
        let mut iface = Interface::new(config, &mut wire, Instant::from_millis(now));
        iface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(ADDRESS), 24)).unwrap();
            addresses.push(IpCidr::new(IpAddress::Ipv6(ADDRESS6), 64)).unwrap();
        });
        iface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        iface.routes_mut().add_default_ipv6_route(GATEWAY6).unwrap();
        Self {
            sockets: Sockets::new(limits, Tick::from_millis(now as u64)).unwrap(),
            wire,
            iface,
            set: SocketSet::new(vec![]),
            now: now as u64,
            outcomes: Vec::new(),
            way: Way::Out,
            deadline: Real::now() + Duration::from_secs(10),
        }
    }

    pub fn clean() -> Self {
        Self::new(Line::default(), Limits { host: true, ..Limits::default() })
    }

    pub fn tick(&self) -> Tick {
        Tick::from_millis(self.now)
    }

    /// A TCP socket of the container, connecting.
    pub fn connect(&mut self, to: impl Into<IpAddress>, port: u16, local: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 200_000]);
        let handle = self.set.add(tcp::Socket::new(buffer(), buffer()));
        let socket = self.set.get_mut::<tcp::Socket>(handle);
        socket.connect(self.iface.context(), (to.into(), port), local).unwrap();
        handle
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.set.get_mut::<tcp::Socket>(handle)
    }

    /// A frame of the container, which parses: a batch of its own.
    pub fn give(&mut self, frame: Vec<u8>) -> Outcome {
        let outcome = self.hand(frame);
        let now = self.tick();
        self.sockets.flush(now, &mut self.wire.out);
        outcome
    }

    /// A frame of a batch.
    fn hand(&mut self, frame: Vec<u8>) -> Outcome {
        let packet = parse(&frame, &VnetHdr::default(), PORT, 0).unwrap();
        self.wire.out.frame = frame;
        let now = self.tick();
        let outcome = self.sockets.packet(&packet, &LINK, self.way, now, &mut self.wire.out);
        self.wire.out.frame.clear();
        outcome
    }

    /// Everything has one turn; returns whether anything moved.
    pub fn turn(&mut self) -> bool {
        assert!(Real::now() < self.deadline, "it does not end: {:?}", self.sockets.counters());
        self.iface.poll(Instant::from_millis(self.now as i64), &mut self.wire, &mut self.set);
        let mut moved = !self.wire.from_container.is_empty();
        let now = self.tick();
        while let Some(mut frame) = self.wire.from_container.pop_front() {
            if let Some(reply) = neighbor(&frame) {
                self.wire.out.to_container.push_back(reply);
                continue;
            }
            rename(&mut frame, 38, LOCALHOST6, Ipv6Addr::LOCALHOST);
            let Ok(packet) = parse(&frame, &VnetHdr::default(), PORT, 0) else { continue };
            if packet.key.dst.is_multicast() {
                continue;
            }
            let outcome = self.hand(frame);
            if outcome != Outcome::Taken {
                self.outcomes.push(outcome);
            }
        }
        moved |= self.sockets.flush(now, &mut self.wire.out);
        moved |= self.sockets.ready(now, &mut self.wire.out);
        self.sockets.timers(now, &mut self.wire.out);
        moved || !self.wire.out.to_container.is_empty()
    }

    /// Turns until `done`, which also plays the peers and says so by `Some(true)`; time passes where nothing moves.
    pub fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        while !done(self) {
            if !self.turn() {
                let next = self.sockets.next_timer().map_or(u64::MAX, Tick::millis);
                let theirs = self.iface.poll_delay(Instant::from_millis(self.now as i64), &self.set);
                let theirs = theirs.map_or(u64::MAX, |delay| self.now + delay.total_millis());
                // What real sockets do takes no simulated time to speak of, so never leap over it.
                self.now = next.min(theirs).clamp(self.now + 1, self.now + 5);
            }
        }
    }
}

/// Replaces an IPv6 address at `at`, where it is `old`, in a TCP or UDP packet with a full checksum.
fn rename(frame: &mut [u8], at: usize, old: Ipv6Addr, new: Ipv6Addr) {
    if frame[12..14] != [0x86, 0xdd] || frame[at..at + 16] != old.octets() {
        return;
    }
    frame[at..at + 16].copy_from_slice(&new.octets());
    let field = if frame[20] == 6 { 54 + 16 } else { 54 + 6 };
    let check = u16::from_be_bytes([frame[field], frame[field + 1]]);
    let check = Delta::address(old, new).full(check);
    frame[field..field + 2].copy_from_slice(&check.to_be_bytes());
}

/// The gateway's answer to ARP and neighbour solicitations.
fn neighbor(frame: &[u8]) -> Option<Vec<u8>> {
    if frame[12..14] == [8, 6] {
        let mut reply = frame.to_vec();
        reply[..6].copy_from_slice(&frame[6..12]);
        reply[6..12].copy_from_slice(&GATEWAY_MAC.0);
        reply[21] = 2;
        reply[22..28].copy_from_slice(&GATEWAY_MAC.0);
        reply[28..32].copy_from_slice(&frame[38..42]);
        reply[32..42].copy_from_slice(&frame[22..32]);
        return Some(reply);
    }
    if frame[12..14] != [0x86, 0xdd] || frame.len() < 78 || frame[20] != 58 || frame[54] != 135 {
        return None;
    }
    let mut reply = frame[..78].to_vec();
    reply[..6].copy_from_slice(&frame[6..12]);
    reply[6..12].copy_from_slice(&GATEWAY_MAC.0);
    reply[18..20].copy_from_slice(&32u16.to_be_bytes());
    reply[22..38].copy_from_slice(&frame[62..78]);
    reply[38..54].copy_from_slice(&frame[22..38]);
    reply[54..62].copy_from_slice(&[136, 0, 0, 0, 0x60, 0, 0, 0]);
    reply.extend([2, 1]);
    reply.extend(GATEWAY_MAC.0);
    let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&reply[at..at + 16]).unwrap());
    let base = pseudo(address(22), address(38), 58, 32);
    let check = !add(base, sum(&reply[54..]));
    reply[56..58].copy_from_slice(&check.to_be_bytes());
    Some(reply)
}
