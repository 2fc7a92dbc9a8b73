//! Any bytes as a request to the control API. What must hold of every answer is in `tests/corpus/requests.rs`.
//!
//! ```text
//! cd tools/vswitchd && cargo +nightly fuzz run api fuzz/corpus/api tests/corpus/api -- -max_total_time=60
//! ```

#![no_main]

#[path = "../../tests/corpus/requests.rs"]
mod requests;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = requests::check(bytes);
});
