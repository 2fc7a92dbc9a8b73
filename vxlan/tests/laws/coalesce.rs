//! Segments put together.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use switch::flow::{Gso, Packet};
use switch::parse::parse;
use switch::port::PortId;
use switch::segment;
use switch::vnet::VnetHdr;
use vxlan::coalesce::Coalescer;
use vxlan::decap::Inner;
use vxlan::ecn::Ecn;
use vxlan::wire::{Reserved, Vni, VxlanHdr};
use zerocopy::{FromBytes, IntoBytes};

use crate::maker::{fold, put, sum};
use crate::packets::*;
use crate::received::{Rules, frames};

/// One write to a TAP.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Write {
    stream: u32,
    count: u16,
    vnet: VnetHdr,
    frame: Vec<u8>,
}

impl Write {
    fn packet(&self) -> Packet {
        parse(&self.frame, &self.vnet, PortId(0), 0).unwrap()
    }

    /// The frames that it stands for.
    fn cut(&self) -> Vec<Vec<u8>> {
        let meta = self.packet().meta;
        if meta.gso == Gso::None {
            return vec![self.frame.clone()];
        }
        let mut out = vec![0; 70_000];
        (0..segment::count(&meta))
            .map(|index| {
                let len = segment::segment(&self.frame, &meta, index, &mut out).unwrap();
                out[..len].to_vec()
            })
            .collect()
    }
}

/// What a batch of frames, each of a stream, comes to.
fn coalesced(batch: &[(u32, Vec<u8>)]) -> Vec<Write> {
    let rules = Rules { reserved: Reserved::Accept, mtu: 65_535 };
    let (mut buffer, mut inners) = (Vec::new(), Vec::<(u32, Inner)>::new());
    for (stream, frame) in batch {
        let start = buffer.len() as u32;
        let mut datagram = [VxlanHdr::new(Vni::MAX).as_bytes(), frame].concat();
        if let Some(Ok(inner)) = frames(&mut datagram, None, Ecn::NotEct, rules).next() {
            inners.push((*stream, Inner { start: start + inner.start, ..inner }));
        }
        buffer.extend(datagram);
    }
    let mut coalescer = Coalescer::new(2000);
    // Twice, for a batch must leave nothing behind; then with a look at what comes next in a message: those of a stream in
    // a row are one.
    let mut writes = [(); 3].map(|()| Vec::new());
    for (round, writes) in writes.iter_mut().enumerate() {
        coalescer.clear();
        let mut before = None;
        for (stream, inner) in &inners {
            if before.replace(*stream) != Some(*stream) {
                coalescer.next_message();
            }
            let start = inner.start as usize;
            let range = start - VxlanHdr::LEN..start + inner.len as usize;
            let next = round == 2 && coalescer.extend(&buffer, range);
            assert!(next || coalescer.add(&buffer, *stream, inner));
        }
        *writes = written(&coalescer, &buffer);
    }
    let [first, second, looked] = writes;
    assert_eq!(first, second);
    assert_eq!(first, looked);
    first
}

/// What is in it, written.
fn written(coalescer: &Coalescer, buffer: &[u8]) -> Vec<Write> {
    let mut to = vec![0x5a; 66_000];
    coalescer
        .outs()
        .map(|out| {
            let len = coalescer.write(buffer, out, &mut to).unwrap();
            assert_eq!(len, out.len);
            let (vnet, frame) = VnetHdr::read_from_prefix(&to[..len]).unwrap();
            Write { stream: out.stream, count: out.count, vnet, frame: frame.to_vec() }
        })
        .collect()
}

/// Of one stream.
fn joined(frames: &[Vec<u8>]) -> Vec<Write> {
    coalesced(&frames.iter().map(|frame| (0, frame.clone())).collect::<Vec<_>>())
}

/// The frame without identification and header checksum, where Don't Fragment is set.
pub fn without_id(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[12..14] == [8, 0] && frame[20] & 0x40 != 0 {
        frame[18..20].fill(0);
        frame[24..26].fill(0);
    }
    frame
}

/// A flow: pieces of one stream of bytes, with something in between now and then.
fn flow(number: u16) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let step = (0u8..30, 1usize..1400, any::<u8>());
    (any::<bool>(), any::<bool>(), any::<u32>(), 48usize..1400, vec(step, 1..40)).prop_map(
        move |(v6, df, seq, size, steps)| {
            let mut next = Spec { v6, df, seq, sport: number, payload: vec![7; size], ..Spec::default() };
            let mut frames = Vec::new();
            for (what, len, byte) in steps {
                let mut this = next.clone();
                match what {
                    0 => this.payload = vec![byte; len],
                    1 => this.flags |= PSH,
                    2 => this.flags |= FIN,
                    3 => this.flags |= CWR,
                    4 => this.ttl = byte.max(1),
                    5 => this.tos = byte,
                    6 => this.options = vec![1; 12],
                    7 => this.payload = Vec::new(),
                    8 => next.ack = this.ack.wrapping_add(1),
                    9 => next.window = this.window.wrapping_add(1),
                    10 => this.seq = this.seq.wrapping_add(1),
                    11 => this.id = this.id.wrapping_add(1),
                    12 => this.tcp = false,
                    _ => {}
                }
                let mut frame = this.frame(false);
                if what == 13 {
                    *frame.last_mut().unwrap() ^= 1; // a wrong checksum
                }
                if what == 14 {
                    frame.extend([0; 3]); // padding
                }
                frames.push(frame);
                next.seq = next.seq.wrapping_add(this.payload.len() as u32);
                next.id = next.id.wrapping_add(1);
            }
            frames
        },
    )
}

/// By stream and flow, in order.
fn by_flow(frames: impl Iterator<Item = (u32, Vec<u8>)>) -> BTreeMap<(u32, String), Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for (stream, frame) in frames {
        let key = parse(&frame, &VnetHdr::default(), PortId(0), 0).unwrap().key;
        flows.entry((stream, format!("{key:?}"))).or_default().push(without_id(frame));
    }
    flows
}

/// The law: nothing is lost, changed or made up, and flows keep their order.
fn check(batch: &[(u32, Vec<u8>)]) -> Result<(), TestCaseError> {
    let writes = coalesced(batch);
    let cut = writes.iter().flat_map(|write| write.cut().into_iter().map(|frame| (write.stream, frame)));
    let (got, want) = (by_flow(cut), by_flow(batch.iter().cloned()));
    prop_assert!(got == want, "{} frames became {} writes", batch.len(), writes.len());
    for write in &writes {
        let meta = write.packet().meta;
        prop_assert_eq!(meta.gso != Gso::None, write.count > 1);
        prop_assert_eq!(segment::count(&meta).max(1), usize::from(write.count));
        // One alone is untouched, wrong or not; what others were put behind is right.
        prop_assert!(write.count == 1 || write.vnet.needs_csum());
    }
    Ok(())
}

proptest! {
    #[test]
    fn cut_again_they_are_what_came(
        flows in vec((0u32..2, (1u16..60).prop_flat_map(flow)), 1..6),
        order in vec(any::<prop::sample::Index>(), 240),
    ) {
        let mut left: Vec<_> = flows.iter().map(|(stream, frames)| (*stream, frames.iter())).collect();
        let mut batch = Vec::new();
        for turn in order {
            left.retain(|(_, frames)| frames.len() > 0);
            if left.is_empty() {
                break;
            }
            let turn = turn.index(left.len());
            let (stream, frames) = &mut left[turn];
            batch.push((*stream, frames.next().unwrap().clone()));
        }
        check(&batch)?;
    }

    #[test]
    fn segments_of_a_super_frame_are_it_again(spec in any_spec(65_535 - 120), size in 48usize..1400) {
        let flags = ACK | (spec.flags & PSH);
        let spec = Spec { tcp: true, flags, ..spec };
        prop_assume!(spec.payload.len() > size);
        let writes = joined(&spec.cut(size).iter().map(|spec| spec.frame(false)).collect::<Vec<_>>());
        prop_assert_eq!(writes.len(), 1);
        prop_assert_eq!(&writes[0].vnet, &spec.vnet(size as u16));
        prop_assert_eq!(&writes[0].frame, &spec.frame(true));
    }

    /// Frames that were changed anywhere, checksums made good again or not: no panic, nothing lost.
    #[test]
    fn changed_frames_are_not_lost(
        spec in any_spec(9000), changes in vec((any::<prop::sample::Index>(), 0usize..80, any::<u8>(), any::<bool>()), 0..6),
    ) {
        let mut all: Vec<_> = spec.cut(700).iter().map(|spec| (0, spec.frame(false))).collect();
        prop_assume!(!all.is_empty());
        for (which, at, value, mend) in changes {
            let which = which.index(all.len());
            let frame = &mut all[which].1;
            let at = at % frame.len();
            frame[at] = value;
            if mend {
                mend_header(frame);
            }
        }
        // What is no frame does not get here.
        all.retain(|(_, frame)| parse(frame, &VnetHdr::default(), PortId(0), 0).is_ok_and(|packet| {
            packet.meta.vlan.is_none() && !packet.meta.src.is_group() && packet.meta.src != Default::default()
        }));
        check(&all)?;
    }
}

fn mend_header(frame: &mut [u8]) {
    if frame[12..15] == [8, 0, 0x45] {
        put(frame, 24, 0);
        let check = !fold(sum(&frame[14..34]));
        put(frame, 24, check);
    }
}

fn count(specs: &[Spec]) -> Vec<u16> {
    joined(&specs.iter().map(|spec| spec.frame(false)).collect::<Vec<_>>())
        .iter()
        .map(|write| write.count)
        .collect()
}

#[test]
fn what_ends_a_super_frame() {
    let whole = |v6| Spec { v6, payload: vec![5; 4 * 1000], ..Spec::default() }.cut(1000);
    type Change = fn(&mut Spec);
    // The third of four is another; those after it are as before, and are what follows it.
    let cases: [(&str, Change, &[u16]); 12] = [
        ("nothing", |_| {}, &[4]),
        ("pushed", |it| it.flags |= PSH, &[3, 1]),
        ("the end", |it| it.flags |= FIN, &[2, 1, 1]),
        ("congested", |it| it.flags |= CWR, &[2, 1, 1]),
        ("echo of congestion", |it| it.flags |= 0x40, &[2, 1, 1]),
        ("urgent", |it| it.flags |= 0x20, &[2, 1, 1]),
        ("TTL", |it| it.ttl = 9, &[2, 1, 1]),
        ("TOS", |it| it.tos = 3, &[2, 1, 1]),
        ("acknowledgment", |it| it.ack += 1, &[2, 1, 1]),
        ("window", |it| it.window += 1, &[2, 1, 1]),
        ("options", |it| it.options = vec![1; 12], &[2, 1, 1]),
        ("sequence", |it| it.seq += 1, &[2, 1, 1]),
    ];
    for (what, change, want) in cases {
        for v6 in [false, true] {
            let mut specs = whole(v6);
            change(&mut specs[2]);
            assert_eq!(count(&specs), want, "{what}, IPv6: {v6}");
        }
    }
    let mut specs = whole(false);
    specs[2].df = false;
    assert_eq!(count(&specs), [2, 1, 1], "Don't Fragment");
    let mut specs: Vec<_> = whole(false).into_iter().map(|spec| Spec { df: false, ..spec }).collect();
    assert_eq!(count(&specs), [4]);
    specs[2].id += 1;
    assert_eq!(count(&specs), [2, 1, 1], "identification");
    let mut specs = whole(false);
    specs[2].id += 1;
    assert_eq!(count(&specs), [4], "identification that means nothing");
}

#[test]
fn shorter_ones_end_it_and_longer_ones_begin_another() {
    let spec = Spec { payload: vec![5; 3500], ..Spec::default() };
    assert_eq!(count(&spec.cut(1000)), [4]);
    let next = Spec { seq: 4500, payload: vec![6; 2000], ..Spec::default() };
    assert_eq!(count(&[spec.cut(1000), next.cut(1000)].concat()), [4, 2]);
    let next = Spec { seq: 4000, payload: vec![6; 2200], ..Spec::default() };
    assert_eq!(count(&[spec.cut(1000)[..3].to_vec(), next.cut(1100)].concat()), [3, 2]);
    // As long as an IP packet may be, and what is too small is not worth it.
    let long = Spec { payload: vec![5; 70_000], ..Spec::default() };
    assert_eq!(count(&long.cut(1000)), [65, 5]);
    assert_eq!(count(&Spec { payload: vec![5; 94], ..Spec::default() }.cut(47)), [1, 1]);
    assert_eq!(count(&Spec { payload: Vec::new(), ..Spec::default() }.cut(1)), [0u16; 0]);
}

#[test]
fn a_wrong_checksum_stays_for_the_receiver_to_find() {
    let spec = Spec { payload: vec![5; 3000], ..Spec::default() };
    for at in [40, 60, 25] {
        let mut batch: Vec<_> = spec.cut(1000).iter().map(|spec| spec.frame(false)).collect();
        batch[1][at] ^= 0x40;
        let writes = joined(&batch);
        assert_eq!(writes.len(), 3, "{at}");
        assert_eq!((&writes[1].frame, writes[1].vnet), (&batch[1], VnetHdr::default()));
    }
}

#[test]
fn udp_and_two_streams_do_not_join() {
    let udp = Spec { tcp: false, payload: vec![5; 3000], ..Spec::default() };
    assert_eq!(count(&udp.cut(1000)), [1, 1, 1]);
    let spec = Spec { payload: vec![5; 4000], ..Spec::default() };
    let frames = spec.cut(1000).into_iter().map(|spec| spec.frame(false));
    let batch: Vec<_> = [0, 1, 0, 1].into_iter().zip(frames).collect();
    assert_eq!(coalesced(&batch).len(), 4);
}

#[test]
fn a_full_batch_says_so() {
    let frame = Spec::default().frame(false);
    let mut datagram = [VxlanHdr::new(Vni::MAX).as_bytes(), &frame].concat();
    let rules = Rules { reserved: Reserved::Accept, mtu: 1450 };
    let inner = frames(&mut datagram, None, Ecn::NotEct, rules).next().unwrap().unwrap();
    let mut coalescer = Coalescer::new(2);
    let room =
        std::iter::repeat_with(|| coalescer.add(&datagram, 0, &inner)).take_while(|added| *added).count();
    assert!(room >= 2);
    coalescer.clear();
    assert!(coalescer.add(&datagram, 0, &inner));
    let out = coalescer.outs().next().unwrap();
    assert_eq!(coalescer.write(&datagram, out, &mut [0; 20]), None);
}

/// Nothing on the way of a packet allocates.
#[test]
fn nothing_is_allocated() {
    let spec = Spec { payload: vec![5; 30_000], ..Spec::default() };
    let mut buffer: Vec<u8> = spec
        .cut(1000)
        .iter()
        .flat_map(|spec| [VxlanHdr::new(Vni::MAX).as_bytes(), &spec.frame(false)].concat())
        .collect();
    let (size, rules) = (Some(1062), Rules { reserved: Reserved::Accept, mtu: 1450 });
    let mut coalescer = Coalescer::new(64);
    let (mut to, mut scratch) = (vec![0; 66_000], vec![0; 8000]);
    let (super_frame, vnet) = (spec.frame(true), spec.vnet(1000));
    let packet = parsed(&vnet, &super_frame);
    let underlay = vxlan::encap::Underlay::new(1500, false).unwrap();
    let mut inners = [None; 30];
    let info = allocation_counter::measure(|| {
        let mut encap = vxlan::encap::Encap::new(&super_frame, &packet.meta, Vni::MAX, underlay).unwrap();
        while let Some(send) = encap.send(&mut scratch).unwrap() {
            assert!(send.pieces().count() > 0);
        }
        assert!(frames(&mut buffer, size, Ecn::Ce, rules).all(|inner| inner.is_err()));
        for (place, inner) in inners.iter_mut().zip(frames(&mut buffer, size, Ecn::NotEct, rules)) {
            *place = inner.ok();
        }
        for (index, inner) in inners.iter().flatten().enumerate() {
            let start = inner.start as usize;
            let next = coalescer.extend(&buffer, start - VxlanHdr::LEN..start + inner.len as usize);
            assert!(next == (index > 0) && (next || coalescer.add(&buffer, 0, inner)));
        }
        for out in coalescer.outs() {
            assert_eq!((out.count, coalescer.write(&buffer, out, &mut to)), (30, Some(out.len)));
        }
    });
    assert_eq!(info.count_total, 0);
}
