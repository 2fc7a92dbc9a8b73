//! Sequences of frames, time and reloads through a whole worker. What must hold is in `tests/corpus/pipeline.rs`.

#![no_main]

#[path = "../../../../switch/tests/corpus/maker.rs"]
mod maker;
#[path = "../../tests/corpus/pipeline.rs"]
mod pipeline;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = pipeline::check(bytes);
});
