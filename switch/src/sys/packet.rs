//! Packet sockets: a NIC read and written as a TAP is, with the [`VnetHdr`] in front of every frame (packet(7), Linux
//! `include/uapi/linux/if_packet.h`).
//!
//! The socket has the NIC's frames to one MAC address of ours and to groups, and not those that the host sends. When the
//! NIC goes down it polls `POLLERR` and reads and writes give `ENETDOWN`; when it does not exist any more, `ENXIO`.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl};

use super::socket::{last_errno, set_int};
use crate::mac::MacAddr;
use crate::vnet::VnetHdr;

/// Bytes that wait for us, or for the NIC, at most: what the kernel has by default is less than four super-frames.
const QUEUE: libc::c_int = 8 << 20;

// `linux/if_packet.h`: `libc` has no names for these.
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

// The kernel puts `sizeof(struct virtio_net_hdr)` bytes in front.
const _: () = assert!(VnetHdr::LEN == 10);

/// A step on the way to a packet socket, and what the kernel said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {errno}")]
pub struct PacketError {
    /// The step.
    pub step: &'static str,
    /// The answer.
    pub errno: Errno,
}

fn at(step: &'static str) -> impl FnOnce(Errno) -> PacketError {
    move |errno| PacketError { step, errno }
}

/// What a NIC is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its index.
    pub index: u32,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Whether it was set up.
    pub up: bool,
}

/// Looks at an interface of the calling thread's network namespace.
///
/// # Errors
/// `ENODEV` if there is none of that name.
///
/// # Syscalls
/// `socket`; `ioctl` with `SIOCGIFINDEX`, `SIOCGIFMTU`, `SIOCGIFFLAGS`.
pub fn look(name: &str) -> Result<Nic, PacketError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let socket = socket.map_err(at("socket"))?;
    let index = ask::<{ libc::SIOCGIFINDEX as Opcode }>(&socket, name).map_err(at("index"))?;
    let mtu = ask::<{ libc::SIOCGIFMTU as Opcode }>(&socket, name).map_err(at("MTU"))?;
    let flags = ask::<{ libc::SIOCGIFFLAGS as Opcode }>(&socket, name).map_err(at("flags"))?;
    let up = flags & libc::IFF_UP as u32 != 0;
    Ok(Nic { index, mtu, up })
}

/// `struct ifreq` as these ioctls use it: a name, and a number in front of what is left.
#[repr(C)]
#[derive(Clone, Copy)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    number: u32,
    rest: [u8; size_of::<libc::ifreq>() - libc::IFNAMSIZ - 4],
}

const _: () = assert!(size_of::<IfReq>() == size_of::<libc::ifreq>());

/// One number of an interface; the flags are the lower 16 bits of theirs.
fn ask<const OPCODE: Opcode>(socket: &OwnedFd, name: &str) -> rustix::io::Result<u32> {
    let mut request = IfReq { name: [0; libc::IFNAMSIZ], number: 0, rest: [0; _] };
    let bytes = name.as_bytes();
    match request.name.get_mut(..bytes.len()) {
        Some(place) if (1..libc::IFNAMSIZ).contains(&bytes.len()) => place.copy_from_slice(bytes),
        _ => return Err(Errno::NODEV),
    }
    // SAFETY: SIOCGIFINDEX, SIOCGIFMTU and SIOCGIFFLAGS read and write a whole `struct ifreq`, whose size and layout
    // `IfReq` has.
    unsafe { ioctl(socket, Updater::<OPCODE, IfReq>::new(&mut request)) }?;
    // The flags are a `short` in the same place, and the bytes behind it were zero.
    Ok(if OPCODE == libc::SIOCGIFFLAGS as Opcode { flags(request.number) } else { request.number })
}

const fn flags(number: u32) -> u32 {
    let [a, b, ..] = number.to_ne_bytes();
    u16::from_ne_bytes([a, b]) as u32
}

/// Opens the NIC with this index for frames to `mac` and to groups, in a VLAN or where there is none: non-blocking,
/// close-on-exec. They are read without the tag of the VLAN, and must have it when they are written.
/// The NIC keeps its own address and whatever the host does with it.
///
/// # Errors
/// [`PacketError`]: `EPERM` without the privilege, `ENODEV` if there is none of that index.
///
/// # Privileges
/// `CAP_NET_RAW` over the network namespace; with `CAP_NET_ADMIN` its queues are as long as they should be.
///
/// # Syscalls
/// `socket`, `setsockopt`, `bind`.
pub fn open(index: u32, mac: MacAddr, vlan: Option<u16>) -> Result<OwnedFd, PacketError> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: it takes three numbers. With protocol 0 nothing is received until it is bound.
    let raw = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if raw < 0 {
        return Err(at("packet socket")(last_errno()));
    }
    // SAFETY: the kernel made this descriptor for us a moment ago; nobody else knows its number.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    filter(&fd, mac, vlan).map_err(at("filter"))?;
    let set = |name, step| set_int(fd.as_fd(), libc::SOL_PACKET, name, 1).map_err(at(step));
    set(PACKET_VNET_HDR, "PACKET_VNET_HDR")?;
    set(PACKET_IGNORE_OUTGOING, "PACKET_IGNORE_OUTGOING (Linux 4.20)")?;
    for name in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        // Without the privilege the queues stay short: frames are lost under load, and counted by the kernel.
        let _best_effort = set_int(fd.as_fd(), libc::SOL_SOCKET, name, QUEUE);
    }
    bind(&fd, index).map_err(at("bind"))?;
    join(&fd, index, libc::PACKET_MR_UNICAST, Some(mac)).map_err(at("PACKET_MR_UNICAST"))?;
    // Neighbour discovery asks groups that are made from our addresses (RFC 4291 section 2.7.1).
    join(&fd, index, libc::PACKET_MR_ALLMULTI, None).map_err(at("PACKET_MR_ALLMULTI"))?;
    Ok(fd)
}

fn bind(fd: &OwnedFd, index: u32) -> rustix::io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index as libc::c_int,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address is whole, and its length is given.
    let answer = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    if answer == 0 { Ok(()) } else { Err(last_errno()) }
}

fn join(fd: &OwnedFd, index: u32, kind: libc::c_int, mac: Option<MacAddr>) -> rustix::io::Result<()> {
    let mut request = libc::packet_mreq {
        mr_ifindex: index as libc::c_int,
        mr_type: kind as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    if let Some(MacAddr([a, b, c, d, e, f])) = mac {
        (request.mr_alen, request.mr_address) = (6, [a, b, c, d, e, f, 0, 0]);
    }
    set_struct(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
}

/// Sets an option of a socket that is a structure of the kernel's.
fn set_struct<T>(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> rustix::io::Result<()> {
    // SAFETY: an option reads no more than the length that is given, which is that of `value`.
    let answer = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if answer == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Classic BPF: frames to `mac` or to a group that are in the VLAN, whole; others not at all.
fn filter(fd: &OwnedFd, mac: MacAddr, vlan: Option<u16>) -> rustix::io::Result<()> {
    let mut program = program(mac, vlan);
    let len = program.len() as libc::c_ushort;
    let value = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // The kernel copies the program before this returns.
    set_struct(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &value)
}

/// Its instructions (Linux `Documentation/networking/filter.rst`). The kernel has taken the outer tag out of the frame and
/// keeps it beside it.
fn program(mac: MacAddr, vlan: Option<u16>) -> [libc::sock_filter; 15] {
    const WHOLE: u32 = u32::MAX;
    const TAG_PRESENT: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG_PRESENT) as u32;
    const TAG: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG) as u32;
    const TPID: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TPID) as u32;
    let MacAddr([a, b, c, d, e, f]) = mac;
    let load = |size: u32, k| step(libc::BPF_LD | libc::BPF_ABS | size, 0, 0, k);
    let jump = |test: u32, jt, jf, k| step(libc::BPF_JMP | libc::BPF_K | test, jt, jf, k);
    let answer = |k| step(libc::BPF_RET | libc::BPF_K, 0, 0, k);
    // A tag of VLAN 0 is a priority and says nothing of a VLAN (IEEE 802.1Q-2018 clause 6.9.1).
    let (vid, untagged) = (u32::from(vlan.unwrap_or(0)), if vlan.is_none() { 5 } else { 12 });
    [
        load(libc::BPF_W, TAG_PRESENT),
        jump(libc::BPF_JEQ, untagged, 0, 0), // to 7, or to 14
        load(libc::BPF_W, TPID),
        jump(libc::BPF_JEQ, 0, 10, 0x8100), // what we put on is a C-tag
        load(libc::BPF_W, TAG),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, 0x0fff),
        jump(libc::BPF_JEQ, 0, 7, vid),
        load(libc::BPF_B, 0),
        jump(libc::BPF_JSET, 4, 0, 1), // to 13: all of it
        load(libc::BPF_W, 0),
        jump(libc::BPF_JEQ, 0, 3, u32::from_be_bytes([a, b, c, d])),
        load(libc::BPF_H, 4),
        jump(libc::BPF_JEQ, 0, 1, u32::from(u16::from_be_bytes([e, f]))),
        answer(WHOLE),
        answer(0),
    ]
}

const fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program says to a frame and the tag beside it: how the kernel goes through it, for the instructions that
    /// are in it.
    fn takes((mac, vlan): (MacAddr, Option<u16>), frame: &[u8], tag: Option<(u16, u16)>) -> bool {
        let program = program(mac, vlan);
        let (mut at, mut a) = (0, 0_u32);
        let beside = |what: libc::c_int| match what {
            libc::SKF_AD_VLAN_TAG_PRESENT => u32::from(tag.is_some()),
            libc::SKF_AD_VLAN_TAG => u32::from(tag.map_or(0, |(_, tci)| tci)),
            libc::SKF_AD_VLAN_TPID => u32::from(tag.map_or(0, |(tpid, _)| tpid)),
            other => panic!("{other}"),
        };
        loop {
            let step = program[at];
            at += 1;
            let (code, k) = (u32::from(step.code), step.k);
            let jump = |test: bool| usize::from(if test { step.jt } else { step.jf });
            match code {
                _ if code == libc::BPF_RET => return k != 0,
                _ if code == libc::BPF_JMP | libc::BPF_JEQ => at += jump(a == k),
                _ if code == libc::BPF_JMP | libc::BPF_JSET => at += jump(a & k != 0),
                _ if code == libc::BPF_ALU | libc::BPF_AND => a &= k,
                _ if (k as i32) < 0 => a = beside(k as i32 - libc::SKF_AD_OFF),
                _ => {
                    let size = match code & 0x18 {
                        size if size == libc::BPF_W => 4,
                        size if size == libc::BPF_H => 2,
                        _ => 1,
                    };
                    let bytes = &frame[k as usize..k as usize + size];
                    a = bytes.iter().fold(0, |a, byte| a << 8 | u32::from(*byte));
                }
            }
        }
    }

    #[test]
    fn it_takes_what_is_for_us_and_for_groups_in_its_vlan() {
        let mac = MacAddr([0x02, 0x42, 0xc6, 0x12, 0x00, 0x0a]);
        let to = |dst: [u8; 6]| [&dst[..], &[2, 9, 9, 9, 9, 9, 8, 0], &[0; 46]].concat();
        let tags = [
            None,
            Some((0x8100, 0xa000)),
            Some((0x8100, 0xa01e)),
            Some((0x8100, 0x001f)),
            Some((0x88a8, 0x001e)),
        ];
        for (vlan, wanted) in
            [(None, [true, true, false, false, false]), (Some(30), [false, false, true, false, false])]
        {
            let which = (mac, vlan);
            for (tag, wanted) in tags.into_iter().zip(wanted) {
                for dst in [mac.0, [0xff; 6], [0x33, 0x33, 0xff, 0, 0, 1]] {
                    assert_eq!(takes(which, &to(dst), tag), wanted, "{vlan:?} {tag:?}");
                }
                for at in 0..6 {
                    let mut other = mac.0;
                    other[at] ^= 0x80;
                    assert!(!takes(which, &to(other), tag), "{vlan:?} {tag:?} {at}");
                }
            }
        }
    }

    #[test]
    fn loopback_is_an_interface_and_nonsense_is_none() {
        let lo = look("lo").unwrap();
        assert!(lo.index > 0 && lo.mtu > 0, "{lo:?}");
        for name in ["", "no-such-nic-at-all", "nosuchnic"] {
            assert_eq!(look(name).unwrap_err().errno, Errno::NODEV, "{name}");
        }
    }
}
