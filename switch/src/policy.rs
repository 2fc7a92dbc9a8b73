//! What the rooms above the switch add to a packet's way: decisions of theirs, and what a gateway does itself.
//!
//! A plain function `Fn(&Packet, &Network) -> Verdict` is a policy as well: that of a switch and nothing more.

use std::net::Ipv6Addr;

use crate::books::Books;
use crate::drop::DropReason;
use crate::flow::{Meta, Packet};
use crate::frame::{FillError, Frame, Pool};
use crate::io::Io;
use crate::parse::parse;
use crate::port::{NetworkId, PortId};
use crate::snapshot::{Network, Snapshot, View};
use crate::tag;
use crate::tick::Tick;
use crate::tx;
use crate::verdict::{Hop, Task, Verdict};
use crate::vnet::VnetHdr;

/// Where and when a packet is judged.
pub struct Here<'a, T> {
    /// The configuration.
    pub snapshot: View<'a, T>,
    /// The network the packet came in by.
    pub id: NetworkId,
    /// The same, resolved.
    pub network: &'a Network,
    /// The time of the batch.
    pub now: Tick,
}

impl<'a, T> Here<'a, T> {
    /// The same with other tables.
    pub const fn with<U>(&self, tables: &'a U) -> Here<'a, U> {
        Here { snapshot: self.snapshot.with(tables), id: self.id, network: self.network, now: self.now }
    }
}

/// What became of a packet that a task was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was for us.
    Local,
    /// It was kept by [`Desk::hold`].
    Held,
}

/// Decisions and services of one worker.
pub trait Policy {
    /// What they are decided by, published with the snapshot.
    type Tables;

    /// Fifth hop. Changes nothing, sees no bytes.
    fn decide(&self, packet: &Packet, here: &Here<'_, Self::Tables>) -> Verdict;

    /// Sixth hop, the policy's part: commits what `verdict` costs.
    fn track(&mut self, verdict: Verdict, _packet: &Packet, _here: &Here<'_, Self::Tables>) -> Verdict {
        verdict
    }

    /// Seventh hop, the policy's part: edits the bytes of a routed frame, which carries no tag any more.
    ///
    /// # Errors
    /// What is wrong with the bytes; the frame is dropped.
    fn edit(_hop: &Hop, _meta: &Meta, _frame: &mut [u8]) -> Result<(), DropReason> {
        Ok(())
    }

    /// A task. Out of line.
    ///
    /// # Errors
    /// Why the packet was dropped.
    fn serve<I: Io>(
        &mut self,
        task: Task,
        frame: &Frame,
        packet: &Packet,
        here: &Here<'_, Self::Tables>,
        desk: &mut Desk<'_, I>,
    ) -> Result<Fate, DropReason>;

    /// Asks the next hop of a forwarded packet whether it is still there.
    fn ask<I: Io>(&mut self, _verdict: &Verdict, _here: &Here<'_, Self::Tables>, _desk: &mut Desk<'_, I>) {}

    /// Somebody behind the port of `packet` does not listen to these groups any more: does anybody else there?
    fn left<I: Io>(
        &mut self,
        _groups: &[Ipv6Addr],
        _packet: &Packet,
        _here: &Here<'_, Self::Tables>,
        _desk: &mut Desk<'_, I>,
    ) {
    }

    /// The container behind a port is gone: whatever is kept for it goes too, before the port's number is another's.
    fn forget<I: Io>(
        &mut self,
        _port: PortId,
        _snapshot: &Snapshot<Self::Tables>,
        _now: Tick,
        _desk: &mut Desk<'_, I>,
    ) {
    }

    /// Whether another worker may read this port from now on: nothing is kept for it that needs its next frames. Nothing
    /// new begins for it by itself from then on.
    fn may_leave(&mut self, _port: PortId) -> bool {
        true
    }

    /// After the packets of a batch: what they made necessary, once for all of them; `watched` says that the descriptor
    /// which the engine has an eye on for the policy is readable. True: there is more to do, after others had their
    /// turn.
    fn flush<I: Io>(
        &mut self,
        _watched: bool,
        _snapshot: &Snapshot<Self::Tables>,
        _now: Tick,
        _desk: &mut Desk<'_, I>,
    ) -> bool {
        false
    }

    /// When [`Policy::due`] is to be called next.
    fn deadline(&self) -> Option<Tick> {
        None
    }

    /// The deadline is over.
    fn due<I: Io>(&mut self, _snapshot: &Snapshot<Self::Tables>, _now: Tick, _desk: &mut Desk<'_, I>) {}
}

impl<F: Fn(&Packet, &Network) -> Verdict> Policy for F {
    type Tables = ();

    fn decide(&self, packet: &Packet, here: &Here<'_, ()>) -> Verdict {
        self(packet, here.network)
    }

    fn serve<I: Io>(
        &mut self,
        _: Task,
        _: &Frame,
        _: &Packet,
        _: &Here<'_, ()>,
        _: &mut Desk<'_, I>,
    ) -> Result<Fate, DropReason> {
        Ok(Fate::Local)
    }
}

/// Where a frame of ours goes.
#[derive(Clone, Copy)]
pub enum To<'a> {
    /// To one port.
    Port(PortId),
    /// To all ports of a network but one.
    Flood(&'a Network, Option<PortId>),
}

/// What a policy may do beside deciding: make frames, keep frames, let them go on.
pub struct Desk<'a, I> {
    pub(crate) io: &'a mut I,
    pub(crate) pool: &'a mut Pool,
    pub(crate) books: &'a mut Books,
    pub(crate) released: &'a mut Vec<Frame>,
    pub(crate) view: View<'a>,
}

impl<I: Io> Desk<'_, I> {
    /// The bytes of a frame from the Ethernet header on.
    pub fn bytes(&self, frame: &Frame) -> &[u8] {
        self.pool.bytes(frame)
    }

    /// The same, to be edited before it is dropped or copied; nothing of it was written anywhere yet.
    pub fn bytes_mut(&mut self, frame: &Frame) -> &mut [u8] {
        self.pool.bytes_mut(frame)
    }

    /// The virtio header in front of the frame.
    pub fn vnet(&self, frame: &Frame) -> VnetHdr {
        self.pool.vnet(frame)
    }

    /// Makes a frame, in the VLAN of the gateway of the network that it goes to: `fill` gets a buffer of at least 64
    /// KiB from the Ethernet header on, and the bytes of `about` where there is one, and says how long the frame is;
    /// `None`: there is nothing to send.
    pub fn make(
        &mut self,
        to: To<'_>,
        about: Option<&Frame>,
        fill: impl FnOnce(&mut [u8], &[u8]) -> Option<usize>,
    ) {
        let nobody = PortId::NOBODY;
        self.make_room();
        let made = self.pool.fill_about(nobody, about, |buffer, about| {
            let (header, frame) = buffer.split_at_mut_checked(VnetHdr::LEN).ok_or(())?;
            header.fill(0);
            Ok::<usize, ()>(VnetHdr::LEN + fill(frame, about).ok_or(())?)
        });
        let Ok(frame) = made else { return };
        self.books.counters.worker.generated.add(1);
        // What we make goes through the parser as well: it knows what `tx` has to know of it.
        match (parse(self.pool.bytes(&frame), &self.pool.vnet(&frame), nobody, 0), to) {
            (Ok(packet), To::Port(out)) => {
                // Counted; nobody waits for it.
                let _ = self.give(&frame, packet, out);
            }
            (Ok(mut packet), To::Flood(network, except)) => {
                packet.meta.port = except.unwrap_or(nobody);
                packet.meta.vid = network.vlan;
                tag::settle(&mut packet.meta, self.pool, &frame);
                tx::flood(self.io, self.pool, &frame, &packet, (network, self.view), self.books);
            }
            (Err(reason), _) => self.books.counters.drop_frame(nobody, reason),
        }
        self.pool.release(&frame);
    }

    /// Makes a frame with its virtio header, in the VLAN of the gateway there: `fill` writes both and says how long
    /// they are together; 0: there is nothing to send.
    ///
    /// # Errors
    /// No buffer is free, and `fill` was not called; or it is known already that the port did not take it.
    pub fn emit(&mut self, out: PortId, fill: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), DropReason> {
        let nobody = PortId::NOBODY;
        self.make_room();
        let made = self.pool.fill(nobody, |buffer| match fill(buffer) {
            0 => Err(()),
            len => Ok(len),
        });
        let frame = match made {
            Ok(frame) => frame,
            Err(FillError::NoBuffer) => return Err(DropReason::TxFull),
            Err(_) => return Ok(()),
        };
        self.books.counters.worker.generated.add(1);
        let sent = match parse(self.pool.bytes(&frame), &self.pool.vnet(&frame), nobody, 0) {
            Ok(packet) => self.give(&frame, packet, out),
            Err(reason) => {
                self.books.counters.drop_frame(out, reason);
                Err(reason)
            }
        };
        self.pool.release(&frame);
        sent
    }

    /// A frame of ours goes to one port.
    fn give(&mut self, frame: &Frame, mut packet: Packet, out: PortId) -> Result<(), DropReason> {
        let Some((port, home)) = self.view.port(out).zip(self.view.home(out)) else {
            self.books.counters.drop_frame(out, DropReason::TxDown);
            return Err(DropReason::TxDown);
        };
        packet.meta.vid = home.vlan;
        tag::settle(&mut packet.meta, self.pool, frame);
        tx::forward(self.io, self.pool, frame, &mut packet.meta, (out, port), self.books)
    }

    /// A ring keeps what is queued: where that is all there is, it goes out now.
    fn make_room(&mut self) {
        if self.pool.available() == 0 {
            self.io.flush(self.pool, self.books);
        }
    }

    /// Keeps a frame beyond its batch. Whoever holds it must let it go by [`Desk::resume`] or [`Desk::give_up`].
    pub fn hold(&mut self, frame: &Frame) {
        self.pool.retain(frame);
    }

    /// A held frame goes through all hops again, after this batch.
    pub fn resume(&mut self, frame: Frame) {
        self.released.push(frame);
    }

    /// A frame of which only the bytes were kept ([`Fate::Held`]) goes through all hops again, after this batch, as `port`
    /// sent it but without any offload. False: no buffer is free.
    pub fn resume_copy(&mut self, port: PortId, bytes: &[u8]) -> bool {
        self.make_room();
        let copied = self.pool.fill(port, |buffer| {
            let len = VnetHdr::LEN.saturating_add(bytes.len());
            let (header, frame) =
                buffer.get_mut(..len).ok_or(())?.split_at_mut_checked(VnetHdr::LEN).ok_or(())?;
            header.fill(0);
            frame.copy_from_slice(bytes);
            Ok::<_, ()>(len)
        });
        copied.is_ok_and(|frame| {
            self.released.push(frame);
            true
        })
    }

    /// A frame of which only the bytes were kept is dropped.
    pub fn give_up_copy(&mut self, port: PortId, reason: DropReason) {
        self.books.counters.worker.released.add(1);
        self.books.counters.drop_frame(port, reason);
    }

    /// A held frame is dropped.
    pub fn give_up(&mut self, frame: &Frame, reason: DropReason) {
        self.books.counters.worker.released.add(1);
        self.books.counters.drop_frame(frame.port, reason);
        self.pool.release(frame);
    }
}
