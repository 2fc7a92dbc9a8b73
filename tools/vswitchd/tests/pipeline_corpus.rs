//! Sequences through a whole worker that fuzzing found worth keeping, and some that are made. What must hold is in
//! `corpus/pipeline.rs`.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../../../switch/tests/corpus/maker.rs"]
mod maker;
#[path = "corpus/pipeline.rs"]
mod pipeline;
#[path = "../../../switch/tests/corpus/replay.rs"]
mod replay;

#[test]
fn no_sequence_leaks_or_ends_in_a_spin() {
    let (mut delivered, mut routed, mut answers) = (0, 0, 0);
    replay::all("pipeline", (600, 2000), |input| {
        let came = pipeline::check(input);
        (delivered, routed, answers) =
            (delivered + came.delivered, routed + came.routed, answers + came.answers);
        true
    });
    assert!(delivered > 1000 && routed > 100 && answers > 10, "{delivered} came out, {routed}, {answers}");
}
