//! Every text that ever mattered, once more: `tests/corpus/config`. What fuzzing finds goes there, one file each.

#[path = "corpus/invariants.rs"]
mod invariants;

use std::path::Path;

/// A name that starts with `ok-` is a valid file, one that starts with `bad-` is not; others may be either.
#[test]
fn the_corpus_is_answered_without_a_panic() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/config");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match invariants::check(&name, &std::fs::read(&path).unwrap()) {
            Ok(_) => assert!(!name.starts_with("bad-"), "{name} is accepted"),
            Err(errors) => assert!(!name.starts_with("ok-"), "{errors}"),
        }
        count += 1;
    }
    assert!(count >= 20, "only {count} files");
}
