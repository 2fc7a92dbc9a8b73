//! Whether one send may be many datagrams (`UDP_SEGMENT`): tried at start, by the loopback.
//!
//! Kernels are not asked for their version: what was broken in one (7.0 to 7.1.4 wrote wrong headers where the last segment
//! is as long as the others) is mended in another of that name, and a probe finds what nobody has heard of yet.

use std::io::IoSlice;
use std::net::{Ipv4Addr, UdpSocket};

use switch::sys::bulk;
use switch::sys::mmsg::{self, Outgoing};

/// Bytes of a segment.
const SIZE: usize = 100;

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segments {
    /// It works.
    Work,
    /// The kernel does not know it, or does something else than it should.
    Fail(String),
    /// It could not be tried, though the kernel knows it.
    Untried(String),
}

/// Tries it.
///
/// # Syscalls
/// `socket`, `bind`, `setsockopt`, `sendmmsg`, `recvfrom`, by the loopback of the calling thread's network namespace.
pub fn segments() -> Segments {
    let sockets = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|to| {
        to.set_nonblocking(true)?;
        Ok((UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?, to))
    });
    let (from, to) = match sockets {
        Ok(sockets) => sockets,
        Err(error) => return Segments::Untried(format!("the loopback: {error}")),
    };
    if let Err(errno) = bulk::set_segment_size(&from, 0) {
        return Segments::Fail(format!("the kernel does not know it: {errno}"));
    }
    // The last segment as long as the others, and a shorter one.
    for last in [SIZE, SIZE / 2] {
        match round(&from, &to, last) {
            Ok(true) => {}
            Ok(false) => return Segments::Fail("what was sent at once did not come as it was cut".into()),
            // The loopback is down, as in a namespace that was just made.
            Err(error) => return Segments::Untried(format!("the loopback: {error}")),
        }
    }
    Segments::Work
}

/// Sends three segments and says whether they came. By the loopback they are there when the call returns.
fn round(from: &UdpSocket, to: &UdpSocket, last: usize) -> std::io::Result<bool> {
    let bytes: Vec<u8> = (0..2 * SIZE + last).map(|at| at as u8).collect();
    let parts = [IoSlice::new(&bytes)];
    let size = u16::try_from(SIZE).ok();
    mmsg::send(from, &[Outgoing { to: to.local_addr()?, parts: &parts, size, tos: 0 }])?;
    let mut buffer = [0; 2 * SIZE];
    for want in bytes.chunks(SIZE) {
        match to.recv(&mut buffer) {
            Ok(len) if buffer.get(..len) == Some(want) => {}
            _ => return Ok(false),
        }
    }
    Ok(to.recv(&mut buffer).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_does_it() {
        assert_eq!(segments(), Segments::Work);
    }
}
