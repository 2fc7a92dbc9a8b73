//! Measures: the race against real peers, and figures of this project's daemon alone.
//!
//! `bench race` builds each peer in namespaces of its own, runs the same loads over all of them in turns, and prints
//! medians and ratios. `bench own` measures what only the daemon has, `bench stall` looks for streams that stand still.
//! All need root and leave nothing behind.

mod error;
mod hop;
mod load;
mod meter;
mod ns;
mod own;
mod process;
mod race;
mod relay;
mod stall;
mod stop;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};

#[derive(Debug, Parser)]
#[command(about = "Measures: the race against real peers, and figures of the daemon alone", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Races the daemon against the kernel, OVS, VDE2, a bare relay, pasta and slirp4netns.
    Race(race::Args),
    /// Measures the daemon alone: start, many ports, a full FDB, a noisy neighbour, idle connections, mutated frames.
    Own(own::Args),
    /// Runs many short TCP streams through the sockets uplink and looks for those that stood still.
    Stall(stall::Args),
    /// Runs a program in a namespace (`-`: ours); it ends when we do.
    #[command(hide = true)]
    Enter {
        /// Name in /run/netns.
        netns: String,
        /// Program and arguments.
        #[arg(last = true, required = true)]
        argv: Vec<String>,
    },
    /// Plays a container.
    #[command(hide = true, subcommand)]
    Load(load::Load),
    /// Makes two TAPs and relays between them.
    #[command(hide = true)]
    Relay {
        /// Name of the one.
        first: String,
        /// Name of the other.
        second: String,
        /// By io_uring.
        #[arg(long)]
        ring: bool,
    },
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress(&format!("bench: {error}"));
            ExitCode::from(if matches!(error, Error::Interrupted) { 130 } else { 1 })
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Race(args) => measure("race", || race::run(args)),
        Command::Own(args) => measure("own", || own::run(args)),
        Command::Stall(args) => measure("stall", || stall::run(args)),
        Command::Enter { netns, argv } => process::exec_in(netns, argv),
        Command::Load(load) => load::run(load),
        Command::Relay { first, second, ring } => relay::run([first, second], *ring),
    }
}

fn measure(command: &'static str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let user = rustix::process::geteuid();
    if !user.is_root() {
        return Err(Error::NeedRoot { command, uid: user.as_raw() });
    }
    stop::watch()?;
    body()
}

/// A line on stderr for whoever watches.
fn progress(line: &str) {
    // Nobody watching is no reason to stop measuring.
    let _ = writeln!(std::io::stderr(), "{line}");
}
