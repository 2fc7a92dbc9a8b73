//! Two engines with a tunnel between them, over the loopback.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "../../switch/tests/corpus/maker.rs"]
mod maker;
#[path = "laws/packets.rs"]
#[allow(dead_code)] // the laws use more of it
mod packets;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use packets::{Spec, parsed};
use switch::books::{Books, Ticket};
use switch::drop::DropReason;
use switch::frame::Pool;
use switch::io::mem::MemIo;
use switch::io::{Batch, Eye, Io, Sent, Wait};
use switch::port::PortId;
use switch::vnet::VnetHdr;
use vxlan::encap::Underlay;
use vxlan::overlay::Overlay;
use vxlan::settings::{OverlayCounters, Published, Remote, Settings, Twice};
use vxlan::sockets::Sockets;
use vxlan::wire::{Reserved, Vni, VxlanHdr};
use zerocopy::{FromBytes, IntoBytes};

const PATIENCE: Duration = Duration::from_secs(20);
/// The port that is the remote; port 0 is an ordinary one.
const REMOTE: PortId = PortId(1);

fn vni(number: u32) -> Vni {
    Vni::new(number).unwrap()
}

/// One host.
struct Host {
    overlay: Overlay<MemIo>,
    published: Published,
    sockets: Arc<Sockets>,
    pool: Pool,
    books: Books,
    batch: Batch,
    address: SocketAddr,
}

impl Host {
    fn new(local: SocketAddr, gso: bool) -> Self {
        let sockets = Arc::new(Sockets::open(local, 4, gso).unwrap());
        let address = sockets.receivers[0].local_addr().unwrap();
        let published = Published::default();
        let overlay = Overlay::new(MemIo::new(2), Arc::clone(&published), 0).unwrap();
        let (pool, books, batch) = (Pool::new(64), Books::new(2), Batch::new());
        Self { overlay, published, sockets, pool, books, batch, address }
    }

    fn remote(&self) -> Remote {
        let underlay = Underlay::new(1500, false).unwrap();
        Remote { address: self.address, vni: vni(7), underlay, mtu: 1450 }
    }

    /// Publishes who the remotes are.
    fn knows(&mut self, remotes: &[(PortId, Remote)]) {
        let sockets = Box::new([Arc::clone(&self.sockets)]);
        let networks = [(vni(7), 1450), (vni(9), 1450)];
        let settings = Settings::new(sockets, Reserved::Accept, networks, remotes.iter().copied());
        self.published.store(Arc::new(settings.unwrap()));
        let mut batch = Batch::new();
        self.overlay.rx(&mut self.pool, &mut batch, Wait::Poll).unwrap();
    }

    fn counters(&self) -> &OverlayCounters {
        self.overlay.counters()
    }

    fn tx(&mut self, vnet: &VnetHdr, frame: &[u8]) -> Result<Sent, DropReason> {
        let fill = |to: &mut [u8]| {
            let bytes = [vnet.as_bytes(), frame].concat();
            to[..bytes.len()].copy_from_slice(&bytes);
            Ok::<_, ()>(bytes.len())
        };
        let it = self.pool.fill(PortId(0), fill).unwrap();
        let meta = parsed(vnet, frame).meta;
        let sent = self.overlay.tx(&mut self.pool, REMOTE, &it, &meta, Ticket::ALONE, &mut self.books);
        self.pool.release(&it);
        sent
    }

    fn flush(&mut self) {
        self.overlay.flush(&mut self.pool, &mut self.books);
    }

    /// Frames that come, until there are so many bytes of them.
    fn rx(&mut self, bytes: usize) -> Vec<(VnetHdr, Vec<u8>)> {
        let deadline = Instant::now() + PATIENCE;
        let (mut all, mut total) = (Vec::new(), 0);
        while total < bytes {
            assert!(Instant::now() < deadline, "{total} of {bytes} bytes, {:?}", self.counters());
            let mut batch = Batch::new();
            batch.watched[Eye::Around as usize] = true; // no engine around it looks
            self.overlay.rx(&mut self.pool, &mut batch, Wait::Poll).unwrap();
            for frame in batch.frames {
                assert_eq!(frame.port, REMOTE);
                let (vnet, bytes) = VnetHdr::read_from_prefix(self.pool.wire(&frame)).unwrap();
                total += bytes.len();
                all.push((vnet, bytes.to_vec()));
                self.pool.release(&frame);
            }
        }
        all
    }

    /// Receives until so many were lost for this reason.
    fn until(&mut self, port: PortId, reason: DropReason, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        let lost = |batch: &Batch| {
            batch
                .lost
                .iter()
                .filter(|it| (it.port, it.reason) == (port, reason))
                .map(|it| it.count)
                .sum::<u64>()
        };
        while lost(&self.batch) < count {
            assert!(Instant::now() < deadline, "{:?} {:?}", self.batch.lost, self.counters());
            self.batch.watched[Eye::Around as usize] = true;
            self.overlay.rx(&mut self.pool, &mut self.batch, Wait::Poll).unwrap();
        }
        assert_eq!(lost(&self.batch), count);
        self.batch.lost.clear();
    }
}

/// Two hosts that know each other.
fn hosts(gso: bool) -> [Host; 2] {
    let mut one = Host::new(SocketAddr::from(([127, 0, 0, 1], 0)), gso);
    // Another address of the loopback, and the same l4 port, as VTEPs have it.
    let mut two = Host::new(SocketAddr::from(([127, 0, 0, 2], one.address.port())), gso);
    one.knows(&[(REMOTE, two.remote())]);
    two.knows(&[(REMOTE, one.remote())]);
    [one, two]
}

fn super_frame(sport: u16, v6: bool) -> (VnetHdr, Vec<u8>) {
    let payload = (0..60_000).map(|at| at as u8).collect();
    let spec = Spec { sport, v6, payload, flags: packets::ACK | packets::PSH, ..Spec::default() };
    (spec.vnet(1300), spec.frame(true))
}

/// The payload of each flow. A super-frame may come in two, where the kernel handed it over in two batches.
fn payloads(frames: impl IntoIterator<Item = Vec<u8>>) -> BTreeMap<u16, Vec<u8>> {
    let piece = |frame: Vec<u8>| {
        let packet = parsed(&VnetHdr::default(), &frame);
        let payload = frame[usize::from(packet.meta.headers_len)..].to_vec();
        (packet.key.sport, packet.meta.tcp.map_or(0, |it| it.seq), payload)
    };
    let mut pieces: Vec<_> = frames.into_iter().map(piece).collect();
    pieces.sort();
    let mut flows = BTreeMap::<u16, Vec<u8>>::new();
    pieces.into_iter().for_each(|(sport, _, bytes)| flows.entry(sport).or_default().extend(bytes));
    flows
}

fn many_frames(gso: bool) {
    let [mut one, mut two] = hosts(gso);
    let mut want = Vec::new();
    for sport in 0..12 {
        let (vnet, frame) = super_frame(sport, sport % 2 == 0);
        assert_eq!(one.tx(&vnet, &frame), Ok(Sent::Queued));
        want.push(frame);
        let small = Spec { sport: 900 + sport, tcp: false, payload: vec![9; 64], ..Spec::default() };
        assert_eq!(one.tx(&small.vnet(0), &small.frame(true)), Ok(Sent::Queued));
        want.push(small.frame(false));
    }
    one.flush();
    assert_eq!((one.pool.available(), one.books.counters.worker.forwarded.get()), (64, 24));
    // More bytes where a super-frame comes in two, never fewer.
    let got = two.rx(want.iter().map(Vec::len).sum());
    let largest = got.iter().map(|(_, frame)| frame.len()).max().unwrap();
    assert!(largest > 10_000, "they were put together: {largest}");
    assert_eq!(payloads(got.into_iter().map(|(_, frame)| frame)), payloads(want));
    assert_eq!(two.pool.available(), 64);
    assert_eq!(two.batch.lost, []);
}

#[test]
fn frames_go_through_many_at_a_time() {
    many_frames(true);
}

#[test]
fn frames_go_through_one_by_one() {
    many_frames(false);
}

#[test]
fn frames_of_other_ports_are_not_touched() {
    let [mut one, _two] = hosts(true);
    let frame = Spec::default().frame(false);
    one.overlay.io.inject(PortId(0), &VnetHdr::default(), &frame);
    let mut batch = Batch::new();
    one.overlay.rx(&mut one.pool, &mut batch, Wait::Poll).unwrap();
    let arrived = batch.frames[0];
    assert_eq!(arrived.port, PortId(0));
    let meta = parsed(&VnetHdr::default(), &frame).meta;
    let sent = one.overlay.tx(&mut one.pool, PortId(0), &arrived, &meta, Ticket::ALONE, &mut one.books);
    assert_eq!((sent, one.overlay.io.take(PortId(0)).len()), (Ok(Sent::Now), 1));
}

/// A flood from a remote and one from a port: each has every other batch, whoever was first.
#[test]
fn remotes_and_ports_keep_nobody_waiting() {
    const EACH: usize = 300;
    let [mut one, mut two] = hosts(true);
    let frame = |sport| Spec { sport, tcp: false, payload: vec![9; 40], ..Spec::default() }.frame(false);
    for sport in 0..EACH {
        two.overlay.io.inject(PortId(0), &VnetHdr::default(), &frame(sport as u16));
        one.tx(&VnetHdr::default(), &frame(sport as u16)).unwrap();
        one.flush();
    }
    let (mut of_port, mut of_remote, mut batches) = (0, 0, Vec::new());
    let deadline = Instant::now() + PATIENCE;
    while of_port < EACH || of_remote < EACH {
        assert!(Instant::now() < deadline, "{of_port} and {of_remote}: {:?}", two.counters());
        let mut batch = Batch::new();
        batch.watched[Eye::Around as usize] = true;
        two.overlay.rx(&mut two.pool, &mut batch, Wait::Poll).unwrap();
        let remotes = batch.frames.iter().filter(|frame| frame.port == REMOTE).count();
        batches.push((batch.frames.len() - remotes, remotes));
        of_port += batch.frames.len() - remotes;
        of_remote += remotes;
        batch.frames.iter().for_each(|frame| two.pool.release(frame));
    }
    // As long as both have something, neither is without a frame for two batches.
    let both = batches.iter().scan((0, 0), |seen, (ports, remotes)| {
        let before = *seen;
        *seen = (seen.0 + ports, seen.1 + remotes);
        Some((before, (*ports, *remotes)))
    });
    let busy: Vec<_> =
        both.filter(|(before, _)| before.0 < EACH && before.1 < EACH).map(|(_, batch)| batch).collect();
    assert!(busy.len() > 4, "{batches:?}");
    for pair in busy.windows(2) {
        assert!(pair.iter().any(|batch| batch.0 > 0) && pair.iter().any(|batch| batch.1 > 0), "{batches:?}");
    }
}

#[test]
fn strangers_are_not_believed() {
    let [one, mut two] = hosts(true);
    let frame = Spec::default().frame(false);
    let datagram = |number| [VxlanHdr::new(vni(number)).as_bytes(), &frame].concat();
    let (to, nobody) = (two.address, PortId::NOBODY);
    let stranger = UdpSocket::bind("127.0.0.3:0").unwrap();
    stranger.send_to(&datagram(7), to).unwrap();
    two.until(nobody, DropReason::VxlanUnknownVtep, 1);
    // The address of a remote, a network that it is not in, and one that is nowhere.
    let known = UdpSocket::bind((one.address.ip(), 0)).unwrap();
    known.send_to(&datagram(9), to).unwrap();
    two.until(nobody, DropReason::VxlanUnknownVtep, 1);
    known.send_to(&datagram(8), to).unwrap();
    two.until(nobody, DropReason::VxlanUnknownVni, 1);
    known.send_to(&datagram(7)[..21], to).unwrap();
    known.send_to(b"", to).unwrap();
    known.send_to(&[0; 22], to).unwrap();
    two.until(nobody, DropReason::VxlanMalformed, 3);
    let mut tagged = datagram(7);
    tagged.splice(20..20, [0x81, 0, 0, 10]);
    known.send_to(&tagged, to).unwrap();
    two.until(REMOTE, DropReason::VxlanTagged, 1);
    let mut reserved = datagram(7);
    reserved[7] = 1;
    known.send_to(&reserved, to).unwrap();
    assert_eq!(two.rx(frame.len()), [(VnetHdr::default(), frame)]);
    assert_eq!((two.counters().reserved.get(), two.counters().datagrams.get()), (1, 8));
}

#[test]
fn a_remote_is_one_port() {
    let [one, two] = hosts(true);
    let sockets = || Box::new([Arc::clone(&one.sockets)]);
    let settings = |remotes: &[(PortId, Remote)]| {
        Settings::new(sockets(), Reserved::Accept, [], remotes.iter().copied()).map(drop)
    };
    let twice = Twice { address: two.address.ip(), vni: vni(7) };
    assert_eq!(settings(&[(REMOTE, two.remote()), (PortId(0), two.remote())]), Err(twice));
    let other = Remote { vni: vni(8), ..two.remote() };
    assert_eq!(settings(&[(REMOTE, two.remote()), (PortId(0), other)]), Ok(()));
}

#[test]
fn sockets_come_and_go() {
    let [mut one, mut two] = hosts(true);
    let frame = Spec::default();
    two.published.store(Arc::default());
    two.overlay.rx(&mut two.pool, &mut Batch::new(), Wait::Poll).unwrap();
    assert_eq!(two.tx(&frame.vnet(0), &frame.frame(true)), Ok(Sent::Now), "no remote any more");
    two.knows(&[(REMOTE, one.remote())]);
    one.tx(&frame.vnet(0), &frame.frame(true)).unwrap();
    one.flush();
    assert_eq!(two.rx(1), [(VnetHdr::default(), frame.frame(false))]);
}

#[test]
fn what_the_underlay_does_not_take_is_said() {
    let [mut one, mut two] = hosts(true);
    let long = Spec { payload: vec![1; 1411], ..Spec::default() };
    assert_eq!(one.tx(&long.vnet(0), &long.frame(true)), Err(DropReason::TooBig));
    // The remote is nowhere: known when it is sent.
    let underlay = Underlay::new(1500, false).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 2], 0));
    one.knows(&[(REMOTE, Remote { address, vni: vni(7), underlay, mtu: 1450 })]);
    let (vnet, frame) = super_frame(5, false);
    assert_eq!(one.tx(&vnet, &frame), Ok(Sent::Queued));
    one.flush();
    let worker = &one.books.counters.worker;
    let drops: u64 = worker.drops.iter().map(|drop| drop.get()).sum();
    assert_eq!((drops, worker.forwarded.get(), one.pool.available()), (1, 0, 64));
    // It was no fault of segmentation, but the kernel says the same where it is.
    assert_eq!(one.counters().gso_off.get(), 1);
    one.knows(&[(REMOTE, two.remote())]);
    let short = Spec { payload: vec![1; 10], ..Spec::default() };
    one.tx(&short.vnet(0), &short.frame(true)).unwrap();
    one.flush();
    assert_eq!(two.rx(1), [(VnetHdr::default(), short.frame(false))]);
}

#[test]
fn nothing_is_allocated() {
    let [mut one, mut two] = hosts(true);
    let (vnet, frame) = super_frame(5, false);
    let wire = [vnet.as_bytes(), &frame].concat();
    let meta = parsed(&vnet, &frame).meta;
    let mut batch = Batch::new();
    let deadline = Instant::now() + PATIENCE;
    let info = allocation_counter::measure(|| {
        for _ in 0..4 {
            let fill = |to: &mut [u8]| {
                to[..wire.len()].copy_from_slice(&wire);
                Ok::<_, ()>(wire.len())
            };
            let it = one.pool.fill(PortId(0), fill).unwrap();
            one.overlay.tx(&mut one.pool, REMOTE, &it, &meta, Ticket::ALONE, &mut one.books).unwrap();
            one.pool.release(&it);
            one.overlay.flush(&mut one.pool, &mut one.books);
        }
        let mut bytes = 0;
        while bytes < 4 * frame.len() && Instant::now() < deadline {
            batch.watched[Eye::Around as usize] = true;
            two.overlay.rx(&mut two.pool, &mut batch, Wait::Poll).unwrap();
            for frame in batch.frames.drain(..) {
                bytes += frame.len();
                two.pool.release(&frame);
            }
        }
        assert!(bytes >= 4 * frame.len());
    });
    assert_eq!(info.count_total, 0);
}
