//! Whether this kernel takes a GSO frame written to a TAP. Releases have shipped with that broken (6.6.44, 6.10.3), so
//! it is tried, not read from a version.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use switch::sys::{netns, tun};
use switch::vnet::VnetHdr;

use super::link::{self, LinkError};

const SEGMENT: u8 = 100;
const PAYLOAD: usize = 2 * SEGMENT as usize;
const HEADERS: usize = 14 + 20 + 20;

/// Writes a TCP frame of two segments to a TAP in `scratch`. Its TTL is 0 and its addresses are for documentation
/// (RFC 5737), so the stack drops it at once.
pub(super) fn gso_writes(scratch: BorrowedFd<'_>) -> Result<bool, LinkError> {
    let (fd, name) = netns::in_netns(scratch, || tun::create("probe%d"))
        .map_err(|errno| LinkError::Kernel { step: "setns", errno })??;
    link::up(scratch, &name)?;
    match rustix::io::write(&fd, &frame()) {
        Ok(_) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(errno) => Err(LinkError::Kernel { step: "GSO probe", errno }),
    }
}

fn frame() -> Vec<u8> {
    // virtio_net_hdr: 54 bytes of headers, segments of 100, the checksum starts at 34 and lies at 16 from there.
    let mut frame = vec![VnetHdr::NEEDS_CSUM, VnetHdr::GSO_TCPV4, HEADERS as u8, 0, SEGMENT, 0, 34, 0, 16, 0];
    frame.extend([0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0x00]);
    // IPv4: 240 bytes, do not fragment, TTL 0, TCP, header checksum, 192.0.2.1 to 192.0.2.2.
    frame.extend([0x45, 0, 0, 240, 0, 0, 0x40, 0, 0, 6, 0xf6, 0x04, 192, 0, 2, 1, 192, 0, 2, 2]);
    // TCP: port 9 to 9, data offset 5, ACK, window 1; the checksum field holds the pseudo-header sum.
    frame.extend([0, 9, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 1, 0x84, 0xe6, 0, 0]);
    frame.resize(frame.len() + PAYLOAD, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(words: impl IntoIterator<Item = u16>) -> u16 {
        let sum = words.into_iter().map(u32::from).sum::<u32>();
        let sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    #[test]
    fn the_frame_is_what_it_says() {
        let frame = frame();
        let ip = &frame[24..44];
        assert_eq!(frame.len(), VnetHdr::LEN + HEADERS + PAYLOAD);
        assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), frame.len() - 24);
        let words =
            |bytes: &[u8]| bytes.chunks(2).map(|w| u16::from_be_bytes([w[0], w[1]])).collect::<Vec<_>>();
        assert_eq!(folded(words(ip)), 0xffff, "IPv4 header checksum");
        let pseudo = folded(words(&ip[12..20]).into_iter().chain([6, 220]));
        assert_eq!(u16::from_be_bytes([frame[60], frame[61]]), pseudo, "pseudo-header sum");
    }
}
