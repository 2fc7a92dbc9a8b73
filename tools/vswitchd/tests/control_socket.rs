//! Hostile clients on the control socket (H42) with a good one among them: the good one is always answered.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use switch::mac::MacAddr;
use tokio::sync::{mpsc, oneshot};
use vswitchd::api::rows::{Done, FdbRow, FdbType};
use vswitchd::api::server::{Limits, serve_within};
use vswitchd::api::{Answer, Call, Request};

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The real server on a socket of its own, with an actor that answers with fixed rows.
struct Server {
    path: PathBuf,
    shutdown: Option<oneshot::Sender<()>>,
    runtime: Option<tokio::runtime::Runtime>,
    served: Option<tokio::task::JoinHandle<()>>,
}

impl Server {
    fn start(limits: Limits) -> Self {
        Self::start_for(limits, rustix::process::geteuid().as_raw())
    }

    fn start_for(limits: Limits, uid: u32) -> Self {
        let folder = std::env::temp_dir().join(format!(
            "vswitch-h42-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("control.sock");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (calls, mailbox) = mpsc::channel(64);
        runtime.spawn(actor(mailbox));
        let (shutdown, stop) = oneshot::channel::<()>();
        let entered = runtime.enter();
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        drop(entered);
        let served = runtime.spawn(serve_within(limits, listener, calls, uid, async {
            drop(stop.await);
        }));
        Self { path, shutdown: Some(shutdown), runtime: Some(runtime), served: Some(served) }
    }

    fn connect(&self) -> UnixStream {
        connect(&self.path)
    }

    /// A good client: one request, answered in full.
    fn good_client(&self) {
        let answer = get(&self.path, "/v1/fdb");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:.300}");
        assert!(answer.contains("02:42:0a:01:00:0a"), "{answer:.300}");
    }

    fn stop(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
        let served = self.served.take().unwrap();
        let ended = async { tokio::time::timeout(DEADLINE, served).await };
        self.runtime.as_ref().unwrap().block_on(ended).unwrap().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
        std::fs::remove_dir_all(self.path.parent().unwrap()).unwrap();
    }
}

async fn actor(mut mailbox: mpsc::Receiver<Call>) {
    let row = FdbRow {
        port: 1,
        vlan: 0,
        mac: MacAddr([2, 0x42, 10, 1, 0, 10]),
        age: Some(3),
        network: "blue".into(),
        container: "web".into(),
        iface: "eth0".into(),
        r#type: FdbType::Dynamic,
    };
    while let Some(call) = mailbox.recv().await {
        let answer = match call.request {
            Request::Fdb => Answer::Fdb(vec![row.clone()]),
            // Far more than a socket's buffer takes.
            Request::Config => Answer::Config(serde_json::Value::String("x".repeat(4 << 20))),
            // Never answered: a client that goes on waiting.
            Request::Reload => {
                std::mem::forget(call.reply);
                continue;
            }
            _ => Answer::Done(Done::default()),
        };
        // A client that gave up is no fault.
        let _ = call.reply.send(Ok(answer));
    }
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn get(path: &Path, resource: &str) -> String {
    let mut stream = connect(path);
    write!(stream, "GET {resource} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Sends what the other side lets us send and gives all it says until it closes.
fn exchange(mut stream: UnixStream, sent: &[u8]) -> String {
    // The server may close in the middle: that is its right.
    let _ = stream.write_all(sent);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the server neither answered nor closed: {error}"),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Whether the other side closed; waits for it.
fn closed(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(n) => n == 0,
        Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
    }
}

fn post(resource: &str, body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("POST {resource} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    request.extend_from_slice(body);
    request
}

fn many_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}

#[test]
fn a_thousand_that_send_one_byte_and_fall_silent() {
    many_files();
    let server = Server::start(Limits::default());
    let mut silent: Vec<UnixStream> = Vec::new();
    for number in 0..1000 {
        let mut stream = server.connect();
        // Given up for a later one already, perhaps.
        let _ = stream.write_all(b"G");
        silent.push(stream);
        if number % 250 == 249 {
            server.good_client();
        }
    }
    server.good_client();
    assert!(silent.iter_mut().take(900).all(closed), "the oldest made room");
}

#[test]
fn silent_connections_end_when_the_header_is_due() {
    let server = Server::start(Limits { header: Duration::from_millis(100), ..Limits::default() });
    let mut never_spoke = server.connect();
    let mut half_a_header = server.connect();
    half_a_header.write_all(b"GET /v1/fdb HTTP/1.1\r\nHost:").unwrap();
    let mut kept_alive = server.connect();
    kept_alive.write_all(b"GET /v1/none HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(closed(&mut never_spoke));
    assert!(closed(&mut half_a_header));
    let mut answer = String::new();
    kept_alive.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    server.good_client();
}

#[test]
fn a_body_that_does_not_come_is_answered_408() {
    let server = Server::start(Limits { body: Duration::from_millis(100), ..Limits::default() });
    let mut stream = server.connect();
    stream.write_all(b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    server.good_client();
}

#[test]
fn random_bytes() {
    let server = Server::start(Limits::default());
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..20 {
        let noise: Vec<u8> = (0..65536)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect();
        let answer = exchange(server.connect(), &noise);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        let answer = exchange(server.connect(), &post("/v1/networks", &noise));
        assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
        let answer = exchange(server.connect(), &post("/v1/apply", &noise));
        assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
    }
    server.good_client();
}

#[test]
fn nesting_numbers_wrong_utf8_and_long_bodies() {
    let server = Server::start(Limits::default());
    let deep = [b"{\"name\":".as_slice(), &b"[".repeat(1_000_000)].concat();
    let huge = format!("{{\"name\":\"a\",\"mtu\":{}}}", "9".repeat(1_000_000));
    for (body, status) in [
        (deep.as_slice(), "422"),
        (huge.as_bytes(), "422"),
        (b"{\"name\":\"\xc3\x28\"}".as_slice(), "422"),
        (&vec![b' '; (1 << 20) + 1], "413"),
    ] {
        let answer = exchange(server.connect(), &post("/v1/networks", body));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{status} {}: {answer}", body.len());
        let content = answer.split("\r\n\r\n").nth(1).unwrap();
        let error: serde_json::Value = serde_json::from_str(content).unwrap();
        assert!(error["error"].as_str().is_some_and(|text| !text.contains('\n') && text.len() < 1000));
        server.good_client();
    }
    let endless_header = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'a'; 1 << 20]].concat();
    let answer = exchange(server.connect(), &endless_header);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer:.100}");
    let chunks =
        b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n";
    let answer = exchange(server.connect(), chunks);
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    server.good_client();
}

#[test]
fn ten_thousand_at_once() {
    many_files();
    if getrlimit(Resource::Nofile).current.is_some_and(|most| most < 11_000) {
        // As many as an ordinary user may have open.
        many_connections(1500);
    } else {
        many_connections(10_000);
    }
}

fn many_connections(count: usize) {
    // A short grace only makes the test short: each of them is looked at before it is given up.
    let server = Server::start(Limits { grace: Duration::from_millis(2), ..Limits::default() });
    let path = server.path.clone();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || (0..count / 4).map(|_| connect(&path)).collect::<Vec<_>>())
        })
        .collect();
    for _ in 0..5 {
        good_client_with_patience(&server.path);
    }
    let held: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(held.len(), count / 4 * 4);
    good_client_with_patience(&server.path);
    drop(held);
    server.good_client();
}

/// With a grace of 2 ms a client on a busy machine may be taken for a dawdler: it tries again.
fn good_client_with_patience(path: &Path) {
    let end = Instant::now() + DEADLINE;
    loop {
        let mut stream = connect(path);
        let mut answer = String::new();
        let asked = write!(stream, "GET /v1/fdb HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        if asked.and_then(|()| stream.read_to_string(&mut answer)).is_ok() && answer.contains("200 OK") {
            return;
        }
        assert!(Instant::now() < end, "never answered");
    }
}

#[test]
fn clients_that_never_read() {
    let server = Server::start(Limits::default());
    let mut deaf: Vec<UnixStream> = (0..100).map(|_| server.connect()).collect();
    for stream in &mut deaf {
        // Some were given up for later ones by now.
        let _ = stream.write_all(b"GET /v1/config HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    server.good_client();
}

#[test]
fn an_answer_that_is_not_read_ends_the_connection() {
    let server = Server::start(Limits { read: Duration::from_millis(200), ..Limits::default() });
    let mut deaf = server.connect();
    // Many requests in a row, and no answer read: what is sent stops being taken, then the connection ends.
    let end = Instant::now() + DEADLINE;
    let error = loop {
        if let Err(error) = deaf.write_all(b"GET /v1/config HTTP/1.1\r\nHost: x\r\n\r\n") {
            break error;
        }
        assert!(Instant::now() < end);
    };
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
    server.good_client();
}

#[test]
fn a_slow_reader_gets_all_of_a_long_answer() {
    let server = Server::start(Limits { header: Duration::from_millis(100), ..Limits::default() });
    let mut slow = server.connect();
    slow.write_all(b"GET /v1/config HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut first = [0; 1];
    slow.read_exact(&mut first).unwrap();
    // Others come and go for longer than a header may take.
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {
        server.good_client();
    }
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).unwrap();
    assert!(rest.len() > 4 << 20, "cut off after {} bytes", rest.len());
}

#[test]
fn connections_the_actor_works_for_are_not_given_up() {
    let limits = Limits { connections: 4, answer: Duration::from_millis(300), ..Limits::default() };
    let server = Server::start(limits);
    let mut waiting: Vec<UnixStream> = (0..4).map(|_| server.connect()).collect();
    for stream in &mut waiting {
        stream.write_all(b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    }
    // All places are taken by clients that are owed an answer; this one waits for the first of them.
    server.good_client();
    for mut stream in waiting {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    }
}

#[test]
fn a_connection_is_kept_for_a_number_of_requests() {
    let server = Server::start(Limits { requests: 3, ..Limits::default() });
    let answers = exchange(server.connect(), &b"GET /v1/fdb HTTP/1.1\r\nHost: x\r\n\r\n".repeat(5));
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
    assert_eq!(answers.matches("connection: close").count(), 1, "{answers}");
}

#[test]
fn strangers_are_refused() {
    const NOBODY: u32 = 65534;
    let user = rustix::process::geteuid();
    if !user.is_root() {
        let server = Server::start_for(Limits::default(), user.as_raw().wrapping_add(1));
        let answer = get(&server.path, "/v1/fdb");
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start(Limits::default());
    // The modes that guard the socket besides are out of the way here: the peer's credentials must do.
    let open = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    open(server.path.parent().unwrap(), 0o755);
    open(&server.path, 0o666);
    let path = server.path.clone();
    let answer = std::thread::spawn(move || {
        // Of this thread only, which ends here.
        let nobody = rustix::process::Uid::from_raw(NOBODY);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        get(&path, "/v1/fdb")
    });
    let answer = answer.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("user id 65534 may not use this socket"), "{answer}");
    server.good_client();
    drop(server);

    let other = Server::start_for(Limits::default(), NOBODY);
    other.good_client(); // root always may
}

#[test]
fn requests_under_way_are_answered_at_the_end() {
    let mut server = Server::start(Limits { answer: Duration::from_millis(200), ..Limits::default() });
    let mut idle = server.connect();
    let mut busy = server.connect();
    busy.write_all(b"POST /v1/reload HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    server.good_client(); // by now the one before is with the actor
    server.stop();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(closed(&mut idle));
    assert!(UnixStream::connect(&server.path).is_err(), "nobody listens any more");
}

#[test]
fn who_had_just_come_is_answered_at_the_end() {
    let limits = Limits { newcomer: DEADLINE, farewell: DEADLINE, ..Limits::default() };
    let mut server = Server::start(limits);
    let newcomer = server.connect();
    let mut kept = server.connect();
    kept.write_all(b"GET /v1/fdb HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    kept.read_exact(&mut [0]).unwrap(); // by now the one before is accepted
    let shutdown = server.shutdown.take().unwrap();
    shutdown.send(()).unwrap();
    // The end has begun when one that has had its answer is closed.
    let mut rest = String::new();
    kept.read_to_string(&mut rest).unwrap();
    let answer = exchange(newcomer, b"GET /v1/fdb HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}
