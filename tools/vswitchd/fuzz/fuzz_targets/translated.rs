//! Sequences through a worker that translates. What must hold is in `tests/corpus/translated.rs`.

#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../../../switch/tests/corpus/maker.rs"]
mod maker;
#[path = "../../tests/corpus/translated.rs"]
mod translated;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = translated::check(bytes);
});
