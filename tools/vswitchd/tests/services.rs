//! Packets between a worker and the control plane, on memory devices: what a gateway's services are asked comes up whole,
//! what they answer goes to whom it is for, and a port that floods takes nothing from its neighbour.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::Ipv4Addr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use router::tables::Services;
use switch::checksum::{add, pseudo, sum};
use switch::drop::DropReason;
use switch::io::Wait;
use switch::io::mem::MemIo;
use switch::mac::MacAddr;
use switch::port::{NetworkId, PortId};
use switch::punt::{MAX_PACKET, Parcel, Punt, Service};
use switch::tick::Tick;
use switch::vnet::VnetHdr;
use switch::worker::Worker;
use vswitchd::policy::House;

const LAB: &str = "
[[network]]
name = \"blue\"
subnet = \"10.1.0.0/24\"
[[container]]
name = \"a\"
[[container.interface]]
network = \"blue\"
[[container]]
name = \"b\"
[[container.interface]]
network = \"blue\"
";

const A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const ALL: Ipv4Addr = Ipv4Addr::BROADCAST;
const UDP: u8 = 17;

/// The virtio header of a datagram whose checksum is left open.
fn partial() -> VnetHdr {
    VnetHdr { flags: VnetHdr::NEEDS_CSUM, csum_start: 34.into(), csum_offset: 6.into(), ..VnetHdr::default() }
}

fn mac(address: Ipv4Addr) -> MacAddr {
    let [a, b, c, d] = address.octets();
    if address == ALL { MacAddr::BROADCAST } else { MacAddr([2, 0x42, a, b, c, d]) }
}

/// A UDP datagram with a partial checksum, as a container's kernel hands it over.
fn datagram(from: Ipv4Addr, to: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    let total = (20 + len).to_be_bytes();
    let mut ip = [&[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, UDP, 0, 0][..]].concat();
    ip.extend(from.octets());
    ip.extend(to.octets());
    let check = !sum(&ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    let open = pseudo(from.to_ipv6_mapped(), to.to_ipv6_mapped(), UDP, u32::from(len)).to_be_bytes();
    let udp = [&[0x9c, 0x40][..], &port.to_be_bytes(), &len.to_be_bytes(), &open, payload].concat();
    let source = if from.is_unspecified() { mac(A) } else { mac(from) };
    [&mac(to).0[..], &source.0, &[8, 0], &ip, &udp].concat()
}

/// Whether the UDP checksum of an IPv4 packet is right.
fn verifies(packet: &[u8]) -> bool {
    let address = |at: usize| Ipv4Addr::from(*packet[at..].first_chunk::<4>().unwrap()).to_ipv6_mapped();
    let l4 = &packet[20..];
    add(pseudo(address(12), address(16), UDP, l4.len() as u32), sum(l4)) == 0xffff
}

struct Lab {
    worker: Worker<MemIo, House>,
    punt: Arc<Punt>,
}

impl Lab {
    /// `a` is behind port 0, `b` behind port 1; the gateway offers what `services` says.
    fn new(services: Services) -> Self {
        let mut snapshot = common::all_up(LAB);
        snapshot.tables.router.gateways.iter_mut().flatten().for_each(|gateway| gateway.services = services);
        let punt = Arc::new(Punt::new(2).unwrap());
        let house = House::new(2, None).with_services(Arc::clone(&punt));
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let mut worker = Worker::new(MemIo::new(2), 128, 2, snapshot, house);
        worker.io.now = Tick::from_secs(1000);
        Self { worker, punt }
    }

    fn send(&mut self, port: u16, vnet: &VnetHdr, frame: &[u8]) {
        self.worker.io.inject(PortId(port), vnet, frame);
        self.settle();
    }

    fn settle(&mut self) {
        while self.worker.step(Wait::Poll).unwrap() > 0 {}
        assert_eq!(self.worker.counters().worker.unaccounted(), 0);
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.worker.counters().worker.drops[reason as usize].get()
    }

    #[expect(clippy::vec_box, reason = "the boxes go back as they came")]
    fn all_up(&self) -> Vec<Box<Parcel>> {
        std::iter::from_fn(|| self.punt.next()).collect()
    }
}

const DNS: Services = Services { dns: true, dhcp: false };
const DHCP: Services = Services { dns: false, dhcp: true };

#[test]
fn a_request_comes_up_whole_and_its_answer_goes_back() {
    let mut lab = Lab::new(DNS);
    let frame = datagram(A, GATEWAY, 53, b"who is b?");
    lab.send(0, &partial(), &frame);
    let parcel = lab.punt.next().unwrap();
    assert_eq!((parcel.port, parcel.network, parcel.service), (PortId(0), NetworkId(0), Service::Dns));
    assert_eq!(parcel.mac, mac(A));
    assert_eq!(parcel.packet()[28..], frame[42..]);
    assert!(verifies(parcel.packet()), "the checksum is whole");
    assert!(lab.worker.io.take(PortId(1)).is_empty(), "nobody else hears it");

    let mut answer = lab.punt.take().unwrap();
    answer.address_as(&parcel);
    answer.fill(|bytes| {
        bytes[..parcel.packet().len()].copy_from_slice(parcel.packet());
        Some(parcel.packet().len())
    });
    lab.punt.give_back(parcel);
    lab.punt.send(answer);
    lab.settle();
    let sent = lab.worker.io.take(PortId(0));
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0, VnetHdr::default());
    assert_eq!(sent[0].1[..14], [&mac(A).0[..], &mac(GATEWAY).0, &[8, 0]].concat());
    assert_eq!(sent[0].1[14..34], frame[14..34], "the packet as it was given");
}

#[test]
fn what_is_not_offered_is_not_heard() {
    let mut lab = Lab::new(Services::default());
    for port in [53, 67] {
        lab.send(0, &partial(), &datagram(A, GATEWAY, port, b"hello?"));
    }
    assert!(lab.punt.next().is_none());
    assert_eq!(lab.dropped(DropReason::NoService), 2);
    // Without DHCP of ours a broadcast is the network's.
    lab.worker.io.discard(PortId(1));
    lab.send(0, &partial(), &datagram(Ipv4Addr::UNSPECIFIED, ALL, 67, b"hello?"));
    assert_eq!(lab.worker.io.take(PortId(1)).len(), 1);
}

#[test]
fn who_asks_for_an_address_is_heard_by_the_gateway_alone() {
    let mut lab = Lab::new(DHCP);
    let subnet = Ipv4Addr::new(10, 1, 0, 255);
    let mut by_subnet = datagram(A, subnet, 67, b"hello?");
    by_subnet[..6].copy_from_slice(&MacAddr::BROADCAST.0);
    for frame in
        [datagram(Ipv4Addr::UNSPECIFIED, ALL, 67, b"hello?"), by_subnet, datagram(A, GATEWAY, 67, b"again")]
    {
        lab.send(0, &partial(), &frame);
        let parcel = lab.punt.next().unwrap();
        assert_eq!((parcel.service, parcel.mac), (Service::Dhcp, mac(A)));
        lab.punt.give_back(parcel);
    }
    assert!(lab.worker.io.take(PortId(1)).is_empty());
    // Another l4 port is the network's, and so is DHCP's in another family or tagged.
    lab.send(0, &partial(), &datagram(A, ALL, 68, b"hello?"));
    assert!(lab.punt.next().is_none());
    assert_eq!(lab.worker.io.take(PortId(1)).len(), 1);
}

#[test]
fn a_flood_leaves_room_for_others() {
    let mut lab = Lab::new(DNS);
    for _ in 0..2000 {
        lab.send(0, &partial(), &datagram(A, GATEWAY, 53, b"flood"));
    }
    let b = Ipv4Addr::new(10, 1, 0, 3);
    lab.send(1, &partial(), &datagram(b, GATEWAY, 53, b"one"));
    let up = lab.all_up();
    let of = |port| up.iter().filter(|parcel| parcel.port == PortId(port)).count() as u64;
    assert_eq!(of(1), 1);
    assert!((16..=64).contains(&of(0)), "{} of one port", of(0));
    assert_eq!(lab.dropped(DropReason::ServiceQueue), 2000 - of(0));
    // What was taken counts no more.
    up.into_iter().for_each(|parcel| lab.punt.give_back(parcel));
    lab.send(0, &partial(), &datagram(A, GATEWAY, 53, b"later"));
    assert_eq!(lab.all_up().len(), 1);
}

#[test]
fn an_answer_does_not_reach_the_next_container_of_a_port() {
    let mut lab = Lab::new(DNS);
    lab.send(0, &partial(), &datagram(A, GATEWAY, 53, b"who is b?"));
    let parcel = lab.punt.next().unwrap();
    lab.worker.io.let_go(PortId(0));
    lab.settle();
    assert!(!lab.punt.is_current(parcel.port, parcel.epoch));
    lab.punt.send(parcel);
    let parcel = |network| {
        let mut parcel = lab.punt.take().unwrap();
        (parcel.port, parcel.network, parcel.epoch, parcel.mac) = (PortId(1), NetworkId(network), 0, mac(A));
        parcel.fill(|bytes| {
            bytes[0] = 0x45;
            Some(20)
        });
        parcel
    };
    // Another network than the port's: nor does it go there.
    lab.punt.send(parcel(7));
    lab.settle();
    assert!(lab.worker.io.take(PortId(0)).is_empty());
    assert!(lab.worker.io.take(PortId(1)).is_empty());
    let free = std::iter::from_fn(|| lab.punt.take()).count();
    assert_eq!(free, 256, "every slot is free again");
}

#[test]
fn what_is_longer_than_any_request_is_dropped() {
    let mut lab = Lab::new(DNS);
    lab.send(0, &partial(), &datagram(A, GATEWAY, 53, &[0; 1472]));
    assert_eq!(lab.all_up().len(), 1, "as long as the MTU allows");
    // A super-frame comes up as its segments.
    let payload: Vec<u8> = (0..3000).map(|n| n as u8).collect();
    let gso =
        VnetHdr { gso_type: VnetHdr::GSO_UDP_L4, gso_size: 1400.into(), hdr_len: 42.into(), ..partial() };
    lab.send(0, &gso, &datagram(A, GATEWAY, 53, &payload));
    let up = lab.all_up();
    assert_eq!(up.len(), 3);
    assert!(up.iter().all(|parcel| verifies(parcel.packet())));
    let came: Vec<u8> = up.iter().flat_map(|parcel| parcel.packet()[28..].to_vec()).collect();
    assert_eq!(came, payload);
    assert_eq!(lab.dropped(DropReason::OversizedRequest), 0);
    const { assert!(MAX_PACKET >= 1500) };
}
