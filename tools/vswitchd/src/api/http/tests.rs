use super::*;
use crate::api::rows::{Done, Spoof, TcpFlag, TraceDescribed};
use proptest::prelude::*;

/// Sends one request to the paths; gives what the actor was asked, and the answer.
async fn ask(method: &str, uri: &str, content: Vec<u8>) -> (Option<Request>, StatusCode, serde_json::Value) {
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
                from: Some("web".into()),
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
            "/v1/nothing",
            b"",
            StatusCode::NOT_FOUND,
            "no such resource: /v1/nothing; there are /v1/fdb",
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
        ("POST", "/v1/networks", br#"{"name":"a","mtu":1e999}"#, StatusCode::UNPROCESSABLE_ENTITY, "number"),
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
    assert_eq!((dead.kind, dead.message.contains("ending")), (ApiErrorKind::Ending, true));
    // Nothing was begun, which a client is told in HTTP's own words.
    assert_eq!(dead.into_response().headers()["retry-after"], "0");
    let (sender, mut mailbox) = mpsc::channel(1);
    let calls = Calls::new(sender, Duration::from_secs(20));
    let (begun, ()) = tokio::join!(calls.ask(Request::Fdb), async { drop(mailbox.recv().await) });
    let begun = begun.unwrap_err();
    assert_eq!((begun.kind, begun.message.contains("may still")), (ApiErrorKind::Unavailable, true));

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
    let response = ApiError::faults("2 faults", vec!["a:1:1: x".into(), "a:2:1: y".into()]).into_response();
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
