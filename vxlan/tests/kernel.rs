//! What a kernel's VXLAN device sends, byte for byte: as captured once, and as it is on this machine. The device lies over
//! a veth between two namespaces, with and without offloads. Needs root (or a user namespace), `ip`, `ethtool` and `ping`.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "kernel/capture.rs"]
mod capture;
#[path = "kernel/lab.rs"]
mod lab;
#[path = "../../switch/tests/corpus/maker.rs"]
mod maker;
#[path = "laws/received.rs"]
mod received;

use std::path::Path;

use capture::{Capture, Exchange};
use lab::{Lab, Offloads};
use received::{Rules, frames};
use switch::checksum::complete;
use switch::flow::Gso;
use switch::parse::parse;
use switch::port::PortId;
use switch::segment;
use switch::vnet::VnetHdr;
use vxlan::coalesce::Coalescer;
use vxlan::decap::Inner;
use vxlan::ecn::Ecn;
use vxlan::encap::{Encap, Underlay};
use vxlan::wire::{Reserved, Vni};
use zerocopy::FromBytes;

/// The VNI and the MTU of the device.
const VNI: Vni = Vni::new(42).unwrap();
const RULES: Rules = Rules { reserved: Reserved::Strict, mtu: 1450 };

/// The datagrams that we make of a frame.
fn encapsulated(vnet: &VnetHdr, frame: &[u8]) -> Vec<Vec<u8>> {
    let packet = parse(frame, vnet, PortId(0), 0).unwrap();
    let mut scratch = vec![0; 64 * 256];
    let mut encap = Encap::new(frame, &packet.meta, VNI, Underlay::new(1500, false).unwrap()).unwrap();
    let mut all = Vec::new();
    while let Some(send) = encap.send(&mut scratch).unwrap() {
        all.extend(send.pieces().map(|piece| [&scratch[piece.headers], &frame[piece.payload]].concat()));
    }
    all
}

/// The frame in a datagram, with its virtio header.
fn decapsulated(datagram: &[u8]) -> (VnetHdr, Vec<u8>) {
    let mut copy = datagram.to_vec();
    let inner = frames(&mut copy, None, Ecn::NotEct, RULES).next().unwrap().unwrap();
    assert_eq!(inner.header.vni, VNI);
    (inner.vnet, copy[inner.start as usize..].to_vec())
}

/// What the device was given is, encapsulated by us, what it sent; and what it got is what we take out of it.
fn check(exchange: &Exchange) {
    let mut sent = exchange.sent.iter();
    for frame in &exchange.given {
        for (index, ours) in encapsulated(&vnet_of(frame), frame).iter().enumerate() {
            let theirs = sent.next().unwrap();
            assert!(
                ours == theirs,
                "datagram {index} of a frame of {} bytes\n{ours:x?}\n{theirs:x?}",
                frame.len()
            );
        }
    }
    assert_eq!(sent.len(), 0, "all that was sent has been made");
    assert_eq!(exchange.received.len(), exchange.taken.len());
    for (datagram, frame) in exchange.received.iter().zip(&exchange.taken) {
        let (vnet, ours) = decapsulated(datagram);
        assert!(ours == *frame, "{ours:x?}\n{frame:x?}");
        // Nothing is open, unless a whole checksum happens to be the bare sum.
        assert!([VnetHdr::default(), vnet_of(frame)].contains(&vnet), "{vnet:?}");
    }
}

/// The virtio header that a TAP would have put in front of a captured frame: a capture does not have it.
fn vnet_of(frame: &[u8]) -> VnetHdr {
    let packet = parse(frame, &VnetHdr::default(), PortId(0), 0).unwrap();
    let (key, meta) = (packet.key, packet.meta);
    let at = match key.proto {
        6 => 16,
        17 => 6,
        _ => return VnetHdr::default(),
    };
    let l4 = &frame[usize::from(meta.l4_off)..];
    let bare = maker::fold(maker::pseudo((key.src, key.dst), key.proto, l4.len()));
    if l4[at..at + 2] != bare.to_be_bytes() {
        return VnetHdr::default();
    }
    // The device's MTU of 1450 less IP and TCP with timestamps.
    let (kind, size) =
        if frame.len() > 14 + 1450 { (VnetHdr::GSO_TCPV4, 1398) } else { (VnetHdr::GSO_NONE, 0) };
    VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: kind,
        hdr_len: meta.headers_len.into(),
        gso_size: size.into(),
        csum_start: meta.l4_off.into(),
        csum_offset: (at as u16).into(),
    }
}

fn goldens() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel/goldens.txt")
}

#[test]
fn as_it_was_captured() {
    let exchange = Exchange::read(&std::fs::read_to_string(goldens()).unwrap());
    assert!(exchange.given.len() >= 5 && exchange.received.len() >= 5);
    assert!(exchange.given.iter().any(|frame| frame.len() > 2900), "with a super-frame");
    check(&exchange);
}

/// What the kernel cut, put together, is the super-frame that the device was given, to the last bit of its open checksum.
#[test]
fn what_was_cut_is_put_together() {
    let exchange = Exchange::read(&std::fs::read_to_string(goldens()).unwrap());
    let (mut buffer, mut coalescer) = (Vec::new(), Coalescer::new(100));
    let mut inners = Vec::new();
    for datagram in &exchange.sent {
        let inner = frames(&mut datagram.clone(), None, Ecn::NotEct, RULES).next().unwrap().unwrap();
        inners.push(Inner { start: inner.start + buffer.len() as u32, ..inner });
        buffer.extend(datagram);
    }
    assert!(inners.iter().all(|inner| coalescer.add(&buffer, 0, inner)));
    let mut to = vec![0; 70_000];
    let written = coalescer.outs().filter(|out| out.count > 1).map(|out| {
        let len = coalescer.write(&buffer, out, &mut to).unwrap();
        let (vnet, frame) = VnetHdr::read_from_prefix(&to[..len]).unwrap();
        (vnet, frame.to_vec())
    });
    let given = exchange.given.iter().map(|frame| (vnet_of(frame), frame.clone()));
    let given: Vec<_> = given.filter(|(vnet, _)| vnet.is_gso()).collect();
    assert!(!given.is_empty());
    assert_eq!(written.collect::<Vec<_>>(), given);
}

/// With `BLESS_CAPTURE` set the capture is kept for [`as_it_was_captured`].
#[test]
fn as_this_kernel_does() {
    let Some(lab) = Lab::new(Offloads::Off) else { return };
    let capture = Capture::start(&lab);
    lab.talk(3000);
    let exchange = capture.finish();
    assert!(exchange.given.iter().any(|frame| frame.len() > 2900), "{}", exchange.summary());
    check(&exchange);
    if std::env::var_os("BLESS_CAPTURE").is_some() {
        std::fs::write(goldens(), exchange.write()).unwrap();
    }
}

/// A veth with offloads hands on what the device left open: bare sums, and super-frames in one datagram.
#[test]
fn offloads_leave_frames_open() {
    let Some(lab) = Lab::new(Offloads::On) else { return };
    let capture = Capture::start(&lab);
    lab.talk(200_000);
    let exchange = capture.finish();
    let mut super_frames = 0;
    for datagram in &exchange.sent {
        let (vnet, mut frame) = decapsulated(datagram);
        assert!(exchange.given.contains(&frame), "{}", exchange.summary());
        let mut packet = parse(&frame, &vnet, PortId(0), 0).unwrap();
        if packet.meta.gso == Gso::None {
            assert!(complete(&mut frame, &mut packet.meta));
            assert_ne!(maker::verifies(&frame[14..]), Some(false));
            continue;
        }
        super_frames += 1;
        let mut out = [0; 2000];
        for index in 0..segment::count(&packet.meta) {
            let len = segment::segment(&frame, &packet.meta, index, &mut out).unwrap();
            assert!(len <= 14 + 1450);
            assert_eq!(maker::verifies(&out[14..len]), Some(true));
        }
    }
    assert!(super_frames > 0, "{}", exchange.summary());
}
