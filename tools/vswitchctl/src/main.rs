//! `vswitchctl`: looks into a running `vswitchd` and changes it.
//!
//! Exit 0 done, 1 the daemon said no, 2 usage, 3 daemon not reachable; an error is one line on stderr.

mod act;
mod cli;
mod client;
mod daemon;
mod exec;
mod failure;
mod members;
mod nat;
mod output;
mod show;
mod table;
mod trace;
mod vxlan;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use cli::{Cli, Command};
use client::{Client, Socket};
use failure::Failure;

fn main() -> ExitCode {
    match run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(args: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    let Some(cli) = Cli::read(args)? else { return Ok(()) };
    let client = Client::new(Socket::choose(cli.socket)).map_err(Failure::Start)?;
    let json = cli.json;
    if let Command::Show(what) = &cli.command {
        members::exists(&client, what)?;
    }
    match cli.command {
        Command::Show(cli::Show::Stats { watch: true, interval, filter }) => {
            watch::stats(&client, json, interval, &filter)
        }
        Command::Show(what) => output::print(&show::show(&client, json, &what)?),
        Command::Fdb(change) => output::print(&act::fdb(&client, json, change)?),
        Command::Network(change) => output::print(&act::network(&client, json, change)?),
        Command::Publish(entries) => output::print(&nat::publish(&client, json, entries)?),
        Command::Unpublish(entries) => output::print(&nat::unpublish(&client, json, entries)?),
        Command::Trace(what) => output::print(&trace::trace(&client, json, *what)?),
        Command::Reload => output::print(&act::reload(&client, json)?),
        Command::Apply { file } => output::print(&act::apply(&client, json, &file)?),
        Command::Exec { container, argv } => Err(exec::exec(client, &container, &argv)),
    }
}
