//! From received datagrams to inner frames: checked, with the congestion marks of the outer header, and with the virtio
//! header that says what a kernel's device left open.
//!
//! One layer is taken off, never more: VXLAN inside the frame is the payload of whoever sent it.

use std::net::IpAddr;
use std::ops::Range;

use switch::checksum::pseudo;
use switch::drop::DropReason;
use switch::flow::{Fragment, L3, Packet};
use switch::mac::MacAddr;
use switch::parse::{PROTO_TCP, PROTO_UDP, parse};
use switch::port::PortId;
use switch::vnet::VnetHdr;

use crate::ecn::{self, Ecn};
use crate::settings::Settings;
use crate::wire::{Repr, VxlanHdr, WireError};

/// Offset of the checksum in a TCP header, bytes.
const TCP_FIELD: u16 = 16;
/// Offset of the checksum in a UDP header, bytes.
const UDP_FIELD: u16 = 6;
const CWR: u8 = 0x80;
/// SYN and RST are never parts of a super-frame.
const SYN_OR_RST: u8 = 0x06;
/// Linux sends no smaller TCP segments (`tcp_min_snd_mss`), and the parser takes no large super-frames of them.
const TCP_SIZE_MIN: u16 = 48;

/// An inner frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// What the header said.
    pub header: Repr,
    /// Where it begins in the buffer that was received into.
    pub start: u32,
    /// Its length, bytes.
    pub len: u32,
    /// What it is by its bytes alone; of no port and no zone.
    pub packet: Packet,
    /// The virtio header that belongs in front: all zero but for what a kernel's device left open.
    pub vnet: VnetHdr,
}

/// Why there is no inner frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DecapError {
    /// The datagram is not VXLAN.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The packet met congestion, and its transport knows no ECN (RFC 6040 section 4.2).
    #[error("marked as having met congestion, which its transport does not know")]
    Congested,
    /// The frame has a VLAN tag (RFC 7348 section 6.1: to be discarded).
    #[error("inner frame with a VLAN tag")]
    Tagged,
    /// Its source is a group or all zero.
    #[error("inner source address is a group or all zero")]
    BadSource,
    /// The parser refused it.
    #[error("inner frame: {}", .0.explanation())]
    Frame(DropReason),
}

impl From<DecapError> for DropReason {
    fn from(error: DecapError) -> Self {
        match error {
            DecapError::Wire(_) => Self::VxlanMalformed,
            DecapError::Congested => Self::VxlanCongested,
            DecapError::Tagged => Self::VxlanTagged,
            DecapError::BadSource => Self::BadSourceMac,
            DecapError::Frame(reason) => reason,
        }
    }
}

/// The datagrams of what one call received: `range` of its buffer has one, or several of `size` bytes, the last one perhaps
/// shorter (`UDP_GRO`). A datagram may be empty.
pub fn datagrams(range: Range<usize>, size: Option<u16>) -> impl Iterator<Item = Range<usize>> {
    let Range { start, end } = range;
    let size = size.map_or(end.saturating_sub(start), usize::from).max(1);
    let first = std::iter::once(start..start.saturating_add(size).min(end));
    let more = (start..end).step_by(size).skip(1);
    first.chain(more.map(move |start| start..start.saturating_add(size).min(end)))
}

/// The frame in one datagram from `from`, which begins at `at` of its buffer, and the port it came by: whether there is such
/// a network, whether the sender is known to be on it, and whether the frame is sound, in this order.
///
/// # Errors
/// Whose it is, as far as that is known, and why there is no frame in it.
pub fn open(
    settings: &Settings,
    from: IpAddr,
    datagram: &mut [u8],
    at: usize,
    outer: Ecn,
) -> Result<(PortId, Inner), (PortId, DropReason)> {
    let of_nobody = |reason| (PortId::NOBODY, reason);
    let header =
        Repr::parse(datagram, settings.reserved).map_err(|_| of_nobody(DropReason::VxlanMalformed))?;
    let mtu = settings.mtu(header.vni).ok_or(of_nobody(DropReason::VxlanUnknownVni))?;
    // RFC 7348 section 7: nothing but the outer address says who it is from.
    let port = settings.port(from, header.vni).ok_or(of_nobody(DropReason::VxlanUnknownVtep))?;
    let inner = inner(datagram, at, header, outer, mtu).map_err(|error| (port, error.into()))?;
    Ok((port, inner))
}

/// The frame in one datagram with this header, which begins at `at` of its buffer and came with `outer` in its outer
/// header, for a network of this MTU.
///
/// # Errors
/// Why it is refused.
pub fn inner(
    datagram: &mut [u8],
    at: usize,
    header: Repr,
    outer: Ecn,
    mtu: u16,
) -> Result<Inner, DecapError> {
    let frame = datagram.get_mut(VxlanHdr::LEN..).unwrap_or_default();
    ecn::combine(frame, outer).map_err(|_| DecapError::Congested)?;
    let packet = parse(frame, &VnetHdr::default(), PortId::NOBODY, 0).map_err(DecapError::Frame)?;
    if packet.meta.vlan.is_some() {
        return Err(DecapError::Tagged);
    }
    if packet.meta.src.is_group() || packet.meta.src == MacAddr::ZERO {
        return Err(DecapError::BadSource);
    }
    let vnet = left_open(frame, &packet, mtu).unwrap_or_default();
    let place =
        |offset: usize| u32::try_from(offset).map_err(|_| DecapError::Frame(DropReason::OversizedRead));
    Ok(Inner { header, start: place(at + VxlanHdr::LEN)?, len: place(frame.len())?, packet, vnet })
}

/// What a kernel's device left open, where it and we are on one machine. A veth hands on what the device made for a NIC
/// with offloads: the inner checksum is the bare sum of the pseudo-header, and the inner packet may be a super-frame of
/// up to 64 KiB in one datagram. The metadata that says so is lost at the socket.
fn left_open(frame: &[u8], packet: &Packet, mtu: u16) -> Option<VnetHdr> {
    let (key, meta) = (&packet.key, &packet.meta);
    let field = match key.proto {
        PROTO_TCP => TCP_FIELD,
        PROTO_UDP => UDP_FIELD,
        _ => return None,
    };
    let l4 = frame.get(usize::from(meta.l4_off)..meta.l3_end as usize)?;
    let value = u16::from_be_bytes(*l4.get(usize::from(field)..)?.first_chunk()?);
    // RFC 768: no checksum. A fragment's was completed before the packet was cut.
    if (key.proto == PROTO_UDP && value == 0) || meta.fragment != Fragment::No || l4.len() > 0xffff {
        return None;
    }
    let bare = pseudo(key.src, key.dst, key.proto, l4.len() as u32);
    // One in 65,536 whole checksums has that value, too: then whoever completes it finds the same again.
    if value != bare {
        return None;
    }
    let vnet = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        csum_start: meta.l4_off.into(),
        csum_offset: field.into(),
        ..VnetHdr::default()
    };
    let vnet = super_frame(frame, packet, vnet, mtu).unwrap_or(vnet);
    // What a kernel would never leave open, the parser would drop for what we say of it: a UDP length that is not that of
    // the packet, a fragment header.
    parse(frame, &vnet, PortId::NOBODY, 0).is_ok().then_some(vnet)
}

/// The virtio header of a TCP packet that is longer than the network allows, so that it is many.
///
/// How long its segments were is lost. They are made as long as the network allows: the receiver takes that, for its own
/// MTU is what it told the sender. Datagrams of an inner UDP super-frame are lost for good, and the switch drops it as too
/// long.
fn super_frame(frame: &[u8], packet: &Packet, vnet: VnetHdr, mtu: u16) -> Option<VnetHdr> {
    let meta = &packet.meta;
    let tcp = meta.tcp?;
    let len = (meta.l3_end as usize).checked_sub(usize::from(meta.l3_off))?;
    if len <= usize::from(mtu) || meta.l3_end as usize != frame.len() || tcp.flags & SYN_OR_RST != 0 {
        return None;
    }
    let headers = meta.headers_len.checked_sub(meta.l3_off)?;
    let size = mtu.checked_sub(headers).filter(|size| *size >= TCP_SIZE_MIN)?;
    let kind = if meta.l3 == L3::V6 { VnetHdr::GSO_TCPV6 } else { VnetHdr::GSO_TCPV4 };
    let ecn = if tcp.flags & CWR != 0 { VnetHdr::GSO_ECN } else { 0 };
    Some(VnetHdr { gso_type: kind | ecn, gso_size: size.into(), hdr_len: meta.headers_len.into(), ..vnet })
}
