//! What is configured: our addresses outside, what is published there, and how translation behaves.

use std::net::Ipv6Addr;
use std::ops::Range;

use switch::port::PortId;

use super::types::{EndPoint, Filtering, Inside, Timeouts};

/// Addresses outside, at most.
pub const MAX_EXTERNAL: usize = 16;

/// One entry of `publish`: a range of l4 ports of one of our addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// TCP, UDP or SCTP.
    pub proto: u8,
    /// Our address.
    pub external: Ipv6Addr,
    /// The first l4 port.
    pub first: u16,
    /// How many.
    pub count: u16,
    /// The container's end point for the first of them.
    pub inside: Inside,
    /// The container's port.
    pub owner: PortId,
}

impl Rule {
    fn ports(&self) -> Range<u32> {
        let first = u32::from(self.first);
        first..first.saturating_add(u32::from(self.count))
    }

    /// The container's end point for an l4 port of ours.
    fn inside(&self, port: u16) -> Option<Inside> {
        let step = self.ports().contains(&u32::from(port)).then(|| port.wrapping_sub(self.first))?;
        let end = EndPoint { port: self.inside.end.port.checked_add(step)?, ..self.inside.end };
        Some(Inside { end, ..self.inside })
    }

    /// The other way round.
    fn external(&self, inside: &Inside) -> Option<EndPoint> {
        let same = (inside.zone, inside.end.address) == (self.inside.zone, self.inside.end.address);
        let step =
            inside.end.port.checked_sub(self.inside.end.port).filter(|step| same && *step < self.count)?;
        Some(EndPoint { address: self.external, port: self.first.checked_add(step)? })
    }
}

/// What translation goes by.
///
/// # Threads
/// Immutable once published.
#[derive(Clone, Debug)]
pub struct Rules {
    external: Box<[Ipv6Addr]>,
    /// By protocol, address and first l4 port; they do not overlap.
    published: Box<[Rule]>,
    filtering: Filtering,
    parity: bool,
    timeouts: Timeouts,
    /// Chooses which of several addresses a container gets.
    seed: u64,
}

impl Rules {
    /// `external`: our addresses, those beyond [`MAX_EXTERNAL`] are not used, and `::` is a place for none. One that stays
    /// must keep its place, or its connections end; `published`: of entries that overlap the
    /// first counts. `seed` must be the same as long as containers shall keep their addresses outside.
    pub fn new(
        mut external: Vec<Ipv6Addr>,
        mut published: Vec<Rule>,
        (filtering, parity): (Filtering, bool),
        timeouts: Timeouts,
        seed: u64,
    ) -> Self {
        external.truncate(MAX_EXTERNAL);
        published.retain(|rule| external.contains(&rule.external) && rule.count > 0);
        published.sort_by_key(|rule| (rule.proto, rule.external, rule.first));
        published.dedup_by(|later, earlier| {
            (later.proto, later.external) == (earlier.proto, earlier.external)
                && later.ports().start < earlier.ports().end
        });
        let (external, published) = (external.into_boxed_slice(), published.into_boxed_slice());
        Self { external, published, filtering, parity, timeouts, seed }
    }

    /// Who may come in by a mapping.
    pub const fn filtering(&self) -> Filtering {
        self.filtering
    }

    /// Whether an l4 port keeps being even or odd.
    pub const fn parity(&self) -> bool {
        self.parity
    }

    /// When connections are over.
    pub const fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Our addresses.
    pub fn external(&self) -> &[Ipv6Addr] {
        &self.external
    }

    /// All entries.
    pub fn published(&self) -> &[Rule] {
        &self.published
    }

    /// Whether it is an address of ours.
    #[inline]
    pub fn is_external(&self, address: Ipv6Addr) -> bool {
        self.external.contains(&address) && !address.is_unspecified()
    }

    /// Which one it is.
    pub(super) fn index(&self, address: Ipv6Addr) -> Option<u8> {
        self.external.iter().position(|own| *own == address).and_then(|at| u8::try_from(at).ok())
    }

    /// The one of this number.
    pub(super) fn address(&self, index: u8) -> Option<Ipv6Addr> {
        self.external.get(usize::from(index)).copied()
    }

    /// Which of our addresses of its family a container's address becomes: always the same one (RFC 4787 section 4.1
    /// REQ-2, "paired"). `None`: we have none of its family.
    pub fn external_for(&self, zone: u16, inside: Ipv6Addr) -> Option<Ipv6Addr> {
        let v4 = inside.to_ipv4_mapped().is_some();
        let is_one = |own: &&Ipv6Addr| !own.is_unspecified() && own.to_ipv4_mapped().is_some() == v4;
        let mut own = self.external.iter().filter(is_one);
        let only = own.next()?;
        if own.clone().next().is_none() {
            return Some(*only);
        }
        // The one that likes it most: whatever comes and goes beside it, it stays there (rendezvous hashing).
        let who = mix(self.seed, u128::from(zone) << 112 ^ inside.to_bits());
        std::iter::once(only).chain(own).max_by_key(|own| mix(who, own.to_bits())).copied()
    }

    /// What is published at an end point of ours.
    pub fn find(&self, proto: u8, at: EndPoint) -> Option<(&Rule, Inside)> {
        let rule = self.published.get(self.before(proto, at)?)?;
        let same = (rule.proto, rule.external) == (proto, at.address);
        Some((rule, rule.inside(at.port).filter(|_| same)?))
    }

    /// Of all entries the last that does not begin behind an end point.
    fn before(&self, proto: u8, at: EndPoint) -> Option<usize> {
        let key = (proto, at.address, at.port);
        let after = self.published.partition_point(|rule| (rule.proto, rule.external, rule.first) <= key);
        after.checked_sub(1)
    }

    /// Which of [`Rules::published`] it is.
    pub(super) fn which(&self, proto: u8, at: EndPoint) -> Option<usize> {
        self.find(proto, at).and_then(|_| self.before(proto, at))
    }

    /// Where a container's end point is published, if it is.
    pub fn find_inside(&self, proto: u8, inside: &Inside) -> Option<EndPoint> {
        self.published.iter().filter(|rule| rule.proto == proto).find_map(|rule| rule.external(inside))
    }
}

/// Scatters what is not secret by what is.
pub(super) fn mix(seed: u64, bits: u128) -> u64 {
    use std::hash::Hasher;
    let mut hasher = foldhash::quality::FoldHasher::with_seed(seed, foldhash::SharedSeed::global_fixed());
    hasher.write_u128(bits);
    hasher.finish()
}
