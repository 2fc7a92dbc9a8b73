//! Echo replies of gateway addresses (RFC 792, RFC 4443 section 4.2).

use switch::checksum::{Delta, add, pseudo, sum};
use switch::flow::{Fragment, L3, Packet};
use switch::parse::{PROTO_ICMP, PROTO_ICMPV6};

use super::{NotSent, is_one_host};
use crate::build::{HOPS, field};
use crate::forward::header_verifies;

const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;

/// Turns the echo request `frame`, which is for an address of ours, into its reply: same length, same tags, back to
/// the MAC it came from. (A caller that may not edit it copies it first.)
///
/// # Errors
/// Why there is no reply; the frame is then as it was.
#[cold]
pub fn reply(frame: &mut [u8], packet: &Packet) -> Result<(), NotSent> {
    may_reply(frame, packet)?;
    write(frame, packet).ok_or(NotSent::NoRoom)
}

fn may_reply(frame: &[u8], packet: &Packet) -> Result<(), NotSent> {
    let (meta, key) = (&packet.meta, &packet.key);
    let [kind, _] = key.dport.to_be_bytes();
    match (meta.l3, key.proto, kind) {
        // Without reassembly a part of a request is none.
        (L3::V4, PROTO_ICMP, _) | (L3::V6, PROTO_ICMPV6, _) if meta.fragment != Fragment::No => {
            return Err(NotSent::Fragment);
        }
        (L3::V4, PROTO_ICMP, REQUEST_V4) | (L3::V6, PROTO_ICMPV6, REQUEST_V6) => {}
        _ => return Err(NotSent::NotEcho),
    }
    if !header_verifies(frame, meta) {
        return Err(NotSent::BadHeader);
    }
    // RFC 1122 section 3.2.2.6 lets a host be silent to groups, RFC 1812 section 4.3.3.6 a router: many would answer.
    if meta.dst.is_group() || meta.src.is_group() {
        return Err(NotSent::GroupMac);
    }
    let group_v4 = key.dst.to_ipv4_mapped().is_some_and(|dst| dst.is_multicast() || dst.is_broadcast());
    if group_v4 || key.dst.is_multicast() {
        return Err(NotSent::GroupDestination);
    }
    // The reply goes to the source, so it must be one host as for an error. Which subnet it is in does not matter: the
    // MAC is that of one.
    if !is_one_host(packet, key.dst, 0) {
        return Err(NotSent::BadSource);
    }
    // RFC 1812 section 5.2.2 for what is ours; a reply with a checksum mended by us would hide the damage.
    if !verifies(frame, packet) {
        return Err(NotSent::BadChecksum);
    }
    Ok(())
}

fn verifies(frame: &[u8], packet: &Packet) -> bool {
    let meta = &packet.meta;
    let Some(message) = frame.get(usize::from(meta.l4_off)..meta.l3_end as usize) else { return false };
    let Ok(len) = u32::try_from(message.len()) else { return false };
    let header = match meta.l3 {
        L3::V6 => pseudo(packet.key.src, packet.key.dst, PROTO_ICMPV6, len),
        _ => 0,
    };
    add(header, sum(message)) == 0xffff
}

fn write(frame: &mut [u8], packet: &Packet) -> Option<()> {
    let meta = &packet.meta;
    let (l3, l4) = (usize::from(meta.l3_off), usize::from(meta.l4_off));
    let (head, message) = frame.split_at_mut_checked(l4)?;
    let (link, network) = head.split_at_mut_checked(l3)?;
    let kind = match meta.l3 {
        L3::V4 => turn_v4(network)?,
        _ => turn_v6(network)?,
    };
    // Swapping the addresses of the pseudo-header changes no sum: only type and code do.
    let (start, _) = message.split_first_chunk_mut::<4>()?;
    let [old_kind, old_code, c0, c1] = *start;
    let delta = Delta::word(u16::from_be_bytes([old_kind, old_code]), u16::from_be_bytes([kind, 0]));
    let [c0, c1] = delta.full(u16::from_be_bytes([c0, c1])).to_be_bytes();
    *start = [kind, 0, c0, c1];
    let macs = link.first_chunk_mut::<12>()?;
    macs.rotate_left(6);
    Some(())
}

/// Swaps the addresses of an IPv4 header, whose options stay; returns the type of the reply.
fn turn_v4(header: &mut [u8]) -> Option<u8> {
    header.get_mut(12..20)?.rotate_left(4);
    *header.get_mut(8)? = HOPS;
    *field(header, 10)? = [0, 0];
    *field(header, 10)? = (!sum(header)).to_be_bytes();
    Some(REPLY_V4)
}

/// The same of an IPv6 header.
fn turn_v6(header: &mut [u8]) -> Option<u8> {
    header.get_mut(8..40)?.rotate_left(16);
    *header.get_mut(7)? = HOPS;
    Some(REPLY_V6)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{
        FAR, HOST, HOST_MAC, HOST6, OUR_MAC, OURS, OURS6, echo, ethernet, icmp4, icmp6, parse, summed, udp4,
        v4, verified,
    };

    fn refused(frame: &[u8]) -> NotSent {
        let mut after = frame.to_vec();
        let error = reply(&mut after, &parse(frame)).unwrap_err();
        assert_eq!(after, frame, "changed although refused");
        error
    }

    proptest! {
        #[test]
        fn a_request_becomes_its_reply(data in prop::collection::vec(any::<u8>(), 0..300), code: u8) {
            let mut request = echo(8, &data);
            request[1] = code;
            let mut four = icmp4(OURS, 0x4000, &request);
            let mut six = icmp6(HOST6, OURS6, 9, &[&[128, code], &request[2..]].concat());
            for (frame, kind) in [(&mut four, 0), (&mut six, 129)] {
                let before = parse(frame);
                prop_assert_eq!(reply(frame, &before), Ok(()));
                let after = verified(frame);
                prop_assert_eq!((after.key.src, after.key.dst), (before.key.dst, before.key.src));
                prop_assert_eq!((after.meta.src, after.meta.dst), (OUR_MAC, HOST_MAC));
                prop_assert_eq!((after.key.sport, after.key.dport), (0x1234, kind << 8));
                prop_assert_eq!((after.meta.ttl, after.meta.tos), (64, 0x2b));
                prop_assert_eq!(&frame[usize::from(after.meta.headers_len)..], &data);
            }
        }
    }

    #[test]
    fn the_largest_and_one_with_options() {
        let mut frame = icmp4(OURS, 0, &echo(8, &vec![7; 65_535 - 28]));
        let packet = parse(&frame);
        reply(&mut frame, &packet).unwrap();
        verified(&frame);
        let l4 = summed(HOST.to_ipv6_mapped(), OURS.to_ipv6_mapped(), 1, 2, echo(8, b"odd"));
        let mut frame =
            ethernet(HOST_MAC, OUR_MAC, 0x0800, &v4(HOST, OURS, 1, 0, &[7, 7, 4, 0, 0, 0, 0, 0], &l4));
        let packet = parse(&frame);
        reply(&mut frame, &packet).unwrap();
        assert_eq!(verified(&frame).meta.l4_off, 42);
    }

    #[test]
    fn refused_with_a_name() {
        let good = icmp4(OURS, 0, &echo(8, b"data"));
        let with = |at: usize, byte: u8| {
            let mut frame = good.clone();
            frame[at] ^= byte;
            frame
        };
        let from = |src: Ipv4Addr, dst: Ipv4Addr| {
            let l4 = summed(src.to_ipv6_mapped(), dst.to_ipv6_mapped(), 1, 2, echo(8, b"data"));
            ethernet(HOST_MAC, OUR_MAC, 0x0800, &v4(src, dst, 1, 0, &[], &l4))
        };
        assert_eq!(refused(&with(40, 1)), NotSent::BadChecksum);
        assert_eq!(refused(&with(15, 4)), NotSent::BadHeader);
        assert_eq!(refused(&with(0, 1)), NotSent::GroupMac);
        assert_eq!(refused(&with(6, 1)), NotSent::GroupMac);
        assert_eq!(refused(&icmp4(OURS, 0, &echo(0, b"data"))), NotSent::NotEcho);
        assert_eq!(refused(&icmp4(OURS, 0x2000, &echo(8, &[0; 8]))), NotSent::Fragment);
        assert_eq!(refused(&udp4(0, &[], &[])), NotSent::NotEcho);
        assert_eq!(refused(&from(HOST, Ipv4Addr::BROADCAST)), NotSent::GroupDestination);
        assert_eq!(refused(&from(HOST, Ipv4Addr::new(224, 0, 0, 1))), NotSent::GroupDestination);
        assert_eq!(refused(&from(Ipv4Addr::BROADCAST, OURS)), NotSent::BadSource);
        assert_eq!(refused(&from(OURS, OURS)), NotSent::BadSource);
        assert_eq!(refused(&from(Ipv4Addr::UNSPECIFIED, FAR)), NotSent::BadSource);
        assert_eq!(
            refused(&icmp6(HOST6, crate::nd::ALL_NODES, 9, &echo(128, &[]))),
            NotSent::GroupDestination
        );
        assert_eq!(refused(&icmp6(HOST6, OURS6, 9, &echo(8, &[]))), NotSent::NotEcho);
        let mut six = icmp6(HOST6, OURS6, 9, &echo(128, &[1]));
        *six.last_mut().unwrap() = 2;
        assert_eq!(refused(&six), NotSent::BadChecksum);
    }
}
