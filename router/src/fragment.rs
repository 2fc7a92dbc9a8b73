//! IPv4 fragmentation (RFC 791 section 3.2), for packets that allow it and links that are too narrow.
//!
//! Nothing is kept and nothing allocated: each fragment is made by its index, from the packet as it is.

use switch::checksum::sum;
use switch::flow::{Csum, Gso, L3, Meta};

use crate::build::field;

/// Bytes of an IPv4 header without options.
const V4_LEN: usize = 20;
/// Bytes of the largest IPv4 header.
const V4_MAX: usize = 60;
/// Bytes of the LLC and SNAP headers between an 802.3 length and the packet.
const SNAP_LEN: usize = 8;
/// Bytes of an IPv6 header, and of a fragment header.
const V6_LEN: usize = 40;
const V6_FRAGMENT: usize = 8;
/// The number of the fragment header.
const FRAGMENT_HEADER: u8 = 44;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// The flags that are not the fragment's own: reserved and Don't Fragment.
const KEPT: u16 = 0xc000;

/// How many fragments the packet of `frame` becomes where at most `mtu` bytes of IP packet fit; 1 where it fits.
///
/// 0 where it may not or cannot be fragmented: it is not IPv4 or says Don't Fragment (both are
/// [`crate::icmp::error::Problem::TooBig`]), it is a super-frame (cut it with [`switch::segment`] first), its checksum
/// is partial (no later fragment has room for the rest: [`switch::checksum::complete`] it first), or not even 8 bytes
/// of data fit.
pub fn count(frame: &[u8], meta: &Meta, mtu: usize) -> usize {
    Plan::new(frame, meta, mtu).map_or(0, |plan| plan.count())
}

/// Writes fragment `index` of the packet in `frame` to the start of `out`, link header included, and returns its
/// length in bytes.
///
/// A packet that fits is its own fragment 0; one that is a fragment already is cut further (RFC 791 section 3.2).
/// `None` where [`count`] has no such fragment, or `out` is too short.
pub fn fragment(frame: &[u8], meta: &Meta, mtu: usize, index: usize, out: &mut [u8]) -> Option<usize> {
    let plan = Plan::new(frame, meta, mtu)?;
    let piece = plan.piece(index)?;
    let link = frame.get(..usize::from(meta.l3_off))?;
    let data = plan.data.get(piece.before..piece.before.checked_add(piece.len)?)?;
    let header = if index == 0 { plan.header } else { plan.later.bytes() };
    let ip_len = header.len().checked_add(data.len())?;
    let len = link.len().checked_add(ip_len)?;
    let (link_out, rest) = out.get_mut(..len)?.split_at_mut_checked(link.len())?;
    let (header_out, data_out) = rest.split_at_mut_checked(header.len())?;
    link_out.copy_from_slice(link);
    set_length(link_out, meta, ip_len)?;
    header_out.copy_from_slice(header);
    data_out.copy_from_slice(data);
    *field(header_out, 2)? = u16::try_from(ip_len).ok()?.to_be_bytes();
    *field(header_out, 6)? = plan.flags(&piece)?.to_be_bytes();
    *field(header_out, 10)? = [0, 0];
    *field(header_out, 10)? = (!sum(header_out)).to_be_bytes();
    Some(len)
}

/// How many fragments a packet of our own becomes, IPv4 or IPv6, without options or extension headers.
pub fn count_of_ours(frame: &[u8], meta: &Meta, mtu: usize) -> usize {
    if meta.l3 == L3::V4 {
        return count(frame, meta, mtu);
    }
    let len = (meta.l3_end as usize).saturating_sub(usize::from(meta.l4_off));
    match room_v6(mtu) {
        _ if len.saturating_add(V6_LEN) <= mtu => 1,
        Some(room) => len.div_ceil(room),
        None => 0,
    }
}

/// Writes one of them, as [`fragment`] does. Of IPv6 the identification is given.
pub fn of_ours(
    frame: &[u8],
    meta: &Meta,
    (mtu, id): (usize, u32),
    index: usize,
    out: &mut [u8],
) -> Option<usize> {
    if meta.l3 == L3::V4 {
        return fragment(frame, meta, mtu, index, out);
    }
    let (head, data) = frame.get(..meta.l3_end as usize)?.split_at_checked(usize::from(meta.l4_off))?;
    if data.len().checked_add(V6_LEN)? <= mtu {
        let whole = frame.get(..meta.l3_end as usize)?;
        out.get_mut(..whole.len())?.copy_from_slice(whole);
        return Some(whole.len());
    }
    let room = room_v6(mtu)?;
    let at = index.checked_mul(room)?;
    let end = data.len().min(at.checked_add(room)?);
    let piece = data.get(at..end)?;
    let len = head.len().checked_add(V6_FRAGMENT)?.checked_add(piece.len())?;
    let (head_out, rest) = out.get_mut(..len)?.split_at_mut_checked(head.len())?;
    let (fragment_out, data_out) = rest.split_at_mut_checked(V6_FRAGMENT)?;
    head_out.copy_from_slice(head);
    let ip = head_out.get_mut(usize::from(meta.l3_off)..)?;
    *field(ip, 4)? = u16::try_from(piece.len().checked_add(V6_FRAGMENT)?).ok()?.to_be_bytes();
    // RFC 8200 section 4.5: the fragment header says what comes behind it.
    let next = std::mem::replace(ip.get_mut(6)?, FRAGMENT_HEADER);
    let [o0, o1] = (u16::try_from(at).ok()? | u16::from(end < data.len())).to_be_bytes();
    let [i0, i1, i2, i3] = id.to_be_bytes();
    fragment_out.copy_from_slice(&[next, 0, o0, o1, i0, i1, i2, i3]);
    data_out.copy_from_slice(piece);
    Some(len)
}

/// Bytes of data in each IPv6 fragment but the last.
fn room_v6(mtu: usize) -> Option<usize> {
    Some(mtu.checked_sub(V6_LEN)?.checked_sub(V6_FRAGMENT)? & !7).filter(|room| *room > 0)
}

/// An 802.3 length, where there is one (LLC and SNAP before the packet), must be the fragment's.
fn set_length(link: &mut [u8], meta: &Meta, ip_len: usize) -> Option<()> {
    let tags = usize::from(meta.vlan.is_some()) + usize::from(meta.inner_vlan.is_some());
    let at = 12 + tags * 4;
    if link.len() == at + 2 + SNAP_LEN {
        *field(link, at)? = u16::try_from(ip_len.checked_add(SNAP_LEN)?).ok()?.to_be_bytes();
    }
    Some(())
}

/// A packet and how it is cut.
struct Plan<'a> {
    /// The header, as received: that of the first fragment.
    header: &'a [u8],
    /// The header of the others.
    later: Header,
    data: &'a [u8],
    /// Flags and offset of the packet itself, which may be a fragment.
    own: u16,
    /// Bytes of data in the first fragment.
    first: usize,
    /// Bytes of data in each of the others but the last.
    each: usize,
}

/// One fragment's place in the data, bytes.
struct Piece {
    before: usize,
    len: usize,
    last: bool,
}

impl<'a> Plan<'a> {
    fn new(frame: &'a [u8], meta: &Meta, mtu: usize) -> Option<Self> {
        let closed = matches!(meta.csum, Csum::Full | Csum::Verified);
        if meta.l3 != L3::V4 || meta.df || meta.gso != Gso::None || !closed {
            return None;
        }
        let (l3, ip_end) = (usize::from(meta.l3_off), meta.l3_end as usize);
        let packet = frame.get(l3..ip_end)?;
        let &[first, _, _, _, _, _, f0, f1, ..] = packet.first_chunk::<V4_LEN>()?;
        let (header, data) = packet.split_at_checked(usize::from(first & 0x0f) * 4)?;
        let later = Header::later(header)?;
        let whole = packet.len() <= mtu;
        let room = |header: usize| Some(mtu.checked_sub(header)? & !7).filter(|room| *room > 0);
        let (first, each) = match whole {
            true => (data.len(), data.len()),
            false => (room(header.len())?, room(later.bytes().len())?),
        };
        Some(Self { header, later, data, own: u16::from_be_bytes([f0, f1]), first, each })
    }

    fn count(&self) -> usize {
        // `each` is 0 only where the packet has no data, and fits.
        let rest = self.data.len().saturating_sub(self.first);
        if rest == 0 { 1 } else { rest.div_ceil(self.each.max(1)).saturating_add(1) }
    }

    fn piece(&self, index: usize) -> Option<Piece> {
        if index >= self.count() {
            return None;
        }
        let (before, room) = match index.checked_sub(1) {
            None => (0, self.first),
            Some(others) => (others.checked_mul(self.each)?.checked_add(self.first)?, self.each),
        };
        let left = self.data.len().checked_sub(before)?;
        Some(Piece { before, len: left.min(room), last: left <= room })
    }

    /// Flags and offset of a piece. Only the last piece of the last fragment is the end of the packet.
    fn flags(&self, piece: &Piece) -> Option<u16> {
        let units = u16::try_from(piece.before / 8).ok()?;
        let offset = (self.own & OFFSET).checked_add(units).filter(|offset| *offset <= OFFSET)?;
        let more = if piece.last { self.own & MORE } else { MORE };
        Some((self.own & KEPT) | more | offset)
    }
}

/// A header that was made here.
struct Header {
    bytes: [u8; V4_MAX],
    len: usize,
}

impl Header {
    /// The header of every fragment but the first: of the options, those that say so are copied (RFC 791 section 3.1).
    fn later(header: &[u8]) -> Option<Self> {
        let (fixed, mut options) = header.split_at_checked(V4_LEN)?;
        let mut made = Self { bytes: [0; V4_MAX], len: 0 };
        made.push(fixed)?;
        while let Some((&kind, rest)) = options.split_first() {
            const COPIED: u8 = 0x80;
            const END: u8 = 0;
            const NO_OPERATION: u8 = 1;
            if kind == END {
                break;
            }
            let len = if kind == NO_OPERATION { 1 } else { usize::from(*rest.first()?).max(2) };
            let (option, behind) = options.split_at_checked(len)?;
            if kind & COPIED != 0 {
                made.push(option)?;
            }
            options = behind;
        }
        // Padding with end-of-options, which is 0.
        made.len = made.len.next_multiple_of(4);
        *made.bytes.first_mut()? = 0x40 | u8::try_from(made.len / 4).ok()?;
        Some(made)
    }

    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len())?;
        self.bytes.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use switch::flow::Fragment;

    use super::*;
    use crate::testing::{FAR, HOST, HOST_MAC, OUR_MAC, ethernet, parse, udp4, udp6, v4, verified};

    const RECORD_ROUTE: [u8; 8] = [7, 7, 4, 0, 0, 0, 0, 0];
    /// Router alert (RFC 2113), copied.
    const ROUTER_ALERT: [u8; 4] = [0x94, 4, 0, 0];

    fn cut(frame: &[u8], mtu: usize) -> Vec<Vec<u8>> {
        let meta = parse(frame).meta;
        let count = count(frame, &meta, mtu);
        let mut out = vec![0xa5; 70_000];
        let pieces: Vec<_> = (0..count)
            .map(|index| {
                let len = fragment(frame, &meta, mtu, index, &mut out).unwrap();
                out[..len].to_vec()
            })
            .collect();
        assert_eq!(fragment(frame, &meta, mtu, count, &mut out), None);
        pieces
    }

    /// The data of the fragments, and whether the end is among them. Every header is verified, none overlap.
    fn reassemble(pieces: &[Vec<u8>], mtu: usize) -> (BTreeMap<usize, Vec<u8>>, bool) {
        let mut data = BTreeMap::new();
        let mut end = false;
        for piece in pieces {
            let meta = parse(piece).meta;
            assert!(crate::forward::header_verifies(piece, &meta));
            assert!(piece.len() - usize::from(meta.l3_off) <= mtu, "{} > {mtu}", piece.len());
            let word = u16::from_be_bytes([piece[20], piece[21]]);
            end |= word & MORE == 0;
            let at = usize::from(word & OFFSET) * 8;
            assert!(data.insert(at, piece[usize::from(meta.l4_off)..].to_vec()).is_none());
        }
        (data, end)
    }

    fn joined(data: BTreeMap<usize, Vec<u8>>, mut at: usize) -> Vec<u8> {
        let mut whole = Vec::new();
        for (offset, bytes) in data {
            assert_eq!(offset, at, "a gap or an overlap");
            at += bytes.len();
            whole.extend(bytes);
        }
        whole
    }

    proptest! {
        #[test]
        fn the_fragments_are_the_packet(len in 0usize..9000, mtu in 68usize..3000, options in 0usize..3) {
            let payload: Vec<u8> = (0..len).map(|index| (index * 7 % 251) as u8).collect();
            let options = &[vec![], RECORD_ROUTE.to_vec(), [ROUTER_ALERT; 2].concat()][options];
            let frame = udp4(0, options, &payload);
            let (data, end) = reassemble(&cut(&frame, mtu), mtu);
            prop_assert!(end);
            prop_assert_eq!(joined(data, 0), &frame[34 + options.len()..]);
        }

        #[test]
        fn fragments_of_fragments_are_the_packet(len in 200usize..6000, wide in 200usize..1500, narrow in 68usize..200) {
            let payload: Vec<u8> = (0..len).map(|index| (index % 253) as u8).collect();
            let frame = udp4(0, &RECORD_ROUTE, &payload);
            let pieces: Vec<_> = cut(&frame, wide).iter().flat_map(|piece| cut(piece, narrow)).collect();
            let (data, end) = reassemble(&pieces, narrow);
            prop_assert!(end);
            prop_assert_eq!(joined(data, 0), &frame[42..]);
        }
    }

    #[test]
    fn a_packet_of_our_own_is_cut_by_us() {
        let payload: Vec<u8> = (0..5000).map(|index| (index * 7 % 251) as u8).collect();
        let frame = udp6(&payload);
        let meta = parse(&frame).meta;
        let mut data = Vec::new();
        let count = count_of_ours(&frame, &meta, 1280);
        assert_eq!(count, 5);
        let mut out = vec![0; 2000];
        for index in 0..count {
            let len = of_ours(&frame, &meta, (1280, 7), index, &mut out).unwrap();
            let piece = parse(&out[..len]);
            assert!(len <= 14 + 1280);
            assert_eq!(piece.meta.fragment_id, 7);
            assert_eq!(piece.meta.fragment == Fragment::First, index == 0);
            assert_eq!((piece.key.src, piece.key.dst), (parse(&frame).key.src, parse(&frame).key.dst));
            data.extend_from_slice(&out[usize::from(meta.l4_off) + 8..len]);
        }
        assert_eq!(data, frame[usize::from(meta.l4_off)..]);
        assert_eq!(of_ours(&frame, &meta, (1280, 7), count, &mut out), None);
        let small = udp6(b"small");
        let meta = parse(&small).meta;
        let len = of_ours(&small, &meta, (1280, 7), 0, &mut out).unwrap();
        assert_eq!((count_of_ours(&small, &meta, 1280), &out[..len]), (1, &small[..]));
    }

    #[test]
    fn only_options_that_say_so_are_copied() {
        let options = [&RECORD_ROUTE[..7], &[1], &ROUTER_ALERT].concat();
        let pieces = cut(&udp4(0, &options, &[7; 500]), 200);
        assert_eq!(pieces[0][34..46], options);
        assert_eq!(pieces[1][14], 0x46);
        assert_eq!(pieces[1][34..38], ROUTER_ALERT);
        assert!(pieces.iter().all(|piece| piece[18..20] == [0xbe, 0xef] && piece[15] == 0x2b));
        assert_eq!(parse(&pieces[1]).meta.fragment, Fragment::Later);
    }

    #[test]
    fn the_middle_of_a_packet_stays_the_middle() {
        // Offset 800, more to come, cut in two: both have more to come.
        let frame = ethernet(HOST_MAC, OUR_MAC, 0x0800, &v4(HOST, FAR, 17, MORE | 100, &[], &[1; 80]));
        let (data, end) = reassemble(&cut(&frame, 68), 68);
        assert!(!end);
        assert_eq!(data.keys().copied().collect::<Vec<_>>(), [800, 848]);
        assert_eq!(joined(data, 800), [1; 80]);
    }

    #[test]
    fn what_fits_is_itself_without_padding() {
        let frame = udp4(0, &[], &[1, 2, 3]);
        let mut padded = frame.clone();
        padded.resize(60, 0xee);
        assert_eq!(cut(&padded, 31), std::slice::from_ref(&frame));
        verified(&frame);
    }

    #[test]
    fn a_length_before_snap_is_the_fragments() {
        let packet = &udp4(0, &[], &[9; 600])[14..];
        let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], packet].concat();
        let frame = ethernet(HOST_MAC, OUR_MAC, snap.len() as u16, &snap);
        let (data, end) = reassemble_snap(&cut(&frame, 300));
        assert!(end);
        assert_eq!(data, packet[20..]);
    }

    fn reassemble_snap(pieces: &[Vec<u8>]) -> (Vec<u8>, bool) {
        let bytes = pieces.iter().flat_map(|piece| {
            let meta = parse(piece).meta;
            assert_eq!(meta.l3_end, meta.frame_len);
            piece[usize::from(meta.l4_off)..].to_vec()
        });
        (bytes.collect(), pieces.last().is_some_and(|piece| piece[28] & 0x20 == 0))
    }

    #[test]
    fn what_may_not_be_cut_is_not() {
        let frame = udp4(0, &[], &[0; 600]);
        let meta = parse(&frame).meta;
        assert_eq!(count(&frame, &meta, 27), 0);
        assert_eq!(count(&frame, &meta, 28), 76);
        for meta in [
            Meta { df: true, ..meta },
            Meta { gso: Gso::Udp { size: 100 }, ..meta },
            Meta { csum: Csum::Partial, ..meta },
            Meta { csum: Csum::Inner { start: 50, field: 60 }, ..meta },
        ] {
            assert_eq!(count(&frame, &meta, 300), 0);
            assert_eq!(fragment(&frame, &meta, 300, 0, &mut [0; 2000]), None);
        }
        assert_eq!(count(&udp4(0x4000, &[], &[0; 600]), &parse(&udp4(0x4000, &[], &[0; 600])).meta, 300), 0);
        let six = udp6(&[0; 600]);
        assert_eq!(count(&six, &parse(&six).meta, 300), 0);
        assert_eq!(fragment(&frame, &meta, 300, 0, &mut [0; 100]), None);
    }
}
