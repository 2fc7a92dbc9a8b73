//! Names for containers: one `hosts` file for each, with the containers it shares a network with, and one `resolv.conf`,
//! with the name servers on the gateways.
//!
//! `vswitchctl exec` and commands bind them over those in `/etc`. A container without a gateway of ours has no such
//! `resolv.conf`: who else would answer there is not for us to say.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use super::names::name_servers;
use crate::config::{Config, Container};
use crate::keeper::{GENERATED, remove_files};

/// The files, and what was written to them last.
pub struct Hosts {
    folder: PathBuf,
    written: BTreeMap<String, Files>,
}

/// What a container's files say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Files {
    hosts: String,
    resolv_conf: Option<String>,
}

impl Hosts {
    /// Files in the state folder: `containers/NAME/hosts`, where the keeper looks for them.
    pub fn new(state: &Path) -> Self {
        Self { folder: state.join(GENERATED), written: BTreeMap::new() }
    }

    /// Writes what changed, removes files of containers that are gone. A file is rewritten in place: it may be bound
    /// over `/etc/hosts` in a running container, which a rename would not reach.
    pub fn write(&mut self, config: &Config) {
        let wanted: BTreeMap<String, Files> = config
            .containers
            .iter()
            .map(|container| {
                let files =
                    Files { hosts: hosts(config, container), resolv_conf: resolv_conf(config, container) };
                (container.name.clone(), files)
            })
            .collect();
        if wanted == self.written {
            return;
        }
        match self.sync(&wanted) {
            Ok(()) => self.written = wanted,
            Err(error) => {
                tracing::warn!(folder = %self.folder.display(), %error, "names of containers are not up to date");
                // Whatever is there now is written again next time.
                self.written.clear();
            }
        }
    }

    fn sync(&self, wanted: &BTreeMap<String, Files>) -> std::io::Result<()> {
        for (name, files) in wanted {
            if self.written.get(name) != Some(files) {
                let folder = self.folder.join(name);
                fs::create_dir_all(&folder)?;
                fs::write(folder.join("hosts"), &files.hosts)?;
                let resolv_conf = folder.join("resolv.conf");
                match &files.resolv_conf {
                    Some(text) => fs::write(resolv_conf, text)?,
                    None if resolv_conf.exists() => fs::remove_file(resolv_conf)?,
                    None => {}
                }
            }
        }
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| wanted.contains_key(name)) {
                remove_files(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// The `hosts` file of `container`: itself and those on its networks, `NAME` and `NAME.NETWORK`.
fn hosts(config: &Config, container: &Container) -> String {
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

/// The `resolv.conf` of `container`, if there is a gateway of ours to ask. A name of one label is asked for as it is:
/// that is how containers are called.
fn resolv_conf(config: &Config, container: &Container) -> Option<String> {
    const MOST: usize = 3; // what the C library reads
    let servers = name_servers(config, container);
    let mut text =
        String::from("# written by vswitchd: names of containers, and what the host can resolve\n");
    for server in servers.iter().take(MOST) {
        let _ = writeln!(text, "nameserver {server}");
    }
    text.push_str("options ndots:0\n");
    (!servers.is_empty()).then_some(text)
}
