//! ICMP and ICMPv6 errors, and when to keep silent.

use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv4TimeExceeded, Icmpv6DstUnreachable,
    Icmpv6Message, Icmpv6Packet, Icmpv6ParamProblem, Icmpv6TimeExceeded,
};
use switch::checksum::sum;
use switch::flow::{Csum, Fragment, Gso, L3, Meta, Packet};
use switch::parse::{PROTO_ICMP, PROTO_ICMPV6};

use super::{NotSent, is_directed_broadcast, is_one_host};
use crate::build::{self, HOPS, Ip, Link, Origin, field};
use crate::forward::header_verifies;

const ICMP_LEN: usize = 8;
/// RFC 1812 section 4.3.2.3: as much of the packet as fits in 576 bytes with both headers.
const V4_QUOTE_MAX: usize = 576 - 20 - ICMP_LEN;
/// RFC 4443 section 2.4 (c): the same in the minimum MTU, 1280.
const V6_QUOTE_MAX: usize = 1280 - 40 - ICMP_LEN;

/// What is wrong with a packet. One list for both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No route: network unreachable (3/0); no route to destination (1/0).
    NoRoute,
    /// The next hop does not answer: host unreachable (3/1); address unreachable (1/3).
    Unresolved,
    /// We do not speak its protocol: protocol unreachable (3/2); parameter problem, unrecognized next header (4/1).
    Protocol,
    /// Nobody listens: port unreachable (3/3; 1/4).
    Port,
    /// Policy: communication administratively prohibited (3/13; 1/1).
    Prohibited,
    /// Longer than the next link takes: fragmentation needed (3/4, RFC 1191 section 4); packet too big (2/0).
    TooBig {
        /// MTU of that link, bytes of IP packet.
        mtu: u32,
    },
    /// TTL or hop limit used up: time exceeded in transit (11/0; 3/0).
    TimeExceeded,
    /// It was put together here, and not complete in time: fragment reassembly time exceeded (11/1; 3/1).
    Incomplete,
}

/// Writes the error `problem` about `frame` to `out`, back to where it came from, and returns its length in bytes.
///
/// `packet` is `frame` as parsed, `frame` is as received (TTL not yet lowered); `prefix_len` is that of the subnet
/// which `origin.address` is in, so that its broadcast address is known. The limiter is asked by the caller.
///
/// # Errors
/// Why no error may be sent about this packet, or [`NotSent::NoRoom`].
#[cold]
pub fn build(
    frame: &[u8],
    packet: &Packet,
    problem: Problem,
    origin: &Origin,
    prefix_len: u8,
    out: &mut [u8],
) -> Result<usize, NotSent> {
    may_send(frame, packet, problem, origin, prefix_len)?;
    write(frame, packet, problem, origin, out).ok_or(NotSent::NoRoom)
}

/// The rules of RFC 1812 section 4.3.2.7, RFC 1122 section 3.2.2 and RFC 4443 section 2.4 (e).
fn may_send(
    frame: &[u8],
    packet: &Packet,
    problem: Problem,
    origin: &Origin,
    prefix_len: u8,
) -> Result<(), NotSent> {
    let meta = &packet.meta;
    let ours_v4 = origin.address.to_ipv4_mapped().is_some();
    if !matches!((meta.l3, ours_v4), (L3::V4, true) | (L3::V6, false)) {
        return Err(NotSent::Family);
    }
    // RFC 1812 section 4.3.2.7: a packet that fails the validation of its header.
    if !header_verifies(frame, meta) {
        return Err(NotSent::BadHeader);
    }
    // RFC 1812 section 4.3.2.7, RFC 1122 section 3.2.2: later fragments. RFC 4443 allows them, and a too big one must
    // be told of; but of which ICMPv6 message it is a part, (e.1) or not, nobody can say.
    if meta.fragment == Fragment::Later && (meta.l3 == L3::V4 || packet.key.proto == PROTO_ICMPV6) {
        return Err(NotSent::Fragment);
    }
    if is_silent_icmp(packet) {
        return Err(NotSent::AboutIcmp);
    }
    // RFC 4443 section 2.4 (e.3) to (e.5): path MTU discovery works for multicast.
    let excepted = meta.l3 == L3::V6 && matches!(problem, Problem::TooBig { .. });
    // RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e.4), (e.5). The error is sent to the frame's source.
    if (meta.dst.is_group() && !excepted) || meta.src.is_group() {
        return Err(NotSent::GroupMac);
    }
    // RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e.3).
    if is_group(packet, origin, prefix_len) && !excepted {
        return Err(NotSent::GroupDestination);
    }
    // RFC 1812 section 4.3.2.7, RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e.6).
    if !is_one_host(packet, origin.address, prefix_len) {
        return Err(NotSent::BadSource);
    }
    Ok(())
}

/// Whether it is an ICMP message about which nothing is said.
fn is_silent_icmp(packet: &Packet) -> bool {
    let [kind, _] = packet.key.dport.to_be_bytes();
    match (packet.meta.l3, packet.key.proto) {
        // RFC 1122 section 3.2.2: errors, redirects among them; RFC 1812 section 4.3.2.1: unknown types are discarded
        // in silence. Left are the queries: echo, router discovery, timestamp, information, mask, extended echo.
        (L3::V4, PROTO_ICMP) => !matches!(kind, 0 | 8..=10 | 13..=18 | 42 | 43),
        // RFC 4443 section 2.1: all types below 128 are errors (e.1); RFC 4861 section 8: 137 is redirect (e.2).
        (L3::V6, PROTO_ICMPV6) => kind < 128 || kind == 137,
        _ => false,
    }
}

/// Whether it was sent to many.
fn is_group(packet: &Packet, origin: &Origin, prefix_len: u8) -> bool {
    match packet.key.dst.to_ipv4_mapped().filter(|_| packet.meta.l3 == L3::V4) {
        // RFC 1122 section 3.2.1.3 and 3.3.6: 0.0.0.0 is broadcast in its old form.
        Some(dst) => {
            let broadcast = dst.is_broadcast() || dst.is_unspecified();
            broadcast || dst.is_multicast() || is_directed_broadcast(dst, origin.address, prefix_len)
        }
        None => packet.key.dst.is_multicast(),
    }
}

fn write(frame: &[u8], packet: &Packet, problem: Problem, origin: &Origin, out: &mut [u8]) -> Option<usize> {
    let meta = &packet.meta;
    let v4 = meta.l3 == L3::V4;
    let original = frame.get(usize::from(meta.l3_off)..meta.l3_end as usize)?;
    let quote_max = if v4 { V4_QUOTE_MAX } else { V6_QUOTE_MAX };
    let quoted = original.get(..original.len().min(quote_max))?;
    let link = Link { src: origin.mac, dst: meta.src };
    let ip = Ip {
        src: origin.address,
        dst: packet.key.src,
        proto: if v4 { PROTO_ICMP } else { PROTO_ICMPV6 },
        tos: if v4 { tos(meta.tos) } else { 0 },
        hops: HOPS,
    };
    let (len, message) = build::packet(out, &link, &ip, quoted.len().checked_add(ICMP_LEN)?)?;
    let quotation = message.get_mut(ICMP_LEN..)?;
    quotation.copy_from_slice(quoted);
    complete(frame, meta, quotation);
    if v4 {
        header_v4(message, problem)?;
    } else {
        header_v6(message, problem, next_header_pointer(original, meta)?, &ip);
    }
    Some(len)
}

/// RFC 1812 section 4.3.2.5: the TOS of the packet, precedence 6. Without its ECN bits: nobody marks an ICMP error
/// (RFC 3168 section 5).
const fn tos(of_packet: u8) -> u8 {
    (of_packet & 0x1c) | 0xc0
}

/// Quotes the L4 checksum as it would have been on a wire. A partial one is completed: the frame has the whole payload
/// even where the quotation does not. A super-frame's is left: it stands for many checksums, and no reader of the
/// quotation can verify one over a payload that was cut off.
fn complete(frame: &[u8], meta: &Meta, quotation: &mut [u8]) -> Option<()> {
    let l4 = usize::from(meta.l4_off);
    let (start, at) = match meta.csum {
        Csum::Full | Csum::Verified => return None,
        _ if meta.gso != Gso::None => return None,
        Csum::Partial if meta.tcp.is_some() => (l4, l4.checked_add(16)?),
        Csum::Partial => (l4, l4.checked_add(6)?),
        Csum::Inner { start, field } => (usize::from(start), usize::from(field)),
    };
    let value = !sum(frame.get(start..meta.l3_end as usize)?);
    // RFC 768: UDP must not say 0; to TCP both forms are the same.
    let value = if value == 0 && meta.tcp.is_none() { 0xffff } else { value };
    *field(quotation, at.checked_sub(usize::from(meta.l3_off))?)? = value.to_be_bytes();
    Some(())
}

fn header_v4(message: &mut [u8], problem: Problem) -> Option<()> {
    let unreachable = |reason: Icmpv4DstUnreachable| (Icmpv4Message::DstUnreachable, reason.into());
    let (kind, code) = match problem {
        Problem::NoRoute => unreachable(Icmpv4DstUnreachable::NetUnreachable),
        Problem::Unresolved => unreachable(Icmpv4DstUnreachable::HostUnreachable),
        Problem::Protocol => unreachable(Icmpv4DstUnreachable::ProtoUnreachable),
        Problem::Port => unreachable(Icmpv4DstUnreachable::PortUnreachable),
        Problem::Prohibited => unreachable(Icmpv4DstUnreachable::CommProhibited),
        Problem::TooBig { .. } => unreachable(Icmpv4DstUnreachable::FragRequired),
        Problem::TimeExceeded => (Icmpv4Message::TimeExceeded, Icmpv4TimeExceeded::TtlExpired.into()),
        Problem::Incomplete => (Icmpv4Message::TimeExceeded, Icmpv4TimeExceeded::FragExpired.into()),
    };
    if let Problem::TooBig { mtu } = problem {
        // RFC 1191 section 4: the low half of the unused word.
        *field(message, 6)? = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
    }
    let mut header = Icmpv4Packet::new_unchecked(message);
    header.set_msg_type(kind);
    header.set_msg_code(code);
    header.fill_checksum();
    Some(())
}

fn header_v6(message: &mut [u8], problem: Problem, pointer: u32, ip: &Ip) {
    let mut header = Icmpv6Packet::new_unchecked(message);
    let unreachable = |reason: Icmpv6DstUnreachable| (Icmpv6Message::DstUnreachable, reason.into());
    let (kind, code) = match problem {
        Problem::NoRoute => unreachable(Icmpv6DstUnreachable::NoRoute),
        Problem::Unresolved => unreachable(Icmpv6DstUnreachable::AddrUnreachable),
        Problem::Port => unreachable(Icmpv6DstUnreachable::PortUnreachable),
        Problem::Prohibited => unreachable(Icmpv6DstUnreachable::AdminProhibit),
        Problem::Protocol => {
            header.set_param_problem_ptr(pointer);
            (Icmpv6Message::ParamProblem, Icmpv6ParamProblem::UnrecognizedNxtHdr.into())
        }
        Problem::TooBig { mtu } => {
            header.set_pkt_too_big_mtu(mtu);
            (Icmpv6Message::PktTooBig, 0)
        }
        Problem::TimeExceeded => (Icmpv6Message::TimeExceeded, Icmpv6TimeExceeded::HopLimitExceeded.into()),
        Problem::Incomplete => (Icmpv6Message::TimeExceeded, Icmpv6TimeExceeded::FragReassemExceeded.into()),
    };
    header.set_msg_type(kind);
    header.set_msg_code(code);
    header.fill_checksum(&ip.src, &ip.dst);
}

/// Where in the IPv6 packet the number of its L4 protocol stands (RFC 4443 section 3.4). The parser has walked the
/// same chain and found it sound.
fn next_header_pointer(packet: &[u8], meta: &Meta) -> Option<u32> {
    const NEXT_HEADER: usize = 6;
    const V6_LEN: usize = 40;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    let end = usize::from(meta.l4_off.checked_sub(meta.l3_off)?);
    let (mut pointer, mut at) = (NEXT_HEADER, V6_LEN);
    while at < end {
        let next = *packet.get(pointer)?;
        let len = usize::from(*packet.get(at.checked_add(1)?)?);
        let size = match next {
            FRAGMENT => 8,
            // RFC 4302 section 2.2: in units of 4 bytes, minus 2.
            AUTHENTICATION => len * 4 + 8,
            _ => len * 8 + 8,
        };
        pointer = at;
        at = at.checked_add(size)?;
    }
    u32::try_from(pointer).ok()
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
