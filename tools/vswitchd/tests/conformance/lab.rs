//! One lab for all requirements: the daemon's own way of a packet between containers and what is outside.
//!
//! `a` and `b` are in `blue`, `c` is in `red`, which is narrower, `world` is the way to everything outside. What the
//! gateways have to know of them they know. Of every IP packet that comes out the checksums are added up anew.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use switch::drop::DropReason;
use switch::io::Wait;
use switch::io::mem::MemIo;
use switch::port::PortId;
use switch::snapshot::Snapshot;
use switch::tick::Tick;
use switch::vnet::VnetHdr;
use switch::worker::Worker;
use vswitchd::policy::House;
use vswitchd::tables::Tables;

pub use crate::common::outside::TEXT;

use crate::common::outside::Outside;
use crate::packet::{self, Ip, addr};

/// Ports.
pub const WORLD: u16 = 0;
pub const A: u16 = 1;
pub const B: u16 = 2;
pub const C: u16 = 3;
const PORTS: u16 = 4;

/// Addresses: `a`'s and so on, those of the gateways, ours outside, and two hosts outside.
pub const IP_A: &str = "10.1.0.2";
pub const IP_B: &str = "10.1.0.3";
pub const IP_C: &str = "10.2.0.2";
pub const IP6_A: &str = "fd00:1::2";
pub const IP6_C: &str = "fd00:2::2";
pub const BLUE: &str = "10.1.0.1";
pub const BLUE6: &str = "fd00:1::1";
pub const US: &str = "198.18.0.10";
pub const US6: &str = "2001:db8:0:18::10";
pub const REMOTE: &str = "203.0.113.9";
pub const OTHER: &str = "203.0.113.77";
pub const REMOTE6: &str = "2001:db8:9::9";

const MTU_RED: u16 = 1280;

/// An IP packet that came out of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub port: u16,
    pub ip: Ip,
    /// The whole frame.
    pub frame: Vec<u8>,
}

pub struct Lab {
    worker: Worker<MemIo, House>,
    snapshot: Arc<ArcSwap<Snapshot<Tables>>>,
    began: Tick,
}

impl Lab {
    pub fn new() -> Self {
        Self::of(&Outside::default())
    }

    pub fn of(outside: &Outside) -> Self {
        Self::with(outside, TEXT)
    }

    pub fn with(outside: &Outside, text: &str) -> Self {
        let mut lab = Self::on(outside.snapshot(text));
        lab.all_speak();
        lab
    }

    /// With these tables; nobody has spoken yet.
    pub fn on(snapshot: Snapshot<Tables>) -> Self {
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let ports = usize::from(PORTS);
        let house = House::new(ports, None);
        let mut worker = Worker::new(MemIo::new(PORTS), 512, ports, Arc::clone(&snapshot), house);
        let began = Tick::from_secs(10_000);
        worker.io.now = began;
        Self { worker, snapshot, began }
    }

    /// Everybody asks for the gateway, which knows where they are by that.
    fn all_speak(&mut self) {
        for port in 0..PORTS {
            self.speaks(port);
        }
    }

    pub fn speaks(&mut self, port: u16) {
        let (own, gateway) = self.ends(port);
        for own in own {
            let Some(gateway) = gateway.iter().find(|gateway| gateway.is_ipv4() == own.is_ipv4()) else {
                continue;
            };
            let frame = packet::asks(self.mac(port), own, *gateway);
            self.frame(port, &VnetHdr::default(), &frame);
        }
    }

    /// A port's addresses, and its gateway's.
    fn ends(&self, port: u16) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let snapshot = self.snapshot.load();
        let known = snapshot.port(PortId(port)).unwrap();
        let gateway = snapshot.tables.router.gateway(known.network).unwrap();
        let plain = |addresses: &[std::net::Ipv6Addr]| {
            let all = addresses.iter().filter(|own| !own.is_unicast_link_local());
            all.map(std::net::Ipv6Addr::to_canonical).collect()
        };
        (plain(&known.addresses), plain(&gateway.addresses))
    }

    pub fn mac(&self, port: u16) -> [u8; 6] {
        self.snapshot.load().port(PortId(port)).unwrap().mac.0
    }

    /// The MAC of the gateway of a port's network.
    pub fn gateway_mac(&self, port: u16) -> [u8; 6] {
        let snapshot = self.snapshot.load();
        let network = snapshot.port(PortId(port)).unwrap().network;
        snapshot.tables.router.gateway(network).unwrap().mac.0
    }

    /// The container sends a packet to its gateway: the IP packets that come out.
    pub fn send(&mut self, port: u16, ip: &Ip) -> Vec<Got> {
        self.raw(port, ip.is_v4(), &ip.bytes())
    }

    /// The same with these bytes.
    pub fn raw(&mut self, port: u16, v4: bool, bytes: &[u8]) -> Vec<Got> {
        let frame = packet::ethernet(self.gateway_mac(port), self.mac(port), v4, bytes);
        self.sends(port, &frame)
    }

    /// The same with this frame.
    pub fn sends(&mut self, port: u16, frame: &[u8]) -> Vec<Got> {
        packets(self.frame(port, &VnetHdr::default(), frame))
    }

    /// One packet in, and one out of `to`.
    #[track_caller]
    pub fn one(&mut self, port: u16, ip: &Ip, to: u16) -> Ip {
        let out = self.send(port, ip);
        let [Got { port, ip, .. }] = out.as_slice() else { panic!("one packet to {to}, not {out:?}") };
        assert_eq!(*port, to, "{ip:?}");
        ip.clone()
    }

    /// A packet goes in and nothing comes out; by this name.
    #[track_caller]
    pub fn none(&mut self, port: u16, ip: &Ip, reason: DropReason) {
        let before = self.dropped(reason);
        let out = self.send(port, ip);
        assert_eq!(out, [], "{ip:?}");
        assert_eq!(self.dropped(reason), before + 1, "{}: {:?}", reason.name(), self.drops());
    }

    /// All frames that come out, ARP and neighbour discovery with them.
    pub fn frame(&mut self, port: u16, vnet: &VnetHdr, frame: &[u8]) -> Vec<(u16, Vec<u8>)> {
        self.worker.io.inject(PortId(port), vnet, frame);
        self.step()
    }

    pub fn step(&mut self) -> Vec<(u16, Vec<u8>)> {
        while self.worker.step(Wait::Poll).unwrap() > 0 {}
        assert_eq!(self.worker.counters().worker.unaccounted(), 0, "every frame has a fate");
        let io = &mut self.worker.io;
        let taken = (0..PORTS)
            .flat_map(|port| io.take(PortId(port)).into_iter().map(move |(_, frame)| (port, frame)));
        taken.collect()
    }

    /// Time passes, and nobody is forgotten by the gateways for it.
    pub fn pass(&mut self, secs: u32) {
        self.wait(u64::from(secs) * 1000);
        self.all_speak();
    }

    /// Time passes: what comes out.
    pub fn wait(&mut self, millis: u64) -> Vec<(u16, Vec<u8>)> {
        self.worker.io.now = self.worker.io.now.plus_millis(millis);
        self.step()
    }

    /// Seconds since the lab began.
    pub fn age(&self) -> u32 {
        self.worker.io.now.secs() - self.began.secs()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.worker.counters().worker.drops[reason as usize].get()
    }

    /// What was dropped, by name.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        let all = DropReason::ALL.iter().map(|reason| (reason.name(), self.dropped(*reason)));
        all.filter(|(_, count)| *count > 0).collect()
    }

    pub fn tables(&self) -> Arc<Snapshot<Tables>> {
        self.snapshot.load_full()
    }

    pub fn now(&self) -> Tick {
        self.worker.io.now
    }
}

/// The IP packets among frames, without neighbour discovery; each of them is sound.
pub fn packets(frames: Vec<(u16, Vec<u8>)>) -> Vec<Got> {
    let ip = frames.into_iter().filter_map(|(port, frame)| {
        let ip = Ip::parse(&frame)?;
        Some(Got { port, ip, frame })
    });
    ip.filter(|got| !got.ip.is_neighbor_discovery()).collect()
}

/// Bytes of an IP packet that `red` takes.
pub const fn narrow() -> u16 {
    MTU_RED
}

#[test]
fn the_lab_is_as_it_says() {
    let lab = Lab::new();
    for (port, ip) in [(A, IP_A), (B, IP_B), (C, IP_C), (A, IP6_A), (C, IP6_C)] {
        assert!(lab.ends(port).0.contains(&addr(ip)), "{ip}");
    }
    for (port, ip) in [(A, BLUE), (A, BLUE6), (WORLD, US), (WORLD, US6)] {
        assert!(lab.ends(port).1.contains(&addr(ip)), "{ip}");
    }
    assert_eq!(lab.drops(), []);
}
