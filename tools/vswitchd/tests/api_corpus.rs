//! Requests to the control API that fuzzing starts from, and those it found: `tests/corpus/api`, one file each.

#[path = "corpus/requests.rs"]
mod requests;

use std::path::Path;

/// A name that starts with `ok-` reaches the control plane, one that starts with `bad-` does not.
#[test]
fn the_corpus_is_answered_without_a_panic() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/api");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let asked = requests::check(&std::fs::read(&path).unwrap());
        assert!(asked.is_some() || !name.starts_with("ok-"), "{name} is refused");
        assert!(asked.is_none() || !name.starts_with("bad-"), "{name} is accepted");
        count += 1;
    }
    assert!(count >= 10, "only {count} files");
}
