//! The gateway as querier, on memory devices with time moved by hand: when it asks, when it leaves that to another, and
//! what it asks of one who leaves.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use router::Origin;
use router::query::query;
use switch::checksum;
use switch::flow::{Body, GroupKind};
use switch::groups::{Groups, QUERIER_PRESENT};
use switch::io::Wait;
use switch::io::mem::MemIo;
use switch::mac::MacAddr;
use switch::mailbox::Mailbox;
use switch::news::News;
use switch::parse::parse;
use switch::port::PortId;
use switch::snapshot::Snapshot;
use switch::tick::Tick;
use switch::vnet::VnetHdr;
use switch::worker::Worker;
use vswitchd::policy::House;
use vswitchd::tables::Tables;

const LAB: &str = "\
[[network]]
name = \"blue\"
subnet = \"10.1.0.0/24\"
gateway = \"10.1.0.9\"
snooping = true
[[container]]
name = \"a\"
[[container.interface]]
network = \"blue\"
[[container]]
name = \"b\"
[[container.interface]]
network = \"blue\"
";

struct Lab {
    worker: Worker<MemIo, House>,
    snapshot: Arc<ArcSwap<Snapshot<Tables>>>,
}

fn snapshot(text: &str, generation: u64) -> Snapshot<Tables> {
    Snapshot { generation, ..common::all_up(text) }
}

impl Lab {
    fn new(text: &str) -> Self {
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot(text, 1)));
        let worker = Worker::new(MemIo::new(3), 128, 3, Arc::clone(&snapshot), House::new(3, None));
        Self { worker, snapshot }
    }

    /// The queries that a port hears in a second: whether they are of IPv6, and about which group.
    fn heard(&mut self, second: u32) -> [Vec<(bool, Ipv6Addr)>; 2] {
        self.worker.io.now = Tick::from_secs(second);
        self.worker.step(Wait::Poll).unwrap();
        self.groups().age(self.worker.io.now);
        assert_eq!(self.worker.counters().worker.unaccounted(), 0);
        [0, 1].map(|port| {
            let frames = self.worker.io.take(PortId(port));
            let said = frames.iter().filter_map(|(_, frame)| {
                let packet = parse(frame, &VnetHdr::default(), PortId(port), 0).unwrap();
                match packet.meta.body {
                    Body::Group(said) if said.kind == GroupKind::Query => {
                        Some((packet.key.dst.to_ipv4_mapped().is_none(), said.group))
                    }
                    _ => None,
                }
            });
            said.collect()
        })
    }

    fn groups(&self) -> Arc<Groups> {
        self.snapshot.load().networks[0].as_ref().unwrap().groups.clone().unwrap()
    }

    /// The seconds in which all are asked, by IPv4 and by IPv6.
    fn asked(&mut self, seconds: std::ops::Range<u32>) -> [Vec<u32>; 2] {
        let mut all = [Vec::new(), Vec::new()];
        for second in seconds {
            let [to_a, to_b] = self.heard(second);
            assert_eq!(to_a, to_b);
            for (v6, group) in to_a {
                assert!(group.is_unspecified());
                all[usize::from(v6)].push(second);
            }
        }
        all
    }

    fn inject(&mut self, port: u16, frame: &[u8]) {
        self.worker.io.inject(PortId(port), &VnetHdr::default(), frame);
    }
}

fn mac(port: u8) -> MacAddr {
    MacAddr([0x02, 0x42, 10, 1, 0, port + 1])
}

fn query_of(port: u8, host: u8) -> Vec<u8> {
    let origin = Origin { mac: mac(port), address: Ipv4Addr::new(10, 1, 0, host).to_ipv6_mapped() };
    let mut buffer = [0; 128];
    let len = query(&origin, None, &mut buffer).unwrap();
    buffer[..len].to_vec()
}

/// IGMPv2: 0x16 reports, 0x17 leaves.
fn igmp(port: u8, kind: u8, group: [u8; 4]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0][..], &group].concat();
    let check = !checksum::sum(&message);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 1, 2, 0, 0, 10, 1, 0, port + 1];
    packet.extend(group);
    let check = !checksum::sum(&packet);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    [&[1, 0, 0x5e, group[1] & 0x7f, group[2], group[3]][..], &mac(port).0, &[8, 0], &packet, &message]
        .concat()
}

#[test]
fn it_asks_quickly_at_first_and_then_every_two_minutes() {
    let mut lab = Lab::new(LAB);
    let wanted = vec![1000, 1031, 1062, 1187, 1312];
    assert_eq!(lab.asked(1000..1400), [wanted.clone(), wanted]);
    let mut silent = Lab::new(&LAB.replace("snooping = true", ""));
    silent.worker.io.now = Tick::from_secs(1000);
    silent.worker.step(Wait::Poll).unwrap();
    assert_eq!(silent.worker.counters().worker.generated.get(), 0);
}

#[test]
fn of_several_workers_one_asks() {
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot(LAB, 1)));
    let news = Arc::new(News::between(Mailbox::for_workers(2, 2).unwrap().into_iter().map(Arc::new)));
    let made = [0, 1].map(|me| {
        let house = House::beside(2, None, Arc::clone(&news), me);
        let mut worker = Worker::new(MemIo::new(2), 128, 2, Arc::clone(&snapshot), house);
        for second in 1000..1400 {
            worker.io.now = Tick::from_secs(second);
            worker.step(Wait::Poll).unwrap();
        }
        worker.counters().worker.generated.get()
    });
    assert_eq!(made, [10, 0]);
}

#[test]
fn a_lower_address_asks_instead_until_it_is_silent() {
    let mut lab = Lab::new(LAB);
    assert_eq!(lab.asked(1000..1050)[0], [1000, 1031]);
    lab.inject(0, &query_of(0, 20));
    assert_eq!(lab.heard(1050)[1], [(false, Ipv6Addr::UNSPECIFIED)], "the other's");
    assert_eq!(lab.asked(1051..1070)[0], [1062], "a higher address asks in vain");
    lab.inject(0, &query_of(0, 1));
    lab.heard(1070);
    let [v4, v6] = lab.asked(1071..1600);
    assert_eq!(v4[0], 1070 + QUERIER_PRESENT);
    assert_eq!(v4[1] - v4[0], 125);
    assert_eq!(v6, [1187, 1312, 1437, 1562], "of MLD there is no other");
}

#[test]
fn new_ports_are_asked_a_second_later() {
    let mut lab = Lab::new(LAB);
    assert_eq!(lab.asked(1000..1100)[0], [1000, 1031, 1062]);
    let before = lab.groups();
    let more = format!("{LAB}[[container]]\nname = \"c\"\n[[container.interface]]\nnetwork = \"blue\"\n");
    let mut next = snapshot(&more, 2);
    next.networks[0].as_mut().unwrap().groups = Some(before);
    lab.snapshot.store(Arc::new(next));
    assert_eq!(lab.asked(1100..1230)[0], [1101, 1226]);
}

#[test]
fn who_leaves_is_asked_whether_somebody_stays() {
    let mut lab = Lab::new(LAB);
    let group = [239, 1, 1, 1];
    lab.heard(1000);
    lab.inject(0, &igmp(0, 0x16, group));
    assert_eq!(lab.heard(1001), [vec![], vec![]]);
    lab.inject(0, &igmp(0, 0x17, group));
    let about = Ipv4Addr::from(group).to_ipv6_mapped();
    assert_eq!(lab.heard(1002), [vec![(false, about)], vec![]], "behind that port, and nobody else");
    lab.inject(1, &igmp(1, 0x17, group));
    assert_eq!(lab.heard(1003), [vec![], vec![]], "it had not joined");
    // Where another asks, asking is his.
    lab.inject(0, &query_of(0, 1));
    lab.inject(1, &igmp(1, 0x16, group));
    lab.heard(1004);
    lab.inject(1, &igmp(1, 0x17, group));
    assert_eq!(lab.heard(1005), [vec![], vec![]]);
}
