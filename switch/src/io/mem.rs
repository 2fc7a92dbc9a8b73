//! Devices made of memory: for tests with hand-moved time, and for micro benches without system calls.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use zerocopy::{FromBytes, IntoBytes};

use super::{Batch, Eye, Io, IoStats, Sent, Wait};
use crate::books::{Books, Ticket};
use crate::drop::DropReason;
use crate::flow::Meta;
use crate::frame::{FillError, Frame, Pool};
use crate::port::PortId;
use crate::tick::Tick;
use crate::vnet::VnetHdr;

/// An engine whose ports are queues. Buffers are recycled: in a steady state nothing is allocated.
#[derive(Default)]
pub struct MemIo {
    ports: Vec<MemPort>,
    arrivals: VecDeque<(PortId, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
    let_go: Vec<PortId>,
    /// The time that the next batch sees.
    pub now: Tick,
}

#[derive(Default)]
struct MemPort {
    sent: VecDeque<Vec<u8>>,
    refuses: Option<DropReason>,
}

impl MemIo {
    /// An engine with ports `0..ports`.
    pub fn new(ports: u16) -> Self {
        Self { ports: (0..ports).map(|_| MemPort::default()).collect(), ..Self::default() }
    }

    /// Puts a frame into the queue towards the switch, as if `port`'s container had sent it.
    pub fn inject(&mut self, port: PortId, header: &VnetHdr, frame: &[u8]) {
        let mut bytes = self.buffer();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(frame);
        self.arrivals.push_back((port, bytes));
    }

    /// Takes what the switch sent to `port`, oldest first.
    pub fn take(&mut self, port: PortId) -> Vec<(VnetHdr, Vec<u8>)> {
        let sent =
            self.ports.get_mut(port.index()).map(|port| std::mem::take(&mut port.sent)).unwrap_or_default();
        sent.into_iter()
            .filter_map(|bytes| {
                let (header, frame) = VnetHdr::read_from_prefix(&bytes).ok()?;
                Some((header, frame.to_vec()))
            })
            .collect()
    }

    /// Forgets what the switch sent to `port`, keeping the buffers; how many frames that were.
    pub fn discard(&mut self, port: PortId) -> usize {
        let Some(port) = self.ports.get_mut(port.index()) else { return 0 };
        let count = port.sent.len();
        self.spare.extend(port.sent.drain(..));
        count
    }

    /// The port's container is gone; its number may be given to another.
    pub fn let_go(&mut self, port: PortId) {
        self.let_go.push(port);
    }

    /// From now on `port` refuses every frame for `reason`, or takes them again.
    pub fn refuse(&mut self, port: PortId, reason: Option<DropReason>) {
        if let Some(port) = self.ports.get_mut(port.index()) {
            port.refuses = reason;
        }
    }

    fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }
}

impl Io for MemIo {
    fn rx(&mut self, pool: &mut Pool, batch: &mut Batch, _: Wait) -> io::Result<Tick> {
        batch.gone.append(&mut self.let_go);
        while batch.has_room() {
            let Some((port, bytes)) = self.arrivals.pop_front() else { break };
            let filled = pool.fill::<()>(port, |buffer| {
                let len = bytes.len().min(buffer.len());
                if let (Some(to), Some(from)) = (buffer.get_mut(..len), bytes.get(..len)) {
                    to.copy_from_slice(from);
                }
                Ok(len)
            });
            self.spare.push(bytes);
            match filled {
                Ok(frame) => batch.frames.push(frame),
                Err(FillError::Truncated) => batch.lose(port, DropReason::OversizedRead),
                Err(_) => batch.lose(port, DropReason::TruncatedFrame),
            }
        }
        Ok(self.now)
    }

    fn tx(
        &mut self,
        pool: &mut Pool,
        out: PortId,
        frame: &Frame,
        _: &Meta,
        _: Ticket,
        _: &mut Books,
    ) -> Result<Sent, DropReason> {
        let mut bytes = self.buffer();
        let port = self.ports.get_mut(out.index()).ok_or(DropReason::TxDown)?;
        if let Some(reason) = port.refuses {
            self.spare.push(bytes);
            return Err(reason);
        }
        bytes.extend_from_slice(pool.wire(frame));
        port.sent.push_back(bytes);
        Ok(Sent::Now)
    }

    fn flush(&mut self, _: &mut Pool, _: &mut Books) {}

    // Nothing is there but what was injected.
    fn watch(&mut self, _: Eye, _: BorrowedFd<'_>) -> Result<(), Errno> {
        Ok(())
    }

    fn take_stats(&mut self) -> IoStats {
        IoStats::default()
    }
}
