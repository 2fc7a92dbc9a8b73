//! The daemon's own way of a packet, on memory devices, between two networks, one of which may only answer: what a
//! golden does not show.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::Ipv4Addr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use switch::checksum::sum;
use switch::drop::DropReason;
use switch::fdb::Flush;
use switch::io::Wait;
use switch::io::mem::MemIo;
use switch::mailbox::Mailbox;
use switch::news::News;
use switch::port::{NetworkId, PortId};
use switch::snapshot::Snapshot;
use switch::tick::Tick;
use switch::vnet::VnetHdr;
use switch::worker::Worker;
use vswitchd::policy::House;
use vswitchd::tables::Tables;

const LAB: &[u8] = b"
[[network]]
name = \"blue\"
subnet = \"10.1.0.0/24\"
routes_to = [\"red\"]
[[network]]
name = \"red\"
subnet = \"10.2.0.0/24\"
[[container]]
name = \"a\"
[[container.interface]]
network = \"blue\"
[[container]]
name = \"b\"
[[container.interface]]
network = \"red\"
";

const A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);

fn mac(address: Ipv4Addr) -> Vec<u8> {
    [&[2, 0x42][..], &address.octets()].concat()
}

/// The gateway of the network of `address`.
fn gateway(address: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, 1)
}

fn datagram(from: Ipv4Addr, to: Ipv4Addr, ports: [u16; 2]) -> Vec<u8> {
    let mut ip = [&[0x45, 0, 0, 36, 0, 0, 0x40, 0, 64, 17, 0, 0][..], &from.octets(), &to.octets()].concat();
    let check = !sum(&ip);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    let udp = [&ports[0].to_be_bytes()[..], &ports[1].to_be_bytes(), &[0, 16, 0, 0], &[0x55; 8]].concat();
    [mac(gateway(from)), mac(from), vec![8, 0], ip, udp].concat()
}

fn answer(from: Ipv4Addr) -> Vec<u8> {
    let to = gateway(from);
    let body = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &mac(from), &from.octets(), &mac(to), &to.octets()].concat();
    [mac(to), mac(from), vec![8, 6], body].concat()
}

/// `a` is behind port 0, `b` behind port 1.
fn lab() -> Worker<MemIo, House> {
    lab_of(std::str::from_utf8(LAB).unwrap(), 2)
}

fn lab_of(text: &str, ports: u16) -> Worker<MemIo, House> {
    shared(text, ports).0
}

/// The same, with what it reads.
fn shared(text: &str, ports: u16) -> (Worker<MemIo, House>, Arc<ArcSwap<Snapshot<Tables>>>) {
    let snapshot = Arc::new(ArcSwap::from_pointee(common::all_up(text)));
    let house = House::new(usize::from(ports), None);
    let mut worker = Worker::new(MemIo::new(ports), 128, usize::from(ports), Arc::clone(&snapshot), house);
    worker.io.now = Tick::from_secs(1000);
    (worker, snapshot)
}

/// The same lab with two workers: `a`'s port is read by the first, `b`'s by the second.
struct Two([Worker<MemIo, House>; 2], Arc<ArcSwap<Snapshot<Tables>>>);

impl Two {
    fn new() -> Self {
        let (_, snapshot) = shared(std::str::from_utf8(LAB).unwrap(), 2);
        let mailboxes = Mailbox::for_workers(2, 2).unwrap().into_iter().map(Arc::new);
        let news = Arc::new(News::between(mailboxes));
        let workers = [0, 1].map(|me| {
            let house = House::beside(2, None, Arc::clone(&news), me);
            let mut worker = Worker::new(MemIo::new(2), 128, 2, Arc::clone(&snapshot), house);
            worker.io.now = Tick::from_secs(1000);
            worker
        });
        Self(workers, snapshot)
    }

    /// A frame from the container whose port this worker reads.
    fn send(&mut self, worker: usize, frame: &[u8]) {
        self.0[worker].io.inject(PortId(worker as u16), &VnetHdr::default(), frame);
        self.step(worker);
    }

    fn step(&mut self, worker: usize) {
        while self.0[worker].step(Wait::Poll).unwrap() > 0 {}
        assert_eq!(self.0[worker].counters().worker.unaccounted(), 0);
    }

    /// What a worker sent to a port, by EtherType.
    fn sent(&mut self, worker: usize, port: u16) -> Vec<[u8; 2]> {
        self.0[worker].io.take(PortId(port)).iter().map(|(_, frame)| [frame[12], frame[13]]).collect()
    }
}

#[test]
fn who_waits_in_one_worker_is_told_what_another_one_heard() {
    const IP: [u8; 2] = [8, 0];
    const ARP: [u8; 2] = [8, 6];
    let mut two = Two::new();
    two.send(1, &answer(B));
    two.send(0, &datagram(A, B, [1, 2]));
    assert_eq!(two.sent(0, 1), [ARP], "what nobody had asked for taught nothing");
    two.step(0);
    assert_eq!(two.sent(0, 1), <[[u8; 2]; 0]>::default(), "it waits");
    two.send(1, &answer(B));
    assert_eq!(two.sent(1, 1), <[[u8; 2]; 0]>::default(), "whose packet it is sends it");
    two.step(0);
    assert_eq!(two.sent(0, 1), [IP]);
    // From now on both know.
    two.send(0, &datagram(A, B, [3, 4]));
    assert_eq!(two.sent(0, 1), [IP]);

    // Who was told for another's sake has nothing to do, and who asks in vain is told that.
    let late = Tick::from_secs(1000).plus_millis(3300);
    let mut two = Two::new();
    two.send(0, &datagram(A, B, [1, 2]));
    for millis in [1100, 2200, 3300] {
        two.0[0].io.now = Tick::from_secs(1000).plus_millis(millis);
        two.step(0);
    }
    assert_eq!(two.sent(0, 1), [ARP, ARP, ARP]);
    assert_eq!(two.0[0].counters().worker.drops[DropReason::NeighborUnresolved as usize].get(), 1);
    two.0[1].io.now = late;
    two.send(1, &answer(B));
    two.step(0);
    assert_eq!(two.sent(0, 1), <[[u8; 2]; 0]>::default());
}

#[test]
fn who_is_known_and_not_to_be_found_is_asked_for_once() {
    let mut two = Two::new();
    two.send(0, &datagram(A, B, [1, 2]));
    two.send(1, &answer(B));
    two.step(0);
    two.0[0].io.discard(PortId(1));
    // Its MAC is not behind any port any more.
    let learned = two
        .1
        .load()
        .networks
        .iter()
        .flatten()
        .map(|network| network.fdb.flush(Flush::Learned))
        .sum::<usize>();
    assert!(learned > 0);
    two.send(0, &datagram(A, B, [1, 2]));
    assert_eq!(two.sent(0, 1), [[8, 6]]);
    assert_eq!(two.0[0].counters().worker.held.get(), 2, "it waits, and is not held again and again");
    two.send(1, &answer(B));
    two.step(0);
    assert_eq!(two.sent(0, 1), [[8, 0]]);
}

#[test]
fn a_packet_that_waits_does_not_outlive_its_port() {
    let mut worker = lab();
    let inject = |worker: &mut Worker<MemIo, House>, port, frame: &[u8]| {
        worker.io.inject(PortId(port), &VnetHdr::default(), frame);
        while worker.step(Wait::Poll).unwrap() > 0 {}
    };
    inject(&mut worker, 0, &datagram(A, B, [1, 2]));
    assert_eq!(worker.counters().worker.held.get(), 1);
    worker.io.let_go(PortId(0));
    inject(&mut worker, 1, &answer(B));
    let to_b = worker.io.take(PortId(1));
    assert!(to_b.iter().all(|(_, frame)| frame[12..14] == [8, 6]), "ARP is all that b hears: {to_b:?}");
    assert!(!to_b.is_empty());
    let counters = worker.counters();
    assert_eq!(counters.worker.drops[DropReason::PortGone as usize].get(), 1);
    assert_eq!(counters.worker.unaccounted(), 0);
}

#[test]
fn a_network_of_ours_without_a_way_to_it_is_not_looked_for_outside() {
    let mut worker = lab_of(&std::str::from_utf8(LAB).unwrap().replace("routes_to = [\"red\"]", ""), 2);
    let said = plain(&mut worker, 0, &datagram(A, B, [1, 2]));
    let [(0, error)] = said.as_slice() else { panic!("{said:?}") };
    // RFC 1812 section 5.2.7.1: network unreachable.
    assert_eq!((&error[34..36], &error[30..34]), (&[3, 0][..], &A.octets()[..]));
}

#[test]
fn routing_and_answering_allocate_nothing() {
    let mut worker = lab();
    let mut run = |frames: &[(u16, Vec<u8>)]| {
        allocation_counter::measure(|| {
            for (port, frame) in frames {
                worker.io.inject(PortId(*port), &VnetHdr::default(), frame);
            }
            while worker.step(Wait::Poll).unwrap() > 0 {}
            (0..2).for_each(|port| _ = worker.io.discard(PortId(port)));
        })
        .count_total
    };
    // Who is where; two packets have to wait for that.
    run(&[(0, datagram(A, B, [1, 2])), (1, answer(B))]);
    run(&[(1, datagram(B, A, [2, 1])), (0, answer(A))]);
    let batch: Vec<(u16, Vec<u8>)> = (0..32u16)
        .map(|n| match n % 3 {
            0 => (0, datagram(A, B, [1000 + n, 2])),
            1 => (1, datagram(B, A, [2, 1000 + n - 1])),
            _ => (1, datagram(B, A, [7, n])), // prohibited: an ICMP error, or silence
        })
        .collect();
    (0..8).for_each(|_| _ = run(&batch)); // memory devices grow their queues once
    let allocated: u64 = (0..40).map(|_| run(&batch)).sum();
    assert_eq!(allocated, 0);
    let counters = worker.counters();
    assert!(counters.worker.forwarded.get() > 800, "routed both ways");
    assert_eq!(counters.worker.unaccounted(), 0);
}

/// Sends one frame, and gives what came out of which port.
fn sends(worker: &mut Worker<MemIo, House>, port: u16, vnet: &VnetHdr, frame: &[u8]) -> Vec<(u16, Vec<u8>)> {
    worker.io.inject(PortId(port), vnet, frame);
    while worker.step(Wait::Poll).unwrap() > 0 {}
    assert_eq!(worker.counters().worker.unaccounted(), 0);
    let of = |port: u16| {
        worker.io.take(PortId(port)).into_iter().map(move |(_, frame)| (port, frame)).collect::<Vec<_>>()
    };
    (0..4).flat_map(of).collect()
}

fn plain(worker: &mut Worker<MemIo, House>, port: u16, frame: &[u8]) -> Vec<(u16, Vec<u8>)> {
    sends(worker, port, &VnetHdr::default(), frame)
}

fn dropped(worker: &Worker<MemIo, House>, reason: DropReason) -> u64 {
    worker.counters().worker.drops[reason as usize].get()
}

/// The datagram with a byte of its IP header changed; `mend`: and the checksum right again.
fn edited(mut frame: Vec<u8>, at: usize, byte: u8, mend: bool) -> Vec<u8> {
    frame[14 + at] = byte;
    if mend {
        frame[24..26].fill(0);
        let check = !sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    }
    frame
}

/// A datagram of `len` bytes of IP packet.
fn long(from: Ipv4Addr, to: Ipv4Addr, len: u16) -> Vec<u8> {
    let mut frame = datagram(from, to, [1, 2]);
    frame.resize(14 + usize::from(len), 0x55);
    frame[38..40].copy_from_slice(&(len - 20).to_be_bytes());
    let [high, low] = len.to_be_bytes();
    edited(edited(frame, 2, high, false), 3, low, true)
}

/// `blue` with `a` (port 0), `r` (port 1) and a prefix behind `r`; `red`, which is narrower, with `b` (port 2). Both may
/// open connections to each other.
fn routed(blue: &str) -> Worker<MemIo, House> {
    let interface = |name: &str, network: &str, ip: &str| {
        format!(
            "[[container]]\nname = \"{name}\"\n[[container.interface]]\nnetwork = \"{network}\"\nip = \"{ip}\"\n"
        )
    };
    let text = format!(
        "[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\nroutes_to = \"all\"\n{blue}\n\
         [[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\nroutes_to = \"all\"\nmtu = 600\n\
         [[route]]\nnetwork = \"blue\"\ndestination = \"10.8.0.0/16\"\nvia = \"10.1.0.3\"\n{}{}{}",
        interface("a", "blue", "10.1.0.2"),
        interface("r", "blue", "10.1.0.3"),
        interface("b", "red", "10.2.0.2"),
    );
    let mut worker = lab_of(&text, 4);
    for (port, address) in [(0, A), (1, R), (2, B)] {
        let mut question = answer(address);
        question[21] = 1; // who has the gateway: and so everybody is known
        plain(&mut worker, port, &question);
    }
    worker
}

const R: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);

#[test]
fn a_gateway_is_not_the_way_around_icc_false() {
    let mut worker = routed("icc = false");
    for to in [R, Ipv4Addr::new(10, 8, 3, 4)] {
        assert_eq!(plain(&mut worker, 0, &datagram(A, to, [1, 2])), [], "to {to}");
    }
    assert_eq!(dropped(&worker, DropReason::IccDenied), 2);
    assert_eq!(plain(&mut worker, 0, &datagram(A, B, [1, 2])).len(), 1, "another network is");
}

#[test]
fn back_into_its_network_without_a_redirect() {
    // RFC 1812 section 5.2.7.2 lets a router send them; we send none: who believes them can be misled.
    let mut worker = routed("");
    let out = plain(&mut worker, 0, &datagram(A, Ipv4Addr::new(10, 8, 3, 4), [1, 2]));
    assert_eq!(out.len(), 1, "{out:?}");
    assert_eq!((out[0].0, &out[0].1[..6], out[0].1[22]), (1, &mac(R)[..], 63));
}

#[test]
fn what_a_router_sends_back_and_forth_ends() {
    // r has a default route to the gateway, and does not know 10.8.3.4 either (H22).
    let mut worker = routed("spoof = \"off\"");
    let mut frame = datagram(A, Ipv4Addr::new(10, 8, 3, 4), [1, 2]);
    let mut hops = 0;
    let last = loop {
        let (port, bytes) = plain(&mut worker, 1, &frame).pop().unwrap();
        hops += 1;
        if bytes[23] == 1 {
            break (port, bytes); // ICMP
        }
        let ttl = bytes[22];
        frame = edited(bytes, 8, ttl - 1, true);
        frame[..12].copy_from_slice(&[mac(gateway(A)), mac(R)].concat());
    };
    assert_eq!((hops, last.1[34], dropped(&worker, DropReason::TtlExceeded)), (33, 11, 1));
    // Under `claimed` it is not even sent twice: its source is another's.
    let mut worker = routed("");
    let mut looped = datagram(A, Ipv4Addr::new(10, 8, 3, 4), [1, 2]);
    looped[6..12].copy_from_slice(&mac(R));
    assert_eq!(plain(&mut worker, 1, &looped), []);
}

#[test]
fn the_last_hops() {
    let mut worker = routed("");
    for (ttl, out) in [(0, (0, 1, 11)), (1, (0, 1, 11)), (2, (2, 17, 0)), (255, (2, 17, 0))] {
        let sent = plain(&mut worker, 0, &edited(datagram(A, B, [1, 2]), 8, ttl, true));
        let (port, frame) = &sent[0];
        assert_eq!((*port, frame[23], frame[34]), out, "ttl {ttl}");
        assert_eq!(sent.len(), 1);
        if frame[23] == 17 {
            assert_eq!(frame[22], ttl - 1);
        }
    }
}

#[test]
fn a_super_frame_is_judged_by_its_segments() {
    let mut worker = routed("");
    let segment = |payload: usize| {
        let tcp = [
            &[0, 80, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0][..],
            &vec![7; payload],
        ];
        let tcp = tcp.concat();
        let mut frame = datagram(A, B, [1, 2]);
        frame.truncate(34);
        frame.extend(&tcp);
        let [high, low] = (20 + tcp.len() as u16).to_be_bytes();
        edited(edited(edited(frame, 2, high, false), 3, low, false), 9, 6, true)
    };
    let vnet = |size: u16| VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: VnetHdr::GSO_TCPV4,
        hdr_len: 54.into(),
        gso_size: size.into(),
        csum_start: 34.into(),
        csum_offset: 16.into(),
    };
    let frame = segment(30_000);
    let whole = sends(&mut worker, 0, &vnet(560), &frame);
    assert_eq!(
        (whole.len(), whole[0].0, whole[0].1.len()),
        (1, 2, frame.len()),
        "whole, though 600 is the MTU"
    );
    let refused = sends(&mut worker, 0, &vnet(561), &frame);
    assert_eq!((refused.len(), refused[0].0), (1, 0));
    assert_eq!(refused[0].1[34..36], [3, 4]);
    assert_eq!(refused[0].1[40..42], 600u16.to_be_bytes(), "RFC 1191: the MTU of the next hop");
    assert_eq!(dropped(&worker, DropReason::TooBig), 1);
}

#[test]
fn damage_is_not_mended() {
    // RFC 1812 section 5.2.2: by forwarding, by fragmenting, by waiting or by an error about it.
    let mut worker = routed("");
    let cases = [
        datagram(A, B, [1, 2]),
        edited(long(A, B, 1400), 6, 0, true),
        long(A, B, 1400),
        edited(datagram(A, B, [1, 2]), 8, 1, true),
        datagram(A, Ipv4Addr::new(10, 9, 9, 9), [1, 2]),
    ];
    for frame in &cases {
        assert!(!plain(&mut worker, 0, frame).is_empty(), "whole it is answered, or goes on");
        assert_eq!(plain(&mut worker, 0, &edited(frame.clone(), 1, 4, false)), []);
    }
    let bad = [DropReason::BadChecksum, DropReason::TooBig, DropReason::TtlExceeded, DropReason::NoRoute];
    assert_eq!(bad.map(|reason| dropped(&worker, reason)), [2, 2, 2, 2]);
}

#[test]
fn errors_are_few_however_many_are_asked_for() {
    // H23: five thousand in a second; 50 at once and 100 a second are answered.
    let mut worker = routed("");
    let frame = edited(datagram(A, B, [1, 2]), 8, 1, true);
    let answers: usize = (0..5000)
        .map(|n| {
            if n % 5 == 0 {
                worker.io.now = worker.io.now.plus_millis(1);
            }
            plain(&mut worker, 0, &frame).len()
        })
        .sum();
    assert!((100..=151).contains(&answers), "{answers}");
    assert_eq!(plain(&mut worker, 2, &edited(datagram(B, A, [1, 2]), 8, 1, true)).len(), 1, "b has its own");
}

#[test]
fn options_pass_and_source_routes_do_not() {
    // RFC 1812 section 5.2.4.1: what is not understood is left alone. Section 5.3.13.4: a recorded route has the address
    // by which we are known where it goes.
    let with = |options: [u8; 8]| {
        let plain = datagram(A, B, [1, 2]);
        let mut frame = [&plain[..34], &options, &plain[34..]].concat();
        frame[16..18].copy_from_slice(&44u16.to_be_bytes());
        frame[14] = 0x47;
        frame[24..26].fill(0);
        let check = !sum(&frame[14..42]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        frame
    };
    let mut worker = routed("");
    let route = ([7, 7, 4, 0, 0, 0, 0, 0], [7, 7, 8, 10, 2, 0, 1, 0]);
    let others = [[148, 4, 0, 0, 1, 1, 1, 1], [222, 8, 1, 2, 3, 4, 5, 6]].map(|options| (options, options));
    for (options, expected) in [&[route][..], &others].concat() {
        let out = plain(&mut worker, 0, &with(options));
        assert_eq!((out.len(), out[0].0, &out[0].1[34..42]), (1, 2, &expected[..]));
    }
    for kind in [131, 137] {
        assert_eq!(plain(&mut worker, 0, &with([kind, 7, 4, 10, 2, 0, 2, 0])), []);
    }
    assert_eq!(dropped(&worker, DropReason::SourceRoute), 2);
}

#[test]
fn what_went_to_many_is_not_routed_and_nobody_is_told() {
    let mut worker = routed("");
    // RFC 1812 section 5.3.4: by a broadcast frame. The bridge floods it, the router leaves it.
    let mut broadcast = datagram(A, B, [1, 2]);
    broadcast[..6].fill(0xff);
    assert_eq!(plain(&mut worker, 0, &broadcast), [(1, broadcast.clone())], "to r, who is on blue, alone");
    // Sections 5.3.5.1 and 5.3.5.2 (RFC 2644), and what is never routed; link-local and loopback sources.
    let blue_and_red =
        [[255, 255, 255, 255], [10, 1, 0, 255], [10, 2, 0, 255], [10, 2, 0, 0], [224, 0, 0, 251]];
    for to in
        blue_and_red.into_iter().chain([[127, 0, 0, 1], [169, 254, 169, 254], [0, 0, 0, 0], [240, 0, 0, 1]])
    {
        assert_eq!(plain(&mut worker, 0, &datagram(A, to.into(), [1, 2])), [], "to {to:?}");
    }
    assert_eq!(dropped(&worker, DropReason::Martian), 9);
}

/// `a` on `blue` (port 0), which is wide and may open connections to `red`, with `b` (port 1) and `c` (port 2). Everybody
/// is known.
fn narrower() -> (Worker<MemIo, House>, Arc<ArcSwap<Snapshot<Tables>>>) {
    let lab = std::str::from_utf8(LAB).unwrap();
    let lab = lab.replace("routes_to", "mtu = 9000\nroutes_to");
    let c = "[[container]]\nname = \"c\"\n[[container.interface]]\nnetwork = \"red\"\n";
    let (mut worker, snapshot) = shared(&format!("{lab}{c}"), 4);
    for (port, address) in [(0, A), (1, B), (2, C)] {
        let mut question = answer(address);
        question[21] = 1;
        plain(&mut worker, port, &question);
    }
    (worker, snapshot)
}

const C: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 3);

/// 3000 bytes that may be cut.
fn cuttable(to: Ipv4Addr) -> Vec<u8> {
    edited(long(A, to, 3000), 6, 0, true)
}

#[test]
fn what_was_cut_is_answered_like_what_was_whole() {
    let (mut worker, _) = narrower();
    let back = datagram(B, A, [2, 1]);
    assert!(plain(&mut worker, 1, &back).iter().all(|(port, _)| *port == 1), "nothing was opened yet");
    assert_eq!(dropped(&worker, DropReason::Prohibited), 1);
    let cut = plain(&mut worker, 0, &cuttable(B));
    assert_eq!(
        cut.iter().map(|(port, frame)| (*port, frame.len())).collect::<Vec<_>>(),
        [(1, 1514), (1, 1514), (1, 54)]
    );
    let answers = plain(&mut worker, 1, &back);
    assert_eq!((answers.len(), answers[0].0), (1, 0), "{answers:?}");
    // The next hop is asked again after a while, as for what goes whole.
    worker.io.now = worker.io.now.plus_millis(31_000);
    let cut = plain(&mut worker, 0, &cuttable(B));
    assert_eq!((cut.len(), &cut[3].1[12..14]), (4, &[8, 6][..]));
    // A priority tag ends at the router.
    let mut tagged = cuttable(C);
    tagged.splice(12..12, [0x81, 0, 0xa0, 0]);
    let cut = plain(&mut worker, 0, &tagged);
    let types: Vec<_> = cut.iter().map(|(port, frame)| (*port, [frame[12], frame[13]])).collect();
    assert_eq!(types, [(2, [8, 0]), (2, [8, 0]), (2, [8, 0]), (2, [8, 6])], "and c is asked, too");
}

#[test]
fn a_later_fragment_is_what_its_first_one_was() {
    // RFC 1858: it has no l4 ports, and whoever listens to raw packets reads it without the first.
    let (mut worker, _) = narrower();
    let piece = |id: u8, field: [u8; 2]| {
        let frame = edited(edited(datagram(B, A, [2, 1]), 5, id, false), 6, field[0], false);
        edited(frame, 7, field[1], true)
    };
    let (first, later) = ([0x20, 0], [0, 2]);
    let to_a = |sent: Vec<(u16, Vec<u8>)>| sent.iter().filter(|(port, _)| *port == 0).count();
    assert_eq!(to_a(plain(&mut worker, 1, &piece(1, later))), 0, "b may not open connections to a");
    assert_eq!(to_a(plain(&mut worker, 1, &piece(1, first))), 0);
    assert_eq!(to_a(plain(&mut worker, 1, &piece(1, later))), 0, "its first one was not let through");
    plain(&mut worker, 0, &datagram(A, B, [1, 2]));
    assert_eq!(to_a(plain(&mut worker, 1, &piece(2, later))), 0, "an answer begins with its beginning");
    assert_eq!(
        to_a(plain(&mut worker, 1, &piece(2, first))),
        2,
        "and the rest follows it, which came before"
    );
    assert_eq!(to_a(plain(&mut worker, 1, &piece(2, later))), 1);
    assert_eq!(to_a(plain(&mut worker, 1, &piece(3, later))), 0, "of another packet");
    assert_eq!(dropped(&worker, DropReason::Prohibited), 1);
    worker.io.now = worker.io.now.plus_millis(2000);
    assert_eq!(to_a(plain(&mut worker, 1, &piece(4, later))), 0);
    assert_eq!(dropped(&worker, DropReason::NatFragment), 3, "two of the first packet, and one of the third");
}

#[test]
fn no_fragment_goes_where_no_packet_may() {
    let (mut worker, snapshot) = narrower();
    assert_eq!(plain(&mut worker, 0, &cuttable(B)).len(), 3);
    // A port that moved to another network while an entry still names it.
    let mut moved = Snapshot::clone(&snapshot.load());
    moved.ports[1].as_mut().unwrap().network = NetworkId(0);
    snapshot.store(Arc::new(moved));
    assert_eq!(plain(&mut worker, 0, &cuttable(B)), []);
    assert_eq!(dropped(&worker, DropReason::StaleEntry), 1);
    // The host's leg gets what is for its own address, and nothing that it would forward.
    let mut host = Snapshot::clone(&snapshot.load());
    host.networks[1].as_mut().unwrap().claims.host = Some(PortId(2));
    host.networks[1].as_mut().unwrap().claims.ips.remove(&C.to_ipv6_mapped());
    snapshot.store(Arc::new(host));
    assert_eq!(plain(&mut worker, 0, &cuttable(C)), []);
    assert_eq!(dropped(&worker, DropReason::NotForHost), 1);
}
