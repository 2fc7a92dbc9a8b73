//! TCP streams of a fixed time, up or down, to a reader that is fast or takes its time: what a stall would show in.
//!
//! The client connects and sends a [`Wish`]. Who reads counts what came within the time; for a stream up that is the
//! server, which then says how much.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustix::net::sockopt;
use serde::{Deserialize, Serialize};

use super::{finish_flag, ready};
use crate::error::{Error, Result};

/// One read, one write.
const CHUNK: usize = 128 * 1024;
/// A read or write that waits looks at the clock this often.
const LOOK: Duration = Duration::from_millis(20);
/// An end or an answer that takes this much longer than the stream failed.
const LOST: Duration = Duration::from_secs(10);
/// A slow reader reads one [`CHUNK`] in this time, 26 MB/s: the window closes again and again.
const PACE: Duration = Duration::from_millis(5);

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Client {
    /// The server.
    #[arg(long)]
    to: SocketAddrV4,
    /// Who sends.
    #[arg(long, value_enum)]
    direction: Direction,
    /// How the other one reads.
    #[arg(long, value_enum)]
    reader: Reader,
    /// How many, one after the other.
    #[arg(long)]
    runs: u32,
    /// Milliseconds of each.
    #[arg(long)]
    millis: u32,
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    /// The client.
    Up,
    /// The server.
    Down,
}

impl Direction {
    /// Its word on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// How what is sent is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Reader {
    /// As fast as it can.
    Fast,
    /// With pauses.
    Slow,
}

impl Reader {
    /// Its word on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Slow => "slow",
        }
    }

    const fn pause(self) -> Duration {
        match self {
            Self::Fast => Duration::ZERO,
            Self::Slow => PACE,
        }
    }
}

/// What the client says at its end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Streams {
    /// Mbit/s that were read, by run; a connection that failed has none.
    pub mbits: Vec<f64>,
    /// Why the first one failed that did.
    pub failure: Option<String>,
}

/// What a client wants of the server: the first bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wish {
    direction: Direction,
    reader: Reader,
    millis: u32,
}

impl Wish {
    const LENGTH: usize = 6;

    fn to_bytes(self) -> [u8; Self::LENGTH] {
        let [a, b, c, d] = self.millis.to_be_bytes();
        [u8::from(self.direction == Direction::Up), u8::from(self.reader == Reader::Slow), a, b, c, d]
    }

    fn from_bytes([up, slow, a, b, c, d]: [u8; Self::LENGTH]) -> Self {
        Self {
            direction: if up == 1 { Direction::Up } else { Direction::Down },
            reader: if slow == 1 { Reader::Slow } else { Reader::Fast },
            millis: u32::from_be_bytes([a, b, c, d]),
        }
    }

    fn time(self) -> Duration {
        Duration::from_millis(u64::from(self.millis))
    }
}

pub(super) fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(Error::io("listen"))?;
    sockopt::set_socket_timeout(&listener, sockopt::Timeout::Recv, Some(Duration::from_millis(100)))
        .map_err(Error::io("timeout"))?;
    let done = finish_flag();
    ready(listener.local_addr().map_err(Error::io("own address"))?.port())?;
    while !done.load(Ordering::Relaxed) {
        if let Ok((connection, _)) = listener.accept() {
            // Whatever happens to a stream, its client will say.
            thread::spawn(move || serve_one(connection));
        }
    }
    Ok(())
}

fn serve_one(mut connection: TcpStream) -> std::io::Result<()> {
    let mut wish = [0u8; Wish::LENGTH];
    connection.set_read_timeout(Some(LOST))?;
    connection.read_exact(&mut wish)?;
    let wish = Wish::from_bytes(wish);
    match wish.direction {
        Direction::Down => write_for(&mut connection, wish.time()),
        Direction::Up => {
            let bytes = read_for(&mut connection, wish)?;
            connection.write_all(&bytes.to_be_bytes())?;
            drain(&mut connection)
        }
    }
}

pub(super) fn run(client: &Client) -> Result<Streams> {
    let wish = Wish { direction: client.direction, reader: client.reader, millis: client.millis };
    let mut streams = Streams { mbits: Vec::with_capacity(client.runs as usize), failure: None };
    for _ in 0..client.runs {
        let bytes = match one(client.to, wish) {
            Ok(bytes) => bytes,
            Err(error) => {
                streams.failure.get_or_insert_with(|| error.to_string());
                0
            }
        };
        streams.mbits.push(bytes as f64 * 8.0 / 1e6 / wish.time().as_secs_f64());
    }
    Ok(streams)
}

/// Bytes that were read within the time.
fn one(to: SocketAddrV4, wish: Wish) -> std::io::Result<u64> {
    let mut connection = TcpStream::connect_timeout(&to.into(), LOST)?;
    connection.write_all(&wish.to_bytes())?;
    if wish.direction == Direction::Down {
        return read_for(&mut connection, wish);
    }
    write_for(&mut connection, wish.time())?;
    connection.shutdown(Shutdown::Write)?;
    connection.set_read_timeout(Some(LOST))?;
    let mut count = [0u8; 8];
    connection.read_exact(&mut count)?;
    Ok(u64::from_be_bytes(count))
}

/// Writes until the time is over, or the reader is gone.
fn write_for(connection: &mut TcpStream, time: Duration) -> std::io::Result<()> {
    let (start, chunk) = (Instant::now(), vec![0x55; CHUNK]);
    connection.set_write_timeout(Some(LOOK))?;
    while start.elapsed() < time {
        match connection.write(&chunk) {
            Ok(_) => {}
            Err(error) if waits(&error) => {}
            // Its time was over a little earlier than ours.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_for(connection: &mut TcpStream, wish: Wish) -> std::io::Result<u64> {
    let (start, mut chunk, pause) = (Instant::now(), vec![0; CHUNK], wish.reader.pause());
    connection.set_read_timeout(Some(LOOK))?;
    let mut bytes = 0u64;
    while start.elapsed() < wish.time() {
        match connection.read(&mut chunk) {
            Ok(0) => break,
            Ok(got) => bytes = bytes.saturating_add(got as u64),
            Err(error) if waits(&error) => {}
            Err(error) => return Err(error),
        }
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
    Ok(bytes)
}

/// Reads the rest, so that closing is no reset that overtakes the answer.
fn drain(connection: &mut TcpStream) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    connection.set_read_timeout(Some(LOST))?;
    while connection.read(&mut chunk)? > 0 {}
    Ok(())
}

fn waits(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_arrives_as_it_was() {
        for direction in [Direction::Up, Direction::Down] {
            for reader in [Reader::Fast, Reader::Slow] {
                let wish = Wish { direction, reader, millis: 70_000 };
                assert_eq!(Wish::from_bytes(wish.to_bytes()), wish);
            }
        }
    }

    #[test]
    fn both_directions_and_readers_count_what_was_read() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port());
        let server = thread::spawn(move || {
            for _ in 0..4 {
                serve_one(listener.accept().unwrap().0).unwrap();
            }
        });
        for direction in [Direction::Up, Direction::Down] {
            let run = |reader| one(to, Wish { direction, reader, millis: 60 }).unwrap();
            let (fast, slow) = (run(Reader::Fast), run(Reader::Slow));
            assert!(fast > 0 && slow > 0, "{direction:?}: {fast} {slow}");
            // A pause after each read bounds what a slow one can take, whatever else the machine does.
            assert!(slow <= 12 * CHUNK as u64 + CHUNK as u64, "{direction:?}: {slow}");
        }
        server.join().unwrap();
    }
}
