//! Inner TCP segments of one received batch put together to super-frames, so that a TAP gets one write for many (what a
//! kernel's GRO does behind a NIC). Nothing waits for more to come: what a batch has is put together, and that is all.
//!
//! Segments join where the super-frame stands for just these segments: cut again, they are the same bytes. The one
//! difference: where Don't Fragment is set the identification means nothing (RFC 6864 section 4.1), and it may come out
//! another. Never UDP: its datagrams would lose their bounds where the receiver has a tunnel of its own.
//!
//! Within a flow the order stays. Super-frames go out in the order of their first segments, and what cannot join a flow's
//! super-frame ends it.

use std::hash::BuildHasher;
use std::ops::Range;

use foldhash::fast::RandomState;
use switch::checksum::{add, sum};
use switch::flow::{Fragment, L3};
use switch::parse::PROTO_TCP;
use switch::vnet::VnetHdr;
use zerocopy::IntoBytes;

use crate::decap::Inner;
use crate::wire::VxlanHdr;

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
/// Offset of the checksum in a TCP header.
const CHECKSUM: u16 = 16;
/// Offset of the IP header: nothing that is tagged or behind LLC joins.
const L3_OFF: usize = 14;
/// The longest IP packet. Of IPv6 its length field would allow 40 more, and kernels do not.
const PACKET_MAX: usize = 65_535;
/// Smaller segments are not worth it, and the parser takes no large super-frames of them.
const SIZE_MIN: u32 = 48;
/// Places for flows whose super-frame may still grow. A flow that finds its place taken takes it over.
const PLACES: usize = 256;
/// No segment, no super-frame.
const NONE: u16 = u16::MAX;

/// Puts segments together, batch by batch. Plain numbers: the bytes stay in the buffer that was received into.
pub struct Coalescer {
    segments: Vec<Segment>,
    /// In the order of their first segments.
    groups: Vec<Group>,
    /// The super-frame of a flow that may still grow.
    open: Box<[u16; PLACES]>,
    /// The super-frame, and its place, that the last frame joined or began, as long as it may grow and the next one is of
    /// the same message.
    hot: Option<(u16, u16)>,
    hash: RandomState,
}

/// One frame of the batch.
#[derive(Clone, Copy, Debug)]
struct Segment {
    start: u32,
    len: u32,
    /// The next one of its super-frame.
    next: u16,
}

impl Segment {
    fn bytes<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        let start = self.start as usize;
        buffer.get(start..start + self.len as usize).unwrap_or_default()
    }
}

/// What is written at once: a super-frame, or one frame alone.
#[derive(Clone, Copy, Debug)]
struct Group {
    stream: u32,
    /// The virtio header of one alone.
    vnet: VnetHdr,
    l3: L3,
    /// Offset of the TCP header, and of the payload.
    l4_off: u16,
    headers: u16,
    first: u16,
    last: u16,
    count: u16,
    /// Payload of each segment but perhaps the last.
    size: u32,
    /// Bytes of the frame.
    len: u32,
}

impl Group {
    /// Whether a segment with so much payload may be the next one.
    const fn has_room(&self, payload: u32) -> bool {
        payload <= self.size && (self.len + payload) as usize <= L3_OFF + PACKET_MAX
    }
}

/// One write that a batch comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    /// As it was given with the frames.
    pub stream: u32,
    /// Frames of the batch that are in it.
    pub count: u16,
    /// Bytes, with the virtio header in front.
    pub len: usize,
    group: u16,
}

impl Coalescer {
    /// For batches of up to so many frames.
    pub fn new(frames: u16) -> Self {
        let frames = usize::from(frames.min(NONE - 1));
        Self {
            segments: Vec::with_capacity(frames),
            groups: Vec::with_capacity(frames),
            open: Box::new([NONE; PLACES]),
            hot: None,
            hash: RandomState::default(),
        }
    }

    /// Forgets the batch.
    pub fn clear(&mut self) {
        self.segments.clear();
        self.groups.clear();
        self.open.fill(NONE);
        self.hot = None;
    }

    /// What comes now is another message: perhaps of another sender.
    pub const fn next_message(&mut self) {
        self.hot = None;
    }

    /// Adds the datagram at `range` of `buffer`, with the VXLAN header in front, if that takes no more than a look at it:
    /// it has the header of the one before it, in the same message, and its frame is the next segment of that one's
    /// super-frame. True: all is as after [`Coalescer::add`]. False: nothing has happened. Only for messages whose outer
    /// congestion mark changes nothing, and only after a frame without reserved bits.
    pub fn extend(&mut self, buffer: &[u8], range: Range<usize>) -> bool {
        self.next_segment(buffer, range).is_some()
    }

    fn next_segment(&mut self, buffer: &[u8], range: Range<usize>) -> Option<()> {
        let (number, place) = self.hot?;
        let group = self.groups.get(usize::from(number))?;
        let before = self.segments.get(usize::from(group.last))?.start as usize;
        let (start, end) = (range.start.checked_add(VxlanHdr::LEN)?, range.end);
        if buffer.get(before.checked_sub(VxlanHdr::LEN)?..before)? != buffer.get(range.start..start)? {
            return None;
        }
        let frame = buffer.get(start..end)?;
        let len = u32::try_from(frame.len()).ok()?;
        let payload = len.checked_sub(u32::from(group.headers)).filter(|payload| *payload > 0)?;
        let first = self.segments.get(usize::from(group.first))?.bytes(buffer);
        let flags = *frame.get(usize::from(group.l4_off) + 13)?;
        let next = group.has_room(payload)
            && self.segments.len() < self.segments.capacity()
            && flags & !PSH == ACK
            && continues(first, frame, group)?
            && is_whole(frame, group.l3, group.l4_off)?;
        if !next {
            return None;
        }
        let index = self.segments.len() as u16;
        self.segments.push(Segment { start: u32::try_from(start).ok()?, len, next: NONE });
        let size = self.join(number, index, payload);
        self.grow(usize::from(place), flags & PSH == 0 && payload == size, number);
        Some(())
    }

    /// Adds a frame of the batch, whose bytes are in `buffer`. `stream` is where it came from and goes to: frames of two
    /// streams never join. False: the batch is full.
    pub fn add(&mut self, buffer: &[u8], stream: u32, inner: &Inner) -> bool {
        // As many as `new` was told, for nothing may be allocated.
        if self.segments.len() == self.segments.capacity() || self.groups.len() == self.groups.capacity() {
            return false;
        }
        let segment = Segment { start: inner.start, len: inner.len, next: NONE };
        let index = self.segments.len() as u16;
        self.segments.push(segment);
        self.hot = None;
        if inner.packet.key.proto != PROTO_TCP {
            self.alone(stream, inner, index);
        } else if inner.packet.meta.fragment == Fragment::No {
            self.tcp(buffer, stream, inner, index);
        } else {
            // A fragment does not say which flow it is of, so it ends all of them.
            self.open.fill(NONE);
            self.alone(stream, inner, index);
        }
        true
    }

    /// Begins a group, and returns its number.
    fn alone(&mut self, stream: u32, inner: &Inner, index: u16) -> u16 {
        let meta = &inner.packet.meta;
        self.groups.push(Group {
            stream,
            vnet: inner.vnet,
            l3: meta.l3,
            l4_off: meta.l4_off,
            headers: meta.headers_len,
            first: index,
            last: index,
            count: 1,
            size: inner.len.saturating_sub(u32::from(meta.headers_len)),
            len: inner.len,
        });
        (self.groups.len() - 1) as u16
    }

    /// Joins a segment to the super-frame of its flow, or lets it begin one.
    fn tcp(&mut self, buffer: &[u8], stream: u32, inner: &Inner, index: u16) {
        let place = self.hash.hash_one((inner.packet.key, stream)) as usize % PLACES;
        let fits = fits(buffer, inner);
        let payload = inner.len.saturating_sub(u32::from(inner.packet.meta.headers_len));
        let pushed = inner.packet.meta.tcp.is_some_and(|tcp| tcp.flags & PSH != 0);
        let mut group = self.open.get(place).copied().unwrap_or(NONE);
        let mut size = payload;
        if fits && self.follows(buffer, group, stream, inner) {
            size = self.join(group, index, payload);
        } else {
            group = self.alone(stream, inner, index);
        }
        // PSH asks for delivery, and behind a shorter segment none of the size can stand.
        self.grow(place, fits && !pushed && payload == size && size >= SIZE_MIN, group);
        self.hot = self.hot.filter(|_| !inner.header.reserved);
    }

    /// Whether the super-frame of the flow at `place` may go on.
    fn grow(&mut self, place: usize, grows: bool, group: u16) {
        if let Some(open) = self.open.get_mut(place) {
            *open = if grows { group } else { NONE };
        }
        self.hot = grows.then_some((group, place as u16));
    }

    /// Whether the segment is the next one of the super-frame.
    fn follows(&self, buffer: &[u8], group: u16, stream: u32, inner: &Inner) -> bool {
        let Some(group) = self.groups.get(usize::from(group)) else { return false };
        let Some(first) = self.segments.get(usize::from(group.first)) else { return false };
        let meta = &inner.packet.meta;
        let payload = inner.len.saturating_sub(u32::from(group.headers));
        let alike = (group.stream, group.l3, group.l4_off, group.headers)
            == (stream, meta.l3, meta.l4_off, meta.headers_len);
        let short = group.has_room(payload);
        let frame = Segment { start: inner.start, len: inner.len, next: NONE }.bytes(buffer);
        alike && short && continues(first.bytes(buffer), frame, group).unwrap_or(false)
    }

    /// Links the segment behind the last one, and returns the size of the segments before it.
    fn join(&mut self, group: u16, index: u16, payload: u32) -> u32 {
        let Some(group) = self.groups.get_mut(usize::from(group)) else { return payload };
        if let Some(last) = self.segments.get_mut(usize::from(group.last)) {
            last.next = index;
        }
        group.last = index;
        group.count += 1;
        group.len += payload;
        group.size
    }

    /// What the batch comes to, in order.
    pub fn outs(&self) -> impl Iterator<Item = Out> {
        self.groups.iter().zip(0..).map(|(group, index)| Out {
            stream: group.stream,
            count: group.count,
            len: VnetHdr::LEN + group.len as usize,
            group: index,
        })
    }

    /// Writes one of [`Coalescer::outs`] to the start of `to`, the virtio header first, from the buffer that the frames
    /// are in. How many bytes that is; `None`: they do not fit.
    pub fn write(&self, buffer: &[u8], out: Out, to: &mut [u8]) -> Option<usize> {
        let group = self.groups.get(usize::from(out.group))?;
        let to = to.get_mut(..VnetHdr::LEN + group.len as usize)?;
        let (vnet, frame) = to.split_first_chunk_mut::<{ VnetHdr::LEN }>()?;
        let mut segment = self.segments.get(usize::from(group.first))?;
        let mut rest = append(&mut *frame, segment.bytes(buffer))?;
        while let Some(next) = self.segments.get(usize::from(segment.next)) {
            segment = next;
            rest = append(rest, segment.bytes(buffer).get(usize::from(group.headers)..)?)?;
        }
        let header = if group.count > 1 { finish(frame, group, segment.bytes(buffer))? } else { group.vnet };
        vnet.copy_from_slice(header.as_bytes());
        Some(to.len())
    }
}

/// Copies `bytes` to the start of `to` and returns what is left of it.
fn append<'a>(to: &'a mut [u8], bytes: &[u8]) -> Option<&'a mut [u8]> {
    let (place, rest) = to.split_at_mut_checked(bytes.len())?;
    place.copy_from_slice(bytes);
    Some(rest)
}

/// Whether it is a segment that may join others at all: plain headers, ACK and at most PSH, some payload, and checksums
/// that are right. (A super-frame's is open: nobody would find a wrong one any more.)
fn fits(buffer: &[u8], inner: &Inner) -> bool {
    let meta = &inner.packet.meta;
    let frame = Segment { start: inner.start, len: inner.len, next: NONE }.bytes(buffer);
    let l3_len = match meta.l3 {
        L3::V4 => 20,
        L3::V6 => 40,
        L3::Arp | L3::Other => return false,
    };
    let Some(tcp) = meta.tcp else { return false };
    // An open checksum that is no whole one as well is found below.
    let plain = !inner.vnet.is_gso()
        && usize::from(meta.l3_off) == L3_OFF
        && usize::from(meta.l4_off) == L3_OFF + l3_len
        && meta.l3_end == inner.len
        && tcp.flags & !PSH == ACK
        && tcp.payload > 0;
    plain && is_whole(frame, meta.l3, meta.l4_off).unwrap_or(false)
}

/// Whether the length in the plain IP header is that of the frame, and checksums are right.
fn is_whole(frame: &[u8], kind: L3, l4_off: u16) -> Option<bool> {
    let (l2_and_l3, l4) = frame.split_at_checked(usize::from(l4_off))?;
    let l3 = l2_and_l3.get(L3_OFF..)?;
    let (length, addresses, header) = if kind == L3::V6 {
        (*l3.get(4..)?.first_chunk()?, l3.get(8..40)?, true)
    } else {
        (*l3.get(2..)?.first_chunk()?, l3.get(12..20)?, sum(l3) == 0xffff)
    };
    let counted = if kind == L3::V6 { l4.len() } else { l3.len() + l4.len() };
    let pseudo = add(sum(addresses), add(u16::from(PROTO_TCP), u16::try_from(l4.len()).ok()?));
    Some(usize::from(u16::from_be_bytes(length)) == counted && header && add(pseudo, sum(l4)) == 0xffff)
}

/// Whether the headers of `frame` are those that a segment behind all of the group has, whose first one is `first`.
fn continues(first: &[u8], frame: &[u8], group: &Group) -> Option<bool> {
    let l4 = usize::from(group.l4_off);
    let same = |from: usize, to: usize| Some(first.get(from..to)? == frame.get(from..to)?);
    let word = |bytes: &[u8], at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let seq = |bytes: &[u8]| Some(u32::from_be_bytes(*bytes.get(l4 + 4..)?.first_chunk()?));
    let payload = group.len.checked_sub(u32::from(group.headers))?;
    let network = if group.l3 == L3::V6 {
        // All but the payload length.
        same(0, L3_OFF + 4)? && same(L3_OFF + 6, l4)?
    } else {
        // All but total length, identification and checksum. RFC 6864 section 4.1: with Don't Fragment the
        // identification means nothing; without, a cut one would have what it has.
        let atomic = word(first, L3_OFF + 6)? & 0x4000 != 0;
        let counted = word(frame, L3_OFF + 4)? == word(first, L3_OFF + 4)?.wrapping_add(group.count);
        same(0, L3_OFF + 2)?
            && same(L3_OFF + 6, L3_OFF + 10)?
            && same(L3_OFF + 12, l4)?
            && (atomic || counted)
    };
    // L4 ports; acknowledgment number, header length and reserved bits; window; urgent pointer and options.
    let transport = same(l4, l4 + 4)?
        && same(l4 + 8, l4 + 13)?
        && same(l4 + 14, l4 + 16)?
        && same(l4 + 18, usize::from(group.headers))?;
    Some(network && transport && seq(frame)? == seq(first)?.wrapping_add(payload))
}

/// Makes the headers of the first segment those of the super-frame, and returns its virtio header.
fn finish(frame: &mut [u8], group: &Group, last: &[u8]) -> Option<VnetHdr> {
    let l4_off = usize::from(group.l4_off);
    let pushed = last.get(l4_off + 13)? & PSH;
    let (l2_and_l3, l4) = frame.split_at_mut_checked(l4_off)?;
    let l3 = l2_and_l3.get_mut(L3_OFF..)?;
    let l4_len = u16::try_from(l4.len()).ok()?;
    let addresses = if group.l3 == L3::V6 {
        *l3.get_mut(4..)?.first_chunk_mut()? = l4_len.to_be_bytes();
        sum(l3.get(8..40)?)
    } else {
        let total = u16::try_from(l3.len()).ok()?.checked_add(l4_len)?;
        *l3.get_mut(2..)?.first_chunk_mut()? = total.to_be_bytes();
        *l3.get_mut(10..)?.first_chunk_mut()? = [0, 0];
        *l3.get_mut(10..)?.first_chunk_mut()? = (!sum(l3)).to_be_bytes();
        sum(l3.get(12..20)?)
    };
    *l4.get_mut(13)? |= pushed;
    let bare = add(addresses, add(u16::from(PROTO_TCP), l4_len));
    *l4.get_mut(usize::from(CHECKSUM)..)?.first_chunk_mut()? = bare.to_be_bytes();
    Some(VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: if group.l3 == L3::V6 { VnetHdr::GSO_TCPV6 } else { VnetHdr::GSO_TCPV4 },
        hdr_len: group.headers.into(),
        gso_size: u16::try_from(group.size).ok()?.into(),
        csum_start: group.l4_off.into(),
        csum_offset: CHECKSUM.into(),
    })
}
