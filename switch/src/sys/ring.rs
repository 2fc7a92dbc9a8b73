//! An `io_uring` whose reads fill slots of a [`Slab`] and whose writes are out of them (io_uring(7)).
//!
//! What makes it sound:
//!
//! - A slot that the kernel may fill is `lent`, one that it may read is `shown`, and the [`Slab`] gives no reference that
//!   would collide with that. Only what the kernel said ends either, and what it said is told from `user_data` that only
//!   this page makes.
//! - The ring holds the slab's memory. It ends by cancelling what is on its way and waiting for it; where that cannot be
//!   had, the memory is left to the kernel for ever.
//!
//! Set up with `SINGLE_ISSUER`, `DEFER_TASKRUN`, `COOP_TASKRUN`: completions happen when this thread asks for them, not
//! by interrupting it. `TASKRUN_FLAG` lets it see without a system call that there are some. The ring begins disabled, and
//! belongs to the thread that calls [`Ring::begin`].

use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;

use super::slab::{Memory, Slab};

/// The only group of buffers.
const GROUP: u16 = 0;
/// How long the end of a ring waits for what is on its way.
const FAREWELL: Duration = Duration::from_secs(1);

/// Whose read it is. The generation tells the completions of one owner of a port from those of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The port.
    pub port: u16,
    /// Which of those that had its number.
    pub generation: u32,
}

/// What a completion is about: two bits of kind, and what that kind has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Read(Owner),
    Write { slot: u16, token: u32 },
    Poll { token: u32 },
    Cancel,
}

impl About {
    const fn pack(self) -> u64 {
        match self {
            Self::Read(Owner { port, generation }) => (port as u64) << 32 | generation as u64,
            Self::Write { slot, token } => 1 << 62 | (slot as u64) << 32 | token as u64,
            Self::Poll { token } => 2 << 62 | token as u64,
            Self::Cancel => 3 << 62,
        }
    }

    const fn unpack(word: u64) -> Self {
        let (high, token) = ((word >> 32) as u16, word as u32);
        match word >> 62 {
            0 => Self::Read(Owner { port: high, generation: token }),
            1 => Self::Write { slot: high, token },
            2 => Self::Poll { token },
            _ => Self::Cancel,
        }
    }
}

/// What the kernel has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// A multishot read has filled a slot with so many bytes, or has failed.
    Read {
        /// Whose.
        owner: Owner,
        /// The slot, ours again, and how many bytes were read.
        filled: Result<(u16, usize), Errno>,
        /// It goes on; else it must be begun again.
        more: bool,
    },
    /// A write is over.
    Write {
        /// As it was given.
        token: u32,
        /// Bytes written, or why not.
        written: Result<usize, Errno>,
    },
    /// A descriptor can be read.
    Poll {
        /// As it was given.
        token: u32,
    },
    /// A cancellation is over; what was cancelled says so itself.
    Cancel,
}

/// The submission queue has no room: submit first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The ring, and what the kernel has of ours.
pub struct Ring {
    ring: ManuallyDrop<IoUring>,
    /// The entries of the buffer ring, in which slots are lent.
    entries: ManuallyDrop<Memory>,
    mask: u16,
    /// Where the next slot is lent.
    tail: u16,
    /// Slots that the kernel may fill.
    lent: u16,
    /// Requests that were queued and whose last completion has not come.
    pending: usize,
    /// The memory of the slab, once the ring has begun.
    slots: Option<Arc<Memory>>,
}

impl Ring {
    /// A ring for `queue` requests at a time and `lendable` slots (a power of two), of which `done` may have completed
    /// before anybody looks. It does nothing before [`Ring::begin`].
    ///
    /// # Errors
    /// `ENOSYS` and `EPERM` where io_uring is not there or forbidden (seccomp, `kernel.io_uring_disabled`), `EINVAL` where
    /// the kernel is too old, `ENOMEM` where memory is short.
    ///
    /// # Syscalls
    /// `io_uring_setup`, `io_uring_register` `REGISTER_PBUF_RING`, `mmap`; later `io_uring_enter`.
    pub fn new(queue: u32, done: u32, lendable: u16) -> Result<Self, Errno> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_r_disabled()
            .setup_cqsize(done)
            .build(queue)
            .map_err(errno)?;
        if !lendable.is_power_of_two() {
            return Err(Errno::INVAL);
        }
        let entries = Memory::new(usize::from(lendable) * size_of::<BufRingEntry>())?;
        let at = entries.base().as_ptr() as u64;
        // SAFETY: the pages are there, begin with a page, have room for that many entries, and stay until the ring is
        // closed: `entries` is dropped after it, or never.
        unsafe { ring.submitter().register_buf_ring_with_flags(at, lendable, GROUP, 0) }.map_err(errno)?;
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            entries: ManuallyDrop::new(entries),
            mask: lendable - 1,
            tail: 0,
            lent: 0,
            pending: 0,
            slots: None,
        })
    }

    /// From now on the calling thread submits, out of and into this slab.
    ///
    /// # Errors
    /// What the kernel said; `EALREADY` if it has begun.
    pub fn begin(&mut self, slab: &Slab) -> Result<(), Errno> {
        if self.slots.is_some() {
            return Err(Errno::ALREADY);
        }
        self.ring.submitter().register_enable_rings().map_err(errno)?;
        self.slots = Some(slab.memory());
        Ok(())
    }

    /// Whether it has begun.
    pub const fn has_begun(&self) -> bool {
        self.slots.is_some()
    }

    /// Slots that the kernel may fill.
    pub const fn lent(&self) -> u16 {
        self.lent
    }

    fn serves(&self, slab: &Slab) -> bool {
        self.slots.as_ref().is_some_and(|memory| slab.is(memory))
    }

    /// Lends a slot, from byte `from` on. False: it is not ours to lend, or enough are lent.
    pub fn lend(&mut self, slab: &mut Slab, slot: u16, from: usize) -> bool {
        if !self.serves(slab) || self.lent > self.mask {
            return false;
        }
        let Some((at, stride)) = slab.lend(slot) else { return false };
        let from = from.min(stride);
        let first = self.entries.base().as_ptr().cast::<BufRingEntry>();
        // SAFETY: the index is within the entries. The kernel does not look at an entry before the tail is moved over it,
        // and has read those that the tail comes around to: no more are lent than there are. `from` is within the slot.
        unsafe {
            let entry = first.add(usize::from(self.tail & self.mask));
            (*entry).set_addr(at.add(from) as u64);
            (*entry).set_len((stride - from) as u32);
            (*entry).set_bid(slot);
        }
        self.tail = self.tail.wrapping_add(1);
        self.lent += 1;
        // SAFETY: the tail is 16 bits of the first entry that `set_*` never touch; the kernel reads them while we write,
        // so that they are an atomic.
        unsafe {
            let tail = BufRingEntry::tail(first).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
        true
    }

    /// Queues an entry.
    ///
    /// # Safety
    /// What the entry points to must stay until its last completion.
    #[inline]
    unsafe fn push(&mut self, entry: squeue::Entry, about: About) -> Result<(), Full> {
        let entry = entry.user_data(about.pack());
        // SAFETY: that of the caller.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| Full)?;
        self.pending += 1;
        Ok(())
    }

    /// Queues a multishot read into lent slots. The descriptor must stay open until the next submission; the kernel holds
    /// the file from then on until [`Done::Read`] says that there is no more.
    ///
    /// # Errors
    /// [`Full`].
    pub fn read(&mut self, fd: BorrowedFd<'_>, owner: Owner) -> Result<(), Full> {
        let entry = opcode::ReadMulti::new(Fd(fd.as_raw_fd()), 0, GROUP).build();
        // SAFETY: it points to nothing; slots are lent, and their memory is held.
        unsafe { self.push(entry, About::Read(owner)) }
    }

    /// Ends a multishot read; its last completion says so.
    ///
    /// # Errors
    /// [`Full`].
    pub fn cancel(&mut self, owner: Owner) -> Result<(), Full> {
        let entry = opcode::AsyncCancel::new(About::Read(owner).pack()).build();
        // SAFETY: it points to nothing.
        unsafe { self.push(entry, About::Cancel) }
    }

    /// Queues a write of bytes `start..start + len` of a slot, which nobody may change before [`Done::Write`] comes. What
    /// cannot be written at once is refused (`RWF_NOWAIT`): it never waits, and never falls behind a later one. Success is
    /// told by [`Ring::submit`], a failure by [`Ring::look`]. The descriptor must stay open until the next submission.
    ///
    /// # Errors
    /// [`Full`], also for bytes that are not in the slab of this ring.
    #[inline]
    pub fn write(
        &mut self,
        slab: &mut Slab,
        fd: BorrowedFd<'_>,
        slot: u16,
        (start, len): (usize, usize),
        token: u32,
    ) -> Result<(), Full> {
        if !self.serves(slab) {
            return Err(Full);
        }
        let at = slab.show(slot, start, len).ok_or(Full)?;
        let entry = opcode::Write::new(Fd(fd.as_raw_fd()), at, len as u32).rw_flags(libc::RWF_NOWAIT).build();
        // SAFETY: the bytes are in the slot, which is shown until the completion, and whose memory is held.
        let pushed = unsafe { self.push(entry, About::Write { slot, token }) };
        if pushed.is_err() {
            slab.shown(slot);
        }
        pushed
    }

    /// Asks once when a descriptor can be read. It must stay open until the next submission.
    ///
    /// # Errors
    /// [`Full`].
    pub fn poll(&mut self, fd: BorrowedFd<'_>, token: u32) -> Result<(), Full> {
        let entry = opcode::PollAdd::new(Fd(fd.as_raw_fd()), libc::POLLIN as u32).build();
        // SAFETY: it points to nothing.
        unsafe { self.push(entry, About::Poll { token }) }
    }

    /// Requests that are queued and not submitted.
    #[inline]
    pub fn queued(&mut self) -> usize {
        self.ring.submission().len()
    }

    /// Whether asking the kernel would show something new. No system call.
    #[inline]
    pub fn has_news(&mut self) -> bool {
        let queue = self.ring.submission();
        let flagged = queue.taskrun() || queue.cq_overflow();
        drop(queue);
        flagged || !self.ring.completion().is_empty()
    }

    /// Submits what is queued.
    ///
    /// # Errors
    /// What the kernel said. What it did not take stays queued.
    pub fn submit(&mut self) -> Result<(), Errno> {
        self.enter(EnterFlags::empty())
    }

    /// Submits what is queued and lets happen what is due.
    ///
    /// # Errors
    /// As [`Ring::submit`].
    pub fn look(&mut self) -> Result<(), Errno> {
        self.enter(EnterFlags::GETEVENTS)
    }

    #[inline]
    fn enter(&mut self, flags: EnterFlags) -> Result<(), Errno> {
        let queued = self.queued() as u32;
        // SAFETY: without an argument, and with flags that need none; entries were vouched for when they were queued.
        let answer = unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, 0, flags.bits(), None) };
        answer.map(drop).map_err(errno)
    }

    /// Submits what is queued and sleeps until something is done, at most so long.
    ///
    /// # Errors
    /// As [`Ring::submit`]; `EINTR`. That the time is over is no error.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<(), Errno> {
        let submitter = self.ring.submitter();
        let answer = match limit {
            None => submitter.submit_and_wait(1),
            Some(limit) => {
                let limit = Timespec::from(limit);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&limit))
            }
        };
        match answer.map_err(errno) {
            Ok(_) | Err(Errno::TIME) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// The next thing that is done, oldest first.
    #[inline]
    pub fn next(&mut self, slab: &mut Slab) -> Option<Done> {
        if !self.serves(slab) {
            return None;
        }
        let entry = self.ring.completion().next()?;
        let (flags, more) = (entry.flags(), cqueue::more(entry.flags()));
        let result = usize::try_from(entry.result())
            .map_err(|_| Errno::from_raw_os_error(entry.result().saturating_neg()));
        if !more {
            self.pending = self.pending.saturating_sub(1);
        }
        Some(match About::unpack(entry.user_data()) {
            About::Read(owner) => {
                let slot = cqueue::buffer_select(flags).filter(|&slot| slab.take_back(slot));
                self.lent -= u16::from(slot.is_some());
                // Nothing read, or nothing said of where: the end of a file, which no TAP has.
                let filled = result.and_then(|len| slot.map(|slot| (slot, len)).ok_or(Errno::BADFD));
                Done::Read { owner, filled, more }
            }
            About::Write { slot, token } => {
                slab.shown(slot);
                Done::Write { token, written: result }
            }
            About::Poll { token } => Done::Poll { token },
            About::Cancel => Done::Cancel,
        })
    }

    /// Ends everything that is on its way. False: something is left, which the kernel may still touch memory for.
    fn drain(&mut self) -> bool {
        // What was never submitted is not on its way.
        self.pending = self.pending.saturating_sub(self.queued());
        let deadline = std::time::Instant::now() + FAREWELL;
        while self.pending > 0 && std::time::Instant::now() < deadline {
            let submitter = self.ring.submitter();
            let limit = Timespec::from(FAREWELL);
            // Not there any more, or not yet: the completions tell.
            let _ = submitter.register_sync_cancel(Some(limit), CancelBuilder::any().all());
            let arguments = SubmitArgs::new().timespec(&limit);
            let flags = (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits();
            // SAFETY: nothing is submitted; with EXT_ARG the argument is a `SubmitArgs`, which lives until the call is
            // over, as does the time in it.
            let answer = unsafe { submitter.enter(0, 1, flags, Some(&arguments)) };
            if !matches!(answer.map_err(errno), Ok(_) | Err(Errno::TIME | Errno::INTR)) {
                break;
            }
            let last = self.ring.completion().filter(|entry| !cqueue::more(entry.flags())).count();
            self.pending = self.pending.saturating_sub(last);
        }
        self.pending == 0
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let drained = self.drain();
        if !drained {
            // Closing cancels, but in the kernel's own time: it keeps what it may still write to.
            std::mem::forget(self.slots.take());
        }
        // SAFETY: neither is used after this; the ring first, which has `entries` until it is closed.
        unsafe {
            ManuallyDrop::drop(&mut self.ring);
            if drained {
                ManuallyDrop::drop(&mut self.entries);
            }
        }
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests;
