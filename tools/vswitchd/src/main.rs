//! `vswitchd`: one process that owns the TAP devices of containers and switches between them.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use vswitchd::config::{self, Config, ConfigErrors, ReadError};
use vswitchd::keeper::{self, KeeperOptions};
use vswitchd::{engine, logging};

/// A userspace virtual switch for containers and network labs.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only check the configuration
    #[arg(long)]
    check: bool,
    /// Take over from the daemon that runs on the same control socket, with all it made; traffic flows on
    #[arg(long)]
    take_over: bool,
    /// How lines are logged on standard error (what is logged: VSWITCHD_LOG=info)
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"], env = logging::FORMAT_VARIABLE, default_value = "text")]
    log_format: String,
}

/// With this first word the program is the engine; the keeper starts it so.
const ENGINE: &str = "engine";

fn main() -> ExitCode {
    end_whole();
    // Helpers of the keeper run with one thread and a command line of their own: before anything else.
    if let Some(code) = keeper::helper() {
        return code;
    }
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == ENGINE) {
        // The keeper's is the same, and was found right.
        let _ = logging::start(words.next().is_some_and(|word| word == "json"));
        return engine::run();
    }
    run(&Cli::parse())
}

/// A thread that panics ends the process, however that was built: a worker that is gone must not leave a daemon that
/// forwards nothing, and whoever waits for the engine starts a new one.
fn end_whole() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort()
    }));
}

fn run(cli: &Cli) -> ExitCode {
    let (text, config) = match load(&cli.config) {
        Ok(loaded) => loaded,
        Err(error) => return complain(&error),
    };
    if cli.check {
        let (containers, networks) = (config.containers.len(), config.networks.len());
        let line = format!("{}: ok: {containers} containers on {networks} networks", cli.config.display());
        return if writeln!(io::stdout(), "{line}").is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Err(error) = logging::start(cli.log_format == "json") {
        let _ = writeln!(io::stderr(), "vswitchd: {error}");
        return ExitCode::FAILURE;
    }
    keeper::run(KeeperOptions {
        config: std::path::absolute(&cli.config).unwrap_or_else(|_| cli.config.clone()),
        config_text: text,
        control: config.daemon.control,
        state: config.daemon.state,
        take_over: cli.take_over,
        engine: vec![OsString::from(ENGINE), OsString::from(&cli.log_format)],
    })
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("vswitchd: {0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    Config(#[from] ConfigErrors),
}

fn load(path: &Path) -> Result<(String, Config), LoadError> {
    let bytes = config::read(path)?;
    let config = config::parse(&path.display().to_string(), &bytes)?;
    // It was parsed, so it is UTF-8.
    Ok((String::from_utf8_lossy(&bytes).into_owned(), config))
}

fn complain(error: &LoadError) -> ExitCode {
    // Nobody to tell if standard error is closed.
    let _ = writeln!(io::stderr(), "{error}");
    ExitCode::FAILURE
}
