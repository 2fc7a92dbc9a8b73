//! CPU time and memory, as `/proc` tells them.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use crate::error::{Error, Result};

/// `USER_HZ`: the unit of `/proc/stat` is 10 ms on every architecture this runs on, whatever the kernel's own tick.
const USER_HZ_MILLIS: u64 = 10;

/// CPU time that all threads of these processes have used.
///
/// # Errors
/// When none of them is there.
pub fn process_cpu(pids: &[u32]) -> Result<Duration> {
    let mut nanos = 0u64;
    for pid in pids {
        let folder = format!("/proc/{pid}/task");
        let tasks = fs::read_dir(&folder).map_err(Error::io(format!("read {folder}")))?;
        for task in tasks.flatten() {
            // A thread may end between the listing and the look.
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            nanos = nanos.saturating_add(first_number(&text));
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// Resident memory of these processes, in bytes; pages they share count for each.
///
/// # Errors
/// When one of them is not there.
pub fn resident(pids: &[u32]) -> Result<u64> {
    let mut bytes = 0u64;
    for pid in pids {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).map_err(Error::io(format!("read {path}")))?;
        let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).map_or(0, first_number);
        bytes = bytes.saturating_add(kib.saturating_mul(1024));
    }
    Ok(bytes)
}

/// CPU time of the whole machine since it started, all CPUs together: what was neither idle nor stolen.
///
/// It is taken from the idle side, which a tickless kernel counts exactly, where the busy side is sampled by ticks.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    not_busy: Duration,
    at: std::time::Instant,
}

impl Machine {
    /// Now.
    ///
    /// # Errors
    /// When `/proc/stat` cannot be read.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").map_err(Error::io("read /proc/stat"))?;
        Ok(Self { not_busy: not_busy(&text), at: std::time::Instant::now() })
    }

    /// Which part of the machine (0 to 1) was busy since `earlier`.
    pub fn part_since(&self, earlier: &Self) -> f64 {
        let wall = self.at.saturating_duration_since(earlier.at).saturating_mul(cpus());
        self.busy_since(earlier).as_secs_f64() / wall.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// CPU time used since `earlier`.
    pub fn busy_since(&self, earlier: &Self) -> Duration {
        let wall = self.at.saturating_duration_since(earlier.at).saturating_mul(cpus());
        wall.saturating_sub(self.not_busy.saturating_sub(earlier.not_busy))
    }
}

/// idle + iowait + steal of all CPUs, from the first line of `/proc/stat`.
fn not_busy(stat: &str) -> Duration {
    let fields: Vec<u64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).map(first_number).collect();
    let field = |index: usize| fields.get(index).copied().unwrap_or(0);
    let ticks = field(3).saturating_add(field(4)).saturating_add(field(7));
    Duration::from_millis(ticks.saturating_mul(USER_HZ_MILLIS))
}

/// CPUs that are there.
pub fn cpus() -> u32 {
    std::thread::available_parallelism().ok().and_then(|count| u32::try_from(count.get()).ok()).unwrap_or(1)
}

/// The process and all its descendants.
pub fn family(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(parent) =
            fs::read_to_string(entry.path().join("stat")).ok().as_deref().and_then(parent_of)
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(children.remove(&pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// The parent's pid in `/proc/PID/stat`: two fields after the name, which stands in brackets and may hold anything.
fn parent_of(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_iowait_and_steal_are_not_busy() {
        let stat = "cpu  100 0 50 1000 20 3 4 30 0 0\ncpu0 1 2 3 4\n";
        assert_eq!(not_busy(stat), Duration::from_millis(10_500));
        assert_eq!(not_busy(""), Duration::ZERO);
    }

    #[test]
    fn the_name_may_hold_brackets() {
        assert_eq!(parent_of("42 (a) b (c)) S 7 42 42"), Some(7));
        assert_eq!(parent_of("nonsense"), None);
    }

    #[test]
    fn we_use_cpu_and_memory() {
        let own = std::process::id();
        assert!(resident(&[own]).unwrap() > 100_000);
        assert!(process_cpu(&[own]).unwrap() > Duration::ZERO);
        assert!(family(own).contains(&own));
        assert!(process_cpu(&[u32::MAX]).is_err());
    }
}
