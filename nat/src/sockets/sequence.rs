//! Where sequence numbers start: nobody can guess it, and a connection that comes back with the same addresses and l4
//! ports starts above where the one before it ended (RFC 9293 section 3.4.1), so that who still waits for its last
//! segments takes the new one (RFC 6191).

use std::hash::{BuildHasher, RandomState};

use switch::flow::FlowKey;
use switch::tick::Tick;

/// The clock steps by 2 to this power in a millisecond: 16 MB/s. The 250 kB/s of the RFC are less than connections carry,
/// and this is still far from coming around within its two maximum segment lifetimes, 4 minutes.
const STEP: u32 = 14;

/// A secret of this process (SipHash, as RFC 6528 section 3 asks for).
pub(super) struct Sequence {
    secret: RandomState,
}

impl Sequence {
    pub fn new() -> Self {
        Self { secret: RandomState::new() }
    }

    /// The first sequence number of a connection that begins now.
    pub fn first(&self, key: &FlowKey, now: Tick) -> u32 {
        let clock = (now.millis() << STEP) as u32;
        clock.wrapping_add(self.secret.hash_one(key) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    #[test]
    fn one_that_comes_back_starts_higher_and_another_somewhere_else() {
        let sequence = Sequence::new();
        let key = |sport| FlowKey {
            zone: 0,
            proto: 6,
            src: Ipv6Addr::LOCALHOST,
            dst: Ipv6Addr::LOCALHOST,
            sport,
            dport: 80,
        };
        for start in [0, 1 << 20, u64::from(u32::MAX)] {
            let mut before = sequence.first(&key(1), Tick::from_millis(start));
            for later in [1, 10, 1000, 60_000] {
                let next = sequence.first(&key(1), Tick::from_millis(start + later));
                assert!((next.wrapping_sub(before) as i32) > 0, "{before} then {next}");
                before = next;
            }
        }
        let now = Tick::from_millis(5);
        let firsts: std::collections::HashSet<u32> =
            (0..1000).map(|port| sequence.first(&key(port), now)).collect();
        assert!(firsts.len() > 995, "{}", firsts.len());
        assert_ne!(
            sequence.first(&key(1), now),
            Sequence::new().first(&key(1), now),
            "each process has its own"
        );
    }
}
