//! Reading a configuration file without being led astray: no file is too large, endless or missing to say so.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The longest configuration that is looked at, in bytes: 1 MiB, some 4000 containers.
pub const MAX_BYTES: usize = 1 << 20;

/// Why a file was not read. One line, with the kernel's words where it spoke.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It could not be opened.
    #[error("{}: error: cannot open: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It could be opened, but not read: a folder, a broken disk.
    #[error("{}: error: cannot read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is longer than [`MAX_BYTES`].
    #[error("{}: error: larger than {MAX_BYTES} bytes: not a configuration", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a file of at most [`MAX_BYTES`]; a pipe (`/dev/stdin`, `<(...)`) will do as well.
///
/// # Errors
/// [`ReadError`]. A file whose size is too large is refused before its first byte is read, and one that lies about
/// its size (a device, a pipe) after [`MAX_BYTES`] plus one.
///
/// # Syscalls
/// `open`, `fstat`, `read`.
pub fn read(path: &Path) -> Result<Vec<u8>, ReadError> {
    let file = File::open(path).map_err(|source| ReadError::Open { path: path.into(), source })?;
    let failed = |source| ReadError::Read { path: path.into(), source };
    let too_large = || ReadError::TooLarge { path: path.into() };
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_file() && metadata.len() > MAX_BYTES as u64 {
        return Err(too_large());
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() > MAX_BYTES { Err(too_large()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_file_in_the_kernels_words() {
        let missing = read(Path::new("/nonexistent/lab.toml")).unwrap_err().to_string();
        let line = "/nonexistent/lab.toml: error: cannot open: No such file or directory (os error 2)";
        assert_eq!(missing, line);
        let folder = read(Path::new("/")).unwrap_err().to_string();
        assert_eq!(folder, "/: error: cannot read: Is a directory (os error 21)");
        let endless = read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(endless, "/dev/zero: error: larger than 1048576 bytes: not a configuration");
    }

    #[test]
    fn a_file_too_large_is_refused_and_one_that_just_fits_is_not() {
        let path = std::env::temp_dir().join(format!("vswitch-read-{}.toml", std::process::id()));
        let file = File::create(&path).unwrap();
        file.set_len(100 << 20).unwrap();
        assert!(matches!(read(&path), Err(ReadError::TooLarge { .. })));
        file.set_len(MAX_BYTES as u64).unwrap();
        assert_eq!(read(&path).unwrap().len(), MAX_BYTES);
        std::fs::remove_file(&path).unwrap();
    }
}
