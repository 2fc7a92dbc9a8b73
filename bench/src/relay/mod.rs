//! The limit to compare with: frames between two TAPs with no switching at all, by either way of reading and writing.
//!
//! Epoll, level-triggered; one read and one write per frame, at most [`BUDGET`] reads of a TAP per wake-up.

mod uring;

use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use switch::sys::tun;

use crate::error::{Error, Result};

/// Reads of one TAP before the other one gets its turn.
const BUDGET: usize = 64;
/// Longest frame that a TAP hands over: 64 KiB of IP, Ethernet, a VLAN tag, and the `virtio_net_hdr`.
const FRAME: usize = 66 * 1024;

/// Makes two TAPs in the namespace we were started in, says `ready`, and relays until it is killed.
///
/// # Errors
/// When a TAP cannot be made or epoll fails.
///
/// # Privileges
/// `CAP_NET_ADMIN` over the network namespace.
pub fn run(names: [&str; 2], ring: bool) -> Result<()> {
    let [first, second] = names;
    let taps = [open(first)?, open(second)?];
    if ring {
        say_ready()?;
        return uring::relay(&taps);
    }
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Error::io("epoll"))?;
    for (index, tap) in (0u64..).zip(&taps) {
        epoll::add(&poll, tap, epoll::EventData::new_u64(index), epoll::EventFlags::IN)
            .map_err(Error::io("epoll on a TAP"))?;
    }
    say_ready()?;
    relay(&poll, &taps)
}

fn say_ready() -> Result<()> {
    writeln!(std::io::stdout(), "ready").map_err(Error::io("say ready"))
}

fn open(name: &str) -> Result<OwnedFd> {
    let (tap, _) = tun::create(name).map_err(Error::io(format!("make the TAP {name}")))?;
    tun::set_offloads(&tap).map_err(Error::io(format!("offloads of the TAP {name}")))?;
    Ok(tap)
}

fn relay(poll: &OwnedFd, taps: &[OwnedFd; 2]) -> Result<()> {
    let [first, second] = taps;
    let mut frame = vec![0u8; FRAME];
    let mut events = Vec::with_capacity(2);
    loop {
        events.clear();
        match epoll::wait(poll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::Io { what: "epoll".into(), source: error.into() }),
        }
        for event in &events {
            let (from, to) = if event.data.u64() == 0 { (first, second) } else { (second, first) };
            pass(from, to, &mut frame)?;
        }
    }
}

fn pass(from: &OwnedFd, to: &OwnedFd, frame: &mut [u8]) -> Result<()> {
    for _ in 0..BUDGET {
        let got = match rustix::io::read(from, &mut *frame) {
            Ok(got) => got,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => return Err(Error::Io { what: "read a TAP".into(), source: error.into() }),
        };
        // Refused (EIO while the other end is not up yet): the frame is lost, as on a cable without a neighbour.
        let _ = rustix::io::write(to, frame.get(..got).unwrap_or_default());
    }
    Ok(())
}
