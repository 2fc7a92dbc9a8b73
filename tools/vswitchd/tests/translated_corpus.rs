//! Sequences through a worker that translates: those that fuzzing found worth keeping, and some that are made. What must
//! hold is in `corpus/translated.rs`.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../../switch/tests/corpus/maker.rs"]
mod maker;
#[path = "../../../switch/tests/corpus/replay.rs"]
mod replay;
#[path = "corpus/translated.rs"]
mod translated;

#[test]
fn nothing_comes_in_that_nobody_asked_for() {
    let (mut out, mut inside, mut hairpins) = (0, 0, 0);
    replay::all("translated", (2000, 2000), |input| {
        let came = translated::check(input);
        (out, inside, hairpins) = (out + came.out, inside + came.inside, hairpins + came.hairpins);
        true
    });
    eprintln!("{out} out, {inside} in, {hairpins} to and fro");
    assert!(out > 1000 && inside > 100 && hairpins > 100, "{out} came out, {inside}, {hairpins}");
}
