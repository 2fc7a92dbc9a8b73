//! Packets that wait for a neighbour's MAC (RFC 1122 section 2.3.2.2, RFC 4861 section 7.2.2): few, and not for long.

use std::net::Ipv6Addr;

use switch::frame::Frame;
use switch::port::{NetworkId, PortId};
use switch::tick::Tick;

/// Addresses that are asked for at a time.
const ADDRESSES: usize = 64;
/// The same, of packets of one port: a port that scans a subnet leaves room for the others.
const PER_PORT: usize = 16;
/// Packets that wait for one address.
const FRAMES: usize = 3;
/// Packets that wait in all; a frame that waits is a buffer that reads cannot use.
const ALL_FRAMES: usize = 32;
/// Times an address is asked for (RFC 4861 section 10, MAX_MULTICAST_SOLICIT).
const TRIES: u8 = 3;
/// Milliseconds between them (RFC 4861 section 10, RETRANS_TIMER).
const RETRY: u64 = 1000;

/// An address that was asked for, and who waits for it.
struct Waiting {
    network: NetworkId,
    address: Ipv6Addr,
    /// Whose packet made us ask.
    port: PortId,
    frames: [Option<Frame>; FRAMES],
    tries: u8,
    next: Tick,
}

/// Packets that wait.
pub struct Pending {
    waiting: Vec<Waiting>,
    frames: usize,
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
        Self { waiting: Vec::with_capacity(ADDRESSES), frames: 0 }
    }
}

impl Pending {
    /// Lets a packet wait. The newest is refused when there is no room: the sender sends again, in order.
    pub fn add(&mut self, network: NetworkId, address: Ipv6Addr, frame: &Frame, now: Tick) -> Queued {
        if self.frames >= ALL_FRAMES {
            return Queued::Full;
        }
        if let Some(waiting) = self.waiting.iter_mut().find(|one| one.is(network, address)) {
            let Some(place) = waiting.frames.iter_mut().find(|place| place.is_none()) else {
                return Queued::Full;
            };
            *place = Some(*frame);
            self.frames += 1;
            return Queued::Waits;
        }
        let of_port = self.waiting.iter().filter(|waiting| waiting.port == frame.port).count();
        if self.waiting.len() >= ADDRESSES || of_port >= PER_PORT {
            return Queued::Full;
        }
        let next = now.plus_millis(RETRY);
        let frames = [Some(*frame), None, None];
        self.waiting.push(Waiting { network, address, port: frame.port, frames, tries: 1, next });
        self.frames += 1;
        Queued::Ask
    }

    /// Whether anybody waits for `address`.
    pub fn is_asked(&self, network: NetworkId, address: Ipv6Addr) -> bool {
        self.waiting.iter().any(|one| one.is(network, address))
    }

    /// Nobody waits for `address` any more; those that did, oldest first.
    pub fn take(&mut self, network: NetworkId, address: Ipv6Addr) -> impl Iterator<Item = Frame> + use<> {
        let index = self.waiting.iter().position(|one| one.is(network, address));
        let frames = index.map_or([None; FRAMES], |index| self.waiting.swap_remove(index).frames);
        self.frames = self.frames.saturating_sub(frames.iter().flatten().count());
        frames.into_iter().flatten()
    }

    /// A packet that waits and came by `port`, and waits no longer.
    pub fn take_of(&mut self, port: PortId) -> Option<Frame> {
        let of_port = |place: &&mut Option<Frame>| place.is_some_and(|frame| frame.port == port);
        let frame = self.waiting.iter_mut().flat_map(|waiting| &mut waiting.frames).find(of_port)?.take();
        self.frames = self.frames.saturating_sub(1);
        frame
    }

    /// When [`Pending::due`] has something.
    pub fn deadline(&self) -> Option<Tick> {
        self.waiting.iter().map(|waiting| waiting.next).min()
    }

    /// One address whose time has come.
    pub fn due(&mut self, now: Tick) -> Option<Due> {
        let waiting = self.waiting.iter_mut().find(|waiting| waiting.next <= now)?;
        if waiting.tries >= TRIES {
            return Some(Due::GiveUp(waiting.network, waiting.address));
        }
        waiting.tries += 1;
        waiting.next = now.plus_millis(RETRY);
        Some(Due::Ask(waiting.network, waiting.address))
    }
}

impl Waiting {
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
        assert_eq!((pending.deadline(), pending.frames), (None, 0));
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
        assert_eq!((pending.take(N, address(2)).count(), pending.frames), (0, 0));
    }

    #[test]
    fn a_port_that_scans_leaves_room_for_another() {
        let mut pool = Pool::new(128);
        let mut pending = Pending::default();
        let queued: Vec<Queued> =
            (0..40).map(|n| pending.add(N, address(n), &frame(&mut pool, 1), Tick::default())).collect();
        assert_eq!(queued.iter().filter(|queued| **queued == Queued::Ask).count(), PER_PORT);
        let other = frame(&mut pool, 2);
        assert_eq!(pending.add(N, address(99), &other, Tick::default()), Queued::Ask);
    }
}
