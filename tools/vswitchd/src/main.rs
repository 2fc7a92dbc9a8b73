//! `vswitchd`: one process that owns the TAP devices of containers and switches between them.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use vswitchd::config::{self, Config};
use vswitchd::keeper::{self, KeeperOptions};
use vswitchd::{engine, logging};

/// A userspace virtual switch for containers and network labs.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    internal: Option<Internal>,
}

#[derive(Args)]
struct Run {
    /// The configuration.
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Only check the configuration.
    #[arg(long)]
    check: bool,
    /// How lines are logged on standard error: text or json.
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    log_format: Option<String>,
}

/// What the keeper starts, never a user.
#[derive(Subcommand)]
enum Internal {
    /// The engine.
    #[command(hide = true)]
    Engine,
    /// A command in a container.
    #[command(hide = true)]
    Enter {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<std::ffi::OsString>,
    },
    /// The child that stays in the user namespace the keeper leaves.
    #[command(hide = true)]
    Outside {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<std::ffi::OsString>,
    },
}
