//! Frames behind virtio headers that say anything. What must hold is in `tests/corpus/offloads.rs`.

#![no_main]

#[path = "../../tests/corpus/invariants.rs"]
mod invariants;
#[path = "../../tests/corpus/maker.rs"]
mod maker;
#[path = "../../tests/corpus/offloads.rs"]
mod offloads;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = offloads::check(bytes);
});
