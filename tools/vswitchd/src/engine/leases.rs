//! The memory of addresses, in the state folder.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::control::Control;
use super::store::Store;
use crate::api::rows::AddressStats;
use crate::config::{Config, Network};
use crate::ipam::Memory;

/// The version this program writes, and the newest it reads.
const VERSION: u32 = 1;

/// Who has and had which address, and the file that says so.
#[derive(Debug, Default)]
pub struct Leases {
    /// It.
    pub memory: Memory,
    store: Store,
    /// The file says something else.
    unsaved: bool,
    /// It could not be written, and that was said.
    failing: bool,
}

/// The file's content.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    networks: Memory,
}

impl Leases {
    /// What `folder` holds.
    pub fn load(folder: &Path) -> Self {
        let (store, Content { networks: memory, .. }) = Store::load(folder, "leases.json", VERSION);
        Self { memory, store, unsaved: false, failing: false }
    }

    /// Takes down what is wanted now.
    pub fn settle(&mut self, desired: &Config) {
        self.unsaved |= self.memory.settle(desired);
        self.save();
    }

    /// Something changed that has to be written down, within a second.
    pub fn changed(&mut self, changed: bool) {
        self.unsaved |= changed;
    }

    /// Writes what is not written yet. A full disk undoes nothing: it is said once, and tried again.
    pub fn save(&mut self) {
        if !self.unsaved {
            return;
        }
        let content = Content { version: VERSION, networks: std::mem::take(&mut self.memory) };
        let saved = self.store.save(&content);
        self.memory = content.networks;
        self.unsaved = saved.is_err();
        match saved {
            Ok(()) => self.failing = false,
            Err(_) if self.failing => {}
            Err(error) => {
                self.failing = true;
                tracing::error!(%error, "who has which address is not saved: a restart may change addresses");
            }
        }
    }
}

impl Control {
    /// The IPv4 addresses of a network in numbers.
    pub(super) fn address_stats(&self, network: &Network) -> Option<AddressStats> {
        let room = self.desired.room(network)?;
        let used = self.desired.interfaces().filter(|(_, i)| i.network == network.name && i.ip.is_some());
        let used = used.count().saturating_add(self.leases.memory.leases(&network.name).count()) as u64;
        Some(AddressStats {
            room,
            used,
            free: room.saturating_sub(used),
            resting: self.leases.memory.resting(&network.name) as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::parse;

    const LAB: &str = "[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\n\
        [[container]]\nname = \"a\"\n[[container.interface]]\nnetwork = \"blue\"\n";

    #[test]
    fn a_restart_knows_what_was_settled_and_a_full_disk_is_tried_again() {
        let folder = std::env::temp_dir().join(format!("vswitch-leases-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let lab = parse("lab.toml", LAB.as_bytes()).unwrap();
        let mut leases = Leases::load(&folder);
        leases.settle(&lab);
        let mut again = Leases::load(&folder);
        assert_eq!(again.memory, leases.memory);
        assert_eq!(again.memory.had("blue", "a", "eth0"), ["10.1.0.2".parse::<std::net::IpAddr>().unwrap()]);

        // A folder where the new file is to be: nothing can be written, nothing is lost.
        fs::create_dir(folder.join("leases.json.new")).unwrap();
        again.settle(&parse("lab.toml", b"").unwrap());
        assert!(again.unsaved && again.failing);
        assert_eq!(Leases::load(&folder).memory, leases.memory);
        fs::remove_dir(folder.join("leases.json.new")).unwrap();
        again.save();
        assert!(!again.unsaved && !again.failing);
        assert_eq!(Leases::load(&folder).memory, again.memory);
        fs::remove_dir_all(folder).unwrap();
    }
}
