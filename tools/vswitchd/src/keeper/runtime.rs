//! Asking Docker and podman where a container runs. Their command lines are the documented interface that both keep
//! stable; `inspect -f {{.State.Pid}}` is all we need of it.

use std::fmt;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bounded;
use crate::wire::{Refusal, RefusalKind};

/// A busy daemon answers within a second; one that hangs must not hang us.
const PATIENCE: Duration = Duration::from_secs(5);

/// A container engine of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Runtime {
    Docker,
    Podman,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        })
    }
}

/// The process id of a running container's first process, as the host counts.
pub(super) fn pid_of(runtime: Runtime, name: &str) -> Result<u32, Refusal> {
    ask(&runtime.to_string(), runtime, name)
}

fn ask(program: &str, runtime: Runtime, name: &str) -> Result<u32, Refusal> {
    let asked = format!("container {name:?} of {runtime}");
    let mut command = Command::new(program);
    // `--`: a name is never an option.
    command.args(["inspect", "--type", "container", "--format", "{{.State.Pid}}", "--", name]);
    let said = bounded::output(&mut command, PATIENCE).map_err(|error| {
        let refusal = Refusal::new(RefusalKind::Failed, &asked, format!("{program} inspect: {error}"));
        match error.kind() {
            std::io::ErrorKind::NotFound => refusal.help(format!("is {runtime} installed and in PATH?")),
            std::io::ErrorKind::TimedOut => refusal.help(format!("no answer in {} s", PATIENCE.as_secs())),
            _ => refusal,
        }
    })?;
    if !said.success {
        return Err(complaint(runtime, asked, said.stderr.trim()));
    }
    match said.stdout.trim().parse() {
        // Both say 0 for a container that is there but does not run.
        Ok(0) => Err(Refusal::new(RefusalKind::Absent, asked, "it is not running")),
        Ok(pid) => Ok(pid),
        Err(_) => {
            Err(Refusal::new(RefusalKind::Failed, asked, format!("{program} inspect said no process id")))
        }
    }
}

fn complaint(runtime: Runtime, asked: String, stderr: &str) -> Refusal {
    let lower = stderr.to_lowercase();
    // "Error: No such container: x", "Error: No such object: x", "error: no such container "x"".
    if lower.contains("no such") {
        return Refusal::new(RefusalKind::Absent, asked, "there is no such container");
    }
    let last = stderr.lines().last().unwrap_or("it failed without a word");
    let short: String = last.chars().take(300).collect();
    let refusal = Refusal::new(RefusalKind::Failed, asked, short);
    if lower.contains("permission denied") {
        refusal.help(format!("may this user talk to {runtime}? (group `docker`, or run as root)"))
    } else if lower.contains("cannot connect") || lower.contains("is the docker daemon running") {
        refusal.help(format!("start the {runtime} daemon, or set DOCKER_HOST for vswitchd"))
    } else {
        refusal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn fake(script: &str) -> (std::path::PathBuf, String) {
        let folder =
            std::env::temp_dir().join(format!("vswitch-runtime-{}-{:p}", std::process::id(), script));
        std::fs::create_dir_all(&folder).unwrap();
        let program = folder.join("fake");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        (folder, program.to_str().unwrap().to_owned())
    }

    fn answer(script: &str) -> Result<u32, Refusal> {
        let (folder, program) = fake(script);
        let answer = ask(&program, Runtime::Docker, "web");
        std::fs::remove_dir_all(folder).unwrap();
        answer
    }

    #[test]
    fn understands_what_the_engines_say() {
        assert_eq!(answer("echo 4242"), Ok(4242));
        let kind = |script| answer(script).unwrap_err().kind;
        assert_eq!(kind("echo 0"), RefusalKind::Absent);
        assert_eq!(kind("echo 'Error: No such container: web' >&2; exit 1"), RefusalKind::Absent);
        assert_eq!(kind("echo 'Error: no such object: \"web\"' >&2; exit 125"), RefusalKind::Absent);
        assert_eq!(kind("echo nonsense"), RefusalKind::Failed);
        let refusal =
            answer("echo 'Cannot connect to the Docker daemon at unix:///x.' >&2; exit 1").unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Failed);
        assert!(refusal.to_string().contains("start the docker daemon"), "{refusal}");
    }

    #[test]
    fn a_name_is_never_an_option_and_a_missing_program_is_told() {
        let (folder, program) = fake("[ \"$6\" = -- ] && [ \"$7\" = --help ] && echo 7");
        assert_eq!(ask(&program, Runtime::Podman, "--help"), Ok(7));
        std::fs::remove_dir_all(folder).unwrap();
        let refusal = ask("/nonexistent/podman", Runtime::Podman, "web").unwrap_err();
        assert!(refusal.to_string().contains("is podman installed"), "{refusal}");
    }
}
