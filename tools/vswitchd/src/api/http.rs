//! Paths and JSON: turns a complete HTTP request into a [`Request`] and its [`Reply`] into a response.
//!
//! Knows nothing of connections: bodies are complete and bounded when they come here (see `server`).

#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, body};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{
    Answer, ApiError, ApiErrorKind, Call, Connect, ConnectionFilter, Disconnect, ErrorBody, FdbAdd, FdbDel,
    FdbFlush, NetworkCreate, Publishing, Reply, Request,
};
use crate::api::rows::TraceAsk;

/// What there is, for whoever asks for something else.
pub const RESOURCES: &str = "/v1/fdb, /v1/fdb/flush, /v1/routes, /v1/neighbors, /v1/groups, /v1/vxlan, /v1/cluster, /v1/ports, /v1/networks, /v1/networks/NAME, \
/v1/networks/NAME/connect, /v1/networks/NAME/disconnect, /v1/containers, /v1/containers/NAME/target, /v1/nat, /v1/publish, \
/v1/connections, /v1/drops, \
/v1/stats, /v1/status, /v1/config, /v1/trace, /v1/reload, /v1/apply";

/// Longest text of a client's that is repeated to it in an error, characters.
const QUOTE: usize = 300;

/// Longest piece of an answer that is handed to a connection at once, bytes.
const PIECE: usize = 16 * 1024;

/// The control plane, as the HTTP side sees it.
#[derive(Debug, Clone)]
pub struct Calls {
    actor: mpsc::Sender<Call>,
    patience: Duration,
}

impl Calls {
    /// The actor's mailbox, and how long to wait for an answer from it.
    pub const fn new(actor: mpsc::Sender<Call>, patience: Duration) -> Self {
        Self { actor, patience }
    }

    /// Asks and waits.
    ///
    /// # Errors
    /// The actor's no; [`ApiErrorKind::Ending`] when it is gone, [`ApiErrorKind::Unavailable`] when its mailbox is full, or
    /// it takes too long or ends with the answer.
    async fn ask(&self, request: Request) -> Reply {
        let (reply, answer) = oneshot::channel();
        self.actor.try_send(Call { request, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => unavailable("too many requests at once; try again"),
            mpsc::error::TrySendError::Closed(_) => ApiError::ending(),
        })?;
        match timeout(self.patience, answer).await {
            Ok(Ok(reply)) => reply,
            // Who takes over goes on with what is in the state.
            Ok(Err(_)) => Err(unavailable("the daemon is ending; what was asked may still be done")),
            Err(_) => Err(unavailable("no answer in time; what was asked may still be done")),
        }
    }
}

fn unavailable(message: &str) -> ApiError {
    ApiError::new(ApiErrorKind::Unavailable, message)
}

/// All paths of `/v1`.
pub fn router(calls: Calls) -> Router {
    Router::new()
        .route("/v1/fdb", get(fdb).post(fdb_add).delete(fdb_del))
        .route("/v1/fdb/flush", post(fdb_flush))
        .route("/v1/routes", get(routes))
        .route("/v1/neighbors", get(neighbors))
        .route("/v1/groups", get(groups))
        .route("/v1/vxlan", get(vxlan))
        .route("/v1/cluster", get(cluster))
        .route("/v1/ports", get(ports))
        .route("/v1/networks", get(networks).post(network_create))
        .route("/v1/networks/{name}", get(network).delete(network_remove))
        .route("/v1/networks/{name}/connect", post(connect))
        .route("/v1/networks/{name}/disconnect", post(disconnect))
        .route("/v1/containers", get(containers))
        .route("/v1/containers/{name}/target", get(target))
        .route("/v1/nat", get(nat))
        .route("/v1/publish", post(publish).delete(unpublish))
        .route("/v1/connections", get(connections))
        .route("/v1/drops", get(drops))
        .route("/v1/stats", get(stats))
        .route("/v1/status", get(status))
        .route("/v1/config", get(config))
        .route("/v1/trace", post(trace))
        .route("/v1/reload", post(reload))
        .route("/v1/apply", post(apply))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(calls)
}

/// Answers everything with 403: for peers that may not ask.
pub fn forbidden(uid: u32) -> Router {
    Router::new().fallback(async move || {
        ApiError::new(ApiErrorKind::Refused, format!("user id {uid} may not use this socket"))
    })
}

async fn unknown_path(uri: axum::http::Uri) -> Response {
    let message = format!("no such resource: {}; there are {RESOURCES}", quote(uri.path()));
    ApiError::new(ApiErrorKind::NotFound, message).into_response()
}

async fn unknown_method(method: axum::http::Method, uri: axum::http::Uri) -> Response {
    let message = format!("{} cannot be used on {}", quote(method.as_str()), quote(uri.path()));
    fault(StatusCode::METHOD_NOT_ALLOWED, message)
}

async fn fdb(State(calls): State<Calls>, _: Params<Nothing>) -> Reply {
    calls.ask(Request::Fdb).await
}

async fn routes(State(calls): State<Calls>, _: Params<Nothing>) -> Reply {
    calls.ask(Request::Routes).await
}

async fn neighbors(State(calls): State<Calls>, _: Params<Nothing>) -> Reply {
    calls.ask(Request::Neighbors).await
}

async fn vxlan(State(calls): State<Calls>, _: Params<Nothing>) -> Reply {
    calls.ask(Request::Vxlan).await
}

async fn cluster(State(calls): State<Calls>, _: Params<Nothing>) -> Reply {
    calls.ask(Request::Cluster).await
}

async fn groups(State(calls): State<Calls>, _: Params<Nothing>) -> Reply {
    calls.ask(Request::Groups).await
}

async fn fdb_add(State(calls): State<Calls>, _: Params<Nothing>, Body(entry): Body<FdbAdd>) -> Reply {
    calls.ask(Request::FdbAdd(entry)).await
}

/// The entry is named in the query (`curl -X DELETE`) or in the body, not in both.
async fn fdb_del(State(calls): State<Calls>, request: axum::extract::Request) -> Reply {
    let (mut parts, content) = request.into_parts();
    let named = if parts.uri.query().is_some() {
        let Params(entry) = Params::<FdbDel>::from_request_parts(&mut parts, &calls).await?;
        let Body(Nothing {}) =
            Body::from_request(axum::extract::Request::from_parts(parts, content), &calls).await?;
        entry
    } else {
        Body::from_request(axum::extract::Request::from_parts(parts, content), &calls).await?.0
    };
    calls.ask(Request::FdbDel(named)).await
}

async fn fdb_flush(State(calls): State<Calls>, _: Params<Nothing>, Body(which): Body<FdbFlush>) -> Reply {
    calls.ask(Request::FdbFlush(which)).await
}

async fn ports(State(calls): State<Calls>, _: Params<Nothing>) -> Reply {
    calls.ask(Request::Ports).await
}

async fn networks(State(calls): State<Calls>, _: Params<Nothing>) -> Reply {
    calls.ask(Request::Networks).await
}

async fn network_create(
    State(calls): State<Calls>,
    _: Params<Nothing>,
    Body(network): Body<NetworkCreate>,
) -> Reply {
    calls.ask(Request::NetworkCreate(network)).await
}

async fn network(State(calls): State<Calls>, Name(name): Name, _: Params<Nothing>) -> Reply {
    calls.ask(Request::Network { name }).await
}

async fn network_remove(
    State(calls): State<Calls>,
    Name(name): Name,
    _: Params<Nothing>,
    _: Body<Nothing>,
) -> Reply {
    calls.ask(Request::NetworkRemove { name }).await
}

async fn connect(
    State(calls): State<Calls>,
    Name(network): Name,
    _: Params<Nothing>,
    Body(interface): Body<Connect>,
) -> Reply {
    calls.ask(Request::Connect { network, interface }).await
}

async fn disconnect(
    State(calls): State<Calls>,
    Name(network): Name,
    _: Params<Nothing>,
    Body(interface): Body<Disconnect>,
) -> Reply {
    calls.ask(Request::Disconnect { network, interface }).await
}

async fn containers(State(calls): State<Calls>, _: Params<Nothing>) -> Reply {
    calls.ask(Request::Containers).await
}

async fn target(State(calls): State<Calls>, Name(container): Name, _: Params<Nothing>) -> Reply {
    calls.ask(Request::Target { container }).await
}

async fn nat(State(calls): State<Calls>, _: Params<Nothing>) -> Reply {
    calls.ask(Request::Nat).await
}

async fn publish(State(calls): State<Calls>, _: Params<Nothing>, Body(wanted): Body<Publishing>) -> Reply {
    calls.ask(Request::Publish(wanted)).await
}

async fn unpublish(State(calls): State<Calls>, _: Params<Nothing>, Body(gone): Body<Publishing>) -> Reply {
    calls.ask(Request::Unpublish(gone)).await
}

async fn connections(State(calls): State<Calls>, Params(filter): Params<ConnectionFilter>) -> Reply {
    calls.ask(Request::Connections(filter)).await
}

/// `?ports=true`: for each port apart.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DropsQuery {
    #[serde(default)]
    ports: bool,
}

async fn drops(State(calls): State<Calls>, Params(query): Params<DropsQuery>) -> Reply {
    calls.ask(Request::Drops { ports: query.ports }).await
}

async fn stats(State(calls): State<Calls>, _: Params<Nothing>) -> Reply {
    calls.ask(Request::Stats).await
}

async fn status(State(calls): State<Calls>, _: Params<Nothing>) -> Reply {
    calls.ask(Request::Status).await
}

async fn config(State(calls): State<Calls>, _: Params<Nothing>) -> Reply {
    calls.ask(Request::Config).await
}

async fn trace(State(calls): State<Calls>, _: Params<Nothing>, Body(what): Body<TraceAsk>) -> Reply {
    calls.ask(Request::Trace(what)).await
}

async fn reload(State(calls): State<Calls>, _: Params<Nothing>, _: Body<Nothing>) -> Reply {
    calls.ask(Request::Reload).await
}

/// `?name=lab.toml`: what to call the text in messages.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplyQuery {
    #[serde(default = "unnamed")]
    name: String,
}

fn unnamed() -> String {
    "-".to_owned()
}

async fn apply(State(calls): State<Calls>, Params(query): Params<ApplyQuery>, content: body::Bytes) -> Reply {
    let text = String::from_utf8(content.into()).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(at).filter(|&&byte| byte == b'\n').count().saturating_add(1);
        invalid(format!("{}:{line}: the text is not UTF-8 (byte {at})", quote(&query.name)))
    })?;
    calls.ask(Request::Apply { name: query.name, text }).await
}

/// No parameter, no field: an unknown one is an error everywhere.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// The query.
struct Params<T>(T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(query)) => Ok(Self(query)),
            Err(error) => Err(invalid(format!("query: {}", quote(cause(&error))))),
        }
    }
}

/// The body as JSON; an empty body is an empty object.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, ApiError> {
        let content =
            body::Bytes::from_request(request, state).await.map_err(|error| invalid(cause(&error)))?;
        let content: &[u8] = if content.is_empty() { b"{}" } else { &content };
        match serde_json::from_slice(content) {
            Ok(value) => Ok(Self(value)),
            Err(error) => Err(invalid(format!("body: {}", quote(error)))),
        }
    }
}

/// The name in a path, percent-decoded.
struct Name(String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let name: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        name.map(|Path(name)| Self(name)).map_err(|error| invalid(quote(error.body_text())))
    }
}

fn invalid(message: String) -> ApiError {
    ApiError::new(ApiErrorKind::Invalid, message)
}

/// The innermost cause: what axum wraps around it says less.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// A client's text, short and on one line.
fn quote(text: impl Display) -> String {
    let text = text.to_string();
    let mut short: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTE).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        json(StatusCode::OK, &self)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match self.kind {
            ApiErrorKind::NotFound => StatusCode::NOT_FOUND,
            ApiErrorKind::Conflict => StatusCode::CONFLICT,
            ApiErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ApiErrorKind::Refused => StatusCode::FORBIDDEN,
            ApiErrorKind::Unavailable | ApiErrorKind::Ending => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut response = json(status, &ErrorBody { error: self.message, details: self.details });
        if self.kind == ApiErrorKind::Ending {
            // RFC 9110 section 10.2.3: seconds.
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(0));
        }
        response
    }
}

/// A no that is HTTP's own, not the control plane's.
pub fn fault(status: StatusCode, message: String) -> Response {
    json(status, &ErrorBody { error: message, details: Vec::new() })
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut content) => {
            content.push(b'\n');
            let kind = HeaderValue::from_static("application/json");
            let length = HeaderValue::from(content.len());
            let head = [(header::CONTENT_TYPE, kind), (header::CONTENT_LENGTH, length)];
            (status, head, in_pieces(content.into())).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// hyper takes a body of one piece as written when it is merely queued, and begins to count the time until the next
/// request: a client that reads a long answer slowly would be cut off.
fn in_pieces(mut content: body::Bytes) -> body::Body {
    let pieces = std::iter::from_fn(move || {
        let piece = content.split_to(content.len().min(PIECE));
        (!piece.is_empty()).then_some(Ok::<_, std::convert::Infallible>(piece))
    });
    body::Body::from_stream(futures_util::stream::iter(pieces))
}
