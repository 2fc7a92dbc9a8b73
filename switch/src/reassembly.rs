//! Packets in fragments are put together before a socket sees them, or a gateway answers them (RFC 791 section 3.2, RFC 8200
//! section 4.5, RFC 1122 section 3.3.2).
//!
//! Bounded: a few packets at a time, a share of them for each port. What overlaps is dropped with all that came of its
//! packet (RFC 5722): nobody honest sends it. Of a packet that is not complete in time its sender is told, if the first
//! fragment is there; of one that makes room for another nothing is said.

use std::net::Ipv6Addr;

use crate::checksum::sum;
use crate::flow::{FlowKey, L3, Packet};
use crate::mac::MacAddr;
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::port::PortId;
use crate::tick::Tick;

/// How long a packet may take to be complete, milliseconds (RFC 791 section 3.2: 15 s).
const PATIENCE: u64 = 15_000;
/// Offsets are in units of so many bytes.
const UNIT: usize = 8;
/// Longest payload of an IP packet, bytes.
const LONGEST: usize = 65_535;
const ETHERNET: usize = 14;
/// Bytes of the first fragment that an ICMP error quotes at most (RFC 4443 section 2.4 (c)).
const QUOTED: usize = 1280 - 40 - 8;
/// Bytes of a whole packet: Ethernet and the longer of the IP headers in front.
const PACKET: usize = ETHERNET + 40 + LONGEST;

/// What became of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is kept.
    Kept,
    /// It was the last one missing: the packet is in that place, so many bytes from the Ethernet header on.
    Whole(usize, usize),
    /// It makes no sense with the others.
    Refused,
}

/// A packet that was not complete in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late<'a> {
    /// The port it came by.
    pub port: PortId,
    /// The MAC that its first fragment came from.
    pub mac: MacAddr,
    /// That fragment from its IP header on, as far as it is quoted; empty: it did not come.
    pub first: &'a [u8],
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    port: PortId,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    proto: u8,
    id: u32,
}

struct Place {
    key: Option<Key>,
    since: Tick,
    /// Bytes of payload, once the last fragment is there.
    total: Option<usize>,
    /// See [`Late`].
    first: [u8; QUOTED],
    first_len: usize,
    mac: MacAddr,
    /// A bit for every unit that is there.
    units: [u64; LONGEST.div_ceil(UNIT * 64)],
    bytes: Box<[u8]>,
}

/// All packets in fragments of one worker.
pub struct Fragments {
    places: Box<[Place]>,
    /// Those of one port may be so many.
    share: usize,
    /// Nothing is late before, if anything is there.
    due: Option<Tick>,
    /// Packets that were given up.
    pub lost: u64,
}

/// One fragment.
struct Piece<'a> {
    offset: usize,
    more: bool,
    data: &'a [u8],
}

impl Fragments {
    /// So many packets may be incomplete at a time, of one port `share`. A place takes 64 KiB from when it is used.
    pub fn new(places: usize, share: usize) -> Self {
        let place = |_| Place {
            key: None,
            since: Tick::default(),
            total: None,
            first: [0; _],
            first_len: 0,
            mac: MacAddr::default(),
            units: [0; _],
            bytes: vec![0; PACKET].into_boxed_slice(),
        };
        Self { places: (0..places).map(place).collect(), share, due: None, lost: 0 }
    }

    /// Takes the fragment in `frame`.
    pub fn add(&mut self, frame: &[u8], packet: &Packet, now: Tick) -> Added {
        let Some(piece) = piece(frame, packet) else { return Added::Refused };
        let FlowKey { src, dst, proto, .. } = packet.key;
        let key = Key { port: packet.meta.port, src, dst, proto, id: packet.meta.fragment_id };
        let index = self.place(&key, now);
        let Some(place) = self.places.get_mut(index) else { return Added::Refused };
        if place.key.is_none() {
            place.begin(key, now);
            // Those that were there before are late before.
            self.due = self.due.or(Some(place.until()));
        }
        let head = head_len(packet);
        if place.put(head, &piece).is_none() {
            place.key = None;
            self.lost += 1;
            return Added::Refused;
        }
        if piece.offset == 0 {
            place.keep_first(frame, packet);
        }
        match place.total.filter(|total| place.is_complete(*total)) {
            Some(total) => {
                place.key = None;
                place.header(packet, total);
                Added::Whole(index, head + total)
            }
            None => Added::Kept,
        }
    }

    /// One that is not complete in time, and is forgotten. Asked before [`Fragments::add`] it misses none.
    pub fn late(&mut self, now: Tick) -> Option<Late<'_>> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        let open = self.places.iter_mut().filter(|place| place.key.is_some());
        let oldest = open.min_by_key(|place| place.since);
        self.due = oldest.as_ref().map(|place| place.until());
        let place = oldest.filter(|place| place.until() <= now)?;
        let port = place.key.take()?.port;
        self.lost += 1;
        Some(Late { port, mac: place.mac, first: place.first.get(..place.first_len)? })
    }

    /// When [`Fragments::late`] may have one.
    pub const fn deadline(&self) -> Option<Tick> {
        self.due
    }

    /// Lends the bytes of a whole packet until they are given [back](Fragments::give_back).
    pub fn take(&mut self, place: usize) -> Box<[u8]> {
        self.places.get_mut(place).map(|place| std::mem::take(&mut place.bytes)).unwrap_or_default()
    }

    /// See [`Fragments::take`].
    pub fn give_back(&mut self, place: usize, bytes: Box<[u8]>) {
        if let Some(place) = self.places.get_mut(place) {
            place.bytes = bytes;
        }
    }

    /// The container behind a port is gone.
    pub fn forget(&mut self, port: PortId) {
        for place in self.places.iter_mut() {
            place.key = place.key.filter(|key| key.port != port);
        }
    }

    /// The place of this packet, or one for it: a free one, else the oldest of who has the most.
    fn place(&mut self, key: &Key, now: Tick) -> usize {
        while self.late(now).is_some() {}
        if let Some(known) = self.places.iter().position(|place| place.key == Some(*key)) {
            return known;
        }
        let of = |port| self.places.iter().filter(|it| it.key.is_some_and(|key| key.port == port)).count();
        let free = self.places.iter().position(|place| place.key.is_none());
        if let Some(free) = free.filter(|_| of(key.port) < self.share) {
            return free;
        }
        let greediest = if free.is_some() {
            Some(key.port)
        } else {
            self.places.iter().filter_map(|place| place.key).map(|key| key.port).max_by_key(|port| of(*port))
        };
        let its =
            self.places.iter().enumerate().filter(|(_, place)| place.key.map(|key| key.port) == greediest);
        let index = its.min_by_key(|(_, place)| place.since).map_or(0, |(index, _)| index);
        if let Some(place) = self.places.get_mut(index) {
            place.key = None;
            self.lost += 1;
        }
        index
    }
}

impl Place {
    fn begin(&mut self, key: Key, now: Tick) {
        (self.key, self.since, self.total, self.first_len) = (Some(key), now, None, 0);
        self.units.fill(0);
    }

    fn until(&self) -> Tick {
        self.since.plus_millis(PATIENCE)
    }

    fn keep_first(&mut self, frame: &[u8], packet: &Packet) {
        let fragment = frame.get(usize::from(packet.meta.l3_off)..packet.meta.l3_end as usize);
        let fragment = fragment.unwrap_or_default();
        self.first_len = fragment.len().min(QUOTED);
        self.first.iter_mut().zip(fragment).for_each(|(to, byte)| *to = *byte);
        self.mac = packet.meta.src;
    }

    /// `None`: it contradicts what is there.
    fn put(&mut self, head: usize, piece: &Piece<'_>) -> Option<()> {
        let end = piece.offset.checked_add(piece.data.len())?;
        let beyond = self.total.is_some_and(|total| end > total || (!piece.more && end != total));
        // Nothing may be there behind the last one.
        let cut = !piece.more && (end.div_ceil(UNIT)..self.units.len() * 64).any(|unit| self.has(unit));
        if beyond || cut {
            return None;
        }
        let units = piece.offset / UNIT..end.div_ceil(UNIT);
        let place = self.bytes.get_mut(head.checked_add(piece.offset)?..head.checked_add(end)?)?;
        let known = units.clone().filter(|unit| has(&self.units, *unit)).count();
        if known > 0 {
            // A duplicate is no overlap (RFC 8200 section 4.5); it says nothing new.
            return (known == units.len() && *place == *piece.data).then_some(());
        }
        place.copy_from_slice(piece.data);
        if !piece.more {
            self.total = Some(end);
        }
        for unit in units {
            *self.units.get_mut(unit / 64)? |= 1 << (unit % 64);
        }
        Some(())
    }

    fn has(&self, unit: usize) -> bool {
        has(&self.units, unit)
    }

    fn is_complete(&self, total: usize) -> bool {
        (0..total.div_ceil(UNIT)).all(|unit| self.has(unit))
    }

    /// Writes the headers of a packet that was never in fragments. Options are left out: a socket would not see them.
    fn header(&mut self, packet: &Packet, total: usize) {
        let (key, meta) = (&packet.key, &packet.meta);
        let mut head = [0; ETHERNET + 40];
        let ethertype = if meta.l3 == L3::V4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        let mut write = |at: usize, bytes: &[u8]| {
            if let Some(place) = head.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        write(0, &meta.dst.0);
        write(6, &meta.src.0);
        write(12, &ethertype.to_be_bytes());
        if let (Some(src), Some(dst)) = (key.src.to_ipv4_mapped(), key.dst.to_ipv4_mapped()) {
            let mut ip =
                [0x45, meta.tos, 0, 0, 0, 0, 0, 0, meta.ttl, key.proto, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let [l0, l1] = u16::try_from(total + 20).unwrap_or(u16::MAX).to_be_bytes();
            (ip[2], ip[3]) = (l0, l1);
            let [.., i0, i1] = meta.fragment_id.to_be_bytes();
            (ip[4], ip[5]) = (i0, i1);
            ip[12..16].copy_from_slice(&src.octets());
            ip[16..20].copy_from_slice(&dst.octets());
            let [c0, c1] = (!sum(&ip)).to_be_bytes();
            (ip[10], ip[11]) = (c0, c1);
            write(ETHERNET, &ip);
        } else {
            write(ETHERNET, &[0x60 | meta.tos >> 4, meta.tos << 4, 0, 0]);
            write(ETHERNET + 4, &u16::try_from(total).unwrap_or(u16::MAX).to_be_bytes());
            write(ETHERNET + 6, &[key.proto, meta.ttl]);
            write(ETHERNET + 8, &key.src.octets());
            write(ETHERNET + 24, &key.dst.octets());
        }
        let len = head_len(packet);
        if let (Some(place), Some(head)) = (self.bytes.get_mut(..len), head.get(..len)) {
            place.copy_from_slice(head);
        }
    }
}

fn has(units: &[u64], unit: usize) -> bool {
    units.get(unit / 64).is_some_and(|word| word & 1 << (unit % 64) != 0)
}

/// Bytes in front of the payload of the whole packet.
fn head_len(packet: &Packet) -> usize {
    ETHERNET + if packet.meta.l3 == L3::V4 { 20 } else { 40 }
}

/// Which part of its packet the fragment is. Of IPv6 only what stands directly behind the fragment header: options of
/// the whole packet there mean nothing to a socket, and are rare enough to be refused.
fn piece<'a>(frame: &'a [u8], packet: &Packet) -> Option<Piece<'a>> {
    let meta = &packet.meta;
    let l4 = usize::from(meta.l4_off);
    let (offset, more, data) = if meta.l3 == L3::V4 {
        let field = frame.get(usize::from(meta.l3_off).checked_add(6)?..)?.first_chunk::<2>()?;
        let field = u16::from_be_bytes(*field);
        // The first fragment's end is not where its UDP header says.
        (usize::from(field & 0x1fff) * UNIT, field & 0x2000 != 0, l4)
    } else {
        let &[_, _, o0, o1, i0, i1, i2, i3] = frame.get(l4.checked_sub(8)?..)?.first_chunk::<8>()?;
        if u32::from_be_bytes([i0, i1, i2, i3]) != meta.fragment_id {
            return None;
        }
        let field = u16::from_be_bytes([o0, o1]);
        (usize::from(field & 0xfff8), field & 1 != 0, l4)
    };
    let data = frame.get(data..ip_end(frame, packet)?)?;
    (!data.is_empty()).then_some(Piece { offset, more, data })
}

/// Where the IP header says that the packet ends; the parser has seen that it is within the frame.
fn ip_end(frame: &[u8], packet: &Packet) -> Option<usize> {
    let at = usize::from(packet.meta.l3_off);
    let (field, more) = if packet.meta.l3 == L3::V4 { (at + 2, 0) } else { (at + 4, 40) };
    let len = frame.get(field..)?.first_chunk::<2>()?;
    at.checked_add(usize::from(u16::from_be_bytes(*len)))?.checked_add(more)
}
