//! Objects made through the API: kept in the state folder until they are removed, whatever the file says.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::api::{Connect, FdbAdd, NetworkCreate, Publishing};

/// Largest state file that is read, bytes.
const MAX_BYTES: u64 = 16 << 20;

/// What was made at run time, in the order in which it was made.
#[derive(Debug, Default)]
pub struct Objects {
    /// The objects.
    pub kept: Kept,
    path: PathBuf,
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
}

/// The version this program writes, and the newest it reads.
const VERSION: u32 = 1;

impl Objects {
    /// What `folder` holds. A file that cannot be read is put aside, never overwritten: the daemon starts without it
    /// and says so.
    pub fn load(folder: &Path) -> Self {
        let path = folder.join("objects.json");
        let kept = match read(&path) {
            Ok(Some(kept)) => kept,
            Ok(None) => Kept::default(),
            Err(error) => {
                let aside = folder.join("objects.json.unreadable");
                let kept_as = fs::rename(&path, &aside).map(|()| aside.display().to_string());
                tracing::error!(path = %path.display(), %error, ?kept_as, "objects of earlier runs are left out");
                Kept::default()
            }
        };
        Self { kept, path }
    }

    /// Writes what there is: a new file first, then its name, so that a fault leaves the old one.
    ///
    /// # Errors
    /// What the file system said; what is in memory stays.
    pub fn save(&mut self) -> io::Result<()> {
        self.kept.version = VERSION;
        let new = self.path.with_extension("json.new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(&self.kept)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}

fn read(path: &Path) -> io::Result<Option<Kept>> {
    let length = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return Err(io::Error::other("not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > MAX_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_BYTES} bytes")));
    }
    let kept: Kept = serde_json::from_slice(&fs::read(path)?)?;
    if kept.version > VERSION {
        return Err(io::Error::other(format!("written by a newer vswitchd (format {})", kept.version)));
    }
    Ok(Some(kept))
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn what_cannot_be_read_is_put_aside() {
        for (name, content) in [
            ("cut", &b"{\"version\":1,\"netw"[..]),
            ("newer", b"{\"version\":9,\"networks\":[],\"interfaces\":[],\"fdb\":[]}"),
        ] {
            let folder = folder(name);
            fs::write(folder.join("objects.json"), content).unwrap();
            assert_eq!(Objects::load(&folder).kept, Kept::default());
            assert_eq!(fs::read(folder.join("objects.json.unreadable")).unwrap(), content);
            fs::remove_dir_all(folder).unwrap();
        }
    }
}
