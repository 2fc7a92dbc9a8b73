//! TCP connections, one after the other: SYN, SYN-ACK, ACK, the server's FIN, and a RST that leaves no `TIME_WAIT`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use serde::{Deserialize, Serialize};

use super::{finish_flag, print, ready, span};
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

/// What the server says at its end.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Accepted {
    /// Connections by the address that they came from.
    pub from: BTreeMap<IpAddr, u64>,
}

/// Addresses that the server tells apart: a load has one.
const CLIENTS: usize = 64;

pub(super) fn accept(port: u16, greeted: bool) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(Error::io("listen"))?;
    sockopt::set_socket_timeout(&listener, sockopt::Timeout::Recv, Some(LOOK))
        .map_err(Error::io("timeout"))?;
    let done = finish_flag();
    ready(listener.local_addr().map_err(Error::io("own address"))?.port())?;
    let mut accepted = Accepted::default();
    while !done.load(Ordering::Relaxed) {
        let Ok((mut connection, from)) = listener.accept() else { continue };
        if greeted && connection.set_read_timeout(Some(LOST)).is_ok() {
            // If nothing comes the client's count will say so.
            let _ = connection.read(&mut [0u8; 1]);
        }
        // That closes it, and the FIN is what the client waits for.
        drop(connection);
        if accepted.from.len() < CLIENTS || accepted.from.contains_key(&from.ip()) {
            let count = accepted.from.entry(from.ip()).or_default();
            *count = count.saturating_add(1);
        }
    }
    print(&accepted)
}

pub(super) fn connect(to: SocketAddrV4, seconds: f64, greet: bool) -> Result<Connections> {
    let (start, time) = (Instant::now(), span(seconds));
    let (mut done, mut failed) = (0u64, 0u64);
    while start.elapsed() < time {
        if one(to, greet)? { done = done.saturating_add(1) } else { failed = failed.saturating_add(1) }
    }
    Ok(Connections { done, failed, seconds: start.elapsed().as_secs_f64() })
}

fn one(to: SocketAddrV4, greet: bool) -> Result<bool> {
    let Ok(mut stream) = TcpStream::connect(to) else { return Ok(false) };
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).map_err(Error::io("linger"))?;
    stream.set_read_timeout(Some(LOST)).map_err(Error::io("timeout"))?;
    if greet && stream.write_all(&[7]).is_err() {
        return Ok(false);
    }
    Ok(matches!(stream.read(&mut [0u8; 1]), Ok(0)))
}
