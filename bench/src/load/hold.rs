//! TCP connections that are opened, kept, and say nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::{finish_flag, print, ready};
use crate::error::{Error, Result};

/// A connection or an answer that takes longer failed.
const LOST: Duration = Duration::from_secs(5);
/// How often the server looks whether it is to end.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Events taken at once.
const EVENTS: usize = 256;
/// The token of the listening socket; connections have their place in the list.
const LISTENER: u64 = u64::MAX;

/// What the client says at its end.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Held {
    /// Connections that were opened.
    pub opened: u64,
    /// Connections that could not be.
    pub failed: u64,
    /// Those that carried a byte there and back at the end.
    pub alive: u64,
}

/// Every connection has a descriptor.
fn raise_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .map_err(Error::io("raise the limit of descriptors"))
}

pub(super) fn serve() -> Result<()> {
    raise_descriptors()?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(Error::io("listen"))?;
    listener.set_nonblocking(true).map_err(Error::io("non-blocking"))?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Error::io("epoll"))?;
    let watch = |fd: &dyn AsFd, token| {
        epoll::add(&poll, fd.as_fd(), epoll::EventData::new_u64(token), epoll::EventFlags::IN)
            .map_err(Error::io("epoll on a socket"))
    };
    watch(&listener, LISTENER)?;
    let done = finish_flag();
    ready(listener.local_addr().map_err(Error::io("own address"))?.port())?;
    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    let mut events = Vec::with_capacity(EVENTS);
    while !done.load(Ordering::Relaxed) {
        events.clear();
        match epoll::wait(&poll, spare_capacity(&mut events), Some(&LOOK)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::Io { what: "epoll".into(), source: error.into() }),
        }
        for event in &events {
            let token = event.data.u64();
            if token == LISTENER {
                while let Ok((connection, _)) = listener.accept() {
                    connection.set_nonblocking(true).map_err(Error::io("non-blocking"))?;
                    watch(&connection, connections.len() as u64)?;
                    connections.push(Some(connection));
                }
            } else if let Some(place) =
                usize::try_from(token).ok().and_then(|index| connections.get_mut(index))
                && place.as_mut().is_some_and(|connection| !answer(connection))
            {
                // The other end is gone, and its descriptor with it.
                *place = None;
            }
        }
    }
    Ok(())
}

/// Sends back what there is; whether there may be more.
fn answer(connection: &mut TcpStream) -> bool {
    let mut bytes = [0u8; 16];
    match connection.read(&mut bytes) {
        Ok(0) => false,
        Ok(got) => connection.write_all(bytes.get(..got).unwrap_or_default()).is_ok(),
        Err(error) => {
            matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted)
        }
    }
}

pub(super) fn hold(to: SocketAddrV4, count: u32) -> Result<()> {
    raise_descriptors()?;
    let done = finish_flag();
    let mut connections = Vec::with_capacity(count as usize);
    let mut failed = 0u64;
    for _ in 0..count {
        if done.load(Ordering::Relaxed) {
            break;
        }
        match TcpStream::connect_timeout(&to.into(), LOST) {
            Ok(connection) => connections.push(connection),
            Err(_) => failed = failed.saturating_add(1),
        }
    }
    let opened = connections.len() as u64;
    ready(u16::try_from(opened).unwrap_or(u16::MAX))?;
    while !done.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let alive = connections.iter_mut().map(|connection| u64::from(lives(connection))).sum();
    print(&Held { opened, failed, alive })
}

fn lives(connection: &mut TcpStream) -> bool {
    let mut answer = [0u8; 1];
    connection.set_read_timeout(Some(LOST)).is_ok()
        && connection.write_all(&[7]).is_ok()
        && matches!(connection.read(&mut answer), Ok(1))
        && answer == [7]
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn an_answer_says_that_a_connection_lives() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            assert!(answer(&mut connection), "a byte came");
            // Closed by the client: nothing more.
            assert!(!answer(&mut connection));
        });
        let mut connection = TcpStream::connect(to).unwrap();
        assert!(lives(&mut connection));
        connection.shutdown(std::net::Shutdown::Both).unwrap();
        assert!(!lives(&mut connection));
        server.join().unwrap();
    }
}
