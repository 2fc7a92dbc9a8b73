//! Any bytes between keeper, engine and heir. What must hold is in `tests/corpus/messages.rs`.

#![no_main]

#[path = "../../tests/corpus/messages.rs"]
mod messages;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = messages::check(bytes);
});
