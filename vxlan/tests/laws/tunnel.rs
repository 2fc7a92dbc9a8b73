//! All of the tunnel: cut and sent, marked on the way, taken out, put together, and cut again.

use proptest::collection::vec;
use proptest::prelude::*;
use switch::flow::Gso;
use switch::parse::parse;
use switch::port::PortId;
use switch::segment;
use switch::vnet::VnetHdr;
use vxlan::coalesce::Coalescer;
use vxlan::decap::{DecapError, Inner};
use vxlan::ecn::Ecn;
use vxlan::encap::Underlay;
use vxlan::wire::Reserved;
use zerocopy::FromBytes;

use crate::coalesce::without_id;
use crate::encap::datagrams;
use crate::packets::*;
use crate::received::{Rules, frames};

const RULES: Rules = Rules { reserved: Reserved::Strict, mtu: 65_535 };
/// Bytes of a tag.
const TAG: usize = 4;

/// RFC 6040 section 4.2, figure 4, as it stands there: by the inner field, then by the outer one.
const COMBINED: [[Option<u8>; 4]; 4] = [
    [Some(0), Some(0), Some(0), None],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(1), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

/// The datagrams of a frame on an underlay that takes all.
fn sent(vnet: &VnetHdr, frame: &[u8]) -> Vec<Vec<u8>> {
    datagrams(frame, &parsed(vnet, frame), Underlay::new(60_000, false).unwrap(), 1 << 16)
}

/// The frame in a datagram that came with this field in its outer header.
fn opened(datagram: &mut [u8], outer: u8) -> Result<Inner, DecapError> {
    frames(datagram, None, Ecn::of(outer), RULES).next().unwrap()
}

/// All that is put together, cut again.
fn cut_again(buffer: &[u8], inners: &[Inner]) -> Vec<Vec<u8>> {
    let mut coalescer = Coalescer::new(2000);
    assert!(inners.iter().all(|inner| coalescer.add(buffer, 0, inner)));
    let (mut to, mut room) = (vec![0; 70_000], vec![0; 70_000]);
    let mut all = Vec::new();
    for out in coalescer.outs() {
        let len = coalescer.write(buffer, out, &mut to).unwrap();
        let (vnet, frame) = VnetHdr::read_from_prefix(&to[..len]).unwrap();
        let meta = parse(frame, &vnet, PortId(0), 0).unwrap().meta;
        if meta.gso == Gso::None {
            all.push(frame.to_vec());
            continue;
        }
        for index in 0..segment::count(&meta) {
            let len = segment::segment(frame, &meta, index, &mut room).unwrap();
            all.push(room[..len].to_vec());
        }
    }
    all
}

/// With a tag, and what a TAP says of it then.
fn tagged(tci: u16, mut vnet: VnetHdr, mut frame: Vec<u8>) -> (VnetHdr, Vec<u8>) {
    let [high, low] = tci.to_be_bytes();
    frame.splice(12..12, [0x81, 0, high, low]);
    vnet.hdr_len = (vnet.hdr_len.get() + TAG as u16).into();
    vnet.csum_start = (vnet.csum_start.get() + TAG as u16).into();
    (vnet, frame)
}

proptest! {
    /// Both families, both protocols, whatever marks there are inside, and others on each datagram.
    #[test]
    fn what_goes_in_comes_out_with_the_marks_of_the_way(
        spec in any_spec(20_000), size in 48usize..1300, outers in vec(0u8..4, 1..40),
    ) {
        prop_assume!(spec.payload.len() > size);
        let flags = if spec.tcp { ACK | (spec.flags & PSH) } else { spec.flags };
        let spec = Spec { flags, ..spec };
        // Large super-frames of small segments are none.
        prop_assume!(parse(&spec.frame(true), &spec.vnet(size as u16), PortId(0), 0).is_ok());
        let (mut buffer, mut inners, mut want) = (Vec::new(), Vec::new(), Vec::new());
        let all = sent(&spec.vnet(size as u16), &spec.frame(true));
        let pieces = spec.cut(size);
        prop_assert_eq!(all.len(), pieces.len());
        for ((mut datagram, piece), outer) in all.into_iter().zip(pieces).zip(outers.iter().cycle()) {
            match (opened(&mut datagram, *outer), COMBINED[usize::from(spec.tos & 3)][usize::from(*outer)]) {
                (Err(error), None) => prop_assert_eq!(error, DecapError::Congested),
                (Ok(inner), Some(ecn)) => {
                    let tos = spec.tos & !3 | ecn;
                    want.push(without_id(Spec { tos, ..piece }.frame(false)));
                    inners.push(Inner { start: inner.start + buffer.len() as u32, ..inner });
                    buffer.extend(datagram);
                }
                (got, want) => prop_assert!(false, "{got:?}, {want:?}"),
            }
        }
        let got: Vec<_> = cut_again(&buffer, &inners).into_iter().map(without_id).collect();
        prop_assert!(got == want, "{} frames of {}", got.len(), want.len());
    }

    /// A tag is the frame's, on each segment; and what has one is not taken out (RFC 7348 section 6.1).
    #[test]
    fn a_tag_goes_along_and_is_refused(spec in any_spec(9000), size in 48usize..1300, tci: u16) {
        let whole = spec.payload.len() <= size;
        let spec = Spec { flags: ACK, ..spec };
        let vnet = spec.vnet(if whole { 0 } else { size as u16 });
        let pieces = if whole { vec![spec.clone()] } else { spec.cut(size) };
        let (vnet, frame) = tagged(tci, vnet, spec.frame(true));
        prop_assume!(parse(&frame, &vnet, PortId(0), 0).is_ok());
        let all = sent(&vnet, &frame);
        prop_assert_eq!(all.len(), pieces.len());
        for (mut datagram, piece) in all.into_iter().zip(pieces) {
            let (_, want) = tagged(tci, VnetHdr::default(), piece.frame(false));
            prop_assert!(without_tag(&datagram[8..]) == without_tag(&want), "but for the identification");
            prop_assert_eq!(opened(&mut datagram, 0).map(drop), Err(DecapError::Tagged));
        }
    }
}

/// The tag, and the frame that it was on.
fn without_tag(frame: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut frame = frame.to_vec();
    let tag = frame.splice(12..12 + TAG, []).collect();
    (tag, without_id(frame))
}
