//! Refusals in words a user can act on: what was asked, what the kernel said, what would help.

use rustix::io::Errno;
use switch::sys::netns::NetnsError;
use switch::sys::tun::{DEVICE, TunError};

use crate::wire::{Refusal, RefusalKind};

impl Refusal {
    /// A refusal without advice.
    pub fn new(kind: RefusalKind, asked: impl Into<String>, answer: impl ToString) -> Self {
        Self { kind, asked: asked.into(), answer: answer.to_string(), help: None }
    }

    /// The same with advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What `errno` means by itself.
    pub(super) fn of_errno(asked: impl Into<String>, errno: Errno) -> Self {
        let kind = match errno {
            Errno::PERM | Errno::ACCESS => RefusalKind::Denied,
            Errno::EXIST => RefusalKind::Exists,
            _ => RefusalKind::Failed,
        };
        let refusal = Self::new(kind, asked, errno);
        match errno {
            Errno::NOSPC => {
                refusal.help("a limit of the host: sysctl user.max_net_namespaces, user.max_mnt_namespaces")
            }
            Errno::MFILE | Errno::NFILE => {
                refusal.help("out of descriptors: raise `ulimit -n` (systemd: LimitNOFILE=)")
            }
            _ => refusal,
        }
    }

    /// What `errno` means when it comes from inside a namespace, or on the way there.
    pub(super) fn of_entering(asked: impl Into<String>, errno: Errno) -> Self {
        let refusal = Self::of_errno(asked, errno);
        match errno {
            Errno::PERM => refusal.help(
                "the namespace belongs to another user: run as root, or let `create = true` make one of your own",
            ),
            _ => refusal,
        }
    }

    /// No TAP: nearly always the device file.
    pub(super) fn of_tun(asked: impl Into<String>, error: &TunError) -> Self {
        match error {
            TunError::Missing(_) => Self::new(RefusalKind::Failed, asked, error)
                .help(format!("modprobe tun; in a container: mknod {DEVICE} c 10 200, or docker run --device {DEVICE}")),
            TunError::Closed(_) => Self::new(RefusalKind::Denied, asked, error).help(format!(
                "as root: chmod 0666 {DEVICE} (the default of most distributions), or chgrp to a group of yours and chmod 0660"
            )),
            TunError::Denied(_) => Self::new(RefusalKind::Denied, asked, error)
                .help("CAP_NET_ADMIN over the namespace is needed: run as root, or as an ordinary user with user namespaces"),
            TunError::Taken { .. } => Self::new(RefusalKind::Exists, asked, error),
            TunError::Name(_) | TunError::Features(_) | TunError::Other { .. } => {
                Self::new(RefusalKind::Failed, asked, error)
            }
        }
    }

    /// A path that leads to no network namespace; what is not there (yet) is awaited.
    pub(super) fn of_netns(asked: impl Into<String>, error: NetnsError) -> Self {
        match error {
            // `ip netns add` makes an empty file and mounts on it a moment later; a process that ended has no files.
            NetnsError::NotNamespace | NetnsError::Kernel(Errno::NOENT | Errno::SRCH | Errno::NOTDIR) => {
                Self::new(RefusalKind::Absent, asked, error)
            }
            NetnsError::NotNetwork => Self::new(RefusalKind::Failed, asked, error),
            NetnsError::Kernel(errno) => {
                let refusal = Self::of_errno(asked, errno);
                match refusal.kind {
                    RefusalKind::Denied => refusal.help(
                        "the namespace belongs to another user: run as root, or let `create = true` make one of your own",
                    ),
                    _ => refusal,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_asked_what_came_back_and_what_helps() {
        let refusal =
            Refusal::of_tun("interface \"eth0\" of container \"web\"", &TunError::Closed(Errno::ACCESS));
        assert_eq!(refusal.kind, RefusalKind::Denied);
        let text = refusal.to_string();
        for part in ["eth0", "may not be opened", "Permission denied", "chmod 0666 /dev/net/tun"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_is_not_there_yet_is_awaited() {
        for error in
            [NetnsError::NotNamespace, NetnsError::Kernel(Errno::NOENT), NetnsError::Kernel(Errno::SRCH)]
        {
            assert_eq!(Refusal::of_netns("x", error).kind, RefusalKind::Absent, "{error}");
        }
        assert_eq!(Refusal::of_netns("x", NetnsError::Kernel(Errno::ACCESS)).kind, RefusalKind::Denied);
        assert_eq!(Refusal::of_netns("x", NetnsError::NotNetwork).kind, RefusalKind::Failed);
    }
}
