//! What holds for any request to the control API: of the corpus and of the fuzz target alike. A request is written as
//! `METHOD URI`, a line end, and the body.

#![allow(clippy::panic, clippy::unwrap_used, reason = "the lints know `#[test]`, not what it calls")]

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request as HttpRequest, StatusCode};
use serde_json::Value;
use tokio::sync::mpsc;
use tower::ServiceExt;
use vswitchd::api::http::{Calls, router};
use vswitchd::api::rows::Done;
use vswitchd::api::{Answer, Call, Request};

/// Answers the request, and panics where the answer is not one to work with. What the control plane was asked for;
/// `None` where the request was refused before, or is not HTTP at all.
pub fn check(text: &[u8]) -> Option<Request> {
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    let line = std::str::from_utf8(&text[..end]).ok()?;
    let (method, uri) = line.split_once(' ')?;
    let body = text.get(end + 1..).unwrap_or_default().to_vec();
    let request = HttpRequest::builder().method(method).uri(uri).body(Body::from(body)).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (asked, status, content) = runtime.block_on(answer(request));
    assert_eq!(asked.is_some(), status == StatusCode::OK, "{status} {content:?}");
    if asked.is_none() && method != "HEAD" {
        let value: Value = serde_json::from_slice(&content).unwrap();
        let said = value["error"].as_str().unwrap();
        assert!(status.is_client_error(), "{status} {said}");
        assert!(!said.is_empty() && !said.contains(['\n', '\r', '\0', '\u{1b}']), "{said:?}");
        assert!(said.len() < 4096, "{} bytes", said.len());
    }
    asked
}

async fn answer(request: HttpRequest<Body>) -> (Option<Request>, StatusCode, Vec<u8>) {
    let (sender, mut mailbox) = mpsc::channel::<Call>(1);
    let response = tokio::spawn(router(Calls::new(sender, Duration::from_secs(5))).oneshot(request));
    let mut asked = None;
    if let Some(call) = mailbox.recv().await {
        asked = Some(call.request);
        call.reply.send(Ok(Answer::Done(Done::default()))).unwrap();
    }
    let response = response.await.unwrap().unwrap();
    let status = response.status();
    (asked, status, to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec())
}
