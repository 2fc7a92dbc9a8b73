//! UDP round trips: one frame there and back at a time.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::udp::PAYLOAD;
use super::{finish_flag, ready, span};
use crate::error::{Error, Result};
use crate::race::stats;

/// An answer that takes longer is lost.
const LOST: Duration = Duration::from_millis(250);

/// What the client says at its end; times in microseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct RoundTrips {
    /// How many came back.
    pub samples: usize,
    /// How many did not.
    pub lost: u64,
    /// Half took no longer.
    pub p50_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
}

pub(super) fn echo(port: u16) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(Error::io("bind"))?;
    socket.set_read_timeout(Some(LOST)).map_err(Error::io("receive timeout"))?;
    let done = finish_flag();
    ready(socket.local_addr().map_err(Error::io("own address"))?.port())?;
    let mut frame = [0u8; 64];
    while !done.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut frame) {
            // A client that left is no reason to end.
            let _ = socket.send_to(frame.get(..length).unwrap_or_default(), from);
        }
    }
    Ok(())
}

pub(super) fn round_trips(
    to: SocketAddrV4,
    seconds: f64,
    samples: usize,
    pause: Duration,
) -> Result<RoundTrips> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(Error::io("bind"))?;
    socket.connect(to).map_err(Error::io(format!("connect to {to}")))?;
    socket.set_read_timeout(Some(LOST)).map_err(Error::io("receive timeout"))?;
    let (start, time) = (Instant::now(), span(seconds));
    let mut nanos: Vec<u64> = Vec::with_capacity(samples.min(1 << 20));
    let mut lost = 0u64;
    let mut sequence = 0u64;
    while nanos.len() < samples && start.elapsed() < time {
        sequence = sequence.wrapping_add(1);
        match one(&socket, sequence)? {
            Some(time) => nanos.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
            None => lost = lost.saturating_add(1),
        }
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
    nanos.sort_unstable();
    let micros = |part| stats::percentile(&nanos, part).map_or(f64::NAN, |nanos| nanos as f64 / 1e3);
    Ok(RoundTrips { samples: nanos.len(), lost, p50_us: micros(0.5), p99_us: micros(0.99) })
}

/// One round trip; `None` if the answer did not come.
fn one(socket: &UdpSocket, sequence: u64) -> Result<Option<Duration>> {
    let mut frame = [0u8; PAYLOAD];
    if let Some(head) = frame.first_chunk_mut() {
        *head = sequence.to_be_bytes();
    }
    let start = Instant::now();
    if socket.send(&frame).is_err() {
        // No neighbour yet, or the queue is full.
        thread::sleep(Duration::from_millis(10));
        return Ok(None);
    }
    let mut answer = [0u8; 64];
    loop {
        match socket.recv(&mut answer) {
            // A late answer to an earlier frame is not this one's.
            Ok(length) if answer.get(..length) == Some(&frame) => return Ok(Some(start.elapsed())),
            Ok(_) if start.elapsed() < LOST => {}
            Ok(_) => return Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) if error.raw_os_error().is_some() => return Ok(None),
            Err(error) => return Err(Error::Io { what: "receive".into(), source: error }),
        }
    }
}
