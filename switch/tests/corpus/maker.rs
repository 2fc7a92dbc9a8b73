//! Frames made of choices: every byte of the input chooses something, so that nearly every input is a frame that gets
//! far. Written by the RFCs and with sums of its own, so that nothing is checked against itself. For fuzz targets, and for
//! tests that replay what they found.

// Each user takes a part.
#![allow(dead_code, clippy::unwrap_used)]

use std::net::{Ipv4Addr, Ipv6Addr};

/// The bytes of the input, one choice after the other; when there are none left, every choice is the first.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// One time in `n`; never where the input is at its end.
    pub fn rarely(&mut self, n: u8) -> bool {
        self.byte() % n == n - 1
    }

    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A length: mostly small, sometimes near a limit.
    pub fn len(&mut self, limit: usize) -> usize {
        let len = match self.byte() {
            few @ 0..160 => usize::from(few),
            many @ 160..240 => usize::from(many - 160) * 200,
            near => limit.saturating_sub(usize::from(near - 240)),
        };
        len.min(limit)
    }
}

/// Who may play, and what is in every payload.
pub struct Cast<'a> {
    pub macs: &'a [[u8; 6]],
    pub v4: &'a [Ipv4Addr],
    pub v6: &'a [Ipv6Addr],
    /// What the sender's own addresses are; most packets have them as their source.
    pub own: Option<(Ipv4Addr, Ipv6Addr)>,
    /// L4 ports; [`PORTS`] where nothing speaks for others.
    pub l4: &'a [u16],
    /// Repeated through every payload.
    pub magic: &'a [u8],
    /// Bytes of the longest payload.
    pub longest: usize,
}

impl Cast<'_> {
    fn payload(&self, len: usize) -> Vec<u8> {
        self.magic.iter().copied().cycle().take(len).collect()
    }
}

/// An IP packet, and what its parser must find in it.
#[derive(Clone, Debug)]
pub struct Ip {
    pub bytes: Vec<u8>,
    pub v6: bool,
    /// Offset of the L4 header.
    pub l4: usize,
    /// Offset of the payload behind it.
    pub payload: usize,
    pub proto: u8,
    /// Mapped, of IPv4.
    pub src: Ipv6Addr,
    pub dst: Ipv6Addr,
    /// As a key has them: of ICMP the identifier, and type with code.
    pub ports: (u16, u16),
    /// It is a fragment, first or later.
    pub fragment: Option<bool>,
    /// The packet that an ICMP error quotes, and where.
    pub quoted: Option<(Box<Ip>, usize)>,
}

/// What is behind the IP header.
struct Upper {
    bytes: Vec<u8>,
    header: usize,
    proto: u8,
    ports: (u16, u16),
    quoted: Option<(Box<Ip>, usize)>,
    /// Where its checksum is.
    check: Option<usize>,
    /// Neighbour discovery: only with a hop limit of 255.
    nd: bool,
}

/// A sound packet with whole checksums.
pub fn packet(choices: &mut Choices<'_>, cast: &Cast<'_>, depth: u8) -> Ip {
    let v6 = choices.byte() & 1 != 0;
    let own = cast.own.filter(|_| !choices.rarely(8));
    let src = match own {
        Some((_, own)) if v6 => own,
        Some((own, _)) => own.to_ipv6_mapped(),
        None if v6 => choices.pick(cast.v6),
        None => choices.pick(cast.v4).to_ipv6_mapped(),
    };
    let dst = if v6 { choices.pick(cast.v6) } else { choices.pick(cast.v4).to_ipv6_mapped() };
    let mut upper = upper(choices, cast, v6, (src, dst), depth);
    if let Some(at) = upper.check {
        let check = checksum((src, dst), upper.proto, &upper.bytes);
        // RFC 768: a computed 0 is sent as 0xffff.
        let check = if check == 0 && upper.proto == 17 { 0xffff } else { check };
        put(&mut upper.bytes, at, check);
    }
    let ttl = if upper.nd { 255 } else { choices.pick(&[64, 1, 2, 0, 255]) };
    if v6 { finish_v6(choices, upper, (src, dst), ttl) } else { finish_v4(choices, upper, (src, dst), ttl) }
}

fn upper(
    choices: &mut Choices<'_>,
    cast: &Cast<'_>,
    v6: bool,
    addresses: (Ipv6Addr, Ipv6Addr),
    depth: u8,
) -> Upper {
    match choices.below(8) {
        0..=2 => udp(choices, cast),
        3 | 4 => tcp(choices, cast),
        5 => echo(choices, cast, v6),
        6 if depth == 0 => error(choices, cast, v6),
        7 if v6 && depth == 0 => discovery(choices, cast, addresses.0),
        _ => {
            let bytes = cast.payload(choices.len(cast.longest));
            let (proto, ports) = (choices.pick(&[47, 50, 89, 253, 255]), (0, 0));
            Upper { bytes, header: 0, proto, ports, quoted: None, check: None, nd: false }
        }
    }
}

/// L4 ports with a meaning, and some without.
pub const PORTS: &[u16] = &[1000, 53, 67, 7, 80, 0, 65_535, 1001];

fn udp(choices: &mut Choices<'_>, cast: &Cast<'_>) -> Upper {
    let ports = (choices.pick(cast.l4), choices.pick(cast.l4));
    let payload = cast.payload(choices.len(cast.longest));
    let len = (8 + payload.len()) as u16;
    let bytes = [&words(&[ports.0, ports.1, len, 0])[..], &payload].concat();
    Upper { bytes, header: 8, proto: 17, ports, quoted: None, check: Some(6), nd: false }
}

fn tcp(choices: &mut Choices<'_>, cast: &Cast<'_>) -> Upper {
    let ports = (choices.pick(cast.l4), choices.pick(cast.l4));
    let flags = choices.pick(&[0x10, 0x02, 0x12, 0x04, 0x11, 0x18, 0x98, 0xff, 0x00]);
    let mut options = match choices.below(4) {
        1 => [&[2, 4][..], &choices.word().to_be_bytes()].concat(),
        2 => choices.take(40).to_vec(),
        _ => Vec::new(),
    };
    options.resize(options.len().next_multiple_of(4), 0);
    let header = 20 + options.len();
    let mut bytes = words(&[ports.0, ports.1]);
    bytes.extend(u32::from(choices.word()).wrapping_mul(0xffff_fffb).to_be_bytes());
    bytes.extend(u32::from(choices.word()).to_be_bytes());
    bytes.extend([(header as u8) << 2, flags]);
    bytes.extend(words(&[choices.word(), 0, 0]));
    bytes.extend(options);
    bytes.extend(cast.payload(choices.len(cast.longest)));
    Upper { bytes, header, proto: 6, ports, quoted: None, check: Some(16), nd: false }
}

fn echo(choices: &mut Choices<'_>, cast: &Cast<'_>, v6: bool) -> Upper {
    let (kind, proto) =
        if v6 { (choices.pick(&[128, 129]), 58) } else { (choices.pick(&[8, 0, 13, 17, 18]), 1) };
    let id = choices.pick(&[1, 2, 0xffff]);
    let payload = cast.payload(choices.len(cast.longest));
    let bytes = [&[kind, 0, 0, 0][..], &words(&[id, choices.word()]), &payload].concat();
    let ports = (id, u16::from(kind) << 8);
    Upper { bytes, header: 8, proto, ports, quoted: None, check: Some(2), nd: false }
}

/// An error about another packet, whole or cut.
fn error(choices: &mut Choices<'_>, cast: &Cast<'_>, v6: bool) -> Upper {
    let (kind, proto) =
        if v6 { (choices.pick(&[1, 2, 3, 4]), 58) } else { (choices.pick(&[3, 11, 12, 4, 5]), 1) };
    let code = choices.pick(&[0, 1, 3, 4, 13]);
    let about = packet(choices, &Cast { longest: cast.longest.min(400), ..*cast }, 1);
    let mut bytes =
        [&[kind, code, 0, 0][..], &words(&[0, choices.pick(&[1280, 0, 68, 1500, 0xffff])])].concat();
    let cut = match choices.below(4) {
        0 => about.bytes.len(),
        1 => (about.l4 + 8).min(about.bytes.len()),
        _ => choices.len(about.bytes.len()),
    };
    bytes.extend(&about.bytes[..cut]);
    // Of the other family it is nothing that can be read; where it is cut, nothing may be believed of it.
    let readable = about.v6 == v6 && cut >= about.l4;
    let quoted = readable.then(|| (Box::new(about), cut));
    let ports = (0, u16::from_be_bytes([kind, code]));
    Upper { bytes, header: 8, proto, ports, quoted, check: Some(2), nd: false }
}

fn discovery(choices: &mut Choices<'_>, cast: &Cast<'_>, src: Ipv6Addr) -> Upper {
    let kind = choices.pick(&[135, 136, 133]);
    let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    if kind == 136 {
        bytes[4] = choices.pick(&[0x20, 0x60, 0x40, 0xa0]);
    }
    if kind != 133 {
        bytes.extend(choices.pick(cast.v6).octets());
    }
    if !src.is_unspecified() && choices.byte() & 1 == 0 {
        bytes.extend([if kind == 136 { 2 } else { 1 }, 1]);
        bytes.extend(choices.pick(cast.macs));
    }
    let ports = (0, u16::from(kind) << 8);
    Upper { bytes, header: 8, proto: 58, ports, quoted: None, check: Some(2), nd: true }
}

/// Which part of a packet is to be sent: first, later, or the whole.
fn piece(choices: &mut Choices<'_>, upper: &mut Upper) -> (Option<bool>, u16, bool) {
    if upper.nd || !choices.rarely(8) || upper.bytes.len() <= upper.header + 8 {
        return (None, 0, false);
    }
    upper.quoted = None;
    if choices.byte() & 1 == 0 {
        let keep = (upper.header + (upper.bytes.len() - upper.header) / 2).next_multiple_of(8);
        upper.bytes.truncate(keep.min(upper.bytes.len() / 8 * 8));
        return (Some(true), 0, true);
    }
    // A later one that begins behind the longest header.
    let at = (64 + choices.len(1000)) / 8;
    let more = choices.byte() & 1 == 0;
    if more {
        upper.bytes.truncate(upper.bytes.len() / 8 * 8);
    }
    (upper.ports, upper.header) = ((0, 0), 0);
    (Some(false), at as u16, more)
}

fn finish_v4(choices: &mut Choices<'_>, mut upper: Upper, (src, dst): (Ipv6Addr, Ipv6Addr), ttl: u8) -> Ip {
    let options: &[u8] = match choices.below(8) {
        6 => &[7, 7, 4, 0, 0, 0, 0, 0],
        7 => &[148, 4, 0, 0],
        _ => &[],
    };
    let (fragment, at, more) = piece(choices, &mut upper);
    let header = 20 + options.len();
    let flags = at | if more { 0x2000 } else { 0 } | choices.pick(&[0x4000, 0]);
    let total = (header + upper.bytes.len()) as u16;
    let mut bytes = vec![0x40 | (header / 4) as u8, choices.byte() & 3];
    bytes.extend(words(&[total, choices.word(), flags & if fragment.is_some() { 0x3fff } else { 0x7fff }]));
    bytes.extend([ttl, upper.proto, 0, 0]);
    for address in [src, dst] {
        bytes.extend(address.to_ipv4_mapped().unwrap().octets());
    }
    bytes.extend(options);
    let check = fold(sum(&bytes));
    put(&mut bytes, 10, !check);
    ip(bytes, upper, false, (src, dst), fragment)
}

fn finish_v6(choices: &mut Choices<'_>, mut upper: Upper, (src, dst): (Ipv6Addr, Ipv6Addr), ttl: u8) -> Ip {
    let (fragment, at, more) = piece(choices, &mut upper);
    let mut chain: Vec<(u8, Vec<u8>)> = Vec::new();
    if choices.rarely(8) {
        chain.push((0, vec![0, 0, 1, 4, 0, 0, 0, 0]));
    }
    if fragment.is_none() && choices.rarely(8) {
        chain.push((60, vec![0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    }
    // Neighbour discovery is not believed in fragments, not even in one that is whole (RFC 6980).
    if fragment.is_some() || (!upper.nd && choices.rarely(16)) {
        let field = at << 3 | u16::from(more);
        chain.push((44, [&[0, 0][..], &words(&[field, 0, choices.word()])].concat()));
    }
    let mut extensions = Vec::new();
    let mut next = upper.proto;
    for (kind, mut header) in chain.into_iter().rev() {
        header[0] = std::mem::replace(&mut next, kind);
        header.append(&mut extensions);
        extensions = header;
    }
    let len = (extensions.len() + upper.bytes.len()) as u16;
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(len.to_be_bytes());
    bytes.extend([next, ttl]);
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    bytes.extend(extensions);
    ip(bytes, upper, true, (src, dst), fragment)
}

fn ip(
    mut bytes: Vec<u8>,
    upper: Upper,
    v6: bool,
    (src, dst): (Ipv6Addr, Ipv6Addr),
    fragment: Option<bool>,
) -> Ip {
    let l4 = bytes.len();
    bytes.extend(upper.bytes);
    let (proto, ports) = (upper.proto, upper.ports);
    Ip { bytes, v6, l4, payload: l4 + upper.header, proto, src, dst, ports, fragment, quoted: upper.quoted }
}

/// An ARP packet of the cast.
pub fn arp(choices: &mut Choices<'_>, cast: &Cast<'_>) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, choices.pick(&[1, 2])];
    for _ in 0..2 {
        body.extend(choices.pick(cast.macs));
        body.extend(choices.pick(cast.v4).octets());
    }
    body
}

/// How a payload is put into a frame.
#[derive(Clone, Debug)]
pub struct Wrap {
    /// TPID and TCI, outermost first.
    pub tags: Vec<(u16, u16)>,
    /// 802.3 length, LLC and SNAP in place of an EtherType: the OUI.
    pub snap: Option<[u8; 3]>,
    /// Bytes behind the packet.
    pub padding: usize,
}

impl Wrap {
    pub const NONE: Self = Self { tags: Vec::new(), snap: None, padding: 0 };

    pub fn choose(choices: &mut Choices<'_>) -> Self {
        let tags = (0..choices.pick(&[0, 0, 0, 1, 1, 2, 3]))
            .map(|_| {
                let vid = choices.pick(&[0, 10, 20, 0xfff, 1, 0xffe]);
                (choices.pick(&[0x8100, 0x88a8, 0x9100]), u16::from(choices.byte() & 0xf) << 12 | vid)
            })
            .collect();
        let snap = choices.rarely(4).then(|| choices.pick(&[[0, 0, 0], [0, 0, 0xf8]]));
        Self { tags, snap, padding: choices.pick(&[0, 0, 46, 1]) }
    }

    /// Whether it says in one way only which VLAN the frame is of (IEEE 802.1Q-2018 table 9-2, CVE-2021-27853).
    pub fn is_clear(&self) -> bool {
        let vids: Vec<u16> = self.tags.iter().map(|(_, tci)| tci & 0xfff).collect();
        vids.len() < 3 && !vids.contains(&0xfff) && !(vids.len() == 2 && vids[0] == 0)
    }

    /// The frame; `None` where an 802.3 length cannot say how long it is.
    pub fn frame(&self, dst: [u8; 6], src: [u8; 6], ethertype: u16, payload: &[u8]) -> Option<Vec<u8>> {
        let mut frame = [dst, src].concat();
        for (tpid, tci) in &self.tags {
            frame.extend(words(&[*tpid, *tci]));
        }
        match self.snap {
            None => frame.extend(ethertype.to_be_bytes()),
            Some(oui) => {
                let len = u16::try_from(8 + payload.len()).ok().filter(|len| *len <= 1500)?;
                frame.extend(len.to_be_bytes());
                frame.extend([0xaa, 0xaa, 3]);
                frame.extend(oui);
                frame.extend(ethertype.to_be_bytes());
            }
        }
        frame.extend(payload);
        frame.extend(std::iter::repeat_n(0xa5, self.padding));
        Some(frame)
    }
}

/// Bytes that change a frame for the worse.
pub fn damage(choices: &mut Choices<'_>, frame: &mut Vec<u8>) {
    for _ in 0..choices.below(4) {
        let at = usize::from(choices.word()) % frame.len().max(1);
        // The headers are where it matters.
        let at = if choices.byte() & 3 != 0 { at % 64 } else { at };
        let value = choices.byte();
        match choices.below(8) {
            6 => frame.truncate(at),
            7 => frame.extend(choices.take(64)),
            _ => {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
        }
    }
}

pub fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

pub fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// RFC 1071, as on paper.
pub fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
}

pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo-header, not folded.
pub fn pseudo((src, dst): (Ipv6Addr, Ipv6Addr), proto: u8, len: usize) -> u64 {
    let of = |address: Ipv6Addr| match address.to_ipv4_mapped() {
        Some(v4) => sum(&v4.octets()),
        None => sum(&address.octets()),
    };
    of(src) + of(dst) + u64::from(proto) + len as u64
}

/// The checksum of an L4 packet in which the field is 0. ICMP over IPv4 has no pseudo-header.
pub fn checksum(addresses: (Ipv6Addr, Ipv6Addr), proto: u8, l4: &[u8]) -> u16 {
    let pseudo = if proto == 1 { 0 } else { pseudo(addresses, proto, l4.len()) };
    !fold(pseudo + sum(l4))
}

/// Whether the L4 checksum of a packet is right; `None` where there is none to be read (a fragment, another protocol, UDP
/// without one).
pub fn verifies(ip: &[u8]) -> Option<bool> {
    let (addresses, proto, l4) = upper_of(ip)?;
    let skipped = proto == 17 && l4.get(6..8) == Some(&[0, 0]);
    if skipped || !matches!(proto, 1 | 6 | 17 | 58) {
        return None;
    }
    let pseudo = if proto == 1 { 0 } else { pseudo(addresses, proto, l4.len()) };
    Some(fold(pseudo + sum(l4)) == 0xffff)
}

/// The addresses, protocol and L4 packet of a plain packet: no fragment, no extension headers.
pub fn upper_of(ip: &[u8]) -> Option<((Ipv6Addr, Ipv6Addr), u8, &[u8])> {
    if ip.first()? >> 4 == 4 {
        let address =
            |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?).to_ipv6_mapped());
        let header = usize::from(ip[0] & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
        let whole = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]) & 0x3fff == 0;
        return whole.then_some(((address(12)?, address(16)?), *ip.get(9)?, ip.get(header..total)?));
    }
    let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?));
    let end = 40 + usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?]));
    Some(((address(8)?, address(24)?), *ip.get(6)?, ip.get(40..end)?))
}

/// The answer to a packet that was heard: its ends and l4 ports the other way round, an echo replied to; or an ICMP error
/// about it, of this head. What it says of itself begins with `own`, whatever 16 bytes behind `mark` were there.
#[allow(dead_code, reason = "for those that play sequences")]
pub fn answer(heard: &[u8], refused: Option<[u8; 8]>, (mark, own): (&[u8; 12], &[u8; 16])) -> Vec<u8> {
    let v6 = heard[0] >> 4 == 6;
    let (addresses, len) = if v6 { (8, 16) } else { (12, 4) };
    let (header, proto) = if v6 { (40, heard[6]) } else { (usize::from(heard[0] & 15) * 4, heard[9]) };
    let mut ip = heard[..header].to_vec();
    ip[if v6 { 7 } else { 8 }] = 64;
    let (src, dst) = ip[addresses..addresses + 2 * len].split_at_mut(len);
    src.swap_with_slice(dst);
    if let Some(head) = refused {
        let icmp = if v6 { 58 } else { 1 };
        ip[if v6 { 6 } else { 9 }] = icmp;
        let mut error = [&head[..], &heard[..heard.len().min(548)]].concat();
        if let Some((pair, ..)) = upper_of(heard) {
            let sum = checksum((pair.1, pair.0), icmp, &error);
            put(&mut error, 2, sum);
        }
        ip.extend(error);
    } else {
        ip.extend(&heard[header..]);
        match (proto, ip.get(header).copied()) {
            (6 | 17 | 132, _) if ip.len() >= header + 4 => ip[header..header + 4].rotate_left(2),
            (1, Some(8)) => ip[header] = 0,
            (58, Some(128)) => ip[header] = 129,
            _ => {}
        }
    }
    // Whatever it says it says in its own name.
    while let Some(at) = ip.windows(16).position(|bytes| bytes[..12] == *mark && bytes != own) {
        ip[at..at + 16].copy_from_slice(own);
    }
    let total = ip.len() as u16;
    if v6 {
        put(&mut ip, 4, total - 40);
    } else {
        put(&mut ip, 2, total);
        put(&mut ip, 10, 0);
        let check = !fold(sum(&ip[..header]));
        put(&mut ip, 10, check);
    }
    ip
}
