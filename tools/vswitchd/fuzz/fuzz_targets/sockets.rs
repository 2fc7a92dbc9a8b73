//! A hostile container before real sockets on the loopback. What must hold is in `nat/tests/corpus/hostile.rs`.

#![no_main]

#[path = "../../../../nat/tests/corpus/hostile.rs"]
mod hostile;
#[path = "../../../../switch/tests/corpus/maker.rs"]
mod maker;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = hostile::check(bytes);
});
