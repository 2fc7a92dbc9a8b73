//! Capabilities: whether they are there, and giving all of them away.

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Why capabilities are still there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapsError {
    /// The kernel refused a step.
    #[error("{step}: {errno}")]
    Kernel {
        /// The step.
        step: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// Everything was accepted, and yet something is left.
    #[error("{set} is not empty after all capabilities were dropped")]
    Left {
        /// The set.
        set: &'static str,
    },
}

fn kernel(step: &'static str) -> impl FnOnce(Errno) -> CapsError {
    move |errno| CapsError::Kernel { step, errno }
}

/// Whether the calling thread may administer networks and namespaces (`CAP_NET_ADMIN` and `CAP_SYS_ADMIN` effective)
/// in its user namespace.
///
/// # Errors
/// What the kernel said.
///
/// # Syscalls
/// `capget`.
pub fn may_administer() -> rustix::io::Result<bool> {
    let wanted = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN;
    Ok(rustix::thread::capabilities(None)?.effective.contains(wanted))
}

/// Gives up every capability for good: `no_new_privs`, ambient, bounding, then permitted, effective and inheritable;
/// reads them back. Call it while the process has one thread: capabilities belong to threads, and those started later
/// inherit the emptiness.
///
/// Without `CAP_SETPCAP` the bounding set cannot be emptied; with `no_new_privs` nothing can be gained from it.
///
/// # Errors
/// [`CapsError`]; the process must not go on then.
///
/// # Privileges
/// None; `CAP_SETPCAP` for the bounding set.
///
/// # Syscalls
/// `prctl` (`PR_SET_NO_NEW_PRIVS`, `PR_CAP_AMBIENT`, `PR_CAPBSET_DROP`), `capset`, `capget`.
pub fn drop_all_capabilities() -> Result<(), CapsError> {
    rustix::thread::set_no_new_privs(true).map_err(kernel("PR_SET_NO_NEW_PRIVS"))?;
    rustix::thread::clear_ambient_capability_set().map_err(kernel("PR_CAP_AMBIENT_CLEAR_ALL"))?;
    let bounded = empty_bounding_set()?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).map_err(kernel("capset"))?;

    let left = rustix::thread::capabilities(None).map_err(kernel("capget"))?;
    for (set, value) in
        [("effective", left.effective), ("permitted", left.permitted), ("inheritable", left.inheritable)]
    {
        if !value.is_empty() {
            return Err(CapsError::Left { set });
        }
    }
    if bounded && each_known()?.next().is_some() {
        return Err(CapsError::Left { set: "bounding" });
    }
    if rustix::thread::no_new_privs() != Ok(true) {
        return Err(CapsError::Left { set: "the right to gain privileges" });
    }
    Ok(())
}

/// Whether it could be emptied.
fn empty_bounding_set() -> Result<bool, CapsError> {
    for capability in each_known()? {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(Errno::PERM) => return Ok(false),
            Err(errno) => return Err(CapsError::Kernel { step: "PR_CAPBSET_DROP", errno }),
        }
    }
    Ok(true)
}

/// What is in the bounding set; the kernel answers `EINVAL` above the last capability it knows.
fn each_known() -> Result<impl Iterator<Item = CapabilitySet>, CapsError> {
    let mut found = Vec::new();
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::capability_is_in_bounding_set(capability) {
            Ok(true) => found.push(capability),
            Ok(false) => {}
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(CapsError::Kernel { step: "PR_CAPBSET_READ", errno }),
        }
    }
    Ok(found.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_without_capabilities_has_none_and_cannot_get_any_back() {
        let result = std::thread::spawn(|| {
            drop_all_capabilities()?;
            assert!(!may_administer().unwrap());
            let all = CapabilitySet::NET_ADMIN;
            let sets = CapabilitySets { effective: all, permitted: all, inheritable: all };
            assert_eq!(rustix::thread::set_capabilities(None, sets), Err(Errno::PERM));
            drop_all_capabilities()
        });
        assert_eq!(result.join().unwrap(), Ok(()));
    }
}
