//! Processes that are not our children.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::process::Signal;

/// `include/uapi/linux/pidfd.h`.
const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;

/// Signals the whole process group that was led by the process of `leader` (a pidfd), which may have ended: unlike a
/// number, the descriptor never comes to mean another group.
///
/// # Errors
/// `EINVAL` before Linux 6.9, `ESRCH` if nobody is left, `EPERM` without the right to.
///
/// # Privileges
/// Those of kill(2).
///
/// # Syscalls
/// `pidfd_send_signal` with `PIDFD_SIGNAL_PROCESS_GROUP`.
pub fn signal_group(leader: impl AsFd, signal: Signal) -> rustix::io::Result<()> {
    // SAFETY: the descriptor is open, and without a siginfo (a null pointer) nothing is read from memory.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            leader.as_fd().as_raw_fd(),
            signal.as_raw(),
            std::ptr::null::<libc::siginfo_t>(),
            PIDFD_SIGNAL_PROCESS_GROUP,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::io::Read;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    #[test]
    fn a_group_is_signalled_after_its_leader_has_ended() {
        // The child keeps the pipe open until it is killed.
        let mut leader = Command::new("sh")
            .args(["-c", "sleep 1000 & exit 0"])
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pidfd = pidfd_open(Pid::from_child(&leader), PidfdFlags::empty()).unwrap();
        let mut output = leader.stdout.take().unwrap();
        leader.wait().unwrap();
        match signal_group(&pidfd, Signal::KILL) {
            Ok(()) => assert_eq!(output.read(&mut [0; 8]).unwrap(), 0, "nobody holds it any more"),
            Err(Errno::INVAL) => {
                eprintln!("skipped: before Linux 6.9");
                assert!(std::env::var_os("CI").is_none(), "skipped where it must run");
            }
            Err(errno) => panic!("{errno}"),
        }
    }
}
