//! Names for containers: one `hosts` file for each, with the containers it shares a network with.
//!
//! `vswitchctl exec` and commands bind it over `/etc/hosts`; until a name server stands on the gateway this is how
//! `ping b` works.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{Config, Container};
use crate::keeper::GENERATED;

/// The files, and what was written to them last.
pub struct Hosts {
    folder: PathBuf,
    written: BTreeMap<String, String>,
}

impl Hosts {
    /// Files in the state folder: `containers/NAME/hosts`, where the keeper looks for them.
    pub fn new(state: &Path) -> Self {
        Self { folder: state.join(GENERATED), written: BTreeMap::new() }
    }

    /// Writes what changed, removes files of containers that are gone. A file is rewritten in place: it may be bound
    /// over `/etc/hosts` in a running container, which a rename would not reach.
    pub fn write(&mut self, config: &Config) {
        let wanted: BTreeMap<String, String> = config
            .containers
            .iter()
            .map(|container| (container.name.clone(), text(config, container)))
            .collect();
        if wanted == self.written {
            return;
        }
        if let Err(error) = self.sync(&wanted) {
            tracing::warn!(folder = %self.folder.display(), %error, "names of containers are not up to date");
        }
        self.written = wanted;
    }

    fn sync(&self, wanted: &BTreeMap<String, String>) -> std::io::Result<()> {
        for (name, text) in wanted {
            if self.written.get(name) != Some(text) {
                let folder = self.folder.join(name);
                fs::create_dir_all(&folder)?;
                fs::write(folder.join("hosts"), text)?;
            }
        }
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| wanted.contains_key(name)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// The `hosts` file of `container`: itself and those on its networks, `NAME` and `NAME.NETWORK`.
fn text(config: &Config, container: &Container) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for mine in &container.interfaces {
        for (other, interface) in config.interfaces().filter(|(_, other)| other.network == mine.network) {
            for ip in interface.ips() {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{}\t{} {}.{}", ip.addr(), other.name, other.name, interface.network);
            }
        }
    }
    text
}
