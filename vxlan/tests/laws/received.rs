//! What one call received, as the inner frames of its datagrams.

use vxlan::decap::{DecapError, Inner, datagrams, inner};
use vxlan::ecn::Ecn;
use vxlan::wire::{Repr, Reserved};

/// What a network takes from its remotes.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub reserved: Reserved,
    pub mtu: u16,
}

/// The inner frames of `buffer`: one datagram, or several of `size` bytes, which came with `outer` in their outer headers.
pub fn frames(
    buffer: &mut [u8],
    size: Option<u16>,
    outer: Ecn,
    rules: Rules,
) -> impl Iterator<Item = Result<Inner, DecapError>> {
    datagrams(0..buffer.len(), size).map(move |range| {
        let at = range.start;
        let datagram = &mut buffer[range];
        let header = Repr::parse(datagram, rules.reserved)?;
        inner(datagram, at, header, outer, rules.mtu)
    })
}
