//! TCP, UDP, SCTP and ICMP headers, and the packet quoted by an ICMP error.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::ip::{Net, is_mapped, walk};
use super::{PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP, array, nd};
use crate::drop::DropReason;
use crate::flow::{Body, FlowKey, Fragment, L3, Quoted, TcpMeta};

const BAD: DropReason = DropReason::MalformedL4;
const TCP_LEN: usize = 20;
const SYN: u8 = 2;
const UDP_LEN: usize = 8;
const SCTP_LEN: usize = 12;
const ICMP_LEN: usize = 8;

/// The transport layer of one packet.
#[derive(Clone, Copy)]
pub(super) struct L4 {
    pub sport: u16,
    pub dport: u16,
    /// Offset of the end of all headers.
    pub headers_end: usize,
    /// Offset of the end of the datagram: before `Net::end` where a UDP length says so.
    pub end: usize,
    pub tcp: Option<TcpMeta>,
    pub body: Body,
}

impl L4 {
    /// No header that we know, at the offset `at`.
    pub(super) const fn none(at: usize) -> Self {
        Self { sport: 0, dport: 0, headers_end: at, end: at, tcp: None, body: Body::None }
    }
}

/// The L4 header of a packet whose network layer is `net`.
pub(super) fn parse(frame: &[u8], net: &Net, zone: u16) -> Result<L4, DropReason> {
    let packet = frame.get(..net.end).ok_or(BAD)?;
    if net.fragment == Fragment::Later {
        // RFC 1858 section 4: a later fragment that reaches into the TCP header exists to rewrite it.
        let tiny = net.proto == PROTO_TCP && net.fragment_offset < TCP_LEN;
        return if tiny { Err(BAD) } else { Ok(L4::none(net.l4_off)) };
    }
    match (net.proto, net.l3) {
        (PROTO_TCP, _) => tcp(packet, net.l4_off),
        (PROTO_UDP, _) => udp(packet, net.l4_off, net.fragment == Fragment::First),
        (PROTO_SCTP, _) => sctp(packet, net.l4_off),
        (PROTO_ICMP, L3::V4) => icmp_v4(packet, net, zone),
        (PROTO_ICMPV6, L3::V6) => icmp_v6(packet, net, zone),
        _ => Ok(L4::none(net.l4_off)),
    }
}

/// RFC 9293 section 3.1. Of a fragment the first must hold the whole header (RFC 1858, RFC 7112).
#[inline(always)]
pub(super) fn tcp(packet: &[u8], at: usize) -> Result<L4, DropReason> {
    let header: &[u8; TCP_LEN] = array(packet, at).ok_or(BAD)?;
    let [s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, offset, flags, w0, w1, ..] = *header;
    let header_len = usize::from(offset >> 4) * 4;
    let headers_end = at.saturating_add(header_len);
    let payload = packet.len().checked_sub(headers_end).ok_or(BAD)?;
    if header_len < TCP_LEN {
        return Err(BAD);
    }
    Ok(L4 {
        sport: u16::from_be_bytes([s0, s1]),
        dport: u16::from_be_bytes([d0, d1]),
        headers_end,
        end: packet.len(),
        tcp: Some(TcpMeta {
            flags,
            seq: u32::from_be_bytes([q0, q1, q2, q3]),
            ack: u32::from_be_bytes([a0, a1, a2, a3]),
            window: u16::from_be_bytes([w0, w1]),
            payload: u32::try_from(payload).map_err(|_| BAD)?,
            scale: if flags & SYN != 0 {
                scale(packet.get(at.saturating_add(TCP_LEN)..headers_end))
            } else {
                None
            },
        }),
        body: Body::None,
    })
}

/// The window scale option (RFC 7323 section 2.2: kind 3, length 3; more than 14 counts as 14).
#[cold]
fn scale(options: Option<&[u8]>) -> Option<u8> {
    let mut options = options?;
    loop {
        match *options {
            [3, 3, shift, ..] => return Some(shift.min(14)),
            // RFC 9293 section 3.1: end of the list, and padding.
            [0, ..] | [] => return None,
            [1, ref rest @ ..] => options = rest,
            [_, len, ..] => options = options.get(usize::from(len).max(2)..)?,
            [_] => return None,
        }
    }
}

/// RFC 768. A length of 0 would be a jumbogram (RFC 2675); super-frames carry their whole length, so it is never one.
/// `first`: a fragment, and more follow.
#[inline(always)]
pub(super) fn udp(packet: &[u8], at: usize, first: bool) -> Result<L4, DropReason> {
    let &[s0, s1, d0, d1, l0, l1, _, _] = array::<UDP_LEN>(packet, at).ok_or(BAD)?;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    let end = at.saturating_add(len);
    // The first of many fragments has the length of them all. A length shorter than the packet is legal (RFC 9868).
    let over = end > packet.len() && !first;
    if len < UDP_LEN || over {
        return Err(BAD);
    }
    Ok(L4 {
        sport: u16::from_be_bytes([s0, s1]),
        dport: u16::from_be_bytes([d0, d1]),
        headers_end: at.saturating_add(UDP_LEN),
        end,
        tcp: None,
        body: Body::None,
    })
}

/// RFC 9260 section 3.1: the common header.
fn sctp(packet: &[u8], at: usize) -> Result<L4, DropReason> {
    let &[s0, s1, d0, d1, ..] = array::<SCTP_LEN>(packet, at).ok_or(BAD)?;
    Ok(L4 {
        sport: u16::from_be_bytes([s0, s1]),
        dport: u16::from_be_bytes([d0, d1]),
        headers_end: at.saturating_add(SCTP_LEN),
        end: packet.len(),
        tcp: None,
        body: Body::None,
    })
}

/// Type, code and, where `query` has one, the identifier, as the ports of a key.
fn icmp_ports(header: &[u8; ICMP_LEN], query: fn(u8) -> bool) -> (u16, u16) {
    let &[kind, code, _, _, i0, i1, _, _] = header;
    let identifier = if query(kind) { u16::from_be_bytes([i0, i1]) } else { 0 };
    (identifier, u16::from_be_bytes([kind, code]))
}

/// Echo, timestamp, information and mask, requests and replies (RFC 792, RFC 950).
const fn is_query_v4(kind: u8) -> bool {
    matches!(kind, 0 | 8 | 13..=18)
}

/// Echo request and reply (RFC 4443 section 4).
const fn is_query_v6(kind: u8) -> bool {
    matches!(kind, 128 | 129)
}

fn icmp(packet: &[u8], at: usize, query: fn(u8) -> bool) -> Result<L4, DropReason> {
    let (sport, dport) = icmp_ports(array(packet, at).ok_or(BAD)?, query);
    let headers_end = at.saturating_add(ICMP_LEN);
    Ok(L4 { sport, dport, headers_end, end: packet.len(), tcp: None, body: Body::None })
}

/// RFC 792: unreachable, source quench, redirect, time exceeded and parameter problem quote a packet.
fn icmp_v4(packet: &[u8], net: &Net, zone: u16) -> Result<L4, DropReason> {
    let mut l4 = icmp(packet, net.l4_off, is_query_v4)?;
    if matches!(l4.dport >> 8, 3 | 4 | 5 | 11 | 12) {
        l4.body = Body::IcmpError(quoted(packet, l4.headers_end, L3::V4, zone)?);
    }
    Ok(l4)
}

/// RFC 4443: the types 1 to 4 are the errors that quote a packet; RFC 4861: 133 to 137 are neighbour discovery.
fn icmp_v6(packet: &[u8], net: &Net, zone: u16) -> Result<L4, DropReason> {
    let mut l4 = icmp(packet, net.l4_off, is_query_v6)?;
    match l4.dport >> 8 {
        1..=4 => l4.body = Body::IcmpError(quoted(packet, l4.headers_end, L3::V6, zone)?),
        133..=137 => l4.body = Body::Nd(nd::parse(packet, net)?),
        _ => {}
    }
    Ok(l4)
}

/// The packet quoted at `at`. What is cut off or makes no sense is left out, it is no reason to drop the error: its
/// lengths were written by one stranger and copied by another.
#[cold]
fn quoted(packet: &[u8], at: usize, l3: L3, zone: u16) -> Result<Quoted, DropReason> {
    let head = match l3 {
        L3::V6 => quoted_v6(packet, at),
        _ => quoted_v4(packet, at),
    };
    let head = head.unwrap_or(Head { key: FlowKey::NONE, l4_off: at, later: true });
    let mut key = FlowKey { zone, ..head.key };
    let ports = if head.later { None } else { quoted_ports(packet, head.l4_off, key.proto, l3) };
    (key.sport, key.dport) = ports.unwrap_or((0, 0));
    Ok(Quoted {
        key,
        l3_off: u16::try_from(at).map_err(|_| BAD)?,
        l4_off: u16::try_from(head.l4_off.min(packet.len())).map_err(|_| BAD)?,
        has_ports: ports.is_some(),
    })
}

/// The IP header of a quoted packet.
struct Head {
    key: FlowKey,
    l4_off: usize,
    /// Whether its L4 header is not there: a later fragment, or unreadable.
    later: bool,
}

fn quoted_v4(packet: &[u8], at: usize) -> Option<Head> {
    let header: &[u8; 20] = array(packet, at)?;
    let [first, _, _, _, _, _, f0, f1, _, proto, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    let header_len = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header_len < 20 {
        return None;
    }
    let src = Ipv4Addr::new(s0, s1, s2, s3).to_ipv6_mapped();
    let dst = Ipv4Addr::new(d0, d1, d2, d3).to_ipv6_mapped();
    Some(Head {
        key: FlowKey { proto, src, dst, ..FlowKey::NONE },
        l4_off: at.saturating_add(header_len),
        later: u16::from_be_bytes([f0, f1]) & 0x1fff != 0,
    })
}

fn quoted_v6(packet: &[u8], at: usize) -> Option<Head> {
    let header: &[u8; 40] = array(packet, at)?;
    let (&[first, _, _, _, _, _, next, _], addresses) = header.split_first_chunk::<8>()?;
    if first >> 4 != 6 {
        return None;
    }
    let (src, dst) = addresses.split_first_chunk::<16>()?;
    let (src, dst) = (Ipv6Addr::from(*src), Ipv6Addr::from(*dst.first_chunk()?));
    // No packet of ours had these; as a key it would be one of IPv4.
    if is_mapped(src) || is_mapped(dst) {
        return None;
    }
    let key = FlowKey { proto: next, src, dst, ..FlowKey::NONE };
    let start = at.saturating_add(header.len());
    Some(match walk(packet, start, next) {
        Ok(chain) => Head {
            key: FlowKey { proto: chain.proto, ..key },
            l4_off: chain.l4_off,
            later: chain.piece.is_some_and(|(piece, _)| piece.offset != 0),
        },
        Err(_) => Head { key, l4_off: start, later: true },
    })
}

/// The l4 ports of a quoted packet. An error quoted by an error has its type and code, and that is where it ends.
fn quoted_ports(packet: &[u8], at: usize, proto: u8, l3: L3) -> Option<(u16, u16)> {
    match (proto, l3) {
        (PROTO_TCP | PROTO_UDP | PROTO_SCTP, _) => {
            let &[s0, s1, d0, d1] = array(packet, at)?;
            Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
        }
        (PROTO_ICMP, L3::V4) => Some(icmp_ports(array(packet, at)?, is_query_v4)),
        (PROTO_ICMPV6, L3::V6) => Some(icmp_ports(array(packet, at)?, is_query_v6)),
        _ => None,
    }
}
