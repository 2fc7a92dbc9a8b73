//! TAP devices: the ioctls of `/dev/net/tun` (Linux `include/uapi/linux/if_tun.h`).
//!
//! The network namespace of a tun descriptor is the one in which `/dev/net/tun` was **opened**, and the descriptor keeps
//! that namespace alive. A TAP that is made in a scratch namespace and then moved pins only the scratch: when the
//! container's namespace dies, the descriptor polls `POLLERR` and reads and writes give `EBADFD`.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Getter, IntegerSetter, Opcode, Setter, Updater, ioctl};

use super::returns::Returns;
use crate::vnet::VnetHdr;

/// The kernel's clone device.
pub const DEVICE: &str = "/dev/net/tun";
/// Bytes of the longest interface name.
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// `TUN_F_*`: the kernel may hand us frames with these left undone.
pub mod offload {
    /// Partial checksums.
    pub const CSUM: u32 = libc::TUN_F_CSUM;
    /// TCP super-frames over IPv4.
    pub const TSO4: u32 = libc::TUN_F_TSO4;
    /// TCP super-frames over IPv6.
    pub const TSO6: u32 = libc::TUN_F_TSO6;
    /// TCP super-frames with ECN's CWR flag.
    pub const TSO_ECN: u32 = libc::TUN_F_TSO_ECN;
    /// UDP super-frames over IPv4 (Linux 6.2, only together with [`USO6`]).
    pub const USO4: u32 = libc::TUN_F_USO4;
    /// UDP super-frames over IPv6.
    pub const USO6: u32 = libc::TUN_F_USO6;
}

/// Most first: the kernel answers `EINVAL` to a mask with a bit it does not know, and that is the probe.
const LADDER: [u32; 4] = {
    use offload::{CSUM, TSO_ECN, TSO4, TSO6, USO4, USO6};
    let tso = CSUM | TSO4 | TSO6 | TSO_ECN;
    [tso | USO4 | USO6, tso, CSUM, 0]
};

/// `struct ifreq` as the TUN ioctls use it: a name and 16 bits of flags.
#[repr(C)]
#[derive(Clone, Copy)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    rest: [u8; size_of::<libc::ifreq>() - libc::IFNAMSIZ - 2],
}

const _: () = assert!(size_of::<IfReq>() == size_of::<libc::ifreq>());

impl IfReq {
    fn name(&self) -> String {
        String::from_utf8_lossy(self.name.split(|&b| b == 0).next().unwrap_or_default()).into_owned()
    }
}

/// Why there is no TAP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TunError {
    /// There is no `/dev/net/tun`, or no driver behind it.
    #[error("{DEVICE} is missing ({0})")]
    Missing(Errno),
    /// `/dev/net/tun` may not be opened by this user.
    #[error("{DEVICE} may not be opened ({0})")]
    Closed(Errno),
    /// No `CAP_NET_ADMIN` in the user namespace that owns this network namespace.
    #[error("a TAP may not be made in this network namespace ({0})")]
    Denied(Errno),
    /// An interface of that name is there already.
    #[error("an interface {name:?} is there already ({errno})")]
    Taken {
        /// The name.
        name: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// Not a name of 1 to 15 bytes without NUL.
    #[error("{0:?} is not an interface name of 1 to 15 bytes")]
    Name(String),
    /// The driver lacks one of `IFF_TAP`, `IFF_NO_PI`, `IFF_VNET_HDR`.
    #[error("the TUN driver offers only {0:#x}, it lacks IFF_VNET_HDR")]
    Features(u32),
    /// Any other answer.
    #[error("{call}: {errno}")]
    Other {
        /// The call.
        call: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
}

impl TunError {
    /// The kernel's answer, where it was the kernel that answered.
    pub const fn errno(&self) -> Option<Errno> {
        match self {
            Self::Missing(errno) | Self::Closed(errno) | Self::Denied(errno) => Some(*errno),
            Self::Taken { errno, .. } | Self::Other { errno, .. } => Some(*errno),
            Self::Name(_) | Self::Features(_) => None,
        }
    }
}

impl From<TunError> for io::Error {
    fn from(error: TunError) -> Self {
        let kind = error.errno().map_or(io::ErrorKind::InvalidInput, |errno| io::Error::from(errno).kind());
        Self::new(kind, error)
    }
}

fn other(call: &'static str) -> impl FnOnce(Errno) -> TunError {
    move |errno| TunError::Other { call, errno }
}

/// Makes a TAP in the calling thread's network namespace: non-blocking, close-on-exec, one queue, a [`VnetHdr`] of 10
/// bytes in little endian in front of every frame, no offloads yet ([`set_offloads`]). It is gone when the last
/// descriptor of it is closed.
///
/// `name_hint` is a name of 1 to 15 bytes, or a pattern such as `vs%d` of which the kernel takes the first free one.
/// Returns the descriptor and the name it got. The send buffer is left alone: `TUNSETSNDBUF` would cost the kernel's
/// fast path for small frames.
///
/// # Errors
/// [`TunError`]; an existing interface is never joined (`IFF_TUN_EXCL`).
///
/// # Privileges
/// `/dev/net/tun` readable and writable, and `CAP_NET_ADMIN` over the network namespace.
///
/// # Syscalls
/// `openat`; `ioctl` with `TUNGETFEATURES`, `TUNSETIFF`, `TUNSETVNETHDRSZ`, `TUNSETVNETLE`.
pub fn create(name_hint: &str) -> Result<(OwnedFd, String), TunError> {
    let bytes = name_hint.as_bytes();
    let mut request = IfReq {
        name: [0; libc::IFNAMSIZ],
        flags: (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL) as u16,
        rest: [0; _],
    };
    match request.name.get_mut(..bytes.len()) {
        Some(name) if (1..=NAME_MAX).contains(&bytes.len()) && !bytes.contains(&0) => {
            name.copy_from_slice(bytes)
        }
        _ => return Err(TunError::Name(name_hint.to_owned())),
    }
    let fd = open()?;
    let features = features(&fd)?;
    let wanted = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as u32;
    if features & wanted != wanted {
        return Err(TunError::Features(features));
    }
    // SAFETY: TUNSETIFF reads and writes a whole `struct ifreq`, whose size and layout `IfReq` has.
    unsafe { ioctl(&fd, Updater::<{ libc::TUNSETIFF as Opcode }, IfReq>::new(&mut request)) }.map_err(
        |errno| match errno {
            Errno::PERM => TunError::Denied(errno),
            Errno::BUSY | Errno::EXIST => TunError::Taken { name: name_hint.to_owned(), errno },
            Errno::INVAL if !name_hint.contains('%') => TunError::Name(name_hint.to_owned()),
            errno => TunError::Other { call: "TUNSETIFF", errno },
        },
    )?;
    // SAFETY: TUNSETVNETHDRSZ reads one `int`.
    unsafe { ioctl(&fd, Setter::<{ libc::TUNSETVNETHDRSZ as Opcode }, _>::new(VnetHdr::LEN as libc::c_int)) }
        .map_err(other("TUNSETVNETHDRSZ"))?;
    // SAFETY: TUNSETVNETLE reads one `int`.
    unsafe { ioctl(&fd, Setter::<{ libc::TUNSETVNETLE as Opcode }, libc::c_int>::new(1)) }
        .map_err(other("TUNSETVNETLE"))?;
    Ok((fd, request.name()))
}

/// # Syscalls
/// `openat`.
fn open() -> Result<OwnedFd, TunError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::NOTDIR => TunError::Missing(errno),
        Errno::ACCESS | Errno::PERM => TunError::Closed(errno),
        errno => TunError::Other { call: "open /dev/net/tun", errno },
    })
}

/// The `IFF_*` flags that the driver knows.
///
/// # Errors
/// [`TunError::Other`] if `fd` is not of `/dev/net/tun`.
///
/// # Syscalls
/// `ioctl` `TUNGETFEATURES`.
fn features(fd: impl AsFd) -> Result<u32, TunError> {
    // SAFETY: TUNGETFEATURES writes one `unsigned int`.
    unsafe { ioctl(fd, Getter::<{ libc::TUNGETFEATURES as Opcode }, libc::c_uint>::new()) }
        .map_err(other("TUNGETFEATURES"))
}

/// Lets the kernel hand us frames with work left undone (super-frames, partial checksums): as much as it knows, from
/// everything down to nothing. Returns the [`offload`] mask it took.
///
/// The mask belongs to the device, not to the descriptor, and a container with `CAP_NET_ADMIN` can lower it
/// (`ethtool -K`): never assume that super-frames come, nor that they do not. Writing them needs no offload.
///
/// # Errors
/// [`TunError::Other`] if `fd` is not an attached TAP.
///
/// # Syscalls
/// `ioctl` `TUNSETOFFLOAD`, up to four times.
pub fn set_offloads(fd: impl AsFd) -> Result<u32, TunError> {
    let fd = fd.as_fd();
    for mask in LADDER {
        // SAFETY: TUNSETOFFLOAD takes the mask itself as its argument, no pointer.
        let answer = unsafe {
            ioctl(fd, IntegerSetter::<{ libc::TUNSETOFFLOAD as Opcode }>::new_usize(mask as usize))
        };
        match answer {
            Ok(()) => return Ok(mask),
            Err(Errno::INVAL) if mask != 0 => {}
            Err(errno) => return Err(TunError::Other { call: "TUNSETOFFLOAD", errno }),
        }
    }
    Ok(0)
}

/// Plugs or pulls the cable. A TAP's `operstate` reads `UNKNOWN` until it was pulled and plugged once; then `UP`.
///
/// # Errors
/// [`TunError::Other`] if `fd` is not an attached TAP (`EBADFD` when its namespace is gone).
///
/// # Syscalls
/// `ioctl` `TUNSETCARRIER` (Linux 5.0).
pub fn set_carrier(fd: impl AsFd, on: bool) -> Result<(), TunError> {
    // SAFETY: TUNSETCARRIER reads one `int`.
    unsafe { ioctl(fd, Setter::<{ libc::TUNSETCARRIER as Opcode }, _>::new(libc::c_int::from(on))) }
        .map_err(other("TUNSETCARRIER"))
}

/// Lets the device outlive its descriptors (without carrier), or not. For one whose namespace is about to end: the
/// kernel then removes it along with the namespace, in its own time and many at once, and closing the last descriptor
/// is cheap.
///
/// # Errors
/// [`TunError::Other`] if `fd` is not an attached TAP (`EBADFD` when its namespace is gone).
///
/// # Syscalls
/// `ioctl` `TUNSETPERSIST`.
pub fn set_persistent(fd: impl AsFd, on: bool) -> Result<(), TunError> {
    // SAFETY: TUNSETPERSIST takes the flag itself as its argument, no pointer.
    unsafe { ioctl(fd, IntegerSetter::<{ libc::TUNSETPERSIST as Opcode }>::new_usize(usize::from(on))) }
        .map_err(other("TUNSETPERSIST"))
}

/// The name of the interface behind `fd`, wherever it was moved and however it was renamed.
///
/// # Errors
/// [`TunError::Other`] if `fd` is not an attached TAP (`EBADFD` when its namespace is gone).
///
/// # Syscalls
/// `ioctl` `TUNGETIFF`.
pub fn name(fd: impl AsFd) -> Result<String, TunError> {
    // SAFETY: TUNGETIFF writes a whole `struct ifreq`, whose size and layout `IfReq` has.
    unsafe { ioctl(fd, Getter::<{ libc::TUNGETIFF as Opcode }, IfReq>::new()) }
        .map(|request| request.name())
        .map_err(other("TUNGETIFF"))
}

/// The network namespace in which the interface behind `fd` is now, wherever it was made.
///
/// # Errors
/// [`TunError::Other`]: `EBADFD` when its namespace is gone, `EPERM` without the privilege.
///
/// # Privileges
/// `CAP_NET_ADMIN` over that namespace.
///
/// # Syscalls
/// `ioctl` `TUNGETDEVNETNS` (Linux 5.2).
pub fn home(fd: impl AsFd) -> Result<OwnedFd, TunError> {
    // SAFETY: TUNGETDEVNETNS takes no argument and returns a new descriptor, close-on-exec.
    let raw = unsafe { ioctl(fd, Returns::<{ libc::TUNGETDEVNETNS as Opcode }>) }
        .map_err(other("TUNGETDEVNETNS"))?;
    // SAFETY: the kernel made this descriptor for us a moment ago; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_the_kernel_is_asked() {
        for name in ["", "sixteen-bytes-ab", "nul\0"] {
            assert_eq!(create(name).unwrap_err(), TunError::Name(name.to_owned()));
        }
    }

    #[test]
    fn an_error_keeps_its_kind_as_io_error() {
        let error = io::Error::from(TunError::Closed(Errno::ACCESS));
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("/dev/net/tun"), "{error}");
    }
}
