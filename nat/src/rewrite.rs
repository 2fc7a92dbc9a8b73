//! The bytes of a translated packet: addresses, l4 ports or identifier, and the checksums over them; of an ICMP error
//! the packet that it quotes as well (RFC 5508 section 4.2).
//!
//! Checksums are changed by what changed (RFC 1624), never made anew: damage stays visible to whoever gets the packet.

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, Ipv6Addr};

use switch::checksum::{self, Delta, sum};
use switch::drop::DropReason;
use switch::flow::{Body, Csum, Fragment, L3, Meta, Quoted};
use switch::parse::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};
use switch::verdict::Nat;

/// RFC 4340 section 5.1.
const PROTO_DCCP: u8 = 33;
/// RFC 3828 section 3.1.
const PROTO_UDP_LITE: u8 = 136;
/// Offset of an ICMP checksum, and of the identifier of a query.
const ICMP_CHECKSUM: usize = 2;
const ICMP_IDENTIFIER: usize = 4;
/// Offset of the header checksum in an IPv4 header.
const V4_CHECKSUM: usize = 10;
/// Offset of the identification in it.
const V4_IDENTIFICATION: usize = 4;

/// Writes what `nat` says into the frame of a packet.
///
/// # Errors
/// [`DropReason::BadChecksum`] for an ICMP error whose checksum is wrong (RFC 5508 section 4.1 REQ-3: nothing of it can
/// be trusted); [`DropReason::MalformedL4`] where a field that was parsed is not there.
#[inline]
pub fn rewrite(frame: &mut [u8], meta: &Meta, nat: &Nat) -> Result<(), DropReason> {
    if let Body::IcmpError(quoted) = &meta.body {
        return error(frame, meta, quoted, nat);
    }
    let l3 = usize::from(meta.l3_off);
    addresses(frame, l3, meta.l3, (nat.src, nat.dst), nat.address).ok_or(DropReason::MalformedL4)?;
    if let Some(id) = nat.id {
        identification(frame, l3, meta.l3, id).ok_or(DropReason::MalformedL4)?;
    }
    if meta.fragment == Fragment::Later {
        return Ok(());
    }
    transport(frame, usize::from(meta.l4_off), meta.csum, nat).ok_or(DropReason::MalformedL4)
}

/// Both addresses of the IP header at `at`, and its checksum where it has one.
fn addresses(
    frame: &mut [u8],
    at: usize,
    l3: L3,
    (src, dst): (Ipv6Addr, Ipv6Addr),
    delta: Delta,
) -> Option<()> {
    if l3 == L3::V4 {
        let header: &mut [u8; 20] = frame.get_mut(at..)?.first_chunk_mut()?;
        *field(header, 12)? = src.to_ipv4_mapped()?.octets();
        *field(header, 16)? = dst.to_ipv4_mapped()?.octets();
        let checksum = field(header, V4_CHECKSUM)?;
        *checksum = delta.full(u16::from_be_bytes(*checksum)).to_be_bytes();
        return Some(());
    }
    let header: &mut [u8; 40] = frame.get_mut(at..)?.first_chunk_mut()?;
    *field(header, 8)? = src.octets();
    *field(header, 24)? = dst.octets();
    Some(())
}

/// The identification of the IPv4 header at `at`, and its checksum.
#[cold]
fn identification(frame: &mut [u8], at: usize, l3: L3, id: u16) -> Option<()> {
    if l3 != L3::V4 {
        return Some(());
    }
    let header: &mut [u8; 20] = frame.get_mut(at..)?.first_chunk_mut()?;
    let place = field(header, V4_IDENTIFICATION)?;
    let old = u16::from_be_bytes(*place);
    *place = id.to_be_bytes();
    let checksum = field(header, V4_CHECKSUM)?;
    *checksum = Delta::word(old, id).full(u16::from_be_bytes(*checksum)).to_be_bytes();
    Some(())
}

/// L4 ports and checksum of the header at `at`.
fn transport(frame: &mut [u8], at: usize, csum: Csum, nat: &Nat) -> Option<()> {
    let header = frame.get_mut(at..)?;
    let (at, address, l4) = match nat.proto {
        PROTO_TCP | PROTO_UDP => {
            *field(header, 0)? = nat.sport.to_be_bytes();
            *field(header, 2)? = nat.dport.to_be_bytes();
            (if nat.proto == PROTO_TCP { 16 } else { 6 }, nat.address, nat.l4)
        }
        PROTO_ICMP | PROTO_ICMPV6 => {
            // No pseudo-header in IPv4 (RFC 792), one in IPv6 (RFC 4443 section 2.3).
            let address = if nat.proto == PROTO_ICMP { Delta::NONE } else { nat.address };
            *field(header, ICMP_IDENTIFIER)? = nat.sport.to_be_bytes();
            (ICMP_CHECKSUM, address, nat.l4)
        }
        PROTO_UDP_LITE | PROTO_DCCP => (6, nat.address, Delta::NONE),
        // SCTP keeps its l4 ports, and its checksum covers no address (RFC 9260 section 6.8); of others nothing is known.
        _ => return Some(()),
    };
    // RFC 3828 section 3.1: of 0 it says the same as UDP.
    let proto = if nat.proto == PROTO_UDP_LITE { PROTO_UDP } else { nat.proto };
    let sum = field(header, at)?;
    *sum = checksum::rewrite(u16::from_be_bytes(*sum), csum, proto, address, l4).to_be_bytes();
    Some(())
}

/// An ICMP error: its own addresses, the packet it quotes the other way round, and its checksum over that.
#[cold]
fn error(frame: &mut [u8], meta: &Meta, quoted: &Quoted, nat: &Nat) -> Result<(), DropReason> {
    if total(frame, meta) != Some(0xffff) {
        return Err(DropReason::BadChecksum);
    }
    let l3 = usize::from(meta.l3_off);
    let own = source(frame, meta).ok_or(DropReason::MalformedL4)?;
    addresses(frame, l3, meta.l3, (nat.src, nat.dst), nat.address).ok_or(DropReason::MalformedL4)?;
    // Where its source became another, that is whom the quoted packet was for, as its sender knows it.
    let dst = if own == nat.src { quoted.key.dst } else { nat.src };
    quotation(frame, meta, quoted, dst, nat).ok_or(DropReason::MalformedL4)?;
    // It was right, so it may be made anew.
    let at = usize::from(meta.l4_off).saturating_add(ICMP_CHECKSUM);
    *field(frame, at).ok_or(DropReason::MalformedL4)? = [0, 0];
    let checksum = !total(frame, meta).ok_or(DropReason::MalformedL4)?;
    *field(frame, at).ok_or(DropReason::MalformedL4)? = checksum.to_be_bytes();
    Ok(())
}

/// The source address, v4-mapped where it is IPv4.
fn source(frame: &[u8], meta: &Meta) -> Option<Ipv6Addr> {
    let header = frame.get(usize::from(meta.l3_off)..)?;
    if meta.l3 == L3::V4 {
        let octets: [u8; 4] = *header.get(12..)?.first_chunk()?;
        return Some(Ipv4Addr::from(octets).to_ipv6_mapped());
    }
    let octets: [u8; 16] = *header.get(8..)?.first_chunk()?;
    Some(octets.into())
}

/// What a message of ICMPv6 is summed with (RFC 4443 section 2.3); ICMP has nothing.
fn pseudo(frame: &[u8], meta: &Meta) -> Option<u16> {
    if meta.l3 == L3::V4 {
        return Some(0);
    }
    let octets: [u8; 32] = *frame.get(usize::from(meta.l3_off).saturating_add(8)..)?.first_chunk()?;
    let length = meta.l3_end.saturating_sub(u32::from(meta.l4_off));
    // Two addresses that are nothing add nothing.
    let rest = checksum::pseudo(Ipv6Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED, PROTO_ICMPV6, length);
    Some(checksum::add(sum(&octets), rest))
}

/// The sum over the whole message: 0xffff where its checksum is right.
fn total(frame: &[u8], meta: &Meta) -> Option<u16> {
    let message = frame.get(usize::from(meta.l4_off)..meta.l3_end as usize)?;
    Some(checksum::add(pseudo(frame, meta)?, sum(message)))
}

/// The quoted packet as its sender knows it. Its checksums change by the same (RFC 5508 section 4.2.1 REQ-4 (c)), as far
/// as they are quoted; what is not there is not missed.
fn quotation(frame: &mut [u8], meta: &Meta, quoted: &Quoted, dst: Ipv6Addr, nat: &Nat) -> Option<()> {
    let before = &quoted.key;
    // The error goes to who sent the packet.
    let src = nat.dst;
    let address = Delta::address(before.src, src).and(Delta::address(before.dst, dst));
    let (l3, l4) = (usize::from(quoted.l3_off), usize::from(quoted.l4_off));
    let end = meta.l3_end as usize;
    let packet = frame.get_mut(..end)?;
    addresses(packet, l3, meta.l3, (src, dst), address)?;
    if !quoted.has_ports {
        return Some(());
    }
    let query = before.proto == PROTO_ICMP || before.proto == PROTO_ICMPV6;
    let ports = match query {
        true => Delta::word(before.sport, nat.sport),
        false => Delta::word(before.sport, nat.sport).and(Delta::word(before.dport, nat.dport)),
    };
    let part = Nat { proto: before.proto, src, dst, address, l4: ports, ..*nat };
    // Of a UDP datagram the checksum may be 0, and stays so; what is cut before its checksum has none.
    transport(packet, l4, Csum::Full, &part).or(Some(()))
}

/// `N` bytes at `at`, to be changed.
fn field<const N: usize>(header: &mut [u8], at: usize) -> Option<&mut [u8; N]> {
    header.get_mut(at..)?.first_chunk_mut()
}
