//! Any bytes as a configuration file. What must hold of every result is in `tests/corpus/invariants.rs`.
//!
//! ```text
//! cd tools/vswitchd
//! cargo +nightly fuzz run config fuzz/corpus/config tests/corpus/config -- -dict=fuzz/config.dict -max_total_time=60
//! ```
//! (the first folder takes what is found, the second is only read).

#![no_main]

#[path = "../../tests/corpus/invariants.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = invariants::check("fuzz.toml", bytes);
});
