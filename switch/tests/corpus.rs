//! The parser, the checksums and the segmenter as a whole: what each input must give, laws, and the committed corpus.
//!
//! `BLESS=1 cargo nextest run -p switch --test corpus` writes the corpus anew from `corpus/cases.rs`; files whose names
//! start with `crash-` come from the fuzzer and stay.

// Clippy takes helpers of an integration test for production code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "corpus/cases.rs"]
mod cases;
#[path = "corpus/fields.rs"]
mod fields;
#[path = "corpus/invariants.rs"]
mod invariants;
#[path = "corpus/laws.rs"]
mod laws;
#[path = "corpus/maker.rs"]
mod maker;
#[path = "corpus/offloads.rs"]
mod offloads;
#[path = "corpus/packets.rs"]
mod packets;
#[path = "corpus/replay.rs"]
mod replay;
#[path = "corpus/shapes.rs"]
mod shapes;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::{env, fs};

use switch::vnet::VnetHdr;
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of a committed frame. Larger ones are made by the tests alone; so are those that are dropped, which are a
/// mutation of a good one away.
const COMMITTED_MAX: usize = 4096;

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "corpus", "parse"].iter().collect()
}

#[test]
fn every_case_gives_what_it_must() {
    let mut names = BTreeSet::new();
    for case in cases::all() {
        let result = invariants::check(&case.vnet, &case.frame);
        assert_eq!(result.err(), case.expected, "{}", case.name);
        assert!(names.insert(case.name.clone()), "{} is there twice", case.name);
    }
}

#[test]
fn the_corpus_is_that_of_the_cases() {
    let mut expected = BTreeSet::new();
    for case in cases::all() {
        if case.expected.is_some() || case.frame.len() > COMMITTED_MAX {
            continue;
        }
        let path = folder().join(&case.name);
        let bytes = [case.vnet.as_bytes(), &case.frame].concat();
        if env::var_os("BLESS").is_some() {
            fs::write(&path, &bytes).unwrap();
        }
        assert!(fs::read(&path).is_ok_and(|found| found == bytes), "{}: BLESS=1 writes it", case.name);
        expected.insert(case.name);
    }
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(expected.contains(&name) || name.starts_with("crash-"), "{name} has no case");
    }
}

#[test]
fn the_corpus_is_replayed() {
    let mut accepted = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        if let Ok((vnet, frame)) = VnetHdr::read_from_prefix(&bytes) {
            accepted += usize::from(invariants::check(&vnet, frame).is_ok());
        }
    }
    assert!(accepted > 50, "{accepted}");
}

#[test]
fn wrapping_changes_nothing_that_a_filter_reads() {
    let forwarded = replay::all("shapes", (4000, 200), shapes::check);
    assert!(forwarded > 500, "{forwarded}");
}

#[test]
fn an_offload_header_is_believed_where_it_is_honest() {
    let super_frames = replay::all("offloads", (4000, 200), offloads::check);
    assert!(super_frames > 50, "{super_frames}");
}
