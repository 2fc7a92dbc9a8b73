//! Routes by several routers, and routes that are narrower than their network: the daemon's own way of a packet, on
//! memory devices.
#![allow(missing_docs, clippy::panic, clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use switch::checksum::{pseudo, sum};
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

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const R: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 1, 0, 20), Ipv4Addr::new(10, 1, 0, 21), Ipv4Addr::new(10, 1, 0, 22)];
const FAR: Ipv4Addr = Ipv4Addr::new(10, 8, 3, 4);

fn mac(address: Ipv4Addr) -> Vec<u8> {
    [&[2, 0x42][..], &address.octets()].concat()
}

/// `a` is behind port 0, the routers behind 1, 2 and 3; `route` is what the route says beside its network.
struct Lab(Worker<MemIo, House>, Arc<ArcSwap<Snapshot<Tables>>>);

impl Lab {
    fn new(route: &str) -> Self {
        let router = |name: &str, ip: Ipv4Addr| {
            format!(
                "[[container]]\nname = \"{name}\"\n[[container.interface]]\nnetwork = \"blue\"\nip = \"{ip}\"\n"
            )
        };
        let text = format!(
            "[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\n\
             [[route]]\nnetwork = \"blue\"\ndestination = \"10.8.0.0/16\"\n{route}\n{}{}{}{}",
            router("a", A),
            router("r0", R[0]),
            router("r1", R[1]),
            router("r2", R[2]),
        );
        let snapshot = Arc::new(ArcSwap::from_pointee(common::all_up(&text)));
        let mut worker = Worker::new(MemIo::new(4), 128, 4, Arc::clone(&snapshot), House::new(4, None));
        worker.io.now = Tick::from_secs(1000);
        Self(worker, snapshot)
    }

    /// By these routers, all of which are known.
    fn known(routers: usize) -> Self {
        let via: Vec<String> = R[..routers].iter().map(|router| format!("\"{router}\"")).collect();
        let mut lab = Self::new(&format!("via = [{}]", via.join(", ")));
        lab.speaks(0, A);
        (0..routers).for_each(|n| lab.speaks(n + 1, R[n]));
        lab
    }

    /// Asks for the gateway, which knows it by that.
    fn speaks(&mut self, port: usize, from: Ipv4Addr) {
        let body = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac(from), &from.octets(), &[0; 6], &GATEWAY.octets()];
        let frame = [vec![0xff; 6], mac(from), vec![8, 6], body.concat()].concat();
        let answer = self.sends(port as u16, &frame);
        assert!(answer.iter().any(|(_, frame)| frame[12..14] == [8, 6]), "the gateway answers");
    }

    /// What comes out of which port.
    fn sends(&mut self, port: u16, frame: &[u8]) -> Vec<(u16, Vec<u8>)> {
        self.0.io.inject(PortId(port), &VnetHdr::default(), frame);
        self.step()
    }

    fn step(&mut self) -> Vec<(u16, Vec<u8>)> {
        while self.0.step(Wait::Poll).unwrap() > 0 {}
        assert_eq!(self.0.counters().worker.unaccounted(), 0);
        let io = &mut self.0.io;
        let taken =
            (0..4).flat_map(|port| io.take(PortId(port)).into_iter().map(move |(_, frame)| (port, frame)));
        taken.collect()
    }

    /// The router that a flow takes; `None`: somebody is asked for.
    fn way(&mut self, sport: u16) -> Option<u16> {
        let out = self.sends(0, &datagram(FAR, sport, 64, 0));
        let ip: Vec<u16> = out.iter().filter(|(_, frame)| is_ip(frame)).map(|(port, _)| *port).collect();
        assert!(ip.len() <= 1, "{out:?}");
        ip.first().copied()
    }

    fn ways(&mut self) -> Vec<Option<u16>> {
        (0..300).map(|flow| self.way(1000 + flow)).collect()
    }

    fn passes(&mut self, millis: u64) -> Vec<(u16, Vec<u8>)> {
        self.0.io.now = self.0.io.now.plus_millis(millis);
        self.step()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.0.counters().worker.drops[reason as usize].get()
    }
}

fn is_ip(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0]
}

/// A datagram of `a` of `len` bytes of IP packet; `field`: flags and offset.
fn datagram(to: Ipv4Addr, sport: u16, len: u16, field: u16) -> Vec<u8> {
    let udp = len - 20;
    let mut l4 = [&sport.to_be_bytes()[..], &[0, 53], &udp.to_be_bytes(), &[0, 0]].concat();
    l4.resize(usize::from(udp), 0x55);
    packet(to, 17, field, &l4)
}

fn packet(to: Ipv4Addr, proto: u8, field: u16, l4: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x45, 0];
    ip.extend((20 + l4.len() as u16).to_be_bytes());
    ip.extend([0, 9]);
    ip.extend(field.to_be_bytes());
    ip.extend([64, proto, 0, 0]);
    ip.extend(A.octets());
    ip.extend(to.octets());
    let check = !sum(&ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    [mac(GATEWAY), mac(A), vec![8, 0], ip, l4.to_vec()].concat()
}

#[test]
fn flows_are_spread_and_each_keeps_its_router() {
    let mut lab = Lab::known(3);
    let ways = lab.ways();
    for port in 1..=3 {
        let share = ways.iter().filter(|way| **way == Some(port)).count();
        assert!((50..=150).contains(&share), "port {port} has {share} of 300");
    }
    assert_eq!(lab.ways(), ways);
    // Other workers and later snapshots agree: what chooses is the process's.
    assert_eq!(Lab::known(3).ways(), ways);
    // Its MAC is the router's, and nobody gets a redirect: RFC 1812 section 5.2.7.2.
    let out = lab.sends(0, &datagram(FAR, 1000, 64, 0));
    let [(port, frame)] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!((&frame[..6], frame[22]), (&mac(R[usize::from(*port) - 1])[..], 63));
}

#[test]
fn a_router_that_goes_takes_only_its_own_flows_along() {
    let mut lab = Lab::known(3);
    let before = lab.ways();
    lab.0.io.let_go(PortId(2));
    lab.step();
    let gateway = &lab.1.load().tables.router.gateways[0];
    assert_eq!(gateway.as_ref().unwrap().neighbors.flush(PortId(2)), 1, "as the control plane does");
    // Its first flow waits for it; the others know by then that it does not answer.
    let after = lab.ways();
    let waits = after.iter().filter(|way| way.is_none()).count();
    assert_eq!(waits, 1);
    for (before, after) in before.iter().zip(&after) {
        match (before, after) {
            (Some(2), way) => assert!(matches!(way, None | Some(1 | 3)), "{way:?}"),
            (way, after) => assert_eq!(way, after),
        }
    }
    let moved = |port| before.iter().zip(&after).filter(|way| *way == (&Some(2), &Some(port))).count();
    assert!(moved(1) > 20 && moved(3) > 20, "{} and {}", moved(1), moved(3));
    // Who waited is told, the others go on for a while before it is tried again.
    let told: Vec<_> = [1000, 1000, 1100].into_iter().flat_map(|millis| lab.passes(millis)).collect();
    assert_eq!(
        told.iter().filter(|(port, frame)| *port == 0 && is_ip(frame) && frame[34..36] == [3, 1]).count(),
        1
    );
    assert_eq!(lab.dropped(DropReason::NeighborUnresolved), 1);
    (0..4).for_each(|_| drop(lab.passes(5000)));
    assert_eq!(lab.ways().iter().filter(|way| way.is_none()).count(), 0);
    // It is back and speaks: what was its own comes back to it.
    lab.speaks(2, R[1]);
    assert_eq!(lab.ways(), before);
}

#[test]
fn a_router_that_nobody_has_heard_of_is_asked_for() {
    let mut lab = Lab::new(&format!("via = [\"{}\", \"{}\"]", R[0], R[1]));
    lab.speaks(0, A);
    lab.speaks(1, R[0]);
    let ways = lab.ways();
    assert_eq!(ways.iter().filter(|way| way.is_none()).count(), 1, "one packet asks for all");
    assert!(ways.iter().flatten().all(|way| *way == 1));
    lab.speaks(2, R[1]);
    assert!(lab.ways().contains(&Some(2)));
    // Nobody at all: it waits for the one of its flow.
    let mut lab = Lab::new(&format!("via = [\"{}\", \"{}\"]", R[0], R[1]));
    lab.speaks(0, A);
    let asked: BTreeSet<Vec<u8>> = (0..40)
        .flat_map(|flow| lab.sends(0, &datagram(FAR, 1000 + flow, 64, 0)))
        .map(|(_, frame)| frame[38..42].to_vec())
        .collect();
    assert_eq!(asked, R[..2].iter().map(|router| router.octets().to_vec()).collect());
}

#[test]
fn fragments_of_a_packet_take_one_way_whichever_comes_first() {
    let mut lab = Lab::known(3);
    let mut used = BTreeSet::new();
    for last in 0..40 {
        let to = Ipv4Addr::new(10, 8, 3, last);
        let ways: BTreeSet<u16> = [0x0002, 0x2000, 0x2004, 0x0008]
            .into_iter()
            .flat_map(|field| lab.sends(0, &datagram(to, 1000 + u16::from(last), 64, field)))
            .map(|(port, _)| port)
            .collect();
        assert_eq!(ways.len(), 1, "to {to}");
        used.extend(ways);
    }
    assert_eq!(used, BTreeSet::from([1, 2, 3]));
}

#[test]
fn what_is_behind_any_of_them_may_speak() {
    let mut lab = Lab::known(2);
    for (port, router, passes) in [(1, R[0], true), (2, R[1], true), (3, R[2], false)] {
        let mut frame = packet(A, 17, 0, &[0, 53, 3, 232, 0, 8, 0, 0]);
        frame[6..12].copy_from_slice(&mac(router));
        frame[26..30].copy_from_slice(&FAR.octets());
        frame[24..26].fill(0);
        let check = !sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        let out = lab.sends(port, &frame);
        assert_eq!(out.iter().any(|(port, frame)| *port == 0 && is_ip(frame)), passes, "{router}: {out:?}");
    }
    assert_eq!(lab.dropped(DropReason::ReversePath), 1);
}

/// A SYN with an MSS of 1460.
fn syn(to: Ipv4Addr) -> Vec<u8> {
    let mut l4 = vec![0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4];
    l4.extend(1460u16.to_be_bytes());
    let check =
        !switch::checksum::add(pseudo(A.to_ipv6_mapped(), to.to_ipv6_mapped(), 6, l4.len() as u32), sum(&l4));
    l4[16..18].copy_from_slice(&check.to_be_bytes());
    packet(to, 6, 0x4000, &l4)
}

#[test]
fn a_route_is_narrower_than_its_network() {
    let mut lab = Lab::new(&format!("via = \"{}\"\nmtu = 1400", R[0]));
    lab.speaks(0, A);
    lab.speaks(1, R[0]);
    let out = lab.sends(0, &datagram(FAR, 1, 1400, 0x4000));
    assert_eq!(out.iter().map(|(port, frame)| (*port, frame.len())).collect::<Vec<_>>(), [(1, 1414)]);
    // RFC 1191 section 4: with the MTU that the next packet shall have.
    let out = lab.sends(0, &datagram(FAR, 1, 1401, 0x4000));
    let [(0, error)] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!((&error[34..36], &error[40..42]), (&[3, 4][..], &1400u16.to_be_bytes()[..]));
    assert_eq!(lab.dropped(DropReason::TooBig), 1);
    let cut = lab.sends(0, &datagram(FAR, 1, 1500, 0));
    assert_eq!(
        cut.iter().map(|(port, frame)| (*port, frame.len())).collect::<Vec<_>>(),
        [(1, 1410), (1, 138)]
    );
    let out = lab.sends(0, &syn(FAR));
    assert_eq!((out.len(), &out[0].1[56..58]), (1, &1360u16.to_be_bytes()[..]), "RFC 879: less 40");
    // On the network itself nothing is narrower.
    let mut straight = datagram(R[0], 1, 1500, 0x4000);
    straight[..6].copy_from_slice(&mac(R[0]));
    assert_eq!(lab.sends(0, &straight).len(), 1);
}

#[test]
fn several_routers_cost_no_allocation() {
    let mut lab = Lab::known(3);
    let frames: Vec<_> = (0..32).map(|flow| datagram(FAR, 1000 + flow, 64, 0)).collect();
    let mut run = || {
        let sent = || {
            frames.iter().for_each(|frame| lab.0.io.inject(PortId(0), &VnetHdr::default(), frame));
            while lab.0.step(Wait::Poll).unwrap() > 0 {}
            (0..4).map(|port| lab.0.io.discard(PortId(port))).sum::<usize>()
        };
        let mut out = 0;
        let mut sent = sent;
        let info = allocation_counter::measure(|| out = sent());
        assert_eq!(out, 32);
        info.count_total
    };
    (0..8).for_each(|_| _ = run()); // memory devices grow their queues once
    assert_eq!((0..20).map(|_| run()).sum::<u64>(), 0);
}
