//! What the words of entries mean: keys and values of connections, mappings and permits, and what of a packet they are
//! made of.

use std::net::Ipv6Addr;

use switch::checksum::Delta;
use switch::flow::FlowKey;
use switch::parse::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};
use switch::table::{Handle, Record};

use super::external::Class;
use super::rules::{Rules, mix};
use super::tcp::{Stage, State};
use super::types::{EndPoint, Inside, Known};

// Words of a connection's value.
/// `external port:16 l4:16 address:16 index:8 flags:8`.
pub const REWRITE: usize = 0;
/// The handle of its mapping, or [`NONE`] and the mark of its address outside ([`mark`]).
pub const MAPPING: usize = 1;
pub const STATE: usize = 2;
/// What the container said ([`Side`]), and what the other side said.
pub const OUT: usize = 3;
pub const BACK: usize = 5;
/// Bytes from the container, and to it.
pub const SENT: usize = 7;
pub const RECEIVED: usize = 8;
pub const WORDS: usize = 9;

/// No mapping: of a handle these bits are never set.
pub const NONE: u64 = 0xff << 24;
/// Flag: it was opened from outside.
pub const INBOUND: u64 = 1;

/// Of a mapping: `external port:16 mark of its address:32 index:8 0:8`, and the pass of the sweeper that met a
/// connection of it.
pub const PLACE: usize = 0;
pub const MARK: usize = 1;

pub type Connection = Record<5, WORDS>;
pub type Mapping = Record<3, 2>;

pub const fn is_query(proto: u8) -> bool {
    proto == PROTO_ICMP || proto == PROTO_ICMPV6
}

/// The container's end of what it sends; a query has its identifier.
pub const fn source(key: &FlowKey) -> EndPoint {
    EndPoint { address: key.src, port: key.sport }
}

/// The other end of it; a query goes to an address.
pub const fn target(key: &FlowKey) -> EndPoint {
    EndPoint { address: key.dst, port: if is_query(key.proto) { 0 } else { key.dport } }
}

/// Our end of what comes from outside; the answer to a query has its identifier.
pub const fn target_outside(key: &FlowKey) -> EndPoint {
    EndPoint { address: key.dst, port: if is_query(key.proto) { key.sport } else { key.dport } }
}

/// The other end of it.
pub const fn remote(key: &FlowKey) -> EndPoint {
    EndPoint { address: key.src, port: if is_query(key.proto) { 0 } else { key.sport } }
}

/// The key of a connection.
#[inline]
pub const fn words(zone: u16, proto: u8, inside: EndPoint, remote: EndPoint) -> [u64; 5] {
    let ports = (zone as u64) << 48 | (proto as u64) << 32 | (inside.port as u64) << 16 | remote.port as u64;
    let ([i0, i1], [r0, r1]) = (halves(inside.address), halves(remote.address));
    [ports, i0, i1, r0, r1]
}

/// What a key says: protocol, the container's end, the other end.
pub const fn ends(&[ports, i0, i1, r0, r1]: &[u64; 5]) -> (u8, Inside, EndPoint) {
    let end = EndPoint { address: whole([i0, i1]), port: (ports >> 16) as u16 };
    let inside = Inside { zone: (ports >> 48) as u16, end };
    ((ports >> 32) as u8, inside, EndPoint { address: whole([r0, r1]), port: ports as u16 })
}

pub const fn proto_of(&[ports, ..]: &[u64; 5]) -> u8 {
    (ports >> 32) as u8
}

/// The key of a mapping.
pub const fn mapping_key(proto: u8, inside: &Inside) -> [u64; 3] {
    let [high, low] = halves(inside.end.address);
    [(inside.zone as u64) << 48 | (proto as u64) << 32 | inside.end.port as u64, high, low]
}

pub fn inside_of(record: &Mapping) -> Inside {
    let [ports, high, low] = record.key;
    let end = EndPoint { address: whole([high, low]), port: ports as u16 };
    Inside { zone: (ports >> 48) as u16, end }
}

/// What names a mapping of whichever table: each class and family has its own, with handles of its own. Which one it is
/// goes into the 8 bits that a handle leaves free.
pub const fn name(class: Class, address: Ipv6Addr, handle: u64) -> u64 {
    handle | ((class as u64) << 1 | address.to_ipv4_mapped().is_some() as u64) << 24
}

/// What a name says; `None`: no table is called so.
pub fn named(name: u64) -> (Option<Class>, Handle) {
    let class = Class::ALL.into_iter().nth((name >> 25) as usize & 0x7f);
    (class, Handle::from_u64(name & !(0xff << 24)))
}

/// The same table, another mapping.
#[cfg(not(loom))]
pub const fn renamed(name: u64, mapping: Handle) -> u64 {
    mapping.to_u64() | name & 0xff << 24
}

/// The key of a permit.
pub const fn permit(class: Class, mapping: Handle, remote: Ipv6Addr) -> [u64; 3] {
    let [high, low] = halves(remote);
    [name(class, remote, mapping.to_u64()), high, low]
}

pub const fn other(proto: u8, index: u8, remote: Ipv6Addr) -> [u64; 3] {
    let [high, low] = halves(remote);
    [(proto as u64) << 8 | index as u64, high, low]
}

/// What an address outside is known by when a new one may be in its place: of IPv4 it is the address.
pub fn mark(address: Ipv6Addr) -> u32 {
    match address.to_ipv4_mapped() {
        Some(address) => address.to_bits(),
        None => mix(0, address.to_bits()) as u32,
    }
}

pub const fn halves(address: Ipv6Addr) -> [u64; 2] {
    let bits = address.to_bits();
    [(bits >> 64) as u64, bits as u64]
}

pub const fn whole([high, low]: [u64; 2]) -> Ipv6Addr {
    Ipv6Addr::from_bits((high as u128) << 64 | low as u128)
}

/// What a change of l4 port adds to sums: nothing where no checksum of ours is over it.
pub const fn word(proto: u8, from: EndPoint, to: EndPoint) -> Delta {
    match proto {
        PROTO_TCP | PROTO_UDP | PROTO_ICMP | PROTO_ICMPV6 => Delta::word(from.port, to.port),
        _ => Delta::NONE,
    }
}

/// Of a connection what its container's address, and its l4 port, become.
pub const fn deltas(record: &Connection) -> [Delta; 2] {
    let word = record.value[REWRITE];
    [Delta::from_u16((word >> 16) as u16), Delta::from_u16((word >> 32) as u16)]
}

/// Whether both ends have done with a connection, and only its l4 ports rest.
pub const fn is_over(record: &Connection) -> bool {
    let stage = State::stage_of(record.value[STATE]);
    proto_of(&record.key) == PROTO_TCP && matches!(stage, Stage::Closing | Stage::Reset)
}

/// `None`: the address is not ours any more.
#[inline]
pub fn known(record: &Connection, rules: &Rules) -> Option<Known> {
    let word = record.value[REWRITE];
    let external = EndPoint { address: rules.address((word >> 8) as u8)?, port: (word >> 48) as u16 };
    let [address, l4] = deltas(record);
    Some(Known { at: record.at, external, address, l4, inbound: word & INBOUND != 0 })
}
