//! Packets that wait for a neighbour's MAC (RFC 1122 section 2.3.2.2, RFC 4861 section 7.2.2): few, and not for long.

use std::net::Ipv6Addr;

use switch::frame::Frame;
use switch::port::{NetworkId, PortId};
use switch::tick::Tick;

/// Packets of one port that wait for one address (RFC 1122 section 2.3.2.2 asks for one at least).
const FRAMES: usize = 3;
/// Packets that wait in all; a frame that waits is a buffer that reads cannot use. No more addresses than these are
/// asked for.
const ALL_FRAMES: usize = 32;
/// Times an address is asked for (RFC 4861 section 10, MAX_MULTICAST_SOLICIT).
const TRIES: u8 = 3;
/// Milliseconds between them (RFC 4861 section 10, RETRANS_TIMER).
const RETRY: u64 = 1000;

/// An address that is asked for.
struct Asked {
    network: NetworkId,
    address: Ipv6Addr,
    tries: u8,
    next: Tick,
}

/// A packet, and the address whose MAC it waits for.
struct Held {
    network: NetworkId,
    address: Ipv6Addr,
    frame: Frame,
}

/// Packets that wait.
pub struct Pending {
    /// Each has a packet that waits for it.
    asked: Vec<Asked>,
    /// Oldest first.
    held: Vec<Held>,
}

/// What becomes of a packet that is to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It waits, and the address has to be asked for.
    Ask,
    /// It waits with others.
    Waits,
    /// There is no room.
    Full,
}

/// What is to be done about an address whose time came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Ask again.
    Ask(NetworkId, Ipv6Addr),
    /// Nobody answers: the packets that wait come by [`Pending::take`].
    GiveUp(NetworkId, Ipv6Addr),
}

impl Default for Pending {
    fn default() -> Self {
        Self { asked: Vec::with_capacity(ALL_FRAMES), held: Vec::with_capacity(ALL_FRAMES) }
    }
}

impl Pending {
    /// Lets a packet wait. The newest is refused when there is no room: the sender sends again, in order.
    ///
    /// A port may have as many as it leaves free: one that scans a subnet gets half of the room, the next one half of
    /// the rest. For one that has nothing here [`Pending::make_room`] is asked first.
    pub fn add(&mut self, network: NetworkId, address: Ipv6Addr, frame: &Frame, now: Tick) -> Queued {
        let free = ALL_FRAMES.saturating_sub(self.held.len());
        let of_port = |held: &&Held| held.frame.port == frame.port;
        let here = self.held.iter().filter(of_port).filter(|held| held.is(network, address)).count();
        if free == 0 || here >= FRAMES || self.held.iter().filter(of_port).count() >= free {
            return Queued::Full;
        }
        self.held.push(Held { network, address, frame: *frame });
        if self.is_asked(network, address) {
            return Queued::Waits;
        }
        self.asked.push(Asked { network, address, tries: 1, next: now.plus_millis(RETRY) });
        Queued::Ask
    }

    /// What must go so that the first packet of `port` finds a place: where there is none left, the newest of the port
    /// that has most. Nothing goes where each has but one.
    pub fn make_room(&mut self, port: PortId) -> Option<Frame> {
        if self.held.len() < ALL_FRAMES || self.count(port) > 0 {
            return None;
        }
        let ports = self.held.iter().map(|held| held.frame.port);
        let greediest = ports.max_by_key(|port| self.count(*port)).filter(|port| self.count(*port) > 1)?;
        let newest = self.held.iter().rposition(|held| held.frame.port == greediest)?;
        Some(self.remove(newest))
    }

    /// Whether anybody waits for `address`.
    fn is_asked(&self, network: NetworkId, address: Ipv6Addr) -> bool {
        self.asked.iter().any(|one| one.is(network, address))
    }

    /// An address that is waited for and for which `known` holds.
    pub fn first(&self, known: impl Fn(NetworkId, Ipv6Addr) -> bool) -> Option<(NetworkId, Ipv6Addr)> {
        self.asked
            .iter()
            .map(|one| (one.network, one.address))
            .find(|(network, address)| known(*network, *address))
    }

    /// A port that waits for `address`.
    pub fn asks(&self, network: NetworkId, address: Ipv6Addr) -> Option<PortId> {
        self.held.iter().find(|held| held.is(network, address)).map(|held| held.frame.port)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Nobody waits for `address` any more; those that did, oldest first.
    pub fn take(&mut self, network: NetworkId, address: Ipv6Addr) -> impl Iterator<Item = Frame> + use<> {
        let mut frames = [None; ALL_FRAMES];
        let mut places = frames.iter_mut();
        self.held.retain(|held| {
            let stays = !held.is(network, address);
            if !stays && let Some(place) = places.next() {
                *place = Some(held.frame);
            }
            stays
        });
        self.asked.retain(|one| !one.is(network, address));
        frames.into_iter().flatten()
    }

    /// A packet that waits and came by `port`, and waits no longer.
    pub fn take_of(&mut self, port: PortId) -> Option<Frame> {
        let index = self.held.iter().position(|held| held.frame.port == port)?;
        Some(self.remove(index))
    }

    /// When [`Pending::due`] has something.
    pub fn deadline(&self) -> Option<Tick> {
        self.asked.iter().map(|one| one.next).min()
    }

    /// One address whose time has come.
    pub fn due(&mut self, now: Tick) -> Option<Due> {
        let one = self.asked.iter_mut().find(|one| one.next <= now)?;
        if one.tries >= TRIES {
            return Some(Due::GiveUp(one.network, one.address));
        }
        one.tries += 1;
        one.next = now.plus_millis(RETRY);
        Some(Due::Ask(one.network, one.address))
    }

    fn count(&self, port: PortId) -> usize {
        self.held.iter().filter(|held| held.frame.port == port).count()
    }

    /// The packet at `index` waits no longer; an address that nobody waits for is not asked for any more.
    fn remove(&mut self, index: usize) -> Frame {
        let Held { network, address, frame } = self.held.remove(index);
        if !self.held.iter().any(|held| held.is(network, address)) {
            self.asked.retain(|one| !one.is(network, address));
        }
        frame
    }
}

impl Asked {
    fn is(&self, network: NetworkId, address: Ipv6Addr) -> bool {
        self.network == network && self.address == address
    }
}

impl Held {
    fn is(&self, network: NetworkId, address: Ipv6Addr) -> bool {
        self.network == network && self.address == address
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use switch::frame::Pool;

    const N: NetworkId = NetworkId(1);

    fn address(n: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n)
    }

    fn frame(pool: &mut Pool, port: u16) -> Frame {
        pool.fill::<()>(PortId(port), |_| Ok(60)).unwrap()
    }

    #[test]
    fn it_asks_three_times_and_gives_up() {
        let mut pool = Pool::new(8);
        let mut pending = Pending::default();
        let at = |millis| Tick::from_millis(millis);
        let frames: Vec<Frame> = (0..4).map(|_| frame(&mut pool, 1)).collect();
        assert_eq!(pending.add(N, address(1), &frames[0], at(0)), Queued::Ask);
        assert_eq!(pending.add(N, address(1), &frames[1], at(1)), Queued::Waits);
        assert_eq!(pending.add(N, address(1), &frames[2], at(2)), Queued::Waits);
        assert_eq!(pending.add(N, address(1), &frames[3], at(3)), Queued::Full);
        assert_eq!(pending.deadline(), Some(at(1000)));
        assert_eq!(pending.due(at(999)), None);
        assert_eq!(pending.due(at(1000)), Some(Due::Ask(N, address(1))));
        assert_eq!(pending.due(at(1000)), None);
        assert_eq!(pending.due(at(2000)), Some(Due::Ask(N, address(1))));
        assert_eq!(pending.due(at(3000)), Some(Due::GiveUp(N, address(1))));
        assert_eq!(pending.take(N, address(1)).collect::<Vec<_>>(), frames[..3]);
        assert!(!pending.is_asked(N, address(1)));
        assert_eq!((pending.deadline(), pending.held.len()), (None, 0));
    }

    #[test]
    fn what_came_by_a_port_that_is_gone_waits_no_longer() {
        let mut pool = Pool::new(8);
        let mut pending = Pending::default();
        let (one, other, third) = (frame(&mut pool, 1), frame(&mut pool, 2), frame(&mut pool, 1));
        pending.add(N, address(1), &one, Tick::default());
        pending.add(N, address(1), &other, Tick::default());
        pending.add(N, address(2), &third, Tick::default());
        let mut gone: Vec<Frame> = std::iter::from_fn(|| pending.take_of(PortId(1))).collect();
        gone.sort_by_key(|frame| *frame != one);
        assert_eq!(gone, [one, third]);
        assert_eq!(pending.take(N, address(1)).collect::<Vec<_>>(), [other]);
        assert!(!pending.is_asked(N, address(2)), "for nobody");
        assert_eq!((pending.take(N, address(2)).count(), pending.held.len()), (0, 0));
    }

    /// As a worker does it: how it was queued, and what had to go for it.
    fn queue(pending: &mut Pending, to: u16, frame: Frame) -> (Queued, Option<Frame>) {
        let gone = pending.make_room(frame.port);
        (pending.add(N, address(to), &frame, Tick::default()), gone)
    }

    #[test]
    fn a_port_that_scans_leaves_room_for_another() {
        let mut pool = Pool::new(128);
        let mut pending = Pending::default();
        // Sixteen addresses and three packets each: more than there is room for.
        let waiting = (0..48)
            .map(|n| queue(&mut pending, n / 3, frame(&mut pool, 1)))
            .filter(|(queued, gone)| *queued != Queued::Full && gone.is_none())
            .count();
        assert_eq!(waiting, ALL_FRAMES / 2);
        for n in 0..3 {
            let (queued, gone) = queue(&mut pending, 99, frame(&mut pool, 2));
            assert_eq!((queued, gone), (if n == 0 { Queued::Ask } else { Queued::Waits }, None));
        }
        // Nor does it matter that the scanner got first to the address that somebody else is looking for.
        assert_eq!(queue(&mut pending, 0, frame(&mut pool, 3)), (Queued::Waits, None));
    }

    #[test]
    fn who_has_nothing_waiting_gets_a_place_however_many_scan() {
        let mut pool = Pool::new(256);
        let mut pending = Pending::default();
        for port in 1..8 {
            (0..20).for_each(|n| _ = queue(&mut pending, 100 * port + n / 3, frame(&mut pool, port)));
        }
        assert_eq!(pending.held.len(), ALL_FRAMES);
        for port in 20..40 {
            let (queued, gone) = queue(&mut pending, port, frame(&mut pool, port));
            assert_eq!(queued, Queued::Ask, "port {port}");
            let gone = gone.unwrap().port;
            assert!(gone.0 < 8 && pending.count(gone) > 0, "one of those that had several: {gone:?}");
        }
        assert!(pending.asked.iter().all(|one| pending.held.iter().any(|held| held.is(N, one.address))));
        // As many ports as there is room for, one packet each: here it ends, and nobody loses his only one.
        (40..72).for_each(|port| _ = queue(&mut pending, port, frame(&mut pool, port)));
        assert_eq!(queue(&mut pending, 99, frame(&mut pool, 99)), (Queued::Full, None));
        assert!((20..40).all(|port| pending.count(PortId(port)) == 1));
    }
}
