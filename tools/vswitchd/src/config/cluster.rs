//! `[cluster]`: where hosts keep what they must agree on.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// `[cluster]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// Where etcd is found, `http://` or `https://`, host and l4 port; each once, at least one.
    pub etcd: Vec<String>,
    /// What all keys begin with: starts with `/`, does not end with it.
    pub prefix: String,
    /// Whose certificates of etcd are believed, PEM. Without: none is.
    #[serde(serialize_with = "as_path", skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Our certificate, PEM; with `key`.
    #[serde(serialize_with = "as_path", skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// The private key of `cert`, PEM.
    #[serde(serialize_with = "as_path", skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Who we are to etcd; with `password_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The file with the password of `user` on its first line. It is read at each connection, and never shown.
    #[serde(serialize_with = "as_path", skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Seconds until a host that says nothing any more is gone.
    pub ttl: u32,
    /// What this host is called in the cluster; without: its host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Cluster {
    /// All defaults, with etcd at these places.
    pub fn new(etcd: Vec<String>) -> Self {
        Self {
            etcd,
            prefix: "/vswitch".into(),
            ca: None,
            cert: None,
            key: None,
            user: None,
            password_file: None,
            ttl: 10,
            name: None,
        }
    }
}

fn as_path<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path.as_deref().map(Path::display) {
        Some(path) => serializer.collect_str(&path),
        None => serializer.serialize_none(),
    }
}
