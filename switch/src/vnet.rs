//! `virtio_net_hdr`: the ten bytes in front of every frame of a TAP opened with `IFF_VNET_HDR`.
//!
//! They carry what makes the switch fast: "this 64 KiB frame is many segments of `gso_size`" and "the checksum field
//! holds only the pseudo-header sum". Source: `include/uapi/linux/virtio_net.h`; virtio 1.2 section 5.1.6.

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The header as it lies in front of the frame. 10 bytes: with 14 of Ethernet the IP header is 8-byte aligned.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct VnetHdr {
    /// [`VnetHdr::NEEDS_CSUM`], [`VnetHdr::DATA_VALID`].
    pub flags: u8,
    /// One of the `GSO_*` values, possibly with [`VnetHdr::GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of all headers together. Set on writes, never trusted on reads: the kernel may give the linear part.
    pub hdr_len: U16,
    /// Payload bytes of one segment.
    pub gso_size: U16,
    /// Offset in the frame at which the checksum starts (the L4 header).
    pub csum_start: U16,
    /// Offset of the checksum field from `csum_start`: 16 for TCP, 6 for UDP.
    pub csum_offset: U16,
}

impl VnetHdr {
    /// Bytes of the header.
    pub const LEN: usize = 10;
    /// The L4 checksum is partial: the field holds the folded, uncomplemented pseudo-header sum.
    pub const NEEDS_CSUM: u8 = 1;
    /// The L4 checksum was verified by the sender's side.
    pub const DATA_VALID: u8 = 2;
    /// Not a super-frame.
    pub const GSO_NONE: u8 = 0;
    /// TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// UDP segments, each with a header of its own (`UDP_SEGMENT`).
    pub const GSO_UDP_L4: u8 = 5;
    /// Flag beside a TCP type: the first segment carries CWR (RFC 3168).
    pub const GSO_ECN: u8 = 0x80;

    /// Whether the frame is many segments.
    pub const fn is_gso(&self) -> bool {
        self.gso_type != Self::GSO_NONE
    }

    /// The type without the ECN flag.
    pub const fn gso_kind(&self) -> u8 {
        self.gso_type & !Self::GSO_ECN
    }

    /// Whether the checksum is left to whoever needs it whole.
    pub const fn needs_csum(&self) -> bool {
        self.flags & Self::NEEDS_CSUM != 0
    }
}

const _: () = assert!(size_of::<VnetHdr>() == VnetHdr::LEN);
