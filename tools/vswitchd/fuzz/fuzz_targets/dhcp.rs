//! Any bytes as a packet and as a message for the DHCP service: refused, or a request of somebody.
//!
//! ```text
//! cd tools/vswitchd && cargo +nightly fuzz run dhcp -- -max_total_time=60
//! ```

#![no_main]

use libfuzzer_sys::fuzz_target;
use vswitchd::dhcp::{Request, payload};

fuzz_target!(|bytes: &[u8]| {
    let _ = payload(bytes);
    if let Ok(request) = Request::parse(bytes) {
        assert!(!request.mac.is_group());
        assert!(request.client_id.is_none_or(|id| (2..=255).contains(&id.len())));
    }
});
