//! A lab in memory: ports on networks, frames as bytes, time moved by hand.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use switch::decide::bridge;
use switch::drop::DropReason;
use switch::fdb::{Fdb, Flush};
use switch::flow::Packet;
use switch::groups::Groups;
use switch::io::Wait;
use switch::io::mem::MemIo;
use switch::mac::MacAddr;
use switch::port::{NetworkId, PortId};
use switch::snapshot::{Claims, Network, Owner, Port, Snapshot, Spoof};
use switch::tick::Tick;
use switch::verdict::Verdict;
use switch::vnet::VnetHdr;
use switch::worker::Worker;

pub type Decide = fn(&Packet, &Network) -> Verdict;

/// A worker on memory devices.
pub struct Lab {
    pub worker: Worker<MemIo, Decide>,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    ports: u16,
}

/// What a network of the lab is like.
#[derive(Clone, Copy)]
pub struct Options {
    pub mtu: u32,
    pub icc: bool,
    pub spoof: Spoof,
    pub storm: u32,
    pub fdb: usize,
    /// Memberships there is room for, where the network snoops.
    pub groups: Option<usize>,
    /// Where the gateway is.
    pub vlan: u16,
    pub transparent: bool,
    /// The port of the first network behind which the host is.
    pub host: Option<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mtu: 1500,
            icc: true,
            spoof: Spoof::Claimed,
            storm: 0,
            fdb: 8192,
            groups: None,
            vlan: 0,
            transparent: false,
            host: None,
        }
    }
}

/// The gateway's addresses in every network.
pub const GATEWAY: (MacAddr, Ipv4Addr) =
    (MacAddr([0x02, 0x42, 10, 0, 0xff, 0xfe]), Ipv4Addr::new(10, 0, 255, 254));

pub fn mac(port: u16) -> MacAddr {
    let [high, low] = port.to_be_bytes();
    MacAddr([0x02, 0x42, 10, 0, high, low])
}

pub fn ip(port: u16) -> Ipv4Addr {
    let [high, low] = port.to_be_bytes();
    Ipv4Addr::new(10, 0, high, low)
}

impl Lab {
    /// `networks[i]` ports on network `i`; ports are numbered through. Port `p` owns `mac(p + 1)` and `ip(p + 1)`.
    pub fn new(networks: &[u16], options: Options) -> Self {
        let mut ports = Vec::new();
        let mut nets = Vec::new();
        for (index, count) in networks.iter().enumerate() {
            let members: Vec<PortId> = (0..*count).map(|n| PortId(ports.len() as u16 + n)).collect();
            let host = options.host.filter(|_| index == 0).map(PortId);
            let mut claims = Claims { host, ..Claims::default() };
            claims.macs.insert(GATEWAY.0, Owner::Gateway);
            claims.ips.insert(GATEWAY.1.to_ipv6_mapped(), Owner::Gateway);
            for port in &members {
                claims.macs.insert(mac(port.0 + 1), Owner::Port(*port));
                claims.ips.insert(ip(port.0 + 1).to_ipv6_mapped(), Owner::Port(*port));
                let addresses = Box::new([ip(port.0 + 1).to_ipv6_mapped()]);
                ports.push(Some(Port::new(NetworkId(index as u16), mac(port.0 + 1), addresses)));
            }
            nets.push(Some(Network {
                zone: index as u16,
                mtu: options.mtu,
                vlan: options.vlan,
                transparent: options.transparent,
                icc: options.icc,
                spoof: options.spoof,
                storm: options.storm,
                fdb: Arc::new(Fdb::new(options.fdb).unwrap()),
                groups: options.groups.map(|most| Arc::new(Groups::new(most).unwrap())),
                members: members.into_boxed_slice(),
                claims,
                told: Arc::default(),
            }));
        }
        let count = ports.len() as u16;
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot {
            generation: 1,
            ports: ports.into_boxed_slice(),
            networks: nets.into_boxed_slice(),
            tables: (),
        }));
        let decide: Decide = |packet, network| bridge(&packet.meta, network);
        let io = MemIo::new(count);
        let mut worker = Worker::new(io, 64, usize::from(count), Arc::clone(&snapshot), decide);
        worker.io.now = Tick::from_secs(1000);
        Self { worker, snapshot, ports: count }
    }

    /// Publishes a snapshot in which only these ports are up, and forgets the stations behind the others, as the
    /// control plane does when a link goes down.
    pub fn set_up(&mut self, up: &[bool]) {
        let old = self.snapshot.load_full();
        let network = |index: usize, network: &Network| {
            let belongs = |id: &usize| up[*id] && old.ports[*id].as_ref().unwrap().network.index() == index;
            let down = (0..up.len()).filter(|id| !up[*id]);
            down.for_each(|id| _ = network.fdb.flush(Flush::Port(PortId(id as u16))));
            Network {
                fdb: Arc::clone(&network.fdb),
                groups: network.groups.clone(),
                members: (0..up.len()).filter(belongs).map(|id| PortId(id as u16)).collect(),
                claims: network.claims.clone(),
                told: Arc::default(),
                ..*network
            }
        };
        let networks = old.networks.iter().enumerate();
        self.snapshot.store(Arc::new(Snapshot {
            generation: old.generation + 1,
            ports: old.ports.clone(),
            networks: networks.map(|(index, slot)| slot.as_ref().map(|old| network(index, old))).collect(),
            tables: (),
        }));
    }

    /// Changes a port.
    pub fn change(&mut self, port: u16, change: impl Fn(&mut Port)) {
        let mut snapshot = Snapshot::clone(&self.snapshot.load());
        change(snapshot.ports[usize::from(port)].as_mut().unwrap());
        snapshot.generation += 1;
        self.snapshot.store(Arc::new(snapshot));
    }

    /// Sends one frame; what came out where.
    pub fn sent(&mut self, port: u16, header: &VnetHdr, frame: &[u8]) -> Vec<(u16, VnetHdr, Vec<u8>)> {
        self.worker.io.inject(PortId(port), header, frame);
        self.run();
        let ports = 0..self.ports;
        let taken = ports.map(|out| (out, self.worker.io.take(PortId(out))));
        taken
            .flat_map(|(out, got)| got.into_iter().map(move |(header, frame)| (out, header, frame)))
            .collect()
    }

    pub fn inject(&mut self, port: u16, frame: &[u8]) {
        self.worker.io.inject(PortId(port), &VnetHdr::default(), frame);
    }

    /// Runs until nothing is left to do, and checks that every frame has a fate.
    pub fn run(&mut self) {
        while self.worker.step(Wait::Poll).unwrap() > 0 {}
        assert_eq!(self.worker.counters().worker.unaccounted(), 0, "a frame was lost without a name");
    }

    /// Sends one frame; who got it, and whether unchanged.
    pub fn send(&mut self, port: u16, frame: &[u8]) -> Vec<u16> {
        self.inject(port, frame);
        self.run();
        let mut got = Vec::new();
        for out in 0..self.ports {
            for (_, bytes) in self.worker.io.take(PortId(out)) {
                assert_eq!(bytes, frame, "the frame was changed on its way");
                got.push(out);
            }
        }
        got
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.worker.counters().worker.drops[reason as usize].get()
    }

    /// Sends one frame that must be dropped for `reason`, by nobody received.
    #[track_caller]
    pub fn refuses(&mut self, port: u16, frame: &[u8], reason: DropReason) {
        let before = self.dropped(reason);
        let all = self.worker.counters().worker.dropped();
        assert_eq!(self.send(port, frame), [] as [u16; 0], "delivered although {}", reason.name());
        assert_eq!(self.dropped(reason) - before, 1, "not counted as {}: {:?}", reason.name(), self.drops());
        assert_eq!(self.worker.counters().worker.dropped() - all, 1);
    }

    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        DropReason::ALL.iter().map(|r| (r.name(), self.dropped(*r))).filter(|(_, n)| *n > 0).collect()
    }

    pub fn fdb(&self, network: usize) -> Arc<Fdb> {
        Arc::clone(&self.snapshot.load().networks[network].as_ref().unwrap().fdb)
    }

    pub fn advance(&mut self, seconds: u32) {
        self.worker.io.now = self.worker.io.now.plus_millis(u64::from(seconds) * 1000);
    }
}

/// An Ethernet frame.
pub fn ethernet(dst: MacAddr, src: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst.0[..], &src.0, &ethertype.to_be_bytes(), payload].concat()
}

/// A frame with tags `(tpid, tci)` in front of its EtherType.
pub fn tagged(dst: MacAddr, src: MacAddr, tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&dst.0[..], &src.0].concat();
    for (tpid, tci) in tags {
        bytes.extend(tpid.to_be_bytes());
        bytes.extend(tci.to_be_bytes());
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An IPv4 packet with a right header checksum.
pub fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, payload: &[u8]) -> Vec<u8> {
    let total = (20 + payload.len()) as u16;
    let mut header = [0u8; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[8] = 64;
    header[9] = proto;
    header[12..16].copy_from_slice(&src.octets());
    header[16..20].copy_from_slice(&dst.octets());
    let sum = pnet_packet::util::checksum(&header, 5);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&header[..], payload].concat()
}

/// A UDP datagram without checksum.
pub fn udp(sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload].concat()
}

/// A UDP packet from one port of the lab to another.
pub fn packet(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let datagram = udp(1000, 2000, payload);
    ethernet(mac(to + 1), mac(from + 1), 0x0800, &ipv4(ip(from + 1), ip(to + 1), 17, &datagram))
}

/// An ARP packet in a broadcast frame from `src`.
pub fn arp(src: MacAddr, op: u16, sender: (MacAddr, Ipv4Addr), target: (MacAddr, Ipv4Addr)) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4];
    body.extend(op.to_be_bytes());
    body.extend(sender.0.0);
    body.extend(sender.1.octets());
    body.extend(target.0.0);
    body.extend(target.1.octets());
    ethernet(MacAddr::BROADCAST, src, 0x0806, &body)
}
