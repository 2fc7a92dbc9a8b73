//! What both engines of TAPs know of one, and what the answer to a write says about it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use crate::drop::DropReason;
use crate::flow::Meta;
use crate::mailbox::{Event, Mailbox};
use crate::port::PortId;
use crate::segment::segment;
use crate::vnet::VnetHdr;

/// Super-frames refused in a row before a port is not offered any more.
const GSO_REFUSALS: u8 = 8;

/// A TAP that is served.
pub struct Tap {
    pub fd: Arc<OwnedFd>,
    /// Takes super-frames.
    pub gso: bool,
    /// Super-frames refused in a row.
    refusals: u8,
    /// The last write found the link down.
    down: bool,
}

/// What became of a write.
pub enum Wrote {
    /// The port has it.
    Taken,
    /// A super-frame that this kernel does not take: segments might go.
    Refused,
    /// The TAP does not exist any more.
    Gone,
    /// The frame is lost.
    Lost(DropReason),
}

impl Tap {
    pub const fn new(fd: Arc<OwnedFd>, gso: bool) -> Self {
        Self { fd, gso, refusals: 0, down: false }
    }

    /// The answer to a write of a frame, super or not. Reports what is new about the port.
    #[inline]
    pub fn wrote(&mut self, port: PortId, gso: bool, answer: Result<(), Errno>, mailbox: &Mailbox) -> Wrote {
        match answer {
            Ok(()) => {
                if gso {
                    self.refusals = 0;
                }
                if self.down {
                    self.link(port, false, mailbox);
                }
                Wrote::Taken
            }
            Err(Errno::IO) => {
                if !self.down {
                    self.link(port, true, mailbox);
                }
                Wrote::Lost(DropReason::TxDown)
            }
            Err(Errno::INVAL) if gso => {
                self.refused(port, mailbox);
                Wrote::Refused
            }
            Err(Errno::BADFD) => Wrote::Gone,
            // A NIC that is down, or is there no more. Whoever hears of it first says so: the answer is given once.
            Err(Errno::NETDOWN | Errno::NXIO) => {
                mailbox.report(Event::Gone(port));
                Wrote::Gone
            }
            Err(error) => Wrote::Lost(reason(error)),
        }
    }

    /// Link state of a device in another namespace reaches us by no message: a refused write is how it is learned.
    #[cold]
    fn link(&mut self, port: PortId, down: bool, mailbox: &Mailbox) {
        self.down = down;
        mailbox.report(if down { Event::LinkDown(port) } else { Event::LinkUp(port) });
    }

    #[cold]
    fn refused(&mut self, port: PortId, mailbox: &Mailbox) {
        self.refusals = self.refusals.saturating_add(1);
        if self.refusals == GSO_REFUSALS {
            self.gso = false;
            mailbox.report(Event::GsoRefused(port));
        }
    }

    /// A port that takes no super-frames gets the segments, one write each.
    ///
    /// # Errors
    /// What the kernel said to one of them, for [`Tap::wrote`]; those after it were not written.
    #[cold]
    pub fn write_segments(&self, bytes: &[u8], meta: &Meta, scratch: &mut Scratch) -> Result<(), Errno> {
        for index in 0.. {
            // The virtio header of a plain frame is ten zero bytes, and those in front of `scratch` stay zero.
            let place = scratch.0.get_mut(VnetHdr::LEN..).ok_or(Errno::MSGSIZE)?;
            let Some(len) = segment(bytes, meta, index, place) else { break };
            let wire = scratch.0.get(..VnetHdr::LEN + len).ok_or(Errno::MSGSIZE)?;
            rustix::io::write(&self.fd, wire)?;
        }
        Ok(())
    }
}

/// Room for one segment with its virtio header.
pub struct Scratch(Box<[u8]>);

impl Default for Scratch {
    fn default() -> Self {
        Self(vec![0; 2048 + 65_536].into_boxed_slice())
    }
}

/// What a refused write means for the frame.
fn reason(error: Errno) -> DropReason {
    match error {
        Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => DropReason::TxFull,
        // EIO: the interface is down. EBADFD: it does not exist any more.
        Errno::IO | Errno::BADFD => DropReason::TxDown,
        _ => DropReason::TxError,
    }
}
