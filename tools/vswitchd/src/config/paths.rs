//! Where the daemon keeps its socket and its state when nobody says.

use std::ffi::OsString;
use std::path::PathBuf;

/// The defaults of `control` and `state`. `vswitchctl` finds the daemon by the same rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The control socket.
    pub control: PathBuf,
    /// The state folder.
    pub state: PathBuf,
}

impl Paths {
    /// The defaults for this user and environment; asks nothing of the kernel.
    ///
    /// Root: `/run/vswitch/control.sock` and `/var/lib/vswitch`, whatever the environment says. Others:
    /// `$XDG_RUNTIME_DIR/vswitch/control.sock`, or `/tmp/vswitch-UID/control.sock`; `$XDG_STATE_HOME/vswitch`, or
    /// `$HOME/.local/state/vswitch`, or `/tmp/vswitch-UID/state`. A relative path in the environment is ignored, as
    /// the XDG Base Directory Specification 0.8 section 3 asks.
    pub fn new(is_root: bool, uid: u32, env: impl Fn(&str) -> Option<OsString>) -> Self {
        if is_root {
            return Self { control: "/run/vswitch/control.sock".into(), state: "/var/lib/vswitch".into() };
        }
        let folder = |key| env(key).map(PathBuf::from).filter(|path| path.is_absolute());
        let temporary = PathBuf::from(format!("/tmp/vswitch-{uid}"));
        let control = folder("XDG_RUNTIME_DIR").map_or_else(|| temporary.clone(), |run| run.join("vswitch"));
        let state = folder("XDG_STATE_HOME")
            .or_else(|| folder("HOME").map(|home| home.join(".local/state")))
            .map_or_else(|| temporary.join("state"), |state| state.join("vswitch"));
        Self { control: control.join("control.sock"), state }
    }

    /// The defaults of this process. Call it before entering a user namespace, where every user looks like root.
    ///
    /// # Syscalls
    /// `geteuid`.
    pub fn of_process() -> Self {
        let uid = rustix::process::geteuid();
        Self::new(uid.is_root(), uid.as_raw(), |key| std::env::var_os(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(uid: u32, env: &[(&str, &str)]) -> (String, String) {
        let paths = Paths::new(uid == 0, uid, |key| {
            env.iter().find(|(name, _)| *name == key).map(|(_, value)| OsString::from(value))
        });
        (paths.control.display().to_string(), paths.state.display().to_string())
    }

    #[test]
    fn defaults_follow_user_and_environment() {
        let xdg = [("XDG_RUNTIME_DIR", "/run/user/7"), ("XDG_STATE_HOME", "/s"), ("HOME", "/home/u")];
        for (uid, env, control, state) in [
            (0, &xdg[..], "/run/vswitch/control.sock", "/var/lib/vswitch"),
            (7, &xdg[..], "/run/user/7/vswitch/control.sock", "/s/vswitch"),
            (7, &xdg[2..], "/tmp/vswitch-7/control.sock", "/home/u/.local/state/vswitch"),
            (7, &[], "/tmp/vswitch-7/control.sock", "/tmp/vswitch-7/state"),
            (
                7,
                &[("XDG_RUNTIME_DIR", "run"), ("XDG_STATE_HOME", ""), ("HOME", "~")],
                "/tmp/vswitch-7/control.sock",
                "/tmp/vswitch-7/state",
            ),
        ] {
            assert_eq!(paths(uid, env), (control.to_owned(), state.to_owned()));
        }
    }
}
