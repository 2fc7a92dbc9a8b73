//! `trace` against a worker: for any configuration and any frames, what a trace says is what then happens, and the trace
//! itself changes nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use proptest::prelude::*;
use router::explain::Step;
use switch::checksum::sum;
use switch::drop::DropReason;
use switch::io::Wait;
use switch::io::mem::MemIo;
use switch::mac::MacAddr;
use switch::port::{NetworkId, PortId};
use switch::snapshot::{Port, Remote as SnapshotRemote, Snapshot};
use switch::stats::Counters;
use switch::tick::Tick;
use switch::vnet::VnetHdr;
use switch::worker::Worker;
use vswitchd::api::rows::{Fate, Hop, ToldBy, TraceRow};
use vswitchd::policy::House;
use vswitchd::tables::Tables;
use vswitchd::trace::{self, Arrived, Hosts, Names, Run, line, refused, run, tell};
use vxlan::encap::Underlay;
use vxlan::settings::{Remote, Settings};
use vxlan::sockets::Sockets;
use vxlan::wire::{Reserved, Vni};

/// What a lab is like: three networks of two containers, and a prefix behind one of them.
#[derive(Debug, Clone)]
struct Shape {
    spoof: [&'static str; 3],
    icc: [bool; 3],
    mtu: [u16; 3],
    /// Who may open connections to whom.
    ways: [bool; 6],
    fdb_limit: u16,
    /// What each port says of VLANs, and each network of its gateway's.
    vlans: [&'static str; 6],
    gateways: [&'static str; 3],
}

const NETWORKS: usize = 3;
const PORTS: u16 = 6;

impl Shape {
    fn configuration(&self) -> String {
        let mut text = String::from("[uplink]\nkind = \"none\"\n");
        let mut ways = self.ways.iter();
        for n in 0..NETWORKS {
            let others = (0..NETWORKS).filter(|to| *to != n);
            let to: Vec<String> =
                others.filter(|_| *ways.next().unwrap()).map(|to| format!("\"n{to}\"")).collect();
            text += &format!(
                "[[network]]\nname = \"n{n}\"\nsubnet = \"10.{n}.0.0/24\"\nroutes_to = [{}]\nspoof = \"{}\"\n\
                 icc = {}\nmtu = {}\nfdb_limit = {}\n{}\n",
                to.join(", "),
                self.spoof[n],
                self.icc[n],
                self.mtu[n],
                self.fdb_limit,
                self.gateways[n]
            );
        }
        text += "[[route]]\nnetwork = \"n1\"\ndestination = \"10.8.0.0/16\"\nvia = [\"10.1.0.10\", \"10.1.0.11\"]\nmtu = 500\n";
        for port in 0..PORTS {
            let (network, host) = (port / 2, 10 + port % 2);
            text += &format!(
                "[[container]]\nname = \"c{port}\"\n[[container.interface]]\nnetwork = \"n{network}\"\n\
                 ip = \"10.{network}.0.{host}\"\n{}\n",
                self.vlans[usize::from(port)]
            );
        }
        text
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let spoof = prop::sample::select(vec!["claimed", "strict", "off"]);
    let vlans = prop::sample::select(vec![
        "",
        "",
        "",
        "vlan = 1",
        "trunk = [1, 2]",
        "vlan = 1\ntrunk = [2]",
        "isolated = true",
    ]);
    (
        prop::array::uniform3(spoof),
        prop::array::uniform3(prop::bool::weighted(0.8)),
        prop::array::uniform3(prop::sample::select(vec![1500u16, 600, 1400])),
        prop::array::uniform6(prop::bool::weighted(0.6)),
        prop::sample::select(vec![64u16, 8192]),
        prop::array::uniform6(vlans),
        prop::array::uniform3(prop::sample::select(vec![
            "",
            "",
            "",
            "vlan = 1",
            "transparent = true",
            "snooping = true",
        ])),
    )
        .prop_map(|(spoof, icc, mtu, ways, fdb_limit, vlans, gateways)| Shape {
            spoof,
            icc,
            mtu,
            ways,
            fdb_limit,
            vlans,
            gateways,
        })
}

/// A frame of a few addresses that exist and a few that do not.
#[derive(Debug, Clone)]
struct Sent {
    port: u16,
    src: Host,
    dst: Host,
    /// Written to the gateway, to everybody, or to the destination.
    to: u8,
    kind: u8,
    ttl: u8,
    df: bool,
    payload: usize,
    vlan: Option<u16>,
    mutation: Option<(prop::sample::Index, u8)>,
    millis: u32,
}

/// The container of a port, a gateway, or somebody else.
#[derive(Debug, Clone, Copy)]
enum Host {
    Port(u16),
    Gateway(u8),
    Other(u8),
}

impl Host {
    fn ip(self) -> Ipv4Addr {
        match self {
            Self::Port(port) => Ipv4Addr::new(10, (port % PORTS / 2) as u8, 0, 10 + (port % 2) as u8),
            Self::Gateway(n) => Ipv4Addr::new(10, n % 3, 0, 1),
            Self::Other(0) => Ipv4Addr::new(10, 8, 3, 4),
            Self::Other(1) => Ipv4Addr::new(192, 0, 2, 1),
            Self::Other(2) => Ipv4Addr::new(10, 1, 0, 255),
            Self::Other(3) => Ipv4Addr::new(127, 0, 0, 1),
            Self::Other(n) => Ipv4Addr::new(10, n % 3, 0, 99),
        }
    }

    fn mac(self) -> MacAddr {
        let [a, b, c, d] = self.ip().octets();
        MacAddr([2, 0x42, a, b, c, d])
    }
}

fn hosts() -> impl Strategy<Value = Host> {
    prop_oneof![
        8 => any::<u16>().prop_map(|port| Host::Port(port % PORTS)),
        2 => any::<u8>().prop_map(Host::Gateway),
        2 => (0u8..8).prop_map(Host::Other),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    let who = (0..PORTS, hosts(), hosts(), 0u8..8, prop::bool::weighted(0.8));
    let what = (0u8..8, prop::sample::select(vec![64u8, 64, 64, 2, 1, 0]), any::<bool>());
    let payload = prop::sample::select(vec![8usize, 8, 100, 700, 1450, 1500]);
    let mutation = prop_oneof![9 => Just(None), 1 => any::<(prop::sample::Index, u8)>().prop_map(Some)];
    let vlan = prop_oneof![8 => Just(None), 1 => (0u16..3).prop_map(Some)];
    (who, what, payload, vlan, mutation, 0u32..2_000).prop_map(
        |((port, src, dst, to, own), (kind, ttl, df), payload, vlan, mutation, millis)| Sent {
            port,
            src: if own { Host::Port(port) } else { src },
            dst,
            to,
            kind,
            ttl,
            df,
            payload,
            vlan,
            mutation,
            millis,
        },
    )
}

impl Sent {
    fn frame(&self) -> Vec<u8> {
        let gateway = Host::Gateway((self.port / 2) as u8);
        let everybody = self.kind < 2 || self.to == 7;
        let dst = match self.to {
            _ if everybody => MacAddr::BROADCAST,
            0..5 => gateway.mac(),
            _ => self.dst.mac(),
        };
        let (ethertype, payload) = if self.kind < 2 { (0x0806u16, self.arp()) } else { (0x0800, self.ip()) };
        let tag = self.vlan.map(|vid| [0x81, 0, (vid >> 8) as u8, vid as u8]);
        let mut frame = [&dst.0[..], &self.src.mac().0].concat();
        frame.extend(tag.iter().flatten());
        frame.extend(ethertype.to_be_bytes());
        frame.extend(payload);
        if let Some((place, byte)) = &self.mutation {
            let place = place.index(frame.len());
            frame[place] = *byte;
        }
        frame
    }

    /// A question, or an answer.
    fn arp(&self) -> Vec<u8> {
        let head = [0, 1, 8, 0, 6, 4, 0, self.kind + 1];
        [&head[..], &self.src.mac().0, &self.src.ip().octets(), &self.dst.mac().0, &self.dst.ip().octets()]
            .concat()
    }

    fn ip(&self) -> Vec<u8> {
        let port = [0, 80 + self.ttl % 2];
        let (proto, l4) = match self.kind {
            2..5 => (17u8, {
                let len = (8 + self.payload) as u16;
                [&port[..], &port, &len.to_be_bytes(), &[0, 0], &vec![0x55; self.payload]].concat()
            }),
            5 => (6, {
                let head = [0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 0x10, 0, 0, 0, 0, 0, 2, 4, 5, 0xb4];
                [&port[..], &port, &head].concat()
            }),
            6 => (1, {
                let mut echo = [&[8, 0, 0, 0, 0, 7, 0, 1][..], &vec![0x55; self.payload & !1]].concat();
                let check = !sum(&echo);
                echo[2..4].copy_from_slice(&check.to_be_bytes());
                echo
            }),
            _ => (99, vec![0x55; self.payload]),
        };
        let len = (20 + l4.len()) as u16;
        let flags = if self.df { 0x40 } else { 0 };
        let mut head =
            [&[0x45, 0], &len.to_be_bytes()[..], &[0, 7, flags, 0, self.ttl, proto, 0, 0]].concat();
        head.extend(self.src.ip().octets());
        head.extend(self.dst.ip().octets());
        let check = !sum(&head);
        head[10..12].copy_from_slice(&check.to_be_bytes());
        [head, l4].concat()
    }
}

/// A frame that came out of a port.
type Sending = (PortId, VnetHdr, Vec<u8>);

struct Lab {
    worker: Worker<MemIo, House>,
    snapshot: Arc<ArcSwap<Snapshot<Tables>>>,
    overlay: Arc<Settings>,
}

impl Lab {
    fn new(shape: &Shape) -> Self {
        Self::of(&shape.configuration())
    }

    fn of(text: &str) -> Self {
        let snapshot = Arc::new(ArcSwap::from_pointee(common::all_up(text)));
        let house = House::new(usize::from(PORTS), None);
        let io = MemIo::new(PORTS);
        let mut worker = Worker::new(io, 128, usize::from(PORTS), Arc::clone(&snapshot), house);
        worker.io.now = Tick::from_secs(1000);
        Self { worker, snapshot, overlay: Arc::default() }
    }

    fn trace(&self, port: u16, frame: &[u8]) -> Run {
        let snapshot = self.snapshot.load();
        run(&snapshot, &self.overlay, PortId(port), &VnetHdr::default(), frame, self.worker.io.now)
            .unwrap()
            .unwrap()
    }

    /// Everything that a trace must leave as it is: counters, FDBs with their ages and counters, neighbours.
    fn state(&self) -> String {
        let snapshot = self.snapshot.load();
        let now = self.worker.io.now;
        let mut text = counters(self.worker.counters());
        for n in 0..NETWORKS {
            let network = snapshot.network(NetworkId(n as u16)).unwrap();
            let mut entries: Vec<_> = network.fdb.entries(now).map(|entry| format!("{entry:?}")).collect();
            let gateway = snapshot.tables.router.gateway(NetworkId(n as u16)).unwrap();
            entries.extend(gateway.neighbors.iter(now).map(|neighbor| format!("{neighbor:?}")));
            let groups = network.groups.iter().flat_map(|groups| groups.entries(now));
            entries.extend(groups.map(|entry| format!("{entry:?}")));
            entries.sort();
            text += &format!("{entries:?} {:?}\n", network.fdb.stats());
        }
        text
    }

    /// What the worker does with a frame: what it drops it for, and what comes out.
    fn happens(&mut self, port: u16, frame: &[u8]) -> (Vec<DropReason>, Vec<Sending>) {
        let before = drops(self.worker.counters());
        self.worker.io.inject(PortId(port), &VnetHdr::default(), frame);
        self.worker.step(Wait::Poll).unwrap();
        let after = drops(self.worker.counters());
        let reasons = DropReason::ALL.iter().copied().filter(|reason| {
            let index = *reason as usize;
            after[index] > before[index]
        });
        let reasons = reasons.collect();
        let out = (0..PORTS).flat_map(|port| {
            let port = PortId(port);
            self.worker
                .io
                .take(port)
                .into_iter()
                .map(move |(vnet, bytes)| (port, vnet, bytes))
                .collect::<Vec<_>>()
        });
        (reasons, out.collect())
    }

    /// Lets what waits go on or be given up, so that every frame is judged alone.
    fn settle(&mut self, millis: u32) {
        self.worker.io.now = self.worker.io.now.plus_millis(u64::from(millis));
        for _ in 0..5 {
            while self.worker.step(Wait::Poll).unwrap() > 0 {}
            self.worker.io.now = self.worker.io.now.plus_millis(1_000);
        }
        // What is due by now is said now, and not beside the next frame.
        while self.worker.step(Wait::Poll).unwrap() > 0 {}
        (0..PORTS).for_each(|port| _ = self.worker.io.discard(PortId(port)));
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// To whom a group goes, and why.
#[test]
fn a_group_is_told_with_who_listens() {
    let text = "[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\nsnooping = true\n".to_owned();
    let text = ["a", "b", "c"].iter().fold(text, |text, name| {
        text + &format!("[[container]]\nname = \"{name}\"\n[[container.interface]]\nnetwork = \"blue\"\n")
    });
    let mut lab = Lab::of(&text);
    let said = |lab: &Lab, hex: &str| {
        let frame = bytes(hex);
        let row = tell(&lab.trace(0, &frame), &frame, &lab.snapshot.load(), &names());
        let lines = row.steps.iter().filter(|step| step.hop.to_string() == "decide");
        lines.flat_map(|step| step.lines.clone()).next_back().unwrap()
    };
    // From 10.1.0.2 to 239.1.1.1, to 224.0.0.251, and a report of the former.
    let data = "01005e01010102420a01000208004500001c0000000001110000\
                0a010002ef0101010001000200080000";
    let link = data.replace("ef010101", "e00000fb");
    let report = "01005e01010102420a01000208004500001c000000000102bfdb\
                  0a010002ef0101011600f9fcef010101";
    assert_eq!(
        said(&lab, data),
        "239.1.1.1 is a group, and nobody has answered yet who listens: to all others"
    );
    assert_eq!(said(&lab, &link), "224.0.0.251 is of the link: to all others");
    assert_eq!(
        said(&lab, report),
        "says who listens to which group: to multicast routers, of which there is none"
    );
    lab.settle(0);
    lab.settle(20_000);
    let snapshot = lab.snapshot.load_full();
    snapshot.network(NetworkId(0)).unwrap().groups.as_ref().unwrap().age(lab.worker.io.now);
    let who = "239.1.1.1 is a group: to those who listen and to multicast routers";
    assert_eq!(said(&lab, data), format!("{who}, of which there is none"));
    let mut from_b = bytes(report);
    from_b[11] = 3;
    from_b[29] = 3;
    from_b[25] -= 1; // of the header's checksum
    assert_eq!(lab.happens(1, &from_b).0, []);
    assert_eq!(said(&lab, data), format!("{who}: c1 eth0 (port 1)"));
}

fn drops(counters: &Counters) -> Vec<u64> {
    counters.worker.drops.iter().map(switch::stats::Counter::get).collect()
}

fn counters(counters: &Counters) -> String {
    let ports: Vec<_> = (0..PORTS).map(|port| counters.sample(PortId(port))).collect();
    format!("{:?} {ports:?}\n", counters.worker)
}

fn names() -> Names {
    Names {
        ports: (0..PORTS).map(|port| Some((format!("c{port}"), "eth0".into()))).collect(),
        networks: (0..NETWORKS).map(|n| format!("n{n}")).collect(),
        ..Names::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_trace_says_what_then_happens_and_changes_nothing(
        shape in shapes(),
        frames in prop::collection::vec(sent(), 1..40),
    ) {
        let mut lab = Lab::new(&shape);
        lab.settle(0);
        for sent in frames {
            let frame = sent.frame();
            let before = lab.state();
            let traced = lab.trace(sent.port, &frame);
            prop_assert_eq!(lab.state(), before, "the trace changed something");
            let snapshot = lab.snapshot.load_full();
            let row = tell(&traced, &frame, &snapshot, &names());
            let (reasons, out) = lab.happens(sent.port, &frame);
            prop_assert_eq!(traced.drop.into_iter().collect::<Vec<_>>(), reasons, "{:#?}", row);
            prop_assert_eq!(&traced.out, &out, "{:#?}", row);
            prop_assert_eq!(row.verdict == Fate::Drop, row.reason.is_some());
            let printed: usize = row.out.iter().map(|out| out.ports.len()).sum();
            prop_assert_eq!(printed, out.len());
            if let Ok(packet) = &traced.packet {
                prop_assert_eq!(&row.packet.text, &line(&frame, Ok(packet)));
            }
            lab.settle(sent.millis);
        }
    }
}

/// Lines of one hop.
fn lines(shape: &Shape, learned: &[Sent], sent: &Sent) -> (Fate, Vec<String>) {
    let mut lab = Lab::new(shape);
    for sent in learned {
        lab.happens(sent.port, &sent.frame());
        lab.settle(0);
    }
    let frame = sent.frame();
    let row = tell(&lab.trace(sent.port, &frame), &frame, &lab.snapshot.load(), &names());
    let lines =
        row.steps.iter().flat_map(|step| step.lines.iter().map(|line| format!("{} {line}", step.hop)));
    (row.verdict, lines.collect())
}

fn plain(port: u16, dst: Host, kind: u8) -> Sent {
    Sent {
        port,
        src: Host::Port(port),
        dst,
        to: 0,
        kind,
        ttl: 64,
        df: true,
        payload: 8,
        vlan: None,
        mutation: None,
        millis: 0,
    }
}

const OPEN: Shape = Shape {
    spoof: ["claimed"; 3],
    icc: [true; 3],
    mtu: [1500, 1400, 1500],
    ways: [true, false, false, false, false, false],
    fdb_limit: 8192,
    vlans: [""; 6],
    gateways: [""; 3],
};

#[test]
fn every_step_has_its_reason() {
    let asks = plain(2, Host::Gateway(1), 0);
    let (verdict, said) = lines(&OPEN, &[asks], &plain(0, Host::Port(2), 5));
    assert_eq!(verdict, Fate::Forward);
    assert_eq!(
        said[1..],
        [
            "admit no larger than the MTU of n0, 1500; its addresses are not another's (spoof = \"claimed\")",
            "learn 02:42:0a:00:00:0a is new and would be learned here",
            "decide its destination MAC is the gateway's: to be routed",
            "decide its source was given to the sender",
            "decide route 10.1.0.0/24: network n1",
            "decide TTL or hop limit 64 is enough",
            "decide next hop 10.1.0.10 is at 02:42:0a:01:00:0a",
            "decide 02:42:0a:01:00:0a is behind c2 eth0 (port 2)",
            "decide 44 bytes fit the MTU 1400",
            "decide to c2 eth0 (port 2)",
            "track what answers it would be let in",
            "apply TTL 64 -> 63",
            "apply MACs 02:42:0a:01:00:01 > 02:42:0a:01:00:0a",
            "apply MSS 1460 -> 1360",
        ]
    );
    let cut = Sent { df: false, payload: 1450, ..plain(0, Host::Port(2), 2) };
    let (verdict, said) = lines(&OPEN, &[plain(2, Host::Gateway(1), 0)], &cut);
    assert_eq!(verdict, Fate::Forward);
    for words in [
        "decide 1478 bytes do not fit the MTU 1400",
        "decide to c2 eth0 (port 2), in fragments of 1400 bytes",
        "track what answers it would be let in",
        "apply TTL 64 -> 63",
    ] {
        assert!(said.iter().any(|line| line == words), "no {words:?} in {said:#?}");
    }
    for (sent, fate, words) in [
        (plain(0, Host::Port(2), 2), Fate::Held, "decide waits; 10.1.0.10 is asked for on network n1"),
        (
            plain(0, Host::Port(4), 2),
            Fate::Drop,
            "decide route 10.2.0.0/24: a network that this one has no route to",
        ),
        (plain(2, Host::Port(0), 2), Fate::Drop, "decide it answers nothing that was opened from there"),
        (plain(0, Host::Gateway(0), 6), Fate::Local, "decide the gateway replies"),
        (
            plain(0, Host::Gateway(0), 0),
            Fate::Local,
            "decide the gateway learns from it, and answers what it is asked",
        ),
        (Sent { ttl: 1, ..plain(0, Host::Port(2), 2) }, Fate::Drop, "decide the gateway says: time exceeded"),
        (
            Sent { src: Host::Port(4), ..plain(0, Host::Port(2), 2) },
            Fate::Drop,
            "decide no route leads back to its source",
        ),
        (
            Sent { src: Host::Port(1), ..plain(0, Host::Port(2), 2) },
            Fate::Drop,
            "admit 02:42:0a:00:00:0b was given to c1 eth0 (port 1) (spoof = \"claimed\")",
        ),
        (
            Sent { to: 6, ..plain(0, Host::Port(1), 2) },
            Fate::Flood,
            "decide 02:42:0a:00:00:0b is not in the FDB: to all others",
        ),
        (
            Sent { to: 6, vlan: Some(2), ..plain(0, Host::Gateway(0), 2) },
            Fate::Flood,
            "decide in VLAN 2, where no gateway is: for the bridge",
        ),
        (
            Sent { dst: Host::Other(2), ..plain(0, Host::Port(2), 2) },
            Fate::Drop,
            "decide route 10.1.0.255/32: all hosts of a subnet at once: never routed",
        ),
    ] {
        let (verdict, said) = lines(&OPEN, &[], &sent);
        assert_eq!(verdict, fate, "{said:#?}");
        assert!(said.iter().any(|line| line == words), "no {words:?} in {said:#?}");
    }
}

#[test]
fn a_later_fragment_waits_for_its_first() {
    let mut lab = Lab::new(&OPEN);
    let mut frame = plain(2, Host::Port(0), 2).frame();
    frame[20..22].copy_from_slice(&[0, 2]);
    let traced = lab.trace(2, &frame);
    let row = tell(&traced, &frame, &lab.snapshot.load(), &names());
    assert_eq!((row.verdict, traced.drop), (Fate::Held, None), "{row:#?}");
    assert_eq!(lab.happens(2, &frame), (Vec::new(), Vec::new()));
    let said = row.steps.iter().flat_map(|step| &step.lines).last();
    let waits = "waits for the first fragment of its packet, which says whose it is";
    assert_eq!(said.map(String::as_str), Some(waits), "{row:#?}");
}

/// Network n0 with two other hosts: port 20 is 198.18.1.2, which has a MAC that was told, and port 21 is 198.18.1.3, to
/// which a path is narrow and which gets nothing that is for all.
fn with_hosts() -> (Lab, Names) {
    let mut lab = Lab::new(&OPEN);
    let mut snapshot = (*lab.snapshot.load_full()).clone();
    let mut ports: Vec<_> = snapshot.ports.to_vec();
    ports.resize(22, None);
    let vni = Vni::new(100).unwrap();
    let mut hosts = Hosts { local: Some("198.18.1.1:4789".parse().unwrap()), ..Hosts::default() };
    let mut remotes = Vec::new();
    let mut members = snapshot.networks[0].as_ref().unwrap().members.to_vec();
    for (port, last, path, floods, told) in
        [(20, 2, 1550, true, ToldBy::Peer), (21, 3, 550, false, ToldBy::Static)]
    {
        let remote = SnapshotRemote { learns: true, floods, mtu: (port == 21).then_some(500) };
        let of = Port::new(NetworkId(0), MacAddr::ZERO, Box::default());
        ports[port] = Some(Port { remote: Some(remote), ..of });
        let vtep = IpAddr::from([198, 18, 1, last]);
        let underlay = Underlay::new(path, false).unwrap();
        let address = SocketAddr::new(vtep, 4789);
        remotes.push((PortId(port as u16), Remote { address, vni, underlay, mtu: 1500 }));
        let mtu = path - 50;
        hosts.by_port.insert(PortId(port as u16), trace::Host { vtep, vni: 100, told, mtu });
        members.push(PortId(port as u16));
    }
    snapshot.ports = ports.into_boxed_slice();
    let network = snapshot.networks[0].as_mut().unwrap();
    network.members = members.into_boxed_slice();
    for (mac, port) in [(TOLD, 20), (FAR, 21)] {
        network.fdb.add_static(0, mac, PortId(port), Tick::from_secs(1000)).unwrap();
    }
    network.fdb.learn(0, LEARNED, PortId(20), Tick::from_secs(1000));
    hosts.macs.extend([((NetworkId(0), TOLD), ToldBy::Cluster), ((NetworkId(0), FAR), ToldBy::Static)]);
    let sockets = Sockets::open(SocketAddr::from(([127, 0, 0, 1], 0)), 1, false).unwrap();
    let networks = [(vni, 1500)];
    let settings = Settings::new(Box::new([Arc::new(sockets)]), Reserved::Accept, networks, remotes);
    lab.overlay = Arc::new(settings.unwrap());
    lab.snapshot.store(Arc::new(snapshot));
    let names = Names { hosts, ..names() };
    (lab, names)
}

const TOLD: MacAddr = MacAddr([2, 0, 0, 0, 2, 1]);
const LEARNED: MacAddr = MacAddr([2, 0, 0, 0, 2, 2]);
const FAR: MacAddr = MacAddr([2, 0, 0, 0, 3, 1]);

/// A bridged frame from port 0's container to a MAC.
fn to_mac(mac: MacAddr, payload: usize) -> Vec<u8> {
    let mut frame = Sent { payload, ..plain(0, Host::Port(1), 2) }.frame();
    frame[..6].copy_from_slice(&mac.0);
    frame
}

fn said_of(row: &TraceRow) -> Vec<String> {
    let lines = row.steps.iter().flat_map(|step| step.lines.iter().map(move |it| (step.hop, it)));
    lines.map(|(hop, line)| format!("{hop} {line}")).collect()
}

#[test]
fn other_hosts_are_told_with_who_says_so() {
    let (lab, names) = with_hosts();
    let traced = |port: u16, frame: &[u8]| tell(&lab.trace(port, frame), frame, &lab.snapshot.load(), &names);
    let row = traced(0, &to_mac(TOLD, 100));
    assert_eq!(row.verdict, Fate::Forward, "{row:#?}");
    let said = said_of(&row);
    for words in [
        "decide 02:00:00:00:02:01 is behind host 198.18.1.2 (port 20): the cluster says so",
        "tx VXLAN of VNI 100, 198.18.1.1 > 198.18.1.2:4789: one packet of 178 bytes",
    ] {
        assert!(said.iter().any(|line| line == words), "no {words:?} in {said:#?}");
    }
    let there = &row.out[0].ports[0];
    assert_eq!((there.container.as_str(), there.iface.as_str()), ("-vtep", "198.18.1.2"));
    let tunnel = there.tunnel.as_ref().unwrap();
    assert_eq!((tunnel.vni, tunnel.told, tunnel.datagrams, tunnel.length), (100, Some(ToldBy::Peer), 1, 178));
    let said = said_of(&traced(0, &to_mac(LEARNED, 100)));
    let learned = "decide 02:00:00:00:02:02 is behind host 198.18.1.2 (port 20): learned from there";
    assert!(said.iter().any(|line| line == learned), "{said:#?}");
    // For everybody: to whom, and to whom not.
    let row = traced(0, &to_mac(MacAddr::BROADCAST, 100));
    assert_eq!(row.verdict, Fate::Flood);
    let said = said_of(&row);
    let others = "decide on other hosts to 198.18.1.2; 1 that `[[vxlan.static]]` names or the group has get none by themselves";
    assert!(said.iter().any(|line| line == others), "{said:#?}");
    // Too long for the way: whoever sends it is told, and what is said is not taken for the packet.
    let row = traced(0, &to_mac(FAR, 700));
    assert_eq!((row.verdict, row.reason.as_deref()), (Fate::Drop, Some("too_big")), "{row:#?}");
    let narrow = "tx the way to 198.18.1.3 takes IP packets of 500 bytes";
    assert!(said_of(&row).iter().any(|line| line == narrow), "{row:#?}");
    assert!(row.out.iter().all(|out| out.made), "{row:#?}");
}

#[test]
fn what_another_host_sends_is_told_with_what_is_not_believed() {
    let (lab, names) = with_hosts();
    let traced = |frame: &[u8]| tell(&lab.trace(20, frame), frame, &lab.snapshot.load(), &names);
    let from = |src: MacAddr, dst: MacAddr| {
        let mut frame = Sent { src: Host::Other(9), ..plain(0, Host::Port(0), 2) }.frame();
        frame[..6].copy_from_slice(&dst.0);
        frame[6..12].copy_from_slice(&src.0);
        frame
    };
    let row = traced(&from(TOLD, Host::Port(0).mac()));
    assert_eq!(row.from.tunnel.as_ref().map(|it| (it.vni, it.told)), Some((100, Some(ToldBy::Peer))));
    let said = said_of(&row);
    assert_eq!(
        said[..2],
        [
            "rx VXLAN of VNI 100, 198.18.1.2 > 198.18.1.1:4789: one packet of 86 bytes",
            "rx 198.18.1.2 is on n0: `peers` names it"
        ]
    );
    // A container's MAC from outside; the gateway's; from one host to another, and for all.
    for (src, dst, reason, words) in [
        (
            Host::Port(0).mac(),
            Host::Port(1).mac(),
            Some("spoofed_mac"),
            "admit 02:42:0a:00:00:0a was given to c0 eth0 (port 0) (spoof = \"claimed\")",
        ),
        (
            Host::Gateway(0).mac(),
            Host::Port(1).mac(),
            None,
            "learn 02:42:0a:00:00:01 is the gateway's, which is on every host: not learned",
        ),
        (
            LEARNED,
            FAR,
            Some("split_horizon"),
            "decide 02:00:00:00:03:01 is behind host 198.18.1.3 (port 21): `[[vxlan.static]]` says so",
        ),
        (
            LEARNED,
            MacAddr::BROADCAST,
            None,
            "decide to no other host: who sent it has sent it there as well (split horizon)",
        ),
    ] {
        let row = traced(&from(src, dst));
        assert_eq!(row.reason.as_deref(), reason, "{row:#?}");
        let said = said_of(&row);
        assert!(said.iter().any(|line| line == words), "no {words:?} in {said:#?}");
    }
    // Whoever is heard here is not learned there.
    let roams = MacAddr([2, 0, 0, 0, 9, 9]);
    let here = lab.snapshot.load();
    here.network(NetworkId(0)).unwrap().fdb.learn(0, roams, PortId(1), Tick::from_secs(1000));
    let said = said_of(&traced(&from(roams, Host::Port(0).mac())));
    let stays = "learn 02:00:00:00:09:09 stays at c1 eth0 (port 1): whoever is heard here is not learned from another host";
    assert!(said.iter().any(|line| line == stays), "{said:#?}");
    // Of datagrams that no port sent there is a row all the same.
    let arrived = Arrived { vtep: IpAddr::from([198, 18, 1, 9]), vni: 100 };
    let frame = from(TOLD, Host::Port(0).mac());
    let row = refused(&arrived, PortId::NOBODY, DropReason::VxlanUnknownVtep, &frame, &names);
    assert_eq!((row.from.port, row.reason.as_deref()), (None, Some("vxlan_unknown_vtep")));
    let known = "rx known on VNI 100: 198.18.1.2, 198.18.1.3";
    assert_eq!(said_of(&row).last().map(String::as_str), Some(known));
}

#[test]
fn no_port_no_trace_and_any_length_is_taken() {
    let lab = Lab::new(&OPEN);
    let snapshot = lab.snapshot.load();
    let none = run(&snapshot, &Arc::default(), PortId(99), &VnetHdr::default(), &[], Tick::from_secs(1));
    assert!(none.unwrap().is_none());
    for (length, reason) in [
        (0, DropReason::TruncatedFrame),
        (13, DropReason::TruncatedFrame),
        (65_536, DropReason::ExceedsMtu),
        (200_000, DropReason::OversizedRead),
    ] {
        let mut frame = vec![0; length];
        if let Some(addresses) = frame.get_mut(..14) {
            addresses[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
        }
        let traced = lab.trace(0, &frame);
        assert_eq!(traced.drop, Some(reason), "{length} bytes");
        assert_eq!(tell(&traced, &frame, &snapshot, &names()).verdict, Fate::Drop);
    }
}

#[test]
fn the_way_out_is_as_far_as_it_goes() {
    let text = OPEN.configuration().replace("\"none\"", "\"sockets\"");
    let denied = "[[container]]\nname = \"c1\"\negress = [\"deny all\"]\n";
    let lab = Lab::of(&text.replace("[[container]]\nname = \"c1\"\n", denied));
    let trace = |port, to, names: &Names| {
        let frame = Sent { dst: to, ..plain(port, Host::Gateway(0), 2) }.frame();
        let run = lab.trace(port, &frame);
        let row = tell(&run, &frame, &lab.snapshot.load(), names);
        let decided =
            row.steps.iter().filter(|step| step.hop == Hop::Decide).flat_map(|step| step.lines.clone());
        (run.steps, row.clone(), decided.collect::<Vec<_>>())
    };
    for (port, verdict, reason) in [(0, Fate::Uplink, None), (1, Fate::Drop, Some("egress_denied"))] {
        let (steps, row, said) = trace(port, Host::Other(1), &names());
        assert_eq!((row.verdict, row.reason.as_deref()), (verdict, reason), "{row:#?}");
        // Who is denied is told by ICMP; a socket says nothing here.
        assert_eq!(row.out.len(), usize::from(reason.is_some()));
        assert_eq!(steps.last() == Some(&Step::Egress), reason.is_some(), "{steps:?}");
        let denied = said.iter().any(|line| line == "an `egress` rule of the container denies it");
        assert_eq!(denied, reason.is_some(), "{said:?}");
    }
    // A trace knows no clients of published l4 ports, and says so where there may be some.
    let unless = "unless it answers a client of a published l4 port: those are not looked at";
    let published = Names { published: [PortId(1)].into(), ..names() };
    for (to, reason) in [(Host::Other(1), "egress_denied"), (Host::Gateway(0), "no_service")] {
        let (_, row, said) = trace(1, to, &published);
        assert_eq!(row.reason.as_deref(), Some(reason));
        assert_eq!(said.last().map(String::as_str), Some(unless), "{said:?}");
        assert!(trace(1, to, &names()).2.iter().all(|line| line != unless));
    }
    let (.., said) = trace(0, Host::Other(1), &published);
    assert!(said.iter().all(|line| line != unless), "{said:?}");
}
