//! Two hosts of an overlay on an underlay that loses, doubles, mixes and corrupts datagrams: hosts with a TCP of their own
//! behind them, the switch's own worker with the overlay around memory devices, real sockets of the loopback, and between
//! these a relay. Time is simulated, chance is a seed's.
//!
//! What one end has sent the other has got, byte for byte; every datagram that came is a frame that came out, or has a name.
#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests are tests

#[path = "../../nat/tests/world/device.rs"]
mod device;
#[path = "../../nat/tests/world/line.rs"]
mod line;
#[path = "../../nat/tests/world/side.rs"]
#[allow(dead_code)]
mod side;
#[path = "../../nat/tests/world/wire.rs"]
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::io::Errno;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};
use switch::books::{Books, Ticket};
use switch::decide::bridge;
use switch::drop::DropReason;
use switch::fdb::Fdb;
use switch::flow::{Meta, Packet};
use switch::frame::{Frame, Pool};
use switch::io::mem::MemIo;
use switch::io::{Batch, Eye, Io, IoStats, Sent, Wait};
use switch::mac::MacAddr;
use switch::parse::parse;
use switch::port::{NetworkId, PortId};
use switch::segment;
use switch::snapshot::{Claims, Network, Owner, Port, Remote as FarPort, Snapshot, Spoof};
use switch::tick::Tick;
use switch::verdict::Verdict;
use switch::vnet::VnetHdr;
use switch::worker::Worker;
use vxlan::coalesce::Coalescer;
use vxlan::decap;
use vxlan::ecn::Ecn;
use vxlan::encap::Underlay;
use vxlan::overlay::Overlay;
use vxlan::settings::{Published, Remote, Settings};
use vxlan::sockets::Sockets;
use vxlan::wire::{Reserved, Vni, VxlanHdr};
use zerocopy::{FromBytes, IntoBytes};

use line::Line;
use side::Side;
use wire::Wire;

/// The port of the host behind a switch, and the one that is the other switch.
const NEAR: PortId = PortId(0);
const FAR: PortId = PortId(1);
const BEGAN: u64 = 10_000_000;
/// A transfer takes no longer, in simulated milliseconds.
const PATIENCE: u64 = 3_600_000;
/// Bytes of an inner IP packet: of the first host's link, and the second one's.
const MTUS: [usize; 2] = [1450, 1280];

type Decide = fn(&Packet, &Network) -> Verdict;

/// Memory devices whose eye always sees something: the sockets are real, and who looks at them is not.
struct Looking(MemIo);

impl Io for Looking {
    fn rx(&mut self, pool: &mut Pool, batch: &mut Batch, wait: Wait) -> io::Result<Tick> {
        batch.watched[Eye::Around as usize] = true;
        self.0.rx(pool, batch, wait)
    }

    fn tx(
        &mut self,
        pool: &mut Pool,
        out: PortId,
        frame: &Frame,
        meta: &Meta,
        ticket: Ticket,
        books: &mut Books,
    ) -> Result<Sent, DropReason> {
        self.0.tx(pool, out, frame, meta, ticket, books)
    }

    fn flush(&mut self, pool: &mut Pool, books: &mut Books) {
        self.0.flush(pool, books);
    }

    fn watch(&mut self, eye: Eye, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.0.watch(eye, fd)
    }

    fn take_stats(&mut self) -> IoStats {
        self.0.take_stats()
    }
}

/// A switch with the overlay, and the host behind it.
struct Place {
    iface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    worker: Worker<Overlay<Looking>, Decide>,
    coalescer: Coalescer,
    /// Where its datagrams come in.
    address: SocketAddr,
    /// Segments that came out towards the host.
    out: u64,
    /// Super-frames: of the host, and for it.
    together: [u64; 2],
}

/// How bad the underlay is, in percent of datagrams.
#[derive(Clone, Copy)]
struct Quality {
    seed: u64,
    lost: u32,
    twice: u32,
    corrupt: u32,
    /// Milliseconds that a datagram is on its way, at most.
    most: u64,
}

fn mac(which: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, which as u8 + 1])
}

fn addresses(which: usize) -> [IpAddr; 2] {
    let last = which as u8 + 1;
    [IpAddr::from([10, 1, 0, last]), IpAddr::from([0xfd00, 1, 0, 0, 0, 0, 0, u16::from(last)])]
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// One network with the host's port and the remote's.
fn snapshot(which: usize) -> Snapshot {
    let own: Vec<Ipv6Addr> = addresses(which).into_iter().map(mapped).collect();
    let mut claims = Claims::default();
    claims.macs.insert(mac(which), Owner::Port(NEAR));
    claims.ips.extend(own.iter().map(|ip| (*ip, Owner::Port(NEAR))));
    let near = Port::new(NetworkId(0), mac(which), own.into_boxed_slice());
    let far = Port::new(NetworkId(0), MacAddr::ZERO, Box::default());
    let remote = Some(FarPort { learns: true, floods: true, mtu: None });
    let network = Network {
        zone: 0,
        mtu: 1450,
        vlan: 0,
        transparent: false,
        icc: true,
        spoof: Spoof::Claimed,
        storm: 0,
        fdb: Arc::new(Fdb::new(1024).unwrap()),
        groups: None,
        members: Box::new([NEAR, FAR]),
        claims,
        told: Arc::default(),
    };
    Snapshot {
        generation: 1,
        ports: Box::new([Some(near), Some(Port { remote, ..far })]),
        networks: Box::new([Some(network)]),
        tables: (),
    }
}

impl Place {
    /// Its other end is reached by way of the relay.
    fn new(which: usize, relay: SocketAddr, seed: u64, gso: bool) -> Self {
        let local = SocketAddr::from(([127, 0, 0, which as u8 + 1], 0));
        let sockets = Arc::new(Sockets::open(local, 3, gso).unwrap());
        let address = sockets.receivers[0].local_addr().unwrap();
        let (vni, underlay) = (Vni::new(7).unwrap(), Underlay::new(1500, false).unwrap());
        let remote = Remote { address: relay, vni, underlay, mtu: 1450 };
        let settings = Settings::new(Box::new([sockets]), Reserved::Accept, [(vni, 1450)], [(FAR, remote)]);
        let published: Published = Arc::new(ArcSwap::from_pointee(settings.unwrap()));
        let overlay = Overlay::new(Looking(MemIo::new(2)), published, 0).unwrap();
        let decide: Decide = |packet, network| bridge(&packet.meta, network);
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot(which)));
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac(which).0)));
        config.random_seed = seed + which as u64;
        let mut wire = Wire { mtu: MTUS[which], came: VecDeque::new(), leaves: VecDeque::new() };
        let mut iface = Interface::new(config, &mut wire, Instant::from_millis(BEGAN as i64));
        iface.update_ip_addrs(|all| {
            let [v4, v6] = addresses(which);
            all.push(IpCidr::new(v4.into(), 24)).unwrap();
            all.push(IpCidr::new(v6.into(), 64)).unwrap();
        });
        Self {
            iface,
            wire,
            sockets: SocketSet::new(vec![]),
            worker: Worker::new(overlay, 512, 2, snapshot, decide),
            coalescer: Coalescer::new(512),
            address,
            out: 0,
            together: [0; 2],
        }
    }

    fn socket(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 32_768]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    /// What the host says goes to the switch, and what the switch has for it comes.
    fn turn(&mut self, now: u64) {
        self.iface.poll(Instant::from_millis(now as i64), &mut self.wire, &mut self.sockets);
        self.inject();
        self.worker.io.io.0.now = Tick::from_millis(now);
        while self.worker.step(Wait::Poll).unwrap() > 0 {}
        assert_eq!(self.worker.counters().worker.unaccounted(), 0);
        let mut room = vec![0; 1 << 16];
        for (vnet, frame) in self.worker.io.io.0.take(NEAR) {
            let meta = parse(&frame, &vnet, NEAR, 0).unwrap().meta;
            let count = segment::count(&meta);
            self.out += count.max(1) as u64;
            if count == 0 {
                self.wire.came.push_back(frame);
                continue;
            }
            self.together[1] += 1;
            for index in 0..count {
                let len = segment::segment(&frame, &meta, index, &mut room).unwrap();
                self.wire.came.push_back(room[..len].to_vec());
            }
        }
    }

    /// What the host says, as a kernel with segmentation offload would: segments of a stream at once, where there are some.
    fn inject(&mut self) {
        let Self { wire, coalescer, worker, together, .. } = self;
        let mut buffer = Vec::new();
        let mut inners = Vec::new();
        for frame in wire.leaves.drain(..) {
            let mut datagram = [VxlanHdr::new(Vni::MAX).as_bytes(), &frame].concat();
            let header = vxlan::wire::Repr::parse(&datagram, Reserved::Strict).unwrap();
            inners.push(decap::inner(&mut datagram, buffer.len(), header, Ecn::NotEct, 1450).unwrap());
            buffer.extend(datagram);
        }
        coalescer.clear();
        for inner in &inners {
            assert!(coalescer.add(&buffer, 0, inner));
        }
        let mut to = vec![0; 1 << 17];
        for out in coalescer.outs() {
            let len = coalescer.write(&buffer, out, &mut to).unwrap();
            let (vnet, frame) = VnetHdr::read_from_prefix(&to[..len]).unwrap();
            together[0] += u64::from(out.count > 1);
            worker.io.io.0.inject(NEAR, &vnet, frame);
        }
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.worker.counters().worker.drops[reason as usize].get()
    }

    fn datagrams(&self) -> u64 {
        self.worker.io.counters().datagrams.get()
    }
}

/// One way of the underlay.
struct Way {
    line: Line,
    corrupt: u32,
    most: u64,
    /// By the moment of arrival, and number.
    under_way: BTreeMap<(u64, u64), Vec<u8>>,
    carried: u64,
    /// Datagrams that arrived.
    arrived: u64,
}

impl Way {
    fn new(quality: &Quality, which: u64) -> Self {
        let seed = (quality.seed * 2 + which + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let line = Line { lost: quality.lost, twice: quality.twice, late: 0, seed };
        let (corrupt, most) = (quality.corrupt, quality.most);
        Self { line, corrupt, most, under_way: BTreeMap::new(), carried: 0, arrived: 0 }
    }

    fn carry(&mut self, datagram: Vec<u8>, now: u64) {
        let mut out = VecDeque::new();
        self.line.carry(datagram, &mut out);
        for mut datagram in out {
            if self.line.dice() < self.corrupt {
                self.spoil(&mut datagram);
            }
            // Whoever is faster than one before him arrives before him.
            let arrives = now + 1 + u64::from(self.line.dice()) * self.most / 100;
            self.carried += 1;
            self.under_way.insert((arrives, self.carried), datagram);
        }
    }

    /// One byte is another, most often one of the headers, or the end is missing.
    fn spoil(&mut self, datagram: &mut Vec<u8>) {
        let at = (self.line.dice() * 100 + self.line.dice()) as usize;
        let part = if self.line.dice() < 60 { 90.min(datagram.len()) } else { datagram.len() };
        match self.line.dice() {
            0..10 => datagram.truncate(at % datagram.len()),
            bits => datagram[at % part] ^= 1 + (bits as u8) * 2,
        }
    }

    fn come(&mut self, now: u64) -> Vec<Vec<u8>> {
        let later = self.under_way.split_off(&(now + 1, 0));
        let came: Vec<_> = std::mem::replace(&mut self.under_way, later).into_values().collect();
        self.arrived += came.len() as u64;
        came
    }

    fn next(&self) -> u64 {
        self.under_way.first_key_value().map_or(u64::MAX, |((at, _), _)| *at)
    }
}

/// Two ends, each a socket of a host, and what they have to say.
struct Stream {
    ends: [SocketHandle; 2],
    sides: [Side; 2],
}

struct World {
    places: [Place; 2],
    /// What the first place takes for the second one, and the other way round.
    relays: [UdpSocket; 2],
    /// From the first place, and from the second one.
    ways: [Way; 2],
    now: u64,
}

impl World {
    fn new(quality: &Quality) -> Self {
        let relay = |which: u8| {
            let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 1, which + 1], 0))).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let relays = [relay(0), relay(1)];
        let gso = quality.seed.is_multiple_of(2);
        let place = |which: usize| Place::new(which, relays[which].local_addr().unwrap(), quality.seed, gso);
        let places = [place(0), place(1)];
        Self { places, relays, ways: [Way::new(quality, 0), Way::new(quality, 1)], now: BEGAN }
    }

    fn stream(&mut self, family: usize, port: u16) -> Stream {
        let [one, two] = &mut self.places;
        let server = two.socket();
        two.sockets.get_mut::<tcp::Socket>(server).listen(port).unwrap();
        let client = one.socket();
        let socket = one.sockets.get_mut::<tcp::Socket>(client);
        let to = (IpAddress::from(addresses(1)[family]), port);
        socket.connect(one.iface.context(), to, 40_000 + port).unwrap();
        let sides = [Side::new(90_000, port as u8), Side::new(60_000, !port as u8)];
        Stream { ends: [client, server], sides }
    }

    /// Everybody has one turn, and time goes on to when there is more to do.
    fn turn(&mut self) {
        let Self { places, relays, ways, now } = self;
        let mut next = u64::MAX;
        let mut room = vec![0; 1 << 16];
        for from in 0..2 {
            places[from].turn(*now);
            loop {
                match relays[from].recv_from(&mut room) {
                    Ok((len, _)) => ways[from].carry(room[..len].to_vec(), *now),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
            for datagram in ways[from].come(*now) {
                // By the relay that the other place takes for this one.
                relays[1 - from].send_to(&datagram, places[1 - from].address).unwrap();
            }
            next = next.min(ways[from].next());
        }
        for place in places {
            let delay = place.iface.poll_delay(Instant::from_millis(*now as i64), &place.sockets);
            next = next.min(delay.map_or(u64::MAX, |delay| *now + delay.total_millis()));
        }
        *now = next.clamp(*now + 1, *now + 50);
    }

    /// Until all have said and heard everything.
    fn transfer(&mut self, streams: &mut [Stream]) {
        let deadline = self.now + PATIENCE;
        while !streams.iter().all(|stream| stream.sides.iter().all(Side::is_done)) {
            self.turn();
            for stream in &mut *streams {
                for ((place, end), side) in self.places.iter_mut().zip(stream.ends).zip(&mut stream.sides) {
                    side.play_container(place.sockets.get_mut::<tcp::Socket>(end));
                }
            }
            assert!(self.now < deadline, "it does not end");
        }
    }

    /// What is under way arrives, and what the kernel still holds as well.
    fn settle(&mut self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let is_settled = |world: &Self| {
            let came =
                |place: &Place, way: &Way| place.datagrams() == way.arrived && way.under_way.is_empty();
            came(&world.places[1], &world.ways[0]) && came(&world.places[0], &world.ways[1])
        };
        while !is_settled(self) {
            self.turn();
            assert!(std::time::Instant::now() < deadline, "datagrams are lost on the loopback");
        }
    }
}

/// Streams of both families; what was dropped, by name.
fn everybody_speaks(quality: &Quality) -> BTreeMap<&'static str, u64> {
    let mut world = World::new(quality);
    let mut streams: Vec<_> = (0..4).map(|n| world.stream(n % 2, 80 + n as u16)).collect();
    world.transfer(&mut streams);
    for Stream { sides: [client, server], .. } in &streams {
        assert!(client.got == server.send, "{} of {}", client.got.len(), server.send.len());
        assert!(server.got == client.send, "{} of {}", server.got.len(), client.send.len());
    }
    world.settle();
    let mut names = BTreeMap::new();
    for place in &world.places {
        assert!(place.together.iter().all(|count| *count > 0), "no super-frame: {:?}", place.together);
        let dropped = DropReason::ALL.iter().map(|reason| (reason.name(), place.dropped(*reason)));
        let dropped: Vec<_> = dropped.filter(|(_, count)| *count > 0).collect();
        let total: u64 = dropped.iter().map(|(_, count)| count).sum();
        assert_eq!(place.datagrams(), place.out + total, "each is a frame or has a name: {dropped:?}");
        dropped.into_iter().for_each(|(name, count)| *names.entry(name).or_default() += count);
    }
    names
}

#[test]
fn on_a_good_underlay() {
    for seed in 1..=2 {
        let dropped = everybody_speaks(&Quality { seed, lost: 0, twice: 0, corrupt: 0, most: 1 });
        assert_eq!(dropped, BTreeMap::new());
    }
}

#[test]
fn on_a_bad_underlay() {
    let mut all = BTreeMap::new();
    for seed in 1..=16u32 {
        let (lost, twice, corrupt, most) = (seed % 13, seed % 7, seed % 5, u64::from(seed * 13 % 90));
        let dropped = everybody_speaks(&Quality { seed: seed.into(), lost, twice, corrupt, most });
        dropped.into_iter().for_each(|(name, count)| *all.entry(name).or_insert(0) += count);
    }
    for name in ["vxlan_malformed", "vxlan_unknown_vni"] {
        assert!(all.contains_key(name), "no {name} in {all:?}");
    }
}
