//! From a frame of the switch to datagrams of the underlay, without copying its payload.
//!
//! A datagram is a block of headers, written into scratch memory of the caller's, and a range of the frame:
//!
//! ```text
//! | VXLAN 8 | Ethernet, IP, TCP of segment i, whole checksums | payload slice i of the frame |
//! '------------------- scratch ------------------------------' '--------- frame -----------'
//! ```
//!
//! So a super-frame is one `sendmsg` with `UDP_SEGMENT`, of twice as many parts as it has segments. A frame whose
//! checksum is open gets a whole one in the block; its own bytes are not changed, for it may be queued elsewhere.

use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Range;

use foldhash::quality::FixedState;
use switch::checksum::sum;
use switch::drop::DropReason;
use switch::flow::{Csum, Fragment, L3, Meta};
use switch::parse::{PROTO_TCP, PROTO_UDP};
use switch::segment;
use switch::sys::bulk::{MAX_BYTES, MAX_SEGMENTS};
use zerocopy::IntoBytes;

use crate::wire::{Vni, VxlanHdr};

/// Offset of the checksum in a TCP header, bytes.
const TCP_FIELD: usize = 16;
/// Offset of the checksum in a UDP header, bytes.
const UDP_FIELD: usize = 6;

/// The way to a remote: what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Bytes of the longest inner frame.
    frame: u16,
}

impl Underlay {
    /// An underlay of IPv4 or IPv6 with this MTU. `None`: nothing fits.
    pub const fn new(mtu: u32, v6: bool) -> Option<Self> {
        const UDP: usize = 8;
        let ip = if v6 { 40 } else { 20 };
        let Some(datagram) = (mtu as usize).checked_sub(ip + UDP) else { return None };
        let datagram = if datagram < MAX_BYTES { datagram } else { MAX_BYTES };
        match datagram.checked_sub(VxlanHdr::LEN) {
            Some(frame) if frame > 14 => Some(Self { frame: frame as u16 }),
            _ => None,
        }
    }

    /// Bytes of the longest inner frame.
    pub const fn longest_frame(self) -> usize {
        self.frame as usize
    }

    /// The largest inner IP packet behind a link header of `link` bytes: the MTU of untagged TAPs where that is 14.
    pub const fn inner_mtu(self, link: u16) -> u16 {
        self.frame.saturating_sub(link)
    }
}

/// The `gso_max_size` of an interface of this MTU whose super-frames are one send each: as many whole segments as that
/// takes, of which the last ones would otherwise be a send, a receive and a write of their own.
pub const fn gso_max_size(mtu: u16) -> u32 {
    // What the kernel keeps of it for headers (`MAX_TCP_HEADER` + 1), at most; where that is less, or IPv6's longer headers
    // are part of it, another segment does not fit all the same.
    const KEPT: usize = 321;
    // IPv4, and TCP with the timestamps that everybody sends.
    const HEADERS: usize = 20 + 32;
    let mtu = mtu as usize;
    let segments = MAX_BYTES / (VxlanHdr::LEN + 14 + mtu);
    let segments = if segments < MAX_SEGMENTS { segments } else { MAX_SEGMENTS };
    (segments * mtu.saturating_sub(HEADERS) + KEPT) as u32
}

/// Why a frame did not become datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncapError {
    /// It, or a segment of it, is longer than the underlay takes: an IP packet of `mtu` bytes would fit (ICMP "too
    /// big", for outer packets are never fragmented: RFC 7348 section 4.3).
    #[error("longer than the underlay takes, which is an IP packet of {mtu} bytes")]
    TooBig {
        /// The size that fits.
        mtu: u16,
    },
    /// The scratch memory has not even room for the headers of one datagram.
    #[error("no room for the headers")]
    NoRoom,
    /// Offsets or offload fields that contradict the frame.
    #[error("offsets that contradict the frame")]
    Malformed,
}

impl From<EncapError> for DropReason {
    fn from(error: EncapError) -> Self {
        match error {
            EncapError::TooBig { .. } => Self::TooBig,
            EncapError::NoRoom => Self::TxFull,
            EncapError::Malformed => Self::TxError,
        }
    }
}

/// A frame on its way into the tunnel: one send after the other.
#[derive(Debug)]
pub struct Encap<'a> {
    frame: &'a [u8],
    meta: &'a Meta,
    header: VxlanHdr,
    shape: Shape,
    /// The first datagram of the next send.
    next: usize,
}

/// How a frame is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// Bytes at the start of the frame that are rewritten into the block of headers.
    rewritten: u32,
    /// Bytes of the frame behind them that each datagram has, the last one perhaps fewer.
    size: u32,
    /// Where they end in the frame.
    end: u32,
    /// Datagrams.
    count: u32,
}

impl Shape {
    fn of(frame: &[u8], meta: &Meta) -> Option<Self> {
        let count = segment::count(meta);
        if count == 0 {
            let rewritten = open_checksum(frame, meta)?.map_or(0, |(field, _)| field + 2);
            let (rewritten, end) = (u32::try_from(rewritten).ok()?, u32::try_from(frame.len()).ok()?);
            return Some(Self { rewritten, size: end.checked_sub(rewritten)?, end, count: 1 });
        }
        let size = match meta.gso {
            switch::flow::Gso::Tcp { size } | switch::flow::Gso::Udp { size } => u32::from(size),
            switch::flow::Gso::None => return None,
        };
        // Of a super-frame nothing lies behind the IP packet.
        let whole = meta.l3_end as usize <= frame.len() && meta.csum == Csum::Partial;
        whole.then_some(Self {
            rewritten: u32::from(meta.headers_len),
            size,
            end: meta.l3_end,
            count: u32::try_from(count).ok()?,
        })
    }
}

impl<'a> Encap<'a> {
    /// Prepares `frame` of the network `vni`; `meta` must be that of the frame, as parsed or kept up to date.
    ///
    /// # Errors
    /// [`EncapError::TooBig`], [`EncapError::Malformed`].
    pub fn new(frame: &'a [u8], meta: &'a Meta, vni: Vni, underlay: Underlay) -> Result<Self, EncapError> {
        let shape = Shape::of(frame, meta).ok_or(EncapError::Malformed)?;
        if shape.rewritten as usize + shape.size as usize > underlay.longest_frame() {
            return Err(EncapError::TooBig { mtu: underlay.inner_mtu(meta.l3_off) });
        }
        Ok(Self { frame, meta, header: VxlanHdr::new(vni), shape, next: 0 })
    }

    /// Datagrams that it becomes.
    pub const fn datagrams(&self) -> usize {
        self.shape.count as usize
    }

    /// Bytes of the longest of them.
    pub const fn longest(&self) -> usize {
        VxlanHdr::LEN + self.shape.rewritten as usize + self.shape.size as usize
    }

    /// Bytes of scratch memory that all sends together use.
    pub const fn scratch(&self) -> usize {
        (VxlanHdr::LEN + self.shape.rewritten as usize) * self.shape.count as usize
    }

    /// Writes the headers of the next send to the start of `scratch`; `None`: there is no more to send. It has as many
    /// datagrams as one call takes, and as the scratch memory has room for.
    ///
    /// # Errors
    /// [`EncapError::NoRoom`], after which nothing is lost and the same may be asked again; [`EncapError::Malformed`].
    pub fn send(&mut self, scratch: &mut [u8]) -> Result<Option<Send>, EncapError> {
        let left = (self.shape.count as usize).saturating_sub(self.next);
        if left == 0 {
            return Ok(None);
        }
        let block = VxlanHdr::LEN + self.shape.rewritten as usize;
        let most =
            MAX_SEGMENTS.min(MAX_BYTES / (block + self.shape.size as usize)).min(scratch.len() / block);
        if most == 0 {
            return Err(EncapError::NoRoom);
        }
        let count = left.min(most);
        for (block, index) in scratch.chunks_exact_mut(block).zip(self.next..).take(count) {
            self.write(index, block).ok_or(EncapError::Malformed)?;
        }
        let send = Send { shape: self.shape, first: self.next as u32, count: count as u32 };
        self.next += count;
        Ok(Some(send))
    }

    /// The block of headers of one datagram.
    fn write(&self, index: usize, block: &mut [u8]) -> Option<()> {
        let (vxlan, inner) = block.split_first_chunk_mut::<{ VxlanHdr::LEN }>()?;
        vxlan.copy_from_slice(self.header.as_bytes());
        if segment::count(self.meta) > 0 {
            return segment::headers(self.frame, self.meta, index, inner).map(drop);
        }
        inner.copy_from_slice(self.frame.get(..inner.len())?);
        // The field is what the block ends with.
        if let Some((_, value)) = open_checksum(self.frame, self.meta)? {
            *inner.last_chunk_mut()? = value.to_be_bytes();
        }
        Some(())
    }
}

/// Where a checksum field is open in an ordinary frame, and its whole value.
///
/// The outer `None`: the offsets contradict the frame.
fn open_checksum(frame: &[u8], meta: &Meta) -> Option<Option<(usize, u16)>> {
    let l4_off = usize::from(meta.l4_off);
    let (start, field) = match meta.csum {
        Csum::Full | Csum::Verified => return Some(None),
        Csum::Partial if meta.tcp.is_some() => (l4_off, l4_off + TCP_FIELD),
        Csum::Partial => (l4_off, l4_off + UDP_FIELD),
        Csum::Inner { start, field } => (usize::from(start), usize::from(field)),
    };
    let value = !sum(frame.get(start..meta.l3_end as usize)?);
    // RFC 768: UDP must not be sent 0; in TCP both forms of zero verify, and an inner packet may be either.
    let value = if value == 0 && meta.tcp.is_none() { 0xffff } else { value };
    (field + 2 <= meta.l3_end as usize).then_some(Some((field, value)))
}

/// Datagrams that one call sends: plain numbers, good as long as the scratch memory and the frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send {
    shape: Shape,
    first: u32,
    count: u32,
}

/// One datagram: its headers in the scratch memory, and behind them its payload in the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where in the scratch memory.
    pub headers: Range<usize>,
    /// Where in the frame.
    pub payload: Range<usize>,
}

impl Send {
    /// Datagrams.
    pub const fn count(&self) -> usize {
        self.count as usize
    }

    /// Bytes of headers of each.
    const fn block(&self) -> usize {
        VxlanHdr::LEN + self.shape.rewritten as usize
    }

    /// Bytes of the scratch memory that it uses.
    pub const fn scratch(&self) -> usize {
        self.block() * self.count as usize
    }

    /// Bytes of each datagram but perhaps the last: what `UDP_SEGMENT` is told where there are several.
    pub const fn segment_size(&self) -> usize {
        self.block() + self.shape.size as usize
    }

    /// Bytes of all datagrams.
    pub fn bytes(&self) -> usize {
        self.pieces().map(|piece| piece.headers.len() + piece.payload.len()).sum()
    }

    /// The datagrams, in their order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + use<> {
        let (block, shape) = (self.block(), self.shape);
        (0..self.count as usize).zip(self.first as usize..).map(move |(place, index)| {
            let start = shape.rewritten as usize + index * shape.size as usize;
            let end = (start + shape.size as usize).min(shape.end as usize);
            Piece { headers: place * block..(place + 1) * block, payload: start..end }
        })
    }
}

/// Which of `ways` sockets the frame leaves by, so that each flow has one and all flows have them all (RFC 7348
/// section 5: the source l4 port is a hash of the inner headers).
pub fn way(frame: &[u8], meta: &Meta, ways: usize) -> usize {
    let mut hasher = FixedState::default().build_hasher();
    let start = usize::from(meta.l3_off);
    // Version 4: protocol at 9, addresses from 12; version 6: next header at 6, addresses from 8.
    let (proto, addresses) = match meta.l3 {
        L3::V4 => (start + 9, start + 12..start + 20),
        L3::V6 => (start + 6, start + 8..start + 40),
        L3::Arp | L3::Other => (0, 0..12),
    };
    frame.get(addresses).hash(&mut hasher);
    if matches!(meta.l3, L3::V4 | L3::V6) {
        let proto = frame.get(proto).copied();
        proto.hash(&mut hasher);
        // All fragments of a packet go one way, and only the first has l4 ports.
        if matches!(proto, Some(PROTO_TCP | PROTO_UDP)) && meta.fragment == Fragment::No {
            let l4 = usize::from(meta.l4_off);
            frame.get(l4..l4 + 4).hash(&mut hasher);
        }
    }
    // The upper bits choose, without a division.
    ((u128::from(hasher.finish()) * ways as u128) >> 64) as usize
}
