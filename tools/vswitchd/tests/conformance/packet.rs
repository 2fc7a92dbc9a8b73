//! IP packets, written and read byte by byte: nothing here is asked of the switch's own parser or checksums.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

pub const MORE: u16 = 0x2000;
pub const DF: u16 = 0x4000;

pub fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Protocol of `l4`, behind extension headers.
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    pub id: u16,
    /// Flags and offset of IPv4.
    pub field: u16,
    /// Of IPv4, a multiple of four bytes.
    pub options: Vec<u8>,
    /// Extension headers of IPv6: which, and their bytes, of which the first is filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub l4: Vec<u8>,
}

impl Ip {
    /// With the checksum of `l4` filled in.
    pub fn new(src: &str, dst: &str, proto: u8, mut l4: Vec<u8>) -> Self {
        let (src, dst) = (addr(src), addr(dst));
        if let Some(at) = checksum_at(proto) {
            l4[at..at + 2].fill(0);
            let check = match !sum_of(src, dst, proto, &l4) {
                0 if proto == UDP => 0xffff,
                check => check,
            };
            l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
        }
        let (options, extensions) = (Vec::new(), Vec::new());
        Self { src, dst, proto, ttl: 64, id: 0x1234, field: 0, options, extensions, l4 }
    }

    pub fn udp(src: (&str, u16), dst: (&str, u16), payload: &[u8]) -> Self {
        let len = 8 + payload.len() as u16;
        let l4 =
            [&src.1.to_be_bytes()[..], &dst.1.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload].concat();
        Self::new(src.0, dst.0, UDP, l4)
    }

    pub fn tcp(src: (&str, u16), dst: (&str, u16), flags: u8, [seq, ack]: [u32; 2], payload: &[u8]) -> Self {
        let l4 = [
            &src.1.to_be_bytes()[..],
            &dst.1.to_be_bytes(),
            &seq.to_be_bytes(),
            &ack.to_be_bytes(),
            &[0x50, flags, 0xff, 0xff, 0, 0, 0, 0],
            payload,
        ];
        Self::new(src.0, dst.0, TCP, l4.concat())
    }

    /// An echo request, or the reply to it.
    pub fn echo(src: &str, dst: &str, request: bool, id: u16) -> Self {
        let (proto, kind) = match (addr(src).is_ipv4(), request) {
            (true, true) => (ICMP, 8),
            (true, false) => (ICMP, 0),
            (false, true) => (ICMPV6, 128),
            (false, false) => (ICMPV6, 129),
        };
        let l4 = [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 7], b"payload!"].concat();
        Self::new(src, dst, proto, l4)
    }

    /// An ICMP error about a packet; `rest` are bytes 4 to 8.
    pub fn error(src: &str, dst: &str, [kind, code]: [u8; 2], rest: u32, about: &[u8]) -> Self {
        let proto = if addr(src).is_ipv4() { ICMP } else { ICMPV6 };
        Self::new(src, dst, proto, [&[kind, code, 0, 0][..], &rest.to_be_bytes(), about].concat())
    }

    /// What a reply to this echo request begins with.
    pub fn reply_kind(&self) -> u8 {
        if self.is_v4() { 0 } else { 129 }
    }

    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    pub fn field(self, field: u16) -> Self {
        Self { field, ..self }
    }

    pub fn id(self, id: u16) -> Self {
        Self { id, ..self }
    }

    pub fn options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    pub fn extension(mut self, kind: u8, bytes: &[u8]) -> Self {
        self.extensions.push((kind, bytes.to_vec()));
        self
    }

    pub fn is_v4(&self) -> bool {
        self.src.is_ipv4()
    }

    pub fn sport(&self) -> u16 {
        self.word(0)
    }

    pub fn dport(&self) -> u16 {
        self.word(2)
    }

    /// Of an ICMP query.
    pub fn ident(&self) -> u16 {
        self.word(4)
    }

    pub fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.l4[at], self.l4[at + 1]])
    }

    /// Type and code of an ICMP message.
    pub fn kind(&self) -> (u8, u8) {
        assert!(matches!(self.proto, ICMP | ICMPV6), "{self:?}");
        (self.l4[0], self.l4[1])
    }

    /// The packet that an ICMP error quotes, as far as it is there.
    pub fn quoted(&self) -> Self {
        Self::read(&self.l4[8..], self.l4[8] >> 4 == 4).unwrap()
    }

    /// With no more than the sum of the pseudo header in its checksum field, which is left to whoever puts it on a wire.
    pub fn open(mut self) -> Self {
        let at = checksum_at(self.proto).unwrap();
        let sum = sum_of(self.src, self.dst, self.proto, &vec![0; self.l4.len()]);
        self.l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// In two, the first with `at` bytes of its payload.
    pub fn cut(&self, at: usize) -> [Self; 2] {
        self.cut_at(&[at]).try_into().unwrap()
    }

    /// In several, where the payload is cut.
    pub fn cut_at(&self, at: &[usize]) -> Vec<Self> {
        let ends: Vec<_> = [0].iter().chain(at).chain([&self.l4.len()]).copied().collect();
        let whole = self.l4.len();
        ends.windows(2).map(|ends| self.piece(ends[0]..ends[1], ends[1] < whole)).collect()
    }

    fn piece(&self, part: Range<usize>, more: bool) -> Self {
        let (offset, more) = (part.start as u16 / 8, u16::from(more));
        let piece = Self { l4: self.l4[part].to_vec(), ..self.clone() };
        if self.is_v4() {
            return piece.field(offset | more << 13);
        }
        let word = (offset << 3 | more).to_be_bytes();
        piece.extension(44, &[0, 0, word[0], word[1], 0, 0, self.id.to_be_bytes()[0], self.id as u8])
    }

    pub fn bytes(&self) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let head = 20 + self.options.len();
                let mut bytes = vec![0x40 | (head / 4) as u8, 0];
                bytes.extend(((head + self.l4.len()) as u16).to_be_bytes());
                bytes.extend(self.id.to_be_bytes());
                bytes.extend(self.field.to_be_bytes());
                bytes.extend([self.ttl, self.proto, 0, 0]);
                bytes.extend([src.octets(), dst.octets()].concat());
                bytes.extend(&self.options);
                mend(&mut bytes);
                [bytes, self.l4.clone()].concat()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let kinds = self.extensions.iter().map(|(kind, _)| *kind).chain([self.proto]);
                let kinds: Vec<u8> = kinds.collect();
                let mut payload = Vec::new();
                for ((_, bytes), next) in self.extensions.iter().zip(&kinds[1..]) {
                    payload.extend([&[*next], &bytes[1..]].concat());
                }
                payload.extend(&self.l4);
                let mut bytes = vec![0x60, 0, 0, 0];
                bytes.extend((payload.len() as u16).to_be_bytes());
                bytes.extend([kinds[0], self.ttl]);
                bytes.extend([src.octets(), dst.octets()].concat());
                [bytes, payload].concat()
            }
            _ => panic!("of two families: {self:?}"),
        }
    }

    /// What is in a frame; `None`: not IP. Its checksums are right.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let ip = match [frame[12], frame[13]] {
            [8, 0] => Self::read(&frame[14..], true),
            [0x86, 0xdd] => Self::read(&frame[14..], false),
            _ => return None,
        };
        let ip = ip.unwrap();
        if ip.is_v4() {
            let head = 20 + ip.options.len();
            assert_eq!(fold(words(&frame[14..14 + head])), 0xffff, "header checksum of {ip:?}");
        }
        let whole = ip.field & 0x3fff == 0 && ip.extensions.iter().all(|(kind, _)| *kind != 44);
        let summed = checksum_at(ip.proto).filter(|at| ip.l4.len() >= at + 2);
        if let Some(at) = summed.filter(|_| whole)
            && !(ip.proto == UDP && ip.word(at) == 0)
        {
            assert_eq!(sum_of(ip.src, ip.dst, ip.proto, &ip.l4), 0xffff, "checksum of {ip:?}");
        }
        Some(ip)
    }

    fn read(bytes: &[u8], v4: bool) -> Option<Self> {
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        if v4 {
            let head = usize::from(bytes[0] & 15) * 4;
            let end = usize::from(word(2)).min(bytes.len());
            let at = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap());
            return Some(Self {
                src: at(12),
                dst: at(16),
                proto: bytes[9],
                ttl: bytes[8],
                id: word(4),
                field: word(6),
                options: bytes[20..head].to_vec(),
                extensions: Vec::new(),
                l4: bytes[head..end].to_vec(),
            });
        }
        let at = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap());
        let end = (40 + usize::from(word(4))).min(bytes.len());
        let (mut next, mut here, mut extensions) = (bytes[6], 40, Vec::new());
        while matches!(next, 0 | 43 | 44 | 60) {
            let len = if next == 44 { 8 } else { 8 + 8 * usize::from(bytes[here + 1]) };
            extensions.push((next, bytes[here..here + len].to_vec()));
            (next, here) = (bytes[here], here + len);
        }
        Some(Self {
            src: at(8),
            dst: at(24),
            proto: next,
            ttl: bytes[7],
            id: 0,
            field: 0,
            options: Vec::new(),
            extensions,
            l4: bytes[here..end].to_vec(),
        })
    }

    pub fn is_neighbor_discovery(&self) -> bool {
        self.proto == ICMPV6 && self.l4.first().is_some_and(|kind| (133..=137).contains(kind))
    }
}

pub fn ethernet(dst: [u8; 6], src: [u8; 6], v4: bool, payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src, if v4 { &[8, 0] } else { &[0x86, 0xdd] }, payload].concat()
}

/// The frame by which a host asks for another one.
pub fn asks(mac: [u8; 6], own: IpAddr, target: IpAddr) -> Vec<u8> {
    match (own, target) {
        (IpAddr::V4(own), IpAddr::V4(target)) => {
            let body = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac, &own.octets(), &[0; 6], &target.octets()];
            [&[0xff; 6][..], &mac, &[8, 6], &body.concat()].concat()
        }
        (IpAddr::V6(own), IpAddr::V6(target)) => {
            let message = solicitation(&own.to_string(), target, Some(mac));
            let [.., x, y, z] = target.octets();
            ethernet([0x33, 0x33, 0xff, x, y, z], mac, false, &message.bytes())
        }
        _ => panic!("of two families"),
    }
}

/// To the solicited-node group of `target`.
pub fn solicitation(src: &str, target: Ipv6Addr, mac: Option<[u8; 6]>) -> Ip {
    let [.., high, low] = target.segments();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | high & 0xff, low);
    let option = mac.map(|mac| [&[1, 1][..], &mac].concat()).unwrap_or_default();
    let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &option].concat();
    Ip::new(src, &group.to_string(), ICMPV6, message).ttl(255)
}

/// Makes the checksum of an IPv4 header right.
pub fn mend(bytes: &mut [u8]) {
    let head = usize::from(bytes[0] & 15) * 4;
    bytes[10..12].fill(0);
    let check = !fold(words(&bytes[..head]));
    bytes[10..12].copy_from_slice(&check.to_be_bytes());
}

fn checksum_at(proto: u8) -> Option<usize> {
    match proto {
        TCP => Some(16),
        UDP => Some(6),
        ICMP | ICMPV6 => Some(2),
        _ => None,
    }
}

fn words(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | word.get(1).map_or(0, |low| u64::from(*low))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// RFC 1071, with the pseudo header where the protocol has one.
fn sum_of(src: IpAddr, dst: IpAddr, proto: u8, l4: &[u8]) -> u16 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let head = match proto {
        ICMP => 0,
        _ => words(&octets(src)) + words(&octets(dst)) + u64::from(proto) + l4.len() as u64,
    };
    fold(head + words(l4))
}
