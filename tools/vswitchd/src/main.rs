//! `vswitchd`: one process that owns the TAP devices of containers and switches between them.
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: these run with one thread and another command line.
    vswitchd::keeper::helper().unwrap_or(ExitCode::SUCCESS)
}
