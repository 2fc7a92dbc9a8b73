//! State folders with anything in them. What must hold is in `tests/corpus/states.rs`.

#![no_main]

#[path = "../../../../switch/tests/corpus/maker.rs"]
mod maker;
#[path = "../../tests/corpus/states.rs"]
mod states;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = states::check(bytes);
});
