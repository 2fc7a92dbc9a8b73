//! Super-frames: the input chooses family, protocol, segment size and bytes, so that nearly every one is accepted; the
//! segments are compared with those of a naive segmenter, in `tests/corpus/invariants.rs`.

#![no_main]

#[path = "../../tests/corpus/invariants.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;
use switch::vnet::VnetHdr;

/// Both families, both protocols, one tag or none.
struct Choice {
    v6: bool,
    tcp: bool,
    tag: bool,
    /// Words of TCP options.
    options: usize,
}

fuzz_target!(|input: (u8, u16, u32, Vec<u8>)| {
    let (bits, gso_size, seed, mut l4) = input;
    let choice = Choice {
        v6: bits & 1 != 0,
        tcp: bits & 2 != 0,
        tag: bits & 4 != 0,
        options: usize::from(bits >> 4) % 11,
    };
    l4.resize((l4.len() + seed as usize % 60_000).min(65_000), seed as u8);
    if let Some((vnet, frame)) = super_frame(&choice, gso_size, seed, l4) {
        let _ = invariants::check(&vnet, &frame);
    }
});

fn super_frame(choice: &Choice, gso_size: u16, seed: u32, mut l4: Vec<u8>) -> Option<(VnetHdr, Vec<u8>)> {
    let len = u16::try_from(l4.len()).ok()?.to_be_bytes();
    if choice.tcp {
        let words = u8::try_from(5 + choice.options).ok()?;
        *l4.get_mut(12)? = words << 4;
        *l4.get_mut(13)? &= !0x06;
    } else {
        l4.get_mut(4..6)?.copy_from_slice(&len);
    }
    let mut frame = vec![2; 12];
    if choice.tag {
        frame.extend([0x81, 0, 0, 10]);
    }
    let proto = if choice.tcp { 6 } else { 17 };
    if choice.v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, len[0], len[1], proto, 64]);
        frame.extend([0xfd; 32]);
    } else {
        let total = u16::try_from(l4.len() + 20).ok()?.to_be_bytes();
        let [i0, i1, ..] = seed.to_be_bytes();
        frame.extend([8, 0, 0x45, 0, total[0], total[1], i0, i1, 0x40, 0, 64, proto, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    }
    let start = u16::try_from(frame.len()).ok()?;
    frame.extend(&l4);
    let gso_type = match (choice.tcp, choice.v6) {
        (true, false) => VnetHdr::GSO_TCPV4,
        (true, true) => VnetHdr::GSO_TCPV6,
        (false, _) => VnetHdr::GSO_UDP_L4,
    };
    let vnet = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type,
        hdr_len: 0.into(),
        gso_size: gso_size.into(),
        csum_start: start.into(),
        csum_offset: if choice.tcp { 16 } else { 6 }.into(),
    };
    Some((vnet, frame))
}
