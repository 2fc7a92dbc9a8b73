//! A child process that may not hold us up: its time and its output are bounded.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

/// Most bytes that are kept of each stream; what comes after is read and thrown away.
const LIMIT: usize = 64 * 1024;

/// What a child said.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) success: bool,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Runs `command` for at most `time`; after that it is killed and the answer is [`io::ErrorKind::TimedOut`].
pub(super) fn output(command: &mut Command, time: Duration) -> io::Result<Output> {
    let deadline = Instant::now() + time;
    let (mut child, end) =
        start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("LC_ALL", "C"))?;
    let answer = gather(&mut child, &end, deadline);
    if answer.is_err() {
        child.kill()?;
        child.wait()?;
    }
    answer
}

/// Starts `command` at the head of a process group, with a descriptor that is readable when it has ended. Without one
/// its end would not be seen: then there is no child either.
pub(super) fn start(command: &mut Command) -> io::Result<(Child, OwnedFd)> {
    let mut child = command.process_group(0).spawn()?;
    let pid = Pid::from_child(&child);
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(end) => Ok((child, end)),
        Err(errno) => {
            let _gone = kill_process_group(pid, Signal::KILL);
            child.wait()?;
            Err(errno.into())
        }
    }
}

fn gather(child: &mut Child, end: &OwnedFd, deadline: Instant) -> io::Result<Output> {
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let pid = Pid::from_child(child);
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let (mut said_open, mut complained_open) = (true, true);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // The group, because `docker` may be a script.
            let _gone = pidfd_send_signal(end, Signal::KILL);
            let _gone = kill_process_group(pid, Signal::KILL);
            return Err(io::ErrorKind::TimedOut.into());
        }
        if !said_open && !complained_open {
            // Both streams closed: it ends now, or it is waited for until the deadline.
            if let Some(status) = child.try_wait()? {
                return Ok(Output {
                    success: status.success(),
                    stdout: String::from_utf8_lossy(&said).into_owned(),
                    stderr: String::from_utf8_lossy(&complained).into_owned(),
                });
            }
        }
        let (stdout_fd, stderr_fd, end_fd) = (stdout.as_fd(), stderr.as_fd(), end.as_fd());
        let mut set = vec![];
        if said_open {
            set.push(PollFd::from_borrowed_fd(stdout_fd, PollFlags::IN));
        }
        if complained_open {
            set.push(PollFd::from_borrowed_fd(stderr_fd, PollFlags::IN));
        }
        if set.is_empty() {
            set.push(PollFd::from_borrowed_fd(end_fd, PollFlags::IN));
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        poll(&mut set, Some(&timeout)).or_else(|errno| match errno {
            rustix::io::Errno::INTR => Ok(0),
            errno => Err(errno),
        })?;
        let mut ready = set.iter().map(|fd| !fd.revents().is_empty());
        let read_stdout = said_open && ready.next().unwrap_or(false);
        let read_stderr = complained_open && ready.next().unwrap_or(false);
        drop(ready);
        drop(set);
        if read_stdout {
            said_open = take(&mut stdout, &mut said)?;
        }
        if read_stderr {
            complained_open = take(&mut stderr, &mut complained)?;
        }
    }
}

/// Whether there may be more.
fn take(stream: &mut impl Read, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    let n = stream.read(&mut buffer)?;
    let room = LIMIT.saturating_sub(into.len());
    into.extend(buffer.iter().take(n.min(room)));
    Ok(n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn tells_both_streams_and_the_status() {
        let said = output(&mut shell("echo out; echo err >&2; exit 3"), Duration::from_secs(30)).unwrap();
        assert_eq!((said.success, said.stdout.as_str(), said.stderr.as_str()), (false, "out\n", "err\n"));
    }

    #[test]
    fn does_not_wait_for_ever_and_keeps_no_flood() {
        let error = output(&mut shell("sleep 1000 & sleep 1000"), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let said = output(&mut shell("head -c 1000000 /dev/zero"), Duration::from_secs(30)).unwrap();
        assert_eq!(said.stdout.len(), LIMIT);
    }
}
