//! From datagrams to frames.

use proptest::collection::vec;
use proptest::prelude::*;
use switch::checksum::complete;
use switch::drop::DropReason;
use switch::flow::Gso;
use switch::port::PortId;
use switch::segment;
use switch::vnet::VnetHdr;
use vxlan::decap::{DecapError, Inner};
use vxlan::ecn::Ecn;
use vxlan::wire::{Reserved, Vni, VxlanHdr, WireError};
use zerocopy::IntoBytes;

use crate::packets::*;
use crate::received::{Rules, frames};

const RULES: Rules = Rules { reserved: Reserved::Accept, mtu: 1450 };

fn vni() -> Vni {
    Vni::new(42).unwrap()
}

fn datagram(frame: &[u8]) -> Vec<u8> {
    [VxlanHdr::new(vni()).as_bytes(), frame].concat()
}

/// What one datagram with the frame gives.
fn opened(frame: &[u8]) -> Result<Inner, DecapError> {
    let mut datagram = datagram(frame);
    let mut all: Vec<_> = frames(&mut datagram, None, Ecn::NotEct, RULES).collect();
    assert_eq!(all.len(), 1);
    assert_eq!(datagram[8..], *frame, "nothing was marked");
    all.remove(0)
}

proptest! {
    #[test]
    fn what_went_in_comes_out(specs in vec(any_spec(1300), 1..8)) {
        for spec in &specs {
            let frame = spec.frame(false);
            let inner = opened(&frame).unwrap();
            prop_assert_eq!((inner.header.vni, inner.header.reserved), (vni(), false));
            prop_assert_eq!((inner.start, inner.len as usize), (8, frame.len()));
            // A whole checksum may happen to be the bare sum.
            prop_assert!(inner.vnet == VnetHdr::default() || frame == spec.frame(true));
        }
    }

    /// Datagrams of one size but for the last.
    #[test]
    fn one_receive_has_many(spec in any_spec(1300), count in 1usize..40, tail in 0usize..1300) {
        let frame = spec.frame(false);
        let last = Spec { payload: vec![9; tail.min(spec.payload.len())], ..spec }.frame(false);
        let mut buffer = datagram(&frame).repeat(count);
        buffer.extend(datagram(&last));
        let copy = buffer.clone();
        let size = Some(8 + frame.len() as u16);
        let got: Vec<_> = frames(&mut buffer, size, Ecn::Ect0, RULES).map(Result::unwrap).collect();
        prop_assert_eq!(got.len(), count + 1);
        for (index, inner) in got.iter().enumerate() {
            let (start, len) = (inner.start as usize, inner.len as usize);
            prop_assert_eq!(&copy[start..start + len], if index < count { &frame } else { &last });
        }
    }

    #[test]
    fn an_open_checksum_is_seen(spec in any_spec(1300)) {
        let frame = spec.frame(true);
        let inner = opened(&frame).unwrap();
        prop_assert!(inner.vnet.needs_csum());
        let mut packet = switch::parse::parse(&frame, &inner.vnet, PortId(0), 0).unwrap();
        let mut frame = frame;
        prop_assert!(complete(&mut frame, &mut packet.meta));
        prop_assert_eq!(frame, spec.frame(false));
    }

    #[test]
    fn an_inner_super_frame_is_cut_to_what_the_network_takes(spec in any_spec(60_000)) {
        let spec = Spec { tcp: true, ..spec };
        prop_assume!(spec.payload.len() > 1450);
        let frame = spec.frame(true);
        let inner = opened(&frame).unwrap();
        let size = 1450 - (spec.headers() - 14);
        let packet = parsed(&inner.vnet, &frame);
        prop_assert_eq!(packet.meta.gso, Gso::Tcp { size: size as u16 });
        let mut out = vec![0; 2000];
        for (index, want) in spec.cut(size).iter().enumerate() {
            let len = segment::segment(&frame, &packet.meta, index, &mut out).unwrap();
            prop_assert_eq!(&out[..len], want.frame(false));
        }
    }

    #[test]
    fn any_bytes_have_an_answer(
        spec in any_spec(200), partial: bool, changes in vec((any::<usize>(), any::<u8>()), 0..5),
        cut in any::<usize>(), size in prop::option::of(0u16..100), outer in 0u8..4,
    ) {
        let mut bytes = datagram(&spec.frame(partial)).repeat(2);
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(cut % (bytes.len() + 1));
        let len = bytes.len();
        let copy = bytes.clone();
        for inner in frames(&mut bytes, size, Ecn::of(outer), RULES).flatten() {
            prop_assert!(inner.start >= 8 && (inner.start + inner.len) as usize <= len);
            let frame = &copy[inner.start as usize..][..inner.len as usize];
            // What we say of a frame, the parser believes.
            let parsed = switch::parse::parse(frame, &inner.vnet, PortId(0), 0);
            prop_assert!(parsed.is_ok(), "{:?}", parsed);
        }
    }
}

#[test]
fn short_ones_have_names() {
    let whole = datagram(&Spec::default().frame(false));
    for len in 0..22 {
        let want = if len < 8 { WireError::TooShort } else { WireError::ShortFrame };
        let got: Vec<_> = frames(&mut whole.clone()[..len], None, Ecn::NotEct, RULES).collect();
        assert_eq!(got, [Err(DecapError::Wire(want))], "{len}");
    }
}

#[test]
fn tags_and_sources_that_are_none() {
    let frame = Spec::default().frame(false);
    let tagged = |tpid: [u8; 2], tag: [u8; 2]| [&frame[..12], &tpid, &tag, &frame[12..]].concat();
    for tpid in [[0x81, 0], [0x88, 0xa8]] {
        assert_eq!(opened(&tagged(tpid, [0, 7])), Err(DecapError::Tagged));
    }
    // A priority tag is a tag.
    assert_eq!(opened(&tagged([0x81, 0], [0xe0, 0])), Err(DecapError::Tagged));
    let from = |source: [u8; 6]| opened(&[&frame[..6], &source, &frame[12..]].concat());
    for source in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        assert_eq!(from(source), Err(DecapError::BadSource));
    }
    let mut lying = frame.clone();
    lying[16] = 0xff;
    assert_eq!(opened(&lying), Err(DecapError::Frame(DropReason::MalformedIpv4)));
}

#[test]
fn marks_are_put_on() {
    for (tos, want) in [(0, None), (1, Some(3)), (2, Some(3)), (3, Some(3))] {
        let before = Spec { tos, ..Spec::default() }.frame(false);
        let mut buffer = datagram(&before);
        let got = frames(&mut buffer, None, Ecn::Ce, RULES).next().unwrap();
        match want {
            None => assert_eq!(got, Err(DecapError::Congested)),
            Some(tos) => {
                assert_eq!(got.unwrap().packet.meta.tos, tos);
                assert_eq!(buffer[8..], Spec { tos, ..Spec::default() }.frame(false));
            }
        }
    }
}

/// Twenty tunnels in each other: one is taken off, the rest is the payload of a UDP packet.
#[test]
fn one_layer_is_taken_off() {
    let mut frame = Spec::default().frame(false);
    for _ in 0..20 {
        frame = Spec { tcp: false, payload: datagram(&frame), ..Spec::default() }.frame(false);
    }
    let inner = opened(&frame).unwrap();
    assert_eq!((inner.start, inner.len as usize, inner.packet.key.proto), (8, frame.len(), 17));
}
