//! What may come back: a network that may not open connections to another one still answers those of the other.
//!
//! An entry is the key of the packets that are expected, refreshed by each packet of the way that may be opened. It
//! is not connection tracking: it knows no TCP states.

use switch::flow::FlowKey;
use switch::parse::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP};
use switch::port::PortId;
use switch::table::{New, Outcome, Table, TableError};
use switch::tick::Tick;

/// Ports whose entries are counted apart; all there are.
const PORTS: usize = 1 << 16;
/// Seconds without a packet after which an answer is not let in any more: RFC 5382 section 5 asks for 2 h 4 min.
const TCP: u32 = 7440;
/// RFC 4787 section 4.3 asks for at least 2 min and recommends 5.
const OTHERS: u32 = 300;
/// RFC 8200 section 4.5: who puts a packet together waits 60 s for the rest of it.
const REST: u32 = 60;
/// In the last word of a key: that of the rest of a packet, and not of a flow.
const IS_REST: u64 = 1 << 40;

/// Packets that are expected.
///
/// # Threads
/// As [`Table`]: everything takes `&self`, nothing blocks.
pub struct Returns {
    table: Table<5, 0>,
}

impl Returns {
    /// Room for `capacity` flows.
    ///
    /// # Errors
    /// Those of [`Table::new`].
    pub fn new(capacity: usize) -> Result<Self, TableError> {
        Ok(Self { table: Table::new(capacity, PORTS)? })
    }

    /// A packet with `key` went out by the way that may be opened, from `port`. False: there is no room to remember it.
    pub fn expect(&self, key: &FlowKey, port: PortId, now: Tick) -> bool {
        self.put(words(&reversed(key)), port, now)
    }

    /// The first fragment of the packet `id` with `key` was let through, from `port`: the rest of it may follow. False: as
    /// above.
    pub fn expect_rest(&self, key: &FlowKey, id: u32, port: PortId, now: Tick) -> bool {
        self.put(rest(key, id), port, now)
    }

    fn put(&self, key: [u64; 5], port: PortId, now: Tick) -> bool {
        if let Some(record) = self.table.lookup(&key) {
            self.table.touch(&record, now.secs_up());
            return true;
        }
        let new = New { key, value: [], owner: port.0, pinned: false, seen: now.secs_up() };
        matches!(self.table.insert(&new).outcome, Outcome::New(_) | Outcome::Existing(_))
    }

    /// Whether a packet with `key` answers one that went out.
    #[inline]
    pub fn is_expected(&self, key: &FlowKey, now: Tick) -> bool {
        self.has(&words(&normal(key)), now)
    }

    /// Whether a later fragment belongs to a packet whose first one was let through (RFC 1858: it has no l4 ports to be
    /// judged by, and whoever listens to raw packets reads it without the first).
    pub fn is_expected_rest(&self, key: &FlowKey, id: u32, now: Tick) -> bool {
        self.has(&rest(key, id), now)
    }

    #[inline]
    fn has(&self, key: &[u64; 5], now: Tick) -> bool {
        self.table.lookup(key).is_some_and(|record| now.secs().saturating_sub(record.seen) < limit(key))
    }

    /// Whether an ICMP error quotes a packet that went out.
    pub fn is_expected_error(&self, quoted: &FlowKey, now: Tick) -> bool {
        self.is_expected(&reversed(quoted), now)
    }

    /// Forgets what was not used for a long time.
    pub fn age(&self, now: Tick) -> usize {
        self.table.retain(|record| now.secs().saturating_sub(record.seen) < limit(&record.key))
    }

    /// Forgets what was opened by `port`.
    pub fn flush(&self, port: PortId) -> usize {
        self.table.retain(|record| record.owner != port.0)
    }
}

/// ICMP queries: type and code differ between request and reply, the identifier is the same.
const fn is_icmp(key: &FlowKey) -> bool {
    key.proto == PROTO_ICMP || key.proto == PROTO_ICMPV6
}

/// The key as it is kept.
fn normal(key: &FlowKey) -> FlowKey {
    let dport = if is_icmp(key) { 0 } else { key.dport };
    FlowKey { dport, ..*key }
}

/// The key of the answer.
fn reversed(key: &FlowKey) -> FlowKey {
    let (sport, dport) = if is_icmp(key) { (key.sport, 0) } else { (key.dport, key.sport) };
    FlowKey { src: key.dst, dst: key.src, sport, dport, ..*key }
}

/// Seconds that an entry counts.
const fn limit(&[.., last]: &[u64; 5]) -> u32 {
    match last >> 32 & 0xff {
        _ if last & IS_REST != 0 => REST,
        proto if proto == PROTO_TCP as u64 => TCP,
        _ => OTHERS,
    }
}

/// The key of what follows the first fragment of a packet. Its protocol is left out: behind extension headers the first
/// says another one than the rest (RFC 8200 section 4.5).
fn rest(key: &FlowKey, id: u32) -> [u64; 5] {
    let [src0, src1, dst0, dst1, _] = words(key);
    [src0, src1, dst0, dst1, u64::from(key.zone) << 48 | IS_REST | u64::from(id)]
}

fn words(key: &FlowKey) -> [u64; 5] {
    let (src, dst) = (u128::from(key.src), u128::from(key.dst));
    let rest = u64::from(key.zone) << 48
        | u64::from(key.proto) << 32
        | u64::from(key.sport) << 16
        | u64::from(key.dport);
    [(src >> 64) as u64, src as u64, (dst >> 64) as u64, dst as u64, rest]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    fn key(proto: u8, sport: u16, dport: u16) -> FlowKey {
        let at = |n| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n);
        FlowKey { zone: 7, proto, src: at(1), dst: at(2), sport, dport }
    }

    fn back(key: &FlowKey) -> FlowKey {
        FlowKey { src: key.dst, dst: key.src, sport: key.dport, dport: key.sport, ..*key }
    }

    #[test]
    fn only_the_answer_is_expected_and_not_for_ever() {
        let returns = Returns::new(64).unwrap();
        for (proto, limit) in [(6, TCP), (17, OTHERS)] {
            let out = key(proto, 1000, 80);
            let at = |secs| Tick::from_secs(secs);
            assert!(!returns.is_expected(&back(&out), at(10)));
            assert!(returns.expect(&out, PortId(1), at(10)));
            assert!(returns.is_expected(&back(&out), at(10 + limit - 1)));
            assert!(!returns.is_expected(&back(&out), at(10 + limit)));
            assert!(!returns.is_expected(&out, at(10)), "the same way is no answer");
            assert!(!returns.is_expected(&FlowKey { dport: 1001, ..back(&out) }, at(10)));
        }
    }

    #[test]
    fn an_echo_reply_has_another_type_and_the_same_identifier() {
        let returns = Returns::new(64).unwrap();
        let now = Tick::from_secs(1);
        let request = key(1, 77, 8 << 8);
        assert!(returns.expect(&request, PortId(1), now));
        let reply = FlowKey { src: request.dst, dst: request.src, dport: 0, ..request };
        assert!(returns.is_expected(&reply, now));
        assert!(!returns.is_expected(&FlowKey { sport: 78, ..reply }, now));
        assert!(!returns.is_expected(&FlowKey { zone: 8, ..reply }, now), "another address plan");
        assert!(returns.is_expected_error(&request, now));
        assert!(!returns.is_expected_error(&reply, now));
    }

    #[test]
    fn the_rest_of_a_packet_follows_its_first_fragment() {
        let returns = Returns::new(64).unwrap();
        let at = |secs| Tick::from_secs(secs);
        let (first, rest) = (key(17, 1000, 80), key(17, 0, 0));
        assert!(!returns.is_expected_rest(&rest, 5, at(10)));
        assert!(returns.expect_rest(&first, 5, PortId(1), at(10)));
        assert!(returns.is_expected_rest(&rest, 5, at(69)));
        assert!(!returns.is_expected_rest(&rest, 6, at(10)), "another packet");
        assert!(!returns.is_expected_rest(&back(&rest), 5, at(10)), "the other way");
        assert!(!returns.is_expected_rest(&FlowKey { zone: 8, ..rest }, 5, at(10)), "another address plan");
        assert!(!returns.is_expected(&back(&first), at(10)), "nothing was opened by it");
        assert!(!returns.is_expected_rest(&rest, 5, at(70)));
        assert_eq!(returns.age(at(70)), 1);
    }

    #[test]
    fn a_port_that_opens_for_ever_pushes_out_its_own() {
        let returns = Returns::new(256).unwrap();
        let first = key(17, 1, 53);
        assert!(returns.expect(&first, PortId(1), Tick::from_secs(1)));
        for n in 0..60_000u32 {
            let many = FlowKey { src: Ipv6Addr::from(u128::from(n)), ..key(17, 1, 53) };
            returns.expect(&many, PortId(2), Tick::from_secs(2));
        }
        assert!(returns.is_expected(&back(&first), Tick::from_secs(2)));
    }
}
