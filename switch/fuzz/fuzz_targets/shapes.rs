//! Frames whose parts are known. What must hold is in `tests/corpus/shapes.rs`.

#![no_main]

#[path = "../../tests/corpus/invariants.rs"]
mod invariants;
#[path = "../../tests/corpus/maker.rs"]
mod maker;
#[path = "../../tests/corpus/shapes.rs"]
mod shapes;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = shapes::check(bytes);
});
