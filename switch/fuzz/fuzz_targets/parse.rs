//! Any bytes: ten of virtio header, then a frame. What must hold of every parse is in `tests/corpus/invariants.rs`.
//!
//! ```text
//! cd switch && cargo +nightly fuzz run parse fuzz/corpus/parse tests/corpus/parse -- -max_total_time=60
//! ```
//! (the first folder takes what is found, the second is only read).

#![no_main]

#[path = "../../tests/corpus/invariants.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;
use switch::vnet::VnetHdr;
use zerocopy::FromBytes;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((vnet, frame)) = VnetHdr::read_from_prefix(bytes) {
        let _ = invariants::check(&vnet, frame);
    }
});
