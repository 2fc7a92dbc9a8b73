//! Inputs of a fuzz target as a test: those that are kept, and some that are made anew each time in the same way.

#![allow(clippy::unwrap_used)]

use std::path::Path;

/// Runs `check` over the files of `tests/corpus/NAME` and over `made` inputs of noise, up to `longest`
/// bytes each; how often it said yes.
pub fn all(name: &str, (made, longest): (u64, u64), mut check: impl FnMut(&[u8]) -> bool) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let mut yes = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        yes += usize::from(check(&std::fs::read(entry.unwrap().path()).unwrap()));
    }
    yes + (0..made).filter(|seed| check(&noise(*seed, longest))).count()
}

/// Bytes that are the same for the same seed (splitmix64).
pub fn noise(seed: u64, longest: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let words = 1 + next() % (longest / 8);
    (0..words).flat_map(|_| next().to_le_bytes()).collect()
}
