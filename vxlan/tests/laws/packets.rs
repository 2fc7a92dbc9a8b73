//! TCP and UDP packets, whole or as super-frames, and what a receiver makes of them.

use std::net::Ipv6Addr;

use proptest::prelude::*;
use switch::flow::{Csum, Gso, Packet};
use switch::parse::parse;
use switch::port::PortId;
use switch::vnet::VnetHdr;

use crate::maker::{checksum, fold, pseudo, put, sum};

pub const FIN: u8 = 0x01;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const CWR: u8 = 0x80;

/// One packet, or the super-frame of many.
#[derive(Clone, PartialEq, Eq)]
pub struct Spec {
    pub v6: bool,
    pub tcp: bool,
    pub tos: u8,
    pub ttl: u8,
    pub df: bool,
    pub id: u16,
    pub sport: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            v6: false,
            tcp: true,
            tos: 0,
            ttl: 64,
            df: true,
            id: 1,
            sport: 40_000,
            seq: 1000,
            ack: 77,
            flags: ACK,
            window: 501,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }
}

impl std::fmt::Debug for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { v6, tcp, tos, ttl, df, id, sport, seq, ack, flags, window, options, payload } = self;
        let (options, len, first) = (options.len(), payload.len(), payload.first());
        write!(
            f,
            "v6 {v6} tcp {tcp} tos {tos} ttl {ttl} df {df} id {id} sport {sport} seq {seq} ack {ack} "
        )?;
        write!(f, "flags {flags:#x} window {window} options {options} payload {len} of {first:?}")
    }
}

impl Spec {
    fn addresses(&self) -> (Ipv6Addr, Ipv6Addr) {
        if self.v6 {
            ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap())
        } else {
            ("::ffff:10.1.0.1".parse().unwrap(), "::ffff:10.1.0.2".parse().unwrap())
        }
    }

    pub fn proto(&self) -> u8 {
        if self.tcp { 6 } else { 17 }
    }

    /// Offset of the L4 header in the frame.
    pub fn l4_off(&self) -> usize {
        14 + if self.v6 { 40 } else { 20 }
    }

    /// Bytes of all headers.
    pub fn headers(&self) -> usize {
        self.l4_off() + if self.tcp { 20 + self.options.len() } else { 8 }
    }

    fn l4(&self) -> Vec<u8> {
        let mut l4 = [self.sport, 5001].map(u16::to_be_bytes).concat();
        if self.tcp {
            l4.extend([self.seq, self.ack].map(u32::to_be_bytes).concat());
            l4.extend([(20 + self.options.len() as u8) << 2, self.flags]);
            l4.extend(self.window.to_be_bytes());
            l4.extend([0; 4]);
            l4.extend(&self.options);
        } else {
            l4.extend((8 + self.payload.len() as u16).to_be_bytes());
            l4.extend([0; 2]);
        }
        l4.extend(&self.payload);
        l4
    }

    /// The frame, with the L4 checksum whole, or only the sum of the pseudo-header.
    pub fn frame(&self, partial: bool) -> Vec<u8> {
        let mut l4 = self.l4();
        let check = if partial {
            fold(pseudo(self.addresses(), self.proto(), l4.len()))
        } else {
            match checksum(self.addresses(), self.proto(), &l4) {
                0 if !self.tcp => 0xffff,
                check => check,
            }
        };
        put(&mut l4, if self.tcp { 16 } else { 6 }, check);
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        let (src, dst) = self.addresses();
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
            frame.extend((l4.len() as u16).to_be_bytes());
            frame.extend([self.proto(), self.ttl]);
            frame.extend([src.octets(), dst.octets()].concat());
        } else {
            frame.extend([8, 0, 0x45, self.tos]);
            frame.extend((20 + l4.len() as u16).to_be_bytes());
            frame.extend(self.id.to_be_bytes());
            frame.extend([if self.df { 0x40 } else { 0 }, 0, self.ttl, self.proto(), 0, 0]);
            frame.extend([&src.octets()[12..], &dst.octets()[12..]].concat());
            let check = !fold(sum(&frame[14..]));
            put(&mut frame, 24, check);
        }
        frame.extend(l4);
        frame
    }

    /// The virtio header of the frame with an open checksum; `size` 0: of an ordinary one.
    pub fn vnet(&self, size: u16) -> VnetHdr {
        let kind = match (self.tcp, self.v6) {
            _ if size == 0 => VnetHdr::GSO_NONE,
            (true, false) => VnetHdr::GSO_TCPV4,
            (true, true) => VnetHdr::GSO_TCPV6,
            (false, _) => VnetHdr::GSO_UDP_L4,
        };
        VnetHdr {
            flags: VnetHdr::NEEDS_CSUM,
            gso_type: kind,
            hdr_len: (self.headers() as u16).into(),
            gso_size: size.into(),
            csum_start: (self.l4_off() as u16).into(),
            csum_offset: if self.tcp { 16 } else { 6 }.into(),
        }
    }

    /// The packets that a super-frame of it stands for, made one by one.
    pub fn cut(&self, size: usize) -> Vec<Self> {
        let pieces: Vec<_> = self.payload.chunks(size).collect();
        let last = pieces.len().saturating_sub(1);
        let piece = |(index, payload): (usize, &&[u8])| {
            let mut flags = self.flags;
            if index < last {
                flags &= !(FIN | PSH);
            }
            if index > 0 {
                flags &= !CWR;
            }
            Self {
                id: self.id.wrapping_add(index as u16),
                seq: self.seq.wrapping_add((index * size) as u32),
                flags,
                payload: payload.to_vec(),
                ..self.clone()
            }
        };
        pieces.iter().enumerate().map(piece).collect()
    }
}

pub fn parsed(vnet: &VnetHdr, frame: &[u8]) -> Packet {
    parse(frame, vnet, PortId(1), 0).unwrap()
}

/// A plain packet that came in with a whole checksum.
pub fn parsed_plain(frame: &[u8]) -> Packet {
    let packet = parsed(&VnetHdr::default(), frame);
    assert_eq!((packet.meta.gso, packet.meta.csum), (Gso::None, Csum::Full));
    packet
}

/// Any packet of up to `most` bytes of payload.
pub fn any_spec(most: usize) -> impl Strategy<Value = Spec> {
    let ip = (any::<bool>(), any::<u8>(), 1u8.., any::<bool>(), any::<u16>());
    let flags = prop::sample::select(vec![ACK, ACK | PSH, ACK | FIN, ACK | CWR | PSH, ACK | 0x40]);
    let tcp = (any::<bool>(), any::<u32>(), any::<u32>(), flags, 0u8..=10);
    let payload = (0..=most, any::<u8>());
    (ip, tcp, any::<u16>(), payload).prop_map(
        |((v6, tos, ttl, df, id), (tcp, seq, ack, flags, options), sport, (len, first))| Spec {
            v6,
            tcp,
            tos,
            ttl,
            df,
            id,
            sport,
            seq,
            ack,
            flags,
            window: id ^ 0x5555,
            options: vec![1; usize::from(options) * 4],
            payload: (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(first)).collect(),
        },
    )
}
