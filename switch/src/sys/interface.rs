//! Interfaces of this host by their addresses.

use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::socket::last_errno;

/// The MTU of the interface that has an address, in the calling thread's network namespace, bytes; `None`: no interface has
/// it.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// Those of getifaddrs(3), `socket`, `ioctl` `SIOCGIFMTU`.
pub fn mtu_of(address: IpAddr) -> rustix::io::Result<Option<u32>> {
    let mut list = std::ptr::null_mut();
    // SAFETY: it writes the list's head to where it is told, and nothing if it fails.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(last_errno());
    }
    let (mut next, mut found) = (list, None);
    // SAFETY: the list is that of getifaddrs(3), not yet freed: each entry lives, its address is null or of the family that
    // it says, and its name ends with a zero.
    while let Some(entry) = unsafe { next.as_ref() } {
        // SAFETY: as above.
        if unsafe { address_of(entry.ifa_addr) } == Some(address) {
            // SAFETY: as above.
            found = Some(mtu(unsafe { CStr::from_ptr(entry.ifa_name) }));
            break;
        }
        next = entry.ifa_next;
    }
    // SAFETY: it is freed once, and nothing of it is used after this.
    unsafe { libc::freeifaddrs(list) };
    found.transpose()
}

/// The address of an entry.
///
/// # Safety
/// The pointer is null, or what it points to is as long as addresses of the family are that it says.
unsafe fn address_of(raw: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: every address begins with its family.
    let family = unsafe { raw.as_ref() }?.sa_family;
    match libc::c_int::from(family) {
        libc::AF_INET => {
            // SAFETY: an address of this family is a `sockaddr_in`.
            let v4 = unsafe { raw.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: likewise a `sockaddr_in6`.
            let v6 = unsafe { raw.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// The MTU of an interface.
fn mtu(name: &CStr) -> rustix::io::Result<u32> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: an `ifreq` of zeros is one without a name.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.to_bytes()) {
        *to = *from as libc::c_char;
    }
    // SAFETY: the request is an `ifreq` with a name, into which the MTU is written.
    if unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) } != 0 {
        return Err(last_errno());
    }
    // SAFETY: the call has written this field.
    Ok(u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_one() {
        assert_eq!(mtu_of(IpAddr::from([127, 0, 0, 1])), Ok(Some(65_536)));
        assert_eq!(mtu_of(IpAddr::from([192, 0, 2, 1])), Ok(None));
    }
}
