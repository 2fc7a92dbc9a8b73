//! The headers of the frames we make for a container.
//!
//! TCP and UDP leave with a partial checksum, so no payload byte is ever summed, and TCP that is longer than a segment
//! as one super-frame.

use std::net::{Ipv4Addr, Ipv6Addr};

use switch::checksum::{Delta, add, pseudo, sum};
use switch::flow::FlowKey;
use switch::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};
use switch::vnet::VnetHdr;
use zerocopy::IntoBytes;

use super::cx::Cutter;
use super::types::Link;

/// Bytes of an Ethernet header; a tag is put on when the frame is on its way out.
const ETHERNET_LEN: usize = 14;
/// Bytes of a TCP header without options.
pub(super) const TCP_LEN: usize = 20;
/// Bytes of a UDP header.
pub(super) const UDP_LEN: usize = 8;
/// Bytes of an ICMP echo header.
pub(super) const ECHO_LEN: usize = 8;
/// Longest IP packet, bytes.
const IP_MAX: usize = 65_535;
/// What Linux sends with.
const TTL: u8 = 64;

/// What is said in a TCP header.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tcp {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    /// As on the wire: scaled.
    pub window: u16,
    /// Only in a SYN: the MSS we take, and the window scale, where both sides have one.
    pub syn: Option<(u16, Option<u8>)>,
}

impl Tcp {
    /// Bytes of the header with its options.
    pub const fn len(&self) -> usize {
        match self.syn {
            Some((_, Some(_))) => TCP_LEN + 8,
            Some((_, None)) => TCP_LEN + 4,
            None => TCP_LEN,
        }
    }
}

/// TCP flags.
pub(super) mod flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
}

/// Frames of one flow towards its container: `key` is as the container sees its own packets, so source and destination
/// change places here.
#[derive(Clone, Copy)]
pub(super) struct Wire<'a> {
    pub link: &'a Link,
    pub key: &'a FlowKey,
}

/// Writes one thing after the other.
struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.at.checked_add(bytes.len())?;
        self.bytes.get_mut(self.at..end)?.copy_from_slice(bytes);
        self.at = end;
        Some(())
    }
}

/// Whether the flow is IPv4.
pub(super) fn is_v4(key: &FlowKey) -> bool {
    key.dst.to_ipv4_mapped().is_some()
}

/// Bytes of the IP header.
pub(super) fn ip_len(key: &FlowKey) -> usize {
    if is_v4(key) { 20 } else { 40 }
}

/// The most that fits behind `l4_len` bytes of L4 header in one IP packet.
pub(super) fn payload_max(key: &FlowKey, l4_len: usize) -> usize {
    // The payload length of IPv6 does not count the header, but a frame must also fit a slot; be equal.
    IP_MAX - ip_len(key) - l4_len
}

/// The most that fits behind the IP header of a datagram, which may leave us in fragments.
pub(super) fn datagram_max(key: &FlowKey) -> usize {
    if is_v4(key) { IP_MAX - ip_len(key) } else { IP_MAX }
}

impl Wire<'_> {
    /// Bytes from the virtio header to the L4 header.
    pub fn l4_at(&self) -> usize {
        VnetHdr::LEN + ETHERNET_LEN + ip_len(self.key)
    }

    /// A TCP segment, or a super-frame of segments of `mss` bytes, with `payload` bytes that stand in `out` at
    /// `l4_at() + header.len()` already. Returns the length from the virtio header on.
    pub fn tcp(&self, out: &mut [u8], header: &Tcp, payload: usize, mss: u16) -> Option<usize> {
        let l4_len = header.len().checked_add(payload)?;
        let is_long = payload > usize::from(mss);
        let kind = match (is_long, is_v4(self.key)) {
            (false, _) => VnetHdr::GSO_NONE,
            (true, true) => VnetHdr::GSO_TCPV4,
            (true, false) => VnetHdr::GSO_TCPV6,
        };
        let l4_at = self.l4_at();
        let vnet = VnetHdr {
            flags: VnetHdr::NEEDS_CSUM,
            gso_type: kind,
            hdr_len: u16::try_from(l4_at - VnetHdr::LEN + header.len()).ok()?.into(),
            gso_size: if is_long { mss } else { 0 }.into(),
            csum_start: u16::try_from(l4_at - VnetHdr::LEN).ok()?.into(),
            csum_offset: 16.into(),
        };
        let mut to = Cursor { bytes: out, at: 0 };
        self.until_l4(&mut to, vnet, PROTO_TCP, l4_len)?;
        to.put(&self.key.dport.to_be_bytes())?;
        to.put(&self.key.sport.to_be_bytes())?;
        to.put(&header.seq.to_be_bytes())?;
        to.put(&header.ack.to_be_bytes())?;
        to.put(&[u8::try_from(header.len() / 4).ok()? << 4, header.flags])?;
        to.put(&header.window.to_be_bytes())?;
        to.put(&self.pseudo(PROTO_TCP, l4_len)?.to_be_bytes())?;
        to.put(&[0, 0])?;
        if let Some((mss, scale)) = header.syn {
            let [high, low] = mss.to_be_bytes();
            to.put(&[2, 4, high, low])?;
            if let Some(scale) = scale {
                to.put(&[1, 3, 3, scale])?;
            }
        }
        l4_at.checked_add(l4_len)
    }

    /// A UDP datagram whose `payload` bytes stand at `l4_at() + UDP_LEN` already.
    pub fn udp(&self, out: &mut [u8], payload: usize) -> Option<usize> {
        let l4_len = UDP_LEN.checked_add(payload)?;
        let l4_at = self.l4_at();
        let vnet = VnetHdr {
            flags: VnetHdr::NEEDS_CSUM,
            hdr_len: u16::try_from(l4_at - VnetHdr::LEN + UDP_LEN).ok()?.into(),
            csum_start: u16::try_from(l4_at - VnetHdr::LEN).ok()?.into(),
            csum_offset: 6.into(),
            ..VnetHdr::default()
        };
        let mut to = Cursor { bytes: out, at: 0 };
        self.until_l4(&mut to, vnet, PROTO_UDP, l4_len)?;
        to.put(&self.key.dport.to_be_bytes())?;
        to.put(&self.key.sport.to_be_bytes())?;
        to.put(&u16::try_from(l4_len).ok()?.to_be_bytes())?;
        to.put(&self.pseudo(PROTO_UDP, l4_len)?.to_be_bytes())?;
        l4_at.checked_add(l4_len)
    }

    /// An echo reply whose whole ICMP message of `len` bytes stands at `l4_at()` already: type, identifier and
    /// checksum become the container's.
    pub fn echo(&self, out: &mut [u8], len: usize) -> Option<usize> {
        let l4_at = self.l4_at();
        let end = l4_at.checked_add(len)?;
        let (proto, kind, base) = if is_v4(self.key) {
            (PROTO_ICMP, 0, 0)
        } else {
            (PROTO_ICMPV6, 129, self.pseudo(PROTO_ICMPV6, len)?)
        };
        let mut to = Cursor { bytes: out, at: 0 };
        self.until_l4(&mut to, VnetHdr::default(), proto, len)?;
        to.put(&[kind, 0, 0, 0])?;
        to.put(&self.key.sport.to_be_bytes())?;
        let message = out.get_mut(l4_at..end)?;
        let check = !add(base, sum(message));
        *message.get_mut(2..)?.first_chunk_mut::<2>()? = check.to_be_bytes();
        Some(end)
    }

    /// Whether a frame of `len` bytes from the virtio header on is one that the container's network takes.
    pub fn fits(&self, len: usize) -> bool {
        len <= VnetHdr::LEN + ETHERNET_LEN + usize::from(self.link.mtu)
    }

    /// Takes the datagram of a frame that [`Wire::udp`] or [`Wire::echo`] wrote, from its L4 header on and with its
    /// whole checksum, into `cutter`. Returns its length.
    pub fn cut(&self, out: &mut [u8], len: usize, cutter: &mut Cutter) -> Option<usize> {
        let datagram = out.get_mut(self.l4_at()..len)?;
        if self.key.proto == PROTO_UDP {
            // The field holds the sum of the pseudo-header. RFC 768: 0 is said as its other form.
            let check = match !sum(datagram) {
                0 => 0xffff,
                check => check,
            };
            *datagram.get_mut(6..)?.first_chunk_mut::<2>()? = check.to_be_bytes();
        }
        cutter.bytes.get_mut(..datagram.len())?.copy_from_slice(datagram);
        Some(datagram.len())
    }

    /// The fragment of `datagram` that starts at `at` (RFC 791 section 3.2, RFC 8200 section 4.5). Returns its length
    /// from the virtio header on, and where the next one starts.
    pub fn fragment(&self, out: &mut [u8], datagram: &[u8], at: usize, id: u32) -> Option<(usize, usize)> {
        const FRAGMENT: u8 = 44;
        let v4 = is_v4(self.key);
        let head = if v4 { 0 } else { 8 };
        let room = usize::from(self.link.mtu).checked_sub(ip_len(self.key) + head)? & !7;
        let end = datagram.len().min(at.checked_add(room.max(8))?);
        let more = end < datagram.len();
        let piece = datagram.get(at..end)?;
        let offset = u16::try_from(at).ok()?;
        let mut to = Cursor { bytes: out, at: 0 };
        let proto = if v4 { self.key.proto } else { FRAGMENT };
        self.until_l4(&mut to, VnetHdr::default(), proto, piece.len().checked_add(head)?)?;
        if v4 {
            let header = to.bytes.get_mut(VnetHdr::LEN + ETHERNET_LEN..self.l4_at())?;
            let [id0, id1] = (id as u16).to_be_bytes();
            let [f0, f1] = ((offset / 8) | if more { 0x2000 } else { 0 }).to_be_bytes();
            header.get_mut(4..8)?.copy_from_slice(&[id0, id1, f0, f1]);
            header.get_mut(10..12)?.fill(0);
            let check = !sum(header);
            header.get_mut(10..12)?.copy_from_slice(&check.to_be_bytes());
        } else {
            to.put(&[self.key.proto, 0])?;
            to.put(&(offset | u16::from(more)).to_be_bytes())?;
            to.put(&id.to_be_bytes())?;
        }
        to.put(piece)?;
        Some((to.at, end))
    }

    /// Makes of a quoted echo request what the container had sent: its own identifier.
    pub fn restore(&self, message: &mut [u8]) {
        let Some(&[_, _, c0, c1, i0, i1]) = message.first_chunk() else { return };
        if !matches!(self.key.proto, PROTO_ICMP | PROTO_ICMPV6) {
            return;
        }
        let delta = Delta::word(u16::from_be_bytes([i0, i1]), self.key.sport);
        let [c0, c1] = delta.full(u16::from_be_bytes([c0, c1])).to_be_bytes();
        let [i0, i1] = self.key.sport.to_be_bytes();
        if let Some(field) = message.get_mut(2..6) {
            field.copy_from_slice(&[c0, c1, i0, i1]);
        }
    }

    /// A packet of the container as far as an ICMP error quotes it. `rest` is what is known of it behind its l4 ports
    /// (TCP), its L4 header (UDP) or its IP header (ICMP).
    pub fn quotation(key: &FlowKey, rest: &[u8], out: &mut [u8]) -> Option<usize> {
        let mut to = Cursor { bytes: out, at: 0 };
        let rest = rest.get(..rest.len().min(to.bytes.len().checked_sub(ip_len(key) + TCP_LEN)?))?;
        match key.proto {
            PROTO_TCP => {
                ip(&mut to, key.src, key.dst, key.proto, TCP_LEN)?;
                to.put(&key.sport.to_be_bytes())?;
                to.put(&key.dport.to_be_bytes())?;
            }
            PROTO_UDP => {
                let len = UDP_LEN.checked_add(rest.len())?;
                ip(&mut to, key.src, key.dst, key.proto, len)?;
                to.put(&key.sport.to_be_bytes())?;
                to.put(&key.dport.to_be_bytes())?;
                to.put(&u16::try_from(len).ok()?.to_be_bytes())?;
                to.put(&[0, 0])?;
            }
            _ => ip(&mut to, key.src, key.dst, key.proto, rest.len())?,
        }
        to.put(rest)?;
        Some(to.at)
    }

    fn until_l4(&self, to: &mut Cursor<'_>, vnet: VnetHdr, proto: u8, l4_len: usize) -> Option<()> {
        to.put(vnet.as_bytes())?;
        to.put(&self.link.mac.0)?;
        to.put(&self.link.gateway_mac.0)?;
        let ethertype = if is_v4(self.key) { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        to.put(&ethertype.to_be_bytes())?;
        ip(to, self.key.dst, self.key.src, proto, l4_len)
    }

    fn pseudo(&self, proto: u8, len: usize) -> Option<u16> {
        Some(pseudo(self.key.dst, self.key.src, proto, u32::try_from(len).ok()?))
    }
}

/// An IP header without options.
fn ip(to: &mut Cursor<'_>, src: Ipv6Addr, dst: Ipv6Addr, proto: u8, l4_len: usize) -> Option<()> {
    let (Some(src), Some(dst)) = (src.to_ipv4_mapped(), dst.to_ipv4_mapped()) else {
        to.put(&[0x60, 0, 0, 0])?;
        to.put(&u16::try_from(l4_len).ok()?.to_be_bytes())?;
        to.put(&[proto, TTL])?;
        to.put(&src.octets())?;
        return to.put(&dst.octets());
    };
    to.put(&ipv4(src, dst, proto, u16::try_from(l4_len.checked_add(20)?).ok()?))
}

fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, total: u16) -> [u8; 20] {
    let [l0, l1] = total.to_be_bytes();
    let ([a, b, c, d], [e, f, g, h]) = (src.octets(), dst.octets());
    // Don't Fragment, so the identification may be 0 (RFC 6864 section 4.1).
    let mut header = [0x45, 0, l0, l1, 0, 0, 0x40, 0, TTL, proto, 0, 0, a, b, c, d, e, f, g, h];
    let [c0, c1] = (!sum(&header)).to_be_bytes();
    (header[10], header[11]) = (c0, c1);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use switch::checksum::complete;
    use switch::flow::{Csum, Gso};
    use switch::mac::MacAddr;
    use switch::parse::parse;
    use switch::port::PortId;
    use zerocopy::FromBytes;

    fn link() -> Link {
        Link {
            port: PortId(3),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            gateway_mac: MacAddr([2, 0, 0, 0, 0, 254]),
            mtu: 1500,
        }
    }

    fn key(v4: bool, proto: u8) -> FlowKey {
        let address = |last: u8| {
            if v4 {
                Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped()
            } else {
                Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into())
            }
        };
        FlowKey { zone: 4, proto, src: address(2), dst: address(9), sport: 40_000, dport: 80 }
    }

    /// What a receiver says of it: the parser, and then the checksum.
    fn received(out: &[u8], len: usize) -> (switch::flow::Packet, Vec<u8>) {
        let (vnet, frame) = out[..len].split_at(VnetHdr::LEN);
        let vnet = VnetHdr::read_from_bytes(vnet).unwrap();
        (parse(frame, &vnet, PortId(3), 4).unwrap(), frame.to_vec())
    }

    /// RFC 1071: the sum over all that is covered, the field in it, is all ones.
    fn verifies(packet: &switch::flow::Packet, frame: &[u8]) -> bool {
        let (meta, key) = (packet.meta, packet.key);
        let data = &frame[usize::from(meta.l4_off)..meta.l3_end as usize];
        let base =
            if key.proto == PROTO_ICMP { 0 } else { pseudo(key.src, key.dst, key.proto, data.len() as u32) };
        add(base, sum(data)) == 0xffff
    }

    proptest! {
        #[test]
        fn tcp_is_what_a_receiver_reads(v4: bool, payload in 0..65_000usize, mss in 88..9000u16, seq: u32, scale: bool) {
            let (link, key) = (link(), key(v4, PROTO_TCP));
            let wire = Wire { link: &link, key: &key };
            let syn = (payload == 0).then_some((1460, scale.then_some(7)));
            let header = Tcp { seq, ack: !seq, flags: flag::ACK, window: 77, syn };
            let mut out = vec![0xa5; 70_000];
            let len = wire.tcp(&mut out, &header, payload, mss).unwrap();
            let (mut packet, mut frame) = received(&out, len);
            let tcp = packet.meta.tcp.unwrap();
            prop_assert_eq!((tcp.seq, tcp.ack, tcp.window, tcp.payload as usize), (seq, !seq, 77, payload));
            prop_assert_eq!((packet.key.src, packet.key.sport), (key.dst, key.dport));
            prop_assert_eq!(packet.meta.csum, Csum::Partial);
            let gso = if payload > usize::from(mss) { Gso::Tcp { size: mss } } else { Gso::None };
            prop_assert_eq!(packet.meta.gso, gso);
            if gso == Gso::None {
                prop_assert!(complete(&mut frame, &mut packet.meta));
                prop_assert!(verifies(&packet, &frame));
            }
        }

        #[test]
        fn udp_and_echo_are_what_a_receiver_reads(v4: bool, payload in 0..1400usize) {
            let link = link();
            let udp = key(v4, PROTO_UDP);
            let mut out = vec![0xa5; 2000];
            let len = Wire { link: &link, key: &udp }.udp(&mut out, payload).unwrap();
            let (mut packet, mut frame) = received(&out, len);
            prop_assert!(complete(&mut frame, &mut packet.meta));
            prop_assert!(verifies(&packet, &frame));
            let echo = key(v4, if v4 { PROTO_ICMP } else { PROTO_ICMPV6 });
            let len = Wire { link: &link, key: &echo }.echo(&mut out, ECHO_LEN + payload).unwrap();
            let (packet, frame) = received(&out, len);
            prop_assert!(verifies(&packet, &frame));
            prop_assert_eq!(packet.key.sport, 40_000);
        }
    }

    proptest! {
        #[test]
        fn fragments_are_a_datagram_in_pieces(v4: bool, udp: bool, payload in 1400..66_000usize, mtu in 1280..9000u16) {
            let link = Link { mtu, ..link() };
            let key = key(v4, if udp { PROTO_UDP } else if v4 { PROTO_ICMP } else { PROTO_ICMPV6 });
            let wire = Wire { link: &link, key: &key };
            let payload = payload.min(datagram_max(&key) - UDP_LEN);
            let mut out = vec![0x5a; 70_000];
            let len = if udp { wire.udp(&mut out, payload) } else { wire.echo(&mut out, payload + ECHO_LEN) }.unwrap();
            prop_assume!(!wire.fits(len));
            let mut cutter = Cutter { bytes: vec![0; 65_536].into(), id: 0 };
            let total = wire.cut(&mut out, len, &mut cutter).unwrap();
            let datagram = &cutter.bytes[..total];
            let base = if key.proto == PROTO_ICMP { 0 } else { pseudo(key.dst, key.src, key.proto, total as u32) };
            prop_assert_eq!(add(base, sum(datagram)), 0xffff);
            let (mut at, mut got) = (0, Vec::new());
            while at < total {
                let (len, next) = wire.fragment(&mut out, datagram, at, 0x0012_3456).unwrap();
                prop_assert!(wire.fits(len));
                let (packet, frame) = received(&out, len);
                let first = at == 0;
                prop_assert_eq!(packet.meta.fragment == switch::flow::Fragment::First, first);
                prop_assert_eq!(packet.meta.fragment_id, if v4 { 0x3456 } else { 0x0012_3456 });
                let start = wire.l4_at() - VnetHdr::LEN + if v4 { 0 } else { 8 };
                prop_assert!(!v4 || sum(&frame[14..34]) == 0xffff);
                got.extend_from_slice(&frame[start..packet.meta.l3_end as usize]);
                at = next;
            }
            prop_assert!(got == datagram);
        }
    }

    #[test]
    fn the_ipv4_header_verifies_and_a_quotation_parses() {
        let header = ipv4(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(10, 0, 0, 2), PROTO_TCP, 40);
        assert_eq!(sum(&header), 0xffff);
        let mut out = [0; 64];
        assert_eq!(Wire::quotation(&key(true, PROTO_TCP), &[0, 0, 0, 7], &mut out), Some(28));
        assert_eq!(out[20..28], [0x9c, 0x40, 0, 80, 0, 0, 0, 7]);
        assert_eq!(Wire::quotation(&key(false, PROTO_UDP), b"", &mut out), Some(48));
        assert_eq!(Wire::quotation(&key(false, PROTO_UDP), b"data", &mut out), Some(52));
    }
}
