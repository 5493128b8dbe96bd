//! Answers for the operator, in no vendor's dialect: the public health check, and the texts of the operator's own
//! listener (`server/operator.rs`).

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    header::{self, HeaderValue},
};

use crate::{delivery::Body, metrics};

/// Answers as long as the process can answer at all. `server` names this run of it, so that a probe knows
/// whom it reached.
pub fn health(server: &str) -> Response<Body> {
    let text = serde_json::json!({ "status": "ok", "server": server }).to_string();
    let json = HeaderValue::from_static("application/json");
    answer(StatusCode::OK, json, text)
}

/// The answer to a browser's preflight. Its CORS headers are those of every answer.
pub fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}

/// A word or a line for people and probes.
pub fn text(status: StatusCode, words: &str) -> Response<Body> {
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer(status, plain, format!("{words}\n"))
}

/// There is such a path, with these methods alone.
pub fn only(methods: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    let allow = HeaderValue::from_static(methods);
    response.headers_mut().insert(header::ALLOW, allow);
    response
}

/// What Prometheus scrapes.
pub fn metrics(text: String) -> Response<Body> {
    let exposition = HeaderValue::from_static(metrics::CONTENT_TYPE);
    answer(StatusCode::OK, exposition, text)
}

fn answer(status: StatusCode, content_type: HeaderValue, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
