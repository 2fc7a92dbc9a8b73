//! `netns` as text: the ways to say where a container's network namespace is.

use std::fmt;
use std::str::FromStr;

use super::problem::Problem;
use crate::wire::NetnsRef;

/// The largest process id the kernel can give on a 64-bit machine (`PID_MAX_LIMIT`).
const PID_MAX: u32 = 1 << 22;
/// `NAME_MAX`: bytes of one file name.
const NAME_MAX: usize = 255;
/// `PATH_MAX` without its final NUL.
const PATH_MAX: usize = 4095;

impl NetnsRef {
    /// The same namespace written in two ways is one key: `web`, `/run/netns/web` and `/var/run/netns/web`.
    ///
    /// A process and a name can still be one namespace; only the kernel knows.
    pub fn key(&self) -> String {
        if let Self::Path(path) = self {
            for folder in ["/run/netns", "/var/run/netns"] {
                if let Ok(rest) = path.strip_prefix(folder)
                    && rest.components().count() == 1
                {
                    return rest.display().to_string();
                }
            }
        }
        self.to_string()
    }
}

/// As the file writes it.
impl fmt::Display for NetnsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host's own"),
            Self::Name(name) => f.write_str(name),
            Self::Path(path) => path.display().fmt(f),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
            Self::Docker(container) => write!(f, "docker:{container}"),
            Self::Podman(container) => write!(f, "podman:{container}"),
        }
    }
}

impl FromStr for NetnsRef {
    type Err = Problem;

    /// `web`, `/path`, `pid:4242`, `docker:web` or `podman:web`.
    ///
    /// # Errors
    /// [`Problem::Invalid`] for anything else, and for names no kernel or engine could have given.
    fn from_str(text: &str) -> Result<Self, Problem> {
        let refuse = |why: &'static str| Err(Problem::invalid("netns", text, why));
        if text.is_empty() {
            return refuse("it is empty: leave it out, and the container's name is used");
        }
        if text.chars().any(|c| c.is_control()) {
            return refuse("it contains a control character");
        }
        if text.starts_with('/') {
            let fits = text.len() <= PATH_MAX;
            return if fits { Ok(Self::Path(text.into())) } else { refuse("a path has at most 4095 bytes") };
        }
        if let Some((form, rest)) = text.split_once(':') {
            return match form {
                "pid" => match rest.parse() {
                    Ok(pid) if (1..=PID_MAX).contains(&pid) && !rest.starts_with('+') => Ok(Self::Pid(pid)),
                    _ => refuse("a process id is a number from 1 to 4194304: \"pid:4242\""),
                },
                "docker" | "podman" if !is_engine_name(rest) => {
                    refuse("a container of an engine is named by letters, digits, `_`, `.` and `-`")
                }
                "docker" => Ok(Self::Docker(rest.to_owned())),
                "podman" => Ok(Self::Podman(rest.to_owned())),
                _ => refuse("the forms are NAME, /PATH, pid:N, docker:NAME and podman:NAME"),
            };
        }
        if text.contains('/') {
            return refuse("a path starts with `/`; a name has none");
        }
        if text == "." || text == ".." || text.chars().any(char::is_whitespace) {
            return refuse("a name in /run/netns has no blanks, and is not `.` or `..`");
        }
        if text.len() > NAME_MAX {
            return refuse("a name has at most 255 bytes");
        }
        Ok(Self::Name(text.to_owned()))
    }
}

// Docker and podman: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`; it becomes part of a request to them.
fn is_engine_name(text: &str) -> bool {
    text.len() <= NAME_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_reads_and_prints() {
        for (text, netns) in [
            ("web", NetnsRef::Name("web".into())),
            ("4242", NetnsRef::Name("4242".into())),
            ("/proc/7/ns/net", NetnsRef::Path("/proc/7/ns/net".into())),
            ("pid:4242", NetnsRef::Pid(4242)),
            ("docker:web", NetnsRef::Docker("web".into())),
            ("podman:my_pod-infra.1", NetnsRef::Podman("my_pod-infra.1".into())),
        ] {
            assert_eq!(text.parse(), Ok(netns.clone()), "{text}");
            assert_eq!(netns.to_string(), text);
        }
    }

    #[test]
    fn one_namespace_has_one_key() {
        for text in ["web", "/run/netns/web", "/var/run/netns/web", "/run/netns//web"] {
            assert_eq!(text.parse::<NetnsRef>().unwrap().key(), "web", "{text}");
        }
        assert_eq!("/run/netns/web/x".parse::<NetnsRef>().unwrap().key(), "/run/netns/web/x");
    }

    #[test]
    fn refuses_what_is_no_namespace() {
        for text in [
            "",
            "a\0b",
            "a b",
            ".",
            "..",
            "../web",
            "a/b",
            "pid:",
            "pid:0",
            "pid:-1",
            "pid:+1",
            "pid:4194305",
            "pid:99999999999999",
            "docker:",
            "docker:../x",
            "docker:a b",
            "lxc:web",
            &"n".repeat(256),
            &format!("/{}", "n".repeat(4095)),
        ] {
            assert!(matches!(text.parse::<NetnsRef>(), Err(Problem::Invalid { .. })), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_round_trips_or_is_refused(text in "[a-z:/. \\x00]{0,12}|pid:[0-9+]{1,9}|docker:\\PC{0,9}") {
            if let Ok(netns) = text.parse::<NetnsRef>() {
                prop_assert_eq!(netns.to_string().parse::<NetnsRef>(), Ok(netns));
            }
        }
    }
}
