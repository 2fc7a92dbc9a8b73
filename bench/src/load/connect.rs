//! TCP connections, one after the other: SYN, SYN-ACK, ACK, the server's FIN, and a RST that leaves no `TIME_WAIT`.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use serde::{Deserialize, Serialize};

use super::{finish_flag, ready, span};
use crate::error::{Error, Result};

/// A close that takes longer failed.
const LOST: Duration = Duration::from_secs(2);
/// How often the server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// What the client says at its end.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Connections {
    /// Opened, and closed by the server.
    pub done: u64,
    /// Refused, reset or lost.
    pub failed: u64,
    /// Seconds it took.
    pub seconds: f64,
}

pub(super) fn accept() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(Error::io("listen"))?;
    sockopt::set_socket_timeout(&listener, sockopt::Timeout::Recv, Some(LOOK))
        .map_err(Error::io("timeout"))?;
    let done = finish_flag();
    ready(listener.local_addr().map_err(Error::io("own address"))?.port())?;
    while !done.load(Ordering::Relaxed) {
        // Dropping the connection closes it: that FIN is what the client waits for.
        drop(listener.accept());
    }
    Ok(())
}

pub(super) fn connect(to: SocketAddrV4, seconds: f64) -> Result<Connections> {
    let (start, time) = (Instant::now(), span(seconds));
    let (mut done, mut failed) = (0u64, 0u64);
    while start.elapsed() < time {
        if one(to)? { done = done.saturating_add(1) } else { failed = failed.saturating_add(1) }
    }
    Ok(Connections { done, failed, seconds: start.elapsed().as_secs_f64() })
}

fn one(to: SocketAddrV4) -> Result<bool> {
    let Ok(mut stream) = TcpStream::connect(to) else { return Ok(false) };
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).map_err(Error::io("linger"))?;
    stream.set_read_timeout(Some(LOST)).map_err(Error::io("timeout"))?;
    Ok(matches!(stream.read(&mut [0u8; 1]), Ok(0)))
}
