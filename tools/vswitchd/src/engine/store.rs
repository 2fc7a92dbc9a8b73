//! Files of the state folder: JSON with a version, written whole, never lost by a fault.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Largest state file that is read, bytes.
const MAX_BYTES: u64 = 16 << 20;

/// A file of the state folder.
#[derive(Debug, Default)]
pub struct Store {
    path: PathBuf,
    /// What is there could neither be read nor put aside: it is not written over.
    blocked: bool,
}

/// What every version has in common.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Store {
    /// What the file holds; a file that is not there holds the default. One that cannot be read, or was written by a
    /// newer program than `newest`, is put aside, never overwritten: the daemon starts without it and says so.
    pub fn load<T: DeserializeOwned + Default>(folder: &Path, file: &str, newest: u32) -> (Self, T) {
        let path = folder.join(file);
        match read(&path, newest) {
            Ok(content) => (Self { path, blocked: false }, content.unwrap_or_default()),
            Err(error) => {
                let aside = folder.join(format!("{file}.unreadable"));
                let moved = fs::rename(&path, &aside);
                let kept_as = moved.as_ref().map(|()| aside.display().to_string());
                tracing::error!(path = %path.display(), %error, ?kept_as, "what earlier runs left is left out");
                (Self { path, blocked: moved.is_err() }, T::default())
            }
        }
    }

    /// Writes the content: a new file first, then its name, so that a fault leaves the old one.
    ///
    /// # Errors
    /// What the file system said; the file is as it was.
    pub fn save<T: Serialize>(&self, content: &T) -> io::Result<()> {
        if self.blocked {
            return Err(io::Error::other("what is there could not be read and not be put aside"));
        }
        let new = self.path.with_extension("json.new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(content)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}

fn read<T: DeserializeOwned>(path: &Path, newest: u32) -> io::Result<Option<T>> {
    let length = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return Err(io::Error::other("not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > MAX_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_BYTES} bytes")));
    }
    let text = fs::read(path)?;
    let Version { version } = serde_json::from_slice(&text)?;
    if version > newest {
        return Err(io::Error::other(format!("written by a newer vswitchd (format {version})")));
    }
    Ok(Some(serde_json::from_slice(&text)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Content {
        version: u32,
        names: Vec<String>,
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("vswitch-store-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn load(folder: &Path) -> (Store, Content) {
        Store::load(folder, "some.json", 1)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = folder("saved");
        let (store, content) = load(&folder);
        assert_eq!(content, Content::default());
        let content = Content { version: 1, names: vec!["a".into()] };
        store.save(&content).unwrap();
        assert_eq!(load(&folder).1, content);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_cannot_be_read_is_put_aside() {
        for (name, content) in [
            ("cut", &b"{\"version\":1,\"nam"[..]),
            ("newer", b"{\"version\":9,\"names\":[]}"),
            ("foreign", b"{\"version\":1,\"names\":[],\"more\":1}"),
            ("noise", b"\xff\xfe"),
        ] {
            let folder = folder(name);
            fs::write(folder.join("some.json"), content).unwrap();
            let (store, loaded) = load(&folder);
            assert_eq!(loaded, Content::default());
            assert_eq!(fs::read(folder.join("some.json.unreadable")).unwrap(), content);
            store.save(&loaded).unwrap();
            assert_eq!(fs::read(folder.join("some.json.unreadable")).unwrap(), content);
            fs::remove_dir_all(folder).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_put_aside_is_not_written_over() {
        let folder = folder("blocked");
        fs::write(folder.join("some.json"), b"noise").unwrap();
        fs::create_dir_all(folder.join("some.json.unreadable/full")).unwrap();
        let (store, loaded) = load(&folder);
        store.save(&loaded).unwrap_err();
        assert_eq!(fs::read(folder.join("some.json")).unwrap(), b"noise");
        fs::remove_dir_all(folder).unwrap();
    }
}
