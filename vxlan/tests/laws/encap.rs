//! From frames to datagrams.

use proptest::prelude::*;
use switch::flow::{Csum, Packet};
use switch::sys::bulk::{MAX_BYTES, MAX_SEGMENTS};
use switch::vnet::VnetHdr;
use vxlan::encap::{Encap, EncapError, Underlay, gso_max_size, way};
use vxlan::wire::{Repr, Reserved, Vni};

use crate::maker::verifies;
use crate::packets::*;

const MTU_1500: Underlay = Underlay::new(1500, false).unwrap();

fn vni() -> Vni {
    Vni::new(0xabcdef).unwrap()
}

/// All datagrams of a frame, as they are on the wire, in scratch memory of so many bytes.
pub fn datagrams(frame: &[u8], packet: &Packet, underlay: Underlay, scratch: usize) -> Vec<Vec<u8>> {
    let mut scratch = vec![0x5a; scratch];
    let mut encap = Encap::new(frame, &packet.meta, vni(), underlay).unwrap();
    let mut all = Vec::new();
    while let Some(send) = encap.send(&mut scratch).unwrap() {
        assert!(send.count() > 0 && send.count() <= MAX_SEGMENTS && send.bytes() <= MAX_BYTES);
        assert!(send.scratch() <= scratch.len());
        let of_it: Vec<_> =
            send.pieces().map(|piece| [&scratch[piece.headers], &frame[piece.payload]].concat()).collect();
        let (last, others) = of_it.split_last().unwrap();
        assert!(last.len() <= send.segment_size() && others.iter().all(|it| it.len() == send.segment_size()));
        assert_eq!(of_it.iter().map(Vec::len).sum::<usize>(), send.bytes());
        all.extend(of_it);
    }
    all
}

/// The frame inside a datagram of our network.
fn inside(datagram: &[u8]) -> &[u8] {
    assert_eq!(Repr::parse(datagram, Reserved::Strict), Ok(Repr { vni: vni(), reserved: false }));
    &datagram[8..]
}

proptest! {
    #[test]
    fn a_super_frame_becomes_the_segments_that_it_stands_for(
        spec in any_spec(60_000), size in 500u16..1350, room in 1usize..20_000,
    ) {
        prop_assume!(spec.payload.len() > usize::from(size));
        let (vnet, frame) = (spec.vnet(size), spec.frame(true));
        prop_assume!(switch::parse::parse(&frame, &vnet, switch::port::PortId(0), 0).is_ok());
        let packet = parsed(&vnet, &frame);
        let before = frame.clone();
        let got = datagrams(&frame, &packet, MTU_1500, room + 8 + spec.headers());
        let want = spec.cut(usize::from(size));
        prop_assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            prop_assert_eq!(inside(got), want.frame(false));
            prop_assert_eq!(verifies(&inside(got)[14..]), Some(true));
        }
        prop_assert_eq!(frame, before);
    }

    #[test]
    fn a_plain_frame_goes_as_it_is_and_an_open_checksum_is_closed(
        spec in any_spec(1300), padding in 0usize..20, open: bool,
    ) {
        let mut frame = spec.frame(open);
        frame.extend(vec![0x77; padding]);
        let vnet = if open { spec.vnet(0) } else { VnetHdr::default() };
        let packet = parsed(&vnet, &frame);
        let got = datagrams(&frame, &packet, MTU_1500, 2000);
        let want = [spec.frame(false), vec![0x77; padding]].concat();
        prop_assert_eq!(got.len(), 1);
        prop_assert_eq!(inside(&got[0]), want);
    }

    #[test]
    fn a_flow_has_one_way(spec in any_spec(100), other in any_spec(100), ways in 1usize..20) {
        let of = |spec: &Spec| {
            let frame = spec.frame(false);
            way(&frame, &parsed_plain(&frame).meta, ways)
        };
        let later = Spec {
            v6: spec.v6, tcp: spec.tcp, sport: spec.sport, ..other
        };
        prop_assert!(of(&spec) < ways);
        prop_assert_eq!(of(&spec), of(&later));
    }
}

#[test]
fn flows_have_all_ways() {
    let mut seen = [0; 16];
    for sport in 0..1600 {
        let frame = Spec { sport, ..Spec::default() }.frame(false);
        seen[way(&frame, &parsed_plain(&frame).meta, 16)] += 1;
    }
    assert!(seen.iter().all(|&flows| flows > 50), "{seen:?}");
}

/// Kernels keep some of `gso_max_size` for headers, and the payload is as many whole segments as are left room for.
#[test]
fn the_longest_super_frame_of_an_interface_is_one_send() {
    let mtus = [576, 1280, 1430, 1450, 8950].into_iter();
    let all = mtus.flat_map(|mtu| [(mtu, false, 321), (mtu, false, 129), (mtu, true, 321), (mtu, true, 129)]);
    // RFC 8200 section 5: IPv6 has 1280 at least.
    for (mtu, v6, kept) in all.filter(|(mtu, v6, _)| !v6 || *mtu >= 1280) {
        let size = mtu - if v6 { 60 } else { 40 } - 12;
        let payload = (gso_max_size(mtu) as usize - kept) / usize::from(size) * usize::from(size);
        let spec = Spec { v6, options: vec![1; 12], payload: vec![1; payload], ..Spec::default() };
        let (vnet, frame) = (spec.vnet(size), spec.frame(true));
        let packet = parsed(&vnet, &frame);
        let underlay = Underlay::new(u32::from(mtu) + 70, false).unwrap();
        let mut encap = Encap::new(&frame, &packet.meta, vni(), underlay).unwrap();
        let mut scratch = vec![0; encap.scratch()];
        let send = encap.send(&mut scratch).unwrap().unwrap();
        assert_eq!(encap.send(&mut scratch), Ok(None), "{mtu} {v6} {kept}");
        assert_eq!(send.count(), payload / usize::from(size));
        // One segment more would be a second one, but for what IPv6's longer headers leave.
        let most = MAX_SEGMENTS.min(MAX_BYTES / (22 + usize::from(mtu)));
        assert_eq!(send.count(), most);
    }
}

#[test]
fn what_does_not_fit_is_said_with_what_would() {
    let new = |spec: &Spec, size, underlay| {
        let (vnet, frame) = (spec.vnet(size), spec.frame(true));
        Encap::new(&frame, &parsed(&vnet, &frame).meta, vni(), underlay).map(drop)
    };
    let v6 = Underlay::new(1500, true).unwrap();
    assert_eq!((MTU_1500.inner_mtu(14), v6.inner_mtu(14)), (1450, 1430));
    for (underlay, most) in [(MTU_1500, 1450 - 40), (v6, 1430 - 40)] {
        let fits = Spec { payload: vec![1; usize::from(most)], ..Spec::default() };
        let long = Spec { payload: vec![1; usize::from(most) + 1], ..Spec::default() };
        let many = Spec { payload: vec![1; 9000], ..Spec::default() };
        let too_big = Err(EncapError::TooBig { mtu: most + 40 });
        assert_eq!((new(&fits, 0, underlay), new(&long, 0, underlay)), (Ok(()), too_big));
        assert_eq!((new(&many, most, underlay), new(&many, most + 1, underlay)), (Ok(()), too_big));
    }
    assert_eq!((Underlay::new(50, false), Underlay::new(0, true)), (None, None));
    assert_eq!(Underlay::new(70_000, false).unwrap().longest_frame(), 65_507 - 8);
}

#[test]
fn without_room_nothing_is_lost() {
    let spec = Spec { payload: vec![3; 9000], ..Spec::default() };
    let frame = spec.frame(true);
    let packet = parsed(&spec.vnet(1400), &frame);
    let mut encap = Encap::new(&frame, &packet.meta, vni(), MTU_1500).unwrap();
    let mut scratch = [0; 200];
    assert_eq!(encap.send(&mut scratch[..61]), Err(EncapError::NoRoom));
    let sends: Vec<_> = std::iter::from_fn(|| encap.send(&mut scratch).unwrap()).collect();
    assert_eq!(sends.iter().map(|send| send.count()).collect::<Vec<_>>(), [3, 3, 1]);
}

/// Each field of the metadata may be wrong: an answer, and never a panic.
#[test]
fn offsets_that_lie_are_refused() {
    let spec = Spec { payload: vec![3; 3000], ..Spec::default() };
    let frame = spec.frame(true);
    let truth = parsed(&spec.vnet(1400), &frame).meta;
    let open = Csum::Inner { start: 60_000, field: 65_535 };
    let lies = [
        switch::flow::Meta { l4_off: 60_000, ..truth },
        switch::flow::Meta { l3_off: 60_000, ..truth },
        switch::flow::Meta { headers_len: 20, ..truth },
        switch::flow::Meta { l3_end: 90_000, ..truth },
        switch::flow::Meta { csum: Csum::Full, ..truth },
        switch::flow::Meta { gso: switch::flow::Gso::None, csum: open, ..truth },
    ];
    for lie in lies {
        way(&frame, &lie, 8);
        let answer = Encap::new(&frame, &lie, vni(), Underlay::new(65_535, false).unwrap());
        let answer = answer.and_then(|mut encap| encap.send(&mut [0; 9000]));
        assert_eq!(answer, Err(EncapError::Malformed), "{lie:?}");
    }
}
