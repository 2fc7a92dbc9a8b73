//! Becoming root of a user namespace of our own, for users who are nobody special outside.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{getgid, getuid};
use switch::sys::netns;

use super::outside::Outside;
use crate::wire::{Refusal, RefusalKind};

const ASKED: &str = "a user namespace, to run without root";

/// The file in which a distribution notes the ranges of ids a user may hand out, and the tool that maps them.
const RANGES: [(&str, &str); 2] = [("/etc/subuid", "newuidmap"), ("/etc/subgid", "newgidmap")];

/// Leaves the user and mount namespace, never the network namespace: from inside there is no way back to the host's
/// sockets. The process must have one thread. `outside` stays in the old namespace and maps the ids that only it may.
///
/// The mount namespace is a slave of the host's: mounts of the host still appear, ours never reach it.
pub(super) fn enter_user_namespace(outside: &Outside) -> Result<(), Refusal> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    netns::unshare_user_and_mount().map_err(refused)?;
    let mapped = outside.map_ids(std::process::id(), uid, gid)?;
    for complaint in &mapped.complaints {
        tracing::warn!("one id is mapped, not the host's range for this user: {complaint}");
    }
    if !mapped.users {
        fs::write("/proc/self/uid_map", format!("0 {uid} 1\n"))
            .map_err(|error| unmapped("uid_map", &error))?;
    }
    if !mapped.groups {
        // user_namespaces(7): without a range of one's own, groups can be mapped only after giving up setgroups.
        fs::write("/proc/self/setgroups", "deny").map_err(|error| unmapped("setgroups", &error))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1\n"))
            .map_err(|error| unmapped("gid_map", &error))?;
    }
    follow_mounts()
}

/// The same, into the user namespace of a daemon from which this one takes over: what it made belongs to that.
pub(super) fn join_user_namespace(namespace: &OwnedFd) -> Result<(), Refusal> {
    let asked = "the user namespace of the running vswitchd";
    netns::enter_user(namespace).map_err(|errno| Refusal::of_errno(asked, errno))?;
    netns::unshare_mount().map_err(|errno| Refusal::of_errno(asked, errno))?;
    follow_mounts()
}

fn follow_mounts() -> Result<(), Refusal> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM).map_err(|errno| {
        restricted(Refusal::new(RefusalKind::Denied, ASKED, format!("mount propagation: {errno}")))
    })
}

/// Whether this process is in the user namespace the machine was started with: only there is all of it mapped.
pub(super) fn in_initial_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}

fn refused(errno: Errno) -> Refusal {
    let refusal = Refusal::new(RefusalKind::Denied, ASKED, format!("unshare: {errno}"));
    match errno {
        Errno::NOSPC | Errno::USERS => {
            refusal.help("a limit of the host: raise sysctl user.max_user_namespaces (0 switches them off)")
        }
        Errno::INVAL => refusal.help("the kernel may be built without CONFIG_USER_NS"),
        _ => restricted(refusal),
    }
}

fn unmapped(file: &str, error: &io::Error) -> Refusal {
    restricted(Refusal::new(RefusalKind::Denied, ASKED, format!("writing /proc/self/{file}: {error}")))
}

/// Adds the advice that fits this host.
fn restricted(refusal: Refusal) -> Refusal {
    let is = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        refusal.help("as root: sysctl kernel.unprivileged_userns_clone=1")
    } else if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        refusal.help(
            "as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for vswitchd \
             with `userns,`",
        )
    } else {
        refusal.help("a container's seccomp profile or a chroot may forbid it: run as root, or docker run --cap-add SYS_ADMIN,NET_ADMIN")
    }
}

/// Start and length of the range of ids that `/etc/subuid` or `/etc/subgid` gives `user`.
///
/// subuid(5): lines of `name-or-uid:start:count`.
pub(super) fn range_of(text: &str, user: &str, uid: u32) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let ours = owner == user || owner.parse() == Ok(uid);
        (ours && count > 0 && u32::checked_add(start, count).is_some()).then_some((start, count))
    })
}

/// Name of the user with the number `uid`, from `/etc/passwd`.
pub(super) fn user_name(uid: u32) -> Option<String> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// What was mapped by the outside helper.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Mapped {
    pub(super) users: bool,
    pub(super) groups: bool,
    /// Why not.
    pub(super) complaints: Vec<String>,
}

/// Maps the user (and its ranges) into the user namespace of `pid`. Runs outside, where `newuidmap` has its privilege.
pub(super) fn map_ids(pid: u32, uid: u32, gid: u32) -> Mapped {
    let user = user_name(uid).unwrap_or_default();
    let mut complaints = Vec::new();
    let [users, groups] = RANGES.map(|(file, tool)| {
        let id = if tool == "newuidmap" { uid } else { gid };
        let text = fs::read_to_string(file).unwrap_or_default();
        let Some((start, count)) = range_of(&text, &user, uid) else { return false };
        let mut command = std::process::Command::new(tool);
        command.args([pid, 0, id, 1, 1, start, count].map(|number| number.to_string()));
        let why = match super::bounded::output(&mut command, std::time::Duration::from_secs(5)) {
            Ok(said) if said.success => return true,
            Ok(said) => said.stderr.trim().chars().take(300).collect(),
            Err(error) => error.to_string(),
        };
        complaints.push(format!("{tool}: {why}"));
        false
    });
    Mapped { users, groups, complaints }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_the_range_by_name_or_number() {
        let text = "root:1:5\nann:100000:65536\n1001:200000:10\nbad:1:x\nbig:4294967295:2\nnone:5:0\n";
        assert_eq!(range_of(text, "ann", 1000), Some((100_000, 65_536)));
        assert_eq!(range_of(text, "bob", 1001), Some((200_000, 10)));
        for user in ["bad", "big", "none", "nobody"] {
            assert_eq!(range_of(text, user, 7), None, "{user}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_range_or_none(text in ".{0,200}") {
            let _: Option<(u32, u32)> = range_of(&text, "ann", 1);
        }
    }
}
