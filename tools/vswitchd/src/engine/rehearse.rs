//! What an engine makes of a configuration and a state folder when it begins, without a worker and without a keeper: for
//! tests and fuzzing of files that anything may have been done to.

use std::path::Path;

use crate::tables::Tables;
use switch::snapshot::Snapshot;

use super::leases::Leases;
use super::made::connect_all;
use super::memory;
use super::objects::Objects;
use super::publish::all_up;
use crate::config::{self, Config, ConfigErrors, Context, Paths};

/// What would run.
pub struct Rehearsal {
    /// The configuration: the file's, with what was made at run time.
    pub config: Config,
    /// What was made at run time and contradicts the file.
    pub left_out: Vec<String>,
    /// What workers would read; `None`: there is no memory for it.
    pub snapshot: Option<Snapshot<Tables>>,
}

/// Reads what `folder` holds beside the configuration `text`, settles it, and writes it back as an engine does.
///
/// # Errors
/// What is wrong with the configuration.
pub fn rehearse(folder: &Path, text: &[u8]) -> Result<Rehearsal, ConfigErrors> {
    let mut objects = Objects::load(folder);
    let mut leases = Leases::load(folder);
    let paths = Paths { control: folder.join("control.sock"), state: folder.to_owned() };
    let mut context = Context { paths, previous: None, memory: Some(&leases.memory) };
    let alone = config::parse_with("rehearsal.toml", text, &context)?;
    let before = memory::before(&alone, &[], &objects);
    context.previous = Some(&before);
    let mut config = config::parse_with("rehearsal.toml", text, &context)?;
    let left_out = connect_all(&mut config, &objects.kept, &leases.memory);
    leases.settle(&config);
    // A full disk undoes nothing.
    let _ = objects.save();
    let snapshot = all_up(&config).ok();
    Ok(Rehearsal { config, left_out, snapshot })
}
