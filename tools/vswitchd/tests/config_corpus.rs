//! Every text that ever mattered, once more: `tests/corpus/config`. What fuzzing finds goes there, one file each.

use std::path::Path;

use vswitchd::config::{Context, Paths, parse_with};

/// A name that starts with `ok-` is a valid file, one that starts with `bad-` is not; others may be either.
#[test]
fn the_corpus_is_answered_without_a_panic() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/config");
    let paths = Paths { control: "/test/control.sock".into(), state: "/test/state".into() };
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read(&path).unwrap();
        let fresh = Context { paths: paths.clone(), previous: None };
        let result = parse_with(&name, &text, &fresh);
        match &result {
            Ok(config) => {
                assert!(!name.starts_with("bad-"), "{name} is accepted");
                let again = Context { paths: paths.clone(), previous: Some(config) };
                assert_eq!(parse_with(&name, &text, &again).as_ref(), Ok(config), "{name}");
            }
            Err(errors) => {
                assert!(!name.starts_with("ok-"), "{errors}");
                assert!(errors.to_string().starts_with(&format!("{name}:")));
            }
        }
        count += 1;
    }
    assert!(count >= 20, "only {count} files");
}
