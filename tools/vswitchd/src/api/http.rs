//! Paths and JSON: turns a complete HTTP request into a [`Request`] and its [`Reply`] into a response.
//!
//! Knows nothing of connections: bodies are complete and bounded when they come here (see `server`).

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
pub const RESOURCES: &str = "/v1/fdb, /v1/fdb/flush, /v1/routes, /v1/neighbors, /v1/groups, /v1/ports, /v1/networks, /v1/networks/NAME, \
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
    /// The actor's no; [`ApiErrorKind::Unavailable`] when its mailbox is full, it is gone, or takes too long.
    async fn ask(&self, request: Request) -> Reply {
        let (reply, answer) = oneshot::channel();
        self.actor.try_send(Call { request, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => unavailable("too many requests at once; try again"),
            mpsc::error::TrySendError::Closed(_) => unavailable("the daemon is ending"),
        })?;
        match timeout(self.patience, answer).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(unavailable("the daemon is ending")),
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
            ApiErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        json(status, &ErrorBody { error: self.message, details: self.details })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::rows::{Done, Spoof, TcpFlag, TraceDescribed};
    use proptest::prelude::*;

    /// Sends one request to the paths; gives what the actor was asked, and the answer.
    async fn ask(
        method: &str,
        uri: &str,
        content: Vec<u8>,
    ) -> (Option<Request>, StatusCode, serde_json::Value) {
        let (sender, mut mailbox) = mpsc::channel::<Call>(1);
        let request =
            axum::http::Request::builder().method(method).uri(uri).body(body::Body::from(content)).unwrap();
        let response = router(Calls::new(sender, Duration::from_secs(5)));
        let response = tokio::spawn(tower::ServiceExt::oneshot(response, request));
        let mut asked = None;
        if let Some(call) = mailbox.recv().await {
            asked = Some(call.request);
            call.reply.send(Ok(Answer::Done(Done::default()))).unwrap();
        }
        let response = response.await.unwrap().unwrap();
        let status = response.status();
        let content = body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (asked, status, serde_json::from_slice(&content).unwrap())
    }

    fn text(error: &serde_json::Value) -> &str {
        error["error"].as_str().unwrap()
    }

    #[tokio::test]
    async fn every_resource_asks_for_its_own() {
        let mac = "02:42:0a:01:00:0a".parse().unwrap();
        let blue = || "blue".to_owned();
        let del = |vlan| Request::FdbDel(FdbDel { network: blue(), mac, vlan });
        let connect = Connect {
            container: "web".into(),
            ip: Some([10, 1, 0, 5].into()),
            mac: Some(mac),
            ..Connect::default()
        };
        let create = NetworkCreate {
            name: blue(),
            subnet: Some("10.1.0.0/24".parse().unwrap()),
            spoof: Some(Spoof::Strict),
            ..NetworkCreate::default()
        };
        let add = FdbAdd { network: blue(), mac, container: "web".into(), interface: None, vlan: Some(10) };
        let publish_json = r#"{"container":"web","publish":["8080:80","[::1]:0:53/udp"]}"#;
        let publishing = || Publishing {
            container: "web".into(),
            interface: None,
            publish: vec!["8080:80/tcp".parse().unwrap(), "[::1]:0:53/udp".parse().unwrap()],
        };
        let mac_json = r#""mac":"02:42:0a:01:00:0a""#;
        let cases: Vec<(&str, &str, String, Request)> = vec![
            ("GET", "/v1/fdb", String::new(), Request::Fdb),
            ("GET", "/v1/routes", String::new(), Request::Routes),
            ("GET", "/v1/neighbors", String::new(), Request::Neighbors),
            ("GET", "/v1/groups", String::new(), Request::Groups),
            ("GET", "/v1/ports", String::new(), Request::Ports),
            ("GET", "/v1/networks", String::new(), Request::Networks),
            ("GET", "/v1/networks/a%2Fb", String::new(), Request::Network { name: "a/b".into() }),
            ("GET", "/v1/containers", String::new(), Request::Containers),
            ("GET", "/v1/containers/web/target", String::new(), Request::Target { container: "web".into() }),
            ("GET", "/v1/drops", String::new(), Request::Drops { ports: false }),
            ("GET", "/v1/drops?ports=true", String::new(), Request::Drops { ports: true }),
            ("GET", "/v1/nat", String::new(), Request::Nat),
            ("GET", "/v1/connections", String::new(), Request::Connections(ConnectionFilter::default())),
            (
                "GET",
                "/v1/connections?container=web&protocol=udp&port=53",
                String::new(),
                Request::Connections(ConnectionFilter {
                    container: Some("web".into()),
                    protocol: Some(crate::api::rows::Transport::Udp),
                    port: Some(53),
                }),
            ),
            ("POST", "/v1/publish", publish_json.into(), Request::Publish(publishing())),
            ("DELETE", "/v1/publish", publish_json.into(), Request::Unpublish(publishing())),
            ("GET", "/v1/stats", String::new(), Request::Stats),
            ("GET", "/v1/status", String::new(), Request::Status),
            ("GET", "/v1/config", String::new(), Request::Config),
            ("POST", "/v1/reload", String::new(), Request::Reload),
            (
                "POST",
                "/v1/trace",
                r#"{"from":"web","packet":{"to":"10.2.0.3","tcp":443,"flags":["syn"]}}"#.into(),
                Request::Trace(TraceAsk {
                    from: "web".into(),
                    packet: Some(TraceDescribed {
                        to: [10, 2, 0, 3].into(),
                        tcp: Some(443),
                        flags: vec![TcpFlag::Syn],
                        ..TraceDescribed::default()
                    }),
                    ..TraceAsk::default()
                }),
            ),
            (
                "POST",
                "/v1/apply?name=lab.toml",
                "[daemon]\n".into(),
                Request::Apply { name: "lab.toml".into(), text: "[daemon]\n".into() },
            ),
            (
                "POST",
                "/v1/fdb",
                format!(r#"{{"network":"blue",{mac_json},"container":"web","vlan":10}}"#),
                Request::FdbAdd(add),
            ),
            ("DELETE", "/v1/fdb?network=blue&mac=02:42:0a:01:00:0a&vlan=10", String::new(), del(Some(10))),
            ("DELETE", "/v1/fdb", format!(r#"{{"network":"blue",{mac_json}}}"#), del(None)),
            ("POST", "/v1/fdb/flush", String::new(), Request::FdbFlush(FdbFlush::default())),
            (
                "POST",
                "/v1/networks",
                r#"{"name":"blue","subnet":"10.1.0.0/24","spoof":"strict"}"#.into(),
                Request::NetworkCreate(create),
            ),
            ("DELETE", "/v1/networks/blue", String::new(), Request::NetworkRemove { name: blue() }),
            (
                "POST",
                "/v1/networks/blue/connect",
                format!(r#"{{"container":"web","ip":"10.1.0.5",{mac_json}}}"#),
                Request::Connect { network: blue(), interface: connect },
            ),
            (
                "POST",
                "/v1/networks/blue/disconnect",
                r#"{"container":"web"}"#.into(),
                Request::Disconnect {
                    network: blue(),
                    interface: Disconnect { container: "web".into(), interface: None },
                },
            ),
        ];
        for (method, uri, content, wanted) in cases {
            let (asked, status, answer) = ask(method, uri, content.into_bytes()).await;
            assert_eq!(asked, Some(wanted), "{method} {uri}: {answer}");
            assert_eq!(status, StatusCode::OK, "{method} {uri}");
        }
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_named_and_never_reaches_the_actor() {
        let deep = format!(r#"{{"name":{}"#, "[".repeat(200_000));
        let cases: &[(&str, &str, &[u8], StatusCode, &str)] = &[
            (
                "GET",
                "/v1/vxlan",
                b"",
                StatusCode::NOT_FOUND,
                "no such resource: /v1/vxlan; there are /v1/fdb",
            ),
            (
                "POST",
                "/v1/publish",
                br#"{"container":"web","publish":["80"]}"#,
                StatusCode::UNPROCESSABLE_ENTITY,
                "the host's l4 port stands before it",
            ),
            ("GET", "/v1/connections?protocol=x", b"", StatusCode::UNPROCESSABLE_ENTITY, "query: "),
            ("GET", "/", b"", StatusCode::NOT_FOUND, "/v1/status"),
            ("PUT", "/v1/fdb", b"", StatusCode::METHOD_NOT_ALLOWED, "PUT cannot be used on /v1/fdb"),
            ("GET", "/v1/fdb?network=x", b"", StatusCode::UNPROCESSABLE_ENTITY, "unknown field `network`"),
            ("GET", "/v1/drops?ports=2", b"", StatusCode::UNPROCESSABLE_ENTITY, "query: "),
            ("GET", "/v1/networks/%ff", b"", StatusCode::UNPROCESSABLE_ENTITY, "UTF-8"),
            ("POST", "/v1/networks", br#"{"name":"a","mtuu":1}"#, StatusCode::UNPROCESSABLE_ENTITY, "`mtuu`"),
            (
                "POST",
                "/v1/networks",
                br#"{"name":"a","mtu":1e999}"#,
                StatusCode::UNPROCESSABLE_ENTITY,
                "number",
            ),
            (
                "POST",
                "/v1/networks",
                br#"{"name":"a","mtu":99999999999999999999999999}"#,
                StatusCode::UNPROCESSABLE_ENTITY,
                "line 1 column",
            ),
            ("POST", "/v1/networks", br#"{"name":"a","mtu":-1}"#, StatusCode::UNPROCESSABLE_ENTITY, "`-1`"),
            ("POST", "/v1/networks", b"{\"name\":\"\xff\"}", StatusCode::UNPROCESSABLE_ENTITY, "unicode"),
            ("POST", "/v1/networks", b"{}", StatusCode::UNPROCESSABLE_ENTITY, "missing field `name`"),
            ("POST", "/v1/networks", b"[]x", StatusCode::UNPROCESSABLE_ENTITY, "body: "),
            ("POST", "/v1/networks", deep.as_bytes(), StatusCode::UNPROCESSABLE_ENTITY, "body: "),
            ("POST", "/v1/fdb/flush", br#"{"vlan":4095}"#, StatusCode::UNPROCESSABLE_ENTITY, "1 to 4094"),
            (
                "POST",
                "/v1/fdb/flush",
                br#"{"vlan":1,"vlan":1}"#,
                StatusCode::UNPROCESSABLE_ENTITY,
                "duplicate field",
            ),
            ("DELETE", "/v1/fdb?network=a&mac=zz", b"", StatusCode::UNPROCESSABLE_ENTITY, "MAC address"),
            (
                "DELETE",
                "/v1/fdb?network=a&mac=02:42:0a:01:00:0a",
                br#"{"vlan":3}"#,
                StatusCode::UNPROCESSABLE_ENTITY,
                "`vlan`",
            ),
            ("POST", "/v1/reload", br#"{"x":1}"#, StatusCode::UNPROCESSABLE_ENTITY, "`x`"),
            ("POST", "/v1/apply?name=l.toml", b"a\nb\xff", StatusCode::UNPROCESSABLE_ENTITY, "l.toml:2: "),
        ];
        for (method, uri, content, wanted, words) in cases {
            let (asked, status, answer) = ask(method, uri, content.to_vec()).await;
            assert_eq!(asked, None, "{method} {uri}");
            assert_eq!(status, *wanted, "{method} {uri}: {answer}");
            assert!(text(&answer).contains(words), "{method} {uri}: {answer}");
            assert!(!text(&answer).contains('\n'), "one line: {answer}");
            assert!(text(&answer).len() < 900, "short: {answer}");
        }
    }

    #[tokio::test]
    async fn a_full_or_dead_actor_is_unavailable() {
        let (sender, mailbox) = mpsc::channel(1);
        let calls = Calls::new(sender.clone(), Duration::from_millis(1));
        let (reply, _answer) = oneshot::channel();
        sender.try_send(Call { request: Request::Fdb, reply }).unwrap();
        let full = calls.ask(Request::Fdb).await.unwrap_err();
        assert_eq!((full.kind, full.message.contains("too many")), (ApiErrorKind::Unavailable, true));
        drop(mailbox);
        let dead = calls.ask(Request::Fdb).await.unwrap_err();
        assert_eq!((dead.kind, dead.message.contains("ending")), (ApiErrorKind::Unavailable, true));

        let (sender, _mailbox) = mpsc::channel(1);
        let silent = Calls::new(sender, Duration::from_millis(1)).ask(Request::Fdb).await.unwrap_err();
        assert_eq!((silent.kind, silent.message.contains("in time")), (ApiErrorKind::Unavailable, true));
    }

    #[tokio::test]
    async fn a_no_has_its_status_and_its_details() {
        for (kind, status) in [
            (ApiErrorKind::NotFound, 404),
            (ApiErrorKind::Conflict, 409),
            (ApiErrorKind::Invalid, 422),
            (ApiErrorKind::Refused, 403),
            (ApiErrorKind::Unavailable, 503),
        ] {
            assert_eq!(ApiError::new(kind, "no").into_response().status(), status);
        }
        let response =
            ApiError::faults("2 faults", vec!["a:1:1: x".into(), "a:2:1: y".into()]).into_response();
        let content = body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!(content, "{\"error\":\"2 faults\",\"details\":[\"a:1:1: x\",\"a:2:1: y\"]}\n");
    }

    proptest! {
        #[test]
        fn any_body_is_answered(
            method in prop::sample::select(vec!["GET", "POST", "DELETE"]),
            uri in prop::sample::select(vec![
                "/v1/fdb", "/v1/fdb/flush", "/v1/networks", "/v1/networks/x", "/v1/networks/x/connect",
                "/v1/networks/x/disconnect", "/v1/reload", "/v1/apply", "/v2", "/v1/fdb?mac=%f0%28&network=+",
            ]),
            content: Vec<u8>,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let (asked, status, _) = runtime.block_on(ask(method, uri, content));
            prop_assert_eq!(asked.is_some(), status == StatusCode::OK);
        }
    }
}
