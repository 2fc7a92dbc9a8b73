//! Which addresses are the host's own, so that a socket connected to one would reach the host's own services.
//!
//! The kernel's FIB is asked, which knows all of them: second addresses, whole subnets that were declared local, what is
//! anycast or broadcast. (That an address can be bound to proves nothing where `ip_nonlocal_bind` is set.)

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// Questions to the host's FIB (rtnetlink(7)).
pub(super) struct OwnAddresses {
    netlink: OwnedFd,
    /// Of the last question: an answer to an earlier one is none to this.
    number: u32,
}

/// `nlmsghdr` and `rtmsg`.
const HEADERS: usize = 16 + 12;
/// `rtattr` without its value.
const ATTRIBUTE: usize = 4;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
/// Types of a route: to one other host, and to one that does not exist, by whatever word.
const RTN_UNICAST: u8 = 1;
const RTN_NOWHERE: std::ops::RangeInclusive<u8> = 6..=9;
/// Answers to earlier questions that are read over at most.
const STALE: usize = 16;

impl OwnAddresses {
    /// # Errors
    /// What the kernel said.
    ///
    /// # Syscalls
    /// `socket`
    pub fn new() -> io::Result<Self> {
        // `None` is 0, NETLINK_ROUTE.
        let netlink = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { netlink, number: 0 })
    }

    /// Whether a packet to `address` would stay on this host, or go to many.
    ///
    /// # Errors
    /// The kernel has no memory for the question; then nothing may be concluded.
    ///
    /// # Syscalls
    /// `send`, `recv`; the kernel answers before the first returns. No privilege is needed.
    pub fn contains(&mut self, address: IpAddr) -> io::Result<bool> {
        if address.is_loopback() || address.is_unspecified() {
            return Ok(true);
        }
        self.number = self.number.wrapping_add(1);
        let mut question = [0; HEADERS + ATTRIBUTE + 16];
        let len = ask(address, self.number, &mut question).ok_or(Errno::INVAL)?;
        send(&self.netlink, question.get(..len).unwrap_or_default(), SendFlags::DONTWAIT)?;
        for _ in 0..STALE {
            let mut answer = [0; 512];
            let (_, len) = recv(&self.netlink, &mut answer, RecvFlags::DONTWAIT)?;
            match read(answer.get(..len).unwrap_or_default(), self.number) {
                Some(Answer::Route(kind)) => return Ok(kind != RTN_UNICAST && !RTN_NOWHERE.contains(&kind)),
                Some(Answer::Error(errno @ (Errno::NOMEM | Errno::NOBUFS))) => return Err(errno.into()),
                // Without a route there is nothing to protect; connecting will say so.
                Some(Answer::Error(_)) => return Ok(false),
                None => {}
            }
        }
        Err(Errno::BADMSG.into())
    }
}

/// Writes a question; returns its length.
fn ask(address: IpAddr, number: u32, to: &mut [u8]) -> Option<usize> {
    let (family, bytes): (u16, &[u8]) = match &address {
        IpAddr::V4(v4) => (AddressFamily::INET.as_raw(), &v4.octets()),
        IpAddr::V6(v6) => (AddressFamily::INET6.as_raw(), &v6.octets()),
    };
    let value = bytes.len();
    let len = HEADERS + ATTRIBUTE + value;
    let mut put = |at: usize, bytes: &[u8]| {
        to.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
        Some(())
    };
    put(0, &(len as u32).to_ne_bytes())?;
    put(4, &RTM_GETROUTE.to_ne_bytes())?;
    put(6, &NLM_F_REQUEST.to_ne_bytes())?;
    put(8, &number.to_ne_bytes())?;
    put(16, &[family as u8, 8 * value as u8])?;
    put(HEADERS, &((ATTRIBUTE + value) as u16).to_ne_bytes())?;
    put(HEADERS + 2, &RTA_DST.to_ne_bytes())?;
    put(HEADERS + ATTRIBUTE, bytes)?;
    Some(len)
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// The type of the route.
    Route(u8),
    Error(Errno),
}

/// Reads an answer; `None`: to another question.
fn read(answer: &[u8], number: u32) -> Option<Answer> {
    let word = |at: usize| answer.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    if word(8)? != number {
        return None;
    }
    match answer.get(4..)?.first_chunk().map(|kind| u16::from_ne_bytes(*kind))? {
        RTM_NEWROUTE => answer.get(16 + 7).map(|kind| Answer::Route(*kind)),
        NLMSG_ERROR => {
            Some(Answer::Error(Errno::from_raw_os_error(word(16)?.cast_signed().saturating_neg())))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_its_own() {
        let mut own = OwnAddresses::new().unwrap();
        for address in ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "255.255.255.255", "224.0.0.1"] {
            assert!(own.contains(address.parse().unwrap()).unwrap(), "{address}");
        }
        // RFC 5737, RFC 3849: nobody's, with a route or without one.
        for address in ["192.0.2.1", "198.51.100.7", "2001:db8::1"] {
            assert!(!own.contains(address.parse().unwrap()).unwrap(), "{address}");
        }
    }

    #[test]
    fn answers_to_others_and_cut_ones_are_none() {
        let mut answer = vec![0; 36];
        answer[4..6].copy_from_slice(&RTM_NEWROUTE.to_ne_bytes());
        answer[8..12].copy_from_slice(&7u32.to_ne_bytes());
        answer[23] = 2;
        assert_eq!(read(&answer, 7), Some(Answer::Route(2)));
        assert_eq!(read(&answer, 8), None);
        assert!((0..24).all(|len| read(&answer[..len], 7).is_none()));
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        answer[16..20].copy_from_slice(&(-101i32).to_ne_bytes());
        assert_eq!(read(&answer, 7), Some(Answer::Error(Errno::NETUNREACH)));
    }
}
