//! Questions that others are asked: one after the other until one of them answers (RFC 1035 section 7, RFC 5452).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use switch::parse::{PROTO_TCP, PROTO_UDP};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message;
use super::resolvers::Upstream;

/// How it is asked: as it was asked of us, so that what is too long for one way is asked again by the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// One datagram.
    Udp,
    /// A stream.
    Tcp,
}

impl By {
    /// Its protocol number.
    pub const fn proto(self) -> u8 {
        match self {
            Self::Udp => PROTO_UDP,
            Self::Tcp => PROTO_TCP,
        }
    }
}

/// What those of `upstream` say to `query` that `may` be asked, but for its id; `None`: nobody answered. An answer that
/// says that it failed is passed on if nobody has a better one.
pub async fn ask(
    mut query: Vec<u8>,
    by: By,
    upstream: Arc<Upstream>,
    may: impl Fn(SocketAddr) -> bool,
) -> Option<Vec<u8>> {
    let mut failure = None;
    for _ in 0..upstream.attempts {
        for (number, server) in upstream.turns().filter(|(_, server)| may(*server)) {
            // A new id and, by a new socket, a new l4 port for each attempt (RFC 5452 section 9.2).
            query.first_chunk_mut::<2>()?.copy_from_slice(&random_id()?);
            let asked = async {
                match by {
                    By::Udp => ask_by_udp(&query, server).await,
                    By::Tcp => ask_by_tcp(&query, server).await,
                }
            };
            match timeout(upstream.timeout, asked).await {
                Ok(Ok(answer)) if message::is_failure(&answer) => failure = Some(answer),
                Ok(Ok(answer)) => {
                    upstream.prefer(number);
                    return Some(answer);
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "asking a resolver"),
                Err(_) => tracing::debug!(%server, "a resolver does not answer"),
            }
        }
        if failure.is_some() {
            break;
        }
    }
    failure
}

fn random_id() -> Option<[u8; 2]> {
    let mut id = [0; 2];
    let got = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty()).ok()?;
    (got == id.len()).then_some(id)
}

async fn ask_by_udp(query: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // The kernel picks an l4 port at random; connected, it takes datagrams from nobody else.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let len = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..len).unwrap_or_default();
        if message::is_answer(answer, query) {
            buffer.truncate(len);
            return Ok(buffer);
        }
    }
}

async fn ask_by_tcp(query: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(server).await?;
    // In one segment (RFC 7766 section 8).
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if message::is_answer(&answer, query) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}
