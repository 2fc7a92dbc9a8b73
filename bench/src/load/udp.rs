//! UDP with 18 bytes of payload: a 64-byte Ethernet frame, counted with its checksum.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use serde::{Deserialize, Serialize};

use super::{finish_flag, print, ready, repeat, span};
use crate::error::{Error, Result};

/// 64 bytes on the wire less Ethernet (14 + 4), IPv4 (20) and UDP (8).
pub const PAYLOAD: usize = 18;
/// Room for what the receiver has not read yet, so that what is lost was lost in the switch.
const BUFFER: usize = 32 << 20;
/// Nothing for this long after the sender ended: the rest is lost.
const QUIET: Duration = Duration::from_millis(40);
/// What a sender says at its end.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Sent {
    /// Frames the kernel took.
    pub sent: u64,
    /// Frames the kernel refused, such as for a full queue.
    pub refused: u64,
    /// Seconds it took.
    pub seconds: f64,
}

/// What a receiver says at its end.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Received {
    /// Frames with the tag.
    pub received: u64,
}

pub(super) fn receive(tag: u32, port: u16) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(Error::io("bind"))?;
    socket.set_read_timeout(Some(QUIET)).map_err(Error::io("receive timeout"))?;
    sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).map_err(Error::io("receive buffer"))?;
    let done = finish_flag();
    ready(socket.local_addr().map_err(Error::io("own address"))?.port())?;
    let mut frame = [0u8; 64];
    let mut received = 0u64;
    let tag = tag.to_be_bytes();
    loop {
        match socket.recv(&mut frame) {
            Ok(_) if frame.starts_with(&tag) => received = received.saturating_add(1),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if done.load(Ordering::Relaxed) {
                    return print(&Received { received });
                }
            }
            Err(error) => return Err(Error::Io { what: "receive".into(), source: error }),
        }
    }
}

pub(super) fn send(to: SocketAddrV4, tag: u32, rate: u64, seconds: f64) -> Result<Sent> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(Error::io("bind"))?;
    socket.connect(to).map_err(Error::io(format!("connect to {to}")))?;
    let mut frame = [0u8; PAYLOAD];
    if let Some(head) = frame.first_chunk_mut() {
        *head = tag.to_be_bytes();
    }
    let mut sender = Sender { socket, frame, sent: 0, refused: 0 };
    let start = Instant::now();
    repeat(rate, span(seconds), || sender.one())?;
    Ok(Sent { sent: sender.sent, refused: sender.refused, seconds: start.elapsed().as_secs_f64() })
}

struct Sender {
    socket: UdpSocket,
    frame: [u8; PAYLOAD],
    sent: u64,
    refused: u64,
}

impl Sender {
    fn one(&mut self) -> Result<()> {
        match self.socket.send(&self.frame) {
            Ok(_) => self.sent = self.sent.saturating_add(1),
            // ENOBUFS has no ErrorKind; a receiver that is gone shows in its own count.
            Err(error) if error.raw_os_error().is_some() => self.refused = self.refused.saturating_add(1),
            Err(error) => return Err(Error::Io { what: "send".into(), source: error }),
        }
        Ok(())
    }
}
