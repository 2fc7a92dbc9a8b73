//! What a hostile container does to the sockets, as fuzzing found it, and some that is made. What must hold is in
//! `corpus/hostile.rs`.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "corpus/hostile.rs"]
mod hostile;
#[path = "../../switch/tests/corpus/maker.rs"]
mod maker;
#[path = "../../switch/tests/corpus/replay.rs"]
mod replay;

#[test]
fn a_hostile_container_gets_sound_frames_and_leaves_nothing() {
    let mut sent = 0;
    replay::all("sockets", (300, 600), |input| {
        sent += hostile::check(input);
        true
    });
    assert!(sent > 300, "only {sent} frames came out");
}
