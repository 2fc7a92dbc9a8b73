//! One request over the control socket.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use vswitchd::api::ErrorBody;

use crate::failure::Failure;

/// For a place in the daemon's backlog.
const CONNECT: Duration = Duration::from_secs(10);
/// For the whole answer; the daemon gives up on itself after 30 s.
const ANSWER: Duration = Duration::from_secs(40);
/// For one that takes over from a daemon that ends.
const HEIR: Duration = Duration::from_secs(5);
/// Between two looks for it.
const PACE: Duration = Duration::from_millis(20);
/// Longest answer, bytes: 65 536 FDB entries with long names are a tenth of it.
const LONGEST: usize = 256 << 20;

/// Where the daemon is.
pub struct Socket {
    path: PathBuf,
    /// Named by the user, who knows whose it is.
    named: bool,
}

impl Socket {
    /// `--socket`, or where a daemon of this user listens by default.
    pub fn choose(named: Option<PathBuf>) -> Self {
        let default = || {
            let uid = rustix::process::geteuid().as_raw();
            default_path(uid, std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from))
        };
        Self { named: named.is_some(), path: named.unwrap_or_else(default) }
    }
}

fn default_path(uid: u32, runtime_dir: Option<PathBuf>) -> PathBuf {
    match runtime_dir {
        _ if uid == 0 => PathBuf::from("/run/vswitch/control.sock"),
        // XDG base directory specification: a relative path is invalid and ignored.
        Some(folder) if folder.is_absolute() => folder.join("vswitch/control.sock"),
        _ => PathBuf::from(format!("/tmp/vswitch-{uid}/control.sock")),
    }
}

/// Asks the daemon.
pub struct Client {
    socket: Socket,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// No thread is made, then or later: `exec` needs a process of one thread.
    ///
    /// # Errors
    /// No descriptor for the event loop.
    pub fn new(socket: Socket) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { socket, runtime })
    }

    /// # Errors
    /// Not reachable, or the daemon said no.
    pub fn get<T: DeserializeOwned>(&self, resource: &str) -> Result<T, Failure> {
        self.ask(Method::GET, resource, Bytes::new())
    }

    /// # Errors
    /// Not reachable, or the daemon said no.
    pub fn post<T: DeserializeOwned>(&self, resource: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.ask(Method::POST, resource, self.json(body)?)
    }

    /// # Errors
    /// Not reachable, or the daemon said no.
    pub fn post_text<T: DeserializeOwned>(&self, resource: &str, body: Vec<u8>) -> Result<T, Failure> {
        self.ask(Method::POST, resource, Bytes::from(body))
    }

    /// # Errors
    /// Not reachable, or the daemon said no.
    pub fn delete<T: DeserializeOwned>(&self, resource: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.ask(Method::DELETE, resource, self.json(body)?)
    }

    fn json(&self, body: &impl Serialize) -> Result<Bytes, Failure> {
        let body = serde_json::to_vec(body);
        body.map(Bytes::from).map_err(|why| Failure::Foreign { path: self.socket.path.clone(), why })
    }

    fn ask<T: DeserializeOwned>(&self, method: Method, resource: &str, body: Bytes) -> Result<T, Failure> {
        let path = &self.socket.path;
        let exchange = self.exchange_with_heirs(&method, resource, &body);
        let answer = self.runtime.block_on(async { tokio::time::timeout(ANSWER, exchange).await });
        let Reply { status, answer, .. } = answer.unwrap_or_else(|_| Err(Failure::Silent(path.clone())))?;
        if status.is_success() {
            return serde_json::from_slice(&answer)
                .map_err(|why| Failure::Foreign { path: path.clone(), why });
        }
        Err(match serde_json::from_slice::<ErrorBody>(&answer) {
            Ok(body) => Failure::Refused(body),
            Err(_) => Failure::Status(status),
        })
    }

    /// Asks again where another daemon takes over: of one that ends without, the next connect says that it is gone.
    async fn exchange_with_heirs(
        &self,
        method: &Method,
        resource: &str,
        body: &Bytes,
    ) -> Result<Reply, Failure> {
        let (patience, harmless) = (Instant::now() + HEIR, method == Method::GET);
        loop {
            let reply = self.exchange(method.clone(), resource, body.clone()).await;
            let again = match &reply {
                Ok(reply) if reply.status == StatusCode::SERVICE_UNAVAILABLE => reply.unbegun || harmless,
                Ok(_) => false,
                // What changes something may have been done before it broke.
                Err(Failure::Broken { unheard, .. }) => harmless && *unheard,
                Err(_) => false,
            };
            if !again || Instant::now() >= patience {
                return reply;
            }
            tokio::time::sleep(PACE).await;
        }
    }

    async fn exchange(&self, method: Method, resource: &str, body: Bytes) -> Result<Reply, Failure> {
        let path = &self.socket.path;
        let broken = |unheard, why: Box<dyn std::error::Error + Send + Sync>| Failure::Broken {
            path: path.clone(),
            unheard,
            why: innermost(why),
        };
        let stream = self.connect()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|why| broken(false, why.into()))?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(resource)
            .header("host", "localhost")
            .body(Full::new(body))
            .map_err(|why| broken(false, why.into()))?;
        let response =
            sender.send_request(request).await.map_err(|why| broken(has_ended(&why), why.into()))?;
        let status = response.status();
        // RFC 9110 section 10.2.3: only a daemon that ends says when to come again.
        let unbegun = response.headers().contains_key(header::RETRY_AFTER);
        let answer =
            Limited::new(response.into_body(), LONGEST).collect().await.map_err(|why| broken(false, why))?;
        connection.abort();
        Ok(Reply { status, answer: answer.to_bytes(), unbegun })
    }

    fn connect(&self) -> Result<UnixStream, Failure> {
        let path = &self.socket.path;
        let stream = connect_within(path, CONNECT)
            .and_then(|stream| {
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream)
            })
            .map_err(|source| Failure::connect(path, source))?;
        let peer = stream.peer_cred().map_err(|source| Failure::connect(path, source))?.uid();
        // The default folder under /tmp can be anybody's: what is behind it must be ours.
        if !self.socket.named && peer != 0 && peer != rustix::process::geteuid().as_raw() {
            return Err(Failure::Stranger { path: path.clone(), uid: peer });
        }
        Ok(stream)
    }
}

/// What came back.
struct Reply {
    status: StatusCode,
    answer: Bytes,
    /// Nothing was done, for the daemon is about to end.
    unbegun: bool,
}

/// A blocking connect: the non-blocking one does not wait for a place in the backlog, it fails (unix(7)).
fn connect_within(path: &Path, patience: Duration) -> io::Result<StdUnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(StdUnixStream::from(socket))
}

/// Whether the other side ended while we spoke, without an answer.
fn has_ended(why: &hyper::Error) -> bool {
    let source = std::error::Error::source(why).and_then(|source| source.downcast_ref::<io::Error>());
    let reset = source
        .is_some_and(|it| matches!(it.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe));
    reset || why.is_incomplete_message() || why.is_canceled()
}

/// hyper's own words say less than what they wrap.
fn innermost(error: Box<dyn std::error::Error + Send + Sync>) -> Box<dyn std::error::Error + Send + Sync> {
    let mut cause: &dyn std::error::Error = error.as_ref();
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string().into()
}

/// A name as one segment of a path, or a value of a query (RFC 3986 section 2.3).
pub fn segment(name: &str) -> String {
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                segment.push(char::from(byte));
            }
            _ => segment.push_str(&format!("%{byte:02X}")),
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_socket_is_that_of_the_contract() {
        let run = || Some(PathBuf::from("/run/user/1000"));
        assert_eq!(default_path(0, run()), Path::new("/run/vswitch/control.sock"));
        assert_eq!(default_path(1000, run()), Path::new("/run/user/1000/vswitch/control.sock"));
        for none in [None, Some(PathBuf::new()), Some(PathBuf::from("run"))] {
            assert_eq!(default_path(1000, none), Path::new("/tmp/vswitch-1000/control.sock"));
        }
    }

    #[test]
    fn names_stay_one_segment() {
        assert_eq!(segment("web-1.a_b~"), "web-1.a_b~");
        assert_eq!(segment("a/b?c d%\u{e9}"), "a%2Fb%3Fc%20d%25%C3%A9");
    }
}
