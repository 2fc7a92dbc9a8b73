//! Frames and the pool they live in: fixed slots, headroom in front, returned by reference count.
//!
//! A slot is laid out so that a frame never has to be copied to grow, and so that one `read` fills it:
//!
//! ```text
//! | HEADROOM | virtio_net_hdr 10 | Ethernet 14 | IP 20, TCP 32 | payload ... up to 64 KiB |
//!            ^ read starts here    ^ Frame::start                ^ a cache line begins
//! ```

use std::alloc::Layout;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use zerocopy::{FromBytes, IntoBytes};

use crate::port::PortId;
use crate::sys::ring::{Done, Full, Ring};
use crate::sys::slab::Slab;
use crate::vnet::VnetHdr;

/// Bytes in front of what is read: room for the outer headers of a tunnel
/// (Ethernet 18 + IPv6 40 + UDP 8 + VXLAN 8) and a virtio header before them. So many that the payload of TCP over IPv4,
/// with the timestamps that everybody sends, begins with a cache line: the kernel copies it faster.
pub const HEADROOM: usize = 3 * LINE - PAYLOAD % LINE;
/// Where that payload is in what is read.
const PAYLOAD: usize = VnetHdr::LEN + 14 + 20 + 32;
/// Bytes of a cache line.
const LINE: usize = 64;
const _: () = assert!(HEADROOM >= 18 + 40 + 8 + 8 + VnetHdr::LEN);

/// Bytes of the longest frame a TAP can hand over: Ethernet, one inline tag, 65,535 of IP.
pub const MAX_FRAME: usize = 14 + 4 + 65_535;

/// Bytes from one slot to the next. An odd multiple of the cache line, so that the headers of a batch do not all fall
/// into the same cache set. The read buffer is larger than the longest frame: a full one is a truncation.
const STRIDE: usize = 1029 * LINE;
const _: () = assert!(STRIDE - HEADROOM > VnetHdr::LEN + MAX_FRAME);
/// Where the Ethernet header is in a slot that was filled.
const START: usize = HEADROOM + VnetHdr::LEN;

/// A frame in a [`Pool`]: where its Ethernet header starts and how long it is. Plain data; the bytes stay in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    slot: u16,
    /// Offset of the Ethernet header in the slot, bytes.
    start: u32,
    /// Length from the Ethernet header on, bytes.
    len: u32,
    /// The port it came in by.
    pub port: PortId,
}

impl Frame {
    /// Length from the Ethernet header on, bytes.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// The same frame without its first `bytes`, which stay where they are.
    #[must_use]
    pub const fn cut(&self, bytes: u16) -> Self {
        let cut = if (bytes as u32) < self.len { bytes as u32 } else { self.len };
        Self { slot: self.slot, start: self.start + cut, len: self.len - cut, port: self.port }
    }

    /// The same frame with `bytes` more in front, which hold whatever was there; `None`: there is no room.
    #[must_use]
    pub const fn grown(&self, bytes: u16) -> Option<Self> {
        let more = bytes as u32;
        // Room is left for the virtio header.
        if self.start < more + VnetHdr::LEN as u32 {
            return None;
        }
        Some(Self { slot: self.slot, start: self.start - more, len: self.len + more, port: self.port })
    }

    /// Where its bytes are in the slot.
    const fn range(&self) -> Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }

    /// Where they are with the virtio header in front.
    const fn wire(&self) -> Range<usize> {
        self.start as usize - VnetHdr::LEN..(self.start + self.len) as usize
    }

    /// Whether it has no bytes at all.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The buffers of one worker. Fixed in number; LIFO, so that the slot used last, still in the cache, is used next.
pub struct Pool {
    slab: Slab,
    refs: Box<[u16]>,
    free: Vec<u16>,
}

impl Pool {
    /// A pool of `slots` frames. The memory is touched when a slot is first used.
    pub fn new(slots: u16) -> Self {
        let slab = Slab::new(slots, STRIDE).unwrap_or_else(|_| {
            let bytes = usize::from(slots) * STRIDE;
            std::alloc::handle_alloc_error(Layout::array::<u8>(bytes).unwrap_or(Layout::new::<u8>()))
        });
        Self { slab, refs: vec![0; usize::from(slots)].into_boxed_slice(), free: (0..slots).rev().collect() }
    }

    /// Slots that are free.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Takes a slot, calls `fill` with its read buffer (virtio header first), and makes a frame of what it wrote.
    ///
    /// # Errors
    /// [`FillError::NoBuffer`] when all slots are in use; what `fill` returns; [`FillError::Truncated`] when the
    /// buffer was filled to the last byte; [`FillError::Short`] when not even the virtio header is there.
    pub fn fill<E>(
        &mut self,
        port: PortId,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<Frame, FillError<E>> {
        let slot = *self.free.last().ok_or(FillError::NoBuffer)?;
        let buffer = self.slab.slot_mut(slot).get_mut(HEADROOM..).unwrap_or_default();
        let read = fill(buffer).map_err(FillError::Io)?;
        self.filled(port, read)
    }

    /// The same, with the bytes of another frame to read from, which `fill` gets beside the buffer.
    ///
    /// # Errors
    /// Those of [`Pool::fill`].
    pub fn fill_about<E>(
        &mut self,
        port: PortId,
        about: Option<&Frame>,
        fill: impl FnOnce(&mut [u8], &[u8]) -> Result<usize, E>,
    ) -> Result<Frame, FillError<E>> {
        let Some(about) = about else { return self.fill(port, |buffer| fill(buffer, &[])) };
        let slot = *self.free.last().ok_or(FillError::NoBuffer)?;
        let (buffer, source) = self.slab.pair(slot, about.slot);
        let source = source.get(about.range()).unwrap_or_default();
        let buffer = buffer.get_mut(HEADROOM..).unwrap_or_default();
        let written = fill(buffer, source).map_err(FillError::Io)?;
        self.filled(port, written)
    }

    /// The slot on top, filled with `bytes`, is in use from now on.
    #[inline]
    fn filled<E>(&mut self, port: PortId, bytes: usize) -> Result<Frame, FillError<E>> {
        let len = frame_len(bytes)?;
        let slot = self.free.pop().ok_or(FillError::NoBuffer)?;
        if let Some(refs) = self.refs.get_mut(usize::from(slot)) {
            *refs = 1;
        }
        Ok(Frame { slot, start: START as u32, len: len as u32, port })
    }

    /// Lends the slot on top to the kernel, to be filled with what it reads. False: there is none, or the ring has enough.
    pub(crate) fn lend(&mut self, ring: &mut Ring) -> bool {
        let Some(&slot) = self.free.last() else { return false };
        let lent = ring.lend(&mut self.slab, slot, HEADROOM);
        if lent {
            self.free.pop();
        }
        lent
    }

    /// A frame of the `bytes` that the kernel read into a lent slot, which is in use from now on, or free if it is none.
    ///
    /// # Errors
    /// Those of [`Pool::fill`].
    pub(crate) fn lent<E>(&mut self, port: PortId, slot: u16, bytes: usize) -> Result<Frame, FillError<E>> {
        match frame_len(bytes) {
            Ok(len) => {
                if let Some(refs) = self.refs.get_mut(usize::from(slot)) {
                    *refs = 1;
                }
                Ok(Frame { slot, start: START as u32, len: len as u32, port })
            }
            Err(error) => {
                self.give_back(slot);
                Err(error)
            }
        }
    }

    /// A lent slot came back with nothing to be made of it.
    pub(crate) fn give_back(&mut self, slot: u16) {
        self.free.push(slot);
    }

    /// Begins a ring over these slots.
    ///
    /// # Errors
    /// Those of [`Ring::begin`].
    pub(crate) fn begin(&self, ring: &mut Ring) -> rustix::io::Result<()> {
        ring.begin(&self.slab)
    }

    /// The next thing that the ring has done.
    #[inline]
    pub(crate) fn done(&mut self, ring: &mut Ring) -> Option<Done> {
        ring.next(&mut self.slab)
    }

    /// Queues a write of a frame with its virtio header. Its holder must keep it until the write is over.
    #[inline]
    pub(crate) fn write(
        &mut self,
        ring: &mut Ring,
        fd: BorrowedFd<'_>,
        frame: &Frame,
        token: u32,
    ) -> Result<(), Full> {
        let wire = frame.wire();
        ring.write(&mut self.slab, fd, frame.slot, (wire.start, wire.len()), token)
    }

    /// One more holder of the frame's slot.
    pub fn retain(&mut self, frame: &Frame) {
        if let Some(refs) = self.refs.get_mut(usize::from(frame.slot)) {
            *refs += 1;
        }
    }

    /// One holder less; the last one returns the slot.
    pub fn release(&mut self, frame: &Frame) {
        if let Some(refs) = self.refs.get_mut(usize::from(frame.slot)) {
            *refs = refs.saturating_sub(1);
            if *refs == 0 {
                self.free.push(frame.slot);
            }
        }
    }

    /// The bytes from the Ethernet header on.
    pub fn bytes(&self, frame: &Frame) -> &[u8] {
        self.slab.slot(frame.slot).get(frame.range()).unwrap_or_default()
    }

    /// The same, to be edited by the hop `apply`, before the first write is queued: none after that.
    pub fn bytes_mut(&mut self, frame: &Frame) -> &mut [u8] {
        self.slab.slot_mut(frame.slot).get_mut(frame.range()).unwrap_or_default()
    }

    /// What is written to a TAP: the virtio header and the frame.
    pub fn wire(&self, frame: &Frame) -> &[u8] {
        self.slab.slot(frame.slot).get(frame.wire()).unwrap_or_default()
    }

    /// The virtio header in front of the frame.
    pub fn vnet(&self, frame: &Frame) -> VnetHdr {
        VnetHdr::read_from_prefix(self.wire(frame)).map(|(header, _)| header).unwrap_or_default()
    }

    /// Replaces the virtio header in front of the frame.
    pub fn set_vnet(&mut self, frame: &Frame, header: &VnetHdr) {
        let start = frame.start as usize;
        if let Some(place) = self.slab.slot_mut(frame.slot).get_mut(start - VnetHdr::LEN..start) {
            place.copy_from_slice(header.as_bytes());
        }
    }
}

/// How long the frame is of which so many bytes were read.
fn frame_len<E>(bytes: usize) -> Result<usize, FillError<E>> {
    if bytes >= STRIDE - HEADROOM {
        return Err(FillError::Truncated);
    }
    bytes.checked_sub(VnetHdr::LEN).ok_or(FillError::Short)
}

/// Why a slot was not filled.
#[derive(Debug, thiserror::Error)]
pub enum FillError<E> {
    /// All slots are in use.
    #[error("no free buffer")]
    NoBuffer,
    /// The device said no.
    #[error(transparent)]
    Io(E),
    /// The buffer was filled to the last byte: the frame was cut off.
    #[error("frame longer than the buffer")]
    Truncated,
    /// Shorter than the virtio header.
    #[error("frame shorter than its virtio header")]
    Short,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(pool: &mut Pool, bytes: &[u8]) -> Frame {
        pool.fill::<()>(PortId(3), |buffer| {
            buffer[..VnetHdr::LEN].fill(0);
            buffer[VnetHdr::LEN..VnetHdr::LEN + bytes.len()].copy_from_slice(bytes);
            Ok(VnetHdr::LEN + bytes.len())
        })
        .unwrap()
    }

    #[test]
    fn a_slot_returns_when_its_last_holder_lets_go() {
        let mut pool = Pool::new(1);
        let frame = fill(&mut pool, b"frame");
        assert_eq!(pool.bytes(&frame), b"frame");
        assert_eq!(frame.port, PortId(3));
        pool.retain(&frame);
        pool.release(&frame);
        assert_eq!(pool.available(), 0);
        assert!(matches!(pool.fill::<()>(PortId(0), |_| Ok(20)), Err(FillError::NoBuffer)));
        pool.release(&frame);
        assert_eq!(pool.available(), 1);
    }

    #[test]
    fn payload_begins_with_a_cache_line() {
        let mut pool = Pool::new(3);
        for _ in 0..3 {
            let frame = fill(&mut pool, &[0; 100]);
            assert_eq!(pool.bytes(&frame)[14 + 20 + 32..].as_ptr().align_offset(LINE), 0);
        }
    }

    #[test]
    fn a_refused_read_keeps_the_slot_free() {
        let mut pool = Pool::new(1);
        assert!(matches!(pool.fill(PortId(0), |_| Err("EAGAIN")), Err(FillError::Io("EAGAIN"))));
        assert!(matches!(pool.fill::<()>(PortId(0), |buffer| Ok(buffer.len())), Err(FillError::Truncated)));
        assert!(matches!(pool.fill::<()>(PortId(0), |_| Ok(9)), Err(FillError::Short)));
        assert_eq!(pool.available(), 1);
    }

    #[test]
    fn the_virtio_header_lies_in_front() {
        let mut pool = Pool::new(2);
        let first = fill(&mut pool, b"first");
        let second = fill(&mut pool, b"second");
        let header = VnetHdr { gso_type: VnetHdr::GSO_TCPV4, gso_size: 1448.into(), ..VnetHdr::default() };
        pool.set_vnet(&second, &header);
        assert_eq!(pool.vnet(&second), header);
        assert_eq!(pool.vnet(&first), VnetHdr::default());
        assert_eq!(pool.wire(&second).len(), VnetHdr::LEN + 6);
        pool.bytes_mut(&first)[0] = b'F';
        assert_eq!(pool.bytes(&first), b"First");
    }
}
