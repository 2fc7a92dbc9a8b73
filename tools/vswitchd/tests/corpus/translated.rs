//! Sequences of packets from inside and from outside, time, reloads and a container that goes and comes, through a whole
//! worker that translates. Every payload has a magic of its sender in it.
//!
//! What must hold after every step: every frame has one fate; whatever comes out is a packet that makes sense and fits;
//! outside nobody sees an address of inside; no two end points share one outside; there are no more mappings, connections
//! and l4 ports than there may be; and nothing is delivered inside that was neither published nor asked for from there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the lints know `#[test]`, not what it calls")]

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use nat::conntrack::{Conntrack, Filtering, Limits, Rules, Timeouts};
use nat::fragments::Fragments;
use switch::drop::DropReason;
use switch::flow::{Body, FlowKey, Fragment, Gso, L3, Packet};
use switch::io::Wait;
use switch::io::mem::MemIo;
use switch::parse::parse;
use switch::port::PortId;
use switch::snapshot::Snapshot;
use switch::tick::Tick;
use switch::vnet::VnetHdr;
use switch::worker::Worker;
use vswitchd::policy::House;
use vswitchd::tables::Tables;

use crate::common::outside::Outside;
use crate::maker::{self, Cast, Choices, Wrap};

/// `world` is the way to everything outside, `a` and `b` are in `blue`, `c` in `red`.
const WORLD: u16 = 0;
const A: u16 = 1;
const B: u16 = 2;
const C: u16 = 3;
const PORTS: u16 = 4;
const SLOTS: u16 = 128;
const BATCHES: usize = 100;
const STEPS: usize = 150;

const LIMITS: Limits =
    Limits { connections: 48, connections_per_port: 20, mappings: 24, mappings_per_port: 10 };

const TEXT: &str = "
[uplink]
kind = \"none\"
[[network]]
name = \"out\"
subnet = \"198.18.0.0/24\"
gateway = \"198.18.0.10\"
subnet6 = \"fd00:9::/64\"
gateway6 = \"fd00:9::10\"
fdb_limit = 64
[[network]]
name = \"blue\"
subnet = \"10.1.0.0/24\"
subnet6 = \"fd00:1::/64\"
fdb_limit = 64
[[network]]
name = \"red\"
subnet = \"10.2.0.0/24\"
subnet6 = \"fd00:2::/64\"
fdb_limit = 64
mtu = 1280
[[container]]
name = \"world\"
[[container.interface]]
network = \"out\"
ip = \"198.18.0.1\"
ip6 = \"fd00:9::1\"
[[container]]
name = \"a\"
[[container.interface]]
network = \"blue\"
[[container]]
name = \"b\"
[[container.interface]]
network = \"blue\"
[[container]]
name = \"c\"
[[container.interface]]
network = \"red\"
";

const MARK: &[u8; 12] = b"<vsw-magic:>";

fn magic(port: u16) -> [u8; 16] {
    let mut magic = [0; 16];
    magic[..12].copy_from_slice(MARK);
    magic[12..].copy_from_slice(&[port as u8, !port as u8, 0, 0]);
    magic
}

fn magics(frame: &[u8]) -> impl Iterator<Item = u16> + '_ {
    frame.windows(16).filter(|bytes| bytes[..12] == *MARK).filter_map(|bytes| {
        let [port, not, 0, 0] = *bytes.last_chunk()? else { return None };
        (port == !not).then_some(u16::from(port))
    })
}

/// What a reload may change: who may come in, and what is published.
fn outside(filtering: Filtering, more: bool) -> Outside {
    let port = |port: u16| PortId(port);
    let mut published = vec![(17, 9000, 1, port(A), 53), (6, 8080, 1, port(A), 80)];
    if more {
        published.extend([(6, 7000, 4, port(B), 1000), (17, 1001, 1, port(C), 7), (132, 80, 1, port(B), 80)]);
    }
    Outside {
        limits: LIMITS,
        filtering,
        parity: more,
        timeouts: Timeouts::default(),
        published,
        more: Vec::new(),
    }
}

const FILTERINGS: [Filtering; 3] = [Filtering::Address, Filtering::Endpoint, Filtering::AddressPort];

thread_local! {
    /// By filtering, then by what is published. Their tables are emptied, or made anew, before each input.
    static LABS: Vec<Snapshot<Tables>> = FILTERINGS
        .into_iter()
        .flat_map(|filtering| [false, true].map(|more| outside(filtering, more).snapshot(TEXT)))
        .collect();
}

/// What came out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Came {
    /// Frames of containers outside.
    pub out: u64,
    /// Frames of outside in containers.
    pub inside: u64,
    /// Frames of one container in another by our addresses.
    pub hairpins: u64,
}

struct World<'l> {
    labs: &'l [Snapshot<Tables>],
    lab: usize,
    worker: Worker<MemIo, House>,
    published: Arc<ArcSwap<Snapshot<Tables>>>,
    /// Which filterings and rules were ever in force: what they let in may stay.
    ever: HashSet<usize>,
    /// Source and destination, as the containers see them, of all that they sent. ICMP queries have no l4 port there.
    sent: HashSet<FlowKey>,
    /// First fragments that were delivered.
    firsts: HashSet<(Ipv6Addr, Ipv6Addr, u32)>,
    heard: VecDeque<(u16, Vec<u8>)>,
    injected: u64,
    thorough: bool,
    came: Came,
}

/// Plays `input`.
pub fn check(input: &[u8]) -> Came {
    LABS.with(|labs| {
        let mut choices = Choices::new(input);
        let first = choices.below(labs.len());
        let mut world = World::new(labs, first);
        world.thorough = input.len().is_multiple_of(16);
        (0..PORTS).for_each(|port| world.introduce(port));
        world.run();
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

fn rules(snapshot: &Snapshot<Tables>) -> &Rules {
    &snapshot.tables.nat.as_ref().unwrap().rules
}

impl<'l> World<'l> {
    fn new(labs: &'l [Snapshot<Tables>], lab: usize) -> Self {
        let mut snapshot = labs[lab].clone();
        for network in snapshot.networks.iter().flatten() {
            network.fdb.flush_where(|_, _| true);
        }
        for gateway in snapshot.tables.router.gateways.iter().flatten() {
            gateway.neighbors.age(Tick::from_secs(u32::MAX));
        }
        let nat = snapshot.tables.nat.as_mut().unwrap();
        nat.conntrack = Arc::new(Conntrack::new(&LIMITS, nat.rules.external().len(), PORTS.into()).unwrap());
        nat.fragments = Arc::new(Fragments::new(16, PORTS.into()).unwrap());
        let published = Arc::new(ArcSwap::from_pointee(snapshot));
        let house = House::new(PORTS.into(), None);
        let mut worker = Worker::new(MemIo::new(PORTS), SLOTS, PORTS.into(), Arc::clone(&published), house);
        worker.io.now = Tick::from_secs(1000);
        Self {
            labs,
            lab,
            worker,
            published,
            ever: HashSet::from([lab]),
            sent: HashSet::new(),
            firsts: HashSet::new(),
            heard: VecDeque::new(),
            injected: 0,
            thorough: false,
            came: Came::default(),
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.below(24) {
            0..=6 => self.packet(choices, None),
            7..=11 => self.packet(choices, Some(WORLD)),
            12..=16 => self.answers(choices),
            17 => (0..choices.below(60)).for_each(|_| self.packet(choices, None)),
            18 | 19 => {
                let passes = choices.pick(&[1, 10, 999, 2100, 31_000, 61_000, 241_000, 301_000, 7_441_000]);
                self.worker.io.now = self.worker.io.now.plus_millis(passes);
                (0..PORTS).for_each(|port| self.introduce(port));
            }
            20 => self.reload(choices),
            21 => self.leaves_and_comes(choices),
            22 => {
                let now = self.worker.io.now;
                let snapshot = self.published.load_full();
                let nat = snapshot.tables.nat.as_ref().unwrap();
                nat.conntrack.age(&nat.rules, now);
                nat.fragments.age(now);
            }
            _ => {
                let refuses = choices.pick(&[None, Some(DropReason::TxFull), Some(DropReason::TxDown)]);
                self.worker.io.refuse(PortId(choices.word() % PORTS), refuses);
            }
        }
        self.run();
    }

    /// A packet, damaged or not: of a container, or of somebody outside.
    fn packet(&mut self, choices: &mut Choices<'_>, by: Option<u16>) {
        let port = by.unwrap_or_else(|| 1 + choices.word() % 3);
        let snapshot = self.published.load_full();
        let Some(sender) = snapshot.port(PortId(port)) else { return };
        let Some(gateway) = snapshot.tables.router.gateway(sender.network) else { return };
        let remote =
            [("203.0.113.9", "2001:db8::9"), ("203.0.113.77", "2001:db8::77"), ("198.18.0.1", "fd00:9::1")];
        let own = if port == WORLD { Some(both(choices.pick(&remote))) } else { addresses(&snapshot, port) };
        let mut v4 = vec![Ipv4Addr::new(198, 18, 0, 10)];
        let mut v6: Vec<Ipv6Addr> = vec!["fd00:9::10".parse().unwrap()];
        // From outside it is mostly for us; whoever is inside is sometimes called by name.
        let inside = [("10.1.0.2", "fd00:1::2"), ("10.1.0.3", "fd00:1::3"), ("10.2.0.2", "fd00:2::2")];
        if choices.rarely(if port == WORLD { 8 } else { 1 }) || port != WORLD {
            for (four, six) in
                remote.iter().chain(&inside[usize::from(port != WORLD && choices.byte() & 7 != 0) * 3..])
            {
                v4.push(four.parse().unwrap());
                v6.push(six.parse().unwrap());
            }
        }
        let magic = magic(port);
        let l4 = &[1000, 53, 80, 9000, 8080, 7, 7001, 0, 1001, 2000];
        let cast = Cast { macs: &[[2; 6]], v4: &v4, v6: &v6, own, l4, magic: &magic, longest: 1600 };
        let ip = maker::packet(choices, &cast, 0);
        let ethertype = if ip.v6 { 0x86dd } else { 0x0800 };
        let Some(mut frame) = Wrap::NONE.frame(gateway.mac.0, sender.mac.0, ethertype, &ip.bytes) else {
            return;
        };
        let mut vnet = VnetHdr::default();
        if choices.byte() & 7 == 7 && matches!(ip.proto, 6 | 17) && ip.fragment.is_none() {
            vnet.flags = 1;
            vnet.gso_type = choices.pick(&[0, if ip.v6 { 4 } else { 1 }, 5]);
            vnet.gso_size = choices.pick(&[100, 500, 1000]).into();
            vnet.csum_start = (14 + ip.l4 as u16).into();
            vnet.csum_offset = if ip.proto == 6 { 16 } else { 6 }.into();
        }
        if choices.byte() & 7 == 7 {
            maker::damage(choices, &mut frame);
        }
        self.inject(port, &vnet, &frame);
    }

    /// Whoever heard something answers, or says in an ICMP error that it does not want it.
    fn answers(&mut self, choices: &mut Choices<'_>) {
        let Some((port, heard)) = self.heard.pop_front() else { return };
        let snapshot = self.published.load_full();
        let Some(sender) = snapshot.port(PortId(port)) else { return };
        let Some(gateway) = snapshot.tables.router.gateway(sender.network) else { return };
        let v6 = heard[0] >> 4 == 6;
        let refused = (choices.byte() & 3 == 3)
            .then(|| [if v6 { 1 } else { 3 }, choices.pick(&[0, 1, 3, 4]), 0, 0, 0, 0, 5, 0]);
        let ip = maker::answer(&heard, refused, (MARK, &magic(port)));
        let ethertype = if v6 { 0x86dd } else { 0x0800 };
        if let Some(frame) = Wrap::NONE.frame(gateway.mac.0, sender.mac.0, ethertype, &ip) {
            self.inject(port, &VnetHdr::default(), &frame);
        }
    }

    /// Somebody asks for its gateway, and so is known.
    fn introduce(&mut self, port: u16) {
        let snapshot = self.published.load_full();
        let Some(sender) = snapshot.port(PortId(port)) else { return };
        let Some(gateway) = snapshot.tables.router.gateway(sender.network) else { return };
        let Some((v4, v6)) = addresses(&snapshot, port) else { return };
        let own = |v4: bool| {
            gateway
                .addresses
                .iter()
                .find(move |it| it.to_ipv4_mapped().is_some() == v4 && !it.is_unicast_link_local())
        };
        let (Some(to4), Some(to6)) = (own(true).and_then(Ipv6Addr::to_ipv4_mapped), own(false)) else {
            return;
        };
        let (mac, at) = (sender.mac.0, gateway.mac.0);
        let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac, &v4.octets(), &[0; 6], &to4.octets()].concat();
        let mut asks = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &to6.octets(), &[1, 1], &mac].concat();
        let check = maker::checksum((v6, *to6), 58, &asks);
        maker::put(&mut asks, 2, check);
        let head = [&[0x60, 0, 0, 0, 0, 32, 58, 255][..], &v6.octets(), &to6.octets()].concat();
        for (ethertype, body) in [(0x0806, arp), (0x86dd, [head, asks].concat())] {
            let frame = Wrap::NONE.frame(at, mac, ethertype, &body).unwrap();
            self.worker.io.inject(PortId(port), &VnetHdr::default(), &frame);
            self.injected += 1;
        }
    }

    fn inject(&mut self, port: u16, vnet: &VnetHdr, frame: &[u8]) {
        // Damage may have made another's magic of it.
        if magics(frame).any(|found| found != port) {
            return;
        }
        if port != WORLD
            && let Ok(packet) = parse(frame, vnet, PortId(port), 0)
        {
            self.sent.insert(plain(&packet.key));
        }
        self.injected += 1;
        self.worker.io.inject(PortId(port), vnet, frame);
    }

    /// Other rules, and connections that stay as far as these say so.
    fn reload(&mut self, choices: &mut Choices<'_>) {
        self.lab = choices.below(self.labs.len());
        self.ever.insert(self.lab);
        let old = self.published.load_full();
        let mut new = Snapshot::clone(&old);
        let to = self.labs[self.lab].tables.nat.as_ref().unwrap();
        new.tables.nat.as_mut().unwrap().rules = Arc::clone(&to.rules);
        self.publish(new);
        self.run();
        self.reconcile();
    }

    fn publish(&mut self, mut new: Snapshot<Tables>) {
        new.generation = self.published.load().generation + 1;
        self.published.store(Arc::new(new));
    }

    fn reconcile(&self) {
        let snapshot = self.published.load_full();
        let nat = snapshot.tables.nat.as_ref().unwrap();
        let keeps = |port: PortId, _: u16, address: Ipv6Addr| {
            snapshot.port(port).is_some_and(|known| known.addresses.contains(&address))
        };
        nat.conntrack.reconcile(&nat.rules, keeps, self.worker.io.now);
    }

    /// A container goes, all its own with it, and another one comes in its place.
    fn leaves_and_comes(&mut self, choices: &mut Choices<'_>) {
        let gone = PortId(1 + choices.word() % 3);
        let old = self.published.load_full();
        if old.port(gone).is_some() {
            let mut new = Snapshot::clone(&old);
            new.ports[gone.index()] = None;
            for network in new.networks.iter_mut().flatten() {
                network.members = network.members.iter().copied().filter(|it| *it != gone).collect();
            }
            self.publish(new);
            self.worker.io.let_go(gone);
            self.run();
            let nat = old.tables.nat.as_ref().unwrap();
            nat.conntrack.forget(|port| port == gone, self.worker.io.now);
            nat.fragments.forget(|port| port == gone);
            let rules = &nat.rules;
            assert!(nat.conntrack.mappings(rules, self.worker.io.now).all(|row| row.owner != gone));
            assert!(nat.conntrack.connections(rules, self.worker.io.now).all(|row| row.owner != gone));
            return;
        }
        let whole = &self.labs[self.lab];
        let mut new = Snapshot::clone(&old);
        new.ports[gone.index()].clone_from(&whole.ports[gone.index()]);
        for (network, full) in new.networks.iter_mut().flatten().zip(whole.networks.iter().flatten()) {
            let there = |port: &PortId| new.ports[port.index()].is_some();
            network.members = full.members.iter().copied().filter(there).collect();
        }
        self.publish(new);
        self.introduce(gone.0);
    }

    /// Until there is nothing more to do.
    fn run(&mut self) {
        let before = self.worker.counters().worker.generated.get();
        let done = (0..BATCHES).any(|_| self.worker.step(Wait::Poll).unwrap() == 0);
        assert!(done, "the work has no end");
        let counters = &self.worker.counters().worker;
        assert_eq!(counters.unaccounted(), 0, "a frame is lost without a name");
        let made = counters.generated.get() - before;
        assert!(made <= 64 + 16 * (self.injected + 32), "{made} frames of {}", self.injected);
        self.injected = 0;
        for port in 0..PORTS {
            for (vnet, frame) in self.worker.io.take(PortId(port)) {
                self.judge(port, &vnet, &frame);
            }
        }
        self.tables_are_right();
    }

    fn tables_are_right(&self) {
        let snapshot = self.published.load_full();
        let nat = snapshot.tables.nat.as_ref().unwrap();
        let now = self.worker.io.now;
        let (mut inside, mut external, mut shares) = (HashSet::new(), HashSet::new(), HashMap::new());
        for row in nat.conntrack.mappings(&nat.rules, now) {
            assert!(inside.insert((row.proto, row.inside)), "two mappings: {row:?}");
            assert!(external.insert((row.proto, row.external)), "two share an end point: {row:?}");
            *shares
                .entry((row.proto, row.owner, row.inside.end.address.to_ipv4_mapped().is_some()))
                .or_insert(0) += 1;
        }
        assert!(shares.values().all(|count| *count <= LIMITS.mappings_per_port), "{shares:?}");
        let mut share = HashMap::new();
        let mut ends = HashSet::new();
        for row in nat.conntrack.connections(&nat.rules, now) {
            *share.entry(row.owner).or_insert(0) += 1;
            assert!(
                ends.insert((row.proto, row.external, row.remote)),
                "two connections are one outside: {row:?}"
            );
        }
        assert!(share.values().all(|count| *count <= LIMITS.connections_per_port), "{share:?}");
    }

    fn judge(&mut self, to: u16, vnet: &VnetHdr, frame: &[u8]) {
        let snapshot = self.published.load_full();
        let receiver = snapshot.port(PortId(to)).unwrap_or_else(|| panic!("a frame for {to}, who left"));
        let packet = parse(frame, vnet, PortId(to), 0).unwrap_or_else(|reason| {
            panic!("{reason:?}: what was delivered makes no sense: {vnet:?} {frame:02x?}")
        });
        let meta = &packet.meta;
        let size = match meta.gso {
            Gso::None => meta.frame_len - u32::from(meta.l3_off),
            Gso::Tcp { size } | Gso::Udp { size } => {
                u32::from(meta.headers_len - meta.l3_off) + u32::from(size)
            }
        };
        let mtu = snapshot.network(receiver.network).unwrap().mtu;
        assert!(size <= mtu, "{size} bytes in a network of {mtu}: {packet:?}");
        let from: Vec<u16> = magics(frame).collect();
        let (Some(from), true) = (from.first().copied(), matches!(meta.l3, L3::V4 | L3::V6)) else { return };
        let gateway = snapshot.tables.router.gateway(receiver.network).unwrap();
        if meta.src != gateway.mac || gateway.has(packet.key.src) && matches!(meta.body, Body::IcmpError(_)) {
            return; // of a neighbour, or what we say ourselves
        }
        if meta.l3 == L3::V4 {
            let header = &frame[usize::from(meta.l3_off)..usize::from(meta.l4_off)];
            assert_eq!(maker::fold(maker::sum(header)), 0xffff, "{packet:?}");
        }
        self.heard.truncate(15);
        let ours = rules(&snapshot).is_external(packet.key.src);
        if to == WORLD {
            self.came.out += u64::from(from != WORLD);
            // Through us and back, of somebody outside, is not translated.
            assert!(ours || from == WORLD, "an address of {from} outside: {packet:?}");
        } else if !ours && snapshot.port(PortId(from)).is_some_and(|it| it.network == receiver.network) {
            return; // its gateway leads to its neighbours as well
        } else {
            self.came.inside += u64::from(from == WORLD);
            self.came.hairpins += u64::from(from != WORLD);
            assert!(ours || from == WORLD, "{from} at {to} without routes: {packet:?}");
            assert!(receiver.addresses.contains(&packet.key.dst), "{packet:?}");
            assert!(self.may_enter(&packet), "nobody asked for it: {packet:?} {frame:02x?}");
            if meta.fragment == Fragment::First {
                self.firsts.insert((packet.key.src, packet.key.dst, meta.fragment_id));
            }
        }
        self.heard.push_front((to, frame[usize::from(meta.l3_off)..meta.l3_end as usize].to_vec()));
    }

    /// Whether what comes to a container was published there, or is of somebody whom it spoke to.
    fn may_enter(&self, packet: &Packet) -> bool {
        let (key, meta) = (&packet.key, &packet.meta);
        if meta.fragment == Fragment::Later {
            return self.firsts.contains(&(key.src, key.dst, meta.fragment_id));
        }
        if let Body::IcmpError(quoted) = &meta.body {
            // What it quotes that one sent, or it answered what is published.
            return self.may_answer(&plain(&quoted.key));
        }
        let key = plain(key);
        let filterings: Vec<Filtering> = self.ever.iter().map(|lab| FILTERINGS[lab / 2]).collect();
        let asked = self.sent.iter().any(|sent| {
            let same = (sent.proto, sent.src) == (key.proto, key.dst) && sent.sport == port_of(&key);
            let remote = sent.dst == key.src;
            same && filterings.iter().any(|filtering| match filtering {
                Filtering::Endpoint => true,
                Filtering::Address => remote,
                Filtering::AddressPort => remote && (is_query(key.proto) || sent.dport == key.sport),
            })
        });
        asked || self.is_published(key.proto, key.dst, key.dport)
    }

    fn may_answer(&self, sent: &FlowKey) -> bool {
        self.sent.contains(sent) || self.is_published(sent.proto, sent.src, sent.sport)
            // Of an answer that is a query's its type is another.
            || is_query(sent.proto) && self.sent.iter().any(|one| (one.proto, one.src, one.dst) == (sent.proto, sent.src, sent.dst))
    }

    fn is_published(&self, proto: u8, address: Ipv6Addr, port: u16) -> bool {
        self.ever.iter().any(|lab| {
            rules(&self.labs[*lab]).published().iter().any(|rule| {
                let first = rule.inside.end.port;
                rule.proto == proto
                    && rule.inside.end.address == address
                    && (first..first + rule.count).contains(&port)
            })
        })
    }

    /// All that waits gives up in time, and every buffer is back.
    fn end(&mut self) {
        (0..PORTS).for_each(|port| self.worker.io.refuse(PortId(port), None));
        for _ in 0..8 {
            self.worker.io.now = self.worker.io.now.plus_millis(1000);
            self.run();
        }
        let counters = &self.worker.counters().worker;
        assert_eq!(counters.held.get(), counters.released.get(), "something waits for ever");
        assert_eq!(self.worker.free_slots(), usize::from(SLOTS), "a buffer is lost");
        let snapshot = self.published.load_full();
        let nat = snapshot.tables.nat.as_ref().unwrap();
        // To look at all l4 ports takes longer than all the rest.
        if !self.thorough {
            return;
        }
        let (ports, mappings) = (nat.conntrack.l4_ports() as u64, nat.conntrack.counts().mappings);
        assert!(ports <= mappings, "{ports} l4 ports of {mappings} mappings");
        nat.conntrack.forget(|_| true, self.worker.io.now);
        assert_eq!(
            (nat.conntrack.l4_ports(), nat.conntrack.counts().mappings),
            (0, 0),
            "l4 ports are nobody's"
        );
    }
}

const fn is_query(proto: u8) -> bool {
    matches!(proto, 1 | 58)
}

/// Without zone, and of ICMP without its type.
fn plain(key: &FlowKey) -> FlowKey {
    let dport = if is_query(key.proto) { 0 } else { key.dport };
    FlowKey { zone: 0, dport, ..*key }
}

/// The l4 port that a packet is for; of ICMP its identifier.
const fn port_of(key: &FlowKey) -> u16 {
    if is_query(key.proto) { key.sport } else { key.dport }
}

fn both((v4, v6): (&str, &str)) -> (Ipv4Addr, Ipv6Addr) {
    (v4.parse().unwrap(), v6.parse().unwrap())
}

/// The addresses of a port.
fn addresses(snapshot: &Snapshot<Tables>, port: u16) -> Option<(Ipv4Addr, Ipv6Addr)> {
    let own = &snapshot.port(PortId(port))?.addresses;
    let v4 = own.iter().find_map(Ipv6Addr::to_ipv4_mapped)?;
    let v6 = own.iter().find(|it| it.to_ipv4_mapped().is_none() && !it.is_unicast_link_local())?;
    Some((v4, *v6))
}
