//! Processes that run beside the daemon, and what the kernel says of any.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use super::{Daemon, PATIENCE, names, run, text, wait_for};

/// A command that runs in a container while something else happens; it does not outlive this.
pub struct Background {
    pub(super) child: Option<Child>,
    pub(super) what: String,
}

impl Background {
    /// A command in a namespace of a name, by whoever runs the tests.
    pub fn inside(netns: &str, words: &[&str]) -> Self {
        let mut command = std::process::Command::new("ip");
        command.args(["netns", "exec", netns]).args(words);
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child: Some(child), what: format!("{netns}: {words:?}") }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: &str) {
        run("kill", &[signal, &self.pid().to_string()]);
    }

    /// Its end, whatever it is.
    pub fn end(mut self) -> Output {
        let child = self.child.as_mut().unwrap();
        // Output is a few lines: it fits in the pipes.
        let deadline = Instant::now() + 3 * PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
                let output = self.child.take().unwrap().wait_with_output().unwrap();
                panic!("{} does not end: {}", self.what, text(&output));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.take().unwrap().wait_with_output().unwrap()
    }

    /// Its standard output; it must end well.
    #[track_caller]
    pub fn finish(self) -> String {
        let what = self.what.clone();
        let output = self.end();
        assert!(output.status.success(), "{what}: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let ended = child.try_wait().ok().flatten();
        let _ = child.kill();
        let _ = child.wait();
        // A test that fails may do so because of what this one could not do.
        if std::thread::panicking() && ended.is_some_and(|status| !status.success()) {
            let what = std::mem::take(&mut self.what);
            let said = std::thread::spawn(move || match child.wait_with_output() {
                Ok(output) => eprintln!("{what} has ended: {}", text(&output)),
                Err(error) => eprintln!("{what}: {error}"),
            });
            // Children of it may hold its pipes for ever.
            let deadline = Instant::now() + Duration::from_secs(1);
            while !said.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Pings that go on until they are counted.
pub struct Train {
    child: Child,
    /// What ping says: a pipe would fill.
    said: PathBuf,
}

impl Train {
    /// A hundred pings a second from one container to an address.
    #[track_caller]
    pub fn start(daemon: &Daemon, from: &str, to: &str) -> Self {
        daemon.ping(from, to); // addresses are resolved
        let said = daemon.host.dir.join(format!("pings-{from}-{to}"));
        let mut command = daemon.exec_command(from, &["ping", "-n", "-i", "0.01", to]);
        let child = command.stdout(fs::File::create(&said).unwrap()).spawn().unwrap();
        wait_for("ping to run", || (arguments(child.id()).first()? == "ping").then_some(()));
        Self { child, said }
    }

    /// Numbers of the pings that were answered so far.
    fn answered(&self) -> BTreeSet<u64> {
        let said = fs::read_to_string(&self.said).unwrap();
        let answers = said.lines().filter(|line| line.contains(" bytes from "));
        answers.filter_map(|line| line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse().ok()).collect()
    }

    /// Ends it: what is sent now is answered, and so was all that was sent before it.
    #[track_caller]
    pub fn assert_lost_nothing(mut self) {
        let so_far = self.answered().len();
        wait_for("pings to be answered", || (self.answered().len() > so_far + 2).then_some(()));
        run("kill", &["-INT", &self.child.id().to_string()]);
        self.child.wait().unwrap();
        let answered = self.answered();
        let last = answered.last().copied().unwrap_or(0);
        let lost: Vec<u64> = (1..last).filter(|number| !answered.contains(number)).collect();
        assert!(lost.is_empty(), "of {last} pings these were lost: {lost:?}");
    }
}

impl Drop for Train {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for the end of a process.
#[track_caller]
pub fn gone(pid: u32) {
    let path = format!("/proc/{pid}/stat");
    wait_for(&format!("process {pid} to end"), || match fs::read_to_string(&path) {
        Err(_) => Some(()),
        // Ended, and nobody has asked how.
        Ok(stat) => {
            let ended = stat.rsplit(')').next()?.trim_start().starts_with('Z');
            (ended && names(format!("/proc/{pid}/task")).len() < 2).then_some(())
        }
    });
}

pub fn children_of(pid: u32) -> Vec<u32> {
    let tasks = names(format!("/proc/{pid}/task"));
    let lists = tasks.iter().map(|task| fs::read_to_string(format!("/proc/{pid}/task/{task}/children")));
    lists
        .flatten()
        .flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The command line of a process.
pub fn arguments(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Seconds of CPU that a process used.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Bytes of memory that a process has.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Open descriptors of a process.
pub fn descriptors(pid: u32) -> usize {
    names(format!("/proc/{pid}/fd")).len()
}
