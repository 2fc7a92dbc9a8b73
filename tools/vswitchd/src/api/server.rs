//! Connections of the control socket: who may speak, how many at once, how long each may take.
//!
//! A connection is worth keeping while the control plane works for it. All others (silent, dripping a header, sending a
//! body, not reading an answer) are given up for a newcomer, the one that has dawdled longest first, when all places
//! are taken; and on their own after a while. So any number of them cannot keep a good client out.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::Response;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower::ServiceExt;

use super::Call;
use super::http::{Calls, fault, forbidden, router};

/// Bounds of the control socket.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; the next one waits or takes the place of a dawdler.
    pub connections: usize,
    /// How long a connection is not counted as a dawdler.
    pub grace: Duration,
    /// For a request's line and headers, from accept or from the answer before.
    pub header: Duration,
    /// For a request's body.
    pub body: Duration,
    /// For the control plane's answer.
    pub answer: Duration,
    /// For a client to read an answer.
    pub read: Duration,
    /// Longest body, bytes.
    pub body_bytes: usize,
    /// Requests on one connection; then it is closed.
    pub requests: u32,
    /// For the first word of a connection, from accept, when the server ends: less than a keeper gives its engine then.
    pub newcomer: Duration,
    /// For requests under way when the server ends.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            grace: Duration::from_millis(25),
            header: Duration::from_secs(5),
            body: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            read: Duration::from_secs(30),
            body_bytes: 1024 * 1024,
            requests: 1000,
            newcomer: Duration::from_millis(200),
            farewell: Duration::from_secs(1),
        }
    }
}

/// Longest request line and headers, bytes.
const HEADER_BYTES: usize = 16 * 1024;
/// Pause after accept failed (no descriptor left), so that it is not tried in a circle.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the control socket until `shutdown` is ready, then lets requests under way end.
///
/// Peers must have the user id `allowed_uid`, as seen from the user namespace of this process, or 0: others are
/// answered 403. A full `calls` is answered 503.
pub async fn serve(
    listener: UnixListener,
    calls: mpsc::Sender<Call>,
    allowed_uid: u32,
    shutdown: impl Future<Output = ()>,
) {
    serve_within(Limits::default(), listener, calls, allowed_uid, shutdown).await;
}

/// [`serve`] with other bounds.
pub async fn serve_within(
    limits: Limits,
    listener: UnixListener,
    calls: mpsc::Sender<Call>,
    allowed_uid: u32,
    shutdown: impl Future<Output = ()>,
) {
    let (closing, closed) = watch::channel(false);
    let router = router(Calls::new(calls, limits.answer));
    let mut house = House { limits: Arc::new(limits), tasks: JoinSet::new(), places: Vec::new(), closed };
    let mut waiting: Option<UnixStream> = None;
    let mut shutdown = pin!(shutdown);
    loop {
        let full = house.places.len() >= house.limits.connections;
        if !full && let Some(stream) = waiting.take() {
            house.admit(stream, &router, allowed_uid);
            continue;
        }
        let eviction = sleep_until(house.next_eviction());
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = house.tasks.join_next_with_id() => house.forget(&ended),
            accepted = listener.accept(), if waiting.is_none() => match accepted {
                Ok((stream, _)) => waiting = Some(stream),
                Err(error) => {
                    tracing::warn!(%error, "control socket: accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            () = eviction, if waiting.is_some() => house.evict(),
        }
    }
    drop(listener);
    closing.send_replace(true);
    let farewell = async { while house.tasks.join_next().await.is_some() {} };
    if timeout(house.limits.farewell, farewell).await.is_err() {
        tracing::debug!("control socket: connections cut off at the end");
    }
}

/// The connections that are served.
struct House {
    limits: Arc<Limits>,
    tasks: JoinSet<()>,
    places: Vec<Place>,
    closed: watch::Receiver<bool>,
}

/// One connection, as the accept loop sees it.
struct Place {
    id: Id,
    activity: Arc<Activity>,
    task: AbortHandle,
}

impl House {
    fn admit(&mut self, stream: UnixStream, router: &Router, allowed_uid: u32) {
        let router = match stream.peer_cred().map(|peer| peer.uid()) {
            Ok(uid) if uid == allowed_uid || uid == 0 => router.clone(),
            Ok(uid) => {
                tracing::warn!(uid, "control socket: a peer that may not use it");
                forbidden(uid)
            }
            // The peer is gone already, or the kernel does not tell: nobody to answer.
            Err(_) => return,
        };
        let activity = Arc::new(Activity::new());
        let connection = Connection {
            router,
            limits: Arc::clone(&self.limits),
            activity: Arc::clone(&activity),
            requests: AtomicU32::new(0),
        };
        let task = self.tasks.spawn(connection.run(stream, self.closed.clone()));
        self.places.push(Place { id: task.id(), activity, task });
    }

    fn forget(&mut self, ended: &Result<(Id, ()), tokio::task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        self.places.retain(|place| place.id != id);
    }

    /// The one that has dawdled longest: since when, and where in the list.
    fn dawdler(&self) -> Option<(Instant, usize)> {
        let dawdlers = self.places.iter().enumerate();
        dawdlers.filter_map(|(index, place)| Some((place.activity.dawdles()?, index))).min()
    }

    /// When it is worth trying to make room: when the first grace ends, or when someone may have become a dawdler.
    fn next_eviction(&self) -> Instant {
        let since = self.dawdler().map_or_else(Instant::now, |(since, _)| since);
        since.checked_add(self.limits.grace).unwrap_or(since)
    }

    fn evict(&mut self) {
        if let Some((since, index)) = self.dawdler()
            && since.elapsed() >= self.limits.grace
        {
            self.places.swap_remove(index).task.abort();
        }
    }
}

/// Since when a connection dawdles; `None` while the control plane works for it.
struct Activity(Mutex<Option<Instant>>);

impl Activity {
    fn new() -> Self {
        Self(Mutex::new(Some(Instant::now())))
    }

    fn dawdles(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// One connection, as it sees itself.
struct Connection {
    router: Router,
    limits: Arc<Limits>,
    activity: Arc<Activity>,
    requests: AtomicU32,
}

impl Connection {
    async fn run(self, stream: UnixStream, mut closed: watch::Receiver<bool>) {
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.limits.header)
            .max_buf_size(HEADER_BYTES)
            .half_close(true) // a client that said all it has to say still wants its answer
            .pipeline_flush(false);
        let service = service_fn(|request| self.answer(request));
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
        let mut stalled = pin!(self.stalled());
        let accepted = Instant::now();
        let mut closing = pin!(async {
            // An error says that the server is gone. What comes back is a lock, and not to be kept.
            drop(closed.wait_for(|closed| *closed).await);
            // Whoever has just come is about to say why, and may not want to say it twice.
            if self.requests.load(Ordering::Relaxed) == 0 {
                sleep_until(accepted.checked_add(self.limits.newcomer).unwrap_or(accepted)).await;
            }
        });
        let mut ending = false;
        loop {
            tokio::select! {
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "control socket: connection");
                    }
                    return;
                }
                () = &mut stalled => return,
                () = &mut closing, if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }

    /// Ready when the client took longer than any part of a request or answer may take.
    async fn stalled(&self) {
        loop {
            let since = self.activity.dawdles().unwrap_or_else(Instant::now);
            let end = since.checked_add(self.limits.read).unwrap_or(since);
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response, Infallible> {
        let (parts, body) = request.into_parts();
        let mut response = match self.collect(body).await {
            Ok(body) => {
                self.activity.set(None);
                let request = Request::from_parts(parts, Body::from(body));
                let Ok(response) = self.router.clone().oneshot(request).await;
                self.activity.set(Some(Instant::now()));
                response
            }
            Err(mut response) => {
                // What is left of the body is not worth reading.
                close(&mut response);
                response
            }
        };
        if self.requests.fetch_add(1, Ordering::Relaxed) >= self.limits.requests.saturating_sub(1) {
            close(&mut response);
        }
        Ok(response)
    }

    /// The whole body, within its limits of time and size.
    async fn collect(&self, body: Incoming) -> Result<Bytes, Response> {
        let limit = self.limits.body_bytes;
        match timeout(self.limits.body, Limited::new(body, limit).collect()).await {
            Ok(Ok(whole)) => Ok(whole.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                Err(fault(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than {limit} bytes")))
            }
            Ok(Err(_)) => Err(fault(StatusCode::BAD_REQUEST, "the body is cut off".to_owned())),
            Err(_) => Err(fault(StatusCode::REQUEST_TIMEOUT, "the body did not come in time".to_owned())),
        }
    }
}

fn close(response: &mut Response) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}
