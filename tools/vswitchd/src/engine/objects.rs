//! Objects made through the API: kept in the state folder until they are removed, whatever the file says.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::store::Store;
use crate::api::{Connect, FdbAdd, NetworkCreate, Publishing};

/// What was made at run time, in the order in which it was made.
#[derive(Debug, Default)]
pub struct Objects {
    /// The objects.
    pub kept: Kept,
    store: Store,
}

/// The file's content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Version of this format.
    pub version: u32,
    /// Networks.
    pub networks: Vec<NetworkCreate>,
    /// Interfaces, with what they were given.
    pub interfaces: Vec<Connected>,
    /// Static FDB entries.
    pub fdb: Vec<FdbAdd>,
    /// Published l4 ports, with the interface they were given to.
    #[serde(default)]
    pub published: Vec<Publishing>,
}

/// One interface that was made at run time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connected {
    /// The network.
    pub network: String,
    /// The interface; name, address and MAC filled in, so that it is the same one after a restart.
    pub interface: Connect,
    /// Its addresses were left open: it may have others, where another host of the cluster has these.
    #[serde(default)]
    pub open: bool,
}

/// The version this program writes, and the newest it reads.
const VERSION: u32 = 2;

impl Objects {
    /// What `folder` holds.
    pub fn load(folder: &Path) -> Self {
        let (store, kept) = Store::load(folder, "objects.json", VERSION);
        Self { kept, store }
    }

    /// Writes what there is.
    ///
    /// # Errors
    /// What the file system said; what is in memory stays, and what was on the disk.
    pub fn save(&mut self) -> io::Result<()> {
        self.kept.version = VERSION;
        self.store.save(&self.kept)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("vswitch-objects-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = folder("saved");
        let mut objects = Objects::load(&folder);
        assert_eq!(objects.kept, Kept::default());
        objects.kept.networks.push(NetworkCreate { name: "red".into(), ..NetworkCreate::default() });
        objects.save().unwrap();
        assert_eq!(Objects::load(&folder).kept, objects.kept);
        fs::remove_dir_all(folder).unwrap();
    }
}
