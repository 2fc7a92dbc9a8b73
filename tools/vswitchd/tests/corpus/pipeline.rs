//! Sequences of frames, time, reloads, ports that go and ports that refuse, through a whole worker with the daemon's own
//! policy. Every payload has a magic of its sender and its network in it, so what came out where it must not is found
//! whatever it is wrapped in.
//!
//! What must hold after every step: no magic outside the networks it may reach, nobody's address in another's mouth,
//! nothing larger than the MTU, checksums of ours right, every frame accounted for, an end to the work. And in the end
//! every buffer is free.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the lints know `#[test]`, not what it calls")]

use std::collections::{HashSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use switch::drop::DropReason;
use switch::flow::{Body, FlowKey, Fragment, Gso, L3, Packet};
use switch::io::Wait;
use switch::io::mem::MemIo;
use switch::mac::MacAddr;
use switch::parse::parse;
use switch::port::{NetworkId, PortId};
use switch::punt::{Parcel, Punt};
use switch::snapshot::{Owner, Snapshot, Spoof};
use switch::tick::Tick;
use switch::vnet::VnetHdr;
use switch::worker::Worker;
use vswitchd::config::{Context, Paths, parse_with};
use vswitchd::engine;
use vswitchd::policy::House;
use vswitchd::tables::Tables;

use crate::maker::{self, Cast, Choices, Wrap};

/// Ports, in the order of the file.
const PORTS: u16 = 10;
const SLOTS: u16 = 128;
/// Batches that one step may take.
const BATCHES: usize = 100;
/// Steps of one input.
const STEPS: usize = 200;
const BLUE: usize = 0;
const RED: usize = 1;
const LONE: usize = 4;

/// What a file says, and who may open connections to whom by it.
struct Lab {
    /// With everybody up. Its tables are emptied before each input: making them takes longer than all the rest.
    snapshot: Snapshot<Tables>,
    routes: &'static [(usize, usize)],
}

/// Networks: `blue` (routed), `red` (narrower), `green` (apart, strict), `bare` (layer 2 only), `lone` (nobody speaks to
/// anybody). Containers a and b are on blue, c and d on red, and so on; `b_on`: where b is.
fn lab(blue: &str, red: &str, b_on: &str, routes: &'static [(usize, usize)]) -> Lab {
    let mut text = format!(
        "[uplink]\nkind = \"none\"\n\
         [[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\nsubnet6 = \"fd00:1::/64\"\nfdb_limit = 64\n{blue}\n\
         [[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\nsubnet6 = \"fd00:2::/64\"\nmtu = 1280\n\
         fdb_limit = 64\nspoof = \"off\"\n{red}\n\
         [[network]]\nname = \"green\"\nsubnet = \"10.3.0.0/24\"\nsubnet6 = \"fd00:3::/64\"\nfdb_limit = 64\n\
         internal = true\nspoof = \"strict\"\nstorm = 0\n\
         [[network]]\nname = \"bare\"\nfdb_limit = 64\nmtu = 9000\n\
         [[network]]\nname = \"lone\"\nsubnet = \"10.5.0.0/24\"\nfdb_limit = 64\nicc = false\n\
         [[route]]\nnetwork = \"blue\"\ndestination = \"10.8.0.0/16\"\nvia = \"10.1.0.2\"\n"
    );
    let networks = ["blue", b_on, "red", "red", "green", "green", "bare", "bare", "lone", "lone"];
    for (name, network) in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"].iter().zip(networks) {
        text.push_str(&format!(
            "[[container]]\nname = \"{name}\"\n[[container.interface]]\nnetwork = \"{network}\"\n"
        ));
    }
    let paths = Paths { control: "/test/control.sock".into(), state: "/test/state".into() };
    let context = Context { paths, previous: None, memory: None };
    let config = parse_with("lab.toml", text.as_bytes(), &context).unwrap();
    Lab { snapshot: engine::all_up(&config).unwrap(), routes }
}

impl Lab {
    /// Nothing is known of anybody.
    fn forget(&self) {
        let snapshot = &self.snapshot;
        for network in snapshot.networks.iter().flatten() {
            network.fdb.flush_where(|_, _| true);
        }
        for gateway in snapshot.tables.router.gateways.iter().flatten() {
            gateway.neighbors.age(Tick::from_secs(u32::MAX));
        }
        if let Some(returns) = &snapshot.tables.router.returns {
            returns.age(Tick::from_secs(u32::MAX));
        }
    }
}

const TO_RED: &str = "routes_to = [\"red\"]";

thread_local! {
    static LABS: [Lab; 5] = [
        lab(TO_RED, "", "blue", &[(BLUE, RED)]),
        lab("", "", "blue", &[]),
        lab(TO_RED, "routes_to = \"all\"", "blue", &[(BLUE, RED), (RED, BLUE), (RED, LONE)]),
        lab(TO_RED, "", "red", &[(BLUE, RED)]),
        lab("routes_to = [\"red\"]\nicc = false\nspoof = \"strict\"\nmtu = 9000", "", "blue", &[(BLUE, RED)]),
    ];
}

const MARK: &[u8; 12] = b"<vsw-magic:>";

/// The magic of what a port sends in a network.
fn magic(network: usize, port: u16) -> [u8; 16] {
    let mut magic = [0; 16];
    magic[..12].copy_from_slice(MARK);
    let (network, port) = (network as u8, port as u8);
    magic[12..].copy_from_slice(&[network, port, !network, !port]);
    magic
}

/// All magics in a frame.
fn magics(frame: &[u8]) -> impl Iterator<Item = (usize, u16)> + '_ {
    frame.windows(16).filter(|bytes| bytes[0] == b'<' && bytes[..12] == *MARK).filter_map(|bytes| {
        let [network, port, not_network, not_port] = *bytes.last_chunk()?;
        (network == !not_network && port == !not_port).then_some((usize::from(network), u16::from(port)))
    })
}

struct World<'l> {
    labs: &'l [Lab; 5],
    lab: usize,
    worker: Worker<MemIo, House>,
    published: Arc<ArcSwap<Snapshot<Tables>>>,
    punt: Arc<Punt>,
    /// What the control plane was asked and has not answered.
    #[allow(clippy::vec_box, reason = "slots go round as they are")]
    asked: Vec<Box<Parcel>>,
    /// Keys of all that was sent, by network.
    sent: HashSet<(usize, FlowKey)>,
    /// Source, destination and identification of first fragments that may have been let through.
    firsts: HashSet<(Ipv6Addr, Ipv6Addr, u32)>,
    /// Packets that came from another network, and to whom: to be answered.
    heard: VecDeque<(PortId, Vec<u8>)>,
    injected: usize,
    pub came: Came,
}

/// What came out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Came {
    /// Frames in all.
    pub delivered: u64,
    /// Frames of one network in another.
    pub routed: u64,
    /// Those of them that only answers could be.
    pub answers: u64,
}

/// Plays `input`.
pub fn check(input: &[u8]) -> Came {
    LABS.with(|labs| {
        let mut world = World::new(labs);
        let mut choices = Choices::new(input);
        // Mostly everybody is known to the gateways from the start.
        if choices.byte() & 7 != 7 {
            (0..PORTS).for_each(|port| world.introduce(PortId(port)));
            world.run();
        }
        for _ in 0..STEPS {
            if choices.is_empty() {
                break;
            }
            world.step(&mut choices);
        }
        world.end();
        world.came
    })
}

impl<'l> World<'l> {
    fn new(labs: &'l [Lab; 5]) -> Self {
        labs.iter().for_each(Lab::forget);
        let published = Arc::new(ArcSwap::from_pointee(labs[0].snapshot.clone()));
        let punt = Arc::new(Punt::new(usize::from(PORTS)).unwrap());
        let house = House::new(usize::from(PORTS), None).with_services(Arc::clone(&punt));
        let io = MemIo::new(PORTS);
        let mut worker = Worker::new(io, SLOTS, usize::from(PORTS), Arc::clone(&published), house);
        worker.io.now = Tick::from_secs(1000);
        Self {
            labs,
            lab: 0,
            worker,
            published,
            punt,
            asked: Vec::new(),
            sent: HashSet::new(),
            firsts: HashSet::new(),
            heard: VecDeque::new(),
            injected: 0,
            came: Came::default(),
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.below(24) {
            0..=6 => self.frame(choices),
            7..=9 => self.speaks(choices),
            10..=13 => self.answers(choices),
            14 => (0..choices.below(40)).for_each(|_| self.frame(choices)),
            15 => self.bytes(choices),
            16 => self.introduce(PortId(choices.word() % PORTS)),
            17 | 18 => {
                let passes = choices.pick(&[1, 10, 999, 1000, 3000, 31_000, 301_000, 7_500_000]);
                self.worker.io.now = self.worker.io.now.plus_millis(passes);
            }
            19 => self.reload(choices),
            20 => self.worker.io.let_go(PortId(choices.word() % PORTS)),
            21 => {
                let refuses = choices.pick(&[None, Some(DropReason::TxFull), Some(DropReason::TxDown)]);
                self.worker.io.refuse(PortId(choices.word() % PORTS), refuses);
            }
            22 => self.asked.drain(..).for_each(|parcel| self.punt.send(parcel)),
            _ => self.asked.drain(..).for_each(|parcel| self.punt.give_back(parcel)),
        }
        self.run();
    }

    /// The addresses of a port, where it has them of both families.
    fn own(&self, port: PortId) -> Option<(Ipv4Addr, Ipv6Addr)> {
        let snapshot = self.published.load();
        let addresses = &snapshot.port(port)?.addresses;
        let v4 = addresses.iter().find_map(Ipv6Addr::to_ipv4_mapped)?;
        let v6 = addresses.iter().find(|it| it.to_ipv4_mapped().is_none() && !it.is_unicast_link_local())?;
        Some((v4, *v6))
    }

    fn network_of(&self, port: PortId) -> Option<usize> {
        Some(self.published.load().port(port)?.network.index())
    }

    /// A frame that its sender may have meant, damaged or not.
    fn frame(&mut self, choices: &mut Choices<'_>) {
        let port = PortId(choices.word() % PORTS);
        let Some(network) = self.network_of(port) else { return };
        let (macs, v4, v6) = self.addresses();
        let own = self.own(port);
        let magic = magic(network, port.0);
        let cast =
            Cast { macs: &macs, v4: &v4, v6: &v6, own, l4: maker::PORTS, magic: &magic, longest: 1800 };
        let wrap = if choices.byte() & 3 == 0 { Wrap::choose(choices) } else { Wrap::NONE };
        let own = self.published.load().port(port).map(|port| port.mac.0);
        // Mostly from oneself to one's gateway.
        let src = if choices.byte() & 7 != 0 { own.unwrap_or_default() } else { choices.pick(&macs) };
        let gateway =
            self.published.load().tables.router.gateway(NetworkId(network as u16)).map(|it| it.mac.0);
        let dst = if choices.byte() & 1 == 0 { gateway.unwrap_or([0xff; 6]) } else { choices.pick(&macs) };
        let (ethertype, payload) = match choices.below(8) {
            0 => (0x0806, [maker::arp(choices, &cast), cast.magic.to_vec()].concat()),
            1 => (0x88b5, cast.magic.to_vec()),
            _ => {
                let ip = maker::packet(choices, &cast, 0);
                (if ip.v6 { 0x86dd } else { 0x0800 }, ip.bytes)
            }
        };
        let Some(mut frame) = wrap.frame(dst, src, ethertype, &payload) else { return };
        let mut vnet = VnetHdr::default();
        if choices.byte() & 7 == 7 {
            let at = 14 + if ethertype == 0x0800 { 20 } else { 40 };
            vnet.flags = 1;
            vnet.gso_type = choices.pick(&[0, 1, 4, 5]);
            vnet.gso_size = choices.pick(&[100, 500, 1000, 48, 0xffff]).into();
            vnet.csum_start = at.into();
            vnet.csum_offset = choices.pick(&[16, 6, 0xffff]).into();
        }
        if choices.byte() & 3 == 3 {
            maker::damage(choices, &mut frame);
        }
        self.inject(port, network, &vnet, &frame);
    }

    /// A container of blue or red sends to one of the other by its gateway.
    fn speaks(&mut self, choices: &mut Choices<'_>) {
        let (port, to) = (PortId(choices.word() % 4), PortId(choices.word() % 4));
        let Some((network, own, (v4, v6))) =
            self.network_of(port).zip(self.own(port)).zip(self.own(to)).map(|((a, b), c)| (a, b, c))
        else {
            return;
        };
        let magic = magic(network, port.0);
        let cast = Cast {
            macs: &[[2; 6]],
            v4: &[v4],
            v6: &[v6],
            own: Some(own),
            l4: maker::PORTS,
            magic: &magic,
            longest: 1200,
        };
        let ip = maker::packet(choices, &cast, 0);
        self.by_gateway(port, network, if ip.v6 { 0x86dd } else { 0x0800 }, &ip.bytes);
    }

    /// A container answers what it got from another network, or says that it does not want it.
    fn answers(&mut self, choices: &mut Choices<'_>) {
        let Some((port, heard)) = self.heard.pop_front() else { return };
        let Some(network) = self.network_of(port) else { return };
        let v6 = heard[0] >> 4 == 6;
        let head = [if v6 { 1 } else { 3 }, 1, 0, 0, 0, 0, 0, 0];
        let refused = (choices.byte() & 3 == 3).then_some(head);
        let ip = maker::answer(&heard, refused, (MARK, &magic(network, port.0)));
        self.by_gateway(port, network, if v6 { 0x86dd } else { 0x0800 }, &ip);
    }

    fn by_gateway(&mut self, port: PortId, network: usize, ethertype: u16, packet: &[u8]) {
        let snapshot = self.published.load_full();
        let Some(gateway) = snapshot.tables.router.gateway(NetworkId(network as u16)) else { return };
        let Some(own) = snapshot.port(port) else { return };
        let Some(frame) = Wrap::NONE.frame(gateway.mac.0, own.mac.0, ethertype, packet) else { return };
        self.inject(port, network, &VnetHdr::default(), &frame);
    }

    /// Bytes, behind a header that lets them in.
    fn bytes(&mut self, choices: &mut Choices<'_>) {
        let port = PortId(choices.word() % PORTS);
        let Some(network) = self.network_of(port) else { return };
        let vnet = choices.take(VnetHdr::LEN);
        let vnet = zerocopy::FromBytes::read_from_bytes(vnet).unwrap_or_default();
        let len = choices.len(200);
        let frame = [choices.take(len), &magic(network, port.0)].concat();
        self.inject(port, network, &vnet, &frame);
    }

    /// A container asks for its gateway, and so is known.
    fn introduce(&mut self, port: PortId) {
        let snapshot = self.published.load_full();
        let Some(own) = snapshot.port(port) else { return };
        let Some(address) = own.addresses.iter().find_map(Ipv6Addr::to_ipv4_mapped) else { return };
        let Some(gateway) = snapshot.tables.router.gateway(own.network) else { return };
        let Some(asked) = gateway.addresses.iter().find_map(Ipv6Addr::to_ipv4_mapped) else { return };
        let (own_mac, gateway_mac) = (own.mac.0, gateway.mac.0);
        let arp =
            [&[0, 1, 8, 0, 6, 4, 0, 1][..], &own_mac, &address.octets(), &[0; 6], &asked.octets()].concat();
        let Some(frame) = Wrap::NONE.frame(gateway_mac, own_mac, 0x0806, &arp) else { return };
        self.inject(port, own.network.index(), &VnetHdr::default(), &frame);
        let (Some((_, src)), Some(dst)) =
            (self.own(port), gateway.addresses.iter().find(|it| it.segments()[0] == 0xfd00))
        else {
            return;
        };
        let mut asks = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &dst.octets(), &[1, 1], &own_mac].concat();
        let check = maker::checksum((src, *dst), 58, &asks);
        maker::put(&mut asks, 2, check);
        let head = [&[0x60, 0, 0, 0, 0, 32, 58, 255][..], &src.octets(), &dst.octets()].concat();
        self.by_gateway(port, own.network.index(), 0x86dd, &[head, asks].concat());
    }

    fn addresses(&self) -> (Vec<[u8; 6]>, Vec<Ipv4Addr>, Vec<Ipv6Addr>) {
        let snapshot = self.published.load();
        let gateways = || snapshot.tables.router.gateways.iter().flatten();
        let ports = || snapshot.ports.iter().flatten();
        let mut macs: Vec<_> = ports().map(|port| port.mac.0).chain(gateways().map(|it| it.mac.0)).collect();
        macs.extend([
            [0xff; 6],
            [0x33, 0x33, 0, 0, 0, 1],
            [2, 0, 0, 0, 0, 9],
            [1, 0x80, 0xc2, 0, 0, 0],
            [0; 6],
        ]);
        let known = ports().flat_map(|port| port.addresses.iter());
        let known: Vec<Ipv6Addr> =
            known.chain(gateways().flat_map(|it| it.addresses.iter())).copied().collect();
        let mut v4: Vec<Ipv4Addr> = known.iter().filter_map(Ipv6Addr::to_ipv4_mapped).collect();
        for text in
            ["10.1.0.99", "10.2.0.99", "10.8.0.1", "192.0.2.1", "255.255.255.255", "10.1.0.255", "127.0.0.1"]
        {
            v4.extend(text.parse::<Ipv4Addr>());
        }
        let mut v6: Vec<Ipv6Addr> = known.into_iter().filter(|it| it.to_ipv4_mapped().is_none()).collect();
        for text in ["fd00:1::99", "fd00:2::99", "2001:db8::1", "ff02::1", "::", "::1", "ff02::1:ff00:2"] {
            v6.extend(text.parse::<Ipv6Addr>());
        }
        (macs, v4, v6)
    }

    fn inject(&mut self, port: PortId, network: usize, vnet: &VnetHdr, frame: &[u8]) {
        // Damage may have made another's magic of it: such a frame says nothing.
        if magics(frame).any(|found| found != (network, port.0)) {
            return;
        }
        if let Ok(packet) = parse(frame, vnet, port, 0) {
            self.sent.insert((network, packet.key));
            let (key, meta) = (packet.key, packet.meta);
            let goes = |to: usize| to != network && self.may_route((network, to), &packet);
            if meta.fragment == Fragment::First && (BLUE..=RED).any(goes) {
                self.firsts.insert((key.src, key.dst, meta.fragment_id));
            }
        }
        self.injected += 1;
        self.worker.io.inject(port, vnet, frame);
    }

    /// Another configuration: what is of networks that stay stays, as in the daemon.
    fn reload(&mut self, choices: &mut Choices<'_>) {
        let to = choices.below(self.labs.len());
        let old = self.published.load_full();
        let mut new = self.labs[to].snapshot.clone();
        for (new, old) in new.networks.iter_mut().flatten().zip(old.networks.iter().flatten()) {
            new.fdb = Arc::clone(&old.fdb);
        }
        for (new, old) in
            new.tables.router.gateways.iter_mut().flatten().zip(old.tables.router.gateways.iter().flatten())
        {
            new.neighbors = Arc::clone(&old.neighbors);
        }
        if new.tables.router.returns.is_some() && old.tables.router.returns.is_some() {
            new.tables.router.returns.clone_from(&old.tables.router.returns);
        }
        // A port that is to be in another network leaves first.
        let moves = |port: u16| {
            let of = |snapshot: &Snapshot<Tables>| snapshot.port(PortId(port)).map(|port| port.network);
            of(&old).is_some() && of(&old) != of(&new)
        };
        let moving: Vec<u16> = (0..PORTS).filter(|port| moves(*port)).collect();
        if !moving.is_empty() {
            let mut between = Snapshot::clone(&old);
            for port in &moving {
                between.ports[usize::from(*port)] = None;
                for network in between.networks.iter_mut().flatten() {
                    network.members = network.members.iter().copied().filter(|it| it.0 != *port).collect();
                }
                self.worker.io.let_go(PortId(*port));
            }
            between.generation += 1;
            self.published.store(Arc::new(between));
            self.run();
        }
        new.generation = old.generation + 2;
        self.lab = to;
        self.published.store(Arc::new(new));
    }

    /// Until there is nothing more to do.
    fn run(&mut self) {
        let before = self.worker.counters().worker.generated.get();
        let done = (0..BATCHES).any(|_| self.worker.step(Wait::Poll).unwrap() == 0);
        assert!(done, "the work has no end");
        let counters = &self.worker.counters().worker;
        assert_eq!(counters.unaccounted(), 0, "a frame is lost without a name");
        let made = counters.generated.get() - before;
        // A packet in fragments for each that came, and for each that was let go.
        let most = 64 + 16 * (self.injected as u64 + 32);
        assert!(made <= most, "{made} frames of {}", self.injected);
        self.injected = 0;
        for port in (0..PORTS).map(PortId) {
            for (vnet, frame) in self.worker.io.take(port) {
                self.judge(port, &vnet, &frame);
            }
        }
        while let Some(parcel) = self.punt.next() {
            self.asked.push(parcel);
        }
    }

    fn judge(&mut self, to: PortId, vnet: &VnetHdr, frame: &[u8]) {
        let snapshot = self.published.load_full();
        // Whoever has left gets nothing.
        let receiver = snapshot.port(to).unwrap_or_else(|| panic!("a frame for {to:?}, who left"));
        let here = receiver.network.index();
        let network = snapshot.network(receiver.network).unwrap();
        let packet = match parse(frame, vnet, to, 0) {
            Ok(packet) => packet,
            Err(reason) => panic!("{reason:?}: what was delivered makes no sense: {vnet:?} {frame:02x?}"),
        };
        let size = match packet.meta.gso {
            Gso::None => packet.meta.frame_len - u32::from(packet.meta.l3_off),
            Gso::Tcp { size } | Gso::Udp { size } => {
                u32::from(packet.meta.headers_len - packet.meta.l3_off) + u32::from(size)
            }
        };
        assert!(size <= network.mtu, "{size} bytes in a network of {}: {packet:?}", network.mtu);
        let mut from = None;
        for (there, port) in magics(frame) {
            from = Some((there, port));
            let may = match () {
                () if there == here => network.icc || port == to.0,
                () => self.may_route((there, here), &packet),
            };
            assert!(
                may,
                "of port {port}, network {there}, at {to:?}, network {here}: {packet:?} {frame:02x?}"
            );
        }
        let gateway = snapshot.tables.router.gateway(receiver.network);
        let routed = from.is_some_and(|(there, _)| there != here);
        self.came.delivered += 1;
        self.came.routed += u64::from(routed);
        let opens = |(there, _): (usize, u16)| self.labs[self.lab].routes.contains(&(there, here));
        self.came.answers += u64::from(routed && !from.is_some_and(opens));
        if routed {
            assert_eq!(gateway.map(|it| it.mac), Some(packet.meta.src), "{packet:?}");
            assert!(!packet.meta.dst.is_group() && packet.meta.vlan.is_none(), "{packet:?}");
            header_is_right(&packet, frame);
            self.heard.truncate(15);
            self.heard.push_front((to, frame[14..packet.meta.l3_end as usize].to_vec()));
        }
        if gateway.is_some_and(|it| packet.meta.src == it.mac && it.has(packet.key.src)) {
            header_is_right(&packet, frame);
            let ip = &frame[usize::from(packet.meta.l3_off)..packet.meta.l3_end as usize];
            assert_ne!(maker::verifies(ip), Some(false), "a checksum of ours: {packet:?} {frame:02x?}");
        }
        if let Some((there, port)) = from.filter(|(_, port)| *port != to.0) {
            self.in_its_own_name(&snapshot, there, PortId(port), &packet);
        }
    }

    /// Whether what is of one network may be in the other one: it may open connections there, or answers one.
    fn may_route(&self, (from, to): (usize, usize), packet: &Packet) -> bool {
        let routes = self.labs[self.lab].routes;
        if routes.contains(&(from, to)) {
            return true;
        }
        if !routes.contains(&(to, from)) {
            return false;
        }
        let icmp = |key: &FlowKey| matches!(key.proto, 1 | 58);
        let opened = |answer: &FlowKey| {
            self.sent.iter().filter(|(network, _)| *network == to).any(|(_, key)| {
                let ports = if icmp(key) {
                    key.sport == answer.sport
                } else {
                    key.sport == answer.dport && key.dport == answer.sport
                };
                key.proto == answer.proto && key.src == answer.dst && key.dst == answer.src && ports
            })
        };
        let (key, meta) = (&packet.key, &packet.meta);
        match meta.body {
            // It has no l4 ports: it is what its first fragment was.
            _ if meta.fragment == Fragment::Later => {
                self.firsts.contains(&(key.src, key.dst, meta.fragment_id))
            }
            // What it quotes was sent by who is told of it.
            Body::IcmpError(quoted) => {
                let back = FlowKey {
                    src: quoted.key.dst,
                    dst: quoted.key.src,
                    sport: quoted.key.dport,
                    dport: quoted.key.sport,
                    ..quoted.key
                };
                let back = if icmp(&back) { FlowKey { sport: quoted.key.sport, ..back } } else { back };
                opened(&back)
            }
            _ => opened(key),
        }
    }

    /// Nobody says that it is another of its network, or the gateway.
    fn in_its_own_name(&self, snapshot: &Snapshot<Tables>, network: usize, port: PortId, packet: &Packet) {
        let Some(network) = snapshot.network(NetworkId(network as u16)) else { return };
        if network.spoof == Spoof::Off {
            return;
        }
        let is_others = |owner: Option<&Owner>| owner.is_some_and(|owner| *owner != Owner::Port(port));
        let ip = |address: Ipv6Addr| is_others(network.claims.ips.get(&address));
        let mac = |mac: MacAddr| is_others(network.claims.macs.get(&mac));
        let lies = match packet.meta.body {
            Body::Arp(arp) => ip(arp.sender_ip.to_ipv6_mapped()) || mac(arp.sender_mac),
            Body::Nd(nd) => nd.source_mac.is_some_and(mac) || nd.target_mac.is_some_and(mac),
            _ => matches!(packet.meta.l3, L3::V4 | L3::V6) && ip(packet.key.src),
        };
        assert!(!lies, "{port:?} speaks as another: {packet:?}");
    }

    /// All that waits gives up in time, and every buffer is back.
    fn end(&mut self) {
        self.worker.io.refuse(PortId(0), None);
        for _ in 0..8 {
            self.worker.io.now = self.worker.io.now.plus_millis(1000);
            self.run();
        }
        self.asked.drain(..).for_each(|parcel| self.punt.give_back(parcel));
        let counters = &self.worker.counters().worker;
        assert_eq!(counters.held.get(), counters.released.get(), "something waits for ever");
        assert_eq!(self.worker.free_slots(), usize::from(SLOTS), "a buffer is lost");
    }
}

/// The IPv4 header's checksum.
fn header_is_right(packet: &Packet, frame: &[u8]) {
    if packet.meta.l3 == L3::V4 {
        let (start, end) = (usize::from(packet.meta.l3_off), usize::from(packet.meta.l4_off));
        assert_eq!(maker::fold(maker::sum(&frame[start..end])), 0xffff, "{packet:?}");
    }
}
