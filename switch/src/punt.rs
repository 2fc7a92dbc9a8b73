//! Packets between workers and the control plane: what a gateway's services are asked, and what they answer.
//!
//! The slots are made once and go round: free, filled by a worker and queued up, emptied by the control plane, filled
//! again and queued down. Nothing is allocated on that way, and nobody waits: without a free slot the packet is dropped
//! by its name. A port may have queued a quarter of what is free and no more, so however many flood, whoever has nothing
//! queued is let in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};

use crossbeam_queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::checksum;
use crate::drop::DropReason;
use crate::flow::{Gso, L3, Meta, Packet};
use crate::frame::Frame;
use crate::io::Io;
use crate::mac::MacAddr;
use crate::mailbox::ring;
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::policy::{Desk, Fate};
use crate::port::{NetworkId, PortId};
use crate::segment;
use crate::vnet::VnetHdr;

/// Slots of all workers.
pub const SLOTS: usize = 256;
/// Bytes of the longest IP packet in a slot: one of Ethernet's usual size, and a little more.
pub const MAX_PACKET: usize = 2048;
/// The part of the free slots that one port may have queued.
const SHARE: usize = 4;

const ETHERNET_LEN: usize = 14;

/// A service of a gateway that is not a worker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Names: UDP and TCP to l4 port 53 of a gateway's address.
    Dns,
    /// Addresses: UDP to l4 port 67 of a gateway's address, or broadcast.
    Dhcp,
}

/// A slot: one IP packet with whole checksums, and whose it is.
#[derive(Debug)]
pub struct Parcel {
    /// The port it came in by, or goes out of.
    pub port: PortId,
    /// The network it is of. It goes nowhere if the port is in another one by then.
    pub network: NetworkId,
    /// Which container of those that had the port's number one after the other; see [`Punt::forget`].
    pub epoch: u32,
    /// Who is asked, or answers.
    pub service: Service,
    /// The container's MAC: who sent it, or who is to get it (possibly all). The other one is the gateway's.
    pub mac: MacAddr,
    bytes: Box<[u8]>,
    len: usize,
}

impl Parcel {
    fn new() -> Self {
        Self {
            port: PortId(u16::MAX),
            network: NetworkId(u16::MAX),
            epoch: 0,
            service: Service::Dns,
            mac: MacAddr::ZERO,
            bytes: vec![0; MAX_PACKET].into_boxed_slice(),
            len: 0,
        }
    }

    /// The IP packet.
    pub fn packet(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Makes it another IP packet: `fill` gets [`MAX_PACKET`] bytes and says how many of them it is. `None`, or more:
    /// it is empty, and goes nowhere.
    pub fn fill(&mut self, fill: impl FnOnce(&mut [u8]) -> Option<usize>) {
        self.len = fill(&mut self.bytes).filter(|len| *len <= self.bytes.len()).unwrap_or(0);
    }

    /// Says who gets it: whoever `other` came from.
    pub fn address_as(&mut self, other: &Self) {
        self.port = other.port;
        self.network = other.network;
        self.epoch = other.epoch;
        self.service = other.service;
        self.mac = other.mac;
    }

    /// Writes the frame of this packet, virtio header first, with no offload asked for; its length.
    fn write(&self, from: MacAddr, out: &mut [u8]) -> Option<usize> {
        let ethertype = match self.packet().first()? >> 4 {
            4 => ETHERTYPE_IPV4,
            _ => ETHERTYPE_IPV6,
        };
        let len = VnetHdr::LEN + ETHERNET_LEN + self.len;
        let out = out.get_mut(..len)?;
        let (vnet, frame) = out.split_at_mut_checked(VnetHdr::LEN)?;
        vnet.fill(0);
        frame.get_mut(..6)?.copy_from_slice(&self.mac.0);
        frame.get_mut(6..12)?.copy_from_slice(&from.0);
        frame.get_mut(12..14)?.copy_from_slice(&ethertype.to_be_bytes());
        frame.get_mut(ETHERNET_LEN..)?.copy_from_slice(self.packet());
        Some(len)
    }
}

/// What is kept of a port.
#[derive(Default)]
struct Share {
    /// Packets of it in the queue up.
    queued: AtomicU16,
    epoch: AtomicU32,
}

/// The slots and queues between workers and the control plane.
///
/// # Threads
/// Shared; nothing waits. Workers call `up`, `ring` and `forget`, the one that sends for all of them `down`, the control
/// plane the others.
pub struct Punt {
    free: ArrayQueue<Box<Parcel>>,
    up: ArrayQueue<Box<Parcel>>,
    down: ArrayQueue<Box<Parcel>>,
    ports: Box<[Share]>,
    /// Something was queued up since the control plane was woken.
    unheard: AtomicBool,
    wake: OwnedFd,
}

impl Punt {
    /// Slots and queues for ports `0..ports`.
    ///
    /// # Errors
    /// When the kernel has no descriptors left.
    ///
    /// # Syscalls
    /// `eventfd2`
    pub fn new(ports: usize) -> Result<Self, Errno> {
        let free = ArrayQueue::new(SLOTS);
        // There is room for each: the queue is as long.
        (0..SLOTS).for_each(|_| _ = free.push(Box::new(Parcel::new())));
        Ok(Self {
            free,
            up: ArrayQueue::new(SLOTS),
            down: ArrayQueue::new(SLOTS),
            ports: (0..ports).map(|_| Share::default()).collect(),
            unheard: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        })
    }

    /// Copies a packet into the queue up, with whole checksums; a super-frame as its segments. The worker's.
    ///
    /// # Errors
    /// [`DropReason::ServiceQueue`] where no slot is free for this port, [`DropReason::OversizedRequest`] where it does
    /// not fit into one.
    pub fn up<I: Io>(
        &self,
        service: Service,
        frame: &Frame,
        packet: &Packet,
        network: NetworkId,
        desk: &mut Desk<'_, I>,
    ) -> Result<Fate, DropReason> {
        let mut meta = packet.meta;
        if meta.gso == Gso::None {
            checksum::complete(desk.bytes_mut(frame), &mut meta);
            self.push(service, &meta, network, |slot| copy(desk.bytes(frame), &meta, slot))?;
            return Ok(Fate::Local);
        }
        for index in 0..segment::count(&meta) {
            let cut = |slot: &mut [u8]| cut(desk.bytes(frame), &meta, index, slot);
            match self.push(service, &meta, network, cut) {
                Ok(()) => {}
                // It has been heard in part; the sender says the rest again, as after any loss.
                Err(_) if index > 0 => break,
                Err(reason) => return Err(reason),
            }
        }
        Ok(Fate::Local)
    }

    fn push(
        &self,
        service: Service,
        meta: &Meta,
        network: NetworkId,
        fill: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Result<(), DropReason> {
        let share = self.ports.get(meta.port.index()).ok_or(DropReason::ServiceQueue)?;
        if usize::from(share.queued.load(Ordering::Relaxed)) >= self.free.len() / SHARE {
            return Err(DropReason::ServiceQueue);
        }
        let mut parcel = self.free.pop().ok_or(DropReason::ServiceQueue)?;
        parcel.fill(fill);
        if parcel.len == 0 {
            self.give_back(parcel);
            return Err(DropReason::OversizedRequest);
        }
        parcel.port = meta.port;
        parcel.network = network;
        parcel.epoch = share.epoch.load(Ordering::Relaxed);
        parcel.service = service;
        parcel.mac = meta.src;
        share.queued.fetch_add(1, Ordering::Relaxed);
        // There is room for every slot there is.
        let pushed = self.up.push(parcel).map_err(|_| DropReason::ServiceQueue);
        self.unheard.store(true, Ordering::Release); // after it: another worker may ring for it
        pushed
    }

    /// Wakes the control plane if a packet was queued up since the last time. A worker's, once a batch.
    pub fn ring(&self) {
        if self.unheard.load(Ordering::Relaxed) && self.unheard.swap(false, Ordering::AcqRel) {
            ring(&self.wake);
        }
    }

    /// Sends what the control plane gave, at most `most` packets; whether more is there. `place` says which MAC the
    /// gateway of a network has, if the port is one of it. One worker's.
    pub fn down<I: Io>(
        &self,
        most: usize,
        desk: &mut Desk<'_, I>,
        place: impl Fn(PortId, NetworkId) -> Option<MacAddr>,
    ) -> bool {
        for _ in 0..most {
            let Some(parcel) = self.down.pop() else { return false };
            if self.is_current(parcel.port, parcel.epoch)
                && let Some(from) = place(parcel.port, parcel.network)
            {
                // A port that does not take it has counted that.
                let _ = desk.emit(parcel.port, &mut |out| parcel.write(from, out).unwrap_or(0));
            }
            self.give_back(parcel);
        }
        !self.down.is_empty()
    }

    /// The container behind a port is gone: what is under way to it goes nowhere. A worker's.
    pub fn forget(&self, port: PortId) {
        if let Some(share) = self.ports.get(port.index()) {
            share.epoch.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the container that had the port then has it still.
    pub fn is_current(&self, port: PortId, epoch: u32) -> bool {
        self.ports.get(port.index()).is_some_and(|share| share.epoch.load(Ordering::Relaxed) == epoch)
    }

    /// The next packet for the control plane, which hands its slot on by [`Punt::send`] or [`Punt::give_back`].
    pub fn next(&self) -> Option<Box<Parcel>> {
        let parcel = self.up.pop()?;
        if let Some(share) = self.ports.get(parcel.port.index()) {
            share.queued.fetch_sub(1, Ordering::Relaxed);
        }
        Some(parcel)
    }

    /// A free slot for the control plane to fill.
    pub fn take(&self) -> Option<Box<Parcel>> {
        self.free.pop()
    }

    /// A slot is free again.
    pub fn give_back(&self, parcel: Box<Parcel>) {
        // There is room for every slot there is.
        let _ = self.free.push(parcel);
    }

    /// A packet for a worker to send. It has to be woken: [`crate::mailbox::Mailbox::wake`].
    pub fn send(&self, parcel: Box<Parcel>) {
        if parcel.len == 0 {
            return self.give_back(parcel);
        }
        // The same.
        let _ = self.down.push(parcel);
    }

    /// Whether packets wait for the worker to send them.
    pub fn has_sent(&self) -> bool {
        !self.down.is_empty()
    }

    /// Readable when there may be a packet for the control plane.
    pub fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// The IP packet of a frame.
fn copy(frame: &[u8], meta: &Meta, slot: &mut [u8]) -> Option<usize> {
    let ip = frame.get(usize::from(meta.l3_off)..meta.l3_end as usize)?;
    slot.get_mut(..ip.len())?.copy_from_slice(ip);
    Some(ip.len())
}

/// The IP packet of one segment of a super-frame.
fn cut(frame: &[u8], meta: &Meta, index: usize, slot: &mut [u8]) -> Option<usize> {
    let len = segment::segment(frame, meta, index, slot)?;
    slot.copy_within(usize::from(meta.l3_off)..len, 0);
    len.checked_sub(usize::from(meta.l3_off)).filter(|_| meta.l3 != L3::Other)
}
