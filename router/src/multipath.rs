//! Which of several next hops a packet takes (equal-cost multi-path, RFC 2991 and RFC 2992). Pure.
//!
//! A flow keeps its next hop as long as that is there, so that its packets stay in order. Where one does not answer only
//! its own flows move: they are spread over those that do, and the others stay where they are.

use std::hash::Hasher;
use std::net::Ipv6Addr;

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use switch::flow::{Fragment, Packet};
use switch::policy::Here;

use crate::explain::Step;
use crate::fib::Next;
use crate::route::place;
use crate::tables::Tables;

/// This table's part of the seed; the other part is drawn when the process starts, so that no container can choose its
/// flows to meet, and all workers agree.
const SEED: u64 = 0x6563_6d70;

/// Why it is this next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// By the hash of its flow.
    Flow,
    /// This one, by that hash, was asked for and does not answer.
    Instead(Ipv6Addr),
}

/// The same route by the one next hop that the flow of `packet` takes.
#[inline]
pub fn choose(packet: &Packet, next: Next, here: &Here<'_, Tables>, why: &mut impl FnMut(Step)) -> Next {
    let hops = here.snapshot.tables.hops(&next);
    if hops.is_empty() { next } else { among(hops, packet, next, here, why) }
}

/// Out of line: few routes have several.
#[inline(never)]
fn among(
    hops: &[Ipv6Addr],
    packet: &Packet,
    next: Next,
    here: &Here<'_, Tables>,
    why: &mut impl FnMut(Step),
) -> Next {
    let hash = hash(packet, SharedSeed::global_random());
    let Some(first) = hops.get(region(hash, hops.len())).copied() else { return next };
    let (via, chosen) = match instead(first, hops, hash, next, here) {
        Some(other) => (other, Chosen::Instead(first)),
        None => (first, Chosen::Flow),
    };
    why(Step::Chosen(via, hops.len(), chosen));
    Next { via: Some(via), ..next }
}

/// Another next hop, where the first one does not answer and another one does.
fn instead(
    first: Ipv6Addr,
    hops: &[Ipv6Addr],
    hash: u64,
    next: Next,
    here: &Here<'_, Tables>,
) -> Option<Ipv6Addr> {
    let gateway = here.snapshot.tables.gateway(next.network)?;
    let network = here.snapshot.network(next.network)?;
    // Who was never asked for is: by a packet that waits for the answer.
    if !gateway.neighbors.is_gone(first, here.now) {
        return None;
    }
    let answers = |hop: &&Ipv6Addr| place(gateway, network, **hop, here.now, &mut |_| ()).is_some();
    let others = || hops.iter().filter(answers);
    // The bits that said which one was the first say nothing more.
    others().nth(region(hash.rotate_left(32), others().count())).copied()
}

/// Hash-threshold (RFC 2992 section 2): which of `count` regions of the same size the hash is in.
const fn region(hash: u64, count: usize) -> usize {
    ((hash >> 32).wrapping_mul(count as u64) >> 32) as usize
}

/// What is the same of all packets of a flow. Of a packet in fragments only the first has l4 ports, and all are to take
/// one way (RFC 2991 section 2): of those it is the addresses alone.
///
/// By the hasher that mixes once more at the end: the regions are of the upper bits alone, and with some seeds the fast
/// one leaves these the same for l4 ports that follow each other.
fn hash(packet: &Packet, seed: &SharedSeed) -> u64 {
    let key = &packet.key;
    let mut hasher = FoldHasher::with_seed(SEED, seed);
    hasher.write_u128(key.src.to_bits());
    hasher.write_u128(key.dst.to_bits());
    if packet.meta.fragment == Fragment::No {
        hasher.write_u64(u64::from(key.proto) << 32 | u64::from(key.sport) << 16 | u64::from(key.dport));
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{parse, udp4, udp6};

    #[test]
    fn regions_are_of_one_size_and_all_are_used() {
        for count in 1..=16 {
            let step = u64::MAX / 1600;
            let mut of = vec![0; count];
            (0..1600).for_each(|n| of[region(n * step, count)] += 1);
            assert!(of.iter().all(|&n| usize::abs_diff(n, 1600 / count) <= 1), "{count}: {of:?}");
        }
        assert_eq!((region(u64::MAX, 3), region(0, 3)), (2, 0));
    }

    #[test]
    fn a_flow_is_its_addresses_protocol_and_l4_ports() {
        let packet = parse(&udp4(0, &[], &[]));
        let same = hash(&packet, SharedSeed::global_random());
        let changed = |change: fn(&mut Packet)| {
            let mut other = packet;
            change(&mut other);
            hash(&other, SharedSeed::global_random()) != same
        };
        assert!(changed(|packet| packet.key.src = packet.key.dst));
        assert!(changed(|packet| packet.key.dst = packet.key.src));
        assert!(changed(|packet| packet.key.proto = 6));
        assert!(changed(|packet| packet.key.sport += 1));
        assert!(changed(|packet| packet.key.dport += 1));
        assert!(!changed(|packet| packet.meta.ttl = 3));
        assert_ne!(hash(&parse(&udp6(&[])), SharedSeed::global_random()), same);
    }

    #[test]
    fn ports_in_a_row_are_spread_whatever_the_seed() {
        let mut packet = parse(&udp4(0, &[], &[]));
        for drawn in 0..5000 {
            let seed = SharedSeed::from_u64(drawn);
            let mut of = [0; 3];
            for port in 1000..1300 {
                packet.key.sport = port;
                of[region(hash(&packet, &seed), 3)] += 1;
            }
            assert!(of.iter().all(|share| (50..=150).contains(share)), "seed {drawn}: {of:?}");
        }
    }

    #[test]
    fn all_fragments_of_a_packet_are_one_flow() {
        let mut first = parse(&udp4(0x2000, &[], &[0; 8]));
        assert_eq!(first.meta.fragment, Fragment::First);
        let later = parse(&udp4(0x0002, &[], &[0; 8]));
        assert_eq!(
            (later.meta.fragment, hash(&later, SharedSeed::global_random())),
            (Fragment::Later, hash(&first, SharedSeed::global_random()))
        );
        first.key.src = first.key.dst;
        assert_ne!(hash(&later, SharedSeed::global_random()), hash(&first, SharedSeed::global_random()));
    }
}
