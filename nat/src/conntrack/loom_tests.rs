//! Every interleaving (up to a number of preemptions) of what two threads do to one connection, one mapping, one l4 port.
//! Tables have two places, an address has two l4 ports.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p nat --release --lib loom
//! ```

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;

use loom::sync::Arc;
use loom::thread::{Builder, JoinHandle};
use switch::flow::{FlowKey, Packet, TcpMeta};
use switch::parse::parse;
use switch::vnet::VnetHdr;

use super::open::Wanted;
use super::words::{PLACE, SENT};
use super::*;

const BEGAN: Tick = Tick::from_secs(1000);
const OURS: u32 = 0xc633_6401;
const PEER: u32 = 0xcb00_7101;

/// Tries every interleaving of `race`, and demands that each of the outcomes came about, else nothing was tried.
fn model(preemptions: usize, outcomes: &[u32], race: impl Fn() -> u32 + Sync + Send + 'static) {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(BTreeMap::new()));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 50_000;
    let note = seen.clone();
    let race = std::sync::Arc::new(race);
    builder.check(move || {
        let race = race.clone();
        let outcome = spawn(move || race()).join().unwrap();
        *note.lock().unwrap().entry(outcome).or_insert(0) += 1;
    });
    let seen = seen.lock().unwrap();
    println!("outcome: interleavings {seen:?}");
    assert!(seen.keys().eq(outcomes), "{seen:?}");
}

/// A thread with a stack for all tables of a conntrack.
fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    Builder::new().stack_size(1 << 16).spawn(work).unwrap()
}

fn address(bits: u32) -> Ipv6Addr {
    Ipv4Addr::from_bits(bits).to_ipv6_mapped()
}

/// A conntrack with `places` for mappings, and all that it goes by.
struct Lab {
    conntrack: Conntrack,
    rules: Rules,
    packet: Packet,
}

impl Lab {
    fn new(places: u32) -> Arc<Self> {
        let limits = Limits { connections: 2, mappings: places, mappings_per_port: 2, ..Limits::default() };
        let timeouts = Timeouts::default();
        let rules = Rules::new(vec![address(OURS)], vec![], (Filtering::Endpoint, false), timeouts, 7);
        let frame = [
            &[2; 12][..],
            &[8, 0, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0xac, 0xdf],
            &[10, 0, 0, 1, 9, 9, 9, 9],
        ];
        let mut frame = frame.concat();
        let check = !switch::checksum::add(
            switch::checksum::sum(&frame[14..24]),
            switch::checksum::sum(&frame[26..34]),
        );
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        let packet = parse(&frame, &VnetHdr::default(), PortId(0), 0).unwrap();
        Arc::new(Self { conntrack: Conntrack::new(&limits, 1, 2).unwrap(), rules, packet })
    }

    /// A packet of a container to a peer, by the l4 port that all want.
    fn packet(&self, proto: u8, who: u16, to: u32) -> Packet {
        let (src, dst) = (address(0x0a00_0001 + u32::from(who)), address(PEER + to));
        let key = FlowKey { zone: 0, proto, src, dst, sport: 1, dport: 53 };
        Packet { key, ..self.packet }
    }

    fn open(&self) -> Known {
        let packet = self.packet(PROTO_UDP, 0, 0);
        self.conntrack.track_out(&self.rules, &packet, PortId(0), BEGAN).unwrap()
    }

    /// A place outside for an end point of a container.
    fn map(&self, who: u16) -> Option<u16> {
        let inside = Inside { zone: 0, end: source(&self.packet(PROTO_UDP, who, 0).key) };
        let wanted = Wanted {
            rules: &self.rules,
            class: Class::Udp,
            proto: PROTO_UDP,
            inside,
            owner: PortId(who),
            now: BEGAN,
        };
        let mapped = self.conntrack.map(&wanted);
        mapped.ok().map(|(_, external)| external.port)
    }

    fn mappings(&self) -> &Table<3, 2> {
        self.conntrack.mappings_of(Class::Udp, address(OURS))
    }

    /// As the sweeper does with what is over.
    fn end(&self, at: Handle) -> bool {
        self.conntrack.connections.get(at).is_some_and(|record| self.conntrack.connections.take(&record))
    }

    /// Everything that must hold when nobody writes: whoever has a mapping has its l4 port, and nobody else has one.
    fn check_at_rest(&self) -> usize {
        let mut owned = HashSet::new();
        for record in self.mappings().iter() {
            let port = (record.value[PLACE] >> 48) as u16;
            assert_eq!(self.conntrack.external[0].of(Class::Udp, port), Use::Mapped(Some(record.at)));
            assert!(owned.insert(port));
        }
        let used = (0..3).filter(|port| self.conntrack.external[0].of(Class::Udp, *port) != Use::Free);
        assert_eq!(used.collect::<HashSet<_>>(), owned);
        owned.len()
    }
}

#[test]
fn two_workers_open_connections_of_one_end_point() {
    // Whoever was too late for the l4 port that both want may still be the first with a mapping.
    model(1, &[1, 2], || {
        let lab = Lab::new(2);
        let other = lab.clone();
        let thread = spawn(move || other.map(0));
        let mine = lab.map(0);
        assert_eq!(thread.join().unwrap(), mine);
        assert_eq!(lab.check_at_rest(), 1);
        u32::from(mine.unwrap())
    });
}

#[test]
fn two_containers_want_one_l4_port() {
    model(1, &[1, 2], || {
        let lab = Lab::new(2);
        let other = lab.clone();
        let thread = spawn(move || other.map(1));
        let mine = lab.map(0).unwrap();
        assert_eq!(thread.join().unwrap(), Some(3 - mine), "the other one");
        assert_eq!(lab.check_at_rest(), 2);
        u32::from(mine)
    });
}

#[test]
fn two_containers_have_one_place() {
    // One's mapping goes for the other's, perhaps before its l4 port was known to be its.
    model(1, &[1, 2, 3], || {
        let lab = Lab::new(1);
        let other = lab.clone();
        let thread = spawn(move || other.map(1).is_some());
        let mine = lab.map(0).is_some();
        let theirs = thread.join().unwrap();
        assert_eq!(lab.check_at_rest(), 1);
        u32::from(mine) << 1 | u32::from(theirs)
    });
}

#[test]
fn a_container_goes_while_it_opens_a_connection() {
    model(2, &[0, 1], || {
        let lab = Lab::new(2);
        let other = lab.clone();
        let thread = spawn(move || other.map(0));
        for record in lab.mappings().iter() {
            lab.conntrack.unmap(Class::Udp, &record, BEGAN);
        }
        thread.join().unwrap();
        lab.check_at_rest() as u32
    });
}

#[test]
fn both_sides_speak_while_it_is_cleared_away() {
    // With one preemption the search does not meet that both are heard.
    model(2, &[0, 1, 2, 3], || {
        let lab = Lab::new(2);
        let (at, meta) = (lab.open().at, lab.packet.meta);
        let says = move |lab: &Lab, way| lab.conntrack.track_known(at, way, &meta, BEGAN).unwrap();
        let [one, two] = [lab.clone(), lab.clone()];
        let one = spawn(move || says(&one, Way::In));
        let two = spawn(move || says(&two, Way::Out));
        assert!(lab.end(at));
        let said = u32::from(one.join().unwrap()) << 1 | u32::from(two.join().unwrap());
        assert!(!says(&lab, Way::Out), "it is not there any more");
        // Nobody holds it: both places can be had.
        let new = |to| {
            let packet = lab.packet(PROTO_UDP, 0, to);
            lab.conntrack.track_out(&lab.rules, &packet, PortId(0), BEGAN).unwrap()
        };
        assert_ne!(new(1).at, new(2).at);
        assert_eq!((lab.conntrack.connections.len(), lab.conntrack.counts().evicted), (2, 0));
        said
    });
}

#[test]
fn one_side_speaks_again_while_it_is_cleared_away() {
    model(2, &[0, 1], || {
        let lab = Lab::new(2);
        let (at, meta) = (lab.open().at, lab.packet.meta);
        let other = lab.clone();
        let late = Tick::from_secs(1299);
        let thread = spawn(move || other.conntrack.track_known(at, Way::Out, &meta, late));
        assert!(lab.end(at));
        let said = thread.join().unwrap().unwrap();
        // Whatever it wrote late was written to nobody: the next one in its place is as it was opened.
        let packet = lab.packet(PROTO_UDP, 0, 1);
        let new = lab.conntrack.track_out(&lab.rules, &packet, PortId(0), BEGAN).unwrap();
        let record = lab.conntrack.connections.get(new.at).unwrap();
        assert_eq!((record.seen, record.value[SENT]), (BEGAN.secs_up(), 20));
        u32::from(said)
    });
}

#[test]
fn both_sides_close_at_once() {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    const FIN: u8 = 1;
    let tcp = |flags, seq, ack| Some(TcpMeta { flags, seq, ack, window: 1000, payload: 0, scale: None });
    model(1, &[0], move || {
        let lab = Lab::new(2);
        let packet = |tcp| Meta { tcp, ..lab.packet.meta };
        let syn = Packet { meta: packet(tcp(SYN, 100, 0)), ..lab.packet(PROTO_TCP, 0, 0) };
        let at = lab.conntrack.track_out(&lab.rules, &syn, PortId(0), BEGAN).unwrap().at;
        let note = move |lab: &Lab, way, meta: &Meta| lab.conntrack.track_known(at, way, meta, BEGAN);
        note(&lab, Way::In, &packet(tcp(SYN | ACK, 500, 101))).unwrap();
        note(&lab, Way::Out, &packet(tcp(ACK, 101, 501))).unwrap();
        let other = lab.clone();
        let theirs = packet(tcp(FIN | ACK, 501, 101));
        let thread = spawn(move || note(&other, Way::In, &theirs));
        assert_eq!(note(&lab, Way::Out, &packet(tcp(FIN | ACK, 101, 501))), Ok(true));
        assert_eq!(thread.join().unwrap(), Ok(true));
        let record = lab.conntrack.connections.get(at).unwrap();
        assert_eq!(State::stage_of(record.value[STATE]), tcp::Stage::Closing, "neither is lost");
        0
    });
}
