//! Other names of containers: what they may be, and whose they are.

use std::collections::HashMap;

use super::problem::{Owner, Problem};

/// Checks one of `aliases`: a host name (RFC 1123 section 2.1), or one with `_`, of one label or more.
pub(super) fn alias(text: &str) -> Result<String, Problem> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
    };
    if text.len() <= 253 && text.split('.').all(label) {
        return Ok(text.to_owned());
    }
    let why = "a name is labels with dots between them, each 1 to 63 letters, digits, `_` and `-`";
    Err(Problem::invalid("aliases", text, why))
}

/// Which name in a network is whose. Upper and lower case are the same in names (RFC 4343).
#[derive(Debug, Default)]
pub(super) struct Taken(HashMap<String, Owner>);

impl Taken {
    /// A container's own name. Two that differ in case alone share it.
    pub fn own(&mut self, name: &str, owner: Owner) {
        self.0.entry(name.to_ascii_lowercase()).or_insert(owner);
    }

    /// Gives another name in `network` to its owner.
    pub fn alias(&mut self, network: &str, name: &str, owner: Owner) -> Result<(), Problem> {
        let key = name.to_ascii_lowercase();
        if let Some(owner) = self.0.get(&key).cloned() {
            return Err(Problem::AliasTaken { name: name.to_owned(), network: network.to_owned(), owner });
        }
        self.0.insert(key, owner);
        Ok(())
    }
}
