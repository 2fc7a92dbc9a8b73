//! This project's daemon, with a generated configuration.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Lab, Side};
use crate::error::{Error, Result};
use crate::ns::{Family, Netns};
use crate::process::{Process, Scratch, Stop};

/// The network's part of a configuration.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    /// Address and prefix length.
    pub subnet: &'static str,
    /// MAC addresses it may learn; `None`: the daemon's default.
    pub fdb_limit: Option<u32>,
    /// Broadcast and unknown frames per second and port; `None`: the daemon's default.
    pub storm: Option<u32>,
}

/// A daemon that said `ready`.
#[derive(Debug)]
pub struct Daemon {
    /// The keeper; the engine is its child.
    pub process: Process,
    /// From the start of the process to its `ready` line.
    pub ready_after: Duration,
}

/// Builds the daemon, if we were started by cargo; else the one beside our executable must do.
///
/// # Errors
/// When it does not compile.
pub fn build() -> Result<()> {
    let Some(workspace) = std::env::var_os("CARGO_MANIFEST_DIR") else { return Ok(()) };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "-p", "vswitchd", "--bin", "vswitchd"]).current_dir(workspace);
    let status = command.status().map_err(Error::io("start cargo"))?;
    if status.success() {
        return Ok(());
    }
    let command = "cargo build --release --bin vswitchd".to_owned();
    Err(Error::Command { command, status: status.to_string(), stderr: "see above".into() })
}

/// The release build of the daemon: beside our own executable, or beside its profile's folder.
fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(Error::io("find our own executable"))?;
    let beside = own.with_file_name("vswitchd");
    let release =
        own.parent().and_then(|profile| profile.parent()).map(|target| target.join("release/vswitchd"));
    release.into_iter().chain([beside]).find(|path| path.is_file()).ok_or_else(|| Error::Missing {
        what: "vswitchd".into(),
        hint: format!("is not beside {}: run the race by cargo, or build both", own.display()),
    })
}

/// The configuration file of one network and its containers, `(namespace, address)`, which the daemon makes.
pub fn configuration(dir: &Scratch, network: Network, containers: &[(String, String)]) -> String {
    let mut text = format!(
        "[daemon]\ncontrol = {:?}\nstate = {:?}\nio = \"epoll\"\n\n[[network]]\nname = \"race\"\nsubnet = {:?}\n",
        dir.file("control.sock"),
        dir.file("state"),
        network.subnet,
    );
    // Writing into a String cannot fail.
    if let Some(storm) = network.storm {
        let _ = writeln!(text, "storm = {storm}");
    }
    if let Some(limit) = network.fdb_limit {
        let _ = writeln!(text, "fdb_limit = {limit}");
    }
    // The subnet's first address is kept for a gateway; here the first container has it.
    if let Some((_, first)) = containers.first() {
        let _ = writeln!(text, "gateway = {first:?}");
    }
    for (netns, address) in containers {
        let _ = writeln!(
            text,
            "\n[[container]]\nname = {netns:?}\ncreate = true\n[[container.interface]]\nnetwork = \"race\"\nip = {address:?}"
        );
    }
    text
}

/// Starts the daemon with a configuration and waits for `ready`.
///
/// # Errors
/// When it ends first or takes longer than `limit`.
pub fn daemon(dir: &Scratch, configuration: &str, limit: Duration) -> Result<Daemon> {
    let file = dir.file("race.toml");
    fs::write(&file, configuration).map_err(Error::io(format!("write {file}")))?;
    let argv = [binary()?.display().to_string(), "--config".into(), file];
    let start = Instant::now();
    let mut process = Process::start(dir, None, &argv, Stop::Term)?;
    process.wait_line("ready", limit)?;
    Ok(Daemon { process, ready_after: start.elapsed() })
}

pub(super) fn start(family: &Family, dir: Scratch) -> Result<Lab> {
    let (a, b) = (Netns::expected(family.name("a")), Netns::expected(family.name("b")));
    let containers = [(&a, Side::A), (&b, Side::B)]
        .map(|(netns, side)| (netns.name().to_owned(), side.address().to_string()));
    let network = Network { subnet: "10.99.0.0/24", fdb_limit: None, storm: Some(0) };
    let daemon = daemon(&dir, &configuration(&dir, network, &containers), Duration::from_secs(20))?;
    Ok(Lab { processes: vec![daemon.process], a, b, _workshop: None, dir })
}
