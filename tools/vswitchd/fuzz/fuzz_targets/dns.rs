//! Any bytes as a question to the name server, and as another's answer. What must hold is in
//! `tests/corpus/questions.rs`.
//!
//! ```text
//! cd tools/vswitchd && cargo +nightly fuzz run dns fuzz/corpus/dns tests/corpus/dns -- -max_total_time=60
//! ```

#![no_main]

#[path = "../../tests/corpus/questions.rs"]
mod questions;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = questions::check(bytes);
});
