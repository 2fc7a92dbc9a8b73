//! Single segments, by hand.

use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use super::{ADDRESS, GATEWAY_MAC, MAC};

/// A TCP segment of the container's l4 port `from`, in its frame.
pub fn segment(
    from: u16,
    (to, port): (Ipv4Addr, u16),
    control: TcpControl,
    seq: u32,
    ack: Option<u32>,
    payload: &[u8],
) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    let repr = TcpRepr {
        src_port: from,
        dst_port: port,
        control,
        seq_number: TcpSeqNumber(seq as i32),
        ack_number: ack.map(|ack| TcpSeqNumber(ack as i32)),
        window_len: 60_000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload,
    };
    let ip = Ipv4Repr {
        src_addr: ADDRESS,
        dst_addr: to,
        next_header: IpProtocol::Tcp,
        payload_len: repr.buffer_len(),
        hop_limit: 64,
    };
    let mut frame = [&GATEWAY_MAC.0[..], &MAC.0, &[8, 0]].concat();
    frame.resize(14 + ip.buffer_len() + repr.buffer_len(), 0);
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &checksums);
    let mut packet = TcpPacket::new_unchecked(&mut frame[34..]);
    repr.emit(&mut packet, &ADDRESS.into(), &to.into(), &checksums);
    frame
}
